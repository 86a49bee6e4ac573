//! Inputs as they are, or decompressed.

use std::io::{self, BufReader, Read};

use flate2::read::MultiGzDecoder;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Bytes by which an input is recognised.
pub(super) const SIGNATURE_BYTES: usize = 4;
/// The largest window of zstd, as a power of two: 8 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;

/// How an input is read.
pub(super) enum Decoder<R: Read> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<R>>>),
}

impl<R: Read> Decoder<R> {
    /// A decoder of an input that begins with `signature`.
    pub(super) fn new(signature: &[u8], input: R) -> io::Result<Self> {
        if signature.starts_with(GZIP) {
            return Ok(Self::Gzip(Box::new(MultiGzDecoder::new(BufReader::new(input)))));
        }
        if signature.starts_with(ZSTD) {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(BufReader::new(input))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            return Ok(Self::Zstd(Box::new(decoder)));
        }
        Ok(Self::Plain(input))
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(reader) => reader.read(buffer),
            Self::Zstd(reader) => reader.read(buffer),
        }
    }
}

/// Whether an input with these first bytes is compressed.
pub(super) fn is_compressed(signature: &[u8]) -> bool {
    signature.starts_with(GZIP) || signature.starts_with(ZSTD)
}

/// Reads the first bytes of an input, no more than are needed to recognise it: a short line of a pipe does not wait for the next one.
pub(super) fn read_signature(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut signature = Vec::new();
    while [GZIP, ZSTD].iter().any(|one| one.len() > signature.len() && one.starts_with(&signature)) {
        let mut byte = [0];
        match input.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => signature.extend(byte),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(signature)
}
