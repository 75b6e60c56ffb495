//! A fill: a read repeated on the ear, with its TTL, so that its answer may enter L1.
//!
//! Its stamp and epoch are read before the request is sent, and what comes back is kept only while both still stand. Workers
//! make a [`Fill`] and forget it; the protocol owns those under way.
//!
//! The TTL is asked for before the value, and that of hash fields between them. Asking makes Redis track the key, so that
//! whatever happens to it from then on shows in the stamp; and what expires in between was told to expire. So there is no
//! telling by the value whether the key was there, which for `:0` or an empty array nobody could.
//!
//! Holds contract points 5 and 6.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::cache::{EntryEpoch, Identity, Measure, Query, Slot, Stamp, Warrant};
use crate::clock::Time;
use crate::command::{Spec, by_id};
use crate::curve::SampleTicket;
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
    /// So long before the end of its key it ends.
    early: Duration,
    max_value: u64,
    /// The number of the settings that say so.
    settings: u64,
    /// The bytes that its reply is likely to have.
    size: u64,
    again: bool,
    /// Its share of what the ear's fills may hold.
    share: Option<BacklogShare>,
    /// It enters no memory, and this is told what it would take.
    sample: Option<Arc<SampleTicket>>,
}

/// What a reply is taken to have where nobody has seen one.
const UNSEEN: u64 = 64 << 10;
/// And one that was too large to be kept, of which nobody has seen the end.
const OVERSIZED: usize = 8 << 20;

impl Fill {
    /// The read `request` of one key, its first argument, which `query` describes. `ceiling` is the longest stay in L1, if the
    /// settings name one, `max_value` the size of the largest reply that may enter it.
    pub fn new(request: Request<'_>, query: &Query<'_>, db: u32, ceiling: Option<Duration>, max_value: u64) -> Self {
        let raw = request.raw();
        let tail = raw.len() - query.tail.len();
        // The key is the first argument of the tail: "$3\r\nkey\r\n..".
        let header = query.tail.iter().position(|&b| b == b'\n').map_or(0, |at| at + 1);
        let key = tail + header..tail + header + request.arg(1).len();
        let Query { identity, command, slot, hash, .. } = *query;
        let (request, size) = (raw.into(), max_value.min(UNSEEN));
        let (early, settings, again, share, sample) = (Duration::ZERO, 0, false, None, None);
        Self {
            request,
            key,
            tail,
            identity,
            command,
            slot,
            hash,
            db,
            ceiling,
            early,
            max_value,
            settings,
            size,
            again,
            share,
            sample,
        }
    }

    /// What it brings enters no memory: whoever holds the other side of `ticket` is told what it would take there.
    #[must_use]
    pub(crate) fn for_sample(self, ticket: SampleTicket) -> Self {
        Self { sample: Some(Arc::new(ticket)), ..self }
    }

    /// Whether that is so.
    pub(super) fn is_for_sample(&self) -> bool {
        self.sample.is_some()
    }

    /// Its place in the window.
    fn place(&self) -> (u64, bool) {
        (self.hash, self.is_for_sample())
    }

    /// The settings that were asked have this number; where nobody says, they are the first.
    #[must_use]
    pub fn by_settings(self, number: u64) -> Self {
        Self { settings: number, ..self }
    }

    /// That number.
    pub(super) fn settings(&self) -> u64 {
        self.settings
    }

    /// Where the settings name no longest stay, this is it.
    #[must_use]
    pub(super) fn or_ceiling(self, ceiling: Option<Duration>) -> Self {
        Self { ceiling: self.ceiling.or(ceiling), ..self }
    }

    /// What it brings leaves L1 so long before its key ends, if that does: who reads it then may have it loaded anew.
    #[must_use]
    pub fn leaving(self, early: Duration) -> Self {
        Self { early, ..self }
    }

    /// The read was just answered with so many bytes.
    #[must_use]
    pub fn expecting(self, size: u64) -> Self {
        Self { size, ..self }
    }

