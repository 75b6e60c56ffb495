//! What awaits the reply to a read that goes on where the upstream has nothing: it holds the reply back until that is known.

use super::detour::without_asking;
use super::in_flight::{InFlight, ReplyAction, ReplyStage};
use super::returned::ReturnReason;
use super::seek::{Question, Seek, SeekVerdict};
use crate::clock::Time;
use crate::upstream::Waiter;

impl InFlight {
    /// Whether it is a read that others may join, and about which nothing beyond the upstream is asked so far.
    pub(super) fn leads(&self) -> bool {
        matches!(self.action, ReplyAction::Lead(_))
    }

    /// It is about to be sent as `command`. A read of keys with something beyond the upstream goes on there.
    pub(super) fn seek(&mut self, command: &[u8]) {
        if !matches!(self.action, ReplyAction::Read(..) | ReplyAction::Lead(_)) {
            return;
        }
        let l1 = &self.site.shared.l1;
        let Some(beyond) = &l1.terms.beyond else { return };
        let Some(question) = Question::of(beyond, &l1.memory.stamps, without_asking(command)) else { return };
        let inner = std::mem::replace(&mut self.action, ReplyAction::Ignore);
        self.action = ReplyAction::Seek(Box::new(Seek { inner, question }));
        if self.stage == ReplyStage::Awaited {
            self.stage = ReplyStage::Sought;
        }
    }

    /// The next piece of its reply.
    pub(super) fn hold_back(&mut self, kind: u8, bytes: &[u8], end: Option<Time>) {
        let ReplyAction::Seek(seek) = &mut self.action else { return };
        self.stage = ReplyStage::Sought;
        let verdict = seek.question.hear(kind, bytes, end.is_some());
        if verdict == SeekVerdict::Unfinished {
            return;
        }
        let ReplyAction::Seek(seek) = std::mem::replace(&mut self.action, ReplyAction::Ignore) else { return };
        let Seek { inner, mut question } = *seek;
        self.action = inner;
        match verdict {
            SeekVerdict::Unfinished => {}
            SeekVerdict::Found => {
                if self.site.shared.origins.is_some()
                    && let (Some(foreman), Some((who, _))) = (self.site.foreman(), self.caller())
                {
                    foreman.has_found(&question, who.db);
                }
                self.stage = if self.site.redirects { ReplyStage::Followed } else { ReplyStage::Awaited };
                self.piece(kind, &question.take_held(), end);
            }
            SeekVerdict::Absent => self.give_back(ReturnReason::Absent(Box::new(question))),
        }
    }
}
