//! Streams against a small model: any sequence of operations has the same answers.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::postgres::TestDatabase;
use crate::support::service::Service;

const PATHS: [&str; 4] = ["a", "b", "c/d", "e"];

/// One request.
#[derive(Debug, Clone)]
enum Operation {
    Put {
        path: usize,
        json: bool,
        closed: bool,
        words: usize,
    },
    Fork {
        path: usize,
        source: usize,
        at: Option<usize>,
        sub: u64,
    },
    Append {
        path: usize,
        json: bool,
        words: usize,
        seq: Option<u8>,
        producer: Option<(u64, u64)>,
        close: bool,
    },
    Delete {
        path: usize,
    },
    Read {
        path: usize,
        at: usize,
    },
    Head {
        path: usize,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    let path = || 0..PATHS.len();
    let json = || proptest::bool::weighted(0.8);
    let producer = || proptest::option::weighted(0.3, (0_u64..2, 0_u64..4));
    prop_oneof![
        3 => (path(), json(), proptest::bool::weighted(0.1), 0..3_usize)
            .prop_map(|(path, json, closed, words)| Operation::Put { path, json, closed, words }),
        2 => (path(), path(), proptest::option::of(0..6_usize), 0..3_u64)
            .prop_map(|(path, source, at, sub)| Operation::Fork { path, source, at, sub }),
        6 => (path(), json(), 0..4_usize, proptest::option::weighted(0.2, 0..5_u8), producer(), proptest::bool::weighted(0.1))
            .prop_map(|(path, json, words, seq, producer, close)| Operation::Append { path, json, words, seq, producer, close }),
        1 => path().prop_map(|path| Operation::Delete { path }),
        4 => (path(), 0..8_usize).prop_map(|(path, at)| Operation::Read { path, at }),
        1 => path().prop_map(|path| Operation::Head { path }),
    ]
}

/// A stream of the model: all of its bytes, those of its source included.
#[derive(Debug, Clone, Default)]
struct Model {
    json: bool,
    bytes: String,
    append_ends: Vec<usize>,
    message_ends: Vec<usize>,
    closed: bool,
    closed_by: Option<(u64, u64)>,
    seq: Option<u8>,
    producer: Option<(u64, u64)>,
    /// Its source, the anchor and the sub-offset.
    origin: Option<(usize, usize, u64)>,
    forks: usize,
    deleted: bool,
}

impl Model {
    fn push(&mut self, words: &[String]) {
        for word in words {
            self.bytes.push_str(word);
            if self.json {
                self.bytes.push(',');
            }
            self.message_ends.push(self.bytes.len());
        }
        if !words.is_empty() {
            self.append_ends.push(self.bytes.len());
        }
    }

    /// The positions that an answer can have had: the start, and the ends of appends.
    fn position(&self, at: usize) -> usize {
        if at == 0 { 0 } else { self.append_ends.get(at - 1).copied().unwrap_or(self.bytes.len()) }
    }
}

/// What a client sees of an answer: its status, the next offset, whether the stream is closed, and the body of a read.
type Seen = (u16, Option<usize>, bool, Option<String>);

fn refused(status: u16) -> Seen {
    (status, None, false, None)
}

fn words(count: usize, salt: usize) -> Vec<String> {
    (0..count).map(|n| format!("\"w{salt}-{n}\"")).collect()
}

#[derive(Debug, Default)]
struct Models(BTreeMap<usize, Model>);

impl Models {
    fn living(&mut self, path: usize) -> Result<&mut Model, Seen> {
        match self.0.get_mut(&path) {
            None => Err(refused(404)),
            Some(stream) if stream.deleted => Err(refused(410)),
            Some(stream) => Ok(stream),
        }
    }

    fn apply(&mut self, operation: &Operation, salt: usize) -> Seen {
        self.try_apply(operation, salt).unwrap_or_else(|refused| refused)
    }

