//! What one round of questions shows of a node: whether it is certain that nobody else had become the owner of its keys when the
//! round began.
//!
//! Two proofs, each enough by itself. *All who could be elected answer that they are replicas.* Or *nobody can have been elected*:
//! who may vote and was not heard to name the latest number is too few to elect, and each replica that was silent is known to stand in
//! later elections only ([`Standing`]). Why neither can do with less is told in `docs/decisions/census.md`. Knows no time and no
//! crate but `core`: `tests/census` runs these very lines in every order of votes, gossip and questions.
//!
//! Holds contract point 4 (others' writes soon), with `census`.

/// What somebody said in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Testimony {
    /// It takes itself for a master.
    pub(crate) is_master: bool,
    /// The latest election that it knows of: `cluster_current_epoch`.
    pub(crate) epoch: u64,
}

/// How a replica stands to the latest number that anybody has named.
///
/// A candidate stands in one number for twice the nodes' time-out at most, and afterwards only in later ones than it knows of. So a
/// replica that has named the latest one, and so long after says that it is a replica still, can win none but a later one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Standing {
    /// It may stand in the latest number.
    #[default]
    Open,
    /// It has named it, as a replica.
    Named,
    /// It was asked when whoever stood in it had given up, and said that it is a replica.
    Settled,
}

impl Standing {
    /// A replica says this. `outlived`: it was asked twice the time-out or longer after it had named `latest`.
    pub(crate) fn hear(&mut self, said: Testimony, latest: u64, outlived: bool) {
        *self = match *self {
            _ if said.is_master || said.epoch < latest => Self::Open,
            Self::Open => Self::Named,
            Self::Named if outlived => Self::Settled,
            standing => standing,
        };
    }
}

/// One who may become the owner of the node's keys: its replica, as anybody knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Electable {
    /// None: it was silent in this round.
    pub(crate) said: Option<Testimony>,
    /// What is known of it from earlier rounds.
    pub(crate) standing: Standing,
}

/// What a round shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Judgement {
    /// Nobody else had become the owner when it began.
    Proven,
    /// It does not tell.
    Unproven(CensusDoubt),
    /// Somebody else may be the owner by now.
    Revoked(Sign),
}

/// Why a round does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CensusDoubt {
    /// The node was silent.
    Silent,
    /// A replica was silent that may stand in the latest election.
    Heir,
    /// The node does not name the latest number, or so many who may vote were not heard to name it that they could elect.
    Voters,
}

/// A sign that somebody else is the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sign {
    /// The node says that it is no master.
    Demoted,
    /// A replica says that it is a master.
    Successor,
}

