//! Parses answers of HTTP/1.1 as they come from a socket: in parts, several at once, with a length or in
//! chunks.
//!
//! Promises: an incomplete answer is told apart from a malformed one. A body with a length needs no allocation.
//! Never follows a redirect, never decompresses (no request asks for compression).

use std::mem::MaybeUninit;

/// Headers of an answer at most: more than any node or proxy sends.
const HEADERS_MAX: usize = 64;
/// The largest head and the largest body, bytes: more than the answer to a full batch.
const BYTES_MAX: usize = 4 << 20;

/// `Palisade-Visible: k/n`: how many other nodes have acknowledged a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visible {
    /// k: the nodes that have acknowledged.
    pub acknowledged: u32,
    /// n: the other live nodes.
    pub nodes: u32,
}

impl Visible {
    /// Whether all other live nodes have acknowledged.
    #[must_use]
    pub const fn is_everywhere(self) -> bool {
        self.acknowledged == self.nodes
    }
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The status.
    pub status: u16,
    /// The headers, as text or as hyper has parsed them.
    head: Head<'a>,
    /// The body.
    pub body: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head<'a> {
    Text(&'a [u8]),
    Map(&'a hyper::HeaderMap),
}

impl<'a> Answer<'a> {
    /// An answer that hyper has parsed.
    #[must_use]
    pub const fn of(status: u16, headers: &'a hyper::HeaderMap, body: &'a [u8]) -> Self {
        Self { status, head: Head::Map(headers), body }
    }

    /// The value of a header. It searches the head, so not for the hot path.
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

    /// `Palisade-Visible` of a revoking call.
    #[must_use]
    pub fn visible(&self) -> Option<Visible> {
        let (acknowledged, nodes) = self.header("palisade-visible")?.split_once('/')?;
        Some(Visible { acknowledged: acknowledged.trim().parse().ok()?, nodes: nodes.trim().parse().ok()? })
    }

    /// Whether the node reports by `Palisade-Stale` that it may lack revocations.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.header("palisade-stale").is_some()
    }

    /// The body as JSON; `None` if it is not JSON. Not for the hot path.
    #[must_use]
    pub fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(self.body).ok()
    }
}

/// The beginning of a buffer, parsed.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A whole answer.
    Whole {
        /// The answer.
        answer: Answer<'a>,
        /// Its length, bytes.
        length: usize,
        /// Whether it is the last on this connection.
        close: bool,
    },
    /// The answer is incomplete.
    Partial,
    /// The bytes are not an HTTP/1.1 answer.
    Malformed,
}

/// Parses the first answer. `scratch` holds the body if it comes in chunks.
pub fn parse<'a>(bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> Parsed<'a> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let head = match config.parse_response_with_uninit_headers(&mut response, bytes, &mut headers) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if bytes.len() < BYTES_MAX => return Parsed::Partial,
        _ => return Parsed::Malformed,
    };
    let Some(status) = response.code else { return Parsed::Malformed };
    let mut length = None;
    let mut chunked = false;
    let mut close = response.version == Some(0);
    for header in response.headers.iter() {
        // The length of the name first: most headers are none of these.
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
        // An interim answer (1xx): the next answer is the final one.
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
            Some(None) if bytes.len() < BYTES_MAX => Parsed::Partial,
            _ => Parsed::Malformed,
        };
    }
    let length = match length {
        Some(length) => length,
        None if matches!(status, 204 | 304) => 0,
        // A body until the end of the connection: HTTP/1.0, which no node speaks.
        None => return Parsed::Malformed,
    };
    if length > BYTES_MAX {
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

/// Joins the chunks in `body`. Returns their length in bytes; `Some(None)` if they are incomplete, `None` if
/// malformed.
fn unchunk(bytes: &[u8], body: &mut Vec<u8>) -> Option<Option<usize>> {
    body.clear();
    let mut at = 0;
    loop {
        let (size, begin) = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(httparse::Status::Complete((begin, size))) => (usize::try_from(size).ok()?, at + begin),
            Ok(httparse::Status::Partial) => return Some(None),
            Err(_) => return None,
        };
        if size > BYTES_MAX {
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
    fn successive_answers_are_parsed() {
        let bytes = [OK, CHUNKS, b"HTTP/1.1 100 Continue\r\n\r\n".as_slice(), OK, GONE].concat();
        let valid = (200, b"{\"msg\":\"Token is valid\"}".to_vec(), false);
        assert_eq!(
            all(&bytes),
            [valid.clone(), (401, b"abcdef".to_vec(), false), valid, (204, vec![], true)]
        );
    }

    #[test]
    fn palisade_headers_are_read() {
        let mut scratch = Vec::new();
        let Parsed::Whole { answer, .. } = parse(OK, &mut scratch) else { panic!() };
        assert_eq!(
            (answer.visible(), answer.is_stale()),
            (Some(Visible { acknowledged: 2, nodes: 3 }), false)
        );
        let mut scratch = Vec::new();
        let Parsed::Whole { answer, .. } = parse(GONE, &mut scratch) else { panic!() };
        assert_eq!((answer.visible(), answer.is_stale()), (None, true));
    }

    #[test]
    fn other_bytes_are_malformed() {
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
        fn part_of_an_answer_is_partial(which in 0_usize..3, cut in 0_usize..1000) {
            let whole = [OK, GONE, CHUNKS][which];
            let part = &whole[..cut % whole.len()];
            let mut scratch = Vec::new();
            prop_assert_eq!(parse(part, &mut scratch), Parsed::Partial);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes, &mut Vec::new());
            let _ = parse(&[b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", bytes.as_slice()].concat(), &mut Vec::new());
        }
    }
}
