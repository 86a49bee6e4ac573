//! One WebSocket: its client's requests, one after the other, and the changes of its topics.
//!
//! While added topics are read from the table, further requests wait, and so does the client once one of them does: it is not read.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::Method;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use super::super::MAX_CONNECTION_TOPICS;
use super::super::event;
use super::super::stream::{MAX_RUN, stats_failed, until};
use super::super::topic::Topics;
use super::allowance::Allowance;
use super::frame::{Frames, Request};
use super::{MAX_MESSAGE_BYTES, READ_BUFFER, WRITE_BUFFER};
use crate::auth::{Principal, Secret};
use crate::http::AppState;
use crate::http::edge::authorize::Proof;
use crate::http::edge::client::ClientAddress;
use crate::http::edge::routes::Access;
use crate::http::event_stream::{CHUNK_BYTES, Close};
use crate::http::server::{ConnectionHandle, TimedStream};
use crate::http::turns::Turn;
use crate::http::wire::error::ApiError;
use crate::realtime::{Change, Next, Position, Realtime, Subscription};

/// Heartbeats without a frame of the client, such as the answer to a ping, after which it is gone.
const MAX_SILENT_HEARTBEATS: u32 = 2;
/// The time for the last frames, and for the client's answer to them.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// What a session starts with.
pub(super) struct SessionParts {
    pub(super) state: Arc<AppState>,
    pub(super) connection: ConnectionHandle,
    pub(super) client: ClientAddress,
    pub(super) proof: Proof,
    pub(super) principal: Principal,
    /// The caller's user, whose conversations they may read.
    pub(super) user: Option<Uuid>,
    /// `None`: a token is required, and has not come.
    pub(super) subscription: Option<Subscription>,
    /// When it has to be there.
    pub(super) auth_by: Option<Instant>,
}

type Socket = WebSocketStream<TimedStream>;

/// A WebSocket.
pub(super) struct Session {
    parts: SessionParts,
    realtime: Realtime,
    socket: Socket,
    /// Topics whose changes are delivered.
    topics: Topics,
    joining: Joining,
    /// A request that waits until the one before is done.
    waiting: Option<Request>,
    allowance: Allowance,
    frames: Frames,
    /// When figures are sent next; `None`: they are none of the topics.
    stats_at: Option<Instant>,
    /// Whether the last change was none of the client's, so that its position was not sent.
    is_behind: bool,
    /// Whether a part of a message was written, and not its end: only control frames may come between.
    is_in_message: bool,
    heartbeat: Duration,
    /// When the access was checked.
    checked: Instant,
    /// Whether a frame came since then.
    is_heard: bool,
    silent_heartbeats: u32,
}

/// The topics of the last request to subscribe.
enum Joining {
    /// They are among the others.
    Done,
    /// They were requested; their list as requested, and those that are new.
    Requested(Topics, Topics),
    /// They are read from the table.
    CatchingUp(Topics),
}

/// The reason for which a WebSocket ends.
enum End {
    /// As for a stream of events.
    Close(Close),
    /// The client broke a rule: the error for it, and the code (RFC 6455, section 7.4.1).
    Fault(ApiError, CloseCode),
}

impl<T: Into<Close>> From<T> for End {
    fn from(close: T) -> Self {
        Self::Close(close.into())
    }
}

enum Step {
    Heartbeat,
    Stats,
    Changes,
    Message(Option<Result<Message, Error>>),
}

impl Session {
    pub(super) fn new(parts: SessionParts, realtime: Realtime, socket: Socket) -> Self {
        let heartbeat = Duration::from_secs(realtime.limits().heartbeat_s);
        Self {
            parts,
            realtime,
            socket,
            topics: Topics::default(),
            joining: Joining::Done,
            waiting: None,
            allowance: Allowance::new(),
            frames: Frames::default(),
            stats_at: None,
            is_behind: false,
            is_in_message: false,
            heartbeat,
            checked: Instant::now(),
            is_heard: true,
            silent_heartbeats: 0,
        }
    }

    /// Serves it to its end.
    pub(super) async fn run(mut self) {
        let end = match self.serve().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        let name = match &end {
            End::Close(close) => close.name(),
            End::Fault(..) => "fault",
        };
        self.parts.state.metrics.follows_closed.with_label_values(&[name]).inc();
        // Its memory is for others now.
        self.parts.subscription = None;
        self.close(end).await;
    }

