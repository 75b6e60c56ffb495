//! In front of a cluster, memory answers only what nobody else can have changed: point 4 while masters are cut off, stopped, replaced
//! with and without their consent; and slots that leave a node take what was in memory of their keys along.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use common::cluster::{Failover, Plan, key_in};
use common::{AT_LAST, Client, Cluster, Crema, Value, Writer, bulk, eventually, ok};

const BOUND: Duration = Duration::from_millis(200);
/// Between two writes.
const PAUSE: Duration = Duration::from_millis(2);
const SLOT: u16 = 5;

fn in_front_of(cluster: &Cluster) -> Crema {
    cluster.crema().flag("--max-staleness", format!("{}ms", BOUND.as_millis())).start()
}

/// Short enough that a test ends soon, long enough that a slow machine does not elect.
fn plan() -> Plan {
    Cluster::plan().node_timeout(2000)
}

/// One client of crema's that reads one key, and sees which reads memory answered.
struct Reader<'a> {
    crema: &'a Crema,
    client: Option<Client>,
    key: &'a str,
    hits: u64,
    stalest: Duration,
}

impl<'a> Reader<'a> {
    fn new(crema: &'a Crema, key: &'a str) -> Self {
        Self { crema, client: None, key, hits: crema.outcomes("hit"), stalest: Duration::ZERO }
    }

    /// Reads once. The number, where memory had it; it must not be older than the bound allows.
    fn hit(&mut self, writer: &Writer) -> Option<u64> {
        let crema = self.crema;
        let client = self.client.get_or_insert_with(|| crema.client());
        client.patience(Duration::from_secs(3));
        let asked = Instant::now();
        let reply = client.try_cmd(&["GET", self.key]);
        let hits = self.crema.outcomes("hit");
        let is_hit = std::mem::replace(&mut self.hits, hits) < hits;
        let Ok(Value::Bulk(value)) = reply else {
            self.client = None;
            return None;
        };
        let number = String::from_utf8_lossy(&value).parse().expect("a number");
        if is_hit {
            let newer = writer.writes().iter().find(|(n, _)| *n > number).map(|(_, at)| *at);
            let stale = newer.map_or(Duration::ZERO, |newer| asked.saturating_duration_since(newer));
            self.stalest = self.stalest.max(stale);
            let least = writer.acknowledged(asked.checked_sub(BOUND).expect("a moment ago"));
            assert!(number >= least, "{number} out of memory, {stale:?} after what followed it was acknowledged");
        }
        is_hit.then_some(number)
    }

    /// Reads until memory answers.
    fn until_hit(&mut self, writer: &Writer) -> Duration {
        self.until(writer, 0)
    }

    /// Reads until memory answers with a number from `least` on.
    fn until(&mut self, writer: &Writer, least: u64) -> Duration {
        let began = Instant::now();
        while self.hit(writer).is_none_or(|number| number < least) {
            assert!(began.elapsed() < AT_LAST, "memory does not answer");
        }
        began.elapsed()
    }

    /// Reads on while `goes_on`.
    fn during(&mut self, writer: &Writer, mut goes_on: impl FnMut() -> bool) -> u64 {
        let began = Instant::now();
        let mut hits = 0;
        while goes_on() {
            hits += u64::from(self.hit(writer).is_some());
            assert!(began.elapsed() < AT_LAST, "it does not end");
        }
        hits
    }
}

