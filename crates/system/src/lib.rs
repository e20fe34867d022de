//! What a program needs of the machine besides arithmetic: files that are never half written, and to know how much
//! memory there is.

#![cfg_attr(test, allow(clippy::unwrap_used))]
#![allow(unsafe_code)]

pub mod files;
pub mod memory;
