//! The connection URL, in libpq's format.
//!
//! tokio-postgres parses the address; the parameters are parsed here, as the driver knows half of libpq's. A parameter without
//! effect on this service is ignored. One that the driver cannot honour, and that would change the meaning, is rejected by
//! name: a connection that is less strict than requested would be worse than none.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use rustls::SupportedProtocolVersion;
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, Host, SslMode, SslNegotiation, TargetSessionAttrs};

/// The extent to which the server's certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verification {
    /// Encrypted only: `prefer` and `require`, as in libpq.
    None,
    /// Signed by a trusted root: `verify-ca`.
    Authority,
    /// Also issued for the host's name: `verify-full`.
    Full,
}

/// The trusted roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Roots {
    /// The roots of the operating system.
    System,
    /// The roots in a PEM file.
    File(PathBuf),
}

/// The service's client certificate, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// The URL's parameters for TLS.
#[derive(Debug, Clone)]
pub(crate) struct TlsOptions {
    pub(crate) verification: Verification,
    pub(crate) roots: Roots,
    pub(crate) identity: Option<Identity>,
    /// Whether the host's name is sent in the clear (SNI).
    pub(crate) sends_name: bool,
    pub(crate) versions: &'static [&'static SupportedProtocolVersion],
}

/// A parsed connection URL.
#[derive(Debug, Clone)]
pub struct ConnectionUrl {
    /// The hosts, in the order of attempts.
    pub(crate) hosts: Vec<Config>,
    /// Whether the order is random at each attempt.
    pub(crate) shuffles: bool,
    /// A pooler stands between that keeps no prepared statements.
    is_pooled: bool,
    pub(crate) tls: TlsOptions,
}

/// An error in a connection URL; never quotes a value, as it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme.
    #[error("it does not begin with postgres:// or postgresql://")]
    Scheme,
    /// An invalid value of a parameter.
    #[error("{0} takes {1}")]
    Value(&'static str, &'static str),
    /// A parameter with a meaning that the service cannot honour.
    #[error("{0} is not supported: {1}")]
    Unsupported(&'static str, &'static str),
    /// A parameter that libpq does not have. Its name may be the rest of a password, so its number is reported.
    #[error(
        "parameter {0} behind the ? is none that psql takes; a ?, & or @ in a password is written %3F, %26 or %40"
    )]
    Unknown(usize),
    /// The address is invalid.
    #[error("{0}")]
    Invalid(String),
}

/// The reason to reject a file or check of libpq's that is not supported.
const STRICTER: &str = "it would be less strict than you ask for";

static ONLY_TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
static ONLY_TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

const SWITCH: &str = "0 or 1";
const SECONDS: &str = "a whole number of seconds";

/// The parameters of a URL as given.
#[derive(Default)]
struct Parameters {
    hosts: Vec<Host>,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    user: Option<String>,
    password: Option<Vec<u8>>,
    dbname: Option<String>,
    options: Option<String>,
    application_name: Option<String>,
    fallback_name: Option<String>,
    ssl_mode: Option<(SslMode, Verification)>,
    negotiation: Option<SslNegotiation>,
    roots: Option<Roots>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    shows_certificate: Option<bool>,
    hides_name: bool,
    no_tls12: bool,
    no_tls13: bool,
    connect_timeout: Option<Duration>,
    user_timeout: Option<Duration>,
    keepalives: Option<bool>,
    idle: Option<Duration>,
    interval: Option<Duration>,
    retries: Option<u32>,
    binding: Option<ChannelBinding>,
    writable: bool,
    prefers_standby: bool,
    shuffles: bool,
    is_pooled: bool,
    password_file: bool,
}

impl ConnectionUrl {
    /// Whether statements may be prepared.
    pub fn prepares(&self) -> bool {
        !self.is_pooled
    }

