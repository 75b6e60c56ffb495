//! The detour of a command that a node of a cluster did not carry out, or whose connection was lost: who is sent it next, how often it
//! is tried, and how its client learns that it was in vain.
//!
//! Where it goes the map says, never the line that a node answered: a script can answer with such a line, and after it has written. Only
//! `ASK` names a node, which must be in the map. [`Tries`] is the decision without I/O; when a command may go at all, `detour_queue`
//! decides; `pilot` asks, waits and sends.
//!
//! Holds contract points 2 (order) and 7 (a write is sent once).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::in_flight::{InFlight, ReplyAction};
use super::notified_write::MarkedWrite;
use super::recipient::Recipient;
use super::returned::{ReplyPurpose, ReturnReason};
use super::site::Site;
use super::start::Start;
use super::who::Who;
use crate::clock::Time;
use crate::command::{self, Effect, HashSlot, Route, Spec};
use crate::error::{Error, Sent};
use crate::metrics::RedirectKind;
use crate::resp::{Request, Resp, Span};

/// A command is sent so often to whom the map names, after nodes have said that it is another.
const MOVES: u32 = 5;
/// So many `ASK` in a row are followed without a pause.
const ASKS: u32 = 3;
/// How long a command is sent again because its keys are between two nodes.
const BETWEEN: Duration = Duration::from_secs(1);
/// The first pause, and the longest, before one of these is sent again.
const BETWEEN_PAUSE: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];
/// The same for what waits for another map.
const MAP_PAUSE: [Duration; 2] = [Duration::from_millis(25), Duration::from_millis(400)];

/// What crema says before a command that a node is to carry out though it does not serve the slot yet.
pub(super) const ASKING: &[u8] = b"*1\r\n$6\r\naSKING\r\n";
/// What stands before a write that goes with its notice.
const MULTI: &[u8] = b"*1\r\n$5\r\nmULTI\r\n";

/// Of what was sent, what is sent again.
pub(super) fn without_asking(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(ASKING).unwrap_or(bytes)
}

/// One command of one session, on its detour.
pub(super) struct Detour {
    pub(super) recipient: Recipient,
    pub(super) purpose: ReplyPurpose,
    /// What was sent, to be sent again: a write with its notice is more than one command.
    pub(super) bytes: Rc<[u8]>,
    /// It went behind an `ASKING`.
    pub(super) asking: bool,
    pub(super) why: ReturnReason,
    /// Where it was not carried out.
    pub(super) site: Rc<Site>,
    /// Who sent it, and in which version.
    pub(super) caller: (Rc<Who>, Resp),
    pub(super) start: Start,
    pub(super) tries: Tries,
}

impl Detour {
    /// The kind of what happened to it.
    pub(super) fn kind(&self) -> RedirectKind {
        match &self.why {
            ReturnReason::Redirect(kind, _) => kind.unwrap_or(RedirectKind::TryAgain),
            ReturnReason::Lost(..) | ReturnReason::Absent(_) => RedirectKind::Lost, // the last is on no detour
        }
    }

    /// It has been in vain: where nobody serves its slot, or nobody whom the map names, its client fares as where Redis is away. That it
    /// lies elsewhere is of no use to a client that knows one server.
    pub(super) fn give_up(self) {
        if let ReturnReason::Redirect(Some(RedirectKind::ClusterDown | RedirectKind::Moved), line) = &self.why {
            let why = String::from_utf8_lossy(&line[1..]).trim_end().into();
            let error = Error::Lost { node: Arc::clone(&self.site.node.address), why };
            return self.recipient.refuse(&self.site.shared, &error, Sent::No);
        }
        self.refuse();
    }

    /// What it came back with is its answer.
    pub(super) fn refuse(self) {
        let line = match self.why {
            ReturnReason::Redirect(_, line) => line,
            ReturnReason::Lost(error, sent) => return self.recipient.refuse(&self.site.shared, &error, sent),
            ReturnReason::Absent(_) => return, // the last is on no detour
        };
        // What a node said is the answer then: a write is over, and a script may have written all the same.
        let action = match self.purpose {
            ReplyPurpose::Write(MarkedWrite::Alone(guard)) => ReplyAction::Write(guard),
            ReplyPurpose::Write(MarkedWrite::WithNotice(write)) => ReplyAction::Write(write.guard),
            ReplyPurpose::Pass | ReplyPurpose::Read(..) | ReplyPurpose::Lead(..) => ReplyAction::Pass,
        };
        InFlight::new(&self.site, self.recipient, action, self.start).answer(&line);
    }
}

