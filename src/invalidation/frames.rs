//! What comes in on the ear, cut into whole frames; and what Redis tells by name in one, as of a user or of itself.

use std::collections::HashMap;

use redis_protocol::resp3::decode::complete::decode;
use redis_protocol::resp3::types::OwnedFrame;

use super::ear::End;
use crate::resp::{Split, Splitter};

/// Cuts what was read into whole frames, and does not keep one that is larger than anything L1 would take.
pub(super) struct Frames {
    pub(super) input: Vec<u8>,
    scanned: usize,
    splitter: Splitter,
    largest: usize,
    oversized: Option<u8>,
}

impl Frames {
    pub(super) fn new(max_value: u64) -> Self {
        let largest = usize::try_from(max_value).unwrap_or(usize::MAX).saturating_add(64 << 10);
        Self { input: Vec::new(), scanned: 0, splitter: Splitter::default(), largest, oversized: None }
    }

    pub(super) fn drain(
        &mut self,
        mut hear: impl FnMut(&[u8], bool) -> Result<(), End>,
    ) -> Result<Result<(), End>, String> {
        let mut start = 0;
        while self.scanned < self.input.len() {
            match self.splitter.split(&self.input[self.scanned..]) {
                Ok(Split::End(len)) => {
                    self.scanned += len;
                    let heard = match self.oversized.take() {
                        Some(kind) => hear(&[kind], false),
                        None => hear(&self.input[start..self.scanned], true),
                    };
                    if heard.is_err() {
                        return Ok(heard);
                    }
                    start = self.scanned;
                }
                Ok(Split::More) => {
                    self.scanned = self.input.len();
                    if self.oversized.is_some() || self.scanned - start > self.largest {
                        self.oversized.get_or_insert(self.splitter.kind());
                        start = self.scanned;
                    }
                }
                Err(malformed) => return Err(malformed.to_string()),
            }
        }
        self.input.drain(..start);
        self.scanned -= start;
        Ok(Ok(()))
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
