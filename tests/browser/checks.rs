//! What is true of every page: accessible, quiet, within its width, light to load.

use std::{path::Path, process::Command, sync::OnceLock};

use serde_json::{Value, json};

use crate::{
    stage::Stage,
    webdriver::{Browser, skip},
};

/// Widths of a desk and of a telephone, CSS pixels.
pub const WIDTHS: [u32; 2] = [1280, 380];
/// What people prefer.
pub const THEMES: [&str; 2] = ["light", "dark"];
/// What a page may weigh, compressed and without its data, bytes.
pub const MAX_PAGE_BYTES: usize = 60 * 1024;

/// The accessibility check, from npm; `None`, said aloud, where it is not installed.
fn axe() -> Option<&'static str> {
    static SOURCE: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/node_modules/axe-core/axe.min.js");
        let source = std::fs::read_to_string(path).ok();
        if source.is_none() {
            skip("the accessibility check", "axe-core (run `npm ci` in tests/browser)");
        }
        source
    };
    SOURCE.get_or_init(read).as_deref()
}

/// What axe finds wrong with the page as it is, each with where.
async fn violations(browser: &Browser, axe: &str) -> Vec<String> {
    browser.run(axe, json!([])).await;
    let script = "const found = await axe.run(document, {resultTypes: ['violations'], \
                  runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}); \
                  return found.violations.map(({id, help, nodes}) => \
                  `${id}: ${help}: ${nodes.map((node) => node.target + ' ' + (node.any[0]?.message ?? '')).join('; ')}`);";
    let found = browser.run_async(script, json!([])).await;
    found.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

/// What is wider than the page.
async fn overflow(browser: &Browser) -> Value {
    let script = "const root = document.documentElement; \
                  if (root.scrollWidth <= root.clientWidth) return null; \
                  const wide = [...document.querySelectorAll('body *')].filter((one) => one.getBoundingClientRect().right > root.clientWidth + 1); \
                  return wide.slice(0, 5).map((one) => one.outerHTML.slice(0, 120));";
    browser.run(script, json!([])).await
}

/// The sign-in page asks whether somebody is signed in, and a page that is not there is not there: answers of 4xx that
/// the browser writes down.
fn is_expected(complaint: &str) -> bool {
    let is_refusal = |path: &str, status: &str| complaint.contains(path) && complaint.contains(status);
    is_refusal("/console/session ", "status of 401") || is_refusal("/console/nowhere", "status of 404")
}

/// Everything that is wrong with the page shown, in both widths and both themes.
pub async fn everything(browser: &Browser, name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for width in WIDTHS {
        browser.resize(width, 900).await;
        for theme in THEMES {
            browser.prefer(theme).await;
            let overflow = overflow(browser).await;
            if !overflow.is_null() {
                wrong.push(format!("{name} at {width}: wider than the window: {overflow}"));
            }
            if let Some(axe) = axe() {
                let found = violations(browser, axe).await;
                wrong.extend(found.into_iter().map(|what| format!("{name} at {width}, {theme}: {what}")));
            }
        }
    }
    browser.resize(1280, 900).await;
    browser.prefer("light").await;
    let complaints = browser.complaints().await.into_iter().filter(|what| !is_expected(what));
    wrong.extend(complaints.map(|what| format!("{name}: the browser says: {what}")));
    wrong
}

/// Pictures of the page shown, in both widths and both themes, as small as a palette makes them where `pngquant` is there.
pub async fn pictures(browser: &Browser, folder: &Path, name: &str) {
    for width in WIDTHS {
        browser.resize(width, 900).await;
        for theme in THEMES {
            browser.prefer(theme).await;
            let picture = browser.picture(width, 1400).await;
            let path = folder.join(format!("{name}-{width}-{theme}.png"));
            std::fs::write(&path, picture).expect("written");
            let quantised = Command::new("pngquant")
                .args(["--force", "--ext", ".png", "--skip-if-larger", "--strip", "64"])
                .arg(&path)
                .status();
            if quantised.is_err() {
                skip("making the pictures small", "pngquant");
            }
        }
    }
    browser.resize(1280, 900).await;
    browser.prefer("light").await;
}

/// What a page weighs: itself, its stylesheet, its script and its icon, each compressed as a proxy would.
pub async fn weight(stage: &Stage, path: &str) -> usize {
    let script = "const own = performance.getEntriesByType('navigation').concat(performance.getEntriesByType('resource')) \
                  .map(({name}) => name).filter((name) => !/stream|fragment|session/.test(name)); \
                  let bytes = 0; \
                  for (const name of new Set(own)) { \
                    const stream = (await fetch(name)).body.pipeThrough(new CompressionStream('gzip')); \
                    bytes += (await new Response(stream).arrayBuffer()).byteLength; \
                  } \
                  return bytes;";
    stage.visit(path).await;
    let bytes = stage.browser.run_async(script, json!([])).await;
    usize::try_from(bytes.as_u64().unwrap_or(u64::MAX)).expect("a size")
}
