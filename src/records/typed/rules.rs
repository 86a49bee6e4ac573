//! Rules: the access of others than superusers to the records of a collection.

use super::TypedError;
use super::catalog::{CollectionHandle, Definitions};
use crate::records::schema::Definition;
use crate::records::{Catalog, RequestValues, ResolveError, Seen, TypedExpression};

/// The access that a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RuleKind {
    List,
    View,
    Create,
    Update,
    Delete,
    /// To sign in.
    Auth,
    /// To manage accounts of others.
    Manage,
}

impl RuleKind {
    pub(super) const COUNT: usize = 7;
    pub(super) const ALL: [Self; Self::COUNT] =
        [Self::List, Self::View, Self::Create, Self::Update, Self::Delete, Self::Auth, Self::Manage];

    /// Its text in a definition. `None`: superusers only.
    pub(super) fn of(self, definition: &Definition) -> Option<&str> {
        let [list, view, create, update, delete] = definition.rules.named();
        let (_, text) = match self {
            Self::List => list,
            Self::View => view,
            Self::Create => create,
            Self::Update => update,
            Self::Delete => delete,
            Self::Auth => return definition.auth.as_ref()?.auth_rule.as_deref(),
            Self::Manage => return definition.auth.as_ref()?.manage_rule.as_deref(),
        };
        text
    }
}

/// A rule.
#[derive(Debug)]
pub(super) enum Rule {
    /// Superusers only.
    Superusers,
    /// Everyone.
    Everyone,
    /// Those for whom a filter holds.
    Filter {
        text: String,
        /// Parsed, if it is the same for every request.
        fixed: Option<TypedExpression>,
    },
}

/// A sender of a request to this store.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// Whether rules are skipped.
    pub is_superuser: bool,
    /// `@request.*`.
    pub request: RequestValues,
}

/// What a rule asks for.
#[derive(Debug, Clone)]
pub(super) enum Access {
    /// Nothing.
    Granted,
    /// That this holds.
    If(TypedExpression),
}

impl Rule {
    pub(super) fn new(kind: RuleKind, definition: &Definition, catalog: &Definitions) -> Self {
        match kind.of(definition) {
            None => Self::Superusers,
            Some("") => Self::Everyone,
            Some(text) => {
                let fixed = match RequestValues::are_read_by(text) {
                    true => None,
                    false => parse(text, &RequestValues::default(), catalog, &definition.id).ok(),
                };
                Self::Filter { text: text.to_owned(), fixed }
            }
        }
    }

    /// Whether it compares a request's body with the stored record.
    pub(super) fn reads_before(&self) -> bool {
        matches!(self, Self::Filter { text, .. } if text.contains(":changed"))
    }
}

impl Caller {
    /// One whom no rule limits: the service itself, or a superuser without values of a request.
    pub fn superuser() -> Self {
        Self { is_superuser: true, request: RequestValues::default() }
    }

    /// Whether the caller signed in as this record.
    pub(super) fn is(&self, collection: &str, id: &str) -> bool {
        self.request.auth.as_ref().is_some_and(|auth| auth.is(collection, id))
    }
}

/// Parses a rule, which sees all records.
pub(super) fn parse(
    text: &str,
    request: &RequestValues,
    catalog: &dyn Catalog,
    collection: &str,
) -> Result<TypedExpression, ResolveError> {
    TypedExpression::parse(text, request, catalog, collection, &|_| Seen::All, true)
}

impl CollectionHandle {
    /// What the rule of an access asks of a caller.
    ///
    /// # Errors
    ///
    /// [`TypedError::Forbidden`], and [`TypedError::InvalidQuery`] for a rule whose fields have gone.
    pub(super) fn access(&self, kind: RuleKind, caller: &Caller) -> Result<Access, TypedError> {
        if caller.is_superuser {
            return Ok(Access::Granted);
        }
        match self.rule(kind) {
            Rule::Superusers => Err(TypedError::Forbidden),
            Rule::Everyone => Ok(Access::Granted),
            Rule::Filter { fixed: Some(expression), .. } => Ok(Access::If(expression.clone())),
            Rule::Filter { text, fixed: None } => {
                let catalog = &self.catalog.definitions;
                let parsed = parse(text, &caller.request, catalog, &self.definition().id);
                parsed.map(Access::If).map_err(|_| TypedError::InvalidQuery)
            }
        }
    }

    /// The records of the collection with this id that a caller's own filters may read.
    pub(super) fn seen(&self, id: &str, caller: &Caller) -> Seen {
        let Some(other) = self.other(id) else { return Seen::Nothing };
        match other.access(RuleKind::List, caller) {
            Ok(Access::Granted) => Seen::All,
            Ok(Access::If(expression)) => Seen::Some(Box::new(expression)),
            Err(_) => Seen::Nothing,
        }
    }
}
