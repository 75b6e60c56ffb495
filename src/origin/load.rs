//! One load of one key, as a type without I/O: what is to be done next, given what came of the last.
//!
//! In the whole fleet one process at a time loads a key: the one whose **token** lies in Redis beside it. The token is taken in one step
//! with the look that the key is not there, has an end of its own, and dies with every write to the key that goes through the fleet.
//! So what was loaded is put into Redis in one step with the look that the token is still there; if it is, nobody has written since it was
//! taken, and that proves more: the value is right for everybody who asked before that step was sent. If it is not, the
//! write has won, and the load begins again with a look at what Redis has. Who finds another's token waits until it is told that
//! something has changed, and looks again; and at the token's end in any case, so a loader that dies is replaced then.
//!
//! Loads of a process under way at once are limited: a **permit** comes before the token, so that nobody holds a token and waits.
//!
//! Holds contract points 3 (own writes) and 5 (nothing stuck).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::fetched::Fetched;
use crate::clock::Time;
use crate::error::is_passing;
use crate::upstream::redirect_of;

/// A token outlives its load by so much: what the load leaves at its deadline must arrive before.
pub(crate) const MARGIN: Duration = Duration::from_millis(30);

/// The pause between two looks at a key that another loads, where nobody tells of its end: from the first to the longest.
const REST: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(25));
/// The same where somebody will tell, or is lost.
const LONG_REST: Duration = Duration::from_millis(500);
/// So many times as long as where nobody does.
const PATIENT: u32 = 20;
/// A token's time to live is told in whole milliseconds.
const TICK: Duration = Duration::from_millis(1);

/// So often a load may be overtaken by writes.
const MOST_ROUNDS: u32 = 8;

/// Why a load fails that could not begin in time.
pub(super) const TOO_LONG: &str = "it took too long";

/// What is asked of Redis, each in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    /// The value, or the token if there is neither a value nor a token of another.
    Take,
    /// The value, or whether there is a token of another.
    Look,
    /// If the token is there: takes it away, puts the value in its key's place, and for so long.
    Store(Bytes, Duration),
    /// If the token is there: the origin has no value.
    Miss,
    /// If the token is there: takes it away, and shows the stale copy.
    Fail,
    /// If the token is there: takes it away, and the stale copy.
    Forget,
    /// If the token is there: takes it away. Nobody waits for the reply.
    Release,
    /// As `Take`, of a key that is there and ends within so long.
    TakeAhead(Duration),
    /// As `Store`, in place of the value that `TakeAhead` saw, or where that has ended by now.
    Replace(Bytes, Duration, Bytes),
}

/// What Redis said to a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ScriptReply {
    /// The key has this value.
    Found(Bytes),
    /// The fleet knows that the origin has none.
    Negative,
    /// Another loads it, and his token ends after so long.
    Held(Option<Duration>),
    /// Neither a value nor another's token is there.
    Free,
    /// The token is ours; with what marks the value that is there, if one was asked for.
    Taken(Bytes),
    /// The token was there, and what was asked for is done; with the stale copy.
    Proven(Option<Bytes>),
    /// The token was not there, or the key has another value.
    Overtaken,
    /// It is not time to load it anew: the value stays for so long, or without an end.
    Early(Option<Duration>),
    /// An error.
    Refused(String),
    /// No reply.
    Lost,
}

