//! What the worker does for those who know neither lanes nor sessions: it sends reads again, and doubts what was proved.
//!
//! Holds contract point 7 (a write is sent once).

use std::rc::Rc;

use super::in_flight::{InFlight, ReplyAction};
use super::reader::{LostReads, ReadPurpose};
use super::site::Foreman;
use super::station::Station;
use super::track::Track;
use super::worker::Worker;
use crate::clock::Time;
use crate::command;
use crate::error::{Error, Sent};
use crate::resp::Request;

impl Foreman for Worker {
    fn send_again(self: Rc<Self>, reads: LostReads<'_>) {
        let (mut spans, now) = (Vec::new(), Time::now());
        let request = Request::parse_canonical(reads.command, &mut spans);
        let known = request.and_then(|request| Some((command::lookup(request)?, request)));
        let Some((spec, request)) = known else {
            debug_assert!(false, "what was sent can be read");
            return;
        };
        let station = self.station(self.serving(spec, request));
        match lane(&station, &reads, now) {
            Ok(track) => {
                let LostReads { command, first, joined, reader, purpose } = reads;
                match purpose {
                    ReadPurpose::Fills(fills, sampled) => {
                        let action = ReplyAction::Read(reader, fills);
                        track.send(command, InFlight::new(&track.site, first, action, sampled), now);
                    }
                    ReadPurpose::Lead(rule, coin) => {
                        let joined = (!joined.is_empty()).then(|| Box::new(joined));
                        let query = &reader.who.clone().query(&self.shared.l1, spec, request);
                        track.lead((first, joined), (reader, rule, coin), (command, query), now);
                    }
                }
            }
            Err(error) => {
                let all = std::iter::once(reads.first).chain(reads.joined);
                all.for_each(|recipient| recipient.refuse(&self.shared, &error, Sent::No));
            }
        }
    }

    fn lost_connection(self: Rc<Self>, doubted: Option<&[u8]>) {
        self.foreign.forget();
        if let Some(user) = doubted {
            self.doubt(user);
        }
    }
}

fn lane(station: &Rc<Station>, reads: &LostReads<'_>, now: Time) -> Result<Rc<Track>, Error> {
    station.track(&reads.reader.who, reads.reader.resp, reads.reader.script, now)
}
