//! Frames that are longer than what a medium carries at once: cut into fragments, and put together again.
//!
//! ```text
//! fragment   0x01 | id 4 | total 2 | offset 2 | octets
//! ```
//!
//! Frames of the protocol never begin with 0x01. A fragment that is lost has its whole frame lost: who sent that repeats it.

use alloc::{vec, vec::Vec};
use core::time::Duration;

use sealway_wire::{DecodeError, Reader, Reason, Timestamp};

use crate::Frames;

/// What a fragment begins with.
pub const FRAGMENT: u8 = 0x01;
/// Octets before those of the frame.
pub const HEADER: usize = 9;
/// Of a frame that has begun and not ended, fragments are waited for so long.
pub const LIFETIME: Duration = Duration::from_secs(10);
/// More fragments than these a frame is not cut into.
const MAX_FRAGMENTS: usize = 512;

/// A part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Which frame: no two of one sender that are under way at once have the same.
    pub id: u32,
    /// Octets of the whole frame.
    pub total: u16,
    /// Where in the frame the octets belong.
    pub offset: u16,
    /// At least one.
    pub octets: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Whether a datagram is a fragment.
    #[must_use]
    pub const fn is_one(datagram: &[u8]) -> bool {
        matches!(datagram, [FRAGMENT, ..])
    }

    /// Decodes a fragment.
    ///
    /// # Errors
    /// It is another kind, cut off, empty, or reaches beyond its frame.
    pub fn decode(datagram: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(datagram);
        let kind = reader.u8("fragment kind")?;
        if kind != FRAGMENT {
            return Err(DecodeError::new("fragment kind", Reason::Unknown { value: kind.into() }));
        }
        let id = u32::from_be_bytes(reader.array("fragment id")?);
        let total = u16::from_be_bytes(reader.array("fragment total")?);
        let offset = u16::from_be_bytes(reader.array("fragment offset")?);
        let octets = reader.rest();
        let limit = usize::from(total).saturating_sub(offset.into());
        if octets.is_empty() || octets.len() > limit {
            let reason = Reason::TooLong { limit, got: octets.len() };
            return Err(DecodeError::new("fragment octets", reason));
        }
        Ok(Self { id, total, offset, octets })
    }

    /// Replaces what is in `datagram` by this fragment.
    pub fn encode(&self, datagram: &mut Vec<u8>) {
        datagram.clear();
        datagram.push(FRAGMENT);
        datagram.extend_from_slice(&self.id.to_be_bytes());
        datagram.extend_from_slice(&self.total.to_be_bytes());
        datagram.extend_from_slice(&self.offset.to_be_bytes());
        datagram.extend_from_slice(self.octets);
    }

    /// The number of a frame that may be sent again in the same octets: what has come of one time completes the other.
    #[must_use]
    pub fn id_of(frame: &[u8]) -> u32 {
        crc32fast::hash(frame)
    }

    /// The fragments of a frame, of datagrams of at most `mtu` octets, all but the last of the same size.
    ///
    /// `None`: the frame is longer than 65,535 octets, or would need more fragments than are put together again.
    pub fn cut(id: u32, frame: &'a [u8], mtu: usize) -> Option<impl Iterator<Item = Self>> {
        let total = u16::try_from(frame.len()).ok()?;
        let fits = mtu > HEADER && frame.len().div_ceil(mtu - HEADER) <= MAX_FRAGMENTS;
        fits.then(|| Self { id, total, offset: 0, octets: frame }.split(mtu))
    }

    /// The same in shorter fragments, of datagrams of at most `mtu` octets.
    pub fn split(self, mtu: usize) -> impl Iterator<Item = Self> {
        let size = mtu.saturating_sub(HEADER).max(1);
        let offset = move |index: usize| self.offset.saturating_add(u16::try_from(index * size).unwrap_or(u16::MAX));
        self.octets.chunks(size).enumerate().map(move |(index, octets)| Self { offset: offset(index), octets, ..self })
    }
}

/// A frame of which not everything has come.
#[derive(Debug)]
struct Partial {
    id: u32,
    frame: Vec<u8>,
    /// What has come, in order and without overlap: beginning and end.
    ranges: Vec<(u16, u16)>,
    began: Timestamp,
}

