//! `signalbox listen`: for local development. Follows an org's events and posts, for each delivery of an event, the very
//! envelope that its destination gets to a local URL.
//!
//! An envelope belongs to a delivery. An event that no integration gets has none: it is said, with its outcome, and not
//! forwarded. Deliveries that the gateway holds back are forwarded at once; deliveries made later for an old event (a
//! replay, a reroute) are not in the stream.
//!
//! **Invariants**: the gateway is only read; nothing is skipped while the gateway or the local URL cannot be reached:
//! both are waited for; deliveries are forwarded one after the other, in the order of the stream, each once (but for those
//! of a time that a gateway's clock that was set back comes to again); only a connection that could not be made is tried
//! again; the API key is never printed.

mod gateway;
mod place;
mod sse;
mod telling;

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use url::Url;

use self::{
    gateway::{DeliveryShown, EventShown, Gateway, GatewayError, Payload},
    place::{Arrival, Place},
    telling::Teller,
};
use crate::{
    delivery::{
        client::{DeliveryClient, NOT_CONNECTED, Post},
        destination::ExtraHeaders,
        payload,
        sign::{self, SigningSecret},
    },
    model::{
        clock::{Clock as _, EpochMs, SystemClock},
        delivery::AttemptResult,
        envelope::Envelope,
        pauses::Pauses,
    },
    shutdown::StopSignals,
};

/// How long the local URL may take to answer.
const FORWARD_TIME: Duration = Duration::from_secs(30);
/// Before anything is tried again.
const PAUSES: Pauses = Pauses::doubling(Duration::from_millis(500), Duration::from_secs(10));

/// `signalbox listen`
#[derive(Args)]
pub(super) struct ListenArgs {
    /// Where to post envelopes: a URL of your own machine, as a rule.
    #[arg(long, value_name = "URL", value_parser = http_url)]
    forward: Url,
    /// The gateway. Without it: `server.public_url` of the configuration, which is this machine's unless configured.
    #[arg(long, value_name = "URL", value_parser = http_url)]
    from: Option<Url>,
    /// An API key of the gateway; one that may only read will do. Without it: `auth.service_key` of the configuration.
    #[arg(long, value_name = "KEY", env = "SIGNALBOX_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// The org to follow. An org's key knows it; a service key needs it.
    #[arg(long)]
    org: Option<String>,
    /// Only deliveries to this workspace.
    #[arg(long)]
    workspace: Option<String>,
    /// Only events of this provider; may be given several times.
    #[arg(long, value_name = "SLUG")]
    provider: Vec<String>,
    /// Only events of this key, such as `github:push`; `github:pull-request.*` is all that begin so. Several times.
    #[arg(long, value_name = "KEY")]
    event: Vec<String>,
    /// Begin with events since then: `2026-11-29T10:00:00Z`, or `90s`, `10m`, `2h`, `1d` ago. Without it: from now on.
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<EpochMs>,
    /// Sign with this secret (`whsec_…`). Without it: with one made for this run and printed.
    #[arg(long, value_name = "SECRET", env = "SIGNALBOX_LISTEN_SECRET", hide_env_values = true)]
    secret: Option<String>,
}

impl std::fmt::Debug for ListenArgs {
    /// Key and secret are secrets, and URLs may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListenArgs").field("org", &self.org).finish_non_exhaustive()
    }
}

/// Listens until it is interrupted, which is success.
pub(super) async fn run(config: Option<&Path>, arguments: &ListenArgs) -> anyhow::Result<ExitCode> {
    let mut signals = StopSignals::listen().context("cannot wait for signals")?;
    let listener = Listener::new(config, arguments)?;
    tokio::select! {
        ended = listener.listen(arguments.since) => ended,
        _ = signals.next() => Ok(ExitCode::SUCCESS),
    }
}

/// Everything a run needs.
struct Listener<'a> {
    gateway: Gateway,
    local: DeliveryClient,
    secret: SigningSecret,
    arguments: &'a ListenArgs,
    teller: Teller,
}

