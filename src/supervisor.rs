//! Background tasks: started, restarted, stopped and reported by name.
//!
//! | started by | an end or panic before [`Supervisor::stopping`] |
//! |---|---|
//! | [`Supervisor::spawn`], [`Supervisor::spawn_drained`], [`Supervisor::spawn_thread`] | critical: [`Supervisor::failed`] resolves, and the service stops in order |
//! | [`Supervisor::periodic`], [`Supervisor::periodic_thread`] | the next step runs after the backoff; a panic counts as a restart |
//!
//! A failure is logged when it begins and when it is over; in between `/api/health` and the metrics report it.

use std::any::Any;
use std::future::Future;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::observe::Metrics;

/// The time of a periodic task's next step after a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// After the task's interval.
    Interval,
    /// After another time.
    After(Duration),
}

/// The reason why a step failed, as one line for the log and `/api/health`: without row contents and secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepError(String);

impl StepError {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// The work of a periodic task.
pub trait Step: Send + 'static {
    /// Runs one step. Waiting for work is part of a step.
    fn step(&mut self) -> impl Future<Output = Result<Next, StepError>> + Send;

    /// Restores a consistent state after a panic in [`Self::step`]. Runs before the next step.
    fn recover(&mut self) {}
}

/// A closure without state between its steps.
impl<F, S> Step for F
where
    F: FnMut() -> S + Send + 'static,
    S: Future<Output = Result<Next, StepError>> + Send,
{
    fn step(&mut self) -> impl Future<Output = Result<Next, StepError>> + Send {
        self()
    }
}

/// The waits after failed steps: doubled from `first` up to `longest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
}

impl Backoff {
    /// The same wait after each failure.
    pub const fn fixed(wait: Duration) -> Self {
        Self { first: wait, longest: wait }
    }

    /// The wait after a number of failures in a row, from 1 on.
    fn wait(self, failures: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(self.longest)
    }
}

/// The state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Running a step, or waiting for the next one.
    Running,
    /// Its last step failed or panicked; the next one runs after the backoff.
    Failing,
    /// Ended.
    Ended,
}

impl TaskState {
    /// Its name in `/api/health`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Failing => "failing",
            Self::Ended => "ended",
        }
    }
}

/// A task as `/api/health` and the metrics report it.
#[derive(Debug, Clone)]
pub struct TaskReport {
    /// The task's name.
    pub name: String,
    /// Whether its end stops the service.
    pub critical: bool,
    /// The state.
    pub state: TaskState,
    /// The time of the last successful step. `None`: no step has succeeded yet, or the task has no steps.
    pub last_success: Option<SystemTime>,
    /// The time since then, by a monotonic clock.
    pub since_success: Option<Duration>,
    /// Whether a step is under way. Always, for a task without steps.
    pub is_stepping: bool,
    /// Finished steps since the start, failed ones too.
    pub steps: u64,
    /// The duration of the last one. `None`: none has finished, or the task has no steps.
    pub last_step: Option<Duration>,
    /// Restarts after panics.
    pub restarts: u64,
    /// The last failure and its time.
    pub last_error: Option<(String, SystemTime)>,
    /// Whether it has ended, or has not succeeded since a panic or for longer than `LONGEST_FAILURE`.
    pub is_stuck: bool,
}

/// The time after which a failing task counts as stuck: longer than an outage of Postgres that passes.
const LONGEST_FAILURE: Duration = Duration::from_secs(300);

/// Tasks that run more often are not for operators to run.
const LEAST_TIMED: Duration = Duration::from_secs(60);

/// Starts and supervises tasks; cheap to clone.
#[derive(Debug, Clone)]
pub struct Supervisor {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    metrics: Arc<Metrics>,
    tasks: Mutex<Vec<Arc<Task>>>,
    running: Mutex<JoinSet<()>>,
    /// The end of a task is expected.
    stopping: AtomicBool,
    failed: CancellationToken,
}

#[derive(Debug)]
struct Task {
    name: String,
    critical: bool,
    status: Mutex<Status>,
    /// The time between two steps; `None`: it has no steps, or waits in them.
    interval: Option<Duration>,
    /// Requested by an operator: the next step begins at once.
    run: Notify,
    /// Requested by a test of the reaction to a panic.
    panic: Notify,
    panic_asked: AtomicBool,
}

