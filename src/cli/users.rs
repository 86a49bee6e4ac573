//! `tidegate users`: users, beside a running service or without one. No mail is sent: whoever forgot his password is given a
//! new one here.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::keys::scope;
use super::{Failure, offline};
use crate::auth::users::{Email, ListedUser, Password, UserName};
use crate::auth::{Accounts, Scope, Scopes};
use crate::config::Config;
use crate::conversations::{self, Removed};
use crate::db::Database;
use crate::imports;

#[derive(Debug, Args)]
pub(super) struct UsersArgs {
    #[command(subcommand)]
    command: UsersCommand,
}

#[derive(Debug, Subcommand)]
enum UsersCommand {
    /// Makes a user; the password is read from standard input.
    Add {
        /// His email.
        email: String,
        /// What he may do; may be given several times. Without it, his own conversations and files.
        #[arg(long, value_parser = scope)]
        permission: Vec<Scope>,
    },
    /// Lists all users, in the order in which they came: id, time, permissions, and an email or the subject of an issuer.
    List,
    /// Gives a user another password, read from standard input, and ends his sessions.
    Password {
        /// His id or his email.
        user: String,
    },
    /// Gives a user these permissions in place of those that he has, and ends his sessions.
    Permissions {
        /// His id or his email.
        user: String,
        /// A permission; may be given several times. Without it he may do nothing.
        #[arg(long, value_parser = scope)]
        permission: Vec<Scope>,
    },
    /// Ends all sessions of a user.
    LogOut {
        /// His id or his email.
        user: String,
    },
    /// Deletes a user with his sessions, keys, conversations and files; imports of these end first. He may do nothing from the
    /// start on, unless an issuer vouches for him. Cut short, it goes on where it stopped when it is run again.
    Delete {
        /// His id or his email.
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
                println!("{}", users.add(&Email::parse(&email)?, password, permissions).await?.id);
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

/// Of a user whom an issuer vouches for, neither password nor permissions are kept here.
fn is_ours(is_changed: bool) -> Result<(), Failure> {
    let told =
        "an issuer vouches for this user: his password is kept there, and its tokens say what he may do";
    if is_changed { Ok(()) } else { Err(Failure::Run(told.into())) }
}

async fn end_sessions(accounts: &Accounts, user: Uuid) -> Result<(), Failure> {
    accounts.sessions.end(Some(user), None).await?;
    Ok(())
}

/// Between two times that a long deletion is told of.
const TELLING: Duration = Duration::from_secs(2);

/// Deletes a user. What he may do ends first, so that little comes behind what was deleted already, and his imports, as lanes
/// hold what is to be deleted. His conversations go in lots, as they may be too many for one statement; what is left goes with
/// him. Cut short, it goes on where it stopped when it is asked for again.
async fn delete(
    user: Uuid,
    accounts: &Accounts,
    database: &Database,
    config: &Config,
) -> Result<(), Failure> {
    let is_shut_out = accounts.users.set_permissions(user, Scopes::default()).await?;
    let (mut so_far, mut told) = (Removed::default(), Instant::now());
    let tell = |removed| {
        so_far = removed;
        if told.elapsed() >= TELLING {
            told = Instant::now();
            eprintln!("deleted so far: {}", amount(removed));
        }
    };
    let deleting = async {
        accounts.sessions.end(Some(user), None).await?;
        imports::stop_all_of(user, database, &config.imports).await?;
        conversations::delete_all_of(user, database, &config.conversations, tell).await?;
        accounts.users.delete(user, config.auth.access_token_s as i64).await?;
        Ok(())
    };
    match deleting.await {
        Ok(()) => {
            println!("deleted the user with all that was his; {}", amount(so_far));
            Ok(())
        }
        Err(Failure::Run(why)) => {
            let may = if is_shut_out { "nothing any more" } else { "what the tokens of his issuer say" };
            Err(Failure::Run(format!(
                "{why}\nThe user may do {may}; the same command deletes the rest. Deleted so far: {}",
                amount(so_far)
            )))
        }
        Err(failure) => Err(failure),
    }
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
    println!("{}  {}  [{}]  {name}", user.id, user.created, user.permissions.names().join(" "));
}

fn no_such_user() -> Failure {
    Failure::Run("there is no user with this id, and none who signs in with this email".into())
}

/// The first line of standard input. Not an argument: those are in the shell's history, and every process sees them.
fn read_password() -> Result<Password, Failure> {
    let failed = |error: io::Error| Failure::Run(format!("the password cannot be read: {error}"));
    let input = io::stdin();
    if input.is_terminal() {
        eprint!("password (it is shown): ");
        io::stderr().flush().map_err(failed)?;
    }
    let mut line = String::new();
    input.lock().read_line(&mut line).map_err(failed)?;
    Password::parse(line.trim_end_matches(['\r', '\n']).to_owned())
        .map_err(|error| Failure::Usage(error.to_string()))
}
