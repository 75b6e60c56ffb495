//! A model of Redis: keys with times to live by its own clock, the table of who tracks what, and what it pushes.
//!
//! As Redis 7.0 and Valkey 9 do: a key is tracked by whoever reads it, PTTL included, until it changes once; a push names keys without
//! their database; what a flush removes is told by a null; SWAPDB is told to nobody; a key whose time is over is gone for readers at
//! once, and is told of when somebody meets it or the server looks.

use std::collections::{BTreeMap, BTreeSet};

use super::judge::{Cause, Judge};
use super::process::{NAMES, Who};
use super::{DATABASES, KEYS, MS, STALENESS};

struct Value {
    is: u64,
    /// In milliseconds of the server's clock; the last one in which it is there.
    until: Option<u64>,
    /// Its time is over, and nobody was told yet.
    over: bool,
}

#[derive(Default)]
struct Client {
    user: usize,
    db: usize,
    tracks: bool,
    listens: bool,
    commands: u64,
    input: Vec<u8>,
}

/// Moments that schedules would seldom hit upon.
#[derive(Default)]
pub(crate) struct Openings {
    /// A key was read of which nobody is told.
    pub(crate) untold_read: Option<(usize, usize)>,
    /// It was told how often databases were swapped.
    pub(crate) swaps_told: bool,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Server {
    /// How far its clock is ahead.
    ahead: u64,
    /// When it was last set forward.
    forward: Option<u64>,
    databases: [[Option<Value>; KEYS]; DATABASES],
    clients: BTreeMap<usize, Client>,
    tracked: [BTreeSet<usize>; KEYS],
    hellos: u64,
    swaps: u64,
    /// What of late would be worst followed by something.
    pub(crate) openings: Openings,
    pub(crate) is_master: bool,
    /// SELECT is refused.
    pub(crate) refuses_select: bool,
    /// The user's rights are few, so that they are asked after again and again.
    pub(crate) few_rights: bool,
    /// It tells how often databases were swapped.
    pub(crate) counts_swaps: bool,
    /// Since when one user may not read one key.
    pub(crate) closed_since: Option<u64>,
}

/// The user who may at times not read this key.
pub(crate) const LIMITED: usize = 1;
pub(crate) const HIDDEN: usize = KEYS - 1;

/// Bytes for a link.
pub(crate) type Out = Vec<(usize, Vec<u8>)>;

impl Server {
    pub(crate) fn new(few_rights: bool) -> Self {
        Self {
            ahead: 1_790_000_000_000 * MS,
            forward: None,
            databases: Default::default(),
            clients: BTreeMap::new(),
            tracked: Default::default(),
            hellos: 0,
            swaps: 0,
            openings: Openings::default(),
            is_master: true,
            refuses_select: false,
            few_rights,
            counts_swaps: true,
            closed_since: None,
        }
    }

    pub(crate) fn connect(&mut self, link: usize, (user, db): Who) {
        self.hellos += 1; // of the handshake
        self.clients.insert(link, Client { user, db, ..Client::default() });
    }

    pub(crate) fn disconnect(&mut self, link: usize) {
        self.clients.remove(&link);
        for links in &mut self.tracked {
            links.remove(&link);
        }
    }

    fn clock_ms(&self, now: u64) -> u64 {
        (now + self.ahead) / MS
    }

    /// Its clock is set.
    pub(crate) fn step_clock(&mut self, forward: bool, span: u64, now: u64, judge: &mut Judge) {
        if forward {
            self.ahead += span;
            self.forward = Some(now);
            self.expire(now, judge);
        } else {
            self.ahead -= span;
        }
    }

    /// When the next key's time is over, as things stand.
    pub(crate) fn next_expiry(&self) -> Option<u64> {
        let values = self.databases.iter().flatten().flatten().filter(|value| !value.over);
        values.filter_map(|value| Some(((value.until? + 1) * MS).saturating_sub(self.ahead))).min()
    }

