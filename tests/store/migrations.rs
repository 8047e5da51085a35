//! A database of an earlier release, with rows in it, becomes one of this release, with the same rows.

use std::path::Path;

use signalbox::{
    model::{
        clock::EpochMs,
        ids::{DestinationId, EventId, InstallationId},
        log_entry::Actor,
        oauth_flow::FlowStatus,
        teardown::TeardownStatus,
    },
    store::{self, ClaimRequest, NoObserver, PageRequest, SharedStore},
};
use sqlx::migrate::{Migrate, Migrator};

use crate::{GITHUB, options, postgres_connection, postgres_server, sqlite_connection};

const BODY: &[u8] = br#"{"ref":"main"}"#;
const KEY_HASH: [u8; 32] = [1; 32];
const STATE_HASH: [u8; 32] = [7; 32];

/// What compresses to a few bytes.
fn large_body() -> Vec<u8> {
    br#"{"ref":"main"}"#.repeat(100)
}

/// Rows as the first release wrote them, in words both databases understand but for bytes.
fn rows(bytes: impl Fn(&[u8]) -> String) -> String {
    let compressed = zstd::bulk::compress(&large_body(), 1).expect("compressed");
    let event = |id: &str, held: bool, encoding: &str, original: usize, payload: &[u8]| {
        let payload = bytes(payload);
        format!(
            "INSERT INTO gw_events (id, provider, provider_delivery_id, wire_type, event_key, installation_id, org_id,
                 external_id, resources, outcome, possible_replay, held, received_at, correlation_id, content_type, headers,
                 decision, payload_encoding, payload_bytes, payload)
             VALUES ('{id}', 'github', 'of {id}', 'push', 'github:push', 'in_1', 'org_1', '4711', '[\"815\"]', 'routed',
                 false, {held}, 5, 'cor_1', 'application/json', '{{}}', '{{}}', '{encoding}', {original}, {payload});"
        )
    };
    let delivery = |id: &str, event: &str, status: &str, reason: &str, attempts: u32, finished_at: &str| {
        let is_retry = attempts > 0;
        format!(
            "INSERT INTO gw_deliveries (id, event_id, integration_id, resource_id, workspace_id, org_id, destination_id,
                 status, reason, attempts, is_retry, due_at, replay, created_at, finished_at)
             VALUES ('{id}', '{event}', 'int_1', 'res_1', 'ws_1', 'org_1', 'dst_1', '{status}', {reason}, {attempts},
                 {is_retry}, 5, false, 5, {finished_at});"
        )
    };
    let (key, state, body) = (bytes(&KEY_HASH), bytes(&STATE_HASH), bytes(BODY));
    [
        "INSERT INTO gw_installations (id, provider, external_id, org_id, connected_by, status, created_at, updated_at)
             VALUES ('in_1', 'github', '4711', 'org_1', 'user_1', 'active', 1, 2);
         INSERT INTO gw_tokens (installation_id, access_token_sealed, refresh_token_sealed, expires_at, created_at, updated_at)
             VALUES ('in_1', 'sealed', 'sealed too', 1000, 1, 2);
         INSERT INTO gw_destinations (id, org_id, scope, scope_id, url, secret_sealed, created_at, updated_at)
             VALUES ('dst_1', 'org_1', 'org', 'org_1', 'https://sink.example', 'sealed', 1, 2);
         INSERT INTO gw_teardowns (installation_id, org_id, reason, status, due_at, started_at, updated_at)
             VALUES ('in_1', 'org_1', 'disconnected', 'completed', 1, 1, 2);
         INSERT INTO gw_backfill_runs (id, installation_id, org_id, provider, status, created_at, updated_at)
             VALUES ('bfr_1', 'in_1', 'org_1', 'github', 'running', 1, 2);
         INSERT INTO gw_resources (id, installation_id, provider_resource_id, kind, status, created_at, updated_at)
             VALUES ('res_1', 'in_1', '815', 'repository', 'active', 1, 2);
         INSERT INTO workspace_integrations (id, org_id, workspace_id, provider, installation_id, resource_id, status,
                 created_at, updated_at)
             VALUES ('int_1', 'org_1', 'ws_1', 'github', 'in_1', 'res_1', 'active', 1, 2);
         INSERT INTO gw_lifecycle_log (id, org_id, installation_id, action, actor, at)
             VALUES ('log_1', 'org_1', 'in_1', 'installation.connected', 'system', 5);"
            .to_owned(),
        event("evt_1", false, "identity", BODY.len(), BODY),
        event("evt_2", false, "zstd", large_body().len(), &compressed),
        event("evt_3", true, "identity", BODY.len(), BODY),
        delivery("dlv_1", "evt_1", "pending", "NULL", 0, "NULL"),
        delivery("dlv_2", "evt_2", "pending", "'http_status'", 1, "NULL"),
        delivery("dlv_3", "evt_2", "dead", "'gone'", 1, "6"),
        delivery("dlv_4", "evt_3", "held", "NULL", 0, "NULL"),
        "INSERT INTO gw_attempts (delivery_id, id, number, started_at, duration_ms, result, status_code, response_body)
             VALUES ('dlv_2', 'att_1', 1, 5, 7, 'http_status', 500, 'oh'), ('dlv_3', 'att_2', 1, 5, 7, 'gone', 410, NULL);"
            .to_owned(),
        format!(
            "INSERT INTO gw_quarantine (id, provider, cause, headers, body_sha256, attempts, received_at, last_at,
                 body_bytes, body)
             VALUES ('qtn_1', 'github', 'invalid_signature', '[[\"a\",\"b\"]]', 'digest', 2, 5, 6, 14, {body});
             INSERT INTO gw_api_keys (id, name, hash, prefix, org_id, can_write, created_at)
             VALUES ('key_1', 'k', {key}, 'sbx', 'org_1', true, 5);
             INSERT INTO gw_oauth_states (state_hash, provider, org_id, pkce_verifier_sealed, status, created_at, expires_at)
             VALUES ({state}, 'github', 'org_1', 's', 'pending', 1, 2);"
        ),
    ]
    .concat()
}

