//! `plan` and `apply` from the outside: the program, a real server with the real permissions, and real listeners. Only
//! `nixos-rebuild` is made up, and hosts that misbehave.

mod answers;
mod checks;
mod commit;
mod confirm;
mod fake;
mod halting;
mod interrupts;
mod nothing_sent;
mod outages;
mod output;
mod stage;
mod waves;
mod wiretap;
