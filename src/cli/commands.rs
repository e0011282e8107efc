//! One file for each subcommand.

pub(super) mod keygen;
