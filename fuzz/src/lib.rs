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
    Target { name: "verify", run: verify::run },
    Target { name: "extract_github", run: extract::github },
    Target { name: "extract_vercel", run: extract::vercel },
    Target { name: "extract_linear", run: extract::linear },
    Target { name: "extract_sentry", run: extract::sentry },
    Target { name: "form", run: extract::form },
    Target { name: "envelope", run: envelope::run },
    Target { name: "headers", run: headers::run },
    Target { name: "config", run: config::run },
    Target { name: "destination", run: destination::run },
    Target { name: "plan", run: plan::run },
    Target { name: "secrets", run: secrets::run },
    Target { name: "times", run: times::run },
    Target { name: "yaml", run: yaml },
    Target { name: "requests", run: requests::run },
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
fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let events = saphyr_parser::Parser::new_from_str(text).take_while(Result::is_ok).count();
    // Every event is of at least a byte, but for the ends of what is open and the empty values between.
    assert!(events <= 8 * text.len() + 16, "{events} events of {} bytes", text.len());
}
