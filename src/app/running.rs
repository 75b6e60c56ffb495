//! All that is started and ends again, in order; and from whom it takes over before, and who takes over from it.
//!
//! Called by `app`, which has the signals.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::admin_port::AdminPort;
use super::handover::{Estate, Successor, TakeOverDoor, Taking};
use super::rotation::RotatingLogins;
use super::settings::SettingsKeeper;
use super::{App, supervisor};
use crate::admin::Source;
use crate::config::{Config, Flags, Listen, Reading};
use crate::control::Control;
use crate::error::Error;
use crate::net::tls::{Acceptor, Dialer, FileError};
use crate::origin::Origins;
use crate::proxy::{Orders, SuccessionState};
use crate::server::{AcceptTurn, Inheritance, Inside, Listener, Porters, Prelude, Workers};
use crate::session::Entrance;
use crate::tier::Tiers;

/// The tasks beside the workers may take so long to end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The pause after the door could not be opened by a process that serves already.
const DOOR_PAUSE: Duration = Duration::from_secs(1);

/// What has been started and is to end.
pub(super) struct Running {
    pub(super) app: Arc<App>,
    pub(super) workers: Workers,
    /// What clients at each address have to do, and what is asked of them.
    entrances: Vec<(Prelude, Arc<Entrance>)>,
    /// Those who accept clients.
    porters: Porters,
    admin: Option<AdminPort>,
    /// Where another process may take over.
    door: Option<TakeOverDoor>,
    /// Sessions are to end.
    stop_sessions: CancellationToken,
    /// All else, which sessions may need until they have.
    control: Control,
}

impl Running {
    /// Starts all that there is, or nothing. Clients are let in when [`serve`](Self::serve) is called.
    pub(super) async fn start(config: Config, read: (Flags, Reading), mut given: Inherited) -> Result<Self, Error> {
        let bad = |setting| move |error: FileError| Error::Certificates { setting, why: error.to_string().into() };
        let acceptor = config.tls.as_ref().map(Acceptor::new).transpose().map_err(bad("tls_cert"))?.map(Arc::new);
        let dialer = config.upstream.tls.as_ref().map(Dialer::new).transpose().map_err(bad("upstream"))?;
        let logins = RotatingLogins::start(&config).await?;
        let listeners = given.listeners(&config.listen, acceptor.as_ref()).await?;
        let admin = match config.admin {
            Some(address) => Some(AdminPort::open(address, &mut [&mut given.admin, &mut given.listen]).await?),
            None => None,
        };
        given.tell_left()?;
        let (stop_sessions, control) = (CancellationToken::new(), Control::here());
        let entrances = Entrance::of_listeners(&config, control.clone())?;
        let preludes: Vec<_> = config.listen.iter().map(|listen| Prelude::of(listen, acceptor.as_ref())).collect();
        let entrance_inside = Entrance::inside(control.clone());
        let tiers = Tiers::start(&config.tiers, &control).map_err(bad("tier"))?;
        let tiers = (!config.tiers.is_empty()).then_some(tiers);
        let origins = Origins::new(&config.origins, control.clone()).map_err(bad("origin"))?;
        let (orders, orders_given) = Orders::new();
        let app = App::new(config, (dialer, acceptor), logins, (tiers, origins), orders, &control);
        if given.is_of_another {
            app.shared.l1.share(); // before anything is asked
        }
        let workers = Workers::start(&app.shared, &app.metrics.workers, &stop_sessions)
            .map_err(|source| Error::listen("threads", "worker threads", source))?;
        *app.inside() = Some(Inside::new(workers.doors(), entrance_inside));
        for listener in &listeners {
            info!("listening on {}{}", listener.address(), listener.note());
        }
        let porters =
            Porters::start(listeners.into_iter().zip(entrances.clone()), &workers.doors(), AcceptTurn::Others);
        let entrances = preludes.into_iter().zip(entrances).collect();
        app.tell_promises();
        app.watch_over(&control);
        control.spawn(SettingsKeeper::new(Arc::clone(&app), orders_given, read).keep());
        Ok(Self { app, workers, entrances, porters, admin, door: None, stop_sessions, control })
    }

    /// Lets clients in, where another process is taken over from when that is done. Returns when another takes over from this one; fails
    /// where this one could not. Never returns else. Cancel safe: nothing but a handover that is under way is lost.
    pub(super) async fn serve(&mut self, taking: &mut Option<Taking>) -> Result<Successor, Error> {
        let shared = Arc::clone(&self.app.shared);
        let has_taken = taking.is_some();
        match taking {
            Some(taken) => {
                taken.take(&shared, || self.let_in()).await?;
                let taken = taking.take().expect("it is there");
                let (doors, entrances) = (self.workers.doors(), self.entrances.clone());
                self.control
                    .spawn(async move { taken.follow(&shared, |client| doors.resume(client, &entrances)).await });
            }
            None => self.let_in(),
        }
        let shared = Arc::clone(&self.app.shared);
        let Some(path) = &shared.config.take_over else { return pending().await };
        let door = loop {
            match TakeOverDoor::open(path).await {
                Ok(door) => break self.door.insert(door),
                Err(error) if has_taken => warn!("{error}; nobody can take over from this process yet: trying again"),
                Err(error) => return Err(error),
            }
            sleep(DOOR_PAUSE).await;
        };
        info!("another crema of this user may take over at {}", door.path().display());
        if !shared.l1.is_shared() {
            shared.succession.set(SuccessionState::Open(path.clone()));
        }
        let admin = self.admin.as_ref().map(AdminPort::show);
        let estate = Estate { shared: &shared, porters: &self.porters, control: &self.control, admin };
        Ok(door.successor(&estate).await)
    }

