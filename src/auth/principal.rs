//! Principals: the authenticated sender of a request, and its permissions.

use std::sync::Arc;

use uuid::Uuid;

use super::scope::{Scope, Scopes};

/// The authenticated sender of a request, and its permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The identity.
    pub identity: Identity,
    /// The permissions; `None`: those of an anonymous client.
    pub permissions: Option<Scopes>,
}

/// The sender of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// No token.
    Anonymous,
    /// The operator's token.
    Operator,
    /// A user of the service, in a session.
    User {
        /// The user.
        id: Uuid,
        /// The session.
        session: Uuid,
    },
    /// A subject of a token issuer.
    External {
        /// The issuer (`iss`).
        issuer: String,
        /// The subject (`sub`).
        subject: String,
    },
    /// An API key.
    Key {
        /// The key.
        id: Uuid,
        /// The user who created it.
        owner: Option<Uuid>,
    },
    /// A web page with a published key, which sends events and nothing else.
    WriteOnlyKey {
        /// The key.
        id: Uuid,
        /// The origins of the pages.
        origins: Arc<[String]>,
    },
}

/// The result of an authorization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Permitted.
    Allowed,
    /// Not authenticated.
    Unknown,
    /// Authenticated, without the permission.
    Forbidden,
}

impl Principal {
    /// A client without a token.
    pub const ANONYMOUS: Self = Self { identity: Identity::Anonymous, permissions: None };

    /// Whether the request is authenticated.
    pub fn is_known(&self) -> bool {
        self.identity != Identity::Anonymous
    }

    /// Whether both are of the same caller: their permissions, and a user's session, may differ.
    pub fn is_same_caller(&self, other: &Self) -> bool {
        match (&self.identity, &other.identity) {
            (Identity::User { id, .. }, Identity::User { id: other, .. }) => id == other,
            (identity, other) => identity == other,
        }
    }

    /// The permissions. An `open` service needs no token, but a token with permissions is limited to them.
    pub fn scopes(&self, open: bool) -> Scopes {
        match &self.permissions {
            Some(permissions) => permissions.clone(),
            None if open => Scopes::ADMIN,
            None => Scopes::default(),
        }
    }

    /// What filters know of it as `@request.auth`: names and their values.
    pub fn attributes(&self) -> Vec<(&'static str, String)> {
        let of = |kind: &str, id: String| vec![("type", kind.to_owned()), ("id", id)];
        match &self.identity {
            Identity::Anonymous => Vec::new(),
            Identity::Operator => vec![("type", "operator".to_owned())],
            Identity::User { id, .. } => of("user", id.to_string()),
            Identity::External { issuer, subject } => {
                let mut attributes = of("external", subject.clone());
                attributes.push(("issuer", issuer.clone()));
                attributes
            }
            Identity::Key { id, .. } | Identity::WriteOnlyKey { id, .. } => of("key", id.to_string()),
        }
    }

    /// Authorizes a scope.
    pub fn may(&self, scope: Scope, open: bool) -> Decision {
        self.decide(self.scopes(open).allow(scope))
    }

    /// Authorizes a scope for this name: that of a published topic, a table, or a stream's path.
    pub fn may_with(&self, scope: Scope, name: &str, open: bool) -> Decision {
        self.decide(self.scopes(open).allow_name(scope, name))
    }

    /// Authorizes a scope for some name, which is not known yet.
    pub fn may_with_some(&self, scope: Scope, open: bool) -> Decision {
        self.decide(self.scopes(open).allow_some_name(scope))
    }

    fn decide(&self, is_permitted: bool) -> Decision {
        match is_permitted {
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
        let key = |permissions: Option<Scopes>| Principal {
            identity: Identity::Key { id: Uuid::nil(), owner: None },
            permissions,
        };
        let reads = Some(Scopes::default().with(Scope::RecordsRead));
        for (principal, open, required) in [
            (Principal::ANONYMOUS, Decision::Allowed, Decision::Unknown),
            (key(None), Decision::Allowed, Decision::Forbidden),
            (key(reads.clone()), Decision::Forbidden, Decision::Forbidden),
            (key(Some(Scopes::default())), Decision::Forbidden, Decision::Forbidden),
            (key(Some(Scopes::ADMIN)), Decision::Allowed, Decision::Allowed),
        ] {
            assert_eq!(principal.may(Scope::RecordsWrite, true), open, "{principal:?}");
            assert_eq!(principal.may(Scope::RecordsWrite, false), required, "{principal:?}");
        }
        assert_eq!(key(reads).may(Scope::RecordsRead, false), Decision::Allowed);
    }
}
