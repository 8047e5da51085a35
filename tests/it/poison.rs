//! Handling that panics ends one webhook, nobody else's; the bytes are kept, and let in once the cause is mended.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use serde_json::{Map, Value};
use signalbox::{
    app,
    config::Config,
    model::{
        provider::{ProviderDeliveryId, ProviderSlug},
        webhook::Headers,
    },
    providers::{
        Category, EventSpec, ExtractError, Inbound, Provider, ProviderSettings, Registry, ResourceFacts,
        SignatureScheme,
    },
    sim::{self, client::Client},
};

/// GitHub, but a body that says `poison` panics while the fault is there.
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
    fn extract(&self, headers: &Headers, body: &Bytes) -> Result<Inbound, ExtractError> {
        let poisonous = body.windows(6).any(|window| window == b"poison");
        assert!(!(poisonous && self.fault.load(Ordering::SeqCst)), "this provider has a fault");
        self.real.extract(headers, body)
    }
    fn extract_trusted(&self, wire: &str, id: &ProviderDeliveryId, payload: &Bytes) -> Result<Inbound, ExtractError> {
        self.real.extract_trusted(wire, id, payload)
    }
    fn source_config(&self, of: &ResourceFacts<'_>) -> Map<String, Value> {
        self.real.source_config(of)
    }
}

#[test]
fn a_webhook_whose_handling_panics_is_kept_and_set_aside_and_let_in_when_the_fault_is_mended() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    actix_web::rt::System::with_tokio_rt(runtime).block_on(async {
        let directory = tempfile::tempdir().expect("a directory");
        let github = sim::find("github").expect("simulated");
        let settings = [
            ("SIGNALBOX_SERVER__LISTEN", "127.0.0.1:0".to_owned()),
            ("SIGNALBOX_SERVER__WORKERS", "1".to_owned()),
            ("SIGNALBOX_DATABASE__URL", format!("sqlite://{}", directory.path().join("signalbox.db").display())),
            ("SIGNALBOX_VAULT__KEY_FILE", directory.path().join("key").display().to_string()),
            ("SIGNALBOX_AUTH__SERVICE_KEY", "a-service-key-of-at-least-32-characters".to_owned()),
        ];
        let settings = sim::gateway_settings().chain(settings.map(|(name, value)| (name.to_owned(), value)));
        let specs: Vec<_> = Registry::built_in().iter().map(|registered| registered.spec).collect();
        let config = Config::load(None, settings, &specs).expect("a good configuration");
        let built_in = Registry::built_in().iter().find(|registered| registered.spec.slug.as_str() == "github");
        let fault = Arc::new(AtomicBool::new(true));
        let faulty = Faulty { real: (built_in.expect("listed").make)(), fault: fault.clone() };
        let enabled = ProviderSettings {
            webhook_secrets: config.providers["github"].webhook_secrets.clone(),
            max_body_bytes: None,
            timestamp_tolerance: std::time::Duration::from_mins(1),
        };
        let registry =
            Registry::new(vec![Arc::new(faulty)], vec![("github".to_owned(), enabled)]).expect("a good registry");
        let running = app::start(config, Some(registry)).await.expect("it starts");

        let mut client = Client::new(running.address);
        let poison = |id: &str| {
            let headers = vec![("x-github-event", "push".to_owned()), ("x-github-delivery", id.to_owned())];
            github.signing.sign(headers, r#"{"a":"poison"}"#, github.secret.as_bytes(), sim::Encoding::Json)
        };
        let mut statuses = Vec::new();
        for _ in 0..4 {
            let answer = client.post_webhook("github", &poison("p-1")).await.expect("an answer");
            statuses.push((answer.status, answer.json()["status"].clone()));
        }
        assert_eq!(statuses[0].0, 500);
        assert_eq!(statuses[1].0, 500);
        assert_eq!(statuses[2], (200, "set_aside".into()));
        assert_eq!(statuses[3], (200, "set_aside".into()));

        // The connection goes on.
        let headers = vec![("x-github-event", "push".to_owned()), ("x-github-delivery", "fine".to_owned())];
        let fine = github.signing.sign(headers, r#"{"a":"fine"}"#, github.secret.as_bytes(), sim::Encoding::Json);
        let answer = client.post_webhook("github", &fine).await.expect("an answer");
        assert_eq!((answer.status, answer.json()["status"].clone()), (200, "accepted".into()));

        fault.store(false, Ordering::SeqCst);
        let key = [("x-api-key", "a-service-key-of-at-least-32-characters")];
        let released = client.send("POST", "/admin/quarantine/reverify", &key, Bytes::new()).await.expect("an answer");
        assert_eq!(released.json()["accepted"], 1, "{}", released.json());
        let again = client.post_webhook("github", &poison("p-1")).await.expect("an answer");
        assert_eq!(again.json()["status"], "duplicate", "{}", again.json());
        running.stop().await;
    });
}
