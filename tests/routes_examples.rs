//! The worked examples of docs/ROUTES.md: each is run as it stands there.

use crate::routes::send;
use crate::support::postgres::TestDatabase;
use crate::support::service::Service;

/// A block of a chapter: its language and its text.
fn blocks(chapter: &str) -> Vec<(&str, &str)> {
    let mut blocks = Vec::new();
    let mut rest = chapter;
    while let Some((_, after)) = rest.split_once("```") {
        let (language, after) = after.split_once('\n').unwrap();
        let (text, behind) = after.split_once("```").unwrap();
        blocks.push((language, text));
        rest = behind;
    }
    blocks
}

#[tokio::test]
async fn the_worked_examples_do_what_the_docs_say() {
    let docs = include_str!("../docs/ROUTES.md");
    let examples: Vec<&str> = docs.split("\n### Example: ").skip(1).collect();
    assert_eq!(examples.len(), 5);
    for example in examples {
        let title = example.lines().next().unwrap();
        let database = TestDatabase::create().await;
        let client = database.connect().await;
        let service = Service::start(database.url(), &[]).await;
        let mut answer = None;
        let chapter = example.split("\n## ").next().unwrap();
        for (language, text) in blocks(chapter) {
            match language {
                "sh" => {
                    let path = std::path::Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap();
                    let path = format!("{}:{}", path.display(), std::env::var("PATH").unwrap());
                    let run = tokio::process::Command::new("sh")
                        .args(["-ec", text])
                        .env("DATABASE_URL", database.url())
                        .env("PATH", path)
                        .output()
                        .await
                        .unwrap();
                    assert!(run.status.success(), "{title}: {}", String::from_utf8_lossy(&run.stderr));
                }
                "json" => {
                    send(&service, text.to_owned()).await;
                    service.settled().await;
                }
                "sql" if text.trim_start().starts_with("select") => {
                    let mut rows = String::new();
                    for message in client.simple_query(text).await.unwrap() {
                        if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                            let columns: Vec<&str> =
                                (0..row.len()).map(|n| row.get(n).unwrap_or("null")).collect();
                            rows += &format!("{}\n", columns.join(" | "));
                        }
                    }
                    answer = Some(rows);
                }
                "sql" => client.batch_execute(text).await.unwrap(),
                "text" => assert_eq!(answer.take().as_deref(), Some(text), "{title}"),
                other => panic!("{title}: {other}"),
            }
        }
        assert!(service.stop().await.status.success());
    }
}
