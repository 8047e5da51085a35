//! The short commands, as the real binary, on a SQLite file of their own.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use serde_json::Value;
use signalbox::{
    cli::keys::create_first_service_key,
    config::AuthConfig,
    crypto::api_key,
    model::{
        clock::{Clock, SystemClock},
        ids::OrgId,
        secret::Secret,
    },
    store::{self, BatchObserver, OpenOptions, PageRequest, Store},
};

/// A working directory and the binary in it, with nothing of the outer environment that begins with `SIGNALBOX_`.
struct Bench {
    folder: tempfile::TempDir,
}

struct Said {
    succeeded: bool,
    out: String,
    err: String,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, words: &[&str]) -> Said {
        self.run_with(words, &[])
    }

    fn run_with(&self, words: &[&str], variables: &[(&str, &str)]) -> Said {
        let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SIGNALBOX_"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_signalbox"));
        for (name, _) in ours {
            command.env_remove(name);
        }
        let Output { status, stdout, stderr } =
            command.args(words).envs(variables.iter().copied()).current_dir(self.folder.path()).output().expect("runs");
        Said {
            succeeded: status.success(),
            out: String::from_utf8(stdout).expect("UTF-8"),
            err: String::from_utf8(stderr).expect("UTF-8"),
        }
    }

    async fn open_store(&self) -> Arc<dyn Store> {
        let options = OpenOptions {
            url: format!("sqlite://{}", self.path("signalbox.db").display()),
            max_connections: 2,
            acquire_timeout: Duration::from_secs(5),
            providers: Vec::new(),
            node: "test".to_owned(),
            serving: false,
        };
        store::open(options, Arc::new(Unobserved)).await.expect("opens")
    }

    fn keys(&self) -> Vec<Value> {
        let said = self.run(&["keys", "list", "--json"]);
        assert!(said.succeeded, "{}", said.err);
        serde_json::from_str(&said.out).expect("a JSON array")
    }
}

fn mode_of(path: &Path) -> u32 {
    path.metadata().expect("is there").permissions().mode() & 0o777
}

#[test]
fn a_created_key_is_alone_on_the_last_line_and_nowhere_else() {
    let bench = Bench::new();
    let said = bench.run(&["keys", "create", "--name", "deploy script"]);
    assert!(said.succeeded, "{}", said.err);
    let key = said.out.lines().last().expect("a last line");
    assert!(key.starts_with("sbx_") && key.len() == 47, "{key}");
    assert_eq!(said.out.matches(key).count(), 1);
    assert!(!said.err.contains(key));
    let keys = bench.keys();
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0]["name"], "deploy script");
    assert_eq!((&keys[0]["orgId"], keys[0]["scope"].as_str()), (&Value::Null, Some("write")));
    assert!(!serde_json::to_string(&keys).expect("JSON").contains(key), "the key itself is not kept");
    assert!(key.starts_with(keys[0]["prefix"].as_str().expect("text")));
    assert_eq!(mode_of(&bench.path("signalbox.db")), 0o600);
}

#[test]
fn a_key_can_be_bound_to_an_org_and_to_reading_and_be_revoked_once() {
    let bench = Bench::new();
    assert!(bench.run(&["keys", "create", "--name", "n", "--org", "acme", "--scope", "read"]).succeeded);
    let keys = bench.keys();
    assert_eq!((keys[0]["orgId"].as_str(), keys[0]["scope"].as_str()), (Some("acme"), Some("read")));
    assert_eq!(keys[0]["revokedAt"], Value::Null);
    let id = keys[0]["id"].as_str().expect("text");
    assert!(bench.run(&["keys", "revoke", id]).succeeded);
    assert!(bench.keys()[0]["revokedAt"].is_string());
    let again = bench.run(&["keys", "revoke", id]);
    assert!(!again.succeeded && again.err.contains("no live key"), "{}", again.err);
    assert!(bench.run(&["keys", "list"]).out.contains("revoked"));
    assert!(!bench.run(&["keys", "create", "--name", "n", "--org", "not an org"]).succeeded);
}

