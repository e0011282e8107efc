//! What holds of every rollout whatever the network does, and what some of them look like step by step.

mod deployment;
mod drive;
mod fixture;
mod host_invariants;
mod invariants;
mod ledger;
mod network;
mod properties;
mod sim;
mod transcript;
mod transcripts;
mod world;
