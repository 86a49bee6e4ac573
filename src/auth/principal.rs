//! Who sends a request, and what he may do.

use std::sync::Arc;

use uuid::Uuid;

use super::scope::{Scope, Scopes};

/// Who sends a request, and what he may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Who it is.
    pub who: Who,
    /// What he may do; `None` where nothing says it: what anybody may.
    pub permissions: Option<Scopes>,
}

/// Who sends a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Nobody said.
    Anonymous,
    /// Whoever has the operator's token.
    Operator,
    /// A user of our own, in a session.
    User {
        /// The user.
        id: Uuid,
        /// The session.
        session: Uuid,
    },
    /// A subject that an issuer of tokens vouches for.
    External {
        /// The issuer (`iss`).
        issuer: String,
        /// The subject (`sub`).
        subject: String,
    },
    /// Whoever has this API key.
    Key {
        /// The key.
        id: Uuid,
        /// The user who made it, if one did.
        owner: Option<Uuid>,
    },
    /// A web page with a published key, which sends events and does nothing else.
    WriteOnlyKey {
        /// The key.
        id: Uuid,
        /// The origins of the pages that may use it.
        origins: Arc<[String]>,
    },
}

/// Whether somebody may do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// He may.
    Allowed,
    /// Nobody said who he is, and somebody has to.
    Unknown,
    /// It is known who he is, and he may not.
    Forbidden,
}

impl Principal {
    /// Nobody.
    pub const ANONYMOUS: Self = Self { who: Who::Anonymous, permissions: None };

    /// Whether it was said who sends the request.
    pub fn is_known(&self) -> bool {
        self.who != Who::Anonymous
    }

    /// What he may do. Where the service is `open`, nobody has to say who he is; but whoever shows a token that says what it
    /// may do is held to it.
    pub fn scopes(&self, open: bool) -> Scopes {
        match self.permissions {
            Some(permissions) => permissions,
            None if open => Scopes::ADMIN,
            None => Scopes::default(),
        }
    }

    /// Whether he may do something.
    pub fn may(&self, scope: Scope, open: bool) -> Decision {
        match self.scopes(open).allow(scope) {
            true => Decision::Allowed,
            false if self.is_known() => Decision::Forbidden,
            false => Decision::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_lets_everybody_in_but_holds_a_token_to_what_it_says() {
        let key = |permissions| Principal { who: Who::Key { id: Uuid::nil(), owner: None }, permissions };
        let reads = Some(Scopes::default().with(Scope::RecordsRead));
        for (principal, open, required) in [
            (Principal::ANONYMOUS, Decision::Allowed, Decision::Unknown),
            (key(None), Decision::Allowed, Decision::Forbidden),
            (key(reads), Decision::Forbidden, Decision::Forbidden),
            (key(Some(Scopes::default())), Decision::Forbidden, Decision::Forbidden),
            (key(Some(Scopes::ADMIN)), Decision::Allowed, Decision::Allowed),
        ] {
            assert_eq!(principal.may(Scope::RecordsWrite, true), open, "{principal:?}");
            assert_eq!(principal.may(Scope::RecordsWrite, false), required, "{principal:?}");
        }
        assert_eq!(key(reads).may(Scope::RecordsRead, false), Decision::Allowed);
    }
}
