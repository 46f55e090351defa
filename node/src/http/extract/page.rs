//! Paged lists: `?limit=` and an opaque `?page_token=`.

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use schema::{
    LoginId, SessionId, UserId,
    page::{DEFAULT_LIMIT, MAX_LIMIT, Page, PageOf},
};

use crate::{accounts::permission_queries, http::respond::problem::Problem};

/// An id that lists are paged by.
pub trait PagedBy: Copy + Send {
    /// Begins the page tokens of the list, so that another list refuses them.
    const LETTER: u8;
    /// The id's bytes.
    fn bytes(&self) -> [u8; 16];
    /// The id that these bytes encode.
    fn of(bytes: [u8; 16]) -> Self;
}

macro_rules! paged_by {
    ($($id:ty = $letter:literal),*) => {$(
        impl PagedBy for $id {
            const LETTER: u8 = $letter;
            fn bytes(&self) -> [u8; 16] {
                *self.as_bytes()
            }
            fn of(bytes: [u8; 16]) -> Self {
                Self::from_bytes(bytes)
            }
        }
    )*};
}
paged_by!(UserId = b'u', SessionId = b's', LoginId = b'l');

/// The page that the caller requests.
#[derive(Debug, Clone, Copy)]
pub struct Paged<Id>(pub PageOf<Id>);

impl<Id: PagedBy, S: Sync> FromRequestParts<S> for Paged<Id> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut page = PageOf { after: None, limit: DEFAULT_LIMIT };
        let url_query = parts.uri.query().unwrap_or_default();
        if let Some(value) = parameter(url_query, "limit", "bad_limit")? {
            let digits = value.bytes().all(|b| b.is_ascii_digit()).then_some(value);
            let limit = digits.and_then(|digits| digits.parse().ok());
            let limit = limit.filter(|limit| (1..=MAX_LIMIT).contains(limit));
            page.limit = limit.ok_or_else(|| {
                let msg = format!("limit is a number from 1 to {MAX_LIMIT}");
                Problem::new(StatusCode::BAD_REQUEST, "bad_limit", msg)
            })?;
        }
        if let Some(token) = parameter(url_query, "page_token", "bad_page_token")? {
            page.after = Some(from_token(&token).ok_or_else(bad_token)?);
        }
        Ok(Self(page))
    }
}

fn bad_token() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_page_token", "page_token is not one that this list gave")
}

/// The names and values of the URL's query, decoded.
///
/// # Errors
/// 400 if the decoded bytes are not UTF-8.
pub fn pairs(url_query: &str) -> Result<Vec<(String, String)>, Problem> {
    permission_queries::pairs(url_query).map_err(|_| {
        Problem::new(StatusCode::BAD_REQUEST, "bad_query", "The query of the URL cannot be read")
    })
}

/// The value of a parameter in the URL's query. Other parameters are ignored.
///
/// # Errors
/// 400 if the query cannot be read, or with `code` if the parameter is there more than once.
pub fn parameter(url_query: &str, name: &str, code: &'static str) -> Result<Option<String>, Problem> {
    let mut values = pairs(url_query)?.into_iter().filter(|(found, _)| found == name);
    let value = values.next().map(|(_, value)| value);
    match values.next() {
        None => Ok(value),
        Some(_) => {
            Err(Problem::new(StatusCode::BAD_REQUEST, code, format!("{name} is there more than once")))
        }
    }
}

/// A page of the visible items. They are selected before the page is cut, so that hidden items do not leave
/// pages empty.
///
/// # Errors
/// The list cannot be read.
pub async fn filled_page<T, Id: Copy, E, F>(
    page: PageOf<Id>,
    id: impl Fn(&T) -> Id,
    is_visible: impl Fn(&T) -> bool,
    read: impl Fn(PageOf<Id>) -> F,
) -> Result<Page<T, Id>, E>
where
    F: Future<Output = Result<Page<T, Id>, E>>,
{
    let mut visible = Vec::new();
    let mut after = page.after;
    let mut limit = page.limit;
    loop {
        let found = read(PageOf { after, limit }).await?;
        visible.extend(found.items.into_iter().filter(&is_visible));
        after = found.next;
        if after.is_none() || visible.len() > page.limit {
            return Ok(Page::cut(visible, page.limit, id));
        }
        // The first read did not fill the page: further ones read as much as possible.
        limit = MAX_LIMIT;
    }
}

/// The views of a page's items, and the token of the next page.
pub fn views<T, Id: PagedBy, V>(page: Page<T, Id>, view: impl FnMut(T) -> V) -> (Vec<V>, Option<String>) {
    let next_page_token = page.next.as_ref().map(to_token);
    (page.items.into_iter().map(view).collect(), next_page_token)
}

/// The token of the page that follows this id.
pub fn to_token<Id: PagedBy>(id: &Id) -> String {
    URL_SAFE_NO_PAD.encode([&[Id::LETTER], &id.bytes()[..]].concat())
}

fn from_token<Id: PagedBy>(text: &str) -> Option<Id> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (letter, id) = bytes.split_first()?;
    (*letter == Id::LETTER).then(|| id.try_into().ok().map(Id::of))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_token_belongs_to_one_list() {
        let user = UserId::from_bytes([7; 16]);
        let token = to_token(&user);
        assert_eq!(from_token::<UserId>(&token), Some(user));
        assert_eq!(from_token::<SessionId>(&token), None);
        for bad in ["", "x", "AAAA", &format!("{token}A"), &format!("{token}=")] {
            assert_eq!(from_token::<UserId>(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn pages_are_full_until_the_list_ends() {
        let list: Vec<u32> = (1..=1_000).collect();
        let read = |page: PageOf<u32>| {
            let rest = list.iter().copied().filter(|n| page.after.is_none_or(|after| *n > after));
            let cut = Page::cut(rest.take(page.limit + 1).collect(), page.limit, |n| *n);
            std::future::ready(Ok::<_, ()>(cut))
        };
        for (limit, is_visible) in [
            (1, (|n| *n > 990) as fn(&u32) -> bool),
            (2, |n| n.is_multiple_of(7)),
            (7, |n| n.is_multiple_of(143)),
            (200, |_| true),
            (3, |_| false),
        ] {
            let mut all = Vec::new();
            let mut after = None;
            loop {
                let page = filled_page(PageOf { after, limit }, |n| *n, is_visible, &read).await.unwrap();
                assert!(page.items.len() == limit || page.next.is_none(), "a page in the middle is full");
                all.extend(page.items);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(all, list.iter().copied().filter(is_visible).collect::<Vec<_>>());
        }
    }
}
