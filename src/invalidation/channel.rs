//! Listens to the fleet's channel, where proxies and applications tell one another which keys have changed.
//!
//! Owns one connection to Redis, named `crema-channel`: subscribed in RESP2, which every server speaks, and made anew
//! for as long as the process lives. It only ever makes L1 forget. It must never write to Redis what it heard, nor
//! take a value from a message: an `Update` can be older than what Redis holds. Started once by `app`, it runs beside
//! the ear and apart from it; not where the channel carries coherence, for there the ears themselves hear it.
//!
//! Bounded by construction: one task reads a message, acts on it and reads the next, so a flood waits in the socket and
//! then in Redis, which cuts a subscriber off at its `client-output-buffer-limit pubsub`.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use redis::{Msg, RedisError, RedisResult};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::forget::{Forget, Heard, obey};
use super::message::{Envelope, Message};
use crate::clock::Time;
use crate::error::Error;
use crate::metrics::Need;
use crate::resp::Resp;
use crate::upstream::{Backoff, Connection, Node, Serving, Target, connect};

/// The name under which the connection shows in `CLIENT LIST`.
const CLIENT_NAME: &str = "crema-channel";

/// So often the link is asked for a `PONG` where no lease depends on it, and it is given up when nothing comes for so long behind the
/// question. Without that, a link that a firewall forgot would look like a quiet fleet.
const SILENCE: Duration = Duration::from_secs(15);

/// Where leases depend on it, a link is given up no sooner: it may be Redis that is slow, and a new link costs all that is in memory.
const PATIENCE: Duration = Duration::from_secs(2);

/// What it is asked, spelt as no client spells it: who shows a client what Redis ran can leave it out.
const PING: &str = "pING";

/// A link that was up for so long was a good one, and the next is tried for soon. One that fails earlier may be the
/// work of a server that accepts whom it then refuses, which is no reason to knock at it twenty times a second.
const STEADY: Duration = Duration::from_secs(5);

/// How many keys of one message are forgotten before other tasks of the thread get their turn.
const BURST: usize = 1024;

/// Who is told what the link fares, beside what is said on it.
pub(crate) trait ChannelListener: Forget {
    /// A link is up that was asked for then. What was said while there was none is lost: forgets everything.
    fn subscribed(&self, asked: Time);
    /// The link has answered what it was asked then: what was said before it was asked is obeyed.
    fn answered(&self, sent: Time);
    /// The server does not let it listen.
    fn refused(&self);
    /// The longest time for which a swap may go unheard, where the channel alone tells of it.
    fn bound(&self) -> Option<Duration>;
    /// Told when there is a bound from now on.
    fn bound_begins(&self) -> &Notify;
}

/// What to listen to, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct ChannelConfig {
    /// The server. Its `connect_timeout` holds for the handshake, and again for the subscription. Its user subscribes, and needs the
    /// right to the channel (`&cache:invalidate`).
    pub serving: Serving,
    /// The channel's name, `cache:invalidate` unless configured otherwise.
    pub channel: String,
    /// What this process puts into its own messages, so that it can skip them here.
    pub origin_id: String,
}

/// Listens until `stop` is cancelled; errors are logged and retried, never returned. `on` is called once a payload,
/// after it was acted on.
///
/// Cancel safe: dropping the future ends the listening as `stop` does, at once and with nothing left behind.
pub(crate) async fn listen(
    config: &ChannelConfig,
    sink: Arc<dyn ChannelListener + Send + Sync>,
    stop: CancellationToken,
    on: impl Fn(Heard),
) {
    let keep_listening = async {
        loop {
            let node = config.serving.node();
            tokio::select! {
                biased; // what a former node answers proves nothing any more
                () = config.serving.moved(&node) => {}
                () = listen_at(config, &node, &*sink, &on) => {}
            }
        }
    };
    stop.run_until_cancelled(keep_listening).await;
}

