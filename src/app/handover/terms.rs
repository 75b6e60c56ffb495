//! What clients find behind a process, as far as another may not have it otherwise where they go over to it: which server, which
//! database, and by what means changes are heard of. Pure data.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::config::{Config, Endpoint, Upstream, UpstreamKind};
use crate::metrics::CoherenceMeans;
use crate::proxy::Shared;

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct HandoverTerms {
    /// Where the upstream is at present, without its user.
    upstream: String,
    /// What its servers call themselves, as far as they tell; those of a cluster are known by their addresses as well.
    servers: BTreeSet<String>,
    /// These are a cluster's.
    is_cluster: bool,
    /// The database that sessions begin in.
    db: u32,
    /// The name of one of [`CoherenceMeans`].
    means: String,
    /// The fleet's channel, where there is one.
    channel: Option<String>,
}

impl HandoverTerms {
    /// This process's, as they are now.
    pub(super) fn of(shared: &Shared) -> Self {
        let (config, topology) = (&shared.config, shared.topology.borrow());
        let mut servers: BTreeSet<String> = topology.nodes().filter_map(|(_, node)| node.generation.server()).collect();
        if topology.version() > 0 {
            servers.extend(topology.nodes().map(|(_, node)| node.address.to_string()));
        }
        Self {
            upstream: place(config, &topology.front().endpoint),
            servers,
            is_cluster: config.upstream.kind == UpstreamKind::Cluster,
            db: config.upstream.db,
            means: shared.l1.mode().means().as_str().to_owned(),
            channel: config.channel.enabled.then(|| config.channel.name.clone()),
        }
    }

    /// Fails with a sentence where clients of `before` would find other data here.
    pub(super) fn fit(&self, before: &Self) -> Result<(), String> {
        if self.upstream != before.upstream && self.servers.is_disjoint(&before.servers) {
            return Err(format!(
                "its upstream is {}, this one's {}, and nothing shows that these are the same servers: clients that go over would find \
                 other data. Give both the same `upstream` (the address of a single server is changed while crema runs: docs/live-changes.md), \
                 or stop the one that runs, then start this",
                before.upstream, self.upstream,
            ));
        }
        if self.is_cluster != before.is_cluster {
            let kind = |is_cluster: bool| if is_cluster { "a cluster" } else { "a single server" };
            return Err(format!(
                "its upstream is {}, this one's {}: clients that go over would find another part of the data. Give both the same \
                 `upstream`, or stop the one that runs, then start this",
                kind(before.is_cluster),
                kind(self.is_cluster),
            ));
        }
        if self.db != before.db {
            return Err(format!(
                "its sessions begin in database {}, this one's in {}: new clients would find other data than those that go over. \
                 Give both the same database in `upstream`, or stop the one that runs, then start this",
                before.db, self.db,
            ));
        }
        Ok(())
    }

    /// Whether what `before` was told to write has been heard of here, if anything was.
    pub(super) fn has_heard(&self, before: &Self) -> bool {
        let by_channel = |terms: &Self| terms.means == CoherenceMeans::Channel.as_str();
        self.channel == before.channel && by_channel(self) <= by_channel(before)
    }
}

/// Where the upstream is: a single server's address may have changed since the settings were read.
fn place(config: &Config, front: &Endpoint) -> String {
    let Upstream { kind, node, seeds, .. } = &config.upstream;
    let node = if *kind == UpstreamKind::Single { front } else { node };
    let mut all: Vec<_> = std::iter::once(node).chain(seeds).cloned().collect();
    all.sort();
    all.dedup();
    let seeds = all.split_off(1);
    let node = all.remove(0);
    Upstream { kind: kind.clone(), node, seeds, user: None, password: None, db: 0, tls: None }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(upstream: &str, servers: &[&str]) -> HandoverTerms {
        let servers = servers.iter().map(|&server| server.to_owned()).collect();
        HandoverTerms { upstream: upstream.to_owned(), servers, ..HandoverTerms::default() }
    }

    #[test]
    fn another_server_or_database_is_refused_and_the_same_under_another_name_is_not() {
        let own = terms("redis://a:1", &["x", "y"]);
        assert_eq!(own.fit(&terms("redis://a:1", &["z"])), Ok(()), "it may have been restarted meanwhile");
        assert_eq!(own.fit(&terms("redis://b:1", &["y", "z"])), Ok(()));
        for servers in [&["z"][..], &[]] {
            let why = own.fit(&terms("redis://b:1", servers)).expect_err("nothing shows that it is the same");
            assert!(
                why.contains("redis://a:1") && why.contains("redis://b:1") && why.contains("stop the one"),
                "{why}"
            );
        }
        let why = own.fit(&HandoverTerms { db: 3, ..own.clone() }).expect_err("another database");
        assert!(why.contains("database 3, this one's in 0"), "{why}");
        let why = own.fit(&HandoverTerms { is_cluster: true, ..own.clone() }).expect_err("a node is not its cluster");
        assert!(why.contains("is a cluster, this one's a single server"), "{why}");
    }

    #[test]
    fn who_hears_by_the_channel_alone_has_not_heard_of_what_was_not_said_there() {
        let by = |means: &str, channel: &str| HandoverTerms {
            means: means.to_owned(),
            channel: Some(channel.to_owned()),
            ..HandoverTerms::default()
        };
        assert!(
            by("tracking", "a").has_heard(&by("broadcast", "a")) && by("channel", "a").has_heard(&by("channel", "a"))
        );
        assert!(by("tracking", "a").has_heard(&by("channel", "a")), "Redis tells");
        assert!(!by("channel", "a").has_heard(&by("tracking", "a")) && !by("channel", "a").has_heard(&by("", "a")));
        assert!(
            !by("channel", "a").has_heard(&by("channel", "b")) && !by("tracking", "a").has_heard(&by("tracking", "b"))
        );
    }

    #[test]
    fn the_order_of_seeds_and_who_asks_make_no_other_upstream() {
        let at = |url: &str| {
            let config = Config { upstream: url.parse().expect(url), ..Config::default() };
            place(&config, &config.upstream.node)
        };
        assert_eq!(at("redis+cluster://u:p@b:2,a:1"), at("rediss+cluster://a:1,b:2"));
        assert_ne!(at("redis+sentinel://a:1,b:2/main"), at("redis+sentinel://a:1,b:2/other"));
        let moved = Endpoint::Tcp { host: "c".to_owned(), port: 3 };
        assert_eq!(place(&Config::default(), &moved), "redis://c:3");
    }
}
