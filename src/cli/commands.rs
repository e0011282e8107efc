//! One file for each subcommand.

pub(super) mod keygen;
pub(super) mod nats_config;
