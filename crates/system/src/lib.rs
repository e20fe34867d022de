//! Files that are written completely or not at all, available memory, signals, processes that work together, and a record of
//! what they do when.

#![cfg_attr(test, allow(clippy::unwrap_used))]
#![allow(unsafe_code)]

pub mod files;
pub mod memory;
pub mod ranks;
pub mod record;
pub mod signals;
