//! The atomics of [`super::stamp`], [`super::lease`] and [`super::watermarks`], from here so that `tests/orderings` can put loom's in their place, which
//! try every order that the memory model allows.

pub(super) use std::sync::atomic::{AtomicU64, Ordering};
