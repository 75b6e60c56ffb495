//! By what means L1 hears of changes, and what writes have to say: one mode, chosen at start.
//!
//! All that differs between the modes is asked here, by the ears, by `proxy` where it writes, and by `app`.

use super::message::MAX_PAYLOAD;
use super::notice::Notices;
use crate::metrics::Refusal;

/// Bytes that fills may bring where the ear has subscribed: Redis keeps no more than 32 MiB for a subscriber, by its default.
const SUBSCRIBER: u64 = 16 << 20;

/// See the module's head.
#[derive(Debug)]
pub enum CoherenceMode {
    /// Redis tells of changes to what was read.
    Tracking,
    /// Redis tells of changes to all keys with these prefixes; none: to all keys.
    Broadcast(Vec<Box<[u8]>>),
    /// Those who write tell of it, with notices on the fleet's channel.
    Channel(Notices),
}

impl CoherenceMode {
    /// How a write tells the fleet of itself; none where Redis tells.
    pub fn notices(&self) -> Option<&Notices> {
        match self {
            Self::Channel(notices) => Some(notices),
            Self::Tracking | Self::Broadcast(_) => None,
        }
    }

    /// Whether writes tell of themselves: the keys of each must be known before a byte of it is sent, and the ears listen to the
    /// fleet's channel.
    pub fn writes_tell(&self) -> bool {
        self.notices().is_some()
    }

    /// Whether somebody tells of changes to this key: no other may be kept.
    pub fn covers(&self, key: &[u8]) -> bool {
        match self {
            Self::Broadcast(prefixes) => prefixes.is_empty() || prefixes.iter().any(|prefix| key.starts_with(prefix)),
            Self::Tracking | Self::Channel(_) => true,
        }
    }

    /// The command by which an ear has itself told: by Redis of changes to what is read there, in broadcast mode to all keys with
    /// certain prefixes; or by those who write, on that same connection, which in RESP3 can read besides.
    pub(super) fn announcements(&self) -> Vec<&[u8]> {
        let tracking: [&[u8]; 3] = [b"CLIENT", b"TRACKING", b"ON"];
        match self {
            Self::Tracking => tracking.to_vec(),
            Self::Broadcast(prefixes) => {
                let prefixes = prefixes.iter().flat_map(|prefix| [&b"PREFIX"[..], prefix]);
                tracking.into_iter().chain([&b"BCAST"[..]]).chain(prefixes).collect()
            }
            Self::Channel(notices) => vec![b"SUBSCRIBE", notices.channel().as_bytes()],
        }
    }

    /// What a user lacks where Redis refuses that command.
    pub(super) fn refusal(&self) -> Refusal {
        if self.writes_tell() { Refusal::Subscribe } else { Refusal::Tracking }
    }

    /// Whether Redis tells of changes at the end of a turn of its event loop, and may answer others before.
    pub(super) fn tells_in_turns(&self) -> bool {
        matches!(self, Self::Broadcast(_))
    }

    /// The largest frame that the ear must read, in bytes, where values of `max_value` are kept; and how many bytes fills may bring
    /// at once.
    pub(super) fn ear_limits(&self, max_value: u64) -> (u64, u64) {
        if self.writes_tell() { (max_value.max(MAX_PAYLOAD as u64), SUBSCRIBER) } else { (max_value, u64::MAX) }
    }

    /// Whether this process is who said that on the channel.
    pub(super) fn is_own(&self, origin_id: Option<&str>) -> bool {
        self.notices().is_some_and(|notices| origin_id == Some(notices.origin_id()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modes() -> [CoherenceMode; 4] {
        let broadcast = |prefixes: &[&str]| {
            CoherenceMode::Broadcast(prefixes.iter().map(|prefix| prefix.as_bytes().into()).collect())
        };
        let channel = CoherenceMode::Channel(Notices::new("c".into(), "me".into()));
        [CoherenceMode::Tracking, broadcast(&[]), broadcast(&["a:", "b:"]), channel]
    }

    #[test]
    fn each_mode_has_itself_told_in_its_own_way() {
        let said = modes().map(|mode| mode.announcements().join(&b' '));
        let tracking = &b"CLIENT TRACKING ON"[..];
        let prefixes = &b"CLIENT TRACKING ON BCAST PREFIX a: PREFIX b:"[..];
        assert_eq!(said, [tracking, b"CLIENT TRACKING ON BCAST", prefixes, b"SUBSCRIBE c"]);
        let lacks = modes().map(|mode| mode.refusal());
        assert_eq!(lacks, [Refusal::Tracking, Refusal::Tracking, Refusal::Tracking, Refusal::Subscribe]);
        assert_eq!(modes().map(|mode| mode.tells_in_turns()), [false, true, true, false]);
    }

    #[test]
    fn only_what_somebody_tells_of_is_kept() {
        assert_eq!(modes().map(|mode| mode.covers(b"b:1")), [true; 4]);
        assert_eq!(modes().map(|mode| mode.covers(b"c:1")), [true, true, false, true]);
    }

    #[test]
    fn where_writes_tell_the_ear_reads_messages_and_knows_its_own() {
        assert_eq!(modes().map(|mode| mode.writes_tell()), [false, false, false, true]);
        assert_eq!(modes().map(|mode| mode.is_own(Some("me"))), [false, false, false, true]);
        assert!(!modes().iter().any(|mode| mode.is_own(Some("another")) || mode.is_own(None)));
        let [tracking, .., channel] = modes();
        assert_eq!(tracking.ear_limits(1), (1, u64::MAX));
        assert_eq!(channel.ear_limits(1), (MAX_PAYLOAD as u64, SUBSCRIBER));
        assert_eq!(channel.ear_limits(1 << 30).0, 1 << 30);
    }
}