#[derive(Debug)]
struct Status {
    state: TaskState,
    last_success: Option<(SystemTime, Instant)>,
    /// The start of the step under way.
    step_began: Option<Instant>,
    steps: u64,
    last_step: Option<Duration>,
    restarts: u64,
    failures: u32,
    failing_since: Option<Instant>,
    panicked: bool,
    last_error: Option<(String, SystemTime)>,
}

impl Supervisor {
    /// A supervisor without tasks.
    pub fn new(metrics: &Arc<Metrics>) -> Self {
        Self {
            shared: Arc::new(Shared {
                metrics: Arc::clone(metrics),
                tasks: Mutex::default(),
                running: Mutex::default(),
                stopping: AtomicBool::new(false),
                failed: CancellationToken::new(),
            }),
        }
    }

    /// Starts a critical task, which runs until [`Self::shutdown`]: an early end stops the service.
    pub fn spawn(&self, name: impl Into<String>, future: impl Future<Output = ()> + Send + 'static) {
        let watched = self.watched(name, future);
        self.shared.running.lock().spawn(watched);
    }

    /// Starts a critical task whose owner waits for its end at a shutdown. It is aborted when the handle is dropped.
    pub fn spawn_drained(
        &self,
        name: impl Into<String>,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> AbortOnDropHandle<()> {
        AbortOnDropHandle::new(tokio::spawn(self.watched(name, future)))
    }

    /// A critical task's future that reports its end.
    fn watched(
        &self,
        name: impl Into<String>,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (task, supervisor) = (self.register(name, true), self.clone());
        async move {
            let ended = tokio::select! {
                biased;
                () = task.panic.notified() => catch_unwind(panic_on_demand),
                ended = AssertUnwindSafe(future).catch_unwind() => ended,
            };
            supervisor.ended(&task, ended);
        }
    }

    /// Starts a critical task on a thread of its own. `run` calls the given check regularly; a requested panic happens in it.
    ///
    /// # Errors
    ///
    /// If the system cannot create a thread.
    pub fn spawn_thread(
        &self,
        name: &str,
        run: impl FnOnce(&dyn Fn()) + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        let (task, supervisor) = (self.register(name, true), self.clone());
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let check = || {
                if task.panic_asked.load(Ordering::Relaxed) {
                    panic_on_demand::<()>();
                }
            };
            let ended = catch_unwind(AssertUnwindSafe(|| run(&check)));
            supervisor.ended(&task, ended);
        })
    }

    /// Starts a task that runs a step each `interval`, the first one at once, until [`Self::shutdown`].
    pub fn periodic(
        &self,
        name: impl Into<String>,
        interval: Duration,
        backoff: Backoff,
        mut step: impl Step,
    ) {
        let (task, supervisor) = (self.register_timed(name, interval), self.clone());
        self.shared.running.lock().spawn(async move {
            loop {
                task.step_begins();
                let stepped = tokio::select! {
                    biased;
                    () = task.panic.notified() => catch_unwind(panic_on_demand),
                    stepped = AssertUnwindSafe(step.step()).catch_unwind() => stepped,
                };
                task.step_ends();
                let wait = match stepped {
                    Ok(Ok(next)) => {
                        task.succeeded();
                        match next {
                            Next::Interval => interval,
                            Next::After(wait) => wait,
                        }
                    }
                    Ok(Err(StepError(error))) => backoff.wait(task.failed(error, false)),
                    Err(payload) => {
                        let failures = supervisor.panicked(&task, &*payload);
                        step.recover();
                        backoff.wait(failures)
                    }
                };
                if wait.is_zero() {
                    // The timer's minimum is a millisecond, which would delay steps that wait for work themselves.
                    tokio::task::yield_now().await;
                    continue;
                }
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = task.run.notified() => {}
                    // Requested while the task waits: the next step begins at once and panics.
                    () = task.panic.notified() => task.panic.notify_one(),
                }
            }
        });
    }

    /// Starts a task that runs one step after another on a thread of its own, until a step breaks. Waiting for work is part
    /// of a step.
    ///
    /// # Errors
    ///
    /// If the system has no thread to give.
    pub fn periodic_thread(
        &self,
        name: &str,
        backoff: Backoff,
        mut step: impl FnMut() -> ControlFlow<()> + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        let (task, supervisor) = (self.register(name, false), self.clone());
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            loop {
                task.step_begins();
                let stepped = catch_unwind(AssertUnwindSafe(|| {
                    if task.panic_asked.swap(false, Ordering::Relaxed) {
                        panic_on_demand::<()>();
                    }
                    step()
                }));
                task.step_ends();
                match stepped {
                    Ok(ControlFlow::Continue(())) => task.succeeded(),
                    Ok(ControlFlow::Break(())) => break,
                    Err(payload) => std::thread::sleep(backoff.wait(supervisor.panicked(&task, &*payload))),
                }
            }
            task.status.lock().state = TaskState::Ended;
        })
    }

    /// The tasks that run a step each minute or less often, with their intervals.
    pub fn timed(&self) -> Vec<(String, Duration)> {
        let tasks = self.shared.tasks.lock();
        let timed = tasks.iter().filter_map(|task| Some((task.name.clone(), task.timed()?)));
        let mut timed: Vec<_> = timed.collect();
        timed.sort();
        timed
    }

    /// Lets the next step of a task of [`Self::timed`] begin at once. Whether there is one with this name.
    pub fn run_now(&self, name: &str) -> bool {
        let tasks = self.shared.tasks.lock();
        let task = tasks.iter().find(|task| task.name == name && task.timed().is_some());
        if let Some(task) = task {
            task.run.notify_one();
        }
        task.is_some()
    }

    /// Resolves when a critical task has ended early.
    pub async fn failed(&self) {
        self.shared.failed.cancelled().await;
    }

    /// Begins the shutdown: critical tasks may end from now on.
    pub fn stopping(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
    }

    /// Ends the tasks without a draining owner, and waits for their ends. A step under way is dropped.
    pub async fn shutdown(&self) {
        self.stopping();
        let mut running = std::mem::take(&mut *self.shared.running.lock());
        running.shutdown().await;
    }

    /// All tasks, in the order of their starts.
    pub fn report(&self) -> Vec<TaskReport> {
        let tasks = self.shared.tasks.lock();
        tasks.iter().map(|task| task.report()).collect()
    }

    /// Makes a task panic, to test the reaction (`FAULTS=on`). Returns false if no task has this name.
    pub fn panic_in(&self, name: &str) -> bool {
        let tasks = self.shared.tasks.lock();
        let Some(task) = tasks.iter().find(|task| task.name == name) else { return false };
        task.panic_asked.store(true, Ordering::Relaxed);
        task.panic.notify_one();
        true
    }

    fn register(&self, name: impl Into<String>, critical: bool) -> Arc<Task> {
        self.add(name.into(), critical, None)
    }

    fn register_timed(&self, name: impl Into<String>, interval: Duration) -> Arc<Task> {
        self.add(name.into(), false, Some(interval))
    }

    fn add(&self, name: String, critical: bool, interval: Option<Duration>) -> Arc<Task> {
        let task = Arc::new(Task {
            name,
            critical,
            status: Mutex::new(Status {
                state: TaskState::Running,
                last_success: None,
                step_began: None,
                steps: 0,
                last_step: None,
                restarts: 0,
                failures: 0,
                failing_since: None,
                panicked: false,
                last_error: None,
            }),
            interval,
            run: Notify::new(),
            panic: Notify::new(),
            panic_asked: AtomicBool::new(false),
        });
        // Reported from the start, so that an alert on the counter sees its first increment.
        self.shared.metrics.task_restarts.with_label_values(&[&task.name]);
        self.shared.tasks.lock().push(Arc::clone(&task));
        task
    }

    /// A step panicked; returns the failures in a row.
    fn panicked(&self, task: &Task, payload: &(dyn Any + Send)) -> u32 {
        self.shared.metrics.task_restarts.with_label_values(&[&task.name]).inc();
        task.failed(panic_text(payload), true)
    }

    /// Records the end of a critical task.
    fn ended(&self, task: &Task, ended: Result<(), Box<dyn Any + Send>>) {
        let mut status = task.status.lock();
        status.state = TaskState::Ended;
        let error = match ended {
            Err(payload) => panic_text(&*payload),
            Ok(()) if self.shared.stopping.load(Ordering::SeqCst) => return,
            Ok(()) => "it ended early".to_owned(),
        };
        tracing::error!(task = task.name, error, "a critical task ended; the service stops");
        status.last_error = Some((error, SystemTime::now()));
        self.shared.failed.cancel();
    }
}