/// Listens at one node; never returns.
async fn listen_at(
    config: &ChannelConfig,
    node: &Arc<Node>,
    sink: &(dyn ChannelListener + Send + Sync),
    on: &impl Fn(Heard),
) {
    let (channel, upstream) = (config.channel.as_str(), &*node.address);
    let (mut backoff, mut returns) = (Backoff::default(), node.presence.returns());
    let mut told = false;
    loop {
        returns.tries();
        // What was published while no link was up is lost, for Pub/Sub keeps nothing: that databases were swapped, of which
        // Redis tells nobody, or that the table behind a cached page has changed. So everything is forgotten.
        let mut since = None;
        let subscribed = |asked| {
            sink.subscribed(asked);
            info!(channel, upstream, "listening to the fleet's channel");
            since = Some(Instant::now());
        };
        let Err(lost) = hear(config, node, sink, on, subscribed).await;
        if since.is_some_and(|since: Instant| since.elapsed() >= STEADY) {
            backoff.reset();
        }
        // One warning an outage: there is one thing to do about it, however often it is retried.
        if since.is_some() || !told {
            told = true;
            warn!(channel, upstream, %lost, "not listening to the fleet's channel, trying again");
        } else {
            debug!(channel, upstream, %lost, "still not listening to the fleet's channel");
        }
        tokio::select! {
            () = sleep(backoff.wait()) => {}
            () = returns.back() => backoff.reset(),
        }
    }
}

/// How a link came to its end. Any of these is worth another try.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    NotConnected(#[from] Error),
    #[error("subscription refused: {0}; the user needs the right to the channel")]
    Refused(RedisError),
    #[error("{0}")]
    Broken(#[from] RedisError),
}

/// One link, from the first packet to its loss.
async fn hear(
    config: &ChannelConfig,
    node: &Arc<Node>,
    sink: &(dyn ChannelListener + Send + Sync),
    on: &impl Fn(Heard),
    subscribed: impl FnOnce(Time),
) -> Result<Infallible, Lost> {
    let login = node.login(); // its password may have changed
    let target = Target { node: Arc::clone(node), login, db: 0, resp: Resp::V2, name: CLIENT_NAME };
    let Connection { socket, permit: _permit, .. } = connect(&target).await?;
    let (mut reader, mut writer) = tokio::io::split(socket);
    #[allow(clippy::default_trait_access, reason = "redis does not export the type's name")]
    let mut decoder = Default::default();

    let subscribe = async {
        writer.write_all(&redis::cmd("SUBSCRIBE").arg(&config.channel).get_packed_command()).await?;
        redis::parse_redis_value_async(&mut decoder, &mut reader).await
    };
    let asked = Time::now();
    let reply = within(node.connect_timeout, "no answer to SUBSCRIBE", subscribe).await?;
    reply.extract_error().map_err(|refusal| {
        if node.needs.hear(Need::Subscribe, None, format!("-{refusal}").as_bytes()) {
            sink.refused();
        }
        Lost::Refused(refusal)
    })?;
    subscribed(asked);

    let mut vigil = Vigil::begin();
    loop {
        let mut next = pin!(redis::parse_redis_value_async(&mut decoder, &mut reader));
        let value = loop {
            let bound = sink.bound();
            tokio::select! {
                value = &mut next => break value?,
                () = sleep_until(vigil.ends(bound)) => {
                    if vigil.unanswered.is_some() {
                        Err(late("no answer to PING"))?;
                    }
                    vigil.ask();
                    let ping = redis::cmd(PING).get_packed_command();
                    within(SILENCE, "PING cannot be sent", async { Ok(writer.write_all(&ping).await?) }).await?;
                }
                () = sink.bound_begins().notified() => {}
            }
        };
        vigil.heard = Instant::now();
        match Msg::from_owned_value(value) {
            Some(message) => on(heed(message.get_payload_bytes(), &config.origin_id, sink).await),
            None => vigil.unanswered.take().into_iter().for_each(|sent| sink.answered(sent)),
        }
    }
}

/// What a link was asked, and whether it has answered.
struct Vigil {
    asked: Instant,
    /// When that was, by the clock of leases, where there is no answer yet.
    unanswered: Option<Time>,
    /// When anything came.
    heard: Instant,
}

impl Vigil {
    /// The link has just answered.
    fn begin() -> Self {
        let now = Instant::now();
        Self { asked: now, unanswered: None, heard: now }
    }

    /// The question is about to be sent.
    fn ask(&mut self) {
        (self.asked, self.unanswered) = (Instant::now(), Some(Time::now()));
    }

    /// When the next question is due; or, where one is unanswered, when the link is to be given up. What comes meanwhile shows that it
    /// lives.
    fn ends(&self, bound: Option<Duration>) -> Instant {
        match self.unanswered {
            None => self.asked + bound.map_or(SILENCE, |bound| SILENCE.min(bound / 4)),
            Some(_) => self.asked.max(self.heard) + bound.map_or(SILENCE, |bound| SILENCE.min(PATIENCE.max(bound * 4))),
        }
    }
}

