//! The queue between threads that log and the thread that writes to stderr.
//!
//! Promises: [`Queue::push`] holds a lock for the time of a copy and waits for nothing else; memory is
//! bounded by two buffers of [`QUEUE_BYTES_MAX`]; every line is written whole and in order, or counted as
//! lost.
//!
//! Never: it does not write a line twice, and does not continue a line that was cut off: the next one starts
//! on a line of its own.

use std::{
    io, mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
/// Bytes that wait to be written: some three thousand lines.
const QUEUE_BYTES_MAX: usize = 1 << 20;
/// Bytes that one system call writes: the size of a pipe's buffer.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// The queue of lines that wait to be written.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Notified when there are lines to write, and when all are written.
    changed: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Whole lines.
    waiting: Vec<u8>,
    /// Whether the writing thread holds lines taken from `waiting`.
    writing: bool,
}

impl Queue {
    /// Appends a line, which ends with a line feed. If the queue is full, the line is dropped and counted.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.waiting.len() + line.len() > QUEUE_BYTES_MAX {
            drop(state);
            self.lose(1);
            return;
        }
        // The writing thread waits only while the queue is empty.
        let was_empty = state.waiting.is_empty();
        state.waiting.extend_from_slice(line);
        drop(state);
        if was_empty {
            self.changed.notify_all();
        }
    }

    /// Waits up to `timeout` until all lines are written.
    pub(super) fn flush(&self, timeout: Duration) {
        let has_lines = |state: &mut State| state.writing || !state.waiting.is_empty();
        let _ = self.changed.wait_timeout_while(self.lock(), timeout, has_lines);
    }

    pub(super) fn lines_lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Writes lines to stderr for as long as the process lives.
    pub(super) fn write_to_stderr(&self) {
        // Write to the descriptor itself: a blocked thread must not hold `std`'s lock on stderr.
        self.write_forever(|bytes| {
            loop {
                match rustix::io::write(rustix::stdio::stderr(), bytes) {
                    Err(Errno::INTR) => {}
                    // Another process that shares the terminal or pipe may have made it non-blocking.
                    Err(Errno::AGAIN) => {
                        poll(&mut [PollFd::from_borrowed_fd(rustix::stdio::stderr(), PollFlags::OUT)], None)?;
                    }
                    written => return Ok(written?),
                }
            }
        });
    }

    fn write_forever(&self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) {
        let mut torn = false;
        let mut lost_before = 0;
        let mut lines = Vec::new();
        loop {
            self.take(&mut lines);
            let lost = write_lines(&lines, &mut torn, &mut write);
            self.lose(lost);
            let lost_in_all = self.lines_lost();
            if lost == 0 && lost_in_all > lost_before {
                tracing::warn!(lines = lost_in_all - lost_before, "log lines lost");
                lost_before = lost_in_all;
            }
        }
    }

    /// Waits for lines, and swaps them with the buffer of written ones.
    fn take(&self, lines: &mut Vec<u8>) {
        lines.clear();
        let mut state = self.lock();
        state.writing = false;
        if state.waiting.is_empty() {
            self.changed.notify_all();
        }
        let waited = self.changed.wait_while(state, |state| state.waiting.is_empty());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        mem::swap(&mut state.waiting, lines);
        state.writing = true;
    }

    fn lose(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes whole lines, and drops those that cannot be written. Returns the number of dropped lines. `torn`
/// tells whether the last write ended within a line.
fn write_lines(lines: &[u8], torn: &mut bool, write: &mut impl FnMut(&[u8]) -> io::Result<usize>) -> u64 {
    let mut lost = 0;
    for piece in pieces(lines) {
        if *torn {
            *torn = write_all(b"\n", write) == 0;
        }
        let written = if *torn { 0 } else { write_all(piece, write) };
        let (written, unwritten) = piece.split_at(written);
        if !unwritten.is_empty() {
            *torn |= written.last().is_some_and(|byte| *byte != b'\n');
            lost += count_lines(unwritten);
        }
    }
    lost
}

/// Writes until the first error, and returns the number of bytes written.
fn write_all(bytes: &[u8], write: &mut impl FnMut(&[u8]) -> io::Result<usize>) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match write(&bytes[written..]) {
            Ok(count @ 1..) => written += count,
            Ok(0) | Err(_) => break,
        }
    }
    written
}

