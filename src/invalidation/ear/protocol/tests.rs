//! Each transition of the protocol, without a server: what is asked is read from its bytes, and answered here.
//!
//! A long file: one test for each transition.

mod audit;
mod beyond;

use std::sync::Arc;

use super::super::super::mode::CoherenceMode;
use super::super::super::notice::Notices;
use super::*;
use crate::cache::{Identities, Identity, Query};
use crate::clock::LiveSpan;
use crate::command::lookup;
use crate::config::L1Mode;
use crate::resp::{Request, Span, encode};

const OK: &str = "+OK\r\n";
const ALL: &str = "%2\r\n$8\r\ncommands\r\n$5\r\n+@all\r\n$4\r\nkeys\r\n$2\r\n~*\r\n";
const FEW_RIGHTS: &str = "%2\r\n$8\r\ncommands\r\n$5\r\n+@all\r\n$4\r\nkeys\r\n$3\r\n~a*\r\n";
const FEATURES: &str = "*1\r\n_\r\n";
const TIME: &str = "*2\r\n$10\r\n1790000000\r\n$1\r\n0\r\n";
const LATENCY: &str = "%0\r\n";
const MASTER: &str = "%1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n";
const REPLICA: &str = "%1\r\n$4\r\nrole\r\n$7\r\nreplica\r\n";
const FLUSH: &str = ">2\r\n$10\r\ninvalidate\r\n_\r\n";
const NOPERM: &str = "-NOPERM User u has no permissions to run the 'x' command\r\n";
const NO_TTL: &str = ":-1\r\n";
const VALUE: &str = "$1\r\nv\r\n";

/// Later than any machine has been up, for the store compares with the real clock.
const START: u64 = 1 << 60;
const STALENESS: Duration = Duration::from_millis(400);
const RECHECK: Duration = Duration::from_secs(4);

/// All that an ear shares.
struct EarBench {
    terms: L1Terms,
    stamps: Stamps,
    store: Store,
    arrivals: Arrivals,
    opaque_writes: OpaqueWrites,
    silence: Silence,
    switch: ModeSwitch,
    generation: Generation,
    vouched: Vouched,
    stats: Stats,
    freshness: Freshness,
    fence_times: FenceTimes,
    rights: Rights,
    identity: Identity,
}

impl EarBench {
    fn new(mode: CoherenceMode) -> Self {
        let l1_size = 1 << 20;
        Self {
            terms: L1Terms {
                max_staleness: Arc::new(LiveSpan::new(STALENESS)),
                acl_recheck: RECHECK,
                max_value: 100.into(),
                l1_size,
                mode,
                is_cluster: false,
                max_ears: 1,
                beyond: None,
            },
            stamps: Stamps::for_l1(0),
            store: Store::new(l1_size),
            switch: ModeSwitch::new(true),
            arrivals: Arrivals::default(),
            opaque_writes: OpaqueWrites::default(),
            silence: Silence::default(),
            generation: Generation::default(),
            vouched: Vouched::always(),
            stats: Stats::default(),
            freshness: Freshness::new(),
            fence_times: FenceTimes::default(),
            rights: Rights::default(),
            identity: Identities::default().intern(b"", 0),
        }
    }

    fn tracking() -> Self {
        Self::new(CoherenceMode::tracking())
    }

    /// A new connection, at the start.
    fn connect(&self) -> EarLine<'_> {
        let around = Surroundings {
            terms: &self.terms,
            stamps: &self.stamps,
            store: &self.store,
            switch: &self.switch,
            arrivals: &self.arrivals,
            opaque_writes: &self.opaque_writes,
            silence: &self.silence,
            generation: &self.generation,
            vouched: &self.vouched,
            stats: &self.stats,
            freshness: &self.freshness,
            fence_times: &self.fence_times,
            rights: &self.rights,
            patience: Duration::from_secs(30),
        };
        let protocol = Protocol::new(around, b"u", self.generation.number(), at(0));
        EarLine { bench: self, protocol, now: 0, input: Vec::new(), pulse: 0 }
    }

    /// One on which everything that is asked first has been answered at once.
    fn ready(&self) -> EarLine<'_> {
        let mut line = self.connect();
        line.asked();
        line.answer(&[OK, OK, ALL, FEATURES, TIME, LATENCY, MASTER]);
        assert_eq!(line.effects(), ["FieldTtls(false)"]);
        line
    }

    fn request(words: &[&[u8]]) -> Vec<u8> {
        let mut raw = Vec::new();
        encode::command(&mut raw, words);
        raw
    }

    fn describe<R>(&self, words: &[&[u8]], then: impl FnOnce(Request<'_>, &Query<'_>) -> R) -> R {
        let (raw, mut spans): (_, Vec<Span>) = (Self::request(words), Vec::new());
        let request = Request::parse_canonical(&raw, &mut spans).expect("just written");
        let row = lookup(request).expect("a row");
        let rest = if request.argc() > 2 { request.tail(2) } else { &[] };
        let query = Query::new(&self.stamps, self.identity, row.id, request.arg(1), request.tail(1), rest);
        then(request, &query)
    }

    fn fill_in(&self, db: u32, words: &[&[u8]]) -> Fill {
        self.describe(words, |request, query| Fill::new(request, query, db, None, 100))
    }

    fn get(&self, key: &str) -> Fill {
        self.fill_in(0, &[b"GET", key.as_bytes()])
    }

    fn keeps(&self, key: &str, now: Time) -> bool {
        self.describe(&[b"GET", key.as_bytes()], |_, query| {
            self.store.contains_fresh(query, &self.stamps, &self.freshness, now)
        })
    }

    fn slot(&self, key: &str) -> Slot {
        self.stamps.slot(self.stamps.hash(key.as_bytes()))
    }

    fn lease_ms(&self) -> u128 {
        self.freshness.lease_left(at(0)).as_millis()
    }
}

