//! Notifications to systemd (`Type=notify`): ready, stopping, and the watchdog. Without `NOTIFY_SOCKET` nothing is sent.
//!
//! The protocol is that of sd_notify(3) and sd_watchdog_enabled(3).

use std::time::Duration;

use sd_notify::NotifyState;

use crate::supervisor::{Backoff, Next, StepError, Supervisor};

/// Reports that events are accepted, and starts the watchdog's task if the unit has one.
pub(super) fn ready(supervisor: &Supervisor) {
    send(&[NotifyState::Ready]);
    if let Some(timeout) = sd_notify::watchdog_enabled() {
        watch(timeout, supervisor);
    }
}

/// Reports that the service stops. The watchdog does not apply from then on.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Sends a sign of life twice within the watchdog's time. It shows that the runtime of the database side runs; a Postgres that is away, a full
/// queue or a full journal is no reason for a restart, which mends none of them.
fn watch(timeout: Duration, supervisor: &Supervisor) {
    let interval = timeout / 2;
    supervisor.periodic("watchdog", interval, Backoff::fixed(interval), || async {
        let sent = sd_notify::notify(&[NotifyState::Watchdog]);
        sent.map(|()| Next::Interval).map_err(|error| StepError::new(error.to_string()))
    });
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(error = error.to_string(), "systemd cannot be notified (NOTIFY_SOCKET)");
    }
}
