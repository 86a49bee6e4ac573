//! A connection as a request's handler sees it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::timer::{ConnectionTimer, Ending};

/// The connection of a request. A handler can end it, or limit the time of a streamed answer.
#[derive(Debug, Clone)]
pub(in crate::http) struct ConnectionHandle {
    pub(super) timer: Arc<ConnectionTimer>,
    pub(super) peer: IpAddr,
}

impl ConnectionHandle {
    /// The peer's address.
    pub(in crate::http) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Resets the connection; the answer is not sent.
    pub(in crate::http) fn reset(&self) {
        self.timer.end(Ending::Reset);
    }

    /// Ends the connection once the part of the answer's body that was read so far is sent. The body must yield nothing more.
    pub(in crate::http) fn cut(&self, by_reset: bool) {
        self.timer.end(if by_reset { Ending::ResetAfterFlush } else { Ending::CloseAfterFlush });
    }

    /// Sets the time at which a client that reads nothing of a streamed answer is cut off.
    pub(in crate::http) fn read_by(&self, deadline: Instant) {
        self.timer.read_by(deadline);
    }

    /// Whether the client of a streamed answer was slower than the stream since the last [`Self::forget_blocked`].
    pub(in crate::http) fn was_blocked(&self) -> bool {
        self.timer.was_blocked()
    }

    /// Records that the stream has caught up.
    pub(in crate::http) fn forget_blocked(&self) {
        self.timer.forget_blocked();
    }
}
