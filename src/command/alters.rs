//! What a command can change of which Redis tells no tracked connection.
//!
//! Whoever sends such a command must know before it is answered, for nothing will be pushed. Pure data, as all of `command`.

use std::time::Duration;

use super::{Class, KeySpec, Route, Spec, Verb, index, keys};
use crate::resp::Request;

/// What a command can change of which Redis tells no tracked connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
pub struct Alters {
    /// Keys: databases are swapped, or are read from a file without being emptied first; or nobody can say what it does.
    pub keys: bool,
    /// What somebody may do: an ACL command that sets rights, or CONFIG SET of the password.
    pub rights: bool,
    /// Whether the server is a master.
    pub role: bool,
    /// Whether it holds clients back: for so long from now on.
    pub pause: Option<Duration>,
    /// That it held them back before is over.
    pub unpause: bool,
}

impl Alters {
    /// Whether it can change any of it.
    pub fn any(self) -> bool {
        self.keys || self.rights || self.role || self.pause.is_some() || self.unpause
    }

    /// What this and then another command can change.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            keys: self.keys || other.keys,
            rights: self.rights || other.rights,
            role: self.role || other.role,
            pause: if other.unpause { other.pause } else { self.pause.max(other.pause) },
            unpause: self.unpause || other.unpause,
        }
    }
}

/// Whether the command of this name, by which the server knows it under another, may change keys untold.
pub(crate) fn may_change_untold(name: &[u8]) -> bool {
    index::find(None, name).is_some_and(|spec| spec.keys == KeySpec::Unknown || spec.swaps())
}

impl Spec {
    /// What `req` can change of which Redis tells no tracked connection.
    #[inline]
    pub fn alters(&self, req: Request<'_>) -> Alters {
        // Nearly every write is none of these.
        if !matches!(self.route, Route::Session(_)) && !matches!(self.keys, KeySpec::Unknown) {
            return Alters::default();
        }
        self.alters_by(req)
    }

    fn alters_by(&self, req: Request<'_>) -> Alters {
        let untold = match self.keys {
            KeySpec::Unknown => self.class != Class::Server || keys::loads_keys(req),
            _ => self.swaps(),
        };
        let rights = match self.route {
            Route::Session(Verb::AclChange) => true,
            Route::Session(Verb::ConfigSet) => keys::sets_password(req),
            _ => false,
        };
        let pause = (self.route == Route::Session(Verb::ClientPause)).then(|| {
            let millis = std::str::from_utf8(req.arg(2)).ok()?.parse().ok()?;
            Some(Duration::from_millis(millis))
        });
        Alters {
            keys: untold,
            rights,
            role: self.route == Route::Session(Verb::RoleChange),
            pause: pause.flatten(),
            unpause: self.route == Route::Session(Verb::ClientUnpause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{lookup, unknown, unknown_told};
    use crate::resp::{Limits, Parser};

    fn of(line: &str) -> Alters {
        let mut parser = Parser::new();
        parser.parse(line.as_bytes(), &Limits::authenticated()).expect("a valid line");
        let request = parser.request(line.as_bytes());
        lookup(request).expect("a row").alters(request)
    }

    #[test]
    fn what_no_push_tells_is_of_keys_of_rights_or_of_the_role() {
        let keys = Alters { keys: true, ..Alters::default() };
        for line in ["SWAPDB 0 1\r\n", "DEBUG reload MERGE\r\n", "DEBUG LOADAOF\r\n", "MODULE LOAD x\r\n"] {
            assert_eq!(of(line), keys, "{line}");
        }
        let rights = Alters { rights: true, ..Alters::default() };
        assert_eq!((of("ACL SETUSER u\r\n"), of("CONFIG SET maxmemory 1 REQUIREPASS x\r\n")), (rights, rights));
        assert!(of("REPLICAOF no one\r\n").role && of("FAILOVER\r\n").role && !of("ROLE\r\n").any());
        for line in ["FLUSHALL\r\n", "SET a b\r\n", "EVAL x 0\r\n", "DEBUG SLEEP 1\r\n", "CONFIG SET maxmemory 1\r\n"] {
            assert!(!of(line).any(), "{line}");
        }
        assert_eq!(keys.and(rights), Alters { keys: true, rights: true, ..Alters::default() });
    }

    #[test]
    fn the_longest_pause_counts_and_an_end_ends_those_before_it() {
        let pause = |millis: u64| of(&format!("CLIENT PAUSE {millis} WRITE\r\n"));
        let unpause = of("CLIENT UNPAUSE\r\n");
        let long = Some(Duration::from_millis(90));
        assert_eq!(pause(90).and(pause(5)).pause, long);
        assert_eq!(unpause.and(pause(90)).pause, long);
        assert_eq!(pause(90).and(unpause).pause, None);
        assert!(unpause.any() && !of("CLIENT PAUSE soon\r\n").any());
    }

    #[test]
    fn what_nobody_knows_may_be_a_swap() {
        let mut parser = Parser::new();
        let line = b"swap-9f3 0 1\r\n";
        parser.parse(line, &Limits::authenticated()).expect("a valid line");
        let request = parser.request(line);
        assert!(unknown().alters(request).keys && !unknown_told().alters(request).any());
        assert!(may_change_untold(b"swapdb") && may_change_untold(b"DEBUG") && !may_change_untold(b"flushall"));
    }
}
