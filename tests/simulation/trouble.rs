//! The server's side of a schedule: what reaches it, who writes past the process, and what goes wrong.

use super::link::Owner;
use super::process::name;
use super::redis::Out;
use super::world::{CALM, Event, World};
use super::{MS, STALENESS};

impl World<'_> {
    pub(crate) fn up(&mut self, link: usize) {
        let (bytes, more) = self.links[link].up.arrive(&mut self.dice, self.now);
        if let Some(more) = more {
            self.at(more, Event::Up(link));
        }
        if !bytes.is_empty() {
            self.trace(&bytes, || format!("link {link} up"));
            let mut out = Vec::new();
            self.server.receive(link, &bytes, self.now, &mut self.judge, &mut out);
            self.deliver_out(out);
            self.watch_expiry();
        }
        if !self.links[link].is_open && self.links[link].up.is_empty() {
            self.server.disconnect(link);
        }
    }

    pub(crate) fn deliver_out(&mut self, out: Out) {
        for (to, bytes) in out {
            if !self.links[to].is_open {
                continue;
            }
            let late = if self.links[to].owner == Owner::Ear { self.ear_late } else { self.lanes_late };
            let delay = self.links[to].delay(&mut self.dice) + late;
            let when = self.links[to].down.send(bytes, delay, self.now);
            self.at(when, Event::Down(to));
        }
    }

    pub(crate) fn watch_expiry(&mut self) {
        let Some(next) = self.server.next_expiry() else { return };
        if next < self.expiry {
            self.expiry = next;
            self.at(next.max(self.now), Event::Expiry);
        }
    }

    pub(crate) fn value(&mut self) -> String {
        self.values += 1;
        self.values.to_string()
    }

    pub(crate) fn write_past(&mut self) {
        if self.now >= CALM {
            return;
        }
        let (db, key, value) = (self.a_database(), self.a_key(), self.value());
        let key = name(key);
        let mut out = Vec::new();
        let life = self.dice.between(1, 60).to_string();
        let words: &[&str] = match self.dice.below(100) {
            0..60 => &["SET", &key, &value],
            60..80 => &["SET", &key, &value, "PX", &life],
            80..95 => &["DEL", &key],
            95..98 => &["FLUSHALL"],
            _ if self.swaps && self.server.counts_swaps => {
                self.unannounced = self.now;
                &["SWAPDB", "0", "1"]
            }
            _ => &["DEL", &key],
        };
        if !self.server.is_master {
            self.unannounced = self.now;
        }
        self.server.write_past(db, words, self.now, &mut self.judge, &mut out);
        self.deliver_out(out);
        self.watch_expiry();
        self.soon(50 * MS, Event::Past);
    }

    // What goes wrong.

    pub(crate) fn trouble(&mut self) {
        if self.now >= CALM {
            self.links.iter_mut().for_each(|link| (link.up.frozen_until, link.down.frozen_until) = (0, 0));
            self.server.refuses_select = false;
            for link in 0..self.links.len() {
                self.at(self.now, Event::Up(link));
                self.at(self.now, Event::Down(link));
            }
            return;
        }
        let most = if self.dice.chance(100) { 4 * STALENESS } else { STALENESS };
        let span = self.dice.between(MS, most);
        match self.dice.below(100) {
            45..65 => {
                let ear = self.protocol.is_some() && self.dice.chance(if self.stormy { 800 } else { 300 });
                if let Some(link) = if ear { Some(self.ear_link) } else { self.some_link() } {
                    self.lose(link);
                }
            }
            65..75 => self.stopped_until = self.now + span,
            75..83 => self.server.refuses_select = !self.server.refuses_select,
            83..90 if self.swaps => {
                let forward = self.dice.chance(700);
                if forward {
                    self.unannounced = self.now;
                }
                self.server.step_clock(forward, 20_000 * MS, self.now, &mut self.judge);
                self.watch_expiry();
            }
            90..95 if self.server.is_master => {
                self.server.is_master = false;
                let back = self.now + STALENESS * 2 + span;
                self.at(back, Event::MasterAgain);
            }
            _ => self.freeze(span),
        }
        let gap = self.gap / 2 + self.dice.below(self.gap);
        self.at(self.now + gap, Event::Trouble);
    }

    /// One direction of a link that is in use stands still.
    pub(crate) fn freeze(&mut self, span: u64) {
        let ear = self.protocol.is_some() && self.dice.chance(400);
        let Some(link) = (if ear { Some(self.ear_link) } else { self.some_link() }) else { return };
        let until = self.now + span;
        if self.dice.chance(500) {
            self.links[link].up.frozen_until = until;
            self.at(until, Event::Up(link));
        } else {
            self.links[link].down.frozen_until = until;
            self.at(until, Event::Down(link));
        }
    }

    pub(crate) fn some_link(&mut self) -> Option<usize> {
        let open: Vec<_> = (0..self.links.len()).filter(|&link| self.links[link].is_open).collect();
        let at = self.dice.below(open.len() as u64) as usize;
        open.get(at).copied()
    }

    pub(crate) fn lose(&mut self, number: usize) {
        let link = &mut self.links[number];
        link.is_open = false;
        link.down.clear();
        // What is on its way may still arrive, long after.
        if self.dice.chance(500) {
            link.up.clear();
        }
        self.at(self.now, Event::Up(number));
        match self.links[number].owner {
            Owner::Ear => self.ear_lost(),
            Owner::Lane(worker, db) => self.lane_lost(worker, db),
        }
    }
}
