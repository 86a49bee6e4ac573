//! Records that sign in: passwords, tokens, rules about the caller, and what other callers and other faces do not see.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::pocketbase::{COLLECTIONS, found, good, make, path_of, records, refused, send, start};
use crate::support::accounts::{guarded, key};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};
use crate::support::sse::EventStream;

const SECRET: &str = "correct horse";
const FAILED: &str = "Failed to authenticate.";
const NO_TOKEN: &str = "The request requires valid record authorization token.";
const NOT_FOUND: &str = "The requested resource wasn't found.";
const GENERIC: &str = "Something went wrong while processing your request.";

/// Makes an auth collection whose records everyone sees, and each of which changes itself.
async fn people(service: &Service, token: &str, name: &str, fields: Value, more: Value) -> Value {
    let mut body = json!({
        "name": name, "type": "auth", "fields": fields, "listRule": "", "viewRule": "", "createRule": "",
        "updateRule": "id = @request.auth.id", "deleteRule": "id = @request.auth.id",
    });
    for (member, value) in more.as_object().unwrap() {
        body[member] = value.clone();
    }
    good(service, "POST", COLLECTIONS, token, &body).await
}

fn account(email: &str, more: &Value) -> Value {
    let mut body = json!({"email": email, "password": SECRET, "passwordConfirm": SECRET});
    for (member, value) in more.as_object().unwrap() {
        body[member] = value.clone();
    }
    body
}

/// Signs up; returns the record.
async fn sign_up(service: &Service, name: &str, email: &str, more: &Value) -> Value {
    good(service, "POST", &records(name), "", &account(email, more)).await
}

/// Signs in; returns the token.
async fn sign_in(service: &Service, name: &str, email: &str, password: &str) -> String {
    let path = format!("{COLLECTIONS}/{name}/auth-with-password");
    let answer = good(service, "POST", &path, "", &json!({"identity": email, "password": password})).await;
    answer["token"].as_str().unwrap().to_owned()
}