impl ScriptReply {
    /// Whether the token may be in Redis behind this reply, where it was or was not before.
    pub(super) fn leaves_token(&self, before: bool) -> bool {
        match self {
            Self::Taken(_) => true,
            // Of its own token a look says nothing; and what is lost, or refused halfway, may have been done.
            Self::Free | Self::Refused(_) | Self::Lost => before,
            Self::Found(_) | Self::Negative | Self::Held(_) | Self::Proven(_) | Self::Overtaken | Self::Early(_) => {
                false
            }
        }
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LoadStep {
    /// A permit is to be had, by waiting for it if need be.
    Permit,
    /// This is to be asked. Whoever asks for the key after it was sent has no part in what comes of it.
    Ask(Script),
    /// The origin is to be asked, until `load_timeout` after the token was asked for.
    Fetch,
    /// Nothing, for so long.
    Rest(Duration),
    /// Another loads the key: nothing for so long, and then until that is over, as far as somebody tells, or for so long in all.
    Await(Duration, Duration),
    /// It is over.
    End(LoadOutcome),
}

/// What came of the last step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LoadEvent {
    /// It has only begun.
    Begin,
    /// There is a permit, or why there is none.
    Permit(Result<(), &'static str>),
    /// Redis has answered.
    Reply(ScriptReply),
    /// The origin has, or has not.
    Fetched(Fetched),
    /// The pause is over, however it came to that.
    Rested,
}

/// How a load ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LoadOutcome {
    /// The origin's value.
    Loaded(Bytes),
    /// The value that Redis has by now.
    Found(Bytes),
    /// There is none.
    Missing,
    /// That the fleet knew already.
    Negative,
    /// The load failed; this is the value of before.
    Stale(Bytes),
    /// There is no answer, and why.
    Failed(Arc<str>),
    /// Of a load ahead of need: there was nothing to do. It says nothing about the key; who waits is to ask again.
    Needless,
}

/// How a load goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadTerms {
    /// How long a value stays where the origin does not say.
    pub ttl: Duration,
    /// From then on nothing more is begun for it: a load that still waits fails.
    pub until: Time,
}

#[derive(Debug)]
enum LoadStage {
    Looking,
    WaitsForPermit,
    Taking,
    Fetching,
    Ending(LoadOutcome),
    Resting,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Load {
    terms: LoadTerms,
    stage: LoadStage,
    /// A load ahead of need: within so long of the end of the value.
    ahead: Option<Duration>,
    /// What marks the value that it is to replace.
    mark: Bytes,
    /// For how long the value stays yet for which it was too early.
    early: Option<Duration>,
    rest: Duration,
    rounds: u32,
    failed: bool,
}

impl Load {
    /// Of a key that Redis does not have.
    pub(crate) fn new(terms: LoadTerms) -> Self {
        Self {
            terms,
            stage: LoadStage::Looking,
            ahead: None,
            mark: Bytes::new(),
            early: None,
            rest: REST.0,
            rounds: 0,
            failed: false,
        }
    }

    /// Of a key that Redis has, if it ends within `window`.
    pub(crate) fn ahead(terms: LoadTerms, window: Duration) -> Self {
        Self { ahead: Some(window), ..Self::new(terms) }
    }

    /// Whether the permit must be kept.
    pub(crate) fn needs_permit(&self) -> bool {
        matches!(self.stage, LoadStage::WaitsForPermit | LoadStage::Taking | LoadStage::Fetching | LoadStage::Ending(_))
    }

    /// Whether the origin has failed, whatever came of the load.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// It was too early for this load ahead of need: the value stays for so long yet.
    pub(crate) fn was_early(&self) -> Option<Duration> {
        self.early
    }

    /// For so long it may wait for a permit.
    pub(crate) fn left(&self, now: Time) -> Duration {
        self.terms.until.saturating_since(now)
    }

    /// The number of this attempt: each has a token of its own, so that what comes late from an earlier one changes nothing.
    pub(crate) fn attempt(&self) -> u32 {
        self.rounds
    }

    /// What comes next.
    pub(crate) fn next(&mut self, event: LoadEvent, now: Time) -> LoadStep {
        match event {
            LoadEvent::Begin => self.want_permit(now),
            LoadEvent::Permit(Ok(())) => self.take(),
            LoadEvent::Permit(Err(_)) if self.ahead.is_some() => self.end(LoadOutcome::Needless),
            LoadEvent::Permit(Err(why)) => self.fail(why),
            LoadEvent::Rested => {
                self.stage = LoadStage::Looking;
                LoadStep::Ask(Script::Look)
            }
            LoadEvent::Fetched(fetched) => self.fetched(fetched),
            LoadEvent::Reply(reply) => self.replied(reply, now),
        }
    }

    fn replied(&mut self, reply: ScriptReply, now: Time) -> LoadStep {
        if self.ahead.is_some() {
            return self.replied_ahead(reply);
        }
        match reply {
            ScriptReply::Found(value) => self.end(LoadOutcome::Found(value)),
            ScriptReply::Negative => self.end(LoadOutcome::Negative),
            ScriptReply::Taken(_) => {
                self.stage = LoadStage::Fetching;
                LoadStep::Fetch
            }
            ScriptReply::Free => self.want_permit(now),
            ScriptReply::Held(left) => self.wait(left, now),
            ScriptReply::Proven(stale) => self.proven(stale),
            // Some write has won, or nobody knows what has become of the step: what Redis has by now decides.
            ScriptReply::Overtaken => self.again("the key is written again and again", now),
            ScriptReply::Lost => self.again("Redis does not answer", now),
            ScriptReply::Refused(why) if passes(&why) => self.rest(now),
            ScriptReply::Refused(why) => self.fail(&format!("Redis says: {why}")),
            ScriptReply::Early(_) => self.fail("Redis says what it was not asked"),
        }
    }