    /// Parses a `postgres://` URL.
    ///
    /// # Errors
    ///
    /// [`UrlError`], which never quotes the URL.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(UrlError::Scheme);
        }
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let mut given = Parameters::default();
        let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
        for (number, parameter) in parameters.enumerate() {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let bytes: Vec<u8> = percent_decode_str(value).collect();
            let value = String::from_utf8_lossy(&bytes);
            if name == "password" {
                given.password = Some(bytes);
            } else if !given.read(name, &value)? {
                return Err(UrlError::Unknown(number + 1));
            }
        }
        given.build(address)
    }

    /// The URL's user.
    pub fn user(&self) -> Option<&str> {
        self.hosts.first()?.get_user()
    }

    /// The URL's database.
    pub fn dbname(&self) -> Option<&str> {
        self.hosts.first()?.get_dbname()
    }

    /// Hosts, ports and database for messages: no password.
    pub(crate) fn target(&self) -> String {
        let address = |config: &Config| {
            let port = config.get_ports().first().copied().unwrap_or(5432);
            match (config.get_hosts().first(), config.get_hostaddrs().first()) {
                (Some(Host::Tcp(host)), _) if host.contains(':') => format!("[{host}]:{port}"),
                (Some(Host::Tcp(host)), _) => format!("{host}:{port}"),
                #[cfg(unix)]
                (Some(Host::Unix(path)), _) => format!("{}/.s.PGSQL.{port}", path.display()),
                (None, Some(address)) => format!("{address}:{port}"),
                (None, None) => format!(":{port}"),
            }
        };
        let hosts: Vec<String> = self.hosts.iter().map(address).collect();
        let database = self.hosts.first().and_then(|host| host.get_dbname().or(host.get_user()));
        format!("{}, database {}", hosts.join(","), database.unwrap_or("of the user's name"))
    }
}

impl Parameters {
    /// Reads one parameter; returns false if its name is unknown.
    fn read(&mut self, name: &str, value: &str) -> Result<bool, UrlError> {
        match name {
            "host" => self.hosts = value.split(',').map(host).collect(),
            "hostaddr" => self.addresses = list(value, "hostaddr", "addresses, with commas between them")?,
            "port" => self.ports = list(value, "port", "port numbers, with commas between them")?,
            "user" => self.user = Some(value.into()),
            "dbname" => self.dbname = Some(value.into()),
            "options" => self.options = Some(value.into()),
            "application_name" => self.application_name = Some(value.into()),
            "fallback_application_name" => self.fallback_name = Some(value.into()),
            "passfile" => self.password_file = true,
            "client_encoding" => {
                let is_utf8 = ["utf8", "utf-8", "unicode", "auto"]
                    .iter()
                    .any(|known| value.eq_ignore_ascii_case(known));
                supported(is_utf8, "client_encoding", "everything here is UTF-8")?;
            }
            "connect_timeout" => self.connect_timeout = seconds(value, "connect_timeout")?,
            "tcp_user_timeout" => {
                let ms = number::<u64>(value, "tcp_user_timeout", "a whole number of milliseconds")?;
                self.user_timeout = (ms > 0).then(|| Duration::from_millis(ms));
            }
            "keepalives" => self.keepalives = Some(switch(value, "keepalives")?),
            "keepalives_idle" => self.idle = seconds(value, "keepalives_idle")?,
            "keepalives_interval" => self.interval = seconds(value, "keepalives_interval")?,
            "keepalives_count" => {
                let count = number::<u32>(value, "keepalives_count", "a whole number")?;
                self.retries = (count > 0).then_some(count);
            }
            "target_session_attrs" => self.session(value)?,
            "load_balance_hosts" => {
                self.shuffles = match value {
                    "disable" => false,
                    "random" => true,
                    _ => return Err(UrlError::Value("load_balance_hosts", "disable or random")),
                }
            }
            // Not libpq's: Prisma's, which several hosts write into the URL of their pooler.
            "pgbouncer" => {
                self.is_pooled = match value {
                    "true" => true,
                    "false" => false,
                    _ => return Err(UrlError::Value("pgbouncer", "true or false")),
                }
            }
            "channel_binding" => {
                self.binding = Some(match value {
                    "disable" => ChannelBinding::Disable,
                    "prefer" => ChannelBinding::Prefer,
                    "require" => ChannelBinding::Require,
                    _ => return Err(UrlError::Value("channel_binding", "disable, prefer or require")),
                });
            }
            // GSSAPI is not supported: its parameters have no effect, unless it is required.
            "gssencmode" => match value {
                "disable" | "prefer" => {}
                "require" => return Err(UrlError::Unsupported("gssencmode=require", "use sslmode")),
                _ => return Err(UrlError::Value("gssencmode", "disable, prefer or require")),
            },
            "krbsrvname" | "gsslib" => {}
            "gssdelegation" => supported(!switch(value, "gssdelegation")?, "gssdelegation", STRICTER)?,
            "replication" => {
                let is_off = matches!(value, "false" | "off" | "no" | "0");
                supported(is_off, "replication", "the service needs an ordinary connection")?;
            }
            "require_auth" => return Err(UrlError::Unsupported("require_auth", STRICTER)),
            "requirepeer" => return Err(UrlError::Unsupported("requirepeer", STRICTER)),
            "service" | "servicefile" => {
                return Err(UrlError::Unsupported("service", "write what the service file has into the URL"));
            }
            name => return self.read_tls(name, value),
        }
        Ok(true)
    }

