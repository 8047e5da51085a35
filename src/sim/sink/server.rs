//! The sink's HTTP half.

use std::{
    convert::Infallible,
    future::poll_fn,
    io, iter,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Request, Response, body::Frame, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};

use super::{Behaviour, Shared};
use crate::{model::webhook::Headers, sim::listening};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Why a request gets no answer; ends its connection.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("told not to answer")]
    Told,
    #[error("the request broke off: {0}")]
    Request(#[from] hyper::Error),
    #[error("told to send an impossible answer: {0}")]
    Answer(#[from] hyper::http::Error),
}

/// How a connection ends that was told not to answer.
#[derive(Debug)]
enum Ending {
    /// With RST instead of FIN.
    Reset,
    /// With these bytes, which are no HTTP.
    Garbage(Bytes),
    /// With the head of an answer that comes a byte at a time and never ends.
    DripHead(Duration),
}

/// Serves connections until aborted.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    listening::accept(listener, "the sink", move |stream| serve(stream, Arc::clone(&shared))).await;
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps its delays");
    }
    let ending = Arc::new(OnceLock::new());
    let service = service_fn(|request| Box::pin(answer(request, Arc::clone(&shared), Arc::clone(&ending))));
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // Not shut down by hyper: a FIN before a RST would let the other side read a clean end.
    let served = poll_fn(|context| connection.poll_without_shutdown(context)).await;
    let stream = connection.into_parts().io.into_inner();
    let ended = match ending.get() {
        None => {
            if let Err(error) = served {
                tracing::debug!(%error, "a connection to the sink ended early");
            }
            let mut stream = stream;
            stream.shutdown().await
        }
        Some(ending) => end(stream, ending).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the sink did not end as it should");
    }
}

/// Ends a connection that was told to end oddly.
async fn end(mut stream: TcpStream, ending: &Ending) -> io::Result<()> {
    match ending {
        Ending::Reset => stream.set_zero_linger(),
        Ending::Garbage(bytes) => {
            stream.write_all(bytes).await?;
            stream.shutdown().await
        }
        Ending::DripHead(pause) => {
            let head = b"HTTP/1.1 200 OK\r\nx-drip: ".iter().chain(iter::repeat(&b'.'));
            for byte in head {
                tokio::time::sleep(*pause).await;
                stream.write_all(&[*byte]).await?;
            }
            Ok(())
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    ending: Arc<OnceLock<Ending>>,
) -> Result<Response<Body>, Cut> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let headers: Headers = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    // Open until it is answered, or until whoever asked is gone and this future with them.
    let open = shared.open(&path, headers.get("webhook-id").unwrap_or_default());
    let mut doing = shared.record(&path, headers, body, open.as_ref());
    // It is told once: a connection that ends oddly carries no other request.
    let cut = |how| {
        ending.get_or_init(|| how);
        Cut::Told
    };
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
            Behaviour::Garbage(text) => return Err(cut(Ending::Garbage(Bytes::from(text)))),
            Behaviour::DripHead(pause) => return Err(cut(Ending::DripHead(pause))),
            Behaviour::Reset | Behaviour::FailFirst { .. } | Behaviour::InTurn(_) => return Err(cut(Ending::Reset)),
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
