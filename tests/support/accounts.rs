//! Users, tokens and keys for tests.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::postgres::TestDatabase;
use super::service::{Answer, Service, program};

pub(crate) const SECRET: &str = "a secret of more than thirty-two bytes";
pub(crate) const PASSWORD: &str = "correct horse";

/// A service with AUTH=required.
pub(crate) async fn guarded(database: &TestDatabase, more: &[(&str, &str)]) -> Service {
    // Tests ask more often than clients should, and register users themselves.
    let variables =
        [("AUTH", "required"), ("JWT_SECRET", SECRET), ("REGISTRATION", "on"), ("RATE_LOGINS", "0")];
    Service::start(database.url(), &[&variables[..], more].concat()).await
}

/// Seconds of Unix time.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// A token with these claims.
pub(crate) fn signed(algorithm: Algorithm, claims: &Value, secret: &str) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

/// A token that an operator signed, with these permissions.
pub(crate) fn token_with(permissions: &[&str]) -> String {
    let claims = json!({"sub": "ada", "exp": now() + 600, "permissions": permissions});
    signed(Algorithm::HS256, &claims, SECRET)
}

/// Runs the program on a database with `input` on its standard input; returns its output.
pub(crate) async fn tidegate(
    database: &TestDatabase,
    arguments: &[&str],
    input: &str,
) -> Result<String, String> {
    tidegate_with(database, arguments, input, &[]).await
}

/// As [`tidegate`], with further variables.
pub(crate) async fn tidegate_with(
    database: &TestDatabase,
    arguments: &[&str],
    input: &str,
    variables: &[(&str, &str)],
) -> Result<String, String> {
    use tokio::io::AsyncWriteExt;
    let mut command = program(arguments, &[&[("DATABASE_URL", database.url())], variables].concat());
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// A key created on the command line.
pub(crate) async fn key(database: &TestDatabase, arguments: &[&str]) -> String {
    tidegate(database, &[&["keys", "create"], arguments].concat(), "").await.unwrap()
}

/// Sends JSON, with a bearer token unless it is empty.
pub(crate) async fn send(service: &Service, method: &str, path: &str, token: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {token}");
    let mut headers = Vec::new();
    if !token.is_empty() {
        headers.push(("authorization", bearer.as_str()));
    }
    // As browsers mark the requests of the service's own page.
    if path.starts_with("/ui/") {
        headers.push(("sec-fetch-site", "same-origin"));
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    service.request(method, path, &headers, body).await
}

/// Registers a user with [`PASSWORD`].
pub(crate) async fn register(service: &Service, email: &str) -> Value {
    let body = json!({"email": email, "password": PASSWORD});
    let answer = send(service, "POST", "/api/auth/register", "", &body).await;
    assert_eq!(answer.status.as_u16(), 201, "{:?}", answer.body);
    answer.json()
}

/// The tokens of a log-in.
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) refresh: String,
}

impl Tokens {
    pub(crate) fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status.as_u16(), 200, "{:?}", answer.body);
        assert_eq!(answer.header("cache-control"), "no-store");
        let json = answer.json();
        let text = |name: &str| json[name].as_str().unwrap().to_owned();
        assert_eq!((&json["token_type"], json["expires_in"].is_i64()), (&json!("Bearer"), true), "{json}");
        Self { access: text("access_token"), refresh: text("refresh_token") }
    }
}

/// Logs a user in.
pub(crate) async fn log_in(service: &Service, email: &str) -> Tokens {
    let body = json!({"email": email, "password": PASSWORD});
    Tokens::of(&send(service, "POST", "/api/auth/login", "", &body).await)
}

/// Sends a refresh token.
pub(crate) async fn refresh(service: &Service, token: &str) -> Answer {
    send(service, "POST", "/api/auth/refresh", "", &json!({"refresh_token": token})).await
}

/// The status of `GET /api/auth/me`.
pub(crate) async fn me(service: &Service, token: &str) -> u16 {
    send(service, "GET", "/api/auth/me", token, &Value::Null).await.status.as_u16()
}
