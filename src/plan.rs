//! Plans: what a person writes, and the frozen waves that it comes down to for the hosts that are there.
//!
//! Pure: reading the file and asking who is there happen elsewhere; here is what the text means.

pub mod frozen;

pub use frozen::{Check, FrozenHost, FrozenPlan, FrozenWave, Limits};
