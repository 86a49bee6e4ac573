//! Tokens of another issuer: its keys by a file or by what it publishes, and nothing that a token brings or points at.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tidegate::auth::Verifier;
use tidegate::config::{AuthMode, Config, Variables};
use tidegate::observe::Metrics;
use tidegate::outbound::jwks;
use tidegate::supervisor::Supervisor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::accounts::{guarded, me, now, send, signed};
use crate::support::postgres::{Scratch, TestDatabase};
use crate::support::service::{Service, eventually, run};

/// Keys of 2048 bits for tests and nothing else: made by `openssl genpkey`, as what makes the others makes none of RSA.
const RSA: [&str; 2] = [include_str!("data/rsa-one.pem"), include_str!("data/rsa-two.pem")];

/// An issuer's private key.
pub(crate) struct Signer {
    algorithm: Algorithm,
    pub(crate) pair: KeyPair,
}

impl Signer {
    /// Two of an algorithm.
    pub(crate) fn two(algorithm: Algorithm) -> [Self; 2] {
        [0, 1].map(|index| {
            let pair = match algorithm {
                Algorithm::RS256 => KeyPair::from_pem(RSA[index]),
                Algorithm::ES256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
                _ => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            };
            Self { algorithm, pair: pair.unwrap() }
        })
    }

    fn key(&self) -> EncodingKey {
        let pem = self.pair.serialize_pem();
        let key = match self.algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => EncodingKey::from_ed_pem(pem.as_bytes()),
        };
        key.unwrap()
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        encode(&Header::new(self.algorithm), claims, &self.key()).unwrap()
    }

    /// A good token but for what `header` puts into its header.
    fn token(&self, id: &str, header: impl FnOnce(&mut Header)) -> String {
        let mut head = Header::new(self.algorithm);
        head.kid = Some(id.into());
        header(&mut head);
        encode(&head, &claims(), &self.key()).unwrap()
    }

    /// The public key as a set has it.
    fn jwk(&self, id: &str) -> Jwk {
        if self.algorithm == Algorithm::EdDSA {
            // The library makes none of a private key that brings its public one along.
            let x = URL_SAFE_NO_PAD.encode(self.pair.public_key_raw());
            let jwk =
                json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "use": "sig", "alg": "EdDSA", "x": x});
            return serde_json::from_value(jwk).unwrap();
        }
        let mut jwk = Jwk::from_encoding_key(&self.key(), self.algorithm).unwrap();
        jwk.common.key_id = Some(id.into());
        jwk
    }
}

pub(crate) fn claims() -> Value {
    json!({"sub": "u|1", "iss": "https://idp", "aud": "tidegate", "exp": now() + 60, "scope": "ops:read openid"})
}

/// A set (RFC 7517).
fn set(keys: &[Jwk]) -> String {
    serde_json::to_string(&JwkSet { keys: keys.to_vec() }).unwrap()
}

/// Where an issuer publishes its keys, on loopback.
struct Published {
    url: String,
    /// Status line and what follows it but for the body's length, and the body.
    answer: Arc<Mutex<(String, String)>>,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Published {
    async fn new(set: String, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("{}://{address}/jwks.json", if tls.is_some() { "https" } else { "http" });
        let answer = Arc::new(Mutex::new(("200 OK".to_owned(), set)));
        let published = Self { url, answer, connections: Arc::default(), requests: Arc::default() };
        let (answer, connections, requests) =
            (published.answer.clone(), published.connections.clone(), published.requests.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::Relaxed);
                let (answer, requests) = (answer.clone(), requests.clone());
                match &tls {
                    None => drop(tokio::spawn(answer_one(stream, answer, requests))),
                    Some(tls) => {
                        let accepting = tls.accept(stream);
                        tokio::spawn(async move {
                            // A client that does not trust the certificate goes.
                            if let Ok(stream) = accepting.await {
                                answer_one(stream, answer, requests).await;
                            }
                        });
                    }
                }
            }
        });
        published
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    fn publish(&self, head: &str, body: impl Into<String>) {
        *self.answer.lock().unwrap() = (head.to_owned(), body.into());
    }
}

