//! The dispatcher's shell: decides whose turn it is to be claimed for, and wakes for retries that fall due.
//!
//! **Invariants**: it does no I/O and holds nothing that must survive it: queue, lanes and attempts in flight are in
//! [`Shared`], so that a successor carries on where it fell. **Must not know** how a delivery is sent.

use std::{
    convert::Infallible,
    sync::{Arc, Weak},
    time::Duration,
};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, SpawnHandle};

#[cfg(test)]
use super::messages::Poison;
use super::{
    messages::{Snapshot, Wake},
    shared::Shared,
};

/// The shortest timer: below it the executor's own granularity decides.
const SHORTEST_TIMER: Duration = Duration::from_millis(1);

/// The dispatcher's actor.
pub(super) struct Dispatcher {
    shared: Weak<Shared>,
    timer: Option<SpawnHandle>,
    wakes: u64,
}

impl Dispatcher {
    pub(super) fn new(shared: Weak<Shared>) -> Self {
        Self { shared, timer: None, wakes: 0 }
    }

    /// Everybody who held the dispatcher may be gone; then so is this.
    fn shared(&self, ctx: &mut Context<Self>) -> Option<Arc<Shared>> {
        let shared = self.shared.upgrade();
        if shared.is_none() {
            ctx.stop();
        }
        shared
    }

    fn serve(&mut self, ctx: &mut Context<Self>) {
        let Some(shared) = self.shared(ctx) else { return };
        self.wakes += 1;
        shared.serve();
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        self.timer = shared.until_next_retry().map(|wait| {
            ctx.run_later(wait.max(SHORTEST_TIMER), |actor, ctx| {
                actor.timer = None;
                actor.serve(ctx);
            })
        });
    }
}

impl Actor for Dispatcher {
    type Context = Context<Self>;
}

impl Handler<Wake> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: Wake, ctx: &mut Context<Self>) {
        self.serve(ctx);
    }
}

impl Handler<Snapshot> for Dispatcher {
    type Result = Result<serde_json::Value, Infallible>;

    fn handle(&mut self, _: Snapshot, ctx: &mut Context<Self>) -> Self::Result {
        let mut snapshot = self.shared(ctx).map(|shared| shared.snapshot()).unwrap_or_default();
        snapshot["wakes"] = self.wakes.into();
        Ok(snapshot)
    }
}

#[cfg(test)]
impl Handler<Poison> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: Poison, _: &mut Context<Self>) {
        panic!("the test's own");
    }
}
