//! Partial reading of JSON: the few members a provider looks at, out of bodies of which nothing else is believed.
//!
//! **Owns** the leniency of `extract`: a member that is missing, `null` or of another type reads as absent, and never
//! makes a webhook fail. **Invariants**: no recursion and no tree, so neither nesting nor numbers nor lone surrogates
//! outside the members read can make a valid text fail; a repeated key counts as its last occurrence, as in most
//! parsers behind our destinations; text longer than [`MAX_TEXT_BYTES`], with control characters or with lone
//! surrogates reads as absent, so that whatever is read fits every column. The whole body is checked once against
//! JSON's grammar, because it is later spliced into the envelope. **Must not know** any provider.

use std::{collections::HashSet, fmt};

use memchr::{memchr2, memchr3};
use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::ExtractError;
use crate::model::clock::EpochMs;

/// The longest text that is read, bytes. Ids, slugs, names and event types of all providers are shorter; database
/// indexes refuse much longer ones.
pub(super) const MAX_TEXT_BYTES: usize = 255;

/// The most elements of an array that are read. No provider lists more resources in one body; the bound keeps the
/// memory of an array of numbers near the body's own size.
const MAX_ITEMS: usize = 100_000;

/// The text of one JSON value, not looked into yet. The parser has checked it against the grammar, as a part of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    const ABSENT: Json<'static> = Json("null");

    /// The members of that name of a whole body.
    ///
    /// # Errors
    /// [`ExtractError::InvalidPayload`] unless the body is one JSON object in UTF-8 and nothing else.
    pub(super) fn body_members<const N: usize>(
        body: &'a [u8],
        names: [&str; N],
    ) -> Result<[Json<'a>; N], ExtractError> {
        let text = std::str::from_utf8(body).map_err(|_| ExtractError::InvalidPayload("not UTF-8".into()))?;
        let mut text = serde_json::Deserializer::from_str(text);
        let members = text.deserialize_map(Members(names));
        members.and_then(|members| text.end().map(|()| members)).map_err(|error| {
            // The position only: serde's sentence may quote the body.
            ExtractError::InvalidPayload(format!("line {}, column {}", error.line(), error.column()))
        })
    }

    /// Whether a body that [`Json::body_members`] has read has no members but those of these names, `null` or not.
    pub(super) fn body_has_only(body: &'a [u8], names: &[&str]) -> bool {
        let text = std::str::from_utf8(body).unwrap_or_default();
        Json(text.trim_start()).pairs().all(|(key, _)| position(names, key.0).is_some())
    }

    /// The members of that name; all absent unless this is an object.
    pub(super) fn members<const N: usize>(self, names: [&str; N]) -> [Json<'a>; N] {
        let mut found = [Json::ABSENT; N];
        for (key, value) in self.pairs() {
            if let Some(index) = position(&names, key.0) {
                found[index] = value;
            }
        }
        found
    }

    /// The member of that name.
    pub(super) fn member(self, name: &str) -> Json<'a> {
        let [member] = self.members([name]);
        member
    }

    /// Whether it is there and not `null`.
    pub(super) fn is_present(self) -> bool {
        self != Json::ABSENT
    }

    /// Every member with its name, in order, at most [`MAX_ITEMS`]; empty unless this is an object.
    pub(super) fn entries(self) -> Vec<(String, Json<'a>)> {
        let named = self.pairs().filter_map(|(key, value)| Some((key.text()?, value)));
        named.take(MAX_ITEMS).collect()
    }

    /// The elements, at most [`MAX_ITEMS`]; empty unless this is an array.
    pub(super) fn items(self) -> Vec<Json<'a>> {
        self.inside('[').take(MAX_ITEMS).collect()
    }

    /// Keys with their values.
    fn pairs(self) -> impl Iterator<Item = (Json<'a>, Json<'a>)> {
        let mut inside = self.inside('{');
        std::iter::from_fn(move || Some((inside.next()?, inside.next()?)))
    }

    /// What is between its brackets; nothing unless they are these.
    fn inside(self, bracket: char) -> Values<'a> {
        Values(self.0.strip_prefix(bracket).unwrap_or_default())
    }

    /// Short text that is not empty.
    pub(super) fn text(self) -> Option<String> {
        let inner = self.0.strip_prefix('"')?.strip_suffix('"')?;
        let text = if inner.contains('\\') { decode(self.0)? } else { inner.to_owned() };
        is_short_text(&text).then_some(text)
    }

    /// An id: short text, or an integer as its decimal digits, so that `"42"` and `42` are the same id.
    pub(super) fn id(self) -> Option<String> {
        let digits = self.0.strip_prefix('-').unwrap_or(self.0);
        if digits.bytes().all(|byte| byte.is_ascii_digit()) && self.0.len() <= MAX_TEXT_BYTES {
            return Some(self.0.to_owned());
        }
        self.text()
    }

    /// The ids in an array, each once; whatever is not an id is left out.
    pub(super) fn ids(self) -> Vec<String> {
        distinct(self.items().into_iter().filter_map(Json::id))
    }

    /// `true` or `false`.
    pub(super) fn boolean(self) -> Option<bool> {
        match self.0 {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// A number, cut to an integer and to the range of `i64`.
    pub(super) fn integer(self) -> Option<i64> {
        if !self.0.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
            return None;
        }
        self.0.parse().ok().or_else(|| self.0.parse().ok().map(saturating_integer))
    }

    /// An RFC 3339 time.
    pub(super) fn rfc3339(self) -> Option<EpochMs> {
        self.text().as_deref().and_then(EpochMs::parse_rfc3339)
    }

    /// A time in epoch milliseconds.
    pub(super) fn epoch_millis(self) -> Option<EpochMs> {
        self.integer().map(EpochMs)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the cast saturates, which is what is wanted of 1e400")]
fn saturating_integer(number: f64) -> i64 {
    number as i64
}

/// Whether a text may be an id, a name or a type: neither empty nor long, and printable.
pub(super) fn is_short_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_TEXT_BYTES && !text.contains(char::is_control)
}

/// The same texts in the same order, each once.
pub(super) fn distinct(texts: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut seen = HashSet::new();
    texts.into_iter().filter(|text| seen.insert(text.clone())).collect()
}

/// Decodes the escapes of a JSON string; `None` if it holds a lone surrogate. Read as bytes, because as text the
/// parser would refuse those.
fn decode(quoted: &str) -> Option<String> {
    struct Bytes;
    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_owned())
        }
    }
    let bytes = serde_json::Deserializer::from_str(quoted).deserialize_bytes(Bytes).ok()?;
    String::from_utf8(bytes).ok()
}

