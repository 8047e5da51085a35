//! Connecting accounts in a popup, linking what they have, and ending it.

use signalbox::sim::{
    self,
    world::{Choice, Visit},
};

use crate::{
    stage::{Stage, WORKSPACE},
    webdriver::key,
};

/// The connection whose page is shown.
async fn connection_shown(stage: &Stage) -> String {
    stage.browser.until("location.pathname.startsWith('/console/connections/in_')").await;
    let url = stage.browser.url().await;
    url.rsplit('/').next().and_then(|last| last.split(['?', '#']).next()).expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_provider_is_connected_in_a_popup_and_every_other_end_is_said() {
    let Some(stage) = Stage::set().await else { return };
    let browser = &stage.browser;
    stage.sign_in().await;
    let here = browser.window().await;
    stage.visit("/connections").await;
    browser.until_text("Nothing is connected yet").await;

    stage.people(&Visit::of_account(1).choosing(Choice::Deny));
    browser.click(".empty [data-connect=linear]").await;
    browser.see("[data-connect-outcome][data-status=bad]").await;
    browser.until_text("access_denied").await;
    stage.people(&Visit::of_account(1).choosing(Choice::Request));
    browser.click(".empty [data-connect=github]").await;
    browser.see("[data-connect-outcome][data-status=warn]").await;
    browser.until_text("Waiting for approval").await;
    stage.people(&Visit { interactive: true, ..Visit::of_account(1) });
    let before = browser.windows().await;
    browser.click(".empty [data-connect=vercel]").await;
    browser.switch_to_popup(&before).await;
    browser.see("a.choice").await;
    browser.close_window().await;
    browser.switch_to(&here).await;
    browser.until_text("The window was closed before it was finished").await;

    for provider in sim::PROVIDERS {
        stage.visit("/connections").await;
        let before = browser.windows().await;
        if browser.run("return document.querySelector('.empty [data-connect]') === null;", serde_json::json!([])).await
            == true
        {
            browser.click("details.menu.end > summary").await;
        }
        browser.click(&format!("[data-connect={}]", provider.slug)).await;
        // A person reads the provider's pages (GitHub has two) and agrees; the window closes by itself.
        let popup = browser.switch_to_popup(&before).await;
        browser.click_until_closed(&popup, "text:a=Approve for harborworks-1").await;
        browser.switch_to(&here).await;
        let connection = connection_shown(&stage).await;
        let found = stage.ask("GET", &format!("/connections/{connection}"), None).await;
        assert_eq!((found["provider"].as_str(), found["status"].as_str()), (Some(provider.slug), Some("active")));
        assert_eq!(found["connectedBy"], "grace", "the person is in the log");
        browser.until_text("harborworks-1").await;
    }
    assert_eq!(browser.windows().await.len(), 1, "no popup is left behind");
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_are_linked_to_a_workspace_events_arrive_live_and_a_connection_ends_with_its_receipt() {
    let Some(stage) = Stage::set().await else { return };
    let browser = &stage.browser;
    stage.send_to("/in").await;
    let connection = stage.connect("github", 1).await;
    // It came before anybody subscribed, and waits.
    assert_eq!(stage.post_event("github:push", 1, 1).await.json()["outcome"], "unrouted");
    stage.sign_in().await;
    stage.visit(&format!("/connections/{connection}")).await;
    browser.click("[data-dialog=link]").await;
    browser.fill("#link #workspace", WORKSPACE).await;
    browser.until("document.querySelectorAll('#available input').length > 1").await;
    browser.fill("#link input[type=search]", "tide-clock").await;
    browser.until("[...document.querySelectorAll('#available [data-text]')].filter((one) => one.checkVisibility()).length === 1").await;
    browser.click("#available label:not([hidden]) input").await;
    browser.click("#link button.primary").await;
    browser.see("#linked-done[open]").await;
    browser.click("#linked-done button[data-api$='/reroute']").await;
    browser.until_text("of 1 waiting events").await;
    stage.sink.wait_for(1, std::time::Duration::from_secs(30)).await.expect("the one that waited");

    stage.visit("").await;
    browser.until("document.body.dataset.org").await;
    let shown = "document.querySelectorAll('#overview a[href*=\"/console/events/evt_\"]').length";
    browser.until(&format!("{shown} === 1")).await;
    assert_eq!(stage.post_event("github:issue.opened", 1, 2).await.json()["outcome"], "routed");
    browser.until(&format!("{shown} === 2")).await;
    browser.until_text("github:issue.opened").await;

    stage.visit(&format!("/connections/{connection}")).await;
    browser.until_text(WORKSPACE).await;
    browser.click("text:button=Disconnect").await;
    browser.until_text("stops routing at once").await;
    browser.press(&[key::ESCAPE]).await;
    assert_eq!(
        stage.ask("GET", &format!("/connections/{connection}"), None).await["status"],
        "active",
        "not without a yes"
    );
    browser.click("text:button=Disconnect").await;
    browser.click("[data-confirm-yes]").await;
    browser.until("document.querySelector('#receipt')?.innerText.includes('completed')").await;
    assert_eq!(stage.ask("GET", &format!("/connections/{connection}"), None).await["status"], "revoked");
    stage.finish().await;
}
