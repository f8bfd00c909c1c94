//! Frames that a relay keeps until their recipients take them.
//!
//! ```text
//!  DEPOSIT ──► written ──CUSTODY──► waits ──PUSH──► pushed ──done, discard, third time unopened──► deleted
//!                                     ▲               │
//!                                     └── later ──────┘ hop session ends, no verdict in a minute
//! ```

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::time::Duration;

use sealway_wire::{BoxName, IdentityId, Reader, Timestamp};

use crate::{Batch, Limits, Table};

/// What a frame counts beside its octets, for its row and its places in memory.
const OVERHEAD: usize = 512;
/// After how long a frame is pushed again that the recipient could not take.
const LATER: Duration = Duration::from_secs(5);
/// After how long a frame is pushed again of which the recipient has said nothing.
const UNANSWERED: Duration = Duration::from_secs(60);
/// After how long a frame is pushed again for which the link had no room.
const NO_ROOM: Duration = Duration::from_millis(100);
/// How often a frame may not open.
const UNOPENED: u8 = 3;

/// A frame in custody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CustodyId {
    /// First, so that frames for one recipient are pushed in the order in which they came.
    order: u64,
    name: BoxName,
}

impl CustodyId {
    /// Its key in [`Table::Custody`].
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        [self.name.0.as_slice(), &self.order.to_be_bytes()].concat()
    }
}

/// Why a frame is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

struct Item {
    owner: IdentityId,
    depositor: IdentityId,
    octets: usize,
    expires: Timestamp,
    place: Place,
    unopened: u8,
    /// How often its recipient has left it for later, in this hop session.
    postponed: u8,
    /// That is the last that was heard of it.
    is_postponed: bool,
}

impl Item {
    const fn queue(&self) -> (IdentityId, IdentityId) {
        (self.owner, self.depositor)
    }
}

/// Where a frame is in its queue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Being written.
    Nowhere,
    /// To be pushed as soon as the recipient has room for it.
    Due,
    /// To be pushed from then on.
    From(Timestamp),
}

/// What one depositor has for one owner. What has come first is pushed first, or a later frame would wait at the recipient
/// for an earlier one that has no room.
#[derive(Default)]
struct Queue {
    due: BTreeSet<CustodyId>,
    later: BTreeSet<(Timestamp, CustodyId)>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.due.is_empty() && self.later.is_empty()
    }

    fn remove(&mut self, id: CustodyId, place: Place) {
        match place {
            Place::Nowhere => false,
            Place::Due => self.due.remove(&id),
            Place::From(at) => self.later.remove(&(at, id)),
        };
    }

    fn insert(&mut self, id: CustodyId, place: Place) {
        match place {
            Place::Nowhere => false,
            Place::Due => self.due.insert(id),
            Place::From(at) => self.later.insert((at, id)),
        };
    }
}

/// Everything in custody, without the frames themselves: these are on disk.
#[derive(Default)]
pub(crate) struct Custody {
    items: BTreeMap<CustodyId, Item>,
    /// By owner and depositor.
    queues: BTreeMap<(IdentityId, IdentityId), Queue>,
    expiries: BTreeSet<(Timestamp, CustodyId)>,
    octets_of_box: BTreeMap<BoxName, usize>,
    octets_of_share: BTreeMap<(BoxName, IdentityId), usize>,
    octets_of_depositor: BTreeMap<IdentityId, usize>,
    octets: usize,
    next_order: u64,
}

/// Who is concerned by a frame in custody.
#[derive(Clone, Copy)]
pub(crate) struct Parties {
    pub(crate) owner: IdentityId,
    pub(crate) depositor: IdentityId,
}

impl Custody {
    /// Takes a frame in. It is pushed after [`written`](Self::written).
    pub(crate) fn deposit(
        &mut self,
        limits: &Limits,
        name: BoxName,
        parties: Parties,
        expires: Timestamp,
        frame: &[u8],
    ) -> Result<(CustodyId, Batch), Full> {
        let octets = frame.len() + OVERHEAD;
        let of_box = self.octets_of_box.get(&name).copied().unwrap_or(0);
        let of_depositor = self.octets_of_depositor.get(&parties.depositor).copied().unwrap_or(0);
        let of_share = self.octets_of_share.get(&(name, parties.depositor)).copied().unwrap_or(0);
        if of_box + octets > limits.box_octets
            || of_share + octets > limits.share_octets
            || of_depositor + octets > limits.depositor_octets
            || self.octets + octets > limits.custody_octets
        {
            return Err(Full);
        }
        let id = CustodyId { order: self.next_order, name };
        self.insert(id, parties, expires, octets);
        let mut batch = Batch::default();
        let value = [expires.as_micros().to_be_bytes().as_slice(), &parties.depositor.0, frame].concat();
        batch.put(Table::Custody, id.key(), value);
        Ok((id, batch))
    }

