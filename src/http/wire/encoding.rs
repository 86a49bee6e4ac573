//! `Content-Encoding`: gzip, deflate, zstd and br, in bounded memory.
//!
//! `deflate` is zlib (RFC 9110, section 8.4.1.2), and many clients send it without zlib's frame: the first byte
//! distinguishes the two. A gzip body may have several members, and padding of zeros behind them. A body without bytes is
//! empty in any encoding.
//!
//! A decoder's window counts against the share of bodies in `MEMORY_BUDGET` before it is allocated. The output is read piece by piece and counts
//! against the body's limit: a decompression bomb is rejected after as many bytes as a plain body.

use std::io;
use std::sync::Arc;

use async_compression::tokio::bufread::{
    BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder,
};
use async_compression::zstd::DParameter;
use bytes::{Bytes, BytesMut};
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, HeaderMap};
use tokio::io::{AsyncBufReadExt, AsyncReadExt};
use tokio_util::io::StreamReader;

use super::body::{BodyLimits, LimitedBody, MemoryBudget, MemoryPermit, WholeBody};
use super::error::ApiError;

/// The compression of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Encoding {
    Identity,
    Gzip,
    Deflate,
    Zstd,
    Brotli,
}

/// Bytes of a decoder's output buffer.
const PIECE_BYTES: usize = 64 * 1024;
/// The first byte of a gzip member.
const GZIP_MEMBER: u8 = 0x1f;
/// The charge of each further member of a gzip body against the body's limit, beside its content. Each member costs a decoder,
/// however small it is: without a charge, a body of empty members of 20 bytes each uses a core for a minute.
const GZIP_MEMBER_BYTES: usize = 256;
/// The largest window of zstd, as a power of two: 8 MiB, the minimum that RFC 8878 requires of decoders.
const ZSTD_WINDOW_LOG: u32 = 23;

impl Encoding {
    /// The coding that the headers declare; without a `Content-Encoding`, none.
    pub(in crate::http) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        headers.get(CONTENT_ENCODING).map_or(Ok(Self::Identity), |value| Self::parse(value.as_bytes()))
    }

    /// Reads a `Content-Encoding` (RFC 9110, section 8.4), of one coding.
    pub(in crate::http) fn parse(value: &[u8]) -> Result<Self, ApiError> {
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

    /// The maximum memory of a decoder, in bytes: its window and its tables.
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

/// A body that is decoded while it arrives.
pub(in crate::http) struct Decoded<'a> {
    decoder: Decoder<'a>,
    encoding: Encoding,
    limits: BodyLimits,
    produced: usize,
    buffer: BytesMut,
    _window: MemoryPermit,
}

