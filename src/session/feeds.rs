//! What a subscriber of a cluster has at other nodes than the one that its subscriptions are at.
//!
//! A published message reaches all nodes, so one connection does. What happens to keys is told by the node that has them alone, and a
//! shard channel is at the node of its slot. So a subscriber to those has a *feed* at each node that tells of them: a connection of its
//! own of whose messages only these are passed on. Which feeds there are to be follows from what the client has subscribed to and from
//! the map, anew with each version of it.
//!
//! Holds contract point 1: each message comes once, behind the confirmation of its subscription.

use std::collections::BTreeSet;
use std::rc::Rc;

use tokio::sync::oneshot;

use super::link::Stay;
use super::place::CROSSSLOT;
use super::wire::ClientLine;
use super::{Close, Session};
use crate::clock::Time;
use crate::command::{HashSlot, Spec, Subscription, SubscriptionKind};
use crate::error::Sent;
use crate::proxy::{Lent, OwnLane, Owner, ReplyAction, Setting, Tries, Who};
use crate::resp::{Request, Resp, encode};
use crate::upstream::{KEY_EVENTS, Mode, NodeIndex, redirect_of};

/// Names of channels, or patterns.
type Names = BTreeSet<Vec<u8>>;

/// See the module's head.
pub(super) struct Feeds {
    all: Vec<Feed>,
    wanted: KeySubscriptions,
    /// The map that they are by.
    version: Option<u64>,
    /// For whom they were made, and in which version of the protocol.
    made_for: (Rc<Who>, Resp),
}

impl Feeds {
    /// Whether they were made for this user, in this version of the protocol.
    fn are_for(&self, who: &Rc<Who>, resp: Resp) -> bool {
        Rc::ptr_eq(&self.made_for.0, who) && self.made_for.1 == resp
    }
}

/// What tells of keys, of all that the client has subscribed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct KeySubscriptions {
    channels: Names,
    patterns: Names,
}

/// A connection to one node.
struct Feed {
    lent: Lent,
    has: KeySubscriptions,
}

impl KeySubscriptions {
    /// Takes up what of these names may tell of keys, or forgets them; without any, all of their kind. Whether that is anything.
    fn note<'a>(&mut self, subscription: Subscription, names: impl ExactSizeIterator<Item = &'a [u8]>) -> bool {
        let known = match subscription.kind {
            SubscriptionKind::Channels => &mut self.channels,
            SubscriptionKind::Patterns => &mut self.patterns,
            SubscriptionKind::Shards => return false,
        };
        let before = known.len();
        if !subscription.begins && names.len() == 0 {
            known.clear();
        }
        for name in names {
            if !subscription.begins {
                known.remove(name);
            } else if KEY_EVENTS.iter().any(|prefix| may_name(subscription.kind, name, prefix)) {
                known.insert(name.to_vec());
            }
        }
        known.len() != before
    }

    fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.patterns.is_empty()
    }

    /// What it takes to come from `before` to this.
    fn changes(&self, before: &Self) -> Vec<(&'static [u8], Vec<Vec<u8>>)> {
        let missing = |from: &Names, of: &Names| of.difference(from).cloned().collect::<Vec<_>>();
        let all: [(&'static [u8], Vec<Vec<u8>>); 4] = [
            (b"SUBSCRIBE", missing(&before.channels, &self.channels)),
            (b"PSUBSCRIBE", missing(&before.patterns, &self.patterns)),
            (b"UNSUBSCRIBE", missing(&self.channels, &before.channels)),
            (b"PUNSUBSCRIBE", missing(&self.patterns, &before.patterns)),
        ];
        all.into_iter().filter(|(_, names)| !names.is_empty()).collect()
    }
}

/// Whether a channel, or one that a pattern matches, can begin so.
fn may_name(kind: SubscriptionKind, name: &[u8], prefix: &[u8]) -> bool {
    let special = |&byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b'\\');
    let literal = match kind {
        SubscriptionKind::Patterns => name.iter().position(special),
        _ => None,
    };
    match literal {
        Some(literal) => name[..literal].iter().zip(prefix).all(|(one, other)| one == other),
        None => name.starts_with(prefix),
    }
}

