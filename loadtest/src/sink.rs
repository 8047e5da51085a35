//! Who receives: an HTTP server that does as little as one can, because it shares the machine with what it measures.
//! `signalbox::sim`'s sink checks everything and costs accordingly; the tests use that one.
//!
//! **Owns** the destinations' manners, chosen by the path they are given.
//!
//! **Invariants.** A delivery is recorded when its last byte is there, before it is answered.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    ledger::Ledger,
    scenario::Destination,
    wire::{end_of_head, header},
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
/// How long a slow destination takes.
const SLOWLY: Duration = Duration::from_secs(2);
/// The members that say which delivery it is stand in front of the payload, well within this.
const ENVELOPE: usize = 2048;

/// A receiver of everything.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    refusing: SocketAddr,
    server: JoinHandle<()>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Sink {
    /// Starts it on a free loopback port.
    pub async fn start(ledger: Arc<Ledger>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        // A port that was free a moment ago and on which nobody listens now.
        let refusing = TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?;
        let server = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        // What ends a connection is the gateway's affair.
                        tokio::spawn(serve(stream, Arc::clone(&ledger)));
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        Ok(Self { address, refusing, server })
    }

    /// The URL of a destination with these manners; `None` for none.
    pub fn url(&self, destination: Destination) -> Option<String> {
        let path = match destination {
            Destination::None => return None,
            Destination::Refuse => return Some(format!("http://{}/", self.refusing)),
            Destination::Good => "good",
            Destination::Slow => "slow",
            Destination::Hang => "hang",
            Destination::Down => "down",
        };
        Some(format!("http://{}/{path}", self.address))
    }
}

async fn serve(mut stream: TcpStream, ledger: Arc<Ledger>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut rest = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = end_of_head(&buffer) {
                break end;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = std::str::from_utf8(buffer.get(..end).unwrap_or_default())?;
        let length: usize = header(head, "content-length").context("no content-length")?.parse()?;
        let webhook_id = header(head, "webhook-id").unwrap_or_default().to_owned();
        let manners = head.split([' ', '/']).nth(2).unwrap_or_default().to_owned();
        let whole = end + 4 + length;
        let kept = whole.min(end + 4 + ENVELOPE);
        while buffer.len() < kept {
            if stream.read_buf(&mut buffer).await? == 0 {
                bail!("the connection ended within a request");
            }
        }
        // Large bodies are read and forgotten in pieces.
        let mut read = buffer.len();
        while read < whole {
            rest.clear();
            rest.reserve(64 * 1024);
            let more = stream.read_buf(&mut rest).await?;
            if more == 0 {
                bail!("the connection ended within a request");
            }
            read += more;
        }
        if read > whole {
            bail!("two requests at once");
        }
        match manners.as_str() {
            "hang" => std::future::pending().await,
            "down" => stream.write_all(UNAVAILABLE).await?,
            manners => {
                let envelope = buffer.get(end + 4..kept).unwrap_or_default();
                if let (Some(id), Some(workspace)) = (member(envelope, "deliveryId"), member(envelope, "workspaceId")) {
                    ledger.record_arrival(id, number_at_end(workspace), webhook_id.as_bytes(), Instant::now());
                }
                if manners == "slow" {
                    tokio::time::sleep(SLOWLY).await;
                }
                stream.write_all(OK).await?;
            }
        }
        buffer.clear();
    }
}

/// The text of a member of the envelope; none of those that are asked for needs an escape.
fn member<'e>(envelope: &'e [u8], name: &str) -> Option<&'e [u8]> {
    let start = format!("\"{name}\":\"");
    let at = envelope.windows(start.len()).position(|window| window == start.as_bytes())? + start.len();
    let rest = envelope.get(at..)?;
    rest.get(..rest.iter().position(|byte| *byte == b'"')?)
}

fn number_at_end(text: &[u8]) -> u64 {
    let digits = text.rsplit(|byte| *byte == b'-').next().and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event_id, wire::Connection};

    #[test]
    fn an_envelope_says_which_delivery_it_is() {
        let envelope = br#"{"eventId":"evt_1","deliveryId":"5f2c","orgId":"a","workspaceId":"a-0-12","payload":{}}"#;
        assert_eq!(member(envelope, "deliveryId"), Some(b"5f2c".as_slice()));
        assert_eq!(member(envelope, "workspaceId").map(number_at_end), Some(12));
        assert_eq!(member(envelope, "nobody"), None);
        assert_eq!(number_at_end(b"alpha"), u64::MAX);
    }

    #[tokio::test]
    async fn a_delivery_of_any_size_is_booked_once_per_workspace() {
        let ledger = Arc::new(Ledger::new());
        let book = ledger.open(2, true).expect("a book");
        let sink = Sink::start(Arc::clone(&ledger)).await.expect("a sink");
        let mut connection = Connection::open(sink.address).await.expect("connected");
        for number in 0..6 {
            book.record_sent(number, Instant::now());
            ledger.record_acked(&book, number);
            for workspace in 0..2 {
                let payload = "x".repeat(number as usize * 40_000);
                let id = event_id::uuid(book.stream, number);
                let body = format!(
                    "{{\"deliveryId\":\"{id}\",\"workspaceId\":\"a-0-{workspace}\",\"payload\":\"{payload}\"}}"
                );
                let request = format!(
                    "POST /good HTTP/1.1\r\nwebhook-id: d{number}{workspace}\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                assert_eq!(connection.exchange(request.as_bytes()).await.expect("an answer"), 200);
            }
        }
        assert_eq!((book.delivered(), book.lost(), book.repeated()), (12, 0, 0));
        let down = b"POST /down HTTP/1.1\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(connection.exchange(down).await.expect("an answer"), 503);
    }
}
