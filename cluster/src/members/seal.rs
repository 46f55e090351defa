//! The seal of a datagram.
//!
//! ```text
//! version 1 ‖ fingerprint 4 ‖ salt 16 ‖ counter 8 ‖ AES-256-GCM(content) ‖ tag 16
//! ```
//!
//! Every start of a node has a salt of its own and with it a key of its own (HKDF of the gossip key), so
//! a counter is nonce enough. The header is authenticated with the content.
//!
//! What came before is refused as long as its salt is remembered. What was recorded of a salt that was
//! forgotten, or before this node started, can be played again: gossip only ever moves ahead, so old
//! gossip changes nothing.

use std::{collections::HashMap, sync::atomic::AtomicU64, sync::atomic::Ordering, time::Duration};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Prk},
};
use schema::Entropy;
use tokio::time::Instant;

use super::refusal::Refusal;
use crate::secret::{DeriveError, Secret};

/// UDP over IPv4 carries no more.
pub(super) const MAX_DATAGRAM: usize = 65_507;
const VERSION: u8 = 1;
const FINGERPRINT: usize = 4;
const SALT: usize = 16;
pub(super) const HEADER: usize = 1 + FINGERPRINT + SALT + 8;
const TAG: usize = 16;
/// What a seal adds.
pub(super) const OVERHEAD: usize = HEADER + TAG;
/// How many senders are remembered.
pub(super) const MAX_SENDERS: usize = 1_024;
/// How many datagrams of unknown senders are tried in a second. A try costs microseconds.
const STRANGERS_PER_SECOND: u32 = 10_000;

/// Of every cluster and secret.
#[derive(Clone)]
struct Keys {
    gossip: Prk,
    fingerprint: [u8; FINGERPRINT],
}

impl Keys {
    fn of(secret: &Secret) -> Result<Self, DeriveError> {
        let gossip = Prk::new_less_safe(HKDF_SHA256, secret.derive("gossip")?.as_slice());
        Ok(Self { gossip, fingerprint: secret.fingerprint() })
    }

    fn of_sender(&self, salt: &[u8; SALT]) -> Result<LessSafeKey, DeriveError> {
        let info = [salt.as_slice()];
        let key = self.gossip.expand(&info, &AES_256_GCM).map_err(|_| DeriveError)?;
        Ok(LessSafeKey::new(UnboundKey::from(key)))
    }
}

/// Seals what we send.
pub(super) struct Sealer {
    fingerprint: [u8; FINGERPRINT],
    salt: [u8; SALT],
    key: LessSafeKey,
    next: AtomicU64,
}

/// Opens what others sealed.
pub(super) struct Opener {
    keys: Keys,
    own: [u8; SALT],
    senders: HashMap<[u8; SALT], Sender>,
    /// Counts opened datagrams: who was heard last.
    tick: u64,
    strangers: Budget,
}

struct Sender {
    key: LessSafeKey,
    window: Window,
    heard: u64,
}

/// Both halves, with a fresh salt.
pub(super) fn seals(secret: &Secret, entropy: &dyn Entropy) -> Result<(Sealer, Opener), DeriveError> {
    let keys = Keys::of(secret)?;
    let mut salt = [0; SALT];
    entropy.fill(&mut salt);
    let key = keys.of_sender(&salt)?;
    let sealer = Sealer { fingerprint: keys.fingerprint, salt, key, next: AtomicU64::new(1) };
    let strangers = Budget { since: Instant::now(), left: STRANGERS_PER_SECOND };
    Ok((sealer, Opener { keys, own: salt, senders: HashMap::new(), tick: 0, strangers }))
}

impl Sealer {
    /// Seals the `length` bytes behind the room for the header. Returns how many bytes the datagram has,
    /// or nothing when it would be too long.
    pub(super) fn seal(&self, buffer: &mut [u8], length: usize) -> Option<usize> {
        let whole = length.checked_add(OVERHEAD).filter(|whole| *whole <= MAX_DATAGRAM)?;
        let (header, rest) = buffer.get_mut(..whole)?.split_at_mut_checked(HEADER)?;
        let (content, room) = rest.split_at_mut_checked(length)?;
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        for (place, byte) in header
            .iter_mut()
            .zip([VERSION].into_iter().chain(self.fingerprint).chain(self.salt).chain(counter.to_be_bytes()))
        {
            *place = byte;
        }
        let tag = self.key.seal_in_place_separate_tag(nonce(counter), Aad::from(&*header), content).ok()?;
        room.copy_from_slice(tag.as_ref().get(..TAG)?);
        Some(whole)
    }
}

