//! What a session's commands go on, and what the client has made of it: a state machine without I/O.
//!
//! A link is in exactly one state, and all that is true of a state only lies in that state. Each change is a method that takes
//! the old state for the new one. What must be done for a change (lend a connection, wait for answers, send something) is done
//! by `pinned`; `C` is the private connection, of which nothing is known here but that the link holds it.
//!
//! A connection leads to one node. In a cluster a connection for life leads to the front, and what has to go on a connection of its
//! own to another node has a loan there, beside it. There a `MULTI` is held until a command tells at which node the transaction is to
//! be. Of both, the connection that is *active* is the loan, as long as there is one. What is on each is in `connection`. Longer than
//! most files: one state machine is read in one place.
//!
//! Holds contract point 2: a state that puts commands elsewhere is entered only when all that was sent before is answered.

use std::mem;

use super::connection::{
    Beside, ConnectionStanding, EndedTransaction, Loan, OpenTransaction, OwnedConnection, PrivateConnection, Watch,
};
use super::prefix::Prefix;
use crate::command::HashSlot;
use crate::proxy::ReplyPlace;

/// What a session's commands go on.
#[derive(Debug, Default)]
pub(super) enum Link<C> {
    /// The lanes that it shares with other sessions.
    #[default]
    Shared,
    /// The same, and the client has begun a transaction of which no node knows.
    Held,
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

/// See [`Link::Home`].
#[derive(Debug)]
pub(super) struct Home<C> {
    kept: OwnedConnection<C>,
    /// Reads are not to touch keys: they go over the connection on which the client said so.
    no_touch: bool,
    /// Redis keeps the client's name, and sees all that it sends under it.
    named: bool,
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

impl<C> Link<C> {
    /// A connection has been borrowed.
    pub(super) fn borrowed(conn: C) -> Self {
        Self::Loan(Box::new(Loan::new(conn)))
    }

    /// What it is called where clients are told of.
    pub(super) fn told(&self) -> &'static str {
        match self {
            _ if self.is_in_transaction() => "transaction",
            Self::Shared | Self::Held => "shared",
            Self::Errand(_) | Self::Loan(_) => "borrowed",
            Self::Home(_) | Self::Tainted(_) => "own",
            Self::Stream(_) => "subscribed",
            Self::Replica(_) => "replica",
        }
    }

    /// What is on the active connection.
    fn own(&self) -> Option<&PrivateConnection<C>> {
        match self {
            Self::Loan(loan) => Some(&loan.own),
            _ => self.kept().map(OwnedConnection::active),
        }
    }

    fn own_mut(&mut self) -> Option<&mut PrivateConnection<C>> {
        match self {
            Self::Loan(loan) => Some(&mut loan.own),
            _ => self.kept_mut().map(OwnedConnection::active_mut),
        }
    }

    fn kept(&self) -> Option<&OwnedConnection<C>> {
        match self {
            Self::Home(home) => Some(&home.kept),
            Self::Tainted(kept) | Self::Stream(kept) => Some(kept),
            _ => None,
        }
    }

    fn kept_mut(&mut self) -> Option<&mut OwnedConnection<C>> {
        match self {
            Self::Home(home) => Some(&mut home.kept),
            Self::Tainted(kept) | Self::Stream(kept) => Some(kept),
            _ => None,
        }
    }

    /// The loan, where there is one.
    fn loan_mut(&mut self) -> Option<&mut Loan<C>> {
        match self {
            Self::Loan(loan) => Some(loan),
            _ => match &mut self.kept_mut()?.beside {
                Beside::Loan(loan) => Some(loan),
                Beside::Nothing | Beside::Held => None,
            },
        }
    }

    /// The active connection, if there is one.
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

    /// The connection for life, if there is one.
    pub(super) fn kept_conn(&self) -> Option<&C> {
        match self {
            Self::Replica(conn) => Some(conn),
            _ => self.kept().map(|kept| &kept.own.conn),
        }
    }

    /// The same, to be changed.
    pub(super) fn kept_conn_mut(&mut self) -> Option<&mut C> {
        match self {
            Self::Replica(conn) => Some(conn),
            _ => self.kept_mut().map(|kept| &mut kept.own.conn),
        }
    }

    /// There is no private connection, and nothing begun.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::Shared)
    }

