//! The census: what rounds of questions to all nodes of a cluster show of each master. Without I/O: answers, lists and times go in,
//! findings come out.
//!
//! A round begins, everybody is asked, and what is answered of it counts ([`Census::finding`]). It comes to nothing as soon as
//! somebody names a number that was not named before. Who may be elected, and who elects, is what any node lists whose list is
//! younger than the nodes' time-out: a node that is cut off does not know what the others have agreed on. What is concluded from an
//! answer stands in [`ballot`](super::ballot).
//!
//! Run by `app`. Holds contract point 4 (others' writes soon).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ballot::{CensusDoubt, Electable, Judgement, Sign, Standing, Testimony, judge};
use super::listing::{Listing, MemberId};
use crate::clock::Time;
use crate::config::Endpoint;
use crate::metrics::CensusFinding;

/// The time-out of nodes that do not tell theirs.
const NODE_TIMEOUT: Duration = Duration::from_secs(15);
/// Of so many nodes lists are short enough to be read in every round: a slot that is taken need not raise a number.
const FEW: usize = 16;
/// A list of nodes that do not tell it is younger than this.
const LIST: Duration = Duration::from_secs(2);
/// A candidate stands so long at the least (`clusterHandleSlaveFailover`).
const CANDIDACY: Duration = Duration::from_secs(2);

/// What a node says of itself: in `HELLO` and `CLUSTER INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberAnswer {
    /// Its role, and the latest election that it knows of.
    pub(crate) said: Testimony,
    /// It takes commands for its slots.
    pub(crate) is_ok: bool,
    /// How many masters with slots it counts.
    pub(crate) size: usize,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Census {
    members: BTreeMap<MemberId, CensusMember>,
    /// The latest number that anybody has named; none: nobody has yet.
    latest: Option<u64>,
    /// The shortest and the longest time-out of those that told theirs.
    timeouts: Option<(Duration, Duration)>,
    /// When the present round began.
    round: Option<Time>,
    /// What was said does not go with what was listed.
    is_outdated: bool,
    /// Made anew where a list or a round is.
    roster: Option<Roster>,
}

/// Who there is, and who may follow whom, by all lists that count.
#[derive(Debug, Default)]
struct Roster {
    all: BTreeSet<MemberId>,
    /// Those whose lists these are.
    listed: BTreeSet<MemberId>,
    /// By master.
    heirs: BTreeMap<MemberId, BTreeSet<MemberId>>,
}

#[derive(Debug)]
struct CensusMember {
    /// Its last answer, and the round in which it was asked.
    answer: Option<(Time, MemberAnswer)>,
    /// Whom it lists, and when it was asked that.
    listing: Option<(Time, Listing)>,
    standing: Standing,
    /// When it had named the latest number.
    named: Time,
}

impl Default for CensusMember {
    fn default() -> Self {
        Self { answer: None, listing: None, standing: Standing::Open, named: Time::ZERO }
    }
}

/// What an answer has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AnswerNews {
    /// There was an election.
    pub(crate) election: bool,
    /// The round came to nothing.
    pub(crate) void: bool,
    /// Something is not as it is listed: whoever is affected should not wait for the end of the round.
    pub(crate) odd: bool,
}

impl Census {
    /// A round begins: all are asked after `now`, and for their `lists` too if need be.
    pub(crate) fn begin(&mut self, now: Time, lists: bool) {
        self.round = Some(now);
        self.is_outdated &= !lists;
        self.roster = None;
    }

    /// The round is over.
    pub(crate) fn end(&mut self) {
        self.round = None;
    }

    /// When the present round began, if there is one.
    pub(crate) fn round(&self) -> Option<Time> {
        self.round
    }

    /// The latest number that was named.
    pub(crate) fn latest(&self) -> u64 {
        self.latest.unwrap_or_default()
    }

    /// Whether all should list anew at `now` whom they know: a list is to be younger than the nodes' time-out.
    pub(crate) fn wants_lists(&self, now: Time) -> bool {
        let age = |member: &CensusMember| member.listing.as_ref().map(|(asked, _)| now.saturating_since(*asked));
        self.is_outdated
            || self.members.len() <= FEW
            || self.members.values().filter_map(age).max().is_none_or(|age| age > self.list_age() / 3)
    }