/// A command as it was sent, read again.
pub(super) struct SentCommand<'a> {
    pub(super) spec: &'static Spec,
    pub(super) request: Request<'a>,
}

impl<'a> SentCommand<'a> {
    /// The client's among `bytes`, where crema's own `ASKING` or `MULTI` may stand before it and others behind it.
    pub(super) fn read(bytes: &'a [u8], spans: &'a mut Vec<Span>) -> Option<Self> {
        let bytes = without_asking(bytes);
        let request = Request::parse_first(bytes.strip_prefix(MULTI).unwrap_or(bytes), spans)?;
        let spec = command::lookup(request)?;
        Some(Self { spec, request })
    }

    /// The slot of its keys; none where it names none.
    pub(super) fn slot(&self) -> Option<HashSlot> {
        self.spec.keys(self.request).next().map(HashSlot::of)
    }

    /// Whether an error that it is answered may be of its own making.
    pub(super) fn speaks_for_itself(&self) -> bool {
        self.spec.route == Route::ScriptLane || self.spec.effect == Effect::Opaque
    }
}

/// How often, and since when, a command has been sent in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tries {
    since: Time,
    all: u32,
    moves: u32,
    /// When it first came back because the map is not true any more: what it waits for since is the next map, however long it has waited
    /// for others before.
    astray: Option<Time>,
}

/// What is to be done with it next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextTry {
    /// It is sent at once.
    Now,
    /// It is sent after a pause.
    After(Duration),
    /// It is sent once the map names another node than before, or after that long all the same.
    Elsewhere(Duration),
    /// It has been in vain for long enough.
    GiveUp,
}

impl Tries {
    /// Before the first, of a command that came back at `since`.
    pub(crate) fn new(since: Time) -> Self {
        Self { since, all: 0, moves: 0, astray: None }
    }