impl Session {
    /// A subscription, or the end of one, in a cluster and in no transaction.
    pub(super) async fn subscribe(
        &mut self,
        line: &mut ClientLine,
        subscription: Subscription,
        spec: &Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        if subscription.kind == SubscriptionKind::Shards {
            return self.subscribe_shards(line, spec, request).await;
        }
        let private = self.keep(line, Stay::Stream).await?;
        private.set_mode(Mode::Subscribed);
        let mut wanted = self.feeds.as_ref().map(|feeds| feeds.wanted.clone()).unwrap_or_default();
        let is_told_elsewhere = wanted.note(subscription, request.args().skip(1).collect::<Vec<_>>().into_iter());
        if is_told_elsewhere {
            line.answered(self).await?;
        }
        let confirmations = ReplyAction::Confirm(request.argc().saturating_sub(1).max(1));
        let place = self.caller.send_with(&private, (spec, request), confirmations, Time::now());
        if is_told_elsewhere {
            // What the others tell comes behind the confirmation, and the client is told of that when all are heard.
            self.caller.replies.hold(place);
            line.held(self).await?;
            self.feeds_mut().wanted = wanted;
            let fed = self.feed(line).await;
            self.caller.replies.release(place);
            fed?;
        }
        Ok(())
    }

    fn feeds_mut(&mut self) -> &mut Feeds {
        let made_for = (Rc::clone(&self.caller.who), self.caller.resp);
        let new = || Box::new(Feeds { all: Vec::new(), wanted: KeySubscriptions::default(), version: None, made_for });
        self.feeds.get_or_insert_with(new)
    }

    /// Whether what a subscriber has at the nodes is not by the map any more, or not for who it is by now.
    pub(super) fn has_to_feed(&self) -> bool {
        let of_today = |feeds: &Feeds| feeds.version == Some(self.worker.topology().version());
        self.feeds.as_ref().is_some_and(|feeds| !of_today(feeds) || !feeds.are_for(&self.caller.who, self.caller.resp))
    }

    /// Sees to it that each node which tells of keys that the client has subscribed to tells it.
    pub(super) async fn feed(&mut self, line: &mut ClientLine) -> Result<(), Close> {
        let Some(mut feeds) = self.feeds.take() else { return Ok(()) };
        if !feeds.are_for(&self.caller.who, self.caller.resp) {
            feeds.all.clear();
            feeds.made_for = (Rc::clone(&self.caller.who), self.caller.resp);
        }
        let topology = self.worker.topology();
        feeds.version = Some(topology.version());
        let nodes: Vec<NodeIndex> = topology.nodes().map(|(at, _)| at).collect();
        let is_there = |feed: &Feed| nodes.iter().any(|&at| feed.lent.is_at(&self.worker.station(at)));
        feeds.all.retain(is_there);
        if !feeds.wanted.is_empty() {
            for at in nodes {
                let station = self.worker.station(at);
                let is_home = self.link.kept_conn().is_some_and(|lent| lent.is_at(&station));
                if !is_home && !feeds.all.iter().any(|feed| feed.lent.is_at(&station)) {
                    feeds.all.push(self.open_feed(at)?);
                }
            }
        }
        let wanted = &feeds.wanted;
        let told: Vec<_> = feeds.all.iter_mut().filter_map(|feed| feed.want(wanted)).collect();
        feeds.all.retain(|feed| !feed.has.is_empty() || feed.shards() > 0);
        self.feeds = (!feeds.all.is_empty() || !feeds.wanted.is_empty()).then_some(feeds);
        for reply in told {
            let _ = line.while_writing(self, reply).await; // where it is lost the session ends
        }
        Ok(())
    }

    /// A connection to this node of whose messages only those are passed on that no other node tells.
    fn open_feed(&mut self, at: NodeIndex) -> Result<Feed, Close> {
        let l1 = std::sync::Arc::clone(&self.worker.shared.l1);
        let owner = Owner::of_feed(Rc::clone(&self.caller.replies), l1);
        self.caller.be_at(&self.worker, at);
        let station = self.worker.station(at);
        let mut lent = station.lend(&self.caller.who, self.caller.resp, Setting::Database, owner, Time::now());
        if let Err(full) = lent.settle() {
            self.refuse(&full, Sent::No);
            return Err(Close::Gently);
        }
        lent.stands(true, false);
        lent.lane().set_mode(Mode::Subscribed);
        Ok(Feed { lent, has: KeySubscriptions::default() })
    }
}

