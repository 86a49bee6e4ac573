//! Mails, what accounts do by them, and one-time passwords.

use serde_json::{Value, json};

use crate::issuers::certified;
use crate::pocketbase::{COLLECTIONS, good, records, refused, send, start};
use crate::pocketbase_settings::change;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service, eventually};
use crate::support::smtp::{Manner, SmtpServer};

const INVALID: &str = "An error occurred while validating the submitted data.";
const PASSWORD: &str = "correct horse battery";
const TEST: &str = "/api/settings/test/email";

fn of(collection: &str, action: &str) -> String {
    format!("{COLLECTIONS}/{collection}/{action}")
}

/// A collection of accounts, with more members.
async fn people(service: &Service, token: &str, name: &str, more: Value) -> Value {
    let fields = json!([{"name": "nick", "type": "text"}]);
    let mut body = json!({"name": name, "type": "auth", "fields": fields, "createRule": "", "viewRule": "", "authAlert": {"enabled": false}});
    for (member, value) in more.as_object().unwrap() {
        body[member] = value.clone();
    }
    good(service, "POST", COLLECTIONS, token, &body).await
}

async fn sign_up(service: &Service, name: &str, email: &str) -> Value {
    let body = json!({"email": email, "password": PASSWORD, "passwordConfirm": PASSWORD, "nick": "<i>Ada"});
    good(service, "POST", &records(name), "", &body).await
}

async fn sign_in(service: &Service, name: &str, email: &str, password: &str) -> Value {
    let body = json!({"identity": email, "password": password});
    good(service, "POST", &of(name, "auth-with-password"), "", &body).await
}

/// The first match in a mail to an address, once there is one.
async fn in_mail(server: &SmtpServer, address: &str, pattern: &str) -> String {
    let pattern = regex::Regex::new(pattern).unwrap();
    eventually("the mail", async || {
        server.to(address).iter().find_map(|mail| Some(pattern.captures(&mail.text)?[1].to_owned()))
    })
    .await
}

async fn metric(service: &Service, outcome: &str) -> u64 {
    service.health().await["mails"][outcome].as_u64().unwrap()
}

