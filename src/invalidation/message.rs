//! The envelope that a fleet passes around on its channel: JSON in, a value out, and back.
//!
//! Owns the wire shape and nothing else: no sockets, no cache, no opinion on what a message should make happen. The
//! shape is that of the Rust crate multi-tier-cache 0.6, so that programs built on it and crema understand each
//! other: what that crate accepts is accepted here, what is written here it reads, but for `ForgetAll` and `Forget`. `channel`
//! reads with it; whoever has something to tell the fleet writes with it.
//!
//! Keys are JSON strings, so a key that is not UTF-8 can be named by `Forget` alone, which is crema's own; the types ask for
//! `String` and leave it to the caller to notice.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest payload that is looked at, in bytes. An `Update` carries its value in hex, so this is a value of half
/// a mebibyte; whoever sends more than that through a channel is better served by `Remove`.
pub(crate) const MAX_PAYLOAD: usize = 1024 * 1024;

/// How much of an unknown type's name is kept for the log.
const KIND_SHOWN: usize = 64;

/// One payload of the channel: what to do, and who says so.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Envelope {
    /// The sender, so that it can tell its own echo. Old senders leave it out, or say `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_id: Option<String>,
    /// What it says.
    #[serde(flatten)]
    pub message: Message,
}

/// What a sender says about keys. Fields that a type does not have are skipped, whatever they hold.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "type")]
pub(crate) enum Message {
    /// This key is gone or has changed.
    Remove {
        /// The key.
        key: String,
    },
    /// These keys are gone or have changed.
    RemoveBulk {
        /// The keys, in no order that means anything.
        keys: Vec<String>,
    },
    /// Every key that the glob matches is gone or has changed.
    RemovePattern {
        /// The glob. multi-tier-cache knows `*` only; Redis also `?`, `[..]` and `\`.
        pattern: String,
    },
    /// Everything is to be forgotten that is in memory, and nothing is gone. Of crema alone: multi-tier-cache does not know it
    /// and skips it, where `RemovePattern` has it delete keys in Redis.
    ForgetAll,
    /// These keys have changed. Of crema alone, as `ForgetAll` is and for the same reason: what a write says of itself where
    /// the channel carries coherence.
    Forget {
        /// The keys that are UTF-8.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        keys: Vec<String>,
        /// Those that are not.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        hex: Vec<Bytes>,
    },
    /// This key has a new value. The value may be older than what Redis holds by the time it is heard.
    Update {
        /// The key.
        key: String,
        /// The new value; two hexadecimal digits a byte on the wire, written in lower case, read in either.
        #[serde(with = "hex")]
        value: Vec<u8>,
        /// The value's time to live in seconds, where the sender knew one.
        #[serde(skip_serializing_if = "Option::is_none")]
        ttl_secs: Option<u64>,
    },
}

/// Bytes that are written as text, two hexadecimal digits each.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Bytes(#[serde(with = "hex")] pub Vec<u8>);

/// Why a payload was not understood. None of these is worth a retry: the same bytes fail again.
#[derive(Debug, Error)]
pub(crate) enum MalformedMessage {
    /// Longer than [`MAX_PAYLOAD`]; its content was not looked at.
    #[error("payload of {0} bytes, of which at most {MAX_PAYLOAD} are read")]
    TooLarge(usize),
    /// Proper JSON with a `type` that this version does not have. Holds the type's name, cut short.
    #[error("unknown type {0:?}")]
    UnknownType(String),
    /// Not JSON, or not the fields that its type asks for.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

impl Envelope {
    /// Reads one payload.
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, MalformedMessage> {
        if payload.len() > MAX_PAYLOAD {
            return Err(MalformedMessage::TooLarge(payload.len()));
        }
        serde_json::from_slice(payload).map_err(|error| match unknown_type(payload) {
            Some(kind) => MalformedMessage::UnknownType(kind),
            None => MalformedMessage::Json(error),
        })
    }

    /// Writes the payload that [`Envelope::parse`] reads. It may be longer than [`MAX_PAYLOAD`], which receivers skip:
    /// a sender of long updates or bulks checks the length, and says it shorter.
    #[must_use]
    #[allow(clippy::missing_panics_doc, reason = "it cannot happen")]
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and sequences always have a JSON form")
    }
}

