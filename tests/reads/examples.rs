//! What there is to read of a key of each type, and what there is to write to it: the material of `reads.rs`.
//!
//! A row of the command table that L1 keeps must have an example here. Words are separated by blanks, `'` holds blanks
//! together, `;` separates commands. `k` is the key that is read; `other` is one of the same type and another content.

use std::time::Duration;

use common::Redis;

/// Keys of one type.
pub(crate) struct Kind {
    /// Makes `k` and `other`.
    pub(crate) make: &'static str,
    /// Reads of `k`, one a line: those that Redis refuses too.
    pub(crate) reads: &'static str,
    /// What changes `k`, one a line; a server that does not know it answers with an error.
    pub(crate) writes: &'static str,
}

/// Changes of a key of any type.
pub(crate) const WRITES: &str = "
    DEL k
    UNLINK k
    EXPIRE k 100
    EXPIRE k 100 ; PERSIST k
    PEXPIREAT k 9999999999999
    EXPIRE k -1
    PEXPIRE k 30
    RENAME other k
    RENAMENX other k
    RENAME k away
    COPY other k
    COPY other k REPLACE
    MOVE k 1
    SET k string
    DEL k ; RPUSH k type change
    DEL k ; HSET k type change
    DEL k ; XADD k 1-1 type change
    MULTI ; DEL k ; EXEC
    MULTI ; RENAME other k ; EXEC
    EVAL 'return redis.call(\"DEL\", KEYS[1])' 1 k
    EVAL 'return redis.call(\"RENAME\", \"other\", \"k\")' 0
    FLUSHDB
    FLUSHALL
    SWAPDB 0 1
";

/// The time to live of what is to expire, as the writes have it: in them, this number stands for nothing else.
pub(crate) const LIFE_MS: &str = "30";
pub(crate) const LIFE: Duration = Duration::from_millis(30);

pub(crate) const STRING: Kind = Kind {
    make: "SET k 'hello world' ; SET other 'another value'",
    reads: "
        GET k
        STRLEN k
        GETRANGE k 1 3
        GETRANGE k -3 -1
        GETRANGE k 9 1
        GETRANGE k a b
        SUBSTR k 0 4
        MGET k
        MGET k other k none
        GETBIT k 1
        GETBIT k 9999
        GETBIT k -1
        BITCOUNT k
        BITCOUNT k 1 -2
        BITCOUNT k 1 12 BIT
        BITCOUNT k 1
        BITPOS k 1
        BITPOS k 0 2 -1
        BITPOS k 1 3 90 BIT
        BITPOS k 2
        BITFIELD_RO k GET u8 0 GET i16 #1
        BITFIELD_RO k
        BITFIELD_RO k SET u8 0 1
        EXISTS k
        TYPE k
        STRLEN k too many
        GET
    ",
    writes: "
        SET k 1
        SET k 1 EX 100
        SET k 1 KEEPTTL GET
        SETEX k 100 v
        PSETEX k 100000 v
        MSET k 1 x 2
        MSETNX k 1 x 2
        GETSET k v
        GETDEL k
        GETEX k EX 100
        GETEX k PERSIST
        APPEND k x
        SETRANGE k 1 zz
        SETRANGE k 0 hello
        SETBIT k 0 1
        BITFIELD k SET u8 0 7 INCRBY i4 8 1
        BITOP NOT k other
        SET k 5 ; INCR k
        SET k 5 ; DECRBY k 2
        SET k 5 ; INCRBYFLOAT k 1.5
        INCR k
        EVAL 'redis.call(\"APPEND\", \"k\", \"x\")' 0
        MULTI ; APPEND k x ; SET k 5 ; EXEC
    ",
};

pub(crate) const HYPERLOGLOG: Kind = Kind {
    make: "PFADD k a b c ; PFADD other c d",
    reads: "
        GET k
        STRLEN k
        GETRANGE k 0 3
        BITCOUNT k
        TYPE k
    ",
    writes: "
        PFADD k d
        PFADD k a
        PFCOUNT k
        PFCOUNT k other
        PFMERGE k other
        PFADD k d ; PFCOUNT k
    ",
};

