//! Appends and closes, and the decision on one: a pure function of the stream's state.
//!
//! Checks come in the order of section 5.2 of the protocol: closed, content type, producer, `Stream-Seq`.

use std::sync::Arc;

use bytes::Bytes;

use super::StreamError;
use super::body::AppendBody;
use super::content_type::ContentType;
use super::offset::Offset;

/// The largest `Producer-Epoch` and `Producer-Seq`: 2^53 − 1, which JavaScript can count to.
pub const MAX_PRODUCER_NUMBER: u64 = (1 << 53) - 1;
/// Bytes of a `Producer-Id`.
pub const MAX_PRODUCER_ID_BYTES: usize = 256;
/// Bytes of a `Stream-Seq`.
pub const MAX_SEQ_BYTES: usize = 256;

/// A request to append to a stream, to close it, or both. One without a body closes.
#[derive(Debug, Clone)]
pub struct Append {
    /// The type of the body; not compared without one.
    pub content_type: Option<ContentType>,
    /// The bytes to append; `None`: it only closes.
    pub body: Option<AppendBody>,
    /// `Stream-Seq`: has to be larger than the stream's last one, byte by byte. Its scope is the stream.
    pub seq: Option<Bytes>,
    /// The place of the request in those of an idempotent producer.
    pub producer: Option<Producer>,
    /// Whether the stream is closed with it.
    pub close: bool,
}

/// The place of a request in those of an idempotent producer (section 5.2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    /// `Producer-Id`, not empty.
    pub id: Arc<str>,
    /// `Producer-Epoch`, at most [`MAX_PRODUCER_NUMBER`].
    pub epoch: u64,
    /// `Producer-Seq`, at most [`MAX_PRODUCER_NUMBER`].
    pub seq: u64,
}

/// A stream's state of one producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerState {
    /// Its newest epoch.
    pub epoch: u64,
    /// The last sequence number that was accepted in it.
    pub seq: u64,
}

/// The state of a stream, as far as an append depends on it.
#[derive(Debug, Clone, Copy)]
pub struct AppendState<'a> {
    /// Its type.
    pub content_type: &'a ContentType,
    /// Its end.
    pub tail: Offset,
    /// Whether it is closed.
    pub closed: bool,
    /// The producer's request that closed it, if one did.
    pub closed_by: Option<&'a Producer>,
    /// Its last `Stream-Seq`.
    pub seq: Option<&'a [u8]>,
    /// The state of the append's producer; `None`: it is unknown, or the append names none.
    pub producer: Option<ProducerState>,
}

/// A decision on an append that is not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendDecision {
    /// Store the body (if there is one), the producer's new state, `Stream-Seq`, and whether the stream is closed, all together.
    Accept {
        /// The end of the stream behind it.
        next: Offset,
        /// The new state of the append's producer.
        producer: Option<ProducerState>,
        /// Whether the stream is closed by it.
        closes: bool,
    },
    /// Nothing changes: it was accepted before, or only closes a stream that is closed.
    Duplicate {
        /// The unchanged state of the append's producer.
        producer: Option<ProducerState>,
    },
}

/// The outcome of an append that is not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The end of the stream.
    pub next: Offset,
    /// Whether the stream is closed.
    pub closed: bool,
    /// The state of the append's producer: its epoch, and the highest accepted sequence number.
    pub producer: Option<ProducerState>,
    /// Whether nothing was stored, as it was accepted before.
    pub is_duplicate: bool,
}

/// Decides on an append to a stream of this state.
///
/// # Errors
///
/// The refusal, which changes nothing.
pub fn decide(state: &AppendState<'_>, append: &Append) -> Result<AppendDecision, StreamError> {
    if state.closed {
        return decide_on_closed(state, append);
    }
    if let Some(body) = &append.body {
        let is_same = append.content_type.as_ref() == Some(state.content_type);
        if !is_same || body.is_json() != state.content_type.is_json() {
            return Err(StreamError::ContentType);
        }
    }
    let producer = match &append.producer {
        None => None,
        Some(producer) => match advance(state.producer, producer)? {
            Advance::To(next) => Some(next),
            Advance::Duplicate(known) => return Ok(AppendDecision::Duplicate { producer: Some(known) }),
        },
    };
    if let (Some(last), Some(seq)) = (state.seq, &append.seq)
        && &seq[..] <= last
    {
        return Err(StreamError::Seq);
    }
    let length = append.body.as_ref().map_or(0, |body| body.bytes().len());
    let next = state.tail.plus(length).ok_or(StreamError::TooLong)?;
    Ok(AppendDecision::Accept { next, producer, closes: append.close })
}

