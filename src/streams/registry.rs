//! The registry: a stream of JSON messages with every creation and deletion of a stream, in the State Protocol.
//!
//! A message is written after its change is durable. What happens in between is missing where the process ends in that moment; a reader that needs
//! certainty asks for the stream itself.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::append::Append;
use super::body::AppendBody;
use super::content_type::ContentType;
use super::create::CreateStream;
use super::error::StreamError;
use super::listener::{StreamEvent, StreamEventKind, StreamListener};
use super::path::StreamPath;
use super::stream_store::StreamStore;
use crate::observe::LogThrottle;

/// Messages that wait to be written; beyond it they are dropped, and the log says so.
const MAX_WAITING: usize = 10_000;
/// Messages of one append.
const MAX_BATCH: usize = 500;
/// The wait before an append that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

static DROPPED: LogThrottle = LogThrottle::new();

/// Listens for creations and deletions.
#[derive(Debug)]
struct RegistryListener {
    path: StreamPath,
    messages: Sender<Value>,
}

impl StreamListener for RegistryListener {
    fn changed(&self, event: &StreamEvent) {
        if event.path == self.path {
            return;
        }
        let key = event.path.as_str();
        let message = match &event.kind {
            StreamEventKind::Created { content_type, at, .. } => json!({
                "type": "stream",
                "key": key,
                "value": {"path": key, "contentType": content_type.as_str(), "createdAt": at.0 / 1_000},
                "headers": {"operation": "insert"},
            }),
            StreamEventKind::Deleted => {
                json!({"type": "stream", "key": key, "headers": {"operation": "delete"}})
            }
            StreamEventKind::Appended | StreamEventKind::Closed => return,
        };
        if self.messages.try_send(message).is_err()
            && let Some(left_out) = DROPPED.ready()
        {
            tracing::warn!(
                left_out,
                "the registry of streams cannot be written fast enough: entries are missing"
            );
        }
    }
}

/// Starts to listen; returns the task that writes the registry.
pub fn registry(store: Arc<dyn StreamStore>, path: StreamPath) -> impl Future<Output = ()> + Send + 'static {
    let (messages, receiver) = channel(MAX_WAITING);
    store.listen(Arc::new(RegistryListener { path: path.clone(), messages }));
    write(store, path, receiver)
}

async fn write(store: Arc<dyn StreamStore>, path: StreamPath, mut messages: Receiver<Value>) {
    let registry = Registry { store, path };
    // It exists from the start, so that it can be read.
    registry.write(None).await;
    let mut batch = Vec::new();
    while messages.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let text = Value::Array(std::mem::take(&mut batch)).to_string();
        let Ok(Some(body)) = AppendBody::of_json(text.as_bytes()) else { continue };
        registry.write(Some(body)).await;
    }
}

/// The stream of the registry.
struct Registry {
    store: Arc<dyn StreamStore>,
    path: StreamPath,
}

impl Registry {
    /// Creates it where it is missing, and appends to it. Tries until it succeeds, or never will.
    async fn write(&self, body: Option<AppendBody>) {
        loop {
            match self.attempt(body.clone()).await {
                Ok(()) => return,
                Err(StreamError::Database(error)) => {
                    tracing::warn!(
                        error = error.with_sources(),
                        "the registry of streams waits for the database"
                    );
                }
                Err(StreamError::Overloaded) => {}
                Err(error) => {
                    tracing::error!(error = error.to_string(), "the registry of streams lacks entries");
                    return;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn attempt(&self, body: Option<AppendBody>) -> Result<(), StreamError> {
        let content_type = Some(ContentType::json());
        let Some(body) = body else {
            let new = CreateStream { content_type, ..CreateStream::default() };
            return self.store.create(&self.path, new).await.map(drop);
        };
        let append = Append { content_type, body: Some(body), seq: None, producer: None, close: false };
        self.store.append(&self.path, append).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::memory::MemoryStore;
    use crate::streams::{Freshness, ReadFrom, body};

    #[tokio::test]
    async fn creations_and_deletions_become_messages() {
        let store: Arc<dyn StreamStore> = Arc::new(MemoryStore::new(1 << 20));
        let (path, stream) = (StreamPath::new("__registry__").unwrap(), StreamPath::new("a/b").unwrap());
        let task = tokio::spawn(registry(Arc::clone(&store), path.clone()));
        store.create(&stream, CreateStream::default()).await.unwrap();
        store.delete(&stream).await.unwrap();
        let mut watch = store.watch(&path);
        let messages = loop {
            let read = store.read(&path, ReadFrom::Start, 1 << 20, Freshness::Verified).await;
            let bytes = read.map(|slice| slice.bytes).unwrap_or_default();
            let messages: Vec<Value> = serde_json::from_slice(&body::json_array(bytes).concat()).unwrap();
            if messages.len() == 2 {
                break messages;
            }
            watch.changed().await;
        };
        assert_eq!(messages[0]["value"]["contentType"], "application/octet-stream");
        assert_eq!(messages[0]["headers"]["operation"], "insert");
        assert_eq!(messages[1], json!({"type": "stream", "key": "a/b", "headers": {"operation": "delete"}}));
        task.abort();
    }
}
