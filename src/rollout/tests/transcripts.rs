//! Transcripts of single rollouts, step by step.

mod halting;
mod identity;
mod network;
mod operator;
mod resuming;
mod retries;
mod rollback;
mod staging;
