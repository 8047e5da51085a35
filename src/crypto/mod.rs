//! Cryptography.

pub mod api_key;
pub mod hmac;
