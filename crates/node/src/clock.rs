//! The clock of a node.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sealway_wire::Timestamp;
use tokio::time::Instant;

/// Runs with the monotonic clock from where the wall clock stood at the start: moments written to disk, as expiries are,
/// keep their meaning across restarts as far as the wall clock does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    origin: Duration,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let origin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), origin }
    }

    pub(crate) fn now(&self) -> Timestamp {
        let micros = (self.origin + self.start.elapsed()).as_micros();
        Timestamp::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// The moment as the runtime counts it, for a timer.
    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        let since_start = Duration::from_micros(at.as_micros()).saturating_sub(self.origin);
        // A year is as good as never, and cannot overflow.
        self.start + since_start.min(Duration::from_secs(365 * 24 * 3600))
    }
}
