//! The real binary as a child process.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use signalbox::{
    model::clock::{Clock, EpochMs, SystemClock},
    sim::{
        self, Facts, SimulatedProvider,
        client::{Answer, Client},
        operator::Operator,
    },
};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{Backend, Wire};

/// The bootstrap key of every test's gateway.
const SERVICE_KEY: &str = "test-service-key-0123456789-abcdefghij";
/// How long a start or an orderly stop may take before the test gives up on it.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a test wants to be different.
#[derive(Debug, Default)]
pub struct Options {
    /// Environment beside or instead of the usual: `("SIGNALBOX_DELIVERY__TIMEOUT_MS", "2000")`.
    pub settings: Vec<(&'static str, String)>,
}

impl Options {
    /// One more setting.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.settings.push((name, value.to_owned()));
        self
    }
}

/// A provider's installation that the gateway knows.
#[derive(Debug, Clone)]
pub struct Connected {
    /// At which provider.
    pub provider: &'static SimulatedProvider,
    /// Which invented account.
    pub account: u32,
    /// The connection's id.
    pub connection: String,
}

impl Connected {
    /// Facts of a new event of this installation.
    pub fn facts(&self, seed: u64, at: EpochMs) -> Facts {
        self.provider.facts(self.account, seed, at)
    }
}

/// A gateway under test. End every test with [`App::finish`].
#[derive(Debug)]
pub struct App {
    backend: Backend,
    directory: Arc<TempDir>,
    settings: Vec<(&'static str, String)>,
    running: Option<Running>,
    log: Arc<Mutex<Vec<String>>>,
    /// How long the last start took, from the fork to the line that names the address.
    pub last_start: Duration,
    finished: bool,
}

#[derive(Debug)]
struct Running {
    child: Child,
    address: SocketAddr,
}

impl App {
    /// Starts a gateway on a fresh database.
    pub async fn start(backend: Backend, options: Options) -> Self {
        let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        Self::start_in(directory, backend, options).await
    }

    /// Starts a gateway in a directory, on the SQLite file or beside the key file that may be there.
    pub async fn start_in(directory: Arc<TempDir>, backend: Backend, options: Options) -> Self {
        let mut app = Self::stopped_in(directory, backend, options);
        app.launch().await;
        app
    }

    /// A gateway on a fresh database that was never started.
    pub fn stopped(backend: Backend, options: Options) -> Self {
        Self::stopped_in(Arc::new(tempfile::tempdir().expect("a temporary directory")), backend, options)
    }

    /// Starts another gateway on the same PostgreSQL database and with the same keys: two nodes are one gateway. End it
    /// with [`App::leave`], before the first.
    pub async fn start_beside(&self) -> Self {
        self.start_beside_with(Options::default()).await
    }

    /// The same, with settings of its own beside or instead of the first node's.
    pub async fn start_beside_with(&self, options: Options) -> Self {
        let backend = self.backend.shared().expect("several nodes share a PostgreSQL database");
        let settings = self.settings.iter().cloned().chain(options.settings).collect();
        Self::start_in(Arc::clone(&self.directory), backend, Options { settings }).await
    }

    /// The same for a node that reaches the database by a wire of its own.
    pub async fn start_beside_on_a_wire(&self) -> (Self, Wire) {
        let wire = Wire::to(&self.backend.url(self.directory.path())).await;
        let node = self.start_beside_with(Options::default().with("SIGNALBOX_DATABASE__URL", &wire.url)).await;
        (node, wire)
    }

    /// The same in a directory that the test looks into.
    pub fn stopped_in(directory: Arc<TempDir>, backend: Backend, options: Options) -> Self {
        Self {
            backend,
            directory,
            settings: options.settings,
            running: None,
            log: Arc::default(),
            last_start: Duration::ZERO,
            finished: false,
        }
    }

    fn spawn(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_signalbox"))
            .arg("serve")
            .current_dir(self.directory.path())
            .env_clear()
            .envs(self.environment())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts")
    }

