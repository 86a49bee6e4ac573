//! What the service says of itself: metrics and logs. Health is put together by its route.

pub mod logging;
mod metrics;
mod throttle;

pub use metrics::{Gauges, Metrics};
pub use throttle::LogThrottle;
