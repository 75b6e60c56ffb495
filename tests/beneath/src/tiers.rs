//! One key, its upstream, a tier, and all who act on them.
//!
//! A value is the number of the write that made it. The upstream has the value, the version and the epoch, each of which it may lose at
//! any time: that is expiry, and eviction. The tier has one copy, and may come back with an older one. Copiers and readers go step by
//! step and may stop anywhere, which stands for cremas that die, and for whatever is slow.

use stateright::{Model, Property};

/// The version of a key of which a write is under way.
const UNDER_WAY: u8 = u8::MAX;

/// The name of what must hold always.
pub const NO_OLD_VALUE: &str = "no value is answered that was overwritten before the read began";
/// And of what must be possible.
pub const TIER_ANSWERS: &str = "a tier answers";

const COPIERS: usize = 1;
const READERS: usize = 1;
/// How often the upstream loses its value, and one of the two numbers.
const LOSSES: [u8; 2] = [2, 2];

/// What is left out of the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    StampAfterValue,
    PutBackUnseen,
    AbsentIsEqual,
    NoMark,
    NoVersion,
}

/// What clients write, one after the other, each acknowledged before the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Set,
    Delete,
    Flush,
    /// These two do not go in one step with their version.
    PairSet,
    PairDelete,
}

/// The model, and its rule.
#[derive(Clone, Copy, Debug)]
pub struct Tiers {
    pub fault: Fault,
    pub writes: &'static [Write],
}

/// Version and epoch; 0 is one that is absent.
type Stamp = (u8, u8);

/// Value, and what it was copied under.
type Copy = (u8, Stamp);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    value: u8,
    stamp: Stamp,
    /// The next number that nobody has had.
    fresh: u8,
    copy: Option<Copy>,
    /// An older copy, with which the tier may come back.
    shelf: Option<Copy>,
    /// Writes that were done, and acknowledged.
    done: u8,
    acked: u8,
    /// A write under way that does not go in one step: whether it is done, and only its version is missing.
    half: Option<bool>,
    losses: [u8; 2],
    copiers: [Copier; COPIERS],
    readers: [Reader; READERS],
    old: bool,
    from_tier: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Copier {
    Idle,
    Stamped(Stamp),
    Read(u8, Stamp),
    Done,
}

/// Each with what was acknowledged when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Idle,
    Nothing(u8),
    Stamped(u8, Stamp),
    Found(Copy),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The next write, with its version or before it.
    Write,
    /// Its version.
    Version,
    /// Its connection is lost before the version is set: its client may know of it all the same.
    Lose,
    /// The upstream loses its value, its version, its epoch.
    LoseValue,
    LoseVersion,
    LoseEpoch,
    /// The tier comes back with an older copy.
    Return,
    Copy(usize),
    Read(usize),
}

impl Tiers {
    fn is_pair(self, write: Write) -> bool {
        matches!(write, Write::PairSet | Write::PairDelete)
    }

    fn write(self, state: &mut State) -> Option<()> {
        let write = *self.writes.get(usize::from(state.done))?;
        let is_pair = self.is_pair(write);
        match state.half {
            Some(true) => return None,
            None if is_pair && self.fault != Fault::NoMark => {
                (state.half, state.stamp.0) = (Some(false), UNDER_WAY);
                return Some(());
            }
            Some(false) | None => {}
        }
        state.done += 1;
        match write {
            Write::Set | Write::PairSet => state.value = state.done,
            Write::Delete | Write::PairDelete => state.value = 0,
            Write::Flush => (state.value, state.stamp) = (0, (0, 0)),
        }
        if is_pair {
            state.half = Some(true);
            return Some(());
        }
        if self.fault != Fault::NoVersion && write != Write::Flush {
            state.stamp.0 = next(&mut state.fresh);
        }
        state.acked = state.done;
        Some(())
    }

    fn equal(self, copy: Stamp, now: Stamp) -> bool {
        copy == now && (self.fault == Fault::AbsentIsEqual || now.0 != 0 && now.1 != 0 && now.0 != UNDER_WAY)
    }

