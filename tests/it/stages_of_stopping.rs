//! `promises.md` P9 and P16 at each stage: whatever is under way when SIGTERM comes, nothing acknowledged is lost, no
//! lease is left, the process ends with 0, and nothing is done twice.

use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use signalbox::sim::{
    self,
    browser::Browser,
    client::Client,
    sink::{Behaviour, Sink},
    world::{Fault, FaultRule, Loss, Visit},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use crate::{
    outage::{Obstacle, push, subscribed},
    support::{App, Backend, Options, Stage, on_both},
};

const SOON: Duration = Duration::from_mins(1);
const CONSOLE: &str = "http://localhost:4107";

/// The process is gone; nobody holds anything any more.
async fn expect_no_lease(app: &App) {
    assert_eq!(app.count_leases().await, 0, "a lease is left");
}

/// Each delivery arrived once, and there are as many as that.
async fn expect_each_once(sink: &Sink, deliveries: usize) {
    let received = sink.wait_for(deliveries, SOON).await.expect("what was acknowledged is delivered");
    let mut ids: Vec<_> = received.iter().map(|received| received.webhook_id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), received.len()), (deliveries, deliveries), "an orderly stop repeats nothing");
}

async fn until_recorded(app: &App, deliveries: usize) {
    let recorded = async {
        while app.count("SELECT COUNT(*) FROM gw_deliveries WHERE status = 'delivered'").await
            < i64::try_from(deliveries).expect("small")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, recorded).await.expect("recorded");
}

