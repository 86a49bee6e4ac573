//! Wakes: the state of a subscription's delivery, and every decision on it, as pure functions of the state, the links and the time.
//!
//! ```text
//!          pending data                     delivered, or claimed
//!   idle ───────────────▶ due ─▶ announced ───────────────────────▶ leased
//!     ▲                    ▲ └──── failed: again later               │ │
//!     │                    └──── the lease ended, data is pending ───┘ │
//!     └─────────────────── done, released, or the lease ended ─────────┘
//! ```
//!
//! * `generation` counts wakes. A request that acts on a wake names its generation and its id, and has a token for that generation: all of them
//!   are compared under the subscription's lock, so that at most one holder of a wake can acknowledge.
//! * A lease ends by the clock of the store, whether or not a timer has noticed it.
//! * When a wake ends, pending data is looked for under the same lock: an append is never between two wakes unseen.

use super::super::{Offset, ReadFrom, StreamId, StreamPath};
use super::config::Delivery;
use super::error::SubscriptionError;
use crate::time::Micros;

/// The wait after the first failed delivery; it doubles.
const FIRST_RETRY_MS: u64 = 1_000;
/// The longest wait.
const LONGEST_RETRY_MS: u64 = 60_000;
/// The part of a wait that is random, up and down.
const JITTER: f64 = 0.2;
/// The time for which one node tries to announce a wake; then another one may.
const ANNOUNCE_MS: u64 = 5_000;
/// Bytes of a kept failure.
const MAX_FAILURE_BYTES: usize = 300;

/// The state of a subscription's delivery.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WakeState {
    /// The number of wakes so far.
    pub generation: u64,
    /// The wake under way; `None`: idle.
    pub wake: Option<Wake>,
    /// Failed deliveries in a row.
    pub failures: u32,
    /// The last failure, until a delivery succeeds.
    pub failure: Option<String>,
}

/// A wake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wake {
    /// Its id, which no other wake has.
    pub id: String,
    /// How far it is.
    pub phase: Phase,
}

/// How far a wake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It is to be delivered, or announced, at this time.
    Due(Micros),
    /// It is in the wake stream, and waits for a claim.
    Announced,
    /// A worker has it.
    Leased {
        /// The end of the lease.
        until: Micros,
        /// The worker that claimed it; `None`: the webhook.
        holder: Option<String>,
    },
}

/// A link of a subscription to a stream, with the stream's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The path.
    pub path: StreamPath,
    /// The stream that lives there now; `None`: there is none.
    pub stream: Option<StreamId>,
    /// Whether a request named it; else the pattern matches it.
    pub is_explicit: bool,
    /// The acknowledged offset of the stream that lives now.
    pub acked: Offset,
    /// The end of that stream; the beginning where there is none.
    pub tail: Offset,
}

impl Link {
    /// Whether the stream has unacknowledged data.
    pub fn is_pending(&self) -> bool {
        self.tail > self.acked
    }
}

/// The inputs of a decision, read under the subscription's lock.
#[derive(Debug)]
pub struct Moment<'a> {
    /// Links: all that are pending (or very many of them), and those that the request names.
    pub links: &'a mut Vec<Link>,
    /// The time, by the store's clock.
    pub now: Micros,
    /// The subscription's delivery.
    pub delivery: &'a Delivery,
    /// The length of its leases.
    pub lease_ms: u64,
    /// The id of the next wake, if there is one.
    pub next_id: &'a str,
    /// From 0 to 1, for the jitter of retries.
    pub random: f64,
}

impl Moment<'_> {
    fn is_pending(&self) -> bool {
        self.links.iter().any(Link::is_pending)
    }

    fn after(&self, ms: u64) -> Micros {
        Micros(self.now.0.saturating_add((ms as i64).saturating_mul(1_000)))
    }

    fn lease(&self, holder: Option<String>) -> Phase {
        Phase::Leased { until: self.after(self.lease_ms), holder }
    }
}