    async fn serve(&mut self) -> Result<Infallible, End> {
        loop {
            let step = self.step().await?;
            if !matches!(step, Step::Changes) {
                Box::pin(self.act(step)).await?;
                continue;
            }
            let mut turn = tokio::select! {
                biased;
                () = self.parts.state.lifecycle.draining() => return Err(Close::Draining.into()),
                turn = Turn::next() => turn,
            };
            if turn.run(Box::pin(self.act(step))).await? {
                turn.leaves_more();
            }
            if let Some(subscription) = &mut self.parts.subscription {
                subscription.sent();
            }
        }
    }

    /// Does what a step asks for, and sends what that has to say: whether it is a full chunk.
    async fn act(&mut self, step: Step) -> Result<bool, End> {
        match step {
            Step::Heartbeat => self.beat().await?,
            Step::Stats => self.collect_stats()?,
            Step::Changes => self.collect_changes().await?,
            Step::Message(None) => return Err(Close::ClientGone.into()),
            Step::Message(Some(Err(error))) => return Err(fault(&error)),
            Step::Message(Some(Ok(message))) => self.take(message).await?,
        }
        self.next_request().await;
        let is_full = self.frames.len() >= CHUNK_BYTES;
        self.send().await?;
        Ok(is_full)
    }

    /// Waits for something to do.
    async fn step(&mut self) -> Result<Step, End> {
        // Nothing more is read while a request waits, and a client with too many of them waits too.
        let reads = self.waiting.is_none();
        let read_at = self.allowance.next_at();
        let beat_at = self.checked + self.heartbeat;
        let Self { parts, socket, stats_at, .. } = self;
        let SessionParts { state, subscription, auth_by, .. } = parts;
        let changes = async {
            match subscription {
                Some(subscription) => subscription.ready().await,
                None => std::future::pending().await,
            }
        };
        let read = async {
            tokio::time::sleep_until(read_at).await;
            socket.next().await
        };
        let step = tokio::select! {
            () = state.lifecycle.draining() => return Err(Close::Draining.into()),
            () = until(*auth_by) => return Err(End::Fault(ApiError::token_needed(), CloseCode::Policy)),
            () = tokio::time::sleep_until(beat_at) => Step::Heartbeat,
            () = until(*stats_at) => Step::Stats,
            () = changes => Step::Changes,
            message = read, if reads => Step::Message(message),
        };
        if !reads || read_at > Instant::now() {
            self.is_heard = true;
        }
        Ok(step)
    }

    /// Checks that the client is there and has its access, and sends it the position.
    async fn beat(&mut self) -> Result<(), End> {
        self.checked = Instant::now();
        if self.parts.subscription.is_none() {
            // Its token is awaited, and no answer to a ping.
            return Ok(());
        }
        self.silent_heartbeats =
            if std::mem::take(&mut self.is_heard) { 0 } else { self.silent_heartbeats + 1 };
        if self.silent_heartbeats >= MAX_SILENT_HEARTBEATS {
            return Err(Close::ClientGone.into());
        }
        if !self.is_admitted().await {
            return Err(Close::Denied.into());
        }
        if let Some(subscription) = &mut self.parts.subscription {
            let moved_on = subscription.moved_on();
            let skipped = || self.is_behind.then(|| subscription.position().clone());
            if let Some(position) = moved_on.or_else(skipped) {
                self.frames.heartbeat(&position.to_string());
            }
            self.is_behind = false;
        }
        // Browsers answer it by themselves.
        self.feed(Message::Ping(Bytes::new())).await
    }

    /// Whether the caller still has the access that the topics require. If that cannot be decided now, they have.
    async fn is_admitted(&mut self) -> bool {
        let SessionParts { state, proof, connection, .. } = &self.parts;
        match proof.principal(state, connection.peer()).await {
            Ok(principal) => {
                self.all_topics().all(|topic| topic.requirement().check(state, &principal).is_ok())
            }
            Err(refusal) => !refusal.is_denial(),
        }
    }

