//! What is asked of the peers, and two ways to ask: as fast as answers come, and on a timetable.
//!
//! The first ([`closed`]) keeps a peer busy: processor time a request, and throughput. The second ([`open`]) sends each
//! request when its time has come, whatever became of those before, and counts its latency from that time: a server that
//! stops for a moment is charged with everything that should have been asked meanwhile (no coordinated omission).

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream as Blocking};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crema::resp::{Split, Splitter, encode};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::either::Either;

use super::peers::{Peer, serving};

/// Bytes of a usual value, and of a large one.
pub(crate) const VALUE: usize = 100;
pub(crate) const LARGE: usize = 10_000;
/// Keys `key:N` that exist.
pub(crate) const KEYS: u32 = 1_000_000;
/// Keys that a load of hits asks for.
pub(crate) const HOT: u32 = 10_000;
const FEW: u32 = 100;
/// The stream of which the newest entries are read.
pub(crate) const TAIL: &str = "tail";
/// Requests of one client that may be unanswered before even the timetable waits.
const UNANSWERED: usize = 100_000;
const SCRIPT: &str = "return redis.call('SET',KEYS[1],ARGV[1])";
/// The name under which Redis knows a script.
const SHA: &str = "return redis.status_reply(redis.sha1hex(ARGV[1]))";
/// What a job queue does in a script: a job is stored, listed, and the oldest one taken.
const QUEUE: &str = "redis.call('HSET',KEYS[1]..':job','data',ARGV[1]) redis.call('LPUSH',KEYS[1],ARGV[1]) \
                     redis.call('ZADD',KEYS[1]..':done',1,ARGV[1]) return redis.call('RPOP',KEYS[1])";

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ask {
    /// One of the hot keys.
    Get,
    /// One of all keys, evenly.
    GetAny,
    /// One of so many keys.
    GetOf(u32),
    Set,
    /// One of so many keys, in turn.
    SetOf(u32),
    EvalSha,
    /// Nine hot keys to one that is never kept in memory.
    Mix,
    /// Of all keys, by Zipf's law with this exponent; one request in so many is a write, with 0 none.
    Zipf(f64, u32),
    XRange,
    /// So many of the newest entries of a stream.
    Tail(u32),
    MGet,
    HGetAll,
    /// Scripts as a job queue runs them.
    Queue,
    /// Hot keys, and between them one script in so many requests.
    Among(u32),
    /// One of as many keys that a tier has, and the upstream not.
    Below,
    /// One of as many that nobody has.
    Gone,
}

/// A load: what is asked, how many requests at a time, by how many clients, for values of which size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    pub(crate) ask: Ask,
    pub(crate) depth: usize,
    pub(crate) clients: usize,
    pub(crate) value: usize,
}

impl Load {
    pub(crate) const fn new(ask: Ask, depth: usize) -> Self {
        Self { ask, depth, clients: 50, value: VALUE }
    }

    pub(crate) fn name(&self) -> String {
        match self.ask {
            Ask::Get => "GET".into(),
            Ask::GetAny => "GET, any of 1,000,000 keys".into(),
            Ask::GetOf(keys) => format!("GET of {keys} keys"),
            Ask::Set => "SET".into(),
            Ask::SetOf(keys) => format!("SET of {keys} keys"),
            Ask::EvalSha => "EVALSHA".into(),
            Ask::Mix => "GET, 90 % may hit".into(),
            Ask::Zipf(s, 0) => format!("GET, Zipf {s}"),
            Ask::Zipf(s, one_in) => format!("GET and 1 in {one_in} SET, Zipf {s}"),
            Ask::XRange => "XRANGE, 10 entries".into(),
            Ask::Tail(newest) => format!("XREVRANGE, {newest} newest"),
            Ask::MGet => "MGET of 10".into(),
            Ask::HGetAll => "HGETALL, 10 fields".into(),
            Ask::Queue => "job queue (EVALSHA)".into(),
            Ask::Among(one_in) => format!("GET and 1 in {one_in} EVALSHA"),
            Ask::Below => "GET of what tiers alone have".into(),
            Ask::Gone => "GET of what was deleted".into(),
        }
    }
}

/// Puts the keys that the loads ask for into a Redis.
pub(crate) fn seed(redis: &Peer) {
    redis.ask(&["DEBUG", "POPULATE", &KEYS.to_string(), "key", &VALUE.to_string()]);
    redis.ask(&["DEBUG", "POPULATE", &HOT.to_string(), "cold", &VALUE.to_string()]);
    redis.ask(&["DEBUG", "POPULATE", "1000", "large", &LARGE.to_string()]);
    let fill = "for i = 0, 99 do for j = 1, 10 do \
                redis.call('XADD', 'stream:'..i, '*', 'field', 'value:'..j) \
                redis.call('HSET', 'hash:'..i, 'field:'..j, 'value:'..j) end end";
    redis.ask(&["EVAL", fill, "0"]);
    redis.ask(&["SCRIPT", "LOAD", SCRIPT]);
    redis.ask(&["SCRIPT", "LOAD", QUEUE]);
}

