//! A write and what goes with it: Redis does both in one step, or neither. That is the notice of it, where the channel carries coherence,
//! and its [companions](crate::beyond), where something lies beyond the upstream for its keys.
//!
//! A write on a lane goes as `MULTI`, the write, its companions, `PUBLISH`, `EXEC`. A client's own transaction is given them right
//! before `EXEC`. What would be answered otherwise in a transaction (it blocks; it would end a `WATCH`; it may change the
//! connection; Redis takes it though its memory is full, but queues nothing then) goes with them right behind it, in one piece, and
//! its reply waits for theirs. Redis mostly runs such two without a break as well. But a connection may be lost between them, and
//! then everyone is told to forget everything, and crema removes the versions itself. Of Redis's replies the client gets the one
//! that it would have got: what Redis said when it refused to queue the write, or its part of the reply to `EXEC`.
//! [`NotifiedReplies`] knows which bytes these are, however the replies are cut. Called by `caller`, which sends, and `in_flight`, which
//! is answered.
//!
//! Holds contract points 1 (same answers) and 4 (others' writes soon).

use std::borrow::Cow;
use std::sync::Arc;

use super::site::Site;
use super::write_guard::WriteGuard;
use crate::beyond::WriteSequel;
use crate::command::Spec;
use crate::invalidation::{AclUser, L1};
use crate::resp::{Request, Split, Splitter, encode};

/// What `EXEC` says where it is refused itself, in front of why.
const DISCARDED: &[u8] = b"-EXECABORT Transaction discarded because of: ";

/// How a write and its notice go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoticeForm {
    /// In a transaction of crema's own.
    Whole,
    /// One right behind the other, and where there are companions their marks before them.
    Pair,
    /// The same for a write of which a part is sent already: nothing can come before it.
    Behind,
    /// It is the `EXEC` of the client's own transaction.
    Exec,
}

/// What one of the replies is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Multi,
    Write,
    Companion,
    Publish,
    Exec,
}

impl NoticeForm {
    /// How this write goes where nothing else is under way on its connection.
    pub(super) fn of(site: &Site, user: &AclUser, spec: &Spec, request: Request<'_>) -> Self {
        let fits = || spec.fits_transaction(request, site.node.signs.is_full());
        if !site.shared.l1.writes_go_alone() && fits() { Self::Whole.tried_by(site, user) } else { Self::pair(site) }
    }

    /// The same, or where nobody has said that writes are to tell of themselves, and it is not known yet that the user may, a
    /// pair: there the write is done in any case.
    pub(super) fn tried_by(self, site: &Site, user: &AclUser) -> Self {
        let mode = site.shared.l1.mode();
        if !mode.writes_tell() || mode.insists() || user.publishes() { self } else { Self::pair(site) }
    }

    /// One behind the other: in a cluster without marks, for an `ASKING` holds for one command alone, and where a node refuses the first
    /// it must be the client's.
    pub(super) fn pair(site: &Site) -> Self {
        if site.redirects { Self::Behind } else { Self::Pair }
    }
}

/// What a write and all that goes with it are, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sequence {
    form: NoticeForm,
    /// Before the write.
    marks: usize,
    companions: usize,
    notice: bool,
}

impl Sequence {
    /// What it is of that place.
    fn part(self, place: usize) -> Option<Part> {
        let (before, behind): (&[Part], &[Part]) = match self.form {
            NoticeForm::Whole => (&[Part::Multi, Part::Write], &[Part::Publish, Part::Exec]),
            NoticeForm::Pair | NoticeForm::Behind => (&[Part::Write], &[Part::Publish]),
            NoticeForm::Exec => (&[], &[Part::Publish, Part::Exec]),
        };
        let Some(place) = place.checked_sub(self.marks) else { return Some(Part::Companion) };
        if let Some(&part) = before.get(place) {
            return Some(part);
        }
        match (place - before.len()).checked_sub(self.companions) {
            None => Some(Part::Companion),
            Some(place) => behind.get(place + usize::from(!self.notice)).copied(),
        }
    }

    /// How many of the elements of the reply to `EXEC` are none of the client's: the last.
    fn own(self) -> u64 {
        self.companions as u64 + u64::from(self.notice)
    }
}

