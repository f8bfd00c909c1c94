//! The replay window: a ring of bits as in RFC 6479.

use sealway_wire::content::{MAX_RANGES, Ranges};

/// Counters that a receiver still accepts below the largest one that it has opened.
pub const WINDOW: u64 = 2048;

/// The words of a window: one more than it has bits for, so that a whole word can be cleared ahead.
pub(crate) trait Ring: Copy + AsRef<[u64]> + AsMut<[u64]> {
    /// Nothing was opened.
    const EMPTY: Self;
    /// Counters below the largest one that are still accepted.
    const WINDOW: u64;
}

/// The window of S1.
pub(crate) type LongRing = [u64; 33];

impl Ring for LongRing {
    const EMPTY: Self = [0; 33];
    const WINDOW: u64 = WINDOW;
}

/// The window of C1.
pub(crate) type ShortRing = [u64; 2];

impl Ring for ShortRing {
    const EMPTY: Self = [0; 2];
    const WINDOW: u64 = 64;
}

const _: () = assert!(LongRing::EMPTY.len() as u64 * 64 == LongRing::WINDOW + 64);
const _: () = assert!(ShortRing::EMPTY.len() as u64 * 64 == ShortRing::WINDOW + 64);

/// Which counters have been opened.
#[derive(Clone, Debug)]
pub(crate) struct ReplayWindow<R = LongRing> {
    /// One more than the largest counter opened.
    next: u64,
    bits: R,
}

impl<R: Ring> ReplayWindow<R> {
    pub(crate) const fn new() -> Self {
        Self { next: 0, bits: R::EMPTY }
    }

    /// One more than the largest counter opened.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// Whether a record with this counter may be opened: it is ahead, or in the window and not seen.
    pub(crate) fn admits(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        counter + R::WINDOW >= self.next && !self.contains(counter)
    }

    /// Takes note of a counter that was admitted and whose tag has verified.
    pub(crate) fn commit(&mut self, counter: u64) {
        if counter >= self.next {
            let (from, to) = (word(self.next.saturating_sub(1)), word(counter));
            if self.next == 0 {
                self.bits = R::EMPTY;
            } else {
                for cleared in (from + 1..=to).take(R::EMPTY.as_ref().len()) {
                    *self.word_mut(cleared) = 0;
                }
            }
            self.next = counter + 1;
        }
        *self.word_mut(word(counter)) |= 1 << (counter % 64);
    }

    /// The counters opened, highest first, as far as the window and an ACK remember them.
    pub(crate) fn opened(&self) -> Option<Ranges> {
        let largest = self.next.checked_sub(1)?;
        let floor = self.next.saturating_sub(R::WINDOW);
        let mut ranges: Option<Ranges> = None;
        let mut counter = largest;
        loop {
            let high = counter;
            while counter > floor && self.contains(counter - 1) {
                counter -= 1;
            }
            match &mut ranges {
                None => ranges = Ranges::new(counter, high),
                Some(ranges) => {
                    ranges.push(counter, high);
                }
            }
            // On to the next counter that was opened, over the gap below this range.
            loop {
                if counter == floor || ranges.as_ref().is_some_and(|ranges| ranges.as_slice().len() == MAX_RANGES) {
                    return ranges;
                }
                counter -= 1;
                if self.contains(counter) {
                    break;
                }
            }
        }
    }

    #[inline]
    fn contains(&self, counter: u64) -> bool {
        let bits = self.bits.as_ref();
        bits[ring(word(counter), bits.len())] >> (counter % 64) & 1 == 1
    }

    #[inline]
    fn word_mut(&mut self, word: u64) -> &mut u64 {
        let bits = self.bits.as_mut();
        let at = ring(word, bits.len());
        &mut bits[at]
    }
}

