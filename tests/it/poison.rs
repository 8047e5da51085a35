//! A panic ends one webhook or one edit, and nobody else's work: bytes are kept, rows stay whole, and the next message
//! finds everything in order.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use signalbox::{
    app,
    config::Config,
    model::{
        clock::{Clock as _, EpochMs, SystemClock},
        provider::{ProviderDeliveryId, ProviderSlug},
        secret::Secret,
        webhook::Headers,
    },
    providers::{
        Category, EventSpec, ExtractError, Inbound, Provider, ProviderSettings, Registry, ResourceFacts,
        SignatureScheme,
        connector::{
            Account, Callback, Completion, Connector, ConnectorError, DeliveryLog, Ended, FreshToken, Grant, HeldToken,
            Leg, LogPage, ProxyAnswer, ProxyCall, ProxyEndpoint, ResourcePage,
        },
    },
    sim::{self, SignedRequest, browser::Browser, client::Client, operator::Operator},
};
use url::Url;

/// A provider of ours, but a body that says `poison` panics while the fault is there.
struct Faulty {
    real: Arc<dyn Provider>,
    fault: Arc<AtomicBool>,
}

impl Provider for Faulty {
    fn slug(&self) -> ProviderSlug {
        self.real.slug()
    }
    fn name(&self) -> &'static str {
        self.real.name()
    }
    fn resource_label(&self) -> &'static str {
        self.real.resource_label()
    }
    fn events(&self) -> &'static [EventSpec] {
        self.real.events()
    }
    fn categories(&self) -> &'static [Category] {
        self.real.categories()
    }
    fn scheme(&self) -> &SignatureScheme {
        self.real.scheme()
    }
    fn default_max_body_bytes(&self) -> usize {
        self.real.default_max_body_bytes()
    }
    fn delivery_id_is_unsigned(&self) -> bool {
        self.real.delivery_id_is_unsigned()
    }
    fn read_headers(&self) -> &'static [&'static str] {
        self.real.read_headers()
    }
    fn delivery_id_header(&self) -> Option<&'static str> {
        self.real.delivery_id_header()
    }
    fn extract(&self, headers: &Headers, body: &Bytes) -> Result<Inbound, ExtractError> {
        let poisonous = body.windows(6).any(|window| window == b"poison");
        assert!(!(poisonous && self.fault.load(Ordering::SeqCst)), "this provider has a fault");
        self.real.extract(headers, body)
    }
    fn extract_trusted(&self, wire: &str, id: &ProviderDeliveryId, payload: &Bytes) -> Result<Inbound, ExtractError> {
        self.real.extract_trusted(wire, id, payload)
    }
    fn source_config(&self, of: &ResourceFacts<'_>) -> Map<String, Value> {
        assert!(!self.fault.load(Ordering::SeqCst), "this provider has a fault");
        self.real.source_config(of)
    }
}

/// The asking half of the same provider: every call of it panics while the fault is there.
struct FaultyConnector {
    fault: Arc<AtomicBool>,
}

impl FaultyConnector {
    fn may_panic(&self) {
        assert!(!self.fault.load(Ordering::SeqCst), "this provider has a fault");
    }
}