    fn replied_ahead(&mut self, reply: ScriptReply) -> LoadStep {
        match reply {
            ScriptReply::Taken(mark) => {
                self.mark = mark;
                self.stage = LoadStage::Fetching;
                LoadStep::Fetch
            }
            ScriptReply::Proven(stale) => self.proven(stale),
            ScriptReply::Early(left) => {
                self.early = Some(left.unwrap_or(Duration::MAX));
                self.end(LoadOutcome::Needless)
            }
            _ => self.end(LoadOutcome::Needless), // most likely the value is there
        }
    }

    fn fetched(&mut self, fetched: Fetched) -> LoadStep {
        self.failed = matches!(fetched, Fetched::Failed(_));
        let (script, outcome) = match fetched {
            Fetched::Value { value, stays } => {
                let stays = stays.unwrap_or(self.terms.ttl);
                let script = match self.ahead {
                    _ if stays.is_zero() => Script::Forget,
                    Some(_) => Script::Replace(value.clone(), stays, self.mark.clone()),
                    None => Script::Store(value.clone(), stays),
                };
                (script, LoadOutcome::Loaded(value))
            }
            Fetched::Missing => (Script::Miss, LoadOutcome::Missing),
            Fetched::Failed(why) => (Script::Fail, LoadOutcome::Failed(why)),
        };
        self.stage = LoadStage::Ending(outcome);
        LoadStep::Ask(script)
    }

    fn proven(&mut self, stale: Option<Bytes>) -> LoadStep {
        match (std::mem::replace(&mut self.stage, LoadStage::Looking), stale) {
            (LoadStage::Ending(LoadOutcome::Failed(_)), Some(stale)) => self.end(LoadOutcome::Stale(stale)),
            (LoadStage::Ending(outcome), _) => self.end(outcome),
            _ => self.fail("Redis says what it was not asked"),
        }
    }

    fn want_permit(&mut self, now: Time) -> LoadStep {
        if now >= self.terms.until {
            return self.fail(TOO_LONG);
        }
        self.stage = LoadStage::WaitsForPermit;
        LoadStep::Permit
    }

    fn take(&mut self) -> LoadStep {
        self.stage = LoadStage::Taking;
        LoadStep::Ask(self.ahead.map_or(Script::Take, Script::TakeAhead))
    }

    fn again(&mut self, why: &str, now: Time) -> LoadStep {
        self.rounds += 1;
        if self.rounds > MOST_ROUNDS {
            return self.fail(why);
        }
        if self.rounds > 1 {
            return self.rest(now);
        }
        self.stage = LoadStage::Looking;
        LoadStep::Ask(Script::Look)
    }

    fn wait(&mut self, left: Option<Duration>, now: Time) -> LoadStep {
        let LoadStep::Rest(least) = self.rest(now) else { return self.fail(TOO_LONG) };
        let end = left.map_or(LONG_REST, |left| left + TICK);
        // Longer each time: that there is no value is not told where it came between the look and the question of who tells.
        let longest = end.min(least * PATIENT).min(LONG_REST).min(self.left(now));
        LoadStep::Await(least.min(longest), longest)
    }

    fn rest(&mut self, now: Time) -> LoadStep {
        if now >= self.terms.until {
            return self.fail(TOO_LONG);
        }
        self.stage = LoadStage::Resting;
        let rest = self.rest;
        self.rest = (rest * 2).min(REST.1);
        LoadStep::Rest(rest)
    }

    fn fail(&mut self, why: &str) -> LoadStep {
        self.end(LoadOutcome::Failed(why.into()))
    }

