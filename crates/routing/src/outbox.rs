//! Messages to one peer, until the peer's application has committed them.

mod pace;
mod round_trip;
mod row;
#[cfg(test)]
mod tests;

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::time::Duration;

use sealway_wire::{
    IdentityId, Instance, Lane, MessageId, Timestamp,
    content::{COMMIT_WINDOW, Committed, MAX_PARTS, Part},
};

#[cfg(sealway_break)]
use sealway_wire::danger;

pub use self::pace::{MAX_MESSAGE, MAX_WHOLE};
use self::{
    pace::{Pace, Timeouts},
    round_trip::RoundTrip,
};
use crate::{Batch, Table};

/// Deposits that may wait for the relay's answer at once, and their octets.
const DEPOSITS: usize = 64;
const DEPOSITED_OCTETS: usize = 256 * 1024;
/// Parts of a message that may be left at a relay: what it hands over without hearing what became of it has to hold them.
const DEPOSITED_PARTS: u32 = 12;
/// How long a relay has to hand over what it keeps, once the peer is there, before it is sent again.
const HANDING_OVER: Duration = Duration::from_secs(30);
/// A network puts a message at most so many places behind another, or has lost it.
const REORDERED: u64 = 3;

/// How a message is to be treated while it waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SendOptions {
    /// When it is not worth delivering any more.
    pub expires: Option<Timestamp>,
    /// A message of the same key that has not been sent yet is dropped in favour of this one. At most 255 octets.
    pub supersedes: Option<Vec<u8>>,
    /// It is never left at a relay: a peer that is away is waited for, and what comes after it waits too.
    pub live_only: bool,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushError {
    /// The instance has numbered 2^32 messages.
    Exhausted,
    /// The key of supersession is longer than 255 octets.
    KeyTooLong {
        /// Its length in octets.
        got: usize,
    },
    /// The message is longer than [`MAX_MESSAGE`], or than [`Outbox::set_content`] said.
    TooLong {
        /// The limit in octets.
        limit: usize,
        /// Its length in octets.
        got: usize,
    },
}

/// What became of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// These need not be kept any longer.
    pub ids: Vec<MessageId>,
    /// What is to be written.
    pub batch: Batch,
}

/// A message that is to be sealed and sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToSend<'a> {
    /// Its id.
    pub id: MessageId,
    /// The lowest number of its instance that is still wanted.
    pub lowest: u32,
    /// How many numbers directly below its own are not wanted, although lower ones are.
    pub unwanted: u32,
    /// Which part of a message it is.
    pub part: Option<Part>,
    /// The message, or the part.
    pub body: &'a [u8],
}

struct Entry {
    id: MessageId,
    part: Option<Part>,
    body: Vec<u8>,
    options: SendOptions,
    /// It is on disk, and has to be removed from there.
    stored: bool,
    /// It may be sent: it is on disk, or was never to be.
    ready: bool,
    /// It was sent at some time, perhaps by an earlier run: only then can the peer have committed it.
    offered: bool,
    sent: Option<Sent>,
}

struct Sent {
    lane: Lane,
    first: Timestamp,
    /// When it was sent last, and as the how manieth of all.
    at: Timestamp,
    sequence: u64,
    again: Timestamp,
    times: u32,
    /// A relay has it, until `again`.
    in_custody: bool,
    /// A relay has not taken it: nothing that comes after it is left there before.
    refused: bool,
    /// It has arrived, and waits for the application or for its other parts: it is under way no more.
    held: bool,
    /// It is to be sent again although it is not lost.
    put_back: bool,
}

impl Entry {
    fn is_in_custody(&self) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.in_custody)
    }

    /// The id of the message, which is that of its first part.
    fn message(&self) -> MessageId {
        let index = self.part.map_or(0, |part| part.index);
        MessageId { number: self.id.number.saturating_sub(index), ..self.id }
    }

    /// Whether neither it nor what follows it is left at a relay yet.
    fn stops_depositing(&self) -> bool {
        !self.ready || self.options.live_only || self.part.is_some_and(|part| part.count > DEPOSITED_PARTS)
    }

    fn is_kept(&self, now: Timestamp) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.in_custody && sent.again > now)
    }
}