    /// Starts the process, which must refuse; what it says.
    pub async fn restart_refused(&mut self) -> String {
        let mut child = self.spawn();
        let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let (found, address) = oneshot::channel();
        self.collect(out, Some(found));
        let said = tokio::task::spawn_blocking(move || std::io::read_to_string(err).expect("text"));
        if address.await.is_ok() {
            child.kill().expect("killable");
            child.wait().expect("a child of ours");
            panic!("it serves, and should not");
        }
        let said = said.await.expect("no panic while reading");
        let status = child.wait().expect("a child of ours");
        assert!(!status.success(), "it ended with {status}: {said}");
        said
    }

    /// Where its key file is.
    pub fn key_file(&self) -> PathBuf {
        self.directory.path().join("signalbox.key")
    }

    async fn launch(&mut self) {
        assert!(self.running.is_none(), "it runs already");
        let started = Instant::now();
        let mut child = self.spawn();
        let (found, address) = oneshot::channel();
        let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        self.collect(out, Some(found));
        self.collect(err, None);
        let address = tokio::time::timeout(PATIENCE, address).await;
        let Ok(Ok(address)) = address else {
            child.kill().expect("killable");
            panic!("the gateway did not say where it listens:\n{}", self.log_text());
        };
        self.last_start = started.elapsed();
        self.running = Some(Running { child, address });
    }

