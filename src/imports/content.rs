//! The text of a file: plain, or decompressed from gzip or zstd.
//!
//! A compressed file is decompressed once before any line is stored: a damaged file, or one that expands beyond
//! `MAX_FILE_BYTES`, leaves nothing behind. Its parts end at offsets of the decompressed text.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::GzDecoder;

use super::ImportsError;
use crate::files;
use crate::ingest::text;

/// Bytes of the text that are checked before an import begins: most formats differ from text in them.
const HEAD_BYTES: usize = 512;
/// The size of a read from a compressed file.
const READ_BYTES: usize = 64 * 1024;
/// The largest window of zstd, as a power of two: 8 MiB, which RFC 8878 recommends decoders to support.
const ZSTD_WINDOW_LOG: u32 = 23;
const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// The compression of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(head: &[u8]) -> Self {
        match head {
            head if head.starts_with(GZIP) => Self::Gzip,
            head if head.starts_with(ZSTD) => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// The content of a file to be imported.
#[derive(Debug)]
pub(super) struct ImportContent {
    file: File,
    compression: Compression,
}

impl ImportContent {
    /// Examines the beginning of a file.
    ///
    /// # Errors
    ///
    /// [`ImportsError::NotLines`] for a text in another charset, for another format, and for a damaged compressed file.
    pub(super) fn open(file: File) -> Result<Self, ImportsError> {
        let mut content = Self { file, compression: Compression::Plain };
        let unreadable = |error: io::Error| ImportsError::File(files::FilesError::Disk(error));
        let head = content.head().map_err(unreadable)?;
        content.compression = Compression::of(&head);
        let head = match content.compression {
            Compression::Plain => head,
            _ => content.head().map_err(|error| broken(&error))?,
        };
        if text::is_utf_16_or_32(&head) {
            return Err(ImportsError::not_lines("it is UTF-16 or UTF-32"));
        }
        // A text may begin with the signature of a format.
        match infer::get(&head).map(|found| found.mime_type()) {
            Some(found) if files::has_binary(&head) => Err(ImportsError::not_lines(format!("it is {found}"))),
            _ => Ok(content),
        }
    }

    fn head(&self) -> io::Result<Vec<u8>> {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        self.text(0)?.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
        Ok(head)
    }

    /// Decompresses a compressed file once.
    ///
    /// # Errors
    ///
    /// [`ImportsError::NotLines`] if it is damaged, or expands to more than `max_bytes`.
    pub(super) fn check(&self, max_bytes: u64) -> Result<(), ImportsError> {
        if self.compression == Compression::Plain {
            return Ok(());
        }
        let read = self.text(0).and_then(|text| io::copy(&mut text.take(max_bytes + 1), &mut io::sink()));
        match read {
            Ok(bytes) if bytes > max_bytes => Err(ImportsError::not_lines(format!(
                "it takes more than {max_bytes} bytes once it is decompressed (MAX_FILE_BYTES)"
            ))),
            Ok(_) => Ok(()),
            Err(error) => Err(broken(&error)),
        }
    }

    /// The text from an offset on.
    pub(super) fn text(&self, offset: u64) -> io::Result<TextReader<'_>> {
        let mut file = &self.file;
        let read = Arc::<AtomicU64>::default();
        if self.compression == Compression::Plain {
            file.seek(SeekFrom::Start(offset))?;
            return Ok(TextReader { reader: Box::new(file), read: None });
        }
        file.seek(SeekFrom::Start(0))?;
        let compressed =
            BufReader::with_capacity(READ_BYTES, CountingReader { file, read: Arc::clone(&read) });
        let reader: Box<dyn Read + '_> = match self.compression {
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
            _ => Box::new(GzipMembers { decoder: Some(GzDecoder::new(compressed)) }),
        };
        let mut text = TextReader { reader, read: Some(read) };
        io::copy(&mut (&mut text).take(offset), &mut io::sink())?;
        Ok(text)
    }
}

fn broken(error: &io::Error) -> ImportsError {
    ImportsError::not_lines(format!("it cannot be decompressed: {error}"))
}

/// Reads the text of a file.
pub(super) struct TextReader<'a> {
    reader: Box<dyn Read + 'a>,
    /// Bytes read of a compressed file.
    read: Option<Arc<AtomicU64>>,
}

