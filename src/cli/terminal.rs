//! Lines for people: standard output, in colour only on a terminal.

use std::io::{self, IsTerminal, Write};

pub(super) const GREEN: &str = "32";
pub(super) const YELLOW: &str = "33";
pub(super) const RED: &str = "31";
pub(super) const DIM: &str = "2";
pub(super) const BOLD: &str = "1";

/// Standard output, and whether it shows colours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terminal {
    colours: bool,
}

impl Terminal {
    /// In colour if standard output is a terminal.
    pub fn on_stdout() -> Self {
        Self { colours: io::stdout().is_terminal() }
    }

    /// The text in that colour.
    pub fn paint(self, colour: &str, text: &str) -> String {
        if self.colours && !text.is_empty() { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Writes a line. A closed pipe (`signalbox demo | head`) is no reason to stop.
    pub fn line(text: &str) {
        if let Err(error) = writeln!(io::stdout(), "{text}") {
            tracing::debug!(%error, "nobody reads standard output");
        }
    }
}
