//! Argon2id (RFC 9106): hashing, and checking what is stored.
//!
//! The parameters are OWASP's for argon2id with little memory: 19 MiB, 2 passes, 1 lane; 20 to 30
//! ms on one core. A stored hash says its own; they are checked before they are believed, so a
//! damaged or absurd one costs neither memory nor time.

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash as Phc, Salt},
};
use schema::user::PasswordHash;

use super::policy::Normalized;

const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const OUTPUT_BYTES: usize = 32;
pub(super) const SALT_BYTES: usize = 16;
/// A stored hash may ask for so much at most: room for stronger parameters to come.
const MAX_MEMORY_KIB: u32 = 128 * 1024;
const MAX_PASSES: u32 = 8;
const MAX_LANES: u32 = 4;

/// What a password is to a stored hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The right one.
    Good,
    /// The right one, and its hash is to be made anew with today's parameters.
    GoodButOld,
    /// Another one.
    Wrong,
    /// The stored hash is damaged or absurd.
    Damaged,
}

/// Hashes with memory of its own, which is kept from one password to the next.
#[derive(Default)]
pub(super) struct Hasher {
    blocks: Vec<Block>,
}

impl Hasher {
    /// The hash of a new password; `None` when the library fails.
    pub(super) fn hash(&mut self, password: &Normalized, salt: [u8; SALT_BYTES]) -> Option<PasswordHash> {
        let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(OUTPUT_BYTES)).ok()?;
        let output = self.compute(password, &salt, &params)?;
        let phc = Phc {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&params).ok()?,
            salt: Some(Salt::new(&salt).ok()?),
            hash: Some(Output::new(&output).ok()?),
        };
        Some(PasswordHash::new(phc.to_string()))
    }

    /// Whether the password is the one of this hash, in constant time.
    pub(super) fn verify(&mut self, password: &Normalized, stored: &PasswordHash) -> Verdict {
        let Some((params, salt, expected)) = read(stored) else { return Verdict::Damaged };
        let Some(output) = self.compute(password, salt.as_ref(), &params) else { return Verdict::Damaged };
        let equal = aws_lc_rs::constant_time::verify_slices_are_equal(&output, expected.as_bytes()).is_ok();
        let today = (params.m_cost(), params.t_cost(), params.p_cost()) == (MEMORY_KIB, PASSES, LANES);
        match (equal, today) {
            (false, _) => Verdict::Wrong,
            (true, true) => Verdict::Good,
            (true, false) => Verdict::GoodButOld,
        }
    }

    fn compute(&mut self, password: &Normalized, salt: &[u8], params: &Params) -> Option<[u8; OUTPUT_BYTES]> {
        self.blocks.resize(params.block_count(), Block::new());
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
        let mut output = [0; OUTPUT_BYTES];
        let computed =
            argon2.hash_password_into_with_memory(password.expose(), salt, &mut output, &mut self.blocks);
        computed.ok().map(|()| output)
    }
}

fn read(stored: &PasswordHash) -> Option<(Params, Salt, Output)> {
    let phc = Phc::new(stored.expose()).ok()?;
    let params = Params::try_from(&phc).ok()?;
    let sane = phc.algorithm == Algorithm::Argon2id.ident()
        && phc.version == Some(Version::V0x13.into())
        && params.m_cost() <= MAX_MEMORY_KIB
        && params.t_cost() <= MAX_PASSES
        && params.p_cost() <= MAX_LANES
        && phc.hash.as_ref().is_some_and(|hash| hash.len() == OUTPUT_BYTES);
    if sane { Some((params, phc.salt?, phc.hash?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Normalized {
        Normalized::new(text).unwrap()
    }

    #[test]
    fn the_right_password_and_no_other() {
        let mut hasher = Hasher::default();
        let hash = hasher.hash(&password("correct horse"), [7; SALT_BYTES]).unwrap();
        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.expose());
        assert_eq!(hasher.verify(&password("correct horse"), &hash), Verdict::Good);
        assert_eq!(hasher.verify(&password("correct horsf"), &hash), Verdict::Wrong);
    }

    #[test]
    fn old_parameters_are_told() {
        let mut hasher = Hasher::default();
        let params = Params::new(64, 1, 1, Some(OUTPUT_BYTES)).unwrap();
        let output = hasher.compute(&password("correct horse"), &[7; SALT_BYTES], &params).unwrap();
        let (salt, output) = (Salt::new(&[7; SALT_BYTES]).unwrap(), Output::new(&output).unwrap());
        let old = PasswordHash::new(format!("$argon2id$v=19$m=64,t=1,p=1${salt}${output}"));
        assert_eq!(hasher.verify(&password("correct horse"), &old), Verdict::GoodButOld);
        assert_eq!(hasher.verify(&password("correct horsf"), &old), Verdict::Wrong);
    }

    #[test]
    fn damaged_and_absurd_hashes_cost_nothing() {
        let mut hasher = Hasher::default();
        let tail = "$BwcHBwcHBwcHBwcHBwcHBw$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        for stored in [
            String::new(),
            "x".repeat(100_000),
            "$argon2id$v=19$m=19456,t=2,p=1$".into(),
            format!("$argon2id$v=19$m=4294967295,t=2,p=1{tail}"),
            format!("$argon2id$v=19$m=19456,t=4294967295,p=1{tail}"),
            format!("$argon2id$v=19$m=19456,t=2,p=16777215{tail}"),
            format!("$argon2id$v=19$m=1,t=1,p=1{tail}"),
            format!("$argon2id$v=16$m=19456,t=2,p=1{tail}"),
            format!("$argon2i$v=19$m=19456,t=2,p=1{tail}"),
            format!("$scrypt$ln=4,r=8,p=1{tail}"),
            "$argon2id$v=19$m=19456,t=2,p=1$BwcHBwcHBwcHBwcHBwcHBw$AAAA".into(),
        ] {
            let verdict = hasher.verify(&password("correct horse"), &PasswordHash::new(stored.clone()));
            assert_eq!(verdict, Verdict::Damaged, "{stored:.80}");
            assert!(hasher.blocks.len() <= MAX_MEMORY_KIB as usize);
        }
    }
}