/// What is sent for the write `command`, and what awaits its reply.
pub(super) fn notify<'a>(
    l1: &L1,
    (user, db): (&Arc<AclUser>, u32),
    mut guard: WriteGuard,
    form: NoticeForm,
    command: &'a [u8],
) -> (Cow<'a, [u8]>, MarkedWrite) {
    let notices = l1.mode().notices();
    let mut companions = guard.take_companions();
    if notices.is_none() {
        guard = guard.untold();
    }
    let notice = notices.and_then(|notices| Some((notices, guard.take_notice()?)));
    if notice.is_none() && companions.is_empty() {
        return (Cow::Borrowed(command), MarkedWrite::Alone(guard));
    }
    let goes_alone = companions.goes_alone() && notice.is_none(); // and something follows all the same
    let form = if goes_alone && form != NoticeForm::Exec { NoticeForm::Pair } else { form };
    let with = match form {
        NoticeForm::Whole | NoticeForm::Exec => companions.whole(),
        NoticeForm::Pair | NoticeForm::Behind => companions.behind().clone(),
    };
    let marks = if form == NoticeForm::Pair { companions.marks().count } else { 0 };
    let sequence = Sequence { form, marks, companions: with.count, notice: notice.is_some() };
    let mut out = Vec::with_capacity(command.len() + 2 * with.bytes.len() + 256);
    match form {
        NoticeForm::Whole => encode::own_command(&mut out, &[b"MULTI"]),
        NoticeForm::Pair => out.extend_from_slice(&companions.marks().bytes),
        NoticeForm::Behind | NoticeForm::Exec => {}
    }
    if form != NoticeForm::Exec {
        out.extend_from_slice(command);
    }
    out.extend_from_slice(&with.bytes);
    if let Some((notices, notice)) = notice {
        notices.write(&notice, &mut out);
    }
    match form {
        NoticeForm::Whole => encode::own_command(&mut out, &[b"EXEC"]),
        NoticeForm::Exec => out.extend_from_slice(command),
        NoticeForm::Pair | NoticeForm::Behind => {}
    }
    let replies = NotifiedReplies::new(sequence, guard.opaque);
    let (user, sequel) = (Arc::clone(user), (companions.take_sequel(), db));
    let write = NotifiedWrite { guard, replies, user, refusal: Vec::new(), sequel };
    (Cow::Owned(out), MarkedWrite::WithNotice(Box::new(write)))
}

/// A write whose stamps are marked, as it is sent.
pub(super) enum MarkedWrite {
    /// By itself.
    Alone(WriteGuard),
    /// With its notice, of whose replies the client gets its own.
    WithNotice(Box<NotifiedWrite>),
}

/// A write whose notice goes with it, until all replies are in.
pub(crate) struct NotifiedWrite {
    /// The write's stamps; ended once that is so.
    pub(super) guard: WriteGuard,
    pub(super) replies: NotifiedReplies,
    /// Who writes.
    pub(super) user: Arc<AclUser>,
    /// The client's reply, where that is an error and a node of a cluster may say so that another is to do the write.
    pub(super) refusal: Vec<u8>,
    /// What follows once it is done, in this database.
    pub(super) sequel: (WriteSequel, u32),
}

impl NotifiedWrite {
    /// Nothing of it was done, and it is sent as it was.
    pub(super) fn start_over(&mut self) {
        self.replies = NotifiedReplies::new(self.replies.sequence, self.replies.opaque);
        self.refusal.clear();
    }
}

/// The replies to a write and its notice: which bytes of them are the client's, and what they say of the two. No I/O.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
pub(super) struct NotifiedReplies {
    sequence: Sequence,
    /// The write may change keys that it does not name, refused or not.
    opaque: bool,
    /// Replies that are over.
    over: usize,
    /// `MULTI` was accepted.
    queues: bool,
    /// The client's reply has begun.
    pub(super) begun: Option<FirstByte>,
    /// The write may have been done, and the notice was refused.
    pub(super) untold: bool,
    /// The same of a companion.
    pub(super) unaccompanied: bool,
    /// What Redis said to the notice.
    pub(super) notice: Vec<u8>,
    /// What Redis said to what goes with it in a transaction that it did not do because of that.
    refusal: Vec<u8>,
    /// What it said to `EXEC`, where that was an error.
    failure: Vec<u8>,
    array: ExecReply,
}

/// How the client's reply has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FirstByte {
    /// Its first byte.
    pub(super) kind: u8,
    /// It is not the last of the replies: it is held until that is in.
    pub(super) early: bool,
}

/// The part of a reply's piece that is the client's.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ClientPart<'a> {
    /// Comes first, and mostly is nothing.
    pub(super) head: Vec<u8>,
    pub(super) body: &'a [u8],
}

impl<'a> ClientPart<'a> {
    fn all(body: &'a [u8]) -> Self {
        Self { head: Vec::new(), body }
    }
}

