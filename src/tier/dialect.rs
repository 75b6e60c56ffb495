//! What is said to a tier, and how its answers are read: Redis's protocol, or Memcached's meta commands. No I/O.
//!
//! Each question has a fixed number of answers, in order, so that questions can be sent one behind the other.

use std::sync::Arc;
use std::time::Duration;

use crate::resp::{Split, Splitter, encode, integer_of, is_error, text_of};

/// Which of the two a tier speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Redis,
    Memcached,
}

/// The longest key that Memcached takes, in bytes.
const MEMCACHED_KEY: usize = 250;
/// Longer times are dates to Memcached.
const MEMCACHED_STAY: u64 = 30 * 24 * 3600;

/// So a Redis begins that answers nothing of any key, or nothing to us.
const UNABLE: [&[u8]; 4] = [b"-CLUSTERDOWN ", b"-LOADING ", b"-MASTERDOWN ", b"-NOAUTH "];

/// But so it says that of one slot alone, and may serve others.
const ONE_SLOT: &[u8] = b"-CLUSTERDOWN Hash slot not served";

/// What a tier answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TierReply {
    /// It has this, for so long yet where it says so.
    Value(Vec<u8>, Option<Duration>),
    /// It has nothing.
    Nothing,
    /// It did what it was told to.
    Done,
    /// It refuses, in these words.
    Refused(String),
}

/// A question: its commands, each of which has one answer. A clone is the same.
#[derive(Clone)]
pub(super) struct TierQuestion(Arc<[Vec<u8>]>);

impl TierQuestion {
    fn of(commands: impl Into<Arc<[Vec<u8>]>>) -> Self {
        Self(commands.into())
    }

    /// The commands.
    pub(super) fn commands(&self) -> &[Vec<u8>] {
        &self.0
    }

    /// The same for a node of a cluster that does not serve the slot yet: its answers are every second one.
    pub(super) fn behind_asking(&self) -> Self {
        let asking = || b"*1\r\n$6\r\nASKING\r\n".to_vec();
        Self(self.0.iter().flat_map(|command| [asking(), command.clone()]).collect())
    }
}

impl Dialect {
    /// The name of a copy; none where the tier takes no such name.
    pub(super) fn name(self, db: u32, key: &[u8]) -> Option<Vec<u8>> {
        let name = [format!("crema:{db}:").as_bytes(), key].concat();
        let plain = |name: &[u8]| name.len() <= MEMCACHED_KEY && name.iter().all(u8::is_ascii_graphic);
        (self == Self::Redis || plain(&name)).then_some(name)
    }

    /// Asks for a copy and its time.
    pub(super) fn get(self, name: &[u8]) -> TierQuestion {
        match self {
            Self::Redis => TierQuestion::of([command(&[b"PTTL", name]), command(&[b"GET", name])]),
            Self::Memcached => TierQuestion::of([[b"mg ", name, b" t v\r\n"].concat()]),
        }
    }

    /// Keeps a copy for so long.
    pub(super) fn set(self, name: &[u8], copy: &[u8], stay: Duration) -> TierQuestion {
        TierQuestion::of([match self {
            Self::Redis => {
                let stay = stay.as_millis().max(1).to_string();
                command(&[b"SET", name, copy, b"PX", stay.as_bytes()])
            }
            Self::Memcached => {
                let stay = stay.as_secs().clamp(1, MEMCACHED_STAY);
                [b"ms ", name, format!(" {} T{stay}\r\n", copy.len()).as_bytes(), copy, b"\r\n"].concat()
            }
        }])
    }

    /// Whether it is there, and answers of keys: a node says `PONG` even where its cluster is down.
    pub(super) fn is_there(self) -> TierQuestion {
        TierQuestion::of([match self {
            Self::Redis => command(&[b"PTTL", b"crema:"]),
            Self::Memcached => b"mn\r\n".to_vec(),
        }])
    }

    /// Empties it.
    pub(super) fn flush(self) -> TierQuestion {
        TierQuestion::of([match self {
            Self::Redis => command(&[b"FLUSHDB", b"ASYNC"]),
            Self::Memcached => b"flush_all\r\n".to_vec(),
        }])
    }

