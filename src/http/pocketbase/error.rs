//! Errors in PocketBase's form: `{"data": {}, "message": "A sentence.", "status": 400}`.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::request_log::LoggedRefusal;
use crate::config::{Module, Modules};
use crate::files::FilesError;
use crate::http::wire::error::ApiError;
use crate::records::RecordsError;
use crate::records::schema::Violations;
use crate::records::typed::TypedError;

/// PocketBase's paths beside those of collections. What is not there is an error in its form.
const PATHS: [&str; 10] = [
    "/api/collections",
    "/api/realtime",
    "/api/batch",
    "/api/settings",
    "/api/logs",
    "/api/crons",
    "/api/backups",
    "/api/admins",
    "/api/oauth2-redirect",
    "/api/files/token",
];

/// Whether the answers of a path have PocketBase's form.
pub(in crate::http) fn speaks(modules: Modules, path: &str) -> bool {
    let is_below =
        |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    // Files of records have two names more than those of users.
    let is_of_record = || path.strip_prefix("/api/files/").is_some_and(|rest| rest.matches('/').count() == 2);
    modules.has(Module::PocketBase) && (PATHS.iter().any(|root| is_below(root)) || is_of_record())
}

/// Whether a path is the health that clients of PocketBase ask for.
pub(in crate::http) fn is_health(modules: Modules, path: &str) -> bool {
    modules.has(Module::PocketBase) && path == "/api/health"
}

/// A refusal of the pipeline in PocketBase's form.
pub(in crate::http) fn refused(error: ApiError) -> Response {
    Refusal::from(error).into_response()
}

/// An error, as the SDKs read it.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    message: Cow<'static, str>,
    data: Value,
    /// `Retry-After` and the like. In a box, as most refusals have none.
    headers: Option<Box<HeaderMap>>,
}

/// An error in the form of PocketBase.
#[derive(Serialize, ToSchema)]
#[schema(as = PocketBaseError)]
pub(in crate::http) struct RefusalResponse<'a> {
    /// Errors by field, each with `code` and `message`.
    data: &'a Value,
    /// A sentence for people.
    #[schema(example = "The requested resource wasn't found.")]
    message: &'a str,
    /// The status.
    #[schema(example = 404)]
    status: u16,
}

const GENERIC: &str = "Something went wrong while processing your request.";
const NOT_FOUND: &str = "The requested resource wasn't found.";

/// The operation of a request, which its errors name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    CreateRecord,
    UpdateRecord,
    DeleteRecord,
    CreateCollection,
    UpdateCollection,
    DeleteCollection,
    ImportCollections,
    /// A form of sign-ins, or the members of another body before they are used.
    Form,
}

