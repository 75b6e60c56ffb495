//! What a load asks of Redis, in Lua: each step looks and acts at one moment.
//!
//! Three keys, in one slot: the client's, its token, its stale copy; and where it has tiers its version. Replies are a number, and
//! bytes where there are any. A token that is `-` says that the origin has no value: like a token it ends by itself and dies with
//! every write.

use std::time::Duration;

use bytes::Bytes;

use super::load::{Script, ScriptReply};
use crate::resp::encode;

const FOUND: u8 = b'1';
const NEGATIVE: u8 = b'2';
const HELD: u8 = b'3';
const FREE: u8 = b'4';
const TAKEN: u8 = b'5';
const PROVEN: u8 = b'6';
const OVERTAKEN: u8 = b'7';
const EARLY: u8 = b'8';

/// ARGV: this token, the one of the attempt before.
const LOOK: &str = "local v=redis.call('GET',KEYS[1]) if v then return {1,v} end \
local t=redis.call('GET',KEYS[2]) if t=='-' then return {2} end \
if t and t~=ARGV[1] and t~=ARGV[2] then return {3,tostring(redis.call('PTTL',KEYS[2]))} end return {4}";

/// ARGV: this token, the one of the attempt before, its end.
const TAKE: &str = "local v=redis.call('GET',KEYS[1]) if v then return {1,v} end \
local t=redis.call('GET',KEYS[2]) if t=='-' then return {2} end \
if t and t~=ARGV[1] and t~=ARGV[2] then return {3,tostring(redis.call('PTTL',KEYS[2]))} end \
redis.call('SET',KEYS[2],ARGV[1],'PX',ARGV[3]) return {5,''}";

/// ARGV: the token, the value, its end, that of the stale copy or 0, the new version and its end where copies in tiers go by one.
const STORE: &str = "if redis.call('GET',KEYS[2])~=ARGV[1] then return {7} end redis.call('DEL',KEYS[2]) \
if redis.call('EXISTS',KEYS[1])==1 then return {7} end redis.call('SET',KEYS[1],ARGV[2],'PX',ARGV[3]) \
if ARGV[4]~='0' then redis.call('SET',KEYS[3],ARGV[2],'PX',ARGV[4]) end \
if KEYS[4] then redis.call('SET',KEYS[4],ARGV[5],'PX',ARGV[6]) end return {6}";

/// ARGV: the token, for how long nobody is to ask again or 0. Without a version no copy in a tier counts.
const MISS: &str = "if redis.call('GET',KEYS[2])~=ARGV[1] then return {7} end redis.call('DEL',unpack(KEYS,2)) \
if redis.call('EXISTS',KEYS[1])==1 then return {7} end \
if ARGV[2]~='0' then redis.call('SET',KEYS[2],'-','PX',ARGV[2]) end return {6}";

/// ARGV: the token. For a second the stale copy is the value, so that not everybody waits for a load that fails.
const FAIL: &str = "if redis.call('GET',KEYS[2])~=ARGV[1] then return {7} end redis.call('DEL',KEYS[2]) \
if redis.call('EXISTS',KEYS[1])==1 then return {7} end local s=redis.call('GET',KEYS[3]) \
if s then redis.call('SET',KEYS[1],s,'PX',1000) return {6,s} end return {6}";

/// ARGV: the token.
const FORGET: &str = "if redis.call('GET',KEYS[2])~=ARGV[1] then return {7} end redis.call('DEL',unpack(KEYS,2)) \
if redis.call('EXISTS',KEYS[1])==1 then return {7} end return {6}";

/// ARGV: this token, its end, the window before the end of the value.
const TAKE_AHEAD: &str = "local v=redis.call('GET',KEYS[1]) if not v then return {4} end \
local l=redis.call('PTTL',KEYS[1]) if l<0 or l>tonumber(ARGV[3]) then return {8,tostring(l)} end \
if redis.call('EXISTS',KEYS[2])==1 then return {3} end redis.call('SET',KEYS[2],ARGV[1],'PX',ARGV[2]) \
return {5,redis.sha1hex(v)}";

/// ARGV: the token, the value, its end, that of the stale copy or 0, what marks the value that was seen, the new version and its end.
const REPLACE: &str = "if redis.call('GET',KEYS[2])~=ARGV[1] then return {7} end redis.call('DEL',KEYS[2]) \
local v=redis.call('GET',KEYS[1]) if v and redis.sha1hex(v)~=ARGV[5] then return {7} end \
redis.call('SET',KEYS[1],ARGV[2],'PX',ARGV[3]) \
if ARGV[4]~='0' then redis.call('SET',KEYS[3],ARGV[2],'PX',ARGV[4]) end \
if KEYS[4] then redis.call('SET',KEYS[4],ARGV[6],'PX',ARGV[7]) end return {6}";

