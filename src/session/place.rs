//! At which node of a cluster what needs a connection of its own is to be.
//!
//! A command goes to the node of its first key, one without a key to the front. A connection for life is one to the front; to other
//! nodes a session has a loan beside it, and what may go on a lane does. A transaction is at one node: the one of its first key, or of
//! a key that is watched. Until one is named it is held here, or at the front, where a command without a key has led it; then it
//! begins again where the key is. With a single node nothing here is called.
//!
//! Holds contract point 2.

use super::link::Link;
use super::prefix::Prefix;
use super::stream_ends::StreamEnds;
use super::wire::ClientLine;
use super::{Close, LARGE_REQUEST, Session};
use crate::clock::Time;
use crate::command::{FirstKey, HashSlot, Spec, Spread};
use crate::error::Sent;
use crate::metrics::{Failure, Outcome};
use crate::proxy::{self, Lent, OwnLane, Setting};
use crate::resp::{Request, Resp, encode};
use crate::upstream::NodeIndex;

/// What Redis says of keys in several slots.
pub(super) const CROSSSLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";
/// A transaction that is longer than what is kept of it has to go where its first key is.
const TOO_LONG: &str = "ERR crema: the commands before the first key of a transaction are too long to be sent again";
/// What changes a connection, in a transaction that is at another node than the front.
const NOT_HERE: &str = "ERR crema: in a transaction with keys of a cluster, no command changes the connection";
/// What is about the keys of all nodes.
const NOT_ONE_NODE: &str = "ERR crema: a transaction is at one node of a cluster, and this command is for all of them";
/// A private connection is wanted at a node where keys of another are watched.
const WATCHES: &str = "ERR crema: not while keys of another node are watched";

impl Session {
    /// The slot of the first key that a command names, in a cluster.
    pub(super) fn slot_of(&self, spec: &Spec, request: Request<'_>) -> Option<HashSlot> {
        if !self.worker.is_cluster() {
            return None;
        }
        spec.keys(request).next().map(HashSlot::of)
    }

