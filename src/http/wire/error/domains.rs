//! Errors of each domain, as clients see them.

use std::time::Duration;

use hyper::StatusCode;

use super::{AWAY_RETRY, ApiError, EXHAUSTED_RETRY, FORBIDDEN};
use crate::auth::AuthError;
use crate::conversations::ConversationsError;
use crate::faults::TooManyFaults;
use crate::files::FilesError;
use crate::imports::ImportsError;
use crate::ingest::{Refusal, Refused};
use crate::paging::InvalidParameter;
use crate::realtime::SubscribeError;
use crate::records::RecordsError;
use crate::routes::RouteError;
use crate::typed::TypeError;

/// After a journal's error, which lasts until an operator acts or Postgres returns.
const JOURNAL_RETRY: Duration = Duration::from_secs(5);

impl From<RecordsError> for ApiError {
    fn from(error: RecordsError) -> Self {
        let message = error.to_string();
        match error {
            RecordsError::PrivateCollection => Self::forbidden("private_collection", error.to_string()),
            RecordsError::UnknownCollection | RecordsError::NotFound => {
                Self::new(StatusCode::NOT_FOUND, "not_found", message)
            }
            RecordsError::TooManyCollections(_) => {
                Self::new(StatusCode::CONFLICT, "too_many_collections", message)
            }
            RecordsError::Taken => Self::new(StatusCode::CONFLICT, "conflict", message).field("id"),
            RecordsError::Changed => {
                Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", message)
            }
            RecordsError::Invalid { field, message } => Self::invalid(message).field(field),
            RecordsError::TooLarge(_) => Self::too_large(message),
            RecordsError::Overloaded => Self::unavailable("overloaded", message, EXHAUSTED_RETRY),
            RecordsError::Database(error) => Self::from(&*error),
        }
    }
}

impl From<RouteError> for ApiError {
    fn from(error: RouteError) -> Self {
        let message = error.to_string();
        match error {
            RouteError::Invalid { field, message } => Self::invalid(message).field(field),
            RouteError::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "not_found", message),
            RouteError::Exists(_) | RouteError::Conflict(_) => {
                Self::new(StatusCode::CONFLICT, "conflict", message)
            }
            RouteError::VersionMismatch => {
                Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", message)
            }
            RouteError::Rights { .. } => Self::new(StatusCode::CONFLICT, "missing_rights", message),
            RouteError::Locked(_) => Self::unavailable("locked", message, EXHAUSTED_RETRY),
            RouteError::Database(error) => Self::from(error),
        }
    }
}

impl From<ConversationsError> for ApiError {
    fn from(error: ConversationsError) -> Self {
        let message = error.to_string();
        match error {
            ConversationsError::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "not_found", message),
            ConversationsError::Invalid { field, message } => Self::invalid(message).field(field),
            ConversationsError::KeyReused => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_conflict", message)
                    .field("idempotency-key")
            }
            ConversationsError::OffsetMismatch { length } => {
                let refusal = Self::new(StatusCode::CONFLICT, "offset_mismatch", message).field("at");
                Self { expected: Some(length), ..refusal }
            }
            ConversationsError::Done { length } => {
                let refusal = Self::new(StatusCode::CONFLICT, "message_done", message);
                Self { expected: Some(length), ..refusal }
            }
            ConversationsError::TooLarge(_) => Self::too_large(message).field("content"),
            ConversationsError::Subscribe(error) => error.into(),
            ConversationsError::Overloaded => Self::unavailable("overloaded", message, EXHAUSTED_RETRY),
            ConversationsError::Database(error) => Self::from(&*error),
        }
    }
}

impl From<SubscribeError> for ApiError {
    fn from(error: SubscribeError) -> Self {
        let message = error.to_string();
        match error {
            SubscribeError::TooManyTopics => Self::invalid(message).field("topics"),
            SubscribeError::TooMany(_) | SubscribeError::TooManyOfUser(_) | SubscribeError::Away => {
                Self::unavailable("overloaded", message, EXHAUSTED_RETRY)
            }
        }
    }
}