/// ARGV: this token, the one of the attempt before.
const RELEASE: &str = "local t=redis.call('GET',KEYS[2]) \
if t==ARGV[1] or t==ARGV[2] then redis.call('DEL',KEYS[2]) end return {6}";

/// What a write of a key with tiers sets anew, and for how many milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewVersion {
    /// Where it lies.
    pub key: Vec<u8>,
    /// What it is to be.
    pub value: String,
    /// How long it is kept.
    pub life: String,
}

/// The keys of a load, and how long what it leaves beside the key may stay.
#[derive(Debug)]
pub(super) struct LoadKeys {
    pub(super) key: Box<[u8]>,
    pub(super) token: Vec<u8>,
    pub(super) stale: Vec<u8>,
    pub(super) version: Option<NewVersion>,
    /// The end of a token.
    pub(super) held: Duration,
    pub(super) negative: Option<Duration>,
    pub(super) stale_for: Option<Duration>,
}

impl LoadKeys {
    /// The command for this step; tokens of this attempt and of the one before.
    pub(super) fn command(&self, script: &Script, (token, before): (&str, &str)) -> Vec<u8> {
        let millis = |length: Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX).max(1).to_string();
        let or_zero = |length: Option<Duration>| length.map_or_else(|| "0".to_owned(), millis);
        let (held, negative) = (millis(self.held), or_zero(self.negative));
        let stale_after = |stays: &Duration| or_zero(self.stale_for.map(|stale| stale.saturating_add(*stays)));
        match script {
            Script::Look => self.eval(LOOK, &[token.as_bytes(), before.as_bytes()]),
            Script::Take => self.eval(TAKE, &[token.as_bytes(), before.as_bytes(), held.as_bytes()]),
            Script::Store(value, stays) => {
                let (stays, stale) = (millis(*stays), stale_after(stays));
                self.eval(STORE, &[token.as_bytes(), value, stays.as_bytes(), stale.as_bytes()])
            }
            Script::Miss => self.eval(MISS, &[token.as_bytes(), negative.as_bytes()]),
            Script::Fail => self.eval(FAIL, &[token.as_bytes()]),
            Script::Forget => self.eval(FORGET, &[token.as_bytes()]),
            Script::Release => self.eval(RELEASE, &[token.as_bytes(), before.as_bytes()]),
            Script::TakeAhead(window) => {
                self.eval(TAKE_AHEAD, &[token.as_bytes(), held.as_bytes(), millis(*window).as_bytes()])
            }
            Script::Replace(value, stays, mark) => {
                let (stays, stale) = (millis(*stays), stale_after(stays));
                self.eval(REPLACE, &[token.as_bytes(), value, stays.as_bytes(), stale.as_bytes(), mark])
            }
        }
    }

    fn eval(&self, script: &str, args: &[&[u8]]) -> Vec<u8> {
        let count: &[u8] = if self.version.is_some() { b"4" } else { b"3" };
        let mut words: Vec<&[u8]> = vec![b"EVAL", script.as_bytes(), count, &self.key, &self.token, &self.stale];
        words.extend(self.version.iter().map(|version| version.key.as_slice()));
        words.extend_from_slice(args);
        words.extend(self.version.iter().flat_map(|version| [version.value.as_bytes(), version.life.as_bytes()]));
        let mut out = Vec::with_capacity(script.len() + args.iter().map(|arg| arg.len() + 16).sum::<usize>() + 256);
        encode::own_command(&mut out, &words);
        out
    }
}

/// Reads the reply of a script, in RESP2: an array of a number and perhaps a bulk string, or an error.
pub(super) fn read(reply: Option<Vec<u8>>) -> ScriptReply {
    let Some(reply) = reply else { return ScriptReply::Lost };
    if let Some(error) = reply.strip_prefix(b"-") {
        return ScriptReply::Refused(String::from_utf8_lossy(error).trim_end().to_owned());
    }
    let reply = Bytes::from(reply);
    let Some((code, value)) = parts(&reply) else { return ScriptReply::Refused("a reply of another form".to_owned()) };
    match (code, value) {
        (FOUND, Some(value)) => ScriptReply::Found(value),
        (NEGATIVE, _) => ScriptReply::Negative,
        (HELD, left) => ScriptReply::Held(left.and_then(|left| millis_of(&left))),
        (FREE, _) => ScriptReply::Free,
        (TAKEN, mark) => ScriptReply::Taken(mark.unwrap_or_default()),
        (PROVEN, stale) => ScriptReply::Proven(stale),
        (OVERTAKEN, _) => ScriptReply::Overtaken,
        (EARLY, left) => ScriptReply::Early(left.and_then(|left| millis_of(&left))),
        _ => ScriptReply::Refused("a reply of another form".to_owned()),
    }
}

/// A time to live as `PTTL` tells it; none where there is no end.
fn millis_of(digits: &[u8]) -> Option<Duration> {
    std::str::from_utf8(digits).ok()?.parse().ok().map(Duration::from_millis)
}

