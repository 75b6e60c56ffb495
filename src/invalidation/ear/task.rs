//! Keeps an ear listening: connects, moves bytes between the socket and the protocol, sleeps until its deadline, and connects anew.
//!
//! One task for each user's ear, on the control thread. Begun when L1 is first asked to fill for the user, ended by the ear's
//! token. It decides nothing of what L1 may answer: that is `protocol`'s.
//!
//! Holds contract point 4: a lost connection ends the lease.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::super::l1::L1;
use super::awaited::AwaitedChange;
use super::fill::Fill;
use super::handle::{Ear, EarState, EarWait, EarWork, Inbox, NoEar, WorkInbox};
use super::protocol::{Disconnection, EarEffect, Protocol, Surroundings};
use super::touch::{HitKeys, TouchBatch};
use crate::clock::Time;
use crate::error::Error;
use crate::metrics::{AuditBreach, AuditSkip, DropReason, Need, Refusal};
use crate::resp::Resp;
use crate::upstream::{ANOTHER, Backoff, Connection, Node, Target, connect};

/// Why a connection ends that was made to hear of changes by other means.
const RECHOSEN: &str = "changes are heard of by other means now";
/// A user that may not do what an ear needs is tried again after this long, or when an ACL command goes through this
/// process: rights can change.
const REFUSED: Duration = Duration::from_secs(60);

impl L1 {
    /// Asks `ear` to fill L1, which then begins to listen. Never waits; the error is why the promotion was dropped.
    pub(crate) fn promote(self: &Arc<Self>, ear: &Arc<Ear>, fill: Fill) -> Result<(), DropReason> {
        if !self.mode().covers(fill.key()) {
            return Err(DropReason::NoPrefix);
        }
        self.begin_ear(ear)?;
        ear.fill(fill)
    }

    /// Resolves when `ear` hears of a change, or when it will not tell of it. Where nothing is kept no ear listens.
    pub(crate) fn await_change(self: &Arc<Self>, ear: &Arc<Ear>, change: AwaitedChange) -> oneshot::Receiver<()> {
        let (waiter, told) = oneshot::channel();
        if self.keeps() && self.begin_ear(ear).is_ok() {
            ear.await_change(change, waiter);
        }
        told
    }

    /// Has it listen from now on.
    fn begin_ear(self: &Arc<Self>, ear: &Arc<Ear>) -> Result<(), DropReason> {
        if !self.mode().hears() {
            return Err(DropReason::NoCoherence);
        }
        if ear.is_refused() {
            return Err(DropReason::Refused);
        }
        if !ear.has_filled() {
            let begun = ear.begin(|| ear.group.join(self.terms.max_ears)).map_err(|NoEar| DropReason::NoEar)?;
            if let Some(inbox) = begun {
                self.start_ear(ear, inbox);
            }
        }
        Ok(())
    }

    fn start_ear(self: &Arc<Self>, ear: &Arc<Ear>, inbox: Inbox) {
        let (ear, l1) = (Arc::clone(ear), Arc::clone(self));
        self.control.spawn(async move {
            ear.stop.run_until_cancelled(listen(&ear, &l1, inbox)).await;
            ear.group.leave();
        });
    }
}

/// Why there is no connection now.
enum Outage {
    /// It broke, or could not be made.
    Lost(Error),
    /// The user may not do this.
    Refused(Refusal, Error),
}

