//! What a session's commands go on, and what the client has made of it: a state machine without I/O.
//!
//! A link is in exactly one state, and all that is true of a state only lies in that state. Each change is a method that takes
//! the old state for the new one. What must be done for a change (lend a connection, wait for answers, send something) is done
//! by `pinned`; `C` is the private connection, of which nothing is known here but that the link holds it.
//!
//! Holds contract point 2: a state that puts commands elsewhere is entered only when all that was sent before is answered.

use std::collections::VecDeque;
use std::mem;

use crate::proxy::{ReplyPlace, Transaction};

/// What a session's commands go on.
#[derive(Debug, Default)]
pub(super) enum Link<C> {
    /// The lanes that it shares with other sessions.
    #[default]
    Shared,
    /// A borrowed connection in any database, for one command about the server.
    Errand(Box<C>),
    /// A borrowed connection, until what it was borrowed for is over.
    Loan(Box<Loan<C>>),
    /// A connection for life, for what is about a connection. All else goes on a lane where nothing on this one is unanswered.
    Home(Box<Home<C>>),
    /// A connection for life on which everything goes: it holds state that crema does not follow.
    Tainted(Box<OwnedConnection<C>>),
    /// The same, and Redis says more on it than replies: the client subscribed, or monitors.
    Stream(Box<OwnedConnection<C>>),
    /// The same, and neither side speaks the protocol any more: the client is a replica.
    Replica(Box<C>),
}

/// How long a private connection is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    /// As [`Link::Home`].
    Home,
    /// As [`Link::Tainted`].
    Tainted,
    /// As [`Link::Stream`].
    Stream,
}

/// See [`Link::Loan`].
#[derive(Debug)]
pub(super) struct Loan<C> {
    own: PrivateConnection<C>,
    /// There was state on it since it was lent or renewed, so that the session ends with the connection.
    bound: bool,
}

/// See [`Link::Home`].
#[derive(Debug)]
pub(super) struct Home<C> {
    kept: OwnedConnection<C>,
    /// Reads are not to touch keys: they go over the connection on which the client said so.
    no_touch: bool,
    /// Redis keeps the client's name, and sees all that it sends under it.
    named: bool,
}

/// A connection that stays with its session for life.
#[derive(Debug)]
pub(super) struct OwnedConnection<C> {
    own: PrivateConnection<C>,
    /// It has been told the client's name and library.
    introduced: bool,
}

#[derive(Debug)]
struct PrivateConnection<C> {
    conn: C,
    open: Option<OpenTransaction>,
    watching: bool,
    /// Bytes of the request under way that were sent ahead of the rest.
    ahead: usize,
    /// The places of commands that Redis has wait unless it can answer them at once; some may have been answered.
    waits: VecDeque<ReplyPlace>,
}

/// A transaction that the client has begun and not ended.
#[derive(Debug, Default)]
pub(super) struct OpenTransaction {
    /// What it has queued.
    pub(super) queue: Transaction,
    /// A name for the client is in the queue: the connection will know that one.
    pub(super) renames: bool,
}

/// A transaction that `EXEC` ends.
#[derive(Debug)]
pub(super) struct EndedTransaction {
    pub(super) queue: Transaction,
    pub(super) renames: bool,
    /// Whether it fails where a watched key has changed.
    pub(super) watched: bool,
}

/// What is to be done with a link before user or version of its session change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BeforeLogin {
    /// Nothing.
    Nothing,
    /// The loan is over: it goes back first.
    GiveBack,
    /// It changes along with the session, and so is none of the pool's any more.
    Keep,
}

impl<C> PrivateConnection<C> {
    fn new(conn: C) -> Self {
        Self { conn, open: None, watching: false, ahead: 0, waits: VecDeque::new() }
    }

    /// Nothing on it is under way that another command could disturb.
    fn is_free(&self) -> bool {
        self.open.is_none() && !self.watching && self.ahead == 0
    }
}

impl<C> Link<C> {
    /// A connection has been borrowed.
    pub(super) fn borrowed(conn: C) -> Self {
        Self::Loan(Box::new(Loan { own: PrivateConnection::new(conn), bound: false }))
    }