    /// Takes the room that its request needs, for as long as it lives. False: there is none.
    pub(super) fn take_share(&mut self, backlog: &Arc<Backlog>) -> bool {
        self.share = backlog.take(self.request.len());
        self.share.is_some()
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

    /// The database that it reads in.
    pub(crate) fn db(&self) -> u32 {
        self.db
    }

    /// For whom it reads.
    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// The place of its key's stamp.
    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    /// The same once more, of a key that has changed meanwhile: `None` after the second time.
    pub(super) fn again(self) -> Option<Self> {
        (!self.again).then_some(Self { again: true, ..self })
    }

    /// Whether it is the read of a string's value.
    pub(crate) fn is_of_value(&self) -> bool {
        self.spec().reads_values(self.argc())
    }

    /// The key that is read.
    pub(crate) fn key(&self) -> &[u8] {
        &self.request[self.key.clone()]
    }

    /// What is asked.
    pub fn query(&self) -> Query<'_> {
        let tail = &self.request[self.tail..];
        Query { identity: self.identity, command: self.command, tail, slot: self.slot, hash: self.hash }
    }
}

/// A fill that was sent, or is about to be.
#[derive(Debug)]
pub(super) struct PendingFill {
    pub(super) fill: Fill,
    pub(super) stamp: Stamp,
    pub(super) epoch: EntryEpoch,
    /// Whether the TTLs of fields are asked for too, after that of the key.
    of_fields: bool,
    /// When what is read expires; none where Redis did not tell.
    expires: Option<Time>,
    /// The key was not there when its TTL was asked for.
    is_absent: bool,
    /// What came was too large to be looked at.
    is_oversized: bool,
}

/// What is made of the value that a fill brought.
#[derive(Debug)]
pub(super) enum Landing {
    /// It enters L1.
    Entry(Entering),
    /// The key changed while it was under way.
    Changed(Fill),
    /// It has expired before it came.
    Expired,
    /// It was an error or too large, or Redis did not tell when it expires.
    Refused,
}

/// What enters L1, with what it was asked for under.
#[derive(Debug)]
pub(super) struct Entering {
    pub(super) fill: Fill,
    pub(super) resp2: Vec<u8>,
    pub(super) stamp: Stamp,
    pub(super) epoch: EntryEpoch,
    pub(super) expires: Time,
}

impl PendingFill {
    /// `stamp` and `epoch` must have been read before the request is sent. The stamp must be quiet.
    pub(super) fn new(fill: Fill, stamp: Stamp, epoch: EntryEpoch, of_fields: bool) -> Self {
        debug_assert!(stamp.quiet(), "what is asked for while a write is under way may be of before or after it");
        Self { fill, stamp, epoch, of_fields, expires: Some(Time::NEVER), is_absent: false, is_oversized: false }
    }

    /// Appends its commands.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        encode::command(out, &[b"PTTL", self.fill.key()]);
        if self.of_fields {
            ask_field_ttls(&self.fill.request, out);
        }
        out.extend_from_slice(&self.fill.request);
    }

    /// Whether the TTLs of fields were asked for too, after that of the key.
    pub(super) fn of_fields(&self) -> bool {
        self.of_fields
    }

    /// Whether the key was not there.
    pub(super) fn is_absent(&self) -> bool {
        self.is_absent
    }

    /// What came is not whole, for it was too large.
    pub(super) fn hear_oversized(&mut self) {
        self.is_oversized = true;
    }

    /// The answer to PTTL, or to HPTTL, that was asked for at `sent`.
    pub(super) fn hear_ttl(&mut self, reply: &[u8], sent: Time) {
        self.is_absent |= reply == b":-2\r\n";
        self.expires = match (self.expires, shortest(reply)) {
            (Some(expires), Some(left)) => Some(expires.min(sent.plus(left))),
            _ => None,
        };
    }

    /// Where it is for the sample alone: who is to be told, and what it stands by.
    pub(super) fn sample(&self) -> Option<PendingSample> {
        let ticket = self.fill.sample.clone()?;
        let warrant = Warrant::new(self.stamp, self.epoch.ear());
        Some(PendingSample { ticket, warrant, is_oversized: self.is_oversized })
    }

    /// The value is here at `now`, which was asked for at `sent`: none where it was an error or is not known whole. `stamp` and
    /// `epoch` are the present ones; `longest` is how long it may stay whatever Redis says.
    pub(super) fn land(
        self,
        value: Option<&[u8]>,
        (stamp, epoch): (Stamp, EntryEpoch),
        longest: Option<Duration>,
        (sent, now): (Time, Time),
    ) -> Landing {
        let Self { fill, expires, .. } = self;
        let value = value.filter(|value| value.len() as u64 <= fill.max_value);
        let (Some(value), Some(expires)) = (value, expires) else { return Landing::Refused };
        if (stamp, epoch) != (self.stamp, self.epoch) {
            return Landing::Changed(fill);
        }
        let expires = if expires == Time::NEVER { expires } else { expires.minus(fill.early) };
        let ceiling = fill.ceiling.into_iter().chain(longest).min();
        let expires = ceiling.map_or(expires, |stay| expires.min(sent.plus(stay)));
        if expires <= now {
            return Landing::Expired;
        }
        let Some(resp2) = fill.twin(value) else { return Landing::Refused };
        Landing::Entry(Entering { fill, resp2, stamp, epoch, expires })
    }
}