    /// It came back because of `kind`. Another node may come to serve its slot for as long as `wait`.
    pub(crate) fn next(&mut self, kind: RedirectKind, wait: Duration, now: Time) -> NextTry {
        use RedirectKind as Kind;
        let first = self.all == 0;
        self.all += 1;
        let (long, since) = match kind {
            Kind::Ask | Kind::TryAgain => (BETWEEN, self.since),
            Kind::ClusterDown | Kind::Lost => (wait, self.since),
            Kind::Moved | Kind::ReadOnly => (wait, *self.astray.get_or_insert(now)),
        };
        let left = long.saturating_sub(now.saturating_since(since));
        // However short `wait` is, it is sent once, and once more by a newer map.
        let by_map = matches!(kind, Kind::Moved | Kind::ReadOnly) && self.moves == 0;
        if left.is_zero() && !first && !by_map {
            return NextTry::GiveUp;
        }
        let pause = |[least, most]: [Duration; 2], n: u32| least.saturating_mul(1 << n.min(10)).min(most);
        match kind {
            Kind::Ask if self.all <= ASKS => NextTry::Now,
            Kind::Ask | Kind::TryAgain => NextTry::After(pause(BETWEEN_PAUSE, self.all - 1).min(left)),
            Kind::Moved | Kind::ReadOnly if self.moves == MOVES => NextTry::GiveUp,
            Kind::Moved | Kind::ReadOnly => {
                self.moves += 1;
                let pause = pause(MAP_PAUSE, self.moves);
                NextTry::Elsewhere(if by_map { pause } else { pause.min(left) })
            }
            Kind::Lost if first => NextTry::Now,
            Kind::ClusterDown | Kind::Lost => NextTry::Elsewhere(pause(MAP_PAUSE, self.all).min(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(2);
    #[test]
    fn the_clients_command_is_found_among_crema_s_own() {
        let mut own = Vec::new();
        crate::resp::encode::own_command(&mut own, &[b"ASKING"]);
        assert_eq!(own, ASKING);
        crate::resp::encode::own_command(&mut own, &[b"MULTI"]);
        assert!(own.ends_with(MULTI));
        let set: &[u8] = b"*3\r\n$3\r\nSET\r\n$3\r\nfoo\r\n$1\r\nv\r\n";
        for bytes in [set.to_vec(), [ASKING, set].concat(), [ASKING, MULTI, set, b"*1\r\n$4\r\neXEC\r\n"].concat()] {
            let mut spans = Vec::new();
            let command = SentCommand::read(&bytes, &mut spans).expect("a command");
            assert_eq!((command.request.raw(), command.slot().map(HashSlot::number)), (set, Some(12_182)));
            assert!(!command.speaks_for_itself());
        }
        let eval: &[u8] = b"*3\r\n$4\r\nEVAL\r\n$1\r\nx\r\n$1\r\n0\r\n";
        let mut spans = Vec::new();
        let script = SentCommand::read(eval, &mut spans).expect("a command");
        assert!(script.speaks_for_itself() && script.slot().is_none());
    }

    const AT: fn(u64) -> Time = |millis| Time::from_nanos((1 << 40) + millis * 1_000_000);

    #[test]
    fn a_command_is_sent_five_times_to_whom_the_map_names() {
        let mut tries = Tries::new(AT(0));
        for n in 0..MOVES {
            let next = tries.next(RedirectKind::Moved, WAIT, AT(u64::from(n)));
            assert!(matches!(next, NextTry::Elsewhere(pause) if pause <= MAP_PAUSE[1]), "{n}: {next:?}");
        }
        assert_eq!(tries.next(RedirectKind::Moved, WAIT, AT(9)), NextTry::GiveUp);
        let mut tries = Tries::new(AT(0));
        let late = tries.next(RedirectKind::ReadOnly, Duration::ZERO, AT(5000));
        assert_eq!(
            late,
            NextTry::Elsewhere(Duration::from_millis(50)),
            "it is sent once, by a newer map if there is one"
        );
        assert_eq!(tries.next(RedirectKind::Moved, Duration::ZERO, AT(5001)), NextTry::GiveUp);
    }

    /// A slot's node was gone for as long as it is waited for, and is back as another's replica, which the map does not say yet: the
    /// keeper of the map reads it five times a second at most.
    #[test]
    fn one_that_is_late_and_then_sent_astray_waits_for_the_next_map() {
        for late in [RedirectKind::TryAgain, RedirectKind::Lost, RedirectKind::ClusterDown] {
            let (mut tries, mut now) = (Tries::new(AT(0)), AT(5000));
            assert_ne!(tries.next(late, WAIT, now), NextTry::GiveUp, "it is sent once");
            let began = now;
            for n in 0..MOVES {
                let next = tries.next(RedirectKind::Moved, WAIT, now);
                let NextTry::Elsewhere(pause) = next else { panic!("{n}: {next:?}") };
                now = now.plus(pause);
            }
            let waited = now.saturating_since(began);
            assert!(waited >= MAP_PAUSE[1] * 2 && waited <= WAIT, "{waited:?}");
            assert_eq!(tries.next(RedirectKind::Moved, WAIT, now), NextTry::GiveUp);
            assert_eq!(tries.next(late, WAIT, now), NextTry::GiveUp, "what it waited for before is over");
        }
    }

    #[test]
    fn keys_between_two_nodes_are_tried_for_a_second() {
        let mut tries = Tries::new(AT(0));
        assert_eq!(tries.next(RedirectKind::Ask, WAIT, AT(0)), NextTry::Now);
        for now in [1, 10, 100, 999] {
            let next = tries.next(RedirectKind::TryAgain, WAIT, AT(now));
            assert!(matches!(next, NextTry::After(pause) if pause <= BETWEEN_PAUSE[1]), "{next:?}");
        }
        assert!(matches!(tries.next(RedirectKind::Ask, WAIT, AT(999)), NextTry::After(_)), "no longer at once");
        assert_eq!(tries.next(RedirectKind::TryAgain, WAIT, AT(1000)), NextTry::GiveUp);
    }

    #[test]
    fn a_slot_without_a_node_is_waited_for() {
        let mut tries = Tries::new(AT(0));
        assert_eq!(tries.next(RedirectKind::Lost, WAIT, AT(0)), NextTry::Now, "a connection may be lost by itself");
        for (now, most) in [(0, 400), (500, 400), (1_950, 50)] {
            let next = tries.next(RedirectKind::Lost, WAIT, AT(now));
            assert!(matches!(next, NextTry::Elsewhere(pause) if pause <= Duration::from_millis(most)), "{next:?}");
        }
        assert_eq!(tries.next(RedirectKind::ClusterDown, WAIT, AT(2000)), NextTry::GiveUp);
    }
}