/// Messages to one peer, in the order in which they were handed in.
pub struct Outbox {
    peer: IdentityId,
    instance: Instance,
    next_number: u32,
    next_order: u64,
    entries: BTreeMap<u64, Entry>,
    by_id: BTreeMap<MessageId, u64>,
    /// Every message of a lower order is kept by a relay, until this time at least.
    kept: (u64, Timestamp),
    expiries: BTreeSet<(Timestamp, u64)>,
    octets: usize,
    pace: Pace,
    round_trip: Option<RoundTrip>,
    /// Where live sending stands; it is found again by a walk where it is not known.
    cursor: Option<Cursor>,
    /// Octets that may be under way live, and when that was cut last: what was sent before is the same loss.
    window: usize,
    cut_at: Timestamp,
    /// Messages that were sent, each time counted.
    sequence: u64,
    /// Of those that have arrived, the one sent last.
    heard: u64,
}

/// Everything of a lower order than `next` is under way live, and nothing else: so the next message is found without a walk.
struct Cursor {
    next: u64,
    in_flight: usize,
    octets: usize,
    /// Nothing is to be sent again before.
    again: Timestamp,
}

/// What a walk over everything that may be under way live has found.
enum Walk {
    /// This is to be sent next.
    Due(u64),
    /// Nothing is to be sent again, and nothing that was put back is to be sent. Where the rest begins, if it is the rest.
    Nothing(Option<Cursor>),
}

const NEVER: Timestamp = Timestamp::from_micros(u64::MAX);
const NONE_KEPT: (u64, Timestamp) = (0, NEVER);

impl Outbox {
    /// An empty outbox of the run `instance`.
    #[must_use]
    pub const fn new(peer: IdentityId, instance: Instance) -> Self {
        Self {
            peer,
            instance,
            next_number: 0,
            next_order: 0,
            entries: BTreeMap::new(),
            by_id: BTreeMap::new(),
            kept: NONE_KEPT,
            expiries: BTreeSet::new(),
            octets: 0,
            pace: Pace::LARGE,
            round_trip: None,
            cursor: None,
            window: Pace::LARGE.first_window,
            cut_at: Timestamp::from_micros(0),
            sequence: 0,
            heard: 0,
        }
    }

    /// Cuts messages for records that carry `content` octets beside their type, from now on. Returns the longest message that
    /// is taken then.
    ///
    /// # Errors
    /// How many octets a record would have to carry: for a part of one octet, or for what is kept and was cut before.
    pub fn set_content(&mut self, content: usize) -> Result<usize, usize> {
        let needed = self.entries.values().map(|entry| pace::needed(entry.body.len(), entry.part.is_some()));
        let needed = needed.max().unwrap_or(0).max(pace::needed(1, true));
        self.pace = Pace::small(content).filter(|_| content >= needed).ok_or(needed)?;
        self.window = self.window.clamp(self.pace.window.min, self.pace.window.max);
        // Another link may be faster, or slower.
        (self.cursor, self.round_trip) = (None, None);
        Ok(self.pace.longest())
    }

    /// Messages that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether everything was committed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether what goes first is never left at a relay.
    #[must_use]
    pub fn is_live_only(&self) -> bool {
        self.entries.values().next().is_some_and(|first| first.options.live_only)
    }

    /// Since when the message goes unanswered that was sent live first, of those that were sent at least `times` times, have not
    /// arrived and are kept by nobody.
    #[must_use]
    pub fn unanswered_since(&self, times: u32) -> Option<Timestamp> {
        let is_lost = |sent: &&Sent| sent.lane == Lane::Live && sent.times >= times && !sent.held && !sent.in_custody;
        self.entries.values().filter_map(|entry| entry.sent.as_ref()).filter(is_lost).map(|sent| sent.first).min()
    }

    /// Octets of the messages that are kept.
    #[must_use]
    pub const fn octets(&self) -> usize {
        self.octets
    }

