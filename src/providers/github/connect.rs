//! GitHub's asking half.

use std::sync::Arc;

use super::GitHub;
use crate::providers::{Connector, ConnectorSettingError, ConnectorSettings, HttpClient};

impl GitHub {
    /// Its connector.
    pub(in crate::providers) fn connect(
        _settings: &ConnectorSettings,
        _http: &HttpClient,
    ) -> Result<Arc<dyn Connector>, ConnectorSettingError> {
        Err(ConnectorSettingError { provider: "github", setting: "client_id", problem: "is not read yet".into() })
    }
}
