//! Where scripts are run: a server, and a crema in front of an equal one. Every reply of the one is held against the other's.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::grammar::KEYS;
use super::script::{Act, MORTAL, Script};
use super::shapes::Shape;
use common::differs::Differs;
use common::value::shown;
use common::{Client, Crema, Redis, pack};

/// Of replies that are more than so many bytes Redis may lose the rest, where their client has closed its side (7.0,
/// `NET_MAX_WRITES_PER_EVENT`): it ends the connection before it writes again.
const WRITTEN_AT_ONCE: usize = 60_000;

/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Stage {
    // In the order in which they end.
    pub(crate) crema: Crema,
    direct: Redis,
    behind: Redis,
}

/// What a stage is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Both servers are Valkeys, where one is installed.
    valkey: bool,
    /// Crema hears of changes by broadcast.
    broadcast: bool,
}

impl Setting {
    /// So many episodes in a row are played in one setting.
    const EPISODES: u64 = 24;

    pub(crate) fn of(seed: u64) -> Setting {
        let which = (seed / Setting::EPISODES) % 4;
        Setting { valkey: which % 2 == 1, broadcast: which / 2 == 1 }
    }
}

/// Users of both servers beside the default one, with their rights. The password is the name. Of more exceptions than one
/// each server would make a list in an order of its own.
pub(crate) const USERS: [(&str, &str); 2] =
    [("narrow", "~s* ~h* ~x* %R~l* &* +@all -@dangerous -getrange"), ("reader", "~* &* +@all -@write -zrange")];

/// Two answers to the same question.
pub(crate) struct Difference {
    pub(crate) turn: usize,
    text: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "turn {}: {}", self.turn, self.text)
    }
}

/// One session, at both servers.
struct Pair {
    one: Client,
    other: Client,
}

impl Stage {
    pub(crate) fn new(setting: Setting) -> Stage {
        let args = ["--databases", "64"];
        let server = || Redis::valkey_with(&args).filter(|_| setting.valkey).unwrap_or_else(|| Redis::with(&args));
        let (direct, behind) = (server(), server());
        let mut launch = Crema::over(behind.addr()).flag("--output-limit", "512MiB");
        if setting.broadcast {
            launch = launch.flag("--coherence", "broadcast");
        }
        let stage = Stage { crema: launch.start(), direct, behind };
        for mut client in [stage.direct.client(), stage.crema.client()] {
            for (name, rights) in USERS {
                let password = format!(">{name}");
                let words = ["ACL", "SETUSER", name, "on", &password].into_iter().chain(rights.split(' '));
                assert_eq!(client.cmd(&words.collect::<Vec<_>>()).text(), "OK");
            }
        }
        stage
    }

    /// Requests that L1 has answered.
    pub(crate) fn hits(&self) -> u64 {
        if self.crema.is_direct() { 0 } else { self.crema.outcomes("hit") }
    }

    /// Both servers as they were at first, by the road of the clients.
    pub(crate) fn clear(&self) {
        let commands = [
            &["FLUSHALL"][..],
            &["SCRIPT", "FLUSH"],
            &["FUNCTION", "FLUSH"],
            &["CONFIG", "SET", "hash-max-listpack-entries", "128"],
        ];
        for mut client in [self.direct.client(), self.crema.client()] {
            for command in commands {
                let done = client.cmd(command);
                assert_eq!(done.text(), "OK", "{command:?}");
            }
        }
    }

