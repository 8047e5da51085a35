//! Changes as nodes tell each other of them.
//!
//! **Owns** the text of a notification. **Invariants**: what cannot be read is [`Change::Unknown`], never ignored.
//! **Must not know** how the text travels.

use super::Change;
use crate::model::ids::{InstallationId, OrgId};

/// The PostgreSQL channel.
pub(crate) const CHANNEL: &str = "signalbox_changes";

const INSTALLATION: &str = "installation:";
const DESTINATIONS: &str = "destinations:";
const KEYS: &str = "keys";

impl Change {
    /// The text other nodes receive.
    pub(crate) fn to_notification(&self) -> String {
        match self {
            Self::Installation(id) => format!("{INSTALLATION}{id}"),
            Self::Destinations(org) => format!("{DESTINATIONS}{org}"),
            Self::Keys => KEYS.into(),
            Self::Unknown => "unknown".into(),
        }
    }

    /// The change that text tells of.
    pub(crate) fn from_notification(text: &str) -> Self {
        if let Some(id) = text.strip_prefix(INSTALLATION) {
            Self::Installation(InstallationId::from_raw(id))
        } else if let Some(org) = text.strip_prefix(DESTINATIONS) {
            Self::Destinations(OrgId::from_raw(org))
        } else if text == KEYS {
            Self::Keys
        } else {
            Self::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_survives_the_way_to_another_node() {
        for change in [
            Change::Installation(InstallationId::from_raw("in_1")),
            Change::Destinations(OrgId::from_raw("org:with:colons")),
            Change::Keys,
            Change::Unknown,
        ] {
            assert_eq!(Change::from_notification(&change.to_notification()), change);
        }
        assert_eq!(Change::from_notification("of a newer release"), Change::Unknown);
    }
}
