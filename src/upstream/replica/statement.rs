//! What a server says of its replication, and a cluster's master of the slots that it has for itself: the replies to `INFO replication`
//! and `CLUSTER NODES`.
//!
//! Nothing of it is believed here.

use crate::command::HashSlot;
use crate::upstream::cluster::Listing;

/// The reply to `INFO replication`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReplicationStatement {
    /// It takes itself for a master.
    pub(super) is_master: bool,
    /// Which history its offset is one of: two servers' offsets can be compared only where this is the same.
    pub(super) history: Box<str>,
    /// A master's: up to where it has written. A replica's: up to where it has carried that out.
    pub(super) offset: u64,
}

impl ReplicationStatement {
    /// None where it is something else, or of a replica that is getting a copy: of that it has none yet.
    pub(super) fn read(reply: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(reply).ok()?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let is_master = match field("role")? {
            "master" => true,
            "slave" | "replica" => false,
            _ => return None,
        };
        if field("master_sync_in_progress") == Some("1") {
            return None;
        }
        let offset = field(if is_master { "master_repl_offset" } else { "slave_repl_offset" })?;
        Some(Self { is_master, history: field("master_replid")?.into(), offset: offset.parse().ok()? })
    }
}

/// The slots of a cluster that a master has, and of which no key is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotClaims(Box<[u64]>);

impl SlotClaims {
    const WORDS: usize = HashSlot::COUNT / 64;

    /// As the master itself lists them.
    pub(super) fn of(listing: &Listing) -> Self {
        let mut words = vec![0; Self::WORDS].into_boxed_slice();
        let own = listing.own();
        let served = own.slots.iter().filter(|_| own.replicates.is_none()).flat_map(Clone::clone);
        served.filter(|&slot| slot < HashSlot::COUNT).for_each(|slot| words[slot / 64] |= 1 << (slot % 64));
        own.moving
            .iter()
            .filter(|&&slot| slot < HashSlot::COUNT)
            .for_each(|slot| words[slot / 64] &= !(1 << (slot % 64)));
        Self(words)
    }

    /// Whether this slot is one.
    pub(crate) fn has(&self, slot: HashSlot) -> bool {
        self.0[slot.number() / 64] >> (slot.number() % 64) & 1 != 0
    }

    /// Whether there are any that the other has not.
    pub(super) fn exceeds(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(own, other)| own & !other != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Endpoint, NodeMap};

    #[test]
    fn a_server_says_whose_history_its_offset_is_of() {
        let said = |text: &str| ReplicationStatement::read(format!("$9\r\n# Replication\r\n{text}\r\n").as_bytes());
        let told = |is_master, offset| Some(ReplicationStatement { is_master, history: "ab".into(), offset });
        assert_eq!(
            said("role:master\r\nconnected_slaves:1\r\nmaster_replid:ab\r\nmaster_replid2:00\r\nmaster_repl_offset:7"),
            told(true, 7)
        );
        assert_eq!(
            said(
                "role:slave\r\nslave_read_repl_offset:9\r\nslave_repl_offset:5\r\nmaster_replid:ab\r\nmaster_repl_offset:9"
            ),
            told(false, 5),
            "what it has read and not carried out counts for nothing"
        );
        for other in [
            "role:sentinel",
            "role:slave\r\nmaster_sync_in_progress:1\r\nslave_repl_offset:5\r\nmaster_replid:ab\r\nmaster_repl_offset:9",
            "role:master\r\nmaster_replid:ab",
            "role:slave\r\nmaster_repl_offset:9\r\nmaster_replid:ab",
        ] {
            assert_eq!(said(other), None, "{other}");
        }
        assert_eq!(ReplicationStatement::read(b"-NOPERM no\r\n"), None);
    }

    fn claims(slots: &str) -> SlotClaims {
        let reply = format!("$9\r\nid 127.0.0.1:1@2 myself,master - 0 0 1 connected {slots}\n\r\n");
        let asked = Endpoint::Tcp { host: "127.0.0.1".into(), port: 1 };
        SlotClaims::of(&Listing::read(reply.as_bytes(), &asked, &NodeMap::default()).expect("a list"))
    }

    #[test]
    fn a_slot_that_is_on_its_way_is_nobodys() {
        let all = claims("0-5 70 [4->-other] [71-<-other]");
        let has = |slot| all.has(HashSlot::nth(slot).expect("a slot"));
        assert_eq!([3, 4, 5, 6, 70, 71].map(has), [true, false, true, false, true, false]);
        assert!(claims("0-5 70").exceeds(&all) && !all.exceeds(&claims("0-5 70")) && !all.exceeds(&all));
    }
}
