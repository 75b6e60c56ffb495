//! What is sent in the random pipelines: about four hundred commands in groups that belong together.

use common::differs::Differs;
use common::pack;

/// Commands that belong together, sent as one.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) bytes: Vec<u8>,
    /// One for each reply.
    pub(crate) differs: Vec<Differs>,
}

/// Commands as lines, split at blanks; a shape of several is sent as one.
pub(crate) fn shapes(version: u8) -> Vec<Shape> {
    let hello = if version == 3 { "HELLO 3" } else { "HELLO 2" };
    let mut shapes = Vec::new();
    for line in PLAIN.lines().map(str::trim).filter(|line| !line.is_empty()) {
        shapes.push(shape(&line.split(" ; ").map(|command| (command, Differs::Nothing)).collect::<Vec<_>>()));
    }
    // Those that must leave the protocol as it was, for the shapes that come after them.
    let id = |line| (line, Differs::Id);
    let same = |line| (line, Differs::Nothing);
    shapes.extend([
        shape(&[id("HELLO")]),
        shape(&[id("HELLO 2"), same("HGETALL hash"), id(hello)]),
        shape(&[id("HELLO 3"), same("HGETALL hash"), same("ZSCORE zset a"), id(hello)]),
        shape(&[id("HELLO 3 AUTH default x"), id(hello)]),
        shape(&[id("HELLO 3 AUTH nobody x"), id(hello)]),
        shape(&[id("HELLO 3 SETNAME tester"), same("CLIENT GETNAME"), id("HELLO 3 SETNAME other"), id(hello)]),
        shape(&[
            same("CLIENT SETNAME named"),
            same("CLIENT GETNAME"),
            same("RESET"),
            same("CLIENT GETNAME"),
            id(hello),
        ]),
        shape(&[same("SELECT 3"), same("SET three 3"), same("RESET"), same("GET three"), id(hello)]),
        shape(&[same("MULTI"), same("SET queued 1"), same("RESET"), same("EXEC"), id(hello)]),
        shape(&[same("MULTI"), same("HELLO 3"), same("HGETALL hash"), ("EXEC", Differs::Id), id(hello)]),
        shape(&[("TIME", Differs::Digits), ("LASTSAVE", Differs::Digits), ("CLIENT ID", Differs::Digits)]),
        shape(&[
            same("SET expiring 1 PX 100000"),
            ("PTTL expiring", Differs::Digits),
            ("TTL expiring", Differs::Digits),
        ]),
        shape(&[
            same("SADD words some words of a set"),
            ("SMEMBERS words", Differs::Order),
            ("SSCAN words 0 COUNT 100", Differs::Order),
        ]),
        shape(&[("XADD timed * f v", Differs::Digits), same("XLEN timed"), same("DEL timed")]),
        shape(&[("XADD timed NOMKSTREAM MAXLEN 3 * f v", Differs::Digits), same("DEL timed")]),
        replies("CLIENT REPLY OFF ; PING ; SET silent 1 ; GET silent ; CLIENT REPLY ON ; GET silent", 2),
        replies("CLIENT REPLY SKIP ; PING ; PING", 1),
        replies("CLIENT REPLY SKIP ; SET skipped 1 ; GET skipped", 1),
        replies("CLIENT REPLY NONSENSE ; PING", 2),
    ]);
    let raw = |bytes: Vec<u8>, count: usize| Shape { bytes, differs: vec![Differs::Nothing; count] };
    shapes.extend([
        raw(b"PING\r\n".into(), 1),
        raw(b"PING\n\r\n\nECHO \"quoted \\x41\"\r\n".into(), 2),
        raw(b"SET inline 'it\\'s' \r\nGET inline\r\n".into(), 2),
        raw(b"*0\r\n*-1\r\n*1\r\n$4\r\npInG\r\n".into(), 1),
        raw([pack(&[b"SET", &b"bin\0\r\n\xff"[..], b"\0\r\n\xfe"]), pack(&[b"GET", &b"bin\0\r\n\xff"[..]])].concat(), 2),
        raw([pack(&["SET", "", "empty key"]), pack(&["GET", ""]), pack(&["DEL", ""])].concat(), 3),
        raw([pack(&["SET", "empty", ""]), pack(&["GET", "empty"])].concat(), 2),
        raw([pack(&["SET", "big", &"x".repeat(300_000)]), pack(&["GET", "big"]), pack(&["DEL", "big"])].concat(), 3),
        raw(pack(&["GET", &"k".repeat(100_000)]), 1),
        raw(pack(&["PING", "with blank and\r\nline"]), 1),
        raw(pack(&["NO\r\nSUCH", "a\nb"]), 1),
        raw(pack(&[&b"\xff\xfe"[..], b"\0"]), 1),
        raw(pack(&["nosuch", &"long".repeat(100), &"longer".repeat(100)]), 1),
        raw(pack(&[""]), 1),
        raw(pack(&["GET "]), 1),
        raw(pack(&["EVAL", "return {1, 'two', {3, {4.7, true, false}}, {ok = 'fine'}}", "0"]), 1),
        raw(pack(&["EVAL", "return redis.error_reply('MY error')", "0"]), 1),
        raw(pack(&["EVAL", "return {err = 'My Err'}", "0"]), 1),
        raw(pack(&["EVAL", "return redis.call('NOSUCH')", "0"]), 1),
        raw(pack(&["EVAL", "syntax error here", "0"]), 1),
        raw(pack(&["EVAL", "redis.setresp(3) return redis.call('HGETALL', KEYS[1])", "1", "hash"]), 1),
        raw(pack(&["EVAL", "return {double = 3.25}", "0"]), 1),
        raw(pack(&["EVAL", "return {map = {a = 1}}", "0"]), 1),
        raw(pack(&["EVAL", "return {big_number = '12345678901234567890'}", "0"]), 1),
        raw(pack(&["EVAL", "return {verbatim_string = {string = 'text', format = 'txt'}}", "0"]), 1),
        raw(pack(&["EVAL_RO", "return redis.call('SET', KEYS[1], 1)", "1", "k"]), 1),
        raw([pack(&["SCRIPT", "LOAD", "return 42"]), pack(&["EVALSHA", "1fa00e76656cc152ad327c13fe365858fd7be306", "0"])].concat(), 2),
        raw(
            [
                pack(&["FUNCTION", "LOAD", "REPLACE", "#!lua name=lib\nredis.register_function('f', function(keys, args) return redis.call('SET', keys[1], args[1]) end)"]),
                pack(&["FCALL", "f", "1", "by:function", "v"]),
                pack(&["GET", "by:function"]),
                pack(&["FUNCTION", "DELETE", "lib"]),
                pack(&["FCALL", "f", "1", "by:function", "v"]),
            ]
            .concat(),
            5,
        ),
    ]);
    shapes
}

