//! Sign-ins by a provider of OpenID Connect, which is one of the test's own.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::pocketbase::{COLLECTIONS, good, records, refused, send};
use crate::support::accounts::key;
use crate::support::postgres::TestDatabase;
use crate::support::service::Service;
use crate::support::sse::EventStream;

const WITH: &str = "/api/collections/people/auth-with-oauth2";
const METHODS: &str = "/api/collections/people/auth-methods";

/// A provider: a code is the token of a user.
struct Provider {
    url: String,
    users: Arc<Mutex<HashMap<String, Value>>>,
    /// The forms of requests for tokens.
    exchanged: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (users, exchanged) = (Arc::<Mutex<HashMap<_, _>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let mut tasks = JoinSet::new();
        let shared = (Arc::clone(&users), Arc::clone(&exchanged));
        tasks.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                answer(socket, &shared.0, &shared.1).await;
            }
        });
        Self { url, users, exchanged, _tasks: tasks }
    }

    fn knows(&self, code: &str, user: Value) {
        self.users.lock().insert(code.to_owned(), user);
    }

    /// Its entry in a collection, with more members.
    fn entry(&self, more: &Value) -> Value {
        let url = &self.url;
        let mut entry = json!({
            "name": "oidc", "displayName": "Example", "clientId": "tide gate", "clientSecret": "not:shown",
            "authURL": format!("{url}/auth"), "tokenURL": format!("{url}/token"), "userInfoURL": format!("{url}/me"),
        });
        for (member, value) in more.as_object().unwrap() {
            entry[member] = value.clone();
        }
        entry
    }
}

async fn answer(
    mut socket: TcpStream,
    users: &Mutex<HashMap<String, Value>>,
    exchanged: &Mutex<Vec<String>>,
) {
    let mut request = String::new();
    let mut bytes = [0; 4_096];
    let body = loop {
        let read = socket.read(&mut bytes).await.unwrap_or_default();
        request.push_str(&String::from_utf8_lossy(&bytes[..read]));
        let length = request
            .to_lowercase()
            .split_once("content-length: ")
            .map_or(0, |(_, rest)| rest.split('\r').next().unwrap_or_default().parse().unwrap_or(0));
        match request.split_once("\r\n\r\n") {
            Some((_, body)) if body.len() >= length => break body.to_owned(),
            _ if read == 0 => return,
            _ => {}
        }
    };
    let header = |name: &str| {
        let line = request.lines().find(|line| line.to_lowercase().starts_with(name)).unwrap_or_default();
        line.split_once(": ").map_or("", |(_, value)| value).to_owned()
    };
    let authorization = header("authorization");
    let (status, json) = if request.starts_with("POST /token") {
        exchanged.lock().push(format!("{authorization} {body}"));
        let code = body.split('&').find_map(|pair| pair.strip_prefix("code=")).unwrap_or_default().to_owned();
        match users.lock().get(&code) {
            Some(user) => (
                200,
                json!({"access_token": code, "token_type": "Bearer", "expires_in": 3_600, "id_token": user["id_token"].as_str().unwrap_or_default()}),
            ),
            None => (400, json!({"error": "invalid_grant"})),
        }
    } else {
        match users.lock().get(authorization.trim_start_matches("Bearer ")) {
            Some(user) => (200, user.clone()),
            None => (401, json!({})),
        }
    };
    let json = json.to_string();
    let answer = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{json}",
        json.len()
    );
    let _gone = socket.write_all(answer.as_bytes()).await;
}

async fn start_service(database: &TestDatabase) -> (Service, String) {
    let variables = [("MODULES", "events,records,pocketbase,streams"), ("WEBHOOK_ALLOW_PRIVATE", "on")];
    (Service::start(database.url(), &variables).await, key(database, &["--admin"]).await)
}

async fn people(service: &Service, token: &str, entry: Value) -> Value {
    let body = json!({
        "name": "people", "type": "auth", "fields": [{"name": "name", "type": "text"}], "createRule": "", "viewRule": "",
        "oauth2": {"enabled": true, "mappedFields": {"name": "name"}, "providers": [entry]},
    });
    good(service, "POST", COLLECTIONS, token, &body).await
}

fn with(code: &str) -> Value {
    json!({"provider": "oidc", "code": code, "codeVerifier": "verifier", "redirectURL": "http://127.0.0.1:1/callback"})
}