    fn own(&self) -> Option<&PrivateConnection<C>> {
        match self {
            Self::Shared | Self::Errand(_) | Self::Replica(_) => None,
            Self::Loan(loan) => Some(&loan.own),
            Self::Home(home) => Some(&home.kept.own),
            Self::Tainted(kept) | Self::Stream(kept) => Some(&kept.own),
        }
    }

    fn own_mut(&mut self) -> Option<&mut PrivateConnection<C>> {
        match self {
            Self::Shared | Self::Errand(_) | Self::Replica(_) => None,
            Self::Loan(loan) => Some(&mut loan.own),
            Self::Home(home) => Some(&mut home.kept.own),
            Self::Tainted(kept) | Self::Stream(kept) => Some(&mut kept.own),
        }
    }

    fn kept_mut(&mut self) -> Option<&mut OwnedConnection<C>> {
        match self {
            Self::Home(home) => Some(&mut home.kept),
            Self::Tainted(kept) | Self::Stream(kept) => Some(kept),
            _ => None,
        }
    }

    /// The private connection, if there is one.
    pub(super) fn conn(&self) -> Option<&C> {
        match self {
            Self::Errand(conn) | Self::Replica(conn) => Some(conn),
            _ => self.own().map(|own| &own.conn),
        }
    }

    /// The same, to be changed.
    pub(super) fn conn_mut(&mut self) -> Option<&mut C> {
        match self {
            Self::Errand(conn) | Self::Replica(conn) => Some(conn),
            _ => self.own_mut().map(|own| &mut own.conn),
        }
    }

    /// There is no private connection.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::Shared)
    }

    /// The private connection stays with the session for life.
    pub(super) fn is_for_life(&self) -> bool {
        !matches!(self, Self::Shared | Self::Errand(_) | Self::Loan(_))
    }

    /// Crema knows what each command means on it.
    pub(super) fn is_followed(&self) -> bool {
        !matches!(self, Self::Tainted(_) | Self::Stream(_) | Self::Replica(_))
    }

    /// The session ends with its connection: there is, or was, state on it that would be lost in silence.
    pub(super) fn is_bound(&self) -> bool {
        match self {
            Self::Shared | Self::Errand(_) => false,
            Self::Loan(loan) => loan.bound,
            _ => true,
        }
    }

    /// A command of crema's own is a part of nothing that the client has begun on the connection, and changes nothing there.
    pub(super) fn is_free(&self) -> bool {
        match self {
            Self::Loan(loan) => loan.own.is_free(),
            Self::Home(home) => home.kept.own.is_free(),
            _ => false,
        }
    }

    /// The connection is borrowed, and what it was borrowed for is over.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Errand(_) => true,
            Self::Loan(loan) => loan.own.is_free(),
            _ => false,
        }
    }

    /// A home on which nothing is under way.
    pub(super) fn free_home(&self) -> Option<&C> {
        match self {
            Self::Home(home) if home.kept.own.is_free() => Some(&home.kept.own.conn),
            _ => None,
        }
    }

    /// A home that what may go on a lane leaves for one: no transaction is begun on it, and it means nothing to other commands.
    pub(super) fn leaves_home(&self) -> Option<&C> {
        match self {
            Self::Home(home) if !home.no_touch && !home.named => self.free_home(),
            _ => None,
        }
    }

    /// The transaction that the client has begun.
    pub(super) fn open(&self) -> Option<&OpenTransaction> {
        self.own()?.open.as_ref()
    }

    /// The same, to be changed.
    pub(super) fn open_mut(&mut self) -> Option<&mut OpenTransaction> {
        self.own_mut()?.open.as_mut()
    }

    /// The client watches keys.
    pub(super) fn is_watching(&self) -> bool {
        self.own().is_some_and(|own| own.watching)
    }

    /// Bytes of the request under way that were sent ahead of the rest.
    pub(super) fn ahead(&self) -> usize {
        self.own().map_or(0, |own| own.ahead)
    }

    /// The command at `place` is one that Redis has wait unless it can answer it at once.
    pub(super) fn waits_at(&self, place: ReplyPlace) -> bool {
        self.own().is_some_and(|own| own.waits.contains(&place))
    }

    /// What is to be done before user or version of its session change.
    pub(super) fn before_login(&self) -> BeforeLogin {
        match self {
            Self::Shared => BeforeLogin::Nothing,
            _ if self.is_over() => BeforeLogin::GiveBack,
            _ => BeforeLogin::Keep,
        }
    }
}

