//! What the process does that is taken over from: a state machine without I/O.
//!
//! Until the taker lets clients in, each end but the right one leaves this process as it was before anybody asked. Whether it does, the
//! baton tells, which either can take: one that has it and says nothing may serve already, so its word is waited for, or its end. `give`
//! tells this what happened and does what it says.

use std::time::Duration;

use super::message::{HandoverHello, HandoverMessage};
use super::terms::HandoverTerms;
use crate::clock::Time;

/// The taker may take so long to say who it is, and to let clients in once it may,
const AT_ONCE: Duration = Duration::from_secs(5);
/// and so long to be ready: it fills its memory meanwhile.
const PREPARATION: Duration = Duration::from_secs(60);

/// See the module's head.
#[derive(Debug)]
pub(super) struct Giver {
    state: GiverState,
    deadline: Time,
    terms: HandoverTerms,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GiverState {
    /// Nobody has said who it is.
    Strange,
    /// The taker has all that it needs, and prepares.
    Offered,
    /// This process lets nobody in any more, and the taker not yet.
    Released,
    /// The taker is late: it may only have the baton.
    Late,
    /// The taker is not understood: if it has the baton, it serves.
    Odd,
    /// The taker serves.
    Over,
    /// Nothing came of it.
    Failed,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GiverStep {
    /// This is to be said.
    Say(HandoverMessage),
    /// The sockets and the names are to be said.
    Offer,
    /// Nobody is to be let in, nothing answered out of memory; then this is said.
    Release(HandoverMessage),
    /// The baton is to be taken, if it is there: then nothing comes of it, for this reason.
    Reclaim(String),
    /// All goes on as before.
    Resume,
    /// The process is to end; what clients are to be served by is not its own any more.
    Leave,
    /// Nothing comes of it, for this reason. The other side is told where it is there.
    Fail(String),
}

impl Giver {
    /// Somebody has connected to a process of these terms.
    pub(super) fn new(now: Time, terms: HandoverTerms) -> Self {
        Self { state: GiverState::Strange, deadline: now.plus(AT_ONCE), terms }
    }

    /// When [`late`](Self::late) is to be called.
    pub(super) fn deadline(&self) -> Time {
        self.deadline
    }

    /// The other side has said this.
    pub(super) fn hear(&mut self, message: HandoverMessage, now: Time) -> Vec<GiverStep> {
        use HandoverMessage::{Hello, Ready, Refusal, Serving};
        match (self.state, message) {
            (GiverState::Strange, Hello(hello)) => match hello.agree() {
                Ok(()) => {
                    self.go(GiverState::Offered, now.plus(PREPARATION));
                    let terms = Some(std::mem::take(&mut self.terms));
                    vec![GiverStep::Say(Hello(HandoverHello { terms, ..HandoverHello::own() })), GiverStep::Offer]
                }
                Err(why) => self.fail(why),
            },
            (GiverState::Offered, Ready) => {
                self.go(GiverState::Released, now.plus(AT_ONCE));
                vec![GiverStep::Release(HandoverMessage::Released)]
            }
            (GiverState::Released | GiverState::Late, Serving) => self.leave(),
            (_, Refusal { why }) => self.odd(format!("the other gives up: {why}")),
            (_, message) => self.odd(format!("it says {message:?}, which was not its turn")),
        }
    }

    /// The baton that was to be [reclaimed](GiverStep::Reclaim) for this reason is this process's, or it was not there any more.
    pub(super) fn reclaimed(&mut self, why: String, has: bool) -> Vec<GiverStep> {
        match self.state {
            GiverState::Late | GiverState::Odd if has => self.fail(why),
            GiverState::Odd => self.leave(),
            _ => Vec::new(),
        }
    }

    /// The sockets cannot be given.
    pub(super) fn cannot_offer(&mut self, why: String) -> Vec<GiverStep> {
        self.fail(why)
    }

    /// The connection has ended, and the other process with it: nobody else has it.
    pub(super) fn lost(&mut self, why: &str) -> Vec<GiverStep> {
        self.fail(format!("the other is gone: {why}"))
    }

    /// The other side says what nobody understands.
    pub(super) fn odd(&mut self, why: String) -> Vec<GiverStep> {
        if !matches!(self.state, GiverState::Released | GiverState::Late) {
            return self.fail(why);
        }
        self.go(GiverState::Odd, Time::NEVER);
        vec![GiverStep::Reclaim(why)]
    }

    /// The deadline has passed.
    pub(super) fn late(&mut self) -> Vec<GiverStep> {
        let why = match self.state {
            GiverState::Strange => "it does not say who it is",
            GiverState::Offered => "it is not ready in time",
            _ => "it lets no clients in, though it may",
        };
        if self.state != GiverState::Released {
            return self.fail(why.to_owned());
        }
        self.go(GiverState::Late, Time::NEVER);
        vec![GiverStep::Reclaim(why.to_owned())]
    }

    fn leave(&mut self) -> Vec<GiverStep> {
        self.go(GiverState::Over, Time::NEVER);
        vec![GiverStep::Leave]
    }

    fn fail(&mut self, why: String) -> Vec<GiverStep> {
        let before = std::mem::replace(&mut self.state, GiverState::Failed);
        self.deadline = Time::NEVER;
        match before {
            GiverState::Over | GiverState::Failed => Vec::new(),
            GiverState::Released | GiverState::Late | GiverState::Odd => vec![GiverStep::Fail(why), GiverStep::Resume],
            GiverState::Strange | GiverState::Offered => vec![GiverStep::Fail(why)],
        }
    }

    fn go(&mut self, state: GiverState, deadline: Time) {
        (self.state, self.deadline) = (state, deadline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_nanos(1);

    fn hello() -> HandoverMessage {
        HandoverMessage::Hello(HandoverHello::own())
    }

    /// One that has come so far.
    fn giver(messages: &[HandoverMessage]) -> Giver {
        let mut giver = Giver::new(NOW, HandoverTerms::default());
        for message in messages {
            let steps = giver.hear(message.clone(), NOW);
            assert!(!steps.iter().any(|step| matches!(step, GiverStep::Fail(_))), "{steps:?}");
        }
        giver
    }

    fn stages() -> [Vec<HandoverMessage>; 3] {
        [vec![], vec![hello()], vec![hello(), HandoverMessage::Ready]]
    }

    #[test]
    fn it_offers_releases_and_leaves() {
        let mut giver = giver(&[]);
        assert_eq!(giver.deadline(), NOW.plus(AT_ONCE));
        let own = HandoverHello { terms: Some(HandoverTerms::default()), ..HandoverHello::own() };
        assert_eq!(giver.hear(hello(), NOW), [GiverStep::Say(HandoverMessage::Hello(own)), GiverStep::Offer]);
        assert_eq!(giver.deadline(), NOW.plus(PREPARATION));
        assert_eq!(giver.hear(HandoverMessage::Ready, NOW), [GiverStep::Release(HandoverMessage::Released)]);
        assert_eq!(giver.deadline(), NOW.plus(AT_ONCE));
        assert_eq!(giver.hear(HandoverMessage::Serving, NOW), [GiverStep::Leave]);
        assert_eq!(giver.deadline(), Time::NEVER);
        assert!(giver.lost("gone").is_empty(), "there is no way back");
    }

    const RESUMES: [fn(&GiverStep) -> bool; 2] =
        [|step| matches!(step, GiverStep::Fail(_)), |step| *step == GiverStep::Resume];

    fn resumes(steps: &[GiverStep]) -> bool {
        steps.len() == 2 && steps.iter().zip(RESUMES).all(|(step, is)| is(step))
    }

    #[test]
    fn whatever_goes_wrong_before_the_other_serves_leaves_it_as_it_was() {
        for (stage, said) in stages().iter().enumerate() {
            let ends: [fn(&mut Giver) -> Vec<GiverStep>; 5] = [
                |giver| giver.lost("reset"),
                Giver::late,
                |giver| giver.odd("garbage".to_owned()),
                |giver| giver.hear(HandoverMessage::Gone, NOW),
                |giver| giver.hear(HandoverMessage::Refusal { why: "no".to_owned() }, NOW),
            ];
            for end in ends {
                let mut giver = giver(said);
                let mut steps = end(&mut giver);
                if let [GiverStep::Reclaim(why)] = &steps[..] {
                    assert_eq!(stage, 2, "only then the other may have it");
                    steps = giver.reclaimed(why.clone(), true);
                }
                assert!(matches!(steps[0], GiverStep::Fail(_)), "{steps:?}");
                assert_eq!(resumes(&steps), stage == 2, "{steps:?}");
                assert!(giver.late().is_empty() && giver.lost("").is_empty(), "it has failed once");
            }
        }
    }

    #[test]
    fn one_that_has_the_baton_serves_whatever_it_says_and_one_that_says_nothing_is_waited_for() {
        let late = || {
            let mut giver = giver(&stages()[2]);
            let steps = giver.late();
            let [GiverStep::Reclaim(why)] = &steps[..] else { panic!("{steps:?}") };
            assert!(giver.reclaimed(why.clone(), false).is_empty());
            assert_eq!(giver.deadline(), Time::NEVER);
            giver
        };
        assert_eq!(late().hear(HandoverMessage::Serving, NOW), [GiverStep::Leave]);
        assert!(resumes(&late().lost("killed")));
        for mut giver in [giver(&stages()[2]), late()] {
            assert!(matches!(&giver.odd("garbage".to_owned())[..], [GiverStep::Reclaim(_)]));
            assert_eq!(giver.reclaimed("garbage".to_owned(), false), [GiverStep::Leave]);
        }
    }

    #[test]
    fn who_speaks_another_version_is_refused_and_so_is_who_jumps_ahead() {
        let newer = HandoverHello { oldest: 99, newest: 99, ..HandoverHello::own() };
        assert!(matches!(&giver(&[]).hear(HandoverMessage::Hello(newer), NOW)[..], [GiverStep::Fail(_)]));
        for early in [HandoverMessage::Ready, HandoverMessage::Serving] {
            assert!(matches!(&giver(&[]).hear(early, NOW)[..], [GiverStep::Fail(_)]));
        }
        assert!(matches!(&giver(&[hello()]).hear(HandoverMessage::Serving, NOW)[..], [GiverStep::Fail(_)]));
        assert!(matches!(&giver(&[hello()]).cannot_offer("closed".to_owned())[..], [GiverStep::Fail(_)]));
    }
}
