//! What comes in on the ear, cut into whole frames; and what Redis tells by name in one, as of a user or of itself.

use std::collections::HashMap;

use redis_protocol::resp3::decode::complete::decode;
use redis_protocol::resp3::types::OwnedFrame;

use crate::resp::{Malformed, Split, Splitter};

/// What a frame may have beyond the value that it brings. One of which only the beginning was kept is larger than this.
pub(super) const SLACK: usize = 64 << 10;

/// Cuts what was read into whole frames, and does not keep one that is larger than anything L1 would take.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Bytes of the input that were looked at.
    scanned: usize,
    splitter: Splitter,
    largest: usize,
    oversized: Option<u8>,
}

impl Frames {
    /// Values of more than `max_value` bytes are not kept.
    pub(super) fn new(max_value: u64) -> Self {
        let mut frames = Self::default();
        frames.limit(max_value);
        frames
    }

    /// Values of more than `max_value` bytes are not kept from now on.
    pub(super) fn limit(&mut self, max_value: u64) {
        self.largest = usize::try_from(max_value).unwrap_or(usize::MAX).saturating_add(SLACK);
    }

    /// Takes the whole frames from `input`, to which the next bytes are to be appended, and shows each to `hear`, with whether that
    /// is all of it: of one that is too large there is only the first byte. Ends where `hear` does.
    pub(super) fn drain<E: From<Malformed>>(
        &mut self,
        input: &mut Vec<u8>,
        mut hear: impl FnMut(&[u8], bool) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut start = 0;
        while self.scanned < input.len() {
            match self.splitter.split(&input[self.scanned..])? {
                Split::End(len) => {
                    self.scanned += len;
                    match self.oversized.take() {
                        Some(kind) => hear(&[kind], false)?,
                        None => hear(&input[start..self.scanned], true)?,
                    }
                    start = self.scanned;
                }
                Split::More => {
                    self.scanned = input.len();
                    if self.oversized.is_some() || self.scanned - start > self.largest {
                        self.oversized.get_or_insert(self.splitter.kind());
                        start = self.scanned;
                    }
                }
            }
        }
        input.drain(..start);
        self.scanned -= start;
        Ok(())
    }
}

/// The fields of a map, as `HELLO` and `ACL GETUSER` answer with one: names, and the values that are strings; others are empty
/// here. `None`: it is no such map.
pub(super) fn fields(frame: &[u8]) -> Option<HashMap<Vec<u8>, Vec<u8>>> {
    let (OwnedFrame::Map { data, .. }, _) = decode(frame).ok()?? else { return None };
    data.into_iter().map(|(name, value)| Some((string(name)?, string(value).unwrap_or_default()))).collect()
}

fn string(frame: OwnedFrame) -> Option<Vec<u8>> {
    match frame {
        OwnedFrame::BlobString { data, .. } | OwnedFrame::SimpleString { data, .. } => Some(data),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames_of(frames: &mut Frames, input: &mut Vec<u8>, more: &[u8]) -> Vec<(Vec<u8>, bool)> {
        input.extend_from_slice(more);
        let mut heard = Vec::new();
        let hear = |frame: &[u8], whole| {
            heard.push((frame.to_vec(), whole));
            Ok::<_, Malformed>(())
        };
        frames.drain(input, hear).expect("well formed");
        heard
    }

    #[test]
    fn however_the_bytes_are_cut_the_frames_are_the_same() {
        let all = b"+OK\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n$3\r\nabc\r\n";
        let mut whole = Vec::new();
        let all_at_once = frames_of(&mut Frames::new(0), &mut whole, all);
        assert_eq!(all_at_once.len(), 3);
        for at in 0..all.len() {
            let (mut frames, mut input) = (Frames::new(0), Vec::new());
            let mut heard = frames_of(&mut frames, &mut input, &all[..at]);
            heard.extend(frames_of(&mut frames, &mut input, &all[at..]));
            assert_eq!(heard, all_at_once, "cut at {at}");
            assert!(input.is_empty());
        }
    }

    #[test]
    fn what_is_too_large_is_not_kept_and_what_follows_it_is() {
        let (mut frames, mut input) = (Frames::new(0), Vec::new());
        let size = 200 << 10;
        let mut heard = frames_of(&mut frames, &mut input, format!("${size}\r\n").as_bytes());
        for _ in 0..size >> 10 {
            heard.extend(frames_of(&mut frames, &mut input, &[b'x'; 1 << 10]));
            assert!(input.len() <= 70 << 10, "{}", input.len());
        }
        heard.extend(frames_of(&mut frames, &mut input, b"\r\n:7\r\n"));
        assert_eq!(heard, [(b"$".to_vec(), false), (b":7\r\n".to_vec(), true)]);
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        let (mut frames, mut input) = (Frames::new(0), b"hello\r\n".to_vec());
        assert!(frames.drain(&mut input, |_, _| Ok::<_, Malformed>(())).is_err());
    }

    #[test]
    fn a_map_is_read_by_its_names() {
        let told = fields(b"%2\r\n$4\r\nrole\r\n$6\r\nmaster\r\n+modules\r\n*0\r\n").expect("a map");
        assert_eq!(told[&b"role"[..]], b"master");
        assert_eq!(told[&b"modules"[..]], b"");
        assert!(fields(b"*0\r\n").is_none() && fields(b"-NOPERM\r\n").is_none() && fields(b"%").is_none());
    }
}
