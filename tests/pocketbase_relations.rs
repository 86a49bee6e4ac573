//! Relations of typed collections: expansion, filters over them, and what a deletion does.

use serde_json::{Value, json};

use crate::pocketbase::{COLLECTIONS, found, good, make, path_of, records, refused, start};
use crate::support::postgres::TestDatabase;
use crate::support::service::Service;

fn relation(name: &str, to: &Value, more: &Value) -> Value {
    let mut field = json!({"name": name, "type": "relation", "collectionId": to["id"], "maxSelect": 1});
    for (member, value) in more.as_object().unwrap() {
        field[member] = value.clone();
    }
    field
}

async fn create(service: &Service, name: &str, body: Value) -> Value {
    good(service, "POST", &records(name), "", &body).await
}

#[tokio::test]
async fn related_records_are_expanded_as_far_as_their_view_rules_allow() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let title = json!({"name": "title", "type": "text"});
    let authors =
        make(&service, &token, "authors", json!([title]), json!({"viewRule": "title != 'hidden'"})).await;
    let tags = make(&service, &token, "tags", json!([title]), json!({})).await;
    let fields = json!([
        title,
        relation("author", &authors, &json!({})),
        relation("tags", &tags, &json!({"maxSelect": 5})),
        relation("editor", &authors, &json!({})),
    ]);
    let index = "create unique index editor_of_posts on posts (editor) where editor != ''";
    make(&service, &token, "posts", fields, json!({"indexes": [index]})).await;
    let (ann, hidden) = (
        create(&service, "authors", json!({"title": "Ann"})).await,
        create(&service, "authors", json!({"title": "hidden"})).await,
    );
    let (red, blue) = (
        create(&service, "tags", json!({"title": "red"})).await,
        create(&service, "tags", json!({"title": "blue"})).await,
    );
    let missing = json!({"author": "aaaaaaaaaaaaaaa"});
    let data =
        refused(&service, ("POST", &records("posts"), "", &missing), 400, "Failed to create record.").await;
    assert_eq!(data["author"]["code"], "validation_missing_rel_records");
    let body =
        json!({"title": "one", "author": ann["id"], "tags": [blue["id"], red["id"]], "editor": ann["id"]});
    let one = create(&service, "posts", body).await;
    let two =
        create(&service, "posts", json!({"title": "two", "author": hidden["id"], "tags+": red["id"]})).await;

    let expanded = async |name: &str, record: &Value, expand: &str| {
        let path = format!("{}?expand={expand}", path_of(name, record));
        good(&service, "GET", &path, "", &Value::Null).await
    };
    let shown = expanded("posts", &one, "author,tags,nothing,title").await;
    assert_eq!(shown["expand"], json!({"author": ann, "tags": [blue, red]}));
    assert_eq!(expanded("posts", &two, "author").await.get("expand"), None);
    let shown = expanded("authors", &ann, "posts_via_author.tags,posts_via_editor").await;
    assert_eq!(shown["expand"]["posts_via_author"][0]["expand"]["tags"], json!([blue, red]));
    assert_eq!(shown["expand"]["posts_via_editor"], one);
    let list = format!("{}?expand=posts_via_tags&sort=title", records("tags"));
    let page = good(&service, "GET", &list, "", &Value::Null).await;
    let of_tag = |at: usize| page["items"][at]["expand"]["posts_via_tags"].as_array().unwrap().len();
    assert_eq!((of_tag(0), of_tag(1)), (1, 2));
    let path = format!("{}?expand=author&fields=expand.author.title", path_of("posts", &two));
    let by_superuser = good(&service, "GET", &path, &token, &Value::Null).await;
    assert_eq!(by_superuser, json!({"expand": {"author": {"title": "hidden"}}}));
}

