//! Bytes on a socket, for what no client library sends: broken requests, half requests, slow ones.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::Client;

/// Limit of an answer's size, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A whole answer.
    Answer {
        /// The status.
        status: u16,
        /// Status line and headers.
        head: String,
        /// The body.
        body: Vec<u8>,
    },
    /// The node closed the connection, without a (whole) answer.
    Closed {
        /// What came before.
        part: Vec<u8>,
    },
    /// Nothing, in the time that was given.
    Silence,
}

impl Reply {
    /// The status of an answer.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Answer { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// A clear 4xx (or a "not implemented", RFC 9112, section 6.1) or a closed connection.
    #[must_use]
    pub const fn is_clear_refusal(&self) -> bool {
        match self {
            Self::Answer { status, .. } => matches!(*status, 400..=499 | 501 | 505),
            Self::Closed { .. } => true,
            Self::Silence => false,
        }
    }
}

impl Raw {
    /// Connects.
    ///
    /// # Panics
    /// When the node does not listen.
    pub async fn to(node: &Client) -> Self {
        Self::try_to(node).await.expect("the node listens")
    }

    /// Connects to a node that may be dying.
    ///
    /// # Errors
    /// When the node does not listen.
    pub async fn try_to(node: &Client) -> std::io::Result<Self> {
        let stream = TcpStream::connect(node.address()).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, unread: Vec::new() })
    }

    /// Connects from this address of the machine, as another client would.
    ///
    /// # Panics
    /// When the node does not listen, or this machine has no such address.
    pub async fn from(source: [u8; 4], node: &Client) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((source, 0).into()).expect("an address of this machine");
        let stream = socket.connect(node.address()).await.expect("the node listens");
        stream.set_nodelay(true).expect("a socket");
        Self { stream, unread: Vec::new() }
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the node has closed the connection.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn finish(&mut self) -> std::io::Result<()> {
        self.stream.shutdown().await
    }

    /// Awaits the next answer on this connection.
    pub async fn reply(&mut self, bound: Duration) -> Reply {
        tokio::time::timeout(bound, self.next_reply()).await.unwrap_or(Reply::Silence)
    }

    /// Sends bytes and awaits an answer; a node that closes while they are sent may have answered.
    pub async fn exchange(mut self, bytes: impl AsRef<[u8]>, bound: Duration) -> Reply {
        let sent = tokio::time::timeout(bound, self.send(bytes)).await;
        if sent.is_err() {
            return Reply::Silence;
        }
        self.reply(bound).await
    }

    /// Whether the node closes this connection in the time that is given.
    pub async fn is_closed_within(&mut self, bound: Duration) -> bool {
        tokio::time::timeout(bound, async { while self.fill().await {} }).await.is_ok()
    }

    async fn next_reply(&mut self) -> Reply {
        let head_end = loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill().await {
                return Reply::Closed { part: std::mem::take(&mut self.unread) };
            }
        };
        let head = String::from_utf8_lossy(&self.unread[..head_end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let header = |name: &str| {
            head.lines().filter_map(|line| line.split_once(':')).find_map(|(found, value)| {
                found.eq_ignore_ascii_case(name).then(|| value.trim().to_ascii_lowercase())
            })
        };
        let chunked = header("transfer-encoding").is_some_and(|coding| coding.contains("chunked"));
        let length: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        loop {
            let rest = &self.unread[head_end..];
            let end = if chunked {
                rest.windows(5).position(|window| window == b"0\r\n\r\n").map(|at| at + 5)
            } else {
                (rest.len() >= length).then_some(length)
            };
            if let Some(end) = end {
                let body = rest[..end].to_vec();
                self.unread.drain(..head_end + end);
                return Reply::Answer { status, head, body };
            }
            if !self.fill().await {
                return Reply::Closed { part: std::mem::take(&mut self.unread) };
            }
        }
    }

    /// Reads more; false at the end.
    async fn fill(&mut self) -> bool {
        let mut buffer = vec![0; 16 * 1024];
        match self.stream.read(&mut buffer).await {
            Ok(count @ 1..) if self.unread.len() < ANSWER_BYTES_MAX => {
                self.unread.extend_from_slice(&buffer[..count]);
                true
            }
            _ => false,
        }
    }
}
