//! The two documents: `/` and `/stress`. They are made once, from the configuration, and are the same for everybody: what a user may see is
//! requested by their scripts.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue,
};
use sha2::{Digest, Sha256};

use super::assets::{VERSION, hex};
use crate::config::{AuthMode, Config, Module};
use crate::http::AppState;
use crate::http::wire::error::ApiError;
use crate::http::wire::etag;

/// Scripts and styles of this service alone, none of them inline, and no text that becomes a script or an element.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

static CROSS_ORIGIN_OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// The texts of the documents.
pub(super) const TEMPLATES: [&str; 2] =
    [include_str!("static/page.html"), include_str!("static/stress.html")];

/// The documents of a service.
#[derive(Debug)]
pub(super) struct Documents {
    page: Document,
    stress: Document,
}

/// A document.
#[derive(Debug)]
struct Document {
    html: Bytes,
    tag: HeaderValue,
}

impl Documents {
    /// The documents of a service with this configuration.
    pub(super) fn new(config: &Config) -> Self {
        let [page, stress] = TEMPLATES.map(|template| Document::new(template, config));
        Self { page, stress }
    }
}

impl Document {
    fn new(template: &str, config: &Config) -> Self {
        let modules = config.modules();
        // Names and values of settings: none has a character with a meaning in HTML.
        let auth = if config.auth_mode() == AuthMode::Open { "open" } else { "required" };
        let facts = format!(
            "data-modules=\"{}\" data-auth=\"{auth}\" data-faults=\"{}\"",
            modules.names().join(" "),
            if config.faults.faults.is_on() { "on" } else { "off" },
        );
        let stress = match modules.has(Module::Stress) {
            true => "<li><a href=\"/stress\">Stress</a></li>",
            false => "",
        };
        let html = template
            .replace("{facts}", &facts)
            .replace("{assets}", &format!("/ui/assets/{}", *VERSION))
            .replace("{stress}", stress);
        let hash = hex(&Sha256::digest(&html), 24);
        let tag = HeaderValue::try_from(format!("\"{hash}\"")).unwrap_or(HeaderValue::from_static("\"\""));
        Self { html: html.into(), tag }
    }

    fn respond(&self, headers: &HeaderMap) -> Response {
        let is_known = self.tag.to_str().is_ok_and(|tag| etag::is_known_tag(headers, tag));
        let mut response = match is_known {
            true => Response::new(Body::empty()),
            false => Response::new(Body::from(self.html.clone())),
        };
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(ETAG, self.tag.clone());
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        headers.insert(CROSS_ORIGIN_OPENER_POLICY.clone(), HeaderValue::from_static("same-origin"));
        response
    }
}

/// `GET /`.
pub(super) async fn page(
    State(state): State<Arc<AppState>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    Ok(state.web()?.documents.page.respond(&headers))
}

/// `GET /stress`.
pub(super) async fn stress(
    State(state): State<Arc<AppState>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    Ok(state.web()?.documents.stress.respond(&headers))
}
