//! docs/REFERENCE.md: made from the code and from a migrated database, so it cannot fall behind them.
//!
//! `UPDATE_REFERENCE=1 cargo test --test main reference` writes it anew.

mod codes;
mod routes;
mod schema;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use regex::Regex;
use tidegate::config::{ALL_MODULES, ALL_SETTINGS};
use tidegate::observe::Metrics;

use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, run};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/REFERENCE.md");

/// A file or folder of the repository.
fn of_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// All files below a folder with this ending, sorted.
fn files_below(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A text within a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// A text in backquotes; nothing for an empty one.
fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{}`", cell(text)) }
}

const HEAD: &str = "# Reference

Generated from the code and from a migrated database by `tests/reference.rs`, and compared with both by every run of the tests.
`UPDATE_REFERENCE=1 cargo test --test main reference` writes it anew. [USE.md](USE.md) and [OPERATE.md](OPERATE.md) explain what is listed here.

[Commands](#commands) · [Exit codes](#exit-codes) · [Settings](#settings) · [Modules](#modules) · [Routes](#routes) · [Error codes](#error-codes) ·
[Topics](#topics) · [Metrics](#metrics) · [SQL functions and views](#sql-functions-and-views) · [Tables](#tables)
";

const EXIT_CODES: &str = "
## Exit codes

| code | of | meaning |
|---|---|---|
| 0 | every command | success; of the service: stopped in order |
| 1 | `tidegate serve` | it could not start, a critical task ended, or the time for a stop was over |
| 1 | `tidegate verify` | accepted events are missing, doubled or unaccounted for; a route's table differs |
| 1 | `tidegate doctor` | a check failed |
| 1 | `tidegate ingest` | lines were rejected, or a file could not be read to its end |
| 1 | `tidegate health` | the service does not answer, or with `--ready` takes no events |
| 1 | `tidegate journal --check` | the journal has damage or an unacknowledged loss |
| 1 | other commands | the command failed; the message has the cause |
| 2 | every command | a wrong command line, an invalid or removed setting |
| 130 | `tidegate serve` | a second signal: events in memory only are lost |
";

async fn commands(text: &mut String) {
    let (_, help, _) = run(&["help"], &[]).await;
    text.push_str(
        "\n## Commands\n\n`tidegate COMMAND --help` has the options.\n\n| command | |\n|---|---|\n",
    );
    let listed = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    for line in listed.lines().filter(|line| !line.trim_start().starts_with("help ")) {
        let (name, about) = line.trim().split_once(' ').unwrap();
        writeln!(text, "| `tidegate {name}` | {} |", cell(about.trim())).unwrap();
    }
}

fn settings(text: &mut String) {
    text.push_str("\n## Settings\n\nEnvironment variables, or lines of `.env`. An empty value is unset. [OPERATE.md](OPERATE.md) has their tuning.\n");
    for (title, settings) in ALL_SETTINGS {
        write!(text, "\n### {title}\n\n| variable | default | takes | |\n|---|---|---|---|\n").unwrap();
        for setting in *settings {
            let takes = cell(&setting.kind.takes());
            writeln!(
                text,
                "| `{}` | {} | {takes} | {} |",
                setting.name,
                code(setting.default),
                cell(setting.help)
            )
            .unwrap();
        }
    }
}

fn modules(text: &mut String) {
    text.push_str("\n## Modules\n\nThe names that `MODULES` takes.\n\n| module | needs |\n|---|---|\n");
    for module in &ALL_MODULES {
        let name = |needed: &_| ALL_MODULES.iter().find(|one| one.module == *needed).unwrap().name;
        let needs: Vec<String> = module.needs.iter().map(|needed| code(name(needed))).collect();
        writeln!(text, "| `{}` | {} |", module.name, needs.join(", ")).unwrap();
    }
}

fn metrics(text: &mut String) {
    text.push_str(
        "\n## Metrics\n\n`GET /metrics`. A metric with labels appears with its first value, those of a module that is off do not. \
         The metrics `process_…` are those of every Prometheus client.\n\n| metric | kind | labels | |\n|---|---|---|---|\n",
    );
    for metric in Metrics::new().unwrap().describe() {
        let labels: Vec<String> = metric.labels.iter().map(|label| code(label)).collect();
        writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            metric.name,
            metric.kind,
            labels.join(", "),
            cell(&metric.help)
        )
        .unwrap();
    }
}

/// The topics of clients, by the enum that parses them, with the scope that each kind requires.
fn topics(text: &mut String) {
    const SCOPES: [(&str, &str); 5] = [
        ("records/", "`records:read`"),
        ("conversations/", "`conversations:read`"),
        ("table/", "`realtime:read`, or `realtime:read:{prefix}`"),
        ("topic/", "`realtime:read`, or `realtime:read:{prefix}`"),
        ("stats", "`ops:read`"),
    ];
    text.push_str(
        "\n## Topics\n\nOf `/api/events/stream` and `/api/events/ws`. [PocketBase's API](POCKETBASE.md) has its own.\n\n| topic | scope | changes |\n|---|---|---|\n",
    );
    let source = std::fs::read_to_string(of_repository("src/http/realtime/topic.rs")).unwrap();
    let variants = source.split("enum Topic {\n").nth(1).unwrap().split("\n}").next().unwrap();
    let documented = variants.lines().filter_map(|line| line.trim().strip_prefix("/// "));
    for line in documented.filter(|line| line.starts_with('`')) {
        let (topic, about) = line[1..].split_once('`').unwrap();
        let scope = SCOPES.iter().find(|(kind, _)| topic.starts_with(kind)).map_or("", |(_, scope)| scope);
        assert!(!scope.is_empty(), "the scope of the topic {topic}: SCOPES of tests/reference.rs");
        let about = about.trim_matches(['.', ':', ' ']);
        let about = match topic {
            "records/{collection}" => "records of a collection",
            "records/{collection}/{id}" => "one record",
            "conversations/{id}" => "a conversation and its messages",
            _ => about,
        };
        writeln!(text, "| `{topic}` | {scope} | {about} |").unwrap();
    }
}

