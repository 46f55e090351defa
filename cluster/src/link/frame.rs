//! Frames: `u16` length ‖ ciphertext with its tag.
//!
//! Promises: frames arrive whole, unaltered, in order, without gaps; the two halves count on their own, so
//! two tasks may have one each. A half that failed once fails ever after. Once the buffers have grown to
//! the largest frame, no frame takes memory.
//!
//! Never: a nonce is used twice, or memory taken for a length that nobody may send.

use std::{fmt, io, sync::Arc, time::Duration};

use snow::StatelessTransportState;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};

/// Bytes of the longest frame.
pub const MAX_FRAME: usize = 60 * 1024;

/// Bytes of a frame's length.
const HEAD: usize = 2;
/// Bytes that encryption adds.
const TAG: usize = 16;
/// A reader begins with this much, enough for many small frames, and takes [`BUFFER`] when it must.
const SMALL_BUFFER: usize = 16 * 1024;
/// A frame of any length fits in, and no more than this waits to be flushed.
const BUFFER: usize = 64 * 1024;
/// After so many frames in one direction a link ends. Far from where the numbers do.
const MAX_NONCE: u64 = 1 << 62;

/// The link cannot be used any longer.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The other end writes no more: after a whole frame.
    #[error("the peer closed the link")]
    Closed,
    /// The other end writes no more: within a frame.
    #[error("the link ended within a frame")]
    Cut,
    /// No frame has this length.
    #[error("a frame cannot have {0} bytes")]
    Length(usize),
    /// Somebody altered, dropped, repeated or exchanged frames.
    #[error("a frame is not the one that the peer wrote next")]
    Forged,
    /// The rest of a frame did not come, or the peer did not take what was written.
    #[error("the peer is too slow")]
    Slow,
    /// No frame may have the next number.
    #[error("the link has carried all frames that it may carry")]
    Spent,
    /// It failed before, and nothing was tried.
    #[error("the link was broken before")]
    Before,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// What the peer writes.
pub struct Reader<R> {
    stream: R,
    transport: Arc<StatelessTransportState>,
    nonce: u64,
    /// What was read and not yet given: from `start` to `end`.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    plain: Vec<u8>,
    /// Since when the rest of a frame is waited for.
    waiting: Option<Instant>,
    patience: Duration,
    broken: bool,
}

/// What the peer is to read.
pub struct Writer<W> {
    stream: W,
    transport: Arc<StatelessTransportState>,
    nonce: u64,
    /// What is encrypted and not yet taken by the stream: from `start` to `end`.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    patience: Duration,
    broken: bool,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(stream: R, transport: Arc<StatelessTransportState>, patience: Duration) -> Self {
        Self {
            stream,
            transport,
            nonce: 0,
            bytes: vec![0; SMALL_BUFFER],
            start: 0,
            end: 0,
            plain: Vec::new(),
            waiting: None,
            patience,
            broken: false,
        }
    }

    /// The next frame.
    ///
    /// It waits for its first byte as long as the caller likes, and 5 s for the rest.
    ///
    /// Cancel safe: what was read stays here, and the next call goes on where this one was dropped. The
    /// 5 s go on too, called or not.
    ///
    /// # Errors
    /// When the link is broken, or broke before.
    pub async fn read(&mut self) -> Result<&[u8], Broken> {
        if self.broken {
            return Err(Broken::Before);
        }
        match self.next().await {
            Ok(length) => Ok(&self.plain[..length]),
            Err(why) => {
                self.broken = true;
                Err(why)
            }
        }
    }

    async fn next(&mut self) -> Result<usize, Broken> {
        loop {
            let needed = self.needed()?;
            if needed > HEAD && self.end - self.start >= needed {
                return self.open(needed);
            }
            self.fill(needed).await?;
        }
    }

    /// Bytes of the next frame with its head, or of the head as long as that is not here.
    fn needed(&self) -> Result<usize, Broken> {
        let Some(head) = self.bytes[self.start..self.end].first_chunk() else {
            return Ok(HEAD);
        };
        let length = usize::from(u16::from_be_bytes(*head));
        if !(TAG..=MAX_FRAME + TAG).contains(&length) {
            return Err(Broken::Length(length));
        }
        Ok(HEAD + length)
    }

