//! The command table: what crema knows about every command of Redis and Valkey, one row a command, and how to find the row.
//!
//! Owns the rows (`table`), the way from a request to its row (`index`), and the way from a request to its keys (`keys`).
//! Pure data: no I/O, no clock, no allocation, and no opinion about sessions, lanes or the cache beyond what a row says.
//! No other place may spell a command's name; whoever needs to know something about a command asks its [`Spec`].
//!
//! The session looks a request up once, as it takes it up, and decides by [`Route`]; the proxy goes by [`Effect`],
//! [`Caching`] and [`Spec::keys`]; the metrics by [`Class`] and [`Spec::id`].

use std::sync::LazyLock;
use std::time::Duration;

use crate::resp::{Request, Twin};

mod alters;
mod categories;
mod denied;
mod flags;
mod index;
mod keys;
mod merge;
mod route;
mod slot;
mod spread;
mod table;

pub(crate) use alters::{Alters, may_change_untold};
pub use categories::Categories;
pub(crate) use denied::{DenialMistake, Denied};
pub use flags::CommandFlags;
pub(crate) use keys::FirstKey;
pub use keys::{KeySpec, Keys};
pub(crate) use merge::in_order;
pub use merge::{Merge, NodeReply};
pub use route::{Route, Subscription, SubscriptionKind, Verb};
pub use slot::HashSlot;
pub use spread::{Portrait, Spread};

/// The row of `req`'s command, upper and lower case alike; with a subcommand, the subcommand's row (`config|set`).
///
/// None for a name that is not in the table and for an unknown subcommand of a known command: take [`unknown`] for it.
/// A command that has subcommands, sent without one, is found under its own name. Costs a few nanoseconds.
pub fn lookup(req: Request<'_>) -> Option<&'static Spec> {
    let spec = index::find(None, req.arg(0))?;
    if !spec.container || req.argc() < 2 {
        return Some(spec);
    }
    index::find(Some(spec), req.arg(1))
}

/// The row of the command of that name, subcommands aside.
pub(crate) fn named(name: &[u8]) -> Option<&'static Spec> {
    index::find(None, name)
}

/// The row of `req`, whose first argument is another name of `spec`: that of a subcommand, where it is one's.
pub(crate) fn renamed(spec: &'static Spec, req: Request<'_>) -> &'static Spec {
    let subcommand = (spec.container && req.argc() > 1).then(|| index::find(Some(spec), req.arg(1)));
    subcommand.flatten().unwrap_or(spec)
}

/// The row that stands for every command [`lookup`] does not find: it may be a module's or a newer server's, or `SWAPDB` under
/// another name, so it may write any key and tell nobody, answer more than once, and leave any state behind on its connection.
pub fn unknown() -> &'static Spec {
    &table::ROWS[table::ROWS.len() - 1]
}

/// What [`unknown`] is for, where the server says that the command names the keys that it writes, or that it is no write: then Redis
/// tells of what it changes.
pub fn unknown_told() -> &'static Spec {
    static TOLD: LazyLock<Spec> = LazyLock::new(|| Spec { keys: KeySpec::None, ..*unknown() });
    &TOLD
}

/// What [`unknown`] is for, where the server says that the command changes no key, or that it does not know it either.
pub fn unknown_read() -> &'static Spec {
    static READ: LazyLock<Spec> = LazyLock::new(|| Spec { effect: Effect::Read, keys: KeySpec::None, ..*unknown() });
    &READ
}

/// Whether a command of this [`Spec::arity`] takes so many arguments, names included.
#[inline]
pub fn fits(arity: i16, argc: usize) -> bool {
    let bound = usize::from(arity.unsigned_abs());
    if arity < 0 { argc >= bound } else { argc == bound }
}

/// Whether it is a subcommand of `CREMA`, be there one of that name or not.
pub fn is_own(req: Request<'_>) -> bool {
    index::find(None, req.arg(0)).is_some_and(Spec::is_own)
}

/// Whether the command is known to have subcommands, so that its second argument belongs to its name.
pub fn is_container(req: Request<'_>) -> bool {
    req.argc() > 1 && has_subcommands(req)
}

