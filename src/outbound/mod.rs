//! Connections to other services.

pub mod jwks;
