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
    spent: Vec<Spent>,
    /// Where there are sources that can be forged.
    claimed: Option<Box<Claimed>>,
}

/// What one source has tried of one kind, and until when that is paid off.
struct Spent {
    until: Timestamp,
    number: u64,
    is_proven: bool,
    kind: Kind,
}

impl Spent {
    /// By its number alone: a group is for whoever has many peers.
    fn is_of(&self, source: Source) -> bool {
        (self.number, self.is_proven) == (source.number, source.is_proven)
    }

    fn is(&self, kind: Kind, source: Source) -> bool {
        self.kind == kind && self.is_of(source)
    }
}

/// What sources that can be forged have in common.
#[derive(Default)]
struct Claimed {
    /// Until when what all of them have tried is paid off, of each kind.
    spent: [Timestamp; 3],
    /// The number of the one from which a frame has come last that was authentic: it has no part in what the others share.
    genuine: Option<u64>,
}

/// Sources whose tries those share that can be forged.
const SHARE: u32 = 16;

impl Tries {
    pub(super) const fn new() -> Self {
        Self { spent: Vec::new(), claimed: None }
    }

    /// Whether `source` may try once more.
    pub(super) fn may(&self, now: Timestamp, kind: Kind, source: Source) -> bool {
        let spent = self.spent.iter().find(|spent| spent.is(kind, source));
        let of_source = spent.is_none_or(|spent| spent.until.since(now) <= EACH * (BURST - 1));
        let of_claimed = self.claimed.as_ref().filter(|_| !source.is_proven).is_none_or(|claimed| {
            let spent = claimed.spent.get(kind as usize).copied().unwrap_or(now);
            claimed.genuine == Some(source.number) || spent.since(now) <= EACH * (BURST - 1)
        });
        of_source && of_claimed
    }

    /// An authentic frame has come from there.
    pub(super) fn is_genuine(&mut self, source: Source) {
        if !source.is_proven {
            self.claimed.get_or_insert_default().genuine = Some(source.number);
        }
        // It pays for one that was damaged on the way: a link that is busy loses more to noise than an idle one.
        let each = u64::try_from(EACH.as_micros()).unwrap_or(0);
        let spent = self.spent.iter_mut().filter(|spent| spent.kind != Kind::Repeats && spent.is_of(source));
        spent.for_each(|spent| spent.until = Timestamp::from_micros(spent.until.as_micros().saturating_sub(each)));
    }

    /// Takes note of a try.
    pub(super) fn count(&mut self, now: Timestamp, kind: Kind, source: Source) {
        // Whose tries are paid off is nobody.
        self.spent.retain(|spent| spent.until > now || spent.is(kind, source));
        let index = self.spent.iter().position(|spent| spent.is(kind, source)).unwrap_or_else(|| {
            // All of them are busy: the one of this kind that has spent least makes room.
            let of_kind = self.spent.iter().enumerate().filter(|(_, spent)| spent.kind == kind);
            if of_kind.clone().count() >= SOURCES
                && let Some((least, _)) = of_kind.min_by_key(|(_, spent)| spent.until)
            {
                self.spent.swap_remove(least);
            }
            self.spent.reserve_exact(1);
            self.spent.push(Spent { until: now, number: source.number, is_proven: source.is_proven, kind });
            self.spent.len() - 1
        });
        if let Some(spent) = self.spent.get_mut(index) {
            spent.until = spent.until.max(now).after(EACH);
        }
        if source.is_proven {
            return;
        }
        let claimed = self.claimed.get_or_insert_default();
        if claimed.genuine != Some(source.number)
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
