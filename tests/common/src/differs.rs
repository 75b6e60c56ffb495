//! What in two servers' replies cannot be equal, and how to compare the rest.

use super::value::Value;

/// What in a reply is not compared, because two servers cannot agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Differs {
    Nothing,
    /// HELLO's `id`.
    Id,
    /// Every run of digits: times, process ids, client ids.
    Digits,
    /// The order of what is in it: a hash table's, which every server shuffles anew.
    Order,
}

impl Differs {
    /// The reply without what two servers cannot agree on.
    pub fn blot(self, reply: &[u8]) -> Vec<u8> {
        match self {
            Differs::Nothing => reply.to_vec(),
            // A negative answer is no time but says that there is none.
            Differs::Digits if reply.starts_with(b":-") => reply.to_vec(),
            Differs::Digits => without_digits(reply),
            Differs::Id => without_id(reply),
            Differs::Order => format!("{:?}", in_order(Value::parse(reply))).into_bytes(),
        }
    }
}

fn without_id(reply: &[u8]) -> Vec<u8> {
    let label = b"$2\r\nid\r\n:";
    let (mut out, mut rest) = (Vec::new(), reply);
    while let Some(at) = rest.windows(label.len()).position(|window| window == label) {
        let id = at + label.len();
        out.extend_from_slice(&rest[..id]);
        rest = &rest[id + rest[id..].iter().position(|byte| *byte == b'\r').expect("a whole reply")..];
    }
    out.extend_from_slice(rest);
    out
}

fn without_digits(reply: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    for byte in reply {
        match byte {
            b'0'..=b'9' if out.last() == Some(&b'#') => {}
            b'0'..=b'9' => out.push(b'#'),
            other => out.push(*other),
        }
    }
    out
}

fn in_order(value: Value) -> Value {
    let sorted = |items: Vec<Value>| {
        let mut items: Vec<Value> = items.into_iter().map(in_order).collect();
        items.sort_by_cached_key(|item| format!("{item:?}"));
        items
    };
    match value {
        Value::Array(items) => Value::Array(sorted(items)),
        Value::Set(items) => Value::Set(sorted(items)),
        Value::Map(pairs) => {
            let mut pairs: Vec<_> = pairs.into_iter().map(|(key, value)| (in_order(key), in_order(value))).collect();
            pairs.sort_by_cached_key(|pair| format!("{pair:?}"));
            Value::Map(pairs)
        }
        other => other,
    }
}
