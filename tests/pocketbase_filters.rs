//! Filters and orders of typed collections: PocketBase's own answers, by the API.

use serde_json::{Value, json};

use crate::pocketbase::{COLLECTIONS, found, good, make, records, refused, send, start};
use crate::support::postgres::TestDatabase;

/// Answers of PocketBase 0.40.6: collections, records, filters with the rows that they find, orders.
const ANSWERS: &str = include_str!("../src/records/expr/typed/testdata/filters.json");

/// The order by `readers.age`: PocketBase takes any of the related values.
const DIFFERENT_ORDERS: [&str; 1] = ["readers.age,row"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_and_orders_find_what_pocketbase_finds() {
    let answers: Value = serde_json::from_str(ANSWERS).unwrap();
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    for collection in answers["collections"].as_array().unwrap() {
        good(&service, "POST", COLLECTIONS, &token, collection).await;
    }
    for name in ["gauth", "gpost"] {
        for record in answers["records"][name].as_array().unwrap() {
            good(&service, "POST", &records(name), &token, record).await;
        }
    }
    let (mut wrong, mut ran) = (Vec::new(), 0);
    for answer in answers["filters"].as_array().unwrap() {
        let (filter, expected) = (answer[0].as_str().unwrap(), &answer[1]);
        if !expected.is_array() {
            continue;
        }
        let query =
            [("filter", filter), ("sort", "row"), ("perPage", "100"), ("skipTotal", "1"), ("fields", "row")];
        let rows = found(&service, "", "gpost", &query, "row").await;
        ran += 1;
        if rows != *expected {
            wrong.push(format!("{filter}\n   found    {rows}\n   expected {expected}"));
        }
    }
    assert!(ran > 2_500, "{ran}");
    assert!(wrong.is_empty(), "{} of {ran}:\n{}", wrong.len(), wrong[..wrong.len().min(30)].join("\n"));
    for answer in answers["sorts"].as_array().unwrap() {
        let (sort, expected) = (answer[0].as_str().unwrap(), &answer[1]);
        let rows = found(&service, "", "gpost", &[("sort", sort), ("perPage", "100")], "row").await;
        assert!(rows == *expected || DIFFERENT_ORDERS.contains(&sort), "{sort}: {rows}");
    }
}

/// Answers of PocketBase 0.40.6 to calls of functions, and texts of JSON values: filters over the records below, with those that they find.
const FUNCTIONS: &[(&str, &str)] = &[
    (r#"strftime('%Y', d) = "2024""#, "a"),
    (r#"strftime('%Y', d) != "2024""#, "bc"),
    (r#"strftime('%Y', d) = """#, "b"),
    (r#"strftime('%Y', d) = null"#, "b"),
    (r#"strftime('%Y', t) = """#, "b"),
    (r#"strftime('%q', d) = """#, "abc"),
    (r#"strftime('%q', d) = null"#, "abc"),
    (r#"strftime('%Y-%m-%d', t) = "2024-03-01""#, "a"),
    (r#"strftime('%Y-%m-%d', t, '+1 day') = "2025-01-01""#, "c"),
    (r#"strftime('%Y-%m-%d', t, 'start of year', '+2 days') = "2024-01-03""#, "ac"),
    (r#"strftime('%Y-%m-%d', n, 'unixepoch') = "2023-11-14""#, "a"),
    (r#"strftime('%Y-%m-%d', n) = "2023-02-25""#, "b"),
    (r#"strftime('%Y-%m-%d %H:%M:%f', d) = "2024-05-06 07:08:09.123""#, "a"),
    (r#"strftime('%s', d) = "1714979289""#, "a"),
    (r#"strftime('%s', d) = 1714979289"#, ""),
    (r#"strftime('%s', d) > 1714979280"#, "ac"),
    (r#"strftime('%Y') = "2026""#, "abc"),
    (r#"strftime('%Y', @now) = "2026""#, "abc"),
    (r#"strftime('%Y', d, 'bad') = """#, "abc"),
    (r#"strftime('%H:%M', '12:30') = "12:30""#, "abc"),
    (r#"strftime("%d", d, "weekday 0") = "12""#, "a"),
    (r#"strftime('%I %p %l %k %e %P', d) ~ "07 AM""#, "a"),
    (r#"strftime('x', d) = "x""#, "ac"),
    (r#"strftime('', d) = """#, "abc"),
    (r#"strftime('%Y', '2024-01-01T10:00:00+02:00') = "2024""#, "abc"),
    (r#"strftime('%H', '2024-01-01T10:00:00+02:00') = "08""#, "abc"),
    (r#"strftime('%Y', null) = """#, "abc"),
    (r#"geoDistance(p.lon, p.lat, 2, 48) < 1"#, "a"),
    (r#"geoDistance(p.lon, p.lat, 2, 48) = 0"#, "a"),
    (r#"geoDistance(p.lon, p.lat, 2, 48) = null"#, ""),
    (r#"geoDistance(n, n, n, n) = 0"#, "abc"),
    (r#"geoDistance(j, p.lat, 2, 48) = null"#, "abc"),
    (r#"geoDistance(j, p.lat, 2, 48) != null"#, ""),
    (r#"geoDistance(null, 1, 1, 1) = null"#, "abc"),
    (r#"geoDistance(d,2,3,4) > 1"#, ""),
    (r#"geoDistance(1,2,3,4) > geoDistance(1,2,3,4)"#, ""),
    (r#"geoDistance(p.lon, p.lat, -70.5, 10) ?< 1"#, "c"),
    (r#"j = '[1,2,{"a":"x, y: z","bb":1}]'"#, "a"),
    (r#"j ~ '"x, y: z"'"#, "a"),
    (r#"j.2 = '{"a":"x, y: z","bb":1}'"#, "a"),
    (r#"strftime('%Y', d) ~ "02""#, "ac"),
    (r#"1 = strftime('%Y', d)"#, ""),
    (r#"strftime('%d', d) = "06""#, "a"),
    (r#"strftime('%e', d) = " 6""#, "a"),
    (r#"strftime('%f', d) = "09.123""#, "a"),
    (r#"strftime('%F', d) = "2024-05-06""#, "a"),
    (r#"strftime('%G', d) = "2024""#, "a"),
    (r#"strftime('%g', d) = "24""#, "a"),
    (r#"strftime('%H', d) = "07""#, "a"),
    (r#"strftime('%I', d) = "07""#, "a"),
    (r#"strftime('%j', d) = "127""#, "a"),
    (r#"strftime('%k', d) = " 7""#, "a"),
    (r#"strftime('%l', d) = " 7""#, "a"),
    (r#"strftime('%m', d) = "05""#, "a"),
    (r#"strftime('%M', d) = "08""#, "a"),
    (r#"strftime('%p', d) = "AM""#, "ac"),
    (r#"strftime('%P', d) = "am""#, "ac"),
    (r#"strftime('%R', d) = "07:08""#, "a"),
    (r#"strftime('%s', d) = "1714979289""#, "a"),
    (r#"strftime('%S', d) = "09""#, "a"),
    (r#"strftime('%T', d) = "07:08:09""#, "a"),
    (r#"strftime('%u', d) = "1""#, "a"),
    (r#"strftime('%U', d) = "18""#, "a"),
    (r#"strftime('%V', d) = "19""#, "a"),
    (r#"strftime('%w', d) = "1""#, "a"),
    (r#"strftime('%W', d) = "19""#, "a"),
    (r#"strftime('%Y', d) = "2024""#, "a"),
    (r#"strftime('%J', d) ~ "2460436.7973""#, "a"),
    (r#"strftime('%U', '2024-01-01') = "00""#, "abc"),
    (r#"strftime('%W', '2024-01-01') = "01""#, "abc"),
    (r#"strftime('%V', '2024-01-01') = "01""#, "abc"),
    (r#"strftime('%G', '2024-01-01') = "2024""#, "abc"),
    (r#"strftime('%j', '2024-01-01') = "001""#, "abc"),
    (r#"strftime('%u', '2024-01-01') = "1""#, "abc"),
    (r#"strftime('%F', '2024-01-31', '+1 month') = "2024-03-02""#, "abc"),
    (r#"strftime('%F', '2024-01-31', '+1 year') = "2025-01-31""#, "abc"),
    (r#"strftime('%F', '2024-01-31', '-1 day') = "2024-01-30""#, "abc"),
    (r#"strftime('%F', '2024-01-31', 'weekday 3') = "2024-01-31""#, "abc"),
    (r#"strftime('%F', '2024-01-31', 'weekday 2') = "2024-02-06""#, "abc"),
    (r#"strftime('%F', '2024-01-31', 'start of month','-1 day') = "2023-12-31""#, "abc"),
    (r#"strftime('%F', '2024-01-31', '+10:30') = "2024-01-31""#, "abc"),
    (r#"strftime('%F', '2024-01-31', '1.5 days') = "2024-02-01""#, "abc"),
    (r#"strftime('%F', '2024-01-31', 'unixepoch') = """#, "abc"),
    (r#"strftime('%F', '2024-01-31', 'auto') = "2024-01-31""#, "abc"),
    (r#"strftime('%F', '2024-01-31', 'julianday') = """#, "abc"),
    (r#"strftime('%F', '2024-01-31', 'localtime') = "2024-01-31""#, "abc"),
    (r#"strftime('%F', '2024-01-31', '-30 days','start of year') = "2024-01-01""#, "abc"),
    (r#"strftime('%F', '2024-01-31', '+0001-02-03') = "2025-04-03""#, "abc"),
    (r#"strftime('%F', '2024-01-31', 'subsec') = "2024-01-31""#, "abc"),
    (r#"strftime('%F', '2024-01-31', '1 days') = "2024-01-31""#, ""),
    (r#"strftime('%F', '2024-01-31', '+1 month','floor') = "2024-02-29""#, "abc"),
    (r#"strftime('%F', '2024-01-31 25:00') = """#, "abc"),
    (r#"strftime('%F', '24-01-31') = """#, "abc"),
    (r#"strftime('%F', '2024-1-31') = """#, "abc"),
    (r#"strftime('%F %T', '2024-01-31T10:00') = "2024-01-31 10:00:00""#, "abc"),
    (r#"strftime('%F %T', '2024-01-31 10:00:59.9999') = "2024-01-31 10:00:59""#, "abc"),
    (r#"strftime('%F %T', 'now') ~ "2026""#, "abc"),
    (r#"strftime('%F %T', 1714979289, 'unixepoch') = "2024-05-06 07:01:29""#, ""),
    (r#"strftime('%F %T', 1714979289, 'unixepoch') = "2024-05-06 07:08:09""#, "abc"),
    (r#"strftime('%F', 1714979289, 'auto') = "2024-05-06""#, "abc"),
    (r#"strftime('%F', '1714979289', 'unixepoch') = "2024-05-06""#, "abc"),
];

#[tokio::test]
async fn functions_find_what_pocketbase_finds() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let fields = json!([
        {"name": "row", "type": "text"}, {"name": "t", "type": "text"}, {"name": "n", "type": "number"}, {"name": "d", "type": "date"},
        {"name": "p", "type": "geoPoint"}, {"name": "j", "type": "json"},
    ]);
    make(&service, &token, "calls", fields, json!({})).await;
    for record in [
        json!({"row": "a", "t": "2024-02-30", "n": 1_700_000_000, "d": "2024-05-06 07:08:09.123Z", "p": {"lon": 2, "lat": 48},
            "j": [1, 2, {"bb": 1, "a": "x, y: z"}]}),
        json!({"row": "b", "t": "nope", "n": 2_460_000.5}),
        json!({"row": "c", "t": "2024-12-31 23:59:59", "n": 0, "d": "2020-02-29 00:00:00Z", "p": {"lon": -70.5, "lat": 10}}),
    ] {
        good(&service, "POST", &records("calls"), "", &record).await;
    }
    let mut wrong = Vec::new();
    for (filter, expected) in FUNCTIONS {
        let rows = found(&service, "", "calls", &[("filter", filter), ("sort", "row")], "row").await;
        let rows: String = rows.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        if rows != *expected {
            wrong.push(format!("{filter}: {rows}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), FUNCTIONS.len(), wrong.join("\n"));
    let message = "Something went wrong while processing your request.";
    for bad in [
        "geoDistance(1,2,3) = 1",
        "geoDistance('1',2,3,4) = 1",
        "geoDistance(1,2,3,4,5) = 1",
        "geodistance(1,2,3,4) > 1",
        "strftime(t, d) = ''",
        "strftime('%Y', d, t) = ''",
        "strftime() = ''",
        "strftime('%Y', nope) = ''",
        "strftime('%Y', strftime('%Y')) = ''",
        "strftime('%Y', d = ''",
        "nothing(1) = 1",
    ] {
        let encoded = percent_encoding::utf8_percent_encode(bad, percent_encoding::NON_ALPHANUMERIC);
        let path = format!("{}?filter={encoded}", records("calls"));
        refused(&service, ("GET", &path, "", &Value::Null), 400, message).await;
    }
    // No value makes a statement fail.
    for text in [
        "0000-00-00",
        "9999-12-31",
        "2024-13-45",
        "99999999999999999999",
        "1e400",
        "-1",
        "٣",
        "12:60",
        " now ",
    ] {
        let record = json!({"row": "x", "t": text});
        let made = good(&service, "POST", &records("calls"), "", &record).await;
        for filter in [
            "strftime('%F', t, '+3999 years') = 'x'",
            "strftime('%J %s', t, 'unixepoch', '-3999 years', '-99999999999999999999 days') = 'x'",
            "strftime('%F', t, 'auto') = 'x'",
            "geoDistance(t, n, p.lat, j) > 1",
        ] {
            let rows = found(&service, "", "calls", &[("filter", filter)], "row").await;
            assert_eq!(rows, json!([]), "{text}: {filter}");
        }
        let path = format!("{}/{}", records("calls"), made["id"].as_str().unwrap());
        good(&service, "DELETE", &path, "", &Value::Null).await;
    }
    // In a rule, and in realtime, they are decided too.
    let rule =
        json!({"viewRule": "strftime('%Y', d) = '2024'", "listRule": "geoDistance(p.lon, p.lat, 2, 48) < 5"});
    good(&service, "PATCH", &format!("{COLLECTIONS}/calls"), &token, &rule).await;
    assert_eq!(found(&service, "", "calls", &[], "row").await, json!(["a"]));
}

/// Answers of PocketBase 0.40.6: rules of creation over lists of the body, with the bodies below that each admits, or its complaint.
const BODY_RULES: &[(&str, &str)] = &[
    (r#"@request.body.tags:each ~ "create""#, "f"),
    (r#"@request.body.tags:each = "a""#, "cd"),
    (r#"@request.body.tags:each ?= "a""#, "cdeg"),
    (r#"@request.body.tags:each != "a""#, "abfhij"),
    (r#"@request.body.tags:each ?!= "a""#, "abefghij"),
    (r#"@request.body.one:each = "a""#, "h"),
    (r#"@request.body.tags:each = """#, ""),
    (r"@request.body.tags:each = @request.body.title", ""),
    (r"@request.body.tags:each = tags:each", "cd"),
    (r"tags:each = @request.body.tags:each", "cd"),
    (r#""a" = @request.body.tags:each"#, "cd"),
    (r"@request.body.tags:length = 2", "efg"),
    (r#"@request.body.tags:each > "a""#, "f"),
    (r#"@request.body.title:each = "a""#, "field \"title\" doesn't support multivalue operations."),
    (r#"@request.body.title:length = 2"#, "field \"title\" doesn't support multivalue operations."),
    (r#"@request.body.j:each = "a""#, "field \"j\" doesn't support multivalue operations."),
    (r#"@request.body.nope:each = "a""#, "invalid modifier sequence nope:each."),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_the_body_are_judged_by_their_elements() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let collection = json!({
        "name": "tagged", "type": "base", "createRule": "",
        "fields": [
            {"name": "tags", "type": "select", "values": ["a", "b", "create_x", "create_y"], "maxSelect": 4},
            {"name": "one", "type": "select", "values": ["a", "b"], "maxSelect": 1},
            {"name": "title", "type": "text"},
            {"name": "j", "type": "json"},
        ],
    });
    good(&service, "POST", COLLECTIONS, &token, &collection).await;
    let bodies = json!([
        {},
        {"tags": []},
        {"tags": ["a"]},
        {"tags": "a"},
        {"tags": ["a", "b"]},
        {"tags": ["create_x", "create_y"], "title": "a"},
        {"tags": ["create_x", "a"]},
        {"one": "a", "title": "a", "nope": "a", "j": ["a"]},
        {"nope": ["a"], "j": "a"},
        {"nope": ["a", "b"], "tags": null},
    ]);
    let path = format!("{COLLECTIONS}/tagged");
    for (rule, expected) in BODY_RULES {
        let change = json!({"createRule": rule});
        let answer = send(&service, "PATCH", &path, &token, &change).await;
        if answer.status != 200 {
            let message = answer.json()["data"]["createRule"]["message"].to_string();
            let message: Value = serde_json::from_str(&message).unwrap();
            assert!(message.as_str().unwrap().ends_with(expected), "{rule}: {message}");
            continue;
        }
        let mut admitted = String::new();
        for (body, letter) in bodies.as_array().unwrap().iter().zip('a'..) {
            let status = send(&service, "POST", &records("tagged"), "", body).await.status.as_u16();
            assert!([200, 400].contains(&status), "{rule}: {body}: {status}");
            if status == 200 {
                admitted.push(letter);
            }
        }
        assert_eq!(admitted, *expected, "{rule}");
    }
}
