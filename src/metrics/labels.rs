//! Why things went the way they did: closed sets of names.
//!
//! A name here is at once the label of a metric, a key of the status JSON and the word that the
//! documentation uses; the sentence beside it is the only description there is. So a reason that
//! is not in this file does not exist, and none is named twice.

use crate::error::Error;

/// Declares an enum whose variants have a label and a sentence.
macro_rules! labels {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $label:literal: $about:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = $about] #[allow(clippy::doc_markdown, reason = "operators are shown the sentence too")] $variant,)+
        }

        impl $name {
            /// All of them, in the order in which they are shown; the index is `self as usize`.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant),+];

            /// Their labels, in the same order.
            pub const LABELS: [&'static str; Self::COUNT] = [$($label),+];

            /// How many there are.
            pub const COUNT: usize = [$($label),+].len();

            /// The label: what metrics, status and documentation call it.
            pub const fn as_str(self) -> &'static str {
                Self::LABELS[self as usize]
            }

            /// One sentence that says what it means.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => $about),+ }
            }
        }
    };
}

labels! {
    /// What became of a request. Every request has exactly one, counted once its reply is whole.
    Outcome {
        Hit = "hit": "Answered from L1.",
        Joined = "joined": "Answered by joining another session's read of the same key that was under way.",
        Lead = "lead": "A read that L1 may keep, sent to Redis; others may join it.",
        NotCached = "not_cached": "A read that L1 does not keep, by its row of the command table.",
        OtherVersion = "other_version": "A read that L1 keeps for sessions of the other RESP version only, sent to Redis.",
        BehindWrite = "behind_write": "A read sent to Redis behind an unanswered write of its own session.",
        BehindRead = "behind_read": "A read sent to Redis behind an unanswered read of the same key by its own session.",
        Blind = "blind": "A read sent to Redis because no lease was in force: L1 could not prove itself fresh.",
        Pinned = "pinned": "A command within MULTI or WATCH, or on a connection that the session has for itself.",
        Disabled = "disabled": "A read that L1 was told not to keep: it is switched off, or a rule says never.",
        WouldHit = "would_hit": "A read that L1 would have answered and, in mode observe, Redis did.",
        Passed = "passed": "A read that L1 is not asked for in mode pass, sent to Redis.",
        Write = "write": "A command that changes the keys it names.",
        Opaque = "opaque": "A command that may change keys it does not name, such as a script.",
        Forwarded = "forwarded": "A command that neither reads nor writes keys, sent to Redis.",
        Session = "session": "Answered by crema itself, from what it knows of the session.",
        Refused = "refused": "Answered with an error of crema's own, or not at all: bad protocol, a limit, or Redis away.",
    }
}

impl Outcome {
    /// Whether L1 was asked, or would have been but for the moment: the whole of which
    /// [`Outcome::Hit`] is the part in every hit ratio that crema shows.
    pub const fn is_lookup(self) -> bool {
        matches!(
            self,
            Self::Hit | Self::Joined | Self::Lead | Self::BehindWrite | Self::BehindRead | Self::Blind | Self::WouldHit
        )
    }

    /// Whether Redis saw nothing of the request.
    pub const fn is_spared(self) -> bool {
        matches!(self, Self::Hit | Self::Joined | Self::Session | Self::Refused)
    }
}

labels! {
    /// Why a request failed at crema, of those with the outcome [`Outcome::Refused`].
    Failure {
        Unreachable = "unreachable": "No connection to Redis could be made.",
        Handshake = "handshake": "Redis refused the connection, its user or its database.",
        Lost = "lost": "The connection to Redis ended before the reply was whole.",
        Timeout = "timeout": "Redis gave no answer in time.",
        MaxUpstream = "max_upstream": "As many connections to Redis were open as there may be.",
        Protocol = "protocol": "The client broke the protocol.",
        Denied = "denied": "A command that `deny` names.",
        Login = "login": "No login, or a wrong one, where crema keeps the passwords.",
        CrossSlot = "cross_slot": "In a cluster, a command that cannot be at the node where it would have to be.",
        Command = "command": "A CREMA subcommand that there is not, that is malformed, or that failed.",
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        match error {
            Error::Unreachable { .. }
            | Error::Listen { .. }
            | Error::Certificates { .. }
            | Error::Password { .. }
            | Error::Worker { .. }
            | Error::TakeOver { .. }
            | Error::Inherited(_) => Self::Unreachable,
            Error::Refused { .. } | Error::LoginRefused { .. } => Self::Handshake,
            Error::Lost { .. } => Self::Lost,
            Error::Timeout { .. } => Self::Timeout,
            Error::UpstreamLimit { .. } => Self::MaxUpstream,
        }
    }
}

