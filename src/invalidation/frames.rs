//! What comes in on the ear, cut into whole frames.

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
