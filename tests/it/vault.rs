//! Keys are rotated while the gateway works, in the order that the configuration's page names.

use std::{
    io::{BufRead as _, BufReader},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use signalbox::{
    model::{ids::InstallationId, secret::Secret},
    sim::{self, sink::Sink},
    store::{self, NoObserver, OpenOptions, SharedStore},
    vault::{SealedAt, Vault},
};

use crate::support::{App, Options, on_both};

const SOON: Duration = Duration::from_mins(1);
const KEYS: &str = "SIGNALBOX_VAULT__KEYS";

/// A key as the configuration has it.
fn key(id: &str) -> String {
    format!("{id}:{}", hex::encode([id.as_bytes()[0]; 32]))
}

fn vault(ids: &[&str]) -> Vault {
    let keys = ids.iter().map(|id| ((*id).to_owned(), Secret::new([id.as_bytes()[0]; 32]).expect("not empty")));
    Vault::new(keys.collect()).expect("usable")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn look(app: &App) -> SharedStore {
    let options = OpenOptions {
        url: app.database_url(),
        max_connections: 2,
        acquire_timeout: Duration::from_secs(20),
        providers: signalbox::providers::Registry::built_in().iter().map(|known| known.spec.slug).collect(),
        node: "test".into(),
        serving: false,
    };
    store::open(options, Arc::new(NoObserver)).await.expect("it opens")
}

/// Adopts accounts and gives each a token, sealed by that vault: an installation's access token is `access `, its id.
async fn connect_many(app: &App, vault: &Vault, count: u32) -> Vec<String> {
    let mut connections = Vec::new();
    let mut sql = String::new();
    for account in 0..count {
        let connection = app.connect("org", sim::PROVIDERS[2], 100 + account).await.connection;
        let seal = |column, secret: &str| {
            vault.seal(SealedAt { table: "gw_tokens", row: &connection, column }, secret.as_bytes()).expect("sealed")
        };
        let (access, refresh) =
            (seal("access_token", &format!("access {connection}")), seal("refresh_token", "refresh"));
        sql.extend([format!(
            "INSERT INTO gw_tokens (installation_id, access_token_sealed, refresh_token_sealed, created_at, updated_at) \
             VALUES ('{connection}', '{access}', '{refresh}', 1, 1);"
        )]);
        connections.push(connection);
    }
    app.write_rows(&sql).await;
    connections
}

async fn read_token(store: &SharedStore, vault: &Vault, connection: &str) -> String {
    let token = store.find_token(&InstallationId::from_raw(connection)).await.expect("read").expect("there");
    let at = SealedAt { table: "gw_tokens", row: connection, column: "access_token" };
    vault.open(at, &token.access).expect("it opens").expose_str().expect("text").to_owned()
}

on_both! {
    async fn keys_are_rotated_while_tokens_are_read_and_events_delivered_and_the_old_one_can_go(backend) {
        let sink = Sink::start().await.expect("a port");
        let mut app = App::start(backend, Options::default().with(KEYS, &key("old"))).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let connected = app.connect("org", sim::PROVIDERS[0], 1).await;
        app.subscribe("org", "ws", &connected, None).await;
        let connections = connect_many(&app, &vault(&["old"]), 8).await;

        // Without its key nothing is opened, and so nothing is started.
        app.terminate().await;
        app.set(KEYS, &key("new"));
        let refused = app.restart_refused().await;
        assert!(refused.contains("the vault key old is not configured"), "{refused}");
        let examined = app.cli(&["doctor"]);
        let report = String::from_utf8_lossy(&examined.stdout);
        assert!(!examined.status.success(), "{report}");
        assert!(report.contains("MISTAKE  vault: ") && report.contains("the vault key old is not configured"), "{report}");
        app.set(KEYS, &format!("{},{}", key("new"), key("old")));
        app.restart().await;

        let stop = Arc::new(AtomicBool::new(false));
        let reads = Arc::new(AtomicU64::new(0));
        let reading = tokio::spawn({
            let (store, stop, reads) = (look(&app).await, Arc::clone(&stop), Arc::clone(&reads));
            async move {
                let both = vault(&["new", "old"]);
                while !stop.load(Ordering::SeqCst) {
                    for connection in &connections {
                        assert_eq!(read_token(&store, &both, connection).await, format!("access {connection}"));
                        reads.fetch_add(1, Ordering::SeqCst);
                    }
                }
                store.close().await;
                connections
            }
        });
        let mut posted = 0;
        let rotation = {
            let mut child = app.spawn_cli(&["vault", "rotate"]);
            let ended = loop {
                if let Some(status) = child.try_wait().expect("a child of ours") {
                    break status;
                }
                posted += 1;
                let (_, answer) = app.post_event(&connected, sim::PROVIDERS[0].keys[0], posted).await;
                assert_eq!(answer.status, 200);
            };
            let output = child.wait_with_output().expect("read");
            assert!(ended.success(), "{}", said(&output));
            output
        };
        stop.store(true, Ordering::SeqCst);
        let connections = reading.await.expect("every token was read");
        assert!(posted > 0 && reads.load(Ordering::SeqCst) > 0);
        let report = String::from_utf8_lossy(&rotation.stdout);
        assert!(report.contains("gw_destinations: 1 sealed anew with new"), "{report}");
        assert!(report.contains("gw_tokens: 16 sealed anew with new, 0 were already, 0 not opened"), "{report}");
        assert!(report.contains("they can be removed: old"), "{report}");
        assert!(String::from_utf8_lossy(&rotation.stderr).contains("sealed anew so far: "), "progress is visible");
        sink.wait_for(usize::try_from(posted).expect("few"), SOON).await.expect("everything was delivered");

        let again = app.cli(&["vault", "rotate"]);
        assert!(again.status.success() && said(&again).contains("gw_tokens: 0 sealed anew with new, 16 were already"), "{}", said(&again));
        app.terminate().await;
        app.set(KEYS, &key("new"));
        app.restart().await;
        let (_, answer) = app.post_event(&connected, sim::PROVIDERS[0].keys[0], posted + 1).await;
        assert_eq!(answer.status, 200);
        sink.wait_for(usize::try_from(posted).expect("few") + 1, SOON).await.expect("delivered, signed by the same secret");
        let store = look(&app).await;
        for connection in &connections {
            assert_eq!(read_token(&store, &vault(&["new"]), connection).await, format!("access {connection}"));
        }
        store.close().await;
        app.finish().await;
    }

    async fn a_value_that_does_not_open_is_named_and_the_others_are_sealed_anew(backend) {
        let mut app = App::start(backend, Options::default().with(KEYS, &key("old"))).await;
        let good = connect_many(&app, &vault(&["old"]), 1).await;
        app.terminate().await;
        app.set(KEYS, &format!("{},{}", key("new"), key("old")));
        app.restart().await;
        let lost = app.connect("org", sim::PROVIDERS[2], 1).await.connection;
        let sealed = vault(&["lost"]).seal(SealedAt { table: "gw_tokens", row: &lost, column: "access_token" }, b"x");
        let sealed = sealed.expect("sealed");
        app.write_rows(&format!(
            "INSERT INTO gw_tokens (installation_id, access_token_sealed, created_at, updated_at) \
             VALUES ('{lost}', '{sealed}', 1, 1);"
        )).await;
        let rotation = app.cli(&["vault", "rotate"]);
        assert_eq!(rotation.status.code(), Some(1), "{}", said(&rotation));
        let report = said(&rotation);
        assert!(report.contains("gw_tokens: 2 sealed anew with new, 0 were already, 1 not opened"), "{report}");
        let named = format!("not opened: gw_tokens {lost} access_token: the vault key lost is not configured");
        assert!(report.contains(&named) && !report.contains(&sealed), "{report}");
        let store = look(&app).await;
        assert_eq!(read_token(&store, &vault(&["new"]), &good[0]).await, format!("access {}", good[0]));
        store.close().await;
        app.write_rows(&format!("DELETE FROM gw_tokens WHERE installation_id = '{lost}'")).await;
        app.finish().await;
    }

    async fn a_rotation_that_was_killed_goes_on_where_it_was(backend) {
        const ROWS: usize = 700;
        let mut app = App::start(backend, Options::default().with(KEYS, &key("old"))).await;
        let old = vault(&["old"]);
        let mut sql = String::from(
            "INSERT INTO gw_oauth_states (state_hash, provider, org_id, pkce_verifier_sealed, status, created_at, expires_at) VALUES ",
        );
        let literal = if app.database_url().starts_with("sqlite") { ("x'", "'") } else { ("'\\x", "'") };
        for number in 0..ROWS {
            let row = format!("{number:064x}");
            let at = SealedAt { table: "gw_oauth_states", row: &row, column: "pkce_verifier" };
            let sealed = old.seal(at, b"verifier").expect("sealed");
            let separator = if number == 0 { "" } else { "," };
            sql.extend([format!("{separator}({}{row}{}, 'github', 'org', '{sealed}', 'pending', 1, 9000000000000)", literal.0, literal.1)]);
        }
        app.write_rows(&sql).await;
        app.terminate().await;
        app.set(KEYS, &format!("{},{}", key("new"), key("old")));
        app.restart().await;
        let mut child = app.spawn_cli(&["vault", "rotate"]);
        let mut first_line = String::new();
        BufReader::new(child.stderr.take().expect("piped")).read_line(&mut first_line).expect("text");
        child.kill().expect("killable");
        child.wait().expect("a child of ours");
        assert!(first_line.contains("sealed anew so far: gw_oauth_states "), "{first_line}");

        let rotation = app.cli(&["vault", "rotate"]);
        assert!(rotation.status.success(), "{}", said(&rotation));
        let report = said(&rotation);
        let line = report.lines().find(|line| line.starts_with("gw_oauth_states: ")).expect("counted");
        let resealed: usize = line.split(' ').nth(1).and_then(|count| count.parse().ok()).expect("a count");
        assert!(resealed < ROWS && report.contains("they can be removed: old"), "{report}");
        let store = look(&app).await;
        let values = store.list_sealed(None, 10_000).await.expect("read");
        assert_eq!(values.len(), ROWS);
        let new = vault(&["new"]);
        for value in &values {
            assert_eq!(new.open(SealedAt::of(value), &value.sealed).expect("it opens").expose(), b"verifier");
        }
        store.close().await;
        app.finish().await;
    }
}