    fn all_topics(&self) -> impl Iterator<Item = &super::super::topic::Topic> {
        let joining = match &self.joining {
            Joining::Done => None,
            Joining::Requested(_, topics) | Joining::CatchingUp(topics) => Some(topics),
        };
        self.topics.iter().chain(joining.into_iter().flat_map(Topics::iter))
    }

    /// Takes a message of the client.
    async fn take(&mut self, message: Message) -> Result<(), End> {
        self.is_heard = true;
        let request = match message {
            Message::Text(text) => Request::parse(text.as_bytes()),
            Message::Binary(_) => Err(ApiError::invalid("a frame is text").field("body")),
            Message::Close(_) => return Err(Close::ClientGone.into()),
            // The answer to our ping is none of the client's requests.
            Message::Pong(_) | Message::Frame(_) => return Ok(()),
            Message::Ping(_) => {
                self.allowance.spend(1);
                return Ok(());
            }
        };
        self.allowance.spend(request.as_ref().map_or(1, Request::cost));
        match request {
            Ok(Request::Auth(token)) => self.authorize(token).await?,
            Ok(request) => self.waiting = Some(request),
            Err(error) => self.frames.error(&error),
        }
        Ok(())
    }

    /// Starts the request that waits, once nothing is before it.
    async fn next_request(&mut self) {
        if self.parts.subscription.as_ref().is_some_and(Subscription::is_busy) {
            return;
        }
        let done = match self.waiting.take() {
            None | Some(Request::Auth(_)) => Ok(()),
            Some(Request::Subscribe { topics, from }) => self.subscribe(topics, from).await,
            Some(Request::Unsubscribe(topics)) => self.unsubscribe(&topics),
        };
        if let Err(error) = done {
            self.frames.error(&error);
        }
    }

    /// Takes the token of a connection without one, or the next one of the same caller.
    async fn authorize(&mut self, token: Secret) -> Result<(), End> {
        let had_access = self.parts.subscription.is_some();
        match self.accept(token).await {
            Ok(()) => self.parts.auth_by = None,
            Err(error) if had_access => self.frames.error(&error),
            Err(error) => return Err(End::Fault(error, CloseCode::Policy)),
        }
        Ok(())
    }

    async fn accept(&mut self, token: Secret) -> Result<(), ApiError> {
        let state = &self.parts.state;
        let proof = Proof::Token(token);
        let principal = proof.principal(state, self.parts.connection.peer()).await?;
        let user = state.services()?.accounts.user_of(&principal).await?;
        let has_topics = self.all_topics().next().is_some() || self.is_busy();
        if has_topics && (user != self.parts.user || !self.parts.principal.is_same_caller(&principal)) {
            return Err(ApiError::forbidden("another_caller", "a connection with topics stays its caller's"));
        }
        for topic in self.all_topics() {
            topic.requirement().check(state, &principal)?;
        }
        if self.parts.subscription.is_none() || user != self.parts.user {
            // The one before counts no more.
            self.parts.subscription = None;
            self.parts.subscription = Some(self.realtime.connect(user)?);
        }
        (self.parts.proof, self.parts.principal, self.parts.user) = (proof, principal, user);
        Ok(())
    }

    fn is_busy(&self) -> bool {
        self.parts.subscription.as_ref().is_some_and(Subscription::is_busy)
    }

    async fn subscribe(&mut self, topics: Topics, from: Option<Position>) -> Result<(), ApiError> {
        let SessionParts { state, principal, client, subscription, user, .. } = &mut self.parts;
        let Some(subscription) = subscription else { return Err(ApiError::token_needed()) };
        let mut new = topics.without(&self.topics);
        if self.topics.len() + new.len() > MAX_CONNECTION_TOPICS {
            let message = format!("a connection has up to {MAX_CONNECTION_TOPICS} topics");
            return Err(ApiError::invalid(message).field("topics"));
        }
        topics.check_apart(&self.topics)?;
        new.check_filter_bytes(&self.topics)?;
        self.topics.check_apart(&new)?;
        state.budgets.take(&Method::GET, Access::Topics, principal, client.ip)?;
        new.check(state, principal, *user).await?;
        if !topics.has_feed() {
            // The feed may not be readable now.
            self.stats_at = Some(self.stats_at.unwrap_or_else(Instant::now));
            self.frames.topics("ready", None, &topics);
            self.topics.extend(new);
            return Ok(());
        }
        subscription.add(new.names(), from)?;
        self.joining = Joining::Requested(topics, new);
        Ok(())
    }