impl<C> Link<C> {
    /// A loan that is over ends: its connection.
    pub(super) fn end_loan(&mut self) -> Option<C> {
        if !self.is_over() {
            return None;
        }
        self.let_go()
    }

    /// The connection, which the session does without from here on.
    fn let_go(&mut self) -> Option<C> {
        match mem::take(self) {
            Self::Shared => None,
            Self::Errand(conn) | Self::Replica(conn) => Some(*conn),
            Self::Loan(loan) => Some(loan.own.conn),
            Self::Home(home) => Some(home.kept.own.conn),
            Self::Tainted(kept) | Self::Stream(kept) => Some(kept.own.conn),
        }
    }

    /// A loan that is over serves for something else.
    pub(super) fn renew(&mut self) {
        match self {
            Self::Loan(loan) if loan.own.is_free() => loan.bound = false,
            _ => {}
        }
    }

    /// A loan is kept for life, or a kept connection is given over to more. Nothing leads back but [`reset`](Self::reset).
    pub(super) fn keep(&mut self, stay: Stay) {
        let kept = |own| Box::new(OwnedConnection { own, introduced: false });
        *self = match (mem::take(self), stay) {
            (Self::Loan(loan), Stay::Home) => {
                let kept = OwnedConnection { own: loan.own, introduced: false };
                Self::Home(Box::new(Home { kept, no_touch: false, named: false }))
            }
            (Self::Loan(loan), Stay::Tainted) => Self::Tainted(kept(loan.own)),
            (Self::Loan(loan), Stay::Stream) => Self::Stream(kept(loan.own)),
            (Self::Home(home), Stay::Tainted) => Self::Tainted(Box::new(home.kept)),
            (Self::Home(home), Stay::Stream) => Self::Stream(Box::new(home.kept)),
            (Self::Tainted(kept), Stay::Stream) => Self::Stream(kept),
            (link, _) => link,
        };
    }

    /// Redis took the client for a replica.
    pub(super) fn replicate(&mut self) {
        *self = match mem::take(self) {
            Self::Tainted(kept) | Self::Stream(kept) => Self::Replica(Box::new(kept.own.conn)),
            link => link,
        };
    }

    /// `MULTI` was sent.
    pub(super) fn multi(&mut self) {
        self.bind();
        if let Some(own) = self.own_mut() {
            own.open.get_or_insert_default();
        }
    }

    /// `WATCH` was sent. In a transaction Redis refuses it.
    pub(super) fn watch(&mut self) {
        self.bind();
        if let Some(own) = self.own_mut() {
            own.watching |= own.open.is_none();
        }
    }

    /// `UNWATCH` was sent. In a transaction it is queued.
    pub(super) fn unwatch(&mut self) {
        if let Some(own) = self.own_mut() {
            own.watching &= own.open.is_some();
        }
    }

    /// `EXEC` is to be sent: the transaction that it ends, and the watch with it. Where it ends none it is an error, and ends no
    /// watch either.
    pub(super) fn exec(&mut self) -> Option<EndedTransaction> {
        let own = self.own_mut()?;
        let OpenTransaction { queue, renames } = own.open.take()?;
        Some(EndedTransaction { queue, renames, watched: mem::take(&mut own.watching) })
    }

    /// `DISCARD` was sent.
    pub(super) fn discard(&mut self) {
        if let Some(own) = self.own_mut() {
            own.watching &= own.open.take().is_none();
        }
    }

    /// So many bytes of the request under way were sent ahead of the rest.
    pub(super) fn send_ahead(&mut self, bytes: usize) {
        self.bind();
        if let Some(own) = self.own_mut() {
            own.ahead = bytes;
        }
    }

    /// The request under way is whole: whether something of it was sent ahead. A loan for that alone is over.
    pub(super) fn end_ahead(&mut self) -> bool {
        let ahead = self.own_mut().map_or(0, |own| mem::take(&mut own.ahead));
        if ahead > 0 {
            self.renew();
        }
        ahead > 0
    }

    /// A command that Redis may have wait is sent at `place`; all before `head` are answered.
    pub(super) fn note_wait(&mut self, place: ReplyPlace, head: ReplyPlace) {
        if let Some(own) = self.own_mut() {
            own.waits.retain(|&wait| wait >= head);
            own.waits.push_back(place);
        }
    }

