//! Identifiers: prefixed, sortable by creation time, opaque to callers.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! id_types {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The prefix every id of this kind starts with, underscore included.
            pub const PREFIX: &'static str = $prefix;

            /// Wraps an id read from the database or from a caller. Nothing is checked: an id that
            /// names no row is simply not found.
            pub fn from_raw(raw: impl Into<Arc<str>>) -> Self {
                Self(raw.into())
            }

            /// The id as it is stored and shown.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(Self(String::deserialize(deserializer)?.into()))
            }
        }
    )*};
}

id_types! {
    /// An installation (`in_…`): an org's grant at a provider. Called a connection on the wire.
    InstallationId = "in_";
    /// A resource (`res_…`): a thing at the provider that emits events.
    ResourceId = "res_";
    /// An integration (`int_…`): one workspace's subscription to one resource.
    IntegrationId = "int_";
    /// An event (`evt_…`): a verified, stored webhook.
    EventId = "evt_";
    /// A delivery (`dlv_…`): one event on its way to one integration.
    DeliveryId = "dlv_";
    /// An attempt (`att_…`): one HTTP try of a delivery.
    AttemptId = "att_";
    /// An API key (`key_…`); names the key, is not the key.
    KeyId = "key_";
    /// A destination (`dst_…`): URL and signing secret that receive envelopes.
    DestinationId = "dst_";
    /// A webhook in quarantine (`qtn_…`).
    QuarantineId = "qtn_";
    /// A row of the lifecycle and audit log (`log_…`).
    LogId = "log_";
    /// An org: opaque, owned by the caller.
    OrgId = "";
    /// A workspace: opaque, owned by the caller, scoped by org.
    WorkspaceId = "";
}

impl DestinationId {
    /// The destination described by `[delivery] url` in the configuration.
    pub fn configured_default() -> Self {
        Self::from_raw("dst_default")
    }
}
