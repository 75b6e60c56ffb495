//! A command that a session puts to one node among several, and takes the answer of itself: what goes to all masters, or is about a
//! node's share.
//!
//! It has replies of its own, and so is marked, told of and fenced as any command. That a node does not answer is an answer too: the
//! others may have. Made when all that the session sent before is answered.
//!
//! Holds contract points 2 (order) and 3 (own writes).

use std::borrow::Cow;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::caller::Caller;
use super::in_flight::{InFlight, ReplyAction};
use super::notified_write::{NoticeForm, notify};
use super::owner::Owner;
use super::private::{Lent, Setting};
use super::recipient::{Recipient, Tally};
use super::replies::Replies;
use super::start::Start;
use super::worker::Worker;
use super::write_guard::WriteGuard;
use crate::clock::Time;
use crate::command::{Effect, Route, Spec, Verb};
use crate::error::Sent;
use crate::metrics::Outcome;
use crate::resp::{Request, encode};
use crate::upstream::{Node, NodeIndex};

/// See the module's head.
pub(crate) struct NodeQuestion {
    node: Arc<Node>,
    replies: Rc<Replies>,
    lent: Option<Lent>,
}

/// The command as its client sees it: it has one place, and is answered once.
pub(crate) struct WholeAnswer(Recipient);

impl WholeAnswer {
    /// `reply` is the answer, of which the last was heard at `heard`.
    pub(crate) fn give(mut self, reply: &[u8], heard: Time) {
        self.0.append(reply, Some(heard));
        self.0.finish();
    }
}

impl Caller {
    /// Takes the next place for a command that several nodes are asked for, or that is put together from what one says.
    pub(crate) fn begin_whole(&mut self, worker: &Worker, spec: &Spec, at: &[NodeIndex]) -> WholeAnswer {
        let place = self.replies.reserve();
        for &at in at {
            self.be_at(worker, at);
            if spec.effect == Effect::Read {
                self.note_reads(at, place, std::iter::once(None));
            }
        }
        if matches!(spec.effect, Effect::Write | Effect::Opaque) {
            self.replies.wrote(place);
        }
        WholeAnswer(Recipient::new(&self.replies, place, Tally::new(spec, Outcome::Forwarded)))
    }

    /// Sends it to one node, on a lane.
    pub(crate) fn ask_node(
        &mut self,
        worker: &Worker,
        at: NodeIndex,
        (spec, request): (&Spec, Request<'_>),
        now: Time,
    ) -> NodeQuestion {
        let (replies, recipient) = self.part(spec);
        let scripts = spec.route == Route::ScriptLane;
        let _ = self.turn_for((worker, at), || None, (scripts, || false), now); // nothing is unanswered
        match self.track((worker, at), now) {
            // It is this node's own: nobody else is to answer, whatever this one says.
            Ok(track) => {
                let asked = InFlight::new(&track.site, recipient, ReplyAction::Pass, Start::at(now));
                track.send(request.raw(), asked, now);
            }
            Err(error) => recipient.refuse(&worker.shared, &error, Sent::No),
        }
        NodeQuestion { node: Arc::clone(worker.station(at).node()), replies, lent: None }
    }

    /// Sends it to one node, on a connection of its own.
    pub(crate) fn ask_node_apart(
        &mut self,
        worker: &Worker,
        (at, asking): (NodeIndex, bool),
        (spec, request): (&Spec, Request<'_>),
        now: Time,
    ) -> NodeQuestion {
        let (replies, recipient) = self.part(spec);
        let station = worker.station(at);
        self.be_at(worker, at);
        let owner = Owner::new(Rc::clone(&replies), worker.shared.l1.clone());
        let setting = if spec.route == Route::BorrowAnywhere { Setting::Anywhere } else { Setting::Database };
        let lent = station.lend(&self.who_at(at), self.resp, setting, owner, now);
        let own = lent.own();
        let waits = spec.route == Route::Session(Verb::Wait);
        if asking {
            lent.tell(&[b"ASKING"], now); // the node does not serve the slot yet
        }
        if waits {
            lent.tell(&[b"PING"], now); // makes all that was replicated the connection's own
        }
        let (command, action) = match spec.effect {
            Effect::Read | Effect::None => (Cow::Borrowed(request.raw()), ReplyAction::Pass),
            Effect::Write | Effect::Opaque => {
                let user = self.who.seat.user();
                let guard = WriteGuard::begin_accompanied(&own.site, spec, request, self.who.db);
                let form = NoticeForm::of(&own.site, user, spec, request);
                let (command, write) = notify(&own.site.shared.l1, (user, self.who.db), guard, form, request.raw());
                (command, write.into())
            }
        };
        own.put(&command, InFlight::new(&own.site, recipient, action, Start::at(now)).patient(waits), now);
        NodeQuestion { node: Arc::clone(station.node()), replies, lent: Some(lent) }
    }

    /// Who gets the answer of one node.
    fn part(&self, spec: &Spec) -> (Rc<Replies>, Recipient) {
        let replies = Rc::new(Replies::aside(&self.replies));
        let recipient = Recipient::new(&replies, replies.reserve(), Tally::counted(spec));
        (replies, recipient)
    }
}

impl NodeQuestion {
    /// The node's address.
    pub(crate) fn node(&self) -> &str {
        &self.node.address
    }

    /// The answer, or an error that says that there is none; and when it was heard. Cancel safe.
    pub(crate) async fn answer(&mut self) -> (Vec<u8>, Time) {
        let replies = &self.replies;
        let answered = poll_fn(|cx| {
            replies.register(cx);
            if replies.ended().is_some() {
                Poll::Ready(false)
            } else if replies.is_settled() {
                Poll::Ready(true)
            } else {
                Poll::Pending
            }
        });
        if answered.await {
            return (replies.take(), replies.last_answer());
        }
        self.lent = None; // what is said on it now is nobody's
        let mut lost = Vec::new();
        encode::error(&mut lost, "ERR crema: no answer");
        (lost, Time::ZERO)
    }

    /// Gives its connection back. It must have been answered.
    pub(crate) fn end(self, now: Time) {
        if let Some(lent) = self.lent {
            lent.give_back(now);
        }
    }
}
