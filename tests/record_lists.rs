//! Lists of records: filters, orders and pages, compared with the same done in memory.

use std::cmp::Ordering;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::records::create;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service};

const ITEMS: &str = "/api/stress/records/items";

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn query_of(parameters: &[(&str, String)]) -> String {
    let pairs: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    format!("{ITEMS}?{}", pairs.join("&"))
}

fn next_of(answer: &Answer) -> Option<String> {
    Some(answer.header("link").strip_prefix('<')?.strip_suffix(">; rel=\"next\"")?.to_owned())
}

/// All pages, each of which but the last is full.
async fn pages(service: &Service, path: &str, limit: usize) -> Vec<Value> {
    let (mut path, mut all) = (path.to_owned(), Vec::new());
    loop {
        let answer = service.get(&path).await;
        assert_eq!(answer.status.as_u16(), 200, "{path}: {:?}", answer.body);
        let page = answer.json();
        let page = page.as_array().unwrap();
        all.extend(page.iter().cloned());
        assert!(all.len() <= 1_000, "pages repeat: {path:.200}");
        match next_of(&answer) {
            Some(next) => {
                assert_eq!(page.len(), limit, "{path}");
                path = next;
            }
            None => return all,
        }
    }
}

/// A value as records are ordered and compared by it.
fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::String(_) => 1,
        Value::Number(_) => 2,
        _ => 3,
    }
}

fn in_order(one: &Value, other: &Value) -> Ordering {
    rank(one).cmp(&rank(other)).then_with(|| match (one, other) {
        (Value::String(one), Value::String(other)) => one.cmp(other),
        (Value::Number(one), Value::Number(other)) => one.as_f64().partial_cmp(&other.as_f64()).unwrap(),
        (Value::Bool(one), Value::Bool(other)) => one.cmp(other),
        _ => Ordering::Equal,
    })
}

/// Whether a field's value passes a filter, by the rules of docs/USE.md.
fn passes(value: &Value, operator: &str, operand: &str) -> bool {
    let is = |operand: &str| match value {
        Value::Null => operand == "null",
        Value::String(text) => text == operand,
        Value::Number(number) => operand.parse::<f64>().is_ok_and(|operand| number.as_f64() == Some(operand)),
        Value::Bool(value) => operand.parse() == Ok(*value),
        _ => false,
    };
    let compared = match value {
        Value::String(text) => Some(text.as_str().cmp(operand)),
        Value::Number(number) => operand.parse().ok().and_then(|o: f64| number.as_f64()?.partial_cmp(&o)),
        _ => None,
    };
    match operator {
        "eq" => is(operand),
        "ne" => !is(operand),
        "in" => operand.split(',').any(is),
        "gt" => compared == Some(Ordering::Greater),
        "gte" => compared.is_some_and(Ordering::is_ge),
        "lt" => compared == Some(Ordering::Less),
        "lte" => compared.is_some_and(Ordering::is_le),
        "like" => value.as_str().is_some_and(|text| text.contains(operand)),
        _ => unreachable!(),
    }
}

fn any_of<T: Clone>(values: &[T]) -> T {
    values[fastrand::usize(..values.len())].clone()
}

