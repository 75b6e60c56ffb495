//! The names of what L1 answers most, for the process that takes over from this one: said by one, filled by the other.
//!
//! Those of the upstream URL's user alone: another's ear needs a password that the other process does not have yet. Each is a request
//! as clients write it, so that a crema of another version reads it as it understands it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::shared::Shared;
use crate::cache::Query;
use crate::command;
use crate::invalidation::{Fill, Seat};
use crate::metrics::DropReason;
use crate::resp::{Request, Span};

/// So many names are handed over at most,
const MOST: usize = 100_000;
/// and so many bytes of them.
const MOST_BYTES: usize = 16 << 20;
/// Bytes of one piece of what is said.
const PIECE: usize = 256 << 10;
/// An ear that has enough to do is asked again after this.
const PAUSE: Duration = Duration::from_millis(1);

/// Reads by the upstream URL's user.
pub(crate) struct HotNames {
    seat: Seat,
    /// Of reads that the ears were asked to do.
    asked: usize,
}

impl Shared {
    /// What L1 answers most, in pieces that [`HotNames::fill`] reads. Looks at every entry: not to be called where sessions wait.
    pub(crate) fn hot_names(&self) -> Vec<Vec<u8>> {
        let user = self.login().map_or_else(Box::default, |login| login.user.clone());
        let mut pieces = vec![Vec::new()];
        for (db, request) in self.l1.hottest(&user, MOST, MOST_BYTES) {
            let mut piece = pieces.last_mut().expect("there is one");
            if piece.len() > PIECE {
                pieces.push(Vec::new());
                piece = pieces.last_mut().expect("just pushed");
            }
            piece.extend_from_slice(&db.to_be_bytes());
            piece.extend_from_slice(&u32::try_from(request.len()).unwrap_or_default().to_be_bytes());
            piece.extend_from_slice(&request);
        }
        pieces
    }
}

impl HotNames {
    /// For the user of the upstream URL, who stays known for as long as this is held.
    pub(crate) fn new(shared: &Shared) -> Self {
        let login = shared.login();
        let seat = shared.l1.ears.seat(login.as_ref().map_or(&b""[..], |login| &login.user));
        if let Some(login) = &login {
            seat.user().trust(login);
        }
        Self { seat, asked: 0 }
    }

    /// Has the user's ears read what this piece names, until then. Cancel safe.
    pub(crate) async fn fill(&mut self, shared: &Arc<Shared>, piece: &[u8], until: Instant) {
        let mut rest = piece;
        while let Some((db, request, more)) = first_name(rest) {
            rest = more;
            loop {
                match self.promote(shared, db, request) {
                    Err(DropReason::EarBehind | DropReason::NoCoherence) if Instant::now() < until => {
                        sleep(PAUSE).await;
                    }
                    done => break self.asked += usize::from(done.is_ok()),
                }
            }
        }
    }

    /// Returns when all that was asked for has been read, or then. Cancel safe.
    pub(crate) async fn settle(&self, until: Instant) {
        while self.seat.user().is_filling() && Instant::now() < until {
            sleep(PAUSE).await;
        }
    }

    /// How many reads were asked for.
    pub(crate) fn asked(&self) -> usize {
        self.asked
    }

    fn promote(&self, shared: &Arc<Shared>, db: u32, request: &[u8]) -> Result<(), DropReason> {
        let mut spans: Vec<Span> = Vec::new();
        let read = Request::parse_canonical(request, &mut spans).ok_or(DropReason::ErrorReply)?;
        let spec = command::lookup(read).filter(|spec| spec.keeps(read)).ok_or(DropReason::ErrorReply)?;
        let (l1, settings) = (&shared.l1, shared.live());
        let rule = settings.rule_of(read.arg(1));
        let promotion = settings.promote(rule);
        if promotion.one_in == 0 {
            return Err(DropReason::ErrorReply);
        }
        let identity = l1.memory.identities.intern(self.seat.user().own_name(), db);
        let rest = if read.argc() > 2 { read.tail(2) } else { &[] };
        let query = Query::new(&l1.memory.stamps, identity, spec.id, read.arg(1), read.tail(1), rest);
        let ear = l1.ears.at(self.seat.user(), shared.topology.borrow().node_of_key(read.arg(1)));
        let fill = Fill::new(read, &query, db, settings.ceiling(rule), promotion.max_value)
            .by_settings(settings.number)
            .leaving(shared.early(read.arg(1)));
        l1.promote(&ear, fill)
    }
}

/// The first name of a piece, and what is behind it.
fn first_name(piece: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (db, rest) = piece.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (request, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    Some((u32::from_be_bytes(*db), request, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_read_name_by_name_and_no_further_than_it_is_whole() {
        let mut piece = [0, 0, 0, 3, 0, 0, 0, 2].to_vec();
        piece.extend_from_slice(b"ab");
        piece.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1, b'c', 0, 0]);
        let (db, request, rest) = first_name(&piece).expect("it is whole");
        assert_eq!((db, request), (3, &b"ab"[..]));
        let (db, request, rest) = first_name(rest).expect("so is this");
        assert_eq!((db, request, rest), (0, &b"c"[..], &[0, 0][..]));
        assert!(first_name(rest).is_none() && first_name(&[0, 0, 0, 0, 255, 255, 255, 255, 1]).is_none());
    }
}