    /// Takes a message in. With `stored` the second part of the answer is to be written before
    /// [`written`](Self::written) lets it be sent; otherwise it lives in memory alone.
    ///
    /// A message above [`MAX_WHOLE`], or what [`set_content`](Self::set_content) leaves of it, goes in parts, with numbers of
    /// their own that follow each other; its id is that of the first. All of them are in one batch.
    ///
    /// # Errors
    /// [`PushError`]; the message was not taken.
    pub fn push(
        &mut self,
        body: Vec<u8>,
        options: SendOptions,
        stored: bool,
    ) -> Result<(MessageId, Delivered), PushError> {
        if let Some(key) = options.supersedes.as_ref().filter(|key| key.len() > 255) {
            return Err(PushError::KeyTooLong { got: key.len() });
        }
        let Pace { whole, part, .. } = self.pace;
        let limit = self.pace.longest();
        if body.len() > limit {
            return Err(PushError::TooLong { limit, got: body.len() });
        }
        let count = if body.len() > whole { body.len().div_ceil(part) } else { 1 };
        let count = u32::try_from(count).unwrap_or(MAX_PARTS);
        let id = MessageId { instance: self.instance, number: self.next_number };
        self.next_number = self.next_number.checked_add(count).ok_or(PushError::Exhausted)?;
        let mut superseded = Delivered::default();
        if options.supersedes.is_some() {
            // A message in parts is offered with its first: half of it is never given up.
            let is_offered = |entry: &Entry| {
                let first = self.by_id.get(&entry.message()).and_then(|order| self.entries.get(order));
                first.is_none_or(|first| first.offered)
            };
            let older = |entry: &Entry| !is_offered(entry) && entry.options.supersedes == options.supersedes;
            let orders = self.orders(older);
            superseded = self.give_up(orders);
        }
        // Each in a buffer of its own size.
        let bodies = if count > 1 { body.chunks(part).map(<[u8]>::to_vec).collect() } else { alloc::vec![body] };
        for (index, body) in (0..count).zip(bodies) {
            let id = MessageId { number: id.number + index, ..id };
            let part = (count > 1).then_some(Part { index, count });
            let order = self.next_order;
            self.next_order = self.next_order.saturating_add(1);
            let options = options.clone();
            let entry = Entry { id, part, body, options, stored, ready: !stored, offered: false, sent: None };
            if stored {
                superseded.batch.put(Table::Outbox, self.key(order), row::encode(&entry, None));
            }
            self.insert(order, entry);
        }
        Ok((id, superseded))
    }

    /// The message is on disk: it may be sent.
    pub fn written(&mut self, id: MessageId) {
        for order in self.orders_of(id) {
            if let Some(entry) = self.entries.get_mut(&order) {
                entry.ready = true;
            }
        }
    }

    /// The message could not be written: it is forgotten.
    pub fn withdraw(&mut self, id: MessageId) {
        let _ = self.give_up(self.orders_of(id));
    }

    /// The orders of what a message consists of.
    fn orders_of(&self, id: MessageId) -> Vec<u64> {
        let first = self.by_id.get(&id).and_then(|order| self.entries.get(order));
        let count = first.and_then(|first| first.part).map_or(1, |part| part.count);
        let last = MessageId { number: id.number.saturating_add(count - 1), ..id };
        self.by_id.range(id..=last).map(|(_, order)| *order).collect()
    }

    fn entry_mut(&mut self, id: MessageId) -> Option<&mut Entry> {
        self.by_id.get(&id).and_then(|order| self.entries.get_mut(order))
    }

