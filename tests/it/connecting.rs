//! Connecting, through the front door: browsers with cookies, simulated providers, every way a flow can end.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use signalbox::{
    model::clock::{Clock as _, SystemClock},
    sim::{
        browser::{Browser, Page},
        client::Answer,
        sink::Sink,
        world::{self, Choice, Fault, FaultRule, JournalEntry, Sent, Simulators, Visit},
    },
};
use url::Url;

use crate::support::{App, Backend, Options, on_both};

const CONSOLE: &str = "http://localhost:4107";
const FOLLOW: &str = "SIGNALBOX_PROVIDERS__VERCEL__FOLLOW_NEXT";
/// By which Sentry is told that an installation has arrived.
const CONFIRM: &str = "PUT /api/0/sentry-app-installations/*/";
/// The janitor looks every quarter minute.
const SOON: Duration = Duration::from_mins(1);
const COOKIE: &str = "signalbox_connect";

/// A gateway among simulated providers, with an external console that is not there.
struct Stage {
    app: App,
    world: Simulators,
}

impl Stage {
    async fn set(backend: Backend) -> Self {
        // Otherwise Vercel's own page would be the end of its flows.
        Self::set_with(backend, Options::default().with(FOLLOW, "false")).await
    }

    async fn set_with(backend: Backend, options: Options) -> Self {
        let world = Simulators::start(&world::Options::default()).await.expect("ports");
        let options = world.urls().into_iter().fold(options, |options, (name, url)| options.with(name, &url));
        let options = options.with("SIGNALBOX_CONSOLE__URL", CONSOLE);
        let app = App::start(backend, options).await;
        world.gateway_is_at(&origin(&app));
        Self { app, world }
    }

    /// With a backfill service that listens.
    async fn set_with_backfill() -> (Self, Sink) {
        let backfill = Sink::start().await.expect("a port");
        let options = Options::default()
            .with(FOLLOW, "false")
            .with("SIGNALBOX_BACKFILL__URL", &backfill.url("/backfill"))
            .with("SIGNALBOX_BACKFILL__API_KEY", "the-backfill-services-key");
        (Self::set_with(Backend::sqlite(), options).await, backfill)
    }

    async fn authorize(&self, org: &str, provider: &str, redirect_to: Option<&str>) -> Flow {
        let begun = self.app.operator(org).ask("GET", &authorize_path(provider, redirect_to), None).await;
        let begun = begun.expect("begun");
        let text = |name: &str| begun[name].as_str().expect("text").to_owned();
        Flow { org: org.to_owned(), url: text("url"), state: text("state") }
    }

    async fn status(&self, flow: &Flow) -> Value {
        self.status_for(&flow.org, &flow.state).await
    }

    async fn status_for(&self, org: &str, state: &str) -> Value {
        let path = format!("/connections/oauth/status?state={state}");
        self.app.operator(org).ask("GET", &path, None).await.expect("a status")
    }

    /// A whole flow in one browser; where it ended, and its status.
    async fn connect(&self, org: &str, provider: &str, visit: Visit) -> (Page, Value) {
        let flow = self.authorize(org, provider, None).await;
        let mut browser = browser().with_visit(visit);
        let page = browser.visit(&flow.url).await.expect("a page");
        let status = self.status(&flow).await;
        (page, status)
    }

    async fn connection(&self, org: &str, id: &str) -> Value {
        self.app.operator(org).ask("GET", &format!("/connections/{id}"), None).await.expect("a connection")
    }

    async fn call(&self, org: &str, method: &str, path: &str) -> Answer {
        self.app.operator(org).call(method, path, None).await.expect("an answer")
    }