/// What is read for the sample of keys alone.
#[derive(Debug)]
pub(super) struct PendingSample {
    ticket: Arc<SampleTicket>,
    warrant: Warrant,
    is_oversized: bool,
}

impl PendingSample {
    /// So it ended. One whose key changed meanwhile comes back where it was the first time, to be asked for again.
    pub(super) fn tell(self, landing: Landing, value: &[u8]) -> Option<Fill> {
        self.ticket.read(if self.is_oversized { OVERSIZED } else { value.len() });
        match landing {
            Landing::Entry(Entering { fill, resp2, expires, .. }) => {
                let tail = fill.request.len() - fill.tail;
                self.ticket.tell(self.warrant, Measure::of_reply(tail, value, &resp2, expires));
                None
            }
            Landing::Changed(fill) => fill.again(),
            Landing::Expired | Landing::Refused => {
                self.ticket.tell(self.warrant, Measure::UNFIT);
                None
            }
        }
    }
}

/// Fills that may be under way at once.
const WINDOW: usize = 512;

/// The fills of one connection that are under way, and whether there may be more.
#[derive(Debug)]
pub(super) struct FillWindow {
    /// By [`Query::hash`], and whether it is for the sample alone.
    under_way: HashSet<(u64, bool), ahash::RandomState>,
    /// Bytes that they are likely to bring, and how many these may be.
    bytes: u64,
    most: u64,
    /// No more are taken before then.
    rest_until: Option<Time>,
}

impl FillWindow {
    /// Fills that bring no more than about `most` bytes at once.
    pub(super) fn new(most: u64) -> Self {
        Self { under_way: HashSet::default(), bytes: 0, most, rest_until: None }
    }

    /// Whether there may be one more.
    pub(super) fn is_open(&self) -> bool {
        self.rest_until.is_none() && self.under_way.len() < WINDOW && self.bytes < self.most
    }

    /// Whether the same is under way. What is read for the sample alone enters nothing, so it is in nobody's way.
    pub(super) fn contains(&self, fill: &Fill) -> bool {
        self.under_way.contains(&(fill.hash, false)) || fill.is_for_sample() && self.under_way.contains(&fill.place())
    }

    /// It is sent.
    pub(super) fn enter(&mut self, fill: &Fill) {
        self.under_way.insert(fill.place());
        self.bytes += fill.size;
    }

    /// It is answered.
    pub(super) fn leave(&mut self, fill: &Fill) {
        self.under_way.remove(&fill.place());
        self.bytes -= fill.size;
    }

    /// Takes no more before `until`.
    pub(super) fn rest(&mut self, until: Time) {
        self.rest_until = Some(until);
    }

    /// When it is to be woken, [`Time::NEVER`] where it is awake.
    pub(super) fn wakes(&self) -> Time {
        self.rest_until.unwrap_or(Time::NEVER)
    }

    /// It is `now`.
    pub(super) fn wake(&mut self, now: Time) {
        self.rest_until = self.rest_until.filter(|&until| now < until);
    }
}

