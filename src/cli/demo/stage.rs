//! Plays the demo's events and follows each from its webhook to its deliveries.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use url::Url;

use super::{
    connecting::connect_all,
    script::{ACCOUNT, EVENTS, ORG, REFUSES_ONCE, WORKSPACES, Workspace},
    telling::Teller,
};
use crate::{
    model::clock::{Clock, SystemClock},
    sim::{
        self, Dice, Facts, SignedRequest, SimulatedProvider,
        client::{Answer, Client},
        operator::Operator,
        sink::{Behaviour, EnvelopeIds, Received, SignatureVerdict, Sink},
        world::{Simulators, Visit},
    },
};

/// How long one event may be on its way, its retry included.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway with its installations, workspaces and destinations, and everybody who talks to it.
pub(super) struct Stage {
    address: SocketAddr,
    operator: Operator,
    world: Simulators,
    provider_side: Client,
    arrivals: mpsc::UnboundedReceiver<Received>,
    teller: Teller,
    seed: u64,
    /// Whether somebody else may cause deliveries, too: who was told where the console is.
    has_guests: bool,
    delivered: usize,
    passed_over: usize,
}

impl Stage {
    /// Connects the providers and subscribes the workspaces.
    pub async fn set(
        address: SocketAddr,
        service_key: &str,
        sink: &Sink,
        world: Simulators,
        teller: Teller,
    ) -> anyhow::Result<Self> {
        teller.heading("Signalbox demo: nothing here needs an account, and everything goes when you stop it");
        teller.fact("gateway", &format!("http://{address}"));
        teller.fact("sink", &sink.url("/"));
        let mut operator = Operator::new(address, service_key, ORG);
        // Who opens the sink's address in a browser reads what it is.
        let about =
            "This is the demo's receiver: deliveries are posted to /deliveries, and shown where the demo runs.\n";
        sink.behave("/", Behaviour::Answer { status: 200, headers: Vec::new(), body: about.to_owned() });
        let arrivals = sink.follow();
        sink.expect_signed("/deliveries", &operator.set_destination(None, &sink.url("/deliveries")).await?);
        let refusing = format!("/{REFUSES_ONCE}");
        sink.expect_signed(&refusing, &operator.set_destination(Some(REFUSES_ONCE), &sink.url(&refusing)).await?);
        sink.behave(&refusing, Behaviour::InTurn(vec![Behaviour::status_only(503), Behaviour::ok()]));

        connect_all(&mut operator, &world, &teller).await?;
        let provider_side = Client::new(address);
        // A new demo, new ids; within a demo everything follows from here.
        let seed = u64::try_from(SystemClock.now().0).unwrap_or_default();
        Ok(Self {
            address,
            operator,
            world,
            provider_side,
            arrivals,
            teller,
            seed,
            has_guests: false,
            delivered: 0,
            passed_over: 0,
        })
    }

    /// Plays every event once, then what a provider does now and then: sends one twice, and one that is not genuine.
    pub async fn play_script(&mut self) -> anyhow::Result<()> {
        let mut first = None;
        for kind in EVENTS {
            let (provider, facts) = self.next_event(kind)?;
            self.play(provider, kind, &facts).await.inspect_err(|error| self.teller.wrong(&error.to_string()))?;
            first.get_or_insert((provider, kind, facts));
        }
        let (provider, kind, facts) = first.context("the script is empty")?;
        let request = provider.event(kind, &facts, provider.secret.as_bytes()).context("an unknown kind")?;
        let answer = self.post(provider, kind, &request).await?;
        ensure!(member(&answer, "status") == "duplicate", "a redelivery was not recognised");
        self.teller.passed_over("", "seen before: delivered once, acknowledged again");

        let (provider, facts) = self.next_event(kind)?;
        let request = provider.event(kind, &facts, b"not the secret").context("an unknown kind")?;
        let answer = self.post(provider, kind, &request).await?;
        ensure!(answer.status == 401, "a wrong signature was answered {}", answer.status);
        self.teller.passed_over("", "kept in quarantine, delivered to nobody");

        if let Ok(stray) = self.arrivals.try_recv() {
            bail!("a delivery nobody expected: {} on {}", stray.webhook_id, stray.path);
        }
        self.teller.heading(&format!(
            "{} webhooks became {} deliveries; {} subscriptions did not want them, and said so",
            EVENTS.len(),
            self.delivered,
            self.passed_over
        ));
        Ok(())
    }

    /// Says where the gateway can be looked at, and lets people connect another account by hand.
    pub async fn tell_where_to_look(&mut self, service_key: &str, console: Option<&Url>) -> anyhow::Result<()> {
        self.has_guests = true;
        self.teller.heading("Still running; Ctrl-C ends it. Look around:");
        let url = format!("http://{}", self.address);
        if let Some(console) = console {
            self.teller.fact("console", &format!("{console}?org={ORG}"));
            self.teller.fact("sign in with", service_key);
        }
        self.teller.fact("API", &url);
        self.teller.fact(
            "events",
            &format!("curl -s -H 'X-API-Key: {service_key}' -H 'X-Org-Id: {ORG}' '{url}/events?limit=5'"),
        );
        self.teller.fact("metrics", &format!("curl -s {url}/metrics"));
        self.world.visitors_will(&Visit { interactive: true, ..Visit::of_account(2) });
        for provider in sim::PROVIDERS {
            let (url, _) = self.operator.begin_connecting(provider).await?;
            self.teller.fact(&format!("+ {}", provider.slug), &format!("{url}  (in a browser, within ten minutes)"));
        }
        Ok(())
    }

