//! What went wrong, seen and put right: events as they arrive, dead letters that are sent again.

use serde_json::{Value, json};
use signalbox::sim::sink::Behaviour;

use crate::{
    checks,
    stage::{Stage, WORKSPACE},
    support::Options,
    webdriver::key,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_arrives_live_and_the_dead_letters_that_were_chosen_are_sent_again() {
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
    browser.until_text("This sends 2 again").await;
    browser.click("[data-confirm-yes]").await;
    browser.until_text("Nothing was given up").await;
    stage
        .until("/deliveries?status=delivered", |found| found["items"].as_array().is_some_and(|all| all.len() == 2))
        .await;
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_reaches_nobody_says_so() {
    let Some(stage) = Stage::set_with(Options::default()).await else { return };
    let browser = &stage.browser;
    stage.connect("github", 1).await;
    stage.sign_in().await;
    let event = stage.post_event("github:push", 1, 1).await.json()["eventId"].as_str().expect("an id").to_owned();
    stage.visit(&format!("/events/{event}")).await;
    browser.click("button[data-api$='/replay']").await;
    browser.click("[data-confirm-yes]").await;
    browser.until_text("Nothing was sent: no integration wants it now.").await;
    stage.finish().await;
}

/// Dead letters: more than a page holds, and more than go at once.
const MANY: usize = 120;

/// The page waits with its second portion until it may go on.
const HOLD_THE_SECOND_PORTION: &str = "
    const real = window.fetch;
    let portions = 0;
    window.mayGoOn = new Promise((resolve) => (window.goOn = resolve));
    window.fetch = async (address, options) => {
        if (options?.method === 'POST' && ++portions === 2) await window.mayGoOn;
        return real(address, options);
    };";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_dead_letters_that_match_are_sent_again_in_portions_with_progress_and_can_be_stopped() {
    let options = Options::default()
        .with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "1")
        .with("SIGNALBOX_DELIVERY__CIRCUIT_FAILURES", "1000");
    let Some(stage) = Stage::set_with(options).await else { return };
    let browser = &stage.browser;
    stage.send_to("/in").await;
    stage.sink.behave("/in", Behaviour::status_only(500));
    for (provider, kind, events) in [("github", "github:push", MANY), ("linear", "linear:issue.created", 1)] {
        let connection = stage.connect(provider, 1).await;
        stage.subscribe(provider, 1, &connection, WORKSPACE).await;
        for seed in (1..).take(events) {
            assert_eq!(stage.post_event(kind, 1, seed).await.json()["outcome"], "routed");
        }
    }
    let count = |wanted: usize| move |found: &Value| found["count"] == wanted;
    stage.until("/deliveries/count?status=dead", count(MANY + 1)).await;
    stage.sink.behave("/in", Behaviour::ok());

    stage.sign_in().await;
    stage.visit("/dead-letters?provider=github").await;
    browser.until_text("120 in all like that, 50 on this page").await;
    browser.run(HOLD_THE_SECOND_PORTION, json!([])).await;
    browser.enter("[data-every]").await;
    browser.until_text("everything that matches again: 120, on this page and on the others").await;
    browser.enter("[data-confirm-yes]").await;
    browser.until_text("50 of 120").await;
    browser.until("document.querySelector('#sending progress').value === 50").await;
    browser.until("document.activeElement.matches('[data-stop]')").await;
    let wrong = checks::everything(browser, "sending again").await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // One of those that are about to go was sent by somebody else a moment before.
    let found = stage.ask("GET", "/deliveries?status=dead&provider=github&limit=1", None).await;
    let taken = found["items"][0]["id"].as_str().expect("an id");
    stage.ask("POST", &format!("/deliveries/{taken}/retry"), None).await;
    stage.until("/deliveries/count?status=delivered", count(51)).await;
    browser.press(&[key::ENTER]).await;
    browser.run("window.goOn();", json!([])).await;
    browser.until_text("Stopped. 99 are on their way again. The others stay here.").await;
    browser.until_text("is on its way already, or was delivered").await;
    browser.see(&format!("#sending a[href$='/console/events?search={taken}']")).await;
    let wrong = checks::everything(browser, "stopped").await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    stage.until("/deliveries/count?status=delivered", count(100)).await;
    stage.until("/deliveries/count?status=dead", count(MANY + 1 - 100)).await;

    browser.until_text("20 in all like that").await;
    browser.enter("[data-every]").await;
    browser.enter("[data-confirm-yes]").await;
    browser.until_text("20 are on their way again.").await;
    browser.until_text("No dead letter is like that").await;
    stage.until("/deliveries/count?status=delivered", count(MANY)).await;
    stage.until("/deliveries/count?status=dead", count(1)).await;
    stage.finish().await;
}