fn claims(token: &str) -> Value {
    let claims = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

async fn status(service: &Service, method: &str, path: &str, token: &str, body: &Value) -> u16 {
    send(service, method, path, token, body).await.status.as_u16()
}

#[tokio::test]
async fn a_record_signs_up_signs_in_and_prolongs_its_token() {
    let database = TestDatabase::create().await;
    let (service, admin) = start(&database).await;
    let staff = people(&service, &admin, "staff", json!([{"name": "nick", "type": "text"}]), json!({})).await;
    let made =
        sign_up(&service, "staff", "ann@example.com", &json!({"nick": "Ann", "tokenKey": "x".repeat(40)}))
            .await;
    assert_eq!(
        made,
        json!({
            "collectionId": staff["id"], "collectionName": "staff", "id": made["id"], "nick": "Ann",
            "emailVisibility": false, "verified": false,
        })
    );
    let with = |action: &str| format!("{COLLECTIONS}/staff/{action}");
    let form = json!({"identity": "ann@example.com", "password": SECRET});
    let answer = good(&service, "POST", &with("auth-with-password"), "", &form).await;
    let token = answer["token"].as_str().unwrap().to_owned();
    let mut shown = made.clone();
    shown["email"] = json!("ann@example.com");
    assert_eq!(answer["record"], shown);
    let said = claims(&token);
    assert_eq!(
        (&said["id"], &said["type"], &said["collectionId"], &said["refreshable"]),
        (&made["id"], &json!("auth"), &staff["id"], &json!(true))
    );
    // As a form, too: values that look like numbers are texts.
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let body = "identity=ann%40example.com&password=correct+horse&identityField=email";
    let answer = service.request("POST", &with("auth-with-password"), &headers, body).await;
    assert_eq!(answer.status.as_u16(), 200, "{:?}", answer.body);

    for token in [token.clone(), format!("Bearer {token}"), format!("bearer {token}")] {
        let answer =
            good(&service, "POST", &with("auth-refresh?fields=token,record.id"), &token, &Value::Null).await;
        assert_eq!(answer["record"], json!({"id": made["id"]}));
    }
    let refresh = with("auth-refresh");
    for bad in ["", "garbage", &format!("{token}x"), "Basic abc", "a.b.c", &admin] {
        refused(&service, ("POST", &refresh, bad, &Value::Null), 401, NO_TOKEN).await;
    }
    people(&service, &admin, "others", json!([]), json!({})).await;
    let message = "The request requires auth record from staff collection.";
    let elsewhere = format!("{COLLECTIONS}/others/auth-refresh");
    refused(&service, ("POST", &elsewhere, &token, &Value::Null), 403, message).await;

    // A superuser lends a token that ends by itself.
    let lend = with(&format!("impersonate/{}", made["id"].as_str().unwrap()));
    let lent = good(&service, "POST", &lend, &admin, &json!({"duration": 60})).await["token"].clone();
    assert_eq!(claims(lent.as_str().unwrap())["refreshable"], json!(false));
    let again = good(&service, "POST", &with("auth-refresh"), lent.as_str().unwrap(), &Value::Null).await;
    assert_eq!(again["token"], lent);
    refused(&service, ("POST", &lend, "", &json!({})), 401, NO_TOKEN).await;
    let message = "The authorized record is not allowed to perform this action.";
    refused(&service, ("POST", &lend, &token, &json!({})), 403, message).await;
    refused(&service, ("POST", &with("impersonate/nothing"), &admin, &json!({})), 404, NOT_FOUND).await;
    let negative = ("POST", lend.as_str(), admin.as_str(), &json!({"duration": -1}));
    let invalid = "An error occurred while validating the submitted data.";
    let data = refused(&service, negative, 400, invalid).await;
    assert_eq!(data["duration"]["code"], "validation_min_greater_equal_than_required");

    let methods =
        good(&service, "GET", &with("auth-methods?fields=mfa,otp,password,oauth2"), "", &Value::Null).await;
    assert_eq!(
        methods,
        json!({
            "mfa": {"enabled": false, "duration": 0}, "otp": {"enabled": false, "duration": 0},
            "password": {"enabled": true, "identityFields": ["email"]}, "oauth2": {"enabled": false, "providers": []},
        })
    );
    let context = "Missing or invalid collection context.";
    refused(&service, ("GET", "/api/collections/nothing/auth-methods", "", &Value::Null), 404, context).await;
    let context = "Missing or invalid auth collection context.";
    refused(&service, ("POST", "/api/collections/_mfas/auth-with-password", "", &json!({})), 404, context)
        .await;
}

#[tokio::test]
async fn wrong_credentials_are_told_nothing_and_forms_are_validated() {
    let database = TestDatabase::create().await;
    let (service, admin) = start(&database).await;
    let more = json!({
        "indexes": ["create unique index nicks on staff (nick collate nocase) where nick != ''"],
        "passwordAuth": {"enabled": true, "identityFields": ["nick", "email"]},
    });
    people(&service, &admin, "staff", json!([{"name": "nick", "type": "text"}]), more).await;
    let ann = sign_up(&service, "staff", "ann@example.com", &json!({"nick": "Ann"})).await;
    let path = format!("{COLLECTIONS}/staff/auth-with-password");
    for (identity, password) in [
        ("ann@example.com", "wrong password"),
        ("ANN@example.com", SECRET),
        ("nothing", SECRET),
        ("a\0b", SECRET),
        ("ann@example.com", "a\0b"),
        (ann["id"].as_str().unwrap(), SECRET),
    ] {
        let form = json!({"identity": identity, "password": password});
        assert_eq!(refused(&service, ("POST", &path, "", &form), 400, FAILED).await, json!({}));
    }
    for (identity, field) in [("aNN", ""), ("ann@example.com", "email"), ("Ann", "nick")] {
        let form = json!({"identity": identity, "password": SECRET, "identityField": field});
        assert_eq!(good(&service, "POST", &path, "", &form).await["record"]["id"], ann["id"], "{identity}");
    }
    let form = json!({"identity": "ann@example.com", "password": SECRET, "identityField": "nick"});
    refused(&service, ("POST", &path, "", &form), 400, FAILED).await;
    let invalid = "An error occurred while validating the submitted data.";
    let long = "x".repeat(256);
    for (form, member, code) in [
        (json!({}), "identity", "required"),
        (json!({"identity": "x"}), "password", "required"),
        (json!({"identity": long, "password": "x"}), "identity", "length_out_of_range"),
        (json!({"identity": "x", "password": long}), "password", "length_out_of_range"),
        (
            json!({"identity": "x", "password": "x", "identityField": "tokenKey"}),
            "identityField",
            "in_invalid",
        ),
        (
            json!({"identity": "x", "password": "x", "identityField": "password"}),
            "identityField",
            "in_invalid",
        ),
    ] {
        let data = refused(&service, ("POST", &path, "", &form), 400, invalid).await;
        assert_eq!(data[member]["code"], format!("validation_{code}"), "{form}");
    }
    let loading = "An error occurred while loading the submitted data.";
    for form in [json!({"identity": ["x"], "password": "x"}), json!({"identity": {"a": 1}, "password": "x"})]
    {
        refused(&service, ("POST", &path, "", &form), 400, loading).await;
    }

    let base = account("new@example.com", &json!({}));
    for (more, member, code) in [
        (json!({"password": null, "passwordConfirm": null}), "password", "required"),
        (json!({"password": "short", "passwordConfirm": "short"}), "password", "min_text_constraint"),
        (
            json!({"password": "x".repeat(72), "passwordConfirm": "x".repeat(72)}),
            "password",
            "max_text_constraint",
        ),
        (json!({"passwordConfirm": null}), "passwordConfirm", "required"),
        (json!({"passwordConfirm": "other"}), "passwordConfirm", "values_mismatch"),
        (json!({"password": ["x"], "passwordConfirm": ["x"]}), "password", "required"),
        (json!({"email": "x"}), "email", "is_email"),
        (json!({"email": ""}), "email", "required"),
        (json!({"email": "ann@example.com"}), "email", "not_unique"),
        (json!({"nick": "aNN"}), "nick", "not_unique"),
        (json!({"verified": true}), "verified", "values_mismatch"),
        (json!({"password": "a\0bcdefghi", "passwordConfirm": "a\0bcdefghi"}), "password", "invalid_format"),
    ] {
        let mut body = base.clone();
        for (member, value) in more.as_object().unwrap() {
            body[member] = value.clone();
        }
        let request = ("POST", "/api/collections/staff/records", "", &body);
        let data = refused(&service, request, 400, "Failed to create record.").await;
        assert_eq!(data[member]["code"], format!("validation_{code}"), "{more}: {data}");
    }
    // An id is of one account only.
    people(&service, &admin, "others", json!([]), json!({})).await;
    let body = account("bob@example.com", &json!({"id": ann["id"]}));
    let request = ("POST", "/api/collections/others/records", "", &body);
    let data = refused(&service, request, 400, "Failed to create record.").await;
    assert_eq!(data["id"]["code"], "validation_invalid_auth_id");

    good(&service, "PATCH", "/api/collections/staff", &admin, &json!({"passwordAuth": {"enabled": false}}))
        .await;
    let message = "The collection is not configured to allow password authentication.";
    refused(&service, ("POST", &path, "", &json!({})), 403, message).await;
}

#[tokio::test]
async fn another_password_or_email_ends_all_tokens_and_only_managers_set_them_freely() {
    let database = TestDatabase::create().await;
    let (service, admin) = start(&database).await;
    let more = json!({"authRule": "blocked = false", "manageRule": "@request.auth.role = 'boss'"});
    let fields = json!([{"name": "role", "type": "text"}, {"name": "blocked", "type": "bool"}]);
    people(&service, &admin, "staff", fields, more).await;
    let ann = sign_up(&service, "staff", "ann@example.com", &json!({"role": "none"})).await;
    let path = path_of("staff", &ann);
    let token = sign_in(&service, "staff", "ann@example.com", SECRET).await;
    let next = json!({"password": "a new password", "passwordConfirm": "a new password"});
    let with = |more: Value| {
        let mut body = next.clone();
        for (member, value) in more.as_object().unwrap() {
            body[member] = value.clone();
        }
        body
    };
    for (body, member, code) in [
        (json!({"password": ""}), "password", "required"),
        (with(json!({})), "oldPassword", "required"),
        (with(json!({"oldPassword": "wrong"})), "oldPassword", "invalid_old_password"),
        (with(json!({"oldPassword": SECRET, "passwordConfirm": "x"})), "passwordConfirm", "values_mismatch"),
        (json!({"passwordConfirm": "x"}), "password", "required"),
        (json!({"oldPassword": SECRET}), "password", "required"),
        (
            json!({"password": "abc", "passwordConfirm": "abc", "oldPassword": SECRET}),
            "password",
            "min_text_constraint",
        ),
        (json!({"email": "x@example.com"}), "email", "values_mismatch"),
        (json!({"email": ""}), "email", "required"),
        (json!({"verified": true}), "verified", "values_mismatch"),
    ] {
        let data = refused(&service, ("PATCH", &path, &token, &body), 400, "Failed to update record.").await;
        assert_eq!(data[member]["code"], format!("validation_{code}"), "{body}: {data}");
    }
    // What stays the same is no change, and a token key is not a client's.
    let same =
        json!({"email": "ann@example.com", "verified": false, "tokenKey": "y".repeat(50), "role": "none"});
    good(&service, "PATCH", &path, &token, &same).await;
    let refresh = "/api/collections/staff/auth-refresh";
    good(&service, "POST", refresh, &token, &Value::Null).await;
    // Others may not even try.
    refused(&service, ("PATCH", &path, "", &with(json!({"oldPassword": SECRET}))), 404, NOT_FOUND).await;

    good(&service, "PATCH", &path, &token, &with(json!({"oldPassword": SECRET}))).await;
    refused(&service, ("POST", refresh, &token, &Value::Null), 401, NO_TOKEN).await;
    let old = json!({"identity": "ann@example.com", "password": SECRET});
    refused(&service, ("POST", "/api/collections/staff/auth-with-password", "", &old), 400, FAILED).await;
    let token = sign_in(&service, "staff", "ann@example.com", "a new password").await;

    // A superuser, and whom the rule admits.
    let changed =
        good(&service, "PATCH", &path, &admin, &json!({"email": "anna@example.com", "verified": true})).await;
    assert_eq!((&changed["email"], &changed["verified"]), (&json!("anna@example.com"), &json!(true)));
    refused(&service, ("POST", refresh, &token, &Value::Null), 401, NO_TOKEN).await;
    sign_up(&service, "staff", "bob@example.com", &json!({"role": "boss"})).await;
    let boss = sign_in(&service, "staff", "bob@example.com", SECRET).await;
    good(
        &service,
        "PATCH",
        "/api/collections/staff",
        &admin,
        &json!({"updateRule": "@request.auth.id != ''"}),
    )
    .await;
    let by_boss =
        json!({"password": "by the boss", "passwordConfirm": "by the boss", "email": "ann@example.com"});
    assert_eq!(good(&service, "PATCH", &path, &boss, &by_boss).await["email"], "ann@example.com");
    let token = sign_in(&service, "staff", "ann@example.com", "by the boss").await;
    let made = good(
        &service,
        "POST",
        &records("staff"),
        &boss,
        &account("new@example.com", &json!({"verified": true})),
    )
    .await;
    assert_eq!((&made["verified"], &made["email"]), (&json!(true), &json!("new@example.com")));

    // The rule of sign-ins holds for tokens that are prolonged, too.
    good(&service, "PATCH", &path, &boss, &json!({"blocked": true})).await;
    let message = "The request doesn't satisfy the collection requirements to authenticate.";
    let form = json!({"identity": "ann@example.com", "password": "by the boss"});
    refused(&service, ("POST", "/api/collections/staff/auth-with-password", "", &form), 403, message).await;
    refused(&service, ("POST", refresh, &token, &Value::Null), 403, message).await;
    good(&service, "PATCH", "/api/collections/staff", &admin, &json!({"authRule": null})).await;
    let form = json!({"identity": "bob@example.com", "password": SECRET});
    refused(&service, ("POST", "/api/collections/staff/auth-with-password", "", &form), 403, message).await;
    let bad = json!({"mfa": {"enabled": false, "rule": "nothing = 1"}, "manageRule": "nothing = 1"});
    let request = ("PATCH", "/api/collections/staff", admin.as_str(), &bad);
    let data = refused(&service, request, 400, "Failed to update collection.").await;
    for pointer in ["/mfa/rule", "/manageRule"] {
        assert_eq!(data.pointer(pointer).unwrap()["code"], "validation_invalid_rule", "{data}");
    }
    // Another secret of the collection ends all tokens, and no secret is shown.
    let secret = json!({"authRule": "", "authToken": {"secret": "s".repeat(40)}});
    let shown = good(&service, "PATCH", "/api/collections/staff", &admin, &secret).await;
    assert_eq!(shown["authToken"], json!({"duration": 432000}));
    refused(&service, ("POST", refresh, &boss, &Value::Null), 401, NO_TOKEN).await;
    let stored: Vec<String> = database
        .connect()
        .await
        .query("select data::text from records_1 union all select data::text from changes", &[])
        .await
        .map(|rows| rows.iter().filter_map(|row| row.get::<_, Option<String>>(0)).collect())
        .unwrap_or_default();
    assert!(!stored.iter().any(|text| text.contains("by the boss") || text.contains(SECRET)));
}

#[tokio::test]
async fn rules_know_the_caller_and_what_belongs_to_them() {
    let database = TestDatabase::create().await;
    let (service, admin) = start(&database).await;
    let teams = make(&service, &admin, "teams", json!([{"name": "name", "type": "text"}]), json!({})).await;
    let to_team = |max: u32| json!({"type": "relation", "collectionId": teams["id"], "maxSelect": max});
    let mut fields =
        vec![to_team(1), to_team(5), json!({"type": "json"}), json!({"type": "text", "hidden": true})];
    for (field, name) in fields.iter_mut().zip(["team", "guilds", "data", "level"]) {
        field["name"] = json!(name);
    }
    let staff = people(&service, &admin, "staff", fields.into(), json!({})).await;
    let mut made = Vec::new();
    for name in ["red", "blue"] {
        made.push(good(&service, "POST", &records("teams"), "", &json!({"name": name})).await["id"].clone());
    }
    let more = json!({"team": made[0], "guilds": [made[0], made[1]], "data": {"a": [1, {"b": "deep"}]}});
    let ann = sign_up(&service, "staff", "ann@example.com", &more).await;
    good(&service, "PATCH", &path_of("staff", &ann), &admin, &json!({"level": "high"})).await;
    let ann_token = sign_in(&service, "staff", "ann@example.com", SECRET).await;
    sign_up(&service, "staff", "bob@example.com", &json!({"team": made[1]})).await;
    let bob_token = sign_in(&service, "staff", "bob@example.com", SECRET).await;
    let posts = json!([
        {"name": "title", "type": "text"},
        {"name": "owner", "type": "relation", "collectionId": staff["id"], "maxSelect": 1},
    ]);
    make(&service, &admin, "posts", posts, json!({})).await;
    good(&service, "POST", &records("posts"), "", &json!({"title": "hers", "owner": ann["id"]})).await;
    good(&service, "POST", &records("posts"), "", &json!({"title": "of none"})).await;
    let all = json!(["hers", "of none"]);
    for (rule, for_ann, for_bob, for_guests) in [
        ("@request.auth.id != ''", all.clone(), all.clone(), json!([])),
        ("owner = @request.auth.id", json!(["hers"]), json!([]), json!(["of none"])),
        ("@request.auth.id != '' && owner = @request.auth.id", json!(["hers"]), json!([]), json!([])),
        ("@request.auth.collectionName = 'staff'", all.clone(), all.clone(), json!([])),
        ("@request.auth.email = 'ann@example.com'", all.clone(), json!([]), json!([])),
        ("@request.auth.verified = false", all.clone(), all.clone(), json!([])),
        ("@request.auth.team.name = 'red'", all.clone(), json!([]), json!([])),
        ("@request.auth.guilds.name ?= 'blue'", all.clone(), json!([]), json!([])),
        ("@request.auth.guilds.name = 'blue'", json!([]), json!([]), json!([])),
        ("@request.auth.guilds:length = 2", all.clone(), json!([]), json!([])),
        (
            "@request.auth.guilds:each ?~ '0' || @request.auth.guilds:length = 2",
            all.clone(),
            json!([]),
            json!([]),
        ),
        ("@request.auth.data.a.1.b = 'deep'", all.clone(), json!([]), json!([])),
        ("@request.auth.posts_via_owner.title ?= 'hers'", all.clone(), json!([]), json!([])),
        ("@request.auth.level = 'high'", all.clone(), json!([]), json!([])),
        (
            "@request.auth.team.nothing = 'x' || title = 'hers'",
            json!(["hers"]),
            json!(["hers"]),
            json!(["hers"]),
        ),
        ("@request.auth.password != '' || @request.auth.tokenKey != ''", json!([]), json!([]), json!([])),
        ("owner.level = 'high'", json!(["hers"]), json!(["hers"]), json!(["hers"])),
        (
            "@collection.staff.level ?= 'high' && title = 'hers'",
            json!(["hers"]),
            json!(["hers"]),
            json!(["hers"]),
        ),
    ] {
        good(&service, "PATCH", "/api/collections/posts", &admin, &json!({"listRule": rule})).await;
        for (token, expected) in [(&ann_token, for_ann), (&bob_token, for_bob), (&String::new(), for_guests)]
        {
            assert_eq!(found(&service, token, "posts", &[], "title").await, expected, "{rule}");
        }
        assert_eq!(found(&service, &admin, "posts", &[], "title").await, all, "{rule}");
    }
    // A body cannot stand for the caller, nor can a query.
    good(
        &service,
        "PATCH",
        "/api/collections/posts",
        &admin,
        &json!({"createRule": "owner = @request.auth.id"}),
    )
    .await;
    let forged =
        json!({"owner": ann["id"], "auth": {"id": ann["id"]}, "@request": {"auth": {"id": ann["id"]}}});
    let path = format!("{}?auth.id={}", records("posts"), ann["id"].as_str().unwrap());
    refused(&service, ("POST", &path, &bob_token, &forged), 400, "Failed to create record.").await;
    good(&service, "POST", &path, &ann_token, &forged).await;
}

#[tokio::test]
async fn rules_over_the_body_hold_for_modifiers_and_no_expand_leads_over_hidden_fields() {
    let database = TestDatabase::create().await;
    let (service, admin) = start(&database).await;
    let fields = json!([
        {"name": "n", "type": "number"},
        {"name": "roles", "type": "select", "values": ["user", "admin"], "maxSelect": 2},
        {"name": "code", "type": "text", "autogeneratePattern": "[a-z]{5}"},
    ]);
    let more = json!({
        "createRule": "@request.body.roles:isset = false",
        "updateRule": "@request.body.n:isset = false && @request.body.roles:isset = false",
    });
    make(&service, &admin, "people", fields, more).await;
    let made = good(&service, "POST", &records("people"), "", &json!({"code:autogenerate": "x"})).await;
    let path = path_of("people", &made);
    for member in ["roles", "roles+", "+roles"] {
        let body = json!({member: "admin"});
        refused(&service, ("POST", &records("people"), "", &body), 400, "Failed to create record.").await;
    }
    for member in ["n", "n+", "n-", "roles", "roles+", "+roles", "roles-"] {
        refused(&service, ("PATCH", &path, "", &json!({member: "1"})), 404, NOT_FOUND).await;
    }
    good(&service, "PATCH", &path, "", &json!({"code": "y"})).await;
    for (rule, body, is_good) in [
        ("@request.body.n = 2", json!({"n+": 2}), true),
        ("@request.body.n = 2", json!({"n+": 2}), false),
        ("@request.body.n = 2", json!({"n": 1, "n+": 1}), true),
        ("@request.body.n:changed = false", json!({"n+": 1}), false),
        ("@request.body.n:changed = false", json!({"n+": 0}), true),
        ("@request.body.n:changed = false", json!({"roles+": "user"}), true),
        ("@request.body.roles !~ 'admin' && @collection.people.id ?!= ''", json!({"roles+": "admin"}), false),
        ("@request.body.roles !~ 'admin' && @collection.people.id ?!= ''", json!({"n+": 1}), false),
        ("@request.body.roles:length < 2", json!({"roles+": "admin"}), false),
        ("@request.body.roles:length < 2", json!({"roles-": "user"}), true),
    ] {
        good(&service, "PATCH", "/api/collections/people", &admin, &json!({"updateRule": rule})).await;
        let status = status(&service, "PATCH", &path, "", &body).await;
        assert_eq!(status, if is_good { 200 } else { 404 }, "{rule} {body}");
    }

    let teams = make(&service, &admin, "teams", json!([{"name": "name", "type": "text"}]), json!({})).await;
    let secret = json!([{"name": "team", "type": "relation", "collectionId": teams["id"], "hidden": true}]);
    make(&service, &admin, "notes", secret, json!({})).await;
    let team = good(&service, "POST", &records("teams"), &admin, &json!({"name": "red"})).await;
    good(&service, "POST", &records("notes"), &admin, &json!({"team": team["id"]})).await;
    for (name, expand) in [("notes", "team"), ("teams", "notes_via_team")] {
        let query = [("expand", expand)];
        assert_eq!(found(&service, "", name, &query, "expand").await, json!([null]), "{expand}");
        assert_ne!(found(&service, &admin, name, &query, "expand").await, json!([null]), "{expand}");
    }
}

#[tokio::test]
async fn emails_and_hidden_fields_are_seen_and_filtered_only_by_whom_they_concern() {
    let database = TestDatabase::create().await;
    let (service, admin) = start(&database).await;
    let fields = json!([{"name": "note", "type": "text", "hidden": true}]);
    people(&service, &admin, "staff", fields, json!({})).await;
    let ann = sign_up(&service, "staff", "ann@example.com", &json!({"note": "set by a guest"})).await;
    let bob = sign_up(&service, "staff", "bob@example.com", &json!({"emailVisibility": true})).await;
    good(&service, "PATCH", &path_of("staff", &ann), &admin, &json!({"note": "secret"})).await;
    let token = sign_in(&service, "staff", "ann@example.com", SECRET).await;
    let emails = async |token: &str| found(&service, token, "staff", &[("sort", "@rowid")], "email").await;
    assert_eq!(emails("").await, json!([null, "bob@example.com"]));
    assert_eq!(emails(&token).await, json!(["ann@example.com", "bob@example.com"]));
    assert_eq!(emails(&admin).await, json!(["ann@example.com", "bob@example.com"]));
    assert_eq!(found(&service, &token, "staff", &[], "note").await, json!([null, null]));
    assert_eq!(found(&service, &admin, "staff", &[("sort", "@rowid")], "note").await, json!(["secret", ""]));
    for secret in ["password", "tokenKey"] {
        assert_eq!(found(&service, &admin, "staff", &[], secret).await, json!([null, null]));
    }

    let by = json!([{"name": "by", "type": "relation", "collectionId": ann["collectionId"], "maxSelect": 9}]);
    make(&service, &admin, "posts", by, json!({})).await;
    good(&service, "POST", &records("posts"), "", &json!({"by": [ann["id"], bob["id"]]})).await;
    let ids = async |token: &str, name: &str, filter: &str| {
        found(&service, token, name, &[("filter", filter)], "id").await.as_array().unwrap().len()
    };
    for (name, filter, of_guests, of_superusers) in [
        ("staff", "email = 'ann@example.com'", 0, 1),
        ("staff", "email = 'bob@example.com'", 1, 1),
        ("staff", "email != 'ann@example.com'", 1, 1),
        ("staff", "email != 'nothing'", 1, 2),
        ("staff", "email ~ 'ann'", 0, 1),
        ("staff", "email:lower ~ 'ann'", 0, 1),
        ("staff", "email > 'ann'", 1, 2),
        ("staff", "email = ''", 0, 0),
        ("staff", "email = email", 1, 2),
        ("staff", "'ann@example.com' = email", 0, 1),
        ("posts", "by.email ?= 'ann@example.com'", 0, 1),
        ("posts", "by.email ?= 'bob@example.com'", 1, 1),
        // Every visible one: a hidden one says nothing.
        ("posts", "by.email != 'ann@example.com'", 1, 0),
        ("posts", "by.email ~ 'bob'", 1, 0),
    ] {
        assert_eq!(ids("", name, filter).await, of_guests, "{filter}");
        // Not even one's own.
        assert_eq!(ids(&token, name, filter).await, of_guests, "{filter}");
        assert_eq!(ids(&admin, name, filter).await, of_superusers, "{filter}");
    }
    for field in ["password", "tokenKey", "note", "by.password"] {
        for query in
            [format!("filter={field}!='x'"), format!("sort={field}"), format!("filter={field}:lower~'a'")]
        {
            let name = if field.starts_with("by") { "posts" } else { "staff" };
            let path = format!("{}?{query}", records(name));
            refused(&service, ("GET", &path, &token, &Value::Null), 400, GENERIC).await;
        }
    }
    // An order by emails says nothing of hidden ones.
    let zoe = sign_up(&service, "staff", "aaa@example.com", &json!({})).await;
    let sorted = found(&service, "", "staff", &[("sort", "email,-@rowid")], "id").await;
    assert_eq!(sorted, json!([zoe["id"], ann["id"], bob["id"]]));
    let sorted = found(&service, "", "staff", &[("sort", "email,@rowid")], "id").await;
    assert_eq!(sorted, json!([ann["id"], zoe["id"], bob["id"]]));
    for (token, message) in [("", true), (token.as_str(), true), (admin.as_str(), false)] {
        let path = format!("{}?filter=%40request.auth.id%21%3D%27%27", records("staff"));
        assert_eq!(status(&service, "GET", &path, token, &Value::Null).await == 403, message);
    }
    // A list rule over what is hidden is a superuser's, and holds for all.
    good(&service, "PATCH", "/api/collections/staff", &admin, &json!({"listRule": "note = 'secret'"})).await;
    assert_eq!(found(&service, "", "staff", &[], "id").await, json!([ann["id"]]));
}

#[tokio::test]
async fn other_faces_serve_no_accounts_and_no_hidden_fields() {
    let database = TestDatabase::create().await;
    let variables = [("MODULES", "events,records,pocketbase,stress")];
    let service = Service::start(database.url(), &variables).await;
    let without = [("MODULES", "events,records,stress")];
    let without = Service::start(database.url(), &without).await;
    let admin = key(&database, &["--admin"]).await;
    let notes = json!([{"name": "title", "type": "text"}, {"name": "inner", "type": "text", "hidden": true}]);
    make(&service, &admin, "notes", notes, json!({})).await;
    make(&service, &admin, "posts", json!([{"name": "title", "type": "text"}]), json!({})).await;
    let note =
        good(&service, "POST", &records("notes"), &admin, &json!({"title": "a", "inner": "hidden"})).await;
    let user = sign_up(&service, "users", "ann@example.com", &json!({})).await;
    for (name, record) in [("notes", &note), ("users", &user)] {
        let all = format!("/api/stress/records/{name}");
        let one = format!("{all}/{}", record["id"].as_str().unwrap());
        for (method, path) in
            [("GET", &all), ("POST", &all), ("GET", &one), ("PATCH", &one), ("PUT", &one), ("DELETE", &one)]
        {
            let answer = send(&service, method, path, &admin, &json!({"title": "x"})).await;
            assert_eq!(answer.status.as_u16(), 403, "{method} {path}");
            assert_eq!(answer.error_code(), "private_collection", "{method} {path}");
        }
    }
    for name in ["_superusers", "_otps", "_mfas", "_externalAuths", "_authOrigins"] {
        let path = format!("/api/stress/records/{name}");
        assert_eq!(status(&service, "POST", &path, &admin, &json!({"email": "x"})).await, 403, "{name}");
    }
    let listed = service.get("/api/stress/records").await;
    if listed.status.as_u16() == 200 {
        let text = String::from_utf8_lossy(&listed.body);
        assert!(!text.contains("users") && !text.contains("notes"), "{text}");
    }
    // Topics have other names, which cannot be asked for.
    let topics = "/api/events/stream?topics=records/notes,records/users,records/posts";
    let mut stream = EventStream::open(&service, topics, &[]).await;
    assert_eq!(stream.status.as_u16(), 200);
    good(&service, "PATCH", &path_of("notes", &note), &admin, &json!({"title": "b"})).await;
    sign_up(&service, "users", "bob@example.com", &json!({})).await;
    good(&service, "POST", &records("posts"), &admin, &json!({"title": "public"})).await;
    loop {
        let event = stream.next().await.unwrap().unwrap();
        let of_others = ["private", "users", "notes", "bob", "hidden"];
        assert!(!of_others.iter().any(|word| event.data.contains(word)), "{}", event.data);
        if event.data.contains("public") {
            break;
        }
    }
    for topic in ["private:1", "records/private:1", "records/private%3A1"] {
        let path = format!("/api/events/stream?topics={topic}");
        assert_eq!(service.get(&path).await.status.as_u16(), 400, "{topic}");
    }
    // The view of a collection has no secrets.
    let client = database.connect().await;
    let columns: Vec<String> = client
        .query("select column_name::text from information_schema.columns where table_schema like '%_collections' and table_name = 'users'", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(columns.contains(&"email".to_owned()), "{columns:?}");
    assert!(!columns.iter().any(|column| matches!(column.as_str(), "password" | "tokenKey")), "{columns:?}");
    // A field that is shown again makes the collection everyone's.
    let shown = json!({"fields": [{"name": "title", "type": "text"}]});
    good(&service, "PATCH", "/api/collections/notes", &admin, &shown).await;
    assert_eq!(service.get("/api/stress/records/notes").await.status.as_u16(), 200);
    // A node without typed collections, which knows a collection, finds out that it has a hidden field.
    assert_eq!(without.get("/api/stress/records/posts").await.status.as_u16(), 200);
    let hidden = json!({"fields": [{"name": "title", "type": "text", "hidden": true}]});
    good(&service, "PATCH", "/api/collections/posts", &admin, &hidden).await;
    eventually("the other node serves it no more", async || {
        (without.get("/api/stress/records/posts").await.status.as_u16() == 403).then_some(())
    })
    .await;
}

#[tokio::test]
async fn superusers_come_from_the_command_line_and_the_last_one_stays() {
    let database = TestDatabase::create().await;
    let modules = [("MODULES", "events,records,pocketbase")];
    let variables = [&modules[..], &[("DATABASE_URL", database.url())]].concat();
    let superuser = async |email: &str, password: &str| {
        let arguments = ["keys", "superuser", "--email", email, "--password", password];
        crate::support::service::run(&arguments, &variables).await
    };
    // Before the first start.
    let (status, id, log) = superuser("root@example.com", "local-test-only").await;
    assert!(status.success(), "{log}");
    let service = Service::start(database.url(), &modules).await;
    let token = sign_in(&service, "_superusers", "root@example.com", "local-test-only").await;
    assert!((claims(&token)["exp"].as_i64().unwrap() - crate::support::accounts::now() - 86_400).abs() < 60);
    make(&service, &token, "posts", json!([{"name": "title", "type": "text"}]), json!({"listRule": null}))
        .await;
    assert_eq!(found(&service, &token, "posts", &[], "title").await, json!([]));
    // Again, to set another password.
    let (_, again, _) = superuser("root@example.com", "another-password").await;
    assert_eq!((id.trim(), id.trim().len()), (again.trim(), 15));
    refused(&service, ("GET", COLLECTIONS, &token, &Value::Null), 401, NO_TOKEN).await;
    let token = sign_in(&service, "_superusers", "root@example.com", "another-password").await;
    for (email, password, part) in [("x", "long enough", "email"), ("x@example.com", "short", "password")] {
        let (status, _, log) = superuser(email, password).await;
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(log.contains(part), "{log}");
    }
    let last = "You can't delete the only existing superuser.";
    let path = format!("{}/{}", records("_superusers"), id.trim());
    refused(&service, ("DELETE", &path, &token, &Value::Null), 400, last).await;
    assert_eq!(status_of(&service, "DELETE", "/api/collections/_superusers/truncate", &token).await, 400);
    let made = good(
        &service,
        "POST",
        &records("_superusers"),
        &token,
        &account("two@example.com", &json!({"verified": false})),
    )
    .await;
    assert_eq!((&made["verified"], &made["email"]), (&json!(true), &json!("two@example.com")));
    // Of two that are deleted at once one stays.
    let other = path_of("_superusers", &made);
    let admin = key(&database, &["--admin"]).await;
    let (one, two) = tokio::join!(
        status_of(&service, "DELETE", &path, &admin),
        status_of(&service, "DELETE", &other, &admin)
    );
    assert_eq!([one, two].iter().filter(|status| **status == 204).count(), 1, "{one} {two}");
    // The collections of the system stay as they are.
    for (body, member, code) in [
        (json!({"name": "x"}), "name", "collection_system_name_change"),
        (json!({"listRule": ""}), "listRule", "collection_system_rule_change"),
        (json!({"authRule": null}), "authRule", "collection_system_rule_change"),
        (json!({"manageRule": ""}), "manageRule", "collection_system_rule_change"),
        (json!({"system": false}), "system", "collection_system_flag_change"),
        (json!({"type": "base"}), "type", "collection_type_change"),
    ] {
        let request = ("PATCH", "/api/collections/_superusers", admin.as_str(), &body);
        let data = refused(&service, request, 400, "Failed to update collection.").await;
        assert_eq!(data[member]["code"], format!("validation_{code}"), "{body}");
    }
    let gone = ("DELETE", "/api/collections/_mfas", admin.as_str(), &Value::Null);
    refused(&service, gone, 400, "Failed to delete collection.").await;
    let only = "Only superusers can perform this action.";
    refused(&service, ("GET", &records("_superusers"), "", &Value::Null), 403, only).await;
    refused(
        &service,
        ("POST", &records("_superusers"), "", &account("x@example.com", &json!({}))),
        403,
        only,
    )
    .await;
}

async fn status_of(service: &Service, method: &str, path: &str, token: &str) -> u16 {
    status(service, method, path, token, &Value::Null).await
}

#[tokio::test]
async fn a_guarded_service_takes_no_sign_ups_until_a_superuser_says_so_and_shows_its_health() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("MODULES", "events,records,pocketbase")]).await;
    let admin = key(&database, &["--admin"]).await;
    let only = "Only superusers can perform this action.";
    let body = account("ann@example.com", &json!({}));
    refused(&service, ("POST", &records("users"), "", &body), 403, only).await;
    good(&service, "PATCH", "/api/collections/users", &admin, &json!({"createRule": ""})).await;
    good(&service, "POST", &records("users"), "", &body).await;
    let token = sign_in(&service, "users", "ann@example.com", SECRET).await;
    assert_eq!(found(&service, &token, "users", &[], "email").await, json!(["ann@example.com"]));

    // A record's token opens no other face, and no token of other kinds is a record's.
    for path in ["/api/keys", "/api/auth/me", "/metrics", "/api/v1/dead-letters"] {
        for scheme in ["", "Bearer "] {
            let status = status(&service, "GET", path, &format!("{scheme}{token}"), &Value::Null).await;
            assert_eq!(status, 401, "{path}");
        }
    }
    // Health: anyone's form, and the operators' fields for those who may read them.
    for token in ["", &token, "garbage"] {
        let health = send(&service, "GET", "/api/health", token, &Value::Null).await;
        assert_eq!(health.status.as_u16(), 200);
        assert_eq!(
            health.json(),
            json!({"message": "API is healthy.", "code": 200, "data": {}, "status": "ok"})
        );
    }
    let answer = service.request("GET", "/api/health?fields=code", &[], "").await;
    assert_eq!(answer.json(), json!({"code": 200}));
    let health = send(&service, "GET", "/api/health", &admin, &Value::Null).await.json();
    assert_eq!(health["data"]["realIP"], "127.0.0.1");
    assert!(health["tasks"].is_array() && health["code"] == 200, "{health}");
    let reader = key(&database, &["--scope", "ops:read"]).await;
    assert!(send(&service, "GET", "/api/health", &reader, &Value::Null).await.json()["tasks"].is_array());
    let origin = [("origin", "https://app.example")];
    let answer = service.request("GET", "/api/health", &origin, "").await;
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert!(!answer.headers.contains_key("access-control-allow-credentials"));
    // An open service names the setting that admits pages.
    let open = TestDatabase::create().await;
    let (service, _) = start(&open).await;
    let answer = service.request("GET", "/api/collections/users/auth-methods", &origin, "").await;
    assert_eq!(answer.status.as_u16(), 403);
    assert!(answer.json()["message"].as_str().unwrap().contains("CORS_ORIGINS"), "{:?}", answer.body);
}

