//! Messages to one peer, until the peer's application has committed them.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::time::Duration;

use sealway_wire::{IdentityId, Instance, MessageId, Reader, Timestamp, content::COMMIT_WINDOW, content::Committed};

use crate::{Batch, Table};

/// Messages that may be under way at once: no more than an inbox has places for.
const IN_FLIGHT: usize = 256;
/// Octets that may be under way at once.
const OCTETS_IN_FLIGHT: usize = 1024 * 1024;
/// The time after which an unanswered message is sent again, before the round trip is known, and its bounds. RFC 6298.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
const MIN_TIMEOUT: Duration = Duration::from_millis(200);
const MAX_TIMEOUT: Duration = Duration::from_secs(30);

/// How a message is to be treated while it waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SendOptions {
    /// When it is not worth delivering any more.
    pub expires: Option<Timestamp>,
    /// A message of the same key that has not been sent yet is dropped in favour of this one. At most 255 octets.
    pub supersedes: Option<Vec<u8>>,
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
    /// The message.
    pub body: &'a [u8],
}

struct Entry {
    id: MessageId,
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
    first: Timestamp,
    again: Timestamp,
    times: u32,
}

/// Messages to one peer, in the order in which they were handed in.
pub struct Outbox {
    peer: IdentityId,
    instance: Instance,
    next_number: u32,
    next_order: u64,
    entries: BTreeMap<u64, Entry>,
    expiries: BTreeSet<(Timestamp, u64)>,
    octets: usize,
    round_trip: Option<RoundTrip>,
}

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
            expiries: BTreeSet::new(),
            octets: 0,
            round_trip: None,
        }
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

    /// Octets of the messages that are kept.
    #[must_use]
    pub const fn octets(&self) -> usize {
        self.octets
    }

    /// Takes a message in. With `stored` the second part of the answer is to be written before
    /// [`written`](Self::written) lets it be sent; otherwise it lives in memory alone.
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
        let id = MessageId { instance: self.instance, number: self.next_number };
        self.next_number = self.next_number.checked_add(1).ok_or(PushError::Exhausted)?;
        let mut superseded = Delivered::default();
        if options.supersedes.is_some() {
            let older = |entry: &Entry| !entry.offered && entry.options.supersedes == options.supersedes;
            superseded = self.remove(older);
        }
        let order = self.next_order;
        self.next_order = self.next_order.saturating_add(1);
        if stored {
            superseded.batch.put(Table::Outbox, self.key(order), encode(id, &options, &body));
        }
        self.insert(order, Entry { id, body, options, stored, ready: !stored, offered: false, sent: None });
        Ok((id, superseded))
    }

    /// The message is on disk: it may be sent.
    pub fn written(&mut self, id: MessageId) {
        if let Some(entry) = self.entries.values_mut().rev().find(|entry| entry.id == id) {
            entry.ready = true;
        }
    }

    /// The message could not be written: it is forgotten.
    pub fn withdraw(&mut self, id: MessageId) {
        let _ = self.remove(|entry| entry.id == id);
    }

    /// Takes a message back from the store, in the order of the keys, before anything is pushed. Returns its id.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Option<MessageId> {
        let (peer, order) = key.split_first_chunk::<32>()?;
        if *peer != self.peer.0 {
            return None;
        }
        let order = u64::from_be_bytes(order.try_into().ok()?);
        let (id, options, body) = decode(value)?;
        self.next_order = self.next_order.max(order.saturating_add(1));
        self.insert(order, Entry { id, body, options, stored: true, ready: true, offered: true, sent: None });
        Some(id)
    }

    fn insert(&mut self, order: u64, entry: Entry) {
        self.octets += entry.body.len();
        self.expiries.extend(entry.options.expires.map(|at| (at, order)));
        self.entries.insert(order, entry);
    }

    /// The next message that is to be sent now. It counts as sent.
    pub fn poll_send(&mut self, now: Timestamp) -> Option<ToSend<'_>> {
        let timeout = self.timeout();
        // Messages of an earlier run go first, and alone: the recipient orders messages of one run only.
        let instance = self.entries.values().next()?.id.instance;
        let lowest = self.lowest(instance)?;
        let (mut in_flight, mut octets) = (0, 0);
        let mut due = None;
        for (order, entry) in &self.entries {
            let beyond = entry.id.number.saturating_sub(lowest) >= COMMIT_WINDOW;
            if entry.id.instance != instance || beyond || !entry.ready {
                break;
            }
            let is_due = match &entry.sent {
                None => in_flight < IN_FLIGHT && octets < OCTETS_IN_FLIGHT,
                Some(sent) => sent.again <= now,
            };
            if is_due {
                due = Some(*order);
                break;
            }
            in_flight += 1;
            octets += entry.body.len();
        }
        let entry = self.entries.get_mut(&due?)?;
        let (first, times) = entry.sent.as_ref().map_or((now, 0), |sent| (sent.first, sent.times));
        let wait = (timeout * (1 << times.min(10))).min(MAX_TIMEOUT);
        entry.offered = true;
        entry.sent = Some(Sent { first, again: now.after(wait), times: times + 1 });
        Some(ToSend { id: entry.id, lowest, body: &entry.body })
    }

    /// The peer has opened a new session: what it has not committed is sent again, at once.
    pub fn renew(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.sent = None);
    }

    /// The peer has committed these.
    pub fn committed(&mut self, now: Timestamp, committed: &Committed<'_>) -> Delivered {
        let done = |entry: &Entry| {
            entry.id.instance == committed.instance && entry.offered && committed.contains(entry.id.number)
        };
        let sample = self
            .under_way()
            .map(|(_, entry)| entry)
            .filter(|entry| done(entry))
            .filter_map(|entry| entry.sent.as_ref());
        // Karn's algorithm: a message that was sent twice tells nothing of the round trip.
        let sample = sample.filter(|sent| sent.times == 1).map(|sent| now.since(sent.first)).next_back();
        if let Some(sample) = sample {
            self.round_trip = Some(RoundTrip::after(self.round_trip.take(), sample));
        }
        let orders = self.under_way().filter(|(_, entry)| done(entry)).map(|(order, _)| *order).collect();
        self.remove_all(orders)
    }

    /// Gives up what has expired.
    pub fn expire(&mut self, now: Timestamp) -> Delivered {
        let orders = self.expiries.iter().take_while(|(at, _)| *at <= now).map(|(_, order)| *order).collect();
        self.remove_all(orders)
    }

    /// When [`poll_send`](Self::poll_send) or [`expire`](Self::expire) has something to do next, if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let again = self.under_way().filter_map(|(_, entry)| entry.sent.as_ref().map(|sent| sent.again)).min();
        again.into_iter().chain(self.next_expiry()).min()
    }

    /// When [`expire`](Self::expire) has something to do next.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// The entries among which everything is that was sent: the window bounds how far ahead of the first that can be.
    fn under_way(&self) -> impl DoubleEndedIterator<Item = (&u64, &Entry)> {
        let end = self.entries.keys().nth(COMMIT_WINDOW as usize).copied().unwrap_or(u64::MAX);
        self.entries.range(..end)
    }

    /// The lowest number that is kept of an instance: numbers rise with the order.
    fn lowest(&self, instance: Instance) -> Option<u32> {
        self.entries.values().find(|entry| entry.id.instance == instance).map(|entry| entry.id.number)
    }

    fn remove(&mut self, done: impl Fn(&Entry) -> bool) -> Delivered {
        let orders = self.entries.iter().filter(|(_, entry)| done(entry)).map(|(order, _)| *order).collect();
        self.remove_all(orders)
    }

    fn remove_all(&mut self, orders: Vec<u64>) -> Delivered {
        let mut delivered = Delivered::default();
        for order in orders {
            if let Some(entry) = self.entries.remove(&order) {
                self.octets -= entry.body.len();
                entry.options.expires.map(|at| self.expiries.remove(&(at, order)));
                delivered.ids.push(entry.id);
                if entry.stored {
                    delivered.batch.delete(Table::Outbox, self.key(order));
                }
            }
        }
        delivered
    }

    fn key(&self, order: u64) -> Vec<u8> {
        [self.peer.0.as_slice(), &order.to_be_bytes()].concat()
    }

    fn timeout(&self) -> Duration {
        self.round_trip.as_ref().map_or(FIRST_TIMEOUT, RoundTrip::timeout)
    }
}