/// The migrations up to that version.
async fn migrator_up_to(version: &str, folder: &str) -> Migrator {
    let some = tempfile::tempdir().expect("a temporary folder");
    for entry in std::fs::read_dir(Path::new("migrations").join(folder)).expect("a folder") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a plain name");
        if name.as_str() < version || name.starts_with(version) {
            std::fs::copy(entry.path(), some.path().join(name)).expect("copied");
        }
    }
    Migrator::new(some.path()).await.expect("readable migrations")
}

/// Applies the first release's migrations, and writes its rows.
async fn release_one<C: Migrate + Send>(connection: &mut C, folder: &str) {
    let first = migrator_up_to("0001", folder).await;
    assert_eq!(first.iter().count(), 1);
    first.run_direct(None, connection, false).await.expect("applied");
}

async fn everything_is_there_after_migrating(store: &SharedStore) {
    let pending = store.count_pending_migrations().await.expect("counted");
    assert!(pending > 0);
    assert_eq!(store.migrate().await.expect("migrated"), pending);
    assert_eq!(store.migrate().await.expect("migrated"), 0, "once");

    let id = InstallationId::from_raw("in_1");
    let record = store.load_installation(&id).await.expect("read").expect("there");
    assert_eq!((record.installation.provider, record.installation.external_id.as_str()), (GITHUB, "4711"));
    assert_eq!(
        record.teardown.map(|teardown| (teardown.status, teardown.steps.len())),
        Some((TeardownStatus::Completed, 0))
    );
    assert_eq!(record.destinations.first().map(|found| &found.id), Some(&DestinationId::from_raw("dst_1")));
    let token = store.find_token(&id).await.expect("read").expect("there");
    assert_eq!((token.generation, token.refresh.as_deref()), (0, Some("sealed too")));
    assert_eq!(store.find_visible_resources(&id).await.expect("read"), None);
    let flow = store.find_flow(&STATE_HASH).await.expect("read").expect("there");
    assert_eq!((flow.status, flow.actor, flow.context), (FlowStatus::Pending, Actor::system(), None));
    assert_eq!(store.cancel_backfill_runs(&id, EpochMs(3)).await.expect("cancelled"), 1);
    assert_eq!(store.list_sealed(None, 10).await.expect("read").len(), 4);
    everything_that_came_is_there(store).await;
    let contradictions = store.take_census().await.expect("taken").contradictions;
    assert!(contradictions.is_empty(), "{contradictions:?}");
    store.close().await;
}