#[tokio::test]
async fn comparisons_over_one_path_mean_one_record_and_clients_see_by_list_rules() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let title = json!({"name": "title", "type": "text"});
    let teams = make(&service, &token, "teams", json!([title]), json!({})).await;
    let fields = json!([
        relation("team", &teams, &json!({})), {"name": "who", "type": "text"}, {"name": "role", "type": "text"},
        {"name": "marks", "type": "select", "values": ["a", "b"], "maxSelect": 2},
    ]);
    let members = make(&service, &token, "members", fields, json!({})).await;
    let (red, blue) = (
        create(&service, "teams", json!({"title": "red"})).await,
        create(&service, "teams", json!({"title": "blue"})).await,
    );
    for (team, who, role) in [(&red, "ann", "admin"), (&red, "bob", "guest"), (&blue, "ann", "guest")] {
        let body = json!({"team": team["id"], "who": who, "role": role, "marks": ["a", "b"]});
        create(&service, "members", body).await;
    }
    let all = async |token: &str, name: &str, filter: &str, field: &str| {
        found(&service, token, name, &[("filter", filter), ("sort", field)], field).await
    };
    // As PocketBase 0.40.6 answers.
    let via = "members_via_team";
    for (filter, expected) in [
        (format!("{via}.who ?= 'ann' && {via}.role ?= 'guest'"), json!(["blue"])),
        (format!("{via}.who ?= 'bob' && {via}.role ?= 'admin'"), json!([])),
        (format!("{via}.who ?= 'ann' && {via}.role = 'guest'"), json!(["blue"])),
        (format!("{via}.who ?= 'bob' || title = 'blue'"), json!(["blue", "red"])),
        (format!("{via}.marks:each ?= 'a' && {via}.marks:each ?= 'b'"), json!([])),
    ] {
        assert_eq!(all("", "teams", &filter, "title").await, expected, "{filter}");
    }
    assert_eq!(all("", "members", "marks:each ?= 'a' && marks:each ?= 'b'", "who").await, json!([]));
    for (filter, expected) in [
        ("@collection.members.who ?= title", json!([])),
        ("@collection.members.team.title ?= title && @collection.members.who ?= 'bob'", json!(["red"])),
        (
            "@collection.members.team.title ?= title && @collection.members:m.who ?= 'bob'",
            json!(["blue", "red"]),
        ),
    ] {
        assert_eq!(all(&token, "teams", filter, "title").await, expected, "{filter}");
    }

    // A rule over relations guards every access.
    let rule = "members_via_team.who ?= @request.query.me && members_via_team.role ?= 'admin'";
    let rules = json!({"listRule": rule, "viewRule": rule, "updateRule": rule, "deleteRule": rule});
    good(&service, "PATCH", &format!("{COLLECTIONS}/teams"), &token, &rules).await;
    assert_eq!(found(&service, "", "teams", &[("me", "ann")], "title").await, json!(["red"]));
    assert_eq!(found(&service, "", "teams", &[("me", "bob")], "title").await, json!([]));
    let not_found = "The requested resource wasn't found.";
    for (who, is_allowed) in [("ann", true), ("bob", false)] {
        let path = format!("{}?me={who}", path_of("teams", &red));
        for (method, body) in [("GET", Value::Null), ("PATCH", json!({"title": "red"}))] {
            match is_allowed {
                true => drop(good(&service, method, &path, "", &body).await),
                false => drop(refused(&service, (method, &path, "", &body), 404, not_found).await),
            }
        }
    }
    let path = format!("{}?me=ann", path_of("teams", &blue));
    refused(&service, ("DELETE", &path, "", &Value::Null), 404, not_found).await;

    // A client's own filter sees related records through their collection's list rule.
    let rule = json!({"listRule": "role = 'admin'"});
    good(&service, "PATCH", &format!("{COLLECTIONS}/members"), &token, &rule).await;
    good(&service, "PATCH", &format!("{COLLECTIONS}/teams"), &token, &json!({"listRule": ""})).await;
    assert_eq!(all("", "teams", &format!("{via}.who ?= 'bob'"), "title").await, json!([]));
    assert_eq!(all("", "teams", &format!("{via}.who ?= 'ann'"), "title").await, json!(["red"]));
    assert_eq!(all(&token, "teams", &format!("{via}.who ?= 'bob'"), "title").await, json!(["red"]));
    good(&service, "PATCH", &format!("{COLLECTIONS}/members"), &token, &json!({"listRule": null})).await;
    let generic = "Something went wrong while processing your request.";
    for query in ["filter=members_via_team.who?='ann'", "sort=members_via_team.who"] {
        let path = format!("{}?{query}", records("teams"));
        refused(&service, ("GET", &path, "", &Value::Null), 400, generic).await;
    }
    // A creation is judged as it would be.
    let rule = json!({"createRule": "team.title = 'red'"});
    good(&service, "PATCH", &format!("{COLLECTIONS}/members"), &token, &rule).await;
    create(&service, "members", json!({"team": red["id"]})).await;
    let refusal = json!({"team": blue["id"]});
    refused(&service, ("POST", &records("members"), "", &refusal), 400, "Failed to create record.").await;
    assert_eq!(members["name"], "members");
}

