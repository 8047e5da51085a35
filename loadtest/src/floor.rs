//! Floors: servers that do a part of the work and nothing else, to see what the rest costs.
//!
//! **Owns** three: one reads the body and answers; one verifies GitHub's signature too; one appends the body to a file
//! and answers when it is on disk, all that wait sharing one `fdatasync`.
//!
//! **Invariants.** They run in a process of their own, like the gateway, so that CPU is counted alike.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Context;
use clap::ValueEnum;
use serde::Deserialize;
use signalbox::{crypto::hmac::hmac_sha256, sim::github};
use tokio::sync::oneshot;

use crate::gateway::Server;

/// How much a floor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FloorKind {
    /// Reads the body.
    Bare,
    /// And verifies its signature.
    Hmac,
    /// And has it on disk.
    Append,
}

impl FloorKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Hmac => "hmac",
            Self::Append => "append",
        }
    }

    /// Starts it as a child process that appends to a file in `directory`.
    pub fn start(self, directory: &Path) -> anyhow::Result<Server> {
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.arg("floor-server").arg(self.name()).arg(directory.join("floor.log"));
        Server::spawn(command)
    }
}

type Waiting = (web::Bytes, oneshot::Sender<bool>);

#[derive(Debug, Clone)]
struct Floor {
    kind: FloorKind,
    writer: Option<mpsc::Sender<Waiting>>,
}

/// Serves until killed.
pub fn serve(kind: FloorKind, file: &Path) -> anyhow::Result<()> {
    let writer = if kind == FloorKind::Append {
        let (sender, waiting) = mpsc::channel();
        let file = PathBuf::from(file);
        std::thread::spawn(move || append(&file, &waiting));
        Some(sender)
    } else {
        None
    };
    let floor = Floor { kind, writer };
    actix_web::rt::System::new().block_on(async move {
        let floor = Arc::new(floor);
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::PayloadConfig::new(32 << 20))
                .app_data(web::Data::from(Arc::clone(&floor)))
                .default_service(web::to(answer))
        })
        .bind(("127.0.0.1", 0))
        .context("no port")?;
        let address = *server.addrs().first().context("no address")?;
        println!("listening on http://{address}");
        server.run().await.context("the floor ended")
    })
}

async fn answer(request: HttpRequest, body: web::Bytes, floor: web::Data<Floor>) -> HttpResponse {
    if floor.kind != FloorKind::Bare {
        let sent = request.headers().get("x-hub-signature-256").and_then(|value| value.to_str().ok());
        if !sent.is_some_and(|sent| is_genuine(sent, &body)) {
            return HttpResponse::Unauthorized().json("invalid_signature");
        }
    }
    if let Some(writer) = &floor.writer {
        let (done, on_disk) = oneshot::channel();
        if writer.send((body, done)).is_err() || !on_disk.await.unwrap_or(false) {
            return HttpResponse::ServiceUnavailable().finish();
        }
    }
    HttpResponse::Ok().json(serde_json::json!({"status": "accepted"}))
}

/// As the gateway compares: the MAC's bytes, not its spelling.
fn is_genuine(sent: &str, body: &[u8]) -> bool {
    let mac = hmac_sha256(github::PROVIDER.secret.as_bytes(), &[body]);
    let digits = sent.strip_prefix("sha256=").unwrap_or_default();
    let pairs = digits.as_bytes().chunks_exact(2);
    pairs.len() == mac.len()
        && pairs.zip(mac).fold(0_u8, |different, (pair, byte)| {
            let digit = |at: usize| pair.get(at).and_then(|digit| (*digit as char).to_digit(16)).unwrap_or(255);
            different | (u8::try_from(digit(0) * 16 + digit(1)).unwrap_or(!byte) ^ byte)
        }) == 0
}

/// Writes what waits, as much as there is, and tells everybody when it is on disk. The next batch closes when this one
/// is done.
fn append(path: &Path, waiting: &mpsc::Receiver<Waiting>) {
    let Ok(mut file) = File::options().create(true).append(true).open(path) else { return };
    let mut buffer = Vec::new();
    while let Ok(first) = waiting.recv() {
        let mut told = Vec::new();
        buffer.clear();
        for (body, done) in std::iter::once(first).chain(waiting.try_iter()) {
            buffer.extend_from_slice(&(body.len() as u64).to_le_bytes());
            buffer.extend_from_slice(&body);
            told.push(done);
        }
        let is_on_disk = file.write_all(&buffer).and_then(|()| file.sync_data()).is_ok();
        for done in told {
            // Whoever does not wait any more needs no answer.
            done.send(is_on_disk).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_signature_and_no_other_is_genuine() {
        let signature = github::PROVIDER.signing.signature(b"{}", github::PROVIDER.secret.as_bytes());
        assert!(is_genuine(&signature, b"{}"));
        assert!(!is_genuine(&signature, b"{ }"));
        assert!(!is_genuine(&signature[..signature.len() - 2], b"{}"));
        assert!(!is_genuine(&signature.replace('a', "z"), b"{}"));
        assert!(!is_genuine("", b"{}"));
    }

    #[test]
    fn everybody_who_waits_is_told_once_the_bytes_are_in_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("floor.log");
        let (sender, waiting) = mpsc::channel();
        let told: Vec<_> = (0..3)
            .map(|_| {
                let (done, on_disk) = oneshot::channel();
                sender.send((web::Bytes::from_static(b"hello"), done)).expect("a writer");
                on_disk
            })
            .collect();
        drop(sender);
        append(&path, &waiting);
        for on_disk in told {
            assert_eq!(on_disk.blocking_recv(), Ok(true));
        }
        assert_eq!(std::fs::metadata(&path).expect("a file").len(), 3 * 13);
    }
}
