//! A worker at one node, without its connections: what everything on its way there needs.
//!
//! What awaits a reply, a write's stamps and a private connection hold to this, and so know neither lanes nor the worker. What they
//! cannot do themselves they have the [`Foreman`] do. One for each [`Station`](super::station::Station).

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::fencing::Fencing;
use super::replies::Replies;
use super::reply_queue::ReplyPlace;
use super::seek::Question;
use super::shared::Shared;
use crate::beyond::WriteSequel;
use crate::metrics::WorkerStats;
use crate::upstream::{Node, NodeIndex, Service};

/// See the module's head.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Site {
    /// The server.
    pub node: Arc<Node>,
    pub(super) shared: Arc<Shared>,
    /// The worker's counters.
    pub(super) stats: Arc<WorkerStats>,
    /// The worker's fences at the node.
    pub(super) fencing: Rc<Fencing>,
    /// The node's place in the topology, as it was when the node was last in it.
    index: Cell<NodeIndex>,
    /// Whether it is a cluster's: it may send commands elsewhere.
    pub(super) redirects: bool,
    /// Whether replies there may not be the last word: of a cluster's node, of a replica, or where something lies beyond the upstream.
    pub(super) looks_further: bool,
    /// What is at a replica: not all that it answers is passed on.
    pub(super) is_replica: bool,
    /// That a key is missing there says nothing: it may be under way to another node, and what lies beyond is asked by the master's word.
    pub(super) doubts_absence: bool,
    /// Of what is at a replica: whether that is a cluster's, and to be told that reads are meant for it.
    pub(super) is_read_only: bool,
    /// Of what is at a replica: its lease has ended with replies under way. Until these are over none is passed on that begins.
    pub(super) lapsed: Cell<bool>,
    /// At the last look the node took no writes.
    refuses_writes: Cell<bool>,
    /// A write that was answered is looked at: it took none, or replicas are read.
    looks_at_writes: Cell<bool>,
    foreman: Weak<dyn Foreman>,
}

/// Who does for those below what takes lanes, or what all sessions must know: the worker.
pub(super) trait Foreman {
    /// The command `bytes` at this place was carried out, and its session has others on a detour.
    fn carried_out(&self, replies: &Rc<Replies>, place: ReplyPlace, bytes: &[u8]);

    /// A write is over, of which this follows, in this database. `alone`: it may have been done without a part of what goes with it;
    /// then that is made good, of which the receiver is told.
    fn written(
        self: Rc<Self>,
        sequel: &mut (WriteSequel, u32),
        done: bool,
        alone: bool,
    ) -> Option<oneshot::Receiver<()>>;

    /// A value of this key was promoted, in this database.
    fn filled(self: Rc<Self>, key: &[u8], db: u32);

    /// A read of these keys, which have something beyond the upstream, found values in it, in this database.
    fn has_found(self: Rc<Self>, question: &Question, db: u32);

    /// A connection has ended, and not by crema's doing; where that may be because its user is no more, `doubted` is who.
    fn lost_connection(self: Rc<Self>, doubted: Option<&[u8]>);
}

impl Site {
    /// That of a worker at `node`, who is its foreman.
    pub(super) fn new(
        node: &Arc<Node>,
        (shared, stats): (&Arc<Shared>, &Arc<WorkerStats>),
        fencing: Rc<Fencing>,
        foreman: Weak<dyn Foreman>,
    ) -> Rc<Self> {
        let redirects = shared.topology.borrow().cluster().is_some();
        Rc::new(Self {
            node: Arc::clone(node),
            redirects,
            looks_further: redirects || shared.l1.terms.beyond.is_some(),
            is_replica: false,
            doubts_absence: false,
            is_read_only: false,
            lapsed: Cell::default(),
            shared: Arc::clone(shared),
            stats: Arc::clone(stats),
            fencing,
            index: Cell::default(),
            refuses_writes: Cell::default(),
            looks_at_writes: Cell::new(shared.l1.own_writes().is_some()),
            foreman,
        })
    }

    /// The same at a replica of the node of `master`. What it does not answer goes to the master, so it sends nothing elsewhere itself.
    pub(super) fn of_replica(master: &Self, replica: &Arc<Node>) -> Rc<Self> {
        Rc::new(Self {
            node: Arc::clone(replica),
            redirects: false,
            is_replica: true,
            looks_further: true,
            doubts_absence: master.looks_further,
            is_read_only: master.redirects,
            lapsed: Cell::default(),
            shared: Arc::clone(&master.shared),
            stats: Arc::clone(&master.stats),
            fencing: Rc::clone(&master.fencing),
            index: Cell::new(master.index()),
            refuses_writes: Cell::default(),
            looks_at_writes: Cell::default(),
            foreman: Weak::clone(&master.foreman),
        })
    }

    /// The node's place in the topology.
    pub(crate) fn index(&self) -> NodeIndex {
        self.index.get()
    }

    /// Another version has it there.
    pub(super) fn set_index(&self, index: NodeIndex) {
        self.index.set(index);
    }

    /// The worker, as long as it is there.
    pub(super) fn foreman(&self) -> Option<Rc<dyn Foreman>> {
        self.foreman.upgrade()
    }

    /// Looks whether the node takes writes. To be called now and then.
    pub(super) fn look_at_service(&self) {
        self.refuses_writes.set(self.node.signs.service() == Service::ReadOnly);
        self.looks_at_writes.set(self.refuses_writes.get() || self.shared.l1.own_writes().is_some());
    }

    /// Whether a write that was answered is to be looked at.
    #[inline]
    pub(super) fn looks_at_writes(&self) -> bool {
        self.looks_at_writes.get()
    }

    /// The node took a write, perhaps after it had refused the last.
    pub(super) fn took_write(&self) {
        if self.refuses_writes.get() {
            self.node.signs.mends(Service::ReadOnly);
        }
    }

    /// The node says that it takes no writes: it may have got another role, or be another server.
    pub(super) fn refused_write(&self) {
        self.node.signs.serves(Service::ReadOnly);
        self.node.generation.doubt();
        self.shared.map.ask_anew();
    }
}