/// Events with their bodies, what became of them, and what was set aside.
async fn everything_that_came_is_there(store: &SharedStore) {
    let request = ClaimRequest {
        destination: DestinationId::from_raw("dst_1"),
        owner: "node-a".into(),
        now: EpochMs(10),
        lease_until: EpochMs(30_000),
        first_tries: 10,
        retries: 10,
        in_all: 20,
        bytes: usize::MAX,
    };
    let claimed = store.claim_deliveries(&request).await.expect("claimed").deliveries;
    let claimed: Vec<_> = claimed
        .iter()
        .map(|claimed| (claimed.delivery.id.as_str(), claimed.delivery.attempts_of_schedule(), &*claimed.body))
        .collect();
    assert_eq!(claimed, [("dlv_1", 0, BODY), ("dlv_2", 1, &*large_body())]);
    let detail = store.find_event_detail(&EventId::from_raw("evt_2")).await.expect("read").expect("there");
    assert_eq!(detail.attempts.iter().map(|attempt| attempt.status_code).collect::<Vec<_>>(), [Some(500), Some(410)]);
    let dead = store.list_dead_letters(None, None, 10, 0).await.expect("read");
    assert_eq!(dead.iter().map(|dead| dead.delivery.id.as_str()).collect::<Vec<_>>(), ["dlv_3"]);
    let held = store.list_held(&InstallationId::from_raw("in_1"), 10).await.expect("read");
    assert_eq!(held, [EventId::from_raw("evt_3")]);
    let quarantined = store.list_quarantined_bodies(None, None, 10).await.expect("read");
    assert_eq!(quarantined.iter().map(|row| (&*row.body, row.attempts)).collect::<Vec<_>>(), [(BODY, 2)]);
    let key = store.find_key(&KEY_HASH).await.expect("read").expect("there");
    assert_eq!((key.name.as_str(), key.can_write, key.revoked_at), ("k", true, None));
    let page = PageRequest { limit: 10, cursor: None };
    assert_eq!(store.list_log(None, None, page).await.expect("read").items.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sqlite_database_of_the_first_release_keeps_its_rows() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("sqlite://{}", folder.path().join("signalbox.db").display());
    let store = store::open(options(&url, "node-a"), std::sync::Arc::new(NoObserver)).await.expect("it opens");
    let mut connection = sqlite_connection(&url).await;
    release_one(&mut connection, "sqlite").await;
    let rows = rows(|bytes| format!("x'{}'", hex::encode(bytes)));
    sqlx::raw_sql(sqlx::AssertSqlSafe(rows)).execute(&mut connection).await.expect("written");
    everything_is_there_after_migrating(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_database_of_the_first_release_keeps_its_rows() {
    let Some(database) = postgres_server::Database::create(false).await else { return };
    let store = store::open(options(&database.url, "node-a"), std::sync::Arc::new(NoObserver)).await.expect("it opens");
    let mut connection = postgres_connection(&database.url).await;
    release_one(&mut connection, "postgres").await;
    let rows = rows(|bytes| format!("'\\x{}'", hex::encode(bytes)));
    sqlx::raw_sql(sqlx::AssertSqlSafe(rows)).execute(&mut connection).await.expect("written");
    everything_is_there_after_migrating(&store).await;
    database.drop_it().await;
}