#[async_trait]
impl Connector for FaultyConnector {
    fn uses_pkce(&self, _: Option<&Value>) -> bool {
        false
    }
    /// Nobody is asked: the provider's page is our own callback.
    fn authorize_url(&self, leg: &Leg<'_>) -> Result<Url, ConnectorError> {
        let parameters = [("state", leg.state), ("code", "c")];
        Url::parse_with_params(leg.redirect_uri, parameters).map_err(|_| ConnectorError::NotSupported)
    }
    async fn complete(&self, _: &Callback<'_>) -> Result<Completion, ConnectorError> {
        self.may_panic();
        Err(ConnectorError::Refused("access_denied"))
    }
    fn keeps_tokens(&self) -> bool {
        false
    }
    async fn renew_token(&self, grant: &Grant, _: Option<&HeldToken>) -> Result<FreshToken, ConnectorError> {
        self.may_panic();
        Ok(FreshToken {
            access: Secret::new("minted").expect("not empty"),
            refresh: None,
            token_type: None,
            scope: None,
            expires_at: Some(grant.now.plus(std::time::Duration::from_hours(1))),
            refresh_expires_at: None,
        })
    }
    async fn read_account(&self, _: &Grant, _: &Secret) -> Result<Account, ConnectorError> {
        self.may_panic();
        Ok(Account::default())
    }
    async fn end_grant(&self, _: &Grant, _: Option<&HeldToken>) -> Result<Ended, ConnectorError> {
        self.may_panic();
        Ok(Ended::Revoked)
    }
    async fn list_resources(&self, _: &Grant, _: &Secret, _: Option<&str>) -> Result<ResourcePage, ConnectorError> {
        self.may_panic();
        Ok(ResourcePage { items: Vec::new(), next_cursor: None, total: None })
    }
    fn proxy_endpoints(&self) -> &'static [ProxyEndpoint] {
        &[]
    }
    async fn call(&self, _: &Grant, _: &Secret, _: &ProxyCall) -> Result<ProxyAnswer, ConnectorError> {
        Err(ConnectorError::NotSupported)
    }
    fn delivery_log(&self) -> Option<&dyn DeliveryLog> {
        Some(self)
    }
}

#[async_trait]
impl DeliveryLog for FaultyConnector {
    fn reach(&self) -> std::time::Duration {
        std::time::Duration::from_hours(24)
    }
    async fn list(&self, _: EpochMs, _: Option<&str>) -> Result<LogPage, ConnectorError> {
        self.may_panic();
        Ok(LogPage { items: Vec::new(), next_cursor: None, wait: None })
    }
    async fn redeliver(&self, _: EpochMs, _: &str) -> Result<bool, ConnectorError> {
        Ok(false)
    }
}

const CONSOLE: &str = "http://localhost:4107";
const SERVICE_KEY: &str = "a-service-key-of-at-least-32-characters";

/// Runs a case against a gateway in this process whose GitHub and Linear have a fault that the case can mend.
fn with_a_faulty_provider<F: Future<Output = ()>>(case: impl FnOnce(SocketAddr, Arc<AtomicBool>) -> F) {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    actix_web::rt::System::with_tokio_rt(runtime).block_on(async {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = [
            ("SIGNALBOX_SERVER__LISTEN", "127.0.0.1:0".to_owned()),
            ("SIGNALBOX_SERVER__WORKERS", "1".to_owned()),
            ("SIGNALBOX_DATABASE__URL", format!("sqlite://{}", directory.path().join("signalbox.db").display())),
            ("SIGNALBOX_VAULT__KEY_FILE", directory.path().join("key").display().to_string()),
            ("SIGNALBOX_AUTH__SERVICE_KEY", SERVICE_KEY.to_owned()),
            ("SIGNALBOX_INGEST__ACK_DEADLINE_MS", "30000".to_owned()),
            ("SIGNALBOX_CONSOLE__URL", CONSOLE.to_owned()),
            ("SIGNALBOX_HEALING__ENABLED", "false".to_owned()),
        ];
        let settings = sim::gateway_settings().chain(settings.map(|(name, value)| (name.to_owned(), value)));
        let specs: Vec<_> = Registry::built_in().iter().map(|registered| registered.spec).collect();
        let config = Config::load(None, settings, &specs).expect("a good configuration");
        let fault = Arc::new(AtomicBool::new(true));
        let (mut faulty, mut enabled) = (Vec::<Arc<dyn Provider>>::new(), Vec::new());
        for slug in ["github", "linear"] {
            let built_in = Registry::built_in().iter().find(|registered| registered.spec.slug.as_str() == slug);
            faulty.push(Arc::new(Faulty { real: (built_in.expect("listed").make)(), fault: fault.clone() }));
            let settings = ProviderSettings {
                webhook_secrets: config.providers[slug].webhook_secrets.clone(),
                max_body_bytes: None,
                timestamp_tolerance: std::time::Duration::from_mins(1),
            };
            enabled.push((slug.to_owned(), settings));
        }
        let github = faulty[0].slug();
        let registry = Registry::new(faulty, enabled).expect("a good registry");
        let registry = registry.with_connector(github, Ok(Arc::new(FaultyConnector { fault: fault.clone() })));
        let running = app::start(config, Some(registry)).await.expect("it starts");
        case(running.address, fault).await;
        expect_sound(running.address).await;
        running.stop().await;
    });
}

