//! The `homelab-deploy` program; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    homelab_deploy::cli::run()
}
