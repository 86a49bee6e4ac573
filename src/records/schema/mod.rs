//! Typed collections: fields, their options, and the values that they take.
//!
//! ```text
//! Definition ─┬─ fields ──▶ Field = names and flags + Kind (options of one type)
//!             ├─ rules      null: superusers · "": everyone · else a filter
//!             └─ indexes ─▶ Index, parsed from `create index`, rebuilt for Postgres
//!
//! a client's body ─▶ Definition::apply ─ for each field ─▶ coerce, modify, validate ─▶ members ─▶ data (jsonb)
//! data ─▶ Definition::shown ─▶ the record as clients see it
//! ```
//!
//! The types, their coercion and the codes of violations are those of PocketBase 0.40.6: its own answers to every value of
//! `testdata/values.json` are a test. All of this is pure: existence of related records, uniqueness and files are checked by the store.

mod address;
mod auth;
mod date;
mod definition;
mod field;
mod generate;
mod index;
mod mail_template;
mod number;
mod pattern;
mod projection;
mod record;
mod value;
mod violation;

pub use address::{is_email, is_url};
pub use auth::{
    AuthOptions, EMAIL, EMAIL_VISIBILITY, PASSWORD, PROVIDERS, TOKEN_KEY, TokenOptions, VERIFIED, token_key,
};
pub use date::DateText;
pub use definition::{CollectionKind, Definition, DefinitionError, Rules};
pub use field::{Field, Kind};
pub use generate::generate;
pub use index::{Index, IndexColumn, IndexCondition};
pub use mail_template::MailTemplate;
pub use number::{number_text, parse_number};
pub use projection::Projection;
pub use value::text as text_of;
pub use violation::{Violation, Violations};
