//! Files that are written completely or not at all, available memory, signals, and processes that work together.

#![cfg_attr(test, allow(clippy::unwrap_used))]
#![allow(unsafe_code)]

pub mod files;
pub mod memory;
pub mod ranks;
pub mod signals;
