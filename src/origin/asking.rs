//! What a load asks of Redis, at the node of its key, and the token that it may have there.
//!
//! However a load ends, and wherever it is dropped, its token is released: who waits for the key need not wait for the token's end. Only
//! a process that dies leaves one.
//!
//! Holds contract point 5 (nothing stuck).

use tokio::sync::oneshot;

use super::load::{Script, ScriptReply};
use super::script::{self, LoadKeys};
use crate::clock::Time;

/// The node of a key, as a load sees it.
pub(crate) trait KeyNode {
    /// Asks it, in RESP2; none where it does not answer in time. Cancel safe.
    async fn ask(&self, command: &[u8]) -> Option<Vec<u8>>;

    /// Tells it, and waits for nothing.
    fn tell(&self, command: &[u8]);

    /// Resolves when the key, or its token, has changed or may have, or when nobody will tell; to be forgotten then.
    fn await_change(&self, until: Time) -> oneshot::Receiver<()>;
}

/// A load's questions. See the module's head.
pub(super) struct LoadQuestions<'a, N: KeyNode> {
    node: &'a N,
    keys: LoadKeys,
    /// What its tokens begin with.
    name: String,
    attempt: u32,
    /// One may be in Redis.
    may_hold: bool,
}

impl<'a, N: KeyNode> LoadQuestions<'a, N> {
    /// Of a load whose tokens begin with `name`.
    pub(super) fn new(node: &'a N, keys: LoadKeys, name: String) -> Self {
        Self { node, keys, name, attempt: 0, may_hold: false }
    }

    /// Asks for this step of this attempt.
    pub(super) async fn ask(&mut self, script: &Script, attempt: u32) -> ScriptReply {
        self.attempt = attempt;
        self.may_hold |= matches!(script, Script::Take | Script::TakeAhead(_));
        if let Some(version) = &mut self.keys.version {
            // Another each time: what an earlier step set may be on a copy by now.
            version.value = format!("{:016x}", rand::random::<u64>());
        }
        let reply = script::read(self.node.ask(&self.command(script)).await);
        self.may_hold = reply.leaves_token(self.may_hold);
        reply
    }

    fn command(&self, script: &Script) -> Vec<u8> {
        let token = |attempt: u32| format!("{}:{attempt}", self.name);
        self.keys.command(script, (&token(self.attempt), &token(self.attempt.wrapping_sub(1))))
    }
}

impl<N: KeyNode> Drop for LoadQuestions<'_, N> {
    fn drop(&mut self) {
        if self.may_hold {
            self.node.tell(&self.command(&Script::Release));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::pending;
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::time::timeout;

    use super::*;

    /// Answers with `says`, or never.
    #[derive(Default)]
    struct Node {
        says: Cell<Option<&'static str>>,
        told: RefCell<Vec<String>>,
    }

    impl KeyNode for Node {
        async fn ask(&self, _: &[u8]) -> Option<Vec<u8>> {
            match self.says.get() {
                Some("") => None,
                Some(says) => Some(says.as_bytes().to_vec()),
                None => pending().await,
            }
        }

        fn tell(&self, command: &[u8]) {
            self.told.borrow_mut().push(String::from_utf8_lossy(command).into_owned());
        }

        fn await_change(&self, _: Time) -> oneshot::Receiver<()> {
            oneshot::channel().1
        }
    }

    fn keys() -> LoadKeys {
        LoadKeys {
            key: b"k".as_slice().into(),
            token: b"t".to_vec(),
            stale: b"s".to_vec(),
            version: None,
            held: Duration::from_secs(1),
            negative: None,
            stale_for: None,
        }
    }

    /// How often the token was released behind these steps and what was said to them.
    async fn releases(steps: &[(Script, Option<&'static str>)]) -> usize {
        let node = Node::default();
        let mut asking = LoadQuestions::new(&node, keys(), "me".to_owned());
        for (script, says) in steps {
            node.says.set(*says);
            let _ = timeout(Duration::ZERO, asking.ask(script, 3)).await; // the load is dropped meanwhile
        }
        drop(asking);
        let told = node.told.borrow();
        assert!(told.iter().all(|told| told.contains("me:3") && told.contains("me:2")), "{told:?}");
        told.len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_may_be_left_is_released_wherever_the_load_is_dropped() {
        let (taken, held, done) =
            (Some("*2\r\n:5\r\n$0\r\n\r\n"), Some("*2\r\n:3\r\n$1\r\n9\r\n"), Some("*1\r\n:6\r\n"));
        let store = || Script::Store(Bytes::new(), Duration::from_secs(1));
        assert_eq!(releases(&[(Script::Take, None)]).await, 1, "it may come yet");
        assert_eq!(releases(&[(Script::Take, Some(""))]).await, 1, "nobody knows");
        assert_eq!(releases(&[(Script::Take, taken)]).await, 1, "while the origin is asked");
        assert_eq!(releases(&[(Script::Take, taken), (store(), None)]).await, 1);
        assert_eq!(releases(&[(Script::Take, taken), (store(), Some("-OOM no\r\n"))]).await, 1);
        assert_eq!(releases(&[(Script::Take, taken), (store(), done)]).await, 0);
        assert_eq!(releases(&[(Script::Take, held), (Script::Look, held)]).await, 0);
        assert_eq!(releases(&[(Script::TakeAhead(Duration::ZERO), Some(""))]).await, 1);
    }
}
