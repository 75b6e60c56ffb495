//! Who the clients of this process are, for those who end some of them by name: `CLIENT KILL USER`, `CLIENT KILL ADDR`.
//!
//! Redis sees crema's connections, each of them many clients' or none's, and ends those; the clients whom the filter means
//! are ended here. Owns a list that all workers share; each ends its own sessions, when it is woken for that.
//!
//! Holds contract point 1 (same answers).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Time;
use crate::resp::Request;

/// All clients of the process.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<Vec<Weak<Member>>>);

/// One of them. On the list for as long as its session holds it.
#[derive(Debug)]
pub(crate) struct Member {
    /// Empty: Redis's default user, unproved.
    user: Mutex<Box<[u8]>>,
    /// Where it connects from, as Redis prints addresses.
    peer: Mutex<String>,
    /// What it calls itself.
    name: Mutex<Box<[u8]>>,
    since: Time,
    ended: AtomicBool,
    worker: Arc<Notify>,
}

impl Clients {
    /// Takes a client from this address onto the list; `worker` is notified when it must end.
    pub(crate) fn join(&self, peer: String, worker: &Arc<Notify>) -> Arc<Member> {
        let (user, ended) = (Mutex::default(), AtomicBool::new(false));
        let member = Arc::new(Member {
            user,
            peer: Mutex::new(peer),
            name: Mutex::default(),
            since: Time::now(),
            ended,
            worker: Arc::clone(worker),
        });
        let mut members = lock(&self.0);
        if members.len() == members.capacity() {
            members.retain(|member| member.strong_count() > 0);
        }
        members.push(Arc::downgrade(&member));
        member
    }

    /// Ends all that `filter` means but `own`, which is asking, and tells how many that were and whether `own` is one more.
    pub(crate) fn end(&self, filter: &Filter<'_>, own: &Arc<Member>) -> (usize, bool) {
        let members: Vec<_> = lock(&self.0).iter().filter_map(Weak::upgrade).collect();
        let (mut others, mut own_too) = (0, false);
        for member in members.iter().filter(|member| filter.means(member)) {
            if Arc::ptr_eq(member, own) {
                own_too = !filter.skips_own;
            } else if !member.ended.swap(true, Ordering::AcqRel) {
                others += 1;
                member.worker.notify_one();
            }
        }
        (others, own_too)
    }
}

impl Member {
    /// The client is this user from now on.
    pub(crate) fn is_now(&self, user: &[u8]) {
        let mut known = lock(&self.user);
        if **known != *user {
            *known = user.into();
        }
    }

    /// Where it connects from, as Redis prints addresses.
    pub(crate) fn peer(&self) -> String {
        lock(&self.peer).clone()
    }

    /// It comes from there in truth; who passes it on has said so.
    pub(crate) fn comes_from(&self, peer: String) {
        *lock(&self.peer) = peer;
    }

    /// It calls itself so from now on.
    pub(crate) fn is_called(&self, name: &[u8]) {
        *lock(&self.name) = name.into();
    }

    /// Since when it is there.
    pub(crate) fn since(&self) -> Time {
        self.since
    }

    /// Its address, its name, and as whom it has logged in, for people.
    pub(crate) fn introduced(&self) -> (String, String, String) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let user = lock(&self.user);
        let user = if user.is_empty() { "default".to_owned() } else { text(&user) };
        (self.peer(), text(&lock(&self.name)), user)
    }

    /// Whether its session must end.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// What a `CLIENT KILL` says of clients, not of connections.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Filter<'a> {
    user: Option<&'a [u8]>,
    address: Option<&'a [u8]>,
    /// No younger ones.
    age: Duration,
    skips_own: bool,
    /// The form with the address alone, which fails where there is no such client.
    pub old_form: bool,
}

impl<'a> Filter<'a> {
    /// Reads the whole request. None where a filter in it is about Redis's connections, or means nothing here.
    pub(crate) fn read(request: Request<'a>) -> Option<Self> {
        if request.argc() == 3 {
            let address = Some(request.arg(2));
            return Some(Self { user: None, address, age: Duration::ZERO, skips_own: false, old_form: true });
        }
        let mut filter = Self { user: None, address: None, age: Duration::ZERO, skips_own: true, old_form: false };
        let words: Vec<&[u8]> = request.args().skip(2).collect();
        for pair in words.chunks(2) {
            let &[name, value] = pair else { return None };
            match name.to_ascii_lowercase().as_slice() {
                b"user" => filter.user = Some(value),
                b"addr" => filter.address = Some(value),
                b"maxage" => filter.age = Duration::from_secs(std::str::from_utf8(value).ok()?.parse().ok()?),
                b"skipme" => filter.skips_own = !value.eq_ignore_ascii_case(b"no"),
                _ => return None,
            }
        }
        (filter.user.is_some() || filter.address.is_some()).then_some(filter)
    }

    fn means(&self, member: &Member) -> bool {
        let named = |user: &[u8]| if user.is_empty() { &b"default"[..] } else { user } == self.user.unwrap_or_default();
        Time::now().saturating_since(member.since) >= self.age
            && self.address.is_none_or(|address| address == lock(&member.peer).as_bytes())
            && (self.user.is_none() || named(&lock(&member.user)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Limits, Parser};

    fn end(clients: &Clients, line: &str, own: &Arc<Member>) -> Option<(usize, bool)> {
        let mut parser = Parser::new();
        parser.parse(line.as_bytes(), &Limits::authenticated()).expect("a valid line");
        Some(clients.end(&Filter::read(parser.request(line.as_bytes()))?, own))
    }

    #[test]
    fn a_filter_means_clients_by_user_and_address() {
        let (clients, worker) = (Clients::default(), Arc::new(Notify::new()));
        let members: Vec<_> = ["a:1", "b:2", "c:3"].map(|peer| clients.join(peer.to_owned(), &worker)).into();
        members[0].is_now(b"x");
        members[1].is_now(b"x");
        let own = &members[1];
        assert_eq!(end(&clients, "CLIENT KILL USER nobody\n", own), Some((0, false)));
        assert_eq!(end(&clients, "CLIENT KILL USER x ADDR b:2\n", own), Some((0, false)), "it skips itself");
        assert_eq!(end(&clients, "CLIENT KILL USER x MAXAGE 3600\n", own), Some((0, false)), "it is younger");
        assert_eq!(end(&clients, "client kill user x maxage 0 skipme NO\n", own), Some((1, true)));
        assert_eq!([0, 1, 2].map(|n| members[n].is_ended()), [true, false, false]);
        assert_eq!(end(&clients, "CLIENT KILL USER default\n", own), Some((1, false)));
        assert_eq!(end(&clients, "CLIENT KILL b:2\n", own), Some((0, true)));
        for line in [
            "CLIENT KILL ID 3\n",
            "CLIENT KILL USER x TYPE normal\n",
            "CLIENT KILL SKIPME no\n",
            "CLIENT KILL USER x ADDR\n",
        ] {
            assert_eq!(end(&clients, line, own), None, "{line}");
        }
    }

    #[test]
    fn the_list_forgets_who_has_left() {
        let (clients, worker) = (Clients::default(), Arc::new(Notify::new()));
        for n in 0..1000 {
            clients.join(n.to_string(), &worker);
        }
        assert!(lock(&clients.0).capacity() < 100);
    }
}