    fn try_apply(&mut self, operation: &Operation, salt: usize) -> Result<Seen, Seen> {
        Ok(match *operation {
            Operation::Put { path, json, closed, words: count } => {
                match self.0.get(&path) {
                    Some(known) if known.deleted => return Err(refused(409)),
                    Some(known) if known.json != json || known.closed != closed || known.origin.is_some() => {
                        return Err(refused(409));
                    }
                    Some(known) => return Ok((200, Some(known.bytes.len()), closed, None)),
                    None => {}
                }
                let mut stream = Model { json, closed, ..Model::default() };
                stream.push(&words(count, salt));
                let next = stream.bytes.len();
                self.0.insert(path, stream);
                (201, Some(next), closed, None)
            }
            Operation::Fork { path, source, at, sub } => {
                if sub > 0 && at.is_none() {
                    return Err(refused(400));
                }
                let anchor = at.map(|at| self.0.get(&source).map_or(0, |known| known.position(at)));
                if let Some(known) = self.0.get(&path) {
                    let is_same = !known.deleted
                        && !known.closed
                        && known.origin.is_some_and(|(from, offset, of)| {
                            from == source && anchor.is_none_or(|anchor| anchor == offset) && of == sub
                        });
                    let next = known.bytes.len();
                    return if is_same { Ok((200, Some(next), false, None)) } else { Err(refused(409)) };
                }
                let known = match self.0.get_mut(&source) {
                    None => return Err(refused(404)),
                    Some(known) if known.deleted => return Err(refused(409)),
                    Some(known) => known,
                };
                let anchor = anchor.unwrap_or(known.bytes.len());
                let end = if sub == 0 {
                    anchor
                } else {
                    let append = known.append_ends.iter().find(|end| **end > anchor).copied();
                    let append = append.ok_or(refused(400))?;
                    let end = if known.json {
                        let mut messages = known.message_ends.iter().filter(|end| **end > anchor);
                        *messages.nth(sub as usize - 1).ok_or(refused(400))?
                    } else {
                        anchor + sub as usize
                    };
                    if end > append {
                        return Err(refused(400));
                    }
                    end
                };
                let mut stream =
                    Model { json: known.json, origin: Some((source, anchor, sub)), ..Model::default() };
                stream.bytes = known.bytes[..end].to_owned();
                let below = |ends: &[usize]| ends.iter().copied().filter(|at| *at <= end).collect::<Vec<_>>();
                (stream.append_ends, stream.message_ends) =
                    (below(&known.append_ends), below(&known.message_ends));
                if stream.append_ends.last().copied().unwrap_or(0) < end {
                    stream.append_ends.push(end);
                }
                known.forks += 1;
                self.0.insert(path, stream);
                (201, Some(end), false, None)
            }
            Operation::Append { path, json, words: count, seq, producer, close } => {
                let words = words(count, salt);
                let stream = self.living(path)?;
                let next = stream.bytes.len();
                if stream.closed {
                    let is_closing = producer.is_some() && stream.closed_by == producer;
                    let is_close = count == 0 && close && producer.is_none();
                    let status = if is_closing || is_close { 204 } else { 409 };
                    return Ok((status, Some(next), true, None));
                }
                if count == 0 && !close {
                    return Err(refused(400));
                }
                if count > 0 && json != stream.json {
                    return Err(refused(409));
                }
                if let Some((epoch, number)) = producer {
                    match stream.producer {
                        None if number > 0 => return Err(refused(409)),
                        Some((known, _)) if epoch < known => return Err(refused(403)),
                        Some((known, _)) if epoch > known && number > 0 => return Err(refused(400)),
                        Some((known, last)) if epoch == known && number <= last => {
                            return Ok((204, Some(next), false, None));
                        }
                        Some((known, last)) if epoch == known && number > last + 1 => {
                            return Err(refused(409));
                        }
                        _ => {}
                    }
                }
                if let Some(seq) = seq
                    && stream.seq.is_some_and(|last| seq <= last)
                {
                    return Err(refused(409));
                }
                stream.push(&words);
                stream.producer = producer.or(stream.producer);
                stream.seq = seq.or(stream.seq);
                stream.closed = close;
                stream.closed_by = producer.filter(|_| close);
                let status = if producer.is_some() && count > 0 { 200 } else { 204 };
                (status, Some(stream.bytes.len()), close, None)
            }
            Operation::Delete { path } => {
                self.living(path)?.deleted = true;
                let mut path = path;
                while self.0.get(&path).is_some_and(|stream| stream.deleted && stream.forks == 0) {
                    let Some((source, ..)) = self.0.remove(&path).and_then(|removed| removed.origin) else {
                        break;
                    };
                    self.0.get_mut(&source).unwrap().forks -= 1;
                    path = source;
                }
                (204, None, false, None)
            }
            Operation::Read { path, at } => {
                let stream = self.living(path)?;
                let from = stream.position(at);
                let rest = &stream.bytes[from..];
                let body =
                    if stream.json { format!("[{}]", rest.trim_end_matches(',')) } else { rest.to_owned() };
                (200, Some(stream.bytes.len()), stream.closed, Some(body))
            }
            Operation::Head { path } => {
                let stream = self.living(path)?;
                (200, Some(stream.bytes.len()), stream.closed, None)
            }
        })
    }
}

fn offset(at: usize) -> String {
    format!("0000000000000000_{at:016}")
}

/// Sends an operation to a service, whose streams are below a prefix.
async fn send(service: &Service, prefix: &str, models: &Models, operation: &Operation, salt: usize) -> Seen {
    let url = |path: usize| format!("/v1/stream/{prefix}/{}", PATHS[path]);
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: String| headers.push((name.to_owned(), value));
    let mut body = String::new();
    let content_type = |json: bool| if json { "application/json" } else { "text/plain" }.to_owned();
    let of_words = |json: bool, words: Vec<String>| match (words.is_empty(), json) {
        (true, _) => String::new(),
        (false, true) => format!("[{}]", words.join(", ")),
        (false, false) => words.concat(),
    };
    let (method, target) = match *operation {
        Operation::Put { path, json, closed, words: count } => {
            add("content-type", content_type(json));
            if closed {
                add("stream-closed", "true".to_owned());
            }
            body = of_words(json, words(count, salt));
            ("PUT", url(path))
        }
        Operation::Fork { path, source, at, sub } => {
            add("stream-forked-from", url(source));
            if let Some(at) = at {
                let anchor = models.0.get(&source).map_or(0, |known| known.position(at));
                add("stream-fork-offset", offset(anchor));
            }
            if sub > 0 {
                add("stream-fork-sub-offset", sub.to_string());
            }
            ("PUT", url(path))
        }
        Operation::Append { path, json, words: count, seq, producer, close } => {
            add("content-type", content_type(json));
            if let Some(seq) = seq {
                add("stream-seq", seq.to_string());
            }
            if let Some((epoch, number)) = producer {
                add("producer-id", "p".to_owned());
                add("producer-epoch", epoch.to_string());
                add("producer-seq", number.to_string());
            }
            if close {
                add("stream-closed", "true".to_owned());
            }
            body = of_words(json, words(count, salt));
            ("POST", url(path))
        }
        Operation::Delete { path } => ("DELETE", url(path)),
        Operation::Read { path, at } => {
            let from = models.0.get(&path).map_or(0, |known| known.position(at));
            ("GET", format!("{}?offset={}", url(path), offset(from)))
        }
        Operation::Head { path } => ("HEAD", url(path)),
    };
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    let answer = service.request(method, &target, &headers, body).await;
    let next = answer.header("stream-next-offset").split('_').nth(1).map(|digits| digits.parse().unwrap());
    let is_read = method == "GET" && answer.status == 200;
    let text = is_read.then(|| String::from_utf8(answer.body.to_vec()).unwrap());
    (answer.status.as_u16(), next, answer.header("stream-closed") == "true", text)
}

/// Tries random sequences on a service with a store.
async fn compare(store: &str, cases: u32) {
    let database = TestDatabase::create().await;
    let variables = [("MODULES", "events,streams"), ("STREAMS_STORE", store)];
    let service = Service::start(database.url(), &variables).await;
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let runtime = tokio::runtime::Handle::current();
    let number = std::cell::Cell::new(0);
    let tried = tokio::task::block_in_place(|| {
        runner.run(&proptest::collection::vec(operation(), 1..60), |operations| {
            number.set(number.get() + 1);
            let prefix = format!("run{}", number.get());
            let mut models = Models::default();
            for (salt, operation) in operations.iter().enumerate() {
                let sent = runtime.block_on(send(&service, &prefix, &models, operation, salt));
                let expected = models.apply(operation, salt);
                prop_assert_eq!(&sent, &expected, "{:?} after {:?}", operation, &operations[..salt]);
            }
            Ok(())
        })
    });
    tried.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_sequence_of_operations_in_memory_has_the_answers_of_the_model() {
    compare("memory", 60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_sequence_of_operations_in_postgres_has_the_answers_of_the_model() {
    compare("postgres", 20).await;
}
