//! How clients log in that have no connection of their own; those who say the same at once, by one question.
//!
//! Each connection carries one login at a time: from 7.2 on Redis gives no reply to one that it refuses while it has another reply
//! to send, and the next reply would be taken for the answer.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::in_flight::{InFlight, ReplyAction};
use super::login_turns::LoginLead;
use super::station::Station;
use crate::clock::Time;
use crate::error::Error;

impl Station {
    /// Redis's reply to `AUTH`, or to `HELLO` with a login. Asked once more where the connection breaks meanwhile: it is
    /// whoever logged in last, and ends with that user.
    pub(crate) async fn log_in(self: &Rc<Self>, command: &[u8]) -> Result<Vec<u8>, Error> {
        if let Some(answer) = self.logins.join(command)
            && let Ok(reply) = answer.await
        {
            return Ok(reply);
        }
        let mut lead = self.logins.lead(command);
        let reply = match self.try_log_in(command, &mut lead).await {
            Err(Error::Lost { .. }) => self.try_log_in(command, &mut lead).await?,
            done => done?,
        };
        lead.answered(&reply);
        Ok(reply)
    }

    async fn try_log_in(self: &Rc<Self>, command: &[u8], lead: &mut LoginLead<'_>) -> Result<Vec<u8>, Error> {
        let mut turn = self.logins.take(|| self.private(None, Time::now())).await;
        turn.lane.ready().await?;
        lead.leaves();
        let (told, reply) = oneshot::channel();
        let login = InFlight::own(&self.site, ReplyAction::Capture(Vec::new(), told));
        if turn.lane.send(command, login, Time::now()).is_ok() {
            let limit = self.site.shared.config.response_timeout.unwrap_or(Duration::MAX);
            match timeout(limit, reply).await {
                Ok(Ok(reply)) => {
                    turn.answered();
                    return Ok(reply);
                }
                Ok(Err(_)) => {}
                Err(_) => turn.lane.give_up(limit),
            }
        }
        Err(turn.lane.lost_error())
    }
}
