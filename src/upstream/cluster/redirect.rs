//! What a node of a cluster says where it does not carry a command out: another one serves the slot, or it is to come again.
//!
//! All of this is decided before a command is run (Redis 7.0, server.c, `processCommand`), and a client that is kept waiting is told it
//! with nothing done; so even a write may be sent again. But a script can answer with such a line when it has written: what may speak
//! for itself is looked into first (`proxy/detour`). Nothing in a line is trusted: it names no node that is connected to.

use crate::command::HashSlot;
use crate::config::{Endpoint, NodeMap};
use crate::metrics::RedirectKind;

/// How each begins.
const WORDS: [(&[u8], RedirectKind); 5] = [
    (b"-MOVED ", RedirectKind::Moved),
    (b"-ASK ", RedirectKind::Ask),
    (b"-TRYAGAIN ", RedirectKind::TryAgain),
    (b"-CLUSTERDOWN ", RedirectKind::ClusterDown),
    (b"-READONLY ", RedirectKind::ReadOnly),
];

/// No such line is longer: a slot, a name of 255 bytes and a port, or a sentence.
const LONGEST: usize = 512;

/// What the first bytes of an error reply may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorLine {
    /// Not one of these lines.
    Other,
    /// More has to be seen.
    Unfinished,
    /// It is whole, and says this.
    Redirect(RedirectKind),
}

impl ErrorLine {
    /// Looks at what there is of an error reply; `whole` with its last byte.
    pub(crate) fn of(bytes: &[u8], whole: bool) -> Self {
        if bytes.len() > LONGEST {
            return Self::Other;
        }
        match WORDS.iter().find(|(word, _)| bytes.starts_with(word)) {
            Some((_, kind)) if whole => Self::Redirect(*kind),
            Some(_) => Self::Unfinished,
            None if !whole && WORDS.iter().any(|(word, _)| word.starts_with(bytes)) => Self::Unfinished,
            None => Self::Other,
        }
    }
}

/// What a whole error reply says, where it is one of these lines.
pub(crate) fn redirect_of(error: &[u8]) -> Option<RedirectKind> {
    match ErrorLine::of(error, true) {
        ErrorLine::Redirect(kind) => Some(kind),
        ErrorLine::Other | ErrorLine::Unfinished => None,
    }
}

/// The slot that another node serves, as `-MOVED slot host:port` says.
pub(crate) fn moved_slot(line: &[u8]) -> Option<HashSlot> {
    redirect_of(line).filter(|kind| *kind == RedirectKind::Moved)?;
    HashSlot::nth(std::str::from_utf8(line).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()?)
}

/// The node that `-ASK slot host:port` names, where it is to be connected to. It has no host where that is the one of the node that says
/// so, which is `asked` (`cluster-preferred-endpoint-type unknown-endpoint`).
pub(crate) fn named_node(line: &[u8], node_map: &NodeMap, asked: &Endpoint) -> Option<Endpoint> {
    let name = std::str::from_utf8(line).ok()?.split_ascii_whitespace().nth(2)?;
    let (host, port) = name.rsplit_once(':')?;
    let host = match (host, asked) {
        ("", Endpoint::Tcp { host, .. }) => host,
        (host, _) => host,
    };
    let endpoint = Endpoint::Tcp { host: host.to_owned(), port: port.parse().ok()? };
    Some(node_map.resolve(endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_known_however_it_is_cut() {
        let known = [
            ("-MOVED 3999 127.0.0.1:6381\r\n", RedirectKind::Moved),
            ("-ASK 3999 127.0.0.1:6381\r\n", RedirectKind::Ask),
            ("-TRYAGAIN Multiple keys request during rehashing of slot\r\n", RedirectKind::TryAgain),
            ("-CLUSTERDOWN Hash slot not served\r\n", RedirectKind::ClusterDown),
            ("-READONLY You can't write against a read only replica.\r\n", RedirectKind::ReadOnly),
        ];
        for (line, kind) in known {
            for end in 1..line.len() {
                assert_eq!(ErrorLine::of(&line.as_bytes()[..end], false), ErrorLine::Unfinished, "{line} to {end}");
            }
            assert_eq!(ErrorLine::of(line.as_bytes(), true), ErrorLine::Redirect(kind));
        }
    }

    #[test]
    fn other_errors_are_not_held_for_long() {
        for (bytes, whole) in [("-ERR MOVED 1 a:1\r\n", true), ("-MOVE", true), ("-MOVED\r\n", true), ("-A", true)] {
            assert_eq!(ErrorLine::of(bytes.as_bytes(), whole), ErrorLine::Other, "{bytes}");
        }
        for bytes in ["-E", "-MOVEs", "-ASKED ", "-READONLY\r"] {
            assert_eq!(ErrorLine::of(bytes.as_bytes(), false), ErrorLine::Other, "{bytes}");
        }
        assert_eq!(moved_slot(b"-MOVED 3999 127.0.0.1:6381\r\n"), HashSlot::nth(3999));
        for line in ["-MOVED 16384 a:1\r\n", "-MOVED x a:1\r\n", "-MOVED \r\n", "-ASK 3999 a:1\r\n"] {
            assert_eq!(moved_slot(line.as_bytes()), None, "{line}");
        }
        let endless = [b"-MOVED ", vec![b'x'; LONGEST].as_slice()].concat();
        assert_eq!(ErrorLine::of(&endless, false), ErrorLine::Other);
    }

    #[test]
    fn the_node_is_the_third_word() {
        let asked = Endpoint::Tcp { host: "asked".into(), port: 1 };
        let named = |line: &[u8]| named_node(line, &NodeMap::default(), &asked).map(|endpoint| endpoint.to_string());
        assert_eq!(named(b"-ASK 3999 :6381\r\n").as_deref(), Some("asked:6381"));
        assert_eq!(named(b"-ASK 3999 10.0.0.1:6381\r\n").as_deref(), Some("10.0.0.1:6381"));
        assert!(named(b"-ASK 3999 ::1:6381\r\n").is_some_and(|address| address.contains("::1")));
        for line in [&b"-ASK 3999\r\n"[..], b"-ASK 3999 \xff:1\r\n", b"-ASK 3999 host\r\n", b"-ASK 3999 h:x\r\n"] {
            assert_eq!(named(line), None);
        }
    }
}
