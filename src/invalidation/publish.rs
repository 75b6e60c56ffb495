//! Tells the fleet: the other way of the channel.
//!
//! Owns one connection to Redis, named `crema-publish`, and a bounded queue in front of it. Whoever has something to say
//! appends to the queue and goes on; only an operator's command waits for the answer. What cannot be said in time is dropped
//! and counted, for no promise rests on it. But that everything is to be forgotten, because of a change of which Redis tells nobody,
//! is owed until it is said. It says only that keys have changed, never a value.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::message::{Envelope, Message};
use super::notice::Notice;
use crate::control::Control;
use crate::error::Error;
use crate::metrics::{Need, Publication, Stats};
use crate::resp::{Resp, encode};
use crate::upstream::{Backoff, Connection, Login, Node, Serving, Target, connect, read_reply};

/// Messages that may wait to be sent; more are dropped and counted.
const QUEUE: usize = 4096;
/// Messages in one write.
const BATCH: usize = 128;
/// Bytes of keys in one message: far below what receivers read.
const LARGEST: usize = 64 << 10;

/// What a write is to tell, collected while its keys are known and told when it is done.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    keys: Vec<String>,
    unnamed: u64,
    flushed: bool,
    /// What goes to Redis with the write itself, where the channel carries coherence.
    pub notice: Notice,
}

impl News {
    /// This key may have changed. One that is not UTF-8, or very long, has no name on the channel.
    pub(crate) fn key(&mut self, key: &[u8]) {
        match std::str::from_utf8(key) {
            Ok(key) if key.len() <= LARGEST => self.keys.push(key.to_owned()),
            _ => self.unnamed += 1,
        }
    }

    /// A database was emptied.
    pub(crate) fn flushed(&mut self) {
        self.flushed = true;
    }

    /// The news of another write that the same reply answers.
    pub(crate) fn add(&mut self, other: Self) {
        self.keys.extend(other.keys);
        self.unnamed += other.unnamed;
        self.flushed |= other.flushed;
        self.notice.join(other.notice);
    }

    /// As messages, in the fewest that receivers read.
    fn messages(self) -> Vec<Message> {
        let mut messages = Vec::new();
        if self.flushed {
            messages.push(Message::RemovePattern { pattern: "*".to_owned() });
            return messages;
        }
        let (mut bulk, mut size) = (Vec::new(), 0);
        for key in self.keys {
            if !bulk.is_empty() && size + key.len() > LARGEST {
                messages.push(of_keys(std::mem::take(&mut bulk)));
                size = 0;
            }
            size += key.len();
            bulk.push(key);
        }
        if !bulk.is_empty() {
            messages.push(of_keys(bulk));
        }
        messages
    }
}

fn of_keys(mut keys: Vec<String>) -> Message {
    keys.sort_unstable();
    keys.dedup();
    if keys.len() == 1 { Message::Remove { key: keys.remove(0) } } else { Message::RemoveBulk { keys } }
}

/// Where to tell, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    /// The server: in a cluster, where all nodes carry the channel, that of the stream.
    pub serving: Serving,
    /// The channel's name.
    pub channel: String,
    /// The key of the audit stream, if any.
    pub audit_stream: Option<String>,
    /// About so many entries are kept there; all, if none.
    pub audit_length: Option<u64>,
    /// This process's name in its messages.
    pub origin_id: String,
    /// Whether writes are told, too.
    pub writes: bool,
}

/// The queue to the channel.
pub(crate) struct Publisher {
    queue: mpsc::Sender<Outgoing>,
    debts: Arc<Debts>,
    origin_id: String,
    writes: bool,
    stats: Arc<Stats>,
}

/// That everything is to be forgotten was owed so often, and so many of these debts were tried to be paid.
struct Debts {
    owed: AtomicU64,
    tried: watch::Sender<u64>,
    unpaid: Notify,
}

impl Debts {
    fn add(&self) -> Debt {
        let number = self.owed.fetch_add(1, Ordering::AcqRel) + 1;
        self.unpaid.notify_one();
        Debt { number, tried: self.tried.subscribe() }
    }

    /// So many were paid with one message, or could not be: these remain, and those who wait go on.
    fn tried(&self, number: u64, paid: bool) {
        self.tried.send_if_modified(|tried| number > std::mem::replace(tried, number.max(*tried)));
        if !paid {
            self.unpaid.notify_one();
        }
    }
}

/// The fleet is owed that it is to forget everything.
#[must_use = "who may wait should, before its client knows"]
pub(crate) struct Debt {
    number: u64,
    tried: watch::Receiver<u64>,
}

