//! Filter expressions: in SQL and in memory, on lists and on streams of changes.

use std::collections::BTreeSet;
use std::time::SystemTime;

use futures_util::future::join_all;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tidegate::realtime::Members;
use tidegate::records::{Expression, Made, RequestAuth, Subject};
use tidegate::time::Millis;

use crate::records::create;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service};

const ITEMS: &str = "/api/stress/records/items";

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

async fn list(service: &Service, filter: &str) -> Answer {
    service.get(&format!("{ITEMS}?limit=1000&filter={}", encoded(filter))).await
}

fn ids(answer: &Answer) -> BTreeSet<String> {
    let list = answer.json();
    list.as_array().unwrap().iter().map(|record| record["id"].as_str().unwrap().to_owned()).collect()
}

fn any_of<T: Clone>(values: &[T]) -> T {
    values[fastrand::usize(..values.len())].clone()
}

/// A random value of a member.
fn value(depth: usize) -> Value {
    let scalars = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(1),
        json!(10),
        json!(9.5),
        json!(0.1),
        json!("10"),
        json!("9"),
        json!("a"),
        json!("A"),
        json!("B"),
        json!("é"),
        json!("É"),
        json!("a'b"),
        json!("a\"b\\"),
        json!("null"),
        json!(""),
        json!("50%"),
        json!("x_y"),
        json!("xay"),
        json!("%"),
        json!("2026-11-30T08:00:00.000Z"),
        json!("[1, 2]"),
        json!("a\nb"),
    ];
    match fastrand::usize(..6) {
        0 if depth > 0 => {
            Value::from((0..fastrand::usize(..4)).map(|_| value(depth - 1)).collect::<Vec<_>>())
        }
        1 if depth > 0 => json!({"x": value(depth - 1), "0": value(depth - 1)}),
        _ => any_of(&scalars),
    }
}

fn operand(id: &str) -> String {
    let fields =
        ["a", "b", "c", "a.x", "b.0", "a.0.x", "b.00", "id", "created", "updated", "missing", "id.x"];
    let literals = [
        "null",
        "true",
        "false",
        "0",
        "1",
        "-1",
        "10.0",
        "9.50",
        "0.10",
        "99999999999999999999",
        "''",
        "\"a\"",
        "'A'",
        "'é'",
        "'10'",
        "'50%'",
        "'5%'",
        "'%'",
        "'_'",
        "'x_y'",
        r"'50\%'",
        r"'\x'",
        r"'a\'b'",
        "'[1, 2]'",
        "'[]'",
        "'{'",
        "'2026-11'",
        "'2026-11-30 08:00:00.000Z'",
        "'2026-11-30T08:00:00.000Z'",
        "@now",
        "@yesterday",
        "@year",
        "@request.auth.id",
        "@request.auth.none",
        "'%a%b'",
        "'a\nb'",
        "'_b'",
    ];
    match fastrand::usize(..9) {
        0..=4 => any_of(&fields).to_owned() + any_of(&["", "", "", ":each", ":length", ":lower"]),
        5 => format!("'{id}'"),
        _ => any_of(&literals).to_owned(),
    }
}

fn expression(depth: usize, id: &str) -> String {
    match fastrand::usize(..4) {
        0 if depth > 0 => format!("{} && {}", expression(depth - 1, id), expression(depth - 1, id)),
        1 if depth > 0 => format!("({} || {})", expression(depth - 1, id), expression(depth - 1, id)),
        _ => {
            let operator = any_of(&["=", "!=", ">", ">=", "<", "<=", "~", "!~"]);
            format!("{} {}{operator} {}", operand(id), any_of(&["", "?"]), operand(id))
        }
    }
}

