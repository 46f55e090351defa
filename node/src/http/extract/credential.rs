//! The one definition of a request's credential, for the fast path's parser and for the router.

use axum::http::{HeaderMap, header};
use schema::{Refusal, authorization::bearer};

/// The bearer token of a request, or the refusal of its `Authorization` header.
pub type Token<'a> = Result<&'a [u8], Refusal>;

/// Finds the credential while headers are read one by one, in any order.
#[derive(Debug, Clone, Copy, Default)]
pub struct Credential<'a> {
    token: Option<Token<'a>>,
}

impl<'a> Credential<'a> {
    /// Takes the value of an `Authorization` header (RFC 6750, section 2.1). A request with two such headers is
    /// refused.
    #[inline]
    pub fn authorization(&mut self, value: &'a [u8]) {
        self.token = Some(match self.token {
            None => bearer(Some(value)),
            Some(_) => Err(Refusal::RepeatedHeader),
        });
    }

    /// The token, after all headers have been read.
    #[inline]
    pub fn token(self) -> Token<'a> {
        self.token.unwrap_or_else(|| bearer(None))
    }
}

/// The token in a map of headers.
pub fn token(headers: &HeaderMap) -> Token<'_> {
    let mut credential = Credential::default();
    for value in headers.get_all(header::AUTHORIZATION) {
        credential.authorization(value.as_bytes());
    }
    credential.token()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn second_authorization_header_is_refused() {
        let headers = |values: &[&'static str]| -> HeaderMap {
            values.iter().map(|value| (header::AUTHORIZATION, HeaderValue::from_static(value))).collect()
        };
        assert_eq!(token(&headers(&["Bearer a.b.c"])), Ok(&b"a.b.c"[..]));
        assert_eq!(token(&headers(&[])), bearer(None));
        assert_eq!(token(&headers(&["Bearer a", "Bearer a"])), Err(Refusal::RepeatedHeader));
        assert_eq!(token(&headers(&["Basic a", "Bearer a"])), Err(Refusal::RepeatedHeader));
    }
}
