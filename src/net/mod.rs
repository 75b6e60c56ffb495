//! Byte streams: the sockets of clients and of upstream nodes behind one type, and the buffers that their bytes lie in.
//!
//! Knows no protocol but those that carry others, TLS and PROXY headers. Called by `server` for accepted clients, by `session`
//! and by `upstream`.

pub(crate) mod buffer;
mod dial;
mod names;
pub(crate) mod proxy_protocol;
mod socket;
pub(crate) mod tls;

pub(crate) use dial::dial;
pub(crate) use socket::Socket;