pub(crate) const HASH: Kind = Kind {
    make: "HSET k a 1 b 2.5 c '' ; HSET other a x",
    reads: "
        HGET k a
        HGET k none
        HMGET k a none b a
        HGETALL k
        HKEYS k
        HVALS k
        HLEN k
        HSTRLEN k b
        HSTRLEN k none
        HEXISTS k a
        HEXISTS k none
        EXISTS k
        TYPE k
        HGET k
        HMGET k
        HGET k a b
        LLEN k
    ",
    writes: "
        HSET k a 9
        HSET k d 4
        HSETNX k d 4
        HSETNX k a 4
        HMSET k a 1 b 1
        HDEL k a
        HDEL k a b c
        HINCRBY k a 5
        HINCRBY k b 5
        HINCRBYFLOAT k b 0.1
        HPEXPIRE k 100000 FIELDS 2 a b
        HPEXPIRE k 100000 FIELDS 1 a ; HPERSIST k FIELDS 1 a
        HPEXPIRE k 30 FIELDS 1 a
        HPEXPIRE k 30 FIELDS 3 a b c
        HEXPIREAT k 1 FIELDS 1 a
        HGETEX k PX 30 FIELDS 1 b
        HGETDEL k FIELDS 1 b
        HSETEX k PX 30 FIELDS 2 a 5 d 6
    ",
};

pub(crate) const LIST: Kind = Kind {
    make: "RPUSH k a b c a 1 ; RPUSH other x",
    reads: "
        LRANGE k 0 -1
        LRANGE k 1 2
        LRANGE k 7 9
        LRANGE k x 9
        LINDEX k 0
        LINDEX k -1
        LINDEX k 99
        LINDEX k x
        LLEN k
        LPOS k a
        LPOS k a RANK -1
        LPOS k a COUNT 0
        LPOS k a RANK 2 COUNT 1 MAXLEN 10
        LPOS k none
        LPOS k none COUNT 1
        LPOS k a RANK 0
        EXISTS k
        TYPE k
        HGET k a
    ",
    writes: "
        LPUSH k x
        RPUSH k x y
        LPUSHX k x
        RPUSHX k x
        LPOP k
        RPOP k 2
        LPOP k 99
        LSET k 0 z
        LINSERT k BEFORE b z
        LREM k 0 a
        LTRIM k 1 2
        LTRIM k 9 9
        LMOVE other k LEFT RIGHT
        LMOVE k k LEFT RIGHT
        RPOPLPUSH k other
        LMPOP 2 none k LEFT COUNT 2
        BLPOP none k 1
        BRPOP k 1
        BLMOVE other k LEFT LEFT 1
        BRPOPLPUSH other k 1
        BLMPOP 1 1 k RIGHT
        SORT k ALPHA STORE k
        SORT other ALPHA STORE k
    ",
};

/// Few members, for the order of many may change though nobody writes.
pub(crate) const SET: Kind = Kind {
    make: "SADD k x y z ; SADD other y",
    reads: "
        SMEMBERS k
        SISMEMBER k x
        SISMEMBER k none
        SMISMEMBER k x none y
        SCARD k
        EXISTS k
        TYPE k
        SMISMEMBER k
        ZCARD k
    ",
    writes: "
        SADD k w
        SADD k x
        SREM k x
        SREM k x y z
        SPOP k
        SPOP k 3
        SMOVE k other x
        SMOVE other k y
        SINTERSTORE k k other
        SUNIONSTORE k other
        SDIFFSTORE k k k
        SORT other ALPHA STORE k
    ",
};

pub(crate) const INTSET: Kind = Kind {
    make: "SADD k 3 1 2 ; SADD other 1",
    reads: "
        SMEMBERS k
        SISMEMBER k 1
        SISMEMBER k x
        SMISMEMBER k 1 9
        SCARD k
    ",
    writes: "
        SADD k 7
        SREM k 1
        SINTERSTORE k k other
    ",
};

