//! Clients on their way to the process that takes over: their sockets, and what the other has to know of each.
//!
//! Open once another process serves in this one's place. A session that has nothing under way, and nothing at the upstream that is its
//! own, then goes on there; its client notices nothing. `app` carries them over, and hands those that come to the workers.

use std::fmt::{self, Debug, Formatter};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Passage(Mutex<Option<mpsc::Sender<PassedClient>>>);

/// One on its way.
#[derive(Debug)]
pub(crate) struct PassedClient {
    pub socket: OwnedFd,
    pub record: ClientRecord,
}

/// What is known of a client.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ClientRecord {
    /// The address that it came to, as the settings have it.
    pub entrance: String,
    /// Where it comes from.
    pub peer: String,
    /// What it has done already.
    pub stage: ClientStage,
    /// The user and the password that it proved to Redis.
    pub login: Option<(Vec<u8>, Vec<u8>)>,
    /// The user of crema's own that it is.
    pub account: Option<String>,
    /// Its database.
    pub db: u32,
    /// It speaks RESP3.
    pub is_resp3: bool,
    /// What it calls itself.
    pub name: Option<Vec<u8>>,
    /// What it said with `CLIENT SETINFO`, as it said it.
    pub info: Vec<Vec<u8>>,
}

/// How far a client has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClientStage {
    /// It has a session.
    #[default]
    Session,
    /// Its header of the PROXY protocol is to come; this was read of it.
    Header(Vec<u8>),
    /// Its TLS handshake is to begin.
    Handshake,
}

impl Debug for ClientRecord {
    /// Where it comes from alone: passwords are nobody's to read.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientRecord").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Passage {
    /// From now on clients can go, so `most` at once. Where they arrive.
    pub(crate) fn open(&self, most: usize) -> mpsc::Receiver<PassedClient> {
        let (passage, arrivals) = mpsc::channel(most.max(1));
        *self.lock() = Some(passage);
        arrivals
    }

    /// No more will come.
    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    /// Whether clients can go.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().is_some()
    }

    /// This one goes; false: it cannot.
    pub(crate) fn pass(&self, client: PassedClient) -> bool {
        self.lock().as_ref().is_some_and(|passage| passage.try_send(client).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, Option<mpsc::Sender<PassedClient>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_without_what_it_does_not_know_is_read_and_so_is_one_with_more_and_no_password_is_shown() {
        let read = |text: &str| serde_json::from_str::<ClientRecord>(text).expect("plain data");
        assert_eq!(read("{}"), ClientRecord::default());
        assert_eq!(read(r#"{"db":7,"mood":"fine"}"#), ClientRecord { db: 7, ..ClientRecord::default() });
        let secret = ClientRecord { login: Some((b"anna".to_vec(), b"secret".to_vec())), ..ClientRecord::default() };
        let shown = format!("{secret:?} {secret:#?}");
        assert!(shown.contains("ClientRecord") && !shown.contains("anna") && !shown.contains("115"), "{shown}");
        let all = ClientRecord { login: Some((vec![255], vec![0])), is_resp3: true, ..ClientRecord::default() };
        assert_eq!(read(&serde_json::to_string(&all).expect("plain data")), all);
        for stage in [ClientStage::Header(b"PROX".to_vec()), ClientStage::Handshake] {
            let early = ClientRecord { stage, ..ClientRecord::default() };
            assert_eq!(read(&serde_json::to_string(&early).expect("plain data")), early);
        }
    }

    #[test]
    fn who_finds_no_way_stays() {
        let passage = Passage::default();
        let client = || {
            let (socket, _) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
            PassedClient { socket: socket.into(), record: ClientRecord::default() }
        };
        assert!(!passage.pass(client()), "it is not open");
        let mut arrivals = passage.open(1);
        assert!(passage.pass(client()) && !passage.pass(client()), "one at a time");
        arrivals.close();
        assert!(arrivals.try_recv().is_ok() && !passage.pass(client()), "nobody carries it over any more");
    }
}