impl Debt {
    /// Returns when the fleet has been told, or cannot be at present. Cancel safe.
    pub(crate) async fn settled(mut self) {
        let number = self.number;
        let _ = self.tried.wait_for(|tried| *tried >= number).await; // an error: the process ends
    }
}

struct Outgoing {
    payload: Vec<u8>,
    /// What the audit stream has as its type, key and count, the latter where they say something: as multi-tier-cache writes them.
    kind: &'static str,
    key: Option<String>,
    count: Option<usize>,
    told: Option<oneshot::Sender<Result<(), String>>>,
}

impl Publisher {
    /// Starts to publish, as a task of `control`.
    pub(crate) fn start(fleet: Fleet, stats: Arc<Stats>, control: &Control) -> Self {
        let (queue, outgoing) = mpsc::channel(QUEUE);
        let (origin_id, writes) = (fleet.origin_id.clone(), fleet.writes);
        let debts = Debts { owed: AtomicU64::new(0), tried: watch::Sender::new(0), unpaid: Notify::new() };
        let (counts, debts) = (Arc::clone(&stats), Arc::new(debts));
        let owed = Arc::clone(&debts);
        control.spawn(async move { publish(&fleet, outgoing, &owed, &counts).await });
        Self { queue, debts, origin_id, writes, stats }
    }

    /// Whether writes are told.
    pub(crate) fn tells_writes(&self) -> bool {
        self.writes
    }

    /// Tells what a write did. Never waits.
    pub(crate) fn tell(&self, news: News) {
        self.stats.published(Publication::Unnamed, news.unnamed);
        for message in news.messages() {
            self.enqueue(message, None);
        }
    }

    /// A write was done, or may have been, of which nobody tells: everyone is to forget everything, as soon as that can be said.
    /// Never waits, and is not dropped.
    pub(crate) fn owe(&self) -> Debt {
        self.debts.add()
    }

    /// Tells, and says how that went: within the upstream's `connect_timeout`, or a little longer. Cancel safe.
    pub(crate) async fn say(&self, message: Message) -> Result<(), String> {
        let (told, answer) = oneshot::channel();
        if !self.enqueue(message, Some(told)) {
            return Err("too much is waiting to be told".to_owned());
        }
        answer.await.unwrap_or_else(|_| Err("the upstream cannot be reached".to_owned()))
    }

    /// Tells of keys, as [`say`](Self::say).
    pub(crate) async fn say_keys(&self, keys: impl Iterator<Item = &[u8]>) -> Result<(), String> {
        let mut news = News::default();
        keys.for_each(|key| news.key(key));
        let unnamed = news.unnamed;
        self.stats.published(Publication::Unnamed, unnamed);
        for message in news.messages() {
            self.say(message).await?;
        }
        if unnamed > 0 { Err("keys that are not UTF-8 have no name on the channel".to_owned()) } else { Ok(()) }
    }

    fn enqueue(&self, message: Message, told: Option<oneshot::Sender<Result<(), String>>>) -> bool {
        let queued = self.queue.try_send(Outgoing::new(&self.origin_id, message, told)).is_ok();
        if !queued {
            self.stats.published(Publication::Dropped, 1);
        }
        queued
    }
}

impl Outgoing {
    fn new(origin_id: &str, message: Message, told: Option<oneshot::Sender<Result<(), String>>>) -> Self {
        let (kind, key, count) = match &message {
            Message::Remove { key } => ("remove", Some(key.clone()), None),
            Message::Update { key, .. } => ("update", Some(key.clone()), None),
            Message::ForgetAll => ("forget_all", None, None),
            Message::RemovePattern { pattern } => ("remove_pattern", Some(pattern.clone()), None),
            Message::RemoveBulk { keys } => ("remove_bulk", None, Some(keys.len())),
            Message::Forget { keys, hex } => ("forget", None, Some(keys.len() + hex.len())),
        };
        let key = key.filter(|key| !key.is_empty());
        let payload = Envelope { origin_id: Some(origin_id.to_owned()), message }.encode();
        Self { payload, kind, key, count, told }
    }
}

/// Sends what is queued; never returns.
async fn publish(fleet: &Fleet, mut outgoing: mpsc::Receiver<Outgoing>, debts: &Debts, stats: &Stats) {
    let mut backoff = Backoff::default();
    let mut told = false;
    loop {
        let Err(error) = publish_on_one(fleet, &mut outgoing, debts, stats, &mut backoff).await;
        if std::mem::replace(&mut told, true) {
            debug!(%error, "still cannot tell the fleet");
        } else {
            warn!(%error, "cannot tell the fleet's channel; what it would have been told is dropped");
        }
        sleep(backoff.wait()).await;
    }
}