    fn environment(&self) -> Vec<(String, String)> {
        let path = self.directory.path();
        let usual = [
            ("SIGNALBOX_SERVER__LISTEN", "127.0.0.1:0".to_owned()),
            ("SIGNALBOX_SERVER__WORKERS", "2".to_owned()),
            ("SIGNALBOX_DATABASE__URL", self.backend.url(path)),
            ("SIGNALBOX_VAULT__KEY_FILE", path.join("signalbox.key").display().to_string()),
            ("SIGNALBOX_AUTH__SERVICE_KEY", SERVICE_KEY.to_owned()),
            ("SIGNALBOX_DELIVERY__ALLOW_PRIVATE_NETWORKS", "true".to_owned()),
            // Tests are about what happens, not how fast: a busy machine must not turn a 200 into a 503.
            ("SIGNALBOX_INGEST__ACK_DEADLINE_MS", "30000".to_owned()),
            ("SIGNALBOX_DATABASE__ACQUIRE_TIMEOUT_MS", "20000".to_owned()),
            ("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "1,2,2,5,5".to_owned()),
        ];
        // A test that starts no simulators asks nobody: least of all the real providers.
        let nowhere = [
            "SIGNALBOX_PROVIDERS__GITHUB__API_URL",
            "SIGNALBOX_PROVIDERS__VERCEL__API_URL",
            "SIGNALBOX_PROVIDERS__LINEAR__API_URL",
            "SIGNALBOX_PROVIDERS__SENTRY__API_URL",
        ]
        .map(|name| (name, "http://127.0.0.1:9".to_owned()));
        let chosen = usual.into_iter().chain(nowhere).chain(self.settings.iter().cloned());
        sim::gateway_settings()
            .chain(chosen.map(|(name, value)| (name.to_owned(), value)))
            .chain([("RUST_BACKTRACE".to_owned(), "1".to_owned())])
            .chain(caches_off())
            .collect()
    }

    /// Keeps what the process writes, and looks for the address in it.
    fn collect(&self, stream: impl Read + Send + 'static, mut found: Option<oneshot::Sender<SocketAddr>>) {
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if let Some(address) = address_in(&line)
                    && let Some(found) = found.take()
                    && found.send(address).is_err()
                {
                    // Nobody waits for it any more; the line is in the log.
                }
                log.lock().expect("no panic while logging").push(line);
            }
        });
    }

    /// Everything the process has written so far, on both streams, over all its starts.
    pub fn log_text(&self) -> String {
        self.log.lock().expect("no panic while logging").join("\n")
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("the gateway was stopped; restart it first")
    }

    /// Where it listens; another port after every start.
    pub fn address(&self) -> SocketAddr {
        self.running.as_ref().expect("the gateway was stopped; restart it first").address
    }

    /// Kills the process with SIGKILL: no handler runs, nothing is flushed.
    pub async fn kill(&mut self) {
        self.running().child.kill().expect("killable");
        let status = self.wait().await;
        assert_eq!(status.signal(), Some(9), "it ended before it was killed: {status}\n{}", self.log_text());
    }

    /// Starts the process and kills it so much later, wherever it is by then.
    pub async fn start_and_kill(&mut self, after: Duration) {
        let mut child = self.spawn();
        self.collect(child.stdout.take().expect("piped"), None);
        self.collect(child.stderr.take().expect("piped"), None);
        tokio::time::sleep(after).await;
        child.kill().expect("killable");
        let status = child.wait().expect("a child of ours");
        assert_eq!(status.signal(), Some(9), "it ended before it was killed: {status}\n{}", self.log_text());
    }

    /// Waits for the process to end by itself, as a test's crash switch makes it.
    pub async fn crashed(&mut self) {
        let status = self.wait().await;
        assert_eq!(status.signal(), Some(6), "it ended otherwise: {status}\n{}", self.log_text());
    }

    /// Stops the process with SIGTERM and checks that it ends in order.
    pub async fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
        self.ended_in_order().await;
    }

    /// Waits until a process that was told to stop has ended, and checks that it did in order.
    pub async fn ended_in_order(&mut self) {
        let status = self.wait().await;
        assert!(status.success(), "after SIGTERM it ended with {status}\n{}", self.log_text());
    }

    /// Sends SIGTERM and answers once the process has noticed.
    pub async fn begin_to_stop(&mut self) {
        const NOTICED: &str = "stopping: finishing what is in flight";
        let before = self.log_text().matches(NOTICED).count();
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while self.log_text().matches(NOTICED).count() == before {
            assert!(Instant::now() < deadline, "it did not notice the signal\n{}", self.log_text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends the process a signal: SIGSTOP freezes it, SIGCONT thaws it.
    pub fn signal(&mut self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.running().child.id()).expect("a pid"));
        kill(pid, signal).expect("it takes signals");
    }

    /// What a statement that counts answers, whoever else uses the database.
    pub async fn count(&self, sql: &str) -> i64 {
        self.backend.count(self.directory.path(), sql).await
    }

    /// How many deliveries are leased by anybody.
    pub async fn count_leases(&self) -> i64 {
        self.count("SELECT COUNT(*) FROM gw_deliveries WHERE lease_owner IS NOT NULL").await
    }

    /// Starts the process again on the same database.
    pub async fn restart(&mut self) {
        self.launch().await;
    }

    async fn wait(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("running");
        let ended = tokio::task::spawn_blocking(move || {
            let deadline = Instant::now() + PATIENCE;
            loop {
                if let Some(status) = running.child.try_wait().expect("a child of ours") {
                    return Some(status);
                }
                if Instant::now() > deadline {
                    running.child.kill().expect("killable");
                    return None;
                }
                // There is no portable wait with a deadline.
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let status = ended.await.expect("no panic while waiting");
        status.unwrap_or_else(|| panic!("it did not end within {PATIENCE:?}\n{}", self.log_text()))
    }

    /// The most memory this process has held since it began, in KiB; `None` where the system does not say.
    pub fn peak_memory_kib(&self) -> Option<u64> {
        let pid = self.running.as_ref().expect("the gateway was stopped; restart it first").child.id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    }

    /// The gateway's `/admin/health`; with `deep`, every row counted.
    pub async fn health(&self, deep: bool) -> Value {
        let path = if deep { "/admin/health?deep=true" } else { "/admin/health" };
        self.operator("anybody").call("GET", path, None).await.expect("an answer").json()
    }

    /// The address of its database.
    pub fn database_url(&self) -> String {
        self.backend.url(self.directory.path())
    }

    /// A caller with the service key, for `org`. Make another one after a restart.
    pub fn operator(&self, org: &str) -> Operator {
        Operator::new(self.address(), SERVICE_KEY, org)
    }

    /// The service key itself, for tests that look for it or send it by hand.
    pub fn service_key() -> &'static str {
        SERVICE_KEY
    }

    /// Changes a setting for the next start.
    pub fn set(&mut self, name: &'static str, value: &str) {
        self.settings.push((name, value.to_owned()));
    }

    /// A client without any key, as providers are.
    pub fn outsider(&self) -> Client {
        Client::new(self.address())
    }

    /// One request with any method, path, headers and body, on a connection of its own.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        self.outsider().send(method, path, headers, body.into()).await.expect("an answer")
    }

    /// Adopts the invented account number `account` of a provider for `org`.
    pub async fn connect(&self, org: &str, provider: &'static SimulatedProvider, account: u32) -> Connected {
        let facts = provider.facts(account, 0, SystemClock.now());
        let connection = self.operator(org).adopt(provider, &facts).await.expect("adopted");
        assert!(connection.starts_with("in_"), "a connection's id: {connection}");
        Connected { provider, account, connection }
    }

    /// An installation of every provider, each with those workspaces.
    pub async fn connect_everybody(&self, org: &str, workspaces: &[&str]) -> Vec<Connected> {
        let mut connected = Vec::new();
        for provider in sim::PROVIDERS {
            let to = self.connect(org, provider, 1).await;
            for workspace in workspaces {
                self.subscribe(org, workspace, &to, None).await;
            }
            connected.push(to);
        }
        connected
    }

    /// Subscribes a workspace to the connection's resource, to `events` or the defaults; the integration's id.
    pub async fn subscribe(&self, org: &str, workspace: &str, to: &Connected, events: Option<&[&str]>) -> String {
        let facts = to.facts(0, SystemClock.now());
        let integration = self.operator(org).subscribe(workspace, &to.connection, &facts, events).await;
        integration.expect("subscribed")
    }

    /// Sends everything of the org (or of one of its workspaces) to `url`; the signing secret.
    pub async fn set_destination(&self, org: &str, workspace: Option<&str>, url: &str) -> String {
        let secret = self.operator(org).set_destination(workspace, url).await.expect("a destination");
        assert!(secret.starts_with("whsec_"), "the secret is shown on creation");
        secret
    }

    /// Posts a genuine event of that kind, now; its facts and the gateway's answer.
    pub async fn post_event(&self, to: &Connected, kind: &str, seed: u64) -> (Facts, Answer) {
        let facts = to.facts(seed, SystemClock.now());
        let request = to.provider.event(kind, &facts, to.provider.secret.as_bytes()).expect("a known kind");
        let answer = self.outsider().post_webhook(to.provider.slug, &request).await.expect("an answer");
        (facts, answer)
    }

    /// Runs a short command of the binary beside the gateway, with the same settings.
    pub fn cli(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_signalbox"))
            .args(words)
            .current_dir(self.directory.path())
            .env_clear()
            .envs(self.environment())
            .output()
            .expect("the binary starts")
    }

    /// Starts a short command of the binary beside the gateway; whoever asked waits for it.
    pub fn spawn_cli(&self, words: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_signalbox"))
            .args(words)
            .current_dir(self.directory.path())
            .env_clear()
            .envs(self.environment())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts")
    }

    /// Makes an API key with `signalbox keys create`; answers the key.
    pub fn make_key(&self, words: &[&str]) -> String {
        let made = self.cli(&[&["keys", "create", "--name", "test"], words].concat());
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).expect("text").lines().last().expect("the key is the last line").to_owned()
    }

    /// Executes statements on its database, whether it runs or not.
    pub async fn execute(&self, sql: &str) {
        self.backend.execute(self.directory.path(), sql).await;
    }

    /// Changes rows behind the gateway's back, as an import does, and makes it read them.
    pub async fn write_rows(&self, sql: &str) {
        self.backend.execute(self.directory.path(), sql).await;
        self.operator("anybody").ask_for_all("POST", "/admin/cache/rebuild").await.expect("rebuilt");
    }

    /// Ends a test: the rows contradict each other nowhere, the process stops in order, and none of the secrets it was
    /// given is in its log or its database.
    pub async fn finish(self) {
        self.finish_without(&[]).await;
    }

    /// The same, with further secrets that must not be there.
    pub async fn finish_without(mut self, secrets: &[String]) {
        self.check_invariants().await;
        self.terminate().await;
        let (log, dump) = (self.log_text(), self.backend.dump(self.directory.path()).await);
        assert!(dump.contains("spine"), "the first migration's name is in every database: this is no dump of one");
        for secret in own_secrets().iter().chain(secrets) {
            assert!(!log.contains(secret.as_str()), "a secret is in the log");
            assert!(!dump.contains(secret.as_str()), "a secret is in the database");
        }
        self.finished = true;
        std::mem::replace(&mut self.backend, Backend::Sqlite).remove().await;
    }

    /// Ends a node of several: it stops in order, if it runs, and the database stays.
    pub async fn leave(mut self) {
        if self.running.is_some() {
            self.terminate().await;
        }
        self.finished = true;
    }

    /// Asks the gateway to check its own books.
    pub async fn check_invariants(&self) {
        let health = self.operator("anybody").call("GET", "/admin/health?deep=true", None).await.expect("an answer");
        let found = find_member(&health.json(), "contradictions").cloned();
        let Some(Value::Array(contradictions)) = found else {
            panic!("the deep check shows no contradictions member: {}", String::from_utf8_lossy(&health.body));
        };
        assert!(contradictions.is_empty(), "the rows contradict each other: {contradictions:#?}");
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            running.child.kill().expect("killable");
            running.child.wait().expect("a child of ours");
        }
        if std::thread::panicking() {
            eprintln!("--- the gateway's log\n{}", self.log_text());
        } else {
            assert!(self.finished, "end the test with app.finish().await");
        }
    }
}

