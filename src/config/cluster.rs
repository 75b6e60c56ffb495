//! How a cluster is dealt with: what clients are shown of it, where its nodes are, and what is done with commands that concern
//! several of them.
//!
//! Pure text.

use std::time::Duration;

use super::error::{ConfigError, Problem};
use super::raw::{Layers, key};
use super::units::durations;
use super::url::{Endpoint, read_address};

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSettings {
    /// What clients are shown.
    pub view: ClusterView,
    /// Where a client of clusters finds crema; none: where it came.
    pub announce: Option<Endpoint>,
    /// Where nodes are.
    pub node_map: NodeMap,
    /// So long a command waits for a slot whose node is gone.
    pub wait: Duration,
    /// What is done with commands that could be one for each slot.
    pub cross_slot: CrossSlot,
}

/// What clients are shown of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterView {
    /// One server, which tells whoever asks after a cluster that it has all slots.
    Standalone,
    /// The same, which says that it is one of a cluster.
    Cluster,
}

/// What is done with `MGET`, `MSET`, `DEL`, `UNLINK`, `EXISTS` and `TOUCH` of keys in several slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrossSlot {
    /// One command for each slot: each is atomic, all together are not.
    Split,
    /// They are refused, as a node refuses them.
    Error,
}

/// Where nodes are that say another address of themselves: behind a NAT, in containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeMap(Vec<(Endpoint, Endpoint)>);

impl NodeMap {
    /// Where to connect to for a node that says `said` of itself.
    pub fn resolve(&self, said: Endpoint) -> Endpoint {
        self.0.iter().find(|(says, _)| *says == said).map_or(said, |(_, is)| is.clone())
    }
}

pub(super) fn read(layers: &Layers) -> Result<ClusterSettings, ConfigError> {
    Ok(ClusterSettings {
        view: layers.read(key!(cluster_view), "standalone", |text| match text {
            "standalone" => Ok(ClusterView::Standalone),
            "cluster" => Ok(ClusterView::Cluster),
            _ => Err(Problem::unknown("view of a cluster", text, &["standalone", "cluster"])),
        })?,
        announce: layers.read(key!(cluster_announce), "auto", |text| match text {
            "auto" => Ok(None),
            address => place(address).map(Some),
        })?,
        node_map: layers.read(key!(cluster_node_map), "none", node_map)?,
        wait: layers.read(key!(cluster_wait), "2s", durations(Duration::ZERO..=Duration::from_secs(3600)))?,
        cross_slot: layers.read(key!(cross_slot), "split", |text| match text {
            "split" => Ok(CrossSlot::Split),
            "error" => Ok(CrossSlot::Error),
            _ => Err(Problem::unknown("way with several slots", text, &["split", "error"])),
        })?,
    })
}

fn node_map(text: &str) -> Result<NodeMap, Problem> {
    if text == "none" {
        return Ok(NodeMap::default());
    }
    let pair = |pair: &str| {
        let (says, is) = pair.trim().split_once('=').ok_or_else(|| {
            Problem::new(
                "a pair of addresses has no =",
                "write 10.0.0.1:6379=127.0.0.1:7001, what a node says = where it is",
            )
        })?;
        Ok((place(says.trim())?, place(is.trim())?))
    };
    text.split(',').map(pair).collect::<Result<_, _>>().map(NodeMap)
}

/// An address with its port.
fn place(text: &str) -> Result<Endpoint, Problem> {
    if !text.rsplit(']').next().is_some_and(|tail| tail.contains(':')) {
        return Err(Problem::new(format!("`{text}` has no port"), "write HOST:PORT"));
    }
    read_address(text).map_err(|_| {
        Problem::new(format!("`{text}` is no usable address"), "write HOST:PORT, an IPv6 address in brackets")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Endpoint {
        Endpoint::Tcp { host: "10.0.0.1".into(), port }
    }

    #[test]
    fn a_node_is_where_the_map_says_or_where_it_says_itself() {
        let map = node_map("10.0.0.1:7000=localhost:1, 10.0.0.1:7001=[::1]:2").expect("two pairs");
        assert_eq!(map.resolve(at(7000)), Endpoint::Tcp { host: "localhost".into(), port: 1 });
        assert_eq!(map.resolve(at(7001)), Endpoint::Tcp { host: "::1".into(), port: 2 });
        assert_eq!(map.resolve(at(7002)), at(7002));
        assert_eq!(node_map("none"), Ok(NodeMap::default()));
        for bad in ["10.0.0.1:7000", "=a:1", "a:1=", "a:1=b:0", "a:1=b", "a:1=[::1]"] {
            assert!(node_map(bad).is_err(), "{bad}");
        }
    }
}