#[tokio::test]
async fn mails_go_to_the_server_of_the_settings_and_without_one_to_files() {
    let database = TestDatabase::create().await;
    let folder = Folder::new();
    let variables = [("MODULES", "events,records,pocketbase"), ("DATA_DIR", folder.path())];
    let service = Service::start(database.url(), &variables).await;
    let token = crate::support::accounts::key(&database, &["--admin"]).await;
    people(&service, &token, "people", json!({})).await;
    let test =
        |email: &str, template: &str| json!({"email": email, "template": template, "collection": "people"});
    good(&service, "POST", TEST, &token, &test("ada@example.com", "otp")).await;
    let files: Vec<_> = std::fs::read_dir(format!("{}/mail", folder.path())).unwrap().collect();
    assert_eq!(files.len(), 1);
    let path = files[0].as_ref().unwrap().path();
    let mail = std::fs::read_to_string(&path).unwrap();
    assert!(mail.contains("To: ada@example.com") && mail.contains("123456"), "{mail}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let server = SmtpServer::start(Manner::Takes).await;
    change(&service, &token, server.settings()).await;
    let named =
        json!({"meta": {"appName": "Tide", "senderName": "The Té", "senderAddress": "post@tide.example"}});
    change(&service, &token, named).await;
    change(&service, &token, json!({"smtp": {"username": "u", "password": "p"}})).await;
    for template in ["verification", "password-reset", "email-change", "otp", "login-alert"] {
        good(&service, "POST", TEST, &token, &test("bob@example.com", template)).await;
    }
    let mails = server.to("bob@example.com");
    assert_eq!(mails.len(), 5);
    let verification = &mails[0].text;
    for text in [
        "Subject: Verify your Tide email",
        "<post@tide.example>",
        "text/plain",
        "text/html",
        "/_/#/auth/confirm-verification/__pb_test_token__",
    ] {
        assert!(verification.contains(text), "{text}: {verification}");
    }
    // base64 of \0u\0p
    assert_eq!(mails[0].auth, "AUTH PLAIN AHUAcA==");
    assert_eq!((metric(&service, "sent").await, metric(&service, "failed").await), (6, 0));

    let failed = "Failed to send the test email.";
    let data = refused(&service, ("POST", TEST, &token, &json!({})), 400, failed).await;
    assert_eq!(
        (&data["email"]["code"], &data["template"]["code"]),
        (&json!("validation_required"), &json!("validation_required"))
    );
    let bad = json!({"email": "x", "template": "nope", "collection": "nobody"});
    let data = refused(&service, ("POST", TEST, &token, &bad), 400, failed).await;
    assert_eq!(
        (&data["email"]["code"], &data["collection"]["code"]),
        (&json!("validation_is_email"), &json!("validation_invalid_auth_collection"))
    );
    refused(
        &service,
        ("POST", TEST, "", &json!({})),
        401,
        "The request requires valid record authorization token.",
    )
    .await;
}

#[tokio::test]
async fn failures_of_the_mail_server_are_answered_logged_once_counted_and_in_health() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    people(&service, &token, "people", json!({})).await;
    let server = SmtpServer::start(Manner::RefusesCredentials).await;
    change(&service, &token, server.settings()).await;
    change(&service, &token, json!({"smtp": {"username": "u", "password": "hunter2"}})).await;
    let test = json!({"email": "ada@example.com", "template": "otp", "collection": "people"});
    for _ in 0..3 {
        let answer = send(&service, "POST", TEST, &token, &test).await;
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(
            message.starts_with("Failed to send the test email. Raw error: \n") && message.contains("535"),
            "{message}"
        );
        assert!(!message.contains("hunter2"), "{message}");
    }
    let task = |health: &Value| {
        health["tasks"].as_array().unwrap().iter().find(|task| task["name"] == "mailer").cloned().unwrap()
    };
    let health = service.health().await;
    assert_eq!((&health["mails"]["failed"], &task(&health)["state"]), (&json!(3), &json!("failing")));
    assert_eq!(service.log().matches("\"task\":\"mailer\"").count(), 1, "{}", service.log());
    assert!(!service.log().contains("hunter2"));

    // A refused recipient is a fault of the mail alone.
    server.become_of(Manner::RefusesRecipients);
    let answer = send(&service, "POST", TEST, &token, &test).await;
    assert!(answer.json()["message"].as_str().unwrap().contains("550"));
    let health = service.health().await;
    assert_eq!((&health["mails"]["refused"], &task(&health)["state"]), (&json!(1), &json!("running")));
    server.become_of(Manner::Takes);
    good(&service, "POST", TEST, &token, &test).await;
    assert_eq!(metric(&service, "sent").await, 1);
}