impl Task {
    fn step_begins(&self) {
        self.status.lock().step_began = Some(Instant::now());
    }

    fn step_ends(&self) {
        let mut status = self.status.lock();
        status.last_step = status.step_began.take().map(|began| began.elapsed());
        status.steps += 1;
    }

    /// Its interval, if that is a minute or more.
    fn timed(&self) -> Option<Duration> {
        self.interval.filter(|interval| *interval >= LEAST_TIMED)
    }

    fn succeeded(&self) {
        let mut status = self.status.lock();
        if status.failures > 0 {
            tracing::info!(task = self.name, failures = status.failures, "the task works again");
        }
        status.failures = 0;
        status.failing_since = None;
        status.panicked = false;
        status.state = TaskState::Running;
        status.last_success = Some((SystemTime::now(), Instant::now()));
    }

    /// Records a failure; returns the number of failures in a row.
    fn failed(&self, error: String, panicked: bool) -> u32 {
        let mut status = self.status.lock();
        status.failures = status.failures.saturating_add(1);
        status.state = TaskState::Failing;
        status.failing_since.get_or_insert_with(Instant::now);
        status.panicked |= panicked;
        if panicked {
            status.restarts += 1;
            tracing::error!(task = self.name, error, "a task panicked; it is restarted");
        } else if status.failures == 1 {
            tracing::warn!(task = self.name, error, "a task failed; it retries");
        }
        status.last_error = Some((error, SystemTime::now()));
        status.failures
    }

