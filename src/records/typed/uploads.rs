//! Files that came with a request: their names in records, and the checks of their fields.

use std::collections::HashMap;
use std::iter;

use serde_json::{Map, Value};

use crate::files::{Attachment, AttachmentUpload};
use crate::records::schema::{Definition, Kind, Violation, Violations};

/// The most bytes of a file without a limit of its field: 5 MiB.
const MAX_FILE: i64 = 5 << 20;
/// The longest stem of a name, before the random part.
const MAX_STEM: usize = 100;
/// A shorter stem gets a random part of its own.
const LEAST_STEM: usize = 3;
/// The longest extension, with its dot.
const MAX_EXTENSION: usize = 20;
/// The random characters of a name.
const RANDOM: usize = 10;

/// A file that was uploaded.
#[derive(Debug)]
pub struct Upload {
    /// Its name where it came from.
    pub filename: String,
    /// Its content. `None`: it is larger than `max_bytes`, and was not kept.
    pub content: Option<Attachment>,
    /// The most bytes that were received of it.
    pub max_bytes: u64,
}

/// The files of a request, by their names in records.
#[derive(Debug, Default)]
pub struct Uploads {
    files: HashMap<String, Upload>,
    /// Held until they are stored.
    upload: Option<AttachmentUpload>,
}

impl Uploads {
    /// The largest file that a field takes, in bytes. `None`: it takes no files. The field may be written with a modifier: `f+`, `+f`.
    pub fn max_bytes(definition: &Definition, member: &str) -> Option<u64> {
        let name = member.trim_matches('+');
        definition.file_fields().find(|field| field.name == name).and_then(|field| match &field.kind {
            Kind::File { max_size, .. } => Some(limit(*max_size).unsigned_abs()),
            _ => None,
        })
    }

    /// The upload that receives them, once there is one.
    pub fn upload(&self) -> Option<&AttachmentUpload> {
        self.upload.as_ref()
    }

    /// Begins to receive files.
    pub fn begin(&mut self, upload: AttachmentUpload) {
        self.upload = Some(upload);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Their number.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Adds a file; returns the name that a record has for it.
    pub fn add(&mut self, upload: Upload) -> String {
        let mime_type = upload.content.as_ref().map_or("", Attachment::mime_type);
        let name = stored_name(&upload.filename, mime_type);
        self.files.insert(name.clone(), upload);
        name
    }

    /// Whether a name is that of one of them.
    pub(super) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// The content of a file.
    pub(super) fn content(&self, name: &str) -> Option<&Attachment> {
        self.files.get(name)?.content.as_ref()
    }

    /// Takes the contents of files.
    pub(super) fn take(&mut self, names: &[String]) -> Vec<Attachment> {
        names.iter().filter_map(|name| self.files.remove(name)?.content).collect()
    }

    /// The violations of the files that a body names.
    pub(super) fn check(&self, definition: &Definition, body: &Map<String, Value>) -> Violations {
        let mut violations = Violations::default();
        if self.files.is_empty() {
            return violations;
        }
        for field in definition.file_fields() {
            let Kind::File { max_size, mime_types, .. } = &field.kind else { continue };
            let name = &field.name;
            let sent = [name.clone(), format!("{name}+"), format!("+{name}")];
            for file in sent.iter().filter_map(|member| body.get(member)).flat_map(|sent| field.words(sent)) {
                let Some(upload) = self.files.get(&file) else { continue };
                if let Err(violation) = upload.check(&file, limit(*max_size), mime_types) {
                    violations.add(name, violation);
                }
            }
        }
        violations
    }
}

impl Upload {
    fn check(&self, name: &str, max_size: i64, mime_types: &[String]) -> Result<(), Violation> {
        let max = max_size.unsigned_abs().min(self.max_bytes);
        let Some(content) = self.content.as_ref().filter(|content| content.size() <= max) else {
            let message =
                format!("Failed to upload {} - the maximum allowed file size is {max} bytes.", self.filename);
            let violation = Violation::new("file_size_limit", message);
            return Err(violation.with("file", self.filename.as_str()).with("maxSize", max));
        };
        let is_it = |allowed: &String| same_type(allowed, content.mime_type());
        if mime_types.is_empty() || mime_types.iter().any(is_it) {
            return Ok(());
        }
        let message = format!("\"{name}\" mime type must be one of: {}.", mime_types.join(", "));
        Err(Violation::new("invalid_mime_type", message))
    }
}

fn limit(max_size: i64) -> i64 {
    if max_size > 0 { max_size } else { MAX_FILE }
}

/// Whether two media types are the same: without parameters, and with the `x-` of types before they were registered.
fn same_type(one: &str, other: &str) -> bool {
    fn parts(text: &str) -> (String, String) {
        let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let (kind, subtype) = essence.split_once('/').unwrap_or((&essence, ""));
        (kind.to_owned(), subtype.strip_prefix("x-").unwrap_or(subtype).to_owned())
    }
    parts(one) == parts(other)
}

/// The name of a file in a record, as PocketBase makes it: a slug of its own name, ten random characters, and the extension, which may be a double
/// one.
fn stored_name(filename: &str, mime_type: &str) -> String {
    let name = filename.rsplit('/').next().unwrap_or_default();
    let dot = name.rfind('.').map(|last| name[..last].rfind('.').unwrap_or(last));
    let (stem, extension) = name.split_at(dot.unwrap_or(name.len()));
    let mut extension: String =
        extension.chars().filter(|c| c.is_ascii_alphanumeric() || "_.*-+=#".contains(*c)).collect();
    if extension.trim_matches('.').is_empty() {
        extension = guessed_extension(mime_type).to_owned();
    }
    if extension.len() > MAX_EXTENSION {
        extension = format!(".{}", extension[extension.len() - MAX_EXTENSION..].trim_matches('.'));
    }
    let mut stem = slug(stem);
    if stem.len() < LEAST_STEM {
        stem.push_str(&random());
    }
    stem.truncate(MAX_STEM);
    format!("{stem}_{}{extension}", random())
}

/// A text in snake_case, of ASCII letters, digits and `_`: a capital behind another character begins a word.
fn slug(text: &str) -> String {
    let mut slug = String::new();
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        if !slug.is_empty() {
            slug.push('_');
        }
        let mut before = 'A';
        for character in word.chars() {
            if character.is_ascii_uppercase() && !before.is_ascii_uppercase() {
                slug.push('_');
            }
            slug.push(character.to_ascii_lowercase());
            before = character;
        }
    }
    slug
}

