//! L1 together with all that keeps it honest: the ears, the fences of opaque writes, the fleet's channel.
//!
//! A user's part of L1 is *live* while the user's ear holds a lease, else *blind*: it answers nothing then, and reads go to
//! Redis. Workers promote keys and ask for fences here, from their own threads; the ears run on the control thread. Nothing
//! here knows a session or a lane.
//!
//! To read: [`terms`](L1Terms), [`l1`](L1), [`ears`](Ears), `change`, then [`ear`] from its protocol on; the fleet's side is [`message`], `forget`,
//! [`channel`], `notice`, `publish`.

mod change;
pub mod channel;
pub mod ear;
mod ears;
mod forget;
mod l1;
pub mod message;
mod mode;
mod notice;
mod opaque;
mod publish;
mod silence;
mod terms;
mod user;

pub use change::Change;
pub use ear::{Ear, EarState, Fill};
pub use ears::Ears;
pub use forget::{Forget, Heard};
pub use l1::{Kept, L1};
pub use mode::CoherenceMode;
pub use notice::{Notice, Notices};
pub use opaque::OpaqueWrites;
pub use publish::{Debt, Fleet, News, Publisher};
pub use silence::{Pause, Silence};
pub use terms::L1Terms;
pub use user::{AclUser, Seat};
