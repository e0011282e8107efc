//! The `homelab-deploy` program, a thin wrapper around the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    homelab_deploy::cli::run()
}
