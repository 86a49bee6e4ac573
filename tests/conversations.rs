//! Conversations: created, listed, changed and deleted, each by its owner alone.

use serde_json::{Value, json};

use crate::support::accounts::{guarded, log_in, register, send};
use crate::support::postgres::{TestDatabase, blocked};
use crate::support::service::{Answer, Service};

pub(crate) const CONVERSATIONS: &str = "/api/conversations";

/// Creates a conversation; returns its path.
pub(crate) async fn make(service: &Service, token: &str) -> String {
    let made = send(service, "POST", CONVERSATIONS, token, &json!({})).await;
    assert_eq!(made.status.as_u16(), 201, "{:?}", made.body);
    made.header("location").to_owned()
}

/// The target of a `Link` header with this relation.
pub(crate) fn link(answer: &Answer, rel: &str) -> Option<String> {
    let links = answer.headers.get_all("link").iter().map(|link| link.to_str().unwrap());
    let wanted = format!(">; rel=\"{rel}\"");
    links.into_iter().find_map(|link| Some(link.strip_suffix(&wanted)?.strip_prefix('<')?.to_owned()))
}

fn titles(answer: &Answer) -> Vec<String> {
    let json = answer.json();
    json.as_array().unwrap().iter().map(|one| one["title"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_conversation_is_created_read_changed_and_deleted() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let made = send(&service, "POST", CONVERSATIONS, "", &Value::Null).await;
    assert_eq!(made.status.as_u16(), 201, "{:?}", made.body);
    let path = made.header("location").to_owned();
    let made = made.json();
    assert_eq!((&made["title"], &made["metadata"]), (&json!("New Conversation"), &json!({})));
    assert_eq!(path, format!("{CONVERSATIONS}/{}", made["id"].as_str().unwrap()));
    assert_eq!(made["created_at"], made["updated_at"]);
    assert_eq!(service.get(&path).await.json(), made);

    let patch = json!({"title": "Ferries", "metadata": {"n": 1}});
    let changed = send(&service, "PATCH", &path, "", &patch).await.json();
    assert_eq!((&changed["title"], &changed["metadata"]), (&json!("Ferries"), &json!({"n": 1})));
    assert!(changed["updated_at"].as_str() > made["updated_at"].as_str());
    let again = send(&service, "PATCH", &path, "", &json!({"metadata": {"m": 2}})).await.json();
    assert_eq!(
        (&again["title"], &again["metadata"]),
        (&json!("Ferries"), &json!({"m": 2})),
        "what is not named stays, and metadata is replaced as a whole"
    );
    for nothing in [json!({}), json!({"title": null, "metadata": null})] {
        let same = send(&service, "PATCH", &path, "", &nothing).await;
        assert_eq!((same.status.as_u16(), same.json()), (200, again.clone()), "nothing moves: {nothing}");
    }

    assert_eq!(send(&service, "DELETE", &path, "", &Value::Null).await.status.as_u16(), 204);
    for method in ["GET", "PATCH", "DELETE"] {
        let gone = send(&service, method, &path, "", &json!({})).await;
        assert_eq!((gone.status.as_u16(), gone.error_code().as_str()), (404, "not_found"), "{method}");
    }
    let client = database.connect().await;
    let feed = "select string_agg(action, ' ' order by xid, number) from changes where topic = $1";
    let topic = format!("conversation:{}", made["id"].as_str().unwrap());
    let actions: String = client.query_one(feed, &[&topic]).await.unwrap().get(0);
    assert_eq!(actions, "create update update delete");
}

#[tokio::test]
async fn a_list_has_the_newest_activity_first_and_goes_on_by_cursor_or_offset() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let mut paths = Vec::new();
    for n in 0..5 {
        let made = send(&service, "POST", CONVERSATIONS, "", &json!({"title": format!("{n}")})).await;
        paths.push(made.header("location").to_owned());
    }
    assert_eq!(titles(&service.get(CONVERSATIONS).await), ["4", "3", "2", "1", "0"]);
    let message = json!({"role": "user", "content": "hello"});
    let said = send(&service, "POST", &format!("{}/messages", paths[1]), "", &message).await;
    assert_eq!(said.status.as_u16(), 201, "{:?}", said.body);
    assert_eq!(titles(&service.get(CONVERSATIONS).await), ["1", "4", "3", "2", "0"], "a message is activity");

    let first = service.get(&format!("{CONVERSATIONS}?limit=2")).await;
    let second = service.get(&link(&first, "next").unwrap()).await;
    let third = service.get(&link(&second, "next").unwrap()).await;
    assert_eq!([titles(&first), titles(&second), titles(&third)].concat(), ["1", "4", "3", "2", "0"]);
    assert_eq!(link(&third, "next"), None);
    assert_eq!(titles(&service.get(&format!("{CONVERSATIONS}?limit=2&offset=3")).await), ["2", "0"]);
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("offset=-1", "offset"),
        ("after=x", "after"),
        ("order=asc", "order"),
        ("limit=1&limit=1", "limit"),
    ] {
        let refused = service.get(&format!("{CONVERSATIONS}?{query}")).await;
        assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (400, "invalid_request"));
        assert_eq!(refused.json()["error"]["field"], field);
    }
}

