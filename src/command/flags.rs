//! Redis's flags of commands, as `COMMAND INFO` tells them.

use std::ops::{BitAnd, BitOr};

/// A set of Redis's command flags, those that crema asks about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandFlags(u16);

impl CommandFlags {
    /// None of them.
    pub const NONE: CommandFlags = CommandFlags(0);
    /// May change the data set (functions count as data): refused by replicas, held back by CLIENT PAUSE WRITE.
    pub const WRITE: CommandFlags = CommandFlags(1);
    /// Reads keys and changes none.
    pub const READONLY: CommandFlags = CommandFlags(1 << 1);
    /// May make its connection wait.
    pub const BLOCKING: CommandFlags = CommandFlags(1 << 2);
    /// For the server's administrator.
    pub const ADMIN: CommandFlags = CommandFlags(1 << 3);
    /// Of Pub/Sub.
    pub const PUBSUB: CommandFlags = CommandFlags(1 << 4);
    /// Not flagged a write, and yet able to make one: held back by CLIENT PAUSE WRITE too.
    pub const MAY_REPLICATE: CommandFlags = CommandFlags(1 << 5);
    /// May need memory: refused by a server that has no more of it and may not evict.
    pub const DENYOOM: CommandFlags = CommandFlags(1 << 6);

    /// Those that a row of the table has letters for.
    pub(super) const fn of(letters: &str) -> CommandFlags {
        let letters = letters.as_bytes();
        let (mut all, mut at) = (Self::NONE, 0);
        while at < letters.len() {
            all = all.union(match letters[at] {
                b'r' => Self::READONLY,
                b'w' => Self::WRITE,
                b'a' => Self::ADMIN,
                b'p' => Self::PUBSUB,
                b'b' => Self::BLOCKING,
                b'm' => Self::MAY_REPLICATE,
                b'd' => Self::DENYOOM,
                b'o' | b'f' | b'x' | b'i' | b'k' | b'c' | b'g' | b'h' => Self::NONE, // of ACL categories
                _ => panic!("no such letter"),
            });
            at += 1;
        }
        all
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: CommandFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is set.
    pub const fn intersects(self, other: CommandFlags) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets in one; `|` does the same outside of constants.
    #[must_use]
    pub const fn union(self, other: CommandFlags) -> CommandFlags {
        CommandFlags(self.0 | other.0)
    }
}

impl BitAnd for CommandFlags {
    type Output = CommandFlags;

    fn bitand(self, other: CommandFlags) -> CommandFlags {
        CommandFlags(self.0 & other.0)
    }
}

impl BitOr for CommandFlags {
    type Output = CommandFlags;

    fn bitor(self, other: CommandFlags) -> CommandFlags {
        self.union(other)
    }
}