/// The same of a request of which there is only the first argument yet.
pub fn has_subcommands(req: Request<'_>) -> bool {
    index::find(None, req.arg(0)).is_some_and(|spec| spec.container)
}

/// The row with this [`Spec::id`].
///
/// # Panics
/// On a number that is no row's.
pub fn by_id(id: u16) -> &'static Spec {
    &all()[usize::from(id)]
}

/// All rows, each at the place of its [`Spec::id`], the one of [`unknown`] included.
pub fn all() -> &'static [Spec] {
    &table::ROWS
}

/// One row: a command, or one subcommand of a command.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The row's number: dense, from 0, the same for as long as the process lives and no longer.
    pub id: u16,
    /// The name in lower case as Redis writes it: `get`, `config|set`.
    pub name: &'static str,
    /// As in Redis: the exact number of arguments, names included, or, negative, the smallest. Where versions differ, the widest.
    pub arity: i16,
    /// What Redis says of the command, as far as crema asks.
    pub flags: CommandFlags,
    /// By which categories Redis's ACL rules name it.
    pub categories: Categories,
    /// Where its keys are. Shard channels count as keys here, since they hash to a slot as keys do.
    pub keys: KeySpec,
    /// What it does to keys.
    pub effect: Effect,
    /// Which connection it may go on.
    pub route: Route,
    /// Whether its reply may be kept in L1, and what that takes.
    pub cache: Caching,
    /// To which nodes of a cluster it goes.
    pub spread: Spread,
    /// The group it belongs to.
    pub class: Class,
    /// Whether the rows that follow are subcommands of this one.
    container: bool,
}

