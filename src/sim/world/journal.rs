//! What reached a simulated provider, in order, so that tests can say "and no other call was made".
//!
//! **Invariants.** A call is entered before it is acted on. Everything in here is invented: headers and bodies are kept
//! whole.

use serde_json::{Value, json};

use super::{
    call::{Call, Credentials, Surface},
    faults::call_matches,
};
use crate::model::clock::EpochMs;

/// One call, and what became of it.
#[derive(Debug, Clone)]
pub struct JournalEntry {
    /// Its position, from 0.
    pub number: usize,
    /// When it came, by the provider's clock.
    pub at: EpochMs,
    /// The call.
    pub call: Call,
    /// As whom it was accepted (`app`, `installation`, `user`, `client`, …); `None` if it was not, or needed nothing.
    pub accepted_as: Option<&'static str>,
    /// The status it was answered with; `None` while it is not answered, and for ever if it never is.
    pub answered: Option<u16>,
    /// The fault that befell it.
    pub fault: Option<&'static str>,
}

impl JournalEntry {
    /// Whether it is one of the calls a pattern names (`GET /app/installations/*`).
    pub fn is(&self, calls: &str) -> bool {
        call_matches(calls, &self.call.method, &self.call.path)
    }

    /// For people and for other processes.
    pub fn to_json(&self) -> Value {
        let headers: Vec<Value> =
            self.call.headers.iter().map(|(name, value)| json!([name, String::from_utf8_lossy(value)])).collect();
        let auth = match self.call.credentials() {
            Credentials::None => "none",
            Credentials::Bearer(_) => "bearer",
            Credentials::Basic(..) => "basic",
            Credentials::Unreadable => "unreadable",
        };
        json!({"number": self.number, "at": self.at.to_rfc3339(), "method": self.call.method, "path": self.call.path,
            "surface": match self.call.surface { Surface::Web => "web", Surface::Api => "api" },
            "query": self.call.query, "headers": headers, "body": String::from_utf8_lossy(&self.call.body),
            "auth": auth, "acceptedAs": self.accepted_as, "answered": self.answered, "fault": self.fault})
    }
}