/// Waits until a simulated provider has been called so.
async fn until_called(what: &str, calls: impl Fn() -> usize) {
    let deadline = Instant::now() + SOON;
    while calls() == 0 {
        assert!(Instant::now() < deadline, "nobody called {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

on_both! {
    async fn while_a_body_is_being_received(backend) {
        let sink = Sink::start().await.expect("a port");
        let mut app = App::start(backend, Options::default()).await;
        let github = subscribed(&app, &sink).await;
        let request = push(&github, 1);
        let mut head = format!("POST /webhooks/github HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n", request.body.len());
        for (name, value) in &request.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        let (first, rest) = request.body.split_at(request.body.len() / 2);
        let mut provider = TcpStream::connect(app.address()).await.expect("it listens");
        provider.write_all(head.as_bytes()).await.expect("sent");
        provider.write_all(b"\r\n").await.expect("sent");
        provider.write_all(first).await.expect("sent");
        let received = async {
            while app.health(false).await["bodyBytesInHand"].as_u64() < Some(first.len() as u64) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, received).await.expect("it has half of the body in hand");
        app.begin_to_stop().await;
        provider.write_all(rest).await.expect("it still reads");
        let mut answer = String::new();
        provider.read_to_string(&mut answer).await.expect("an answer and an end");
        app.ended_in_order().await;
        expect_no_lease(&app).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "what was begun is finished: {answer}");
        app.restart().await;
        expect_each_once(&sink, 1).await;
        app.finish().await;
    }

    async fn while_commits_wait_for_the_database(backend) {
        const POSTS: u64 = 20;
        let name = backend.name();
        let sink = Sink::start().await.expect("a port");
        let mut app = App::start(backend, Options::default()).await;
        let github = subscribed(&app, &sink).await;
        let obstacle = Obstacle::put_up(&app, name).await;
        let posting: Vec<_> = (0..POSTS)
            .map(|seed| {
                let (request, address) = (push(&github, seed), app.address());
                tokio::spawn(async move { Client::new(address).post_webhook("github", &request).await })
            })
            .collect();
        let waiting = async {
            while app.health(false).await["ledger"]["inProgress"].as_u64() < Some(POSTS) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, waiting).await.expect("all of them wait for their commit");
        app.begin_to_stop().await;
        obstacle.take_away().await;
        let mut acknowledged = 0;
        for posted in posting {
            // What got no answer was promised nothing.
            acknowledged += usize::from(posted.await.expect("no panic").is_ok_and(|answer| answer.status == 200));
        }
        app.ended_in_order().await;
        expect_no_lease(&app).await;
        assert_eq!(app.count("SELECT COUNT(*) FROM gw_events").await, i64::try_from(acknowledged).expect("small"));
        assert_eq!(acknowledged as u64, POSTS, "the lock was gone in time for all of them");
        app.restart().await;
        expect_each_once(&sink, acknowledged).await;
        app.finish().await;
    }

    async fn while_the_database_stays_locked_to_the_end(backend) {
        let name = backend.name();
        let sink = Sink::start().await.expect("a port");
        let options = Options::default()
            .with("SIGNALBOX_SERVER__SHUTDOWN_DEADLINE_MS", "5000")
            .with("SIGNALBOX_INGEST__ACK_DEADLINE_MS", "900");
        let mut app = App::start(backend, options).await;
        let github = subscribed(&app, &sink).await;
        let obstacle = Obstacle::put_up(&app, name).await;
        let (request, address) = (push(&github, 1), app.address());
        let posting = tokio::spawn(async move { Client::new(address).post_webhook("github", &request).await });
        let waiting = async {
            while app.health(false).await["ledger"]["inProgress"].as_u64() < Some(1) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, waiting).await.expect("it waits for its commit");
        app.begin_to_stop().await;
        app.ended_in_order().await;
        obstacle.take_away().await;
        let answer = posting.await.expect("no panic");
        assert!(answer.is_ok_and(|answer| answer.status == 503), "nothing was promised, and that is said");
        app.restart().await;
        let body = app.outsider().post_webhook("github", &push(&github, 1)).await.expect("an answer").json();
        assert!(body["status"] == "accepted" || body["status"] == "duplicate", "{body}");
        expect_each_once(&sink, 1).await;
        app.finish().await;
    }

    async fn while_attempts_are_in_flight_that_outlast_the_deadline(backend) {
        let sink = Sink::start().await.expect("a port");
        sink.behave("/in", Behaviour::Hang);
        let options = Options::default().with("SIGNALBOX_SERVER__SHUTDOWN_DEADLINE_MS", "3000");
        let mut app = App::start(backend, options).await;
        let github = subscribed(&app, &sink).await;
        for seed in 0..3 {
            assert_eq!(app.post_event(&github, "github:push", seed).await.1.status, 200);
        }
        sink.wait_for(3, SOON).await.expect("in flight");
        app.terminate().await;
        expect_no_lease(&app).await;
        // Cut, and so tried again, under the same ids and at once: nobody waits for a lease to end.
        sink.behave("/in", Behaviour::ok());
        app.restart().await;
        let received = sink.wait_for(6, SOON).await.expect("tried again");
        let ids = |some: &[sim::sink::Received]| {
            let mut ids: Vec<_> = some.iter().map(|received| received.webhook_id.clone()).collect();
            ids.sort();
            ids
        };
        assert_eq!(ids(&received[..3]), ids(&received[3..]));
        app.finish().await;
    }

    async fn while_a_load_balancer_asks(backend) {
        let sink = Sink::start().await.expect("a port");
        // Long enough to ask a few things.
        sink.behave("/in", Behaviour::After(Duration::from_secs(4), Box::new(Behaviour::ok())));
        let mut app = App::start(backend, Options::default()).await;
        let github = subscribed(&app, &sink).await;
        assert_eq!(app.post_event(&github, "github:push", 1).await.1.status, 200);
        sink.wait_for(1, SOON).await.expect("in flight");
        app.begin_to_stop().await;
        let told = async {
            loop {
                let answer = app.send("GET", "/readyz", &[], "").await;
                if answer.status != 200 {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let told = tokio::time::timeout(SOON, told).await.expect("readiness goes down");
        assert_eq!((told.status, &told.json()["error"], &told.json()["reason"]), (503, &json!("not_ready"), &json!("draining")));
        assert_eq!(app.send("GET", "/healthz", &[], "").await.status, 200, "the process is well");
        let refused = app.post_event(&github, "github:push", 2).await.1;
        assert_eq!((refused.status, &refused.json()["error"]), (503, &json!("temporarily_unavailable")));
        assert!(refused.headers.get("retry-after").is_some());
        let delivered = app.count("SELECT COUNT(*) FROM gw_deliveries WHERE status = 'delivered'").await;
        assert_eq!(delivered, 0, "all of that while the attempt is in flight");
        app.ended_in_order().await;
        expect_no_lease(&app).await;
        assert_eq!((sink.total(), app.count("SELECT COUNT(*) FROM gw_events").await), (1, 1), "nothing more was taken in");
        app.restart().await;
        until_recorded(&app, 1).await;
        assert_eq!(app.post_event(&github, "github:push", 2).await.1.json()["status"], "accepted");
        expect_each_once(&sink, 2).await;
        app.finish().await;
    }

    async fn during_the_wait_before_a_retry(backend) {
        let sink = Sink::start().await.expect("a port");
        sink.behave("/in", Behaviour::FailFirst { times: 1, with: Box::new(Behaviour::status_only(500)) });
        let options = Options::default().with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "3,3");
        let mut app = App::start(backend, options).await;
        let github = subscribed(&app, &sink).await;
        assert_eq!(app.post_event(&github, "github:push", 1).await.1.status, 200);
        let failed = async {
            while app.count("SELECT COUNT(*) FROM gw_deliveries WHERE attempts = 1").await == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, failed).await.expect("the first attempt is recorded");
        app.terminate().await;
        expect_no_lease(&app).await;
        app.restart().await;
        let received = sink.wait_for(2, SOON).await.expect("it is tried again when it is due");
        until_recorded(&app, 1).await;
        assert_eq!(sink.total(), 2);
        assert_eq!(received[0].webhook_id, received[1].webhook_id);
        app.finish().await;
    }

    async fn with_followers_of_the_event_stream(backend) {
        let sink = Sink::start().await.expect("a port");
        let mut app = App::start(backend, Options::default()).await;
        let github = subscribed(&app, &sink).await;
        let mut followers = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(app.address()).await.expect("it listens");
            let request = format!("GET /events/stream HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\nx-org-id: org\r\n\r\n",
                App::service_key());
            stream.write_all(request.as_bytes()).await.expect("sent");
            let mut read = Vec::new();
            while !String::from_utf8_lossy(&read).contains(": following") {
                assert_ne!(stream.read_buf(&mut read).await.expect("reads"), 0, "the stream ended");
            }
            followers.push(stream);
        }
        assert_eq!(app.post_event(&github, "github:push", 1).await.1.status, 200);
        app.terminate().await;
        expect_no_lease(&app).await;
        for mut follower in followers {
            let mut rest = Vec::new();
            // Ended, by a FIN or a reset; not left open.
            drop(tokio::time::timeout(SOON, follower.read_to_end(&mut rest)).await.expect("the stream ends"));
        }
        assert!(!app.log_text().contains("requests were still open"), "followers keep nobody waiting");
        app.restart().await;
        expect_each_once(&sink, 1).await;
        app.finish().await;
    }

    async fn while_somebody_connects(backend) {
        const TOKEN_CALL: &str = "POST /oauth/token";
        let mut stage = Stage::set(backend, Options::default()).await;
        stage.world.linear.fail(FaultRule::once(TOKEN_CALL, Fault::Delay { ms: 1500 }));
        let begun = stage.ask("org", "GET", "/connections/linear/authorize", None).await;
        let url = begun["url"].as_str().expect("a URL").to_owned();
        let browsing = tokio::spawn(async move {
            let mut browser = Browser::new().stopping_at(CONSOLE).with_visit(Visit::of_account(1));
            browser.visit(&url).await.map(|page| page.url.to_string())
        });
        until_called("the token endpoint", || stage.world.linear.calls(TOKEN_CALL).len()).await;
        stage.app.terminate().await;
        let page = browsing.await.expect("no panic").expect("the browser gets its answer");
        assert!(page.starts_with(CONSOLE) && !page.contains("error="), "what was begun is finished: {page}");
        stage.app.restart().await;
        stage.tell_where();
        let path = format!("/connections/oauth/status?state={}", begun["state"].as_str().expect("a state"));
        let status = stage.ask("org", "GET", &path, None).await;
        let id = status["connectionId"].as_str().unwrap_or_else(|| panic!("it is connected: {status}")).to_owned();
        stage.ask("org", "GET", &format!("/connections/{id}/token"), None).await;
        assert_eq!(stage.world.linear.calls(TOKEN_CALL).len(), 1, "one exchange");
        stage.finish().await;
    }

    async fn during_a_teardown(backend) {
        const REVOKE_CALL: &str = "POST /oauth/revoke";
        let options = Options::default().with("SIGNALBOX_SERVER__SHUTDOWN_DEADLINE_MS", "4000");
        let mut stage = Stage::set(backend, options).await;
        let id = stage.connect("org", "linear", 1).await;
        stage.world.linear.fail(FaultRule::once(REVOKE_CALL, Fault::Hang));
        stage.ask("org", "DELETE", &format!("/connections/{id}"), None).await;
        until_called("the revocation", || stage.world.linear.calls(REVOKE_CALL).len()).await;
        stage.app.terminate().await;
        assert_eq!(stage.app.count("SELECT COUNT(*) FROM gw_teardowns WHERE status = 'running'").await, 1);
        stage.app.restart().await;
        stage.tell_where();
        let receipt = stage.until("org", &format!("/connections/{id}/teardown"), |receipt| {
            receipt["status"] == "completed"
        }).await;
        let steps = receipt["steps"].as_array().expect("steps");
        assert!(steps.iter().all(|step| step["status"] == "done" || step["status"] == "skipped"), "{receipt:#}");
        stage.finish().await;
    }

    async fn during_a_healing_run(backend) {
        const ATTEMPTS: &str = "POST /app/hook/deliveries/*/attempts";
        const LOST: u64 = 4;
        let sink = Sink::start().await.expect("a port");
        let options = Options::default()
            .with("SIGNALBOX_HEALING__ENABLED", "false")
            .with("SIGNALBOX_HEALING__MAX_PER_SECOND", "1000")
            .with("SIGNALBOX_SERVER__SHUTDOWN_DEADLINE_MS", "4000");
        let mut stage = Stage::set(backend, options).await;
        let id = stage.connect("org", "github", 1).await;
        stage.app.set_destination("org", None, &sink.url("/in")).await;
        let resource = stage.world.github.facts(1, 0).resource_id;
        let body = json!({"connectionId": id, "events": ["github:push"], "resources": [{"providerResourceId": resource}]});
        stage.ask("org", "POST", "/workspaces/ws/integrations", Some(body)).await;
        stage.world.github.set(|ambient| ambient.loss = Loss::Known);
        for number in 0..LOST {
            let facts = stage.world.github.facts(1, number);
            stage.world.github.send("github:push", &facts).await;
        }
        stage.world.github.set(|ambient| ambient.loss = Loss::None);
        // The run hangs at the second of the four it asks for.
        stage.world.github.fail(FaultRule::once(ATTEMPTS, Fault::Hang).after(1));
        let mut operator = stage.app.operator("org");
        let healing = tokio::spawn(async move {
            operator.call("POST", "/admin/heal", Some(&json!({"provider": "github", "since": 0}))).await.is_ok()
        });
        until_called("for the second", || stage.world.github.calls(ATTEMPTS).len().saturating_sub(1)).await;
        sink.wait_for(1, SOON).await.expect("the first is delivered");
        stage.app.terminate().await;
        healing.await.expect("no panic");
        expect_no_lease(&stage.app).await;
        stage.app.restart().await;
        stage.tell_where();
        let runs = stage.ask("org", "GET", "/admin/heal?provider=github", None).await;
        assert_eq!(runs["items"][0]["status"], "failed", "it ended with its process: {runs:#}");
        let healed = stage.ask("org", "POST", "/admin/heal", Some(json!({"provider": "github", "since": 0}))).await;
        assert_eq!((&healed["status"], &healed["healed"]), (&json!("completed"), &json!(LOST - 1)), "{healed:#}");
        expect_each_once(&sink, usize::try_from(LOST).expect("small")).await;
        stage.finish().await;
    }

    async fn while_it_starts(backend) {
        let name = backend.name();
        let sink = Sink::start().await.expect("a port");
        let mut app = App::start(backend, Options::default()).await;
        let github = subscribed(&app, &sink).await;
        app.terminate().await;
        // At any moment of a start, from when the signal is listened for.
        for wait in [0, 5, 20, 60, 150] {
            end_a_start(&app, Duration::from_millis(wait)).await;
        }
        // And while it waits for the database.
        let obstacle = Obstacle::put_up(&app, name).await;
        end_a_start(&app, Duration::from_millis(300)).await;
        obstacle.take_away().await;
        app.restart().await;
        assert_eq!(app.post_event(&github, "github:push", 1).await.1.json()["outcome"], "routed");
        expect_each_once(&sink, 1).await;
        app.finish().await;
    }
}

/// Half migrated is not migrated: what a start that was ended left behind is a database that the next one brings up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_migrates_an_empty_database() {
    let mut backends = vec![Backend::sqlite()];
    backends.extend(Backend::empty_postgres().await);
    for backend in backends {
        let mut app = App::stopped(backend, Options::default());
        for wait in [0, 10, 25, 50] {
            end_a_start(&app, Duration::from_millis(wait)).await;
        }
        let sink = Sink::start().await.expect("a port");
        app.restart().await;
        let github = subscribed(&app, &sink).await;
        assert_eq!(app.post_event(&github, "github:push", 1).await.1.json()["outcome"], "routed");
        expect_each_once(&sink, 1).await;
        app.finish().await;
    }
}

/// Ends a process that starts, some time after it began to listen for signals.
async fn end_a_start(app: &App, after: Duration) {
    let starting = app.spawn_cli(&["serve"]);
    let pid = Pid::from_raw(i32::try_from(starting.id()).expect("a pid"));
    until_it_listens_for_signals(pid).await;
    tokio::time::sleep(after).await;
    kill(pid, Signal::SIGTERM).expect("it takes signals");
    expect_good_end(starting).await;
}

/// Until then a signal ends any process; there is nothing to lose yet.
async fn until_it_listens_for_signals(pid: Pid) {
    let deadline = Instant::now() + SOON;
    loop {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        if caught >> (Signal::SIGTERM as u64 - 1) & 1 == 1 {
            return;
        }
        assert!(Instant::now() < deadline, "it never listened for signals: {status}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn expect_good_end(starting: std::process::Child) {
    let ended = tokio::task::spawn_blocking(move || starting.wait_with_output());
    let ended = tokio::time::timeout(SOON, ended).await.expect("it ends").expect("no panic").expect("a child of ours");
    assert!(
        ended.status.success(),
        "{}: {}{}",
        ended.status,
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr)
    );
}