impl Spec {
    /// The keys that `req` names, in the order of its arguments (a destination may come last). Of malformed arguments,
    /// which Redis refuses, it yields what is there. For a write it yields every key that can be written, perhaps more.
    #[inline]
    pub fn keys<'a>(&self, req: Request<'a>) -> Keys<'a> {
        Keys::new(self.keys, req)
    }

    /// Whether the reply to `req` may tell of keys that it does not name: it looks at the key space, runs a script, or sorts by
    /// what is in other keys. What an opaque write reads is not asked for here: L1 waits for all that it may have done.
    pub fn reads_unnamed(&self, req: Request<'_>) -> bool {
        match self.effect {
            Effect::Read if self.keys == KeySpec::None || self.class == Class::Script => true,
            Effect::Read | Effect::Write => self.keys == KeySpec::Sort && keys::has_patterns(req),
            Effect::Opaque | Effect::None => false,
        }
    }

    /// Whether `req` reads what it names and nothing else, so that a replica of their master gives the answer that the master gave when
    /// it had the same. What is taken apart by slots, and is not for L1, is for the node itself: TOUCH.
    pub fn suits_replica(&self, req: Request<'_>) -> bool {
        let goes = match self.spread {
            Spread::OneNode => true,
            Spread::Slots(_) => self.cacheable(),
            _ => false,
        };
        goes && self.effect == Effect::Read
            && self.keys != KeySpec::None
            && self.flags.contains(CommandFlags::READONLY)
            && self.route != Route::ScriptLane
            && self.on_lane(req)
            && !self.reads_unnamed(req)
    }

    /// Whether it is `CREMA` or a subcommand of it.
    pub fn is_own(&self) -> bool {
        self.name == "crema" || self.name.starts_with("crema|")
    }

    /// Whether `req` brings a user and a password.
    pub fn gives_login(&self, req: Request<'_>) -> bool {
        match self.route {
            Route::Session(Verb::Auth) => self.arity_ok(req.argc()),
            Route::Session(Verb::Hello) => req.args().any(|arg| arg.eq_ignore_ascii_case(b"AUTH")),
            _ => false,
        }
    }

    /// What it begins or ends, of [`Verb::Subscribe`].
    pub fn subscription(&self) -> Option<Subscription> {
        if self.route != Route::Session(Verb::Subscribe) {
            return None;
        }
        let begins = !self.name.contains("un");
        let kind = match self.name.as_bytes()[0] {
            b'p' => SubscriptionKind::Patterns,
            _ if self.keys != KeySpec::None => SubscriptionKind::Shards,
            _ => SubscriptionKind::Channels,
        };
        Some(Subscription { kind, begins })
    }

    /// Whether `req` may make its connection wait: always for [`Route::Blocking`], with a BLOCK option for
    /// [`Route::LaneUnlessBlocking`]. Inside MULTI nothing blocks: that is the caller's to know.
    pub fn blocking(&self, req: Request<'_>) -> bool {
        match self.route {
            Route::Blocking => true,
            Route::LaneUnlessBlocking => keys::has_block_option(req),
            _ => false,
        }
    }

    /// Writes to `out` what `req` is to be where it has waited for so long: it waits for the rest of its time. False where it does not
    /// wait, or waits for ever.
    pub fn waits_on(&self, req: Request<'_>, waited: Duration, out: &mut Vec<u8>) -> bool {
        self.blocking(req) && keys::waits_on(self.keys, req, waited, out)
    }

    /// Where in `req`, which waits for what is new in streams, an id is `$`, the end of its stream, and that stream's key.
    pub fn from_ends<'a>(&self, req: Request<'a>) -> impl Iterator<Item = (usize, &'a [u8])> + use<'a> {
        let waits = self.effect == Effect::Read && self.keys == KeySpec::AfterStreams && self.blocking(req);
        waits.then(|| keys::from_ends(req)).into_iter().flatten()
    }

    /// Whether `req` may go on a lane, one for scripts included.
    pub fn on_lane(&self, req: Request<'_>) -> bool {
        match self.route {
            Route::Lane | Route::ScriptLane => true,
            Route::LaneIfOne => req.argc() <= 2,
            Route::LaneUnlessBlocking => !self.blocking(req),
            _ => false,
        }
    }

    /// Whether Redis takes this many arguments, names included. A server of another version may see it differently:
    /// good for deciding what a request can do, never for answering it.
    #[inline]
    pub fn arity_ok(&self, argc: usize) -> bool {
        fits(self.arity, argc)
    }

    /// Whether the write `req` is answered in a transaction as outside of one: it is on no connection of its own, or is a flush.
    /// In a transaction, a server that is `full` refuses all commands, those included that it takes otherwise.
    pub fn fits_transaction(&self, req: Request<'_>, full: bool) -> bool {
        (self.on_lane(req) || self.flushes() || self.swaps()) && (!full || self.flags.contains(CommandFlags::DENYOOM))
    }

    /// Whether the command empties a whole database: a write to all keys, and not to some that cannot be known.
    pub fn flushes(&self) -> bool {
        self.effect == Effect::Opaque && self.keys == KeySpec::None && self.class == Class::Server && !self.swaps()
    }

    fn swaps(&self) -> bool {
        self.route == Route::Session(Verb::SwapDb)
    }

    /// Whether some reply to this command may be kept in L1.
    pub fn cacheable(&self) -> bool {
        self.cache != Caching::No
    }

    /// Whether the reply to `req` may be kept in L1, as far as its arguments tell.
    #[inline]
    pub fn keeps(&self, req: Request<'_>) -> bool {
        let argc = req.argc();
        self.cacheable() && self.arity_ok(argc) && (self.cache != Caching::OneKey || argc == 2)
    }

    /// Whether with so many arguments it reads values of strings, one a key, and nothing else: GET and MGET.
    pub fn reads_values(&self, argc: usize) -> bool {
        self.arity_ok(argc) && (self.cache == Caching::Each || self.id == get().id)
    }

    /// The read of one key that a [`Caching::Each`] command does for each of its keys.
    pub fn each(&self) -> Option<&'static Spec> {
        (self.cache == Caching::Each).then(get)
    }
}

/// The row of the read of one string.
fn get() -> &'static Spec {
    static GET: LazyLock<&'static Spec> = LazyLock::new(|| index::find(None, b"get").expect("a row of the table"));
    *GET
}

