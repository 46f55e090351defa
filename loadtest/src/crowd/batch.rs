//! `POST auth_token/validation/batch`: many tokens in one request, every one of the answers judged.

use super::{Crowd, Deed, State, said};
use crate::{
    answer::Answer,
    clock::Nanos,
    record::{Fault, Kind},
    scenario::{Note, Spot, Verdict},
};

/// What was asked: what each token is.
pub(super) struct Asked(Vec<Item>);

#[derive(Clone, Copy)]
enum Item {
    Good { subject: u32, epoch: u32 },
    Revoked { must: bool },
    Forged,
    Expired,
}

impl Crowd {
    pub(super) fn ask_batch(&mut self, spot: Spot, now: Nanos, out: &mut Vec<u8>) -> Option<Note> {
        let (bearer, token) = self.good(now)?;
        let mut body = String::from("{\"tokens\":[");
        let mut items = Vec::with_capacity(self.common.batch.0);
        for n in 0..self.common.batch.0 {
            let (item, text) = self.item(spot, now)?;
            body.push_str(if n == 0 { "\"" } else { ",\"" });
            body.push_str(&text);
            body.push('"');
            items.push(item);
        }
        body.push_str("]}");
        let bearer_text = &self.sessions[bearer as usize].tokens[token].text;
        self.write_post(spot, "/auth_token/validation/batch", Some(bearer_text), &body, out);
        let id = self.batch_next;
        self.batch_next = self.batch_next.wrapping_add(1);
        self.batches.insert(id, Asked(items));
        let mut note = self.note(Kind::Batch, spot, id, bearer);
        note.epoch = self.sessions[bearer as usize].epoch;
        Some(note)
    }

    fn item(&mut self, spot: Spot, now: Nanos) -> Option<(Item, String)> {
        let deed = Self::choose(&mut self.random, &self.common.batch.1);
        let (subject, token) = self.good(now)?;
        let session = &self.sessions[subject as usize];
        let text = session.tokens[token].text.to_string();
        let good = Item::Good { subject, epoch: session.epoch };
        Some(match deed {
            Some(Deed::Revoked) if !self.dead.is_empty() => {
                let dead = &self.dead[self.random.below(self.dead.len())];
                (Item::Revoked { must: dead.refused.is_by(spot.target) }, dead.text.to_string())
            }
            Some(Deed::Forged) => {
                let mut text = text.into_bytes();
                super::validate::forge(&mut text, &mut self.random);
                (Item::Forged, String::from_utf8(text).ok()?)
            }
            Some(Deed::Expired) if !self.expired.is_empty() => {
                (Item::Expired, self.expired[self.random.below(self.expired.len())].to_string())
            }
            _ => (good, text),
        })
    }

    pub(super) fn answered_batch(&mut self, note: &Note, answer: &Answer<'_>, now: Nanos) -> Verdict {
        let Some(asked) = self.batches.remove(&note.subject) else { return Verdict::Right };
        if answer.status != 200 {
            let bearer = Note { subject: note.extra, ..*note };
            return self.not_right(&bearer, answer, now);
        }
        let answers = answer.json();
        let Some(answers) = answers.as_ref().and_then(|json| json.as_array()) else {
            return Verdict::Failed(Fault::Body);
        };
        if answers.len() != asked.0.len() {
            return Verdict::Wrong(format!("batch: {} answers to {} tokens", answers.len(), asked.0.len()));
        }
        let mut worst = Verdict::Right;
        for (item, entry) in asked.0.iter().zip(answers) {
            let status = entry.get("status").and_then(serde_json::Value::as_u64).unwrap_or(0);
            let is_old = matches!(*item, Item::Good { subject, .. } if self.may_be_expired(subject, now));
            if is_old && entry.get("msg").and_then(serde_json::Value::as_str) == Some("Token has expired") {
                worst = Verdict::Failed(Fault::Status(401));
                continue;
            }
            match self.judge_item(*item, status, answer) {
                Verdict::Right => {}
                wrong @ Verdict::Wrong(_) => return wrong,
                failed => worst = failed,
            }
        }
        worst
    }

    fn judge_item(&self, item: Item, status: u64, answer: &Answer<'_>) -> Verdict {
        let failed = || Verdict::Failed(u16::try_from(status).map_or(Fault::Body, Fault::Status));
        let wrong = |what: &str| {
            Verdict::Wrong(format!("batch with {what} token: {status} in an answer of {}", said(answer)))
        };
        match (item, status) {
            (Item::Good { .. }, 200) | (Item::Revoked { .. } | Item::Expired, 401) | (Item::Forged, 422) => {
                Verdict::Right
            }
            (Item::Good { subject, epoch }, 401 | 422) => {
                let session = &self.sessions[subject as usize];
                if session.epoch == epoch && session.state != State::Ending {
                    wrong("a good")
                } else {
                    Verdict::Right
                }
            }
            (Item::Revoked { must: false }, 200) => Verdict::Right,
            (Item::Revoked { .. }, 200) if answer.is_stale() => Verdict::Failed(Fault::Stale),
            (Item::Revoked { .. }, 200) => wrong("a revoked"),
            (Item::Forged, 200 | 401) => wrong("a forged"),
            (Item::Expired, 200) => wrong("an expired"),
            _ => failed(),
        }
    }
}
