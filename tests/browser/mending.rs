//! What went wrong, seen and put right: events as they arrive, dead letters, a replay.

use std::time::Duration;

use signalbox::sim::sink::Behaviour;

use crate::{
    stage::{Stage, WORKSPACE},
    support::Options,
    webdriver::key,
};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_event_arrives_dead_letters_are_sent_again_and_an_event_is_replayed_by_keyboard() {
    let options = Options::default().with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "1");
    let Some(stage) = Stage::set_with(options).await else { return };
    let browser = &stage.browser;
    stage.send_to("/in").await;
    stage.sink.behave("/in", Behaviour::status_only(500));
    let connection = stage.connect("github", 1).await;
    stage.subscribe("github", 1, &connection, WORKSPACE).await;
    stage.sign_in().await;
    stage.visit("/events").await;
    browser.until_text("No event has arrived yet").await;
    let event = stage.post_event("github:push", 1, 1).await.json()["eventId"].as_str().expect("an id").to_owned();
    browser.see(&format!("a[href*='{event}']")).await;
    stage.post_event("github:issue.opened", 1, 2).await;
    browser.until_text("github:issue.opened").await;

    stage.until("/deliveries?status=dead", |found| found["items"].as_array().is_some_and(|dead| dead.len() == 2)).await;
    stage.visit("/dead-letters").await;
    stage.sink.behave("/in", Behaviour::ok());
    browser.click("[data-check-all='deliveryIds[]']").await;
    browser.click("#dead-letters button.primary").await;
    browser.until_text("2 deliveries are sent again").await;
    browser.click("[data-confirm-yes]").await;
    browser.until_text("Nothing was given up").await;
    stage
        .until("/deliveries?status=delivered", |found| found["items"].as_array().is_some_and(|all| all.len() == 2))
        .await;

    let before = stage.sink.total();
    stage.visit(&format!("/events/{event}")).await;
    browser.tab_to("header [data-api$='/replay']").await;
    browser.press(&[key::ENTER]).await;
    browser.tab_to("[data-confirm-yes]").await;
    browser.press(&[key::ENTER]).await;
    stage.sink.wait_for(before + 1, SOON).await.expect("delivered once more");
    browser.until("document.querySelectorAll('#deliveries article').length === 2").await;
    stage.finish().await;
}
