//! Reads a stream of the fleet's messages, as the reliable subscriber of the crate multi-tier-cache does.
//!
//! Owns one connection to Redis, named `crema-stream`, and a consumer group of its own in the stream. Unlike what is published on
//! the channel, what is added while the connection is lost is read when it is back. It only ever makes L1 forget, and adds nothing to
//! the stream; started once by `app`, it runs beside `channel` and apart from it.
//!
//! The group begins at the end of the stream and is removed when the process ends. One that a dead process left behind is removed by
//! the next that starts, an hour later. Entries are acknowledged once they were acted on, malformed ones too. What may have been
//! trimmed away unread ([`StreamPosition`]) makes L1 forget everything; so does, every few minutes, a first entry too long to be read.
//!
//! Bounded by construction: one task reads [`COUNT`] entries, acts on them and reads the next, and every answer has a deadline. A
//! little long, for it is one conversation with Redis.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{RedisError, Value};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::channel::heed;
use super::forget::{Forget, Heard};
use crate::error::Error;
use crate::resp::{Resp, encode};
use crate::upstream::{Backoff, Connection, Node, Serving, Target, connect, read_reply_to};

/// The name under which the connection shows in `CLIENT LIST`.
const CLIENT_NAME: &str = "crema-stream";
/// The one consumer of the group.
const CONSUMER: &[u8] = b"crema";
/// What the name of every crema's group begins with. Sixteen hexadecimal digits follow.
const GROUPS: &[u8] = b"crema-";
/// Entries in one answer.
const COUNT: &[u8] = b"16";
/// Bytes in one answer. At more than that the group is made anew, for it would get the same again.
const LARGEST: usize = 64 << 20;
/// Bytes of a first entry that is asked for with every reading.
const SMALL: usize = 4096;
/// Time between two looks at a first entry that is longer than that.
const LONG_FIRST: Duration = Duration::from_secs(1);
/// The same where it is longer than [`LARGEST`].
const UNREADABLE_FIRST: Duration = Duration::from_secs(300);
/// So long Redis waits for a new entry before it answers that there is none.
const BLOCK: Duration = Duration::from_secs(5);
/// A group whose consumers have asked for nothing for so many milliseconds is nobody's any more.
const ABANDONED: i64 = 3_600_000;
/// Groups of others that are looked at.
const MOST_GROUPS: usize = 256;
/// A link that was up for so long was a good one.
const STEADY: Duration = Duration::from_secs(5);
/// How long the group's removal may take, when the process ends above all.
const FAREWELL: Duration = Duration::from_millis(1500);

/// What to read, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct StreamConfig {
    /// The server: in a cluster, that of the stream.
    pub serving: Serving,
    /// The key of the stream.
    pub stream: String,
    /// The group's name, and what this process puts into its own messages, so that it can skip them here.
    pub origin_id: String,
}

/// Reads until `stop` is cancelled, then removes the group; errors are logged and retried, never returned. `on` is called once an
/// entry, after it was acted on.
///
/// Cancel safe, but for the group, which is left behind.
pub(crate) async fn follow(
    config: &StreamConfig,
    sink: Arc<dyn Forget + Send + Sync>,
    stop: CancellationToken,
    on: impl Fn(Heard),
) {
    let mut position = StreamPosition::default();
    let keep_reading = async {
        loop {
            let node = config.serving.node();
            tokio::select! {
                () = follow_at(config, &node, &mut position, &*sink, &on) => {}
                () = config.serving.moved(&node) => {}
            }
        }
    };
    stop.run_until_cancelled(keep_reading).await;
    if position.may_have_group {
        farewell(config).await;
    }
}

