//! The supervisor's shell: reads and writes rows through the store one request at a time, keeps the newest route table,
//! publishes the route table.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorContext, ActorFuture, ActorFutureExt, AsyncContext, AtomicResponse, Context, Handler,
    ResponseActFuture, ResponseFuture, WrapFuture,
};
use tokio::sync::oneshot;

use super::{
    InstallationError, InstallationHandle, ProviderState, SupervisorDeps, SupervisorSnapshot, TokenSnapshot, control,
    messages::{
        Decide, Drain, EditRecord, ForgetRows, GetRoutes, GetSnapshot, GetToken, NoteProvider, Reload, ResumeTeardown,
    },
    state,
    teardown_run::TeardownRun,
    token_search::{Search, SearchEnd},
    token_slot::{Found, StartSearch, TokenSlot, Verdict},
};
use crate::{
    actors::{
        runtime::{beside, isolate},
        tokens::{AccessToken, TokenError},
    },
    model::{
        clock::EpochMs, ids::InstallationId, installation::InstallationStatus, routes::RouteTable,
        teardown::TeardownStatus,
    },
    store::{InstallationRecord, StoreResult},
};

/// How long a supervisor that nobody asks stays in memory.
const IDLE_LIMIT: Duration = Duration::from_mins(10);
/// How long what was read or written of the provider's health is taken for what the row says.
const HEALTH_MEMORY: Duration = Duration::from_mins(1);

/// Somebody who waits for a token.
type TokenWaiter = oneshot::Sender<Result<AccessToken, TokenError>>;

/// One per installation that was asked for lately.
pub(super) struct InstallationSupervisor {
    id: InstallationId,
    deps: Arc<SupervisorDeps>,
    kept: Option<Kept>,
    asked_at: Instant,
    loads: u64,
    edits: u64,
    slot: TokenSlot<TokenWaiter>,
    found: Option<Found>,
    eased_until: Option<EpochMs>,
    tears_down: bool,
    /// Told when the search under way has ended: then this supervisor stops.
    draining: Option<oneshot::Sender<()>>,
    provider: Option<(ProviderState, Instant)>,
}

/// What the rows said, and when the read of them began: they are at least that fresh.
struct Kept {
    table: Arc<RouteTable>,
    began: Instant,
}

impl InstallationSupervisor {
    pub(super) fn new(id: InstallationId, deps: Arc<SupervisorDeps>) -> Self {
        Self {
            id,
            deps,
            kept: None,
            asked_at: Instant::now(),
            loads: 0,
            edits: 0,
            slot: TokenSlot::default(),
            found: None,
            eased_until: None,
            tears_down: false,
            draining: None,
            provider: None,
        }
    }

    /// This supervisor as its own futures reach it.
    fn handle(ctx: &Context<Self>) -> InstallationHandle {
        InstallationHandle { address: ctx.address() }
    }

    /// Begins a search for a token. Whatever becomes of it, everybody who waits for it is answered.
    fn search(&mut self, step: StartSearch, ctx: &mut Context<Self>) {
        let search = Search {
            deps: Arc::clone(&self.deps),
            id: self.id.clone(),
            supervisor: Self::handle(ctx),
            rejected: step.rejected,
            known: self.found.clone(),
            eased_until: self.eased_until,
        };
        let searching = beside(search.run()).into_actor(self);
        ctx.spawn(searching.map(|ended, actor, ctx| {
            let outcome = match ended {
                Ok(SearchEnd { outcome, eased_until }) => {
                    actor.eased_until = eased_until;
                    outcome
                }
                Err(_panicked) => Err(TokenError::Crashed),
            };
            actor.answer_waiting(&outcome, ctx);
        }));
    }

