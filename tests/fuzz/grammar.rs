//! What the fuzz says: commands with blanks, and what the blanks are filled with.
//!
//! A line is a command. `<s>`, `<h>`, `<l>`, ... stand for one of a few keys of that type (now and then of another), the rest
//! for values; [`Realm`] says whose keys. A line that begins with `~` may be answered in any order, one with `#` tells times.
//! Nothing here answers by chance or by the clock otherwise, and no time to live ends during a run.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::shapes::Shape;
use common::differs::Differs;
use common::pack;

/// The keys, databases and channels that a script may use.
#[derive(Clone, Debug)]
pub(crate) struct Realm {
    pub(crate) prefix: String,
    pub(crate) databases: Vec<u32>,
    pub(crate) channels: String,
    /// The prefix of keys that are only read, by everybody.
    pub(crate) commons: Option<&'static str>,
}

/// The kinds of keys, each a letter, and how many there are of each.
const KINDS: &str = "shltzxgbp";
pub(crate) const KEYS: u32 = 4;

/// Lines, ready to be filled.
pub(crate) struct Grammar {
    pub(crate) reads: Vec<Line>,
    pub(crate) writes: Vec<Line>,
    pub(crate) session: Vec<Line>,
    /// What sees or changes all of a database.
    pub(crate) database: Vec<Line>,
    /// What changes all of the server.
    pub(crate) server: Vec<Line>,
    pub(crate) listening: Vec<Line>,
    /// A command that waits, and one that ends its wait.
    pub(crate) waits: Vec<(Line, Line)>,
}

#[derive(Clone)]
pub(crate) struct Line {
    words: Vec<&'static str>,
    differs: Differs,
}

