//! The scenes, each with its title.

pub(crate) const ALL: &[(&str, &str)] = &[
    (
        "CLIENT KILL by id, address and user",
        r"
        a: CLIENT ID = a
        b: CLIENT ID = b
        a: CLIENT KILL ID $b
        b!
        a: CLIENT KILL ID $b
        c: @ CLIENT INFO = c
        a: CLIENT KILL $c.addr
        c!
        d: @ CLIENT INFO = d
        a: CLIENT KILL ADDR $d.addr TYPE replica
        a: CLIENT KILL ADDR $d.addr TYPE normal
        d!
        f: ACL SETUSER victim on >pw ~* &* +@all
        g: AUTH victim pw
        g: CLIENT ID = g
        f: # CLIENT KILL USER victim
        g!
        f: ACL DELUSER victim
        f: CLIENT KILL USER victim
        h: SUBSCRIBE news
        f: # CLIENT KILL TYPE pubsub
        h!
        f: CLIENT KILL ID 0
        f: CLIENT KILL ID abc
        f: CLIENT KILL NONSENSE
        f: CLIENT KILL ID
        f: CLIENT KILL TYPE nonsense
        a: CLIENT KILL ID $a
        a: CLIENT KILL ID $a SKIPME maybe
        a: CLIENT KILL ID $a SKIPME no
        a!
        ",
    ),
    (
        "CLIENT UNBLOCK, by an id that was asked for before",
        r"
        a: CLIENT ID = a
        a> BLPOP none 0
        b: CLIENT UNBLOCK $a
        a<
        a> BLMOVE none other LEFT RIGHT 0
        b: CLIENT UNBLOCK $a ERROR
        a<
        a> XREAD BLOCK 0 STREAMS none $
        b: CLIENT UNBLOCK $a TIMEOUT
        a<
        a> WAIT 1 0
        b: CLIENT UNBLOCK $a
        a<
        b: CLIENT UNBLOCK $a
        b: CLIENT UNBLOCK $a NONSENSE
        b: CLIENT UNBLOCK abc
        C: CLIENT ID = c
        C> BZPOPMIN none 0
        b: CLIENT UNBLOCK $c ERROR
        C<
        C> BLMPOP 0 2 none none2 LEFT
        b: CLIENT UNBLOCK $c
        C<
        C: CLIENT ID = again
        * is $c $again
        C: RESET
        C: CLIENT ID = again
        * is $c $again
        ",
    ),
    (
        "blocked clients are served in their order, whoever leaves",
        r"
        a> BLPOP l 0
        b: CLIENT ID = b
        b> BLPOP l 0
        c> BRPOP m l 0
        b.
        * gone $b
        d: RPUSH l 1 2 3
        a<
        c<
        d: LRANGE l 0 -1
        a> BLPOP k 0
        d: SET k string
        d: DEL k
        d: LPUSH k item
        a<
        ",
    ),
    (
        "tracking, in every way to ask for it",
        r"
        A: CLIENT TRACKINGINFO
        A: CLIENT CACHING YES
        A: CLIENT TRACKING ON
        A: CLIENT TRACKINGINFO
        A: CLIENT GETREDIR
        A: GET k
        b: SET k v
        A<
        A: GET k
        A: SET k w
        A<
        A: CLIENT TRACKING ON OPTIN
        A: CLIENT TRACKING OFF
        b: SET k x
        A: CLIENT TRACKING ON OPTIN
        A: CLIENT CACHING NO
        A: CLIENT CACHING YES
        A: GET k
        A: GET l
        b: MSET k 1 l 1
        A<
        A: PING
        A: CLIENT TRACKING ON OPTOUT
        A: CLIENT TRACKING OFF
        A: CLIENT TRACKING ON OPTOUT
        A: CLIENT CACHING NO
        A: GET k
        A: GET l
        b: MSET k 1 l 1
        A<
        A: CLIENT TRACKING OFF
        A: CLIENT TRACKING ON NOLOOP
        A: GET k
        A: SET k y
        A: CLIENT TRACKINGINFO
        A: CLIENT TRACKING OFF
        A: CLIENT TRACKING ON BCAST PREFIX p: PREFIX q:
        A: CLIENT TRACKINGINFO
        b: MSET p:1 1 k 2
        A<
        A: CLIENT TRACKING ON BCAST PREFIX p:1
        A: CLIENT TRACKING ON PREFIX x
        b: FLUSHALL
        A<
        A: CLIENT TRACKING ON OPTIN OPTOUT
        A: CLIENT TRACKING NONSENSE
        A: @ CLIENT INFO
        A: RESET
        b: SET p:1 2
        A: CLIENT TRACKINGINFO
        ",
    ),
    (
        "tracking with its messages sent to another client",
        r"
        a: CLIENT ID = a
        a: SUBSCRIBE __redis__:invalidate
        B: CLIENT TRACKING ON REDIRECT $a
        B: # CLIENT TRACKINGINFO
        B: CLIENT GETREDIR = r
        * is $r $a
        B: GET k
        c: SET k v
        a<
        B: GET k
        d: CLIENT TRACKING ON REDIRECT $a
        d: GET k
        d: CLIENT TRACKING ON REDIRECT 99999999
        d: CLIENT TRACKING OFF
        c: FLUSHALL
        a<
        B: GET k
        a.
        * gone $a
        c: SET k w
        B< #
        B: # CLIENT TRACKINGINFO
        B: CLIENT TRACKING OFF
        B: CLIENT GETREDIR
        B: PING
        ",
    ),
    (
        "what CLIENT INFO and CLIENT LIST say of a client",
        r"
        a: CLIENT SETNAME me
        a: SELECT 3
        a: @ CLIENT INFO
        a: CLIENT ID = a
        a: CLIENT NO-EVICT ON
        a: @ CLIENT INFO
        a: CLIENT NO-EVICT OFF
        a: CLIENT NO-EVICT MAYBE
        a: CLIENT NO-TOUCH ON
        a: @ CLIENT INFO
        a: CLIENT NO-TOUCH OFF
        a: CLIENT SETINFO LIB-NAME lib
        b: @ CLIENT LIST ID $a
        B: CLIENT ID = b
        B: SUBSCRIBE x y
        B<
        B: PSUBSCRIBE p*
        B: SSUBSCRIBE s
        B: @ CLIENT INFO
        b: @ CLIENT LIST ID $a $b
        a: MULTI
        a: PING
        a: CLIENT INFO
        b: @ CLIENT LIST ID $a
        a: @ EXEC
        c: CLIENT ID = c
        c> BLPOP none 0
        b: @ CLIENT LIST ID $c
        b: CLIENT LIST ID 99999999
        b: CLIENT LIST ID abc
        b: CLIENT LIST TYPE nonsense
        b: CLIENT LIST TYPE master
        b: CLIENT NOSUCH
        b: ~ CLIENT HELP
        ",
    ),
    (
        "functions, from their loading to their restoring",
        r"
        a: FUNCTION LOAD #!lua\sname=lib\nredis.register_function('f',function(keys,args)\sreturn\s{redis.call('SET',keys[1],args[1]),redis.call('GET',keys[1])}\send)
        a: FUNCTION LOAD #!lua\sname=lib\nredis.register_function('f',function()\sreturn\s1\send)
        a: FUNCTION LOAD #!lua\sname=broken\nnonsense
        a: FUNCTION LOAD nonsense
        B: FCALL f 1 k v
        b: GET k
        b: FCALL_RO f 1 k v
        B: FUNCTION LIST
        b: FUNCTION LIST LIBRARYNAME l* WITHCODE
        a: FUNCTION DUMP = dump
        a: FUNCTION DELETE lib
        a: FUNCTION DELETE lib
        b: FCALL f 1 k v
        a: FUNCTION RESTORE $dump
        a: FUNCTION RESTORE $dump
        a: FUNCTION RESTORE $dump REPLACE
        a: FUNCTION RESTORE $dump FLUSH
        a: FUNCTION RESTORE nonsense
        b: FCALL f 1 k w
        a: FUNCTION FLUSH
        a: FUNCTION FLUSH NONSENSE
        b: FUNCTION LIST
        B: FUNCTION STATS
        a: FUNCTION KILL
        a: FUNCTION NOSUCH
        ",
    ),
    (
        "a function that does not end, and a script",
        r"
        a: CONFIG SET busy-reply-threshold 10
        a: FUNCTION LOAD #!lua\sname=lib\nredis.register_function('f',function()\swhile\strue\sdo\send\send)
        d: PING
        b^ FCALL f 0
        * busy
        a: PING
        d: GET k
        d: MULTI
        D: GET k
        C: # FUNCTION STATS
        c: # FUNCTION STATS
        c: SCRIPT KILL
        c: FUNCTION KILL
        b<
        * free
        d: EXEC
        a: GET k
        b^ EVAL while\strue\sdo\send 0
        * busy
        c: FUNCTION KILL
        c: # FUNCTION STATS
        c: SCRIPT KILL
        b<
        * free
        a: FUNCTION FLUSH
        a: CONFIG SET busy-reply-threshold 5000
        ",
    ),
    (
        "what took long",
        r"
        a: CONFIG SET latency-monitor-threshold 300 slowlog-log-slower-than 300000
        a: LATENCY RESET
        a: SLOWLOG RESET
        a: DEBUG SLEEP 0.35
        a: SLOWLOG LEN
        a: # SLOWLOG GET
        B: # SLOWLOG GET 1
        a: SLOWLOG GET 0
        a: SLOWLOG GET -2
        a: SLOWLOG GET abc
        a: ~ SLOWLOG HELP
        a: # LATENCY LATEST
        B: # LATENCY HISTORY command
        a: LATENCY HISTORY nosuch
        a: LATENCY GRAPH nosuch
        a: # LATENCY GRAPH command
        a: # LATENCY DOCTOR
        a: LATENCY RESET command nosuch
        a: LATENCY LATEST
        a: ~ LATENCY HELP
        a: CONFIG RESETSTAT
        a: SET k v
        B: # LATENCY HISTOGRAM set
        a: LATENCY HISTOGRAM nosuch
        a: CONFIG SET latency-monitor-threshold 0 slowlog-log-slower-than 10000
        ",
    ),
    (
        "how keys are kept",
        r"
        a: SET k v
        a: OBJECT FREQ k
        a: # OBJECT IDLETIME k
        a: OBJECT ENCODING k
        a: OBJECT REFCOUNT k
        a: CONFIG SET maxmemory-policy allkeys-lfu
        a: SET l v
        a: OBJECT FREQ l
        a: OBJECT IDLETIME l
        a: OBJECT FREQ none
        a: OBJECT ENCODING none
        a: OBJECT NOSUCH k
        a: OBJECT ENCODING
        a: CONFIG SET maxmemory-policy noeviction
        ",
    ),
    (
        "what is known of commands",
        r"
        a: COMMAND COUNT
        a: ~ COMMAND
        A: ~ COMMAND
        a: ~ COMMAND DOCS
        A: ~ COMMAND DOCS
        a: ~ COMMAND DOCS get client nosuch
        a: ~ COMMAND INFO get client|list config|set nosuch
        A: ~ COMMAND INFO xadd eval
        a: ~ COMMAND LIST
        a: ~ COMMAND LIST FILTERBY ACLCAT read
        a: ~ COMMAND LIST FILTERBY MODULE none
        a: ~ COMMAND LIST FILTERBY PATTERN z*
        a: COMMAND LIST FILTERBY NONSENSE x
        a: COMMAND GETKEYS EVAL x 2 a b c
        a: COMMAND GETKEYS PING
        a: COMMAND GETKEYS NOSUCH
        A: COMMAND GETKEYSANDFLAGS SET k v GET
        a: COMMAND GETKEYSANDFLAGS XREAD STREAMS a b 0 0
        a: ~ COMMAND HELP
        ",
    ),
    (
        "a watch from afar, and a transaction within a transaction",
        r"
        a: WATCH k
        b: SET k 1
        a: MULTI
        a: MULTI
        a: WATCH l
        a: GET k
        a: EXEC
        A: WATCH k l
        A: WATCH m
        A: UNWATCH
        b: SET k 2
        A: MULTI
        A: UNWATCH
        A: GET k
        A: EXEC
        a: WATCH k
        a: RESET
        b: SET k 3
        a: MULTI
        a: GET k
        a: EXEC
        a: WATCH k
        b: FLUSHALL
        a: MULTI
        a: EXEC
        a: WATCH k
        b: SWAPDB 0 1
        a: MULTI
        a: EXEC
        ",
    ),
    (
        "every type of the protocol",
        r"
        a: DEBUG PROTOCOL attrib
        A: DEBUG PROTOCOL string
        A: DEBUG PROTOCOL double
        A: DEBUG PROTOCOL null
        A: DEBUG PROTOCOL set
        A: DEBUG PROTOCOL map
        A: DEBUG PROTOCOL attrib
        A: DEBUG PROTOCOL push
        A<
        A: DEBUG PROTOCOL verbatim
        A: DEBUG PROTOCOL true
        A: DEBUG PROTOCOL false
        A: DEBUG PROTOCOL bignum
        A: DEBUG PROTOCOL nonsense
        A: PING
        ",
    ),
    (
        "MONITOR, left by RESET",
        r"
        a: CLIENT ID = a
        a: MONITOR
        b: SET k 'v'
        a< #
        b: EVAL return{redis.call('GET',KEYS[1])} 1 k
        a< #
        a< #
        b: SELECT 3
        a< #
        a^ MONITOR
        a: RESET
        b: SET k w
        a: PING
        a: CLIENT ID = again
        * is $a $again
        ",
    ),
    (
        "what was denied",
        r"
        a: ACL SETUSER u on >pw ~k* +get +acl|whoami +multi +exec
        a: ACL LOG RESET
        b: AUTH u pw
        b: GET x
        b: SET k v
        b: MULTI
        b: GET x
        b: GET k
        b: EXEC
        b: ACL WHOAMI
        c: AUTH u wrong
        a: #@ ACL LOG
        a: #@ ACL LOG 1
        a: ACL LOG abc
        a: ACL DRYRUN u GET x
        a: ACL DRYRUN u GET k
        a: ACL LOG RESET
        a: ACL LOG
        a: ACL DELUSER u
        b!
        ",
    ),
    (
        "a script under the debugger",
        r"
        b: SCRIPT DEBUG SYNC
        b: EVAL redis.call('SET','k','v')\nreturn\s1 0
        b: s
        b: c
        b!
        a: SCRIPT DEBUG YES
        a: EVAL local\sx=1\nreturn\sx+KEYS[1] 1 41
        a: s
        a: p
        a: r GET k
        a: c
        a!
        c: GET k
        c: SCRIPT DEBUG NONSENSE
        c: SCRIPT DEBUG NO
        c: EVAL return\s1 0
        ",
    ),
];
