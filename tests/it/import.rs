//! Connections of a Lightfast database are brought over, from every schema it had, once.

use std::{process::Output, sync::Arc, time::Duration};

use serde_json::Value;
use signalbox::{
    model::{
        clock::{Clock, EpochMs, SystemClock},
        ids::{InstallationId, OrgId, WorkspaceId},
        installation::{Installation, InstallationStatus},
        integration::{Integration, IntegrationStatus},
        provider::ExternalId,
    },
    providers::Registry,
    sim::{self, sink::Sink},
    store::{self, NoObserver, OpenOptions, PageRequest, SharedStore},
    vault::{SealedAt, Vault},
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::support::{App, Backend, Options, on_both};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// `lin_oauth_0123`, sealed with that key.
const SEALED: &str = "AAECAwQFBgcICQoLK2u4RKqEt2/lHqe6g9rpAoRNMgm2/O8mkEwgLC02";

/// The schema at its end, without legacy.
const TABLES: &str = "
    CREATE TABLE lightfast_gw_installations (id varchar(191) PRIMARY KEY, provider varchar(50) NOT NULL,
        external_id varchar(191) NOT NULL, account_login varchar(191), connected_by varchar(191) NOT NULL,
        org_id varchar(191) NOT NULL, status varchar(50) NOT NULL, webhook_secret text, metadata jsonb,
        provider_account_info jsonb, created_at timestamptz NOT NULL DEFAULT '2026-02-25T10:48:45.123Z',
        updated_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE lightfast_gw_tokens (id varchar(191) PRIMARY KEY, installation_id varchar(191) NOT NULL,
        access_token text NOT NULL, refresh_token text, expires_at timestamptz, token_type varchar(50), scope text,
        created_at timestamptz NOT NULL DEFAULT '2026-02-25T10:48:45.123Z', updated_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE lightfast_gw_resources (id varchar(191) PRIMARY KEY, installation_id varchar(191) NOT NULL,
        provider_resource_id varchar(191) NOT NULL, resource_name varchar(500), status varchar(50) NOT NULL,
        created_at timestamptz NOT NULL DEFAULT '2026-02-25T10:48:45.123Z', updated_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE lightfast_workspace_integrations (id varchar(191) PRIMARY KEY, workspace_id varchar(191) NOT NULL,
        installation_id varchar(191), provider varchar(50), provider_resource_id varchar(191), source_config jsonb,
        is_active boolean NOT NULL DEFAULT true, created_at timestamptz NOT NULL DEFAULT '2026-02-25T10:48:45.123Z',
        updated_at timestamptz NOT NULL DEFAULT now());";

/// What the schema had before.
const LEGACY: &str = "
    CREATE TABLE lightfast_user_sources (id varchar(191) PRIMARY KEY, user_id varchar(191), access_token text);
    ALTER TABLE lightfast_workspace_integrations ADD COLUMN user_source_id varchar(191);
    ALTER TABLE lightfast_workspace_integrations ADD COLUMN gateway_installation_id varchar(191);
    INSERT INTO lightfast_user_sources VALUES ('us_1', 'user_1', 'x');
    INSERT INTO lightfast_workspace_integrations (id, workspace_id, provider, source_config, user_source_id, gateway_installation_id)
        VALUES ('wi_gateway', 'ws_2', null, '{\"sourceType\": \"github\", \"repoId\": \"@REPO@\", \"sync\": {\"events\": [\"push\"]}}', 'us_1', 'inst-github'),
               ('wi_person', 'ws_3', null, '{\"sourceType\": \"github\", \"repoId\": \"9\"}', 'us_1', null);";

const ROWS: &str = "
    INSERT INTO lightfast_gw_installations (id, provider, external_id, account_login, connected_by, org_id, status) VALUES
        ('inst-github', 'github', '@ACCOUNT@', 'harborworks', 'user_1', 'org_1', 'active'),
        ('inst-linear', 'linear', 'lin-org', null, 'user_1', 'org_1', 'error'),
        ('inst-ended', 'vercel', 'team_1', null, 'user_1', 'org_1', 'revoked'),
        ('inst-other', 'mainframe', '1', null, 'user_1', 'org_1', 'active');
    INSERT INTO lightfast_gw_tokens (id, installation_id, access_token, refresh_token, expires_at, scope) VALUES
        ('tok-linear', 'inst-linear', '@SEALED@', '@SEALED@', '2026-03-01T00:00:00Z', 'read'),
        ('tok-ended', 'inst-ended', '@SEALED@', null, null, null);
    INSERT INTO lightfast_gw_resources (id, installation_id, provider_resource_id, resource_name, status) VALUES
        ('res-1', 'inst-github', '@REPO@', 'harborworks/tide-clock', 'active'),
        ('res-2', 'inst-linear', 'team-1', 'Harbor', 'removed');
    INSERT INTO lightfast_workspace_integrations (id, workspace_id, installation_id, provider, provider_resource_id, source_config, is_active) VALUES
        ('wi-1', 'ws_1', 'inst-github', 'github', '@REPO@', '{\"provider\": \"github\", \"type\": \"repository\", \"sync\": {\"events\": [\"push\"], \"autoSync\": true}}', true),
        ('wi-2', 'ws_1', 'inst-linear', 'linear', 'team-1', '{\"provider\": \"linear\", \"sync\": {\"events\": [], \"autoSync\": true}}', false);";

/// A Lightfast database of its own; `None` without a server.
async fn lightfast(legacy: bool, account: &str, repository: &str) -> Option<Backend> {
    let database = Backend::empty_postgres().await?;
    let mut connection = PgConnection::connect(&source(&database)).await.expect("connects");
    let legacy = if legacy { LEGACY } else { "" };
    let sql = format!("{TABLES}{ROWS}{legacy}");
    let sql = sql.replace("@ACCOUNT@", account).replace("@REPO@", repository).replace("@SEALED@", SEALED);
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("written");
    connection.close().await.expect("closed");
    Some(database)
}

fn source(database: &Backend) -> String {
    database.url(std::path::Path::new(""))
}

fn import(app: &App, from: &Backend, more: &[&str]) -> Value {
    let url = source(from);
    let words = ["import", "lightfast", "--from", &url, "--encryption-key", KEY, "--json"];
    let output = app.cli(&[&words[..], more].concat());
    assert!(output.status.success(), "{}", err(&output));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("lin_oauth"), "no token is printed");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn counts<'r>(report: &'r Value, name: &str) -> Vec<&'r Value> {
    ["installations", "tokens", "resources"]
        .map(|table| &report["tables"][format!("lightfast_gw_{table}")][name])
        .into_iter()
        .chain([&report["tables"]["lightfast_workspace_integrations"][name]])
        .collect()
}

async fn look(app: &App) -> SharedStore {
    let options = OpenOptions {
        url: app.database_url(),
        max_connections: 2,
        acquire_timeout: Duration::from_secs(20),
        providers: Registry::built_in().iter().map(|known| known.spec.slug).collect(),
        node: "test".into(),
        serving: false,
    };
    store::open(options, Arc::new(NoObserver)).await.expect("it opens")
}

async fn everything(store: &SharedStore) -> Vec<store::InstallationRecord> {
    let installations = store.list_installations(None, None, None, PageRequest { limit: 100, cursor: None }).await;
    let mut records = Vec::new();
    for installation in installations.expect("read").items {
        records.push(store.load_installation(&installation.id).await.expect("read").expect("there"));
    }
    records
}

fn of<'r>(records: &'r [store::InstallationRecord], provider: &str) -> &'r store::InstallationRecord {
    let found = records.iter().find(|record| record.installation.provider.as_str() == provider);
    found.unwrap_or_else(|| panic!("no installation of {provider} in {records:?}"))
}

