//! The supervisor's shell: reads and writes rows through the store one request at a time, keeps the newest route table,
//! publishes the route table.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorContext, ActorFuture, ActorFutureExt, AsyncContext, AtomicResponse, Context, Handler, WrapFuture,
};

use super::{
    InstallationError, SupervisorDeps, SupervisorSnapshot,
    messages::{Decide, Drain, EditRecord, GetRoutes, GetSnapshot, Reload},
    state,
};
use crate::{
    actors::runtime::isolate,
    model::{ids::InstallationId, installation::InstallationStatus, routes::RouteTable},
    store::InstallationRecord,
};

/// How long a supervisor that nobody asks stays in memory.
const IDLE_LIMIT: Duration = Duration::from_mins(10);

/// One per installation that was asked for lately.
pub(super) struct InstallationSupervisor {
    id: InstallationId,
    deps: SupervisorDeps,
    kept: Option<Kept>,
    asked_at: Instant,
    loads: u64,
    edits: u64,
}

/// What the rows said, and when the read of them began: they are at least that fresh.
struct Kept {
    table: Arc<RouteTable>,
    began: Instant,
}

impl InstallationSupervisor {
    pub(super) fn new(id: InstallationId, deps: SupervisorDeps) -> Self {
        Self { id, deps, kept: None, asked_at: Instant::now(), loads: 0, edits: 0 }
    }

    /// Keeps what routers read of a record just read or written, and publishes it. `began` is when the read began.
    fn keep(&mut self, record: Option<InstallationRecord>, began: Instant) -> Option<Arc<RouteTable>> {
        let Some(record) = record else {
            self.forget();
            return None;
        };
        let table = Arc::new(state::route_table(&record, self.deps.fallback_destination.as_ref()));
        if table.status == InstallationStatus::Revoked {
            self.deps.routes.forget(&self.id);
        } else {
            self.deps.routes.publish(table.clone());
        }
        self.kept = Some(Kept { table: table.clone(), began });
        Some(table)
    }

    /// Reads the rows and keeps what they say; `None` if there is no such installation.
    fn load(&mut self) -> impl ActorFuture<Self, Output = Result<Option<Arc<RouteTable>>, InstallationError>> + use<> {
        self.loads += 1;
        let began = Instant::now();
        let (store, id) = (self.deps.store.clone(), self.id.clone());
        let work = isolate(async move { store.load_installation(&id).await });
        work.into_actor(self).map(move |outcome, actor, _ctx| match outcome {
            Ok(Ok(record)) => Ok(actor.keep(record, began)),
            Ok(Err(error)) => Err(error.into()),
            Err(_panicked) => Err(InstallationError::Crashed),
        })
    }

    /// After a failed write nobody knows what the rows say: the next asker reads them again.
    fn forget(&mut self) {
        self.kept = None;
        self.deps.routes.forget(&self.id);
    }
}

impl Actor for InstallationSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(256);
        ctx.run_interval(IDLE_LIMIT / 4, |actor, ctx| {
            if actor.asked_at.elapsed() > IDLE_LIMIT {
                ctx.stop();
            }
        });
    }
}

/// Runs one edit: the decision inside the store's transaction, its verdict carried out of it.
async fn edit<T: Send + 'static>(
    deps: SupervisorDeps,
    id: InstallationId,
    decide: Decide<T>,
) -> (Result<T, InstallationError>, Option<InstallationRecord>) {
    let verdict = Arc::new(Mutex::new(None));
    let carried = verdict.clone();
    let changed = deps
        .store
        .change_installation(
            &id,
            Box::new(move |record| {
                let decided = decide(record);
                let keep = decided.is_ok();
                *carried.lock().unwrap_or_else(PoisonError::into_inner) = Some(decided);
                keep
            }),
        )
        .await;
    match changed {
        Err(error) => (Err(error.into()), None),
        Ok(record) => {
            let decided = verdict.lock().unwrap_or_else(PoisonError::into_inner).take();
            (decided.unwrap_or(Err(InstallationError::NotFound)), record)
        }
    }
}

impl<T: Send + 'static> Handler<EditRecord<T>> for InstallationSupervisor {
    type Result = AtomicResponse<Self, Result<T, InstallationError>>;

    fn handle(&mut self, message: EditRecord<T>, _ctx: &mut Self::Context) -> Self::Result {
        self.asked_at = Instant::now();
        self.edits += 1;
        let began = Instant::now();
        let work = isolate(edit(self.deps.clone(), self.id.clone(), message.decide));
        AtomicResponse::new(Box::pin(work.into_actor(self).map(move |outcome, actor, _ctx| match outcome {
            Ok((decided, record)) => {
                if record.is_some() {
                    actor.keep(record, began);
                } else {
                    actor.forget();
                }
                decided
            }
            Err(_panicked) => {
                actor.forget();
                Err(InstallationError::Crashed)
            }
        })))
    }
}

impl Handler<GetRoutes> for InstallationSupervisor {
    type Result = AtomicResponse<Self, Result<Arc<RouteTable>, InstallationError>>;

    fn handle(&mut self, message: GetRoutes, _ctx: &mut Self::Context) -> Self::Result {
        self.asked_at = Instant::now();
        // Whoever asked before the last read began shares its answer: a storm of misses is one read.
        if let Some(kept) = self.kept.as_ref().filter(|kept| kept.began >= message.asked_at) {
            let table = kept.table.clone();
            return AtomicResponse::new(Box::pin(async { Ok(table) }.into_actor(self)));
        }
        let loading = self.load().map(|loaded, _actor, _ctx| loaded?.ok_or(InstallationError::NotFound));
        AtomicResponse::new(Box::pin(loading))
    }
}

impl Handler<Reload> for InstallationSupervisor {
    type Result = AtomicResponse<Self, Result<(), InstallationError>>;

    fn handle(&mut self, message: Reload, _ctx: &mut Self::Context) -> Self::Result {
        let concerns = match (&message.only_of, &self.kept) {
            (Some(org), Some(kept)) => kept.table.org == *org,
            _ => true,
        };
        if !concerns {
            return AtomicResponse::new(Box::pin(async { Ok(()) }.into_actor(self)));
        }
        let loading = self.load().map(|loaded, actor, _ctx| {
            if loaded.is_err() {
                actor.forget();
            }
            loaded.map(drop)
        });
        AtomicResponse::new(Box::pin(loading))
    }
}

impl Handler<GetSnapshot> for InstallationSupervisor {
    type Result = Result<SupervisorSnapshot, InstallationError>;

    fn handle(&mut self, _message: GetSnapshot, _ctx: &mut Self::Context) -> Self::Result {
        let table = self.kept.as_ref().map(|kept| &kept.table);
        Ok(SupervisorSnapshot {
            installation_id: self.id.clone(),
            provider: table.map(|t| t.provider),
            status: table.map(|t| t.status),
            resources: table.map_or(0, |t| t.resources.len()),
            integrations: table.map_or(0, |t| t.resources.values().map(|resource| resource.integrations.len()).sum()),
            loads: self.loads,
            edits: self.edits,
            idle_ms: u64::try_from(self.asked_at.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl Handler<Drain> for InstallationSupervisor {
    type Result = Result<(), InstallationError>;

    /// Edits are atomic responses: when this is handled, none is under way.
    fn handle(&mut self, _message: Drain, ctx: &mut Self::Context) -> Self::Result {
        ctx.stop();
        Ok(())
    }
}
