//! Bodies that nobody will read to their end.
//!
//! Once a request is answered and its body dropped, actix-web reads what is left of a chunked body, at whatever speed and
//! for as long as the client sends it: an endless one keeps a worker busy for ever. While the reading end of the body is
//! held until the answer is written, the connection is closed instead, after a second of lingering in which the client can
//! read the answer. Bodies of a declared length are closed that way in any case.
//!
//! **Invariant**: a chunked body that was read to its end leaves the connection open. **Must not know** any route.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_web::{
    Error, HttpMessage as _,
    body::{BodySize, BoxBody, MessageBody},
    dev::{Payload, ServiceRequest, ServiceResponse},
    error::PayloadError,
    http::header,
};
use bytes::Bytes;
use futures_util::Stream;

/// The reading end of a request's chunked body, shared with its handler.
#[derive(Clone)]
pub(super) struct ReadingEnd(Rc<RefCell<Payload>>);

impl ReadingEnd {
    /// The reading end of this request's body; `None` unless it comes in chunks.
    pub(super) fn of(request: &mut ServiceRequest) -> Option<Self> {
        if !request.headers().contains_key(header::TRANSFER_ENCODING) {
            return None;
        }
        let end = Self(Rc::new(RefCell::new(request.take_payload())));
        request.set_payload(Payload::Stream { payload: Box::pin(end.clone()) });
        Some(end)
    }

    /// Keeps it until the answer is written.
    pub(super) fn keep_with(self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
        response.map_body(|_, body| BoxBody::new(Kept { body, _end: self }))
    }
}

impl Stream for ReadingEnd {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(cx)
    }
}

/// An answer's body with the reading end of its request's.
struct Kept {
    body: BoxBody,
    _end: ReadingEnd,
}

impl MessageBody for Kept {
    type Error = Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.get_mut().body.as_pin_mut().poll_next(cx).map_err(Error::from)
    }
}