#[tokio::test]
async fn an_address_is_proven_by_a_mail_and_unknown_ones_are_answered_alike() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let collection = people(&service, &token, "people", json!({})).await;
    let mut template = collection["verificationTemplate"].clone();
    template["body"] = "{RECORD:nick} {RECORD:email} {APP_URL}/verify/{TOKEN}.".into();
    good(&service, "PATCH", "/api/collections/people", &token, &json!({"verificationTemplate": template}))
        .await;
    // Busy at first: the mail is sent again.
    let server = SmtpServer::start(Manner::IsBusyOnce).await;
    change(&service, &token, server.settings()).await;
    sign_up(&service, "people", "ada@example.com").await;
    let (request, confirm) = (of("people", "request-verification"), of("people", "confirm-verification"));
    for email in ["ada@example.com", "nobody@example.com", "ada@example.com"] {
        let answer = send(&service, "POST", &request, "", &json!({"email": email})).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (204, 0), "{email}");
    }
    let found = in_mail(&server, "ada@example.com", r"/verify/([\w.-]+)\.\s").await;
    let mail = &server.to("ada@example.com")[0].text;
    assert!(mail.contains("&lt;i&gt;Ada ada@example.com http://localhost:8090/verify/"), "{mail}");
    for (body, code) in [
        (json!({}), "validation_required"),
        (json!({"token": "garbage"}), "validation_invalid_token_claims"),
        (json!({"token": format!("{found}x")}), "validation_invalid_token"),
    ] {
        let data = refused(&service, ("POST", &confirm, "", &body), 400, INVALID).await;
        assert_eq!(data["token"]["code"], code, "{body}");
    }
    let other = people(&service, &token, "others", json!({})).await;
    assert_ne!(other["id"], collection["id"]);
    let elsewhere = of("others", "confirm-verification");
    let data = refused(&service, ("POST", &elsewhere, "", &json!({"token": found})), 400, INVALID).await;
    assert_eq!(data["token"]["code"], "validation_token_collection_mismatch");
    good(&service, "POST", &confirm, "", &json!({"token": found})).await;
    assert_eq!(sign_in(&service, "people", "ada@example.com", PASSWORD).await["record"]["verified"], true);
    // A verified address gets no further mail, and one mail came in two minutes.
    good(&service, "POST", &request, "", &json!({"email": "ada@example.com"})).await;
    good(
        &service,
        "POST",
        TEST,
        &token,
        &json!({"email": "last@example.com", "template": "otp", "collection": "people"}),
    )
    .await;
    assert_eq!((server.to("ada@example.com").len(), server.count()), (1, 2));
    let limits = "select count(*) from mail_limits";
    let left: i64 = database.connect().await.query_one(limits, &[]).await.unwrap().get(0);
    assert_eq!(left, 2);

    let bad = refused(&service, ("POST", &request, "", &json!({"email": "x"})), 400, INVALID).await;
    assert_eq!(bad["email"]["code"], "validation_is_email");
    let verified = "All superusers are verified by default.";
    refused(&service, ("POST", &of("_superusers", "request-verification"), "", &json!({})), 400, verified)
        .await;
}

#[tokio::test]
async fn a_forgotten_password_is_set_once_by_a_mail_and_ends_all_tokens() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    people(&service, &token, "people", json!({})).await;
    let server = SmtpServer::start(Manner::Takes).await;
    change(&service, &token, server.settings()).await;
    sign_up(&service, "people", "ada@example.com").await;
    let before = sign_in(&service, "people", "ada@example.com", PASSWORD).await["token"].clone();
    let (request, confirm) = (of("people", "request-password-reset"), of("people", "confirm-password-reset"));
    for _ in 0..3 {
        good(&service, "POST", &request, "", &json!({"email": "ada@example.com"})).await;
    }
    let found = in_mail(&server, "ada@example.com", r"confirm-password-reset/([\w.-]+)").await;
    let body = |password: &str, confirm: &str| json!({"token": found, "password": password, "passwordConfirm": confirm});
    let data =
        refused(&service, ("POST", &confirm, "", &body("a new password", "another")), 400, INVALID).await;
    assert_eq!(data["passwordConfirm"]["code"], "validation_values_mismatch");
    let short = send(&service, "POST", &confirm, "", &body("short", "short")).await.json();
    assert_eq!(short["data"]["password"]["code"], "validation_min_text_constraint", "{short}");
    good(&service, "POST", &confirm, "", &body("a new password", "a new password")).await;
    let again =
        refused(&service, ("POST", &confirm, "", &body("a new password", "a new password")), 400, INVALID)
            .await;
    assert_eq!(again["token"]["code"], "validation_invalid_token");
    let signed = sign_in(&service, "people", "ada@example.com", "a new password").await;
    assert_eq!(signed["record"]["verified"], true);
    let refresh =
        send(&service, "POST", &of("people", "auth-refresh"), before.as_str().unwrap(), &json!({})).await;
    assert_eq!(refresh.status.as_u16(), 401);
    assert_eq!(server.to("ada@example.com").len(), 1);
    // Used: the next mail may come at once.
    good(&service, "POST", &request, "", &json!({"email": "ada@example.com"})).await;
    eventually("another mail", async || (server.to("ada@example.com").len() == 2).then_some(())).await;
}

