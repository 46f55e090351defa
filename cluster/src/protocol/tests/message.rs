use super::super::message::{
    Applied, Forgotten, LogHead, MESSAGE_BYTES_MAX, Message, OPTIONAL_KIND_MIN, SEQ_MAX, TIME_MAX_MS,
};
use super::*;

fn seq() -> impl Strategy<Value = u64> {
    prop_oneof![0..1_000_u64, 0..=SEQ_MAX, Just(SEQ_MAX)]
}

fn any_origin() -> impl Strategy<Value = Origin> {
    (any_id(), 0..=TIME_MAX_MS)
        .prop_map(|(node, incarnation)| Origin { node: NodeId::from_bytes(node), incarnation })
}

fn any_forgotten() -> impl Strategy<Value = Forgotten> {
    (seq(), 0..=TIME_MAX_MS).prop_map(|(seq, ms)| Forgotten { seq, until: Timestamp::from_millis(ms) })
}

fn any_head() -> impl Strategy<Value = LogHead> {
    (any_origin(), seq(), seq(), 0..=TIME_MAX_MS, any_forgotten()).prop_map(
        |(origin, complete, highest, ms, forgotten)| LogHead {
            origin,
            complete,
            highest,
            until: Timestamp::from_millis(ms),
            forgotten,
        },
    )
}

pub(super) fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        prop::collection::vec(any_head(), 0..20).prop_map(Message::Heads),
        (any_origin(), 1..=SEQ_MAX - 20, prop::collection::vec(any_fact(), 0..20))
            .prop_map(|(origin, first, facts)| Message::Facts { origin, first, facts }),
        (seq(), seq(), seq())
            .prop_map(|(complete, from, to)| Message::Ack(Applied { complete, newest: (from, to) })),
        (any_origin(), seq(), seq()).prop_map(|(origin, first, last)| Message::Pull { origin, first, last }),
        (any_origin(), seq(), any_forgotten()).prop_map(|(origin, last, forgotten)| Message::Pulled {
            origin,
            last,
            forgotten
        }),
        any::<u64>().prop_map(|nonce| Message::Ping { nonce }),
        (any::<u64>(), seq()).prop_map(|(nonce, head)| Message::Pong { nonce, head }),
        any::<u64>().prop_map(|at| Message::Clock { at: Timestamp::from_millis(at) }),
        (any_origin(), seq(), prop::collection::vec(any::<u64>(), 0..20))
            .prop_map(|(origin, first, sums)| Message::Digests { origin, first, sums }),
        seq().prop_map(|head| Message::Leaving { head }),
        (seq(), seq()).prop_map(|(first, last)| Message::Keep { first, last }),
        (seq(), seq()).prop_map(|(first, last)| Message::Kept { first, last }),
    ]
}