impl NotifiedReplies {
    fn new(sequence: Sequence, opaque: bool) -> Self {
        Self {
            sequence,
            opaque,
            over: 0,
            queues: false,
            begun: None,
            untold: false,
            unaccompanied: false,
            notice: Vec::new(),
            refusal: Vec::new(),
            failure: Vec::new(),
            array: ExecReply::default(),
        }
    }

    /// Whether the reply under way is the last: Redis has done all.
    fn is_last(&self) -> bool {
        self.sequence.part(self.over + 1).is_none()
    }

    /// Whether all replies are in.
    pub(super) fn is_over(&self) -> bool {
        self.sequence.part(self.over).is_none()
    }

    /// Whether the write was carried out, as far as its reply says: a transaction of which a watched key had changed is not.
    pub(super) fn is_carried_out(&self) -> bool {
        !self.array.is_nil && self.begun.is_some_and(|begun| begun.kind != b'-')
    }

    /// Whether the write was done, or a part of it.
    pub(super) fn is_done(&self) -> bool {
        self.begun.is_some_and(|begun| begun.kind != b'-' || self.opaque)
    }

    /// Whether a connection that is lost may have taken the write alone: without a transaction, or where none was granted.
    pub(super) fn may_be_alone(&self) -> bool {
        match self.sequence.form {
            NoticeForm::Whole => !self.queues,
            NoticeForm::Pair | NoticeForm::Behind => true,
            NoticeForm::Exec => false,
        }
    }

    /// What goes with the write is refused, or is not: `end` with the last piece of that.
    fn refused(&mut self, bytes: &[u8], end: bool) {
        if self.begun.is_none() {
            self.refusal.extend_from_slice(bytes);
        }
        if end && !self.refusal.starts_with(b"-NOPERM") {
            self.refusal.clear(); // then it was the server's trouble, and not that of what goes with it
        }
    }

    /// Takes the next piece of the replies, of which `kind` is the type byte; `end` with the last of each.
    pub(super) fn piece<'a>(&mut self, kind: u8, bytes: &'a [u8], end: bool) -> ClientPart<'a> {
        let refused = kind == b'-';
        let done = self.is_done();
        let is_exec = self.sequence.form == NoticeForm::Exec;
        let share = match self.sequence.part(self.over) {
            Some(Part::Multi) => {
                self.queues = !refused;
                ClientPart::default()
            }
            Some(Part::Write) if self.queues && !refused => ClientPart::default(),
            Some(Part::Write) => ClientPart::all(bytes),
            Some(Part::Companion) => {
                self.unaccompanied |= refused && done;
                if refused && self.refusal.is_empty() | !self.refusal.ends_with(b"\n") {
                    self.refused(bytes, end);
                }
                ClientPart::default()
            }
            Some(Part::Publish) => {
                self.untold |= refused && done;
                self.notice.extend_from_slice(bytes);
                if refused && self.refusal.is_empty() | !self.refusal.ends_with(b"\n") {
                    self.refused(bytes, end);
                }
                ClientPart::default()
            }
            // The write was answered before: refused, or done where there is no MULTI.
            Some(Part::Exec) if self.begun.is_some() && !self.array.begun => ClientPart::default(),
            Some(Part::Exec) if refused => {
                self.failure.extend_from_slice(bytes);
                ClientPart { head: if end { self.failed() } else { Vec::new() }, body: b"" }
            }
            Some(Part::Exec) if kind == b'*' => self.array.without_last(self.sequence.own(), bytes, is_exec),
            Some(Part::Exec) => {
                self.array.begun = true;
                self.array.is_nil |= is_exec && kind == b'_';
                ClientPart::all(bytes)
            }
            None => ClientPart::default(),
        };
        if let (None, Some(&kind)) = (self.begun, share.head.first().or(share.body.first())) {
            self.begun = Some(FirstByte { kind, early: !self.is_last() });
        }
        self.over += usize::from(end);
        share
    }
}

impl NotifiedReplies {
    /// What the client is told where `EXEC` was an error.
    fn failed(&mut self) -> Vec<u8> {
        if !self.refusal.is_empty() {
            return std::mem::take(&mut self.refusal);
        }
        match self.failure.strip_prefix(DISCARDED) {
            // The transaction is crema's, and so the client knows of none.
            Some(why) if self.sequence.form == NoticeForm::Whole => [b"-", why].concat(),
            _ => std::mem::take(&mut self.failure),
        }
    }
}