    /// Reads once, with room for as many bytes as are needed from `start`.
    async fn fill(&mut self, needed: usize) -> Result<(), Broken> {
        let idle = self.start == self.end;
        if idle || self.start + needed > self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if needed > self.bytes.len() {
            self.bytes.resize(BUFFER, 0);
        }
        // Dropped while it waits, this has read nothing.
        let read = self.stream.read(&mut self.bytes[self.end..]);
        let read = if idle {
            read.await?
        } else {
            let until = *self.waiting.get_or_insert_with(Instant::now) + self.patience;
            timeout_at(until, read).await.map_err(|_| Broken::Slow)??
        };
        match read {
            0 if idle => Err(Broken::Closed),
            0 => Err(Broken::Cut),
            read => {
                self.end += read;
                Ok(())
            }
        }
    }

    /// Decrypts the next frame, all of which is here.
    fn open(&mut self, needed: usize) -> Result<usize, Broken> {
        if self.nonce >= MAX_NONCE {
            return Err(Broken::Spent);
        }
        let longest = needed - HEAD - TAG;
        if self.plain.len() < longest {
            self.plain.resize(longest, 0);
        }
        let sealed = &self.bytes[self.start + HEAD..self.start + needed];
        let length =
            self.transport.read_message(self.nonce, sealed, &mut self.plain).map_err(|_| Broken::Forged)?;
        self.nonce += 1;
        self.start += needed;
        self.waiting = None;
        Ok(length)
    }
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) fn new(stream: W, transport: Arc<StatelessTransportState>, patience: Duration) -> Self {
        Self { stream, transport, nonce: 0, bytes: Vec::new(), start: 0, end: 0, patience, broken: false }
    }

    /// Takes a frame of at most [`MAX_FRAME`] bytes. It is on its way when the next [`Self::flush`]
    /// returns; before that only when too much waits.
    ///
    /// Cancel safe: dropped before it is done, it has not taken the frame.
    ///
    /// # Errors
    /// When the frame is too long or the link broken, or it broke before.
    pub async fn write(&mut self, frame: &[u8]) -> Result<(), Broken> {
        if self.end + HEAD + frame.len() + TAG > BUFFER && frame.len() <= MAX_FRAME {
            self.flush().await?;
        }
        if self.broken {
            return Err(Broken::Before);
        }
        let sealed = self.seal(frame);
        self.broken = sealed.is_err();
        sealed
    }

    /// Hands all frames to the system, which has 5 s to take them.
    ///
    /// Cancel safe: dropped before it is done, the next call goes on where this one was.
    ///
    /// # Errors
    /// When the link is broken, or broke before.
    pub async fn flush(&mut self) -> Result<(), Broken> {
        if self.broken {
            return Err(Broken::Before);
        }
        let flushed = timeout(self.patience, self.drain()).await;
        let flushed = flushed.map_err(|_| Broken::Slow).and_then(|done| done.map_err(Broken::Io));
        self.broken = flushed.is_err();
        flushed
    }

    /// Flushes, and tells the peer that no more comes. What the peer writes can still be read.
    ///
    /// # Errors
    /// When the link is broken, or broke before.
    pub async fn close(mut self) -> Result<(), Broken> {
        self.flush().await?;
        timeout(self.patience, self.stream.shutdown()).await.map_err(|_| Broken::Slow)?.map_err(Broken::Io)
    }

    fn seal(&mut self, frame: &[u8]) -> Result<(), Broken> {
        if frame.len() > MAX_FRAME {
            return Err(Broken::Length(frame.len()));
        }
        if self.nonce >= MAX_NONCE {
            return Err(Broken::Spent);
        }
        let length = u16::try_from(frame.len() + TAG).map_err(|_| Broken::Length(frame.len()))?;
        let head = self.end;
        let sealed = head + HEAD;
        let end = sealed + frame.len() + TAG;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[head..sealed].copy_from_slice(&length.to_be_bytes());
        self.transport
            .write_message(self.nonce, frame, &mut self.bytes[sealed..end])
            .map_err(|why| Broken::Io(io::Error::other(why)))?;
        self.nonce += 1;
        self.end = end;
        Ok(())
    }

    async fn drain(&mut self) -> io::Result<()> {
        while self.start < self.end {
            let written = self.stream.write(&self.bytes[self.start..self.end]).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.start += written;
        }
        self.start = 0;
        self.end = 0;
        self.stream.flush().await
    }
}

impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl<W> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

#[cfg(test)]
impl<R> Reader<R> {
    pub(super) fn count_from(&mut self, nonce: u64) {
        self.nonce = nonce;
    }

    pub(super) fn buffers(&self) -> [usize; 2] {
        [self.bytes.capacity(), self.plain.capacity()]
    }
}

#[cfg(test)]
impl<W> Writer<W> {
    pub(super) fn count_from(&mut self, nonce: u64) {
        self.nonce = nonce;
    }

    pub(super) fn buffer(&self) -> usize {
        self.bytes.capacity()
    }
}