impl<'a> Listener<'a> {
    fn new(config: Option<&Path>, arguments: &'a ListenArgs) -> anyhow::Result<Self> {
        let (mut from, mut key) = (arguments.from.clone(), arguments.api_key.clone());
        if from.is_none() || key.is_none() {
            let config = super::load(config)?;
            from.get_or_insert(config.server.public_url);
            let configured = config.auth.service_key.as_ref().and_then(|key| key.expose_str().map(str::to_owned));
            key = key.or(configured);
        }
        let from = from.context("there is no gateway to follow")?;
        let key =
            key.context("which API key? Give --api-key or SIGNALBOX_API_KEY; a key that may only read will do")?;
        let gateway = Gateway::new(from, key.trim(), arguments.org.as_deref())?;
        let secret = match &arguments.secret {
            Some(text) => SigningSecret::parse(text).context("--secret")?,
            None => SigningSecret::generate(),
        };
        // Private networks are the point of it.
        let local = DeliveryClient::new(FORWARD_TIME, true)?;
        Ok(Self { gateway, local, secret, arguments, teller: Teller::on_stdout() })
    }

    async fn listen(&self, since: Option<EpochMs>) -> anyhow::Result<ExitCode> {
        let generated = self.arguments.secret.is_none().then(|| self.secret.to_text());
        self.teller.beginning(
            self.gateway.base().as_str(),
            self.arguments.org.as_deref(),
            self.arguments.forward.as_str(),
            generated.as_ref().map(|text| text.as_str()),
        );
        let mut place = since.map(Place::starting_at);
        let mut pauses = PAUSES;
        loop {
            let error = match self.follow(&mut place, &mut pauses).await {
                Err(GatewayError::Final(why)) => anyhow::bail!("{why}"),
                Err(GatewayError::Passing(why)) => why,
                Ok(never) => match never {},
            };
            self.wait_for_gateway(&error, &mut pauses).await;
        }
    }

    /// Follows one connection to its end.
    async fn follow(
        &self,
        place: &mut Option<Place>,
        pauses: &mut Pauses,
    ) -> Result<std::convert::Infallible, GatewayError> {
        let mut following = self.gateway.follow(place.as_ref().map(Place::resume_after)).await?;
        let place = place.get_or_insert_with(|| Place::starting_at(following.since));
        // The gateway writes at once, so that we know.
        let mut events = following.next().await?;
        pauses.start_anew();
        Teller::note("connected, waiting for events");
        loop {
            for event in &events {
                match place.take(&event.id) {
                    Arrival::Old => continue,
                    Arrival::SetBack => Teller::note("the gateway's clock was set back: going on from there"),
                    Arrival::New => {}
                }
                if self.is_wanted(event) {
                    self.handle(event).await?;
                }
            }
            events = following.next().await?;
        }
    }

    async fn wait_for_gateway(&self, why: &str, pauses: &mut Pauses) {
        let pause = pauses.next_pause();
        Teller::note(&format!("{}: {why}; trying again in {:.1} s", self.gateway.base(), pause.as_secs_f64()));
        tokio::time::sleep(pause).await;
    }

    fn is_wanted(&self, event: &EventShown) -> bool {
        let key = event.event_key.as_ref().map_or("", |key| key.as_str());
        let of_provider = self.arguments.provider.is_empty() || self.arguments.provider.contains(&event.provider);
        let of_key = self.arguments.event.is_empty() || self.arguments.event.iter().any(|wanted| matches(wanted, key));
        of_provider && of_key
    }

    /// Forwards an event's deliveries. The gateway is waited for here too: the event is not forgotten when it goes away
    /// in between.
    async fn handle(&self, event: &EventShown) -> Result<(), GatewayError> {
        let Some(event) = self.patiently(|| self.gateway.event(&event.id)).await? else {
            Teller::note(&format!("{} is gone from the gateway", event.id));
            return Ok(());
        };
        if event.deliveries.is_empty() && self.arguments.workspace.is_none() {
            self.teller.not_delivered(&event);
        }
        let wanted = |delivery: &&DeliveryShown| {
            self.arguments.workspace.as_ref().is_none_or(|only| delivery.workspace_id.as_str() == only)
        };
        let deliveries: Vec<_> = event.deliveries.iter().filter(wanted).collect();
        if deliveries.is_empty() {
            return Ok(());
        }
        let Some(payload) = self.patiently(|| self.gateway.payload(&event.id)).await? else {
            Teller::note(&format!("the payload of {} is gone from the gateway", event.id));
            return Ok(());
        };
        for delivery in deliveries {
            let body = envelope(&event, delivery, &payload)
                .ok_or_else(|| GatewayError::Final("the gateway is of another version".to_owned()))?;
            self.forward(&event, delivery, body.into()).await;
        }
        Ok(())
    }

