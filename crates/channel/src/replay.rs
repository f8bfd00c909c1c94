//! The replay window: a ring of bits as in RFC 6479.

use sealway_wire::content::{MAX_RANGES, Ranges};

/// Counters that a receiver still accepts below the largest one that it has opened.
pub const WINDOW: u64 = 2048;

const WORDS: usize = 2048 / 64 + 1; // one more, so that a whole word can be cleared ahead
const _: () = assert!(WORDS as u64 * 64 == WINDOW + 64);

/// Which counters have been opened.
#[derive(Clone, Debug)]
pub(crate) struct ReplayWindow {
    /// One more than the largest counter opened.
    next: u64,
    bits: [u64; WORDS],
}

impl ReplayWindow {
    pub(crate) const fn new() -> Self {
        Self { next: 0, bits: [0; WORDS] }
    }

    /// Whether a record with this counter may be opened: it is ahead, or in the window and not seen.
    pub(crate) fn admits(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        counter + WINDOW >= self.next && !self.contains(counter)
    }

    /// Takes note of a counter that was admitted and whose tag has verified.
    pub(crate) fn commit(&mut self, counter: u64) {
        if counter >= self.next {
            let (from, to) = (word(self.next.saturating_sub(1)), word(counter));
            if self.next == 0 {
                self.bits = [0; WORDS];
            } else {
                for cleared in (from + 1..=to).take(WORDS) {
                    self.bits[ring(cleared)] = 0;
                }
            }
            self.next = counter + 1;
        }
        self.bits[ring(word(counter))] |= 1 << (counter % 64);
    }

    /// The counters opened, highest first, as far as the window and an ACK remember them.
    pub(crate) fn opened(&self) -> Option<Ranges> {
        let largest = self.next.checked_sub(1)?;
        let floor = self.next.saturating_sub(WINDOW);
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

    fn contains(&self, counter: u64) -> bool {
        self.bits[ring(word(counter))] >> (counter % 64) & 1 == 1
    }
}

const fn word(counter: u64) -> u64 {
    counter / 64
}

#[expect(clippy::cast_possible_truncation, reason = "below the number of words")]
const fn ring(word: u64) -> usize {
    (word % WORDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The window as a set, without any cleverness.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn admits(&self, counter: u64) -> bool {
            let next = self.seen.last().map_or(0, |largest| largest + 1);
            counter + WINDOW >= next && !self.seen.contains(&counter)
        }
    }

    fn steps() -> impl Strategy<Value = alloc::vec::Vec<(u8, u64)>> {
        proptest::collection::vec((0_u8..5, 0_u64..3000), 1..400)
    }

    proptest! {
        #[test]
        fn equals_a_set(steps in steps()) {
            let (mut window, mut model) = (ReplayWindow::new(), Model::default());
            let mut counter = 0_u64;
            for (kind, distance) in steps {
                counter = match kind {
                    0 => counter + 1,
                    1 => counter.saturating_sub(distance),
                    2 => counter + distance,
                    3 => counter + distance % 70,
                    _ => counter.saturating_sub(distance % 70),
                };
                prop_assert_eq!(window.admits(counter), model.admits(counter), "counter {}", counter);
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
                    let floor = ranges.largest().saturating_sub(WINDOW - 1);
                    let told: u64 = ranges.as_slice().iter().map(|(low, high)| high - low + 1).sum();
                    prop_assert_eq!(told, model.seen.range(floor..).count() as u64);
                }
            }
        }
    }
}
