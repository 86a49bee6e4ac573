//! Checks of the database: settings, privileges, clock, and the speed of commits and COPYs.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::{Finding, Grade, finding};
use crate::config::Config;
use crate::db::{Database, DbError, sql};
use crate::ingest::copy_rows;
use crate::ingest::id::{self, Tag};
use crate::ingest::row::{self, Content, Row};

const COMMITS: usize = 50;
const ROWS: u64 = 50_000;
/// A larger difference between the clocks makes ids, and with them partitions, confusing.
const CLOCK_MS: u64 = 1000;

pub(super) async fn check(config: &Config, database: &Database) -> Result<Vec<Finding>, DbError> {
    let mut client = database.connect().await?;
    let mut findings = Vec::new();
    let server = client.query_typed(sql!("doctor/server.sql"), &[]).await?;
    let Some(server) = server.first() else { return Ok(findings) };
    let text = |column: &str| server.try_get::<_, String>(column);
    findings.push(finding(Grade::Ok, "database", format!("Postgres {}", text("version")?)));
    if text("encoding")? != "UTF8" {
        findings.push(finding(
            Grade::Fail,
            "encoding",
            format!("{}; tidegate needs UTF8", text("encoding")?),
        ));
    }
    for setting in ["fsync", "full_page_writes"] {
        if text(setting)? == "off" {
            let found = format!("{setting} is off: Postgres loses commits in a power failure");
            findings.push(finding(Grade::Fail, "settings", found));
        }
    }
    if server.try_get::<_, bool>("in_recovery")? || text("read_only")? == "on" {
        findings.push(finding(Grade::Fail, "settings", "the server is a standby, or read-only"));
        return Ok(findings);
    }
    let connections: i32 = server.try_get("max_connections")?;
    if (connections as usize) < config.database.db_pool_size {
        let found = format!(
            "max_connections is {connections}, less than DB_POOL_SIZE {}",
            config.database.db_pool_size
        );
        findings.push(finding(Grade::Warn, "connections", found));
    }
    findings.push(clock(server.try_get("now_ms")?));
    findings.extend(rights(database, &client).await?);
    findings.extend(routes(database, &client).await?);
    findings.push(commits(&client).await);
    findings.push(copies(&mut client).await?);
    Ok(findings)
}

fn clock(theirs_ms: i64) -> Finding {
    let ours_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as i64;
    let apart_ms = ours_ms.abs_diff(theirs_ms);
    let found = format!("{apart_ms} ms apart from the database's");
    finding(if apart_ms > CLOCK_MS { Grade::Warn } else { Grade::Ok }, "clock", found)
}

async fn rights(database: &Database, client: &tokio_postgres::Client) -> Result<Vec<Finding>, DbError> {
    let rows = client.query_typed(sql!(database, "doctor/rights.sql"), &[]).await?;
    let missing = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
    let mut findings = vec![match &missing[..] {
        [] => finding(Grade::Ok, "rights", "all privileges that the service needs on its tables"),
        missing => finding(Grade::Fail, "rights", format!("missing on {}", missing.join(", "))),
    }];
    let create = client.query_typed(sql!(database, "doctor/may_create.sql"), &[]).await?;
    if !create.first().map_or(Ok(false), |row| row.try_get(0))? {
        let found = "no privilege to create in the schema: an administrator has to run migrations and create partitions";
        findings.push(finding(Grade::Warn, "rights", found));
    }
    Ok(findings)
}

/// Routes whose targets no longer fit.
async fn routes(database: &Database, client: &tokio_postgres::Client) -> Result<Vec<Finding>, DbError> {
    let rows = match client.query_typed(sql!(database, "doctor/routes.sql"), &[]).await.map_err(DbError::from)
    {
        // The database is older than routes, or empty.
        Err(error) if error.is_table_missing() || error.state_code() == Some("3F000") => {
            return Ok(Vec::new());
        }
        rows => rows?,
    };
    let mut findings = Vec::new();
    for row in rows {
        let (name, target): (&str, &str) = (row.try_get("name")?, row.try_get("target")?);
        let missing: &str = row.try_get("missing")?;
        let found = match (row.try_get("is_gone")?, missing) {
            (true, _) => format!("the route {name}: {target} is gone"),
            (false, "") => continue,
            (false, missing) => format!("the route {name}: {target} lacks {missing}"),
        };
        findings.push(finding(Grade::Fail, "routes", found));
    }
    Ok(findings)
}

async fn commits(client: &tokio_postgres::Client) -> Finding {
    let mut times = Vec::with_capacity(COMMITS);
    for _ in 0..COMMITS {
        let started = Instant::now();
        if let Err(error) = client.query_typed(sql!("doctor/commit.sql"), &[]).await {
            let found = format!("not measured: {}", DbError::from(error).with_sources());
            return finding(Grade::Warn, "commit", found);
        }
        times.push(started.elapsed());
    }
    times.sort();
    let (median, p99) = (times[COMMITS / 2], times[COMMITS * 99 / 100]);
    finding(Grade::Ok, "commit", format!("median {median:.0?}, 99th percentile {p99:.0?}"))
}

async fn copies(client: &mut tokio_postgres::Client) -> Result<Finding, DbError> {
    let tag = Tag::of_journal(Uuid::new_v4());
    let mut rows = Vec::new();
    for sequence in 0..ROWS {
        let event = Row {
            id: id::event_id(0, tag, sequence),
            trace_id: b"doctor",
            content: Content::Jsonb(
                br#"{"n":1,"text":"about as long as a typical event of a hundred bytes, give or take a few"}"#,
            ),
            content_type: Some("application/json"),
            received_at_us: id::unix_now_us(),
        };
        event.encode(&mut rows);
    }
    let transaction = client.transaction().await?;
    if let Err(error) = transaction.batch_execute(sql!("doctor/scratch_table.sql")).await {
        let found = format!("not measured: {}", DbError::from(error).with_sources());
        return Ok(finding(Grade::Warn, "copy", found));
    }
    let copy = sql!("doctor/copy.sql").replace("{columns}", row::COLUMNS);
    let started = Instant::now();
    copy_rows(&transaction, &copy, std::iter::once(&rows[..])).await?;
    let per_s = ROWS as f64 / started.elapsed().as_secs_f64();
    transaction.rollback().await?;
    Ok(finding(
        Grade::Ok,
        "copy",
        format!("{per_s:.0} rows per second over one connection, into a temporary table"),
    ))
}