/// The index of a key, in its quotes, among the names looked for.
fn position(names: &[&str], quoted: &str) -> Option<usize> {
    if quoted.contains('\\') {
        let decoded = decode(quoted)?;
        return names.iter().position(|name| decoded == *name);
    }
    let key = quoted.get(1..quoted.len() - 1)?;
    names.iter().position(|name| key == *name)
}

/// Reads a key as its index among the names looked for.
struct Wanted<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<Self::Value, D::Error> {
        // Raw, because the parser checks raw text against the grammar and decodes nothing that it could refuse.
        let quoted = <&RawValue as serde::Deserialize>::deserialize(key)?.get();
        Ok(position(self.0, quoted))
    }
}

struct Members<'n, const N: usize>([&'n str; N]);

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Json<'de>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [Json::ABSENT; N];
        while let Some(wanted) = map.next_key_seed(Wanted(&self.0))? {
            match wanted {
                Some(index) => found[index] = Json(map.next_value::<&RawValue>()?.get()),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// The values in a text that the parser has checked, one after the other, a key being one of them. What is known to be
/// well-formed is only skipped: that costs a quarter of checking it.
struct Values<'a>(&'a str);

impl<'a> Iterator for Values<'a> {
    type Item = Json<'a>;

    fn next(&mut self) -> Option<Json<'a>> {
        let text = self.0.trim_start_matches([' ', '\t', '\r', '\n', ',', ':']);
        let end = match *text.as_bytes().first()? {
            b'"' => end_of_string(text.as_bytes()),
            open @ (b'{' | b'[') => end_of_brackets(text.as_bytes(), open),
            b'}' | b']' => return None,
            _ => text.find([' ', '\t', '\r', '\n', ',', '}', ']']).unwrap_or(text.len()),
        };
        let (value, rest) = text.split_at_checked(end)?;
        self.0 = rest;
        Some(Json(value))
    }
}

/// The length of a string, its quotes included.
fn end_of_string(text: &[u8]) -> usize {
    let mut end = 1;
    while let Some(found) = text.get(end..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        end += found + 1;
        if text[end - 1] == b'"' {
            return end;
        }
        // Whatever is escaped.
        end += 1;
    }
    text.len()
}

