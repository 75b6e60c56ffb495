//! The cork: a few replies that are ready wait for those that the same pipeline still awaits, and all leave in one write.
//!
//! A write costs more than a hit, and so does waking the client for half of what it waits for. What is corked leaves with the
//! next reply to the same session, or after [`SOON`]. One task a worker pulls all its corks; it ends when there are none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::replies::Replies;

/// No reply that is ready waits longer than about this, whatever is awaited after it.
const SOON: Duration = Duration::from_millis(1);

/// The sessions of a worker whose output is corked.
pub(super) struct Corks {
    /// The worker's tasks.
    tasks: TaskTracker,
    sessions: RefCell<Vec<Rc<Replies>>>,
    watched: Cell<bool>,
}

impl Corks {
    /// None, whose task will be one of `tasks`.
    pub(super) fn new(tasks: &TaskTracker) -> Rc<Self> {
        Rc::new(Self { tasks: tasks.clone(), sessions: RefCell::default(), watched: Cell::default() })
    }

    /// Has the session of `replies` woken soon, if by then it has not written what is ready.
    pub(super) fn add(self: &Rc<Self>, replies: &Rc<Replies>) {
        if replies.corked.replace(true) {
            return;
        }
        self.sessions.borrow_mut().push(Rc::clone(replies));
        if self.watched.replace(true) {
            return;
        }
        let corks = Rc::clone(self);
        self.tasks.spawn_local(async move {
            loop {
                sleep(SOON).await;
                let sessions = std::mem::take(&mut *corks.sessions.borrow_mut());
                if sessions.is_empty() {
                    break;
                }
                for replies in sessions {
                    replies.corked.set(false);
                    if !replies.is_flushed() {
                        replies.wake();
                    }
                }
            }
            corks.watched.set(false);
        });
    }
}
