//! Answers of calls that take something away or change what someone may do: they say who knows.

use actors::{Durability, Receipt};
use axum::{
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};

/// `Palisade-Visible`.
pub const VISIBLE: HeaderName = HeaderName::from_static("palisade-visible");
/// `Palisade-Durability`.
pub const DURABILITY: HeaderName = HeaderName::from_static("palisade-durability");

/// An answer with `Palisade-Visible: k/n` and `Palisade-Durability`.
#[derive(Debug)]
pub struct Taken<T>(pub Receipt, pub T);

impl<T: IntoResponse> IntoResponse for Taken<T> {
    fn into_response(self) -> Response {
        let Self(receipt, answer) = self;
        (headers(receipt), answer).into_response()
    }
}

fn headers(receipt: Receipt) -> HeaderMap {
    let visible = format!("{}/{}", receipt.visible, receipt.live);
    let durability = match receipt.durability {
        Durability::Store => "store",
        Durability::Journal => "journal",
    };
    let mut headers = HeaderMap::new();
    headers.insert(VISIBLE, visible.parse().unwrap_or(HeaderValue::from_static("0/0")));
    headers.insert(DURABILITY, HeaderValue::from_static(durability));
    headers
}