#[tokio::test]
async fn a_stream_keeps_its_caller_and_sees_what_they_are_now() {
    let database = TestDatabase::create().await;
    let (service, admin) = start(&database).await;
    people(&service, &admin, "staff", json!([{"name": "role", "type": "text"}]), json!({})).await;
    let ann = sign_up(&service, "staff", "ann@example.com", &json!({"role": "none"})).await;
    sign_up(&service, "staff", "bob@example.com", &json!({})).await;
    let token = sign_in(&service, "staff", "ann@example.com", SECRET).await;
    let other = sign_in(&service, "staff", "bob@example.com", SECRET).await;
    let rule = json!({"listRule": "@request.auth.role = 'reader'"});
    make(&service, &admin, "posts", json!([{"name": "title", "type": "text"}]), rule).await;
    make(&service, &admin, "marks", json!([{"name": "title", "type": "text"}]), json!({})).await;
    let mut stream = EventStream::open(&service, "/api/realtime", &[]).await;
    let client = stream.next().await.unwrap().unwrap().id;
    let topics = async |token: &str| {
        let body = json!({"clientId": client, "subscriptions": ["posts/*", "marks/*", "staff/*"]});
        status(&service, "POST", "/api/realtime", token, &body).await
    };
    assert_eq!(topics("").await, 204);
    assert_eq!(topics(&token).await, 204, "a guest becomes a user");
    assert_eq!(topics(&token).await, 204);
    assert_eq!(topics(&other).await, 403);
    assert_eq!(topics("").await, 403);
    assert_eq!(topics(&admin).await, 403);
    // Titles until a mark.
    let mut seen = async |mark: &str| {
        good(&service, "POST", &records("marks"), "", &json!({"title": mark})).await;
        let mut seen = Vec::new();
        loop {
            let event = stream.next().await.unwrap().unwrap();
            let data: Value = serde_json::from_str(&event.data).unwrap();
            if data["record"]["title"] == mark {
                return seen;
            }
            seen.push(data["record"].clone());
        }
    };
    let post = async |title: &str| {
        good(&service, "POST", &records("posts"), &admin, &json!({"title": title})).await;
    };
    post("unseen").await;
    assert_eq!(seen("m1").await.len(), 0);
    // Their record changes, and with it what they see; their own email they see always.
    good(&service, "PATCH", &path_of("staff", &ann), &admin, &json!({"role": "reader"})).await;
    post("seen").await;
    let events = seen("m2").await;
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!((&events[0]["email"], &events[1]["title"]), (&json!("ann@example.com"), &json!("seen")));
    assert!(events[0].get("tokenKey").is_none() && events[0].get("password").is_none());
    sign_up(&service, "staff", "zoe@example.com", &json!({})).await;
    let events = seen("m3").await;
    assert_eq!((events.len(), events[0].get("email")), (1, None), "{events:?}");
    // Another password: a guest, who may become another user.
    let next = json!({"password": "a new password", "passwordConfirm": "a new password"});
    good(&service, "PATCH", &path_of("staff", &ann), &admin, &next).await;
    post("unseen").await;
    let events = seen("m4").await;
    assert!(
        events.iter().all(|event| event.get("email").is_none() && event.get("title").is_none()),
        "{events:?}"
    );
    assert_eq!(topics(&other).await, 204);

    // A stream ends with its token, so that a client comes back with a later one.
    let lend = format!("{COLLECTIONS}/staff/impersonate/{}", ann["id"].as_str().unwrap());
    let lent = good(&service, "POST", &lend, &admin, &json!({"duration": 2})).await["token"].clone();
    let mut stream = EventStream::open(&service, "/api/realtime", &[]).await;
    let client = stream.next().await.unwrap().unwrap().id;
    let body = json!({"clientId": client, "subscriptions": ["marks/*"]});
    assert_eq!(status(&service, "POST", "/api/realtime", lent.as_str().unwrap(), &body).await, 204);
    while let Some(event) = stream.next().await {
        event.unwrap();
    }
    refused(
        &service,
        ("POST", "/api/collections/staff/auth-refresh", lent.as_str().unwrap(), &Value::Null),
        401,
        NO_TOKEN,
    )
    .await;
}

