//! A connection to an SMTP server for each mail.

use std::net::IpAddr;
use std::time::Duration;

use lettre::message::Message;
use lettre::transport::smtp::AsyncSmtpTransport;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncTransport, Tokio1Executor};

use super::MailError;
use crate::db::chain;

/// For a connection, and for each command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// The name that the service calls itself, unless the settings have another one.
const LOCAL_NAME: &str = "localhost";

/// How the service shows who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpAuth {
    /// `AUTH PLAIN`.
    Plain,
    /// `AUTH LOGIN`, which some servers have alone.
    Login,
}

/// A mail server. `Debug` leaves the password out.
#[derive(Clone)]
pub struct MailServer {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether the connection begins with TLS. Else TLS is used if the server offers it, and required before a password is sent, unless the
    /// server is on this machine.
    pub tls: bool,
    /// The user; empty: none.
    pub username: String,
    /// The user's password.
    pub password: String,
    /// How they are sent.
    pub auth: SmtpAuth,
    /// The name that the service calls itself; empty: `localhost`.
    pub local_name: String,
}

impl std::fmt::Debug for MailServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MailServer")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: MailError,
    /// Whether another attempt may succeed.
    pub(super) is_passing: bool,
}

impl Failure {
    pub(super) fn passing(reason: &str) -> Self {
        Self { error: MailError::Server(reason.to_owned()), is_passing: true }
    }

    pub(super) fn lasting(reason: String) -> Self {
        Self { error: MailError::Server(reason), is_passing: false }
    }
}

/// Answers that concern every mail: the service is not let in. Others with a 5 concern one mail.
const NOT_LET_IN: [&str; 4] = ["530", "534", "535", "538"];

impl From<lettre::transport::smtp::Error> for Failure {
    fn from(error: lettre::transport::smtp::Error) -> Self {
        let reason = chain(&error);
        let is_of_all = error.status().is_none_or(|code| NOT_LET_IN.contains(&code.to_string().as_str()));
        match error.is_permanent() && !is_of_all {
            true => Self { error: MailError::Refused(reason), is_passing: false },
            false => Self { is_passing: !error.is_permanent(), ..Self::lasting(reason) },
        }
    }
}

impl MailServer {
    fn is_local(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, Failure> {
        let parameters = TlsParameters::builder(self.host.clone()).build_rustls()?;
        let tls = match (self.tls, self.username.is_empty() || self.is_local()) {
            (true, _) => Tls::Wrapper(parameters),
            (false, false) => Tls::Required(parameters),
            (false, true) => Tls::Opportunistic(parameters),
        };
        let name = Some(self.local_name.as_str()).filter(|name| !name.is_empty()).unwrap_or(LOCAL_NAME);
        let name = match name.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => ClientId::Ipv4(address),
            Ok(IpAddr::V6(address)) => ClientId::Ipv6(address),
            Err(_) => ClientId::Domain(name.to_owned()),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(self.host.clone())
            .port(self.port)
            .tls(tls)
            .hello_name(name)
            .timeout(Some(COMMAND_TIMEOUT));
        if !self.username.is_empty() {
            let mechanism = match self.auth {
                SmtpAuth::Plain => Mechanism::Plain,
                SmtpAuth::Login => Mechanism::Login,
            };
            let credentials = Credentials::new(self.username.clone(), self.password.clone());
            builder = builder.credentials(credentials).authentication(vec![mechanism]);
        }
        Ok(builder.build())
    }

    /// Sends a mail over a connection of its own.
    pub(super) async fn send(&self, message: Message) -> Result<(), Failure> {
        let server = self.clone();
        // The system's certificates are read from files.
        let transport = tokio::task::spawn_blocking(move || server.transport()).await;
        let transport = transport.map_err(|error| Failure::lasting(error.to_string()))??;
        transport.send(message).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_this_machine_is_known_and_passwords_are_not_printed() {
        let server = |host: &str| MailServer {
            host: host.into(),
            port: 25,
            tls: false,
            username: "u".into(),
            password: "hunter2".into(),
            auth: SmtpAuth::Plain,
            local_name: String::new(),
        };
        for (host, expected) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("mail.example.com", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(server(host).is_local(), expected, "{host}");
            assert!(server(host).transport().is_ok(), "{host}");
        }
        assert!(!format!("{:?}", server("localhost")).contains("hunter2"));
    }
}
