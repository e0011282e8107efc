//! Random numbers that a seed reproduces.

use uuid::Uuid;

/// A generator that starts from its seed: splitmix64.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number from 0 up to but excluding `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    pub fn pick<T: Clone>(&mut self, all: &[T]) -> T {
        let count = u64::try_from(all.len()).unwrap();
        all[usize::try_from(self.below(count)).unwrap()].clone()
    }
}

/// Returns the seed of this run: that of the environment, else a new one.
#[expect(clippy::print_stderr, reason = "a failure can be had again with this number")]
pub fn seed() -> u64 {
    // Short enough to type.
    let seed = wanted("SEED").unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0 % 1_000_000);
    eprintln!("SEED={seed}");
    seed
}

/// Returns the number in an environment variable.
pub fn wanted(variable: &str) -> Option<u64> {
    std::env::var_os(variable).map(|number| number.into_string().unwrap().parse().unwrap())
}
