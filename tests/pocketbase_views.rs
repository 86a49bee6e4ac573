//! View collections: queries in SQLite's SQL over Postgres, in the protocol of PocketBase.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use crate::pocketbase::{COLLECTIONS, basic, found, good, make, path_of, records, refused, send, start};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};
use crate::support::sse::EventStream;

const DRY_RUN: &str = "/api/collections/meta/dry-run-view";
const FAILED: &str = "Failed to create collection.";
const GENERIC: &str = "Something went wrong while processing your request.";

/// Queries, and PocketBase's answers to them.
fn corpus() -> Value {
    serde_json::from_str(include_str!("data/pocketbase-views.json")).unwrap()
}

/// Creates the collections of the corpus with their records.
async fn fill(service: &Service, token: &str, corpus: &Value) {
    let mut authors = Value::Null;
    for (collection, of) in corpus["collections"].as_array().unwrap().iter().zip(["authors", "posts"]) {
        let fields =
            collection["fields"].to_string().replace("AUTHORS", authors.as_str().unwrap_or_default());
        let name = collection["name"].as_str().unwrap();
        let made = make(service, token, name, serde_json::from_str(&fields).unwrap(), json!({})).await;
        authors = made["id"].clone();
        for record in corpus[of].as_array().unwrap() {
            good(service, "POST", &records(name), "", record).await;
        }
    }
}

async fn view(service: &Service, token: &str, name: &str, query: &str) -> Value {
    let body = json!({"name": name, "type": "view", "viewQuery": query, "listRule": "", "viewRule": ""});
    good(service, "POST", COLLECTIONS, token, &body).await
}

fn without(value: &Value, members: &[&str]) -> Value {
    let kept = value.as_object().unwrap().iter().filter(|(name, _)| !members.contains(&name.as_str()));
    Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// A field but for what every field has.
fn described(field: &Value) -> Value {
    let is_set = |(name, value): &(&String, &Value)| {
        let is_empty = [json!(""), json!(false), json!(0), Value::Null].contains(value);
        let is_of_all = ["id", "help", "presentable", "system"].contains(&name.as_str());
        !is_of_all && !is_empty
    };
    let members: Map<String, Value> = field
        .as_object()
        .unwrap()
        .iter()
        .filter(is_set)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Value::Object(members)
}

#[tokio::test]
async fn views_have_the_fields_and_records_that_pocketbase_has() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let corpus = corpus();
    fill(&service, &token, &corpus).await;
    view(&service, &token, "v", "select id from Vposts").await;
    let path = format!("{COLLECTIONS}/v");
    let mut compared = 0;
    for answer in corpus["answers"].as_array().unwrap() {
        let query = answer["query"].as_str().unwrap();
        let body = json!({"viewQuery": query});
        if answer["items"].is_null() {
            let request = ("PATCH", path.as_str(), token.as_str(), &body);
            let data = refused(&service, request, 400, "Failed to update collection.").await;
            assert_eq!(data["viewQuery"]["code"], "validation_invalid_view_query", "{query}");
            continue;
        }
        let changed = good(&service, "PATCH", &path, &token, &body).await;
        let fields: Vec<Value> = changed["fields"].as_array().unwrap().iter().map(described).collect();
        let expected: Vec<Value> = answer["fields"].as_array().unwrap().iter().map(described).collect();
        assert_eq!(fields, expected, "{query}");
        let page = format!("{}?perPage=100", records("v"));
        // As a superuser, who sees hidden fields.
        let page = good(&service, "GET", &page, &token, &Value::Null).await;
        let items = page["items"].as_array().unwrap();
        let mut items: Vec<Value> =
            items.iter().map(|item| without(item, &["collectionId", "collectionName"])).collect();
        let mut expected = answer["items"].as_array().unwrap().clone();
        // The order of windows and sub-selects is not that of the records.
        if !query.rsplit(')').next().unwrap().contains(" order by ") {
            items.sort_by_key(Value::to_string);
            expected.sort_by_key(Value::to_string);
        }
        assert_eq!(items, expected, "{query}");
        compared += 1;
    }
    assert!(compared > 90, "{compared}");
}

