//! The atomics of [`super::stamp`] and [`super::lease`], from here so that `tests/orderings` can put loom's in their place, which
//! try every order that the memory model allows.

pub(super) use std::sync::atomic::{AtomicU64, Ordering};
