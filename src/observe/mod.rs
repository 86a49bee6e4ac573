//! Metrics and logs. Health is assembled by its route.

pub mod logging;
mod metrics;
mod throttle;

pub use metrics::{Gauges, Metrics};
pub use throttle::LogThrottle;