#[tokio::test]
async fn a_code_makes_a_user_and_finds_them_again() {
    let database = TestDatabase::create().await;
    let (service, token) = start_service(&database).await;
    let provider = Provider::start().await;
    let made = people(&service, &token, provider.entry(&json!({}))).await;
    assert!(!made.to_string().contains("not:shown"), "{made}");
    // A change without the secret keeps it.
    let mut shown = made["oauth2"].clone();
    shown["providers"][0]["displayName"] = "Renamed".into();
    good(&service, "PATCH", "/api/collections/people", &token, &json!({"oauth2": shown})).await;

    let methods = good(&service, "GET", METHODS, "", &Value::Null).await;
    let entry = &methods["oauth2"]["providers"][0];
    assert_eq!(
        (&entry["name"], &entry["displayName"], &entry["codeChallengeMethod"]),
        (&json!("oidc"), &json!("Renamed"), &json!("S256"))
    );
    let url = entry["authURL"].as_str().unwrap();
    let challenge = format!("code_challenge={}", entry["codeChallenge"].as_str().unwrap());
    assert!(url.starts_with(&format!("{}/auth?client_id=tide%20gate&", provider.url)), "{url}");
    assert!(url.ends_with("&redirect_uri=") && url.contains(&challenge), "{url}");

    provider.knows(
        "c1",
        json!({"sub": "p-1", "email": "ann@example.com", "email_verified": true, "name": "Ann"}),
    );
    let mut body = with("c1");
    body["createData"] = json!({"name": "given"});
    let first = good(&service, "POST", WITH, "", &body).await;
    let record = &first["record"];
    assert_eq!(
        (&record["email"], &record["verified"], &record["name"]),
        (&json!("ann@example.com"), &json!(true), &json!("given"))
    );
    let meta = &first["meta"];
    assert_eq!(
        (&meta["id"], &meta["isNew"], &meta["name"], &meta["rawUser"]["sub"]),
        (&json!("p-1"), &json!(true), &json!("Ann"), &json!("p-1"))
    );
    let form = provider.exchanged.lock()[0].clone();
    // The id and the secret are encoded, then joined: tide%20gate:not%3Ashown.
    assert!(form.starts_with("Basic dGlkZSUyMGdhdGU6bm90JTNBc2hvd24= "), "{form}");
    for part in [
        "grant_type=authorization_code",
        "code=c1",
        "code_verifier=verifier",
        "redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2Fcallback",
    ] {
        assert!(form.contains(part), "{part}: {form}");
    }
    let second = good(&service, "POST", WITH, "", &with("c1")).await;
    assert_eq!((&second["record"]["id"], &second["meta"]["isNew"]), (&record["id"], &json!(false)));
    refused(&service, ("POST", WITH, "", &with("bad")), 400, "Failed to fetch OAuth2 token.").await;
    let loading = "An error occurred while loading the submitted data.";
    let data = refused(&service, ("POST", WITH, "", &json!({"provider": "nothing"})), 400, loading).await;
    assert_eq!(
        (&data["provider"]["code"], &data["code"]["code"]),
        (&json!("validation_invalid_provider"), &json!("validation_required"))
    );

    // An address that the provider has not proven is nobody's.
    provider.knows("c2", json!({"sub": "p-2", "email": "bob@example.com"}));
    let data = refused(&service, ("POST", WITH, "", &with("c2")), 400, "Failed to create record.").await;
    assert_eq!(data["email"]["code"], "validation_required");
    let off = json!({"oauth2": {"enabled": false}});
    good(&service, "PATCH", "/api/collections/people", &token, &off).await;
    let message = "The collection is not configured to allow OAuth2 authentication.";
    refused(&service, ("POST", WITH, "", &with("c1")), 403, message).await;
}

