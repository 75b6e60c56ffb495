//! The connection of a handover: frames of bytes, and open files that go with them.
//!
//! A frame says how many files are its own. The system hands them over all at once, with the frame's first byte, and never with
//! another's: what came at once belongs to the first frame that is to have files. Where this process may not open so many, some are
//! missing: then it has none.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::message::HandoverMessage;

/// Files that go with one frame at most, as the system has it (unix(7), `SCM_MAX_FD`).
const MOST_FILES: usize = 253;
/// The largest frame.
const LARGEST: usize = 4 << 20;
/// What stands before each: what it is, how many files are its own, how long it is.
const HEADER: usize = 6;
/// Bytes read at a time.
const READ: usize = 64 << 10;

/// See the module's head.
pub(super) struct HandoverLine {
    stream: UnixStream,
    read: Vec<u8>,
    /// As they came.
    files: VecDeque<Vec<OwnedFd>>,
}

/// What came.
pub(super) enum HandoverFrame {
    /// A message, with its files; with none where any is missing.
    Message(HandoverMessage, Vec<OwnedFd>),
    /// Names of hot keys, as `hot_names` writes them.
    Names(Vec<u8>),
}

/// What a frame is.
const MESSAGE: u8 = b'M';
const NAMES: u8 = b'N';

impl HandoverLine {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, read: Vec::new(), files: VecDeque::new() }
    }

    /// Says this.
    pub(super) async fn say(&self, message: &HandoverMessage, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message).map_err(io::Error::other)?;
        self.send(MESSAGE, &text, files).await
    }

    /// Says these names.
    pub(super) async fn say_names(&self, names: &[u8]) -> io::Result<()> {
        self.send(NAMES, names, &[]).await
    }

    async fn send(&self, kind: u8, text: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let frame = frame(kind, text, files.len())?;
        let (mut sent, mut files) = (0, files);
        while sent < frame.len() {
            let rest = &frame[sent..];
            sent += self.stream.async_io(Interest::WRITABLE, || send_some(&self.stream, rest, files)).await?;
            files = &[]; // they have gone with the first byte
        }
        Ok(())
    }

    /// The next frame. Cancel safe.
    pub(super) async fn next(&mut self) -> io::Result<HandoverFrame> {
        loop {
            if let Some(frame) = self.whole()? {
                return Ok(frame);
            }
            let (read, files) = (&mut self.read, &mut self.files);
            let stream = &self.stream;
            let count = stream.async_io(Interest::READABLE, || receive_some(stream, read, files)).await?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The first frame of what was read, if it is whole.
    fn whole(&mut self) -> io::Result<Option<HandoverFrame>> {
        let Some((header, rest)) = self.read.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [kind, files, length @ ..] = *header;
        let length = u32::from_be_bytes(length) as usize;
        if length > LARGEST || !matches!(kind, MESSAGE | NAMES) {
            return Err(io::Error::new(ErrorKind::InvalidData, "this is not how cremas hand over"));
        }
        let Some(text) = rest.get(..length) else { return Ok(None) };
        let files = if files > 0 {
            self.files.pop_front().filter(|here| here.len() == usize::from(files)).unwrap_or_default()
        } else {
            Vec::new()
        };
        let frame = if kind == NAMES {
            HandoverFrame::Names(text.to_vec())
        } else {
            let message =
                serde_json::from_slice(text).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            HandoverFrame::Message(message, files)
        };
        self.read.drain(..HEADER + length);
        Ok(Some(frame))
    }

    /// Returns when the other side has closed the connection, whatever it says. Cancel safe.
    pub(super) async fn closed(&mut self) {
        loop {
            self.read.clear();
            self.files.clear();
            let (read, files, stream) = (&mut self.read, &mut self.files, &self.stream);
            match stream.async_io(Interest::READABLE, || receive_some(stream, read, files)).await {
                Ok(count) if count > 0 => {}
                _ => return,
            }
        }
    }

    /// Says this if it can be said without waiting.
    pub(super) fn say_at_once(&self, message: &HandoverMessage) {
        if let Ok(frame) =
            serde_json::to_vec(message).map_err(io::Error::other).and_then(|text| frame(MESSAGE, &text, 0))
        {
            let _ = send_some(&self.stream, &frame, &[]); // who does not hear it sees the end
        }
    }
}

/// Whether whoever was on the other side has closed the connection, or is no more.
pub(super) fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn frame(kind: u8, text: &[u8], files: usize) -> io::Result<Vec<u8>> {
    if files > MOST_FILES || text.len() > LARGEST {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is too much for one message"));
    }
    let mut frame = Vec::with_capacity(HEADER + text.len());
    frame.extend_from_slice(&[kind, u8::try_from(files).unwrap_or_default()]);
    frame.extend_from_slice(&u32::try_from(text.len()).unwrap_or_default().to_be_bytes());
    frame.extend_from_slice(text);
    Ok(frame)
}

fn send_some(stream: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "too many open files for one message"));
    }
    let sent =
        sendmsg(stream.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(sent)
}

