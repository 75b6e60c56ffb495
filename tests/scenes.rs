//! Scenes of several clients, acted before a Redis and, through crema, before an equal one: whatever one client does to another,
//! each is told the same.
//!
//! A scene is a list of lines. A letter is a client, a capital one speaks RESP3. `a: GET k` asks and reads the answer, `a> BLPOP l 0`
//! asks and goes on when that waits at the server, `a<` reads what comes, `a!` finds the connection closed, `a.` leaves. `= name`
//! at the end keeps the answer, `$name` stands for it, `$name.addr` for a field of it. Before the words may stand what is not
//! compared: `#` digits, `~` the order, `@` all of a client's line but what it did. `* is ID ID`, `* gone ID` and `* busy` check
//! and wait. In a word `\s` is a blank and `\n` a new line.

#[path = "scenes/scenes.rs"]
mod scenes;

use std::collections::HashMap;

use common::differs::Differs;
use common::value::shown;
use common::{Client, Crema, Redis, Value, eventually, pack};

/// Fields of a line of `CLIENT LIST` that are the client's own doing.
const DOING: [&str; 13] = [
    "name=",
    "db=",
    "sub=",
    "psub=",
    "ssub=",
    "multi=",
    "flags=",
    "cmd=",
    "user=",
    "resp=",
    "lib-name=",
    "lib-ver=",
    "events=",
];

#[test]
fn every_scene_plays_alike() {
    play(&Redis::start(), &Redis::start(), scenes::ALL);
}

/// Where one is installed, as `make test` does.
#[test]
fn every_scene_plays_alike_before_valkey() {
    let (Some(direct), Some(behind)) = (Redis::valkey(), Redis::valkey()) else {
        assert!(std::env::var_os("CI").is_none(), "no Valkey here; `make test` installs one");
        return;
    };
    play(&direct, &behind, scenes::ALL);
}

fn play(direct: &Redis, behind: &Redis, scenes: &[(&str, &str)]) {
    let crema = Crema::start(behind);
    let mut differences = Vec::new();
    for (title, scene) in scenes {
        let mut sides = [Side::new(direct, direct.client()), Side::new(behind, crema.client())];
        let addrs = [direct.addr(), crema.addr()];
        for line in scene.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let [want, got] = [0, 1].map(|side| sides[side].act(line, addrs[side]));
            if want != got {
                differences.push(format!("{title}\n{line}\nRedis: {want}\ncrema: {got}"));
                break; // what comes after it follows from it
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What one of the two servers is part of.
struct Side<'a> {
    server: &'a Redis,
    clients: HashMap<char, Client>,
    kept: HashMap<String, Vec<u8>>,
}

impl<'a> Side<'a> {
    fn new(server: &'a Redis, mut client: Client) -> Side<'a> {
        client.cmd(&["FLUSHALL"]);
        Side { server, clients: HashMap::new(), kept: HashMap::new() }
    }

    /// Does what a line says; what the client is told, less what cannot be compared.
    fn act(&mut self, line: &str, addr: std::net::SocketAddr) -> String {
        let (who, op) = (line.chars().next().expect("no empty line"), line.chars().nth(1).expect("and what it does"));
        let (mut words, keep) = match line[2..].split_once(" = ") {
            Some((words, name)) => (words.trim(), Some(name.trim())),
            None => (line[2..].trim(), None),
        };
        let mut blots = Vec::new();
        while let Some(rest) =
            words.strip_prefix(['#', '~', '@']).filter(|rest| rest.is_empty() || rest.starts_with(' '))
        {
            blots.push(words.as_bytes()[0]);
            words = rest.trim();
        }
        let words: Vec<Vec<u8>> =
            words.split(' ').filter(|word| !word.is_empty()).map(|word| self.word(word)).collect();
        if who == '*' {
            self.check(&words);
            return String::new();
        }
        let version = if who.is_uppercase() { 3 } else { 2 };
        let client = self.clients.entry(who).or_insert_with(|| Client::speaking(version, addr));
        match op {
            ':' => client.send(&pack(&words)),
            '>' => {
                let before = self.server.info("clients", "blocked_clients");
                client.send(&pack(&words));
                let waits = || self.server.info("clients", "blocked_clients") > before;
                eventually(&format!("it waits: {line}"), waits);
                return String::new();
            }
            '^' => {
                client.send(&pack(&words));
                return String::new();
            }
            '<' => {}
            '!' => {
                let rest = client.rest().map_or_else(|error| error.to_string(), |rest| shown(&rest));
                self.clients.remove(&who);
                return rest;
            }
            '.' => {
                self.clients.remove(&who);
                return String::new();
            }
            other => panic!("no line has a {other:?}: {line}"),
        }
        let reply = client.try_reply().unwrap_or_else(|error| format!("-{error}\r\n").into_bytes());
        if let Some(name) = keep {
            let kept = match Value::parse(&reply) {
                Value::Int(n) => n.to_string().into_bytes(),
                Value::Bulk(bytes) => bytes,
                other => other.text().trim_start_matches("txt:").into(),
            };
            self.kept.insert(name.to_owned(), kept);
        }
        let told = blots.iter().fold(reply, |reply, blot| match blot {
            b'#' => Differs::Digits.blot(&reply),
            b'~' => Differs::Order.blot(&reply),
            _ => doing(&reply),
        });
        if keep.is_some() && blots.is_empty() { String::new() } else { String::from_utf8_lossy(&told).into_owned() }
    }

    fn word(&self, word: &str) -> Vec<u8> {
        let Some(name) = word.strip_prefix('$').filter(|name| !name.is_empty()) else {
            return word.replace("\\s", " ").replace("\\n", "\n").into_bytes();
        };
        let (name, field) = name.split_once('.').map_or((name, None), |(name, field)| (name, Some(field)));
        let kept = self.kept.get(name).unwrap_or_else(|| panic!("nothing is kept as {name}"));
        let Some(field) = field else { return kept.clone() };
        let text = String::from_utf8_lossy(kept).into_owned();
        let value = text.split(' ').find_map(|part| part.strip_prefix(field)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("no {field} in {text}")).into()
    }

    fn check(&self, words: &[Vec<u8>]) {
        let text = |at: usize| String::from_utf8_lossy(&words[at]).into_owned();
        match &*text(0) {
            "is" => assert_eq!(text(1), text(2)),
            "gone" => eventually("it has left the server", || {
                let id = format!("id={} ", text(1));
                !self.server.client_list().iter().any(|line| line.starts_with(&id))
            }),
            "busy" => eventually("it is busy", || self.server.client().cmd(&["PING"]).text().starts_with("BUSY")),
            "free" => eventually("the server is free", || !self.server.client().cmd(&["PING"]).is_error()),
            other => panic!("nothing is called {other}"),
        }
    }
}

/// A reply in which lines of `CLIENT LIST` tell only what the client did.
fn doing(reply: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(reply);
    let lines = text.lines().map(|line| {
        if !line.contains(" addr=") {
            return line.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
        }
        let fields = line.split(' ').filter(|field| DOING.iter().any(|doing| field.starts_with(doing)));
        fields.collect::<Vec<_>>().join(" ")
    });
    lines.collect::<Vec<_>>().join("\n").into_bytes()
}