#[tokio::test]
async fn a_known_address_is_linked_and_an_account_that_nobody_has_proven_loses_its_password() {
    let database = TestDatabase::create().await;
    let (service, token) = start_service(&database).await;
    let provider = Provider::start().await;
    people(&service, &token, provider.entry(&json!({}))).await;
    let account =
        json!({"email": "ann@example.com", "password": "correct horse", "passwordConfirm": "correct horse"});
    let made = good(&service, "POST", &records("people"), "", &account).await;
    provider.knows("c1", json!({"sub": "p-1", "email": "ann@example.com", "email_verified": true}));
    let signed = good(&service, "POST", WITH, "", &with("c1")).await;
    assert_eq!(
        (&signed["record"]["id"], &signed["record"]["verified"], &signed["meta"]["isNew"]),
        (&made["id"], &json!(true), &json!(false))
    );
    let before = json!({"identity": "ann@example.com", "password": "correct horse"});
    refused(
        &service,
        ("POST", "/api/collections/people/auth-with-password", "", &before),
        400,
        "Failed to authenticate.",
    )
    .await;
    let own = signed["token"].as_str().unwrap();
    let links = good(&service, "GET", &records("_externalAuths"), own, &Value::Null).await;
    assert_eq!(
        (&links["items"][0]["provider"], &links["items"][0]["providerId"]),
        (&json!("oidc"), &json!("p-1"))
    );
    assert_eq!(links["totalItems"], 1);
    // A signed-in record is linked to another user of the provider only if it has none.
    provider.knows("c3", json!({"sub": "p-3"}));
    refused(&service, ("POST", WITH, own, &with("c3")), 400, "Failed to authenticate.").await;
}

#[tokio::test]
async fn the_redirect_reaches_the_client_that_waits_on_another_node() {
    let database = TestDatabase::create().await;
    let (one, token) = start_service(&database).await;
    let (other, _) = start_service(&database).await;
    let provider = Provider::start().await;
    people(&one, &token, provider.entry(&json!({}))).await;
    let mut stream = EventStream::open(&one, "/api/realtime", &[]).await;
    let client = stream.next().await.unwrap().unwrap().id;
    let redirect = format!("/api/oauth2-redirect?state={client}&code=c1");
    let outcome = async |path: &str| {
        // A browser comes from the provider.
        let answer = other.request("GET", path, &[("sec-fetch-site", "cross-site")], "").await;
        (answer.status.as_u16(), answer.header("location").to_owned())
    };
    let failed = (307, "oauth2-redirect/failure".to_owned());
    assert_eq!(outcome(&redirect).await, failed);
    assert_eq!(outcome("/api/oauth2-redirect?state=nobody&code=c1").await, failed);
    let topics = json!({"clientId": client, "subscriptions": ["@oauth2"]});
    good(&one, "POST", "/api/realtime", "", &topics).await;
    assert_eq!(outcome(&redirect).await, (307, "oauth2-redirect/success".to_owned()));
    let event = stream.next().await.unwrap().unwrap();
    assert_eq!(event.event, "@oauth2");
    assert_eq!(serde_json::from_str::<Value>(&event.data).unwrap(), json!({"state": client, "code": "c1"}));
    // Once.
    assert_eq!(outcome(&redirect).await, failed);
    let page = send(&other, "GET", "/api/oauth2-redirect/failure", "", &Value::Null).await;
    assert!(page.header("content-type").starts_with("text/html"));
    good(&one, "POST", "/api/realtime", "", &topics).await;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let body = format!("state={client}&error=access_denied");
    let answer = other.request("POST", "/api/oauth2-redirect", &form, body).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "oauth2-redirect/failure"));
    let event = stream.next().await.unwrap().unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&event.data).unwrap(),
        json!({"state": client, "code": "", "error": "access_denied"})
    );
}

#[tokio::test]
async fn a_provider_is_not_asked_at_private_addresses_unless_that_is_allowed() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MODULES", "events,records,pocketbase")]).await;
    let token = key(&database, &["--admin"]).await;
    let provider = Provider::start().await;
    people(&service, &token, provider.entry(&json!({}))).await;
    provider.knows("c1", json!({"sub": "p-1", "email": "ann@example.com", "email_verified": true}));
    refused(&service, ("POST", WITH, "", &with("c1")), 400, "Failed to fetch OAuth2 token.").await;
    assert!(provider.exchanged.lock().is_empty());
    for (member, value, code) in [
        ("name", json!("google"), "validation_missing_provider"),
        ("clientId", json!(""), "validation_required"),
        ("tokenURL", json!("x"), "validation_is_url"),
    ] {
        let entry = provider.entry(&json!({member: value}));
        let body = json!({"name": "others", "type": "auth", "oauth2": {"providers": [entry]}});
        let data =
            refused(&service, ("POST", COLLECTIONS, &token, &body), 400, "Failed to create collection.")
                .await;
        assert_eq!(data["oauth2"]["providers"]["0"][member]["code"], code, "{member}");
    }
}
