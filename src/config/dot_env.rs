//! The file `.env`: its variables, and the lines that are not read.
//!
//! The file often belongs to several tools. A line that cannot be read is an error if it sets one of our variables, and is
//! skipped with a note otherwise. An error names the variable and the line, and never the value, which may be a password.
//! The syntax is dotenvy's; that crate knows no line numbers, ends at a byte-order mark, and puts the line into its errors.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::Path;

use super::ConfigError;
use super::setting::setting;

/// The largest file.
const MAX_BYTES: u64 = 1024 * 1024;
/// What a value needs that dotenvy does not read as it is.
const QUOTE_IT: &str = "a value with spaces, quotes, # or $ stands in single quotes";

/// What `.env` holds.
#[derive(Debug, Default)]
pub(super) struct DotEnv {
    /// Names and values, in order.
    pub(super) variables: Vec<(String, String)>,
    /// Lines of other tools that were skipped, by number.
    pub(super) skipped: Vec<usize>,
}

/// Reads the file at `path`; without a file nothing.
pub(super) fn read(path: &Path) -> Result<DotEnv, ConfigError> {
    let mut bytes = Vec::new();
    let reading = std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    match reading {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DotEnv::default()),
        Err(error) => return Err(ConfigError::DotEnv(format!("cannot be read: {error}"))),
        Ok(_) if bytes.len() as u64 > MAX_BYTES => {
            return Err(ConfigError::DotEnv(format!("is larger than {MAX_BYTES} bytes")));
        }
        Ok(_) => {}
    }
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<DotEnv, ConfigError> {
    let mut dot_env = DotEnv::default();
    let mut lines = lines(bytes, &mut dot_env.skipped)?;
    // A quote that is never closed takes all lines up to the end: the line that opens it is skipped, and the others are read.
    while let Some(open) = parse_lines(&lines, &mut dot_env)? {
        match lines.get_mut(open) {
            Some(line) if !line.is_empty() => line.clear(),
            _ => break,
        }
        dot_env.variables.clear();
        dot_env.skipped.push(open + 1);
    }
    dot_env.skipped.sort_unstable();
    dot_env.skipped.dedup();
    Ok(dot_env)
}

/// Reads all lines; the index of a line that opens a quote which swallows others.
fn parse_lines(lines: &[String], dot_env: &mut DotEnv) -> Result<Option<usize>, ConfigError> {
    let read = Cell::new(0);
    let mut items = dotenvy::from_read_iter(Lines { lines, at: 0, read: &read });
    loop {
        let first = read.get();
        let Some(item) = items.next() else { return Ok(None) };
        // Comments and empty lines in front are part of what was read.
        let all = lines.get(first..read.get()).unwrap_or_default();
        let blank = all.iter().take_while(|line| is_blank(line)).count();
        let (first, all) = (first + blank, all.get(blank..).unwrap_or_default());
        let ours = all.first().and_then(|line| name(line)).and_then(setting);
        // A value of several lines does not set variables of ours inside.
        let swallows = all.iter().skip(1).any(|line| name(line).and_then(setting).is_some());
        let is_read = item.is_ok() && !swallows;
        match (item, ours) {
            (Ok(variable), _) if is_read => dot_env.variables.push(variable),
            (_, Some(setting)) => return Err(unreadable(first + 1, setting.name)),
            _ if all.len() > 1 => return Ok(Some(first)),
            _ => dot_env.skipped.push(first + 1),
        }
    }
}

fn unreadable(line: usize, name: &str) -> ConfigError {
    ConfigError::DotEnv(format!("line {line}: the value of {name} cannot be read; {QUOTE_IT}"))
}

/// The lines of a file in UTF-8 or, as some editors write it, UTF-16, without byte-order mark.
fn lines(bytes: &[u8], skipped: &mut Vec<usize>) -> Result<Vec<String>, ConfigError> {
    let utf16 = |from: fn([u8; 2]) -> u16, bytes: &[u8]| {
        let units: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(|unit| from(*unit)).collect();
        String::from_utf16_lossy(&units).into_bytes()
    };
    let decoded = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(u16::from_le_bytes, rest),
        [0xfe, 0xff, rest @ ..] => utf16(u16::from_be_bytes, rest),
        [0xef, 0xbb, 0xbf, rest @ ..] => rest.to_vec(),
        bytes => bytes.to_vec(),
    };
    let mut lines = Vec::new();
    for (index, line) in decoded.split(|byte| *byte == b'\n').enumerate() {
        let text = String::from_utf8_lossy(line);
        let is_text = matches!(text, std::borrow::Cow::Borrowed(_));
        match name(&text).and_then(setting) {
            _ if is_text || is_blank(&text) => lines.push(text.into_owned()),
            Some(setting) => return Err(unreadable(index + 1, setting.name)),
            None => {
                skipped.push(index + 1);
                lines.push(String::new());
            }
        }
    }
    Ok(lines)
}

fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

/// The name that a line sets, if it looks like one that sets something.
fn name(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let end = line.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(line.len());
    let (name, rest) = line.split_at_checked(end)?;
    (!name.is_empty() && rest.trim_start().starts_with('=')).then_some(name)
}

/// Gives one line at a time, so that the lines of an item can be counted.
struct Lines<'a> {
    lines: &'a [String],
    at: usize,
    read: &'a Cell<usize>,
}

impl Read for Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(line) = self.lines.get(self.read.get()) else { return Ok(0) };
        let rest = line.as_bytes().get(self.at..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.at += count;
        match buffer.get_mut(count) {
            // The line's end too; there is room, as buffers are not of no size.
            Some(end) if self.at == line.len() => {
                *end = b'\n';
                self.read.set(self.read.get() + 1);
                self.at = 0;
                Ok(count + 1)
            }
            _ => Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> (Vec<(String, String)>, Vec<usize>) {
        let dot_env = parse(text.as_bytes()).unwrap();
        (dot_env.variables, dot_env.skipped)
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn lines_of_other_tools_that_cannot_be_read_are_skipped() {
        let long = format!("A={}\n", "x".repeat(20_000));
        assert_eq!(parsed(&long), (vec![pair("A", &"x".repeat(20_000))], vec![]));
        assert_eq!(parsed("X=two words\nPORT=1"), (vec![pair("PORT", "1")], vec![1]));
        assert_eq!(parsed("PORT=1\r\nfoo bar\r\nHOST=::1\r\n").1, [2]);
        assert_eq!(parsed("a-b=1\n\n# X=it's\nPORT=1 ").0, [pair("PORT", "1")]);
        let quote = "# note\nMOTD=it's\nPORT=1\nexport HOST='::1'\nLAST=\"open\nDATA_DIR=d";
        let ours = vec![pair("PORT", "1"), pair("HOST", "::1"), pair("DATA_DIR", "d")];
        assert_eq!(parsed(quote), (ours, vec![2, 5]));
        let closed_later = "MOTD=it's\nPORT=1\nEND=don't\nHOST=::1";
        assert_eq!(parsed(closed_later), (vec![pair("PORT", "1"), pair("HOST", "::1")], vec![1, 3]));
        let key = "KEY=\"-----BEGIN\nabc\n-----END\"\nPORT=1";
        assert_eq!(parsed(key), (vec![pair("KEY", "-----BEGIN\nabc\n-----END"), pair("PORT", "1")], vec![]));
    }

    #[test]
    fn a_byte_order_mark_and_utf_16_are_read() {
        let expected = (vec![pair("PORT", "1"), pair("DATA_DIR", "d")], vec![]);
        assert_eq!(parsed("\u{feff}PORT=1\nDATA_DIR=d\n"), expected);
        let units = |to: fn(u16) -> [u8; 2]| {
            let text = "\u{feff}PORT=1\r\nDATA_DIR=d\r\n";
            let dot_env = parse(&text.encode_utf16().flat_map(to).collect::<Vec<u8>>()).unwrap();
            (dot_env.variables, dot_env.skipped)
        };
        assert_eq!(units(u16::to_le_bytes), expected);
        assert_eq!(units(u16::to_be_bytes), expected);
        let latin1 = b"# \xe9\nMOTD=caf\xe9\nPORT=1\n";
        assert_eq!(parse(latin1).unwrap().skipped, [2]);
    }

    #[test]
    fn an_error_names_our_variable_and_its_line_and_not_the_value() {
        let cases: [(&[u8], usize, &str); 6] = [
            (b"DATABASE_URL=postgres://u:se cret@h/d", 1, "DATABASE_URL"),
            (b"# a\n\nPORT=1\nexport JWT_SECRET = se cret\n", 4, "JWT_SECRET"),
            (b"JWT_SECRET=\"secret\nX=1", 1, "JWT_SECRET"),
            (b"JWT_SECRET='secret\nPORT=1\nX=don't", 1, "JWT_SECRET"),
            (b"X=1\nDATA_DIR=secret\xff", 2, "DATA_DIR"),
            (b"X='\nDATABASE_URL=se cret\n", 2, "DATABASE_URL"),
        ];
        for (text, line, name) in cases {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.starts_with(&format!(".env: line {line}: the value of {name} ")), "{message}");
            assert!(!message.contains("cret"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn no_file_ends_in_a_panic_or_shows_a_value(
            lines in prop::collection::vec("(export )?(PORT|X|JWT_SECRET)?[= '\"\\\\$#{}]{0,3}(sesame)?[ '\"\\\\\r]{0,3}", 0..8),
        ) {
            if let Err(error) = parse(lines.join("\n").as_bytes()) {
                prop_assert!(!error.to_string().contains("sesame"));
            }
        }
    }
}