/// The type that a payload names, if it is one that [`Message`] lacks. Asked only when reading has failed, so that
/// what is well-formed is read once.
fn unknown_type(payload: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "type")]
        kind: String,
    }
    // The map keeps arrays out, which serde would take for a struct given by position.
    #[derive(Deserialize)]
    struct Head {
        #[serde(flatten)]
        typed: Typed,
    }

    let kind = serde_json::from_slice::<Head>(payload).ok()?.typed.kind;
    let known = matches!(kind.as_str(), "Remove" | "RemoveBulk" | "RemovePattern" | "Update" | "ForgetAll" | "Forget");
    (!known).then(|| kind.chars().take(KIND_SHOWN).collect())
}

mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    const DIGITS: &[u8; 16] = b"0123456789abcdef";

    pub(super) fn serialize<S: Serializer>(value: &[u8], out: S) -> Result<S::Ok, S::Error> {
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 0xf)]);
        let text: String = value.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte)]).collect();
        out.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(input)?;
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return Err(D::Error::custom("an odd number of hexadecimal digits"));
        }
        pairs
            .iter()
            .map(|&[high, low]| Some(nibble(high)? << 4 | nibble(low)?))
            .collect::<Option<_>>()
            .ok_or_else(|| D::Error::custom("a character that is no hexadecimal digit"))
    }

    fn nibble(digit: u8) -> Option<u8> {
        char::from(digit).to_digit(16).map(|value| value as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(payload: &str) -> Result<Envelope, MalformedMessage> {
        Envelope::parse(payload.as_bytes())
    }

    fn from_a(message: Message) -> Envelope {
        Envelope { origin_id: Some("a".to_owned()), message }
    }

    fn every_kind() -> [(Envelope, &'static str); 8] {
        [
            (from_a(Message::Remove { key: "k".to_owned() }), r#"{"origin_id":"a","type":"Remove","key":"k"}"#),
            (
                from_a(Message::RemoveBulk { keys: vec!["k".to_owned(), "\"é\n".to_owned()] }),
                r#"{"origin_id":"a","type":"RemoveBulk","keys":["k","\"é\n"]}"#,
            ),
            (
                from_a(Message::RemovePattern { pattern: "user:*".to_owned() }),
                r#"{"origin_id":"a","type":"RemovePattern","pattern":"user:*"}"#,
            ),
            (
                from_a(Message::Update { key: "k".to_owned(), value: vec![0, 0x1f, 0xff], ttl_secs: Some(60) }),
                r#"{"origin_id":"a","type":"Update","key":"k","value":"001fff","ttl_secs":60}"#,
            ),
            (
                from_a(Message::Update { key: String::new(), value: vec![], ttl_secs: None }),
                r#"{"origin_id":"a","type":"Update","key":"","value":""}"#,
            ),
            (
                from_a(Message::Forget { keys: vec!["k".to_owned()], hex: vec![] }),
                r#"{"origin_id":"a","type":"Forget","keys":["k"]}"#,
            ),
            (
                from_a(Message::Forget { keys: vec![], hex: vec![Bytes(vec![0xff, 0])] }),
                r#"{"origin_id":"a","type":"Forget","hex":["ff00"]}"#,
            ),
            (
                Envelope { origin_id: None, message: Message::Remove { key: "k".to_owned() } },
                r#"{"type":"Remove","key":"k"}"#,
            ),
        ]
    }

    #[test]
    fn every_kind_is_written_as_the_fleet_writes_it_and_read_back() {
        for (envelope, json) in every_kind() {
            assert_eq!(String::from_utf8(envelope.encode()).expect("JSON is UTF-8"), json);
            assert_eq!(parse(json).expect(json), envelope);
        }
    }

    #[test]
    fn order_white_space_and_fields_that_a_type_lacks_do_not_matter() {
        let plain = from_a(Message::Remove { key: "k".to_owned() });
        for json in [
            r#"{"key":"k","type":"Remove","origin_id":"a"}"#,
            " {\n\"origin_id\" : \"a\", \"type\":\"Remove\",\"key\":\"\\u006b\" }\r\n",
            r#"{"origin_id":"a","v":2,"type":"Remove","key":"k","keys":7,"trace":{"id":[1,null,true]}}"#,
        ] {
            assert_eq!(parse(json).expect(json), plain, "{json}");
        }
        assert_eq!(parse(r#"{"origin_id":null,"type":"Remove","key":"k"}"#).expect("null").origin_id, None);
    }

    #[test]
    fn hex_is_read_in_either_case_and_an_absent_ttl_may_be_spelled_null() {
        let json = r#"{"type":"Update","key":"k","value":"00aAFf","ttl_secs":null}"#;
        let update = Message::Update { key: "k".to_owned(), value: vec![0, 0xaa, 0xff], ttl_secs: None };
        assert_eq!(parse(json).expect(json).message, update);
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_a_panic() {
        for json in [
            "",
            "null",
            "7",
            "\"Remove\"",
            "{",
            "{}",
            r#"{"key":"k"}"#,
            r#"{"type":7,"key":"k"}"#,
            r#"{"type":"Remove"}"#,
            r#"{"type":"Remove","key":7}"#,
            r#"{"type":"Remove","key":"a","key":"b"}"#,
            r#"{"type":"Remove","type":"Update","key":"a"}"#,
            r#"{"type":"Remove","key":"k"} {}"#,
            r#"{"type":"Remove","key":"k","origin_id":7}"#,
            r#"{"type":"Remove","key":"\ud800"}"#,
            r#"{"type":"RemoveBulk","keys":"k"}"#,
            r#"{"type":"RemoveBulk","keys":["k",7]}"#,
            r#"{"type":"RemovePattern","key":"k"}"#,
            r#"{"type":"Update","key":"k"}"#,
            r#"{"type":"Update","key":"k","value":"0"}"#,
            r#"{"type":"Update","key":"k","value":"0g"}"#,
            r#"{"type":"Update","key":"k","value":"é"}"#,
            r#"{"type":"Update","key":"k","value":"00","ttl_secs":-1}"#,
            r#"{"type":"Update","key":"k","value":"00","ttl_secs":1.5}"#,
            r#"["a","Remove","k"]"#,
            r#"["Nonsense"]"#,
        ] {
            assert!(matches!(parse(json), Err(MalformedMessage::Json(_))), "{json}: {:?}", parse(json));
        }
        assert!(matches!(Envelope::parse(b"{\"type\":\"Remove\",\"key\":\"\xff\"}"), Err(MalformedMessage::Json(_))));
    }

    #[test]
    fn deep_nesting_does_not_use_up_the_stack() {
        let deep = format!(r#"{{"type":"Remove","key":"k","x":{}"#, "[".repeat(500_000));
        assert!(matches!(parse(&deep), Err(MalformedMessage::Json(_))));
    }

    #[test]
    fn a_type_of_a_later_version_is_told_from_nonsense() {
        let json = r#"{"origin_id":"a","type":"Freeze","key":7}"#;
        assert!(matches!(parse(json), Err(MalformedMessage::UnknownType(kind)) if kind == "Freeze"));
        assert!(
            matches!(parse(r#"{"type":"remove","key":"k"}"#), Err(MalformedMessage::UnknownType(_))),
            "case counts"
        );

        let long = format!(r#"{{"type":"{}"}}"#, "é".repeat(100_000));
        assert!(matches!(parse(&long), Err(MalformedMessage::UnknownType(kind)) if kind.chars().count() == KIND_SHOWN));
    }

    #[test]
    fn the_limit_is_on_the_payload_and_is_exact() {
        let with_length = |length: usize| {
            let frame = r#"{"type":"Remove","key":""}"#.len();
            format!(r#"{{"type":"Remove","key":"{}"}}"#, "k".repeat(length - frame))
        };
        assert!(parse(&with_length(MAX_PAYLOAD)).is_ok());
        let over = parse(&with_length(MAX_PAYLOAD + 1));
        assert!(matches!(over, Err(MalformedMessage::TooLarge(length)) if length == MAX_PAYLOAD + 1));
    }
}
