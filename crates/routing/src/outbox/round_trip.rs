//! How long a message takes to be answered.

use core::time::Duration;

/// Smoothed round trip and its variation: RFC 6298 section 2.
pub(super) struct RoundTrip {
    smoothed: Duration,
    variation: Duration,
}

impl RoundTrip {
    pub(super) fn after(before: Option<Self>, sample: Duration) -> Self {
        match before {
            None => Self { smoothed: sample, variation: sample / 2 },
            Some(Self { smoothed, variation }) => Self {
                variation: variation * 3 / 4 + smoothed.abs_diff(sample) / 4,
                smoothed: smoothed * 7 / 8 + sample / 8,
            },
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        self.smoothed + self.variation * 4
    }
}
