//! Byte buffers that a thread's connections take when they have something to say and give back when they fall silent.
//!
//! Ten thousand idle clients then hold none. A buffer that grew large is freed rather than kept.

use std::cell::RefCell;

/// A buffer of more capacity is freed when given back.
const LARGEST: usize = 64 << 10;
/// Buffers that a thread keeps.
const KEPT: usize = 64;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer, with capacity where one was given back before.
pub(crate) fn take() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives a buffer back. Its bytes are forgotten.
pub(crate) fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > LARGEST {
        return;
    }
    buffer.clear();
    POOL.with_borrow_mut(|pool| {
        if pool.len() < KEPT {
            pool.push(buffer);
        }
    });
}
