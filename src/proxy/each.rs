//! A read of many keys that L1 holds one by one (MGET): answered from L1 as a whole, or by Redis as a whole.
//!
//! What it finds of each key is what a read of that key alone left there. Redis answers all keys of one moment, so a part from
//! here and a part from there will not do: [`Store::lookup_all`](crate::cache::Store::lookup_all) gives all of one moment or
//! nothing. Its keys are promoted like any other, each by its own toss of the coin.

use std::rc::Rc;

use smallvec::SmallVec;

use super::Unheard;
use super::caller::Caller;
use super::pending::Tally;
use super::reads::Standing;
use super::worker::Worker;
use crate::cache::{Coin, Query};
use crate::clock::Time;
use crate::command::Spec;
use crate::invalidation::Fill;
use crate::metrics::Outcome;
use crate::resp::{Request, Span, encode};

/// A command with more keys goes to Redis: nobody waits on this thread for that long.
const MOST_KEYS: usize = 1024;

/// One query a key, each as `each` alone would be looked up.
type Queries<'a> = SmallVec<[Query<'a>; 8]>;

/// Sends it, and has its keys promoted that L1 does not hold, once it is answered; `each` reads one of them.
pub(super) fn send(
    worker: &Rc<Worker>,
    caller: &mut Caller,
    spec: &'static Spec,
    each: &'static Spec,
    request: Request<'_>,
    missed: Outcome,
    now: Time,
) {
    let fills = fills(worker, caller, each, request, now);
    caller.read(worker, Tally::new(spec, missed), (spec, request), fills, now);
}

/// What is to be asked for once it is answered.
pub(super) fn fills(
    worker: &Rc<Worker>,
    caller: &Caller,
    each: &'static Spec,
    request: Request<'_>,
    now: Time,
) -> Vec<Fill> {
    if !worker.shared.l1.is_on() || request.argc() > 1 + MOST_KEYS {
        return Vec::new();
    }
    let queries = queries(worker, caller, each, request);
    let keys = request.args().skip(1).zip(&queries);
    keys.filter_map(|(key, query)| fill(worker, caller, each, key, query, now)).collect()
}

/// As [`super::hit`], for all keys at once.
pub(super) fn hit(
    worker: &Rc<Worker>,
    caller: &Caller,
    each: &'static Spec,
    request: Request<'_>,
    now: Time,
) -> Result<Outcome, Unheard> {
    let l1 = &worker.shared.l1;
    if caller.replies.behind_write() {
        return Ok(Outcome::BehindWrite);
    }
    if request.argc() > 1 + MOST_KEYS {
        return Ok(Outcome::NotCached);
    }
    if !l1.is_on() || request.args().skip(1).any(|key| worker.shared.is_kept_away(key)) {
        return Ok(Outcome::Disabled);
    }
    let queries = queries(worker, caller, each, request);
    let (ear, fresh) = (&caller.who.ear, &caller.who.ear.freshness);
    let mut due = None;
    for query in &queries {
        match caller.standing(l1, query.slot, now) {
            Standing::Heard => {}
            Standing::Unanswered => return Ok(Outcome::BehindRead),
            Standing::Unheard(since) => due = due.max(Some(since)),
        }
    }
    if let Some(due) = due {
        return match queries.iter().all(|query| l1.holds(query, ear, now)) {
            true => {
                l1.unfenced.ask();
                Err(Unheard(due))
            }
            false if fresh.held(now) => Ok(Outcome::Lead),
            false => Ok(Outcome::Blind),
        };
    }
    let most = worker.shared.config.max_value;
    let looked = super::answer(worker, caller, |touches, out| {
        l1.store.lookup_all(&queries, most, caller.resp, &l1.stamps, fresh, now, touches, out)
    });
    Ok(super::outcome(looked))
}

fn queries<'a>(worker: &Worker, caller: &Caller, each: &Spec, request: Request<'a>) -> Queries<'a> {
    let l1 = &worker.shared.l1;
    let query = |at: usize| {
        let tail = request.tail(at);
        let tail = &tail[..tail.len() - request.tail(at + 1).len()];
        Query::new(&l1.stamps, caller.who.identity, each.id, request.arg(at), tail, &[])
    };
    (1..request.argc()).map(query).collect()
}

/// Tosses the coin for one key.
fn fill(
    worker: &Rc<Worker>,
    caller: &Caller,
    each: &'static Spec,
    key: &[u8],
    query: &Query<'_>,
    now: Time,
) -> Option<Fill> {
    let rule = worker.shared.rule(key);
    let promotion = worker.shared.promote(rule);
    let l1 = &worker.shared.l1;
    if worker.toss(promotion.one_in, false, query) != Coin::Promote || l1.holds(query, &caller.who.ear, now) {
        return None;
    }
    let mut single = Vec::with_capacity(32 + query.tail.len());
    encode::array_header(&mut single, 2);
    encode::bulk(&mut single, each.name.as_bytes());
    single.extend_from_slice(query.tail);
    let mut spans: Vec<Span> = Vec::new();
    let single = Request::parse_canonical(&single, &mut spans).expect("an argument of a canonical request");
    let ceiling = worker.shared.ceiling(rule);
    Some(Fill::new(single, query, caller.who.db, ceiling, promotion.max_value))
}
