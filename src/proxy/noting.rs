//! What is noted of a request once it is answered: of one in the sample its keys, of a big one its size, of a slow one why.
//!
//! Called for few requests, by whoever has the reply; what all others pay is in `start`. Knows no connection.

use std::iter::once;
use std::sync::PoisonError;
use std::time::Duration;

use smallvec::SmallVec;

use super::detour::SentCommand;
use super::in_flight::{InFlight, ReplyAction};
use super::recipient::Recipient;
use super::replies::Replies;
use super::shared::Shared;
use super::slowness::{is_slow, note_wait};
use super::start::BIG;
use super::worker::Worker;
use crate::cache::Query;
use crate::clock::Time;
use crate::command::{self, Effect, Spec};
use crate::metrics::{KeyEvent, Outcome, Path, SAMPLE_EVERY, SlowReason, TalliedKey, WorkerStats, hash_of};
use crate::resp::{Request, Span};
use crate::upstream::{ConnectionTimes, ReplyEnd};

/// Of a command with more keys the first are noted.
const MOST_KEYS: usize = 64;

/// What became of a request in the sample.
struct SampledRequest {
    event: KeyEvent,
    /// The row number of its command.
    command: u16,
    /// Bytes of the reply to a read, or of a write.
    bytes: u64,
    /// Other sessions that got the same reply.
    joined: u64,
}

