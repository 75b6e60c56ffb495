//! Commands that clients may not use, whoever they are: by name, with all subcommands or one, and by category, as in Redis's ACL.
//!
//! Owns what a list of such words means. What is said to a client that uses one is `session`'s.

use super::table::ROWS;
use super::{Categories, Route, Spec, Verb, all, index};

/// The rows of the table, in words of a bit each.
const WORDS: usize = ROWS.len().div_ceil(64);

/// Which commands are denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denied {
    /// By [`Spec::id`].
    rows: [u64; WORDS],
    /// Names that the table does not know, in lower case: modules have such.
    foreign: Vec<Box<str>>,
    /// What is denied of commands that the table does not know.
    categories: Categories,
    /// Nothing but what every user of Redis may.
    everything: bool,
}

/// Why a word denies nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenialMistake {
    /// There is no such category.
    Category,
    /// There is no such command.
    Command,
    /// Redis allows it to everybody, and so it cannot be denied: `AUTH`, `HELLO`, `QUIT`, `RESET`.
    Allowed,
}

impl Denied {
    /// Denies what `word` says: `flushall`, `config` with all of its subcommands, `config|set`, `@dangerous`, `@all`, in any case.
    /// A name with a dot is a module's, and is taken as it is.
    pub fn deny(&mut self, word: &str) -> Result<(), DenialMistake> {
        if let Some(category) = word.strip_prefix('@') {
            return self.deny_category(category);
        }
        let (name, sub) = word.split_once('|').map_or((word, None), |(name, sub)| (name, Some(sub)));
        let found = index::find(None, name.as_bytes());
        let found = match sub {
            Some(sub) => found.filter(|spec| spec.container).and_then(|of| index::find(Some(of), sub.as_bytes())),
            None => found,
        };
        match found {
            Some(spec) if spec.is_allowed_to_all() => Err(DenialMistake::Allowed),
            Some(spec) => {
                self.deny_row(spec);
                let rest = all().iter().skip(usize::from(spec.id) + 1);
                let subcommands = rest.take_while(|row| spec.container && row.name.contains('|'));
                subcommands.for_each(|row| self.deny_row(row));
                Ok(())
            }
            None if name.contains('.') => {
                self.foreign.push(word.to_ascii_lowercase().into());
                Ok(())
            }
            None => Err(DenialMistake::Command),
        }
    }

    fn deny_category(&mut self, name: &str) -> Result<(), DenialMistake> {
        let everything = name.eq_ignore_ascii_case("all");
        let category = Categories::named(name);
        if category.is_none() && !everything {
            return Err(DenialMistake::Category);
        }
        let category = category.unwrap_or(Categories::NONE);
        self.everything |= everything;
        self.categories = self.categories | category;
        let denied = |row: &&Spec| everything || row.categories.intersects(category);
        all().iter().filter(denied).for_each(|row| self.deny_row(row));
        Ok(())
    }

    fn deny_row(&mut self, spec: &Spec) {
        if !spec.is_allowed_to_all() {
            self.rows[usize::from(spec.id) / 64] |= 1 << (spec.id % 64);
        }
    }

    /// What either denies.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.rows.iter_mut().zip(other.rows).for_each(|(row, other)| *row |= other);
        self.foreign.extend(other.foreign.iter().cloned());
        self.categories = self.categories | other.categories;
        self.everything |= other.everything;
        self
    }

    /// The same, and where anything is denied, `SYNC` and `PSYNC` besides: all that a replica sends is passed on as it is, so that
    /// nobody could look for what else is denied.
    #[must_use]
    pub fn and_replicas(mut self) -> Self {
        if !self.is_empty() {
            let sync = |row: &&Spec| row.route == Route::Session(Verb::Sync);
            all().iter().filter(sync).for_each(|row| self.deny_row(row));
        }
        self
    }

    /// Whether nothing is denied.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a command of the table is denied.
    pub fn has(&self, spec: &Spec) -> bool {
        self.rows[usize::from(spec.id) / 64] & 1 << (spec.id % 64) != 0
    }

    /// Whether one is that the table does not know, `name` in lower case, of which the server says that it is in these categories,
    /// or says nothing: then it may be in any.
    pub fn has_foreign(&self, name: &[u8], told: Option<Categories>) -> bool {
        let by_category = match told {
            Some(categories) => categories.intersects(self.categories),
            None => self.categories != Categories::NONE,
        };
        let container = name.split(|&byte| byte == b'|').next().and_then(|name| index::find(None, name));
        let by_name = self.foreign.iter().any(|denied| {
            let rest = name.strip_prefix(denied.as_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'|')
        });
        self.everything || by_category || by_name || container.is_some_and(|spec| spec.container && self.has(spec))
    }
}

