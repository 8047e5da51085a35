//! What is under load: the gateway's binary, or a floor, as a child process.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use signalbox::sim::{self, client::Client};

use crate::scenario::Ending;

/// The bootstrap key of the run.
pub const SERVICE_KEY: &str = "loadtest-service-key-0123456789-abcdef";

/// A running server; killed if it is dropped before it was stopped.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

/// How gateways are started.
#[derive(Debug, Clone)]
pub struct GatewayCommand {
    /// The binary.
    pub binary: PathBuf,
    /// Where its key and its log are.
    pub directory: PathBuf,
    /// `[database] url`.
    pub database: String,
    /// Further settings, each `NAME=VALUE`.
    pub settings: Vec<(String, String)>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error says that it has ended already.
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

impl GatewayCommand {
    /// The binary beside this one, unless another is named.
    pub fn find(binary: Option<&Path>) -> anyhow::Result<PathBuf> {
        let binary = match binary {
            Some(binary) => binary.to_owned(),
            None => std::env::current_exe()?.with_file_name("signalbox"),
        };
        if !binary.exists() {
            bail!(
                "{} is missing: build it first (cargo build --release --workspace), or name it with --binary",
                binary.display()
            );
        }
        Ok(binary.canonicalize()?)
    }

    /// Starts a gateway and waits until it is ready; how long that took.
    pub async fn start(&self) -> anyhow::Result<(Server, Duration)> {
        let began = Instant::now();
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(&self.binary);
        command.arg("serve").current_dir(&self.directory).env_clear().envs(sim::gateway_settings()).envs([
            ("SIGNALBOX_SERVER__LISTEN", "127.0.0.1:0"),
            ("SIGNALBOX_DATABASE__URL", &self.database),
            ("SIGNALBOX_AUTH__SERVICE_KEY", SERVICE_KEY),
            ("SIGNALBOX_DELIVERY__ALLOW_PRIVATE_NETWORKS", "true"),
            // One line for every request would measure the terminal.
            ("SIGNALBOX_TELEMETRY__LOG_FILTER", "warn"),
            ("SIGNALBOX_HEALING__ENABLED", "false"),
            ("SIGNALBOX_RESOURCES__RELIST_S", "0"),
        ]);
        for provider in sim::PROVIDERS {
            // Nobody is asked anything: the providers are not part of what is measured.
            let name = format!("SIGNALBOX_PROVIDERS__{}__API_URL", provider.slug.to_uppercase());
            command.env(name, "http://127.0.0.1:9");
        }
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.stderr(log);
        let server = Server::spawn(command).with_context(|| self.last_words())?;
        let mut client = Client::new(server.address);
        while began.elapsed() < Duration::from_mins(2) {
            match client.send("GET", "/readyz", &[], bytes_of("")).await {
                Ok(answer) if answer.status == 200 => return Ok((server, began.elapsed())),
                _ => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
        bail!("the gateway is not ready after two minutes: {}", self.last_words())
    }

    fn log(&self) -> PathBuf {
        self.directory.join("gateway.log")
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(5).collect();
        format!("the gateway's last words: {}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }
}

fn bytes_of(text: &'static str) -> bytes::Bytes {
    bytes::Bytes::from_static(text.as_bytes())
}

impl Server {
    /// Starts a server that says `listening on http://…` on its standard output.
    pub fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("cannot start {name}"))?;
        let mut lines = BufReader::new(child.stdout.take().context("no pipe")?).lines();
        let address = loop {
            let Some(line) = lines.next().transpose()? else { bail!("{name} ended before it listened") };
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
    pub async fn stop(mut self, how: Ending) -> anyhow::Result<()> {
        match how {
            Ending::Kill => self.child.kill()?,
            Ending::Term => {
                Command::new("kill").arg(self.pid().to_string()).status().context("no `kill`")?;
            }
        }
        let end = Instant::now() + Duration::from_mins(1);
        while self.child.try_wait()?.is_none() {
            if Instant::now() > end {
                bail!("the gateway does not stop");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}
