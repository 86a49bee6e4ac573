//! Metrics and logs. Health is assembled by its route.

mod latency;
pub mod logging;
mod metrics;
mod throttle;

pub use latency::{Latencies, LatencySample};
pub use metrics::{Gauges, MetricDescription, Metrics};
pub use throttle::LogThrottle;
