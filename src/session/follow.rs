//! Where a command goes that a node of a cluster did not carry out, of those on private connections.
//!
//! All of it is decided before a command is run (`proxy/redirect`), so even a write may be sent again. On a private connection such a
//! command is alone: nothing of its session is behind it, and the session looks at its answer before it takes up the next. A command
//! that blocks is told when its slot moves, with nothing done; it waits on at the next node for as long as was left.
//!
//! Holds contract points 2 (nothing of a session overtakes) and 7 (only what was not carried out is sent again).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::stream_ends::StreamEnds;
use super::wire::ClientLine;
use super::{Close, Session};
use crate::clock::Time;
use crate::command::{Class, HashSlot, Spec};
use crate::config::Endpoint;
use crate::metrics::RedirectKind;
use crate::proxy::{NEWCOMER, NextTry, OwnLane, ReplyPlace, Role, Tries};
use crate::resp::{Request, encode};
use crate::upstream::{Node, NodeIndex, named_node, newer_than, redirect_of, with_node_at};

/// A large request flows through, and what of it has gone to one node cannot be sent to another.
const NOT_WHOLE: &[u8] = b"-TRYAGAIN crema: the slot of this request has moved, and not all of it is here any more\r\n";

/// How it begins what Redis says of a group that is not there.
const NO_GROUP: &[u8] = b"-NOGROUP ";

/// What is told that it belongs elsewhere after so long was waiting until then.
const SETTLED: Duration = Duration::from_secs(1);

/// Where a command is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) at: NodeIndex,
    /// Its slot is on the way to that node: it has to say that it knows.
    pub(super) asking: bool,
}

