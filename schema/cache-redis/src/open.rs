//! Parses the URL of a cache. No message quotes the URL, which may hold a password.

use redis::{ConnectionAddr, IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo};

/// Least length of the secret, in bytes.
pub(crate) const MIN_SECRET_BYTES: usize = 32;
/// Limit of the length of the namespace, in bytes.
pub(crate) const MAX_NAMESPACE_BYTES: usize = 64;

/// Why a cache cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The text is no URL of a Redis.
    #[error(
        "the URL of a Redis has the form redis://user:password@host:6379/0 \
         (user, password, port and database may be left out; special characters are percent-encoded)"
    )]
    Url,
    /// The URL asks for TLS (`rediss://` or `valkeys://`).
    #[error(
        "TLS to Redis is not supported: use redis:// in a network that you trust, or to a local \
         TLS tunnel such as stunnel"
    )]
    Tls,
    /// The namespace has characters that would have to be escaped in keys, or a wrong length.
    #[error("the namespace of the cache must be 1 to {MAX_NAMESPACE_BYTES} of A-Z a-z 0-9 _ . -")]
    Namespace,
    /// The secret is so short that it could be guessed.
    #[error("the secret of the cache must have at least {MIN_SECRET_BYTES} bytes")]
    Secret,
    /// There is no tokio runtime to connect in the background.
    #[error("a cache must be opened in a tokio runtime")]
    NoRuntime,
}

/// Checks the URL of a cache without opening it.
///
/// # Errors
/// Why the URL is wrong; the message does not quote it.
pub fn check_url(url: &str) -> Result<(), OpenError> {
    Address::parse(url).map(drop)
}

/// The address of a Redis, and the login.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) login: RedisConnectionInfo,
}

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Self, OpenError> {
        match url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase()).as_deref() {
            Some("redis" | "valkey") => {}
            Some("rediss" | "valkeys") => return Err(OpenError::Tls),
            _ => return Err(OpenError::Url),
        }
        let info = url.into_connection_info().map_err(|_| OpenError::Url)?;
        // RESP2 has no messages besides answers, and CLIENT SETINFO would be one more command that may fail.
        let login =
            info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        match info.addr() {
            ConnectionAddr::Tcp(host, port) if login.db() >= 0 => {
                Ok(Self { host: host.clone(), port: *port, login })
            }
            _ => Err(OpenError::Url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_parses_into_address_and_login() {
        let at = Address::parse("redis://ann:p%40ss@cache.example:7000/3").unwrap();
        assert_eq!((at.host.as_str(), at.port, at.login.db()), ("cache.example", 7000, 3));
        assert_eq!((at.login.username(), at.login.password()), (Some("ann"), Some("p@ss")));
        let at = Address::parse("redis://[::1]").unwrap();
        assert_eq!((at.host.as_str(), at.port, at.login.db()), ("::1", 6379, 0));
        assert_eq!(Address::parse("redis://:secret@h").unwrap().login.password(), Some("secret"));
    }

    #[test]
    fn invalid_url_is_rejected_without_the_password() {
        for (url, why) in [
            ("", OpenError::Url),
            ("localhost:6379", OpenError::Url),
            ("http://:hunter2@h", OpenError::Url),
            ("redis://", OpenError::Url),
            ("redis://:hunter2@", OpenError::Url),
            ("redis://:hunter2@h:99999", OpenError::Url),
            ("redis://:hun#ter2@h", OpenError::Url),
            ("redis://:hunter2@h/first", OpenError::Url),
            ("redis://:hunter2@h/-1", OpenError::Url),
            ("redis://:hunter2@h/?protocol=hunter2", OpenError::Url),
            ("unix:///run/redis.sock?pass=hunter2", OpenError::Url),
            ("rediss://:hunter2@h", OpenError::Tls),
        ] {
            let refused = Address::parse(url).err();
            assert_eq!(refused, Some(why), "{url}");
            let said = format!("{} {refused:?}", why);
            assert!(!said.contains("hunter2") && !said.contains("ter2"), "{said}");
        }
    }
}
