//! Answers of HTTP/1.1, as they come from a socket: split, several at once, with a length or in chunks.
//!
//! Promises: what is not whole yet is told apart from what is no answer; nothing is allocated for a body
//! with a length. Never follows a redirect, never decompresses (nobody asks for it).

use std::mem::MaybeUninit;

/// More headers than any node or proxy sends.
const HEADERS: usize = 64;
/// Larger than the answer to a full batch.
const LARGEST: usize = 4 << 20;

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Its status.
    pub status: u16,
    /// Lines of the head; empty when a driver has no need of text.
    head: Head<'a>,
    /// Its body.
    pub body: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head<'a> {
    Text(&'a [u8]),
    Map(&'a hyper::HeaderMap),
}

impl<'a> Answer<'a> {
    /// One that another library has read.
    #[must_use]
    pub const fn of(status: u16, headers: &'a hyper::HeaderMap, body: &'a [u8]) -> Self {
        Self { status, head: Head::Map(headers), body }
    }

    /// A header's value. Searches: not for every answer.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let text = match self.head {
            Head::Map(map) => return map.get(name)?.to_str().ok(),
            Head::Text(text) => std::str::from_utf8(text).ok()?,
        };
        text.split("\r\n").skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// What a revoking call says: of the n other live nodes, k know.
    #[must_use]
    pub fn visible(&self) -> Option<(u32, u32)> {
        let (k, n) = self.header("palisade-visible")?.split_once('/')?;
        Some((k.trim().parse().ok()?, n.trim().parse().ok()?))
    }

    /// Whether it says that it may not know everything.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.header("palisade-stale").is_some()
    }

    /// A text field of a JSON object. Not for the hot path.
    #[must_use]
    pub fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(self.body).ok()
    }
}

/// What lies at the beginning of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// An answer of so many bytes; `close`: the last on this connection.
    Whole {
        /// It.
        answer: Answer<'a>,
        /// Its bytes.
        length: usize,
        /// Nothing comes after it.
        close: bool,
    },
    /// Not yet.
    Partial,
    /// No answer.
    Malformed,
}

/// Reads the first answer. `scratch` takes the body when it comes in chunks.
pub fn parse<'a>(bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> Parsed<'a> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let head = match config.parse_response_with_uninit_headers(&mut response, bytes, &mut headers) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if bytes.len() < LARGEST => return Parsed::Partial,
        _ => return Parsed::Malformed,
    };
    let Some(status) = response.code else { return Parsed::Malformed };
    let (mut length, mut chunked) = (None, false);
    let mut close = response.version == Some(0);
    for header in response.headers.iter() {
        // By the length first: most headers are none of these.
        match header.name.len() {
            14 if header.name.eq_ignore_ascii_case("content-length") => match number(header.value) {
                Some(value) => length = Some(value),
                None => return Parsed::Malformed,
            },
            10 if header.name.eq_ignore_ascii_case("connection") => {
                close = header.value.eq_ignore_ascii_case(b"close");
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                chunked = header.value.eq_ignore_ascii_case(b"chunked");
                if !chunked {
                    return Parsed::Malformed;
                }
            }
            _ => {}
        }
    }
    if (100..200).contains(&status) {
        // An interim answer says nothing: the next one is it.
        return match parse(&bytes[head..], scratch) {
            Parsed::Whole { answer, length, close } => Parsed::Whole { answer, length: length + head, close },
            other => other,
        };
    }
    let text = Head::Text(&bytes[..head]);
    if chunked {
        return match unchunk(&bytes[head..], scratch) {
            Some(Some(taken)) => Parsed::Whole {
                answer: Answer { status, head: text, body: scratch },
                length: head + taken,
                close,
            },
            Some(None) if bytes.len() < LARGEST => Parsed::Partial,
            _ => Parsed::Malformed,
        };
    }
    let length = match length {
        Some(length) => length,
        None if matches!(status, 204 | 304) => 0,
        // Until the connection ends: HTTP/1.0, which no node speaks.
        None => return Parsed::Malformed,
    };
    if length > LARGEST {
        return Parsed::Malformed;
    }
    match bytes.get(head..head + length) {
        Some(body) => {
            Parsed::Whole { answer: Answer { status, head: text, body }, length: head + length, close }
        }
        None => Parsed::Partial,
    }
}

fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    digits
        .iter()
        .try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + usize::from(digit - b'0')))
}

/// How many bytes the chunks take: `Some(None)` when they are not whole yet, `None` when they are none.
fn unchunk(bytes: &[u8], body: &mut Vec<u8>) -> Option<Option<usize>> {
    body.clear();
    let mut at = 0;
    loop {
        let (size, begin) = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(httparse::Status::Complete((begin, size))) => (usize::try_from(size).ok()?, at + begin),
            Ok(httparse::Status::Partial) => return Some(None),
            Err(_) => return None,
        };
        if size > LARGEST {
            return None;
        }
        if size == 0 {
            // Trailers, up to an empty line.
            let mut line = begin;
            loop {
                let Some(end) = bytes[line..].windows(2).position(|pair| pair == b"\r\n") else {
                    return Some(None);
                };
                if end == 0 {
                    return Some(Some(line + 2));
                }
                line += end + 2;
            }
        }
        let Some(chunk) = bytes.get(begin..begin + size + 2) else { return Some(None) };
        body.extend_from_slice(chunk.strip_suffix(b"\r\n")?);
        at = begin + size + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nPalisade-Visible: 2/3\r\ncontent-length: 24\r\n\r\n{\"msg\":\"Token is valid\"}";
    const GONE: &[u8] = b"HTTP/1.1 204 No Content\r\npalisade-stale: 5\r\nconnection: close\r\n\r\n";
    const CHUNKS: &[u8] =
        b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n2;x=y\r\nef\r\n0\r\nTrailer: 1\r\n\r\n";

    fn all(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>, bool)> {
        let mut answers = Vec::new();
        while !bytes.is_empty() {
            match parse(bytes, &mut Vec::new()) {
                Parsed::Whole { answer, length, close } => {
                    answers.push((answer.status, answer.body.to_vec(), close));
                    bytes = &bytes[length..];
                }
                other => panic!("{other:?}"),
            }
        }
        answers
    }

    #[test]
    fn answers_follow_each_other() {
        let bytes = [OK, CHUNKS, b"HTTP/1.1 100 Continue\r\n\r\n".as_slice(), OK, GONE].concat();
        let valid = (200, b"{\"msg\":\"Token is valid\"}".to_vec(), false);
        assert_eq!(
            all(&bytes),
            [valid.clone(), (401, b"abcdef".to_vec(), false), valid, (204, vec![], true)]
        );
    }

    #[test]
    fn headers_of_ours_are_read() {
        let mut scratch = Vec::new();
        let Parsed::Whole { answer, .. } = parse(OK, &mut scratch) else { panic!() };
        assert_eq!((answer.visible(), answer.is_stale()), (Some((2, 3)), false));
        let mut scratch = Vec::new();
        let Parsed::Whole { answer, .. } = parse(GONE, &mut scratch) else { panic!() };
        assert_eq!((answer.visible(), answer.is_stale()), (None, true));
    }

    #[test]
    fn what_is_no_answer_is_malformed() {
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".as_slice(),
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc",
        ] {
            assert_eq!(
                parse(bytes, &mut Vec::new()),
                Parsed::Malformed,
                "{}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    proptest! {
        #[test]
        fn a_part_is_never_taken_for_the_whole(which in 0_usize..3, cut in 0_usize..1000) {
            let whole = [OK, GONE, CHUNKS][which];
            let part = &whole[..cut % whole.len()];
            let mut scratch = Vec::new();
            prop_assert_eq!(parse(part, &mut scratch), Parsed::Partial);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes, &mut Vec::new());
            let _ = parse(&[b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", bytes.as_slice()].concat(), &mut Vec::new());
        }
    }
}
