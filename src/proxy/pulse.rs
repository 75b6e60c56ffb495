//! Whether the node lives while a lane is silent, and whether that lane is dead.
//!
//! Whatever a node says on any connection is its pulse. A lane whose head waits while the node has a pulse elsewhere is
//! stalled, and others go on beside it; where nothing else talks, a connection kept for that is asked. That a lane is *dead*
//! must be proved, for one is silent, too, while Redis pauses writes or a script runs. The proof is what Redis says of it on a
//! new connection: that there is none of this id, or, twice and a second apart, that nothing of it is under way (Redis,
//! `CLIENT LIST`: `qbuf`, `obl`, `oll`, flag `b`). Before its sessions are told, Redis is made to end it, so that nothing that
//! was given up can still be carried out. Where nothing can be proved, `response_timeout` stands; the same holds then.
//!
//! Belongs to a `Station`, which shows it all lanes every [`STALL`]; what asks is a task of the worker's.
//!
//! Holds contract point 7 (a write is sent once).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::in_flight::InFlight;
use crate::clock::Time;
use crate::error::Error;
use crate::metrics::Need;
use crate::resp::{Resp, encode};
use crate::upstream::{Connection, Lane, Node, STALL, Target, connect, read_reply};

/// A lane that is stalled for so long is looked into.
const SUSPECT: Duration = Duration::from_millis(800);
/// Between the two looks at what Redis knows of it.
const LOOKS_APART: Duration = Duration::from_secs(1);
/// So long the connection that is kept for asking may take to answer before a new one is made.
const PROMPT: Duration = Duration::from_millis(200);
/// A question on a new connection may take so long.
const ANSWER: Duration = Duration::from_secs(2);
/// Redis may take so long to end connections that were silent past the deadline.
const BARRIER: Duration = Duration::from_secs(1);
/// After a failure nobody asks for so long.
const REST: Duration = Duration::from_millis(300);
/// The connection is kept for so long after it was asked last.
const KEPT: Duration = Duration::from_secs(30);
/// Private connections, of which there may be thousands, are looked at every so many times.
const SELDOM: u32 = 8;
/// Lanes that are looked into at once.
const AT_ONCE: usize = 64;

/// See the module's head.
pub(super) struct Pulse {
    node: Arc<Node>,
    /// The worker's tasks.
    tasks: TaskTracker,
    looks: Cell<u32>,
    asking: Cell<bool>,
    proving: Cell<bool>,
    giving_up: Cell<bool>,
    kept: RefCell<Option<(Connection, Time)>>,
}

/// A silent lane, with when its head began to wait.
type Silent = (Rc<Lane<InFlight>>, Time, SilentLaneKind);

/// What a silent lane carries, as far as proofs depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SilentLaneKind {
    Plain,
    Private,
    /// While one runs past the server's threshold, Redis answers others and knows nothing of it.
    Scripts,
}

/// One look at all lanes.
pub(super) struct PulseLook {
    now: Time,
    /// Somebody waits, and the node says nothing anywhere.
    missed: bool,
    holds_writes: bool,
    suspects: Vec<Silent>,
}

impl PulseLook {
    /// A look that begins now.
    pub(super) fn new(now: Time) -> Self {
        Self { now, missed: false, holds_writes: false, suspects: Vec::new() }
    }

    /// Looks at this one.
    pub(super) fn at(&mut self, lane: &Rc<Lane<InFlight>>, kind: SilentLaneKind) {
        let waited = lane.waited(self.now);
        if waited <= STALL {
            return;
        }
        let stalled = lane.is_stalled(self.now);
        if !stalled {
            self.missed = true;
        } else if waited > SUSPECT && self.suspects.len() < AT_ONCE && lane.id().is_some() {
            self.suspects.push((Rc::clone(lane), lane.waiting_since(), kind));
        }
        self.holds_writes |= kind == SilentLaneKind::Plain && stalled && lane.writes();
    }
}

impl Pulse {
    /// That of `node`, whose tasks will be among `tasks`.
    pub(super) fn new(node: &Arc<Node>, tasks: &TaskTracker) -> Rc<Self> {
        Rc::new(Self {
            node: Arc::clone(node),
            tasks: tasks.clone(),
            looks: Cell::default(),
            asking: Cell::default(),
            proving: Cell::default(),
            giving_up: Cell::default(),
            kept: RefCell::default(),
        })
    }