    /// Keys whose time is over are gone from now on. Right behind a step forward it is the step's doing: what was filled while the
    /// clock was back has a time that is too long, until the step shows.
    pub(crate) fn expire(&mut self, now: u64, judge: &mut Judge) {
        let clock = self.clock_ms(now);
        let step = self.forward.filter(|step| now < step + STALENESS);
        for db in 0..DATABASES {
            for key in 0..KEYS {
                if let Some(value) = &mut self.databases[db][key]
                    && !value.over
                    && value.until.is_some_and(|until| clock > until)
                {
                    value.over = true;
                    judge.begin_change();
                    judge.changed((db, key), None, now, step.map_or(Cause::Expiry, Cause::ClockStep), None);
                }
            }
        }
    }

    /// The server meets keys whose time is over by itself, and tells of them.
    pub(crate) fn meet_expired(&mut self, out: &mut Out) {
        for (db, key) in (0..DATABASES).flat_map(|db| (0..KEYS).map(move |key| (db, key))) {
            self.meet((db, key), out);
        }
    }

    fn meet(&mut self, (db, key): (usize, usize), out: &mut Out) {
        if self.databases[db][key].as_ref().is_some_and(|value| value.over) {
            self.databases[db][key] = None;
            self.tell(key, out);
        }
    }

    fn tell(&mut self, key: usize, out: &mut Out) {
        let push = format!(">2\r\n$10\r\ninvalidate\r\n*1\r\n$2\r\nk{key}\r\n");
        let links = std::mem::take(&mut self.tracked[key]);
        if self.is_master {
            out.extend(links.into_iter().map(|link| (link, push.clone().into_bytes())));
        }
    }

    /// Bytes have arrived; what is answered and pushed goes to `out`.
    pub(crate) fn receive(&mut self, link: usize, bytes: &[u8], now: u64, judge: &mut Judge, out: &mut Out) {
        let Some(client) = self.clients.get_mut(&link) else { return };
        client.input.extend_from_slice(bytes);
        while let Some(command) = self.clients.get_mut(&link).and_then(|client| take_command(&mut client.input)) {
            self.expire(now, judge);
            let client = self.clients.get_mut(&link).expect("it was just there");
            client.commands += 1;
            let by = Some((link, client.commands - 1));
            let db = client.db;
            let mut pushes = Vec::new();
            let reply = self.run(link, db, &command, (now, by), judge, &mut pushes);
            // What is pushed to the client itself comes after its reply.
            out.push((link, reply));
            out.extend(pushes);
        }
    }

    /// A write by a client that is not the proxy's. A replica has it from its master, and tells nobody.
    pub(crate) fn write_past(&mut self, db: usize, words: &[&str], now: u64, judge: &mut Judge, out: &mut Out) {
        self.expire(now, judge);
        let command: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        self.run(usize::MAX, db, &command, (now, None), judge, out);
    }

    /// Another process tells the fleet to forget everything.
    pub(crate) fn publish(&self, out: &mut Out) {
        let listeners = self.clients.iter().filter(|(_, client)| client.listens);
        out.extend(listeners.map(|(&link, _)| (link, b"+forget\r\n".to_vec())));
    }