enum Decoder<'a> {
    Identity(&'a mut LimitedBody),
    /// The body is empty, or completely decoded.
    Nothing,
    Gzip(Box<GzipDecoder<Compressed<'a>>>),
    Zlib(Box<ZlibDecoder<Compressed<'a>>>),
    Deflate(Box<DeflateDecoder<Compressed<'a>>>),
    Zstd(Box<ZstdDecoder<Compressed<'a>>>),
    Brotli(Box<BrotliDecoder<Compressed<'a>>>),
}

impl<'a> Decoded<'a> {
    /// Waits for the first byte of a compressed body.
    pub(in crate::http) async fn new(
        body: &'a mut LimitedBody,
        encoding: Encoding,
        memory: &Arc<MemoryBudget>,
    ) -> Result<Self, ApiError> {
        let limits = body.limits();
        let mut window = MemoryPermit::new(memory);
        window.grow(encoding.decoder_bytes())?;
        let decoder = match encoding {
            Encoding::Identity => Decoder::Identity(body),
            encoding => decoder(StreamReader::new(body), encoding).await?,
        };
        Ok(Self { decoder, encoding, limits, produced: 0, buffer: BytesMut::new(), _window: window })
    }

    /// The next piece; `None` at the end.
    pub(in crate::http) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        if self.buffer.capacity() == 0 && self.encoding != Encoding::Identity {
            self.buffer.reserve(PIECE_BYTES);
        }
        loop {
            let buffer = &mut self.buffer;
            let read = match &mut self.decoder {
                Decoder::Identity(body) => return body.next().await,
                Decoder::Nothing => return Ok(None),
                Decoder::Gzip(decoder) => decoder.read_buf(buffer).await,
                Decoder::Zlib(decoder) => decoder.read_buf(buffer).await,
                Decoder::Deflate(decoder) => decoder.read_buf(buffer).await,
                Decoder::Zstd(decoder) => decoder.read_buf(buffer).await,
                Decoder::Brotli(decoder) => decoder.read_buf(buffer).await,
            };
            match read {
                Ok(0) => self.at_end().await?,
                Ok(read) => {
                    self.produced += read;
                    if self.produced > self.limits.bytes {
                        return Err(self.limits.too_large());
                    }
                    return Ok(Some(self.buffer.split().freeze()));
                }
                Err(error) => return Err(self.refusal(&error)),
            }
        }
    }

    /// The cause of a decoder's error: an error of the body itself arrives through its reader.
    fn refusal(&mut self, error: &io::Error) -> ApiError {
        let encoding = self.encoding;
        let refused = self.compressed().and_then(|compressed| compressed.get_mut().take_refusal());
        refused.unwrap_or_else(|| broken(encoding, error))
    }

    /// Continues with the next member of gzip. Any other bytes behind the compressed data are rejected, as they would be lost
    /// without notice.
    async fn at_end(&mut self) -> Result<(), ApiError> {
        let is_gzip = self.encoding == Encoding::Gzip;
        while let Some(compressed) = self.compressed() {
            let (zeros, next) = match compressed.fill_buf().await {
                Ok([]) => break,
                Ok(rest) => {
                    let zeros = rest.iter().take_while(|byte| is_gzip && **byte == 0).count();
                    (zeros, rest.get(zeros).copied())
                }
                Err(error) => return Err(self.refusal(&error)),
            };
            compressed.consume(zeros);
            match next {
                None => {}
                Some(GZIP_MEMBER) if is_gzip => {
                    self.produced += GZIP_MEMBER_BYTES;
                    if self.produced > self.limits.bytes {
                        return Err(self.limits.too_large());
                    }
                    // Other connections run in between.
                    tokio::task::coop::consume_budget().await;
                    if let Decoder::Gzip(decoder) = std::mem::replace(&mut self.decoder, Decoder::Nothing) {
                        self.decoder = Decoder::Gzip(Box::new(GzipDecoder::new(decoder.into_inner())));
                    }
                    return Ok(());
                }
                Some(_) => return Err(self.refusal(&io::Error::other("bytes follow its end"))),
            }
        }
        self.decoder = Decoder::Nothing;
        Ok(())
    }

    fn compressed(&mut self) -> Option<&mut Compressed<'a>> {
        match &mut self.decoder {
            Decoder::Identity(_) | Decoder::Nothing => None,
            Decoder::Gzip(decoder) => Some(decoder.get_mut()),
            Decoder::Zlib(decoder) => Some(decoder.get_mut()),
            Decoder::Deflate(decoder) => Some(decoder.get_mut()),
            Decoder::Zstd(decoder) => Some(decoder.get_mut()),
            Decoder::Brotli(decoder) => Some(decoder.get_mut()),
        }
    }
}

/// The decoder of a compressed body.
async fn decoder<'a>(mut body: Compressed<'a>, encoding: Encoding) -> Result<Decoder<'a>, ApiError> {
    let first = match body.fill_buf().await {
        Ok(bytes) => bytes.first().copied(),
        Err(error) => {
            return Err(body.get_mut().take_refusal().unwrap_or_else(|| broken(encoding, &error)));
        }
    };
    let Some(first) = first else { return Ok(Decoder::Nothing) };
    Ok(match encoding {
        Encoding::Identity => Decoder::Identity(body.into_inner()),
        Encoding::Gzip => Decoder::Gzip(Box::new(GzipDecoder::new(body))),
        Encoding::Deflate if is_zlib(first) => Decoder::Zlib(Box::new(ZlibDecoder::new(body))),
        Encoding::Deflate => Decoder::Deflate(Box::new(DeflateDecoder::new(body))),
        Encoding::Zstd => {
            let window = [DParameter::window_log_max(ZSTD_WINDOW_LOG)];
            let mut decoder = ZstdDecoder::with_params(body, &window);
            decoder.multiple_members(true);
            Decoder::Zstd(Box::new(decoder))
        }
        Encoding::Brotli => Decoder::Brotli(Box::new(BrotliDecoder::new(body))),
    })
}

/// Whether deflated data begins as zlib does: with the method 8 and a window of up to 32 KiB (RFC 1950, section 2.2). No
/// compressor begins plain deflate (RFC 1951, section 3.2.3) with these bits: they would be a stored block with padding.
fn is_zlib(first: u8) -> bool {
    first & 0x0f == 8 && first >> 4 <= 7
}

fn broken(encoding: Encoding, error: &io::Error) -> ApiError {
    ApiError::invalid(format!("the body is not valid {}: {error}", encoding.name())).field("content-encoding")
}

/// Reads and decodes a whole body.
pub(in crate::http) async fn decode_whole(
    body: &mut LimitedBody,
    encoding: Encoding,
    memory: &Arc<MemoryBudget>,
) -> Result<WholeBody, ApiError> {
    let mut decoded = Decoded::new(body, encoding, memory).await?;
    let mut permit = MemoryPermit::new(memory);
    let mut whole = Vec::new();
    while let Some(piece) = decoded.next().await? {
        permit.grow(piece.len())?;
        whole.extend_from_slice(&piece);
    }
    Ok(WholeBody::gathered(whole, permit))
}
