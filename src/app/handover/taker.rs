//! What the process does that takes over: a state machine without I/O.
//!
//! It gives up, and so ends, where the giver refuses, and on whatever else goes wrong before it lets clients in: that one goes on then.
//! Where the giver is gone without a word it is in its place at once, if it has all that there was to give. Either way it lets nobody in
//! before it has the baton, which the giver takes where it goes on. Only that the giver is gone, or says so, proves that it serves
//! nobody: one that is frozen may go on at any time. `take` tells this what happened and does what it says.

use std::time::Duration;

use super::message::{HandoverHello, HandoverMessage, SocketNote};
use super::terms::HandoverTerms;
use crate::clock::Time;
use crate::proxy::ClientRecord;

/// The giver may take so long for each thing that it does at once: it has hot names to look for before one of them.
const AT_ONCE: Duration = Duration::from_secs(10);
/// So many bytes of names of hot keys are taken.
const MOST_NAMES: usize = 32 << 20;
/// The giver ends when it says that it will; so much later it is told of.
const GRACE: Duration = Duration::from_secs(2);

/// See the module's head.
#[derive(Debug)]
pub(super) struct Taker {
    state: TakerState,
    deadline: Time,
    /// Bytes of names that came.
    names: usize,
    /// The giver is no more.
    is_alone: bool,
    /// What clients found behind the giver.
    pub(super) terms: HandoverTerms,
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
    /// The sockets that came with the message are these, and the baton is behind them.
    Adopt(Vec<SocketNote>),
    /// All that the giver has to give is here.
    Prepare,
    /// The baton is to be taken, if it is there.
    TakeBaton,
    /// Clients are to be let in.
    LetIn,
    /// This is to be said.
    Say(HandoverMessage),
    /// The client that came with the message is this process's.
    Resume(Box<ClientRecord>),
    /// The giver leaves: all that it gave is this process's.
    Follow,
    /// Nothing that the giver says counts any more, only that it ends.
    AwaitEnd,
    /// The giver should have ended, and has not.
    Overdue,
    /// The giver serves nobody any more: memory may answer.
    BeAlone,
    /// Nothing comes of it, for this reason: the giver goes on, and this process ends.
    Fail(String),
}

