//! Whether this process took over from another, or leaves its clients to one: for people, and the clients' way there. Written by
//! `app`, shown in the status.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::passage::Passage;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Succession {
    state: Mutex<SuccessionState>,
    /// The way of clients to the process that has taken over.
    pub passage: Passage,
}

/// How it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum SuccessionState {
    /// It cannot be taken over.
    #[default]
    Off,
    /// Another process may take over at this path.
    Open(PathBuf),
    /// It prepares to take over from this process.
    Prepares(u32),
    /// It may serve in place of this process already, and does not say so: until it does, or ends, this one lets nobody in.
    Awaits(u32),
    /// It has taken over from this process, which has clients yet: until then nothing is answered out of memory.
    Follows(u32),
    /// This process has taken over from it.
    Leaves(u32),
}

impl Succession {
    /// It stands so from now on.
    pub(crate) fn set(&self, state: SuccessionState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// How it stands.
    pub(crate) fn get(&self) -> SuccessionState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Display for SuccessionState {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Open(path) => write!(f, "open at {}", path.display()),
            Self::Prepares(pid) => write!(f, "prepares to take over from process {pid}"),
            Self::Awaits(pid) => write!(
                f,
                "process {pid} may serve already and does not say so: no client is let in until it does, or is killed"
            ),
            Self::Follows(pid) => {
                write!(f, "has taken over from process {pid}, which has clients yet: no hits until then")
            }
            Self::Leaves(pid) => write!(f, "has left to process {pid}: no hits any more"),
        }
    }
}