impl Feed {
    /// How many shard channels are subscribed to on it.
    fn shards(&self) -> usize {
        usize::try_from(self.lent.lane().subscriptions()[1]).unwrap_or(usize::MAX)
    }

    /// Has the node tell of this, and no more of what it told of before. What is told when it does; none where it does already.
    fn want(&mut self, wanted: &KeySubscriptions) -> Option<oneshot::Receiver<Vec<u8>>> {
        let changes = wanted.changes(&self.has);
        let own = self.lent.own();
        for (command, names) in &changes {
            let mut raw = Vec::new();
            let args: Vec<&[u8]> = std::iter::once(*command).chain(names.iter().map(Vec::as_slice)).collect();
            encode::own_command(&mut raw, &args);
            own.ask(&raw, ReplyAction::Confirm(names.len()), Time::now());
        }
        if changes.is_empty() {
            return None;
        }
        self.has.clone_from(wanted);
        let (told, reply) = oneshot::channel();
        let mut ping = Vec::new();
        encode::own_command(&mut ping, &[b"PING"]);
        own.ask(&ping, ReplyAction::Capture(Vec::new(), told), Time::now());
        Some(reply)
    }
}

impl Session {
    /// A subscription to shard channels, or the end of one. They are in one slot, as Redis wants it.
    async fn subscribe_shards(
        &mut self,
        line: &mut ClientLine,
        spec: &Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        let names: Vec<Vec<u8>> = request.args().skip(1).map(<[u8]>::to_vec).collect();
        let Some(first) = names.first() else { return self.leave_shards(line, spec, request).await };
        let slot = HashSlot::of(first);
        if names.iter().any(|name| HashSlot::of(name) != slot) {
            self.refuse_here(CROSSSLOT);
            return Ok(());
        }
        line.answered(self).await?;
        let mut tries = Tries::new(Time::now());
        let mut at = self.worker.node_of(Some(slot));
        let mut place = None;
        loop {
            let private = self.shard_lane(line, at).await?;
            private.set_mode(Mode::Subscribed);
            let confirmations = ReplyAction::Confirm(names.len());
            let sent = match place {
                None => self.caller.send_with(&private, (spec, request), confirmations, Time::now()),
                Some(sent) => {
                    self.caller.send_with_at(sent, &private, (spec, request), confirmations, Time::now());
                    sent
                }
            };
            place = Some(sent);
            self.caller.replies.look_at(sent);
            let error = line.looked_at(self, sent).await?;
            let way = match redirect_of(&error) {
                Some(kind) => self.find_way(line, &mut tries, (kind, &error), (private.server(), Some(slot))).await,
                None => None,
            };
            // A slot that moves takes its subscribers along when it has: nobody subscribes where it is not yet.
            let Some(way) = way.filter(|way| !way.asking) else {
                self.caller.replies.show(sent);
                return Ok(());
            };
            self.caller.replies.take_back(sent);
            at = way.at;
        }
    }

    /// The connection on which shard channels at this node are.
    async fn shard_lane(&mut self, line: &mut ClientLine, at: NodeIndex) -> Result<OwnLane, Close> {
        let station = self.worker.station(at);
        match self.link.kept_conn() {
            None => return self.keep_at(line, at, Stay::Stream).await,
            Some(kept) if kept.is_at(&station) => return self.keep_at(line, at, Stay::Stream).await,
            Some(_) => {}
        }
        let feeds = self.feeds_mut();
        let known = feeds.all.iter().position(|feed| feed.lent.is_at(&station));
        if known.is_none() {
            let feed = self.open_feed(at)?;
            self.feeds_mut().all.push(feed);
        }
        let feeds = self.feeds_mut();
        feeds.version = None; // one that is of no use any more goes
        let at = known.unwrap_or(feeds.all.len() - 1);
        Ok(feeds.all[at].lent.own())
    }