    fn bind(&mut self) {
        if let Self::Loan(loan) = self {
            loan.bound = true;
        }
    }

    /// `CLIENT NO-TOUCH` was sent on a home.
    pub(super) fn set_no_touch(&mut self, on: bool) {
        if let Self::Home(home) = self {
            home.no_touch = on;
        }
    }

    /// Redis keeps the client's name, or does not any more.
    pub(super) fn set_named(&mut self, named: bool) {
        if let Self::Home(home) = self {
            home.named = named;
        }
    }

    /// The connection is the client's own, and is to be told now who that is. Once.
    pub(super) fn introduce(&mut self) -> Option<&mut C> {
        let kept = self.kept_mut().filter(|kept| !kept.introduced && kept.own.open.is_none())?;
        kept.introduced = true;
        Some(&mut kept.own.conn)
    }

    /// The connection is the client's own and has not been told who that is.
    pub(super) fn awaits_introduction(&self) -> bool {
        match self {
            Self::Home(home) => !home.kept.introduced,
            Self::Tainted(kept) | Self::Stream(kept) => !kept.introduced,
            _ => false,
        }
    }

    /// `RESET`: whoever keeps a connection for life keeps it where `keeps` says so, as good as new. Else it is let go.
    pub(super) fn reset(&mut self, keeps: bool) -> Option<C> {
        if !keeps || !self.is_for_life() {
            return self.let_go();
        }
        if let Some(own) = self.own_mut() {
            (own.open, own.watching, own.ahead) = (None, false, 0);
        }
        *self = match mem::take(self) {
            Self::Home(mut home) => {
                (home.no_touch, home.named) = (false, false);
                Self::Home(home)
            }
            Self::Stream(kept) => Self::Tainted(kept),
            link => link,
        };
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(place: u64) -> ReplyPlace {
        ReplyPlace::at(place)
    }

    /// A connection that only has a number.
    type Numbered = Link<u32>;

    fn loan() -> Numbered {
        Link::borrowed(7)
    }

    fn kept(stay: Stay) -> Numbered {
        let mut link = loan();
        link.keep(stay);
        link
    }

    fn errand() -> Numbered {
        Link::Errand(Box::new(7))
    }

    fn replica() -> Numbered {
        let mut link = kept(Stay::Tainted);
        link.replicate();
        link
    }

    fn with(mut link: Numbered, change: impl FnOnce(&mut Numbered)) -> Numbered {
        change(&mut link);
        link
    }

    fn name(link: &Numbered) -> &'static str {
        match link {
            Link::Shared => "shared",
            Link::Errand(_) => "errand",
            Link::Loan(_) => "loan",
            Link::Home(_) => "home",
            Link::Tainted(_) => "tainted",
            Link::Stream(_) => "stream",
            Link::Replica(_) => "replica",
        }
    }

    /// One in each state, with nothing under way.
    fn each() -> [Numbered; 7] {
        let [home, tainted, stream] = [Stay::Home, Stay::Tainted, Stay::Stream].map(kept);
        [Link::Shared, errand(), loan(), home, tainted, stream, replica()]
    }

    #[test]
    fn what_holds_in_each_state() {
        // Connection, for life, followed, over, left for a lane, the session ends with it.
        let table = [
            ("shared", [false, false, true, false, false, false]),
            ("errand", [true, false, true, true, false, false]),
            ("loan", [true, false, true, true, false, false]),
            ("home", [true, true, true, false, true, true]),
            ("tainted", [true, true, false, false, false, true]),
            ("stream", [true, true, false, false, false, true]),
            ("replica", [true, true, false, false, false, true]),
        ];
        for (link, (state, want)) in each().iter().zip(table) {
            let connected = link.conn() == Some(&7);
            let leaves = link.leaves_home().is_some();
            let is = [connected, link.is_for_life(), link.is_followed(), link.is_over(), leaves, link.is_bound()];
            assert_eq!((name(link), is), (state, want));
            assert_eq!(link.is_shared(), !connected);
            assert!(link.open().is_none() && !link.is_watching() && link.ahead() == 0);
        }
    }

    #[test]
    fn a_loan_for_one_command_is_over_at_once() {
        let mut link = loan();
        assert!(link.is_over() && !link.is_bound(), "its connection may be lost");
        assert_eq!(link.end_loan(), Some(7));
        assert!(link.is_shared());
        assert_eq!(link.end_loan(), None);
    }

