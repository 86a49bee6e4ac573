//! A part of a file: its lines, ready to be stored.

use std::collections::HashMap;
use std::io;
use std::ops::Range;

use uuid::Uuid;

use super::content::Text;
use super::lines::{Line, Lines};
use super::message;
use super::model::Job;
use super::parse::{Entry, Parser, Reason};
use crate::ingest::id::{self, Tag};
use crate::ingest::row::{Content, Row};
use crate::ingest::text;

/// Lines of a part; they bound what very short lines take as tuples.
const MAX_LINES: u64 = 32_768;
const CONTENT_TYPE: &str = "application/json";

/// Tuples that stand one behind the other.
#[derive(Debug, Default)]
pub(super) struct Tuples {
    bytes: Vec<u8>,
    /// The line of each, and where it ends.
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

    /// The bytes of tuples.
    pub(super) fn stretch(&self, places: Range<usize>) -> &[u8] {
        let end = |place: usize| self.ends.get(place).map_or(self.bytes.len(), |(_, end)| *end);
        let until = |places: usize| places.checked_sub(1).map_or(0, end);
        self.bytes.get(until(places.start)..until(places.end)).unwrap_or_default()
    }
}

/// A conversation that a line makes.
#[derive(Debug)]
pub(super) struct NewConversation {
    pub(super) line: u64,
    pub(super) id: Uuid,
    pub(super) title: String,
    pub(super) metadata: String,
    /// Microseconds of Unix time.
    pub(super) at_us: i64,
}

/// What a part holds of the messages of one conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gathered {
    pub(super) conversation: Uuid,
    /// The time of the newest.
    pub(super) newest_us: i64,
    pub(super) first_line: u64,
    pub(super) last_line: u64,
    /// Lines that name it.
    pub(super) count: i64,
}

/// Messages, and whose each is.
#[derive(Debug, Default)]
pub(super) struct Messages {
    pub(super) tuples: Tuples,
    /// Of each tuple: which of the conversations.
    pub(super) of: Vec<u32>,
    pub(super) conversations: Vec<Gathered>,
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
            None => self.conversations.push(Gathered {
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
    /// Lines, blank ones too.
    pub(super) lines: u64,
    /// Bytes of the file.
    pub(super) bytes: u64,
    /// Where in the text it ends: that of the file, or what it is decompressed to.
    pub(super) end_offset: u64,
    pub(super) events: Tuples,
    pub(super) conversations: Vec<NewConversation>,
    pub(super) messages: Messages,
    pub(super) rejected: Vec<(u64, Reason)>,
}

/// The id of what line `line` of an import becomes. The ids of an import follow each other as its lines do, and no other
/// id is among them.
pub(super) fn id_of(job: &Job, line: u64) -> Uuid {
    id::event_id((job.started_us / 1000) as u64, Tag::of_journal(job.file_id), line)
}

/// Cuts a file into parts, at the same places each time.
#[derive(Debug)]
pub(super) struct Cutter<'a> {
    job: &'a Job,
    parser: Parser<'a>,
    lines: Lines<Text<'a>>,
    /// Where in the text the reader began.
    from: u64,
    next_number: i32,
    next_line: u64,
}

impl<'a> Cutter<'a> {
    /// From part `number` on, which begins at `offset` with line `line`.
    pub(super) fn new(
        job: &'a Job,
        parser: Parser<'a>,
        lines: Lines<Text<'a>>,
        offset: u64,
        number: i32,
        line: u64,
    ) -> Self {
        Self { job, parser, lines, from: offset, next_number: number, next_line: line }
    }

    /// The next part; none at the file's end.
    pub(super) fn next(&mut self) -> io::Result<Option<Part>> {
        let mut part = Part { number: self.next_number, first_line: self.next_line, ..Part::default() };
        let (from, file_from) = (self.lines.taken(), self.lines.reader().file_bytes());
        while part.lines < MAX_LINES && self.lines.taken() - from < self.job.part_bytes {
            let Some(line) = self.lines.next()? else { break };
            let number = self.next_line;
            match line {
                Line::Blank => {}
                Line::TooLong => {
                    part.rejected.push((number, "the line is too long (MAX_IMPORT_LINE_BYTES)".into()));
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
    /// Whether it is about conversations.
    pub(super) fn speaks(&self) -> bool {
        !self.conversations.is_empty() || !self.messages.conversations.is_empty()
    }

    fn add(&mut self, job: &Job, line: u64, entry: Entry<'_>) {
        let id = id_of(job, line);
        let at_us = job.started_us + line as i64;
        match entry {
            Entry::Event(event) => {
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
            Entry::Conversation(conversation) => self.conversations.push(NewConversation {
                line,
                id: conversation.id.unwrap_or(id),
                title: conversation.title.into_owned(),
                metadata: conversation.metadata.to_owned(),
                at_us,
            }),
            Entry::Message(message) => {
                let at_us = message.timestamp_us.unwrap_or(at_us);
                let tuples = &mut self.messages.tuples;
                message::encode(&mut tuples.bytes, id, at_us, &message);
                tuples.ends.push((line, tuples.bytes.len()));
                self.messages.note(message.conversation, line, at_us);
            }
        }
    }
}
