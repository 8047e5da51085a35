//! What a destination's row means, opened and ready to send to; and what the dispatcher writes into it.
//!
//! **Owns** the dispatcher's short memory of destinations. **Invariants**: nothing remembered is older than
//! [`MAX_AGE`]; opened secrets live here and in requests only; a row is written on transitions (it began to fail, it
//! recovered, it is disabled), never per attempt. **Must not know** deliveries.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use url::Url;

use super::{lanes::SharedLane, shared::Shared, state::Circuit};
use crate::{
    config::DeliveryConfig,
    delivery::{
        destination::{ExtraHeaders, validate_headers},
        sign::{NotASigningSecret, SigningSecret},
    },
    model::{
        clock::EpochMs,
        destination::Destination,
        ids::{DestinationId, OrgId},
        log_entry::{Actor, LogEntry},
    },
    store::{DestinationHealth, StoreResult},
    vault::{SealedAt, Vault},
};

/// How long what was loaded is believed without a word from anybody.
const MAX_AGE: Duration = Duration::from_secs(30);

const TABLE: &str = "gw_destinations";

/// A destination ready to be sent to.
#[derive(Debug)]
pub(super) struct Target {
    /// Whose; absent for the configured default.
    pub org: Option<OrgId>,
    pub url: Url,
    /// As the row has it.
    pub row_url: Arc<str>,
    pub headers: ExtraHeaders,
    secret: Option<SigningSecret>,
    /// Signs beside the first until then.
    previous: Option<(SigningSecret, EpochMs)>,
    /// Why nothing is sent to it.
    pub disabled: Option<String>,
    failing_since: Option<EpochMs>,
}

impl Target {
    /// The one of `[delivery]`, if there is one.
    ///
    /// # Errors
    /// If its secret is none.
    pub(super) fn configured(config: &DeliveryConfig) -> Result<Option<Self>, NotASigningSecret> {
        let Some(url) = config.url.clone() else { return Ok(None) };
        let secret = config.secret.as_ref().map(SigningSecret::from_secret).transpose()?;
        Ok(Some(Self {
            org: None,
            row_url: url.as_str().into(),
            url,
            headers: ExtraHeaders::default(),
            secret,
            previous: None,
            disabled: None,
            failing_since: None,
        }))
    }

    /// Opens a row; the error says in our words why it cannot be sent to.
    fn open(row: &Destination, vault: &Vault) -> Result<Self, &'static str> {
        let open = |column, sealed: &str| {
            let at = SealedAt { table: TABLE, row: row.id.as_str(), column };
            vault.open(at, sealed).map_err(|error| {
                tracing::error!(destination.id = %row.id, column, %error, "a destination's row does not open");
                "the destination's secrets cannot be opened"
            })
        };
        let secret_of = |column, sealed: &str| {
            SigningSecret::from_secret(&open(column, sealed)?).map_err(|_| "the signing secret is malformed")
        };
        let previous = match (&row.previous_secret_sealed, row.previous_until) {
            (Some(sealed), Some(until)) => Some((secret_of("previous_secret", sealed)?, until)),
            _ => None,
        };
        let headers = match &row.headers_sealed {
            None => ExtraHeaders::default(),
            Some(sealed) => {
                let headers: BTreeMap<String, String> = serde_json::from_slice(open("headers", sealed)?.expose())
                    .map_err(|_| "the headers are malformed")?;
                validate_headers(&headers).map_err(|_| "a header cannot be sent")?
            }
        };
        Ok(Self {
            org: Some(row.org.clone()),
            url: Url::parse(&row.url).map_err(|_| "the URL cannot be requested")?,
            row_url: row.url.as_str().into(),
            headers,
            secret: Some(secret_of("secret", &row.secret_sealed)?),
            previous,
            disabled: row.disabled_reason.clone(),
            failing_since: row.failing_since,
        })
    }

    /// Whether it is sent to in the same way as another.
    fn is_like(&self, other: &Self) -> bool {
        self.url == other.url
            && self.headers == other.headers
            && self.secret == other.secret
            && self.disabled == other.disabled
    }

    /// The secrets that sign now, newest first.
    pub(super) fn secrets(&self, now: EpochMs) -> impl Iterator<Item = &SigningSecret> {
        let previous = self.previous.iter().filter(move |(_, until)| now < *until).map(|(secret, _)| secret);
        self.secret.iter().chain(previous)
    }
}

/// What came of looking for a destination.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// It can be sent to, unless it is disabled.
    Target(Arc<Target>),
    /// It exists and cannot be sent to.
    Unusable {
        /// Why.
        why: &'static str,
        /// As the row has it.
        row_url: Arc<str>,
    },
    /// There is no such row.
    Missing,
    /// The store did not say.
    Unknown,
}

/// What was loaded, and when.
pub(super) struct Loaded {
    found: Found,
    at: Instant,
    generation: u64,
}

impl Found {
    /// Whether nothing is sent to it, whatever it would answer.
    fn gets_nothing(&self) -> bool {
        match self {
            Self::Target(target) => target.disabled.is_some(),
            Self::Missing => true,
            Self::Unusable { .. } | Self::Unknown => false,
        }
    }
}

impl Shared {
    /// The lane's destination. One that is disabled or deleted keeps no circuit open: nobody will ever probe it.
    pub(super) async fn find_target(&self, lane: &SharedLane) -> Found {
        let found = self.recall_target(lane).await;
        if found.gets_nothing() {
            lane.state().start_anew(&self.lanes.rules);
        }
        found
    }

