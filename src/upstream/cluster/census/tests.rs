//! Each thing that a round can show, in a cluster of three masters with a replica each: `a` to `c` serve, `r` to `t` follow.

use super::super::listing::tests::read;
use super::*;

const MASTERS: [&str; 3] = ["a", "b", "c"];
const REPLICAS: [&str; 3] = ["r", "s", "t"];
const TIMEOUT: Duration = Duration::from_secs(3);

struct Cluster {
    census: Census,
    /// Who is silent, who says that it is a master, what each names, how many masters each counts.
    silent: Vec<&'static str>,
    masters: Vec<&'static str>,
    epoch: fn(&str) -> u64,
    size: usize,
    failing: Vec<&'static str>,
    now: u64,
}

fn at(ms: u64) -> Time {
    Time::from_nanos(1_000_000_000 + ms * 1_000_000)
}

fn port(name: &str) -> u16 {
    u16::from(name.as_bytes()[0])
}

fn endpoint(name: &str) -> Endpoint {
    Endpoint::Tcp { host: "h".into(), port: port(name) }
}

/// What `by` lists, where these follow these.
fn listing(by: &str, follow: &[(&str, &str)]) -> Listing {
    claiming(by, follow, "")
}

/// The same, where it says of itself that it serves this, under number 9, in place of some slots of its own.
fn claiming(by: &str, follow: &[(&str, &str)], slots: &str) -> Listing {
    let line = |name: &&str| {
        let follows = follow.iter().find(|(replica, _)| replica == name).map(|(_, master)| *master);
        let (port, master) = (port(name), follows.unwrap_or("-"));
        let role = if follows.is_some() { "slave" } else { "master" };
        let usual = if follows.is_some() { String::new() } else { (u32::from(port) * 10).to_string() };
        let (epoch, slots) = if *name == by && !slots.is_empty() { (9, slots) } else { (1, &*usual) };
        let own = if *name == by { "myself," } else { "" };
        format!("{name} h:{port}@1 {own}{role} {master} 0 0 {epoch} connected {slots}\n")
    };
    read(&MASTERS.iter().chain(&REPLICAS).map(line).collect::<String>()).expect("a listing")
}

fn id(name: &str) -> MemberId {
    listing(name, &[]).own().id.clone()
}

const USUAL: [(&str, &str); 3] = [("r", "a"), ("s", "b"), ("t", "c")];

impl Cluster {
    /// All list the same, nothing was asked yet.
    fn new() -> Self {
        let mut census = Census::default();
        census.hear_timeout(TIMEOUT);
        let mut cluster =
            Self { census, silent: vec![], masters: MASTERS.to_vec(), epoch: |_| 6, size: 3, failing: vec![], now: 0 };
        cluster.list();
        cluster
    }

    fn list(&mut self) {
        for name in MASTERS.iter().chain(&REPLICAS).filter(|name| !self.silent.contains(name)) {
            self.census.hear_list(listing(name, &USUAL), at(self.now));
        }
    }

    /// A round, `ms` later, in which all answer who are not silent; again where it comes to nothing.
    fn round(&mut self, ms: u64) {
        self.now += ms;
        loop {
            self.census.begin(at(self.now), false);
            let answering = MASTERS.into_iter().chain(REPLICAS).filter(|name| !self.silent.contains(name));
            let void = answering.into_iter().any(|name| {
                let said = Testimony { is_master: self.masters.contains(&name), epoch: (self.epoch)(name) };
                let answer = MemberAnswer { said, is_ok: !self.failing.contains(&name), size: self.size };
                self.census.hear(&id(name), at(self.now), answer, at(self.now)).void
            });
            if !void {
                return;
            }
        }
    }

    fn findings(&mut self) -> [CensusFinding; 3] {
        MASTERS.map(|name| self.census.finding(&endpoint(name)))
    }
}

use CensusFinding::{Claimed, Demoted, Electors, Failing, Heir as Open, Proven, Silent, Successor, Unlisted, Voters};

#[test]
fn where_all_answer_all_are_proven() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.findings(), [Silent; 3], "no round has begun");
    cluster.round(1);
    assert_eq!(cluster.findings(), [Proven; 3]);
    cluster.census.begin(at(2), false);
    assert_eq!(cluster.findings(), [Silent; 3], "what was answered in another round is of no matter");
}

#[test]
fn a_replica_that_falls_silent_costs_nothing_once_it_is_known_to_stand_no_more() {
    let mut cluster = Cluster::new();
    cluster.round(1);
    cluster.silent = vec!["r"];
    cluster.round(1);
    assert_eq!(cluster.findings(), [Open, Proven, Proven], "it may stand in the latest election");
    cluster.silent = vec![];
    cluster.round(6000);
    cluster.list();
    cluster.silent = vec!["r"];
    cluster.round(1);
    assert_eq!(cluster.findings(), [Proven; 3], "it was asked twice the time-out after it had named it");
    cluster.silent = vec!["r", "b"];
    cluster.round(1);
    assert_eq!(cluster.findings(), [Proven, Silent, Proven]);
    cluster.silent = vec!["r", "b", "c"];
    cluster.round(1);
    assert_eq!(cluster.findings(), [Voters, Silent, Silent], "two of three can elect");
    cluster.silent = vec!["r", "s", "t"];
    cluster.round(1);
    assert_eq!(cluster.findings(), [Voters; 3], "so can two replicas that may be masters by now");
}

