//! The whole way without a mouse: every control is reached with the tab key, and shows that it has the focus.

use std::time::Duration;

use signalbox::sim::world::Visit;

use crate::{
    stage::{ORG, Stage, WORKSPACE},
    support::App,
    webdriver::{Browser, key},
};

const SOON: Duration = Duration::from_secs(30);

/// Goes to a field and writes into it.
async fn write(browser: &Browser, field: &str, text: &str) {
    browser.tab_to(field).await;
    browser.type_text(text).await;
}

/// Comes to the connections, signs in on the way, and connects an account.
async fn connect(stage: &Stage) {
    let browser = &stage.browser;
    stage.visit(&format!("/connections?org={ORG}")).await;
    browser.until("document.activeElement.id === 'key'").await;
    browser.type_text(App::service_key()).await;
    browser.press(&[key::ENTER]).await;
    browser.until_text("Nothing is connected yet").await;
    browser.enter(".empty [data-connect=github]").await;
    browser.until("location.pathname.startsWith('/console/connections/in_')").await;
}

/// Links a repository of the connection that is shown to the workspace.
async fn link(browser: &Browser) {
    browser.enter("[data-dialog=link]").await;
    write(browser, "#link #workspace", WORKSPACE).await;
    browser.until("document.querySelector('#available input')").await;
    write(browser, "#link input[type=search]", "tide-clock").await;
    browser.toggle("#available input").await;
    browser.enter("#link button.primary").await;
    browser.enter("#linked-done [data-close]").await;
}

/// Goes from the connection to the integration, by way of its workspace, and chooses an event besides those it gets.
async fn choose(stage: &Stage, event: &str) {
    let browser = &stage.browser;
    browser.enter(&format!("a[href$='/console/workspaces/{WORKSPACE}']")).await;
    browser.enter("main a[href*='/console/integrations/int_']").await;
    browser.until("location.pathname.startsWith('/console/integrations/int_')").await;
    let url = browser.url().await;
    let path = format!("/integrations/{}", url.rsplit('/').next().expect("an id"));
    browser.toggle(&format!("input[value='{event}']")).await;
    browser.enter("form button.primary").await;
    stage.until(&path, |one| one["events"].to_string().contains(event)).await;
}

/// Finds an event in the list and has it delivered.
async fn replay(browser: &Browser, event: &str) {
    browser.enter("nav a[href$='/console/events']").await;
    browser.enter(&format!("#events a[href$='{event}']")).await;
    browser.enter("header [data-api$='/replay']").await;
    browser.enter("[data-confirm-yes]").await;
    browser.see("#deliveries article .badge.good").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_in_connecting_linking_choosing_an_event_and_replaying_it_need_no_mouse() {
    const KIND: &str = "github:branch.created";
    let Some(stage) = Stage::set().await else { return };
    stage.send_to("/in").await;
    stage.people(&Visit::of_account(1));

    connect(&stage).await;
    link(&stage.browser).await;
    let unwanted = stage.post_event(KIND, 1, 1).await.json();
    assert_eq!(unwanted["outcome"], "filtered");
    choose(&stage, KIND).await;
    assert_eq!(stage.post_event(KIND, 1, 2).await.json()["outcome"], "routed");
    stage.sink.wait_for(1, SOON).await.expect("the one that was wanted when it came");
    replay(&stage.browser, unwanted["eventId"].as_str().expect("an id")).await;
    stage.sink.wait_for(2, SOON).await.expect("the one that was not");
    stage.finish().await;
}