    fn end(&mut self, outcome: LoadOutcome) -> LoadStep {
        self.stage = LoadStage::Looking;
        LoadStep::End(outcome)
    }
}

/// Whether an error of Redis's passes by itself: its slot moves, or it is busy.
fn passes(error: &str) -> bool {
    let line = format!("-{error}\r\n").into_bytes();
    redirect_of(&line).is_some() || is_passing(&line)
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);
    const NOW: Time = Time::from_nanos(5_000_000_000);

    fn terms() -> LoadTerms {
        LoadTerms { ttl: TTL, until: NOW.plus(Duration::from_secs(3)) }
    }

    fn load() -> Load {
        Load::new(terms())
    }

    fn value() -> Bytes {
        Bytes::from_static(b"v")
    }

    fn reply(load: &mut Load, reply: ScriptReply) -> LoadStep {
        load.next(LoadEvent::Reply(reply), NOW)
    }

    /// A load that has asked its origin.
    fn fetching() -> Load {
        let mut load = load();
        assert_eq!(load.next(LoadEvent::Begin, NOW), LoadStep::Permit);
        assert_eq!(load.next(LoadEvent::Permit(Ok(())), NOW), LoadStep::Ask(Script::Take));
        assert_eq!(reply(&mut load, ScriptReply::Taken(Bytes::new())), LoadStep::Fetch);
        assert!(load.needs_permit());
        load
    }

    fn fetched(load: &mut Load, fetched: Fetched) -> LoadStep {
        load.next(LoadEvent::Fetched(fetched), NOW)
    }

    #[test]
    fn permit_first_token_second_then_the_value_in_one_step() {
        let mut load = fetching();
        let step = fetched(&mut load, Fetched::Value { value: value(), stays: None });
        assert_eq!(step, LoadStep::Ask(Script::Store(value(), TTL)));
        assert!(load.needs_permit());
        assert_eq!(reply(&mut load, ScriptReply::Proven(None)), LoadStep::End(LoadOutcome::Loaded(value())));
        assert!(!load.needs_permit());
    }

    #[test]
    fn what_may_not_be_stored_is_proven_all_the_same() {
        let mut load = fetching();
        let step = fetched(&mut load, Fetched::Value { value: value(), stays: Some(Duration::ZERO) });
        assert_eq!(step, LoadStep::Ask(Script::Forget), "and no copy of before stands in for it later");
        assert_eq!(reply(&mut load, ScriptReply::Proven(None)), LoadStep::End(LoadOutcome::Loaded(value())));
        let mut load = fetching();
        let stays = Duration::from_secs(7);
        let step = fetched(&mut load, Fetched::Value { value: value(), stays: Some(stays) });
        assert_eq!(step, LoadStep::Ask(Script::Store(value(), stays)), "as long as the origin says");
    }

    #[test]
    fn a_key_that_is_there_by_now_is_not_loaded() {
        for (said, outcome) in
            [(ScriptReply::Found(value()), LoadOutcome::Found(value())), (ScriptReply::Negative, LoadOutcome::Negative)]
        {
            let mut load = load();
            load.next(LoadEvent::Begin, NOW);
            load.next(LoadEvent::Permit(Ok(())), NOW);
            assert_eq!(reply(&mut load, said), LoadStep::End(outcome));
            assert!(!load.needs_permit());
        }
    }

    #[test]
    fn who_finds_anothers_token_waits_without_a_permit_and_takes_its_place_when_it_is_gone() {
        let mut load = load();
        load.next(LoadEvent::Begin, NOW);
        load.next(LoadEvent::Permit(Ok(())), NOW);
        assert_eq!(reply(&mut load, ScriptReply::Held(None)), LoadStep::Await(REST.0, REST.0 * PATIENT));
        assert!(!load.needs_permit());
        let mut rest = REST.0;
        for _ in 0..10 {
            assert_eq!(load.next(LoadEvent::Rested, NOW), LoadStep::Ask(Script::Look));
            rest = (rest * 2).min(REST.1);
            assert_eq!(
                reply(&mut load, ScriptReply::Held(None)),
                LoadStep::Await(rest, (rest * PATIENT).min(LONG_REST))
            );
        }
        load.next(LoadEvent::Rested, NOW);
        assert_eq!(reply(&mut load, ScriptReply::Free), LoadStep::Permit);
        assert_eq!(load.next(LoadEvent::Permit(Ok(())), NOW), LoadStep::Ask(Script::Take));
    }