    fn report(&self) -> TaskReport {
        let status = self.status.lock();
        TaskReport {
            name: self.name.clone(),
            critical: self.critical,
            state: status.state,
            last_success: status.last_success.map(|(at, _)| at),
            since_success: status.last_success.map(|(_, at)| at.elapsed()),
            // A task without steps has one that never ends.
            is_stepping: status.step_began.is_some() || status.steps == 0,
            steps: status.steps,
            last_step: status.last_step,
            restarts: status.restarts,
            last_error: status.last_error.clone(),
            is_stuck: status.state == TaskState::Ended
                || status.panicked
                || status.failing_since.is_some_and(|since| since.elapsed() > LONGEST_FAILURE),
        }
    }
}

#[expect(clippy::panic, reason = "the reaction to a panic is what is tested")]
fn panic_on_demand<T>() -> T {
    panic!("a panic on demand")
}

/// The text of a panic's payload.
fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a message"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);
    const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(4) };

    fn supervisor() -> Supervisor {
        Supervisor::new(&Metrics::new().unwrap())
    }

    fn only(supervisor: &Supervisor) -> TaskReport {
        let mut reports = supervisor.report();
        assert_eq!(reports.len(), 1);
        reports.remove(0)
    }

    /// Each step takes the next outcome of a script; the times of the steps are kept.
    struct Scripted {
        outcomes: Vec<fn() -> Result<Next, StepError>>,
        steps: Arc<Mutex<Vec<tokio::time::Instant>>>,
        recovered: Arc<AtomicUsize>,
    }

    impl Step for Scripted {
        async fn step(&mut self) -> Result<Next, StepError> {
            self.steps.lock().push(tokio::time::Instant::now());
            let outcome = self.outcomes.remove(0);
            outcome()
        }

        fn recover(&mut self) {
            self.recovered.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn run(outcomes: Vec<fn() -> Result<Next, StepError>>) -> (Supervisor, Vec<u64>, usize) {
        let (supervisor, expected) = (supervisor(), outcomes.len());
        let (steps, recovered) = (Arc::default(), Arc::default());
        let scripted = Scripted { outcomes, steps: Arc::clone(&steps), recovered: Arc::clone(&recovered) };
        supervisor.periodic("scripted", INTERVAL, BACKOFF, scripted);
        while steps.lock().len() < expected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let steps: Vec<tokio::time::Instant> = steps.lock().clone();
        let waits = steps.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        (supervisor, waits, recovered.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_runs_each_interval_or_when_the_last_one_asks_for_it() {
        let (supervisor, waits, _) =
            run(vec![|| Ok(Next::Interval), || Ok(Next::After(Duration::from_secs(3))), || {
                Ok(Next::Interval)
            }])
            .await;
        assert_eq!(waits, [10, 3]);
        let report = only(&supervisor);
        assert_eq!((report.state, report.restarts, report.last_error), (TaskState::Running, 0, None));
        assert!(report.last_success.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_up_to_the_longest_wait_and_a_success_ends_that() {
        fn failing() -> Result<Next, StepError> {
            Err(StepError::new("no"))
        }
        let (_, waits, _) =
            run(vec![failing, failing, failing, failing, || Ok(Next::Interval), failing, || {
                Ok(Next::Interval)
            }])
            .await;
        assert_eq!(waits, [1, 2, 4, 4, 10, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_panics_is_run_again_after_it_has_recovered() {
        let (supervisor, waits, recovered) =
            run(vec![|| panic!("oh {}", "no"), || Err(StepError::new("no"))]).await;
        assert_eq!((waits, recovered), (vec![1], 1));
        let report = only(&supervisor);
        assert_eq!((report.state, report.restarts, report.is_stuck), (TaskState::Failing, 1, true));
        assert_eq!(report.last_error.unwrap().0, "no");
        let metrics = String::from_utf8(supervisor.shared.metrics.render().unwrap()).unwrap();
        assert!(metrics.contains("tidegate_task_restarts_total{task=\"scripted\"} 1"), "{metrics}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_critical_task_that_ends_early_fails_the_service_and_one_that_is_stopped_does_not() {
        for panics in [false, true] {
            let supervisor = supervisor();
            supervisor.spawn("critical", async move { assert!(!panics, "oh no") });
            supervisor.failed().await;
            let report = only(&supervisor);
            assert_eq!(report.state, TaskState::Ended);
            let error = report.last_error.unwrap().0;
            assert_eq!(error, if panics { "panicked: oh no" } else { "it ended early" });
        }
        let supervisor = supervisor();
        let go = CancellationToken::new();
        let task = supervisor.spawn_drained("critical", go.clone().cancelled_owned());
        supervisor.stopping();
        go.cancel();
        task.await.unwrap();
        assert!(!supervisor.shared.failed.is_cancelled());
    }

    #[test]
    fn a_thread_whose_step_panics_goes_on_with_the_next_one_until_a_step_breaks() {
        let (supervisor, mut steps) = (supervisor(), 0);
        let backoff = Backoff::fixed(Duration::from_millis(1));
        let thread = supervisor.periodic_thread("thread", backoff, move || {
            steps += 1;
            assert!(steps != 2, "oh no");
            if steps < 4 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        thread.unwrap().join().unwrap();
        let report = only(&supervisor);
        assert_eq!((report.state, report.restarts, report.critical), (TaskState::Ended, 1, false));
        assert_eq!(report.last_error.unwrap().0, "panicked: oh no");
        assert!(report.last_success.is_some());
        assert!(!supervisor.shared.failed.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_can_be_asked_for_in_each_kind_of_task() {
        let supervisor = supervisor();
        assert!(!supervisor.panic_in("critical"));
        supervisor.spawn("critical", std::future::pending());
        assert!(supervisor.panic_in("critical"));
        supervisor.failed().await;

        let supervisor = self::supervisor();
        let (run, ended) = (CancellationToken::new(), CancellationToken::new());
        let guard = ended.clone().drop_guard();
        let thread = supervisor.spawn_thread("thread", move |check| {
            let _ended = guard;
            while !run.is_cancelled() {
                check();
                std::thread::yield_now();
            }
        });
        assert!(supervisor.panic_in("thread"));
        ended.cancelled().await;
        thread.unwrap().join().unwrap();
        assert!(supervisor.shared.failed.is_cancelled());
    }
}
