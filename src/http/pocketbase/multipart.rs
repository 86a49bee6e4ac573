//! Forms in parts (RFC 7578): fields are members, and files are streamed into drafts while they arrive.
//!
//! The fields together, and the heads of all parts, are bounded as other bodies are; each file by what its field allows. Files of unknown fields,
//! and the rest of those that are too large, are read and dropped.

use std::io;
use std::net::IpAddr;
use std::time::Instant;

use axum::body::Body;
use futures_util::{StreamExt, TryStreamExt};
use hyper::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use hyper::http::request::Parts;
use multer::{Field, Multipart};
use serde_json::{Map, Value};

use super::body::of_pairs;
use super::error::{Operation, Refusal};
use crate::auth::limits::network;
use crate::config::limits;
use crate::files::FilesError;
use crate::http::Services;
use crate::http::edge::client::ClientAddress;
use crate::http::files::multipart::{BytesReceived, MAX_PART_HEAD_BYTES, PartChunks, boundary};
use crate::http::files::part_name::{self, PartName};
use crate::http::wire::body::{BodyLimits, LimitedBody, MemoryPermit};
use crate::http::wire::error::ApiError;
use crate::records::typed::{CollectionHandle, Upload, Uploads};

/// The most fields of a form.
const MAX_FIELDS: usize = 10_000;

/// The files that a form may have.
#[derive(Clone, Copy)]
pub(super) enum Files<'a> {
    /// None: the request takes no such form.
    None,
    /// None are kept: the request will be refused.
    Unknown,
    /// Those of a collection's fields.
    Of(&'a CollectionHandle),
    /// Those of a batch, whose collections are named in another part: this many bytes, with the fields.
    OfBatch(u64),
}

/// A form.
pub(super) struct Form {
    pub(super) members: Map<String, Value>,
    pub(super) uploads: Uploads,
    /// The name of each file's part, and its name in records.
    pub(super) parts: Vec<(String, String)>,
    pub(super) permit: MemoryPermit,
}

/// Reads a form whose fields have up to `bytes`.
pub(super) async fn read(
    services: &Services,
    head: &Parts,
    incoming: Body,
    bytes: usize,
    files: Files<'_>,
) -> Result<Form, Refusal> {
    let most = (limits::MAX_FILES_PER_RECORDS as u64).saturating_mul(MAX_PART_HEAD_BYTES);
    let most = most.saturating_add(bytes as u64).saturating_add(match files {
        Files::None | Files::Unknown => 0,
        Files::Of(collection) => collection.max_files_bytes(),
        Files::OfBatch(_) => 0,
    });
    let most = if let Files::OfBatch(bytes) = files { bytes } else { most };
    let limits = BodyLimits {
        bytes: usize::try_from(most).unwrap_or(usize::MAX),
        setting: "the fields' maxSize",
        deadline: Instant::now() + services.limits.body_timeout,
    };
    let mut body = LimitedBody::new(head, incoming, limits);
    let taken = take(services, head, &mut body, bytes, files).await;
    // Bytes after the last part are ignored (RFC 2046, section 5.1.1), but read so that the client sees the answer.
    body.discard().await;
    taken
}

async fn take(
    services: &Services,
    head: &Parts,
    body: &mut LimitedBody,
    bytes: usize,
    files: Files<'_>,
) -> Result<Form, Refusal> {
    let boundary = boundary(head.headers.get(CONTENT_TYPE)).map_err(|_| Refusal::generic())?;
    if body.announced() > body.limits().bytes as u64 {
        return Err(body.limits().too_large().into());
    }
    body.keep_rate(limits::FILE_MIN_RATE);
    let announced = body.announced();
    let pace = BytesReceived::default();
    let mut pieces = PartChunks::new(body, &pace);
    let mut reader = Reader {
        services,
        files,
        address: head.extensions.get::<ClientAddress>().map(|client| network(client.ip)),
        announced,
        left: bytes,
        fields: Vec::new(),
        uploads: Uploads::default(),
        parts: Vec::new(),
        permit: MemoryPermit::new(&services.bodies),
    };
    let taken = reader.take_parts(&mut pieces, &pace, boundary).await;
    match (pieces.take_refusal(), taken) {
        (_, Ok(())) => {}
        // The body's own error is more precise than that of its parts. What cannot be read as a form is a bad request, without more.
        (Some(refusal), Err(_))
            if !refusal.status().is_client_error() || refusal.code() != "invalid_request" =>
        {
            return Err(refusal.into());
        }
        (Some(_), Err(_)) => return Err(Refusal::generic()),
        (None, Err(refusal)) => return Err(refusal),
    }
    let Reader { fields, uploads, parts, permit, .. } = reader;
    let members = of_pairs(fields.into_iter()).ok_or_else(Refusal::generic)?;
    Ok(Form { members, uploads, parts, permit })
}

