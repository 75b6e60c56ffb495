//! What a node says of a cluster: the replies to `CLUSTER SLOTS` and `CLUSTER INFO`.
//!
//! Nothing of it is believed here. A node that calls itself nothing is known by the address at which it was asked.

use redis_protocol::resp2::decode::decode_bytes;
use redis_protocol::resp2::types::BytesFrame;

use crate::command::HashSlot;
use crate::config::{Endpoint, NodeMap};

/// Who serves which slot, as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotTable {
    /// All masters with slots.
    pub(crate) masters: Vec<MasterEntry>,
    /// Their numbers among these, by slot.
    pub(crate) owners: Vec<Option<u16>>,
}

/// A master, and its replicas in an order of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MasterEntry {
    /// Where to connect to.
    pub(crate) endpoint: Endpoint,
    /// Where its replicas are.
    pub(crate) replicas: Vec<Endpoint>,
}

impl Default for SlotTable {
    fn default() -> Self {
        Self { masters: Vec::new(), owners: vec![None; HashSlot::COUNT] }
    }
}

impl SlotTable {
    /// Reads the RESP2 reply to `CLUSTER SLOTS` of the node at `asked`; addresses are translated by `node_map`. None where it is
    /// something else.
    pub(crate) fn read(reply: &[u8], asked: &Endpoint, node_map: &NodeMap) -> Option<Self> {
        let (frame, _) = decode_bytes(&reply.to_vec().into()).ok()??;
        let BytesFrame::Array(ranges) = frame else { return None };
        let mut table = Self::default();
        for range in ranges {
            let BytesFrame::Array(parts) = range else { return None };
            let [BytesFrame::Integer(first), BytesFrame::Integer(last), master, replicas @ ..] = &parts[..] else {
                return None;
            };
            let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
            if first > last {
                return None;
            }
            let endpoint = address(master, asked, node_map)?;
            let replicas: Option<Vec<_>> = replicas.iter().map(|replica| address(replica, asked, node_map)).collect();
            let number = table.number_of(endpoint, replicas?)?;
            table.owners.get_mut(first..=last)?.fill(Some(number));
        }
        table.sort();
        Some(table)
    }

    /// Whether both have the same masters with the same slots. In which replicas they list, nodes differ for a while.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        let (own, others) = (self.masters.iter(), other.masters.iter());
        self.owners == other.owners && own.map(|master| &master.endpoint).eq(others.map(|master| &master.endpoint))
    }

    /// Older servers list masters in an order of their own, each in another.
    fn sort(&mut self) {
        let mut order: Vec<usize> = (0..self.masters.len()).collect();
        order.sort_by_cached_key(|&master| self.masters[master].endpoint.to_string());
        let mut places = vec![0; order.len()];
        (0..).zip(&order).for_each(|(place, &master)| places[master] = place);
        self.masters = order.into_iter().map(|master| self.masters[master].clone()).collect();
        self.owners.iter_mut().flatten().for_each(|owner| *owner = places[usize::from(*owner)]);
    }

    fn number_of(&mut self, endpoint: Endpoint, mut replicas: Vec<Endpoint>) -> Option<u16> {
        let known = self.masters.iter().position(|master| master.endpoint == endpoint);
        let number = known.unwrap_or_else(|| {
            replicas.sort_by_cached_key(Endpoint::to_string);
            self.masters.push(MasterEntry { endpoint, replicas });
            self.masters.len() - 1
        });
        u16::try_from(number).ok()
    }
}

/// A node of the reply: its preferred address, its port, its name, and more of it by name. Redis gives nothing or nil where the node
/// is to be reached as the one that was asked, and `?` where its preferred name is not known (`cluster-preferred-endpoint-type`).
fn address(node: &BytesFrame, asked: &Endpoint, node_map: &NodeMap) -> Option<Endpoint> {
    let BytesFrame::Array(parts) = node else { return None };
    let [host, BytesFrame::Integer(port), more @ ..] = &parts[..] else { return None };
    let host = match host {
        BytesFrame::BulkString(host) => std::str::from_utf8(host).ok()?,
        BytesFrame::Null => "",
        _ => return None,
    };
    let host = match (host, asked) {
        ("?", _) => named(more.get(1)?, "ip")?,
        ("", Endpoint::Tcp { host, .. }) => host.clone(),
        ("", Endpoint::Unix(_)) => return None,
        (host, _) => host.to_owned(),
    };
    let port = u16::try_from(*port).ok().filter(|&port| port > 0)?;
    Some(node_map.resolve(Endpoint::Tcp { host, port }))
}

/// What else is known of a node: names and values in turn.
fn named(metadata: &BytesFrame, name: &str) -> Option<String> {
    let BytesFrame::Array(pairs) = metadata else { return None };
    let text = |frame: &BytesFrame| match frame {
        BytesFrame::BulkString(text) => Some(std::str::from_utf8(text).ok()?.to_owned()),
        _ => None,
    };
    pairs.chunks(2).find_map(|pair| text(pair.get(1)?).filter(|_| text(&pair[0]).as_deref() == Some(name)))
}

