//! Lists of typed records: their totals, and statements that come often.

use serde_json::{Value, json};

use crate::pocketbase::{basic, good, make, path_of, records, start};
use crate::support::postgres::TestDatabase;
use crate::support::service::Service;

/// The total of a list, and the number of records on its page.
async fn listed(service: &Service, filter: &str) -> (i64, usize) {
    let filter = percent_encoding::utf8_percent_encode(filter, percent_encoding::NON_ALPHANUMERIC);
    let path = format!("{}?perPage=500&filter={filter}", records("posts"));
    let page = good(service, "GET", &path, "", &Value::Null).await;
    (page["totalItems"].as_i64().unwrap(), page["items"].as_array().unwrap().len())
}

#[tokio::test]
async fn totals_are_exact_after_every_change_of_any_node() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let (other, _) = start(&database).await;
    make(&service, &token, "posts", basic(), json!({})).await;
    let odd = "title = 'odd'";
    let mut made = Vec::new();
    // Beyond the repetitions after which a statement is prepared.
    for n in 0..24_usize {
        assert_eq!(listed(&service, "").await, (n as i64, n));
        let title = if n % 2 == 1 { "odd" } else { "even" };
        let writer = if n % 3 == 0 { &other } else { &service };
        let body = json!({"title": title, "n": n});
        made.push(good(writer, "POST", &records("posts"), "", &body).await);
        assert_eq!(listed(&service, odd).await, (n.div_ceil(2) as i64, n.div_ceil(2)));
        assert_eq!(listed(&service, odd).await, (n.div_ceil(2) as i64, n.div_ceil(2)), "once more");
    }
    let renamed = json!({"title": "even"});
    good(&other, "PATCH", &path_of("posts", &made[1]), "", &renamed).await;
    assert_eq!(listed(&service, odd).await, (11, 11));
    good(&other, "DELETE", &path_of("posts", &made[3]), "", &Value::Null).await;
    assert_eq!((listed(&service, odd).await, listed(&service, "").await), ((10, 10), (23, 23)));
    good(&service, "DELETE", "/api/collections/posts/truncate", &token, &Value::Null).await;
    assert_eq!((listed(&other, odd).await, listed(&service, "").await), ((0, 0), (0, 0)));
}

#[tokio::test]
async fn a_total_is_counted_once_while_nothing_changes() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    make(&service, &token, "posts", basic(), json!({})).await;
    good(&service, "POST", &records("posts"), "", &json!({"title": "a"})).await;
    assert_eq!(listed(&service, "").await, (1, 1));
    // A write that leaves no row in the feed: pages have it at once, totals do not.
    let client = database.connect().await;
    let number: i32 =
        client.query_one("select id from collections where name = 'posts'", &[]).await.unwrap().get(0);
    let copy = format!(
        "insert into records_{number} select 'abcdefghijklmno', version, created, updated, data from records_{number}"
    );
    client.batch_execute(&copy).await.unwrap();
    assert_eq!(listed(&service, "").await, (1, 2));
    good(&service, "POST", &records("posts"), "", &json!({"title": "a"})).await;
    assert_eq!(listed(&service, "").await, (3, 3));
}
