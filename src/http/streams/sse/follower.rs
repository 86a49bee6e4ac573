//! One stream, as a connection follows it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::form::{Form, Written};
use super::shared_events::{EventSlot, SharedEvent};
use crate::http::event_stream::{CHUNK_BYTES, Close};
use crate::http::streams::StreamsApi;
use crate::http::streams::live::{end_of, until};
use crate::http::wire::body::MemoryBudget;
use crate::http::wire::sse;
use crate::streams::{
    CursorClock, Freshness, Offset, ReadFrom, Slice, StreamError, StreamHead, StreamPath, StreamStore,
    StreamWatch,
};
use crate::time::Micros;

/// Bytes of the shortest read: a character has up to four.
const LEAST_READ: usize = 64;

/// One stream, as a connection follows it.
pub(in crate::http::streams) struct Follower {
    store: Arc<dyn StreamStore>,
    pub(in crate::http::streams) path: StreamPath,
    watch: StreamWatch,
    /// The offset of the next byte.
    at: Offset,
    /// Whether the byte before it is CR; `None`: it was not looked at.
    after_cr: Option<bool>,
    /// What was read before the head.
    first: Option<Slice>,
    /// The stream as it was read last.
    stream: Option<Arc<StreamHead>>,
    pub(super) form: Form,
    cursor: Option<String>,
    clock: CursorClock,
    max_bytes: usize,
    /// The events that it shares; `None`: it is one of several streams, whose events name it.
    shared: Option<Arc<EventSlot>>,
    answers: Arc<MemoryBudget>,
    /// There is something to write without a change.
    pub(in crate::http::streams) is_due: bool,
    /// The closed stream's end was written.
    pub(in crate::http::streams) is_complete: bool,
}

impl Follower {
    /// Reads the first slice, verified, so that errors have a status. `is_named`: its events name the stream, as there are others.
    pub(in crate::http::streams) async fn open(
        api: &StreamsApi,
        path: StreamPath,
        from: ReadFrom,
        cursor: Option<String>,
        is_named: bool,
    ) -> Result<Self, StreamError> {
        let settings = &api.streams.settings;
        let store = Arc::clone(&api.streams.store);
        let watch = store.watch(&path);
        let max_bytes = CHUNK_BYTES.min(settings.max_answer_bytes).max(LEAST_READ);
        let first = store.read(&path, from, max_bytes, Freshness::Verified).await?;
        store.renew(&path, &first.head);
        Ok(Self {
            store,
            watch,
            at: first.start,
            after_cr: (first.start == first.head.kept_from).then_some(false),
            form: Form::of(&first.head),
            first: Some(first),
            stream: None,
            cursor,
            clock: settings.cursor,
            max_bytes,
            shared: (!is_named).then(|| api.events.slot(&path)),
            answers: Arc::clone(&api.answers),
            is_due: true,
            is_complete: false,
            path,
        })
    }

    /// Whether the first slice was written.
    pub(super) fn has_begun(&self) -> bool {
        self.stream.is_some()
    }

    /// Waits until there may be something to write. Cancel-safe.
    pub(in crate::http::streams) async fn ready(&mut self) {
        if self.is_due {
            return;
        }
        if self.is_complete {
            std::future::pending::<()>().await;
        }
        let end = self.stream.as_deref().and_then(end_of);
        tokio::select! {
            () = self.watch.changed() => {}
            () = until(end) => {}
        }
    }

