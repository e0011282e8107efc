//! Tests `plan` and `apply` as a user runs them: the program, a real server with the real permissions, and real
//! listeners. Only `nixos-rebuild` and misbehaving hosts are simulated.

mod answers;
mod background;
mod checks;
mod commit;
pub(crate) mod confirm;
mod crashes;
mod crowd;
mod current;
mod downgrade;
pub(crate) mod fake;
mod flake;
pub mod halting;
mod interrupts;
mod nothing_sent;
mod operators;
mod outages;
mod output;
pub mod resume;
mod rollback;
mod selection;
pub(crate) mod stage;
pub(crate) mod systems;
mod waves;
mod way_back;
pub(crate) mod wiretap;
