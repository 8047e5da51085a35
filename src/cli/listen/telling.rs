//! What `listen` prints: one line for each delivery on standard output, notes about the way on standard error.

use std::time::Duration;

use super::gateway::{DeliveryShown, EventShown};
use crate::cli::terminal::{BOLD, DIM, GREEN, RED, Terminal, YELLOW};

/// Writes for people.
pub(super) struct Teller {
    terminal: Terminal,
}

impl Teller {
    pub fn on_stdout() -> Self {
        Self { terminal: Terminal::on_stdout() }
    }

    /// What will happen, and the secret that verifies it; one that was given is not repeated.
    pub fn beginning(&self, from: &str, org: Option<&str>, to: &str, generated_secret: Option<&str>) {
        let org = org.map_or_else(|| "the key's org".to_owned(), |org| format!("org {org}"));
        Terminal::line(&format!("following {org} at {from}, forwarding to {}", self.terminal.paint(BOLD, to)));
        let secret = generated_secret.unwrap_or("the one you gave");
        Terminal::line(&format!("signing secret (Standard Webhooks): {}", self.terminal.paint(BOLD, secret)));
    }

    /// A delivery that was answered.
    pub fn answered(&self, event: &EventShown, delivery: &DeliveryShown, status: u16, took: Duration) {
        let colour = if (200..300).contains(&status) { GREEN } else { YELLOW };
        let status = self.terminal.paint(colour, &status.to_string());
        self.delivery(event, delivery, &format!("{status} {:>6.0} ms", took.as_secs_f64() * 1000.0));
    }

    /// A delivery that was not answered.
    pub fn unanswered(&self, event: &EventShown, delivery: &DeliveryShown, why: &str) {
        self.delivery(event, delivery, &self.terminal.paint(RED, why));
    }

    /// An event that nobody gets, and so neither do we.
    pub fn not_delivered(&self, event: &EventShown) {
        let why = event.reason.as_deref().map_or(event.outcome.clone(), |why| format!("{}: {why}", event.outcome));
        let text = format!("{}  {}  not forwarded, it has no delivery ({why})", time(event), name(event));
        Terminal::line(&self.terminal.paint(DIM, &text));
    }

    /// A note about the way.
    pub fn note(text: &str) {
        eprintln!("signalbox: {text}");
    }

    fn delivery(&self, event: &EventShown, delivery: &DeliveryShown, how: &str) {
        let held = if delivery.status == "held" { ", held by the gateway" } else { "" };
        Terminal::line(&format!(
            "{}  {}  {}  {how}  {}",
            self.terminal.paint(DIM, time(event)),
            name(event),
            delivery.id,
            self.terminal.paint(DIM, &format!("{}{held}", delivery.workspace_id)),
        ));
    }
}

/// When the gateway received it: hours, minutes and seconds, UTC.
fn time(event: &EventShown) -> &str {
    event.received_at.get(11..19).unwrap_or(&event.received_at)
}

/// Our name of the event, else the provider's.
fn name(event: &EventShown) -> String {
    let name = event
        .event_key
        .as_ref()
        .map_or_else(|| format!("{} {}", event.provider, event.event_type), |key| key.as_str().to_owned());
    format!("{name:<32}")
}