async fn answer_one(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: Arc<Mutex<(String, String)>>,
    requests: Arc<AtomicUsize>,
) {
    let mut head = [0; 2048];
    if stream.read(&mut head).await.unwrap_or(0) == 0 {
        return;
    }
    requests.fetch_add(1, Ordering::Relaxed);
    let (head, body) = answer.lock().unwrap().clone();
    let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// What a service needs to take the tokens whose keys are published there.
fn trusting(url: &str) -> [(&str, &str); 3] {
    [("JWT_JWKS_URL", url), ("JWT_ISSUER", "https://idp"), ("JWT_AUDIENCE", "tidegate")]
}

/// What verifies the tokens whose keys are published there.
fn verifier(url: &str) -> Arc<Verifier> {
    let variables = [("AUTH", "required"), trusting(url)[0], trusting(url)[1], trusting(url)[2]];
    let pairs = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::from_variables(&pairs.into_iter().collect::<Variables>()).unwrap().auth;
    Verifier::new(&config, AuthMode::Required, None).unwrap()
}

/// What a service needs to take the tokens of one public key.
pub(crate) fn trusting_key(file: &Path) -> [(&str, &str); 4] {
    [
        ("JWT_PUBLIC_KEY_FILE", file.to_str().unwrap()),
        ("JWT_ISSUER", "https://idp"),
        ("JWT_AUDIENCE", "tidegate"),
        ("JWT_PERMISSIONS_CLAIM", "scope"),
    ]
}

async fn until_good(service: &Service, token: &str) {
    eventually("the keys are fetched", async || (me(service, token).await == 200).then_some(())).await;
}

#[tokio::test]
async fn an_issuers_tokens_are_verified_by_its_public_key_and_its_subjects_become_users() {
    let folder = Scratch::new();
    let database = TestDatabase::create().await;
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let [issuer, other] = Signer::two(algorithm);
        let file = folder.path().join("public.pem");
        std::fs::write(&file, issuer.pair.public_key_pem()).unwrap();
        let service = guarded(&database, &trusting_key(&file)).await;
        let claims = claims();
        let token = issuer.sign(&claims);
        assert_eq!(
            send(&service, "GET", "/api/health", &token, &Value::Null).await.status.as_u16(),
            200,
            "{algorithm:?}"
        );
        let one = send(&service, "GET", "/api/auth/me", &token, &Value::Null).await.json();
        let again = send(&service, "GET", "/api/auth/me", &token, &Value::Null).await.json();
        assert!(one["id"].is_string() && one["id"] == again["id"], "{one}");

        assert_eq!(me(&service, &other.sign(&claims)).await, 401);
        // The public key is no secret: HS256 with it is the oldest trick there is.
        let confused = signed(Algorithm::HS256, &claims, &issuer.pair.public_key_pem());
        assert_eq!(me(&service, &confused).await, 401);
        // A key of one algorithm verifies no other one's tokens.
        let others = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
        for algorithm in others.into_iter().filter(|other| *other != algorithm) {
            let [foreign, _] = Signer::two(algorithm);
            assert_eq!(me(&service, &foreign.sign(&claims)).await, 401, "{algorithm:?}");
        }
        for name in ["iss", "aud", "exp", "sub"] {
            let mut without = claims.clone();
            without.as_object_mut().unwrap().remove(name);
            assert_eq!(me(&service, &issuer.sign(&without)).await, 401, "without {name}");
        }
        let mut session = claims.clone();
        session["sid"] = json!("00000000-0000-4000-8000-000000000001");
        session["sub"] = json!("00000000-0000-4000-8000-000000000002");
        let answer = send(&service, "GET", "/api/auth/sessions", &issuer.sign(&session), &Value::Null).await;
        assert_eq!(answer.status.as_u16(), 403, "an issuer cannot name one of our sessions");
    }
    let subjects: i64 = database
        .connect()
        .await
        .query_one("select count(*) from users where subject = 'u|1'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(subjects, 1);
    std::fs::write(folder.path().join("public.pem"), "no key").unwrap();
    let file = folder.path().join("public.pem");
    let variables =
        [("JWT_PUBLIC_KEY_FILE", file.to_str().unwrap()), ("JWT_ISSUER", "x"), ("JWT_AUDIENCE", "y")];
    let (status, _, stderr) = run(&["serve"], &variables).await;
    assert!(status.code() == Some(2) && stderr.starts_with("tidegate: JWT_PUBLIC_KEY_FILE: "), "{stderr}");
}

#[tokio::test]
async fn an_issuers_published_keys_are_fetched_and_followed_when_they_change() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let [one, two] = Signer::two(algorithm);
        let issuer = Published::new(set(&[one.jwk("one")]), None).await;
        let verifier = verifier(&issuer.url);
        let supervisor = Supervisor::new(&Metrics::new().unwrap());
        // More often than the service does, which is every ten minutes.
        jwks::follow(issuer.url.clone(), Duration::from_secs(1), Arc::clone(&verifier), &supervisor);
        let is_good = |id: &str, signer: &Signer| verifier.verify(&signer.token(id, |_| ())).is_ok();
        eventually("the keys are fetched", async || is_good("one", &one).then_some(())).await;
        assert!(!is_good("one", &two));
        for (head, body) in [
            ("200 OK", "{\"keys\": []}"),
            ("200 OK", "no set"),
            ("500 Internal Server Error", &*set(&[two.jwk("two")])),
        ] {
            issuer.publish(head, body);
            let looks = issuer.requests();
            eventually("it is looked at twice", async || (issuer.requests() >= looks + 2).then_some(()))
                .await;
            assert!(
                is_good("one", &one),
                "what is no set of keys leaves those that were good: {head} {body}"
            );
        }
        issuer.publish("200 OK", set(&[two.jwk("two")]));
        eventually("the other keys are fetched", async || is_good("two", &two).then_some(())).await;
        assert!(!is_good("one", &one), "a key that is not published any more is not good");
        supervisor.shutdown().await;
    }
}