    /// Has the keys with this prefix stay as they are, for the first `PFCOUNT` writes its result into the key; and has crema
    /// forget what it knows of them.
    pub(crate) fn settle(&self, prefix: &str) {
        let forget = format!(r#"{{"type":"RemovePattern","pattern":"{prefix}*"}}"#);
        for mut client in [self.direct.client(), self.crema.client()] {
            (0..KEYS).for_each(|n| drop(client.cmd(&["PFCOUNT", &format!("{prefix}p{n}")])));
            client.cmd(&["PUBLISH", "cache:invalidate", &forget]);
        }
    }

    /// Runs a script to its end or to the first difference; returns how many replies were compared.
    pub(crate) fn run(&self, script: &Script, seed: u64) -> Result<u64, Difference> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let enter = |who: usize, version: u8| self.enter(version, script.users[who]);
        let mut pairs: Vec<Pair> =
            script.versions.iter().enumerate().map(|(who, version)| enter(who, *version)).collect();
        let (mut replies, mut mortal) = (0, None);
        for (turn, acted) in script.turns.iter().enumerate() {
            match &acted.act {
                Act::Say(said) if said.iter().any(|shape| shape.bytes.windows(6).any(|at| at == b"mortal")) => {
                    mortal = Some(Instant::now());
                }
                Act::Pass(_) => mortal = None,
                _ => {}
            }
            let compared = match &acted.act {
                Act::Say(said) => pairs[acted.who].say(said, &mut rng),
                Act::Listen(said) => pairs[acted.who].listen(said, turn, &mut rng),
                Act::Renew(version) => {
                    pairs[acted.who].end().inspect(|_| pairs[acted.who] = enter(acted.who, *version))
                }
                Act::Close(said, version) => {
                    pairs[acted.who].close(said).inspect(|_| pairs[acted.who] = enter(acted.who, *version))
                }
                Act::Beside(said) => self.beside(said),
                Act::Pass(time) => {
                    std::thread::sleep(*time);
                    Ok(0)
                }
                Act::Wait { wait, waker, wake } => self.wait(&mut pairs, acted.who, wait, *waker, wake, &mut rng),
            };
            // Where the machine stood still, such a key may be there at the one and gone at the other; what follows is theirs alone.
            if compared.is_err()
                && mortal.is_some_and(|set: Instant| set.elapsed() + Duration::from_millis(50) > MORTAL)
            {
                return Ok(replies);
            }
            replies += compared.map_err(|text| Difference { turn, text: format!("session {}: {text}", acted.who) })?;
        }
        Ok(replies)
    }

    /// Says it to the servers themselves, past crema, and returns when crema has heard of it: the reply to a script waits for that.
    fn beside(&self, said: &[Shape]) -> Result<u64, String> {
        let bytes: Vec<u8> = said.iter().flat_map(|shape| &shape.bytes).copied().collect();
        let mut pair = Pair { one: self.direct.client(), other: self.behind.client() };
        let _ = (pair.one.try_send(&bytes), pair.other.try_send(&bytes));
        let replies = said.iter().map(|shape| pair.replies(shape)).sum::<Result<u64, String>>()?;
        for mut client in [self.direct.client(), self.crema.client()] {
            client.cmd(&["EVAL", "return 1", "0"]);
        }
        Ok(replies)
    }

    fn enter(&self, version: u8, user: Option<&str>) -> Pair {
        let mut pair = Pair {
            one: Client::speaking(version, self.direct.addr()),
            other: Client::speaking(version, self.crema.addr()),
        };
        if let Some(name) = user {
            for client in [&mut pair.one, &mut pair.other] {
                assert_eq!(client.cmd(&["AUTH", name, name]).text(), "OK");
            }
        }
        pair.one.patience(PATIENCE);
        pair.other.patience(PATIENCE);
        pair
    }

