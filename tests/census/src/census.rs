//! What crema asks, and what it concludes for the ear on A.

use stateright::{Model, Property};

use crate::ballot::{Electable, Standing, Testimony, Judgement, judge};
use crate::cluster::{A, B, C, Cluster, Event, MAJORITY, MASTERS, NODES, Q, R};

/// When a lease may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// When A says that it is a master.
    Hello,
    /// Also, when a majority of masters name the **base** and nobody a later number. A later one becomes the base once A's replicas
    /// have named it while they were replicas.
    NamedByReplicas,
    /// The same, but it becomes the base once another shard's master says that it was made by it.
    WonElsewhere,
    /// The same, but it becomes the base once it was named so long ago, by anybody, that nobody who stood in it then does so still, and
    /// A's replicas, asked after that, say that they are replicas.
    Aged,
    /// The same, but what counts is when A's replicas named it: from then on they stand in later ones only.
    Outlived(Electors),
    /// When A says that it is a master, and all its replicas that they are none.
    AllAnswer,
    /// As crema itself judges: by either of the last two.
    Ballot,
}

/// Whose agreement is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Electors {
    /// A majority of the masters in the map.
    Masters,
    /// A majority of the shards; one agrees when each node that may own it does.
    Shards,
    /// So many of all who may vote that the others make no majority, whichever of them a candidate counts. Votes are counted by
    /// node: of a shard that changes hands meanwhile both owners' are.
    Voters,
}

/// A cluster and crema in front of it.
#[derive(Clone, Copy, Debug)]
pub struct Census {
    pub rule: Rule,
    /// Whether operators take over without an election.
    pub takeover: bool,
    /// How many elections there are at most.
    pub elections: u8,
}

/// All that is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    cluster: Cluster,
    /// The number of the election under which A was taken for the owner.
    base: u8,
    /// The latest number that was named.
    named: u8,
    /// A's replica has named it, while it was one.
    replica_named: bool,
    /// So long ago that nobody who stood in it then does so still.
    outlived: bool,
    /// The same of A's replica, as crema itself keeps it.
    standing: Standing,
    /// What crema's map says: Q has taken B's place.
    moved: bool,
    /// B has said that it is no master.
    replaced: bool,
    round: Option<Round>,
    end: End,
}

/// What has come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum End {
    Open,
    /// The ear on A is given up.
    Left,
    /// A census was passed that began after another owner's write.
    Stale,
}

/// A round of questions. It comes to nothing as soon as somebody names a number that was not named before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Round {
    /// Another owner had acknowledged a write when it began.
    late: bool,
    /// The number was old enough when it began.
    outlived: bool,
    /// Who was asked and has answered, and who of them named the latest number: sets of bits.
    answered: u8,
    named: u8,
    /// Who of them said that it is a master, as far as crema itself judges.
    masters: u8,
    /// Another shard's master says that the latest number made it one.
    won_elsewhere: bool,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Cluster(Event),
    /// A round begins.
    Begin,
    /// A node answers its questions.
    Answer(usize),
    /// The round is over; who has not answered is silent.
    Close,
    /// Twice the nodes' time-out has passed since the latest number was named: who stood in it then has given up.
    Outlive,
}

impl Model for Census {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let (cluster, round, end) = (Cluster::new(), None, End::Open);
        let (base, named, moved, replaced) = (0, 0, false, false);
        let standing = Standing::Settled;
        vec![World { cluster, base, named, replica_named: true, outlived: true, standing, moved, replaced, round, end }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        // Once A knows that it was replaced it says so, and no census that needs its word can be passed.
        if world.end != End::Open || !world.cluster.0[A].master {
            return;
        }
        steps.extend(world.cluster.events(self.elections, self.takeover).map(Step::Cluster));
        match &world.round {
            None => steps.push(Step::Begin),
            Some(round) => {
                steps.extend(NODES.into_iter().filter(|node| round.answered >> node & 1 == 0).map(Step::Answer));
                steps.push(Step::Close);
            }
        }
        if !world.outlived && (world.replica_named || self.rule == Rule::Aged) {
            steps.push(Step::Outlive);
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        match step {
            Step::Cluster(event) => next.cluster.apply(event),
            Step::Begin => {
                let (late, outlived) = (world.cluster.is_written_elsewhere(), world.outlived);
                next.round = Some(Round { late, outlived, answered: 0, named: 0, masters: 0, won_elsewhere: false });
            }
            Step::Answer(node) => next.answer(self.rule, node),
            Step::Close => {
                let round = next.round.take()?;
                if next.is_passed(self.rule, &round) && round.late {
                    next.end = End::Stale;
                }
            }
            Step::Outlive => {
                next.cluster.outlive(world.named);
                next.outlived = true;
            }
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no census is passed that began after another owner's write", |_, world: &World| {
                world.end != End::Stale
            }),
            Property::sometimes("a census can be passed after an election elsewhere", |model: &Self, world: &World| {
                let moved = world.moved && world.cluster.0[Q].claim > 0;
                moved && world.round.as_ref().is_some_and(|round| world.clone().is_passed(model.rule, round))
            }),
        ]
    }
}

