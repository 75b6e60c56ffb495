//! One process takes over from another, over a Unix socket, so that clients notice nothing: the listening sockets themselves go from
//! the old one (the *giver*) to the new one (the *taker*), with the names of what is hot.
//!
//! The taker starts as far as it can, fills its memory, and only then says that it is ready. From there on neither answers anything out
//! of memory: a write that one acknowledges could be missed by a hit of the other. The giver stops letting clients in, the taker
//! begins, the giver drains and ends; then the taker's leases begin. Until the taker serves, whatever goes wrong leaves the
//! giver as it was.
//!
//! `giver` and `taker` are what each does next, without I/O; `message` is what they say, `line` carries it; `give` and `take` act.
//!
//! Holds contract points 3 (own writes) and 4 (others' writes soon) while two processes serve the same clients.

mod baton;
mod give;
mod giver;
mod line;
mod message;
mod take;
mod taker;
mod terms;

pub(super) use give::{Estate, Successor, TakeOverDoor};
pub(super) use take::Taking;

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::geteuid;
use tokio::net::UnixStream;
use tokio::time::timeout;

use self::terms::HandoverTerms;
use crate::config::UpstreamKind;
use crate::proxy::Shared;
use crate::resp::Resp;
use crate::upstream::{Target, connect};

/// A server may take so long to say what it calls itself, and a cluster which nodes it has.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// Fails with a sentence where the socket at `path` could be anybody's. False: there is none.
fn is_ours(path: &Path) -> Result<bool, String> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.to_string()),
    };
    if !there.file_type().is_socket() {
        return Err("what stands there is no socket".to_owned());
    }
    if !is_own_user(there.uid()) {
        return Err(format!("the socket is that of user {}", there.uid()));
    }
    if there.mode() & 0o077 != 0 {
        return Err(format!("others may use the socket: its mode is {:o}", there.mode() & 0o777));
    }
    Ok(true)
}

/// What holds of this process when it knows who serves behind it, as far as that is told in time.
async fn terms(shared: &Shared) -> HandoverTerms {
    let front = shared.front();
    if front.generation.server().is_none() && !front.is_gone() {
        let (node, login) = (Arc::clone(&front), front.login());
        let target = Target { node, login, db: 0, resp: Resp::V2, name: "crema-scout" };
        let _ = timeout(INTRODUCTION, connect(&target)).await; // who does not tell is not known
    }
    if shared.config.upstream.kind == UpstreamKind::Cluster {
        let mut topology = shared.topology.clone();
        let _ = timeout(INTRODUCTION, topology.wait_for(|topology| topology.version() > 0)).await;
    }
    HandoverTerms::of(shared)
}

/// Fails with a sentence where whoever is on the other side is another user; else who it is.
fn peer(stream: &UnixStream) -> Result<u32, String> {
    let peer = stream.peer_cred().map_err(|error| error.to_string())?;
    if !is_own_user(peer.uid()) {
        return Err(format!("the other side is user {}", peer.uid()));
    }
    Ok(peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default())
}

/// This process's user, or root.
fn is_own_user(uid: u32) -> bool {
    uid == geteuid().as_raw() || uid == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_socket_of_this_user_alone_will_do() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("take-over");
        assert_eq!(is_ours(&path), Ok(false));
        let _listener = UnixListener::bind(&path).expect("a new path");
        let with_mode = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("our own file");
            is_ours(&path)
        };
        assert_eq!(with_mode(0o600), Ok(true));
        for mode in [0o660, 0o606, 0o610] {
            assert!(with_mode(mode).expect_err("others may use it").contains("mode"));
        }
        fs::remove_file(&path).expect("our own file");
        fs::write(&path, "").expect("our own directory");
        assert!(is_ours(&path).expect_err("a file").contains("no socket"));
    }
}