    fn copy(self, state: &mut State, at: usize) -> Option<()> {
        let next_of = |state: &mut State| {
            if self.fault != Fault::AbsentIsEqual {
                if state.stamp.0 == 0 {
                    state.stamp.0 = next(&mut state.fresh);
                }
                if state.stamp.1 == 0 {
                    state.stamp.1 = next(&mut state.fresh);
                }
            }
            state.stamp
        };
        state.copiers[at] = match state.copiers[at] {
            Copier::Idle if self.fault == Fault::StampAfterValue && state.value == 0 => Copier::Done,
            Copier::Idle if self.fault == Fault::StampAfterValue => Copier::Read(state.value, (0, 0)),
            Copier::Idle => Copier::Stamped(next_of(state)),
            Copier::Stamped((UNDER_WAY, _)) => Copier::Idle,
            Copier::Stamped(_) if state.value == 0 => Copier::Done,
            Copier::Stamped(stamp) => Copier::Read(state.value, stamp),
            Copier::Read(value, stamp) => {
                let stamp = if self.fault == Fault::StampAfterValue { next_of(state) } else { stamp };
                state.shelf = state.copy;
                state.copy = Some((value, stamp));
                Copier::Idle // it copies once more
            }
            Copier::Done => return None,
        };
        Some(())
    }

    fn read(self, state: &mut State, at: usize) -> Option<()> {
        let acked = state.acked;
        let answer = |state: &mut State, began: u8, value: u8| {
            state.old |= value < began || value == began && self.deletes(began);
            Reader::Idle // and reads once more
        };
        state.readers[at] = match state.readers[at] {
            Reader::Idle if state.value != 0 => answer(state, acked, state.value),
            Reader::Idle => Reader::Nothing(acked),
            Reader::Nothing(began) => Reader::Stamped(began, state.stamp),
            Reader::Stamped(began, stamp) => match state.copy {
                Some(copy) if self.equal(copy.1, stamp) => {
                    state.from_tier = true;
                    answer(state, began, copy.0);
                    Reader::Found(copy)
                }
                _ => Reader::Idle,
            },
            Reader::Found((value, stamp)) => {
                if state.value == 0 && (self.fault == Fault::PutBackUnseen || self.equal(stamp, state.stamp)) {
                    state.value = value;
                }
                Reader::Idle
            }
        };
        Some(())
    }

    /// Whether the write of this number leaves nothing.
    fn deletes(self, number: u8) -> bool {
        let write = usize::from(number).checked_sub(1).and_then(|at| self.writes.get(at));
        matches!(write, Some(Write::Delete | Write::PairDelete | Write::Flush))
    }
}

fn next(fresh: &mut u8) -> u8 {
    *fresh += 1;
    *fresh
}

impl Model for Tiers {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            value: 0,
            stamp: (0, 0),
            fresh: 0,
            copy: None,
            shelf: None,
            done: 0,
            acked: 0,
            half: None,
            losses: LOSSES,
            copiers: [Copier::Idle; COPIERS],
            readers: [Reader::Idle; READERS],
            old: false,
            from_tier: false,
        }]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Step>) {
        use Step as S;
        actions.extend([S::Write, S::Version, S::Lose, S::LoseValue, S::LoseVersion, S::LoseEpoch, S::Return]);
        actions.extend((0..COPIERS).map(S::Copy));
        actions.extend((0..READERS).map(S::Read));
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        let lose = |left: &mut u8| left.checked_sub(1).map(|rest| *left = rest);
        match step {
            Step::Write => self.write(&mut state)?,
            Step::Version | Step::Lose => {
                state.half.take_if(|done| *done)?;
                if step == Step::Version {
                    state.stamp.0 = next(&mut state.fresh);
                }
                state.acked = state.done;
            }
            Step::LoseValue => {
                lose(&mut state.losses[0]).filter(|()| last.value != 0)?;
                state.value = 0;
            }
            // A mark that was just set is not what a server evicts before the write that came in one piece with it.
            Step::LoseVersion if last.half == Some(false) => return None,
            Step::LoseVersion => {
                lose(&mut state.losses[1]).filter(|()| last.stamp.0 != 0)?;
                state.stamp.0 = 0;
            }
            Step::LoseEpoch => {
                lose(&mut state.losses[1]).filter(|()| last.stamp.1 != 0)?;
                state.stamp.1 = 0;
            }
            Step::Return => state.copy = Some(state.shelf.take()?),
            Step::Copy(at) => self.copy(&mut state, at)?,
            Step::Read(at) => self.read(&mut state, at)?,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NO_OLD_VALUE, |_, state: &State| !state.old),
            Property::sometimes(TIER_ANSWERS, |_, state: &State| state.from_tier),
        ]
    }

    /// Copiers go on for as long as there are numbers.
    fn within_boundary(&self, state: &State) -> bool {
        state.fresh < 8
    }
}
