//! `Accept-Encoding` and the compression of answers (RFC 9110, sections 8.4.1 and 12.5.3).

use std::io;

use async_compression::Level;
use async_compression::tokio::bufread::{BrotliEncoder, GzipEncoder, ZstdEncoder};
use axum::body::Body;
use futures_util::stream;
use hyper::HeaderMap;
use hyper::header::ACCEPT_ENCODING;
use tokio_util::io::{ReaderStream, StreamReader};

use super::answer::PartsBody;

/// A coding of answers, in the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Zstd,
    Brotli,
    Gzip,
}

const ALL: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];
/// Levels at which a core compresses some hundred MB a second.
const ZSTD_LEVEL: i32 = 1;
const BROTLI_LEVEL: i32 = 2;
const GZIP_LEVEL: i32 = 3;
/// Bytes that are compressed between two pauses.
const PIECE_BYTES: usize = 32 * 1024;
/// Types that are compressed already.
const COMPRESSED: [&str; 7] = [
    "application/zip",
    "application/gzip",
    "application/zstd",
    "application/x-7z-compressed",
    "application/x-xz",
    "font/woff2",
    "application/pdf",
];

impl Coding {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// Whether content of a type becomes smaller by it.
    pub(super) fn helps(content_type: &str) -> bool {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_media = ["image/", "audio/", "video/"].iter().any(|kind| essence.starts_with(kind));
        (!is_media || essence == "image/svg+xml") && !COMPRESSED.contains(&&*essence)
    }

    /// The coding that a client likes best, of those that it takes at all.
    pub(super) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        let (mut named, mut any): ([Option<u16>; 3], Option<u16>) = ([None; 3], None);
        for listed in values.flat_map(|value| value.split(',')) {
            let mut parts = listed.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| {
                let value = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="))?;
                Some(weight(value))
            });
            let weight = weight.unwrap_or(1000);
            match &*name {
                "*" => any = Some(weight),
                "x-gzip" => named[2] = Some(weight),
                name => {
                    let place = ALL.iter().position(|coding| coding.name() == name);
                    if let Some(place) = place.and_then(|place| named.get_mut(place)) {
                        *place = Some(weight);
                    }
                }
            }
        }
        let weighed = ALL.into_iter().zip(named).map(|(coding, own)| (coding, own.or(any).unwrap_or(0)));
        let best = weighed.filter(|(_, weight)| *weight > 0).rev().max_by_key(|(_, weight)| *weight);
        best.map(|(coding, _)| coding)
    }

    /// A body that is compressed while it is sent.
    pub(super) fn encode(self, parts: PartsBody) -> Body {
        let pieces =
            stream::unfold(parts, async |mut parts| Some((Ok::<_, io::Error>(parts.next()?), parts)));
        let reader = StreamReader::new(Box::pin(pieces));
        let level = Level::Precise;
        match self {
            Self::Zstd => body(ZstdEncoder::with_quality(reader, level(ZSTD_LEVEL))),
            Self::Brotli => body(BrotliEncoder::with_quality(reader, level(BROTLI_LEVEL))),
            Self::Gzip => body(GzipEncoder::with_quality(reader, level(GZIP_LEVEL))),
        }
    }
}

fn body(reader: impl tokio::io::AsyncRead + Send + 'static) -> Body {
    Body::from_stream(ReaderStream::with_capacity(reader, PIECE_BYTES))
}

/// A weight in thousandths; a malformed one is none.
fn weight(text: &str) -> u16 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(fraction) || fraction.len() > 3 {
        return 0;
    }
    match whole {
        "1" => 1000,
        "0" => format!("{fraction:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn the_coding_with_the_highest_weight_is_taken_and_zero_means_no() {
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_str(value).unwrap())]);
            Coding::accepted(&headers).map(Coding::name)
        };
        for (value, expected) in [
            ("", None),
            ("identity", None),
            ("gzip", Some("gzip")),
            ("gzip;q=0", None),
            ("gzip; q=0.000", None),
            ("GZIP", Some("gzip")),
            ("gzip, deflate, br", Some("br")),
            ("gzip, br, zstd", Some("zstd")),
            ("gzip;q=1.0, br;q=0.5", Some("gzip")),
            ("gzip;q=0, *", Some("zstd")),
            ("*;q=0", None),
            ("*;q=0, gzip;q=0.1", Some("gzip")),
            ("gzip;q=x", None),
            ("gzip;q=2", None),
            ("deflate", None),
            ("x-gzip", Some("gzip")),
        ] {
            assert_eq!(of(value), expected, "{value}");
        }
        assert_eq!(Coding::accepted(&HeaderMap::new()), None);
    }

    #[test]
    fn media_that_is_compressed_already_is_left_alone() {
        for helped in
            ["text/plain", "application/json; charset=utf-8", "application/octet-stream", "image/svg+xml"]
        {
            assert!(Coding::helps(helped), "{helped}");
        }
        for other in ["image/png", "Video/mp4", "application/zip"] {
            assert!(!Coding::helps(other), "{other}");
        }
    }
}
