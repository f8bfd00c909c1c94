//! How long a message takes to be answered.

use core::time::Duration;

/// Smoothed round trip and its variation: RFC 6298 section 2.
pub(super) struct RoundTrip {
    smoothed: Duration,
    variation: Duration,
    /// The shortest one.
    least: Duration,
}

impl RoundTrip {
    pub(super) fn after(before: Option<Self>, sample: Duration) -> Self {
        match before {
            None => Self { smoothed: sample, variation: sample / 2, least: sample },
            Some(Self { smoothed, variation, least }) => Self {
                least: least.min(sample),
                variation: variation * 3 / 4 + smoothed.abs_diff(sample) / 4,
                smoothed: smoothed * 7 / 8 + sample / 8,
            },
        }
    }

    /// A bound for [`timeout`](Self::timeout) where an answer is lost as often as what it answers: what a later one answers as
    /// well looks as if it had taken long.
    pub(super) fn bound(&self) -> Duration {
        self.least * 8
    }

    pub(super) const fn least(&self) -> Duration {
        self.least
    }

    pub(super) fn timeout(&self) -> Duration {
        self.smoothed + self.variation * 4
    }
}