    async fn read(&mut self) -> Result<Slice, Close> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let read = self.store.read(&self.path, ReadFrom::At(self.at), self.max_bytes, Freshness::Known).await;
        let slice = read.map_err(|error| match error {
            StreamError::NotFound | StreamError::Gone | StreamError::Offset => Close::Ended("deleted"),
            StreamError::NotKept { .. } => Close::Ended("behind"),
            error => {
                tracing::warn!(
                    error = error.to_string(),
                    "a reader of a stream is cut off and has to come back"
                );
                Close::Ended("failed")
            }
        })?;
        // A new stream at the same path is another one.
        match &self.stream {
            Some(known) if known.id != slice.head.id => Err(Close::Ended("deleted")),
            _ => Ok(slice),
        }
    }

    /// Whether the byte before a slice is CR, where that matters. What is not kept any more counts as none.
    async fn is_after_cr(&self, slice: &Slice) -> bool {
        match self.after_cr {
            Some(after_cr) => after_cr,
            None if !self.form.depends_on_before(slice) => false,
            None => {
                let before = ReadFrom::At(Offset(slice.start.0.saturating_sub(1)));
                let read = self.store.read(&self.path, before, 1, Freshness::Known).await;
                read.is_ok_and(|before| before.bytes.concat() == b"\r")
            }
        }
    }

    /// Writes the next slice and its control event.
    pub(in crate::http::streams) async fn write(&mut self, out: &mut BytesMut) -> Result<(), Close> {
        let is_first = self.first.is_some();
        // Before the read, since what comes behind it changes the version. Not for the first slice, which was read long before: what came since is still to come.
        let version = if is_first { 0 } else { self.watch.version() };
        if let Some(event) =
            self.shared.as_ref().filter(|_| !is_first).and_then(|slot| slot.get(self.at, version))
            && self.stream.as_ref().is_some_and(|known| known.id == event.stream.id)
        {
            self.write_shared(out, &event);
            return Ok(());
        }
        let slice = self.read().await?;
        let is_named = self.shared.is_none();
        if is_first && is_named {
            // Before the first data, as that may be in base64.
            self.stream = Some(Arc::new(slice.head.clone()));
            self.write_control(out, false, false);
        }
        let has_data = slice.next != slice.start;
        let after_cr = self.is_after_cr(&slice).await;
        let mut data = BytesMut::new();
        let written = match has_data {
            true => self.form.write(&mut data, &slice, is_named.then_some(&self.path), after_cr),
            false => Written { waiting: 0, after_cr },
        };
        let before = std::mem::replace(&mut self.at, Offset(slice.next.0 - written.waiting as u64));
        if has_data {
            self.after_cr = Some(written.after_cr);
        }
        let (is_tail, stream) = (slice.is_tail, Arc::new(slice.head));
        self.is_due = !is_tail;
        self.is_complete = is_tail && stream.closed;
        self.stream = Some(Arc::clone(&stream));
        let data = data.freeze();
        out.extend_from_slice(&data);
        if !(is_first || before != self.at || !data.is_empty() || self.is_complete) {
            return Ok(());
        }
        let start = out.len();
        let cursor = self.write_control(out, is_tail, self.is_complete);
        if let Some(slot) = &self.shared
            && !is_first
            && before != self.at
            && slot.is_shared()
        {
            let control = Bytes::copy_from_slice(out.get(start..).unwrap_or_default());
            let event = SharedEvent {
                version,
                stream,
                from: before,
                at: self.at,
                after_cr: written.after_cr,
                is_tail,
                data,
                control,
                cursor,
                permit: None,
            };
            slot.put(event, &self.answers);
        }
        Ok(())
    }

    /// Writes what another follower has formatted.
    fn write_shared(&mut self, out: &mut BytesMut, event: &SharedEvent) {
        self.at = event.at;
        self.after_cr = Some(event.after_cr);
        self.is_due = !event.is_tail;
        self.is_complete = event.is_tail && event.stream.closed;
        self.stream = Some(Arc::clone(&event.stream));
        out.extend_from_slice(&event.data);
        // A client that is ahead of the clock has a cursor of its own.
        if event.cursor.is_none_or(|cursor| cursor == self.next_cursor()) {
            out.extend_from_slice(&event.control);
        } else {
            self.write_control(out, event.is_tail, self.is_complete);
        }
    }

    /// Writes a sign of life, if nothing else is about to be written.
    pub(in crate::http::streams) fn write_heartbeat(&self, out: &mut BytesMut) {
        if self.stream.is_some() && !self.is_due && !self.is_complete {
            self.write_control(out, true, false);
        }
    }

    fn next_cursor(&self) -> u64 {
        self.clock.cursor(self.cursor.as_deref(), Micros::now(), fastrand::u64(..))
    }

    /// Writes a control event; returns its cursor, which that of a closed stream's end lacks.
    fn write_control(&self, out: &mut BytesMut, is_tail: bool, is_closed: bool) -> Option<u64> {
        let next = self.at;
        let mut control = String::from("{");
        if self.shared.is_none() {
            let path = serde_json::Value::from(self.path.as_str());
            control.push_str(&format!("\"stream\":{path},"));
            if self.form == Form::Base64 {
                control.push_str("\"encoding\":\"base64\",");
            }
        }
        control.push_str(&format!("\"streamNextOffset\":\"{next}\""));
        let cursor = (!is_closed).then(|| self.next_cursor());
        match cursor {
            None => control.push_str(",\"upToDate\":true,\"streamClosed\":true}"),
            Some(cursor) => {
                let up_to_date = if is_tail { ",\"upToDate\":true" } else { "" };
                control.push_str(&format!(",\"streamCursor\":\"{cursor}\"{up_to_date}}}"));
            }
        }
        sse::write_plain_event(out, "control", control.as_bytes());
        cursor
    }

    /// Writes that the stream has ended for another reason than its closing.
    pub(in crate::http::streams) fn write_end(&mut self, out: &mut BytesMut, close: Close) {
        let path = serde_json::Value::from(self.path.as_str());
        let control = format!("{{\"stream\":{path},\"ended\":\"{}\"}}", close.name());
        sse::write_plain_event(out, "control", control.as_bytes());
        (self.is_due, self.is_complete) = (false, true);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::streams::memory::MemoryStore;
    use crate::streams::{Append, AppendBody, ContentType, CreateStream, Streams, StreamsSettings};

    async fn write(follower: &mut Follower) -> String {
        let mut out = BytesMut::new();
        follower.write(&mut out).await.unwrap();
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn what_comes_between_the_first_read_and_its_writing_is_not_missed_and_events_are_shared() {
        let store: Arc<dyn StreamStore> = Arc::new(MemoryStore::new(1 << 20));
        let (path, content_type) = (StreamPath::new("a").unwrap(), Some(ContentType::json()));
        let create = CreateStream { content_type: content_type.clone(), ..CreateStream::default() };
        store.create(&path, create).await.unwrap();
        let append = async |json: &'static str| {
            let body = AppendBody::of_json(json.as_bytes()).unwrap();
            let append =
                Append { content_type: content_type.clone(), body, seq: None, producer: None, close: false };
            store.append(&path, append).await.unwrap();
        };
        let settings = Arc::new(StreamsSettings::default());
        let api = StreamsApi::new(Streams { store: Arc::clone(&store), settings });
        let mut followers = Vec::new();
        for _ in 0..2 {
            followers.push(Follower::open(&api, path.clone(), ReadFrom::Now, None, false).await.unwrap());
        }
        append("1").await;
        for follower in &mut followers {
            let first = write(follower).await;
            assert!(first.starts_with("event: control\n") && !follower.is_due, "{first}");
            assert!(follower.ready().now_or_never().is_some(), "the append is still to come");
        }
        let mut texts = Vec::new();
        for follower in &mut followers {
            texts.push(write(follower).await);
        }
        assert!(texts[0].starts_with("event: data\ndata:[1]\n\nevent: control\n"), "{texts:?}");
        assert_eq!(texts[0], texts[1]);
        let slot = Arc::clone(followers[0].shared.as_ref().unwrap());
        let version = followers[0].watch.version();
        assert_eq!(slot.get(Offset(0), version).unwrap().at, Offset(2), "the second one took it");
        // One that comes late to a wake-up has what came since as well.
        append("2").await;
        assert!(followers[0].ready().now_or_never().is_some());
        assert!(write(&mut followers[0]).await.contains("data:[2]\n"));
        append("3").await;
        assert!(followers[1].ready().now_or_never().is_some());
        assert!(write(&mut followers[1]).await.contains("data:[2,3]\n"));
        assert!(
            followers[1].ready().now_or_never().is_none() && followers[0].ready().now_or_never().is_some()
        );
        assert!(write(&mut followers[0]).await.contains("data:[3]\n"));
    }
}
