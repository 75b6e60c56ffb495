//! Who says what when: a [`Script`], drawn from a seed as a whole before a byte is sent.
//!
//! Its sessions take turns, so both servers see one order of commands. Scripts that do not touch each other ([`Realm`]) can
//! be run at once. As it is plain data, a script that shows a difference can be cut down until nothing more can be left out.

use std::fmt::{self, Display};
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::grammar::{Grammar, Line, Realm};
use super::shapes::{Shape, shapes};
use super::stage::USERS;
use common::differs::Differs;
use common::pack;

#[derive(Clone)]
pub(crate) struct Script {
    /// The protocol of each session.
    pub(crate) versions: Vec<u8>,
    /// Who it is, where not the default user.
    pub(crate) users: Vec<Option<&'static str>>,
    pub(crate) turns: Vec<Turn>,
}

#[derive(Clone)]
pub(crate) struct Turn {
    pub(crate) who: usize,
    pub(crate) act: Act,
}

#[derive(Clone)]
pub(crate) enum Act {
    /// Sends these and reads as many replies as they have.
    Say(Vec<Shape>),
    /// Sends these and a `PING`, and reads up to its answer: between the replies stand messages, in the order of the server.
    Listen(Vec<Shape>),
    /// Leaves, and comes back in this protocol.
    Renew(u8),
    /// Sends these in one piece and closes its sending side with that, reads to the end, and comes back in this protocol.
    Close(Vec<Shape>, u8),
    /// Another says these to the servers themselves, past crema.
    Beside(Vec<Shape>),
    /// Lets time pass: what was given so long to live is gone.
    Pass(Duration),
    /// Says what waits, has another end the wait, and only then reads.
    Wait { wait: Shape, waker: usize, wake: Shape },
}

/// What kind of script to draw.
pub(crate) struct Plan {
    pub(crate) realm: Realm,
    pub(crate) speakers: usize,
    pub(crate) listeners: usize,
    pub(crate) readers: usize,
    pub(crate) turns: usize,
    pub(crate) reach: Reach,
}

/// How far what a script does may be felt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(crate) enum Reach {
    Keys,
    Databases,
    Server,
}

/// How long a key lives that is to be gone when it is read again.
pub(crate) const MORTAL: Duration = Duration::from_millis(500);

/// Words in a shape that may wait at the server, which ends a wait whose client has closed its side: at once, or when the time is over.
const WAITING: [&str; 5] = ["BLPOP", "BRPOP", "BLM", "BZ", "BLOCK"];

/// Words in a shape that is felt outside of its database, or leaves its database.
const FAR: [&str; 9] = ["SELECT", "SWAPDB", "FLUSHALL", "FUNCTION", "FCALL", "PUBSUB", "RESET", "SCRIPT", "CONFIG"];

/// Draws scripts.
pub(crate) struct Author {
    grammar: Grammar,
    /// The shapes of tests/transparency, in RESP2 and RESP3, and those of them that stay in their database.
    shapes: [Vec<Shape>; 2],
    near: [Vec<Shape>; 2],
}

/// A session as far as the author follows it.
#[derive(Clone, Copy)]
struct Speaker {
    version: u8,
    user: Option<&'static str>,
    in_transaction: bool,
}

impl Author {
    pub(crate) fn new() -> Author {
        let all = [2, 3].map(shapes);
        let is_near = |shape: &Shape| !FAR.iter().any(|word| says(shape, word));
        let near = all.clone().map(|shapes| shapes.into_iter().filter(is_near).collect());
        Author { grammar: Grammar::new(), shapes: all, near }
    }

    /// How many different things it has to say.
    pub(crate) fn vocabulary(&self) -> usize {
        self.grammar.len() + self.shapes[0].len()
    }

    pub(crate) fn draw(&self, plan: &Plan, rng: &mut SmallRng) -> Script {
        let sessions = plan.speakers + plan.listeners + plan.readers;
        let mut all: Vec<Speaker> = (0..sessions)
            .map(|n| {
                let user = USERS.choose(rng).filter(|_| rng.random_bool(0.2)).map(|(name, _)| *name);
                Speaker { version: 2 + u8::from(n % 2 == 1), user, in_transaction: false }
            })
            .collect();
        let versions = all.iter().map(|speaker| speaker.version).collect();
        let users = all.iter().map(|speaker| speaker.user).collect();
        let mut turns: Vec<Turn> = (0..sessions).map(|who| Self::enter(plan, who)).collect();
        for number in 1..=plan.turns {
            let who = rng.random_range(0..plan.speakers + plan.listeners);
            if who >= plan.speakers {
                turns.push(Turn { who, act: Act::Listen(self.listening(plan, all[who].version, rng)) });
            } else {
                self.turn(plan, who, &mut all, &mut turns, rng);
            }
            if number % 6 == 0 || number == plan.turns {
                self.look(plan, &mut turns, rng);
            }
        }
        // What was said to those who listen, and whether anything is left over.
        turns.extend((0..sessions).map(|who| match who {
            who if (plan.speakers..plan.speakers + plan.listeners).contains(&who) => {
                Turn { who, act: Act::Listen(Vec::new()) }
            }
            who => Turn { who, act: Act::Renew(all[who].version) },
        }));
        Script { versions, users, turns }
    }

