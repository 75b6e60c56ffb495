//! The admin port's socket: bound or inherited, served from when clients are let in, and shown to a process that takes over.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;
use tracing::info;

use crate::admin::{self, Source};
use crate::config::Listen;
use crate::control::Control;
use crate::error::Error;
use crate::server::{Inheritance, copy_of};

/// See the module's head. Dropped, nobody is let in any more, and answers under way end.
pub(super) struct AdminPort {
    listener: Option<TcpListener>,
    /// Another hold on it, for the process that takes over.
    copy: OwnedFd,
    /// As the settings have it.
    name: String,
    is_shared: bool,
    end: Option<DropGuard>,
}

impl AdminPort {
    /// Takes a socket that is bound to `address`, or binds one.
    pub(super) async fn open(address: SocketAddr, inherited: &mut [&mut Inheritance]) -> Result<Self, Error> {
        let failed = |source| Error::listen("admin", &address.to_string(), source);
        let asked = Listen::plain(address);
        let given = inherited.iter_mut().find_map(|given| given.take(&asked));
        let (listener, is_shared) = match given {
            Some(given) => given.into_tcp().map_err(failed)?,
            None => (TcpListener::bind(address).await.map_err(failed)?, false),
        };
        let copy = copy_of(&listener).map_err(failed)?;
        Ok(Self { listener: Some(listener), copy, name: asked.to_string(), is_shared, end: None })
    }

    /// Serves it from now on.
    pub(super) fn serve(&mut self, source: &Arc<dyn Source>, control: &Control) {
        let Some(listener) = self.listener.take() else { return };
        if let Ok(address) = listener.local_addr() {
            info!("admin on http://{address}/");
        }
        let (source, stop) = (Arc::clone(source), control.child_token());
        self.end = Some(stop.clone().drop_guard());
        control.spawn_ending(|_| admin::serve(listener, source, stop));
    }

    /// For a process that takes over: the socket, its address as the settings have it, and whether somebody else keeps it.
    pub(super) fn show(&self) -> (&OwnedFd, String, bool) {
        (&self.copy, self.name.clone(), self.is_shared)
    }
}