#[tokio::test]
async fn the_reference_is_that_of_the_code_and_of_the_database() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MODULES", "all"), ("FAULTS", "on")]).await;
    let api = service.get("/api/openapi.json").await.json();
    let client = database.connect().await;

    let mut text = HEAD.to_owned();
    commands(&mut text).await;
    text.push_str(EXIT_CODES);
    settings(&mut text);
    modules(&mut text);
    routes::write(&mut text, &api);
    let unexplained = codes::write(&mut text);
    topics(&mut text);
    schema::write_actions(&mut text, &client).await;
    metrics(&mut text);
    schema::write_functions(&mut text, &client).await;
    schema::write_tables(&mut text, &client).await;

    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(FILE, &text).unwrap();
    }
    assert_eq!(
        unexplained,
        [] as [&str; 0],
        "error codes without a meaning: MEANINGS of tests/reference/codes.rs"
    );
    let unknown = unknown_names(&text);
    assert!(unknown.is_empty(), "documents name what is not there: {unknown:#?}");
    let written = std::fs::read_to_string(FILE).unwrap_or_default();
    let differs = written.lines().zip(text.lines()).find(|(old, new)| old != new);
    assert!(
        written == text,
        "docs/REFERENCE.md is old: UPDATE_REFERENCE=1 cargo test --test main reference\nfirst difference: {differs:#?}"
    );
}

/// The documents that explain, beside the reference.
fn explained() -> String {
    let documents = [
        "README.md",
        "docs/USE.md",
        "docs/ROUTES.md",
        "docs/POCKETBASE.md",
        "docs/OPERATE.md",
        "docs/RECIPES.md",
    ];
    documents.map(|path| std::fs::read_to_string(of_repository(path)).unwrap()).join("\n")
}

#[test]
fn each_setting_is_explained_in_a_document() {
    let text = explained();
    let words: BTreeSet<&str> =
        text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').collect();
    let settings = ALL_SETTINGS.iter().flat_map(|(_, settings)| *settings);
    let left: Vec<&str> = settings.map(|setting| setting.name).filter(|name| !words.contains(name)).collect();
    assert!(left.is_empty(), "docs/OPERATE.md says nothing of {left:?}");
}

#[tokio::test]
async fn each_route_is_explained_in_the_document_of_its_module() {
    let database = TestDatabase::create_empty().await;
    let service = Service::start(database.url(), &[("MODULES", "all"), ("FAULTS", "on")]).await;
    let left = routes::unexplained(&service.get("/api/openapi.json").await.json(), &explained());
    assert!(left.is_empty(), "docs/USE.md, or the document of their module, says nothing of {left:#?}");
}

/// Names in capitals that documents mention, and that are no settings of the service.
const OTHER_VARIABLES: [&str; 6] =
    ["TIDEGATE_KEY", "TIDEGATE_URL", "LOADTEST_TOKEN", "POSTGRES_PASSWORD", "SSL_CERT_DIR", "SSL_CERT_FILE"];
/// Names that begin as those of the service's objects do: a role, prefixes, volumes of Compose.
const OTHER_OBJECTS: [&str; 5] =
    ["tidegate_routes", "tidegate_route_", "tidegate_", "tidegate_data", "tidegate_postgres"];

/// Settings, metrics, functions, tables and routes that a document names, and that are not there.
fn unknown_names(reference: &str) -> BTreeSet<String> {
    let text = explained();
    let objects: BTreeSet<&str> =
        reference.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').collect();
    let routes: BTreeSet<String> = tidegate::http::routes()
        .iter()
        .map(|route| format!("{} {}", route.method, route.path.replace("{*", "{")))
        .collect();
    let mut unknown = BTreeSet::new();
    let mut look = |pattern: &str, is_known: &dyn Fn(&str) -> bool| {
        for found in Regex::new(pattern).unwrap().captures_iter(&text) {
            if !is_known(&found[1]) {
                unknown.insert(found[1].to_owned());
            }
        }
    };
    look("`([A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9])(?:=[^`]*)?`", &|name| {
        // Error codes of a protocol are in capitals too.
        objects.contains(name) || OTHER_VARIABLES.contains(&name)
    });
    look("`(tidegate_[a-z_]*)", &|name| objects.contains(name) || OTHER_OBJECTS.contains(&name));
    look(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`? ]+)", &|route| routes.contains(route));
    unknown
}