/// Something befalls the master of a slot, and its replica takes over. What memory answers meanwhile and until the cluster is whole.
fn takes_over(
    mut cluster: Cluster,
    befalls: impl FnOnce(&mut Cluster, usize, usize),
    heals: impl FnOnce(&mut Cluster),
) {
    let crema = in_front_of(&cluster);
    let key = key_in(SLOT, "k");
    let (old, new) = (cluster.owner(SLOT), cluster.replicas_of(cluster.owner(SLOT))[0]);
    assert_eq!(cluster.client(old).cmd(&["SET", &key, "0"]), ok());
    let writer = Writer::start(cluster.addr(new), &key, PAUSE);
    let mut reader = Reader::new(&crema, &key);
    let first = reader.until_hit(&writer);
    befalls(&mut cluster, old, new);
    reader.during(&writer, || writer.acknowledged(Instant::now()) == 0);
    let taken = writer.acknowledged(Instant::now());
    let answers = Instant::now();
    reader.during(&writer, || answers.elapsed() < BOUND * 4);
    heals(&mut cluster);
    let again = reader.until(&writer, taken);
    cluster.await_whole();
    let whole = reader.until(&writer, taken);
    eprintln!("stalest {:?}; first {first:?}, again {again:?}, whole {whole:?}", reader.stalest);
}

#[test]
fn a_master_that_is_cut_off_from_the_others_is_not_believed() {
    let cluster = plan().with_bus().start();
    takes_over(cluster, |cluster, old, _| cluster.bus().isolate(old), |cluster| cluster.bus().heal());
}

#[test]
fn a_master_that_stood_still_is_not_believed() {
    let cluster = plan().start();
    let old = cluster.owner(SLOT);
    let pid = i32::try_from(cluster.node(old).pid()).ok().and_then(Pid::from_raw).expect("a pid");
    let signal = move |signal| kill_process(pid, signal).expect("our own child");
    takes_over(cluster, |_, _, _| signal(Signal::STOP), |_| signal(Signal::CONT));
}

#[test]
fn a_master_that_hands_over_or_is_replaced_by_force_is_not_believed() {
    for how in [Failover::Agreed, Failover::Force, Failover::Takeover] {
        takes_over(plan().start(), |cluster, _, new| cluster.failover(new, how), |_| {});
    }
}

#[test]
fn what_a_killed_master_had_is_read_anew() {
    takes_over(plan().start(), |cluster, old, _| cluster.kill(old), |_| {});
}

#[test]
fn while_most_answer_memory_does_and_while_most_are_silent_it_does_not() {
    let cluster = plan().node_timeout(30_000).with_links().start();
    let crema = in_front_of(&cluster);
    let key = key_in(SLOT, "k");
    let owner = cluster.owner(SLOT);
    assert_eq!(cluster.client(owner).cmd(&["SET", &key, "0"]), ok());
    let writer = Writer::start(cluster.addr(cluster.replicas_of(owner)[0]), &key, PAUSE);
    let mut reader = Reader::new(&crema, &key);
    reader.until_hit(&writer);
    let others: Vec<usize> = (0..cluster.len()).filter(|&n| n != owner).collect();
    let master = *others.iter().find(|&&n| cluster.is_master(n)).expect("there are three");
    cluster.link(master).freeze();
    let lapsed = Instant::now();
    reader.during(&writer, || lapsed.elapsed() < BOUND * 3);
    reader.until_hit(&writer);
    others.iter().filter(|&&n| n != master).for_each(|&n| cluster.link(n).freeze());
    eventually("no lease is left", || crema.metric("crema_lease_held", &[]) == 0.0);
    let silent = Instant::now();
    assert_eq!(reader.during(&writer, || silent.elapsed() < BOUND * 3), 0);
    for &n in &others {
        cluster.link(n).thaw();
    }
    eventually("it is logged", || crema.has_logged("memory does not answer for this node's keys: "));
    reader.until_hit(&writer);
    eventually("it is logged", || crema.has_logged("memory answers for this node's keys again"));
}

