//! The settings against each other, once each alone is right. Every conflict is noted where the first of its settings was set.

use std::net::{IpAddr, Ipv4Addr};

use super::raw::{Key, Layers, key};
use super::{
    Auth, CertificateUser, Channel, Coherence, Config, Endpoint, Listen, Problem, ReadFrom, UpstreamKind, units,
};
use crate::net::tls::{Acceptor, ClientCertificates, Dialer};

/// Notes with `layers` whatever does not go together.
pub(super) fn note_conflicts(config: &Config, layers: &Layers) {
    let found = addresses(config)
        .into_iter()
        .chain(tls(config))
        .chain(certificate_users(config))
        .chain(limits(config))
        .chain(replicas(config))
        .chain(password(config));
    let found = found.chain(coherence(config, layers));
    for Conflict(keys, problem) in found.chain(users(config, layers)).chain(channel(&config.channel)) {
        layers.note(layers.refuse(&keys, problem));
    }
}

/// Settings that do not go together, the one to change first.
struct Conflict(Vec<Key>, Problem);

fn addresses(config: &Config) -> Vec<Conflict> {
    let mut found = Vec::new();
    if let Some(admin) = config.admin
        && let Some(taken) = config.listen.iter().find(|listen| listen.clashes(&Listen::plain(admin)))
    {
        let problem = Problem::new(
            format!("clients at {taken} and admin at {admin} share an address"),
            "give one of listen and admin another port, or write admin = \"off\"",
        );
        found.push(Conflict(vec![key!(admin), key!(listen)], problem));
    }
    if let Some(own) = config.listen.iter().find(|listen| is_own(listen, &config.upstream.node)) {
        let problem = Problem::new(
            format!("the upstream is crema itself, which listens at {own}"),
            "give the address of Redis as upstream, or another one to listen on",
        );
        found.push(Conflict(vec![key!(upstream), key!(listen)], problem));
    }
    found
}

