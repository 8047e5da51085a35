//! The callback: a browser comes back from a provider.
//!
//! **Invariants**: the state is taken before anything of the rest is looked at; from then on the flow ends, whatever
//! happens to the browser: the work is a task of its own, within a time limit, and its outcome is written before
//! anybody is told.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};
use url::Url;

use super::{
    ConnectingError, ConnectingHandle, FlowEnd, RESULT_LIFE,
    ending::{self, Destination},
    hash_state, text,
};
use crate::{
    actors::{
        AskError,
        binding::{BindGrant, Bound},
        installation::InstallationError,
        runtime::isolate,
    },
    crypto::nonce,
    model::oauth_flow::{FlowOutcome, FlowStatus, OAuthFlow, TokenHash},
    providers::{
        ConnectorError,
        connector::{Callback, Completion, Connected},
    },
};

/// How long a provider may take to prove a grant, all calls together.
const COMPLETION_LIMIT: Duration = Duration::from_secs(45);
/// The least time a person has for a second leg, however late in the first leg's ten minutes it begins.
const SECOND_LEG_LIFE: Duration = Duration::from_mins(2);
/// How often the outcome is written before that is given up, and the pause in between.
const OUTCOME_TRIES: u32 = 5;
const OUTCOME_PAUSE: Duration = Duration::from_millis(200);

/// A browser that came back.
#[derive(Debug)]
pub struct Arrival {
    /// From which provider, as our path names it.
    pub provider: String,
    /// The query's parameters, the first of each name.
    pub parameters: BTreeMap<String, String>,
    /// Its cookie.
    pub cookie: Option<String>,
    /// Its address.
    pub from: Option<String>,
}

/// Where the browser goes next.
#[derive(Debug)]
pub enum Arrived {
    /// To the provider once more.
    SecondLeg(Url),
    /// The flow has ended.
    Ended {
        /// How.
        end: FlowEnd,
        /// Where the browser ends.
        destination: Destination,
    },
}

/// What a callback leads to, before it is written down.
enum Step {
    SecondLeg(Url),
    End(FlowEnd, Option<Url>),
}

impl ConnectingHandle {
    /// Takes the state that a browser brings back, proves the grant and binds it.
    ///
    /// # Errors
    /// [`ConnectingError::BadState`], whatever is wrong with the state; [`ConnectingError::Store`] if it could not be
    /// taken: then it is still good. Everything later is an ending, not an error.
    pub async fn callback(&self, arrival: Arrival) -> Result<Arrived, ConnectingError> {
        let (provider, _) =
            self.deps.registry.find_enabled(&arrival.provider).ok_or(ConnectingError::UnknownProvider)?;
        // As much work for an absent cookie or state as for a wrong one.
        let state = hash_state(arrival.parameters.get("state").map(String::as_str));
        let cookie = nonce::hash(arrival.cookie.as_deref().unwrap_or_default());
        let taken = self.deps.store.take_flow(&state, provider.slug(), &cookie, self.deps.clock.now()).await?;
        let flow = taken.ok_or(ConnectingError::BadState)?;
        let handle = self.clone();
        let ending = tokio::spawn(async move { handle.finish(flow, arrival).await });
        ending.await.map_err(|_panicked| ConnectingError::Crashed)
    }

    async fn finish(&self, flow: OAuthFlow, arrival: Arrival) -> Arrived {
        let step = isolate(self.step(&flow, &arrival)).await;
        let (end, follow) = match step {
            Ok(Step::SecondLeg(url)) => return Arrived::SecondLeg(url),
            Ok(Step::End(end, follow)) => (end, follow),
            Err(_panicked) => (failed("internal_error"), None),
        };
        self.write_outcome(&flow, &end).await;
        let asked_for = flow.redirect_to.as_deref();
        let ours = self.deps.public_url.base();
        let destination = ending::destination(flow.provider, asked_for, &self.deps.console, ours, &end, follow);
        Arrived::Ended { end, destination }
    }

    async fn step(&self, flow: &OAuthFlow, arrival: &Arrival) -> Step {
        let proved = tokio::time::timeout(COMPLETION_LIMIT, self.prove(flow, &arrival.parameters)).await;
        let proved = proved.unwrap_or_else(|_elapsed| Err("provider_unavailable".to_owned()));
        match proved {
            Err(error) => Step::End(FlowEnd::Failed { error }, None),
            Ok(Completion::AwaitsApproval { setup_action }) => {
                Step::End(FlowEnd::AwaitsApproval { setup_action }, None)
            }
            Ok(Completion::Continue { context }) => match self.begin_second_leg(flow, context).await {
                Ok(url) => Step::SecondLeg(url),
                Err(error) => {
                    tracing::error!(provider = %flow.provider, %error, "a flow's second leg did not begin");
                    Step::End(failed(error.code()), None)
                }
            },
            Ok(Completion::Connected(connected)) => self.bind(flow, arrival.from.as_deref(), *connected).await,
        }
    }

