//! Message authentication and digests: HMAC-SHA1, HMAC-SHA256, SHA-256.
//!
//! **Owns** the only use of the `hmac` crate. **Invariants**: a MAC is compared in time that does not depend on where
//! it differs; nothing here returns early on secret bytes. **Must not know** who signs what: header names, prefixes
//! and encodings belong to `providers` and `delivery`.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

/// The block size of SHA-1 and SHA-256, bytes: the size of the key that HMAC works with (RFC 2104).
const BLOCK_BYTES: usize = 64;

/// HMAC-SHA1 over the concatenation of `parts`.
pub fn hmac_sha1(key: &[u8], parts: &[&[u8]]) -> [u8; 20] {
    let block_key = block_key(key, |long| Zeroizing::new(Sha1::digest(long).to_vec()));
    let mut mac = Hmac::<Sha1>::new((&*block_key).into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// HMAC-SHA256 over the concatenation of `parts`.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let block_key = block_key(key, |long| Zeroizing::new(Sha256::digest(long).to_vec()));
    let mut mac = Hmac::<Sha256>::new((&*block_key).into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Pads a key to the block size, digesting it first if it is longer (RFC 2104 section 2). Done here because the
/// constructor for keys of other sizes answers a `Result` that no caller could act on.
fn block_key(key: &[u8], digest: impl Fn(&[u8]) -> Zeroizing<Vec<u8>>) -> Zeroizing<[u8; BLOCK_BYTES]> {
    let mut block = Zeroizing::new([0; BLOCK_BYTES]);
    if key.len() > BLOCK_BYTES {
        let short = digest(key);
        block[..short.len()].copy_from_slice(&short);
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    block
}

/// Whether `mac` is the HMAC-SHA1 of `message`, compared in constant time.
pub fn verify_hmac_sha1(key: &[u8], message: &[u8], mac: &[u8; 20]) -> Choice {
    hmac_sha1(key, &[message]).ct_eq(mac)
}

/// Whether `mac` is the HMAC-SHA256 of `message`, compared in constant time.
pub fn verify_hmac_sha256(key: &[u8], message: &[u8], mac: &[u8; 32]) -> Choice {
    hmac_sha256(key, &[message]).ct_eq(mac)
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// SHA-256 over `parts`, each preceded by its length (eight bytes, big-endian), in lower-case hex: two different
/// lists of parts never digest the same bytes.
pub fn sha256_hex_of_parts(parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    hex::encode(digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Known answers computed with Python's hmac module and checked with `openssl dgst`.
    const KEY: &[u8] = b"whsec-test-key";
    const VECTORS: [(&[u8], &str, &str); 4] = [
        (
            b"",
            "3ca144d229222bd91155a45ff163af6d33578cb9",
            "5fb1edc2030dde328b46ac50a7dd7da4513947845fe1b94afd47efccefa62dbb",
        ),
        (
            b"{\"a\":1}\n",
            "c039bf88b418dc74decd0bcfa9965ffb63fcc3fb",
            "6a764dbfd06a02533d46eab7a939be4a98a895dbaa6055d5cca47411d589c651",
        ),
        (
            "{\"t\":\"Ångström ☃\"}".as_bytes(),
            "f50e9132fd25ca7d1e6053de18f940f0fc6ba202",
            "412556100c07a07c1a2ae84e0729da63818e0eac63d425fb658da0e9f320bb15",
        ),
        (
            br#"{"s":"\ud800"}"#,
            "4e571435af9e798ff17edd3b0b89294809842946",
            "4a0b60d439ae399a965785f15b10fd9b393406da85437a7faf95312da8a72442",
        ),
    ];

    #[test]
    fn macs_agree_with_an_independent_implementation() {
        for (message, sha1, sha256) in VECTORS {
            assert_eq!(hex::encode(hmac_sha1(KEY, &[message])), sha1);
            assert_eq!(hex::encode(hmac_sha256(KEY, &[message])), sha256);
        }
    }

    #[test]
    fn a_key_longer_than_a_block_is_digested_first() {
        let key = [b'k'; 131];
        assert_eq!(hex::encode(hmac_sha1(&key, &[b"{}"])), "8faf677193049689252696b024f94b2872033a63");
        assert_eq!(
            hex::encode(hmac_sha256(&key, &[b"{}"])),
            "bf56b1f6cc96e155b1f9695de165b01027af10d5c2b024bfc5c937a155402daf"
        );
    }

    #[test]
    fn parts_are_authenticated_as_one_message() {
        assert_eq!(hmac_sha256(KEY, &[b"{\"a\"", b"", b":1}\n"]), hmac_sha256(KEY, &[b"{\"a\":1}\n"]));
        assert_eq!(hmac_sha1(KEY, &[b"{\"a\"", b":1}\n"]), hmac_sha1(KEY, &[b"{\"a\":1}\n"]));
    }

    #[test]
    fn verification_accepts_the_mac_and_nothing_one_bit_away() {
        let mut mac = hmac_sha256(KEY, &[b"{}"]);
        assert!(bool::from(verify_hmac_sha256(KEY, b"{}", &mac)));
        mac[31] ^= 1;
        assert!(!bool::from(verify_hmac_sha256(KEY, b"{}", &mac)));
        let mut mac = hmac_sha1(KEY, &[b"{}"]);
        assert!(bool::from(verify_hmac_sha1(KEY, b"{}", &mac)));
        mac[0] ^= 0x80;
        assert!(!bool::from(verify_hmac_sha1(KEY, b"{}", &mac)));
    }

    #[test]
    fn the_digest_of_parts_tells_different_splits_apart() {
        assert_ne!(sha256_hex_of_parts(&[b"ab", b"c"]), sha256_hex_of_parts(&[b"a", b"bc"]));
        assert_ne!(sha256_hex_of_parts(&[b"abc"]), sha256_hex_of_parts(&[b"abc", b""]));
        assert_eq!(hex::encode(sha256(b"abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
