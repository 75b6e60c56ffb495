//! Which master serves which slot: one version of a cluster's map.
//!
//! A node keeps its place for as long as it is in the map, so that what belongs to a place stays with its server from version to
//! version; the place of one that left is taken by the next that comes. Made by the keeper of the map, and never changed.

use std::sync::Arc;

use super::slots::SlotTable;
use crate::command::HashSlot;
use crate::config::Endpoint;
use crate::upstream::{Node, NodeIndex};

/// In place of a master's number: the slot has none.
const NOBODY: u16 = u16::MAX;

/// A master, and who would follow it.
#[derive(Clone, Debug)]
pub(crate) struct Shard {
    /// The master.
    pub(crate) node: Arc<Node>,
    /// It serves slots. Else it is a newcomer: the first is on its way to it.
    pub(crate) serves: bool,
    /// Its replicas, as far as they are there.
    pub(crate) replicas: Vec<Endpoint>,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct ClusterMap {
    version: u64,
    front: NodeIndex,
    /// By place.
    shards: Vec<Option<Shard>>,
    /// The place of each slot's master.
    owners: Box<[u16]>,
}

impl ClusterMap {
    /// Nothing is known but one node, which is asked for everything.
    pub(crate) fn unread(seed: Arc<Node>) -> Self {
        let shard = Shard { node: seed, serves: true, replicas: Vec::new() };
        let owners = vec![NOBODY; HashSlot::COUNT].into_boxed_slice();
        Self { version: 0, front: NodeIndex::default(), shards: vec![Some(shard)], owners }
    }

    /// The version after this one, as `table` has it, and with these newcomers; `make` gives the node of an address that is new. None
    /// where nothing has changed, or the table knows no master.
    pub(crate) fn next(
        &self,
        table: &SlotTable,
        newcomers: &[Endpoint],
        mut make: impl FnMut(&Endpoint) -> Arc<Node>,
    ) -> Option<Self> {
        let has_slots = |endpoint: &Endpoint| table.masters.iter().any(|master| master.endpoint == *endpoint);
        let mut newcomers: Vec<_> = newcomers.iter().filter(|endpoint| !has_slots(endpoint)).collect();
        newcomers.sort_by_cached_key(ToString::to_string);
        newcomers.dedup();
        if table.masters.is_empty() || (self.version > 0 && self.is_as(table) && self.has_newcomers(&newcomers)) {
            return None;
        }
        let stays = |endpoint: &Endpoint| has_slots(endpoint) || newcomers.contains(&endpoint);
        let mut shards: Vec<_> = self
            .shards
            .iter()
            .map(|shard| shard.as_ref().filter(|shard| stays(&shard.node.endpoint)).cloned())
            .collect();
        let mut places = Vec::with_capacity(table.masters.len());
        let masters = table.masters.iter().map(|master| (&master.endpoint, true, master.replicas.clone()));
        for (endpoint, serves, replicas) in masters.chain(newcomers.iter().map(|&comes| (comes, false, Vec::new()))) {
            let known =
                shards.iter().position(|shard| shard.as_ref().is_some_and(|shard| shard.node.endpoint == *endpoint));
            let place = known.unwrap_or_else(|| {
                let shard = Some(Shard { node: make(endpoint), serves, replicas: Vec::new() });
                let vacant = shards.iter().position(Option::is_none).unwrap_or(shards.len());
                if vacant == shards.len() {
                    shards.push(shard);
                } else {
                    shards[vacant] = shard;
                }
                vacant
            });
            if let Some(shard) = &mut shards[place] {
                (shard.serves, shard.replicas) = (serves, replicas);
            }
            places.push(place);
        }
        let mut owners = vec![NOBODY; HashSlot::COUNT].into_boxed_slice();
        for (slot, master) in table.owners.iter().enumerate() {
            let place = master.map(|master| u16::try_from(places[usize::from(master)]).unwrap_or(NOBODY));
            owners[slot] = place.unwrap_or(NOBODY);
        }
        let serves = |shard: &Option<Shard>| shard.as_ref().is_some_and(|shard| shard.serves);
        let stays = shards.get(self.front.number()).is_some_and(serves);
        let front = if stays { self.front } else { NodeIndex::nth(shards.iter().position(serves)?) };
        Some(Self { version: self.version + 1, front, shards, owners })
    }

