//! Finding the key of a token that names a key this node does not know.
//!
//! Another node may have published the key since this node read the keys. The store is read at most once a second
//! for all requests together, and one request waits for that at most once.

use schema::{KeyId, Refusal, Timestamp};

use super::Tokens;
use crate::{credentials::keys::LOOKUP_INTERVAL, scheduling::source::Source};

/// Requests that may wait at a time for the store's answer about an unknown key.
pub(super) const KEY_SEARCHES_MAX: usize = 1_024;

/// What a request has learnt about signing keys that this node did not know.
#[derive(Debug)]
pub struct KeySearch {
    arrived: Timestamp,
    /// When the store was read for this request; `Some(None)` if it did not answer.
    last_read: Option<Option<Timestamp>>,
    /// Whether this request has waited for the next read of the store.
    waited: bool,
}

impl KeySearch {
    /// Whether a key that signed at `issued_at`, in seconds, may be younger than the read of the store at
    /// `read_at`. A token from the future proves nothing: any caller can make one up, and each would cause a
    /// read.
    fn may_have_missed(&self, issued_at: u64, read_at: Timestamp) -> bool {
        let arrived = self.arrived.as_secs();
        read_at < self.arrived && read_at.as_secs() < issued_at && issued_at <= arrived
    }
}

impl Tokens {
    /// The key search of a request that arrives now, which has learnt nothing yet.
    #[must_use]
    pub fn key_search(&self) -> KeySearch {
        KeySearch { arrived: self.clock.now(), last_read: None, waited: false }
    }

    /// Returns `Ok` if the key that the token names exists. Reads the store if this node does not know the
    /// key, or the key may be younger than the last read: at most once a second for all requests together.
    /// One request waits for that at most once, however many tokens it has.
    pub(super) async fn find_key(
        &self,
        key: KeyId,
        issued_at: u64,
        source: Source,
        search: &mut KeySearch,
    ) -> Result<(), Refusal> {
        let mut read_at = match search.last_read.or_else(|| self.ring.looked_up(self.clock.now())) {
            Some(read_at) => read_at,
            None => self.look_up(source).await?,
        };
        let is_known = || self.ring.knows(key);
        if !search.waited
            && !is_known()
            && let Some(at) = read_at
            && search.may_have_missed(issued_at, at)
        {
            let _place = self.searches.hold(source, 1).map_err(|_| Refusal::Busy)?;
            search.waited = true;
            tokio::time::sleep(at.plus(LOOKUP_INTERVAL).since(self.clock.now()).min(LOOKUP_INTERVAL)).await;
            read_at = self.ring.look_up(&self.stores, &self.master, &self.denials, &*self.clock).await;
        }
        search.last_read = Some(read_at);
        match (is_known(), read_at) {
            (true, _) => Ok(()),
            (false, None) => Err(Refusal::CannotKnow),
            (false, Some(_)) => Err(Refusal::SignatureFailed),
        }
    }

    /// Reads the keys from the store, or waits for the request that reads them already.
    async fn look_up(&self, source: Source) -> Result<Option<Timestamp>, Refusal> {
        let _place = self.searches.hold(source, 1).map_err(|_| Refusal::Busy)?;
        Ok(self.ring.look_up(&self.stores, &self.master, &self.denials, &*self.clock).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_waits_only_for_keys_younger_than_the_answer() {
        let search = KeySearch { arrived: Timestamp::from_millis(100_500), last_read: None, waited: false };
        let missed =
            |issued_at, last_read_ms| search.may_have_missed(issued_at, Timestamp::from_millis(last_read_ms));
        assert!(missed(100, 99_900), "issued after the store was read");
        assert!(!missed(99, 99_900), "issued before");
        assert!(!missed(101, 99_900), "of the future");
        assert!(!missed(160, 99_900), "of the future, within the skew of clocks");
        assert!(!missed(100, 100_600), "read after the request arrived");
    }
}
