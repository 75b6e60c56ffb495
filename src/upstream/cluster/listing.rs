//! Who a node of a cluster says that there is: the reply to `CLUSTER NODES`, which names those that failed as well.
//!
//! Nothing of it is believed here.

use std::ops::RangeInclusive;

use crate::config::{Endpoint, NodeMap};

/// What a cluster calls a node, for as long as it lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MemberId(Box<str>);

/// A node, as another lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListedNode {
    pub(crate) id: MemberId,
    /// Where it is: by its address, and by its name where it has one. None where that is not known.
    pub(crate) endpoints: Vec<Endpoint>,
    /// Whose replica it is; none: a master.
    pub(crate) replicates: Option<MemberId>,
    /// The slots that it serves; what stands in the list of another is read no further than whether there are any.
    pub(crate) slots: Vec<RangeInclusive<usize>>,
    /// Slots of which keys are on their way from it or to it, as it says itself.
    pub(crate) moving: Vec<usize>,
    /// It serves slots.
    pub(crate) has_slots: bool,
    /// The nodes to which slots of it are on their way; told by who lists, of itself alone.
    sends_to: Vec<MemberId>,
    /// The number under which it does.
    pub(crate) epoch: u64,
    /// It is who lists.
    pub(crate) is_self: bool,
}

/// All nodes that one knows of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing(Vec<ListedNode>);

impl Listing {
    /// Reads the RESP2 reply to `CLUSTER NODES` of the node at `asked`; addresses are translated by `node_map`. None where it is
    /// something else.
    pub(crate) fn read(reply: &[u8], asked: &Endpoint, node_map: &NodeMap) -> Option<Self> {
        let text = std::str::from_utf8(reply).ok()?;
        let (header, lines) = text.split_once("\r\n")?;
        header.starts_with('$').then_some(())?;
        let mut nodes = Vec::new();
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            let is_in = words.get(2).is_some_and(|flags| flags.split(',').all(|flag| flag != "handshake"));
            if is_in {
                nodes.push(node(&words, asked, node_map)?);
            }
        }
        (nodes.iter().filter(|node| node.is_self).count() == 1).then_some(Self(nodes))
    }

    /// Those that there are.
    pub(crate) fn nodes(&self) -> &[ListedNode] {
        &self.0
    }

    /// Who lists.
    pub(crate) fn own(&self) -> &ListedNode {
        self.0.iter().find(|node| node.is_self).expect("one was found when it was read")
    }

    /// The masters without slots to which slots of who lists are on their way: where they are, by their names where the masters that
    /// are `known` are known so.
    pub(crate) fn newcomers(&self, known: impl Fn(&Endpoint) -> bool) -> Vec<Endpoint> {
        let by_name = self.0.iter().any(|node| node.endpoints.get(1).is_some_and(&known));
        let sends_to = &self.own().sends_to;
        let comes = |node: &&ListedNode| node.replicates.is_none() && !node.has_slots && sends_to.contains(&node.id);
        let endpoint =
            |node: &ListedNode| if by_name { node.endpoints.last() } else { node.endpoints.first() }.cloned();
        self.0.iter().filter(comes).filter_map(endpoint).collect()
    }

    /// Whether it serves a slot, as it says itself.
    pub(crate) fn claims(&self, slot: usize) -> bool {
        let own = self.own();
        own.replicates.is_none() && own.slots.iter().any(|range| range.contains(&slot))
    }

    /// Whether it says that it serves slots which the other says that it does, under a later number.
    pub(crate) fn overrules(&self, other: &Self) -> bool {
        let (own, other) = (self.own(), other.own());
        let overlaps = |one: &RangeInclusive<usize>| {
            other.slots.iter().any(|two| one.start() <= two.end() && two.start() <= one.end())
        };
        own.replicates.is_none() && own.epoch > other.epoch && own.slots.iter().any(overlaps)
    }

    /// How many masters serve slots.
    pub(crate) fn electors(&self) -> usize {
        self.masters().count()
    }

    /// The masters that serve slots.
    pub(crate) fn masters(&self) -> impl Iterator<Item = &ListedNode> {
        self.0.iter().filter(|node| node.has_slots && node.replicates.is_none())
    }
}

/// `<id> <ip:port@cport[,hostname[,..]]> <flags> <master> <ping> <pong> <epoch> <link> <slot> ..`.
fn node(words: &[&str], asked: &Endpoint, node_map: &NodeMap) -> Option<ListedNode> {
    let [id, address, flags, master, _, _, epoch, _, slots @ ..] = words else { return None };
    let has = |flag: &str| flags.split(',').any(|known| known == flag);
    let replicates = (has("slave") || has("replica")).then(|| MemberId((*master).into()));
    let is_self = has("myself");
    // What stands in brackets is on its way: `[93->-id]` to that node, `[93-<-id]` from it.
    let moving = slots.iter().filter_map(|slot| slot.strip_prefix('[')?.split_once('-')?.0.parse().ok());
    let sends_to = slots.iter().filter_map(|slot| slot.strip_prefix('[')?.strip_suffix(']')?.split_once("->-"));
    let mut served = slots.iter().filter(|slot| !slot.starts_with('[')).peekable();
    Some(ListedNode {
        id: MemberId((*id).into()),
        endpoints: if has("noaddr") { Vec::new() } else { endpoints(address, asked, node_map)? },
        replicates,
        moving: if is_self { moving.collect() } else { Vec::new() },
        has_slots: served.peek().is_some(),
        slots: if is_self { served.map(|slots| range(slots)).collect::<Option<_>>()? } else { Vec::new() },
        sends_to: sends_to.map(|(_, id)| MemberId(id.into())).collect(),
        epoch: epoch.parse().ok()?,
        is_self,
    })
}

