//! Shapes of webhooks, events, deliveries and dead letters.

use serde_json::Value;
use utoipa::ToSchema;

use super::{
    AttemptResult, ConnectionStatus, ConsideredReason, DeliveryReason, DeliveryStatus, EventOutcome, EventReason, Time,
    extended, shapes,
};

shapes! {
    /// What became of a webhook.
    WebhookReceipt {
        /// `accepted`, `duplicate`, or `set_aside` for one that could not be handled and waits in quarantine.
        status: String,
    }, sometimes {
        /// The provider's id of the delivery.
        delivery_id: String,
        event_id: String,
        outcome: EventOutcome,
        /// Stored until it is released.
        held: bool,
        quarantine_id: String,
    }

    /// A webhook of a trusted writer, with a service key.
    TrustedWebhook {
        connection_id: String,
        org_id: String,
        /// The provider's id of the delivery: the same one again is a duplicate.
        delivery_id: String,
        event_type: String,
        /// Forwarded byte for byte.
        #[schema(value_type = Object)]
        payload: Value,
        /// Milliseconds since the epoch; below 1e12, seconds.
        received_at: f64,
    }

    /// A verified, stored webhook.
    Event {
        /// `evt_…`
        id: String,
        /// The provider's slug.
        provider: String,
        /// The provider's id of the delivery.
        delivery_id: String,
        /// The provider's word.
        event_type: String,
        /// Ours.
        event_key: Option<String>,
        connection_id: Option<String>,
        org_id: Option<String>,
        /// The account the payload names.
        external_id: Option<String>,
        /// The resources the payload names.
        provider_resource_ids: Vec<String>,
        outcome: EventOutcome,
        reason: Option<EventReason>,
        /// Its bytes came before under another delivery id.
        possible_replay: bool,
        held: bool,
        received_at: Time,
        correlation_id: String,
    }

    /// What is shown of an event beside the event.
    EventParts {
        content_type: Option<String>,
        /// The webhook's headers, without secrets.
        headers: Value,
        deliveries: Vec<Delivery>,
    }

    /// An event on its way to an integration.
    Delivery {
        /// `dlv_…`, the `webhook-id` of every attempt.
        id: String,
        integration_id: String,
        workspace_id: String,
        resource_id: String,
        destination_id: Option<String>,
        status: DeliveryStatus,
        reason: Option<DeliveryReason>,
        replay: bool,
        attempt_count: u64,
        due_at: Option<Time>,
        created_at: Time,
        finished_at: Option<Time>,
        attempts: Vec<Attempt>,
    }

    /// One try of a delivery.
    Attempt {
        id: String,
        number: u64,
        started_at: Time,
        duration_ms: u64,
        /// `delivered`, `gone`, `http_status`, `timeout`, …
        result: AttemptResult,
        status_code: Option<u16>,
        error: Option<String>,
        /// The beginning of it.
        response_body: Option<String>,
    }

    /// Which integrations to send an event to again.
    ReplayRequest {}, sometimes {
        /// All of them, if absent.
        integration_ids: Vec<String>,
    }

    /// New deliveries of an event.
    Replayed {
        /// `replayed`, or `empty` if there is nobody to send it to.
        status: String,
        event_id: String,
        deliveries: Vec<ReplayedDelivery>,
    }

    /// A new delivery.
    ReplayedDelivery { id: String, integration_id: String, }

    /// A delivery is due again.
    Retried {
        /// `pending`
        status: String,
        id: String,
        event_id: String,
    }

    /// The whole decision about an event.
    Explanation {
        event: Event,
        event_id: String,
        outcome: EventOutcome,
        reason: Option<EventReason>,
        /// `{"secret": {"index": n}}`, 0 the newest secret, or `"serviceKey"`.
        verified_by: Value,
        dedup: Dedup,
        installation: Option<DecidedInstallation>,
        resources: Vec<DecidedResource>,
        considered: Vec<Considered>,
    }

    /// Whether the webhook came before.
    Dedup {
        /// `new` or `possible_replay`
        verdict: String,
        delivery_id: String,
    }

    /// The connection an event was routed within.
    DecidedInstallation {
        id: String,
        status: ConnectionStatus,
        /// How it was found: `external_id`, `alternate_external_id`, `resource` or `connection_id`.
        matched_by: String,
    }

    /// A linked resource an event concerns.
    DecidedResource { id: String, provider_resource_id: String, }

    /// An integration that was considered, and its one reason.
    Considered {
        integration_id: String,
        workspace_id: String,
        resource_id: String,
        /// The state of its newest delivery, or why it was to get none; a replay changes nothing in that.
        reason: ConsideredReason,
        /// Oldest first, those of replays included.
        deliveries: Vec<ConsideredDelivery>,
    }

    /// A delivery in an explanation.
    ConsideredDelivery { id: String, status: DeliveryStatus, reason: Option<DeliveryReason>, replay: bool, }

    /// A delivery with what says which event it is of.
    ListedDelivery {
        /// `dlv_…`, the `webhook-id` of every attempt.
        id: String,
        provider: String,
        /// The provider's id of the delivery.
        delivery_id: String,
        event_id: String,
        event_type: String,
        event_key: Option<String>,
        connection_id: Option<String>,
        org_id: String,
        workspace_id: String,
        integration_id: String,
        resource_id: String,
        destination_id: Option<String>,
        status: DeliveryStatus,
        reason: Option<DeliveryReason>,
        /// Somebody asked for it; the webhook had its own.
        replay: bool,
        attempt_count: u64,
        received_at: Time,
        created_at: Time,
        /// When it is tried next; `null` at its end.
        due_at: Option<Time>,
        finished_at: Option<Time>,
    }

    /// What is shown of a delivery beside the delivery.
    DeliveryParts { attempts: Vec<Attempt>, }

    /// How many there are.
    BoundedCount {
        count: u64,
        /// Whether there may be more than that.
        more: bool,
    }

    /// Deliveries to try again.
    DeliveriesToRetry {
        /// 1 to 200, `dlv_…`.
        delivery_ids: Vec<String>,
    }

    /// What became of each.
    RetriedDeliveries {
        /// How many will be sent.
        retried: u64,
        /// In the order asked for.
        results: Vec<RetriedDelivery>,
    }

    /// What became of a delivery to try again.
    RetriedDelivery {
        id: String,
        /// `pending`, `not_found`, `not_retryable` or `failed`
        status: String,
    }

    /// A page of dead letters.
    DeadLetters { items: Vec<ListedDelivery>, limit: u64, offset: u64, }

    /// Dead letters to send again.
    DeadLetterIds { delivery_ids: Vec<DeadLetterId>, }

    /// A webhook, by its provider's words.
    DeadLetterId { provider: String, delivery_id: String, }

    /// What became of each id.
    DeadLettersReplayed {
        /// `replayed`
        status: String,
        replayed: Vec<String>,
        /// Nothing of these is dead.
        skipped: Vec<String>,
        failed: Vec<String>,
    }

    /// Dead letters of a connection to send again.
    CatchUpRequest { installation_id: String, }, sometimes {
        /// 1 to 200; 50 if absent.
        batch_size: i64,
        provider: String,
        since: Time,
        until: Time,
    }

    /// One batch.
    CaughtUp {
        /// `replayed`, or `empty`
        status: String,
    }, sometimes {
        replayed: Vec<String>,
        /// How many are left. Of unrouted events they are counted among the next thousand; it is 0 only if none is left.
        remaining: u64,
    }

    /// A webhook in quarantine.
    Quarantined {
        id: String,
        provider: String,
        cause: String,
        body_sha256: String,
        attempts: u64,
        received_at: Time,
        last_at: Time,
    }

    /// What is shown of a webhook in quarantine beside the webhook.
    QuarantinedParts {
        header_names: Vec<String>,
        body_bytes: u64,
        /// The beginning of it; what is not UTF-8 is replaced.
        body: String,
        /// Whether there is more.
        body_is_cut: bool,
    }

    /// A webhook in quarantine was forgotten.
    QuarantinedDeleted {
        /// `deleted`
        status: String,
        id: String,
    }

    /// Which webhooks to verify again.
    ReverifyRequest {}, sometimes { provider: String, }

    /// What became of them.
    Reverified {
        /// `reverified`
        status: String,
        considered: u64,
        accepted: u64,
        duplicates: u64,
        rejected: u64,
    }
}

extended! {
    /// An event with its deliveries and their attempts.
    EventDetail = Event + EventParts;
    /// A delivery with its attempts.
    DeliveryDetail = ListedDelivery + DeliveryParts;
    /// A webhook in quarantine with the beginning of its body.
    QuarantinedDetail = Quarantined + QuarantinedParts;
}
