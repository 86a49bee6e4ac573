//! The log of requests to typed collections.

use serde_json::{Value, json};

use crate::pocketbase::{basic, good, make, records, refused, send, start};
use crate::pocketbase_settings::change;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};

const LOGS: &str = "/api/logs";

fn list(filter: &str) -> String {
    let filter = percent_encoding::utf8_percent_encode(filter, percent_encoding::NON_ALPHANUMERIC);
    format!("{LOGS}?sort=-created&filter={filter}")
}

/// The entries that a filter finds, once there are some.
async fn logged(service: &Service, token: &str, filter: &str, count: usize) -> Vec<Value> {
    eventually(filter, async || {
        let page = good(service, "GET", &list(filter), token, &Value::Null).await;
        let items = page["items"].as_array().unwrap();
        assert_eq!(page["totalItems"], items.len(), "{page}");
        (items.len() == count).then(|| items.clone())
    })
    .await
}

#[tokio::test]
async fn failures_are_logged_without_secrets_and_all_requests_where_the_level_says_so() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    make(&service, &token, "posts", basic(), json!({"viewRule": null})).await;
    let missing = format!("{}/aaaaaaaaaaaaaaa", records("posts"));
    good(&service, "GET", &records("posts"), "", &Value::Null).await;
    let path = format!("{missing}?token=hunter2&fields=id");
    assert_eq!(send(&service, "GET", &path, "hunter3", &Value::Null).await.status.as_u16(), 403);
    let bad = send(&service, "POST", &records("posts"), &token, &json!({"id": "short"})).await;
    assert_eq!(bad.status.as_u16(), 400);

    let entry = &logged(&service, &token, "data.status = 403 && level > 0", 1).await[0];
    let data = &entry["data"];
    assert_eq!(
        (&entry["level"], &data["type"], &data["method"]),
        (&json!(8), &json!("request"), &json!("GET"))
    );
    assert_eq!(data["url"], format!("{missing}?token=***&fields=id"));
    assert_eq!(entry["message"], format!("GET {missing}?token=***&fields=id"));
    assert_eq!(data["error"], "Only superusers can perform this action.");
    assert_eq!(
        (&data["auth"], &data["userIP"], &data["remoteIP"]),
        (&json!(""), &json!("127.0.0.1"), &json!("127.0.0.1"))
    );
    assert!(data["execTime"].as_f64().unwrap() > 0.0 && data.get("authId").is_none(), "{entry}");
    let failed = &logged(&service, &token, "data.status = 400", 1).await[0];
    assert_eq!(failed["data"]["auth"], "_superusers");
    assert!(failed["data"]["details"]["id"].is_string(), "{failed}");
    // The list of records succeeded, and what reads the log leaves no entry.
    logged(&service, &token, "id != ''", 2).await;

    let path = format!("{LOGS}/{}", entry["id"].as_str().unwrap());
    assert_eq!(good(&service, "GET", &path, &token, &Value::Null).await, *entry);
    let path = format!("{LOGS}?perPage=1&page=2&sort=@rowid&fields=data.status");
    let expected = json!({"items": [{"data": {"status": 400}}], "page": 2, "perPage": 1, "totalItems": 2, "totalPages": 2});
    assert_eq!(good(&service, "GET", &path, &token, &Value::Null).await, expected);
    let hours = good(&service, "GET", &format!("{LOGS}/stats"), &token, &Value::Null).await;
    let hours = hours.as_array().unwrap();
    assert_eq!(hours.iter().map(|hour| hour["total"].as_i64().unwrap()).sum::<i64>(), 2);
    assert!(hours.iter().all(|hour| hour["date"].as_str().unwrap().ends_with(":00:00.000Z")), "{hours:?}");
    let needed = "The request requires valid record authorization token.";
    for (method, path) in
        [("GET", LOGS), ("DELETE", LOGS), ("GET", "/api/logs/stats"), ("GET", "/api/logs/aaaaaaaaaaaaaaa")]
    {
        refused(&service, (method, path, "", &Value::Null), 401, needed).await;
    }
    let generic = "Something went wrong while processing your request.";
    for bad in ["nope = 1", "updated > ''", "data.status =", "@collection.posts.id != ''"] {
        refused(&service, ("GET", &list(bad), &token, &Value::Null), 400, generic).await;
    }
    refused(&service, ("GET", "/api/logs?sort=nope", &token, &Value::Null), 400, generic).await;
    let not_found = "The requested resource wasn't found.";
    for id in ["aaaaaaaaaaaaaaa", "x", "_______________"] {
        refused(&service, ("GET", &format!("{LOGS}/{id}"), &token, &Value::Null), 404, not_found).await;
    }

    change(&service, &token, json!({"logs": {"minLevel": 0, "logIP": false, "logAuthId": true}})).await;
    let users = "/api/collections/users";
    let signed =
        json!({"email": "ada@example.com", "password": "longenough", "passwordConfirm": "longenough"});
    let ada = good(&service, "POST", &format!("{users}/records"), &token, &signed).await;
    let identity = json!({"identity": "ada@example.com", "password": "longenough"});
    let signed = good(&service, "POST", &format!("{users}/auth-with-password"), "", &identity).await;
    good(&service, "GET", &records("posts"), signed["token"].as_str().unwrap(), &Value::Null).await;
    let entry = &logged(&service, &token, "data.auth = 'users'", 1).await[0];
    assert_eq!((&entry["level"], &entry["data"]["authId"]), (&json!(0), &ada["id"]));
    assert!(entry["data"].get("userIP").is_none(), "{entry}");
    let all = good(&service, "GET", LOGS, &token, &Value::Null).await.to_string();
    assert!(!all.contains("longenough") && !all.contains("hunter") && !all.contains("eyJ"), "{all}");

    good(&service, "DELETE", LOGS, &token, &Value::Null).await;
    good(&service, "GET", &records("posts"), "", &Value::Null).await;
    logged(&service, &token, "level = 0 && data.url ~ 'posts'", 1).await;
    change(&service, &token, json!({"logs": {"minLevel": 1}})).await;
    logged(&service, &token, "level = 0", 0).await;
    change(&service, &token, json!({"logs": {"minLevel": 0, "maxDays": 0}})).await;
    good(&service, "GET", &records("posts"), "", &Value::Null).await;
    let health = service.health().await;
    assert_eq!(
        (&health["request_logs"]["waiting"], &health["request_logs"]["dropped"]),
        (&json!(0), &json!(0)),
        "{health}"
    );
    logged(&service, &token, "id != ''", 0).await;
}

#[tokio::test]
async fn a_stopping_node_stores_its_entries_and_old_ones_are_deleted() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let client = database.connect().await;
    let old = "insert into request_logs (id, created, level, message, data)
        select lpad(n::text, 15, '0'), now() - make_interval(days => n), 8, '', '{}' from generate_series(1, 9) as n";
    client.execute(old, &[]).await.unwrap();
    for _ in 0..3 {
        refused(
            &service,
            ("GET", "/api/collections/nothing", &token, &Value::Null),
            404,
            "The requested resource wasn't found.",
        )
        .await;
    }
    assert!(service.stop().await.status.success());
    let count = async |condition: &str| -> i64 {
        client
            .query_one(&format!("select count(*) from request_logs where {condition}"), &[])
            .await
            .unwrap()
            .get(0)
    };
    assert_eq!(count("message <> ''").await, 3);
    let (_next, _) = start(&database).await;
    eventually("entries of more than five days are gone", async || {
        (count("message = ''").await == 4).then_some(())
    })
    .await;
}
