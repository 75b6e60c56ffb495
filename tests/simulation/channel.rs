//! The fleet's channel, as `invalidation::channel` listens to it: where the server does not count swaps, another process tells of its
//! own there.

use super::link::Owner;
use super::process::{request, time};
use super::world::{Event, Waiting, World};
use super::{MS, STALENESS, USERS};

/// The link to it.
#[derive(Default)]
pub(crate) struct Channel {
    pub(crate) link: usize,
    input: Vec<u8>,
    /// When it was asked what it has not answered.
    asked: Option<u64>,
}

impl World<'_> {
    pub(crate) fn connect_channel(&mut self) {
        let link = self.open(Owner::Channel, (0, 0));
        self.channel = Channel { link, input: Vec::new(), asked: Some(self.now) };
        self.send(link, request(&["SUBSCRIBE", "c"]));
        self.at(self.now + STALENESS / 4, Event::ChannelAsks(link));
    }

    /// It is asked whether it lives, or given up.
    pub(crate) fn ask_channel(&mut self, link: usize) {
        if link != self.channel.link || !self.links[link].is_open() {
            return;
        }
        match self.channel.asked {
            Some(asked) if self.now > asked + 4 * STALENESS => return self.lose(link),
            Some(_) => {}
            None => {
                self.channel.asked = Some(self.now);
                self.send(link, request(&["PING"]));
            }
        }
        self.at(self.now + STALENESS / 4, Event::ChannelAsks(link));
    }

    pub(crate) fn channel_receives(&mut self, bytes: &[u8]) {
        self.channel.input.extend_from_slice(bytes);
        while let Some(end) = self.channel.input.windows(2).position(|at| at == b"\r\n") {
            let line: Vec<u8> = self.channel.input.drain(..end + 2).collect();
            match &line[..end] {
                b"+forget" => self.memory.users.iter().for_each(|user| user.freshness.bump()),
                b"+subscribed" => {
                    self.forget_all();
                    self.hear_channel();
                }
                b"+PONG" => self.hear_channel(),
                odd => panic!("the channel says {}", odd.escape_ascii()),
            }
        }
    }

    /// As `L1::answered`.
    fn hear_channel(&mut self) {
        let Some(sent) = self.channel.asked.take() else { return };
        let before = self.memory.silence.hear_channel(time(sent));
        if before < time(self.now.saturating_sub(STALENESS)) {
            for user in 0..USERS {
                if self.memory.users[user].has_filled.get() {
                    self.fence(user, Waiting::Nobody, None);
                }
            }
        }
    }

    pub(crate) fn channel_lost(&mut self) {
        let wait = self.dice.between(MS, 60 * MS);
        self.at(self.now + wait, Event::ChannelConnects);
    }

    /// Another process swaps databases, and tells of it. It is the worse if that is late.
    pub(crate) fn swap_elsewhere(&mut self) {
        let link = self.channel.link;
        if self.dice.chance(500) && self.links[link].is_open() {
            let freezes = self.now + self.dice.between(STALENESS / 2, 3 * STALENESS);
            self.links[link].down.frozen_until = freezes;
        }
        self.unannounced = self.now;
        let mut out = Vec::new();
        self.server.write_past(0, &["SWAPDB", "0", "1"], self.now, &mut self.judge, &mut out);
        self.server.publish(&mut out);
        self.deliver_out(out);
    }
}
