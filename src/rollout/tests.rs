//! What holds of every rollout whatever the network does, and what some of them look like step by step.

mod commit_invariants;
mod crash;
mod drive;
mod fixture;
mod host_invariants;
mod invariants;
mod ledger;
mod network;
mod properties;
mod resuming;
mod roll_call_invariants;
mod seen;
mod sim;
mod transcript;
mod transcripts;
mod way_back;
mod world;