/// Judges one node. `voters` are all others who may vote, with what they said; who answers that it is a replica may not. `electors` is
/// the least number of masters with slots that anybody knows of.
pub(crate) fn judge(
    own: Option<Testimony>,
    heirs: &[Electable],
    voters: impl Iterator<Item = Option<Testimony>>,
    latest: u64,
    electors: usize,
) -> Judgement {
    let is_master = |said: Option<Testimony>| said.is_some_and(|said| said.is_master);
    let Some(own) = own else { return Judgement::Unproven(CensusDoubt::Silent) };
    if !own.is_master {
        return Judgement::Revoked(Sign::Demoted);
    }
    if heirs.iter().any(|heir| is_master(heir.said)) {
        return Judgement::Revoked(Sign::Successor);
    }
    let mut silent = heirs.iter().filter(|heir| heir.said.is_none()).peekable();
    if silent.peek().is_none() {
        return Judgement::Proven;
    }
    if silent.any(|heir| heir.standing != Standing::Settled) {
        return Judgement::Unproven(CensusDoubt::Heir);
    }
    let may_vote_unheard = |said: &Option<Testimony>| said.is_none_or(|said| said.is_master && said.epoch < latest);
    let unheard = voters.filter(may_vote_unheard).count();
    if own.epoch == latest && unheard < electors / 2 + 1 {
        Judgement::Proven
    } else {
        Judgement::Unproven(CensusDoubt::Voters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATEST: u64 = 7;

    #[expect(clippy::unnecessary_wraps, reason = "as it is answered")]
    fn master(epoch: u64) -> Option<Testimony> {
        Some(Testimony { is_master: true, epoch })
    }

    #[expect(clippy::unnecessary_wraps, reason = "as it is answered")]
    fn replica(epoch: u64) -> Option<Testimony> {
        Some(Testimony { is_master: false, epoch })
    }

    fn heir(said: Option<Testimony>, standing: Standing) -> Electable {
        Electable { said, standing }
    }

    fn judged(own: Option<Testimony>, heirs: &[Electable], voters: &[Option<Testimony>]) -> Judgement {
        judge(own, heirs, voters.iter().copied(), LATEST, 3)
    }

    #[test]
    fn where_all_replicas_say_that_they_are_nobody_else_need_answer() {
        let heirs = [heir(replica(1), Standing::Open), heir(replica(7), Standing::Named)];
        assert_eq!(judged(master(1), &heirs, &[None, None]), Judgement::Proven);
        assert_eq!(judged(master(1), &[], &[None, None]), Judgement::Proven, "there are none");
    }

    #[test]
    fn what_says_that_another_is_the_owner_revokes() {
        assert_eq!(judged(replica(7), &[], &[]), Judgement::Revoked(Sign::Demoted));
        let heirs = [heir(None, Standing::Open), heir(master(7), Standing::Settled)];
        assert_eq!(judged(master(7), &heirs, &[]), Judgement::Revoked(Sign::Successor));
        assert_eq!(judged(None, &heirs, &[]), Judgement::Unproven(CensusDoubt::Silent));
    }

    #[test]
    fn a_silent_replica_must_be_known_to_stand_in_later_elections_only() {
        for (standing, verdict) in [
            (Standing::Open, Judgement::Unproven(CensusDoubt::Heir)),
            (Standing::Named, Judgement::Unproven(CensusDoubt::Heir)),
            (Standing::Settled, Judgement::Proven),
        ] {
            let heirs = [heir(None, standing), heir(replica(7), Standing::Open)];
            assert_eq!(judged(master(7), &heirs, &[master(7), None]), verdict);
        }
    }

    #[test]
    fn and_those_who_were_not_heard_too_few_to_elect() {
        let silent = [heir(None, Standing::Settled)];
        let doubt = Judgement::Unproven(CensusDoubt::Voters);
        assert_eq!(judged(master(7), &silent, &[master(7), None]), Judgement::Proven);
        assert_eq!(judged(master(7), &silent, &[master(6), None]), doubt, "who names an earlier number may vote");
        assert_eq!(judged(master(7), &silent, &[master(7), replica(1), None]), Judgement::Proven, "a replica may not");
        assert_eq!(judged(master(7), &silent, &[master(7), None, None]), doubt, "counted is by node");
        assert_eq!(judged(master(6), &silent, &[master(7), master(7)]), doubt, "the node itself has not heard of it");
        assert_eq!(judge(master(7), &silent, [].into_iter(), LATEST, 1), Judgement::Proven, "it alone elects");
    }

    #[test]
    fn a_replica_is_settled_when_it_says_so_long_after_it_named_the_number() {
        let mut standing = Standing::default();
        let mut hear = |said: Option<Testimony>, outlived| {
            standing.hear(said.expect("an answer"), LATEST, outlived);
            standing
        };
        assert_eq!(hear(replica(6), true), Standing::Open, "it may not know of it");
        assert_eq!(hear(replica(7), true), Standing::Named);
        assert_eq!(hear(replica(7), false), Standing::Named);
        assert_eq!(hear(replica(7), true), Standing::Settled);
        assert_eq!(hear(replica(7), false), Standing::Settled);
        assert_eq!(hear(master(7), true), Standing::Open);
    }
}
