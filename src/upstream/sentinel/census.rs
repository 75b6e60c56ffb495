//! The census of a Sentinel group, without I/O: what each Sentinel and replica said last, and what follows from it.
//!
//! **What proves that no other master has taken a write yet.** Sentinels make a server the master in two ways. Elected: whoever does it
//! has the votes of a majority, and votes are cast before. Told to (`SENTINEL FAILOVER`): it asks nobody, but says of itself that it
//! is at work. So a majority of *all* Sentinels must name the master that is adopted, and show no vote that could still make another
//! one; nobody may be at work, or name a later master; and no replica may say that it has become one. What was asked for at a moment
//! and answered so holds for that moment: two majorities share a member. Silence is no agreement. What cannot be seen: a failover that
//! an operator told a Sentinel that does not answer, onto a replica that does not answer.
//!
//! **Which votes are over.** Those of elections up to the one that made the adopted master. A later one is, when the Sentinel that was
//! voted for was asked after the vote was seen, and is not at work: it alone could act on it. Or, whoever it was, when nobody is.
//!
//! **Who is to be adopted**: whom a majority names, once that server itself says that it is a master.
//!
//! Called by `app/sentinel`, which brings the answers. Holds contract point 4 (others' writes soon).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::statement::{SentinelId, Statement, Vote};
use crate::clock::Time;
use crate::config::Endpoint;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct SentinelCensus {
    adopted: Option<Tenure>,
    roll: BTreeMap<SentinelId, GroupMember>,
    replicas: BTreeMap<Endpoint, ReplicaRole>,
    /// Who was the master before, until it has heard that it is none.
    former: Option<Endpoint>,
}

/// A master, and the number of the failover that made it one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tenure {
    pub(crate) master: Endpoint,
    pub(crate) number: u64,
}

/// A Sentinel of the group.
#[derive(Debug, Default)]
struct GroupMember {
    /// It answers.
    present: bool,
    /// What it said last, and when it was asked.
    said: Option<(Statement, Time)>,
    /// For whom it voted last, as far as that was seen, and since when it has shown that.
    vote: Option<(Vote, Time)>,
    /// The last vote that is known to be over, though it came after the election of the master.
    over: Option<Vote>,
    /// The others that it lists.
    lists: BTreeSet<SentinelId>,
}

/// What a replica says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplicaRole {
    Unknown,
    Replica,
    /// A master, though nobody has named it.
    Promoted,
}

/// What the census says of the adopted master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GroupStanding {
    /// No other had taken a write at this moment.
    Proven(Time),
    /// Too few say so.
    Silent,
    /// Somebody says otherwise.
    Doubted(GroupDoubt),
}

/// Who says that the adopted master may be none any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GroupDoubt {
    /// A Sentinel names a later one.
    Named(Endpoint),
    /// A Sentinel is at work on a failover.
    Failover(SentinelId),
    /// A Sentinel has voted, and it is not known what came of it.
    Voted(SentinelId),
    /// This replica says that it is a master.
    Promoted(Endpoint),
}

impl fmt::Display for GroupDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(other) => write!(f, "a Sentinel names {other}"),
            Self::Failover(id) => write!(f, "Sentinel {id} is at work on a failover"),
            Self::Voted(id) => write!(f, "Sentinel {id} has voted for a failover"),
            Self::Promoted(replica) => write!(f, "the replica {replica} says that it is a master"),
        }
    }
}

impl SentinelCensus {
    /// A Sentinel was asked at `asked` and says this.
    pub(crate) fn hear(&mut self, id: &SentinelId, statement: Statement, asked: Time, now: Time) {
        let Some(member) = self.roll.get_mut(id) else { return };
        // Two addresses may lead to it: what it was asked before is no news.
        if member.said.as_ref().is_some_and(|(_, last)| asked < *last) {
            return;
        }
        // One that cannot be seen this time is not taken back.
        if let Some(vote) = statement.vote.as_ref().filter(|vote| member.vote_shown() != Some(*vote)) {
            member.vote = Some((vote.clone(), now));
        }
        (member.said, member.present) = (Some((statement, asked)), true);
        self.close_elections();
    }

