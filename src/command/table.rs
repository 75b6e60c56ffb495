//! The table: every command and subcommand of Redis 7.4 and Valkey 8, one row each, and the later ones that are plain.
//!
//! Owns all that crema knows about commands by name; the types of the columns and what they promise are in `mod`. Longer
//! than other files on purpose: one long list, read by eye, in which a row can be held against Redis's own `src/commands/*.json`
//! (`tests/command_table.rs` does that against a running server). A command that is not here still works: as
//! [`unknown`](super::unknown), on a connection of its own.
//!
//! The columns: name, arity, flags and what they do not say of ACL categories, effect, keys, route, whether L1 keeps the reply, and
//! behind `=>` to which nodes of a cluster it goes; without that to one, that of its first key.
//!
//! | flags |                 | keys            |                                                      |
//! |-------|-----------------|-----------------|------------------------------------------------------|
//! | `o`   | none            | `one`           | argument 1                                           |
//! | `r`   | READONLY        | `span(f, l, s)` | arguments `f` to `l`, -1 being the last, each `s`-th |
//! | `w`   | WRITE           | `count(n)`      | argument `n` says how many, they follow              |
//! | `a`   | ADMIN           | `dst_count(n)`  | the same, and argument 1                             |
//! | `p`   | PUBSUB          | `streams`, ...  | as that command has it                               |
//! | `b`   | BLOCKING        | `unknown`       | there may be some                                    |
//! | `m`   | `MAY_REPLICATE` |                 |                                                      |
//! | `d`   | DENYOOM         |                 |                                                      |
//!
//! Of ACL categories, `f`: fast, else slow; `x`: dangerous without ADMIN; `i`: admin without it; `k`, `c`: keyspace, connection beside
//! that of the class; `g`: list, set and sortedset in place of that, `h`: nothing in place of that.
//!
//! Rules that are not plain from a row:
//! * A lane takes what gives exactly one reply, at once, and touches no connection state. New rows start as `Taint`.
//! * `Borrow` is for what walks the whole key space (a lane serves many sessions) or answers with very much, for what must get
//!   through while a script runs or a lane is stalled, and for what waits (CLUSTER SETSLOT, for replicas) or may not return.
//! * `Effect` follows what the command does, not Redis's flag: PFCOUNT is flagged readonly and rewrites its key, SORT may store,
//!   GETEX, XREADGROUP and kin write what they read. Functions are no keys.
//! * Of modules' commands, only reads that are worth keeping have rows. What a server says of a module's command does not
//!   suffice: JSON.MGET claims one key and reads many, FT.SEARCH names an index and reads hashes, and CMS.INCRBY changes its
//!   key without a word to those who track it. So each row was tried; where a server says that it is no plain read of one
//!   key, it is not kept.
//! * What is marked for L1 is deterministic: the same reply for as long as the key is not written and has not expired.
//!   `tests/reads.rs` has an example of each row and holds its reply against Redis's after every kind of write.

use super::index::subcommand;
use super::{Caching, Categories, Class, CommandFlags, Effect, KeySpec, Merge, Portrait, Route, Spec, Spread, Verb};

/// All rows. A container stands right above its subcommands; the row for unknown commands is the last.
pub(super) static ROWS: [Spec; LIST.len()] = numbered();

/// Gives the rows their numbers, and containers their mark.
#[expect(clippy::large_stack_arrays, reason = "done by the compiler, on no stack of ours")]
const fn numbered() -> [Spec; LIST.len()] {
    let mut rows = [LIST[0]; LIST.len()];
    let mut row = 0;
    while row < LIST.len() {
        rows[row] = LIST[row];
        rows[row].id = row as u16;
        row += 1;
        if row < LIST.len() {
            let is_sub = subcommand(LIST[row - 1].name.as_bytes()).is_some();
            let next_is_sub = subcommand(LIST[row].name.as_bytes()).is_some();
            rows[row - 1].container = !is_sub && next_is_sub;
        }
    }
    rows
}

/// Reads the list below into specs that have no number yet.
macro_rules! table {
    ($($class:ident {
        $($name:literal $arity:literal $flags:ident $effect:ident $keys:ident$(($($at:literal),+))? $route:ident$(($verb:ident))? $($cache:ident)? $(=> $spread:ident$(($how:ident))?)?;)*
    })*) => {
        const LIST: &[Spec] = &[$($(Spec {
            id: 0,
            name: $name,
            arity: $arity,
            flags: CommandFlags::of(stringify!($flags)),
            categories: Categories::of(Class::$class, stringify!($flags)),
            keys: keys!($keys $($($at)+)?),
            effect: Effect::$effect,
            route: Route::$route$((Verb::$verb))?,
            cache: cache!($($cache)?),
            spread: spread!($($spread $($how)?)?),
            class: Class::$class,
            container: false,
        },)*)*];
    };
}

