//! What the tests of the displays share, and what holds for all of them.

mod hostile;
pub(super) mod scenario;
