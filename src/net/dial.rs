//! A TCP connection to a name that may stand for several addresses: all are tried, and a silent one holds up nobody for long.
//!
//! "Happy eyeballs" (RFC 8305): addresses of the two families in turn, the first family being that of the first address;
//! the next is tried when the one before has failed, or has said nothing for [`STAGGER`]. Whichever is connected first stays.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::names;

/// From one try to the next while the first is silent (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Connects to `host`, which is looked up each time. Fails as the last address did, or the look-up. Cancel safe: all tries end.
pub(crate) async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = names::addresses(host, port).await?;
    first(in_turn(&addresses), TcpStream::connect).await
}

/// The same addresses, of each family in the order that they have, in turn.
fn in_turn(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let is_first = |address: &SocketAddr| address.is_ipv6() == addresses[0].is_ipv6();
    let (one, other): (Vec<_>, Vec<_>) = addresses.iter().copied().partition(is_first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut all = VecDeque::with_capacity(addresses.len());
    loop {
        let next = [one.next(), other.next()];
        if next == [None, None] {
            return all;
        }
        all.extend(next.into_iter().flatten());
    }
}

/// The first that `connect` gives. Tries that are under way then end.
async fn first<T, F>(mut left: VecDeque<SocketAddr>, connect: impl Fn(SocketAddr) -> F) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let mut trying = JoinSet::new(); // dropped, it ends them
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name stands for no address");
    loop {
        if let Some(next) = left.pop_front() {
            trying.spawn(connect(next));
        }
        let waits = pin!(sleep(STAGGER));
        let tried = tokio::select! {
            tried = trying.join_next() => tried,
            () = waits, if !left.is_empty() => continue,
        };
        match tried {
            Some(Ok(Ok(connected))) => return Ok(connected),
            Some(Ok(Err(error))) => failed = error,
            Some(Err(panicked)) => failed = io::Error::other(panicked),
            None => return Err(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::{Arc, Mutex};

    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    fn addresses(all: &[&str]) -> Vec<SocketAddr> {
        all.iter().map(|ip| SocketAddr::new(ip.parse().expect("an address"), 1)).collect()
    }

    /// What an address does when it is tried.
    #[derive(Clone, Copy)]
    enum Does {
        Accepts,
        AcceptsAfter(u64),
        Refuses,
        Nothing,
    }

    type Tried = (Vec<(usize, u64)>, io::Result<usize>, u64);

    /// Which addresses are tried at which milliseconds, what comes of it, and when.
    async fn tries(does: &[Does]) -> Tried {
        let all: Vec<SocketAddr> = (0..does.len()).map(|at| SocketAddr::from(([127, 0, 0, 1], at as u16))).collect();
        let (tried, begun, does): (Arc<Mutex<Vec<_>>>, _, Arc<[Does]>) = (Arc::default(), Instant::now(), does.into());
        let millis = move || u64::try_from(begun.elapsed().as_millis()).expect("a test is short");
        let notes = Arc::clone(&tried);
        let connect = move |address: SocketAddr| {
            let (at, does) = (usize::from(address.port()), Arc::clone(&does));
            notes.lock().expect("no test panics here").push((at, millis()));
            async move {
                match does[at] {
                    Does::Accepts => Ok(at),
                    Does::AcceptsAfter(millis) => {
                        sleep(Duration::from_millis(millis)).await;
                        Ok(at)
                    }
                    Does::Refuses => Err(io::ErrorKind::ConnectionRefused.into()),
                    Does::Nothing => pending().await,
                }
            }
        };
        let found = first(all.into(), connect).await;
        let tried = tried.lock().expect("no test panics here").clone();
        (tried, found, millis())
    }

    #[test]
    fn families_take_turns_and_the_first_comes_first() {
        let mixed = addresses(&["::1", "::2", "::3", "10.0.0.1", "10.0.0.2"]);
        let turns: Vec<String> = in_turn(&mixed).iter().map(|address| address.ip().to_string()).collect();
        assert_eq!(turns, ["::1", "10.0.0.1", "::2", "10.0.0.2", "::3"]);
        let turns = in_turn(&addresses(&["10.0.0.1", "::1"]));
        assert!(turns[0].is_ipv4() && turns.len() == 2);
        assert!(in_turn(&[]).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_refuses_is_followed_at_once_and_a_silent_one_after_the_stagger() {
        use Does::{Accepts, AcceptsAfter, Nothing, Refuses};
        let (tried, found, took) = tries(&[Accepts, Accepts]).await;
        assert_eq!((tried, found.ok(), took), (vec![(0, 0)], Some(0), 0));
        let (tried, found, took) = tries(&[Refuses, Accepts]).await;
        assert_eq!((tried, found.ok(), took), (vec![(0, 0), (1, 0)], Some(1), 0));
        let (tried, found, took) = tries(&[Nothing, Nothing, Accepts]).await;
        assert_eq!((tried, found.ok(), took), (vec![(0, 0), (1, 250), (2, 500)], Some(2), 500));
        let (tried, found, took) = tries(&[AcceptsAfter(300), AcceptsAfter(300)]).await;
        assert_eq!((tried, found.ok(), took), (vec![(0, 0), (1, 250)], Some(0), 300), "the first was only slow");
        let (tried, found, took) = tries(&[Nothing, Refuses, Refuses, AcceptsAfter(10)]).await;
        assert_eq!((tried, found.ok(), took), (vec![(0, 0), (1, 250), (2, 250), (3, 250)], Some(3), 260));
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_refuse_the_last_says_why() {
        let (tried, found, took) = tries(&[Does::Refuses, Does::Refuses]).await;
        assert_eq!((tried.len(), took), (2, 0));
        assert_eq!(found.expect_err("none accepts").kind(), io::ErrorKind::ConnectionRefused);
        let (_, found, _) = tries(&[]).await;
        assert_eq!(found.expect_err("there is none").kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn localhost_is_whichever_of_its_addresses_has_a_server() {
        for bound in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(bound).await else { continue }; // a machine without IPv6
            let port = listener.local_addr().expect("it is bound").port();
            let names = if bound.starts_with('[') { ["localhost", "::1"] } else { ["localhost", "127.0.0.1"] };
            for name in names {
                if name == "localhost" && bound.starts_with('[') && !stands_for_both(port).await {
                    continue;
                }
                dial(name, port).await.unwrap_or_else(|error| panic!("{name} with a server at {bound}: {error}"));
            }
        }
    }

    async fn stands_for_both(port: u16) -> bool {
        names::addresses("localhost", port).await.is_ok_and(|all| all.iter().any(SocketAddr::is_ipv6))
    }
}
