//! JSON Web Tokens: what is signed by whom, for whom and when, and nothing else, is good.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::accounts::{SECRET, guarded, log_in, me, now, register, send, signed};
use crate::support::postgres::{Scratch, TestDatabase};
use crate::support::service::{eventually, run};

#[tokio::test]
async fn a_token_of_ours_says_what_the_contract_says_and_nobody_can_change_it() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    let user = register(&service, "ada@example.com").await;
    let access = log_in(&service, "ada@example.com").await.access;
    let parts: Vec<&str> = access.split('.').collect();
    let read = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    let claims = read(parts[1]);
    assert_eq!((&claims["sub"], &claims["email"]), (&user["id"], &json!("ada@example.com")));
    for name in ["permissions", "iss", "aud", "exp", "nbf", "iat", "jti", "sid"] {
        assert!(!claims[name].is_null(), "{name}");
    }
    // The signature covers every part.
    let mut raised = claims.clone();
    raised["permissions"] = json!(["admin"]);
    let raised = URL_SAFE_NO_PAD.encode(raised.to_string());
    let header = |header: Value| URL_SAFE_NO_PAD.encode(header.to_string());
    for forged in [
        format!("{}.{raised}.{}", parts[0], parts[2]),
        format!("{}.{raised}.", header(json!({"alg": "none"}))),
        format!("{}.{raised}", header(json!({"alg": "none"}))),
        format!("{}.{raised}.{}", header(json!({"alg": "NONE", "typ": "JWT"})), parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{}..{}", parts[0], parts[2]),
        format!("{access}x"),
        format!("{access}.{}", parts[2]),
    ] {
        assert_eq!(me(&service, &forged).await, 401, "{forged}");
    }
    assert_eq!(me(&service, &access).await, 200);
}

#[tokio::test]
async fn a_token_of_another_algorithm_time_issuer_audience_or_secret_is_refused() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("JWT_ISSUER", "https://us"), ("JWT_AUDIENCE", "events")]).await;
    let good = json!({"sub": "ada", "iss": "https://us", "aud": ["x", "events"], "exp": now() + 60, "permissions": "ops:read"});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        if claims[name].is_null() {
            claims.as_object_mut().unwrap().remove(name);
        }
        signed(Algorithm::HS256, &claims, SECRET)
    };
    let health =
        async |token: &str| send(&service, "GET", "/api/health", token, &Value::Null).await.status.as_u16();
    assert_eq!(health(&signed(Algorithm::HS256, &good, SECRET)).await, 200);
    let mut critical = Header::new(Algorithm::HS256);
    critical.crit = Some(vec!["exp".into()]);
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    for (what, bad) in [
        ("another secret", signed(Algorithm::HS256, &good, "another secret of thirty-two bytes!")),
        ("HS384", signed(Algorithm::HS384, &good, SECRET)),
        ("HS512", signed(Algorithm::HS512, &good, SECRET)),
        ("expired", with("exp", json!(now() - 1))),
        ("no exp", with("exp", Value::Null)),
        ("exp is text", with("exp", json!("never"))),
        ("not yet", with("nbf", json!(now() + 30))),
        ("another issuer", with("iss", json!("https://them"))),
        ("no issuer", with("iss", Value::Null)),
        ("another audience", with("aud", json!("others"))),
        ("no audience", with("aud", Value::Null)),
        ("a critical extension", encode(&critical, &good, &secret).unwrap()),
    ] {
        assert_eq!(health(&bad).await, 401, "{what}");
    }
    // Without permissions of its own it may do nothing here.
    assert_eq!(health(&with("permissions", Value::Null)).await, 403);
    assert_eq!(health(&with("permissions", json!(7))).await, 403);
    assert_eq!(health(&with("permissions", json!(["ops:read", 7, "unknown"]))).await, 200);
}

