//! What a router can be asked. Private to this folder; others hold a [`super::RouterHandle`].

use actix::Message;

use super::{Receipt, RouteError, TrustedWebhook};
use crate::model::webhook::ReceivedWebhook;

/// Verify a provider's webhook, store it, fan it out.
#[derive(Message)]
#[rtype(result = "Result<Receipt, RouteError>")]
pub(super) struct RouteWebhook {
    /// As it came.
    pub webhook: ReceivedWebhook,
}

/// Store a trusted writer's webhook and fan it out.
#[derive(Message)]
#[rtype(result = "Result<Receipt, RouteError>")]
pub(super) struct RouteTrusted {
    /// As it came.
    pub webhook: TrustedWebhook,
}
