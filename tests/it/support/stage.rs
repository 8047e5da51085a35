//! A gateway among simulated providers that it can ask: for tests of what is done with connections.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use signalbox::sim::{
    browser::Browser,
    client::Answer,
    world::{self, Simulators, Visit},
};

use super::{App, Backend, Options};

const CONSOLE: &str = "http://localhost:4107";
const SOON: Duration = Duration::from_mins(1);

/// A gateway and its world. End with [`Stage::finish`].
#[derive(Debug)]
pub struct Stage {
    /// The gateway.
    pub app: App,
    /// The providers.
    pub world: Simulators,
}

impl Stage {
    /// A fresh gateway in a fresh world.
    pub async fn set(backend: Backend, options: Options) -> Self {
        let world = Simulators::start(&world::Options::default()).await.expect("ports");
        let options = world.urls().into_iter().fold(options, |options, (name, url)| options.with(name, &url));
        let app = App::start(backend, options.with("SIGNALBOX_CONSOLE__URL", CONSOLE)).await;
        let stage = Self { app, world };
        stage.tell_where();
        stage
    }

    /// Tells the providers where the gateway is: again after each of its starts.
    pub fn tell_where(&self) {
        self.world.gateway_is_at(&format!("http://{}", self.app.address()));
    }

    /// Connects an account of a provider in a browser; the connection's id.
    pub async fn connect(&self, org: &str, provider: &str, account: u32) -> String {
        let mut operator = self.app.operator(org);
        let begun = operator.ask("GET", &format!("/connections/{provider}/authorize"), None).await.expect("begun");
        let url = begun["url"].as_str().expect("a URL");
        let mut browser = Browser::new().stopping_at(CONSOLE).with_visit(Visit::of_account(account));
        let page = browser.visit(url).await.expect("a page");
        let state = begun["state"].as_str().expect("a state");
        let status = operator.ask("GET", &format!("/connections/oauth/status?state={state}"), None).await;
        let status = status.expect("a status");
        status["connectionId"].as_str().unwrap_or_else(|| panic!("{status} at {}", page.url)).to_owned()
    }

    /// A call of a service for that org that should succeed.
    pub async fn ask(&self, org: &str, method: &str, path: &str, body: Option<Value>) -> Value {
        self.app.operator(org).ask(method, path, body.as_ref()).await.expect("an answer that says yes")
    }

    /// A call of a service for that org: the status and the error's code.
    pub async fn refused(&self, org: &str, method: &str, path: &str, body: Option<Value>) -> (u16, String) {
        code(&self.app.operator(org).call(method, path, body.as_ref()).await.expect("an answer"))
    }

    /// A call with any key.
    pub async fn with_key(&self, key: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        self.app.send(method, path, &[("x-api-key", key), ("content-type", "application/json")], body).await
    }

    /// Asks again and again until the answer is as it should be.
    pub async fn until(&self, org: &str, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + SOON;
        loop {
            let answer = self.ask(org, "GET", path, None).await;
            if is_so(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{path} stays at {answer:#}\n{}", self.app.log_text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every id of a paged list, and how many pages there were.
    pub async fn all_pages(&self, org: &str, path: &str) -> (Vec<Value>, usize) {
        let (mut items, mut pages, mut cursor) = (Vec::new(), 0, None::<String>);
        loop {
            let query = cursor
                .as_ref()
                .map(|cursor| form_urlencoded::Serializer::new(String::new()).append_pair("cursor", cursor).finish());
            let page = self.ask(org, "GET", &format!("{path}?{}", query.unwrap_or_default()), None).await;
            items.extend(page["items"].as_array().expect("items").iter().cloned());
            pages += 1;
            match page["nextCursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return (items, pages),
            }
        }
    }

    /// Ends the test: no code or token that a provider issued is in the log or the database.
    pub async fn finish(self) {
        self.app.finish_without(&self.world.issued()).await;
    }
}

/// The status of an answer and the code of its error.
pub fn code(answer: &Answer) -> (u16, String) {
    let body = if answer.body.is_empty() { json!({}) } else { answer.json() };
    (answer.status, body["error"].as_str().unwrap_or_default().to_owned())
}
