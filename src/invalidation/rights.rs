//! What a user may do, as far as L1 must know: whether it is still what it was when the user's entries were read.
//!
//! `ACL GETUSER` of the user is compared twice in every `acl_recheck`; a difference empties the user's part of L1, and a lease
//! never lasts longer than `acl_recheck` after the last comparison. It is asked on the user's own ear where the user may ask
//! that, else by the user of the upstream URL, over one connection for all ears ([`steward`]). Where neither may, entries
//! live for `acl_recheck` at most, and the lease is not bound.
//!
//! It is asked behind every fill as well. Without that, a right that is given and taken away again between two comparisons
//! would leave behind what was filled in between: both find the same rights, and neither those of the fill. (What is left of
//! that is a right that is taken away in the round trip after a fill and was given since the comparison before it; and then
//! the user is shown no more than what Redis had shown it.) A user who might do everything before can be given nothing, and
//! is not asked about behind fills: the answer costs Redis as much as some fifty reads.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::frames::fields;
use super::{Ear, L1};
use crate::clock::Time;
use crate::error::{Error, is_passing};
use crate::metrics::EpochReason;
use crate::resp::{Resp, encode};
use crate::upstream::{Backoff, Connection, Target, connect, read_reply};

/// Who tells what a user may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Source {
    /// The user itself, on its ear.
    #[default]
    Ear,
    /// The user of the upstream URL.
    Steward,
    /// Nobody may ask.
    Nobody,
}

/// The rights of an ear's user.
#[derive(Debug, Default)]
pub(super) struct Rights(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    source: Source,
    /// The last answer, and when it was asked for.
    answer: Option<(Box<[u8]>, Time)>,
    /// Whether by that answer the user may run every command on every key.
    all: bool,
    /// Something was filled since the steward asked.
    due: bool,
}

/// What the rights allow L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// They were as the entries need them at this moment.
    KnownAt(Time),
    /// It is not known yet, or nobody may ask: only what dies soon may enter.
    Unknown,
}

impl Rights {
    /// A new connection of the ear: it is asked first.
    pub(super) fn start(&self) {
        *self.lock() = Known::default();
    }

    /// How it stands.
    pub(super) fn standing(&self) -> Standing {
        self.lock().answer.as_ref().map_or(Standing::Unknown, |&(_, asked)| Standing::KnownAt(asked))
    }

    /// Whether the ear is to ask.
    pub(super) fn asks_itself(&self) -> bool {
        self.lock().source == Source::Ear
    }

    /// Whether nothing could be given to the user since the last answer: it may do all there is.
    pub(super) fn are_all(&self) -> bool {
        self.lock().all
    }

    /// Something was filled: the steward is to ask. True where it is the steward who asks.
    pub(super) fn filled(&self) -> bool {
        let mut known = self.lock();
        known.due = true;
        known.source == Source::Steward
    }

    /// Whether the steward is to ask now.
    fn wants_steward(&self, now: Time, every: Duration) -> bool {
        let mut known = self.lock();
        let old = known.answer.as_ref().is_none_or(|(_, asked)| now.saturating_since(*asked) >= every);
        known.source == Source::Steward && (std::mem::take(&mut known.due) || old)
    }

    /// An answer to `ACL GETUSER`, asked for at `asked`. True where the user's entries must go: the rights differ, or they
    /// were not known when the entries were read.
    fn heard(&self, reply: &[u8], asked: Time, first: bool) -> bool {
        let mut known = self.lock();
        let same = known.answer.as_ref().map_or(first, |(answer, _)| **answer == *reply);
        match &mut known.answer {
            Some((_, at)) if same => *at = asked,
            answer => {
                *answer = Some((reply.into(), asked));
                known.all = allows_all(reply);
            }
        }
        !same
    }

