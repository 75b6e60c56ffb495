//! What the server can do, as far as fills depend on it: asked of it once on each connection of an ear.

use redis_protocol::resp3::decode::complete::decode;
use redis_protocol::resp3::types::OwnedFrame;

/// The command that gives hash fields a time to live: where there is none, they have none.
const FIELD_TTL: &[u8] = b"hpexpire";

/// What `COMMAND INFO` told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Survey {
    /// Whether hash fields may have times to live of their own, which PTTL does not show.
    pub(super) field_ttls: bool,
}

impl Survey {
    /// The question.
    pub(super) fn question() -> Vec<&'static [u8]> {
        vec![b"COMMAND", b"INFO", FIELD_TTL]
    }

    /// Reads the answer. Where there is none, the server can do what would forbid most.
    pub(super) fn read(reply: &[u8]) -> Self {
        let Ok(Some((OwnedFrame::Array { data: told, .. }, _))) = decode(reply) else {
            return Self { field_ttls: true };
        };
        let knows = |name: &[u8]| told.iter().any(|entry| is_of(entry, name));
        Self { field_ttls: knows(FIELD_TTL) }
    }
}

/// Whether an entry of the answer, which is null for a command that there is not, is of this command.
fn is_of(entry: &OwnedFrame, name: &[u8]) -> bool {
    let OwnedFrame::Array { data, .. } = entry else { return false };
    matches!(data.first(), Some(OwnedFrame::BlobString { data, .. }) if data.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_knows_the_command_has_field_ttls_and_so_has_one_that_does_not_say() {
        let told = b"*1\r\n*6\r\n$8\r\nhpexpire\r\n:-6\r\n~1\r\n+write\r\n:1\r\n:1\r\n:1\r\n";
        assert!(Survey::read(told).field_ttls);
        assert!(!Survey::read(b"*1\r\n_\r\n").field_ttls);
        for unclear in [&b"-NOPERM no\r\n"[..], b"-", b":1\r\n"] {
            assert!(Survey::read(unclear).field_ttls);
        }
    }
}