/// The same for a cluster, as far as its loads ask for them.
pub(crate) fn seed_cluster(cluster: &Peer) {
    let ports = cluster.ports();
    let mut shares = vec![Vec::new(); ports.len()];
    for number in 0..HOT {
        let key = format!("key:{number}");
        let share = &mut shares[serving(key.as_bytes(), ports.len())];
        encode::command(share, &[b"SET", key.as_bytes(), &[b'x'; VALUE]]);
    }
    for (port, share) in ports.into_iter().zip(shares) {
        let mut stream = Blocking::connect((Ipv4Addr::LOCALHOST, port)).expect("the peer listens");
        stream.write_all(&share).expect("the peer reads");
        stream.shutdown(Shutdown::Write).expect("it is open");
        let mut answers = String::new();
        stream.read_to_string(&mut answers).expect("it answers, and closes");
        assert!(!answers.contains('-'), "a key is not where it belongs");
    }
}

/// Writes requests of one load.
struct Asker {
    ask: Ask,
    large: bool,
    rng: SmallRng,
    turn: u32,
    zipf: Option<Zipf<f64>>,
    sha: String,
    value: Vec<u8>,
    key: Vec<u8>,
}

impl Asker {
    fn new(load: &Load, redis: &Peer, seed: u64) -> Self {
        let sha = match load.ask {
            Ask::EvalSha | Ask::Among(_) => redis.ask(&["EVAL", SHA, "0", SCRIPT]),
            Ask::Queue => redis.ask(&["EVAL", SHA, "0", QUEUE]),
            _ => String::new(),
        };
        let zipf = match load.ask {
            Ask::Zipf(s, _) => Zipf::new(f64::from(KEYS), s).ok(),
            _ => None,
        };
        let (ask, large) = (load.ask, load.value > VALUE);
        let rng = SmallRng::seed_from_u64(seed);
        Self { ask, large, rng, turn: 0, zipf, sha, value: vec![b'x'; load.value], key: Vec::new() }
    }

    fn pick(&mut self, kind: &str, of: u32) {
        let number = self.rng.random_range(0..of);
        self.number(kind, number);
    }

    fn number(&mut self, kind: &str, number: u32) {
        self.key.clear();
        write!(self.key, "{kind}:{number}").expect("a vector takes all");
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        let ask = match self.ask {
            Ask::Among(one_in) if self.rng.random_ratio(1, one_in) => Ask::EvalSha,
            Ask::Among(_) => Ask::Get,
            ask => ask,
        };
        match ask {
            Ask::Get | Ask::Mix | Ask::GetAny | Ask::GetOf(_) | Ask::Below | Ask::Gone => {
                match ask {
                    Ask::Below => self.pick("below", HOT),
                    Ask::Gone => self.pick("below:gone", HOT),
                    Ask::Mix if self.rng.random_ratio(1, 10) => self.pick("cold", HOT),
                    Ask::GetAny => self.pick("key", KEYS),
                    Ask::GetOf(keys) => self.pick("key", keys),
                    _ if self.large => self.pick("large", 1000),
                    _ => self.pick("key", HOT),
                }
                encode::command(out, &[b"GET", &self.key]);
            }
            Ask::Set => {
                self.pick("set", HOT);
                encode::command(out, &[b"SET", &self.key, &self.value]);
            }
            Ask::SetOf(keys) => {
                self.number("key", self.turn % keys);
                self.turn += 1;
                encode::command(out, &[b"SET", &self.key, &self.value]);
            }
            Ask::Zipf(_, one_in) => {
                let rank = self.zipf.as_ref().map_or(1.0, |zipf| zipf.sample(&mut self.rng)) as u32;
                // Neighbours in rank are no neighbours in name.
                self.number("key", rank.wrapping_mul(7_919) % KEYS);
                if one_in > 0 && self.rng.random_ratio(1, one_in) {
                    encode::command(out, &[b"SET", &self.key, &self.value]);
                } else {
                    encode::command(out, &[b"GET", &self.key]);
                }
            }
            Ask::EvalSha | Ask::Queue => {
                self.pick(if ask == Ask::Queue { "queue" } else { "script" }, FEW);
                encode::command(
                    out,
                    &[b"EVALSHA", self.sha.trim_start_matches('+').as_bytes(), b"1", &self.key, &self.value],
                );
            }
            Ask::Among(_) => unreachable!("one of its two parts"),
            Ask::XRange => {
                self.pick("stream", FEW);
                encode::command(out, &[b"XRANGE", &self.key, b"-", b"+"]);
            }
            Ask::Tail(newest) => {
                let count = newest.to_string();
                encode::command(out, &[b"XREVRANGE", TAIL.as_bytes(), b"+", b"-", b"COUNT", count.as_bytes()]);
            }
            Ask::HGetAll => {
                self.pick("hash", FEW);
                encode::command(out, &[b"HGETALL", &self.key]);
            }
            Ask::MGet => {
                encode::array_header(out, 11);
                encode::bulk(out, b"MGET");
                for _ in 0..10 {
                    self.pick("key", HOT);
                    encode::bulk(out, &self.key);
                }
            }
        }
    }
}