#[tokio::test]
async fn a_page_is_bounded_in_bytes_and_the_next_one_goes_on() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    // Together they have 12 MB, and a page 8 MiB.
    let fill = "insert into conversations (id, title, created_at, updated_at, metadata)
        select gen_random_uuid(), n::text, now(), now() - n * interval '1 s', jsonb_build_object('a', repeat('x', 60000))
        from generate_series(1, 200) n";
    database.connect().await.batch_execute(fill).await.unwrap();
    let first = service.get(&format!("{CONVERSATIONS}?limit=200")).await;
    let second = service.get(&link(&first, "next").unwrap()).await;
    assert!((8_388_608..9_000_000).contains(&first.body.len()), "{}", first.body.len());
    let all: Vec<String> = (1..=200).map(|n: u8| n.to_string()).collect();
    assert_eq!([titles(&first), titles(&second)].concat(), all);
    assert_eq!(link(&second, "next"), None);
}

#[tokio::test]
async fn a_conversation_is_invisible_to_other_users() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("REGISTRATION", "on")]).await;
    let mut tokens = Vec::new();
    for email in ["ada@example.com", "bob@example.com"] {
        register(&service, email).await;
        tokens.push(log_in(&service, email).await.access);
    }
    let [ada, bob] = [&tokens[0], &tokens[1]];
    let admin = crate::support::accounts::token_with(&["admin"]);
    let path = make(&service, ada).await;
    let message = json!({"role": "user", "content": "mine"});
    let said = send(&service, "POST", &format!("{path}/messages"), ada, &message).await;
    let said = said.header("location").to_owned();
    let missing = format!("{CONVERSATIONS}/{}", uuid::Uuid::new_v4());
    for token in [bob, &admin] {
        let list = send(&service, "GET", CONVERSATIONS, token, &Value::Null).await;
        assert_eq!(list.json(), json!([]));
        for (method, path, body) in [
            ("GET", path.clone(), Value::Null),
            ("PATCH", path.clone(), json!({"title": "yours"})),
            ("DELETE", path.clone(), Value::Null),
            ("GET", format!("{path}/messages"), Value::Null),
            ("POST", format!("{path}/messages"), message.clone()),
            ("GET", said.clone(), Value::Null),
        ] {
            let refused = send(&service, method, &path, token, &body).await;
            let none =
                send(&service, method, &path.replace(&path[..missing.len()], &missing), token, &body).await;
            assert_eq!((refused.status.as_u16(), &refused.body), (404, &none.body), "{method} {path}");
        }
    }
    let mine = send(&service, "GET", &format!("{path}/messages"), ada, &Value::Null).await.json();
    assert_eq!((mine.as_array().unwrap().len(), &mine[0]["content"]), (1, &json!("mine")));
}

#[tokio::test]
async fn a_conversation_with_more_messages_than_one_statement_deletes_is_deleted() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let path = make(&service, "").await;
    let client = database.connect().await;
    let id: uuid::Uuid = path.rsplit('/').next().unwrap().parse().unwrap();
    let fill = "insert into messages (id, conversation_id, role, content, timestamp)
        select gen_random_uuid(), $1, 'user', n::text, now() from generate_series(1, 12000) n";
    client.execute(fill, &[&id]).await.unwrap();
    assert_eq!(send(&service, "DELETE", &path, "", &Value::Null).await.status.as_u16(), 204);
    let left: i64 = client.query_one("select count(*) from messages", &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}

