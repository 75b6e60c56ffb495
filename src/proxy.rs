//! The way of a command that may go on a lane, on one screen: [`call`].
//!
//! A read: answered by L1, or by joining the same read under way, or sent. A write: its keys' stamps change before it is
//! sent and when it is answered. An opaque write: its reply, or L1, waits for a fence. Everything here happens on the session's own
//! thread, and nothing waits: whatever is answered later holds a place in the session's [`Replies`]. Called by `session`,
//! which decides what may go on a lane at all.

mod caller;
mod clients;
mod cork;
mod each;
mod fencing;
mod foreign;
mod gate;
mod heirs;
mod logins;
mod marks;
mod pending;
mod private;
mod proof;
mod pulse;
mod reads;
mod replies;
mod room;
mod step;
mod worker;

use std::rc::Rc;

pub use caller::{Caller, Role, Who};
pub use clients::{Clients, Filter, Member};
pub use foreign::{Account, Foreign, Nature};
pub use gate::Gate;
pub use marks::Transaction;
pub use pending::{Pending, Tally, Work};
pub use private::{Lent, Owner, Setting};
pub use proof::Share;
pub use reads::Standing;
pub use replies::{End, Place, Replies};
pub use worker::{LANE_NAME, Shared, Worker};

use crate::cache::{Coin, Lookup, Query, Sampler};
use crate::clock::Time;
use crate::command::{Caching, Effect, Spec};
use crate::invalidation::Fill;
use crate::metrics::{Outcome, Path};
use crate::resp::{Request, Resp};
use crate::upstream::Lane;

/// Whether a command was taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Taken {
    /// It was, and its reply has a place.
    Yes,
    /// Not yet: L1 has an answer, which might be behind what was done before. [`Caller::hear`] decides between calling again,
    /// with the same `now`, and [`lead`].
    Unheard(Unheard),
}

/// L1 has an answer, and may give it once the ear has been answered what was sent at this moment or later: before, it might not
/// know what this session has seen, or what an opaque write that was acknowledged has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unheard(pub Time);

/// Takes up one command that the table allows on a lane. `now` was read after the request's last byte.
pub fn call(worker: &Rc<Worker>, caller: &mut Caller, spec: &'static Spec, request: Request<'_>, now: Time) -> Taken {
    match spec.effect {
        Effect::Read if spec.keeps(request) => {
            if let Err(unheard) = read(worker, caller, spec, request, now) {
                return Taken::Unheard(unheard);
            }
        }
        Effect::Read | Effect::None => caller.forward(worker, spec, request, now),
        Effect::Write | Effect::Opaque => caller.write(worker, spec, request, now),
    }
    Taken::Yes
}

/// A read that L1 may answer: hit, wait or lead. With [`Unheard`], nothing was done.
fn read(
    worker: &Rc<Worker>,
    caller: &mut Caller,
    spec: &'static Spec,
    request: Request<'_>,
    now: Time,
) -> Result<(), Unheard> {
    if let Some(each) = spec.each() {
        match each::hit(worker, caller, each, request, now)? {
            Outcome::Hit => worker.stats.count(spec.class, Outcome::Hit),
            missed => each::send(worker, caller, spec, each, request, missed, now),
        }
        return Ok(());
    }
    let query = caller.who.query(&worker.shared.l1, spec, request);
    match look(worker, caller, spec, request, &query, now)? {
        (Outcome::Hit, _) => worker.stats.count(spec.class, Outcome::Hit),
        // Behind an unanswered write or read of its own, a session gets what Redis says then, not what others are told now.
        (missed, hot) => {
            let joins = !matches!(missed, Outcome::BehindWrite | Outcome::BehindRead);
            if !(joins && caller.join(worker, spec, &query, now)) {
                caller.lead(worker, Tally::new(spec, missed), request, &query, hot, now);
            }
        }
    }
    Ok(())
}

/// Has Redis answer a read that L1 may not answer yet, though it could: by the same read under way, or by sending it.
pub fn lead(worker: &Rc<Worker>, caller: &mut Caller, spec: &'static Spec, request: Request<'_>, now: Time) {
    let missed = Outcome::BehindRead;
    if let Some(each) = spec.each() {
        each::send(worker, caller, spec, each, request, missed, now);
    } else {
        let query = caller.who.query(&worker.shared.l1, spec, request);
        if !caller.join(worker, spec, &query, now) {
            caller.lead(worker, Tally::new(spec, missed), request, &query, false, now);
        }
    }
}

