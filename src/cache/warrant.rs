//! What the answer to a read stands by, and what it takes in L1: what a sampled read tells of itself (`curve`).
//!
//! Made on the thread that asks; never on the way of a read that is not sampled.

use super::entry::Entry;
use super::index::OVERHEAD;
use super::lease::Epoch;
use super::stamp::Stamp;
use crate::clock::Time;

/// Its key's stamp and its ear's epoch in one number, equal for as long as both are. Worth comparing for equality, and for
/// nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Warrant(u64);

impl Warrant {
    /// That of an answer which is asked for under this stamp and in this epoch.
    pub fn new(stamp: Stamp, epoch: Epoch) -> Self {
        Self(stamp.number().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ epoch.number().rotate_left(32))
    }

    /// The number itself.
    pub(crate) const fn number(self) -> u64 {
        self.0
    }
}

/// What an answer takes in L1, and how long it may stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measure {
    /// Bytes of memory, bookkeeping included.
    pub weight: u32,
    /// Bytes of the reply.
    pub bytes: u32,
    /// When its time is over.
    pub expires: Time,
}

impl Measure {
    /// That of an answer which may not be kept.
    pub const UNFIT: Self = Self { weight: 0, bytes: 0, expires: Time::NEVER };

    /// That of a reply to a read with so many bytes of arguments; `resp2` is empty where the reply is the same.
    pub fn of_reply(tail: usize, resp3: &[u8], resp2: &[u8], expires: Time) -> Self {
        let resp2 = if resp2 == resp3 { 0 } else { resp2.len() };
        let weight = Entry::allocated_for(tail + resp3.len() + resp2) + OVERHEAD;
        Self { weight: saturated(weight), bytes: saturated(resp3.len() as u64), expires }
    }
}

pub(super) fn saturated(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
