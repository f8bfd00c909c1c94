//! What an inbox knows of one run of the peer: all of it, or, of one that is over, its mark.

use alloc::{collections::BTreeMap, vec::Vec};

use sealway_wire::content::{COMMIT_WINDOW, Part};

use super::marks::Marks;

/// A message, or a part of one, that waits to be handed over.
pub(super) struct Waiting {
    pub(super) part: Option<Part>,
    pub(super) body: Vec<u8>,
    /// It has come in a letter.
    pub(super) early: bool,
}

pub(super) struct Progress {
    /// As the application has committed.
    pub(super) marks: Marks,
    /// As the disk has it, and as the sender is told.
    pub(super) durable: Marks,
    /// The lowest number that the sender still wants.
    pub(super) lowest: u32,
    /// The number to be handed over next.
    pub(super) next: u32,
    /// Numbers below may have been handed over before the last start.
    pub(super) before_start: u32,
    /// Numbers below are known on disk as possibly handed over.
    pub(super) reserved: u32,
    pub(super) waiting: BTreeMap<u32, Waiting>,
    /// Of messages in parts that were handed over: the number of the first, and how many.
    pub(super) parts: BTreeMap<u32, u32>,
    /// What waits, as an ACK tells it.
    pub(super) held: [u8; COMMIT_WINDOW as usize / 8],
    /// The newest of our prekeys that a letter of this run was sealed to: as long as that is there, letters of it can be
    /// repeated, and what was committed has to be remembered.
    pub(super) letters: Option<u64>,
    /// It has a row on disk, or will have.
    pub(super) on_disk: bool,
    /// When it was heard of last, and first, in this run: what one run of the peer has sent comes before what the next has.
    pub(super) heard: u64,
    pub(super) first_heard: Option<u64>,
}

impl Progress {
    pub(super) const fn new() -> Self {
        Self {
            marks: Marks::new(),
            durable: Marks::new(),
            lowest: 0,
            next: 0,
            before_start: 0,
            reserved: 0,
            waiting: BTreeMap::new(),
            parts: BTreeMap::new(),
            held: [0; COMMIT_WINDOW as usize / 8],
            letters: None,
            on_disk: false,
            heard: 0,
            first_heard: None,
        }
    }

    /// Of how many numbers the message consists that begins with `next`, if all of it is here.
    pub(super) fn whole(&self, next: u32) -> Option<u32> {
        let first = self.waiting.get(&next)?;
        let Some(part) = first.part else { return Some(1) };
        // Parts that do not belong together are their sender's fault: nobody but it waits for them.
        let belongs = |index: u32| {
            let waiting = next.checked_add(index).and_then(|number| self.waiting.get(&number));
            waiting.is_some_and(|waiting| waiting.part == Some(Part { index, count: part.count }))
        };
        (0..part.count).all(belongs).then_some(part.count)
    }

    /// The next message that can be handed over now: the number with which it begins, and of how many it consists.
    pub(super) fn deliverable(&self) -> Option<(u32, u32)> {
        let mut next = self.next;
        while next < u32::MAX && self.marks.contains(next) {
            next += 1;
        }
        self.whole(next).map(|count| (next, count))
    }

    /// Whether something of it can be handed over now.
    pub(super) fn can_go_on(&self) -> bool {
        self.deliverable().is_some()
    }

    /// Whether everything that was handed over is committed on disk.
    pub(super) fn is_idle(&self) -> bool {
        (self.durable.mark..self.next).all(|number| self.durable.contains(number))
    }

    /// `mark 4 | reserved 4 | bitmap 128 [| newest prekey 8]`.
    pub(super) fn encode(&self) -> Vec<u8> {
        let letters = self.letters.map(u64::to_be_bytes);
        let letters = letters.iter().flatten().copied().collect::<Vec<u8>>();
        [self.marks.mark.to_be_bytes().as_slice(), &self.reserved.to_be_bytes(), &self.marks.bitmap, &letters].concat()
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let (mark, rest) = value.split_first_chunk()?;
        let (reserved, rest) = rest.split_first_chunk()?;
        let (bitmap, letters) = rest.split_first_chunk()?;
        let letters = match letters {
            [] => None,
            letters => Some(u64::from_be_bytes(letters.try_into().ok()?)),
        };
        let marks = Marks { mark: u32::from_be_bytes(*mark), bitmap: *bitmap };
        let reserved = u32::from_be_bytes(*reserved);
        let (lowest, next) = (marks.mark, marks.mark);
        let durable = marks.clone();
        Some(Self {
            marks,
            durable,
            lowest,
            next,
            before_start: reserved,
            reserved,
            letters,
            on_disk: true,
            ..Self::new()
        })
    }
}

/// What is remembered of a run that has nothing under way.
#[derive(Clone, Copy)]
pub(super) struct Settled {
    pub(super) mark: u32,
    /// Numbers below may have been handed over.
    pub(super) handed: u32,
    /// The newest of our prekeys when it was settled: letters of it may be sealed to that, or to earlier ones.
    pub(super) prekey: u64,
}

impl Settled {
    /// `mark 4 | handed over 4 | newest prekey 8`.
    pub(super) fn encode(self) -> Vec<u8> {
        [self.mark.to_be_bytes().as_slice(), &self.handed.to_be_bytes(), &self.prekey.to_be_bytes()].concat()
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let (mark, rest) = value.split_first_chunk()?;
        let (handed, prekey) = rest.split_first_chunk()?;
        let (mark, handed) = (u32::from_be_bytes(*mark), u32::from_be_bytes(*handed));
        Some(Self { mark, handed, prekey: u64::from_be_bytes(prekey.try_into().ok()?) })
    }

    pub(super) fn into_progress(self) -> Progress {
        let marks = Marks { mark: self.mark, ..Marks::new() };
        let (durable, next) = (marks.clone(), self.mark);
        let (before_start, reserved, letters) = (self.handed, self.handed, Some(self.prekey));
        Progress {
            marks,
            durable,
            lowest: next,
            next,
            before_start,
            reserved,
            letters,
            on_disk: true,
            ..Progress::new()
        }
    }
}
