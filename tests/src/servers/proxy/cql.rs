//! The part of CQL's native protocol v4 that the proxy needs, without compression.

use std::collections::HashMap;

/// Version, flags, stream (2), opcode, length (4).
pub const HEADER: usize = 9;

const QUERY: u8 = 0x07;
const RESULT: u8 = 0x08;
const PREPARE: u8 = 0x09;
const EXECUTE: u8 = 0x0a;
const BATCH: u8 = 0x0d;
const RESULT_PREPARED: u32 = 4;
const TRACING: u8 = 0x02;
const WARNING: u8 = 0x08;

pub enum Request {
    Prepare(String),
    Execute(String),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.bytes(1)?[0])
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.bytes(2)?.try_into().ok()?))
    }

    fn int(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
    }

    fn short_bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.short()?;
        self.bytes(count.into())
    }

    fn long_string(&mut self) -> Option<String> {
        let count = self.int()?;
        Some(String::from_utf8_lossy(self.bytes(count as usize)?).into_owned())
    }

    /// Null and not-set have negative lengths.
    fn value(&mut self) -> Option<()> {
        let count = self.int()?;
        if count.cast_signed() > 0 {
            self.bytes(count as usize)?;
        }
        Some(())
    }
}

fn text_of(id: &[u8], prepared: &HashMap<Vec<u8>, String>) -> String {
    prepared.get(id).cloned().unwrap_or_else(|| "a statement prepared elsewhere".to_owned())
}

pub fn request(frame: &[u8], prepared: &HashMap<Vec<u8>, String>) -> Option<Request> {
    let mut body = Reader(frame.get(HEADER..)?);
    match frame[4] {
        PREPARE => Some(Request::Prepare(body.long_string()?)),
        QUERY => Some(Request::Execute(body.long_string()?)),
        EXECUTE => Some(Request::Execute(text_of(body.short_bytes()?, prepared))),
        BATCH => {
            body.byte()?;
            let mut texts = Vec::new();
            for _ in 0..body.short()? {
                texts.push(match body.byte()? {
                    0 => body.long_string()?,
                    _ => text_of(body.short_bytes()?, prepared),
                });
                for _ in 0..body.short()? {
                    body.value()?;
                }
            }
            Some(Request::Execute(format!("BATCH: {}", texts.join("; "))))
        }
        _ => None,
    }
}

/// The id in a `RESULT` that says that something is prepared.
pub fn prepared_id(frame: &[u8]) -> Option<&[u8]> {
    let flags = frame[1];
    let mut body = Reader(frame.get(HEADER..)?);
    if frame[4] != RESULT {
        return None;
    }
    if flags & TRACING != 0 {
        body.bytes(16)?;
    }
    if flags & WARNING != 0 {
        for _ in 0..body.short()? {
            body.short_bytes()?;
        }
    }
    (body.int()? == RESULT_PREPARED).then(|| body.short_bytes()).flatten()
}