    /// Takes a row back from the store, of a box of `owner`.
    pub(crate) fn load(&mut self, id: CustodyId, owner: IdentityId, value: &[u8]) -> bool {
        let Some(Row { expires, depositor, frame }) = Row::decode(value) else { return false };
        self.insert(id, Parties { owner, depositor }, expires, frame.len() + OVERHEAD);
        self.put(id, Place::Due);
        true
    }

    /// The box and the order that a key in [`Table::Custody`] names.
    pub(crate) fn parse_key(key: &[u8]) -> Option<(BoxName, CustodyId)> {
        let (name, order) = key.split_first_chunk()?;
        let name = BoxName(*name);
        Some((name, CustodyId { order: u64::from_be_bytes(order.try_into().ok()?), name }))
    }

    /// The frame of a row.
    pub(crate) fn frame_of(value: &[u8]) -> Option<&[u8]> {
        Row::decode(value).map(|row| row.frame)
    }

    fn insert(&mut self, id: CustodyId, parties: Parties, expires: Timestamp, octets: usize) {
        let Parties { owner, depositor } = parties;
        self.next_order = self.next_order.max(id.order.saturating_add(1));
        self.octets += octets;
        *self.octets_of_box.entry(id.name).or_default() += octets;
        *self.octets_of_share.entry((id.name, depositor)).or_default() += octets;
        *self.octets_of_depositor.entry(depositor).or_default() += octets;
        self.expiries.insert((expires, id));
        self.items.insert(
            id,
            Item {
                owner,
                depositor,
                octets,
                expires,
                place: Place::Nowhere,
                unopened: 0,
                postponed: 0,
                is_postponed: false,
            },
        );
    }

    /// A frame is on disk. Returns its owner.
    pub(crate) fn written(&mut self, id: CustodyId) -> Option<IdentityId> {
        self.put(id, Place::Due);
        self.items.get(&id).map(|item| item.owner)
    }

    fn put(&mut self, id: CustodyId, place: Place) {
        let Some(item) = self.items.get_mut(&id) else { return };
        let queue = self.queues.entry(item.queue()).or_default();
        queue.remove(id, item.place);
        queue.insert(id, place);
        item.place = place;
        if queue.is_empty() {
            self.queues.remove(&item.queue());
        }
    }

    /// Who has left something for `owner`.
    pub(crate) fn depositors_for(&self, owner: &IdentityId) -> Vec<IdentityId> {
        let of = |depositor| (*owner, IdentityId([depositor; 32]));
        self.queues.range(of(0)..=of(0xff)).map(|((_, depositor), _)| *depositor).collect()
    }

    /// The frame of a depositor that is to be pushed to `owner` next: of what is due the one that came first.
    pub(crate) fn head(&mut self, now: Timestamp, owner: IdentityId, depositor: IdentityId) -> Option<CustodyId> {
        let queue = self.queues.get_mut(&(owner, depositor))?;
        while let Some((_, id)) = queue.later.first().copied().filter(|(at, _)| *at <= now) {
            queue.later.pop_first();
            queue.due.insert(id);
            if let Some(item) = self.items.get_mut(&id) {
                item.place = Place::Due;
            }
        }
        queue.due.first().copied()
    }

    /// A frame is being pushed. Returns what it counts.
    pub(crate) fn pushed(&mut self, now: Timestamp, id: CustodyId) -> usize {
        self.put(id, Place::From(now.after(UNANSWERED)));
        self.items.get_mut(&id).map_or(0, |item| {
            item.is_postponed = false;
            item.octets
        })
    }

    /// When something that is not due yet is to be pushed to `owner`.
    pub(crate) fn next_time(&self, owner: &IdentityId) -> Option<Timestamp> {
        let of = |depositor| (*owner, IdentityId([depositor; 32]));
        let queues = self.queues.range(of(0)..=of(0xff));
        queues.filter_map(|(_, queue)| queue.later.first().map(|(at, _)| *at)).min()
    }

