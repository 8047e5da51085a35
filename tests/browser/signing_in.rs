//! Signing in and out.

use crate::{
    stage::{ORG, Stage},
    support::App,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_signs_in_with_a_key_comes_to_the_page_they_wanted_and_signs_out() {
    let Some(stage) = Stage::set().await else { return };
    let browser = &stage.browser;
    stage.visit(&format!("/events?org={ORG}")).await;
    browser.see("#key").await;
    browser.fill("#key", "sbx_nobody-has-this-key-nobody-has-this-key-00").await;
    browser.click("text:button=Sign in").await;
    browser.until_text("This is no key of this gateway").await;

    browser.fill("#key", App::service_key()).await;
    browser.click("text:button=Sign in").await;
    browser.until("location.pathname === '/console/events'").await;
    assert!(!browser.url().await.contains("key="), "the key is in no address");
    browser.until(&format!("document.body.dataset.org === '{ORG}'")).await;

    browser.click("text:button=Sign out").await;
    browser.see("#key").await;
    stage.visit("/events").await;
    browser.see("#key").await;
    stage.finish().await;
}
