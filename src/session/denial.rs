//! What is said of a command that clients may not use (`deny`): what Redis's ACL says, as of version 7.0.
//!
//! Redis never sees the command. What a script calls inside is not looked at.

use super::link::Link;
use super::wire::ClientLine;
use super::{Close, Session};
use crate::command::{Route, Verb};
use crate::metrics::Failure;
use crate::resp::encode;

impl Session {
    /// Refuses a command. A transaction in which it stands fails, and an `EXEC` that is refused ends it.
    pub(super) async fn deny(&mut self, line: &mut ClientLine, name: &str, route: Route) -> Result<(), Close> {
        let mut words = format!("NOPERM this user has no permissions to run the '{name}' command");
        let ends = route == Route::Session(Verb::Exec);
        if ends {
            words = format!("EXECABORT Transaction discarded because of: {words}");
        }
        if self.link.is_held() && ends {
            self.change(Link::end_hold);
        } else if self.link.is_held() {
            self.place(line, None).await?;
        }
        if self.link.open().is_some()
            && let Some(private) = self.own_lane()
        {
            line.answered(self).await?;
            let mut spoiled = Vec::new();
            if ends {
                encode::own_command(&mut spoiled, &[b"DISCARD"]);
            } else {
                encode::command(&mut spoiled, &[b""]); // no command has this name: it is refused, and so the transaction is
            }
            self.capture(&private, &spoiled).await?;
            if let Some(prefix) = self.link.open_mut().and_then(|open| open.prefix.as_mut()).filter(|_| !ends) {
                prefix.queue(&spoiled);
                prefix.refuse();
            }
            if ends {
                self.change(Link::discard);
            }
        }
        self.fails(Failure::Denied);
        self.answer(|out| encode::error(out, &words));
        Ok(())
    }
}
