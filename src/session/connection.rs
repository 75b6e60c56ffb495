//! The private connections of a session, and what its client has begun on each: part of the link's state (`link`), without I/O.

use std::collections::VecDeque;

use super::prefix::Prefix;
use crate::command::HashSlot;
use crate::proxy::{ReplyPlace, Transaction};

/// A connection that is borrowed until what it was borrowed for is over.
#[derive(Debug)]
pub(super) struct Loan<C> {
    pub(super) own: PrivateConnection<C>,
    /// There was state on it since it was lent or renewed, so that the session ends with the connection.
    pub(super) bound: bool,
}

/// A connection that stays with its session for life.
#[derive(Debug)]
pub(super) struct OwnedConnection<C> {
    pub(super) own: PrivateConnection<C>,
    /// It has been told the client's name and library.
    pub(super) introduced: bool,
    pub(super) beside: Beside<C>,
}

/// What a session has beside a connection for life.
#[derive(Debug, Default)]
pub(super) enum Beside<C> {
    /// Its lanes.
    #[default]
    Nothing,
    /// The same, and the client has begun a transaction of which no node knows.
    Held,
    /// A borrowed connection to another node.
    Loan(Box<Loan<C>>),
}

/// A connection and what is under way on it.
#[derive(Debug)]
pub(super) struct PrivateConnection<C> {
    pub(super) conn: C,
    pub(super) open: Option<OpenTransaction>,
    pub(super) watch: Watch,
    /// Bytes of the request under way that were sent ahead of the rest.
    pub(super) ahead: usize,
    /// Some of those are not here any more.
    pub(super) cut: bool,
    /// How many that are.
    pub(super) gone: usize,
    /// The places of commands that Redis has wait unless it can answer them at once; some may have been answered.
    pub(super) waits: VecDeque<ReplyPlace>,
}

/// What a client watches on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Watch {
    #[default]
    Nothing,
    /// Keys.
    Keys,
    /// Keys of a cluster, all in this slot.
    Slot(HashSlot),
    /// The same, and some of them at another node: a transaction fails.
    Spoiled(HashSlot),
}

/// A transaction that the client has begun and not ended.
#[derive(Debug, Default)]
pub(super) struct OpenTransaction {
    /// What it has queued.
    pub(super) queue: Transaction,
    /// A name for the client is in the queue: the connection will know that one.
    pub(super) renames: bool,
    /// In a cluster, what it takes to begin it again at another node.
    pub(super) prefix: Option<Box<Prefix>>,
}

/// A transaction that `EXEC` ends.
#[derive(Debug)]
pub(super) struct EndedTransaction {
    pub(super) queue: Transaction,
    pub(super) renames: bool,
    /// Whether it fails where a watched key has changed.
    pub(super) watched: bool,
    /// In a cluster, what it takes to begin it again at another node.
    pub(super) prefix: Option<Box<Prefix>>,
}

/// A connection of a link, as it is to be known by the connection itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionStanding<'a, C> {
    pub(super) conn: &'a C,
    /// The session ends with it: there is, or was, state on it that would be lost in silence.
    pub(super) bound: bool,
    /// A command of crema's own is a part of nothing that the client has begun on it, and changes nothing there.
    pub(super) free: bool,
}

impl<C> PrivateConnection<C> {
    pub(super) fn new(conn: C) -> Self {
        Self { conn, open: None, watch: Watch::Nothing, ahead: 0, cut: false, gone: 0, waits: VecDeque::new() }
    }

    /// Nothing on it is under way that another command could disturb.
    pub(super) fn is_free(&self) -> bool {
        self.open.is_none() && self.watch == Watch::Nothing && self.ahead == 0
    }
}

impl<C> Loan<C> {
    pub(super) fn new(conn: C) -> Self {
        Self { own: PrivateConnection::new(conn), bound: false }
    }

    pub(super) fn standing(&self) -> ConnectionStanding<'_, C> {
        ConnectionStanding { conn: &self.own.conn, bound: self.bound, free: self.own.is_free() }
    }
}

impl<C> OwnedConnection<C> {
    pub(super) fn new(own: PrivateConnection<C>) -> Self {
        Self { own, introduced: false, beside: Beside::Nothing }
    }

    pub(super) fn active(&self) -> &PrivateConnection<C> {
        match &self.beside {
            Beside::Loan(loan) => &loan.own,
            Beside::Nothing | Beside::Held => &self.own,
        }
    }

    pub(super) fn active_mut(&mut self) -> &mut PrivateConnection<C> {
        match &mut self.beside {
            Beside::Loan(loan) => &mut loan.own,
            Beside::Nothing | Beside::Held => &mut self.own,
        }
    }

    /// Nothing that the client has begun is under way, on it or beside it.
    pub(super) fn is_idle(&self) -> bool {
        self.own.is_free() && matches!(self.beside, Beside::Nothing)
    }
}
