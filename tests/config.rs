//! Configuration as operators meet it: defaults, the environment, secrets, and every mistake at once.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use proptest::prelude::*;
use signalbox::{
    config::{Config, ConfigError, KnownSetting, LateBinding, LogFormat, ReplayPolicy},
    model::provider::{ProviderSlug, ProviderSpec, SettingSpec},
    providers::Registry,
};

const fn text(name: &'static str, default: Option<&'static str>) -> SettingSpec {
    SettingSpec { name, doc: "", secret: false, default }
}

const fn secret(name: &'static str) -> SettingSpec {
    SettingSpec { name, doc: "", secret: true, default: None }
}

/// Signs with webhook secrets of its own, and has a private key.
const ACME: ProviderSpec = ProviderSpec {
    slug: ProviderSlug("acme"),
    settings: &[
        text("app_id", None),
        secret("client_secret"),
        secret("private_key"),
        text("api_url", Some("https://api.acme.test")),
    ],
    client_secret_signs: false,
};

/// Signs with its client secret.
const UMBRA: ProviderSpec =
    ProviderSpec { slug: ProviderSlug("umbra"), settings: &[secret("client_secret")], client_secret_signs: true };

/// A folder with a configuration file in it.
struct Given {
    folder: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

impl Given {
    fn toml(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("signalbox.toml"), text).expect("writes");
        Self { folder, variables: Vec::new() }
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).expect("writes");
        path
    }

    fn load(&self) -> Result<Config, ConfigError> {
        let path = self.folder.path().join("signalbox.toml");
        Config::load(Some(&path), self.variables.clone(), &[ACME, UMBRA])
    }

    fn config(&self) -> Config {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Every mistake, one a line.
    fn mistakes(&self) -> Vec<String> {
        let error = self.load().expect_err("mistakes");
        let shown = error.to_string();
        error.mistakes.iter().for_each(|mistake| assert!(shown.contains(&mistake.to_string())));
        error.mistakes.iter().map(ToString::to_string).collect()
    }

    /// The only mistake.
    fn mistake(&self) -> String {
        let mistakes = self.mistakes();
        assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
        mistakes.into_iter().next().expect("one")
    }
}

fn exposed(secrets: &[signalbox::model::secret::Secret]) -> Vec<&str> {
    secrets.iter().map(|secret| secret.expose_str().expect("text")).collect()
}

#[test]
fn with_no_configuration_at_all_everything_has_its_documented_default() {
    let config = Config::load(None, [], &[ACME, UMBRA]).expect("nothing to be wrong");
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:4110");
    assert_eq!(config.server.public_url.as_str(), "http://127.0.0.1:4110/");
    assert_eq!(config.server.max_body_bytes, 26_214_400);
    assert!(config.server.workers >= 1);
    assert_eq!(config.database.url.expose_str(), Some("sqlite://signalbox.db"));
    assert!(config.database.migrate);
    assert!(config.vault.keys.is_empty() && config.vault.key_file == Path::new("signalbox.key"));
    assert!(config.auth.service_key.is_none() && config.console.url.is_none() && config.delivery.url.is_none());
    assert_eq!(config.delivery.timeout, Duration::from_secs(15));
    assert_eq!(config.delivery.retry_schedule, [5, 30, 120, 600, 3600].map(Duration::from_secs));
    assert!(!config.delivery.allow_private_networks);
    assert_eq!(config.ingest.ack_deadline, Duration::from_millis(900));
    assert_eq!((config.ingest.late_binding, config.ingest.possible_replay), (LateBinding::Manual, ReplayPolicy::Flag));
    assert_eq!(config.retention.events, Duration::from_hours(30 * 24));
    assert_eq!(
        (config.telemetry.log_format, config.telemetry.log_filter.as_str()),
        (LogFormat::Json, "info,actix_server=warn")
    );
    assert!(config.providers.is_empty() && config.backfill.is_none());
}

