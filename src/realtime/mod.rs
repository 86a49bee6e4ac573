//! What changed, in one order, for whoever follows.
//!
//! Each change of a record leaves a row in the table `changes`, in the transaction that makes it; see [`change`] for the
//! order that followers may rely on. Nothing follows yet.

pub mod change;
pub mod store;
