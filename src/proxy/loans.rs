//! The private connections of a station that sessions have on loan, so that what they do not use can be asked back.
//!
//! A session keeps what it has borrowed until its next command shows that it needs it no more: often that is another of the same.
//! Of a session that says nothing more others would wait for ever. So where room is short, who has one and has not used it for a
//! moment is asked to give it back. Belongs to a `Station`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::in_flight::InFlight;
use super::owner::Owner;
use crate::clock::Time;
use crate::upstream::Lane;

/// What has been used within this is in use.
const UNUSED: Duration = Duration::from_millis(100);

/// The number of a loan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LoanNumber(u64);

/// See the module's head.
#[derive(Default)]
pub(super) struct Loans {
    next: Cell<u64>,
    open: RefCell<HashMap<LoanNumber, OnLoan>>,
}

/// What is on loan, and to whom.
type OnLoan = (Rc<Lane<InFlight>>, Rc<Owner>);

impl Loans {
    /// A session has borrowed this.
    pub(super) fn add(&self, lane: Rc<Lane<InFlight>>, owner: Rc<Owner>) -> LoanNumber {
        let loan = LoanNumber(self.next.replace(self.next.get() + 1));
        self.open.borrow_mut().insert(loan, (lane, owner));
        loan
    }

    /// It is given back, or has ended.
    pub(super) fn remove(&self, loan: LoanNumber) {
        self.open.borrow_mut().remove(&loan);
    }

    /// Asks for all that nobody uses at present. Whether anybody was asked who had not been before.
    pub(super) fn ask_back(&self, now: Time) -> bool {
        let open = self.open.borrow();
        let unused = open.values().filter(|(lane, _)| lane.is_quiet() && lane.idle_for(now) > UNUSED);
        unused.fold(false, |asked, (_, owner)| owner.want_back() | asked)
    }
}
