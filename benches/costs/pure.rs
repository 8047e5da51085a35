//! The steps that need nothing but memory, one by one and as the whole way from received bytes to the row to be written.

use std::{
    collections::HashMap,
    fmt,
    hint::black_box,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use divan::Bencher;
use signalbox::{
    cache::RouteCache,
    crypto::seal::SealingKey,
    delivery::{
        plan::{Insistence, MatchedBy, Plan, Question, VerifiedBy, plan},
        sign::{SigningSecret, signature},
    },
    model::{
        clock::EpochMs,
        envelope::Envelope,
        event::EventKey,
        ids::{DestinationId, EventId, InstallationId, IntegrationId, OrgId, ResourceId, WorkspaceId},
        installation::InstallationStatus,
        integration::{IntegrationStatus, SyncRules},
        provider::{ExternalId, ProviderDeliveryId, ProviderResourceId, ProviderSlug},
        resource::ResourceStatus,
        routes::{IntegrationRoute, ResourceRoute, RouteTable},
        secret::Secret,
        webhook::{Headers, ReceivedWebhook},
    },
    providers::{Inbound, Provider, Registry, ResourceSelector, verify},
    sim,
};

const NOW: EpochMs = EpochMs(1_786_701_234_567);
const TOLERANCE: Duration = Duration::from_mins(1);
const SECRET: &str = "a secret of the benchmarks";
const SMALL: usize = 8 * 1024;
/// What GitHub's pull requests weigh.
const USUAL: usize = 24 * 1024;
/// Installations among which one is looked up. No more: what a cache does by chance while it is filled would be counted.
const INSTALLATIONS: u32 = 100;
const GITHUB: ProviderSlug = ProviderSlug("github");
const PLACE: [&str; 3] = ["gw_tokens", "in_01890", "access_token"];

/// A case: prepared once, run often.
pub struct Case {
    pub name: &'static str,
    pub prepare: fn() -> Box<dyn FnMut()>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[rustfmt::skip]
pub const CASES: &[Case] = &[
    Case { name: "verify_sha256_8k", prepare: || verifying("github", SMALL, SECRET) },
    Case { name: "verify_sha256_24k", prepare: || verifying("github", USUAL, SECRET) },
    Case { name: "verify_sha1_8k", prepare: || verifying("vercel", SMALL, SECRET) },
    Case { name: "verify_refused_8k", prepare: || verifying("github", SMALL, "another") },
    Case { name: "extract_github_8k", prepare: || extracting("github", SMALL) },
    Case { name: "extract_github_24k", prepare: || extracting("github", USUAL) },
    Case { name: "extract_vercel_8k", prepare: || extracting("vercel", SMALL) },
    Case { name: "extract_vercel_24k", prepare: || extracting("vercel", USUAL) },
    Case { name: "extract_linear_8k", prepare: || extracting("linear", SMALL) },
    Case { name: "extract_linear_24k", prepare: || extracting("linear", USUAL) },
    Case { name: "extract_sentry_8k", prepare: || extracting("sentry", SMALL) },
    Case { name: "extract_sentry_24k", prepare: || extracting("sentry", USUAL) },
    Case { name: "find_routes_of_100", prepare: finding },
    Case { name: "plan_3", prepare: || planning(3) },
    Case { name: "plan_50", prepare: || planning(50) },
    Case { name: "decision_3", prepare: || deciding(3) },
    Case { name: "envelope_8k", prepare: || enveloping(SMALL) },
    Case { name: "envelope_24k", prepare: || enveloping(USUAL) },
    Case { name: "sign_8k", prepare: || signing(SMALL) },
    Case { name: "sign_24k", prepare: || signing(USUAL) },
    Case { name: "seal_token", prepare: sealing },
    Case { name: "open_token", prepare: opening },
    Case { name: "compress_8k", prepare: || compressing(SMALL) },
    Case { name: "compress_24k", prepare: || compressing(USUAL) },
    Case { name: "decompress_24k", prepare: || decompressing(USUAL) },
    Case { name: "whole_way_8k", prepare: || going_the_whole_way(SMALL) },
    Case { name: "whole_way_24k", prepare: || going_the_whole_way(USUAL) },
];

/// The case of that name.
pub fn find(name: &str) -> &'static Case {
    CASES.iter().find(|case| case.name == name).expect("a case of that name; --cases lists them")
}

#[divan::bench(args = CASES)]
fn pure(bencher: Bencher, case: &Case) {
    bencher.with_inputs(|| ()).bench_local_refs({
        let mut run = (case.prepare)();
        move |()| run()
    });
}

fn provider(slug: &str) -> &'static dyn Provider {
    static PROVIDERS: OnceLock<Vec<Arc<dyn Provider>>> = OnceLock::new();
    let providers = PROVIDERS.get_or_init(|| Registry::built_in().iter().map(|listed| (listed.make)()).collect());
    providers.iter().find(|provider| provider.slug().as_str() == slug).expect("built in").as_ref()
}

