//! What the queue holds: events that are kept together, or not at all.

use std::sync::Arc;

use super::level::Load;
use super::ticket::Ticket;

/// Encoded tuples, one behind the other (see [`super::row`]): one event, or a part of a batch.
#[derive(Debug)]
pub struct Stretch {
    /// The tuples.
    pub rows: Box<[u8]>,
    /// How many they are.
    pub events: u32,
}

impl Stretch {
    /// Its events and bytes.
    pub fn load(&self) -> Load {
        Load { events: u64::from(self.events), bytes: self.rows.len() as u64 }
    }
}

/// Events that are kept together, or not at all.
#[derive(Debug)]
pub struct Parcel {
    stretches: Stretches,
    /// What whoever sent them waits on.
    pub ticket: Option<Arc<Ticket>>,
}

/// A single event, which is by far the most frequent parcel, needs no list.
#[derive(Debug)]
enum Stretches {
    One(Stretch),
    Many(Box<[Stretch]>),
}

impl Parcel {
    /// One stretch.
    pub fn one(stretch: Stretch, ticket: Option<Arc<Ticket>>) -> Self {
        Self { stretches: Stretches::One(stretch), ticket }
    }

    /// A whole batch.
    pub fn many(stretches: Vec<Stretch>, ticket: Option<Arc<Ticket>>) -> Self {
        Self { stretches: Stretches::Many(stretches.into()), ticket }
    }

    /// Its events and bytes.
    pub fn load(&self) -> Load {
        total(self.stretches())
    }

    /// Its stretches, in order.
    pub fn stretches(&self) -> &[Stretch] {
        match &self.stretches {
            Stretches::One(stretch) => std::slice::from_ref(stretch),
            Stretches::Many(stretches) => stretches,
        }
    }

    /// Its stretches, for their ids to be filled in.
    pub fn stretches_mut(&mut self) -> &mut [Stretch] {
        match &mut self.stretches {
            Stretches::One(stretch) => std::slice::from_mut(stretch),
            Stretches::Many(stretches) => stretches,
        }
    }
}

/// Events and bytes of all `stretches`.
pub fn total(stretches: &[Stretch]) -> Load {
    stretches.iter().fold(Load::default(), |sum, stretch| sum + stretch.load())
}
