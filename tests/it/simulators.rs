//! The simulators against the providers' receiving halves: written apart, they must agree.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use signalbox::{
    model::{clock::EpochMs, event::EventKey, provider::ExternalId, secret::Secret, webhook::ReceivedWebhook},
    providers::{self, Inbound, Provider, Registry, ResourceSelector},
    sim::{self, Encoding, SignedRequest, SimulatedProvider},
};

const AT: EpochMs = EpochMs(1_771_980_000_000);

fn read(provider: &dyn Provider, of: &SimulatedProvider, request: &SignedRequest) -> Inbound {
    let webhook = ReceivedWebhook {
        provider: provider.slug(),
        headers: request.headers.iter().map(|(name, value)| (*name, value.as_str())).collect(),
        body: request.body.clone(),
        received_at: AT,
        correlation_id: "test".to_owned(),
    };
    let secret = Secret::new(of.secret).expect("not empty");
    let verified = providers::verify(provider, webhook, &[secret], Duration::from_mins(1)).map_err(|(_, error)| error);
    let verified = verified.expect("genuine");
    provider.extract(&verified.webhook().headers, &verified.webhook().body).expect("understood")
}

fn pairs() -> impl Iterator<Item = (std::sync::Arc<dyn Provider>, &'static SimulatedProvider)> {
    Registry::built_in().iter().map(|registered| {
        let simulated = sim::find(registered.spec.slug.as_str()).expect("every provider is simulated");
        ((registered.make)(), simulated)
    })
}

#[test]
fn every_key_of_the_catalogue_is_simulated_and_read_back() {
    assert_eq!(pairs().count(), sim::PROVIDERS.len(), "every simulated provider is registered");
    for (provider, simulated) in pairs() {
        let catalogue: HashSet<&str> = provider.events().iter().map(|event| event.key).collect();
        let simulated_keys: HashSet<&str> = simulated.keys.iter().copied().collect();
        assert_eq!(catalogue.symmetric_difference(&simulated_keys).collect::<Vec<_>>(), Vec::<&&str>::new());
        for kind in simulated.keys {
            let facts = simulated.facts(1, 7, AT);
            let request = simulated.event(kind, &facts, simulated.secret.as_bytes()).expect("a known kind");
            let inbound = read(&*provider, simulated, &request);
            let key = inbound.key.as_ref().map(EventKey::as_str).expect(kind);
            let alias = provider.events().iter().find(|event| event.key == key).and_then(|event| event.alias_of);
            let asked = provider.events().iter().find(|event| event.key == *kind).and_then(|event| event.alias_of);
            assert!(key == *kind || alias == Some(*kind) || asked == Some(key), "{kind} is read as {key}");
            assert_eq!(inbound.installation, Some(ExternalId::new(facts.external_id.as_str())), "{kind}");
            assert_eq!(inbound.payload, request.body, "{kind}");
            match &inbound.resources {
                ResourceSelector::All => {}
                ResourceSelector::Ids(ids) => {
                    assert!(ids.iter().any(|id| id.as_str() == facts.resource_id), "{kind}: {ids:?}");
                }
                ResourceSelector::Slugs(slugs) => assert!(slugs.contains(&facts.resource_slug), "{kind}: {slugs:?}"),
            }
        }
    }
}

#[test]
fn control_events_are_read_as_state_changes() {
    for (provider, simulated) in pairs() {
        for kind in simulated.control {
            let facts = simulated.facts(1, 7, AT);
            let request = simulated.event(kind, &facts, simulated.secret.as_bytes()).expect("a known kind");
            let inbound = read(&*provider, simulated, &request);
            assert!(inbound.ping || inbound.is_control(), "{kind} is no control event");
            let silent = ["github:app-authorization.revoked"].contains(kind);
            assert!(inbound.ping || silent || !inbound.control.is_empty(), "{kind} changes nothing");
        }
    }
}

#[test]
fn a_form_reads_as_the_json_it_carries() {
    let simulated = &sim::github::PROVIDER;
    let (provider, _) = pairs().find(|(_, of)| of.slug == "github").expect("registered");
    let facts = simulated.facts(1, 7, AT);
    let secret = simulated.secret.as_bytes();
    let json = simulated.event("github:issue.opened", &facts, secret).expect("a known kind");
    let form = simulated.event_encoded("github:issue.opened", &facts, secret, Encoding::Form).expect("a known kind");
    assert_ne!(form.body, json.body);
    let inbound = read(&*provider, simulated, &form);
    assert_eq!(inbound.payload, Bytes::copy_from_slice(&json.body));
}
