//! Tables, and the functions and views for users: from the catalogue of a migrated database, and from the migrations' comments.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use regex::Regex;
use tokio_postgres::Client;

use super::{cell, code, files_below, of_repository};

/// What each table has. Of a table that is not here, the comment of its migration says it.
const TABLES: &[(&str, &str)] = &[
    ("api_keys", "API keys and write-only keys: a SHA-256 each, scopes, owner, origins, expiry."),
    ("auth_revocations", "Ended sessions and revoked keys, which every node reads twice a second."),
    ("auth_tickets", "Unused tickets of browsers: a SHA-256 each, and the caller's credential."),
    (
        "changes",
        "The feed: a row per change, written in the transaction that makes it, in the order of `(xid, number)`.",
    ),
    ("client_messages", "Requests and answers between nodes, for connections with client ids. Unlogged."),
    ("client_nodes", "The nodes that have connections with client ids. Unlogged."),
    (
        "collections",
        "Collections of records; `schema` is the definition of a typed one. The records of collection 7 are in the table `records_7`.",
    ),
    ("conversations", "Conversations. `owner` is null where the caller was no user."),
    (
        "dead_letters",
        "Events that Postgres refused, that a trigger dropped, or that were refused for overload. `error` begins with the SQLSTATE.",
    ),
    ("event_routes", "Routes: definitions, states, and the positions of their backfills."),
    ("feed_floor", "The end of the changes that were deleted by age. One row."),
    ("feed_positions", "Positions of the feed at some times within the retention of changes."),
    ("feed_readers", "Readers of the feed and their positions: changes that a reader has not read are kept."),
    ("file_store", "The id of this database in the folders of files. One row."),
    ("files", "Uploaded files. Their contents are in `DATA_DIR/files`, by their SHA-256."),
    ("import_parts", "Stored parts of unfinished imports."),
    ("import_rejected", "Lines that imports left out, up to 100,000 each."),
    ("imports", "Imports: what was asked for, and how far they are."),
    (
        "ingest_duplicates",
        "Events that were not stored because of their keys. `first_id` is the stored event.",
    ),
    ("ingest_journals", "Journals, a row per start of a service. `fence` counts checkpoints."),
    ("ingest_keys", "Hashes of idempotency keys, for `IDEMPOTENCY_WINDOW_S`."),
    ("ingest_lanes", "Epochs of the writers' connections, by journal."),
    ("ingest_partitions", "Days whose partition was created."),
    (
        "ingest_receipts",
        "Receipts: the outcomes of the sequences `first` to `last` of a journal, written in the transaction that stores the events.",
    ),
    (
        "ingest_removed",
        "Ranges of events that were deleted after they had been stored, so that `tidegate verify` does not take them for losses.",
    ),
    ("large_payload_parts", "Large payloads of the stress API, in parts."),
    ("large_payloads", "Large payloads of the stress API."),
    ("message_drafts", "Lengths of messages that are being written in pieces."),
    ("message_keys", "Idempotency keys of requests that added messages, and what they added."),
    ("message_pieces", "Pieces of messages that are being written."),
    ("messages", "Messages of conversations, in the order of `(timestamp, id)`."),
    (
        "requests",
        "Stored events. `id` is a UUIDv7; `payload` has what `jsonb` can hold, `body` everything else, byte for byte. Partitioned by `id`, unless `PARTITIONING=off` was set at the first start.",
    ),
    ("route_counts", "What each batch of a route did. The service adds them up."),
    ("route_deferred", "Ranges of events that a suspended route has still to take."),
    ("route_errors", "Events that are in `requests` and that a route refused."),
    (
        "route_passed",
        "While a backfill is open: ranges of older events that were stored since, and came through the trigger.",
    ),
    ("search_documents", "Words of messages and titles, for search."),
    ("search_rebuild", "The range of search documents of an older form. A row while there are some."),
    ("sessions", "Log-ins: SHA-256 of the current and the previous refresh token, use, expiry."),
    (
        "stream_chunks",
        "Bytes of streams: the appends to a stream that were committed together, or several such rows merged.",
    ),
    (
        "stream_inbox",
        "Appends by `tidegate_append` that no node has moved to their streams yet, or that could not be moved (`error`).",
    ),
    ("stream_producers", "The newest epoch and number of each producer of a stream."),
    (
        "stream_secrets",
        "Keys that sign webhooks, and the secret of the tokens of wakes. A role that may read it can sign webhooks.",
    ),
    ("stream_subscription_links", "Streams of subscriptions, with their acknowledged offsets."),
    ("stream_subscriptions", "Subscriptions to streams, and the states of their wakes."),
    ("streams", "Streams: paths, ends, lifetimes, forks, retention and compaction."),
    ("tidegate_choices", "Choices that the first migration made, such as `partitioning`."),
    ("tidegate_migrations", "Applied migrations with their checksums."),
    (
        "tidegate_table_sets",
        "Sets of tables that exist beside the core's; a module that was never on has none.",
    ),
    ("users", "Users: of this service, with a password, or of an issuer, by `(issuer, subject)`."),
    ("watched_tables", "Tables that `tidegate_watch` added triggers to."),
];