/// What came of a run.
#[derive(Default)]
pub(crate) struct Run {
    pub(crate) requests: u64,
    pub(crate) elapsed: Duration,
    /// In nanoseconds, sorted; of a pipeline, until its last reply.
    pub(crate) latencies: Vec<u64>,
}

impl Run {
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency below which this share of the requests stays, in microseconds.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * share) as usize;
        self.latencies.get(at).map_or(0.0, |&nanos| nanos as f64 / 1000.0)
    }
}

/// Each client sends, waits for all replies, and sends again, for `span` and at least once. `measured` is called when all are connected.
pub(crate) fn closed(peer: &Peer, redis: &Peer, load: &Load, span: Duration, measured: impl FnOnce()) -> Run {
    on_this_thread(async {
        let mut clients = Vec::new();
        for number in 0..load.clients {
            let asker = Asker::new(load, redis, number as u64);
            clients.push((asker, connect(peer).await));
        }
        measured();
        let began = Instant::now();
        let depth = load.depth;
        let tasks: Vec<_> = clients
            .into_iter()
            .map(|(asker, stream)| tokio::task::spawn_local(client(asker, stream, depth, began + span)))
            .collect();
        let mut run = Run::default();
        for task in tasks {
            let latencies = task.await.expect("a client does not panic");
            run.requests += (latencies.len() * depth) as u64;
            run.latencies.extend(latencies);
        }
        run.elapsed = began.elapsed();
        run.latencies.sort_unstable();
        run
    })
}

/// Has one client send so many pipelines, and returns the number of requests.
pub(crate) fn counted(peer: &Peer, redis: &Peer, load: &Load, batches: usize) -> u64 {
    let mut asker = Asker::new(load, redis, 7);
    let mut stream = Blocking::connect((Ipv4Addr::LOCALHOST, peer.port)).expect("the peer listens");
    stream.set_nodelay(true).expect("TCP has this option");
    let (mut out, mut buffer, mut splitter) = (Vec::new(), vec![0; 64 << 10], Splitter::default());
    for _ in 0..batches {
        out.clear();
        (0..load.depth).for_each(|_| asker.write(&mut out));
        stream.write_all(&out).expect("the peer reads");
        let mut left = load.depth;
        while left > 0 {
            let n = stream.read(&mut buffer).expect("the peer answers");
            assert!(n > 0, "the peer has closed the connection");
            left -= replies(&mut splitter, &buffer[..n]);
        }
    }
    (batches * load.depth) as u64
}

/// A connection to each server of the peer, under TLS where it has a port for that.
async fn connect(peer: &Peer) -> Vec<Either<TcpStream, TlsStream<TcpStream>>> {
    let mut streams = Vec::new();
    for port in peer.secure.as_ref().map_or_else(|| peer.ports(), |secure| vec![secure.port]) {
        streams.push(connect_to(peer, port).await);
    }
    streams
}

async fn connect_to(peer: &Peer, port: u16) -> Either<TcpStream, TlsStream<TcpStream>> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("the peer listens");
    stream.set_nodelay(true).expect("TCP has this option");
    let Some(secure) = &peer.secure else { return Either::Left(stream) };
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let connector = TlsConnector::from(Arc::clone(&secure.config));
    Either::Right(connector.connect(name, stream).await.expect("the peer speaks TLS"))
}

