//! The sink's HTTP half.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Request, Response, body::Frame, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

use super::{Behaviour, Shared};
use crate::{model::webhook::Headers, sim::listening};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Why a request gets no answer; ends its connection.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("told to reset")]
    Reset,
    #[error("the request broke off: {0}")]
    Request(#[from] hyper::Error),
    #[error("told to send an impossible answer: {0}")]
    Answer(#[from] hyper::http::Error),
}

/// A connection that ends with RST instead of FIN when it was told to.
struct Socket {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed)
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::debug!(%error, "a connection ends politely instead of with a reset");
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A FIN before the RST would let the other side read a clean end.
        if self.reset.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Serves connections until aborted.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    listening::accept(listener, "the sink", move |stream| serve(stream, Arc::clone(&shared))).await;
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps its delays");
    }
    let reset = Arc::new(AtomicBool::new(false));
    let socket = Socket { stream, reset: Arc::clone(&reset) };
    let service = service_fn(|request| answer(request, Arc::clone(&shared), Arc::clone(&reset)));
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await {
        tracing::debug!(%error, "a connection to the sink ended early");
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    reset: Arc<AtomicBool>,
) -> Result<Response<Body>, Cut> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let headers: Headers = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let mut doing = shared.record(&path, headers, body);
    loop {
        doing = match doing {
            Behaviour::After(wait, then) => {
                tokio::time::sleep(wait).await;
                *then
            }
            Behaviour::Answer { status, headers, body } => {
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                return Ok(response.body(Full::new(Bytes::from(body)).boxed_unsync())?);
            }
            Behaviour::Hang => std::future::pending().await,
            Behaviour::Flood(bytes) => return Ok(Response::new(flood(bytes))),
            Behaviour::Drip(pause) => return Ok(Response::new(drip(pause))),
            Behaviour::Reset | Behaviour::FailFirst { .. } | Behaviour::InTurn(_) => {
                reset.store(true, Ordering::Relaxed);
                return Err(Cut::Reset);
            }
        }
    }
}

fn flood(bytes: u64) -> Body {
    const PIECE: Bytes = Bytes::from_static(&[b'~'; 16 * 1024]);
    let pieces = stream::unfold(bytes, |left| async move {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE.len());
        (now > 0).then(|| (Ok(Frame::data(PIECE.slice(..now))), left - now as u64))
    });
    StreamBody::new(pieces).boxed_unsync()
}

fn drip(pause: Duration) -> Body {
    let drops = stream::unfold((), move |()| async move {
        tokio::time::sleep(pause).await;
        Some((Ok(Frame::data(Bytes::from_static(b"."))), ()))
    });
    StreamBody::new(drops).boxed_unsync()
}