#[tokio::test]
async fn the_orgs_log_has_that_its_key_was_made_and_revoked_on_the_command_line() {
    let bench = Bench::new();
    assert!(bench.run(&["keys", "create", "--name", "n", "--org", "acme"]).succeeded);
    let id = bench.keys()[0]["id"].as_str().expect("text").to_owned();
    assert!(bench.run(&["keys", "revoke", &id]).succeeded);
    let store = bench.open_store().await;
    let page = PageRequest { cursor: None, limit: 10 };
    let log = store.list_log(Some(&OrgId::from_raw("acme")), None, page).await.expect("reads");
    let told: Vec<_> = log.items.iter().map(|entry| (entry.action.as_str(), entry.subject.as_deref())).collect();
    assert_eq!(told, [("key.revoked", Some(id.as_str())), ("key.created", Some(id.as_str()))]);
    store.close().await;
}

#[test]
fn migrating_twice_applies_nothing_the_second_time() {
    let bench = Bench::new();
    let first = bench.run(&["migrate"]);
    assert!(first.succeeded && first.out.contains("applied"), "{} {}", first.out, first.err);
    assert_eq!(bench.run(&["migrate"]).out, "the database is up to date\n");
}

#[test]
fn a_database_without_its_migrations_is_not_touched_when_told_so() {
    let bench = Bench::new();
    let said = bench.run_with(&["keys", "list"], &[("SIGNALBOX_DATABASE__MIGRATE", "false")]);
    assert!(!said.succeeded && said.err.contains("signalbox migrate"), "{}", said.err);
}

#[test]
fn the_doctor_is_content_with_no_configuration_and_makes_nothing() {
    let bench = Bench::new();
    let said = bench.run(&["doctor"]);
    assert!(said.succeeded, "{}{}", said.out, said.err);
    assert!(said.out.ends_with("0 mistake(s), 0 warning(s)\n"), "{}", said.out);
    assert_eq!(bench.folder.path().read_dir().expect("a folder").count(), 0, "it only looks");
    assert!(bench.run(&["migrate"]).succeeded);
    let migrated = bench.run(&["doctor"]);
    assert!(migrated.succeeded, "{}{}", migrated.out, migrated.err);
    for finding in ["sqlite answers", "migrations: all applied", "durability: "] {
        assert!(migrated.out.contains(finding), "{finding} is not in\n{}", migrated.out);
    }
}

#[test]
fn the_doctor_does_not_invent_the_port_that_the_start_will_choose() {
    let said = Bench::new().run_with(&["doctor"], &[("SIGNALBOX_SERVER__LISTEN", "127.0.0.1:0")]);
    assert!(said.succeeded, "{}{}", said.out, said.err);
    assert!(
        said.out.contains("http://127.0.0.1/ with a port that is chosen at the start, this machine only"),
        "{}",
        said.out
    );
}

#[test]
fn the_doctor_and_a_start_read_a_signing_secret_alike_and_a_default_destination_nobody_dials_is_a_warning() {
    let sound = format!("whsec_{}", "QUJD".repeat(8));
    let unpadded = format!("whsec_{}QQ", "QUJD".repeat(8));
    for (secret, is_good) in [
        (sound.clone(), true),
        (format!("{sound} "), true),
        (unpadded, true),
        (format!("{sound}!"), false),
        ("whsec_QUJD".to_owned(), false),
    ] {
        let bench = Bench::new();
        let settings = [
            ("SIGNALBOX_DELIVERY__URL", "https://hooks.example.com/in"),
            ("SIGNALBOX_DELIVERY__SECRET", secret.as_str()),
            // Nobody's, so that a start ends by itself.
            ("SIGNALBOX_SERVER__LISTEN", "192.0.2.1:1"),
        ];
        let examined = bench.run_with(&["doctor"], &settings);
        assert_eq!(examined.succeeded, is_good, "{secret:?}: {}", examined.out);
        let started = bench.run_with(&["serve"], &settings);
        assert!(!started.succeeded);
        assert_eq!(!started.err.contains("delivery.secret"), is_good, "{secret:?}: {}", started.err);
        assert_eq!(bench.path("signalbox.key").exists(), is_good, "what is refused is refused before anything is made");
    }
    for (url, allow, warned) in [
        ("http://localhost:4107/in", "false", "private, local or reserved"),
        ("http://10.0.0.7/in", "false", "private, local or reserved"),
        ("http://[::1]/in", "false", "private, local or reserved"),
        ("http://169.254.169.254/", "true", "at a reserved address"),
        ("http://localhost:4107/in", "true", ""),
        ("https://hooks.example.com/in", "false", ""),
    ] {
        let settings = [
            ("SIGNALBOX_DELIVERY__URL", url),
            ("SIGNALBOX_DELIVERY__SECRET", sound.as_str()),
            ("SIGNALBOX_DELIVERY__ALLOW_PRIVATE_NETWORKS", allow),
        ];
        let said = Bench::new().run_with(&["doctor"], &settings);
        assert!(said.succeeded, "{}", said.out);
        let found = said.out.lines().find(|line| line.contains("nothing is sent there")).unwrap_or_default();
        assert_eq!(found.is_empty(), warned.is_empty(), "{url}: {}", said.out);
        assert!(found.contains(warned) && (found.is_empty() || found.starts_with("WARNING  delivery: ")), "{found}");
    }
}

