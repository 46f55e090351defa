//! `/openapi.json` and `/apidocs/`: Swagger UI, which shows the document and calls its operations.
//!
//! Every link is relative, so that the pages work behind a proxy that serves the node under a path. The pages
//! load scripts and styles only as files from the node: no script is inline, and no other host is contacted.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::Path,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::{Config, serve};

use crate::{
    app::App,
    http::{Policies, RoutePolicy, respond::problem::Problem},
    settings::PublicUrl,
};

/// The document, relative to `/apidocs/`.
const DOCUMENT_FROM_PAGES: &str = "../openapi.json";
/// The one inline style of Swagger UI, by its hash (CSP 3, section 2.3.1): two colours of the logo.
const LOGO_STYLE: &str = "sha256-RL3ie0nH+Lzz2YNqQN83mnU0J1ot4QL7b99vMdIX99w=";
/// The pages, relative to `/apidocs`.
const PAGES_FROM_REDIRECT: &str = "apidocs/";

/// The policy of each route that [`router`] has.
pub fn policies() -> Policies {
    ["/openapi.json", "/apidocs", "/apidocs/", "/apidocs/{*file}"]
        .map(|path| (path, RoutePolicy::Static))
        .into()
}

/// The routes of the document and its pages.
pub fn router(document: &OpenApi, public_url: Option<&PublicUrl>) -> Router<Arc<App>> {
    let document: Bytes = serde_json::to_vec(document).unwrap_or_default().into();
    let pages = Pages::new(public_url);
    let index = pages.clone();
    Router::new()
        .route(
            "/openapi.json",
            get(move || async move { ([(header::CONTENT_TYPE, "application/json")], document) }),
        )
        .route(
            "/apidocs",
            get(|| async { (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, PAGES_FROM_REDIRECT)]) }),
        )
        .route("/apidocs/", get(move || async move { index.file("") }))
        .route("/apidocs/{*file}", get(move |Path(file): Path<String>| async move { pages.file(&file) }))
}

#[derive(Clone)]
struct Pages {
    config: Arc<Config<'static>>,
    policy: HeaderValue,
}

impl Pages {
    fn new(public_url: Option<&PublicUrl>) -> Self {
        let config = Config::from(DOCUMENT_FROM_PAGES)
            .persist_authorization(false)
            .try_it_out_enabled(true)
            // The validator's badge would send the document's address to a third party.
            .validator_url("none");
        Self { config: Arc::new(config), policy: policy(public_url) }
    }

    fn file(&self, name: &str) -> Result<Response, Problem> {
        let file = serve(name, self.config.clone()).ok().flatten().ok_or_else(Problem::not_found)?;
        let kind = HeaderValue::from_str(&file.content_type);
        let kind = kind.unwrap_or(HeaderValue::from_static("application/octet-stream"));
        let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, self.policy.clone())];
        let bytes = match file.bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => bytes.into(),
        };
        Ok((headers, bytes).into_response())
    }
}

/// `Content-Security-Policy` of the pages: their requests may go to this node, under the name in the browser,
/// and to the server in the document.
fn policy(public_url: Option<&PublicUrl>) -> HeaderValue {
    const REST: &str = "script-src 'self'; img-src 'self' data:; font-src 'self'; base-uri 'none'; \
                        form-action 'none'; frame-ancestors 'none'";
    let server = public_url.map(|url| format!(" {}", url.origin())).unwrap_or_default();
    let policy =
        format!("default-src 'none'; connect-src 'self'{server}; style-src 'self' '{LOGO_STYLE}'; {REST}");
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, digest};
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    #[test]
    fn inline_style_of_the_logo_is_allowed() {
        let style = ".logo_small_svg__cls-2{fill:#fff}.logo_small_svg__cls-3{fill:#85ea2d}";
        let hash = STANDARD.encode(digest(&SHA256, style.as_bytes()));
        assert_eq!(LOGO_STYLE, format!("sha256-{hash}"));
        let config = Arc::new(Config::from(DOCUMENT_FROM_PAGES));
        let bundles = ["swagger-ui-bundle.js", "swagger-ui-standalone-preset.js"];
        let texts = bundles.map(|name| serve(name, config.clone()).unwrap().unwrap().bytes);
        assert!(
            texts.iter().any(|text| text.windows(style.len()).any(|window| window == style.as_bytes())),
            "Swagger UI has another logo: look at /apidocs/ with a browser's console, and allow its style"
        );
    }
}