    /// Sees to it that a command which needs a private connection goes on one at the right node, and that it is so on the active one
    /// where true is returned. False: it has been answered, or sent.
    pub(super) async fn is_placed(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<bool, Close> {
        let slot = self.slot_of(spec, request);
        if self.link.is_in_transaction() {
            return self.place_queued(line, spec, slot).await;
        }
        if slot.is_none() {
            return Ok(true); // at the front
        }
        let at = self.worker.node_of(slot);
        if self.is_confined() && !self.is_tied_to(at) {
            self.refuse_confined(line, spec).await?;
            return Ok(false);
        }
        let held_back = self.holds_up(spec, Time::now());
        let large = request.raw().len() > LARGE_REQUEST || self.link.ahead() > 0;
        if spec.on_lane(request) && !large && !held_back && !self.is_tied_to(at) {
            self.on_lane_beside(line, spec, request).await?;
        } else {
            self.single(line, slot, spec, request).await?;
        }
        Ok(false)
    }

    /// Whether what goes to this node has to go on the connection that the session has there.
    fn is_tied_to(&self, at: NodeIndex) -> bool {
        !self.link.is_over() && self.link.leaves_home().is_none() && self.is_connected_to(at)
    }

    /// Whether the session has a private connection to this node.
    fn is_connected_to(&self, at: NodeIndex) -> bool {
        let station = self.worker.station(at);
        [self.link.conn(), self.link.kept_conn()].into_iter().flatten().any(|lent| lent.is_at(&station))
    }

    /// What may go on a lane goes on one, and leaves what else the session has as it is.
    async fn on_lane_beside(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        if self.has_done_with_loan() {
            self.end_loan(line).await?;
        }
        if !self.caller.is_on_lane() {
            line.answered(self).await?;
        }
        let now = Time::now();
        self.show_life(now);
        let taken = proxy::call(&self.worker, &mut self.caller, spec, request, now);
        self.on_lane(line, spec, request, taken, now).await
    }

    /// A command that is alone on a private connection at the node of its key: it is sent again where that says that another serves it.
    pub(super) async fn single(
        &mut self,
        line: &mut ClientLine,
        slot: Option<HashSlot>,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        self.renew_loan(line).await?;
        let at = self.worker.node_of(slot);
        let private = match self.own_lane().filter(|_| self.link.ahead() > 0) {
            Some(private) => private, // the rest follows its beginning
            None if self.may_borrow_at(at) => self.borrow_at(line, at).await?,
            None => {
                self.refuse_here(WATCHES);
                return Ok(());
            }
        };
        if spec.blocking(request) {
            if let Err(full) = self.link.loan_conn_mut().map_or(Ok(()), Lent::settle) {
                self.refuse(&full, Sent::No);
                return Ok(());
            }
            self.note_wait();
        }
        let mut ends = StreamEnds::default();
        if self.link.ahead() == 0 {
            ends = StreamEnds::of(spec, request);
            ends.ask(&private, false, (spec, request));
        }
        let begun = Time::now();
        let place = self.send(&private, spec, request, begun);
        self.caller.replies.look_at(place);
        self.follow(line, (place, slot), (spec, request), (private, begun), ends).await?;
        if let Some(lent) = self.link.loan_conn_mut() {
            lent.unsettle();
        }
        Ok(())
    }

    /// Whether a private connection can be had at a node: what is begun at another is not left for it.
    fn may_borrow_at(&self, at: NodeIndex) -> bool {
        let busy = self.link.has_loan() && !self.link.is_over();
        !busy || self.is_connected_to(at) || at == self.worker.front_index()
    }

    /// Has a private connection to this node from here on, at least until the present purpose is over.
    pub(super) async fn borrow_at(&mut self, line: &mut ClientLine, at: NodeIndex) -> Result<OwnLane, Close> {
        if let Link::Errand(_) = self.link {
            self.end_loan(line).await?; // it may be in another database
        }
        let station = self.worker.station(at);
        let is_there = |lent: &&Lent| lent.is_at(&station);
        if let Some(lent) = self.link.conn().filter(is_there) {
            let private = lent.own();
            self.leave_lane(line).await?;
            return Ok(private);
        }
        if self.link.is_over() {
            self.end_loan(line).await?;
        }
        if let Some(lent) = self.link.kept_conn().filter(is_there) {
            let private = lent.own();
            self.leave_lane(line).await?;
            return Ok(private);
        }
        let lent = self.lend_ready(line, at).await?;
        let private = lent.own();
        if self.link.has_loan() {
            // Something is begun on a loan elsewhere: so this one stays, at the front, and that is beside it.
            self.change(|link| link.settle_beside(lent));
            if let Some(Err(full)) = self.link.kept_conn_mut().map(Lent::settle) {
                self.refuse(&full, Sent::No);
                return Err(Close::Gently);
            }
        } else {
            self.change(|link| link.lend(lent));
        }
        Ok(private)
    }

    /// The loan goes back, whatever is unanswered before it; another at this node takes its place.
    pub(super) fn relend(&mut self, at: NodeIndex) -> OwnLane {
        let now = Time::now();
        self.change(|link| {
            link.end_ahead();
            link.renew();
        });
        if let Some(lent) = self.change(Link::end_loan) {
            lent.give_back(now);
        }
        let station = self.worker.station(at);
        let watched = self.link.watched_slot().filter(|_| self.link.has_loan());
        if let Some(lent) = self.link.conn().filter(|lent| watched.is_some() && lent.is_at(&station)) {
            return lent.own(); // keys are watched on it
        }
        if let Some(kept) = self.link.kept_conn().filter(|lent| lent.is_at(&station)) {
            return kept.own();
        }
        let lent = self.lend(at, Setting::Database);
        let private = lent.own();
        self.change(|link| link.lend(lent));
        if watched.is_some() {
            // What was watched is not watched here: the transaction fails, as if it had changed.
            self.change(|link| {
                link.watch(watched);
                link.spoil_watch();
            });
        }
        private
    }

    /// A home that has been idle for long is used, so that Redis sees its client live.
    fn show_life(&self, now: Time) {
        if let Some(home) = self.link.free_home()
            && !super::pinned::is_awake(home, now)
        {
            home.tell(&[b"PING"], now);
        }
    }

    /// Whether the node of its connection for life has left the cluster, or is no master of it any more.
    pub(super) fn has_lost_its_node(&self) -> bool {
        self.worker.is_cluster() && self.link.kept_conn().is_some_and(|lent| !self.worker.has_station(lent))
    }

    /// Whether the client has subscribed and speaks RESP2: then Redis takes few commands from it.
    pub(super) fn is_confined(&self) -> bool {
        let subscribed = |lent: &Lent| lent.lane().subscriptions() != [0, 0];
        self.caller.resp == Resp::V2
            && matches!(&self.link, Link::Stream(_))
            && self.link.kept_conn().is_some_and(subscribed)
    }

    /// Answers such a client as the node would that has its subscriptions, if that served the key.
    async fn refuse_confined(&mut self, line: &mut ClientLine, spec: &Spec) -> Result<(), Close> {
        line.answered(self).await?;
        let Some(kept) = self.link.kept_conn().map(Lent::own) else { return Ok(()) };
        let mut echo = Vec::new();
        encode::own_command(&mut echo, &[b"ECHO", b""]);
        let words = self.capture(&kept, &echo).await?;
        let words = String::from_utf8_lossy(&words).replacen("'echo'", &format!("'{}'", spec.name), 1);
        self.asked(spec, Outcome::Pinned);
        self.answer(|out| out.extend_from_slice(words.as_bytes()));
        Ok(())
    }

    /// Answers the command under way with an error, for it cannot be where it is.
    pub(super) fn refuse_here(&self, words: &str) {
        self.fails(Failure::CrossSlot);
        self.answer(|out| encode::error(out, words));
    }
}

impl Session {
    /// Sees to it that the transaction which the client has begun is at the node where a command belongs that is to be queued. False:
    /// it does not belong there, which the client has been told, and the transaction fails.
    pub(super) async fn place_queued(
        &mut self,
        line: &mut ClientLine,
        spec: &Spec,
        slot: Option<HashSlot>,
    ) -> Result<bool, Close> {
        if !self.place(line, slot).await? {
            return Ok(false);
        }
        if matches!(spec.spread, Spread::Masters(_) | Spread::Cursor) && self.worker.has_several_masters() {
            self.spoil(NOT_ONE_NODE);
            return Ok(false);
        }
        if spec.route.changes_connection() && self.link.has_loan() && !self.is_at_front() {
            self.spoil(NOT_HERE);
            return Ok(false);
        }
        Ok(true)
    }