fn receive_some(stream: &UnixStream, read: &mut Vec<u8>, files: &mut VecDeque<Vec<OwnedFd>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; READ];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let (count, is_cut) = (received.bytes, received.flags.contains(ReturnFlags::CTRUNC));
    let mut all = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            all.extend(received);
        }
    }
    if is_cut || !all.is_empty() {
        files.push_back(all);
    }
    read.extend_from_slice(&bytes[..count]);
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, SeekFrom, Write};

    use super::*;

    fn lines() -> (HandoverLine, HandoverLine) {
        let (one, other) = UnixStream::pair().expect("a pair of sockets");
        (HandoverLine::new(one), HandoverLine::new(other))
    }

    #[tokio::test]
    async fn files_come_with_the_message_that_they_belong_to() {
        let (giver, mut taker) = lines();
        let files = ["one", "two", "three"].map(|text| {
            let mut file = tempfile::tempfile().expect("a temporary file");
            file.write_all(text.as_bytes()).expect("it is our own");
            file
        });
        let fds = files.each_ref().map(AsFd::as_fd);
        let names = vec![7; 3 * READ];
        let say = async {
            giver.say_names(&names).await?;
            giver.say(&HandoverMessage::Ready, &[]).await?;
            giver.say(&HandoverMessage::NamesEnd, &fds[..2]).await?;
            giver.say(&HandoverMessage::Gone, &fds[2..]).await
        };
        let hear = async {
            let HandoverFrame::Names(heard) = taker.next().await? else { panic!("names come first") };
            assert!(heard == names);
            for (message, texts) in [
                (HandoverMessage::Ready, &[][..]),
                (HandoverMessage::NamesEnd, &["one", "two"]),
                (HandoverMessage::Gone, &["three"]),
            ] {
                let HandoverFrame::Message(heard, files) = taker.next().await? else { panic!("a message") };
                assert_eq!((&heard, files.len()), (&message, texts.len()));
                for (fd, text) in files.into_iter().zip(texts) {
                    let (mut file, mut read) = (File::from(fd), String::new());
                    file.seek(SeekFrom::Start(0))?;
                    file.read_to_string(&mut read)?;
                    assert_eq!(read, *text);
                }
            }
            Ok::<_, io::Error>(())
        };
        tokio::try_join!(say, hear).expect("both are there");
    }

    #[tokio::test]
    async fn what_is_no_frame_is_a_fault_and_so_is_an_end_in_the_midst() {
        let (giver, mut taker) = lines();
        giver.stream.try_write(b"*1\r\n$4\r\nPING\r\n").expect("there is room");
        assert_eq!(taker.next().await.err().map(|error| error.kind()), Some(ErrorKind::InvalidData));
        let (giver, mut taker) = lines();
        giver.stream.try_write(&[MESSAGE, 0, 0, 0, 0, 9, b'{']).expect("there is room");
        drop(giver);
        assert_eq!(taker.next().await.err().map(|error| error.kind()), Some(ErrorKind::UnexpectedEof));
        let (giver, mut taker) = lines();
        giver.stream.try_write(&[MESSAGE, 0, 0, 0, 0, 2, b'{', b'}']).expect("there is room");
        assert_eq!(taker.next().await.err().map(|error| error.kind()), Some(ErrorKind::InvalidData));
        drop(giver);
        taker.closed().await;
    }

    #[tokio::test]
    async fn where_files_are_missing_a_message_has_none_and_the_next_has_its_own() {
        let (giver, mut taker) = lines();
        let mut frame = frame(MESSAGE, br#"{"say":"gone"}"#, 2).expect("it is short");
        let file = tempfile::tempfile().expect("a temporary file");
        giver.stream.try_write(&frame).expect("there is room");
        assert!(matches!(taker.next().await, Ok(HandoverFrame::Message(_, files)) if files.is_empty()), "none came");
        send_some(&giver.stream, &frame, &[file.as_fd()]).expect("there is room");
        frame[1] = 1;
        send_some(&giver.stream, &frame, &[file.as_fd()]).expect("there is room");
        assert!(matches!(taker.next().await, Ok(HandoverFrame::Message(_, files)) if files.is_empty()), "one came");
        assert!(matches!(taker.next().await, Ok(HandoverFrame::Message(_, files)) if files.len() == 1));
    }
}