#[rustfmt::skip]
macro_rules! keys {
    (none) => { KeySpec::None };
    (one) => { keys!(span 1 1 1) };
    (span $first:literal $last:literal $step:literal) => { KeySpec::Range { first: $first, last: $last, step: $step } };
    (count $at:literal) => { KeySpec::Numkeys { at: $at, also: None } };
    (dst_count $at:literal) => { KeySpec::Numkeys { at: $at, also: Some(1) } };
    (streams) => { KeySpec::AfterStreams };
    (sort) => { KeySpec::Sort };
    (migrate) => { KeySpec::Migrate };
    (georadius) => { KeySpec::GeoRadius };
    (unknown) => { KeySpec::Unknown };
}

#[rustfmt::skip]
macro_rules! cache {
    () => { Caching::No };
    ($cache:ident) => { Caching::$cache };
}

#[rustfmt::skip]
macro_rules! spread {
    () => { Spread::OneNode };
    (Masters $merge:ident) => { Spread::Masters(Merge::$merge) };
    (Slots $merge:ident) => { Spread::Slots(Merge::$merge) };
    (Face $portrait:ident) => { Spread::Face(Portrait::$portrait) };
    ($spread:ident) => { Spread::$spread };
}

table! {
    String {
        "append"                          3  wdf   Write  one            Lane;
        "decr"                            2  wdf   Write  one            Lane;
        "decrby"                          3  wdf   Write  one            Lane;
        "delex"                          -2  wf    Write  one            Lane;
        "delifeq"                         3  wf    Write  one            Lane;
        "digest"                          2  rf    Read   one            Lane;
        "get"                             2  rf    Read   one            Lane                         Plain;
        "getdel"                          2  wf    Write  one            Lane;
        "getex"                          -2  wf    Write  one            Lane;
        "getrange"                        4  r     Read   one            Lane                         Plain;
        "getset"                          3  wdf   Write  one            Lane;
        "incr"                            2  wdf   Write  one            Lane;
        "incrby"                          3  wdf   Write  one            Lane;
        "incrbyfloat"                     3  wdf   Write  one            Lane;
        "lcs"                            -3  r     Read   span(1, 2, 1)  Lane;
        "mget"                           -2  rf    Read   span(1, -1, 1) Lane                         Each => Slots(InOrder);
        "mset"                           -3  wd    Write  span(1, -1, 2) Lane                          => Slots(Agree);
        "msetnx"                         -3  wd    Write  span(1, -1, 2) Lane;
        "psetex"                          4  wd    Write  one            Lane;
        "set"                            -3  wd    Write  one            Lane;
        "setex"                           4  wd    Write  one            Lane;
        "setnx"                           3  wdf   Write  one            Lane;
        "setrange"                        4  wd    Write  one            Lane;
        "strlen"                          2  rf    Read   one            Lane                         Plain;
        "substr"                          4  r     Read   one            Lane                         Plain;
    }
    Hash {
        "hdel"                           -3  wf    Write  one            Lane;
        "hexists"                         3  rf    Read   one            Lane                         Fields;
        "hexpire"                        -6  wf    Write  one            Lane;
        "hexpireat"                      -6  wf    Write  one            Lane;
        "hexpiretime"                    -5  rf    Read   one            Lane;
        "hget"                            3  rf    Read   one            Lane                         Fields;
        "hgetall"                         2  r     Read   one            Lane                         WholeHash;
        "hgetdel"                        -5  wf    Write  one            Lane;
        "hgetex"                         -5  wf    Write  one            Lane;
        "hincrby"                         4  wdf   Write  one            Lane;
        "hincrbyfloat"                    4  wdf   Write  one            Lane;
        "hkeys"                           2  r     Read   one            Lane                         WholeHash;
        "hlen"                            2  rf    Read   one            Lane                         WholeHash;
        "hmget"                          -3  rf    Read   one            Lane                         Fields;
        "hmset"                          -4  wdf   Write  one            Lane;
        "hpersist"                       -5  wf    Write  one            Lane;
        "hpexpire"                       -6  wf    Write  one            Lane;
        "hpexpireat"                     -6  wf    Write  one            Lane;
        "hpexpiretime"                   -5  rf    Read   one            Lane;
        "hpttl"                          -5  rf    Read   one            Lane;
        "hrandfield"                     -2  r     Read   one            LaneIfOne;
        "hscan"                          -3  r     Read   one            Lane                          => Master;
        "hset"                           -4  wdf   Write  one            Lane;
        "hsetex"                         -6  wdf   Write  one            Lane;
        "hsetnx"                          4  wdf   Write  one            Lane;
        "hstrlen"                         3  rf    Read   one            Lane                         Fields;
        "httl"                           -5  rf    Read   one            Lane;
        "hvals"                           2  r     Read   one            Lane                         WholeHash;
    }
    List {
        "blmove"                          6  wbd   Write  span(1, 2, 1)  Blocking;
        "blmpop"                         -5  wb    Write  count(2)       Blocking;
        "blpop"                          -3  wb    Write  span(1, -2, 1) Blocking;
        "brpop"                          -3  wb    Write  span(1, -2, 1) Blocking;
        "brpoplpush"                      4  wbd   Write  span(1, 2, 1)  Blocking;
        "lindex"                          3  r     Read   one            Lane                         Plain;
        "linsert"                         5  wd    Write  one            Lane;
        "llen"                            2  rf    Read   one            Lane                         Plain;
        "lmove"                           5  wd    Write  span(1, 2, 1)  Lane;
        "lmpop"                          -4  w     Write  count(1)       Lane;
        "lpop"                           -2  wf    Write  one            Lane;
        "lpos"                           -3  r     Read   one            Lane                         Plain;
        "lpush"                          -3  wdf   Write  one            Lane;
        "lpushx"                         -3  wdf   Write  one            Lane;
        "lrange"                          4  r     Read   one            Lane                         Plain;
        "lrem"                            4  w     Write  one            Lane;
        "lset"                            4  wd    Write  one            Lane;
        "ltrim"                           4  w     Write  one            Lane;
        "rpop"                           -2  wf    Write  one            Lane;
        "rpoplpush"                       3  wd    Write  span(1, 2, 1)  Lane;
        "rpush"                          -3  wdf   Write  one            Lane;
        "rpushx"                         -3  wdf   Write  one            Lane;
    }
    Set {
        "sadd"                           -3  wdf   Write  one            Lane;
        "scard"                           2  rf    Read   one            Lane                         Plain;
        "sdiff"                          -2  r     Read   span(1, -1, 1) Lane;
        "sdiffstore"                     -3  wd    Write  span(1, -1, 1) Lane;
        "sinter"                         -2  r     Read   span(1, -1, 1) Lane;
        "sintercard"                     -3  r     Read   count(1)       Lane;
        "sinterstore"                    -3  wd    Write  span(1, -1, 1) Lane;
        "sismember"                       3  rf    Read   one            Lane                         Plain;
        "smembers"                        2  r     Read   one            Lane                         Plain;
        "smismember"                     -3  rf    Read   one            Lane                         Plain;
        "smove"                           4  wf    Write  span(1, 2, 1)  Lane;
        "spop"                           -2  wf    Write  one            Lane;
        "srandmember"                    -2  r     Read   one            LaneIfOne;
        "srem"                           -3  wf    Write  one            Lane;
        "sscan"                          -3  r     Read   one            Lane                          => Master;
        "sunion"                         -2  r     Read   span(1, -1, 1) Lane;
        "sunionstore"                    -3  wd    Write  span(1, -1, 1) Lane;
    }
    SortedSet {
        "bzmpop"                         -5  wb    Write  count(2)       Blocking;
        "bzpopmax"                       -3  wbf   Write  span(1, -2, 1) Blocking;
        "bzpopmin"                       -3  wbf   Write  span(1, -2, 1) Blocking;
        "zadd"                           -4  wdf   Write  one            Lane;
        "zcard"                           2  rf    Read   one            Lane                         Plain;
        "zcount"                          4  rf    Read   one            Lane                         Plain;
        "zdiff"                          -3  r     Read   count(1)       Lane;
        "zdiffstore"                     -4  wd    Write  dst_count(2)   Lane;
        "zincrby"                         4  wdf   Write  one            Lane;
        "zinter"                         -3  r     Read   count(1)       Lane;
        "zintercard"                     -3  r     Read   count(1)       Lane;
        "zinterstore"                    -4  wd    Write  dst_count(2)   Lane;
        "zlexcount"                       4  rf    Read   one            Lane                         Plain;
        "zmpop"                          -4  w     Write  count(1)       Lane;
        "zmscore"                        -3  rf    Read   one            Lane                         Plain;
        "zpopmax"                        -2  wf    Write  one            Lane;
        "zpopmin"                        -2  wf    Write  one            Lane;
        "zrandmember"                    -2  r     Read   one            LaneIfOne;
        "zrange"                         -4  r     Read   one            Lane                         Pairs;
        "zrangebylex"                    -4  r     Read   one            Lane                         Plain;
        "zrangebyscore"                  -4  r     Read   one            Lane                         Pairs;
        "zrangestore"                    -5  wd    Write  span(1, 2, 1)  Lane;
        "zrank"                          -3  rf    Read   one            Lane                         Rank;
        "zrem"                           -3  wf    Write  one            Lane;
        "zremrangebylex"                  4  w     Write  one            Lane;
        "zremrangebyrank"                 4  w     Write  one            Lane;
        "zremrangebyscore"                4  w     Write  one            Lane;
        "zrevrange"                      -4  r     Read   one            Lane                         Pairs;
        "zrevrangebylex"                 -4  r     Read   one            Lane                         Plain;
        "zrevrangebyscore"               -4  r     Read   one            Lane                         Pairs;
        "zrevrank"                       -3  rf    Read   one            Lane                         Rank;
        "zscan"                          -3  r     Read   one            Lane                          => Master;
        "zscore"                          3  rf    Read   one            Lane                         Plain;
        "zunion"                         -3  r     Read   count(1)       Lane;
        "zunionstore"                    -4  wd    Write  dst_count(2)   Lane;
    }
    Stream {
        "xack"                           -4  wf    Write  one            Lane;
        "xackdel"                        -6  wf    Write  one            Lane;
        "xadd"                           -5  wdf   Write  one            Lane;
        "xautoclaim"                     -6  wf    Write  one            Lane;
        "xclaim"                         -6  wf    Write  one            Lane;
        "xdel"                           -3  wf    Write  one            Lane;
        "xdelex"                         -5  wf    Write  one            Lane;
        "xgroup"                         -2  o     None   none           Lane;
        "xgroup|create"                  -5  wd    Write  span(2, 2, 1)  Lane;
        "xgroup|createconsumer"           5  wd    Write  span(2, 2, 1)  Lane;
        "xgroup|delconsumer"              5  w     Write  span(2, 2, 1)  Lane;
        "xgroup|destroy"                  4  w     Write  span(2, 2, 1)  Lane;
        "xgroup|help"                     2  o     None   none           Lane;
        "xgroup|setid"                   -5  w     Write  span(2, 2, 1)  Lane;
        "xinfo"                          -2  o     None   none           Lane;
        "xinfo|consumers"                 4  r     Read   span(2, 2, 1)  Lane                          => Master;
        "xinfo|groups"                    3  r     Read   span(2, 2, 1)  Lane                          => Master;
        "xinfo|help"                      2  o     None   none           Lane;
        "xinfo|stream"                   -3  r     Read   span(2, 2, 1)  Lane                          => Master;
        "xlen"                            2  rf    Read   one            Lane                         Plain;
        "xpending"                       -3  r     Read   one            Lane;
        "xrange"                         -4  r     Read   one            Lane                         NullArrays;
        "xread"                          -4  rb    Read   streams        LaneUnlessBlocking;
        "xreadgroup"                     -7  wb    Write  streams        LaneUnlessBlocking;
        "xrevrange"                      -4  r     Read   one            Lane                         NullArrays;
        "xsetid"                         -3  wdf   Write  one            Lane;
        "xtrim"                          -4  w     Write  one            Lane;
    }
    Key {
        "copy"                           -3  wd    Write  span(1, 2, 1)  Lane;
        "del"                            -2  w     Write  span(1, -1, 1) Lane                          => Slots(Sum);
        "dump"                            2  r     Read   one            Lane                          => Master;
        "exists"                         -2  rf    Read   span(1, -1, 1) Lane                         OneKey => Slots(Sum);
        "expire"                         -3  wf    Write  one            Lane;
        "expireat"                       -3  wf    Write  one            Lane;
        "expiretime"                      2  rf    Read   one            Lane;
        "keys"                            2  rx    Read   none           Borrow                        => Masters(Join);
        "migrate"                        -6  wx    Write  migrate        Borrow;
        "move"                            3  wf    Write  one            Lane;
        "object"                         -2  o     None   none           Lane;
        "object|encoding"                 3  r     Read   span(2, 2, 1)  Lane                          => Master;
        "object|freq"                     3  r     Read   span(2, 2, 1)  Lane                          => Master;
        "object|help"                     2  o     None   none           Lane;
        "object|idletime"                 3  r     Read   span(2, 2, 1)  Lane                          => Master;
        "object|refcount"                 3  r     Read   span(2, 2, 1)  Lane                          => Master;
        "persist"                         2  wf    Write  one            Lane;
        "pexpire"                        -3  wf    Write  one            Lane;
        "pexpireat"                      -3  wf    Write  one            Lane;
        "pexpiretime"                     2  rf    Read   one            Lane;
        "pttl"                            2  rf    Read   one            Lane;
        "randomkey"                       1  r     Read   none           Lane                          => Masters(Pick);
        "rename"                          3  w     Write  span(1, 2, 1)  Lane;
        "renamenx"                        3  wf    Write  span(1, 2, 1)  Lane;
        "restore"                        -4  wdx   Write  one            Lane;
        "restore-asking"                 -4  wdx   Write  one            Lane;
        "scan"                           -2  r     Read   none           Lane                          => Cursor;
        "sort"                           -2  wdxg  Write  sort           Lane;
        "sort_ro"                        -2  rxg   Read   sort           Lane;
        "touch"                          -2  rf    Read   span(1, -1, 1) Lane                          => Slots(Sum);
        "ttl"                             2  rf    Read   one            Lane;
        "type"                            2  rf    Read   one            Lane                         Plain;
        "unlink"                         -2  wf    Write  span(1, -1, 1) Lane                          => Slots(Sum);
    }
    Geo {
        "geoadd"                         -5  wd    Write  one            Lane;
        "geodist"                        -4  r     Read   one            Lane                         Plain;
        "geohash"                        -2  r     Read   one            Lane                         Plain;
        "geopos"                         -2  r     Read   one            Lane                         NullArrays;
        "georadius"                      -6  wd    Write  georadius      Lane;
        "georadius_ro"                   -6  r     Read   one            Lane                         Plain;
        "georadiusbymember"              -5  wd    Write  georadius      Lane;
        "georadiusbymember_ro"           -5  r     Read   one            Lane                         Plain;
        "geosearch"                      -7  r     Read   one            Lane                         Plain;
        "geosearchstore"                 -8  wd    Write  span(1, 2, 1)  Lane;
    }
    Bitmap {
        "bitcount"                       -2  r     Read   one            Lane                         Plain;
        "bitfield"                       -2  wd    Write  one            Lane;
        "bitfield_ro"                    -2  rf    Read   one            Lane                         Plain;
        "bitop"                          -4  wd    Write  span(2, -1, 1) Lane;
        "bitpos"                         -3  r     Read   one            Lane                         Plain;
        "getbit"                          3  rf    Read   one            Lane                         Plain;
        "setbit"                          4  wd    Write  one            Lane;
    }
    HyperLogLog {
        "pfadd"                          -2  wdf   Write  one            Lane;
        "pfcount"                        -2  rm    Write  span(1, -1, 1) Lane;
        "pfdebug"                         3  wad   Write  span(2, 2, 1)  Lane;
        "pfmerge"                        -2  wd    Write  span(1, -1, 1) Lane;
        "pfselftest"                      1  a     None   none           Borrow;
    }
    PubSub {
        "psubscribe"                     -2  p     None   none           Session(Subscribe);
        "publish"                         3  pmf   None   none           Lane;
        "pubsub"                         -2  o     None   none           Lane;
        "pubsub|channels"                -2  p     None   none           Lane                          => Masters(Unite);
        "pubsub|help"                     2  h     None   none           Lane;
        "pubsub|numpat"                   2  p     None   none           Lane                          => Masters(Sum);
        "pubsub|numsub"                  -2  p     None   none           Lane                          => Masters(Tally);
        "pubsub|shardchannels"           -2  p     None   none           Lane                          => Masters(Unite);
        "pubsub|shardnumsub"             -2  p     None   none           Lane                          => Masters(Tally);
        "punsubscribe"                   -1  p     None   none           Session(Subscribe);
        "spublish"                        3  pmf   None   one            Lane;
        "ssubscribe"                     -2  p     None   span(1, -1, 1) Session(Subscribe);
        "subscribe"                      -2  p     None   none           Session(Subscribe);
        "sunsubscribe"                   -1  p     None   span(1, -1, 1) Session(Subscribe);
        "unsubscribe"                    -1  p     None   none           Session(Subscribe);
    }
    Transaction {
        "discard"                         1  f     None   none           Session(Discard);
        "exec"                            1  o     None   none           Session(Exec);
        "multi"                           1  f     None   none           Session(Multi);
        "unwatch"                         1  f     None   none           Session(Unwatch);
        "watch"                          -2  f     Read   span(1, -1, 1) Session(Watch);
    }
    Script {
        "eval"                           -3  m     Opaque count(2)       ScriptLane;
        "eval_ro"                        -3  r     Read   count(2)       ScriptLane;
        "evalsha"                        -3  m     Opaque count(2)       ScriptLane;
        "evalsha_ro"                     -3  r     Read   count(2)       ScriptLane;
        "fcall"                          -3  m     Opaque count(2)       ScriptLane;
        "fcall_ro"                       -3  r     Read   count(2)       ScriptLane;
        "function"                       -2  o     None   none           Lane;
        "function|delete"                 3  w     None   none           ScriptLane                    => Masters(Agree);
        "function|dump"                   2  o     None   none           ScriptLane;
        "function|flush"                 -2  w     None   none           ScriptLane                    => Masters(Agree);
        "function|help"                   2  o     None   none           Lane;
        "function|kill"                   2  o     None   none           BorrowAnywhere                => Masters(One);
        "function|list"                  -2  o     None   none           ScriptLane;
        "function|load"                  -3  wd    None   none           ScriptLane                    => Masters(Agree);
        "function|restore"               -3  wd    None   none           ScriptLane                    => Masters(Agree);
        "function|stats"                  2  o     None   none           BorrowAnywhere;
        "script"                         -2  o     None   none           Lane;
        "script|debug"                   -3  o     None   none           Taint;
        "script|exists"                  -3  o     None   none           ScriptLane                    => Masters(Min);
        "script|flush"                   -2  o     None   none           ScriptLane                    => Masters(Agree);
        "script|help"                     2  o     None   none           Lane;
        "script|kill"                     2  o     None   none           BorrowAnywhere                => Masters(One);
        "script|load"                     3  o     None   none           ScriptLane                    => Masters(Agree);
        "script|show"                     3  o     None   none           Lane;
    }
    Connection {
        "auth"                           -2  f     None   none           Session(Auth);
        "client"                         -2  o     None   none           Lane;
        "client|caching"                  3  o     None   none           Home;
        "client|capa"                    -3  o     None   none           Taint;
        "client|getname"                  2  o     None   none           Session(ClientGetName);
        "client|getredir"                 2  o     None   none           Home;
        "client|help"                     2  o     None   none           Lane;
        "client|id"                       2  o     None   none           Home;
        "client|import-source"            3  o     None   none           Taint;
        "client|info"                     2  o     None   none           Home;
        "client|kill"                    -3  a     None   none           Session(ClientKill);
        "client|list"                    -2  a     None   none           Home;
        "client|no-evict"                 3  a     None   none           Home;
        "client|no-touch"                 3  o     None   none           Session(ClientNoTouch);
        "client|pause"                   -3  a     None   none           Session(ClientPause)          => Masters(Agree);
        "client|reply"                    3  o     None   none           Session(ClientReply);
        "client|setinfo"                  4  o     None   none           Session(ClientSetInfo);
        "client|setname"                  3  o     None   none           Session(ClientSetName);
        "client|tracking"                -3  o     None   none           Taint;
        "client|trackinginfo"             2  o     None   none           Home;
        "client|unblock"                 -3  a     None   none           Home;
        "client|unpause"                  2  a     None   none           Session(ClientUnpause)        => Masters(Agree);
        "crema"                          -2  o     None   none           Lane;
        "crema|advise"                    2  o     None   none           Session(CremaAdvise);
        "crema|audit"                     2  o     None   none           Session(CremaAudit);
        "crema|bigkeys"                  -2  o     None   none           Session(CremaBigKeys);
        "crema|clients"                  -2  o     None   none           Session(CremaClients);
        "crema|explain"                  -3  o     None   none           Session(CremaExplain);
        "crema|help"                      2  o     None   none           Session(CremaHelp);
        "crema|hotkeys"                  -2  o     None   none           Session(CremaHotKeys);
        "crema|invalidate"               -3  o     None   none           Session(CremaInvalidate);
        "crema|mode"                      3  o     None   none           Session(CremaMode);
        "crema|refresh"                  -3  o     None   none           Session(CremaRefresh);
        "crema|reload"                    2  o     None   none           Session(CremaReload);
        "crema|slowlog"                  -2  o     None   none           Session(CremaSlowLog);
        "crema|status"                    2  o     None   none           Session(CremaStatus);
        "echo"                            2  f     None   none           Lane;
        "hello"                          -1  f     None   none           Session(Hello);
        "host:"                          -1  o     None   none           Close;
        "ping"                           -1  f     None   none           Lane;
        "post"                           -1  o     None   none           Close;
        "quit"                           -1  f     None   none           Session(Quit);
        "reset"                           1  f     None   none           Session(Reset);
        "select"                          2  f     None   none           Session(Select);
        "wait"                            3  b     None   none           Session(Wait)                 => Masters(Min);
        "waitaof"                         4  b     None   none           Session(Wait)                 => Masters(Min);
    }
    Server {
        "acl"                            -2  o     None   none           Lane;
        "acl|cat"                        -2  o     None   none           Lane;
        "acl|deluser"                    -3  a     None   none           Session(AclChange)            => Masters(Agree);
        "acl|dryrun"                     -4  a     None   none           Lane;
        "acl|genpass"                    -2  o     None   none           Lane;
        "acl|getuser"                     3  a     None   none           Lane;
        "acl|help"                        2  o     None   none           Lane;
        "acl|list"                        2  a     None   none           Lane;
        "acl|load"                        2  a     None   none           Session(AclChange)            => Masters(Agree);
        "acl|log"                        -2  a     None   none           Lane;
        "acl|save"                        2  a     None   none           Lane                          => Masters(Agree);
        "acl|setuser"                    -3  a     None   none           Session(AclChange)            => Masters(Agree);
        "acl|users"                       2  a     None   none           Lane;
        "acl|whoami"                      2  o     None   none           Lane;
        "bgrewriteaof"                    1  a     None   none           Lane;
        "bgsave"                         -1  a     None   none           Lane;
        "command"                        -1  c     None   none           Borrow;
        "command|count"                   2  c     None   none           Lane;
        "command|docs"                   -2  c     None   none           Borrow;
        "command|getkeys"                -3  c     None   none           Lane;
        "command|getkeysandflags"        -3  c     None   none           Lane;
        "command|help"                    2  c     None   none           Lane;
        "command|info"                   -2  c     None   none           Borrow;
        "command|list"                   -2  c     None   none           Lane;
        "commandlog"                     -2  o     None   none           Lane;
        "commandlog|get"                 -4  a     None   none           Lane                          => Masters(Newest);
        "commandlog|help"                 2  o     None   none           Lane;
        "commandlog|len"                  3  a     None   none           Lane                          => Masters(Sum);
        "commandlog|reset"                3  a     None   none           Lane                          => Masters(Agree);
        "config"                         -2  o     None   none           Lane;
        "config|get"                     -3  a     None   none           Lane;
        "config|help"                     2  o     None   none           Lane;
        "config|resetstat"                2  a     None   none           Lane                          => Masters(Agree);
        "config|rewrite"                  2  a     None   none           Lane                          => Masters(Agree);
        "config|set"                     -4  a     None   none           Session(ConfigSet)            => Masters(Agree);
        "dbsize"                          1  rfk   Read   none           Lane                          => Masters(Sum);
        "debug"                          -2  a     Opaque unknown        Borrow;
        "failover"                       -1  a     None   none           Session(RoleChange);
        "flushall"                       -1  wxk   Opaque none           Borrow                        => Masters(Agree);
        "flushdb"                        -1  wxk   Opaque none           Borrow                        => Masters(Agree);
        "info"                           -1  x     Read   none           Lane                          => Face(Server);
        "lastsave"                        1  fxi   None   none           Lane;
        "latency"                        -2  o     None   none           Lane;
        "latency|doctor"                  2  a     None   none           Lane;
        "latency|graph"                   3  a     None   none           Lane;
        "latency|help"                    2  o     None   none           Lane;
        "latency|histogram"              -2  a     None   none           Lane;
        "latency|history"                 3  a     None   none           Lane;
        "latency|latest"                  2  a     None   none           Lane;
        "latency|reset"                  -2  a     None   none           Lane                          => Masters(Sum);
        "lolwut"                         -1  rf    None   none           Lane;
        "memory"                         -2  o     None   none           Lane;
        "memory|doctor"                   2  o     None   none           Lane;
        "memory|help"                     2  o     None   none           Lane;
        "memory|malloc-stats"             2  o     None   none           Lane;
        "memory|purge"                    2  o     None   none           Lane                          => Masters(Agree);
        "memory|stats"                    2  o     Read   none           Lane;
        "memory|usage"                   -3  r     Read   span(2, 2, 1)  Lane                          => Master;
        "monitor"                         1  a     None   none           Session(Monitor);
        "psync"                          -3  a     None   none           Session(Sync);
        "replconf"                       -1  a     None   none           Taint;
        "replicaof"                       3  a     None   none           Session(RoleChange);
        "role"                            1  fxi   None   none           Lane;
        "save"                            1  a     None   none           Borrow;
        "sflush"                         -3  wkx   Opaque none           Borrow;
        "shutdown"                       -1  a     None   none           BorrowAnywhere;
        "slaveof"                         3  a     None   none           Session(RoleChange);
        "slowlog"                        -2  o     None   none           Lane;
        "slowlog|get"                    -2  a     None   none           Lane                          => Masters(Newest);
        "slowlog|help"                    2  o     None   none           Lane;
        "slowlog|len"                     2  a     None   none           Lane                          => Masters(Sum);
        "slowlog|reset"                   2  a     None   none           Lane                          => Masters(Agree);
        "swapdb"                          3  wfxk  Opaque none           Session(SwapDb);
        "sync"                            1  a     None   none           Session(Sync);
        "time"                            1  f     None   none           Lane;
    }
    Cluster {
        "asking"                          1  fc    None   none           Taint                         => Face(Mode);
        "cluster"                        -2  o     None   none           Lane;
        "cluster|addslots"               -3  a     None   none           Lane                          => NodeItself;
        "cluster|addslotsrange"          -4  a     None   none           Lane                          => NodeItself;
        "cluster|bumpepoch"               2  a     None   none           Lane                          => NodeItself;
        "cluster|count-failure-reports"   3  a     None   none           Lane                          => NodeItself;
        "cluster|countkeysinslot"         3  o     Read   none           Lane                          => OfSlot;
        "cluster|delslots"               -3  a     None   none           Lane                          => NodeItself;
        "cluster|delslotsrange"          -4  a     None   none           Lane                          => NodeItself;
        "cluster|failover"               -2  a     None   none           Session(RoleChange)           => NodeItself;
        "cluster|flushslot"              -3  wak   Opaque none           Borrow                        => NodeItself;
        "cluster|flushslots"              2  a     None   none           Lane                          => NodeItself;
        "cluster|forget"                  3  a     None   none           Lane                          => NodeItself;
        "cluster|getkeysinslot"           4  o     Read   none           Lane                          => OfSlot;
        "cluster|help"                    2  o     None   none           Lane;
        "cluster|info"                    2  o     None   none           Lane                          => Face(Info);
        "cluster|keyslot"                 3  o     None   none           Lane;
        "cluster|links"                   2  o     None   none           Lane                          => Face(Links);
        "cluster|meet"                   -4  a     None   none           Lane                          => NodeItself;
        "cluster|myid"                    2  o     None   none           Lane                          => Face(MyId);
        "cluster|myshardid"               2  o     None   none           Lane                          => Face(MyShardId);
        "cluster|nodes"                   2  o     None   none           Lane                          => Face(Nodes);
        "cluster|replicas"                3  a     None   none           Lane                          => Face(Replicas);
        "cluster|replicate"               3  a     None   none           Session(RoleChange)           => NodeItself;
        "cluster|reset"                  -2  a     Opaque none           Borrow                        => NodeItself;
        "cluster|saveconfig"              2  a     None   none           Lane                          => NodeItself;
        "cluster|set-config-epoch"        3  a     None   none           Lane                          => NodeItself;
        "cluster|setslot"                -4  a     None   none           Borrow                        => NodeItself;
        "cluster|shards"                  2  o     None   none           Lane                          => Face(Shards);
        "cluster|slaves"                  3  a     None   none           Lane                          => Face(Replicas);
        "cluster|slot-stats"             -4  o     None   none           Lane;
        "cluster|slots"                   2  o     None   none           Lane                          => Face(Slots);
        "readonly"                        1  fc    None   none           Taint                         => Face(Mode);
        "readwrite"                       1  fc    None   none           Taint                         => Face(Mode);
    }
    Module {
        "bf.card"                         2  r     Read   one            Lane                         Plain;
        "bf.exists"                       3  rf    Read   one            Lane                         Plain;
        "bf.mexists"                     -3  r     Read   one            Lane                         Plain;
        "cf.count"                        3  r     Read   one            Lane                         Plain;
        "cf.exists"                       3  rf    Read   one            Lane                         Plain;
        "cf.mexists"                     -3  r     Read   one            Lane                         Plain;
        "json.arrindex"                  -4  r     Read   one            Lane                         Plain;
        "json.arrlen"                    -2  r     Read   one            Lane                         Plain;
        "json.get"                       -2  r     Read   one            Lane                         Plain;
        "json.objkeys"                   -2  r     Read   one            Lane                         Plain;
        "json.objlen"                    -2  r     Read   one            Lane                         Plain;
        "json.strlen"                    -2  r     Read   one            Lane                         Plain;
        "json.type"                      -2  r     Read   one            Lane                         Resp3;
        "module"                         -2  o     None   none           Lane;
        "module|help"                     2  o     None   none           Borrow;
        "module|list"                     2  a     None   none           Borrow;
        "module|load"                    -3  a     Opaque unknown        Borrow;
        "module|loadex"                  -3  a     Opaque unknown        Borrow;
        "module|unload"                   3  a     Opaque unknown        Borrow;
        "topk.list"                      -2  r     Read   one            Lane                         Plain;
        "topk.query"                     -3  r     Read   one            Lane                         Plain;
        "unknown"                        -1  o     Opaque unknown        Taint;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rule: impl Fn(&Spec) -> bool) -> impl Iterator<Item = &'static Spec> {
        ROWS.iter().filter(move |row| rule(row))
    }

    #[test]
    fn rows_are_numbered_and_in_lower_case() {
        for (at, row) in ROWS.iter().enumerate() {
            assert_eq!(usize::from(row.id), at);
            assert!(row.name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()), "{}", row.name);
            assert_ne!(row.arity, 0, "{}", row.name);
        }
    }

    #[test]
    fn writes_name_their_keys_or_are_opaque() {
        for row in rows(|row| row.effect == Effect::Write) {
            assert!(!matches!(row.keys, KeySpec::None | KeySpec::Unknown), "{}", row.name);
        }
        // Functions are written and are no keys.
        for row in rows(|row| row.flags.contains(CommandFlags::WRITE) && row.class != Class::Script) {
            assert!(matches!(row.effect, Effect::Write | Effect::Opaque), "{}", row.name);
        }
        // What may replicate and has a body of its own may write anything.
        for row in rows(|row| row.flags.contains(CommandFlags::MAY_REPLICATE) && row.class == Class::Script) {
            assert_eq!(row.effect, Effect::Opaque, "{}", row.name);
        }
    }

    #[test]
    fn only_plain_reads_of_one_key_may_be_cached() {
        for row in rows(Spec::cacheable) {
            assert_eq!(row.flags, CommandFlags::READONLY, "{}", row.name);
            assert_eq!(row.effect, Effect::Read, "{}", row.name);
            assert!(row.keys == keys!(one) || matches!(row.cache, Caching::OneKey | Caching::Each), "{}", row.name);
            assert_eq!(row.route, Route::Lane, "{}", row.name);
        }
    }

    #[test]
    fn nothing_that_waits_or_subscribes_goes_on_a_lane() {
        for row in rows(|row| row.flags.contains(CommandFlags::BLOCKING)) {
            let apart = matches!(row.route, Route::Blocking | Route::LaneUnlessBlocking | Route::Session(Verb::Wait));
            assert!(apart, "{}", row.name);
        }
        for row in rows(|row| matches!(row.route, Route::Blocking | Route::LaneUnlessBlocking)) {
            assert!(row.flags.contains(CommandFlags::BLOCKING), "{}", row.name);
        }
        for row in rows(|row| row.class == Class::Transaction) {
            assert!(matches!(row.route, Route::Session(_)), "{}", row.name);
        }
    }
}