    /// The same of a command with a key in this slot, or without one.
    pub(super) async fn place(&mut self, line: &mut ClientLine, slot: Option<HashSlot>) -> Result<bool, Close> {
        if self.link.is_held() {
            self.change(Link::end_hold);
            let at = self.worker.node_of(slot);
            let private = self.borrow_at(line, at).await?;
            let prefix = Prefix::in_slot(slot);
            if let Some(refusal) = self.begin_on(&private, &prefix).await? {
                self.refuse_here(&refusal);
                return Err(Close::Gently); // the client has been told that it has begun
            }
            self.change(|link| link.multi(Some(Box::new(prefix))));
            return Ok(true);
        }
        let Some(slot) = slot else { return Ok(true) };
        let Some(prefix) = self.link.open_mut().and_then(|open| open.prefix.as_mut()) else { return Ok(true) };
        let undecided = prefix.slot().is_none();
        if !prefix.names(slot) {
            self.spoil(CROSSSLOT);
            return Ok(false);
        }
        let station = self.worker.station(self.worker.node_of(Some(slot)));
        if undecided && !self.link.conn().is_some_and(|lent| lent.is_at(&station)) {
            return self.begin_elsewhere(line, slot).await;
        }
        Ok(true)
    }

    /// The same of a request of which only the beginning is there. False: it is to be whole first.
    pub(super) async fn is_placed_ahead(&mut self, line: &mut ClientLine, first: FirstKey<'_>) -> Result<bool, Close> {
        let slot = match first {
            FirstKey::Known(key) => Some(HashSlot::of(key)),
            FirstKey::None | FirstKey::NotYet => None,
        };
        if self.link.is_in_transaction() {
            let prefix = self.link.open().and_then(|open| open.prefix.as_ref());
            let fits = prefix.is_none_or(|prefix| match (prefix.slot(), slot) {
                (Some(named), Some(slot)) => named == slot,
                (None, Some(_)) => prefix.commands().is_some(),
                (_, None) => true,
            });
            return Ok(fits && self.place(line, slot).await?);
        }
        let at = self.worker.node_of(slot);
        if !self.may_borrow_at(at) {
            return Ok(false);
        }
        self.borrow_at(line, at).await?;
        Ok(true)
    }

