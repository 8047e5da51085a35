//! JSON as people can read it: the text as it came, with line breaks and indentation.
//!
//! **Invariants**: nothing but the white space between tokens changes: members keep their order and their number, numbers
//! and strings their spelling, whatever a parser would make of them. **Must not know** what the text is about.

use serde_json::value::RawValue;

/// What lies deeper stays on one line: its indentation would soon be longer than itself.
const MAX_DEPTH: usize = 32;

/// The JSON of a text, indented; `None` if it is none.
pub fn indented(text: &[u8]) -> Option<String> {
    let json: &RawValue = serde_json::from_slice(text).ok()?;
    let mut shown = String::with_capacity(text.len() * 2);
    let (mut depth, mut before) = (0_usize, None);
    let (mut is_in_string, mut is_escaped) = (false, false);
    for letter in json.get().chars() {
        if is_in_string {
            shown.push(letter);
            is_in_string = is_escaped || letter != '"';
            is_escaped = letter == '\\' && !is_escaped;
            continue;
        }
        if letter.is_ascii_whitespace() {
            continue;
        }
        let (begins, ends) = (matches!(before, Some('{' | '[')), matches!(letter, '}' | ']'));
        let depth_of_members = depth;
        depth = depth.saturating_sub(usize::from(ends));
        // What is empty stays in one piece.
        if (begins != ends || before == Some(',')) && depth_of_members <= MAX_DEPTH {
            shown.push('\n');
            shown.extend(std::iter::repeat_n("  ", depth));
        }
        shown.push(letter);
        match letter {
            '{' | '[' => depth += 1,
            ':' => shown.push(' '),
            '"' => is_in_string = true,
            _ => {}
        }
        before = Some(letter);
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_indented_as_a_serialiser_would() {
        for text in [
            "1",
            "\"a: [1, {\\\"b\\\\\"",
            "{}",
            " [ ] ",
            "[[],{},[{}]]",
            r#"{"a":[1,-2.5,"x,y"],"b":{"c":null,"d":{"e":[true,[]]}},"f":"{\"g\":[\\]}"}"#,
            "{\n\t\"a\" : [ 1 ,\r\n 2 ] }",
        ] {
            let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(indented(text.as_bytes()), Some(format!("{value:#}")), "{text}");
        }
    }

    #[test]
    fn order_repetition_and_spelling_are_what_was_sent() {
        let text = r#"{"z":12345678901234567890123,"a":1.10,"z":1e400,"\u0061":"\ud800"}"#;
        let shown =
            "{\n  \"z\": 12345678901234567890123,\n  \"a\": 1.10,\n  \"z\": 1e400,\n  \"\\u0061\": \"\\ud800\"\n}";
        assert_eq!(indented(text.as_bytes()).as_deref(), Some(shown));
    }

    #[test]
    fn what_is_nested_deeply_is_json_too_and_grows_little() {
        const DEPTH: usize = 60_000;
        let deep = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
        let shown = indented(deep.as_bytes()).expect("JSON");
        assert_eq!(shown.lines().count(), 2 * MAX_DEPTH + 1);
        assert!(shown.len() < deep.len() + 4 * (MAX_DEPTH + 1) * (MAX_DEPTH + 1), "{}", shown.len());
    }

    #[test]
    fn what_is_no_json_is_none() {
        for text in [&b""[..], b"{", b"{\"a\":}", b"a=1", b"{} {}", b"\"\xff\"", b"[1,]"] {
            assert_eq!(indented(text), None, "{text:?}");
        }
    }
}