impl Grammar {
    pub(crate) fn new() -> Grammar {
        let lines =
            |text: &'static str| text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Line::new).collect();
        let pair = |line: &'static str| line.split_once(" ; ").map(|(wait, wake)| (Line::new(wait), Line::new(wake)));
        Grammar {
            reads: lines(READS),
            writes: lines(WRITES),
            session: lines(SESSION),
            database: lines(DATABASE),
            server: lines(SERVER),
            listening: lines(LISTENING),
            waits: WAITS.lines().map(str::trim).filter_map(pair).collect(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        let lists = [&self.reads, &self.writes, &self.session, &self.database, &self.server, &self.listening];
        lists.iter().map(|list| list.len()).sum::<usize>() + self.waits.len()
    }

    /// Three reads of every key of the realm: all that is in it, a part, and something that every key has.
    pub(crate) fn look(&self, realm: &Realm, rng: &mut SmallRng) -> Vec<Shape> {
        let mut looks = Vec::new();
        for kind in KINDS.chars() {
            let of_kind: Vec<&Line> = self.reads.iter().filter(|line| line.reads_only(kind)).collect();
            let anything = self.reads.iter().filter(|line| line.reads_only('k')).collect::<Vec<_>>();
            for number in 0..KEYS {
                let key = format!("{}{kind}{number}", realm.prefix);
                let (part, other) = (of_kind.choose(rng), anything.choose(rng));
                for line in [of_kind.first(), part, other] {
                    looks.push(line.expect("every kind has reads").fill_with(realm, rng, Some(&key)));
                }
            }
        }
        looks
    }
}

impl Line {
    fn new(line: &'static str) -> Line {
        let (differs, line) = match line.split_once(' ') {
            Some(("~", rest)) => (Differs::Order, rest),
            Some(("#", rest)) => (Differs::Digits, rest),
            _ => (Differs::Nothing, line),
        };
        Line { words: line.split(' ').collect(), differs }
    }

    /// Whether it is answered with the same bytes by any two servers, also in the midst of an `EXEC`.
    pub(crate) fn is_exact(&self) -> bool {
        self.differs == Differs::Nothing
    }

    /// Whether its only key is of this kind.
    fn reads_only(&self, kind: char) -> bool {
        let is_key = |word: &&&str| matches!(word.as_bytes(), [b'<', kind, b'>'] if KINDS.contains(*kind as char) || *kind == b'k');
        let mut keys = self.words.iter().filter(is_key);
        keys.next().is_some_and(|word| word[1..].starts_with(kind)) && keys.next().is_none()
    }

    pub(crate) fn fill(&self, realm: &Realm, rng: &mut SmallRng) -> Shape {
        self.fill_with(realm, rng, None)
    }

    fn fill_with(&self, realm: &Realm, rng: &mut SmallRng, key: Option<&str>) -> Shape {
        let words: Vec<Vec<u8>> = self.words.iter().map(|word| fill(word, realm, rng, key)).collect();
        Shape { bytes: pack(&words), differs: vec![self.differs] }
    }
}

fn fill(word: &'static str, realm: &Realm, rng: &mut SmallRng, key: Option<&str>) -> Vec<u8> {
    let Some((before, rest)) = word.split_once('<') else { return word.into() };
    let (blank, after) = rest.split_once('>').expect("a blank has an end");
    [before.as_bytes(), &fill_blank(blank, realm, rng, key), after.as_bytes()].concat()
}

fn fill_blank(blank: &str, realm: &Realm, rng: &mut SmallRng, key: Option<&str>) -> Vec<u8> {
    let Realm { prefix, databases, channels, .. } = realm;
    let text = match blank {
        "value" => return value(rng),
        "word" => return small(rng),
        "field" => format!("f{}", rng.random_range(0..6)),
        "member" => format!("m{}", rng.random_range(0..8)),
        "int" => rng.random_range(-3..12).to_string(),
        "count" => rng.random_range(1..4).to_string(),
        "float" => format!("{}", f64::from(rng.random_range(-40..400)) / 8.0),
        "bit" => rng.random_range(0..2).to_string(),
        "offset" => rng.random_range(0..200).to_string(),
        "far" => rng.random_range(10_000..90_000).to_string(),
        "id" => format!("{}-{}", rng.random_range(1..30), rng.random_range(0..3)),
        "place" => (*["Palermo", "Catania", "Rome", "none"].choose(rng).expect("four")).to_owned(),
        "lon" => format!("{}", f64::from(rng.random_range(1200..1600)) / 100.0),
        "lat" => format!("{}", f64::from(rng.random_range(3700..4200)) / 100.0),
        "db" => databases.choose(rng).expect("one at least").to_string(),
        "channel" => format!("{channels}{}", rng.random_range(0..3)),
        "pattern" => format!("{channels}*"),
        kind if kind.len() == 1 => return key.map_or_else(|| name(kind, prefix, rng), Into::into),
        _ => unreachable!("no blank is called {blank}"),
    };
    text.into_bytes()
}

/// A key of this kind; now and then of any other, so that types clash.
fn name(kind: &str, prefix: &str, rng: &mut SmallRng) -> Vec<u8> {
    let mut kind = kind.chars().next().expect("a letter");
    if kind == 'k' || rng.random_bool(0.03) {
        kind = KINDS.chars().nth(rng.random_range(0..KINDS.len())).expect("in range");
    }
    format!("{prefix}{kind}{}", rng.random_range(0..KEYS)).into_bytes()
}

/// What a string key may hold: mostly short, sometimes long, now and then longer than a request on a shared connection may be.
fn value(rng: &mut SmallRng) -> Vec<u8> {
    match rng.random_range(0..2_000) {
        0 => noise((1 << 20) + 100, rng),
        1..=6 => noise(300_000 + rng.random_range(0..10), rng),
        7..=60 => noise(rng.random_range(4_000..20_000), rng),
        61..=300 => noise(rng.random_range(0..200), rng),
        _ => small(rng),
    }
}

fn small(rng: &mut SmallRng) -> Vec<u8> {
    match rng.random_range(0..8) {
        0 => Vec::new(),
        1 => noise(8, rng),
        2..=4 => rng.random_range(-20..1000).to_string().into_bytes(),
        n => [&b"one"[..], b"two words", b"$-1\r\n"][n - 5].to_vec(),
    }
}

/// Bytes of every kind, with line ends and type bytes among them, so that nobody can mistake them for the protocol.
fn noise(len: usize, rng: &mut SmallRng) -> Vec<u8> {
    let chunk: Vec<u8> = (0..len.min(997)).map(|_| *b"\r\n$*+-:0a\0\xff\x80".choose(rng).expect("bytes")).collect();
    chunk.into_iter().cycle().take(len).collect()
}

/// Reads; those of one key are also what every key is looked at with after the pipelines, the first of its kind always.
const READS: &str = "
    GET <s>
    GET <s>
    GET <s>
    STRLEN <s>
    GETRANGE <s> <int> <int>
    SUBSTR <s> 0 <int>
    GET <b>
    GETBIT <b> <offset>
    BITCOUNT <b>
    BITCOUNT <b> 0 <int> BYTE
    BITPOS <b> <bit>
    BITPOS <b> <bit> 0 -1 BIT
    BITFIELD_RO <b> GET u8 <offset> GET i5 0
    EXISTS <k>
    EXISTS <k> <k>
    TYPE <k>
    OBJECT ENCODING <k>
    # TTL <k>
    # PTTL <k>
    # EXPIRETIME <k>
    # PEXPIRETIME <k>
    MGET <s> <s>
    MGET <s> <s> <k> <s>
    LCS <b> <b> LEN
    ~ HGETALL <h>
    HGET <h> <field>
    HMGET <h> <field> <field>
    ~ HKEYS <h>
    ~ HVALS <h>
    HLEN <h>
    HSTRLEN <h> <field>
    HEXISTS <h> <field>
    ~ HSCAN <h> 0 COUNT 1000
    LRANGE <l> 0 -1
    LRANGE <l> <int> <int>
    LINDEX <l> <int>
    LLEN <l>
    LPOS <l> <word>
    LPOS <l> <word> RANK -1 COUNT 0
    SORT_RO <l> ALPHA LIMIT 0 5
    ~ SMEMBERS <t>
    SISMEMBER <t> <member>
    SMISMEMBER <t> <member> <int>
    SCARD <t>
    ~ SSCAN <t> 0 COUNT 1000
    ~ SINTER <t> <t>
    ~ SUNION <t> <t>
    ~ SDIFF <t> <t>
    SINTERCARD 2 <t> <t> LIMIT 3
    ZRANGE <z> 0 -1 WITHSCORES
    ZSCORE <z> <member>
    ZMSCORE <z> <member> <member>
    ZCARD <z>
    ZCOUNT <z> -inf (<float>
    ZCOUNT <z> <float> +inf
    ZLEXCOUNT <z> - [m4
    ZRANK <z> <member>
    ZREVRANK <z> <member>
    ZRANGE <z> 0 -1
    ZRANGE <z> <int> <int> WITHSCORES
    ZRANGE <z> -inf <float> BYSCORE LIMIT 0 3
    ZRANGE <z> 0 -1 REV WITHSCORES
    ZRANGE <z> [m5 - BYLEX REV
    ZRANGEBYSCORE <z> -inf <float> WITHSCORES LIMIT 0 2
    ZRANGEBYLEX <z> - [m5
    ZREVRANGE <z> 0 1 WITHSCORES
    ZREVRANGEBYSCORE <z> +inf <float>
    ZREVRANGEBYLEX <z> + -
    ZUNION 2 <z> <z> WITHSCORES
    ZINTER 2 <z> <t>
    ZDIFF 2 <z> <z> WITHSCORES
    ZINTERCARD 2 <z> <z>
    ~ ZSCAN <z> 0 COUNT 1000
    XRANGE <x> - +
    XRANGE <x> - +
    XRANGE <x> <id> + COUNT <count>
    XRANGE <x> (<id> <id>
    XREVRANGE <x> + - COUNT 2
    XLEN <x>
    XREAD COUNT 2 STREAMS <x> <id>
    XPENDING <x> group
    XINFO GROUPS <x>
    GEOPOS <g> <place> <place>
    GEODIST <g> <place> <place> km
    GEOHASH <g> <place>
    GEOSEARCH <g> FROMLONLAT <lon> <lat> BYRADIUS 300 km ASC WITHDIST WITHCOORD
    GEORADIUS_RO <g> <lon> <lat> 200 km ASC
    GET <p>
    PFCOUNT <p>
    PFCOUNT <p> <p>
    EVAL_RO return{redis.call('GET',KEYS[1])} 1 <s>
    EVAL return{redis.call('TYPE',KEYS[1]),KEYS[1]} 1 <k>
";

const WRITES: &str = "
    SET <s> <value>
    SET <s> <value>
    SET <s> <value>
    SET <k> <word>
    SET <s> <word> NX
    SET <s> <word> XX
    SET <s> <value> GET
    SET <s> <value> EX <far>
    SET <s> <word> KEEPTTL
    SETNX <s> <word>
    SETEX <s> <far> <value>
    PSETEX <s> <far>000 <word>
    GETSET <s> <word>
    GETDEL <s>
    GETEX <s> EX <far>
    GETEX <s> PERSIST
    APPEND <s> <word>
    SETRANGE <s> <offset> <word>
    INCR <s>
    DECR <s>
    INCRBY <s> <int>
    DECRBY <s> <int>
    INCRBYFLOAT <s> <float>
    MSET <s> <word> <s> <word>
    MSET <s> <value> <k> <word>
    MSETNX <s> <word> <s> <word>
    SETBIT <b> <offset> <bit>
    SETBIT <b> <offset> <bit>
    BITFIELD <b> SET u8 <offset> <int> INCRBY i5 0 <int> GET u4 1
    BITOP AND <b> <b> <b>
    BITOP NOT <b> <b>
    DEL <k>
    DEL <s> <k>
    UNLINK <k>
    RENAME <k> <k>
    RENAMENX <k> <k>
    COPY <k> <k>
    COPY <k> <k> REPLACE
    EXPIRE <k> <far>
    PEXPIRE <k> <far>000 NX
    EXPIREAT <k> 4000000000
    EXPIRE <k> -1
    PERSIST <k>
    TOUCH <k> <k>
    HSET <h> <field> <word>
    HSET <h> <field> <word> <field> <word>
    HSETNX <h> <field> <word>
    HMSET <h> <field> <value> <field> <int>
    HDEL <h> <field> <field>
    HINCRBY <h> <field> <int>
    HINCRBYFLOAT <h> <field> <float>
    LPUSH <l> <word>
    RPUSH <l> <word> <word> <int>
    LPUSHX <l> <word>
    RPUSHX <l> <word>
    LPOP <l>
    LPOP <l> <count>
    RPOP <l>
    LINSERT <l> AFTER <word> <word>
    LSET <l> <int> <word>
    LREM <l> 1 <word>
    LTRIM <l> 0 8
    LMOVE <l> <l> LEFT RIGHT
    RPOPLPUSH <l> <l>
    LMPOP 2 <l> <l> LEFT COUNT 2
    SORT <l> ALPHA STORE <l>
    SADD <t> <member> <int>
    SADD <t> <int> <int>
    SREM <t> <member> <int>
    SMOVE <t> <t> <member>
    SINTERSTORE <t> <t> <t>
    SUNIONSTORE <t> <t> <t>
    SDIFFSTORE <t> <t> <t>
    ZADD <z> <float> <member>
    ZADD <z> <float> <member> <int> <member>
    ZADD <z> XX CH <float> <member>
    ZADD <z> NX INCR <float> <member>
    ZADD <z> GT CH <float> <member>
    ZINCRBY <z> <float> <member>
    ZREM <z> <member>
    ZREMRANGEBYRANK <z> 5 -1
    ZREMRANGEBYSCORE <z> -inf <float>
    ZREMRANGEBYLEX <z> [m6 [m7
    ZPOPMIN <z>
    ZPOPMAX <z> 2
    ZMPOP 2 <z> <z> MIN
    ZRANGESTORE <z> <z> 0 3
    ZUNIONSTORE <z> 2 <z> <t> AGGREGATE MAX
    ZINTERSTORE <z> 2 <z> <z> WEIGHTS 2 <int>
    ZDIFFSTORE <z> 2 <z> <z>
    XADD <x> <id> <field> <word>
    XADD <x> <id> <field> <word>
    XADD <x> <count>-* <field> <word>
    XADD <x> MAXLEN 8 <id> <field> <value>
    XDEL <x> <id>
    XTRIM <x> MAXLEN <count>
    XGROUP CREATE <x> group 0 MKSTREAM
    XGROUP SETID <x> group <id>
    XGROUP CREATECONSUMER <x> group one
    XREADGROUP GROUP group one COUNT 2 STREAMS <x> >
    XREADGROUP GROUP group one STREAMS <x> 0
    XACK <x> group <id>
    XCLAIM <x> group two 0 <id>
    XAUTOCLAIM <x> group two 0 0
    XSETID <x> <id>
    XGROUP DESTROY <x> group
    PFADD <p> <word> <word>
    PFMERGE <p> <p> <p>
    GEOADD <g> <lon> <lat> <place>
    GEOADD <g> CH <lon> <lat> <place>
    GEOSEARCHSTORE <g> <g> FROMMEMBER <place> BYRADIUS 200 km
    ZREM <g> <place>
    BLPOP <l> <l> 0.001
    BRPOP <l> 0.001
    BLMOVE <l> <l> RIGHT LEFT 0.001
    BZPOPMIN <z> 0.001
    XREAD BLOCK 1 STREAMS <x> $
    EVAL return{redis.call('SET',KEYS[1],ARGV[1]),redis.call('GET',KEYS[1])} 1 <s> <value>
    EVAL return{redis.call('GET',ARGV[1]),redis.call('SET',ARGV[1],ARGV[2])} 0 <s> <word>
    EVAL return{redis.call('INCR',KEYS[1]),redis.call('LPUSH',KEYS[1],1)} 1 <s>
    EVAL return{redis.call('DEL',ARGV[1],ARGV[2])} 0 <k> <k>
";

const SESSION: &str = "
    PING
    ECHO <value>
    SELECT <db>
    SELECT <db>
    MULTI
    MULTI
    EXEC
    DISCARD
    WATCH <k> <k>
    WATCH <s>
    UNWATCH
    CLIENT GETNAME
    CLIENT SETNAME name<int>
    # CLIENT ID
    CLIENT NO-EVICT ON
    CLIENT SETINFO LIB-NAME fuzz
    CLIENT UNBLOCK 99999999
    CLIENT TRACKINGINFO
    PUBLISH <channel> <value>
    SPUBLISH <channel> <word>
    PUBLISH <channel> <word>
    PUBSUB NUMSUB <channel>
    ~ PUBSUB CHANNELS <pattern>
    NOSUCH <word> <k>
    GET
    GET <s> <s>
    SET <s> <word> EX nothing
    HSET <h> <field>
    MSET <s>
    EVAL return{redis.call('NOSUCH')} 0
    EVAL return{redis.pcall('INCR',KEYS[1])} 1 <h>
    SCRIPT EXISTS 00
    ACL WHOAMI
    COMMAND GETKEYS MSET <s> 1 <s> 2
    OBJECT HELP
    WAIT 0 0
";

const DATABASE: &str = "
    ~ KEYS s*
    ~ KEYS *
    ~ SCAN 0 COUNT 10000
    ~ SCAN 0 COUNT 10000 TYPE list
    DBSIZE
    MOVE <k> <db>
    COPY <k> <k> DB <db> REPLACE
    SWAPDB <db> <db>
    FLUSHDB
    FLUSHDB ASYNC
";

const SERVER: &str = "
    FLUSHALL
    FLUSHALL ASYNC
    SCRIPT FLUSH
    SCRIPT LOAD return{1,2}
    CONFIG SET hash-max-listpack-entries 4
    CONFIG SET hash-max-listpack-entries 128
    CONFIG SET set-max-intset-entries 512
";

/// Said by those who listen: what comes unasked stands among the answers, in the order of the server.
const LISTENING: &str = "
    SUBSCRIBE <channel>
    SUBSCRIBE <channel>
    SUBSCRIBE <channel> <channel>
    UNSUBSCRIBE <channel>
    PSUBSCRIBE <pattern>
    PUNSUBSCRIBE <pattern>
    SSUBSCRIBE <channel>
    SUNSUBSCRIBE <channel>
    PING
    PING <word>
    GET <s>
    SET <s> <word>
    PUBLISH <channel> <word>
";

/// A key of their own: it is empty until somebody ends the wait.
const WAITS: &str = "
    BLPOP wait:list 5 ; RPUSH wait:list <word>
    BRPOP wait:none wait:list 5 ; LPUSH wait:list <word> <word>
    BLMOVE wait:list wait:list2 LEFT RIGHT 5 ; RPUSH wait:list <word>
    BLMPOP 5 2 wait:none wait:list LEFT COUNT 3 ; RPUSH wait:list <word> <word>
    BZPOPMIN wait:zset 5 ; ZADD wait:zset <int> <member>
    BZMPOP 5 1 wait:zset MAX ; ZADD wait:zset <int> <member> 3 a
    XREAD BLOCK 5000 STREAMS wait:stream $ ; XADD wait:stream 1-* <field> <word>
    BRPOPLPUSH wait:list wait:list2 5 ; EVAL return{redis.call('RPUSH','wait:list',ARGV[1])} 0 <word>
    BLPOP wait:list 5 ; EVAL return{redis.call('RPUSH',KEYS[1],'x')} 1 wait:list
";
