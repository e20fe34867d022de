//! The program as users have it: flags in; exit code, messages and files out.

#![allow(clippy::unwrap_used)]

mod audio;
mod bad_config;
mod bad_model;
mod bad_output;
mod bad_request;
mod bench;
mod bound;
mod common;
mod control;
mod edit;
mod enlarge;
mod http;
mod latent;
mod look;
mod parity;
mod quality;
mod ranks;
mod restore;
mod resume;
mod robust;
mod sample;
mod serve;
mod serve_apis;
mod solvers;
mod sounds;
mod speech;
mod tensors;
mod trajectory;
mod video;
