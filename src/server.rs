//! Accepts clients and hands each to the worker that has the fewest; ends them all in order.
//!
//! A worker is a thread with a runtime of its own: what a session does stays on its thread, because waking another one costs
//! more than the request. Accepting happens on the control thread. Called by `app`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::pending;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::{self, LocalOptions};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use crate::clock::Time;
use crate::config::{Listen, UpstreamDown};
use crate::error::Error;
use crate::metrics::WorkerStats;
use crate::net::Socket;
use crate::proxy::{End, Replies, Shared, Worker};
use crate::session;
use crate::upstream::{STALL, State as Presence};

/// The pause after `accept` failed, which it does for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket on its way to a worker, not yet registered with any runtime.
enum Client {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// The workers' threads.
pub struct Workers {
    doors: Arc<Doors>,
    threads: Vec<thread::JoinHandle<()>>,
    fallen: watch::Receiver<Option<usize>>,
}

/// The way to the workers, and how many clients each has.
pub struct Doors {
    shared: Arc<Shared>,
    of_workers: Vec<Door>,
}

struct Door {
    clients: mpsc::Sender<Client>,
    count: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts a thread for each of `stats`. They serve until `stop`, and for as long as sessions have then.
    pub fn start(shared: &Arc<Shared>, stats: &[Arc<WorkerStats>], stop: &CancellationToken) -> io::Result<Self> {
        let (fall, fallen) = watch::channel(None);
        let (mut of_workers, mut threads) = (Vec::new(), Vec::new());
        for (number, stats) in stats.iter().enumerate() {
            let (clients, door) = mpsc::channel(shared.config.max_clients);
            let count = Arc::new(AtomicUsize::new(0));
            of_workers.push(Door { clients, count: Arc::clone(&count) });
            let (shared, stats, stop) = (Arc::clone(shared), Arc::clone(stats), stop.clone());
            let post = Post { number, stop: stop.clone(), fall: fall.clone() };
            threads.push(post.man(move || work(&shared, &stats, door, &count, &stop))?);
        }
        Ok(Self { doors: Arc::new(Doors { shared: Arc::clone(shared), of_workers }), threads, fallen })
    }

    /// The way to them, for those who accept clients.
    pub fn doors(&self) -> Arc<Doors> {
        Arc::clone(&self.doors)
    }

    /// Waits until a worker has ended that was not told to, and says which. Such a one has the fewest clients, and would be
    /// given every new one. Cancel safe.
    pub async fn fallen(&self) -> usize {
        match self.fallen.clone().wait_for(Option::is_some).await.map(|number| *number) {
            Ok(Some(number)) => number,
            _ => pending().await, // all have ended, as they were told to
        }
    }

    /// Waits for all workers to have ended. Blocks; not to be called on a runtime that they need.
    pub fn join(self) {
        drop(self.doors);
        for thread in self.threads {
            if thread.join().is_err() {
                error!("a worker thread panicked");
            }
        }
    }
}

impl Doors {
    /// Hands a client over, or turns it away where there are `max_clients` already.
    fn welcome(&self, mut client: Client) {
        let load = |door: &Door| door.count.load(Ordering::Relaxed);
        let clients: usize = self.of_workers.iter().map(load).sum();
        if clients >= self.shared.config.max_clients {
            self.shared.stats.sessions_refused.add(1);
            warn!(
                max_clients = self.shared.config.max_clients,
                "a client was refused: as many are connected as may be"
            );
            let refusal = b"-ERR max number of clients reached\r\n";
            // As in Redis, no more than one try: the client is owed nothing.
            let _ = match &mut client {
                Client::Tcp(stream) => stream.write(refusal),
                Client::Unix(stream) => stream.write(refusal),
            };
            return;
        }
        let door = self.of_workers.iter().min_by_key(|door| load(door)).expect("there is at least one worker");
        door.count.fetch_add(1, Ordering::Relaxed);
        if door.clients.try_send(client).is_err() {
            door.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What a worker's thread holds for as long as it runs: dropped before `stop`, by a panic or by a return, it says so.
struct Post {
    number: usize,
    stop: CancellationToken,
    fall: watch::Sender<Option<usize>>,
}

impl Post {
    /// Starts the thread, which does `work`.
    fn man(self, work: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
        let thread = thread::Builder::new().name(format!("worker-{}", self.number));
        thread.spawn(move || {
            let _post = self;
            work();
        })
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            let _ = self.fall.send(Some(self.number)); // where nobody listens the process is ending
        }
    }
}

/// A socket that clients connect to.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket; its file is removed when dropped.
    Unix(UnixListener, SocketFile),
}

impl Listener {
    /// Binds. A Unix socket file that nobody listens on any more is replaced.
    pub async fn bind(listen: &Listen) -> Result<Self, Error> {
        let failed = |source: io::Error| {
            let (setting, address) = ("listen", listen.to_string());
            Error::Listen { setting, address, source: Arc::new(source) }
        };
        match listen {
            Listen::Tcp(address) => Ok(Self::Tcp(tcp(*address).map_err(failed)?)),
            Listen::Unix(path) => {
                make_way(path).await.map_err(failed)?;
                let listener = UnixListener::bind(path).map_err(failed)?;
                Ok(Self::Unix(listener, SocketFile::at(path)))
            }
        }
    }