    #[test]
    fn a_loan_for_a_transaction_is_over_with_exec() {
        for end in [|link: &mut Numbered| assert!(link.exec().is_some()), |link: &mut Numbered| link.discard()] {
            let mut link = with(loan(), Link::multi);
            assert!(!link.is_over() && link.is_bound() && link.open().is_some());
            assert_eq!(link.end_loan(), None, "not while it is under way");
            link.renew();
            assert!(link.is_bound(), "nor is it anything else's");
            end(&mut link);
            assert!(link.is_over() && link.is_bound(), "the answer is still owed");
            link.renew();
            assert!(!link.is_bound());
            assert_eq!(link.end_loan(), Some(7));
        }
    }

    #[test]
    fn multi_in_a_transaction_begins_no_other() {
        let mut link = with(loan(), Link::multi);
        link.open_mut().expect("begun").renames = true;
        link.multi();
        assert!(link.exec().expect("the first").renames);
    }

    #[test]
    fn a_watch_lasts_until_its_transaction_or_unwatch() {
        let exec = |link: &mut Numbered| {
            link.multi();
            assert!(link.exec().is_some());
        };
        let discard = |link: &mut Numbered| {
            link.multi();
            link.discard();
        };
        for end in [Link::unwatch, exec, discard] {
            let mut link = with(loan(), Link::watch);
            assert!(link.is_watching() && !link.is_over() && link.is_bound());
            end(&mut link);
            assert!(!link.is_watching() && link.is_over());
        }
        let mut link = with(loan(), Link::watch);
        assert!(link.exec().is_none(), "it is refused");
        link.discard();
        assert!(link.is_watching(), "out of place, neither ends it");
        link.multi();
        link.unwatch();
        assert!(link.is_watching(), "that is queued");
        assert!(link.exec().expect("begun").watched);
        let mut link = with(loan(), Link::multi);
        link.watch();
        assert!(!link.exec().expect("begun").watched, "Redis refuses to watch in a transaction");
    }

    #[test]
    fn without_a_connection_nothing_is_begun() {
        for mut link in [Link::Shared, errand(), replica()] {
            let state = name(&link);
            link.multi();
            link.watch();
            link.send_ahead(9);
            link.set_no_touch(true);
            link.set_named(true);
            assert!(link.open().is_none() && !link.is_watching() && link.ahead() == 0, "{state}");
            assert!(link.exec().is_none() && !link.end_ahead() && link.introduce().is_none(), "{state}");
            assert_eq!(name(&link), state);
        }
    }

    #[test]
    fn a_connection_is_given_over_to_more_and_never_to_less() {
        let kinds = [Stay::Home, Stay::Tainted, Stay::Stream];
        for (had, link) in ["shared", "errand", "loan", "home", "tainted", "stream", "replica"].into_iter().zip(each())
        {
            let mut link = link;
            for (rank, stay) in kinds.into_iter().enumerate() {
                link.keep(stay);
                let want = match had {
                    "shared" | "errand" | "replica" => had,
                    "tainted" if rank == 0 => "tainted",
                    "stream" => "stream",
                    _ => ["home", "tainted", "stream"][rank],
                };
                assert_eq!(name(&link), want, "{had}, {stay:?}");
            }
            assert_eq!(link.conn().is_some(), had != "shared");
        }
    }

    #[test]
    fn what_is_under_way_stays_when_a_loan_is_kept() {
        for stay in [Stay::Home, Stay::Tainted, Stay::Stream] {
            let mut link = with(loan(), |link| {
                link.watch();
                link.multi();
                link.keep(stay);
            });
            assert!(link.is_for_life() && link.is_bound() && link.open().is_some());
            assert_eq!(link.leaves_home(), None, "not in a transaction");
            assert!(link.exec().expect("begun").watched);
            assert_eq!(link.leaves_home().is_some(), stay == Stay::Home);
            assert_eq!(link.end_loan(), None, "it is none any more");
        }
    }

    #[test]
    fn a_home_that_means_something_to_every_command_is_not_left() {
        for set in [Link::set_no_touch, Link::set_named] {
            let mut link = kept(Stay::Home);
            set(&mut link, true);
            assert!(link.leaves_home().is_none() && link.free_home().is_some());
            set(&mut link, false);
            assert!(link.leaves_home().is_some());
        }
        for begin in [Link::multi, Link::watch, |link: &mut Numbered| link.send_ahead(1)] {
            let link = with(kept(Stay::Home), begin);
            assert!(link.leaves_home().is_none() && link.free_home().is_none());
        }
    }

