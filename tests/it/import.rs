//! `signalbox import lightfast`: what an existing system holds arrives, once, and works.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead as _, KeyInit as _},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use signalbox::sim;

use crate::support::{App, Backend, Connected, Options, code, on_both};

const SOON: Duration = Duration::from_secs(30);

/// The key of the other system: 32 bytes of 7.
const KEY: [u8; 32] = [7; 32];

/// Encrypts as the other system does: base64 of nonce, ciphertext, tag.
fn encrypt(token: &str, nonce: u8) -> String {
    let nonce = [nonce; 12];
    let cipher = Aes256Gcm::new_from_slice(&KEY).expect("32 bytes");
    let sealed = cipher.encrypt(&Nonce::from(nonce), token.as_bytes()).expect("encrypts");
    STANDARD.encode([&nonce[..], &sealed].concat())
}

const TABLES: &str = "
    CREATE TABLE lightfast_gw_installations (id varchar(191) PRIMARY KEY, provider varchar(50) NOT NULL,
        external_id varchar(191) NOT NULL, account_login varchar(191), connected_by varchar(191) NOT NULL,
        org_id varchar(191) NOT NULL, status varchar(50) NOT NULL, webhook_secret text, metadata jsonb,
        provider_account_info jsonb, created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz);
    CREATE TABLE lightfast_gw_tokens (id varchar(191) PRIMARY KEY, installation_id varchar(191) NOT NULL,
        access_token text NOT NULL, refresh_token text, expires_at timestamptz, token_type varchar(50), scope text,
        created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz);
    CREATE TABLE lightfast_gw_resources (id varchar(191) PRIMARY KEY, installation_id varchar(191) NOT NULL,
        provider_resource_id varchar(191) NOT NULL, resource_name varchar(500), status varchar(50) NOT NULL,
        updated_at timestamptz);
    CREATE TABLE lightfast_workspace_integrations (id varchar(191) PRIMARY KEY, workspace_id varchar(191) NOT NULL,
        installation_id varchar(191), connected_by varchar(191), provider varchar(50), source_config jsonb NOT NULL,
        provider_resource_id varchar(191), is_active boolean NOT NULL DEFAULT true,
        created_at timestamp NOT NULL DEFAULT now(), updated_at timestamp);";