    fn run(
        &mut self,
        link: usize,
        db: usize,
        command: &[String],
        (now, by): (u64, Option<(usize, u64)>),
        judge: &mut Judge,
        out: &mut Out,
    ) -> Vec<u8> {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let writes = matches!(words[0], "SET" | "DEL" | "EVAL" | "FLUSHALL" | "SWAPDB");
        if writes && !self.is_master && by.is_some() {
            return b"-READONLY You can't write against a read only replica.\r\n".to_vec();
        }
        let limited = self.clients.get(&link).is_some_and(|client| client.user == LIMITED);
        if limited && self.closed_since.is_some() && words.contains(&NAMES[HIDDEN]) {
            return b"-NOPERM No permissions to access a key\r\n".to_vec();
        }
        if writes {
            judge.begin_change();
        }
        match words[..] {
            ["CLIENT", "TRACKING", "ON"] => {
                self.clients.get_mut(&link).expect("it asks").tracks = true;
                b"+OK\r\n".to_vec()
            }
            ["SUBSCRIBE", _] => {
                self.clients.get_mut(&link).expect("it asks").listens = true;
                b"+subscribed\r\n".to_vec()
            }
            ["PING"] => b"+PONG\r\n".to_vec(),
            ["CLIENT", ..] => b"+OK\r\n".to_vec(),
            ["ACL", ..] => {
                let closed = limited && self.closed_since.is_some();
                let keys = if closed {
                    "~k0 ~k1"
                } else if self.few_rights {
                    "%R~*"
                } else {
                    "~*"
                };
                format!("%2\r\n$8\r\ncommands\r\n$5\r\n+@all\r\n$4\r\nkeys\r\n${}\r\n{keys}\r\n", keys.len())
                    .into_bytes()
            }
            ["COMMAND", ..] => b"*1\r\n_\r\n".to_vec(),
            ["TIME"] => {
                let clock = now + self.ahead;
                let (seconds, micros) = ((clock / 1_000_000_000).to_string(), (clock / 1000 % 1_000_000).to_string());
                format!("*2\r\n${}\r\n{seconds}\r\n${}\r\n{micros}\r\n", seconds.len(), micros.len()).into_bytes()
            }
            ["LATENCY", ..] if !self.counts_swaps => b"-ERR unknown command 'LATENCY'\r\n".to_vec(),
            ["LATENCY", ..] => {
                self.openings.swaps_told = true;
                let of = |name: &str, calls: u64| {
                    format!(
                        "${}\r\n{name}\r\n%2\r\n$5\r\ncalls\r\n:{calls}\r\n$14\r\nhistogram_usec\r\n%0\r\n",
                        name.len()
                    )
                };
                let counts = [("hello", self.hellos), ("swapdb", self.swaps)];
                let told: Vec<_> =
                    counts.iter().filter(|(_, calls)| *calls > 0).map(|(name, calls)| of(name, *calls)).collect();
                format!("%{}\r\n{}", told.len(), told.concat()).into_bytes()
            }
            ["HELLO"] => {
                self.hellos += 1;
                let role = if self.is_master { "master" } else { "replica" };
                format!("%1\r\n$4\r\nrole\r\n${}\r\n{role}\r\n", role.len()).into_bytes()
            }
            ["INFO", ..] => b"=26\r\ntxt:# Memory\r\nmaxmemory:0\r\n\r\n".to_vec(),
            ["SELECT", _] if self.refuses_select => b"-NOPERM no\r\n".to_vec(),
            ["SELECT", to] => {
                self.clients.get_mut(&link).expect("it asks").db = to.parse().expect("a number");
                b"+OK\r\n".to_vec()
            }
            ["PTTL", key] => {
                let at = (db, number(key));
                self.read(link, at, out);
                let clock = self.clock_ms(now);
                let left = match &self.databases[db][at.1] {
                    None => -2,
                    Some(Value { until: None, .. }) => -1,
                    Some(Value { until: Some(until), .. }) => {
                        i64::try_from(until.saturating_sub(clock)).expect("small")
                    }
                };
                format!(":{left}\r\n").into_bytes()
            }
            ["GET", key] => bulk(self.read(link, (db, number(key)), out)),
            ["MGET", ref keys @ ..] => {
                let values = keys.iter().map(|key| bulk(self.read(link, (db, number(key)), out)));
                let values: Vec<_> = values.collect();
                [format!("*{}\r\n", keys.len()).into_bytes(), values.concat()].concat()
            }
            ["SET", key, value, ref rest @ ..] => {
                let until = rest.get(1).map(|px| self.clock_ms(now) + px.parse::<u64>().expect("a number"));
                self.put((db, number(key)), Some((value.parse().expect("a number"), until)), (now, by), judge, out);
                b"+OK\r\n".to_vec()
            }
            // A script that changes a key that it does not name.
            ["EVAL", _, "0", key, value] => {
                self.put((db, number(key)), Some((value.parse().expect("a number"), None)), (now, by), judge, out);
                b"+OK\r\n".to_vec()
            }
            ["DEL", key] => {
                let at = (db, number(key));
                self.meet(at, out);
                let there = self.databases[db][at.1].is_some();
                if there {
                    self.put(at, None, (now, by), judge, out);
                }
                format!(":{}\r\n", u8::from(there)).into_bytes()
            }
            ["FLUSHALL"] => {
                self.flush((now, by), judge, out);
                b"+OK\r\n".to_vec()
            }
            ["SWAPDB", "0", "1"] => {
                self.swaps += 1;
                self.databases.swap(0, 1);
                for (db, key) in (0..DATABASES).flat_map(|db| (0..KEYS).map(move |key| (db, key))) {
                    let value = self.databases[db][key].as_ref().filter(|value| !value.over).map(|value| value.is);
                    judge.changed((db, key), value, now, Cause::Untold, by);
                }
                b"+OK\r\n".to_vec()
            }
            _ => panic!("the model knows no {words:?}"),
        }
    }

