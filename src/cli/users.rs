//! `tidegate users`: users, with or without a running service. No mail is sent: a forgotten password is replaced here.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::keys::scope;
use super::output::print_line;
use super::{Failure, offline};
use crate::auth::users::{Email, ListedUser, Password, UserName};
use crate::auth::{Accounts, Scopes};
use crate::config::{Config, Module, limits};
use crate::conversations::{self, Removed};
use crate::db::{self, Database, DbError};
use crate::imports;

#[derive(Debug, Args)]
pub(super) struct UsersArgs {
    #[command(subcommand)]
    command: UsersCommand,
}

#[derive(Debug, Subcommand)]
enum UsersCommand {
    /// Create a user; the password is read from standard input
    Add {
        /// The email
        email: String,
        /// A permission; repeatable. By default the user's own conversations and files
        #[arg(long, value_parser = scope)]
        permission: Vec<Scopes>,
    },
    /// List all users in order of creation: id, time, permissions, and email or issuer's subject
    List,
    /// Set a user's password, read from standard input, and end their sessions
    Password {
        /// The user's id or email
        user: String,
    },
    /// Replace a user's permissions, and end their sessions
    Permissions {
        /// The user's id or email
        user: String,
        /// A permission; repeatable. Without any the user has no permissions
        #[arg(long, value_parser = scope)]
        permission: Vec<Scopes>,
    },
    /// End all sessions of a user
    LogOut {
        /// The user's id or email
        user: String,
    },
    /// Delete a user with their sessions, keys, conversations and files; imports of these end first. Their permissions are
    /// removed first, unless an issuer grants them. An interrupted deletion continues when the command is run again
    Delete {
        /// The user's id or email
        user: String,
    },
}

pub(super) fn run(args: UsersArgs) -> Result<(), Failure> {
    let config = Config::from_env()?;
    // Read before anything is started.
    let password = match &args.command {
        UsersCommand::Add { .. } | UsersCommand::Password { .. } => Some(read_password()?),
        _ => None,
    };
    offline::with_accounts(&config, async |accounts, database| {
        let users = &accounts.users;
        match (args.command, password) {
            (UsersCommand::Add { email, permission }, Some(password)) => {
                let permissions = match permission.is_empty() {
                    true => Scopes::of_a_registered_user(),
                    false => permission.into_iter().collect(),
                };
                print_line!("{}", users.add(&Email::parse(&email)?, password, permissions).await?.id);
                Ok(())
            }
            (UsersCommand::Password { user }, Some(password)) => {
                let user = find(&user, &accounts).await?;
                is_ours(users.set_password(user, password).await?)?;
                end_sessions(&accounts, user).await
            }
            (UsersCommand::Permissions { user, permission }, _) => {
                let user = find(&user, &accounts).await?;
                is_ours(users.set_permissions(user, permission.into_iter().collect()).await?)?;
                end_sessions(&accounts, user).await
            }
            (UsersCommand::LogOut { user }, _) => {
                let user = find(&user, &accounts).await?;
                end_sessions(&accounts, user).await
            }
            (UsersCommand::Delete { user }, _) => {
                let user = find(&user, &accounts).await?;
                delete(user, &accounts, &database, &config).await
            }
            (UsersCommand::List, _) => list(&accounts).await,
            (UsersCommand::Add { .. } | UsersCommand::Password { .. }, None) => Err(no_such_user()),
        }
    })
}

async fn find(name: &str, accounts: &Accounts) -> Result<Uuid, Failure> {
    accounts.users.named(&UserName::parse(name)?).await?.ok_or_else(no_such_user)
}

/// A user of an issuer has neither password nor permissions here.
fn is_ours(is_changed: bool) -> Result<(), Failure> {
    let text = "this is a user of an issuer, which keeps their password and grants their permissions";
    if is_changed { Ok(()) } else { Err(Failure::Run(text.into())) }
}

async fn end_sessions(accounts: &Accounts, user: Uuid) -> Result<(), Failure> {
    accounts.sessions.end(Some(user), None).await?;
    Ok(())
}

/// The interval between progress reports of a long deletion.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// Deletes a user. Permissions end first, so that the user adds little behind the deletion, and imports, as lanes hold locks on
/// rows to be deleted. Conversations are deleted in batches, as they may be too many for one statement; other rows go with the
/// user's. An interrupted deletion continues where it stopped.
async fn delete(
    user: Uuid,
    accounts: &Accounts,
    database: &Database,
    config: &Config,
) -> Result<(), Failure> {
    let is_shut_out = accounts.users.set_permissions(user, Scopes::default()).await?;
    let (mut so_far, mut reported) = (Removed::default(), Instant::now());
    let report = |removed| {
        so_far = removed;
        if reported.elapsed() >= REPORT_INTERVAL {
            reported = Instant::now();
            eprintln!("deleted so far: {}", amount(removed));
        }
    };
    let deleting = async {
        accounts.sessions.end(Some(user), None).await?;
        // Their tables may exist although their modules are off.
        if has_tables(database, Module::Imports).await? {
            imports::stop_all_of(user, database, config.database.copy_timeout()).await?;
        }
        if has_tables(database, Module::Conversations).await? {
            conversations::delete_all_of(user, database, report).await?;
        }
        accounts.users.delete(user, limits::ACCESS_TOKEN_S).await?;
        Ok(())
    };
    match deleting.await {
        Ok(()) => {
            print_line!("deleted the user and all their data; {}", amount(so_far));
            Ok(())
        }
        Err(Failure::Run(why)) => {
            let may = if is_shut_out {
                "no permissions any more"
            } else {
                "the permissions that their issuer grants"
            };
            Err(Failure::Run(format!(
                "{why}\nThe user has {may}; the same command deletes the rest. Deleted so far: {}",
                amount(so_far)
            )))
        }
        Err(failure) => Err(failure),
    }
}

async fn has_tables(database: &Database, module: Module) -> Result<bool, Failure> {
    let failed = |error: DbError| Failure::Run(error.with_sources());
    for set in module.info().tables {
        if !db::has_tables(database, set).await.map_err(failed)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn amount(removed: Removed) -> String {
    format!("conversations: {}, messages: {}", removed.conversations, removed.messages)
}

async fn list(accounts: &Accounts) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let page = accounts.users.list(after).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.user.id);
        page.iter().for_each(print);
    }
}

fn print(listed: &ListedUser) {
    let ListedUser { user, subject } = listed;
    let name = match subject {
        Some((issuer, subject)) => format!("{subject} of {issuer}"),
        None => user.email.clone(),
    };
    print_line!("{}  {}  [{}]  {name}", user.id, user.created, user.permissions.names().join(" "));
}

fn no_such_user() -> Failure {
    Failure::Run("there is no user with this id or email".into())
}

/// The first line of standard input. Not an argument: arguments are in the shell's history and visible to every process.
fn read_password() -> Result<Password, Failure> {
    Password::parse(read_line("password (visible): ")?).map_err(|error| Failure::Usage(error.to_string()))
}

/// A line of standard input; a terminal is asked for it.
pub(super) fn read_line(question: &str) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::Run(format!("the password cannot be read: {error}"));
    let input = io::stdin();
    if input.is_terminal() {
        eprint!("{question}");
        io::stderr().flush().map_err(failed)?;
    }
    let mut line = String::new();
    input.lock().read_line(&mut line).map_err(failed)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