#[test]
fn the_environment_wins_over_the_file() {
    let given = Given::toml("[server]\nlisten = \"127.0.0.1:1\"\nworkers = 2\n[delivery]\nretry_schedule_s = [1]\n")
        .variable("SIGNALBOX_SERVER__LISTEN", "0.0.0.0:8080")
        .variable("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "[1, 0.5]")
        .variable("SIGNALBOX_DELIVERY__ALLOW_PRIVATE_NETWORKS", "true")
        .variable("SIGNALBOX_DELIVERY__TIMEOUT_MS", "250")
        .variable("HOME", "/not/ours");
    let config = given.config();
    assert_eq!(config.server.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.server.public_url.as_str(), "http://127.0.0.1:8080/", "it follows `listen`");
    assert_eq!(config.server.workers, 2);
    assert_eq!(config.delivery.retry_schedule, [Duration::from_secs(1), Duration::from_millis(500)]);
    assert!(config.delivery.allow_private_networks);
    assert_eq!(config.delivery.timeout, Duration::from_millis(250));
}

#[test]
fn a_list_in_the_environment_may_be_separated_by_commas() {
    let config = Given::toml("").variable("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "1, 2,30").config();
    assert_eq!(config.delivery.retry_schedule, [1, 2, 30].map(Duration::from_secs));
    let none = Given::toml("").variable("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "").config();
    assert!(none.delivery.retry_schedule.is_empty());
    assert_eq!(none.delivery.circuit_probe, Duration::from_secs(5));
}

#[test]
fn who_retries_quickly_does_not_wait_longer_for_probes_unless_it_is_set() {
    let probe = |text: &str| Given::toml(&format!("[delivery]\n{text}\n")).config().delivery.circuit_probe;
    for (schedule, seconds) in [("[1, 2]", 2), ("[0.2]", 1), ("[0]", 1), ("[30]", 5)] {
        assert_eq!(probe(&format!("retry_schedule_s = {schedule}")), Duration::from_secs(seconds), "{schedule}");
    }
    assert_eq!(probe("retry_schedule_s = [1]\ncircuit_probe_s = 60"), Duration::from_mins(1));
}

#[test]
fn a_provider_may_come_from_the_environment_alone() {
    let config = Given::toml("")
        .variable("SIGNALBOX_PROVIDERS__ACME__CLIENT_SECRET", "client secret")
        .variable("SIGNALBOX_PROVIDERS__ACME__PRIVATE_KEY", "pem")
        .variable("SIGNALBOX_PROVIDERS__ACME__APP_ID", "123456")
        .variable("SIGNALBOX_PROVIDERS__ACME__WEBHOOK_SECRETS", "1e5, 007")
        .config();
    let acme = &config.providers["acme"];
    assert_eq!(acme.slug, ACME.slug);
    assert_eq!(exposed(&acme.webhook_secrets), ["1e5", "007"], "text that looks like a number stays what it is");
    assert_eq!(acme.settings["app_id"], "123456");
    assert_eq!(acme.settings["api_url"], "https://api.acme.test", "the default of the provider's own list");
    assert_eq!(acme.secrets["client_secret"].expose(), b"client secret");
    assert_eq!(acme.timestamp_tolerance, Duration::from_mins(1));
    assert!(!config.providers.contains_key("umbra"), "a provider without a section is disabled");
}

#[test]
fn where_the_client_secret_signs_it_comes_first_among_the_webhook_secrets() {
    let alone = Given::toml("[providers.umbra]\nclient_secret = \"current\"\n").config();
    assert_eq!(exposed(&alone.providers["umbra"].webhook_secrets), ["current"]);
    let rotating = Given::toml("[providers.umbra]\nclient_secret = \"new\"\nwebhook_secrets = [\"old\"]\n").config();
    assert_eq!(exposed(&rotating.providers["umbra"].webhook_secrets), ["new", "old"]);
}

#[test]
fn an_empty_list_says_that_there_are_no_further_secrets_where_the_client_secret_signs() {
    let umbra = "[providers.umbra]\nclient_secret = \"current\"\n";
    let variable = "SIGNALBOX_PROVIDERS__UMBRA__WEBHOOK_SECRETS";
    for given in [Given::toml(&format!("{umbra}webhook_secrets = []\n")), Given::toml(umbra).variable(variable, "[]")] {
        assert_eq!(exposed(&given.config().providers["umbra"].webhook_secrets), ["current"]);
    }
    let given = Given::toml(umbra);
    let path = given.file("empty", "\n");
    for lost in [
        given.variable(&format!("{variable}_FILE"), &path.display().to_string()),
        Given::toml(umbra).variable(variable, ""),
    ] {
        let mistake = lost.mistake();
        assert!(mistake.starts_with("providers.umbra.webhook_secrets") && mistake.ends_with("is empty"), "{mistake}");
    }
    let required = "[providers.acme]\nclient_secret = \"c\"\nprivate_key = \"p\"\nwebhook_secrets = []\n";
    let mistake = Given::toml(required).mistake();
    assert!(mistake.starts_with("providers.acme.webhook_secrets") && mistake.ends_with("is empty"), "{mistake}");
}

#[test]
fn a_section_with_missing_secrets_names_every_one_of_them() {
    let mistakes = Given::toml("[providers.acme]\napp_id = 1\n[providers.umbra]\n").mistakes();
    for (setting, variable) in [
        ("providers.acme.client_secret", "SIGNALBOX_PROVIDERS__ACME__CLIENT_SECRET"),
        ("providers.acme.private_key", "SIGNALBOX_PROVIDERS__ACME__PRIVATE_KEY"),
        ("providers.acme.webhook_secrets", "SIGNALBOX_PROVIDERS__ACME__WEBHOOK_SECRETS"),
        ("providers.umbra.client_secret", "SIGNALBOX_PROVIDERS__UMBRA__CLIENT_SECRET"),
    ] {
        let start = format!("{setting} ({variable}): is missing");
        assert!(mistakes.iter().any(|mistake| mistake.starts_with(&start)), "{start} is not in {mistakes:#?}");
    }
    assert_eq!(mistakes.len(), 4, "{mistakes:#?}");
}

#[test]
fn an_empty_secret_is_a_mistake_wherever_it_comes_from() {
    for empty in ["\"\"", "\"  \""] {
        let mistake = Given::toml(&format!("[providers.umbra]\nclient_secret = {empty}\n")).mistake();
        assert!(mistake.starts_with("providers.umbra.client_secret") && mistake.ends_with("is empty"), "{mistake}");
    }
    let mistake = Given::toml("").variable("SIGNALBOX_PROVIDERS__UMBRA__CLIENT_SECRET", "").mistake();
    assert!(mistake.contains("is empty"), "{mistake}");
    let with_hole = "[providers.umbra]\nclient_secret = \"x\"\nwebhook_secrets = [\"old\", \"\"]\n";
    assert!(Given::toml(with_hole).mistake().starts_with("providers.umbra.webhook_secrets"));
    let given = Given::toml("");
    let path = given.file("empty", "\n");
    let mistake = given.variable("SIGNALBOX_AUTH__SERVICE_KEY_FILE", &path.display().to_string()).mistake();
    assert!(mistake.starts_with("auth.service_key") && mistake.ends_with("is empty"), "{mistake}");
}

#[test]
fn secrets_are_read_from_files_without_their_last_line_end() {
    let given = Given::toml("");
    let key = given.file("key", "0123456789abcdef0123456789abcdef\n");
    let pem = given.file("pem", "-----BEGIN-----\nAA\n-----END-----\n");
    let secrets = given.file("secrets", "new\r\n\nold\n");
    let given = given
        .variable("SIGNALBOX_AUTH__SERVICE_KEY_FILE", &key.display().to_string())
        .variable("SIGNALBOX_PROVIDERS__ACME__PRIVATE_KEY_FILE", &pem.display().to_string())
        .variable("SIGNALBOX_PROVIDERS__ACME__WEBHOOK_SECRETS_FILE", &secrets.display().to_string())
        .variable("SIGNALBOX_PROVIDERS__ACME__CLIENT_SECRET", "client secret");
    let config = given.config();
    assert_eq!(config.auth.service_key.expect("given").expose(), b"0123456789abcdef0123456789abcdef");
    let acme = &config.providers["acme"];
    assert_eq!(acme.secrets["private_key"].expose_str(), Some("-----BEGIN-----\nAA\n-----END-----"));
    assert_eq!(exposed(&acme.webhook_secrets), ["new", "old"]);
}

#[test]
fn a_secret_given_twice_or_in_an_unreadable_file_is_a_mistake() {
    let twice = "[providers.umbra]\nclient_secret = \"a\"\nclient_secret_file = \"b\"\n";
    assert!(Given::toml(twice).mistake().contains("is given twice"));
    let missing = Given::toml("[providers.umbra]\nclient_secret_file = \"/does/not/exist\"\n").mistake();
    assert!(missing.starts_with("providers.umbra.client_secret_file (SIGNALBOX_PROVIDERS__UMBRA__CLIENT_SECRET_FILE)"));
    assert!(missing.contains("/does/not/exist cannot be read"), "{missing}");
    let overridden = Given::toml("[providers.umbra]\nclient_secret_file = \"/does/not/exist\"\n")
        .variable("SIGNALBOX_PROVIDERS__UMBRA__CLIENT_SECRET", "from the environment");
    assert_eq!(exposed(&overridden.config().providers["umbra"].webhook_secrets), ["from the environment"]);
}

#[test]
fn vault_keys_are_checked_one_by_one_and_never_shown() {
    let good = "ab".repeat(32);
    let config = Given::toml(&format!("[vault]\nkeys = [\"b:{good}\", \"a:{good}\"]\n")).config();
    assert_eq!(config.vault.keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(config.vault.keys[0].key.expose(), [0xab; 32]);
    let short = "cd".repeat(31);
    let not_hex = "xy".repeat(32);
    let text = format!(
        "[vault]\nkeys = [\"{good}\", \"short:{short}\", \"hex:{not_hex}\", \"a.b:{good}\", \"a:{good}\", \"a:{good}\"]\n"
    );
    let mistakes = Given::toml(&text).mistakes();
    assert_eq!(mistakes.len(), 5, "{mistakes:#?}");
    assert!(mistakes[4].contains("two keys have the id `a`"));
    for (number, mistake) in (1..=3).zip(&mistakes) {
        assert!(mistake.starts_with("vault.keys (SIGNALBOX_VAULT__KEYS): key"), "{mistake}");
        assert!(mistake.contains(&format!("key {number}:")) && mistake.contains("64 hex digits"), "{mistake}");
    }
    for leak in [&good, &short, &not_hex] {
        assert!(!mistakes.concat().contains(&leak[..8]));
    }
    let given = Given::toml("");
    let path = given.file("keys", &format!("b:{good}\na:{good}\n"));
    let config = given.variable("SIGNALBOX_VAULT__KEYS_FILE", &path.display().to_string()).config();
    assert_eq!(config.vault.keys.len(), 2);
}

#[test]
fn all_mistakes_are_reported_at_once_each_with_its_setting_and_its_variable() {
    let text = r#"
        [server]
        listen = "localhost"
        public_url = "ftp://example.com"
        max_body_bytes = 0
        [database]
        url = "mysql://localhost/x"
        [auth]
        service_key = "short"
        [delivery]
        url = "http://localhost:9/x"
        retry_schedule_s = [5, -1]
        timeout_ms = "soon"
        allow_private_networks = "yes"
        [ingest]
        late_binding = "sometimes"
        [retention]
        events_days = 6
        [telemetry]
        log_filter = "signalbox=loud"
        [backfill]
        url = "http://localhost:4109"
        [providers.acme]
        client_secret = "c"
        private_key = "p"
        webhook_secrets = []
        api_url = "nowhere"
    "#;
    let mistakes = Given::toml(text).mistakes();
    let wrong = [
        ("server.listen", "SIGNALBOX_SERVER__LISTEN"),
        ("server.public_url", "SIGNALBOX_SERVER__PUBLIC_URL"),
        ("server.max_body_bytes", "SIGNALBOX_SERVER__MAX_BODY_BYTES"),
        ("database.url", "SIGNALBOX_DATABASE__URL"),
        ("auth.service_key", "SIGNALBOX_AUTH__SERVICE_KEY"),
        ("delivery.secret", "SIGNALBOX_DELIVERY__SECRET"),
        ("delivery.retry_schedule_s", "SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S"),
        ("delivery.timeout_ms", "SIGNALBOX_DELIVERY__TIMEOUT_MS"),
        ("delivery.allow_private_networks", "SIGNALBOX_DELIVERY__ALLOW_PRIVATE_NETWORKS"),
        ("ingest.late_binding", "SIGNALBOX_INGEST__LATE_BINDING"),
        ("retention.events_days", "SIGNALBOX_RETENTION__EVENTS_DAYS"),
        ("telemetry.log_filter", "SIGNALBOX_TELEMETRY__LOG_FILTER"),
        ("backfill.api_key", "SIGNALBOX_BACKFILL__API_KEY"),
        ("providers.acme.webhook_secrets", "SIGNALBOX_PROVIDERS__ACME__WEBHOOK_SECRETS"),
        ("providers.acme.api_url", "SIGNALBOX_PROVIDERS__ACME__API_URL"),
    ];
    for (setting, variable) in wrong {
        let start = format!("{setting} ({variable}): ");
        assert!(mistakes.iter().any(|mistake| mistake.starts_with(&start)), "{start} is not in {mistakes:#?}");
    }
    assert_eq!(mistakes.len(), wrong.len(), "{mistakes:#?}");
}

#[test]
fn unknown_settings_and_sections_are_mistakes_with_a_hint_where_one_is_near() {
    let text =
        "[sever]\nlisten = \"x\"\n[delivery]\ntimeout = 5\nretry_schedule = [1]\nmax_inflight = 3\n[providers.acne]\n";
    let given = Given::toml(text).variable("SIGNALBOX_SERVER_LISTEN", "127.0.0.1:1");
    let mistakes = given.mistakes();
    for start in [
        "sever: there is no such section; did you mean `[server]`?",
        "delivery.timeout (SIGNALBOX_DELIVERY__TIMEOUT): there is no such setting",
        "delivery.retry_schedule (SIGNALBOX_DELIVERY__RETRY_SCHEDULE): there is no such setting; did you mean \
         `retry_schedule_s`?",
        "delivery.max_inflight (SIGNALBOX_DELIVERY__MAX_INFLIGHT): there is no such setting; did you mean \
         `max_in_flight`?",
        "providers.acne: there is no such provider; there are acme, umbra",
        "SIGNALBOX_SERVER_LISTEN: did you mean SIGNALBOX_SERVER__LISTEN?",
    ] {
        assert!(mistakes.iter().any(|mistake| mistake.starts_with(start)), "{start} is not in {mistakes:#?}");
    }
    assert_eq!(mistakes.len(), 6, "{mistakes:#?}");
}

#[test]
fn a_file_that_is_missing_or_not_toml_is_a_mistake_that_quotes_nothing() {
    let missing = Config::load(Some("/does/not/exist.toml".as_ref()), [], &[]).expect_err("missing");
    assert!(missing.to_string().contains("/does/not/exist.toml: cannot be read"), "{missing}");
    let broken = Given::toml("[auth]\nservice_key = \"hunter2hunter2\n").mistake();
    assert!(broken.contains("line 2 is not TOML"), "{broken}");
    assert!(!broken.contains("hunter2"), "{broken}");
}

#[test]
fn no_secret_is_printed_with_the_configuration() {
    let given = Given::toml("")
        .variable("SIGNALBOX_AUTH__SERVICE_KEY", "swordfish-swordfish-swordfish-swordfish")
        .variable("SIGNALBOX_DATABASE__URL", "postgres://user:swordfish@localhost/x")
        .variable("SIGNALBOX_PROVIDERS__UMBRA__CLIENT_SECRET", "swordfish");
    assert!(!format!("{:?}", given.config()).contains("swordfish"));
}

#[test]
fn allowed_origins_are_whole_origins_and_the_external_console_is_one_of_them() {
    let console = "[console]\nurl = \"https://console.example.com/base\"\n";
    let given =
        format!("{console}allowed_origins = [\"HTTP://localhost:5173/\", \"https://console.example.com:443\"]\n");
    let origins = Given::toml(&given).config().console.allowed_origins;
    assert_eq!(origins, ["https://console.example.com", "http://localhost:5173"]);
    for wrong in [
        "*",
        "https://*.example.com",
        "null",
        "example.com",
        "https://a.example/path",
        "https://me@a.example",
        "https://a.example?x",
    ] {
        let mistake =
            Given::toml(&format!("[console]\nallowed_origins = [\"https://a.example\", \"{wrong}\"]\n")).mistake();
        assert!(mistake.starts_with("console.allowed_origins") && mistake.contains("entry 2 "), "{wrong}: {mistake}");
    }
}

#[test]
fn a_base_url_loses_its_trailing_slash_and_keeps_its_path() {
    let config = Given::toml("[server]\npublic_url = \"https://hooks.example.com/signalbox/\"\n").config();
    assert_eq!(config.server.public_url.as_str(), "https://hooks.example.com/signalbox");
    let text = "[providers.acme]\nclient_secret = \"c\"\nprivate_key = \"p\"\nwebhook_secrets = [\"w\"]\n\
                api_url = \"https://acme.example.com/api/v3/\"\n";
    assert_eq!(Given::toml(text).config().providers["acme"].settings["api_url"], "https://acme.example.com/api/v3");
}

#[test]
fn the_default_destination_is_called_at_the_path_that_is_written() {
    for url in ["https://hooks.example.com/in/", "https://hooks.example.com/in", "https://hooks.example.com/in/?a=b"] {
        let text = format!("[delivery]\nurl = \"{url}\"\nsecret = \"whsec_{}\"\n", "QUJD".repeat(8));
        assert_eq!(Given::toml(&text).config().delivery.url.map(String::from).as_deref(), Some(url));
    }
}

#[test]
fn what_browsers_are_sent_to_holds_no_credentials_and_no_query() {
    for (wrong, problem) in [
        ("https://me@hooks.example.com", "user name or password"),
        ("https://me:swordfish@hooks.example.com", "user name or password"),
        ("https://hooks.example.com/?token=swordfish", "query"),
    ] {
        for (section, key) in [("server", "public_url"), ("console", "url")] {
            let mistake = Given::toml(&format!("[{section}]\n{key} = \"{wrong}\"\n")).mistake();
            assert!(mistake.starts_with(&format!("{section}.{key}")) && mistake.contains(problem), "{mistake}");
            assert!(!mistake.contains("swordfish"), "{mistake}");
        }
    }
}

// --- the example file ---------------------------------------------------------------------------------------------

const EXAMPLE: &str = include_str!("../signalbox.example.toml");

fn built_in() -> Vec<ProviderSpec> {
    Registry::built_in().iter().map(|registered| registered.spec).collect()
}

/// The example with what `take` says of each commented setting or section taken out of its comment.
fn uncommented(take: impl Fn(&str) -> bool) -> String {
    let mut section = String::new();
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        let inside = line.strip_prefix("# ").unwrap_or(line);
        let is_header = inside.starts_with('[') && inside.ends_with(']');
        let name = inside.split_once(" = ").map_or("", |(name, _)| name);
        let is_setting =
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte));
        if is_header {
            inside.trim_matches(['[', ']']).clone_into(&mut section);
        }
        let kept = if (is_header || is_setting) && take(&section) { inside } else { line };
        text.push_str(kept);
        text.push('\n');
    }
    text
}

#[test]
fn the_example_file_as_it_stands_changes_nothing() {
    let given = Given::toml(EXAMPLE);
    let path = given.folder.path().join("signalbox.toml");
    let example = Config::load(Some(&path), [], &built_in()).unwrap_or_else(|error| panic!("{error}"));
    let bare = Config::load(None, [], &built_in()).expect("nothing to be wrong");
    // Who set it is another matter.
    let settings = |mut config: Config| {
        config.settings.clear();
        config.file = None;
        format!("{config:?}")
    };
    assert_eq!(settings(example), settings(bare));
}

#[test]
fn the_example_file_has_every_setting_with_its_default_and_no_other() {
    let examination = Config::examine(None, [], &built_in());
    let table: toml::Table = uncommented(|_| true).parse().unwrap_or_else(|error| panic!("{error}"));
    let shown = |setting: &KnownSetting| {
        setting.section.split('.').try_fold(&table, |table, part| table.get(part)?.as_table())?.get(&setting.key)
    };
    let settings = &examination.settings;
    for setting in settings {
        let value = shown(setting).unwrap_or_else(|| panic!("{} is not in the example", setting.name()));
        if let Some(default) = &setting.default {
            assert_eq!(value, default, "{}", setting.name());
        }
    }
    let leaves = |table: &toml::Table| -> usize { table.values().filter(|value| !value.is_table()).count() };
    let providers = table["providers"].as_table().expect("a table");
    let sections = table.values().chain(providers.values()).filter_map(toml::Value::as_table);
    assert_eq!(sections.map(leaves).sum::<usize>(), settings.len(), "the example has settings that do not exist");
    assert_eq!(providers.len(), built_in().len());
}

#[test]
fn every_setting_of_the_example_has_a_line_that_explains_it() {
    // A line of words stands above each setting, or above the few settings it explains together.
    let mut explained = false;
    for line in EXAMPLE.lines() {
        let words = line.strip_prefix("# ").unwrap_or("");
        if line.is_empty() || line.starts_with('[') {
            explained = false;
        } else if words.len() > 8 && words.starts_with(|first: char| first.is_uppercase()) {
            explained = true;
        } else if !line.starts_with('#') {
            assert!(explained, "nothing explains `{line}`");
        }
    }
}

#[test]
fn the_providers_of_the_example_load_once_they_are_taken_out_of_their_comments() {
    let given = Given::toml(&uncommented(|section| section.starts_with("providers.")));
    let path = given.folder.path().join("signalbox.toml");
    let config = Config::load(Some(&path), [], &built_in()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.providers.len(), built_in().len());
    assert!(config.providers.values().all(|provider| !provider.webhook_secrets.is_empty()));
    for registered in Registry::built_in() {
        let provider = (registered.make)();
        let shown = config.providers[provider.slug().as_str()].max_body_bytes;
        assert_eq!(shown, Some(provider.default_max_body_bytes()), "{}", provider.slug());
    }
}

#[test]
fn every_setting_can_come_from_the_environment() {
    for setting in Config::examine(None, [], &built_in()).settings {
        let variable = format!("SIGNALBOX_{}__{}", setting.section.replace('.', "__"), setting.key).to_uppercase();
        let examination = Config::examine(None, [(variable.clone(), "1".to_owned())], &built_in());
        let unknown = examination.mistakes.iter().find(|mistake| mistake.problem.contains("there is no such"));
        assert!(unknown.is_none(), "{variable}: {unknown:?}");
    }
}

/// Section and setting names that are, and that are not.
fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "server",
            "database",
            "vault",
            "auth",
            "console",
            "delivery",
            "ingest",
            "retention",
            "telemetry",
            "backfill",
            "providers",
            "acme",
            "umbra",
            "listen",
            "public_url",
            "max_body_bytes",
            "workers",
            "url",
            "keys",
            "key_file",
            "service_key",
            "service_key_file",
            "secret",
            "secret_file",
            "retry_schedule_s",
            "timeout_ms",
            "log_filter",
            "events_days",
            "api_key",
            "webhook_secrets",
            "webhook_secrets_file",
            "client_secret",
            "private_key",
            "app_id",
        ])
        .prop_map(str::to_owned),
        "[a-zA-Z_\u{e9}0-9]{0,12}",
    ]
}

