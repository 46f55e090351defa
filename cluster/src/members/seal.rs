//! The encryption of a gossip datagram.
//!
//! ```text
//! version 1 ‖ fingerprint 4 ‖ salt 16 ‖ counter 8 ‖ AES-256-GCM(content) ‖ tag 16
//! ```
//!
//! Every start of a node has its own salt and so its own key (HKDF of the gossip key), so a counter suffices
//! as nonce. The header is authenticated with the content.
//!
//! Promises: a datagram that arrived before is refused as long as the salt of its sender is remembered. A
//! recording of a forgotten salt, or from before this node's start, can be replayed; gossip only moves
//! forward, so it changes nothing.

use std::{collections::HashMap, sync::atomic::AtomicU64, sync::atomic::Ordering, time::Duration};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Prk},
};
use schema::Entropy;
use tokio::time::Instant;

use super::refusal::Refusal;
use crate::{
    secret::{DeriveError, Secret},
    timer,
};

/// The maximum size of a datagram over IPv4, in bytes.
pub(super) const DATAGRAM_BYTES_MAX: usize = 65_507;
/// The version of the format of datagrams.
const FORMAT_VERSION: u8 = 1;
const FINGERPRINT_BYTES: usize = 4;
const SALT_BYTES: usize = 16;
pub(super) const HEADER_BYTES: usize = 1 + FINGERPRINT_BYTES + SALT_BYTES + 8;
const TAG_BYTES: usize = 16;
/// What encryption adds to a datagram, in bytes.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;
/// The maximum number of senders that are remembered.
pub(super) const SENDERS_MAX: usize = 1_024;
/// The maximum number of datagrams of unknown senders that are decrypted in a second. Each costs
/// microseconds.
const STRANGERS_PER_SECOND_MAX: u32 = 10_000;

/// The gossip key of a secret.
struct GossipKey(Prk);

impl GossipKey {
    /// The keys of all secrets with which this node accepts datagrams; that of its own secret first.
    fn all_of(secret: &Secret) -> Result<Vec<Self>, DeriveError> {
        let keys = secret.derive_accepted("gossip")?;
        Ok(keys.iter().map(|key| Self(Prk::new_less_safe(HKDF_SHA256, key.as_slice()))).collect())
    }

    fn of_sender(&self, salt: &[u8; SALT_BYTES]) -> Result<LessSafeKey, DeriveError> {
        let info = [salt.as_slice()];
        let key = self.0.expand(&info, &AES_256_GCM).map_err(|_| DeriveError)?;
        Ok(LessSafeKey::new(UnboundKey::from(key)))
    }
}

/// Encrypts what this node sends.
pub(super) struct Sealer {
    fingerprint: [u8; FINGERPRINT_BYTES],
    salt: [u8; SALT_BYTES],
    key: LessSafeKey,
    next: AtomicU64,
}

/// Decrypts what other nodes send.
pub(super) struct Opener {
    fingerprint: [u8; FINGERPRINT_BYTES],
    /// The keys of unknown senders, in the order in which they are tried.
    keys: Vec<GossipKey>,
    own: [u8; SALT_BYTES],
    senders: HashMap<[u8; SALT_BYTES], Sender>,
    /// Counts decrypted datagrams, to know which sender was silent for the longest time.
    tick: u64,
    strangers: Budget,
}

struct Sender {
    key: LessSafeKey,
    window: Window,
    last_tick: u64,
}

/// Both halves, with a new salt.
pub(super) fn seals(secret: &Secret, entropy: &dyn Entropy) -> Result<(Sealer, Opener), DeriveError> {
    let keys = GossipKey::all_of(secret)?;
    let fingerprint = secret.fingerprint();
    let mut salt = [0; SALT_BYTES];
    entropy.fill(&mut salt);
    let key = keys.first().ok_or(DeriveError)?.of_sender(&salt)?;
    let sealer = Sealer { fingerprint, salt, key, next: AtomicU64::new(1) };
    let strangers = Budget { since: timer::now(), remaining: STRANGERS_PER_SECOND_MAX };
    Ok((sealer, Opener { fingerprint, keys, own: salt, senders: HashMap::new(), tick: 0, strangers }))
}

impl Sealer {
    /// Encrypts the `length` bytes behind the space for the header. Returns the size of the datagram, or
    /// `None` if it would be too long.
    pub(super) fn seal(&self, buffer: &mut [u8], length: usize) -> Option<usize> {
        let whole = length.checked_add(OVERHEAD_BYTES).filter(|whole| *whole <= DATAGRAM_BYTES_MAX)?;
        let (header, rest) = buffer.get_mut(..whole)?.split_at_mut_checked(HEADER_BYTES)?;
        let (content, room) = rest.split_at_mut_checked(length)?;
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        for (target, byte) in header.iter_mut().zip(
            [FORMAT_VERSION]
                .into_iter()
                .chain(self.fingerprint)
                .chain(self.salt)
                .chain(counter.to_be_bytes()),
        ) {
            *target = byte;
        }
        let tag = self.key.seal_in_place_separate_tag(nonce(counter), Aad::from(&*header), content).ok()?;
        room.copy_from_slice(tag.as_ref().get(..TAG_BYTES)?);
        Some(whole)
    }
}

