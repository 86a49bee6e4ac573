//! Users and sessions: who registers, logs in, goes on and logs out.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::accounts::{
    PASSWORD, Tokens, guarded, key, log_in, me, refresh, register, send, tidegate,
};
use crate::support::postgres::{Scratch, TestDatabase};
use crate::support::service::{Service, eventually};

const ADA: &str = "ada@example.com";

#[tokio::test]
async fn a_user_registers_once_logs_in_and_is_told_who_he_is() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    let user = register(&service, ADA).await;
    let own = json!(["conversations:read", "conversations:write", "files:read", "files:write"]);
    assert_eq!((&user["email"], &user["permissions"]), (&json!(ADA), &own));
    let body = json!({"email": "ADA@Example.com", "password": PASSWORD});
    let again = send(&service, "POST", "/api/auth/register", "", &body).await;
    assert_eq!((again.status.as_u16(), &again.json()["error"]["field"]), (409, &json!("email")));

    let tokens = Tokens::of(&send(&service, "POST", "/api/auth/login", "", &body).await);
    let answer = send(&service, "GET", "/api/auth/me", &tokens.access, &Value::Null).await.json();
    assert_eq!(
        (&answer["id"], &answer["email"], &answer["kind"]),
        (&user["id"], &json!(ADA), &json!("user"))
    );
    let sessions = send(&service, "GET", "/api/auth/sessions", &tokens.access, &Value::Null).await.json();
    assert_eq!((sessions.as_array().unwrap().len(), &sessions[0]["current"]), (1, &json!(true)));
    assert_eq!((&sessions[0]["id"], &sessions[0]["address"]), (&answer["session"], &json!("127.0.0.1")));

    let rows = database
        .connect()
        .await
        .query("select password_hash, s.current_hash::text from users, sessions s", &[])
        .await
        .unwrap();
    let (hash, refresh): (String, String) = (rows[0].get(0), rows[0].get(1));
    assert!(hash.starts_with("$argon2id$") && !refresh.contains(&tokens.refresh), "{hash}");
}

#[tokio::test]
async fn an_unknown_user_and_a_wrong_password_answer_alike_and_take_alike() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    register(&service, ADA).await;
    let mut times = [Vec::new(), Vec::new()];
    let mut answers = Vec::new();
    for _ in 0..8 {
        for (place, email) in [ADA, "nobody@example.com"].into_iter().enumerate() {
            let began = Instant::now();
            let body = json!({"email": email, "password": "wrong password"});
            let answer = send(&service, "POST", "/api/auth/login", "", &body).await;
            times[place].push(began.elapsed());
            assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (401, "wrong_credentials"));
            let names: Vec<_> = answer.headers.keys().cloned().collect();
            answers.push((answer.body, names));
        }
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let [known, unknown] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    let ratio = known.as_secs_f64() / unknown.as_secs_f64();
    assert!((0.5..2.0).contains(&ratio) && unknown > Duration::from_millis(5), "{known:?} {unknown:?}");
}