/// Reads at one node; never returns.
async fn follow_at(
    config: &StreamConfig,
    node: &Arc<Node>,
    position: &mut StreamPosition,
    sink: &(dyn Forget + Send + Sync),
    on: &impl Fn(Heard),
) {
    let (stream, upstream) = (config.stream.as_str(), &*node.address);
    let (mut backoff, mut returns) = (Backoff::default(), node.presence.returns());
    let mut told = false;
    loop {
        returns.tries();
        let mut since = None;
        let joined = || {
            info!(stream, upstream, "reading the fleet's stream");
            since = Some(Instant::now());
        };
        let Err(lost) = read(config, node, position, sink, on, joined).await;
        match lost {
            StreamTrouble::Unreadable(_) => farewell(config).await,
            StreamTrouble::UnreadableFirst(_) => sink.missed(), // what came before it is not known
            _ => {}
        }
        if since.is_some_and(|since: Instant| since.elapsed() >= STEADY) {
            backoff.reset();
        }
        // One warning an outage: there is one thing to do about it, however often it is retried.
        if since.is_some() || !told {
            told = true;
            warn!(stream, upstream, %lost, "not reading the fleet's stream, trying again");
        } else {
            debug!(stream, upstream, %lost, "still not reading the fleet's stream");
        }
        tokio::select! {
            () = sleep(backoff.wait()) => {}
            () = returns.back() => backoff.reset(),
        }
    }
}

/// One link, from the first packet to its loss.
async fn read(
    config: &StreamConfig,
    node: &Arc<Node>,
    position: &mut StreamPosition,
    sink: &(dyn Forget + Send + Sync),
    on: &impl Fn(Heard),
    joined: impl FnOnce(),
) -> Result<Infallible, StreamTrouble> {
    let mut link = StreamLink::make(config, node).await?;
    if link.join(config, position).await? {
        sink.missed(); // what was added before the group was there is not read
    }
    joined();
    let (stream, group) = (config.stream.as_bytes(), config.origin_id.as_bytes());
    let block = BLOCK.as_millis().to_string();
    let mut done = Vec::new();
    // What was handed out and not acknowledged comes first: a link may have been lost in between.
    let mut from: &[u8] = b"0";
    loop {
        let looks = position.looks_at_first(Instant::now());
        let mut acknowledge: Vec<&[u8]> = vec![b"XACK", stream, group];
        acknowledge.extend(done.iter().map(|id: &EntryId| id.text.as_bytes()));
        let read: [&[u8]; 10] =
            [b"XREADGROUP", b"GROUP", group, CONSUMER, b"COUNT", COUNT, b"BLOCK", block.as_bytes(), b"STREAMS", stream];
        let mut out = Vec::new();
        if !done.is_empty() {
            encode::own_command(&mut out, &acknowledge);
        }
        if looks {
            encode::own_command(&mut out, &[b"XRANGE", stream, b"-", b"+", b"COUNT", b"1"]);
        }
        encode::own_command(&mut out, &[&read[..], &[from]].concat());
        link.send(&out).await?;
        if !done.is_empty() {
            link.answer(node.connect_timeout).await?;
        }
        if looks && link.look_at_first(position).await? {
            debug!(stream = config.stream, "entries may have been trimmed away unread");
            sink.missed();
        }
        let delivered = of_one_stream(link.answer(BLOCK + node.connect_timeout).await?);
        if delivered.is_empty() {
            // Until Redis 7.2 a reading that waited for new entries in vain does not count as a sign of life of the consumer. One of what
            // is not acknowledged does, though there is nothing.
            from = if from == b">" { b"0" } else { b">" };
        }
        done.clear();
        for entry in delivered {
            if let Some(payload) = entry.payload {
                on(heed(&payload, &config.origin_id, sink).await);
            }
            position.acted(entry.id.number);
            done.push(entry.id);
        }
    }
}

/// Removes the group, within its time.
async fn farewell(config: &StreamConfig) {
    let node = config.serving.node();
    let removed = async {
        let mut link = StreamLink::make(config, &node).await?;
        link.ask(&[b"XGROUP", b"DESTROY", config.stream.as_bytes(), config.origin_id.as_bytes()]).await
    };
    match timeout(FAREWELL, removed).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => debug!(stream = config.stream, %error, "the group is left behind"),
        Err(_) => debug!(stream = config.stream, "the group is left behind: no answer in time"),
    }
}

/// How far the stream was read, and whether all of it was.
#[derive(Debug, Default)]
struct StreamPosition {
    /// The group was asked for, and is there unless that was refused.
    may_have_group: bool,
    /// It was there.
    has_begun: bool,
    /// The last entry that was acted on, or after which the group began.
    seen: (u64, u64),
    /// The same when it was last looked for what may be lost; none where it is not known, and the first look decides.
    checked: Option<(u64, u64)>,
    /// There was no entry at all then.
    was_empty: bool,
    /// Until then the first entry is not looked at: it is long.
    looks_again: Option<Instant>,
}