/// An acknowledgement of a request, as it names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The stream.
    pub path: StreamPath,
    /// The last processed position.
    pub offset: ReadFrom,
}

/// The wake that a request acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WakeRef {
    /// Its id.
    pub id: String,
    /// Its generation.
    pub generation: u64,
}

/// An attempt to deliver or to announce a wake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The wake.
    pub wake: WakeRef,
    /// The links at this time.
    pub links: Vec<Link>,
}

/// The outcome of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The receiver has it, or it is in the wake stream.
    Delivered,
    /// The receiver has processed the streams of the attempt up to their ends.
    Done,
    /// It failed.
    Failed(String),
}

impl WakeState {
    /// Whether deliveries fail.
    pub fn is_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// The time at which something has to happen; `None`: only a request or an append changes the state.
    pub fn due(&self) -> Option<Micros> {
        match &self.wake.as_ref()?.phase {
            Phase::Due(at) | Phase::Leased { until: at, .. } => Some(*at),
            Phase::Announced => None,
        }
    }

    /// Ends a lease whose time is over.
    fn expire(&mut self, now: Micros) {
        if let Some(Wake { phase: Phase::Leased { until, .. }, .. }) = &self.wake
            && *until <= now
        {
            self.wake = None;
        }
    }

    /// Begins a wake if the subscription is idle and data is pending. Returns whether it did.
    fn wake_if_pending(&mut self, moment: &Moment<'_>) -> bool {
        let begins = self.wake.is_none() && moment.is_pending();
        if begins {
            self.generation += 1;
            self.wake = Some(Wake { id: moment.next_id.to_owned(), phase: Phase::Due(moment.now) });
        }
        begins
    }

    /// Ends a lease that is over, begins a wake where data is pending, and begins the attempt that is due. The caller then makes it, and reports
    /// its outcome to [`Self::end_attempt`]. A lease starts with each attempt to deliver a webhook.
    pub fn begin_attempt(&mut self, moment: &Moment<'_>) -> Option<Attempt> {
        self.expire(moment.now);
        self.wake_if_pending(moment);
        let generation = self.generation;
        let wake =
            self.wake.as_mut().filter(|wake| matches!(wake.phase, Phase::Due(at) if at <= moment.now))?;
        if !moment.is_pending() {
            // The streams are gone.
            self.wake = None;
            return None;
        }
        wake.phase = match moment.delivery {
            Delivery::Webhook(_) => moment.lease(None),
            Delivery::PullWake => Phase::Due(moment.after(ANNOUNCE_MS)),
        };
        let wake = WakeRef { id: wake.id.clone(), generation };
        Some(Attempt { wake, links: moment.links.clone() })
    }

    /// Records the outcome of an attempt, unless its wake is over. Returns the offsets to acknowledge.
    pub fn end_attempt(
        &mut self,
        moment: &mut Moment<'_>,
        attempt: &Attempt,
        outcome: &AttemptOutcome,
    ) -> Vec<(StreamPath, Offset)> {
        // A failure counts though its lease has ended meanwhile: a receiver that takes all of it is not asked again at once.
        if !matches!(outcome, AttemptOutcome::Failed(_)) {
            self.expire(moment.now);
        }
        let Ok(wake) = current(&mut self.wake, self.generation, &attempt.wake) else {
            self.expire(moment.now);
            self.wake_if_pending(moment);
            return Vec::new();
        };
        let mut acked = Vec::new();
        match outcome {
            AttemptOutcome::Failed(reason) => {
                // A worker that claimed it meanwhile, or a receiver that called back, keeps it.
                let is_held = matches!(&wake.phase, Phase::Leased { holder: Some(_), .. });
                self.failures = self.failures.saturating_add(1);
                self.failure = Some(shortened(reason));
                if !is_held {
                    wake.phase = Phase::Due(moment.after(retry_ms(self.failures, moment.random)));
                }
            }
            AttemptOutcome::Delivered => {
                if matches!((moment.delivery, &wake.phase), (Delivery::PullWake, Phase::Due(_))) {
                    wake.phase = Phase::Announced;
                }
                self.succeeded();
            }
            AttemptOutcome::Done => {
                for sent in &attempt.links {
                    // A callback may have acknowledged more.
                    let link = moment.links.iter_mut().find(|link| link.path == sent.path);
                    if let Some(link) = link.filter(|link| link.acked < sent.tail && sent.tail <= link.tail) {
                        link.acked = sent.tail;
                        acked.push((sent.path.clone(), sent.tail));
                    }
                }
                self.succeeded();
                self.wake = None;
            }
        }
        self.expire(moment.now);
        self.wake_if_pending(moment);
        acked
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        self.failure = None;
    }