    fn answer_waiting(&mut self, outcome: &Result<Found, TokenError>, ctx: &mut Context<Self>) {
        let generation = outcome.as_ref().ok().map(|found| found.token.generation);
        match outcome {
            // Nor is it kept for later what may be of before an edit.
            Ok(_) if self.slot.is_outdated() => {}
            Ok(found) => self.found = Some(found.clone()),
            // Whatever was opened is of no use to an installation that has no token any more.
            Err(TokenError::NotFound | TokenError::NoToken | TokenError::NotActive(_) | TokenError::Expired) => {
                self.found = None;
            }
            Err(_) => {}
        }
        let (answered, next) = self.slot.ended(generation);
        for (waiter, verdict) in answered {
            let answer = match verdict {
                Verdict::AsFound => outcome.clone().map(|found| found.token),
                Verdict::NoOther => Err(TokenError::ProviderUnavailable("it gave the same token again".into())),
            };
            if waiter.send(answer).is_err() {
                tracing::debug!(installation.id = %self.id, "whoever asked for a token went away");
            }
        }
        if let Some(step) = next {
            self.search(step, ctx);
        } else if let Some(drained) = self.draining.take() {
            if drained.send(()).is_err() {
                tracing::debug!(installation.id = %self.id, "nobody waits for this supervisor's end any more");
            }
            ctx.stop();
        }
    }

    /// Goes on with the teardown, unless that is under way.
    fn tear_down(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.tears_down, true) {
            return;
        }
        let run = TeardownRun { deps: Arc::clone(&self.deps), id: self.id.clone(), supervisor: Self::handle(ctx) };
        let running = beside(run.run()).into_actor(self);
        ctx.spawn(running.map(|ended, actor, _ctx| {
            actor.tears_down = false;
            actor.asked_at = Instant::now();
            if ended.is_err() {
                tracing::error!(installation.id = %actor.id, "a teardown panicked; it goes on when its lease ends");
            }
        }));
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
        if !matches!(table.status, InstallationStatus::Active | InstallationStatus::Pending) {
            // What was minted before a suspension or an end may be dead after it.
            self.found = None;
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

    /// Nobody knows what the rows say any more, after a failed write for instance: the next asker reads them again.
    fn forget(&mut self) {
        self.kept = None;
        self.deps.routes.forget(&self.id);
    }
}

/// A published table has a supervisor who learns of changes. Where that ends, for idleness or by a panic, the table goes
/// with it.
impl Drop for InstallationSupervisor {
    fn drop(&mut self) {
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

/// What an edit did to the installation itself.
#[derive(Default)]
struct Effect {
    /// Its own row changed.
    is_changed: bool,
    /// A connection begins.
    begins: bool,
}

/// Runs one edit: the decision inside the store's transaction, its verdict and its effect carried out of it.
async fn edit<T: Send + 'static>(
    deps: Arc<SupervisorDeps>,
    id: InstallationId,
    decide: Decide<T>,
) -> (Result<T, InstallationError>, Option<InstallationRecord>, Effect) {
    let verdict = Arc::new(Mutex::new(None));
    let carried = verdict.clone();
    let changed = deps
        .store
        .change_installation(
            &id,
            Box::new(move |record| {
                let before = record.installation.clone();
                let decided = decide(record);
                let keep = decided.is_ok();
                let begins = keep && control::begins(Some(before.status), &mut record.installation);
                let effect = Effect { is_changed: keep && record.installation != before, begins };
                *carried.lock().unwrap_or_else(PoisonError::into_inner) = Some((decided, effect));
                keep
            }),
        )
        .await;
    match changed {
        Err(error) => (Err(error.into()), None, Effect::default()),
        Ok(record) => {
            let decided = verdict.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (decided, effect) = decided.unwrap_or((Err(InstallationError::NotFound), Effect::default()));
            (decided, record, effect)
        }
    }
}

impl<T: Send + 'static> Handler<EditRecord<T>> for InstallationSupervisor {
    type Result = AtomicResponse<Self, Result<T, InstallationError>>;