/// The rows contradict each other nowhere, and every webhook has come to its end: what `App::finish` looks at, of a gateway
/// in this process.
async fn expect_sound(address: SocketAddr) {
    let key = [("x-api-key", SERVICE_KEY)];
    let answer = Client::new(address).send("GET", "/admin/health?deep=true", &key, Bytes::new()).await;
    let health = answer.expect("an answer").json();
    assert_eq!((&health["status"], &health["census"]["contradictions"]), (&json!("ok"), &json!([])), "{health:#}");
    assert_eq!(health["ledger"]["inProgress"], 0, "{health:#}");
}

/// A genuine push with this id and body.
fn push(id: &str, body: &str) -> SignedRequest {
    let github = sim::find("github").expect("simulated");
    let headers = vec![("x-github-event", "push".to_owned()), ("x-github-delivery", id.to_owned())];
    github.signing.sign(headers, body, github.secret.as_bytes(), sim::Encoding::Json)
}

#[test]
fn a_webhook_whose_handling_panics_is_kept_and_set_aside_and_let_in_when_the_fault_is_mended() {
    with_a_faulty_provider(async |address, fault| {
        let mut client = Client::new(address);
        let poison = push("p-1", r#"{"a":"poison"}"#);
        let mut answers = Vec::new();
        for _ in 0..4 {
            let answer = client.post_webhook("github", &poison).await.expect("an answer");
            answers.push((answer.status, answer.json()["status"].clone()));
        }
        assert_eq!((answers[0].0, answers[1].0), (500, 500), "its provider is asked to try again");
        assert_eq!(answers[2..], [(200, "set_aside".into()), (200, "set_aside".into())]);

        // The connection goes on.
        let fine = client.post_webhook("github", &push("fine", r#"{"a":"fine"}"#)).await.expect("an answer");
        assert_eq!((fine.status, fine.json()["status"].clone()), (200, "accepted".into()));

        fault.store(false, Ordering::SeqCst);
        let key = [("x-api-key", SERVICE_KEY)];
        let released = client.send("POST", "/admin/quarantine/reverify", &key, Bytes::new()).await.expect("an answer");
        assert_eq!(released.json()["accepted"], 1, "{}", released.json());
        let again = client.post_webhook("github", &poison).await.expect("an answer");
        assert_eq!(again.json()["status"], "duplicate", "{}", again.json());
    });
}

/// Linear writes the time of each try into the body and signs that: no two are alike.
#[test]
fn a_webhook_that_is_signed_anew_each_time_is_set_aside_the_third_time_all_the_same() {
    with_a_faulty_provider(async |address, _fault| {
        let linear = sim::find("linear").expect("simulated");
        let mut client = Client::new(address);
        let mut post = async |id: &str, number: i64| {
            let body = json!({"type": "Issue", "action": "create", "organizationId": "poison",
                "webhookTimestamp": SystemClock.now().0 + number});
            let headers = vec![("linear-event", "Issue".to_owned()), ("linear-delivery", id.to_owned())];
            let secret = linear.secret.as_bytes();
            let request = linear.signing.sign(headers, body.to_string(), secret, sim::Encoding::Json);
            client.post_webhook("linear", &request).await.expect("an answer").status
        };
        assert_eq!([post("l-1", 1).await, post("l-1", 2).await, post("l-2", 3).await], [500; 3]);
        assert_eq!(post("l-1", 4).await, 200, "its third time");
        let key = [("x-api-key", SERVICE_KEY)];
        let kept = Client::new(address).send("GET", "/admin/quarantine", &key, Bytes::new()).await.expect("an answer");
        assert_eq!(kept.json()["items"].as_array().map(Vec::len), Some(4), "none of them is lost: {}", kept.json());
    });
}

#[test]
fn an_edit_that_panics_keeps_nothing_and_the_next_one_finds_the_supervisor_in_order() {
    with_a_faulty_provider(async |address, fault| {
        let mut operator = Operator::new(address, SERVICE_KEY, "org");
        let github = sim::find("github").expect("simulated");
        let facts = github.facts(1, 1, EpochMs(0));
        let connection = operator.adopt(github, &facts).await.expect("adopted");
        let refused = operator.subscribe("ws", &connection, &facts, None).await.expect_err("its provider panics");
        assert!(refused.to_string().contains("500"), "{refused}");
        let path = format!("/connections/{connection}");
        let unchanged = operator.ask("GET", &path, None).await.expect("the connection");
        assert_eq!(unchanged["resources"], Value::Array(Vec::new()), "half an edit is no edit: {unchanged}");
        fault.store(false, Ordering::SeqCst);
        operator.subscribe("ws", &connection, &facts, None).await.expect("subscribed");
        let linked = operator.ask("GET", &path, None).await.expect("the connection");
        assert_eq!(linked["resources"].as_array().map(Vec::len), Some(1), "{linked}");
    });
}

#[test]
fn a_provider_that_panics_when_it_is_asked_ends_that_call_and_no_other() {
    with_a_faulty_provider(async |address, fault| {
        let mut operator = Operator::new(address, SERVICE_KEY, "org");
        let github = sim::find("github").expect("simulated");
        let connection = operator.adopt(github, &github.facts(1, 1, EpochMs(0))).await.expect("adopted");
        let token = format!("/connections/{connection}/token");
        let picker = format!("/connections/{connection}/available-resources");
        let heal = json!({"provider": "github", "since": 0});

        // Connecting, tokens, the picker, healing: each call fails, twice, and says so without a word of the panic.
        for _ in 0..2 {
            for path in [&token, &picker] {
                let answer = operator.call("GET", path, None).await.expect("an answer");
                assert!((500..600).contains(&answer.status), "{path}: {}", answer.json());
                assert!(!answer.json().to_string().contains("fault"), "{}", answer.json());
            }
            let run = operator.ask("POST", "/admin/heal", Some(&heal)).await.expect("a report");
            assert_eq!((&run["status"], &run["error"]), (&json!("failed"), &json!("the run panicked")), "{run:#}");
            assert_eq!(ending_of_a_flow(&mut operator).await, "internal_error");
        }
        // Webhooks of the same provider go their way all the while.
        let mut client = Client::new(address);
        let fine = client.post_webhook("github", &push("fine", r#"{"a":"fine"}"#)).await.expect("an answer");
        assert_eq!((fine.status, fine.json()["status"].clone()), (200, "accepted".into()));

        fault.store(false, Ordering::SeqCst);
        let minted = operator.ask("GET", &token, None).await.expect("a token");
        assert_eq!(minted["accessToken"], "minted", "{minted}");
        operator.ask("GET", &picker, None).await.expect("a list");
        let run = operator.ask("POST", "/admin/heal", Some(&heal)).await.expect("a report");
        assert_eq!(run["status"], "completed", "{run:#}");
        assert_eq!(ending_of_a_flow(&mut operator).await, "access_denied", "the provider's answer is heard again");
        operator.ask("DELETE", &format!("/connections/{connection}"), None).await.expect("torn down");
    });
}

/// A whole flow in a browser; the code of the error it ends with.
async fn ending_of_a_flow(operator: &mut Operator) -> String {
    let begun = operator.ask("GET", "/connections/github/authorize", None).await.expect("begun");
    let mut browser = Browser::new().stopping_at(CONSOLE);
    let page = browser.visit(begun["url"].as_str().expect("a URL")).await.expect("a page");
    let ended = page.url.query_pairs().find(|(name, _)| name == "error").map(|(_, code)| code.into_owned());
    ended.unwrap_or_else(|| panic!("it did not end with an error: {}", page.url))
}