#[tokio::test]
async fn a_deletion_cascades_unsets_or_is_refused() {
    let database = TestDatabase::create().await;
    let (service, token) = start(&database).await;
    let title = json!({"name": "title", "type": "text"});
    let authors = make(&service, &token, "authors", json!([title]), json!({})).await;
    let fields = json!([
        title,
        relation("author", &authors, &json!({"cascadeDelete": true})),
        relation("readers", &authors, &json!({"maxSelect": 5})),
        relation("owners", &authors, &json!({"maxSelect": 5, "cascadeDelete": true})),
    ]);
    let posts = make(&service, &token, "posts", fields, json!({})).await;
    let comments = json!([title, relation("post", &posts, &json!({"cascadeDelete": true}))]);
    make(&service, &token, "comments", comments, json!({})).await;
    let needs = json!([title, relation("of", &authors, &json!({"required": true}))]);
    make(&service, &token, "contracts", needs, json!({})).await;
    let mut ids = Vec::new();
    for name in ["ann", "bob", "cyd"] {
        ids.push(create(&service, "authors", json!({"title": name})).await["id"].clone());
    }
    let post = |title: &str, author: &Value, readers: Value, owners: Value| json!({"title": title, "author": author, "readers": readers, "owners": owners});
    let none = json!("");
    let of_ann = create(&service, "posts", post("of ann", &ids[0], json!([]), json!([]))).await;
    create(&service, "posts", post("read", &none, json!([ids[0], ids[1]]), json!([]))).await;
    create(&service, "posts", post("owned by both", &none, json!([]), json!([ids[0], ids[1]]))).await;
    create(&service, "posts", post("owned", &none, json!([]), json!([ids[0]]))).await;
    create(&service, "comments", json!({"title": "on ann's", "post": of_ann["id"]})).await;
    let contract = create(&service, "contracts", json!({"title": "bob's", "of": ids[1]})).await;

    let author = |at: usize| format!("{}/{}", records("authors"), ids[at].as_str().unwrap());
    let message =
        "Failed to delete record. Make sure that the record is not part of a required relation reference.";
    refused(&service, ("DELETE", &author(1), "", &Value::Null), 400, message).await;
    good(&service, "DELETE", &author(0), "", &Value::Null).await;
    let left = found(&service, "", "posts", &[("sort", "title")], "title").await;
    assert_eq!(left, json!(["owned by both", "read"]));
    assert_eq!(
        found(&service, "", "posts", &[("filter", "title='read'")], "readers").await,
        json!([[ids[1]]])
    );
    assert_eq!(
        found(&service, "", "posts", &[("filter", "title~'both'")], "owners").await,
        json!([[ids[1]]])
    );
    assert_eq!(found(&service, "", "comments", &[], "title").await, json!([]));
    // All of it in one transaction, in the feed.
    let feed = "select count(*), count(distinct xid) from changes where xid = (
        select xid from changes where topic = 'authors' and action = 'delete')";
    let row = database.connect().await.query_one(feed, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (6, 1));

    good(&service, "DELETE", &path_of("contracts", &contract), "", &Value::Null).await;
    good(&service, "DELETE", &author(1), "", &Value::Null).await;
    assert_eq!(found(&service, "", "posts", &[], "title").await, json!(["read"]));
    good(&service, "DELETE", &format!("{COLLECTIONS}/posts/truncate"), &token, &Value::Null).await;
    assert_eq!(found(&service, "", "posts", &[], "title").await, json!([]));
}