/// Never returns.
async fn listen(ear: &Ear, l1: &Arc<L1>, mut inbox: Inbox) {
    let (mut backoff, mut returns) = (Backoff::default(), ear.node().presence.returns());
    loop {
        returns.tries();
        let target =
            Target { node: Arc::clone(ear.node()), login: ear.login.get(), db: 0, resp: Resp::V3, name: "crema-ear" };
        let outage = match connect(&target).await {
            Ok(connection) => {
                ear.set_state(EarState::Listening(connection.socket.local()));
                let user = target.login.as_ref().map_or(&b"default"[..], |login| &login.user);
                let mut protocol = Protocol::new(surroundings(ear, l1), user, connection.generation, Time::now());
                let outage = run(&mut protocol, connection, (ear, l1), user, &mut inbox, &mut backoff).await;
                protocol.disconnect(Time::now());
                outage
            }
            Err(error @ Error::Refused { .. }) if !error.is_passing() => {
                let speaks = !ear.node().needs.is_refused(Need::Hello);
                Outage::Refused(if speaks { Refusal::Login } else { Refusal::Hello }, error)
            }
            Err(error @ Error::LoginRefused { .. }) => Outage::Refused(Refusal::Login, error),
            Err(error) => Outage::Lost(error),
        };
        ear.reconnects.fetch_add(1, Ordering::Relaxed);
        l1.stats.ear_reconnects.add(1);
        let wait = note_outage(outage, (ear, l1), &target, &mut backoff);
        // What was asked of the lost ear is dropped: promotions are optional, and a fence that fails is answered by that.
        let drain = async {
            loop {
                tokio::select! {
                    work = inbox.work.next(true, true) => match work {
                        EarWork::Fill(_) => {}
                        EarWork::Audit(_) => l1.stats.audit_skipped(AuditSkip::EarLost),
                    },
                    _ = inbox.waits.next() => {}
                }
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = returns.back() => backoff.reset(),
            () = ear.retry.notified() => {}
            () = drain => {}
        }
        ear.refused.store(false, Ordering::Relaxed);
    }
}

/// Tells operators, and how long to wait before the next try.
fn note_outage(outage: Outage, (ear, l1): (&Ear, &L1), target: &Target, backoff: &mut Backoff) -> Duration {
    let user = target.login.as_ref().map_or("default".into(), |login| String::from_utf8_lossy(&login.user));
    match outage {
        Outage::Lost(error) => {
            let wait = backoff.wait();
            debug!(%user, ?wait, "the invalidation connection is tried again after a while");
            warn!(%user, %error, "invalidation connection lost; cache off for this user, reads go to Redis");
            ear.set_state(EarState::Away(error.to_string()));
            wait
        }
        Outage::Refused(refusal, error) => {
            warn!(%user, %error, "cache off for this user, reads go to Redis: it {}", refusal.about());
            l1.stats.refused(refusal);
            ear.set_state(EarState::Refused(refusal));
            ear.refused.store(true, Ordering::Release);
            // Somebody may have proved a newer password meanwhile, and found nobody to tell.
            if ear.login.get() == target.login { REFUSED } else { Duration::ZERO }
        }
    }
}

fn surroundings<'a>(ear: &'a Ear, l1: &'a L1) -> Surroundings<'a> {
    Surroundings {
        terms: &l1.terms,
        stamps: &l1.memory.stamps,
        store: &l1.memory.store,
        switch: &l1.switch,
        arrivals: &l1.memory.arrivals,
        opaque_writes: &l1.opaque_writes,
        silence: &l1.silence,
        generation: &ear.node().generation,
        vouched: &ear.node().vouched,
        stats: &l1.stats,
        freshness: &ear.freshness,
        fence_times: &ear.fence_times,
        rights: &ear.rights,
        patience: ear.node().handshake_timeout,
    }
}

/// Runs the protocol on a connection until that ends.
async fn run(
    protocol: &mut Protocol<'_, oneshot::Sender<()>>,
    connection: Connection,
    (ear, l1): (&Ear, &Arc<L1>),
    user: &[u8],
    inbox: &mut Inbox,
    backoff: &mut Backoff,
) -> Outage {
    let Connection { socket, permit: _permit, .. } = connection;
    let (mut read, mut write) = tokio::io::split(socket);
    let (mut input, mut out, mut collecting) = (Vec::new(), Vec::new(), None);
    let (mut alarm, mut deadline) = (pin!(sleep(Duration::ZERO)), Time::ZERO);
    let lost = |why: &str| Outage::Lost(Error::Lost { node: Arc::clone(&ear.node().address), why: why.into() });
    loop {
        protocol.take_unsent(&mut out);
        if protocol.deadline() != deadline {
            deadline = protocol.deadline();
            alarm.as_mut().reset(Instant::now() + deadline.saturating_since(Time::now()));
        }
        let went = tokio::select! {
            read = read.read_buf(&mut input) => match read {
                Ok(0) => return lost("closed by the upstream"),
                Ok(_) => receive(protocol, &mut input, ear.node(), backoff),
                Err(error) => return lost(&error.to_string()),
            },
            written = write.write(&out), if !out.is_empty() => match written.map(|n| drop(out.drain(..n))) {
                Ok(()) => Ok(()),
                Err(error) => return lost(&error.to_string()),
            },
            () = ear.log_in.notified() => {
                log_in(protocol, ear);
                Ok(())
            }
            wait = inbox.waits.next() => {
                ask(protocol, wait);
                Ok(())
            }
            first = inbox.work.next(protocol.takes_fills(), protocol.takes_audits()) => {
                begin(protocol, first, &mut inbox.work);
                Ok(())
            }
            batches = collected(&mut collecting) => {
                collecting = None;
                protocol.collected(batches, Time::now());
                Ok(())
            }
            () = &mut alarm => {
                deadline = Time::ZERO; // it is to be set anew
                protocol.wake(Time::now(), ear.node().last_heard())
            }
        };
        for effect in protocol.effects() {
            act(effect, (ear, l1), user, &mut collecting);
        }
        if let Err(ending) = went {
            return outage(ending, ear.node());
        }
    }
}

/// Reads this, and what has gathered of its kind.
fn begin<W>(protocol: &mut Protocol<'_, W>, first: EarWork, others: &mut WorkInbox) {
    match first {
        EarWork::Fill(first) => protocol.fill(std::iter::once(first).chain(others.fills()), Time::now()),
        EarWork::Audit(first) => protocol.audit(std::iter::once(first).chain(others.audits()), Time::now()),
    }
}

fn ask(protocol: &mut Protocol<'_, oneshot::Sender<()>>, wait: EarWait) {
    match wait {
        EarWait::Fence((since, waiter)) => protocol.fence(since, waiter, Time::now()),
        EarWait::Change((change, waiter)) => protocol.await_change(&change, waiter, Time::now()),
    }
}

fn log_in<W>(protocol: &mut Protocol<'_, W>, ear: &Ear) {
    if let Some(login) = ear.login.get() {
        protocol.log_in(&login, rand::random(), Time::now());
    }
}

fn receive<W>(
    protocol: &mut Protocol<'_, W>,
    input: &mut Vec<u8>,
    node: &Node,
    backoff: &mut Backoff,
) -> Result<(), Disconnection> {
    let now = Time::now();
    if !protocol.is_turned() {
        node.heard(now);
    }
    protocol.receive(input, now)?;
    if protocol.is_told() {
        backoff.reset();
    }
    Ok(())
}

type Collecting = Option<oneshot::Receiver<Vec<TouchBatch>>>;

/// Never returns where nothing is being collected. Cancel safe.
async fn collected(collecting: &mut Collecting) -> Vec<TouchBatch> {
    match collecting {
        Some(collecting) => collecting.await.unwrap_or_default(),
        None => pending().await,
    }
}

fn act(effect: EarEffect<oneshot::Sender<()>>, (ear, l1): (&Ear, &Arc<L1>), user: &[u8], collecting: &mut Collecting) {
    match effect {
        EarEffect::Fenced(waiter) | EarEffect::Changed(waiter) => drop(waiter.send(())), // who asked may have left
        EarEffect::FieldTtls(known) => ear.set_field_ttls(known),
        EarEffect::Collect(keys) => *collecting = Some(collect(keys, l1)),
        EarEffect::AskSteward => l1.start_steward(&ear.group),
        EarEffect::RightsDue => ear.group.rights_due.notify_one(),
        EarEffect::Without(need, reply) => drop(ear.node().needs.hear(need, Some(user), &reply)),
        EarEffect::SlotLeft(slot) => l1.slot_left(slot),
        EarEffect::Doubt => ear.node().generation.doubt(),
        EarEffect::Violation(audit) => {
            l1.audit.note(AuditBreach::Value, audit.exhibit(), (user, audit.db()), ear.node());
        }
    }
}

/// There can be millions of entries, and the ear must not wait. If it is lost meanwhile, nobody listens.
fn collect(keys: HitKeys, l1: &Arc<L1>) -> oneshot::Receiver<Vec<TouchBatch>> {
    let (told, collected) = oneshot::channel();
    let of = Arc::clone(l1);
    l1.control.spawn_blocking(move || drop(told.send(keys.collect(&of.memory.store))));
    collected
}

fn outage(ending: Disconnection, node: &Node) -> Outage {
    let node = Arc::clone(&node.address);
    match ending {
        Disconnection::Broken(why) => Outage::Lost(Error::Lost { node, why: why.into() }),
        Disconnection::Turned => Outage::Lost(Error::Lost { node, why: ANOTHER.into() }),
        Disconnection::Rechosen => Outage::Lost(Error::Lost { node, why: RECHOSEN.into() }),
        Disconnection::Silent(after) => Outage::Lost(Error::Timeout { node, after }),
        Disconnection::Refused(refusal, reply) => {
            let error = Error::Refused { node, reply: reply.into() };
            if error.is_passing() { Outage::Lost(error) } else { Outage::Refused(refusal, error) }
        }
    }
}
