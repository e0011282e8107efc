//! A homelab in a temporary folder: a real server with the real permissions, real listeners, and a scripted
//! `nixos-rebuild`.
//!
//! The integration tests and the demo share it. Everything started here stops when it is dropped. No test waits by
//! sleeping for a fixed time: [`wait`] polls for a condition, or fails and names it.

pub mod flake;
pub mod fleet;
pub mod git;
pub mod keys;
pub mod lab;
pub mod permissions;
pub mod process;
pub mod program;
pub mod proxy;
pub mod rebuild;
pub mod server;
pub mod skip;
pub mod tls;
pub mod wait;
