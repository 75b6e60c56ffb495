//! A fill: a read repeated on the ear, with its TTL, so that its answer may enter L1.
//!
//! Its stamp and epoch are read before the request is sent, and what comes back is kept only while both still stand. The
//! ear's task owns the fills under way; workers make a [`Fill`] and forget it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::hearing::{Awaited, Hearing};
use crate::cache::{Epoch, Identity, Query, Slot, Stamp};
use crate::clock::Time;
use crate::command::{Caching, by_id};
use crate::metrics::FillOutcome;
use crate::resp::{Request, encode, to_resp2};

/// A read to be repeated on the ear, so that its answer may enter L1.
#[derive(Debug)]
pub struct Fill {
    request: Arc<[u8]>,
    key: Range<usize>,
    tail: usize,
    identity: Identity,
    command: u16,
    slot: Slot,
    hash: u64,
    db: u32,
    ceiling: Option<Duration>,
    again: bool,
}

impl Fill {
    /// The read `request` of one key, its first argument, which `query` describes. `ceiling` is the longest stay in L1.
    pub fn new(request: Request<'_>, query: &Query<'_>, db: u32, ceiling: Option<Duration>) -> Self {
        let raw = request.raw();
        let tail = raw.len() - query.tail.len();
        // The key is the first argument of the tail: "$3\r\nkey\r\n..".
        let header = query.tail.iter().position(|&b| b == b'\n').map_or(0, |at| at + 1);
        let key = tail + header..tail + header + request.arg(1).len();
        let Query { identity, command, slot, hash, .. } = *query;
        Self { request: raw.into(), key, tail, identity, command, slot, hash, db, ceiling, again: false }
    }

    /// The request's bytes.
    pub fn share(&self) -> Arc<[u8]> {
        Arc::clone(&self.request)
    }

    /// What is asked.
    pub fn query(&self) -> Query<'_> {
        let tail = &self.request[self.tail..];
        Query { identity: self.identity, command: self.command, tail, slot: self.slot, hash: self.hash }
    }
}

/// A fill that was sent.
pub(super) struct Asked {
    fill: Fill,
    stamp: Stamp,
    epoch: Epoch,
    pub(super) value: Option<Vec<u8>>,
}

impl Hearing<'_> {
    pub(super) fn ask(&mut self, fill: Fill) {
        let now = Time::now();
        if self.filling.contains(&fill.hash) || self.l1.holds(&fill.query(), self.ear, now) {
            return;
        }
        // Read before the request is sent: only what was asked for under a quiet stamp may enter L1.
        let (stamp, epoch) = (self.l1.stamps.load(fill.slot), self.ear.freshness.epoch());
        if !stamp.quiet() || self.not_master {
            self.l1.stats.fill(FillOutcome::Doomed);
            return;
        }
        if self.fence_sent.is_none() && !self.ear.freshness.held(now) {
            self.send_fence(now);
        }
        if fill.db != self.db {
            self.db = fill.db;
            self.send(&[b"SELECT", fill.db.to_string().as_bytes()], Awaited::Ignored, now);
        }
        self.filling.insert(fill.hash);
        self.out.extend_from_slice(&fill.request);
        encode::command(&mut self.out, &[b"PTTL", &fill.request[fill.key.clone()]]);
        self.next += 2;
        self.awaited.push_back((now, Awaited::Value(Box::new(Asked { fill, stamp, epoch, value: None }))));
    }

    pub(super) fn filled(&mut self, asked: Asked, sent: Time, ttl: &[u8]) {
        let Asked { mut fill, stamp, epoch, value } = asked;
        self.filling.remove(&fill.hash);
        let Some(value) = value else { return self.l1.stats.fill(FillOutcome::Refused) };
        if value == b"_\r\n" && by_id(fill.command).cache == Caching::Array {
            return self.l1.stats.fill(FillOutcome::Refused); // RESP2 has two nulls, and this would be the other one
        }
        let ttl = ttl.strip_prefix(b":").and_then(|n| std::str::from_utf8(n).ok()?.trim_end().parse::<i64>().ok());
        let Some(expires) = self.expiry(&value, ttl, sent, fill.ceiling) else {
            return self.l1.stats.fill(FillOutcome::Expired);
        };
        if self.l1.stamps.load(fill.slot) != stamp || self.ear.freshness.epoch() != epoch {
            if fill.again {
                return self.l1.stats.fill(FillOutcome::Doomed);
            }
            // Mostly the push of a write that was just answered: the second try finds the dust settled.
            self.l1.stats.fill(FillOutcome::Retried);
            fill.again = true;
            return self.ask(fill);
        }
        let mut resp2 = Vec::new();
        let Ok(differs) = to_resp2(&value, &mut resp2) else { return self.l1.stats.fill(FillOutcome::Refused) };
        self.l1.store.insert(&fill.query(), &value, differs.then_some(&resp2), stamp, epoch, expires);
        self.l1.stats.fill(FillOutcome::Stored);
    }

    /// Until when the value may be served. None: value and TTL tell of two different moments.
    fn expiry(&self, value: &[u8], ttl: Option<i64>, sent: Time, ceiling: Option<Duration>) -> Option<Time> {
        let missing = matches!(value, b"_\r\n" | b"*0\r\n");
        let expires = match ttl? {
            -2 if missing => Time::NEVER,
            -1 if value != b"_\r\n" => Time::NEVER,
            ttl if ttl >= 0 && value != b"_\r\n" => sent.plus(Duration::from_millis(ttl.unsigned_abs())),
            _ => return None,
        };
        let unknown_rights = (!self.rights_known).then_some(self.l1.terms.acl_recheck);
        let ceiling = ceiling.into_iter().chain(unknown_rights).min();
        Some(ceiling.map_or(expires, |stay| expires.min(sent.plus(stay))))
    }
}
