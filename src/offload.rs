//! Work on large JSON documents, off the threads that serve connections.
//!
//! Each of these threads serves many connections, and none of them advances while it works on one document. Documents
//! of more than [`INLINE_BYTES`] are therefore parsed and serialised on the blocking threads of the runtime, at most
//! [`MAX_CONCURRENT`] at once in the process. Smaller ones stay where they are: to move them would cost more than the work.

use std::sync::LazyLock;

use prometheus::IntCounter;
use tokio::sync::Semaphore;
use tokio::task::JoinError;

/// The size up to which a document is handled on the thread of its connection.
pub const INLINE_BYTES: usize = 256 * 1024;
/// Concurrent jobs. More would take the cores from the threads that serve connections; the others wait in order.
pub const MAX_CONCURRENT: usize = 4;

static PERMITS: Semaphore = Semaphore::const_new(MAX_CONCURRENT);

/// Jobs so far, of the whole process; `None`: its name is malformed.
static JOBS: LazyLock<Option<IntCounter>> = LazyLock::new(|| {
    IntCounter::new(
        "tidegate_json_offloaded_total",
        "Large JSON documents handled off the connections' threads.",
    )
    .ok()
});

/// The counter of jobs, for a registry of metrics.
pub fn counter() -> Option<IntCounter> {
    JOBS.clone()
}

/// Runs `work` on a blocking thread, and returns its result.
///
/// The permit belongs to the work, as anything that bounds its memory should: work that has begun ends even if its caller
/// is dropped.
///
/// # Errors
///
/// If `work` panics, or the runtime shuts down.
pub async fn run<T, F>(work: F) -> Result<T, JoinError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    // The semaphore is never closed.
    let permit = PERMITS.acquire().await.ok();
    if let Some(jobs) = &*JOBS {
        jobs.inc();
    }
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Ends a test that would otherwise hang.
    const HANG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn other_tasks_of_a_single_threaded_runtime_run_meanwhile() {
        let (small, is_served) = mpsc::channel();
        let large = run(move || is_served.recv_timeout(HANG).is_ok());
        let (large, ()) = tokio::join!(large, async move { small.send(()).unwrap() });
        assert!(large.unwrap(), "the small request was not served before the large body was parsed");
    }

    #[tokio::test]
    async fn work_that_has_begun_ends_though_its_caller_is_dropped() {
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let (ended, has_ended) = mpsc::channel();
        let caller = tokio::spawn(run(move || {
            begun.send(()).unwrap();
            let _go = may_go.recv_timeout(HANG);
            ended.send(()).unwrap();
        }));
        has_begun.await.unwrap();
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        go.send(()).unwrap();
        assert!(has_ended.recv_timeout(HANG).is_ok());
    }
}
