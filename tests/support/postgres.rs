//! A PostgreSQL server for tests, and a database of its own for each of them.
//!
//! `SIGNALBOX_TEST_POSTGRES_URL` names a server (an administrator's URL: databases are created and dropped). Without it,
//! a private server is started from the machine's own binaries, listening on a socket in a directory under the
//! temporary directory; every test process on the machine shares it, and a watchdog stops it when the last one has
//! ended, however it ended. Where neither works, tests skip, loudly, or fail if `REQUIRE_POSTGRES=1`.
//!
//! Databases are copies of a template that is migrated once for each state of `migrations/postgres`.

use std::{
    ffi::OsStr,
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use signalbox::store::{self, NoObserver, OpenOptions};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, postgres::PgConnectOptions,
};
use tokio::sync::OnceCell;

#[expect(clippy::disallowed_methods, reason = "tests are told by the environment which server to use")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The server's administrator URL; `None` when there is no server and the caller should skip.
pub async fn server() -> Option<&'static str> {
    static SERVER: OnceCell<Option<String>> = OnceCell::const_new();
    let found = SERVER.get_or_init(|| async {
        let server = match variable("SIGNALBOX_TEST_POSTGRES_URL") {
            Some(url) => Ok(url),
            None => tokio::task::spawn_blocking(private_server).await.expect("starting a server does not panic"),
        };
        server.map_err(|reason| skip("every PostgreSQL case", &reason)).ok()
    });
    found.await.as_deref()
}

/// Says aloud what is not tested; fails where PostgreSQL is required.
pub fn skip(what: &str, reason: &str) {
    assert!(
        variable("REQUIRE_POSTGRES").as_deref() != Some("1"),
        "REQUIRE_POSTGRES=1, but there is no PostgreSQL: {reason}"
    );
    // Not `eprintln!`, which the test runner keeps to itself while tests pass.
    writeln!(std::io::stderr(), "\n!!! SKIPPED: {what}. {reason}\n").expect("stderr is open");
}

/// A migrated database of its own; drop it with [`Database::drop_it`].
#[derive(Debug)]
pub struct Database {
    /// What `database.url` would be.
    pub url: String,
    name: String,
}

impl Database {
    /// A fresh database, migrated or empty; `None` when there is no server.
    pub async fn create(migrated: bool) -> Option<Self> {
        static TEMPLATE: OnceCell<String> = OnceCell::const_new();
        let server = server().await?;
        if migrated {
            let template = TEMPLATE.get_or_init(|| create_template(server)).await;
            Some(Self::from_template(server, template).await)
        } else {
            Some(Self::from_template(server, "template0").await)
        }
    }

    async fn from_template(server: &str, template: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("signalbox_t_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut admin = connect(server).await;
        for statement in
            [format!("DROP DATABASE IF EXISTS {name}"), format!("CREATE DATABASE {name} TEMPLATE {template}")]
        {
            admin.execute(AssertSqlSafe(statement)).await.expect("an administrator may create databases");
        }
        Self { url: with_database(server, &name), name }
    }

    /// Drops the database, whoever is connected.
    pub async fn drop_it(self) {
        let mut admin = connect(server().await.expect("there was a server")).await;
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        admin.execute(AssertSqlSafe(statement)).await.expect("an administrator may drop databases");
    }
}

async fn connect(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().expect("a PostgreSQL URL");
    PgConnection::connect_with(&options.disable_statement_logging()).await.expect("the test server answers")
}

fn with_database(server: &str, name: &str) -> String {
    let mut url = url::Url::parse(server).expect("a URL");
    url.set_path(name);
    url.into()
}

/// Creates the template for these migrations, unless a process before did.
async fn create_template(server: &str) -> String {
    let template = format!("signalbox_template_{:016x}", hash_of_migrations());
    let mut admin = connect(server).await;
    admin.execute("SELECT pg_advisory_lock(7261937)").await.expect("a lock can be taken");
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
        .bind(&template)
        .fetch_one(&mut admin)
        .await
        .expect("the catalogue can be read");
    if !exists {
        let unfinished = format!("{template}_new");
        for statement in [format!("DROP DATABASE IF EXISTS {unfinished}"), format!("CREATE DATABASE {unfinished}")] {
            admin.execute(AssertSqlSafe(statement)).await.expect("an administrator may create databases");
        }
        let options = OpenOptions {
            url: with_database(server, &unfinished),
            max_connections: 2,
            acquire_timeout: std::time::Duration::from_secs(10),
            providers: Vec::new(),
            node: "template".into(),
            serving: false,
        };
        let store = store::open(options, Arc::new(NoObserver)).await.expect("the template opens");
        store.migrate().await.expect("the migrations apply");
        store.close().await;
        let rename = format!("ALTER DATABASE {unfinished} RENAME TO {template}");
        admin.execute(AssertSqlSafe(rename)).await.expect("nobody else is connected to it");
    }
    admin.close().await.expect("the connection closes, and the lock with it");
    template
}

fn hash_of_migrations() -> u64 {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        fs::read(file).expect("readable").hash(&mut hasher);
    }
    hasher.finish()
}