    /// Gives the wake to a worker; begins one where data is pending.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError::AlreadyClaimed`], [`SubscriptionError::NoPendingWork`].
    pub fn claim(&mut self, moment: &Moment<'_>, worker: &str) -> Result<WakeRef, SubscriptionError> {
        self.expire(moment.now);
        if let Some(Wake { phase: Phase::Leased { holder, .. }, .. }) = &self.wake {
            let holder = holder.clone().unwrap_or_default();
            return Err(SubscriptionError::AlreadyClaimed { holder, generation: self.generation });
        }
        if !moment.is_pending() {
            // An announced wake of streams that are gone: the next data is announced anew.
            self.wake = None;
            return Err(SubscriptionError::NoPendingWork);
        }
        self.wake_if_pending(moment);
        let generation = self.generation;
        let wake = self.wake.as_mut().ok_or(SubscriptionError::NoPendingWork)?;
        wake.phase = moment.lease(Some(worker.to_owned()));
        Ok(WakeRef { id: wake.id.clone(), generation })
    }

    /// Acknowledges offsets, all of them or none, and ends the wake or extends its lease. Returns whether the next wake has begun.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError::Fenced`], [`SubscriptionError::InvalidOffset`].
    pub fn acknowledge(
        &mut self,
        moment: &mut Moment<'_>,
        wake: &WakeRef,
        acks: &[Ack],
        is_done: bool,
    ) -> Result<bool, SubscriptionError> {
        self.expire(moment.now);
        let current = current(&mut self.wake, self.generation, wake)?;
        let mut links = moment.links.clone();
        for ack in acks {
            let offset = match ack.offset {
                ReadFrom::At(offset) => offset,
                ReadFrom::Start | ReadFrom::Now => {
                    return Err(SubscriptionError::InvalidOffset(
                        "an acknowledged offset takes a position, not -1 or now",
                    ));
                }
            };
            let unknown = SubscriptionError::InvalidOffset("an acknowledged stream is not linked");
            let link = links.iter_mut().find(|link| link.path == ack.path).ok_or(unknown)?;
            if offset < link.acked {
                return Err(SubscriptionError::InvalidOffset("an offset is before the acknowledged one"));
            }
            if offset > link.tail {
                return Err(SubscriptionError::InvalidOffset("an offset is beyond the end of its stream"));
            }
            link.acked = offset;
        }
        if !is_done {
            let holder = match &mut current.phase {
                Phase::Leased { holder, .. } => holder.take(),
                Phase::Due(_) | Phase::Announced => None,
            };
            current.phase = moment.lease(holder);
        }
        *moment.links = links;
        // The receiver works, whatever it answered to the delivery.
        self.succeeded();
        if is_done {
            self.wake = None;
        }
        Ok(is_done && self.wake_if_pending(moment))
    }

    /// Ends the wake without acknowledging anything. What is pending wakes again.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError::Fenced`].
    pub fn release(&mut self, moment: &Moment<'_>, wake: &WakeRef) -> Result<(), SubscriptionError> {
        self.expire(moment.now);
        current(&mut self.wake, self.generation, wake)?;
        self.wake = None;
        self.wake_if_pending(moment);
        Ok(())
    }
}

