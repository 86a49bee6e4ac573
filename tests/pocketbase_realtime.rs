//! Realtime of typed collections, in the protocol of PocketBase.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::pocketbase::{basic, good, make, path_of, records, refused, send, start};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};
use crate::support::sse::EventStream;

pub(crate) const REALTIME: &str = "/api/realtime";
const GENERIC: &str = "Something went wrong while processing your request.";

/// A stream, and its client's id.
pub(crate) async fn connect(service: &Service) -> (EventStream, String) {
    let mut stream = EventStream::open(service, REALTIME, &[]).await;
    assert_eq!(
        (stream.status.as_u16(), &stream.headers["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    let first = stream.next().await.unwrap().unwrap();
    let data: Value = serde_json::from_str(&first.data).unwrap();
    assert_eq!((first.event.as_str(), &data["clientId"]), ("PB_CONNECT", &json!(first.id)));
    (stream, first.id)
}

pub(crate) async fn subscribe(service: &Service, token: &str, client: &str, topics: &[&str]) {
    let body = json!({"clientId": client, "subscriptions": topics});
    assert_eq!(good(service, "POST", REALTIME, token, &body).await, Value::Null);
}

/// The next event: its name, action, and a member of its record.
pub(crate) async fn next(stream: &mut EventStream, member: &str) -> (String, String, Value) {
    let event = stream.next().await.unwrap().unwrap();
    let data: Value = serde_json::from_str(&event.data).unwrap();
    (event.event, data["action"].as_str().unwrap().to_owned(), data["record"][member].clone())
}

pub(crate) fn with(topic: &str, options: &Value) -> String {
    format!("{topic}?options={}", utf8_percent_encode(&options.to_string(), NON_ALPHANUMERIC))
}

#[tokio::test]
async fn changes_come_in_order_from_the_answer_to_a_subscription_on() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let posts = make(&service, &token, "posts", basic(), json!({})).await;
    let (mut stream, client) = connect(&service).await;
    good(&service, "POST", &records("posts"), "", &json!({"title": "before"})).await;
    subscribe(&service, "", &client, &["posts/*", "nothing/*", "", "@oauth2"]).await;
    let made = good(&service, "POST", &records("posts"), "", &json!({"title": "a"})).await;
    let event = stream.next().await.unwrap().unwrap();
    assert_eq!(event.event, "posts/*");
    assert_eq!(
        serde_json::from_str::<Value>(&event.data).unwrap(),
        json!({"action": "create", "record": made})
    );
    let path = path_of("posts", &made);
    for n in 1..=30 {
        good(&service, "PATCH", &path, "", &json!({"n": n})).await;
    }
    for n in 1..=30 {
        assert_eq!(next(&mut stream, "n").await, ("posts/*".into(), "update".into(), json!(n)));
    }
    good(&service, "DELETE", &path, "", &Value::Null).await;
    assert_eq!(next(&mut stream, "n").await, ("posts/*".into(), "delete".into(), json!(30)));

    // The list replaces the one before: by id, one record, and the bare name.
    let (one, two) = (
        good(&service, "POST", &records("posts"), "", &json!({"title": "one"})).await,
        good(&service, "POST", &records("posts"), "", &json!({"title": "two"})).await,
    );
    for _ in 0..2 {
        stream.next().await.unwrap().unwrap();
    }
    let of_one = format!("{}/{}", posts["id"].as_str().unwrap(), one["id"].as_str().unwrap());
    subscribe(&service, "", &client, &[&of_one]).await;
    good(&service, "PATCH", &path_of("posts", &two), "", &json!({"n": 1})).await;
    good(&service, "PATCH", &path_of("posts", &one), "", &json!({"n": 2})).await;
    assert_eq!(next(&mut stream, "n").await, (of_one.clone(), "update".into(), json!(2)));
    subscribe(&service, "", &client, &["posts", &of_one, "POSTS/*", "posts/ *"]).await;
    good(&service, "PATCH", &path_of("posts", &one), "", &json!({"n": 3})).await;
    assert_eq!(next(&mut stream, "n").await.0, "posts");
    assert_eq!(next(&mut stream, "n").await.0, of_one);
    // Nothing is sent without topics.
    subscribe(&service, "", &client, &[]).await;
    good(&service, "PATCH", &path_of("posts", &one), "", &json!({"n": 4})).await;
    subscribe(&service, "", &client, &["posts/*"]).await;
    good(&service, "PATCH", &path_of("posts", &one), "", &json!({"n": 5})).await;
    assert_eq!(next(&mut stream, "n").await.2, json!(5));
}

#[tokio::test]
async fn rules_and_filters_judge_each_change_as_the_record_is_after_it() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let authors = make(&service, &token, "authors", basic(), json!({})).await;
    let mut fields = basic();
    let author = json!({"name": "author", "type": "relation", "collectionId": authors["id"], "maxSelect": 1});
    fields.as_array_mut().unwrap().push(author);
    make(&service, &token, "posts", fields, json!({"listRule": "n > 0", "viewRule": "author.title = 'Ann'"}))
        .await;
    let ann = good(&service, "POST", &records("authors"), "", &json!({"title": "Ann"})).await;
    let one =
        good(&service, "POST", &records("posts"), "", &json!({"title": "one", "author": ann["id"]})).await;
    let path = path_of("posts", &one);
    let single = format!("posts/{}", one["id"].as_str().unwrap());
    let few = with("posts/*", &json!({"query": {"filter": "n >= 5", "fields": "n", "expand": "author"}}));
    let owned = with(
        "posts/*",
        &json!({"query": {"filter": "author.title = 'Ann' && owner = 'x'", "expand": "author"}}),
    );
    let bad = with("posts/*", &json!({"query": {"filter": "nothing = 1"}}));
    let of_superusers = with("posts/*", &json!({"query": {"filter": "@request.method = 'GET'"}}));

    let (mut guest, guest_id) = connect(&service).await;
    let (mut admin, admin_id) = connect(&service).await;
    let topics = ["posts/*", &*single, &*few, &*owned, &*bad, &*of_superusers];
    subscribe(&service, "", &guest_id, &topics).await;
    subscribe(&service, &token, &admin_id, &["posts/*", &of_superusers]).await;

    good(&service, "PATCH", &path, "", &json!({"n": 0, "owner": "x"})).await;
    assert_eq!(next(&mut guest, "owner").await.0, single);
    good(&service, "PATCH", &path, "", &json!({"n": 7})).await;
    let mut names = Vec::new();
    for _ in 0..4 {
        let event = guest.next().await.unwrap().unwrap();
        let record = serde_json::from_str::<Value>(&event.data).unwrap()["record"].clone();
        if event.event == few {
            assert_eq!(record, json!({"n": 7}));
        }
        if event.event == owned {
            assert_eq!(record["expand"]["author"]["title"], "Ann");
        }
        names.push(event.event);
    }
    names.sort_unstable();
    let mut expected = vec!["posts/*".to_owned(), single.clone(), few, owned];
    expected.sort_unstable();
    assert_eq!(names, expected);
    // A record that leaves the list is silent, and so is its end. The single one ends with its author's name.
    good(&service, "PATCH", &path, &token, &json!({"n": -1, "author": ""})).await;
    good(&service, "DELETE", &path, &token, &Value::Null).await;
    good(&service, "POST", &records("posts"), &token, &json!({"n": 1, "title": "last"})).await;
    assert_eq!(next(&mut guest, "title").await, ("posts/*".into(), "create".into(), json!("last")));

    let mut actions = Vec::new();
    for _ in 0..10 {
        let (topic, action, _) = next(&mut admin, "n").await;
        actions.push((topic == of_superusers, action));
    }
    let of = |action: &str| [(false, action.to_owned()), (true, action.to_owned())];
    let expected: Vec<_> =
        ["update", "update", "update", "delete", "create"].iter().flat_map(|action| of(action)).collect();
    assert_eq!(actions, expected);
}

#[tokio::test]
async fn a_stream_is_found_from_any_node_and_belongs_to_its_caller() {
    let database = TestDatabase::create().await;
    let (here, token) = start(&database).await;
    let (elsewhere, other) = start(&database).await;
    make(&here, &token, "posts", basic(), json!({})).await;
    let (mut stream, client) = connect(&here).await;
    subscribe(&elsewhere, "", &client, &["posts/*"]).await;
    good(&elsewhere, "POST", &records("posts"), "", &json!({"title": "from there"})).await;
    assert_eq!(next(&mut stream, "title").await.2, "from there");
    // A guest may become a superuser; then it is theirs.
    subscribe(&here, &token, &client, &["posts/*"]).await;
    subscribe(&elsewhere, &token, &client, &["posts/*"]).await;
    let message = "The current and the previous request authorization don't match.";
    let body = json!({"clientId": client, "subscriptions": []});
    for token in ["", &other] {
        refused(&here, ("POST", REALTIME, token, &body), 403, message).await;
    }
    drop(stream);
    let message = "Missing or invalid client id.";
    eventually("the stream is gone", async || {
        let answer = send(&here, "POST", REALTIME, &token, &body).await;
        (answer.status.as_u16() == 404 && answer.json()["message"] == message).then_some(())
    })
    .await;
    let unknown = json!({"clientId": "nothing", "subscriptions": []});
    refused(&here, ("POST", REALTIME, "", &unknown), 404, message).await;

    let code = async |body: Value| refused(&here, ("POST", REALTIME, "", &body), 400, GENERIC).await;
    let required = json!({"clientId": {"code": "validation_required", "message": "Cannot be blank."}});
    assert_eq!(code(json!({"subscriptions": []})).await, required);
    let many = vec!["a"; 1_001];
    let found = code(json!({"clientId": "x", "subscriptions": many})).await;
    assert_eq!(found["subscriptions"]["code"], "validation_length_too_long");
    let found = code(json!({"clientId": "x", "subscriptions": ["a", "b".repeat(2_501)]})).await;
    assert_eq!(found["subscriptions"]["1"]["params"], json!({"max": 2500, "min": 0}));
    assert_eq!(code(json!({"clientId": "x", "subscriptions": "posts"})).await, json!({}));
    assert_eq!(
        code(json!({"clientId": "x".repeat(256)})).await["clientId"]["code"],
        "validation_length_out_of_range"
    );
}
