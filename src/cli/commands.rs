//! The subcommands, one file each.

pub(super) mod apply;
pub(super) mod build;
pub(super) mod completions;
pub(super) mod deploy;
pub(super) mod doctor;
pub(super) mod hosts;
pub(super) mod init;
pub(super) mod keygen;
pub(super) mod listener;
pub(super) mod logs;
pub(super) mod man;
pub(super) mod mcp;
pub(super) mod nats_config;
pub(super) mod plan;
pub(super) mod rollback;
pub(super) mod rollouts;
pub(super) mod supervise;
