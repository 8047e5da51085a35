//! Small pieces of pages, for templates to call: times, badges, ids. Everything put into them is escaped.
//!
//! Askama hands over references, whatever is written in the template.

use std::fmt::{self, Write as _};

use askama::filters::HtmlSafe;

use crate::{
    model::{clock::EpochMs, words},
    routes::escaped,
};

/// Markup that is safe as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Markup(String);

impl fmt::Display for Markup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HtmlSafe for Markup {}

/// A time: how long ago, with the time itself behind it.
pub fn time(at: &EpochMs, now: &EpochMs) -> Markup {
    let exact = at.to_rfc3339();
    let shown = exact.replace('T', " ").replace('Z', " UTC");
    Markup(format!("<time datetime=\"{exact}\" title=\"{shown}\">{}</time>", relative(*at, *now)))
}

/// The time of day of a column of a chart, in UTC as the filters of lists are.
pub fn clock(at: &EpochMs) -> Markup {
    let exact = at.to_rfc3339();
    let hour = exact.get(11..16).unwrap_or_default();
    Markup(format!("<time datetime=\"{exact}\" data-clock>{hour} UTC</time>"))
}

/// A time, or `never`.
pub fn maybe_time(at: &Option<EpochMs>, now: &EpochMs) -> Markup {
    at.as_ref().map_or_else(|| Markup("<span class=\"dim\">never</span>".to_owned()), |at| time(at, now))
}

/// `3 min ago`, `in 2 h`. The script says the same while the page stays open.
fn relative(at: EpochMs, now: EpochMs) -> String {
    let seconds = (now.0 - at.0) / 1000;
    let (size, unit) = match seconds.unsigned_abs() {
        0..=4 => return "just now".to_owned(),
        size @ 0..=59 => (size, "s"),
        size @ 60..=3599 => (size / 60, "min"),
        size @ 3600..=86_399 => (size / 3600, "h"),
        size => (size / 86_400, "d"),
    };
    if seconds > 0 { format!("{size} {unit} ago") } else { format!("in {size} {unit}") }
}

/// A state's word, coloured by what it means.
pub fn badge(word: impl fmt::Display) -> Markup {
    let word = word.to_string();
    let tone = match word.as_str() {
        "ok" | "active" | "delivered" | "routed" | "completed" | "enabled" | "accepted" | "connected" | "done" => {
            "good"
        }
        "pending" | "held" | "degraded" | "silent" | "needs_reauth" | "paused" | "unrouted" | "running" | "warning" => {
            "warn"
        }
        "dead" | "revoked" | "failed" | "error" | "suspended" | "disabled" | "gave_up" | "invalid_signature"
        | "stale_timestamp" | "invalid_payload" | "handling_panicked" | "failing" | "mistake" => "bad",
        _ => "plain",
    };
    Markup(format!("<span class=\"badge {tone}\">{}</span>", escaped(&word)))
}

/// What a word says that stands for a state's reason; a word that is not ours is shown as it is.
pub fn reason(word: impl fmt::Display) -> String {
    let word = word.to_string();
    words::STATUS_REASONS.says(&word).map_or(word, str::to_owned)
}

/// What happened, in the words of the log: a sentence without its full stop.
pub fn action(word: impl fmt::Display) -> String {
    let word = word.to_string();
    words::ACTIONS.says(&word).map_or_else(|| word.clone(), |says| says.trim_end_matches('.').to_owned())
}

/// Why nothing is sent to a destination any more.
pub fn disabled(word: impl fmt::Display) -> String {
    let word = word.to_string();
    words::DISABLED_REASONS.says(&word).map_or(word, str::to_owned)
}

/// An id, with a button that copies it.
pub fn id(id: impl fmt::Display) -> Markup {
    let id = escaped(&id.to_string());
    Markup(format!(
        "<span class=\"id\"><code>{id}</code><button type=\"button\" class=\"copy\" data-copy=\"{id}\" \
         aria-label=\"Copy {id}\" hidden></button></span>"
    ))
}

/// What people call a thing, with its id behind the name; a link if it has a page.
pub fn named(id: &str, name: &str, address: &str) -> Markup {
    let (id, name, address) = (escaped(id), escaped(name), escaped(address));
    Markup(if address.is_empty() {
        format!("<span title=\"{id}\">{name}</span>")
    } else {
        format!("<a href=\"{address}\" title=\"{id}\">{name}</a>")
    })
}

/// A provider: its initial and its name.
pub fn provider(name: impl fmt::Display) -> Markup {
    let name = name.to_string();
    let initial: String = name.chars().take(1).flat_map(char::to_uppercase).collect();
    Markup(format!(
        "<span class=\"provider\"><span class=\"initial\" aria-hidden=\"true\">{}</span>{}</span>",
        escaped(&initial),
        escaped(&name)
    ))
}

/// A number with its thousands apart.
pub fn count(number: impl fmt::Display) -> Markup {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    Markup(grouped)
}

/// A duration in milliseconds, as people say it.
pub fn duration(ms: &u64) -> Markup {
    let mut text = String::new();
    let written = match *ms {
        0..1000 => write!(text, "{ms} ms"),
        1000..60_000 => write!(text, "{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => write!(text, "{} min", ms / 60_000),
        3_600_000..86_400_000 => write!(text, "{} h", ms / 3_600_000),
        _ => write!(text, "{} d", ms / 86_400_000),
    };
    debug_assert!(written.is_ok(), "writing to a String cannot fail");
    Markup(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_put_into_a_piece_becomes_markup() {
        let evil = "\"'><script>";
        for piece in [badge(evil), id(evil), provider(evil), named(evil, evil, evil)] {
            assert!(!piece.to_string().contains("<script") && !piece.to_string().contains("\"'>"), "{piece}");
        }
    }

    #[test]
    fn times_are_relative_and_say_exactly_when_behind_it() {
        let now = EpochMs(1_771_980_000_000);
        let shown = |ms: i64| relative(EpochMs(now.0 - ms), now);
        for (ms, text) in [
            (0, "just now"),
            (-4_000, "just now"),
            (59_000, "59 s ago"),
            (60_000, "1 min ago"),
            (7_200_000, "2 h ago"),
            (86_400_000 * 40, "40 d ago"),
            (-3_600_000, "in 1 h"),
        ] {
            assert_eq!(shown(ms), text);
        }
        let html = time(&now, &now).to_string();
        assert!(html.contains("title=\"2026-02-25 00:40:00.000 UTC\""), "{html}");
    }

    #[test]
    fn numbers_and_durations_are_readable() {
        assert_eq!(count(1_234_567).to_string(), "1\u{202f}234\u{202f}567");
        assert_eq!(count(12).to_string(), "12");
        for (ms, text) in [(12, "12 ms"), (1_250, "1.2 s"), (61_000, "1 min"), (7_200_000, "2 h"), (172_800_000, "2 d")]
        {
            assert_eq!(duration(&ms).to_string(), text);
        }
    }
}
