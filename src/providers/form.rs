//! Form bodies (`application/x-www-form-urlencoded`), in which some providers can be told to send their JSON.
//!
//! **Invariants**: a field's bytes come out exactly as they were encoded, valid UTF-8 or not, because they are stored
//! and forwarded; broken escapes stand for themselves, as in the URL standard; a body that begins as a JSON object is none,
//! whatever its content type, which no provider signs. `delivery/payload.rs` keeps the same rule. **Must not know** any
//! provider.

use crate::model::webhook::Headers;

/// Whether a body is a form: its content type says so, and its bytes do not say otherwise. Without the second, a genuine
/// JSON body sent again as a form would be read as whatever its texts hold between `&payload=` and `&`.
pub(super) fn is_form(headers: &Headers, body: &[u8]) -> bool {
    !body.trim_ascii_start().starts_with(b"{") && says_form(headers)
}

fn says_form(headers: &Headers) -> bool {
    headers
        .get("content-type")
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
}

/// The bytes of the first field of that name.
pub(super) fn find_field(body: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    body.split(|byte| *byte == b'&').find_map(|pair| {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let key = halves.next()?;
        // Names are short: decoding is not worth the allocation for a field that cannot be it.
        (key.len() <= 3 * name.len() && decode(key) == name).then(|| decode(halves.next().unwrap_or_default()))
    })
}

fn decode(encoded: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let [first, tail @ ..] = rest {
        let (byte, next) = match (first, tail) {
            (b'+', _) => (b' ', tail),
            (b'%', [high, low, after @ ..]) => match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', tail),
            },
            _ => (*first, tail),
        };
        decoded.push(byte);
        rest = next;
    }
    decoded
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_content_type_is_compared_without_parameters_and_case() {
        for (value, form) in [
            ("application/x-www-form-urlencoded", true),
            ("Application/X-WWW-Form-Urlencoded; charset=utf-8", true),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_form(&[("content-type", value)].into_iter().collect(), b"payload=%7B%7D"), form, "{value}");
        }
        assert!(!is_form(&Headers::new(), b"payload=%7B%7D"));
    }

    #[test]
    fn a_json_object_is_no_form_whatever_the_content_type_says() {
        let headers: Headers = [("content-type", "application/x-www-form-urlencoded")].into_iter().collect();
        assert!(!is_form(&headers, b"{\"message\":\"&payload=%7B%7D&\"}"));
        assert!(!is_form(&headers, b" \n{}"));
        assert!(is_form(&headers, b"") && is_form(&headers, b"payload={}"));
    }

    #[test]
    fn fields_are_found_and_decoded_byte_for_byte() {
        assert_eq!(find_field(b"payload=%7B%22a%22%3A+1%7D", b"payload").as_deref(), Some(&b"{\"a\": 1}"[..]));
        assert_eq!(find_field(b"x=1&pay%6Coad=%FF%zz%4", b"payload").as_deref(), Some(&b"\xff%zz%4"[..]));
        assert_eq!(find_field(b"payload", b"payload").as_deref(), Some(&b""[..]));
        assert_eq!(find_field(b"payload=a=b&payload=c", b"payload").as_deref(), Some(&b"a=b"[..]));
        assert_eq!(find_field(b"payloads=1&=2&", b"payload"), None);
        assert_eq!(find_field(b"", b"payload"), None);
    }

    proptest! {
        #[test]
        fn what_a_standard_encoder_writes_is_read_back(value in proptest::collection::vec(any::<u8>(), 0..100)) {
            let encoded: String = form_urlencoded::byte_serialize(&value).collect();
            prop_assert_eq!(find_field(format!("a=b&payload={encoded}").as_bytes(), b"payload"), Some(value));
        }

        #[test]
        fn text_is_decoded_as_a_standard_decoder_does(body in "[a-c%=&+0-9A-F]{0,60}") {
            let standard = form_urlencoded::parse(body.as_bytes()).find(|(name, _)| name == "a");
            let ours = find_field(body.as_bytes(), b"a").map(|value| String::from_utf8_lossy(&value).into_owned());
            prop_assert_eq!(ours, standard.map(|(_, value)| value.into_owned()));
        }
    }
}
