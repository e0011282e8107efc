//! Tests of the machine: invariants that hold whatever the network does, and transcripts of single rollouts.

mod commit_invariants;
mod crash;
mod drive;
mod fixture;
mod host_invariants;
mod invariants;
mod ledger;
mod network;
mod observed_host;
mod properties;
mod resuming;
mod roll_call_invariants;
mod rollback;
mod sim;
mod staging_invariants;
mod transcript;
mod transcripts;
mod world;
