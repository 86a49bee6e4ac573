//! Events in the protocols of other SDKs (`INTAKE`): thin translations to the events of the event routes, with their ids, keys and
//! promises.
//!
//! | module | protocol | key of an event |
//! |---|---|---|
//! | [`cloudevents`] | CloudEvents 1.0, on the event routes | `source` and `id` |
//! | `segment` | Segment's HTTP tracking API | `messageId` |
//! | `posthog` | PostHog's capture API | `uuid` |
//! | `otlp` | logs of OpenTelemetry | the hash of the body, and the record's place in it |
//!
//! `receive` has the steps that all routes share, and `envelope` the form of bodies of several. `members` reads JSON without building it:
//! what a translation does not know is copied as it came.

pub(super) mod cloudevents;
mod envelope;
mod members;
mod otlp;
mod posthog;
mod receive;
mod segment;

use super::edge::routes::Routes;
use crate::config::{Protocol, Protocols};

/// The routes of the protocols that are on.
pub(super) fn routes(protocols: Protocols) -> Routes {
    let of = |protocol, routes: fn() -> Routes| match protocols.has(protocol) {
        true => routes(),
        false => Routes::default(),
    };
    of(Protocol::Segment, segment::routes)
        .merge(of(Protocol::PostHog, posthog::routes))
        .merge(of(Protocol::Otlp, otlp::routes))
}

/// The paths of these routes that have no parameters.
pub(super) fn paths(protocols: Protocols) -> impl Iterator<Item = &'static str> {
    let segment = segment::paths().filter(move |_| protocols.has(Protocol::Segment));
    let otlp = [otlp::PATH].into_iter().filter(move |_| protocols.has(Protocol::Otlp));
    segment.chain(posthog::paths().filter(move |_| protocols.has(Protocol::PostHog))).chain(otlp)
}

/// Whether a route is for the pages of all sites: their keys are in the body, or they need none.
pub(super) fn is_for_pages(protocols: Protocols, path: &str) -> bool {
    segment::paths().any(|one| one == path) && protocols.has(Protocol::Segment)
        || posthog::is_for_pages(path) && protocols.has(Protocol::PostHog)
}