    /// A node told its time-out.
    pub(crate) fn hear_timeout(&mut self, timeout: Duration) {
        let (shortest, longest) = self.timeouts.unwrap_or((timeout, timeout));
        self.timeouts = Some((shortest.min(timeout), longest.max(timeout)));
    }

    /// Whether who lists this serves other slots than it did when it last listed, or has not listed before.
    pub(crate) fn is_news(&self, listing: &Listing) -> bool {
        let before = self.members.get(&listing.own().id).and_then(|member| member.listing.as_ref());
        before.is_none_or(|(_, before)| before.own().slots != listing.own().slots)
    }

    /// A node lists whom it knows; it was asked at `asked` or later.
    pub(crate) fn hear_list(&mut self, listing: Listing, asked: Time) {
        for node in listing.nodes() {
            self.members.entry(node.id.clone()).or_default();
        }
        let member = self.members.entry(listing.own().id.clone()).or_default();
        member.listing = Some((asked, listing));
        self.roster = None;
    }

    /// A node says this, which was asked in the round that began at `asked`; `now` it is here.
    pub(crate) fn hear(&mut self, id: &MemberId, asked: Time, answer: MemberAnswer, now: Time) -> AnswerNews {
        let mut news = AnswerNews::default();
        if self.latest.is_none_or(|latest| answer.said.epoch > latest) {
            news.election = self.latest.is_some();
            news.void = self.round.take().is_some();
            self.latest = Some(answer.said.epoch);
            self.members.values_mut().for_each(|member| member.standing = Standing::Open);
        }
        let (latest, candidacy) = (self.latest(), self.outlives());
        let member = self.members.entry(id.clone()).or_default();
        let outlived = asked >= member.named.plus(candidacy);
        let before = member.standing;
        member.standing.hear(answer.said, latest, outlived);
        if (before, member.standing) == (Standing::Open, Standing::Named) {
            member.named = now;
        }
        member.answer = Some((asked, answer));
        let listed = member.listing.as_ref().map(|(_, listing)| listing.own().replicates.is_none());
        let is_master = answer.said.is_master;
        news.odd = listed.is_some_and(|listed| listed != is_master) || is_master && !answer.is_ok;
        let counts = member.listing.as_ref().map(|(_, listing)| listing.electors());
        self.is_outdated |= news.odd || news.election || counts.is_some_and(|electors| electors != answer.size);
        news
    }

    /// What the present round shows of the master at `endpoint`, as far as it has come.
    pub(crate) fn finding(&mut self, endpoint: &Endpoint) -> CensusFinding {
        let Some(begun) = self.round else { return CensusFinding::Silent };
        let roster = self.roster.take().unwrap_or_else(|| self.call_roll(begun));
        let finding = self.finding_by(&roster, endpoint, begun);
        self.roster = Some(roster);
        finding
    }

    fn finding_by(&self, roster: &Roster, endpoint: &Endpoint, begun: Time) -> CensusFinding {
        let Some(own) = self.lists(begun).find(|list| list.own().endpoints.contains(endpoint)) else {
            return CensusFinding::Unlisted;
        };
        if own.masters().filter(|master| roster.listed.contains(&master.id)).count() <= own.electors() / 2 {
            return CensusFinding::Unlisted;
        }
        let id = &own.own().id;
        let Some(answer) = self.answer(id, begun) else { return CensusFinding::Silent };
        if answer.said.is_master && !answer.is_ok {
            return CensusFinding::Failing;
        }
        if answer.said.is_master && answer.size != own.electors() {
            return CensusFinding::Electors;
        }
        if self.lists(begun).any(|list| list.overrules(own)) {
            return CensusFinding::Claimed;
        }
        let heirs = roster.heirs.get(id);
        let is_heir = |other: &MemberId| heirs.is_some_and(|heirs| heirs.contains(other));
        let (heirs, others): (Vec<_>, Vec<_>) =
            roster.all.iter().filter(|other| *other != id).partition(|other| is_heir(other));
        let heir = |id: &MemberId| {
            let standing = self.members.get(id).map(|member| member.standing).unwrap_or_default();
            Electable { said: self.answer(id, begun).map(|answer| answer.said), standing }
        };
        let heirs: Vec<_> = heirs.into_iter().map(heir).collect();
        let answers: Vec<_> = others.into_iter().map(|other| self.answer(other, begun)).collect();
        let sizes = answers.iter().flatten().map(|answer| answer.size);
        let electors = sizes.chain([answer.size]).min().unwrap_or_default();
        let voters = answers.iter().map(|answer| answer.map(|answer| answer.said));
        judge(Some(answer.said), &heirs, voters, self.latest(), electors).into()
    }

