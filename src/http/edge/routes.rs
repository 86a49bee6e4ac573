//! Routes, each declared together with the access that it requires.
//!
//! [`Routes`] takes handlers only with their [`Access`], and the pipeline finds a request's route here before it calls the
//! router: a handler without a declaration cannot be reached.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::routing::MethodRouter;
use hyper::Method;
use hyper::header::HeaderValue;
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::auth::Scope;
use crate::http::AppState;

/// The access that a route requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// None, and tokens are ignored: the callers may hold an expired one.
    Public,
    /// None, but a token has to be valid.
    Optional,
    /// A known caller.
    SignedIn,
    /// A scope for each topic of the request, which its handler checks.
    Topics,
    /// A scope for the paths that the request names, which its handler checks: it may be limited to a prefix.
    Paths(Scope),
    /// A scope. An open service requires no token for it.
    Scope(Scope),
    /// The scope `events:write`, of a key that may be in the body: the handler reads it, and takes the request from its caller's budget.
    Events,
    /// That of the rules of what the request names, which its handler reads: an invalid token counts as none.
    Rules,
    /// None, and tokens are ignored: the answer is the same for everybody, pages of all sites included.
    Fixed,
    /// The token of a wake, which its handler checks. It is no caller's: each caller's address counts.
    WakeToken,
}

/// A route.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its method; `GET` stands for `HEAD` too.
    pub method: Method,
    /// Its path, with the names of its parameters.
    pub path: String,
    /// The access that it requires.
    pub access: Access,
}

/// Handlers and their declarations.
#[derive(Default)]
pub(in crate::http) struct Routes {
    router: OpenApiRouter<Arc<AppState>>,
    table: Vec<Route>,
}

impl Routes {
    /// The operations that `api` describes, which all require `access`. The pipeline answers them without the router.
    pub(in crate::http) fn new(api: OpenApi, access: Access) -> Self {
        let mut paths = api.paths.paths.clone();
        let table = paths.iter_mut().flat_map(|(path, item)| declared(path, item, access)).collect();
        Self { router: OpenApiRouter::with_openapi(api), table }
    }

    /// Adds handlers of one path, which all require `access`.
    pub(in crate::http) fn route(
        mut self,
        access: Access,
        mut handlers: UtoipaMethodRouter<Arc<AppState>>,
    ) -> Self {
        for (path, item) in &mut handlers.1.paths {
            self.table.extend(declared(path, item, access));
        }
        Self { router: self.router.routes(handlers), ..self }
    }

    /// As [`Self::route`], at another path than the one that the handlers describe.
    pub(in crate::http) fn route_at(
        self,
        access: Access,
        mut handlers: UtoipaMethodRouter<Arc<AppState>>,
        path: &str,
    ) -> Self {
        let described = std::mem::take(&mut handlers.1.paths);
        handlers.1.paths.extend(described.into_values().map(|item| (path.to_owned(), item)));
        self.route(access, handlers)
    }

    /// Adds paths of a router that describes none of them.
    pub(in crate::http) fn undescribed(mut self, access: Access, paths: &[&str]) -> Self {
        let route = |path: &&str| Route { method: Method::GET, path: (*path).to_owned(), access };
        self.table.extend(paths.iter().map(route));
        self
    }

    /// Adds handlers of one path for the web page, which the description leaves out: these methods, which all require `access`.
    pub(in crate::http) fn page(
        mut self,
        access: Access,
        methods: &[Method],
        path: &str,
        handlers: MethodRouter<Arc<AppState>>,
    ) -> Self {
        let route = |method: &Method| Route { method: method.clone(), path: path.to_owned(), access };
        self.table.extend(methods.iter().map(route));
        Self { router: self.router.route(path, handlers), ..self }
    }

    /// Adds all routes of `other`.
    pub(in crate::http) fn merge(mut self, other: Self) -> Self {
        self.table.extend(other.table);
        Self { router: self.router.merge(other.router), ..self }
    }

