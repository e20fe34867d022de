//! `tweedie serve`: jobs over HTTP, for many clients of one machine.
//!
//! ```text
//! HTTP ── Service ──► Desk: loads models, checks and prepares requests
//!            │  ▲
//!            │  └─ Journal (SQLite), Store (files), Board (jobs that have not ended, their events)
//!            ▼                    ▲
//!         Engine: steps ──► Scribe: decodes, stores, reports
//! ```
//!
//! Three threads do the work, and HTTP never waits for a call of a network: the *desk* loads models and checks requests, the
//! *engine* steps all running jobs, the *scribe* decodes and stores. A job is in the journal before the client hears that it
//! is accepted, so it is finished even if the process is killed, with the same bits.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod api;
mod asked;
mod auth;
mod config;
mod desk;
mod engine;
mod error;
mod fair;
mod feed;
mod formats;
mod journal;
mod lane;
mod limits;
mod listen;
mod live;
mod log;
mod metrics;
mod order;
mod pace;
mod pages;
mod scribe;
mod server;
mod service;
mod stop;
mod store;
mod waiter;

pub use config::{Changes, Config, Limits, Load, Model};
pub use error::{Fault, ServeError};
pub use log::log;
pub use server::Server;
pub use stop::Stop;