#[tokio::test]
async fn an_address_is_changed_by_a_mail_to_the_new_one_and_the_password() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    people(&service, &token, "people", json!({})).await;
    let server = SmtpServer::start(Manner::Takes).await;
    change(&service, &token, server.settings()).await;
    sign_up(&service, "people", "ada@example.com").await;
    sign_up(&service, "people", "bob@example.com").await;
    let ada =
        sign_in(&service, "people", "ada@example.com", PASSWORD).await["token"].as_str().unwrap().to_owned();
    let (request, confirm) = (of("people", "request-email-change"), of("people", "confirm-email-change"));
    for (email, code) in [
        ("", "validation_required"),
        ("x", "validation_is_email"),
        ("ada@example.com", "validation_not_in_invalid"),
        ("bob@example.com", "validation_invalid_new_email"),
    ] {
        let data =
            refused(&service, ("POST", &request, &ada, &json!({"newEmail": email})), 400, INVALID).await;
        assert_eq!(data["newEmail"]["code"], code, "{email}");
    }
    let needed = "The request requires valid record authorization token.";
    refused(&service, ("POST", &request, "", &json!({"newEmail": "new@example.com"})), 401, needed).await;
    server.become_of(Manner::RefusesRecipients);
    let failed = "Failed to request email change.";
    refused(&service, ("POST", &request, &ada, &json!({"newEmail": "new@example.com"})), 400, failed).await;
    server.become_of(Manner::Takes);
    good(&service, "POST", &request, &ada, &json!({"newEmail": "new@example.com"})).await;
    let found = in_mail(&server, "new@example.com", r"confirm-email-change/([\w.-]+)").await;
    let data = refused(
        &service,
        ("POST", &confirm, "", &json!({"token": "garbage", "password": "x"})),
        400,
        INVALID,
    )
    .await;
    assert_eq!(
        (&data["token"]["code"], &data["password"]["code"]),
        (&json!("validation_invalid_token_payload"), &json!("validation_invalid_password"))
    );
    let wrong = json!({"token": found, "password": "wrong password"});
    let data = refused(&service, ("POST", &confirm, "", &wrong), 400, INVALID).await;
    assert_eq!(data["password"]["code"], "validation_invalid_password");
    good(&service, "POST", &confirm, "", &json!({"token": found, "password": PASSWORD})).await;
    let signed = sign_in(&service, "people", "new@example.com", PASSWORD).await;
    assert_eq!(
        (&signed["record"]["email"], &signed["record"]["verified"]),
        (&json!("new@example.com"), &json!(true))
    );
    let old = send(&service, "POST", &of("people", "auth-refresh"), &ada, &json!({})).await;
    assert_eq!(old.status.as_u16(), 401);
}

