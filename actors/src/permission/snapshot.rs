//! Permission snapshots: the permissions of a user, as read from the store at some moment.
//!
//! Promises: [`Snapshots::with`] takes no lock and touches no mailbox; [`Snapshots::invalidate`]
//! may be called on any thread and has taken effect when it returns. Never: a load that began before
//! an invalidation is published after it.
//!
//! This is how the last rule holds: every user has an epoch (users share a fixed number of them). An
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

/// The number of epochs, which users share; a collision costs one needless reload.
const EPOCH_COUNT: usize = 1_024;

/// The permissions of one user.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Whether the user exists.
    pub exists: bool,
    /// The start of the load, by boot time.
    loaded_at: Duration,
    /// One bit for each name with a number, set if the user has the permission.
    bits: Box<[u64]>,
    /// The names of all permissions of the user, sorted.
    names: Box<[Name]>,
    roles: Box<[RoleId]>,
    permissions: Box<[PermissionId]>,
}

impl Snapshot {
    /// Creates a snapshot of permissions whose load started at `loaded_at`, by boot time.
    #[must_use]
    pub fn new(exists: bool, effective: &Effective, loaded_at: Duration, names: &Names) -> Self {
        let mut bits = Vec::new();
        for permission in &effective.combined {
            if let Some(number) = names.assign(&permission.name) {
                let bit = Bit::of(number);
                bits.resize(bits.len().max(bit.word + 1), 0);
                bits[bit.word] |= bit.mask;
            }
        }
        let mut names: Box<[Name]> =
            effective.combined.iter().map(|permission| permission.name.clone()).collect();
        names.sort_unstable();
        Self {
            exists,
            loaded_at,
            bits: bits.into(),
            names,
            roles: effective.roles.iter().map(|role| role.id).collect(),
            permissions: effective.combined.iter().map(|permission| permission.id).collect(),
        }
    }

    /// Whether the user has the permission of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names.binary_search_by(|had| had.as_str().cmp(name)).is_ok()
    }

    /// Whether the user has the permission of the name with this number.
    pub(super) fn has_number(&self, number: u32) -> bool {
        let bit = Bit::of(number);
        self.bits.get(bit.word).is_some_and(|word| word & bit.mask != 0)
    }

    /// The names of all permissions of the user, sorted.
    #[must_use]
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// The approximate size in bytes.
    pub(super) fn bytes(&self) -> usize {
        /// Bytes beside the text: the pointer to a name, the counters before its text, and the allocator's.
        const NAME_OVERHEAD: usize = 48;
        let names: usize = self.names.iter().map(|name| name.as_str().len() + NAME_OVERHEAD).sum();
        let ids = size_of_val(&*self.roles) + size_of_val(&*self.permissions);
        size_of::<Self>() + size_of_val(&*self.bits) + ids + names
    }

    /// Whether a change of the role or permission may change this snapshot.
    fn depends_on(&self, subject: Subject) -> bool {
        match subject {
            Subject::User(_) => false,
            Subject::Role(role) => self.roles.contains(&role),
            Subject::Permission(permission) => self.permissions.contains(&permission),
        }
    }
}

/// The bit of a numbered name in [`Snapshot::bits`].
struct Bit {
    word: usize,
    mask: u64,
}

impl Bit {
    const fn of(number: u32) -> Self {
        Self { word: number as usize / 64, mask: 1 << (number % 64) }
    }
}

/// The published snapshots.
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
            epochs: (0..EPOCH_COUNT).map(|_| AtomicU64::new(0)).collect(),
            names: Names::default(),
        }
    }
}

impl Snapshots {
    /// Reads the snapshot of a user, if one is published.
    pub fn with<T>(&self, user: UserId, read: impl FnOnce(&Snapshot) -> T) -> Option<T> {
        self.published.peek_with(&user, |_, snapshot| read(snapshot))
    }

    /// The numbers of names in these snapshots.
    #[must_use]
    pub const fn names(&self) -> &Names {
        &self.names
    }

    /// Removes the snapshots that depend on the subject. Loads under way that may depend on it are repeated.
    pub fn invalidate(&self, subject: Subject) {
        if let Subject::User(user) = subject {
            self.epoch(user).fetch_add(1, Ordering::SeqCst);
            self.published.remove_sync(&user);
        } else {
            self.repeat_loads();
            self.published.retain_sync(|_, snapshot| !snapshot.depends_on(subject));
        }
    }

    /// Removes snapshots whose load started before this boot time.
    pub fn forget_older(&self, than: Duration) {
        self.published.retain_sync(|_, snapshot| snapshot.loaded_at >= than);
    }

    /// Removes all snapshots, and repeats all loads under way.
    pub fn clear(&self) {
        self.repeat_loads();
        self.published.clear_sync();
    }

    /// Repeats every load under way. This is costly, but rare.
    fn repeat_loads(&self) {
        self.epochs.iter().for_each(|epoch| {
            epoch.fetch_add(1, Ordering::SeqCst);
        });
    }

    /// The number of published snapshots.
    #[must_use]
    pub fn count(&self) -> usize {
        self.published.len()
    }

    /// The user's epoch, which a load notes before it reads the store.
    pub(super) fn epoch_of(&self, user: UserId) -> u64 {
        self.epoch(user).load(Ordering::SeqCst)
    }

    /// Publishes a snapshot, unless the epoch was raised since the load noted it; returns whether it did.
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

    /// Removes the user's snapshot to make room; a load under way is not repeated.
    pub(super) fn evict(&self, user: UserId) {
        self.published.remove_sync(&user);
    }

    fn epoch(&self, user: UserId) -> &AtomicU64 {
        let bytes = user.as_bytes();
        &self.epochs[usize::from(u16::from_be_bytes([bytes[14], bytes[15]])) % EPOCH_COUNT]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: UserId = UserId::from_bytes([1; 16]);

    #[test]
    fn load_begun_before_an_invalidation_is_not_published() {
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
    fn racing_invalidations_leave_no_stale_snapshot() {
        // The "store" is a number. A snapshot is stale if its number is below the store's number before the
        // last finished invalidation.
        let snapshots = Snapshots::default();
        let store = AtomicU64::new(0);
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
