//! Argon2id (RFC 9106): hashes passwords, and verifies them against stored hashes.
//!
//! The parameters are OWASP's for argon2id with little memory: 19 MiB, 2 passes, 1 lane; 20 to 30 ms on one
//! core. A stored hash carries its own parameters. They are checked before use, so a damaged or absurd hash
//! costs neither memory nor time.

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
/// Memory that a stored hash may ask for, in KiB. It leaves room for stronger parameters.
const MEMORY_KIB_MAX: u32 = 128 * 1024;
const MAX_PASSES: u32 = 8;
const MAX_LANES: u32 = 4;

/// The result of verifying a password against a stored hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The password matches.
    Good,
    /// The password matches, and its hash should be replaced with one by today's parameters.
    GoodButOld,
    /// The password does not match.
    Wrong,
    /// The stored hash is damaged or absurd.
    Damaged,
}

/// Hashes passwords in memory of its own, which it reuses.
#[derive(Default)]
pub(super) struct Hasher {
    blocks: Vec<Block>,
}

impl Hasher {
    /// Hashes a new password; `None` if the library fails.
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

    /// Verifies the password against a stored hash in constant time.
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
        && params.m_cost() <= MEMORY_KIB_MAX
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
    fn only_the_right_password_matches() {
        let mut hasher = Hasher::default();
        let hash = hasher.hash(&password("correct horse"), [7; SALT_BYTES]).unwrap();
        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.expose());
        assert_eq!(hasher.verify(&password("correct horse"), &hash), Verdict::Good);
        assert_eq!(hasher.verify(&password("correct horsf"), &hash), Verdict::Wrong);
    }

    #[test]
    fn outdated_parameters_are_reported() {
        let mut hasher = Hasher::default();
        let params = Params::new(64, 1, 1, Some(OUTPUT_BYTES)).unwrap();
        let output = hasher.compute(&password("correct horse"), &[7; SALT_BYTES], &params).unwrap();
        let salt = Salt::new(&[7; SALT_BYTES]).unwrap();
        let output = Output::new(&output).unwrap();
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
            assert!(hasher.blocks.len() <= MEMORY_KIB_MAX as usize);
        }
    }
}