#[tokio::test]
async fn sql_and_memory_decide_every_filter_alike() {
    fastrand::seed(11);
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    create(&service, &json!({})).await;
    let client = database.connect().await;
    let table =
        client.query_one("select 'records_' || id from collections where name = 'items'", &[]).await.unwrap();
    let table: String = table.get(0);
    for n in 0..150_i32 {
        let data = json!({"a": value(2), "b": value(2), "c": value(1), "d": value(0)});
        let insert = format!(
            "insert into {table} (id, version, created, updated, data)
             values (lpad($1::integer::text, 15, '0'), 1, $2::text::timestamptz, $3::text::timestamptz, $4::text::jsonb)"
        );
        let times = [
            "2026-11-30T08:00:00Z",
            "2026-11-30T08:00:00.0005Z",
            "2026-11-30T08:00:00.001Z",
            "2025-01-01T00:00:00Z",
        ];
        let (created, updated) = (any_of(&times), any_of(&times));
        client.execute(&insert, &[&n, &created, &updated, &data.to_string()]).await.unwrap();
    }
    let rows =
        client.query(&format!("select id, created, updated, data::text from {table}"), &[]).await.unwrap();
    let (mut cases, mut holding) = (0, 0);
    for _ in 0..60 {
        let filters: Vec<String> = (0..10).map(|n| expression(2, &format!("{n:015}"))).collect();
        let answers = join_all(filters.iter().map(|filter| list(&service, filter))).await;
        for (filter, answer) in filters.iter().zip(answers) {
            assert_eq!(answer.status.as_u16(), 200, "{filter}: {answer:?}");
            let expression = Expression::parse(filter, RequestAuth::default()).unwrap();
            let mut found = BTreeSet::new();
            for row in &rows {
                let (id, data): (&str, &str) = (row.get(0), row.get(3));
                let time = |column| Millis::from(row.get::<_, SystemTime>(column));
                let made = Made { id, created: time(1), updated: Some(time(2)) };
                let subject = Subject { made: Some(made), data, members: &Members::of(data) };
                if expression.matches(&subject, Millis::now()).unwrap() {
                    found.insert(id.to_owned());
                }
            }
            let listed = ids(&answer);
            let differing: Vec<_> = listed.symmetric_difference(&found).collect();
            if let Some(id) = differing.first() {
                let row = rows.iter().find(|row| row.get::<_, &str>(0) == id.as_str()).unwrap();
                panic!("{filter}\n{row:?} {}\nSQL: {}", row.get::<_, &str>(3), listed.contains(*id));
            }
            cases += rows.len();
            holding += found.len();
        }
    }
    assert!(holding > cases / 20 && holding < cases * 19 / 20, "{holding} of {cases}");
}

#[tokio::test]
async fn a_list_takes_a_filter_beside_the_others() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    for n in 0..30 {
        let tags = if n % 2 == 0 { json!(["even", "n"]) } else { json!([]) };
        create(&service, &json!({"n": n, "tags": tags, "title": format!("Item {n}")})).await;
    }
    let numbers = async |filter: &str| -> Vec<i64> {
        let mut numbers: Vec<i64> = list(&service, filter)
            .await
            .json()
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["n"].as_i64().unwrap())
            .collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(numbers("n < 3 || title ~ 'ITEM 29'").await, [0, 1, 2, 29]);
    assert_eq!(numbers("n >= 27 && tags:each ?= 'even'").await, [28]);
    assert_eq!(numbers("n >= 27 && tags:length = 0").await, [27, 29]);
    assert_eq!(numbers("created > @yesterday && created <= @tomorrow && n = 4").await, [4]);
    let page = format!(
        "{ITEMS}?filter={}&filter_n=gte:20&sortBy=-n&limit=3&count=exact",
        encoded("tags:length > 0")
    );
    let page = service.get(&page).await;
    assert_eq!(page.header("x-total-count"), "5");
    let shown: Vec<i64> = page.json().as_array().unwrap().iter().map(|r| r["n"].as_i64().unwrap()).collect();
    assert_eq!(shown, [28, 26, 24]);
    let next = page.header("link").strip_prefix('<').unwrap().split('>').next().unwrap();
    let shown: Vec<i64> =
        service.get(next).await.json().as_array().unwrap().iter().map(|r| r["n"].as_i64().unwrap()).collect();
    assert_eq!(shown, [22, 20]);
    for bad in
        ["", "n", "n = ", "n = 1 &&", "@collection.x.y = 1", "(n = 1", "n = 'x", "geoDistance(1,2,3,4) < 1"]
    {
        let refused = list(&service, bad).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["error"]["field"]),
            (400, &json!("filter")),
            "{bad}"
        );
        assert!(refused.json()["error"]["message"].as_str().unwrap().contains("at character"), "{refused:?}");
    }
    let twice = service.get(&format!("{ITEMS}?filter=n%3D1&filter=n%3D2")).await;
    assert_eq!(twice.status.as_u16(), 400);
}

#[tokio::test]
async fn the_largest_filter_is_decided_in_time() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    create(&service, &json!({"a": 1})).await;
    for (filter, expected) in [("a:each!~b:each", 0), ("a<b", 0), ("a.b:lower>=a", 0), ("a=1", 1)] {
        let answer = list(&service, &vec![filter; 200].join("||")).await;
        assert_eq!(answer.status.as_u16(), 200, "{filter} {answer:?}");
        assert_eq!(answer.json().as_array().unwrap().len(), expected, "{filter}");
    }
}