    fn call_roll(&self, begun: Time) -> Roster {
        let listed = self.lists(begun).map(|list| list.own().id.clone()).collect();
        let mut roster = Roster { listed, ..Roster::default() };
        for node in self.lists(begun).flat_map(Listing::nodes) {
            roster.all.insert(node.id.clone());
            if let Some(master) = &node.replicates {
                roster.heirs.entry(master.clone()).or_default().insert(node.id.clone());
            }
        }
        roster
    }

    /// Where those are that are known, each by its address and by its name if it has one.
    pub(crate) fn endpoints(&self) -> Vec<Vec<Endpoint>> {
        let mut all: BTreeMap<&MemberId, &Vec<Endpoint>> = BTreeMap::new();
        for (_, listing) in self.members.values().filter_map(|member| member.listing.as_ref()) {
            all.extend(listing.nodes().iter().map(|node| (&node.id, &node.endpoints)));
        }
        all.into_values().filter(|endpoints| !endpoints.is_empty()).cloned().collect()
    }

    /// Forgets whom nobody lists any more.
    pub(crate) fn tidy(&mut self, now: Time) {
        let longest = self.list_age() * 4;
        for member in self.members.values_mut() {
            member.listing = member.listing.take().filter(|(asked, _)| now.saturating_since(*asked) < longest);
        }
        let listings = self.members.values().filter_map(|member| member.listing.as_ref());
        let listed: BTreeSet<MemberId> =
            listings.flat_map(|(_, listing)| listing.nodes().iter().map(|node| node.id.clone())).collect();
        self.members.retain(|id, _| listed.contains(id));
    }

    /// What a node answered in that round.
    fn answer(&self, id: &MemberId, round: Time) -> Option<MemberAnswer> {
        let (asked, answer) = self.members.get(id)?.answer?;
        (asked == round).then_some(answer)
    }

    /// The lists that count in the round that began then.
    fn lists(&self, begun: Time) -> impl Iterator<Item = &Listing> {
        let counts = move |asked: Time| begun.saturating_since(asked) < self.list_age();
        let lists = self.members.values().filter_map(|member| member.listing.as_ref());
        lists.filter(move |(asked, _)| counts(*asked)).map(|(_, listing)| listing)
    }

    /// A list counts while it is younger than this.
    fn list_age(&self) -> Duration {
        self.timeouts.map_or(LIST, |(shortest, _)| shortest)
    }

    /// How long a candidate stands in one election at most.
    fn outlives(&self) -> Duration {
        (self.timeouts.map_or(NODE_TIMEOUT, |(_, longest)| longest) * 2).max(CANDIDACY)
    }
}

impl From<Judgement> for CensusFinding {
    fn from(verdict: Judgement) -> Self {
        match verdict {
            Judgement::Proven => Self::Proven,
            Judgement::Unproven(CensusDoubt::Silent) => Self::Silent,
            Judgement::Unproven(CensusDoubt::Heir) => Self::Heir,
            Judgement::Unproven(CensusDoubt::Voters) => Self::Voters,
            Judgement::Revoked(Sign::Demoted) => Self::Demoted,
            Judgement::Revoked(Sign::Successor) => Self::Successor,
        }
    }
}

#[cfg(test)]
mod tests;
