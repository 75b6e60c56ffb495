//! A read that others may join, until its reply is here: who has joined it, and whether its key is promoted then.
//!
//! Made when the read is sent, and held by what awaits its reply, `in_flight`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::reader::Reader;
use super::recipient::Recipient;
use super::shared::Shared;
use super::site::Site;
use crate::cache::{Coin, FlightRef, Flights, Query};
use crate::clock::Time;
use crate::command;
use crate::invalidation::{Ear, Fill};
use crate::metrics::DropReason;
use crate::resp::Request;

/// Who has joined a read, where anybody has. Boxed, for it is a third of the size so, and mostly nobody joins.
pub(super) type JoinedRecipients = Box<Vec<Recipient>>;

/// The reads under way on a lane. A lead keeps hold of them, and so ends its own flight.
pub(super) type LaneFlights = Rc<RefCell<Flights<Recipient>>>;

/// A read that others may join. It keeps nothing of its command: the lane does, and shows it when the reply is whole. Dropped
/// before its flight has landed, it lands, and whoever joined is cut off.
pub(crate) struct Lead {
    pub(super) reader: Reader,
    flights: LaneFlights,
    flight: FlightRef,
    /// Who joined, once nobody can any more: mostly nobody.
    pub(super) joined: Option<JoinedRecipients>,
    pub(super) coin: Coin,
    pub(super) failed: bool,
}

impl Lead {
    /// The read of `reader`, which `query` describes, is about to be sent on the lane of these `flights`; who `joined` has joined
    /// it before.
    pub(super) fn begin(
        flights: &LaneFlights,
        (reader, coin): (Reader, Coin),
        joined: Option<JoinedRecipients>,
        (shared, query): (&Shared, &Query<'_>),
        now: Time,
    ) -> Self {
        let l1 = &shared.l1;
        // Stamp and count are read before the first byte leaves.
        let flight = flights.borrow_mut().lead(query, l1.memory.stamps.load(query.slot), l1.opaque(), now);
        Self { reader, flights: Rc::clone(flights), flight, joined, coin, failed: false }
    }

    /// Its reply is whole, of so many bytes: has its key promoted, if that is due.
    pub(super) fn promote<'a>(&self, site: &Site, bytes: u64, command: impl FnOnce() -> &'a [u8]) {
        let Shared { l1, .. } = &*site.shared;
        if !is_wanted(self.coin, self.joined.is_some()) || !l1.keeps() {
            return;
        }
        let who = &self.reader.who;
        let mut spans = Vec::new();
        let Some(request) = Request::parse_canonical(command(), &mut spans) else { return };
        let Some(spec) = command::lookup(request) else { return };
        let query = who.query(l1, spec, request);
        // By the settings of now, which may be others than when it was sent.
        let settings = site.shared.live();
        let rule = settings.rule_of(request.arg(1));
        let max_value = settings.promote(rule).max_value;
        if self.failed {
            site.stats.dropped(DropReason::ErrorReply);
        } else if bytes > max_value {
            site.stats.dropped(DropReason::TooLarge);
        } else {
            let fill = Fill::new(request, &query, who.db, settings.ceiling(rule), max_value)
                .by_settings(settings.number)
                .leaving(site.shared.early(request.arg(1)));
            promote(site, &who.ear, fill.expecting(bytes));
        }
    }

    /// Nobody joins any more.
    pub(super) fn land(&mut self) {
        let flight = std::mem::replace(&mut self.flight, FlightRef::NONE);
        let joined = self.flights.borrow_mut().land(flight);
        if !joined.is_empty() {
            self.joined.get_or_insert_default().extend(joined);
        }
    }

    /// Nobody joins any more: those who had, who are on their own from here on.
    pub(super) fn take_joined(&mut self) -> Vec<Recipient> {
        self.land();
        self.joined.take().map(|joined| *joined).unwrap_or_default()
    }

    pub(super) fn joined(&self) -> &[Recipient] {
        self.joined.as_ref().map_or(&[], |joined| joined)
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if self.flight != FlightRef::NONE {
            self.land();
        }
    }
}

/// Whether a key is promoted for which the coin fell so, and for whose reply others waited too or did not.
pub(super) fn is_wanted(coin: Coin, is_joined: bool) -> bool {
    match coin {
        Coin::Never => false,
        Coin::IfJoined | Coin::Knock => is_joined,
        Coin::Promote => true,
    }
}

/// Has a key promoted, and a value that tiers are to have copied to them.
pub(super) fn promote(site: &Site, ear: &Arc<Ear>, fill: Fill) {
    let l1 = &site.shared.l1;
    let is_copied = l1.terms.beyond.as_ref().is_some_and(|beyond| fill.is_of_value() && beyond.matches(fill.key()));
    let copied: Option<(Box<[u8]>, u32)> = is_copied.then(|| (fill.key().into(), fill.db()));
    match l1.promote(ear, fill) {
        Ok(()) => site.stats.promotions.add(1),
        Err(reason) => return site.stats.dropped(reason),
    }
    if let (Some((key, db)), Some(foreman)) = (copied, site.foreman()) {
        foreman.filled(&key, db);
    }
}
