//! L1 together with all that keeps it honest: the ears, the fences of opaque writes, the fleet's channel.
//!
//! A user's part of L1 is *live* while the user's ear holds a lease, else *blind*: it answers nothing then, and reads go to
//! Redis. Workers promote keys and ask for fences here, from their own threads; the ears run on the control thread. Nothing
//! here knows a session or a lane.
//!
//! To read: [`terms`](L1Terms), [`l1`](L1), [`ears`](ears::Ears), `change`, then [`ear`] from its protocol on; the fleet's side
//! is [`message`], `forget`, [`channel`], [`stream`], `notice`, `publish`.

mod audit_record;
mod change;
pub(crate) mod channel;
pub mod ear;
mod ears;
mod forget;
mod l1;
pub(crate) mod message;
mod mode;
mod notice;
mod opaque;
mod publish;
mod silence;
pub(crate) mod stream;
mod switch;
mod terms;
mod user;

pub(crate) use audit_record::AuditViolation;
pub(crate) use change::Change;
pub(crate) use ear::AwaitedChange;
pub use ear::{Audit, Fill};
pub(crate) use ear::{Ear, EarState};
pub(crate) use forget::{Forget, Heard};
pub(crate) use l1::L1;
pub use mode::CoherenceMode;
pub(crate) use notice::{Notice, Notices};
pub use opaque::OpaqueWrites;
pub(crate) use publish::{Debt, Fleet, News, Publisher};
pub use silence::Silence;
pub use switch::ModeSwitch;
pub use terms::L1Terms;
pub(crate) use user::{AclUser, Seat};