    /// Whether the look that begins is one at private connections, too.
    pub(super) fn looks_at_all(&self) -> bool {
        let looks = self.looks.replace(self.looks.get().wrapping_add(1));
        looks.is_multiple_of(SELDOM)
    }

    /// Does what a look shows to be needed: asks for a pulse where one is missed, and looks into what stays silent beside it.
    /// Whether Redis seems to hold writes back.
    pub(super) fn follow(self: &Rc<Self>, look: PulseLook) -> bool {
        let PulseLook { now, missed, holds_writes, suspects } = look;
        self.kept.borrow_mut().take_if(|(_, asked)| now.saturating_since(*asked) > KEPT);
        if missed && !self.asking.replace(true) {
            let pulse = Rc::clone(self);
            self.tasks.spawn_local(async move {
                pulse.ask_pulse().await;
                pulse.asking.set(false);
            });
        }
        if !suspects.is_empty() && !self.proving.replace(true) {
            let pulse = Rc::clone(self);
            self.tasks.spawn_local(async move {
                if let Err(error) = pulse.look_into(suspects).await {
                    debug!(%error, "it could not be found out whether a silent connection is dead");
                    sleep(REST).await;
                }
                pulse.proving.set(false);
            });
        }
        holds_writes
    }

    fn target(&self) -> Target {
        let node = Arc::clone(&self.node);
        Target { login: node.login(), node, db: 0, resp: Resp::V2, name: "crema-pulse" }
    }

    /// Has the node say something: on the connection kept for it, else on a new one, whose handshake is pulse enough.
    async fn ask_pulse(&self) {
        let node = &self.node;
        let kept = self.kept.borrow_mut().take();
        if let Some((mut connection, _)) = kept
            && connection.generation == node.generation.number()
            && matches!(timeout(PROMPT, ask(&mut connection, &[b"PING"])).await, Ok(Ok(_)))
        {
            node.heard(Time::now());
            *self.kept.borrow_mut() = Some((connection, Time::now()));
            return;
        }
        match timeout(ANSWER, connect(&self.target())).await {
            Ok(Ok(connection)) => *self.kept.borrow_mut() = Some((connection, Time::now())),
            Ok(Err(_)) | Err(_) => sleep(REST).await,
        }
    }

    /// Gives up those of the silent lanes that are dead. Fails, and decides nothing, where that cannot be asked.
    async fn look_into(&self, silent: Vec<Silent>) -> Result<(), Error> {
        let lost = |why: &str| Error::Lost { node: Arc::clone(&self.node.address), why: why.into() };
        let mut connection =
            timeout(ANSWER, connect(&self.target())).await.map_err(|_| lost("no answer to a new connection"))??;
        let first = self.known(&mut connection, &silent).await?;
        if !silent
            .iter()
            .zip(&first)
            .any(|((.., kind), known)| known == &Known::Gone || *kind != SilentLaneKind::Scripts)
        {
            return Ok(());
        }
        sleep(LOOKS_APART).await;
        let second = self.known(&mut connection, &silent).await?;
        for (((lane, since, kind), first), second) in silent.iter().zip(first).zip(second) {
            let now = Time::now();
            let waits = lane.waiting_since() == *since && lane.waited(now) > LOOKS_APART;
            let dead = second == Known::Gone || *kind != SilentLaneKind::Scripts && first.is_idle() && second.is_idle();
            if !waits || !dead || lane.is_stale() || connection.generation != self.node.generation.number() {
                continue;
            }
            self.end(&mut connection, lane).await?;
            warn!(
                waited = ?lane.waited(now),
                "a connection to the upstream is dead: new ones are answered, and Redis has nothing under way on it; it is made anew"
            );
            lane.lose("silent while the upstream answers on others");
        }
        Ok(())
    }

    /// Gives up connections whose replies have been awaited longer than `after`. Before their clients are told, and L1 and the fleet
    /// forget what they may have written, Redis is made to end them, where it can be asked: a command that a network delivers
    /// later is not carried out.
    pub(super) fn give_up(self: &Rc<Self>, late: Vec<Rc<Lane<InFlight>>>, after: Duration) {
        if self.giving_up.replace(true) {
            return; // what is late still, the next sweep finds
        }
        let pulse = Rc::clone(self);
        self.tasks.spawn_local(async move {
            if !matches!(timeout(BARRIER, pulse.end_all(&late)).await, Ok(Ok(()))) {
                debug!("connections are given up that Redis could not be made to end: what is on its way can still be carried out");
            }
            late.into_iter().filter(|lane| lane.waited(Time::now()) > after).for_each(|lane| lane.give_up(after));
            pulse.giving_up.set(false);
        });
    }