/// The comment of each function, table and view in the migrations, the newest definition's.
fn comments() -> BTreeMap<String, String> {
    let created =
        Regex::new(r"create (?:or replace )?(?:unlogged )?(?:table|view|function) \{schema\}\.([a-z_]+)")
            .unwrap();
    let mut comments = BTreeMap::new();
    let mut files = files_below(&of_repository("sql/migrations"), "sql");
    let version = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name[1..].split("__").next().unwrap().parse::<u32>().unwrap()
    };
    files.sort_by_key(version);
    for path in files {
        let mut block: Vec<String> = Vec::new();
        let mut is_open = false;
        for line in std::fs::read_to_string(path).unwrap().lines() {
            if let Some(comment) = line.strip_prefix("--") {
                if !is_open {
                    block.clear();
                }
                block.push(comment.trim().to_owned());
                is_open = true;
                continue;
            }
            is_open = false;
            if line.is_empty() {
                block.clear();
            }
            if let Some(name) = created.captures(line) {
                let comment = std::mem::take(&mut block).join(" ");
                if !comment.is_empty() && !comment.starts_with("As before") {
                    comments.insert(name[1].to_owned(), comment);
                }
            }
        }
    }
    comments
}

/// The actions of changes, by the check of their table.
pub(super) async fn write_actions(text: &mut String, client: &Client) {
    let check = "select pg_get_constraintdef(oid) from pg_constraint where conname = 'changes_action_check'";
    let check: String = client.query_one(check, &[]).await.unwrap().get(0);
    let actions: Vec<String> =
        Regex::new("'([a-z]+)'").unwrap().captures_iter(&check).map(|found| code(&found[1])).collect();
    writeln!(text, "\n`action` of a change in the feed: {}. [USE.md](USE.md#live-changes) has what each topic sends of them.", actions.join(", ")).unwrap();
}