    /// This version with the replicas that the table has, where these are others.
    pub(crate) fn with_replicas(&self, table: &SlotTable) -> Option<Self> {
        let mut shards = self.shards.clone();
        let mut others = false;
        for shard in shards.iter_mut().flatten() {
            if let Some(master) = table.masters.iter().find(|master| master.endpoint == shard.node.endpoint) {
                others |= shard.replicas != master.replicas;
                shard.replicas.clone_from(&master.replicas);
            }
        }
        others.then(|| Self { shards, owners: self.owners.clone(), ..*self })
    }

    /// Whether the table says what this version says of masters and slots.
    pub(crate) fn is_as(&self, table: &SlotTable) -> bool {
        let serving = || self.shards.iter().flatten().filter(|shard| shard.serves);
        let same_masters = serving().count() == table.masters.len()
            && serving().all(|shard| table.masters.iter().any(|master| master.endpoint == shard.node.endpoint));
        same_masters
            && table.owners.iter().enumerate().all(|(slot, master)| {
                let endpoint =
                    self.owner_of(slot).map(|at| &self.shards[at].as_ref().expect("owners are there").node.endpoint);
                endpoint == master.map(|master| &table.masters[usize::from(master)].endpoint)
            })
    }

    /// Whether these are the masters to which a first slot is on its way.
    fn has_newcomers(&self, newcomers: &[&Endpoint]) -> bool {
        let known = || self.shards.iter().flatten().filter(|shard| !shard.serves);
        known().count() == newcomers.len() && known().all(|shard| newcomers.contains(&&shard.node.endpoint))
    }

    /// Whether a slot is on its way to a master that has none.
    pub(crate) fn awaits_newcomers(&self) -> bool {
        self.shards.iter().flatten().any(|shard| !shard.serves)
    }

    /// The next version, in which another serves what names no key.
    pub(crate) fn with_front(&self, front: NodeIndex) -> Self {
        Self { version: self.version + 1, front, shards: self.shards.clone(), owners: self.owners.clone() }
    }

    fn owner_of(&self, slot: usize) -> Option<usize> {
        Some(self.owners[slot]).filter(|&place| place != NOBODY).map(usize::from)
    }

    /// Its number: higher than that of every version before.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The place of the node that serves what names no key.
    pub(crate) fn front(&self) -> NodeIndex {
        self.front
    }

    /// What is at a place, if anything is.
    pub(crate) fn shard(&self, at: NodeIndex) -> Option<&Shard> {
        self.shards.get(at.number())?.as_ref()
    }

    /// All, with their places.
    pub(crate) fn shards(&self) -> impl Iterator<Item = (NodeIndex, &Shard)> {
        self.shards.iter().enumerate().filter_map(|(n, shard)| Some((NodeIndex::nth(n), shard.as_ref()?)))
    }

    /// Who serves a slot, if anybody does.
    #[inline]
    pub(crate) fn owner(&self, slot: HashSlot) -> Option<NodeIndex> {
        match self.owners[slot.number()] {
            NOBODY => None,
            place => Some(NodeIndex::nth(usize::from(place))),
        }
    }

    /// How many slots the node at that place serves.
    pub(crate) fn served_by(&self, at: NodeIndex) -> usize {
        self.owners.iter().filter(|&&place| usize::from(place) == at.number()).count()
    }

