//! What Redis says of commands that the table does not know, or not with so many arguments: a module's, or a newer server's.
//! Each is asked about once, and again of the server that comes after this one.
//!
//! Holds contract point 1 (same answers).

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::BitOr;
use std::time::Duration;

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;

use crate::clock::Time;
use crate::command::{self, Categories, Spec, Spread, fits, may_change_untold};
use crate::resp::{Request, to_resp2};

/// Names remembered; past that they are asked for each time.
const KNOWN: usize = 4096;
/// That Redis does not know a name is believed this long: a module may be loaded.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// What Redis says of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// What it may do.
    pub nature: Nature,
    /// As in the table's rows; none where Redis does not say.
    arity: Option<i16>,
    /// Of its ACL categories those that the table knows. Empty where there is no such command; none where Redis does not say.
    pub categories: Option<Categories>,
    /// The row of its first name, where it was given another.
    first: Option<u16>,
    /// To which nodes of a cluster it goes, by its tips.
    pub spread: Spread,
    /// Which argument is its first key, as far as Redis says: none where that depends on the others.
    first_key: Option<u16>,
}

/// What a command may do, as far as Redis says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    /// It does not know it.
    Unknown,
    /// It changes no key.
    Reads,
    /// It may change keys, which it names.
    Writes,
    /// It may change any key, and names none: `SWAPDB` under another name is such, of which Redis tells nobody.
    Secret,
    /// Neither is said: it may do anything, to the connection too.
    Anything,
    /// Nothing is said.
    Unsaid,
}

/// What was asked so far.
#[derive(Default)]
pub(crate) struct Foreign {
    known: RefCell<HashMap<Vec<u8>, (Account, Time)>>,
}

impl Foreign {
    /// What is known of a name in lower case.
    pub(crate) fn get(&self, name: &[u8], now: Time) -> Option<Account> {
        let &(account, asked) = self.known.borrow().get(name)?;
        (account.nature != Nature::Unknown || now.saturating_since(asked) < UNKNOWN_FOR).then_some(account)
    }

    /// Remembers it.
    pub(crate) fn put(&self, name: Vec<u8>, account: Account, now: Time) {
        let mut known = self.known.borrow_mut();
        if known.len() < KNOWN || known.contains_key(&name) {
            known.insert(name, (account, now));
        }
    }

    /// A connection has ended: it may be another server that is connected to next.
    pub(crate) fn forget(&self) {
        self.known.borrow_mut().clear();
    }
}

impl Account {
    /// Redis does not know the command.
    pub(crate) const UNKNOWN: Self = Self {
        nature: Nature::Unknown,
        arity: None,
        categories: Some(Categories::NONE),
        first: None,
        first_key: None,
        spread: Spread::OneNode,
    };
    /// Nothing was told.
    pub(crate) const NONE: Self = Self {
        nature: Nature::Unsaid,
        arity: None,
        categories: None,
        first: None,
        first_key: None,
        spread: Spread::OneNode,
    };

    /// Nothing was told, and this is believed of it.
    pub(crate) fn of(nature: Nature) -> Self {
        Self { nature, ..Self::NONE }
    }

    /// Reads the reply to `COMMAND INFO` with one `name`.
    pub(crate) fn read(name: &[u8], reply: &[u8]) -> Self {
        let nature = Nature::read(name, reply);
        if nature == Nature::Unknown {
            return Self::UNKNOWN;
        }
        // Two headers, the name with its own, the number.
        let line = reply.split(|&byte| byte == b'\n').nth(4);
        let number = line.and_then(|line| std::str::from_utf8(line).ok()?.trim_end().strip_prefix(':')?.parse().ok());
        let told = told(reply).unwrap_or_default();
        let categories = match told.get(6) {
            Some(OwnedFrame::Array(names)) => {
                Some(names.iter().filter_map(category).fold(Categories::NONE, BitOr::bitor))
            }
            _ => None,
        };
        let first = first_name(name, &told).and_then(command::named).map(|spec| spec.id);
        let spread = match told.get(7) {
            Some(OwnedFrame::Array(tips)) => Spread::of_tips(tips.iter().filter_map(word)),
            _ => Spread::OneNode,
        };
        let first_key = match told.get(3) {
            Some(&OwnedFrame::Integer(at)) => u16::try_from(at).ok().filter(|&at| at > 0),
            _ => None,
        };
        Self { nature, arity: number, categories, first, first_key, spread }
    }

