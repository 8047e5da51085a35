//! The console through the front door: signing in and out, what a session may do and when it ends, and what every page
//! promises (`promises.md` S11, S12). What pages show is tested beside the pages' own journeys.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use signalbox::sim::client::Answer;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::{
    clock_jumps::FakeClock,
    support::{App, Backend, Options, Stage, code, on_both},
};

const SOON: Duration = Duration::from_secs(30);

/// Every page that takes no id. A new page is added here.
pub const PAGES: &[&str] = &[
    "/console",
    "/console?window=day",
    "/console/connections",
    "/console/workspaces",
    "/console/destinations",
    "/console/events",
    "/console/dead-letters",
    "/console/quarantine",
    "/console/keys",
    "/console/settings",
];

/// A browser that has signed in.
#[derive(Debug)]
pub struct Visitor<'a> {
    app: &'a App,
    cookies: String,
}

impl<'a> Visitor<'a> {
    /// Signs in with that key.
    pub async fn signed_in(app: &'a App, key: &str) -> Self {
        let answer = sign_in(app, key, "user=ada").await;
        assert_eq!((answer.status, answer.headers.get("location")), (303, Some("/console")));
        Self { app, cookies: cookie(&answer) }
    }

    /// Opens a page.
    pub async fn get(&self, path: &str) -> Answer {
        self.app.send("GET", path, &[("cookie", &self.cookies), ("accept", "text/html")], "").await
    }

    /// Opens a page that is there; its text.
    pub async fn read(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", text(&answer));
        text(&answer)
    }

    /// Calls the API as the console's script does.
    pub async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
        let origin = self.origin();
        let mut all = vec![("cookie", self.cookies.as_str()), ("content-type", "application/json")];
        if !headers.iter().any(|(name, _)| *name == "origin") {
            all.push(("origin", &origin));
        }
        all.extend(headers.iter().filter(|(_, value)| !value.is_empty()));
        self.app.send(method, path, &all, body.map(|body| body.to_string()).unwrap_or_default()).await
    }

    fn origin(&self) -> String {
        format!("http://{}", self.app.address())
    }
}

async fn sign_in(app: &App, key: &str, more: &str) -> Answer {
    let form = [("content-type", "application/x-www-form-urlencoded")];
    app.send("POST", "/console/session", &form, format!("key={key}&{more}")).await
}

/// The first cookie that an answer sets, as it is sent back.
fn cookie(answer: &Answer) -> String {
    let set = answer.headers.all("set-cookie").next().expect("a cookie");
    let set = std::str::from_utf8(set).expect("text");
    set.split(';').next().expect("a pair").to_owned()
}

/// A page's HTML.
pub fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).expect("UTF-8")
}

/// The id of the only key that was made.
fn only_key(app: &App) -> String {
    let listed = String::from_utf8(app.cli(&["keys", "list"]).stdout).expect("text");
    listed.split_whitespace().find(|word| word.starts_with("key_")).expect("a key").to_owned()
}

