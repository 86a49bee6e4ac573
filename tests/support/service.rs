//! The program as a process, and an HTTP client for it.

use std::collections::BTreeMap;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The time limit of [`eventually`]: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// At least the threads that serve HTTP.
const HTTP_THREADS: usize = 8;

/// A running `tidegate serve`. It is killed with its value.
pub(crate) struct Service {
    child: Child,
    pub(crate) address: String,
    log: Arc<Mutex<String>>,
    /// Reads the log to its end.
    reader: JoinHandle<()>,
    _data: Folder,
}

/// A folder of its own, removed with its value.
pub(crate) struct Folder(String);

impl Folder {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-test-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        Self(path.to_str().unwrap().to_owned())
    }

    pub(crate) fn path(&self) -> &str {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The status and log of an ended process.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) log: String,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The error's code; asserts the envelope.
    pub(crate) fn error_code(&self) -> String {
        let json = self.json();
        assert!(json["error"]["message"].is_string(), "{json}");
        json["error"]["code"].as_str().unwrap().to_owned()
    }
}

/// The program with an environment of its own, except for a few variables such as `PATH`.
pub(crate) fn program(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let kept = ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE"];
    command
        .args(arguments)
        .env_clear()
        .envs(std::env::vars().filter(|(name, _)| kept.contains(&name.as_str())))
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// A connection of which the kernel keeps little on either side, so that a client that does not read is noticed soon.
pub(crate) async fn narrow(address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    SockRef::from(&socket).set_tcp_mss(536).unwrap();
    socket.connect(address.parse().unwrap()).await.unwrap()
}

/// Runs the program to its end.
pub(crate) async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (ExitStatus, String, String) {
    let data = Folder::new();
    let mut all = BTreeMap::from([("DATA_DIR", data.path()), ("JOURNAL_MAX_BYTES", "33554432")]);
    all.extend(variables.iter().copied());
    let all: Vec<_> = all.into_iter().collect();
    let output = program(arguments, &all).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status, text(output.stdout), text(output.stderr))
}

