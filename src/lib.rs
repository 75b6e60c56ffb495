//! crema, a caching proxy for Redis and Valkey: hot reads answered from its own memory, coherent across a fleet.
//!
//! # The way of a request
//!
//! ```text
//! server ─► session ─► command ─► proxy ─► cache: L1 ──hit──────────────────────────► replies
//!  accept    parse      the row    the way     └─ a flight of this lane ──joined────► replies
//!                                              └─ lead ─► upstream: lane ─► Redis ──► replies
//!                                                   └─ 1/N: promote ─► invalidation: the ear fills L1
//! ```
//!
//! A client's bytes are read by [`session`], which asks [`command`] what the request is. What may go on a shared connection
//! goes to [`proxy::call`]: a read is answered by L1 ([`cache`]), or waits with the same read of another session, or leads, on
//! a lane ([`upstream`]). Replies are put in order by [`proxy::Replies`]. Behind the client's back, hot keys are promoted: the
//! ear ([`invalidation`]) reads them again on the one connection on which Redis tells of every change.
//!
//! # Layers
//!
//! Imports run downward only, and a test holds them to it:
//! `main → app → server, admin → session → proxy → invalidation → curve → cache, upstream → metrics, log → command, config → clock, control,
//! error, net → resp`.
//!
//! # Reading order
//!
//! [`resp`], [`command`], [`cache`], [`upstream`], [`invalidation`], [`proxy`], [`session`], [`server`], [`app`].

mod admin;
pub mod app;
mod beyond;
pub mod cache;
pub mod clock;
pub mod command;
pub mod config;
mod control;
pub mod curve;
pub mod error;
pub mod invalidation;
pub mod log;
pub mod metrics;
mod net;
mod origin;
pub mod proxy;
pub mod resp;
mod server;
mod session;
mod tier;
pub mod upstream;
