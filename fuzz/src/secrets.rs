//! Secrets as people paste them and records as a database gives them back: read, or refused without repeating them.

use std::sync::OnceLock;

use signalbox::{
    crypto::{
        api_key,
        jwt::JwtKey,
        lightfast::LightfastKey,
        nonce,
        private_key::unwrap_private_key,
        seal::{SealingKey, key_id_of},
    },
    model::secret::Secret,
};

const PLACE: [&str; 3] = ["gw_tokens", "in_1", "access_token"];
const LIGHTFAST: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

pub fn run(data: &[u8]) {
    static KEYS: OnceLock<(SealingKey, LightfastKey)> = OnceLock::new();
    let (key, lightfast) = KEYS.get_or_init(|| {
        let sealing = SealingKey::new("k1", &[7; 32]).expect("32 bytes");
        (sealing, LightfastKey::from_hex(LIGHTFAST).expect("64 digits"))
    });
    if let Some(secret) = Secret::new(data) {
        match unwrap_private_key(&secret) {
            Ok(unwrapped) => {
                assert!(unwrapped.der.len() <= data.len());
                // Whether it signs is the library's word; it may not panic over it.
                drop(JwtKey::read(&secret));
            }
            Err(error) => assert!(JwtKey::read(&secret).is_err_and(|other| other == error)),
        }
        assert!(!format!("{secret:?}").contains("BEGIN"));
    }
    let text = String::from_utf8_lossy(data);
    if key.open(&PLACE, &text).is_ok() {
        // Only a record that was sealed with this very key opens, and it names it.
        assert_eq!(key_id_of(&text), Ok("k1"));
    }
    let record = key.seal(&PLACE, data).expect("short enough");
    assert_eq!(&key.open(&PLACE, &record).expect("opens where it was sealed")[..], data);
    assert!(key.open(&["gw_tokens", "in_2", "access_token"], &record).is_err());
    drop(lightfast.open(&text));
    drop(LightfastKey::from_hex(&text));
    if nonce::is_well_formed(&text) {
        assert!(text.len() <= 128 && text.is_ascii(), "a nonce of that shape was never made");
    }
    let stored = api_key::hash(&text);
    assert!(api_key::matches(&stored, &text) && !api_key::matches(&[0; 32], &text));
    let shown = api_key::recognisable_part(&text);
    assert!(shown.len() <= text.len() && text.starts_with(&shown));
}
