//! Copies between the upstream and its tiers: a value found below is put back, a value that was filled or written is copied down.
//!
//! What is copied carries the version and the epoch that were in the upstream *before* the value was read there; where there is none, it
//! is made first. So a copy is never taken for newer than it is. A value is put back in one step in the upstream: only where the key is
//! absent, and version and epoch are those of the copy. Of the keys that wait to be copied each stands in the queue once; there is room
//! for so many, and what is more is left out.
//!
//! Where a write may have been done without its new version, that is removed (`amends`). Until then this worker asks no tier.

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng as _;
use tokio::task::JoinSet;

use super::errands::SeekRequest;
use super::seek::SoughtKey;
use super::who::Who;
use super::worker::Worker;
use crate::beyond::{Beyond, KeptKind, Reach};
use crate::metrics::TierOutcome;
use crate::resp::{Elements, encode, integer_of, text_of};
use crate::tier::{Tier, TierCopy, Tiers, scaled};

/// So many keys may wait to be copied.
const WAITING: usize = 4096;
/// So many are copied at once.
const AT_ONCE: usize = 32;

/// Puts a value back where nothing has been written since it was copied.
const COPY_UP: &[u8] = b"if redis.call('EXISTS',KEYS[1])==0 and redis.call('GET',KEYS[2])==ARGV[1] and \
redis.call('GET',KEYS[3])==ARGV[2] then redis.call('SET',KEYS[1],ARGV[3],'PX',ARGV[4]) return 1 end return 0";

/// Version and epoch, as they are in the upstream.
#[derive(PartialEq)]
struct TierStamp {
    version: Box<[u8]>,
    epoch: Box<[u8]>,
}

impl Worker {
    /// The value of a key that the upstream has not, where a tier has it.
    pub(super) async fn in_tiers(self: &Rc<Self>, sought: &SeekRequest, reach: &Reach) -> Option<Vec<u8>> {
        let (beyond, tiers) = self.below()?;
        let key = &sought.of.key;
        let is_asked = |nth: &u8| tiers.nth(*nth).is_some_and(|tier| tier.is_asked(sought.db, key));
        if self.amends.any() {
            return None;
        }
        if !reach.tiers.iter().any(is_asked) {
            skip(reach.tiers.iter().filter_map(|&nth| tiers.nth(nth)));
            return None;
        }
        let stamp = self.tier_stamp(beyond, key, sought.db).await?;
        for &nth in &reach.tiers {
            let Some(tier) = tiers.nth(nth) else { continue };
            let Some((copy, left)) = tier.get(sought.db, key).await else { continue };
            if (&copy.version, &copy.epoch) != (&stamp.version, &stamp.epoch) {
                tier.stats.count(TierOutcome::Stale);
                continue;
            }
            if !self.is_as_read(sought) {
                return None; // the session's own next command may have written it
            }
            tier.stats.count(TierOutcome::Hit);
            if tier.rule.copy_up > 0 && rand::rng().random_ratio(1, tier.rule.copy_up) {
                let value = copy.value.clone();
                self.spawn_copy_up(sought, (reach, nth), (copy, left));
                return Some(value);
            }
            return Some(copy.value);
        }
        None
    }

    /// What each tier has of a key, for people: nothing where it has none.
    pub(crate) async fn told_of_tiers(&self, key: &[u8], who: &Who) -> String {
        let Some((beyond, tiers)) = self.below() else { return String::new() };
        let Some(reach) = beyond.reach(key) else { return String::new() };
        if !self.may_read(key, who).await {
            return String::new(); // and is told nothing of it
        }
        let db = who.db;
        let stamp = self.tier_stamp(beyond, key, db).await;
        let now = seconds_since_1970();
        let mut told = Vec::new();
        for tier in reach.tiers.iter().filter_map(|&nth| tiers.nth(nth)) {
            let name = &tier.rule.name;
            if !tier.is_asked(db, key) {
                told.push(format!("{name}: left alone"));
                continue;
            }
            told.push(match tier.look(db, key).await {
                None => format!("{name}: no answer"),
                Some(None) => format!("{name}: nothing"),
                Some(Some((copy, left))) => {
                    let counts =
                        stamp.as_ref().is_some_and(|now| (&now.version, &now.epoch) == (&copy.version, &copy.epoch));
                    let standing = if counts { "newest" } else { "older than the last write" };
                    let left = left.map_or_else(|| "-1".to_owned(), |left| left.as_millis().to_string());
                    format!("{name}: {standing}, {}s old, {left}ms left", now.saturating_sub(copy.made))
                }
            });
        }
        told.join("; ")
    }