impl Opener {
    /// What is in a datagram.
    pub(super) fn open<'a>(&mut self, datagram: &'a mut [u8], now: Instant) -> Result<&'a [u8], Refusal> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(Refusal::TooLong);
        }
        if datagram.first().is_some_and(|version| *version != VERSION) {
            return Err(Refusal::OtherVersion);
        }
        if datagram.len() < OVERHEAD {
            return Err(Refusal::Malformed);
        }
        let (header, sealed) = datagram.split_at_mut_checked(HEADER).ok_or(Refusal::Malformed)?;
        let (fingerprint, salt, counter) = parts(header).ok_or(Refusal::Malformed)?;
        if fingerprint != self.keys.fingerprint {
            return Err(Refusal::OtherCluster);
        }
        if salt == self.own {
            return Err(Refusal::Reflected);
        }
        if let Some(sender) = self.senders.get_mut(&salt) {
            if !sender.window.is_new(counter) {
                return Err(Refusal::Replayed);
            }
            let content = open(&sender.key, counter, header, sealed)?;
            self.tick += 1;
            sender.heard = self.tick;
            sender.window.mark(counter);
            return Ok(content);
        }
        if !self.strangers.take(now) {
            return Err(Refusal::TooMany);
        }
        let key = self.keys.of_sender(&salt).map_err(|_| Refusal::OtherSecret)?;
        // Only who knows the secret comes into the map: random bytes push nobody out.
        let content = open(&key, counter, header, sealed)?;
        self.admit(salt, key, counter);
        Ok(content)
    }

    fn admit(&mut self, salt: [u8; SALT], key: LessSafeKey, counter: u64) {
        if self.senders.len() >= MAX_SENDERS
            && let Some(oldest) = self.senders.iter().min_by_key(|(_, s)| s.heard).map(|(salt, _)| *salt)
        {
            self.senders.remove(&oldest);
        }
        self.tick += 1;
        let window = Window { highest: counter, seen: 1 };
        self.senders.insert(salt, Sender { key, window, heard: self.tick });
    }

    /// How many senders are remembered.
    #[cfg(test)]
    pub(super) fn senders(&self) -> usize {
        self.senders.len()
    }
}

fn parts(header: &[u8]) -> Option<([u8; FINGERPRINT], [u8; SALT], u64)> {
    let (fingerprint, rest) = header.get(1..)?.split_first_chunk()?;
    let (salt, counter) = rest.split_first_chunk()?;
    Some((*fingerprint, *salt, u64::from_be_bytes(*counter.first_chunk()?)))
}

fn open<'a>(
    key: &LessSafeKey,
    counter: u64,
    header: &[u8],
    sealed: &'a mut [u8],
) -> Result<&'a [u8], Refusal> {
    let opened = key.open_in_place(nonce(counter), Aad::from(header), sealed);
    opened.map(|content| &*content).map_err(|_| Refusal::OtherSecret)
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    for (place, byte) in nonce.iter_mut().skip(4).zip(counter.to_be_bytes()) {
        *place = byte;
    }
    Nonce::assume_unique_for_key(nonce)
}

/// Which counters of a sender were seen: the highest, and the 63 before it.
struct Window {
    highest: u64,
    /// Bit n is `highest - n`.
    seen: u64,
}

impl Window {
    fn is_new(&self, counter: u64) -> bool {
        match self.highest.checked_sub(counter) {
            None => true,
            Some(behind) => behind < 64 && self.seen & (1 << behind) == 0,
        }
    }

    fn mark(&mut self, counter: u64) {
        match self.highest.checked_sub(counter) {
            Some(behind) if behind < 64 => self.seen |= 1 << behind,
            Some(_) => {}
            None => {
                let ahead = counter - self.highest;
                self.seen = if ahead < 64 { self.seen << ahead | 1 } else { 1 };
                self.highest = counter;
            }
        }
    }
}

