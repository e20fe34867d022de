//! Files that are written completely or not at all, and the amount of available memory.

#![cfg_attr(test, allow(clippy::unwrap_used))]
#![allow(unsafe_code)]

pub mod files;
pub mod memory;
