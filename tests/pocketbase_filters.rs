//! Filters and orders of typed collections: PocketBase's own answers, by the API.

use serde_json::Value;

use crate::pocketbase::{COLLECTIONS, found, good, records, start};
use crate::support::postgres::TestDatabase;

/// Answers of PocketBase 0.40.6: collections, records, filters with the rows that they find, orders.
const ANSWERS: &str = include_str!("../src/records/expr/typed/testdata/filters.json");

/// Filters that compare a JSON list or object with a text: `jsonb` writes it with spaces, SQLite without.
const DIFFERENT_FILTERS: usize = 2;
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
    assert!(
        wrong.len() <= DIFFERENT_FILTERS,
        "{} of {ran}:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(30)].join("\n")
    );
    for answer in answers["sorts"].as_array().unwrap() {
        let (sort, expected) = (answer[0].as_str().unwrap(), &answer[1]);
        let rows = found(&service, "", "gpost", &[("sort", sort), ("perPage", "100")], "row").await;
        assert!(rows == *expected || DIFFERENT_ORDERS.contains(&sort), "{sort}: {rows}");
    }
}