/// A trigger that fails a statement which deletes more than a batch of a table.
const NO_LONG_DELETE: &str = "
    create function no_long_delete() returns trigger language plpgsql as $$
    begin
        if (select count(*) from gone) > 5000 then raise exception 'too many at once'; end if;
        return null;
    end $$;
    create trigger no_long_delete after delete on messages
        referencing old table as gone for each statement execute function no_long_delete();
    create trigger no_long_delete after delete on search_documents
        referencing old table as gone for each statement execute function no_long_delete();
    create trigger no_long_delete after delete on message_keys
        referencing old table as gone for each statement execute function no_long_delete();";

#[tokio::test]
async fn a_conversation_with_many_messages_is_deleted_in_batches_behind_its_lock() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let path = make(&service, "").await;
    let id: uuid::Uuid = path.rsplit('/').next().unwrap().parse().unwrap();
    let client = database.connect().await;
    let fill = "with added as (
            insert into messages (id, conversation_id, role, content, timestamp)
            select gen_random_uuid(), $1, 'user', 'x', now() + n * interval '1 us' from generate_series(1, 12000) n
            returning id
        ), known as (
            insert into search_documents (id, conversation_id, words) select id, $1, '' from added
        )
        insert into message_keys (conversation_id, key, hash, ids, first)
        select $1, id::text, '', array[id], now() from added";
    client.execute(fill, &[&id]).await.unwrap();
    client.batch_execute(NO_LONG_DELETE).await.unwrap();
    let lock = "select pg_advisory_lock(hashtextextended('conversation:' || $1::uuid, 0))";
    client.execute(lock, &[&id]).await.unwrap();
    let left = async || -> i64 {
        let count = "select (select count(*) from messages) + (select count(*) from message_keys)";
        client.query_one(count, &[]).await.unwrap().get(0)
    };
    let unlock = async {
        blocked(&client, 1, "locktype = 'advisory'").await;
        assert_eq!(left().await, 24_000, "nothing goes while somebody writes");
        client.execute("select pg_advisory_unlock_all()", &[]).await.unwrap();
    };
    let (deleted, ()) = tokio::join!(send(&service, "DELETE", &path, "", &Value::Null), unlock);
    assert_eq!(deleted.status.as_u16(), 204, "{:?}", deleted.body);
    assert_eq!(left().await, 0);
}

#[tokio::test]
async fn only_a_missing_owner_is_reported_as_a_missing_user() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let service = guarded(&database, &[]).await;
    register(&service, "ada@example.com").await;
    let ada = log_in(&service, "ada@example.com").await.access;
    // A foreign key of an operator's own.
    let tenants = "create table tenants (id int primary key);
        alter table conversations add column tenant int default 7 references tenants";
    client.batch_execute(tenants).await.unwrap();
    let refused = send(&service, "POST", CONVERSATIONS, &ada, &json!({})).await;
    assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (500, "internal"));
    client.batch_execute("insert into tenants values (7)").await.unwrap();
    make(&service, &ada).await;
    client.batch_execute("delete from users").await.unwrap();
    let refused = send(&service, "POST", CONVERSATIONS, &ada, &json!({})).await;
    assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (404, "not_found"));
}

#[tokio::test]
async fn a_member_that_is_too_long_is_413_and_named() {
    let database = TestDatabase::create().await;
    let limits = [("MAX_MESSAGE_BYTES", "1024")];
    let service = Service::start(database.url(), &limits).await;
    let path = make(&service, "").await;
    let messages = format!("{path}/messages");
    for (method, path, body, field) in [
        ("POST", CONVERSATIONS, json!({"title": "x".repeat(1025)}), "title"),
        ("PATCH", path.as_str(), json!({"title": "\u{e9}".repeat(513)}), "title"),
        ("PATCH", path.as_str(), json!({"metadata": {"a": "x".repeat(65_536)}}), "metadata"),
        ("POST", messages.as_str(), json!({"role": "user", "content": "x".repeat(1025)}), "content"),
    ] {
        let refused = send(&service, method, path, "", &body).await;
        assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (413, "too_large"), "{body}");
        assert_eq!(refused.json()["error"]["field"], field);
    }
}
