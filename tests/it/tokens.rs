//! Tokens through the front door: one renewal for everybody, on two nodes too; what outages, lost answers and verdicts
//! do to a connection.

use std::{collections::HashSet, time::Duration};

use serde_json::{Value, json};
use signalbox::{
    model::clock::{Clock as _, SystemClock},
    sim::{
        browser::Browser,
        client::Answer,
        operator::Operator,
        world::{self, Fault, FaultRule, JournalEntry, Loss, Simulators, Visit},
    },
};

use crate::support::{App, Backend, Options, on_both};

const CONSOLE: &str = "http://localhost:4107";
const ORG: &str = "org";
const TOKEN_CALL: &str = "POST /oauth/token";
const SOON: Duration = Duration::from_secs(30);

/// A gateway among simulated providers.
struct Stage {
    app: App,
    world: Simulators,
}

impl Stage {
    async fn set(backend: Backend) -> Self {
        let world = Simulators::start(&world::Options::default()).await.expect("ports");
        let options =
            world.urls().into_iter().fold(Options::default(), |options, (name, url)| options.with(name, &url));
        let app = App::start(backend, options.with("SIGNALBOX_CONSOLE__URL", CONSOLE)).await;
        world.gateway_is_at(&format!("http://{}", app.address()));
        Self { app, world }
    }

    /// Connects the first account through a browser; the connection's id.
    async fn connect(&self, provider: &str) -> String {
        self.connect_account(provider, 1).await
    }

    async fn connect_account(&self, provider: &str, account: u32) -> String {
        let mut operator = self.app.operator(ORG);
        let begun = operator.ask("GET", &format!("/connections/{provider}/authorize"), None).await.expect("begun");
        let mut browser = Browser::new().stopping_at(CONSOLE).with_visit(Visit::of_account(account));
        let page = browser.visit(begun["url"].as_str().expect("a URL")).await.expect("a page");
        assert_eq!(page.parameter("error"), None, "{}", page.url);
        let path = format!("/connections/oauth/status?state={}", begun["state"].as_str().expect("a state"));
        let status = operator.ask("GET", &path, None).await.expect("a status");
        status["connectionId"].as_str().unwrap_or_else(|| panic!("not connected: {status}")).to_owned()
    }

    async fn token(&self, id: &str) -> Answer {
        ask_for_token(&mut self.app.operator(ORG), id).await
    }

    async fn connection(&self, id: &str) -> Value {
        self.app.operator(ORG).ask("GET", &format!("/connections/{id}"), None).await.expect("a connection")
    }

    /// Makes the kept token one that has ended, as time does.
    async fn expire(&self) {
        self.app.write_rows("UPDATE gw_tokens SET expires_at = 1000").await;
    }

    fn refreshes(&self) -> Vec<JournalEntry> {
        let calls = self.world.linear.calls(TOKEN_CALL);
        let is_refresh =
            |call: &JournalEntry| call.call.form().is_some_and(|form| form["grant_type"] == "refresh_token");
        calls.into_iter().filter(is_refresh).collect()
    }

    /// How often this happened to the connection.
    async fn times_logged(&self, id: &str, action: &str) -> usize {
        let path = format!("/connections/{id}/log?limit=100");
        let log = self.app.operator(ORG).ask("GET", &path, None).await.expect("a log");
        log["items"].as_array().expect("items").iter().filter(|entry| entry["action"] == action).count()
    }
}

async fn ask_for_token(operator: &mut Operator, id: &str) -> Answer {
    operator.call("GET", &format!("/connections/{id}/token"), None).await.expect("an answer")
}

fn access_token(answer: &Answer) -> String {
    let body = answer.json();
    assert_eq!(answer.status, 200, "{body}");
    body["accessToken"].as_str().expect("a token").to_owned()
}