    async fn patiently<T, F>(&self, read: impl Fn() -> F) -> Result<T, GatewayError>
    where
        F: Future<Output = Result<T, GatewayError>>,
    {
        let mut pauses = PAUSES;
        loop {
            match read().await {
                Err(GatewayError::Passing(why)) => self.wait_for_gateway(&why, &mut pauses).await,
                ended => return ended,
            }
        }
    }

    /// Posts one envelope, as soon as somebody listens there.
    async fn forward(&self, event: &EventShown, delivery: &DeliveryShown, body: Bytes) {
        let (mut pauses, mut said) = (PAUSES, false);
        loop {
            let timestamp_s = SystemClock.now().0 / 1000;
            let id = delivery.id.as_str();
            let signature = sign::signature([&self.secret], id, timestamp_s, &body);
            let answer = self
                .local
                .post(Post {
                    url: &self.arguments.forward,
                    extra_headers: &ExtraHeaders::default(),
                    webhook_id: id,
                    timestamp_s,
                    signature: signature.as_deref(),
                    correlation_id: &event.correlation_id,
                    body: body.clone(),
                })
                .await;
            match (answer.result, answer.error) {
                (AttemptResult::Answered { status, .. }, _) => {
                    return self.teller.answered(event, delivery, status, answer.took);
                }
                (_, Some(NOT_CONNECTED)) => {
                    if !said {
                        let url = &self.arguments.forward;
                        Teller::note(&format!("nobody listens at {url}: waiting, events wait at the gateway"));
                        said = true;
                    }
                    tokio::time::sleep(pauses.next_pause()).await;
                }
                (_, why) => return self.teller.unanswered(event, delivery, why.unwrap_or("no answer")),
            }
        }
    }
}

/// The body of a delivery, as the gateway's own sender makes it.
fn envelope(event: &EventShown, delivery: &DeliveryShown, payload: &Payload) -> Option<Vec<u8>> {
    let envelope = Envelope {
        event_id: event.id.clone(),
        delivery_id: event.delivery_id.clone(),
        connection_id: event.connection_id.clone(),
        org_id: event.org_id.clone()?,
        provider: event.provider.clone(),
        event_type: event.event_type.clone(),
        event_key: event.event_key.clone(),
        workspace_id: delivery.workspace_id.clone(),
        integration_id: delivery.integration_id.clone(),
        resource_id: delivery.resource_id.clone(),
        received_at: EpochMs::parse_rfc3339(&event.received_at)?,
    };
    envelope.to_body(&payload::json_of(payload.content_type.as_deref(), &payload.bytes)).ok()
}

/// Whether a key is the wanted one, or begins as `wanted` does before its `*`.
fn matches(wanted: &str, key: &str) -> bool {
    wanted.strip_suffix('*').map_or(wanted == key, |beginning| key.starts_with(beginning))
}

fn http_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or("is not a URL such as http://localhost:3000/webhooks")
}

/// A time, or how long ago.
fn since(text: &str) -> Result<EpochMs, &'static str> {
    const FORM: &str = "is neither a time such as 2026-11-29T10:00:00Z nor how long ago, such as 10m";
    if let Some(at) = EpochMs::parse_rfc3339(text) {
        return Ok(at);
    }
    let unit_at = text.find(|letter: char| !letter.is_ascii_digit()).ok_or(FORM)?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(FORM),
    };
    let ago = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds)).ok_or(FORM)?;
    Ok(SystemClock.now().minus(Duration::from_secs(ago)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_wanted_by_its_key_or_by_how_it_begins() {
        assert!(matches("github:push", "github:push") && !matches("github:push", "github:pull-request.opened"));
        assert!(matches("github:pull-request.*", "github:pull-request.opened"));
        assert!(matches("*", "") && !matches("github:push", ""), "an event without a key");
    }

    #[test]
    fn a_beginning_is_a_time_or_an_age() {
        assert_eq!(since("2026-02-25T00:40:00Z"), Ok(EpochMs(1_771_980_000_000)));
        let now = SystemClock.now();
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86_400)] {
            let found = since(text).expect("an age");
            let expected = now.minus(Duration::from_secs(seconds));
            assert!(found.since(expected) < Duration::from_mins(1) && expected.since(found).is_zero(), "{text}");
        }
        for wrong in ["", "10", "m", "10 m", "-1m", "yesterday", "99999999999999999999d"] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }
}
