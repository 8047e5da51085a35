//! The house rules that a compiler cannot check within one crate: who may import whom, which crate stays in which room,
//! how large a file may grow, what it may be called. To add an arrow, edit a table here, in review.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use signalbox::{model::words, providers::Registry};

/// Rooms, and the rooms each may name. `app`, `cli` and `main` wire everything together and may name every one.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("config", &["model"]),
    ("crypto", &["model"]),
    ("telemetry", &["model"]),
    ("store", &["model"]),
    ("cache", &["model"]),
    ("shutdown", &[]),
    ("vault", &["model", "crypto", "store"]),
    ("providers", &["model", "crypto"]),
    ("delivery", &["model", "crypto", "store", "telemetry"]),
    ("actors", &["model", "crypto", "providers", "store", "cache", "delivery", "vault", "telemetry", "config"]),
    ("doctor", &["model", "config", "crypto", "delivery", "providers", "store", "vault"]),
    ("routes", &["model", "crypto", "providers", "store", "actors", "config", "doctor", "telemetry"]),
    ("console", &["model", "providers", "store", "actors", "config", "doctor", "telemetry", "routes"]),
    ("sim", &["model", "crypto"]),
    ("app", ANY),
    ("cli", ANY),
    ("main", ANY),
    ("lib", ANY),
];
const ANY: &[&str] = &["*"];

/// Crates, and the rooms (or files) that may name them. `app`, `cli` and `main` may name every one.
const CRATES: &[(&str, &[&str])] = &[
    ("actix", &["actors"]),
    ("actix_web", &["routes", "console"]),
    ("sqlx", &["store"]),
    ("askama", &["console"]),
    ("utoipa", &["routes"]),
    ("moka", &["cache"]),
    ("oauth2", &["providers"]),
    ("hmac", &["crypto"]),
    ("aes_gcm", &["crypto"]),
    ("jsonwebtoken", &["crypto"]),
    ("dashmap", &["actors"]),
    ("reqwest", &["providers/http.rs", "delivery/client.rs"]),
    ("prometheus_client", &["telemetry"]),
    ("hyper", &["sim", "telemetry/traces/collector.rs"]),
    ("hyper_util", &["sim", "telemetry/traces/collector.rs"]),
    ("hyper_rustls", &["telemetry/traces/collector.rs"]),
    ("rustls_platform_verifier", &["telemetry/traces/collector.rs"]),
    ("clap", &[]),
    ("anyhow", &[]),
];
const WIRING: &[&str] = &["app", "cli", "main"];

/// Lines of code a file may have: no comments, no blank lines, no tests.
const MAX_CODE_LINES: usize = 450;
/// Names of things without a room.
const BANNED_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "types", "misc"];
/// Where a provider may be named in a string: its own file, the list, the simulators and their demonstration.
const SLUGS_ALLOWED: &[&str] = &["sim/", "cli/demo"];

/// A source file, taken apart.
struct Source {
    /// Below `src`, with `/`.
    path: String,
    /// The code: comments, the insides of strings, and tests are blanked out; line breaks stay.
    code: String,
    /// The string literals outside comments and tests.
    strings: Vec<String>,
    /// The first line.
    first_line: String,
}

impl Source {
    fn parse(path: &str, text: &str) -> Self {
        let (code, strings) = blank_out(text);
        let tests = test_ranges(&code);
        // A file of nothing but tests: `#[cfg(test)] mod tests;` says so where it is declared.
        let is_all_test = path.ends_with("/tests.rs");
        let is_test = |at: usize| is_all_test || tests.iter().any(|(start, end)| (*start..*end).contains(&at));
        let strings = strings.into_iter().filter(|(at, _)| !is_test(*at)).map(|(_, string)| string).collect();
        let code = code.char_indices().map(|(at, char)| if is_test(at) && char != '\n' { ' ' } else { char }).collect();
        let first_line = text.lines().next().unwrap_or_default().to_owned();
        Self { path: path.to_owned(), code, strings, first_line }
    }