    /// How many slots somebody serves.
    pub(crate) fn served(&self) -> usize {
        self.owners.iter().filter(|&&place| place != NOBODY).count()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::slots::MasterEntry;
    use super::*;

    fn at(port: u16) -> Endpoint {
        Endpoint::Tcp { host: "127.0.0.1".into(), port }
    }

    fn make(endpoint: &Endpoint) -> Arc<Node> {
        Arc::new(Node::new(endpoint.clone(), 1, Duration::from_secs(1)))
    }

    /// Masters at these ports, each with slots from one number to the next.
    fn table(ports: &[(u16, usize)]) -> SlotTable {
        let mut table = SlotTable::default();
        let mut from = 0;
        for (n, &(port, to)) in ports.iter().enumerate() {
            table.masters.push(MasterEntry { endpoint: at(port), replicas: Vec::new() });
            (from..to).for_each(|slot| table.owners[slot] = Some(n as u16));
            from = to;
        }
        table
    }

    fn port_of(map: &ClusterMap, slot: usize) -> Option<String> {
        let at = map.owner(HashSlot::nth(slot)?)?;
        Some(map.shard(at)?.node.address.to_string())
    }

    #[test]
    fn places_stay_and_those_of_nodes_that_left_are_taken_by_the_next() {
        let seed = make(&at(1));
        let unread = ClusterMap::unread(Arc::clone(&seed));
        assert_eq!((unread.served(), unread.owner(HashSlot::of(b"k"))), (0, None));
        let first = unread.next(&table(&[(2, 8000), (1, 16_384)]), &[], make).expect("news");
        assert!(
            Arc::ptr_eq(&first.shard(NodeIndex::nth(0)).expect("the seed").node, &seed),
            "a seed in the map is the same node"
        );
        assert_eq!((first.version(), first.served(), first.front()), (1, 16_384, NodeIndex::nth(0)));
        assert_eq!(
            (port_of(&first, 0), port_of(&first, 8000)),
            (Some("127.0.0.1:2".into()), Some("127.0.0.1:1".into()))
        );
        assert!(first.next(&table(&[(1, 0), (2, 8000), (1, 16_384)][1..]), &[], make).is_none(), "no news");

        let second = first.next(&table(&[(2, 8000), (3, 16_384)]), &[], make).expect("news");
        assert_eq!(
            second.shards().map(|(at, shard)| (at.number(), shard.node.address.to_string())).collect::<Vec<_>>(),
            [(0, "127.0.0.1:3".into()), (1, "127.0.0.1:2".into())]
        );
        let third = second.next(&table(&[(2, 8000)]), &[], make).expect("news");
        assert_eq!((third.front(), third.served(), port_of(&third, 9000)), (NodeIndex::nth(1), 8000, None));
        assert!(third.next(&SlotTable::default(), &[], make).is_none(), "a table without masters is none");
    }

    #[test]
    fn a_newcomer_is_there_and_serves_nothing() {
        let two = table(&[(1, 8000), (2, 16_384)]);
        let first = ClusterMap::unread(make(&at(1))).next(&two, &[], make).expect("news");
        let second = first.next(&two, &[at(3), at(3), at(2)], make).expect("news");
        let shown: Vec<_> = second.shards().map(|(_, shard)| (shard.node.endpoint.clone(), shard.serves)).collect();
        assert_eq!(shown, [(at(1), true), (at(2), true), (at(3), false)]);
        assert!(second.is_as(&two) && second.awaits_newcomers() && !first.awaits_newcomers());
        assert!(second.next(&two, &[at(3)], make).is_none(), "no news");

        let three = table(&[(1, 8000), (3, 16_384)]);
        let third = second.next(&three, &[], make).expect("news");
        let node = |map: &ClusterMap| Arc::clone(&map.shard(NodeIndex::nth(2)).expect("there").node);
        assert!(Arc::ptr_eq(&node(&second), &node(&third)) && !third.awaits_newcomers());
        assert!(first.next(&two, &[], make).is_none(), "it may go as it came");
        assert_eq!(second.next(&two, &[], make).expect("news").shards().count(), 2);
    }

    #[test]
    fn replicas_that_come_and_go_make_no_version() {
        let first = ClusterMap::unread(make(&at(1))).next(&table(&[(1, 16_384)]), &[], make).expect("news");
        let mut with = table(&[(1, 16_384)]);
        with.masters[0].replicas.push(at(9));
        assert!(first.next(&with, &[], make).is_none());
        let second = first.with_replicas(&with).expect("another");
        assert_eq!(second.version(), first.version());
        assert_eq!(second.shard(NodeIndex::nth(0)).expect("there").replicas, [at(9)]);
        assert!(second.with_replicas(&with).is_none());
    }
}