    /// Takes a message back from the store, in the order of the keys, before anything is pushed. Returns its id.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Option<MessageId> {
        let (peer, order) = key.split_first_chunk::<32>()?;
        if *peer != self.peer.0 {
            return None;
        }
        let order = u64::from_be_bytes(order.try_into().ok()?);
        let (entry, kept_until) = row::decode(value)?;
        let id = entry.message();
        self.next_order = self.next_order.max(order.saturating_add(1));
        let epoch = Timestamp::from_micros(0);
        let sent = kept_until.map(|again| Sent {
            lane: Lane::Stored,
            first: epoch,
            at: epoch,
            sequence: 0,
            again,
            times: 2,
            in_custody: true,
            refused: false,
            held: false,
            put_back: false,
        });
        self.insert(order, Entry { sent, ..entry });
        Some(id)
    }

    fn insert(&mut self, order: u64, entry: Entry) {
        // What was loaded may be in custody, which is not under way live.
        self.cursor.take_if(|_| entry.sent.is_some());
        self.octets += entry.body.len();
        self.expiries.extend(entry.options.expires.map(|at| (at, order)));
        self.by_id.insert(entry.id, order);
        self.entries.insert(order, entry);
    }

    /// The next message that is to be sent now on `lane`: live to a peer that is there, stored to the box of one that is
    /// away. It counts as sent.
    pub fn poll_send(&mut self, now: Timestamp, lane: Lane) -> Option<ToSend<'_>> {
        #[cfg(sealway_break)]
        if danger::is_off(danger::Protection::Ack) {
            // What was sent is forgotten: who keeps it until it has arrived?
            let sent = self.orders(|entry| entry.sent.is_some());
            let _ = self.remove_all(sent);
        }
        let timeout = self.timeout();
        let due = match lane {
            Lane::Live => self.due_live(now),
            Lane::Stored => self.due_stored(now),
        };
        let order = due?;
        let instance = self.entries.get(&order)?.id.instance;
        let lowest = self.lowest(instance)?;
        let id = self.entries.get(&order)?.id;
        // What expired or was superseded above one that is wanted: nobody shall wait for it.
        let earlier = self.by_id.range(MessageId { instance, number: 0 }..id).next_back();
        let unwanted = earlier.map_or(0, |(earlier, _)| id.number - earlier.number - 1);
        let entry = self.entries.get_mut(&order)?;
        let before = entry.sent.as_ref().filter(|sent| sent.lane == lane);
        let (first, times) = before.map_or((now, 0), |sent| (sent.first, sent.times));
        let refused = before.is_some_and(|sent| sent.refused);
        let is_lost = |sent: &&Sent| lane == Lane::Live && !sent.held && !sent.put_back;
        let lost = before.filter(is_lost).map(|sent| sent.at);
        if lost.is_some_and(|at| at >= self.cut_at) {
            self.window = (self.window / 2).max(self.pace.window.min);
            self.cut_at = now;
        }
        self.sequence += 1;
        let again = now.after(self.pace.wait(timeout, times));
        match &mut self.cursor {
            Some(cursor) if lane == Lane::Live && order >= cursor.next => {
                cursor.next = order + 1;
                cursor.in_flight += 1;
                cursor.octets += entry.body.len();
                cursor.again = cursor.again.min(again);
            }
            cursor => *cursor = None,
        }
        entry.offered = true;
        entry.sent = Some(Sent {
            lane,
            first,
            at: now,
            sequence: self.sequence,
            again,
            times: times + 1,
            in_custody: false,
            refused,
            held: false,
            put_back: false,
        });
        Some(ToSend { id, lowest, unwanted, part: entry.part, body: &entry.body })
    }

    /// Messages of an earlier run go first, and alone: the recipient orders messages of one run only.
    fn due_live(&mut self, now: Timestamp) -> Option<u64> {
        if self.cursor.as_ref().is_none_or(|cursor| cursor.again <= now) {
            match self.walk_live(now) {
                Walk::Due(order) => {
                    self.cursor = None;
                    return Some(order);
                }
                Walk::Nothing(cursor) => self.cursor = cursor,
            }
        }
        let cursor = self.cursor.as_ref()?;
        let (order, entry) = self.entries.range(cursor.next..).next()?;
        let has_room = cursor.in_flight < self.pace.in_flight && cursor.octets < self.window;
        (has_room && entry.sent.is_none() && self.is_live(entry)).then_some(*order)
    }

    fn walk_live(&self, now: Timestamp) -> Walk {
        let mut cursor = Cursor { next: 0, in_flight: 0, octets: 0, again: NEVER };
        let first = self.entries.values().next().filter(|first| first.part.is_some()).map(Entry::message);
        let (mut unsent, mut is_broken) = (None, false);
        for (order, entry) in self.live() {
            let Some(sent) = &entry.sent else {
                let has_room = cursor.in_flight < self.pace.in_flight && cursor.octets < self.window;
                unsent.get_or_insert((*order, has_room));
                continue;
            };
            if sent.again <= now {
                return Walk::Due(*order);
            }
            // What was put back into the midst goes first.
            match unsent {
                Some((order, true)) => return Walk::Due(order),
                Some((_, false)) => is_broken = true,
                None => {}
            }
            cursor.next = order + 1;
            cursor.again = cursor.again.min(sent.again);
            // A message in parts may be longer than the window: those of the first that have arrived make room for the others.
            // What is behind it waits for its application, and counts.
            if Some(entry.message()) != first || !sent.held {
                cursor.octets += entry.body.len();
            }
            // A place it takes there all the same.
            cursor.in_flight += 1;
        }
        Walk::Nothing(Some(cursor).filter(|_| !is_broken))
    }

    /// A box keeps the order in which it is filled: messages of a later run follow once all of the earlier ones are in
    /// it. What the recipient cannot take yet it leaves there, so no window of numbers bounds them.
    fn due_stored(&mut self, now: Timestamp) -> Option<u64> {
        if self.kept.1 <= now {
            self.kept = NONE_KEPT;
        }
        let kept = self.entries.range(self.kept.0..).map_while(|(order, entry)| {
            let until = entry.sent.as_ref().filter(|sent| sent.in_custody && sent.again > now)?.again;
            Some((*order, until))
        });
        self.kept = kept.fold(self.kept, |(_, earliest), (order, until)| (order + 1, earliest.min(until)));
        let mut rest = self.entries.range(self.kept.0..).filter(|(_, entry)| !entry.is_kept(now)).peekable();
        let instance = rest.peek()?.1.id.instance;
        let (mut waiting, mut octets) = (0, 0);
        for (order, entry) in rest {
            if entry.id.instance != instance || entry.stops_depositing() {
                break;
            }
            let is_due = match &entry.sent {
                None => waiting < DEPOSITS && octets < DEPOSITED_OCTETS,
                Some(sent) => sent.again <= now,
            };
            if is_due {
                return Some(*order);
            }
            if entry.sent.as_ref().is_some_and(|sent| sent.refused) {
                break;
            }
            waiting += 1;
            octets += entry.body.len();
            if waiting >= DEPOSITS {
                break;
            }
        }
        None
    }

    /// The peer has opened a new session: what it has not committed is sent again, at once.
    pub fn renew(&mut self) {
        (self.kept, self.cursor) = (NONE_KEPT, None);
        self.entries.values_mut().for_each(|entry| entry.sent = None);
    }

    /// The way to the peer, or its lane, has changed: what is under way is sent again, at once, but for what a relay has.
    pub fn redirect(&mut self) {
        self.cursor = None;
        self.entries.values_mut().filter(|entry| !entry.is_in_custody()).for_each(|entry| entry.sent = None);
    }

    /// The peer, which was away, is there: what a relay keeps for it is sent again if the relay does not hand it over
    /// soon.
    pub fn peer_is_back(&mut self, now: Timestamp) {
        (self.kept, self.cursor) = (NONE_KEPT, None);
        for entry in self.entries.values_mut() {
            match &mut entry.sent {
                Some(sent) if sent.in_custody => sent.again = sent.again.min(now.after(HANDING_OVER)),
                sent => *sent = None,
            }
        }
    }

    /// A relay has the message on its disk and keeps it for `keep`. Returns what is to be written, so that a later run
    /// does not deposit it again.
    pub fn in_custody(&mut self, now: Timestamp, id: MessageId, keep: Duration) -> Batch {
        self.cursor = None;
        let mut batch = Batch::default();
        let peer = self.peer;
        let Some(order) = self.by_id.get(&id).copied() else { return batch };
        // What was sent live since is on its way there too.
        if let Some(entry) = self.entries.get_mut(&order)
            && let Some(sent) = entry.sent.as_mut().filter(|sent| sent.lane == Lane::Stored)
        {
            (sent.in_custody, sent.refused, sent.again) = (true, false, now.after(keep));
            if entry.stored {
                let until = Some(sent.again);
                let value = row::encode(entry, until);
                batch.put(Table::Outbox, [peer.0.as_slice(), &order.to_be_bytes()].concat(), value);
            }
        }
        batch
    }

    /// The relay has not taken the message: it is deposited again after `wait`.
    pub fn not_kept(&mut self, now: Timestamp, id: MessageId, wait: Duration) {
        self.cursor = None;
        let sent = self.entry_mut(id).and_then(|entry| entry.sent.as_mut());
        if let Some(sent) = sent.filter(|sent| sent.lane == Lane::Stored) {
            (sent.refused, sent.again) = (true, now.after(wait));
        }
    }

    /// The message that `id` is a part of, or is, if the whole of it is on the disk of a relay.
    #[must_use]
    pub fn is_in_custody(&self, id: MessageId) -> Option<MessageId> {
        let message = self.by_id.get(&id).and_then(|order| self.entries.get(order))?.message();
        let kept = |order: &u64| self.entries.get(order).is_some_and(Entry::is_in_custody);
        self.orders_of(message).iter().all(kept).then_some(message)
    }

    /// How long a message is still worth delivering: none, if it does not expire.
    #[must_use]
    pub fn remaining(&self, now: Timestamp, id: MessageId) -> Option<Duration> {
        let entry = self.entries.get(self.by_id.get(&id)?)?;
        entry.options.expires.map(|at| at.since(now))
    }

    /// The peer has committed these.
    pub fn committed(&mut self, now: Timestamp, committed: &Committed<'_>) -> Delivered {
        let of = |number| MessageId { instance: committed.instance, number };
        let below = self.by_id.range(of(0)..of(committed.mark)).map(|(_, order)| *order);
        let above = bits(committed.bitmap).map(|bit| committed.mark.saturating_add(1).saturating_add(bit));
        let above = above.filter_map(|number| self.by_id.get(&of(number)).copied());
        let done = |order: &u64| self.entries.get(order).filter(|entry| entry.offered);
        let orders: Vec<u64> = below.chain(above).filter(|order| done(order).is_some()).collect();
        // Karn's algorithm: a message that was sent twice tells nothing of the round trip. But for a first guess, which is too
        // long rather than too short: a link so slow that everything is sent twice would else never be known to be.
        let guesses = self.pace.is_in_order && self.round_trip.is_none();
        let once = |sent: &&Sent| sent.times == 1 && sent.lane == Lane::Live;
        let is_often = |sent: &Sent| sent.times >= 4 && sent.lane == Lane::Live;
        let samples = |sent: &&Sent| once(sent) || guesses && is_often(sent);
        let sent = orders.iter().filter_map(|order| done(order)?.sent.as_ref()).filter(samples);
        if let Some(sample) = sent.map(|sent| now.since(sent.first)).next_back() {
            self.round_trip = Some(RoundTrip::after(self.round_trip.take(), sample));
        }
        let quickest = self.quickest();
        let tells = |sent: &&Sent| sent.lane == Lane::Live && tells_of_order(now, sent, quickest);
        let once_heard = orders.iter().filter_map(|order| done(order)?.sent.as_ref()).filter(tells);
        let heard = once_heard.map(|sent| sent.sequence).max();
        self.heard = self.heard.max(heard.unwrap_or(0));
        let arrived: usize = orders.iter().filter_map(done).map(|entry| entry.body.len()).sum();
        self.held(now, committed);
        // One part more for each window that has arrived.
        let grown = self.window + self.pace.part * arrived.min(self.window) / self.window;
        self.window = grown.min(self.pace.window.max);
        let delivered = self.remove_all(orders);
        self.find_lost(now);
        delivered
    }

    /// What was sent a few messages before one that has arrived, and has not, is lost: it is sent again at once. RFC 9002
    /// section 6.1.1.
    fn find_lost(&mut self, now: Timestamp) {
        let Some(heard) = self.heard.checked_sub(REORDERED) else { return };
        let Some(first) = self.entries.values().next().map(|first| first.id) else { return };
        for entry in self.entries.values_mut() {
            if !is_in_window(first, entry) {
                return;
            }
            match &mut entry.sent {
                Some(sent) if sent.held || sent.lane == Lane::Stored => {}
                Some(sent) if sent.sequence <= heard => {
                    sent.again = sent.again.min(now);
                    self.cursor = None;
                }
                // What is behind it was sent after it.
                Some(sent) if sent.times == 1 => return,
                Some(_) => {}
                None => return,
            }
        }
    }

    /// The peer says on its live lane what it holds: what it held and holds no more is sent again at once, for its application
    /// has begun anew. If that is not the `whole` of it, what lies above may be held all the same.
    pub fn recall(&mut self, now: Timestamp, committed: &Committed<'_>, whole: bool) {
        let told = bits(committed.held).last().map_or(u32::MAX, |bit| committed.mark.saturating_add(bit));
        let told = if whole { u32::MAX } else { told };
        let first =
            self.entries.values().next().map(|first| first.id).filter(|first| first.instance == committed.instance);
        if let Some(first) = first {
            for entry in self.entries.values_mut().take_while(|entry| is_in_window(first, entry)) {
                if let Some(sent) = entry
                    .sent
                    .as_mut()
                    .filter(|sent| sent.held && !committed.holds(entry.id.number) && entry.id.number <= told)
                {
                    (sent.held, sent.put_back, sent.again) = (false, true, now);
                    self.cursor = None;
                }
            }
        }
    }

    /// What waits at the peer for its application is not sent again soon: if it is lost there, so is the session.
    fn held(&mut self, now: Timestamp, committed: &Committed<'_>) {
        let (mut is_news, mut heard) = (false, self.heard);
        let (pace, timeout, quickest) = (self.pace, self.timeout(), self.quickest());
        for bit in bits(committed.held) {
            let number = committed.mark.saturating_add(bit);
            let id = MessageId { instance: committed.instance, number };
            if let Some(sent) = self.entry_mut(id).and_then(|entry| entry.sent.as_mut())
                && sent.lane == Lane::Live
            {
                // What follows a gap tells of it: that has to be said in any case.
                if !sent.put_back {
                    sent.again = sent.again.max(now.after(pace.held(timeout, sent.times)));
                }
                heard = heard.max(if tells_of_order(now, sent, quickest) { sent.sequence } else { 0 });
                is_news |= !core::mem::replace(&mut sent.held, true);
            }
        }
        self.heard = heard;
        // Parts that have arrived make room.
        self.cursor.take_if(|_| is_news && self.entries.values().next().is_some_and(|first| first.part.is_some()));
    }

    /// Gives up what has expired.
    pub fn expire(&mut self, now: Timestamp) -> Delivered {
        let orders = self.expiries.iter().take_while(|(at, _)| *at <= now).map(|(_, order)| *order).collect();
        self.give_up(orders)
    }

    /// When [`poll_send`](Self::poll_send) on `lane` or [`expire`](Self::expire) has something to do next, if nothing else
    /// happens.
    #[must_use]
    pub fn poll_timeout(&self, lane: Lane) -> Option<Timestamp> {
        let again = match lane {
            Lane::Live => match &self.cursor {
                Some(cursor) => (cursor.again < NEVER).then_some(cursor.again),
                None => self.live().filter_map(|(_, entry)| entry.sent.as_ref().map(|sent| sent.again)).min(),
            },
            Lane::Stored => {
                let mut again = (self.kept.0 > 0).then_some(self.kept.1);
                let (mut instance, mut waiting) = (None, 0);
                for entry in self.entries.range(self.kept.0..).take(2 * DEPOSITS).map(|(_, entry)| entry) {
                    let sent = entry.sent.as_ref();
                    let is_kept = sent.is_some_and(|sent| sent.in_custody);
                    // Where depositing stops, waiting does.
                    let is_behind = instance.is_some_and(|instance| instance != entry.id.instance);
                    if is_behind || waiting >= DEPOSITS || (!is_kept && entry.stops_depositing()) {
                        break;
                    }
                    if !is_kept {
                        instance = Some(entry.id.instance);
                        waiting += 1;
                    }
                    again = again.into_iter().chain(sent.map(|sent| sent.again)).min();
                    if sent.is_some_and(|sent| sent.refused && !sent.in_custody) {
                        break;
                    }
                }
                again
            }
        };
        again.into_iter().chain(self.next_expiry()).min()
    }

    /// What may be under way live.
    fn live(&self) -> impl Iterator<Item = (&u64, &Entry)> {
        self.entries.iter().take_while(|(_, entry)| self.is_live(entry))
    }

    /// Whether a message is of the run that goes first, within the window of numbers, and written.
    fn is_live(&self, entry: &Entry) -> bool {
        // Numbers rise with the order: the first is the lowest.
        let first = self.entries.values().next().map(|first| first.id);
        first.is_some_and(|first| is_in_window(first, entry) && entry.ready)
    }

    /// When [`expire`](Self::expire) has something to do next.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// The lowest number that is kept of an instance: numbers rise with the order.
    fn lowest(&self, instance: Instance) -> Option<u32> {
        self.entries.values().find(|entry| entry.id.instance == instance).map(|entry| entry.id.number)
    }

    fn orders(&self, done: impl Fn(&Entry) -> bool) -> Vec<u64> {
        self.entries.iter().filter(|(_, entry)| done(entry)).map(|(order, _)| *order).collect()
    }

    /// Removes what will not be delivered. What follows it is sent again, wherever it is: the recipient must not wait for
    /// what will never come.
    fn give_up(&mut self, orders: Vec<u64>) -> Delivered {
        let ids: Vec<MessageId> =
            orders.iter().filter_map(|order| self.entries.get(order)).map(|entry| entry.id).collect();
        let mut given_up = self.remove_all(orders);
        for id in ids {
            let after = id..=MessageId { number: u32::MAX, ..id };
            let Some(order) = self.by_id.range(after).next().map(|(_, order)| *order) else { continue };
            let key = self.key(order);
            let Some(entry) = self.entries.get_mut(&order) else { continue };
            if entry.stored && entry.is_in_custody() {
                given_up.batch.put(Table::Outbox, key, row::encode(entry, None));
            }
            match &mut entry.sent {
                // The first copy may still arrive: what is heard of it tells nothing of the second.
                Some(sent) if sent.lane == Lane::Live => {
                    (sent.again, sent.put_back) = (Timestamp::from_micros(0), true)
                }
                sent => *sent = None,
            }
            (self.kept, self.cursor) = (NONE_KEPT, None);
        }
        given_up
    }

    fn remove_all(&mut self, orders: Vec<u64>) -> Delivered {
        let mut delivered = Delivered::default();
        let mut had_parts = false;
        for order in orders {
            if let Some(entry) = self.entries.remove(&order) {
                self.octets -= entry.body.len();
                self.by_id.remove(&entry.id);
                had_parts |= entry.part.is_some();
                if let Some(cursor) = self.cursor.as_mut().filter(|cursor| order < cursor.next) {
                    cursor.in_flight = cursor.in_flight.saturating_sub(1);
                    cursor.octets = cursor.octets.saturating_sub(entry.body.len());
                }
                entry.options.expires.map(|at| self.expiries.remove(&(at, order)));
                delivered.ids.push(entry.id);
                if entry.stored {
                    delivered.batch.delete(Table::Outbox, self.key(order));
                }
            }
        }
        // Parts that have arrived were not counted. Those of the message that is the first now make room.
        self.cursor.take_if(|_| had_parts);
        self.cursor.take_if(|_| self.entries.values().next().is_some_and(|first| first.part.is_some()));
        delivered
    }

    fn key(&self, order: u64) -> Vec<u8> {
        [self.peer.0.as_slice(), &order.to_be_bytes()].concat()
    }

    /// How soon what was sent can be answered at the earliest, where a copy may be told from the one before it by that.
    fn quickest(&self) -> Option<Duration> {
        let known = self.round_trip.as_ref().filter(|_| self.pace.is_in_order);
        known.map(|known| known.least() / 2)
    }

    fn timeout(&self) -> Duration {
        let Timeouts { first, min, max } = self.pace.timeout;
        let Some(known) = &self.round_trip else { return first };
        let max = if self.pace.is_in_order { known.bound().clamp(first, max) } else { max };
        known.timeout().clamp(min, max)
    }
}

/// Whether what has arrived tells that all that was sent before it has arrived, or is lost. Of two copies, which one has
/// arrived? Not the second, if it was sent only just now.
fn tells_of_order(now: Timestamp, sent: &Sent, quickest: Option<Duration>) -> bool {
    sent.times == 1 || quickest.is_some_and(|quickest| now.since(sent.at) >= quickest)
}

/// Whether a message may be under way while `first` is the first that is not committed.
fn is_in_window(first: MessageId, entry: &Entry) -> bool {
    let distance = entry.id.number.saturating_sub(first.number);
    entry.id.instance == first.instance && distance < COMMIT_WINDOW
}

/// The numbers of the bits that are set, the lowest bit of an octet first.
fn bits(octets: &[u8]) -> impl Iterator<Item = u32> {
    let set = octets.iter().zip(0..).filter(|(octet, _)| **octet != 0);
    set.flat_map(|(octet, at): (_, u32)| (0..8).filter(move |bit| octet >> bit & 1 == 1).map(move |bit| at * 8 + bit))
}