    fn room(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// How many modules deep the file is: 1 for `vault.rs` and `store/mod.rs`, 2 for `store/error.rs`.
    fn depth(&self) -> usize {
        self.path.trim_end_matches("/mod.rs").split('/').count()
    }

    /// The rooms it names, by `crate::room` or by climbing out of its own with `super::`.
    fn named_rooms(&self) -> BTreeSet<String> {
        let mut named = BTreeSet::new();
        let root = "super::".repeat(self.depth());
        for path in ["crate::", &root] {
            for (at, _) in self.code.match_indices(path) {
                let starts_a_path = !self.code[..at].ends_with(|c: char| is_word(c) || c == ':');
                if starts_a_path {
                    collect_first_names(&self.code[at + path.len()..], &mut named);
                }
            }
        }
        named
    }

    /// Whether it names a crate.
    fn names_crate(&self, name: &str) -> bool {
        self.code.match_indices(name).any(|(at, _)| {
            let before = &self.code[..at];
            let after = &self.code[at + name.len()..];
            let is_whole = !before.ends_with(is_word) && !after.starts_with(is_word);
            let is_root = !before.ends_with("::") || before.ends_with(" ::");
            let is_used = before.trim_end().ends_with("use") && after.trim_start().starts_with([';', ' ']);
            is_whole && is_root && (after.starts_with("::") || is_used)
        })
    }

    fn code_lines(&self) -> usize {
        self.code.lines().filter(|line| !line.trim().is_empty()).count()
    }

    /// Everything about it that breaks a rule.
    fn offences(&self, slugs: &[&str]) -> Vec<String> {
        let mut offences = Vec::new();
        let room = self.room();
        let own_path = &self.path;
        match ROOMS.iter().find(|(name, _)| *name == room) {
            None => offences.push(format!("{own_path}: the room `{room}` is not in the table")),
            Some((_, allowed)) => {
                for named in self.named_rooms() {
                    let is_room = ROOMS.iter().any(|(name, _)| *name == named);
                    let is_allowed = *allowed == ANY || named == room || allowed.contains(&named.as_str());
                    if is_room && !is_allowed {
                        offences.push(format!("{own_path}: `{room}` may not name `{named}`"));
                    }
                }
            }
        }
        for (name, allowed) in CRATES {
            let is_allowed = WIRING.contains(&room) || allowed.iter().any(|place| *place == room || place == own_path);
            if !is_allowed && self.names_crate(name) {
                offences.push(format!("{own_path}: the crate `{name}` stays in {allowed:?}"));
            }
        }
        if self.code_lines() > MAX_CODE_LINES {
            offences.push(format!("{own_path}: {} lines of code; split it", self.code_lines()));
        }
        if !self.first_line.starts_with("//!") {
            offences.push(format!("{own_path}: does not begin with `//!`"));
        }
        let stem = own_path.trim_end_matches(".rs");
        if let Some(banned) = stem.split('/').find(|part| BANNED_NAMES.contains(part)) {
            offences.push(format!("{own_path}: `{banned}` says nothing; a thing without a room has no reason yet"));
        }
        for slug in slugs {
            let is_own =
                *own_path == format!("providers/{slug}.rs") || own_path.starts_with(&format!("providers/{slug}/"));
            let is_allowed = is_own || SLUGS_ALLOWED.iter().any(|place| own_path.starts_with(place));
            if !is_allowed && self.strings.iter().any(|string| string == slug) {
                offences.push(format!("{own_path}: names the provider \"{slug}\"; only its own file does"));
            }
        }
        offences
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The first name after a path's root, or every first name of a group `{a::b, c}`.
fn collect_first_names(rest: &str, names: &mut BTreeSet<String>) {
    let first_name = |text: &str| text.chars().take_while(|c| is_word(*c)).collect::<String>();
    let Some(group) = rest.strip_prefix('{') else {
        names.insert(first_name(rest));
        return;
    };
    let mut depth = 0_usize;
    let mut item = String::new();
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.insert(first_name(item.trim()));
                item.clear();
                continue;
            }
            _ => {}
        }
        item.push(c);
    }
    names.insert(first_name(item.trim()));
}

