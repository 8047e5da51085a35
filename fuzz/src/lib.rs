//! The fuzz targets: each takes bytes nobody chose and fails loudly if a promise about them is broken
//! (`docs/promises.md`, H1).
//!
//! **Owns** what is tried and what must hold. **Invariants**: a target is a pure function of its bytes, through the
//! public API alone, and fast enough for ten million runs; it panics for a finding and for nothing else. The same file
//! is compiled twice: here for libFuzzer, and by `tests/fuzz` of the gateway, which replays and mutates in CI. **Must not
//! know** who calls it.

mod config;
mod destination;
mod envelope;
mod extract;
mod headers;
mod plan;
mod requests;
mod secrets;
mod times;
mod verify;
mod webhook;

// Each under its target's name: a binary that enters one of them has nothing of the others, and libFuzzer looks through
// every counter of a binary after every run.
pub use self::{
    config::run as config,
    destination::run as destination,
    envelope::run as envelope,
    extract::{
        form, github as extract_github, linear as extract_linear, sentry as extract_sentry, vercel as extract_vercel,
    },
    headers::run as headers,
    plan::run as plan,
    requests::run as requests,
    secrets::run as secrets,
    times::run as times,
    verify::run as verify,
};

/// A target: its name, and what it does with bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: of its binary, its seeds and its regressions.
    pub name: &'static str,
    /// Panics if the bytes break a promise.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: [Target; 15] = [
    Target { name: "verify", run: verify },
    Target { name: "extract_github", run: extract_github },
    Target { name: "extract_vercel", run: extract_vercel },
    Target { name: "extract_linear", run: extract_linear },
    Target { name: "extract_sentry", run: extract_sentry },
    Target { name: "form", run: form },
    Target { name: "envelope", run: envelope },
    Target { name: "headers", run: headers },
    Target { name: "config", run: config },
    Target { name: "destination", run: destination },
    Target { name: "plan", run: plan },
    Target { name: "secrets", run: secrets },
    Target { name: "times", run: times },
    Target { name: "yaml", run: yaml },
    Target { name: "requests", run: requests },
];

/// The target of that name.
///
/// # Panics
/// If there is none.
pub fn find(name: &str) -> Target {
    TARGETS.into_iter().find(|target| target.name == name).expect("a target of that name")
}

/// A repository's config file is read with this parser and nothing is built of it (`actors/config_files.rs`, which is
/// not reachable without a provider's answer): it ends, whatever the file.
pub fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let events = saphyr_parser::Parser::new_from_str(text).take_while(Result::is_ok).count();
    // Every event is of at least a byte, but for the ends of what is open and the empty values between.
    assert!(events <= 8 * text.len() + 16, "{events} events of {} bytes", text.len());
}
