//! `BullMQ` itself at work: jobs added and done a second, and what each process spends on one.
//!
//! One Node process (`bullmq.js`) does the same through every peer in turn, on a queue that is new each time: jobs are added
//! in batches, and then done by a worker, ten at a time, each with a read and a write. Jobs that do nothing more are over at
//! once, and the worst that can be seen: with them the machine is busy, and Redis and Node alone would have kept two cores so.
//! Of jobs that take 5 ms elsewhere one sees what a proxy adds to the way of a job, where there are cores enough.
//!
//! Nobody is kept to a core here. Node, Redis and a proxy are three, each of which has work for most of one, and where they are
//! used they have as many; on two cores some two would share one by our choice, and the proxy's time would be taken from
//! Redis's or Node's. Left to the scheduler, a proxy can take what is idle directly, and still not all that it has elsewhere.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::cpu::{self, Cores};
use super::peers::{Peer, program};
use super::speed::{Field, median};

/// What `BullMQ` did through one peer, a figure a round.
#[derive(Default)]
pub(crate) struct Jobs {
    pub(crate) peer: &'static str,
    /// A second.
    pub(crate) added: Vec<f64>,
    pub(crate) done: Vec<f64>,
    /// Jobs of 5 ms.
    pub(crate) longer: Vec<f64>,
    /// Microseconds of processor time for a job that is done: Node's, the peer's own, and of the Redis behind it.
    pub(crate) node: Vec<f64>,
    pub(crate) own: Vec<f64>,
    pub(crate) behind: Vec<f64>,
}

/// A figure of each round.
pub(crate) type Rate = fn(&Jobs) -> &[f64];

/// Redis first; nothing where there is no Node, or no `BullMQ` under `target/compat`.
pub(crate) fn measure(field: &Field, before: Option<&Path>, rounds: usize, count: u32) -> Vec<Jobs> {
    let Some(mut node) = Node::start() else {
        eprintln!("BullMQ is left out: node, or target/compat/node_modules, is not there (`make bench` installs them)");
        return Vec::new();
    };
    let promote = ["--promote", "10"];
    let crema = Peer::crema("crema", &field.redis, &promote);
    let before = before.map(|program| Peer::other_crema("crema before", program, &field.redis, &promote));
    let peers: Vec<&Peer> = [&field.redis, &crema].into_iter().chain(&field.haproxy).chain(&before).collect();
    for peer in &peers {
        peer.place(Cores::All);
    }
    let mut all: Vec<Jobs> = peers.iter().map(|peer| Jobs { peer: peer.name, ..Jobs::default() }).collect();
    // V8 compiles what it sees often: the first round is not counted.
    for round in 0..=rounds {
        for turn in 0..peers.len() {
            let at = (turn + round) % peers.len();
            let (peer, jobs) = (peers[at], &mut all[at]);
            let spent = |node: &Node| [cpu::spent(node.child.id()), peer.spent(), field.redis.spent()];
            let added = node.run("add", round, peer, count);
            let begun = spent(&node);
            let done = node.run("work", round, peer, count);
            let over = spent(&node);
            node.run("add", round, peer, count / 5);
            let longer = node.run("longer", round, peer, count / 5);
            node.run("clean", round, peer, count);
            if round == 0 {
                continue;
            }
            let each = |at: usize| over[at].saturating_sub(begun[at]).as_secs_f64() * 1e6 / f64::from(count);
            jobs.added.push(f64::from(count) / added);
            jobs.done.push(f64::from(count) / done);
            jobs.longer.push(f64::from(count / 5) / longer);
            jobs.node.push(each(0));
            jobs.own.push(each(1));
            jobs.behind.push(if peer.proxy { each(2) } else { 0.0 });
        }
    }
    all
}

/// The middle, over the rounds, of how much longer it takes through crema than directly.
pub(crate) fn by_direct(all: &[Jobs], rate: Rate) -> Option<f64> {
    let of = |name| all.iter().find(|jobs| jobs.peer == name).map(rate);
    Some(median(&of("Redis")?.iter().zip(of("crema")?).map(|(direct, crema)| direct / crema).collect::<Vec<_>>()))
}

struct Node {
    child: Child,
    asked: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
}

impl Node {
    fn start() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let modules = root.join("target/compat/node_modules");
        let node = program("node").filter(|_| modules.join("bullmq").exists())?;
        let mut command = Command::new(node);
        command.arg(root.join("benches/side_by_side/bullmq.js")).env("NODE_PATH", modules);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it is a program");
        cpu::place(child.id(), Cores::All);
        let asked = child.stdin.take().expect("it is piped");
        let says = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Some(Self { child, asked, says })
    }

    /// Has it do a part, and returns the seconds that it took.
    fn run(&mut self, part: &str, round: usize, peer: &Peer, count: u32) -> f64 {
        writeln!(self.asked, "{part} bench-{round} {} {count}", peer.port).expect("it reads");
        let said = self.says.next().expect("it says why on its way out").expect("it writes text");
        said.parse().expect("a number of seconds")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