fn random() -> String {
    // It keeps names apart, and protects nothing: protected files have tokens. Yet no name is to be guessed.
    let mut bytes = [0; RANDOM];
    if getrandom::fill(&mut bytes).is_err() {
        bytes = iter::repeat_with(|| fastrand::u8(..))
            .take(RANDOM)
            .collect::<Vec<_>>()
            .try_into()
            .unwrap_or(bytes);
    }
    bytes
        .iter()
        .map(|byte| char::from(b"abcdefghijklmnopqrstuvwxyz0123456789"[usize::from(*byte) % 36]))
        .collect()
}

/// The extension of a type, for a name without one.
fn guessed_extension(mime_type: &str) -> &'static str {
    match mime_type {
        "text/plain" => ".txt",
        "text/csv" => ".csv",
        "text/tab-separated-values" => ".tsv",
        "text/html" => ".html",
        "text/xml" => ".xml",
        "application/json" => ".json",
        "application/x-ndjson" => ".ndjson",
        "image/svg+xml" => ".svg",
        "image/png" => ".png",
        "image/jpeg" => ".jpg",
        "image/gif" => ".gif",
        "image/webp" => ".webp",
        "image/avif" => ".avif",
        "image/bmp" => ".bmp",
        "image/tiff" => ".tiff",
        "application/pdf" => ".pdf",
        "application/zip" => ".zip",
        "application/gzip" => ".gz",
        "audio/mpeg" => ".mp3",
        "audio/wav" => ".wav",
        "audio/ogg" => ".ogg",
        "audio/flac" => ".flac",
        "video/mp4" => ".mp4",
        "video/webm" => ".webm",
        "video/quicktime" => ".mov",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A name whose random parts are `_`.
    fn shape(filename: &str) -> String {
        let name = stored_name(filename, "text/plain");
        let dot = name.find('.').unwrap_or(name.len());
        let (stem, extension) = name.split_at(dot);
        let mut kept = stem[..stem.len() - RANDOM].to_owned();
        let own = slug(&filename[..filename.rfind('.').unwrap_or(filename.len())]);
        if kept.len() > RANDOM && own.len() < LEAST_STEM {
            kept.replace_range(kept.len() - RANDOM - 1..kept.len() - 1, "?");
        }
        format!("{kept}{extension}")
    }

    #[test]
    fn names_are_those_that_pocketbase_makes() {
        // Its own answers.
        for (filename, expected) in [
            ("a.txt", "a?_.txt"),
            ("abc", "abc_.txt"),
            ("My Notes (1).txt", "my_notes_1_.txt"),
            ("a.b.c.txt", "a_b_.c.txt"),
            ("helloWorld.TXT", "hello_world_.TXT"),
            ("HTTPServer.png", "httpserver_.png"),
            ("\u{fc}n\u{ef}code \u{fc}.pdf", "n_code_.pdf"),
            ("../../etc/passwd", "passwd_.txt"),
            ("C:\\x\\y.doc", "c_x_y_.doc"),
            ("name.", "name_.txt"),
            ("a b.t x t", "a_b_.txt"),
            ("abcd.abcdefghijklmnopqrstuvwxyz", "abcd_.ghijklmnopqrstuvwxyz"),
            ("1.2.3.4.5", "1_2_3_.4.5"),
            ("two  spaces__.md", "two_spaces_.md"),
            ("1234567.89012345678", "1234567_.89012345678"),
            ("photo.jpeg.PNG", "photo_.jpeg.PNG"),
        ] {
            assert_eq!(shape(filename), expected, "{filename}");
        }
        assert!(stored_name("noext", "image/png").ends_with(".png"));
        assert_eq!(stored_name(&format!("{}.txt", "x".repeat(150)), "").len(), 100 + 1 + 10 + 4);
    }

    #[test]
    fn types_are_compared_without_parameters() {
        assert!(same_type("text/plain; charset=utf-8", "text/plain"));
        assert!(same_type("audio/x-wav", "audio/wav") && same_type("IMAGE/PNG", "image/png"));
        assert!(!same_type("image/png", "image/jpeg") && !same_type("image", "image/png"));
    }

    proptest! {
        #[test]
        fn every_name_is_one_of_a_url(filename in "\\PC{0,200}", mime_type in ".{0,20}") {
            let name = stored_name(&filename, &mime_type);
            prop_assert!(name.len() <= MAX_STEM + 1 + RANDOM + 1 + MAX_EXTENSION);
            prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "_.*-+=#".contains(c)) && !name.starts_with('.'));
        }
    }
}
