//! The state of the writers and the checkpointer, as shown by health.

use std::time::SystemTime;

use parking_lot::Mutex;

/// The state of a writer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WriterState {
    /// Storing, or waiting for something to store.
    #[default]
    Running,
    /// Waiting to retry after a passing error.
    Retrying,
    /// Waiting until an operator has repaired the database.
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

/// The last error of a writer.
#[derive(Debug, Clone)]
pub struct LastError {
    /// The message, with its SQLSTATE if there is one.
    pub message: String,
    /// When it last occurred.
    pub at: SystemTime,
}

/// The state and last error, shared by all writers of one kind.
#[derive(Debug, Default)]
pub struct WriterStatus(Mutex<(WriterState, Option<LastError>)>);

impl WriterStatus {
    /// The state and the last error.
    pub fn get(&self) -> (WriterState, Option<LastError>) {
        self.0.lock().clone()
    }

    /// Records an error; false if it repeats the last one and nothing was stored in between.
    pub(super) fn failed(&self, state: WriterState, message: String) -> bool {
        let mut status = self.0.lock();
        let is_last = status.0 == state && status.1.as_ref().is_some_and(|last| last.message == message);
        *status = (state, Some(LastError { message, at: SystemTime::now() }));
        !is_last
    }

    pub(super) fn running(&self) {
        self.0.lock().0 = WriterState::Running;
    }
}