/// The age before: a table and two columns more.
const LEGACY: &str = "
    CREATE TABLE lightfast_user_sources (id varchar(191) PRIMARY KEY, user_id varchar(191));
    INSERT INTO lightfast_user_sources VALUES ('src_1', 'user_1');
    ALTER TABLE lightfast_workspace_integrations ADD COLUMN user_source_id varchar(191);
    ALTER TABLE lightfast_workspace_integrations ADD COLUMN gateway_installation_id varchar(191);
    INSERT INTO lightfast_workspace_integrations (id, workspace_id, source_config, provider_resource_id, user_source_id)
        VALUES ('wi_lost', 'ws', '{}', '1', 'src_1');
    INSERT INTO lightfast_workspace_integrations
        (id, workspace_id, source_config, provider_resource_id, user_source_id, gateway_installation_id)
        VALUES ('wi_named_twice', 'ws_old', '{\"sync\":{\"events\":[\"github:push\"],\"autoSync\":true}}', '771204001',
            'src_1', 'ghInst01');
    INSERT INTO lightfast_workspace_integrations (id, workspace_id, provider, source_config, user_source_id) VALUES
        ('wi_by_account', 'ws_older', 'github', '{\"installationId\":\"58214001\",\"repoId\":\"771204001\",
            \"sync\":{\"events\":[\"github:push\"],\"autoSync\":true}}', 'src_1');";

/// Rows of two orgs: GitHub with a category key, Linear with tokens, Vercel with its ids in the wrong places, and some
/// that cannot be carried over.
async fn fill(source: &Backend) {
    let linear = sim::find("linear").expect("simulated").facts(1, 0, signalbox::model::clock::EpochMs(0));
    let rows = format!(
        "INSERT INTO lightfast_gw_installations (id, provider, external_id, account_login, connected_by, org_id, status,
            provider_account_info, created_at) VALUES
            ('ghInst01', 'github', '58214001', 'harborworks-1', 'user_1', 'org_a', 'active',
                '{{\"version\":1,\"sourceType\":\"github\",\"installations\":[{{\"accountLogin\":\"unknown\"}}]}}',
                '2026-02-01T10:00:00Z'),
            ('linInst1', 'linear', 'accidental', NULL, 'user_1', 'org_a', 'active',
                '{{\"version\":1,\"sourceType\":\"linear\",\"organization\":{{\"id\":\"{linear}\",\"urlKey\":\"harborworks\"}}}}',
                '2026-02-02T10:00:00Z'),
            ('verInst1', 'vercel', 'icfg_4Wc0', NULL, 'user_2', 'org_b', 'error',
                '{{\"version\":1,\"sourceType\":\"vercel\",\"teamId\":\"team_Zr5\",\"configurationId\":\"team_Zr5\"}}',
                '2026-02-03T10:00:00Z'),
            ('oldInst1', 'github', '58214009', NULL, 'user_1', 'org_a', 'revoked', NULL, '2026-01-01T10:00:00Z'),
            ('unkInst1', 'gitlab', '1', NULL, 'user_1', 'org_a', 'active', NULL, '2026-01-01T10:00:00Z');
        INSERT INTO lightfast_gw_tokens (id, installation_id, access_token, refresh_token, expires_at, token_type, scope)
            VALUES ('tok_1', 'linInst1', '{access}', '{refresh}', now() + interval '20 hours', 'Bearer', 'read write'),
            ('tok_2', 'verInst1', 'bm90IG9uZSBvZiB0aGVpcnMgYXQgYWxsLCByZWFsbHk=', NULL, NULL, NULL, NULL);
        INSERT INTO lightfast_gw_tokens (id, installation_id, access_token, created_at)
            VALUES ('tok_0', 'linInst1', '{rotated}', '2026-02-02T10:00:00Z');
        INSERT INTO lightfast_gw_resources (id, installation_id, provider_resource_id, resource_name, status) VALUES
            ('resOne', 'ghInst01', '771204001', 'harborworks-1/tide-clock', 'active'),
            ('resOneOld', 'ghInst01', '771204001', 'harborworks-1/tide-clock', 'removed'),
            ('resTwo', 'verInst1', 'prj_1', 'shop', 'active');
        INSERT INTO lightfast_workspace_integrations
            (id, workspace_id, installation_id, provider, source_config, provider_resource_id, is_active) VALUES
            ('wiPush', 'ws', 'ghInst01', 'github', '{{\"version\":1,\"sourceType\":\"github\",\"type\":\"repository\",
                \"repoId\":\"771204001\",\"sync\":{{\"events\":[\"push\"],\"autoSync\":true}}}}', NULL, true),
            ('wiOff', 'ws_2', 'ghInst01', 'github', '{{\"sync\":{{\"events\":[\"github:push\"]}}}}', '771204001', false),
            ('wiTeam', 'ws', 'linInst1', 'linear', '{{\"provider\":\"linear\",\"type\":\"team\",\"teamName\":\"Eng\",
                \"sync\":{{\"events\":[\"linear:issue.created\"],\"autoSync\":true}}}}', 'team-1', true);",
        linear = linear.external_id,
        access = encrypt("lin_imported_access", 1),
        refresh = encrypt("lin_imported_refresh", 2),
        rotated = encrypt("lin_imported_rotated", 3),
    );
    source.execute(Path::new("/"), TABLES).await;
    source.execute(Path::new("/"), &rows).await;
}

fn run_import(app: &App, source: &Backend, more: &[&str]) -> (bool, String, String) {
    let (url, key) = (source.url(Path::new("/")), hex::encode(KEY));
    let words = ["import", "lightfast", "--from", &url, "--encryption-key", &key, "--json"];
    let said = app.cli(&[&words, more].concat());
    let error = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!error.contains(&key) && !error.contains("lin_imported"), "a secret is shown: {error}");
    (said.status.success(), String::from_utf8(said.stdout).expect("text"), error)
}

fn import(app: &App, source: &Backend, more: &[&str]) -> (bool, Value) {
    let (succeeded, out, error) = run_import(app, source, more);
    (succeeded, serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{error}")))
}

/// What a refused import says.
fn refused(app: &App, source: &Backend, more: &[&str]) -> String {
    let (succeeded, out, error) = run_import(app, source, more);
    assert!(!succeeded && out.is_empty(), "{out}{error}");
    error
}

fn codes(report: &Value, list: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut codes: Vec<_> =
        report[list].as_array().expect("a list").iter().map(|c| (text(&c["id"]), text(&c["code"]))).collect();
    codes.sort();
    codes
}

on_both! {
    async fn connections_are_taken_over_once_and_what_cannot_be_is_named_with_its_reason(backend) {
        let Some(source) = Backend::postgres().await else { return };
        fill(&source).await;
        let app = App::start(backend, Options::default()).await;

        let (_, dry) = import(&app, &source, &["--dry-run"]);
        let none = app.operator("org_a").ask("GET", "/connections", None).await.expect("a list");
        assert_eq!(none["items"], json!([]), "a dry run writes nothing");

        let (succeeded, report) = import(&app, &source, &[]);
        assert!(succeeded, "rows that are left out are no failure");
        assert_eq!(report["counts"], dry["counts"], "a dry run says what would be done");
        assert_eq!(report["counts"]["installations"], json!({"found": 5, "carried": 4, "alreadyHere": 0}));
        assert_eq!(report["counts"]["tokens"], json!({"found": 3, "carried": 1, "alreadyHere": 0}));
        assert_eq!(report["counts"]["integrations"], json!({"found": 3, "carried": 3, "alreadyHere": 0}));
        let left_out = [("resOneOld", "second_row"), ("tok_0", "second_token"), ("tok_2", "does_not_open"),
            ("unkInst1", "unknown_provider")];
        assert_eq!(codes(&report, "leftOut"), left_out.map(|(id, code)| (id.to_owned(), code.to_owned())));

        let mut operator = app.operator("org_a");
        let github = operator.ask("GET", "/connections/ghInst01", None).await.expect("imported");
        assert_eq!((&github["externalId"], &github["status"]), (&json!("58214001"), &json!("active")));
        assert_eq!(github["resources"], json!([{"id": "resOne", "providerResourceId": "771204001",
            "resourceName": "harborworks-1/tide-clock"}]));
        let linear = operator.ask("GET", "/connections/linInst1", None).await.expect("imported");
        let organization = sim::find("linear").expect("simulated").facts(1, 0, signalbox::model::clock::EpochMs(0));
        assert_eq!(linear["externalId"], json!(organization.external_id));
        assert_eq!((&linear["hasToken"], &linear["accountLogin"]), (&json!(true), &json!("harborworks")));
        // Each page leads to the next, though these ids have no form of ours; another org's leads nowhere.
        let (mut listed, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/connections?limit=1&cursor={cursor}");
            let page = operator.ask("GET", &path, None).await.expect("a page");
            listed.extend(page["items"].as_array().expect("items").iter().map(|item| item["id"].clone()));
            let Some(next) = page["nextCursor"].as_str() else { break };
            next.clone_into(&mut cursor);
        }
        assert_eq!(listed, ["oldInst1", "linInst1", "ghInst01"]);
        for cursor in ["verInst1", "nobodys"] {
            let answer = operator.call("GET", &format!("/connections?cursor={cursor}"), None).await.expect("an answer");
            assert_eq!(code(&answer), (400, "invalid_parameter".to_owned()), "{cursor}");
        }
        let vercel = app.operator("org_b").ask("GET", "/connections/verInst1", None).await.expect("imported");
        assert_eq!((&vercel["externalId"], &vercel["status"]), (&json!("team_Zr5"), &json!("needs_reauth")));

        // The token was opened and sealed again: it is the one it was, and the newest of two.
        let token = operator.ask("GET", "/connections/linInst1/token", None).await.expect("a token");
        assert_eq!(token["accessToken"], json!("lin_imported_access"));

        // A category key filters as it did.
        let to = Connected { provider: sim::find("github").expect("simulated"), account: 1, connection: "ghInst01".into() };
        let (_, pushed) = app.post_event(&to, "github:push", 1).await;
        assert_eq!(pushed.json()["outcome"], json!("routed"), "{}", pushed.json());
        let (_, opened) = app.post_event(&to, "github:issue.opened", 2).await;
        assert_eq!(opened.json()["outcome"], json!("filtered"));

        let (_, again) = import(&app, &source, &[]);
        for kind in ["installations", "tokens", "resources", "integrations"] {
            assert_eq!(again["counts"][kind]["carried"], json!(0), "a second run writes nothing: {again:#}");
        }

        // What has ended here since is not added to: connected again, it would route what nobody linked here.
        operator.ask("DELETE", "/connections/ghInst01", None).await.expect("disconnected");
        let ended = Connected { provider: sim::find("linear").expect("simulated"), account: 1, connection: "linInst1".into() };
        app.post_event(&ended, "linear:oauth-app.revoked", 3).await;
        let deadline = Instant::now() + SOON;
        while app.count("SELECT COUNT(*) FROM gw_tokens").await > 0 {
            assert!(Instant::now() < deadline, "the token stays\n{}", app.log_text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let late = "INSERT INTO lightfast_workspace_integrations
            (id, workspace_id, installation_id, provider, source_config, provider_resource_id, is_active)
            VALUES ('wiLate', 'ws_3', 'ghInst01', 'github', '{\"sync\":{\"events\":[\"push\"]}}', '771204001', true)";
        source.execute(Path::new("/"), late).await;
        let (_, later) = import(&app, &source, &[]);
        for row in ["wiLate", "tok_1"] {
            let left_out = (row.to_owned(), "connection_ended".to_owned());
            assert!(codes(&later, "leftOut").contains(&left_out), "{row}: {later:#}");
        }
        assert_eq!(later["counts"]["integrations"]["carried"], json!(0), "{later:#}");
        assert_eq!(later["counts"]["tokens"], json!({"found": 3, "carried": 0, "alreadyHere": 0}), "{later:#}");
        app.finish().await;
        source.remove().await;
    }

    async fn what_belongs_to_a_connection_that_is_left_out_is_named_too(backend) {
        let Some(source) = Backend::postgres().await else { return };
        fill(&source).await;
        let app = App::start(backend, Options::default()).await;
        // GitHub's account is connected already, and Linear's id is another org's here.
        let github = app.connect("org_a", sim::find("github").expect("simulated"), 1).await;
        source.execute(Path::new("/"), &format!(
            "UPDATE lightfast_gw_installations SET external_id = '{}' WHERE id = 'ghInst01'",
            github.facts(1, signalbox::model::clock::EpochMs(0)).external_id,
        )).await;
        source.execute(Path::new("/"), "UPDATE lightfast_gw_installations SET org_id = 'org_c' WHERE id = 'linInst1'").await;
        import(&app, &source, &[]);
        source.execute(Path::new("/"), "UPDATE lightfast_gw_installations SET org_id = 'org_a' WHERE id = 'linInst1'").await;

        let (_, report) = import(&app, &source, &[]);
        let left_out = [
            ("ghInst01", "installation_already_bound"), ("linInst1", "id_taken"), ("resOne", "installation_left_out"),
            ("resOneOld", "second_row"), ("tok_0", "second_token"), ("tok_1", "installation_left_out"),
            ("tok_2", "does_not_open"), ("unkInst1", "unknown_provider"), ("wiOff", "installation_left_out"),
            ("wiPush", "installation_left_out"), ("wiTeam", "installation_left_out"),
        ];
        assert_eq!(codes(&report, "leftOut"), left_out.map(|(id, code)| (id.to_owned(), code.to_owned())));
        assert_eq!(report["counts"]["installations"], json!({"found": 5, "carried": 0, "alreadyHere": 2}));
        for (id, _) in codes(&report, "doubtful") {
            assert!(!left_out.iter().any(|(left, _)| *left == id), "{id} is left out: {report:#}");
        }
        app.finish().await;
        source.remove().await;
    }

    async fn no_key_is_made_beside_what_another_key_has_sealed(backend) {
        let Some(source) = Backend::postgres().await else { return };
        fill(&source).await;
        let mut app = App::start(backend, Options::default()).await;
        app.set_destination("org_a", None, "http://127.0.0.1:9/in").await;
        // The file that is named is another one, as from another working directory.
        let (key_file, aside) = (app.key_file(), app.key_file().with_extension("aside"));
        std::fs::rename(&key_file, &aside).expect("moved away");
        for more in [&[][..], &["--dry-run"]] {
            let said = refused(&app, &source, more);
            assert!(said.contains("has secrets") && said.contains("vault.key_file"), "{said}");
            assert!(!key_file.exists(), "a key was made");
        }
        std::fs::write(&key_file, format!("k1:{}\n", "ab".repeat(32))).expect("written");
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).expect("private");
        let said = refused(&app, &source, &[]);
        assert!(said.contains("do not open") && said.contains("vault.key_file"), "{said}");
        assert_eq!(app.count("SELECT COUNT(*) FROM gw_installations").await, 0, "nothing was carried over");

        std::fs::rename(&aside, &key_file).expect("moved back");
        assert!(import(&app, &source, &[]).0);
        app.terminate().await;
        app.restart().await;
        let token = app.operator("org_a").ask("GET", "/connections/linInst1/token", None).await.expect("a token");
        assert_eq!(token["accessToken"], json!("lin_imported_access"));
        app.finish().await;
        source.remove().await;
    }

    async fn rows_of_the_legacy_age_are_carried_over_where_they_name_a_connection_and_reported_where_not(backend) {
        let Some(source) = Backend::postgres().await else { return };
        fill(&source).await;
        source.execute(Path::new("/"), LEGACY).await;
        let app = App::start(backend, Options::default()).await;
        let (_, report) = import(&app, &source, &[]);
        assert_eq!(report["legacySources"], json!(1));
        assert!(codes(&report, "leftOut").contains(&("wi_lost".into(), "legacy_source".into())), "{report:#}");
        let list = app.operator("org_a").ask("GET", "/workspaces/ws_old/integrations", None).await.expect("a list");
        assert_eq!(list["list"][0]["id"], json!("wi_named_twice"));
        let list = app.operator("org_a").ask("GET", "/workspaces/ws_older/integrations", None).await.expect("a list");
        assert_eq!(list["list"][0]["id"], json!("wi_by_account"));
        app.finish().await;
        source.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_makes_no_database_no_table_and_no_key() {
    let Some(source) = Backend::postgres().await else { return };
    fill(&source).await;
    let mut blank = vec![Backend::sqlite()];
    blank.extend(Backend::empty_postgres().await);
    for backend in blank {
        let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        let place = backend.shared().unwrap_or(Backend::Sqlite);
        let app = App::stopped_in(Arc::clone(&directory), place, Options::default());
        let (succeeded, report) = import(&app, &source, &["--dry-run"]);
        assert!(succeeded);
        assert_eq!(report["counts"]["installations"], json!({"found": 5, "carried": 4, "alreadyHere": 0}));
        assert_eq!(report["counts"]["tokens"], json!({"found": 3, "carried": 1, "alreadyHere": 0}));
        assert!(codes(&report, "leftOut").contains(&("tok_2".into(), "does_not_open".into())), "{report:#}");
        let made: Vec<_> = std::fs::read_dir(directory.path()).expect("a directory").collect();
        assert!(made.is_empty(), "{}: {made:?}", backend.name());
        if !matches!(backend, Backend::Sqlite) {
            let tables = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'public'";
            assert_eq!(app.count(tables).await, 0, "a table was made");
        }

        // Of an older release: what is in it cannot be compared with, and it stays as it is.
        assert!(app.cli(&["migrate"]).status.success());
        backend.execute(directory.path(), "DELETE FROM _sqlx_migrations WHERE version > 2").await;
        let said = refused(&app, &source, &["--dry-run"]);
        assert!(said.contains("signalbox migrate"), "{said}");
        assert_eq!(app.count("SELECT COUNT(*) FROM _sqlx_migrations").await, 2, "a migration was applied");
        app.leave().await;
        backend.remove().await;
    }
    source.remove().await;
}