/// `*1\r\n:4\r\n` is 4; `*2\r\n:1\r\n$1\r\nv\r\n` is 1 and `v`.
fn parts(reply: &Bytes) -> Option<(u8, Option<Bytes>)> {
    let rest = reply.strip_prefix(b"*1\r\n:").or_else(|| reply.strip_prefix(b"*2\r\n:"))?;
    let (&code, rest) = rest.split_first()?;
    let rest = rest.strip_prefix(b"\r\n")?;
    if reply[1] == b'1' {
        return rest.is_empty().then_some((code, None));
    }
    let header = rest.iter().position(|&byte| byte == b'\r')?;
    let length: usize = std::str::from_utf8(rest.get(1..header)?).ok()?.parse().ok()?;
    let from = reply.len() - rest.len() + header + 2;
    let whole = from.checked_add(length)?.checked_add(2)? == reply.len();
    (rest[0] == b'$' && whole).then(|| (code, Some(reply.slice(from..from + length))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beyond::NEGATIVE;

    #[test]
    fn reads_what_scripts_say() {
        let read = |text: &str| read(Some(text.as_bytes().to_vec()));
        assert_eq!(read("*1\r\n:4\r\n"), ScriptReply::Free);
        assert_eq!(read("*2\r\n:3\r\n$2\r\n70\r\n"), ScriptReply::Held(Some(Duration::from_millis(70))));
        assert_eq!(read("*2\r\n:3\r\n$2\r\n-1\r\n"), ScriptReply::Held(None));
        assert_eq!(read("*2\r\n:8\r\n$4\r\n9000\r\n"), ScriptReply::Early(Some(Duration::from_secs(9))));
        assert_eq!(read("*2\r\n:8\r\n$2\r\n-1\r\n"), ScriptReply::Early(None));
        assert_eq!(read("*2\r\n:1\r\n$3\r\na\r\n\r\n"), ScriptReply::Found(Bytes::from_static(b"a\r\n")));
        assert_eq!(read("*2\r\n:5\r\n$0\r\n\r\n"), ScriptReply::Taken(Bytes::new()));
        assert_eq!(read("*1\r\n:6\r\n"), ScriptReply::Proven(None));
        assert_eq!(read("*2\r\n:6\r\n$1\r\nv\r\n"), ScriptReply::Proven(Some(Bytes::from_static(b"v"))));
        assert_eq!(read("-NOPERM no\r\n"), ScriptReply::Refused("NOPERM no".to_owned()));
        for odd in
            ["*1\r\n:1\r\n", "*2\r\n:1\r\n$3\r\na\r\n", "+OK\r\n", "*0\r\n", "", "*2\r\n:1\r\n$-1\r\n", "*1\r\n:9\r\n"]
        {
            assert!(matches!(read(odd), ScriptReply::Refused(_)), "{odd:?}");
        }
        assert_eq!(super::read(None), ScriptReply::Lost);
    }

    #[test]
    fn the_mark_of_a_missing_value_is_what_the_ear_looks_for() {
        let mark = format!("'{}'", String::from_utf8_lossy(NEGATIVE));
        assert!([LOOK, TAKE].iter().all(|script| script.contains(&format!("=={mark}"))) && MISS.contains(&mark));
    }

    #[test]
    fn a_step_is_one_command_with_its_three_keys() {
        let keys = LoadKeys {
            key: b"k".as_slice().into(),
            token: b"t".to_vec(),
            stale: b"s".to_vec(),
            version: None,
            held: Duration::from_millis(1050),
            negative: None,
            stale_for: Some(Duration::from_secs(1)),
        };
        let command = keys.command(&Script::Store(Bytes::from_static(b"v"), Duration::from_secs(2)), ("a", "b"));
        let text = String::from_utf8(command).expect("text");
        let tail = "$1\r\n3\r\n$1\r\nk\r\n$1\r\nt\r\n$1\r\ns\r\n$1\r\na\r\n$1\r\nv\r\n$4\r\n2000\r\n$4\r\n3000\r\n";
        assert!(text.ends_with(tail), "{text}");
        let version = Some(NewVersion { key: b"v4".to_vec(), value: "77".into(), life: "9".into() });
        let versioned = LoadKeys { version, ..keys };
        let command = versioned.command(&Script::Store(Bytes::from_static(b"v"), Duration::from_secs(2)), ("a", "b"));
        let text = String::from_utf8(command).expect("text");
        assert!(text.contains("$1\r\n4\r\n$1\r\nk\r\n$1\r\nt\r\n$1\r\ns\r\n$2\r\nv4\r\n"), "{text}");
        assert!(text.ends_with("$2\r\n77\r\n$1\r\n9\r\n"), "{text}");
        let keys = LoadKeys { version: None, ..versioned };
        let command = String::from_utf8(keys.command(&Script::Miss, ("a", "b"))).expect("text");
        assert!(command.ends_with("$1\r\na\r\n$1\r\n0\r\n"), "{command}");
    }
}
