//! The server that does no work: one thread, epoll, always the same answer.
//!
//! Promises: it ends when its parent does, which closes its stdin.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use rustix::event::epoll;

use crate::threads::pin;

/// The answer of a node to a good token.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
x-request-id: 019aa000-0000-7000-8000-000000000000\r\n\
content-length: 24\r\ndate: Sat, 21 Nov 2026 12:00:00 GMT\r\n\r\n{\"msg\":\"Token is valid\"}";
/// The listener's key in epoll.
const LISTENER_KEY: u64 = u64::MAX;
/// The key of stdin in epoll.
const PARENT_KEY: u64 = u64::MAX - 1;

struct Peer {
    stream: TcpStream,
    /// How many bytes of the end of a head (CR LF CR LF) were seen.
    seen: usize,
}

/// Serves until the parent ends. Prints its address to stdout.
pub fn serve(cpu: usize) -> io::Result<()> {
    pin(cpu)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER_KEY), epoll::EventFlags::IN)?;
    epoll::add(&epoll, io::stdin(), epoll::EventData::new_u64(PARENT_KEY), epoll::EventFlags::IN)?;
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut events = Vec::with_capacity(1024);
    let mut input = vec![0; 64 << 10];
    let mut answers = Vec::new();
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            match event.data.u64() {
                PARENT_KEY => return Ok(()),
                LISTENER_KEY => {
                    while let Ok((stream, _)) = listener.accept() {
                        stream.set_nonblocking(true)?;
                        stream.set_nodelay(true)?;
                        let data = epoll::EventData::new_u64(peers.len() as u64);
                        epoll::add(&epoll, &stream, data, epoll::EventFlags::IN)?;
                        peers.push(Some(Peer { stream, seen: 0 }));
                    }
                }
                place => {
                    let Some(slot) = usize::try_from(place).ok().and_then(|place| peers.get_mut(place))
                    else {
                        continue;
                    };
                    let Some(peer) = slot else { continue };
                    match peer.stream.read(&mut input) {
                        Ok(0) => *slot = None,
                        Ok(more) => {
                            answers.clear();
                            for _ in 0..peer.heads(&input[..more]) {
                                answers.extend_from_slice(ANSWER);
                            }
                            // Answers fit the socket's buffer. A client that does not read them is dropped.
                            if peer.stream.write_all(&answers).is_err() {
                                *slot = None;
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(_) => *slot = None,
                    }
                }
            }
        }
    }
}

impl Peer {
    /// The number of heads that end in these bytes.
    fn heads(&mut self, bytes: &[u8]) -> usize {
        // The usual case: one whole head.
        if self.seen == 0 && bytes.ends_with(b"\r\n\r\n") && bytes.len() < 1_000 {
            return 1;
        }
        let mut heads = 0;
        for &byte in bytes {
            self.seen = match (self.seen, byte) {
                (0 | 2, b'\r') => self.seen + 1,
                (1 | 3, b'\n') => self.seen + 1,
                (_, b'\r') => 1,
                _ => 0,
            };
            if self.seen == 4 {
                heads += 1;
                self.seen = 0;
            }
        }
        heads
    }
}
