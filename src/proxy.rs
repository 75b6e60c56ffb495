//! The way of a command that may go on a lane, on one screen: [`call`].
//!
//! A read: answered by L1, or by joining the same read under way, or sent. A write: its keys' stamps change before it is
//! sent and when it is answered. An opaque write: its reply waits for a fence. Everything here happens on the session's own
//! thread, and nothing waits: whatever is answered later holds a place in the session's [`Replies`]. Called by `session`,
//! which decides what may go on a lane at all.

mod caller;
mod foreign;
mod gate;
mod pending;
mod private;
mod replies;
mod worker;

use std::rc::Rc;

pub use caller::{Caller, Who};
pub use foreign::{Foreign, Nature};
pub use gate::Gate;
pub use pending::{Pending, Transaction, Work};
pub use private::{Lent, Owner};
pub use replies::{End, Place, Replies};
pub use worker::{Shared, Worker};

use crate::cache::Lookup;
use crate::clock::Time;
use crate::command::{Effect, Spec};
use crate::metrics::{Outcome, Path};
use crate::resp::Request;

/// Takes up one command that the table allows on a lane. `now` was read after the request's last byte.
pub fn call(worker: &Rc<Worker>, caller: &mut Caller, spec: &'static Spec, request: Request<'_>, now: Time) {
    let outcome = match spec.effect {
        Effect::Read if spec.cacheable() && spec.arity_ok(request.argc()) => read(worker, caller, spec, request, now),
        Effect::Read => {
            caller.forward(worker, spec, request, now);
            Outcome::NotCached
        }
        Effect::Write => {
            caller.write(worker, spec, request, now);
            Outcome::Write
        }
        Effect::Opaque => {
            caller.write(worker, spec, request, now);
            Outcome::Opaque
        }
        Effect::None => {
            caller.forward(worker, spec, request, now);
            Outcome::Forwarded
        }
    };
    worker.stats.count(spec.class, outcome);
}

/// A read that L1 may answer: hit, wait or lead.
pub fn read(worker: &Rc<Worker>, caller: &mut Caller, spec: &'static Spec, request: Request<'_>, now: Time) -> Outcome {
    match hit(worker, caller, spec, request, now) {
        Outcome::Hit => Outcome::Hit,
        // Behind an unanswered write or read of its own, a session gets what Redis says then, not what others are told now.
        missed @ (Outcome::BehindWrite | Outcome::BehindRead) => {
            caller.lead(worker, spec, request, now);
            missed
        }
        _ if caller.join(worker, spec, request, now) => Outcome::Joined,
        missed => {
            caller.lead(worker, spec, request, now);
            missed
        }
    }
}

/// Answers from L1 where it may: the outcome is [`Outcome::Hit`], or why not, and nothing was answered then.
pub fn hit(worker: &Rc<Worker>, caller: &mut Caller, spec: &'static Spec, request: Request<'_>, now: Time) -> Outcome {
    let l1 = &worker.shared.l1;
    if !l1.is_on() {
        return Outcome::Disabled;
    }
    let query = caller.query(l1, spec, request);
    if caller.replies.behind_write() {
        return Outcome::BehindWrite;
    }
    if caller.is_reading(query.slot) {
        return Outcome::BehindRead;
    }
    let sampled = worker.stats.sample();
    let fresh = &caller.who.ear.freshness;
    let touches = &mut *worker.sampler.borrow_mut();
    let looked = caller.replies.answer(|out| {
        let looked = l1.store.lookup(&query, caller.resp, &l1.stamps, fresh, now, touches, out);
        (looked.is_hit(), looked)
    });
    match looked {
        Lookup::Hit => {
            if let Some(since) = sampled {
                worker.stats.record(Path::Hit, since);
            }
            Outcome::Hit
        }
        Lookup::Blind => Outcome::Blind,
        _ => Outcome::Lead,
    }
}