impl Operation {
    fn failed(self) -> &'static str {
        match self {
            Self::Read => GENERIC,
            Self::CreateRecord => "Failed to create record.",
            Self::UpdateRecord => "Failed to update record.",
            Self::DeleteRecord => {
                "Failed to delete record. Make sure that the record is not part of a required relation reference."
            }
            Self::CreateCollection => "Failed to create collection.",
            Self::UpdateCollection => "Failed to update collection.",
            Self::DeleteCollection => "Failed to delete collection.",
            Self::ImportCollections => "Failed to import collections.",
            Self::Form => "An error occurred while validating the submitted data.",
        }
    }

    /// The refusal of an operation that failed.
    pub(super) fn refuses(self, error: TypedError) -> Refusal {
        let bad = |message: Cow<'static, str>| Refusal::new(StatusCode::BAD_REQUEST, message);
        match error {
            TypedError::Refused(violations) => Refusal::of_values(self.failed(), violations),
            TypedError::Format => bad("Failed to load the submitted data due to invalid formatting.".into()),
            TypedError::NotFound => Refusal::not_found(),
            TypedError::Forbidden => {
                Refusal::new(StatusCode::FORBIDDEN, "Only superusers can perform this action.")
            }
            TypedError::RuleFails => bad(self.failed().into()),
            TypedError::InvalidQuery => bad(GENERIC.into()),
            TypedError::SuperusersName(name) => {
                // The name ends in a full stop.
                Refusal::new(StatusCode::FORBIDDEN, format!("Only superusers can filter by {name}"))
            }
            TypedError::Needed(names) if self == Self::DeleteCollection => {
                bad(format!("Failed to delete collection probably due to existing reference in {names}.")
                    .into())
            }
            TypedError::Needed(_) => bad(self.failed().into()),
            TypedError::LastSuperuser => bad("You can't delete the only existing superuser.".into()),
            TypedError::System => bad(self.failed().into()),
            TypedError::IsView => bad("Unsupported collection type.".into()),
            TypedError::Failed => Refusal::internal(),
            TypedError::Blocked(message) => bad(sentence(&message).into()),
            TypedError::Records(RecordsError::UnknownCollection) => Refusal::not_found(),
            TypedError::Records(error) => ApiError::from(error).into(),
            // As of a file that is not there: it may be in the folder of another node.
            TypedError::Files(error @ (FilesError::NotFound | FilesError::ContentMissing)) => {
                let _logged = ApiError::from(error);
                Refusal::not_found()
            }
            TypedError::Files(error) => ApiError::from(error).into(),
        }
    }
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), data: json!({}), headers: None }
    }

    /// 400, with the violations of members.
    pub(super) fn of_values(message: &'static str, violations: Violations) -> Self {
        let data = serde_json::to_value(violations).unwrap_or_default();
        Self { data, ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// 400, without saying why: PocketBase does not either.
    pub(super) fn generic() -> Self {
        Self::new(StatusCode::BAD_REQUEST, GENERIC)
    }

    /// 400 with a reason for each member.
    pub(super) fn with(message: &'static str, data: Value) -> Self {
        Self { data, ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// Adds a header.
    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.get_or_insert_default().insert(name, value);
        self
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// Its body.
    pub(super) fn shown(&self) -> Value {
        json!({"data": self.data, "message": self.message, "status": self.status.as_u16()})
    }

    /// 400: members of a form cannot be read.
    pub(super) fn not_loaded(violations: Violations) -> Self {
        Self::of_values("An error occurred while loading the submitted data.", violations)
    }

    /// The refusal of a form, whose body cannot be read.
    pub(super) fn of_form(self) -> Self {
        match self.message == GENERIC {
            true => Self::not_loaded(Violations::default()),
            false => self,
        }
    }

    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, NOT_FOUND)
    }

    pub(super) fn internal() -> Self {
        ApiError::internal().into()
    }

    /// 401: a superuser's token is needed, and there is none.
    pub(super) fn token_needed() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "The request requires valid record authorization token.")
    }

    /// 403: superusers may not call from that address.
    pub(super) fn not_from_there() -> Self {
        Self::new(StatusCode::FORBIDDEN, "You are not allowed to perform this request.")
    }

    /// 403: the token is not a superuser's.
    pub(super) fn not_a_superuser() -> Self {
        Self::new(StatusCode::FORBIDDEN, "The authorized record is not allowed to perform this action.")
    }
}

/// A text with a capital and a full stop.
pub(super) fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    let mut sentence: String = first.into_iter().chain(characters).collect();
    if !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        let status = error.status();
        let message: Cow<'static, str> = match (status, error.code()) {
            (StatusCode::NOT_FOUND, _) if error.message() == ApiError::unknown_path().message() => {
                "File not found.".into()
            }
            // A method that the path does not take.
            (StatusCode::METHOD_NOT_ALLOWED, _) => return Self::not_found(),
            (StatusCode::TOO_MANY_REQUESTS, _) => "Too Many Requests.".into(),
            (StatusCode::PAYLOAD_TOO_LARGE, _) => "Request entity too large.".into(),
            _ => sentence(error.message()).into(),
        };
        let mut headers = std::mem::take(error.into_response().headers_mut());
        headers.remove(CONTENT_TYPE);
        // Tokens come without a scheme.
        headers.remove(WWW_AUTHENTICATE);
        Self { headers: Some(Box::new(headers)), ..Self::new(status, message) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { status, message, data, headers } = self;
        let body = RefusalResponse { data: &data, message: &message, status: status.as_u16() };
        let mut response = Response::new(Body::from(serde_json::to_vec(&body).unwrap_or_default()));
        *response.status_mut() = status;
        if let Some(headers) = headers {
            *response.headers_mut() = *headers;
        }
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.extensions_mut().insert(LoggedRefusal { message: message.into_owned(), data });
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_below_the_paths_of_pocketbase_have_its_form_where_it_is_on() {
        let all = Modules::all();
        for path in [
            "/api/collections",
            "/api/collections/posts/records",
            "/api/settings",
            "/api/batch",
            "/api/files/token",
            "/api/files/posts/abcdefghijklmno/a_b.txt",
        ] {
            assert!(speaks(all, path) && !speaks([Module::Events].into_iter().collect(), path), "{path}");
        }
        for path in ["/api/collectionsx", "/api/stress/records/items", "/api/files/upload", "/api", "/"] {
            assert!(!speaks(all, path), "{path}");
        }
        assert_eq!(sentence("a page"), "A page.");
        assert_eq!(Refusal::from(ApiError::unknown_path()).message, "File not found.");
        assert_eq!(Refusal::from(ApiError::method_not_allowed()).status, StatusCode::NOT_FOUND);
    }
}
