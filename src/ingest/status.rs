//! What health shows of whoever stores something.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// What a writer is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WriterState {
    /// Storing, or waiting for something to store.
    #[default]
    Running,
    /// Waiting to try again: a passing error.
    Retrying,
    /// Waiting for the database to be mended.
    Halted,
}

impl WriterState {
    /// The state's name in health.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Halted => "halted",
        }
    }
}

/// The last error that a writer met.
#[derive(Debug, Clone)]
pub struct LastError {
    /// What happened, with its SQLSTATE where there is one.
    pub message: String,
    /// When it was last seen.
    pub at: SystemTime,
}

/// What health shows of the writers; shared by all of one kind.
#[derive(Debug, Default)]
pub struct WriterStatus(Mutex<(WriterState, Option<LastError>)>);

impl WriterStatus {
    /// The state and the last error.
    pub fn get(&self) -> (WriterState, Option<LastError>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes an error; false if the same one was the last, and nothing was stored since.
    pub(super) fn failed(&self, state: WriterState, message: String) -> bool {
        let mut status = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_last = status.0 == state && status.1.as_ref().is_some_and(|last| last.message == message);
        *status = (state, Some(LastError { message, at: SystemTime::now() }));
        !is_last
    }

    pub(super) fn running(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = WriterState::Running;
    }
}