    /// The client has begun a transaction of which no node knows.
    pub(super) fn is_held(&self) -> bool {
        matches!(self, Self::Held) || self.kept().is_some_and(|kept| matches!(kept.beside, Beside::Held))
    }

    /// The client has begun a transaction, and not ended it.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.is_held() || self.open().is_some()
    }

    /// There is a loan, be it beside a connection for life.
    pub(super) fn has_loan(&self) -> bool {
        matches!(self, Self::Loan(_)) || self.kept().is_some_and(|kept| matches!(kept.beside, Beside::Loan(_)))
    }

    /// The connection that is borrowed for keys.
    pub(super) fn loan_conn_mut(&mut self) -> Option<&mut C> {
        self.loan_mut().map(|loan| &mut loan.own.conn)
    }

    /// Each connection, as it is to be known by itself.
    pub(super) fn standings(&self) -> impl Iterator<Item = ConnectionStanding<'_, C>> {
        let beside = match self.kept().map(|kept| &kept.beside) {
            Some(Beside::Loan(loan)) => Some(loan.standing()),
            _ => None,
        };
        let first = match self {
            Self::Shared | Self::Held => None,
            Self::Errand(conn) => Some(ConnectionStanding { conn: &**conn, bound: false, free: false }),
            Self::Loan(loan) => Some(loan.standing()),
            Self::Home(home) => {
                let own = &home.kept.own;
                Some(ConnectionStanding { conn: &own.conn, bound: true, free: own.is_free() })
            }
            Self::Tainted(kept) | Self::Stream(kept) => {
                Some(ConnectionStanding { conn: &kept.own.conn, bound: true, free: false })
            }
            Self::Replica(conn) => Some(ConnectionStanding { conn: &**conn, bound: true, free: false }),
        };
        first.into_iter().chain(beside)
    }

    /// The private connection stays with the session for life.
    pub(super) fn is_for_life(&self) -> bool {
        !matches!(self, Self::Shared | Self::Held | Self::Errand(_) | Self::Loan(_))
    }

    /// Crema knows what each command means on it.
    pub(super) fn is_followed(&self) -> bool {
        !matches!(self, Self::Tainted(_) | Self::Stream(_) | Self::Replica(_))
    }

    /// The active connection is borrowed, and what it was borrowed for is over.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Errand(_) => true,
            Self::Loan(loan) => loan.own.is_free(),
            _ => matches!(self.kept().map(|kept| &kept.beside), Some(Beside::Loan(loan)) if loan.own.is_free()),
        }
    }

    /// A home on which nothing is under way, nor beside it.
    pub(super) fn free_home(&self) -> Option<&C> {
        match self {
            Self::Home(home) if home.kept.is_idle() => Some(&home.kept.own.conn),
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
        self.own().is_some_and(|own| own.watch != Watch::Nothing)
    }

    /// The slot of the keys that it watches, in a cluster.
    pub(super) fn watched_slot(&self) -> Option<HashSlot> {
        match self.own()?.watch {
            Watch::Slot(slot) | Watch::Spoiled(slot) => Some(slot),
            Watch::Nothing | Watch::Keys => None,
        }
    }

    /// Whether a transaction fails because what is watched is at several nodes.
    pub(super) fn is_watch_spoiled(&self) -> bool {
        self.own().is_some_and(|own| matches!(own.watch, Watch::Spoiled(_)))
    }

    /// Bytes of the request under way that were sent ahead of the rest.
    pub(super) fn ahead(&self) -> usize {
        self.own().map_or(0, |own| own.ahead)
    }

    /// Not all of the request under way is here any more.
    pub(super) fn is_cut(&self) -> bool {
        self.own().is_some_and(|own| own.cut)
    }

    /// The command at `place` is one that Redis has wait unless it can answer it at once.
    pub(super) fn waits_at(&self, place: ReplyPlace) -> bool {
        self.own().is_some_and(|own| own.waits.contains(&place))
    }

    /// What is to be done before user or version of its session change.
    pub(super) fn before_login(&self) -> BeforeLogin {
        match self {
            Self::Shared | Self::Held => BeforeLogin::Nothing,
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
        let Some(kept) = self.kept_mut() else { return self.let_go() };
        match mem::take(&mut kept.beside) {
            Beside::Loan(loan) => Some(loan.own.conn),
            Beside::Nothing | Beside::Held => None,
        }
    }

    /// `MULTI` came, and nobody is told yet. False where there is a connection on which something is begun, or a loan.
    pub(super) fn hold(&mut self) -> bool {
        if matches!(self, Self::Shared | Self::Held) {
            *self = Self::Held;
            return true;
        }
        match self.kept_mut() {
            Some(kept) if kept.is_idle() => {
                kept.beside = Beside::Held;
                true
            }
            _ => self.is_held(),
        }
    }

    /// A transaction of which no node knew is none any more, or is begun at one.
    pub(super) fn end_hold(&mut self) {
        if matches!(self, Self::Held) {
            *self = Self::Shared;
        } else if let Some(kept) = self.kept_mut().filter(|kept| matches!(kept.beside, Beside::Held)) {
            kept.beside = Beside::Nothing;
        }
    }

    /// A connection has been borrowed, where none is lent.
    pub(super) fn lend(&mut self, conn: C) {
        debug_assert!(!self.is_held() && !self.is_over(), "what is there is ended first");
        match self.kept_mut() {
            Some(kept) => kept.beside = Beside::Loan(Box::new(Loan::new(conn))),
            None => *self = Self::borrowed(conn),
        }
    }

    /// A connection for life has been made beside the loan of a session that had none.
    pub(super) fn settle_beside(&mut self, conn: C) {
        *self = match mem::take(self) {
            Self::Loan(loan) => {
                let mut kept = OwnedConnection::new(PrivateConnection::new(conn));
                kept.beside = Beside::Loan(loan);
                Self::Home(Box::new(Home { kept, no_touch: false, named: false }))
            }
            link => link,
        };
    }

    /// The connection, which the session does without from here on; and a loan beside it ends.
    fn let_go(&mut self) -> Option<C> {
        match mem::take(self) {
            Self::Shared | Self::Held => None,
            Self::Errand(conn) | Self::Replica(conn) => Some(*conn),
            Self::Loan(loan) => Some(loan.own.conn),
            Self::Home(home) => Some(home.kept.own.conn),
            Self::Tainted(kept) | Self::Stream(kept) => Some(kept.own.conn),
        }
    }

    /// A loan that is over serves for something else.
    pub(super) fn renew(&mut self) {
        if let Some(loan) = self.loan_mut().filter(|loan| loan.own.is_free()) {
            loan.bound = false;
        }
    }

    /// A loan is kept for life, or a kept connection is given over to more. Nothing leads back but [`reset`](Self::reset).
    pub(super) fn keep(&mut self, stay: Stay) {
        let kept = |own| Box::new(OwnedConnection::new(own));
        *self = match (mem::take(self), stay) {
            (Self::Loan(loan), Stay::Home) => {
                let kept = OwnedConnection::new(loan.own);
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

    /// `MULTI` was sent, in a cluster with what it takes to begin again.
    pub(super) fn multi(&mut self, prefix: Option<Box<Prefix>>) {
        self.bind();
        if let Some(own) = self.own_mut() {
            own.open.get_or_insert_with(|| OpenTransaction { prefix, ..OpenTransaction::default() });
        }
    }

    /// The transaction is to go on at another node: what it was so far. The watch of it, and the transaction at this node, are over.
    pub(super) fn take_open(&mut self) -> Option<OpenTransaction> {
        let own = self.own_mut()?;
        own.watch = Watch::Nothing;
        own.open.take()
    }

    /// It goes on on the active connection.
    pub(super) fn resume(&mut self, open: OpenTransaction) {
        self.bind();
        if let Some(own) = self.own_mut() {
            own.open = Some(open);
        }
    }

    /// `WATCH` was sent, in a cluster of keys in this slot. In a transaction Redis refuses it.
    pub(super) fn watch(&mut self, slot: Option<HashSlot>) {
        self.bind();
        if let Some(own) = self.own_mut().filter(|own| own.open.is_none()) {
            own.watch = slot.map_or(Watch::Keys, Watch::Slot);
        }
    }

    /// Keys are watched, and others of their slot cannot be at the same node.
    pub(super) fn spoil_watch(&mut self) {
        if let Some(own) = self.own_mut()
            && let Watch::Slot(slot) = own.watch
        {
            own.watch = Watch::Spoiled(slot);
        }
    }

    /// `UNWATCH` was sent. In a transaction it is queued.
    pub(super) fn unwatch(&mut self) {
        if let Some(own) = self.own_mut().filter(|own| own.open.is_none()) {
            own.watch = Watch::Nothing;
        }
    }

    /// `EXEC` is to be sent: the transaction that it ends, and the watch with it. Where it ends none it is an error, and ends no
    /// watch either.
    pub(super) fn exec(&mut self) -> Option<EndedTransaction> {
        let own = self.own_mut()?;
        let OpenTransaction { queue, renames, prefix } = own.open.take()?;
        let watched = mem::take(&mut own.watch) != Watch::Nothing;
        Some(EndedTransaction { queue, renames, watched, prefix })
    }

    /// `DISCARD` was sent.
    pub(super) fn discard(&mut self) {
        if let Some(own) = self.own_mut().filter(|own| own.open.is_some()) {
            (own.open, own.watch) = (None, Watch::Nothing);
        }
    }

    /// So many bytes of the request under way were sent ahead of the rest.
    pub(super) fn send_ahead(&mut self, bytes: usize) {
        self.bind();
        if let Some(own) = self.own_mut() {
            own.ahead = bytes;
        }
    }

    /// Of the request under way only so many bytes are remembered of what was sent ahead.
    pub(super) fn cut_ahead(&mut self, bytes: usize) {
        if let Some(own) = self.own_mut() {
            own.cut = true;
            own.gone += own.ahead.saturating_sub(bytes);
        }
        self.send_ahead(bytes);
    }

    /// Bytes of the request under way that are not here any more.
    pub(super) fn gone(&self) -> usize {
        self.own().map_or(0, |own| own.gone)
    }

    /// The request under way is whole: whether something of it was sent ahead. A loan for that alone is over.
    pub(super) fn end_ahead(&mut self) -> bool {
        let ahead = self.own_mut().map_or(0, |own| {
            (own.cut, own.gone) = (false, 0);
            mem::take(&mut own.ahead)
        });
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
        if let Some(loan) = self.loan_mut() {
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
        if let Some(kept) = self.kept_mut() {
            let own = &mut kept.own;
            (own.open, own.watch, own.ahead, own.cut, own.gone) = (None, Watch::Nothing, 0, false, 0);
            kept.beside = Beside::Nothing;
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

    fn multi(link: &mut Numbered) {
        link.multi(None);
    }

    fn watch(link: &mut Numbered) {
        link.watch(None);
    }

    fn is_bound(link: &Numbered) -> bool {
        link.standings().any(|standing| standing.bound)
    }

    /// The numbers of the connections for life and of the active one.
    fn numbers(link: &Numbered) -> (Option<u32>, Option<u32>) {
        (link.kept_conn().copied(), link.conn().copied())
    }

    fn name(link: &Numbered) -> &'static str {
        match link {
            Link::Shared => "shared",
            Link::Held => "held",
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
            let is = [connected, link.is_for_life(), link.is_followed(), link.is_over(), leaves, is_bound(link)];
            assert_eq!((name(link), is), (state, want));
            assert_eq!(link.is_shared(), !connected);
            assert!(link.open().is_none() && !link.is_watching() && link.ahead() == 0);
        }
    }

    #[test]
    fn a_loan_for_one_command_is_over_at_once() {
        let mut link = loan();
        assert!(link.is_over() && !is_bound(&link), "its connection may be lost");
        assert_eq!(link.end_loan(), Some(7));
        assert!(link.is_shared());
        assert_eq!(link.end_loan(), None);
    }

    #[test]
    fn a_loan_for_a_transaction_is_over_with_exec() {
        for end in [|link: &mut Numbered| assert!(link.exec().is_some()), |link: &mut Numbered| link.discard()] {
            let mut link = with(loan(), multi);
            assert!(!link.is_over() && is_bound(&link) && link.open().is_some());
            assert_eq!(link.end_loan(), None, "not while it is under way");
            link.renew();
            assert!(is_bound(&link), "nor is it anything else's");
            end(&mut link);
            assert!(link.is_over() && is_bound(&link), "the answer is still owed");
            link.renew();
            assert!(!is_bound(&link));
            assert_eq!(link.end_loan(), Some(7));
        }
    }

    #[test]
    fn multi_in_a_transaction_begins_no_other() {
        let mut link = with(loan(), multi);
        link.open_mut().expect("begun").renames = true;
        link.multi(None);
        assert!(link.exec().expect("the first").renames);
    }

    #[test]
    fn a_watch_lasts_until_its_transaction_or_unwatch() {
        let exec = |link: &mut Numbered| {
            link.multi(None);
            assert!(link.exec().is_some());
        };
        let discard = |link: &mut Numbered| {
            link.multi(None);
            link.discard();
        };
        for end in [Link::unwatch, exec, discard] {
            let mut link = with(loan(), watch);
            assert!(link.is_watching() && !link.is_over() && is_bound(&link));
            end(&mut link);
            assert!(!link.is_watching() && link.is_over());
        }
        let mut link = with(loan(), watch);
        assert!(link.exec().is_none(), "it is refused");
        link.discard();
        assert!(link.is_watching(), "out of place, neither ends it");
        link.multi(None);
        link.unwatch();
        assert!(link.is_watching(), "that is queued");
        assert!(link.exec().expect("begun").watched);
        let mut link = with(loan(), multi);
        link.watch(None);
        assert!(!link.exec().expect("begun").watched, "Redis refuses to watch in a transaction");
    }

    #[test]
    fn without_a_connection_nothing_is_begun() {
        for mut link in [Link::Shared, errand(), replica()] {
            let state = name(&link);
            link.multi(None);
            link.watch(None);
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
                link.watch(None);
                link.multi(None);
                link.keep(stay);
            });
            assert!(link.is_for_life() && is_bound(&link) && link.open().is_some());
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
        for begin in [multi, watch, |link: &mut Numbered| link.send_ahead(1)] {
            let link = with(kept(Stay::Home), begin);
            assert!(link.leaves_home().is_none() && link.free_home().is_none());
        }
    }

    #[test]
    fn a_request_sent_ahead_holds_its_loan_until_it_is_whole() {
        let mut link = with(loan(), |link| link.send_ahead(5));
        link.send_ahead(8);
        assert!(link.ahead() == 8 && !link.is_over() && is_bound(&link));
        assert!(link.end_ahead());
        assert!(link.ahead() == 0 && link.is_over() && !is_bound(&link));
        assert!(!link.end_ahead(), "nothing was");
        let mut link = with(loan(), |link| {
            link.multi(None);
            link.send_ahead(5);
        });
        assert!(link.end_ahead() && is_bound(&link), "the transaction goes on");
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
                link.multi(None);
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
                link.watch(None);
                link.multi(None);
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
        assert_eq!(with(loan(), watch).before_login(), Keep, "Redis goes on watching");
        assert_eq!(with(loan(), multi).before_login(), Keep);
    }

    #[test]
    fn only_a_connection_that_is_given_over_becomes_a_replicas() {
        let states = each().map(|mut link| {
            link.replicate();
            name(&link)
        });
        assert_eq!(states, ["shared", "errand", "loan", "home", "replica", "replica", "replica"]);
    }

    /// A kept connection, of number 7, with a loan beside it, of number 9.
    fn beside(stay: Stay) -> Numbered {
        with(kept(stay), |link| link.lend(9))
    }

    const STAYS: [Stay; 3] = [Stay::Home, Stay::Tainted, Stay::Stream];

    #[test]
    fn a_transaction_that_no_node_knows_of_is_held_where_nothing_is_begun() {
        let states = each().map(|mut link| (link.hold(), link.is_held(), link.is_in_transaction(), name(&link)));
        let held = |state| (true, true, true, state);
        let not = |state| (false, false, false, state);
        let want = [held("held"), not("errand"), not("loan"), held("home"), held("tainted"), held("stream")];
        assert_eq!(states[..6], want);
        assert_eq!(states[6], not("replica"));
        for begin in [multi, watch, |link: &mut Numbered| link.send_ahead(1)] {
            assert!(!with(kept(Stay::Home), begin).hold(), "something is begun there");
        }
        for mut link in [Link::Shared, kept(Stay::Home), kept(Stay::Tainted), kept(Stay::Stream)] {
            let (state, conns) = (name(&link), numbers(&link));
            assert!(link.hold() && link.hold() && !link.is_shared() && !link.is_over(), "{state}");
            assert!(link.open().is_none() && link.leaves_home().is_none() && link.exec().is_none(), "{state}");
            link.end_hold();
            assert_eq!((name(&link), numbers(&link), link.is_held()), (state, conns, false));
        }
    }

    #[test]
    fn a_held_transaction_is_begun_on_a_loan() {
        let mut link = with(Link::Shared, |link| {
            assert!(link.hold());
            link.end_hold();
            link.lend(9);
            link.multi(None);
        });
        assert_eq!((name(&link), numbers(&link), link.is_in_transaction()), ("loan", (None, Some(9)), true));
        assert!(link.exec().is_some());
        link.renew();
        assert_eq!((link.end_loan(), name(&link)), (Some(9), "shared"));
    }

    #[test]
    fn a_loan_beside_a_connection_for_life_is_the_active_one_until_it_ends() {
        for stay in STAYS {
            let mut link = beside(stay);
            let state = name(&link);
            assert_eq!((numbers(&link), link.has_loan(), link.is_for_life()), ((Some(7), Some(9)), true, true));
            assert!(link.is_over() && link.leaves_home().is_none() && link.free_home().is_none());
            let standings: Vec<_> = link.standings().map(|one| (*one.conn, one.bound, one.free)).collect();
            assert_eq!(standings, [(7, true, stay == Stay::Home), (9, false, true)], "only the first ends the session");
            link.multi(None);
            let standings: Vec<_> = link.standings().map(|one| (one.bound, one.free)).collect();
            assert_eq!(standings, [(true, stay == Stay::Home), (true, false)]);
            assert_eq!(link.end_loan(), None, "not while it is under way");
            link.discard();
            link.renew();
            assert_eq!((link.end_loan(), name(&link), numbers(&link)), (Some(9), state, (Some(7), Some(7))));
            assert_eq!((link.end_loan(), link.has_loan()), (None, false), "the connection for life stays");
        }
    }

    #[test]
    fn what_is_begun_beside_a_connection_for_life_is_begun_there_alone() {
        let mut link = with(beside(Stay::Home), |link| {
            link.watch(HashSlot::nth(3));
            link.note_wait(at(4), at(4));
        });
        assert!(link.is_watching() && !link.is_over() && link.waits_at(at(4)));
        assert_eq!(link.watched_slot(), HashSlot::nth(3));
        link.keep(Stay::Stream);
        assert_eq!((name(&link), numbers(&link), link.is_watching()), ("stream", (Some(7), Some(9)), true));
        link.unwatch();
        assert_eq!((link.end_loan(), link.watched_slot(), link.waits_at(at(4))), (Some(9), None, false));
    }

    #[test]
    fn a_connection_for_life_is_made_beside_a_loan_that_is_not_over() {
        let mut link = with(loan(), |link| {
            link.watch(HashSlot::nth(3));
            link.settle_beside(5);
        });
        assert_eq!((name(&link), numbers(&link), link.is_watching()), ("home", (Some(5), Some(7)), true));
        assert_eq!(link.introduce(), Some(&mut 5));
        link.unwatch();
        assert_eq!((link.end_loan(), numbers(&link)), (Some(7), (Some(5), Some(5))));
    }

    #[test]
    fn a_transaction_moves_to_another_connection_with_all_that_it_is() {
        let mut link = with(kept(Stay::Home), |link| link.multi(Some(Box::default())));
        link.open_mut().expect("begun").renames = true;
        let open = link.take_open().expect("begun");
        assert!(!link.is_in_transaction() && link.free_home().is_some());
        link.lend(9);
        link.resume(open);
        let ended = link.exec().expect("it goes on");
        assert!(ended.renames && ended.prefix.is_some() && !ended.watched);
    }

    #[test]
    fn reset_ends_what_is_beside() {
        for stay in STAYS {
            let mut link = with(beside(stay), multi);
            assert_eq!((link.reset(true), numbers(&link)), (None, (Some(7), Some(7))));
            assert!(!link.is_in_transaction() && !link.has_loan());
            let mut link = with(kept(stay), |link| assert!(link.hold()));
            link.reset(true);
            assert!(!link.is_held());
            assert_eq!(beside(stay).reset(false), Some(7));
        }
        let mut link = with(Link::Shared, |link| assert!(link.hold()));
        assert_eq!((link.reset(true), name(&link)), (None, "shared"));
    }
}
