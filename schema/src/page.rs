//! Pages of lists.

/// How many items a page has when nothing is said.
pub const DEFAULT_LIMIT: usize = 50;
/// How many items a page may have.
pub const MAX_LIMIT: usize = 200;

/// Which part of a list: what comes after `after`, at most `limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageOf<Id> {
    /// The last item that was seen; `None` for the beginning.
    pub after: Option<Id>,
    /// At least 1, at most [`MAX_LIMIT`].
    pub limit: usize,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, Id> {
    /// In the list's order.
    pub items: Vec<T>,
    /// To ask for what comes next; `None` when this is the end.
    pub next: Option<Id>,
}

impl<T, Id> Page<T, Id> {
    /// Cuts `limit + 1` fetched items to a page: the one too many says that there are more.
    #[must_use]
    pub fn cut(mut items: Vec<T>, limit: usize, id: impl Fn(&T) -> Id) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        Self { next: if more { items.last().map(id) } else { None }, items }
    }

    /// The same page of other things.
    #[must_use]
    pub fn map<U>(self, each: impl FnMut(T) -> U) -> Page<U, Id> {
        Page { items: self.items.into_iter().map(each).collect(), next: self.next }
    }
}