    /// Plays an event of the script now and then, for ever.
    pub async fn keep_playing(&mut self, pause: Duration) -> anyhow::Result<()> {
        let mut dice = Dice::new(self.seed);
        loop {
            self.watch_arrivals(pause).await;
            let kind = dice.pick(&EVENTS).copied().context("the script is empty")?;
            let (provider, facts) = self.next_event(kind)?;
            if let Err(error) = self.play(provider, kind, &facts).await {
                self.teller.wrong(&error.to_string());
            }
        }
    }

    /// Shows what arrives while nothing is played: what somebody sent by hand, and what comes late after a mistake.
    async fn watch_arrivals(&mut self, pause: Duration) {
        let watched = async {
            while let Some(received) = self.arrivals.recv().await {
                self.teller.sent_by_hand(&received);
            }
        };
        // It ends by the clock: the sink outlives the stage.
        let _ended = timeout(pause, watched).await;
    }

    fn next_event(&mut self, kind: &str) -> anyhow::Result<(&'static SimulatedProvider, Facts)> {
        let slug = kind.split(':').next().unwrap_or_default();
        let provider = sim::find(slug).with_context(|| format!("nobody simulates {slug}"))?;
        self.seed += 1;
        let facts = self.world.facts(slug, ACCOUNT, self.seed).with_context(|| format!("nobody simulates {slug}"))?;
        Ok((provider, facts))
    }

    async fn post(
        &mut self,
        provider: &SimulatedProvider,
        kind: &str,
        request: &SignedRequest,
    ) -> anyhow::Result<Answer> {
        let answer = self.provider_side.post_webhook(provider.slug, request).await?;
        let word = ["status", "error"].map(|name| member(&answer, name)).concat();
        let word = [word, member(&answer, "outcome")].join(" ");
        self.teller.webhook(provider.slug, kind, answer.status, word.trim(), &member(&answer, "eventId"));
        Ok(answer)
    }

    /// One event: posted, followed to every workspace that should get it, explained for those that do not.
    async fn play(&mut self, provider: &SimulatedProvider, kind: &str, facts: &Facts) -> anyhow::Result<()> {
        let request = provider.event(kind, facts, provider.secret.as_bytes()).context("an unknown kind")?;
        let posted = Instant::now();
        let answer = self.post(provider, kind, &request).await?;
        let mut missing: BTreeSet<&str> =
            WORKSPACES.iter().filter(|workspace| workspace.expects(provider.slug, kind)).map(|w| w.name).collect();
        let outcome = if missing.is_empty() { "filtered" } else { "routed" };
        ensure!(
            answer.status == 200 && member(&answer, "outcome") == outcome,
            "{kind} should have been {outcome}: {}",
            String::from_utf8_lossy(&answer.body)
        );
        let event_id = member(&answer, "eventId");
        while !missing.is_empty() {
            let left = PATIENCE.saturating_sub(posted.elapsed());
            let Ok(Some(received)) = timeout(left, self.arrivals.recv()).await else {
                bail!("{kind} did not reach {missing:?} within {} s", PATIENCE.as_secs());
            };
            self.check_arrival(&received, &event_id, &request, &mut missing, posted)?;
        }
        self.explain(provider, kind, &event_id).await
    }

    fn check_arrival(
        &mut self,
        received: &Received,
        event_id: &str,
        request: &SignedRequest,
        missing: &mut BTreeSet<&str>,
        posted: Instant,
    ) -> anyhow::Result<()> {
        let is_ours = |of: &EnvelopeIds| of.event_id == event_id;
        if self.has_guests && !received.envelope.as_ref().is_some_and(is_ours) {
            self.teller.sent_by_hand(received);
            return Ok(());
        }
        let ids = received.envelope.as_ref().context("a delivery without an envelope")?;
        self.teller.attempt(&ids.workspace_id, received, received.instant.saturating_duration_since(posted));
        ensure!(
            received.signature == SignatureVerdict::Valid,
            "a delivery is not signed with its destination's secret"
        );
        ensure!(ids.event_id == event_id, "a delivery of another event: {}", ids.event_id);
        ensure!(received.payload() == Some(&request.body[..]), "the payload is not the provider's, byte for byte");
        if received.answered == Some(200) {
            ensure!(
                missing.remove(ids.workspace_id.as_str()),
                "{} should not get this, or not again",
                ids.workspace_id
            );
            self.delivered += 1;
        }
        Ok(())
    }

    /// Shows why subscribed workspaces do not get the event.
    async fn explain(&mut self, provider: &SimulatedProvider, kind: &str, event_id: &str) -> anyhow::Result<()> {
        let subscribed = |workspace: &&Workspace| workspace.wants.iter().any(|(of, _)| *of == provider.slug);
        let passed_over: Vec<&Workspace> =
            WORKSPACES.iter().filter(subscribed).filter(|w| !w.expects(provider.slug, kind)).collect();
        if passed_over.is_empty() {
            return Ok(());
        }
        let explained = self.operator.ask("GET", &format!("/events/{event_id}/explain"), None).await?;
        let considered = ["/considered", "/decision/considered", "/integrations"]
            .iter()
            .find_map(|pointer| explained.pointer(pointer)?.as_array())
            .cloned()
            .unwrap_or_default();
        for workspace in passed_over {
            let reason = considered.iter().find(|entry| entry["workspaceId"] == workspace.name);
            let reason = reason.and_then(|entry| entry["reason"].as_str());
            let reason =
                reason.with_context(|| format!("nothing explains why {} does not get {kind}", workspace.name))?;
            ensure!(reason.starts_with("filtered"), "{} does not get {kind}: {reason}", workspace.name);
            self.teller.passed_over(workspace.name, reason);
            self.passed_over += 1;
        }
        Ok(())
    }
}

fn member(answer: &Answer, name: &str) -> String {
    answer.json().get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}
