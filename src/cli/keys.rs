//! `tidegate keys`: API keys, with or without a running service.

use clap::{Args, Subcommand};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::output::print_line;
use super::superuser::{self, SuperuserArgs};
use super::{Failure, offline};
use crate::auth::keys::{KEYS_PAGE, KeyRequest, ListedKey};
use crate::auth::{Scope, Scopes};
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Create a key and print it, once
    Create(CreateArgs),
    /// List all keys, newest first
    List,
    /// Create a superuser of typed collections, or set their password, read from standard input; print their id
    Superuser(SuperuserArgs),
    /// Revoke a key, on every node within a second
    Revoke {
        /// The key's id, or its prefix as listed
        key: String,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// A scope of the key, such as events:write; repeatable
    #[arg(long, value_parser = scope, required_unless_present_any = ["admin", "write_only"])]
    scope: Vec<Scopes>,
    /// The key's name; by default that of the replaced key
    #[arg(long)]
    name: Option<String>,
    /// The expiry: a time such as 2026-12-31T00:00:00Z, or a span such as 90d or 12h
    #[arg(long, value_parser = expiry)]
    expires: Option<i64>,
    /// Grant all scopes
    #[arg(long)]
    admin: bool,
    /// A key to publish in web pages: it sends events from pages of its origins, and nothing else
    #[arg(long, conflicts_with_all = ["scope", "admin"], requires = "origin")]
    write_only: bool,
    /// An origin whose pages may use a write-only key, such as `https://app.example`; repeatable
    #[arg(long)]
    origin: Vec<String>,
    /// The id of the key to be replaced
    #[arg(long)]
    replaces: Option<Uuid>,
    /// The hours for which both keys are valid
    #[arg(long, default_value_t = 24, requires = "replaces")]
    overlap_h: u16,
}

pub(super) fn run(args: KeysArgs) -> Result<(), Failure> {
    let command = match args.command {
        KeysCommand::Superuser(args) => return superuser::run(args),
        command => command,
    };
    if let KeysCommand::Create(args) = &command
        && !args.origin.is_empty()
        && !args.write_only
    {
        return Err(Failure::Usage("--origin is for a write-only key (--write-only)".into()));
    }
    let config = Config::from_env()?;
    offline::with_accounts(&config, async |accounts, _database| match command {
        KeysCommand::Create(args) => {
            let implied = [args.admin.then_some(Scope::Admin), args.write_only.then_some(Scope::EventsWrite)];
            let implied: Scopes = implied.into_iter().flatten().collect();
            let scopes: Scopes = args.scope.into_iter().chain([implied]).collect();
            let origins = args.write_only.then_some(args.origin);
            let replaces = args.replaces.map(|id| (id, i64::from(args.overlap_h) * 3600));
            let request = KeyRequest { name: args.name, scopes, expires_s: args.expires, replaces, origins };
            let made = accounts.keys.create(&request, None, &Scopes::ADMIN).await?;
            print_line!("{}", made.secret.reveal());
            Ok(())
        }
        KeysCommand::List => {
            let mut after = None;
            loop {
                let page = accounts.keys.list(None, after).await?;
                page.iter().for_each(print);
                after = page.last().map(|key| key.id);
                if page.len() < KEYS_PAGE {
                    return Ok(());
                }
            }
        }
        // It has returned.
        KeysCommand::Superuser(_) => Ok(()),
        KeysCommand::Revoke { key } => Ok(accounts.keys.revoke(&key, None).await?),
    })
}

fn print(key: &ListedKey) {
    let or = |text: &Option<String>, otherwise: &str| text.clone().unwrap_or_else(|| otherwise.to_owned());
    let state = match (&key.revoked, &key.expires) {
        (Some(revoked), _) => format!("revoked {revoked}"),
        (None, expires) => format!("expires {}", or(expires, "never")),
    };
    let (used, scopes) = (or(&key.last_used, "never"), key.scopes.names().join(" "));
    let origins = key.origins.as_ref().map(|origins| format!("  from {}", origins.join(" ")));
    let origins = origins.unwrap_or_default();
    print_line!("{}  {}  {state}  used {used}  [{scopes}]{origins}  {}", key.id, key.prefix, key.name);
}

/// The scope of this name.
pub(super) fn scope(word: &str) -> Result<Scopes, String> {
    let known = || crate::auth::ALL_SCOPES.map(Scope::name).join(", ");
    Scopes::parse(word)
        .ok_or_else(|| format!("takes one of {}, realtime:read:PREFIX, or streams:VERB:PREFIX", known()))
}

/// A time in seconds of Unix time, from a time or a span.
fn expiry(text: &str) -> Result<i64, String> {
    let span = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((number, "d")) => number.parse::<u32>().ok().map(|days| Duration::days(days.into())),
        Some((number, "h")) => number.parse::<u32>().ok().map(|hours| Duration::hours(hours.into())),
        _ => None,
    };
    let time = match span {
        Some(span) => OffsetDateTime::now_utc().checked_add(span),
        None => OffsetDateTime::parse(text, &Rfc3339).ok(),
    };
    time.map(OffsetDateTime::unix_timestamp)
        .ok_or_else(|| "takes a time such as 2026-12-31T00:00:00Z, 90d or 12h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_a_time_or_a_span() {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        assert!((expiry("90d").unwrap() - now - 90 * 86_400).abs() < 5);
        assert!((expiry("12h").unwrap() - now - 12 * 3600).abs() < 5);
        assert_eq!(expiry("2026-01-01T00:00:00Z"), Ok(1_767_225_600));
        for bad in ["", "d", "-1d", "1w", "90", "4294967295d", "é"] {
            assert!(expiry(bad).is_err(), "{bad}");
        }
    }
}