labels! {
    /// Why a key that was to be promoted was not.
    DropReason {
        EarBehind = "ear_behind": "The ear had as many fills to do as it may.",
        NoEar = "no_ear": "There were as many ears as there may be, and the session's user had none.",
        Refused = "refused": "The session's user may not do what an ear needs.",
        NoCoherence = "no_coherence": "Nobody tells of changes, or it is not known yet who does.",
        NoPrefix = "no_prefix": "In broadcast mode, a key with none of the prefixes.",
        TooLarge = "too_large": "The answer was larger than may be kept.",
        ErrorReply = "error_reply": "Redis had answered the read with an error.",
        Redirected = "redirected": "The read was carried out at another node of a cluster than the one that it was sent to.",
        FieldTtls = "field_ttls": "A whole hash, which does not show when its fields expire, on a server where they can.",
        FirstKnock = "first_knock": "L1 was full and the key had not been chosen before: the next time it is let in.",
    }
}

labels! {
    /// Why a hit that the audit had chosen was not compared with Redis.
    AuditSkip {
        Behind = "behind": "The ear had as many hits to read again as it may, or its reply is larger than what it may keep by now.",
        Changed = "changed": "The key was changed, or its time was over, before the comparison was done.",
        Refused = "refused": "Redis refused the read: the user may not read the key any more, or the key is elsewhere.",
        EarLost = "ear_lost": "The ear's connection ended meanwhile.",
    }
}

labels! {
    /// In what a hit was wrong, as the audit has found.
    AuditBreach {
        Value = "value": "Redis answered otherwise, though nothing had told of a change (point 5 of the contract).",
        OwnWrite = "own_write": "It was in memory before a write was sent that had been acknowledged here when it was asked for (point 3).",
        Change = "change": "It was in memory before a change that Redis had told of when it was asked for (point 4).",
        Lease = "lease": "Nothing had shown that memory was as fresh as max_staleness says (point 4).",
    }
}

labels! {
    /// Why a hit proves nothing: Redis answers otherwise, or it may be older than it should be.
    AuditDoubt {
        Untold = "untold": "Coherence is by the channel, and nobody tells of changes made past it.",
        Swaps = "swaps": "The server does not say how often databases were swapped, which it tells nobody of.",
        Absent = "absent": "In a cluster, the key may have been missing, and nobody tells of a missing key whose slot moves.",
        Many = "many": "As many differences were being looked into as may be.",
        UnderWay = "under_way": "It had to be void, for it came into memory while a write was under way or a change was being told, and may yet have been right.",
        Opaque = "opaque": "It came into memory before a write was acknowledged whose keys nobody knows, and what that changed was not all heard of.",
    }
}

labels! {
    /// Why a command was sent to a node of a cluster and not carried out there, so that it goes to another, or again.
    RedirectKind {
        Moved = "moved": "Another node serves its slot.",
        Ask = "ask": "Its slot is moving, and its keys are at the other node.",
        TryAgain = "tryagain": "Its slot is moving, and its keys are at both nodes.",
        ClusterDown = "clusterdown": "Nobody serves its slot, or the node knows too little of the others.",
        ReadOnly = "readonly": "The node takes no writes: it is a replica now.",
        Lost = "lost": "The node was not there, or its connection ended.",
    }
}

labels! {
    /// What became of a fill that was sent.
    FillOutcome {
        Stored = "stored": "The value entered L1.",
        Doomed = "doomed": "The key changed while the fill was under way, and its value was dropped.",
        Retried = "retried": "The key changed while the fill was under way, and the fill was sent once more.",
        Expired = "expired": "The key, or a hash field that was read, expired before its value came.",
        Refused = "refused": "Redis answered with an error, or the value was larger than may be kept.",
    }
}