    /// All subscriptions to shard channels end, at each node.
    async fn leave_shards(&mut self, line: &mut ClientLine, spec: &Spec, request: Request<'_>) -> Result<(), Close> {
        line.answered(self).await?;
        let mut lanes = Vec::new();
        if let Some(feeds) = &mut self.feeds {
            feeds.version = None;
        }
        for feed in self.feeds.iter().flat_map(|feeds| &feeds.all).filter(|feed| feed.shards() > 0) {
            lanes.push((feed.lent.own(), feed.shards()));
        }
        let own = self.link.kept_conn().map_or(0, |lent| lent.lane().subscriptions()[1] as usize);
        if own > 0 || lanes.is_empty() {
            lanes.push((self.keep(line, Stay::Stream).await?, own.max(1)));
        }
        for (nth, (lane, shards)) in lanes.into_iter().enumerate() {
            lane.set_mode(Mode::Subscribed);
            let confirms = ReplyAction::Confirm(shards);
            if nth == 0 {
                self.caller.send_with(&lane, (spec, request), confirms, Time::now());
            } else {
                // It is one command, whoever confirms it.
                let place = self.caller.replies.reserve();
                self.caller.send_with_at(place, &lane, (spec, request), confirms, Time::now());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(kind: SubscriptionKind, begins: bool) -> Subscription {
        Subscription { kind, begins }
    }

    #[test]
    fn patterns_that_may_match_what_happens_to_keys_are_known() {
        use SubscriptionKind::{Channels, Patterns};
        for (kind, name, may) in [
            (Channels, "__keyspace@0__:k", true),
            (Channels, "__keyevent@0__:set", true),
            (Channels, "__key", false),
            (Channels, "news", false),
            (Channels, "__key*", false),
            (Patterns, "*", true),
            (Patterns, "__key*__:*", true),
            (Patterns, "__keyspace@0__:user:*", true),
            (Patterns, "__keyevent@?__:expired", true),
            (Patterns, "[_]x", true),
            (Patterns, "\\__keyspace@0__:k", true),
            (Patterns, "news.*", false),
            (Patterns, "__keyspace@0__:k", true),
            (Patterns, "__x*", false),
        ] {
            let found = KEY_EVENTS.iter().any(|prefix| may_name(kind, name.as_bytes(), prefix));
            assert_eq!(found, may, "{kind:?} {name}");
        }
    }

    #[test]
    fn what_a_node_is_to_tell_follows_from_what_the_client_has_subscribed_to() {
        use SubscriptionKind::{Channels, Patterns, Shards};
        let note = |wanted: &mut KeySubscriptions, kind, begins, names: &[&str]| {
            let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
            wanted.note(subscription(kind, begins), names.into_iter())
        };
        let mut wanted = KeySubscriptions::default();
        assert!(!note(&mut wanted, Channels, true, &["news"]) && wanted.is_empty());
        assert!(!note(&mut wanted, Shards, true, &["__keyspace@0__:k"]) && wanted.is_empty());
        assert!(note(&mut wanted, Channels, true, &["news", "__keyspace@0__:k"]));
        assert!(note(&mut wanted, Patterns, true, &["*", "news*"]));
        assert!(!note(&mut wanted, Patterns, true, &["*"]), "it has it");
        let before = wanted.clone();
        let words = |changes: Vec<(&[u8], Vec<Vec<u8>>)>| {
            let all = changes.into_iter().map(|(command, names)| {
                let names: Vec<_> = names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
                format!("{} {}", String::from_utf8_lossy(command), names.join(" "))
            });
            all.collect::<Vec<_>>()
        };
        assert_eq!(words(wanted.changes(&KeySubscriptions::default())), ["SUBSCRIBE __keyspace@0__:k", "PSUBSCRIBE *"]);
        assert!(!note(&mut wanted, Channels, false, &["news"]));
        assert!(note(&mut wanted, Channels, false, &[]));
        assert!(note(&mut wanted, Patterns, true, &["__keyevent*"]));
        assert_eq!(words(wanted.changes(&before)), ["PSUBSCRIBE __keyevent*", "UNSUBSCRIBE __keyspace@0__:k"]);
        assert!(note(&mut wanted, Patterns, false, &["*", "__keyevent*"]) && wanted.is_empty());
    }
}
