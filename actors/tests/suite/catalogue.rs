//! Changes of roles and permissions reach everybody who is cached.

use actors::{ActorError, CatalogueError, user::GrantChange};
use schema::{
    FactKind, Subject, UserId,
    permission::{Permission, Role},
};

use crate::world::{World, abandoned, eventually, within};

/// Three users who are cached: with the role, with the direct permission, with neither.
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
        let (reader, writer, stranger) =
            (world.user().await.id, world.user().await.id, world.user().await.id);
        world.actors.users.give(reader, GrantChange::Role(role.clone())).await.unwrap();
        world.actors.users.give(writer, GrantChange::Permission(direct.clone())).await.unwrap();
        let this = Self { world, role, by_role, direct, reader, writer, stranger };
        assert_eq!(this.seen().await, (true, true));
        assert!(!this.world.may(this.stranger, "read_books").await);
        this
    }

    /// What the reader and the writer may do, as the cache says.
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

/// A change of the catalogue, the store's part in it, and whom it concerns.
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

    /// What the reader and the writer may do afterwards.
    const fn leaves(self) -> (bool, bool) {
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
async fn what_is_deleted_or_taken_out_reaches_cached_users() {
    for change in ALL {
        let library = Library::open().await;
        change.made(&library).await.unwrap();
        assert!(!library.is_cached(change.concerns(&library)), "{change:?}");
        assert!(library.is_cached(library.stranger), "{change:?}: whom it does not concern");
        assert_eq!(library.seen().await, change.leaves(), "{change:?}");
        assert!(library.published(change.subject(&library)) > 0, "{change:?}");
    }
}

#[tokio::test]
async fn what_is_put_in_reaches_cached_users() {
    let library = Library::open().await;
    assert!(!library.world.may(library.reader, "write_books").await);
    library.world.actors.catalogue.add(&library.role, &library.direct).await.unwrap();
    assert!(library.world.may(library.reader, "write_books").await);
}

#[tokio::test]
async fn a_change_that_the_store_did_not_answer_still_invalidates() {
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
            let expected = if happened { change.leaves() } else { (true, true) };
            assert_eq!(library.seen().await, expected, "{change:?}, happened: {happened}");
        }
    }
}

#[tokio::test]
async fn an_addition_that_the_store_did_not_answer_still_invalidates() {
    let library = Library::open().await;
    library.world.faults.lose("roles.add", 1);
    let added = library.world.actors.catalogue.add(&library.role, &library.direct).await;
    assert_eq!(added.unwrap_err(), ActorError::Unavailable.into());
    assert!(library.world.may(library.reader, "write_books").await);
}

#[tokio::test]
async fn a_change_whose_fact_is_not_published_invalidates_here_and_is_an_error() {
    for change in ALL {
        let library = Library::open().await;
        library.world.faults.fail("sink.publish", 1);
        assert_eq!(change.made(&library).await, Err(ActorError::Unavailable.into()), "{change:?}");
        assert_eq!(library.seen().await, change.leaves(), "{change:?}");
    }
}

#[tokio::test]
async fn a_change_goes_on_when_its_asker_is_gone() {
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
            assert_eq!(library.seen().await, change.leaves(), "{change:?} {held}");
        }
    }
}

#[tokio::test]
async fn what_does_not_exist_any_more_is_not_found() {
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
        // It was deleted by somebody whose fact may not have come here.
        assert_eq!(library.seen().await, change.leaves(), "{change:?}");
    }
}