/// The wake under way, if it is the one that a request acts on.
fn current<'a>(
    wake: &'a mut Option<Wake>,
    generation: u64,
    named: &WakeRef,
) -> Result<&'a mut Wake, SubscriptionError> {
    let is_current = |wake: &&mut Wake| wake.id == named.id && generation == named.generation;
    wake.as_mut().filter(is_current).ok_or(SubscriptionError::Fenced)
}

/// The wait after a number of failures in a row, from 1 on.
fn retry_ms(failures: u32, random: f64) -> u64 {
    let doublings = failures.saturating_sub(1).min(16);
    let base = (FIRST_RETRY_MS << doublings).min(LONGEST_RETRY_MS) as f64;
    (base * (1.0 + JITTER * (2.0 * random - 1.0))) as u64
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_FAILURE_BYTES / 4).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEASE_MS: u64 = 1_000;

    fn path(name: &str) -> StreamPath {
        StreamPath::new(name).unwrap()
    }

    fn link(name: &str, acked: u64, tail: u64) -> Link {
        Link {
            path: path(name),
            stream: Some(StreamId(1)),
            is_explicit: false,
            acked: Offset(acked),
            tail: Offset(tail),
        }
    }

    fn ack(name: &str, offset: u64) -> Ack {
        Ack { path: path(name), offset: ReadFrom::At(Offset(offset)) }
    }

    fn moment<'a>(
        links: &'a mut Vec<Link>,
        now_ms: i64,
        delivery: &'a Delivery,
        next_id: &'a str,
    ) -> Moment<'a> {
        Moment { links, now: Micros(now_ms * 1_000), delivery, lease_ms: LEASE_MS, next_id, random: 0.5 }
    }

    fn webhook() -> Delivery {
        Delivery::Webhook("https://receiver.example".into())
    }

    #[test]
    fn a_webhook_that_is_done_acknowledges_what_it_was_sent_and_no_more() {
        let (delivery, mut state) = (webhook(), WakeState::default());
        let mut links = vec![link("a", 0, 10), link("b", 5, 5)];
        let attempt = state.begin_attempt(&moment(&mut links, 0, &delivery, "w1")).unwrap();
        assert_eq!(attempt.wake, WakeRef { id: "w1".into(), generation: 1 });
        assert_eq!(state.begin_attempt(&moment(&mut links, 1, &delivery, "w2")), None, "it is under way");
        // An append between the attempt and its answer.
        links[0].tail = Offset(15);
        let acked =
            state.end_attempt(&mut moment(&mut links, 2, &delivery, "w2"), &attempt, &AttemptOutcome::Done);
        assert_eq!(acked, [(path("a"), Offset(10))]);
        assert_eq!(links[0].acked, Offset(10));
        // It wakes again, at once.
        let next = state.begin_attempt(&moment(&mut links, 3, &delivery, "w3")).unwrap();
        assert_eq!(next.wake, WakeRef { id: "w2".into(), generation: 2 });
        let acked =
            state.end_attempt(&mut moment(&mut links, 4, &delivery, "w3"), &next, &AttemptOutcome::Done);
        assert_eq!(acked, [(path("a"), Offset(15))]);
        assert_eq!((state.wake.clone(), state.due()), (None, None));
    }

    #[test]
    fn a_failure_counts_though_its_lease_is_over() {
        let (delivery, mut state, mut links) = (webhook(), WakeState::default(), vec![link("a", 0, 1)]);
        let attempt = state.begin_attempt(&moment(&mut links, 0, &delivery, "w1")).unwrap();
        let failed = AttemptOutcome::Failed("no answer".into());
        let late_ms = LEASE_MS as i64 + 5;
        state.end_attempt(&mut moment(&mut links, late_ms, &delivery, "w2"), &attempt, &failed);
        assert_eq!((state.failures, state.due()), (1, Some(Micros((late_ms + 1_000) * 1_000))));
        let again = state.begin_attempt(&moment(&mut links, late_ms + 1_000, &delivery, "w2")).unwrap();
        assert_eq!(again.wake, attempt.wake, "it is the same wake");
        // Where the lease was taken over, it is that of the next wake.
        let next = state.begin_attempt(&moment(&mut links, late_ms + 3_000, &delivery, "w3")).unwrap();
        state.end_attempt(&mut moment(&mut links, late_ms + 3_001, &delivery, "w4"), &again, &failed);
        assert_eq!((next.wake.generation, state.failures), (2, 1));
    }

    #[test]
    fn a_failed_delivery_is_repeated_with_the_same_wake_and_longer_waits() {
        let (delivery, mut state, mut links) = (webhook(), WakeState::default(), vec![link("a", 0, 1)]);
        let mut now_ms = 0;
        for (failures, wait_ms) in
            [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000].iter().enumerate()
        {
            let attempt = state.begin_attempt(&moment(&mut links, now_ms, &delivery, "w")).unwrap();
            assert_eq!(attempt.wake.generation, 1);
            let failed = AttemptOutcome::Failed("no".into());
            state.end_attempt(&mut moment(&mut links, now_ms, &delivery, "w"), &attempt, &failed);
            assert_eq!((state.failures as usize, state.is_failed()), (failures + 1, true));
            assert_eq!(state.due(), Some(Micros((now_ms + wait_ms) * 1_000)));
            assert_eq!(state.begin_attempt(&moment(&mut links, now_ms + wait_ms - 1, &delivery, "w")), None);
            now_ms += wait_ms;
        }
        let attempt = state.begin_attempt(&moment(&mut links, now_ms, &delivery, "w")).unwrap();
        state.end_attempt(
            &mut moment(&mut links, now_ms, &delivery, "w"),
            &attempt,
            &AttemptOutcome::Delivered,
        );
        assert_eq!((state.failures, state.is_failed()), (0, false));
        assert_eq!(state.due(), Some(Micros((now_ms + LEASE_MS as i64) * 1_000)), "the lease");
        assert_eq!((retry_ms(1, 0.0), retry_ms(1, 1.0), retry_ms(u32::MAX, 1.0)), (800, 1_200, 72_000));
    }

    #[test]
    fn a_lease_that_ends_wakes_again_and_fences_its_holder() {
        let (delivery, mut state, mut links) =
            (Delivery::PullWake, WakeState::default(), vec![link("a", 0, 9)]);
        let claimed = state.claim(&moment(&mut links, 0, &delivery, "w1"), "one").unwrap();
        let busy = state.claim(&moment(&mut links, 999, &delivery, "w2"), "two").unwrap_err();
        assert!(
            matches!(busy, SubscriptionError::AlreadyClaimed { holder, generation: 1 } if holder == "one")
        );
        // A heartbeat extends it.
        let acks = [ack("a", 4)];
        assert!(
            !state
                .acknowledge(&mut moment(&mut links, 999, &delivery, "w2"), &claimed, &acks, false)
                .unwrap()
        );
        assert_eq!(links[0].acked, Offset(4));
        assert!(state.claim(&moment(&mut links, 1_998, &delivery, "w2"), "two").is_err());
        // It is over, though no timer has run.
        let late =
            state.clone().acknowledge(&mut moment(&mut links, 1_999, &delivery, "w2"), &claimed, &[], true);
        assert!(matches!(late, Err(SubscriptionError::Fenced)));
        let again = state.claim(&moment(&mut links, 1_999, &delivery, "w2"), "two").unwrap();
        assert_eq!(again.generation, 2);
        let stale = state.acknowledge(
            &mut moment(&mut links, 2_000, &delivery, "w3"),
            &claimed,
            &[ack("a", 9)],
            true,
        );
        assert!(matches!(stale, Err(SubscriptionError::Fenced)));
        assert_eq!(links[0].acked, Offset(4));
        assert!(matches!(
            state.release(&moment(&mut links, 2_000, &delivery, "w3"), &claimed),
            Err(SubscriptionError::Fenced)
        ));
        state.release(&moment(&mut links, 2_000, &delivery, "w3"), &again).unwrap();
        assert_eq!((state.generation, state.due()), (3, Some(Micros(2_000_000))), "pending data wakes again");
    }

    #[test]
    fn one_wrong_offset_refuses_all_acknowledgements_of_a_request() {
        let (delivery, mut state) = (Delivery::PullWake, WakeState::default());
        let mut links = vec![link("a", 0, 9), link("b", 3, 9)];
        let claimed = state.claim(&moment(&mut links, 0, &delivery, "w1"), "one").unwrap();
        let start = Ack { path: path("a"), offset: ReadFrom::Start };
        let now = Ack { path: path("a"), offset: ReadFrom::Now };
        for bad in [start, now, ack("b", 2), ack("b", 10), ack("c", 0), ack("a", 1)] {
            let acks = [ack("a", 5), bad];
            let refused =
                state.acknowledge(&mut moment(&mut links, 1, &delivery, "w2"), &claimed, &acks, true);
            assert!(matches!(refused, Err(SubscriptionError::InvalidOffset(_))), "{acks:?}");
            assert_eq!((links[0].acked, links[1].acked), (Offset(0), Offset(3)));
        }
        let acks = [ack("a", 9), ack("b", 9)];
        assert!(
            !state.acknowledge(&mut moment(&mut links, 1, &delivery, "w2"), &claimed, &acks, true).unwrap()
        );
        let none = state.claim(&moment(&mut links, 2, &delivery, "w2"), "one");
        assert!(matches!(none, Err(SubscriptionError::NoPendingWork)));
    }

    #[test]
    fn a_wake_of_streams_that_are_gone_ends_and_the_next_data_wakes_anew() {
        let (delivery, mut state, mut links) =
            (Delivery::PullWake, WakeState::default(), vec![link("a", 0, 9)]);
        let attempt = state.begin_attempt(&moment(&mut links, 0, &delivery, "w1")).unwrap();
        state.end_attempt(&mut moment(&mut links, 0, &delivery, "w2"), &attempt, &AttemptOutcome::Delivered);
        assert_eq!(state.wake.as_ref().unwrap().phase, Phase::Announced);
        links.clear();
        assert!(state.claim(&moment(&mut links, 1, &delivery, "w2"), "one").is_err());
        links.push(link("b", 0, 1));
        assert_eq!(state.begin_attempt(&moment(&mut links, 2, &delivery, "w2")).unwrap().wake.generation, 2);
    }

    /// A step of the property test.
    #[derive(Debug, Clone)]
    enum Act {
        Append(usize, u64),
        Delete(usize),
        Wait(i64),
        Attempt,
        EndAttempt(AttemptOutcome),
        Claim,
        /// Of the wake that a worker knew last, or an older one.
        Acknowledge {
            back: usize,
            stream: usize,
            share: u64,
            is_done: bool,
        },
        Release {
            back: usize,
        },
    }

    fn act() -> impl Strategy<Value = Act> {
        let outcome = prop_oneof![
            Just(AttemptOutcome::Delivered),
            Just(AttemptOutcome::Done),
            Just(AttemptOutcome::Failed("no".into())),
        ];
        prop_oneof![
            (0..3_usize, 1..5_u64).prop_map(|(stream, bytes)| Act::Append(stream, bytes)),
            (0..3_usize).prop_map(Act::Delete),
            (0..1_500_i64).prop_map(Act::Wait),
            Just(Act::Attempt),
            outcome.prop_map(Act::EndAttempt),
            Just(Act::Claim),
            (0..3_usize, 0..3_usize, 0..5_u64, any::<bool>()).prop_map(|(back, stream, share, is_done)| {
                Act::Acknowledge { back, stream, share, is_done }
            }),
            (0..3_usize).prop_map(|back| Act::Release { back }),
        ]
    }

    proptest! {
        #[test]
        fn no_sequence_loses_a_wake_or_lets_two_hold_one(
            acts in proptest::collection::vec(act(), 1..60),
            is_webhook: bool,
        ) {
            let delivery = if is_webhook { webhook() } else { Delivery::PullWake };
            let mut state = WakeState::default();
            let mut links: Vec<Link> = ["a", "b", "c"].map(|name| link(name, 0, 0)).into();
            let (mut now_ms, mut ids) = (0, 0);
            let (mut attempts, mut known): (Vec<Attempt>, Vec<WakeRef>) = (Vec::new(), Vec::new());
            for act in acts {
                let before = (state.clone(), links.clone());
                ids += 1;
                let next_id = format!("w{ids}");
                let mut request: Option<WakeRef> = None;
                let mut accepted = false;
                {
                    let mut at = moment(&mut links, now_ms, &delivery, &next_id);
                    match act.clone() {
                        Act::Append(stream, bytes) => at.links[stream].tail.0 += bytes,
                        Act::Delete(stream) => {
                            at.links[stream].tail = Offset::START;
                            at.links[stream].acked = Offset::START;
                        }
                        Act::Wait(ms) => now_ms += ms,
                        Act::Attempt => {
                            if let Some(attempt) = state.begin_attempt(&at) {
                                prop_assert!(attempt.links.iter().any(Link::is_pending));
                                if is_webhook {
                                    known.push(attempt.wake.clone());
                                }
                                attempts.push(attempt);
                            }
                        }
                        Act::EndAttempt(outcome) => {
                            let done = outcome == AttemptOutcome::Done && !is_webhook;
                            if let Some(attempt) = attempts.pop().filter(|_| !done) {
                                state.end_attempt(&mut at, &attempt, &outcome);
                            }
                        }
                        Act::Claim => {
                            if !is_webhook && let Ok(wake) = state.claim(&at, "worker") {
                                known.push(wake);
                            }
                        }
                        Act::Acknowledge { back, stream, share, is_done } => {
                            if let Some(wake) = known.iter().rev().nth(back).cloned() {
                                let link = &at.links[stream];
                                let offset = link.acked.0 + (link.tail.0 - link.acked.0.min(link.tail.0)) * share / 3;
                                let acks = [ack(link.path.as_str(), offset)];
                                accepted = state.acknowledge(&mut at, &wake, &acks, is_done).is_ok();
                                request = Some(wake);
                            }
                        }
                        Act::Release { back } => {
                            if let Some(wake) = known.iter().rev().nth(back).cloned() {
                                accepted = state.release(&at, &wake).is_ok();
                                request = Some(wake);
                            }
                        }
                    }
                }
                prop_assert!(state.generation >= before.0.generation);
                prop_assert!(state.generation - before.0.generation <= 1);
                // Only the wake under way, within its lease, is accepted.
                if let (Some(request), true) = (&request, accepted) {
                    let current = before.0.wake.as_ref().unwrap();
                    prop_assert_eq!((&current.id, before.0.generation), (&request.id, request.generation));
                    if let Phase::Leased { until, .. } = current.phase {
                        prop_assert!(until.0 > now_ms * 1_000);
                    }
                }
                if !accepted && matches!(act, Act::Acknowledge { .. } | Act::Release { .. }) {
                    prop_assert_eq!(&links, &before.1);
                }
                for link in &links {
                    prop_assert!(link.acked <= link.tail);
                }
                // The end of a wake leaves no pending data without one.
                let ended = before.0.wake.is_some() && state.wake.is_none();
                let by_request = accepted || matches!(act, Act::EndAttempt(_));
                prop_assert!(!(ended && by_request && links.iter().any(Link::is_pending)), "{act:?}");
            }
            // A subscription with pending data is delivered within a lease and the longest wait, whatever happened.
            now_ms += 80_000;
            if links.iter().any(Link::is_pending) {
                let at = moment(&mut links, now_ms, &delivery, "last");
                let attempt = state.begin_attempt(&at);
                let is_announced = matches!(state.wake, Some(Wake { phase: Phase::Announced, .. }));
                prop_assert!(attempt.is_some() || is_announced, "{state:?}");
            }
        }
    }
}
