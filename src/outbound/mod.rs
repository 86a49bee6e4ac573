//! Connections to other services.

mod address;
mod client;
pub mod jwks;
pub mod webhooks;

pub use address::AddressPolicy;