impl Session {
    /// Sees to it that the command at `place`, which was sent at `begun` and is looked at, is carried out, or answered with an error.
    pub(super) async fn follow(
        &mut self,
        line: &mut ClientLine,
        (place, slot): (ReplyPlace, Option<HashSlot>),
        (spec, request): (&Spec, Request<'_>),
        (mut private, begun): (OwnLane, Time),
        mut ends: StreamEnds,
    ) -> Result<(), Close> {
        // What was said of a stream that is not there any more: that it was moved looks the same, until its keys are asked after.
        let mut gone = None;
        let (mut tries, mut told, mut asking) = (Tries::new(begun), begun, false);
        loop {
            let mut error = line.looked_at(self, place).await?;
            let now = Time::now();
            if now.saturating_since(told) > SETTLED {
                tries = Tries::new(now); // it was taken, and has waited there
            }
            told = now;
            let kind = match redirect_of(&error) {
                Some(kind) => kind,
                None if gone.is_some() && error.starts_with(b"-") => break, // it is so
                None if gone.is_none() && spec.blocking(request) && tells_of_no_stream(&error) => {
                    let keys = self.ask_after_keys(&private, asking, (spec, request)).await?;
                    gone = Some(std::mem::replace(&mut error, keys));
                    let Some(kind) = redirect_of(&error) else { break };
                    kind
                }
                None => {
                    gone = None;
                    break;
                }
            };
            if self.link.is_cut() {
                self.worker.shared.map.ask_anew();
                self.caller.replies.take_back(place);
                self.caller.replies.append(place, NOT_WHOLE, Some(Time::ZERO));
                break;
            }
            let (moved, whole, may_be_its_own) =
                (kind == RedirectKind::Moved, (spec, request), speaks_for_itself(spec));
            if may_be_its_own && !moved && !self.confirms(&private, asking, kind, whole).await? {
                break; // the words are its own
            }
            let to = (&**private.server(), slot);
            let Some(way) = self.find_way(line, &mut tries, (kind, &error), to).await else { break };
            if moved && !Arc::ptr_eq(private.server(), self.worker.station(way.at).node()) {
                tries = Tries::new(now); // its slot has moved on, as it may at any time while the command waits
            } else if may_be_its_own && moved && !self.confirms(&private, asking, kind, whole).await? {
                break; // neither the map nor the node says so
            }
            asking = way.asking;
            private = self.send_again(place, way, whole, (begun, &mut ends));
        }
        if let Some(gone) = gone {
            self.caller.replies.take_back(place);
            self.caller.replies.append(place, &gone, Some(Time::ZERO));
        }
        self.caller.replies.show(place);
        Ok(())
    }

    /// Sends a command again that was sent first at `begun`, and says on what. One that waits does so for the rest of its time.
    fn send_again(
        &mut self,
        place: ReplyPlace,
        way: Way,
        (spec, request): (&Spec, Request<'_>),
        (begun, ends): (Time, &mut StreamEnds),
    ) -> OwnLane {
        self.caller.replies.take_back(place);
        let private = self.relend(way.at);
        ends.learn();
        ends.ask(&private, way.asking, (spec, request));
        if way.asking {
            private.tell(&[b"ASKING"]);
        }
        let (mut rest, mut spans) = (Vec::new(), Vec::new());
        let shorter = spec.waits_on(request, Time::now().saturating_since(begun), &mut rest);
        let parsed = if shorter { Request::parse_canonical(&rest, &mut spans) } else { None };
        let request = parsed.unwrap_or(request);
        let (mut known, mut spans) = (Vec::new(), Vec::new());
        let differs = ends.stand_in(request, &mut known);
        let parsed = if differs { Request::parse_canonical(&known, &mut spans) } else { None };
        let request = parsed.unwrap_or(request);
        if spec.blocking(request) {
            if let Some(lent) = self.link.loan_conn_mut() {
                let _ = lent.settle(); // it has room where the last had
            }
            self.link.note_wait(place, place);
        }
        self.caller.send_at(place, &private, (spec, request), Role::Alone, Time::now());
        private
    }

    /// Where a command of this slot is to go that was told this by `node`; none where it is not sent again.
    pub(super) async fn find_way(
        &mut self,
        line: &mut ClientLine,
        tries: &mut Tries,
        (kind, error): (RedirectKind, &[u8]),
        (node, slot): (&Node, Option<HashSlot>),
    ) -> Option<Way> {
        let shared = Arc::clone(&self.worker.shared);
        self.worker.stats.redirected(kind);
        let next = tries.next(kind, shared.config.cluster.wait, Time::now());
        match next {
            NextTry::GiveUp => return None,
            NextTry::Now => {}
            NextTry::After(pause) => line.while_writing(self, sleep(pause)).await,
            // What the map says by now may be another than the node that was asked.
            NextTry::Elsewhere(_) if !self.is_served_by(node, slot) => {}
            NextTry::Elsewhere(pause) => {
                shared.map.ask_anew();
                let mut topology = shared.topology.clone();
                let newer = newer_than(self.worker.topology().version(), &mut topology, pause);
                let newer = line.while_writing(self, newer).await;
                self.worker.adopt_newer(newer);
            }
        }
        if kind == RedirectKind::Ask
            && let Some(at) = self.place_named(line, error, &node.endpoint).await
        {
            return Some(Way { at, asking: true });
        }
        Some(Way { at: self.worker.node_of(slot), asking: false })
    }
}

impl Session {
    /// Whether the node says of its own accord that it does not carry the command out. A script can answer with such a line after it has
    /// written; what only looks whether the same keys are there cannot.
    async fn confirms(
        &mut self,
        private: &OwnLane,
        asking: bool,
        kind: RedirectKind,
        (spec, request): (&Spec, Request<'_>),
    ) -> Result<bool, Close> {
        if spec.keys(request).next().is_none() || kind == RedirectKind::ReadOnly {
            return Ok(false);
        }
        let said = self.ask_after_keys(private, asking, (spec, request)).await?;
        Ok(redirect_of(&said) == Some(kind))
    }

    /// What the node says to who asks whether the command's keys are there.
    async fn ask_after_keys(
        &mut self,
        private: &OwnLane,
        asking: bool,
        (spec, request): (&Spec, Request<'_>),
    ) -> Result<Vec<u8>, Close> {
        let words: Vec<&[u8]> = std::iter::once(&b"EXISTS"[..]).chain(spec.keys(request)).collect();
        if asking {
            private.tell(&[b"ASKING"]);
        }
        let mut question = Vec::new();
        encode::own_command(&mut question, &words);
        self.capture(private, &question).await
    }

    /// Whether the map says that it is this node which serves the slot.
    fn is_served_by(&self, node: &Node, slot: Option<HashSlot>) -> bool {
        let station = self.worker.station(self.worker.node_of(slot));
        std::ptr::eq(Arc::as_ptr(station.node()), node)
    }

    /// The place of the node that an `ASK` of the one at `asked` names, which it may get just now.
    async fn place_named(&self, line: &mut ClientLine, error: &[u8], asked: &Endpoint) -> Option<NodeIndex> {
        let shared = &self.worker.shared;
        let named = named_node(error, &shared.config.cluster.node_map, asked)?;
        if self.worker.topology().place_of(&named).is_none() {
            shared.map.ask_anew();
            let mut topology = shared.topology.clone();
            let newer = line.while_writing(self, with_node_at(&named, &mut topology, NEWCOMER)).await;
            self.worker.adopt_newer(newer);
        }
        self.worker.topology().place_of(&named)
    }
}

/// Whether a command that waits for a stream is told that it is not there any more.
fn tells_of_no_stream(error: &[u8]) -> bool {
    error.starts_with(NO_GROUP) || error.starts_with(b"-UNBLOCKED the stream key no longer exists")
}

/// Whether an answer that looks like a redirect may be the command's own, which has run.
fn speaks_for_itself(spec: &Spec) -> bool {
    matches!(spec.class, Class::Script | Class::Module)
}
