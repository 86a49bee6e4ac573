//! Parts of a file: lines as tuples, ready to be stored.

use std::collections::HashMap;
use std::io;
use std::ops::Range;

use uuid::Uuid;

use super::content::TextReader;
use super::message;
use super::model::ImportJob;
use super::parse::{ParsedLine, Parser, Rejection};
use crate::ingest::id::{self, Tag};
use crate::ingest::row::{Content, Row};
use crate::ingest::text;
use crate::lines::{Line, LineReader};

/// Lines of a part at most; they bound the tuples of very short lines.
const MAX_LINES: u64 = 32_768;
const CONTENT_TYPE: &str = "application/json";

/// Tuples in one buffer.
#[derive(Debug, Default)]
pub(super) struct Tuples {
    bytes: Vec<u8>,
    /// The line of each tuple, and the tuple's end.
    ends: Vec<(u64, usize)>,
}

impl Tuples {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The line of the tuple at `place`.
    pub(super) fn line(&self, place: usize) -> u64 {
        self.ends.get(place).map_or(0, |(line, _)| *line)
    }

    /// The bytes of a range of tuples.
    pub(super) fn stretch(&self, places: Range<usize>) -> &[u8] {
        let end = |place: usize| self.ends.get(place).map_or(self.bytes.len(), |(_, end)| *end);
        let until = |places: usize| places.checked_sub(1).map_or(0, end);
        self.bytes.get(until(places.start)..until(places.end)).unwrap_or_default()
    }
}

/// A new conversation.
#[derive(Debug)]
pub(super) struct NewConversation {
    pub(super) line: u64,
    pub(super) id: Uuid,
    pub(super) title: String,
    pub(super) metadata: String,
    /// Microseconds of Unix time.
    pub(super) at_us: i64,
}

/// The messages of one conversation in a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConversationMessages {
    pub(super) conversation: Uuid,
    /// The time of the newest message.
    pub(super) newest_us: i64,
    pub(super) first_line: u64,
    pub(super) last_line: u64,
    /// The number of messages.
    pub(super) count: i64,
}

/// Messages with their conversations.
#[derive(Debug, Default)]
pub(super) struct Messages {
    pub(super) tuples: Tuples,
    /// The conversation of each tuple.
    pub(super) of: Vec<u32>,
    pub(super) conversations: Vec<ConversationMessages>,
    places: HashMap<Uuid, u32>,
}

impl Messages {
    fn note(&mut self, conversation: Uuid, line: u64, at_us: i64) {
        let next = self.conversations.len() as u32;
        let place = *self.places.entry(conversation).or_insert(next);
        self.of.push(place);
        match self.conversations.get_mut(place as usize) {
            Some(known) => {
                known.newest_us = known.newest_us.max(at_us);
                known.last_line = line;
                known.count += 1;
            }
            None => self.conversations.push(ConversationMessages {
                conversation,
                newest_us: at_us,
                first_line: line,
                last_line: line,
                count: 1,
            }),
        }
    }
}

/// Lines of a file, ready to be stored.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) number: i32,
    pub(super) first_line: u64,
    /// Lines, including blank ones.
    pub(super) lines: u64,
    /// Bytes of the file.
    pub(super) bytes: u64,
    /// The offset of its end in the (decompressed) text.
    pub(super) end_offset: u64,
    pub(super) events: Tuples,
    pub(super) conversations: Vec<NewConversation>,
    pub(super) messages: Messages,
    pub(super) rejected: Vec<(u64, Rejection)>,
}

/// The id for line `line` of an import. The ids of an import have the order of its lines, and no other id is among them.
pub(super) fn id_of(job: &ImportJob, line: u64) -> Uuid {
    id::event_id((job.started_us / 1000) as u64, Tag::of_journal(job.file_id), line)
}

/// Splits a file into parts, at the same places each time.
#[derive(Debug)]
pub(super) struct PartReader<'a> {
    job: &'a ImportJob,
    parser: Parser<'a>,
    lines: LineReader<TextReader<'a>>,
    /// The offset of the reader's beginning.
    from: u64,
    next_number: i32,
    next_line: u64,
}

impl<'a> PartReader<'a> {
    /// A reader for part `number` and the following ones; the part begins at `offset` with line `line`.
    pub(super) fn new(
        job: &'a ImportJob,
        parser: Parser<'a>,
        lines: LineReader<TextReader<'a>>,
        offset: u64,
        number: i32,
        line: u64,
    ) -> Self {
        Self { job, parser, lines, from: offset, next_number: number, next_line: line }
    }

    /// The next part; `None` at the file's end.
    pub(super) fn next(&mut self) -> io::Result<Option<Part>> {
        let mut part = Part { number: self.next_number, first_line: self.next_line, ..Part::default() };
        let (from, file_from) = (self.lines.taken(), self.lines.reader().file_bytes());
        while part.lines < MAX_LINES && self.lines.taken() - from < self.job.part_bytes {
            let Some(line) = self.lines.next_line()? else { break };
            let number = self.next_line;
            match line {
                Line::Blank => {}
                Line::TooLong => {
                    part.rejected.push((number, "the line is too long (MAX_EVENT_BYTES)".into()));
                }
                Line::Text(text) if text == text::MARK => {}
                Line::Text(text) => match self.parser.parse(text::without_mark(text).trim_ascii_start()) {
                    Ok(entry) => part.add(self.job, number, entry),
                    Err(reason) => part.rejected.push((number, reason)),
                },
            }
            part.lines += 1;
            self.next_line += 1;
        }
        if part.lines == 0 {
            return Ok(None);
        }
        self.next_number += 1;
        let of_file = self.lines.reader().file_bytes().zip(file_from);
        part.bytes = of_file.map_or(self.lines.taken() - from, |(until, from)| until - from);
        part.end_offset = self.from + self.lines.taken();
        Ok(Some(part))
    }
}

impl Part {
    /// Whether it has conversations or messages.
    pub(super) fn speaks(&self) -> bool {
        !self.conversations.is_empty() || !self.messages.conversations.is_empty()
    }

    fn add(&mut self, job: &ImportJob, line: u64, entry: ParsedLine<'_>) {
        let id = id_of(job, line);
        let at_us = job.started_us + line as i64;
        match entry {
            ParsedLine::Event(event) => {
                let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
                let trace_id = match &event.trace_id {
                    Some(trace_id) => trace_id.as_bytes(),
                    None => id.hyphenated().encode_lower(&mut text).as_bytes(),
                };
                let content = match event.is_jsonb {
                    true => Content::Jsonb(event.content),
                    false => Content::Bytes(event.content),
                };
                let row = Row {
                    id,
                    trace_id,
                    content,
                    content_type: Some(CONTENT_TYPE),
                    received_at_us: job.started_us,
                };
                row.encode(&mut self.events.bytes);
                self.events.ends.push((line, self.events.bytes.len()));
            }
            ParsedLine::Conversation(conversation) => self.conversations.push(NewConversation {
                line,
                id: conversation.id.unwrap_or(id),
                title: conversation.title.into_owned(),
                metadata: conversation.metadata.to_owned(),
                at_us,
            }),
            ParsedLine::Message(message) => {
                let at_us = message.timestamp_us.unwrap_or(at_us);
                let tuples = &mut self.messages.tuples;
                message::encode(&mut tuples.bytes, id, at_us, &message);
                tuples.ends.push((line, tuples.bytes.len()));
                self.messages.note(message.conversation, line, at_us);
            }
        }
    }
}
