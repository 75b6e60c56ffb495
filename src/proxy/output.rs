//! Bytes on their way to one client, in order.
//!
//! A few lie in one buffer, which is given back when it is empty. What a client has not taken beyond that is kept in chunks, its
//! own or shared with others who get the same. No I/O: whoever owns it writes what [`ClientOutput::to_write`] shows.

use std::collections::VecDeque;
use std::ops::Deref;
use std::rc::Rc;

use crate::net::buffer;

/// What a client has not taken is kept in chunks of so many bytes once there is more: a buffer that doubles would cost half as
/// much again, and be copied each time.
const CHUNK: usize = 256 << 10;

/// See the module's head.
#[derive(Default)]
pub(super) struct ClientOutput {
    /// What goes out next, from `cursor` on.
    first: Vec<u8>,
    cursor: usize,
    /// What follows it.
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are written, and bytes in all of them that are not.
    gone: usize,
    chunked: usize,
    /// Bytes written in all.
    taken: u64,
}

/// Bytes that wait for a client: its own, or shared with others who are to get the same reply.
enum Chunk {
    Own(Vec<u8>),
    Shared(Rc<[u8]>),
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl ClientOutput {
    /// The buffer, to be appended to; none where there are chunks behind it.
    pub(super) fn buffer(&mut self) -> Option<&mut Vec<u8>> {
        if !self.chunks.is_empty() {
            return None;
        }
        if self.first.capacity() == 0 {
            self.first = buffer::take();
        }
        Some(&mut self.first)
    }

    /// Appends bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.fits(bytes.len())
            && let Some(buffer) = self.buffer()
        {
            return buffer.extend_from_slice(bytes);
        }
        let mut rest = bytes;
        self.chunked += rest.len();
        while !rest.is_empty() {
            if let Some(Chunk::Own(chunk)) = self.chunks.back_mut()
                && chunk.len() < chunk.capacity()
            {
                let (now, later) = rest.split_at(rest.len().min(chunk.capacity() - chunk.len()));
                chunk.extend_from_slice(now);
                rest = later;
            } else {
                self.chunks.push_back(Chunk::Own(Vec::with_capacity(CHUNK)));
            }
        }
    }

    /// Appends bytes without a copy, where they are too long for the buffer. False: nothing was appended.
    pub(super) fn push_shared(&mut self, bytes: &Rc<[u8]>) -> bool {
        let keeps = !self.fits(bytes.len());
        if keeps {
            self.chunked += bytes.len();
            self.chunks.push_back(Chunk::Shared(Rc::clone(bytes)));
        }
        keeps
    }

    /// Whether so many bytes more need no chunk.
    fn fits(&self, more: usize) -> bool {
        self.chunks.is_empty() && self.first.len() + more <= CHUNK
    }

    /// Bytes that are not written.
    pub(super) fn len(&self) -> usize {
        self.first.len() - self.cursor + self.chunked
    }

    /// Whether all is written.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is more than the buffer holds.
    pub(super) fn has_chunks(&self) -> bool {
        !self.chunks.is_empty()
    }

    /// Bytes that the client has taken so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// What is to be written next; empty where that is all.
    pub(super) fn to_write(&self) -> &[u8] {
        if self.cursor < self.first.len() {
            return &self.first[self.cursor..];
        }
        self.chunks.front().map_or(&[], |chunk| &chunk[self.gone..])
    }

    /// So many bytes of that are written.
    pub(super) fn wrote(&mut self, n: usize) {
        self.taken += n as u64;
        if self.cursor < self.first.len() {
            self.cursor += n;
            if self.cursor == self.first.len() {
                self.give_back();
            }
            return;
        }
        self.gone += n;
        self.chunked -= n;
        if self.chunks.front().is_some_and(|chunk| chunk.len() == self.gone) {
            self.chunks.pop_front();
            self.gone = 0;
        }
    }

    /// All is written: the memory that it lay in is given back.
    pub(super) fn release(&mut self) {
        debug_assert!(self.is_empty(), "what is not written is not let go");
        self.give_back();
        self.chunks.shrink_to(0);
    }

    fn give_back(&mut self) {
        self.cursor = 0;
        buffer::give(std::mem::take(&mut self.first));
    }

    /// Throws away what is to be written.
    pub(super) fn discard(&mut self) {
        *self = Self { taken: self.taken, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes all, at most `most` bytes at a time.
    fn written(output: &mut ClientOutput, most: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !output.to_write().is_empty() {
            let n = output.to_write().len().min(most);
            all.extend_from_slice(&output.to_write()[..n]);
            output.wrote(n);
        }
        output.release();
        all
    }

    #[test]
    fn a_few_bytes_lie_in_one_buffer() {
        let mut output = ClientOutput::default();
        output.push(b"ab");
        output.buffer().expect("no chunk").extend_from_slice(b"cd");
        output.wrote(1);
        assert_eq!((output.len(), output.taken(), output.to_write()), (3, 1, &b"bcd"[..]));
        assert_eq!((written(&mut output, 2), output.is_empty(), output.taken()), (b"bcd".to_vec(), true, 4));
    }

    #[test]
    fn many_lie_in_chunks_behind_it_in_order() {
        let mut output = ClientOutput::default();
        let all: Vec<u8> = (0..3 * CHUNK + 7).map(|n| (n % 251) as u8).collect();
        let (shared, more) = (Rc::from(&all[100..CHUNK + 200]), &all[CHUNK + 200..]);
        output.push(&all[..100]);
        assert!(output.push_shared(&shared) && output.buffer().is_none());
        more.chunks(1000).for_each(|bytes| output.push(bytes));
        assert_eq!(output.len(), all.len());
        assert!(written(&mut output, 60_000) == all && output.is_empty() && output.buffer().is_some());
    }

    #[test]
    fn what_fits_the_buffer_is_not_shared() {
        let mut output = ClientOutput::default();
        assert!(!output.push_shared(&Rc::from(&b"short"[..])) && output.is_empty());
    }

    #[test]
    fn what_is_thrown_away_was_not_taken() {
        let mut output = ClientOutput::default();
        output.push(&vec![0; 2 * CHUNK]);
        output.wrote(10);
        output.discard();
        assert_eq!((output.len(), output.taken(), output.to_write()), (0, 10, &b""[..]));
    }
}
