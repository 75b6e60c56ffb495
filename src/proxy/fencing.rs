//! What follows the answer to an opaque write: it is held until a fence is back, or it goes out and L1 waits for the fence.
//!
//! Which of the two costs less depends on how much L1 is asked for. While it answers many others, the script waits: those
//! who only read shall not notice it. Else the script goes on, and whoever reads before a fence is back waits for that. It
//! is sent at once where L1 was asked since the last one, so that it is mostly back by then; where nobody asks there is
//! none at all. Both are right whenever they are chosen. What ran at one node is
//! fenced on the ears there. Belongs to a worker's site.
//!
//! Holds contract point 3 (own writes).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::recipient::Recipient;
use super::replies::Replies;
use super::reply_queue::ReplyPlace;
use super::shared::Shared;
use super::slowness::note_wait;
use crate::clock::Time;
use crate::command;
use crate::invalidation::Debt;
use crate::metrics::{Outcome, SlowReason};
use crate::upstream::Node;

/// Once scripts wait, they do until nobody has asked L1 during so many fences in a row. Where sessions take turns with scripts and
/// reads, all of them may wait for one fence, and ask nothing meanwhile; they are back at once.
const PATIENCE: u32 = 8;

/// The fences of one worker's opaque writes at one node: at most one is under way, and those who come meanwhile share the next.
pub(super) struct Fencing {
    shared: Arc<Shared>,
    node: Arc<Node>,
    /// How long a reply may wait for the fleet to be told.
    limit: Duration,
    /// The worker's tasks.
    tasks: TaskTracker,
    /// Scripts wait for so many more, or for [`PATIENCE`] from the last one on during which L1 was asked.
    holding: Cell<u32>,
    held: RefCell<Vec<HeldReply>>,
    wanted: Cell<bool>,
    under_way: Cell<bool>,
}

/// A reply that is held, from when on, and to which command.
struct HeldReply {
    replies: Rc<Replies>,
    place: ReplyPlace,
    since: Time,
    command: u16,
    outcome: Outcome,
}

impl HeldReply {
    /// That of `recipient`, from now on.
    fn of(recipient: &Recipient) -> Self {
        let (replies, place) = (Rc::clone(recipient.replies()), recipient.place());
        Self { replies, place, since: Time::now(), command: recipient.command(), outcome: recipient.outcome() }
    }

    /// It goes out now: where it was held for long, that is noted.
    fn note(&self, shared: &Shared) {
        let took = Time::now().saturating_since(self.since);
        note_wait(
            shared,
            (&self.replies, self.place),
            (command::by_id(self.command), None),
            (took, SlowReason::Fence, self.outcome),
            0,
        );
    }
}

impl Fencing {
    /// None are under way. A reply waits for the fleet no longer than `limit`.
    pub(super) fn new(shared: &Arc<Shared>, node: &Arc<Node>, limit: Duration, tasks: &TaskTracker) -> Rc<Self> {
        Rc::new(Self {
            shared: Arc::clone(shared),
            node: Arc::clone(node),
            limit,
            tasks: tasks.clone(),
            holding: Cell::default(),
            held: RefCell::default(),
            wanted: Cell::default(),
            under_way: Cell::default(),
        })
    }

    /// To be called when the answer to an opaque write is here, before any of it is passed on. True where it is held in the place
    /// of `recipient` until a fence is back.
    pub(super) fn answered_opaque(self: &Rc<Self>, recipient: &Recipient) -> bool {
        let l1 = &self.shared.l1;
        let held = self.holding.get() > 0 && l1.must_fence(&self.node);
        if held {
            recipient.replies().hold(recipient.place());
            self.held.borrow_mut().push(HeldReply::of(recipient));
        } else {
            l1.opaque_writes.add(Time::now());
            if !l1.opaque_writes.is_asked() {
                return false;
            }
        }
        self.wanted.set(true);
        if !self.under_way.replace(true) {
            self.tasks.spawn_local(Rc::clone(self).fences());
        }
        held
    }

    /// Holds the reply in the place of `recipient` until the fleet has been told, which need not wait for a fence: everything that was
    /// filled before is forgotten. Where the fleet cannot be told for long, it goes out before.
    pub(super) fn hold_until_settled(&self, recipient: &Recipient, debt: Debt) {
        recipient.replies().hold(recipient.place());
        let (held, shared, limit) = (HeldReply::of(recipient), Arc::clone(&self.shared), self.limit);
        self.tasks.spawn_local(async move {
            let _ = timeout(limit, debt.settled()).await;
            held.note(&shared);
            held.replies.release(held.place);
        });
    }

    /// Holds the reply in the place of `recipient` until what had to go with its write, and was refused, is made good. Where that cannot
    /// be for long, it goes out before.
    pub(super) fn hold_until_removed(&self, recipient: &Recipient, owed: oneshot::Receiver<()>) {
        recipient.replies().hold_for_more(recipient.place());
        let (held, shared, limit) = (HeldReply::of(recipient), Arc::clone(&self.shared), self.limit);
        self.tasks.spawn_local(async move {
            // Where it can be made good no more, for the process ends, the client hears nothing.
            if !matches!(timeout(limit, owed).await, Ok(Err(_))) {
                held.note(&shared);
                held.replies.release_more(held.place);
            }
        });
    }

    async fn fences(self: Rc<Self>) {
        let l1 = &self.shared.l1;
        while self.wanted.replace(false) {
            let held = self.held.take();
            l1.opaque_writes.start_over();
            l1.fence(&self.node).await;
            let holding = self.holding.get();
            let goes_on = l1.opaque_writes.is_busy() || holding > 0 && l1.opaque_writes.is_asked();
            self.holding.set(if goes_on { PATIENCE } else { holding.saturating_sub(1) });
            for held in &held {
                held.note(&self.shared);
                held.replies.release(held.place);
            }
        }
        self.under_way.set(false);
    }
}
