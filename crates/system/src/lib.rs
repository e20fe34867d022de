//! Files that are written completely or not at all, available memory, and signals.

#![cfg_attr(test, allow(clippy::unwrap_used))]
#![allow(unsafe_code)]

pub mod files;
pub mod memory;
pub mod signals;