    /// The router, the description of its API, and the table of routes.
    pub(in crate::http) fn into_parts(self) -> (Router<Arc<AppState>>, OpenApi, Vec<Route>) {
        let (router, api) = self.router.split_for_parts();
        (router, api, self.table)
    }
}

fn declared(path: &str, item: &mut PathItem, access: Access) -> Vec<Route> {
    operations(item).map(|(method, _)| Route { method, path: path.to_owned(), access }).collect()
}

/// The operations of a path.
pub(in crate::http) fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let all = [
        (Method::GET, &mut item.get),
        (Method::POST, &mut item.post),
        (Method::PUT, &mut item.put),
        (Method::PATCH, &mut item.patch),
        (Method::DELETE, &mut item.delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// The routes of a service, by their paths.
#[derive(Debug, Default)]
pub(in crate::http) struct RouteTable {
    matcher: matchit::Router<usize>,
    paths: Vec<PathRoutes>,
}

/// The routes of one path.
#[derive(Debug)]
pub(in crate::http) struct PathRoutes {
    path: String,
    methods: Vec<(Method, Access)>,
    /// For `Allow`.
    allowed: HeaderValue,
}

impl RouteTable {
    /// A table of `routes`.
    pub(in crate::http) fn new(routes: Vec<Route>) -> Self {
        let mut by_path: BTreeMap<String, Vec<(Method, Access)>> = BTreeMap::new();
        for Route { method, path, access } in routes {
            by_path.entry(path).or_default().push((method, access));
        }
        let mut table = Self::default();
        for (path, methods) in by_path {
            // The router has the same rules, and has taken the path before.
            if let Err(error) = table.matcher.insert(path.clone(), table.paths.len()) {
                tracing::error!(path, error = error.to_string(), "a path cannot be routed");
                continue;
            }
            let names: Vec<&str> = methods
                .iter()
                .map(|(method, _)| if *method == Method::GET { "GET,HEAD" } else { method.as_str() })
                .collect();
            let allowed = HeaderValue::try_from(names.join(",")).unwrap_or(HeaderValue::from_static(""));
            table.paths.push(PathRoutes { path, methods, allowed });
        }
        table
    }

    /// The routes of a request's path; `None`: there are none.
    pub(in crate::http) fn find(&self, path: &str) -> Option<&PathRoutes> {
        self.paths.get(*self.matcher.at(path).ok()?.value)
    }
}

impl PathRoutes {
    /// The path, with the names of its parameters.
    pub(in crate::http) fn path(&self) -> &str {
        &self.path
    }

    /// The access that a method requires; `None`: the path has no such method.
    pub(in crate::http) fn access(&self, method: &Method) -> Option<Access> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        self.methods.iter().find(|(other, _)| other == method).map(|(_, access)| *access)
    }

    /// The methods of the path, for `Allow`.
    pub(in crate::http) fn allowed(&self) -> HeaderValue {
        self.allowed.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> RouteTable {
        let route = |method, path: &str, access| Route { method, path: path.to_owned(), access };
        RouteTable::new(vec![
            route(Method::GET, "/health", Access::Optional),
            route(Method::GET, "/items/{id}", Access::SignedIn),
            route(Method::DELETE, "/items/{id}", Access::Scope(Scope::Admin)),
        ])
    }

    #[test]
    fn a_method_that_is_not_declared_is_not_allowed() {
        let table = table();
        let health = table.find("/health").unwrap();
        assert_eq!(health.access(&Method::HEAD), Some(Access::Optional));
        assert_eq!(
            (health.access(&Method::DELETE), health.allowed()),
            (None, HeaderValue::from_static("GET,HEAD"))
        );
        let item = table.find("/items/7").unwrap();
        assert_eq!(item.access(&Method::GET), Some(Access::SignedIn));
        assert_eq!(item.access(&Method::DELETE), Some(Access::Scope(Scope::Admin)));
        assert_eq!(
            (item.path(), item.allowed()),
            ("/items/{id}", HeaderValue::from_static("GET,HEAD,DELETE"))
        );
        assert!(table.find("/not/in/the/table").is_none());
    }
}
