//! For whom a read is done, so that it can be sent again where its connection is lost.
//!
//! Holds contract point 7 (a write is sent once).

use std::rc::Rc;

use super::recipient::Recipient;
use super::who::Who;
use crate::error::Error;
use crate::resp::Resp;

/// For whom a read is done, so that it can be sent again.
pub(crate) struct Reader {
    pub(super) who: Rc<Who>,
    pub(super) resp: Resp,
    /// Whether it goes on a lane for scripts.
    pub(super) script: bool,
    again: bool,
}

impl Reader {
    /// A read that has not been sent yet.
    pub(crate) fn new(who: Rc<Who>, resp: Resp, script: bool) -> Self {
        Self { who, resp, script, again: false }
    }

    /// A read that is not sent again.
    pub(crate) fn once(who: Rc<Who>, resp: Resp) -> Self {
        Self { who, resp, script: false, again: true }
    }

    /// Whether it is not sent again.
    pub(super) fn is_once(&self) -> bool {
        self.again
    }

    /// The same, sent for the second time.
    pub(super) fn again(&self) -> Self {
        Self { who: Rc::clone(&self.who), resp: self.resp, script: self.script, again: true }
    }

    /// The same, as if it had not been sent.
    pub(super) fn anew(&self) -> Self {
        Self::new(Rc::clone(&self.who), self.resp, self.script)
    }

    /// Whether the read for `recipient` that `error` ended may be sent again: once, and only where the session has sent no write
    /// after it, for the read could see that.
    pub(super) fn may_again(&self, error: &Error, recipient: &Recipient) -> bool {
        error.is_cut() && !self.again && recipient.may_wait_longer()
    }
}
