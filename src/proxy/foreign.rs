//! What Redis says of commands that the table does not know, or not with so many arguments: a module's, or a newer server's.
//! Each is asked about once, and again of the server that comes after this one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Time;
use crate::command::fits;

/// Names remembered; past that they are asked for each time.
const KNOWN: usize = 4096;
/// That Redis does not know a name is believed this long: a module may be loaded.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// What Redis says of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// What it may do.
    pub nature: Nature,
    /// As in the table's rows; none where Redis does not say.
    arity: Option<i16>,
}

/// What a command may do, as far as Redis says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// It does not know it.
    Unknown,
    /// It changes no key.
    Reads,
    /// It may change any key.
    Writes,
    /// Neither is said: it may do anything, to the connection too.
    Anything,
}

/// What was asked so far.
#[derive(Default)]
pub struct Foreign {
    known: RefCell<HashMap<Vec<u8>, (Account, Time)>>,
}

impl Foreign {
    /// What is known of a name in lower case.
    pub fn get(&self, name: &[u8], now: Time) -> Option<Account> {
        let &(account, asked) = self.known.borrow().get(name)?;
        (account.nature != Nature::Unknown || now.saturating_since(asked) < UNKNOWN_FOR).then_some(account)
    }

    /// Remembers it.
    pub fn put(&self, name: Vec<u8>, account: Account, now: Time) {
        let mut known = self.known.borrow_mut();
        if known.len() < KNOWN || known.contains_key(&name) {
            known.insert(name, (account, now));
        }
    }

    /// A connection has ended: it may be another server that is connected to next.
    pub fn forget(&self) {
        self.known.borrow_mut().clear();
    }
}

impl Account {
    /// Redis does not know the command.
    pub const UNKNOWN: Self = Self { nature: Nature::Unknown, arity: None };
    /// Nothing was told.
    pub const NONE: Self = Self { nature: Nature::Anything, arity: None };

    /// Reads the reply to `COMMAND INFO` with one name.
    pub fn read(reply: &[u8]) -> Self {
        let nature = Nature::read(reply);
        // Two headers, the name with its own, the number.
        let line = reply.split(|&byte| byte == b'\n').nth(4).filter(|_| nature != Nature::Unknown);
        let number = line.and_then(|line| std::str::from_utf8(line).ok()?.trim_end().strip_prefix(':')?.parse().ok());
        Self { nature, arity: number }
    }

    /// Whether Redis takes so many arguments, names included.
    pub fn takes(self, argc: usize) -> bool {
        self.arity.is_some_and(|arity| fits(arity, argc))
    }
}

impl Nature {
    /// Reads the reply to `COMMAND INFO` with one name: an array of one null, or of one array with the flags among it.
    fn read(reply: &[u8]) -> Self {
        if reply.starts_with(b"-") {
            return Nature::Anything; // it was not told: the user may not ask
        }
        let says = |flag: &[u8]| reply.windows(flag.len()).any(|at| at == flag);
        if !reply.starts_with(b"*1\r\n") || reply.len() < 16 {
            return Nature::Unknown;
        }
        if says(b"+write\r\n") {
            Nature::Writes
        } else if says(b"+readonly\r\n") {
            Nature::Reads
        } else {
            Nature::Anything
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_decide_what_a_foreign_command_may_do() {
        assert_eq!(Nature::read(b"*1\r\n*-1\r\n"), Nature::Unknown);
        assert_eq!(Nature::read(b"*1\r\n$-1\r\n"), Nature::Unknown);
        assert_eq!(Nature::read(b"*1\r\n_\r\n"), Nature::Unknown);
        assert_eq!(Nature::read(b"-NOPERM this user has no permissions\r\n"), Nature::Anything);
        let info = |flag: &str| format!("*1\r\n*6\r\n$8\r\njson.get\r\n:-2\r\n*1\r\n+{flag}\r\n:1\r\n:1\r\n:1\r\n");
        assert_eq!(Nature::read(info("readonly").as_bytes()), Nature::Reads);
        assert_eq!(Nature::read(info("write").as_bytes()), Nature::Writes);
        assert_eq!(Nature::read(info("admin").as_bytes()), Nature::Anything);
    }

    #[test]
    fn what_it_takes_is_told_too() {
        let told = |arity: &str| {
            Account::read(
                format!("*1\r\n*10\r\n$12\r\nscript|debug\r\n:{arity}\r\n~1\r\n+noscript\r\n:0\r\n").as_bytes(),
            )
        };
        assert_eq!([2, 3, 4].map(|argc| told("-3").takes(argc)), [false, true, true]);
        assert_eq!([2, 3, 4].map(|argc| told("3").takes(argc)), [false, true, false]);
        for untold in
            [&b"*1\r\n*-1\r\n"[..], b"*1\r\n_\r\n", b"-NOPERM no\r\n", b"*1\r\n*2\r\n+a\r\n+b\r\n+c\r\n:1x\r\n"]
        {
            assert!(!Account::read(untold).takes(1));
        }
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
