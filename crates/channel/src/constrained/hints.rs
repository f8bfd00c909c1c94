//! Which of many pairings a handshake message may be for.

use alloc::{collections::BTreeMap, vec::Vec};

use sealway_wire::{Hint, IdentityId};

/// Pairings tried for one frame, at most: each costs a Diffie-Hellman.
const TRIES: usize = 2;

/// Finds pairings by the hint of a handshake message, before anything is computed with it. Protocol section 11.
///
/// A hint has two octets, so of many pairings some share one: two of them are tried for a frame, beginning after the last one
/// that was, so that repetitions reach all.
///
/// ```
/// use sealway_channel::HintTable;
/// use sealway_wire::{Hint, IdentityId};
///
/// let mut table = HintTable::new();
/// for peer in 1..=3 {
///     table.set(IdentityId([peer; 32]), vec![Hint([0xab, 0xcd])]);
/// }
/// let first: Vec<u8> = table.candidates(Hint([0xab, 0xcd])).iter().map(|peer| peer.0[0]).collect();
/// let then: Vec<u8> = table.candidates(Hint([0xab, 0xcd])).iter().map(|peer| peer.0[0]).collect();
/// assert_eq!((first, then), (vec![1, 2], vec![3, 1]));
/// ```
#[derive(Clone, Debug, Default)]
pub struct HintTable {
    by_hint: BTreeMap<Hint, Entry>,
    hints: BTreeMap<IdentityId, Vec<Hint>>,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    peers: Vec<IdentityId>,
    /// With whom the next frame begins.
    turn: usize,
}

impl HintTable {
    /// A table without pairings.
    #[must_use]
    pub const fn new() -> Self {
        Self { by_hint: BTreeMap::new(), hints: BTreeMap::new() }
    }

    /// Takes note of the hints of the pairing with `peer`, as [`Pairing::hints`](crate::Pairing::hints) gives them: to be called
    /// whenever a state of it was written. None: the pairing is gone.
    pub fn set(&mut self, peer: IdentityId, hints: Vec<Hint>) {
        let before = if hints.is_empty() { self.hints.remove(&peer) } else { self.hints.insert(peer, hints.clone()) };
        let before = before.unwrap_or_default();
        for hint in before.iter().filter(|hint| !hints.contains(hint)) {
            if let Some(entry) = self.by_hint.get_mut(hint) {
                entry.peers.retain(|known| *known != peer);
                if entry.peers.is_empty() {
                    self.by_hint.remove(hint);
                }
            }
        }
        for hint in hints.into_iter().filter(|hint| !before.contains(hint)) {
            let entry = self.by_hint.entry(hint).or_default();
            if !entry.peers.contains(&peer) {
                entry.peers.push(peer);
            }
        }
    }

    /// The peers to whose pairings a frame with this hint is to be handed, in this order, until one takes it: at most two.
    pub fn candidates(&mut self, hint: Hint) -> Vec<IdentityId> {
        let Some(Entry { peers, turn }) = self.by_hint.get_mut(&hint) else { return Vec::new() };
        let count = peers.len().min(TRIES);
        let first = *turn % peers.len();
        *turn = (first + count) % peers.len();
        peers.iter().cycle().skip(first).take(count).copied().collect()
    }

    /// Pairings of which hints are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hints.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hints.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use alloc::{collections::BTreeSet, vec};

    use proptest::prelude::*;

    use super::*;

    fn peer(number: u8) -> IdentityId {
        IdentityId([number; 32])
    }

    proptest! {
        /// Against a list of pairs that is searched.
        #[test]
        fn every_pairing_of_a_hint_is_reached_and_no_other(
            sets in prop::collection::vec((0_u8..12, prop::collection::btree_set(0_u8..4, 0..4)), 0..60),
        ) {
            let mut table = HintTable::new();
            let mut model: BTreeMap<u8, BTreeSet<u8>> = BTreeMap::new();
            for (number, hints) in sets {
                table.set(peer(number), hints.iter().map(|hint| Hint([*hint; 2])).collect());
                if hints.is_empty() {
                    model.remove(&number);
                } else {
                    model.insert(number, hints);
                }
                prop_assert_eq!(table.len(), model.len());
                for hint in 0..4 {
                    let of: BTreeSet<u8> = model.iter().filter(|(_, hints)| hints.contains(&hint)).map(|(n, _)| *n).collect();
                    let mut reached = BTreeSet::new();
                    for _ in 0..of.len().div_ceil(TRIES) {
                        let candidates = table.candidates(Hint([hint; 2]));
                        prop_assert_eq!(candidates.len(), of.len().min(TRIES));
                        reached.extend(candidates.iter().map(|peer| peer.0[0]));
                    }
                    prop_assert_eq!(&reached, &of);
                }
            }
            for number in 0..12 {
                table.set(peer(number), vec![]);
            }
            prop_assert!(table.is_empty() && table.by_hint.is_empty());
        }
    }
}
