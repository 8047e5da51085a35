//! A browser that is told what to do: chromedriver over the W3C's WebDriver protocol, which is JSON over HTTP.
//!
//! The dozen commands that the journeys need, over the keep-alive client of `signalbox::sim`: a client crate would bring
//! more code into the lock file than this is, for pages of other people's making.
//!
//! **Invariants.** Nothing is waited for by time: everything asks again until it is so, or fails with what the page looks
//! like. The browser and its driver are one process group that ends with the value.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::{Value, json};
use signalbox::sim::client::Client;
use tempfile::TempDir;
use tokio::sync::Mutex;

/// How long anything may take to become so.
const SOON: Duration = Duration::from_secs(30);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(30);
/// The member under which WebDriver names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Keys by their WebDriver names.
pub mod key {
    /// To the next control.
    pub const TAB: &str = "\u{e004}";
    /// Activates.
    pub const ENTER: &str = "\u{e007}";
    /// Closes.
    pub const ESCAPE: &str = "\u{e00c}";
    /// Toggles.
    pub const SPACE: &str = " ";
}

#[expect(clippy::disallowed_methods, reason = "tests are told by the environment what is required")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Says aloud what is not tested; fails where a browser is required.
pub fn skip(what: &str, missing: &str) {
    assert!(variable("REQUIRE_BROWSER").as_deref() != Some("1"), "REQUIRE_BROWSER=1, but there is no {missing}");
    // Not `eprintln!`, which the test runner keeps to itself while tests pass.
    writeln!(std::io::stderr(), "\n!!! SKIPPED: {what}. There is no {missing} on this machine.\n").expect("stderr");
}

/// A program of this machine.
fn program(names: &[&str]) -> Option<PathBuf> {
    let folders = variable("PATH")?;
    let places = names.iter().flat_map(|name| std::env::split_paths(&folders).map(move |folder| folder.join(name)));
    places.into_iter().find(|place| place.is_file())
}

/// A browser with one window, or more when pages open them.
pub struct Browser {
    _driver: Driver,
    commands: Mutex<Client>,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// A fresh one; `None`, said aloud, on a machine that has none.
    pub async fn open() -> Option<Self> {
        let chromium = program(&["chromium", "chromium-browser", "google-chrome"]);
        let driver = program(&["chromedriver"]);
        match (chromium, driver) {
            (Some(chromium), Some(driver)) => Some(Self::start(&driver, &chromium).await),
            (None, _) => {
                skip("what a browser has to show", "Chromium");
                None
            }
            (_, None) => {
                skip("what a browser has to show", "chromedriver");
                None
            }
        }
    }