    /// How long the first answer in `bytes` is; none where it is not whole.
    pub(super) fn split(self, bytes: &[u8]) -> Result<Option<usize>, String> {
        match self {
            Self::Redis => match Splitter::default().split(bytes) {
                Ok(Split::End(len)) => Ok(Some(len)),
                Ok(Split::More) => Ok(None),
                Err(malformed) => Err(malformed.to_string()),
            },
            Self::Memcached => {
                let Some(line) = bytes.windows(2).position(|end| end == b"\r\n") else { return Ok(None) };
                let Some(words) = bytes[..line].strip_prefix(b"VA ") else { return Ok(Some(line + 2)) };
                let size = words.split(|&byte| byte == b' ').next().and_then(number);
                let whole = size.and_then(|size| size.checked_add(line + 4)).ok_or("no size where one must be")?;
                Ok((bytes.len() >= whole).then_some(whole))
            }
        }
    }

    /// Where it can do nothing for anybody now, what it says of that.
    pub(super) fn is_unable(self, answers: &[Vec<u8>]) -> Option<String> {
        let says =
            |answer: &&Vec<u8>| UNABLE.iter().any(|word| answer.starts_with(word)) && !answer.starts_with(ONE_SLOT);
        answers.iter().filter(|_| self == Self::Redis).find(says).map(|answer| shown(answer))
    }

    /// Reads the answers to one question.
    pub(super) fn read(self, answers: &[Vec<u8>]) -> TierReply {
        let Some(last) = answers.last() else { return TierReply::Nothing };
        match self {
            Self::Redis if is_error(last) => TierReply::Refused(shown(last)),
            Self::Redis => match (text_of(last), answers) {
                (Some(value), [time, _]) => {
                    let left = integer_of(time).and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
                    TierReply::Value(value.to_vec(), left)
                }
                (Some(_), _) => TierReply::Done,
                (None, _) => TierReply::Nothing,
            },
            Self::Memcached => memcached(last),
        }
    }
}