/// `5` or `5-9`.
fn range(slots: &str) -> Option<RangeInclusive<usize>> {
    let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

fn endpoints(address: &str, asked: &Endpoint, node_map: &NodeMap) -> Option<Vec<Endpoint>> {
    let mut parts = address.split(',');
    let (host, port) = parts.next()?.split('@').next()?.rsplit_once(':')?;
    let port = port.parse().ok().filter(|&port| port > 0)?;
    let host = match (host, asked) {
        ("", Endpoint::Tcp { host, .. }) => host,
        (host, _) => host,
    };
    let name = parts.next().filter(|name| !name.is_empty() && !name.contains('='));
    let hosts = std::iter::once(host).chain(name);
    Some(hosts.map(|host| node_map.resolve(Endpoint::Tcp { host: host.to_owned(), port })).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::upstream::cluster) fn read(lines: &str) -> Option<Listing> {
        let asked = Endpoint::Tcp { host: "asked".into(), port: 1 };
        Listing::read(format!("$1\r\n{lines}\r\n").as_bytes(), &asked, &NodeMap::default())
    }

    fn at(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.into(), port }
    }

    #[test]
    fn nodes_are_read_as_redis_and_valkey_write_them() {
        let listing = read(
            "a :7000@17000 myself,master - 0 0 1 connected 0-5460 7000 [93-<-b]\n\
             b 10.0.0.2:7001@17001,b.example master - 0 1 2 connected 5461-10922\n\
             c ::1:7002@17002,,shard-id=f master,fail - 0 1 3 disconnected\n\
             d 10.0.0.4:7003@17003,,shard-id=e slave,fail? a 0 1 1 connected\n\
             e :0@0 slave,noaddr b 0 1 1 disconnected\n\
             f 10.0.0.6:7005@17005 master - 0 0 0 connected [5-<-a]\n\
             g 10.0.0.7:7006@17006 handshake - 0 0 0 disconnected\n",
        );
        let listing = listing.expect("as Redis writes it");
        let shown = listing.nodes().iter().map(|node| (&*node.id.0, node.endpoints.clone(), node.has_slots));
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [
                ("a", vec![at("asked", 7000)], true),
                ("b", vec![at("10.0.0.2", 7001), at("b.example", 7001)], true),
                ("c", vec![at("::1", 7002)], false),
                ("d", vec![at("10.0.0.4", 7003)], false),
                ("e", vec![], false),
                ("f", vec![at("10.0.0.6", 7005)], false),
            ]
        );
        let replicates = listing.nodes().iter().map(|node| node.replicates.as_ref().map(|id| &*id.0));
        assert_eq!(replicates.collect::<Vec<_>>(), [None, None, None, Some("a"), Some("b"), None]);
        assert_eq!((&*listing.own().id.0, listing.electors()), ("a", 2));
        assert_eq!(listing.own().slots, [0..=5460, 7000..=7000]);
        assert!(listing.claims(7000) && !listing.claims(6000));
    }

    #[test]
    fn a_master_without_slots_that_is_sent_one_comes_to_be_there() {
        let listing = |arrows: &str| {
            let lines = format!(
                "a 10.0.0.1:1@2 myself,master - 0 0 1 connected 0-9 {arrows}\n\
                 b 10.0.0.2:1@2 master - 0 0 2 connected 10-19\n\
                 c 10.0.0.3:1@2,c.example master - 0 0 0 connected\n\
                 d 10.0.0.4:1@2 master - 0 0 0 connected\n\
                 e 10.0.0.5:1@2 slave a 0 0 1 connected\n"
            );
            read(&lines).expect("a listing")
        };
        let by_address = |_: &Endpoint| false;
        assert_eq!(listing("[3->-c] [4->-b] [5->-e] [6-<-d]").newcomers(by_address), [at("10.0.0.3", 1)]);
        assert_eq!(listing("[3->-c] [4->-d]").newcomers(|known| *known == at("c.example", 1))[0], at("c.example", 1));
        assert!(listing("").newcomers(by_address).is_empty());
    }

    #[test]
    fn of_two_who_say_that_they_serve_a_slot_the_later_number_overrules() {
        let of = |epoch: u64, slots: &str| {
            read(&format!("a h:1@1 myself,master - 0 0 {epoch} connected {slots}\n")).expect("a listing")
        };
        assert!(of(2, "0-5").overrules(&of(1, "5-9")) && of(2, "7").overrules(&of(1, "5-9")));
        assert!(!of(1, "0-5").overrules(&of(2, "5-9")) && !of(2, "0-4 10").overrules(&of(1, "5-9")));
    }

    #[test]
    fn what_is_no_listing_is_none() {
        for bad in ["a 1.1.1.1:1@2 master - 0 0 1 connected", "a 1.1.1.1:1@2 myself,master", "a x myself - 0 0 1 c", ""]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(Listing::read(b"-NOPERM no\r\n", &at("a", 1), &NodeMap::default()), None);
    }
}
