//! Whether an unanswered change of a session was applied, told from the current row.

use schema::session::Session;

use crate::cas::Reconciled;

/// Reconciles the insertion of a session. It is never repeated: if both copies of the write were
/// applied, the later one might come after the session has ended.
pub(super) fn added(current: Option<&Session>, new: &Session) -> Reconciled {
    match current {
        None => Reconciled::Unknown,
        Some(current) if current == new => Reconciled::Applied,
        Some(_) => Reconciled::Superseded,
    }
}

/// Reconciles a rotation. Whole rows are compared, because two rotations may want the same live token.
pub(super) fn rotated(current: Option<&Session>, previous: &Session, next: &Session) -> Reconciled {
    match current {
        Some(current) if current == next => Reconciled::Applied,
        // If the live token changes, it is enough that the previous one is stored: that is the condition.
        Some(current) if current.live == previous.live && previous.live != next.live => {
            Reconciled::NotApplied
        }
        Some(current) if current == previous => Reconciled::NotApplied,
        _ => Reconciled::Superseded,
    }
}

/// Reconciles the end of a session.
pub(super) const fn ended(current: Option<&Session>) -> Reconciled {
    match current {
        // Ended by this write or, at the same time, by another node.
        None => Reconciled::Applied,
        Some(_) => Reconciled::NotApplied,
    }
}

/// Reconciles the end of a session on the condition that its user version is below `version`.
pub(super) const fn ended_if_older(current: Option<&Session>, version: u64) -> Reconciled {
    match current {
        None => Reconciled::Applied,
        Some(current) if current.user_version < version => Reconciled::NotApplied,
        Some(_) => Reconciled::Superseded,
    }
}

#[cfg(test)]
mod tests {
    use schema::{
        SessionId, Timestamp, UserId,
        session::{SecretHash, Spent},
    };

    use super::*;
    use Reconciled::{Applied, NotApplied, Superseded, Unknown};

    fn session(live: u8) -> Session {
        let at = Timestamp::from_millis(1_795_258_320_123);
        Session {
            id: SessionId::from_bytes([1; 16]),
            user: UserId::from_bytes([2; 16]),
            user_version: 3,
            device: None,
            ip_address: [192, 0, 2, 1].into(),
            user_agent: None,
            created_at: at,
            last_used_at: at,
            expires_at: at,
            live: SecretHash::new([live; 32]),
            spent: Vec::new(),
        }
    }

    fn with_spent(session: &Session) -> Session {
        let spent = Spent {
            hash: SecretHash::new([9; 32]),
            at: session.created_at,
            successor_expires_at: session.expires_at,
        };
        Session { spent: vec![spent], ..session.clone() }
    }

    #[test]
    fn added_session_is_reconciled() {
        let new = session(1);
        for (current, reconciled) in [
            (None, Unknown),
            (Some(session(1)), Applied),
            (Some(session(2)), Superseded),
            (Some(with_spent(&new)), Superseded),
        ] {
            assert_eq!(added(current.as_ref(), &new), reconciled, "{current:?}");
        }
    }

    #[test]
    fn rotation_is_reconciled() {
        let previous = session(1);
        let next = session(2);
        for (current, reconciled) in [
            (None, Superseded),
            (Some(next.clone()), Applied),
            (Some(previous.clone()), NotApplied),
            (Some(with_spent(&previous)), NotApplied),
            // The same live token, written by another rotation.
            (Some(with_spent(&next)), Superseded),
            (Some(session(3)), Superseded),
        ] {
            assert_eq!(rotated(current.as_ref(), &previous, &next), reconciled, "{current:?}");
        }
    }

    #[test]
    fn rotation_that_keeps_the_live_token_is_reconciled() {
        let previous = session(1);
        let next = Session { user_version: 4, ..session(1) };
        for (current, reconciled) in [
            (None, Superseded),
            (Some(next.clone()), Applied),
            (Some(previous.clone()), NotApplied),
            (Some(with_spent(&previous)), Superseded),
            (Some(session(2)), Superseded),
        ] {
            assert_eq!(rotated(current.as_ref(), &previous, &next), reconciled, "{current:?}");
        }
        assert_eq!(
            rotated(Some(&previous), &previous, &previous),
            Applied,
            "a rotation that changes nothing"
        );
    }

    #[test]
    fn ended_session_is_reconciled() {
        assert_eq!(ended(None), Applied);
        assert_eq!(ended(Some(&session(1))), NotApplied);
        for (version, reconciled) in [(3, Superseded), (4, NotApplied)] {
            assert_eq!(ended_if_older(Some(&session(1)), version), reconciled);
        }
        assert_eq!(ended_if_older(None, 4), Applied);
    }
}
