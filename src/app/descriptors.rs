//! File descriptors: how many the process may have, and what is done where clients and upstream together may need more.
//!
//! A client without a descriptor left for its upstream connection could be accepted and never served. So what the process
//! itself and the upstream need is set apart, and `max_clients` is lowered to what fits, as Redis does (server.c,
//! `adjustOpenFilesLimit`). Called by `app` before anything is opened.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::admin::MAX_CONNECTIONS;
use crate::config::Config;

/// What the process has open whatever is configured: its log, the runtime of the control thread, signals, look-ups of names.
const OWN: usize = 32;
/// What a worker's runtime has open.
const WORKER: usize = 4;

/// Raises the limit of open files to what `config` may need, as far as the system lets us, and lowers `config` to what fits.
pub(super) fn fit(config: &mut Config) {
    let own = own(config);
    let needed = own + config.max_clients + config.max_upstream;
    let limit = raise(needed);
    if limit >= needed {
        return;
    }
    let (clients, upstream) = share(limit.saturating_sub(own), config.max_clients, config.max_upstream);
    let upstream = upstream.max(config.least_upstream());
    warn!(
        open_files = limit,
        needed,
        "max_clients is {clients} instead of {}, max_upstream {upstream} instead of {}: there are too few open files; \
         raise `ulimit -n` to {needed}",
        config.max_clients,
        config.max_upstream
    );
    (config.max_clients, config.max_upstream) = (clients, upstream);
}

/// What the process has open beside clients and upstream.
fn own(config: &Config) -> usize {
    let admin = config.admin.map_or(0, |_| MAX_CONNECTIONS + 1);
    OWN + WORKER * config.threads.get() + config.listen.len() + admin
}

/// How many connections each of so many nodes may have: `max_upstream`, as far as the system lets us.
pub(super) fn for_each_of(nodes: usize, config: &Config) -> usize {
    let clients = own(config) + config.max_clients;
    let needed = clients + nodes * config.max_upstream;
    let limit = raise(needed);
    let each = (limit.saturating_sub(clients) / nodes.max(1)).clamp(config.least_upstream(), config.max_upstream);
    if each < config.max_upstream {
        warn!(
            open_files = limit,
            needed,
            "each of {nodes} nodes may have {each} connections instead of {}: there are too few open files; raise `ulimit -n` to {needed}",
            config.max_upstream
        );
    }
    each
}

/// Raises the limit to `needed` where that is allowed; what it is then.
fn raise(needed: usize) -> usize {
    let needed = needed as u64;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < needed) {
        let raised = maximum.map_or(needed, |maximum| needed.min(maximum));
        // Refused, the old limit stands, which is asked for next.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum });
    }
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// `left` descriptors among clients and upstream, each no more than wanted. Clients share lanes, so the upstream has a third,
/// or what clients do not want.
fn share(left: usize, clients: usize, upstream: usize) -> (usize, usize) {
    let upstream = upstream.min((left / 3).max(left.saturating_sub(clients)));
    (clients.min(left - upstream).max(1), upstream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_is_left_room() {
        assert_eq!(share(150, 10_000, 1_000), (100, 50));
        assert_eq!(share(3_000, 10_000, 1_000), (2_000, 1_000));
        assert_eq!(share(9_000, 10_000, 1_000), (8_000, 1_000), "the upstream wants no more");
        assert_eq!(share(900, 100, 1_000), (100, 800), "clients want no more");
        assert_eq!(share(0, 100, 100), (1, 0));
    }
}