/// A window that is as wide as one word can be written down.
impl ReplayWindow<ShortRing> {
    /// One more than the largest counter opened, and which of the 64 below that have been: bit 0 is the largest.
    pub(crate) fn newest(&self) -> (u64, u64) {
        let is_open = |below: &u64| self.next.checked_sub(below + 1).is_some_and(|counter| self.contains(counter));
        (self.next, (0..64).filter(is_open).fold(0, |bits, below| bits | 1 << below))
    }

    /// The window that [`newest`](Self::newest) tells of.
    pub(crate) fn from_newest(next: u64, bits: u64) -> Self {
        let mut window = Self::new();
        // Lowest first: the window only moves up.
        for counter in
            (0..64).rev().filter(|below| bits >> below & 1 == 1).filter_map(|below| next.checked_sub(below + 1))
        {
            window.commit(counter);
        }
        window.next = window.next.max(next);
        window
    }
}

const fn word(counter: u64) -> u64 {
    counter / 64
}

#[expect(clippy::cast_possible_truncation, reason = "below the number of words")]
const fn ring(word: u64, words: usize) -> usize {
    (word % words as u64) as usize
}

#[cfg(test)]
mod tests {
    use alloc::{collections::BTreeSet, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    /// The window as a set, without any cleverness.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn admits(&self, counter: u64, window: u64) -> bool {
            let next = self.seen.last().map_or(0, |largest| largest + 1);
            counter + window >= next && !self.seen.contains(&counter)
        }
    }

    fn equals_a_set<R: Ring>(steps: Vec<(u8, u64)>) -> Result<(), TestCaseError> {
        let (mut window, mut model) = (ReplayWindow::<R>::new(), Model::default());
        let mut counter = 0_u64;
        for (kind, distance) in steps {
            counter = match kind {
                0 => counter + 1,
                1 => counter.saturating_sub(distance),
                2 => counter + distance,
                3 => counter + distance % 70,
                _ => counter.saturating_sub(distance % 70),
            };
            prop_assert_eq!(window.admits(counter), model.admits(counter, R::WINDOW), "counter {}", counter);
            if window.admits(counter) {
                window.commit(counter);
                model.seen.insert(counter);
            }
            prop_assert!(!window.admits(counter));
        }
        if let Some(ranges) = window.opened() {
            let mut above = u64::MAX;
            for (low, high) in ranges.as_slice() {
                prop_assert!(*high < above);
                above = *low;
                for counter in *low..=*high {
                    prop_assert!(model.seen.contains(&counter));
                }
            }
            prop_assert_eq!(Some(&ranges.largest()), model.seen.last());
            if ranges.as_slice().len() < MAX_RANGES {
                let floor = ranges.largest().saturating_sub(R::WINDOW - 1);
                let told: u64 = ranges.as_slice().iter().map(|(low, high)| high - low + 1).sum();
                prop_assert_eq!(told, model.seen.range(floor..).count() as u64);
            }
        }
        Ok(())
    }

    fn steps() -> impl Strategy<Value = Vec<(u8, u64)>> {
        proptest::collection::vec((0_u8..5, 0_u64..3000), 1..400)
    }

    proptest! {
        #[test]
        fn the_window_of_s1_equals_a_set(steps in steps()) {
            equals_a_set::<LongRing>(steps)?;
        }

        #[test]
        fn the_window_of_c1_equals_a_set(steps in steps()) {
            equals_a_set::<ShortRing>(steps)?;
        }

        #[test]
        fn the_window_of_c1_can_be_written_down(counters in proptest::collection::vec(0_u64..300, 0..200)) {
            let mut window = ReplayWindow::<ShortRing>::new();
            for counter in counters {
                if window.admits(counter) {
                    window.commit(counter);
                }
                let (next, bits) = window.newest();
                let restored = ReplayWindow::from_newest(next, bits);
                for counter in 0..302 {
                    prop_assert_eq!(restored.admits(counter), window.admits(counter), "counter {}", counter);
                }
            }
        }
    }
}
