//! Permission snapshots: what a user may do, as read from the store at some moment.
//!
//! Promises: [`Snapshots::with`] takes no lock and touches no mailbox; [`Snapshots::invalidate`]
//! may be called by anyone and has taken effect when it returns; a load that began before an
//! invalidation is never published after it.
//!
//! How the last is kept: every user has an epoch (users share a fixed number of them). An
//! invalidation first raises the epoch, then removes the snapshot. A publisher notes the epoch
//! before it reads the store, and compares it while it holds the entry: either it sees that the
//! epoch was raised, or the removal waits for the entry and comes after the insertion.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use foldhash::fast::RandomState;
use scc::{HashIndex, hash_index::Entry};
use schema::{PermissionId, RoleId, Subject, UserId, name::Name, permission::Effective};

use super::Names;

/// Users share this many epochs; a collision costs one needless reload.
const EPOCHS: usize = 1_024;

/// What a user may do.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Whether there is such a user at all.
    pub exists: bool,
    /// By boot time.
    loaded_at: Duration,
    /// Which numbered names the user has.
    bits: Box<[u64]>,
    /// All of them, sorted.
    names: Box<[Name]>,
    roles: Box<[RoleId]>,
    permissions: Box<[PermissionId]>,
}

impl Snapshot {
    /// From what the store says, asked at this boot time.
    #[must_use]
    pub fn new(exists: bool, effective: &Effective, loaded_at: Duration, names: &Names) -> Self {
        let mut bits = Vec::new();
        for permission in &effective.combined {
            if let Some(number) = names.give(&permission.name) {
                let (word, bit) = place(number);
                bits.resize(bits.len().max(word + 1), 0);
                bits[word] |= bit;
            }
        }
        let mut names: Box<[Name]> = effective.combined.iter().map(|p| p.name.clone()).collect();
        names.sort_unstable();
        Self {
            exists,
            loaded_at,
            bits: bits.into(),
            names,
            roles: effective.roles.iter().map(|role| role.id).collect(),
            permissions: effective.combined.iter().map(|p| p.id).collect(),
        }
    }

    /// Whether the user has the permission of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names.binary_search_by(|had| had.as_str().cmp(name)).is_ok()
    }

    /// Whether the user has the permission of the name with this number.
    pub(super) fn has_number(&self, number: u32) -> bool {
        let (word, bit) = place(number);
        self.bits.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// All names, sorted.
    #[must_use]
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// How many bytes it takes, about.
    pub(super) fn bytes(&self) -> usize {
        /// The pointer to a name, the counters before its text, and what the allocator takes.
        const BESIDE_NAME: usize = 48;
        let names: usize = self.names.iter().map(|name| name.as_str().len() + BESIDE_NAME).sum();
        let ids = size_of_val(&*self.roles) + size_of_val(&*self.permissions);
        size_of::<Self>() + size_of_val(&*self.bits) + ids + names
    }

    fn rests_on(&self, subject: Subject) -> bool {
        match subject {
            Subject::User(_) => false,
            Subject::Role(role) => self.roles.contains(&role),
            Subject::Permission(permission) => self.permissions.contains(&permission),
        }
    }
}

/// Where the bit of a number is.
const fn place(number: u32) -> (usize, u64) {
    (number as usize / 64, 1 << (number % 64))
}

/// The snapshots that readers see.
#[derive(Debug)]
pub struct Snapshots {
    published: HashIndex<UserId, Arc<Snapshot>, RandomState>,
    epochs: Box<[AtomicU64]>,
    names: Names,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self {
            published: HashIndex::with_hasher(RandomState::default()),
            epochs: (0..EPOCHS).map(|_| AtomicU64::new(0)).collect(),
            names: Names::default(),
        }
    }
}

impl Snapshots {
    /// Reads the snapshot of a user, if there is one.
    pub fn with<T>(&self, user: UserId, read: impl FnOnce(&Snapshot) -> T) -> Option<T> {
        self.published.peek_with(&user, |_, snapshot| read(snapshot))
    }

