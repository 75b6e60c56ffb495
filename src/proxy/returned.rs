//! Commands that come back from a lane: a node of a cluster did not carry them out, or their connection was lost and they may be sent
//! again, or they are reads that go on elsewhere.
//!
//! What awaits a reply keeps the first bytes of an error back until it is sure whether the line is a redirect. Where it is, nothing of
//! it reaches a client: the command goes back to the worker with all that awaits its reply, a write with its stamps still under way.
//!
//! Holds contract point 7 (a write is sent once).

use std::rc::Rc;

use super::in_flight::{InFlight, ReplyAction, ReplyStage};
use super::lead::Lead;
use super::notified_write::MarkedWrite;
use super::reader::Reader;
use super::recipient::Recipient;
use super::seek::Question;
use super::site::Site;
use super::start::Start;
use super::who::Who;
use crate::cache::Coin;
use crate::clock::Time;
use crate::error::{Error, Sent};
use crate::invalidation::Fill;
use crate::metrics::RedirectKind;
use crate::resp::Resp;
use crate::upstream::{ConnectionTimes, ErrorLine, ReplyEnd, Waiter};

/// A command that is to be sent again.
pub(crate) struct Returned {
    pub(super) action: ReplyAction,
    pub(super) why: ReturnReason,
}

/// Why it is.
#[derive(Clone)]
pub(super) enum ReturnReason {
    /// A node did not carry it out, and says so in this line, of which the kind is known once it is whole.
    Redirect(Option<RedirectKind>, Vec<u8>),
    /// Its connection was lost.
    Lost(Error, Sent),
    /// It was carried out, and the upstream has nothing: this is sought beyond it.
    Absent(Box<Question>),
}

/// What of a command is left that is to be sent again, for each of those who wait for it.
pub(super) struct ReturnedCommand {
    /// Where it was sent.
    pub(super) site: Rc<Site>,
    pub(super) first: Recipient,
    /// Who waits for the same reply: mostly nobody.
    pub(super) joined: Vec<Recipient>,
    pub(super) purpose: ReplyPurpose,
    pub(super) why: ReturnReason,
    /// Who sent it, and in which version.
    pub(super) caller: Option<(Rc<Who>, Resp)>,
    /// Since when it is under way.
    pub(super) start: Start,
}

/// What its reply is to bring.
pub(super) enum ReplyPurpose {
    /// Nothing else.
    Pass,
    /// What a read is to leave in L1.
    Read(Reader, Vec<Fill>),
    /// Others may join it, and its key may be promoted.
    Lead(Reader, Coin),
    /// The stamps of a write, which is under way until then.
    Write(MarkedWrite),
}

impl ReplyPurpose {
    /// How many promotions were to follow from its reply.
    pub(super) fn promotions(&self) -> usize {
        match self {
            Self::Read(_, fills) => fills.len(),
            Self::Lead(.., Coin::Promote) => 1,
            Self::Pass | Self::Lead(..) | Self::Write(_) => 0,
        }
    }
}

impl InFlight {
    /// Whether these bytes are no part of a reply to the client, or perhaps none: they are kept then.
    #[cold]
    pub(super) fn keeps_back(&mut self, kind: u8, bytes: &[u8], end: Option<Time>) -> bool {
        if self.stage == ReplyStage::Weighed {
            return self.is_not_believed(kind, bytes, end);
        }
        if self.stage == ReplyStage::Asking {
            self.stage = if end.is_some() { ReplyStage::Asked } else { ReplyStage::Asking };
            return true; // where it was refused, the next reply tells
        }
        if let ReplyAction::Seek(_) = self.action {
            self.hold_back(kind, bytes, end);
            return true;
        }
        self.stage = ReplyStage::Followed;
        if kind != b'-' || matches!(self.action, ReplyAction::NotifiedWrite(_)) {
            return false; // of a write with its notice all replies are seen first
        }
        let whole = end.is_some();
        if let ReplyAction::Return(returned) = &mut self.action
            && let ReturnReason::Redirect(known, line) = &mut returned.why
        {
            line.extend_from_slice(bytes);
            match ErrorLine::of(line, whole) {
                ErrorLine::Unfinished => {}
                ErrorLine::Redirect(kind) => *known = Some(kind),
                ErrorLine::Other => {
                    let line = std::mem::take(line);
                    self.take_back();
                    self.stage = ReplyStage::Awaited; // it is looked at no more
                    self.piece(kind, &line, end);
                }
            }
            return true;
        }
        let known = match ErrorLine::of(bytes, whole) {
            ErrorLine::Other => return false,
            ErrorLine::Unfinished => None,
            ErrorLine::Redirect(kind) => Some(kind),
        };
        self.give_back(ReturnReason::Redirect(known, bytes.to_vec()));
        true
    }

