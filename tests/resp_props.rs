//! Property tests of the protocol.