    /// A Sentinel does not answer any more.
    pub(crate) fn miss(&mut self, id: &SentinelId) {
        if let Some(member) = self.roll.get_mut(id) {
            member.present = false;
        }
    }

    /// A Sentinel that answers has this name, and lists these others.
    pub(crate) fn enroll(&mut self, id: &SentinelId, lists: BTreeSet<SentinelId>) {
        for known in lists.iter().chain([id]) {
            if !self.roll.contains_key(known) {
                self.roll.insert(known.clone(), GroupMember::default());
            }
        }
        let majority = self.roll.len() / 2 + 1;
        if let Some(member) = self.roll.get_mut(id) {
            (member.lists, member.present) = (lists, true);
        }
        // Nobody is struck off because those who know of it are away.
        if self.present() < majority {
            return;
        }
        let present = self.roll.iter().filter(|(_, member)| member.present);
        let listed: BTreeSet<_> = present.flat_map(|(id, member)| member.lists.iter().chain([id]).cloned()).collect();
        self.roll.retain(|id, _| listed.contains(id));
    }

    /// These are the replicas. The adopted master may be among them; it is neither asked nor judged as one.
    pub(crate) fn list_replicas(&mut self, listed: &BTreeSet<Endpoint>) {
        self.replicas.retain(|known, _| listed.contains(known));
        for replica in listed {
            self.replicas.entry(replica.clone()).or_insert(ReplicaRole::Unknown);
        }
    }