/// What a node says in `CLUSTER INFO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClusterState {
    /// It takes commands for its slots.
    pub(crate) is_ok: bool,
    /// The latest election that it knows of.
    pub(crate) current_epoch: u64,
    /// Masters with slots.
    pub(crate) size: u64,
}

impl ClusterState {
    /// Reads the reply, a bulk string of lines. None where it is something else.
    pub(crate) fn read(reply: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(reply).ok()?;
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = |name: &str| value(name)?.trim().parse().ok();
        Some(Self {
            is_ok: value("cluster_state")?.trim() == "ok",
            current_epoch: number("cluster_current_epoch")?,
            size: number("cluster_size").unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.into(), port }
    }

    fn read(reply: &str) -> Option<SlotTable> {
        SlotTable::read(reply.as_bytes(), &at("asked", 7), &NodeMap::default())
    }

    const MASTER: &str = "*4\r\n$8\r\n10.0.0.1\r\n:7000\r\n$2\r\nid\r\n*0\r\n";

    #[test]
    fn a_table_is_read() {
        let two = "*4\r\n$1\r\na\r\n:2\r\n$1\r\nx\r\n*0\r\n*4\r\n$1\r\na\r\n:1\r\n$1\r\ny\r\n*2\r\n$8\r\nhostname\r\n$1\r\nh\r\n";
        let reply = format!(
            "*3\r\n*3\r\n:0\r\n:1\r\n{MASTER}*5\r\n:2\r\n:16383\r\n*3\r\n$-1\r\n:9\r\n$1\r\nz\r\n{two}*3\r\n:3\r\n:3\r\n{MASTER}"
        );
        let table = read(&reply).expect("as Redis writes it");
        assert_eq!(table.masters.len(), 2);
        assert_eq!(table.masters[0], MasterEntry { endpoint: at("10.0.0.1", 7000), replicas: vec![] });
        assert_eq!(table.masters[1], MasterEntry { endpoint: at("asked", 9), replicas: vec![at("a", 1), at("a", 2)] });
        assert_eq!(table.owners[..5], [Some(0), Some(0), Some(1), Some(0), Some(1)]);
        assert_eq!(read("*0\r\n"), Some(SlotTable::default()));
    }

    #[test]
    fn a_node_without_a_name_is_where_its_address_says() {
        let node = |more: &str| format!("*1\r\n*3\r\n:0\r\n:1\r\n*4\r\n$1\r\n?\r\n:7\r\n$2\r\nid\r\n{more}");
        let table = read(&node("*2\r\n$2\r\nip\r\n$8\r\n10.0.0.9\r\n")).expect("as Redis writes it");
        assert_eq!(table.masters[0].endpoint, at("10.0.0.9", 7));
        assert_eq!(read(&node("*0\r\n")), None, "it is nowhere");
    }

    #[test]
    fn masters_are_the_same_in_whatever_order_they_are_listed() {
        let one = |port: u16, slot: u16| format!("*3\r\n:{slot}\r\n:{slot}\r\n*2\r\n$1\r\na\r\n:{port}\r\n");
        let read = |first: String, second: String| read(&format!("*2\r\n{first}{second}")).expect("a table");
        let [here, there] = [read(one(2, 5), one(1, 9)), read(one(1, 9), one(2, 5))];
        assert_eq!(here, there);
        assert_eq!((here.owners[5], here.owners[9]), (Some(1), Some(0)));
    }

    #[test]
    fn what_is_no_table_is_none() {
        let bad = [
            "-ERR This instance has cluster support disabled\r\n".to_owned(),
            "*1\r\n:1\r\n".to_owned(),
            "*1\r\n*2\r\n:1\r\n:2\r\n".to_owned(),
            format!("*1\r\n*3\r\n:1\r\n:16384\r\n{MASTER}"),
            format!("*1\r\n*3\r\n:-1\r\n:1\r\n{MASTER}"),
            format!("*1\r\n*3\r\n:2\r\n:1\r\n{MASTER}"),
            format!("*1\r\n*3\r\n:0\r\n:1\r\n{}", MASTER.replace(":7000", ":0")),
            format!("*1\r\n*3\r\n:0\r\n:1\r\n{}", MASTER.replace(":7000", ":70000")),
            "*1\r\n*3\r\n:0\r\n".to_owned(),
        ];
        for reply in bad {
            assert_eq!(read(&reply), None, "{reply}");
        }
    }

    #[test]
    fn a_state_is_read() {
        let info = "$99\r\ncluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_size:3\r\ncluster_current_epoch:6\r\ncluster_my_epoch:2\r\n\r\n";
        let state = ClusterState::read(info.as_bytes()).expect("as Redis writes it");
        assert_eq!(state, ClusterState { is_ok: true, current_epoch: 6, size: 3 });
        assert!(!ClusterState::read(info.replace("ok", "fail").as_bytes()).expect("the same").is_ok);
        assert_eq!(ClusterState::read(b"-NOPERM no\r\n"), None);
    }
}
