//! Hash slots: into which of a cluster's parts a key falls.
//!
//! CRC16 of the key, or of its hash tag: what stands between the first `{` and the first `}` behind it, unless that is nothing
//! (Redis, cluster.c, `keyHashSlot`).

use crc::{CRC_16_XMODEM, Crc, Table};

static CRC16: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&CRC_16_XMODEM);

/// One of a cluster's 16,384 slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HashSlot(u16);

impl HashSlot {
    /// How many there are.
    pub const COUNT: usize = 1 << 14;

    /// That of a key.
    #[inline]
    pub fn of(key: &[u8]) -> Self {
        Self(CRC16.checksum(tag(key)) % (1 << 14))
    }

    /// The one of this number, if there is one.
    pub fn nth(number: usize) -> Option<Self> {
        u16::try_from(number).ok().filter(|_| number < Self::COUNT).map(Self)
    }

    /// Its number.
    pub fn number(self) -> usize {
        usize::from(self.0)
    }
}

/// What of the key decides.
fn tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else { return key };
    let behind = &key[open + 1..];
    match behind.iter().position(|&byte| byte == b'}') {
        Some(length) if length > 0 => &behind[..length],
        _ => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fall_where_redis_says() {
        // CLUSTER KEYSLOT of redis-server 7.0.15.
        let known: [(&[u8], usize); 9] = [
            (b"", 0),
            (b"foo", 12_182),
            (b"somekey", 11_058),
            (b"123456789", 0x31c3),
            (b"foo{hash_tag}", 2_515),
            (b"bar{hash_tag}", 2_515),
            (b"{foo}.{bar}", 12_182),
            (b"{}foo", HashSlot(CRC16.checksum(b"{}foo") % (1 << 14)).number()),
            (b"x{y", HashSlot(CRC16.checksum(b"x{y") % (1 << 14)).number()),
        ];
        for (key, slot) in known {
            assert_eq!(HashSlot::of(key).number(), slot, "{}", String::from_utf8_lossy(key));
        }
        assert_eq!(HashSlot::of(b"a{{b}}c"), HashSlot::of(b"{b"));
        assert_eq!(HashSlot::nth(16_383).map(HashSlot::number), Some(16_383));
        assert_eq!(HashSlot::nth(16_384), None);
    }
}