/// The secrets every gateway under test is given: its service key, the providers' secrets, lines of GitHub's key.
fn own_secrets() -> Vec<String> {
    let is_secret = |name: &str| ["_SECRET", "_SECRETS", "_PRIVATE_KEY"].iter().any(|end| name.ends_with(end));
    let settings = sim::gateway_settings().filter(|(name, _)| is_secret(name)).flat_map(|(_, value)| {
        let lines: Vec<String> = value.replace("\\n", "\n").lines().map(str::to_owned).collect();
        lines.into_iter().filter(|line| !line.starts_with("-----"))
    });
    settings.filter(|secret| secret.len() >= 8).chain([SERVICE_KEY.to_owned()]).collect()
}

/// The suite runs a second time with caches off: the process must be told, it inherits nothing.
fn caches_off() -> Option<(String, String)> {
    const NAME: &str = "SIGNALBOX_TEST_NO_CACHE";
    std::env::var_os(NAME).map(|value| (NAME.to_owned(), value.into_string().expect("0 or 1")))
}

/// The address in `… listening on http://127.0.0.1:4110 …`.
fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on http://")?;
    rest.split(|letter: char| !(letter.is_ascii_hexdigit() || matches!(letter, '.' | ':' | '[' | ']')))
        .next()?
        .parse()
        .ok()
}

/// The first member of that name, however deep.
fn find_member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(members) => {
            members.get(name).or_else(|| members.values().find_map(|member| find_member(member, name)))
        }
        Value::Array(items) => items.iter().find_map(|item| find_member(item, name)),
        _ => None,
    }
}