/// Sends a read that L1 may keep on a connection of the session's own: nobody joins it, and what it reads is promoted as ever.
pub fn read_on(
    worker: &Rc<Worker>,
    caller: &mut Caller,
    lane: &Lane<Pending>,
    spec: &'static Spec,
    request: Request<'_>,
    now: Time,
) -> Place {
    let shared = &worker.shared;
    let fills = match spec.each() {
        Some(each) => each::fills(worker, caller, each, request, now),
        None if shared.l1.is_on() => {
            let query = caller.who.query(&shared.l1, spec, request);
            let rule = shared.rule(request.arg(1));
            let promotion = shared.promote(rule);
            let promoted = worker.toss(promotion.one_in, false, &query) == Coin::Promote;
            let fill = || Fill::new(request, &query, caller.who.db, shared.ceiling(rule), promotion.max_value);
            promoted.then(fill).into_iter().collect()
        }
        None => Vec::new(),
    };
    caller.read_on(worker, lane, spec, request, fills, now)
}

/// Answers from L1 where it may: the outcome is [`Outcome::Hit`], or why not, and nothing was answered then.
pub fn hit(
    worker: &Rc<Worker>,
    caller: &mut Caller,
    spec: &'static Spec,
    request: Request<'_>,
    now: Time,
) -> Result<Outcome, Unheard> {
    if let Some(each) = spec.each() {
        return each::hit(worker, caller, each, request, now);
    }
    let query = caller.who.query(&worker.shared.l1, spec, request);
    look(worker, caller, spec, request, &query, now).map(|(outcome, _)| outcome)
}

/// As [`hit`] for one key, and whether what was missed had been hit so often that it should be filled anew at once.
fn look(
    worker: &Worker,
    caller: &Caller,
    spec: &Spec,
    request: Request<'_>,
    query: &Query<'_>,
    now: Time,
) -> Result<(Outcome, bool), Unheard> {
    let l1 = &worker.shared.l1;
    // Before all else: where L1 is switched off there are still flights to join, and they may be older than the write.
    if caller.replies.behind_write() {
        return Ok((Outcome::BehindWrite, false));
    }
    if !l1.is_on() || worker.shared.is_kept_away(request.arg(1)) {
        return Ok((Outcome::Disabled, false));
    }
    if spec.cache == Caching::Resp3 && caller.resp == Resp::V2 {
        return Ok((Outcome::OtherVersion, false));
    }
    let fresh = &caller.who.ear.freshness;
    match caller.standing(l1, query.slot, now) {
        Standing::Heard => {}
        Standing::Unanswered => return Ok((Outcome::BehindRead, false)),
        Standing::Unheard(due) if l1.holds(query, &caller.who.ear, now) => {
            l1.unfenced.ask();
            return Err(Unheard(due));
        }
        Standing::Unheard(_) => return Ok((if fresh.held(now) { Outcome::Lead } else { Outcome::Blind }, false)),
    }
    let looked = answer(worker, caller, |touches, out| {
        l1.store.lookup(query, caller.resp, &l1.stamps, fresh, now, touches, out)
    });
    Ok((outcome(looked), looked == Lookup::Hot))
}

/// Answers the next command from L1, where `look` finds and appends the reply.
fn answer(worker: &Worker, caller: &Caller, look: impl FnOnce(&mut Sampler, &mut Vec<u8>) -> Lookup) -> Lookup {
    let sampled = worker.stats.sample();
    let touches = &mut *worker.sampler.borrow_mut();
    let looked = caller.replies.answer(|out| {
        let looked = look(touches, out);
        (looked.is_hit(), looked)
    });
    if looked.is_hit() {
        worker.shared.l1.unfenced.ask();
        if let Some(since) = sampled {
            worker.stats.record(Path::Hit, since);
        }
    }
    looked
}

fn outcome(looked: Lookup) -> Outcome {
    match looked {
        Lookup::Hit => Outcome::Hit,
        Lookup::Blind => Outcome::Blind,
        _ => Outcome::Lead,
    }
}