    /// Everything for `owner` is to be pushed from the beginning: it has attached.
    pub(crate) fn begin_anew(&mut self, owner: &IdentityId) {
        for id in self.hasten(owner, |_| true) {
            self.items.get_mut(&id).into_iter().for_each(|item| item.postponed = 0);
        }
    }

    /// What `owner` could not take is to be pushed again.
    pub(crate) fn resume(&mut self, owner: &IdentityId) {
        self.hasten(owner, |item| item.is_postponed);
    }

    /// Has those of the frames for `owner` pushed that were to be pushed later. Returns which.
    fn hasten(&mut self, owner: &IdentityId, which: impl Fn(&Item) -> bool) -> Vec<CustodyId> {
        let depositors = self.depositors_for(owner).into_iter();
        let queues = depositors.filter_map(|depositor| self.queues.get(&(*owner, depositor)));
        let later = queues.flat_map(|queue| &queue.later).map(|(_, id)| *id);
        let hastened: Vec<CustodyId> = later.filter(|id| self.items.get(id).is_some_and(&which)).collect();
        hastened.iter().for_each(|id| self.put(*id, Place::Due));
        hastened
    }

    /// The recipient cannot take a frame now.
    pub(crate) fn later(&mut self, now: Timestamp, id: CustodyId) {
        let Some(item) = self.items.get_mut(&id) else { return };
        // Longer each time: what comes after it has to find its turn too.
        let wait = LATER * (1 << item.postponed.min(6));
        item.postponed = item.postponed.saturating_add(1);
        item.is_postponed = true;
        self.put(id, Place::From(now.after(wait)));
    }

    /// A frame was pushed to a session that has ended, or has to make room for an earlier one.
    pub(crate) fn not_pushed(&mut self, id: CustodyId) {
        self.put(id, Place::Due);
    }

    /// A frame was to be pushed, and there was no room on the link: a moment later there is.
    pub(crate) fn no_room(&mut self, now: Timestamp, id: CustodyId) {
        self.put(id, Place::From(now.after(NO_ROOM)));
    }

    /// A frame did not open at the recipient. Returns whether that was once too often.
    pub(crate) fn unopened(&mut self, now: Timestamp, id: CustodyId) -> bool {
        let Some(item) = self.items.get_mut(&id) else { return false };
        item.unopened += 1;
        let too_often = item.unopened >= UNOPENED;
        self.later(now, id);
        too_often
    }

    /// Deletes a frame.
    pub(crate) fn remove(&mut self, id: CustodyId) -> Batch {
        self.put(id, Place::Nowhere);
        let mut batch = Batch::default();
        if let Some(item) = self.items.remove(&id) {
            self.expiries.remove(&(item.expires, id));
            self.octets -= item.octets;
            release(&mut self.octets_of_box, id.name, item.octets);
            release(&mut self.octets_of_share, (id.name, item.depositor), item.octets);
            release(&mut self.octets_of_depositor, item.depositor, item.octets);
            batch.delete(Table::Custody, id.key());
        }
        batch
    }

    /// Deletes what has outlived its time. Returns which frames that were, with their owners.
    pub(crate) fn expire(&mut self, now: Timestamp) -> (Vec<(CustodyId, Parties)>, Batch) {
        let (mut expired, mut all) = (Vec::new(), Batch::default());
        while let Some((_, id)) = self.expiries.first().copied().filter(|(at, _)| *at <= now) {
            let parties = |item: &Item| Parties { owner: item.owner, depositor: item.depositor };
            expired.extend(self.items.get(&id).map(|item| (id, parties(item))));
            all.operations.extend(self.remove(id).operations);
        }
        (expired, all)
    }

    pub(crate) fn next_expiry(&self) -> Option<Timestamp> {
        self.expiries.first().map(|(at, _)| *at)
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) const fn octets(&self) -> usize {
        self.octets
    }
}

fn release<K: Ord>(shares: &mut BTreeMap<K, usize>, of: K, octets: usize) {
    if let Some(share) = shares.get_mut(&of) {
        *share -= octets;
        if *share == 0 {
            shares.remove(&of);
        }
    }
}

/// `expires 8 | depositor 32 | frame`.
struct Row<'a> {
    expires: Timestamp,
    depositor: IdentityId,
    frame: &'a [u8],
}

impl<'a> Row<'a> {
    fn decode(value: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(value);
        let expires = Timestamp::from_micros(u64::from_be_bytes(reader.array("custody expiry").ok()?));
        let depositor = IdentityId(reader.array("custody depositor").ok()?);
        Some(Self { expires, depositor, frame: reader.rest() })
    }
}
