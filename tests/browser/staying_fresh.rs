//! Pages that stay open: whose they go on showing.

use serde_json::json;

use crate::stage::Stage;

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