/// Whether connections to `node` would come back to `listen`. Only addresses are told; a name could stand for any.
pub(super) fn is_own(listen: &Listen, node: &Endpoint) -> bool {
    match (listen, node) {
        (Listen::Unix(path), Endpoint::Unix(node)) => path == node,
        (Listen::Tcp { address, .. }, Endpoint::Tcp { host, port }) if address.port() == *port => {
            let node = if host == "localhost" { Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { host.parse() };
            node.is_ok_and(|node: IpAddr| node == address.ip() || (address.ip().is_unspecified() && node.is_loopback()))
        }
        _ => false,
    }
}

/// Files are read here, so that a wrong one is told before anything is started.
fn tls(config: &Config) -> Vec<Conflict> {
    let mut found = Vec::new();
    if let Some(tls) = &config.upstream.tls
        && let Err(error) = Dialer::new(tls)
    {
        let problem = Problem::new(error.to_string(), "give files that crema can read in the options of the URL");
        found.push(Conflict(vec![key!(upstream)], problem));
    }
    let listen = config.listen.iter().find(|listen| listen.is_secure());
    match (&config.tls, listen) {
        (None, Some(listen)) => {
            let wrong = format!("{listen} has no certificate to show");
            let problem = Problem::new(wrong, "give the files tls_cert and tls_key");
            found.push(Conflict(vec![key!(listen)], problem));
        }
        (Some(tls), _) => {
            if tls.clients != ClientCertificates::None && tls.client_ca.is_none() {
                let wrong = "it is not said who signs the certificates of clients";
                let problem = Problem::new(wrong, "give the file tls_client_ca");
                found.push(Conflict(vec![key!(tls_client_auth)], problem));
            } else if let Err(error) = Acceptor::new(tls) {
                let problem = Problem::new(error.to_string(), "give PEM files that crema can read");
                found.push(Conflict(vec![key!(tls_cert), key!(tls_key)], problem));
            }
        }
        (None, None) => {}
    }
    found
}

/// A certificate can stand for a password only where crema shows Redis another one in its place.
fn certificate_users(config: &Config) -> Option<Conflict> {
    let asked = config.tls.as_ref().is_some_and(|tls| tls.clients != ClientCertificates::None);
    match (config.tls_client_user, &config.auth) {
        (CertificateUser::Off, _) => None,
        (_, Auth::Upstream | Auth::Open) => {
            let wrong = "a certificate holds no password that Redis could be shown, and crema has users of its own only with auth = \"own\"";
            let right = "write auth = \"own\" and a [[user]] for each name, or tls_client_user = \"off\"";
            Some(Conflict(vec![key!(tls_client_user), key!(auth)], Problem::new(wrong, right)))
        }
        (_, Auth::Own(_)) if !asked => {
            let wrong = "clients are not asked for certificates, so none can name a user";
            let right = "write tls_client_auth = \"optional\" or \"required\", and give tls_client_ca";
            Some(Conflict(vec![key!(tls_client_user), key!(tls_client_auth)], Problem::new(wrong, right)))
        }
        (_, Auth::Own(_)) => None,
    }
}

/// The password of the user in `upstream` is given once.
fn password(config: &Config) -> Option<Conflict> {
    let written = config.upstream.password.as_ref().is_some_and(|password| !password.expose().is_empty());
    (written && config.upstream_password.is_some()).then(|| {
        let right = "leave it out of the URL: redis://user:@host";
        let problem = Problem::new("the upstream URL gives a password that stands elsewhere as well", right);
        Conflict(vec![key!(upstream_password_file), key!(upstream_password_command)], problem)
    })
}

/// Of a single server nobody says which replicas it has.
fn replicas(config: &Config) -> Option<Conflict> {
    (config.read_from == ReadFrom::Replica && config.upstream.kind == UpstreamKind::Single).then(|| {
        let wrong = "the upstream is a single server, of which crema knows no replicas";
        let right = "write read_from = \"master\", or name a cluster or its Sentinels: upstream = \"redis+cluster://..\", \"redis+sentinel://..\"";
        Conflict(vec![key!(read_from), key!(upstream)], Problem::new(wrong, right))
    })
}

fn limits(config: &Config) -> Vec<Conflict> {
    let mut found = Vec::new();
    let (value, memory) = (config.max_value, config.l1_size);
    if memory != 0 && value > memory {
        let wrong = format!("a reply of {} would not fit in {}", units::show_size(value), units::show_size(memory));
        let problem = Problem::new(wrong, "write a max_value of at most l1_size");
        found.push(Conflict(vec![key!(max_value), key!(l1_size)], problem));
    }
    let least = config.least_upstream();
    if config.max_upstream < least {
        let problem = Problem::new(
            format!("{} upstream connections are too few for {} threads", config.max_upstream, config.threads),
            format!("write a max_upstream of at least {least}: one a thread, one to track keys, one to lend"),
        );
        found.push(Conflict(vec![key!(max_upstream), key!(threads)], problem));
    }
    found
}

fn coherence(config: &Config, layers: &Layers) -> Vec<Conflict> {
    let mut found = Vec::new();
    let coherence = &config.coherence;
    if !matches!(coherence, Coherence::Broadcast(_)) && layers.gives_other(key!(broadcast_prefixes), "all") {
        let meaningless = format!("prefixes mean nothing to {}", coherence.as_str());
        let problem = Problem::new(meaningless, "write coherence = \"broadcast\" too");
        found.push(Conflict(vec![key!(broadcast_prefixes)], problem));
    }
    if *coherence == Coherence::Channel && !config.channel.enabled {
        let problem = Problem::new(
            "a channel that is not enabled cannot keep memory coherent",
            "write channel.enabled = true, or another coherence",
        );
        found.push(Conflict(vec![key!(channel.enabled), key!(coherence)], problem));
    }
    found
}

fn users(config: &Config, layers: &Layers) -> Option<Conflict> {
    let problem = match &config.auth {
        Auth::Own(users) if users.is_empty() => {
            Problem::new("nobody could log in", "write at least one [[user]] with name and password")
        }
        Auth::Upstream | Auth::Open if !layers.users().is_empty() => Problem::new(
            "users of crema's own stand in the file, and nobody is asked for them",
            "write auth = \"own\", or leave out [[user]]",
        ),
        _ => return None,
    };
    Some(Conflict(vec![key!(auth)], problem))
}

fn channel(channel: &Channel) -> Option<Conflict> {
    if channel.publish && !channel.enabled {
        let problem = Problem::new(
            "a channel that is not enabled cannot be published to",
            "write enabled = true or publish = false",
        );
        return Some(Conflict(vec![key!(channel.publish), key!(channel.enabled)], problem));
    }
    (channel.audit_stream.is_some() && !channel.publish).then(|| {
        let problem =
            Problem::new("an audit stream keeps what is published, which is nothing", "write publish = true too");
        Conflict(vec![key!(channel.audit_stream), key!(channel.publish)], problem)
    })
}