#[test]
fn a_slot_that_is_taken_without_its_keys_takes_what_was_in_memory_along() {
    let cluster = plan().start();
    let crema = in_front_of(&cluster);
    let (key, missing) = (key_in(SLOT, "k"), key_in(SLOT, "missing"));
    let (owner, other) = (cluster.owner(SLOT), cluster.owner(16_383));
    assert_eq!(cluster.client(owner).cmd(&["SET", &key, "old"]), ok());
    let mut client = crema.client();
    crema.warm(&["GET", &key]);
    crema.warm(&["GET", &missing]);
    cluster.take_slot(SLOT, other);
    let mut writer = cluster.client(other);
    for key in [&key, &missing] {
        assert_eq!(writer.cmd(&["SET", key, "new"]), ok());
        let written = Instant::now();
        eventually("the new value is read", || {
            let asked = Instant::now();
            let hits = crema.outcomes("hit");
            let is_new = client.cmd(&["GET", key]) == bulk("new");
            let is_hit = crema.outcomes("hit") > hits;
            assert!(is_new || !is_hit || asked < written + BOUND, "out of memory, {:?} late", asked - written);
            is_new
        });
    }
    eventually("memory answers again", || {
        let hits = crema.outcomes("hit");
        assert_eq!(client.cmd(&["GET", &key]), bulk("new"));
        crema.outcomes("hit") > hits
    });
    assert!(crema.count("crema_slots_left_total", &[]) > 0);
}

/// What `CREMA EXPLAIN` says of a read.
fn explained(client: &mut Client, key: &str, field: &str) -> String {
    let fields = client.cmd(&["CREMA", "EXPLAIN", "GET", key]).items().to_vec();
    let pair = fields.chunks(2).find(|pair| pair[0].text() == field);
    pair.unwrap_or_else(|| panic!("no {field}"))[1].text()
}

#[test]
fn people_are_told_who_serves_a_key_and_whether_memory_may_answer_there() {
    let cluster = plan().start();
    let crema = in_front_of(&cluster);
    let key = key_in(16_383, "k");
    crema.warm(&["GET", &key]);
    let mut client = crema.client();
    assert_eq!(explained(&mut client, &key, "slot"), "16383");
    assert_eq!(explained(&mut client, &key, "node"), cluster.addr(cluster.owner(16_383)).to_string());
    eventually("there is a lease", || {
        explained(&mut client, &key, "lease_ms_left") != "0" && explained(&mut client, &key, "in_l1") == "yes"
    });
    assert_eq!(client.cmd(&["CREMA", "REFRESH", &key]).number(), 1, "it is read anew where it lies");
    let (_, status) = crema.admin("/api/status").expect("it answers");
    for told in ["\"map_version\":1,", "\"slots\":5462,", "\"census\":\"proven\""] {
        assert!(status.contains(told), "no {told} in {status}");
    }
}

#[test]
fn where_the_census_may_not_ask_memory_answers_nothing() {
    let cluster = plan().masters(1).replicas(0).start();
    let mut admin = cluster.client(0);
    assert_eq!(admin.cmd(&["ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-cluster|nodes"]), ok());
    let url = cluster.url().replace("://", "://app:pw@");
    let crema = cluster.crema().url(url).start();
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    let silent = || crema.count("crema_census_findings_total", &[("finding", "unlisted")]);
    let mut rounds = None;
    eventually("it is told, and rounds go by with something in memory", || {
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
        let is_told = crema.metric("crema_upstream_refusals", &[("need", "census")]) > 0.0;
        let is_there = crema.count("crema_fills_total", &[("outcome", "stored")]) > 0;
        is_told && is_there && silent() >= 5 + *rounds.get_or_insert_with(silent)
    });
    assert_eq!(crema.outcomes("hit"), 0);
    assert_eq!(admin.cmd(&["ACL", "SETUSER", "app", "+cluster|nodes"]), ok());
    eventually("it answers when they may be asked", || {
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
        crema.outcomes("hit") > 0
    });
}

#[test]
fn that_a_key_is_missing_is_not_believed_for_longer_than_the_bound() {
    let cluster = plan().masters(1).replicas(0).start();
    let crema = in_front_of(&cluster);
    let mut client = crema.client();
    let stored = || crema.count("crema_fills_total", &[("outcome", "stored")]);
    crema.warm(&["GET", "missing"]);
    let first = stored();
    eventually("it is read anew again and again", || {
        assert_eq!(client.cmd(&["GET", "missing"]), Value::Nil);
        stored() >= first + 3
    });
    assert!(crema.outcomes("hit") > 0);
}