fn bytes(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

/// The memory that a decoded message takes beside its own size.
fn memory(message: &Message) -> usize {
    match message {
        Message::Heads(heads) => heads.capacity() * size_of::<LogHead>(),
        Message::Facts { facts, .. } => facts.capacity() * size_of::<Fact>(),
        Message::Digests { sums, .. } => sums.capacity() * size_of::<u64>(),
        _ => 0,
    }
}

proptest! {
    #[test]
    fn every_message_is_decoded_as_it_was_encoded(message in any_message()) {
        prop_assert_eq!(Message::decode(&bytes(&message)), Ok(Some(message)));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused_in_bounded_memory(
        kind in 0..=16_u8,
        rest in prop::collection::vec(any::<u8>(), 0..2_000),
    ) {
        let mut bytes = vec![kind];
        bytes.extend(rest);
        if let Ok(Some(message)) = Message::decode(&bytes) {
            // A vector doubles, and its elements are a little larger than their bytes.
            prop_assert!(memory(&message) <= 8 * bytes.len() + 1_024);
        }
    }

    #[test]
    fn cut_or_extended_message_is_never_the_same(
        message in any_message(), cut in any::<prop::sample::Index>(), more in 1..9_usize,
    ) {
        let bytes = bytes(&message);
        let shorter = Message::decode(&bytes[..cut.index(bytes.len())]);
        prop_assert_ne!(shorter, Ok(Some(message.clone())));
        let longer = [bytes, vec![0; more]].concat();
        prop_assert_ne!(Message::decode(&longer), Ok(Some(message)));
    }

    #[test]
    fn altered_message_is_harmless(
        message in any_message(), at in any::<prop::sample::Index>(), to in any::<u8>(),
    ) {
        let mut bytes = bytes(&message);
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(Some(message)) = Message::decode(&bytes) {
            prop_assert!(memory(&message) <= 8 * bytes.len() + 1_024);
        }
    }
}

#[test]
fn message_of_fixed_length_has_exactly_that_length() {
    let forgotten = Forgotten::default();
    for message in [
        Message::Ack(Applied { complete: 3, newest: (5, 9) }),
        Message::Pull { origin: origin(1), first: 1, last: 2 },
        Message::Pulled { origin: origin(1), last: 2, forgotten },
        Message::Ping { nonce: 1 },
        Message::Pong { nonce: 1, head: 2 },
        Message::Leaving { head: 2 },
        Message::Clock { at: Timestamp::from_millis(7) },
    ] {
        let bytes = bytes(&message);
        for length in 0..bytes.len() {
            assert!(Message::decode(&bytes[..length]).is_err(), "{message:?} cut at {length}");
        }
        assert!(Message::decode(&[bytes, vec![0]].concat()).is_err(), "{message:?} with more");
    }
    assert!(Message::decode(&[]).is_err());
}

#[test]
fn list_ends_only_between_two_elements() {
    let head = LogHead {
        origin: origin(1),
        complete: 1,
        highest: 2,
        until: Timestamp::EPOCH,
        forgotten: Forgotten::default(),
    };
    let until = Timestamp::from_millis(7);
    for (message, fixed, element) in [
        (Message::Heads(vec![head; 2]), 1, 64),
        (Message::Facts { origin: origin(1), first: 1, facts: vec![fact(1, until); 2] }, 33, 25),
        (Message::Digests { origin: origin(1), first: 1, sums: vec![1, 2] }, 33, 8),
    ] {
        let bytes = bytes(&message);
        assert_eq!(bytes.len(), fixed + 2 * element, "{message:?}");
        for length in 0..bytes.len() {
            let whole = length >= fixed && (length - fixed).is_multiple_of(element);
            assert_eq!(Message::decode(&bytes[..length]).is_ok(), whole, "{message:?} cut at {length}");
        }
    }
}

#[test]
fn impossible_numbers_are_refused() {
    let until = Timestamp::from_millis(7);
    let origin = origin(1);
    let beyond = SEQ_MAX + 1;
    for message in [
        Message::Ack(Applied { complete: beyond, newest: (0, 0) }),
        Message::Ack(Applied { complete: 0, newest: (beyond, 0) }),
        Message::Ack(Applied { complete: 0, newest: (0, u64::MAX) }),
        Message::Pull { origin, first: beyond, last: 1 },
        Message::Pull { origin, first: 1, last: beyond },
        Message::Pulled { origin, last: beyond, forgotten: Forgotten::default() },
        Message::Pulled { origin, last: 1, forgotten: Forgotten { seq: beyond, until } },
        Message::Pong { nonce: 1, head: beyond },
        Message::Leaving { head: beyond },
        Message::Digests { origin, first: beyond, sums: Vec::new() },
        Message::Facts { origin, first: 0, facts: Vec::new() },
        Message::Facts { origin, first: 0, facts: vec![fact(1, until)] },
        Message::Facts { origin, first: SEQ_MAX, facts: vec![fact(1, until); 2] },
        Message::Facts { origin, first: u64::MAX, facts: vec![fact(1, until)] },
    ] {
        assert!(Message::decode(&bytes(&message)).is_err(), "{message:?}");
    }
}

#[test]
fn unknown_kind_is_skipped_only_if_optional() {
    // The first three optional kinds are known.
    for kind in OPTIONAL_KIND_MIN + 3..=u8::MAX {
        assert_eq!(Message::decode(&[kind]), Ok(None));
        assert_eq!(Message::decode(&[kind, 1, 2, 3]), Ok(None));
    }
    for kind in (0..OPTIONAL_KIND_MIN).filter(|kind| !(1..=9).contains(kind)) {
        assert!(Message::decode(&[kind, 1, 2, 3]).is_err(), "{kind}");
    }
    let until = Timestamp::from_millis(7);
    let mut bytes = bytes(&Message::Facts { origin: origin(1), first: 1, facts: vec![fact(1, until)] });
    bytes[33] = 99;
    assert!(Message::decode(&bytes).is_err(), "a fact that is not understood cannot be applied");
}

#[test]
fn largest_messages_fit_into_a_frame() {
    let until = Timestamp::MAX;
    let head = LogHead { origin: origin(1), complete: 1, highest: 2, until, forgotten: Forgotten::default() };
    let kind = FactKind::SessionRevoked {
        user: UserId::from_bytes([1; 16]),
        session: SessionId::from_bytes([1; 16]),
    };
    let batch = super::super::Tuning::default().batch_max;
    for message in [
        Message::Heads(vec![head; 512]),
        Message::Facts { origin: origin(1), first: 1, facts: vec![Fact { kind, until }; batch] },
        Message::Digests { origin: origin(1), first: 1, sums: vec![1; 1_024] },
    ] {
        assert!(bytes(&message).len() <= MESSAGE_BYTES_MAX);
    }
}

#[test]
fn applied_covers_only_applied_entries() {
    let applied = Applied { complete: 10, newest: (20, 30) };
    for (first, last, is) in [
        (1, 10, true),
        (10, 11, false),
        (19, 20, false),
        (20, 30, true),
        (25, 26, true),
        (30, 31, false),
        (5, 25, false),
    ] {
        assert_eq!(applied.covers(first, last), is, "{first}..={last}");
    }
    assert!(!Applied::default().covers(1, 1));
}

#[test]
fn absurd_values_are_refused() {
    let until = Timestamp::from_millis(7);
    let user = UserId::from_bytes([1; 16]);
    let one = |kind, until| Message::Facts { origin: origin(1), first: 1, facts: vec![Fact { kind, until }] };
    let version = |at_least| one(FactKind::UserVersion { user, at_least }, until);
    let of = |origin| Message::Pull { origin, first: 1, last: 1 };
    let lives = |incarnation| Origin { incarnation, ..origin(1) };
    let late = Timestamp::from_millis(TIME_MAX_MS + 1);
    let session = |session| FactKind::SessionRevoked { user, session: SessionId::from_bytes(session) };
    let owner = |user| FactKind::SessionRevoked {
        user: UserId::from_bytes(user),
        session: SessionId::from_bytes([1; 16]),
    };
    let head = |until, forgotten| {
        let forgotten = Forgotten { seq: 1, until: forgotten };
        Message::Heads(vec![LogHead { origin: origin(1), complete: 1, highest: 1, until, forgotten }])
    };
    let nobody = [[0; 16], [0xff; 16]];
    for message in [version(MAX_VERSION), of(lives(TIME_MAX_MS)), of(lives(0)), head(until, until)] {
        assert!(Message::decode(&bytes(&message)).is_ok(), "{message:?}");
    }
    let mut absurd = vec![
        version(MAX_VERSION + 1),
        version(u64::MAX),
        one(FactKind::TokenRevoked { token: TokenId::from_bytes([1; 16]) }, late),
        one(FactKind::TokenRevoked { token: TokenId::from_bytes([1; 16]) }, Timestamp::MAX),
        of(lives(TIME_MAX_MS + 1)),
        of(lives(u64::MAX)),
        head(late, until),
        head(until, Timestamp::MAX),
    ];
    for id in nobody {
        absurd.push(of(Origin { node: NodeId::from_bytes(id), incarnation: 1 }));
        let subjects = [
            Subject::User(UserId::from_bytes(id)),
            Subject::Role(RoleId::from_bytes(id)),
            Subject::Permission(PermissionId::from_bytes(id)),
        ];
        let kinds = [
            session(id),
            owner(id),
            FactKind::TokenRevoked { token: TokenId::from_bytes(id) },
            FactKind::KeyRetired { key: KeyId::from_bytes(id) },
            FactKind::UserVersion { user: UserId::from_bytes(id), at_least: 1 },
        ];
        let changed = subjects.map(|subject| FactKind::PermissionsChanged { subject });
        absurd.extend(kinds.into_iter().chain(changed).map(|kind| one(kind, until)));
    }
    for message in absurd {
        assert!(Message::decode(&bytes(&message)).is_err(), "{message:?}");
    }
}
