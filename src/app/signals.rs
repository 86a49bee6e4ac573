//! Signals that stop the process.

use std::sync::{Arc, OnceLock};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::db::private::EmergencyStop;

/// SIGTERM and SIGINT: the first one stops the service in order, the second one ends the process at once.
pub(super) struct Signals {
    first: CancellationToken,
    postgres: Arc<OnceLock<EmergencyStop>>,
}

impl Signals {
    pub(super) fn listen() -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (first, postgres) = (CancellationToken::new(), Arc::new(OnceLock::<EmergencyStop>::new()));
        tokio::spawn({
            let (first, postgres) = (first.clone(), Arc::clone(&postgres));
            async move {
                loop {
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                    }
                    if first.is_cancelled() {
                        tracing::warn!("a second signal: ending at once");
                        if let Some(postgres) = postgres.get() {
                            postgres.stop_now();
                        }
                        std::process::exit(EXIT_SECOND_SIGNAL);
                    }
                    first.cancel();
                }
            }
        });
        Ok(Self { first, postgres })
    }

    /// Resolves at the first signal.
    pub(super) async fn first(&self) {
        self.first.cancelled().await;
    }

    /// Registers the private Postgres to be ended by a second signal.
    pub(super) fn on_second(&self, postgres: EmergencyStop) {
        let _set_once = self.postgres.set(postgres);
    }
}

/// The exit code that a shell reports for SIGINT.
const EXIT_SECOND_SIGNAL: i32 = 130;
