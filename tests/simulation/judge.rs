//! What was written and when, and whether each answer may be what it is: points 2 to 6 of docs/contract.md.
//!
//! Each key has a history of states, in the order in which the server made them. A state binds from some moment on: a read that
//! arrives later must show it, or a later one. An answer may stand for any state that has its value; it is a violation where none
//! of these is late enough for all that the read must show and early enough for what it must not.

use std::collections::HashMap;

use super::{DATABASES, KEYS, MS, STALENESS, US};

/// A key: its database and its number.
pub(crate) type Place = (usize, usize);

/// What a key is, from one change to the next.
pub(crate) struct State {
    pub(crate) value: Option<u64>,
    /// When the server made it.
    pub(crate) at: u64,
    /// The change's number among all of the server's.
    pub(crate) number: u64,
    /// From when on reads must show it, or a later one.
    binds: u64,
    /// From when on nothing that is answered from memory may show it: its time is over.
    over: u64,
    /// Redis announces it to nobody: a session may go back behind it until it binds.
    unannounced: bool,
}

/// Why a state came to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A write, of whomever.
    Write,
    /// A swap of databases, or a write that a replica hears of: either is told to nobody.
    Untold,
    /// The key's time is over.
    Expiry,
    /// Its time is over because the clock was set forward then.
    ClockStep(u64),
}

#[derive(Default)]
pub(crate) struct Judge {
    histories: Vec<Vec<State>>,
    /// What the nth command on a link has changed.
    changes: HashMap<(usize, u64), Vec<(Place, usize)>>,
    number: u64,
}

fn index((db, key): Place) -> usize {
    db * KEYS + key
}

impl Judge {
    pub(crate) fn new() -> Self {
        let absent = || State { value: None, at: 0, number: 0, binds: 0, over: u64::MAX, unannounced: false };
        let histories = (0..DATABASES * KEYS).map(|_| vec![absent()]).collect();
        Self { histories, ..Self::default() }
    }

    /// A change begins; all that it does has one number.
    pub(crate) fn begin_change(&mut self) {
        self.number += 1;
    }

    /// A key has become this.
    pub(crate) fn changed(&mut self, key: Place, value: Option<u64>, at: u64, cause: Cause, by: Option<(usize, u64)>) {
        let history = &mut self.histories[index(key)];
        let before = history.last_mut().expect("there is a first state");
        match cause {
            Cause::Write | Cause::Untold => {}
            // A swap between the two questions of a fill gives it the value of another key, without its time, until the swap shows.
            Cause::Expiry if before.unannounced => before.over = at.max(before.at + STALENESS),
            Cause::Expiry => before.over = at,
            Cause::ClockStep(step) => before.over = at.max(step + STALENESS),
        }
        let unannounced = matches!(cause, Cause::Untold | Cause::ClockStep(_));
        history.push(State { value, at, number: self.number, binds: at + STALENESS, over: u64::MAX, unannounced });
        if let Some(by) = by {
            self.changes.entry(by).or_default().push((key, history.len() - 1));
        }
    }

    /// What that command did is acknowledged through the proxy.
    pub(crate) fn acknowledged(&mut self, by: (usize, u64), now: u64) {
        for &(key, state) in self.changes.get(&by).into_iter().flatten() {
            let state = &mut self.histories[index(key)][state];
            state.binds = state.binds.min(now);
            state.unannounced = false;
        }
    }

    /// What that command did.
    pub(crate) fn changes(&self, by: (usize, u64)) -> &[(Place, usize)] {
        self.changes.get(&by).map_or(&[], Vec::as_slice)
    }

    /// The least state that a read which arrives now must show.
    pub(crate) fn floor(&self, key: Place, now: u64) -> usize {
        self.histories[index(key)].iter().rposition(|state| state.binds <= now).unwrap_or(0)
    }

    /// What a session that has seen this state of a key may not go back behind.
    pub(crate) fn seen(&self, key: Place, seen: usize, now: u64) -> usize {
        let history = &self.histories[index(key)];
        let unbound = |state: &State| state.unannounced && state.binds > now;
        let first = (1..=seen).find(|&at| unbound(&history[at]));
        first.map_or(seen, |first| first - 1)
    }

    /// The states that an answer may stand for, from `floor` on; `hit` is when it arrived, if it was answered from memory.
    pub(crate) fn candidates(&self, key: Place, value: Option<u64>, floor: usize, hit: Option<u64>) -> Vec<usize> {
        let history = &self.histories[index(key)];
        let may = |state: &State| state.value == value && hit.is_none_or(|arrived| arrived < state.over);
        (floor..history.len()).filter(|&at| may(&history[at])).collect()
    }

    /// From which change up to which a state stood.
    pub(crate) fn stood(&self, key: Place, state: usize) -> (u64, u64) {
        let history = &self.histories[index(key)];
        (history[state].number, history.get(state + 1).map_or(u64::MAX, |next| next.number))
    }

    /// A history in words.
    pub(crate) fn tell(&self, key: Place) -> String {
        let tell = |(at, state): (usize, &State)| {
            let value = state.value.map_or("nil".to_owned(), |value| value.to_string());
            let over = if state.over == u64::MAX { String::new() } else { format!(", over at {}", ms(state.over)) };
            format!("  {at}: {value} at {}, binds at {}{over}", ms(state.at), ms(state.binds))
        };
        self.histories[index(key)].iter().enumerate().map(tell).collect::<Vec<_>>().join("\n")
    }
}

pub(crate) fn ms(nanos: u64) -> String {
    format!("{}.{:03} ms", nanos / MS, nanos % MS / US)
}
