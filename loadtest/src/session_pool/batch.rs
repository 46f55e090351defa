//! `POST auth_token/validation/batch`: many tokens in one request. Each answer is judged.

use super::{GoodToken, SessionPool, State, describe};
use crate::{
    answer::Answer,
    clock::Nanos,
    record::{ErrorKind, RequestKind},
    scenario::{InFlight, Judgement, Route},
};

/// What each token of a batch is.
pub(super) struct BatchItems(Vec<Item>);

#[derive(Clone, Copy)]
enum Item {
    Good { subject: u32, epoch: u32 },
    Revoked { must: bool },
    Forged,
    Expired,
}

impl SessionPool {
    pub(super) fn request_batch(&mut self, route: Route, now: Nanos, out: &mut Vec<u8>) -> Option<InFlight> {
        let GoodToken { subject: bearer, token } = self.pick_good_token(now)?;
        let mut body = String::from("{\"tokens\":[");
        let mut items = Vec::with_capacity(self.context.batch.size);
        for n in 0..self.context.batch.size {
            let (item, text) = self.item(route, now)?;
            body.push_str(if n == 0 { "\"" } else { ",\"" });
            body.push_str(&text);
            body.push('"');
            items.push(item);
        }
        body.push_str("]}");
        let bearer_text = &self.sessions[bearer as usize].tokens[token].text;
        self.write_post(route, "/auth_token/validation/batch", Some(bearer_text), &body, out);
        let id = self.batch_next;
        self.batch_next = self.batch_next.wrapping_add(1);
        self.batches.insert(id, BatchItems(items));
        let mut request = self.in_flight(RequestKind::Batch, route, id, bearer);
        request.epoch = self.sessions[bearer as usize].epoch;
        Some(request)
    }

    fn item(&mut self, route: Route, now: Nanos) -> Option<(Item, String)> {
        let kind = Self::pick_kind(&mut self.random, &self.context.batch.kinds);
        let GoodToken { subject, token } = self.pick_good_token(now)?;
        let session = &self.sessions[subject as usize];
        let text = session.tokens[token].text.to_string();
        let good = Item::Good { subject, epoch: session.epoch };
        Some(match kind {
            Some(RequestKind::ValidateRevoked) if !self.revoked.is_empty() => {
                let token = &self.revoked[self.random.below(self.revoked.len())];
                (Item::Revoked { must: token.refused.includes(route.target) }, token.text.to_string())
            }
            Some(RequestKind::ValidateForged) => {
                let mut text = text.into_bytes();
                super::validate::forge(&mut text, &mut self.random);
                (Item::Forged, String::from_utf8(text).ok()?)
            }
            Some(RequestKind::ValidateExpired) if !self.expired.is_empty() => {
                (Item::Expired, self.expired[self.random.below(self.expired.len())].to_string())
            }
            _ => (good, text),
        })
    }

    pub(super) fn judge_batch(&mut self, request: &InFlight, answer: &Answer<'_>, now: Nanos) -> Judgement {
        let Some(items) = self.batches.remove(&request.subject) else { return Judgement::Correct };
        if answer.status != 200 {
            let bearer = InFlight { subject: request.extra, ..*request };
            return self.judge_refusal_of_good(&bearer, answer, now);
        }
        let answers = answer.json();
        let Some(answers) = answers.as_ref().and_then(|json| json.as_array()) else {
            return Judgement::Failed(ErrorKind::Body);
        };
        if answers.len() != items.0.len() {
            return Judgement::Wrong(format!("batch: {} answers to {} tokens", answers.len(), items.0.len()));
        }
        let mut worst = Judgement::Correct;
        for (item, entry) in items.0.iter().zip(answers) {
            let status = entry.get("status").and_then(serde_json::Value::as_u64).unwrap_or(0);
            let is_old = matches!(*item, Item::Good { subject, .. } if self.may_be_expired(subject, now));
            if is_old && entry.get("msg").and_then(serde_json::Value::as_str) == Some("Token has expired") {
                worst = Judgement::Failed(ErrorKind::Status(401));
                continue;
            }
            match self.judge_item(*item, status, answer) {
                Judgement::Correct => {}
                wrong @ Judgement::Wrong(_) => return wrong,
                failed => worst = failed,
            }
        }
        worst
    }

    fn judge_item(&self, item: Item, status: u64, answer: &Answer<'_>) -> Judgement {
        let failed = || Judgement::Failed(u16::try_from(status).map_or(ErrorKind::Body, ErrorKind::Status));
        let wrong = |what: &str| {
            Judgement::Wrong(format!(
                "batch with {what} token: {status} in an answer of {}",
                describe(answer)
            ))
        };
        match (item, status) {
            (Item::Good { .. }, 200) | (Item::Revoked { .. } | Item::Expired, 401) | (Item::Forged, 422) => {
                Judgement::Correct
            }
            (Item::Good { subject, epoch }, 401 | 422) => {
                let session = &self.sessions[subject as usize];
                if session.epoch == epoch && session.state != State::Ending {
                    wrong("a good")
                } else {
                    Judgement::Correct
                }
            }
            (Item::Revoked { must: false }, 200) => Judgement::Correct,
            (Item::Revoked { .. }, 200) if answer.is_stale() => Judgement::Failed(ErrorKind::Stale),
            (Item::Revoked { .. }, 200) => wrong("a revoked"),
            (Item::Forged, 200 | 401) => wrong("a forged"),
            (Item::Expired, 200) => wrong("an expired"),
            _ => failed(),
        }
    }
}