impl Partial {
    /// `false`: it has come already, or what has come of it was other octets, or there are too many. Who has cut a frame anew, in
    /// other places, goes on where the first cut has left gaps.
    fn add(&mut self, fragment: &Fragment<'_>) -> bool {
        let start = fragment.offset;
        let Some(end) = u16::try_from(fragment.octets.len()).ok().and_then(|len| start.checked_add(len)) else {
            return false;
        };
        let Some(place) = self.frame.get(start.into()..end.into()) else { return false };
        let (mut is_new, mut is_same) = (true, true);
        for (from, to) in self.ranges.iter().filter(|(from, to)| *from < end && *to > start) {
            is_new &= *from > start || *to < end;
            let common = usize::from((*from).max(start) - start)..usize::from((*to).min(end) - start);
            is_same &= place.get(common.clone()) == fragment.octets.get(common);
        }
        if !is_new || !is_same || self.ranges.len() >= MAX_FRAGMENTS {
            return false;
        }
        if let Some(place) = self.frame.get_mut(start.into()..end.into()) {
            place.copy_from_slice(fragment.octets);
        }
        // What joins is one: in order, there is never more than one.
        let (mut start, mut end) = (start, end);
        self.ranges.retain(|(from, to)| {
            let joins = *from <= end && *to >= start;
            if joins {
                (start, end) = (start.min(*from), end.max(*to));
            }
            !joins
        });
        let at = self.ranges.partition_point(|(from, _)| *from < start);
        self.ranges.insert(at, (start, end));
        true
    }

    fn is_whole(&self) -> bool {
        self.ranges.first().is_some_and(|(start, end)| *start == 0 && usize::from(*end) == self.frame.len())
    }
}

/// Puts the frames of one sender together again, a bounded number of them at once.
#[derive(Debug)]
pub struct Reassembler {
    limit: usize,
    longest: usize,
    partial: Vec<Partial>,
    dropped: u64,
}

impl Reassembler {
    /// For at most `limit` frames at a time, of at most `longest` octets each: that is what it ever keeps.
    #[must_use]
    pub const fn new(limit: usize, longest: usize) -> Self {
        Self { limit, longest, partial: Vec::new(), dropped: 0 }
    }

    /// Fragments and frames that were given up: too long, too late, or pushed out by newer ones.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether the frame of a fragment has begun, and is still waited for.
    #[must_use]
    pub fn has_begun(&self, now: Timestamp, fragment: &Fragment<'_>) -> bool {
        let is_it = |partial: &Partial| {
            let is_young = now.since(partial.began) < LIFETIME;
            is_young && partial.id == fragment.id && partial.frame.len() == usize::from(fragment.total)
        };
        self.partial.iter().any(is_it)
    }

    /// Since when the oldest frame is waited for.
    #[must_use]
    pub fn waiting_since(&self) -> Option<Timestamp> {
        self.partial.first().map(|partial| partial.began)
    }

    /// Forgets all frames that have begun.
    pub fn clear(&mut self) {
        self.partial.clear();
    }

    /// Puts the fragments among the frames from number `first` on together: of those a whole frame takes the place, if one has
    /// become whole. At most `most` fragments are looked at.
    pub fn join(&mut self, now: Timestamp, frames: &mut Frames, first: usize, most: usize) {
        let is_fragment = |index| frames.get(index).is_some_and(Fragment::is_one);
        if !(first..frames.len()).any(is_fragment) {
            return;
        }
        let came: Vec<Vec<u8>> =
            (first..frames.len()).filter_map(|index| frames.get(index)).map(<[u8]>::to_vec).collect();
        frames.truncate(first);
        let mut left = most;
        for frame in came {
            match Fragment::decode(&frame) {
                Ok(_) if left == 0 => self.dropped += 1,
                Ok(fragment) => {
                    left -= 1;
                    self.handle(now, &fragment).into_iter().for_each(|whole| frames.push(&whole));
                }
                Err(_) => frames.push(&frame),
            }
        }
    }

    /// Takes a fragment in, and returns the frame if it was the last that it lacked.
    ///
    /// The newest frame drives out the oldest; a number that is used anew for a frame of another length begins anew.
    pub fn handle(&mut self, now: Timestamp, fragment: &Fragment<'_>) -> Option<Vec<u8>> {
        let before = self.partial.len();
        self.partial.retain(|partial| now.since(partial.began) < LIFETIME);
        self.dropped += u64::try_from(before - self.partial.len()).unwrap_or(0);
        let total = usize::from(fragment.total);
        if total > self.longest || self.limit == 0 {
            self.dropped += 1;
            return None;
        }
        let is_it = |partial: &Partial| partial.id == fragment.id;
        if self.partial.iter().any(|partial| is_it(partial) && partial.frame.len() != total) {
            self.partial.retain(|partial| !is_it(partial));
            self.dropped += 1;
        }
        let at = match self.partial.iter().position(is_it) {
            Some(at) => at,
            None => {
                if self.partial.len() >= self.limit {
                    self.partial.remove(0);
                    self.dropped += 1;
                }
                let frame = vec![0; total];
                self.partial.push(Partial { id: fragment.id, frame, ranges: Vec::new(), began: now });
                self.partial.len() - 1
            }
        };
        let partial = self.partial.get_mut(at)?;
        (partial.add(fragment) && partial.is_whole()).then(|| self.partial.remove(at).frame)
    }
}