    /// A transaction that was at the front, for want of a key, begins again where its first key is.
    async fn begin_elsewhere(&mut self, line: &mut ClientLine, slot: HashSlot) -> Result<bool, Close> {
        let prefix = self.link.open().and_then(|open| open.prefix.as_ref());
        if prefix.is_none_or(|prefix| prefix.commands().is_none()) {
            self.spoil(TOO_LONG);
            return Ok(false);
        }
        let Some(open) = self.change(Link::take_open) else { return Ok(true) };
        let Some(front) = self.own_lane() else { return Ok(true) };
        line.answered(self).await?;
        let mut discard = Vec::new();
        encode::own_command(&mut discard, &[b"DISCARD"]);
        let reply = self.capture(&front, &discard).await?;
        if reply.starts_with(b"-") {
            front.close(); // it is still in the transaction, and serves nobody
        }
        if self.link.is_over() {
            self.end_loan(line).await?;
        }
        let private = self.borrow_at(line, self.worker.node_of(Some(slot))).await?;
        if let Some(prefix) = &open.prefix
            && let Some(refusal) = self.begin_on(&private, prefix).await?
        {
            self.refuse_here(&refusal);
            return Err(Close::Gently);
        }
        self.change(|link| link.resume(open));
        Ok(true)
    }

    /// Begins a transaction on this connection, with what was queued so far; or what is said where the user may not. It is waited for
    /// each time: what is queued behind a `MULTI` that is refused would be carried out one by one.
    pub(super) async fn begin_on(&mut self, private: &OwnLane, prefix: &Prefix) -> Result<Option<String>, Close> {
        let reply = self.capture(private, &multi()).await?;
        if let Some(error) = reply.strip_prefix(b"-") {
            return Ok(Some(String::from_utf8_lossy(error).trim_end().to_owned()));
        }
        let now = Time::now();
        for command in prefix.commands().into_iter().flatten() {
            private.queue_again(command, prefix.note(), now);
        }
        Ok(None)
    }

    fn is_at_front(&self) -> bool {
        let front = self.worker.front();
        self.link.conn().is_some_and(|lent| lent.is_at(&front))
    }

    /// Refuses a command of a transaction, which fails for it as it would by an error of Redis's.
    pub(super) fn spoil(&mut self, words: &str) {
        self.refuse_here(words);
        let mut spoiled = Vec::new();
        encode::command(&mut spoiled, &[b""]); // no command has this name: it is refused, and so the transaction is
        if let Some(private) = self.own_lane()
            && let Some(prefix) = self.link.open_mut().and_then(|open| open.prefix.as_mut())
        {
            private.queue_again(&spoiled, prefix.note(), Time::now());
            prefix.queue(&spoiled);
        }
    }
}

/// `MULTI`, as its client said it: where it is carried out `MONITOR` shows it.
fn multi() -> Vec<u8> {
    let mut multi = Vec::new();
    encode::command(&mut multi, &[b"MULTI"]);
    multi
}
