//! Packets over a medium that loses some: numbered, acknowledged, sent again a bounded number of times, and no more of them at
//! once than the medium takes. Loss detection is that of RFC 9002, congestion control that of RFC 9438, the search for the longest packet
//! is that of RFC 8899; there is no order, and no promise: a frame that is lost again and again is given up, for its sender
//! repeats what matters.
//!
//! ```text
//! packet           0x02 | number 4 | ( length 2 | frame )* [ | 0x0000 | padding ]
//! acknowledgement  0x03 | largest 4 | delay 2 | run 2 | ( gap 2 | run 2 )*
//! ```
//!
//! The delay is in units of 8 µs. A run says how many packets below its largest have come too; a gap, how many are missing
//! between two runs, less one. Numbers begin anywhere, and go round. Frames of the protocol begin with neither octet.
//!
//! Nothing here is authentic. Who is on the path can disturb it as he can drop; who is not has to guess a number: one that is far
//! from those that have come lately is not acknowledged. Its frames are handed up all the same, for their tags tell.

mod congestion;
mod received;
mod round_trip;

use alloc::{collections::VecDeque, vec::Vec};
use core::time::Duration;

use sealway_wire::Timestamp;

use self::{
    congestion::{Congestion, Pacer},
    received::{Acknowledgement, Received},
    round_trip::RoundTrip,
};
use crate::{Frames, fragment::Fragment};

/// What a packet begins with.
pub const PACKET: u8 = 0x02;
/// What an acknowledgement begins with.
pub const ACKNOWLEDGEMENT: u8 = 0x03;

/// Octets of a packet before its first frame.
const PACKET_HEADER: usize = 5;
/// Octets before each frame in a packet.
const FRAME_HEADER: usize = 2;
/// What a packet and its only frame add to that frame.
pub const OVERHEAD: usize = PACKET_HEADER + FRAME_HEADER;
/// The longest packet.
pub const MAX_UNIT: usize = 16_000;

/// Octets of frames that wait for the window.
const WAITING: usize = 128 * 1024;
/// A packet is sent so many times, and no longer than so after it was first: then it is given up.
const TIMES: u8 = 8;
const LIFETIME: Duration = Duration::from_secs(10);
/// A packet is lost once so many later ones have come: RFC 9002 section 6.1.1.
const REORDERED: u64 = 3;
/// Every so many packets are acknowledged at once, fewer after a while.
const ACK_EVERY: u32 = 4;
const ACK_DELAY: Duration = Duration::from_millis(20);
/// A timeout is not longer.
const MAX_TIMEOUT: Duration = Duration::from_secs(8);
/// After so many timeouts the window begins anew, and long packets are no longer trusted.
const SILENT: u32 = 3;
/// Numbers further from the last are another count: that of a peer which has begun anew, once the old one was silent for a while.
const NEAR: u64 = 1 << 15;
const STRAYS: usize = 32;
const SILENCE: Duration = Duration::from_millis(500);
/// A longer packet is tried so many times, and again after a while: RFC 8899 section 5.1.
const PROBES: u8 = 3;
const RAISE: Duration = Duration::from_secs(600);
/// So many long packets in a row that do not arrive, while others may, tell that long ones do not.
const LONG_LOST: u32 = 6;

/// What has been counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryCounts {
    /// Packets that did not arrive, as far as can be known.
    pub lost: u64,
    /// Packets that were given up, with their frames.
    pub given_up: u64,
}

/// A packet of ours.
#[derive(Debug)]
struct Packet {
    /// With room for its number.
    octets: Vec<u8>,
    times: u8,
    first: Timestamp,
    sent: Timestamp,
    /// The window was what held us back.
    was_full: bool,
    /// It carries nothing, and asks whether its length arrives.
    is_probe: bool,
}

/// The search for the longest packet that arrives.
#[derive(Debug)]
struct Search {
    /// Longer lengths to be tried, in rising order: those from `next` on.
    lengths: Vec<usize>,
    next: usize,
    tries: u8,
    under_way: bool,
    /// When to try again what did not arrive.
    again: Option<Timestamp>,
}

/// One direction out, and one in, of a link of packets. It has no clock and no socket.
#[derive(Debug)]
pub struct Recovery {
    /// What is fallen back upon where longer packets do not arrive, and where those do not either.
    base: usize,
    floor: usize,
    unit: usize,
    search: Search,