    /// What the provider says about what came back; or the code of what went wrong.
    async fn prove(&self, flow: &OAuthFlow, parameters: &BTreeMap<String, String>) -> Result<Completion, String> {
        if let Some(told) = parameters.get("error").filter(|told| !told.is_empty()) {
            return Err(ending::error_code(told));
        }
        let code_of = |error: ConnectingError| {
            tracing::error!(provider = %flow.provider, %error, "a flow cannot be completed");
            error.code().to_owned()
        };
        let (_, connector) = self.connector(flow.provider.as_str()).map_err(code_of)?;
        let verifier = self.open_verifier(flow).map_err(code_of)?;
        let redirect_uri = self.deps.public_url.callback(flow.provider);
        let callback = Callback {
            parameters,
            redirect_uri: redirect_uri.as_str(),
            pkce_verifier: verifier.as_ref(),
            context: flow.context.as_ref(),
            now: self.deps.clock.now(),
        };
        connector.complete(&callback).await.map_err(|error| {
            tracing::warn!(provider = %flow.provider, %error, "a flow was not completed");
            flow_code(&error).to_owned()
        })
    }

    /// A further visit to the provider, with a state and a verifier of its own, in the same browser.
    async fn begin_second_leg(&self, flow: &OAuthFlow, context: Value) -> Result<Url, ConnectingError> {
        let (_, connector) = self.connector(flow.provider.as_str())?;
        let state = nonce::generate();
        let state_hash = nonce::hash(text(&state));
        let now = self.deps.clock.now();
        let leg = OAuthFlow {
            state_hash,
            root_hash: Some(root_of(flow)),
            pkce_verifier_sealed: self.fresh_verifier(connector.as_ref(), &state_hash, Some(&context))?,
            context: Some(context),
            created_at: now,
            expires_at: flow.expires_at.max(now.plus(SECOND_LEG_LIFE)),
            taken_at: None,
            ..flow.clone()
        };
        let url = self.leg_url(connector.as_ref(), &leg, text(&state))?;
        self.deps.store.insert_flow(&leg, None).await?;
        Ok(url)
    }

    async fn bind(&self, flow: &OAuthFlow, from: Option<&str>, connected: Connected) -> Step {
        let mut actor = flow.actor.clone();
        actor.from = from.map(str::to_owned).or(actor.from);
        let grant = BindGrant {
            provider: flow.provider,
            external_id: connected.external_id,
            alternate_external_id: connected.alternate_external_id,
            org: flow.org.clone(),
            connected_by: flow.user.clone().unwrap_or_else(|| flow.actor.who.clone()),
            account: connected.account,
            status: connected.status,
            token: connected.token,
            is_update: connected.is_update,
            actor,
        };
        match self.deps.binder.bind(&grant).await {
            Ok((installation, bound)) => {
                tracing::info!(provider = %flow.provider, installation.id = %installation.id, "connected");
                let end = FlowEnd::Connected {
                    installation: installation.id,
                    reactivated: bound == Bound::Reactivated,
                    setup_action: connected.setup_action,
                };
                Step::End(end, connected.follow)
            }
            Err(error) => {
                if !matches!(error, AskError::Reply(InstallationError::AlreadyBound)) {
                    tracing::error!(provider = %flow.provider, %error, "a proved grant was not bound");
                }
                Step::End(failed(error.code(InstallationError::code)), None)
            }
        }
    }

    /// Writes how the flow ended to the row of its first leg. The state is used up: if the store fails for longer than
    /// this waits, the browser is told and the poller is not.
    async fn write_outcome(&self, flow: &OAuthFlow, end: &FlowEnd) {
        let (outcome, root) = (outcome_of(end), root_of(flow));
        for attempt in 1..=OUTCOME_TRIES {
            let now = self.deps.clock.now();
            match self.deps.store.finish_flow(&root, &outcome, now, now.plus(RESULT_LIFE)).await {
                Ok(()) => return,
                Err(error) if attempt == OUTCOME_TRIES => {
                    tracing::error!(provider = %flow.provider, %error, "how a flow ended could not be written");
                }
                Err(_) => tokio::time::sleep(OUTCOME_PAUSE).await,
            }
        }
    }
}

fn failed(code: &str) -> FlowEnd {
    FlowEnd::Failed { error: code.to_owned() }
}

fn root_of(flow: &OAuthFlow) -> TokenHash {
    flow.root_hash.unwrap_or(flow.state_hash)
}

fn outcome_of(end: &FlowEnd) -> FlowOutcome {
    let mut outcome = FlowOutcome { status: FlowStatus::Pending, error: None, installation: None, result: Map::new() };
    let setup_action = match end {
        FlowEnd::Failed { error } => {
            outcome.status = FlowStatus::Failed;
            outcome.error = Some(error.clone());
            None
        }
        FlowEnd::AwaitsApproval { setup_action } => Some(*setup_action),
        FlowEnd::Connected { installation, reactivated, setup_action } => {
            outcome.status = FlowStatus::Completed;
            outcome.installation = Some(installation.clone());
            outcome.result.insert("reactivated".into(), Value::Bool(*reactivated));
            *setup_action
        }
    };
    if let Some(action) = setup_action {
        outcome.result.insert("setupAction".into(), Value::from(action));
    }
    outcome
}

/// The code under which a provider's answer ends a flow.
fn flow_code(error: &ConnectorError) -> &'static str {
    match error {
        ConnectorError::Refused(code) => code,
        // What came back with the browser is not worth anything (any more).
        ConnectorError::Rejected | ConnectorError::Unauthorized => "invalid_code",
        ConnectorError::Gone | ConnectorError::NotAccessible => "installation_not_verified",
        ConnectorError::Suspended => "installation_not_active",
        ConnectorError::NotSupported => "provider_error",
        ConnectorError::AnswerLost | ConnectorError::Unavailable { .. } | ConnectorError::Malformed(_) => {
            "provider_unavailable"
        }
    }
}