impl From<FilesError> for ApiError {
    fn from(error: FilesError) -> Self {
        let message = error.to_string();
        match error {
            FilesError::NotFound => Self::new(StatusCode::NOT_FOUND, "not_found", message),
            FilesError::Invalid { field, message } => Self::invalid(message).field(field),
            FilesError::Parameter(InvalidParameter { field, .. }) => Self::invalid(message).field(field),
            FilesError::TypeMismatch { .. } => {
                Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "type_mismatch", message).field("content-type")
            }
            FilesError::TooLarge(_) | FilesError::TooManyFiles(_) => Self::too_large(message),
            FilesError::QuotaExceeded(_) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "quota_exceeded", message)
            }
            FilesError::DiskFull => Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", message),
            FilesError::Overloaded(_) => Self::unavailable("overloaded", message, EXHAUSTED_RETRY),
            FilesError::OwnerGone => Self::unauthorized(),
            FilesError::Source(_) => Self::invalid(message).field("body"),
            FilesError::OtherDatabase => {
                tracing::error!(error = message, "a file is not stored");
                Self::unavailable("folder_of_another_database", message, AWAY_RETRY)
            }
            FilesError::ContentMissing => {
                tracing::error!("a file's content is not in DATA_DIR/files");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "content_missing", message)
            }
            FilesError::Disk(_) => {
                tracing::error!(error = error.with_sources(), "a file cannot be stored or read");
                Self::internal()
            }
            FilesError::Database(error) => Self::from(&*error),
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        let message = error.to_string();
        match error {
            AuthError::Invalid => Self::unauthorized(),
            AuthError::InvalidTicket => Self::invalid_ticket(message),
            AuthError::TooManyTickets => Self::new(StatusCode::CONFLICT, "too_many_tickets", message),
            AuthError::NotReady => Self::unavailable("starting", message, EXHAUSTED_RETRY),
            AuthError::WrongPassword => {
                Self::new(StatusCode::UNAUTHORIZED, "wrong_credentials", message).challenge("Bearer")
            }
            AuthError::EmailTaken => Self::new(StatusCode::CONFLICT, "conflict", message).field("email"),
            AuthError::Field { field, message } => Self::invalid(message).field(field),
            AuthError::Overloaded => Self::unavailable("overloaded", message, EXHAUSTED_RETRY),
            AuthError::RegistrationOff => Self::forbidden("registration_off", message),
            AuthError::SignInOff => Self::forbidden("sign_in_off", message),
            AuthError::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "not_found", message),
            AuthError::BeyondRights => Self::forbidden(FORBIDDEN, message).field("scopes"),
            AuthError::NotAUser => Self::forbidden(FORBIDDEN, message),
            AuthError::TooManyKeys(_) => Self::new(StatusCode::CONFLICT, "too_many_keys", message),
            AuthError::Database(error) => Self::from(&*error),
            AuthError::Failed => {
                tracing::error!(error = message, "a request failed");
                Self::internal()
            }
        }
    }
}

impl From<ImportsError> for ApiError {
    fn from(error: ImportsError) -> Self {
        let message = error.to_string();
        match error {
            ImportsError::Invalid { field, message } => Self::invalid(message).field(field),
            ImportsError::Processed => Self::new(StatusCode::CONFLICT, "processed", message).field("file_id"),
            ImportsError::NotProcessed => Self::new(StatusCode::NOT_FOUND, "not_processed", message),
            ImportsError::NotLines(_) => {
                Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
                    .field("file_id")
            }
            ImportsError::TooMany | ImportsError::TooManySubscribers => {
                Self::unavailable("overloaded", message, EXHAUSTED_RETRY)
            }
            ImportsError::File(error) => error.into(),
            ImportsError::Database(error) => Self::from(&*error),
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let journal = |code, message| Self::unavailable(code, message, JOURNAL_RETRY);
        match refused {
            Refused::Overloaded { retry_after } => {
                Self::unavailable("overloaded", "the queue is full; try again later", retry_after)
            }
            Refused::Journal(Refusal::Full) => {
                journal("journal_full", "the journal is full (JOURNAL_MAX_BYTES); try again later")
            }
            Refused::Journal(Refusal::MinFree) => journal(
                "disk_low",
                "the journal's disk has too little free space (JOURNAL_MIN_FREE); try again later",
            ),
            Refused::Journal(Refusal::NoSpace) => {
                journal("disk_full", "the journal's disk is full; try again later")
            }
            Refused::Journal(Refusal::Shortage) => journal(
                "journal_shortage",
                "the system has no descriptors or memory for the journal; try again later",
            ),
            Refused::Journal(Refusal::Gone) => {
                journal("journal_gone", "the journal's folder was removed or replaced; try again later")
            }
            Refused::Journal(Refusal::Failed) => journal(
                "journal_failed",
                "the journal cannot be written; nothing is accepted until a restart",
            ),
            Refused::Journal(Refusal::TooLarge) => Self::too_large(
                "the batch is larger than a segment of the journal, an eighth of JOURNAL_MAX_BYTES",
            ),
            Refused::OutcomeUnknown => journal(
                "outcome_unknown",
                "the journal failed while it wrote the event: the event may or may not be stored after a restart",
            ),
        }
    }
}

impl From<TooManyFaults> for ApiError {
    fn from(error: TooManyFaults) -> Self {
        Self::new(StatusCode::CONFLICT, "too_many_faults", error.to_string())
    }
}

impl From<TypeError> for ApiError {
    fn from(error: TypeError) -> Self {
        Self::invalid(error.to_string()).field(error.field().to_owned())
    }
}