impl StreamPosition {
    /// The group is about to be asked for.
    fn asks(&mut self) {
        self.may_have_group = true;
    }

    /// It is new, and begins after that entry, if that is known. `0-0` is no entry.
    fn begins(&mut self, last: Option<(u64, u64)>) {
        *self = Self {
            may_have_group: true,
            has_begun: true,
            seen: last.unwrap_or_default(),
            checked: last,
            was_empty: last == Some((0, 0)),
            looks_again: None,
        };
    }

    /// It was there still. What came while there was no link may have gone again.
    fn goes_on(&mut self) {
        self.was_empty = false;
    }

    /// This entry was acted on.
    fn acted(&mut self, id: (u64, u64)) {
        self.seen = self.seen.max(id);
    }

    /// Whether the stream's first entry is to be looked at now.
    fn looks_at_first(&self, now: Instant) -> bool {
        self.looks_again.is_none_or(|then| now >= then)
    }

    /// It was looked at, and so long it was; none where it was too long to be read.
    fn looked(&mut self, length: Option<usize>, now: Instant) {
        self.looks_again = match length {
            None => Some(now + UNREADABLE_FIRST),
            Some(length) => (length > SMALL).then_some(now + LONG_FIRST),
        };
    }

    /// Whether entries may have been trimmed away before they were read, where `first` is the stream's first now. A stream is trimmed
    /// from its beginning: while an entry is there that had been seen when this was last asked, all after it was there to be read.
    fn has_lost(&mut self, first: Option<(u64, u64)>) -> bool {
        let was_empty = std::mem::replace(&mut self.was_empty, first.is_none());
        let Some(checked) = self.checked else {
            self.seen = self.seen.max(first.unwrap_or_default()); // all after it will be read
            self.checked = Some(self.seen);
            return true;
        };
        self.checked = Some(self.seen);
        first.map_or(!was_empty, |first| first > checked)
    }
}

/// An entry's place in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EntryId {
    text: String,
    number: (u64, u64),
}

impl EntryId {
    fn from(text: Vec<u8>) -> Option<Self> {
        let text = String::from_utf8(text).ok()?;
        let (time, number) = text.split_once('-')?;
        let number = (time.parse().ok()?, number.parse().ok()?);
        Some(Self { text, number })
    }
}

/// An entry, and its message if it still has one.
#[derive(Debug, PartialEq, Eq)]
struct StreamEntry {
    id: EntryId,
    payload: Option<Vec<u8>>,
}

/// The entries of an answer to `XREADGROUP`, where one stream was named.
fn of_one_stream(answer: Value) -> Vec<StreamEntry> {
    let Value::Array(mut streams) = answer else { return Vec::new() };
    match streams.pop() {
        Some(Value::Array(mut stream)) => entries(stream.pop().unwrap_or(Value::Nil)),
        _ => Vec::new(),
    }
}

/// The entries of an answer to `XRANGE`.
fn entries(answer: Value) -> Vec<StreamEntry> {
    let Value::Array(entries) = answer else { return Vec::new() };
    entries.into_iter().filter_map(entry).collect()
}

/// One of them. Its message is in the field `payload`, else in its first, whatever that is called; one that was deleted has no fields.
fn entry(value: Value) -> Option<StreamEntry> {
    let Value::Array(parts) = value else { return None };
    let [Value::BulkString(id), fields] = <[Value; 2]>::try_from(parts).ok()? else { return None };
    let id = EntryId::from(id)?;
    let mut pairs = Vec::new();
    if let Value::Array(fields) = fields {
        let mut words = fields.into_iter();
        while let (Some(Value::BulkString(name)), Some(Value::BulkString(value))) = (words.next(), words.next()) {
            pairs.push((name, value));
        }
    }
    let at = pairs.iter().position(|(name, _)| name == b"payload").unwrap_or(0);
    let payload = (at < pairs.len()).then(|| pairs.swap_remove(at).1);
    Some(StreamEntry { id, payload })
}