#[test]
fn after_an_election_a_silent_replica_counts_anew() {
    let mut cluster = Cluster::new();
    cluster.round(1);
    cluster.round(6000);
    cluster.list();
    cluster.silent = vec!["r"];
    cluster.epoch = |_| 7;
    let (before, round) = (cluster.census.latest(), cluster.census.round());
    cluster.round(1);
    assert!(before == 6 && round.is_some() && cluster.census.latest() == 7);
    assert_eq!(cluster.findings(), [Open, Proven, Proven]);
}

#[test]
fn a_later_number_ends_the_round_in_which_it_was_named() {
    let mut cluster = Cluster::new();
    cluster.round(1);
    cluster.census.begin(at(2), false);
    let said = Testimony { is_master: false, epoch: 7 };
    let news = cluster.census.hear(&id("r"), at(2), MemberAnswer { said, is_ok: true, size: 3 }, at(3));
    assert_eq!(news, AnswerNews { election: true, void: true, odd: false });
    assert_eq!((cluster.census.round(), cluster.findings()), (None, [Silent; 3]));
}

#[test]
fn who_says_that_it_is_another_than_is_listed_revokes() {
    let mut cluster = Cluster::new();
    cluster.masters.push("r");
    cluster.round(1);
    assert_eq!(cluster.findings(), [Successor, Proven, Proven]);
    cluster.masters = vec!["r", "b", "c"];
    cluster.round(1);
    assert_eq!(cluster.findings(), [Demoted, Proven, Proven]);
    cluster.masters = MASTERS.to_vec();
    cluster.failing = vec!["c"];
    cluster.round(1);
    assert_eq!(cluster.findings(), [Proven, Proven, Failing]);
}

#[test]
fn a_replica_that_any_node_lists_counts() {
    let mut cluster = Cluster::new();
    // `t` has come over to `a`, which does not know of it yet.
    cluster.census.hear_list(listing("b", &[("r", "a"), ("s", "b"), ("t", "a")]), at(0));
    cluster.silent = vec!["t"];
    cluster.round(1);
    assert_eq!(cluster.findings(), [Open, Proven, Open]);
}

#[test]
fn other_electors_than_are_listed_revoke() {
    let mut cluster = Cluster::new();
    cluster.size = 4;
    cluster.round(1);
    assert_eq!(cluster.findings(), [Electors; 3]);
}

#[test]
fn long_lists_are_read_where_what_is_said_does_not_go_with_them() {
    let mut cluster = Cluster::new();
    assert!(cluster.census.wants_lists(at(1)), "few nodes: in every round");
    for n in 0..=FEW {
        cluster.census.members.insert(id_of_stranger(n), CensusMember::default());
    }
    cluster.round(1000);
    assert!(!cluster.census.wants_lists(at(1000)) && cluster.census.wants_lists(at(1001)), "a third of the time-out");
    cluster.list();
    let disturb: [fn(&mut Cluster); 4] = [
        |cluster| cluster.epoch = |_| 7,
        |cluster| cluster.size = 4,
        |cluster| cluster.masters.push("r"),
        |cluster| cluster.failing.push("a"),
    ];
    for disturb in disturb {
        assert!(!cluster.census.wants_lists(at(cluster.now)));
        disturb(&mut cluster);
        cluster.round(1);
        assert!(cluster.census.wants_lists(at(cluster.now)));
        (cluster.size, cluster.masters, cluster.failing) = (3, MASTERS.to_vec(), vec![]);
        cluster.census.begin(at(cluster.now), true);
        cluster.list();
    }
}

fn id_of_stranger(n: usize) -> MemberId {
    read(&format!("stranger{n} h:1@1 myself,master - 0 0 1 connected")).expect("a listing").own().id.clone()
}

#[test]
fn lists_must_be_younger_than_the_time_out_and_of_most() {
    let mut cluster = Cluster::new();
    cluster.round(2999);
    assert_eq!(cluster.findings(), [Proven; 3]);
    cluster.round(1);
    assert_eq!(cluster.findings(), [Unlisted; 3]);
    cluster.silent = vec!["b", "c"];
    cluster.list();
    cluster.round(0);
    assert_eq!(cluster.findings(), [Unlisted; 3], "the others may have agreed on something");
    cluster.silent = vec!["c"];
    cluster.list();
    cluster.round(0);
    assert_eq!(cluster.findings(), [Proven, Proven, Unlisted]);
    assert_eq!(cluster.census.finding(&endpoint("z")), Unlisted);
}

#[test]
fn a_master_whose_slots_another_claims_is_not_proven() {
    let mut cluster = Cluster::new();
    cluster.round(1);
    let slot = (u32::from(port("a")) * 10).to_string();
    let claims = claiming("b", &USUAL, &slot);
    assert!(cluster.census.is_news(&claims) && !cluster.census.is_news(&listing("b", &USUAL)));
    cluster.census.hear_list(claims, at(1));
    assert_eq!(cluster.findings(), [Claimed, Proven, Proven]);
    cluster.census.hear_list(claiming("a", &USUAL, "1"), at(1));
    assert_eq!(cluster.findings(), [Proven; 3], "it has heard of it");
}

#[test]
fn whom_nobody_lists_is_forgotten() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.census.endpoints().len(), 6);
    cluster.census.tidy(at(0).plus(TIMEOUT * 4));
    assert!(cluster.census.endpoints().is_empty() && cluster.census.members.is_empty());
}