#[test]
fn the_doctor_reports_every_mistake_together_and_fails() {
    let bench = Bench::new();
    std::fs::write(bench.path("readable.key"), format!("k1:{}\n", "ab".repeat(32))).expect("writes");
    std::fs::set_permissions(bench.path("readable.key"), PermissionsExt::from_mode(0o644)).expect("sets the mode");
    let said = bench.run_with(
        &["doctor"],
        &[
            ("SIGNALBOX_SERVER__LISTEN", "nowhere"),
            ("SIGNALBOX_SERVER__MAX_BODY_BYTES", "52428800"),
            ("SIGNALBOX_RETENTION__EVENTS_DAYS", "1"),
            ("SIGNALBOX_VAULT__KEY_FILE", "readable.key"),
            ("SIGNALBOX_DATABASE__URL", "sqlite://missing/folder/signalbox.db"),
            ("SIGNALBOX_PROVIDERS__GITHUB__CLIENT_SECRET", "swordfish-client-secret"),
            ("SIGNALBOX_PROVIDERS__GITHUB__WEBHOOK_SECRETS", "swordfish"),
            ("SIGNALBOX_PROVIDERS__GITHUB__PRIVATE_KEY", "swordfish, not PEM"),
        ],
    );
    assert!(!said.succeeded);
    for finding in [
        "MISTAKE  configuration: server.listen (SIGNALBOX_SERVER__LISTEN)",
        "MISTAKE  configuration: retention.events_days (SIGNALBOX_RETENTION__EVENTS_DAYS)",
        "MISTAKE  vault: the vault key file readable.key can be read by others",
        "MISTAKE  database: the folder missing/folder does not exist",
        "MISTAKE  providers.github: private_key: it is not PEM",
        "WARNING  providers.github: a webhook secret has fewer than 16 characters",
        "WARNING  providers.github: larger webhooks than 26214400 bytes are refused",
        "WARNING  providers.github: webhooks are received, but nobody can connect: providers.github.client_id is missing",
    ] {
        assert!(said.out.contains(finding), "{finding} is not in\n{}", said.out);
    }
    assert!(!said.out.contains("swordfish") && !said.err.contains("swordfish"), "{}", said.out);
}

#[test]
fn the_doctor_looks_at_everything_else_when_the_databases_url_cannot_be_read() {
    let public_url = ("SIGNALBOX_SERVER__PUBLIC_URL", "http://hooks.example.com");
    for url in [("SIGNALBOX_DATABASE__URL_FILE", "nowhere.txt"), ("SIGNALBOX_DATABASE__URL", "mysql://localhost/x")] {
        let bench = Bench::new();
        let said = bench.run_with(&["doctor"], &[url, public_url]);
        assert!(!said.succeeded, "{}", said.out);
        for finding in
            ["MISTAKE  configuration: database.url", "vault: the first start will make a key", "is not https"]
        {
            assert!(said.out.contains(finding), "{finding} is not in\n{}", said.out);
        }
        assert!(!said.out.contains("signalbox.db"), "another database is not the one that was meant:\n{}", said.out);
    }
}