    /// The first key of a request, where Redis says which that is.
    pub(crate) fn key_of(self, request: Request<'_>) -> Option<&[u8]> {
        let at = usize::from(self.first_key?);
        (at < request.argc()).then(|| request.arg(at))
    }

    /// Whether Redis says how many arguments it takes.
    pub(crate) fn says_arity(self) -> bool {
        self.arity.is_some()
    }

    /// The row of its first name, where it was given another (`rename-command`).
    pub(crate) fn first(self) -> Option<&'static Spec> {
        self.first.map(command::by_id)
    }

    /// Whether Redis takes so many arguments, names included.
    pub(crate) fn takes(self, argc: usize) -> bool {
        self.arity.is_some_and(|arity| fits(arity, argc))
    }
}

impl Nature {
    /// Reads the reply to `COMMAND INFO` with one `name`: an array of one null, or of one array: name, arity, flags, first key and
    /// more. A command that was renamed is told of under its first name.
    fn read(name: &[u8], reply: &[u8]) -> Self {
        let Some(told) = told(reply) else { return Nature::Unsaid };
        if told.is_empty() {
            return Nature::Unknown;
        }
        let says = |flag: &[u8]| match told.get(2) {
            Some(OwnedFrame::Array(flags)) => flags.iter().any(|told| word(told) == Some(flag)),
            _ => false,
        };
        let names_keys = says(b"movablekeys") || told.get(3).is_some_and(|first| *first != OwnedFrame::Integer(0));
        if first_name(name, &told).is_some_and(may_change_untold) || says(b"write") && !names_keys {
            Nature::Secret
        } else if says(b"write") {
            Nature::Writes
        } else if says(b"readonly") {
            Nature::Reads
        } else {
            Nature::Anything
        }
    }

    /// Whether it may change what its connection is.
    pub(crate) fn may_taint(self) -> bool {
        matches!(self, Nature::Anything | Nature::Unsaid)
    }
}

/// The name by which the command of that `name` is told of, where that is another.
fn first_name<'a>(name: &[u8], told: &'a [OwnedFrame]) -> Option<&'a [u8]> {
    told.first().and_then(word).filter(|first| !first.eq_ignore_ascii_case(name))
}

/// What the reply to `COMMAND INFO` with one name says of it, nothing where the server does not know it; none where it is no such
/// reply, or an empty one: that says as little.
fn told(reply: &[u8]) -> Option<Vec<OwnedFrame>> {
    // As RESP2, which has no sets of maps: the decoder cannot hash them.
    let mut resp2 = Vec::new();
    let decoded = to_resp2(reply, &mut resp2).ok().and_then(|_| decode(&resp2).ok()?);
    let Some((OwnedFrame::Array(told), _)) = decoded else { return None };
    match told.into_iter().next() {
        Some(OwnedFrame::Array(told)) if !told.is_empty() => Some(told),
        Some(OwnedFrame::Null) => Some(Vec::new()),
        _ => None,
    }
}

/// A category by its name, which begins with `@`.
fn category(frame: &OwnedFrame) -> Option<Categories> {
    Categories::named(std::str::from_utf8(word(frame)?).ok()?.strip_prefix('@')?)
}