#[tokio::test]
async fn an_issuers_clock_may_differ_and_its_roles_may_be_inside_other_claims() {
    let folder = Scratch::new();
    let database = TestDatabase::create().await;
    let [issuer, _] = Signer::two(Algorithm::ES256);
    let file = folder.path().join("public.pem");
    std::fs::write(&file, issuer.pair.public_key_pem()).unwrap();
    let mut variables = trusting_key(&file);
    variables[3] = ("JWT_PERMISSIONS_CLAIM", "realm_access.roles");
    let service = guarded(&database, &variables).await;
    let health = async |name: &str, value: Value| {
        let mut claims = claims();
        claims["realm_access"] = json!({"roles": ["ops:read", "offline_access"]});
        claims[name] = value;
        let token = issuer.sign(&claims);
        send(&service, "GET", "/api/health", &token, &Value::Null).await.status.as_u16()
    };
    for (name, value, expected) in [
        ("nbf", json!(now() as f64 - 0.1), 200),
        ("nbf", json!(now() as f64 + 0.5), 200),
        ("nbf", json!(now() + 2), 200),
        ("nbf", json!(now() + 90), 401),
        ("exp", json!(now() - 2), 200),
        ("exp", json!(now() - 90), 401),
        ("realm_access", json!({"roles": ["offline_access"]}), 403),
        ("realm_access", json!(["ops:read"]), 403),
        ("realm_access.roles", json!("none"), 403),
    ] {
        assert_eq!(health(name, value.clone()).await, expected, "{name} {value}");
    }
}

#[tokio::test]
async fn a_malformed_key_of_a_set_affects_no_other() {
    let database = TestDatabase::create().await;
    let [one, _] = Signer::two(Algorithm::ES256);
    let good = serde_json::to_value(one.jwk("one")).unwrap();
    let with = |name: &str, value: Value| {
        let mut key = good.clone();
        key["kid"] = json!("bad");
        key[name] = value;
        key
    };
    let issuer = Published::new(String::new(), None).await;
    let keys = json!([
        {}, null, 7, [], {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}, {"kty": "RSA"},
        with("x", json!(null)), with("x", json!("!")), with("crv", json!("P-0")), with("alg", json!(7)),
        with("use", json!([])), with("key_ops", json!("verify")), good,
    ]);
    issuer.publish("200 OK", json!({ "keys": keys, "more": 1 }).to_string());
    let service = guarded(&database, &trusting(&issuer.url)).await;
    until_good(&service, &one.token("one", |_| ())).await;
    assert_eq!(me(&service, &one.token("bad", |_| ())).await, 401);
    assert!(service.log().contains("cannot be read and are skipped"), "{}", service.log());
}