#[test]
fn the_doctor_takes_a_private_key_that_cannot_sign_for_a_mistake() {
    // Sound PKCS#8, but of an elliptic curve.
    let curve = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).expect("a key");
    let curve = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(curve));
    let said = Bench::new().run_with(
        &["doctor"],
        &[
            ("SIGNALBOX_PROVIDERS__GITHUB__APP_SLUG", "harbor"),
            ("SIGNALBOX_PROVIDERS__GITHUB__APP_ID", "7"),
            ("SIGNALBOX_PROVIDERS__GITHUB__CLIENT_ID", "Iv1.harbor"),
            ("SIGNALBOX_PROVIDERS__GITHUB__CLIENT_SECRET", "a-client-secret-of-github"),
            ("SIGNALBOX_PROVIDERS__GITHUB__WEBHOOK_SECRETS", "a-webhook-secret-of-github"),
            ("SIGNALBOX_PROVIDERS__GITHUB__PRIVATE_KEY", &curve),
        ],
    );
    assert!(!said.succeeded, "{}", said.out);
    let finding = "MISTAKE  providers.github: private_key: the key inside cannot sign";
    assert!(said.out.contains(finding), "{finding} is not in\n{}", said.out);
}

#[test]
fn a_mistaken_configuration_stops_every_command_with_all_its_mistakes() {
    let bench = Bench::new();
    std::fs::write(bench.path("s.toml"), "[server]\nlisten = \"x\"\n[providers.linear]\n").expect("writes");
    for words in [&["serve"][..], &["migrate"], &["keys", "list"], &[]] {
        let said = bench.run(&[words, &["--config", "s.toml"]].concat());
        assert!(!said.succeeded);
        for setting in ["server.listen", "providers.linear.client_secret", "providers.linear.webhook_secrets"] {
            assert!(said.err.contains(setting), "{words:?}: {setting} is not in\n{}", said.err);
        }
        assert!(!bench.path("signalbox.db").exists());
    }
}