fn memcached(answer: &[u8]) -> TierReply {
    let end = answer.windows(2).position(|end| end == b"\r\n").unwrap_or(answer.len());
    let (line, body) = answer.split_at(end);
    let mut words = line.split(|&byte| byte == b' ');
    match words.next() {
        Some(b"VA") => {
            let left = words.find_map(|word| number(word.strip_prefix(b"t")?)).map(|s| Duration::from_secs(s as u64));
            let value = body.strip_prefix(b"\r\n").and_then(|body| body.strip_suffix(b"\r\n")).unwrap_or_default();
            TierReply::Value(value.to_vec(), left)
        }
        Some(b"EN" | b"NF") => TierReply::Nothing,
        Some(b"HD" | b"OK") => TierReply::Done,
        _ => TierReply::Refused(shown(line)),
    }
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(words.iter().map(|word| word.len() + 24).sum());
    encode::command(&mut bytes, words);
    bytes
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What a tier says, for people.
pub(super) fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(200)]).trim_end().trim_start_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the answers are read as, cut everywhere.
    fn read(dialect: Dialect, answers: usize, bytes: &[u8]) -> TierReply {
        for end in 0..bytes.len() {
            let (mut at, mut whole) = (0, 0);
            while let Ok(Some(len)) = dialect.split(&bytes[at..end]) {
                (at, whole) = (at + len, whole + 1);
            }
            assert!(whole < answers, "not before all is here");
        }
        let (mut rest, mut all) = (bytes, Vec::new());
        while let Ok(Some(len)) = dialect.split(rest) {
            all.push(rest[..len].to_vec());
            rest = &rest[len..];
        }
        assert_eq!((all.len(), rest.len()), (answers, 0));
        dialect.read(&all)
    }

    #[test]
    fn redis_answers_are_read() {
        let value = |text: &str, ms: Option<u64>| TierReply::Value(text.into(), ms.map(Duration::from_millis));
        let get = |bytes: &[u8]| read(Dialect::Redis, 2, bytes);
        assert_eq!(get(b":70\r\n$3\r\na\r\n\r\n"), value("a\r\n", Some(70)));
        assert_eq!(get(b":-1\r\n$0\r\n\r\n"), value("", None));
        assert_eq!(get(b":-2\r\n$-1\r\n"), TierReply::Nothing);
        assert_eq!(get(b":5\r\n-WRONGTYPE no\r\n"), TierReply::Refused("WRONGTYPE no".into()));
        assert_eq!(read(Dialect::Redis, 1, b"+OK\r\n"), TierReply::Done);
        assert_eq!(read(Dialect::Redis, 1, b"-OOM full\r\n"), TierReply::Refused("OOM full".into()));
    }

    #[test]
    fn who_can_do_nothing_is_told_from_who_refuses_this() {
        let said = |dialect: Dialect, line: &[u8]| dialect.is_unable(&[b"+OK\r\n".to_vec(), line.to_vec()]);
        let down = said(Dialect::Redis, b"-CLUSTERDOWN The cluster is down\r\n");
        assert_eq!(down.as_deref(), Some("CLUSTERDOWN The cluster is down"));
        for line in [&b"-LOADING Redis is loading\r\n"[..], b"-MASTERDOWN Link\r\n", b"-NOAUTH Authentication\r\n"] {
            assert!(said(Dialect::Redis, line).is_some());
        }
        assert_eq!(said(Dialect::Redis, b"-CLUSTERDOWN Hash slot not served\r\n"), None);
        for line in [&b"-NOPERM no\r\n"[..], b"-READONLY no\r\n", b"-MOVED 1 a:1\r\n", b"$-1\r\n", b":-2\r\n"] {
            assert_eq!(said(Dialect::Redis, line), None);
        }
        assert_eq!(said(Dialect::Memcached, b"VA 9\r\n-LOADING \r\n"), None);
    }

    #[test]
    fn memcached_answers_are_read() {
        let read = |bytes: &[u8]| read(Dialect::Memcached, 1, bytes);
        assert_eq!(
            read(b"VA 4 t90\r\na\r\nb\r\n"),
            TierReply::Value(b"a\r\nb".to_vec(), Some(Duration::from_secs(90)))
        );
        assert_eq!(read(b"VA 0 t-1\r\n\r\n"), TierReply::Value(Vec::new(), None));
        assert_eq!((read(b"EN\r\n"), read(b"HD\r\n")), (TierReply::Nothing, TierReply::Done));
        let refused = TierReply::Refused("SERVER_ERROR object too large for cache".into());
        assert_eq!(read(b"SERVER_ERROR object too large for cache\r\n"), refused);
        assert!(Dialect::Memcached.split(b"VA x\r\n").is_err());
    }

    #[test]
    fn questions_are_spelt_as_each_wants_them() {
        let stay = Duration::from_millis(2500);
        let set =
            |dialect: Dialect| String::from_utf8(dialect.set(b"k", b"ab", stay).commands().concat()).expect("text");
        assert_eq!(set(Dialect::Memcached), "ms k 2 T2\r\nab\r\n");
        assert!(set(Dialect::Redis).ends_with("$2\r\nPX\r\n$4\r\n2500\r\n"));
        assert_eq!(Dialect::Memcached.get(b"k").commands(), [b"mg k t v\r\n"]);
        let asking = Dialect::Redis.get(b"k").behind_asking();
        let first =
            asking.commands().iter().map(|command| command.split(|&byte| byte == b'\n').nth(2).expect("a word"));
        assert_eq!(first.collect::<Vec<_>>(), [&b"ASKING\r"[..], b"PTTL\r", b"ASKING\r", b"GET\r"]);
        assert_eq!(Dialect::Redis.name(3, b"a b"), Some(b"crema:3:a b".to_vec()));
        assert_eq!(Dialect::Memcached.name(3, b"ab"), Some(b"crema:3:ab".to_vec()));
        for name in [&b"a b"[..], b"\xff", &[b'x'; 250]] {
            assert_eq!(Dialect::Memcached.name(0, name), None);
        }
    }
}
