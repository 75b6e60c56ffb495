//! What L1 would answer if it were larger or smaller, or promoted otherwise: a curve, made of miniatures of L1 that are asked for a
//! sample of the keys.
//!
//! Nothing here is on the way of a request. Workers test a read's hash and hand on those in the sample (`proxy`), one task asks the
//! ear about their keys and feeds the [`Simulation`] (`app`), and what it says is put into numbers and words ([`CurveReport`],
//! [`Advice`]) for whoever asks.
//!
//! That a key has changed is seen by what L1 itself goes by: its stamp and its ear's epoch, which a sampled read brings along. For a key
//! of which no write comes by here, they change only if Redis tracks it; so what a miniature takes in has been read on the ear.
//!
//! To read: [`miniature`], [`shelf`] and [`sketch`] below it, [`simulation`] with [`window`] and [`groups`], then [`report`] and [`advice`].

#![allow(clippy::cast_precision_loss, reason = "shares and rates, for people")]
#![cfg_attr(test, allow(clippy::float_cmp, reason = "sums of few powers of two are exact"))]

mod advice;
mod groups;
mod landings;
mod miniature;
mod report;
mod shelf;
mod simulation;
mod sketch;
mod window;

pub use advice::Advice;
pub use groups::GroupTally;
pub(crate) use landings::{SampleLandings, SampleTicket};
pub use miniature::{Miniature, MiniatureFinding, MiniatureRead};
pub use report::{
    CurveBoard, CurveReport, GroupReport, PromotionReport, ReportSources, SampleReport, SizeReport, WritesReport,
};
pub use simulation::{MOST_FOLDS, SimulatedRead, Simulation, SimulationPlan};
pub use window::Estimate;

/// Spreads a hash of which some bits are the same for all keys of the sample.
pub const fn mixed(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let hash = (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ hash >> 32
}