impl Opener {
    /// Decrypts a datagram.
    pub(super) fn open<'a>(&mut self, datagram: &'a mut [u8], now: Instant) -> Result<&'a [u8], Refusal> {
        if datagram.len() > DATAGRAM_BYTES_MAX {
            return Err(Refusal::TooLong);
        }
        if datagram.first().is_some_and(|version| *version != FORMAT_VERSION) {
            return Err(Refusal::OtherVersion);
        }
        if datagram.len() < OVERHEAD_BYTES {
            return Err(Refusal::Malformed);
        }
        let (header, sealed) = datagram.split_at_mut_checked(HEADER_BYTES).ok_or(Refusal::Malformed)?;
        let (fingerprint, salt, counter) = parts(header).ok_or(Refusal::Malformed)?;
        if fingerprint != self.fingerprint {
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
            sender.last_tick = self.tick;
            sender.window.mark(counter);
            return Ok(content);
        }
        if !self.strangers.take(now) {
            return Err(Refusal::TooMany);
        }
        // Only senders that know a secret are remembered, so random bytes evict none.
        let key = self.key_of_stranger(&salt, counter, header, sealed)?;
        let content = open(&key, counter, header, sealed)?;
        self.admit(salt, key, counter);
        Ok(content)
    }

    /// The key of a sender that is not remembered. If there are several secrets, this decrypts a copy of the
    /// datagram, because a failed decryption overwrites it.
    fn key_of_stranger(
        &self,
        salt: &[u8; SALT_BYTES],
        counter: u64,
        header: &[u8],
        sealed: &[u8],
    ) -> Result<LessSafeKey, Refusal> {
        let [before @ .., last] = self.keys.as_slice() else { return Err(Refusal::OtherSecret) };
        for key in before {
            let key = key.of_sender(salt).map_err(|_| Refusal::OtherSecret)?;
            if open(&key, counter, header, &mut sealed.to_vec()).is_ok() {
                return Ok(key);
            }
        }
        last.of_sender(salt).map_err(|_| Refusal::OtherSecret)
    }

    fn admit(&mut self, salt: [u8; SALT_BYTES], key: LessSafeKey, counter: u64) {
        if self.senders.len() >= SENDERS_MAX
            && let Some(oldest) = self.senders.iter().min_by_key(|(_, s)| s.last_tick).map(|(salt, _)| *salt)
        {
            self.senders.remove(&oldest);
        }
        self.tick += 1;
        let window = Window { highest: counter, seen: 1 };
        self.senders.insert(salt, Sender { key, window, last_tick: self.tick });
    }

    /// The number of senders that are remembered.
    #[cfg(test)]
    pub(super) fn senders(&self) -> usize {
        self.senders.len()
    }
}

fn parts(header: &[u8]) -> Option<([u8; FINGERPRINT_BYTES], [u8; SALT_BYTES], u64)> {
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
    for (target, byte) in nonce.iter_mut().skip(4).zip(counter.to_be_bytes()) {
        *target = byte;
    }
    Nonce::assume_unique_for_key(nonce)
}

