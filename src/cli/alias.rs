//! Aliases of deploy subjects, which the environment defines.

/// The value of an environment variable that defines an alias.
#[expect(clippy::disallowed_methods, reason = "which variables are asked for depends on the words of the user")]
pub(super) fn lookup(variable: &str) -> Option<String> {
    std::env::var(variable).ok()
}