    open: Vec<u8>,
    ready: VecDeque<Packet>,
    ready_octets: usize,
    next_number: u64,
    /// Those from `first_number` on, without those that have been acknowledged or lost.
    first_number: u64,
    under_way: VecDeque<Option<Packet>>,
    octets_under_way: usize,
    congestion: Congestion,
    pacer: Pacer,
    round_trip: RoundTrip,
    largest_acknowledged: Option<u64>,
    least_acknowledged: Option<u64>,
    last_sent: Timestamp,
    timeouts: u32,
    /// When the first of them was.
    silent_since: Option<Timestamp>,
    /// When the latest long packet left that has arrived, and how many of those after it were lost.
    long_arrived: Timestamp,
    long_lost: u32,
    /// So many packets leave although the window is full: they ask for an answer.
    asking: u8,
    paced_until: Option<Timestamp>,
    spare: Vec<Vec<u8>>,

    /// Somebody whom we know is at the other end: only then is anything acknowledged.
    proved: bool,
    received: Received,
    unacknowledged: u32,
    largest_came: Timestamp,
    acknowledge_at: Option<Timestamp>,
    /// Packets that are far from the others, which are acknowledged one by one.
    strays: VecDeque<u32>,
    counts: RecoveryCounts,
}

impl Recovery {
    /// For packets of `base` octets, and longer ones of `lengths` once they are known to arrive; of the shortest of these where
    /// those of `base` do not. `number` is drawn at random.
    #[must_use]
    pub fn new(now: Timestamp, base: usize, lengths: &[usize], number: u32) -> Self {
        let first = (1 << 32) | u64::from(number);
        let mut lengths: Vec<_> = lengths.iter().copied().filter(|len| *len <= MAX_UNIT).chain([base]).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let next = lengths.partition_point(|len| *len <= base);
        Self {
            base,
            floor: lengths.first().copied().unwrap_or(base),
            unit: base,
            search: Search { lengths, next, tries: 0, under_way: false, again: None },
            open: Vec::new(),
            ready: VecDeque::new(),
            ready_octets: 0,
            next_number: first,
            first_number: first,
            under_way: VecDeque::new(),
            octets_under_way: 0,
            congestion: Congestion::new(base),
            pacer: Pacer::new(now, base),
            round_trip: RoundTrip::new(),
            largest_acknowledged: None,
            least_acknowledged: None,
            last_sent: now,
            timeouts: 0,
            silent_since: None,
            long_arrived: now,
            long_lost: 0,
            asking: 0,
            paced_until: None,
            spare: Vec::new(),
            proved: false,
            received: Received::default(),
            unacknowledged: 0,
            largest_came: now,
            acknowledge_at: None,
            strays: VecDeque::new(),
            counts: RecoveryCounts::default(),
        }
    }

    /// For a link that nobody else uses, of packets of `unit` octets: `window` octets are under way at once, whatever gets lost, and
    /// as fast as the link takes them. `round_trip` is assumed until it is known; none: a third of a second. `number` is drawn at
    /// random.
    #[must_use]
    pub fn between_two(now: Timestamp, unit: usize, window: usize, round_trip: Option<Duration>, number: u32) -> Self {
        let round_trip = round_trip.map_or_else(RoundTrip::new, RoundTrip::of);
        let congestion = Congestion::fixed(window.max(unit));
        Self { congestion, round_trip, ..Self::new(now, unit, &[], number) }
    }

    /// Somebody whom we know has been heard at the other end: from now on it gets acknowledgements. What came before in his name,
    /// anybody may have sent.
    pub fn set_proved(&mut self) {
        self.proved = true;
        self.received = Received::default();
        (self.unacknowledged, self.acknowledge_at) = (0, None);
    }

    /// The longest frame that goes in one piece at present. Longer ones go as [fragments](crate::fragment).
    #[must_use]
    pub const fn longest(&self) -> usize {
        self.unit - OVERHEAD
    }

    /// What has been counted.
    #[must_use]
    pub const fn counts(&self) -> RecoveryCounts {
        self.counts
    }

    /// Since when what was sent goes unanswered, in spite of everything that was tried.
    #[must_use]
    pub const fn silent_since(&self) -> Option<Timestamp> {
        if self.octets_under_way > 0 { self.silent_since } else { None }
    }

