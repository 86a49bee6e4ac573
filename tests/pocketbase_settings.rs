//! Settings of the application, and the limits that they set.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::pocketbase::{basic, good, make, records, refused, send, start};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};

pub(crate) const SETTINGS: &str = "/api/settings";

/// Changes settings, and returns all.
pub(crate) async fn change(service: &Service, token: &str, patch: Value) -> Value {
    good(service, "PATCH", SETTINGS, token, &patch).await
}

#[tokio::test]
async fn settings_are_for_superusers_and_the_same_on_every_node() {
    let database = TestDatabase::create().await;
    let (one, token) = start(&database).await;
    let (other, _) = start(&database).await;
    let fresh = good(&one, "GET", SETTINGS, &token, &Value::Null).await;
    assert_eq!(fresh["batch"], json!({"enabled": false, "maxRequests": 50, "timeout": 3, "maxBodySize": 0}));
    let needed = "The request requires valid record authorization token.";
    for method in ["GET", "PATCH"] {
        refused(&one, (method, SETTINGS, "", &json!({})), 401, needed).await;
    }

    let patch = json!({"meta": {"appName": "Tide"}, "smtp": {"password": "hunter2", "username": "u"}});
    let changed = change(&one, &token, patch).await;
    assert_eq!((&changed["meta"]["appName"], &changed["smtp"]["username"]), (&json!("Tide"), &json!("u")));
    assert!(
        !changed.to_string().contains("hunter2") && changed["smtp"].get("password").is_none(),
        "{changed}"
    );
    // The whole object, as it was shown, keeps the secret.
    assert_eq!(change(&one, &token, changed.clone()).await, changed);
    let client = database.connect().await;
    let kept: String = client
        .query_one("select value -> 'smtp' ->> 'password' from app_settings", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(kept, "hunter2");
    eventually("the other node has the settings", async || {
        (good(&other, "GET", SETTINGS, &token, &Value::Null).await == changed).then_some(())
    })
    .await;
    let fields = good(&one, "GET", "/api/settings?fields=meta.appName", &token, &Value::Null).await;
    assert_eq!(fields, json!({"meta": {"appName": "Tide"}}));

    let loading = "An error occurred while loading the submitted data.";
    for bad in [json!([]), json!({"batch": 5}), json!({"meta": {"appName": "a\u{0}"}})] {
        refused(&one, ("PATCH", SETTINGS, &token, &bad), 400, loading).await;
    }
    let saving = "An error occurred while saving the new settings.";
    let data =
        refused(&one, ("PATCH", SETTINGS, &token, &json!({"batch": {"maxRequests": -1}})), 400, saving).await;
    let least = json!({"code": "validation_min_greater_equal_than_required", "message": "Must be no less than 0.", "params": {"threshold": 0}});
    assert_eq!(data, json!({"batch": {"maxRequests": least}}));

    // Changes of different sections at once are all kept.
    let (names, batches) = tokio::join!(
        async {
            for n in 0..10 {
                change(&one, &token, json!({"meta": {"appName": format!("n{n}")}})).await;
            }
        },
        async {
            for n in 1..=10 {
                change(&other, &token, json!({"batch": {"maxRequests": n}})).await;
            }
        }
    );
    let _both = (names, batches);
    let settings = change(&one, &token, json!({})).await;
    assert_eq!((&settings["meta"]["appName"], &settings["batch"]["maxRequests"]), (&json!("n9"), &json!(10)));
}

#[tokio::test]
async fn requests_are_limited_by_the_most_exact_label_but_those_of_superusers_are_not() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    for name in ["posts", "notes"] {
        make(&service, &token, name, basic(), json!({})).await;
    }
    // Longer than the test, so that no window ends in it.
    let rule = |label: &str, most: i64| json!({"label": label, "duration": 3_600, "maxRequests": most});
    let limits = json!({"enabled": true, "rules": [rule("posts:create", 2), rule("*:list", 1), rule("/api/realtime", 1)]});
    change(&service, &token, json!({"rateLimits": limits})).await;
    let status = async |method: &str, path: &str, token: &str| {
        let answer = send(&service, method, path, token, &json!({})).await;
        (answer.status.as_u16(), answer.header("retry-after").to_owned())
    };
    let limited = (429, String::new());
    for expected in [200, 200, 429, 429] {
        assert_eq!(status("POST", &records("posts"), "").await.0, expected);
    }
    assert_eq!(status("POST", &records("posts"), "").await, limited);
    assert_eq!(status("POST", &records("posts"), &token).await.0, 200);
    assert_eq!(status("POST", &records("notes"), "").await.0, 200);
    // Each collection has a window of its own under a label for all.
    for name in ["posts", "notes"] {
        assert_eq!(status("GET", &records(name), "").await.0, 200, "{name}");
        assert_eq!(status("GET", &records(name), "").await, limited, "{name}");
    }
    let error = send(&service, "GET", &records("posts"), "", &Value::Null).await.json();
    assert_eq!(error, json!({"data": {}, "message": "Too Many Requests.", "status": 429}));
    assert_eq!(status("POST", "/api/realtime", "").await.0, 400);
    assert_eq!(status("POST", "/api/realtime", "").await, limited);

    // A label follows its collection's name, and a changed limit begins anew.
    good(&service, "PATCH", "/api/collections/posts", &token, &json!({"name": "articles"})).await;
    let labels = good(&service, "GET", SETTINGS, &token, &Value::Null).await;
    assert_eq!(labels["rateLimits"]["rules"][0]["label"], "articles:create");
    assert_eq!(status("POST", &records("articles"), "").await.0, 200);
    change(&service, &token, json!({"rateLimits": {"excludedIPs": ["127.0.0.0/8"]}})).await;
    for _ in 0..4 {
        assert_eq!(status("POST", &records("articles"), "").await.0, 200);
    }
}

