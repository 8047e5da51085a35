//! The router's shell: one actor per HTTP worker, on the worker's own thread, so that a webhook is verified and routed
//! where its bytes arrived.

use std::sync::Arc;

use actix::{Actor, Context, Handler, ResponseFuture};

use super::{
    Receipt, RouteError,
    messages::{RouteTrusted, RouteWebhook},
    pipeline::Pipeline,
};

/// One per HTTP worker.
pub(super) struct WebhookRouter {
    pub pipeline: Arc<Pipeline>,
    pub mailbox: usize,
}

impl Actor for WebhookRouter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.mailbox);
    }
}

impl Handler<RouteWebhook> for WebhookRouter {
    type Result = ResponseFuture<Result<Receipt, RouteError>>;

    fn handle(&mut self, message: RouteWebhook, _ctx: &mut Self::Context) -> Self::Result {
        let pipeline = self.pipeline.clone();
        Box::pin(async move { pipeline.route(message.webhook).await })
    }
}

impl Handler<RouteTrusted> for WebhookRouter {
    type Result = ResponseFuture<Result<Receipt, RouteError>>;

    fn handle(&mut self, message: RouteTrusted, _ctx: &mut Self::Context) -> Self::Result {
        let pipeline = self.pipeline.clone();
        Box::pin(async move { pipeline.route_trusted(message.webhook).await })
    }
}
