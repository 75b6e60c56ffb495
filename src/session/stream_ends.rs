//! Where the streams ended of which a command waits for what is new.
//!
//! `XREAD BLOCK` with `$` means where a stream ended when the command came to its node. When the slot moves the command is sent again, to
//! another node, and `$` would skip there what was added on the way. So crema asks ahead of the command, in one piece with it, for each
//! stream's last entry, and when it is sent again that entry's id stands in place of `$`. Nothing that there was then comes behind it: not
//! where the stream was empty, or not there (`0-0`), nor where later ones had been deleted. What could not be known stays `$`.
//!
//! Holds contract point 1.

use tokio::sync::oneshot;
use tokio::sync::oneshot::Receiver;

use crate::clock::Time;
use crate::command::Spec;
use crate::proxy::{OwnLane, ReplyAction};
use crate::resp::{Elements, Request, encode, text_of};

/// Of the streams of one command that are read from `$` on. None of any other command.
#[derive(Default)]
pub(super) struct StreamEnds(Vec<StreamEnd>);

struct StreamEnd {
    /// Which argument `$` is.
    at: usize,
    id: Option<Vec<u8>>,
    asked: Option<Receiver<Vec<u8>>>,
}

impl StreamEnds {
    pub(super) fn of(spec: &Spec, request: Request<'_>) -> Self {
        Self(spec.from_ends(request).map(|(at, _)| StreamEnd { at, id: None, asked: None }).collect())
    }

    /// Asks for what is not known, ahead of the command, which is sent next.
    pub(super) fn ask(&mut self, private: &OwnLane, asking: bool, (spec, request): (&Spec, Request<'_>)) {
        if self.0.is_empty() {
            return;
        }
        for (at, stream) in spec.from_ends(request) {
            let Some(end) = self.0.iter_mut().find(|end| end.at == at && end.id.is_none()) else { continue };
            if asking {
                private.tell(&[b"ASKING"]);
            }
            let (told, asked) = oneshot::channel();
            let mut question = Vec::new();
            encode::own_command(&mut question, &[b"XREVRANGE", stream, b"+", b"-", b"COUNT", b"1"]);
            private.ask(&question, ReplyAction::Capture(Vec::new(), told), Time::now());
            end.asked = Some(asked);
        }
    }

    /// The command was answered, and so was what was asked ahead of it.
    pub(super) fn learn(&mut self) {
        for end in &mut self.0 {
            if let Some(mut asked) = end.asked.take() {
                end.id = asked.try_recv().ok().and_then(|reply| last_id(&reply));
            }
        }
    }

    /// Writes to `out` what the command is to be where it is sent again. False where that is the same.
    pub(super) fn stand_in(&self, request: Request<'_>, out: &mut Vec<u8>) -> bool {
        if self.0.iter().all(|end| end.id.is_none()) {
            return false;
        }
        let known = |at: usize| self.0.iter().find(|end| end.at == at).and_then(|end| end.id.as_deref());
        let args: Vec<&[u8]> = request.args().enumerate().map(|(at, arg)| known(at).unwrap_or(arg)).collect();
        encode::command(out, &args);
        true
    }
}

/// The id of a stream's last entry, as `XREVRANGE` told it. None where that told nothing of the stream.
fn last_id(reply: &[u8]) -> Option<Vec<u8>> {
    match Elements::of(reply)?.next() {
        None => Some(b"0-0".to_vec()),
        Some(entry) => text_of(Elements::of(entry.ok()?)?.next()?.ok()?).map(<[u8]>::to_vec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;

    fn with<T>(line: &str, see: impl FnOnce(&Spec, Request<'_>) -> T) -> T {
        let (mut raw, mut spans) = (Vec::new(), Vec::new());
        encode::command(&mut raw, &line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        let request = Request::parse_canonical(&raw, &mut spans).expect("as it was made");
        see(lookup(request).expect("a command of the table"), request)
    }

    #[test]
    fn the_last_entry_says_where_a_stream_ends() {
        let told = |reply: &str| last_id(reply.as_bytes()).map(|id| String::from_utf8_lossy(&id).into_owned());
        assert_eq!(told("*1\r\n*2\r\n$3\r\n7-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n"), Some("7-1".to_owned()));
        assert_eq!(told("*0\r\n"), Some("0-0".to_owned()), "it is empty, or not there");
        assert_eq!(told("-MOVED 7 127.0.0.1:1\r\n"), None);
        assert_eq!(told("-NOPERM this user has no permissions\r\n"), None);
    }

    #[test]
    fn what_is_known_stands_in_its_place_and_what_is_not_stays() {
        let line = "XREAD COUNT 1 BLOCK 0 STREAMS $ b c d $ $ 5 $";
        with(line, |spec, request| {
            let mut ends = StreamEnds::of(spec, request);
            assert_eq!(ends.0.iter().map(|end| end.at).collect::<Vec<_>>(), [10, 11, 13]);
            let mut out = Vec::new();
            assert!(!ends.stand_in(request, &mut out) && out.is_empty(), "nothing is known");
            for (end, reply) in ends.0.iter_mut().zip(["*0\r\n", "-NOPERM\r\n", "*1\r\n*2\r\n$3\r\n7-1\r\n*0\r\n"]) {
                let (told, asked) = oneshot::channel();
                told.send(reply.as_bytes().to_vec()).expect("it is there");
                end.asked = Some(asked);
            }
            ends.learn();
            assert!(ends.stand_in(request, &mut out));
            with("XREAD COUNT 1 BLOCK 0 STREAMS $ b c d 0-0 $ 5 7-1", |_, want| assert_eq!(out, want.raw()));
        });
    }

    #[test]
    fn no_other_command_waits_for_what_is_new() {
        for line in
            ["XREAD STREAMS a $", "XREAD BLOCK 5 STREAMS a 0", "XREADGROUP GROUP g $ BLOCK 5 STREAMS a $", "BLPOP $ 0"]
        {
            with(line, |spec, request| assert!(StreamEnds::of(spec, request).0.is_empty(), "{line}"));
        }
    }
}
