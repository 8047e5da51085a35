//! Pages that stay open: what they follow, what they leave to others, and whose they go on showing.

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    stage::{ORG, Stage, WORKSPACE},
    support::App,
};

/// More than a browser has connections to one host.
const TABS: usize = 7;
/// As many streams as a key may follow.
const STREAMS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tabs_are_open_and_the_one_that_is_looked_at_is_live() {
    let Some(stage) = Stage::set().await else { return };
    let browser = &stage.browser;
    let connection = stage.connect("github", 1).await;
    stage.subscribe("github", 1, &connection, WORKSPACE).await;
    stage.sign_in().await;
    let first = browser.window().await;
    stage.visit("/events").await;
    browser.until_text("Live").await;
    for _ in 1..TABS {
        browser.open_tab().await;
        stage.visit("/events").await;
        browser.until("document.querySelector('[data-stream]').textContent === 'Live'").await;
    }
    let missed = stage.post_event("github:push", 1, 1).await.json()["eventId"].as_str().expect("an id").to_owned();
    browser.see(&format!("a[href*='{missed}']")).await;
    browser.switch_to(&first).await;
    browser.see(&format!("a[href*='{missed}']")).await;
    let next = stage.post_event("github:push", 1, 2).await.json()["eventId"].as_str().expect("an id").to_owned();
    browser.see(&format!("a[href*='{next}']")).await;
    stage.finish().await;
}

/// Follows the org's events with the key that the browser has, too.
async fn follower(stage: &Stage) -> TcpStream {
    let mut stream = TcpStream::connect(stage.app.address()).await.expect("connects");
    let key = App::service_key();
    let request = format!("GET /events/stream HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nx-org-id: {ORG}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut begun = [0; 12];
    stream.read_exact(&mut begun).await.expect("an answer");
    assert_eq!(&begun, b"HTTP/1.1 200");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_may_not_follow_says_that_it_is_not_live_and_follows_when_it_may() {
    let Some(stage) = Stage::set().await else { return };
    let browser = &stage.browser;
    let mut followers = Vec::new();
    while followers.len() < STREAMS {
        followers.push(follower(&stage).await);
    }
    stage.sign_in().await;
    stage.visit("/events").await;
    browser.until("document.querySelector('[data-stream]').textContent === 'Not live'").await;
    drop(followers);
    browser.until("document.querySelector('[data-stream].on')?.textContent === 'Live'").await;
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_every_org_stays_that_when_another_window_chooses_one() {
    let Some(stage) = Stage::set().await else { return };
    let browser = &stage.browser;
    stage.connect("github", 1).await;
    stage.sign_in().await;
    stage.visit("/events?org=").await;
    stage.visit("/events").await;
    browser.until("document.body.dataset.org === undefined").await;
    let elsewhere = "return (await fetch('/console?org=globex', {headers: {accept: 'text/html'}})).status;";
    assert_eq!(browser.run_async(elsewhere, json!([])).await, 200);
    let event = stage.post_event("github:push", 1, 1).await.json()["eventId"].as_str().expect("an id").to_owned();
    browser.see(&format!("a[href*='{event}']")).await;

    stage.visit(&format!("/events/{event}?org=")).await;
    assert_eq!(browser.run_async(elsewhere, json!([])).await, 200);
    let download = "return (await fetch(document.querySelector('a[download]').href)).status;";
    assert_eq!(browser.run_async(download, json!([])).await, 200);
    browser.click("button[data-api$='/replay']").await;
    browser.click("[data-confirm-yes]").await;
    browser.until_text("Nothing was sent: no integration wants it now.").await;
    stage.finish().await;
}
