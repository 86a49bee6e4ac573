//! Scripts and styles, embedded in the binary.
//!
//! Their URLs contain a version, the hash of all of them, so a browser keeps them for ever and a new binary has new ones. With another
//! version, which a page of another binary asks for, they are the current ones and are not kept.

use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::Response;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use crate::http::wire::error::ApiError;
use crate::http::wire::{etag, path};

static CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// A file.
pub(super) struct Asset {
    pub(super) name: &'static str,
    media_type: &'static str,
    pub(super) bytes: &'static [u8],
}

macro_rules! assets {
    ($($name:literal: $media_type:expr,)*) => {
        /// Every file.
        pub(super) static ASSETS: &[Asset] = &[$(Asset {
            name: $name,
            media_type: $media_type,
            bytes: include_bytes!(concat!("static/", $name)),
        },)*];
    };
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

assets! {
    "app.css": STYLE,
    "uplot-1.6.32.css": STYLE,
    "icon.svg": "image/svg+xml",
    "theme.js": SCRIPT,
    "uplot-1.6.32.js": SCRIPT,
    "account.js": SCRIPT,
    "api.js": SCRIPT,
    "app.js": SCRIPT,
    "charts.js": SCRIPT,
    "conversations.js": SCRIPT,
    "dead.js": SCRIPT,
    "dom.js": SCRIPT,
    "files.js": SCRIPT,
    "live.js": SCRIPT,
    "records.js": SCRIPT,
    "routes.js": SCRIPT,
    "session.js": SCRIPT,
    "shell.js": SCRIPT,
    "streams.js": SCRIPT,
    "stress.js": SCRIPT,
}

/// The version of all files: a part of their hash.
pub(super) static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for asset in ASSETS {
        hash.update(asset.name);
        hash.update(asset.bytes.len().to_le_bytes());
        hash.update(asset.bytes);
    }
    hex(&hash.finalize(), 12)
});

/// The first digits of a hash.
pub(super) fn hex(hash: &[u8], digits: usize) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>().chars().take(digits).collect()
}

/// `GET /ui/assets/{version}/{name}`.
pub(super) async fn get(
    names: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (version, name) = path::known(names, ApiError::unknown_path())?;
    let asset = ASSETS.iter().find(|asset| asset.name == name).ok_or_else(ApiError::unknown_path)?;
    let tag = format!("\"{}\"", *VERSION);
    let mut response = match etag::is_known_tag(&headers, &tag) {
        true => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        false => Response::new(Body::from(asset.bytes)),
    };
    let kept = if version == *VERSION { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(kept));
    headers.insert(ETAG, HeaderValue::try_from(tag).map_err(|_| ApiError::internal())?);
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY.clone(), HeaderValue::from_static("same-origin"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files of others, as their authors published them (npm, `uplot@1.6.32`, `dist/`).
    const VENDORED: [(&str, &str); 2] = [
        ("uplot-1.6.32.js", "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"),
        ("uplot-1.6.32.css", "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04"),
    ];
    /// The budget of both documents and all files together.
    const MAX_BYTES: usize = 250_000;

    #[test]
    fn files_of_others_are_those_that_their_authors_published() {
        for (name, hash) in VENDORED {
            let asset = ASSETS.iter().find(|asset| asset.name == name).unwrap();
            assert_eq!(hex(&Sha256::digest(asset.bytes), 64), hash, "{name}");
        }
        // A library without a hash here is not checked.
        let own = |name: &str| !name.contains('-') || VENDORED.iter().any(|(vendored, _)| *vendored == name);
        assert!(ASSETS.iter().all(|asset| own(asset.name)));
    }

    #[test]
    fn the_page_is_within_its_budget_and_every_file_is_embedded() {
        let documents = crate::http::web::document::TEMPLATES.iter().map(|text| text.len());
        let bytes = ASSETS.iter().map(|asset| asset.bytes.len()).chain(documents).sum::<usize>();
        assert!(bytes < MAX_BYTES, "{bytes}");
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/web/static");
        for file in std::fs::read_dir(folder).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            assert!(name.ends_with(".html") || ASSETS.iter().any(|asset| asset.name == name), "{name}");
        }
    }

    #[test]
    fn scripts_run_no_text_and_name_no_other_host() {
        for asset in ASSETS.iter().filter(|asset| asset.name.ends_with(".js")) {
            let text = std::str::from_utf8(asset.bytes).unwrap();
            for forbidden in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "new Function", "document.write"]
            {
                assert!(!text.contains(forbidden), "{}: {forbidden}", asset.name);
            }
            let is_own = !asset.name.starts_with("uplot");
            assert!(!is_own || !text.replace("http://www.w3.org/", "").contains("://"), "{}", asset.name);
        }
    }
}