#[tokio::test]
async fn an_issuers_tokens_are_verified_by_its_public_key_and_its_subjects_become_users() {
    let folder = Scratch::new();
    let database = TestDatabase::create().await;
    for (algorithm, kind) in
        [(Algorithm::ES256, &rcgen::PKCS_ECDSA_P256_SHA256), (Algorithm::EdDSA, &rcgen::PKCS_ED25519)]
    {
        let (pair, other) =
            (rcgen::KeyPair::generate_for(kind).unwrap(), rcgen::KeyPair::generate_for(kind).unwrap());
        let file = folder.path().join("public.pem");
        std::fs::write(&file, pair.public_key_pem()).unwrap();
        let variables = [
            ("JWT_PUBLIC_KEY_FILE", file.to_str().unwrap()),
            ("JWT_ISSUER", "https://idp"),
            ("JWT_AUDIENCE", "tidegate"),
            ("JWT_PERMISSIONS_CLAIM", "scope"),
        ];
        let service = guarded(&database, &variables).await;
        let sign = |pair: &rcgen::KeyPair, claims: &Value| {
            let pem = pair.serialize_pem();
            let key = match algorithm {
                Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
                _ => EncodingKey::from_ed_pem(pem.as_bytes()),
            };
            encode(&Header::new(algorithm), claims, &key.unwrap()).unwrap()
        };
        let claims = json!({"sub": "u|1", "iss": "https://idp", "aud": "tidegate", "exp": now() + 60, "scope": "ops:read openid"});
        let token = sign(&pair, &claims);
        assert_eq!(
            send(&service, "GET", "/api/health", &token, &Value::Null).await.status.as_u16(),
            200,
            "{algorithm:?}"
        );
        let one = send(&service, "GET", "/api/auth/me", &token, &Value::Null).await.json();
        let again = send(&service, "GET", "/api/auth/me", &token, &Value::Null).await.json();
        assert!(one["id"].is_string() && one["id"] == again["id"], "{one}");

        assert_eq!(me(&service, &sign(&other, &claims)).await, 401);
        // The public key is no secret: HS256 with it is the oldest trick there is.
        let confused = signed(Algorithm::HS256, &claims, &pair.public_key_pem());
        assert_eq!(me(&service, &confused).await, 401);
        for name in ["iss", "aud", "exp", "sub"] {
            let mut without = claims.clone();
            without.as_object_mut().unwrap().remove(name);
            assert_eq!(me(&service, &sign(&pair, &without)).await, 401, "without {name}");
        }
        let mut session = claims.clone();
        session["sid"] = json!("00000000-0000-4000-8000-000000000001");
        session["sub"] = json!("00000000-0000-4000-8000-000000000002");
        let answer = send(&service, "GET", "/api/auth/sessions", &sign(&pair, &session), &Value::Null).await;
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

/// Publishes what `keys` holds, on loopback; its address.
async fn publish(keys: std::sync::Arc<std::sync::Mutex<String>>) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 2048];
            let _ = stream.read(&mut head).await;
            let body = keys.lock().unwrap().clone();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}/jwks.json")
}

/// A set (RFC 7517) with an Ed25519 key.
fn key_set(id: &str, pair: &rcgen::KeyPair) -> String {
    let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": id, "use": "sig", "alg": "EdDSA", "x": x}]})
        .to_string()
}

#[tokio::test]
async fn an_issuers_published_keys_are_fetched_and_followed_when_they_change() {
    let database = TestDatabase::create().await;
    let [one, two] = [(); 2].map(|()| rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
    let keys = std::sync::Arc::new(std::sync::Mutex::new(key_set("one", &one)));
    let url = publish(std::sync::Arc::clone(&keys)).await;
    let variables = [
        ("JWT_JWKS_URL", url.as_str()),
        ("JWT_JWKS_REFRESH_S", "1"),
        ("JWT_ISSUER", "https://idp"),
        ("JWT_AUDIENCE", "tidegate"),
    ];
    let service = guarded(&database, &variables).await;
    let sign = |id: &str, pair: &rcgen::KeyPair, header: &dyn Fn(&mut Header)| {
        let claims = json!({"sub": "u", "iss": "https://idp", "aud": "tidegate", "exp": now() + 60});
        let mut head = Header::new(Algorithm::EdDSA);
        head.kid = Some(id.into());
        header(&mut head);
        encode(&head, &claims, &EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).unwrap()).unwrap()
    };
    let plain = |id: &str, pair| sign(id, pair, &|_| ());
    eventually("the keys are fetched", async || {
        (me(&service, &plain("one", &one)).await == 200).then_some(())
    })
    .await;
    // The key that a token brings or points at is nobody's.
    let brought = sign("two", &two, &|head| head.jku = Some(url.clone()));
    assert_eq!(me(&service, &brought).await, 401);
    assert_eq!(me(&service, &plain("one", &two)).await, 401);
    *keys.lock().unwrap() = "{\"keys\": []}".into();
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert_eq!(
        me(&service, &plain("one", &one)).await,
        200,
        "what is no set of keys leaves those that were good"
    );
    *keys.lock().unwrap() = key_set("two", &two);
    eventually("the others are fetched", async || {
        (me(&service, &plain("two", &two)).await == 200).then_some(())
    })
    .await;
    assert_eq!(
        me(&service, &plain("one", &one)).await,
        401,
        "a key that is not published any more is not good"
    );
}
