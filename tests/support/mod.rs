//! The harness that the tests share.

pub(crate) mod accounts;
pub(crate) mod exchange;
pub(crate) mod files;
pub(crate) mod imports;
pub(crate) mod intake;
pub(crate) mod load;
pub(crate) mod postgres;
pub(crate) mod proxy;
pub(crate) mod service;
pub(crate) mod smtp;
pub(crate) mod sse;
pub(crate) mod streams;
pub(crate) mod websocket;
