//! Users who are deleted with all that they have.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::conversations::{CONVERSATIONS, make};
use crate::issuers::{Signer, claims, trusting_key};
use crate::support::accounts::{guarded, log_in, me, register, send, tidegate, tidegate_with};
use crate::support::imports::count;
use crate::support::postgres::{Scratch, TestDatabase};
use crate::support::service::eventually;

const ADA: &str = "ada@example.com";

/// Gives somebody 3,000 more conversations of a message each, and a conversation 12,000 messages, with all that belongs to them.
async fn fill(client: &Client, owner: uuid::Uuid, conversation: uuid::Uuid) {
    let fill = "with made as (
            insert into conversations (id, title, created_at, updated_at, owner)
            select gen_random_uuid(), 'one of many', now(), now() + n % 10 * interval '1 s', $1
            from generate_series(1, 3000) n
            returning id
        ), places as (
            select id, 1 as n from made union all select $2, n from generate_series(1, 12000) n
        ), added as (
            insert into messages (id, conversation_id, role, content, timestamp)
            select gen_random_uuid(), id, 'user', 'x', now() + n * interval '1 us' from places
            returning id, conversation_id
        ), known as (
            insert into search_documents (id, conversation_id, words) select id, conversation_id, '' from added
            on conflict (id) do nothing
        )
        insert into message_keys (conversation_id, key, hash, ids, first)
        select conversation_id, id::text, '', array[id], now() from added";
    client.execute(fill, &[&owner, &conversation]).await.unwrap();
}

/// Each tenth message or so takes two milliseconds to delete.
const SLOW_MESSAGES: &str = "
    create function slowly() returns trigger language plpgsql as $$
    begin
        if hashtext(old.id::text) % 10 = 0 then perform pg_sleep(0.002); end if;
        return old;
    end $$;
    create trigger slowly before delete on messages for each row execute function slowly();";

fn id(path: &str) -> uuid::Uuid {
    path.rsplit('/').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_user_of_many_messages_is_deleted_in_lots_and_a_deletion_cut_short_goes_on() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    let client = database.connect().await;
    let owner: uuid::Uuid = register(&service, ADA).await["id"].as_str().unwrap().parse().unwrap();
    register(&service, "bob@example.com").await;
    let (ada, bob) = (log_in(&service, ADA).await, log_in(&service, "bob@example.com").await);
    let (busy, bobs) = (make(&service, &ada.access).await, make(&service, &bob.access).await);
    let message = json!([{"role": "user", "content": "mine"}]);
    let path = format!("{bobs}/messages");
    assert_eq!(send(&service, "POST", &path, &bob.access, &message).await.status.as_u16(), 201);
    fill(&client, owner, id(&busy)).await;
    client.batch_execute(SLOW_MESSAGES).await.unwrap();
    // One batch of messages is deleted in this time, and all of them at once are not.
    let delete = async || {
        let variables = [("STATEMENT_TIMEOUT_MS", "1800")];
        tidegate_with(&database, &["users", "delete", ADA], "", &variables).await
    };

    // Somebody writes the conversation for longer than a statement may take.
    let lock = "select pg_advisory_lock(hashtextextended('conversation:' || $1::uuid, 0))";
    client.execute(lock, &[&id(&busy)]).await.unwrap();
    let cut = delete().await.unwrap_err();
    assert!(cut.contains("so far: conversations: 3000, messages: 3000"), "{cut}");
    assert!(cut.contains("the same command deletes the rest"), "{cut}");
    assert_eq!((count(&client, "users").await, count(&client, "messages").await), (2, 12_001));
    // They are shut out already, whichever way they come.
    eventually("their session is over", async || (me(&service, &ada.access).await == 401).then_some(()))
        .await;
    let tried = send(&service, "POST", CONVERSATIONS, &log_in(&service, ADA).await.access, &json!({})).await;
    assert_eq!(tried.status.as_u16(), 403, "{:?}", tried.body);
    client.execute("select pg_advisory_unlock_all()", &[]).await.unwrap();

    let deleted = delete().await.unwrap();
    assert_eq!(deleted, "deleted the user and all their data; conversations: 1, messages: 12000");
    for (table, left) in
        [("users", 1), ("conversations", 1), ("messages", 1), ("message_keys", 0), ("sessions", 1)]
    {
        assert_eq!(count(&client, table).await, left, "{table}");
    }
    assert_eq!(count(&client, "changes where action = 'delete'").await, 3001, "followers are told");
    let shown = send(&service, "GET", &path, &bob.access, &Value::Null).await.json();
    assert_eq!(shown[0]["content"], json!("mine"));
    assert!(delete().await.unwrap_err().contains("there is no user"));
}

#[tokio::test]
async fn a_user_whom_an_issuer_vouches_for_is_deleted_by_his_id() {
    let (database, folder) = (TestDatabase::create().await, Scratch::new());
    let [issuer, _] = Signer::two(Algorithm::ES256);
    let file = folder.path().join("public.pem");
    std::fs::write(&file, issuer.pair.public_key_pem()).unwrap();
    let service = guarded(&database, &trusting_key(&file)).await;
    let mut claims = claims();
    claims["scope"] = json!("conversations:write");
    let token = issuer.sign(&claims);
    make(&service, &token).await;
    let shown = send(&service, "GET", "/api/auth/me", &token, &Value::Null).await.json();
    let id = shown["id"].as_str().unwrap();
    register(&service, ADA).await;

    let listed = tidegate(&database, &["users", "list"], "").await.unwrap();
    let line = listed.lines().find(|line| line.starts_with(id)).unwrap();
    assert!(line.ends_with("u|1 of https://idp"), "{line}");
    for (arguments, input) in
        [(["users", "password", id], "another password"), (["users", "permissions", id], "")]
    {
        let refused = tidegate(&database, &arguments, input).await.unwrap_err();
        assert!(refused.contains("this is a user of an issuer"), "{refused}");
    }
    tidegate(&database, &["users", "log-out", id], "").await.unwrap();
    let deleted = tidegate(&database, &["users", "delete", id], "").await.unwrap();
    assert_eq!(deleted, "deleted the user and all their data; conversations: 1, messages: 0");
    assert_eq!((count(&database.connect().await, "users").await, me(&service, &token).await), (1, 200));
    let again = tidegate(&database, &["users", "delete", id], "").await.unwrap_err();
    assert!(again.contains("there is no user with this id"), "{again}");

    // An id does for a user of our own too.
    let listed = tidegate(&database, &["users", "list"], "").await.unwrap();
    let id = listed.split_whitespace().next().unwrap();
    tidegate(&database, &["users", "permissions", id, "--permission", "stress"], "").await.unwrap();
    assert!(tidegate(&database, &["users", "list"], "").await.unwrap().contains("[stress]  ada@example.com"));
    tidegate(&database, &["users", "delete", id], "").await.unwrap();
    assert_eq!(tidegate(&database, &["users", "list"], "").await.unwrap(), "");
}
