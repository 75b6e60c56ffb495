//! Large requests that are not whole yet: what is there of them goes to Redis, which decides how much it holds for its clients.
//!
//! In a cluster that is the node of its first key, once that is there; what names its keys behind what is large is taken whole.
//!
//! Holds contract point 2: what is sent ahead is followed by the rest of the same request and by nothing else.

use super::input::Input;
use super::link::Stay;
use super::wire::ClientLine;
use super::{Admission, Close, Session, foreign};
use crate::command::{self, FirstKey, Route};
use crate::resp::Parser;

/// Of a request that is not whole yet, no more than this is kept back from Redis.
pub(super) const KEPT_BACK: usize = 128 << 10;

impl Session {
    /// Of a request that is not whole and already large, sends what is there on a private connection: it is Redis that
    /// decides how much of its clients' unfinished requests it holds.
    pub(super) async fn send_ahead(
        &mut self,
        line: &mut ClientLine,
        parser: &Parser,
        bytes: &[u8],
    ) -> Result<(), Close> {
        if self.link.ahead() == 0 {
            // Where the channel carries coherence something comes before each write, and its keys must be known.
            if bytes.len() < KEPT_BACK
                || self.admission != Admission::Open
                || self.worker.shared.l1.mode().writes_tell()
            {
                return Ok(());
            }
            let Some((begun, next)) = parser.unfinished(bytes) else { return Ok(()) };
            let nameless = begun.argc() == 0;
            if nameless && next <= foreign::LONGEST || begun.argc() == 1 && command::has_subcommands(begun) {
                return Ok(()); // its name is not known yet
            }
            let known = command::lookup(begun);
            if known.is_some_and(|spec| self.entrance.denied.has(spec)) {
                return Ok(()); // what is denied is refused when it is whole
            }
            if self.worker.is_cluster() && known.is_some_and(|spec| !spec.spread.is_by_key()) {
                return Ok(()); // where it goes is known when it is whole
            }
            if self.worker.is_cluster() {
                let first = known.map_or(FirstKey::None, |spec| spec.keys.first_of(begun));
                if first == FirstKey::NotYet || !self.is_placed_ahead(line, first).await? {
                    return Ok(());
                }
            }
            let queued = self.link.open().is_some();
            if queued && self.worker.is_cluster() && known.is_some_and(|spec| spec.route.changes_connection()) {
                return Ok(()); // whether it may be there is said when it is whole
            }
            match known.map(|spec| spec.route) {
                Some(Route::Lane | Route::LaneIfOne | Route::ScriptLane | Route::Borrow | Route::Blocking)
                    if self.worker.is_cluster() => {}
                Some(Route::Taint) => drop(self.keep(line, Stay::Tainted).await?),
                Some(Route::Home) if queued => drop(self.keep(line, Stay::Tainted).await?),
                Some(Route::Home) => drop(self.show_home(line).await?),
                Some(Route::Blocking) if !queued => drop(self.keep(line, Stay::Home).await?),
                Some(Route::Lane | Route::LaneIfOne | Route::ScriptLane | Route::Borrow | Route::Blocking) => {
                    drop(self.borrow(line).await?);
                }
                // So long a name is no command's.
                None if (nameless || begun.arg(0).len() > foreign::LONGEST) && !self.entrance.is_restricted => {
                    drop(self.borrow(line).await?);
                }
                _ => return Ok(()),
            }
        }
        if let Some(lent) = self.link.conn() {
            lent.lane().send_ahead(&bytes[self.link.ahead()..]);
            self.change(|link| link.send_ahead(bytes.len()));
        }
        Ok(())
    }

    /// Of what was sent ahead, forgets what is there of the argument under way, if nobody asks for it again: a key must be
    /// known, a large value flows through.
    pub(super) fn let_go(&mut self, parser: &mut Parser, input: &mut Input) {
        let bytes = input.rest();
        let ahead = self.link.ahead();
        let Some(lent) = self.link.conn().filter(|_| ahead == bytes.len()) else { return };
        let Some((begun, _)) = parser.unfinished(bytes) else { return };
        let spec = command::lookup(begun).unwrap_or(command::unknown());
        let at = begun.argc();
        if at == 0 || spec.keys.concerns(at, parser.announced()) {
            return;
        }
        let Some(end) = parser.cut(bytes.len()) else { return };
        lent.lane().forget_ahead(ahead - end);
        self.change(|link| link.cut_ahead(end));
        input.truncate(end);
    }
}
