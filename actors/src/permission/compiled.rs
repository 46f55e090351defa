//! Permission queries compiled for repeated use.
//!
//! Names that users have become numbers ([`Names`]), a snapshot is a set of bits, and a compiled query
//! tests bits. A name without a number is looked up by its text among the user's names. Promise: a
//! compiled query always gives the answer of the query itself.

use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::fast::RandomState;
use scc::{HashIndex, hash_index::Entry};
use schema::{Name, Query};

use super::Snapshot;

/// How many names get a number: a snapshot has a bit for each, half a kilobyte at most. Later names are
/// compared by their text.
const NUMBERED_NAMES_MAX: u32 = 4_096;

/// Small numbers for the names of permissions.
///
/// Only names that a user has get a number: any caller may query names that no user has, and such queries
/// take no memory here. A number is never changed or freed, and once the numbers are used up, no further
/// name gets one. So a name with a number has that number in every snapshot that contains the name.
#[derive(Debug)]
pub struct Names {
    numbers: HashIndex<Name, u32, RandomState>,
    next: AtomicU32,
}

impl Default for Names {
    fn default() -> Self {
        Self { numbers: HashIndex::with_hasher(RandomState::default()), next: AtomicU32::new(0) }
    }
}

impl Names {
    /// The number of a name that a user has, assigned if it has none; `None` when all numbers are used up.
    pub(super) fn assign(&self, name: &Name) -> Option<u32> {
        if let Some(number) = self.number(name) {
            return Some(number);
        }
        match self.numbers.entry_sync(name.clone()) {
            Entry::Occupied(entry) => Some(*entry.get()),
            Entry::Vacant(entry) => {
                let more = |next| (next < NUMBERED_NAMES_MAX).then_some(next + 1);
                let number = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
                drop(entry.insert_entry(number));
                Some(number)
            }
        }
    }

    fn number(&self, name: &Name) -> Option<u32> {
        self.numbers.peek_with(name, |_, number| *number)
    }
}

/// A query in which each name with a number is replaced by the number.
#[derive(Debug)]
pub enum Compiled {
    /// Holds if the user has the permission whose name has this number.
    Number(u32),
    /// Holds if the user has the permission of this name.
    Name(Name),
    /// Holds if at least one of these holds.
    Any(Box<[Compiled]>),
    /// Holds if all of these hold.
    All(Box<[Compiled]>),
}

impl Compiled {
    /// Compiles a query.
    #[must_use]
    pub fn new(query: &Query, names: &Names) -> Self {
        let all = |queries: &[Query]| queries.iter().map(|query| Self::new(query, names)).collect();
        match query {
            Query::Name(name) => names.number(name).map_or_else(|| Self::Name(name.clone()), Self::Number),
            Query::Any(queries) => Self::Any(all(queries)),
            Query::All(queries) => Self::All(all(queries)),
        }
    }

    /// Whether the query holds for the user of this snapshot.
    #[must_use]
    pub fn holds(&self, user: &Snapshot) -> bool {
        match self {
            Self::Number(number) => user.has_number(*number),
            Self::Name(name) => user.has(name.as_str()),
            Self::Any(queries) => queries.iter().any(|query| query.holds(user)),
            Self::All(queries) => queries.iter().all(|query| query.holds(user)),
        }
    }

    /// The approximate number of bytes on the heap.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Number(_) => 0,
            Self::Name(name) => name.as_str().len() + 2 * size_of::<usize>(),
            Self::Any(queries) | Self::All(queries) => {
                queries.iter().map(|query| size_of::<Self>() + query.bytes()).sum()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schema::{
        PermissionId,
        permission::{Effective, Permission},
    };

    use super::*;

    fn having(names: &Names, had: &[&str]) -> Snapshot {
        let mut had = had.to_vec();
        had.sort_unstable();
        let permission = |name: &&str| Permission {
            id: PermissionId::from_bytes([0; 16]),
            name: name.parse().unwrap(),
            description: None,
        };
        let effective = Effective { combined: had.iter().map(permission).collect(), ..Effective::default() };
        Snapshot::new(true, &effective, std::time::Duration::ZERO, names)
    }

    #[test]
    fn query_compiled_before_names_had_numbers_still_answers() {
        let names = Names::default();
        let query = Query::parse(r#"{"all":["a","b"]}"#).unwrap();
        let early = Compiled::new(&query, &names);
        let both = having(&names, &["a", "b"]);
        let one = having(&names, &["b", "c"]);
        let late = Compiled::new(&query, &names);
        assert!(matches!(&late, Compiled::All(parts) if matches!(parts[0], Compiled::Number(_))));
        for compiled in [early, late] {
            assert!(compiled.holds(&both));
            assert!(!compiled.holds(&one));
        }
    }

    #[test]
    fn names_beyond_the_limit_are_compared_by_text() {
        let names = Names { next: AtomicU32::new(NUMBERED_NAMES_MAX - 1), ..Names::default() };
        let user = having(&names, &["a", "b"]);
        for (text, holds) in [("a", true), ("b", true), ("c", false)] {
            let query = Query::parse(&format!("{text:?}")).unwrap();
            assert_eq!(Compiled::new(&query, &names).holds(&user), holds, "{text}");
        }
        assert_eq!(names.numbers.len(), 1);
    }

    #[test]
    fn query_of_unknown_names_assigns_no_number() {
        let names = Names::default();
        let _ = Compiled::new(&Query::parse(r#"{"any":["x","y"]}"#).unwrap(), &names);
        assert_eq!(names.numbers.len(), 0);
    }

    fn any_query() -> impl Strategy<Value = Query> {
        let leaf = "[a-h]".prop_map(|name| Query::Name(name.parse().unwrap()));
        leaf.prop_recursive(4, 64, 5, |inner| {
            (any::<bool>(), prop::collection::vec(inner, 0..5)).prop_map(|(all, parts)| {
                if all { Query::All(parts.into()) } else { Query::Any(parts.into()) }
            })
        })
    }

    proptest! {
        #[test]
        fn compiled_query_answers_as_the_query(
            query in any_query(),
            had in prop::collection::btree_set("[a-h]", 0..8),
            earlier in prop::collection::btree_set("[a-h]", 0..8),
        ) {
            let names = Names::default();
            let texts = |set: &std::collections::BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
            let had = texts(&had);
            let earlier = texts(&earlier);
            having(&names, &earlier.iter().map(String::as_str).collect::<Vec<_>>());
            let early = Compiled::new(&query, &names);
            let user = having(&names, &had.iter().map(String::as_str).collect::<Vec<_>>());
            let expected = query.holds(&|name| had.iter().any(|had| had == name));
            prop_assert_eq!(early.holds(&user), expected);
            prop_assert_eq!(Compiled::new(&query, &names).holds(&user), expected);
        }
    }
}
