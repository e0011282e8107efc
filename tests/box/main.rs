//! Tests the program on a real host: systemd is PID 1, the listener runs in the unit of the NixOS module, and a
//! deployment fetches with git over http, builds with Nix, and replaces what runs.
//!
//! Each test boots a host of its own, which takes a second. It needs root and a Debian, see `scripts/box`; without
//! these, it is skipped and says so.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed, and says where")]

#[path = "../it/deployer.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod deployer;
#[path = "../it/operator.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod operator;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod support;

mod machine;
mod stage;

mod actions;
mod built_elsewhere;
mod by_hand;
mod fetching;
mod first_hour;
mod forms;
mod full_disk;
mod languages;
mod limits;
mod returning;
mod survival;
mod systems;
mod verdict;

use std::path::Path;

/// The program under test.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_homelab-deploy"))
}