#[tokio::test]
async fn an_email_and_a_password_are_the_same_however_a_keyboard_composes_them() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    let (composed, decomposed) = ("jos\u{e9}@example.com", "jose\u{301}@example.com");
    let (password, typed) = ("m\u{fc}nchen \u{1e69}", "mu\u{308}nchen s\u{307}\u{323}");
    let ask = async |path: &str, email: &str, password: &str| {
        send(&service, "POST", path, "", &json!({"email": email, "password": password})).await
    };
    let made = ask("/api/auth/register", decomposed, typed).await;
    assert_eq!((made.status.as_u16(), &made.json()["email"]), (201, &json!(composed)));
    for email in [composed, decomposed, "JOSE\u{301}@example.com"] {
        assert_eq!(ask("/api/auth/register", email, password).await.status.as_u16(), 409, "{email}");
        for password in [password, typed] {
            assert_eq!(
                ask("/api/auth/login", email, password).await.status.as_u16(),
                200,
                "{email} {password}"
            );
        }
        assert_eq!(ask("/api/auth/login", email, "munchen s").await.status.as_u16(), 401);
    }

    // Earlier versions stored both as they were typed. A hash holds its own cost.
    let hash = {
        use argon2::password_hash::{PasswordHasher, SaltString};
        let cheap = argon2::Params::new(64, 1, 1, None).unwrap();
        let hasher = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, cheap);
        let salt = SaltString::encode_b64(b"sixteen bytes...").unwrap();
        hasher.hash_password(typed.as_bytes(), &salt).unwrap().to_string()
    };
    let client = database.connect().await;
    let add = "insert into users (email, password_hash) values ($1, $2)";
    client.execute(add, &[&"rene\u{301}@example.com", &hash]).await.unwrap();
    for email in ["ren\u{e9}@example.com", "rene\u{301}@example.com"] {
        assert_eq!(ask("/api/auth/login", email, typed).await.status.as_u16(), 200, "{email}");
        assert_eq!(ask("/api/auth/register", email, typed).await.status.as_u16(), 409, "{email}");
    }
    let listed = tidegate(&database, &["users", "log-out", "ren\u{e9}@example.com"], "").await;
    assert!(listed.is_ok(), "{listed:?}");
}

#[tokio::test]
async fn bad_input_is_refused_by_name_and_is_not_repeated() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    for (body, field) in [
        ("", "email"),
        ("[]", "body"),
        ("{", "body"),
        ("nul", "body"),
        ("{\"email\":1,\"password\":\"hunter22\"}", "email"),
        ("{\"email\":\"ada\",\"password\":\"hunter22\"}", "email"),
        ("{\"email\":\"a\\u0000@b\",\"password\":\"hunter22\"}", "email"),
        ("{\"email\":\"a@b\"}", "password"),
        ("{\"email\":\"a@b\",\"password\":\"short\"}", "password"),
        ("{\"email\":\"a@b\",\"password\":[\"hunter22\"]}", "password"),
        ("{\"email\":\"a@b\",\"password\":\"hunter22\",\"admin\":true}", "admin"),
        ("{\"email\":\"a@b\",\"password\":\"hunter22", "body"),
    ] {
        for path in ["/api/auth/register", "/api/auth/login"] {
            let answer = service.request("POST", path, &[], body).await;
            assert_eq!(
                (answer.status.as_u16(), answer.error_code().as_str()),
                (400, "invalid_request"),
                "{body}"
            );
            assert_eq!(answer.json()["error"]["field"], field, "{path} {body}");
            assert!(!String::from_utf8_lossy(&answer.body).contains("hunter22"));
        }
    }
    let long = json!({"email": "a@b", "password": "x".repeat(257)}).to_string();
    assert_eq!(
        service.request("POST", "/api/auth/login", &[], long).await.json()["error"]["field"],
        "password"
    );
    let huge = service.request("POST", "/api/auth/login", &[], "x".repeat(20_000)).await;
    assert_eq!(huge.status.as_u16(), 413);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(service.request("POST", "/api/auth/login", &form, "a=b").await.status.as_u16(), 415);
    let injected = json!({"email": "a@b' or '1'='1", "password": "hunter22"});
    assert_eq!(send(&service, "POST", "/api/auth/login", "", &injected).await.status.as_u16(), 400);
    for token in ["", "x", "tgr_", "tgr_0000.x", &format!("tgr_{}.{}", "0".repeat(32), "A".repeat(43))] {
        let answer = refresh(&service, token).await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (401, "unauthorized"), "{token}");
    }
    let off = guarded(&database, &[("REGISTRATION", "off")]).await;
    let body = json!({"email": "a@b", "password": PASSWORD});
    assert_eq!(send(&off, "POST", "/api/auth/register", "", &body).await.error_code(), "registration_off");
}