/// A gateway started without any configuration but its address; answers what it printed until it listened.
fn first_start(bench: &Bench, listen: &str) -> (std::process::Child, Vec<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_signalbox"));
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SIGNALBOX_"));
    for (name, _) in ours {
        command.env_remove(name);
    }
    let mut child = command
        .env("SIGNALBOX_SERVER__LISTEN", listen)
        .current_dir(bench.folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let mut printed = Vec::new();
    for line in BufReader::new(child.stdout.as_mut().expect("piped")).lines() {
        printed.push(line.expect("text"));
        if printed.last().is_some_and(|line| line.starts_with("listening on http://")) {
            break;
        }
    }
    (child, printed)
}

#[test]
fn a_first_start_without_configuration_makes_its_keys_private_and_shows_the_service_key_once() {
    let bench = Bench::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let (mut child, printed) = first_start(&bench, &taken.local_addr().expect("bound").to_string());
    assert!(!child.wait().expect("ends").success(), "somebody else has the port");
    assert!(printed.is_empty() && bench.keys().is_empty(), "no key is made that nobody is shown: {printed:?}");

    for start in 1..=2 {
        let (mut child, printed) = first_start(&bench, "127.0.0.1:0");
        let shown: Vec<_> =
            printed.iter().filter_map(|line| line.split_whitespace().find(|word| word.starts_with("sbx_"))).collect();
        assert_eq!((printed.len(), shown.len()), if start == 1 { (2, 1) } else { (1, 0) }, "{printed:?}");
        let address = printed.last().and_then(|line| line.strip_prefix("listening on http://")).expect("says where");
        assert!(address.parse::<std::net::SocketAddr>().is_ok_and(|address| address.port() != 0), "{address}");
        for file in ["signalbox.db", "signalbox.key"] {
            assert_eq!(mode_of(&bench.path(file)), 0o600, "{file}");
        }
        stop(&child);
        assert!(child.wait().expect("ends").success(), "an orderly stop is exit code 0");
    }
    assert_eq!(bench.keys().len(), 1);
}

#[test]
fn a_start_that_overlaps_with_the_stop_of_its_predecessor_waits_for_it_and_says_so_once() {
    let bench = Bench::new();
    let (mut first, _) = first_start(&bench, "127.0.0.1:0");
    let mut second = Command::new(env!("CARGO_BIN_EXE_signalbox"))
        .env("SIGNALBOX_SERVER__LISTEN", "127.0.0.1:0")
        .current_dir(bench.folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let told = BufReader::new(second.stderr.take().expect("piped")).lines().map(|line| line.expect("text"));
    let mut waits = 0;
    for line in told {
        if line.contains("waiting for the database") {
            waits += 1;
            stop(&first);
            assert!(first.wait().expect("ends").success());
        }
        if line.contains("\"serving\"") {
            stop(&second);
        }
    }
    assert!(second.wait().expect("ends").success(), "it served, and stopped when it was asked to");
    assert_eq!(waits, 1);
}

/// Both are told at once, and by the name that is in the configuration.
#[test]
fn a_database_that_cannot_be_opened_is_named_with_the_cause() {
    let bench = Bench::new();
    let began = std::time::Instant::now();
    let missing = format!("sqlite://{}", bench.path("nowhere/x.db").display());
    let said = bench.run_with(&["serve"], &[("SIGNALBOX_DATABASE__URL", &missing)]);
    assert!(!said.succeeded && said.err.contains("nowhere/x.db: there is no such directory"), "{}", said.err);
    assert!(!said.err.contains("waiting for the database"), "{}", said.err);
    // Nobody listens on the port of `tcpmux`.
    let nobody = [("SIGNALBOX_DATABASE__URL", "postgres://user:swordfish@127.0.0.1:1/x")];
    let said = bench.run_with(&["keys", "list"], &nobody);
    assert!(!said.succeeded && said.err.contains("127.0.0.1:1: ") && said.err.contains("refused"), "{}", said.err);
    assert!(!said.err.contains("swordfish") && !said.err.contains("pool timed out"), "{}", said.err);
    assert!(began.elapsed() < Duration::from_secs(5), "nothing is waited for");
}

#[test]
fn the_log_for_people_has_no_colours_off_a_terminal_and_says_what_serves() {
    let bench = Bench::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_signalbox"))
        .env("SIGNALBOX_SERVER__LISTEN", "127.0.0.1:0")
        .env("SIGNALBOX_TELEMETRY__LOG_FORMAT", "text")
        .current_dir(bench.folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let told = BufReader::new(child.stderr.take().expect("piped")).lines().map(|line| line.expect("text"));
    let mut all = String::new();
    for line in told {
        if line.contains("serving") {
            for field in ["version=", "public_url=http://127.0.0.1:", "store=\"sqlite\""] {
                assert!(line.contains(field), "{field}: {line}");
            }
            stop(&child);
        }
        all.push_str(&line);
    }
    assert!(child.wait().expect("ends").success());
    assert!(!all.contains('\u{1b}') && !all.to_lowercase().contains("actix"), "{all}");
}

fn stop(child: &std::process::Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("takes signals");
}

struct Unobserved;

impl BatchObserver for Unobserved {
    fn batch_committed(&self, _events: usize, _attempts: usize, _took: Duration) {}
}

#[tokio::test]
async fn the_first_service_key_is_made_once_and_only_when_there_is_no_other() {
    let bench = Bench::new();
    assert!(bench.run(&["keys", "create", "--name", "an org's", "--org", "acme"]).succeeded);
    let store = bench.open_store().await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let configured = AuthConfig { service_key: Secret::new("0123456789abcdef0123456789abcdef") };
    let none = create_first_service_key(store.as_ref(), &configured, &clock).await.expect("asks nobody");
    assert!(none.is_none(), "one is configured");
    let unset = AuthConfig { service_key: None };
    let made = create_first_service_key(store.as_ref(), &unset, &clock).await.expect("makes it");
    let key = made.expect("an org's key is not a service key");
    let stored = store.find_key(&api_key::hash(key.expose_str().expect("text"))).await.expect("finds");
    let stored = stored.expect("it is the stored one");
    assert!(stored.org.is_none() && stored.can_write);
    let again = create_first_service_key(store.as_ref(), &unset, &clock).await.expect("looks");
    assert!(again.is_none(), "there is one already");
    assert!(bench.run(&["keys", "revoke", stored.id.as_str()]).succeeded);
    let anew = create_first_service_key(store.as_ref(), &unset, &clock).await.expect("makes another");
    assert!(anew.is_some(), "a revoked one does not count");
    store.close().await;
}
