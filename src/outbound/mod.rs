//! Connections to other services.

mod address;
mod client;
pub mod event_sender;
pub mod jwks;
pub mod mail;
pub mod oidc;
pub mod webhooks;

pub use address::AddressPolicy;