fn at(ms: u64) -> Time {
    Time::from_nanos(START + ms * 1_000_000)
}

/// A connection of the ear under test.
struct EarLine<'a> {
    bench: &'a EarBench,
    protocol: Protocol<'a, u32>,
    now: u64,
    pulse: u64,
    input: Vec<u8>,
}

impl EarLine<'_> {
    /// What was asked since the last call.
    fn asked(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        self.protocol.take_unsent(&mut out);
        let text = String::from_utf8(out).expect("nothing here is not");
        let mut words = text.split("\r\n");
        let mut asked = Vec::new();
        while let Some(count) = words.next().and_then(|header| header.strip_prefix('*')) {
            let arguments: Vec<_> =
                (0..count.parse().expect("a number")).map(|_| (words.next(), words.next()).1).collect();
            let text: Vec<_> = arguments.into_iter().map(|word| word.expect("whole").to_uppercase()).collect();
            asked.push(text.join(" "));
        }
        asked
    }

    fn receive(&mut self, text: &str) -> Result<(), Disconnection> {
        self.input.extend_from_slice(text.as_bytes());
        self.protocol.receive(&mut self.input, at(self.now))
    }

    fn answer(&mut self, replies: &[&str]) {
        self.receive(&replies.concat()).expect("it goes on");
    }

    fn effects(&mut self) -> Vec<String> {
        self.protocol.effects().map(|effect| format!("{effect:?}")).collect()
    }

    /// Time passes, and what is due is done.
    fn pass(&mut self, ms: u64) -> Result<(), Disconnection> {
        self.now += ms;
        self.protocol.wake(at(self.now), at(self.pulse))
    }

    fn fill(&mut self, fill: Fill) {
        self.protocol.wake(at(self.now), at(self.pulse)).expect("it goes on");
        self.protocol.fill(std::iter::once(fill), at(self.now));
        self.now += 2; // past the rest
    }

    fn push(&mut self, key: &str) {
        self.answer(&[&format!(">2\r\n$10\r\ninvalidate\r\n*1\r\n${}\r\n{key}\r\n", key.len())]);
    }

    fn fills(&self, outcome: FillOutcome) -> u64 {
        self.bench.stats.fills(outcome)
    }
}

#[test]
fn a_new_connection_asks_for_all_that_it_needs_and_nothing_older_counts() {
    let bench = EarBench::tracking();
    let before = bench.freshness.epoch();
    let mut line = bench.connect();
    assert_ne!(bench.freshness.epoch(), before);
    let asked = line.asked();
    assert_eq!(asked[..3], ["CLIENT TRACKING ON", "CLIENT NO-EVICT ON", "ACL GETUSER U"]);
    assert!(asked[3].starts_with("COMMAND INFO HPEXPIRE"));
    assert_eq!(asked[4..], ["TIME", "LATENCY HISTOGRAM HELLO SWAPDB", "HELLO"]);
    assert!(!line.protocol.takes_fills() && !line.protocol.is_told());
    line.answer(&[OK, NOPERM]);
    assert!(line.protocol.is_told(), "CLIENT NO-EVICT may be refused");
    line.answer(&[ALL, FEATURES]);
    assert!(line.protocol.takes_fills());
    assert_eq!(bench.lease_ms(), 0);
    line.now = 30;
    line.answer(&[TIME, LATENCY, MASTER]);
    assert_eq!(bench.lease_ms(), STALENESS.as_millis(), "from when it was asked, not from the answer");
    assert_eq!(bench.freshness.heard_up_to(), at(0));
}

#[test]
fn by_other_means_it_asks_for_those() {
    let broadcast = EarBench::new(CoherenceMode::broadcast(vec![(*b"a:").into(), (*b"b:").into()]));
    assert_eq!(broadcast.connect().asked()[0], "CLIENT TRACKING ON BCAST PREFIX A: PREFIX B:");
    let channel = EarBench::new(CoherenceMode::channel(Notices::new("c".into(), "me".into()), Duration::MAX));
    assert_eq!(channel.connect().asked()[0], "SUBSCRIBE C");
}

#[test]
fn a_user_who_may_not_is_told_by_what() {
    let refused = |refusal| Disconnection::Refused(refusal, NOPERM.as_bytes().into());
    let bench = EarBench::tracking();
    assert_eq!(bench.connect().receive(NOPERM), Err(refused(Refusal::Tracking)));
    let fence = [OK, OK, ALL, FEATURES, TIME, LATENCY, NOPERM].concat();
    assert_eq!(bench.connect().receive(&fence), Err(refused(Refusal::Hello)));
    let mut line = bench.ready();
    line.fill(bench.get("k"));
    assert_eq!(line.receive(NOPERM), Err(refused(Refusal::Pttl)));
    let channel = EarBench::new(CoherenceMode::channel(Notices::new("c".into(), "me".into()), Duration::MAX));
    assert_eq!(channel.connect().receive(NOPERM), Err(refused(Refusal::Subscribe)));
}

