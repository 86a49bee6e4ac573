//! The API of PocketBase: collections that are made for the run, records under public rules, and subscribers that get their topics by a request
//! beside their stream. Any server of this API can be measured.

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};
use serde_json::{Value, json};

use crate::client::{Answer, Body, Connection, Failure, Target};
use crate::protocol::Token;

/// The time limit of one answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest padding of a record, for the schema.
const MAX_TEXT: u32 = 70_000;

/// The API of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Api {
    /// /api/stress/records and /api/events/stream
    Tidegate,
    /// /api/collections and /api/realtime
    Pocketbase,
}

/// The arguments that choose the API.
#[derive(Debug, Args)]
pub(crate) struct ApiArgs {
    /// API of the service. With pocketbase the token is that of a superuser, for the collections alone: they are deleted and made anew, with
    /// public rules, and all else is done by guests. Memory and CPU time need --pid then
    #[arg(long, value_enum, default_value = "tidegate")]
    pub(crate) api: Api,
    /// Topics are the owners of the records of one collection, whose rule owner = @request.query.owner shows each subscriber those of one owner
    #[arg(long)]
    pub(crate) owners: bool,
    /// Subscriptions have the option resume: a subscriber that was cut off gets what it missed
    #[arg(long)]
    pub(crate) resume: bool,
    /// Indexes of each collection, beside that of the id: of the numbers, and of the owner and the time of creation
    #[arg(long)]
    pub(crate) indexed: bool,
    /// Writers send as fast as answers come, instead of at --rate
    #[arg(long)]
    pub(crate) closed_loop: bool,
}

/// A request beside the load that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PocketBaseError {
    /// It was answered with an error.
    #[error("{request} was answered with {status}: {body}")]
    Refused {
        /// The request.
        request: String,
        /// The status.
        status: u16,
        /// The beginning of the answer.
        body: String,
    },
    /// There was no answer.
    #[error("{0} was not answered")]
    Unanswered(String),
    /// The token cannot be sent.
    #[error("the token holds characters that HTTP cannot carry")]
    Token,
    /// An option has no meaning for an API.
    #[error("{0}")]
    Option(&'static str),
}

/// Requests beside the load.
pub(super) struct PocketBase {
    target: Target,
    owners: bool,
    resume: bool,
    indexed: bool,
    /// Connections that wait for their next request.
    idle: RefCell<Vec<Connection>>,
}

impl PocketBase {
    /// `None`: another API.
    pub(super) fn new(target: &Target, args: &ApiArgs, behind: u32) -> Result<Option<Self>, PocketBaseError> {
        let ApiArgs { owners, resume, indexed, .. } = *args;
        match args.api {
            Api::Pocketbase if behind > 0 => {
                Err(PocketBaseError::Option("--behind needs positions, which this API has not"))
            }
            Api::Pocketbase => {
                let idle = RefCell::default();
                Ok(Some(Self { target: target.clone(), owners, resume, indexed, idle }))
            }
            Api::Tidegate if owners || resume || indexed => {
                Err(PocketBaseError::Option("--owners, --resume and --indexed need --api pocketbase"))
            }
            Api::Tidegate => Ok(None),
        }
    }

    /// The collection of a topic.
    fn collection(&self, topic: usize) -> String {
        format!("loadtest_{}", if self.owners { 0 } else { topic })
    }

    /// The path of the records of a topic.
    pub(super) fn record_path(&self, topic: usize) -> String {
        self.target.path(&format!("/api/collections/{}/records", self.collection(topic)))
    }

    /// A record.
    pub(super) fn record(&self, topic: usize, number: u64, value: &str, padding: &str) -> String {
        format!("{{\"lt\":\"{value}\",\"n\":{number},\"owner\":\"o{topic}\",\"padding\":\"{padding}\"}}")
    }

