//! How much a client of a relay may send.

use std::{num::NonZeroU32, time::Duration};

use sealway_wire::Timestamp;

/// Octets that may pass: so many a second, and those of a second that were not used, at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    per_second: NonZeroU32,
    /// Octets that have passed before their time; none has if this lies behind.
    paid_until: Timestamp,
}

impl Rate {
    pub(crate) const fn new(now: Timestamp, per_second: NonZeroU32) -> Self {
        Self { per_second, paid_until: now }
    }

    /// Takes note of octets that have passed. Returns how long nothing more may.
    pub(crate) fn pass(&mut self, now: Timestamp, octets: usize) -> Duration {
        let octets = u64::try_from(octets).unwrap_or(u64::MAX);
        let micros = octets.saturating_mul(1_000_000) / u64::from(self.per_second.get());
        self.paid_until = self.paid_until.max(now).after(Duration::from_micros(micros));
        self.paid_until.since(now).saturating_sub(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_passes_at_once_and_the_rest_in_its_time() {
        let start = Timestamp::from_micros(5);
        let rate = NonZeroU32::new(1000).map(|per_second| Rate::new(start, per_second));
        let Some(mut rate) = rate else { return };
        assert_eq!(rate.pass(start, 1000), Duration::ZERO);
        assert_eq!(rate.pass(start, 500), Duration::from_millis(500));
        assert_eq!(rate.pass(start, 500), Duration::from_secs(1));
        // Whoever was silent for long has a second, not more.
        let later = start.after(Duration::from_secs(3600));
        assert_eq!(rate.pass(later, 1000), Duration::ZERO);
        assert_eq!(rate.pass(later, 1), Duration::from_millis(1));
        assert!(rate.pass(later, usize::MAX) > Duration::from_secs(1));
    }
}
