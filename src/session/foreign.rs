//! Commands that the table does not know: a module's, or a newer server's. Redis is asked once what it knows of each.
//!
//! They never ride a lane. One that Redis flags as reading or writing keys is a plain data command; one that Redis does not
//! know either can only fail; all else may change the connection, which is given over to the session for good.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::wire::Line;
use super::{Close, Session, Stay};
use crate::clock::Time;
use crate::command;
use crate::metrics::Outcome;
use crate::proxy::{Nature, Work};
use crate::resp::{Request, encode};

/// How long Redis may take to say what it knows. It says nothing while it is in a client's debugger, whose own commands come here.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longer names are no command's.
pub(super) const LONGEST: usize = 128;

impl Session {
    /// A command that is not in the table.
    pub(super) async fn foreign(&mut self, line: &mut Line, request: Request<'_>) -> Result<(), Close> {
        let nature = self.nature(line, request).await?;
        if nature == Nature::Anything
            || nature != Nature::Unknown && self.transaction.is_some() && nature != Nature::Reads
        {
            self.keep(line, Stay::Tainted).await?;
        } else {
            self.renew_loan(line).await?;
            self.borrow(line).await?;
        }
        let spec = match nature {
            Nature::Writes | Nature::Anything => command::unknown(),
            Nature::Reads | Nature::Unknown => command::unknown_read(),
        };
        self.send_private(spec, request, Time::now());
        Ok(())
    }

    async fn nature(&mut self, line: &mut Line, request: Request<'_>) -> Result<Nature, Close> {
        let mut name = request.arg(0).to_ascii_lowercase();
        if command::is_container(request) {
            name.push(b'|');
            name.extend(request.arg(1).to_ascii_lowercase());
        }
        if name.len() > LONGEST {
            return Ok(Nature::Unknown);
        }
        let now = Time::now();
        if let Some(nature) = self.worker.foreign.get(&name, now) {
            return Ok(nature);
        }
        line.answered(self).await?;
        let mut question = Vec::new();
        encode::own_command(&mut question, &[b"COMMAND", b"INFO", &name]);
        let (told, reply) = oneshot::channel();
        self.caller.ask(&self.worker, &question, Work::Capture(Vec::new(), told), now);
        let nature = match timeout(PATIENCE, reply).await {
            Ok(Ok(reply)) if !reply.starts_with(b"-") => Nature::read(&reply),
            // Nothing was said, so nothing is known; what one user may not ask, another may.
            _ => return Ok(Nature::Anything),
        };
        self.worker.foreign.put(name, nature, now);
        self.worker.stats.count(command::Class::Module, Outcome::Forwarded);
        Ok(nature)
    }
}