/// Splits lines into pieces of whole lines, as large as one call may write; a longer line is a piece of its
/// own.
fn pieces(mut lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if lines.is_empty() {
            return None;
        }
        let ends = |bytes: &[u8], from: usize| bytes[from..].iter().position(|byte| *byte == b'\n');
        let end = if lines.len() <= WRITE_BYTES_MAX {
            lines.len()
        } else if let Some(last) = lines[..WRITE_BYTES_MAX].iter().rposition(|byte| *byte == b'\n') {
            last + 1
        } else {
            ends(lines, WRITE_BYTES_MAX).map_or(lines.len(), |end| WRITE_BYTES_MAX + end + 1)
        };
        let (piece, rest) = lines.split_at(end);
        lines = rest;
        Some(piece)
    })
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

/// The writer that collects the line of one event.
pub(super) struct LineWriter(Arc<Queue>);

impl LineWriter {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self(queue)
    }
}

impl io::Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(number: usize) -> Vec<u8> {
        format!("line {number}\n").into_bytes()
    }

    #[test]
    fn full_queue_drops_and_counts_new_lines() {
        let queue = Queue::default();
        let long = vec![b'x'; QUEUE_BYTES_MAX / 2];
        for _ in 0..5 {
            queue.push(&long);
        }
        assert_eq!(queue.lines_lost(), 3);
        assert_eq!(queue.lock().waiting.len(), 2 * long.len());
    }

    #[test]
    fn flush_times_out_when_nothing_is_written() {
        let queue = Queue::default();
        queue.push(&line(1));
        queue.flush(Duration::from_millis(10));
        assert_eq!(queue.lock().waiting, line(1));
    }

    #[test]
    fn flush_awaits_the_writer() {
        let queue = Arc::new(Queue::default());
        let written = Arc::new(Mutex::new(Vec::new()));
        let writer = queue.clone();
        let output = written.clone();
        std::thread::spawn(move || {
            writer.write_forever(|bytes| {
                // Write a few bytes at a time, as to a pipe that is nearly full.
                let count = bytes.len().min(3);
                output.lock().unwrap().extend_from_slice(&bytes[..count]);
                Ok(count)
            });
        });
        let lines: Vec<_> = (0..1_000).map(line).collect();
        lines.iter().for_each(|line| queue.push(line));
        queue.flush(Duration::from_secs(60));
        assert_eq!(*written.lock().unwrap(), lines.concat());
        assert_eq!(queue.lines_lost(), 0);
    }

    #[test]
    fn long_lines_are_pieces_of_their_own() {
        let long = [vec![b'x'; 3 * WRITE_BYTES_MAX], b"\n".to_vec()].concat();
        let lines = [line(1), long.clone(), line(2)].concat();
        let pieces: Vec<_> = pieces(&lines).collect();
        assert_eq!(pieces, [line(1), long, line(2)]);
    }

    proptest! {
        /// Whatever a disk or pipe accepts, each line is written whole and once, or counted.
        #[test]
        fn every_line_is_written_whole_or_counted(
            sizes in prop::collection::vec(1..200_usize, 1..300),
            takes in prop::collection::vec(prop::option::weighted(0.8, 1..500_usize), 1..50),
        ) {
            let lines: Vec<Vec<u8>> =
                sizes.iter().enumerate().map(|(n, size)| format!("{n}:{}\n", "x".repeat(*size)).into_bytes()).collect();
            let mut output = Vec::new();
            let mut takes = takes.iter().cycle();
            let mut torn = false;
            let mut lost = 0;
            // Write one batch of the queue after another.
            for batch in lines.chunks(7) {
                lost += write_lines(&batch.concat(), &mut torn, &mut |bytes: &[u8]| {
                    let Some(takes) = takes.next().copied().flatten() else {
                        return Err(io::Error::from(io::ErrorKind::StorageFull));
                    };
                    let count = bytes.len().min(takes);
                    output.extend_from_slice(&bytes[..count]);
                    Ok(count)
                });
            }
            let written: Vec<&[u8]> = output.split_inclusive(|byte| *byte == b'\n').collect();
            let whole: Vec<usize> = written
                .iter()
                .filter_map(|line| lines.iter().position(|expected| expected == line))
                .collect();
            prop_assert!(whole.is_sorted_by(|earlier, later| earlier < later), "out of order or twice");
            for line in &written {
                let text = line.trim_ascii_end();
                prop_assert!(lines.iter().any(|expected| expected.starts_with(text)), "two lines in one");
            }
            let missing = (lines.len() - whole.len()) as u64;
            prop_assert!(missing <= lost, "{missing} are missing, {lost} were counted");
            // A line that was torn just before its line feed counts as lost but is whole.
            prop_assert!(lost <= missing + whole.len() as u64);
        }
    }
}