#[tokio::test]
async fn a_refresh_token_is_repeated_until_its_successor_is_used_and_ends_its_session_after_that() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    register(&service, ADA).await;
    let first = log_in(&service, ADA).await;
    // Two tabs at once get the same answer, and both go on with it.
    let (one, other) = tokio::join!(refresh(&service, &first.refresh), refresh(&service, &first.refresh));
    let (one, other) = (Tokens::of(&one), Tokens::of(&other));
    assert!(one.refresh == other.refresh && one.refresh != first.refresh);
    let third = Tokens::of(&refresh(&service, &one.refresh).await);
    assert_eq!((me(&service, &first.access).await, me(&service, &third.access).await), (200, 200));
    // The answer was lost, and is asked for again a day later: its successor is unused.
    let client = database.connect().await;
    client.batch_execute("update sessions set rotated = rotated - interval '1 day'").await.unwrap();
    let late = Tokens::of(&refresh(&service, &one.refresh).await);
    assert_eq!((me(&service, &late.access).await, late.refresh == third.refresh), (200, true));
    // Now it is used: one of the two who show the token before it has copied it.
    let fourth = Tokens::of(&refresh(&service, &third.refresh).await);
    assert_eq!(refresh(&service, &one.refresh).await.status.as_u16(), 401);
    assert_eq!(refresh(&service, &fourth.refresh).await.status.as_u16(), 401, "the family is ended");
    for access in [&first.access, &one.access, &third.access, &fourth.access] {
        assert_eq!(me(&service, access).await, 401);
    }
    let expired = log_in(&service, ADA).await;
    client.batch_execute("update sessions set expires = now() - interval '1 s'").await.unwrap();
    assert_eq!(refresh(&service, &expired.refresh).await.status.as_u16(), 401);
}

#[tokio::test]
async fn a_made_up_refresh_token_of_a_session_is_refused_and_ends_nothing() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    register(&service, ADA).await;
    let first = log_in(&service, ADA).await;
    let second = Tokens::of(&refresh(&service, &first.refresh).await);
    // Every access token carries its session's id.
    let claims = URL_SAFE_NO_PAD.decode(first.access.split('.').nth(1).unwrap()).unwrap();
    let session = serde_json::from_slice::<Value>(&claims).unwrap()["sid"].as_str().unwrap().replace('-', "");
    assert!(first.refresh.starts_with(&format!("tgr_{session}.")));
    let made_up = |bytes: usize| format!("tgr_{session}.{}", URL_SAFE_NO_PAD.encode(vec![7; bytes]));
    let mut changed = first.refresh.clone();
    let place = changed.find('.').unwrap() + 5;
    let other = if &changed[place..=place] == "A" { "Q" } else { "A" };
    changed.replace_range(place..=place, other);
    for token in [made_up(32), made_up(48), made_up(64), changed] {
        assert_eq!(refresh(&service, &token).await.status.as_u16(), 401, "{token}");
        assert_eq!(me(&service, &second.access).await, 200, "{token}");
    }
    let third = Tokens::of(&refresh(&service, &second.refresh).await);
    assert_eq!(me(&service, &third.access).await, 200);
    // One that was issued is reuse, however old it is.
    assert_eq!(refresh(&service, &first.refresh).await.status.as_u16(), 401);
    assert_eq!(me(&service, &third.access).await, 401);
}

#[tokio::test]
async fn logging_out_ends_every_token_of_the_session_at_once_everywhere_and_over_a_restart() {
    let database = TestDatabase::create().await;
    let (service, other) = tokio::join!(guarded(&database, &[]), guarded(&database, &[]));
    register(&service, ADA).await;
    let [out, kept] = [log_in(&service, ADA).await, log_in(&service, ADA).await];
    let second = Tokens::of(&refresh(&service, &out.refresh).await);
    assert_eq!((me(&service, &out.access).await, me(&other, &out.access).await), (200, 200));
    let answer = send(&service, "POST", "/api/auth/logout", &second.access, &Value::Null).await;
    assert_eq!(answer.status.as_u16(), 204);
    let ended = Instant::now();
    for token in [&out.access, &second.access] {
        assert_eq!(me(&service, token).await, 401);
    }
    eventually("the other node knows", async || (me(&other, &out.access).await == 401).then_some(())).await;
    assert!(ended.elapsed() < Duration::from_millis(1500), "{:?}", ended.elapsed());
    assert_eq!(refresh(&other, &second.refresh).await.status.as_u16(), 401);
    service.stop().await;
    let service = guarded(&database, &[]).await;
    let settled = eventually("sessions are known", async || {
        let status = me(&service, &second.access).await;
        (status != 503).then_some(status)
    });
    assert_eq!(settled.await, 401);
    assert_eq!(me(&service, &kept.access).await, 200);
}

