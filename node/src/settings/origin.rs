//! The settings `CORS_ORIGINS` and `PUBLIC_URL`: browser origins, and the URL of this deployment.

use std::net::IpAddr;

use url::{Host, Url};

use super::CorsOrigins;

/// The allowed values of `CORS_ORIGINS`, in words for errors.
pub(super) const ORIGINS: &str = "*, or origins as browsers send them, scheme://host[:port] without user, path or wildcard, \
     separated by commas";
/// The allowed values of `PUBLIC_URL`, in words for errors.
pub(super) const PUBLIC_URL: &str =
    "https://host[:port][/path], or http://… on loopback; without user, query or fragment";

/// The URL at which people and identity providers reach this deployment, without a final slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    text: String,
    origin: String,
}

impl PublicUrl {
    /// The URL: scheme, host, a port that is not the scheme's own, and the path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The origin of the URL (RFC 6454), which is the URL without the path.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

/// Parses a list of origins into the form in which browsers send them.
pub(super) fn origins(text: &str) -> Option<CorsOrigins> {
    if text.trim() == "*" {
        return Some(CorsOrigins::Any);
    }
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let origins = parts.map(origin).collect::<Option<Vec<_>>>()?;
    (!origins.is_empty()).then_some(CorsOrigins::Listed(origins))
}

/// Parses an origin (RFC 6454, section 6.1). A final slash is tolerated, since people copy it from the
/// address bar.
fn origin(text: &str) -> Option<String> {
    let url = plain(text)?;
    let bare = matches!(url.path(), "" | "/") && url.query().is_none();
    if !bare {
        return None;
    }
    match url.scheme() {
        "http" | "https" => Some(url.origin().ascii_serialization()),
        // Documents of these schemes have no host, or browsers never send them as origins.
        "file" | "data" | "blob" | "javascript" | "about" | "ftp" | "ws" | "wss" => None,
        // A scheme of an application, as in capacitor://localhost.
        scheme => {
            let host = url.host_str()?.to_ascii_lowercase();
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            Some(format!("{scheme}://{host}{port}"))
        }
    }
}

/// Parses the public URL.
pub(super) fn public_url(text: &str) -> Option<PublicUrl> {
    let url = plain(text.trim())?;
    let secure = match url.scheme() {
        "https" => true,
        "http" => is_loopback(&url.host()?),
        _ => false,
    };
    if !secure || url.query().is_some() {
        return None;
    }
    let origin = url.origin().ascii_serialization();
    Some(PublicUrl { text: format!("{origin}{}", url.path().trim_end_matches('/')), origin })
}

/// The allowed values of `OTLP_ENDPOINT`, in words for errors.
pub(super) const OTLP_ENDPOINT: &str =
    "http:// or https://host[:port][/path] of a collector; without user, query or fragment";

/// Parses the URL of a collector, and adds the path of traces unless it is there (OTLP 1.9, "OTLP/HTTP
/// Request").
pub(super) fn otlp_url(text: &str) -> Option<String> {
    const PATH: &str = "/v1/traces";
    let url = plain(text.trim())?;
    if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.port() == Some(0) {
        return None;
    }
    let base = url.as_str().trim_end_matches('/');
    Some(if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") })
}

/// Parses `scheme://host…` without user and fragment, and rejects text that a parser would silently drop or
/// repair.
fn plain(text: &str) -> Option<Url> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | '\\' | '@' | '#');
    let (_, rest) = text.split_once("://")?;
    if text.contains(odd) || rest.is_empty() || rest.starts_with('/') {
        return None;
    }
    let url = Url::parse(text).ok()?;
    url.host_str().is_some_and(|host| !host.is_empty()).then_some(url)
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(address) => IpAddr::V4(*address).is_loopback(),
        Host::Ipv6(address) => IpAddr::V6(*address).is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_traces_is_added_to_a_collector() {
        for (given, sent) in [
            ("http://jaeger:4318", Some("http://jaeger:4318/v1/traces")),
            ("https://otel.example.org/collect/", Some("https://otel.example.org/collect/v1/traces")),
            ("http://127.0.0.1:4318/v1/traces", Some("http://127.0.0.1:4318/v1/traces")),
            ("jaeger:4318", None),
            ("grpc://jaeger:4317", None),
            ("http://user:secret@jaeger:4318", None),
            ("http://jaeger:4318/?key=1", None),
            ("http://jaeger:0", None),
        ] {
            assert_eq!(otlp_url(given).as_deref(), sent, "{given}");
        }
    }

    #[test]
    fn origins_are_normalised_to_what_browsers_send() {
        for (given, sent) in [
            ("https://Admin.Example.org", "https://admin.example.org"),
            ("HTTPS://admin.example.org", "https://admin.example.org"),
            ("https://x:443", "https://x"),
            ("http://x:80", "http://x"),
            ("http://x:8080", "http://x:8080"),
            ("https://x:80", "https://x:80"),
            ("https://x/", "https://x"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("Ionic://Localhost", "ionic://localhost"),
            ("tauri://localhost/", "tauri://localhost"),
            ("app://x:443", "app://x:443"),
            (
                "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
                "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            ),
        ] {
            assert_eq!(origin(given).as_deref(), Some(sent), "{given}");
            assert_eq!(origin(sent).as_deref(), Some(sent), "{sent} stays");
        }
    }

    #[test]
    fn invalid_origins_are_refused() {
        for text in [
            "example.org",
            "null",
            "https://",
            "https:///x",
            "https://x/path",
            "https://x/?",
            "https://x?q",
            "https://x#f",
            "https://user@x",
            "https://user:secret@x",
            "https://*.example.org",
            "https://x:99999",
            "https://a b",
            "https://a\tb",
            "https:\\\\x",
            "file:///x",
            "file://x",
            "data:text/html,x",
            "javascript://x",
            "capacitor://",
            "*",
        ] {
            assert_eq!(origin(text), None, "{text}");
        }
        assert_eq!(origins("https://x,*"), None);
        assert_eq!(origins(" * "), Some(CorsOrigins::Any));
        let listed = CorsOrigins::Listed(vec!["https://x".into(), "app://y".into()]);
        assert_eq!(origins("https://X:443/, ,app://y"), Some(listed));
    }

    #[test]
    fn public_url_is_https_or_on_loopback() {
        for (given, text, origin) in [
            ("https://Id.Example.org", "https://id.example.org", "https://id.example.org"),
            ("https://x:443/iam/", "https://x/iam", "https://x"),
            ("https://x/a/b", "https://x/a/b", "https://x"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[::1]:8080", "http://[::1]:8080", "http://[::1]:8080"),
            ("http://localhost", "http://localhost", "http://localhost"),
        ] {
            let url = public_url(given).expect(given);
            assert_eq!((url.as_str(), url.origin()), (text, origin), "{given}");
        }
        for text in [
            "http://example.org",
            "http://127.0.0.1.example.org",
            "ftp://x",
            "capacitor://localhost",
            "example.org",
            "https://u@x",
            "https://x?q",
            "https://x#f",
            "",
        ] {
            assert_eq!(public_url(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsed_origin_parses_to_itself(text in "[a-zA-Z]{1,6}://[a-zA-Z0-9.:*@/\\[\\]-]{0,12}") {
            if let Some(once) = origin(&text) {
                assert_eq!(origin(&once), Some(once.clone()));
                assert!(!once.ends_with('/') && !once.contains('@'));
            }
        }
    }
}
