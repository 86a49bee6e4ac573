//! Messages that are written chunk by chunk.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::conversations::make;
use crate::support::accounts::send;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service};

/// Begins a message; returns its path.
pub(crate) async fn begin(service: &Service, conversation: &str, content: &str) -> String {
    let new = json!({"role": "assistant", "content": content, "done": false});
    let begun = send(service, "POST", &format!("{conversation}/messages"), "", &new).await;
    assert_eq!((begun.status.as_u16(), &begun.json()["done"]), (201, &json!(false)), "{:?}", begun.body);
    begun.header("location").to_owned()
}

pub(crate) async fn append(service: &Service, path: &str, at: usize, content: &str, done: bool) -> Answer {
    let piece = json!({"at": at, "content": content, "done": done});
    send(service, "POST", &format!("{path}/append"), "", &piece).await
}

fn refusal(answer: &Answer) -> (u16, String, Value) {
    (answer.status.as_u16(), answer.error_code(), answer.json()["error"]["expected"].clone())
}

#[tokio::test]
async fn chunks_become_the_message_and_are_readable_while_it_is_written() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let conversation = make(&service, "").await;
    let path = begin(&service, &conversation, "\u{1F600}").await;
    let before = service.get(&conversation).await.json();
    // Positions are characters, whatever their bytes are.
    let first = append(&service, &path, 1, "é ", false).await;
    assert_eq!((first.status.as_u16(), &first.json()["length"]), (200, &json!(3)), "{:?}", first.body);
    append(&service, &path, 3, "and", false).await;
    let so_far = service.get(&path).await.json();
    assert_eq!((&so_far["content"], &so_far["done"]), (&json!("\u{1F600}é and"), &json!(false)));
    assert_eq!(service.get(&format!("{conversation}/messages")).await.json(), json!([so_far]));
    assert_eq!(service.get(&conversation).await.json(), before, "a piece alone is no activity of its own");

    let last = append(&service, &path, 6, " end", true).await;
    assert_eq!((&last.json()["length"], &last.json()["done"]), (&json!(10), &json!(true)));
    let whole = service.get(&path).await.json();
    assert_eq!((&whole["content"], &whole["done"]), (&json!("\u{1F600}é and end"), &json!(true)));
    assert_eq!(whole["timestamp"], so_far["timestamp"], "its place stays");
    assert!(service.get(&conversation).await.json()["updated_at"].as_str() > before["updated_at"].as_str());
    let client = database.connect().await;
    let left = "select (select count(*) from message_drafts) + (select count(*) from message_pieces)";
    let left: i64 = client.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, 0, "the pieces are part of the message, and nowhere else");
}

#[tokio::test]
async fn a_chunk_with_a_wrong_offset_changes_nothing_and_gets_the_length() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MAX_MESSAGE_BYTES", "1024")]).await;
    let conversation = make(&service, "").await;
    let path = begin(&service, &conversation, "").await;
    assert_eq!(append(&service, &path, 0, "abc", false).await.status.as_u16(), 200);
    let mismatch = |length: i32| (409, "offset_mismatch".to_owned(), json!(length));
    for (at, content, done) in [(0, "abc", false), (0, "abc", true), (2, "c", false), (4, "d", false)] {
        let refused = append(&service, &path, at, content, done).await;
        assert_eq!((refusal(&refused), &refused.json()["error"]["field"]), (mismatch(3), &json!("at")));
    }
    let large = append(&service, &path, 3, &"x".repeat(1022), false).await;
    assert_eq!((large.status.as_u16(), large.error_code().as_str()), (413, "too_large"));
    assert_eq!(append(&service, &path, 3, &"x".repeat(1021), false).await.status.as_u16(), 200);
    assert_eq!(append(&service, &path, 1024, "", true).await.status.as_u16(), 200);
    for at in [0, 1024] {
        let done = append(&service, &path, at, "", false).await;
        assert_eq!(
            refusal(&done),
            (409, "message_done".to_owned(), json!(1024)),
            "who asks again learns of it"
        );
    }
    let whole = send(
        &service,
        "POST",
        &format!("{conversation}/messages"),
        "",
        &json!({"role": "user", "content": ""}),
    )
    .await;
    let done = append(&service, whole.header("location"), 0, "x", false).await;
    assert_eq!(done.error_code(), "message_done", "only what was begun so is written on");
    let other = make(&service, "").await;
    let nothing = append(&service, &path.replace(&conversation, &other), 0, "x", false).await;
    assert_eq!(nothing.status.as_u16(), 404, "a message belongs to its conversation");
    for (body, field) in [
        (json!({"content": "x"}), "at"),
        (json!({"content": "x", "at": -1}), "at"),
        (json!({"content": "x", "at": "0"}), "at"),
        (json!({"at": 0}), "content"),
        (json!({"at": 0, "content": "\u{0}"}), "content"),
        (json!({"at": 0, "content": "", "to": 1}), "to"),
    ] {
        let refused = send(&service, "POST", &format!("{path}/append"), "", &body).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["error"]["field"]), (400, &json!(field)));
    }
}