#[tokio::test]
async fn superusers_may_be_bound_to_addresses() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    make(&service, &token, "posts", basic(), json!({})).await;
    change(&service, &token, json!({"superuserIPs": ["127.0.0.1", "10.0.0.0/8"]})).await;
    good(&service, "GET", SETTINGS, &token, &Value::Null).await;
    change(&service, &token, json!({"superuserIPs": ["10.0.0.0/8"]})).await;
    let denied = "You are not allowed to perform this request.";
    refused(&service, ("GET", SETTINGS, &token, &Value::Null), 403, denied).await;
    refused(&service, ("GET", &records("posts"), &token, &Value::Null), 403, denied).await;
    assert_eq!(send(&service, "GET", &records("posts"), "", &Value::Null).await.status, StatusCode::OK);
    // The way back that the documentation shows.
    database
        .connect()
        .await
        .execute("update app_settings set value = value - 'superuserIPs'", &[])
        .await
        .unwrap();
    let (again, token) = start(&database).await;
    good(&again, "GET", SETTINGS, &token, &Value::Null).await;
}

#[tokio::test]
async fn periodic_tasks_are_listed_and_run_and_backups_are_made_elsewhere() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let crons = good(&service, "GET", "/api/crons", &token, &Value::Null).await;
    let cron = crons.as_array().unwrap().iter().find(|cron| cron["id"] == "account-clean-up").unwrap();
    assert_eq!(cron["expression"], "*/10 * * * *");
    // An expired one-time password goes at once.
    let users = good(&service, "GET", "/api/collections/users", &token, &Value::Null).await;
    let otp = json!({"collectionRef": users["id"], "recordRef": "abcdefghijklmno", "password": "12345678"});
    let mut path = String::new();
    for _ in 0..2 {
        let made = good(&service, "POST", &records("_otps"), &token, &otp).await;
        path = format!("{}/{}", records("_otps"), made["id"].as_str().unwrap());
    }
    let client = database.connect().await;
    let number: i32 =
        client.query_one("select id from collections where name = '_otps'", &[]).await.unwrap().get(0);
    let id = path.rsplit('/').next().unwrap();
    let age = format!("update records_{number} set created = now() - interval '1 hour' where id = '{id}'");
    assert_eq!(client.execute(age.as_str(), &[]).await.unwrap(), 1);
    good(&service, "POST", "/api/crons/account-clean-up", &token, &Value::Null).await;
    eventually("the expired one is deleted", async || {
        let left = good(&service, "GET", &records("_otps"), &token, &Value::Null).await;
        (left["totalItems"] == 1).then_some(())
    })
    .await;
    assert_eq!(send(&service, "GET", &path, &token, &Value::Null).await.status, StatusCode::NOT_FOUND);
    let unknown = "Missing or invalid cron job.";
    refused(&service, ("POST", "/api/crons/nothing", &token, &Value::Null), 404, unknown).await;
    // A task that waits in its steps is none to run.
    refused(&service, ("POST", "/api/crons/feed", &token, &Value::Null), 404, unknown).await;
    let needed = "The request requires valid record authorization token.";
    let elsewhere = "Backups are made by pg_dump, or by the provider of the database.";
    for (method, path) in
        [("GET", "/api/backups"), ("POST", "/api/backups"), ("DELETE", "/api/backups/x.zip")]
    {
        refused(&service, (method, path, "", &Value::Null), 401, needed).await;
        refused(&service, (method, path, &token, &Value::Null), 501, elsewhere).await;
    }
}
