//! Permission queries made ready to be asked again and again.
//!
//! Names that users have are numbers here ([`Names`]), a snapshot is a set of bits, and a query that was
//! compiled tests bits. A name that has no number is looked up among the user's names by its text, so a
//! compiled query always answers as the query itself.

use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::fast::RandomState;
use scc::{HashIndex, hash_index::Entry};
use schema::{Name, Query};

use super::Snapshot;

/// How many names get a number: a snapshot has a bit for each, half a kilobyte at most. Names that come later
/// are compared by their text.
const MAX_NAMES: u32 = 4_096;

/// Names of permissions as small numbers.
///
/// Only what a user has gets a number: questions about names that nobody has, which anybody may ask, leave
/// nothing here. A number is given once and for ever, and when there are no more, there will never be: so a
/// name with a number has had it in every snapshot that contains the name.
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
    /// The number of a name that a user has; `None` when all numbers are given.
    pub(super) fn give(&self, name: &Name) -> Option<u32> {
        if let Some(number) = self.number(name) {
            return Some(number);
        }
        match self.numbers.entry_sync(name.clone()) {
            Entry::Occupied(entry) => Some(*entry.get()),
            Entry::Vacant(entry) => {
                let more = |next| (next < MAX_NAMES).then_some(next + 1);
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

/// A query whose names are numbers, as far as they have one.
#[derive(Debug)]
pub enum Compiled {
    /// Has the permission of this number.
    Number(u32),
    /// Has the permission of this name.
    Name(Name),
    /// At least one of these holds.
    Any(Box<[Compiled]>),
    /// All of these hold.
    All(Box<[Compiled]>),
}

impl Compiled {
    /// Of a query.
    #[must_use]
    pub fn new(query: &Query, names: &Names) -> Self {
        let all = |queries: &[Query]| queries.iter().map(|query| Self::new(query, names)).collect();
        match query {
            Query::Name(name) => names.number(name).map_or_else(|| Self::Name(name.clone()), Self::Number),
            Query::Any(queries) => Self::Any(all(queries)),
            Query::All(queries) => Self::All(all(queries)),
        }
    }

    /// Whether it holds for who has what the snapshot says.
    #[must_use]
    pub fn holds(&self, user: &Snapshot) -> bool {
        match self {
            Self::Number(number) => user.has_number(*number),
            Self::Name(name) => user.has(name.as_str()),
            Self::Any(queries) => queries.iter().any(|query| query.holds(user)),
            Self::All(queries) => queries.iter().all(|query| query.holds(user)),
        }
    }

    /// How many bytes it holds beside itself, about.
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
    fn a_query_compiled_before_its_names_had_numbers_still_answers() {
        let names = Names::default();
        let query = Query::parse(r#"{"all":["a","b"]}"#).unwrap();
        let early = Compiled::new(&query, &names);
        let (both, one) = (having(&names, &["a", "b"]), having(&names, &["b", "c"]));
        let late = Compiled::new(&query, &names);
        assert!(matches!(&late, Compiled::All(parts) if matches!(parts[0], Compiled::Number(_))));
        for compiled in [early, late] {
            assert!(compiled.holds(&both));
            assert!(!compiled.holds(&one));
        }
    }

    #[test]
    fn when_numbers_run_out_names_are_compared() {
        let names = Names { next: AtomicU32::new(MAX_NAMES - 1), ..Names::default() };
        let user = having(&names, &["a", "b"]);
        for (text, holds) in [("a", true), ("b", true), ("c", false)] {
            let query = Query::parse(&format!("{text:?}")).unwrap();
            assert_eq!(Compiled::new(&query, &names).holds(&user), holds, "{text}");
        }
        assert_eq!(names.numbers.len(), 1);
    }

    #[test]
    fn asking_leaves_nothing() {
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
        fn compiled_queries_answer_as_queries(
            query in any_query(),
            had in prop::collection::btree_set("[a-h]", 0..8),
            earlier in prop::collection::btree_set("[a-h]", 0..8),
        ) {
            let names = Names::default();
            let texts = |set: &std::collections::BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
            let (had, earlier) = (texts(&had), texts(&earlier));
            having(&names, &earlier.iter().map(String::as_str).collect::<Vec<_>>());
            let early = Compiled::new(&query, &names);
            let user = having(&names, &had.iter().map(String::as_str).collect::<Vec<_>>());
            let expected = query.holds(&|name| had.iter().any(|had| had == name));
            prop_assert_eq!(early.holds(&user), expected);
            prop_assert_eq!(Compiled::new(&query, &names).holds(&user), expected);
        }
    }
}
