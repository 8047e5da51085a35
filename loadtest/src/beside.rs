//! Clients that are a burden: they send slowly, or nothing.
//!
//! **Invariants.** A client that is thrown out comes back, until it is aborted.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::scenario::Part;

/// Between two bytes of a slow client.
const PACE: Duration = Duration::from_secs(1);

/// Opens this many connections on which nothing is ever sent.
pub async fn idle(address: SocketAddr, connections: usize) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for number in 0..connections {
        clients.spawn(async move {
            while let Ok(mut stream) = TcpStream::connect(address).await {
                // Returns when the other side has had enough.
                stream.read_u8().await.ok();
                tokio::time::sleep(PACE).await;
            }
        });
        // A listen queue is short.
        if number % 100 == 99 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    clients
}

/// This many clients that send a byte a second.
pub fn slow(address: SocketAddr, connections: usize, part: Part) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        clients.spawn(async move {
            loop {
                // Whatever ends a slow client's connection, the next one is slow too.
                dawdle(address, part).await.ok();
                tokio::time::sleep(PACE).await;
            }
        });
    }
    clients
}

async fn dawdle(address: SocketAddr, part: Part) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let start = format!("POST /webhooks/github HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n");
    if part == Part::Body {
        stream.write_all(start.as_bytes()).await?;
        stream.write_all(b"content-length: 8192\r\n\r\n").await?;
    }
    let slowly: Vec<u8> = match part {
        Part::Head => start.into_bytes().into_iter().chain(std::iter::repeat_n(b'x', 8192)).collect(),
        Part::Body => vec![b' '; 8192],
    };
    for byte in slowly {
        stream.write_all(&[byte]).await?;
        tokio::select! {
            () = tokio::time::sleep(PACE) => {}
            _ = stream.read_u8() => break,
        }
    }
    Ok(())
}
