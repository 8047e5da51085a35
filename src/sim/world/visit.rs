//! What the person in front of the provider's page does.
//!
//! **Owns** the choices a simulated page offers, by script or by click. **Invariants.** The same three ways lead to the
//! same choice: the simulator's `visit` knob, the browser's `x-sim-visit` header, a click on the interactive page.

use serde::{Deserialize, Serialize};

use super::call::{Answer, Call, escape, with_query};

/// The header with which a scripted browser says what its person does: [`Visit`] as JSON.
pub const VISIT_HEADER: &str = "x-sim-visit";
/// What a click on an interactive page adds to the URL.
const CLICK: &str = "sim_visit";

/// What the person does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// Agrees.
    #[default]
    Approve,
    /// Says no, where the page has such a button.
    Deny,
    /// Closes the window: nothing comes back.
    Close,
    /// Asks the owner (GitHub, a member without rights).
    Request,
}

/// One visit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Visit {
    /// What the person does.
    pub choice: Choice,
    /// Which invented account, workspace or organisation the person picks.
    pub account: u32,
    /// Whether the person picks their own account instead of a team or organisation.
    pub personal: bool,
    /// Which person it is, from 1.
    pub person: u32,
    /// The state does not come back: the visit began in the provider's directory, or an owner approved.
    pub forget_state: bool,
    /// An id to report in the callback instead of the true one: a spoof.
    pub report_id: Option<String>,
    /// `setup_action` (GitHub) or `source` (Vercel) instead of the usual one.
    pub report_action: Option<String>,
    /// The page waits for a click instead of answering by itself.
    pub interactive: bool,
}

impl Default for Visit {
    fn default() -> Self {
        Self {
            choice: Choice::Approve,
            account: 1,
            personal: false,
            person: 1,
            forget_state: false,
            report_id: None,
            report_action: None,
            interactive: false,
        }
    }
}

impl Visit {
    /// A visit that agrees, for that account.
    pub fn of_account(account: u32) -> Self {
        Self { account, ..Self::default() }
    }

    /// The same with another choice.
    #[must_use]
    pub fn choosing(mut self, choice: Choice) -> Self {
        self.choice = choice;
        self
    }

    /// The same by another person.
    #[must_use]
    pub fn by_person(mut self, person: u32) -> Self {
        self.person = person;
        self
    }

    /// As the value of [`VISIT_HEADER`].
    pub fn to_header(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What the person does on this call: as clicked, else as the browser says, else as the knob has it. `Err` is the
    /// page that waits for a click.
    pub(in crate::sim) fn on(&self, call: &Call, title: &str, offers: &[Choice]) -> Result<Self, Answer> {
        if let Some(clicked) = call.parameter(CLICK) {
            return Ok(read(clicked).unwrap_or_default());
        }
        if let Some(scripted) = call.headers.get(VISIT_HEADER).and_then(read) {
            return Ok(scripted);
        }
        if self.interactive || call.parameter("interactive") == Some("1") {
            return Err(self.page(call, title, offers));
        }
        Ok(self.clone())
    }

    fn page(&self, call: &Call, title: &str, offers: &[Choice]) -> Answer {
        let mut html = String::from("<p>A simulated page: nothing leaves this machine. Choose what happens.</p>");
        let query: Vec<(&str, &str)> = call.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let accounts = [(self.account, false), (self.account + 1, false), (self.account, true)];
        for choice in offers {
            let word = match choice {
                Choice::Approve => "Approve for",
                Choice::Deny => "Cancel",
                Choice::Close => "Close the window",
                Choice::Request => "Ask the owner of",
            };
            let names_account = matches!(choice, Choice::Approve | Choice::Request);
            for (account, personal) in accounts.into_iter().take(if names_account { 3 } else { 1 }) {
                let clicked =
                    Self { choice: *choice, account, personal, interactive: false, ..self.clone() }.to_header();
                let url = with_query(&call.path, query.iter().copied().chain([(CLICK, clicked.as_str())]));
                let whose = match (names_account, personal) {
                    (false, _) => String::new(),
                    (true, false) => format!(" harborworks-{account}"),
                    (true, true) => " your own account".to_owned(),
                };
                let (url, shown) = (escape(&url), escape(&format!("{word}{whose}")));
                html.extend(["<a class=\"choice\" href=\"", &url, "\">", &shown, "</a>"]);
            }
        }
        Answer::page(200, title, &html)
    }
}

fn read(text: &str) -> Option<Visit> {
    serde_json::from_str(text).ok()
}