/// Smoothed round trip and its variation: RFC 6298 section 2.
struct RoundTrip {
    smoothed: Duration,
    variation: Duration,
}

impl RoundTrip {
    fn after(before: Option<Self>, sample: Duration) -> Self {
        match before {
            None => Self { smoothed: sample, variation: sample / 2 },
            Some(Self { smoothed, variation }) => Self {
                variation: variation * 3 / 4 + smoothed.abs_diff(sample) / 4,
                smoothed: smoothed * 7 / 8 + sample / 8,
            },
        }
    }

    fn timeout(&self) -> Duration {
        (self.smoothed + self.variation * 4).clamp(MIN_TIMEOUT, MAX_TIMEOUT)
    }
}

/// `instance 4 | number 4 | expires 8, 0 if never | key length 1 | key | body`.
fn encode(id: MessageId, options: &SendOptions, body: &[u8]) -> Vec<u8> {
    let key = options.supersedes.as_deref().unwrap_or_default();
    let expires = options.expires.map_or(0, Timestamp::as_micros);
    let length = u8::try_from(key.len()).unwrap_or(u8::MAX);
    [&id.instance.0, id.number.to_be_bytes().as_slice(), &expires.to_be_bytes(), &[length], key, body].concat()
}

fn decode(value: &[u8]) -> Option<(MessageId, SendOptions, Vec<u8>)> {
    let mut reader = Reader::new(value);
    let instance = Instance(reader.array("outbox instance").ok()?);
    let number = reader.u32("outbox number").ok()?;
    let expires = u64::from_be_bytes(reader.array("outbox expiry").ok()?);
    let length = reader.u8("outbox key length").ok()?;
    let key = reader.take("outbox key", length.into()).ok()?;
    let options = SendOptions {
        expires: (expires != 0).then(|| Timestamp::from_micros(expires)),
        supersedes: (!key.is_empty()).then(|| key.to_vec()),
    };
    Some((MessageId { instance, number }, options, reader.rest().to_vec()))
}