#[tokio::test]
async fn a_view_is_read_like_a_collection_and_never_written() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let (other, _) = start(&database).await;
    let authors =
        make(&service, &token, "authors", json!([{"name": "name", "type": "text"}]), json!({})).await;
    let fields = json!([
        {"name": "title", "type": "text"}, {"name": "n", "type": "number"},
        {"name": "author", "type": "relation", "collectionId": authors["id"], "maxSelect": 1},
        {"name": "created", "type": "autodate", "onCreate": true},
    ]);
    make(&service, &token, "posts", fields, json!({})).await;
    let ann = good(&service, "POST", &records("authors"), "", &json!({"name": "Ann"})).await;
    let body = |title: &str, n: i64| json!({"title": title, "n": n, "author": ann["id"]});
    let one = good(&service, "POST", &records("posts"), "", &body("one", 1)).await;
    good(&service, "POST", &records("posts"), "", &body("two", 2)).await;
    let query = "select id, title, (n * 2) as twice, author, created from posts where n > 0";
    let made = view(&service, &token, "v", query).await;
    assert_eq!(
        (&made["type"], &made["viewQuery"], &made["createRule"]),
        (&json!("view"), &json!(query), &Value::Null)
    );

    // Lists, filters, orders, relations, single records.
    assert_eq!(found(&service, "", "v", &[("sort", "-twice")], "title").await, json!(["two", "one"]));
    assert_eq!(
        found(&service, "", "v", &[("filter", "title = 'one' && author.name = 'Ann'")], "twice").await,
        json!([2])
    );
    assert_eq!(
        found(&service, "", "v", &[("filter", "created > '2020-01-01'"), ("sort", "created,twice")], "twice")
            .await,
        json!([2, 4])
    );
    let path = format!("{}/{}", records("v"), one["id"].as_str().unwrap());
    let shown = good(
        &service,
        "GET",
        &format!("{path}?expand=author&fields=title,created,expand.author.name"),
        "",
        &Value::Null,
    )
    .await;
    assert_eq!(
        shown,
        json!({"title": "one", "created": one["created"], "expand": {"author": {"name": "Ann"}}})
    );
    let back = format!("{}?expand=v_via_author", records("authors"));
    let back = good(&service, "GET", &back, "", &Value::Null).await;
    assert_eq!(back["items"][0]["expand"]["v_via_author"].as_array().unwrap().len(), 2, "{back}");
    let filter = "@collection.v.twice ?= n && @collection.v.title ?= 'one'";
    assert_eq!(found(&service, &token, "posts", &[("filter", filter)], "title").await, json!(["two"]));
    for (path, status) in [
        (path.as_str(), 200),
        (&format!("{}/nothing", records("v")), 404),
        (&format!("{}/a%00b", records("v")), 404),
    ] {
        assert_eq!(send(&service, "GET", path, "", &Value::Null).await.status.as_u16(), status, "{path}");
    }

    // Totals follow what the view reads, on every node.
    for n in 3..9 {
        let writer = if n % 2 == 0 { &service } else { &other };
        good(writer, "POST", &records("posts"), "", &body("more", n)).await;
        for reader in [&service, &other] {
            let page = good(reader, "GET", &records("v"), "", &Value::Null).await;
            assert_eq!((&page["totalItems"], page["items"].as_array().unwrap().len() as i64), (&json!(n), n));
        }
    }

    // Nothing is written, by superusers neither, alone or in a batch, and no events come.
    let mut stream = EventStream::open(&service, "/api/realtime", &[]).await;
    let client = stream.next().await.unwrap().unwrap().id;
    let topics = json!({"clientId": client, "subscriptions": ["v/*", "posts"]});
    good(&service, "POST", "/api/realtime", "", &topics).await;
    let unsupported = "Unsupported collection type.";
    for (method, path) in [("POST", records("v")), ("PATCH", path.clone()), ("DELETE", path.clone())] {
        for token in ["", &token] {
            refused(&service, (method, &path, token, &json!({"title": "x"})), 400, unsupported).await;
        }
    }
    let truncate = format!("{COLLECTIONS}/v/truncate");
    let reason = "View collections cannot be truncated since they don't store their own records.";
    refused(&service, ("DELETE", &truncate, &token, &Value::Null), 400, reason).await;
    good(&service, "PATCH", "/api/settings", &token, &json!({"batch": {"enabled": true}})).await;
    for method in ["POST", "PUT"] {
        let requests =
            json!({"requests": [{"method": method, "url": records("v"), "body": {"id": one["id"]}}]});
        let data =
            refused(&service, ("POST", "/api/batch", &token, &requests), 400, "Batch transaction failed.")
                .await;
        assert_eq!(data["requests"]["0"]["response"]["message"], unsupported);
    }
    good(&service, "PATCH", &path_of("posts", &one), "", &json!({"n": 0})).await;
    assert_eq!(stream.next().await.unwrap().unwrap().event, "posts");
    assert_eq!(send(&service, "GET", &path, "", &Value::Null).await.status.as_u16(), 404);

    // The other faces do not have it, psql does.
    assert_eq!(send(&service, "GET", "/api/stress/records/v", "", &Value::Null).await.status.as_u16(), 403);
    let client = database.connect().await;
    let row = client
        .query_one("select title, author from public_collections.v where title = 'two'", &[])
        .await
        .unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("two", ann["id"].as_str().unwrap()));

    // A relation of a view keeps nothing from being deleted.
    let author = path_of("authors", &ann);
    assert_eq!(send(&service, "DELETE", &author, "", &Value::Null).await.status.as_u16(), 204);
    good(&service, "DELETE", &format!("{COLLECTIONS}/v"), &token, &Value::Null).await;
    let left = client.query_one("select to_regclass('public_collections.v') is null", &[]).await.unwrap();
    assert!(left.get::<_, bool>(0));
}