/// How a link came to its end. Any of these is worth another try.
#[derive(Debug, thiserror::Error)]
enum StreamTrouble {
    #[error(transparent)]
    NotConnected(#[from] Error),
    #[error("{0}")]
    Unreadable(io::Error),
    #[error("the stream's first entry: {0}")]
    UnreadableFirst(io::Error),
    #[error("{0}")]
    Broken(#[from] RedisError),
}

impl StreamTrouble {
    /// Redis said no. The link goes on.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Broken(error) if error.code().is_some())
    }
}

/// The connection, with what came on it beyond the answers that were read.
struct StreamLink {
    connection: Connection,
    buffer: Vec<u8>,
    patience: Duration,
    /// Bytes of the last answer.
    length: usize,
}

impl StreamLink {
    async fn make(config: &StreamConfig, node: &Arc<Node>) -> Result<Self, Error> {
        let login = node.login(); // its password may have changed
        let target = Target { node: Arc::clone(node), login, db: 0, resp: Resp::V2, name: CLIENT_NAME };
        let connection = connect(&target).await?;
        debug!(stream = config.stream, upstream = &*node.address, "a link to the fleet's stream");
        Ok(Self { connection, buffer: Vec::new(), patience: node.connect_timeout, length: 0 })
    }

    /// Makes the group, at the end of the stream, with its consumer; whether it is new.
    async fn join(&mut self, config: &StreamConfig, position: &mut StreamPosition) -> Result<bool, StreamTrouble> {
        let (stream, group) = (config.stream.as_bytes(), config.origin_id.as_bytes());
        let mut out = Vec::new();
        encode::own_command(&mut out, &[b"XGROUP", b"CREATE", stream, group, b"$", b"MKSTREAM"]);
        encode::own_command(&mut out, &[b"XGROUP", b"CREATECONSUMER", stream, group, CONSUMER]);
        position.asks();
        self.send(&out).await?;
        let made = self.answer(self.patience).await;
        match self.answer(self.patience).await {
            Err(trouble) if !trouble.is_refusal() => return Err(trouble), // it need not be there, for the first reading makes it
            _ => {}
        }
        let is_new = match made {
            Err(StreamTrouble::Broken(error)) if error.code() == Some("BUSYGROUP") => !position.has_begun,
            made => made.map(|_| true)?,
        };
        if is_new {
            let groups = self.groups(config).await?;
            let own = groups.iter().find(|found| found.name == group);
            position.begins(own.and_then(|own| own.last.as_ref()).map(|last| last.number));
            self.remove_abandoned(config, groups).await?;
        } else {
            position.goes_on();
        }
        Ok(is_new)
    }

    /// Whether entries may have been trimmed away unread, by the answer to the question for the stream's first.
    async fn look_at_first(&mut self, position: &mut StreamPosition) -> Result<bool, StreamTrouble> {
        let first = match self.answer(self.patience).await {
            Err(StreamTrouble::Unreadable(error)) => {
                position.looked(None, Instant::now());
                return Err(StreamTrouble::UnreadableFirst(error));
            }
            first => entries(first?),
        };
        position.looked(Some(self.length), Instant::now());
        Ok(position.has_lost(first.first().map(|entry| entry.id.number)))
    }

    /// The groups of the stream; none where that may not be asked.
    async fn groups(&mut self, config: &StreamConfig) -> Result<Vec<Described>, StreamTrouble> {
        match self.ask(&[b"XINFO", b"GROUPS", config.stream.as_bytes()]).await {
            Err(refused) if refused.is_refusal() => Ok(Vec::new()),
            groups => Ok(described(groups?)),
        }
    }

    /// Removes the groups of cremas that have asked for nothing for so long that they are gone. One that is not makes a new one.
    async fn remove_abandoned(&mut self, config: &StreamConfig, groups: Vec<Described>) -> Result<(), StreamTrouble> {
        let (stream, own) = (config.stream.as_bytes(), config.origin_id.as_bytes());
        // Names are random: from its own on each crema begins elsewhere, and all are looked at by one or another.
        let (before, after): (Vec<_>, Vec<_>) = groups
            .into_iter()
            .map(|group| group.name)
            .filter(|name| is_a_crema(name) && name != own)
            .partition(|name| **name < *own);
        for group in after.into_iter().chain(before).take(MOST_GROUPS) {
            let consumers = match self.ask(&[b"XINFO", b"CONSUMERS", stream, &group]).await {
                Err(refused) if refused.is_refusal() => continue, // it is gone meanwhile
                consumers => described(consumers?),
            };
            if !consumers.iter().all(|consumer| consumer.name == CONSUMER && consumer.idle > ABANDONED) {
                continue;
            }
            match self.ask(&[b"XGROUP", b"DESTROY", stream, &group]).await {
                Err(trouble) if !trouble.is_refusal() => return Err(trouble),
                Err(error) => debug!(stream = config.stream, %error, "a group that was left behind stays"),
                Ok(_) => {
                    info!(stream = config.stream, group = %String::from_utf8_lossy(&group), "removed a group that was left behind");
                }
            }
        }
        Ok(())
    }

