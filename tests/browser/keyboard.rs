//! The whole way without a mouse: every control is reached with the tab key, and shows that it has the focus.

use signalbox::sim::world::Visit;

use crate::{
    stage::{ORG, Stage, WORKSPACE},
    support::App,
    webdriver::key,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_in_connecting_linking_and_choosing_events_need_no_mouse() {
    let Some(stage) = Stage::set().await else { return };
    let browser = &stage.browser;
    stage.send_to("/in").await;
    stage.people(&Visit::of_account(1));
    stage.visit(&format!("/connections?org={ORG}")).await;
    browser.until("document.activeElement.id === 'key'").await;
    browser.type_text(App::service_key()).await;
    browser.press(&[key::ENTER]).await;

    browser.until_text("Nothing is connected yet").await;
    browser.tab_to(".empty [data-connect=github]").await;
    browser.press(&[key::ENTER]).await;
    browser.until("location.pathname.startsWith('/console/connections/in_')").await;

    browser.tab_to("[data-dialog=link]").await;
    browser.press(&[key::ENTER]).await;
    browser.tab_to("#link #workspace").await;
    browser.type_text(WORKSPACE).await;
    browser.until("document.querySelector('#available input')").await;
    browser.tab_to("#link input[type=search]").await;
    browser.type_text("tide-clock").await;
    browser.tab_to("#available input").await;
    browser.press(&[key::SPACE]).await;
    browser.tab_to("#link button.primary").await;
    browser.press(&[key::ENTER]).await;
    browser.tab_to("#linked-done [data-close]").await;
    browser.press(&[key::ENTER]).await;

    let workspace = format!("a[href$='/console/workspaces/{WORKSPACE}']");
    browser.tab_to(&workspace).await;
    browser.press(&[key::ENTER]).await;
    browser.tab_to("main a[href*='/console/integrations/int_']").await;
    browser.press(&[key::ENTER]).await;
    browser.until("location.pathname.startsWith('/console/integrations/int_')").await;
    let url = browser.url().await;
    let integration = url.rsplit('/').next().expect("an id").to_owned();

    assert_eq!(stage.post_event("github:issue.opened", 1, 1).await.json()["outcome"], "routed");
    browser.tab_to("input[value='github:issue.opened']").await;
    browser.press(&[key::SPACE]).await;
    browser.tab_to("form button.primary").await;
    browser.press(&[key::ENTER]).await;
    let path = format!("/integrations/{integration}");
    stage.until(&path, |one| !one["events"].to_string().contains("github:issue.opened")).await;
    assert_eq!(stage.post_event("github:issue.opened", 1, 2).await.json()["outcome"], "filtered");
    stage.finish().await;
}
