//! Asks after the rights of users that may not ask themselves: the user of the upstream URL does, over one connection for all ears.
//!
//! Begun when the first ear needs it; it ends with the process. What an answer means stands in `rights`.
//!
//! Holds contract point 8, with `rights`.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::super::l1::L1;
use super::group::EarGroup;
use super::handle::Ear;
use crate::clock::Time;
use crate::error::Error;
use crate::metrics::{EpochReason, Need};
use crate::resp::{Resp, encode};
use crate::upstream::{Backoff, Connection, Target, connect, read_reply};

impl L1 {
    /// Has the steward ask from now on at the node of `group`.
    pub(super) fn start_steward(self: &Arc<Self>, group: &Arc<EarGroup>) {
        group.stewarded.call_once(|| {
            let (l1, group) = (Arc::clone(self), Arc::clone(group));
            self.control.spawn(ask_on(l1, group));
        });
    }
}

/// Never returns.
async fn ask_on(l1: Arc<L1>, group: Arc<EarGroup>) {
    let mut backoff = Backoff::default();
    let mut told = false;
    loop {
        let Err(error) = ask(&l1, &group, &mut backoff).await;
        if std::mem::replace(&mut told, true) {
            debug!(%error, "still cannot ask after the rights of users who may not ask themselves");
        } else {
            warn!(%error, "cannot ask after the rights of users who may not ask themselves");
        }
        if matches!(error, Error::Refused { .. } | Error::LoginRefused { .. }) && !error.is_passing() {
            for (_, ear) in l1.ears.all_at(&group.node) {
                act(&l1, &ear, ear.rights.lose_steward());
            }
        }
        sleep(backoff.wait()).await;
    }
}

async fn ask(l1: &L1, group: &EarGroup, backoff: &mut Backoff) -> Result<Infallible, Error> {
    let node = &group.node;
    let target = Target { node: Arc::clone(node), login: node.login(), db: 0, resp: Resp::V3, name: "crema-rights" };
    let Connection { mut socket, permit: _permit, .. } = connect(&target).await?;
    let lost = |why: &str| Error::Lost { node: Arc::clone(&node.address), why: why.into() };
    let mut buffer = Vec::new();
    loop {
        for (user, ear) in l1.ears.all_at(node) {
            let asked = Time::now();
            if !ear.rights.wants_steward(asked, l1.terms.acl_recheck / 2) {
                continue;
            }
            let mut question = Vec::new();
            encode::own_command(&mut question, &[b"ACL", b"GETUSER", &user]);
            let exchange = async {
                socket.write_all(&question).await?;
                read_reply(&mut socket, &mut buffer).await
            };
            let reply = timeout(node.connect_timeout, exchange).await.map_err(|_| lost("no answer to ACL GETUSER"))?;
            let reply = reply.map_err(|error| lost(&error.to_string()))?;
            backoff.reset();
            node.needs.hear(Need::Acl, Some(&user), &reply);
            act(l1, &ear, ear.rights.hear_from_steward(&reply, asked));
        }
        // Early where something was filled.
        let _ = timeout(l1.terms.acl_recheck / 4, group.rights_due.notified()).await;
    }
}

fn act(l1: &L1, ear: &Ear, changed: bool) {
    if changed {
        ear.freshness.bump();
        l1.stats.epoch(EpochReason::Rights);
    }
}
