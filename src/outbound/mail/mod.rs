//! Mails: to an SMTP server, or without one to files.
//!
//! [`Mailer::begin`] puts a mail into a queue that is bounded in mails and bytes, and never waits; the task `mailer` sends up to `MAX_SENDING`
//! at once, each within a limit of time. What is queued is in memory: a stop of the service loses it, and its users ask again.
//!
//! A server that cannot be reached, or that rejects every mail, is a failure of the task: it is logged once, and `/api/health` reports it. A mail
//! that the server refuses, as its recipient is unknown, is one of the mail.

mod folder;
mod smtp;
mod text;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use lettre::message::{Mailbox, Message, MultiPart};
use lettre::{Address, address::AddressError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use uuid::Uuid;

use crate::observe::Metrics;
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};
use folder::MailFolder;
pub use smtp::{MailServer, SmtpAuth};

/// Mails that wait.
const MAX_QUEUED: usize = 1_000;
/// Bytes of the mails that wait or are sent.
const MAX_QUEUED_BYTES: usize = 16 << 20;
/// Mails that are sent at once.
const MAX_SENDING: usize = 8;
/// The limit of one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// The waits before further attempts of mails whose outcome is not awaited: a server may ask for later attempts (greylisting).
const RETRY_WAITS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(30)];
/// The interval between log lines about refused mails.
const REFUSED_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The name of its sender.
    pub sender_name: String,
    /// The address of its sender.
    pub sender: String,
    /// The address of its recipient.
    pub recipient: String,
    /// The subject, on one line.
    pub subject: String,
    /// The document.
    pub html: String,
}

/// A mail that was not sent.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MailError {
    /// Too many wait.
    #[error("too many mails wait to be sent")]
    Full,
    /// An address or a header is malformed.
    #[error("the mail is malformed: {0}")]
    Malformed(String),
    /// The server refuses this mail.
    #[error("the mail server refuses the mail: {0}")]
    Refused(String),
    /// The server cannot be reached, or sends no mails of this service.
    #[error("the mail server: {0}")]
    Server(String),
    /// The service stops.
    #[error("the service stops")]
    Stopping,
}

impl MailError {
    fn outcome(&self) -> &'static str {
        match self {
            Self::Full => "dropped",
            Self::Malformed(_) | Self::Refused(_) => "refused",
            Self::Server(_) | Self::Stopping => "failed",
        }
    }
}

impl From<AddressError> for MailError {
    fn from(error: AddressError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl Mail {
    fn message(&self) -> Result<Message, MailError> {
        let sender: Address = self.sender.parse()?;
        let id = format!("<{}@{}>", Uuid::new_v4(), sender.domain());
        let name = Some(self.sender_name.clone()).filter(|name| !name.is_empty());
        Message::builder()
            .from(Mailbox::new(name, sender))
            .to(Mailbox::new(None, self.recipient.parse()?))
            .subject(self.subject.replace(['\r', '\n'], " "))
            .message_id(Some(id))
            .multipart(MultiPart::alternative_plain_html(text::of_html(&self.html), self.html.clone()))
            .map_err(|error| MailError::Malformed(error.to_string()))
    }

    fn bytes(&self) -> usize {
        // The document is there as text too.
        self.subject.len() + self.recipient.len() + 2 * self.html.len() + 1_024
    }
}

/// The outcome of a mail, later. To drop it is no harm.
#[derive(Debug)]
pub struct PendingMail(oneshot::Receiver<Result<(), MailError>>);

impl PendingMail {
    /// Waits until the mail is sent.
    ///
    /// # Errors
    ///
    /// [`MailError`].
    pub async fn sent(self) -> Result<(), MailError> {
        self.0.await.unwrap_or(Err(MailError::Stopping))
    }
}

/// Whether a mail that failed is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempts {
    /// No: a client waits for the outcome.
    One,
    /// Twice, after some seconds, if the failure may pass.
    Three,
}

struct Job {
    mail: Mail,
    /// `None`: it goes to a file.
    server: Option<MailServer>,
    attempts: Attempts,
    reply: oneshot::Sender<Result<(), MailError>>,
    _bytes: OwnedSemaphorePermit,
}

/// Sends mails; cheap to clone.
#[derive(Debug, Clone)]
pub struct Mailer {
    jobs: async_channel::Sender<Job>,
    bytes: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Mailer {
    /// Starts the task `mailer`; without a server mails go to files in `folder`.
    pub fn start(folder: PathBuf, metrics: &Arc<Metrics>, supervisor: &Supervisor) -> Self {
        let (sender, jobs) = async_channel::bounded(MAX_QUEUED);
        let task = MailTask {
            jobs,
            folder: MailFolder::new(folder),
            metrics: Arc::clone(metrics),
            sending: FuturesUnordered::new(),
            refused_logged: None,
        };
        supervisor.periodic("mailer", Duration::ZERO, Backoff::fixed(Duration::ZERO), task);
        Self { jobs: sender, bytes: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)), metrics: Arc::clone(metrics) }
    }

