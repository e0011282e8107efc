//! Shares scenarios between the tests of the displays, and tests what holds for all displays.

mod hostile;
pub(super) mod scenario;
