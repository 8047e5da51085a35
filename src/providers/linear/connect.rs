//! Linear's asking half.

use std::sync::Arc;

use super::Linear;
use crate::providers::{Connector, ConnectorSettingError, ConnectorSettings, HttpClient};

impl Linear {
    /// Its connector.
    pub(in crate::providers) fn connect(
        _settings: &ConnectorSettings,
        _http: &HttpClient,
    ) -> Result<Arc<dyn Connector>, ConnectorSettingError> {
        Err(ConnectorSettingError { provider: "linear", setting: "client_id", problem: "is not read yet".into() })
    }
}