/// What the provider would send, signed with [`SECRET`].
fn webhook(slug: &str, bytes: usize) -> (Headers, Bytes) {
    let simulated = sim::find(slug).expect("simulated");
    let kind = if slug == "github" { "github:pull-request.opened" } else { simulated.keys[0] };
    let facts = sim::Facts { body_bytes: bytes, ..simulated.facts(1, 7, NOW) };
    let request = simulated.event(kind, &facts, SECRET.as_bytes()).expect("it sends such events");
    // What every request carries beside the provider's own.
    let usual =
        [("host", "hooks.example.com"), ("accept", "*/*"), ("user-agent", "provider/1"), ("content-length", "1")];
    let usual = usual.into_iter().map(|(name, value)| (name, value.to_owned()));
    (usual.chain(request.headers).collect(), request.body)
}

fn secrets(text: &str) -> Vec<Secret> {
    Secret::new(text).into_iter().collect()
}

fn verifying(slug: &'static str, bytes: usize, secret: &str) -> Box<dyn FnMut()> {
    let ((headers, body), secrets) = (webhook(slug, bytes), secrets(secret));
    Box::new(move || {
        black_box(provider(slug).scheme().verify(black_box(&headers), &body, &secrets)).ok();
    })
}

fn extracting(slug: &'static str, bytes: usize) -> Box<dyn FnMut()> {
    let (headers, body) = webhook(slug, bytes);
    provider(slug).extract(&headers, &body).expect("it is understood");
    Box::new(move || drop(black_box(provider(slug).extract(black_box(&headers), &body))))
}

fn finding() -> Box<dyn FnMut()> {
    let cache = full_cache(3);
    let wanted = ExternalId::new((INSTALLATIONS / 2).to_string());
    assert!(cache.get(GITHUB, &wanted).is_some());
    Box::new(move || drop(black_box(cache.get(GITHUB, black_box(&wanted)))))
}

fn planning(integrations: usize) -> Box<dyn FnMut()> {
    let table = table("1", integrations);
    Box::new(move || drop(black_box(plan_of(&table))))
}

fn deciding(integrations: usize) -> Box<dyn FnMut()> {
    let plan = plan_of(&table("1", integrations));
    Box::new(move || drop(black_box(serde_json::to_string(black_box(&plan.decision)))))
}

fn enveloping(bytes: usize) -> Box<dyn FnMut()> {
    let ((_, body), envelope) = (webhook("github", bytes), envelope());
    Box::new(move || drop(black_box(black_box(&envelope).to_body(&body))))
}

fn signing(bytes: usize) -> Box<dyn FnMut()> {
    let (_, body) = webhook("github", bytes);
    let secret = SigningSecret::generate();
    Box::new(move || drop(black_box(signature([&secret], "dlv_019c9a4d2f3b7e2c8a11", 1_786_701_234, black_box(&body)))))
}

fn sealing() -> Box<dyn FnMut()> {
    let key = SealingKey::new("k1", &[7; 32]).expect("32 bytes");
    Box::new(move || drop(black_box(key.seal(&PLACE, black_box(b"gho_16C7e42F292c6912E7710c838347Ae178B4a")))))
}

fn opening() -> Box<dyn FnMut()> {
    let key = SealingKey::new("k1", &[7; 32]).expect("32 bytes");
    let record = key.seal(&PLACE, b"gho_16C7e42F292c6912E7710c838347Ae178B4a").expect("seals");
    Box::new(move || drop(black_box(key.open(&PLACE, black_box(&record)))))
}

/// As `store/payload.rs` does it, which is not public: a compressor is kept, of that file's `LEVEL`.
fn compressing(bytes: usize) -> Box<dyn FnMut()> {
    let (_, body) = webhook("github", bytes);
    let mut compressor = compressor();
    Box::new(move || drop(black_box(compressor.compress(black_box(&body)))))
}

fn decompressing(bytes: usize) -> Box<dyn FnMut()> {
    let (_, body) = webhook("github", bytes);
    let stored = compressor().compress(&body).expect("compresses");
    Box::new(move || drop(black_box(zstd::bulk::decompress(black_box(&stored), body.len()))))
}

fn compressor() -> zstd::bulk::Compressor<'static> {
    const LEVEL: i32 = -3;
    zstd::bulk::Compressor::new(LEVEL).expect("a compressor")
}

