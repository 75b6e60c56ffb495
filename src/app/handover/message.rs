//! What the two sides of a handover say, and in which version of it they understand each other. Pure data.
//!
//! JSON, so that a later version may add fields that an earlier one does not know; a new message needs a new version.

use serde::{Deserialize, Serialize};

use super::terms::HandoverTerms;
use crate::proxy::ClientRecord;

/// The version of what is said that this crema prefers, and the oldest that it understands.
const NEWEST: u32 = 1;
const OLDEST: u32 = 1;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum HandoverMessage {
    /// From each side, the taker first.
    Hello(HandoverHello),
    /// From either: nothing comes of it, for this reason.
    Refusal {
        /// A sentence for people.
        why: String,
    },
    /// From the giver, with as many sockets, and the baton behind them: what each is.
    Sockets {
        /// In the order of the sockets.
        sockets: Vec<SocketNote>,
    },
    /// From the giver: all names of hot keys have been said.
    NamesEnd,
    /// From the taker: it could serve.
    Ready,
    /// From the giver: it lets nobody in any more, and answers nothing out of memory. Whoever takes the baton first does.
    Released,
    /// From the taker: it has the baton, and lets clients in.
    Serving,
    /// From the giver: it ends its sessions, and is gone after so many milliseconds at the latest.
    Draining {
        /// The time that it may take.
        within_ms: u64,
    },
    /// From the giver, with the client's socket: a client that is the taker's from now on.
    Client(ClientRecord),
    /// From the giver: it has no session any more.
    Gone,
}

/// Who one is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HandoverHello {
    /// The versions that it understands.
    pub(super) oldest: u32,
    /// See `oldest`.
    pub(super) newest: u32,
    /// Which crema it is, for people.
    pub(super) crema: String,
    /// Its process.
    pub(super) pid: u32,
    /// From the giver: what its clients find behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) terms: Option<HandoverTerms>,
}

/// What a listening socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SocketUse {
    /// Clients of Redis.
    Listen,
    /// The admin port.
    Admin,
}

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SocketNote {
    /// What it is for.
    #[serde(rename = "use")]
    pub(super) used: SocketUse,
    /// Its address as the giver's settings have it.
    pub(super) name: String,
    /// Whoever started the giver keeps it as well.
    pub(super) is_shared: bool,
}

impl HandoverHello {
    /// This process's.
    pub(super) fn own() -> Self {
        let crema = env!("CARGO_PKG_VERSION").to_owned();
        Self { oldest: OLDEST, newest: NEWEST, crema, pid: std::process::id(), terms: None }
    }

    /// Fails with a sentence where this process and the other have no version in common.
    pub(super) fn agree(&self) -> Result<(), String> {
        let common = self.newest.min(NEWEST);
        if common < self.oldest.max(OLDEST) {
            return Err(format!(
                "crema {} speaks versions {} to {} of the handover, this one, {}, speaks {OLDEST} to {NEWEST}: stop one, \
                 then start the other",
                self.crema,
                self.oldest,
                self.newest,
                env!("CARGO_PKG_VERSION"),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_have_a_version_in_common_agree_and_others_say_why_not() {
        let hello = |oldest, newest| HandoverHello { oldest, newest, ..HandoverHello::own() };
        assert!(HandoverHello::own().agree().is_ok());
        assert!(hello(OLDEST, NEWEST + 7).agree().is_ok(), "a newer one that remembers this");
        let why = hello(NEWEST + 1, NEWEST + 7).agree().expect_err("a newer one that does not");
        assert!(why.contains("speaks versions 2 to 8") && why.contains("speaks 1 to 1"), "{why}");
        assert!(hello(0, OLDEST - 1).agree().is_err(), "an older one");
    }

    #[test]
    fn what_a_newer_one_adds_to_a_message_does_no_harm() {
        let said = r#"{"say":"draining","within_ms":7,"mood":"fine"}"#;
        let read: HandoverMessage = serde_json::from_str(said).expect("it is known");
        assert_eq!(read, HandoverMessage::Draining { within_ms: 7 });
        let sockets = vec![SocketNote { used: SocketUse::Admin, name: "a".to_owned(), is_shared: false }];
        for message in [HandoverMessage::Hello(HandoverHello::own()), HandoverMessage::Sockets { sockets }] {
            let text = serde_json::to_string(&message).expect("plain data");
            assert_eq!(serde_json::from_str::<HandoverMessage>(&text).expect("just written"), message);
        }
    }
}
