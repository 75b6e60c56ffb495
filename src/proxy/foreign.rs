//! What Redis says of commands that the table does not know: a module's, or a newer server's. Each is asked about once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Time;

/// Names remembered; past that they are asked for each time.
const KNOWN: usize = 4096;
/// That Redis does not know a name is believed this long: a module may be loaded.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// What Redis says of a command that is not in the table.
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
    known: RefCell<HashMap<Vec<u8>, (Nature, Time)>>,
}

impl Foreign {
    /// What is known of a name in lower case.
    pub fn get(&self, name: &[u8], now: Time) -> Option<Nature> {
        let &(nature, asked) = self.known.borrow().get(name)?;
        (nature != Nature::Unknown || now.saturating_since(asked) < UNKNOWN_FOR).then_some(nature)
    }

    /// Remembers it.
    pub fn put(&self, name: Vec<u8>, nature: Nature, now: Time) {
        let mut known = self.known.borrow_mut();
        if known.len() < KNOWN || known.contains_key(&name) {
            known.insert(name, (nature, now));
        }
    }
}

impl Nature {
    /// Reads the reply to `COMMAND INFO` with one name: an array of one null, or of one array with the flags among it.
    pub fn read(reply: &[u8]) -> Self {
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
}