    /// Those to be asked: all but the master.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = &Endpoint> {
        let master = self.adopted.as_ref().map(|adopted| &adopted.master);
        self.replicas.keys().filter(move |replica| Some(*replica) != master)
    }

    /// A replica says whether it is a master.
    pub(crate) fn hear_replica(&mut self, replica: &Endpoint, is_master: bool) {
        let Some(role) = self.replicas.get_mut(replica) else { return };
        let is_former = self.former.as_ref() == Some(replica);
        if !is_master {
            *role = ReplicaRole::Replica;
            self.former.take_if(|_| is_former);
        } else if !is_former {
            *role = ReplicaRole::Promoted;
        }
    }

    /// Whom a majority names, if that is news: to be adopted once it says that it is a master.
    pub(crate) fn candidate(&self) -> Option<Tenure> {
        let said: Vec<_> =
            self.roll.values().filter(|member| member.present).filter_map(GroupMember::statement).collect();
        let majority = self.majority();
        let is_named = |master: &Endpoint| said.iter().filter(|said| said.named == *master).count() >= majority;
        let master = said.iter().map(|said| said.named.clone()).find(is_named)?;
        let mut numbers: Vec<_> = said.iter().filter(|said| said.named == master).map(|said| said.number).collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        let number = numbers[majority - 1]; // so many name it by this number, or by a later one
        let is_news = |adopted: &Tenure| adopted.master != master || adopted.number < number;
        self.adopted.as_ref().is_none_or(is_news).then_some(Tenure { master, number })
    }

    /// This one says that it is a master, and is the master from now on.
    pub(crate) fn adopt(&mut self, tenure: Tenure) {
        if let Some(former) = self.adopted.take().filter(|former| former.master != tenure.master) {
            self.former = Some(former.master);
        }
        self.replicas.remove(&tenure.master);
        self.roll.values_mut().for_each(|member| member.over = None);
        self.adopted = Some(tenure);
        self.close_elections();
    }

    /// The master that was adopted.
    pub(crate) fn adopted(&self) -> Option<&Tenure> {
        self.adopted.as_ref()
    }

    /// Who is known.
    pub(crate) fn roll(&self) -> impl Iterator<Item = &SentinelId> {
        self.roll.keys()
    }

    /// How many there are, as far as anybody knows.
    pub(crate) fn size(&self) -> usize {
        let said = self.roll.values().filter(|member| member.present).filter_map(GroupMember::statement);
        let told = said.map(|said| said.others.saturating_add(1)).max().unwrap_or(0);
        self.roll.len().max(told)
    }

    /// How many answer.
    pub(crate) fn present(&self) -> usize {
        self.roll.values().filter(|member| member.present).count()
    }

    fn majority(&self) -> usize {
        self.size() / 2 + 1
    }

    /// What all of it says of the adopted master.
    pub(crate) fn standing(&self) -> GroupStanding {
        let Some(adopted) = &self.adopted else { return GroupStanding::Silent };
        if let Some(doubt) = self.doubt(adopted) {
            return GroupStanding::Doubted(doubt);
        }
        let agreeing = self.roll.values().filter_map(|member| {
            let (said, asked) = member.said.as_ref()?;
            let is_seen = said.vote.is_some();
            (said.named == adopted.master && is_seen).then_some(*asked)
        });
        let mut agreeing: Vec<_> = agreeing.collect();
        agreeing.sort_unstable_by(|a, b| b.cmp(a));
        agreeing.get(self.majority() - 1).map_or(GroupStanding::Silent, |asked| GroupStanding::Proven(*asked))
    }

    fn doubt(&self, adopted: &Tenure) -> Option<GroupDoubt> {
        let is_other = |replica: &Endpoint| *replica != adopted.master;
        let mut replicas = self.replicas.iter();
        let promoted = replicas.find(|(replica, role)| **role == ReplicaRole::Promoted && is_other(replica));
        if let Some((replica, _)) = promoted {
            return Some(GroupDoubt::Promoted(replica.clone()));
        }
        for (id, member) in &self.roll {
            let Some(said) = member.statement() else { continue };
            if said.threatens() {
                return Some(GroupDoubt::Failover(id.clone()));
            }
            // What is named by an earlier number was the master before, and is none any more.
            let differs = said.named != adopted.master && said.number >= adopted.number;
            if differs || said.number > adopted.number {
                return Some(GroupDoubt::Named(said.named.clone()));
            }
            if member.vote_shown().is_some_and(|vote| !member.is_over(vote, adopted)) {
                return Some(GroupDoubt::Voted(id.clone()));
            }
        }
        // A group that was set up anew numbers from the beginning.
        self.candidate().map(|candidate| GroupDoubt::Named(candidate.master))
    }

    /// Finds out which elections came to nothing.
    fn close_elections(&mut self) {
        let Some(adopted) = &self.adopted else { return };
        let at_rest = |said: &Statement| !said.fails_over && said.named == adopted.master;
        let resting = self.roll.iter().filter_map(|(id, member)| {
            let (said, asked) = member.said.as_ref()?;
            (member.present && at_rest(said)).then(|| (id.clone(), *asked))
        });
        let resting: BTreeMap<SentinelId, Time> = resting.collect();
        let all_since = (resting.len() >= self.size()).then(|| resting.values().min().copied()).flatten();
        for member in self.roll.values_mut() {
            let Some((vote, seen)) = &member.vote else { continue };
            let leader = vote.leader.as_ref().and_then(|leader| resting.get(leader)).copied();
            if [leader, all_since].into_iter().flatten().any(|asked| asked > *seen) {
                member.over = Some(vote.clone());
            }
        }
    }
}

impl GroupMember {
    fn statement(&self) -> Option<&Statement> {
        self.said.as_ref().map(|(said, _)| said)
    }

    fn vote_shown(&self) -> Option<&Vote> {
        self.vote.as_ref().map(|(vote, _)| vote)
    }