    /// From memory if that is fresh; that nothing is sent to it must be so now, because its deliveries die of it. One load
    /// serves all who wait for it.
    async fn recall_target(&self, lane: &SharedLane) -> Found {
        let mut loaded = lane.loaded.lock().await;
        let generation = lane.generation.load(Ordering::Acquire);
        let is_fresh = |loaded: &&Loaded| loaded.generation == generation && loaded.at.elapsed() < MAX_AGE;
        if let Some(fresh) = loaded.as_ref().filter(is_fresh)
            && self.remembers_destinations
            && !fresh.found.gets_nothing()
        {
            return fresh.found.clone();
        }
        let at = Instant::now();
        let found = self.load_target(&lane.id).await;
        if let Found::Target(target) = &found {
            if let Some(org) = &target.org {
                lane.org.get_or_init(|| org.clone());
            }
            lane.state().adopt_failing_since(target.failing_since);
        }
        if let (Found::Target(target), Some(before)) = (&found, &*loaded) {
            let changed = !matches!(&before.found, Found::Target(known) if known.is_like(target));
            if changed {
                // What was wrong may be mended.
                lane.state().probe_at_once(Instant::now());
            }
        }
        let worth_keeping = matches!(found, Found::Target(_) | Found::Unusable { .. });
        *loaded = worth_keeping.then(|| Loaded { found: found.clone(), at, generation });
        found
    }

    /// A destination as it is in the store now.
    pub(super) async fn load_target(&self, destination: &DestinationId) -> Found {
        if *destination == DestinationId::configured_default() {
            return self.default_target.clone().map_or(Found::Missing, Found::Target);
        }
        match self.store.find_destination(destination).await {
            Ok(Some(row)) => match Target::open(&row, &self.vault) {
                Ok(target) => Found::Target(Arc::new(target)),
                Err(why) => Found::Unusable { why, row_url: row.url.into() },
            },
            Ok(None) => Found::Missing,
            Err(error) => {
                tracing::warn!(destination.id = %destination, code = error.code(), "a destination cannot be read");
                Found::Unknown
            }
        }
    }

    /// Forgets destinations of an org (or all): they changed. One whose circuit is open is looked at right away,
    /// because what was wrong may be mended.
    pub(super) fn forget_targets(self: &Arc<Self>, org: Option<&OrgId>) {
        for lane in self.lanes_of(org) {
            lane.generation.fetch_add(1, Ordering::AcqRel);
            let open = matches!(lane.state().circuit(), Circuit::Open { .. });
            if open {
                self.spawn("look again", Arc::clone(self).look_again(lane));
            }
        }
    }

    /// Open circuits of an org's destinations (or of all) probe at once: somebody who may know more asks for it.
    pub(super) fn probe_at_once(&self, org: Option<&OrgId>) {
        for lane in self.lanes_of(org) {
            lane.state().probe_at_once(Instant::now());
        }
    }

    /// A destination answered somebody's test: what waits for its probe does not wait any longer.
    pub(super) fn works_again(self: &Arc<Self>, destination: &DestinationId) {
        if let Some(lane) = self.lanes.find(destination) {
            lane.state().probe_at_once(Instant::now());
            self.want(destination);
        }
    }

    /// The lanes of an org's destinations, or all. One whose org is not known yet may be anybody's.
    fn lanes_of(&self, org: Option<&OrgId>) -> impl Iterator<Item = Arc<SharedLane>> {
        let is_concerned =
            move |lane: &Arc<SharedLane>| org.is_none_or(|org| lane.org.get().is_none_or(|owner| owner == org));
        self.lanes.all().into_iter().filter(is_concerned)
    }

    /// Finds out what became of a destination, and does for what waits what follows from it.
    pub(super) async fn look_again(self: Arc<Self>, lane: Arc<SharedLane>) {
        self.find_target(&lane).await;
        self.want(&lane.id);
    }

    /// Notes since when a destination has failed under this URL, or that it works again.
    pub(super) async fn note_failing(self: Arc<Self>, lane: Arc<SharedLane>, url: Arc<str>, since: Option<EpochMs>) {
        let noted = match since {
            Some(since) => {
                self.note(&lane, &url, DestinationHealth::FailingSince(since), "destination.failing", "failing")
            }
            None => self.note(&lane, &url, DestinationHealth::Recovered, "destination.recovered", "delivered"),
        };
        if let Err(error) = noted.await {
            tracing::warn!(destination.id = %lane.id, code = error.code(), "a destination's health cannot be noted");
            lane.state().failing_was_not_noted(since.is_none());
        }
    }

    /// Disables a destination that has this URL: nothing is sent to it until its owner sets it anew.
    pub(super) async fn disable(self: Arc<Self>, lane: Arc<SharedLane>, url: Arc<str>, reason: &'static str) {
        match self.note(&lane, &url, DestinationHealth::Disabled(reason), "destination.disabled", reason).await {
            Ok(true) => tracing::warn!(destination.id = %lane.id, reason, "a destination is disabled"),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(destination.id = %lane.id, code = error.code(), "a destination cannot be disabled");
            }
        }
        lane.generation.fetch_add(1, Ordering::AcqRel);
        self.look_again(lane).await;
    }

    /// Notes it in the row, if the row still has this URL and does not say so already. The configured default has no row.
    async fn note(
        &self,
        lane: &SharedLane,
        url: &str,
        health: DestinationHealth,
        action: &str,
        reason: &'static str,
    ) -> StoreResult<bool> {
        let at = self.clock.now();
        let entry = LogEntry {
            org: lane.org.get().cloned(),
            subject: Some(lane.id.to_string()),
            to_state: matches!(health, DestinationHealth::Disabled(_)).then(|| "disabled".to_owned()),
            reason: Some(reason.to_owned()),
            ..LogEntry::new(self.ids.log(), action, Actor::system(), at)
        };
        self.store.note_destination_health(&lane.id, url, health, at, &entry).await
    }
}
