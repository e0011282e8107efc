//! The program against a real nats-server under the real permissions, and what holds for the tree as a whole.

#[path = "../support/mod.rs"]
mod support;

mod harness;
mod permissions;
mod tidy;

use std::path::Path;

/// The program under test.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_homelab-deploy"))
}