    fn read_tls(&mut self, name: &str, value: &str) -> Result<bool, UrlError> {
        match name {
            "sslmode" => self.ssl_mode = Some(parse_ssl_mode(value)?),
            // JDBC's parameter; libpq accepts it too.
            "ssl" => {
                supported(value == "true", "ssl", "write sslmode instead")?;
                self.ssl_mode = Some((SslMode::Require, Verification::None));
            }
            "requiressl" => {
                if switch(value, "requiressl")? {
                    self.ssl_mode.get_or_insert((SslMode::Require, Verification::None));
                }
            }
            "sslnegotiation" => {
                self.negotiation = Some(match value {
                    "postgres" => SslNegotiation::Postgres,
                    "direct" => SslNegotiation::Direct,
                    _ => return Err(UrlError::Value("sslnegotiation", "postgres or direct")),
                });
            }
            "sslrootcert" if value == "system" => self.roots = Some(Roots::System),
            "sslrootcert" => self.roots = Some(Roots::File(value.into())),
            "sslcert" => self.certificate = Some(value.into()),
            "sslkey" => self.key = Some(value.into()),
            "sslcertmode" => {
                self.shows_certificate = match value {
                    "disable" => Some(false),
                    "allow" => None,
                    "require" => Some(true),
                    _ => return Err(UrlError::Value("sslcertmode", "disable, allow or require")),
                }
            }
            "sslpassword" => {
                return Err(UrlError::Unsupported("sslpassword", "store the key without a password"));
            }
            "sslcrl" => return Err(UrlError::Unsupported("sslcrl", STRICTER)),
            "sslcrldir" => return Err(UrlError::Unsupported("sslcrldir", STRICTER)),
            // No TLS implementation compresses any more.
            "sslcompression" => {
                switch(value, "sslcompression")?;
            }
            "sslsni" => self.hides_name = !switch(value, "sslsni")?,
            "ssl_min_protocol_version" => match value {
                // 1.2 is the minimum anyway.
                "TLSv1" | "TLSv1.1" | "TLSv1.2" => {}
                "TLSv1.3" => self.no_tls12 = true,
                _ => return Err(UrlError::Value("ssl_min_protocol_version", "TLSv1.2 or TLSv1.3")),
            },
            "ssl_max_protocol_version" => match value {
                "TLSv1.2" => self.no_tls13 = true,
                "TLSv1.3" => {}
                _ => return Err(UrlError::Value("ssl_max_protocol_version", "TLSv1.2 or TLSv1.3")),
            },
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn session(&mut self, value: &str) -> Result<(), UrlError> {
        (self.writable, self.prefers_standby) = match value {
            "any" => (false, false),
            // A primary accepts writes; that is what the driver can check.
            "read-write" | "primary" => (true, false),
            "prefer-standby" => (false, true),
            "read-only" | "standby" => {
                let why = "the service writes; use read-write or primary";
                return Err(UrlError::Unsupported("target_session_attrs=standby or read-only", why));
            }
            _ => return Err(UrlError::Value("target_session_attrs", "any, read-write or primary")),
        };
        Ok(())
    }

    /// Combines the parameters with the address before them.
    fn build(self, address: &str) -> Result<ConnectionUrl, UrlError> {
        let base = Config::from_str(address).map_err(|error| UrlError::Invalid(crate::chain(&error)))?;
        let mut hosts: Vec<Host> =
            if self.hosts.is_empty() { base.get_hosts().to_vec() } else { self.hosts.clone() };
        let ports = if self.ports.is_empty() { base.get_ports() } else { &self.ports };
        if hosts.is_empty() && self.addresses.is_empty() {
            hosts.push(Host::Tcp(String::new()));
        }
        let count = hosts.len().max(self.addresses.len());
        let fits = |length: usize| length == 0 || length == count;
        if !fits(hosts.len()) || !fits(self.addresses.len()) || !(ports.len() <= 1 || fits(ports.len())) {
            return Err(UrlError::Invalid("there are not as many ports, or addresses, as hosts".into()));
        }
        if self.prefers_standby && count > 1 {
            let why = "the service writes; use read-write or primary";
            return Err(UrlError::Unsupported("target_session_attrs=prefer-standby of several hosts", why));
        }
        if self.password_file && self.password.is_none() && base.get_password().is_none() {
            return Err(UrlError::Unsupported("passfile", "write the password into the URL"));
        }
        let tls = self.tls()?;
        let mut all = Vec::with_capacity(count);
        for place in 0..count {
            let mut config = self.common(&base);
            let port = ports.get(place).or(ports.first()).copied().unwrap_or(5432);
            config.port(port);
            match hosts.get(place) {
                Some(Host::Tcp(name)) if name.is_empty() => set_default_host(&mut config, port),
                Some(Host::Tcp(name)) => drop(config.host(name)),
                #[cfg(unix)]
                Some(Host::Unix(path)) => drop(config.host_path(path)),
                None => {}
            }
            if let Some(address) = self.addresses.get(place) {
                config.hostaddr(*address);
            }
            all.push(config);
        }
        Ok(ConnectionUrl { hosts: all, shuffles: self.shuffles, is_pooled: self.is_pooled, tls })
    }

    fn tls(&self) -> Result<TlsOptions, UrlError> {
        let (mode, mut verification) = self.ssl_mode.unwrap_or((SslMode::Prefer, Verification::None));
        // As in libpq: with a root certificate, `require` verifies as `verify-ca` does.
        if mode == SslMode::Require && verification == Verification::None && self.roots.is_some() {
            verification = Verification::Authority;
        }
        let identity = match (&self.certificate, &self.key) {
            _ if self.shows_certificate == Some(false) => None,
            (Some(certificate), Some(key)) => {
                Some(Identity { certificate: certificate.clone(), key: key.clone() })
            }
            (None, None) if self.shows_certificate != Some(true) => None,
            _ => return Err(UrlError::Value("sslcert", "a PEM file, with the one of its key as sslkey")),
        };
        let versions: &'static [&'static SupportedProtocolVersion] = match (self.no_tls12, self.no_tls13) {
            (false, false) => rustls::ALL_VERSIONS,
            (true, false) => ONLY_TLS13,
            (false, true) => ONLY_TLS12,
            (true, true) => {
                return Err(UrlError::Value("ssl_max_protocol_version", "no less than the least one"));
            }
        };
        let roots = self.roots.clone().unwrap_or(Roots::System);
        Ok(TlsOptions { verification, roots, identity, sends_name: !self.hides_name, versions })
    }

    /// The options common to all hosts.
    fn common(&self, base: &Config) -> Config {
        let mut config = Config::new();
        if let Some(user) = self.user.as_deref().or(base.get_user()) {
            config.user(user);
        }
        if let Some(password) = self.password.as_deref().or(base.get_password()) {
            config.password(password);
        }
        if let Some(name) = self.dbname.as_deref().or(base.get_dbname()) {
            config.dbname(name);
        }
        if let Some(options) = &self.options {
            config.options(options);
        }
        let name = self.application_name.as_deref().or(self.fallback_name.as_deref());
        config.application_name(name.unwrap_or("tidegate"));
        config.ssl_mode(self.ssl_mode.map_or(SslMode::Prefer, |(mode, _)| mode));
        if let Some(negotiation) = self.negotiation {
            config.ssl_negotiation(negotiation);
        }
        if let Some(timeout) = self.connect_timeout {
            config.connect_timeout(timeout);
        }
        if let Some(timeout) = self.user_timeout {
            config.tcp_user_timeout(timeout);
        }
        if let Some(keepalives) = self.keepalives {
            config.keepalives(keepalives);
        }
        if let Some(idle) = self.idle {
            config.keepalives_idle(idle);
        }
        if let Some(interval) = self.interval {
            config.keepalives_interval(interval);
        }
        if let Some(retries) = self.retries {
            config.keepalives_retries(retries);
        }
        if let Some(binding) = self.binding {
            config.channel_binding(binding);
        }
        if self.writable {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        config
    }
}

/// libpq's default without a host: a socket in one of the usual folders, else this machine by TCP.
fn set_default_host(config: &mut Config, port: u16) {
    let socket = format!(".s.PGSQL.{port}");
    let folders = ["/var/run/postgresql", "/run/postgresql", "/tmp"];
    match folders.iter().find(|folder| PathBuf::from(folder).join(&socket).exists()) {
        Some(folder) => config.host_path(folder),
        None => config.host("localhost"),
    };
}

fn host(name: &str) -> Host {
    match name.starts_with('/') {
        true => Host::Unix(name.into()),
        false => Host::Tcp(name.into()),
    }
}

fn list<T: FromStr>(value: &str, name: &'static str, takes: &'static str) -> Result<Vec<T>, UrlError> {
    value.split(',').map(|one| number(one, name, takes)).collect()
}

fn number<T: FromStr>(value: &str, name: &'static str, takes: &'static str) -> Result<T, UrlError> {
    value.trim().parse().map_err(|_| UrlError::Value(name, takes))
}

/// A number of seconds; zero and less are libpq's default.
fn seconds(value: &str, name: &'static str) -> Result<Option<Duration>, UrlError> {
    let seconds = number::<i32>(value, name, SECONDS)?;
    Ok(u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs))
}

fn switch(value: &str, name: &'static str) -> Result<bool, UrlError> {
    match value {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(UrlError::Value(name, SWITCH)),
    }
}

fn supported(is_supported: bool, what: &'static str, why: &'static str) -> Result<(), UrlError> {
    if is_supported { Ok(()) } else { Err(UrlError::Unsupported(what, why)) }
}

fn parse_ssl_mode(value: &str) -> Result<(SslMode, Verification), UrlError> {
    Ok(match value {
        "disable" => (SslMode::Disable, Verification::None),
        "allow" | "prefer" => (SslMode::Prefer, Verification::None),
        "require" => (SslMode::Require, Verification::None),
        "verify-ca" => (SslMode::Require, Verification::Authority),
        "verify-full" => (SslMode::Require, Verification::Full),
        _ => return Err(UrlError::Value("sslmode", "disable, prefer, require, verify-ca or verify-full")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &str) -> ConnectionUrl {
        ConnectionUrl::parse(&format!("postgres://{rest}")).unwrap_or_else(|error| panic!("{rest}: {error}"))
    }

    #[test]
    fn a_pooler_that_keeps_no_statements_is_named_in_the_url() {
        assert!(parse("u@h/d").prepares() && parse("u@h/d?pgbouncer=false").prepares());
        assert!(!parse("u@h/d?pgbouncer=true").prepares());
        let error = ConnectionUrl::parse("postgres://u@h/d?pgbouncer=1").unwrap_err();
        assert_eq!(error, UrlError::Value("pgbouncer", "true or false"));
    }

    #[test]
    fn every_ssl_mode_is_understood() {
        for (mode, ssl, verification) in [
            ("disable", SslMode::Disable, Verification::None),
            ("prefer", SslMode::Prefer, Verification::None),
            ("require", SslMode::Require, Verification::None),
            ("verify-ca", SslMode::Require, Verification::Authority),
            ("verify-full", SslMode::Require, Verification::Full),
        ] {
            let url = parse(&format!("u@h/d?sslmode={mode}&connect_timeout=3"));
            assert_eq!((url.hosts[0].get_ssl_mode(), url.tls.verification), (ssl, verification), "{mode}");
            assert_eq!(url.hosts[0].get_connect_timeout().map(Duration::as_secs), Some(3));
        }
        let url = parse("u@h/d?sslmode=require&sslrootcert=%2Ftmp%2Fca.pem");
        assert_eq!(
            (url.tls.verification, url.tls.roots),
            (Verification::Authority, Roots::File("/tmp/ca.pem".into()))
        );
    }

    #[test]
    fn a_wrong_url_is_refused_without_its_password() {
        for url in [
            "mysql://u:secret@h/d",
            "postgres://u:secret@h/d?sslmode=maybe",
            "postgres://u:secret@h:port/d",
            "postgres://u:se?secret&secret@h/d",
            "postgres://u@h/d?password=secret&secret=1",
        ] {
            let error = ConnectionUrl::parse(url).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_psql_takes_is_taken_as_it_is_meant() {
        let two = parse("u:p@one:5433,two/d?target_session_attrs=primary&load_balance_hosts=random");
        let ports: Vec<u16> = two.hosts.iter().flat_map(|host| host.get_ports().to_vec()).collect();
        assert_eq!((ports, two.shuffles), (vec![5433, 5432], true));
        assert!(
            two.hosts.iter().all(|host| host.get_target_session_attrs() == TargetSessionAttrs::ReadWrite)
        );
        assert_eq!(two.target(), "one:5433,two:5432, database d");

        let kept = parse(
            "h/d?user=u&password=a%40b&port=7&keepalives=1&keepalives_idle=9&keepalives_interval=4\
             &keepalives_count=3&tcp_user_timeout=1500",
        );
        let host = &kept.hosts[0];
        assert_eq!((host.get_user(), host.get_password()), (Some("u"), Some(&b"a@b"[..])));
        assert_eq!((host.get_ports(), host.get_keepalives_retries()), (&[7][..], Some(3)));
        assert_eq!(host.get_tcp_user_timeout(), Some(&Duration::from_millis(1500)));

        let socket = parse("%2Frun%2Fpg/d?application_name=a&fallback_application_name=b");
        assert_eq!(socket.hosts[0].get_hosts(), [Host::Unix("/run/pg".into())]);
        assert_eq!(socket.hosts[0].get_application_name(), Some("a"));
        assert_eq!(parse("u@h/d?fallback_application_name=b").hosts[0].get_application_name(), Some("b"));
        for rest in ["", "/d", "u@/d", "u@:5433/d?connect_timeout=0"] {
            assert_eq!(parse(rest).hosts.len(), 1, "{rest}");
        }
        assert_eq!(
            parse("h/d?sslcert=c&sslkey=k&sslsni=0&ssl_min_protocol_version=TLSv1.3").tls.versions.len(),
            1
        );
        for harmless in [
            "gssencmode=prefer",
            "gssencmode=disable",
            "krbsrvname=postgres",
            "gsslib=gssapi",
            "gssdelegation=0",
            "sslcompression=0",
            "sslcertmode=allow",
            "client_encoding=UTF8",
            "client_encoding=auto",
            "replication=false",
            "target_session_attrs=prefer-standby",
            "sslnegotiation=postgres",
            "requiressl=1",
            "ssl=true",
            "hostaddr=127.0.0.1",
            "options=-c%20geqo%3Doff",
        ] {
            parse(&format!("u@h/d?{harmless}"));
        }
    }

    #[test]
    fn what_would_change_the_meaning_is_refused_by_its_name() {
        for parameter in [
            "target_session_attrs=standby",
            "target_session_attrs=read-only",
            "gssencmode=require",
            "gssdelegation=1",
            "require_auth=scram-sha-256",
            "requirepeer=postgres",
            "sslcrl=f",
            "sslcrldir=d",
            "sslpassword=secret",
            "sslcert=only",
            "sslcertmode=require",
            "service=mine",
            "passfile=f",
            "replication=database",
            "client_encoding=LATIN1",
            "ssl_max_protocol_version=TLSv1.1",
            "keepalives_idle=soon",
        ] {
            let name = parameter.split('=').next().unwrap();
            let error = ConnectionUrl::parse(&format!("postgres://u@h/d?{parameter}")).unwrap_err();
            let name = if name == "sslcertmode" { "sslcert" } else { name };
            assert!(error.to_string().contains(name), "{parameter}: {error}");
        }
        for url in ["postgres://u@a,b/d?target_session_attrs=prefer-standby", "postgres://u@a,b/d?port=1,2,3"]
        {
            assert!(ConnectionUrl::parse(url).is_err(), "{url}");
        }
    }
}
