//! What a message of the fleet's channel makes L1 forget, whoever hears it: `channel`, or the ears where the channel carries
//! coherence.
//!
//! Holds contract point 5 (nothing old stays).

use super::message::{MalformedMessage, Message};
use crate::metrics::ChannelMessage;

/// What forgets. Calls come one after the other; none may block, and none can fail.
pub(crate) trait Forget {
    /// Forgets whatever is held under this key, in every database and for every user: messages name neither.
    fn key(&self, key: &[u8]);
    /// Forgets at least the keys that the glob matches, be it read as Redis reads globs or as multi-tier-cache does,
    /// for whom `*` alone is special. Forgetting more is always right.
    fn pattern(&self, pattern: &[u8]);
    /// Forgets everything.
    fn all(&self);
    /// Messages of the stream, which cannot have been about more than keys, may have been missed: forgets everything.
    fn missed(&self) {
        self.all();
    }
}

/// What became of one payload.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Heard {
    /// One key forgotten.
    Remove,
    /// Several keys forgotten.
    RemoveBulk,
    /// The keys of a pattern forgotten.
    RemovePattern,
    /// Everything forgotten.
    ForgetAll,
    /// The keys of a write forgotten.
    Forget,
    /// One key forgotten, whose new value is read from Redis when it is next asked for.
    Update,
    /// Skipped: this process said it.
    OwnEcho,
    /// Skipped: not JSON, or not the fields that its type asks for.
    Malformed,
    /// Skipped: longer than [`MAX_PAYLOAD`](super::message::MAX_PAYLOAD).
    TooLarge,
    /// Skipped: a type that this version does not know.
    UnknownType,
}

impl Heard {
    /// What a payload that was not understood counts as.
    pub(super) fn nothing(why: &MalformedMessage) -> Self {
        match why {
            MalformedMessage::TooLarge(_) => Heard::TooLarge,
            MalformedMessage::UnknownType(_) => Heard::UnknownType,
            MalformedMessage::Json(_) => Heard::Malformed,
        }
    }
}

impl From<Heard> for ChannelMessage {
    fn from(heard: Heard) -> Self {
        match heard {
            Heard::Remove => ChannelMessage::Remove,
            Heard::RemoveBulk => ChannelMessage::RemoveBulk,
            Heard::RemovePattern => ChannelMessage::RemovePattern,
            Heard::ForgetAll => ChannelMessage::ForgetAll,
            Heard::Forget => ChannelMessage::Forget,
            Heard::Update => ChannelMessage::Update,
            Heard::OwnEcho => ChannelMessage::Own,
            Heard::Malformed => ChannelMessage::Malformed,
            Heard::TooLarge => ChannelMessage::TooLarge,
            Heard::UnknownType => ChannelMessage::Unknown,
        }
    }
}

/// Forgets what a message names.
pub(super) fn obey(message: Message, sink: &(impl Forget + ?Sized)) -> Heard {
    match message {
        Message::Remove { key } => {
            sink.key(key.as_bytes());
            Heard::Remove
        }
        Message::Update { key, .. } => {
            sink.key(key.as_bytes());
            Heard::Update
        }
        Message::RemoveBulk { keys } => {
            for key in &keys {
                sink.key(key.as_bytes());
            }
            Heard::RemoveBulk
        }
        Message::Forget { keys, hex } => {
            for key in keys.iter().map(String::as_bytes).chain(hex.iter().map(|key| key.0.as_slice())) {
                sink.key(key);
            }
            Heard::Forget
        }
        Message::ForgetAll => {
            sink.all();
            Heard::ForgetAll
        }
        Message::RemovePattern { pattern } => {
            if !pattern.is_empty() && pattern.bytes().all(|byte| byte == b'*') {
                sink.all();
            } else {
                sink.pattern(pattern.as_bytes());
            }
            Heard::RemovePattern
        }
    }
}
