//! Frames: `u16` length ‖ ciphertext with its tag.
//!
//! Promises: frames arrive whole, unaltered, in order and without gaps. The two halves of a link count frames
//! on their own, so each may belong to a task of its own. A half that failed once fails from then on. Once
//! the buffers have grown to the largest frame, no frame allocates memory.
//!
//! Never: a nonce is used twice, or memory is allocated for a length that no frame may have.

use std::{fmt, io, sync::Arc, time::Duration};

use snow::StatelessTransportState;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};

use crate::timer;

/// The maximum length of a frame, in bytes, without encryption.
pub const FRAME_BYTES_MAX: usize = 60 * 1024;

/// The size of a frame's length field, in bytes.
const LENGTH_BYTES: usize = 2;
/// What encryption adds to a frame, in bytes.
const TAG_BYTES: usize = 16;
/// The buffer with which a reader begins, in bytes: enough for many small frames. It grows to
/// [`BUFFER_BYTES_MAX`].
const BUFFER_BYTES_MIN: usize = 16 * 1024;
/// The maximum size of a buffer, in bytes. A frame of any length fits, and no more than this waits to be
/// flushed.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// The maximum number of frames in one direction of a link, far below the largest nonce.
const NONCE_MAX: u64 = 1 << 62;

/// Why a link can no longer be used.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The other end closed the link after a whole frame.
    #[error("the peer closed the link")]
    Closed,
    /// The link ended within a frame.
    #[error("the link ended within a frame")]
    Cut,
    /// No frame may have this length.
    #[error("a frame cannot have {0} bytes")]
    Length(usize),
    /// A frame was altered, dropped, repeated or reordered.
    #[error("a frame was altered, dropped, repeated or reordered")]
    Forged,
    /// The rest of a frame did not arrive in time, or the peer did not accept what was written.
    #[error("the peer is too slow")]
    Slow,
    /// The link has carried the maximum number of frames.
    #[error("the link has carried the maximum number of frames")]
    Spent,
    /// The link failed before, so nothing was tried.
    #[error("the link failed before")]
    Before,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// The half of a link that reads what the peer writes.
pub struct Reader<R> {
    stream: R,
    transport: Arc<StatelessTransportState>,
    nonce: u64,
    /// From `start` to `end`, what was read from the stream and not returned yet.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    plain: Vec<u8>,
    /// Since when the reader waits for the rest of a frame.
    waiting: Option<Instant>,
    timeout_after: Duration,
    broken: bool,
}

/// The half of a link that writes what the peer reads.
pub struct Writer<W> {
    stream: W,
    transport: Arc<StatelessTransportState>,
    nonce: u64,
    /// From `start` to `end`, what is encrypted and not written to the stream yet.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    timeout_after: Duration,
    broken: bool,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(stream: R, transport: Arc<StatelessTransportState>, timeout_after: Duration) -> Self {
        Self {
            stream,
            transport,
            nonce: 0,
            bytes: vec![0; BUFFER_BYTES_MIN],
            start: 0,
            end: 0,
            plain: Vec::new(),
            waiting: None,
            timeout_after,
            broken: false,
        }
    }

