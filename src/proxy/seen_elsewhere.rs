//! What a session has seen that the replica from which it would read must have reached: its own writes, and what it was answered on
//! other connections.
//!
//! Belongs to a [`NodeSide`](super::node_side::NodeSide). What masters answered to reads is remembered key by key, beside this, or
//! a session that reads all the time would never come to a replica.
//!
//! Holds contract points 2 (order) and 4 (others' writes soon).

use super::reply_queue::ReplyPlace;
use crate::clock::Time;

/// See the module's head.
#[derive(Debug)]
pub(super) struct SeenElsewhere {
    /// The last answer that it had before it left another connection.
    elsewhere: Time,
    /// The last answer that it had when a write of its own was found answered.
    wrote: Time,
    /// That write.
    write: Option<ReplyPlace>,
}

impl Default for SeenElsewhere {
    fn default() -> Self {
        Self { elsewhere: Time::ZERO, wrote: Time::ZERO, write: None }
    }
}

impl SeenElsewhere {
    /// Notes the last write of the session, all of whose commands are answered, the last at `answered`.
    pub(super) fn note_write(&mut self, write: Option<ReplyPlace>, answered: Time) {
        if self.write != write {
            (self.write, self.wrote) = (write, answered);
        }
    }

    /// It comes from another connection, where it had its last answer at `answered`.
    pub(super) fn comes(&mut self, answered: Time) {
        self.elsewhere = self.elsewhere.max(answered);
    }

    /// What a replica must have reached; whoever `stays` at the one from which it reads has seen no other.
    pub(super) fn needs(&self, stays: bool) -> Time {
        if stays { self.wrote } else { self.wrote.max(self.elsewhere) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Time = Time::from_nanos;

    #[test]
    fn a_write_of_its_own_counts_wherever_it_reads_and_once() {
        let mut seen = SeenElsewhere::default();
        assert_eq!(seen.needs(false), Time::ZERO);
        seen.note_write(Some(ReplyPlace::at(3)), AT(7));
        assert_eq!((seen.needs(true), seen.needs(false)), (AT(7), AT(7)));
        seen.note_write(Some(ReplyPlace::at(3)), AT(20));
        assert_eq!(seen.needs(true), AT(7), "later answers are of reads");
        seen.note_write(Some(ReplyPlace::at(9)), AT(30));
        assert_eq!(seen.needs(true), AT(30));
    }

    #[test]
    fn what_it_saw_on_another_connection_counts_where_it_comes_anew() {
        let mut seen = SeenElsewhere::default();
        seen.comes(AT(9));
        seen.comes(AT(5));
        assert_eq!((seen.needs(true), seen.needs(false)), (Time::ZERO, AT(9)));
        seen.note_write(Some(ReplyPlace::at(1)), AT(4));
        assert_eq!((seen.needs(true), seen.needs(false)), (AT(4), AT(9)));
    }
}
