//! A TCP proxy before Postgres that parses enough of the protocol to cut a connection at a chosen point.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

const STARTUP_V3: [u8; 4] = [0, 3, 0, 0];
const QUERY: u8 = b'Q';
const PARSE: u8 = b'P';
const BIND: u8 = b'B';
const SYNC: u8 = b'S';
const COPY_DATA: u8 = b'd';

/// The way in which a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Closed in the middle of the COPY: the server has some of the rows.
    MidCopy,
    /// Closed after the COMMIT of a COPY was forwarded; the answer is not passed back.
    AfterCommit,
    /// Like a network that drops packets: the COMMIT of a COPY and everything after it are dropped in both directions, without
    /// a close.
    HangAtCommit,
    /// Closed after the commit of a change of streams was forwarded, which may be a statement's own; the answer is not passed back.
    AfterStreams,
}

/// Closes its connections when it is dropped.
pub(crate) struct Proxy {
    url: String,
    plan: Arc<Mutex<Plan>>,
    cut_all: watch::Sender<()>,
    listener: AbortHandle,
}

#[derive(Default)]
struct Plan {
    cut: Option<Cut>,
    /// Connections still to be cut.
    left: u32,
    done: u32,
}

impl Plan {
    fn take(&mut self, cut: Cut) -> bool {
        let due = self.cut == Some(cut) && self.left > 0;
        if due {
            self.left -= 1;
            self.done += 1;
        }
        due
    }
}

impl Proxy {
    /// A proxy before the server of `url`, by TCP.
    pub(crate) async fn before(url: &str) -> Self {
        let (head, rest) = url.rsplit_once('@').unwrap();
        let (server, database) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{head}@{}/{database}", listener.local_addr().unwrap());
        let (plan, (cut_all, cut)) = (Arc::<Mutex<Plan>>::default(), watch::channel(()));
        let accepting = tokio::spawn({
            let (plan, server) = (Arc::clone(&plan), server.to_owned());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let (plan, server, mut cut) = (Arc::clone(&plan), server.clone(), cut.clone());
                    cut.mark_unchanged();
                    tokio::spawn(async move {
                        tokio::select! {
                            () = forward(client, &server, &plan) => {}
                            _ = cut.changed() => {}
                        }
                    });
                }
            }
        });
        Self { url, plan, cut_all, listener: accepting.abort_handle() }
    }

    /// The URL through the proxy.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Cuts the next `times` connections at this point.
    pub(crate) fn arm(&self, cut: Cut, times: u32) {
        *self.plan.lock().unwrap() = Plan { cut: Some(cut), left: times, done: 0 };
    }

    /// The number of cuts since then.
    pub(crate) fn done(&self) -> u32 {
        self.plan.lock().unwrap().done
    }

    /// Cuts all connections.
    pub(crate) fn cut_all(&self) {
        self.cut_all.send_replace(());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.cut_all();
    }
}

async fn forward(client: TcpStream, server: &str, plan: &Mutex<Plan>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mute, muted) = oneshot::channel::<()>();
    let answers = tokio::spawn(async move {
        tokio::select! {
            _ended = tokio::io::copy(&mut from_server, &mut to_client) => return,
            _ = muted => {}
        }
        drop(to_client);
        // Up to the server's end: a connection that is closed with unread bytes is reset.
        let _ended = tokio::io::copy(&mut from_server, &mut tokio::io::sink()).await;
    });
    let stop = answers.abort_handle();
    match watch_messages(&mut from_client, &mut to_server, plan).await {
        Some(Cut::MidCopy) | None => stop.abort(),
        Some(Cut::AfterCommit | Cut::AfterStreams) => {
            drop((mute, from_client));
            // The server reads the COMMIT before the close: a reset could overtake it.
            let _closed = to_server.shutdown().await;
            let _ended = answers.await;
        }
        Some(Cut::HangAtCommit) => {
            stop.abort();
            // Held open until the proxy is dropped; nothing is read.
            std::future::pending::<()>().await;
        }
    }
}

/// Forwards messages until one is due to be cut at, or either side ends.
async fn watch_messages(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    plan: &Mutex<Plan>,
) -> Option<Cut> {
    let (mut is_started, mut has_copied) = (false, false);
    let mut streams = StreamChanges::default();
    let mut message = Vec::new();
    loop {
        message.clear();
        // Messages before the protocol's version have no kind.
        let head = if is_started { 5 } else { 4 };
        message.resize(head, 0);
        from.read_exact(&mut message).await.ok()?;
        let kind = if is_started { message[0] } else { 0 };
        let length = u32::from_be_bytes(message[head - 4..].try_into().unwrap()) as usize;
        message.resize(head - 4 + length, 0);
        from.read_exact(&mut message[head..]).await.ok()?;
        if !is_started {
            is_started = message[4..8] == STARTUP_V3;
        }
        if kind == COPY_DATA && plan.lock().unwrap().take(Cut::MidCopy) {
            let half = message.len() / 2;
            to.write_all(&message[..half]).await.ok()?;
            return Some(Cut::MidCopy);
        }
        has_copied |= kind == COPY_DATA;
        let commits = kind == QUERY && message[5..].to_ascii_uppercase().starts_with(b"COMMIT");
        if commits && has_copied && plan.lock().unwrap().take(Cut::HangAtCommit) {
            return Some(Cut::HangAtCommit);
        }
        let changes_streams = is_started && streams.commit(kind, &message);
        to.write_all(&message).await.ok()?;
        if changes_streams && plan.lock().unwrap().take(Cut::AfterStreams) {
            return Some(Cut::AfterStreams);
        }
        if commits && has_copied && plan.lock().unwrap().take(Cut::AfterCommit) {
            return Some(Cut::AfterCommit);
        }
        has_copied &= !commits;
    }
}

/// The changes of streams on a connection.
#[derive(Default)]
struct StreamChanges {
    /// Prepared statements that change streams.
    statements: HashSet<Vec<u8>>,
    is_in_transaction: bool,
    has_changed: bool,
}

impl StreamChanges {
    /// Whether a message commits a change.
    fn commit(&mut self, kind: u8, message: &[u8]) -> bool {
        let mut texts = message[5..].split(|byte| *byte == 0);
        let mut next = || texts.next().unwrap_or_default().to_vec();
        match kind {
            PARSE => {
                let (name, sql) = (next(), String::from_utf8_lossy(&next()).to_ascii_lowercase());
                let changes = ["insert into", "update"].iter().any(|verb| {
                    let tables = ["streams", "stream_chunks"];
                    tables.iter().any(|table| {
                        let after = sql.split(verb).skip(1).filter_map(|rest| rest.split_whitespace().next());
                        after
                            .map(|name| name.rsplit('.').next().unwrap_or_default())
                            .any(|name| name.trim_matches('"') == *table)
                    })
                });
                if changes {
                    self.statements.insert(name);
                } else {
                    self.statements.remove(&name);
                }
            }
            BIND => {
                let (_portal, name) = (next(), next());
                self.has_changed |= self.statements.contains(&name);
            }
            QUERY => {
                let sql = next().to_ascii_lowercase();
                self.is_in_transaction |= sql.starts_with(b"begin") || sql.starts_with(b"start transaction");
                if sql.starts_with(b"commit") || sql.starts_with(b"rollback") {
                    self.is_in_transaction = false;
                    return std::mem::take(&mut self.has_changed) && sql.starts_with(b"commit");
                }
            }
            SYNC if !self.is_in_transaction => return std::mem::take(&mut self.has_changed),
            _ => {}
        }
        false
    }
}