/// The bytes of requests that an ear's fills hold, waiting or under way. Shared by all who promote.
#[derive(Debug)]
pub(super) struct Backlog {
    held: AtomicUsize,
    most: usize,
}

/// What one fill holds of it.
#[derive(Debug)]
pub(super) struct BacklogShare {
    backlog: Arc<Backlog>,
    bytes: usize,
}

impl Backlog {
    /// Of no more than `most` bytes.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), most })
    }

    /// Whether any waits or is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.held.load(Ordering::Acquire) == 0
    }

    /// So many bytes of it, for as long as the share lives.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Option<BacklogShare> {
        let more = |held: usize| held.checked_add(bytes).filter(|&held| held <= self.most);
        self.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(BacklogShare { backlog: Arc::clone(self), bytes })
    }
}

impl Drop for BacklogShare {
    fn drop(&mut self) {
        self.backlog.held.fetch_sub(self.bytes, Ordering::AcqRel);
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
    use crate::cache::{Freshness, Identities, Stamps};
    use crate::command::lookup;

    const AT: fn(u64) -> Time = Time::from_nanos;

    struct FillBench {
        stamps: Stamps,
        fresh: Freshness,
        identity: Identity,
    }

    impl FillBench {
        fn new() -> Self {
            let identity = Identities::default().intern(b"", 0);
            Self { stamps: Stamps::for_l1(0), fresh: Freshness::new(), identity }
        }

        fn fill(&self, words: &[&[u8]], ceiling: Option<Duration>) -> Fill {
            let (mut raw, mut spans) = (Vec::new(), Vec::new());
            encode::command(&mut raw, words);
            let request = Request::parse_canonical(&raw, &mut spans).expect("just written");
            let row = lookup(request).expect("a row");
            let rest = if request.argc() > 2 { request.tail(2) } else { &[] };
            let query = Query::new(&self.stamps, self.identity, row.id, request.arg(1), request.tail(1), rest);
            Fill::new(request, &query, 2, ceiling, 10)
        }

        fn now(&self, fill: &Fill) -> (Stamp, EntryEpoch) {
            (self.stamps.load(fill.slot), self.fresh.epoch().into())
        }

        /// A `GET k` whose TTL was told.
        fn pending(&self, ttl: &[u8], ceiling: Option<Duration>) -> PendingFill {
            let fill = self.fill(&[b"GET", b"k"], ceiling);
            let (stamp, epoch) = self.now(&fill);
            let mut pending = PendingFill::new(fill, stamp, epoch, false);
            pending.hear_ttl(ttl, AT(1_000_000));
            pending
        }

        fn land(&self, pending: PendingFill, value: Option<&[u8]>, longest: Option<Duration>, now: u64) -> Landing {
            let present = self.now(&pending.fill);
            pending.land(value, present, longest, (AT(1_000_000), AT(now)))
        }
    }

    fn expires(landing: Landing) -> u64 {
        match landing {
            Landing::Entry(entering) => entering.expires.as_nanos(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_asked_is_the_ttl_and_then_the_value() {
        let bench = FillBench::new();
        let pending = bench.pending(b":-1\r\n", None);
        let (mut out, mut wanted) = (Vec::new(), Vec::new());
        pending.write(&mut out);
        encode::command(&mut wanted, &[b"PTTL", b"k"]);
        encode::command(&mut wanted, &[b"GET", b"k"]);
        assert_eq!(out, wanted);
        assert_eq!((pending.fill.key(), pending.fill.db()), (&b"k"[..], 2));
    }

    #[test]
    fn an_entry_lives_from_the_question_on_for_as_long_as_the_shortest_limit_says() {
        let (bench, ms) = (FillBench::new(), Duration::from_millis);
        let value = Some(&b"$1\r\nv\r\n"[..]);
        let of =
            |ttl: &[u8], ceiling, longest| expires(bench.land(bench.pending(ttl, ceiling), value, longest, 1_500_000));
        assert_eq!(of(b":7\r\n", None, None), 8_000_000);
        assert_eq!(of(b":7\r\n", Some(ms(3)), None), 4_000_000);
        assert_eq!(of(b":7\r\n", Some(ms(3)), Some(ms(2))), 3_000_000);
        assert_eq!(of(b":-1\r\n", None, None), u64::MAX);
        let landing = bench.land(bench.pending(b":7\r\n", None), value, None, 8_000_000);
        assert!(matches!(landing, Landing::Expired));
        let fill = |ceiling| bench.fill(&[b"GET", b"k"], ceiling).or_ceiling(Some(ms(3))).ceiling;
        assert_eq!([fill(None), fill(Some(ms(9)))], [Some(ms(3)), Some(ms(9))], "what the settings name comes first");
    }

    #[test]
    fn a_change_of_stamp_or_epoch_sends_it_once_more_and_no_more() {
        let bench = FillBench::new();
        let value = Some(&b"$1\r\nv\r\n"[..]);
        for change in [|bench: &FillBench, slot| bench.stamps.touch(slot), |bench: &FillBench, _| bench.fresh.bump()] {
            let pending = bench.pending(b":-1\r\n", None);
            change(&bench, pending.fill.slot);
            let Landing::Changed(fill) = bench.land(pending, value, None, 1) else { panic!("it has changed") };
            let fill = fill.again().expect("a second time");
            assert!(fill.again().is_none());
        }
    }

    #[test]
    fn errors_large_values_and_ttls_that_are_none_do_not_enter() {
        let bench = FillBench::new();
        let refused =
            |ttl: &[u8], value| matches!(bench.land(bench.pending(ttl, None), value, None, 1), Landing::Refused);
        assert!(refused(b":-1\r\n", None));
        assert!(refused(b":-1\r\n", Some(b"$6\r\nlarger\r\n")));
        assert!(refused(b"-NOPERM\r\n", Some(b"$1\r\nv\r\n")));
    }

    #[test]
    fn what_is_read_for_the_sample_is_in_nobodys_way() {
        let (bench, mut window) = (FillBench::new(), FillWindow::new(1000));
        let fill = || bench.fill(&[b"GET", b"k"], None);
        let sample = || fill().for_sample(SampleTicket::new(1, &Arc::default()));
        window.enter(&sample());
        assert!(window.contains(&sample()) && !window.contains(&fill()));
        window.enter(&fill());
        window.leave(&sample());
        assert!(window.contains(&sample()) && window.contains(&fill()), "what enters memory serves both");
        window.leave(&fill());
        assert!(!window.contains(&sample()) && !window.contains(&fill()));
    }

    #[test]
    fn the_window_is_bounded_by_number_by_bytes_and_by_rest() {
        let bench = FillBench::new();
        let fill = |n: usize| bench.fill(&[b"GET", n.to_string().as_bytes()], None).expecting(10);
        let mut window = FillWindow::new(100);
        let ten: Vec<_> = (0..10).map(fill).collect();
        for fill in &ten {
            assert!(window.is_open() && !window.contains(fill));
            window.enter(fill);
            assert!(window.contains(fill));
        }
        assert!(!window.is_open(), "by bytes");
        window.leave(&ten[0]);
        assert!(window.is_open());
        window.rest(AT(5));
        assert_eq!((window.is_open(), window.wakes()), (false, AT(5)));
        window.wake(AT(4));
        assert!(!window.is_open());
        window.wake(AT(5));
        assert_eq!((window.is_open(), window.wakes()), (true, Time::NEVER));
        let mut window = FillWindow::new(u64::MAX);
        (0..WINDOW).for_each(|n| window.enter(&fill(n)));
        assert!(!window.is_open(), "by number");
    }

    #[test]
    fn what_fills_hold_is_bounded_and_given_back() {
        let (bench, backlog) = (FillBench::new(), Backlog::new(50));
        let mut fills: Vec<_> = (0..3).map(|_| bench.fill(&[b"GET", b"k"], None)).collect();
        let taken: Vec<_> = fills.iter_mut().map(|fill| fill.take_share(&backlog)).collect();
        assert_eq!(taken, [true, true, false], "of {} bytes each", fills[0].request.len());
        fills.remove(0);
        assert!(fills[1].take_share(&backlog));
    }

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
