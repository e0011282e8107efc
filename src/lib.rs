//! Deploys `NixOS` fleets over NATS.
//!
//! The library exists so that tests and examples can use it; the program is `homelab-deploy`. In reading order:
//!
//! - [`protocol`]: the messages and subjects, pure;
//! - [`plan`]: plans, and the waves of hosts that they resolve to, pure;
//! - [`rollout`]: the state machine that carries out a plan, pure;
//! - [`operator`]: prepares, drives and records rollouts on the operator's machine;
//! - [`mcp`]: the MCP server, by which assistants deploy;
//! - [`report`]: shows rollouts to the operator;
//! - [`listener`]: the service on each host;
//! - [`bus`]: the connection to NATS, for operators and listeners;
//! - [`lookup`]: the commit of a branch or tag, for operators and listeners;
//! - [`nats_config`]: the permissions in the NATS server's configuration, pure;
//! - [`private_dir`]: folders that no other user can write to;
//! - [`clock`]: the wall clock; [`text`]: foreign text, made safe to show;
//! - [`cli`]: the command line.

pub mod bus;
pub mod cli;
pub mod clock;
pub mod listener;
pub mod lookup;
pub mod mcp;
pub mod nats_config;
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
