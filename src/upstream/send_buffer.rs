//! What a connection has to send: the bytes of its commands, in order.
//!
//! Bytes that are written stay for as long as their command may have to be sent again on another connection. No I/O: whoever
//! holds it writes what [`SendBuffer::to_write`] shows and tells how much that was.

/// A buffer that is empty keeps no more than so many bytes.
const KEPT: usize = 64 << 10;

/// See the module's head.
#[derive(Default)]
pub(super) struct SendBuffer {
    /// What is to be written, from `cursor` on, and before it what may have to be sent again.
    bytes: Vec<u8>,
    cursor: usize,
    /// Bytes ever appended.
    queued: u64,
    /// Bytes of the next command that were sent ahead of the rest.
    ahead: usize,
    /// Preparations that are not answered, and where the last of them ends: nothing beyond is written meanwhile.
    preparations: u32,
    prepared: u64,
}

impl SendBuffer {
    /// Appends a command, of which some bytes may be there already. Returns where it begins, counted in all bytes ever.
    pub(super) fn append(&mut self, command: &[u8]) -> u64 {
        let start = self.queued;
        debug_assert!(self.ahead <= command.len(), "what was sent ahead is its beginning");
        let rest = &command[std::mem::take(&mut self.ahead)..];
        self.queued += rest.len() as u64;
        self.bytes.extend_from_slice(rest);
        start
    }

    /// Appends bytes that are no whole command, or none at all.
    pub(super) fn append_raw(&mut self, bytes: &[u8]) {
        self.queued += bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends the next bytes of a command that is not whole yet.
    pub(super) fn append_ahead(&mut self, bytes: &[u8]) {
        self.ahead += bytes.len();
        self.append_raw(bytes);
    }

    /// So many of the bytes that were sent ahead are not in the command that comes next.
    pub(super) fn forget_ahead(&mut self, bytes: usize) {
        self.ahead -= bytes;
    }

    /// Whether a part of the next command was sent ahead.
    pub(super) fn is_ahead(&self) -> bool {
        self.ahead > 0
    }

    /// What was appended last prepares the connection for what comes behind it, which waits for [`prepared`](Self::prepared).
    pub(super) fn prepare(&mut self) {
        self.preparations += 1;
        self.prepared = self.queued;
    }

    /// One preparation is answered.
    pub(super) fn prepared(&mut self) {
        self.preparations -= 1;
    }

    /// Whether preparations are unanswered.
    pub(super) fn is_preparing(&self) -> bool {
        self.preparations > 0
    }

    /// Where the next command begins.
    pub(super) fn queued(&self) -> u64 {
        self.queued
    }

    /// Bytes not written yet, those that wait for a preparation among them.
    pub(super) fn unwritten(&self) -> u64 {
        (self.bytes.len() - self.cursor) as u64
    }

    /// Bytes ever written.
    pub(super) fn written(&self) -> u64 {
        self.queued - self.unwritten()
    }

    /// What may be written now.
    pub(super) fn to_write(&self) -> &[u8] {
        let held = if self.preparations > 0 { self.queued - self.prepared } else { 0 };
        let end = self.bytes.len() - held as usize;
        self.bytes.get(self.cursor..end).unwrap_or_default()
    }

    /// So many bytes of that are written.
    pub(super) fn wrote(&mut self, n: usize) {
        self.cursor += n;
    }

    /// Lets go of written bytes; of those from `needed` on none, where that is given.
    pub(super) fn trim(&mut self, needed: Option<u64>) {
        let done = needed.map_or(self.cursor, |start| ((start - self.first()) as usize).min(self.cursor));
        if done == self.bytes.len() {
            self.cursor = 0;
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
        } else if done > KEPT && done > self.bytes.len() / 2 {
            self.bytes.drain(..done);
            self.cursor -= done;
        }
    }

    /// The bytes from `start` to `end`; none where they are gone.
    pub(super) fn between(&self, start: u64, end: u64) -> &[u8] {
        let first = self.first();
        let from = start.checked_sub(first).map(|at| at as usize);
        from.and_then(|from| self.bytes.get(from..(end - first) as usize)).unwrap_or_default()
    }

    /// Where the first byte stands that is still there.
    fn first(&self) -> u64 {
        self.queued - self.bytes.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_bytes_stay_until_they_are_let_go() {
        let mut out = SendBuffer::default();
        let (a, b) = (out.append(b"one"), out.append(b"two"));
        assert_eq!((a, b, out.queued(), out.to_write()), (0, 3, 6, &b"onetwo"[..]));
        out.wrote(4);
        assert_eq!((out.written(), out.unwritten(), out.to_write()), (4, 2, &b"wo"[..]));
        out.trim(Some(0));
        assert_eq!((out.between(0, 3), out.between(3, 6)), (&b"one"[..], &b"two"[..]));
        out.wrote(2);
        out.trim(Some(3));
        assert_eq!(out.between(3, 6), b"two", "it may be sent again");
        out.trim(None);
        assert_eq!((out.between(3, 6), out.written()), (&b""[..], 6));
        assert_eq!(out.append(b"three"), 6);
        assert_eq!(out.between(6, 11), b"three");
    }

    #[test]
    fn a_long_buffer_is_cut_once_most_of_it_is_done() {
        let mut out = SendBuffer::default();
        out.append(&vec![b'a'; 2 * KEPT]);
        let next = out.append(b"next");
        out.wrote(2 * KEPT);
        out.trim(Some(next));
        assert_eq!((out.bytes.len(), out.to_write(), out.between(next, next + 4)), (4, &b"next"[..], &b"next"[..]));
    }

    #[test]
    fn what_is_behind_a_preparation_waits_for_it() {
        let mut out = SendBuffer::default();
        out.append(b"SELECT");
        out.prepare();
        out.append(b"GET");
        assert_eq!(out.to_write(), b"SELECT");
        out.append(b"HELLO");
        out.prepare();
        assert_eq!(out.to_write(), b"SELECTGETHELLO", "up to the last preparation");
        out.append(b"PING");
        out.wrote(14);
        out.prepared();
        assert_eq!((out.to_write(), out.is_preparing()), (&b""[..], true));
        out.prepared();
        assert_eq!((out.to_write(), out.is_preparing()), (&b"PING"[..], false));
    }

    #[test]
    fn what_was_sent_ahead_is_not_sent_again() {
        let mut out = SendBuffer::default();
        out.append_ahead(b"SE");
        out.append_ahead(b"Tx");
        assert!(out.is_ahead());
        out.forget_ahead(1);
        assert_eq!(out.append(b"SET k v"), 4);
        assert_eq!((out.to_write(), out.is_ahead()), (&b"SETx k v"[..], false));
    }
}