#[tokio::test]
async fn a_session_that_is_not_used_ends_after_its_time() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("REFRESH_TOKEN_S", "60")]).await;
    register(&service, ADA).await;
    let [used, unused] = [log_in(&service, ADA).await, log_in(&service, ADA).await];
    let client = database.connect().await;
    let shift = async |seconds: u8| {
        let shift = format!("update sessions set expires = expires - interval '{seconds} s'");
        client.batch_execute(&shift).await.unwrap();
    };
    shift(40).await;
    let again = refresh(&service, &used.refresh).await;
    assert_eq!(again.status.as_u16(), 200, "{again:?}");
    shift(40).await;
    assert_eq!(refresh(&service, &unused.refresh).await.status.as_u16(), 401);
    let refresh_token = Tokens::of(&again).refresh;
    assert_eq!(refresh(&service, &refresh_token).await.status.as_u16(), 200, "its use has prolonged it");
}

#[tokio::test]
async fn a_user_ends_his_own_sessions_and_sees_no_others() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    for email in [ADA, "bob@example.com"] {
        register(&service, email).await;
    }
    let bob = log_in(&service, "bob@example.com").await;
    let id = async |token: &str| {
        send(&service, "GET", "/api/auth/me", token, &Value::Null).await.json()["session"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let [one, two] = [log_in(&service, ADA).await, log_in(&service, ADA).await];
    let path = format!("/api/auth/sessions/{}", id(&two.access).await);
    assert_eq!(send(&service, "DELETE", &path, &bob.access, &Value::Null).await.status.as_u16(), 404);
    assert_eq!(me(&service, &two.access).await, 200);
    assert_eq!(send(&service, "DELETE", &path, &one.access, &Value::Null).await.status.as_u16(), 204);
    assert_eq!((me(&service, &one.access).await, me(&service, &two.access).await), (200, 401));
    assert_eq!(
        send(&service, "DELETE", "/api/auth/sessions/x", &one.access, &Value::Null).await.status.as_u16(),
        404
    );
    for _ in 0..50 {
        log_in(&service, ADA).await;
    }
    assert_eq!(
        me(&service, &one.access).await,
        401,
        "the fifty-first session ended the one used least recently"
    );
    let api_key = key(&database, &["--admin"]).await;
    let answer = send(&service, "POST", "/api/auth/logout", &api_key, &Value::Null).await;
    assert_eq!(answer.status.as_u16(), 403, "a key has no session");
}

#[tokio::test]
async fn the_command_line_makes_users_and_gives_them_passwords_and_permissions() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    tidegate(&database, &["users", "add", ADA, "--permission", "ops:read"], PASSWORD).await.unwrap();
    assert!(tidegate(&database, &["users", "add", ADA], PASSWORD).await.unwrap_err().contains("taken"));
    assert!(tidegate(&database, &["users", "add", "x@y"], "short").await.unwrap_err().contains("8 to 256"));
    let tokens = log_in(&service, ADA).await;
    let health =
        async |token: &str| send(&service, "GET", "/api/health", token, &Value::Null).await.status.as_u16();
    assert_eq!(health(&tokens.access).await, 200);
    tidegate(&database, &["users", "permissions", ADA, "--permission", "stress"], "").await.unwrap();
    eventually("the session is over", async || (health(&tokens.access).await == 401).then_some(())).await;
    assert_eq!(health(&log_in(&service, ADA).await.access).await, 403);
    assert!(tidegate(&database, &["users", "list"], "").await.unwrap().contains("[stress]  ada@example.com"));
    tidegate(&database, &["users", "password", ADA], "another password\n").await.unwrap();
    let body = json!({"email": ADA, "password": PASSWORD});
    assert_eq!(send(&service, "POST", "/api/auth/login", "", &body).await.status.as_u16(), 401);
    let body = json!({"email": ADA, "password": "another password"});
    let tokens = Tokens::of(&send(&service, "POST", "/api/auth/login", "", &body).await);
    tidegate(&database, &["users", "delete", ADA], "").await.unwrap();
    eventually("the user is gone", async || (me(&service, &tokens.access).await == 401).then_some(())).await;
    assert_eq!(refresh(&service, &tokens.refresh).await.status.as_u16(), 401);
    assert!(tidegate(&database, &["users", "log-out", ADA], "").await.is_err());
}

