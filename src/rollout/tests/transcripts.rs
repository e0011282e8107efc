//! Single rollouts, step by step.

mod broadcast;
mod halting;
mod network;
mod operator;
mod resuming;
mod retries;
mod rollback;
