//! Settings, from the environment.

use std::{fmt, net::SocketAddr, time::Duration};

use hyper::Uri;

/// Where the service listens without `LISTEN`.
const LISTEN: &str = "127.0.0.1:8081";
/// Where Palisade is without `PALISADE_URL`.
const PALISADE_URL: &str = "http://127.0.0.1:8080";
/// How old a verdict may get without `VERDICT_MAX_AGE_MS`, in milliseconds.
const VERDICT_MAX_AGE_MS: &str = "1000";
/// Longest age of a verdict that may be set, in milliseconds: a revoked token shows all films for that time.
const VERDICT_MAX_AGE_MS_MAX: u64 = 8_000;

/// What the operator decides.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    /// `LISTEN`: `address:port` of the service.
    pub listen: SocketAddr,
    /// `PALISADE_URL`: scheme, host and port of Palisade.
    pub palisade: String,
    /// `VERDICT_MAX_AGE_MS`: how old a cached verdict may be; 0 asks Palisade at every request.
    pub verdict_max_age: Duration,
}

/// A setting that cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    name: &'static str,
    given: String,
    allowed: &'static str,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {:?}; allowed: {}", self.name, self.given, self.allowed)
    }
}

impl Settings {
    /// Reads the settings. An empty variable counts as unset.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Wrong> {
        let value = |name: &'static str, default: &str| {
            variable(name).filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned())
        };
        let listen = value("LISTEN", LISTEN);
        let listen = listen.parse().map_err(|_| Wrong {
            name: "LISTEN",
            given: listen.clone(),
            allowed: "address:port, as in 0.0.0.0:8081",
        })?;
        let palisade = value("PALISADE_URL", PALISADE_URL).trim_end_matches('/').to_owned();
        if !is_origin(&palisade) {
            let allowed = "http://host:port, without a path or a password";
            // A URL may hold a password: it is not repeated.
            return Err(Wrong { name: "PALISADE_URL", given: "…".into(), allowed });
        }
        let age = value("VERDICT_MAX_AGE_MS", VERDICT_MAX_AGE_MS);
        let millis = age.parse().ok().filter(|age| *age <= VERDICT_MAX_AGE_MS_MAX).ok_or(Wrong {
            name: "VERDICT_MAX_AGE_MS",
            given: age,
            allowed: "0 to 8000",
        })?;
        Ok(Self { listen, palisade, verdict_max_age: Duration::from_millis(millis) })
    }
}

fn is_origin(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let is_bare = uri.path() == "/" && uri.query().is_none();
    let has_password = uri.authority().is_none_or(|authority| authority.as_str().contains('@'));
    uri.scheme_str() == Some("http") && is_bare && !has_password
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Result<Settings, Wrong> {
        Settings::from_environment(|asked| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn defaults_are_used_for_what_is_unset_or_empty() {
        let settings = with("LISTEN", "").expect("the defaults are good");
        assert_eq!(settings.listen, "127.0.0.1:8081".parse().expect("an address"));
        assert_eq!(settings.palisade, "http://127.0.0.1:8080");
        assert_eq!(settings.verdict_max_age, Duration::from_secs(1));
    }

    #[test]
    fn settings_are_read() {
        assert_eq!(
            with("PALISADE_URL", "http://palisade:8080/").expect("good").palisade,
            "http://palisade:8080"
        );
        assert!(with("VERDICT_MAX_AGE_MS", "0").expect("good").verdict_max_age.is_zero());
    }

    #[test]
    fn wrong_settings_are_named() {
        assert_eq!(with("LISTEN", "here").expect_err("wrong").name, "LISTEN");
        for url in ["https://palisade", "palisade:8080", "http://a:b@c", "http://c/path", "http://c/?q"] {
            let wrong = with("PALISADE_URL", url).expect_err(url);
            assert_eq!(wrong.name, "PALISADE_URL");
            assert!(!wrong.to_string().contains("a:b"), "{wrong}");
        }
        for age in ["-1", "8001", "1s"] {
            assert_eq!(with("VERDICT_MAX_AGE_MS", age).expect_err(age).name, "VERDICT_MAX_AGE_MS");
        }
    }
}
