//! A PostgreSQL server of one test's own, to be killed, frozen, filled up or recorded.
//!
//! **Invariants**: it is stopped when the test ends, however it ends; signals go to the processes of this server only.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;
use tokio::task::block_in_place;

use super::{
    Backend, in_memory,
    postgres::{Server, skip},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// The server. Dropping it stops it and removes its files.
#[derive(Debug)]
pub struct OwnPostgres {
    server: Server,
    settings: String,
    _home: Option<TempDir>,
}

impl OwnPostgres {
    /// A server with its files made and not yet started; `None`, said aloud, on a machine without its programs.
    pub fn prepare(what_is_tested: &str, settings: &str) -> Option<Self> {
        let home = in_memory();
        let path = home.path().to_owned();
        Self::prepare_in(path, Some(home), what_is_tested, settings)
    }

    /// The same below a directory of the caller's, which outlives it and is the server's alone.
    pub fn prepare_below(home: &Path, what_is_tested: &str, settings: &str) -> Option<Self> {
        Self::prepare_in(home.to_owned(), None, what_is_tested, settings)
    }

    /// The same on files that are there, in `data`.
    pub fn prepare_on(home: TempDir, what_is_tested: &str, settings: &str) -> Option<Self> {
        let path = home.path().to_owned();
        fs::set_permissions(path.join("data"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("ours");
        Self::prepare_in(path, Some(home), what_is_tested, settings)
    }

    fn prepare_in(path: PathBuf, home: Option<TempDir>, what_is_tested: &str, settings: &str) -> Option<Self> {
        let prepared = block_in_place(|| {
            let server = Server::below(|_| path)?;
            server.initialise()?;
            Ok::<_, String>(server)
        });
        match prepared {
            Ok(server) => Some(Self { server, settings: settings.to_owned(), _home: home }),
            Err(reason) => {
                skip(what_is_tested, &reason);
                None
            }
        }
    }

    /// Its files.
    pub fn data(&self) -> PathBuf {
        self.server.data.clone()
    }

    /// What its processes find in their environment from the next start on.
    pub fn set_environment(&mut self, environment: impl IntoIterator<Item = (&'static str, String)>) {
        self.server.environment = environment.into_iter().collect();
    }

    /// Starts it, or says why it does not start.
    pub fn try_start(&self) -> Result<(), String> {
        block_in_place(|| self.server.start(&self.settings))
    }

    /// Starts it and waits until it answers.
    pub fn start(&self) {
        if let Err(reason) = self.try_start() {
            let log = fs::read_to_string(self.server.home.join("server.log")).unwrap_or_default();
            panic!("{reason}\n{log}");
        }
    }

    /// The database that every server begins with, for a gateway.
    pub fn backend(&self) -> Backend {
        Backend::at(self.server.url())
    }

    /// A connection of an administrator.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.server.url()).await.expect("the server answers")
    }

    /// The same, unless no connection is free.
    pub async fn try_connect(&self) -> Option<PgConnection> {
        PgConnection::connect(&self.server.url()).await.ok()
    }

    /// Executes one statement outside of any transaction.
    pub async fn execute(&self, statement: String) {
        let mut connection = self.connect().await;
        connection.execute(AssertSqlSafe(statement)).await.expect("an administrator may");
        connection.close().await.expect("closed");
    }

    /// Changes a setting of the running server, for every session at once.
    pub async fn set(&self, setting: &str, value: &str) {
        self.execute(format!("ALTER SYSTEM SET {setting} = {value}")).await;
        self.execute("SELECT pg_reload_conf()".into()).await;
        let mut connection = self.connect().await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now: String = sqlx::query_scalar("SELECT current_setting($1)")
                .bind(setting)
                .fetch_one(&mut connection)
                .await
                .expect("a setting");
            if now == value {
                return;
            }
            assert!(Instant::now() < deadline, "{setting} stays {now}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops it in order, though not patiently.
    pub fn stop(&self) {
        block_in_place(|| self.control("stop", "fast")).expect("it stops");
    }

    /// Kills every one of its processes with SIGKILL.
    pub fn kill(&self) {
        let pids = self.signal(Signal::SIGKILL);
        let deadline = Instant::now() + PATIENCE;
        block_in_place(|| {
            while pids.iter().any(|pid| is_alive(*pid)) {
                assert!(Instant::now() < deadline, "a killed process lives");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        // Where nobody has waited for the killed process yet, its number would pass for a living server.
        fs::remove_file(self.server.data.join("postmaster.pid")).expect("a killed server leaves it behind");
    }

    /// Stops every one of its processes where it is.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.postmaster().is_some_and(is_alive)
    }

    fn postmaster(&self) -> Option<i32> {
        let file = fs::read_to_string(self.server.data.join("postmaster.pid")).ok()?;
        file.lines().next()?.trim().parse().ok()
    }

    fn signal(&self, signal: Signal) -> Vec<i32> {
        let postmaster = self.postmaster().expect("it runs");
        // The parent first, so that it starts nobody new.
        let mut signalled = vec![postmaster];
        kill(Pid::from_raw(postmaster), signal).expect("it is ours");
        for child in children_of(postmaster) {
            // A session may have ended by itself meanwhile.
            if kill(Pid::from_raw(child), signal).is_ok() {
                signalled.push(child);
            }
        }
        signalled
    }

    fn control(&self, verb: &str, mode: &str) -> Result<(), String> {
        let words = [verb, "-w", "-m", mode].map(OsStr::new);
        self.server.run("pg_ctl", &[&words[..], &["-D".as_ref(), self.server.data.as_os_str()]].concat())
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        if self.is_running() {
            // It may be frozen still.
            self.thaw();
            if let Err(reason) = self.control("stop", "immediate") {
                eprintln!("NOTE: the server in {} keeps running: {reason}", self.server.home.display());
            }
        }
    }
}

/// The fields of `/proc/<pid>/stat` behind the name: the state, then the parent.
fn stat_of(pid: i32) -> Option<(String, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn is_alive(pid: i32) -> bool {
    stat_of(pid).is_some_and(|(state, _)| state != "Z")
}

fn children_of(parent: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat_of(*pid).is_some_and(|(_, of)| of == parent)).collect()
}