    /// The connection, once it is active without anybody's doing.
    async fn until_active(&self, org: &str, id: &str) -> Value {
        let deadline = Instant::now() + SOON;
        loop {
            let connection = self.connection(org, id).await;
            if connection["status"] == "active" {
                return connection;
            }
            assert!(Instant::now() < deadline, "{connection:#}\n{}", self.app.log_text());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Until the connection says so of its health.
    async fn until_health(&self, org: &str, id: &str, health: &str) {
        let deadline = Instant::now() + SOON;
        loop {
            let connection = self.connection(org, id).await;
            if connection["health"] == health {
                return;
            }
            assert!(Instant::now() < deadline, "{connection:#}\n{}", self.app.log_text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How often the backfill service was asked for a run of the connection, once it was so often.
    async fn backfills(&self, org: &str, id: &str, at_least: usize) -> usize {
        let deadline = Instant::now() + SOON;
        loop {
            let path = format!("/connections/{id}/backfill-runs");
            let runs = self.app.operator(org).ask("GET", &path, None).await.expect("runs");
            let count = runs["items"].as_array().expect("items").len();
            if count >= at_least {
                return count;
            }
            assert!(Instant::now() < deadline, "{runs:#}\n{}", self.app.log_text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn connections(&self, org: &str) -> Vec<Value> {
        let listed = self.app.operator(org).ask("GET", "/connections", None).await.expect("a list");
        listed["items"].as_array().expect("items").clone()
    }

    /// The id of the first account's installation at its provider.
    fn external_id(&self, provider: &str) -> String {
        match provider {
            "github" => self.world.github.facts(1, 1).external_id,
            "vercel" => self.world.vercel.facts(1, 1).external_id,
            "linear" => self.world.linear.facts(1, 1).external_id,
            "sentry" => self.world.sentry.facts(1, 1).external_id,
            other => panic!("{other} is not simulated"),
        }
    }

    /// One hop of a browser at the gateway, by hand.
    async fn hop(&self, url: &str, cookie: Option<&str>) -> Answer {
        self.hop_accepting(url, cookie, "application/json").await
    }

    async fn hop_accepting(&self, url: &str, cookie: Option<&str>, accept: &str) -> Answer {
        let url = Url::parse(url).expect("a URL");
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let cookie = cookie.map(|value| format!("{COOKIE}={value}"));
        let mut headers = vec![("accept", accept)];
        headers.extend(cookie.as_deref().map(|cookie| ("cookie", cookie)));
        self.app.send("GET", path, &headers, "").await
    }

    /// Opens the launch page; the browser's cookie and the provider's page.
    async fn launch(&self, flow: &Flow, cookie: Option<&str>) -> (String, String) {
        let launched = self.hop(&flow.url, cookie).await;
        assert_eq!(launched.status, 302, "{}", launched.json());
        (cookie_of(&launched).expect("a cookie"), location(&launched))
    }

    /// What the provider sends a person back with who does this; the browser stops before it.
    async fn come_back(&self, providers_page: &str, visit: Visit) -> String {
        let mut browser = Browser::new().stopping_at(&origin(&self.app)).with_visit(visit);
        let page = browser.visit(providers_page).await.expect("a page");
        assert!(page.was_stopped(), "{}: {}", page.url, page.body);
        page.url.to_string()
    }

    /// Goes on by hand until the provider's last answer is on its way to us: the callback that completes the flow.
    async fn last_callback(&self, flow: &Flow, visit: Visit) -> (String, String) {
        let (cookie, mut page) = self.launch(flow, None).await;
        loop {
            let callback = self.come_back(&page, visit.clone()).await;
            if callback.contains("code=") {
                return (cookie, callback);
            }
            let hop = self.hop(&callback, Some(&cookie)).await;
            assert_eq!(hop.status, 302, "{}", hop.json());
            page = location(&hop);
        }
    }

    /// Ends the test: nothing of these flows may be in the log.
    async fn finish(self, flows: &[&Flow]) {
        let states = flows.iter().map(|flow| flow.state.clone());
        let secrets: Vec<String> = states.chain(self.world.issued()).collect();
        self.app.finish_without(&secrets).await;
    }
}

#[derive(Debug)]
struct Flow {
    org: String,
    url: String,
    state: String,
}

fn origin(app: &App) -> String {
    format!("http://{}", app.address())
}

fn authorize_path(provider: &str, redirect_to: Option<&str>) -> String {
    let mut path = format!("/connections/{provider}/authorize");
    if let Some(address) = redirect_to {
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("redirect_to", address).finish();
        path.push('?');
        path.push_str(&query);
    }
    path
}

fn browser() -> Browser {
    Browser::new().stopping_at(CONSOLE)
}

fn location(answer: &Answer) -> String {
    answer.headers.get("location").expect("a location").to_owned()
}

fn cookie_of(answer: &Answer) -> Option<String> {
    let set = answer.headers.get("set-cookie")?;
    let (_, rest) = set.split_once('=')?;
    Some(rest.split(';').next()?.to_owned())
}

fn ends_on(page: &Page) -> String {
    format!("{}{}", page.url.origin().ascii_serialization(), page.url.path())
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["error"].as_str().unwrap_or_default().to_owned())
}

fn bad_state() -> (u16, String) {
    (400, "invalid_or_expired_state".to_owned())
}

fn parameter(url: &str, name: &str) -> Option<String> {
    let url = Url::parse(url).expect("a URL");
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// The URL with one parameter set to another value.
fn with_parameter(url: &str, name: &str, value: Option<&str>) -> String {
    let mut url = Url::parse(url).expect("a URL");
    let kept: Vec<(String, String)> = url.query_pairs().into_owned().filter(|(key, _)| key != name).collect();
    url.query_pairs_mut().clear().extend_pairs(kept).extend_pairs(value.map(|value| (name, value)));
    url.into()
}

const PROVIDERS: [&str; 4] = ["github", "vercel", "linear", "sentry"];
/// Sentry's page refuses an organisation that has the app.
const CONNECTED_AGAIN: [&str; 3] = ["github", "vercel", "linear"];

on_both! {
    async fn every_provider_connects_in_a_browser_and_the_org_that_asked_has_the_connection(backend) {
        let stage = Stage::set(backend).await;
        let mut flows = Vec::new();
        for provider in PROVIDERS {
            let flow = stage.authorize("org_a", provider, None).await;
            assert!(flow.url.starts_with(&format!("{}/connect/{provider}/", origin(&stage.app))), "{}", flow.url);
            assert_eq!(stage.status(&flow).await, json!({"status": "pending"}));

            let mut browser = browser();
            let page = browser.visit(&flow.url).await.expect("a page");
            assert_eq!(ends_on(&page), format!("{CONSOLE}/{provider}/connected"), "{}", page.url);
            assert_eq!(page.parameter("error"), None, "{provider}");
            assert_eq!(page.parameter("reactivated"), None, "{provider}");
            let launch = page.hop(Url::parse(&flow.url).expect("a URL").path()).expect("the launch page");
            let set = launch.set_cookies.first().expect("a cookie");
            for attribute in ["signalbox_connect=", "HttpOnly", "SameSite=Lax", "Path=/"] {
                assert!(set.contains(attribute), "{set}");
            }

            let status = stage.status(&flow).await;
            assert_eq!(status["status"], "completed", "{status}");
            assert_eq!(status["provider"], provider);
            assert_eq!(status["reactivated"], false);
            let id = status["connectionId"].as_str().expect("an id");
            let connection = stage.connection("org_a", id).await;
            assert_eq!(connection["status"], "active", "{connection}");
            assert_eq!(connection["orgId"], "org_a");
            assert_eq!(connection["externalId"], stage.external_id(provider));

            let log = stage.app.operator("org_a").ask("GET", &format!("/connections/{id}/log"), None).await;
            let log = log.expect("a log");
            let first = log["items"].as_array().expect("items").last().expect("an entry").clone();
            assert_eq!(first["action"], "installation.connected", "{log}");
            assert_eq!(first["to"], "active");
            assert_eq!(first["actor"]["who"], "key:key_bootstrap");
            assert_eq!(first["actor"]["from"], "127.0.0.1");

            let elsewhere = stage.app.operator("org_b").call("GET", &format!("/connections/{id}"), None).await;
            assert_eq!(elsewhere.expect("an answer").status, 404);
            flows.push(flow);
        }
        assert_eq!(stage.connections("org_a").await.len(), PROVIDERS.len());
        let flows: Vec<&Flow> = flows.iter().collect();
        stage.finish(&flows).await;
    }

    async fn who_began_to_connect_is_in_the_orgs_log(backend) {
        let stage = Stage::set(backend).await;
        let flow = stage.authorize("org_a", "linear", None).await;
        let log = stage.app.operator("org_a").ask("GET", "/admin/audit", None).await.expect("a log");
        let entry = &log["items"][0];
        assert_eq!((&entry["action"], &entry["reason"]), (&json!("connecting.began"), &json!("linear")), "{log:#}");
        assert_eq!((&entry["actor"]["who"], &entry["actor"]["from"]), (&json!("key:key_bootstrap"), &json!("127.0.0.1")));
        assert!(!log.to_string().contains(&flow.state), "the state is the caller's alone");
        let elsewhere = stage.app.operator("org_b").ask("GET", "/admin/audit", None).await.expect("a log");
        assert_eq!(elsewhere["items"], json!([]));
        stage.finish(&[&flow]).await;
    }

    async fn connecting_again_keeps_the_connection_and_says_so(backend) {
        let stage = Stage::set(backend).await;
        for provider in CONNECTED_AGAIN {
            let (_, first) = stage.connect("org_a", provider, Visit::default()).await;
            let flow = stage.authorize("org_a", provider, None).await;
            let (page, again) = stage.connect("org_a", provider, Visit::default()).await;
            assert_eq!(page.parameter("error"), None, "{provider} {}", page.url);
            assert_eq!(page.parameter("reactivated").as_deref(), Some("true"), "{provider}");
            assert_eq!(again["connectionId"], first["connectionId"], "{provider}");
            assert_eq!(again["reactivated"], true);
            let path = format!("/connections/{}/log", first["connectionId"].as_str().expect("an id"));
            let log = stage.app.operator("org_a").ask("GET", &path, None).await.expect("a log");
            assert_eq!(log["items"][0]["action"], "installation.reconnected", "{log}");
            assert_eq!(stage.status(&flow).await["status"], "pending", "a flow nobody opened goes on waiting");
        }
        stage.finish(&[]).await;
    }

    async fn connecting_again_says_that_the_provider_answers(backend) {
        let stage = Stage::set(backend).await;
        let (_, flow) = stage.connect("org_a", "linear", Visit::default()).await;
        let id = flow["connectionId"].as_str().expect("an id");
        stage.world.linear.fail(FaultRule::always("POST /oauth/token", Fault::status(503)));
        stage.app.write_rows("UPDATE gw_tokens SET expires_at = 1000").await;
        let refused = stage.call("org_a", "GET", &format!("/connections/{id}/token")).await;
        assert_eq!(code(&refused), (502, "token_generation_failed".to_owned()));
        stage.until_health("org_a", id, "degraded").await;
        stage.world.linear.heal();
        stage.connect("org_a", "linear", Visit::default()).await;
        stage.until_health("org_a", id, "ok").await;
        stage.finish(&[]).await;
    }

    async fn one_hiccup_after_a_code_was_exchanged_ends_nothing_and_an_outage_leaves_no_token_behind(backend) {
        let stage = Stage::set(backend).await;
        stage.world.linear.fail(FaultRule::once("POST /graphql", Fault::status(503)));
        let (_, flow) = stage.connect("org_a", "linear", Visit::default()).await;
        assert_eq!(flow["status"], "completed", "{flow}");
        stage.finish(&[]).await;

        let stage = Stage::set(crate::support::Backend::sqlite()).await;
        stage.world.linear.fail(FaultRule::always("POST /graphql", Fault::status(503)));
        let (_, flow) = stage.connect("org_a", "linear", Visit::default()).await;
        assert_eq!(flow["status"], "failed", "{flow}");
        assert_eq!(stage.world.linear.calls("POST /oauth/revoke").len(), 1);
        stage.finish(&[]).await;
    }

    async fn an_installation_of_another_org_is_refused_and_stays_where_it_is(backend) {
        let stage = Stage::set(backend).await;
        for provider in CONNECTED_AGAIN {
            let (_, first) = stage.connect("org_a", provider, Visit::default()).await;
            let id = first["connectionId"].as_str().expect("an id");
            let before = stage.connection("org_a", id).await;
            let (page, refused) = stage.connect("org_b", provider, Visit::default()).await;
            assert_eq!(page.parameter("error").as_deref(), Some("installation_already_bound"), "{provider}");
            let expected =
                json!({"status": "failed", "provider": provider, "error": "installation_already_bound"});
            assert_eq!(refused, expected);
            let mut after = stage.connection("org_a", id).await;
            after["lastEventAt"].clone_from(&before["lastEventAt"]);
            assert_eq!(after, before);
        }
        assert!(stage.connections("org_b").await.is_empty());
        stage.finish(&[]).await;
    }

    async fn an_installation_that_the_person_cannot_see_is_not_bound_whatever_the_address_says(backend) {
        let stage = Stage::set(backend).await;
        // Somebody else's installation exists, and is not connected here.
        let theirs = stage.connect("org_b", "github", Visit::of_account(2).by_person(2)).await;
        let id = theirs.1["connectionId"].as_str().expect("an id");
        let external = stage.connection("org_b", id).await["externalId"].as_str().expect("an id").to_owned();
        let visit = Visit { report_id: Some(external.clone()), ..Visit::default() };
        let (page, status) = stage.connect("org_a", "github", visit).await;
        assert_eq!(page.parameter("error").as_deref(), Some("installation_not_verified"), "{}", page.url);
        assert_eq!(status["error"], "installation_not_verified");
        assert!(stage.connections("org_a").await.is_empty());
        assert_eq!(stage.connection("org_b", id).await["orgId"], "org_b");
        stage.finish(&[]).await;
    }

    async fn a_state_is_good_once_for_its_provider_and_its_browser(backend) {
        let stage = Stage::set(backend).await;
        let flow = stage.authorize("org_a", "github", Some("inline")).await;
        let (cookie, callback) = stage.last_callback(&flow, Visit::default()).await;
        let (_, other_cookie) = {
            let other = stage.authorize("org_a", "github", None).await;
            let (cookie, page) = stage.launch(&other, None).await;
            (page, cookie)
        };

        // Everything that is wrong with it, before it is used: none of it uses it up.
        let wrong: Vec<(&str, String, Option<&str>)> = vec![
            ("no state", with_parameter(&callback, "state", None), Some(&cookie)),
            ("an empty state", with_parameter(&callback, "state", Some("")), Some(&cookie)),
            ("an unknown state", with_parameter(&callback, "state", Some(&"a".repeat(43))), Some(&cookie)),
            ("a huge state", with_parameter(&callback, "state", Some(&"a".repeat(4000))), Some(&cookie)),
            ("another provider", callback.replace("/github/", "/linear/"), Some(&cookie)),
            ("no cookie", callback.clone(), None),
            ("an empty cookie", callback.clone(), Some("")),
            ("another browser", callback.clone(), Some(&other_cookie)),
        ];
        for (what, url, cookie) in &wrong {
            assert_eq!(code(&stage.hop(url, *cookie).await), bad_state(), "{what}");
        }
        // A launch page that another browser has opened is closed to this one, and the other way round.
        assert_eq!(code(&stage.hop(&flow.url, Some(&other_cookie)).await), bad_state());
        assert_eq!(code(&stage.hop(&flow.url, None).await), bad_state());

        assert_eq!(stage.hop(&callback, Some(&cookie)).await.status, 200);
        assert_eq!(stage.status(&flow).await["status"], "completed");
        assert_eq!(code(&stage.hop(&callback, Some(&cookie)).await), bad_state(), "a replay");
        assert_eq!(code(&stage.hop(&flow.url, Some(&cookie)).await), bad_state(), "its launch page is closed too");

        // For people it is a page, which runs nothing and is in nobody's frame.
        let page = stage.hop_accepting(&callback, Some(&cookie), "text/html,application/xhtml+xml").await;
        assert_eq!(page.status, 400);
        let html = String::from_utf8(page.body.to_vec()).expect("text");
        assert!(html.contains("finish in the console") && html.contains("invalid_or_expired_state"), "{html}");
        assert!(!html.contains("<script") && !html.contains(&flow.state), "{html}");
        assert!(page.headers.get("content-security-policy").expect("a policy").contains("frame-ancestors 'none'"));
        stage.finish(&[&flow]).await;
    }

    async fn of_twenty_callbacks_with_one_state_one_wins(backend) {
        let stage = Stage::set(backend).await;
        let flow = stage.authorize("org_a", "github", None).await;
        let (cookie, callback) = stage.last_callback(&flow, Visit::default()).await;
        let exchanges = || stage.world.github.calls("POST /login/oauth/access_token").len();
        let before = exchanges();
        let callbacks = (0..20).map(|_| stage.hop(&callback, Some(&cookie)));
        let answers = futures_util::future::join_all(callbacks).await;
        let won: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 302).collect();
        assert_eq!(won.len(), 1);
        assert!(location(won[0]).starts_with(&format!("{CONSOLE}/github/connected")), "{}", location(won[0]));
        let lost = answers.iter().filter(|answer| code(answer) == bad_state()).count();
        assert_eq!(lost, 19);
        assert_eq!(exchanges() - before, 1, "the code was exchanged once");
        assert_eq!(stage.connections("org_a").await.len(), 1);
        stage.finish(&[&flow]).await;
    }

    async fn a_state_and_its_result_expire(backend) {
        let stage = Stage::set(backend).await;
        let flow = stage.authorize("org_a", "github", None).await;
        let (cookie, callback) = stage.last_callback(&flow, Visit::default()).await;
        stage.app.write_rows("UPDATE gw_oauth_states SET expires_at = 1, taken_at = NULL").await;
        assert_eq!(code(&stage.hop(&callback, Some(&cookie)).await), bad_state());
        assert_eq!(code(&stage.hop(&flow.url, Some(&cookie)).await), bad_state());
        assert_eq!(stage.status(&flow).await, json!({"status": "expired"}));
        assert!(stage.connections("org_a").await.is_empty());

        let (_, status) = stage.connect("org_a", "github", Visit::default()).await;
        assert_eq!(status["status"], "completed", "{status}");
        let ended = stage.authorize("org_a", "github", None).await;
        browser().visit(&ended.url).await.expect("a page");
        assert_eq!(stage.status(&ended).await["status"], "completed");
        stage.app.write_rows("UPDATE gw_oauth_states SET expires_at = 1").await;
        assert_eq!(stage.status(&ended).await, json!({"status": "expired"}));
        stage.finish(&[&flow, &ended]).await;
    }

    async fn the_status_is_told_to_the_org_that_began_and_to_nobody_else(backend) {
        let stage = Stage::set(backend).await;
        let flow = stage.authorize("org_a", "github", None).await;
        assert_eq!(stage.status_for("org_a", &flow.state).await, json!({"status": "pending"}));
        assert_eq!(stage.status_for("org_b", &flow.state).await, json!({"status": "expired"}));
        assert_eq!(stage.status_for("org_a", "nobody-has-this").await, json!({"status": "expired"}));
        let mut operator = stage.app.operator("org_a");
        let missing = operator.call("GET", "/connections/oauth/status", None).await.expect("an answer");
        assert_eq!(code(&missing), (400, "missing_state".to_owned()));
        let nobody = stage.app.send("GET", &format!("/connections/oauth/status?state={}", flow.state), &[], "").await;
        assert_eq!(nobody.status, 401);

        // Through the second leg, whose own state names the same flow.
        let (cookie, page) = stage.launch(&flow, None).await;
        assert_eq!(stage.status(&flow).await, json!({"status": "pending"}));
        let callback = stage.come_back(&page, Visit::default()).await;
        let second = if callback.contains("code=") {
            callback
        } else {
            let hop = stage.hop(&callback, Some(&cookie)).await;
            assert_eq!(code(&stage.hop(&callback, Some(&cookie)).await), bad_state(), "the first state is used up");
            assert_eq!(stage.status(&flow).await, json!({"status": "pending"}));
            let page = location(&hop);
            assert!(page.contains("code_challenge_method=S256"), "{page}");
            let of_second_leg = parameter(&page, "state").expect("a state");
            assert_ne!(of_second_leg, flow.state);
            assert_eq!(stage.status_for("org_a", &of_second_leg).await, json!({"status": "pending"}));
            stage.come_back(&page, Visit::default()).await
        };
        assert_eq!(stage.hop(&second, Some(&cookie)).await.status, 302);
        let status = stage.status(&flow).await;
        assert_eq!(status["status"], "completed", "{status}");
        let of_second_leg = parameter(&second, "state").expect("a state");
        assert_eq!(stage.status_for("org_a", &of_second_leg).await, status);
        stage.finish(&[&flow]).await;
    }

    async fn a_refusal_at_the_provider_and_a_script_in_its_text_end_as_codes(backend) {
        let stage = Stage::set(backend).await;
        let denied = stage.authorize("org_a", "github", None).await;
        let (cookie, page) = stage.launch(&denied, None).await;
        let callback = stage.come_back(&page, Visit::default()).await;
        // As GitHub's second page, whose person says no, answers.
        let refused = with_parameter(&callback, "error", Some("access_denied"));
        let ended = stage.hop(&refused, Some(&cookie)).await;
        assert_eq!(location(&ended), format!("{CONSOLE}/github/connected?error=access_denied"));
        assert_eq!(stage.status(&denied).await["error"], "access_denied");

        let scripted = stage.authorize("org_a", "github", Some("inline")).await;
        let (cookie, page) = stage.launch(&scripted, Some(&cookie)).await;
        let callback = stage.come_back(&page, Visit::default()).await;
        let script = "<script>alert(1)</script>";
        let callback = with_parameter(&callback, "error", Some(script));
        let callback = with_parameter(&callback, "error_description", Some(script));
        let ended = stage.hop_accepting(&callback, Some(&cookie), "text/html").await;
        let html = String::from_utf8(ended.body.to_vec()).expect("text");
        assert_eq!(ended.status, 200);
        assert!(html.contains("provider_error") && !html.contains("alert(1)"), "{html}");
        assert_eq!(stage.status(&scripted).await["error"], "provider_error");
        assert!(stage.connections("org_a").await.is_empty());
        stage.finish(&[&denied, &scripted]).await;
    }

    async fn an_outage_at_the_provider_ends_the_flow_and_says_so(backend) {
        let stage = Stage::set(backend).await;
        for fault in [Fault::status(503), Fault::LoseAnswer, Fault::Malformed, Fault::too_many_requests(5)] {
            stage.world.github.fail(FaultRule::always("POST /login/oauth/access_token", fault.clone()));
            let (page, status) = stage.connect("org_a", "github", Visit::default()).await;
            assert_eq!(page.parameter("error").as_deref(), Some("provider_unavailable"), "{fault:?}");
            assert_eq!(status["error"], "provider_unavailable", "{fault:?}");
            stage.world.github.heal();
        }
        let (_, status) = stage.connect("org_a", "github", Visit::default()).await;
        assert_eq!(status["status"], "completed", "the next try goes well: {status}");
        stage.finish(&[]).await;
    }

    async fn an_install_that_sentry_cannot_be_told_of_is_confirmed_once_it_can_be_through_a_crash(backend) {
        let mut stage = Stage::set(backend).await;
        stage.world.sentry.fail(FaultRule::always(CONFIRM, Fault::status(500)));
        let (page, status) = stage.connect("org_a", "sentry", Visit::default()).await;
        assert_eq!((page.parameter("error"), &status["status"]), (None, &json!("completed")), "{}", page.url);
        let id = status["connectionId"].as_str().expect("an id").to_owned();
        assert_eq!(stage.connection("org_a", &id).await["status"], "pending");
        for (method, path) in [("GET", "token"), ("POST", "validate")] {
            let refused = stage.call("org_a", method, &format!("/connections/{id}/{path}")).await;
            assert_eq!(code(&refused), (400, "installation_not_active".to_owned()), "{path}");
            assert_eq!(refused.json()["connectionStatus"], "pending", "{path}");
        }
        stage.app.kill().await;
        stage.world.sentry.heal();
        stage.app.restart().await;
        stage.world.gateway_is_at(&origin(&stage.app));
        let connection = stage.until_active("org_a", &id).await;
        assert_eq!(connection["statusReason"], "confirmed");
        assert!(!stage.world.sentry.with(|sentry| sentry.is_pending(1)));
        let token = stage.call("org_a", "GET", &format!("/connections/{id}/token")).await;
        assert_eq!(token.status, 200, "{}", token.json());
        stage.finish(&[]).await;
    }

    async fn a_request_to_the_owner_waits_and_its_approval_binds_nothing(backend) {
        let stage = Stage::set(backend).await;
        let flow = stage.authorize("org_a", "github", None).await;
        let mut browser = browser().with_visit(Visit::default().choosing(Choice::Request));
        let page = browser.visit(&flow.url).await.expect("a page");
        assert_eq!(page.url.as_str(), format!("{CONSOLE}/github/connected?setup_action=request"));
        assert_eq!(stage.status(&flow).await, json!({"status": "pending", "setupAction": "request"}));

        // The owner approves, in the owner's browser and without a state.
        stage.world.github.act("approve_request", 1, &json!({})).await.expect("approved");
        let external = stage.external_id("github");
        let arrival = format!(
            "{}/connections/github/callback?installation_id={external}&setup_action=install",
            origin(&stage.app)
        );
        let answer = stage.hop_accepting(&arrival, None, "text/html").await;
        assert_eq!(answer.status, 400);
        assert!(String::from_utf8_lossy(&answer.body).contains("finish in the console"));
        assert!(stage.connections("org_a").await.is_empty());

        // A fresh visit of somebody who can see it does.
        let (_, status) = stage.connect("org_a", "github", Visit::default()).await;
        assert_eq!(status["status"], "completed", "{status}");
        stage.finish(&[&flow]).await;
    }

    async fn a_flow_ends_only_where_it_may(backend) {
        let stage = Stage::set(backend).await;
        for address in [
            "http://localhost.evil.test", "http://localhost:4107@evil.test", "https://localhost:4107", "//evil.test",
            "http://evil.test#http://localhost:4107", "http:\\\\localhost", "javascript:alert(1)", "http://127.0.0.1:1",
            "http://localhost:4107.evil.test", "http:///localhost", "Inline",
        ] {
            let mut operator = stage.app.operator("org_a");
            let answer = operator.call("GET", &authorize_path("github", Some(address)), None).await.expect("an answer");
            assert_eq!(code(&answer), (400, "invalid_redirect_to".to_owned()), "{address}");
        }
        for (address, end) in [
            (CONSOLE, format!("{CONSOLE}/github/connected")),
            ("http://localhost:3000", "http://localhost:3000/github/connected".to_owned()),
            ("http://localhost:3000/done", "http://localhost:3000/done".to_owned()),
        ] {
            let flow = stage.authorize("org_a", "github", Some(address)).await;
            let page = browser().stopping_at("http://localhost:3000").visit(&flow.url).await.expect("a page");
            assert_eq!(ends_on(&page), end);
        }

        let flow = stage.authorize("org_a", "github", Some("inline")).await;
        let (cookie, callback) = stage.last_callback(&flow, Visit::default()).await;
        let ended = stage.hop_accepting(&callback, Some(&cookie), "text/html").await;
        assert_eq!(ended.status, 200);
        let header = |name: &str| ended.headers.get(name).unwrap_or_default().to_owned();
        let policy = header("content-security-policy");
        for directive in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(directive), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header("cross-origin-opener-policy"), "", "the page talks to the window that opened it");
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("referrer-policy"), "no-referrer");
        let html = String::from_utf8(ended.body.to_vec()).expect("text");
        assert!(html.contains(&format!("data-target=\"{CONSOLE}\"")), "{html}");
        assert!(html.contains("<script type=\"module\" src=\"/assets/connected.js\"></script>"), "{html}");
        assert_eq!(html.matches("<script").count(), 1, "{html}");
        for (asset, kind) in [("connected.js", "text/javascript"), ("connected.css", "text/css")] {
            let asset = stage.app.send("GET", &format!("/assets/{asset}"), &[], "").await;
            assert_eq!(asset.status, 200);
            assert!(asset.headers.get("content-type").expect("a type").starts_with(kind));
        }
        stage.finish(&[&flow]).await;
    }

    async fn an_adopted_connection_that_was_revoked_lives_again_for_its_org(backend) {
        let stage = Stage::set_with(backend, Options::default().with("SIGNALBOX_INGEST__LATE_BINDING", "auto")).await;
        let adopt = async |org: &str| {
            let body = json!({"provider": "github", "externalId": "777", "orgId": org, "connectedBy": "ops"});
            stage.app.operator(org).call("POST", "/admin/connections", Some(&body)).await.expect("an answer")
        };
        let first = adopt("org_a").await;
        assert_eq!(first.status, 201);
        let id = first.json()["id"].as_str().expect("an id").to_owned();
        assert_eq!(adopt("org_a").await.status, 200);
        assert_eq!(code(&adopt("org_b").await), (409, "installation_already_bound".to_owned()));
        stage.app.write_rows("UPDATE gw_installations SET status = 'revoked', status_reason = 'disconnected'").await;

        let again = adopt("org_a").await;
        assert_eq!((again.status, again.json()["id"].as_str()), (200, Some(id.as_str())));
        assert_eq!(stage.connection("org_a", &id).await["status"], "active");

        // Once it is revoked another org may have it, and gets a row of its own; then the first is refused.
        stage.app.write_rows("UPDATE gw_installations SET status = 'revoked'").await;
        let theirs = adopt("org_b").await;
        assert_eq!(theirs.status, 201);
        assert_ne!(theirs.json()["id"], id.as_str());
        assert_eq!(code(&adopt("org_a").await), (409, "installation_already_bound".to_owned()));
        stage.finish(&[]).await;
    }
}

#[tokio::test]
async fn what_connecting_lacks_is_named_and_webhooks_go_on() {
    let options = Options::default().with("SIGNALBOX_PROVIDERS__GITHUB__PRIVATE_KEY", "this is no key");
    let stage = Stage::set_with(Backend::sqlite(), options).await;
    let mut operator = stage.app.operator("org_a");
    let answer = operator.call("GET", "/connections/github/authorize", None).await.expect("an answer");
    assert_eq!(code(&answer), (400, "connecting_not_configured".to_owned()));
    assert_eq!(answer.json()["setting"], "providers.github.private_key");
    let answer = operator.call("GET", "/connections/gitlab/authorize", None).await.expect("an answer");
    assert_eq!(code(&answer), (400, "unknown_provider".to_owned()));
    let key = ("x-api-key", App::service_key());
    let orgless = stage.app.send("GET", "/connections/linear/authorize", &[key], "").await;
    assert_eq!(code(&orgless), (400, "missing_org_id".to_owned()));
    let reading = stage.app.make_key(&["--org", "org_a", "--scope", "read"]);
    let reader = stage.app.send("GET", "/connections/linear/authorize", &[("x-api-key", reading.as_str())], "").await;
    assert_eq!(code(&reader), (403, "insufficient_scope".to_owned()));
    let github = signalbox::sim::find("github").expect("simulated");
    let connected = stage.app.connect("org_a", github, 1).await;
    let (_, accepted) = stage.app.post_event(&connected, "github:push", 1).await;
    assert_eq!(accepted.status, 200);
    stage.finish(&[]).await;
}

#[tokio::test]
async fn over_tls_the_cookie_is_the_hosts_own_and_the_base_path_is_kept() {
    let options = Options::default().with("SIGNALBOX_SERVER__PUBLIC_URL", "https://gateway.example.test/hooks/");
    let stage = Stage::set_with(Backend::sqlite(), options).await;
    let flow = stage.authorize("org_a", "linear", None).await;
    let base = "https://gateway.example.test/hooks";
    let path = flow.url.strip_prefix(base).expect("below the base").to_owned();
    assert!(path.starts_with("/connect/linear/"), "{path}");
    // The proxy in front strips the base path.
    let launched = stage.app.send("GET", &path, &[], "").await;
    assert_eq!(launched.status, 302);
    let set = launched.headers.get("set-cookie").expect("a cookie");
    assert!(set.starts_with("__Host-signalbox_connect=") && set.contains("Secure"), "{set}");
    assert!(!set.to_lowercase().contains("domain"), "{set}");
    let redirect_uri = parameter(&location(&launched), "redirect_uri");
    assert_eq!(redirect_uri.as_deref(), Some("https://gateway.example.test/hooks/connections/linear/callback"));
    stage.finish(&[&flow]).await;
}

#[tokio::test]
async fn the_providers_next_page_is_followed_only_if_it_is_the_providers_own() {
    let stage = Stage::set_with(Backend::sqlite(), Options::default()).await;
    let (page, status) = stage.connect("org_a", "vercel", Visit::default()).await;
    assert_eq!(status["status"], "completed", "{status}");
    assert!(page.url.as_str().starts_with(&stage.world.vercel.web_url()), "{}", page.url);
    for elsewhere in
        ["https://evil.test/vercel.com", "https://vercel.com.evil.test/", "javascript:alert(1)", "//evil.test"]
    {
        stage.world.vercel.tune(|knobs| knobs.next = Some(elsewhere.to_owned()));
        let (page, status) = stage.connect("org_a", "vercel", Visit::default()).await;
        assert_eq!(status["status"], "completed", "{status}");
        assert_eq!(ends_on(&page), format!("{CONSOLE}/vercel/connected"), "{elsewhere}");
    }
    stage.finish(&[]).await;
}

#[tokio::test]
async fn a_confirmation_that_fails_once_is_repeated_while_the_person_waits() {
    let stage = Stage::set(Backend::sqlite()).await;
    for (account, fault) in [(1, Fault::status(500)), (2, Fault::Cut), (3, Fault::LoseAnswer), (4, Fault::Malformed)] {
        stage.world.sentry.fail(FaultRule::once(CONFIRM, fault.clone()));
        let (_, status) = stage.connect("org_a", "sentry", Visit::of_account(account)).await;
        let id = status["connectionId"].as_str().expect("an id");
        assert_eq!(stage.connection("org_a", id).await["status"], "active", "{fault:?}");
        assert!(!stage.world.sentry.with(|sentry| sentry.is_pending(account)), "{fault:?}");
    }
    stage.finish(&[]).await;
}

#[tokio::test]
async fn a_sentry_that_does_not_answer_holds_nobody_up_and_is_told_later_by_itself() {
    let (stage, backfill) = Stage::set_with_backfill().await;
    stage.world.sentry.fail(FaultRule::always(CONFIRM, Fault::Hang));
    let (_, status) = stage.connect("org_a", "sentry", Visit::default()).await;
    let id = status["connectionId"].as_str().expect("an id");
    assert_eq!(stage.connection("org_a", id).await["status"], "pending");
    stage.world.sentry.heal();
    assert_eq!(backfill.total(), 0, "there is nothing to fetch yet");
    stage.until_active("org_a", id).await;
    assert!(!stage.world.sentry.with(|sentry| sentry.is_pending(1)));
    let told = backfill.wait_for(1, SOON).await.expect("the connection is new now");
    let told: Value = serde_json::from_slice(&told[0].body).expect("JSON");
    assert_eq!(told["installationId"], id);
    stage.finish(&[]).await;
}

#[tokio::test]
async fn the_backfill_service_hears_of_a_connection_once_when_it_is_active_for_the_first_time() {
    let (stage, _backfill) = Stage::set_with_backfill().await;
    let connect = async |provider: &str, status: &str| {
        let (_, flow) = stage.connect("org_a", provider, Visit::default()).await;
        let id = flow["connectionId"].as_str().unwrap_or_else(|| panic!("{flow}")).to_owned();
        assert_eq!(stage.connection("org_a", &id).await["status"], status, "{provider}");
        id
    };
    // Its own webhook confirms an installation that could not be told that it arrived.
    stage.world.sentry.fail(FaultRule::always(CONFIRM, Fault::status(500)));
    let sentry = connect("sentry", "pending").await;
    let facts = stage.world.sentry.facts(1, 2);
    stage.world.sentry.send("sentry:installation.created", &facts).await.expect("sent");
    assert_eq!(stage.connection("org_a", &sentry).await["status"], "active");
    // An installation that was suspended before it was connected is resumed, and then once more.
    stage.world.github.with(|github| github.install(1, 1, SystemClock.now()));
    let github = async |act: &str| stage.world.github.act(act, 1, &json!({})).await.expect("done");
    github("suspend").await;
    let suspended = connect("github", "suspended").await;
    for act in ["unsuspend", "suspend", "unsuspend"] {
        github(act).await;
    }
    assert_eq!(stage.connection("org_a", &suspended).await["status"], "active");
    // What is connected already is connected again.
    let linear = connect("linear", "active").await;
    assert_eq!(connect("linear", "active").await, linear);
    for id in [&sentry, &suspended, &linear] {
        assert_eq!(stage.backfills("org_a", id, 1).await, 1);
        let link = json!({"providerResourceId": "1"});
        let path = format!("/connections/{id}/resources");
        stage.app.operator("org_a").ask("POST", &path, Some(&link)).await.expect("linked");
        assert_eq!(stage.backfills("org_a", id, 2).await, 2, "a link is told of as before");
    }
    // A dead token keeps nobody from linking, nor the service from hearing of it.
    stage.app.write_rows(&format!("UPDATE gw_installations SET status = 'needs_reauth' WHERE id = '{sentry}'")).await;
    let link = json!({"providerResourceId": "2"});
    let path = format!("/connections/{sentry}/resources");
    stage.app.operator("org_a").ask("POST", &path, Some(&link)).await.expect("linked");
    assert_eq!(stage.backfills("org_a", &sentry, 3).await, 3);
    // What had ended begins anew.
    assert_eq!(stage.call("org_a", "DELETE", &format!("/connections/{linear}")).await.status, 200);
    assert_eq!(connect("linear", "active").await, linear);
    assert_eq!(stage.backfills("org_a", &linear, 3).await, 3);
    stage.finish(&[]).await;
}

#[tokio::test]
async fn an_update_of_what_an_installation_covers_lists_it_again_and_changes_nothing_else() {
    const REPOSITORIES: &str = "GET /installation/repositories";
    let (stage, _backfill) = Stage::set_with_backfill().await;
    let connect = async |person: &str| {
        let headers = [("x-api-key", App::service_key()), ("x-org-id", "org_a"), ("x-user-id", person)];
        let begun = stage.app.send("GET", "/connections/github/authorize", &headers, "").await.json();
        let page = browser().visit(begun["url"].as_str().expect("a URL")).await.expect("a page");
        let status = stage.status_for("org_a", begun["state"].as_str().expect("a state")).await;
        let id = status["connectionId"].as_str().unwrap_or_else(|| panic!("{status}")).to_owned();
        (page.parameter("setup_action"), stage.connection("org_a", &id).await)
    };
    let (action, first) = connect("first").await;
    assert_eq!((action.as_deref(), &first["connectedBy"]), (Some("install"), &json!("first")));
    assert!(stage.world.github.calls(REPOSITORIES).is_empty());
    let (action, second) = connect("second").await;
    assert_eq!((action.as_deref(), &second["connectedBy"]), (Some("update"), &json!("first")));
    assert_eq!((&second["id"], &second["status"]), (&first["id"], &first["status"]));
    let listed = |journal: &[JournalEntry], _: &[Sent]| journal.iter().any(|call| call.is(REPOSITORIES));
    stage.world.github.wait_until("a list", SOON, listed).await.expect("it is listed again");
    let id = first["id"].as_str().expect("an id");
    assert_eq!(stage.backfills("org_a", id, 1).await, 1);

    // What had ended here and is installed there as before is connected by whoever comes back.
    stage.world.github.fail(FaultRule::once("DELETE /app/installations/*", Fault::status(404)));
    stage.call("org_a", "DELETE", &format!("/connections/{id}")).await;
    let path = format!("/connections/{id}/teardown");
    let deadline = Instant::now() + SOON;
    while stage.call("org_a", "GET", &path).await.json()["status"] != "completed" {
        assert!(Instant::now() < deadline, "{}", stage.app.log_text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (action, third) = connect("third").await;
    assert_eq!((action.as_deref(), &third["connectedBy"]), (Some("update"), &json!("third")));
    assert_eq!((&third["id"], stage.backfills("org_a", id, 2).await), (&first["id"], 2));
    stage.finish(&[]).await;
}

#[tokio::test]
async fn a_confirmation_that_sentry_refuses_is_said_so_and_tried_again_when_somebody_asks() {
    let stage = Stage::set(Backend::sqlite()).await;
    stage.world.sentry.fail(FaultRule::always(CONFIRM, Fault::status(403)));
    let (_, status) = stage.connect("org_a", "sentry", Visit::default()).await;
    let id = status["connectionId"].as_str().expect("an id");
    let validate = format!("/connections/{id}/validate");
    assert_eq!(code(&stage.call("org_a", "POST", &validate).await), (400, "installation_not_active".to_owned()));
    let connection = stage.connection("org_a", id).await;
    assert_eq!(
        (&connection["status"], &connection["statusReason"]),
        (&json!("pending"), &json!("confirmation_refused"))
    );
    stage.world.sentry.heal();
    let validated = stage.call("org_a", "POST", &validate).await;
    assert_eq!(validated.status, 200, "{}", validated.json());
    assert_eq!(stage.connection("org_a", id).await["status"], "active");
    stage.finish(&[]).await;
}

#[tokio::test]
async fn a_browsers_second_flow_does_not_end_its_first() {
    let stage = Stage::set(Backend::sqlite()).await;
    let (one, other) = (stage.authorize("org_a", "github", None).await, stage.authorize("org_a", "github", None).await);
    let (cookie, first_page) = stage.launch(&one, None).await;
    let (kept, _) = stage.launch(&other, Some(&cookie)).await;
    assert_eq!(kept, cookie);
    // What somebody wrote into the browser is not kept.
    let third = stage.authorize("org_a", "github", None).await;
    let (fresh, _) = stage.launch(&third, Some("planted")).await;
    assert_ne!(fresh, "planted");
    let callback = stage.come_back(&first_page, Visit::default()).await;
    assert_eq!(stage.hop(&callback, Some(&cookie)).await.status, 302);
    stage.finish(&[&one, &other, &third]).await;
}