/// With a connection to each master of a cluster, it sends each of them its share of a pipeline, and then waits for all.
async fn client(
    mut asker: Asker,
    mut streams: Vec<impl AsyncRead + AsyncWrite + Unpin>,
    depth: usize,
    until: Instant,
) -> Vec<u64> {
    let (mut buffer, mut splitter) = (vec![0; 64 << 10], Splitter::default());
    let mut shares = vec![(Vec::new(), 0); streams.len()];
    let mut latencies = Vec::new();
    let mut sent = Instant::now();
    loop {
        if let [(out, left)] = &mut shares[..] {
            (0..depth).for_each(|_| asker.write(out));
            *left = depth;
        } else {
            for _ in 0..depth {
                let mut request = Vec::new();
                asker.write(&mut request);
                let (out, left) = &mut shares[serving(&asker.key, streams.len())];
                out.extend_from_slice(&request);
                *left += 1;
            }
        }
        for (stream, (out, _)) in streams.iter_mut().zip(&mut shares) {
            stream.write_all(out).await.expect("the peer reads");
            stream.flush().await.expect("the peer reads");
            out.clear();
        }
        for (stream, (_, left)) in streams.iter_mut().zip(&mut shares) {
            while *left > 0 {
                let n = stream.read(&mut buffer).await.expect("the peer answers");
                assert!(n > 0, "the peer has closed the connection");
                *left -= replies(&mut splitter, &buffer[..n]);
            }
        }
        let now = Instant::now();
        latencies.push(u64::try_from((now - sent).as_nanos()).unwrap_or(u64::MAX));
        sent = now;
        if now >= until {
            return latencies;
        }
    }
}

/// Replies that end in these bytes. An error ends the benchmark: it would be measured as a fast answer.
fn replies(splitter: &mut Splitter, mut bytes: &[u8]) -> usize {
    let mut ended = 0;
    while !bytes.is_empty() {
        match splitter.split(bytes).expect("a reply as Redis writes one") {
            Split::End(len) => {
                assert!(splitter.kind() != b'-', "{}", bytes[..len].escape_ascii());
                ended += 1;
                bytes = &bytes[len..];
            }
            Split::More => break,
        }
    }
    ended
}

/// Sends `rate` requests a second for `span`, evenly spaced and dealt out to the clients in turn.
pub(crate) fn open(peer: &Peer, redis: &Peer, load: &Load, rate: f64, span: Duration) -> Run {
    let mut writers = Vec::new();
    for _ in 0..load.clients {
        let stream = Blocking::connect((Ipv4Addr::LOCALHOST, peer.port)).expect("the peer listens");
        stream.set_nodelay(true).expect("TCP has this option");
        stream.set_nonblocking(true).expect("a socket can be made so");
        writers.push(stream);
    }
    let readers: Vec<_> = writers.iter().map(|stream| stream.try_clone().expect("a second handle")).collect();
    let (dues, due): (Vec<_>, Vec<_>) = writers.iter().map(|_| mpsc::channel::<Instant>(UNANSWERED)).unzip();
    let asker = Asker::new(load, redis, 1);
    let began = Instant::now();
    let timetable = std::thread::spawn(move || timetable(asker, writers, &dues, rate, began, span));
    let mut latencies: Vec<u64> = on_this_thread(async move {
        let reading =
            |(stream, due)| tokio::task::spawn_local(reader(TcpStream::from_std(stream).expect("a runtime"), due));
        let tasks: Vec<_> = readers.into_iter().zip(due).map(reading).collect();
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.expect("a client does not panic"));
        }
        all
    });
    timetable.join().expect("the timetable does not panic");
    latencies.sort_unstable();
    Run { requests: latencies.len() as u64, elapsed: began.elapsed(), latencies }
}

fn timetable(
    mut asker: Asker,
    mut writers: Vec<Blocking>,
    dues: &[mpsc::Sender<Instant>],
    rate: f64,
    began: Instant,
    span: Duration,
) {
    let mut out = Vec::new();
    for number in 0_u32.. {
        let due = began + Duration::from_secs_f64(f64::from(number) / rate);
        if due > began + span {
            break;
        }
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(early);
        }
        let client = number as usize % writers.len();
        out.clear();
        asker.write(&mut out);
        dues[client].blocking_send(due).expect("its reader lives as long");
        let mut rest = &out[..];
        while !rest.is_empty() {
            match writers[client].write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("the peer does not read: {error}"),
            }
        }
    }
}

async fn reader(mut stream: TcpStream, mut due: mpsc::Receiver<Instant>) -> Vec<u64> {
    let (mut buffer, mut splitter, mut latencies, mut ready) = (vec![0; 64 << 10], Splitter::default(), Vec::new(), 0);
    while let Some(due) = due.recv().await {
        while ready == 0 {
            let n = stream.read(&mut buffer).await.expect("the peer answers");
            assert!(n > 0, "the peer has closed the connection");
            ready += replies(&mut splitter, &buffer[..n]);
        }
        ready -= 1;
        latencies.push(u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    latencies
}

fn on_this_thread<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, future)
}