#[test]
fn what_cannot_be_understood_ends_the_connection() {
    let bench = EarBench::tracking();
    let mut line = bench.ready();
    assert!(matches!(line.receive("+OK\r\n"), Err(Disconnection::Broken(_))), "nothing asked for it");
    assert!(matches!(bench.connect().receive("hello\r\n"), Err(Disconnection::Broken(_))));
}

#[test]
fn only_a_master_renews() {
    let bench = EarBench::tracking();
    let mut line = bench.ready();
    assert_eq!(bench.lease_ms(), 400);
    let fence = |line: &mut EarLine<'_>, at_ms, reply| {
        line.now = at_ms;
        line.protocol.fence(at(at_ms), 0, at(at_ms));
        let asked = line.asked();
        line.answer(&vec![TIME; usize::from(asked.iter().any(|asked| asked == "TIME"))]);
        line.answer(&vec![LATENCY; usize::from(asked.iter().any(|asked| asked.starts_with("LATENCY")))]);
        line.answer(&[reply]);
    };
    fence(&mut line, 100, MASTER);
    assert_eq!(bench.lease_ms(), 500);
    let epoch = bench.freshness.epoch();
    line.effects();
    fence(&mut line, 200, REPLICA);
    assert_eq!(bench.lease_ms(), 0, "it is taken back");
    assert_ne!(bench.freshness.epoch(), epoch);
    assert_eq!(line.effects(), ["Fenced(0)", "Doubt"]);
    line.fill(bench.get("k"));
    assert_eq!((line.fills(FillOutcome::Doomed), line.asked().len()), (1, 0), "a replica tells of no change");
    fence(&mut line, 300, "-MISCONF disk full\r\n");
    assert_eq!(bench.lease_ms(), 700, "a master whose disk is full lives and hears");
    fence(&mut line, 400, "-ERR odd\r\n");
    assert_eq!(bench.lease_ms(), 0);
}

#[test]
fn no_lease_begins_while_something_silences_it() {
    let lease_after = |disturb: &dyn Fn(&EarBench)| {
        let bench = EarBench::tracking();
        let mut line = bench.connect();
        line.answer(&[OK, OK, ALL, FEATURES, TIME, LATENCY]);
        disturb(&bench);
        let _ = line.receive(MASTER);
        bench.lease_ms()
    };
    assert_eq!(lease_after(&|_| {}), 400);
    assert_eq!(lease_after(&|bench| drop(bench.silence.pause(at(1)))), 0);
    assert_eq!(lease_after(&|bench| bench.silence.begin_swap()), 0);
    assert_eq!(lease_after(&|bench| bench.silence.share()), 0);
    assert_eq!(lease_after(&|bench| bench.silence.stand_alone(at(1))), 0, "it was asked before");
    let turn = |bench: &EarBench| {
        bench.generation.of(b"a", at(0), at(0));
        bench.generation.of(b"b", at(1), at(1));
    };
    assert_eq!(lease_after(&turn), 0);
    let several = EarBench::tracking();
    for n in 0..9 {
        several.generation.of(if n % 2 == 0 { b"a" } else { b"b" }, at(n), at(n));
    }
    several.ready();
    assert_eq!(several.lease_ms(), 0);
}

#[test]
fn after_another_process_no_lease_rests_on_any_proof_older_than_its_end() {
    let fence = |bench: &EarBench, line: &mut EarLine<'_>, sent, answers: &[&str]| {
        line.now = sent;
        line.protocol.fence(at(sent), 1, at(sent));
        line.asked();
        line.answer(answers);
        bench.lease_ms()
    };
    let all = [TIME, LATENCY, MASTER];
    let bench = EarBench::tracking();
    let mut line = bench.ready();
    bench.silence.stand_alone(at(10));
    bench.freshness.end();
    assert_eq!(fence(&bench, &mut line, 20, &[MASTER]), 0, "the probe was asked before");
    assert_eq!(fence(&bench, &mut line, 100, &all), 500);
    let bench = EarBench { vouched: Vouched::by_census(), ..EarBench::tracking() };
    let mut line = bench.ready();
    bench.vouched.pass(at(80));
    bench.silence.stand_alone(at(90));
    assert_eq!(fence(&bench, &mut line, 100, &all), 0, "the census began before");
    bench.vouched.pass(at(150));
    assert_eq!(fence(&bench, &mut line, 200, &all), 550);
    let bench = EarBench { silence: Silence::default().awaiting_channel(), ..EarBench::tracking() };
    let mut line = bench.ready();
    bench.silence.hear_channel(at(80));
    bench.silence.stand_alone(at(90));
    assert_eq!(fence(&bench, &mut line, 100, &all), 0, "the channel was heard before");
    bench.silence.hear_channel(at(150));
    assert_eq!(fence(&bench, &mut line, 200, &all), 550);
}