/// Waits until the log has a text.
async fn until_logged(app: &App, text: &str) {
    let deadline = Instant::now() + SOON;
    while !app.log_text().contains(text) {
        assert!(Instant::now() < deadline, "{text} is not in the log:\n{}", app.log_text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn destination() -> Value {
    json!({"url": "http://127.0.0.1:9/in"})
}

on_both! {
    async fn a_session_begins_with_a_key_and_its_cookie_is_for_this_site_and_no_script(backend) {
        let app = App::start(backend, Options::default()).await;
        let answer = sign_in(&app, App::service_key(), "next=/console/events%3Foutcome%3Drouted").await;
        assert_eq!((answer.status, answer.headers.get("location")), (303, Some("/console/events?outcome=routed")));
        let set = String::from_utf8(answer.headers.all("set-cookie").next().expect("one").to_vec()).expect("text");
        let (pair, flags) = set.split_once("; ").expect("flags");
        assert_eq!(pair.len(), "signalbox_session=".len() + 43, "256 random bits");
        for flag in ["HttpOnly", "SameSite=Strict", "Path=/"] {
            assert!(flags.split("; ").any(|word| word == flag), "{flag} is not among {flags}");
        }
        assert!(!flags.contains("Secure") && !flags.contains("Domain"), "{flags}");

        let refused = sign_in(&app, "sbx_wrong", "next=//evil.test&user=ada").await;
        assert_eq!(refused.status, 401);
        assert!(refused.headers.all("set-cookie").next().is_none());
        let page = text(&refused);
        assert!(page.contains("no key of this gateway") && !page.contains("sbx_wrong") && !page.contains("evil.test"));

        let json = [("content-type", "application/json"), ("accept", "application/json")];
        let body = json!({"key": App::service_key(), "user": "ada"}).to_string();
        let answer = app.send("POST", "/console/session", &json, body).await;
        assert_eq!((&answer.json()["user"], &answer.json()["scope"]), (&json!("ada"), &json!("write")));
        let answer = app.send("POST", "/console/session", &json, json!({"key": "sbx_wrong"}).to_string()).await;
        assert_eq!(code(&answer), (401, "unauthorized".into()));

        let log = app.operator("x").ask_for_all("GET", "/admin/audit?limit=10").await.expect("a log");
        assert_eq!(log["items"][0]["action"], "session.began");
        assert_eq!(log["items"][0]["actor"]["user"], "ada");
        app.finish_without(&[pair["signalbox_session=".len()..].to_owned()]).await;
    }

    async fn whoever_is_not_signed_in_is_sent_to_the_sign_in_page_and_back(backend) {
        let app = App::start(backend, Options::default()).await;
        for path in PAGES.iter().chain(&["/console/nowhere"]) {
            let answer = app.send("GET", path, &[("accept", "text/html")], "").await;
            assert_eq!(answer.status, 303, "{path}");
            let login = answer.headers.get("location").expect("somewhere").to_owned();
            assert!(login.starts_with("/console/login"), "{path}: {login}");
            assert_eq!(app.send("GET", &login, &[], "").await.status, 200);
        }
        let answer = app.send("GET", "/console/events?outcome=routed&a=b", &[], "").await;
        let login = answer.headers.get("location").expect("somewhere").to_owned();
        assert!(text(&app.send("GET", &login, &[], "").await).contains("value=\"/console/events?outcome=routed&#38;a=b\""));
        let script = [("accept", "application/json")];
        assert_eq!(code(&app.send("GET", "/console/session", &script, "").await), (401, "unauthorized".into()));
        assert_eq!(app.send("GET", "/console?fragment=1", &[], "").await.status, 401, "a part of a page has no way back");
        app.finish().await;
    }

    async fn what_changes_anything_comes_from_our_own_pages_only(backend) {
        let app = App::start(backend, Options::default()).await;
        let visitor = Visitor::signed_in(&app, App::service_key()).await;
        let put = async |origin: &str| {
            visitor.call("PUT", "/orgs/org/destination", &[("origin", origin), ("x-org-id", "org")], Some(destination())).await
        };
        let public = format!("http://127.0.0.1:{}", app.address().port());
        for foreign in ["", "null", "https://evil.test", "http://127.0.0.1", "http://127.0.0.1:1", &format!("{public}.evil.test")] {
            assert_eq!(code(&put(foreign).await), (403, "cross_origin_request".into()), "{foreign}");
        }
        let out = visitor.call("POST", "/console/sign-out", &[("origin", "https://evil.test"), ("accept", "application/json")], None).await;
        assert_eq!(code(&out), (403, "cross_origin_request".into()));
        let twice = [("origin", public.as_str()), ("origin", "https://evil.test")];
        let answer = visitor.call("PUT", "/orgs/org/destination", &twice, Some(destination())).await;
        assert_eq!(code(&answer), (403, "cross_origin_request".into()));
        assert_eq!(put(&public).await.status, 201);

        // Reading needs no origin: what answers is not readable for others. A key of one's own is bound to none.
        assert_eq!(visitor.call("GET", "/orgs/org/destination", &[("origin", ""), ("x-org-id", "org")], None).await.status, 200);
        let key = [("x-api-key", App::service_key()), ("x-org-id", "org"), ("origin", "https://evil.test")];
        assert_eq!(app.send("POST", "/orgs/org/destination/rotate-secret", &key, "").await.status, 200);
        // A page of somebody else's signs nobody in, and no preflight of theirs is told that cookies may come.
        let form = [("content-type", "application/x-www-form-urlencoded"), ("origin", "https://evil.test")];
        let answer = app.send("POST", "/console/session", &form, format!("key={}", App::service_key())).await;
        assert_eq!((answer.status, answer.headers.all("set-cookie").count()), (403, 0));
        let preflight = [("origin", "https://evil.test"), ("access-control-request-method", "PUT")];
        let answer = app.send("OPTIONS", "/orgs/org/destination", &preflight, "").await;
        assert_eq!(answer.headers.get("access-control-allow-credentials"), None);
        app.finish().await;
    }

    async fn signing_out_ends_the_session_everywhere_it_is_used(backend) {
        let app = App::start(backend, Options::default()).await;
        let visitor = Visitor::signed_in(&app, App::service_key()).await;
        let other = Visitor::signed_in(&app, App::service_key()).await;
        assert_eq!(visitor.get("/console").await.status, 200);
        let mut stream = tokio::net::TcpStream::connect(app.address()).await.expect("connects");
        let request = format!(
            "GET /events/stream?org=org HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\ncookie: {}\r\n\r\n", visitor.cookies
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut lines = BufReader::new(stream).lines();
        assert!(lines.next_line().await.expect("reads").expect("a line").contains("200"));

        let out = visitor.call("POST", "/console/sign-out", &[], None).await;
        assert_eq!((out.status, out.headers.get("location")), (303, Some("/console/login")));
        assert!(cookie(&out).ends_with('='), "the browser forgets it");
        assert_eq!(visitor.get("/console").await.status, 303);
        assert_eq!(code(&visitor.call("GET", "/events", &[], None).await), (401, "unauthorized".into()));
        // The last piece of an answer in pieces is empty.
        let ended = async { while lines.next_line().await.expect("reads").is_some_and(|line| line != "0") {} };
        tokio::time::timeout(SOON, ended).await.expect("the stream of events has ended");
        assert_eq!(other.get("/console").await.status, 200, "another browser's session is another");
        assert_eq!(app.count("SELECT COUNT(*) FROM gw_sessions").await, 1);
        app.finish().await;
    }

    async fn a_revoked_key_takes_its_sessions_with_it(backend) {
        let app = App::start(backend, Options::default()).await;
        let key = app.make_key(&["--org", "org"]);
        let visitor = Visitor::signed_in(&app, &key).await;
        assert_eq!(visitor.call("GET", "/connections", &[], None).await.status, 200);
        assert!(app.cli(&["keys", "revoke", &only_key(&app)]).status.success());
        let refused = async {
            while visitor.call("GET", "/connections", &[], None).await.status != 401 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), refused).await.expect("the session is over");
        assert_eq!(app.count("SELECT COUNT(*) FROM gw_sessions").await, 0);
        assert_eq!(sign_in(&app, &key, "").await.status, 401);
        app.finish().await;
    }

    async fn a_session_ends_when_it_is_idle_and_when_it_is_old(backend) {
        let Some(clock) = FakeClock::find() else { return };
        let options = clock.of(Options::default())
            .with("SIGNALBOX_CONSOLE__SESSION_IDLE_MINUTES", "60")
            .with("SIGNALBOX_CONSOLE__SESSION_MAX_HOURS", "3");
        let mut app = App::start(backend, options).await;
        let (busy, idle, watched) = (
            Visitor::signed_in(&app, App::service_key()).await.cookies,
            Visitor::signed_in(&app, App::service_key()).await.cookies,
            Visitor::signed_in(&app, App::service_key()).await.cookies,
        );
        let status = async |cookies: &str, path: &str| {
            app.send("GET", path, &[("cookie", cookies), ("accept", "text/html")], "").await.status
        };
        let last_seen = async || app.count("SELECT MAX(last_seen_at) FROM gw_sessions").await;
        for (offset, of_busy) in [("+50m", 200), ("+100m", 200), ("+150m", 200), ("+175m", 200), ("+181m", 303)] {
            let before = last_seen().await;
            clock.jump_to(offset);
            assert_eq!(status(&busy, "/console").await, of_busy, "{offset}");
            // Its use is written down beside the request.
            while of_busy == 200 && last_seen().await == before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // A page that refreshes itself while nobody looks keeps no session alive.
            let part = status(&watched, "/console?fragment=1").await;
            assert_eq!(part, if offset == "+50m" { 200 } else { 401 }, "{offset}");
        }
        assert_eq!(status(&idle, "/console").await, 303);
        app.terminate().await;
        app.restart().await;
        let deleted = async {
            while app.count("SELECT COUNT(*) FROM gw_sessions").await > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, deleted).await.expect("the janitor deletes what is over");
        app.finish().await;
    }

    async fn a_session_is_good_while_nothing_can_be_written(backend) {
        let app = App::start(backend, Options::default()).await;
        let visitor = Visitor::signed_in(&app, App::service_key()).await;
        app.execute("UPDATE gw_sessions SET last_seen_at = 1").await;
        // A view like this one can be read on both databases, and written on neither.
        app.execute("ALTER TABLE gw_sessions RENAME TO kept_sessions").await;
        app.execute("CREATE VIEW gw_sessions AS SELECT DISTINCT * FROM kept_sessions").await;
        for _ in 0..3 {
            assert_eq!(visitor.get("/console").await.status, 200);
        }
        until_logged(&app, "the use of a session could not be noted").await;
        app.execute("DROP VIEW gw_sessions").await;
        app.execute("ALTER TABLE kept_sessions RENAME TO gw_sessions").await;
        let noted = async {
            while app.count("SELECT MAX(last_seen_at) FROM gw_sessions").await == 1 {
                assert_eq!(visitor.get("/console").await.status, 200);
            }
        };
        tokio::time::timeout(SOON, noted).await.expect("noted again");
        app.finish().await;
    }

    async fn the_log_has_the_code_of_a_problem_that_is_shown_as_a_page(backend) {
        let app = App::start(backend, Options::default()).await;
        let visitor = Visitor::signed_in(&app, App::service_key()).await;
        for (path, status, code) in
            [("/console/nowhere", 404, "not_found"), ("/console/workspaces/ws?org=", 400, "missing_org_id")]
        {
            let headers = [("cookie", visitor.cookies.as_str()), ("accept", "text/html")];
            let page = app.send("GET", path, &headers, "").await;
            assert_eq!((page.status, page.headers.get("content-type")), (status, Some("text/html; charset=utf-8")));
            until_logged(&app, &format!("\"error.code\":\"{code}\"")).await;
        }
        app.finish().await;
    }

    async fn every_page_has_the_policy_and_nothing_inline(backend) {
        let app = App::start(backend, Options::default()).await;
        let visitor = Visitor::signed_in(&app, App::service_key()).await;
        for path in PAGES.iter().chain(&["/console/nowhere", "/console/login", "/console?cursor=x", "/console?org=a%20b"]) {
            let answer = visitor.get(path).await;
            let policy = answer.headers.get("content-security-policy").expect("a policy");
            for rule in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"] {
                assert!(policy.split("; ").any(|said| said == rule), "{path}: {rule}");
            }
            for (name, value) in [
                ("referrer-policy", "same-origin"), ("x-content-type-options", "nosniff"), ("cache-control", "no-store"),
                ("content-type", "text/html; charset=utf-8"),
            ] {
                assert_eq!(answer.headers.get(name), Some(value), "{path}");
            }
            let page = text(&answer);
            assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains("javascript:"), "{path}");
            assert!(!page.split('<').any(|tag| tag.split(' ').any(|word| word.starts_with("on") && word.contains("=\""))), "{path}");
            assert_eq!(page.matches("<script").count(), page.matches("<script type=\"module\" src=\"").count(), "{path}");
            assert_eq!(page.matches("<h1").count(), 1, "{path}");
            for asset in page.split('"').filter(|word| word.starts_with("/console/assets/")) {
                let answer = app.send("GET", asset, &[], "").await;
                assert_eq!(answer.status, 200, "{asset}");
                assert_eq!(answer.headers.get("cache-control"), Some("public, max-age=31536000, immutable"), "{asset}");
            }
        }
        let nowhere = visitor.get("/console/nowhere").await;
        assert_eq!(nowhere.status, 404);
        assert!(text(&nowhere).contains("aria-label=\"Console\""), "with the way to everything else");
        let old = app.send("GET", "/console/assets/0/console.css", &[], "").await;
        assert_eq!((old.status, old.headers.get("cache-control")), (200, Some("no-store")));
        app.finish().await;
    }

    async fn a_service_key_chooses_its_org_and_an_org_key_has_its_own(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        stage.connect("org", "github", 1).await;
        let visitor = Visitor::signed_in(&stage.app, App::service_key()).await;
        assert_eq!(code(&visitor.call("GET", "/connections", &[], None).await), (400, "missing_org_id".into()));
        let chosen = visitor.get("/console?org=org").await;
        let chooser = Visitor { app: &stage.app, cookies: format!("{}; {}", visitor.cookies, cookie(&chosen)) };
        assert_eq!(cookie(&chosen), "signalbox_org=org");
        let count = |answer: &Answer| answer.json()["items"].as_array().map(Vec::len);
        assert_eq!(count(&chooser.call("GET", "/connections", &[], None).await), Some(1));
        let other = [("x-org-id", "another")];
        assert_eq!(count(&chooser.call("GET", "/connections", &other, None).await), Some(0), "the header decides");
        assert!(text(&chooser.get("/console").await).contains("data-org=\"org\""));
        let all = chooser.get("/console?org=").await;
        assert_eq!(cookie(&all), "signalbox_org=", "every org again");
        assert!(!text(&all).contains("data-org="));
        assert_eq!(chooser.get("/console?org=a%20b").await.status, 400);

        let key = stage.app.make_key(&["--org", "another"]);
        let bound = Visitor::signed_in(&stage.app, &key).await;
        let bound = Visitor { app: &stage.app, cookies: format!("{}; signalbox_org=org", bound.cookies) };
        assert_eq!(count(&bound.call("GET", "/connections", &[], None).await), Some(0));
        let page = bound.get("/console?org=org").await;
        assert!(text(&page).contains("data-org=\"another\"") && page.headers.all("set-cookie").count() == 0);
        stage.finish().await;
    }

    async fn a_key_that_may_only_read_is_shown_nothing_to_change_and_changes_nothing(backend) {
        let app = App::start(backend, Options::default()).await;
        let key = app.make_key(&["--org", "org", "--scope", "read"]);
        let visitor = Visitor::signed_in(&app, &key).await;
        for path in PAGES {
            let page = visitor.get(path).await;
            if page.status == 200 {
                assert!(!text(&page).contains("data-api="), "{path}");
            }
        }
        let answer = visitor.call("PUT", "/orgs/org/destination", &[], Some(destination())).await;
        assert_eq!(code(&answer), (403, "insufficient_scope".into()));
        app.finish().await;
    }

    async fn the_console_can_be_left_out(backend) {
        let app = App::start(backend, Options::default().with("SIGNALBOX_CONSOLE__ENABLED", "false")).await;
        assert_eq!(code(&app.send("GET", "/console", &[], "").await), (404, "not_found".into()));
        assert_eq!(sign_in(&app, App::service_key(), "").await.status, 404);
        assert!(!app.log_text().contains("console: "));
        app.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_tls_the_cookie_is_bound_to_this_host_and_to_tls() {
    let options = Options::default().with("SIGNALBOX_SERVER__PUBLIC_URL", "https://hooks.example.test/signalbox");
    let app = App::start(Backend::sqlite(), options).await;
    let answer = sign_in(&app, App::service_key(), "").await;
    assert_eq!(answer.headers.get("location"), Some("/signalbox/console"), "the path of the public URL");
    let set = String::from_utf8(answer.headers.all("set-cookie").next().expect("one").to_vec()).expect("text");
    assert!(set.starts_with("__Host-signalbox_session=") && set.contains("; Secure"), "{set}");
    let cookies = cookie(&answer);
    let page = app.send("GET", "/console", &[("cookie", &cookies)], "").await;
    assert!(
        text(&page).contains("href=\"/signalbox/console/assets/")
            && text(&page).contains("href=\"/signalbox/console\"")
    );
    let put = async |origin: &str| {
        let headers = [("cookie", cookies.as_str()), ("x-org-id", "org"), ("origin", origin)];
        app.send("PUT", "/orgs/org/destination", &headers, json!({"url": "http://127.0.0.1:9"}).to_string())
            .await
            .status
    };
    assert_eq!(put("https://hooks.example.test").await, 201);
    assert_eq!((put("http://hooks.example.test").await, put("https://example.test").await), (403, 403));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_guesses_keys_at_the_sign_in_page_waits() {
    let app = App::start(Backend::sqlite(), Options::default()).await;
    let guess = async |_| {
        let began = std::time::Instant::now();
        assert_eq!(sign_in(&app, "sbx_wrong", "").await.status, 401);
        began.elapsed()
    };
    // All at once: a machine that is slow forgives none of them meanwhile.
    let waited = futures_util::future::join_all((0..120).map(guess)).await;
    let longest = waited.into_iter().max().expect("some");
    assert!(longest >= Duration::from_millis(100), "{longest:?}");
    assert_eq!(sign_in(&app, App::service_key(), "").await.status, 303, "and the right one is let in");
    app.finish().await;
}
