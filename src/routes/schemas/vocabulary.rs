//! Small shapes that many use: times, pages, words with a closed list. The lists are the model's own.

use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{KnownFormat, ObjectBuilder, OneOfBuilder, SchemaFormat, Type},
    },
};

use crate::model::{
    backfill_run::BackfillStatus as Backfill, delivery::DeliveryStatus as Delivery, event::EventOutcome as Outcome,
    installation::InstallationStatus as Installation, integration::IntegrationStatus as Integration, words,
};

/// Defines words: `Name = [a list of texts];`.
macro_rules! words {
    ($($(#[doc = $doc:literal])* $name:ident = $words:expr;)*) => {$(
        $(#[doc = $doc])*
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let words: Vec<&'static str> = Vec::from_iter($words);
                let description = [$($doc.trim()),*].join(" ");
                ObjectBuilder::new().schema_type(Type::String).description(Some(description)).enum_values(Some(words)).into()
            }
        }

        impl ToSchema for $name {}
    )*};
}

words! {
    /// What state a connection is in.
    ConnectionStatus = Installation::ALL.map(Installation::as_str);
    /// What state an integration is in.
    IntegrationStatus = Integration::ALL.map(Integration::as_str);
    /// What became of an event.
    EventOutcome = Outcome::ALL.map(Outcome::as_str);
    /// Why an event was not routed.
    EventReason = words::EVENT_REASONS.list();
    /// Why an integration does or does not get an event.
    ConsideredReason = words::CONSIDERED_REASONS.list();
    /// What state a delivery is in.
    DeliveryStatus = Delivery::ALL.map(Delivery::as_str);
    /// Why a delivery is not there yet, or was given up.
    DeliveryReason = words::DELIVERY_REASONS.list();
    /// How an attempt ended.
    AttemptResult = ["delivered", "gone", "http_status", "timeout", "connection_failed", "address_refused", "invalid_destination", "destination_disabled"];
    /// Why a destination is disabled.
    DisabledReason = words::DISABLED_REASONS.list();
    /// How a connection is doing.
    ConnectionHealth = words::HEALTH.list();
    /// What state a backfill run is in.
    BackfillStatus = Backfill::ALL.map(Backfill::as_str);
    /// What state the end of a connection is in.
    TeardownStatus = ["running", "completed"];
    /// A step of a connection's end, in the order in which they run.
    TeardownStep = ["close_gate", "cancel_backfill", "revoke_token", "deregister_webhook", "remove_resources", "delete_token"];
    /// What state such a step is in.
    StepStatus = ["pending", "done", "skipped", "gave_up"];
    /// What state a comparison of a delivery log is in.
    HealStatus = ["running", "completed", "failed"];
    /// What a destination serves.
    DestinationScope = ["integration", "workspace", "org"];
}

/// A time: RFC 3339, UTC.
pub struct Time;

impl PartialSchema for Time {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).description(Some("RFC 3339, UTC.")).into()
    }
}

impl ToSchema for Time {}

/// A time, as text or as a number.
pub struct TimeOrMillis;

impl PartialSchema for TimeOrMillis {
    fn schema() -> RefOr<Schema> {
        let millis = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
        let millis = millis.description(Some("Epoch milliseconds."));
        OneOfBuilder::new()
            .item(Time::schema())
            .item(millis)
            .description(Some("RFC 3339 or epoch milliseconds."))
            .into()
    }
}

impl ToSchema for TimeOrMillis {}

/// Which page of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// How many; clamped, and the default if it cannot be read.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<i64>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Which deliveries.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeliveryQuery {
    status: Option<DeliveryStatus>,
    /// A provider's slug.
    provider: Option<String>,
    /// A connection's id.
    connection: Option<String>,
    /// A workspace's id.
    workspace: Option<String>,
    /// An integration's id.
    integration: Option<String>,
    /// A destination's id.
    destination: Option<String>,
    /// An event's id.
    event: Option<String>,
    /// Made at or after.
    since: Option<Time>,
    /// Made before.
    until: Option<Time>,
}

/// What a search found.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Found<T> {
    #[schema(required = true)]
    items: Vec<T>,
    /// The `cursor` of the next page; `null` at the end.
    #[schema(required = true)]
    next_cursor: Option<String>,
    /// Where the search stopped before it had a page: nothing older was looked at yet. Go on with `nextCursor`.
    #[schema(required = false)]
    searched_back_to: Option<Time>,
}

/// A page of a list.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Page<T> {
    #[schema(required = true)]
    items: Vec<T>,
    /// The `cursor` of the next page; `null` at the end.
    #[schema(required = true)]
    next_cursor: Option<String>,
}