#[test]
fn where_swaps_are_not_counted_a_lease_lasts_no_longer_than_the_channel_has_proved() {
    let bench = EarBench { silence: Silence::default().awaiting_channel(), ..EarBench::tracking() };
    let mut line = bench.ready();
    assert_eq!(bench.lease_ms(), 0, "the channel was not heard");
    let mut fence = |sent, latency: &str| {
        line.now = sent;
        line.protocol.fence(at(sent), 1, at(sent));
        line.asked();
        line.answer(&[TIME, latency, MASTER]);
        bench.lease_ms()
    };
    bench.silence.hear_channel(at(80));
    assert_eq!(fence(100, LATENCY), 480);
    assert_eq!(fence(200, LATENCY), 480, "the channel was not heard since");
    bench.silence.hear_channel(at(290));
    assert_eq!(fence(280, LATENCY), 680, "no longer than the fence proves");
    let counted =
        |calls| format!("%1\r\n$5\r\nhello\r\n%2\r\n$5\r\ncalls\r\n:{calls}\r\n$14\r\nhistogram_usec\r\n%0\r\n");
    assert_eq!(fence(400, &counted(1)), 690, "not known yet");
    assert!(bench.silence.relies_on_channel());
    assert_eq!(fence(500, &counted(2)), 900, "the server counts them");
    assert!(!bench.silence.relies_on_channel());
}

#[test]
fn where_the_channel_carries_coherence_the_ear_proves_itself_that_it_is_heard() {
    let notices = Notices::new("c".to_owned(), "me".to_owned());
    let mode = CoherenceMode::channel(notices, Duration::from_secs(3600));
    let bench = EarBench { silence: Silence::default().awaiting_channel(), ..EarBench::new(mode) };
    bench.ready();
    assert_eq!((bench.lease_ms(), bench.silence.relies_on_channel()), (400, false));
}

#[test]
fn where_another_may_become_the_owner_a_lease_begins_with_the_census() {
    let bench = EarBench { vouched: Vouched::by_census(), ..EarBench::tracking() };
    let mut line = bench.ready();
    assert_eq!(bench.lease_ms(), 0, "no census was passed");
    bench.vouched.pass(at(80));
    let mut fence = |sent| {
        line.now = sent;
        line.protocol.fence(at(sent), 1, at(sent));
        assert_eq!(line.asked(), ["TIME", "LATENCY HISTOGRAM HELLO SWAPDB", "HELLO"]);
        line.answer(&[TIME, LATENCY, MASTER]);
        bench.lease_ms()
    };
    assert_eq!(fence(100), 480);
    bench.vouched.revoke(at(110));
    bench.freshness.end();
    assert_eq!(fence(200), 0);
    bench.vouched.pass(at(290));
    assert_eq!(fence(280), 680, "no later than the fence");
}

#[test]
fn a_lease_lasts_no_longer_than_rights_and_the_last_probe_allow() {
    let bench = EarBench {
        terms: L1Terms { acl_recheck: STALENESS / 2, ..EarBench::tracking().terms },
        ..EarBench::tracking()
    };
    bench.ready();
    assert_eq!(bench.lease_ms(), 200, "rights");
    let bench = EarBench::tracking();
    let mut line = bench.ready();
    // 20 ms later no probe is due, so this fence shows less than it would.
    line.now = 20;
    line.protocol.fence(at(20), 1, at(20));
    assert_eq!(line.asked(), ["HELLO"]);
    line.answer(&[MASTER]);
    assert_eq!(bench.lease_ms(), 400);
    assert_eq!(bench.freshness.heard_up_to(), at(20));
}

#[test]
fn what_was_asked_for_by_older_settings_or_before_pass_never_enters() {
    let bench = EarBench::tracking();
    let mut line = bench.ready();
    line.fill(bench.get("k"));
    assert_eq!(line.asked(), ["PTTL K", "GET K"]);
    bench.switch.go_by(1);
    bench.freshness.bump();
    line.answer(&[NO_TTL, VALUE]);
    assert_eq!((line.asked().len(), line.fills(FillOutcome::Doomed)), (0, 1), "one that was under way");
    line.fill(bench.get("k"));
    assert_eq!((line.asked().len(), line.fills(FillOutcome::Doomed)), (0, 2), "one that comes late");
    line.fill(bench.get("k").by_settings(1));
    assert_eq!(line.asked(), ["PTTL K", "GET K"]);
    bench.switch.set(L1Mode::Pass);
    bench.freshness.bump();
    line.answer(&[NO_TTL, VALUE]);
    assert_eq!((line.asked().len(), line.fills(FillOutcome::Doomed)), (0, 3), "nothing is kept");
    bench.switch.set(L1Mode::Cache);
    line.fill(bench.get("k").by_settings(1));
    line.asked();
    line.answer(&[NO_TTL, VALUE]);
    assert!(bench.keeps("k", at(5)));
}

#[test]
fn a_fill_enters_under_what_it_was_asked_under() {
    let bench = EarBench::tracking();
    let mut line = bench.ready();
    line.fill(bench.get("k"));
    assert_eq!(line.asked(), ["PTTL K", "GET K"]);
    assert!(!line.protocol.takes_fills(), "it rests");
    assert_eq!(line.protocol.deadline(), at(1));
    line.fill(bench.get("k"));
    assert_eq!(line.asked().len(), 0, "the same is under way");
    line.answer(&[":50\r\n", VALUE]);
    assert!(bench.keeps("k", at(49)));
    assert!(!bench.keeps("k", at(50)), "its time runs from the question");
    assert_eq!(bench.arrivals.last(bench.slot("k")), at(4));
    line.fill(bench.get("k"));
    assert_eq!(line.asked().len(), 0, "it is there");
    line.push("k");
    assert!(!bench.keeps("k", at(5)));
}

