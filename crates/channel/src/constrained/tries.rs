//! How much a source may try: 64 at once, and 64 a minute. Sources that can be forged share sixteen times as much, for
//! whoever forges one can forge many.

use alloc::vec::Vec;
use core::time::Duration;

use sealway_wire::Timestamp;

use crate::Source;

const BURST: u32 = 64;
const EACH: Duration = Duration::from_micros(60_000_000 / 64);
/// Sources that are remembered.
const SOURCES: usize = 16;

/// A bucket of tokens for each source.
pub(super) struct Tries {
    /// Until when what a source has tried is paid off: a list, for there are few, and mostly one.
    spent: Vec<(Source, Timestamp)>,
    /// The same, of all sources that can be forged.
    claimed: Timestamp,
    /// Where a frame has come from last that was authentic: it has no part in what the others share.
    genuine: Option<Source>,
}

/// Sources whose tries those share that can be forged.
const SHARE: u32 = 16;

impl Tries {
    pub(super) const fn new() -> Self {
        Self { spent: Vec::new(), claimed: Timestamp::from_micros(0), genuine: None }
    }

    /// Whether `source` may try once more.
    pub(super) fn may(&self, now: Timestamp, source: Source) -> bool {
        let spent = self.spent.iter().find(|(known, _)| *known == source);
        let of_source = spent.is_none_or(|(_, until)| until.since(now) <= EACH * (BURST - 1));
        let of_claimed =
            source.is_proven || self.genuine == Some(source) || self.claimed.since(now) <= EACH * (BURST - 1);
        of_source && of_claimed
    }

    /// An authentic frame has come from there.
    pub(super) fn is_genuine(&mut self, source: Source) {
        self.genuine = Some(source);
        // It pays for one that was damaged on the way: a link that is busy loses more to noise than an idle one.
        let spent = self.spent.iter_mut().find(|(known, _)| *known == source);
        spent.into_iter().for_each(|(_, until)| {
            *until =
                Timestamp::from_micros(until.as_micros().saturating_sub(u64::try_from(EACH.as_micros()).unwrap_or(0)));
        });
    }

    /// Takes note of a try.
    pub(super) fn count(&mut self, now: Timestamp, source: Source) {
        let is_known = |(known, _): &(Source, Timestamp)| *known == source;
        let index = self.spent.iter().position(is_known).unwrap_or_else(|| {
            if self.spent.len() >= SOURCES {
                self.spent.retain(|(_, until)| *until > now);
            }
            // All of them are busy: the one that has spent least makes room.
            if self.spent.len() >= SOURCES
                && let Some((least, _)) = self.spent.iter().enumerate().min_by_key(|(_, (_, until))| *until)
            {
                self.spent.swap_remove(least);
            }
            self.spent.reserve_exact(1);
            self.spent.push((source, now));
            self.spent.len() - 1
        });
        if let Some((_, until)) = self.spent.get_mut(index) {
            *until = (*until).max(now).after(EACH);
        }
        if !source.is_proven && self.genuine != Some(source) {
            self.claimed = self.claimed.max(now).after(EACH / SHARE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_at_once_and_then_one_a_second() {
        let (mut tries, start) = (Tries::new(), Timestamp::from_micros(0));
        let source = Source::proven(1);
        for _ in 0..BURST {
            assert!(tries.may(start, source));
            tries.count(start, source);
        }
        assert!(!tries.may(start, source));
        assert!(tries.may(start, Source::proven(2)), "of that source alone");
        assert!(tries.may(start.after(EACH), source));
        // However many sources there are, memory is bounded, and who forges them has no more than sixteen.
        let mut tried = 0;
        for number in 0..10_000 {
            if tries.may(start, Source::claimed(number)) {
                tries.count(start, Source::claimed(number));
                tried += 1;
            }
        }
        assert!(tries.spent.len() <= SOURCES);
        assert!((BURST * SHARE - SHARE..=BURST * SHARE).contains(&tried), "{tried}");
        assert!(tries.may(start, Source::proven(3)));
        assert!(!tries.may(start, Source::claimed(20_000)));
        tries.is_genuine(Source::claimed(20_000));
        assert!(tries.may(start, Source::claimed(20_000)), "whoever forges others does not keep it out");
    }
}