    /// Where it is, with the port that the system chose.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string()),
            Self::Unix(_, file) => file.path.display().to_string(),
        }
    }

    /// What is not plain from the address: `[::]` takes no IPv4 here, as it would with other programs.
    pub fn note(&self) -> &'static str {
        match self {
            Self::Tcp(listener) if listener.local_addr().is_ok_and(|at| at.is_ipv6() && at.ip().is_unspecified()) => {
                " (IPv6 alone: for IPv4 listen on 0.0.0.0 too)"
            }
            _ => "",
        }
    }

    /// Takes no more clients; those that have connected and were not accepted are refused.
    fn close(self) -> Closed {
        match self {
            Self::Tcp(listener) => {
                // Where the system chose the port, it is that one which clients know.
                let address = listener.local_addr().expect("a listener has an address");
                Closed { listen: Listen::Tcp(address), file: None }
            }
            Self::Unix(_, file) => Closed { listen: Listen::Unix(file.path.clone()), file: Some(file) },
        }
    }

    async fn accept(&self) -> io::Result<Client> {
        match self {
            Self::Tcp(listener) => Ok(Client::Tcp(listener.accept().await?.0.into_std()?)),
            Self::Unix(listener, ..) => Ok(Client::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

/// A socket that clients cannot connect to for now. The file of a Unix socket stays where it is, with nobody behind it.
struct Closed {
    listen: Listen,
    file: Option<SocketFile>,
}

impl Closed {
    /// Listens again, at the same address and with the same rights. Another program can have taken the place meanwhile: then it
    /// is tried again until it is free.
    async fn reopen(self) -> Listener {
        let rights =
            self.file.as_ref().and_then(|file| std::fs::metadata(&file.path).ok()).map(|file| file.permissions());
        let mut told = false;
        loop {
            match Listener::bind(&self.listen).await {
                Ok(listener) => {
                    if let (Some(file), Some(rights)) = (self.file, rights) {
                        let _ = std::fs::set_permissions(&file.path, rights);
                        std::mem::forget(file); // the new listener has one of its own
                    }
                    return listener;
                }
                Err(error) if !told => {
                    warn!("{error}; trying again");
                    told = true;
                }
                Err(_) => {}
            }
            sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// The file of a Unix socket, removed when dropped, unless another stands there by then.
pub struct SocketFile {
    path: PathBuf,
    bound: Option<(u64, u64)>,
}

impl SocketFile {
    fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), bound: file(path) }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if file(&self.path) == self.bound {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes the file of a socket on which nobody listens any more. Any other file is somebody's, and stays.
async fn make_way(path: &Path) -> io::Result<()> {
    let Ok(there) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !there.file_type().is_socket() {
        let why = "a file that is no socket stands there";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()), // somebody may listen: binding tells
    }
}

/// Which file stands at a path.
fn file(path: &Path) -> Option<(u64, u64)> {
    let there = std::fs::symlink_metadata(path).ok()?;
    Some((there.dev(), there.ino()))
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until `stop`. While the upstream is away, and clients are to see that, it is closed, so that they are refused as by a
/// Redis that is down; one that is back at once is waited for. Cancel safe.
pub async fn accept(mut listener: Listener, doors: Arc<Doors>, stop: CancellationToken) {
    let mut presence = doors.shared.front().presence.follow();
    let refuses = doors.shared.config.upstream_down == UpstreamDown::Close;
    let accepting = async {
        loop {
            let trouble = async {
                if !refuses || presence.wait_for(|known| *known != Presence::There).await.is_err() {
                    pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                () = trouble => {}
                () = welcome_all(&listener, &doors) => {}
            }
            // Who connects before it is known whether the upstream is away waits for a moment.
            let known = presence.wait_for(|known| matches!(known, Presence::There | Presence::Away)).await;
            if known.is_ok_and(|known| *known == Presence::There) {
                continue;
            }
            let closed = listener.close();
            info!("the upstream is away: new clients are refused at {} until it is back", closed.listen);
            let _ = presence.wait_for(|known| *known == Presence::There).await;
            listener = closed.reopen().await;
            info!("the upstream is back: listening on {}", listener.address());
        }
    };
    stop.run_until_cancelled(accepting).await;
}

/// Hands over every client that connects; never returns.
async fn welcome_all(listener: &Listener, doors: &Doors) {
    loop {
        match listener.accept().await {
            Ok(client) => doors.welcome(client),
            Err(error) => {
                warn!(%error, "cannot accept a client; trying again (are there enough file descriptors?)");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The life of a worker thread.
fn work(
    shared: &Arc<Shared>,
    stats: &Arc<WorkerStats>,
    mut door: mpsc::Receiver<Client>,
    count: &Arc<AtomicUsize>,
    stop: &CancellationToken,
) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => return error!(%error, "a worker cannot start"),
    };
    runtime.block_on(async {
        let worker = Worker::new(Arc::clone(shared), Arc::clone(stats));
        let mut topology = shared.topology.clone();
        let sessions = Sessions::default();
        let ends = Arc::clone(&sessions.ends);
        let mut presence = shared.front().presence.follow();
        let closes = shared.config.upstream_down == UpstreamDown::Close;
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pulse = interval(STALL);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                client = door.recv() => match client {
                    Some(client) => sessions.start(&worker, client, count),
                    None => break,
                },
                () = ends.notified() => sessions.end(),
                _ = pulse.tick() => worker.feel(Time::now()),
                _ = second.tick() => worker.sweep(Time::now()),
                gone = left(&mut presence), if closes => if gone { sessions.cut() },
                Ok(()) = topology.changed() => worker.adopt(Arc::clone(&topology.borrow_and_update())),
            }
        }
        worker.drain();
        sessions.wake();
        let drained = timeout(shared.config.drain_timeout, sessions.tasks.wait()).await;
        if drained.is_err() {
            let left = sessions.tasks.len();
            info!(sessions = left, "drain_timeout is over: the sessions left are closed");
        }
        worker.close();
        let _ = timeout(Duration::from_secs(1), worker.tasks.wait()).await;
    });
}

/// Whether what has become known of the upstream is that it takes no connections. Cancel safe.
async fn left(presence: &mut watch::Receiver<Presence>) -> bool {
    match presence.changed().await {
        Ok(()) => matches!(*presence.borrow_and_update(), Presence::Missed | Presence::Away),
        Err(_) => pending().await,
    }
}

/// The sessions of a worker.
#[derive(Default)]
struct Sessions {
    tasks: TaskTracker,
    open: Rc<RefCell<HashMap<u64, Rc<Replies>>>>,
    next: RefCell<u64>,
    /// Some of them must end.
    ends: Arc<Notify>,
}

impl Sessions {
    fn start(&self, worker: &Rc<Worker>, client: Client, count: &Arc<AtomicUsize>) {
        let number = self.next.replace_with(|&mut number| number + 1);
        let leave =
            Leave { number, open: Rc::clone(&self.open), count: Arc::clone(count), stats: Arc::clone(&worker.stats) };
        let socket = match client {
            Client::Tcp(stream) => TcpStream::from_std(stream).map(Socket::tcp),
            Client::Unix(stream) => UnixStream::from_std(stream).map(Socket::Unix),
        };
        worker.stats.sessions.add(1);
        worker.stats.sessions_total.add(1);
        let limit = usize::try_from(worker.shared.config.output_limit).unwrap_or(usize::MAX);
        let peer = socket.as_ref().map_or_else(|_| String::new(), Socket::peer);
        let replies =
            Rc::new(Replies::new(limit, worker.shared.clients.join(peer, &self.ends), Arc::clone(&worker.stats)));
        self.open.borrow_mut().insert(number, Rc::clone(&replies));
        match socket {
            Ok(socket) => {
                let worker = Rc::clone(worker);
                debug!(client = %socket.peer(), number, "a client has connected");
                // Called within, or the task would hold the session twice: as it was given and as it runs.
                self.tasks.spawn_local(async move {
                    let _leave = leave;
                    session::serve(worker, socket, replies).await;
                });
            }
            Err(error) => warn!(%error, "a client could not be taken on"),
        }
    }

    /// Ends those that somebody wants ended.
    fn end(&self) {
        let open: Vec<_> = self.open.borrow().values().cloned().collect();
        open.iter().filter(|replies| replies.member().is_ended()).for_each(|replies| replies.end(End::Killed));
    }

    /// Ends every session when what it has sent is answered: to its client the server is down.
    fn cut(&self) {
        for replies in self.open.borrow().values() {
            replies.cut(replies.next(), End::Away);
        }
    }

    /// Has every session look whether it should end, and lets [`TaskTracker::wait`] end with the last.
    fn wake(&self) {
        self.tasks.close();
        self.open.borrow().values().for_each(|replies| replies.wake());
    }
}

/// Takes a session off the books however it ends.
struct Leave {
    number: u64,
    open: Rc<RefCell<HashMap<u64, Rc<Replies>>>>,
    count: Arc<AtomicUsize>,
    stats: Arc<WorkerStats>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        debug!(number = self.number, "a client's session is over");
        self.open.borrow_mut().remove(&self.number);
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.stats.sessions.sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_ends_untold_is_missed_and_one_that_was_told_is_not() {
        let (fall, fallen) = watch::channel(None);
        let stop = CancellationToken::new();
        let post = |number| Post { number, stop: stop.clone(), fall: fall.clone() };
        let panics = post(3).man(|| panic!("of a test")).expect("a thread");
        assert!(panics.join().is_err());
        assert_eq!(*fallen.borrow(), Some(3));
        let returns = post(4).man(|| ()).expect("a thread");
        assert!(returns.join().is_ok());
        assert_eq!(*fallen.borrow(), Some(4));
        let told = post(5);
        stop.cancel();
        told.man(|| ()).expect("a thread").join().expect("it does nothing");
        assert_eq!(*fallen.borrow(), Some(4));
    }
}