/// A form that is being read.
struct Reader<'a> {
    services: &'a Services,
    files: Files<'a>,
    address: Option<IpAddr>,
    announced: u64,
    /// Bytes that fields may still have.
    left: usize,
    fields: Vec<(String, String)>,
    uploads: Uploads,
    parts: Vec<(String, String)>,
    permit: MemoryPermit,
}

impl Reader<'_> {
    async fn take_parts(
        &mut self,
        pieces: &mut PartChunks<'_>,
        pace: &BytesReceived,
        boundary: String,
    ) -> Result<(), Refusal> {
        let mut parts = Multipart::new(pieces, boundary);
        loop {
            pace.expect_head();
            let Some(part) = parts.next_field().await.map_err(|_| Refusal::generic())? else {
                return Ok(());
            };
            pace.expect_content();
            let Some(name) = part.name().map(str::to_owned).filter(|name| !name.is_empty()) else {
                drain(part).await?;
                continue;
            };
            let disposition = part.headers().get(CONTENT_DISPOSITION);
            match part_name::read(disposition.map_or(&b""[..], |value| value.as_bytes())) {
                PartName::Field => self.take_field(name, part).await?,
                // A file input without a chosen file.
                PartName::File(filename) if filename.is_empty() => drain(part).await?,
                PartName::File(filename) => self.take_file(name, filename, part).await?,
                PartName::Unreadable(_) => return Err(Refusal::generic()),
            }
        }
    }

    async fn take_field(&mut self, name: String, mut part: Field<'_>) -> Result<(), Refusal> {
        let mut value = Vec::new();
        self.count(name.len())?;
        while let Some(piece) = part.chunk().await.map_err(|_| Refusal::generic())? {
            self.count(piece.len())?;
            value.extend_from_slice(&piece);
        }
        if self.fields.len() >= MAX_FIELDS {
            return Err(ApiError::too_large(format!("a form has at most {MAX_FIELDS} fields")).into());
        }
        self.fields.push((name, String::from_utf8_lossy(&value).into_owned()));
        Ok(())
    }

    /// Counts bytes that are held in memory.
    fn count(&mut self, bytes: usize) -> Result<(), Refusal> {
        // A small field takes more than its bytes.
        let bytes = bytes.max(64);
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            Refusal::from(ApiError::too_large("the fields of the form are larger than MAX_EVENT_BYTES"))
        })?;
        Ok(self.permit.grow(bytes)?)
    }

    async fn take_file(
        &mut self,
        part_name: String,
        filename: String,
        part: Field<'_>,
    ) -> Result<(), Refusal> {
        let own = self.services.typed()?.files().map_err(|error| Operation::Read.refuses(error))?;
        let max = match self.files {
            Files::None | Files::Unknown => None,
            Files::Of(collection) => Uploads::max_bytes(collection.definition(), &part_name),
            Files::OfBatch(_) => part_name.starts_with("requests.").then_some(u64::MAX),
        };
        let Some(max) = max.map(|max| max.min(own.config().max_file_bytes)) else { return drain(part).await };
        if self.uploads.len() >= limits::MAX_FILES_PER_RECORDS {
            let message = format!("a request has at most {} files", limits::MAX_FILES_PER_RECORDS);
            return Err(ApiError::too_large(message).into());
        }
        self.count(filename.len() + part_name.len())?;
        let refuse = |error: FilesError| Operation::Read.refuses(error.into());
        if self.uploads.upload().is_none() {
            let address = self.address.ok_or_else(Refusal::internal)?;
            self.uploads.begin(own.begin_attachments(address, self.announced).await.map_err(refuse)?);
        }
        let Some(upload) = self.uploads.upload() else { return Err(Refusal::internal()) };
        let mut content = part.map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        let content = match upload.add(max, &mut content).await {
            Ok(kept) => Some(kept),
            Err(FilesError::TooLarge(_)) => {
                while let Some(piece) = content.next().await {
                    piece.map_err(|_| Refusal::generic())?;
                }
                None
            }
            Err(FilesError::Source(_)) => return Err(Refusal::generic()),
            Err(error) => return Err(refuse(error)),
        };
        let name = self.uploads.add(Upload { filename, content, max_bytes: max });
        self.parts.push((part_name, name));
        Ok(())
    }
}

/// Reads and drops a part.
async fn drain(mut part: Field<'_>) -> Result<(), Refusal> {
    while part.chunk().await.map_err(|_| Refusal::generic())?.is_some() {}
    Ok(())
}