labels! {
    /// What came of a key's load from its origin, of those who wanted it.
    LoadResult {
        Loaded = "loaded": "The origin had the value.",
        Joined = "joined": "Another session's load of the same key was under way, and its answer good.",
        Found = "found": "Redis had the value by then: another crema had loaded it, or somebody wrote it.",
        Missing = "missing": "The origin said that there is no value.",
        Negative = "negative": "The fleet knew already that the origin has no value.",
        Stale = "stale": "The load failed, and the value of before stood in.",
        Failed = "failed": "The load failed, and the client got an error.",
        Refreshed = "refreshed": "A value was loaded anew before its end.",
        RefreshFailed = "refresh_failed": "A value was to be loaded anew before its end, and its origin failed.",
    }
}

labels! {
    /// Why an ear's epoch was bumped, which empties its part of L1 at once.
    EpochReason {
        Flush = "flush": "Redis told of a flush.",
        Turn = "turn": "Another server stands behind the upstream's address.",
        EarLost = "ear_lost": "The ear's connection was lost.",
        SwapDb = "swapdb": "Databases were swapped, or a write was done of which Redis may tell nobody.",
        Pattern = "pattern": "A message on the channel named a pattern.",
        Untold = "untold": "A write may have been done and not been told of to the fleet.",
        FenceLate = "fence_late": "The fence of an opaque write was not back when the lease ended.",
        Channel = "channel": "The fleet's channel is listened to again: something may have been missed.",
        Stream = "stream": "Entries of the fleet's stream may have been missed.",
        Role = "role": "A command may have changed whether the server is a master.",
        Clock = "clock": "Redis's clock was set forward.",
        Rights = "rights": "The rights of the ear's user changed, or might have.",
        Slot = "slot": "A slot was found to have left its node so often that its numbers begin anew.",
        Coherence = "coherence": "Changes are heard of by other means than before.",
        Mode = "mode": "Mode pass began or ended.",
        Settings = "settings": "The longest stay of keys was changed.",
    }
}

labels! {
    /// Who was sent a read that a replica could answer, where replicas are read.
    ReadRole {
        Replica = "replica": "A replica.",
        Master = "master": "The master: no replica had a lease, or had come far enough.",
        Both = "both": "A replica, and then the master, for the replica's reply was not one to pass on. Counted under replica as well.",
    }
}

labels! {
    /// What a round of questions to those who elect masters showed of one master: whether L1 may answer for its keys.
    CensusFinding {
        Proven = "proven": "Nobody else owned the master's keys when the round began.",
        Silent = "silent": "The master did not answer in time.",
        Unlisted = "unlisted": "No node that answers lists the master, or the lists of most are too old.",
        Heir = "heir": "A replica did not answer that may have been elected.",
        Voters = "voters": "So many did not answer, or know of an earlier election only, that they could elect.",
        Demoted = "demoted": "The master says that it is none any more.",
        Successor = "successor": "A replica of the master says that it is a master.",
        Claimed = "claimed": "Another says that slots of the master are its own, under a later number.",
        Failing = "failing": "The master says that the cluster is down.",
        Electors = "electors": "The master counts more or fewer masters with slots than it lists.",
    }
}

labels! {
    /// By what means L1 hears of changes, and what that promises of them.
    CoherenceMeans {
        Undecided = "undecided": "the upstream has not been asked yet what it allows; until then nothing is kept",
        Tracking = "tracking": "every change is seen within max_staleness, whoever makes it",
        Broadcast = "broadcast": "every change is seen within max_staleness, whoever makes it; Redis tells every crema of \
            each to the keys with a prefix, or to any without prefixes",
        Channel = "channel": "changes made through a crema with coherence = \"channel\" are seen within max_staleness; any \
            others, and eviction, only when a key has stayed in memory for as long as its class allows",
        Nothing = "nothing": "nothing is kept in memory, for nobody tells of changes",
    }
}

