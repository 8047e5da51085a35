//! The newcomer's first command.

use std::{
    io::{BufRead, BufReader, Read as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use signalbox::sim::{browser::Browser, operator::Operator};

#[test]
fn the_demo_delivers_everything_it_promises_and_says_so_with_its_exit_code() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = Command::new(env!("CARGO_BIN_EXE_signalbox"))
        .args(["demo", "--once"])
        .current_dir(directory.path())
        .env_clear()
        .output()
        .expect("the binary starts");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    for expected in
        ["signature valid", "503 refused, retried", "filtered:event_not_allowed", "duplicate", "invalid_signature"]
    {
        assert!(told.contains(expected), "{expected} is shown:\n{told}");
    }
    for provider in ["github", "vercel", "linear", "sentry"] {
        let connected = format!("connect {provider:<7} connected in_");
        assert!(told.contains(&connected), "{provider} is connected, not adopted:\n{told}");
    }
    assert!(told.contains("/login/oauth/authorize"), "GitHub's second leg is part of the way:\n{told}");
    assert!(!told.contains('\u{1b}'), "no colours off a terminal");
    assert_eq!(directory.path().read_dir().expect("readable").count(), 0, "it leaves nothing where it was started");
}

/// What a person does with a link that the demo prints.
#[tokio::main(flavor = "current_thread")]
async fn connect_by_clicking(url: &str) {
    let mut browser = Browser::new();
    let page = browser.visit(url).await.expect("a page");
    let approve = page.link("Approve for harborworks-2").expect("the page waits for a click");
    let end = browser.follow(&page, approve.as_str()).await.expect("a page");
    assert_eq!((end.status, end.url.path()), (200, "/connections/sentry/callback"), "{}", end.body);
    assert_eq!(end.parameter("error"), None);
}

/// Starts a demo; with what it prints.
fn start_demo(directory: &Path, arguments: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_signalbox"))
        .arg("demo")
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("TMPDIR", directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let out = BufReader::new(demo.stdout.take().expect("piped"));
    (demo, out)
}

#[test]
fn the_demo_keeps_serving_until_it_is_told_to_stop_and_takes_everything_with_it() {
    for stop in [Signal::SIGINT, Signal::SIGTERM] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (mut demo, mut out) = start_demo(directory.path(), &[]);
        let mut lines = out.by_ref().lines().map(|line| line.expect("text"));
        let api = lines.find(|line| line.trim_start().starts_with("API")).expect("it says where to look");
        let address = api.split("http://").nth(1).expect("a URL").trim();
        std::net::TcpStream::connect(address).expect("it still serves");
        let more = lines.find(|line| line.trim_start().starts_with("+ sentry")).expect("it offers to connect more");
        let more = more.split_whitespace().find(|word| word.starts_with("http://")).expect("a URL");
        connect_by_clicking(more);
        kill(Pid::from_raw(i32::try_from(demo.id()).expect("a pid")), stop).expect("it takes signals");
        let mut rest = String::new();
        out.read_to_string(&mut rest).expect("text");
        assert!(demo.wait().expect("it ends").success(), "{stop}: {rest}");
        assert_eq!(directory.path().read_dir().expect("readable").count(), 0, "{stop}: nothing is left");
    }
}

#[test]
fn a_demo_that_is_stopped_before_it_has_shown_everything_says_so_and_takes_everything_with_it() {
    for stop in [Signal::SIGINT, Signal::SIGTERM] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (mut demo, mut out) = start_demo(directory.path(), &["--once"]);
        let mut first = String::new();
        out.read_line(&mut first).expect("text");
        assert_ne!(directory.path().read_dir().expect("readable").count(), 0, "it has files by now");
        kill(Pid::from_raw(i32::try_from(demo.id()).expect("a pid")), stop).expect("it takes signals");
        let mut rest = String::new();
        out.read_to_string(&mut rest).expect("text");
        assert_eq!(demo.wait().expect("it ends").code(), Some(1), "{stop}: {rest}");
        assert_eq!(directory.path().read_dir().expect("readable").count(), 0, "{stop}: nothing is left");
    }
}

/// What a newcomer does first in the demo's console: replays an event, and sends a test to a destination.
#[tokio::main(flavor = "current_thread")]
async fn replay_and_test(address: &str, service_key: &str, event: &str) {
    let mut operator = Operator::new(address.parse().expect("an address"), service_key, "harborworks");
    let replayed = operator.ask("POST", &format!("/events/{event}/replay"), None).await.expect("replayed");
    assert_eq!(replayed["status"], "replayed", "{replayed}");
    let tested = operator.ask("POST", "/workspaces/on-call/destination/test", Some(&json!({}))).await.expect("tested");
    assert_eq!(tested["statusCode"], 200, "{tested}");
}

#[test]
fn the_demo_goes_on_when_somebody_replays_an_event_in_its_console() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (mut demo, out) = start_demo(directory.path(), &[]);
    let mut lines = out.lines().map(|line| line.expect("text"));
    let mut find = |wanted: &str| lines.find(|line| line.contains(wanted)).unwrap_or_else(|| panic!("no {wanted}"));
    let event = find("pull-request.opened");
    let event = event.split_whitespace().find(|word| word.starts_with("evt_")).expect("an event");
    let key = find("sign in with");
    let api = find(" API ");
    let address = api.split("http://").nth(1).expect("a URL").trim();
    find("+ sentry");
    replay_and_test(address, key.split_whitespace().last().expect("a key"), event);
    let told: Vec<String> = lines.by_ref().take_while(|line| !line.contains("200 delivered")).collect();
    let by_hand = told.iter().filter(|line| line.contains("200 replayed or tested by you")).count();
    assert_eq!(by_hand, 2, "{told:#?}");
    assert!(!told.iter().any(|line| line.contains("wrong")), "{told:#?}");
    kill(Pid::from_raw(i32::try_from(demo.id()).expect("a pid")), Signal::SIGTERM).expect("it takes signals");
    assert!(demo.wait().expect("it ends").success());
}