impl World {
    /// Takes in what a node answers in the present round.
    fn answer(&mut self, rule: Rule, node: usize) {
        let asked = &self.cluster.0[node];
        match node {
            R if asked.master && rule != Rule::Hello => self.end = End::Left,
            B => self.replaced |= !asked.master,
            Q => self.moved |= asked.master,
            _ => {}
        }
        let numbers = !matches!(rule, Rule::Hello | Rule::AllAnswer);
        if numbers && asked.epoch > self.named {
            (self.named, self.replica_named, self.outlived, self.round) = (asked.epoch, false, false, None);
            self.standing = Standing::Open;
        }
        self.replica_named |= node == R && asked.epoch == self.named;
        if rule == Rule::Ballot && node == R {
            let outlived = self.outlived && self.round.as_ref().is_some_and(|round| round.outlived);
            self.standing.hear(Testimony { is_master: false, epoch: asked.epoch.into() }, self.named.into(), outlived);
        }
        if let Some(round) = &mut self.round {
            round.masters |= u8::from(rule == Rule::Ballot && asked.master) << node;
            round.answered |= 1 << node;
            round.named |= u8::from(asked.epoch == self.named) << node;
            round.won_elsewhere |= node == Q && asked.master && asked.claim == self.named;
        }
    }

    /// The round is over: whether A has a lease by it. A number may become the base.
    fn is_passed(&mut self, rule: Rule, round: &Round) -> bool {
        if rule == Rule::Ballot {
            return self.is_proven(round);
        }
        let has = |set: u8, node: usize| set >> node & 1 == 1;
        if !has(round.answered, A) {
            return false;
        }
        // R has not said that it is a master, or there were no round.
        let settled = match rule {
            Rule::Hello => return true,
            Rule::AllAnswer | Rule::Ballot => return has(round.answered, R),
            Rule::NamedByReplicas => has(round.named, R),
            Rule::WonElsewhere => round.won_elsewhere,
            Rule::Aged | Rule::Outlived(_) => round.outlived && self.outlived && has(round.answered, R),
        };
        if settled {
            self.base = self.named;
        }
        let names = |node: usize| has(round.named, node);
        // The master that was, until it says that it is none; a replica, unless it has just said that it is one.
        let may_own = [(B, !(self.moved && self.replaced)), (Q, self.moved || !has(round.answered, Q))];
        let unheard = may_own.into_iter().filter(|&(node, may)| may && !names(node)).count();
        let agreed = match rule {
            Rule::Outlived(Electors::Voters) => unheard + usize::from(!names(C)) < MAJORITY,
            Rule::Outlived(Electors::Shards) => unheard == 0 || names(C),
            _ => names(C) || names(if self.moved { Q } else { B }),
        };
        self.base == self.named && names(A) && agreed
    }

    /// The same by what crema itself runs.
    fn is_proven(&self, round: &Round) -> bool {
        let has = |set: u8, node: usize| set >> node & 1 == 1;
        // Of who does not name the latest number it is told that it named an earlier one.
        let epoch = |node| u64::from(if has(round.named, node) { self.named } else { self.named.saturating_sub(1) });
        let said = |node| {
            let said = Testimony { is_master: has(round.masters, node), epoch: epoch(node) };
            has(round.answered, node).then_some(said)
        };
        let heirs = [Electable { said: said(R), standing: self.standing }];
        judge(said(A), &heirs, [B, C, Q].into_iter().map(said), self.named.into(), MASTERS) == Judgement::Proven
    }
}