on_both! {
    async fn connections_are_imported_once_and_their_webhooks_are_delivered(backend) {
        let github = sim::PROVIDERS[0];
        let facts = github.facts(1, 1, SystemClock.now());
        let Some(from) = lightfast(false, &facts.external_id, &facts.resource_id).await else { return };
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org_1", None, &sink.url("/in")).await;

        let dry = import(&app, &from, &["--dry-run"]);
        assert_eq!(dry["dryRun"], true);
        assert_eq!(counts(&dry, "imported"), [3, 1, 2, 2]);
        let store = look(&app).await;
        assert_eq!(everything(&store).await, [], "nothing is written");

        let report = import(&app, &from, &[]);
        for (name, expected) in [("read", [4, 2, 2, 2]), ("imported", [3, 1, 2, 2]), ("alreadyHere", [0; 4]), ("notCarriedOver", [1, 1, 0, 0])] {
            assert_eq!(counts(&report, name), expected, "{name}: {report:#}");
        }
        assert_eq!(report["notCarriedOver"].as_array().map(Vec::len), Some(2), "{report:#}");
        assert_eq!(report["missingTables"], serde_json::json!(["lightfast_user_sources"]));
        let records = everything(&store).await;
        let linear = of(&records, "linear");
        assert_eq!((linear.installation.status, linear.installation.external_id.as_str()), (InstallationStatus::NeedsReauth, "lin-org"));
        assert_eq!(linear.integrations[0].status, IntegrationStatus::Disconnected);
        assert_eq!(of(&records, "vercel").installation.status, InstallationStatus::Revoked);
        let id = &linear.installation.id;
        let token = store.find_token(id).await.expect("read").expect("there");
        let vault = Vault::open_key_file(&app.key_file()).expect("readable").expect("there");
        for (column, sealed) in [("access_token", Some(token.access)), ("refresh_token", token.refresh)] {
            let at = SealedAt { table: "gw_tokens", row: id.as_str(), column };
            assert_eq!(vault.open(at, &sealed.expect("there")).expect("opens").expose(), b"lin_oauth_0123");
        }
        assert_eq!(token.expires_at.map(EpochMs::to_rfc3339).as_deref(), Some("2026-03-01T00:00:00.000Z"));

        let again = import(&app, &from, &[]);
        assert_eq!(counts(&again, "imported"), [0; 4]);
        assert_eq!(counts(&again, "alreadyHere"), [3, 1, 2, 2]);
        assert_eq!(everything(&store).await, records, "running it twice changes nothing");

        // The imported integration lists a category, as the seed's did.
        app.write_rows("").await;
        let request = github.event("github:push", &facts, github.secret.as_bytes()).expect("known");
        assert_eq!(app.outsider().post_webhook(github.slug, &request).await.expect("an answer").status, 200);
        sink.wait_for(1, Duration::from_secs(30)).await.expect("delivered");
        store.close().await;
        app.finish().await;
        from.remove().await;
    }

    async fn a_database_with_the_legacy_table_and_columns_is_imported_and_says_what_stays_behind(backend) {
        let Some(from) = lightfast(true, "4711", "815").await else { return };
        let app = App::start(backend, Options::default()).await;
        let report = import(&app, &from, &[]);
        assert_eq!(counts(&report, "imported"), [3, 1, 2, 3], "{report:#}");
        let left: Vec<(&str, &str)> = report["notCarriedOver"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|problem| (problem["id"].as_str().expect("text"), problem["reason"].as_str().expect("text")))
            .collect();
        for (id, word) in [("us_1", "person"), ("wi_person", "us_1"), ("tok-ended", "ended"), ("inst-other", "mainframe")] {
            assert!(left.iter().any(|(found, reason)| *found == id && reason.contains(word)), "{id}: {left:?}");
        }
        assert_eq!(left.len(), 4, "{left:?}");
        let store = look(&app).await;
        let records = everything(&store).await;
        let github = of(&records, "github");
        let workspaces: Vec<&str> = github.integrations.iter().map(|integration: &Integration| integration.workspace.as_str()).collect();
        assert_eq!(workspaces.len(), 2, "{workspaces:?}");
        let second = github.integrations.iter().find(|found| found.workspace == WorkspaceId::from_raw("ws_2")).expect("there");
        assert_eq!((&second.resource, second.rules().events), (&github.resources[0].id, vec!["push".to_owned()]));
        store.close().await;
        app.finish().await;
        from.remove().await;
    }

    async fn an_account_that_is_connected_here_is_completed_for_its_org_and_refused_for_another(backend) {
        let Some(from) = lightfast(false, "4711", "815").await else { return };
        let app = App::start(backend, Options::default()).await;
        let store = look(&app).await;
        let registry = Registry::built_in();
        let slug = |word: &str| registry.iter().map(|known| known.spec.slug).find(|slug| slug.as_str() == word).expect("known");
        let adopted = |provider: &str, external: &str, org: &str| Installation {
            id: InstallationId::from_raw(format!("in_{provider}")),
            provider: slug(provider),
            external_id: ExternalId::new(external),
            alternate_external_id: None,
            account_login: None,
            org: OrgId::from_raw(org),
            connected_by: "user".into(),
            status: InstallationStatus::Active,
            status_reason: None,
            metadata: serde_json::Map::new(),
            provider_account_info: None,
            control_at: None,
            last_event_at: None,
            created_at: EpochMs(1),
            updated_at: EpochMs(1),
        };
        for (number, installation) in [adopted("linear", "lin-org", "org_1"), adopted("github", "4711", "org_2")].iter().enumerate() {
            let entry = signalbox::model::log_entry::LogEntry {
                id: signalbox::model::ids::LogId::from_raw(format!("log_{number}")),
                org: None,
                installation: None,
                subject: None,
                action: "installation.created".into(),
                from_state: None,
                to_state: None,
                reason: None,
                actor: signalbox::model::log_entry::Actor::system(),
                at: EpochMs(1),
            };
            store.insert_connection(installation, None, &entry).await.expect("inserted");
        }
        let report = import(&app, &from, &[]);
        assert_eq!(counts(&report, "imported"), [1, 1, 1, 1], "{report:#}");
        assert_eq!(counts(&report, "alreadyHere"), [1, 0, 0, 0], "{report:#}");
        assert_eq!(counts(&report, "notCarriedOver"), [2, 1, 1, 1], "{report:#}");
        let linear = store.load_installation(&InstallationId::from_raw("in_linear")).await.expect("read").expect("there");
        assert_eq!((linear.resources.len(), linear.integrations.len()), (1, 1));
        assert_eq!(linear.installation.status, InstallationStatus::Active, "its row stays as it is");
        assert!(store.find_token(&linear.installation.id).await.expect("read").is_some());
        let foreign = store.load_installation(&InstallationId::from_raw("in_github")).await.expect("read").expect("there");
        assert!(foreign.resources.is_empty() && foreign.integrations.is_empty());
        let again = import(&app, &from, &[]);
        assert_eq!(counts(&again, "imported"), [0; 4], "{again:#}");
        store.close().await;
        app.finish().await;
        from.remove().await;
    }

    async fn what_is_no_key_or_no_lightfast_database_is_refused(backend) {
        let Some(empty) = Backend::empty_postgres().await else { return };
        let app = App::start(backend, Options::default()).await;
        let url = source(&empty);
        let run = |url: &str, key: &str| app.cli(&["import", "lightfast", "--from", url, "--encryption-key", key]);
        let refused = run(&url, "abcd");
        assert!(!refused.status.success() && err(&refused).contains("64 hex digits"), "{}", err(&refused));
        let refused = run(&url, KEY);
        assert!(!refused.status.success() && err(&refused).contains("no table lightfast_gw_installations"), "{}", err(&refused));
        let nowhere = run("postgres://postgres:hunter2-secret@127.0.0.1:1/x", KEY);
        assert!(!nowhere.status.success() && !err(&nowhere).contains("hunter2"), "{}", err(&nowhere));
        app.finish().await;
        empty.remove().await;
    }
}
