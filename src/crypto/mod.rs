//! Cryptography.

pub mod api_key;