/// One request on a connection of its own to the service at `address`.
///
/// # Errors
///
/// It does not answer, or not to the end.
pub(crate) async fn try_request(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Answer, String> {
    let broken = |error: hyper::Error| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let driver = tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response =
        sender.send_request(request.body(Full::new(body.into())).unwrap()).await.map_err(broken)?;
    let (head, incoming) = response.into_parts();
    let body = incoming.collect().await.map_err(broken)?.to_bytes();
    driver.abort();
    Ok(Answer { status: head.status, headers: head.headers, body })
}

impl Service {
    /// Starts a service on `database_url` and waits until it accepts events.
    pub(crate) async fn start(database_url: &str, variables: &[(&str, &str)]) -> Self {
        let mut all = BTreeMap::from([("DATABASE_URL", database_url)]);
        all.extend(variables.iter().copied());
        let all: Vec<_> = all.into_iter().collect();
        Self::start_with(&all).await
    }

    /// Starts a service with exactly these variables and waits until it accepts events.
    pub(crate) async fn start_with(variables: &[(&str, &str)]) -> Self {
        Self::start_as(&["serve"], variables).await
    }

    /// As [`Self::start_with`], with these arguments.
    pub(crate) async fn start_as(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::spawn_as(arguments, variables).await.up().await
    }

    /// Waits until it accepts events.
    async fn up(mut self) -> Self {
        let deadline = Instant::now() + START_TIMEOUT;
        self.address = poll("it is up", Duration::from_millis(10), 2 * START_TIMEOUT, async || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "ended with {ended:?}: {}", self.log());
            assert!(Instant::now() < deadline, "not up: {}", self.log());
            self.logged("listening on http://")
        })
        .await;
        self
    }

    /// Starts a service without waiting.
    pub(crate) async fn spawn(variables: &[(&str, &str)]) -> Self {
        Self::spawn_as(&["serve"], variables).await
    }

    /// Starts a service with a limit of open files.
    pub(crate) async fn start_limited(
        descriptors: u32,
        database_url: &str,
        variables: &[(&str, &str)],
    ) -> Self {
        let mut all = BTreeMap::from([("DATABASE_URL", database_url)]);
        all.extend(variables.iter().copied());
        let all: Vec<_> = all.into_iter().collect();
        Self::spawn_limited(Some(descriptors), &["serve"], &all).await.up().await
    }

    async fn spawn_as(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::spawn_limited(None, arguments, variables).await
    }

    async fn spawn_limited(descriptors: Option<u32>, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        // Small segments, as each service begins with one.
        let data = Folder::new();
        let mut all = BTreeMap::from([
            ("PORT", "0"),
            ("LOG_FORMAT", "json"),
            ("DATA_DIR", data.path()),
            ("JOURNAL_MAX_BYTES", "33554432"),
            ("JOURNAL_MIN_FREE", "0"),
        ]);
        all.extend(variables.iter().copied());
        let all: Vec<_> = all.into_iter().collect();
        let mut command = program(arguments, &all);
        if let Some(descriptors) = descriptors {
            let plain = command.as_std();
            let mut limited = Command::new("sh");
            limited
                .args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")])
                .arg(plain.get_program())
                .args(plain.get_args())
                .env_clear()
                .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
                .stdin(Stdio::null())
                .kill_on_drop(true);
            command = limited;
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let reader = tokio::spawn({
            let log = Arc::clone(&log);
            async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    let mut log = log.lock().unwrap();
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        Self { child, address: String::new(), log, reader, _data: data }
    }

    /// The text after `text` in the log, up to the next quote or space.
    pub(crate) fn logged(&self, text: &str) -> Option<String> {
        let log = self.log.lock().unwrap();
        let (_, rest) = log.split_once(text)?;
        Some(rest.split(['"', ' ', '\n']).next().unwrap_or_default().to_owned())
    }

    /// The port of the process's only listening socket, from the kernel.
    pub(crate) fn listening_port(&self) -> Option<u16> {
        let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .ok()?
            .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
            .filter_map(|link| {
                Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned())
            })
            .collect();
        let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
        table.lines().skip(1).find_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let listens = columns[3] == "0A" && sockets.iter().any(|socket| socket == columns[9]);
            listens.then(|| u16::from_str_radix(columns[1].rsplit(':').next().unwrap(), 16).unwrap())
        })
    }

    /// The same service at another address.
    pub(crate) fn at(mut self, address: &str) -> Self {
        self.address = address.to_owned();
        self
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).unwrap();
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn stop(self) -> Ended {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Waits for the end.
    pub(crate) async fn ended(mut self) -> Ended {
        let status = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await.unwrap().unwrap();
        // The last lines are still in the pipe, which a server that outlives the service may hold open.
        let _read = tokio::time::timeout(Duration::from_secs(2), &mut self.reader).await;
        Ended { status, log: self.log() }
    }

    /// One request on a connection of its own.
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        try_request(&self.address, method, path, headers, body).await.expect("the service answers")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], "").await
    }

    /// Posts one event.
    pub(crate) async fn post(&self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        self.request("POST", "/api/v1/events", headers, body).await
    }

    /// Posts a batch.
    pub(crate) async fn post_batch(&self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        self.request("POST", "/api/v1/events/batch", headers, body).await
    }

    /// Sends raw bytes and reads until the other side closes, or for `patience`.
    pub(crate) async fn raw(&self, bytes: &[u8], patience: Duration) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        // The service may answer and close before all is written.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(patience, stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(crate) async fn health(&self) -> Value {
        self.get("/api/health").await.json()
    }

    /// Waits until the service has begun a request on each of `requests` open connections.
    pub(crate) async fn has_begun(&self, requests: usize) {
        eventually("the requests have begun", async || {
            // Connections go to the threads in turn, so each of these is answered behind the requests of one thread.
            for _ in 0..HTTP_THREADS {
                let open = self.health().await["http"]["connections"].as_u64().unwrap();
                if open <= requests as u64 {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// Sends each request when those before it have begun, while `others` are open; then runs `release`. Returns the answers.
    pub(crate) async fn in_turn<T>(
        &self,
        others: usize,
        requests: impl IntoIterator<Item = impl Future<Output = T>>,
        release: impl Future<Output = ()>,
    ) -> Vec<T> {
        let (turn, turns) = watch::channel(0);
        let answers: Vec<_> = (1..)
            .zip(requests)
            .map(|(number, request)| {
                let mut turns = turns.clone();
                async move {
                    turns.wait_for(|turn| *turn >= number).await.unwrap();
                    request.await
                }
            })
            .collect();
        let count = answers.len();
        let sending = async {
            for number in 1..=count {
                turn.send_replace(number);
                self.has_begun(others + number).await;
            }
            release.await;
        };
        futures_util::future::join(futures_util::future::join_all(answers), sending).await.0
    }

    /// The time of a periodic task's last success, asked with a token unless it is empty.
    async fn last_success(&self, task: &str, token: &str) -> Option<u64> {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let headers = if token.is_empty() { &[][..] } else { &headers };
        let health = self.request("GET", "/api/health", headers, "").await.json();
        let task = health["tasks"].as_array()?.iter().find(|one| one["name"] == task)?;
        task["last_success_ms"].as_u64()
    }

    /// Waits until a periodic task has succeeded once.
    pub(crate) async fn has_run(&self, task: &str, token: &str) {
        eventually(&format!("{task} has run"), async || self.last_success(task, token).await).await;
    }

    /// Waits until a step of a periodic task has begun and succeeded.
    pub(crate) async fn runs(&self, task: &str, token: &str) {
        // The first one may have begun before.
        for _ in 0..2 {
            let last = self.last_success(task, token).await;
            eventually(&format!("{task} runs"), async || {
                (self.last_success(task, token).await > last).then_some(())
            })
            .await;
        }
    }

    /// Waits until no accepted event is pending.
    pub(crate) async fn settled(&self) -> Value {
        eventually("everything is settled", async || {
            let health = self.health().await;
            (health["pending"] == 0 && health["dead_letter_queue"]["events"] == 0).then_some(health)
        })
        .await
    }

    /// Waits until all events accepted by this process are settled and checkpointed: Postgres cannot lose them any more.
    pub(crate) async fn fenced(&self) -> Value {
        eventually("everything is fenced", async || {
            let health = self.health().await;
            let ledger = &health["journal"]["ledger"];
            let is_fenced = health["pending"] == 0
                && health["queue"]["events"] == 0
                && ledger["pending"] == 0
                && ledger["accepted"].as_u64() >= health["accepted"].as_u64();
            is_fenced.then_some(health)
        })
        .await
    }

    /// The process's resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
    }
}

/// A process that is killed writes no coverage profile, so under `cargo llvm-cov` it gets a moment to end by itself.
impl Drop for Service {
    fn drop(&mut self) {
        if std::env::var_os("LLVM_PROFILE_FILE").is_none() || self.child.id().is_none() {
            return;
        }
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(3);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Repeats `look` until it returns a value.
pub(crate) async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    poll(what, Duration::from_millis(20), PATIENCE, look).await
}

/// As [`eventually`], with another pause and time limit. No other test code sleeps to wait for a state.
pub(crate) async fn poll<T>(
    what: &str,
    pause: Duration,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(pause).await;
    }
}