/// Scores of all lengths: doubles are written in two ways, and every digit counts.
pub(crate) const SORTED_SET: Kind = Kind {
    make: "ZADD k 1 a 2.5 b 0.1 c 3.0000000000000004 d inf e -inf f 1e300 g 5e-324 h 123456789012345678 i -0 j 1e21 l \
           ; ZADD other 1 a 7 z",
    reads: "
        ZSCORE k a
        ZSCORE k c
        ZSCORE k d
        ZSCORE k e
        ZSCORE k f
        ZSCORE k h
        ZSCORE k i
        ZSCORE k j
        ZSCORE k none
        ZMSCORE k a none c e
        ZMSCORE k
        ZCARD k
        ZCOUNT k -inf (3
        ZCOUNT k x y
        ZLEXCOUNT k - +
        ZRANK k a
        ZRANK k none
        ZRANK k a WITHSCORE
        ZRANK k c withscore
        ZRANK k none WITHSCORE
        ZRANK k a NONSENSE
        ZREVRANK k a
        ZREVRANK k none
        ZREVRANK k e WITHSCORE
        ZREVRANK k none WITHSCORE
        ZRANGE k 0 -1
        ZRANGE k 0 -1 WITHSCORES
        ZRANGE k 0 0 REV WITHSCORES
        ZRANGE k 9 1 WITHSCORES
        ZRANGE k (1 inf BYSCORE LIMIT 1 2 WITHSCORES
        ZRANGE k [a [c BYLEX
        ZRANGE k [a [c BYLEX WITHSCORES
        ZREVRANGE k 0 2
        ZREVRANGE k 0 2 WITHSCORES
        ZRANGEBYSCORE k -inf 2
        ZRANGEBYSCORE k -inf +inf WITHSCORES LIMIT 2 4
        ZREVRANGEBYSCORE k 2 -inf
        ZREVRANGEBYSCORE k +inf (0 WITHSCORES
        ZRANGEBYLEX k - [c
        ZREVRANGEBYLEX k + -
        ZRANGEBYLEX k a b
        EXISTS k
        TYPE k
        SCARD k
    ",
    writes: "
        ZADD k 2 a
        ZADD k 9 new
        ZADD k NX 5 a
        ZADD k XX CH 5 a
        ZADD k INCR 1.1 a
        ZINCRBY k 1.5 b
        ZREM k a
        ZREMRANGEBYRANK k 0 1
        ZREMRANGEBYSCORE k -inf +inf
        ZREMRANGEBYLEX k - [c
        ZPOPMIN k
        ZPOPMAX k 3
        ZMPOP 1 k MIN COUNT 2
        BZPOPMIN k 1
        BZPOPMAX none k 1
        BZMPOP 1 2 none k MAX
        ZUNIONSTORE k 2 k other WEIGHTS 1 2
        ZINTERSTORE k 2 k other
        ZDIFFSTORE k 2 other k
        ZRANGESTORE k other 0 -1
    ",
};

pub(crate) const GEO: Kind = Kind {
    make: "GEOADD k 13.361389 38.115556 Palermo 15.087269 37.502669 Catania 2.3488 48.85341 Paris \
           ; GEOADD other 13.4 52.5 Berlin",
    reads: "
        GEOPOS k Palermo
        GEOPOS k Palermo none Catania
        GEOPOS k
        GEODIST k Palermo Catania
        GEODIST k Palermo Paris km
        GEODIST k Palermo none
        GEODIST k Palermo Catania miles
        GEOHASH k Palermo none
        GEOHASH k
        GEOSEARCH k FROMLONLAT 15 37 BYRADIUS 200 km ASC
        GEOSEARCH k FROMMEMBER Palermo BYBOX 900 900 km DESC WITHCOORD WITHDIST WITHHASH
        GEOSEARCH k FROMMEMBER Palermo BYRADIUS 9000 km COUNT 1
        GEOSEARCH k FROMMEMBER none BYRADIUS 1 km
        GEOSEARCH k FROMLONLAT 0 0 BYRADIUS 1 m
        GEORADIUS_RO k 15 37 200 km WITHDIST ASC
        GEORADIUS_RO k 15 37 200 km WITHCOORD COUNT 1
        GEORADIUSBYMEMBER_RO k Paris 5000 km WITHCOORD WITHHASH DESC
        GEORADIUSBYMEMBER_RO k none 5 km
        ZSCORE k Paris
    ",
    writes: "
        GEOADD k 1 1 Palermo
        GEOADD k NX 1 1 Rome
        ZREM k Palermo
        GEOSEARCHSTORE k other FROMLONLAT 13 52 BYRADIUS 500 km
        GEORADIUS other 13 52 500 km STORE k
        GEORADIUSBYMEMBER other Berlin 500 km STOREDIST k
    ",
};

pub(crate) const STREAM: Kind = Kind {
    make: "XADD k 1-1 f v ; XADD k 2-1 f w g x ; XADD k 3-1 h '' ; XADD other 9-9 f o ; XGROUP CREATE k group 0",
    reads: "
        XRANGE k - +
        XRANGE k 2 +
        XRANGE k - + COUNT 1
        XRANGE k - + COUNT 0
        XRANGE k 9 +
        XRANGE k (1-1 (3-1
        XRANGE k x y
        XREVRANGE k + -
        XREVRANGE k + - COUNT 2
        XREVRANGE k + - COUNT 0
        XLEN k
        EXISTS k
        TYPE k
        GET k
    ",
    writes: "
        XADD k 4-1 f v
        XADD k MAXLEN 2 5-1 f v
        XDEL k 1-1
        XDEL k 1-1 2-1 3-1
        XTRIM k MAXLEN 1
        XTRIM k MINID 3
        XSETID k 9-9
        XREADGROUP GROUP group c STREAMS k >
        XREADGROUP GROUP group c STREAMS k > ; XACK k group 1-1
        XGROUP CREATE k more $
        XGROUP DESTROY k group
    ",
};

pub(crate) const JSON: Kind = Kind {
    make: "JSON.SET k $ '{\"a\":1,\"b\":[1,2.5,\"x\",null],\"c\":{\"d\":true},\"s\":\"str\"}' ; JSON.SET other $ '[7]'",
    reads: "
        JSON.GET k
        JSON.GET k $.a
        JSON.GET k .s
        JSON.GET k $.none
        JSON.GET k .none
        JSON.TYPE k
        JSON.TYPE k $.b
        JSON.TYPE k $.none
        JSON.STRLEN k $.s
        JSON.STRLEN k .s
        JSON.ARRLEN k $.b
        JSON.ARRLEN k .b
        JSON.ARRINDEX k $.b 2.5
        JSON.ARRINDEX k .b 9
        JSON.OBJKEYS k $.c
        JSON.OBJLEN k $
        JSON.GET
        EXISTS k
        TYPE k
        GET k
    ",
    writes: "
        JSON.SET k $.a 5
        JSON.SET k $.z '[]'
        JSON.DEL k $.b
        JSON.DEL k
        JSON.NUMINCRBY k $.a 2
        JSON.STRAPPEND k $.s '\"x\"'
        JSON.ARRAPPEND k $.b 9
        JSON.ARRINSERT k $.b 0 9
        JSON.ARRPOP k $.b
        JSON.ARRTRIM k $.b 0 0
        JSON.TOGGLE k $.c.d
        JSON.CLEAR k $.b
        JSON.MERGE k $ '{\"a\":7}'
        JSON.MSET k $ '{\"z\":1}' other $ 2
    ",
};

pub(crate) const BLOOM: Kind = Kind {
    make: "BF.ADD k x ; BF.ADD other y",
    reads: "
        BF.EXISTS k x
        BF.EXISTS k z
        BF.MEXISTS k x z
        BF.CARD k
        BF.EXISTS k
    ",
    writes: "
        BF.ADD k z
        BF.MADD k z w
        BF.INSERT k ITEMS z
    ",
};

pub(crate) const CUCKOO: Kind = Kind {
    make: "CF.ADD k x ; CF.ADD other y",
    reads: "
        CF.EXISTS k x
        CF.EXISTS k z
        CF.MEXISTS k x z
        CF.COUNT k x
    ",
    writes: "
        CF.ADD k z
        CF.ADD k x
        CF.ADDNX k z
        CF.DEL k x
        CF.INSERT k ITEMS z x
    ",
};

pub(crate) const TOP_K: Kind = Kind {
    make: "TOPK.RESERVE k 5 ; TOPK.ADD k x y x ; TOPK.RESERVE other 5 ; TOPK.ADD other z",
    reads: "
        TOPK.QUERY k x z
        TOPK.LIST k
        TOPK.LIST k WITHCOUNT
    ",
    writes: "
        TOPK.ADD k z
        TOPK.INCRBY k y 9
    ",
};

/// Every kind that modules have, and the module: a file name without its `.so`.
pub(crate) const MODULES: [(&str, &[&Kind]); 2] = [("rejson", &[&JSON]), ("redisbloom", &[&BLOOM, &CUCKOO, &TOP_K])];

/// Every kind that a server without modules has.
pub(crate) const KINDS: [&Kind; 9] = [&STRING, &HYPERLOGLOG, &HASH, &LIST, &SET, &INTSET, &SORTED_SET, &GEO, &STREAM];

/// The lines of a list above.
pub(crate) fn lines(list: &'static str) -> impl Iterator<Item = &'static str> {
    list.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// A line as its commands, each as its arguments.
pub(crate) fn commands(line: &str) -> Vec<Vec<String>> {
    let mut all = vec![vec![]];
    for (at, part) in line.split('\'').enumerate() {
        if at % 2 == 1 {
            all.last_mut().expect("never empty").push(part.to_owned());
            continue;
        }
        for word in part.split_whitespace() {
            match word {
                ";" => all.push(vec![]),
                word => all.last_mut().expect("never empty").push(word.to_owned()),
            }
        }
    }
    all
}

/// Whether the server knows a command.
pub(crate) fn knows(redis: &Redis, command: &str) -> bool {
    !redis.client().cmd(&["COMMAND", "INFO", command]).items()[0].is_nil()
}