#[tokio::test]
async fn a_one_time_password_signs_in_once_proves_the_address_and_can_be_guessed_five_times() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let otp = json!({"otp": {"enabled": true, "duration": 180, "length": 6}});
    people(&service, &token, "people", otp).await;
    let server = SmtpServer::start(Manner::Takes).await;
    change(&service, &token, server.settings()).await;
    sign_up(&service, "people", "ada@example.com").await;
    let (request, sign) = (of("people", "request-otp"), of("people", "auth-with-otp"));
    let id_of = async |email: &str| {
        let answer = good(&service, "POST", &request, "", &json!({"email": email})).await;
        assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
        answer["otpId"].as_str().unwrap().to_owned()
    };
    let unknown = id_of("nobody@example.com").await;
    assert!(
        unknown.len() == 15 && unknown.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()),
        "{unknown}"
    );
    let id = id_of("ada@example.com").await;
    let code = in_mail(&server, "ada@example.com", r"<strong>(\d{6})</strong>").await;
    // The address that the password went to is recorded behind the mail.
    let sent = "select count(*) from public_collections.\"_otps\" where \"sentTo\" = 'ada@example.com'";
    let client = database.connect().await;
    eventually("the address is recorded", async || {
        let rows: i64 = client.query_one(sent, &[]).await.unwrap().get(0);
        (rows == 1).then_some(())
    })
    .await;
    let body = |id: &str, password: &str| json!({"otpId": id, "password": password});
    let expired = "Invalid or expired OTP.";
    refused(&service, ("POST", &sign, "", &body(&id, "x")), 400, expired).await;
    refused(&service, ("POST", &sign, "", &body(&unknown, &code)), 400, expired).await;
    let signed = good(&service, "POST", &sign, "", &body(&id, &code)).await;
    assert_eq!(
        (&signed["record"]["email"], &signed["record"]["verified"]),
        (&json!("ada@example.com"), &json!(true))
    );
    assert!(signed["token"].is_string());
    refused(&service, ("POST", &sign, "", &body(&id, &code)), 400, expired).await;
    // Whoever had signed up with the address before proved nothing: their password is void.
    let before = json!({"identity": "ada@example.com", "password": PASSWORD});
    refused(
        &service,
        ("POST", &of("people", "auth-with-password"), "", &before),
        400,
        "Failed to authenticate.",
    )
    .await;

    sign_up(&service, "people", "bob@example.com").await;
    let id = id_of("bob@example.com").await;
    let code = in_mail(&server, "bob@example.com", r"<strong>(\d{6})</strong>").await;
    for _ in 0..5 {
        refused(&service, ("POST", &sign, "", &body(&id, "000")), 400, expired).await;
    }
    for password in ["000", &code] {
        refused(&service, ("POST", &sign, "", &body(&id, password)), 429, "Too Many Requests.").await;
    }
    // Of too many the last one is used again, without a mail.
    let mut last = String::new();
    for n in 0..9 {
        last = id_of("bob@example.com").await;
        eventually("each mail", async || (server.to("bob@example.com").len() == n + 2).then_some(())).await;
    }
    assert_eq!(id_of("bob@example.com").await, last);
    assert_eq!(server.to("bob@example.com").len(), 10);
    let empty = refused(&service, ("POST", &sign, "", &json!({})), 400, INVALID).await;
    assert_eq!(
        (&empty["otpId"]["code"], &empty["password"]["code"]),
        (&json!("validation_required"), &json!("validation_required"))
    );
    good(&service, "PATCH", "/api/collections/people", &token, &json!({"otp": {"enabled": false}})).await;
    let off = "The collection is not configured to allow OTP authentication.";
    refused(&service, ("POST", &request, "", &json!({"email": "ada@example.com"})), 403, off).await;
}

#[tokio::test]
async fn a_one_time_password_is_the_second_factor_of_a_password() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let options = json!({"otp": {"enabled": true}, "mfa": {"enabled": true, "duration": 600}});
    people(&service, &token, "people", options).await;
    let server = SmtpServer::start(Manner::Takes).await;
    change(&service, &token, server.settings()).await;
    sign_up(&service, "people", "ada@example.com").await;
    let with_password = json!({"identity": "ada@example.com", "password": PASSWORD});
    let first = send(&service, "POST", &of("people", "auth-with-password"), "", &with_password).await;
    assert_eq!(first.status.as_u16(), 401);
    let session = first.json()["mfaId"].as_str().unwrap().to_owned();
    assert_eq!(first.json(), json!({"mfaId": session}));
    let asked =
        good(&service, "POST", &of("people", "request-otp"), "", &json!({"email": "ada@example.com"})).await;
    let code = in_mail(&server, "ada@example.com", r"<strong>(\d{8})</strong>").await;
    let body = json!({"otpId": asked["otpId"], "password": code, "mfaId": session});
    let signed = good(&service, "POST", &of("people", "auth-with-otp"), "", &body).await;
    assert_eq!(signed["record"]["email"], "ada@example.com");
}

