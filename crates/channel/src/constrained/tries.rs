//! How much a source may try: 64 at once, and 64 a minute. Sources that can be forged share sixteen times as much, for
//! whoever forges one can forge many.

use alloc::{boxed::Box, vec::Vec};
use core::time::Duration;

use sealway_wire::Timestamp;

use crate::Source;

const BURST: u32 = 64;
const EACH: Duration = Duration::from_micros(60_000_000 / 64);
/// Sources that are remembered of each kind of try.
const SOURCES: usize = 16;

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Records whose tags do not verify.
    Forgeries,
    /// Handshake messages that are worked on.
    Calls,
    /// Answers that are sent again.
    Repeats,
}

/// A bucket of tokens for each source and each kind of try. One list of them all, for there are few.
pub(super) struct Tries {
    /// Until when what a source has tried is paid off.
    spent: Vec<(Kind, Source, Timestamp)>,
    /// Where there are sources that can be forged.
    claimed: Option<Box<Claimed>>,
}

/// What sources that can be forged have in common.
#[derive(Default)]
struct Claimed {
    /// Until when what all of them have tried is paid off, of each kind.
    spent: [Timestamp; 3],
    /// Where a frame has come from last that was authentic: it has no part in what the others share.
    genuine: Option<Source>,
}

/// Sources whose tries those share that can be forged.
const SHARE: u32 = 16;

impl Tries {
    pub(super) const fn new() -> Self {
        Self { spent: Vec::new(), claimed: None }
    }

    /// Whether `source` may try once more.
    pub(super) fn may(&self, now: Timestamp, kind: Kind, source: Source) -> bool {
        let spent = self.spent.iter().find(|(of, known, _)| (*of, *known) == (kind, source));
        let of_source = spent.is_none_or(|(_, _, until)| until.since(now) <= EACH * (BURST - 1));
        let of_claimed = self.claimed.as_ref().filter(|_| !source.is_proven).is_none_or(|claimed| {
            let spent = claimed.spent.get(kind as usize).copied().unwrap_or(now);
            claimed.genuine == Some(source) || spent.since(now) <= EACH * (BURST - 1)
        });
        of_source && of_claimed
    }

    /// An authentic frame has come from there.
    pub(super) fn is_genuine(&mut self, source: Source) {
        if !source.is_proven {
            self.claimed.get_or_insert_default().genuine = Some(source);
        }
        // It pays for one that was damaged on the way: a link that is busy loses more to noise than an idle one.
        let each = u64::try_from(EACH.as_micros()).unwrap_or(0);
        let spent = self.spent.iter_mut().filter(|(kind, known, _)| *kind != Kind::Repeats && *known == source);
        spent.for_each(|(_, _, until)| *until = Timestamp::from_micros(until.as_micros().saturating_sub(each)));
    }

    /// Takes note of a try.
    pub(super) fn count(&mut self, now: Timestamp, kind: Kind, source: Source) {
        // Whose tries are paid off is nobody.
        self.spent.retain(|(of, known, until)| *until > now || (*of, *known) == (kind, source));
        let is_known = |(of, known, _): &(Kind, Source, Timestamp)| (*of, *known) == (kind, source);
        let index = self.spent.iter().position(is_known).unwrap_or_else(|| {
            // All of them are busy: the one of this kind that has spent least makes room.
            let of_kind = self.spent.iter().enumerate().filter(|(_, (of, ..))| *of == kind);
            if of_kind.clone().count() >= SOURCES
                && let Some((least, _)) = of_kind.min_by_key(|(_, (.., until))| *until)
            {
                self.spent.swap_remove(least);
            }
            self.spent.reserve_exact(1);
            self.spent.push((kind, source, now));
            self.spent.len() - 1
        });
        if let Some((.., until)) = self.spent.get_mut(index) {
            *until = (*until).max(now).after(EACH);
        }
        if source.is_proven {
            return;
        }
        let claimed = self.claimed.get_or_insert_default();
        if claimed.genuine != Some(source)
            && let Some(spent) = claimed.spent.get_mut(kind as usize)
        {
            *spent = (*spent).max(now).after(EACH / SHARE);
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
            assert!(tries.may(start, Kind::Calls, source));
            tries.count(start, Kind::Calls, source);
        }
        assert!(!tries.may(start, Kind::Calls, source));
        assert!(tries.may(start, Kind::Calls, Source::proven(2)), "of that source alone");
        assert!(tries.may(start.after(EACH), Kind::Calls, source));
        // However many sources there are, memory is bounded, and who forges them has no more than sixteen.
        let mut tried = 0;
        for number in 0..10_000 {
            if tries.may(start, Kind::Calls, Source::claimed(number)) {
                tries.count(start, Kind::Calls, Source::claimed(number));
                tried += 1;
            }
        }
        assert!(tries.spent.len() <= SOURCES);
        assert!((BURST * SHARE - SHARE..=BURST * SHARE).contains(&tried), "{tried}");
        assert!(tries.may(start, Kind::Calls, Source::proven(3)));
        assert!(!tries.may(start, Kind::Calls, Source::claimed(20_000)));
        tries.is_genuine(Source::claimed(20_000));
        assert!(tries.may(start, Kind::Calls, Source::claimed(20_000)), "whoever forges others does not keep it out");
    }
}