fn shape(commands: &[(&str, Differs)]) -> Shape {
    let pack_line = |line: &str| pack(&line.split_whitespace().collect::<Vec<_>>());
    Shape {
        bytes: commands.iter().flat_map(|(line, _)| pack_line(line)).collect(),
        differs: commands.iter().map(|(_, differs)| *differs).collect(),
    }
}

/// Commands of which not each has a reply.
fn replies(lines: &str, count: usize) -> Shape {
    let commands: Vec<_> = lines.split(" ; ").map(|line| (line, Differs::Nothing)).collect();
    Shape { differs: vec![Differs::Nothing; count], ..shape(&commands) }
}

/// A command or a group of commands a line. Whatever order chance brings them in, both servers see the same one.
const PLAIN: &str = "
    PING
    PING hello
    PING too many
    ECHO hello
    ECHO
    NOSUCHCOMMAND
    NOSUCHCOMMAND a b c
    GET
    GET a b
    get string
    GeT string
    SET
    SET string
    SET string value
    SET string value NX
    SET string other XX GET
    SET string value EX 0
    SET string value EX ten
    SET string value PX 100000 KEEPTTL
    SET string value NX XX
    SET fresh 1 NX ; GET fresh ; GETDEL fresh ; GET fresh
    GET string ; SET string 1 ; GET string ; SET string 2 ; GET string
    GET counter ; INCR counter ; GET counter ; INCRBY counter 10 ; GET counter ; DECRBY counter 3 ; GET counter
    SET word abc ; INCR word ; INCRBYFLOAT word 1.5
    SET float 10.5 ; INCRBYFLOAT float 0.1 ; GET float
    MSET a 1 b 2 c 3 ; MGET a b c none ; MSET a 1 b
    MSETNX a 1 new 2 ; MSETNX n1 1 n2 2 ; DEL n1 n2
    APPEND appended x ; STRLEN appended ; GETRANGE appended 0 2 ; SUBSTR appended 0 0 ; SETRANGE appended 2 yz ; GET appended ; DEL appended
    LCS a b ; SET lcs1 ohmytext ; SET lcs2 mynewtext ; LCS lcs1 lcs2 ; LCS lcs1 lcs2 IDX MINMATCHLEN 4 WITHMATCHLEN ; LCS lcs1 lcs2 LEN
    GETEX string PERSIST ; GETEX string EX 100 ; PERSIST string ; GETSET string new
    TYPE string ; TYPE hash ; TYPE none
    EXISTS string hash none string
    DEL none ; UNLINK none none2
    TOUCH string none
    SET moved v ; RENAME moved renamed ; GET moved ; GET renamed ; RENAMENX renamed renamed2 ; DEL renamed2 ; RENAME none x
    SET src v ; COPY src dst REPLACE ; GET dst ; COPY src src ; COPY none dst ; DEL src dst
    EXPIRE none 10 ; EXPIRE string abc ; EXPIREAT string 4000000000 ; EXPIRETIME string ; PEXPIRETIME string ; PERSIST string ; TTL string ; PTTL none
    EXPIRE string 100 NX XX ; EXPIRE string 10 GT ; PERSIST string
    SET gone 1 ; EXPIRE gone -1 ; GET gone
    SET gone 1 PXAT 1 ; GET gone
    OBJECT ENCODING string ; OBJECT REFCOUNT hash ; OBJECT FREQ string ; OBJECT HELP ; OBJECT NOSUCH ; OBJECT
    HSET hash f1 v1 f2 v2 ; HGET hash f1 ; HGET hash none ; HMGET hash f1 none ; HGETALL hash ; HLEN hash ; HKEYS hash ; HVALS hash ; HSTRLEN hash f1
    HSET hash odd ; HINCRBY hash n 5 ; HINCRBYFLOAT hash n 1.5 ; HDEL hash n none ; HEXISTS hash f1 ; HSETNX hash f1 x
    HGETALL none ; HGET string f ; HRANDFIELD none ; HRANDFIELD none 3
    HSET one f v ; HRANDFIELD one ; HRANDFIELD one 2 WITHVALUES ; HSCAN one 0 ; DEL one
    RPUSH list a b c ; LRANGE list 0 -1 ; LINDEX list 1 ; LPOS list c ; LLEN list ; LINSERT list BEFORE b x ; LSET list 0 z ; LREM list 1 x ; LTRIM list 0 1 ; DEL list
    LPUSH q 1 2 3 ; LPOP q 2 ; RPOP q ; LPOP q ; LPOP q 1 ; LMPOP 2 none none2 LEFT ; LMOVE none none2 LEFT RIGHT ; RPOPLPUSH none none2
    LPUSH string x ; LSET none 0 x ; LRANGE list a b
    RPUSH b1 x ; BLPOP b1 none 1 ; RPUSH b1 y ; BLMPOP 1 1 b1 LEFT ; RPUSH b1 z ; BLMOVE b1 b2 LEFT RIGHT 1 ; BRPOP b2 1 ; BRPOPLPUSH b1 b2 0.01 ; BLPOP b1 0.01
    BLPOP none abc ; BLPOP none -1 ; BLPOP string 0.1
    ZADD bz 1 a 2 b ; BZPOPMIN bz 1 ; BZPOPMAX bz 1 ; BZPOPMIN bz 0.01 ; BZMPOP 0.01 1 bz MIN
    SADD ints 3 1 2 ; SMEMBERS ints ; SISMEMBER ints 1 ; SMISMEMBER ints 1 9 ; SCARD ints ; SSCAN ints 0 ; SREM ints 9 ; SINTERCARD 1 ints
    SADD other 2 3 4 ; SINTER ints other ; SUNION ints other ; SDIFF ints other ; SINTERSTORE into ints other ; SMEMBERS into ; SMOVE ints other 1 ; SADD ints 1
    SADD single x ; SRANDMEMBER single ; SPOP single ; SPOP single ; SRANDMEMBER single ; SRANDMEMBER single 3
    ZADD zset 1 a 2.5 b 3 c ; ZSCORE zset b ; ZSCORE zset none ; ZMSCORE zset a none ; ZRANGE zset 0 -1 ; ZRANGE zset 0 -1 WITHSCORES ; ZRANGEBYSCORE zset 1 (3 WITHSCORES LIMIT 0 1
    ZADD zset XX CH 5 a ; ZADD zset NX GT 5 a ; ZADD zset INCR 1 a ; ZADD zset INCR nan a ; ZINCRBY zset -inf inf ; ZRANGE zset 0 -1 REV ; ZREM zset inf
    ZRANK zset a ; ZRANK zset none ; ZREVRANK zset a ; ZCARD zset ; ZCOUNT zset -inf +inf ; ZLEXCOUNT zset - + ; ZRANGEBYLEX zset - + ; ZREVRANGE zset 0 0 WITHSCORES ; ZREVRANGEBYSCORE zset + -
    ZADD z2 1 b 2 c ; ZINTER 2 zset z2 WITHSCORES ; ZUNION 2 zset z2 WEIGHTS 1 2 WITHSCORES ; ZDIFF 2 zset z2 ; ZUNIONSTORE z3 2 zset z2 AGGREGATE MAX ; ZRANGESTORE z4 zset 0 1 ; ZINTERCARD 2 zset z2
    ZPOPMIN none ; ZADD zp 1 a 2 b ; ZPOPMIN zp ; ZPOPMAX zp 1 ; ZPOPMAX zp 1 ; ZMPOP 1 zp MIN ; ZSCAN zset 0 ; ZRANDMEMBER none 2
    GEOADD geo 13.361389 38.115556 Palermo 15.087269 37.502669 Catania ; GEODIST geo Palermo Catania km ; GEODIST geo Palermo none ; GEOHASH geo Palermo none ; GEOPOS geo Palermo none
    GEOADD geo 13.361389 38.115556 Palermo ; GEOSEARCH geo FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHCOORD WITHDIST WITHHASH ; GEORADIUS geo 15 37 200 km ASC COUNT 1 ; GEORADIUSBYMEMBER geo Palermo 100 km WITHDIST ; GEOSEARCHSTORE near geo FROMMEMBER Palermo BYRADIUS 10 km ; GEORADIUS geo 15 37 200 km STORE stored ; GEOADD geo 200 100 x
    SETBIT bits 7 1 ; GETBIT bits 7 ; BITCOUNT bits ; BITCOUNT bits 0 0 BIT ; BITPOS bits 1 ; BITOP NOT dest bits ; BITFIELD bits GET u8 0 INCRBY u8 0 300 OVERFLOW FAIL INCRBY u8 0 300 ; BITFIELD_RO bits GET u4 0 ; GET bits ; SETBIT bits x 1
    PFADD hll a b c ; PFCOUNT hll ; PFADD hll2 c d ; PFMERGE hll3 hll hll2 ; PFCOUNT hll hll2 ; PFCOUNT string ; PFADD hll a
    XADD st 1-1 f v ; XADD st 1-1 f v ; XADD st 2-1 f v g w ; XLEN st ; XRANGE st - + ; XRANGE st 2 + ; XRANGE st - + COUNT 1 ; XREVRANGE st + - ; XREAD COUNT 1 STREAMS st 0 ; XDEL st 1-1 ; XTRIM st MAXLEN 0 ; XRANGE st - + ; DEL st
    XADD st abc f v ; XADD st 5-5 f ; XRANGE none - + ; XRANGE string - + ; XRANGE st a b ; XLEN none ; XREAD STREAMS none 0 ; XREAD BLOCK 10 STREAMS none $
    XADD sg 1-1 f v ; XGROUP CREATE sg g 0 ; XREADGROUP GROUP g c COUNT 1 STREAMS sg > ; XPENDING sg g ; XACK sg g 1-1 ; XREADGROUP GROUP g c STREAMS sg > ; XAUTOCLAIM sg g c2 0 0 ; XCLAIM sg g c2 0 1-1 ; XINFO GROUPS sg ; XINFO STREAM sg ; XGROUP CREATE sg g 0 ; DEL sg
    XGROUP CREATE none g 0 ; XREADGROUP GROUP g c STREAMS none > ; XINFO STREAM none ; XSETID none 1-1 ; XGROUP HELP
    RPUSH sortme 3 1 2 ; SORT sortme ; SORT sortme DESC LIMIT 0 2 ; SET w_1 9 ; SET w_2 8 ; SET w_3 7 ; SORT sortme BY w_* GET # GET w_* ; SORT sortme STORE sorted ; LRANGE sorted 0 -1 ; SORT_RO sortme ; SORT hash ; RPUSH sortme x ; SORT sortme ; SORT sortme ALPHA ; DEL sortme
    SELECT 9 ; FLUSHDB ; SET only 1 ; SCAN 0 ; SCAN 0 MATCH o* COUNT 100 TYPE string ; KEYS * ; RANDOMKEY ; DBSIZE ; DEL only ; KEYS * ; RANDOMKEY ; SCAN 0 ; SELECT 0
    SCAN abc ; SCAN 0 COUNT 0 ; SCAN 0 MATCH ; KEYS nosuch* ; SCAN 0 MATCH nosuch* COUNT 100000
    SELECT 1 ; SET string one ; GET string ; SELECT 0 ; GET string ; SELECT 16 ; SELECT -1 ; SELECT abc ; SELECT ; GET string
    SELECT 5 ; SET swapped five ; SELECT 6 ; DEL swapped ; SWAPDB 5 6 ; GET swapped ; SELECT 5 ; GET swapped ; SELECT 0 ; SWAPDB 0 99 ; SWAPDB a b
    SELECT 7 ; SET m v ; MOVE m 8 ; GET m ; SELECT 8 ; GET m ; DEL m ; SELECT 0 ; MOVE none 1
    MULTI ; SET tx 1 ; INCR tx ; GET tx ; EXEC ; GET tx
    MULTI ; SET tx ; NOSUCH ; SET tx 2 ; EXEC ; GET tx
    MULTI ; SET tx abc ; INCR tx ; LPUSH tx x ; GET tx ; EXEC
    MULTI ; MULTI ; DISCARD ; DISCARD ; EXEC
    MULTI ; WATCH tx ; EXEC ; WATCH tx ; SET tx 5 ; MULTI ; SET tx 6 ; EXEC ; GET tx ; UNWATCH
    WATCH tx ; GET tx ; MULTI ; INCR counter ; EXEC ; WATCH ; UNWATCH
    MULTI ; EXEC ; MULTI ; DISCARD
    MULTI ; SELECT 4 ; SET four 4 ; EXEC ; GET four ; SELECT 0 ; GET four
    MULTI ; BLPOP none 0 ; CLIENT SETNAME queued ; PING ; ECHO x ; EXEC ; CLIENT GETNAME ; CLIENT SETNAME ; CLIENT GETNAME
    MULTI ; FLUSHDB ; SET string v ; EXEC ; GET string
    MULTI ; CLIENT REPLY NONSENSE ; AUTH x ; EXEC
    EXEC now ; MULTI now ; DISCARD now
    CLIENT GETNAME ; CLIENT SETNAME me ; CLIENT GETNAME ; CLIENT NOSUCH ; CLIENT ; CLIENT KILL 1.2.3.4:5 ; CLIENT KILL ID 99999999 ; CLIENT UNBLOCK 99999999
    CLIENT SETINFO LIB-NAME test ; CLIENT SETINFO LIB-VER 1.0 ; CLIENT SETINFO NOSUCH x ; CLIENT MAINT_NOTIFICATIONS ON moving-endpoint-type internal-ip
    CLIENT NO-EVICT on ; CLIENT NO-EVICT off ; CLIENT NO-TOUCH on ; CLIENT TRACKINGINFO ; CLIENT GETREDIR ; CLIENT CACHING YES ; CLIENT HELP
    CLIENT REPLY ; CLIENT TRACKING maybe ; CLIENT PAUSE abc ; CLIENT UNPAUSE
    AUTH x ; AUTH default x ; AUTH nobody x ; AUTH a b c ; AUTH ; ACL WHOAMI
    ACL LIST ; ACL USERS ; ACL GETUSER default ; ACL GETUSER nobody ; ACL CAT nosuch ; ACL SETUSER bad +nosuch ; ACL NOSUCH
    HELLO 4 ; HELLO abc ; HELLO 3 BOGUS ; HELLO 3 AUTH x ; HELLO 1 ; HELLO 2 SETNAME
    CONFIG GET maxmemory ; CONFIG GET nosuch ; CONFIG SET nosuch 1 ; CONFIG SET maxmemory-samples 5 ; CONFIG ; CONFIG NOSUCH
    COMMAND COUNT ; COMMAND INFO get ; COMMAND INFO nosuch ; COMMAND GETKEYS MSET a 1 b 2 ; COMMAND GETKEYS GET ; COMMAND DOCS get ; COMMAND LIST FILTERBY PATTERN xrange* ; COMMAND NOSUCH
    DEBUG SLEEP 0 ; DEBUG NOSUCH ; DEBUG HELP
    MEMORY USAGE none ; MEMORY NOSUCH ; INFO nosuchsection ; LATENCY RESET ; SLOWLOG RESET ; SLOWLOG NOSUCH
    PUBLISH channel message ; PUBSUB NUMPAT ; PUBSUB NUMSUB channel ; PUBSUB CHANNELS nosuch* ; PUBSUB NOSUCH ; SPUBLISH channel message ; PUBLISH channel
    UNSUBSCRIBE ; PUNSUBSCRIBE ; SUNSUBSCRIBE ; UNSUBSCRIBE channel
    WAIT 0 0 ; WAIT 0 10 ; WAIT a b ; WAIT 0 ; WAITAOF 0 0 0
    READONLY ; READWRITE ; ASKING ; CLUSTER INFO ; CLUSTER SLOTS ; CLUSTER NOSUCH ; REPLICAOF ; FAILOVER NOSUCH
    DUMP none ; SET dumped v ; DUMP dumped ; RESTORE dumped 0 x ; RESTORE dumped 0 x REPLACE ; RESTORE dumped -1 x ; MIGRATE a b
    EVALSHA 0000000000000000000000000000000000000000 0 ; EVAL x ; EVAL x abc ; EVAL x -1 ; EVAL x 5 a ; SCRIPT EXISTS 00 ; SCRIPT NOSUCH ; SCRIPT KILL ; FCALL nosuch 0 ; FUNCTION LIST ; FUNCTION STATS ; FUNCTION KILL
    MONITOR too many
    FLUSHDB ASYNC ; DBSIZE ; GET string ; SET string back ; FLUSHALL SYNC ; GET string ; FLUSHALL NOSUCH
    MODULE LIST ; LOLWUT VERSION 9999 extra ; RESET extra ; SHUTDOWN NOSUCH ; OBJECT FREQ none
";
