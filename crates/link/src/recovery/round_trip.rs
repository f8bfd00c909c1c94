//! How long an answer takes: RFC 9002 section 5.

use core::time::Duration;

/// Before the first sample: RFC 9002 section 6.2.2.
const INITIAL: Duration = Duration::from_millis(333);
/// What timers are inexact by: RFC 9002 section 6.1.2.
const GRANULARITY: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct RoundTrip {
    latest: Duration,
    least: Duration,
    smoothed: Duration,
    variation: Duration,
    sampled: bool,
}

impl RoundTrip {
    pub(super) fn new() -> Self {
        Self::of(INITIAL)
    }

    /// What is assumed before the first sample.
    pub(super) fn of(assumed: Duration) -> Self {
        Self { latest: assumed, least: assumed, smoothed: assumed, variation: assumed / 2, sampled: false }
    }

    /// A packet was acknowledged that long after it left, and the peer says that it waited so long with that.
    pub(super) fn sample(&mut self, latest: Duration, delay: Duration) {
        self.latest = latest;
        if !self.sampled {
            *self = Self { latest, least: latest, smoothed: latest, variation: latest / 2, sampled: true };
            return;
        }
        self.least = self.least.min(latest);
        let adjusted = if latest >= self.least + delay { latest - delay } else { latest };
        self.variation = self.variation * 3 / 4 + self.smoothed.abs_diff(adjusted) / 4;
        self.smoothed = self.smoothed * 7 / 8 + adjusted / 8;
    }

    pub(super) const fn smoothed(&self) -> Duration {
        self.smoothed
    }

    /// A packet is lost that is unacknowledged for so long, where a later one was acknowledged.
    pub(super) fn lost_after(&self) -> Duration {
        (self.smoothed.max(self.latest) * 9 / 8).max(GRANULARITY)
    }

    /// How long to wait for any answer, where the peer may wait for `delay` with it.
    pub(super) fn timeout(&self, delay: Duration) -> Duration {
        self.smoothed + (self.variation * 4).max(GRANULARITY) + delay
    }
}