    fn unsubscribe(&mut self, topics: &Topics) -> Result<(), ApiError> {
        let Some(subscription) = &mut self.parts.subscription else { return Err(ApiError::token_needed()) };
        self.topics = self.topics.without(topics);
        if !self.topics.has_stats() {
            self.stats_at = None;
        }
        let left = self.topics.names();
        for name in topics.names() {
            // Another topic may be of the same feed.
            if left.binary_search(&name).is_err() {
                subscription.remove(&name);
            }
        }
        self.frames.topics("unsubscribed", None, topics);
        Ok(())
    }

    /// Collects changes into frames, about [`CHUNK_BYTES`].
    async fn collect_changes(&mut self) -> Result<(), End> {
        let mut begun = Instant::now();
        while self.frames.len() < CHUNK_BYTES {
            // Filters take time, and other tasks wait.
            if begun.elapsed() > MAX_RUN {
                tokio::task::yield_now().await;
                begun = Instant::now();
            }
            let Some(subscription) = &mut self.parts.subscription else { break };
            let next = subscription.next().await?;
            let position = || subscription.position().to_string();
            match next {
                Next::Change(change) if subscription.is_of_table() => self.write_past_change(&change)?,
                Next::Change(change) => {
                    self.end_catching_up();
                    self.is_behind = !write_change(&mut self.frames, &self.topics, &change)?;
                }
                Next::Joined => {
                    let Joining::Requested(requested, new) =
                        std::mem::replace(&mut self.joining, Joining::Done)
                    else {
                        continue;
                    };
                    self.frames.topics("ready", Some(&position()), &requested);
                    if new.has_stats() {
                        self.stats_at = Some(Instant::now());
                    }
                    self.joining = Joining::CatchingUp(new);
                }
                Next::NotJoined => {
                    self.joining = Joining::Done;
                    let error = ApiError::from(crate::realtime::SubscribeError::Away);
                    self.frames.error(&error);
                }
                Next::Reset => {
                    if let Joining::CatchingUp(topics) = &self.joining {
                        self.frames.topics("reset", Some(&position()), topics);
                    }
                }
                Next::Nothing => break,
            }
        }
        if !self.is_busy() {
            self.end_catching_up();
        }
        Ok(())
    }

    fn collect_stats(&mut self) -> Result<(), End> {
        let state = &self.parts.state;
        self.stats_at = Some(state.stats.next_at());
        let json = state.stats.snapshot(state).map_err(|error| stats_failed(&error))?;
        self.frames.stats(&json);
        Ok(())
    }