#[tokio::test]
async fn a_flood_of_logins_stops_neither_events_nor_grows_without_bound() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    register(&service, ADA).await;
    let events = key(&database, &["--scope", "events:write"]).await;
    let before = service.resident_bytes();
    let flood = futures_util::future::join_all((0..200).map(|_| async {
        let body = json!({"email": ADA, "password": "wrong password"});
        send(&service, "POST", "/api/auth/login", "", &body).await.status.as_u16()
    }));
    let producing = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let began = Instant::now();
            assert_eq!(
                send(&service, "POST", "/api/v1/events", &events, &json!({})).await.status.as_u16(),
                202
            );
            slowest = slowest.max(began.elapsed());
        }
        slowest
    };
    let (statuses, slowest) = tokio::join!(flood, producing);
    assert!(statuses.iter().all(|status| matches!(status, 401 | 503)), "{statuses:?}");
    assert!(statuses.contains(&503) && statuses.contains(&401), "{statuses:?}");
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    assert!(service.resident_bytes() < before + (128 << 20));
}

#[tokio::test]
async fn with_a_private_postgres_the_secret_is_made_once_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::with_cluster(&[]).await;
    let path = scratch.path().join("jwt.secret");
    let variables =
        [("DATA_DIR", scratch.path().to_str().unwrap()), ("AUTH", "required"), ("REGISTRATION", "on")];
    let service = Service::start_with(&variables).await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    register(&service, ADA).await;
    let tokens = log_in(&service, ADA).await;
    service.stop().await;
    let secret = std::fs::read_to_string(&path).unwrap();
    let service = Service::start_with(&variables).await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), secret);
    let status = eventually("sessions are known", async || {
        let status = me(&service, &tokens.access).await;
        (status != 503).then_some(status)
    });
    assert_eq!(status.await, 200, "tokens outlive a restart");
    assert!(!service.log().contains(secret.trim()));
    service.stop().await;
}

#[tokio::test]
async fn no_secret_is_ever_logged() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("LOG", "trace")]).await;
    register(&service, ADA).await;
    let tokens = log_in(&service, ADA).await;
    let next = Tokens::of(&refresh(&service, &tokens.refresh).await);
    let api_key = key(&database, &["--scope", "events:write"]).await;
    send(&service, "POST", "/api/v1/events", &api_key, &json!({})).await;
    service.request("GET", "/api/auth/me", &[("x-api-key", &api_key)], "").await;
    send(&service, "GET", "/api/auth/me", "made-up-token", &Value::Null).await;
    let body = json!({"email": ADA, "password": "wrong password"});
    send(&service, "POST", "/api/auth/login", "", &body).await;
    let last = Tokens::of(&refresh(&service, &next.refresh).await);
    refresh(&service, &tokens.refresh).await;
    let log = service.stop().await.log;
    assert!(log.contains("a refresh token was used again"), "{log}");
    let secrets = [
        crate::support::accounts::SECRET,
        PASSWORD,
        "wrong password",
        "made-up-token",
        "argon2id",
        &tokens.access,
        &tokens.refresh,
        &next.access,
        &next.refresh,
        &last.refresh,
        &api_key,
    ];
    for secret in secrets {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