impl Spec {
    /// Whether every user of Redis may, whatever its rules say (there, the flag `no_auth`); and what is no command of Redis's.
    fn is_allowed_to_all(&self) -> bool {
        matches!(self.route, Route::Close | Route::Session(Verb::Auth | Verb::Hello | Verb::Quit | Verb::Reset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(words: &[&str]) -> Denied {
        let mut denied = Denied::default();
        for word in words {
            denied.deny(word).expect(word);
        }
        denied
    }

    fn row(name: &str) -> &'static Spec {
        all().iter().find(|row| row.name == name).expect(name)
    }

    #[test]
    fn a_name_denies_a_command_with_its_subcommands() {
        let some = denied(&["FLUSHALL", "config", "CLIENT|Kill"]);
        for name in ["flushall", "config", "config|get", "config|set", "client|kill"] {
            assert!(some.has(row(name)), "{name}");
        }
        for name in ["flushdb", "command", "client|list", "client", "get"] {
            assert!(!some.has(row(name)), "{name}");
        }
        assert!(some.has_foreign(b"config|new", Some(Categories::NONE)));
        assert!(!some.has_foreign(b"client|new", Some(Categories::NONE)));
        assert!(!some.has_foreign(b"whatever", None), "no category is denied");
        assert!(!some.is_empty() && denied(&[]).is_empty());
        let both = denied(&["flushall", "FT.SEARCH"]).and(&denied(&["@scripting"]));
        assert!(both.has(row("flushall")) && both.has(row("eval")) && !both.has(row("get")));
        assert!(both.has_foreign(b"ft.search", Some(Categories::NONE)) && both.has_foreign(b"x", None));
    }

    #[test]
    fn a_category_denies_all_that_is_in_it_but_what_everybody_may() {
        let some = denied(&["@dangerous", "@Connection"]);
        for name in ["keys", "flushall", "config|set", "sort", "acl|setuser", "ping", "select"] {
            assert!(some.has(row(name)), "{name}");
        }
        for name in ["auth", "hello", "quit", "reset", "get", "scan"] {
            assert!(!some.has(row(name)), "{name}");
        }
        let dangerous = Categories::named("dangerous").expect("a category");
        assert!(some.has_foreign(b"x.y", Some(dangerous)));
        assert!(!some.has_foreign(b"x.y", Some(Categories::named("read").expect("a category"))));
        assert!(some.has_foreign(b"x.y", None), "nobody says that it is harmless");
        let everything = denied(&["@all"]);
        assert!(everything.has(row("get")) && everything.has_foreign(b"x", Some(Categories::NONE)));
        assert!(!everything.has(row("auth")));
    }

    #[test]
    fn modules_commands_are_named_and_no_others_that_there_are_not() {
        let some = denied(&["FT.SEARCH"]);
        assert!(some.has_foreign(b"ft.search", Some(Categories::NONE)));
        assert!(!some.has_foreign(b"ft.searches", Some(Categories::NONE)));
        let replicas = some.and_replicas();
        assert!(replicas.has(row("sync")) && replicas.has(row("psync")) && !replicas.has(row("replconf")));
        assert!(Denied::default().and_replicas().is_empty());
        let mut none = Denied::default();
        for (word, mistake) in [
            ("flushal", DenialMistake::Command),
            ("", DenialMistake::Command),
            ("config|sett", DenialMistake::Command),
            ("get|set", DenialMistake::Command),
            ("@danger", DenialMistake::Category),
            ("@", DenialMistake::Category),
            ("HELLO", DenialMistake::Allowed),
        ] {
            assert_eq!(none.deny(word), Err(mistake), "{word}");
        }
        assert!(none.is_empty());
    }
}