fn in_a_cluster() -> EarBench {
    EarBench { terms: L1Terms { is_cluster: true, ..EarBench::tracking().terms }, ..EarBench::tracking() }
}

#[test]
fn that_a_key_is_missing_is_kept_for_the_bound_alone_in_a_cluster() {
    for (bench, bound) in [(in_a_cluster(), true), (EarBench::tracking(), false)] {
        let mut line = bench.ready();
        line.fill(bench.get("k"));
        line.fill(bench.get("l"));
        line.asked();
        line.answer(&[":-2\r\n", "_\r\n", NO_TTL, VALUE]);
        let until = at(u64::try_from(STALENESS.as_millis()).expect("small"));
        bench.freshness.renew(until.plus(STALENESS));
        assert_eq!([bench.keeps("k", until), bench.keeps("l", until)], [!bound, true], "from the question on");
    }
}

#[test]
fn what_is_answered_with_a_redirect_is_dropped_and_a_slot_that_left_is_told() {
    let bench = in_a_cluster();
    let mut line = bench.ready();
    for (redirect, effects) in [
        ("-MOVED 7629 127.0.0.1:7001\r\n", vec!["SlotLeft(HashSlot(7629))"; 2]),
        ("-ASK 7629 127.0.0.1:7001\r\n", vec![]),
    ] {
        line.fill(bench.get("k"));
        line.asked();
        line.answer(&[redirect, redirect]);
        assert_eq!(line.effects(), effects);
        assert!(!bench.keeps("k", at(1)));
    }
    assert_eq!(line.fills(FillOutcome::Refused), 2);
    line.fill(bench.get("k"));
    line.answer(&[NO_TTL, VALUE]);
    assert!(bench.keeps("k", at(1)));
    assert!(!bench.store.slots().bump(HashSlot::of(b"k")));
    assert!(!bench.keeps("k", at(1)), "the slot has left");
}

#[test]
fn a_key_that_changes_under_way_is_read_once_more_and_no_more() {
    let bench = EarBench::tracking();
    let mut line = bench.ready();
    line.fill(bench.get("k"));
    line.asked();
    line.push("k");
    line.answer(&[NO_TTL, VALUE]);
    assert_eq!((line.asked(), line.fills(FillOutcome::Retried)), (vec!["PTTL K".into(), "GET K".into()], 1));
    line.answer(&[FLUSH, NO_TTL, VALUE]);
    assert_eq!((line.asked().len(), line.fills(FillOutcome::Doomed)), (0, 1));
    assert!(!bench.keeps("k", at(5)));
}

#[test]
fn nothing_is_asked_for_while_a_write_is_under_way() {
    let bench = EarBench::tracking();
    let mut line = bench.ready();
    bench.stamps.begin(bench.slot("k"));
    line.fill(bench.get("k"));
    assert_eq!((line.asked().len(), line.fills(FillOutcome::Doomed)), (0, 1));
    bench.stamps.end(bench.slot("k"));
    line.fill(bench.get("k"));
    bench.stamps.begin(bench.slot("k"));
    line.answer(&[NO_TTL, VALUE]);
    assert_eq!(line.fills(FillOutcome::Doomed), 2, "nor is it tried again under one");
    bench.stamps.end(bench.slot("k"));
    assert!(!bench.keeps("k", at(5)));
}

#[test]
fn errors_and_what_is_too_large_or_of_another_database_do_not_enter() {
    let bench = EarBench::tracking();
    let mut line = bench.ready();
    let large = format!("${}\r\n{}\r\n", 200, "x".repeat(200));
    for replies in [[NO_TTL, "-WRONGTYPE no\r\n"], ["-ERR no\r\n", VALUE], [NO_TTL, &large]] {
        let before = line.fills(FillOutcome::Refused);
        line.fill(bench.get("k"));
        line.answer(&replies);
        assert_eq!(line.fills(FillOutcome::Refused), before + 1);
    }
    line.asked();
    line.fill(bench.fill_in(3, &[b"GET", b"k"]));
    assert_eq!(line.asked(), ["SELECT 3", "PTTL K", "GET K"]);
    line.answer(&[NOPERM, NO_TTL, VALUE]);
    assert_eq!(line.fills(FillOutcome::Refused), 4, "it was read in database 0");
    line.fill(bench.fill_in(3, &[b"GET", b"k"]));
    assert_eq!(line.asked()[0], "SELECT 3", "it is asked again");
    line.answer(&[OK, NO_TTL, VALUE]);
    assert!(bench.keeps("k", at(20)));
}

#[test]
fn hash_fields_are_asked_for_their_own_time_where_the_server_gives_them_one() {
    let bench = EarBench::tracking();
    let mut line = bench.connect();
    line.asked();
    let features = "*1\r\n*6\r\n$8\r\nhpexpire\r\n:-6\r\n~1\r\n+write\r\n:1\r\n:1\r\n:1\r\n";
    line.answer(&[OK, OK, ALL, features, TIME, LATENCY, MASTER]);
    assert_eq!(line.effects(), ["FieldTtls(true)"]);
    line.fill(bench.fill_in(0, &[b"HGET", b"h", b"f"]));
    assert_eq!(line.asked(), ["PTTL H", "HPTTL H FIELDS 1 F", "HGET H F"]);
    line.answer(&[NO_TTL, "*1\r\n:0\r\n", VALUE]);
    assert_eq!(line.fills(FillOutcome::Expired), 1);
    line.fill(bench.fill_in(0, &[b"HGETALL", b"h"]));
    assert_eq!((line.asked().len(), line.fills(FillOutcome::Refused)), (0, 1), "which does not show them");
}

