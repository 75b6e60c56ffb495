//! The cork: a few replies that are ready wait for those that the same pipeline still awaits, and all leave in one write.
//!
//! A write costs more than a hit, and so does waking the client for half of what it waits for. What is corked leaves with the
//! next reply to the same session, or after [`SOON`]. One task a worker pulls all its corks; it ends when there are none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use super::replies::Replies;
use super::worker::Worker;

/// No reply that is ready waits longer than about this, whatever is awaited after it.
const SOON: Duration = Duration::from_millis(1);

/// The sessions of a worker whose output is corked.
#[derive(Default)]
pub(super) struct Corks {
    sessions: RefCell<Vec<Rc<Replies>>>,
    watched: Cell<bool>,
}

impl Worker {
    /// Has the session of `replies` woken soon, if by then it has not written what is ready.
    pub fn cork(self: &Rc<Self>, replies: &Rc<Replies>) {
        if replies.corked.replace(true) {
            return;
        }
        self.corks.sessions.borrow_mut().push(Rc::clone(replies));
        if self.corks.watched.replace(true) {
            return;
        }
        let worker = Rc::clone(self);
        self.tasks.spawn_local(async move {
            loop {
                sleep(SOON).await;
                let sessions = std::mem::take(&mut *worker.corks.sessions.borrow_mut());
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
            worker.corks.watched.set(false);
        });
    }
}