    pub(super) fn let_in(&mut self) {
        self.porters.turn(AcceptTurn::Own);
        let source = Arc::clone(&self.app) as Arc<dyn Source>;
        if let Some(admin) = &mut self.admin {
            admin.serve(&source, &self.control);
        }
        self.control.spawn(supervisor::tell(source));
    }

    /// Ends all in order: a load balancer has time to notice, clients to finish; then the rest stops. How many tasks did not. Where
    /// another process has taken over, it has the sockets already, and nobody has to notice.
    pub(super) async fn end(self, mut successor: Option<Successor>) -> usize {
        let Self { app, workers, porters, admin, door, stop_sessions, control, .. } = self;
        let (drain_delay, drain_timeout) = app.shared.live().drain;
        successor = successor.or_else(|| door.as_ref()?.unheard());
        drop(door);
        if let Some(successor) = &mut successor {
            supervisor::tell_successor(successor.pid);
            app.shared.succession.set(SuccessionState::Leaves(successor.pid));
            info!("process {} has taken over: open sessions have {drain_timeout:?} to finish", successor.pid);
            drop(admin);
            porters.end(AcceptTurn::Left).await;
            let most = app.shared.live().max_clients;
            successor.leaving(drain_timeout + LAST_WORDS).await;
            successor.pass_on(app.shared.succession.passage.open(most));
        } else {
            app.draining.store(true, Ordering::Relaxed);
            supervisor::tell_end();
            if !drain_delay.is_zero() {
                info!("stopping: not ready any more, and clients are served for {drain_delay:?} yet");
                sleep(drain_delay).await;
            }
            info!("stopping: no new clients, open sessions have {drain_timeout:?} to finish");
            porters.end(AcceptTurn::Nobody).await;
        }
        stop_sessions.cancel();
        drop(app.inside().take());
        joined(workers).await;
        app.shared.succession.passage.close();
        if let Some(successor) = successor {
            successor.gone().await;
        }
        control.stop(LAST_WORDS).await
    }
}

/// Listening sockets that others have bound, and by whom they were given.
#[derive(Default)]
pub(super) struct Inherited {
    listen: Inheritance,
    admin: Inheritance,
    /// By a process that serves the same clients yet.
    is_of_another: bool,
}

impl Inherited {
    /// Those of the process that is to be taken over from, if it is there; else a supervisor's.
    pub(super) async fn find(config: &Config) -> Result<(Option<Taking>, Self), Error> {
        let supervisor = Inheritance::of_supervisor().map_err(|why| Error::Inherited(why.into()))?;
        let mut taking = match &config.take_over {
            Some(path) => Taking::begin(path).await?,
            None => None,
        };
        let given = match &mut taking {
            Some(taking) => Self {
                listen: std::mem::take(&mut taking.listen),
                admin: std::mem::take(&mut taking.admin),
                is_of_another: true,
            },
            None => Self { listen: supervisor, ..Self::default() },
        };
        Ok((taking, given))
    }

    /// A listener for each address.
    async fn listeners(&mut self, at: &[Listen], acceptor: Option<&Arc<Acceptor>>) -> Result<Vec<Listener>, Error> {
        let mut listeners = Vec::new();
        for listen in at {
            listeners.push(match self.listen.take(listen) {
                Some(inherited) => Listener::inherit(listen, acceptor, inherited)?,
                None => Listener::bind(listen, acceptor).await?,
            });
        }
        Ok(listeners)
    }

    /// What a supervisor hands over and no setting names is a mistake; another process may have had other settings.
    fn tell_left(&mut self) -> Result<(), Error> {
        let left = [self.listen.left(), self.admin.left()].concat();
        if left.is_empty() {
            return Ok(());
        }
        let left = left.join(", ");
        if self.is_of_another {
            warn!("nobody listens at {left} any more, where the process before this did: the settings do not name it");
            (self.listen, self.admin) = Default::default();
            return Ok(());
        }
        let why = format!("the supervisor hands over a socket at {left}, which neither `listen` nor `admin` names");
        Err(Error::Inherited(why.into()))
    }
}

/// Waits for the workers. Joining blocks, and they may need this runtime while they drain, so a thread of its own does it.
async fn joined(workers: Workers) {
    let (over, joined) = oneshot::channel::<()>();
    let join = move || {
        workers.join();
        drop(over);
    };
    if thread::Builder::new().name("join".into()).spawn(join).is_ok() {
        let _ = joined.await; // what is dropped tells as well
    }
}