#[test]
fn rights_are_compared_behind_fills_and_a_difference_empties() {
    let bench = EarBench::tracking();
    let mut line = bench.connect();
    line.asked();
    line.answer(&[OK, OK, FEW_RIGHTS, FEATURES, TIME, LATENCY, MASTER]);
    line.fill(bench.get("a"));
    assert_eq!(line.asked(), ["PTTL A", "GET A", "ACL GETUSER U"]);
    line.fill(bench.get("ab"));
    assert_eq!(line.asked(), ["PTTL AB", "GET AB"], "one question is under way");
    line.answer(&[NO_TTL, VALUE, FEW_RIGHTS]);
    assert_eq!(line.asked(), ["ACL GETUSER U"], "and the next follows it");
    line.answer(&[NO_TTL, VALUE]);
    assert!(bench.keeps("a", at(10)) && bench.keeps("ab", at(10)));
    line.answer(&["-BUSY a script runs\r\n"]);
    assert!(bench.keeps("a", at(10)), "that tells nothing");
    line.pass(RECHECK.as_millis() as u64 / 2).expect("it goes on");
    assert!(line.asked().iter().any(|asked| asked == "ACL GETUSER U"));
    let epoch = bench.freshness.epoch();
    line.answer(&[TIME, LATENCY, MASTER, ALL]);
    assert_ne!(bench.freshness.epoch(), epoch);
    line.fill(bench.get("a"));
    assert_eq!(line.asked(), ["PTTL A", "GET A"], "who may do everything can be given nothing");
}

#[test]
fn where_the_user_may_not_ask_after_its_rights_the_steward_does() {
    let bench = EarBench::tracking();
    let mut line = bench.connect();
    line.asked();
    line.answer(&[OK, OK, NOPERM, FEATURES, TIME, LATENCY, MASTER]);
    assert_eq!(line.effects(), ["AskSteward", "FieldTtls(false)"]);
    line.fill(bench.get("k"));
    assert_eq!(line.asked(), ["PTTL K", "GET K"]);
    line.answer(&[NO_TTL, VALUE]);
    assert_eq!(line.effects(), ["RightsDue"]);
    bench.freshness.renew(Time::NEVER);
    assert!(
        bench.keeps("k", at(3999)) && !bench.keeps("k", at(4000)),
        "under unknown rights only what dies soon enters"
    );
}

#[test]
fn pushes_change_stamps_and_what_names_no_key_ends_the_epoch() {
    let bench = EarBench::tracking();
    let mut line = bench.ready();
    let (slot, other) = (bench.slot("k"), bench.slot("other"));
    let (stamp, spared, epoch) = (bench.stamps.load(slot), bench.stamps.load(other), bench.freshness.epoch());
    line.push("k");
    assert!(bench.stamps.load(slot) != stamp && bench.stamps.load(other) == spared);
    assert_eq!((bench.freshness.epoch(), bench.stats.invalidations.get()), (epoch, 1));
    for push in [FLUSH, ">2\r\n$10\r\ninvalidate\r\n:1\r\n"] {
        let epoch = bench.freshness.epoch();
        line.answer(&[push]);
        assert_ne!(bench.freshness.epoch(), epoch);
    }
    let epoch = bench.freshness.epoch();
    line.answer(&[">2\r\n$4\r\nodds\r\n_\r\n"]);
    assert_eq!((bench.freshness.epoch(), bench.stats.flushes.get()), (epoch, 2));
    let long = "x".repeat(200 << 10);
    line.answer(&[&format!(">2\r\n$10\r\ninvalidate\r\n*1\r\n${}\r\n{}", long.len(), &long[..100 << 10])]);
    line.answer(&[&long[100 << 10..], "\r\n"]);
    assert_ne!(bench.freshness.epoch(), epoch, "nobody has read whose key that is");
}