/// The length of an object or an array, its brackets included. Those of the other kind are balanced within.
fn end_of_brackets(text: &[u8], open: u8) -> usize {
    // In ASCII, `}` is two after `{`, and `]` is two after `[`.
    let close = open + 2;
    let (mut end, mut depth) = (0, 0);
    while let Some(found) = text.get(end..).and_then(|rest| memchr3(b'"', open, close, rest)) {
        end += found;
        match text[end] {
            b'"' => {
                end += end_of_string(&text[end..]);
                continue;
            }
            bracket if bracket == open => depth += 1,
            _ => depth -= 1,
        }
        end += 1;
        if depth == 0 {
            return end;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn member_of(body: &str) -> Json<'_> {
        let [member] = Json::body_members(body.as_bytes(), ["a"]).expect("an object");
        member
    }

    #[test]
    fn only_a_json_object_and_nothing_else_is_a_payload() {
        let refused: [&[u8]; 16] = [
            b"",
            b" ",
            b"null",
            b"[]",
            b"\"{}\"",
            b"1",
            b"{",
            b"{}}",
            b"{} x",
            b"{}{}",
            b"{'a':1}",
            b"{\"a\":1,}",
            b"\xef\xbb\xbf{}",
            b"{\"a\":\"\xff\"}",
            b"{\"a\n\":1}",
            b"{\"b\":[1}]}",
        ];
        for body in refused {
            assert!(
                matches!(Json::body_members(body, ["a"]), Err(ExtractError::InvalidPayload(_))),
                "{}",
                String::from_utf8_lossy(body)
            );
        }
        assert!(Json::body_members(b" \r\n\t{} \n", ["a"]).is_ok());
    }

    #[test]
    fn what_parsers_refuse_in_members_nobody_reads_is_accepted() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let deep_objects = format!("{}1{}", "{\"b\":".repeat(100_000), "}".repeat(100_000));
        for odd in [r#""\ud800""#, "1e400", "-1e-400", "123456789012345678901234567890", &deep, &deep_objects] {
            assert_eq!(member_of(&format!(r#"{{"b":{odd},"a":"here"}}"#)).text().as_deref(), Some("here"));
            // In a member that is read they are absent, or what they can be.
            let member = format!(r#"{{"a":{odd}}}"#);
            assert_eq!(member_of(&member).text(), None);
            assert_eq!(member_of(&member).member("b").member("b").text(), None);
            assert!(member_of(&member).items().len() <= 1);
        }
        assert_eq!(member_of(r#"{"\ud800":1,"a":"here"}"#).text().as_deref(), Some("here"));
    }

    #[test]
    fn a_repeated_key_counts_as_its_last_occurrence_and_keys_are_unescaped() {
        assert_eq!(member_of(r#"{"a":"one","a":"two"}"#).text().as_deref(), Some("two"));
        assert_eq!(member_of(r#"{"a":"one","\u0061":null}"#).text(), None);
        assert_eq!(member_of(r#"{"\u0061":"one"}"#).text().as_deref(), Some("one"));
        assert_eq!(member_of(r#"{"\"a\"":"one"}"#).text(), None);
    }

    #[test]
    fn a_body_has_only_those_members_whose_names_are_listed_whatever_their_values() {
        let has_only = |body: &str| Json::body_has_only(body.as_bytes(), &["a", "b"]);
        for body in ["{}", "{\"a\":{\"c\":1}}", " \n{\"b\":[\"c\"],\"a\":null,\"a\":2}\n", r#"{"\u0061":1}"#] {
            assert!(has_only(body), "{body}");
        }
        for body in ["{\"c\":null}", "{\"a\":1,\"A\":1}", "{\"a\":{}, \"\":1}", r#"{"a":1,"\ud800":1}"#] {
            assert!(!has_only(body), "{body}");
        }
    }

    #[test]
    fn ids_are_the_same_as_text_and_as_integers_of_any_size() {
        for (json, id) in [
            ("42", Some("42")),
            (r#""42""#, Some("42")),
            ("4507811234567168", Some("4507811234567168")),
            ("123456789012345678901234567890", Some("123456789012345678901234567890")),
            ("-7", Some("-7")),
            ("1.5", None),
            ("1e3", None),
            ("null", None),
            ("true", None),
            ("{}", None),
            (r#""""#, None),
            (r#""\u0000""#, None),
            (r#""\ud800""#, None),
            (r#""caf\u00e9""#, Some("café")),
        ] {
            assert_eq!(member_of(&format!(r#"{{"a":{json}}}"#)).id().as_deref(), id, "{json}");
        }
        let long = "9".repeat(MAX_TEXT_BYTES + 1);
        assert_eq!(member_of(&format!(r#"{{"a":{long}}}"#)).id(), None);
        assert_eq!(member_of(&format!(r#"{{"a":"{long}"}}"#)).id(), None);
        assert_eq!(member_of(r#"{"a":[1,"1",null,2,{}]}"#).ids(), ["1", "2"]);
    }

    #[test]
    fn numbers_are_cut_to_integers_and_saturate() {
        for (json, integer) in [
            ("1786701234567", Some(1_786_701_234_567)),
            ("1786701234567.9", Some(1_786_701_234_567)),
            ("1.786701234567e12", Some(1_786_701_234_567)),
            ("1e400", Some(i64::MAX)),
            ("-1e400", Some(i64::MIN)),
            ("99999999999999999999", Some(i64::MAX)),
            (r#""5""#, None),
            ("null", None),
        ] {
            assert_eq!(member_of(&format!(r#"{{"a":{json}}}"#)).integer(), integer, "{json}");
        }
    }

    #[test]
    fn arrays_are_read_up_to_their_bound_and_no_further() {
        let body = format!(r#"{{"a":[{}1]}}"#, "0,".repeat(MAX_ITEMS));
        assert_eq!(member_of(&body).items().len(), MAX_ITEMS);
        assert_eq!(member_of(r#"{"a":{"x":"y","z":1}}"#).entries().len(), 2);
        assert_eq!(member_of(r#"{"a":[]}"#).entries(), []);
    }

    /// JSON texts with everything in them that could be taken for a border between two values.
    fn json_text() -> impl Strategy<Value = String> {
        let space = prop_oneof![4 => Just(""), 1 => Just(" "), 1 => Just("\n\t\r ")];
        let string = r#"(\\["\\/bfnrt]|\\u00e9|[\{\}\[\],: a-cé]){0,6}"#.prop_map(|inside| format!("\"{inside}\""));
        let leaf = prop_oneof![string.clone(), "-?(0|[1-9][0-9]{0,3})(\\.5)?(e-?9)?", "true|false|null"];
        leaf.prop_recursive(4, 32, 5, move |value| {
            let spaced = |text: BoxedStrategy<String>| {
                (space.clone(), text, space.clone()).prop_map(|(before, text, after)| format!("{before}{text}{after}"))
            };
            let item = spaced(value.boxed());
            let member =
                (spaced(string.clone().boxed()), item.clone()).prop_map(|(key, value)| format!("{key}:{value}"));
            let several = |part: BoxedStrategy<String>| proptest::collection::vec(part, 0..5);
            prop_oneof![
                several(item.boxed()).prop_map(|items| format!("[{}]", items.join(","))),
                several(member.boxed()).prop_map(|members| format!("{{{}}}", members.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_skipped_in_checked_text_is_what_a_parser_reads(text in json_text()) {
            let body = format!(r#"{{"a":{text}}}"#);
            let value = member_of(&body);
            prop_assert_eq!(value.0, text.as_str());
            let items: Vec<&RawValue> = serde_json::from_str(&text).unwrap_or_default();
            let items: Vec<Json<'_>> = items.into_iter().map(|item| Json(item.get())).collect();
            prop_assert_eq!(value.items(), items);
            let members: HashMap<String, &RawValue> = serde_json::from_str(&text).unwrap_or_default();
            for (name, member) in members {
                prop_assert_eq!(value.member(&name).0, member.get(), "{}", name);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let accepted = Json::body_members(&body, ["a"]).is_ok();
            // Whatever a full parser takes for an object is accepted here too.
            if serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&body).is_ok() {
                prop_assert!(accepted);
            }
        }

        #[test]
        fn almost_json_is_read_or_refused(body in r#"[\{\}\[\]a"\\:,0-9.eEu\-dtrunlsf ]{0,60}"#) {
            let accepted = Json::body_members(body.as_bytes(), ["a"]).is_ok();
            if serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&body).is_ok() {
                prop_assert!(accepted);
            }
        }
    }
}