/// Tells what there is until a connection fails. One is made when there is something to tell.
async fn publish_on_one(
    fleet: &Fleet,
    outgoing: &mut mpsc::Receiver<Outgoing>,
    debts: &Debts,
    stats: &Stats,
    backoff: &mut Backoff,
) -> Result<Infallible, Error> {
    let mut batch = Vec::new();
    let node = fleet.serving.node();
    let mut line =
        PublishingLine { fleet, node, connection: None, login: None, buffer: Vec::new(), stats, told: false };
    // What is owed came up on a connection that had been kept and was found dead: it is tried on a new one at once.
    let mut unpaid = false;
    loop {
        let mut paying = std::mem::take(&mut unpaid);
        if !paying {
            tokio::select! {
                // None: nobody is left to say anything.
                more = outgoing.recv_many(&mut batch, BATCH) => if more == 0 { std::future::pending::<()>().await },
                () = debts.unpaid.notified() => paying = true,
            }
        }
        if paying {
            batch.push(Outgoing::new(&fleet.origin_id, Message::ForgetAll, None));
        }
        let (debt, kept) = (debts.owed.load(Ordering::Acquire), line.connection.is_some());
        match line.tell(&batch).await {
            Ok(answers) => {
                let refused = answers.last().filter(|answer| paying && answer.starts_with(b"-")).cloned();
                for (one, answer) in batch.drain(..).zip(answers) {
                    one.answered(&answer, stats);
                }
                if paying {
                    debts.tried(debt, refused.is_none());
                }
                if let Some(reply) = refused {
                    let node = Arc::clone(&line.node);
                    node.needs.hear(Need::Publish, None, &reply);
                    return Err(Error::Refused { node: Arc::clone(&node.address), reply: reply.into() });
                }
                backoff.reset();
            }
            Err(error) => {
                stats.published(Publication::Dropped, batch.len() as u64);
                let text = error.to_string();
                batch.drain(..).filter_map(|one| one.told).for_each(|told| drop(told.send(Err(text.clone()))));
                unpaid = paying && kept;
                if !unpaid {
                    if paying {
                        debts.tried(debt, false);
                    }
                    return Err(error);
                }
                line.hang_up();
            }
        }
    }
}

/// The connection on which the fleet is told, kept while it is good.
struct PublishingLine<'a> {
    fleet: &'a Fleet,
    /// Where it leads.
    node: Arc<Node>,
    connection: Option<Connection>,
    /// With what it was made.
    login: Option<Arc<Login>>,
    /// What came beyond the answers read so far.
    buffer: Vec<u8>,
    stats: &'a Stats,
    /// That the audit stream refuses what it is to keep.
    told: bool,
}

impl PublishingLine<'_> {
    /// Says all of `batch` and returns an answer for each, Redis's errors included.
    async fn tell(&mut self, batch: &[Outgoing]) -> Result<Vec<Vec<u8>>, Error> {
        // The user of the upstream URL publishes; it needs the right to the channel, and to the stream if there is one.
        let node = self.fleet.serving.node();
        let login = node.login();
        if self.login != login || !Arc::ptr_eq(&self.node, &node) {
            self.hang_up(); // nothing is under way on it, and its password has changed, or who serves the stream
            self.node = Arc::clone(&node);
        }
        let lost = |why: String| Error::Lost { node: Arc::clone(&node.address), why: why.into() };
        let Connection { socket, .. } = if let Some(connection) = &mut self.connection {
            connection
        } else {
            self.login.clone_from(&login);
            let target = Target { node: Arc::clone(&node), login, db: 0, resp: Resp::V2, name: "crema-publish" };
            let made = timeout(node.connect_timeout, connect(&target)).await;
            self.connection.insert(made.map_err(|_| lost("no connection in time".into()))??)
        };
        let (mut out, mut kept) = (Vec::new(), Vec::new());
        for one in batch {
            self.fleet.write(one, &mut out);
        }
        let exchange = async {
            socket.write_all(&out).await?;
            let mut answers = Vec::with_capacity(batch.len());
            for _ in batch {
                let answer = read_reply(socket, &mut self.buffer).await?;
                answers.push(answer);
                if self.fleet.audit_stream.is_some() {
                    kept.push(read_reply(socket, &mut self.buffer).await?);
                }
            }
            Ok::<_, std::io::Error>(answers)
        };
        let answers = timeout(node.connect_timeout, exchange).await.map_err(|_| lost("no answer to PUBLISH".into()))?;
        let answers = answers.map_err(|error| lost(error.to_string()))?;
        self.note_unkept(&kept);
        Ok(answers)
    }

    /// What the audit stream did not take was said all the same.
    fn note_unkept(&mut self, kept: &[Vec<u8>]) {
        let mut refused = kept.iter().filter(|answer| answer.starts_with(b"-"));
        self.stats.published(Publication::Unkept, refused.clone().count() as u64);
        let Some(reply) = refused.next_back() else {
            self.told &= kept.is_empty(); // it keeps again
            return;
        };
        let (stream, reply) = (self.fleet.audit_stream.as_deref(), String::from_utf8_lossy(reply));
        let reply = reply.trim_end();
        if std::mem::replace(&mut self.told, true) {
            debug!(stream, reply, "still not kept in the audit stream");
        } else {
            warn!(stream, reply, "the audit stream does not keep what the fleet is told");
        }
    }

    fn hang_up(&mut self) {
        self.connection = None;
        self.buffer.clear();
    }
}