#[tokio::test]
async fn a_silent_mail_server_holds_up_no_request_for_a_mail() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    people(&service, &token, "people", json!({"otp": {"enabled": true}})).await;
    let server = SmtpServer::start(Manner::IsSilent).await;
    change(&service, &token, server.settings()).await;
    sign_up(&service, "people", "ada@example.com").await;
    // Each answer comes though no mail is done, and stays within the queue.
    for _ in 0..5 {
        for action in ["request-verification", "request-password-reset", "request-otp"] {
            let answer =
                send(&service, "POST", &of("people", action), "", &json!({"email": "ada@example.com"})).await;
            assert!(answer.status.is_success(), "{action}: {answer:?}");
        }
    }
    assert_eq!(metric(&service, "sent").await, 0);
}

#[tokio::test]
async fn a_sign_in_from_a_new_place_is_reported_by_mail_and_the_first_one_is_not() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    people(&service, &token, "people", json!({"authAlert": {"enabled": true}})).await;
    let server = SmtpServer::start(Manner::Takes).await;
    change(&service, &token, server.settings()).await;
    sign_up(&service, "people", "ada@example.com").await;
    let client = database.connect().await;
    for (at, agent) in ["one", "two", "two", "three"].into_iter().enumerate() {
        let headers = [("content-type", "application/json"), ("user-agent", agent)];
        let body = json!({"identity": "ada@example.com", "password": PASSWORD}).to_string();
        let answer = service.request("POST", &of("people", "auth-with-password"), &headers, body).await;
        assert_eq!(answer.status.as_u16(), 200);
        let known = [1, 2, 2, 3][at];
        eventually("the place is recorded", async || {
            let rows = "select count(*) from public_collections.\"_authOrigins\"";
            let rows: i64 = client.query_one(rows, &[]).await.unwrap().get(0);
            (rows == known).then_some(())
        })
        .await;
    }
    eventually("the mails", async || (server.to("ada@example.com").len() == 2).then_some(())).await;
    let mails = server.to("ada@example.com");
    assert!(mails.iter().any(|mail| mail.text.contains("127.0.0.1 three")), "{mails:?}");
    assert!(!mails.iter().any(|mail| mail.text.contains("127.0.0.1 one")), "{mails:?}");
}

#[tokio::test]
async fn a_connection_begins_with_tls_and_only_a_trusted_server_gets_mails() {
    let database = TestDatabase::create().await;
    let folder = Folder::new();
    let file = format!("{}/authority.pem", folder.path());
    // The system's authorities are trusted; SSL_CERT_FILE names others in their place.
    let (tls, authority) = certified("127.0.0.1");
    std::fs::write(&file, authority).unwrap();
    let server = SmtpServer::start_with(Manner::Takes, Some(tls)).await;
    let plain = SmtpServer::start(Manner::Takes).await;
    let test = json!({"email": "ada@example.com", "template": "otp"});
    for is_trusted in [true, false] {
        let mut variables = vec![("MODULES", "events,records,pocketbase")];
        if is_trusted {
            variables.push(("SSL_CERT_FILE", file.as_str()));
        }
        let service = Service::start(database.url(), &variables).await;
        let token = crate::support::accounts::key(&database, &["--admin"]).await;
        change(&service, &token, server.settings()).await;
        change(&service, &token, json!({"smtp": {"tls": true}})).await;
        let answer = send(&service, "POST", TEST, &token, &test).await;
        assert_eq!(answer.status.is_success(), is_trusted, "{answer:?}");
        change(&service, &token, plain.settings()).await;
        let answer = send(&service, "POST", TEST, &token, &test).await;
        assert_eq!(answer.status.as_u16(), 400, "a server without TLS gets none: {answer:?}");
    }
    assert_eq!((server.count(), plain.count()), (1, 0));
}