    /// Whether this user may read a key.
    pub(super) async fn may_read(&self, key: &[u8], who: &Who) -> bool {
        let reply = self.ask_as(who, key, &own(&[b"GET", key]), false).await;
        reply.is_some_and(|reply| !reply.starts_with(b"-"))
    }

    /// Version and epoch of a key; none where one of them is not there.
    async fn tier_stamp(&self, beyond: &Beyond, key: &[u8], db: u32) -> Option<TierStamp> {
        let mut question = Vec::new();
        encode::own_command(&mut question, &[b"MGET", &beyond.beside(KeptKind::Version, key), &beyond.epoch(key)]);
        let reply = self.ask_beside((key, db), &question, false).await?;
        let mut both = Elements::of(&reply)?.map(|element| element.ok().and_then(text_of).map(Box::from));
        let stamp = TierStamp { version: both.next()??, epoch: both.next()?? };
        Beyond::counts(&stamp.version).then_some(stamp)
    }

    /// Puts a value that a tier has into the upstream, and into the tiers above that one.
    fn spawn_copy_up(
        self: &Rc<Self>,
        sought: &SeekRequest,
        (reach, nth): (&Reach, u8),
        (copy, left): (TierCopy, Option<Duration>),
    ) {
        let (worker, stop) = (Rc::clone(self), self.seeks.stop.clone());
        let (key, db): (Box<[u8]>, _) = (sought.of.key.clone(), sought.db);
        let above: Vec<u8> = reach.tiers.iter().copied().take_while(|&above| above != nth).collect();
        self.tasks.spawn_local(async move {
            let copied = async {
                let (beyond, tiers) = worker.below()?;
                let tier = tiers.nth(nth)?;
                // So long it would live yet: then it is copied down again for as long as it is to stay here.
                let left = left.map_or(tier.rule.max_stay, |left| scaled(left, 1.0 / tier.rule.ttl_scale));
                let stay = left.as_millis().to_string();
                let (version, epoch) = (beyond.beside(KeptKind::Version, &key), beyond.epoch(&key));
                let mut command = Vec::new();
                let words: [&[u8]; 10] = [
                    b"EVAL",
                    COPY_UP,
                    b"3",
                    &key,
                    &version,
                    &epoch,
                    &copy.version,
                    &copy.epoch,
                    &copy.value,
                    stay.as_bytes(),
                ];
                encode::own_command(&mut command, &words);
                let reply = worker.ask_beside((&key, db), &command, true).await?;
                let is_up = integer_of(&reply) == Some(1);
                if is_up {
                    tier.stats.count(TierOutcome::CopiedUp);
                }
                for above in above.into_iter().filter(|_| is_up) {
                    tiers.nth(above)?.put(db, &key, &copy, Some(left)).await;
                }
                Some(())
            };
            let _ = stop.run_until_cancelled(copied).await; // it is done another time
        });
    }

    /// A value has been filled or, where it `is_new`, written: it is copied down before long. One that was filled may be there already, and
    /// stays as it is then, for it began with all of its time.
    pub(super) fn copy_down(self: &Rc<Self>, key: &[u8], db: u32, is_new: bool) {
        let Some((beyond, _)) = self.below() else { return };
        if beyond.reach(key).is_none_or(|reach| reach.tiers.is_empty()) {
            return;
        }
        let queue = &self.copies;
        if queue.waiting.borrow().len() >= WAITING || !queue.known.borrow_mut().insert((db, key.into())) {
            return;
        }
        queue.waiting.borrow_mut().push_back((db, key.into(), is_new));
        if !queue.is_served.replace(true) {
            let (worker, stop) = (Rc::clone(self), self.seeks.stop.clone());
            self.tasks.spawn_local(async move {
                let _ = stop.run_until_cancelled(worker.serve_copies()).await; // what is left is copied another time
                worker.copies.is_served.set(false);
            });
        }
    }