    /// Reads of every key of the realm.
    pub(crate) fn look_at_all(&self, realm: &Realm, rng: &mut SmallRng) -> Vec<Shape> {
        self.grammar.look(realm, rng)
    }

    /// Goes to a database of the realm.
    fn enter(plan: &Plan, who: usize) -> Turn {
        let shape = select(plan.realm.databases[0]);
        let listens = (plan.speakers..plan.speakers + plan.listeners).contains(&who);
        Turn { who, act: if listens { Act::Listen(vec![shape]) } else { Act::Say(vec![shape]) } }
    }

    fn turn(&self, plan: &Plan, who: usize, all: &mut [Speaker], turns: &mut Vec<Turn>, rng: &mut SmallRng) {
        match rng.random_range(0..200) {
            0..=9 => {
                let version = rng.random_range(2..=3);
                all[who] = Speaker { version, in_transaction: false, ..all[who] };
                turns.push(Turn { who, act: Act::Renew(version) });
                turns.push(Self::enter(plan, who));
            }
            10..=15 if plan.reach == Reach::Server && plan.speakers > 1 => {
                let waker = (who + rng.random_range(1..plan.speakers)) % plan.speakers;
                if [who, waker].iter().any(|one| all[*one].in_transaction || all[*one].user.is_some()) {
                    return;
                }
                let (wait, wake) = self.grammar.waits.choose(rng).expect("there are some");
                let (wait, wake) = (wait.fill(&plan.realm, rng), wake.fill(&plan.realm, rng));
                let clear = pack(&["DEL", "wait:list", "wait:list2", "wait:zset", "wait:stream"]);
                turns
                    .extend([who, waker].map(|who| Turn { who, act: Act::Say(vec![select(plan.realm.databases[0])]) }));
                turns.push(Turn { who, act: Act::Say(vec![one(clear)]) });
                turns.push(Turn { who, act: Act::Wait { wait, waker, wake } });
            }
            16 => Self::mortal(plan, who, &mut all[who], turns, rng),
            17..=36 if plan.reach == Reach::Server => {
                let mut said = vec![select(*plan.realm.databases.choose(rng).expect("one at least"))];
                for _ in 0..rng.random_range(1..6) {
                    said.push(self.grammar.writes.choose(rng).expect("there are many").fill(&plan.realm, rng));
                }
                turns.push(Turn { who, act: Act::Beside(said) });
            }
            37..=48 => {
                let said = (0..rng.random_range(1..=30)).map(|_| self.say(plan, &mut all[who], rng));
                let mut said: Vec<_> = said.filter(|shape| !WAITING.iter().any(|word| says(shape, word))).collect();
                if rng.random_bool(0.1) {
                    said.push(one(pack(&["QUIT"])));
                }
                let version = rng.random_range(2..=3);
                all[who] = Speaker { version, in_transaction: false, ..all[who] };
                turns.push(Turn { who, act: Act::Close(said, version) });
                turns.push(Self::enter(plan, who));
            }
            _ => {
                let most = rng.random_range(1..=60);
                let count = rng.random_range(1..=most);
                let said = (0..count).map(|_| self.say(plan, &mut all[who], rng)).collect();
                turns.push(Turn { who, act: Act::Say(said) });
            }
        }
    }

    /// Keys with so short to live that they are gone when they are read again.
    fn mortal(plan: &Plan, who: usize, speaker: &mut Speaker, turns: &mut Vec<Turn>, rng: &mut SmallRng) {
        if speaker.in_transaction {
            turns.push(Turn { who, act: Act::Say(vec![one(pack(&["EXEC"]))]) });
            speaker.in_transaction = false;
        }
        let key = |n: u32| format!("{}s{n}", plan.realm.prefix);
        let life = MORTAL.as_millis().to_string();
        let set = (0..3).map(|n| one(pack(&["SET", &key(n), "mortal", "PX", &life])));
        let get: Vec<Shape> = (0..3).map(|n| one(pack(&["GET", &key(n)]))).collect();
        turns.push(Turn { who, act: Act::Say(set.chain(get.clone()).collect()) });
        turns.push(Turn { who, act: Act::Say(get.clone()) });
        turns.push(Turn { who, act: Act::Pass(MORTAL + Duration::from_millis(rng.random_range(20..40))) });
        turns.push(Turn { who, act: Act::Say(get) });
    }