fn error(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["error"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_askers_on_two_nodes_refresh_an_ended_token_once_and_none_gets_the_old_one() {
    let Some(backend) = Backend::postgres().await else { return };
    let stage = Stage::set(backend).await;
    let second = stage.app.start_beside().await;
    let id = stage.connect("linear").await;
    let old = access_token(&stage.token(&id).await);
    // Slow enough that every asker of both nodes is there before the answer.
    stage.world.linear.fail(FaultRule::always(TOKEN_CALL, Fault::Delay { ms: 1500 }));
    stage.expire().await;
    let asking = (0..100).map(|asker| {
        let node = if asker % 2 == 0 { &stage.app } else { &second };
        let (mut operator, id) = (node.operator(ORG), id.clone());
        tokio::spawn(async move { access_token(&ask_for_token(&mut operator, &id).await) })
    });
    let mut tokens = HashSet::new();
    for asked in asking.collect::<Vec<_>>() {
        tokens.insert(asked.await.expect("no panic"));
    }
    assert_eq!(stage.refreshes().len(), 1, "{:?}", stage.world.linear.call_lines());
    assert_eq!(tokens.len(), 1, "everybody has the same");
    assert!(!tokens.contains(&old));
    let refused = second.operator(ORG).call("GET", "/connections/in_nobody/token", None).await.expect("an answer");
    assert_eq!(error(&refused), (404, "not_found".into()));
    second.leave().await;
    stage.app.finish_without(&stage.world.issued()).await;
}

on_both! {
    async fn a_token_that_lives_is_handed_out_without_asking_the_provider(backend) {
        let stage = Stage::set(backend).await;
        let id = stage.connect("linear").await;
        let first = access_token(&stage.token(&id).await);
        assert_eq!(access_token(&stage.token(&id).await), first);
        assert_eq!(stage.refreshes().len(), 0);
        let answer = stage.token(&id).await.json();
        assert_eq!(answer["provider"], "linear");
        assert!(answer["expiresIn"].as_u64().is_some_and(|seconds| seconds > 80_000), "{}", answer["expiresIn"]);
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn a_minted_token_is_asked_for_once_and_kept_nowhere(backend) {
        let stage = Stage::set(backend).await;
        let id = stage.connect("github").await;
        let asking: Vec<_> = (0..30)
            .map(|_asker| {
                let (mut operator, id) = (stage.app.operator(ORG), id.clone());
                tokio::spawn(async move { access_token(&ask_for_token(&mut operator, &id).await) })
            })
            .collect();
        let mut tokens = HashSet::new();
        for asked in asking {
            tokens.insert(asked.await.expect("no panic"));
        }
        assert_eq!(tokens.len(), 1);
        assert_eq!(stage.world.github.calls("POST /app/installations/*/access_tokens").len(), 1);
        assert_eq!(stage.connection(&id).await["hasToken"], json!(true));
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn a_minted_token_does_not_outlive_a_suspension(backend) {
        let stage = Stage::set(backend).await;
        let id = stage.connect("github").await;
        let before = access_token(&stage.token(&id).await);
        for act in ["suspend", "unsuspend"] {
            stage.world.github.act(act, 1, &json!({})).await.expect("done");
        }
        assert_ne!(access_token(&stage.token(&id).await), before);
        assert_eq!(stage.world.github.calls("POST /app/installations/*/access_tokens").len(), 2);
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn a_token_of_an_installation_that_is_gone_is_refused_at_once_as_it_is_from_then_on(backend) {
        let stage = Stage::set(backend).await;
        let id = stage.connect("github").await;
        stage.world.github.set(|github| github.loss = Loss::Traceless);
        stage.world.github.act("uninstall", 1, &json!({})).await.expect("done");
        for _again in 0..2 {
            let refused = stage.token(&id).await;
            assert_eq!(error(&refused), (400, "installation_not_active".into()));
            assert_eq!(refused.json()["connectionStatus"], "revoked");
        }
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn after_a_lost_answer_a_provider_with_grace_gives_the_same_pair_again(backend) {
        let stage = Stage::set(backend).await;
        stage.world.linear.tune(|knobs| knobs.refresh_grace_s = 1800);
        let id = stage.connect("linear").await;
        let old = access_token(&stage.token(&id).await);
        stage.world.linear.fail(FaultRule::once(TOKEN_CALL, Fault::LoseAnswer));
        stage.expire().await;
        let new = access_token(&stage.token(&id).await);
        assert_ne!(new, old);
        assert_eq!(stage.refreshes().len(), 2, "{:?}", stage.world.linear.call_lines());
        assert_eq!(stage.connection(&id).await["status"], "active");
        // What was kept is the pair that the provider knows.
        stage.expire().await;
        assert_ne!(access_token(&stage.token(&id).await), new);
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn after_a_lost_answer_a_provider_without_grace_leaves_a_connection_that_says_so(backend) {
        let stage = Stage::set(backend).await;
        let id = stage.connect("linear").await;
        stage.world.linear.fail(FaultRule::once(TOKEN_CALL, Fault::LoseAnswer));
        stage.expire().await;
        assert_eq!(error(&stage.token(&id).await), (401, "token_expired".into()));
        let connection = stage.connection(&id).await;
        assert_eq!((&connection["status"], &connection["health"]), (&json!("needs_reauth"), &json!("needs_reauth")));
        assert_eq!(stage.times_logged(&id, "installation.needs_reauth").await, 1);
        let asked = stage.refreshes().len();
        assert_eq!(error(&stage.token(&id).await), (401, "token_expired".into()));
        assert_eq!(stage.refreshes().len(), asked, "a dead grant is not asked about again");
        // Connecting again mends it, under the same id.
        assert_eq!(stage.connect("linear").await, id);
        access_token(&stage.token(&id).await);
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn sentrys_word_that_a_grant_is_invalid_is_a_verdict_and_no_other_refusal_is(backend) {
        let stage = Stage::set(backend).await;
        let id = stage.connect("sentry").await;
        let refresh = "POST /api/0/sentry-app-installations/*/authorizations/";
        let refusing = |told: &str| {
            let body = json!({"error": told});
            FaultRule::always(refresh, Fault::Status { status: 400, headers: Vec::new(), body })
        };
        stage.expire().await;
        stage.world.sentry.fail(refusing("invalid_request"));
        assert_eq!(error(&stage.token(&id).await), (502, "token_generation_failed".into()));
        assert_eq!(stage.connection(&id).await["status"], "active");
        stage.world.sentry.heal();
        stage.world.sentry.fail(refusing("invalid_grant"));
        assert_eq!(error(&stage.token(&id).await), (401, "token_expired".into()));
        assert_eq!(stage.connection(&id).await["status"], "needs_reauth");
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn an_outage_changes_no_state_and_a_token_that_lives_is_handed_out_through_it(backend) {
        let stage = Stage::set(backend).await;
        let id = stage.connect("linear").await;
        let old = access_token(&stage.token(&id).await);
        stage.world.linear.fail(FaultRule::times(TOKEN_CALL, 1, Fault::too_many_requests(1)));
        stage.world.linear.fail(FaultRule::always(TOKEN_CALL, Fault::status(503)));
        // Within its margin: time to renew, and it lives for minutes yet.
        let now = SystemClock.now().0;
        let near = format!("UPDATE gw_tokens SET expires_at = {}, updated_at = {}", now + 200_000, now - 86_000_000);
        stage.app.write_rows(&near).await;
        assert_eq!(access_token(&stage.token(&id).await), old);
        assert!(!stage.refreshes().is_empty(), "it was time to try");
        stage.expire().await;
        assert_eq!(error(&stage.token(&id).await), (502, "token_generation_failed".into()));
        let shown = stage.connection(&id).await;
        assert_eq!((&shown["health"], &shown["status"]), (&json!("degraded"), &json!("active")), "told at once");
        stage.world.linear.heal();
        assert_ne!(access_token(&stage.token(&id).await), old);
        assert_eq!(stage.connection(&id).await["health"], "ok", "told at once");
        assert_eq!(stage.times_logged(&id, "installation.needs_reauth").await, 0);
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn a_token_near_its_end_is_renewed_without_anybody_asking(backend) {
        let stage = Stage::set(backend).await;
        let id = stage.connect("linear").await;
        stage.expire().await;
        let renewed = stage.world.linear.wait_until("a refresh", SOON, |journal, _sent| {
            journal.iter().filter(|call| call.is(TOKEN_CALL)).count() == 2
        });
        renewed.await.expect("the janitor renews it");
        access_token(&stage.token(&id).await);
        assert_eq!(stage.refreshes().len(), 1);
        stage.app.finish_without(&stage.world.issued()).await;
    }

    async fn a_provider_that_hangs_keeps_no_others_tokens_from_being_renewed(backend) {
        const SENTRY_CALL: &str = "POST /api/0/sentry-app-installations/*/authorizations/";
        let stage = Stage::set(backend).await;
        // As many as are asked for at once.
        for account in 1..=4 {
            stage.connect_account("linear", account).await;
        }
        let sentry = stage.connect("sentry").await;
        stage.world.linear.fail(FaultRule::always(TOKEN_CALL, Fault::Hang));
        let ended = format!("UPDATE gw_tokens SET expires_at = CASE WHEN installation_id = '{sentry}' THEN 2000 ELSE 1000 END");
        stage.app.write_rows(&ended).await;
        let asked = stage.world.linear.wait_until("a call that hangs", SOON, |journal, _sent| {
            journal.iter().filter(|call| call.is(TOKEN_CALL)).count() > 4
        });
        asked.await.expect("the janitor asks");
        // A call that hangs takes more than twice that time, and each of them is made twice.
        let renewed = stage.world.sentry.wait_until("a refresh", Duration::from_secs(5), |journal, _sent| {
            journal.iter().filter(|call| call.is(SENTRY_CALL)).count() == 2
        });
        renewed.await.expect("its token is renewed");
        stage.world.linear.heal();
        stage.app.finish_without(&stage.world.issued()).await;
    }
}