/// What a command does to keys. Decides what happens to L1 when it is sent and when it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It reads keys, those of [`Spec::keys`] or, without any, the key space, and changes none.
    Read,
    /// It may change the keys of [`Spec::keys`], and no others.
    Write,
    /// It may change keys that cannot be known from its arguments: scripts, flushes, unknown commands.
    Opaque,
    /// It touches no key.
    None,
}

/// Whether a reply may be kept in L1, and how the reply for RESP2 sessions follows from the one that the ear was given,
/// which speaks RESP3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Never: not deterministic, a time to live of its own, or more than one key.
    No,
    /// A deterministic read of the one key at argument 1, in L1 under its whole argument list. RESP2 has the same by the plain
    /// rules, a null being an absent string.
    Plain,
    /// As [`Caching::Plain`], but a null is an absent array in RESP2: where GEOPOS knows no member, XRANGE with COUNT 0.
    NullArrays,
    /// As [`Caching::Plain`], and with an option behind the member as [`Caching::NullArrays`]: ZRANK WITHSCORE.
    Rank,
    /// As [`Caching::Plain`], but pairs stand flat in RESP2: the ranges of sorted sets with WITHSCORES.
    Pairs,
    /// As [`Caching::Plain`] with one key, and never with more: EXISTS.
    OneKey,
    /// Read key by key from what [`Spec::each`] left in L1, all of them or none: MGET.
    Each,
    /// As [`Caching::Plain`], of the hash fields from argument 2 on, each of which may have a time to live of its own.
    Fields,
    /// As [`Caching::Plain`], of a whole hash: its fields' times to live do not show, so not where the server knows such.
    WholeHash,
    /// As [`Caching::Plain`], but no rule tells the RESP2 reply: for RESP3 sessions only. JSON.TYPE.
    Resp3,
}

impl Caching {
    /// How RESP2's reply to a request of so many arguments follows from RESP3's; `None` where it does not.
    pub const fn twin(self, argc: usize) -> Option<Twin> {
        match self {
            Caching::No | Caching::Resp3 => None,
            Caching::Plain | Caching::OneKey | Caching::Each | Caching::Fields | Caching::WholeHash => {
                Some(Twin::Plain)
            }
            Caching::Rank => Some(if argc > 3 { Twin::NullArrays } else { Twin::Plain }),
            Caching::NullArrays => Some(Twin::NullArrays),
            Caching::Pairs => Some(Twin::FlatPairs),
        }
    }
}

/// The group a command belongs to: a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Strings.
    String,
    /// Hashes.
    Hash,
    /// Lists.
    List,
    /// Sets.
    Set,
    /// Sorted sets.
    SortedSet,
    /// Streams.
    Stream,
    /// Keys of any type.
    Key,
    /// Geospatial indexes.
    Geo,
    /// Bitmaps.
    Bitmap,
    /// `HyperLogLog`.
    HyperLogLog,
    /// Pub/Sub.
    PubSub,
    /// Transactions.
    Transaction,
    /// Scripts and functions.
    Script,
    /// The connection itself.
    Connection,
    /// The server.
    Server,
    /// The cluster.
    Cluster,
    /// Modules, and every command that is not in the table.
    Module,
}

impl Class {
    /// Every class, in the order of its number.
    pub const ALL: [Self; 17] = [
        Self::String,
        Self::Hash,
        Self::List,
        Self::Set,
        Self::SortedSet,
        Self::Stream,
        Self::Key,
        Self::Geo,
        Self::Bitmap,
        Self::HyperLogLog,
        Self::PubSub,
        Self::Transaction,
        Self::Script,
        Self::Connection,
        Self::Server,
        Self::Cluster,
        Self::Module,
    ];

