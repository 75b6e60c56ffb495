//! Those who are there all the while, and those who come.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::peers::AT_LAST;

/// Clients that are there all the while.
pub(crate) const THERE: usize = 64;
/// Between two reads of one of them.
const PACE: Duration = Duration::from_millis(20);
const LOGIN: &str = "*3\r\n$4\r\nAUTH\r\n$4\r\nanna\r\n$6\r\nsecret\r\n";
const LOGIN_REPLY: &[u8] = b"+OK\r\n";
const READ_REPLY: &[u8] = b"$1\r\nv\r\n";

/// How many come, and within what time.
#[derive(Clone, Copy)]
pub(crate) struct Crowd {
    pub(crate) clients: usize,
    pub(crate) within: Duration,
    /// They go as soon as they have read.
    pub(crate) goes: bool,
}

/// What those who are there have seen.
#[derive(Default)]
pub(crate) struct Watch {
    /// How long their reads took in the first phase, and in the second.
    pub(crate) reads: [Vec<Duration>; 2],
    /// How often one was closed or answered wrongly, and had to come anew.
    pub(crate) lost: u64,
}

/// What those who came have seen.
pub(crate) struct Arrivals {
    /// How long each took to its first reply.
    pub(crate) entries: Vec<Duration>,
    pub(crate) failed: u64,
    /// Those who stay.
    pub(crate) streams: Vec<TcpStream>,
}

pub(crate) fn alone<T>(work: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// Who is there, until the third phase: each reads one of so many keys after the other.
pub(crate) async fn watch(addr: SocketAddr, keys: usize, phase: Arc<AtomicU64>) -> Watch {
    let mut clients = JoinSet::new();
    for number in 0..THERE {
        let phase = Arc::clone(&phase);
        clients.spawn(async move {
            sleep(PACE * u32::try_from(number).expect("few") / u32::try_from(THERE).expect("few")).await;
            let mut stream = enter(addr).await.expect("nothing has happened yet");
            let (mut found, mut key) = (Watch::default(), number);
            loop {
                let now = phase.load(Ordering::Relaxed);
                let began = Instant::now();
                key = (key + 1) % keys;
                if read(&mut stream, key).await.is_err() {
                    found.lost += 1;
                    let mut again = enter(addr).await;
                    while again.is_err() && began.elapsed() < AT_LAST {
                        sleep(PACE).await;
                        again = enter(addr).await;
                    }
                    stream = again.expect("somebody lets clients in");
                }
                match now {
                    1 | 2 => found.reads[usize::from(now == 2)].push(began.elapsed()),
                    3 => return found,
                    _ => {}
                }
                sleep(PACE).await;
            }
        });
    }
    let mut all = Watch::default();
    while let Some(found) = clients.join_next().await {
        let found = found.expect("it does not panic");
        all.lost += found.lost;
        all.reads.iter_mut().zip(found.reads).for_each(|(all, found)| all.extend(found));
    }
    all
}

/// Who comes.
pub(crate) async fn come(addr: SocketAddr, crowd: Crowd) -> Arrivals {
    let first = tokio::time::Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..crowd.clients {
        #[allow(clippy::cast_precision_loss, reason = "some thousands")]
        let at = first + crowd.within.mul_f64(number as f64 / crowd.clients as f64);
        clients.spawn(async move {
            sleep_until(at).await;
            let began = Instant::now();
            let entered = timeout(AT_LAST, enter(addr)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            entered.map(|stream| (began.elapsed(), (!crowd.goes).then_some(stream)))
        });
    }
    let mut all = Arrivals { entries: Vec::new(), failed: 0, streams: Vec::new() };
    while let Some(entered) = clients.join_next().await {
        match entered.expect("it does not panic") {
            Ok((took, stream)) => {
                all.entries.push(took);
                all.streams.extend(stream);
            }
            Err(_) => all.failed += 1,
        }
    }
    all
}

/// Connects, logs in and reads.
async fn enter(addr: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    // Closed by a reset, so that no port is kept.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    stream.write_all(LOGIN.as_bytes()).await?;
    expect(&mut stream, LOGIN_REPLY).await?;
    read(&mut stream, 0).await?;
    Ok(stream)
}

async fn read(stream: &mut TcpStream, key: usize) -> io::Result<()> {
    stream.write_all(format!("*2\r\n$3\r\nGET\r\n$5\r\nk{key:04}\r\n").as_bytes()).await?;
    expect(stream, READ_REPLY).await
}

async fn expect(stream: &mut TcpStream, reply: &[u8]) -> io::Result<()> {
    let mut read = [0; 64];
    let read = &mut read[..reply.len()];
    stream.read_exact(read).await?;
    if read == reply { Ok(()) } else { Err(io::Error::other("another reply")) }
}
