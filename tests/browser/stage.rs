//! A gateway among simulated providers, a receiver, and a browser in front of the console.

use std::time::{Duration, Instant};

use serde_json::Value;
use signalbox::sim::{
    self, SignedRequest,
    client::Answer,
    operator::Operator,
    sink::Sink,
    world::{self, Simulators, Visit},
};

use crate::{
    support::{App, Backend, Options},
    webdriver::Browser,
};

/// Whose console it is.
pub const ORG: &str = "acme";
/// The workspace that subscribes.
pub const WORKSPACE: &str = "main";

/// Everything a journey needs. End with [`Stage::finish`].
pub struct Stage {
    pub app: App,
    pub world: Simulators,
    pub sink: Sink,
    pub browser: Browser,
}

impl Stage {
    /// A fresh gateway in a fresh world; `None`, said aloud, without a browser.
    pub async fn set() -> Option<Self> {
        Self::set_with(Options::default()).await
    }

    /// The same with settings.
    pub async fn set_with(options: Options) -> Option<Self> {
        let browser = Browser::open().await?;
        let world = Simulators::start(&world::Options::default()).await.expect("ports");
        let options = world.urls().into_iter().fold(options, |options, (name, url)| options.with(name, &url));
        let app = App::start(Backend::sqlite(), options).await;
        world.gateway_is_at(&format!("http://{}", app.address()));
        let sink = Sink::start().await.expect("a port");
        Some(Self { app, world, sink, browser })
    }

    /// The address of a page of the console.
    pub fn page(&self, path: &str) -> String {
        format!("http://{}/console{path}", self.app.address())
    }

    /// Signs in with the service key, for the org.
    pub async fn sign_in(&self) {
        self.browser.goto(&self.page(&format!("?org={ORG}"))).await;
        self.browser.see("#key").await;
        self.browser.fill("#key", App::service_key()).await;
        self.browser.fill("#user", "grace").await;
        self.browser.click("text:button=Sign in").await;
        self.browser.until(&format!("document.body.dataset.org === '{ORG}'")).await;
    }

    /// Goes to a page of the console.
    pub async fn visit(&self, path: &str) {
        self.browser.goto(&self.page(path)).await;
    }

    /// A caller with the service key, for the org.
    pub fn operator(&self) -> Operator {
        self.app.operator(ORG)
    }

    /// A call that should succeed.
    pub async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        self.operator().ask(method, path, body.as_ref()).await.expect("an answer that says yes")
    }

    /// Connects an account without the browser; the connection's id.
    pub async fn connect(&self, provider: &str, account: u32) -> String {
        let provider = sim::find(provider).expect("simulated");
        let mut browser = sim::browser::Browser::new().with_visit(Visit::of_account(account));
        self.operator().connect(provider, &mut browser).await.expect("connected").connection
    }

    /// Subscribes the workspace to the account's resource, to the defaults; the integration's id.
    pub async fn subscribe(&self, provider: &str, account: u32, connection: &str, workspace: &str) -> String {
        let facts = self.world.facts(provider, account, 0).expect("simulated");
        self.operator().subscribe(workspace, connection, &facts, None).await.expect("subscribed")
    }

    /// Sends the org's deliveries to a path of the sink; the signing secret.
    pub async fn send_to(&self, path: &str) -> String {
        self.operator().set_destination(None, &self.sink.url(path)).await.expect("a destination")
    }

    /// Posts a genuine event of an account as it is connected now; the gateway's answer.
    pub async fn post_event(&self, kind: &str, account: u32, seed: u64) -> Answer {
        let slug = kind.split(':').next().expect("a slug");
        let provider = sim::find(slug).expect("simulated");
        let facts = self.world.facts(slug, account, seed).expect("simulated");
        let request: SignedRequest = provider.event(kind, &facts, provider.secret.as_bytes()).expect("a known kind");
        self.app.outsider().post_webhook(slug, &request).await.expect("an answer")
    }

    /// What people do on the providers' pages from now on.
    pub fn people(&self, visit: &Visit) {
        self.world.visitors_will(visit);
    }

    /// Waits until an answer of the API is as it should be.
    pub async fn until(&self, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = self.ask("GET", path, None).await;
            if is_so(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{path} stays at {answer:#}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Ends the test: the books are right, and no secret is in the log or the database.
    pub async fn finish(self) {
        drop(self.browser);
        self.app.finish_without(&self.world.issued()).await;
    }
}
