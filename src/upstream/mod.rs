//! The upstream side: nodes, how a connection to one is made, and the lanes that carry commands.
//!
//! Knows no cache and no session: what waits for a reply is a [`Waiter`], given by the layer above. Called by `invalidation`
//! (the ear's connection) and by `proxy` (lanes and private connections).

mod backoff;
mod budget;
mod carrier;
mod cluster;
mod connect;
mod generation;
mod lane;
mod messages;
mod needs;
mod pipeline;
mod presence;
mod quirks;
mod replica;
mod rotating;
mod send_buffer;
mod sentinel;
mod serving;
mod signs;
mod survey;
mod topology;
mod vouched;
mod waiter;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub(crate) use backoff::Backoff;
pub(crate) use budget::{Ask, Budget, Permit, Purpose, Settled, Tenant};
#[cfg(test)]
pub(crate) use cluster::MasterEntry;
pub(crate) use cluster::{
    Census, CensusQuestion, CensusReport, CensusTaker, ClusterAnswer, ClusterMap, ClusterState, ErrorLine, Listing,
    MapDoubts, SlotTable, agreed, moved_slot, named_node, newer_than, redirect_of, with_node_at,
};
pub(crate) use connect::{
    Connection, Step, adapt, connect, connect_as_told, connect_by, connect_unproved, read_reply, read_reply_to, steps,
    told_role,
};
pub use generation::Generation;
pub(crate) use lane::Lane;
pub(crate) use messages::{KEY_EVENTS, is_told_by_one_node};
pub(crate) use needs::Needs;
pub use pipeline::Pipeline;
pub(crate) use pipeline::{ANOTHER, Mode, STALL};
pub(crate) use presence::{Presence, State, keep_watch};
pub(crate) use replica::{LeasedReplica, ReplicaBoard, ReplicaLeases, ReplicaTerms, ReplicaWatch};
pub(crate) use rotating::{LOOK, RotatingLogin};
pub(crate) use sentinel::{
    GroupStanding, Inquirer, SentinelCensus, SentinelId, SentinelLogin, SentinelReport, Tenure, role, scout,
};
pub(crate) use serving::Serving;
pub(crate) use signs::{Service, Signs};
pub(crate) use survey::{Survey, SurveyFinding, Trial};
pub(crate) use topology::{NodeIndex, Topology};
pub use vouched::Vouched;
pub use waiter::{ConnectionTimes, ReplyEnd, Waiter};
pub(crate) use waiter::{Forwarder, OutOfBand};

use crate::clock::Time;
use crate::config::Endpoint;
use crate::net::tls::Dialer;
use crate::resp::Resp;

/// One server of the upstream, with the limits that every connection to it shares.
#[derive(Debug)]
pub(crate) struct Node {
    /// Where it is.
    pub endpoint: Endpoint,
    /// How it is spoken to under TLS, where it is.
    pub tls: Option<Arc<Dialer>>,
    /// The same for people and for error texts, without credentials.
    pub address: Arc<str>,
    /// Since when it is known here.
    pub made: Time,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the handshake on it: a server that accepts and is silent is there, and may have been told to pause.
    pub handshake_timeout: Duration,
    /// The user of the upstream URL, where its password stays.
    fixed_login: Option<Arc<Login>>,
    /// Logins of crema's own whose passwords change; the first is that user's, if `is_own_rotating`.
    rotating: Vec<Arc<RotatingLogin>>,
    is_own_rotating: bool,
    /// Which server stands behind the address.
    pub generation: Generation,
    /// Who vouches that it is still the owner of its keys.
    pub vouched: Vouched,
    /// Which of its replicas may answer reads.
    pub replicas: ReplicaBoard,
    /// What it allows.
    pub survey: Survey,
    /// What it refuses to crema.
    pub needs: Needs,
    /// Whether it is there.
    pub presence: Arc<Presence>,
    /// How it served clients last.
    pub signs: Signs,
    /// The connections that there may be.
    pub budget: Arc<Budget>,
    heard: AtomicU64,
    /// It is no part of the upstream any more, or never was.
    gone: AtomicBool,
    quirks: quirks::Quirks,
}

