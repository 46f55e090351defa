//! Pages of lists.

/// Number of items of a page if the caller gives no limit.
pub const DEFAULT_LIMIT: usize = 50;
/// Limit of items of a page.
pub const MAX_LIMIT: usize = 200;

/// A request for a part of a list: at most `limit` items after `after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageOf<Id> {
    /// The last item of the previous page; `None` for the first page.
    pub after: Option<Id>,
    /// The maximum number of items: at least 1, at most [`MAX_LIMIT`].
    pub limit: usize,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, Id> {
    /// The items, in the order of the list.
    pub items: Vec<T>,
    /// [`PageOf::after`] of the next page; `None` on the last page.
    pub next: Option<Id>,
}

impl<T, Id> Page<T, Id> {
    /// Makes a page of up to `limit + 1` fetched items: the extra item tells that there is a next page.
    #[must_use]
    pub fn cut(mut items: Vec<T>, limit: usize, id: impl Fn(&T) -> Id) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        Self { next: if more { items.last().map(id) } else { None }, items }
    }

    /// Converts each item.
    #[must_use]
    pub fn map<U>(self, each: impl FnMut(T) -> U) -> Page<U, Id> {
        Page { items: self.items.into_iter().map(each).collect(), next: self.next }
    }
}
