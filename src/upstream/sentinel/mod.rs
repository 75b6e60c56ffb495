//! A group of servers that Sentinels watch, as one node: who the master is, and what proves that it still is.
//!
//! `statement` reads what a Sentinel says, `census` weighs it, `inquiry` asks. The keeper, which brings them together and has the
//! master change, is in `app`.

mod census;
mod inquiry;
mod statement;

pub(crate) use census::{GroupStanding, SentinelCensus, Tenure};
pub(crate) use inquiry::{Inquirer, SentinelLogin, SentinelReport, role, scout};
pub(crate) use statement::SentinelId;
