//! What can go wrong with a simulated provider, on purpose.
//!
//! **Invariants.** A rule names calls by method and path pattern and is spent after its number of times; rules are
//! tried in the order they were set. A fault before the provider acts changes nothing there; one after it does.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One way to fail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fault")]
pub enum Fault {
    /// Answers this instead of acting: 5xx, 401, 403, 404, 429 with `retry-after`.
    Status {
        /// The status.
        status: u16,
        /// Headers.
        #[serde(default)]
        headers: Vec<(String, String)>,
        /// A JSON body.
        #[serde(default)]
        body: Value,
    },
    /// Waits, then acts and answers as usual.
    Delay {
        /// How long, milliseconds.
        ms: u64,
    },
    /// Never answers and never acts.
    Hang,
    /// Closes the connection without acting.
    Cut,
    /// Acts, then closes the connection: the answer is lost.
    LoseAnswer,
    /// Acts, then never answers.
    HangAfter,
    /// Acts, then answers half of its JSON.
    Malformed,
    /// Acts, then answers with JSON members (by their top-level name) left out.
    Without {
        /// Which.
        members: Vec<String>,
    },
    /// Acts, then answers with JSON members added or replaced.
    With {
        /// Which.
        members: Map<String, Value>,
    },
    /// Acts, then answers byte by byte.
    Drip {
        /// The pause between bytes, milliseconds.
        ms: u64,
    },
}

impl Fault {
    /// An answer without further ado.
    pub fn status(status: u16) -> Self {
        Self::Status { status, headers: Vec::new(), body: Value::Null }
    }

    /// 429 that says when to come back.
    pub fn too_many_requests(retry_after_s: u64) -> Self {
        let headers = vec![("retry-after".to_owned(), retry_after_s.to_string())];
        Self::Status { status: 429, headers, body: Value::Null }
    }

    /// Its name in the journal.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::Delay { .. } => "delay",
            Self::Hang => "hang",
            Self::Cut => "cut",
            Self::LoseAnswer => "lose_answer",
            Self::HangAfter => "hang_after",
            Self::Malformed => "malformed",
            Self::Without { .. } => "without",
            Self::With { .. } => "with",
            Self::Drip { .. } => "drip",
        }
    }
}

/// A fault and the calls it befalls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultRule {
    /// `POST /oauth/token`: a method (or `*`) and a path below the surface's base, where `*` stands for one segment and
    /// a last `**` for any number.
    pub calls: String,
    /// How many matching calls pass first.
    #[serde(default)]
    pub skip: u32,
    /// How many are befallen after that; for ever if absent.
    #[serde(default)]
    pub times: Option<u32>,
    /// What befalls them.
    #[serde(flatten)]
    pub fault: Fault,
}

impl FaultRule {
    /// For ever.
    pub fn always(calls: &str, fault: Fault) -> Self {
        Self { calls: calls.to_owned(), skip: 0, times: None, fault }
    }

    /// A number of times.
    pub fn times(calls: &str, times: u32, fault: Fault) -> Self {
        Self { calls: calls.to_owned(), skip: 0, times: Some(times), fault }
    }

    /// The next time only.
    pub fn once(calls: &str, fault: Fault) -> Self {
        Self::times(calls, 1, fault)
    }

    /// The same, but so many matching calls pass first.
    #[must_use]
    pub fn after(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        call_matches(&self.calls, method, path)
    }
}

/// Whether a pattern (`GET /app/installations/*`) names a call.
pub fn call_matches(pattern: &str, method: &str, path: &str) -> bool {
    let Some((wanted, pattern)) = pattern.split_once(' ') else { return false };
    if wanted != "*" && !wanted.eq_ignore_ascii_case(method) {
        return false;
    }
    let mut segments = path.split('/');
    let mut patterns = pattern.split('/');
    loop {
        match (patterns.next(), segments.next()) {
            (None, None) | (Some("**"), _) => return true,
            (Some(pattern), Some(segment)) if pattern == "*" || pattern == segment => {}
            _ => return false,
        }
    }
}

/// The rules in force.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<FaultRule>);

impl Faults {
    /// Adds a rule.
    pub fn add(&mut self, rule: FaultRule) {
        self.0.push(rule);
    }

    /// Ends every rule.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The rules, with what is left of them.
    pub fn rules(&self) -> &[FaultRule] {
        &self.0
    }

    /// What befalls this call; spends the rule.
    pub fn strike(&mut self, method: &str, path: &str) -> Option<Fault> {
        for rule in &mut self.0 {
            if !rule.matches(method, path) || rule.times == Some(0) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if let Some(times) = &mut rule.times {
                *times -= 1;
            }
            return Some(rule.fault.clone());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_methods_and_segments() {
        for (pattern, method, path, expected) in [
            ("GET /app", "GET", "/app", true),
            ("GET /app", "POST", "/app", false),
            ("* /app/installations/*", "DELETE", "/app/installations/7", true),
            ("GET /app/*", "GET", "/app/installations/7", false),
            ("GET /app/**", "GET", "/app/installations/7", true),
            ("GET /app/", "GET", "/app", false),
            ("no pattern", "GET", "/app", false),
        ] {
            assert_eq!(call_matches(pattern, method, path), expected, "{pattern}: {method} {path}");
        }
    }

    #[test]
    fn a_rule_lets_some_pass_befalls_some_and_is_spent() {
        let mut faults = Faults::default();
        faults.add(FaultRule::times("GET /a", 2, Fault::status(500)).after(1));
        let struck: Vec<bool> = (0..5).map(|_| faults.strike("GET", "/a").is_some()).collect();
        assert_eq!(struck, [false, true, true, false, false]);
    }

    #[test]
    fn a_rule_is_written_in_json_as_it_is_read() {
        let rule: FaultRule = serde_json::from_str(
            r#"{"calls":"POST /oauth/token","times":1,"fault":"status","status":429,"headers":[["retry-after","3"]]}"#,
        )
        .expect("a rule");
        assert_eq!(rule, FaultRule::once("POST /oauth/token", Fault::too_many_requests(3)));
    }
}