    fn read(&mut self, link: usize, (db, key): (usize, usize), out: &mut Out) -> Option<u64> {
        self.meet((db, key), out);
        if self.clients.get(&link).is_some_and(|client| client.tracks) {
            self.tracked[key].insert(link);
        } else if self.tracked[key].is_empty() {
            self.openings.untold_read = Some((db, key));
        }
        self.databases[db][key].as_ref().map(|value| value.is)
    }

    fn put(
        &mut self,
        (db, key): (usize, usize),
        value: Option<(u64, Option<u64>)>,
        (now, by): (u64, Option<(usize, u64)>),
        judge: &mut Judge,
        out: &mut Out,
    ) {
        judge.changed((db, key), value.map(|(value, _)| value), now, self.cause(), by);
        self.databases[db][key] = value.map(|(value, until)| Value { is: value, until, over: false });
        self.tell(key, out);
    }

    fn cause(&self) -> Cause {
        if self.is_master { Cause::Write } else { Cause::Untold }
    }

    fn flush(&mut self, (now, by): (u64, Option<(usize, u64)>), judge: &mut Judge, out: &mut Out) {
        for (db, key) in (0..DATABASES).flat_map(|db| (0..KEYS).map(move |key| (db, key))) {
            if self.databases[db][key].take().is_some_and(|value| !value.over) {
                judge.changed((db, key), None, now, self.cause(), by);
            }
        }
        self.tracked = Default::default();
        if self.is_master {
            let links = self.clients.iter().filter(|(_, client)| client.tracks);
            out.extend(links.map(|(&link, _)| (link, b">2\r\n$10\r\ninvalidate\r\n_\r\n".to_vec())));
        }
    }
}

fn number(key: &str) -> usize {
    key[1..].parse().expect("keys are numbered")
}

fn bulk(value: Option<u64>) -> Vec<u8> {
    value.map_or(b"_\r\n".to_vec(), |value| {
        let value = value.to_string();
        format!("${}\r\n{value}\r\n", value.len()).into_bytes()
    })
}

/// Takes a whole command from the front, its name in capitals.
fn take_command(input: &mut Vec<u8>) -> Option<Vec<String>> {
    let mut at = 0;
    let line = |at: &mut usize| {
        let end = input[*at..].windows(2).position(|end| end == b"\r\n")?;
        let line = std::str::from_utf8(&input[*at + 1..*at + end]).expect("ASCII");
        *at += end + 2;
        line.parse::<usize>().ok()
    };
    let count = line(&mut at)?;
    let mut words = Vec::with_capacity(count);
    for n in 0..count {
        let len = line(&mut at)?;
        let word = std::str::from_utf8(input.get(at..at + len)?).expect("ASCII");
        input.get(at + len + 1)?;
        // Names are spelt as no client spells them.
        words.push(if n == 0 || words[0] == "CLIENT" { word.to_uppercase() } else { word.to_owned() });
        at += len + 2;
    }
    input.drain(..at);
    Some(words)
}
