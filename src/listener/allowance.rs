//! A bound on how often something happens: what others send must not decide how much a host writes, logs or publishes.

use std::time::Duration;

use tokio::time::Instant;

/// A number of times at once, and one more each time a while has passed.
#[derive(Debug)]
pub(super) struct Allowance {
    most: u32,
    each: Duration,
    left: u32,
    /// Up to when what was used is given back.
    counted: Instant,
    refused: u64,
}

impl Allowance {
    pub(super) fn new(most: u32, each: Duration) -> Self {
        Self { most, each, left: most, counted: Instant::now(), refused: 0 }
    }

    /// Uses it once, if there is some left: then it returns how often there was none since the last use.
    pub(super) fn take(&mut self) -> Option<u64> {
        self.refill();
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            return Some(std::mem::take(&mut self.refused));
        }
        self.refused += 1;
        None
    }

    fn refill(&mut self) {
        let passed = self.counted.elapsed().as_nanos().checked_div(self.each.as_nanos()).unwrap_or_default();
        let whole = u32::try_from(passed).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(whole).min(self.most);
        // What is left of a while counts for the next one, unless there is nothing to give back.
        self.counted = if self.left == self.most { Instant::now() } else { self.counted + self.each * whole };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_used_up_at_once_and_comes_back_one_by_one() {
        let mut allowance = Allowance::new(3, Duration::from_secs(1));
        let mut take = |times: usize| (0..times).filter_map(|_| allowance.take()).collect::<Vec<_>>();
        assert_eq!(take(10), [0, 0, 0]);
        tokio::time::advance(Duration::from_millis(1_900)).await;
        assert_eq!(take(10), [7]);
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(take(10), [9], "the rest of a while is not lost");
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(take(10).len(), 3, "no more than at once come together");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_gets_no_more_than_the_rate() {
        let mut allowance = Allowance::new(10, Duration::from_millis(100));
        let mut taken = 0;
        for _ in 0..10_000 {
            tokio::time::advance(Duration::from_millis(1)).await;
            taken += usize::from(allowance.take().is_some());
        }
        assert!((105..=111).contains(&taken), "{taken} in ten seconds");
    }
}
