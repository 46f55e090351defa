//! Logging in, refreshing, logging out.

use super::{Crowd, DEAD, Dead, State, TRIES, Token, find, pair, said};
use crate::{
    answer::Answer,
    clock::Nanos,
    record::{Fault, Kind},
    scenario::{Note, Spot, Verdict},
};

/// Of a session; older ones are forgotten.
const TOKENS: usize = 8;

impl Crowd {
    pub(super) fn write_post(
        &self,
        spot: Spot,
        path: &str,
        bearer: Option<&str>,
        body: &str,
        out: &mut Vec<u8>,
    ) {
        self.write_call("POST", spot, path, bearer, Some(body), out);
    }

    fn write_call(
        &self,
        method: &str,
        spot: Spot,
        path: &str,
        bearer: Option<&str>,
        body: Option<&str>,
        out: &mut Vec<u8>,
    ) {
        let head = &self.common.heads[spot.target];
        for part in [method, " ", &head.base, path, &head.after_path] {
            out.extend_from_slice(part.as_bytes());
        }
        if let Some(bearer) = bearer {
            for part in ["Authorization: Bearer ", bearer, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        if let Some(body) = body {
            let length = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
            out.extend_from_slice(length.as_bytes());
        } else if method == "POST" {
            out.extend_from_slice(b"Content-Length: 0\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body.unwrap_or_default().as_bytes());
    }

    /// A session with which nothing is under way.
    fn at_rest(&mut self) -> Option<u32> {
        for _ in 0..TRIES {
            let at = self.random.below(self.sessions.len());
            if self.sessions.get(at)?.state == State::Alive {
                return u32::try_from(at).ok();
            }
        }
        None
    }

    pub(super) fn ask_login(&mut self, spot: Spot, _now: Nanos, out: &mut Vec<u8>) -> Option<Note> {
        let subject = self.empty.pop().or_else(|| self.at_rest())?;
        self.log_in_for(spot, subject, out)
    }

    pub(super) fn log_in_for(&mut self, spot: Spot, subject: u32, out: &mut Vec<u8>) -> Option<Note> {
        let session = &mut self.sessions[subject as usize];
        session.state = State::LoggingIn;
        let email = &self.users[session.user as usize].email;
        let body =
            format!(r#"{{"email":"{email}","password":"{}","device":"loadtest"}}"#, self.common.password);
        self.write_post(spot, "/auth_token", None, &body, out);
        Some(self.note(Kind::Login, spot, subject, 0))
    }

    pub(super) fn answered_login(&mut self, note: &Note, answer: &Answer<'_>, now: Nanos) -> Verdict {
        match (answer.status, pair(answer)) {
            (200, Some((access, refresh, life))) => {
                let session = &mut self.sessions[note.subject as usize];
                session.tokens.clear();
                session.tokens.push(Token { text: access, until: note.sent + life });
                (session.refresh, session.state) = (Some(refresh), State::Alive);
                session.epoch += 1;
                self.schedule(note.subject, now);
                Verdict::Right
            }
            (200, None) => {
                self.lost_login(note, now);
                Verdict::Failed(Fault::Body)
            }
            (401, _) => {
                self.lost_login(note, now);
                Verdict::Wrong(format!("login with the right password: {}", said(answer)))
            }
            (status, _) => {
                self.lost_login(note, now);
                Verdict::Failed(Fault::Status(status))
            }
        }
    }

    pub(super) fn lost_login(&mut self, note: &Note, now: Nanos) {
        let session = &mut self.sessions[note.subject as usize];
        if session.tokens.is_empty() {
            session.state = State::Empty;
            self.empty.push(note.subject);
        } else {
            session.state = State::Alive;
            self.schedule(note.subject, now);
        }
    }

    pub(super) fn ask_refresh(&mut self, spot: Spot, whose: Option<u32>, out: &mut Vec<u8>) -> Option<Note> {
        let subject = whose.or_else(|| self.at_rest())?;
        let session = &mut self.sessions[subject as usize];
        // Spent, and its successor unknown: only a new log-in helps.
        let Some(refresh) = session.refresh.take() else { return self.log_in_for(spot, subject, out) };
        session.state = State::Refreshing;
        self.write_call("POST", spot, "/auth_token/token_refresh", Some(&refresh), None, out);
        self.sessions[subject as usize].refresh = Some(refresh);
        Some(self.note(Kind::Refresh, spot, subject, 0))
    }

    pub(super) fn answered_refresh(&mut self, note: &Note, answer: &Answer<'_>, now: Nanos) -> Verdict {
        let session = &mut self.sessions[note.subject as usize];
        match (answer.status, pair(answer)) {
            (200, Some((access, refresh, life))) => {
                if session.tokens.len() >= TOKENS {
                    session.tokens.remove(0);
                }
                session.tokens.push(Token { text: access, until: note.sent + life });
                (session.refresh, session.state) = (Some(refresh), State::Alive);
                self.schedule(note.subject, now);
                Verdict::Right
            }
            (401 | 422, _) => {
                self.lost_refresh(note, now);
                Verdict::Wrong(format!("refresh with a good refresh token: {}", said(answer)))
            }
            (200, None) => {
                self.lost_refresh(note, now);
                Verdict::Failed(Fault::Body)
            }
            (status, _) => {
                self.lost_refresh(note, now);
                Verdict::Failed(Fault::Status(status))
            }
        }
    }

    /// The refresh token may be spent, and showing a spent one late ends the session: it is never shown
    /// again. The access tokens stay good.
    pub(super) fn lost_refresh(&mut self, note: &Note, now: Nanos) {
        let session = &mut self.sessions[note.subject as usize];
        (session.refresh, session.state) = (None, State::Alive);
        self.schedule(note.subject, now);
    }

    /// A refresh or a logout was never sent: the refresh token is not spent, and the session is not ended.
    pub(super) fn takes_back(&mut self, note: &Note, now: Nanos) {
        let session = &mut self.sessions[note.subject as usize];
        session.state = State::Alive;
        if note.kind == Kind::Logout {
            // Answers that are under way are judged as if nothing had been.
            session.epoch -= 1;
        }
        self.schedule(note.subject, now);
    }

    pub(super) fn ask_logout(&mut self, spot: Spot, now: Nanos, out: &mut Vec<u8>) -> Option<Note> {
        // Enough of them stay for everybody else.
        if self.empty.len() * 2 >= self.sessions.len() {
            return self.ask_login(spot, now, out);
        }
        let subject = self.at_rest()?;
        let session = &mut self.sessions[subject as usize];
        let newest = session.tokens.last().filter(|token| token.until > now + super::MARGIN)?;
        let text = newest.text.clone();
        session.state = State::Ending;
        session.epoch += 1;
        self.write_call("DELETE", spot, "/auth_token", Some(&text), None, out);
        Some(self.note(Kind::Logout, spot, subject, 0))
    }

    pub(super) fn answered_logout(&mut self, note: &Note, answer: &Answer<'_>, now: Nanos) -> Verdict {
        if answer.status == 204 {
            let refused = self.refused_by(answer, note.spot.target);
            for token in std::mem::take(&mut self.sessions[note.subject as usize].tokens) {
                self.bury(Dead { text: token.text, refused });
            }
        }
        self.empty_out(note.subject);
        if answer.status == 204 { Verdict::Right } else { self.not_right(note, answer, now) }
    }

    /// What the session had is not used any more.
    pub(super) fn empty_out(&mut self, subject: u32) {
        let session = &mut self.sessions[subject as usize];
        session.tokens.clear();
        (session.refresh, session.state) = (None, State::Empty);
        self.empty.push(subject);
    }

    fn bury(&mut self, dead: Dead) {
        if self.dead.len() < DEAD {
            self.dead.push(dead);
        } else {
            self.dead[self.dead_next] = dead;
            self.dead_next = (self.dead_next + 1) % DEAD;
        }
    }
}

/// One session at a time, for who measures revocations.
impl Crowd {
    /// Logs in for this session's user.
    pub fn write_login(&mut self, spot: Spot, subject: u32, out: &mut Vec<u8>) {
        self.log_in_for(spot, subject, out);
    }

    /// Takes what a log-in answered that was sent then; whether there was something to be taken.
    pub fn takes_login(&mut self, answer: &Answer<'_>, sent: Nanos) -> bool {
        let (Some((access, refresh, life)), Some(session)) = (pair(answer), self.sessions.first_mut()) else {
            return false;
        };
        session.tokens = vec![Token { text: access, until: sent + life }];
        session.refresh = Some(refresh);
        true
    }

    /// Whether it is refused because its time is over, and that may be so.
    pub fn has_expired(&self, answer: &Answer<'_>, now: Nanos) -> bool {
        answer.status == 401 && find(answer.body, b"expired") && self.may_be_expired(0, now)
    }

    /// Asks about the token that it has.
    pub fn write_probe(&self, spot: Spot, out: &mut Vec<u8>) {
        if let Some(token) = self.sessions.first().and_then(|session| session.tokens.last()) {
            self.write_validation(spot, &token.text, out);
        }
    }

    /// Logs it out.
    pub fn write_logout(&self, spot: Spot, out: &mut Vec<u8>) {
        if let Some(token) = self.sessions.first().and_then(|session| session.tokens.last()) {
            self.write_call("DELETE", spot, "/auth_token", Some(&token.text), None, out);
        }
    }
}
