//! Deploys `NixOS` fleets over NATS.
//!
//! The library exists so that tests and examples can use it; the program is `homelab-deploy`. In reading order:
//!
//! - [`protocol`]: the messages and subjects, pure;
//! - [`plan`]: what a plan says and what it comes down to, pure;
//! - [`rollout`]: how a plan is carried out, pure;
//! - [`cli`]: the command line.

pub mod cli;
pub mod plan;
pub mod protocol;
pub mod rollout;