/// A TOML value of any sort, or something that is none. Texts hold a mark that no mistake may repeat.
fn any_value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}")),
        any::<bool>().prop_map(|flag| flag.to_string()),
        "[^\"\\\\\\x00-\\x1f\\x7f]{0,40}".prop_map(|text| format!("\"{MARK}{text}\"")),
        Just("1979-05-27T07:32:00Z".to_owned()),
        Just(format!("\"whsec_{MARK}\"")),
        Just(format!("\"https://user:{MARK}@host:99999/\"")),
        Just(format!("\"postgres://user:{MARK}@[::1/db\"")),
        Just(format!("\"a:{MARK}\"")),
        Just("= [".to_owned()),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((any_name(), inner), 0..3).prop_map(|members| {
                let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\" = {value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

/// Never part of a name, so that it is in a message only if a value is.
const MARK: &str = "hunter2";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_file_and_no_environment_make_the_loader_panic_or_quote_a_value(
        sections in prop::collection::vec((any_name(), prop::collection::vec((any_name(), any_value()), 0..5)), 0..5),
        variables in prop::collection::vec((prop::collection::vec(any_name(), 0..4), ".{0,30}"), 0..8),
    ) {
        let lines: Vec<String> = sections
            .into_iter()
            .flat_map(|(section, settings)| {
                let settings = settings.into_iter().map(|(name, value)| format!("{name} = {value}"));
                std::iter::once(format!("[{section}]")).chain(settings)
            })
            .collect();
        let mut given = Given::toml(&lines.join("\n"));
        for (parts, value) in variables {
            let name = format!("SIGNALBOX_{}", parts.join("__").to_uppercase());
            given = given.variable(&name, &format!("{MARK}{value}"));
        }
        match given.load() {
            Ok(config) => {
                let (shown, secret) = (format!("{config:?}"), format!("whsec_{MARK}"));
                prop_assert!(!shown.contains(&secret));
            }
            Err(error) => {
                // The path of a secret's file is no secret, and whoever mistyped it wants to see it.
                let told = error.mistakes.iter().map(ToString::to_string).find(|told| told.contains(MARK) && !told.contains("_file ("));
                prop_assert_eq!(told, None, "a value is repeated");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_configuration_are_a_mistake(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let given = Given::toml("");
        fs::write(given.folder.path().join("signalbox.toml"), &bytes).expect("writes");
        let is_empty = String::from_utf8(bytes).is_ok_and(|text| text.parse::<toml::Table>().is_ok_and(|table| table.is_empty()));
        prop_assert_eq!(given.load().is_ok(), is_empty);
    }
}