impl Fleet {
    fn write(&self, one: &Outgoing, out: &mut Vec<u8>) {
        encode::own_command(out, &[b"PUBLISH", self.channel.as_bytes(), &one.payload]);
        if let Some(stream) = &self.audit_stream {
            #[expect(clippy::disallowed_methods, reason = "a date for people, by which nothing goes")]
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
            let time = now.as_secs().to_string();
            let (length, count) =
                (self.audit_length.map(|length| length.to_string()), one.count.map(|n| n.to_string()));
            let mut add: Vec<&[u8]> = vec![b"XADD", stream.as_bytes()];
            if let Some(length) = &length {
                add.extend([&b"MAXLEN"[..], b"~", length.as_bytes()]);
            }
            let head: [&[u8]; 7] =
                [b"*", b"type", one.kind.as_bytes(), b"timestamp", time.as_bytes(), b"payload", &one.payload];
            add.extend(head);
            if let Some(key) = &one.key {
                add.extend([&b"key"[..], key.as_bytes()]);
            }
            if let Some(count) = &count {
                add.extend([&b"count"[..], count.as_bytes()]);
            }
            encode::own_command(out, &add);
        }
    }
}

impl Outgoing {
    fn answered(self, answer: &[u8], stats: &Stats) {
        let refused = answer.starts_with(b"-");
        stats.published(if refused { Publication::Dropped } else { Publication::Sent }, 1);
        if refused {
            debug!(reply = %String::from_utf8_lossy(answer).trim_end(), "the upstream does not take a message of the channel");
        }
        if let Some(told) = self.told {
            let text = String::from_utf8_lossy(answer.get(1..).unwrap_or_default()).trim_end().to_owned();
            drop(told.send(if refused { Err(text) } else { Ok(()) }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(keys: &[&[u8]]) -> News {
        let mut news = News::default();
        for key in keys {
            news.key(key);
        }
        news
    }

    #[test]
    fn one_key_is_named_alone_and_several_together_once_each() {
        assert_eq!(news(&[b"a"]).messages(), [Message::Remove { key: "a".into() }]);
        assert_eq!(news(&[b"b", b"a", b"b"]).messages(), [Message::RemoveBulk { keys: vec!["a".into(), "b".into()] }]);
        assert_eq!(news(&[b"a", b"a"]).messages(), [Message::Remove { key: "a".into() }]);
        assert!(news(&[]).messages().is_empty());
    }

    #[test]
    fn a_key_that_is_not_utf8_is_counted_and_a_flush_is_a_pattern() {
        let mut odd = news(&[b"\xff", b"a"]);
        assert_eq!(odd.unnamed, 1);
        odd.flushed();
        assert_eq!(odd.messages(), [Message::RemovePattern { pattern: "*".into() }]);
    }

    #[test]
    fn no_message_is_larger_than_receivers_read() {
        let keys: Vec<Vec<u8>> = (0..5_000).map(|n| format!("{n:0100}").into_bytes()).collect();
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let messages = news(&keys).messages();
        assert!(messages.len() > 5);
        for message in messages {
            assert!(Envelope { origin_id: None, message }.encode().len() < super::super::message::MAX_PAYLOAD);
        }
    }
}
