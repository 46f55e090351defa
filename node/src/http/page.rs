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

use super::problem::Problem;

/// An id that lists are paged by. The letter keeps one list's tokens out of another.
pub trait PagedBy: Copy + Send {
    /// Of the list.
    const LETTER: u8;
    /// The id's bytes.
    fn bytes(&self) -> [u8; 16];
    /// The id of these bytes.
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

/// The page that was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Paged<Id>(pub PageOf<Id>);

impl<Id: PagedBy, S: Sync> FromRequestParts<S> for Paged<Id> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut page = PageOf { after: None, limit: DEFAULT_LIMIT };
        let pairs = pairs(parts.uri.query().unwrap_or_default())?;
        if pairs.iter().filter(|(name, _)| name == "limit").count() > 1 {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_limit", "limit is there more than once"));
        }
        for (name, value) in pairs {
            match name.as_str() {
                "limit" => {
                    let digits = value.bytes().all(|b| b.is_ascii_digit()).then_some(value);
                    let limit = digits.and_then(|digits| digits.parse().ok());
                    let limit = limit.filter(|limit| (1..=MAX_LIMIT).contains(limit));
                    page.limit = limit.ok_or_else(|| {
                        let msg = format!("limit is a number from 1 to {MAX_LIMIT}");
                        Problem::new(StatusCode::BAD_REQUEST, "bad_limit", msg)
                    })?;
                }
                "page_token" => page.after = Some(from_token(&value).ok_or_else(bad_token)?),
                _ => {}
            }
        }
        Ok(Self(page))
    }
}

fn bad_token() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_page_token", "page_token is not one that this list gave")
}

/// The pairs of the query, decoded.
///
/// # Errors
/// 400 when the percent-encoding is no UTF-8.
pub fn pairs(query: &str) -> Result<Vec<(String, String)>, Problem> {
    let bad = || Problem::new(StatusCode::BAD_REQUEST, "bad_query", "The query of the URL cannot be read");
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced).decode_utf8().map(std::borrow::Cow::into_owned)
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name).map_err(|_| bad())?, decode(value).map_err(|_| bad())?))
        })
        .collect()
}

/// A page of those that are to be shown. They are chosen before the page is cut, so that what has ended
/// leaves no empty pages behind.
///
/// # Errors
/// When a part of the list cannot be read.
pub async fn filled<T, Id: Copy, E, F>(
    page: PageOf<Id>,
    id: impl Fn(&T) -> Id,
    is_shown: impl Fn(&T) -> bool,
    read: impl Fn(PageOf<Id>) -> F,
) -> Result<Page<T, Id>, E>
where
    F: Future<Output = Result<Page<T, Id>, E>>,
{
    let (mut shown, mut after, mut limit) = (Vec::new(), page.after, page.limit);
    loop {
        let found = read(PageOf { after, limit }).await?;
        shown.extend(found.items.into_iter().filter(&is_shown));
        after = found.next;
        if after.is_none() || shown.len() > page.limit {
            return Ok(Page::cut(shown, page.limit, id));
        }
        // Whoever has to look further looks at more at a time.
        limit = MAX_LIMIT;
    }
}

/// The token that asks for what comes after this id.
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
    fn a_token_belongs_to_its_list() {
        let user = UserId::from_bytes([7; 16]);
        let token = to_token(&user);
        assert_eq!(from_token::<UserId>(&token), Some(user));
        assert_eq!(from_token::<SessionId>(&token), None);
        for bad in ["", "x", "AAAA", &format!("{token}A"), &format!("{token}=")] {
            assert_eq!(from_token::<UserId>(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn pages_are_full_until_nothing_is_left_to_show() {
        let list: Vec<u32> = (1..=1_000).collect();
        let read = |page: PageOf<u32>| {
            let rest = list.iter().copied().filter(|n| page.after.is_none_or(|after| *n > after));
            let cut = Page::cut(rest.take(page.limit + 1).collect(), page.limit, |n| *n);
            std::future::ready(Ok::<_, ()>(cut))
        };
        for (limit, is_shown) in [
            (1, (|n| *n > 990) as fn(&u32) -> bool),
            (2, |n| n.is_multiple_of(7)),
            (7, |n| n.is_multiple_of(143)),
            (200, |_| true),
            (3, |_| false),
        ] {
            let (mut all, mut after) = (Vec::new(), None);
            loop {
                let page = filled(PageOf { after, limit }, |n| *n, is_shown, &read).await.unwrap();
                assert!(page.items.len() == limit || page.next.is_none(), "a page in the middle is full");
                all.extend(page.items);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(all, list.iter().copied().filter(is_shown).collect::<Vec<_>>());
        }
    }
}
