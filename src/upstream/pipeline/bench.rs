//! A pipeline to be tried: its waiters note what they are told.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::{Pipeline, Unasked};
use crate::clock::Time;
use crate::error::{Error, Sent};
use crate::upstream::waiter::{ConnectionTimes, ReplyEnd, Waiter};

pub(super) const AT: fn(u64) -> Time = |millis| Time::from_nanos((1 << 40) + millis * 1_000_000);

/// What became of one command, as it was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ToldOfReply {
    pub(super) pieces: Vec<u8>,
    pub(super) kind: u8,
    pub(super) ended: Option<Time>,
    pub(super) over: Option<Vec<u8>>,
    pub(super) lost: Option<(Sent, Vec<u8>)>,
}

/// A waiter that notes what it is told.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
pub(super) struct NotingWaiter {
    told: Rc<RefCell<ToldOfReply>>,
    /// The size of its last reply, and what its connection did meanwhile.
    pub(super) ends: Rc<RefCell<Vec<(u64, ConnectionTimes)>>>,
    pub(super) replies: usize,
    pub(super) confirmations: usize,
    pub(super) patient: bool,
    pub(super) own: bool,
    pub(super) writes: bool,
    pub(super) elsewhere: bool,
}

impl NotingWaiter {
    pub(super) fn new() -> (Self, Rc<RefCell<ToldOfReply>>) {
        let told = Rc::new(RefCell::default());
        let (patient, own, writes, elsewhere) = (false, false, false, false);
        let ends = Rc::default();
        let probe =
            Self { told: Rc::clone(&told), ends, replies: 1, confirmations: 0, patient, own, writes, elsewhere };
        (probe, told)
    }
}

impl Waiter for NotingWaiter {
    fn piece(&mut self, kind: u8, bytes: &[u8], end: Option<Time>) {
        let told = &mut *self.told.borrow_mut();
        assert_eq!(told.over, None, "nothing comes behind the end");
        told.kind = kind;
        told.pieces.extend_from_slice(bytes);
        told.ended = end;
        self.replies -= usize::from(end.is_some());
    }

    fn over<'a>(self, end: ReplyEnd, times: impl FnOnce() -> ConnectionTimes, command: impl Fn() -> &'a [u8]) {
        self.told.borrow_mut().over = Some(command().to_vec());
        self.ends.borrow_mut().push((end.size, times()));
    }

    fn awaits_more(&self) -> bool {
        self.replies > 0
    }

    fn poll_room(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn confirms(&self) -> bool {
        self.confirmations > 0
    }

    fn confirm(&mut self, bytes: &[u8]) -> bool {
        self.confirmations -= 1;
        self.told.borrow_mut().pieces.extend_from_slice(bytes);
        self.confirmations == 0
    }

    fn is_own(&self) -> bool {
        self.own
    }

    fn is_patient(&self) -> bool {
        self.patient
    }

    fn writes(&self) -> bool {
        self.writes
    }

    fn goes_elsewhere(&self) -> bool {
        self.elsewhere
    }

    fn lost(self, _: &Error, sent: Sent, command: &[u8]) -> Option<Self> {
        self.told.borrow_mut().lost = Some((sent, command.to_vec()));
        self.elsewhere.then_some(self)
    }
}

/// A pipeline with what it said unasked.
pub(super) struct PipelineBench {
    pub(super) pipeline: Pipeline<NotingWaiter>,
    pub(super) unasked: Vec<String>,
}

impl PipelineBench {
    pub(super) fn new(private: bool) -> Self {
        let mut pipeline = Pipeline::new("node:1".into(), private, AT(0));
        pipeline.open(AT(0));
        Self { pipeline, unasked: Vec::new() }
    }

    pub(super) fn send(&mut self, command: &str, now: Time) -> Rc<RefCell<ToldOfReply>> {
        self.send_with(command, now, |_| {})
    }

    pub(super) fn send_with(
        &mut self,
        command: &str,
        now: Time,
        change: impl FnOnce(&mut NotingWaiter),
    ) -> Rc<RefCell<ToldOfReply>> {
        let (mut probe, told) = NotingWaiter::new();
        change(&mut probe);
        assert!(self.pipeline.send(command.as_bytes(), probe, now).is_ok());
        told
    }

    /// Writes all that may be, and returns it.
    pub(super) fn write(&mut self) -> String {
        let bytes = self.pipeline.to_write().to_vec();
        self.pipeline.wrote(bytes.len());
        self.pipeline.written();
        String::from_utf8(bytes).expect("text")
    }

    pub(super) fn receive(&mut self, bytes: &str, now: Time) -> Result<(), Error> {
        let unasked = &mut self.unasked;
        self.pipeline.receive(bytes.as_bytes(), false, now, &mut |said| match said {
            Unasked::Message(bytes) => unasked.push(format!("message {}", String::from_utf8_lossy(bytes))),
            Unasked::MonitorLine(line) => unasked.push(format!("line {}", String::from_utf8_lossy(line))),
        })
    }

    pub(super) fn lose(&mut self) {
        let error = self.pipeline.lost("gone");
        self.pipeline.lose(&error).expect("it had not ended").tell(&error, |_, _| ());
        assert!(self.pipeline.lose(&error).is_none(), "nobody is told twice");
    }
}

pub(super) fn whole(pieces: &str, at: Time, command: &str) -> ToldOfReply {
    let kind = pieces.as_bytes()[0];
    let (pieces, over) = (pieces.as_bytes().to_vec(), Some(command.as_bytes().to_vec()));
    ToldOfReply { pieces, kind, ended: Some(at), over, lost: None }
}
