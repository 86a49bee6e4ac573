//! `tidegate doctor`: measures this host and its database, runs drills in a scratch folder, and reports which
//! acknowledgement levels they can guarantee.

mod database;
mod disk;
mod drill;

pub use drill::write_until_killed;

use std::fmt;
use std::path::Path;

use crate::config::Config;
use crate::db::Database;

/// The grade of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// No problem.
    Ok,
    /// It works, at a cost or a risk that the finding names.
    Warn,
    /// A level cannot be guaranteed.
    Fail,
}

/// The result of one check.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Its grade.
    pub grade: Grade,
    /// The checked thing.
    pub what: &'static str,
    /// The result in words, with its figures.
    pub found: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grade = match self.grade {
            Grade::Ok => "ok  ",
            Grade::Warn => "warn",
            Grade::Fail => "FAIL",
        };
        write!(f, "{grade}  {}: {}", self.what, self.found)
    }
}

fn finding(grade: Grade, what: &'static str, found: impl Into<String>) -> Finding {
    Finding { grade, what, found: found.into() }
}

/// Checks the disk under `dir`, a scratch folder, and runs the drills there.
pub fn check_host(config: &Config, dir: &Path) -> Vec<Finding> {
    let mut findings = disk::check(config, dir);
    findings.push(drill::crash(dir));
    findings.push(drill::full_disk(dir));
    findings
}

/// Checks the database.
pub async fn check_database(config: &Config, database: &Database) -> Vec<Finding> {
    database::check(config, database).await.unwrap_or_else(|error| {
        vec![finding(Grade::Fail, "database", format!("cannot be used: {}", error.with_sources()))]
    })
}

/// The levels that the findings allow.
pub fn conclusion(host: &[Finding], database: &[Finding]) -> (bool, String) {
    let worst =
        |findings: &[Finding]| findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Ok);
    match (worst(host), worst(database)) {
        (Grade::Fail, _) => {
            (false, "no level can be kept: this host's disk loses synced bytes or has no space".into())
        }
        (_, Grade::Fail) => {
            (false, "x-ack: journaled can be kept; x-ack: committed cannot, see the database".into())
        }
        (Grade::Warn, _) | (_, Grade::Warn) => {
            (true, "x-ack: journaled and x-ack: committed can be kept, with the warnings above".into())
        }
        (Grade::Ok, Grade::Ok) => (true, "x-ack: journaled and x-ack: committed can be kept".into()),
    }
}