#[tokio::test]
async fn what_a_token_brings_or_points_at_is_never_looked_at_and_no_redirect_is_followed() {
    let database = TestDatabase::create().await;
    let [one, two] = Signer::two(Algorithm::ES256);
    let issuer = Published::new(set(&[one.jwk("one")]), None).await;
    let elsewhere = Published::new(set(&[two.jwk("one"), two.jwk("two")]), None).await;
    let service = guarded(&database, &trusting(&issuer.url)).await;
    until_good(&service, &one.token("one", |_| ())).await;
    let url = || Some(elsewhere.url.clone());
    for id in ["one", "two"] {
        for token in [
            two.token(id, |head| head.jku = url()),
            two.token(id, |head| head.x5u = url()),
            two.token(id, |head| head.jwk = Some(two.jwk(id))),
            two.token(id, |head| (head.jku, head.x5u, head.jwk) = (url(), url(), Some(two.jwk(id)))),
        ] {
            assert_eq!(me(&service, &token).await, 401);
        }
    }
    // What a good token points at is passed over as well.
    assert_eq!(me(&service, &one.token("one", |head| head.jku = url())).await, 200);
    let verifier = verifier(&issuer.url);
    let supervisor = Supervisor::new(&Metrics::new().unwrap());
    jwks::follow(issuer.url.clone(), Duration::from_secs(1), Arc::clone(&verifier), &supervisor);
    issuer.publish(&format!("302 Found\r\nlocation: {}", elsewhere.url), "");
    let looks = issuer.requests();
    eventually("it is looked at twice", async || (issuer.requests() >= looks + 2).then_some(())).await;
    assert!(verifier.verify(&two.token("two", |_| ())).is_err());
    supervisor.shutdown().await;
    assert_eq!(elsewhere.connections(), 0);
}

/// A certificate for `name` by an authority of our own making, and that authority's.
pub(crate) fn certified(name: &str) -> (TlsAcceptor, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let by = rcgen::Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &by).unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
    (TlsAcceptor::from(Arc::new(config)), authority.pem())
}

#[tokio::test]
async fn keys_are_fetched_by_tls_from_whom_a_trusted_authority_certifies_and_from_nobody_else() {
    let folder = Scratch::new();
    let database = TestDatabase::create().await;
    let [signer, _] = Signer::two(Algorithm::RS256);
    // The system's authorities are trusted; SSL_CERT_FILE names others in their place.
    for (name, is_trusted, is_fetched) in
        [("127.0.0.1", true, true), ("127.0.0.1", false, false), ("idp.example", true, false)]
    {
        let (tls, authority) = certified(name);
        let issuer = Published::new(set(&[signer.jwk("one")]), Some(tls)).await;
        let file = folder.path().join("authority.pem");
        std::fs::write(&file, authority).unwrap();
        let mut variables = trusting(&issuer.url).to_vec();
        if is_trusted {
            variables.push(("SSL_CERT_FILE", file.to_str().unwrap()));
        }
        let service = guarded(&database, &variables).await;
        let token = signer.token("one", |_| ());
        if is_fetched {
            until_good(&service, &token).await;
            continue;
        }
        eventually("it is tried twice", async || (issuer.connections() >= 2).then_some(())).await;
        assert_eq!((me(&service, &token).await, issuer.requests()), (401, 0), "{name}");
        assert!(service.log().contains("the issuer's keys cannot be fetched"), "{}", service.log());
    }
}

/// The clock is the test's, so that what takes half a minute takes no time.
#[tokio::test(start_paused = true)]
async fn a_rotation_is_noticed_by_the_first_token_and_made_up_key_names_cannot_hammer_the_issuer() {
    let [one, two] = Signer::two(Algorithm::EdDSA);
    let issuer = Published::new(set(&[one.jwk("one")]), None).await;
    let verifier = verifier(&issuer.url);
    let is_good = |signer: &Signer, id: &str| verifier.verify(&signer.token(id, |_| ())).is_ok();
    let supervisor = Supervisor::new(&Metrics::new().unwrap());
    jwks::follow(issuer.url.clone(), Duration::from_secs(3600), Arc::clone(&verifier), &supervisor);
    let wait = async |seconds: u64| tokio::time::sleep(Duration::from_secs(seconds)).await;
    wait(1).await;
    assert!(is_good(&one, "one") && !is_good(&two, "two") && issuer.connections() == 1);

    // The token that could not be verified asked for another look, half a minute after the last one.
    issuer.publish("200 OK", set(&[two.jwk("two")]));
    wait(28).await;
    assert_eq!(issuer.connections(), 1);
    wait(3).await;
    assert!(is_good(&two, "two") && !is_good(&one, "one") && issuer.connections() == 2);

    // Ten minutes of names that nobody has: two looks a minute. The second of each name finds what the first one did.
    for n in 0..6000 {
        assert!(!is_good(&one, &format!("made up {n}")));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let looks = issuer.connections() - 2;
    assert!((18..=21).contains(&looks), "{looks}");

    // Without them none, until it is time.
    wait(60).await;
    let before = issuer.connections();
    wait(3000).await;
    assert_eq!(issuer.connections(), before);
    wait(700).await;
    assert_eq!(issuer.connections(), before + 1);
    supervisor.shutdown().await;
}
