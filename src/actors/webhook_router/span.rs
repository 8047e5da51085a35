//! The end of a webhook's span.
//!
//! **Invariants**: webhooks have a span once they are known to be genuine, whatever becomes of them: what anybody can send
//! is counted and quarantined, and would crowd out the rest here. **Must not know** where spans go.

use tokio::time::Instant;

use super::{Receipt, RouteError, pipeline::Pipeline};
use crate::telemetry::traces::{WebhookEnd, WebhookSpan};

impl Pipeline {
    /// Ends the span of a webhook that arrived at `arrived`.
    pub(super) fn end_span(&self, span: WebhookSpan, routed: &Result<Receipt, RouteError>, arrived: Instant) {
        span.end(&WebhookEnd {
            event: routed.as_ref().ok().and_then(Receipt::event),
            outcome: routed.as_ref().map_or_else(RouteError::code, Receipt::outcome),
            failed: routed.is_err(),
            at: self.clock.now(),
            took: arrived.elapsed(),
        });
    }
}