    async fn end_all(&self, lanes: &[Rc<Lane<InFlight>>]) -> Result<(), Error> {
        let mut connection = connect(&self.target()).await?;
        for lane in lanes.iter().filter(|lane| !lane.is_stale()) {
            self.end(&mut connection, lane).await?;
        }
        Ok(())
    }

    /// Has Redis end a connection. Where the user may not, it is left to the reset with which ours ends.
    async fn end(&self, connection: &mut Connection, lane: &Lane<InFlight>) -> Result<(), Error> {
        let Some(id) = lane.id() else { return Ok(()) };
        let reply = self.answer(connection, &[b"CLIENT", b"KILL", b"ID", id.to_string().as_bytes()]).await?;
        if reply.starts_with(b"-") && !reply.starts_with(b"-ERR No such client") {
            self.node.needs.hear(Need::ClientKill, None, &reply);
        }
        Ok(())
    }

    /// What Redis knows of each of them.
    async fn known(&self, connection: &mut Connection, silent: &[Silent]) -> Result<Vec<Known>, Error> {
        let ids: Vec<_> = silent.iter().filter_map(|(lane, ..)| lane.id()).map(|id| id.to_string()).collect();
        let mut command: Vec<&[u8]> = vec![b"CLIENT", b"LIST", b"ID"];
        command.extend(ids.iter().map(String::as_bytes));
        let reply = self.answer(connection, &command).await?;
        self.node.needs.hear(Need::ClientList, None, &reply);
        if reply.first() != Some(&b'$') {
            return Err(Error::Refused { node: Arc::clone(&self.node.address), reply: reply.into() });
        }
        Ok(ids.iter().map(|id| Known::read(&reply, id)).collect())
    }

    async fn answer(&self, connection: &mut Connection, command: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let lost = |why: &str| Error::Lost { node: Arc::clone(&self.node.address), why: why.into() };
        let reply = timeout(ANSWER, ask(connection, command)).await.map_err(|_| lost("no answer"))?;
        reply.map_err(|error| lost(&error.to_string()))
    }
}

async fn ask(connection: &mut Connection, command: &[&[u8]]) -> std::io::Result<Vec<u8>> {
    let mut request = Vec::new();
    encode::own_command(&mut request, command);
    connection.socket.write_all(&request).await?;
    read_reply(&mut connection.socket, &mut Vec::new()).await
}

/// What Redis knows of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// There is none.
    Gone,
    /// There is nothing of it under way: no command that it has not answered, and no reply that it has not sent.
    Idle,
    /// It is blocked, paused, or in the midst of something.
    Busy,
}

impl Known {
    fn is_idle(self) -> bool {
        self != Self::Busy
    }

    /// Reads what the reply to `CLIENT LIST` says of the connection with this id.
    fn read(list: &[u8], id: &str) -> Self {
        let list = String::from_utf8_lossy(list);
        let of = |line: &str, field: &str| {
            line.split(' ').find_map(|pair| pair.strip_prefix(field)?.strip_prefix('=').map(str::to_owned))
        };
        let Some(line) = list.lines().find(|line| of(line, "id").as_deref() == Some(id)) else { return Self::Gone };
        let none = |field| of(line, field).is_some_and(|value| value == "0");
        let blocked = of(line, "flags").is_none_or(|flags| flags.contains('b'));
        if !blocked && none("qbuf") && none("obl") && none("oll") { Self::Idle } else { Self::Busy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_dead_where_redis_has_none_or_nothing_under_way_on_it() {
        let list = b"$400\r\nid=7 addr=1 name= flags=N qbuf=0 qbuf-free=20474 obl=0 oll=0 cmd=set\n\
            id=8 addr=2 flags=b qbuf=0 obl=0 oll=0\nid=9 addr=3 flags=N qbuf=0 obl=12 oll=0\n\
            id=71 flags=N qbuf=30 obl=0 oll=0\n\r\n";
        let known: Vec<_> = ["7", "8", "9", "71", "70", "1"].iter().map(|id| Known::read(list, id)).collect();
        assert_eq!(known, [Known::Idle, Known::Busy, Known::Busy, Known::Busy, Known::Gone, Known::Gone]);
    }
}
