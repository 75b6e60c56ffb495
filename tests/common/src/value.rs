//! RESP replies as values, and where one reply ends in a stream of bytes.
//!
//! Written for tests: strict (anything unexpected is an error), simple, and independent of the proxy's own codec.

/// One reply. Both protocols' nulls are [`Value::Nil`]; what else differs between them stays different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Nil,
    Simple(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Set(Vec<Value>),
    Push(Vec<Value>),
    Bool(bool),
    /// Doubles, big numbers and verbatim strings, as written.
    Other(u8, String),
}

pub fn ok() -> Value {
    simple("OK")
}

pub fn simple(text: &str) -> Value {
    Value::Simple(text.to_owned())
}

pub fn bulk(text: impl AsRef<[u8]>) -> Value {
    Value::Bulk(text.as_ref().to_vec())
}

pub fn int(n: i64) -> Value {
    Value::Int(n)
}

pub fn array(items: impl IntoIterator<Item = Value>) -> Value {
    Value::Array(items.into_iter().collect())
}

impl Value {
    /// Reads one whole reply; panics on anything else, for [`Scan`] has already found its end.
    pub fn parse(raw: &[u8]) -> Value {
        let mut at = 0;
        let value = parse_at(raw, &mut at);
        assert_eq!(at, raw.len(), "bytes after a reply: {}", shown(raw));
        value
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Value::Error(_))
    }

    pub fn is_nil(&self) -> bool {
        *self == Value::Nil
    }

    /// The text of a string or an error; empty for all else.
    pub fn text(&self) -> String {
        match self {
            Value::Simple(text) | Value::Error(text) | Value::Other(_, text) => text.clone(),
            Value::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        }
    }

    #[track_caller]
    pub fn number(&self) -> i64 {
        match self {
            Value::Int(n) => *n,
            Value::Bulk(_) | Value::Simple(_) => self.text().parse().expect("a number in a string"),
            other => panic!("no number: {other:?}"),
        }
    }

    /// A field of a map, whichever protocol shows it.
    #[track_caller]
    pub fn field(&self, name: &str) -> String {
        let found = match self {
            Value::Map(pairs) => pairs.iter().find(|(key, _)| key.text() == name).map(|(_, value)| value),
            flat => flat.items().chunks(2).find(|pair| pair[0].text() == name).map(|pair| &pair[1]),
        };
        found.unwrap_or_else(|| panic!("no {name} in {self:?}")).text()
    }

    /// The elements of an array, a set or a push.
    #[track_caller]
    pub fn items(&self) -> &[Value] {
        match self {
            Value::Array(items) | Value::Set(items) | Value::Push(items) => items,
            other => panic!("no list: {other:?}"),
        }
    }
}

fn parse_at(raw: &[u8], at: &mut usize) -> Value {
    let kind = raw[*at];
    let text = line(raw, at);
    let count = || text.parse::<i64>().expect("a count");
    let mut list = |n: i64| (0..n).map(|_| parse_at(raw, at)).collect::<Vec<_>>();
    match kind {
        b'+' => Value::Simple(text),
        b'-' => Value::Error(text),
        b':' => Value::Int(count()),
        b'_' => Value::Nil,
        b'#' => Value::Bool(text == "t"),
        b',' | b'(' => Value::Other(kind, text),
        b'$' | b'*' if count() == -1 => Value::Nil,
        b'$' | b'=' | b'!' => {
            let len = usize::try_from(count()).expect("a length");
            let body = raw[*at..*at + len].to_vec();
            *at += len + 2;
            match kind {
                b'$' => Value::Bulk(body),
                b'!' => Value::Error(String::from_utf8_lossy(&body).into_owned()),
                _ => Value::Other(kind, String::from_utf8_lossy(&body).into_owned()),
            }
        }
        b'*' => Value::Array(list(count())),
        b'~' => Value::Set(list(count())),
        b'>' => Value::Push(list(count())),
        b'%' => {
            let flat = list(2 * count());
            Value::Map(flat.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
        }
        b'|' => {
            list(2 * count());
            parse_at(raw, at)
        }
        other => panic!("no RESP type: {:?}", other as char),
    }
}

fn line(raw: &[u8], at: &mut usize) -> String {
    let len = raw[*at..].windows(2).position(|two| two == b"\r\n").expect("a whole line");
    let text = String::from_utf8_lossy(&raw[*at + 1..*at + len]).into_owned();
    *at += len + 2;
    text
}

/// Finds the end of one reply, going on where it stopped when more bytes have come.
#[derive(Debug)]
pub struct Scan {
    at: usize,
    missing: u64,
}

impl Default for Scan {
    fn default() -> Self {
        Scan { at: 0, missing: 1 }
    }
}

impl Scan {
    /// The length of the reply at the start of `buf`, or `None` while it is incomplete. `buf` only ever grows.
    pub fn end(&mut self, buf: &[u8]) -> Result<Option<usize>, String> {
        while self.missing > 0 {
            let rest = &buf[self.at..];
            let Some(eol) = rest.windows(2).position(|two| two == b"\r\n") else {
                return match rest.first() {
                    Some(kind) if !b"+-:_#,($=!*~>%|".contains(kind) => Err(format!("no reply: {}", shown(rest))),
                    _ => Ok(None),
                };
            };
            let head = &rest[1..eol];
            let count = || -> Result<i64, String> {
                let text = std::str::from_utf8(head).map_err(|e| e.to_string())?;
                text.parse().map_err(|_| format!("no length: {}", shown(&rest[..eol])))
            };
            let mut past = eol + 2;
            match rest[0] {
                b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => self.missing -= 1,
                b'$' | b'=' | b'!' => {
                    if let Ok(len) = usize::try_from(count()?) {
                        past += len + 2;
                        if rest.len() < past {
                            return Ok(None);
                        }
                        if &rest[past - 2..past] != b"\r\n" {
                            return Err(format!("a string without its end: {}", shown(&rest[..past])));
                        }
                    }
                    self.missing -= 1;
                }
                b'*' | b'~' | b'>' => self.missing = self.missing - 1 + u64::try_from(count()?).unwrap_or(0),
                b'%' => self.missing = self.missing - 1 + 2 * u64::try_from(count()?).unwrap_or(0),
                b'|' => self.missing += 2 * u64::try_from(count()?).unwrap_or(0),
                _ => return Err(format!("no reply: {}", shown(rest))),
            }
            self.at += past;
        }
        Ok(Some(self.at))
    }
}

/// Bytes for a message: escaped, and only so many of them.
pub fn shown(bytes: &[u8]) -> String {
    let cut = bytes.len().min(300);
    let more = if cut < bytes.len() { format!(".. ({} bytes)", bytes.len()) } else { String::new() };
    format!("\"{}\"{more}", bytes[..cut].escape_ascii())
}
