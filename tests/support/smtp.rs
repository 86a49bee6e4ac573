//! A small SMTP server, which keeps the mails that it gets.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A mail as it came.
#[derive(Debug, Clone)]
pub(crate) struct ReceivedMail {
    pub(crate) to: String,
    /// The credentials of `AUTH`, as they were sent.
    pub(crate) auth: String,
    /// Head and body, without the quoted-printable encoding.
    pub(crate) text: String,
}

/// What the server does with mails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Takes them.
    Takes,
    /// Answers recipients with 550.
    RefusesRecipients,
    /// Answers the first one with 451, and takes it then.
    IsBusyOnce,
    /// Answers with 535 to credentials.
    RefusesCredentials,
    /// Accepts connections, and says nothing.
    IsSilent,
}

#[derive(Debug)]
struct State {
    mails: Vec<ReceivedMail>,
    manner: Manner,
}

/// The server; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct SmtpServer {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

impl SmtpServer {
    pub(crate) async fn start(manner: Manner) -> Self {
        Self::start_with(manner, None).await
    }

    /// A server whose connections begin with TLS, if it has a certificate.
    pub(crate) async fn start_with(manner: Manner, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State { mails: Vec::new(), manner }));
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&state);
        tasks.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                sessions.spawn(async move {
                    let _gone = match tls {
                        None => session(socket, &state).await,
                        Some(tls) => match tls.accept(socket).await {
                            Ok(stream) => session(stream, &state).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        Self { port, state, _tasks: tasks }
    }

    /// The settings that name it.
    pub(crate) fn settings(&self) -> serde_json::Value {
        serde_json::json!({"smtp": {"enabled": true, "host": "127.0.0.1", "port": self.port}})
    }

    pub(crate) fn become_of(&self, manner: Manner) {
        self.state.lock().manner = manner;
    }

    /// The mails to an address so far.
    pub(crate) fn to(&self, address: &str) -> Vec<ReceivedMail> {
        self.state.lock().mails.iter().filter(|mail| mail.to == address).cloned().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.state.lock().mails.len()
    }
}

async fn session(stream: impl AsyncRead + AsyncWrite + Unpin, state: &Mutex<State>) -> std::io::Result<()> {
    let manner = state.lock().manner;
    let (reader, mut writer) = tokio::io::split(stream);
    let mut lines = BufReader::new(reader).lines();
    if manner == Manner::IsSilent {
        while lines.next_line().await?.is_some() {}
        return Ok(());
    }
    writer.write_all(b"220 test ESMTP\r\n").await?;
    writer.flush().await?;
    let (mut to, mut auth) = (String::new(), String::new());
    while let Some(line) = lines.next_line().await? {
        let verb = line.get(..4).unwrap_or_default().to_uppercase();
        let answer = match verb.as_str() {
            "EHLO" => "250-test\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN\r\n".to_owned(),
            "AUTH" if manner == Manner::RefusesCredentials => "535 no\r\n".to_owned(),
            "AUTH" => {
                auth = line;
                "235 yes\r\n".to_owned()
            }
            "RCPT" if manner == Manner::RefusesRecipients => "550 nobody here\r\n".to_owned(),
            "RCPT" if state.lock().manner == Manner::IsBusyOnce => {
                state.lock().manner = Manner::Takes;
                "451 try again\r\n".to_owned()
            }
            "RCPT" => {
                to = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                "250 ok\r\n".to_owned()
            }
            "DATA" => {
                writer.write_all(b"354 go on\r\n").await?;
                writer.flush().await?;
                let mut text = String::new();
                while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
                    text.push_str(line.strip_prefix('.').unwrap_or(&line));
                    text.push('\n');
                }
                let mail = ReceivedMail { to: to.clone(), auth: auth.clone(), text: decoded(&text) };
                state.lock().mails.push(mail);
                "250 ok\r\n".to_owned()
            }
            "QUIT" => "221 bye\r\n".to_owned(),
            _ => "250 ok\r\n".to_owned(),
        };
        writer.write_all(answer.as_bytes()).await?;
        writer.flush().await?;
    }
    Ok(())
}

/// Text without quoted-printable's line ends and codes.
fn decoded(text: &str) -> String {
    let text = text.replace("=\n", "");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let code =
            behind.get(..2).and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match code.filter(|_| *first == b'=') {
            Some(code) => {
                bytes.push(code);
                rest = &behind[2..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
