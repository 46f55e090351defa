//! The connections through a proxy: bytes and frames on their way, held, delayed, corrupted or cut.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, atomic::Ordering},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{Action, Shared, bound, cql, lock};

/// Bytes on their way, and when they may arrive.
type Piece = (Instant, Vec<u8>);

/// What to do with the answer to a request, by the request's stream.
type Expected = Mutex<HashMap<[u8; 2], Answer>>;

enum Answer {
    Prepared(String),
    Action(Action),
}

impl Shared {
    pub(super) async fn serve(self: Arc<Self>, mut socket: TcpSocket) {
        let mut state = self.state.subscribe();
        loop {
            if state.wait_for(|state| !state.cut || state.ended).await.expect("it is held here").ended {
                return;
            }
            let listener = socket.listen(1024).expect("it can listen");
            self.listens.store(true, Ordering::SeqCst);
            loop {
                tokio::select! {
                    biased;
                    _ = state.wait_for(|state| state.cut) => break,
                    accepted = listener.accept() => {
                        let Ok((client, _)) = accepted else { continue };
                        self.accepted.fetch_add(1, Ordering::SeqCst);
                        self.connections.fetch_add(1, Ordering::SeqCst);
                        let shared = self.clone();
                        tokio::spawn(async move {
                            let mut state = shared.state.subscribe();
                            tokio::select! {
                                biased;
                                _ = state.wait_for(|state| state.cut) => {}
                                _ = shared.carry(client) => {}
                            }
                            shared.connections.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                }
            }
            // Before the port is released, so that no other process gets it.
            socket = bound(self.address).expect("the port is ours");
            drop(listener);
            self.listens.store(false, Ordering::SeqCst);
        }
    }

    /// One connection, until either side closes it.
    async fn carry(&self, mut client: TcpStream) -> io::Result<()> {
        let mut server = TcpStream::connect(self.target).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let mut first = [0];
        client.peek(&mut first).await?;
        // The version of CQL that drivers begin with.
        let cql = first == [4];
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (requests, requests_out) = mpsc::unbounded_channel();
        let (answers, answers_out) = mpsc::unbounded_channel();
        let expected = Expected::default();
        // Closed by one side means closed for both: no protocol here needs more.
        tokio::select! {
            done = self.take_requests(from_client, requests, cql, &expected) => done,
            done = self.take_answers(from_server, answers, cql, &expected) => done,
            done = self.give(requests_out, to_server) => done,
            done = self.give(answers_out, to_client) => done,
        }
    }

    async fn take_requests(
        &self,
        mut from: impl AsyncRead + Unpin,
        to: mpsc::UnboundedSender<Piece>,
        cql: bool,
        expected: &Expected,
    ) -> io::Result<()> {
        loop {
            let piece = take(&mut from, cql).await?;
            if cql {
                let answer = self.request(&piece);
                if matches!(answer, Some(Answer::Action(Action::CutBefore))) {
                    self.state.send_modify(|state| state.cut = true);
                    return std::future::pending().await;
                }
                if let (Some(answer), Some(stream)) = (answer, stream_of(&piece)) {
                    lock(expected).insert(stream, answer);
                }
            }
            let _ = to.send((self.due(), piece));
        }
    }

    async fn take_answers(
        &self,
        mut from: impl AsyncRead + Unpin,
        to: mpsc::UnboundedSender<Piece>,
        cql: bool,
        expected: &Expected,
    ) -> io::Result<()> {
        loop {
            let mut piece = take(&mut from, cql).await?;
            let answer = stream_of(&piece).filter(|_| cql).and_then(|stream| lock(expected).remove(&stream));
            if let Some(Answer::Prepared(text)) = &answer
                && let Some(id) = cql::prepared_id(&piece)
            {
                lock(&self.cql).prepared.insert(id.to_vec(), text.clone());
            }
            if matches!(answer, Some(Answer::Action(Action::CutAfter))) {
                self.state.send_modify(|state| state.cut = true);
                return std::future::pending().await;
            }
            if self.state.borrow().corrupt {
                self.spoil(&mut piece, cql);
            }
            let due = self.due();
            if let Some(Answer::Action(Action::DelayAnswer(delay))) = answer {
                let to = to.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let _ = to.send((due, piece));
                });
            } else {
                let _ = to.send((due, piece));
            }
        }
    }

    async fn give(
        &self,
        mut pieces: mpsc::UnboundedReceiver<Piece>,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let mut state = self.state.subscribe();
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            let _ = state.wait_for(|state| !state.stalled).await;
            to.write_all(&piece).await?;
        }
        Ok(())
    }

    fn due(&self) -> Instant {
        Instant::now() + self.state.borrow().delay
    }

    /// What to do with the answer to a request.
    fn request(&self, frame: &[u8]) -> Option<Answer> {
        let mut cql = lock(&self.cql);
        let text = match cql::request(frame, &cql.prepared)? {
            cql::Request::Prepare(text) => return Some(Answer::Prepared(text)),
            cql::Request::Execute(text) => text,
        };
        let mut action = None;
        cql.waiting.retain_mut(|waiting| {
            if action.is_some() || !text.contains(&waiting.pattern) {
                return true;
            }
            if waiting.before > 0 {
                waiting.before -= 1;
                return true;
            }
            action = Some(waiting.action);
            false
        });
        // What never arrives is not executed.
        if action != Some(Action::CutBefore) {
            cql.statements.push(text);
        }
        action.map(Answer::Action)
    }

    fn spoil(&self, piece: &mut [u8], cql: bool) {
        let from = if cql { cql::HEADER } else { 0 };
        for bytes in piece[from..].chunks_mut(64) {
            let place = self.corrupted.fetch_add(1, Ordering::SeqCst);
            let byte = usize::try_from(place * 37).expect("few pieces") % bytes.len();
            bytes[byte] ^= 1 << (place % 8);
        }
    }
}

/// A frame of CQL, or whatever bytes are there.
async fn take(from: &mut (impl AsyncRead + Unpin), cql: bool) -> io::Result<Vec<u8>> {
    if cql {
        let mut frame = vec![0; cql::HEADER];
        from.read_exact(&mut frame).await?;
        let length = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
        frame.resize(cql::HEADER + length as usize, 0);
        from.read_exact(&mut frame[cql::HEADER..]).await?;
        return Ok(frame);
    }
    let mut bytes = vec![0; 64 * 1024];
    let count = from.read(&mut bytes).await?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(count);
    Ok(bytes)
}

fn stream_of(frame: &[u8]) -> Option<[u8; 2]> {
    frame.get(2..4)?.try_into().ok()
}
