//! Deploys `NixOS` fleets over NATS.
//!
//! The library exists so that tests and examples can use it; the program is `homelab-deploy`. In reading order:
//!
//! - [`protocol`]: the messages and subjects, pure;
//! - [`plan`]: what a plan says and what it resolves to, pure;
//! - [`rollout`]: how a plan is carried out, pure;
//! - [`operator`]: what drives a rollout from the operator's machine, and what it records of it;
//! - [`mcp`]: the same for assistants;
//! - [`report`]: what the operator sees of it;
//! - [`listener`]: what runs on each host;
//! - [`bus`]: the connection to NATS, for both ends;
//! - [`lookup`]: the commit behind a branch or tag, for both ends;
//! - [`nats_config`]: what the NATS server must know of both, pure;
//! - [`private_dir`]: folders that nobody else can write to;
//! - [`clock`]: where wall-clock time enters; [`notify`]: news for systemd; [`text`]: text that others wrote, made safe
//!   to show;
//! - [`cli`]: the command line.

pub mod bus;
pub mod cli;
pub mod clock;
pub mod listener;
pub mod lookup;
pub mod mcp;
pub mod nats_config;
pub mod notify;
pub mod operator;
pub mod plan;
pub mod private_dir;
mod process_group;
pub mod protocol;
pub mod report;
pub mod rollout;
#[cfg(test)]
mod testing;
pub mod text;
