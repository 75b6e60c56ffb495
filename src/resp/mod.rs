//! The Redis protocol, as bytes: requests are read, replies are cut out of a stream, both are written.
//!
//! Owns the rules of the wire and nothing else: no I/O, no clock, no knowledge of commands, and nothing of the rest
//! of crema (every other module may use this one). Reading order:
//!
//! * `request`: what a client sends, parsed as Redis parses it and resumable at every byte; `limits` has what it may
//!   measure, what Redis says when it does not, and where servers differ; `inline` the quoting rules of requests typed by hand.
//! * `reply`: where a reply ends, without building it.
//! * `downgrade`: a RESP3 reply as the RESP2 one that Redis would have sent.
//! * `elements`: what a reply consists of, where several become one.
//! * [`encode`]: writers for what crema says itself.
//! * `decimal`: the numbers in header lines, which all of the above share.
//!
//! Two rules hold throughout: memory grows with the bytes that arrived, never with what a header announces, and
//! nothing recurses, so that depth costs nothing.

mod decimal;
mod downgrade;
mod elements;
pub mod encode;
mod inline;
mod limits;
mod reply;
mod request;

pub use downgrade::to_resp2;
pub(crate) use downgrade::{Twin, to_twin};
pub use elements::{Elements, integer_of, is_error, text_of};
pub(crate) use limits::Quirk;
pub use limits::{Grammar, Limits, ProtocolError};
pub use reply::{Malformed, Split, Splitter};
pub use request::{Parsed, Parser, Request, Span};

/// The protocol version that a connection speaks: RESP2 until `HELLO 3`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Resp {
    /// RESP2, which every connection starts with.
    #[default]
    V2,
    /// RESP3, with maps, sets, nulls and pushes of their own.
    V3,
}
