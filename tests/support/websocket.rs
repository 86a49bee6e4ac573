//! A WebSocket to the service, by an independent client.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::service::Service;

/// The time limit for a frame.
const PATIENCE: Duration = Duration::from_secs(60);

/// An open WebSocket, closed with its value.
pub(crate) struct Socket(pub(crate) WebSocketStream<TcpStream>);

/// A frame of the service.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) event: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

impl Socket {
    /// Opens one; a rejected handshake is the status and the body of its answer.
    pub(crate) async fn try_open(
        service: &Service,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, (u16, String)> {
        let stream = TcpStream::connect(&service.address).await.unwrap();
        Self::try_open_over(stream, service, path, headers).await
    }

    /// As [`Self::try_open`], over a connection.
    pub(crate) async fn try_open_over(
        stream: TcpStream,
        service: &Service,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, (u16, String)> {
        let mut request = format!("ws://{}{path}", service.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match client_async(request, stream).await {
            Ok((socket, _answer)) => Ok(Self(socket)),
            Err(Error::Http(answer)) => {
                let body = answer.body().clone().unwrap_or_default();
                Err((answer.status().as_u16(), String::from_utf8(body).unwrap()))
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Opens one, with a bearer token unless it is empty.
    pub(crate) async fn open(service: &Service, token: &str) -> Self {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let headers = if token.is_empty() { &[][..] } else { &headers };
        Self::try_open(service, "/api/events/ws", headers).await.unwrap()
    }

    pub(crate) async fn send(&mut self, frame: &Value) {
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// The next message.
    async fn message(&mut self) -> Option<Result<Message, Error>> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("no frame, and no end");
            if !matches!(next, Some(Ok(Message::Ping(_) | Message::Pong(_)))) {
                return next;
            }
        }
    }

    /// The next frame; those that only move the position are skipped.
    pub(crate) async fn next(&mut self) -> Frame {
        loop {
            let frame = self.any().await;
            if frame.event != "heartbeat" {
                return frame;
            }
        }
    }

    /// The next frame.
    pub(crate) async fn any(&mut self) -> Frame {
        match self.message().await {
            Some(Ok(Message::Text(text))) => {
                let mut frame: Value = serde_json::from_str(&text).unwrap();
                let mut text = |name: &str| match frame[name].take() {
                    Value::Null => String::new(),
                    value => value.as_str().unwrap().to_owned(),
                };
                let (event, id) = (text("event"), text("id"));
                Frame { event, id, data: frame["data"].take() }
            }
            other => panic!("{other:?}"),
        }
    }

    /// The next frame, which has this event.
    pub(crate) async fn take(&mut self, event: &str) -> Frame {
        let frame = self.next().await;
        assert_eq!(frame.event, event, "{frame:?}");
        frame
    }

    /// Subscribes; returns the position of the answer.
    pub(crate) async fn subscribe(&mut self, frame: &Value) -> String {
        self.send(frame).await;
        let ready = self.take("ready").await;
        assert_eq!(ready.data["topics"], frame["subscribe"]);
        ready.id
    }

    /// Reads for a while, in which no frame comes but positions, and pings are answered.
    pub(crate) async fn idle(&mut self, time: Duration) {
        let idle = async {
            loop {
                assert_eq!(self.any().await.event, "heartbeat");
            }
        };
        let _never: Result<(), _> = tokio::time::timeout(time, idle).await;
    }

    /// The code and the field of the next frame, an error.
    pub(crate) async fn error(&mut self) -> (String, String) {
        let error = self.take("error").await;
        assert!(error.data["message"].is_string(), "{error:?}");
        let text = |name: &str| error.data[name].as_str().unwrap_or_default().to_owned();
        (text("code"), text("field"))
    }

    /// The code of the end, behind these events.
    pub(crate) async fn end(&mut self) -> u16 {
        match self.message().await {
            Some(Ok(Message::Close(Some(CloseFrame { code, .. })))) => code.into(),
            other => panic!("{other:?}"),
        }
    }
}
