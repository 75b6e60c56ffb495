//! What tests of a take-over share: a path for it, clients that ask all the while, and either side of a handover by hand.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, PipeReader, Read, Write, pipe};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tempfile::TempDir;

use super::client::Client;
use super::proxy::Crema;
use super::value::{Value, bulk};
use super::{AT_LAST, eventually};

/// Whether processes cannot be exchanged in this run: there is none of ours, or what carries clients knows only one.
pub fn cannot(crema: &Crema) -> bool {
    crema.is_direct() || std::env::var_os("CREMA_TEST_TLS").is_some()
}

/// A directory, and a path in it to take over at.
pub fn path() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("take-over");
    (directory, path)
}

/// What the status says of taking over.
pub fn status(crema: &Crema) -> String {
    let Value::Map(fields) = crema.resp3().cmd(&["CREMA", "STATUS"]) else { panic!("a map") };
    let field = fields.iter().find(|(name, _)| name.text() == "take_over");
    field.map(|(_, value)| value.text()).expect("it is told")
}

/// Waits until this one serves, and all clients of the one before it are its own.
pub fn await_succession(new: &Crema) {
    eventually("it serves", || new.has_logged("clients are served in place of process"));
    eventually("the one before it is gone", || new.has_logged("have come over"));
}

/// How the program ends that is to take over there, and what it says.
pub fn refused(path: &Path, upstream: &str) -> (Option<i32>, String) {
    let arguments = ["--listen", "127.0.0.1:0", "--admin", "off", "--upstream", upstream, "--take-over"];
    let mut command = Command::new(crate::program());
    let Output { status, stderr, .. } = command.args(arguments).arg(path).env_clear().output().expect("the program");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

/// What clients that ask all the time have seen.
#[derive(Default)]
pub struct Seen {
    asked: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    wrong: AtomicU64,
}

impl Seen {
    /// Waits until so many more were answered.
    #[track_caller]
    pub fn goes_on(&self, more: u64) {
        let asked = self.asked.load(Ordering::Relaxed);
        eventually("the load goes on", || self.asked.load(Ordering::Relaxed) > asked + more);
    }

    /// Nothing was refused, failed or was wrong.
    #[track_caller]
    pub fn nothing_was_lost(&self) {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let told = (count(&self.refused), count(&self.failed), count(&self.wrong));
        assert_eq!(told, (0, 0, 0), "refused, failed, wrong of {}", count(&self.asked));
        assert!(count(&self.asked) > 0);
    }
}

/// Writes and reads back its own key, each time on a new connection, or always on the same.
pub fn ask_on(addr: SocketAddr, seen: &Seen, stop: &AtomicBool, (name, keeps): (String, bool)) {
    let mut kept: Option<Client> = None;
    let mut n = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = kept.take().map_or_else(|| Client::try_connect(addr), Ok) else {
            seen.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        n += 1;
        let value = n.to_string();
        let told = client.try_cmd(&["SET", &name, &value]).and_then(|_| client.try_cmd(&["GET", &name]));
        seen.asked.fetch_add(2, Ordering::Relaxed);
        match told {
            Ok(read) if read == bulk(&value) => kept = keeps.then_some(client),
            Ok(read) => {
                eprintln!("{name} is {read:?} in place of {value}");
                seen.wrong.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                eprintln!("{name}: {error}");
                seen.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// What one says first.
pub const HELLO: &str = r#"{"say":"hello","oldest":1,"newest":1,"crema":"test","pid":1}"#;

/// A message of a handover.
pub fn frame(message: &str) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("it is short");
    [&b"M\0"[..], &length.to_be_bytes(), message.as_bytes()].concat()
}

/// The right to let clients in, of which both sides have a hold.
pub struct Baton(PipeReader);

impl Baton {
    pub fn new() -> Baton {
        let (reader, mut writer) = pipe().expect("a pipe");
        writer.write_all(&[1]).expect("there is room");
        Baton(reader)
    }

    /// Takes it; false: the other has.
    pub fn take(&self) -> bool {
        (&self.0).read(&mut [0]).expect("a pipe of our own") == 1
    }
}

/// Gives no sockets, and the baton.
pub fn give_sockets(stream: &UnixStream, baton: &Baton) {
    let mut bytes = frame(r#"{"say":"sockets","sockets":[]}"#);
    bytes[1] = 1;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files: [BorrowedFd<'_>; 1] = [baton.0.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    let sent = sendmsg(stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).expect("it reads");
    assert_eq!(sent, bytes.len());
}

/// A process that asks to take over, by hand.
pub struct AskerByHand {
    stream: UnixStream,
    files: VecDeque<OwnedFd>,
    heard: Vec<u8>,
}

impl AskerByHand {
    /// Asks there, and is ready at once. Returns when it may serve.
    pub fn released(path: &Path) -> (AskerByHand, Baton) {
        let stream = UnixStream::connect(path).expect("it listens");
        stream.set_read_timeout(Some(AT_LAST)).expect("a deadline above zero");
        let mut asker = AskerByHand { stream, files: VecDeque::new(), heard: Vec::new() };
        asker.say(HELLO);
        asker.say(r#"{"say":"ready"}"#);
        asker.hear("released");
        let baton = asker.files.pop_back().expect("the baton is behind the sockets");
        (asker, Baton(baton.into()))
    }

    pub fn say(&mut self, message: &str) {
        self.stream.write_all(&frame(message)).expect("it reads");
    }

    /// Reads until something like this was said.
    #[track_caller]
    pub fn hear(&mut self, wanted: &str) {
        while !String::from_utf8_lossy(&self.heard).contains(wanted) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [0; 4096];
            let came = recvmsg(&self.stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
            let count = came.expect("it says something").bytes;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(files) = message {
                    self.files.extend(files);
                }
            }
            self.heard.extend_from_slice(&bytes[..count]);
            assert!(count > 0, "no {wanted}: {}", String::from_utf8_lossy(&self.heard));
        }
    }
}

/// Reads until something like this was said.
pub fn hear(stream: &mut UnixStream, wanted: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(AT_LAST))?;
    let mut heard = Vec::new();
    loop {
        let mut more = [0; 4096];
        let count = stream.read(&mut more)?;
        heard.extend_from_slice(&more[..count]);
        if String::from_utf8_lossy(&heard).contains(wanted) {
            return Ok(());
        }
        if count == 0 {
            return Err(io::Error::other(format!("no {wanted}: {}", String::from_utf8_lossy(&heard))));
        }
    }
}
