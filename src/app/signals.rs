//! How the process is asked to stop.

use std::sync::{Arc, OnceLock};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::db::local::EmergencyStop;

/// SIGTERM and SIGINT: the first asks for a stop, the second ends the process wherever it is.
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

    /// Resolves when a stop was asked for.
    pub(super) async fn first(&self) {
        self.first.cancelled().await;
    }

    /// The private Postgres is to be ended with the process by a second signal.
    pub(super) fn on_second(&self, postgres: EmergencyStop) {
        let _set_once = self.postgres.set(postgres);
    }
}

/// As a shell reports a program that was ended by SIGINT.
const EXIT_SECOND_SIGNAL: i32 = 130;
