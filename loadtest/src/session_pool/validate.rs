//! `GET auth_token/validation` with good, revoked, forged and expired tokens.

use super::{GoodToken, SessionPool, describe};
use crate::{
    answer::Answer,
    clock::Nanos,
    random::Random,
    record::{ErrorKind, RequestKind},
    scenario::{InFlight, Judgement, Route},
};

/// [`InFlight::extra`]: the target must refuse the token.
const MUST_REFUSE: u32 = 1;

impl SessionPool {
    pub(super) fn write_validation(&self, route: Route, token: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(self.context.heads[route.target].validate.as_bytes());
        out.extend_from_slice(token.as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
    }

    pub(super) fn request_valid(&mut self, route: Route, now: Nanos, out: &mut Vec<u8>) -> Option<InFlight> {
        let GoodToken { subject, token } = self.pick_good_token(now)?;
        self.write_validation(route, &self.sessions[subject as usize].tokens[token].text, out);
        Some(self.in_flight(RequestKind::Validate, route, subject, 0))
    }

    pub(super) fn request_revoked(&mut self, route: Route, out: &mut Vec<u8>) -> Option<InFlight> {
        let at = self.random.below(self.revoked.len());
        let token = self.revoked.get(at)?;
        self.write_validation(route, &token.text, out);
        let must = if token.refused.includes(route.target) { MUST_REFUSE } else { 0 };
        Some(self.in_flight(RequestKind::ValidateRevoked, route, 0, must))
    }

    pub(super) fn request_expired(&mut self, route: Route, out: &mut Vec<u8>) -> Option<InFlight> {
        let at = self.random.below(self.expired.len());
        self.write_validation(route, self.expired.get(at)?, out);
        Some(self.in_flight(RequestKind::ValidateExpired, route, 0, 0))
    }

    pub(super) fn request_forged(&mut self, route: Route, now: Nanos, out: &mut Vec<u8>) -> Option<InFlight> {
        let GoodToken { subject, token } = self.pick_good_token(now)?;
        let text = &self.sessions[subject as usize].tokens[token].text;
        self.write_validation(route, text, out);
        let end = out.len() - 4;
        let length = text.len();
        forge(&mut out[end - length..end], &mut self.random);
        Some(self.in_flight(RequestKind::ValidateForged, route, 0, 0))
    }
}

/// Changes one letter of the signature or of the claims, so that the signature does not match.
pub(super) fn forge(token: &mut [u8], random: &mut Random) {
    let dots: Vec<usize> = (0..token.len()).filter(|&at| token[at] == b'.').collect();
    let [claims, signature] = dots[..] else { return };
    // The last letters of a part may hold bits without meaning.
    let (from, to) = if random.below(2) == 0 {
        (signature + 1, token.len().saturating_sub(3))
    } else {
        (claims + 1, signature.saturating_sub(3))
    };
    let at = from + random.below(to.saturating_sub(from));
    token[at] = if token[at] == b'A' { b'B' } else { b'A' };
}

pub(super) fn judge_revoked(request: &InFlight, answer: &Answer<'_>) -> Judgement {
    match answer.status {
        401 => Judgement::Correct,
        200 if request.extra != MUST_REFUSE => Judgement::Correct,
        200 if answer.is_stale() => Judgement::Failed(ErrorKind::Stale),
        200 | 422 => {
            Judgement::Wrong(format!("validate with a revoked token: {}, not 401", describe(answer)))
        }
        status => Judgement::Failed(ErrorKind::Status(status)),
    }
}

pub(super) fn judge_forged(answer: &Answer<'_>) -> Judgement {
    match answer.status {
        422 => Judgement::Correct,
        200 | 401 => Judgement::Wrong(format!("validate with a forged token: {}, not 422", describe(answer))),
        status => Judgement::Failed(ErrorKind::Status(status)),
    }
}

pub(super) fn judge_expired(answer: &Answer<'_>) -> Judgement {
    match answer.status {
        401 => Judgement::Correct,
        200 | 422 => {
            Judgement::Wrong(format!("validate with an expired token: {}, not 401", describe(answer)))
        }
        status => Judgement::Failed(ErrorKind::Status(status)),
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