    /// `from` was refused the question; another may ask. True where the user's entries must go.
    fn refused(&self, from: Source) -> bool {
        let mut known = self.lock();
        if known.source != from {
            return false;
        }
        known.source = if from == Source::Ear { Source::Steward } else { Source::Nobody };
        known.all = false;
        known.answer.take().is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a reply to `ACL GETUSER` allows every command on every key, by what Redis 7 and Valkey 9 say. What it says in words
/// that are not known here may be a restriction.
fn allows_all(reply: &[u8]) -> bool {
    let Some(told) = fields(reply) else { return false };
    told.iter().all(|(name, value)| match &**name {
        b"commands" => value == b"+@all",
        b"keys" => value == b"~*",
        b"databases" => value == b"alldbs",
        b"flags" | b"passwords" | b"channels" | b"selectors" => true,
        _ => false,
    }) && [&b"commands"[..], b"keys"].iter().all(|name| told.contains_key(*name))
}

impl Ear {
    /// The ear's own answer. Nothing was filled before its first one was asked for.
    pub(super) fn told_rights(&self, l1: &Arc<L1>, reply: &[u8], asked: Time) {
        let changed = if is_passing(reply) {
            false // it is asked again, and what it said last time holds for as long as it would have
        } else if reply.first() == Some(&b'-') {
            self.rights.refused(Source::Ear)
        } else {
            self.rights.heard(reply, asked, true)
        };
        self.act(l1, changed);
        if !self.rights.asks_itself() {
            l1.start_steward();
        }
    }

    fn act(&self, l1: &L1, changed: bool) {
        if changed {
            self.freshness.bump();
            l1.stats.epoch(EpochReason::Rights);
        }
    }
}

/// Asks for the users that may not ask themselves; never returns.
pub(super) async fn steward(l1: Arc<L1>) {
    let mut backoff = Backoff::default();
    let mut told = false;
    loop {
        let Err(error) = ask_for_others(&l1, &mut backoff).await;
        if std::mem::replace(&mut told, true) {
            debug!(%error, "still no asking after the rights of users");
        } else {
            warn!(%error, "cannot ask after the rights of users who may not ask themselves");
        }
        if matches!(error, Error::Refused { .. } | Error::LoginRefused { .. }) && !error.is_passing() {
            for (_, ear) in l1.ears() {
                ear.act(&l1, ear.rights.refused(Source::Steward));
            }
        }
        sleep(backoff.wait()).await;
    }
}

async fn ask_for_others(l1: &L1, backoff: &mut Backoff) -> Result<Infallible, Error> {
    let node = Arc::clone(&l1.node);
    let target =
        Target { node: Arc::clone(&node), login: l1.steward.clone(), db: 0, resp: Resp::V3, name: "crema-rights" };
    let Connection { mut socket, permit: _permit, .. } = connect(&target).await?;
    let lost = |why: &str| Error::Lost { node: Arc::clone(&node.address), why: why.into() };
    let mut buffer = Vec::new();
    loop {
        for (user, ear) in l1.ears() {
            let asked = Time::now();
            if !ear.rights.wants_steward(asked, l1.terms.acl_recheck / 2) {
                continue;
            }
            let mut question = Vec::new();
            encode::own_command(&mut question, &[b"ACL", b"GETUSER", &user]);
            let exchange = async {
                socket.write_all(&question).await?;
                read_reply(&mut socket, &mut buffer).await
            };
            let reply = timeout(node.connect_timeout, exchange).await.map_err(|_| lost("no answer to ACL GETUSER"))?;
            let reply = reply.map_err(|error| lost(&error.to_string()))?;
            backoff.reset();
            let changed = if is_passing(&reply) {
                false
            } else if reply.first() == Some(&b'-') {
                ear.rights.refused(Source::Steward)
            } else {
                ear.rights.heard(&reply, asked, false)
            };
            ear.act(l1, changed);
        }
        // Early where something was filled.
        let _ = timeout(l1.terms.acl_recheck / 4, l1.filled_for_others.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    #[test]
    fn only_a_difference_empties() {
        let rights = Rights::default();
        assert_eq!(rights.standing(), Standing::Unknown);
        assert!(!rights.heard(b"all", at(1), true), "nothing was read before");
        assert!(!rights.heard(b"all", at(2), true));
        assert_eq!(rights.standing(), Standing::KnownAt(at(2)));
        assert!(rights.heard(b"less", at(3), true));
        assert!(!rights.heard(b"less", at(4), true));
    }

    #[test]
    fn only_who_may_do_everything_can_be_given_nothing() {
        let user = |fields: &[(&str, &str)]| {
            let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
            let fields: String = fields.iter().map(|(name, told)| bulk(name) + &bulk(told)).collect();
            format!("%{}\r\n+flags\r\n~1\r\n+on\r\n{fields}", fields.matches('$').count() / 2 + 1)
        };
        let all = [("commands", "+@all"), ("keys", "~*"), ("channels", "")];
        assert!(allows_all(user(&all).as_bytes()));
        assert!(allows_all(user(&[&all[..], &[("databases", "alldbs")]].concat()).as_bytes()), "as Valkey 9 has it");
        let less = [
            user(&[("commands", "+@all -debug"), all[1]]),
            user(&[all[0], ("keys", "~* %R~secret")]),
            user(&[&all[..], &[("databases", "db=0")]].concat()),
            user(&[&all[..], &[("hours", "9-17")]].concat()),
            user(&all[..1]),
            "-NOPERM no\r\n".into(),
            "*2\r\n+commands\r\n+\r\n".into(),
        ];
        assert!(less.iter().all(|reply| !allows_all(reply.as_bytes())));
    }

    #[test]
    fn who_asks_for_another_may_come_late() {
        let rights = Rights::default();
        assert!(!rights.refused(Source::Ear));
        assert!(!rights.asks_itself());
        assert!(rights.heard(b"all", at(5), false), "what was read before this answer was read under unknown rights");
        assert!(!rights.heard(b"all", at(6), false));
        assert!(!rights.refused(Source::Ear), "it was not the ear that was asked");
        assert!(rights.refused(Source::Steward));
        assert_eq!(rights.standing(), Standing::Unknown);
    }
}
