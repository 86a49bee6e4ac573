//! JSON Web Tokens: signature, issuer, audience and time.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::accounts::{SECRET, guarded, log_in, me, now, register, send, signed};
use crate::support::postgres::TestDatabase;

#[tokio::test]
async fn our_tokens_have_the_documented_claims_and_cannot_be_changed() {
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
async fn tokens_of_another_algorithm_time_issuer_audience_or_secret_are_rejected() {
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
        ("not yet", with("nbf", json!(now() + 90))),
        ("not yet, by a fraction", with("nbf", json!(now() as f64 + 90.5))),
        ("nbf is text", with("nbf", json!("now"))),
        ("another issuer", with("iss", json!("https://them"))),
        ("no issuer", with("iss", Value::Null)),
        ("another audience", with("aud", json!("others"))),
        ("no audience", with("aud", Value::Null)),
        ("a critical extension", encode(&critical, &good, &secret).unwrap()),
    ] {
        assert_eq!(health(&bad).await, 401, "{what}");
    }
    // Clocks differ: a token may begin in a moment, and one that ended half a second ago has expired.
    for nbf in [json!(now() + 2), json!(now() as f64 + 2.7), json!(now() as f64 - 0.1), json!(0.5)] {
        assert_eq!(health(&with("nbf", nbf.clone())).await, 200, "{nbf}");
    }
    // Without permissions it gives no access here.
    assert_eq!(health(&with("permissions", Value::Null)).await, 403);
    assert_eq!(health(&with("permissions", json!(7))).await, 403);
    assert_eq!(health(&with("permissions", json!(["ops:read", 7, "unknown"]))).await, 200);
}
