//! What the process does that takes over: a state machine without I/O.
//!
//! It gives up, and so ends, on whatever goes wrong before the giver has confirmed that it leaves: that one goes on then. After that
//! there is nobody else, and it goes on whatever becomes of the giver. `take` tells it what happened and does what it says.

use std::time::Duration;

use super::message::{HandoverHello, HandoverMessage, SocketNote};
use crate::clock::Time;
use crate::proxy::ClientRecord;

/// The giver may take so long for each thing that it does at once: it has hot names to look for before one of them.
const AT_ONCE: Duration = Duration::from_secs(10);
/// The giver ends when it says that it will, or so much later.
const GRACE: Duration = Duration::from_secs(2);

/// See the module's head.
#[derive(Debug)]
pub(super) struct Taker {
    state: TakerState,
    deadline: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TakerState {
    /// The giver has not said who it is.
    Strange,
    /// It is one that is understood.
    Greeted,
    /// The sockets are here.
    Given,
    /// All is here: this process prepares.
    Preparing,
    /// It is ready, and waits for its turn.
    Asking,
    /// It lets clients in.
    Serving,
    /// So it will: the giver leaves.
    Following,
    /// The giver is gone.
    Alone,
    /// Nothing came of it.
    Failed,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TakerStep {
    /// The sockets that came with the message are these.
    Adopt(Vec<SocketNote>),
    /// All that the giver has to give is here.
    Prepare,
    /// Clients are to be let in; then this is said.
    LetIn(HandoverMessage),
    /// The client that came with the message is this process's.
    Resume(Box<ClientRecord>),
    /// The giver leaves: the path is this process's, to be taken over in its turn.
    Follow,
    /// The giver serves nobody any more: memory may answer.
    BeAlone,
    /// Nothing comes of it, for this reason: the giver goes on, and this process ends.
    Fail(String),
}

impl Taker {
    /// The giver is there. What is to be said first.
    pub(super) fn new(now: Time) -> (Self, HandoverMessage) {
        let taker = Self { state: TakerState::Strange, deadline: now.plus(AT_ONCE) };
        (taker, HandoverMessage::Hello(HandoverHello::own()))
    }

    /// When [`late`](Self::late) is to be called.
    pub(super) fn deadline(&self) -> Time {
        self.deadline
    }

    /// The giver has said this.
    pub(super) fn hear(&mut self, message: HandoverMessage, now: Time) -> Vec<TakerStep> {
        use HandoverMessage::{Client, Draining, Gone, Hello, NamesEnd, Refusal, Released, Sockets};
        match (self.state, message) {
            (TakerState::Strange, Hello(hello)) => match hello.agree() {
                Ok(()) => self.go(TakerState::Greeted, now.plus(AT_ONCE), Vec::new()),
                Err(why) => self.fail(why),
            },
            (TakerState::Greeted, Sockets { sockets }) => {
                self.go(TakerState::Given, now.plus(AT_ONCE), vec![TakerStep::Adopt(sockets)])
            }
            (TakerState::Given, NamesEnd) => self.go(TakerState::Preparing, Time::NEVER, vec![TakerStep::Prepare]),
            (TakerState::Asking, Released) => {
                let serving = TakerStep::LetIn(HandoverMessage::Serving);
                self.go(TakerState::Serving, now.plus(AT_ONCE), vec![serving])
            }
            (TakerState::Serving, Draining { within_ms }) => {
                let until = now.plus(Duration::from_millis(within_ms)).plus(GRACE);
                self.go(TakerState::Following, until, vec![TakerStep::Follow])
            }
            (TakerState::Following, Client(record)) => vec![TakerStep::Resume(Box::new(record))],
            (TakerState::Following, Gone) => self.be_alone(),
            (_, Refusal { why }) => self.fail(format!("it refuses: {why}")),
            (_, message) => self.fail(format!("it says {message:?}, which was not its turn")),
        }
    }

    /// This process could serve. What is to be said.
    pub(super) fn ready(&mut self, now: Time) -> Option<HandoverMessage> {
        let is_due = self.state == TakerState::Preparing;
        is_due.then(|| {
            self.go(TakerState::Asking, now.plus(AT_ONCE), ());
            HandoverMessage::Ready
        })
    }

    /// The connection has ended: a giver that was leaving is gone.
    pub(super) fn lost(&mut self, why: &str) -> Vec<TakerStep> {
        self.fail(format!("it is gone: {why}"))
    }

    /// The deadline has passed: a giver that was leaving has had its time.
    pub(super) fn late(&mut self) -> Vec<TakerStep> {
        self.fail("it does not answer".to_owned())
    }

    fn fail(&mut self, why: String) -> Vec<TakerStep> {
        match self.state {
            TakerState::Following => self.be_alone(),
            TakerState::Alone | TakerState::Failed => Vec::new(),
            _ => self.go(TakerState::Failed, Time::NEVER, vec![TakerStep::Fail(why)]),
        }
    }

    fn be_alone(&mut self) -> Vec<TakerStep> {
        self.go(TakerState::Alone, Time::NEVER, vec![TakerStep::BeAlone])
    }

    fn go<T>(&mut self, state: TakerState, deadline: Time, steps: T) -> T {
        (self.state, self.deadline) = (state, deadline);
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_nanos(1);

    fn hello() -> HandoverMessage {
        HandoverMessage::Hello(HandoverHello::own())
    }

    const DRAINING: HandoverMessage = HandoverMessage::Draining { within_ms: 1_000 };

    /// One to which so many of these were said, and who was ready when it had to be.
    fn taker(count: usize) -> Taker {
        let (mut taker, _) = Taker::new(NOW);
        let sockets = HandoverMessage::Sockets { sockets: Vec::new() };
        let all =
            [hello(), sockets, HandoverMessage::NamesEnd, HandoverMessage::Released, DRAINING, HandoverMessage::Gone];
        for message in &all[..count] {
            if *message == HandoverMessage::Released {
                assert_eq!(taker.ready(NOW), Some(HandoverMessage::Ready));
            }
            let steps = taker.hear(message.clone(), NOW);
            assert!(!steps.iter().any(|step| matches!(step, TakerStep::Fail(_))), "{steps:?}");
        }
        taker
    }

    #[test]
    fn it_prepares_lets_clients_in_follows_and_is_alone() {
        let (mut taker, first) = Taker::new(NOW);
        assert_eq!(first, hello());
        assert!(taker.hear(hello(), NOW).is_empty());
        let sockets = vec![];
        let adopt = taker.hear(HandoverMessage::Sockets { sockets: sockets.clone() }, NOW);
        assert_eq!(adopt, [TakerStep::Adopt(sockets)]);
        assert_eq!(taker.ready(NOW), None, "there may be more to come");
        assert_eq!(taker.hear(HandoverMessage::NamesEnd, NOW), [TakerStep::Prepare]);
        assert_eq!(taker.deadline(), Time::NEVER, "it takes the time that it needs");
        assert_eq!(taker.ready(NOW), Some(HandoverMessage::Ready));
        assert_eq!(taker.hear(HandoverMessage::Released, NOW), [TakerStep::LetIn(HandoverMessage::Serving)]);
        assert_eq!(taker.hear(DRAINING, NOW), [TakerStep::Follow]);
        assert_eq!(taker.deadline(), NOW.plus(Duration::from_secs(1)).plus(GRACE));
        let record = ClientRecord { db: 7, ..ClientRecord::default() };
        assert_eq!(taker.hear(HandoverMessage::Client(record.clone()), NOW), [TakerStep::Resume(Box::new(record))]);
        assert_eq!(taker.hear(HandoverMessage::Gone, NOW), [TakerStep::BeAlone]);
        assert!(taker.lost("").is_empty() && taker.late().is_empty(), "nobody is missed");
    }

    #[test]
    fn it_gives_up_on_whatever_goes_wrong_until_the_giver_leaves_and_on_nothing_after() {
        let ends: [fn(&mut Taker) -> Vec<TakerStep>; 3] = [
            |taker| taker.lost("reset"),
            Taker::late,
            |taker| taker.hear(HandoverMessage::Refusal { why: "no".to_owned() }, NOW),
        ];
        for end in ends {
            for count in 0..5 {
                let mut taker = taker(count);
                assert!(matches!(end(&mut taker)[..], [TakerStep::Fail(_)]), "after {count} messages");
                assert!(end(&mut taker).is_empty(), "once");
            }
            assert_eq!(end(&mut taker(5)), [TakerStep::BeAlone]);
        }
    }

    #[test]
    fn what_comes_before_its_turn_is_a_fault_and_another_version_is_refused() {
        let client = HandoverMessage::Client(ClientRecord::default());
        assert!(matches!(taker(4).hear(client, NOW)[..], [TakerStep::Fail(_)]));
        assert!(matches!(taker(1).hear(HandoverMessage::Released, NOW)[..], [TakerStep::Fail(_)]));
        assert!(matches!(taker(4).hear(HandoverMessage::Gone, NOW)[..], [TakerStep::Fail(_)]), "it has not left");
        let newer = HandoverHello { oldest: 99, newest: 99, ..HandoverHello::own() };
        assert!(matches!(taker(0).hear(HandoverMessage::Hello(newer), NOW)[..], [TakerStep::Fail(_)]));
    }
}
