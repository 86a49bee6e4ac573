//! What the service says of itself: metrics and logs. Health is put together by its route.

pub mod logging;
mod metrics;

pub use metrics::{Gauges, Metrics};
