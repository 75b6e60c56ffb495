//! What a write tells the fleet where the channel carries coherence: a message that goes to Redis in one step with the write.
//!
//! Redis does both or neither, with nothing in between, and appends the message to what every subscriber is sent at that very
//! moment. So an ear that reads on the connection on which it is subscribed hears of the write after all that it read before
//! it. `proxy` puts the two together; here is only what is said. Unlike `publish`, which tells applications once a write
//! is done, it says nothing that multi-tier-cache understands, for that deletes in Redis what it hears removed.

use super::message::{Bytes, Envelope, MAX_PAYLOAD, Message};
use crate::command::{Effect, Spec};
use crate::resp::{Request, encode};

/// Where notices go, and from whom.
#[derive(Debug)]
pub struct Notices {
    channel: String,
    origin_id: String,
}

/// What one write changes, as far as it names that.
#[derive(Clone, Debug, Default)]
pub struct Notice {
    keys: Vec<Vec<u8>>,
    bytes: usize,
    /// It may change keys that it does not name.
    all: bool,
}

impl Notices {
    /// On this channel, in the name of this process.
    pub fn new(channel: String, origin_id: String) -> Self {
        Self { channel, origin_id }
    }

    /// The channel's name.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// This process's name.
    pub fn origin_id(&self) -> &str {
        &self.origin_id
    }

    /// Appends the command that gives a notice.
    pub fn write(&self, notice: &Notice, out: &mut Vec<u8>) {
        let payload = |message| Envelope { origin_id: Some(self.origin_id.clone()), message }.encode();
        let mut said = payload(notice.message());
        if said.len() > MAX_PAYLOAD {
            said = payload(Message::ForgetAll);
        }
        encode::own_command(out, &[b"PUBLISH", self.channel.as_bytes(), &said]);
    }
}

impl Notice {
    /// This write belongs to it.
    pub fn add(&mut self, spec: &Spec, request: Request<'_>) {
        self.all |= spec.effect == Effect::Opaque;
        for key in spec.keys(request) {
            self.bytes += key.len();
            self.all |= self.bytes > MAX_PAYLOAD; // more than a message may hold
            if self.all {
                return self.keys.clear();
            }
            self.keys.push(key.to_vec());
        }
    }

    /// Two writes that one step does.
    pub(super) fn join(&mut self, other: Self) {
        self.keys.extend(other.keys);
        self.bytes += other.bytes;
        self.all |= other.all || self.bytes > MAX_PAYLOAD;
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.all
    }

    fn message(&self) -> Message {
        if self.all {
            return Message::ForgetAll;
        }
        let (mut keys, mut hex) = (Vec::new(), Vec::new());
        for key in &self.keys {
            match std::str::from_utf8(key) {
                Ok(key) => keys.push(key.to_owned()),
                Err(_) => hex.push(Bytes(key.clone())),
            }
        }
        Message::Forget { keys, hex }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;
    use crate::resp::Span;

    fn notice(words: &[&[u8]]) -> Notice {
        let mut raw = Vec::new();
        encode::command(&mut raw, words);
        let mut spans: Vec<Span> = Vec::new();
        let request = Request::parse_canonical(&raw, &mut spans).expect("canonical");
        let mut notice = Notice::default();
        notice.add(lookup(request).expect("a row"), request);
        notice
    }

    #[test]
    fn every_key_has_a_name_and_what_names_none_is_everything() {
        let named = notice(&[b"MSET", b"a", b"1", b"\xff", b"2"]).message();
        assert_eq!(named, Message::Forget { keys: vec!["a".into()], hex: vec![Bytes(vec![0xff])] });
        for opaque in [&[&b"FLUSHALL"[..]][..], &[b"EVAL", b"return 1", b"1", b"a"], &[b"SWAPDB", b"0", b"1"]] {
            assert_eq!(notice(opaque).message(), Message::ForgetAll);
        }
        assert!(notice(&[b"SET"]).is_empty());
    }

    #[test]
    fn what_is_too_long_to_be_told_key_by_key_is_everything() {
        let notices = Notices::new("c".into(), "me".into());
        let long = |len: usize, byte: u8| notice(&[b"SET", &vec![byte; len], b"v"]);
        for (notice, all) in
            [(long(MAX_PAYLOAD + 1, b'k'), true), (long(MAX_PAYLOAD / 2, 1), true), (long(1000, 1), false)]
        {
            let mut out = Vec::new();
            notices.write(&notice, &mut out);
            assert_eq!(out.windows(9).any(|at| at == b"ForgetAll"), all);
        }
    }
}