/// Acts on one payload.
pub(super) async fn heed(payload: &[u8], origin_id: &str, sink: &(impl Forget + ?Sized)) -> Heard {
    let envelope = match Envelope::parse(payload) {
        Ok(envelope) => envelope,
        Err(error) => {
            debug!(%error, "skipped a message of the fleet's channel");
            return Heard::nothing(&error);
        }
    };
    if envelope.origin_id.as_deref() == Some(origin_id) {
        return Heard::OwnEcho;
    }
    if let Message::RemoveBulk { keys } = &envelope.message {
        for burst in keys.chunks(BURST) {
            for key in burst {
                sink.key(key.as_bytes());
            }
            yield_now().await;
        }
        return Heard::RemoveBulk;
    }
    obey(envelope.message, sink)
}

async fn within<T>(limit: Duration, why: &'static str, work: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    match timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(late(why)),
    }
}

fn late(why: &'static str) -> RedisError {
    io::Error::new(io::ErrorKind::TimedOut, why).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Endpoint, PasswordOrigin};
    use crate::upstream::{RotatingLogin, Topology};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::{mpsc, watch};

    /// Writes down what it is told to forget.
    #[derive(Default)]
    struct Notes {
        lines: Mutex<Vec<String>>,
        /// From now on leases depend on the channel.
        relied: AtomicBool,
        begins: Notify,
    }

    /// For so long at the longest.
    const BOUND: Duration = Duration::from_millis(500);

    impl Notes {
        fn add(&self, what: &str, name: &[u8]) {
            let line = format!("{what} {}", String::from_utf8_lossy(name));
            self.lines.lock().expect("no test panics while it holds the lock").push(line);
        }

        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.lines.lock().expect("no test panics while it holds the lock"))
        }
    }

    impl Forget for Notes {
        fn key(&self, key: &[u8]) {
            self.add("key", key);
        }
        fn pattern(&self, pattern: &[u8]) {
            self.add("pattern", pattern);
        }
        fn all(&self) {
            self.add("all", b"");
        }
    }

    impl ChannelListener for Notes {
        fn subscribed(&self, _: Time) {
            self.add("subscribed", b"");
        }
        fn answered(&self, sent: Time) {
            assert!(sent <= Time::now());
            self.add("answered", b"");
        }
        fn refused(&self) {
            self.add("refused", b"");
        }
        fn bound(&self) -> Option<Duration> {
            self.relied.load(Ordering::Relaxed).then_some(BOUND)
        }
        fn bound_begins(&self) -> &Notify {
            &self.begins
        }
    }

    #[tokio::test]
    async fn each_message_forgets_what_it_names_and_no_more() {
        let notes = Notes::default();
        for (payload, heard, forgotten) in [
            (r#"{"type":"Remove","key":"a b"}"#, Heard::Remove, vec!["key a b"]),
            (r#"{"origin_id":"other","type":"Remove","key":"a"}"#, Heard::Remove, vec!["key a"]),
            (r#"{"type":"RemoveBulk","keys":["a","b"]}"#, Heard::RemoveBulk, vec!["key a", "key b"]),
            (r#"{"type":"RemoveBulk","keys":[]}"#, Heard::RemoveBulk, vec![]),
            (r#"{"type":"Forget","keys":["a"],"hex":["62"]}"#, Heard::Forget, vec!["key a", "key b"]),
            (r#"{"type":"Update","key":"a","value":"00"}"#, Heard::Update, vec!["key a"]),
            (r#"{"type":"RemovePattern","pattern":"a:*"}"#, Heard::RemovePattern, vec!["pattern a:*"]),
            (r#"{"type":"RemovePattern","pattern":"**"}"#, Heard::RemovePattern, vec!["all "]),
            (r#"{"origin_id":"other","type":"ForgetAll"}"#, Heard::ForgetAll, vec!["all "]),
            (r#"{"type":"RemovePattern","pattern":""}"#, Heard::RemovePattern, vec!["pattern "]),
            (r#"{"origin_id":"me","type":"Remove","key":"a"}"#, Heard::OwnEcho, vec![]),
            (r#"{"type":"Freeze","key":"a"}"#, Heard::UnknownType, vec![]),
            ("not JSON", Heard::Malformed, vec![]),
            ("", Heard::Malformed, vec![]),
        ] {
            assert_eq!(heed(payload.as_bytes(), "me", &notes).await, heard, "{payload}");
            assert_eq!(notes.take(), forgotten, "{payload}");
        }
        assert_eq!(heed(&vec![b' '; 2 << 20], "me", &notes).await, Heard::TooLarge);
    }

    #[tokio::test]
    async fn a_long_list_lets_other_tasks_have_their_turn() {
        let keys: Vec<String> = (0..10 * BURST).map(|n| n.to_string()).collect();
        let payload = Envelope { origin_id: None, message: Message::RemoveBulk { keys } }.encode();
        let notes = Arc::new(Notes::default());
        let (seen, other) = (Arc::clone(&notes), Arc::clone(&notes));
        let turn = tokio::spawn(async move { other.take().len() });
        heed(&payload, "me", &*seen).await;
        assert_eq!(turn.await.expect("the other task ends"), BURST, "it ran after the first burst");
    }

    /// A Redis that says what the test tells it to; the listener's side of every link comes out of `links`.
    struct Server {
        listener: TcpListener,
    }

    /// One node serves all.
    fn serving(node: Node) -> Serving {
        Serving::front(watch::Sender::new(Arc::new(Topology::Single(Arc::new(node)))).subscribe())
    }

    /// The server's end of a link.
    type Link = BufReader<TcpStream>;

    impl Server {
        async fn start() -> (Self, ChannelConfig) {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let port = listener.local_addr().expect("it is bound").port();
            let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port };
            let config = ChannelConfig {
                serving: serving(Node::new(endpoint, 4, Duration::from_secs(1))),
                channel: "news".to_owned(),
                origin_id: "me".to_owned(),
            };
            (Self { listener }, config)
        }

        /// Takes the next link up to the request to subscribe, and answers that.
        async fn accept(&self, answer: &str) -> Link {
            let (stream, _) = self.listener.accept().await.expect("a link");
            let mut link = BufReader::new(stream);
            for (question, answer) in [
                ("CLIENT ID", &b":7\r\n"[..]),
                ("INFO SERVER", b"$0\r\n\r\n"),
                ("HELLO 2", b"*0\r\n"),
                ("CLIENT SETNAME CREMA-CHANNEL", b"+OK\r\n"),
            ] {
                assert_eq!(request(&mut link).await.join(" ").to_uppercase(), question);
                link.write_all(answer).await.expect("the listener reads");
            }
            assert_eq!(request(&mut link).await, ["SUBSCRIBE", "news"]);
            link.write_all(answer.as_bytes()).await.expect("the listener reads");
            link
        }
    }

    const SUBSCRIBED: &str = "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n";

    async fn request(link: &mut Link) -> Vec<String> {
        let mut bytes = Vec::new();
        loop {
            bytes.push(link.read_u8().await.expect("the listener sends"));
            if let Ok(value) = redis::parse_redis_value(&bytes) {
                return redis::from_redis_value(value).expect("a request is an array of strings");
            }
        }
    }

    fn message(payload: &str) -> String {
        format!("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n${}\r\n{payload}\r\n", payload.len())
    }

    fn remove(key: &str) -> String {
        message(&format!(r#"{{"type":"Remove","key":"{key}"}}"#))
    }

    /// Listens in the background; every outcome comes out of the receiver.
    fn start(config: ChannelConfig) -> (Arc<Notes>, mpsc::Receiver<Heard>, CancellationToken) {
        let notes = Arc::new(Notes::default());
        let stop = CancellationToken::new();
        let (tell, heard) = mpsc::channel(16);
        let (sink, end) = (Arc::clone(&notes), stop.clone());
        tokio::spawn(async move {
            let on = |outcome| tell.try_send(outcome).expect("the test reads along");
            listen(&config, sink, end, on).await;
        });
        (notes, heard, stop)
    }

    #[tokio::test]
    async fn each_link_logs_in_with_the_password_as_it_is_then() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "0").expect("our own file");
        let origin = PasswordOrigin::File(file.path().into());
        let rotating = RotatingLogin::start(b"app", origin).await.expect("it can be read");
        let (server, config) = Server::start().await;
        let node = Node::new(config.serving.node().endpoint.clone(), 4, Duration::from_secs(1));
        let serving = serving(node.rotated_by(Some(Arc::clone(&rotating)), Vec::new()));
        let (_, _, stop) = start(ChannelConfig { serving, ..config });
        for password in ["0", "100"] {
            let (stream, _) = server.listener.accept().await.expect("a link");
            let mut link = BufReader::new(stream);
            assert_eq!(request(&mut link).await[1..], ["app", password]);
            for n in 1..=100 {
                std::fs::write(file.path(), n.to_string()).expect("our own file");
                rotating.fresh().await;
            }
        }
        stop.cancel();
    }

    #[tokio::test]
    async fn messages_arrive_whole_however_they_are_cut_and_stop_ends_the_link() {
        let (server, config) = Server::start().await;
        let (notes, mut heard, stop) = start(config);
        let mut link = server.accept(SUBSCRIBED).await;
        for byte in remove("bytewise").bytes() {
            link.write_u8(byte).await.expect("the listener reads");
            yield_now().await;
        }
        link.write_all([remove("a"), message("{"), remove("b")].concat().as_bytes()).await.expect("the listener reads");
        for expected in [Heard::Remove, Heard::Remove, Heard::Malformed, Heard::Remove] {
            assert_eq!(heard.recv().await, Some(expected));
        }
        assert_eq!(notes.take(), ["subscribed ", "key bytewise", "key a", "key b"]);

        stop.cancel();
        assert_eq!(heard.recv().await, None, "listen returned");
        assert_eq!(link.read(&mut [0]).await.expect("closed in order"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_or_refused_link_is_made_anew_and_what_was_missed_meanwhile_is_forgotten() {
        let (server, config) = Server::start().await;
        let (notes, mut heard, _stop) = start(config);
        drop(server.accept("-NOPERM this user has no permissions to access the channel\r\n").await);
        drop(server.accept(SUBSCRIBED).await);
        drop(server.accept("?nonsense\r\n").await);
        assert_eq!(notes.take(), ["refused ", "subscribed "], "what was refused is no link");
        let mut link = server.accept(SUBSCRIBED).await;
        link.write_all(remove("a").as_bytes()).await.expect("the listener reads");
        assert_eq!(heard.recv().await, Some(Heard::Remove));
        assert_eq!(notes.take(), ["subscribed ", "key a"]);
    }

    const PONG: &[u8] = b"*2\r\n$4\r\npong\r\n$0\r\n\r\n";

    /// Whether so much time has passed, and not much more.
    fn about(begin: Instant, span: Duration) -> bool {
        (span..span + Duration::from_millis(100)).contains(&begin.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_is_asked_now_and_then_and_given_up_where_nothing_comes_behind_the_question() {
        let (server, config) = Server::start().await;
        let (notes, mut heard, _stop) = start(config);
        let mut link = server.accept(SUBSCRIBED).await;
        let begin = Instant::now();
        assert_eq!(request(&mut link).await, [PING]);
        link.write_all(PONG).await.expect("the listener reads");
        assert_eq!(request(&mut link).await, [PING], "it lived on and was asked again");
        assert!(about(begin, 2 * SILENCE), "{:?}", begin.elapsed());
        assert_eq!(notes.take(), ["subscribed ", "answered "]);
        sleep(SILENCE / 2).await;
        link.write_all(remove("a").as_bytes()).await.expect("the listener reads");
        assert_eq!(heard.recv().await, Some(Heard::Remove));

        assert_eq!(link.read(&mut [0]).await.expect("closed in order"), 0);
        assert!(begin.elapsed() >= 3 * SILENCE + SILENCE / 2, "a message shows that it lives: {:?}", begin.elapsed());
        assert_eq!(notes.take(), ["key a"], "but is no answer: it may have been said before");
    }

    #[tokio::test(start_paused = true)]
    async fn where_leases_depend_on_it_the_link_is_asked_at_once_and_four_times_a_bound() {
        let (server, config) = Server::start().await;
        let (notes, mut heard, _stop) = start(config);
        let mut link = server.accept(SUBSCRIBED).await;
        sleep(SILENCE / 2).await;
        notes.relied.store(true, Ordering::Relaxed);
        notes.begins.notify_one();
        let begin = Instant::now();
        for asked in 0..5 {
            assert_eq!(request(&mut link).await, [PING]);
            assert!(about(begin, asked * BOUND / 4), "{asked}: {:?}", begin.elapsed());
            // What comes besides puts no question off.
            link.write_all(&[remove("a").as_bytes(), PONG].concat()).await.expect("the listener reads");
            assert_eq!(heard.recv().await, Some(Heard::Remove));
        }
        assert_eq!(request(&mut link).await, [PING]);
        let asked = Instant::now();
        assert_eq!(link.read(&mut [0]).await.expect("closed in order"), 0);
        assert!(about(asked, PATIENCE), "{:?}", asked.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_accepts_and_says_nothing_holds_up_one_attempt_only() {
        let (server, config) = Server::start().await;
        let (_notes, mut heard, _stop) = start(config);
        let mute = server.accept("").await;
        let mut link = server.accept(SUBSCRIBED).await;
        link.write_all(remove("a").as_bytes()).await.expect("the listener reads");
        assert_eq!(heard.recv().await, Some(Heard::Remove));
        drop(mute);
    }
}
