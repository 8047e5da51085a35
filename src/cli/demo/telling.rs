//! How the demo speaks: aligned lines, in colour only on a terminal.

use std::time::Duration;

use crate::{
    cli::terminal::{BOLD, DIM, GREEN, RED, Terminal, YELLOW},
    sim::sink::{Received, SignatureVerdict},
};

/// Writes to standard output.
pub(super) struct Teller {
    terminal: Terminal,
}

impl Teller {
    /// In colour if standard output is a terminal.
    pub fn on_stdout() -> Self {
        Self { terminal: Terminal::on_stdout() }
    }

    /// A heading with an empty line above.
    pub fn heading(&self, text: &str) {
        Self::line(&format!("\n{}", self.paint(BOLD, text)));
    }

    /// A name and what there is to say of it.
    pub fn fact(&self, name: &str, text: &str) {
        Self::line(&format!("  {} {text}", self.paint(DIM, &format!("{name:<12}"))));
    }

    /// A provider that was connected, and by which way.
    pub fn connected(&self, provider: &str, connection: &str, way: &str, took: Duration) {
        Self::line(&format!(
            "\n{} {provider:<7} {} {} {}",
            self.paint(BOLD, "connect"),
            self.paint(GREEN, "connected"),
            self.paint(DIM, connection),
            self.paint(DIM, &format!("{:.0} ms", took.as_secs_f64() * 1000.0)),
        ));
        Self::line(&format!("     └▸ {}", self.paint(DIM, way)));
    }

    /// A webhook's answer.
    pub fn webhook(&self, provider: &str, kind: &str, status: u16, word: &str, event_id: &str) {
        let kind = kind.split_once(':').map_or(kind, |(_, kind)| kind);
        let answer = format!("{status} {word}");
        let colour = if status == 200 { GREEN } else { YELLOW };
        Self::line(&format!(
            "\n{} {:<7} {kind:<26} {} {}",
            self.paint(BOLD, "webhook"),
            provider,
            self.paint(colour, &format!("{answer:<20}")),
            self.paint(DIM, event_id),
        ));
    }

    /// A try of a delivery, as the sink saw it.
    pub fn attempt(&self, workspace: &str, received: &Received, after: Duration) {
        let answered = received.answered.unwrap_or(0);
        let (colour, word) = if answered < 300 { (GREEN, "delivered") } else { (YELLOW, "refused, retried") };
        self.branch(
            workspace,
            colour,
            &format!("{answered} {word}"),
            &format!("{}, {:.1} ms, {}", signature_of(received), after.as_secs_f64() * 1000.0, received.webhook_id),
        );
    }

    /// A delivery that the demo did not cause. What is none, such as a browser's look at the sink, is not told.
    pub fn sent_by_hand(&self, received: &Received) {
        if received.webhook_id.is_empty() {
            return;
        }
        let to = received.envelope.as_ref().map_or("", |ids| ids.workspace_id.as_str());
        self.branch(
            to,
            DIM,
            &format!("{} replayed or tested by you", received.answered.unwrap_or(0)),
            &format!("{}, {}", signature_of(received), received.webhook_id),
        );
    }

    /// A workspace that does not get the event, and why.
    pub fn passed_over(&self, workspace: &str, reason: &str) {
        self.branch(workspace, DIM, reason, "");
    }

    /// Something that should not be.
    pub fn wrong(&self, text: &str) {
        Self::line(&format!("{} {text}", self.paint(RED, "wrong:")));
    }

    fn branch(&self, workspace: &str, colour: &str, word: &str, more: &str) {
        let line =
            format!("     └▸ {workspace:<9} {} {}", self.paint(colour, &format!("{word:<26}")), self.paint(DIM, more));
        Self::line(line.trim_end());
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        self.terminal.paint(colour, text)
    }

    fn line(text: &str) {
        Terminal::line(text);
    }
}

fn signature_of(received: &Received) -> &'static str {
    match received.signature {
        SignatureVerdict::Valid => "signature valid",
        SignatureVerdict::Invalid => "signature INVALID",
        SignatureVerdict::NotChecked => "signature not checked",
    }
}