    /// Whether everything that was taken has left.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.ready.is_empty() && self.open.is_empty()
    }

    /// Whether everything that was taken has arrived, or was given up.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_flushed() && self.octets_under_way == 0
    }

    /// Whether [`take`](Self::take) takes another frame.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.ready_octets + self.open.len() < WAITING
    }

    /// Takes a frame for sending, of at least one octet. `false`: too much waits already, or it is longer than 65,535 octets,
    /// and it was not taken.
    pub fn take(&mut self, frame: &[u8]) -> bool {
        if frame.is_empty() || !self.has_room() {
            return false;
        }
        self.add_cut(frame)
    }

    /// Adds a frame or a fragment, cut into fragments if it has to be.
    fn add_cut(&mut self, frame: &[u8]) -> bool {
        if frame.len() <= self.longest() {
            self.add(frame);
            return true;
        }
        let mut datagram = Vec::new();
        let longest = self.longest();
        let mut add = |fragment: Fragment<'_>| {
            fragment.encode(&mut datagram);
            self.add(&datagram);
        };
        if let Ok(fragment) = Fragment::decode(frame) {
            fragment.split(longest).for_each(add);
            return true;
        }
        let id = Fragment::id_of(frame);
        let Some(fragments) = Fragment::cut(id, frame, longest) else { return false };
        fragments.for_each(&mut add);
        true
    }

    fn add(&mut self, frame: &[u8]) {
        let Ok(len) = u16::try_from(frame.len()) else { return };
        if self.open.len() + FRAME_HEADER + frame.len() > self.unit {
            self.close();
        }
        if self.open.is_empty() {
            self.open = self.spare.pop().unwrap_or_default();
            self.open.reserve_exact(self.unit);
            self.open.extend_from_slice(&[PACKET, 0, 0, 0, 0]);
        }
        self.open.extend_from_slice(&len.to_be_bytes());
        self.open.extend_from_slice(frame);
    }

    /// Nothing is added to the packet that was begun.
    fn close(&mut self) {
        if !self.open.is_empty() {
            let octets = core::mem::take(&mut self.open);
            self.ready_octets += octets.len();
            // When it leaves is told when it does.
            let sent = self.last_sent;
            self.ready.push_back(Packet { octets, times: 0, first: sent, sent, was_full: false, is_probe: false });
        }
    }

    // ---- out ----

    /// Appends the next datagram that leaves now to `out`. `false`: none does.
    pub fn poll_transmit(&mut self, now: Timestamp, out: &mut Vec<u8>) -> bool {
        self.handle_timeout(now);
        if let Some(stray) = self.strays.pop_front() {
            out.push(ACKNOWLEDGEMENT);
            received::encode_one(stray, out);
            return true;
        }
        if self.acknowledge_at.is_some_and(|at| at <= now) {
            self.acknowledge_at = None;
            self.unacknowledged = 0;
            out.push(ACKNOWLEDGEMENT);
            let delay = u64::try_from(now.since(self.largest_came).as_micros()).unwrap_or(u64::MAX);
            self.received.encode(delay, out);
            return true;
        }
        self.close();
        self.paced_until = None;
        if self.probe(now, out) {
            return true;
        }
        while self.ready.front().is_some_and(|packet| packet.octets.len() > self.unit) {
            self.cut_again();
        }
        let Some(len) = self.ready.front().map(|packet| packet.octets.len()) else { return false };
        // One goes in any case: it may be longer than the window has become.
        let fits = self.octets_under_way == 0 || self.octets_under_way + len <= self.congestion.window();
        if !fits && self.asking == 0 {
            return false;
        }
        let pace = (self.congestion.window(), self.round_trip.smoothed(), self.unit);
        if let Err(at) = self.pacer.take(now, len, pace)
            && !self.congestion.is_fixed()
        {
            self.paced_until = Some(at);
            return false;
        }
        self.asking = self.asking.saturating_sub(u8::from(!fits));
        let Some(packet) = self.ready.pop_front() else { return false };
        self.ready_octets -= len;
        self.send(now, packet, out);
        true
    }

    fn send(&mut self, now: Timestamp, mut packet: Packet, out: &mut Vec<u8>) {
        let number = self.next_number;
        self.next_number += 1;
        if let Some(place) = packet.octets.get_mut(1..PACKET_HEADER) {
            place.copy_from_slice(&received::truncate(number).to_be_bytes());
        }
        out.extend_from_slice(&packet.octets);
        if self.octets_under_way == 0 && packet.times == 0 && !packet.is_probe {
            // What was asked before was given up: this is another question.
            (self.silent_since, self.timeouts) = (None, 0);
        }
        self.octets_under_way += packet.octets.len();
        if packet.times == 0 {
            packet.first = now;
        }
        packet.times = packet.times.saturating_add(1);
        packet.sent = now;
        packet.was_full = !self.ready.is_empty() || self.octets_under_way * 2 >= self.congestion.window();
        self.last_sent = now;
        self.under_way.push_back(Some(packet));
    }

    /// A longer packet, if one is to be tried.
    fn probe(&mut self, now: Timestamp, out: &mut Vec<u8>) -> bool {
        let Search { lengths, next, tries, under_way, .. } = &mut self.search;
        let Some(len) = lengths.get(*next).copied() else { return false };
        // Not before it is known that anything arrives at all. One packet more than the window has does no harm.
        let may = self.proved && !*under_way && *tries < PROBES && self.largest_acknowledged.is_some();
        if !may || len * 2 > self.congestion.window() {
            return false;
        }
        (*tries, *under_way) = (*tries + 1, true);
        let mut octets = alloc::vec![0; len];
        octets.first_mut().into_iter().for_each(|kind| *kind = PACKET);
        let packet = Packet { octets, times: 0, first: now, sent: now, was_full: false, is_probe: true };
        self.send(now, packet, out);
        true
    }

    /// A probe has arrived, or has not.
    fn probed(&mut self, now: Timestamp, len: usize, arrived: bool) {
        self.search.under_way = false;
        if arrived && len > self.unit {
            self.unit = len;
            self.search.next = self.search.lengths.partition_point(|length| *length <= len);
            self.search.tries = 0;
        } else if !arrived && self.search.tries >= PROBES {
            self.search.again = Some(now.after(RAISE));
        }
    }

    /// Packets of this length arrive no more, or the medium says that it does not take them.
    pub fn is_too_long(&mut self, now: Timestamp, len: usize) {
        if self.search.under_way && len > self.unit {
            self.search.tries = PROBES;
        } else if len > self.floor {
            self.unit = if len > self.base { self.base } else { self.floor };
            self.search.next = self.search.lengths.partition_point(|len| *len <= self.unit);
            self.search.tries = PROBES;
            self.search.again = Some(now.after(RAISE));
        }
    }

    /// The frames of the first packet that waits, in shorter packets.
    fn cut_again(&mut self) {
        let Some(packet) = self.ready.pop_front() else { return };
        self.ready_octets -= packet.octets.len();
        let mut waiting = core::mem::take(&mut self.ready);
        let mut frames = Frames::new();
        unpack(packet.octets.get(PACKET_HEADER..).unwrap_or_default(), &mut frames);
        for frame in (0..frames.len()).filter_map(|index| frames.get(index)) {
            self.add_cut(frame);
        }
        self.close();
        // They are what it was.
        self.ready.iter_mut().for_each(|part| (part.times, part.first) = (packet.times, packet.first));
        self.ready.append(&mut waiting);
    }

    // ---- in ----

    /// Takes a datagram in that begins with [`PACKET`] or [`ACKNOWLEDGEMENT`], and appends its frames to `frames`. What is none is
    /// dropped. `false`: it was a packet whose number is far from those before: anybody may have made it up who knows the addresses.
    pub fn handle(&mut self, now: Timestamp, datagram: &[u8], frames: &mut Frames) -> bool {
        match datagram {
            [PACKET, a, b, c, d, rest @ ..] if rest.len() <= MAX_UNIT => {
                unpack(rest, frames);
                return self.came(now, u32::from_be_bytes([*a, *b, *c, *d]));
            }
            [ACKNOWLEDGEMENT, rest @ ..] => {
                if let Some(acknowledgement) = received::decode_ack(rest, self.next_number) {
                    self.acknowledged(now, &acknowledgement);
                }
            }
            _ => {}
        }
        true
    }

    fn came(&mut self, now: Timestamp, short: u32) -> bool {
        let mut is_near = false;
        let number = match self.received.largest() {
            None => {
                is_near = true;
                (1 << 32) | u64::from(short)
            }
            Some(largest) => match received::expand(short, largest) {
                Some(number) if number.abs_diff(largest) <= NEAR => {
                    is_near = true;
                    number
                }
                // Perhaps what is near was guessed, and this is genuine: it is acknowledged by itself.
                _ if now.since(self.largest_came) < SILENCE => {
                    if self.proved && self.strays.len() < STRAYS {
                        self.strays.push_back(short);
                    }
                    return false;
                }
                _ => {
                    self.received = Received::default();
                    (1 << 32) | u64::from(short)
                }
            },
        };
        let is_next = self.received.add(number);
        if self.received.largest() == Some(number) {
            self.largest_came = now;
        }
        if self.proved {
            self.unacknowledged += 1;
            // A gap is told at once: what is missing is sent again the sooner.
            let at_once = !is_next || self.unacknowledged >= ACK_EVERY;
            let at = if at_once { now } else { now.after(ACK_DELAY) };
            self.acknowledge_at = Some(self.acknowledge_at.map_or(at, |earlier| earlier.min(at)));
        }
        is_near
    }

    fn acknowledged(&mut self, now: Timestamp, acknowledgement: &Acknowledgement) {
        let Acknowledgement { largest, delay, runs } = acknowledgement;
        let largest = *largest;
        // What was never sent cannot have come: somebody guesses.
        if largest >= self.next_number || self.under_way.is_empty() {
            return;
        }
        let mut newest = None;
        let mut least = None;
        for (first, last) in runs {
            for number in (*first.max(&self.first_number)..=*last).rev() {
                let Some(packet) = self.remove(number) else { continue };
                if packet.octets.len() > self.reliable() && packet.sent >= self.long_arrived {
                    (self.long_arrived, self.long_lost) = (packet.sent, 0);
                }
                least = Some(number);
                if number == largest {
                    newest = Some(packet.sent);
                }
                if packet.is_probe {
                    self.probed(now, packet.octets.len(), true);
                } else {
                    let way = (self.unit, self.round_trip.smoothed());
                    self.congestion.acknowledged((now, packet.sent), packet.octets.len(), packet.was_full, way);
                }
                self.recycle(packet.octets);
            }
        }
        let Some(least) = least else { return };
        self.least_acknowledged = Some(self.least_acknowledged.map_or(least, |earlier| earlier.min(least)));
        if let Some(sent) = newest {
            self.round_trip.sample(now.since(sent), (*delay).min(ACK_DELAY));
        }
        self.largest_acknowledged = self.largest_acknowledged.max(Some(largest));
        if self.timeouts >= SILENT {
            // It may have been nothing but a silence.
            (self.search.tries, self.search.again) = (0, None);
        }
        (self.timeouts, self.asking, self.silent_since) = (0, 0, None);
        self.find_lost(now);
    }

    fn remove(&mut self, number: u64) -> Option<Packet> {
        let at = usize::try_from(number.checked_sub(self.first_number)?).ok()?;
        let packet = self.under_way.get_mut(at)?.take()?;
        self.octets_under_way -= packet.octets.len();
        while matches!(self.under_way.front(), Some(None)) {
            self.under_way.pop_front();
            self.first_number += 1;
        }
        Some(packet)
    }

    fn recycle(&mut self, mut octets: Vec<u8>) {
        if self.spare.len() < 64 && octets.capacity() <= self.unit {
            octets.clear();
            self.spare.push(octets);
        }
    }

    /// What was sent before something that has arrived, and is missing for long enough.
    fn find_lost(&mut self, now: Timestamp) {
        let Some(largest) = self.largest_acknowledged else { return };
        let patience = self.round_trip.lost_after();
        let is_lost = |number: u64, packet: &Packet| {
            number + REORDERED <= largest || (number < largest && now >= packet.sent.after(patience))
        };
        let numbers = (self.first_number..=largest).zip(&self.under_way);
        let lost: Vec<u64> = numbers
            .filter(|(number, packet)| packet.as_ref().is_some_and(|packet| is_lost(*number, packet)))
            .map(|(number, _)| number)
            .collect();
        // The oldest goes first again.
        for number in lost.into_iter().rev() {
            let Some(packet) = self.remove(number) else { continue };
            if packet.is_probe {
                self.counts.lost += 1;
                self.probed(now, packet.octets.len(), false);
                continue;
            }
            self.was_lost(now, &packet);
            // What came before the other end knew us it has dropped: that tells nothing of the path.
            if self.least_acknowledged.is_some_and(|least| least < number) {
                self.congestion.lost(now, packet.sent, self.unit);
            }
            self.send_again(now, packet);
        }
    }

    /// Packets up to this length are taken to arrive if anything does.
    const fn reliable(&self) -> usize {
        if self.unit > self.base { self.base } else { self.floor }
    }

    /// A packet has not arrived. Where several long ones have not, and short ones may have, the path takes them no more:
    /// RFC 8899 section 4.3.
    fn was_lost(&mut self, now: Timestamp, packet: &Packet) {
        self.counts.lost += 1;
        // Of a queue that was full long ones arrive that have left later.
        if packet.octets.len() > self.reliable() && packet.sent > self.long_arrived {
            self.long_lost += 1;
        }
        if self.long_lost >= LONG_LOST {
            self.long_lost = 0;
            self.is_too_long(now, self.unit);
        }
    }

    fn send_again(&mut self, now: Timestamp, packet: Packet) {
        if packet.times >= TIMES || now.since(packet.first) >= LIFETIME {
            self.counts.given_up += 1;
            return;
        }
        self.ready_octets += packet.octets.len();
        self.ready.push_front(packet);
    }

    /// Sends a packet again that asks for any answer at all: until the silence has lasted long enough to be told.
    fn ask_again(&mut self, now: Timestamp, packet: Packet) {
        if self.silent_since.is_some_and(|since| now.since(since) >= 2 * LIFETIME) {
            return self.send_again(now, packet);
        }
        self.ready_octets += packet.octets.len();
        self.ready.push_front(packet);
    }

    // ---- time ----

    fn timeout(&self) -> Duration {
        let timeout = self.round_trip.timeout(ACK_DELAY);
        // A slow line takes longer for a single packet.
        timeout.saturating_mul(1 << self.timeouts.min(16)).min(MAX_TIMEOUT.max(timeout))
    }

    /// When something is to be done although nothing comes: then [`poll_transmit`](Self::poll_transmit) does it.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let unanswered = (self.octets_under_way > 0).then(|| self.last_sent.after(self.timeout()));
        let largest = self.largest_acknowledged;
        let numbered = (self.first_number..).zip(&self.under_way).take(usize::try_from(REORDERED).unwrap_or(0));
        let passed = numbered.filter(|(number, _)| largest.is_some_and(|largest| *number < largest));
        let lost = passed.filter_map(|(_, packet)| packet.as_ref()).map(|packet| packet.sent).min();
        let lost = lost.map(|sent| sent.after(self.round_trip.lost_after()));
        let search = self.search.again.filter(|_| self.proved && !self.search.lengths.is_empty());
        [unanswered, lost, search, self.paced_until, self.acknowledge_at].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Timestamp) {
        self.find_lost(now);
        if self.search.again.is_some_and(|at| at <= now) {
            (self.search.again, self.search.tries) = (None, 0);
        }
        if self.octets_under_way == 0 || now < self.last_sent.after(self.timeout()) {
            return;
        }
        self.last_sent = now;
        // A probe alone tells of its length, and of nothing else.
        if self.under_way.iter().flatten().any(|packet| !packet.is_probe) {
            self.timeouts += 1;
            self.silent_since = self.silent_since.or(Some(now));
            self.asking = 2;
        }
        if self.timeouts >= SILENT {
            self.congestion.collapse(now, self.base);
            self.is_too_long(now, self.unit);
        }
        // RFC 9002 section 6.2.4: what is new asks for an answer, or else what is oldest. Where the path has changed, the other end
        // may know what is old, and says nothing until it hears what it does not.
        if !self.is_flushed() {
            return;
        }
        let oldest: Vec<u64> = (self.first_number..)
            .zip(&self.under_way)
            .filter(|(_, packet)| packet.is_some())
            .map(|(number, _)| number)
            .take(2)
            .collect();
        for number in oldest.into_iter().rev() {
            match self.remove(number) {
                Some(packet) if packet.is_probe => self.probed(now, packet.octets.len(), false),
                Some(packet) => {
                    self.was_lost(now, &packet);
                    self.ask_again(now, packet);
                }
                None => {}
            }
        }
    }
}

/// The frames of a packet, up to its padding, or to what cannot be one.
fn unpack(mut items: &[u8], frames: &mut Frames) {
    while let Some((len, rest)) = items.split_first_chunk::<FRAME_HEADER>() {
        let len = usize::from(u16::from_be_bytes(*len));
        let Some((frame, rest)) = rest.split_at_checked(len).filter(|(frame, _)| !frame.is_empty()) else { return };
        frames.push(frame);
        items = rest;
    }
}

#[cfg(test)]
mod tests;
