//! A fill: a read repeated on the ear, with its TTL, so that its answer may enter L1.
//!
//! Its stamp and epoch are read before the request is sent, and what comes back is kept only while both still stand. The
//! ear's task owns the fills under way; workers make a [`Fill`] and forget it.
//!
//! The TTL is asked for before the value, and that of hash fields between them. Asking makes Redis track the key, so that
//! whatever happens to it from then on shows in the stamp; and what expires in between was told to expire. So there is no
//! telling by the value whether the key was there, which for `:0` or an empty array nobody could.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::hearing::{Awaited, Hearing};
use super::rights::Standing;
use crate::cache::{Epoch, Identity, Query, Slot, Stamp};
use crate::clock::Time;
use crate::command::{Caching, Spec, by_id};
use crate::metrics::FillOutcome;
use crate::resp::{Request, Span, encode, to_twin};

/// A read to be repeated on the ear, so that its answer may enter L1.
#[derive(Debug)]
pub struct Fill {
    request: Box<[u8]>,
    key: Range<usize>,
    tail: usize,
    identity: Identity,
    command: u16,
    slot: Slot,
    hash: u64,
    db: u32,
    ceiling: Option<Duration>,
    max_value: u64,
    /// The bytes that its reply is likely to have.
    pub(super) size: u64,
    again: bool,
    /// Its share of what the ear's fills may hold.
    room: Option<OwnedSemaphorePermit>,
}

/// What a reply is taken to have where nobody has seen one.
const UNSEEN: u64 = 64 << 10;

impl Fill {
    /// The read `request` of one key, its first argument, which `query` describes. `ceiling` is the longest stay in L1,
    /// `max_value` the size of the largest reply that may enter it.
    pub fn new(request: Request<'_>, query: &Query<'_>, db: u32, ceiling: Option<Duration>, max_value: u64) -> Self {
        let raw = request.raw();
        let tail = raw.len() - query.tail.len();
        // The key is the first argument of the tail: "$3\r\nkey\r\n..".
        let header = query.tail.iter().position(|&b| b == b'\n').map_or(0, |at| at + 1);
        let key = tail + header..tail + header + request.arg(1).len();
        let Query { identity, command, slot, hash, .. } = *query;
        let (request, size) = (raw.into(), max_value.min(UNSEEN));
        let (again, room) = (false, None);
        Self { request, key, tail, identity, command, slot, hash, db, ceiling, max_value, size, again, room }
    }

    /// The read was just answered with so many bytes.
    #[must_use]
    pub fn expecting(self, size: u64) -> Self {
        Self { size, ..self }
    }

    /// Takes the room that its request needs, for as long as it lives. False: there is none.
    pub(super) fn take_room(&mut self, room: &Arc<Semaphore>) -> bool {
        let needed = u32::try_from(self.request.len()).unwrap_or(u32::MAX);
        self.room = Arc::clone(room).try_acquire_many_owned(needed).ok();
        self.room.is_some()
    }

    /// The command's row.
    pub(super) fn spec(&self) -> &'static Spec {
        by_id(self.command)
    }

    /// What a RESP2 session gets where this is the reply: nothing where no rule tells. `None` where the rule does not fit.
    fn twin(&self, resp3: &[u8]) -> Option<Vec<u8>> {
        let mut resp2 = Vec::new();
        if let Some(twin) = self.spec().cache.twin(self.argc()) {
            to_twin(twin, resp3, &mut resp2).ok()?;
        }
        Some(resp2)
    }

    fn argc(&self) -> usize {
        let digits = self.request[1..].iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold(0, |argc, digit| argc * 10 + usize::from(digit - b'0'))
    }

    /// The key that is read.
    pub(super) fn key(&self) -> &[u8] {
        &self.request[self.key.clone()]
    }

    /// What is asked.
    pub fn query(&self) -> Query<'_> {
        let tail = &self.request[self.tail..];
        Query { identity: self.identity, command: self.command, tail, slot: self.slot, hash: self.hash }
    }
}

/// A fill that was sent.
pub(super) struct Asked {
    fill: Fill,
    stamp: Stamp,
    epoch: Epoch,
    /// When what is read expires; none where Redis did not tell.
    expires: Option<Time>,
}

impl Asked {
    /// Whether the TTLs of fields were asked for too, after that of the key.
    pub(super) fn of_fields(&self) -> bool {
        self.fill.spec().cache == Caching::Fields
    }

    /// The answer to PTTL, or to HPTTL, that was asked for at `sent`.
    pub(super) fn hear_ttl(&mut self, reply: &[u8], sent: Time) {
        self.expires = match (self.expires, shortest(reply)) {
            (Some(expires), Some(left)) => Some(expires.min(sent.plus(left))),
            _ => None,
        };
    }
}

