//! Telling replies from messages on a private connection that subscribed or monitors.
//!
//! RESP3 marks a message by its type byte. RESP2 does not: there a message is an array whose first element says `message`,
//! and a subscriber may only run commands whose replies cannot look like one (Redis, `processCommand`, "Only
//! (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context").

/// How the channels begin on which a server tells what happens to its keys.
pub(crate) const KEY_EVENTS: [&[u8]; 2] = [b"__keyspace@", b"__keyevent@"];

/// What a whole reply on such a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Announced {
    /// The answer to a (un)subscribe command, with the number of subscriptions left of its kind.
    Confirmation { shard: bool, left: u64 },
    /// A published message, an invalidation, anything else that Redis sends unasked.
    Published,
}

/// What a subscriber's connection is known to be.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// Subscriptions to channels and patterns, and to shard channels.
    left: [u64; 2],
    /// It speaks RESP3: messages are pushes, and an array is a reply whatever it looks like.
    pushes: bool,
}

impl Subscriptions {
    /// A confirmation that was awaited: so many are left of its kind.
    pub(super) fn confirmed(&mut self, shard: bool, left: u64, push: bool) {
        self.are_left(shard, left);
        self.pushes = push;
    }

    /// How many there are: to channels and patterns, and to shard channels.
    pub(super) fn counts(&self) -> [u64; 2] {
        self.left
    }

    /// So many are left.
    pub(super) fn are_left(&mut self, shard: bool, left: u64) {
        self.left[usize::from(shard)] = left;
    }

    /// Whether what looks like a message is one, rather than a reply: `quiet` where no reply is awaited.
    pub(super) fn may_say(&self, kind: u8, quiet: bool) -> bool {
        kind == b'>' || !self.pushes && (quiet || self.left != [0, 0])
    }
}

/// Looks at a whole array or push. `None`: it is an ordinary reply.
pub(super) fn classify(reply: &[u8]) -> Option<Announced> {
    let push = reply.first() == Some(&b'>');
    let word = first_word(reply)?;
    match word {
        b"subscribe" | b"unsubscribe" | b"psubscribe" | b"punsubscribe" => {
            Some(Announced::Confirmation { shard: false, left: last_integer(reply)? })
        }
        b"ssubscribe" | b"sunsubscribe" => Some(Announced::Confirmation { shard: true, left: last_integer(reply)? }),
        b"message" | b"pmessage" | b"smessage" => Some(Announced::Published),
        _ => push.then_some(Announced::Published),
    }
}

/// Whether a message is one that no other node of a cluster tells: of a shard channel, or of what happens to a key.
pub(crate) fn is_told_by_one_node(message: &[u8]) -> bool {
    let Some(word) = first_word(message) else { return false };
    let channel = match word {
        b"smessage" | b"sunsubscribe" => return true,
        b"message" => 1,
        b"pmessage" => 2,
        _ => return false,
    };
    let channel = bulk_at(message, channel);
    channel.is_some_and(|channel| KEY_EVENTS.iter().any(|prefix| channel.starts_with(prefix)))
}

/// Whether a simple string is a line of `MONITOR`: `+1339518083.107412 [0 127.0.0.1:60866] "keys" "*"`.
pub(super) fn is_monitor_line(reply: &[u8]) -> bool {
    let Some(line) = reply.strip_prefix(b"+") else { return false };
    let digits = line.iter().take_while(|b| b.is_ascii_digit()).count();
    digits > 0 && line.get(digits) == Some(&b'.') && line.windows(2).any(|w| w == b" [")
}

/// The first element of an array or push, where it is a bulk string.
fn first_word(reply: &[u8]) -> Option<&[u8]> {
    bulk_at(reply, 0)
}

/// The element at that place of an array or push, where it and all before it are bulk strings.
fn bulk_at(reply: &[u8], place: usize) -> Option<&[u8]> {
    if !matches!(reply.first(), Some(b'*' | b'>')) {
        return None;
    }
    let mut rest = after_line(reply)?;
    for left in (0..=place).rev() {
        let (header, body) = (rest.strip_prefix(b"$")?, after_line(rest)?);
        let digits = header.iter().take_while(|b| b.is_ascii_digit()).count();
        let len: usize = std::str::from_utf8(&header[..digits]).ok()?.parse().ok()?;
        if left == 0 {
            return body.get(..len);
        }
        rest = body.get(len..)?.strip_prefix(b"\r\n")?;
    }
    None
}

/// The integer at the end of a confirmation.
fn last_integer(reply: &[u8]) -> Option<u64> {
    let line = reply.strip_suffix(b"\r\n")?;
    let colon = line.iter().rposition(|&b| b == b':')?;
    std::str::from_utf8(&line[colon + 1..]).ok()?.parse().ok()
}

fn after_line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(2).position(|w| w == b"\r\n")?;
    bytes.get(end + 2..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirmations_and_messages_are_told_from_replies() {
        let confirmation = |shard, left| Some(Announced::Confirmation { shard, left });
        assert_eq!(classify(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"), confirmation(false, 1));
        assert_eq!(classify(b">3\r\n$10\r\nssubscribe\r\n$1\r\na\r\n:2\r\n"), confirmation(true, 2));
        assert_eq!(classify(b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"), confirmation(false, 0));
        assert_eq!(classify(b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n"), Some(Announced::Published));
        assert_eq!(classify(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"), Some(Announced::Published));
        assert_eq!(classify(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"), None);
        assert_eq!(classify(b"*1\r\n:1\r\n"), None);
        assert_eq!(classify(b"+OK\r\n"), None);
    }

    #[test]
    fn what_one_node_alone_tells_is_known() {
        let message = |words: &[&str]| {
            let bulk = |word: &&str| format!("${}\r\n{word}\r\n", word.len());
            format!(">{}\r\n{}", words.len(), words.iter().map(bulk).collect::<String>())
        };
        for (words, told) in [
            (&["message", "__keyspace@0__:k", "set"][..], true),
            (&["message", "news", "__keyspace@0__:k"], false),
            (&["pmessage", "__key*", "__keyevent@0__:set", "k"], true),
            (&["pmessage", "__keyspace@*", "news", "x"], false),
            (&["smessage", "news", "x"], true),
            (&["invalidate", "__keyspace@0__:k"], false),
        ] {
            assert_eq!(is_told_by_one_node(message(words).as_bytes()), told, "{words:?}");
        }
        assert!(is_told_by_one_node(b"*3\r\n$12\r\nsunsubscribe\r\n$1\r\na\r\n:0\r\n"));
        assert!(!is_told_by_one_node(b"*3\r\n$9\r\nsubscribe\r\n$11\r\n__keyspace@\r\n:0\r\n"));
    }

    #[test]
    fn a_monitor_line_is_not_a_status() {
        assert!(is_monitor_line(b"+1339518083.107412 [0 127.0.0.1:60866] \"keys\" \"*\"\r\n"));
        assert!(!is_monitor_line(b"+OK\r\n"));
        assert!(!is_monitor_line(b"+1.5\r\n"));
    }
}
