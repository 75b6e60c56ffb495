//! To which nodes of a cluster a command goes, and what crema says of the cluster itself.
//!
//! With one server nothing here is looked at. `proxy` and `session` go by it; how the nodes' answers become one is [`Merge`]'s.

use super::Merge;

/// To which nodes of a cluster a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// To the node that serves its first key; to the front where it names none. What has keys in several slots is refused there, by
    /// the node itself.
    OneNode,
    /// The same, and never to a replica of it: a cursor that only this node knows, or what the node says is of itself.
    Master,
    /// As [`Spread::OneNode`] while all its keys are in one slot; else in parts, one a slot.
    Slots(Merge),
    /// To every master.
    Masters(Merge),
    /// To the node that serves the slot of argument 2.
    OfSlot,
    /// To one master after the other, by a cursor that says which: SCAN.
    Cursor,
    /// Crema answers, or corrects what the front says: to its clients the cluster is one server.
    Face(Portrait),
    /// To none: it changes the cluster, and is about the very node that it is sent to.
    NodeItself,
}

/// What crema shows of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portrait {
    /// CLUSTER SLOTS.
    Slots,
    /// CLUSTER SHARDS.
    Shards,
    /// CLUSTER NODES.
    Nodes,
    /// CLUSTER INFO: the front's, of one node.
    Info,
    /// CLUSTER MYID.
    MyId,
    /// CLUSTER MYSHARDID.
    MyShardId,
    /// CLUSTER REPLICAS and SLAVES: there are none.
    Replicas,
    /// CLUSTER LINKS: there are none.
    Links,
    /// INFO: the front's, which says whether it is a cluster's.
    Server,
    /// READONLY, READWRITE, ASKING: they mean nothing here.
    Mode,
}

impl Spread {
    /// What a server's tips say of a command that the table does not know (`request_policy`, `response_policy`).
    #[must_use]
    pub fn of_tips<'a>(tips: impl Iterator<Item = &'a [u8]>) -> Self {
        let (mut everywhere, mut merge) = (false, None);
        for tip in tips {
            match tip {
                b"request_policy:all_shards" | b"request_policy:all_nodes" => everywhere = true,
                b"response_policy:agg_sum" => merge = Some(Merge::Sum),
                b"response_policy:agg_min" | b"response_policy:agg_logical_and" => merge = Some(Merge::Min),
                b"response_policy:agg_max" | b"response_policy:agg_logical_or" => merge = Some(Merge::Max),
                b"response_policy:all_succeeded" => merge = Some(Merge::Agree),
                b"response_policy:one_succeeded" => merge = Some(Merge::One),
                // Nobody knows how such answers are put together.
                b"response_policy:special" => return Self::OneNode,
                _ => {}
            }
        }
        // Without a policy what is a list is joined, and of all else one is given.
        if everywhere { Self::Masters(merge.unwrap_or(Merge::Join)) } else { Self::OneNode }
    }

    /// Whether it goes to the node of its first key, and nowhere else.
    #[must_use]
    pub fn is_by_key(self) -> bool {
        matches!(self, Self::OneNode | Self::Master)
    }

    /// Whether it goes, whole and as it is, to one node, whatever the nodes are.
    #[inline]
    #[must_use]
    pub fn is_plain(self) -> bool {
        matches!(self, Self::OneNode | Self::Master | Self::Slots(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Class, Effect, KeySpec, all};

    fn names(spread: Spread) -> Vec<&'static str> {
        all().iter().filter(|row| row.spread == spread).map(|row| row.name).collect()
    }

    /// The table of routes and merges, the other way round.
    #[test]
    fn each_way_has_its_commands() {
        for (spread, want) in [
            (Spread::Slots(Merge::Sum), "del exists touch unlink"),
            (Spread::Slots(Merge::InOrder), "mget"),
            (Spread::Slots(Merge::Agree), "mset"),
            (Spread::Masters(Merge::Sum), "pubsub|numpat commandlog|len dbsize latency|reset slowlog|len"),
            (Spread::Masters(Merge::Join), "keys"),
            (Spread::Masters(Merge::Unite), "pubsub|channels pubsub|shardchannels"),
            (Spread::Masters(Merge::Tally), "pubsub|numsub pubsub|shardnumsub"),
            (Spread::Masters(Merge::Newest), "commandlog|get slowlog|get"),
            (
                Spread::Masters(Merge::Agree),
                "function|delete function|flush function|load function|restore script|flush script|load client|pause \
                 client|unpause acl|deluser acl|load acl|save acl|setuser commandlog|reset config|resetstat config|rewrite \
                 config|set flushall flushdb memory|purge slowlog|reset",
            ),
            (Spread::Masters(Merge::Min), "script|exists wait waitaof"),
            (Spread::Masters(Merge::One), "function|kill script|kill"),
            (Spread::Masters(Merge::Pick), "randomkey"),
            (Spread::OfSlot, "cluster|countkeysinslot cluster|getkeysinslot"),
            (Spread::Cursor, "scan"),
            (
                Spread::Master,
                "hscan sscan zscan xinfo|consumers xinfo|groups xinfo|stream dump object|encoding object|freq object|idletime \
                 object|refcount memory|usage",
            ),
            (Spread::Face(Portrait::Server), "info"),
            (Spread::Face(Portrait::Mode), "asking readonly readwrite"),
            (Spread::Face(Portrait::Replicas), "cluster|replicas cluster|slaves"),
        ] {
            assert_eq!(names(spread), want.split_whitespace().collect::<Vec<_>>(), "{spread:?}");
        }
    }

    #[test]
    fn what_is_split_names_its_keys_one_after_the_other() {
        for row in all().iter().filter(|row| matches!(row.spread, Spread::Slots(_))) {
            let KeySpec::Range { first: 1, last: -1, step } = row.keys else { panic!("{}", row.name) };
            assert!(step > 0 && matches!(row.effect, Effect::Read | Effect::Write), "{}", row.name);
        }
    }

    #[test]
    fn what_goes_to_all_names_no_key() {
        for row in all().iter().filter(|row| !row.spread.is_plain()) {
            assert_eq!(row.keys, KeySpec::None, "{}", row.name);
        }
        for row in all().iter().filter(|row| row.class == Class::Cluster && row.spread == Spread::OneNode) {
            assert!(
                ["cluster", "cluster|help", "cluster|keyslot", "cluster|slot-stats"].contains(&row.name),
                "{}: a node's own view of the cluster is not shown",
                row.name
            );
        }
    }

    #[test]
    fn tips_of_a_server_say_where_an_unknown_command_goes() {
        let of = |tips: &str| Spread::of_tips(tips.split(' ').map(str::as_bytes));
        assert_eq!(of("nondeterministic_output"), Spread::OneNode);
        assert_eq!(of("request_policy:all_shards response_policy:agg_sum"), Spread::Masters(Merge::Sum));
        assert_eq!(of("response_policy:all_succeeded request_policy:all_nodes"), Spread::Masters(Merge::Agree));
        assert_eq!(of("request_policy:all_shards response_policy:agg_max"), Spread::Masters(Merge::Max));
        assert_eq!(of("request_policy:all_shards"), Spread::Masters(Merge::Join));
        assert_eq!(of("request_policy:all_shards response_policy:special"), Spread::OneNode);
        assert_eq!(of("request_policy:multi_shard response_policy:agg_sum"), Spread::OneNode, "by its first key");
    }
}
