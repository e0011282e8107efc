//! A homelab in a temporary folder: a real server under the real permissions, real listeners, and a `nixos-rebuild` that
//! does as it is told.
//!
//! The integration tests and the demo share it. Whatever is started here ends with its value, and nothing is waited for
//! by sleeping and hoping: [`wait`] asks until it is so, or fails and says what it waited for.

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
