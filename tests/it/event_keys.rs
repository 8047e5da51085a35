//! Every event key from its wire form to a delivery or a filter, through HTTP.

use std::time::Duration;

use signalbox::sim::{self, sink::Sink};

use crate::support::{App, Options, on_both};

const SOON: Duration = Duration::from_mins(1);

on_both! {
    async fn every_event_key_is_delivered_where_it_is_wanted_and_filtered_where_it_is_not(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let mut seed = 0;
        for provider in sim::PROVIDERS {
            // Two accounts of one org: the wanting workspace has every key of one, the picky one a single key of the
            // other, so that an event that names no resource cannot reach it by accident.
            let (wanted, unwanted) = (app.connect("org", provider, 1).await, app.connect("org", provider, 2).await);
            app.subscribe("org", "wanting", &wanted, Some(provider.keys)).await;
            app.subscribe("org", "picky", &unwanted, Some(&provider.keys[..1])).await;
            for kind in provider.keys {
                seed += 1;
                let (facts, answer) = app.post_event(&wanted, kind, seed).await;
                let body = answer.json();
                assert_eq!((answer.status, &body["outcome"]), (200, &"routed".into()), "{kind}: {body}");
                let event_id = body["eventId"].as_str().expect("an event id").to_owned();
                let here = |received: &[sim::sink::Received]| {
                    received.iter().filter_map(|r| r.envelope.clone()).find(|ids| ids.event_id == event_id)
                };
                let received = sink.wait_until(kind, SOON, |received| here(received).is_some()).await.expect("delivered");
                let ids = here(&received).expect("delivered");
                assert_eq!(ids.event_key.as_deref().map(base_key), Some(base_key(kind)));
                assert_eq!((ids.provider.as_str(), ids.workspace_id.as_str()), (provider.slug, "wanting"));
                assert_eq!(Some(ids.delivery_id.as_str()), body["deliveryId"].as_str());
                if provider.slug != "sentry" {
                    assert_eq!(ids.delivery_id, facts.delivery_id, "the provider's own id of {kind}");
                }
                if provider.keys[0] != *kind {
                    seed += 1;
                    let (_, answer) = app.post_event(&unwanted, kind, seed).await;
                    let outcome = answer.json()["outcome"].clone();
                    // Those that change state say so when nobody wants them.
                    assert!(outcome == "filtered" || outcome == "control", "{kind}: {}", answer.json());
                }
                // Who subscribed to the end of a resource was told of it, and has to find it again for the rest.
                if kind.ends_with("repository.deleted") || kind.ends_with("project.removed") {
                    app.subscribe("org", "wanting", &wanted, Some(provider.keys)).await;
                    app.subscribe("org", "picky", &unwanted, Some(&provider.keys[..1])).await;
                }
            }
        }
        let everything = sink.received();
        assert!(everything.iter().all(|received| {
            received.envelope.as_ref().is_some_and(|ids| ids.workspace_id == "wanting")
        }), "the picky workspace got nothing it did not ask for");
        app.finish().await;
    }
}

/// `sentry:metric-alert.critical` may be told under its broader key.
fn base_key(key: &str) -> &str {
    if key.starts_with("sentry:metric-alert") { "sentry:metric-alert" } else { key }
}