    /// The label: lower case, words joined by `_`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::String => "string",
            Class::Hash => "hash",
            Class::List => "list",
            Class::Set => "set",
            Class::SortedSet => "sorted_set",
            Class::Stream => "stream",
            Class::Key => "key",
            Class::Geo => "geo",
            Class::Bitmap => "bitmap",
            Class::HyperLogLog => "hyperloglog",
            Class::PubSub => "pubsub",
            Class::Transaction => "transaction",
            Class::Script => "script",
            Class::Connection => "connection",
            Class::Server => "server",
            Class::Cluster => "cluster",
            Class::Module => "module",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Limits, Parser};

    fn found(line: &str) -> Option<&'static str> {
        let mut parser = Parser::new();
        parser.parse(line.as_bytes(), &Limits::authenticated()).expect("a valid line");
        lookup(parser.request(line.as_bytes())).map(|spec| spec.name)
    }

    #[test]
    fn subcommands_have_rows_of_their_own() {
        assert_eq!(found("GeT key\r\n"), Some("get"));
        assert_eq!(found("config Set maxmemory 0\r\n"), Some("config|set"));
        assert_eq!(found("CONFIG\r\n"), Some("config"));
        assert_eq!(found("COMMAND\r\n"), Some("command"));
        assert_eq!(found("CONFIG NOTHING\r\n"), None);
        assert_eq!(found("CONFIG ''\r\n"), None);
        assert_eq!(found("GET set\r\n"), Some("get"), "no container: the argument is a key");
        assert_eq!(found("DEBUG SLEEP 0\r\n"), Some("debug"));
    }

    #[test]
    fn subscriptions_begin_and_end() {
        use SubscriptionKind::{Channels, Patterns, Shards};
        let of = |name: &str| named(name.as_bytes()).and_then(Spec::subscription);
        for (name, kind, begins) in [
            ("subscribe", Channels, true),
            ("unsubscribe", Channels, false),
            ("psubscribe", Patterns, true),
            ("punsubscribe", Patterns, false),
            ("ssubscribe", Shards, true),
            ("sunsubscribe", Shards, false),
        ] {
            assert_eq!(of(name), Some(Subscription { kind, begins }), "{name}");
        }
        assert_eq!((of("publish"), of("quit")), (None, None));
    }

    #[test]
    fn a_replica_is_asked_what_it_can_answer_as_its_master_did() {
        let suits = |line: &str| {
            let mut parser = Parser::new();
            parser.parse(format!("{line}\r\n").as_bytes(), &Limits::authenticated()).expect("a valid line");
            let raw = format!("{line}\r\n");
            let request = parser.request(raw.as_bytes());
            lookup(request).expect("a row").suits_replica(request)
        };
        for line in [
            "GET k",
            "MGET a b",
            "XRANGE s - +",
            "HGETALL h",
            "EXISTS a b",
            "TTL k",
            "SORT_RO l",
            "XREAD STREAMS s 0",
            "SUNION a b",
        ] {
            assert!(suits(line), "{line}");
        }
        for line in [
            "SET k v",
            "GETEX k",
            "DBSIZE",
            "SCAN 0",
            "HSCAN h 0",
            "TOUCH k",
            "OBJECT IDLETIME k",
            "XINFO STREAM s",
            "DUMP k",
            "MEMORY USAGE k",
            "RANDOMKEY",
            "PING",
            "EVAL_RO x 1 k",
            "SORT_RO l BY w_*",
            "XREAD BLOCK 0 STREAMS s 0",
            "PFCOUNT k",
            "XREADGROUP GROUP g c STREAMS s >",
            "INFO",
        ] {
            assert!(!suits(line), "{line}");
        }
    }

    #[test]
    fn what_nobody_knows_is_not_found() {
        assert_eq!(found("FT.SEARCH index *\r\n"), None);
        assert_eq!(found("unknown\r\n"), None);
        assert_eq!(found("''\r\n"), None);
        assert_eq!((unknown().effect, unknown().route), (Effect::Opaque, Route::Taint));
        assert_eq!(by_id(unknown().id).name, unknown().name);
    }

    #[test]
    fn arity_is_exact_or_a_minimum() {
        let exact = Spec { arity: 2, ..*unknown() };
        let minimum = Spec { arity: -2, ..*unknown() };
        assert_eq!([1, 2, 3].map(|argc| exact.arity_ok(argc)), [false, true, false]);
        assert_eq!([1, 2, 3].map(|argc| minimum.arity_ok(argc)), [false, true, true]);
    }
}