labels! {
    /// What Redis refused to a user, without which nothing of that user's reads is kept. The sentence goes on from "it".
    Refusal {
        Login = "login": "cannot log in any more.",
        Tracking = "tracking": "may not use CLIENT TRACKING (coherence = \"channel\" does without).",
        Subscribe = "subscribe": "may not subscribe to the fleet's channel.",
        Hello = "hello": "may not use HELLO.",
        Pttl = "pttl": "may not use PTTL.",
    }
}

labels! {
    /// What crema asks of Redis on its own account, and what is lost where it is refused.
    Need {
        Hello = "hello": "clients cannot speak RESP3, and nothing is kept in memory",
        Info = "info": "a failover behind the upstream's address shows by broken connections alone, and where Redis evicts by \
            use, keys that memory serves look idle to it",
        Command = "command": "hashes are not kept whole, nor what modules answer, and a client that sends a command unknown \
            to crema gets a connection of its own",
        Acl = "acl": "a change of rights is not seen, so replies are kept for acl_recheck at the longest",
        Config = "config": "an argument of a request may be as long as Redis allows by default, 512 MiB",
        ClientId = "client_id": "a connection that is dead is noticed after response_timeout alone",
        ClientList = "client_list": "a connection that is dead is noticed after response_timeout alone",
        ClientKill = "client_kill": "a command on a connection that was given up can still be carried out later",
        ClientSetName = "client_setname": "CLIENT LIST does not show which connections are crema's",
        ClientNoEvict = "client_no_evict": "with maxmemory-clients, Redis may close the connection on which crema hears of changes",
        Select = "select": "nothing is kept in memory of other databases than 0",
        Touch = "touch": "where Redis evicts by use, keys that memory serves look idle to it",
        Time = "time": "keys may be served past their time where the clock of Redis is set forward",
        Latency = "latency": "a SWAPDB that no crema sends goes unnoticed",
        Echo = "echo": "it is not checked now and then that replies are in step",
        Publish = "publish": "the fleet is not told of what only crema knows, such as SWAPDB; where writes tell of themselves, \
            each of such a user makes the fleet forget everything",
        Census = "census": "in front of a cluster nothing is answered from memory",
        Replicas = "replicas": "nothing is read from replicas",
        Subscribe = "subscribe": "what applications and other cremas say on the fleet's channel is not heard",
    }
}

impl CensusFinding {
    /// Whether it says that somebody else may own the keys, or that nobody knows who: leases end at once.
    pub const fn is_sign(self) -> bool {
        matches!(self, Self::Demoted | Self::Successor | Self::Claimed | Self::Failing | Self::Electors)
    }
}

impl Need {
    /// The command that is for it.
    pub const fn command(self) -> &'static str {
        match self {
            Self::Hello => "HELLO",
            Self::Info => "INFO",
            Self::Command => "COMMAND INFO",
            Self::Acl => "ACL GETUSER",
            Self::Config => "CONFIG GET",
            Self::ClientId => "CLIENT ID",
            Self::ClientList => "CLIENT LIST",
            Self::ClientKill => "CLIENT KILL",
            Self::ClientSetName => "CLIENT SETNAME",
            Self::ClientNoEvict => "CLIENT NO-EVICT",
            Self::Select => "SELECT",
            Self::Touch => "TOUCH",
            Self::Time => "TIME",
            Self::Latency => "LATENCY HISTOGRAM",
            Self::Echo => "ECHO",
            Self::Publish => "PUBLISH",
            Self::Census => "CLUSTER INFO or CLUSTER NODES",
            Self::Replicas => "INFO or CLUSTER NODES",
            Self::Subscribe => "SUBSCRIBE",
        }
    }
}

labels! {
    /// What came in on the fleet's channel.
    ChannelMessage {
        Remove = "remove": "One key to forget.",
        Update = "update": "One key to forget, sent with its new value.",
        RemovePattern = "remove_pattern": "A pattern of keys to forget.",
        RemoveBulk = "remove_bulk": "A list of keys to forget.",
        ForgetAll = "forget_all": "Everything is to be forgotten: two databases were swapped, say.",
        Forget = "forget": "Keys that a write had changed, told in one step with it.",
        Own = "own": "A message that this proxy had sent itself.",
        Malformed = "malformed": "A message that is not JSON, or lacks what its type asks for.",
        TooLarge = "too_large": "A message that is too large to be read.",
        Unknown = "unknown": "A message of a type that this version does not know.",
    }
}

