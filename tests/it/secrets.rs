//! Nothing secret is in what the gateway writes: not in its log, its answers, its metrics or its rows.

use std::time::Duration;

use serde_json::json;
use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::{self, sink::Sink},
};

use crate::support::{App, Options, on_both};

const SOON: Duration = Duration::from_secs(30);

on_both! {
    async fn no_secret_signature_or_payload_is_in_the_log_the_answers_or_the_metrics(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default().with("SIGNALBOX_TELEMETRY__LOG_FILTER", "debug")).await;
        let mut operator = app.operator("org");
        let put = json!({"url": sink.url("/in"), "headers": {"X-Destination-Token": "destination-header-secret"}});
        let created = operator.ask("PUT", "/orgs/org/destination", Some(&put)).await.expect("created");
        let signing = created["secret"].as_str().or_else(|| created["destination"]["secret"].as_str());
        let signing = signing.expect("shown once").to_owned();
        let mut secrets =
            vec![App::service_key().to_owned(), signing.clone(), signing.trim_start_matches("whsec_").to_owned(),
                 "destination-header-secret".to_owned(), "payload-marker-7c1".to_owned()];
        for provider in sim::PROVIDERS {
            let connected = app.connect("org", provider, 1).await;
            app.subscribe("org", "ws", &connected, Some(provider.keys)).await;
            let mut facts = connected.facts(1, SystemClock.now());
            "payload-marker-7c1".clone_into(&mut facts.resource_name);
            let request = provider.event(provider.keys[0], &facts, provider.secret.as_bytes()).expect("known");
            let signature = request.header(provider.signing.header).expect("signed").to_owned();
            secrets.push(signature.trim_start_matches("sha256=").to_owned());
            secrets.push(provider.secret.to_owned());
            let answer = app.outsider().post_webhook(provider.slug, &request).await.expect("an answer");
            assert_eq!(answer.status, 200);
            // A wrong signature, so that refusals are looked at as well.
            let forged = provider.event(provider.keys[0], &facts, b"forged").expect("known");
            assert_eq!(app.outsider().post_webhook(provider.slug, &forged).await.expect("an answer").status, 401);
        }
        sink.wait_for(sim::PROVIDERS.len(), SOON).await.expect("delivered");
        assert!(sink.received().iter().all(|r| r.headers.get("x-destination-token") == Some("destination-header-secret")));
        let mut written = vec![("log".to_owned(), app.log_text())];
        for path in ["/metrics", "/admin/audit", "/admin/actors", "/admin/health?deep=true", "/admin/quarantine", "/connections",
                     "/workspaces/ws/integrations", "/orgs/org/destination", "/providers"] {
            let answer = operator.call("GET", path, None).await.expect("an answer");
            written.push((path.to_owned(), String::from_utf8_lossy(&answer.body).into_owned()));
        }
        for (place, text) in &written {
            for secret in &secrets {
                // Names of resources may be shown by the API; they may not be logged.
                if secret == "payload-marker-7c1" && place != "log" {
                    continue;
                }
                assert!(!text.contains(secret.as_str()), "{secret} is in {place}");
            }
        }
        app.finish().await;
    }
}
