//! Tests the program against a real nats-server with the real permissions, and the rules for the whole source tree.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed, and says where")]

#[path = "../support/mod.rs"]
mod support;

mod deployer;
mod dice;
mod generations;
mod operator;
mod stand_in;

mod apply;
mod archive;
mod attacks;
mod chaos;
mod cluster;
mod connection;
mod deploy;
mod discovery;
mod docs;
mod doctor;
mod first_hour;
mod floods;
mod harness;
mod history;
mod hooks;
mod hosts;
mod lifecycle;
mod listener;
mod local_time;
mod logs;
mod mcp;
mod module;
mod own_place;
mod permissions;
mod predecessor;
mod report_page;
mod returning;
mod rollback;
mod runs;
mod service;
mod shell;
mod slow_link;
mod tidy;
mod tls;
mod trouble;

use std::path::Path;

use homelab_deploy::protocol::HostName;

/// The program under test.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_homelab-deploy"))
}

/// Parses the name of a host.
fn host(name: &str) -> HostName {
    name.parse().unwrap()
}