    #[test]
    fn a_request_sent_ahead_holds_its_loan_until_it_is_whole() {
        let mut link = with(loan(), |link| link.send_ahead(5));
        link.send_ahead(8);
        assert!(link.ahead() == 8 && !link.is_over() && link.is_bound());
        assert!(link.end_ahead());
        assert!(link.ahead() == 0 && link.is_over() && !link.is_bound());
        assert!(!link.end_ahead(), "nothing was");
        let mut link = with(loan(), |link| {
            link.multi();
            link.send_ahead(5);
        });
        assert!(link.end_ahead() && link.is_bound(), "the transaction goes on");
    }

    #[test]
    fn it_is_known_which_commands_wait() {
        let mut link = kept(Stay::Home);
        link.note_wait(at(3), at(3));
        link.note_wait(at(5), at(3));
        assert_eq!([2, 3, 4, 5].map(|place| link.waits_at(at(place))), [false, true, false, true]);
        link.keep(Stay::Tainted);
        link.note_wait(at(8), at(4));
        assert_eq!(
            [3, 5, 8].map(|place| link.waits_at(at(place))),
            [false, true, true],
            "what is answered is forgotten"
        );
        let mut link = Numbered::Shared;
        link.note_wait(at(0), at(0));
        assert!(!link.waits_at(at(0)));
    }

    #[test]
    fn a_kept_connection_is_told_once_who_it_is_for() {
        assert!(loan().introduce().is_none() && !loan().awaits_introduction(), "a borrowed one bears no name");
        for stay in [Stay::Home, Stay::Tainted, Stay::Stream] {
            let mut link = kept(stay);
            assert_eq!(link.introduce(), Some(&mut 7));
            assert!(link.introduce().is_none() && !link.awaits_introduction());
            let mut link = with(loan(), |link| {
                link.multi();
                link.keep(stay);
            });
            assert_eq!(link.introduce(), None, "a queue is the client's alone");
            assert!(link.awaits_introduction());
            drop(link.exec());
            assert_eq!(link.introduce(), Some(&mut 7));
        }
        let mut link = kept(Stay::Home);
        assert_eq!(link.introduce(), Some(&mut 7));
        link.keep(Stay::Tainted);
        assert_eq!(link.introduce(), None, "it is the same connection");
    }

    #[test]
    fn reset_ends_what_is_on_a_connection_and_not_the_connection_of_its_own() {
        for (state, link) in ["shared", "errand", "loan", "home", "tainted", "stream"].into_iter().zip(each()) {
            let mut link = with(link, |link| {
                link.watch();
                link.multi();
                link.set_no_touch(true);
                link.set_named(true);
            });
            let let_go = link.reset(true);
            let (after, gone) = match state {
                "shared" => ("shared", None),
                "errand" | "loan" => ("shared", Some(7)),
                "home" => ("home", None),
                _ => ("tainted", None),
            };
            assert_eq!((name(&link), let_go), (after, gone), "{state}");
            assert!(link.open().is_none() && !link.is_watching());
            assert_eq!(link.leaves_home().is_some(), state == "home");
        }
        for mut link in each() {
            let had = link.conn().copied();
            assert_eq!((link.reset(false), name(&link)), (had, "shared"), "where crema answers for itself");
        }
    }

    #[test]
    fn a_login_takes_along_what_is_not_over() {
        use BeforeLogin::{GiveBack, Keep, Nothing};
        let want = [Nothing, GiveBack, GiveBack, Keep, Keep, Keep, Keep];
        assert_eq!(each().map(|link| link.before_login()), want);
        assert_eq!(with(loan(), Link::watch).before_login(), Keep, "Redis goes on watching");
        assert_eq!(with(loan(), Link::multi).before_login(), Keep);
    }

    #[test]
    fn only_a_connection_that_is_given_over_becomes_a_replicas() {
        let states = each().map(|mut link| {
            link.replicate();
            name(&link)
        });
        assert_eq!(states, ["shared", "errand", "loan", "home", "replica", "replica", "replica"]);
    }
}