fn word(frame: &OwnedFrame) -> Option<&[u8]> {
    match frame {
        OwnedFrame::SimpleString(told) | OwnedFrame::BulkString(told) => Some(told),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_keys_decide_what_a_foreign_command_may_do() {
        let read = |reply: &[u8]| Nature::read(b"x.y", reply);
        for none in [&b"*1\r\n*-1\r\n"[..], b"*1\r\n$-1\r\n", b"*1\r\n_\r\n"] {
            assert_eq!(read(none), Nature::Unknown);
        }
        for silent in [&b"-NOPERM this user has no permissions\r\n"[..], b"*0\r\n", b"~0\r\n", b"*1\r\n*0\r\n"] {
            assert_eq!(Account::read(b"x.y", silent), Account::NONE, "{}", silent.escape_ascii());
        }
        let info = |name: &str, flags: &str, first: i32| {
            let reply = format!("*1\r\n*6\r\n${}\r\n{name}\r\n:-2\r\n{flags}:{first}\r\n:1\r\n:1\r\n", name.len());
            Nature::read(b"x.y", reply.as_bytes())
        };
        assert_eq!(info("x.y", "*1\r\n+readonly\r\n", 1), Nature::Reads);
        assert_eq!(info("x.y", "~2\r\n+write\r\n+fast\r\n", 1), Nature::Writes);
        assert_eq!(info("x.y", "*1\r\n+admin\r\n", 0), Nature::Anything);
        assert_eq!(info("x.y", "*1\r\n+write\r\n", 0), Nature::Secret);
        assert_eq!(info("x.y", "*2\r\n+write\r\n+movablekeys\r\n", 0), Nature::Writes);
        for (renamed, nature) in [("swapdb", Nature::Secret), ("debug", Nature::Secret), ("config", Nature::Anything)] {
            assert_eq!(info(renamed, "*1\r\n+admin\r\n", 0), nature, "{renamed}");
        }
    }

    #[test]
    fn what_it_takes_is_told_too() {
        let told = |arity: &str| {
            Account::read(
                b"script|debug",
                format!("*1\r\n*10\r\n$12\r\nscript|debug\r\n:{arity}\r\n~1\r\n+noscript\r\n:0\r\n").as_bytes(),
            )
        };
        assert_eq!([2, 3, 4].map(|argc| told("-3").takes(argc)), [false, true, true]);
        assert_eq!([2, 3, 4].map(|argc| told("3").takes(argc)), [false, true, false]);
        for untold in
            [&b"*1\r\n*-1\r\n"[..], b"*1\r\n_\r\n", b"-NOPERM no\r\n", b"*1\r\n*2\r\n+a\r\n+b\r\n+c\r\n:1x\r\n"]
        {
            assert!(!Account::read(b"a", untold).takes(1));
        }
    }

    #[test]
    fn categories_are_told_where_there_are_any() {
        let told = |reply: &str| Account::read(b"x.y", reply.as_bytes()).categories;
        let info = "*1\r\n*7\r\n$3\r\nx.y\r\n:-2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n";
        let (read, dangerous) = (Categories::named("read"), Categories::named("dangerous"));
        for both in ["*3\r\n+@read\r\n+@json\r\n+@dangerous\r\n", "~2\r\n+@read\r\n+@dangerous\r\n"] {
            assert_eq!(told(&format!("{info}{both}")), read.zip(dangerous).map(|(one, other)| one | other));
        }
        assert_eq!(told(&format!("{info}*0\r\n")), Some(Categories::NONE));
        assert_eq!(told("*1\r\n*6\r\n$3\r\nx.y\r\n:-2\r\n*0\r\n:1\r\n:1\r\n:1\r\n"), None, "before version 6");
        assert_eq!(told("*1\r\n*-1\r\n"), Some(Categories::NONE), "what there is not is in no category");
        assert_eq!(told("*0\r\n"), None);
        assert_eq!(told("-NOPERM no\r\n"), None);
    }

    #[test]
    fn tips_say_to_which_nodes_it_goes() {
        let told = |tips: &str| {
            let info = "*1\r\n*8\r\n$3\r\nx.y\r\n:-2\r\n*1\r\n+readonly\r\n:0\r\n:0\r\n:0\r\n*0\r\n";
            Account::read(b"x.y", format!("{info}{tips}").as_bytes()).spread
        };
        let tips = "*2\r\n$25\r\nrequest_policy:all_shards\r\n$23\r\nresponse_policy:agg_sum\r\n";
        assert_eq!(told(tips), Spread::Masters(command::Merge::Sum));
        assert_eq!([told("*0\r\n"), Account::NONE.spread], [Spread::OneNode; 2]);
    }

    #[test]
    fn a_renamed_command_is_known_by_its_first_name() {
        let first = |name: &str, told: &str| {
            let reply = format!("*1\r\n*6\r\n${}\r\n{told}\r\n:-1\r\n*0\r\n:0\r\n:0\r\n:0\r\n", told.len());
            Account::read(name.as_bytes(), reply.as_bytes()).first().map(|spec| spec.name)
        };
        assert_eq!(first("fa", "flushall"), Some("flushall"));
        assert_eq!(first("cfg", "config"), Some("config"));
        assert_eq!(first("flushall", "FlushAll"), None, "it has no other");
        assert_eq!(first("x.y", "ft.search"), None, "the table does not know it");
    }

    #[test]
    fn another_server_is_asked_anew() {
        let (foreign, now) = (Foreign::default(), Time::now());
        foreign.put(b"name".to_vec(), Account::NONE, now);
        assert!(foreign.get(b"name", now).is_some());
        foreign.forget();
        assert_eq!(foreign.get(b"name", now), None);
    }
}
