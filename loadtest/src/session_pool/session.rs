//! Log-ins, refreshes and logouts.

use super::{
    RANDOM_PICKS_MAX, REVOKED_TOKENS_MAX, RevokedToken, SessionPool, State, TOKEN_MARGIN, Token, TokenPair,
    contains, describe,
};
use crate::{
    answer::Answer,
    clock::Nanos,
    record::{ErrorKind, RequestKind},
    scenario::{InFlight, Judgement, Route},
};

/// How many access tokens of a session are used; newer ones replace the oldest.
const SESSION_TOKENS_MAX: usize = 8;

impl SessionPool {
    pub(super) fn write_post(
        &self,
        route: Route,
        path: &str,
        bearer: Option<&str>,
        body: &str,
        out: &mut Vec<u8>,
    ) {
        self.write_call("POST", route, path, bearer, Some(body), out);
    }

    fn write_call(
        &self,
        method: &str,
        route: Route,
        path: &str,
        bearer: Option<&str>,
        body: Option<&str>,
        out: &mut Vec<u8>,
    ) {
        let head = &self.context.heads[route.target];
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

    /// A session without a request in flight; `None` if none was found in a few attempts.
    fn pick_idle(&mut self) -> Option<u32> {
        for _ in 0..RANDOM_PICKS_MAX {
            let at = self.random.below(self.sessions.len());
            if self.sessions.get(at)?.state == State::Alive {
                return u32::try_from(at).ok();
            }
        }
        None
    }

    pub(super) fn request_login(&mut self, route: Route, out: &mut Vec<u8>) -> Option<InFlight> {
        let subject = self.empty.pop().or_else(|| self.pick_idle())?;
        self.log_in_for(route, subject, out)
    }

    pub(super) fn log_in_for(&mut self, route: Route, subject: u32, out: &mut Vec<u8>) -> Option<InFlight> {
        let session = &mut self.sessions[subject as usize];
        session.state = State::LoggingIn;
        let email = &self.users[session.user as usize].email;
        let body =
            format!(r#"{{"email":"{email}","password":"{}","device":"loadtest"}}"#, self.context.password);
        self.write_post(route, "/auth_token", None, &body, out);
        Some(self.in_flight(RequestKind::Login, route, subject, 0))
    }

    pub(super) fn judge_login(&mut self, request: &InFlight, answer: &Answer<'_>, now: Nanos) -> Judgement {
        match (answer.status, TokenPair::of(answer)) {
            (200, Some(pair)) => {
                let session = &mut self.sessions[request.subject as usize];
                session.tokens.clear();
                session.tokens.push(Token { text: pair.access, until: request.sent + pair.lifetime });
                session.refresh = Some(pair.refresh);
                session.state = State::Alive;
                session.epoch += 1;
                self.schedule_renewal(request.subject, now);
                Judgement::Correct
            }
            (200, None) => {
                self.on_failed_login(request, now);
                Judgement::Failed(ErrorKind::Body)
            }
            (401, _) => {
                self.on_failed_login(request, now);
                Judgement::Wrong(format!("login with the right password: {}", describe(answer)))
            }
            (status, _) => {
                self.on_failed_login(request, now);
                Judgement::Failed(ErrorKind::Status(status))
            }
        }
    }

    pub(super) fn on_failed_login(&mut self, request: &InFlight, now: Nanos) {
        let session = &mut self.sessions[request.subject as usize];
        if session.tokens.is_empty() {
            session.state = State::Empty;
            self.empty.push(request.subject);
        } else {
            session.state = State::Alive;
            self.schedule_renewal(request.subject, now);
        }
    }

    pub(super) fn request_refresh(
        &mut self,
        route: Route,
        subject: Option<u32>,
        out: &mut Vec<u8>,
    ) -> Option<InFlight> {
        let subject = subject.or_else(|| self.pick_idle())?;
        let session = &mut self.sessions[subject as usize];
        // The refresh token is spent and its successor unknown: the session needs a new log-in.
        let Some(refresh) = session.refresh.take() else { return self.log_in_for(route, subject, out) };
        session.state = State::Refreshing;
        self.write_call("POST", route, "/auth_token/token_refresh", Some(&refresh), None, out);
        self.sessions[subject as usize].refresh = Some(refresh);
        Some(self.in_flight(RequestKind::Refresh, route, subject, 0))
    }

    pub(super) fn judge_refresh(&mut self, request: &InFlight, answer: &Answer<'_>, now: Nanos) -> Judgement {
        let session = &mut self.sessions[request.subject as usize];
        match (answer.status, TokenPair::of(answer)) {
            (200, Some(pair)) => {
                if session.tokens.len() >= SESSION_TOKENS_MAX {
                    session.tokens.remove(0);
                }
                session.tokens.push(Token { text: pair.access, until: request.sent + pair.lifetime });
                session.refresh = Some(pair.refresh);
                session.state = State::Alive;
                self.schedule_renewal(request.subject, now);
                Judgement::Correct
            }
            (401 | 422, _) => {
                self.on_failed_refresh(request, now);
                Judgement::Wrong(format!("refresh with a good refresh token: {}", describe(answer)))
            }
            (200, None) => {
                self.on_failed_refresh(request, now);
                Judgement::Failed(ErrorKind::Body)
            }
            (status, _) => {
                self.on_failed_refresh(request, now);
                Judgement::Failed(ErrorKind::Status(status))
            }
        }
    }

    /// The refresh token may be spent. A spent token that is sent late ends the session, so it is never sent
    /// again. The access tokens stay good.
    pub(super) fn on_failed_refresh(&mut self, request: &InFlight, now: Nanos) {
        let session = &mut self.sessions[request.subject as usize];
        session.refresh = None;
        session.state = State::Alive;
        self.schedule_renewal(request.subject, now);
    }

    /// Undoes a refresh or a logout that was never sent: the refresh token is unspent, and the session lives.
    pub(super) fn undo_unsent(&mut self, request: &InFlight, now: Nanos) {
        let session = &mut self.sessions[request.subject as usize];
        session.state = State::Alive;
        if request.kind == RequestKind::Logout {
            // Requests in flight are judged as if the logout had never been planned.
            session.epoch -= 1;
        }
        self.schedule_renewal(request.subject, now);
    }

    pub(super) fn request_logout(&mut self, route: Route, now: Nanos, out: &mut Vec<u8>) -> Option<InFlight> {
        // At least half of the sessions stay for the other requests.
        if self.empty.len() * 2 >= self.sessions.len() {
            return self.request_login(route, out);
        }
        let subject = self.pick_idle()?;
        let session = &mut self.sessions[subject as usize];
        let newest = session.tokens.last().filter(|token| token.until > now + TOKEN_MARGIN)?;
        let text = newest.text.clone();
        session.state = State::Ending;
        session.epoch += 1;
        self.write_call("DELETE", route, "/auth_token", Some(&text), None, out);
        Some(self.in_flight(RequestKind::Logout, route, subject, 0))
    }

    pub(super) fn judge_logout(&mut self, request: &InFlight, answer: &Answer<'_>, now: Nanos) -> Judgement {
        if answer.status == 204 {
            let refused = self.refused_by(answer, request.route.target);
            for token in std::mem::take(&mut self.sessions[request.subject as usize].tokens) {
                self.remember_revoked(RevokedToken { text: token.text, refused });
            }
        }
        self.clear_session(request.subject);
        if answer.status == 204 {
            Judgement::Correct
        } else {
            self.judge_refusal_of_good(request, answer, now)
        }
    }

    /// Drops the tokens of a session. A log-in fills it again.
    pub(super) fn clear_session(&mut self, subject: u32) {
        let session = &mut self.sessions[subject as usize];
        session.tokens.clear();
        session.refresh = None;
        session.state = State::Empty;
        self.empty.push(subject);
    }

    fn remember_revoked(&mut self, token: RevokedToken) {
        if self.revoked.len() < REVOKED_TOKENS_MAX {
            self.revoked.push(token);
        } else {
            self.revoked[self.revoked_next] = token;
            self.revoked_next = (self.revoked_next + 1) % REVOKED_TOKENS_MAX;
        }
    }
}

/// The first session alone, for [`crate::scenario::propagation`].
impl SessionPool {
    /// Writes a log-in of this session's user.
    pub fn write_login(&mut self, route: Route, subject: u32, out: &mut Vec<u8>) {
        self.log_in_for(route, subject, out);
    }

    /// Stores the tokens from the answer to a log-in; false if there are none. `sent` is when the log-in was
    /// sent.
    pub fn accept_login(&mut self, answer: &Answer<'_>, sent: Nanos) -> bool {
        let Some(pair) = TokenPair::of(answer) else { return false };
        let Some(session) = self.sessions.first_mut() else { return false };
        session.tokens = vec![Token { text: pair.access, until: sent + pair.lifetime }];
        session.refresh = Some(pair.refresh);
        true
    }

    /// Whether the answer reports the token as expired, and it may be.
    pub fn has_expired(&self, answer: &Answer<'_>, now: Nanos) -> bool {
        answer.status == 401 && contains(answer.body, b"expired") && self.may_be_expired(0, now)
    }

    /// Writes a validation of its token.
    pub fn write_probe(&self, route: Route, out: &mut Vec<u8>) {
        if let Some(token) = self.sessions.first().and_then(|session| session.tokens.last()) {
            self.write_validation(route, &token.text, out);
        }
    }

    /// Writes its logout.
    pub fn write_logout(&self, route: Route, out: &mut Vec<u8>) {
        if let Some(token) = self.sessions.first().and_then(|session| session.tokens.last()) {
            self.write_call("DELETE", route, "/auth_token", Some(&token.text), None, out);
        }
    }
}