impl Node {
    /// A node at `endpoint` to which at most `limit` connections may be open at once.
    pub(crate) fn new(endpoint: Endpoint, limit: usize, connect_timeout: Duration) -> Self {
        let address = endpoint.to_string().into();
        Self {
            endpoint,
            tls: None,
            address,
            made: Time::now(),
            connect_timeout,
            handshake_timeout: connect_timeout,
            fixed_login: None,
            rotating: Vec::new(),
            is_own_rotating: false,
            generation: Generation::default(),
            vouched: Vouched::always(),
            replicas: ReplicaBoard::default(),
            survey: Survey::default(),
            needs: Needs::default(),
            presence: Arc::default(),
            signs: Signs::default(),
            budget: Budget::new(limit),
            heard: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            quirks: quirks::Quirks::default(),
        }
    }

    /// In place of the node that serves all, while it is not known which does: no connection is made to it. It is called `name`.
    pub(crate) fn unknown(name: &str) -> Self {
        let endpoint = Endpoint::Tcp { host: name.to_owned(), port: 0 };
        Self { address: name.into(), gone: AtomicBool::new(true), ..Self::new(endpoint, 0, Duration::ZERO) }
    }

    /// Another serves in its place from now on: no connection is made to it any more, and what it answers is no answer. To be called
    /// before the other can be used.
    pub(crate) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
        self.generation.leave();
    }

    /// The same node, of which those hear who follow whether `former` is there.
    #[must_use]
    pub(crate) fn in_place_of(self, former: &Self) -> Self {
        Self { presence: Arc::clone(&former.presence), ..self }
    }

    /// Whether it is no part of the upstream.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The same node, spoken to under TLS.
    #[must_use]
    pub(crate) fn secured(self, tls: Option<Arc<Dialer>>) -> Self {
        Self { tls, ..self }
    }

    /// The same node, to which handshakes may take so long, none: as long as they like; and at which `login` asks what it is.
    #[must_use]
    pub(crate) fn known_by(self, login: Option<Arc<Login>>, handshake_timeout: Option<Duration>) -> Self {
        Self { fixed_login: login, handshake_timeout: handshake_timeout.unwrap_or(Duration::MAX), ..self }
    }

    /// The same node, where passwords of crema's own change: that of the user of the upstream URL, and of others.
    #[must_use]
    pub(crate) fn rotated_by(self, own: Option<Arc<RotatingLogin>>, others: Vec<Arc<RotatingLogin>>) -> Self {
        let is_own_rotating = own.is_some();
        Self { rotating: own.into_iter().chain(others).collect(), is_own_rotating, ..self }
    }

    /// The same node, of whose keys another may become the owner: a census vouches for it.
    #[must_use]
    pub(crate) fn vouched_by_census(self) -> Self {
        Self { vouched: Vouched::by_census(), ..self }
    }

    /// The user of the upstream URL, who asks what the server is.
    pub(crate) fn login(&self) -> Option<Arc<Login>> {
        if self.is_own_rotating { self.rotating.first().map(|own| own.login()) } else { self.fixed_login.clone() }
    }

    /// The logins whose passwords change.
    pub(crate) fn rotating(&self) -> &[Arc<RotatingLogin>] {
        &self.rotating
    }

    /// What is to be used in place of `login` by now, where that is one whose password changes.
    async fn renewed(&self, login: Option<&Arc<Login>>) -> Option<(&RotatingLogin, Arc<Login>)> {
        let login = login?;
        let source = self.rotating.iter().find(|source| source.gave(login))?;
        Some((source, source.at_connect().await))
    }

    /// The node said something at `now`, on any connection of the present generation: its pulse.
    pub(crate) fn heard(&self, now: Time) {
        // Once a millisecond is often enough, and leaves the cache line alone otherwise.
        if now.saturating_since(self.last_heard()) > Duration::from_millis(1) {
            self.heard.store(now.as_nanos(), Ordering::Relaxed);
        }
    }

    /// When the node last said something, to a millisecond.
    pub(crate) fn last_heard(&self) -> Time {
        Time::from_nanos(self.heard.load(Ordering::Relaxed))
    }
}

/// Name and password of an ACL user, as a client proved them or as the upstream URL gives them.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// The ACL user, `default` for the old one-argument `AUTH`.
    pub user: Box<[u8]>,
    /// In the clear, as Redis wants it. Never printed.
    pub password: Box<[u8]>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", String::from_utf8_lossy(&self.user))
    }
}

/// What a connection must be before the first command goes over it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The server.
    pub node: Arc<Node>,
    /// The user to authenticate as; none: no `AUTH` is sent and the server's default user applies.
    pub login: Option<Arc<Login>>,
    /// The database selected.
    pub db: u32,
    /// The protocol version spoken.
    pub resp: Resp,
    /// The name that `CLIENT LIST` shows; empty: none is set.
    pub name: &'static str,
}