/// The reply to `EXEC`, whose last elements are those of what goes with the write.
#[derive(Default)]
struct ExecReply {
    begun: bool,
    /// The transaction is the client's, and was not carried out.
    is_nil: bool,
    header: Vec<u8>,
    /// Elements before those that have not ended.
    left: u64,
    splitter: Splitter,
}

impl ExecReply {
    /// Of the next piece, what belongs to elements before the last `own` ones; and in front of them, where it is asked for, a header
    /// for so many.
    fn without_last<'a>(&mut self, own: u64, bytes: &'a [u8], headed: bool) -> ClientPart<'a> {
        self.begun = true;
        let mut rest = bytes;
        let mut head = Vec::new();
        if !self.header.ends_with(b"\n") {
            let line = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |at| at + 1);
            self.header.extend_from_slice(&rest[..line]);
            rest = &rest[line..];
            if self.header.ends_with(b"\n") {
                let count = std::str::from_utf8(&self.header[1..]).ok().and_then(|text| text.trim_end().parse().ok());
                if let Some(count) = count {
                    self.left = u64::saturating_sub(count, own);
                    if headed {
                        encode::array_header(&mut head, self.left as usize);
                    }
                } else {
                    self.is_nil = headed; // what was watched had changed
                    head.extend_from_slice(&self.header);
                }
            }
        }
        let mut len = 0;
        while self.left > 0 && len < rest.len() {
            match self.splitter.split(&rest[len..]) {
                Ok(Split::End(end)) => {
                    len += end;
                    self.left -= 1;
                }
                // What is malformed has been found before it came here.
                Ok(Split::More) | Err(_) => len = rest.len(),
            }
        }
        ClientPart { head, body: &rest[..len] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the client gets of these replies, cut everywhere; and whether the write was done untold.
    fn client(form: NoticeForm, replies: &[&str]) -> (String, bool) {
        with(Sequence { form, marks: 0, companions: 0, notice: true }, replies)
    }

    fn with(sequence: Sequence, replies: &[&str]) -> (String, bool) {
        let mut results: Vec<(String, bool)> = Vec::new();
        let longest = replies.iter().map(|reply| reply.len()).max().unwrap_or(1);
        for size in 1..=longest {
            let mut split = NotifiedReplies::new(sequence, false);
            let mut got = Vec::new();
            for reply in replies {
                let reply = reply.as_bytes();
                assert!(!split.is_over());
                let mut pieces = reply.chunks(size).peekable();
                while let Some(piece) = pieces.next() {
                    let share = split.piece(reply[0], piece, pieces.peek().is_none());
                    got.extend_from_slice(&share.head);
                    got.extend_from_slice(share.body);
                }
            }
            assert!(split.is_over());
            assert_eq!(split.begun.map(|begun| begun.kind), got.first().copied());
            results.push((String::from_utf8(got).expect("text"), split.untold || split.unaccompanied));
        }
        results.dedup();
        assert_eq!(results.len(), 1, "however it is cut: {results:?}");
        results.remove(0)
    }

    const OK: &str = "+OK\r\n";
    const QUEUED: &str = "+QUEUED\r\n";
    const NOPERM: &str = "-NOPERM no\r\n";
    const ABORT: &str = "-EXECABORT Transaction discarded because of previous errors.\r\n";

    #[test]
    fn the_writes_own_reply_is_the_clients() {
        for reply in
            ["+OK\r\n", "$5\r\na\r\nbc\r\n", "-WRONGTYPE no\r\n", "*2\r\n:1\r\n*1\r\n$-1\r\n", "_\r\n", "*-1\r\n"]
        {
            let exec = format!("*2\r\n{reply}:3\r\n");
            assert_eq!(client(NoticeForm::Whole, &[OK, QUEUED, QUEUED, &exec]), (reply.to_owned(), false));
            assert_eq!(client(NoticeForm::Pair, &[reply, ":0\r\n"]), (reply.to_owned(), false));
        }
    }

    #[test]
    fn of_what_goes_with_it_nothing_is_shown() {
        let marks = |form| if form == NoticeForm::Pair { 2 } else { 0 };
        let sequence = |form, notice| Sequence { form, marks: marks(form), companions: 2, notice };
        let (whole, pair, exec) = (NoticeForm::Whole, NoticeForm::Pair, NoticeForm::Exec);
        for reply in ["+OK\r\n", "$2\r\nab\r\n", "*1\r\n:1\r\n", "-WRONGTYPE no\r\n"] {
            let done = format!("*3\r\n{reply}+OK\r\n+OK\r\n");
            let replies = [OK, QUEUED, QUEUED, QUEUED, done.as_str()];
            assert_eq!(with(sequence(whole, false), &replies), (reply.to_owned(), false));
            let done = format!("*4\r\n{reply}+OK\r\n+OK\r\n:1\r\n");
            let replies = [OK, QUEUED, QUEUED, QUEUED, QUEUED, done.as_str()];
            assert_eq!(with(sequence(whole, true), &replies), (reply.to_owned(), false));
            let behind = [reply, OK, OK];
            assert_eq!(with(sequence(NoticeForm::Behind, false), &behind), (reply.to_owned(), false));
            assert_eq!(with(sequence(pair, false), &[OK, OK, reply, OK, OK]), (reply.to_owned(), false));
            let refused = ["-OOM no\r\n", OK, reply, OK, "-OOM no\r\n"];
            assert_eq!(with(sequence(pair, false), &refused), (reply.to_owned(), !reply.starts_with('-')));
            let both = format!("*2\r\n{reply}:7\r\n");
            let done = format!("*4\r\n{reply}:7\r\n+OK\r\n+OK\r\n");
            assert_eq!(with(sequence(exec, false), &[QUEUED, QUEUED, &done]), (both, false));
        }
        let refused = [OK, QUEUED, NOPERM, QUEUED, ABORT];
        assert_eq!(with(sequence(whole, false), &refused), (NOPERM.to_owned(), false), "who may not is told");
        assert_eq!(with(sequence(exec, false), &[QUEUED, QUEUED, "*-1\r\n"]), ("*-1\r\n".to_owned(), false));
    }

    #[test]
    fn a_write_that_redis_does_not_queue_is_answered_by_that() {
        let refused = "-ERR wrong number of arguments for 'set' command\r\n";
        assert_eq!(client(NoticeForm::Whole, &[OK, refused, QUEUED, ABORT]), (refused.to_owned(), false));
    }

    #[test]
    fn a_transaction_that_the_client_knows_nothing_of_is_not_told_of() {
        let why = "READONLY You can't write against a read only replica.\r\n";
        let abort = format!("{}{why}", String::from_utf8_lossy(DISCARDED));
        assert_eq!(client(NoticeForm::Whole, &[OK, QUEUED, QUEUED, &abort]), (format!("-{why}"), false));
        assert_eq!(client(NoticeForm::Exec, &[QUEUED, &abort]), (abort.clone(), false));
    }

    #[test]
    fn a_write_whose_notice_is_refused_is_not_done_and_told_why() {
        assert_eq!(client(NoticeForm::Whole, &[OK, QUEUED, NOPERM, ABORT]), (NOPERM.to_owned(), false));
        assert_eq!(client(NoticeForm::Exec, &[NOPERM, ABORT]), (NOPERM.to_owned(), false));
        let full = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";
        assert_eq!(
            client(NoticeForm::Exec, &[full, ABORT]),
            (ABORT.to_owned(), false),
            "as the client's own commands were"
        );
        assert_eq!(
            client(NoticeForm::Pair, &["+OK\r\n", NOPERM]),
            ("+OK\r\n".to_owned(), true),
            "done, so told otherwise"
        );
    }

    #[test]
    fn where_there_is_no_multi_the_two_are_a_pair() {
        let no_exec = "-ERR EXEC without MULTI\r\n";
        assert_eq!(client(NoticeForm::Whole, &[NOPERM, ":7\r\n", ":1\r\n", no_exec]), (":7\r\n".to_owned(), false));
        assert_eq!(client(NoticeForm::Whole, &[NOPERM, ":7\r\n", NOPERM, no_exec]), (":7\r\n".to_owned(), true));
    }

    #[test]
    fn a_clients_transaction_loses_the_last_element_alone() {
        for (redis, mine) in [
            ("*3\r\n+OK\r\n$2\r\nab\r\n:1\r\n", "*2\r\n+OK\r\n$2\r\nab\r\n"),
            ("*2\r\n%1\r\n+a\r\n*2\r\n:1\r\n:2\r\n:0\r\n", "*1\r\n%1\r\n+a\r\n*2\r\n:1\r\n:2\r\n"),
            ("*1\r\n:0\r\n", "*0\r\n"),
            ("*-1\r\n", "*-1\r\n"),
            ("_\r\n", "_\r\n"),
            (ABORT, ABORT),
        ] {
            assert_eq!(client(NoticeForm::Exec, &[QUEUED, redis]), (mine.to_owned(), false));
        }
    }
}