/// Verify, extract, find the routes, plan, write the decision, compress: what is done before the store is asked.
fn going_the_whole_way(bytes: usize) -> Box<dyn FnMut()> {
    let ((headers, body), secrets, cache) = (webhook("github", bytes), secrets(SECRET), full_cache(3));
    let mut compressor = compressor();
    Box::new(move || {
        let received = ReceivedWebhook {
            provider: GITHUB,
            headers: headers.clone(),
            body: body.clone(),
            received_at: NOW,
            correlation_id: "req_1".into(),
        };
        let verified = verify(provider("github"), received, &secrets, TOLERANCE).expect("it is signed");
        let webhook = verified.webhook();
        let inbound: Inbound = provider("github").extract(&webhook.headers, &webhook.body).expect("it is understood");
        // The simulated account is none of those in the cache: its routes are looked up under an id that is.
        let table = cache.get(GITHUB, &ExternalId::new("77")).expect("published");
        let resources = match &inbound.resources {
            ResourceSelector::Ids(ids) => ids.len(),
            _ => 0,
        };
        let plan = plan_of(&table);
        let decision = serde_json::to_string(&plan.decision).expect("serialisable");
        let stored = compressor.compress(&webhook.body).expect("compresses");
        black_box((inbound, resources, plan, decision, stored));
    })
}

fn plan_of(table: &RouteTable) -> Plan {
    let key = EventKey::new("github:pull-request.opened");
    let resources = [ProviderResourceId::new("repo-1")];
    let question = Question {
        verified_by: &VerifiedBy::Secret { index: 0 },
        key: Some(&key),
        also_keys: &[],
        category: "pull_request",
        ping: false,
        control: false,
        resources: Some(&resources),
        insistence: Insistence::Nothing,
    };
    plan(&question, Some((table, MatchedBy::ExternalId)))
}

fn full_cache(integrations: usize) -> RouteCache {
    let cache = RouteCache::new(true);
    for number in 0..INSTALLATIONS {
        cache.publish(Arc::new(table(&number.to_string(), integrations)));
    }
    cache
}

/// An installation with five repositories, each with so many integrations of which two thirds want the event.
fn table(external_id: &str, integrations: usize) -> RouteTable {
    let resources: HashMap<ProviderResourceId, ResourceRoute> = (1..=5)
        .map(|number| {
            let id = ProviderResourceId::new(format!("repo-{number}"));
            let route = ResourceRoute {
                id: ResourceId::from_raw(format!("res_0190000000000000000000000{number}")),
                provider_resource_id: id.clone(),
                status: ResourceStatus::Active,
                integrations: (0..integrations).map(integration).collect(),
            };
            (id, route)
        })
        .collect();
    RouteTable {
        installation: InstallationId::from_raw(format!("in_0190000000000000000{external_id}")),
        provider: GITHUB,
        external_id: ExternalId::new(external_id),
        alternate_external_id: None,
        org: OrgId::from_raw("org_1"),
        status: InstallationStatus::Active,
        resources,
        slugs: HashMap::new(),
    }
}

fn integration(number: usize) -> IntegrationRoute {
    let events: &[&str] = match number % 3 {
        0 => &["github:push", "github:pull-request.opened", "github:issue.opened"],
        1 => &["push", "pull_request"],
        _ => &["github:push"],
    };
    IntegrationRoute {
        id: IntegrationId::from_raw(format!("int_01900000000000000000000{number:03}")),
        workspace: WorkspaceId::from_raw(format!("ws_{number}")),
        status: IntegrationStatus::Active,
        rules: SyncRules { events: events.iter().map(|&event| event.to_owned()).collect(), auto_sync: true },
        destination: Some(DestinationId::from_raw("dst_0190000000000000000000001")),
    }
}

fn envelope() -> Envelope {
    Envelope {
        event_id: EventId::from_raw("evt_019c9a4d2f3b7e2c8a11d2f3b7"),
        delivery_id: ProviderDeliveryId::new("72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        connection_id: Some(InstallationId::from_raw("in_019c9a4d2f3b7e2c8a11d2f3b7")),
        org_id: OrgId::from_raw("org_1"),
        provider: "github".into(),
        event_type: "pull_request".into(),
        event_key: Some(EventKey::new("github:pull-request.opened")),
        workspace_id: WorkspaceId::from_raw("ws_1"),
        integration_id: IntegrationId::from_raw("int_019c9a4d2f3b7e2c8a11d2f3b7"),
        resource_id: ResourceId::from_raw("res_019c9a4d2f3b7e2c8a11d2f3b7"),
        received_at: NOW,
    }
}