    /// The sessions that wait for it.
    fn recipients(&self) -> impl Iterator<Item = &Recipient> {
        let joined = match &self.action {
            ReplyAction::Lead(lead) => lead.joined(),
            _ => &[],
        };
        self.recipient.iter().chain(joined)
    }

    /// Whether one of them has other commands on a detour.
    #[inline]
    pub(super) fn awaits_detours(&self) -> bool {
        self.recipients().any(|recipient| recipient.replies().is_detoured())
    }

    /// It was carried out: those of them are told that have others on a detour.
    #[cold]
    pub(super) fn overtakes(&self, command: &[u8]) {
        for recipient in self.recipients().filter(|recipient| recipient.replies().is_detoured()) {
            if let Some(foreman) = self.site.foreman() {
                foreman.carried_out(recipient.replies(), recipient.place(), command);
            }
        }
    }

    /// This line is its reply.
    pub(super) fn answer(mut self, line: &[u8]) {
        let (at, size) = (Time::now(), line.len() as u64);
        self.piece(line[0], line, Some(at));
        self.over(ReplyEnd { at, size }, || ConnectionTimes { turn: at, made: Time::ZERO, held: (at, at) }, || &[]);
    }

    /// It is to be sent again, as far as is known.
    pub(super) fn give_back(&mut self, why: ReturnReason) {
        let action = std::mem::replace(&mut self.action, ReplyAction::Ignore);
        self.action = ReplyAction::Return(Box::new(Returned { action, why }));
    }

    /// It is not, or not for that reason.
    pub(super) fn take_back(&mut self) {
        match std::mem::replace(&mut self.action, ReplyAction::Ignore) {
            ReplyAction::Return(returned) => self.action = returned.action,
            ReplyAction::Seek(seek) => self.action = seek.inner,
            action => self.action = action,
        }
    }

    /// What is to be sent again, once it has come back.
    pub(super) fn unpack(mut self) -> Option<ReturnedCommand> {
        let (site, start) = (Rc::clone(&self.site), self.start);
        let (ReplyAction::Return(returned), Some(first)) = (self.action, self.recipient.take()) else { return None };
        let Returned { action, why } = *returned;
        let mut joined = Vec::new();
        let mut caller = self.caller.take().map(|who| (who, self.resp));
        if let ReplyAction::Read(reader, _) | ReplyAction::Lead(Lead { reader, .. }) = &action {
            caller = Some((Rc::clone(&reader.who), reader.resp));
        }
        let purpose = match action {
            ReplyAction::Read(reader, fills) => ReplyPurpose::Read(reader, fills),
            ReplyAction::Lead(mut lead) => {
                joined = lead.take_joined();
                let reader = if site.is_replica { lead.reader.anew() } else { lead.reader.again() };
                ReplyPurpose::Lead(reader, lead.coin)
            }
            ReplyAction::Write(guard) => ReplyPurpose::Write(MarkedWrite::Alone(guard)),
            ReplyAction::NotifiedWrite(write) => ReplyPurpose::Write(MarkedWrite::WithNotice(write)),
            _ => ReplyPurpose::Pass,
        };
        Some(ReturnedCommand { site, first, joined, purpose, why, caller, start })
    }

    /// Whether the command may be sent again: a read, once, where its session has sent no write behind it; and in a cluster, where
    /// another node may come to serve the slot, whatever was not sent. Of those who joined a read, whoever may not wait is told.
    pub(super) fn goes_again(&mut self, error: &Error, sent: Sent) -> bool {
        if self.site.is_replica {
            let reads = matches!(&self.action, ReplyAction::Read(..) | ReplyAction::Lead(_));
            return reads && self.recipient.is_some(); // nothing but reads goes there, and the master has not been asked
        }
        let site = Rc::clone(&self.site);
        let is_once = matches!(&self.action, ReplyAction::Read(reader, _) if reader.is_once());
        if sent == Sent::No && site.redirects && error.is_of_node() && self.recipient.is_some() && !is_once {
            return self.caller().is_some();
        }
        match &mut self.action {
            ReplyAction::Read(reader, _) => {
                let again = self.recipient.as_ref().is_some_and(|recipient| reader.may_again(error, recipient));
                *reader = reader.again();
                again
            }
            ReplyAction::Lead(lead) => {
                let joined = lead.take_joined();
                let all = self.recipient.take().into_iter().chain(joined);
                let (mut again, told): (Vec<_>, Vec<_>) =
                    all.partition(|recipient| lead.reader.may_again(error, recipient));
                for recipient in told {
                    recipient.refuse(&site.shared, error, sent);
                }
                if again.is_empty() {
                    return false;
                }
                self.recipient = Some(again.remove(0));
                lead.joined = (!again.is_empty()).then(|| Box::new(again));
                true
            }
            _ => false,
        }
    }
}