    async fn start(driver: &PathBuf, chromium: &PathBuf) -> Self {
        let spawned = Command::new(driver)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        let mut driver = Driver(spawned.expect("chromedriver starts"));
        let lines = BufReader::new(driver.0.stdout.take().expect("piped")).lines();
        let port = tokio::task::spawn_blocking(move || {
            let mut lines = lines.map_while(Result::ok);
            let port = lines
                .find_map(|line| line.split("successfully on port ").nth(1)?.trim_end_matches('.').parse::<u16>().ok());
            // Kept open: a driver whose output nobody reads stops at some point.
            std::thread::spawn(move || lines.for_each(drop));
            port
        });
        let port = port.await.expect("no panic").expect("chromedriver says its port");
        let profile = tempfile::tempdir().expect("a temporary directory");
        let arguments = [
            "--headless=new".to_owned(),
            // It sees no pages but ours, and root has no sandbox.
            "--no-sandbox".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--force-color-profile=srgb".to_owned(),
            "--hide-scrollbars".to_owned(),
            "--lang=en-GB".to_owned(),
            "--window-size=1280,900".to_owned(),
        ];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "pageLoadStrategy": "normal",
            "unhandledPromptBehavior": "ignore",
            "timeouts": {"script": 60_000, "pageLoad": 60_000, "implicit": 0},
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"binary": chromium, "args": arguments},
        }}});
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut commands = Client::new(address).with_limit(Duration::from_secs(90));
        let answer = commands.send("POST", "/session", &[], Bytes::from(capabilities.to_string())).await;
        let answer = answer.expect("chromedriver answers").json();
        let session = answer.pointer("/value/sessionId").and_then(Value::as_str);
        let session = session.unwrap_or_else(|| panic!("no browser: {answer}")).to_owned();
        Self { _driver: driver, commands: Mutex::new(commands), session, _profile: profile }
    }

    /// A command; its value, or the error's name and message.
    async fn attempt(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, String> {
        let path = format!("/session/{}{path}", self.session);
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let answer = self.commands.lock().await.send(method, &path, &[], body).await;
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let mut said = answer.json();
        if answer.status == 200 {
            return Ok(said["value"].take());
        }
        Err(format!("{}: {}", said["value"]["error"], said["value"]["message"]))
    }

    async fn command(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        self.attempt(method, path, body).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Goes to an address and waits until it is loaded.
    pub async fn goto(&self, url: &str) {
        self.command("POST", "/url", Some(json!({"url": url}))).await;
    }

    /// The address shown.
    pub async fn url(&self) -> String {
        self.command("GET", "/url", None).await.as_str().unwrap_or_default().to_owned()
    }

    /// The value of a script's `return`.
    pub async fn run(&self, script: &str, arguments: Value) -> Value {
        self.command("POST", "/execute/sync", Some(json!({"script": script, "args": arguments}))).await
    }

    /// What a script's promise resolves to.
    pub async fn run_async(&self, script: &str, arguments: Value) -> Value {
        let script = format!(
            "const done = arguments[arguments.length - 1]; \
             (async () => {{ {script} }})().then(done, (error) => done({{thrown: String(error)}}));"
        );
        let said = self.command("POST", "/execute/async", Some(json!({"script": script, "args": arguments}))).await;
        assert!(said.get("thrown").is_none(), "{said}");
        said
    }

    /// Waits until an expression of the page is true.
    pub async fn until(&self, expression: &str) {
        let script = format!("return Boolean({expression});");
        let deadline = Instant::now() + SOON;
        loop {
            // A page that is just being left has no document to ask.
            let said = self.attempt("POST", "/execute/sync", Some(json!({"script": script, "args": []}))).await;
            match said {
                Ok(Value::Bool(true)) => return,
                said if Instant::now() > deadline => panic!("never: {expression} ({said:?})\n{}", self.looks().await),
                _ => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Waits until the page shows this text.
    pub async fn until_text(&self, text: &str) {
        self.until(&format!("document.body.innerText.includes({})", json!(text))).await;
    }

    /// Waits for an element to be there and answers its WebDriver id.
    async fn element(&self, selector: &str) -> String {
        let (using, value) = locator(selector);
        let deadline = Instant::now() + SOON;
        loop {
            let found = self.attempt("POST", "/elements", Some(json!({"using": using, "value": value}))).await;
            let found = found.unwrap_or_default();
            for element in found.as_array().into_iter().flatten() {
                let id = element[ELEMENT].as_str().expect("an element").to_owned();
                if self.attempt("GET", &format!("/element/{id}/displayed"), None).await == Ok(Value::Bool(true)) {
                    return id;
                }
            }
            assert!(Instant::now() < deadline, "there is no {selector}\n{}", self.looks().await);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits for an element to be shown.
    pub async fn see(&self, selector: &str) {
        self.element(selector).await;
    }

    /// Clicks an element: a CSS selector, or `text:button=Save` for a tag and its whole text.
    pub async fn click(&self, selector: &str) {
        let deadline = Instant::now() + SOON;
        loop {
            let id = self.element(selector).await;
            // As a person scrolls: away from bars that stick to an edge.
            let script = "arguments[0].scrollIntoView({block: 'center'});";
            let centre = json!({"script": script, "args": [{ELEMENT: id}]});
            let centred = self.attempt("POST", "/execute/sync", Some(centre)).await;
            match centred.and(self.attempt("POST", &format!("/element/{id}/click"), Some(json!({}))).await) {
                Ok(_) => return,
                // It was replaced, or something moved over it for a moment.
                Err(error) if Instant::now() > deadline => panic!("{selector}: {error}\n{}", self.looks().await),
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Replaces the text of a field.
    pub async fn fill(&self, selector: &str, text: &str) {
        let id = self.element(selector).await;
        self.command("POST", &format!("/element/{id}/clear"), Some(json!({}))).await;
        self.command("POST", &format!("/element/{id}/value"), Some(json!({"text": text}))).await;
    }

    /// The text an element shows.
    pub async fn text(&self, selector: &str) -> String {
        let id = self.element(selector).await;
        self.command("GET", &format!("/element/{id}/text"), None).await.as_str().unwrap_or_default().to_owned()
    }

    /// Presses keys, one after the other.
    pub async fn press(&self, keys: &[&str]) {
        let strokes = keys
            .iter()
            .flat_map(|key| [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]);
        self.act(strokes.collect()).await;
    }

    /// Goes on with the tab key until an element has the focus, as somebody without a mouse does; it must be seen to
    /// have it.
    pub async fn tab_to(&self, selector: &str) {
        const FAR: usize = 400;
        self.see(selector).await;
        let script = "const at = document.activeElement; if (!at?.matches(arguments[0])) return null; \
                      const style = getComputedStyle(at); \
                      return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;";
        for _ in 0..FAR {
            self.press(&[key::TAB]).await;
            match self.run(script, json!([selector])).await {
                Value::Null => {}
                shown => return assert_eq!(shown, true, "{selector} has the focus and does not show it"),
            }
        }
        panic!("{selector} is not reached by keyboard\n{}", self.looks().await);
    }

    /// Goes to a button or a link by keyboard, and follows it.
    pub async fn enter(&self, selector: &str) {
        self.tab_to(selector).await;
        self.press(&[key::ENTER]).await;
    }

    /// Goes to a box by keyboard, and checks or unchecks it.
    pub async fn toggle(&self, selector: &str) {
        self.tab_to(selector).await;
        self.press(&[key::SPACE]).await;
    }

    /// Types a text into whatever has the focus.
    pub async fn type_text(&self, text: &str) {
        let letters: Vec<String> = text.chars().map(String::from).collect();
        self.press(&letters.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }

    async fn act(&self, strokes: Vec<Value>) {
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]});
        self.command("POST", "/actions", Some(actions)).await;
    }

    /// Every window, oldest first.
    pub async fn windows(&self) -> Vec<String> {
        let windows = self.command("GET", "/window/handles", None).await;
        windows.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
    }

    /// The window that commands go to.
    pub async fn window(&self) -> String {
        self.command("GET", "/window", None).await.as_str().expect("a handle").to_owned()
    }

    /// Sends commands to another window.
    pub async fn switch_to(&self, window: &str) {
        self.command("POST", "/window", Some(json!({"handle": window}))).await;
    }

    /// Opens a tab, and goes to it.
    pub async fn open_tab(&self) {
        let tab = self.command("POST", "/window/new", Some(json!({"type": "tab"}))).await;
        self.switch_to(tab["handle"].as_str().expect("a handle")).await;
    }

    /// Waits for a window beside the ones that were there, and goes to it.
    pub async fn switch_to_popup(&self, before: &[String]) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(popup) = self.windows().await.into_iter().find(|window| !before.contains(window)) {
                self.switch_to(&popup).await;
                return popup;
            }
            assert!(Instant::now() < deadline, "no window was opened\n{}", self.looks().await);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// In a window that is not ours: clicks what fits as often as it is offered, until the window has closed itself.
    pub async fn click_until_closed(&self, popup: &str, selector: &str) {
        let (using, value) = locator(selector);
        let deadline = Instant::now() + SOON;
        while self.windows().await.iter().any(|window| window == popup) {
            assert!(Instant::now() < deadline, "the window stays open\n{}", self.looks().await);
            let found = self.attempt("POST", "/element", Some(json!({"using": using, "value": value}))).await;
            if let Ok(Some(id)) = found.as_ref().map(|element| element[ELEMENT].as_str()) {
                // The page may go on, or the window close, at any moment: what counts is how it ends.
                drop(self.attempt("POST", &format!("/element/{id}/click"), Some(json!({}))).await);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Closes the current window.
    pub async fn close_window(&self) {
        self.command("DELETE", "/window", None).await;
    }

    /// A command of Chromium's own protocol.
    pub async fn chromium(&self, command: &str, parameters: Value) -> Value {
        self.command("POST", "/goog/cdp/execute", Some(json!({"cmd": command, "params": parameters}))).await
    }

    /// The size of the page's window, in CSS pixels.
    pub async fn resize(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.chromium("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// What the person prefers: `light` or `dark`; and nothing that moves.
    pub async fn prefer(&self, theme: &str) {
        let features = json!({"features": [
            {"name": "prefers-color-scheme", "value": theme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]});
        self.chromium("Emulation.setEmulatedMedia", features).await;
    }

    /// The page as a PNG, from its top, up to a height.
    pub async fn picture(&self, width: u32, max_height: u32) -> Vec<u8> {
        let height = self.run("return Math.ceil(document.documentElement.getBoundingClientRect().height);", json!([]));
        let height = height.await.as_u64().unwrap_or_default().clamp(400, u64::from(max_height));
        // What is fixed to the window is where it belongs only if the window is as high as the picture.
        let height = u32::try_from(height).expect("a height");
        self.resize(width, height).await;
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let options = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let said = self.chromium("Page.captureScreenshot", options).await;
        STANDARD.decode(said["data"].as_str().unwrap_or_default()).expect("base64")
    }

    /// What the browser complained about since the last call: failed scripts and requests, refusals of the content policy.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.command("POST", "/se/log", Some(json!({"type": "browser"}))).await;
        let is_bad = |entry: &&Value| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING"));
        let entries = log.as_array().into_iter().flatten().filter(is_bad);
        entries.filter_map(|entry| entry["message"].as_str().map(str::to_owned)).collect()
    }

    /// Where the browser is and what it shows: for the message of a failure.
    pub async fn looks(&self) -> String {
        let mut said = String::new();
        let script = "return [location.href, document.title, document.body?.innerText ?? ''];";
        match self.attempt("POST", "/execute/sync", Some(json!({"script": script, "args": []}))).await {
            Ok(page) => {
                for part in page.as_array().into_iter().flatten() {
                    writeln!(said, "    {}", part.as_str().unwrap_or_default()).expect("a String");
                }
            }
            Err(error) => said.push_str(&error),
        }
        if let Ok(picture) = self.attempt("GET", "/screenshot", None).await {
            let picture = STANDARD.decode(picture.as_str().unwrap_or_default()).unwrap_or_default();
            let path = std::env::temp_dir().join(format!("signalbox-browser-{}.png", std::process::id()));
            if std::fs::write(&path, picture).is_ok() {
                writeln!(said, "    (picture: {})", path.display()).expect("a String");
            }
        }
        said
    }
}

/// The driver's process.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"));
        // The browser is in the driver's group and would outlive it.
        killpg(group, Signal::SIGKILL).expect("our own group");
        self.0.wait().expect("a child of ours");
    }
}

/// How WebDriver is told what to look for.
fn locator(selector: &str) -> (&'static str, String) {
    match selector.strip_prefix("text:") {
        Some(rest) => ("xpath", xpath_of(rest)),
        None => ("css selector", selector.to_owned()),
    }
}

/// `button=Save` as XPath: an element of that tag with that text, or that name for screen readers.
fn xpath_of(text: &str) -> String {
    let (tag, text) = text.split_once('=').expect("tag=text");
    let quoted = json!(text);
    format!("//{tag}[normalize-space(.)={quoted} or @aria-label={quoted}]")
}
