//! A copy as it lies in a tier: the value, with the version and the epoch that were in the upstream before the value was read there.

/// What a copy begins with: another form has another number.
const FORM: &[u8] = b"crema1\n";

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TierCopy {
    pub version: Box<[u8]>,
    pub epoch: Box<[u8]>,
    /// When it was made, in seconds since 1970 by the clock of who made it: shown, and compared with nothing.
    pub made: u64,
    pub value: Vec<u8>,
}

impl TierCopy {
    /// Its bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.value.len() + 64);
        out.extend_from_slice(FORM);
        for number in [&*self.version, &*self.epoch, self.made.to_string().as_bytes()] {
            out.extend_from_slice(number);
            out.push(b'\n');
        }
        out.extend_from_slice(&self.value);
        out
    }

    /// Reads it; none where these are not the bytes of one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut parts = bytes.strip_prefix(FORM)?.splitn(4, |&byte| byte == b'\n');
        let (version, epoch, made, value) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let good = |number: &[u8]| !number.is_empty() && number.iter().all(u8::is_ascii_alphanumeric);
        let made = std::str::from_utf8(made).ok()?.parse().ok()?;
        (good(version) && good(epoch)).then(|| Self {
            version: version.into(),
            epoch: epoch.into(),
            made,
            value: value.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_copied_is_read_again_and_nothing_else_is() {
        let copy = TierCopy { version: (*b"1f").into(), epoch: (*b"2").into(), made: 7, value: b"a\nb\n".to_vec() };
        assert_eq!(TierCopy::decode(&copy.encode()), Some(copy));
        for bytes in [
            &b""[..],
            b"crema1\n",
            b"crema1\n1\n2\n3",
            b"crema1\n\n2\n3\nv",
            b"crema2\n1\n2\n3\nv",
            b"crema1\n1\n2\nx\nv",
            b"plain",
        ] {
            assert_eq!(TierCopy::decode(bytes), None);
        }
    }
}