/// Decides on an append to a closed stream: the request that closed it, and any that only closes, are answered as before.
fn decide_on_closed(state: &AppendState<'_>, append: &Append) -> Result<AppendDecision, StreamError> {
    match &append.producer {
        Some(producer) if state.closed_by == Some(producer) => {
            let ProducerState { epoch, seq } =
                state.producer.unwrap_or(ProducerState { epoch: producer.epoch, seq: producer.seq });
            Ok(AppendDecision::Duplicate { producer: Some(ProducerState { epoch, seq }) })
        }
        None if append.body.is_none() && append.close => Ok(AppendDecision::Duplicate { producer: None }),
        _ => Err(StreamError::Closed { next: state.tail }),
    }
}

/// The effect of a producer's request on its state.
enum Advance {
    To(ProducerState),
    Duplicate(ProducerState),
}

/// Checks a producer's request against its state (section 5.2.1).
fn advance(state: Option<ProducerState>, request: &Producer) -> Result<Advance, StreamError> {
    let next = ProducerState { epoch: request.epoch, seq: request.seq };
    let gap = |expected| Err(StreamError::ProducerGap { expected, received: request.seq });
    match state {
        None if request.seq == 0 => Ok(Advance::To(next)),
        None => gap(0),
        Some(state) if request.epoch < state.epoch => Err(StreamError::StaleEpoch { current: state.epoch }),
        Some(state) if request.epoch > state.epoch => match request.seq {
            0 => Ok(Advance::To(next)),
            _ => Err(StreamError::EpochStart),
        },
        Some(state) if request.seq <= state.seq => Ok(Advance::Duplicate(state)),
        Some(state) if request.seq == state.seq + 1 => Ok(Advance::To(next)),
        Some(state) => gap(state.seq + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> ContentType {
        ContentType::parse("text/plain").unwrap()
    }

    fn producer(epoch: u64, seq: u64) -> Option<Producer> {
        Some(Producer { id: "p".into(), epoch, seq })
    }

    fn append(content_type: &str, body: &'static str) -> Append {
        Append {
            content_type: Some(ContentType::parse(content_type).unwrap()),
            body: AppendBody::of_bytes(Bytes::from_static(body.as_bytes())),
            seq: None,
            producer: None,
            close: body.is_empty(),
        }
    }

    fn state(content_type: &ContentType) -> AppendState<'_> {
        AppendState {
            content_type,
            tail: Offset(10),
            closed: false,
            closed_by: None,
            seq: None,
            producer: None,
        }
    }

    #[test]
    fn checks_come_in_the_order_closed_content_type_producer_seq() {
        let text = text();
        let open = AppendState {
            seq: Some(b"b"),
            producer: Some(ProducerState { epoch: 1, seq: 3 }),
            ..state(&text)
        };
        let closed = AppendState { closed: true, ..open };
        let wrong = Append { producer: producer(0, 9), seq: Some("a".into()), ..append("text/html", "x") };
        assert!(matches!(decide(&closed, &wrong), Err(StreamError::Closed { next: Offset(10) })));
        assert!(matches!(decide(&open, &wrong), Err(StreamError::ContentType)));
        let stale = Append { content_type: Some(text.clone()), ..wrong };
        assert!(matches!(decide(&open, &stale), Err(StreamError::StaleEpoch { current: 1 })));
        // A duplicate is one though its Stream-Seq would conflict.
        let duplicate = Append { producer: producer(1, 2), ..stale.clone() };
        let known = AppendDecision::Duplicate { producer: Some(ProducerState { epoch: 1, seq: 3 }) };
        assert_eq!(decide(&open, &duplicate).unwrap(), known);
        let next = Append { producer: producer(1, 4), ..stale };
        assert!(matches!(decide(&open, &next), Err(StreamError::Seq)));
        let accepted = AppendDecision::Accept {
            next: Offset(11),
            producer: Some(ProducerState { epoch: 1, seq: 4 }),
            closes: false,
        };
        assert_eq!(decide(&open, &Append { seq: Some("ba".into()), ..next }).unwrap(), accepted);
    }

    #[test]
    fn a_producer_counts_from_zero_in_each_epoch() {
        let text = text();
        let decided = |known: Option<(u64, u64)>, epoch, seq| {
            let known = known.map(|(epoch, seq)| ProducerState { epoch, seq });
            let state = AppendState { producer: known, ..state(&text) };
            decide(&state, &Append { producer: producer(epoch, seq), ..append("text/plain", "x") })
        };
        let accepts = |known, epoch, seq| {
            matches!(decided(known, epoch, seq), Ok(AppendDecision::Accept { producer: Some(state), .. })
                if state == ProducerState { epoch, seq })
        };
        assert!(accepts(None, 0, 0) && accepts(None, 7, 0));
        assert!(accepts(Some((0, 0)), 0, 1) && accepts(Some((0, 5)), 3, 0));
        let gap = |known, seq| match decided(known, 0, seq) {
            Err(StreamError::ProducerGap { expected, received }) => (expected, received),
            other => panic!("{other:?}"),
        };
        assert_eq!((gap(None, 1), gap(Some((0, 1)), 3)), ((0, 1), (2, 3)));
        assert!(matches!(decided(Some((0, 5)), 1, 1), Err(StreamError::EpochStart)));
        assert!(matches!(decided(Some((2, 5)), 1, 0), Err(StreamError::StaleEpoch { current: 2 })));
        let last = Some((MAX_PRODUCER_NUMBER, MAX_PRODUCER_NUMBER));
        let known = decided(last, MAX_PRODUCER_NUMBER, 0).unwrap();
        assert!(matches!(known, AppendDecision::Duplicate { producer: Some(_) }));
    }

    #[test]
    fn a_closed_stream_answers_what_closed_it_as_before() {
        let text = text();
        let by = Producer { id: "p".into(), epoch: 0, seq: 4 };
        let closed = AppendState {
            closed: true,
            closed_by: Some(&by),
            producer: Some(ProducerState { epoch: 0, seq: 4 }),
            ..state(&text)
        };
        let close = append("text/html", "");
        assert_eq!(decide(&closed, &close).unwrap(), AppendDecision::Duplicate { producer: None });
        let again = Append { producer: producer(0, 4), close: true, ..append("text/html", "another body") };
        assert!(matches!(decide(&closed, &again), Ok(AppendDecision::Duplicate { producer: Some(_) })));
        for other in [
            append("text/plain", "x"),
            Append { close: true, ..append("text/plain", "x") },
            Append { producer: producer(0, 5), ..close.clone() },
            Append { producer: producer(0, 3), ..append("text/plain", "x") },
        ] {
            assert!(matches!(decide(&closed, &other), Err(StreamError::Closed { .. })), "{other:?}");
        }
        // A close without a body advances the producer.
        let closing = Append { producer: producer(2, 0), ..close };
        let accepted = AppendDecision::Accept {
            next: Offset(10),
            producer: Some(ProducerState { epoch: 2, seq: 0 }),
            closes: true,
        };
        assert_eq!(decide(&state(&text), &closing).unwrap(), accepted);
    }

    #[test]
    fn json_and_bytes_are_not_mixed_and_a_full_stream_takes_no_more() {
        let json = ContentType::parse("application/json").unwrap();
        let raw = append("application/json", "1,");
        assert!(matches!(decide(&state(&json), &raw), Err(StreamError::ContentType)));
        let text = text();
        let full = AppendState { tail: Offset::LAST, ..state(&text) };
        assert!(matches!(decide(&full, &append("text/plain", "x")), Err(StreamError::TooLong)));
        assert!(decide(&full, &append("text/plain", "")).is_ok());
    }
}