#[tokio::test]
async fn views_follow_what_they_read() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let (other, _) = start(&database).await;
    let posts = make(&service, &token, "posts", basic(), json!({})).await;
    good(&service, "POST", &records("posts"), "", &json!({"title": "a", "n": 1})).await;
    view(&service, &token, "v", "select posts.id, posts.title, n from posts").await;
    view(&service, &token, "w", "select id, title, v.id as base from v").await;
    let of = async |name: &str| {
        good(&service, "GET", &format!("{COLLECTIONS}/{name}"), &token, &Value::Null).await
    };
    let change = async |name: &str, body: Value| {
        good(&service, "PATCH", &format!("{COLLECTIONS}/{name}"), &token, &body).await
    };
    let titles = async |name: &str| found(&service, "", name, &[], "title").await;

    // Options of a field come over, a renamed collection is renamed in the queries, and views read views.
    let mut fields = posts["fields"].clone();
    fields[1]["max"] = json!(77);
    change("posts", json!({"fields": fields, "name": "articles"})).await;
    assert_eq!(of("v").await["viewQuery"], "select \"articles\".id, \"articles\".title, n from \"articles\"");
    assert_eq!(
        (&of("v").await["fields"][1]["max"], &of("w").await["fields"][1]["max"]),
        (&json!(77), &json!(77))
    );
    assert_eq!((titles("v").await, titles("w").await), (json!(["a"]), json!(["a"])));
    let relation = &of("w").await["fields"][2];
    assert_eq!((&relation["type"], &relation["collectionId"]), (&json!("relation"), &of("v").await["id"]));

    // A view that reads itself is none, and only views have relations to views.
    for (query, reason) in [
        ("select id, title from w", "the query of the view w is invalid"),
        ("select id, title from v", "the view reads itself"),
    ] {
        let body = json!({"viewQuery": query});
        let request = ("PATCH", &*format!("{COLLECTIONS}/v"), token.as_str(), &body);
        let data = refused(&service, request, 400, "Failed to update collection.").await;
        assert_eq!(data["viewQuery"]["message"], format!("Invalid query - {reason}"), "{data}");
    }
    let body = json!({"name": "r", "fields": [{"name": "to", "type": "relation", "collectionId": of("v").await["id"]}]});
    let data = refused(&service, ("POST", COLLECTIONS, &token, &body), 400, FAILED).await;
    assert_eq!(
        data["fields"]["1"]["collectionId"]["code"],
        "validation_relation_field_non_view_base_collection"
    );

    // What a view reads is not deleted. A view whose query has lost a field is read no more until it is right again.
    for (name, user) in [("articles", "v"), ("v", "w")] {
        let message = format!("Failed to delete collection probably due to existing reference in {user}.");
        let request = ("DELETE", &*format!("{COLLECTIONS}/{name}"), token.as_str(), &Value::Null);
        let answer = send(&service, request.0, request.1, &token, &Value::Null).await;
        assert_eq!(answer.status.as_u16(), 400);
        assert!(
            answer.json()["message"].as_str().unwrap().starts_with(&message[..message.len() - 1]),
            "{:?}",
            answer.body
        );
    }
    let mut renamed = fields.clone();
    renamed[1]["name"] = json!("headline");
    change("articles", json!({"fields": renamed})).await;
    for (reader, name) in [(&service, "v"), (&service, "w"), (&other, "v")] {
        eventually("a view without its field is not read", async || {
            (send(reader, "GET", &records(name), "", &Value::Null).await.status.as_u16() == 400).then_some(())
        })
        .await;
    }
    refused(&service, ("GET", &records("v"), &token, &Value::Null), 400, GENERIC).await;
    change("v", json!({"viewQuery": "select id, headline as title, n from articles"})).await;
    assert_eq!((titles("v").await, titles("w").await), (json!(["a"]), json!(["a"])));
    change("v", json!({"viewQuery": "select id, n from articles"})).await;
    refused(&service, ("GET", &records("w"), &token, &Value::Null), 400, GENERIC).await;
    good(&service, "DELETE", &format!("{COLLECTIONS}/w"), &token, &Value::Null).await;

    // An import brings views and their tables in any order, and takes the tables of views that change with it.
    let base =
        json!({"name": "base", "type": "base", "listRule": "", "fields": [{"name": "x", "type": "text"}]});
    let of_base = json!({"name": "z", "type": "view", "listRule": "", "viewQuery": "select id, x from base"});
    let import = async |collections: Value| {
        let body = json!({"collections": collections, "deleteMissing": true});
        send(&service, "PUT", "/api/collections/import", &token, &body).await
    };
    assert_eq!(import(json!([of_base, base])).await.status.as_u16(), 204);
    good(&service, "POST", &records("base"), &token, &json!({"x": "y"})).await;
    assert_eq!(found(&service, "", "z", &[], "x").await, json!(["y"]));
    let own = json!({"name": "z", "type": "view", "listRule": "", "viewQuery": "select 1 as id, 'own' as x"});
    assert_eq!(import(json!([own])).await.status.as_u16(), 204);
    assert_eq!(found(&service, "", "z", &[], "x").await, json!(["own"]));
    let bad = json!({"name": "y", "type": "view", "viewQuery": "select id, nope from z"});
    assert_eq!(import(json!([bad])).await.status.as_u16(), 400);
}

