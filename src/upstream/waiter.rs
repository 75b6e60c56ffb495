//! What a lane knows of those who use it: who awaits a reply, who has a private connection, and who sends elsewhere what could not be
//! done here.

use std::rc::Rc;
use std::task::{Context, Poll};

use crate::clock::Time;
use crate::error::{Error, Sent};

/// A whole reply.
#[derive(Clone, Copy, Debug)]
pub struct ReplyEnd {
    /// When its last bytes were read.
    pub at: Time,
    /// How many bytes it has; of several, the last.
    pub size: u64,
}

/// What a connection had to do while a reply was awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionTimes {
    /// When its command came to be the next to be answered.
    pub turn: Time,
    /// When the connection was made.
    pub made: Time,
    /// From when to when, last, it was read no further for a client that did not take what it got.
    pub held: (Time, Time),
}

/// What awaits one reply. What is called while a reply is taken in, all but [`lost`](Self::lost), must not use the lane.
pub trait Waiter: 'static {
    /// The next bytes of the reply, in order. `kind` is its type byte; with its last bytes, `end` says when they were read.
    fn piece(&mut self, kind: u8, bytes: &[u8], end: Option<Time>);

    /// The reply is whole. `command` gives what it answers, on a shared lane; `times` what it may have waited for.
    fn over<'a>(self, end: ReplyEnd, times: impl FnOnce() -> ConnectionTimes, command: impl Fn() -> &'a [u8]);

    /// Whether the next reply is for this waiter, too. Asked when one is over, and before [`over`](Self::over), which is
    /// called for the last.
    fn awaits_more(&self) -> bool;

    /// Whether the reply, on a shared lane, was none: the command was not carried out here and is to go elsewhere. Asked when one is
    /// over; the waiter is then given to the [`Forwarder`] instead of being told that it is [`over`](Self::over).
    fn goes_elsewhere(&self) -> bool {
        false
    }

    /// Asked in the middle of a reply: ready once the receiver can take more bytes.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether it awaits confirmations of a (un)subscribe command.
    fn confirms(&self) -> bool;

    /// A whole such confirmation; whether it was the last.
    fn confirm(&mut self, bytes: &[u8]) -> bool;

    /// Whether the reply is for no client.
    fn is_own(&self) -> bool;

    /// Whether the reply may take as long as it likes: Redis was asked to wait.
    fn is_patient(&self) -> bool;

    /// Whether the command may change keys.
    fn writes(&self) -> bool;

    /// The connection is gone and this reply will not come. `command` is what was, or was to be, sent. Comes back where that is to be
    /// sent elsewhere, which it is of a shared lane.
    fn lost(self, error: &Error, sent: Sent, command: &[u8]) -> Option<Self>
    where
        Self: Sized;
}

/// Sends commands elsewhere that a lane was not answered.
pub(crate) trait Forwarder<W> {
    /// Takes `command` and what awaits its reply. No lane is in use then.
    fn forward(self: Rc<Self>, waiter: W, command: &[u8]);
}

/// Whoever a private connection is lent to: takes what Redis says unasked. Must not use the connection meanwhile.
pub(crate) trait OutOfBand {
    /// A whole push, message or raw piece, to be passed on after the replies before it.
    fn message(&self, bytes: &[u8]);
    /// A line of `MONITOR`.
    fn monitored(&self, line: &[u8]);
    /// Ready once the receiver can take more bytes.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()>;
    /// The node has taken most of what was sent, and takes more.
    fn taken(&self);
    /// Redis, or the way to it, has ended the connection: told before any waiter is.
    fn cut(&self);
    /// The connection has ended.
    fn ended(&self);
    /// Whether the receiver has begun nothing on the connection that a command of crema's own would be a part of.
    fn is_free(&self) -> bool;
}