labels! {
    /// What became of something that the fleet was to be told.
    Publication {
        Sent = "sent": "A message was published.",
        Dropped = "dropped": "A message was not published: too many waited, or Redis was away or refused it.",
        Unkept = "unkept": "A message was published, and the audit stream did not take it.",
        Unnamed = "unnamed": "A key could not be named, for it is not UTF-8 or is very long.",
    }
}

labels! {
    /// What happened at a tier.
    TierOutcome {
        Hit = "hit": "It had the newest value of a key that the upstream had not.",
        Miss = "miss": "It had nothing of a key that the upstream had not.",
        Stale = "stale": "What it had was older than the last write, or of before a flush, and was not used.",
        Copied = "copied": "A value was copied to it.",
        CopiedUp = "copied_up": "A value of it was put back into the upstream.",
        TooLarge = "too_large": "A value, or its name, was larger than it takes, or its stay shorter; it was not copied.",
        Error = "error": "It did not answer in time, or refused what it was asked.",
        Skipped = "skipped": "It was not asked, for it had failed a few times in a row.",
    }
}

labels! {
    /// What became of a request for a key, as the metrics by rule and by prefix tell.
    KeyEvent {
        Hit = "hit": "Answered from L1.",
        WouldHit = "would_hit": "L1 would have answered and, in mode observe, Redis did.",
        Joined = "joined": "Answered by another session's read of the same key.",
        Miss = "miss": "A read that was sent to Redis.",
        Write = "write": "A command that may change the key.",
    }
}

labels! {
    /// What a slow command waited for, most of its time.
    SlowReason {
        Redis = "redis": "Redis took that long: the command was the next that it had to answer on its connection.",
        Queue = "queue": "It waited for commands before it on the same connection to Redis.",
        Reader = "reader": "Its client, or that of a reply before it, was slow to take bytes.",
        Connection = "connection": "It waited for a connection to Redis to be made.",
        Session = "session": "It waited within its session: for earlier commands of its client, for a connection of its own, or for what crema asks Redis first.",
        Fence = "fence": "It may have changed any key, and its reply was held until memory had heard of all that it did, or the fleet had been told.",
        Ear = "ear": "Memory had the answer, and it waited until that was sure to be none from before what its session has seen.",
        Lease = "lease": "Memory could not prove itself fresh, and Redis took that long.",
        Beyond = "beyond": "Redis had nothing, and what lies beyond it was asked: a tier, or an origin.",
        Lost = "lost": "It was not answered: the connection was lost, or Redis did not answer in time.",
    }
}

labels! {
    /// By which path a request was answered, as the latency histogram tells them apart.
    Path {
        Hit = "hit": "Answered from L1.",
        Miss = "miss": "Answered by Redis.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn indices_are_dense_and_labels_are_distinct_and_plain() {
        let mut seen = HashSet::new();
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
            let label = outcome.as_str();
            assert!(seen.insert(label), "{label} twice");
            assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{label}");
            assert!(outcome.about().ends_with('.'), "{label} wants a sentence");
        }
    }

    #[test]
    fn a_hit_is_a_lookup_that_redis_does_not_see() {
        assert!(Outcome::Hit.is_lookup() && Outcome::Hit.is_spared());
        assert!(Outcome::Lead.is_lookup() && !Outcome::Lead.is_spared());
        assert!(!Outcome::Write.is_lookup() && !Outcome::Write.is_spared());
    }

    #[test]
    fn the_hit_ratio_told_to_prometheus_is_the_one_that_the_status_shows() {
        let lookups: Vec<_> =
            Outcome::ALL.into_iter().filter(|outcome| outcome.is_lookup()).map(Outcome::as_str).collect();
        let told = include_str!("../../config/prometheus.yml");
        assert!(told.contains(&format!("outcome=~\"{}\"", lookups.join("|"))));
    }
}
