//! `examples/console-client`, compiled and served from an origin of its own: a console of somebody else's.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use signalbox::sim::world::{Choice, Visit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    stage::{ORG, Stage},
    support::Options,
    webdriver::skip,
};

/// The example, compiled into a folder; `None`, said aloud, where there is no compiler.
fn compiled() -> Option<tempfile::TempDir> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = root.join("examples/console-client");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let compiler = root.join("tests/browser/node_modules/.bin/tsc");
    let ended =
        Command::new(&compiler).arg("-p").arg(&example).arg("--outDir").arg(folder.path().join("dist")).status();
    let Ok(ended) = ended else {
        skip("the example of an external console", "TypeScript (run `npm ci` in tests/browser)");
        return None;
    };
    assert!(ended.success(), "the example does not compile");
    for name in ["index.html", "page.css"] {
        std::fs::copy(example.join(name), folder.path().join(name)).expect("copied");
    }
    Some(folder)
}

/// Serves the files of a folder.
async fn serve(listener: TcpListener, folder: PathBuf) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream, folder.clone()));
    }
}

async fn answer(mut stream: TcpStream, folder: PathBuf) {
    let mut head = vec![0; 16 * 1024];
    let read = stream.read(&mut head).await.unwrap_or_default();
    let head = String::from_utf8_lossy(&head[..read]).into_owned();
    let path = head.split(' ').nth(1).unwrap_or("/").trim_start_matches('/');
    let path = if path.is_empty() { "index.html" } else { path };
    let (status, body) = match std::fs::read(folder.join(path)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let kind = match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css",
        _ => "text/javascript",
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    for part in [head.as_bytes(), &body] {
        if stream.write_all(part).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_console_of_another_origin_lists_connections_and_makes_one_in_a_popup() {
    let Some(folder) = compiled() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let console = format!("http://localhost:{}", listener.local_addr().expect("an address").port());
    tokio::spawn(serve(listener, folder.path().to_owned()));
    let Some(stage) = Stage::set_with(Options::default().with("SIGNALBOX_CONSOLE__URL", &console)).await else {
        return;
    };
    let browser = &stage.browser;
    let key = stage.app.make_key(&["--org", ORG]);
    browser.goto(&console).await;
    browser.fill("[name=gateway]", &format!("http://{}", stage.app.address())).await;
    browser.fill("[name=key]", "sbx_nobody-has-this-key-nobody-has-this-key-00").await;
    browser.click("text:button=Sign in").await;
    browser.until_text("(unauthorized, request req_").await;
    browser.fill("[name=key]", &key).await;
    browser.click("text:button=Sign in").await;
    browser.until_text("Nothing is connected yet").await;
    let complaints = browser.complaints().await;
    assert!(
        complaints.iter().all(|what| what.contains("status of 401")),
        "the refusals, and nothing else: {complaints:?}"
    );

    let here = browser.window().await;
    stage.people(&Visit::of_account(1).choosing(Choice::Deny));
    browser.click("text:button=Connect Linear").await;
    browser.until_text("You said no at Linear: nothing was connected.").await;
    stage.people(&Visit::of_account(1).choosing(Choice::Request));
    browser.click("text:button=Connect GitHub").await;
    browser.until_text("An owner of the account has to approve this at GitHub.").await;
    stage.people(&Visit::of_account(1));
    browser.click("text:button=Connect GitHub").await;
    browser.until_text("GitHub is connected.").await;
    browser.until_text("harborworks-1").await;
    // The popup's last page has told this window; it is the person's to close.
    for window in browser.windows().await.into_iter().filter(|window| *window != here) {
        browser.switch_to(&window).await;
        browser.close_window().await;
    }
    browser.switch_to(&here).await;

    // A person who takes their time: the page waits for a click.
    stage.people(&Visit { interactive: true, ..Visit::of_account(2) });
    let before = browser.windows().await;
    browser.click("text:button=Connect Sentry").await;
    browser.switch_to_popup(&before).await;
    browser.click("text:a=Approve for harborworks-2").await;
    browser.switch_to(&here).await;
    browser.until_text("Sentry is connected.").await;
    let ours = [console, stage.app.address().to_string()];
    let complaints = browser.complaints().await;
    let of_ours = complaints.iter().filter(|what| ours.iter().any(|origin| what.contains(origin)));
    assert_eq!(of_ours.collect::<Vec<_>>(), Vec::<&String>::new(), "the simulated pages are nobody's concern");
    stage.finish().await;
}
