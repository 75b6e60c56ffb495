//! Bytes that were read from a client and not taken up yet.

use crate::net::buffer;

/// Bytes read; those before `at` have been taken up.
#[derive(Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    at: usize,
}

impl Input {
    /// What has not been taken up.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// So many more bytes are taken up.
    pub(super) fn consume(&mut self, n: usize) {
        self.at += n;
    }

    /// All are.
    pub(super) fn clear(&mut self) {
        self.at = self.bytes.len();
    }

    /// Only so many bytes of what is not taken up stay.
    pub(super) fn truncate(&mut self, n: usize) {
        self.bytes.truncate(self.at + n);
    }

    /// More was read elsewhere.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Where more is to be read to, with room for so many bytes.
    pub(super) fn room(&mut self, bytes: usize) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = buffer::take();
        }
        self.bytes.reserve(bytes);
        &mut self.bytes
    }

    /// Makes room: only an unfinished request stays.
    pub(super) fn compact(&mut self) {
        if self.at == self.bytes.len() {
            self.bytes.clear();
        } else {
            self.bytes.drain(..self.at);
        }
        self.at = 0;
    }

    /// The session has nothing more to take up, and waits: its buffer is everybody's.
    pub(super) fn give_back(&mut self) {
        if self.rest().is_empty() {
            buffer::give(std::mem::take(&mut self.bytes));
            self.at = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_up_goes_and_the_rest_stays() {
        let mut input = Input::default();
        input.room(16).extend_from_slice(b"one two");
        input.consume(4);
        assert_eq!(input.rest(), b"two");
        input.compact();
        input.append(b" three");
        assert_eq!(input.rest(), b"two three");
        input.consume(4);
        input.truncate(2);
        assert_eq!(input.rest(), b"th");
        input.give_back();
        assert_eq!(input.rest(), b"th", "there is something");
        input.clear();
        input.compact();
        assert_eq!((input.rest(), input.at), (&b""[..], 0));
        input.give_back();
        assert_eq!(input.bytes.capacity(), 0, "an idle session holds no buffer");
        input.append(b"four");
        assert_eq!(input.rest(), b"four");
    }
}