    /// One thing to say; a shape may be several commands.
    fn say(&self, plan: &Plan, speaker: &mut Speaker, rng: &mut SmallRng) -> Shape {
        let Grammar { reads, writes, session, database, server, .. } = &self.grammar;
        let mut realm = &plan.realm;
        let common = plan.realm.commons.map(|prefix| Realm { prefix: prefix.to_owned(), ..plan.realm.clone() });
        if speaker.in_transaction && rng.random_bool(0.15) {
            speaker.in_transaction = false;
            return one(pack(&[if rng.random_bool(0.8) { "EXEC" } else { "DISCARD" }]));
        }
        let among = match rng.random_range(0..1000) {
            0..=449 => {
                if let Some(common) = common.as_ref().filter(|_| rng.random_bool(0.4)) {
                    realm = common;
                }
                reads
            }
            450..=799 => writes,
            800..=879 => session,
            880..=894 if plan.reach >= Reach::Databases => database,
            895..=899 if plan.reach == Reach::Server => server,
            // Most of these need what they have just done.
            900.. if plan.reach >= Reach::Databases && !speaker.in_transaction && speaker.user.is_none() => {
                let all = if plan.reach == Reach::Server { &self.shapes } else { &self.near };
                return all[usize::from(speaker.version - 2)].choose(rng).expect("there are hundreds").clone();
            }
            _ => reads,
        };
        loop {
            let line = among.choose(rng).expect("no list is empty");
            if speaker.in_transaction && !line.is_exact() {
                continue;
            }
            let shape = line.fill(realm, rng);
            speaker.in_transaction = match shape.bytes.get(8..) {
                Some(b"MULTI\r\n") => true,
                Some(b"EXEC\r\n" | b"DISCARD\r\n") => false,
                _ => speaker.in_transaction,
            };
            return shape;
        }
    }

    fn listening(&self, plan: &Plan, version: u8, rng: &mut SmallRng) -> Vec<Shape> {
        let lists: &[&[Line]] = match version {
            2 => &[&self.grammar.listening],
            _ => &[&self.grammar.listening, &self.grammar.reads, &self.grammar.writes],
        };
        let mut said = Vec::new();
        for _ in 0..rng.random_range(1..12) {
            let line = lists.choose(rng).and_then(|list| list.choose(rng)).expect("no list is empty");
            if line.is_exact() {
                said.push(line.fill(&plan.realm, rng));
            }
        }
        said
    }

    /// Every key of the realm is read: cold, warm, and warm, by those who do nothing else.
    fn look(&self, plan: &Plan, turns: &mut Vec<Turn>, rng: &mut SmallRng) {
        let first = plan.speakers + plan.listeners;
        let database = *plan.realm.databases.choose(rng).expect("one at least");
        let mut looks = vec![select(database)];
        looks.extend(self.look_at_all(&plan.realm, rng));
        for time in 0..3 {
            let who = first + if time < 2 { 0 } else { rng.random_range(0..plan.readers) };
            turns.push(Turn { who, act: Act::Say(looks.clone()) });
        }
    }
}

fn says(shape: &Shape, word: &str) -> bool {
    shape.bytes.windows(word.len()).any(|at| at == word.as_bytes())
}

fn select(database: u32) -> Shape {
    one(pack(&["SELECT", &database.to_string()]))
}

fn one(bytes: Vec<u8>) -> Shape {
    Shape { bytes, differs: vec![Differs::Nothing] }
}

impl Display for Script {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut versions = self.versions.clone();
        self.turns.iter().try_for_each(|Turn { who, act }| {
            write!(out, "  {who} ({}, RESP{}): ", self.users[*who].unwrap_or("default"), versions[*who])?;
            let spell = |said: &[Shape]| said.iter().map(|shape| spelled(&shape.bytes)).collect::<Vec<_>>().join(" | ");
            match act {
                Act::Say(said) => writeln!(out, "{}", spell(said)),
                Act::Listen(said) => writeln!(out, "{} | PING, and reads up to its answer", spell(said)),
                Act::Close(said, version) => {
                    versions[*who] = *version;
                    writeln!(out, "{}; closes its side, reads to the end, and comes back in RESP{version}", spell(said))
                }
                Act::Renew(version) => {
                    versions[*who] = *version;
                    writeln!(out, "leaves, and comes back in RESP{version}")
                }
                Act::Beside(said) => writeln!(out, "meanwhile, past crema: {}", spell(said)),
                Act::Pass(time) => writeln!(out, "waits for {time:?}"),
                Act::Wait { wait, waker, wake } => {
                    writeln!(out, "{}; then {waker}: {}", spelled(&wait.bytes), spelled(&wake.bytes))
                }
            }
        })
    }
}

/// Commands as one would type them, long words cut.
fn spelled(bytes: &[u8]) -> String {
    let mut words = Vec::new();
    let mut lines = bytes;
    while let Some(end) = lines.windows(2).position(|two| two == b"\r\n") {
        let number = std::str::from_utf8(&lines[1..end]).ok().and_then(|text| text.parse::<usize>().ok());
        match (lines[0], number) {
            (b'*', Some(_)) if words.is_empty() => lines = &lines[end + 2..],
            (b'*', Some(_)) => {
                words.push(";".to_owned());
                lines = &lines[end + 2..];
            }
            (b'$', Some(len)) if lines.len() >= end + 4 + len => {
                let word = &lines[end + 2..end + 2 + len];
                let cut = if len > 60 { format!("..({len} bytes)") } else { String::new() };
                words.push(format!("{}{cut}", word[..len.min(60)].escape_ascii()));
                lines = &lines[end + 4 + len..];
            }
            _ => return bytes[..bytes.len().min(200)].escape_ascii().to_string(),
        }
    }
    words.join(" ")
}
