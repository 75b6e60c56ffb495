//! The right to let clients in, which of two processes one has: it goes to whoever takes it first.
//!
//! A byte in a pipe into which nobody writes any more, held by both. Reading it is taking it, so the system decides, however long
//! either was frozen, and whatever either believes of the other. Who reads nothing has come too late.

use std::io::{ErrorKind, PipeReader, Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// See the module's head.
#[derive(Debug)]
pub(super) struct Baton(PipeReader);

impl Baton {
    /// One that nobody has taken.
    pub(super) fn new() -> std::io::Result<Self> {
        let (reader, mut writer) = pipe()?;
        writer.write_all(&[1])?; // dropped then, so that reading never waits
        Ok(Self(reader))
    }

    /// The other process's.
    pub(super) fn given(file: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&file, true)?; // whatever it is
        Ok(Self(file.into()))
    }

    /// Another hold on it, for the other process.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Takes it; false where the other has.
    pub(super) fn take(&self) -> bool {
        loop {
            match (&self.0).read(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return matches!(read, Ok(1)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_who_hold_it_one_takes_it_and_only_once() {
        for first in [0, 1] {
            let own = Baton::new().expect("a pipe");
            let other = Baton::given(own.file().try_clone_to_owned().expect("another hold")).expect("a pipe");
            let both = [own, other];
            assert!(both[first].take());
            assert!(!both[1 - first].take() && !both[first].take());
        }
    }

    #[test]
    fn what_is_none_is_not_taken_and_nobody_waits_for_it() {
        let (reader, _writer) = pipe().expect("a pipe");
        assert!(!Baton::given(reader.into()).expect("a pipe").take());
    }
}
