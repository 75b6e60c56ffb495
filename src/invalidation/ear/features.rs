//! What the server can do, as far as fills depend on it: asked of it once on each connection of an ear.

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;

use crate::command::{self, Class, Spec};
use crate::resp::to_resp2;

/// The command that gives hash fields a time to live: where there is none, they have none.
const FIELD_TTL: &[u8] = b"hpexpire";
/// Flags of a command that is no plain read, or whose keys are not where it says.
const NOT_PLAIN: [&str; 5] = ["write", "blocking", "random", "movablekeys", "nondeterministic_output"];

/// What `COMMAND INFO` told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerFeatures {
    /// Whether hash fields may have times to live of their own, which PTTL does not show.
    pub(super) field_ttls: bool,
    /// The rows of modules' commands that the server has, as the rows say.
    modules: Vec<u16>,
}

impl ServerFeatures {
    /// The question.
    pub(super) fn question() -> Vec<&'static [u8]> {
        let modules = module_rows().map(|row| row.name.as_bytes());
        [&b"COMMAND"[..], b"INFO", FIELD_TTL].into_iter().chain(modules).collect()
    }

    /// Reads the answer. Where there is none, the server can do what would forbid most.
    pub(super) fn read(reply: &[u8]) -> Self {
        // As RESP2, which has no sets of maps: the decoder cannot hash them.
        let mut resp2 = Vec::new();
        let decoded = to_resp2(reply, &mut resp2).ok().and_then(|_| decode(&resp2).ok()?);
        let Some((OwnedFrame::Array(told), _)) = decoded else {
            return Self { field_ttls: true, modules: Vec::new() };
        };
        let told = |name: &[u8]| told.iter().find_map(|entry| of_command(entry, name));
        let plain = |row: &&Spec| told(row.name.as_bytes()).is_some_and(is_plain_read_of_one_key);
        Self { field_ttls: told(FIELD_TTL).is_some(), modules: module_rows().filter(plain).map(|row| row.id).collect() }
    }

    /// Whether a reply to a command of this row may be kept, as far as the server has a say.
    pub(super) fn keeps(&self, row: &Spec) -> bool {
        row.class != Class::Module || self.modules.contains(&row.id)
    }
}

fn module_rows() -> impl Iterator<Item = &'static Spec> {
    command::all().iter().filter(|row| row.class == Class::Module && row.cacheable())
}

/// An entry of the answer, if it is of this command; it is null for one that there is not.
fn of_command<'a>(entry: &'a OwnedFrame, name: &[u8]) -> Option<&'a [OwnedFrame]> {
    let OwnedFrame::Array(told) = entry else { return None };
    matches!(told.first(), Some(OwnedFrame::BulkString(told)) if told.eq_ignore_ascii_case(name))
        .then_some(told.as_slice())
}

/// Name, arity, flags, first key, last key, step; later servers add categories and tips.
fn is_plain_read_of_one_key(told: &[OwnedFrame]) -> bool {
    let keys = told.get(3..6).is_some_and(|keys| keys.iter().all(|key| *key == OwnedFrame::Integer(1)));
    let says = |at: usize, word: &str| match told.get(at) {
        Some(OwnedFrame::Array(words)) => words.iter().any(|told| is_word(told, word)),
        _ => false,
    };
    keys && says(2, "readonly") && !NOT_PLAIN.iter().any(|word| says(2, word) || says(7, word))
}

fn is_word(frame: &OwnedFrame, word: &str) -> bool {
    match frame {
        OwnedFrame::SimpleString(told) | OwnedFrame::BulkString(told) => told == word.as_bytes(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_knows_the_command_has_field_ttls_and_so_has_one_that_does_not_say() {
        let told = b"*1\r\n*6\r\n$8\r\nhpexpire\r\n:-6\r\n~1\r\n+write\r\n:1\r\n:1\r\n:1\r\n";
        assert!(ServerFeatures::read(told).field_ttls);
        assert!(!ServerFeatures::read(b"*1\r\n_\r\n").field_ttls);
        for unclear in [&b"-NOPERM no\r\n"[..], b"-", b":1\r\n"] {
            assert!(ServerFeatures::read(unclear).field_ttls);
        }
    }

    #[test]
    fn a_modules_row_counts_where_the_server_says_the_same() {
        let row = module_rows().next().expect("there are some");
        let specs = "~0\r\n~0\r\n~1\r\n%1\r\n$5\r\nflags\r\n~1\r\n+RW\r\n";
        let told = |flags: &str, keys: &str, rest: &str| {
            let entry = format!("${}\r\n{}\r\n:-1\r\n{flags}{keys}{rest}", row.name.len(), row.name);
            let elements = if rest.is_empty() { 6 } else { 8 + usize::from(rest == specs) };
            ServerFeatures::read(format!("*2\r\n_\r\n*{elements}\r\n{entry}").as_bytes()).keeps(row)
        };
        let (read, one) = ("~2\r\n+readonly\r\n+module\r\n", ":1\r\n:1\r\n:1\r\n");
        assert!(told(read, one, "") && told(read, one, specs));
        assert!(told("*1\r\n+readonly\r\n", one, "~0\r\n~0\r\n"));
        assert!(!told("~2\r\n+write\r\n+module\r\n", one, ""));
        assert!(!told("~2\r\n+readonly\r\n+movablekeys\r\n", one, ""));
        assert!(!told(read, ":1\r\n:-1\r\n:1\r\n", ""));
        assert!(!told(read, ":0\r\n:0\r\n:0\r\n", ""));
        assert!(!told(read, one, "~0\r\n~1\r\n$23\r\nnondeterministic_output\r\n"));
        assert!(!ServerFeatures::read(b"*2\r\n_\r\n_\r\n").keeps(row), "no such module");
    }
}
