//! `Content-Encoding`: gzip, deflate (zlib), zstd and br, in bounded memory.
//!
//! A decoder's window is counted against `MAX_BODY_MEMORY` before it is made, what comes out is held a piece at a time
//! and counted against the body's limit: a bomb is refused after as many bytes as a plain body would be.

use std::io;
use std::sync::Arc;

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use bytes::{Bytes, BytesMut};
use hyper::StatusCode;
use tokio::io::{AsyncBufReadExt, AsyncReadExt};
use tokio_util::io::StreamReader;

use super::super::body::{BodyLimits, BodyMemory, BodyShare, LimitedBody, WholeBody};
use super::super::error::ApiError;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Encoding {
    Identity,
    Gzip,
    Deflate,
    Zstd,
    Brotli,
}

/// What comes out of a decoder at a time.
const PIECE_BYTES: usize = 64 * 1024;
/// The largest window that zstd may ask for, as a power of two: 8 MiB, which RFC 8878 tells decoders to support.
const ZSTD_WINDOW_LOG: u32 = 23;

impl Encoding {
    /// Reads a `Content-Encoding` (RFC 9110, section 8.4), of one coding.
    pub(in super::super) fn parse(value: &[u8]) -> Result<Self, ApiError> {
        match value.trim_ascii().to_ascii_lowercase().as_slice() {
            b"" | b"identity" => Ok(Self::Identity),
            b"gzip" | b"x-gzip" => Ok(Self::Gzip),
            b"deflate" => Ok(Self::Deflate),
            b"zstd" => Ok(Self::Zstd),
            b"br" => Ok(Self::Brotli),
            _ => Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_content_encoding",
                "content-encoding takes one of gzip, deflate, zstd, br",
            )
            .field("content-encoding")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
            Self::Brotli => "br",
        }
    }

    /// What a decoder may hold, in bytes: its window and its tables.
    fn decoder_bytes(self) -> usize {
        match self {
            Self::Identity => 0,
            Self::Gzip | Self::Deflate => 48 * 1024,
            Self::Zstd => (1 << ZSTD_WINDOW_LOG) + 256 * 1024,
            // RFC 7932: windows of up to 16 MiB.
            Self::Brotli => (16 << 20) + 256 * 1024,
        }
    }
}

type Compressed<'a> = StreamReader<&'a mut LimitedBody, Bytes>;

/// A body with its encoding taken off, as it comes.
pub(in super::super) struct Decoded<'a> {
    decoder: Decoder<'a>,
    encoding: Encoding,
    limits: BodyLimits,
    produced: usize,
    buffer: BytesMut,
    _window: BodyShare,
}

enum Decoder<'a> {
    Identity(&'a mut LimitedBody),
    Gzip(Box<GzipDecoder<Compressed<'a>>>),
    Deflate(Box<ZlibDecoder<Compressed<'a>>>),
    Zstd(Box<ZstdDecoder<Compressed<'a>>>),
    Brotli(Box<BrotliDecoder<Compressed<'a>>>),
}

impl<'a> Decoded<'a> {
    pub(in super::super) fn new(
        body: &'a mut LimitedBody,
        encoding: Encoding,
        memory: &Arc<BodyMemory>,
    ) -> Result<Self, ApiError> {
        let limits = body.limits();
        let mut window = BodyShare::new(memory);
        window.grow(encoding.decoder_bytes())?;
        let decoder = match encoding {
            Encoding::Identity => Decoder::Identity(body),
            Encoding::Gzip => {
                let mut decoder = GzipDecoder::new(StreamReader::new(body));
                decoder.multiple_members(true);
                Decoder::Gzip(Box::new(decoder))
            }
            Encoding::Deflate => Decoder::Deflate(Box::new(ZlibDecoder::new(StreamReader::new(body)))),
            Encoding::Zstd => {
                let window = [DParameter::window_log_max(ZSTD_WINDOW_LOG)];
                let mut decoder = ZstdDecoder::with_params(StreamReader::new(body), &window);
                decoder.multiple_members(true);
                Decoder::Zstd(Box::new(decoder))
            }
            Encoding::Brotli => Decoder::Brotli(Box::new(BrotliDecoder::new(StreamReader::new(body)))),
        };
        Ok(Self { decoder, encoding, limits, produced: 0, buffer: BytesMut::new(), _window: window })
    }

    /// The next piece; `None` at the end.
    pub(in super::super) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        if self.buffer.capacity() == 0 && self.encoding != Encoding::Identity {
            self.buffer.reserve(PIECE_BYTES);
        }
        let buffer = &mut self.buffer;
        let read = match &mut self.decoder {
            Decoder::Identity(body) => return body.next().await,
            Decoder::Gzip(decoder) => decoder.read_buf(buffer).await,
            Decoder::Deflate(decoder) => decoder.read_buf(buffer).await,
            Decoder::Zstd(decoder) => decoder.read_buf(buffer).await,
            Decoder::Brotli(decoder) => decoder.read_buf(buffer).await,
        };
        match read {
            Ok(0) => self.at_end().await.map(|()| None),
            Ok(read) => {
                self.produced += read;
                if self.produced > self.limits.bytes {
                    return Err(self.limits.too_large());
                }
                Ok(Some(self.buffer.split().freeze()))
            }
            Err(error) => Err(self.refusal(&error)),
        }
    }

    /// A failure of the body itself comes through the decoder as an error of its reader.
    fn refusal(&mut self, error: &io::Error) -> ApiError {
        let refused = self.compressed().and_then(|compressed| compressed.get_mut().take_refusal());
        refused.unwrap_or_else(|| {
            ApiError::invalid(format!("the body is not valid {}: {error}", self.encoding.name()))
                .field("content-encoding")
        })
    }

    /// Refuses what stands behind the compressed data's end: nobody would look at it.
    async fn at_end(&mut self) -> Result<(), ApiError> {
        let rest = match self.compressed() {
            Some(compressed) => compressed.fill_buf().await.map(<[u8]>::len),
            None => Ok(0),
        };
        match rest {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.refusal(&io::Error::other("something stands behind its end"))),
            Err(error) => Err(self.refusal(&error)),
        }
    }

    fn compressed(&mut self) -> Option<&mut Compressed<'a>> {
        match &mut self.decoder {
            Decoder::Identity(_) => None,
            Decoder::Gzip(decoder) => Some(decoder.get_mut()),
            Decoder::Deflate(decoder) => Some(decoder.get_mut()),
            Decoder::Zstd(decoder) => Some(decoder.get_mut()),
            Decoder::Brotli(decoder) => Some(decoder.get_mut()),
        }
    }
}

/// A whole body with its encoding taken off.
pub(in super::super) async fn decode_whole(
    body: &mut LimitedBody,
    encoding: Encoding,
    memory: &Arc<BodyMemory>,
) -> Result<WholeBody, ApiError> {
    let mut decoded = Decoded::new(body, encoding, memory)?;
    let mut share = BodyShare::new(memory);
    let mut whole = Vec::new();
    while let Some(piece) = decoded.next().await? {
        share.grow(piece.len())?;
        whole.extend_from_slice(&piece);
    }
    Ok(WholeBody::gathered(whole, share))
}
