//! `/api/collections`, `/api/realtime` and `/api/settings`: typed collections and their records, in the protocol of PocketBase.
//!
//! This face owns the wire: bodies, queries, errors word for word. Fields, rules and relations are `crate::records::typed`. Its rules decide
//! about access, whatever `AUTH` says: a caller with the permission `admin` is a superuser, all others are guests.

mod accounts;
mod alerts;
mod auth;
mod batch;
mod body;
mod caller;
mod collections;
mod crons;
mod error;
mod files;
mod health;
mod logs;
mod mails;
mod multipart;
mod oauth2;
mod otp;
mod passwords;
mod rate;
mod realtime;
mod records;
mod request_log;
mod settings;
mod tokens;

pub(super) use error::{RefusalResponse, is_health, refused, speaks};
pub(super) use health::health;
pub use passwords::RecordPasswords;
pub(super) use rate::refuse;
pub(super) use request_log::RequestLog;

use axum::body::Body;
use axum::response::Response;
use axum::routing::{any, get};
use hyper::{Method, StatusCode, Uri};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa_axum::routes;

use super::Services;
use super::edge::routes::{Access, Routes};
use super::wire::json::{self, held};
use super::wire::query;
use crate::records::schema::Projection;
use crate::records::typed::ListRequest;
use error::Refusal;

/// The methods of backups, which are not there.
const BACKUP_METHODS: [Method; 3] = [Method::GET, Method::POST, Method::DELETE];

/// Every route of typed collections.
pub(super) fn routes() -> Routes {
    Routes::default()
        .route(Access::Rules, routes!(collections::list, collections::create))
        .route(Access::Rules, routes!(collections::view, collections::update, collections::delete))
        .route(Access::Rules, routes!(collections::import))
        .route(Access::Rules, routes!(collections::truncate))
        .route(Access::Rules, routes!(collections::scaffolds))
        .route(Access::Rules, routes!(collections::dry_run_view))
        .route(Access::Rules, routes!(auth::with_password))
        .route(Access::Rules, routes!(auth::refresh))
        .route(Access::Rules, routes!(auth::impersonate))
        .route(Access::Rules, routes!(auth::methods))
        .route(Access::Rules, routes!(realtime::connect, realtime::requests::subscribe))
        .route(Access::Rules, routes!(settings::view, settings::update))
        .route(Access::Rules, routes!(settings::test_email))
        .route(Access::Rules, routes!(crons::list))
        .route(Access::Rules, routes!(crons::run))
        .page(Access::Rules, &BACKUP_METHODS, "/api/backups", any(crons::backups))
        .page(Access::Rules, &BACKUP_METHODS, "/api/backups/{*rest}", any(crons::backups))
        .route(Access::Rules, routes!(accounts::request_verification))
        .route(Access::Rules, routes!(accounts::confirm_verification))
        .route(Access::Rules, routes!(accounts::request_password_reset))
        .route(Access::Rules, routes!(accounts::confirm_password_reset))
        .route(Access::Rules, routes!(accounts::request_email_change))
        .route(Access::Rules, routes!(accounts::confirm_email_change))
        .route(Access::Rules, routes!(otp::request_otp))
        .route(Access::Rules, routes!(otp::with_otp))
        .route(Access::Rules, routes!(oauth2::with_oauth2))
        // A provider is another site.
        .route(Access::Fixed, routes!(oauth2::redirect, oauth2::redirect_form))
        .page(Access::Fixed, &[Method::GET], "/api/oauth2-redirect/{outcome}", get(oauth2::page))
        .route(Access::Rules, routes!(records::list, records::create))
        .route(Access::Rules, routes!(records::view, records::update, records::delete))
        .route(Access::Rules, routes!(batch::post))
        .route(Access::Rules, routes!(files::token))
        .route(Access::Rules, routes!(files::get))
}

/// The routes of the log of requests.
pub(super) fn log_routes() -> Routes {
    Routes::default()
        .route(Access::Rules, routes!(logs::list, logs::clear))
        .route(Access::Rules, routes!(logs::stats))
        .route(Access::Rules, routes!(logs::view))
}

/// The query of a request.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(uri: &Uri) -> Self {
        Self::parse(uri.query().unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        Self(query::pairs(text).collect())
    }

    /// The first value of a name; `""` if there is none.
    fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// All names with their first values.
    fn members(&self) -> Map<String, Value> {
        let mut members = Map::new();
        for (name, value) in &self.0 {
            members.entry(name.as_str()).or_insert_with(|| value.as_str().into());
        }
        members
    }

    fn number(&self, name: &str) -> Result<i64, Refusal> {
        match self.get(name) {
            "" => Ok(0),
            text => text.parse().map_err(|_| Refusal::generic()),
        }
    }

    /// The query of a list.
    fn list(&self) -> Result<ListRequest, Refusal> {
        let skips_total = match self.get("skipTotal") {
            "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            _ => return Err(Refusal::generic()),
        };
        Ok(ListRequest {
            filter: self.get("filter").to_owned(),
            sort: self.get("sort").to_owned(),
            page: self.number("page")?,
            per_page: self.number("perPage")?,
            skips_total,
        })
    }

    /// The members that the answer shows.
    fn projection(&self) -> Result<Option<Projection>, Refusal> {
        Projection::parse(self.get("fields")).ok_or_else(Refusal::generic)
    }
}

/// A page of a list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PageResponse {
    items: Vec<Value>,
    page: i64,
    per_page: i64,
    total_items: i64,
    total_pages: i64,
}

impl PageResponse {
    fn new(
        items: Vec<Value>,
        page: i64,
        per_page: i64,
        total: Option<i64>,
        fields: Option<&Projection>,
    ) -> Self {
        let items = match fields {
            None => items,
            Some(fields) => items.iter().map(|item| fields.apply(item)).collect(),
        };
        let pages = |total: i64| total.unsigned_abs().div_ceil(per_page.unsigned_abs().max(1)) as i64;
        Self { items, page, per_page, total_items: total.unwrap_or(-1), total_pages: total.map_or(-1, pages) }
    }
}

/// A JSON answer.
fn answer(services: &Services, body: &impl Serialize) -> Result<Response, Refusal> {
    let bytes = serde_json::to_vec(body).map_err(|_| Refusal::internal())?;
    answer_json(services, bytes)
}

/// A JSON answer with the members that `fields` of the query names.
fn answer_shown(services: &Services, query: &Query, body: &Value) -> Result<Response, Refusal> {
    match query.projection()? {
        None => answer(services, body),
        Some(fields) => answer(services, &fields.apply(body)),
    }
}

/// An answer that is JSON already.
fn answer_json(services: &Services, bytes: Vec<u8>) -> Result<Response, Refusal> {
    Ok(json::json(StatusCode::OK, held(services, bytes)?))
}

fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
