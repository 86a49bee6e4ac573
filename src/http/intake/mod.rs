//! Events in the protocols of other SDKs (`INTAKE`): thin translations to the events of the event routes, with their ids, keys and
//! promises.
//!
//! | module | protocol | key of an event |
//! |---|---|---|
//! | [`cloudevents`] | CloudEvents 1.0, on the event routes | `source` and `id` |
//!
//! `members` reads JSON without building it: what a translation does not know is copied as it came.

pub(super) mod cloudevents;
mod members;

use super::edge::routes::Routes;
use crate::config::Protocols;

/// The routes of the protocols that are on.
pub(super) fn routes(_protocols: Protocols) -> Routes {
    Routes::default()
}
