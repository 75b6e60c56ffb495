//! Commands that the table does not know, or not with so many arguments: a module's, or a newer server's. Redis is asked once
//! what it knows of each.
//!
//! They never ride a lane. One that Redis flags as reading or writing keys is a plain data command; one that Redis does not
//! know either can only fail; all else may change the connection, which is given over to the session for good.
//!
//! Holds contract point 1 for commands that nobody here knows.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::link::{Link, Stay};
use super::spread::masters;
use super::wire::ClientLine;
use super::{Close, Session};
use crate::clock::Time;
use crate::command::{self, Categories, HashSlot, Merge, Route, Spec, Spread};
use crate::proxy::{Account, Nature, ReplyAction};
use crate::resp::{Request, encode};

/// How long Redis may take to say what it knows. It says nothing while it is in a client's debugger, whose own commands come here.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longer names are no command's.
pub(super) const LONGEST: usize = 128;

impl Session {
    /// A command that is not in the table.
    pub(super) async fn foreign(&mut self, line: &mut ClientLine, request: Request<'_>) -> Result<(), Close> {
        let account = self.account(line, request).await?.unwrap_or(Account::NONE);
        let (name, denied) = (name_of(request), &self.entrance.denied);
        if let Some(first) = account.first().map(|first| command::renamed(first, request)).filter(|row| denied.has(row))
        {
            return self.deny(line, first.name, first.route).await;
        }
        if denied.has_foreign(&name, account.categories) {
            return self.deny(line, &String::from_utf8_lossy(&name), command::unknown().route).await;
        }
        if let Spread::Masters(merge) = account.spread
            && self.worker.is_cluster()
            && self.link.is_followed()
            && !self.link.is_in_transaction()
        {
            return self.foreign_everywhere(line, account.nature, request, merge).await;
        }
        self.send_foreign(line, account, request).await
    }

    /// A command that goes to all masters of a cluster, as the server says.
    async fn foreign_everywhere(
        &mut self,
        line: &mut ClientLine,
        nature: Nature,
        request: Request<'_>,
        merge: Merge,
    ) -> Result<(), Close> {
        line.answered(self).await?;
        if self.has_done_with_loan() {
            self.end_loan(line).await?;
        }
        let masters = masters(&self.worker.topology());
        self.ask_nodes(line, &masters, (row_of(nature), request), merge).await
    }

    /// A command that the table knows with another number of arguments: whether the server takes it all the same, and it has
    /// been sent, or refused, then. Where the server does not say, it may.
    pub(super) async fn widened(
        &mut self,
        line: &mut ClientLine,
        spec: &Spec,
        request: Request<'_>,
    ) -> Result<bool, Close> {
        let denied = self.entrance.denied.has(spec);
        let account = self.account(line, request).await?.filter(|account| account.nature != Nature::Unsaid);
        let account = match account {
            // What is denied is refused where it is not certain that the server would refuse it.
            Some(account) if !account.takes(request.argc()) && (account.says_arity() || !denied) => return Ok(false),
            Some(account) => account,
            // Whatever is new about it, what is about keys leaves a connection as it was.
            None => Account::of(match spec.route {
                Route::Session(_) | Route::Home | Route::Taint | Route::Close => Nature::Anything,
                _ => Nature::Writes,
            }),
        };
        if denied {
            self.deny(line, spec.name, spec.route).await?;
        } else {
            self.send_foreign(line, account, request).await?;
        }
        Ok(true)
    }

    async fn send_foreign(
        &mut self,
        line: &mut ClientLine,
        account: Account,
        request: Request<'_>,
    ) -> Result<(), Close> {
        let nature = account.nature;
        let spec = row_of(nature);
        if self.worker.is_cluster() {
            let slot = account.key_of(request).map(HashSlot::of);
            if self.link.is_in_transaction() {
                if !self.place(line, slot).await? {
                    return Ok(());
                }
            } else if slot.is_some() {
                self.single(line, slot, spec, request).await?;
                if nature.may_taint() {
                    line.answered(self).await?;
                    // Nobody knows what the connection is by now.
                    if self.change(Link::end_loan).is_none() {
                        self.change(|link| link.keep(Stay::Tainted));
                    }
                }
                return Ok(());
            }
        }
        let queued = self.link.open().is_some();
        let taints = nature.may_taint() || queued && !matches!(nature, Nature::Unknown | Nature::Reads);
        let private = if taints {
            self.keep(line, Stay::Tainted).await?
        } else {
            self.renew_loan(line).await?;
            self.borrow(line).await?
        };
        self.send(&private, spec, request, Time::now());
        Ok(())
    }

    /// What Redis says of the command; none where it says nothing.
    async fn account(&mut self, line: &mut ClientLine, request: Request<'_>) -> Result<Option<Account>, Close> {
        let name = name_of(request);
        if name.len() > LONGEST {
            return Ok(Some(Account::UNKNOWN));
        }
        let now = Time::now();
        if let Some(account) = self.worker.foreign.get(&name, now) {
            return Ok(Some(account));
        }
        line.answered(self).await?;
        let mut question = Vec::new();
        encode::own_command(&mut question, &[b"COMMAND", b"INFO", &name]);
        let mut account = None;
        // What one user may not ask, that of the URL may.
        for own in [true, false] {
            let (told, reply) = oneshot::channel();
            let action = ReplyAction::Capture(Vec::new(), told);
            if own {
                self.caller.ask(&self.worker, &question, action, now);
            } else {
                self.worker.ask(&question, action, now);
            }
            match timeout(PATIENCE, reply).await {
                Ok(Ok(reply)) if !reply.starts_with(b"-") => account = Some(Account::read(&name, &reply)),
                Ok(Ok(_)) if own => continue,
                _ => {}
            }
            break;
        }
        // Nothing was said, so nothing is known: what is not known today may be tomorrow.
        let Some(account) = account else { return Ok(None) };
        self.worker.foreign.put(name, account, now);
        Ok(Some(account))
    }

    /// Whether a command is denied, as far as that is known without asking.
    pub(super) fn denial(&self, known: Option<&Spec>, request: Request<'_>) -> &'static str {
        let denied = &self.entrance.denied;
        let is_denied = known.map_or_else(
            || {
                let name = name_of(request);
                let account = self.worker.foreign.get(&name, Time::now());
                let first = account.and_then(Account::first).map(|first| command::renamed(first, request));
                let told = account.map_or(Some(Categories::NONE), |account| account.categories);
                first.is_some_and(|first| denied.has(first)) || denied.has_foreign(&name, told)
            },
            |spec| denied.has(spec),
        );
        if is_denied { "yes" } else { "no" }
    }
}

/// The row that stands for a command of this nature.
fn row_of(nature: Nature) -> &'static Spec {
    match nature {
        Nature::Secret | Nature::Unsaid => command::unknown(),
        Nature::Writes | Nature::Anything => command::unknown_told(),
        Nature::Reads | Nature::Unknown => command::unknown_read(),
    }
}

/// The name of a command in lower case, with that of its subcommand where it has such.
fn name_of(request: Request<'_>) -> Vec<u8> {
    let mut name = request.arg(0).to_ascii_lowercase();
    if command::is_container(request) {
        name.push(b'|');
        name.extend(request.arg(1).to_ascii_lowercase());
    }
    name
}