#[test]
fn where_the_channel_tells_its_messages_are_pushes() {
    let bench = EarBench::new(CoherenceMode::channel(Notices::new("c".into(), "me".into()), Duration::MAX));
    let mut line = bench.connect();
    let subscribed = ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";
    line.answer(&[subscribed, OK, ALL, FEATURES, TIME, LATENCY, MASTER]);
    assert!(line.protocol.is_told());
    let mut say = |payload: &str| {
        let before = (bench.stamps.load(bench.slot("k")), bench.freshness.epoch());
        line.answer(&[&format!(">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n${}\r\n{payload}\r\n", payload.len())]);
        (bench.stamps.load(bench.slot("k")) != before.0, bench.freshness.epoch() != before.1)
    };
    assert_eq!(say(r#"{"origin_id":"me","type":"Forget","keys":["k"]}"#), (true, false), "its own as well");
    assert_eq!(say(r#"{"type":"Remove","key":"other"}"#), (false, false));
    assert_eq!(say(r#"{"type":"ForgetAll"}"#), (false, true));
    assert_eq!(say(r#"{"type":"RemovePattern","pattern":"k*"}"#), (false, true));
    assert_eq!(say("nonsense"), (false, true), "it may have been about anything");
}

#[test]
fn who_waits_for_a_fence_is_told_when_something_sent_later_is_answered() {
    let bench = EarBench::tracking();
    let mut line = bench.ready();
    line.now = 10;
    line.protocol.fence(at(10), 1, at(10));
    assert_eq!(line.asked(), ["HELLO"]);
    line.now = 20;
    line.protocol.fence(at(20), 2, at(20));
    assert_eq!(line.asked().len(), 0, "one is under way");
    assert_eq!(bench.fence_times.expected(at(30)), Duration::from_millis(20));
    line.answer(&[MASTER]);
    assert_eq!((line.effects(), line.asked()), (vec!["Fenced(1)".to_owned()], vec!["HELLO".to_owned()]));
    line.fill(bench.get("k"));
    line.answer(&[MASTER]);
    assert_eq!(line.effects(), ["Fenced(2)"]);
    line.now = 40;
    line.protocol.fence(at(40), 3, at(40));
    line.asked();
    line.fill(bench.get("other"));
    line.answer(&[NO_TTL, VALUE]);
    assert_eq!(line.effects().len(), 0, "that was sent before");
}

#[test]
fn in_broadcast_mode_only_a_turn_of_its_own_shows_anything() {
    let bench = EarBench::new(CoherenceMode::broadcast(Vec::new()));
    let mut line = bench.connect();
    assert_eq!(line.asked()[6..], ["PING", "HELLO"]);
    line.protocol.fence(at(0), 1, at(0));
    line.answer(&[OK, OK, ALL, FEATURES, TIME, LATENCY]);
    assert_eq!((bench.freshness.heard_up_to(), line.effects()), (Time::ZERO, vec!["FieldTtls(false)".to_owned()]));
    line.answer(&["-BUSY a script runs\r\n", MASTER]);
    assert_eq!((bench.lease_ms(), line.effects().len()), (0, 0));
    line.pass(100).expect("it goes on");
    assert_eq!(line.asked().len(), 0, "there is nothing to renew a lease for");
    line.fill(bench.get("k"));
    assert_eq!(line.asked(), ["TIME", "LATENCY HISTOGRAM HELLO SWAPDB", "PING", "HELLO", "PTTL K", "GET K"]);
    line.answer(&[TIME, LATENCY, "+PONG\r\n", MASTER]);
    assert_eq!((bench.lease_ms(), bench.freshness.heard_up_to()), (500, at(100)));
    assert_eq!(line.effects(), ["Fenced(1)"]);
}

#[test]
fn fences_go_out_each_round_while_there_is_something_to_vouch_for() {
    let bench = EarBench::tracking();
    let mut line = bench.ready();
    for _ in 0..50 {
        line.pass(100).expect("it goes on");
        assert!(!line.asked().iter().any(|asked| asked == "HELLO"), "L1 is empty");
        if line.now == 2000 || line.now == 4000 {
            line.answer(&[ALL]); // which counts as heard
        }
    }
    line.now = 9_000;
    line.pass(1).expect("it goes on");
    assert!(line.asked().ends_with(&["HELLO".into(), "ACL GETUSER U".into()]), "it is asked whether it still hears");
    line.answer(&[TIME, LATENCY, MASTER, ALL]);
    line.fill(bench.get("k"));
    assert_eq!(line.asked(), ["HELLO", "PTTL K", "GET K"], "the rights had not been compared for too long for a lease");
    line.answer(&[MASTER, NO_TTL, VALUE]);
    line.pass(97).expect("it goes on");
    assert_eq!(line.protocol.deadline(), at(9_101));
    line.pass(1).expect("it goes on");
    assert_eq!(line.asked(), ["TIME", "LATENCY HISTOGRAM HELLO SWAPDB", "HELLO"]);
    let lapsed = bench.stats.leases_lapsed.get();
    line.pass(400).expect("it goes on");
    assert_eq!(bench.stats.leases_lapsed.get(), lapsed + 1);
}

#[test]
fn silence_ends_it_sooner_where_the_server_speaks_elsewhere() {
    let bench = EarBench::tracking();
    let mut line = bench.connect();
    line.pulse = 1000;
    assert_eq!(line.pass(2000), Ok(()));
    assert_eq!(line.pass(100), Err(Disconnection::Silent(Duration::from_secs(2))));
    let mut paused = bench.connect();
    assert_eq!(paused.pass(30_000), Ok(()), "it may have been told to pause");
    assert_eq!(paused.pass(100), Err(Disconnection::Silent(Duration::from_secs(30))));
}

#[test]
fn another_server_at_the_address_ends_it() {
    let bench = EarBench::tracking();
    bench.generation.of(b"a", at(0), at(0));
    let mut line = bench.ready();
    bench.generation.of(b"b", at(1), at(1));
    assert_eq!(line.receive(MASTER), Err(Disconnection::Turned));
    assert_eq!(line.pass(100), Err(Disconnection::Turned));
}

#[test]
fn what_redis_announces_to_nobody_ends_the_epoch_and_joining() {
    let bench = EarBench::tracking();
    let mut line = bench.ready();
    let (epoch, writes) = (bench.freshness.epoch(), bench.opaque_writes.answered());
    line.now = 100;
    line.protocol.fence(at(100), 0, at(100));
    let later = "*2\r\n$10\r\n1790000060\r\n$1\r\n0\r\n";
    line.answer(&[later, LATENCY, MASTER]);
    assert_ne!(bench.freshness.epoch(), epoch);
    assert_ne!(bench.opaque_writes.answered(), writes);
    assert_eq!(bench.stats.epochs(EpochReason::Clock), 1);
    line.asked();
    line.now = 200;
    line.protocol.fence(at(200), 0, at(200));
    line.answer(&[NOPERM, LATENCY, MASTER]);
    line.asked();
    line.now = 300;
    line.protocol.fence(at(300), 0, at(300));
    assert_eq!(line.asked(), ["LATENCY HISTOGRAM HELLO SWAPDB", "HELLO"], "it goes without");
}

#[test]
fn keys_that_were_hit_are_touched_where_redis_evicts_by_use() {
    let bench = EarBench::tracking();
    let mut line = bench.ready();
    line.fill(bench.get("k"));
    line.answer(&[NO_TTL, VALUE]);
    line.now = 10_100;
    line.pass(0).expect("it goes on");
    assert_eq!(line.asked().last().map(String::as_str), Some("INFO MEMORY"));
    line.effects();
    let memory = "=57\r\ntxt:# Memory\r\nmaxmemory:1\r\nmaxmemory_policy:allkeys-lru\r\n\r\n";
    line.answer(&[TIME, LATENCY, MASTER, ALL, memory]);
    let Some(EarEffect::Collect(keys)) = line.protocol.effects().next() else { panic!("they are to be collected") };
    assert_eq!(keys.collect(&bench.store), [], "nothing was hit");
    let batches = vec![TouchBatch { db: 5, keys: vec![(*b"k").into()] }];
    line.protocol.collected(batches, at(line.now));
    line.pass(100).expect("it goes on");
    assert!(line.asked().ends_with(&["SELECT 5".into(), "TOUCH K".into()]));
    line.answer(&[TIME, LATENCY, MASTER, OK, ":1\r\n"]);
    assert_eq!(bench.stats.touched.get(), 1);
}

#[test]
fn a_lost_connection_ends_lease_and_epoch() {
    let bench = EarBench::tracking();
    let mut line = bench.ready();
    line.fill(bench.get("k"));
    line.answer(&[NO_TTL, VALUE]);
    line.protocol.fence(at(3), 7, at(3));
    let epoch = bench.freshness.epoch();
    line.protocol.disconnect(at(4));
    assert_eq!((bench.lease_ms(), bench.stats.leases_lapsed.get()), (0, 1));
    assert_ne!(bench.freshness.epoch(), epoch);
    assert_eq!(bench.stats.epochs(EpochReason::EarLost), 1);
}

#[test]
fn a_login_that_is_not_answered_ends_it_before_anything_else_is_taken_for_its_answer() {
    const ECHO: &str = "$16\r\n00000000000000ab\r\n";
    const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    let no_echo = NOPERM.replace("'x'", "'echo'");
    let login = Login { user: (*b"u").into(), password: (*b"p").into() };
    let answers: [(&[&str], bool); 10] = [
        (&[OK, ECHO], true),
        (&[WRONG, ECHO], true),
        (&[OK, &no_echo], true),
        (&[WRONG, &no_echo], true),
        (&[ECHO], false),
        (&[&no_echo], false),
        (&["-BUSY Redis is busy running a script.\r\n"], false),
        (&[NO_TTL], false),
        (&[OK, "$16\r\n00000000000000ac\r\n"], false),
        (&[WRONG, VALUE], false),
    ];
    for (replies, goes_on) in answers {
        let bench = EarBench::tracking();
        let mut line = bench.ready();
        line.protocol.log_in(&login, 0xab, at(1));
        assert_eq!(line.asked(), ["AUTH U P", "ECHO 00000000000000AB"]);
        line.fill(bench.get("k"));
        let heard = line.receive(&replies.concat());
        if !goes_on {
            assert!(matches!(heard, Err(Disconnection::Broken(_))), "{replies:?}");
            continue;
        }
        assert_eq!(heard, Ok(()), "{replies:?}");
        line.answer(&[NO_TTL, VALUE]);
        assert!(bench.keeps("k", at(2)), "what comes behind it has its place");
    }
}

#[test]
fn however_the_bytes_are_cut_the_outcome_is_the_same() {
    let replies = [OK, OK, ALL, FEATURES, TIME, LATENCY, MASTER, FLUSH, NO_TTL, VALUE].concat();
    for cut in 0..=replies.len() {
        let bench = EarBench::tracking();
        let mut line = bench.connect();
        // The features have to be here before a fill is taken.
        let first = [OK, OK, ALL, FEATURES].concat().len();
        line.receive(&replies[..cut.min(first)]).expect("it goes on");
        line.receive(&replies[cut.min(first)..first]).expect("it goes on");
        line.fill(bench.get("k"));
        let cut = cut.max(first);
        line.receive(&replies[first..cut]).expect("it goes on");
        line.receive(&replies[cut..]).expect("it goes on");
        assert!(line.input.is_empty());
        assert_eq!((bench.lease_ms(), line.fills(FillOutcome::Retried)), (400, 1), "cut at {cut}");
    }
}