/// Blanks out comments and the insides of strings and characters; answers the strings with their positions too.
fn blank_out(text: &str) -> (String, Vec<(usize, String)>) {
    let mut code = String::with_capacity(text.len());
    let mut strings = Vec::new();
    let mut at = 0;
    // As many bytes as it takes are blanked, so that positions in the code are positions in the text.
    let blank = |code: &mut String, piece: &str| {
        for c in piece.chars() {
            if c == '\n' {
                code.push('\n');
            } else {
                code.extend(std::iter::repeat_n(' ', c.len_utf8()));
            }
        }
    };
    while at < text.len() {
        let rest = &text[at..];
        let word_before = code.ends_with(is_word);
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment_length(rest)
        } else if let Some((open, close)) = (!word_before).then(|| raw_string_marks(rest)).flatten() {
            let inside = &rest[open..];
            let end = inside.find(&close).unwrap_or(inside.len());
            strings.push((at, inside[..end].to_owned()));
            (open + end + close.len()).min(rest.len())
        } else if rest.starts_with('"') {
            let end = string_length(rest);
            strings.push((at, rest[1..end.saturating_sub(1).max(1)].to_owned()));
            end
        } else if let Some(length) = char_literal_length(rest) {
            length
        } else {
            let c = rest.chars().next().unwrap_or(' ');
            code.push(c);
            at += c.len_utf8();
            continue;
        };
        blank(&mut code, &rest[..length]);
        at += length;
    }
    (code, strings)
}

fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of `r##"` (or `br##"`) and the mark that ends it.
fn raw_string_marks(rest: &str) -> Option<(usize, String)> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..]
        .starts_with('"')
        .then(|| (rest.len() - after.len() + hashes + 1, format!("\"{}", "#".repeat(hashes))))
}

fn string_length(rest: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '"' if !is_escaped => return at + 1,
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    rest.len()
}

/// `'x'`, `'\n'`, `'\u{2026}'`; `None` for a lifetime.
fn char_literal_length(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    if let Some(escaped) = inside.strip_prefix('\\') {
        let skipped = 1 + escaped.chars().next()?.len_utf8();
        return Some(1 + skipped + inside[skipped..].find('\'')? + 1);
    }
    let length = inside.chars().next()?.len_utf8();
    inside[length..].starts_with('\'').then_some(length + 2)
}

/// Where `#[cfg(test)]` items begin and end.
fn test_ranges(code: &str) -> Vec<(usize, usize)> {
    let mut ranges = Vec::new();
    for (start, mark) in code.match_indices("#[cfg(test)]") {
        let mut depth = 0_usize;
        let mut end = code.len();
        for (at, c) in code[start + mark.len()..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && (c == '}' || c == ';') {
                end = start + mark.len() + at + 1;
                break;
            }
        }
        ranges.push((start, end));
    }
    ranges
}

