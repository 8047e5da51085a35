//! Identifiers: prefixed, sortable by creation time, opaque to callers.

use super::opaque_text::opaque_text;

opaque_text! {
    fn from_raw;

    /// An installation (`in_…`): an org's grant at a provider. Called a connection on the wire.
    InstallationId;
    /// A resource (`res_…`): a thing at the provider that emits events.
    ResourceId;
    /// An integration (`int_…`): one workspace's subscription to one resource.
    IntegrationId;
    /// An event (`evt_…`): a verified, stored webhook.
    EventId;
    /// A delivery (`dlv_…`): one event on its way to one integration.
    DeliveryId;
    /// An attempt (`att_…`): one HTTP try of a delivery.
    AttemptId;
    /// An API key (`key_…`); names the key, is not the key.
    KeyId;
    /// A destination (`dst_…`): URL and signing secret that receive envelopes.
    DestinationId;
    /// A webhook in quarantine (`qtn_…`).
    QuarantineId;
    /// A row of the lifecycle and audit log (`log_…`).
    LogId;
    /// A run of the backfill service (`bfr_…`).
    BackfillRunId;
    /// A comparison of a provider's delivery log with ours (`heal_…`).
    HealRunId;
    /// An org: opaque, owned by the caller.
    OrgId;
    /// A workspace: opaque, owned by the caller, scoped by org.
    WorkspaceId;
}

macro_rules! prefixes {
    ($($name:ident = $prefix:literal;)*) => {$(
        impl $name {
            /// The prefix every id of this kind starts with, underscore included.
            pub const PREFIX: &'static str = $prefix;
        }
    )*};
}

prefixes! {
    InstallationId = "in_";
    ResourceId = "res_";
    IntegrationId = "int_";
    EventId = "evt_";
    DeliveryId = "dlv_";
    AttemptId = "att_";
    KeyId = "key_";
    DestinationId = "dst_";
    QuarantineId = "qtn_";
    LogId = "log_";
    BackfillRunId = "bfr_";
    HealRunId = "heal_";
}

impl DestinationId {
    /// The destination described by `[delivery] url` in the configuration.
    pub fn configured_default() -> Self {
        Self::from_raw("dst_default")
    }
}
