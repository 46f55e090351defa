//! Security headers: browsers must not guess the type of an answer, send its address in `Referer`, embed it, or
//! load anything from it.

use axum::http::{HeaderMap, HeaderValue, header};

const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");
/// `Content-Security-Policy` of answers that are not pages.
const NO_PAGE: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// [`NOSNIFF`] and [`NO_REFERRER`] as lines of HTTP/1.1.
macro_rules! bodiless {
    () => {
        "x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n"
    };
}
/// [`NO_PAGE`] as a line of HTTP/1.1.
macro_rules! no_page {
    () => {
        "content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n"
    };
}
pub(in crate::http) use {bodiless, no_page};

/// The security headers of an answer with a body that is not a page, as lines of HTTP/1.1.
pub const NO_PAGE_LINES: &str = concat!(bodiless!(), no_page!());

/// Adds the security headers. A page brings its own `Content-Security-Policy`; an answer without a content
/// type has no body.
pub fn guard(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers.insert(header::REFERRER_POLICY, NO_REFERRER);
    if headers.contains_key(header::CONTENT_TYPE) {
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(NO_PAGE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(content_type: Option<&'static str>) -> String {
        let mut headers = HeaderMap::new();
        if let Some(kind) = content_type {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        guard(&mut headers);
        let names =
            [header::X_CONTENT_TYPE_OPTIONS, header::REFERRER_POLICY, header::CONTENT_SECURITY_POLICY];
        let line = |name: &header::HeaderName| {
            headers.get(name).map(|value| format!("{name}: {}\r\n", value.to_str().unwrap()))
        };
        names.iter().filter_map(line).collect()
    }

    #[test]
    fn header_lines_match_header_map() {
        assert_eq!(lines(None), bodiless!());
        assert_eq!(lines(Some("application/json")), NO_PAGE_LINES);
    }
}
