//! Which packets have come.

use alloc::vec::Vec;
use core::time::Duration;

/// Runs of numbers that are told of at once; what is older is forgotten, and sent again in vain at worst.
const RUNS: usize = 32;

/// The numbers of the packets that have come, as runs, the newest first.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// First and last of each run.
    runs: Vec<(u64, u64)>,
}

/// An acknowledgement, as it is written: `largest 4 | delay 2 | run 2 | (gap 2 | run 2)*`.
///
/// The delay is in units of 8 µs. A run is the count of packets below its first one, a gap that of missing packets less one.
pub(super) const ACK_HEADER: usize = 8;

impl Received {
    pub(super) fn largest(&self) -> Option<u64> {
        self.runs.first().map(|(_, last)| *last)
    }

    /// Takes note of a packet. Returns whether it is the one that was expected next: not one that came late or early.
    pub(super) fn add(&mut self, number: u64) -> bool {
        let is_next = self.largest().is_none_or(|largest| number == largest + 1);
        let at = self.runs.partition_point(|(first, _)| *first > number);
        // Runs are in falling order: `at` is the first that begins at or below the number.
        if self.runs.get(at).is_some_and(|(_, last)| *last >= number) {
            return is_next;
        }
        let below = self.runs.get(at).is_some_and(|(_, last)| *last + 1 == number);
        let above =
            at.checked_sub(1).and_then(|above| self.runs.get(above)).is_some_and(|(first, _)| *first == number + 1);
        match (below, above) {
            (true, true) => {
                let (first, _) = self.runs.remove(at);
                if let Some(run) = self.runs.get_mut(at - 1) {
                    run.0 = first;
                }
            }
            (true, false) => self.runs.get_mut(at).into_iter().for_each(|run| run.1 = number),
            (false, true) => self.runs.get_mut(at - 1).into_iter().for_each(|run| run.0 = number),
            (false, false) => self.runs.insert(at, (number, number)),
        }
        self.runs.truncate(RUNS);
        is_next
    }

    /// Appends the acknowledgement, `delay` microseconds after the largest came.
    pub(super) fn encode(&self, delay: u64, into: &mut Vec<u8>) {
        let Some((first, largest)) = self.runs.first() else { return };
        let short = |number: u64| u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
        into.extend_from_slice(&truncate(*largest).to_be_bytes());
        into.extend_from_slice(&short(delay / 8));
        into.extend_from_slice(&short(largest - first));
        let mut above = *first;
        // A run that was cut ends the list: what is below it cannot be told.
        let mut is_exact = largest - first <= u64::from(u16::MAX);
        for (first, last) in self.runs.iter().skip(1) {
            let gap = above - last - 2;
            if !is_exact || gap > u64::from(u16::MAX) {
                break;
            }
            into.extend_from_slice(&short(gap));
            into.extend_from_slice(&short(last - first));
            is_exact = last - first <= u64::from(u16::MAX);
            above = *first;
        }
    }
}

/// Appends the acknowledgement of one packet, by what of its number is on the wire.
pub(super) fn encode_one(short: u32, into: &mut Vec<u8>) {
    into.extend_from_slice(&short.to_be_bytes());
    into.extend_from_slice(&[0; ACK_HEADER - 4]);
}

/// What of a number is on the wire.
pub(super) const fn truncate(number: u64) -> u32 {
    let [_, _, _, _, a, b, c, d] = number.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// The number nearest to `expected` that ends in `short`.
pub(super) fn expand(short: u32, expected: u64) -> Option<u64> {
    let base = expected & !u64::from(u32::MAX);
    let candidates = [base.checked_sub(1 << 32), Some(base), base.checked_add(1 << 32)];
    let numbers = candidates.into_iter().flatten().map(|base| base | u64::from(short));
    numbers.min_by_key(|number| number.abs_diff(expected))
}

/// An acknowledgement that a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Acknowledgement {
    pub(super) largest: u64,
    pub(super) delay: Duration,
    /// First and last of each run, the newest first.
    pub(super) runs: Vec<(u64, u64)>,
}

/// The acknowledgement, if it is one. `expected` is a number near those that are under way.
pub(super) fn decode_ack(octets: &[u8], expected: u64) -> Option<Acknowledgement> {
    let (head, rest) = octets.split_first_chunk::<ACK_HEADER>()?;
    let [a, b, c, d, e, f, g, h] = *head;
    let largest = expand(u32::from_be_bytes([a, b, c, d]), expected)?;
    let delay = Duration::from_micros(u64::from(u16::from_be_bytes([e, f])) * 8);
    let mut first = largest.checked_sub(u16::from_be_bytes([g, h]).into())?;
    let mut runs = alloc::vec![(first, largest)];
    let (pairs, left) = rest.as_chunks::<4>();
    if !left.is_empty() || pairs.len() >= RUNS {
        return None;
    }
    for [a, b, c, d] in pairs {
        let last = first.checked_sub(u64::from(u16::from_be_bytes([*a, *b])) + 2)?;
        first = last.checked_sub(u16::from_be_bytes([*c, *d]).into())?;
        runs.push((first, last));
    }
    Some(Acknowledgement { largest, delay, runs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_tells_exactly_what_has_come() {
        let mut received = Received::default();
        let base = 0xffff_fff0_u64; // beyond 32 bits on the way
        let missing = [3, 4, 9, 20];
        for number in (0..30).filter(|number| !missing.contains(number)).chain([4]) {
            received.add(base + number);
        }
        let mut octets = Vec::new();
        received.encode(800, &mut octets);
        let Acknowledgement { largest, delay, runs } = decode_ack(&octets, base + 31).unwrap();
        assert_eq!((largest, delay), (base + 29, Duration::from_micros(800)));
        let told = |number| runs.iter().any(|(first, last)| (*first..=*last).contains(&(base + number)));
        let expected: Vec<u64> = (0..30).filter(|number| ![3, 9, 20].contains(number)).collect();
        assert_eq!((0..30).filter(|number| told(*number)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for octets in [&[0; 7][..], &[0, 0, 0, 1, 0, 0, 0, 9], &[0; 9], &[0, 0, 0, 5, 0, 0, 0, 1, 0, 9, 0, 0]] {
            assert_eq!(decode_ack(octets, 3), None, "{octets:?}");
        }
    }
}
