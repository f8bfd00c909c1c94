//! Which messages of a run are committed.

use sealway_wire::{
    Instance,
    content::{COMMIT_WINDOW, Committed},
};

/// Which messages of an instance are committed: everything below the mark, and the numbers in the bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    pub(super) mark: u32,
    /// Bit i stands for number `mark + 1 + i`, the lowest bit of an octet first.
    pub(super) bitmap: Bits,
}

pub(super) const OCTETS: usize = COMMIT_WINDOW as usize / 8;
const WORDS: usize = OCTETS / 8;
type Bits = [u8; OCTETS];

const fn words(bits: &Bits) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    let (mut rest, mut at) = (bits.as_slice(), 0);
    while let Some((word, after)) = rest.split_first_chunk() {
        words[at] = u64::from_le_bytes(*word);
        (rest, at) = (after, at + 1);
    }
    words
}

fn bits(words: [u64; WORDS]) -> Bits {
    let mut bits = [0; OCTETS];
    for (octets, word) in bits.chunks_exact_mut(8).zip(words) {
        octets.copy_from_slice(&word.to_le_bytes());
    }
    bits
}

/// Moves all bits down by `by`; the lowest fall out.
fn shifted(words: [u64; WORDS], by: u32) -> [u64; WORDS] {
    let (whole, part) = (usize::try_from(by / 64).unwrap_or(WORDS), by % 64);
    core::array::from_fn(|at| {
        let word = |at: usize| words.get(at).copied().unwrap_or(0);
        let at = at.saturating_add(whole);
        // A shift by 64 would be none at all.
        word(at) >> part | (word(at.saturating_add(1)) << 1) << (63 - part)
    })
}

impl Marks {
    pub(super) const fn new() -> Self {
        Self { mark: 0, bitmap: [0; OCTETS] }
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        number < self.mark || self.bit(number).is_some_and(|(octet, bit)| self.bitmap[octet] >> bit & 1 == 1)
    }

    pub(super) fn bit(&self, number: u32) -> Option<(usize, u32)> {
        let above = number.checked_sub(self.mark)?.checked_sub(1)?;
        let octet = usize::try_from(above / 8).ok()?;
        (octet < self.bitmap.len()).then_some((octet, above % 8))
    }

    pub(super) fn insert(&mut self, number: u32) {
        if number == self.mark {
            self.raise(number.saturating_add(1));
        } else if let Some((octet, bit)) = self.bit(number) {
            self.bitmap[octet] |= 1 << bit;
        }
    }

    /// Moves the mark up to `floor` at least, and over what is committed above it.
    pub(super) fn raise(&mut self, floor: u32) {
        let Some(by) = floor.checked_sub(self.mark).filter(|by| *by > 0) else { return };
        let mut next = self.contains(floor);
        let mut words = shifted(words(&self.bitmap), by);
        self.mark = floor;
        while next && self.mark < u32::MAX {
            // What follows the number at the mark without a gap is committed too.
            let ones = words[0].trailing_ones();
            let run = ones.min(63);
            words = shifted(words, run + 1);
            self.mark = self.mark.saturating_add(run + 1);
            next = ones == 64;
        }
        self.bitmap = bits(words);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.raise(other.mark);
        let moved = shifted(words(&other.bitmap), self.mark.saturating_sub(other.mark));
        let own = words(&self.bitmap);
        self.bitmap = bits(core::array::from_fn(|at| own[at] | moved[at]));
        // A number at the mark of ours may be one that the other has committed.
        if other.contains(self.mark) {
            self.raise(self.mark.saturating_add(1));
        }
    }

    /// As an ACK tells it.
    #[must_use]
    pub fn committed(&self, instance: Instance) -> Committed<'_> {
        Committed { instance, mark: self.mark, bitmap: trimmed(&self.bitmap), held: &[] }
    }
}

/// The only form of a bitmap that may be told: without zeros at its end.
pub(super) fn trimmed(bitmap: &[u8]) -> &[u8] {
    let len = bitmap.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
    &bitmap[..len]
}

#[cfg(test)]
mod tests {
    use alloc::{collections::BTreeSet, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    /// What marks mean: a set of numbers, and a mark that no number of the set is at.
    #[derive(Default)]
    struct Model {
        mark: u32,
        above: BTreeSet<u32>,
    }

    impl Model {
        fn insert(&mut self, number: u32) {
            if number >= self.mark && number - self.mark <= COMMIT_WINDOW {
                self.above.insert(number);
            }
            self.raise(self.mark);
        }

        fn raise(&mut self, floor: u32) {
            self.mark = self.mark.max(floor);
            while self.above.contains(&self.mark) {
                self.mark += 1;
            }
            self.above = self.above.split_off(&self.mark);
        }

        fn merge(&mut self, other: &Self) {
            self.raise(other.mark);
            self.above.extend(&other.above);
            self.raise(self.mark);
        }

        fn is(&self, marks: &Marks) -> bool {
            let all = 0..self.mark + 2 * COMMIT_WINDOW;
            let contains = |number: u32| number < self.mark || self.above.contains(&number);
            marks.mark == self.mark && all.into_iter().all(|number| marks.contains(number) == contains(number))
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32),
        Run(u32, u32),
        Raise(u32),
        Merge,
    }

    fn steps() -> impl Strategy<Value = Vec<(bool, Step)>> {
        let step = prop_oneof![
            4 => (0..1100_u32).prop_map(Step::Insert),
            2 => (0..900_u32, 0..200_u32).prop_map(|(from, len)| Step::Run(from, len)),
            1 => (0..1200_u32).prop_map(Step::Raise),
            1 => Just(Step::Merge),
        ];
        prop::collection::vec((any::<bool>(), step), 0..40)
    }

    proptest! {
        #[test]
        fn marks_are_a_set(steps in steps()) {
            let mut marks = [Marks::new(), Marks::new()];
            let mut models = [Model::default(), Model::default()];
            for (which, step) in steps {
                let (which, other) = if which { (1, 0) } else { (0, 1) };
                let mark = models[which].mark;
                match step {
                    Step::Insert(number) => {
                        marks[which].insert(mark + number);
                        models[which].insert(mark + number);
                    }
                    Step::Run(from, len) => for number in (mark + from..mark + from + len).rev() {
                        marks[which].insert(number);
                        models[which].insert(number);
                    }
                    Step::Raise(by) => {
                        marks[which].raise(mark + by);
                        models[which].raise(mark + by);
                    }
                    Step::Merge => {
                        // What is out of the window of the other is not told.
                        let (from, known) = (marks[other].clone(), Model { mark: models[other].mark, above: models[other].above.clone() });
                        marks[which].merge(&from);
                        models[which].merge(&known);
                        let window = models[which].mark + COMMIT_WINDOW;
                        models[which].above.retain(|number| *number <= window);
                    }
                }
                prop_assert!(models[which].is(&marks[which]), "{:?}", marks[which]);
            }
        }
    }
}