#[tokio::test]
async fn no_input_of_a_client_is_an_error_of_the_service() {
    let database = TestDatabase::create().await;
    let (service, admin) = start(&database).await;
    people(&service, &admin, "staff", json!([{"name": "nick", "type": "text"}]), json!({})).await;
    let ann = sign_up(&service, "staff", "ann@example.com", &json!({})).await;
    let token = sign_in(&service, "staff", "ann@example.com", SECRET).await;
    let odd = prop_oneof![
        Just(json!("a\u{0}b")),
        Just(json!(null)),
        Just(json!([])),
        Just(json!({"a": null})),
        Just(json!(1e308)),
        Just(json!(-1)),
        Just(json!(i64::MAX)),
        Just(json!(true)),
        Just(json!("\u{fffd}\u{1f600}")),
        Just(json!("")),
        "[a-z'\"\\\\%_@.:]{0,20}".prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!("x".repeat(300))),
    ];
    let name = prop_oneof![
        Just("identity"),
        Just("password"),
        Just("passwordConfirm"),
        Just("oldPassword"),
        Just("identityField"),
        Just("mfaId"),
        Just("email"),
        Just("verified"),
        Just("emailVisibility"),
        Just("tokenKey"),
        Just("duration"),
        Just("id"),
        Just("nick"),
        Just("authRule"),
        Just("manageRule"),
        Just("mfa"),
        Just("otp"),
        Just("authToken"),
        Just("passwordAuth"),
        Just("oauth2"),
        Just("verificationTemplate"),
        Just("type"),
    ];
    let strategy = prop::collection::vec((name, odd.clone()), 0..5);
    let mut runner = TestRunner::deterministic();
    let own = path_of("staff", &ann);
    let lend = format!("{COLLECTIONS}/staff/impersonate/{}", ann["id"].as_str().unwrap());
    for turn in 0..150 {
        let members = strategy.new_tree(&mut runner).unwrap().current();
        let body: Value = members
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect::<serde_json::Map<_, _>>()
            .into();
        for (method, path, token) in [
            ("POST", "/api/collections/staff/auth-with-password", ""),
            ("POST", "/api/collections/staff/records", ""),
            ("PATCH", own.as_str(), token.as_str()),
            ("POST", lend.as_str(), admin.as_str()),
            ("PATCH", "/api/collections/staff", admin.as_str()),
        ] {
            let answer = send(&service, method, path, token, &body).await;
            // Too many passwords at once is an answer of its own.
            let status = answer.status.as_u16();
            assert!(
                status < 500 || status == 503,
                "{turn} {method} {path} {body}: {} {:?}",
                answer.status,
                answer.body
            );
        }
        let text = odd.new_tree(&mut runner).unwrap().current();
        if let Some(text) = text.as_str().filter(|text| text.is_ascii() && !text.contains('\0')) {
            let encoded: String =
                percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
            for query in [
                format!("filter=email%20~%20%27{encoded}%27"),
                format!("filter={encoded}"),
                format!("sort=email,{encoded}"),
            ] {
                let path = format!("{}?{query}", records("staff"));
                assert!(status(&service, "GET", &path, &token, &Value::Null).await < 500, "{path}");
            }
            let status = status(
                &service,
                "POST",
                "/api/collections/staff/auth-refresh",
                &format!("a.{encoded}.b"),
                &Value::Null,
            )
            .await;
            assert_eq!(status, 401);
        }
    }
    // The collection is still itself.
    eventually("signing in", async || {
        good(
            &service,
            "PATCH",
            "/api/collections/staff",
            &admin,
            &json!({"authRule": "", "passwordAuth": {"enabled": true, "identityFields": ["email"]}}),
        )
        .await;
        Some(())
    })
    .await;
}