    /// The next frame. Waits for its first byte without a time-out, and at most 5 s for the rest.
    ///
    /// Cancel safe: what was read stays in the buffer, and the next call continues where this one was
    /// dropped. The 5 s also run between calls.
    ///
    /// # Errors
    /// When the link is broken, or was broken before.
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
            if needed > LENGTH_BYTES && self.end - self.start >= needed {
                return self.open(needed);
            }
            self.fill(needed).await?;
        }
    }

    /// The size of the next frame with its length field; or of the length field alone, if that has not
    /// arrived.
    fn needed(&self) -> Result<usize, Broken> {
        let Some(head) = self.bytes[self.start..self.end].first_chunk() else {
            return Ok(LENGTH_BYTES);
        };
        let length = usize::from(u16::from_be_bytes(*head));
        if !(TAG_BYTES..=FRAME_BYTES_MAX + TAG_BYTES).contains(&length) {
            return Err(Broken::Length(length));
        }
        Ok(LENGTH_BYTES + length)
    }

    /// Reads once from the stream. Makes room for `needed` bytes from `start` on.
    async fn fill(&mut self, needed: usize) -> Result<(), Broken> {
        let is_idle = self.start == self.end;
        if is_idle || self.start + needed > self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if needed > self.bytes.len() {
            self.bytes.resize(BUFFER_BYTES_MAX, 0);
        }
        // If this is dropped while it waits, it has read nothing.
        let read = self.stream.read(&mut self.bytes[self.end..]);
        let read = if is_idle {
            read.await?
        } else {
            let until = *self.waiting.get_or_insert_with(timer::now) + self.timeout_after;
            timeout_at(until, read).await.map_err(|_| Broken::Slow)??
        };
        match read {
            0 if is_idle => Err(Broken::Closed),
            0 => Err(Broken::Cut),
            read => {
                self.end += read;
                Ok(())
            }
        }
    }

    /// Decrypts the next frame, all of which has arrived. Returns its length.
    fn open(&mut self, needed: usize) -> Result<usize, Broken> {
        if self.nonce >= NONCE_MAX {
            return Err(Broken::Spent);
        }
        let longest = needed - LENGTH_BYTES - TAG_BYTES;
        if self.plain.len() < longest {
            self.plain.resize(longest, 0);
        }
        let sealed = &self.bytes[self.start + LENGTH_BYTES..self.start + needed];
        let length =
            self.transport.read_message(self.nonce, sealed, &mut self.plain).map_err(|_| Broken::Forged)?;
        self.nonce += 1;
        self.start += needed;
        self.waiting = None;
        Ok(length)
    }
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) fn new(stream: W, transport: Arc<StatelessTransportState>, timeout_after: Duration) -> Self {
        Self {
            stream,
            transport,
            nonce: 0,
            bytes: Vec::new(),
            start: 0,
            end: 0,
            timeout_after,
            broken: false,
        }
    }

    /// Adds a frame of at most [`FRAME_BYTES_MAX`] bytes to the buffer. The frame is sent by the next
    /// [`Self::flush`], or earlier if the buffer is full.
    ///
    /// Cancel safe: if the future is dropped before it is done, the frame was not added.
    ///
    /// # Errors
    /// When the frame is too long, or the link is broken or was broken before.
    pub async fn write(&mut self, frame: &[u8]) -> Result<(), Broken> {
        if self.end + LENGTH_BYTES + frame.len() + TAG_BYTES > BUFFER_BYTES_MAX
            && frame.len() <= FRAME_BYTES_MAX
        {
            self.flush().await?;
        }
        if self.broken {
            return Err(Broken::Before);
        }
        let sealed = self.seal(frame);
        self.broken = sealed.is_err();
        sealed
    }

    /// Writes all frames in the buffer to the stream, within 5 s.
    ///
    /// Cancel safe: if the future is dropped before it is done, the next call continues where it stopped.
    ///
    /// # Errors
    /// When the link is broken, or was broken before.
    pub async fn flush(&mut self) -> Result<(), Broken> {
        if self.broken {
            return Err(Broken::Before);
        }
        let flushed = timeout(self.timeout_after, self.drain()).await;
        let flushed = flushed.map_err(|_| Broken::Slow).and_then(|done| done.map_err(Broken::Io));
        self.broken = flushed.is_err();
        flushed
    }

    /// Flushes, and closes this direction of the link. What the peer writes can still be read.
    ///
    /// # Errors
    /// When the link is broken, or was broken before.
    pub async fn close(mut self) -> Result<(), Broken> {
        self.flush().await?;
        timeout(self.timeout_after, self.stream.shutdown())
            .await
            .map_err(|_| Broken::Slow)?
            .map_err(Broken::Io)
    }

    fn seal(&mut self, frame: &[u8]) -> Result<(), Broken> {
        if frame.len() > FRAME_BYTES_MAX {
            return Err(Broken::Length(frame.len()));
        }
        if self.nonce >= NONCE_MAX {
            return Err(Broken::Spent);
        }
        let length = u16::try_from(frame.len() + TAG_BYTES).map_err(|_| Broken::Length(frame.len()))?;
        let head = self.end;
        let sealed = head + LENGTH_BYTES;
        let end = sealed + frame.len() + TAG_BYTES;
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
