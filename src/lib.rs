//! Deploys `NixOS` fleets over NATS.
//!
//! The library exists so that tests and examples can use it; the program is `homelab-deploy`. In reading order:
//!
//! - [`protocol`]: the messages and subjects, pure;

pub mod protocol;
