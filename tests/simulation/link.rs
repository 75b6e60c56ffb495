//! A connection: two pipes in which bytes are late, cut, frozen and lost, and never change places.

use std::collections::VecDeque;

use super::dice::Dice;
use super::process::Who;
use super::{MS, US};

/// Bytes on their way in one direction.
#[derive(Default)]
pub(crate) struct Pipe {
    chunks: VecDeque<(u64, Vec<u8>)>,
    last: u64,
    pub(crate) frozen_until: u64,
    /// When it is looked what has arrived.
    look: Option<u64>,
}

impl Pipe {
    /// Sends; returns when they arrive at the earliest.
    pub(crate) fn send(&mut self, bytes: Vec<u8>, delay: u64, now: u64) -> u64 {
        self.last = self.last.max(now + delay).max(self.frozen_until);
        self.chunks.push_back((self.last, bytes));
        self.last
    }

    /// It is to be looked at by then. False where that is due already.
    pub(crate) fn look(&mut self, when: u64) -> bool {
        let sooner = self.look.is_none_or(|look| when < look);
        if sooner {
            self.look = Some(when);
        }
        sooner
    }

    /// Whether the look is due that was to be at this time.
    pub(crate) fn is_due(&mut self, when: u64) -> bool {
        let due = self.look == Some(when);
        if due {
            self.look = None;
        }
        due
    }

    /// What has arrived by `now`, and when there is more. At times a chunk comes in two parts.
    pub(crate) fn arrive(&mut self, dice: &mut Dice, now: u64) -> (Vec<u8>, Option<u64>) {
        let mut arrived = Vec::new();
        if now >= self.frozen_until {
            while let Some((ready, bytes)) = self.chunks.front_mut()
                && *ready <= now
            {
                if bytes.len() > 1 && dice.chance(100) {
                    let rest = bytes.split_off(dice.between(1, bytes.len() as u64) as usize);
                    arrived.append(bytes);
                    (*ready, *bytes) = (now + dice.between(US, MS), rest);
                    self.last = self.last.max(*ready);
                    break;
                }
                arrived.append(bytes);
                self.chunks.pop_front();
            }
        }
        (arrived, self.chunks.front().map(|(ready, _)| (*ready).max(self.frozen_until)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
    }
}

/// Whose connection it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Of that user.
    Ear(usize),
    /// Of that worker.
    Lane(usize, Who),
    /// The fleet's channel.
    Channel,
}

pub(crate) struct Link {
    pub(crate) owner: Owner,
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
    /// When it was lost.
    pub(crate) lost: Option<u64>,
    /// What a byte usually takes.
    usual: u64,
}

impl Link {
    pub(crate) fn new(owner: Owner, dice: &mut Dice) -> Self {
        let usual = dice.between(20 * US, 2 * MS);
        Self { owner, up: Pipe::default(), down: Pipe::default(), lost: None, usual }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.lost.is_none()
    }

    /// What it takes this time.
    pub(crate) fn delay(&self, dice: &mut Dice) -> u64 {
        match dice.below(40) {
            0 => dice.between(MS, 40 * MS),
            1..5 => dice.between(US, 6 * MS),
            _ => self.usual / 2 + dice.below(self.usual),
        }
    }
}