impl Hearing<'_> {
    pub(super) fn ask(&mut self, fill: Fill) {
        let now = Time::now();
        if self.filling.contains(&fill.hash) || self.l1.holds(&fill.query(), self.ear, now) {
            return;
        }
        let cache = fill.spec().cache;
        let kept = self.survey.as_ref().is_some_and(|survey| survey.keeps(fill.spec()));
        if !kept || cache == Caching::WholeHash && self.has_field_ttls() {
            return self.l1.stats.fill(FillOutcome::Refused);
        }
        // Read before the request is sent: only what was asked for under a quiet stamp may enter L1.
        let (stamp, epoch) = (self.l1.stamps.load(fill.slot), self.ear.freshness.epoch());
        if !stamp.quiet() || self.not_master {
            self.l1.stats.fill(FillOutcome::Doomed);
            return;
        }
        if self.fence_sent.is_none() && !self.ear.freshness.held(now) {
            self.send_fence(now);
        }
        self.select(fill.db, now);
        self.touches.fills_for(fill.identity, fill.db);
        self.filling.insert(fill.hash);
        self.under_way += fill.size;
        self.rights.due |= !self.ear.rights.are_all();
        encode::command(&mut self.out, &[b"PTTL", &fill.request[fill.key.clone()]]);
        if cache == Caching::Fields && self.has_field_ttls() {
            ask_field_ttls(&fill.request, &mut self.out);
        }
        self.out.extend_from_slice(&fill.request);
        let asked = Asked { fill, stamp, epoch, expires: Some(Time::NEVER) };
        self.awaited.push_back((now, Awaited::Ttl(Box::new(asked))));
    }

    /// The value is here, which was asked for at `sent`: none where it was an error or too large.
    pub(super) fn filled(&mut self, asked: Asked, sent: Time, value: Option<&[u8]>) {
        let Asked { mut fill, stamp, epoch, expires } = asked;
        self.filling.remove(&fill.hash);
        self.under_way -= fill.size;
        let value = value.filter(|value| value.len() as u64 <= fill.max_value);
        let (Some(value), Some(expires)) = (value, expires) else { return self.l1.stats.fill(FillOutcome::Refused) };
        if self.l1.stamps.load(fill.slot) != stamp || self.ear.freshness.epoch() != epoch {
            if fill.again {
                return self.l1.stats.fill(FillOutcome::Doomed);
            }
            // Mostly the push of a write that was just answered: the second try finds the dust settled.
            self.l1.stats.fill(FillOutcome::Retried);
            fill.again = true;
            return self.ask(fill);
        }
        let unknown_rights = (self.ear.rights.standing() == Standing::Unknown).then_some(self.l1.terms.acl_recheck);
        let ceiling = fill.ceiling.into_iter().chain(unknown_rights).min();
        let expires = ceiling.map_or(expires, |stay| expires.min(sent.plus(stay)));
        let now = Time::now();
        if expires <= now {
            return self.l1.stats.fill(FillOutcome::Expired);
        }
        let Some(resp2) = fill.twin(value) else { return self.l1.stats.fill(FillOutcome::Refused) };
        self.l1.arrivals.note(fill.slot, now); // before anybody can find it
        self.l1.store.insert(&fill.query(), value, Some(&resp2), stamp, epoch, expires);
        self.l1.stats.fill(FillOutcome::Stored);
        if self.ear.rights.filled() {
            self.l1.filled_for_others.notify_one();
        }
    }

    pub(super) fn has_field_ttls(&self) -> bool {
        self.survey.as_ref().is_none_or(|survey| survey.field_ttls)
    }
}

/// Asks for the TTLs of the fields that a read names, from argument 2 on.
fn ask_field_ttls(request: &[u8], out: &mut Vec<u8>) {
    let mut spans: Vec<Span> = Vec::new();
    let request = Request::parse_canonical(request, &mut spans).expect("a fill keeps the canonical bytes of a request");
    let fields = request.argc() - 2;
    encode::array_header(out, 4 + fields);
    encode::bulk(out, b"HPTTL");
    encode::bulk(out, request.arg(1));
    encode::bulk(out, b"FIELDS");
    encode::bulk(out, fields.to_string().as_bytes());
    out.extend_from_slice(request.tail(2));
}

/// The shortest of the times that PTTL or HPTTL told, -1 and -2 being for ever; `None` where they told something else.
fn shortest(reply: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(reply).ok()?;
    let mut lines = text.split_terminator("\r\n").peekable();
    if lines.peek()?.starts_with('*') {
        lines.next();
        lines.peek()?;
    }
    let mut times = lines.map(|line| line.strip_prefix(':')?.parse::<i64>().ok());
    times.try_fold(Duration::MAX, |shortest, time| {
        Some(u64::try_from(time?).map_or(shortest, |time| shortest.min(Duration::from_millis(time))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_time_counts_and_what_is_no_time_is_refused() {
        let ms = Duration::from_millis;
        assert_eq!(shortest(b":1500\r\n"), Some(ms(1500)));
        assert_eq!(shortest(b":-1\r\n"), Some(Duration::MAX));
        assert_eq!(shortest(b":-2\r\n"), Some(Duration::MAX));
        assert_eq!(shortest(b"*4\r\n:-1\r\n:70\r\n:-2\r\n:30\r\n"), Some(ms(30)));
        assert_eq!(shortest(b"*2\r\n:-2\r\n:-1\r\n"), Some(Duration::MAX));
        for other in [&b"-NOPERM no\r\n"[..], b"", b"-", b"*1\r\n_\r\n", b"_\r\n", b"*", b"+1\r\n", b"\xff"] {
            assert_eq!(shortest(other), None, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn the_fields_that_are_read_are_asked_about() {
        let mut out = Vec::new();
        ask_field_ttls(b"*4\r\n$5\r\nHMGET\r\n$1\r\nh\r\n$1\r\na\r\n$2\r\nbc\r\n", &mut out);
        let mut wanted = Vec::new();
        encode::command(&mut wanted, &[b"HPTTL", b"h", b"FIELDS", b"2", b"a", b"bc"]);
        assert_eq!(out, wanted);
    }
}
