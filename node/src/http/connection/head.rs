//! Rules of HTTP/1.1 for a request's head that hyper does not enforce.

use axum::http::{HeaderMap, HeaderValue, StatusCode, Version, header};

/// Whether the `Host` headers are as RFC 9112, section 3.2 demands: exactly one in HTTP/1.1, at most one
/// otherwise, and valid.
#[must_use]
pub fn has_valid_host(headers: &HeaderMap, version: Version) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => version != Version::HTTP_11,
        (Some(host), None) => is_valid_host(host.as_bytes()),
        _ => false,
    }
}

/// Whether the value of a `Host` header is `uri-host [ ":" port ]` (RFC 9110, section 7.2). It may be empty.
#[must_use]
pub fn is_valid_host(value: &[u8]) -> bool {
    is_plain_host(value) || is_unusual_host(value)
}

/// Whether the value is a name or an IPv4 address, perhaps with a port, as almost all are.
pub(crate) fn is_plain_host(value: &[u8]) -> bool {
    let is_name_byte = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    match value.iter().position(|byte| !is_name_byte(byte)) {
        None => true,
        Some(at) => {
            value[at] == b':' && value[at + 1..].iter().all(u8::is_ascii_digit) && is_port(&value[at + 1..])
        }
    }
}

/// Whether these digits are a port (RFC 3986, section 3.2.3: perhaps none) that exists.
fn is_port(digits: &[u8]) -> bool {
    let digits = std::str::from_utf8(digits).unwrap_or("-");
    digits.is_empty() || digits.parse::<u16>().is_ok()
}

/// The rest of the grammar: IP literals, sub-delimiters and percent-encoded bytes (RFC 3986, section 3.2.2).
fn is_unusual_host(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else { return false };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((literal, port)) if is_ip_literal(literal) => ("", port),
            _ => return false,
        },
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && is_port(port.as_bytes());
    let has_valid_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    has_valid_port && is_registered_name(host)
}

fn is_ip_literal(text: &str) -> bool {
    let is_future = |text: &str| {
        let part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:".contains(&byte);
        text.split_once('.').is_some_and(|(version, address)| {
            !version.is_empty()
                && version.bytes().all(|byte| byte.is_ascii_hexdigit())
                && !address.is_empty()
                && address.bytes().all(part)
        })
    };
    match text.strip_prefix(['v', 'V']) {
        Some(rest) => is_future(rest),
        None => text.parse::<std::net::Ipv6Addr>().is_ok(),
    }
}

fn is_registered_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let is_valid = match byte {
            b'%' => {
                let digits = [bytes.next(), bytes.next()];
                digits.iter().all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit()))
            }
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte),
        };
        if !is_valid {
            return false;
        }
    }
    true
}

/// The status with which a request is refused for its transfer codings: all but a single `chunked` are (RFC
/// 9112, section 6.1). hyper has already refused those that do not end with `chunked`.
#[must_use]
pub fn refused_coding(headers: &HeaderMap) -> Option<StatusCode> {
    let mut chunked = 0;
    for value in headers.get_all(header::TRANSFER_ENCODING) {
        for coding in codings(value) {
            if !coding.eq_ignore_ascii_case(b"chunked") {
                return Some(StatusCode::NOT_IMPLEMENTED);
            }
            chunked += 1;
        }
    }
    (chunked > 1).then_some(StatusCode::BAD_REQUEST)
}

/// The elements of a list, without the empty ones (RFC 9110, section 5.6.1).
fn codings(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let elements = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    elements.filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_hosts_are_accepted() {
        for host in [
            "",
            "x",
            "X.example.org",
            "x:80",
            "x:",
            ":80",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:80",
            "[::1]:",
            "a_b",
            "x:65535",
            "a%20b",
            "a~b",
            "a!$&'()*+,;=b",
            "[v1.a:b]",
            "x.",
        ] {
            assert!(is_valid_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn invalid_hosts_are_refused() {
        for host in [
            "a b", "a/b", "u@x", "x:y", "x:80:90", "x:99999", "x:-1", "x:+1", "[::1", "::1", "[::1]x", "[x]",
            "[::1]:x", "a\tb", "a%2", "a%zz", "a\"b", "a<b", "a?b", "a#b", "a\\b", "http://x", "\u{e4}",
            "[v.a]", "[vg.a]", "[v1.]", "[]",
        ] {
            assert!(!is_valid_host(host.as_bytes()), "{host}");
        }
        assert!(!is_valid_host(b"\xff"));
    }

    #[test]
    fn single_chunked_is_the_only_coding() {
        let refused = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::TRANSFER_ENCODING, HeaderValue::from_static(value));
            }
            refused_coding(&headers).map(|status| status.as_u16())
        };
        assert_eq!(refused(&[]), None);
        assert_eq!(refused(&["chunked"]), None);
        assert_eq!(refused(&[", Chunked ,"]), None);
        assert_eq!(refused(&["gzip, chunked"]), Some(501));
        assert_eq!(refused(&["gzip", "chunked"]), Some(501));
        assert_eq!(refused(&["identity, chunked"]), Some(501));
        assert_eq!(refused(&["chunked, chunked"]), Some(400));
        assert_eq!(refused(&["chunked", "chunked"]), Some(400));
    }

    proptest::proptest! {
        #[test]
        fn plain_host_is_one_by_the_grammar(host in "[a-z.0-9_:\\[\\]%-]{0,8}") {
            let by_grammar = is_unusual_host(host.as_bytes());
            proptest::prop_assert_eq!(is_valid_host(host.as_bytes()), by_grammar);
        }
    }
}