    #[test]
    fn whatever_it_is_told_it_looks_at_the_end_of_the_token_and_of_its_own_patience() {
        let ms = Duration::from_millis;
        let held = |left, now| {
            let mut load = load();
            load.next(LoadEvent::Begin, NOW);
            load.next(LoadEvent::Permit(Ok(())), NOW);
            load.next(LoadEvent::Reply(ScriptReply::Held(Some(ms(left)))), now)
        };
        assert_eq!(held(20, NOW), LoadStep::Await(REST.0, ms(21)));
        assert_eq!(held(0, NOW), LoadStep::Await(ms(1), ms(1)));
        assert_eq!(held(9_999, NOW), LoadStep::Await(REST.0, REST.0 * PATIENT));
        assert_eq!(held(9_999, NOW.plus(ms(2_990))), LoadStep::Await(REST.0, ms(10)));
    }

    #[test]
    fn it_is_known_when_a_token_may_be_left() {
        for before in [false, true] {
            assert!(ScriptReply::Taken(Bytes::new()).leaves_token(before));
            for doubtful in [ScriptReply::Free, ScriptReply::Lost, ScriptReply::Refused(String::new())] {
                assert_eq!(doubtful.leaves_token(before), before, "{doubtful:?}");
            }
            for sure in [
                ScriptReply::Found(value()),
                ScriptReply::Negative,
                ScriptReply::Held(None),
                ScriptReply::Proven(None),
                ScriptReply::Overtaken,
                ScriptReply::Early(None),
            ] {
                assert!(!sure.leaves_token(before), "{sure:?}");
            }
        }
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut load = load();
        load.next(LoadEvent::Begin, NOW);
        load.next(LoadEvent::Permit(Ok(())), NOW);
        let late = NOW.plus(Duration::from_secs(3));
        assert_eq!((load.left(NOW), load.left(late)), (Duration::from_secs(3), Duration::ZERO));
        for said in [ScriptReply::Held(None), ScriptReply::Free] {
            let step = load.next(LoadEvent::Reply(said), late);
            assert!(matches!(step, LoadStep::End(LoadOutcome::Failed(_))), "{step:?}");
        }
    }

    #[test]
    fn a_write_meanwhile_wins() {
        for came in [
            Fetched::Value { value: value(), stays: None },
            Fetched::Value { value: value(), stays: Some(Duration::ZERO) },
            Fetched::Missing,
            Fetched::Failed("503".into()),
        ] {
            let mut load = fetching();
            fetched(&mut load, came.clone());
            assert_eq!(reply(&mut load, ScriptReply::Overtaken), LoadStep::Ask(Script::Look), "{came:?}");
            assert!(!load.needs_permit());
            let new = Bytes::from_static(b"written");
            assert_eq!(reply(&mut load, ScriptReply::Found(new.clone())), LoadStep::End(LoadOutcome::Found(new)));
        }
    }

    #[test]
    fn a_load_that_is_overtaken_for_ever_fails() {
        let mut load = fetching();
        let mut overtaken = 0;
        let outcome = loop {
            overtaken += 1;
            fetched(&mut load, Fetched::Missing);
            match reply(&mut load, ScriptReply::Overtaken) {
                LoadStep::End(outcome) => break outcome,
                LoadStep::Rest(_) => assert_eq!(load.next(LoadEvent::Rested, NOW), LoadStep::Ask(Script::Look)),
                step => assert_eq!(step, LoadStep::Ask(Script::Look)),
            }
            assert_eq!(reply(&mut load, ScriptReply::Free), LoadStep::Permit);
            load.next(LoadEvent::Permit(Ok(())), NOW);
            assert_eq!(reply(&mut load, ScriptReply::Taken(Bytes::new())), LoadStep::Fetch);
        };
        assert!(matches!(outcome, LoadOutcome::Failed(_)) && overtaken == MOST_ROUNDS + 1);
    }

    #[test]
    fn what_fails_says_why_unless_there_is_a_stale_copy() {
        let why: Arc<str> = "the origin says 503".into();
        let mut load = fetching();
        assert_eq!(fetched(&mut load, Fetched::Failed(Arc::clone(&why))), LoadStep::Ask(Script::Fail));
        assert_eq!(reply(&mut load, ScriptReply::Proven(None)), LoadStep::End(LoadOutcome::Failed(Arc::clone(&why))));
        let mut load = fetching();
        fetched(&mut load, Fetched::Failed(why));
        assert_eq!(reply(&mut load, ScriptReply::Proven(Some(value()))), LoadStep::End(LoadOutcome::Stale(value())));
    }

