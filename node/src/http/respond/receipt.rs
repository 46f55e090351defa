//! Answers of calls that publish facts. Their headers report how far the facts have spread.

use actors::{Durability, Receipt};
use axum::{
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};

/// The `Palisade-Visible` header: `k/n`, when k of n live peers have acknowledged the facts.
pub const VISIBLE: HeaderName = HeaderName::from_static("palisade-visible");
/// The `Palisade-Durability` header: `store` or `journal`.
pub const DURABILITY: HeaderName = HeaderName::from_static("palisade-durability");

/// An answer with `Palisade-Visible: k/n` and `Palisade-Durability`.
#[derive(Debug)]
pub struct WithReceipt<T>(pub Receipt, pub T);

impl<T: IntoResponse> IntoResponse for WithReceipt<T> {
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