    fn write_past_change(&mut self, change: &Change) -> Result<(), End> {
        match &self.joining {
            Joining::CatchingUp(topics) => {
                self.is_behind = !write_change(&mut self.frames, topics, change)?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The topics that were read from the table are as the others.
    fn end_catching_up(&mut self) {
        if let Joining::CatchingUp(topics) = &mut self.joining {
            self.topics.extend(std::mem::take(topics));
            self.joining = Joining::Done;
        }
    }

    /// Sends the frames. They count in `SUBSCRIBERS_BYTES` until the socket has taken them.
    async fn send(&mut self) -> Result<(), End> {
        let (chunk, ends) = self.frames.take();
        let Self { parts, socket, is_in_message, .. } = self;
        let (state, subscription) = (&parts.state, parts.subscription.as_ref());
        let sending = async {
            let held = match subscription {
                Some(subscription) if !chunk.is_empty() => subscription.hold(chunk).await,
                _ => chunk,
            };
            feed_texts(socket, &held, &ends, is_in_message).await?;
            // A ping, or the answer to one, may wait too.
            socket.flush().await
        };
        let cut_off = async {
            match subscription {
                Some(subscription) => tokio::select! {
                    end = subscription.dropped() => end.into(),
                    () = subscription.overstays() => Close::Slow,
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            sent = sending => sent.map_err(|_broken| Close::ClientGone.into()),
            () = state.lifecycle.draining() => Err(Close::Draining.into()),
            close = cut_off => Err(End::Close(close)),
            () = tokio::time::sleep(state.limits.idle_timeout) => Err(Close::Slow.into()),
        }
    }

    /// Hands a control frame to the socket's buffer.
    async fn feed(&mut self, message: Message) -> Result<(), End> {
        let limit = self.parts.state.limits.idle_timeout;
        match tokio::time::timeout(limit, self.socket.feed(message)).await {
            Ok(fed) => fed.map_err(|_broken| Close::ClientGone.into()),
            Err(_elapsed) => Err(Close::Slow.into()),
        }
    }

    /// Reports the reason to a client that still takes it, and closes the connection.
    async fn close(mut self, end: End) {
        let code = match &end {
            End::Close(Close::ClientGone) => None,
            End::Close(Close::Draining) => Some(CloseCode::Away),
            End::Close(close @ (Close::Slow | Close::Denied | Close::Ended(_))) => {
                self.frames.cut(close.name());
                Some(match close {
                    Close::Denied | Close::Ended("filter") => CloseCode::Policy,
                    Close::Ended("failed") => CloseCode::Error,
                    _ => CloseCode::Again,
                })
            }
            End::Fault(error, code) => {
                self.frames.error(error);
                Some(*code)
            }
        };
        let (chunk, mut ends) = self.frames.take();
        let Self { socket, parts, is_in_message, .. } = &mut self;
        if *is_in_message || code.is_none() {
            ends.clear();
        }
        let closing = async {
            feed_texts(socket, &chunk, &ends, is_in_message).await?;
            match code {
                Some(code) => {
                    let frame = CloseFrame { code, reason: Utf8Bytes::default() };
                    socket.send(Message::Close(Some(frame))).await
                }
                // The answer to the client's own close frame is in the buffer.
                None => socket.flush().await,
            }
        };
        if !matches!(tokio::time::timeout(CLOSE_LIMIT, closing).await, Ok(Ok(()))) {
            // The kernel would keep unsent data for minutes.
            parts.connection.reset();
            return;
        }
        // With data of the client unread, the kernel would reset the connection, and the client might not read the last frames.
        let mut rest = ReaderStream::with_capacity(socket.get_mut(), READ_BUFFER);
        let answer = async { while let Some(Ok(_bytes)) = rest.next().await {} };
        let _in_vain = tokio::time::timeout(CLOSE_LIMIT, answer).await;
    }
}

/// Writes a change. False: it is none of the topics, or a filter does not match.
fn write_change(frames: &mut Frames, topics: &Topics, change: &Change) -> Result<bool, End> {
    let Some(topic) = topics.of(change) else { return Ok(false) };
    let data = event::data(topic, change).map_err(|error| error.close(change))?;
    if let Some(data) = &data {
        frames.change(change.id(), data);
    }
    Ok(data.is_some())
}

/// Hands the texts that end at `ends` to the socket's buffer, long ones in fragments.
async fn feed_texts(
    socket: &mut Socket,
    texts: &Bytes,
    ends: &[usize],
    is_in_message: &mut bool,
) -> Result<(), Error> {
    let mut start = 0;
    for end in ends {
        let mut kind = Data::Text;
        loop {
            let next = (start + WRITE_BUFFER).min(*end);
            let part = Frame::message(texts.slice(start..next), OpCode::Data(kind), next == *end);
            socket.feed(Message::Frame(part)).await?;
            *is_in_message = next != *end;
            (start, kind) = (next, Data::Continue);
            if start == *end {
                break;
            }
        }
    }
    Ok(())
}

/// The end of a connection whose client sent what is no message, or whose socket broke.
fn fault(error: &Error) -> End {
    let fault = |error: ApiError, code| End::Fault(error.field("body"), code);
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            let message = format!("a message has up to {MAX_MESSAGE_BYTES} bytes");
            fault(ApiError::too_large(message), CloseCode::Size)
        }
        Error::Utf8(_) => fault(ApiError::invalid("a text message is UTF-8"), CloseCode::Invalid),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Close::ClientGone.into(),
        Error::Protocol(_) => {
            fault(ApiError::invalid("this is no frame of a WebSocket"), CloseCode::Protocol)
        }
        _ => Close::ClientGone.into(),
    }
}