#[tokio::test]
async fn refusals_of_views_are_those_of_pocketbase_and_no_query_is_a_500() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let corpus = corpus();
    fill(&service, &token, &corpus).await;
    let required = json!({"code": "validation_required", "message": "Cannot be blank."});
    let invalid = |reason: &str| json!({"code": "validation_invalid_view_query", "message": format!("Invalid query - {reason}")});
    for (member, value, expected) in [
        ("viewQuery", json!(""), json!({"viewQuery": required, "fields": required})),
        (
            "createRule",
            json!(""),
            json!({"createRule": {"code": "validation_nil", "message": "Must be blank."}}),
        ),
        (
            "indexes",
            json!(["create index a on v (id)"]),
            json!({"indexes": {"code": "validation_indexes_not_supported", "message": "View collections don't support indexes."}}),
        ),
        (
            "viewQuery",
            json!("select id, nope from Vposts"),
            json!({"viewQuery": invalid("no such column: nope"), "fields": required}),
        ),
        (
            "viewQuery",
            json!("select (1 / 0) as id"),
            json!({"viewQuery": invalid("the query could return records with empty or invalid ids"), "fields": required}),
        ),
    ] {
        let mut body = json!({"name": "v", "type": "view", "viewQuery": "select id from Vposts"});
        body[member] = value;
        assert_eq!(
            refused(&service, ("POST", COLLECTIONS, &token, &body), 400, FAILED).await,
            expected,
            "{body}"
        );
    }
    let rule =
        json!({"name": "v", "type": "view", "viewQuery": "select id from Vposts", "listRule": "nothing = 1"});
    let data = refused(&service, ("POST", COLLECTIONS, &token, &rule), 400, FAILED).await;
    assert_eq!(data["listRule"]["code"], "validation_invalid_rule");

    let dry = good(
        &service,
        "POST",
        DRY_RUN,
        &token,
        &json!({"query": "select id, n from Vposts where n > 4 order by n"}),
    )
    .await;
    let shown: Vec<&Value> = dry["sample"].as_array().unwrap().iter().map(|record| &record["n"]).collect();
    assert_eq!(
        (shown, &dry["fields"][1]["type"]),
        (vec![&json!(5), &json!(7), &json!(10)], &json!("number"))
    );
    for body in [json!({}), json!({"query": ""}), json!({"query": "x".repeat(5_001)})] {
        let message = "An error occurred while validating the submitted data.";
        let data = refused(&service, ("POST", DRY_RUN, &token, &body), 400, message).await;
        assert!(data["query"]["code"].is_string());
    }
    let message = "An error occurred while loading the submitted data.";
    refused(&service, ("POST", DRY_RUN, &token, &json!({"query": 5})), 400, message).await;
    let message = "Invalid view query. Raw error: \nno such table: pg_roles.";
    refused(&service, ("POST", DRY_RUN, &token, &json!({"query": "select id from pg_roles"})), 400, message)
        .await;
    assert_eq!(
        send(&service, "POST", DRY_RUN, "", &json!({"query": "select 1 as id"})).await.status.as_u16(),
        401
    );

    // Values that a query fails on come later: the list is refused, not the service.
    view(&service, &token, "v", "select id, (n * 1e300) as x from Vposts").await;
    let huge = json!({"title": "huge", "n": 1e300});
    good(&service, "POST", &records("Vposts"), "", &huge).await;
    refused(&service, ("GET", &records("v"), "", &Value::Null), 400, GENERIC).await;

    // Random changes of good queries: words are dropped, doubled, exchanged with words of others.
    let queries: Vec<Vec<String>> = corpus["answers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| words(answer["query"].as_str().unwrap()))
        .collect();
    let pool: Vec<String> = queries.iter().flatten().cloned().collect();
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let changes =
        prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8, any::<prop::sample::Index>()), 1..3);
    let strategy = (any::<prop::sample::Index>(), changes);
    let (mut run, mut good_ones) = (0, 0);
    for _ in 0..250 {
        let (query, changes) = strategy.new_tree(&mut runner).unwrap().current();
        let mut query = query.get(&queries).clone();
        for (at, change, with) in changes {
            let at = at.index(query.len());
            match change {
                0 if query.len() > 1 => drop(query.remove(at)),
                1 => query.insert(at, query[at].clone()),
                2 => query.insert(at, with.get(&pool).clone()),
                // Mostly a word for a word, and a sign for a sign, so that some of them run.
                _ => {
                    let of_kind: Vec<&String> =
                        pool.iter().filter(|word| is_sign(word) == is_sign(&query[at])).collect();
                    query[at] = (*with.get(&of_kind)).clone();
                }
            }
        }
        let query = query.join(" ");
        let answer = send(&service, "POST", DRY_RUN, &token, &json!({"query": query})).await;
        assert!(matches!(answer.status.as_u16(), 200 | 400), "{query}: {:?}", answer.body);
        run += 1;
        good_ones += usize::from(answer.status.as_u16() == 200);
    }
    assert!(good_ones > 2, "{good_ones} of {run} ran");
}

fn is_sign(word: &str) -> bool {
    !word.starts_with(|first: char| first.is_alphanumeric() || first == '\'')
}

/// A query in words, signs and texts.
fn words(query: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut is_text, mut is_word) = (false, false);
    for character in query.chars() {
        let is_of_word = character.is_alphanumeric() || "_.".contains(character);
        if is_text || (is_word && is_of_word) {
            words.last_mut().unwrap().push(character);
            is_text ^= character == '\'';
            continue;
        }
        is_word = is_of_word;
        is_text = character == '\'';
        if !character.is_whitespace() {
            words.push(character.into());
        }
    }
    words
}