fn sources_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            found.extend(sources_below(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let paths = sources_below(&root);
    assert!(paths.len() > 30, "the sources were not found");
    let parsed = paths.iter().map(|path| {
        let below = path.strip_prefix(&root).expect("below src").to_string_lossy().replace('\\', "/");
        Source::parse(&below, &fs::read_to_string(path).expect("UTF-8"))
    });
    parsed.collect()
}

#[test]
fn the_house_is_in_order() {
    let slugs: Vec<&str> = Registry::built_in().iter().map(|registered| registered.spec.slug.as_str()).collect();
    let offences: Vec<String> = sources().iter().flat_map(|source| source.offences(&slugs)).collect();
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

/// Files whose every plain word is written into a row and says why.
const SAY_WHY: &[&str] = &["delivery/plan.rs", "actors/installation/control.rs", "actors/installation/confirmation.rs"];
/// What stands beside the reasons there.
const SAY_SOMETHING_ELSE: &[&str] = &["snake_case"];

#[test]
fn every_word_that_says_why_is_explained_and_no_other() {
    let sources = sources();
    let is_explained = |word: &str| words::ALL.iter().any(|list| list.says(word).is_some());
    let is_plain =
        |word: &&String| word.contains('_') && word.chars().all(|c| c.is_ascii_lowercase() || "_:".contains(c));
    let subjects: BTreeSet<&str> = words::ACTIONS.list().filter_map(|action| action.split('.').next()).collect();
    let is_action = |word: &&String| {
        word.split_once('.').is_some_and(|(subject, past)| {
            subjects.contains(subject) && !past.is_empty() && past.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        })
    };
    let mut unexplained = BTreeSet::new();
    for source in &sources {
        let says_why = SAY_WHY.contains(&source.path.as_str());
        let plain = source.strings.iter().filter(is_plain).filter(|_| says_why);
        let acts = ["actors", "routes", "cli"].contains(&source.room());
        let actions = source.strings.iter().filter(is_action).filter(|_| acts);
        unexplained.extend(plain.chain(actions).filter(|word| !is_explained(word)));
    }
    unexplained.retain(|word| !SAY_SOMETHING_ELSE.contains(&word.as_str()));
    assert!(unexplained.is_empty(), "src/model/words.rs lacks {unexplained:?}");

    let is_written = |word: &str| {
        let of_a_state = ["installation.", "integration."].iter().find_map(|subject| word.strip_prefix(subject));
        sources
            .iter()
            .filter(|source| source.path != "model/words.rs")
            .any(|source| source.strings.iter().any(|string| string == word || Some(string.as_str()) == of_a_state))
    };
    let stale: Vec<&str> = words::ALL.iter().flat_map(|list| list.list()).filter(|word| !is_written(word)).collect();
    assert!(stale.is_empty(), "src/model/words.rs explains what nobody writes: {stale:?}");
}

/// A check that finds nothing may be blind: each rule must see its own offence, and nothing where there is none.
#[test]
fn each_rule_sees_its_offence_and_nothing_else() {
    let offences = |path: &str, text: &str| Source::parse(path, &format!("//! Doc.\n{text}")).offences(&["acme"]);
    for (path, text, word) in [
        ("store/error.rs", "use crate::actors::Handle;", "may not name `actors`"),
        ("store/error.rs", "use crate::{\n    model::ids::OrgId,\n    config::{A, B},\n};", "may not name `config`"),
        ("store/error.rs", "fn f() -> crate::routes::Problem {}", "may not name `routes`"),
        ("store/queries/events.rs", "use super::super::super::vault::Vault;", "may not name `vault`"),
        ("vault.rs", "use super::{crypto, routes};", "may not name `routes`"),
        ("kitchen/mod.rs", "", "not in the table"),
        ("store/mod.rs", "use actix::Addr;", "the crate `actix`"),
        ("routes/mod.rs", "#[derive(actix::Message)]\nstruct M;", "the crate `actix`"),
        ("actors/mod.rs", "fn f(_: ::sqlx::Pool) {}", "the crate `sqlx`"),
        ("delivery/plan.rs", "use reqwest::Client;", "the crate `reqwest`"),
        ("routes/utils.rs", "", "`utils` says nothing"),
        ("routes/mod.rs", "fn f(slug: &str) -> bool { slug == \"acme\" }", "names the provider"),
        ("providers/other.rs", "const S: &str = r#\"acme\"#;", "names the provider"),
        ("store/mod.rs", &"fn f() {}\n".repeat(MAX_CODE_LINES + 1), "lines of code"),
    ] {
        let found = offences(path, text);
        assert!(found.len() == 1 && found[0].contains(word), "{path}: {text}\n{found:?}");
    }
    assert_eq!(Source::parse("store/mod.rs", "// no doc\n").offences(&[]).len(), 1);
    for (path, text) in [
        ("store/error.rs", "use crate::{model::ids::OrgId, store::Page};\nuse super::Store;"),
        ("store/error.rs", "// use crate::actors::Handle;\n/* crate::routes /* nested */ crate::cli */"),
        ("store/error.rs", "const TEXT: &str = \"use crate::actors; \\\" sqlx::query\";"),
        (
            "store/error.rs",
            "const QUOTE: char = '\"'; fn f<'a>(_: &'a str) {}\n#[cfg(test)]\nmod tests { use crate::actors; }",
        ),
        ("routes/mod.rs", "use actix_web::web; use my::actix::x;"),
        ("actors/mod.rs", "use actix::prelude::*; use actix_rt::x;"),
        ("delivery/client.rs", "use reqwest::Client;"),
        ("providers/acme.rs", "const SLUG: &str = \"acme\";"),
        ("sim/acme.rs", "const SLUG: &str = \"acme\";"),
        ("routes/mod.rs", "const DOC: &str = \"such as acme\"; // \"acme\""),
        ("app.rs", "use actix::System; use crate::{actors, routes, store};"),
    ] {
        assert_eq!(offences(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}