    async fn ask(&mut self, command: &[&[u8]]) -> Result<Value, StreamTrouble> {
        let mut out = Vec::new();
        encode::own_command(&mut out, command);
        self.send(&out).await?;
        self.answer(self.patience).await
    }

    async fn send(&mut self, commands: &[u8]) -> Result<(), StreamTrouble> {
        let sent = timeout(self.patience, self.connection.socket.write_all(commands)).await;
        Ok(sent.unwrap_or_else(|_| Err(late())).map_err(RedisError::from)?)
    }

    /// The next answer. One that is an error is one here.
    async fn answer(&mut self, patience: Duration) -> Result<Value, StreamTrouble> {
        let read = read_reply_to(LARGEST, &mut self.connection.socket, &mut self.buffer);
        let reply = match timeout(patience, read).await.unwrap_or_else(|_| Err(late())) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(StreamTrouble::Unreadable(error)),
            reply => reply.map_err(RedisError::from)?,
        };
        self.length = reply.len();
        let value = redis::parse_redis_value(&reply)?;
        Ok(value.extract_error()?)
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

/// Whether a group has the name of a crema's.
fn is_a_crema(group: &[u8]) -> bool {
    let is_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    group.strip_prefix(GROUPS).is_some_and(|digits| digits.len() == 16 && digits.iter().all(is_hex))
}

/// A group or a consumer, as `XINFO` has it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Described {
    name: Vec<u8>,
    /// Of a consumer: milliseconds since it was last seen.
    idle: i64,
    /// Of a group: the entry that was handed out last, or after which it began.
    last: Option<EntryId>,
}

/// What an answer to `XINFO` describes.
fn described(answer: Value) -> Vec<Described> {
    let Value::Array(maps) = answer else { return Vec::new() };
    let one = |map: Value| {
        let Value::Array(words) = map else { return None };
        let (mut found, mut words) = (Described::default(), words.into_iter());
        while let (Some(Value::BulkString(field)), Some(value)) = (words.next(), words.next()) {
            match (&field[..], value) {
                (b"name", Value::BulkString(name)) => found.name = name,
                (b"idle", Value::Int(idle)) => found.idle = idle,
                (b"last-delivered-id", Value::BulkString(id)) => found.last = EntryId::from(id),
                _ => {}
            }
        }
        Some(found)
    };
    maps.into_iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(reply: &[u8]) -> Value {
        redis::parse_redis_value(reply).expect("a reply")
    }

    #[test]
    fn an_entry_s_message_is_its_payload_or_what_comes_first() {
        let answer = b"*1\r\n*2\r\n$1\r\ns\r\n*4\r\n\
            *2\r\n$3\r\n1-0\r\n*4\r\n$4\r\ntype\r\n$6\r\nremove\r\n$7\r\npayload\r\n$1\r\np\r\n\
            *2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nx\r\n$1\r\nq\r\n\
            *2\r\n$3\r\n2-0\r\n*-1\r\n\
            *2\r\n$3\r\nodd\r\n*-1\r\n";
        let found: Vec<_> =
            of_one_stream(value(answer)).into_iter().map(|entry| (entry.id.number, entry.payload)).collect();
        assert_eq!(found, [((1, 0), Some(b"p".to_vec())), ((1, 1), Some(b"q".to_vec())), ((2, 0), None)]);
        for nothing in [&b"*-1\r\n"[..], b"*0\r\n", b"$-1\r\n", b"*1\r\n:1\r\n"] {
            assert_eq!(of_one_stream(value(nothing)), []);
        }
    }

    #[test]
    fn groups_and_consumers_are_told_by_name() {
        let answer = b"*3\r\n*4\r\n$4\r\nname\r\n$1\r\na\r\n$4\r\nidle\r\n:7\r\n*2\r\n$4\r\nname\r\n$1\r\nb\r\n\
            *4\r\n$4\r\nname\r\n$1\r\nc\r\n$17\r\nlast-delivered-id\r\n$3\r\n5-1\r\n";
        let found = described(value(answer));
        let found: Vec<_> =
            found.iter().map(|one| (&one.name[..], one.idle, one.last.as_ref().map(|id| id.number))).collect();
        assert_eq!(found, [(&b"a"[..], 7, None), (b"b", 0, None), (b"c", 0, Some((5, 1)))]);
    }

    #[test]
    fn a_crema_s_group_is_known_by_all_of_its_name() {
        assert!(is_a_crema(b"crema-0123456789abcdef"));
        for other in
            ["crema-", "crema-workers", "crema-0123456789abcde", "crema-0123456789abcdef0", "crema-0123456789ABCDEF"]
        {
            assert!(!is_a_crema(other.as_bytes()), "{other}");
        }
    }

    fn after(last: Option<(u64, u64)>) -> StreamPosition {
        let mut position = StreamPosition::default();
        assert!(!position.may_have_group);
        position.asks();
        assert!(position.may_have_group && !position.has_begun, "the answer may be lost");
        position.begins(last);
        assert!(position.may_have_group && position.has_begun);
        position
    }

    #[test]
    fn where_a_group_began_unknown_the_first_look_says() {
        let mut position = after(None);
        assert!(position.has_lost(Some((3, 0))), "what came before is not known");
        assert!(!position.has_lost(Some((3, 0))));
        position.acted((4, 0));
        assert!(!position.has_lost(Some((3, 0))));
        assert!(!position.has_lost(Some((4, 0))));
    }

    #[test]
    fn what_came_and_went_while_there_was_no_link_is_lost() {
        let mut position = after(Some((0, 0)));
        assert!(!position.has_lost(None));
        position.goes_on();
        assert!(position.has_lost(None), "3-0 may have come and gone");
        assert!(!position.has_lost(None));
    }

    #[test]
    fn a_long_first_entry_is_looked_at_less_often() {
        let mut position = after(Some((5, 0)));
        let now = Instant::now();
        assert!(position.looks_at_first(now));
        position.looked(Some(SMALL), now);
        assert!(position.looks_at_first(now));
        position.looked(Some(SMALL + 1), now);
        assert!(!position.looks_at_first(now) && position.looks_at_first(now + LONG_FIRST));
        position.looked(None, now);
        assert!(!position.looks_at_first(now + LONG_FIRST) && position.looks_at_first(now + UNREADABLE_FIRST));
        position.begins(Some((6, 0)));
        assert!(position.looks_at_first(now), "of another stream, perhaps");
    }

    #[test]
    fn while_something_seen_before_is_there_nothing_is_lost() {
        let mut position = after(Some((5, 0)));
        assert!(!position.has_lost(Some((1, 0))));
        position.acted((6, 0));
        assert!(!position.has_lost(Some((5, 0))), "what followed 5-0 was all there");
        assert!(!position.has_lost(Some((6, 0))));
        position.acted((7, 0));
        position.acted((6, 1)); // what was handed out before comes again
        assert!(!position.has_lost(Some((6, 0))), "trimmed up to what was seen");
        assert!(!position.has_lost(Some((7, 0))));
    }

    #[test]
    fn what_was_trimmed_before_it_was_read_is_noticed_once() {
        let mut position = after(Some((5, 0)));
        position.acted((9, 0));
        assert!(position.has_lost(Some((8, 0))), "6-0 may have been there");
        assert!(!position.has_lost(Some((8, 0))));
        assert!(position.has_lost(Some((12, 0))), "while the link was lost");
    }

    #[test]
    fn an_empty_stream_may_have_had_entries() {
        let mut position = after(Some((0, 0)));
        assert!(!position.has_lost(None));
        position.acted((3, 0));
        assert!(position.has_lost(Some((3, 0))), "it may not have been the first");
        assert!(!position.has_lost(Some((3, 0))));
        assert!(position.has_lost(None), "4-0 may have come and gone");
        assert!(!position.has_lost(None));
    }
}
