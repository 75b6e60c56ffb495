//! Which connection a command may go on, and what a session has to do itself.

/// Which connection a command may go on. Everything but [`Route::Lane`] keeps a connection from being shared meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A lane: exactly one reply, no connection state read or written, answered at once.
    Lane,
    /// A lane where one element is asked for; as [`Route::Borrow`] with a count behind the key, which may be any number:
    /// elements repeat.
    LaneIfOne,
    /// As [`Route::Lane`], but only with its like: a script may run for so long that the node answers others meanwhile.
    ScriptLane,
    /// A lane, unless [`Spec::blocking`](super::Spec::blocking) says that a BLOCK option is there: then as [`Route::Blocking`].
    LaneUnlessBlocking,
    /// The session's home connection, as it may wait there for long.
    Blocking,
    /// A private connection for as long as it takes, and back to the pool after: slow, or its reply is large, or it must
    /// not wait behind other commands, or the server may close the connection over it. Leaves no state.
    Borrow,
    /// As [`Route::Borrow`], in whichever database: it is about the server, and must get through to one that is busy.
    BorrowAnywhere,
    /// A private connection, raw and for life: it changes what the connection is, or answers in a way of its own.
    Taint,
    /// The session's home connection, for life: about this very connection, or about others by their ids.
    Home,
    /// The session acts on it itself, knowing what the verb means.
    Session(Verb),
    /// The session is closed without a reply: an HTTP request that a browser was tricked into sending.
    Close,
}

impl Route {
    /// Whether a command changes something of the connection that it comes on.
    pub const fn changes_connection(self) -> bool {
        matches!(self, Self::Home | Self::Taint) || matches!(self, Self::Session(verb) if verb.changes_connection())
    }
}

/// What a session has to do itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// HELLO: the RESP version, perhaps a user and a name.
    Hello,
    /// AUTH.
    Auth,
    /// SELECT.
    Select,
    /// RESET: back to a new connection's state.
    Reset,
    /// QUIT.
    Quit,
    /// MULTI.
    Multi,
    /// EXEC.
    Exec,
    /// DISCARD.
    Discard,
    /// WATCH: its keys are read, not written.
    Watch,
    /// UNWATCH.
    Unwatch,
    /// CLIENT REPLY ON, OFF, SKIP.
    ClientReply,
    /// CLIENT SETNAME.
    ClientSetName,
    /// CLIENT GETNAME.
    ClientGetName,
    /// CLIENT SETINFO.
    ClientSetInfo,
    /// CLIENT KILL.
    ClientKill,
    /// CLIENT NO-TOUCH: about the home connection, and about reads.
    ClientNoTouch,
    /// CLIENT PAUSE.
    ClientPause,
    /// CLIENT UNPAUSE.
    ClientUnpause,
    /// WAIT and WAITAOF.
    Wait,
    /// All six kinds of subscribing and unsubscribing.
    Subscribe,
    /// MONITOR.
    Monitor,
    /// SYNC and PSYNC.
    Sync,
    /// ACL commands that may take a right away.
    AclChange,
    /// CONFIG SET: where it sets the password as [`Verb::AclChange`], else a command like another on a lane.
    ConfigSet,
    /// SWAPDB, which tells no tracked connection.
    SwapDb,
    /// REPLICAOF, FAILOVER and their like: what the server is afterwards shows at the next fence.
    RoleChange,
    /// CREMA ADVISE, and so on: crema's own.
    CremaAdvise,
    /// CREMA BIGKEYS.
    CremaBigKeys,
    /// CREMA CLIENTS.
    CremaClients,
    /// CREMA EXPLAIN.
    CremaExplain,
    /// CREMA AUDIT.
    CremaAudit,
    /// CREMA HELP.
    CremaHelp,
    /// CREMA HOTKEYS.
    CremaHotKeys,
    /// CREMA INVALIDATE.
    CremaInvalidate,
    /// CREMA MODE.
    CremaMode,
    /// CREMA REFRESH.
    CremaRefresh,
    /// CREMA RELOAD.
    CremaReload,
    /// CREMA SLOWLOG.
    CremaSlowLog,
    /// CREMA STATUS.
    CremaStatus,
}

/// What a command of [`Verb::Subscribe`] begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// To what.
    pub kind: SubscriptionKind,
    /// It begins.
    pub begins: bool,
}

/// To what a client subscribes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionKind {
    /// Channels by name.
    Channels,
    /// Channels by patterns.
    Patterns,
    /// Channels that belong to a slot.
    Shards,
}

impl Verb {
    /// Whether it changes something of the connection that it comes on.
    pub const fn changes_connection(self) -> bool {
        use Verb as V;
        !matches!(self, V::SwapDb | V::Wait | V::AclChange | V::RoleChange | V::ClientPause | V::ClientUnpause)
    }
}
