//! Every page: what is true of all of them, and their pictures.

use std::path::Path;

use crate::{
    checks,
    furnished::{Furniture, furnish},
    stage::{Stage, WORKSPACE},
    support::Options,
};

/// The lists, and a page that is none: name and path.
const PAGES: &[(&str, &str)] = &[
    ("overview", ""),
    ("events", "/events"),
    ("connections", "/connections"),
    ("workspaces", "/workspaces"),
    ("destinations", "/destinations"),
    ("dead-letters", "/dead-letters"),
    ("quarantine", "/quarantine"),
    ("keys", "/keys"),
    ("settings", "/settings"),
    ("not-found", "/nowhere"),
];

/// The pages of single things.
fn pages_of(furniture: &Furniture) -> Vec<(&'static str, String)> {
    vec![
        ("event", format!("/events/{}", furniture.event)),
        ("connection", format!("/connections/{}", furniture.connection)),
        ("workspace", format!("/workspaces/{WORKSPACE}")),
        ("integration", format!("/integrations/{}", furniture.integration)),
    ]
}

/// Deliveries that fail are dead letters soon.
fn impatient() -> Options {
    Options::default().with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_pages_are_accessible_quiet_and_within_their_width_in_both_themes() {
    let Some(stage) = Stage::set().await else { return };
    stage.visit("/login").await;
    let mut wrong = checks::everything(&stage.browser, "sign-in").await;
    stage.sign_in().await;
    for (name, path) in PAGES {
        stage.visit(path).await;
        wrong.extend(checks::everything(&stage.browser, name).await);
    }
    stage.visit("/workspaces/nobody-yet").await;
    wrong.extend(checks::everything(&stage.browser, "workspace without integrations").await);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_in_use_are_accessible_quiet_and_within_their_width_in_both_themes() {
    let Some(stage) = Stage::set_with(impatient()).await else { return };
    let furniture = furnish(&stage).await;
    stage.sign_in().await;
    let lists = PAGES.iter().map(|(name, path)| (*name, (*path).to_owned()));
    let mut wrong = Vec::new();
    for (name, path) in lists.chain(pages_of(&furniture)) {
        stage.visit(&path).await;
        wrong.extend(checks::everything(&stage.browser, name).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_without_its_data_weighs_little() {
    let Some(stage) = Stage::set().await else { return };
    stage.sign_in().await;
    for (name, path) in PAGES {
        let bytes = checks::weight(&stage, path).await;
        assert!(bytes > 2000 && bytes <= checks::MAX_PAGE_BYTES, "{name} weighs {bytes} bytes");
        println!("{name}: {bytes} bytes");
    }
    stage.finish().await;
}

/// Writes `docs/console/*.png`: `cargo test --locked --test browser -- --ignored pictures`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes files; see docs/console.md"]
async fn pictures() {
    let Some(stage) = Stage::set_with(impatient()).await else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/console");
    std::fs::create_dir_all(&folder).expect("a folder");
    let furniture = furnish(&stage).await;
    stage.visit("/login").await;
    checks::pictures(&stage.browser, &folder, "sign-in").await;
    stage.sign_in().await;
    let lists = PAGES.iter().map(|(name, path)| (*name, (*path).to_owned()));
    for (name, path) in lists.chain(pages_of(&furniture)) {
        stage.visit(&path).await;
        checks::pictures(&stage.browser, &folder, name).await;
    }
    stage.finish().await;
}