impl TextReader<'_> {
    /// Bytes read of a compressed file; `None`: the file is not compressed.
    pub(super) fn file_bytes(&self) -> Option<u64> {
        self.read.as_ref().map(|read| read.load(Ordering::Relaxed))
    }
}

impl std::fmt::Debug for TextReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextReader").field("read", &self.read).finish_non_exhaustive()
    }
}

impl Read for TextReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.reader.read(out)
    }
}

/// Counts the bytes read.
struct CountingReader<'a> {
    file: &'a File,
    read: Arc<AtomicU64>,
}

impl Read for CountingReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(out)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// The members of a gzip file in sequence. Zeros after them are padding, as for `gzip` itself.
struct GzipMembers<R> {
    /// `None`: after the last member.
    decoder: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let read = decoder.read(out)?;
            if read > 0 || out.is_empty() {
                return Ok(read);
            }
            let Some(mut rest) = self.decoder.take().map(GzDecoder::into_inner) else { break };
            loop {
                let bytes = rest.fill_buf()?;
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                let next = bytes.get(zeros).copied();
                if bytes.is_empty() {
                    return Ok(0);
                }
                rest.consume(zeros);
                match next {
                    None => {}
                    Some(first) if GZIP.first() == Some(&first) => break,
                    Some(_) => return Err(io::Error::other("something stands behind its end")),
                }
            }
            self.decoder = Some(GzDecoder::new(rest));
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression as Level;
    use flate2::write::GzEncoder;
    use uuid::Uuid;

    use super::*;

    fn content(bytes: &[u8]) -> Result<ImportContent, ImportsError> {
        let path = std::env::temp_dir().join(format!("tidegate-content-{}", Uuid::new_v4()));
        File::create(&path).unwrap().write_all(bytes).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        ImportContent::open(file)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Level::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn text(content: &ImportContent, offset: u64) -> String {
        let mut out = String::new();
        content.text(offset).unwrap().read_to_string(&mut out).unwrap();
        out
    }

    #[test]
    fn plain_gzip_and_zstd_hold_the_same_text_from_any_place_on() {
        let lines = "{\"a\":1}\n[2]\n";
        let (gz, zst) = (gzip(lines.as_bytes()), zstd::encode_all(lines.as_bytes(), 3).unwrap());
        for bytes in [lines.as_bytes(), &gz, &zst, &[&gz[..], &[0; 700]].concat()] {
            let content = content(bytes).unwrap();
            content.check(lines.len() as u64).unwrap();
            for offset in [0, 3, lines.len()] {
                assert_eq!(text(&content, offset as u64), lines[offset..]);
            }
        }
        for two in [[&gz[..], &gz].concat(), [&gz[..], &[0, 0], &gz].concat(), [&zst[..], &zst].concat()] {
            assert_eq!(text(&content(&two).unwrap(), 0), lines.repeat(2));
        }
        assert_eq!(text(&content(b"").unwrap(), 0), "");
    }

    #[test]
    fn what_holds_no_lines_is_refused_before_any_is_stored() {
        let lines = b"1\n".repeat(50_000);
        let whole = gzip(&lines);
        let utf_16: Vec<u8> = "{}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut tar = vec![0; 512];
        tar[..4].copy_from_slice(b"name");
        tar[257..262].copy_from_slice(b"ustar");
        for bytes in [
            &utf_16[..],
            &gzip(&utf_16),
            &gzip(&tar),
            &gzip(&whole),
            b"PK\x03\x04\x14\0\0\0\x08\0",
            b"\x1f\x8bnot",
        ] {
            assert!(matches!(content(bytes), Err(ImportsError::NotLines(_))), "{bytes:?}");
        }
        let damaged = [&whole[..whole.len() - 9], &[0xff; 9]].concat();
        for (bytes, max) in [
            (&whole[..whole.len() - 4], 1 << 30),
            (&damaged, 1 << 30),
            (&whole, 99_999),
            (&[&whole[..], b"x"].concat(), 1 << 30),
        ] {
            let content = content(bytes).unwrap();
            assert!(matches!(content.check(max), Err(ImportsError::NotLines(_))), "{max}");
        }
        content(&whole).unwrap().check(lines.len() as u64).unwrap();
    }
}