/// Starts the shared private server, or finds it running; answers its URL.
fn private_server() -> Result<String, String> {
    let server = Server::below(|user| std::env::temp_dir().join(format!("signalbox-test-postgres-{user}")))
        .map_err(|reason| format!("SIGNALBOX_TEST_POSTGRES_URL is not set, and {reason}"))?;
    let users = server.home.join("users.lock");

    // Shared for this process's lifetime: the watchdog stops the server when it can have it alone. A watchdog that is
    // stopping the server right now is waited for here.
    let using = open_lock(&users)?;
    using.lock_shared().map_err(|error| error.to_string())?;
    Box::leak(Box::new(using));

    let starting = open_lock(&server.home.join("start.lock"))?;
    starting.lock().map_err(|error| error.to_string())?;
    if !server.is_running() {
        server.start("-c max_connections=400")?;
        server.watch(&users);
    }
    Ok(server.url())
}

fn open_lock(path: &Path) -> Result<File, String> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn find_binaries() -> Option<PathBuf> {
    let has_initdb = |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("pg_ctl").is_file();
    let path = variable("PATH").unwrap_or_default();
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = installed.map(|version| version.path().join("bin")).collect();
    versions.sort();
    std::env::split_paths(&path).chain(versions.into_iter().rev()).find(has_initdb)
}

/// A server of ours.
#[derive(Debug)]
pub struct Server {
    binaries: PathBuf,
    /// Its socket and its logs are here.
    pub home: PathBuf,
    /// Its files.
    pub data: PathBuf,
    /// The server refuses to run as root: then it runs as the system's `postgres` user.
    as_postgres: bool,
    /// What its programs find in their environment beside ours.
    pub environment: Vec<(&'static str, String)>,
}

impl Server {
    /// A server in the directory that `home` makes of the user's number; nothing is started.
    pub fn below(home: impl FnOnce(u32) -> PathBuf) -> Result<Self, String> {
        let binaries = find_binaries().ok_or("no initdb is in PATH or /usr/lib/postgresql")?;
        // The owner of what we create is who we are.
        let owner = tempfile::tempfile().and_then(|file| file.metadata()).map_err(|error| error.to_string())?;
        let user = std::os::unix::fs::MetadataExt::uid(&owner);
        let home = home(user);
        fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
        Ok(Self { binaries, data: home.join("data"), home, as_postgres: user == 0, environment: Vec::new() })
    }

    /// Its administrator's URL.
    pub fn url(&self) -> String {
        let socket: String = url::form_urlencoded::byte_serialize(self.home.as_os_str().as_encoded_bytes()).collect();
        format!("postgres://signalbox@localhost/postgres?host={socket}")
    }

    fn command(&self, program: &str, arguments: &[&OsStr]) -> Command {
        let program = self.binaries.join(program);
        let mut command = if self.as_postgres {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.args(arguments).current_dir(&self.home).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (*name, value.as_str())));
        command
    }

    /// Runs one of the server's programs to its end.
    pub fn run(&self, program: &str, arguments: &[&OsStr]) -> Result<(), String> {
        // Not through pipes: the server keeps what it inherits open, and reading them would wait for its end.
        let log = self.home.join("commands.log");
        let output = File::options().create(true).append(true).open(&log).map_err(|error| error.to_string())?;
        let errors = output.try_clone().map_err(|error| error.to_string())?;
        let status = self.command(program, arguments).stdout(output).stderr(errors).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{program} ended with {status}; see {}", log.display())),
            Err(error) => Err(format!("{program}: {error}")),
        }
    }

    fn is_running(&self) -> bool {
        self.data.join("postmaster.pid").exists()
            && self.run("pg_ctl", &["status".as_ref(), "-D".as_ref(), self.data.as_os_str()]).is_ok()
    }

    /// Starts it, after making its files if there are none, and waits until it answers.
    pub fn start(&self, settings: &str) -> Result<(), String> {
        self.initialise()?;
        // Durable as in earnest (fsync stays on): the tests are about that. No TCP: nothing to collide with.
        let options = format!("-k {} -c listen_addresses= {settings}", self.home.display());
        let start = ["start", "-w", "-t", "60", "-l", "server.log", "-o", &options].map(OsStr::new);
        self.run("pg_ctl", &[&start[..], &["-D".as_ref(), self.data.as_os_str()]].concat())
    }

    /// Makes its files, unless they are there.
    pub fn initialise(&self) -> Result<(), String> {
        if self.as_postgres {
            let status = Command::new("chown").arg("-R").arg("postgres").arg(&self.home).status();
            if !status.is_ok_and(|status| status.success()) {
                return Err("running as root without a postgres user to run the server as".into());
            }
        }
        if self.data.join("PG_VERSION").exists() {
            return Ok(());
        }
        let arguments = ["-U", "signalbox", "-A", "trust", "-E", "UTF8", "--no-sync"].map(OsStr::new);
        self.run("initdb", &[&arguments[..], &["-D".as_ref(), self.data.as_os_str()]].concat())
    }

    /// Stops the server when no test process holds `users` any more.
    fn watch(&self, users: &Path) {
        let stop = self.command("pg_ctl", &["stop", "-D", "data", "-m", "fast"].map(OsStr::new));
        let mut watchdog = Command::new("flock");
        watchdog.arg("--exclusive").arg(users).arg(stop.get_program()).args(stop.get_args());
        watchdog.current_dir(&self.home).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // In a group of its own, so that interrupting the tests does not interrupt the cleaning up.
        std::os::unix::process::CommandExt::process_group(&mut watchdog, 0);
        if let Err(error) = watchdog.spawn() {
            eprintln!("NOTE: the private PostgreSQL in {} keeps running: flock: {error}", self.home.display());
        }
    }
}