#[tokio::test]
async fn filters_orders_and_pages_are_those_of_a_list_in_memory() {
    fastrand::seed(7);
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let values = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(2),
        json!(10),
        json!(9.5),
        json!("10"),
        json!("9"),
        json!("a"),
        json!("B"),
        json!("é"),
        json!("a'b"),
        json!("null"),
        json!("true"),
        json!(""),
    ];
    let mut model = Vec::new();
    for n in 0..120 {
        let mut record = json!({"n": n, "group": {"k": any_of(&["x", "y", "z"])}});
        if fastrand::u8(..5) > 0 {
            record["v"] = any_of(&values);
        }
        model.push(create(&service, &record).await);
    }
    let at = |record: &Value, field: &str| -> Value {
        field.split('.').try_fold(record, |value, part| value.get(part)).cloned().unwrap_or_default()
    };
    for _ in 0..150 {
        let mut parameters: Vec<(&str, String)> = vec![("limit", "7".to_owned())];
        let mut expected: Vec<&Value> = model.iter().collect();
        for _ in 0..fastrand::usize(..3) {
            let field = any_of(&["v", "n", "group.k", "nothing"]);
            let operator = any_of(&["eq", "ne", "gt", "gte", "lt", "lte", "in", "like"]);
            let operand = match operator {
                "in" => any_of(&["10,a,null", "x,y", "true,9.50,55", ""]).to_owned(),
                "like" => any_of(&["a", "1", "'", "x"]).to_owned(),
                _ => {
                    any_of(&["10", "9", "a", "null", "true", "x", "1e1", "", "50", "z' or 1=1 --"]).to_owned()
                }
            };
            // In memory 1e1 is 10; as a text it is another.
            expected.retain(|record| passes(&at(record, field), operator, &operand));
            let name = match field {
                "v" => "filter_v",
                "n" => "filter_n",
                "nothing" => "filter_nothing",
                _ => "filter_group.k",
            };
            parameters.push((name, format!("{operator}:{operand}")));
        }
        let sort = any_of(&[
            "v",
            "-v",
            "group.k,-n",
            "-group.k,v,n",
            "nothing,-v",
            "-created",
            "updated,-v",
            "id",
            "-id",
        ]);
        parameters.push(("sortBy", sort.to_owned()));
        expected.sort_by(|one, other| {
            let mut last = false;
            let order = sort.split(',').fold(Ordering::Equal, |order, key| {
                let field = key.strip_prefix('-').unwrap_or(key);
                last = key.starts_with('-');
                let by = in_order(&at(one, field), &at(other, field));
                order.then(if last { by.reverse() } else { by })
            });
            let by_id = in_order(&one["id"], &other["id"]);
            order.then(if last { by_id.reverse() } else { by_id })
        });
        let path = query_of(&parameters);
        let got = pages(&service, &path, 7).await;
        let ids =
            |records: &[&Value]| records.iter().map(|record| record["n"].to_string()).collect::<Vec<_>>();
        assert_eq!(ids(&got.iter().collect::<Vec<_>>()), ids(&expected), "{parameters:?}");
        let counted = service.get(&format!("{path}&count=exact")).await;
        assert_eq!(counted.header("x-total-count"), expected.len().to_string(), "{parameters:?}");
    }
}

#[tokio::test]
async fn offsets_fields_and_unknown_prefixes_are_understood() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    for n in 0..5 {
        create(&service, &json!({"n": n, "url": "https://x", "o": {"a": n, "b": 1}})).await;
    }
    let list = async |query: &str| service.get(&format!("{ITEMS}?{query}")).await.json();
    assert_eq!(list("offset=3&fields=n").await, json!([{"n": 3}, {"n": 4}]));
    assert_eq!(list("fields=o.a&limit=1").await, json!([{"o": {"a": 0}}]));
    assert_eq!(list("filter_url=https%3A%2F%2Fx&fields=n&limit=1").await, json!([{"n": 0}]));
    assert_eq!(list("filter_url=eq:https%3A%2F%2Fx&limit=1&fields=n").await, json!([{"n": 0}]));
    assert_eq!(list("filter_url=like:%25//_&limit=1&fields=n").await, json!([{"n": 0}]));
    assert_eq!(list("filter___proto__=1").await, json!([]));
    assert_eq!(
        list("filter_created=gt:2000-01-01T00:00:00Z&filter_n=in:1,2&fields=n").await,
        json!([{"n": 1}, {"n": 2}])
    );
    let first = &list("limit=1").await[0];
    let created = first["created"].as_str().unwrap();
    assert_eq!(list(&format!("filter_created=lte:{created}&filter_n=0")).await[0], *first, "as it was shown");
    assert_eq!(service.get(ITEMS).await.header("x-total-count"), "", "nobody pays for a count unasked");
    let one = format!("{ITEMS}/{}?fields=n", first["id"].as_str().unwrap());
    assert_eq!(service.get(&one).await.json(), json!({"n": 0}));
}

#[tokio::test]
async fn a_malformed_list_is_refused_by_name() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    create(&service, &json!({"a": 1})).await;
    let long = "x".repeat(10_000);
    let many = "filter_a=1&".repeat(2_500);
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("limit=1&limit=2", "limit"),
        ("offset=-1", "offset"),
        ("sortBy=", "sortBy"),
        ("sortBy=a..b", "sortBy"),
        ("after=nonsense", "after"),
        ("after=W10", "after"),
        ("count=all", "count"),
        ("fields=", "fields"),
        ("filter_=1", "filter_"),
        ("filter_a=%00", "filter_a"),
        ("filter_%00=1", "filter_\0"),
        ("filter_created=eq:yesterday", "filter_created"),
        ("sort=a", "sort"),
        (&format!("filter_{long}=1"), &format!("filter_{long}")[..100]),
        (&format!("filter_a={long}"), "filter_a"),
        (&many[..many.len() - 1], "filter_a"),
    ] {
        let answer = service.get(&format!("{ITEMS}?{query}")).await;
        let named = &query[..query.len().min(60)];
        assert_eq!(
            (answer.status.as_u16(), answer.error_code().as_str()),
            (400, "invalid_request"),
            "{named}"
        );
        assert_eq!(answer.json()["error"]["field"], field, "{named}");
    }
}

