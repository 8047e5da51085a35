//! Cryptography: sealing of secrets, API keys, private keys and what they sign.
//!
//! **Owns** every use of a cipher, a MAC and a comparison that must not leak by its timing. **Invariants**: no secret is
//! printed or put into an error; comparisons of secrets take constant time. **Must not know** what the secrets are
//! for.

pub mod api_key;
pub mod hmac;
pub mod jwt;
pub mod lightfast;
pub mod nonce;
pub mod private_key;
pub mod seal;