    fn wait(
        &self,
        pairs: &mut [Pair],
        who: usize,
        wait: &Shape,
        waker: usize,
        wake: &Shape,
        rng: &mut SmallRng,
    ) -> Result<u64, String> {
        pairs[who].send(&wait.bytes, rng);
        let deadline = Instant::now() + Duration::from_secs(4);
        while [&self.direct, &self.behind].iter().any(|server| server.info("clients", "blocked_clients") == 0) {
            if Instant::now() > deadline {
                // One may have been answered at once: then both have, with the same.
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let woken = pairs[waker].say(std::slice::from_ref(wake), rng)?;
        Ok(woken + pairs[who].replies(wait)?)
    }
}

impl Pair {
    fn send(&mut self, bytes: &[u8], rng: &mut SmallRng) {
        // A server that has had enough shows it in its answer.
        let _ = self.one.try_send(bytes);
        self.other.send_in_pieces(bytes, rng);
    }

    fn say(&mut self, said: &[Shape], rng: &mut SmallRng) -> Result<u64, String> {
        let bytes: Vec<u8> = said.iter().flat_map(|shape| &shape.bytes).copied().collect();
        self.send(&bytes, rng);
        said.iter().map(|shape| self.replies(shape)).sum()
    }

    fn replies(&mut self, shape: &Shape) -> Result<u64, String> {
        for (number, differs) in shape.differs.iter().enumerate() {
            let (want, got) = (self.one.try_reply(), self.other.try_reply());
            same(&want, &got, *differs).map_err(|text| format!("reply {number} to {}\n{text}", shown(&shape.bytes)))?;
        }
        Ok(shape.differs.len() as u64)
    }

    fn listen(&mut self, said: &[Shape], turn: usize, rng: &mut SmallRng) -> Result<u64, String> {
        let marker = format!("heard:{turn}");
        let bytes: Vec<u8> =
            said.iter().flat_map(|shape| &shape.bytes).copied().chain(pack(&["PING", &marker])).collect();
        self.send(&bytes, rng);
        let end = format!("{marker}\r\n").into_bytes();
        let mut heard = 0;
        loop {
            let (want, got) = (self.one.try_reply(), self.other.try_reply());
            same(&want, &got, Differs::Nothing)
                .map_err(|text| format!("{heard} answers and messages after {}\n{text}", shown(&bytes)))?;
            heard += 1;
            if want.is_ok_and(|reply| reply.ends_with(&end)) {
                return Ok(heard);
            }
        }
    }

    /// Requests and the end of the client's side in one piece: all of it is answered, and then the connection ends.
    fn close(&mut self, said: &[Shape]) -> Result<u64, String> {
        let bytes: Vec<u8> = said.iter().flat_map(|shape| &shape.bytes).copied().collect();
        for client in [&mut self.one, &mut self.other] {
            // A server that has had enough shows it in its answer.
            let _ = client.try_send(&bytes);
            client.shutdown(Shutdown::Write);
        }
        let (mut replies, mut read) = (0, 0);
        for (shape, differs) in said.iter().flat_map(|shape| shape.differs.iter().map(move |differs| (shape, *differs)))
        {
            let want = self.one.try_reply();
            if has_ended(&want) {
                break;
            }
            let got = self.other.try_reply();
            same(&want, &got, differs)
                .map_err(|text| format!("reply {replies} of one who closes, to {}\n{text}", shown(&shape.bytes)))?;
            read += want.map_or(0, |reply| reply.len());
            replies += 1;
        }
        let (want, got) = (self.one.rest(), self.other.rest());
        if want.as_ref().is_ok_and(|rest| read + rest.len() > WRITTEN_AT_ONCE) && got.is_ok() {
            return Ok(replies);
        }
        same(&want, &got, Differs::Nothing)
            .map_err(|text| format!("what came after {replies} replies and before the end\n{text}"))?;
        Ok(replies)
    }

    /// Whether there is nothing left to read on either side.
    fn end(&mut self) -> Result<u64, String> {
        let last = pack(&["ECHO", "the end"]);
        let _ = (self.one.try_send(&last), self.other.try_send(&last));
        let (want, got) = (self.one.try_reply(), self.other.try_reply());
        same(&want, &got, Differs::Nothing).map(|()| 1)
    }
}

fn has_ended(reply: &io::Result<Vec<u8>>) -> bool {
    reply.as_ref().is_err_and(|error| matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset))
}

fn same(want: &io::Result<Vec<u8>>, got: &io::Result<Vec<u8>>, differs: Differs) -> Result<(), String> {
    let show = |reply: &io::Result<Vec<u8>>| {
        reply.as_ref().map_or_else(|error| format!("no reply: {error}"), |bytes| shown(bytes))
    };
    match (want, got) {
        (Ok(want), Ok(got)) if want == got || differs.blot(want) == differs.blot(got) => Ok(()),
        _ => Err(format!("Redis: {}\ncrema: {}", show(want), show(got))),
    }
}
