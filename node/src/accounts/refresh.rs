//! Exchanging a refresh token for its successor.

use actors::session::{RefreshRefusal, RefreshRequest};
use schema::Refusal;

use super::{AccountError, Accounts, Client, begin_session::SessionTokens};
use crate::credentials::tokens::RefreshTokens;

/// What comes of a refresh.
#[derive(Debug)]
pub enum RefreshOutcome {
    /// The session has this refresh token now.
    Next(SessionTokens),
    /// The presented token is not accepted.
    Refused(Refusal),
}

impl Accounts<'_> {
    /// Spends the presented refresh token.
    ///
    /// # Errors
    /// When the store does not answer: then the token can still be used.
    pub async fn refresh(self, presented: &[u8], client: Client) -> Result<RefreshOutcome, AccountError> {
        let spent = match self.tokens.refresh.read(presented, self.clock.now()) {
            Ok(token) => token,
            // Not a refresh token: the refusal is that of an access token, if it is one.
            Err(Refusal::NotRefresh) => {
                let refusal = self.tokens.refuse_as_refresh(presented, || client.source).await;
                return Ok(RefreshOutcome::Refused(refusal));
            }
            Err(refusal) => return Ok(self.refused(refusal)),
        };
        let request = RefreshRequest {
            user: spent.user,
            session: spent.session,
            version: spent.version,
            presented: RefreshTokens::hash(&spent.secret),
            successor: RefreshTokens::hash(&self.tokens.refresh.successor(&spent.secret)),
            ip_address: client.ip_address,
            user_agent: client.user_agent,
        };
        let refreshed = match self.actors.sessions.refresh(request).await? {
            Ok(refreshed) => refreshed,
            Err(RefreshRefusal::Revoked) => return Ok(self.refused(Refusal::Revoked)),
            Err(RefreshRefusal::Expired) => return Ok(self.refused(Refusal::Expired)),
        };
        self.metrics.refreshed();
        Ok(RefreshOutcome::Next(SessionTokens {
            user: spent.user,
            session: spent.session,
            user_version: refreshed.version,
            refresh: self.tokens.refresh.next(&spent, refreshed.version, refreshed.expires_at),
        }))
    }

    fn refused(self, refusal: Refusal) -> RefreshOutcome {
        self.metrics.refresh_refused();
        RefreshOutcome::Refused(refusal)
    }
}