    /// The numbers that names have in these snapshots.
    #[must_use]
    pub const fn names(&self) -> &Names {
        &self.names
    }

    /// What is known about the subject is old from now on.
    pub fn invalidate(&self, subject: Subject) {
        if let Subject::User(user) = subject {
            self.epoch(user).fetch_add(1, Ordering::SeqCst);
            self.published.remove_sync(&user);
        } else {
            self.repeat_loads();
            self.published.retain_sync(|_, snapshot| !snapshot.rests_on(subject));
        }
    }

    /// What was loaded before that boot time is loaded again when it is asked for.
    pub fn forget_older(&self, than: Duration) {
        self.published.retain_sync(|_, snapshot| snapshot.loaded_at >= than);
    }

    /// All that is known is old from now on.
    pub fn clear(&self) {
        self.repeat_loads();
        self.published.clear_sync();
    }

    /// Rare, so it may cost: every load under way is repeated.
    fn repeat_loads(&self) {
        self.epochs.iter().for_each(|epoch| {
            epoch.fetch_add(1, Ordering::SeqCst);
        });
    }

    /// How many snapshots there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.published.len()
    }

    /// The epoch to note before reading the store.
    pub(super) fn epoch_of(&self, user: UserId) -> u64 {
        self.epoch(user).load(Ordering::SeqCst)
    }

    /// Publishes what was read since the epoch was noted; says whether it is still good.
    pub(super) fn publish(&self, user: UserId, epoch: u64, snapshot: Arc<Snapshot>) -> bool {
        let entry = self.published.entry_sync(user);
        if self.epoch_of(user) != epoch {
            return false;
        }
        match entry {
            Entry::Occupied(mut old) => old.update(snapshot),
            Entry::Vacant(free) => drop(free.insert_entry(snapshot)),
        }
        true
    }

    /// Makes room.
    pub(super) fn evict(&self, user: UserId) {
        self.published.remove_sync(&user);
    }

    fn epoch(&self, user: UserId) -> &AtomicU64 {
        let bytes = user.as_bytes();
        &self.epochs[usize::from(u16::from_be_bytes([bytes[14], bytes[15]])) % EPOCHS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: UserId = UserId::from_bytes([1; 16]);

    #[test]
    fn a_load_that_began_before_an_invalidation_is_never_published() {
        let snapshots = Snapshots::default();
        for subject in [
            Subject::User(ANN),
            Subject::Role(RoleId::from_bytes([2; 16])),
            Subject::Permission(PermissionId::from_bytes([3; 16])),
        ] {
            let epoch = snapshots.epoch_of(ANN);
            snapshots.invalidate(subject);
            assert!(!snapshots.publish(ANN, epoch, Arc::default()), "{subject:?}");
            assert!(snapshots.with(ANN, |_| ()).is_none());
        }
        assert!(snapshots.publish(ANN, snapshots.epoch_of(ANN), Arc::default()));
        assert!(snapshots.with(ANN, |_| ()).is_some());
    }

    #[test]
    fn racing_publishers_and_invalidations_leave_nothing_old() {
        // The "store" is a number; a snapshot that says less than the number said before the last
        // finished invalidation is old.
        let (snapshots, store) = (Snapshots::default(), AtomicU64::new(0));
        let read = |n: u64| {
            let roles = [RoleId::from_bytes(u128::from(n).to_be_bytes())].into();
            Arc::new(Snapshot { roles, ..Snapshot::default() })
        };
        let shown = |s: &Snapshot| u128::from_be_bytes(*s.roles[0].as_bytes());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let epoch = snapshots.epoch_of(ANN);
                        let value = store.load(Ordering::SeqCst);
                        snapshots.publish(ANN, epoch, read(value));
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let written = store.fetch_add(1, Ordering::SeqCst) + 1;
                    snapshots.invalidate(Subject::User(ANN));
                    if let Some(seen) = snapshots.with(ANN, shown) {
                        assert!(seen >= u128::from(written), "{seen} after {written}");
                    }
                }
            });
        });
    }
}
