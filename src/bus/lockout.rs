//! A key that the server does not take.

use std::time::Duration;

use tokio::time::Instant;

/// For how long the key of a service may be refused. Then it ends: what starts it again hands it the key that is valid
/// now, which systemd does only at the start.
const REFUSED_FOR: Duration = Duration::from_mins(1);

/// Since when the server refuses the key.
#[derive(Debug, Default)]
pub struct Lockout {
    since: Option<Instant>,
}

impl Lockout {
    /// The server refused the key; whether it has done so for too long.
    pub fn refused(&mut self) -> bool {
        self.since.get_or_insert_with(Instant::now).elapsed() >= REFUSED_FOR
    }

    /// The server took the key.
    pub fn over(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_given_up_after_a_minute_in_which_it_was_never_taken() {
        let mut lockout = Lockout::default();
        assert!(!lockout.refused());
        tokio::time::advance(REFUSED_FOR / 2).await;
        assert!(!lockout.refused());
        tokio::time::advance(REFUSED_FOR / 2).await;
        assert!(lockout.refused());
        lockout.over();
        assert!(!lockout.refused());
    }
}