    async fn serve_copies(self: &Rc<Self>) {
        let mut tasks = JoinSet::new();
        loop {
            let next = self.copies.waiting.borrow_mut().pop_front();
            match next {
                Some((db, key, is_new)) => {
                    self.copies.known.borrow_mut().remove(&(db, key.clone()));
                    let worker = Rc::clone(self);
                    tasks.spawn_local(async move { worker.copy_one(&key, db, is_new).await.unwrap_or_default() });
                    if tasks.len() >= AT_ONCE {
                        let _ = tasks.join_next().await;
                    }
                }
                None if tasks.is_empty() => return,
                None => _ = tasks.join_next().await,
            }
        }
    }

    /// Copies a value to all its tiers.
    async fn copy_one(self: &Rc<Self>, key: &[u8], db: u32, is_new: bool) -> Option<()> {
        let (beyond, tiers) = self.below()?;
        let reach = beyond.reach(key)?;
        let all = reach.tiers.iter().filter_map(|&nth| tiers.nth(nth));
        let (all, others): (Vec<&Tier>, Vec<&Tier>) = all.partition(|tier| tier.is_asked(db, key));
        skip(others);
        let most = all.iter().map(|tier| tier.rule.max_value).max()?;
        let stamp = self.made_stamp(beyond, key, db).await?;
        let at = (key, db);
        let length = integer_of(&self.ask_beside(at, &own(&[b"STRLEN", key]), false).await?)?;
        if u64::try_from(length).ok()? > most {
            for tier in all {
                tier.stats.count(TierOutcome::TooLarge);
            }
            return None;
        }
        let left = integer_of(&self.ask_beside(at, &own(&[b"PTTL", key]), false).await?)?;
        let value = self.ask_beside(at, &own(&[b"GET", key]), false).await?;
        let made = seconds_since_1970();
        let copy = TierCopy { version: stamp.version, epoch: stamp.epoch, made, value: text_of(&value)?.to_vec() };
        let left = match left {
            -1 => None,
            left => Some(Duration::from_millis(u64::try_from(left).ok()?)),
        };
        for tier in all {
            // The value too: who writes past the fleet sets no version.
            let has = |known: &TierCopy| TierCopy { made, ..known.clone() } == copy;
            if is_new || !tier.look(db, key).await.flatten().is_some_and(|(known, _)| has(&known)) {
                tier.put(db, key, &copy, left).await;
            }
        }
        Some(())
    }

    /// The same, where what is not there is made: a number that no copy has.
    async fn made_stamp(&self, beyond: &Beyond, key: &[u8], db: u32) -> Option<TierStamp> {
        if let Some(stamp) = self.tier_stamp(beyond, key, db).await {
            return Some(stamp);
        }
        let number = || format!("{:016x}", rand::random::<u64>());
        let (version, epoch) = (beyond.beside(KeptKind::Version, key), beyond.epoch(key));
        let life = beyond.life().as_bytes();
        let make = [
            own(&[b"SET", &version, number().as_bytes(), b"NX", b"PX", life]),
            own(&[b"SET", &epoch, number().as_bytes(), b"NX"]),
        ];
        for command in make {
            self.ask_beside((key, db), &command, false).await?;
        }
        self.tier_stamp(beyond, key, db).await
    }

    /// The upstream was emptied.
    pub(super) fn flush_tiers(self: &Rc<Self>) {
        let (worker, stop) = (Rc::clone(self), self.seeks.stop.clone());
        self.tasks.spawn_local(async move {
            if let Some(tiers) = &worker.shared.tiers {
                let _ = stop.run_until_cancelled(tiers.flush()).await; // copies that are left count no more
            }
        });
    }

    fn below(&self) -> Option<(&Beyond, &Tiers)> {
        Some((self.shared.l1.terms.beyond.as_deref()?, self.shared.tiers.as_deref()?))
    }

    /// Whether no write of this process to the key has begun since the read was sent.
    fn is_as_read(&self, sought: &SeekRequest) -> bool {
        let SoughtKey { slot, stamp, .. } = sought.of;
        stamp.quiet() && self.shared.l1.memory.stamps.load(slot) == stamp
    }
}

/// By the clock of this machine, which people are shown and nothing goes by.
#[expect(clippy::disallowed_methods, reason = "it is shown, and compared with nothing")]
fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn skip<'a>(tiers: impl IntoIterator<Item = &'a Tier>) {
    tiers.into_iter().for_each(|tier| tier.stats.count(TierOutcome::Skipped));
}

fn own(words: &[&[u8]]) -> Vec<u8> {
    let mut command = Vec::new();
    encode::own_command(&mut command, words);
    command
}