/// So much in a second.
struct Budget {
    since: Instant,
    left: u32,
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, left: STRANGERS_PER_SECOND };
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;

    struct Counting(AtomicU64);

    impl Entropy for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            let n = self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            for (place, byte) in bytes.iter_mut().zip(n.into_iter().cycle()) {
                *place = byte;
            }
        }
    }

    static ENTROPY: Counting = Counting(AtomicU64::new(1));

    fn node(byte: u8, cluster: &str) -> (Sealer, Opener) {
        let secret = Secret::new(Zeroizing::new(vec![byte; 32]), cluster).unwrap();
        seals(&secret, &ENTROPY).unwrap()
    }

    fn sealed(sealer: &Sealer, content: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; content.len() + OVERHEAD];
        buffer[HEADER..HEADER + content.len()].copy_from_slice(content);
        assert_eq!(sealer.seal(&mut buffer, content.len()), Some(buffer.len()));
        buffer
    }

    fn opened(opener: &mut Opener, datagram: &[u8]) -> Result<Vec<u8>, Refusal> {
        opener.open(&mut datagram.to_vec(), Instant::now()).map(<[u8]>::to_vec)
    }

    #[test]
    fn opens_what_was_sealed_once() {
        let ((a, _), (_, mut b)) = (node(1, "x"), node(1, "x"));
        for content in [&b""[..], b"hello", &[7; MAX_DATAGRAM - OVERHEAD]] {
            let datagram = sealed(&a, content);
            assert_eq!(opened(&mut b, &datagram), Ok(content.to_vec()));
            assert_eq!(opened(&mut b, &datagram), Err(Refusal::Replayed));
        }
    }

    #[test]
    fn names_what_is_wrong() {
        let ((a, mut own), (_, mut b)) = (node(1, "x"), node(1, "x"));
        assert_eq!(opened(&mut b, &sealed(&node(2, "x").0, b"hello")), Err(Refusal::OtherSecret));
        assert_eq!(opened(&mut b, &sealed(&node(1, "y").0, b"hello")), Err(Refusal::OtherCluster));
        assert_eq!(opened(&mut own, &sealed(&a, b"hello")), Err(Refusal::Reflected));
        assert_eq!(opened(&mut b, &[1; MAX_DATAGRAM + 1]), Err(Refusal::TooLong));
        assert_eq!(opened(&mut b, &[2; 100]), Err(Refusal::OtherVersion));
        assert_eq!(opened(&mut b, &[]), Err(Refusal::Malformed));
        assert_eq!(b.senders(), 0);
    }

    #[test]
    fn nothing_altered_or_cut_is_opened() {
        let ((a, _), (_, mut b)) = (node(1, "x"), node(1, "x"));
        let datagram = sealed(&a, b"who is alive");
        for known in [false, true] {
            for bit in 0..datagram.len() * 8 {
                let mut altered = datagram.clone();
                altered[bit / 8] ^= 1 << (bit % 8);
                assert!(opened(&mut b, &altered).is_err(), "bit {bit}");
            }
            for length in 0..datagram.len() {
                assert!(opened(&mut b, &datagram[..length]).is_err(), "{length} bytes");
            }
            assert_eq!(b.senders(), usize::from(known));
            if !known {
                assert!(opened(&mut b, &datagram).is_ok());
            }
        }
        assert!(opened(&mut b, &sealed(&a, b"the next")).is_ok(), "forgeries move no window");
    }

    #[test]
    fn too_much_is_not_sealed() {
        let (a, _) = node(1, "x");
        let mut buffer = vec![0; MAX_DATAGRAM + 100];
        assert_eq!(a.seal(&mut buffer, MAX_DATAGRAM - OVERHEAD), Some(MAX_DATAGRAM));
        assert_eq!(a.seal(&mut buffer, MAX_DATAGRAM - OVERHEAD + 1), None);
    }

    #[test]
    fn senders_are_bounded_and_who_speaks_stays() {
        let ((a, _), (_, mut b)) = (node(1, "x"), node(1, "x"));
        let first = sealed(&a, b"first");
        assert!(opened(&mut b, &first).is_ok());
        for _ in 0..MAX_SENDERS * 2 {
            assert!(opened(&mut b, &sealed(&node(1, "x").0, b"hello")).is_ok());
            assert!(opened(&mut b, &sealed(&a, b"still here")).is_ok());
        }
        assert_eq!(b.senders(), MAX_SENDERS);
        assert_eq!(opened(&mut b, &first), Err(Refusal::Replayed));
    }

    #[test]
    fn strangers_have_a_budget_that_known_senders_do_not_share() {
        let ((a, _), (_, mut b)) = (node(1, "x"), node(1, "x"));
        assert!(opened(&mut b, &sealed(&a, b"first")).is_ok());
        let now = Instant::now() + Duration::from_secs(5);
        let mut forged = sealed(&node(2, "x").0, b"hello");
        let mut tried = 0;
        while b.open(&mut forged.clone(), now) == Err(Refusal::OtherSecret) {
            tried += 1;
        }
        assert_eq!(tried, STRANGERS_PER_SECOND);
        assert_eq!(b.open(&mut forged.clone(), now), Err(Refusal::TooMany));
        assert!(b.open(&mut sealed(&a, b"second"), now).is_ok());
        let later = now + Duration::from_secs(1);
        assert_eq!(b.open(&mut forged, later), Err(Refusal::OtherSecret));
    }

    proptest! {
        #[test]
        fn a_window_takes_each_number_once_and_none_far_behind(
            counters in proptest::collection::vec(prop_oneof![0..200_u64, Just(u64::MAX), any::<u64>()], 1..200),
        ) {
            let mut window = Window { highest: counters[0], seen: 1 };
            let mut seen = std::collections::HashSet::from([counters[0]]);
            for counter in counters {
                let highest = *seen.iter().max().unwrap();
                let expected = !seen.contains(&counter) && (counter > highest || highest - counter < 64);
                prop_assert_eq!(window.is_new(counter), expected);
                if expected {
                    window.mark(counter);
                    seen.insert(counter);
                }
            }
        }

        #[test]
        fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (_, mut b) = node(1, "x");
            prop_assert!(opened(&mut b, &bytes).is_err());
        }
    }
}