/// The functions and views that `tidegate grants` grants to roles of users.
fn for_users() -> Vec<String> {
    let source = std::fs::read_to_string(of_repository("src/db/grants.rs")).unwrap();
    let granted = Regex::new(r"grant (?:execute on function|select on) \{schema\}\.([a-z_]+)").unwrap();
    let mut names: Vec<String> = granted.captures_iter(&source).map(|found| found[1].to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

pub(super) async fn write_functions(text: &mut String, client: &Client) {
    let (comments, names) = (comments(), for_users());
    text.push_str(
        "\n## SQL functions and views\n\nFor roles of applications. `tidegate grants --publisher ROLE`, `--watcher ROLE` and `--appender ROLE` print the rights that a role needs. \
         They are in `DB_SCHEMA`. A typed collection is a view in the schema `<DB_SCHEMA>_collections`. All other functions are the service's own.\n\n| | |\n|---|---|\n",
    );
    let about = |name: &str| cell(comments.get(name).map_or("", String::as_str));
    let functions = "select proname::text, proname || '(' || pg_get_function_identity_arguments(oid) || ') → ' || pg_get_function_result(oid)
         from pg_proc where pronamespace = 'public'::regnamespace and proname = any($1) order by proname collate \"C\", oid";
    let mut commented: Vec<String> = Vec::new();
    for row in client.query(functions, &[&names]).await.unwrap() {
        let (name, signature) = (row.get::<_, String>(0), row.get::<_, String>(1));
        // Of one with several signatures the comment is that of the last.
        let comment = if commented.contains(&name) { String::new() } else { about(&name) };
        writeln!(text, "| `{signature}` | {comment} |").unwrap();
        commented.push(name);
    }
    let views = "select c.relname::text, string_agg(quote_ident(attname) || ' ' || format_type(atttypid, atttypmod), ', ' order by attnum)
         from pg_class c join pg_attribute a on a.attrelid = c.oid and attnum > 0 and not attisdropped
         where relkind = 'v' and relnamespace = 'public'::regnamespace and relname = any($1)
         group by c.relname order by c.relname collate \"C\"";
    for row in client.query(views, &[&names]).await.unwrap() {
        let (name, columns) = (row.get::<_, String>(0), row.get::<_, String>(1));
        writeln!(text, "| the view `{name}({columns})` | {} |", about(&name)).unwrap();
    }
}

/// One column: name, type, and what constrains it.
const COLUMNS: &str = "
    select c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod),
        concat_ws(' ', case when a.attnotnull then 'not null' end,
            case when a.attidentity <> '' then 'identity' end,
            'default ' || pg_get_expr(d.adbin, d.adrelid))
    from pg_class c
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition and c.relname !~ '^records_[0-9]+$'
    order by c.relname collate \"C\", a.attnum";

/// Keys, checks and indexes of a table, as SQL.
const RULES: &str = "
    select c.relname::text, rule
    from pg_class c
    cross join lateral (
        select 0, contype::text, pg_get_constraintdef(o.oid) from pg_constraint o
        where o.conrelid = c.oid and o.contype in ('p', 'u', 'f', 'c')
        union all
        select 1, '', regexp_replace(pg_get_indexdef(i.indexrelid), '^CREATE (UNIQUE )?INDEX \\S+ ON (ONLY )?(\\S+ )USING ', '\\1INDEX ')
        from pg_index i
        where i.indrelid = c.oid and not exists (select from pg_constraint o where o.conindid = i.indexrelid and o.contype in ('p', 'u'))
    ) as rules (part, kind, rule)
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition and c.relname !~ '^records_[0-9]+$'
    order by c.relname collate \"C\", part, array_position(array['p', 'u', 'f', 'c'], kind), rule collate \"C\"";

pub(super) async fn write_tables(text: &mut String, client: &Client) {
    text.push_str(
        "\n## Tables\n\nOf a database with all modules, in `DB_SCHEMA`. [OPERATE.md](OPERATE.md#tables) says what grows, and what you may add. \
         Only `requests`, `dead_letters` and the views are meant to be read by others: the rest may change with any version.\n",
    );
    let comments = comments();
    let mut columns: BTreeMap<String, String> = BTreeMap::new();
    for row in client.query(COLUMNS, &[]).await.unwrap() {
        let [name, kind, rest] = [1, 2, 3].map(|place| row.get::<_, String>(place));
        let table = columns.entry(row.get(0)).or_default();
        writeln!(table, "| `{name}` | {} | {} |", cell(&kind), code(&rest)).unwrap();
    }
    let mut rules: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in client.query(RULES, &[]).await.unwrap() {
        rules.entry(row.get(0)).or_default().push(format!("`{}`", row.get::<_, String>(1)));
    }
    for (name, columns) in &columns {
        let known = TABLES.iter().find(|(table, _)| table == name).map(|(_, about)| *about);
        let about = known.unwrap_or_else(|| comments.get(name).map_or("", String::as_str));
        assert!(
            !about.is_empty(),
            "{name} has neither a comment in its migration nor a line in tests/reference/schema.rs"
        );
        write!(text, "\n### {name}\n\n{about}\n\n| column | type | |\n|---|---|---|\n{columns}").unwrap();
        if let Some(rules) = rules.get(name) {
            writeln!(text, "\n{}", rules.join(" · ")).unwrap();
        }
    }
}
