//! Payloads as they are stored: compressed when that helps.
//!
//! **Owns** the encodings of `gw_events.payload`. **Invariants**: what comes out is what went in, byte for byte;
//! `payload_encoding` says how. **Must not know** what the bytes mean.

use std::cell::RefCell;

use bytes::Bytes;

use super::StoreError;

/// Below this, a zstd frame costs more than it saves.
const SMALLEST_WORTH_IT_BYTES: usize = 256;
/// Above this, compressing takes long enough to leave the async thread (about a millisecond).
const OFFLOAD_BYTES: usize = 256 * 1024;
/// Of a 20 KB pull request level 1 leaves 12 % in 32 µs, level -3 leaves 17 % in 15 µs, and the time is a webhook's.
/// `benches/costs/pure.rs` has the same.
const LEVEL: i32 = -3;

const IDENTITY: &str = "identity";
const ZSTD: &str = "zstd";

/// A payload in its stored form.
#[derive(Debug, Clone)]
pub(crate) struct Payload {
    /// The column `payload_encoding`.
    pub(crate) encoding: &'static str,
    /// Bytes before encoding.
    pub(crate) original_bytes: usize,
    /// The column `payload`.
    pub(crate) stored: Bytes,
}

thread_local! {
    /// A compressor's tables are some hundred KiB: made once per thread, not once per webhook.
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

impl Payload {
    /// Encodes a body. Never fails: what does not compress is kept as it is.
    pub(crate) async fn encode(body: Bytes) -> Self {
        if body.len() < OFFLOAD_BYTES {
            return Self::encode_here(body);
        }
        let kept = body.clone();
        tokio::task::spawn_blocking(move || Self::encode_here(body)).await.unwrap_or_else(|_| Self::identity(kept))
    }

    fn encode_here(body: Bytes) -> Self {
        if body.len() < SMALLEST_WORTH_IT_BYTES {
            return Self::identity(body);
        }
        let compressed = COMPRESSOR.with_borrow_mut(|slot| {
            if slot.is_none() {
                *slot = zstd::bulk::Compressor::new(LEVEL).ok();
            }
            slot.as_mut().and_then(|compressor| compressor.compress(&body).ok())
        });
        match compressed {
            Some(stored) if stored.len() < body.len() / 10 * 9 => {
                Self { encoding: ZSTD, original_bytes: body.len(), stored: stored.into() }
            }
            _ => Self::identity(body),
        }
    }

    fn identity(body: Bytes) -> Self {
        Self { encoding: IDENTITY, original_bytes: body.len(), stored: body }
    }
}

/// A payload as it was read.
#[derive(Debug)]
pub(crate) struct StoredPayload {
    /// The event's id, for errors.
    pub(crate) event: String,
    /// `payload_encoding`.
    pub(crate) encoding: String,
    /// `payload_bytes`.
    pub(crate) original_bytes: i64,
    /// `payload`.
    pub(crate) stored: Vec<u8>,
}

impl StoredPayload {
    /// The body as it was received.
    pub(crate) async fn decode(self) -> Result<Bytes, StoreError> {
        if self.stored.len() < OFFLOAD_BYTES {
            return self.decode_here();
        }
        tokio::task::spawn_blocking(move || self.decode_here())
            .await
            .map_err(|_| StoreError::Unavailable("a payload could not be decoded in time".into()))?
    }

    fn decode_here(self) -> Result<Bytes, StoreError> {
        let column = match self.encoding.as_str() {
            IDENTITY => return Ok(self.stored.into()),
            ZSTD => "payload",
            _ => "payload_encoding",
        };
        let capacity = usize::try_from(self.original_bytes).unwrap_or(0);
        let decoded = DECOMPRESSOR.with_borrow_mut(|slot| {
            if slot.is_none() {
                *slot = zstd::bulk::Decompressor::new().ok();
            }
            slot.as_mut().and_then(|decompressor| decompressor.decompress(&self.stored, capacity).ok())
        });
        match (column, decoded) {
            ("payload", Some(body)) if body.len() == capacity => Ok(body.into()),
            _ => Err(StoreError::Inconsistent { table: "gw_events", column, row: self.event }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn there_and_back(body: Bytes) -> (&'static str, Bytes) {
        let payload = Payload::encode(body).await;
        let stored = StoredPayload {
            event: "evt_1".into(),
            encoding: payload.encoding.into(),
            original_bytes: i64::try_from(payload.original_bytes).expect("small"),
            stored: payload.stored.to_vec(),
        };
        (payload.encoding, stored.decode().await.expect("it decodes"))
    }

    #[tokio::test]
    async fn every_body_comes_back_byte_for_byte() {
        let repetitive = Bytes::from("{\"a\":1}".repeat(1_000));
        let large = Bytes::from("{\"a\":1}".repeat(200_000));
        let noise: Bytes = (0..4_096).map(|_| rand::random::<u8>()).collect();
        for (body, encoding) in [
            (Bytes::new(), IDENTITY),
            (Bytes::from_static(b"\xff\x00{"), IDENTITY),
            (repetitive, ZSTD),
            (large, ZSTD),
            (noise, IDENTITY),
        ] {
            assert_eq!(there_and_back(body.clone()).await, (encoding, body));
        }
    }

    #[tokio::test]
    async fn a_row_whose_payload_does_not_decode_is_inconsistent_and_named() {
        let broken =
            StoredPayload { event: "evt_9".into(), encoding: ZSTD.into(), original_bytes: 9, stored: vec![1, 2, 3] };
        let error = broken.decode().await.expect_err("it is no zstd frame");
        assert!(matches!(error, StoreError::Inconsistent { row, .. } if row == "evt_9"));
    }
}