    /// Deletes the collections of the topics, and makes them.
    pub(super) async fn make_collections(
        &self,
        topics: usize,
        token: Option<&Token>,
    ) -> Result<(), PocketBaseError> {
        let token = token.map(|token| HeaderValue::from_str(&token.0)).transpose();
        let token = token.map_err(|_| PocketBaseError::Token)?;
        for topic in 0..if self.owners { 1 } else { topics } {
            let name = self.collection(topic);
            let path = format!("/api/collections/{name}");
            match self.exchange(&Method::DELETE, &path, token.as_ref(), None).await {
                Ok(_) | Err(PocketBaseError::Refused { status: 404, .. }) => {}
                Err(error) => return Err(error),
            }
            let definition = self.definition(&name);
            self.exchange(&Method::POST, "/api/collections", token.as_ref(), Some(&definition)).await?;
        }
        Ok(())
    }

    fn definition(&self, name: &str) -> Value {
        let rule = if self.owners { "owner = @request.query.owner" } else { "" };
        let indexes = match self.indexed {
            true => vec![
                format!("CREATE INDEX idx_{name}_n ON {name} (n)"),
                format!("CREATE INDEX idx_{name}_owner ON {name} (owner, created)"),
            ],
            false => Vec::new(),
        };
        json!({
            "name": name, "type": "base",
            "listRule": rule, "viewRule": rule, "createRule": "", "updateRule": "", "deleteRule": null,
            "indexes": indexes,
            "fields": [
                {"name": "lt", "type": "text"},
                {"name": "n", "type": "number"},
                {"name": "owner", "type": "text"},
                {"name": "padding", "type": "text", "max": MAX_TEXT},
                {"name": "created", "type": "autodate", "onCreate": true},
                {"name": "updated", "type": "autodate", "onCreate": true, "onUpdate": true},
            ],
        })
    }

    /// Sets the topic of a stream. Later changes are delivered.
    pub(super) async fn subscribe(
        &self,
        client: &[u8],
        topic: usize,
        key: &str,
    ) -> Result<(), PocketBaseError> {
        let mut query = serde_json::Map::new();
        if self.owners {
            query.insert("owner".into(), format!("o{topic}").into());
        }
        if self.resume {
            query.insert("resume".into(), key.into());
        }
        let mut name = format!("{}/*", self.collection(topic));
        if !query.is_empty() {
            // Nothing in it has to be encoded but these.
            let options = json!({"query": query}).to_string();
            let options = options.replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
            name = format!("{name}?options={options}");
        }
        let message = json!({"clientId": String::from_utf8_lossy(client), "subscriptions": [name]});
        self.exchange(&Method::POST, "/api/realtime", None, Some(&message)).await.map(drop)
    }

    /// A request on a connection of its own, or on one that waits.
    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        token: Option<&HeaderValue>,
        body: Option<&Value>,
    ) -> Result<Answer, PocketBaseError> {
        let shown = format!("{method} {path}");
        let unanswered = || PocketBaseError::Unanswered(shown.clone());
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let mut request = Request::builder()
            .method(method)
            .uri(self.target.path(path))
            .header(HOST, self.target.host_header())
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let mut request = request.body(Full::new(body)).map_err(|_| unanswered())?;
        loop {
            // One that waited may have been closed.
            let idle = self.idle.borrow_mut().pop();
            let is_new = idle.is_none();
            let mut connection = match idle {
                Some(connection) => connection,
                None => Connection::open(&self.target).await.map_err(|_| unanswered())?,
            };
            match connection.exchange(request, Body::Keep, TIMEOUT).await {
                Ok(answer) if (200..300).contains(&answer.status) => {
                    self.idle.borrow_mut().push(connection);
                    return Ok(answer);
                }
                Ok(answer) => {
                    let body = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
                    return Err(PocketBaseError::Refused { request: shown, status: answer.status, body });
                }
                Err(Failure::NotSent(unsent)) if !is_new => request = *unsent,
                Err(_) => return Err(unanswered()),
            }
        }
    }
}