/// The counters of a sender that were seen: the highest, and which of the 63 before it.
struct Window {
    highest: u64,
    /// Bit n stands for `highest - n`.
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

/// A number of attempts that is refilled every second.
struct Budget {
    since: Instant,
    remaining: u32,
}

impl Budget {
    /// Returns whether another attempt is allowed.
    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, remaining: STRANGERS_PER_SECOND_MAX };
        }
        let is_allowed = self.remaining > 0;
        self.remaining = self.remaining.saturating_sub(1);
        is_allowed
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
            for (target, byte) in bytes.iter_mut().zip(n.into_iter().cycle()) {
                *target = byte;
            }
        }
    }

    static ENTROPY: Counting = Counting(AtomicU64::new(1));

    fn node(byte: u8, cluster: &str) -> (Sealer, Opener) {
        let secret = Secret::new(Zeroizing::new(vec![byte; 32]), cluster).unwrap();
        seals(&secret, &ENTROPY).unwrap()
    }

    fn sealed(sealer: &Sealer, content: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; content.len() + OVERHEAD_BYTES];
        buffer[HEADER_BYTES..HEADER_BYTES + content.len()].copy_from_slice(content);
        assert_eq!(sealer.seal(&mut buffer, content.len()), Some(buffer.len()));
        buffer
    }

    fn opened(opener: &mut Opener, datagram: &[u8]) -> Result<Vec<u8>, Refusal> {
        opener.open(&mut datagram.to_vec(), timer::now()).map(<[u8]>::to_vec)
    }

    #[test]
    fn datagram_is_opened_once() {
        let ((a, _), (_, mut b)) = (node(1, "x"), node(1, "x"));
        for content in [&b""[..], b"hello", &[7; DATAGRAM_BYTES_MAX - OVERHEAD_BYTES]] {
            let datagram = sealed(&a, content);
            assert_eq!(opened(&mut b, &datagram), Ok(content.to_vec()));
            assert_eq!(opened(&mut b, &datagram), Err(Refusal::Replayed));
        }
    }

    #[test]
    fn each_defect_has_its_refusal() {
        let ((a, mut own), (_, mut b)) = (node(1, "x"), node(1, "x"));
        assert_eq!(opened(&mut b, &sealed(&node(2, "x").0, b"hello")), Err(Refusal::OtherSecret));
        assert_eq!(opened(&mut b, &sealed(&node(1, "y").0, b"hello")), Err(Refusal::OtherCluster));
        assert_eq!(opened(&mut own, &sealed(&a, b"hello")), Err(Refusal::Reflected));
        assert_eq!(opened(&mut b, &[1; DATAGRAM_BYTES_MAX + 1]), Err(Refusal::TooLong));
        assert_eq!(opened(&mut b, &[2; 100]), Err(Refusal::OtherVersion));
        assert_eq!(opened(&mut b, &[]), Err(Refusal::Malformed));
        assert_eq!(b.senders(), 0);
    }

    #[test]
    fn datagram_of_either_secret_is_opened_while_two_are_accepted() {
        let rotating = |own: u8, other: u8| {
            let secret = Secret::new(Zeroizing::new(vec![own; 32]), "x").unwrap();
            seals(&secret.accepting(Zeroizing::new(vec![other; 32])).unwrap(), &ENTROPY).unwrap()
        };
        // The nodes of a rotation in their order: before it, in its first and second step, and after it.
        let mut nodes = [node(1, "x"), rotating(1, 2), rotating(2, 1), node(2, "x")];
        for (sender, opener) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 1), (2, 3), (3, 1), (3, 2)] {
            for content in [&b"hello"[..], b"again"] {
                let datagram = sealed(&nodes[sender].0, content);
                assert_eq!(
                    opened(&mut nodes[opener].1, &datagram),
                    Ok(content.to_vec()),
                    "{sender} to {opener}"
                );
            }
        }
        assert_eq!(opened(&mut nodes[1].1, &sealed(&node(3, "x").0, b"hello")), Err(Refusal::OtherSecret));
    }

    #[test]
    fn altered_or_cut_datagram_is_not_opened() {
        let ((a, _), (_, mut b)) = (node(1, "x"), node(1, "x"));
        let datagram = sealed(&a, b"a list of nodes");
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
    fn content_above_the_maximum_is_not_sealed() {
        let (a, _) = node(1, "x");
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX + 100];
        assert_eq!(a.seal(&mut buffer, DATAGRAM_BYTES_MAX - OVERHEAD_BYTES), Some(DATAGRAM_BYTES_MAX));
        assert_eq!(a.seal(&mut buffer, DATAGRAM_BYTES_MAX - OVERHEAD_BYTES + 1), None);
    }

    #[test]
    fn senders_are_bounded_and_active_ones_stay() {
        let ((a, _), (_, mut b)) = (node(1, "x"), node(1, "x"));
        let first = sealed(&a, b"first");
        assert!(opened(&mut b, &first).is_ok());
        for _ in 0..SENDERS_MAX * 2 {
            assert!(opened(&mut b, &sealed(&node(1, "x").0, b"hello")).is_ok());
            assert!(opened(&mut b, &sealed(&a, b"still here")).is_ok());
        }
        assert_eq!(b.senders(), SENDERS_MAX);
        assert_eq!(opened(&mut b, &first), Err(Refusal::Replayed));
    }

    #[test]
    fn strangers_do_not_use_up_the_budget_of_known_senders() {
        let ((a, _), (_, mut b)) = (node(1, "x"), node(1, "x"));
        assert!(opened(&mut b, &sealed(&a, b"first")).is_ok());
        let now = timer::now() + Duration::from_secs(5);
        let mut forged = sealed(&node(2, "x").0, b"hello");
        let mut tried = 0;
        while b.open(&mut forged.clone(), now) == Err(Refusal::OtherSecret) {
            tried += 1;
        }
        assert_eq!(tried, STRANGERS_PER_SECOND_MAX);
        assert_eq!(b.open(&mut forged.clone(), now), Err(Refusal::TooMany));
        assert!(b.open(&mut sealed(&a, b"second"), now).is_ok());
        let later = now + Duration::from_secs(1);
        assert_eq!(b.open(&mut forged, later), Err(Refusal::OtherSecret));
    }

    proptest! {
        #[test]
        fn window_accepts_each_counter_once_and_none_far_behind(
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