    #[test]
    fn a_missing_value_is_left_as_such() {
        let mut load = fetching();
        assert_eq!(fetched(&mut load, Fetched::Missing), LoadStep::Ask(Script::Miss));
        assert_eq!(reply(&mut load, ScriptReply::Proven(None)), LoadStep::End(LoadOutcome::Missing));
    }

    #[test]
    fn without_a_permit_the_client_is_told() {
        let mut load = load();
        load.next(LoadEvent::Begin, NOW);
        let step = load.next(LoadEvent::Permit(Err("too many wait")), NOW);
        assert_eq!(step, LoadStep::End(LoadOutcome::Failed("too many wait".into())));
    }

    #[test]
    fn a_reply_that_is_lost_is_looked_for_and_an_error_is_told() {
        let mut load = fetching();
        fetched(&mut load, Fetched::Value { value: value(), stays: None });
        assert_eq!(reply(&mut load, ScriptReply::Lost), LoadStep::Ask(Script::Look));
        assert!(matches!(reply(&mut load, ScriptReply::Refused("TRYAGAIN x".into())), LoadStep::Rest(_)));
        load.next(LoadEvent::Rested, NOW);
        let step = reply(&mut load, ScriptReply::Refused("NOPERM x".into()));
        assert_eq!(step, LoadStep::End(LoadOutcome::Failed("Redis says: NOPERM x".into())));
    }

    #[test]
    fn a_load_ahead_replaces_what_it_saw_and_gives_up_at_the_first_hindrance() {
        let window = Duration::from_secs(1);
        let begin = || {
            let mut load = Load::ahead(terms(), window);
            assert_eq!(load.next(LoadEvent::Begin, NOW), LoadStep::Permit);
            load
        };
        let mark = Bytes::from_static(b"m");
        let mut load = begin();
        assert_eq!(load.next(LoadEvent::Permit(Ok(())), NOW), LoadStep::Ask(Script::TakeAhead(window)));
        assert_eq!(reply(&mut load, ScriptReply::Taken(mark.clone())), LoadStep::Fetch);
        let step = fetched(&mut load, Fetched::Value { value: value(), stays: None });
        assert_eq!(step, LoadStep::Ask(Script::Replace(value(), TTL, mark)));
        assert_eq!(reply(&mut load, ScriptReply::Proven(None)), LoadStep::End(LoadOutcome::Loaded(value())));
        let left = Duration::from_secs(7);
        for (hindrance, early) in [
            (ScriptReply::Early(Some(left)), Some(left)),
            (ScriptReply::Early(None), Some(Duration::MAX)),
            (ScriptReply::Held(None), None),
            (ScriptReply::Free, None),
            (ScriptReply::Lost, None),
        ] {
            let mut load = begin();
            load.next(LoadEvent::Permit(Ok(())), NOW);
            assert_eq!(reply(&mut load, hindrance), LoadStep::End(LoadOutcome::Needless));
            assert_eq!(load.was_early(), early);
        }
        let step = begin().next(LoadEvent::Permit(Err("busy")), NOW);
        assert_eq!(step, LoadStep::End(LoadOutcome::Needless));
        for (came, script) in [(Fetched::Missing, Script::Miss), (Fetched::Failed("x".into()), Script::Fail)] {
            let mut load = begin();
            load.next(LoadEvent::Permit(Ok(())), NOW);
            reply(&mut load, ScriptReply::Taken(Bytes::new()));
            assert_eq!(fetched(&mut load, came), LoadStep::Ask(script));
            let step = reply(&mut load, ScriptReply::Overtaken);
            assert_eq!(step, LoadStep::End(LoadOutcome::Needless), "the value is there until its end");
        }
        // Its end has come, and somebody waits.
        let mut load = begin();
        load.next(LoadEvent::Permit(Ok(())), NOW);
        reply(&mut load, ScriptReply::Taken(Bytes::new()));
        fetched(&mut load, Fetched::Failed("x".into()));
        assert_eq!(reply(&mut load, ScriptReply::Proven(Some(value()))), LoadStep::End(LoadOutcome::Stale(value())));
    }
}