    fn handle(&mut self, message: EditRecord<T>, _ctx: &mut Self::Context) -> Self::Result {
        self.asked_at = Instant::now();
        self.edits += 1;
        let began = Instant::now();
        let work = isolate(edit(Arc::clone(&self.deps), self.id.clone(), message.decide));
        AtomicResponse::new(Box::pin(work.into_actor(self).map(move |outcome, actor, ctx| match outcome {
            Ok((decided, record, effect)) => {
                // What a search found before this edit may be of before it, and a token of the grant before.
                actor.slot.outdate();
                if effect.is_changed {
                    actor.found = None;
                }
                if effect.begins {
                    actor.deps.announce_link(&actor.id);
                }
                let is_ending = record.as_ref().is_some_and(has_running_teardown);
                if record.is_some() {
                    actor.keep(record, began);
                } else {
                    actor.forget();
                }
                if is_ending {
                    actor.tear_down(ctx);
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

fn has_running_teardown(record: &InstallationRecord) -> bool {
    record.teardown.as_ref().is_some_and(|teardown| teardown.status == TeardownStatus::Running)
}

impl Handler<GetToken> for InstallationSupervisor {
    type Result = ResponseFuture<Result<AccessToken, TokenError>>;

    fn handle(&mut self, message: GetToken, ctx: &mut Self::Context) -> Self::Result {
        self.asked_at = Instant::now();
        let (waiter, answer) = oneshot::channel();
        if let Some(step) = self.slot.ask(message.rejected, waiter) {
            self.search(step, ctx);
        }
        Box::pin(async move { answer.await.unwrap_or(Err(TokenError::Crashed)) })
    }
}

impl Handler<ResumeTeardown> for InstallationSupervisor {
    type Result = ();

    fn handle(&mut self, _message: ResumeTeardown, ctx: &mut Self::Context) -> Self::Result {
        self.asked_at = Instant::now();
        self.tear_down(ctx);
    }
}

/// Writes the provider's health if the row says something else.
async fn keep_health(deps: Arc<SupervisorDeps>, id: InstallationId, state: ProviderState) -> StoreResult<()> {
    let kept = deps.store.find_provider_health(&id).await?;
    match state.to_keep(kept.as_ref(), deps.clock.now()) {
        Some(health) => deps.store.save_provider_health(&id, Some(&health)).await,
        None => Ok(()),
    }
}

impl Handler<NoteProvider> for InstallationSupervisor {
    type Result = ResponseActFuture<Self, Result<(), InstallationError>>;

    fn handle(&mut self, message: NoteProvider, _ctx: &mut Self::Context) -> Self::Result {
        let is_known = |(state, at): &(ProviderState, Instant)| *state == message.state && at.elapsed() < HEALTH_MEMORY;
        if self.provider.as_ref().is_some_and(is_known) {
            return Box::pin(async { Ok(()) }.into_actor(self));
        }
        self.provider = Some((message.state, Instant::now()));
        let keeping = beside(keep_health(Arc::clone(&self.deps), self.id.clone(), message.state)).into_actor(self);
        Box::pin(keeping.map(|kept, actor, _ctx| {
            if let Ok(Err(error)) = &kept {
                tracing::warn!(installation.id = %actor.id, %error, "the provider's health was not written");
            }
            if !matches!(kept, Ok(Ok(()))) {
                actor.provider = None;
            }
            Ok(kept.map_err(|_panicked| InstallationError::Crashed)??)
        }))
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

impl Handler<ForgetRows> for InstallationSupervisor {
    type Result = Result<(), InstallationError>;

    fn handle(&mut self, _message: ForgetRows, _ctx: &mut Self::Context) -> Self::Result {
        self.slot.outdate();
        self.found = None;
        self.forget();
        Ok(())
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
            token: TokenSnapshot {
                state: match (self.slot.is_searching(), &self.found) {
                    (true, _) => "searching",
                    (false, Some(_)) => "held",
                    (false, None) => "unknown",
                },
                generation: self.found.as_ref().map(|found| found.token.generation),
                expires_at: self.found.as_ref().and_then(|found| found.token.expires_at),
                waiting: self.slot.waiting(),
            },
            tearing_down: self.tears_down,
            idle_ms: u64::try_from(self.asked_at.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl Handler<Drain> for InstallationSupervisor {
    type Result = ResponseFuture<Result<(), InstallationError>>;

    /// Edits are atomic responses: when this is handled, none is under way. A search may be, and what the provider has
    /// given by then must be written; a teardown goes on elsewhere.
    fn handle(&mut self, _message: Drain, ctx: &mut Self::Context) -> Self::Result {
        if !self.slot.is_searching() {
            ctx.stop();
            return Box::pin(async { Ok(()) });
        }
        let (drained, ended) = oneshot::channel();
        self.draining = Some(drained);
        Box::pin(async move { ended.await.map_err(|_gone| InstallationError::Crashed) })
    }
}
