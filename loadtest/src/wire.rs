//! HTTP as far as a generator needs it. A full client would cost more than the gateway's own HTTP; this one understands
//! exactly what the gateway sends: a head with `content-length`, then a body.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A connection and what was read of the answer so far.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a request, reads the whole answer, answers its status.
    pub async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<u16> {
        self.stream.write_all(request).await?;
        self.read_answer().await
    }

    async fn read_answer(&mut self) -> anyhow::Result<u16> {
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the connection ended");
            }
            let Some(end) = end_of_head(&self.buffer) else { continue };
            let head = std::str::from_utf8(self.buffer.get(..end).unwrap_or_default())?;
            let status = head.get(9..12).context("no status")?.parse()?;
            let length: usize = header(head, "content-length").context("no content-length")?.parse()?;
            let closes = header(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            while self.buffer.len() < end + 4 + length {
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    bail!("the connection ended within an answer");
                }
            }
            if closes {
                // A refusal may end its connection; the next exchange would find that out too late.
                self.stream.shutdown().await.ok();
            }
            return Ok(status);
        }
    }
}

/// Where the blank line begins.
pub fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n")
}

/// The value of a header, looked up without regard to case.
pub fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_in_any_case_and_heads_end_at_a_blank_line() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length:  12\r\n\r\nhello";
        assert_eq!(end_of_head(answer.as_bytes()), Some(36));
        assert_eq!(header(answer, "content-length"), Some("12"));
        assert_eq!(header(answer, "connection"), None);
        assert_eq!(end_of_head(b"HTTP/1.1 200 OK\r\n"), None);
    }
}