#[tokio::test]
async fn injections_in_every_parameter_find_nothing_and_break_nothing() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    create(&service, &json!({"a": 1})).await;
    for evil in [
        "'; drop table records_1; --",
        "\" or 1=1 --",
        "1) or (1=1",
        "$1",
        "a' || pg_sleep(10) || '",
        "{schema}",
        "{conditions}",
        "\\",
        "%",
        "a'::int",
        "-- ",
        "/*",
        "{table}",
        "1e99999",
        "{keys}{order}{limit}",
    ] {
        let text = encoded(evil);
        for query in [
            format!("filter_a={text}"),
            format!("filter_a=gt:{text}"),
            format!("filter_a=in:{text},{text}"),
            format!("filter_a=like:{text}"),
            format!("filter_{text}=1"),
            format!("filter_a.{text}=lt:1"),
            format!("sortBy={text}"),
            format!("sortBy=-a,{text}"),
            format!("fields={text}"),
            format!("after={text}"),
            format!("limit={text}"),
            format!("offset={text}"),
            format!("filter_id=eq:{text}"),
            format!("filter_id=like:{text}"),
        ] {
            let answer = service.get(&format!("{ITEMS}?{query}&count=exact")).await;
            let refused = answer.status.as_u16() == 400;
            assert!(refused || answer.status.as_u16() == 200, "{query}: {} {:?}", answer.status, answer.body);
        }
        for path in [format!("{ITEMS}/{text}"), format!("/api/stress/records/{text}")] {
            assert!(matches!(service.get(&path).await.status.as_u16(), 400 | 404), "{path}");
        }
        let stored = create(&service, &json!({evil: evil, "evil": true})).await;
        assert_eq!(stored[evil], evil);
        let found = service.get(&format!("{ITEMS}?filter_evil=true&sortBy=-created&limit=1")).await.json();
        assert_eq!(found[0], stored);
    }
    let left = service.get(&format!("{ITEMS}?count=exact&filter_evil=ne:true")).await;
    assert_eq!(left.header("x-total-count"), "1");
}

#[tokio::test]
async fn a_page_of_large_records_ends_early_and_goes_on() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    for n in 0..20 {
        create(&service, &json!({"n": n, "x": "y".repeat(1_000_000)})).await;
    }
    let (mut path, mut seen, mut rounds) = (ITEMS.to_owned(), Vec::new(), 0);
    loop {
        let answer = service.get(&path).await;
        assert!(answer.body.len() < 10_000_000, "{}", answer.body.len());
        seen.extend(answer.json().as_array().unwrap().iter().map(|record| record["n"].as_i64().unwrap()));
        rounds += 1;
        let Some(next) = next_of(&answer) else { break };
        path = next;
    }
    assert_eq!(seen, (0..20).collect::<Vec<i64>>());
    assert!(rounds > 2, "{rounds}");
}

#[tokio::test]
async fn pages_sorted_by_numbers_of_any_length_have_no_gap_or_double() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let long = "7".repeat(2_000);
    let below = format!("-{long}");
    // In their order; those of one line are alike to it, and follow each other by their ids.
    let numbers = [
        vec!["-1e130000", "-1e2000", &below],
        vec!["-999999e494"],
        vec!["-1e499"],
        vec!["-0.5"],
        vec!["-1e-16000", "0", "1e-600", "1e-16000"],
        vec!["1e-500"],
        vec!["1.50", "1.5"],
        vec!["2"],
        vec!["1e499"],
        vec![&long, "1e2000", "9e2000", "1e130000"],
    ];
    let mut made = Vec::new();
    for (rank, alike) in numbers.iter().enumerate() {
        for number in alike {
            let name = &number[..number.len().min(20)];
            made.push((rank, format!("{{\"v\":{number},\"rank\":{rank},\"name\":\"{name}\"}}")));
        }
    }
    fastrand::seed(3);
    fastrand::shuffle(&mut made);
    for (_, body) in &made {
        assert_eq!(service.request("POST", ITEMS, &[], body.clone()).await.status.as_u16(), 201);
    }
    for sort in ["v", "-v", "v,-created", "-v,rank"] {
        let mut expected: Vec<usize> = made.iter().map(|(rank, _)| *rank).collect();
        expected.sort_unstable();
        if sort.starts_with('-') {
            expected.reverse();
        }
        let path =
            query_of(&[("limit", "2".into()), ("sortBy", sort.into()), ("fields", "rank,name".into())]);
        let got = pages(&service, &path, 2).await;
        let ranks: Vec<usize> = got.iter().map(|record| record["rank"].as_u64().unwrap() as usize).collect();
        assert_eq!(ranks, expected, "{sort}: {got:?}");
        let names: std::collections::HashSet<&str> =
            got.iter().map(|record| record["name"].as_str().unwrap()).collect();
        assert_eq!(names.len(), made.len(), "{sort}: each of them once");
    }
}