#[tokio::test]
async fn of_two_writers_at_one_offset_one_wins() {
    let database = TestDatabase::create().await;
    let services = [Service::start(database.url(), &[]).await, Service::start(database.url(), &[]).await];
    let conversation = make(&services[0], "").await;
    let path = begin(&services[0], &conversation, "").await;
    let mut expected = String::new();
    for round in 0..20 {
        let at = expected.chars().count();
        let pieces: Vec<String> = (0..6).map(|writer| format!("{writer}é{round} ")).collect();
        let tries = pieces
            .iter()
            .enumerate()
            .map(|(writer, piece)| append(&services[writer % 2], &path, at, piece, round == 19));
        let answers = join_all(tries).await;
        let winners: Vec<usize> = (0..6).filter(|n| answers[*n].status.as_u16() == 200).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        expected.push_str(&pieces[winners[0]]);
        assert!(answers.iter().all(|answer| matches!(answer.status.as_u16(), 200 | 409)));
    }
    let whole = services[1].get(&path).await.json();
    assert_eq!((&whole["content"], &whole["done"]), (&json!(expected), &json!(true)));
    let client = database.connect().await;
    let fed = "select string_agg(data ->> 'content', '' order by xid, number) from changes where record = $1";
    let id = path.rsplit('/').next().unwrap();
    let fed: String = client.query_one(fed, &[&id]).await.unwrap().get(0);
    assert_eq!(fed, expected, "the feed has the pieces in order, each once");
}

#[tokio::test]
async fn any_chunks_leave_the_text_of_a_model() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let conversation = make(&service, "").await;
    let mut random = fastrand::Rng::with_seed(7);
    let alphabet = ["", "a", "é", "\u{1F600}", "\u{0301}", "\n", "'", "\\", "日本"];
    for _ in 0..6 {
        let mut model = String::new();
        let path = begin(&service, &conversation, "").await;
        for _ in 0..25 {
            let length = model.chars().count();
            let at = if random.f64() < 0.7 { length } else { random.usize(..length + 3) };
            let piece: String =
                (0..random.usize(..4)).map(|_| alphabet[random.usize(..alphabet.len())]).collect();
            let answer = append(&service, &path, at, &piece, false).await;
            if at == length {
                model.push_str(&piece);
                assert_eq!(answer.json()["length"], json!(model.chars().count()));
            } else {
                assert_eq!(refusal(&answer), (409, "offset_mismatch".to_owned(), json!(length)));
            }
            assert_eq!(service.get(&path).await.json()["content"], json!(model));
        }
        append(&service, &path, model.chars().count(), "!", true).await;
        assert_eq!(service.get(&path).await.json()["content"], json!(model + "!"));
    }
}
