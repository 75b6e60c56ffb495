//! The server's side of a schedule: what reaches it, who writes past the process, and what goes wrong.

use super::link::Owner;
use super::process::NAMES;
use super::redis::{Openings, Out};
use super::world::{Ambush, CALM, Event, World};
use super::{MS, STALENESS};

impl World<'_> {
    pub(crate) fn up(&mut self, link: usize) {
        // A swap that is carried out later than that behind the loss of its connection is told by the count alone, or by nothing. That
        // Redis does so no more is seen to by `CLIENT KILL`, where a lane is given up that was only silent.
        let told = !self.swaps || self.server.counts_swaps;
        if !told && self.links[link].lost.is_some_and(|lost| self.now >= lost + STALENESS) {
            self.links[link].up.clear();
        }
        let (bytes, more) = self.links[link].up.arrive(&mut self.dice, self.now);
        if let Some(more) = more {
            self.expect_up(link, more);
        }
        if !bytes.is_empty() {
            self.trace(&bytes, || format!("link {link} up"));
            let mut out = Vec::new();
            self.server.openings = Openings::default();
            self.server.receive(link, &bytes, self.now, &mut self.judge, &mut out);
            self.deliver_out(out);
            if let Some(ambush) = self.ambush
                && self.ears.iter().any(|ear| ear.protocol.is_some())
            {
                self.spring(ambush, link);
            }
            self.watch_expiry();
        }
        if !self.links[link].is_open() && self.links[link].up.is_empty() {
            self.server.disconnect(link);
        }
    }

    pub(crate) fn deliver_out(&mut self, out: Out) {
        for (to, bytes) in out {
            if !self.links[to].is_open() {
                continue;
            }
            let late = if matches!(self.links[to].owner, Owner::Ear(_)) { self.ear_late } else { self.lanes_late };
            let delay = self.links[to].delay(&mut self.dice) + late;
            let when = self.links[to].down.send(bytes, delay, self.now);
            self.expect_down(to, when);
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
        let key = NAMES[key];
        let mut out = Vec::new();
        let life = self.dice.between(1, 60).to_string();
        let words: &[&str] = match self.dice.below(100) {
            0..60 => &["SET", key, &value],
            60..80 => &["SET", key, &value, "PX", &life],
            80..95 => &["DEL", key],
            95..98 => &["FLUSHALL"],
            _ if self.swaps && self.server.counts_swaps => {
                self.happens_untold();
                &["SWAPDB", "0", "1"]
            }
            _ if self.swaps => {
                self.swap_elsewhere();
                &["DEL", key]
            }
            _ => &["DEL", key],
        };
        if !self.server.is_master {
            self.unannounced = self.now;
        }
        self.server.write_past(db, words, self.now, &mut self.judge, &mut out);
        self.deliver_out(out);
        self.watch_expiry();
        self.soon(if self.calm { 150 * MS } else { 50 * MS }, Event::Past);
    }

    /// Something happens of which Redis tells nobody. It is the worse if the ear hears nothing for longer than a lease lasts.
    fn happens_untold(&mut self) {
        self.unannounced = self.now;
        if self.dice.chance(500) {
            let span = self.dice.between(STALENESS / 2, 3 * STALENESS);
            self.soon(STALENESS / 4, Event::EarFreezes(span));
        }
    }

    // What goes wrong.

    pub(crate) fn trouble(&mut self) {
        if self.now >= CALM {
            self.links.iter_mut().for_each(|link| (link.up.frozen_until, link.down.frozen_until) = (0, 0));
            self.server.refuses_select = false;
            for link in 0..self.links.len() {
                self.expect_up(link, self.now);
                self.expect_down(link, self.now);
            }
            return;
        }
        let most = if self.dice.chance(100) { 4 * STALENESS } else { STALENESS };
        let span = self.dice.between(MS, most);
        match self.dice.below(100) {
            45..65 => {
                let ear = self.dice.chance(if self.stormy { 800 } else { 300 });
                if let Some(link) = self.some_ear().filter(|_| ear).or_else(|| self.some_link()) {
                    self.lose(link);
                }
            }
            65..75 => self.stopped_until = self.now + span,
            75..83 => self.server.refuses_select = !self.server.refuses_select,
            83..90 if self.swaps => {
                let forward = self.dice.chance(700);
                if forward {
                    self.happens_untold();
                }
                self.server.step_clock(forward, 20_000 * MS, self.now, &mut self.judge);
                self.watch_expiry();
            }
            90..95 if self.server.is_master => {
                self.server.is_master = false;
                let back = self.now + STALENESS * 2 + span;
                self.at(back, Event::MasterAgain);
            }
            95..100 => self.ambush = Some(self.an_ambush()),
            _ => self.freeze(span),
        }
        // Seldom alone.
        let gap = if self.dice.chance(300) {
            self.dice.between(MS, 15 * MS)
        } else {
            self.gap / 2 + self.dice.below(self.gap)
        };
        self.at(self.now + gap, Event::Trouble);
    }

    /// One direction of a link that is in use stands still.
    pub(crate) fn freeze(&mut self, span: u64) {
        let ear = self.dice.chance(400);
        let Some(link) = self.some_ear().filter(|_| ear).or_else(|| self.some_link()) else { return };
        let until = self.now + span;
        if self.dice.chance(500) {
            self.links[link].up.frozen_until = until;
            return;
        }
        self.links[link].down.frozen_until = until;
    }

    /// The worst that can follow on what the server has just done, where there is such.
    fn spring(&mut self, ambush: Ambush, link: usize) {
        let mut out = Vec::new();
        let Openings { untold_read, swaps_told } = self.server.openings;
        if let (Ambush::Read, Some((db, key))) = (ambush, untold_read) {
            // What was read is changed at once, and the answer is late: by then others have read what is newer, it has been in memory,
            // and is forgotten.
            self.links[link].down.frozen_until = self.now + STALENESS;
            let value = self.value();
            self.server.write_past(db, &["SET", NAMES[key], &value], self.now, &mut self.judge, &mut out);
            let breaks = self.now + self.dice.between(5 * MS, STALENESS / 2);
            self.at(breaks, Event::EarBreaks);
        } else if ambush == Ambush::Probe && swaps_told {
            // The next fence does not tell of it, and is the last that comes.
            self.unannounced = self.now;
            self.server.write_past(0, &["SWAPDB", "0", "1"], self.now, &mut self.judge, &mut out);
            let freezes = self.now + self.dice.between(MS, STALENESS / 6);
            self.at(freezes, Event::EarFreezes(2 * STALENESS));
        } else {
            return;
        }
        self.ambush = None;
        self.deliver_out(out);
        self.watch_expiry();
    }

    pub(crate) fn an_ambush(&mut self) -> Ambush {
        let probe = self.swaps && self.server.counts_swaps && self.dice.chance(850);
        if probe { Ambush::Probe } else { Ambush::Read }
    }

    pub(crate) fn some_ear(&mut self) -> Option<usize> {
        let ear = &self.ears[usize::from(self.dice.chance(300))];
        ear.protocol.is_some().then_some(ear.link)
    }

    pub(crate) fn some_link(&mut self) -> Option<usize> {
        let open: Vec<_> = (0..self.links.len()).filter(|&link| self.links[link].is_open()).collect();
        let at = self.dice.below(open.len() as u64) as usize;
        open.get(at).copied()
    }

    pub(crate) fn lose(&mut self, number: usize) {
        let link = &mut self.links[number];
        link.lost = Some(self.now);
        link.down.clear();
        // What is on its way may still arrive, long after.
        if self.dice.chance(500) {
            link.up.clear();
        }
        self.expect_up(number, self.now);
        match self.links[number].owner {
            Owner::Ear(user) => self.ear_lost(user),
            Owner::Lane(worker, who) => self.lane_lost(worker, who),
            Owner::Channel => self.channel_lost(),
        }
    }
}