/// Notes a hit of the sample.
#[cold]
pub(super) fn note_hit(worker: &Worker, replies: &Replies, queries: &[Query<'_>], bytes: u64) {
    replies.warm(Time::now());
    let hit = SampledRequest { event: KeyEvent::Hit, command: queries[0].command, bytes, joined: 0 };
    note_keys(&worker.shared, &worker.stats, queries.iter().map(Query::key), &hit);
}

/// Notes a request of the sample that goes on a private connection, as it is sent: what comes back is not looked at.
#[cold]
pub(super) fn note_private(shared: &Shared, replies: &Replies, (spec, request): (&Spec, Request<'_>), written: u64) {
    replies.warm(Time::now());
    let event = if spec.effect == Effect::Read { KeyEvent::Miss } else { KeyEvent::Write };
    let bytes = if spec.effect == Effect::Read { 0 } else { written };
    note_keys(
        shared,
        replies.stats(),
        spec.keys(request),
        &SampledRequest { event, command: spec.id, bytes, joined: 0 },
    );
}

/// Notes the key of a command that writes so much.
#[cold]
pub(super) fn note_big_write(stats: &WorkerStats, spec: &Spec, request: Request<'_>, bytes: u64) {
    see_one(stats, spec, request, bytes);
}

/// Where it is of one key alone, what was seen is its value.
fn see_one(stats: &WorkerStats, spec: &Spec, request: Request<'_>, bytes: u64) {
    let mut keys = spec.keys(request);
    if let (Some(key), None) = (keys.next(), keys.next()) {
        stats.keys.see(key, hash_of(key), bytes, spec.id);
    }
}

fn note_keys<'a>(shared: &Shared, stats: &WorkerStats, keys: impl Iterator<Item = &'a [u8]>, sampled: &SampledRequest) {
    let keys: SmallVec<[&[u8]; 8]> = keys.take(MOST_KEYS).collect();
    if keys.is_empty() {
        return;
    }
    let (settings, writes) = (shared.live(), sampled.event == KeyEvent::Write);
    let (each, one_in) = (sampled.bytes / keys.len() as u64, u64::from(SAMPLE_EVERY));
    let mut tallies = shared.stats.key_tallies.lock().unwrap_or_else(PoisonError::into_inner);
    for key in &keys {
        let hash = hash_of(key);
        let all = one_in * (1 + sampled.joined);
        stats.keys.count(key, hash, writes, as_f64(all));
        if keys.len() == 1 && sampled.bytes > 0 {
            stats.keys.see(key, hash, sampled.bytes, sampled.command);
        }
        let rule = settings.rule(settings.rule_of(key)).map(|rule| rule.pattern.as_str());
        let one = |event, times| TalliedKey { key, hash, rule, event, times, bytes: times * each };
        tallies.count(&one(sampled.event, one_in));
        if sampled.joined > 0 {
            tallies.count(&one(KeyEvent::Joined, one_in * sampled.joined));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

/// What took most of the time from `start` to `end`.
fn reason(start: Time, end: Time, times: ConnectionTimes, outcome: Outcome) -> SlowReason {
    let half = end.saturating_since(start) / 2;
    let within = |from: Time, to: Time| to.min(end).saturating_since(from.max(start)) >= half;
    let (from, to) = times.held;
    if within(from, to) {
        SlowReason::Reader
    } else if within(start, times.made) {
        SlowReason::Connection
    } else if !within(times.turn, end) {
        SlowReason::Queue
    } else if outcome == Outcome::Blind {
        SlowReason::Lease
    } else {
        SlowReason::Redis
    }
}

impl InFlight {
    /// Its reply is whole, and of it something may be to be noted. A private connection does not give its command any more.
    #[cold]
    pub(super) fn note<'a>(
        &self,
        end: ReplyEnd,
        times: impl FnOnce() -> ConnectionTimes,
        command: &impl Fn() -> &'a [u8],
    ) {
        let Some(recipient) = &self.recipient else { return };
        let (stats, took) = (&self.site.stats, self.start.until(end.at));
        let slow = !self.is_to_wait() && is_slow(stats, took);
        let sampled = self.start.is_sampled();
        if sampled {
            stats.record_span(Path::Miss, took);
        }
        if !slow && !sampled && end.size < BIG {
            return;
        }
        let mut spans: Vec<Span> = Vec::new();
        let sent = SentCommand::read(command(), &mut spans);
        if let Some(SentCommand { spec, request }) = &sent {
            if sampled {
                self.note_sampled(recipient, (spec, *request), end.size);
            } else if end.size >= BIG && spec.effect == Effect::Read {
                see_one(stats, spec, *request, end.size);
            }
        }
        if slow {
            let key = sent.as_ref().and_then(|sent| sent.spec.keys(sent.request).next());
            let spec = sent.as_ref().map_or_else(|| command::by_id(recipient.command()), |sent| sent.spec);
            let reason = reason(self.start.time(), end.at, times(), recipient.outcome());
            self.note_slow(recipient, (spec, key), took, reason);
        }
    }

    /// There will be no reply. Where that took long to be known, it is noted.
    pub(super) fn note_lost(&self, command: &[u8]) {
        let took = self.start.until(Time::now());
        if let Some(recipient) = self.recipient.as_ref().filter(|_| !self.is_to_wait())
            && is_slow(&self.site.stats, took)
        {
            let mut spans: Vec<Span> = Vec::new();
            let key = SentCommand::read(command, &mut spans).and_then(|sent| sent.spec.keys(sent.request).next());
            self.note_slow(recipient, (command::by_id(recipient.command()), key), took, SlowReason::Lost);
        }
    }

    fn note_slow(&self, recipient: &Recipient, of: (&Spec, Option<&[u8]>), took: Duration, reason: SlowReason) {
        let at = (&**recipient.replies(), recipient.place());
        note_wait(&self.site.shared, at, of, (took, reason, recipient.outcome()), self.joined().len());
    }

    fn note_sampled(&self, recipient: &Recipient, (spec, request): (&Spec, Request<'_>), size: u64) {
        let now = Time::now();
        let joined = self.joined();
        once(recipient).chain(joined).for_each(|one| one.replies().warm(now));
        let (event, bytes) = match (spec.effect, recipient.outcome()) {
            (Effect::None, _) => return,
            (Effect::Write | Effect::Opaque, _) => (KeyEvent::Write, request.raw().len() as u64),
            (Effect::Read, Outcome::WouldHit) => (KeyEvent::WouldHit, size),
            (Effect::Read, _) => (KeyEvent::Miss, size),
        };
        let sampled = SampledRequest { event, command: spec.id, bytes, joined: joined.len() as u64 };
        note_keys(&self.site.shared, &self.site.stats, spec.keys(request), &sampled);
    }

    fn joined(&self) -> &[Recipient] {
        if let ReplyAction::Lead(lead) = &self.action { lead.joined() } else { &[] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Time = |millis| Time::from_nanos((1 << 50) + millis * 1_000_000);

    #[test]
    fn the_reason_is_what_took_most_of_the_time() {
        let times = |turn, made, held: (u64, u64)| ConnectionTimes {
            turn: AT(turn),
            made: AT(made),
            held: (AT(held.0), AT(held.1)),
        };
        let of = |times| reason(AT(100), AT(200), times, Outcome::Lead);
        assert_eq!(of(times(100, 0, (0, 0))), SlowReason::Redis);
        assert_eq!(of(times(20, 0, (0, 99))), SlowReason::Redis, "it was awaited from its sending on");
        assert_eq!(of(times(149, 0, (0, 0))), SlowReason::Redis);
        assert_eq!(of(times(151, 0, (0, 0))), SlowReason::Queue);
        assert_eq!(of(times(200, 0, (0, 0))), SlowReason::Queue);
        assert_eq!(of(times(160, 155, (0, 0))), SlowReason::Connection);
        assert_eq!(of(times(190, 0, (120, 180))), SlowReason::Reader);
        assert_eq!(of(times(100, 0, (90, 180))), SlowReason::Reader);
        assert_eq!(of(times(100, 0, (180, 900))), SlowReason::Redis);
        assert_eq!(reason(AT(100), AT(200), times(100, 0, (0, 0)), Outcome::Blind), SlowReason::Lease);
        assert_eq!(reason(AT(100), AT(200), times(190, 0, (0, 0)), Outcome::Blind), SlowReason::Queue);
    }
}
