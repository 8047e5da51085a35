//! The gateway under load: the binary as a child process.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, bail};
use signalbox::sim;

/// The bootstrap key of the run.
pub const SERVICE_KEY: &str = "loadtest-service-key-0123456789-abcdef";

/// A running gateway; killed if it is dropped before it was stopped.
#[derive(Debug)]
pub struct Gateway {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // An error says that it has ended already.
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

impl Gateway {
    /// Starts it on a fresh SQLite file or on `postgres` and waits until it listens.
    pub fn start(
        binary: Option<&Path>,
        directory: &Path,
        postgres: Option<&str>,
        more: &[String],
    ) -> anyhow::Result<Self> {
        let binary = match binary {
            Some(binary) => binary.to_owned(),
            None => beside_this_one()?,
        };
        let directory = directory.canonicalize()?;
        let database =
            postgres.map_or_else(|| format!("sqlite://{}", directory.join("load.db").display()), str::to_owned);
        let mut command = Command::new(&binary);
        command.arg("serve").current_dir(&directory).env_clear().envs(sim::gateway_settings()).envs([
            ("SIGNALBOX_SERVER__LISTEN", "127.0.0.1:0"),
            ("SIGNALBOX_DATABASE__URL", &database),
            ("SIGNALBOX_AUTH__SERVICE_KEY", SERVICE_KEY),
            ("SIGNALBOX_DELIVERY__ALLOW_PRIVATE_NETWORKS", "true"),
            // One line for every request would measure the terminal.
            ("SIGNALBOX_TELEMETRY__LOG_FILTER", "warn"),
        ]);
        for setting in more {
            let (name, value) = setting.split_once('=').with_context(|| format!("--set {setting} has no `=`"))?;
            command.env(name, value);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let mut child = child.with_context(|| format!("cannot start {}", binary.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("no pipe")?).lines();
        let address = loop {
            let Some(line) = lines.next().transpose()? else { bail!("the gateway ended before it listened") };
            if let Some((_, rest)) = line.split_once("listening on http://") {
                let address = rest.split_whitespace().next().unwrap_or_default();
                break address.trim_end_matches('"').parse().with_context(|| format!("no address in {line:?}"))?;
            }
        };
        // What it says later is read, so that it never waits for us.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Ok(Self { address, child })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

fn beside_this_one() -> anyhow::Result<PathBuf> {
    let binary = std::env::current_exe()?.with_file_name("signalbox");
    if !binary.exists() {
        bail!("{} is missing: build it first (cargo build --release), or name it with --binary", binary.display());
    }
    Ok(binary)
}

/// Bytes of the files directly in `directory`: the database with its log.
pub fn size_of_files(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .filter(std::fs::Metadata::is_file)
        .map(|file| file.len())
        .sum()
}
