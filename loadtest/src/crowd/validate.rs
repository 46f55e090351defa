//! `GET auth_token/validation` with good, revoked, forged and expired tokens.

use super::{Crowd, said};
use crate::{
    answer::Answer,
    clock::Nanos,
    random::Random,
    record::{Fault, Kind},
    scenario::{Note, Spot, Verdict},
};

/// The revoked token must be refused there.
const MUST: u32 = 1;

impl Crowd {
    pub(super) fn write_validation(&self, spot: Spot, token: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(self.common.heads[spot.target].validate.as_bytes());
        out.extend_from_slice(token.as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
    }

    pub(super) fn ask_valid(&mut self, spot: Spot, now: Nanos, out: &mut Vec<u8>) -> Option<Note> {
        let (subject, token) = self.good(now)?;
        self.write_validation(spot, &self.sessions[subject as usize].tokens[token].text, out);
        Some(self.note(Kind::Validate, spot, subject, 0))
    }

    pub(super) fn ask_revoked(&mut self, spot: Spot, out: &mut Vec<u8>) -> Option<Note> {
        let at = self.random.below(self.dead.len());
        let dead = self.dead.get(at)?;
        self.write_validation(spot, &dead.text, out);
        let must = if dead.refused.is_by(spot.target) { MUST } else { 0 };
        Some(self.note(Kind::ValidateRevoked, spot, 0, must))
    }

    pub(super) fn ask_expired(&mut self, spot: Spot, out: &mut Vec<u8>) -> Option<Note> {
        let at = self.random.below(self.expired.len());
        self.write_validation(spot, self.expired.get(at)?, out);
        Some(self.note(Kind::ValidateExpired, spot, 0, 0))
    }

    pub(super) fn ask_forged(&mut self, spot: Spot, now: Nanos, out: &mut Vec<u8>) -> Option<Note> {
        let (subject, token) = self.good(now)?;
        let text = &self.sessions[subject as usize].tokens[token].text;
        self.write_validation(spot, text, out);
        let end = out.len() - 4;
        let length = text.len();
        forge(&mut out[end - length..end], &mut self.random);
        Some(self.note(Kind::ValidateForged, spot, 0, 0))
    }
}

/// Changes one letter of the signature, or of the claims: either way the signature is not that of the rest.
pub(super) fn forge(token: &mut [u8], random: &mut Random) {
    let dots: Vec<usize> = (0..token.len()).filter(|&at| token[at] == b'.').collect();
    let [claims, signature] = dots[..] else { return };
    // The last letters of a part may hold bits that mean nothing.
    let (from, to) = if random.below(2) == 0 {
        (signature + 1, token.len().saturating_sub(3))
    } else {
        (claims + 1, signature.saturating_sub(3))
    };
    let at = from + random.below(to.saturating_sub(from));
    token[at] = if token[at] == b'A' { b'B' } else { b'A' };
}

pub(super) fn revoked(note: &Note, answer: &Answer<'_>) -> Verdict {
    match answer.status {
        401 => Verdict::Right,
        200 if note.extra != MUST => Verdict::Right,
        200 if answer.is_stale() => Verdict::Failed(Fault::Stale),
        200 | 422 => Verdict::Wrong(format!("validate with a revoked token: {}, not 401", said(answer))),
        status => Verdict::Failed(Fault::Status(status)),
    }
}

pub(super) fn forged(answer: &Answer<'_>) -> Verdict {
    match answer.status {
        422 => Verdict::Right,
        200 | 401 => Verdict::Wrong(format!("validate with a forged token: {}, not 422", said(answer))),
        status => Verdict::Failed(Fault::Status(status)),
    }
}

pub(super) fn expired(answer: &Answer<'_>) -> Verdict {
    match answer.status {
        401 => Verdict::Right,
        200 | 422 => Verdict::Wrong(format!("validate with an expired token: {}, not 401", said(answer))),
        status => Verdict::Failed(Fault::Status(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_token_differs_in_one_letter_that_counts() {
        let mut random = Random::new(1);
        let whole = format!("eyJh.{}.{}", "c".repeat(40), "s".repeat(86));
        for _ in 0..1_000 {
            let mut forged = whole.clone().into_bytes();
            forge(&mut forged, &mut random);
            let changed: Vec<usize> =
                (0..whole.len()).filter(|&at| whole.as_bytes()[at] != forged[at]).collect();
            assert_eq!(changed.len(), 1);
            assert!(changed[0] > 4 && changed[0] < whole.len() - 3 && forged[45] == b'.', "{changed:?}");
        }
        forge(&mut b"no token".to_vec(), &mut random);
    }
}