    fn is_over(&self, vote: &Vote, adopted: &Tenure) -> bool {
        vote.number <= adopted.number || self.over.as_ref() == Some(vote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Endpoint {
        Endpoint::Tcp { host: "10.0.0.1".to_owned(), port }
    }

    const AT: fn(u64) -> Time = Time::from_nanos;
    const A: u16 = 1;
    const B: u16 = 2;

    /// Sentinels `0`, `1` .. that all know each other, of which the master is `A`, by the first failover.
    struct Bench {
        census: SentinelCensus,
        names: Vec<SentinelId>,
        now: u64,
    }

    impl Bench {
        fn of(count: usize) -> Self {
            let names: Vec<SentinelId> = (0..count).map(|n| n.to_string().into()).collect();
            let mut bench = Self { census: SentinelCensus::default(), names, now: 0 };
            for n in 0..count {
                bench.lists(n, &(0..count).filter(|other| *other != n).collect::<Vec<_>>());
            }
            bench.all_say(|says| says);
            let candidate = bench.census.candidate().expect("all name it");
            assert_eq!(candidate, Tenure { master: at(A), number: 1 });
            bench.census.adopt(candidate);
            bench.census.list_replicas(&[at(B), at(3)].into());
            bench
        }

        fn lists(&mut self, n: usize, others: &[usize]) {
            let lists = others.iter().map(|other| self.names[*other].clone()).collect();
            self.census.enroll(&self.names[n].clone(), lists);
        }

        /// At rest, after the election of the first master.
        fn usual(&self) -> Statement {
            let vote = Some(Vote { number: 1, leader: None });
            let others = self.names.len() - 1;
            Statement { named: at(A), watched: at(A), number: 1, fails_over: false, others, vote }
        }

        /// One is asked, and says at once what it usually does, but for this.
        fn says(&mut self, n: usize, but: impl Fn(Statement) -> Statement) {
            self.now += 10;
            let said = but(self.usual());
            self.census.hear(&self.names[n].clone(), said, AT(self.now), AT(self.now + 5));
        }

        fn all_say(&mut self, but: impl Fn(Statement) -> Statement) {
            (0..self.names.len()).for_each(|n| self.says(n, &but));
        }

        fn is_proven(&self) -> bool {
            matches!(self.census.standing(), GroupStanding::Proven(_))
        }

        fn doubt(&self) -> GroupDoubt {
            match self.census.standing() {
                GroupStanding::Doubted(doubt) => doubt,
                other => panic!("{other:?}"),
            }
        }
    }

    fn votes(number: u64, leader: usize) -> impl Fn(Statement) -> Statement {
        move |says| Statement { vote: Some(Vote { number, leader: Some(leader.to_string().into()) }), ..says }
    }

    fn names_b(says: Statement) -> Statement {
        Statement { named: at(B), watched: at(B), number: 2, ..says }
    }

    #[test]
    fn it_is_proven_for_the_moment_since_which_a_majority_of_all_was_asked() {
        let mut bench = Bench::of(3);
        bench.all_say(|says| says);
        assert_eq!(bench.census.standing(), GroupStanding::Proven(AT(50)), "of 40, 50 and 60");
        bench.says(0, |says| says);
        assert_eq!(bench.census.standing(), GroupStanding::Proven(AT(60)));
        bench.says(0, |says| says);
        assert_eq!(bench.census.standing(), GroupStanding::Proven(AT(60)), "one alone proves nothing");
    }

    #[test]
    fn silence_is_no_agreement() {
        let mut bench = Bench::of(5);
        for n in 0..3 {
            bench.census.miss(&bench.names[n].clone());
        }
        assert_eq!((bench.census.standing(), bench.census.present()), (GroupStanding::Proven(AT(30)), 2));
        (0..3).for_each(|_| [3, 4].into_iter().for_each(|n| bench.says(n, |says| says)));
        assert_eq!(bench.census.standing(), GroupStanding::Proven(AT(30)), "it does not go on");
        bench.says(0, |says| says);
        assert_eq!(bench.census.standing(), GroupStanding::Proven(AT(100)));
    }

    #[test]
    fn sentinels_that_others_know_of_count_though_they_were_never_heard() {
        let mut bench = Bench::of(3);
        bench.says(0, |says| Statement { others: 4, ..says });
        bench.says(1, |says| says);
        assert_eq!((bench.census.size(), bench.census.standing()), (5, GroupStanding::Proven(AT(30))), "three of five");
        let mut lone = SentinelCensus::default();
        lone.enroll(&"x".into(), ["y".into(), "z".into()].into());
        assert_eq!((lone.size(), lone.present(), lone.standing()), (3, 1, GroupStanding::Silent));
    }

    #[test]
    fn a_vote_is_a_doubt_until_whoever_was_voted_for_says_that_nothing_came_of_it() {
        let mut bench = Bench::of(3);
        bench.says(1, votes(2, 2));
        assert_eq!(bench.doubt(), GroupDoubt::Voted("1".into()));
        bench.says(0, |says| says);
        bench.says(2, |says| Statement { fails_over: true, ..votes(2, 2)(says) });
        assert_eq!(bench.doubt(), GroupDoubt::Voted("1".into()));
        bench.says(1, votes(2, 2));
        assert_eq!(bench.doubt(), GroupDoubt::Voted("1".into()));
        bench.says(2, votes(2, 2));
        assert!(bench.is_proven());
        bench.says(1, votes(3, 2));
        assert_eq!(bench.doubt(), GroupDoubt::Voted("1".into()), "another election");
    }

    #[test]
    fn what_the_leader_said_before_the_vote_was_seen_ends_nothing() {
        let mut bench = Bench::of(3);
        let before = AT(bench.now + 1);
        bench.says(1, votes(2, 2));
        let said = bench.usual();
        bench.census.hear(&"2".into(), said, before, AT(bench.now + 9));
        assert_eq!(bench.doubt(), GroupDoubt::Voted("1".into()));
    }

    #[test]
    fn a_vote_whose_leader_is_silent_or_unknown_is_over_when_all_others_are_and_none_is_at_work() {
        let mut bench = Bench::of(3);
        bench.census.miss(&"2".into());
        bench.says(1, votes(2, 2));
        (0..3).for_each(|_| [0, 1].into_iter().for_each(|n| bench.says(n, votes(2, 2))));
        assert!(matches!(bench.doubt(), GroupDoubt::Voted(_)));
        bench.says(1, votes(3, 9));
        bench.says(0, votes(2, 2));
        bench.says(2, votes(2, 2));
        assert!(matches!(bench.doubt(), GroupDoubt::Voted(_)));
        bench.says(1, votes(3, 9));
        bench.says(2, votes(2, 2));
        bench.says(0, votes(2, 2));
        assert!(bench.is_proven());
    }

    #[test]
    fn a_vote_that_cannot_be_seen_agrees_to_nothing_and_takes_nothing_back() {
        let mut bench = Bench::of(3);
        let hidden = |says| Statement { vote: None, ..says };
        let before = bench.census.standing();
        bench.all_say(hidden);
        assert_eq!((before, bench.census.standing()), (GroupStanding::Proven(AT(20)), GroupStanding::Silent));
        bench.says(1, votes(2, 0));
        bench.says(1, hidden);
        assert_eq!(bench.doubt(), GroupDoubt::Voted("1".into()));
    }

    #[test]
    fn who_is_at_work_is_a_doubt_until_it_has_named_the_new_master() {
        let mut bench = Bench::of(3);
        let forced = |says| Statement { fails_over: true, ..says };
        bench.says(0, forced);
        assert_eq!(bench.doubt(), GroupDoubt::Failover("0".into()));
        bench.census.miss(&"0".into());
        bench.says(1, |says| says);
        assert_eq!(bench.doubt(), GroupDoubt::Failover("0".into()), "it may still be");
        let names_it = |says| Statement { watched: at(A), fails_over: true, ..names_b(says) };
        bench.says(0, names_it);
        assert_eq!(bench.doubt(), GroupDoubt::Named(at(B)));
        bench.says(1, names_b);
        let candidate = bench.census.candidate().expect("a majority names it");
        bench.census.adopt(candidate);
        bench.says(0, |says| Statement { vote: Some(Vote { number: 2, leader: Some("0".into()) }), ..names_it(says) });
        assert!(bench.is_proven(), "it brings the others in line");
    }

    #[test]
    fn a_later_master_is_a_doubt_though_one_alone_names_it_and_a_former_one_is_none() {
        let mut bench = Bench::of(3);
        bench.says(2, names_b);
        assert_eq!((bench.doubt(), bench.census.candidate()), (GroupDoubt::Named(at(B)), None));
        bench.says(1, names_b);
        let candidate = bench.census.candidate().expect("a majority names it");
        assert_eq!(candidate, Tenure { master: at(B), number: 2 });
        bench.census.adopt(candidate);
        assert!(bench.is_proven());
        bench.says(0, |says| says);
        assert!(bench.is_proven(), "it names the former one");
        bench.says(0, |says| Statement { number: 2, ..says });
        assert_eq!(bench.doubt(), GroupDoubt::Named(at(A)), "two at once");
    }

    #[test]
    fn a_master_that_was_made_one_again_is_adopted_again() {
        let mut bench = Bench::of(3);
        let again = |says| Statement { number: 3, ..says };
        bench.says(0, again);
        assert_eq!((bench.doubt(), bench.census.candidate()), (GroupDoubt::Named(at(A)), None));
        bench.says(1, again);
        assert_eq!(bench.census.candidate(), Some(Tenure { master: at(A), number: 3 }));
    }

    #[test]
    fn a_group_that_numbers_from_the_beginning_is_believed_when_a_majority_is() {
        let mut bench = Bench::of(3);
        let anew = |says| Statement { number: 0, ..names_b(says) };
        bench.says(0, anew);
        assert!(bench.is_proven());
        bench.says(1, anew);
        assert_eq!(bench.doubt(), GroupDoubt::Named(at(B)));
        assert_eq!(bench.census.candidate(), Some(Tenure { master: at(B), number: 0 }));
    }

    #[test]
    fn who_does_not_answer_names_nobody() {
        let mut bench = Bench::of(3);
        bench.says(0, names_b);
        bench.says(1, names_b);
        bench.census.miss(&"1".into());
        assert_eq!((bench.census.candidate(), bench.doubt()), (None, GroupDoubt::Named(at(B))));
    }

    #[test]
    fn a_replica_that_says_it_is_a_master_is_a_doubt() {
        let mut bench = Bench::of(3);
        bench.census.hear_replica(&at(B), false);
        assert!(bench.is_proven());
        bench.census.hear_replica(&at(B), true);
        assert_eq!(bench.doubt(), GroupDoubt::Promoted(at(B)));
        bench.census.list_replicas(&[at(3)].into());
        assert!(bench.is_proven(), "nobody lists it any more");
        bench.census.hear_replica(&at(B), true);
        assert!(bench.is_proven(), "nobody asked for it");
    }

    #[test]
    fn the_former_master_is_none_until_it_has_heard_that() {
        let mut bench = Bench::of(3);
        bench.all_say(names_b);
        let candidate = bench.census.candidate().expect("all name it");
        bench.census.adopt(candidate);
        bench.census.list_replicas(&[at(3)].into()); // nobody lists it yet
        bench.census.list_replicas(&[at(A), at(B), at(3)].into());
        assert_eq!(bench.census.replicas().cloned().collect::<Vec<_>>(), [at(A), at(3)]);
        bench.census.hear_replica(&at(A), true);
        assert!(bench.is_proven());
        bench.census.hear_replica(&at(A), false);
        bench.census.hear_replica(&at(A), true);
        assert_eq!(bench.doubt(), GroupDoubt::Promoted(at(A)));
    }

    #[test]
    fn nobody_is_struck_off_the_roll_because_who_lists_it_is_away() {
        let mut bench = Bench::of(3);
        for n in [1, 2] {
            bench.census.miss(&bench.names[n].clone());
        }
        bench.lists(0, &[]);
        assert_eq!(bench.census.roll().count(), 3, "a minority lists it not");
        bench.lists(1, &[0]);
        assert_eq!(bench.census.roll().count(), 2, "a majority does");
        bench.lists(0, &[1, 2]);
        assert_eq!(bench.census.roll().count(), 3);
    }
}
