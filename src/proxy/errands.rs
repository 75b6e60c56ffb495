//! What a worker has under way beyond the upstream: reads that go on there, values to be copied, names to be removed.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::{Rc, Weak};

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::seek::SoughtKey;
use crate::clock::Time;
use crate::resp::encode;

/// The reads of a worker that go on.
#[derive(Default)]
pub(super) struct Seeks {
    /// How many there are of each kind.
    under_way: Rc<RefCell<HashMap<SeekKind, usize>>>,
    /// Replies of one value that somebody is being told, so that all who wait for it share them.
    replies: RefCell<Vec<Weak<[u8]>>>,
    pub(super) stop: CancellationToken,
    /// Loads from origins, those ahead of need too.
    pub(super) loads: TaskTracker,
    /// What loads said last as the worker ends, until it is heard.
    last_words: RefCell<Vec<oneshot::Receiver<Vec<u8>>>>,
}

/// What is counted together: reads for one origin, or for tiers alone; and loads of an origin ahead of need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SeekKind {
    /// A client waits; for the origin with this number, if any.
    Needed(Option<u16>),
    /// Nobody waits.
    Ahead(u16),
}

/// So many reads of a kind go on at once in a worker.
const MOST: usize = 4096;
/// So many loads ahead of an origin are begun at once.
const MOST_AHEAD: usize = 256;
/// So many replies are shared at once.
const SHARED: usize = 8;

impl Seeks {
    /// A place for one more; none where there may be no more.
    pub(super) fn place(&self, kind: SeekKind) -> Option<SeekPlace> {
        let mut all = self.under_way.borrow_mut();
        let count = all.entry(kind).or_default();
        let most = if let SeekKind::Ahead(_) = kind { MOST_AHEAD } else { MOST };
        (*count < most).then(|| {
            *count += 1;
            SeekPlace { under_way: Rc::clone(&self.under_way), kind }
        })
    }

    /// A load that is dropped has said something, to which this will be the answer.
    pub(super) fn last_words(&self, answer: oneshot::Receiver<Vec<u8>>) {
        if self.stop.is_cancelled() {
            self.last_words.borrow_mut().push(answer);
        }
    }

    /// Returns once no load is under way any more, and what each said last is heard. To be called once they are told to stop.
    pub(super) async fn are_over(&self) {
        self.loads.close();
        self.loads.wait().await;
        let last_words = self.last_words.take();
        for answer in last_words {
            let _ = answer.await; // its connection may be lost
        }
    }

    /// The reply that is this value: the one that others are being told, where there is one.
    pub(super) fn reply_of(&self, value: &[u8]) -> Rc<[u8]> {
        let mut replies = self.replies.borrow_mut();
        replies.retain(|reply| reply.strong_count() > 0);
        let says = |reply: &Rc<[u8]>| reply.strip_suffix(b"\r\n").is_some_and(|reply| reply.ends_with(value));
        let mut encoded = Vec::with_capacity(32);
        encode::header(&mut encoded, b'$', value.len());
        let whole = encoded.len() + value.len() + 2;
        if let Some(reply) = replies.iter().filter_map(Weak::upgrade).find(|reply| reply.len() == whole && says(reply))
        {
            return reply;
        }
        encoded.reserve_exact(value.len() + 2);
        encoded.extend_from_slice(value);
        encoded.extend_from_slice(b"\r\n");
        let reply = Rc::<[u8]>::from(encoded);
        if replies.len() == SHARED {
            replies.remove(0);
        }
        replies.push(Rc::downgrade(&reply));
        reply
    }
}

/// The place of a read that goes on. Dropped, it is another's.
pub(super) struct SeekPlace {
    under_way: Rc<RefCell<HashMap<SeekKind, usize>>>,
    kind: SeekKind,
}

impl Drop for SeekPlace {
    fn drop(&mut self) {
        if let Some(count) = self.under_way.borrow_mut().get_mut(&self.kind) {
            *count -= 1;
        }
    }
}

/// A value to be copied: its database and its key, and whether it is new.
pub(super) type WaitingCopy = (u32, Box<[u8]>, bool);

/// What a worker has to copy.
#[derive(Default)]
pub(super) struct CopyQueue {
    pub(super) waiting: RefCell<VecDeque<WaitingCopy>>,
    /// What is in it.
    pub(super) known: RefCell<HashSet<(u32, Box<[u8]>)>>,
    pub(super) is_served: Cell<bool>,
}

/// Who is told once all that one write left is removed.
type Creditor = Rc<oneshot::Sender<()>>;

/// Databases and names in them, and who is told of each.
type DueNames = HashMap<(u32, Vec<u8>), Vec<Creditor>>;

/// What a worker has to remove.
#[derive(Default)]
pub(super) struct Amends {
    pub(super) due: RefCell<DueNames>,
    /// Those of them for which nobody has been to the server yet.
    pub(super) fresh: RefCell<Vec<(u32, Vec<u8>)>>,
    pub(super) is_served: Cell<bool>,
    /// The process ends.
    pub(super) stop: CancellationToken,
    /// None are due any more.
    pub(super) over: Notify,
}

impl Amends {
    /// Whether there is any.
    pub(super) fn any(&self) -> bool {
        !self.due.borrow().is_empty()
    }
}

/// One key that is sought for a session.
pub(super) struct SeekRequest {
    pub(super) of: SoughtKey,
    /// The database that it is in.
    pub(super) db: u32,
    /// Since when: all that a read asks beyond the upstream has one deadline.
    pub(super) since: Time,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_one_origin_takes_no_place_of_another() {
        let seeks = Seeks::default();
        let places: Vec<_> = (0..MOST).map(|_| seeks.place(SeekKind::Needed(Some(1)))).collect();
        assert!(places.iter().all(Option::is_some) && seeks.place(SeekKind::Needed(Some(1))).is_none());
        for other in [SeekKind::Needed(Some(2)), SeekKind::Needed(None), SeekKind::Ahead(1)] {
            assert!(seeks.place(other).is_some(), "{other:?}");
        }
        drop(places);
        assert!(seeks.place(SeekKind::Needed(Some(1))).is_some());
    }

    #[test]
    fn all_who_are_told_a_value_share_one_reply() {
        let seeks = Seeks::default();
        let reply = seeks.reply_of(b"value");
        assert_eq!(&*reply, b"$5\r\nvalue\r\n");
        assert!(Rc::ptr_eq(&reply, &seeks.reply_of(b"value")));
        assert!(!Rc::ptr_eq(&reply, &seeks.reply_of(b"other")));
        assert_eq!(&*seeks.reply_of(b""), b"$0\r\n\r\n");
        drop(reply);
        assert_eq!(&*seeks.reply_of(b"value"), b"$5\r\nvalue\r\n");
        for n in 0..20_u8 {
            seeks.reply_of(&[n]);
        }
        assert!(seeks.replies.borrow().len() <= SHARED);
    }
}