impl Taker {
    /// The giver is there. What is to be said first.
    pub(super) fn new(now: Time) -> (Self, HandoverMessage) {
        let (state, terms) = (TakerState::Strange, HandoverTerms::default());
        let taker = Self { state, deadline: now.plus(AT_ONCE), names: 0, is_alone: false, terms };
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
                Ok(()) => {
                    self.terms = hello.terms.unwrap_or_default();
                    self.go(TakerState::Greeted, now.plus(AT_ONCE), Vec::new())
                }
                Err(why) => self.fail(why),
            },
            (TakerState::Greeted, Sockets { sockets }) => {
                self.go(TakerState::Given, now.plus(AT_ONCE), vec![TakerStep::Adopt(sockets)])
            }
            (TakerState::Given, NamesEnd) => self.go(TakerState::Preparing, Time::NEVER, vec![TakerStep::Prepare]),
            (TakerState::Asking, Released) => vec![TakerStep::TakeBaton],
            (TakerState::Serving, Draining { within_ms }) => {
                let until = now.plus(Duration::from_millis(within_ms)).plus(GRACE);
                self.go(TakerState::Following, until, vec![TakerStep::Follow])
            }
            (TakerState::Following, Client(record)) => vec![TakerStep::Resume(Box::new(record))],
            (TakerState::Following, Gone) => self.be_alone(),
            (TakerState::Serving | TakerState::Following, Refusal { .. }) => {
                self.not_understood("it refuses what is done already")
            }
            (_, Refusal { why }) => self.fail(format!("it refuses: {why}")),
            (_, message) => self.not_understood(&format!("it says {message:?}, which was not its turn")),
        }
    }

    /// The giver has said names of hot keys, so many bytes. They are to be kept where nothing is to be done.
    pub(super) fn hear_names(&mut self, bytes: usize) -> Vec<TakerStep> {
        self.names += bytes;
        if self.state != TakerState::Given {
            return self.not_understood("it says names, which was not its turn");
        }
        if self.names > MOST_NAMES { self.fail("it says more names than there can be".to_owned()) } else { Vec::new() }
    }

    /// This process could serve. What is to be said.
    pub(super) fn ready(&mut self, now: Time) -> Option<HandoverMessage> {
        let is_due = self.state == TakerState::Preparing;
        is_due.then(|| {
            self.go(TakerState::Asking, now.plus(AT_ONCE), ());
            HandoverMessage::Ready
        })
    }

    /// The baton is this process's, or it was not there any more.
    pub(super) fn has_baton(&mut self, has: bool) -> Vec<TakerStep> {
        if self.state != TakerState::Asking {
            return Vec::new();
        }
        if !has {
            return self.fail("it goes on itself, for this process was too late".to_owned());
        }
        // A giver that is silent from here on may serve yet, or be gone: both show.
        let mut steps = self.go(TakerState::Serving, Time::NEVER, vec![TakerStep::LetIn]);
        steps.push(TakerStep::Say(HandoverMessage::Serving));
        if self.is_alone {
            steps.extend(self.gone());
        }
        steps
    }

    /// The giver is gone, and has not said why: with all that it gave, this process is in its place.
    pub(super) fn gone(&mut self) -> Vec<TakerStep> {
        self.is_alone = true;
        let mut steps = match self.state {
            TakerState::Preparing | TakerState::Asking => {
                return self.go(TakerState::Asking, Time::NEVER, vec![TakerStep::TakeBaton]);
            }
            TakerState::Serving => vec![TakerStep::Follow],
            TakerState::Following => Vec::new(),
            _ => return self.fail("it is gone".to_owned()),
        };
        steps.extend(self.be_alone());
        steps
    }

    /// The giver, or the line to it, is not as it should be. One that may leave, or does, is waited for until it is gone.
    pub(super) fn not_understood(&mut self, why: &str) -> Vec<TakerStep> {
        match self.state {
            TakerState::Serving => {
                self.go(TakerState::Following, Time::NEVER, vec![TakerStep::Follow, TakerStep::AwaitEnd])
            }
            TakerState::Following => vec![TakerStep::AwaitEnd],
            _ => self.fail(why.to_owned()),
        }
    }

    /// The deadline has passed. A giver that was leaving and is there still may be frozen, and serve a moment later.
    pub(super) fn late(&mut self) -> Vec<TakerStep> {
        match self.state {
            TakerState::Following => self.go(TakerState::Following, Time::NEVER, vec![TakerStep::Overdue]),
            _ => self.fail("it does not answer".to_owned()),
        }
    }

    fn fail(&mut self, why: String) -> Vec<TakerStep> {
        match self.state {
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
            let mut steps = taker.hear(message.clone(), NOW);
            if steps == [TakerStep::TakeBaton] {
                steps = taker.has_baton(true);
            }
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
        let serving = TakerStep::Say(HandoverMessage::Serving);
        assert_eq!(taker.hear(HandoverMessage::Released, NOW), [TakerStep::TakeBaton]);
        assert_eq!(taker.has_baton(true), [TakerStep::LetIn, serving]);
        assert_eq!(taker.deadline(), Time::NEVER, "a giver that is silent may serve yet");
        assert_eq!(taker.hear(DRAINING, NOW), [TakerStep::Follow]);
        assert_eq!(taker.deadline(), NOW.plus(Duration::from_secs(1)).plus(GRACE));
        let record = ClientRecord { db: 7, ..ClientRecord::default() };
        assert_eq!(taker.hear(HandoverMessage::Client(record.clone()), NOW), [TakerStep::Resume(Box::new(record))]);
        assert_eq!(taker.hear(HandoverMessage::Gone, NOW), [TakerStep::BeAlone]);
        assert!(taker.gone().is_empty() && taker.late().is_empty(), "nobody is missed");
    }

    fn fails(steps: &[TakerStep]) -> bool {
        matches!(steps, [TakerStep::Fail(_)])
    }

    /// One that has said that it is ready, and not heard what of it.
    fn asking() -> Taker {
        let mut taker = taker(3);
        assert_eq!(taker.ready(NOW), Some(HandoverMessage::Ready));
        taker
    }

    #[test]
    fn it_gives_up_where_it_is_refused_before_the_giver_leaves() {
        let refusal = || HandoverMessage::Refusal { why: "no".to_owned() };
        for mut taker in (0..4).map(taker).chain([asking()]) {
            assert!(fails(&taker.hear(refusal(), NOW)), "{taker:?}");
            assert!(taker.hear(refusal(), NOW).is_empty() && taker.gone().is_empty(), "once");
        }
        let mut leaves = taker(5);
        assert_eq!(leaves.hear(refusal(), NOW), [TakerStep::AwaitEnd], "that is no proof");
        let mut serves = taker(4);
        assert_eq!(serves.hear(refusal(), NOW), [TakerStep::Follow, TakerStep::AwaitEnd], "it lets clients in");
    }

    #[test]
    fn it_lets_nobody_in_where_the_giver_has_the_baton() {
        let mut dead = asking();
        dead.gone();
        let mut late = asking();
        late.hear(HandoverMessage::Released, NOW);
        for mut taker in [late, dead] {
            assert!(fails(&taker.has_baton(false)), "{taker:?}");
            assert!(taker.has_baton(true).is_empty() && taker.gone().is_empty(), "once");
        }
    }

    #[test]
    fn where_the_giver_dies_it_is_in_its_place_if_it_has_all() {
        for count in 0..3 {
            assert!(fails(&taker(count).gone()), "after {count} messages");
        }
        for mut taker in [taker(3), asking()] {
            assert_eq!(taker.gone(), [TakerStep::TakeBaton], "{taker:?}");
            let serving = TakerStep::Say(HandoverMessage::Serving);
            let steps = [TakerStep::LetIn, serving, TakerStep::Follow, TakerStep::BeAlone];
            assert_eq!(taker.has_baton(true), steps, "{taker:?}");
            assert_eq!((taker.ready(NOW), taker.deadline()), (None, Time::NEVER));
        }
        assert_eq!(taker(4).gone(), [TakerStep::Follow, TakerStep::BeAlone], "it lets clients in already");
        assert_eq!(taker(5).gone(), [TakerStep::BeAlone]);
        assert!(taker(6).gone().is_empty());
    }

    #[test]
    fn what_is_not_understood_is_no_proof_that_the_giver_is_gone() {
        for mut taker in (0..4).map(taker).chain([asking()]) {
            assert!(fails(&taker.not_understood("odd")), "{taker:?}");
        }
        let mut serves = taker(4);
        assert_eq!(serves.not_understood("odd"), [TakerStep::Follow, TakerStep::AwaitEnd]);
        assert_eq!((serves.deadline(), serves.gone()), (Time::NEVER, vec![TakerStep::BeAlone]));
        let mut follows = taker(5);
        let deadline = follows.deadline();
        assert_eq!(follows.hear(DRAINING, NOW), [TakerStep::AwaitEnd]);
        assert_eq!(follows.hear_names(7), [TakerStep::AwaitEnd]);
        assert_eq!((follows.deadline(), follows.late()), (deadline, vec![TakerStep::Overdue]));
        assert_eq!((follows.deadline(), follows.gone()), (Time::NEVER, vec![TakerStep::BeAlone]));
    }

    #[test]
    fn who_does_not_answer_in_time_goes_on() {
        for mut taker in (0..3).map(taker).chain([asking()]) {
            assert_ne!(taker.deadline(), Time::NEVER, "{taker:?}");
            assert!(fails(&taker.late()));
        }
    }

    #[test]
    fn names_come_behind_the_sockets_alone_and_not_without_end() {
        let mut given = taker(2);
        assert!(given.hear_names(MOST_NAMES).is_empty());
        assert!(fails(&given.hear_names(1)));
        for count in [0, 1, 3] {
            assert!(fails(&taker(count).hear_names(1)), "after {count} messages");
        }
    }

    #[test]
    fn what_comes_before_its_turn_is_a_fault_and_another_version_is_refused() {
        let client = HandoverMessage::Client(ClientRecord::default());
        assert!(fails(&taker(3).hear(client, NOW)));
        assert!(fails(&taker(1).hear(HandoverMessage::Released, NOW)));
        let newer = HandoverHello { oldest: 99, newest: 99, ..HandoverHello::own() };
        assert!(fails(&taker(0).hear(HandoverMessage::Hello(newer), NOW)));
    }
}
