//! Changes of roles and permissions invalidate cached users.

use actors::{ActorError, CatalogueError, user::GrantChange};
use schema::{
    FactKind, Subject, UserId,
    permission::{Permission, Role},
};

use crate::world::{World, abandoned, eventually, within};

/// Three cached users: one with the role, one with the direct permission, one with neither.
struct Library {
    world: World,
    role: Role,
    by_role: Permission,
    direct: Permission,
    reader: UserId,
    writer: UserId,
    stranger: UserId,
}

impl Library {
    async fn open() -> Self {
        let world = World::start().await;
        let by_role = world.samples.stored_permission(&world.stores, "read_books").await;
        let direct = world.samples.stored_permission(&world.stores, "write_books").await;
        let role = world.samples.stored_role(&world.stores, "reader").await;
        let (role, _) = world.actors.catalogue.add(&role, &by_role).await.unwrap();
        let reader = world.user().await.id;
        let writer = world.user().await.id;
        let stranger = world.user().await.id;
        world.actors.users.give(reader, GrantChange::Role(role.clone())).await.unwrap();
        world.actors.users.give(writer, GrantChange::Permission(direct.clone())).await.unwrap();
        let this = Self { world, role, by_role, direct, reader, writer, stranger };
        assert_eq!(this.seen().await, (true, true));
        assert!(!this.world.may(this.stranger, "read_books").await);
        this
    }

    /// Whether the reader and the writer have their permissions according to the cache.
    async fn seen(&self) -> (bool, bool) {
        let reads = self.world.may(self.reader, "read_books").await;
        (reads, self.world.may(self.writer, "write_books").await)
    }

    fn is_cached(&self, user: UserId) -> bool {
        self.world.facts.snapshots().with(user, |_| ()).is_some()
    }

    fn published(&self, subject: Subject) -> usize {
        self.world.sink.times(FactKind::PermissionsChanged { subject })
    }
}

/// A change of the catalogue.
#[derive(Debug, Clone, Copy)]
enum Change {
    Remove,
    DeleteRole,
    DeleteByRole,
    DeleteDirect,
}

const ALL: [Change; 4] = [Change::Remove, Change::DeleteRole, Change::DeleteByRole, Change::DeleteDirect];

impl Change {
    async fn made(self, library: &Library) -> Result<(), CatalogueError> {
        let catalogue = &library.world.actors.catalogue;
        let call = async {
            match self {
                Self::Remove => catalogue.remove(&library.role, &library.by_role).await.map(drop),
                Self::DeleteRole => catalogue.delete_role(&library.role).await.map(drop),
                Self::DeleteByRole => catalogue.delete_permission(&library.by_role).await.map(drop),
                Self::DeleteDirect => catalogue.delete_permission(&library.direct).await.map(drop),
            }
        };
        within("the change", call).await
    }

    const fn store_call(self) -> &'static str {
        match self {
            Self::Remove => "roles.remove",
            Self::DeleteRole => "roles.delete",
            Self::DeleteByRole | Self::DeleteDirect => "permissions.delete",
        }
    }

    fn subject(self, library: &Library) -> Subject {
        match self {
            Self::Remove | Self::DeleteRole => Subject::Role(library.role.id),
            Self::DeleteByRole => Subject::Permission(library.by_role.id),
            Self::DeleteDirect => Subject::Permission(library.direct.id),
        }
    }

    /// Whether the reader and the writer have their permissions afterwards.
    const fn remaining(self) -> (bool, bool) {
        match self {
            Self::DeleteDirect => (true, false),
            _ => (false, true),
        }
    }

    fn concerns(self, library: &Library) -> UserId {
        if matches!(self, Self::DeleteDirect) { library.writer } else { library.reader }
    }
}

#[tokio::test]
async fn removal_from_the_catalogue_reaches_cached_users() {
    for change in ALL {
        let library = Library::open().await;
        change.made(&library).await.unwrap();
        assert!(!library.is_cached(change.concerns(&library)), "{change:?}");
        assert!(library.is_cached(library.stranger), "{change:?}: an unaffected user");
        assert_eq!(library.seen().await, change.remaining(), "{change:?}");
        assert!(library.published(change.subject(&library)) > 0, "{change:?}");
    }
}

#[tokio::test]
async fn addition_to_a_role_reaches_cached_users() {
    let library = Library::open().await;
    assert!(!library.world.may(library.reader, "write_books").await);
    library.world.actors.catalogue.add(&library.role, &library.direct).await.unwrap();
    assert!(library.world.may(library.reader, "write_books").await);
}

#[tokio::test]
async fn change_without_an_answer_still_invalidates() {
    for change in ALL {
        for happened in [false, true] {
            let library = Library::open().await;
            let before = library.published(change.subject(&library));
            if happened {
                library.world.faults.lose(change.store_call(), 1);
            } else {
                library.world.faults.fail(change.store_call(), 1);
            }
            let made = change.made(&library).await;
            assert_eq!(made, Err(ActorError::Unavailable.into()), "{change:?}");
            assert!(!library.is_cached(change.concerns(&library)), "{change:?}");
            assert_eq!(library.published(change.subject(&library)), before + 1, "{change:?}");
            let expected = if happened { change.remaining() } else { (true, true) };
            assert_eq!(library.seen().await, expected, "{change:?}, happened: {happened}");
        }
    }
}

#[tokio::test]
async fn addition_without_an_answer_still_invalidates() {
    let library = Library::open().await;
    library.world.faults.lose("roles.add", 1);
    let added = library.world.actors.catalogue.add(&library.role, &library.direct).await;
    assert_eq!(added.unwrap_err(), ActorError::Unavailable.into());
    assert!(library.world.may(library.reader, "write_books").await);
}

#[tokio::test]
async fn unpublished_change_is_an_error_and_invalidates_here() {
    for change in ALL {
        let library = Library::open().await;
        library.world.faults.fail("sink.publish", 1);
        assert_eq!(change.made(&library).await, Err(ActorError::Unavailable.into()), "{change:?}");
        assert_eq!(library.seen().await, change.remaining(), "{change:?}");
    }
}

#[tokio::test]
async fn catalogue_change_continues_when_its_caller_goes_away() {
    for change in ALL {
        for (held, calls) in
            [(change.store_call(), true), (change.store_call(), false), ("sink.publish", true)]
        {
            let library = Library::open().await;
            let before = library.published(change.subject(&library));
            let faults = &library.world.faults;
            let hold = if calls { faults.hold_calls(held, 1) } else { faults.hold_answers(held, 1) };
            abandoned(change.made(&library), &hold).await;
            hold.release();
            eventually("the fact", async || library.published(change.subject(&library)) == before + 1).await;
            assert!(!library.is_cached(change.concerns(&library)), "{change:?} {held}");
            assert_eq!(library.seen().await, change.remaining(), "{change:?} {held}");
        }
    }
}

#[tokio::test]
async fn change_of_a_deleted_role_or_permission_is_not_found() {
    for change in ALL {
        let library = Library::open().await;
        match change {
            Change::Remove | Change::DeleteRole => {
                library.world.stores.roles.delete(&library.role.name).await.unwrap();
            }
            Change::DeleteByRole => {
                library.world.stores.permissions.delete(&library.by_role.name).await.unwrap();
            }
            Change::DeleteDirect => {
                library.world.stores.permissions.delete(&library.direct.name).await.unwrap();
            }
        }
        assert_eq!(change.made(&library).await, Err(CatalogueError::NotFound), "{change:?}");
        // Another node may have deleted it, and its fact may not have arrived.
        assert_eq!(library.seen().await, change.remaining(), "{change:?}");
    }
}