    /// Queues a mail for a server, or without one for a file.
    ///
    /// # Errors
    ///
    /// [`MailError::Full`].
    pub fn begin(
        &self,
        server: Option<MailServer>,
        mail: Mail,
        attempts: Attempts,
    ) -> Result<PendingMail, MailError> {
        let queued = u32::try_from(mail.bytes())
            .ok()
            .and_then(|bytes| Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok())
            .and_then(|permit| {
                let (reply, outcome) = oneshot::channel();
                let job = Job { mail, server, attempts, reply, _bytes: permit };
                self.jobs.try_send(job).is_ok().then_some(PendingMail(outcome))
            });
        queued.ok_or_else(|| {
            self.metrics.mails.with_label_values(&[MailError::Full.outcome()]).inc();
            MailError::Full
        })
    }

    /// Mails that wait to be sent.
    pub fn waiting(&self) -> usize {
        self.jobs.len()
    }
}

/// The outcome of a mail, and who waits for it.
type Delivered = (Result<(), MailError>, oneshot::Sender<Result<(), MailError>>);

struct MailTask {
    jobs: async_channel::Receiver<Job>,
    folder: MailFolder,
    metrics: Arc<Metrics>,
    sending: FuturesUnordered<BoxFuture<'static, Delivered>>,
    refused_logged: Option<Instant>,
}

impl Step for MailTask {
    /// Starts mails until one is done.
    async fn step(&mut self) -> Result<Next, StepError> {
        let (done, reply) = loop {
            tokio::select! {
                Some(done) = self.sending.next(), if !self.sending.is_empty() => break done,
                job = self.jobs.recv(), if self.sending.len() < MAX_SENDING => match job {
                    Ok(job) => self.sending.push(Box::pin(deliver(job, self.folder.clone()))),
                    // The service has dropped its handle: it stops.
                    Err(_closed) => return Ok(Next::After(Duration::from_secs(1))),
                },
            }
        };
        let outcome = done.as_ref().err().map_or("sent", MailError::outcome);
        self.metrics.mails.with_label_values(&[outcome]).inc();
        // A caller that has gone wants no answer.
        let _ignored = reply.send(done.clone());
        match done {
            Err(MailError::Server(reason)) => Err(StepError::new(reason)),
            Err(error @ (MailError::Refused(_) | MailError::Malformed(_))) => {
                let is_due = self.refused_logged.is_none_or(|at| at.elapsed() >= REFUSED_LOG_INTERVAL);
                if is_due {
                    self.refused_logged = Some(Instant::now());
                    tracing::warn!(
                        error = error.to_string(),
                        "a mail was refused; further ones are only counted for a minute"
                    );
                }
                Ok(Next::Interval)
            }
            _ => Ok(Next::Interval),
        }
    }

    fn recover(&mut self) {
        self.sending = FuturesUnordered::new();
    }
}

/// Sends a mail, in several attempts if it may wait for them.
async fn deliver(job: Job, folder: MailFolder) -> Delivered {
    let mut waits = match job.attempts {
        Attempts::One => [].iter(),
        Attempts::Three => RETRY_WAITS.iter(),
    };
    let done = match job.mail.message() {
        Err(error) => Err(error),
        Ok(message) => loop {
            let attempt = async {
                match &job.server {
                    None => folder.write(message.formatted()).await,
                    Some(server) => server.send(message.clone()).await,
                }
            };
            let done = match tokio::time::timeout(ATTEMPT_TIMEOUT, attempt).await {
                Ok(done) => done,
                Err(_elapsed) => Err(smtp::Failure::passing("no answer in time")),
            };
            match done {
                Ok(()) => break Ok(()),
                Err(failure) => match waits.next().filter(|_| failure.is_passing) {
                    Some(wait) => tokio::time::sleep(*wait).await,
                    None => break Err(failure.error),
                },
            }
        },
    };
    (done, job.reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail() -> Mail {
        Mail {
            sender_name: "Tide, \"gate\" é".into(),
            sender: "support@example.com".into(),
            recipient: "ada@example.com".into(),
            subject: "Höllo\r\nBcc: eve@example.com".into(),
            html: "<p>Hi <b>Ada</b></p>".into(),
        }
    }

    #[test]
    fn a_mail_has_text_and_html_and_no_header_of_its_subject() {
        let text = String::from_utf8(mail().message().unwrap().formatted()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        for name in [
            "From: ",
            "To: ada@example.com",
            "Subject: ",
            "Date: ",
            "Message-ID: <",
            "Content-Type: multipart/alternative",
        ] {
            assert!(head.lines().any(|line| line.starts_with(name)), "{name}: {head}");
        }
        assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
        assert!(body.contains("Hi Ada") && body.contains("<b>Ada</b>"), "{body}");
    }

    #[test]
    fn malformed_addresses_are_no_mail() {
        for bad in ["", "ada", "a b@example.com", "a@b\r\nBcc: c@d.e"] {
            let mail = Mail { recipient: bad.into(), ..mail() };
            assert!(matches!(mail.message(), Err(MailError::Malformed(_))), "{bad}");
        }
    }
}
