//! Who gets what, and where it goes.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox::sim::sink::SignatureVerdict;

use crate::{
    checks,
    stage::{Stage, WORKSPACE},
    webdriver::key,
};

/// Whether the integration wants this event.
async fn wants(stage: &Stage, integration: &str, event: &str) -> bool {
    let found = stage.ask("GET", &format!("/integrations/{integration}"), None).await;
    found["events"].as_array().expect("events").iter().any(|one| one == event)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_chooses_events_by_hand_by_category_and_by_keyboard_and_the_next_webhook_is_chosen_by_it() {
    let Some(stage) = Stage::set().await else { return };
    let browser = &stage.browser;
    stage.send_to("/in").await;
    let connection = stage.connect("github", 1).await;
    let integration = stage.subscribe("github", 1, &connection, WORKSPACE).await;
    stage.sign_in().await;
    stage.visit(&format!("/workspaces/{WORKSPACE}")).await;
    browser.click("text:a=tide-clock").await;
    browser.until_text("13 of 45").await;
    browser.click("input[value='github:push']").await;
    browser.until_text("12 of 45").await;
    browser.click("text:button=Save").await;
    browser.until_text("Saved. The next webhook is chosen by this.").await;
    assert!(!wants(&stage, &integration, "github:push").await);
    assert_eq!(stage.post_event("github:push", 1, 1).await.json()["outcome"], "filtered");

    browser.click("input[aria-label='All of Releases']").await;
    browser.click("text:button=Save").await;
    browser.until("document.querySelector('[aria-busy=true]') === null").await;
    let path = format!("/integrations/{integration}");
    let wanted = stage.until(&path, |one| one["events"].to_string().contains("github:release.edited")).await;
    assert!(wanted["events"].to_string().contains("github:release.deleted"));

    // The same without a mouse: every control is reached, shown as focused, and does what it says.
    stage.visit(&format!("/integrations/{integration}")).await;
    browser.tab_to("input[data-filter]").await;
    browser.type_text("github:push").await;
    browser.until("document.querySelector(\"input[value='github:issue.opened']\").checkVisibility() === false").await;
    browser.tab_to("input[value='github:push']").await;
    browser.press(&[key::SPACE]).await;
    browser.tab_to("form button.primary").await;
    browser.press(&[key::ENTER]).await;
    browser.until_text("Saved. The next webhook is chosen by this.").await;
    assert!(wants(&stage, &integration, "github:push").await);
    assert_eq!(stage.post_event("github:push", 1, 2).await.json()["outcome"], "routed");
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workspaces_destination_is_set_with_its_secret_shown_once_tested_and_deleted() {
    let Some(stage) = Stage::set().await else { return };
    let browser = &stage.browser;
    let connection = stage.connect("github", 1).await;
    stage.subscribe("github", 1, &connection, WORKSPACE).await;
    stage.sign_in().await;
    stage.visit(&format!("/workspaces/{WORKSPACE}")).await;
    browser.until_text("deliveries wait until there is one").await;
    browser.click("text:button=Set its own").await;
    browser.fill("#set-destination-url", "http://").await;
    browser.click("text:button=Set").await;
    browser.until("document.querySelector('#set-destination [role=alert]') || document.querySelector('#set-destination-url:invalid')").await;
    browser.fill("#set-destination-url", &stage.sink.url("/own")).await;
    browser.fill("#set-destination-headers", "X-Team: tides").await;
    browser.click("text:button=Set").await;
    browser.see("#secret[open]").await;
    let secret = browser.text("#secret code").await;
    assert!(secret.starts_with("whsec_"), "{secret}");
    stage.sink.expect_signed("/own", &secret);
    browser.click("text:button=I have kept it").await;
    browser.until_text(&stage.sink.url("/own")).await;
    browser.until(&format!("!document.documentElement.outerHTML.includes('{secret}')")).await;

    browser.click("text:button=Send a test").await;
    browser.see("#tested[open]").await;
    assert_eq!(browser.text("#tested [data-show=status]").await, "delivered");
    browser.press(&[key::ESCAPE]).await;
    let received = stage.sink.received();
    assert_eq!((received.len(), received[0].signature), (1, SignatureVerdict::Valid));
    assert_eq!(received[0].headers.get("x-team"), Some("tides"));

    browser.click("text:button=Delete").await;
    browser.until_text("wait until there is a destination again").await;
    browser.click("text:button=Delete the destination").await;
    browser.until_text("deliveries wait until there is one").await;
    let gone = stage.operator().call("GET", &format!("/workspaces/{WORKSPACE}/destination"), None).await;
    assert_eq!(gone.expect("an answer").status, 404);
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_integration_gets_a_destination_of_its_own_that_is_tested_rotated_and_deleted_without_a_mouse() {
    let Some(stage) = Stage::set().await else { return };
    let browser = &stage.browser;
    stage.send_to("/org").await;
    let connection = stage.connect("github", 1).await;
    let integration = stage.subscribe("github", 1, &connection, WORKSPACE).await;
    stage.sign_in().await;
    stage.visit(&format!("/integrations/{integration}")).await;
    browser.until_text("this integration has none of its own").await;
    browser.enter("[data-dialog=set-destination]").await;
    browser.type_text(&stage.sink.url("/own")).await;
    browser.press(&[key::ENTER]).await;
    browser.see("#secret[open]").await;
    let old = browser.text("#secret code").await;
    stage.sink.expect_signed("/own", &old);
    browser.enter("#secret .btn.primary").await;
    browser.until_text(&stage.sink.url("/own")).await;

    browser.enter("[data-api$='/destination/test']").await;
    browser.see("#tested[open]").await;
    assert_eq!(browser.text("#tested [data-show=status]").await, "delivered");
    browser.press(&[key::ESCAPE]).await;
    browser.enter("[data-api$='/rotate-secret']").await;
    browser.until_text("every delivery is signed with both").await;
    browser.enter("[data-confirm-yes]").await;
    browser.see("#secret[open]").await;
    let new = browser.text("#secret code").await;
    assert!(new.starts_with("whsec_") && new != old, "{new}");
    browser.enter("#secret .btn.primary").await;
    assert_eq!(stage.post_event("github:push", 1, 1).await.json()["outcome"], "routed");
    let received = stage.sink.wait_for(2, Duration::from_secs(30)).await.expect("the test and the event");
    let shown: Vec<_> = received.iter().map(|one| (one.path.as_str(), one.signature)).collect();
    assert_eq!(shown, [("/own", SignatureVerdict::Valid); 2], "the old secret goes on signing");
    let wrong = checks::everything(browser, "an integration with a destination").await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    browser.enter("[data-api^='DELETE'][data-api$='/destination']").await;
    browser.until_text("Its deliveries go to").await;
    browser.enter("[data-confirm-yes]").await;
    browser.until_text("this integration has none of its own").await;
    let gone = stage.operator().call("GET", &format!("/integrations/{integration}/destination"), None).await;
    assert_eq!(gone.expect("an answer").status, 404);
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destinations_that_appear_are_changed_at_once_and_one_that_is_there_is_saved_without_a_secret() {
    let Some(stage) = Stage::set().await else { return };
    let browser = &stage.browser;
    stage.sign_in().await;
    stage.visit("/destinations").await;
    browser.until_text("Nothing goes anywhere yet").await;
    stage.send_to("/org").await;
    browser.click("text:button=Change the destination of The whole org").await;
    browser.fill("dialog[open] [name=url]", &stage.sink.url("/changed")).await;
    browser.click("text:button=Save").await;
    browser.until_text("Saved. Deliveries that wait go there, too.").await;
    browser.until_text(&stage.sink.url("/changed")).await;

    let set = async |path: &str, headers: &str| {
        browser.click("text:button=For a workspace").await;
        browser.fill("#of-workspace-id", WORKSPACE).await;
        browser.fill("#of-workspace-url", &stage.sink.url(path)).await;
        browser.fill("#of-workspace-headers", headers).await;
        browser.click("#of-workspace button.primary").await;
    };
    set("/first", "").await;
    browser.see("#secret[open]").await;
    browser.click("text:button=I have kept it").await;
    browser.until_text(&stage.sink.url("/first")).await;
    set("/second", "X-Team: tides\nX-Token abc").await;
    browser.until_text("There is no colon in “X-Token abc”.").await;
    let path = format!("/workspaces/{WORKSPACE}/destination");
    assert_eq!(stage.ask("GET", &path, None).await["url"], stage.sink.url("/first"));
    browser.fill("#of-workspace-headers", "X-Team: tides\n\n").await;
    browser.click("#of-workspace button.primary").await;
    browser.until_text("Saved. Deliveries that wait go there, too.").await;
    browser.until_text(&stage.sink.url("/second")).await;
    assert_eq!(browser.run("return document.querySelector('#secret[open]');", json!([])).await, Value::Null);
    let wrong = checks::everything(browser, "destinations with their dialogs").await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    stage.finish().await;
}
