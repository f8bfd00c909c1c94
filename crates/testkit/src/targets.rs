//! What is fuzzed: each parser, and each state machine driven by an arbitrary schedule. A target takes any octets; it panics
//! if something that must hold does not.
//!
//! `fuzz/` hands them to libFuzzer; `tests/corpus.rs` replays what is kept there, and octets from seeds, on stable.

use std::{collections::BTreeSet, time::Duration};

use sealway_channel::{ChannelId, PrekeyKind, Source};
use sealway_identity::{UnverifiedCard, UnverifiedPayload, UnverifiedPrekey};
use sealway_routing::{
    Batch, Inbox, Limits, MemoryStore, Outbox, Relay, RelayEvent, SendOptions, SessionId, Store, Table,
};
use sealway_wire::{
    Address, Frame, HopFrame, IdentityId, Instance, Lane, Letter, MessageId, Reader, Timestamp, constrained,
    content::{Committed, Content, Part},
};

use crate::{
    network::Network,
    pairing::{Fate, Pair, SERVICE},
};

/// A target: it takes any octets.
pub type Target = fn(&[u8]);

/// Every target, by its name.
pub const ALL: [(&str, Target); 16] = [
    ("frame", frame),
    ("hop_frame", hop_frame),
    ("content", content),
    ("address", address),
    ("card", card),
    ("payload", payload),
    ("saved_state", saved_state),
    ("endpoint", endpoint),
    ("relay", relay),
    ("delivery", delivery),
    ("frame_buffer", frame_buffer),
    ("link", link),
    ("short_frame", short_frame),
    ("pairing", pairing),
    ("letter", letter),
    ("prekey", prekey),
];

fn reencodes<E>(octets: &[u8], encode: impl FnOnce(&mut [u8]) -> Result<usize, E>) {
    let mut out = vec![0; octets.len()];
    let len = encode(&mut out).ok().expect("what was decoded fits where it came from");
    assert_eq!(&out[..len], octets);
}

/// A frame of a link.
pub fn frame(octets: &[u8]) {
    if let Ok(frame) = Frame::decode(octets) {
        reencodes(octets, |out| frame.encode(out));
    }
}

/// A frame of the constrained profile.
pub fn short_frame(octets: &[u8]) {
    if let Ok(frame) = constrained::Frame::decode(octets) {
        reencodes(octets, |out| frame.encode(out));
    }
}

/// A letter, as octets; and by one for whom it is not.
pub fn letter(octets: &[u8]) {
    if let Ok(letter) = Letter::decode(octets) {
        reencodes(octets, |out| letter.encode(out));
    }
    let mut network = Network::pair(1);
    let now = network.now;
    let endpoint = &mut network.machines[0].endpoint;
    endpoint.make_prekeys(PrekeyKind::Hybrid);
    endpoint.handle_timeout(now);
    let made = endpoint.poll_prekey().expect("one is made").id;
    let mut frame = octets.to_vec();
    // Addressed to the prekey that is there: nothing that anybody can make without a key opens.
    frame.iter_mut().skip(1).zip(made.0).for_each(|(octet, id)| *octet = id);
    assert!(endpoint.open_letter(now, Source::proven(1), &mut frame).is_err());
}

/// What a relay serves of somebody's prekeys.
pub fn prekey(octets: &[u8]) {
    if let Ok(prekey) = UnverifiedPrekey::decode(octets) {
        assert_eq!(prekey.encode(), octets);
    }
}

/// A frame of the hop protocol.
pub fn hop_frame(octets: &[u8]) {
    if let Ok(frame) = HopFrame::decode(octets) {
        reencodes(octets, |out| frame.encode(out));
    }
}

/// The content of a typed record.
pub fn content(octets: &[u8]) {
    if let Ok(content) = Content::decode(octets) {
        let end = octets.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
        reencodes(&octets[..end], |out| content.encode(out));
    }
}

/// An address.
pub fn address(octets: &[u8]) {
    if let Ok(text) = std::str::from_utf8(octets)
        && let Ok(address) = Address::parse(text)
    {
        assert_eq!(address.to_string(), text);
    }
}

/// A card, as octets and as text.
pub fn card(octets: &[u8]) {
    if let Ok(card) = UnverifiedCard::decode(octets) {
        assert_eq!(card.as_bytes(), octets);
    }
    if let Ok(text) = std::str::from_utf8(octets) {
        let _ = UnverifiedCard::from_uri(text);
    }
}

/// What an initiator says of itself.
pub fn payload(octets: &[u8]) {
    if let Ok(payload) = UnverifiedPayload::decode(octets) {
        assert_eq!(payload.encode(), octets);
    }
}

/// What is kept of a session: nothing but the machine's own state is taken back.
pub fn saved_state(octets: &[u8]) {
    let mut network = Network::pair(1);
    let now = network.now;
    assert!(network.machines[0].endpoint.restore(now, octets).is_err());
}

/// What a schedule of octets says next.
struct Schedule<'a>(Reader<'a>);

impl<'a> Schedule<'a> {
    const fn new(octets: &'a [u8]) -> Self {
        Self(Reader::new(octets))
    }

    fn next(&mut self) -> Option<u8> {
        self.0.u8("schedule").ok()
    }

    fn number(&mut self) -> usize {
        self.0.u16("schedule").unwrap_or_default().into()
    }

    fn octets(&mut self) -> &'a [u8] {
        let len = self.number() % 2100;
        let len = len.min(self.0.remaining());
        self.0.take("schedule", len).unwrap_or_default()
    }
}

/// Two endpoints between which anything may happen to frames: nothing arrives that was not sent, and once the network is
/// left alone a message arrives.
pub fn endpoint(octets: &[u8]) {
    let mut schedule = Schedule::new(octets);
    let mut network = Network::pair(7);
    network.open(0, 1);
    network.open(1, 0);
    let mut sent: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut count = 0_u32;
    while let Some(step) = schedule.next() {
        let side = usize::from(step >> 7);
        match step & 0x0f {
            0..=2 => network.run(Duration::from_millis(schedule.number() as u64)),
            3 => network.run(Duration::from_secs(schedule.number() as u64)),
            4 => drop(network.deliver(1 - side, side, schedule.octets().to_vec())),
            // A frame of before, as it was or with a bit flipped.
            5 | 6 if !network.log.is_empty() => {
                let (from, to, mut frame) = network.log[schedule.number() % network.log.len()].clone();
                if step & 0x40 != 0 {
                    let bit = schedule.number() % (frame.len() * 8);
                    frame[bit / 8] ^= 1 << (bit % 8);
                }
                let _ = network.deliver(from, to, frame);
            }
            7 => network.conditions.loss = schedule.number() as u64 % 101,
            8 => network.conditions.duplication = schedule.number() as u64 % 101,
            9 => network.conditions.damage = schedule.number() as u64 % 101,
            10 => network.conditions.delay = Duration::from_millis(schedule.number() as u64 % 5000),
            11 => network.machines[side].disk_works = step & 0x40 != 0,
            12 => network.restart(side),
            13 => drop(network.open(side, 1 - side)),
            14 if network.channel(side, 1 - side).is_some() => {
                count += 1;
                let body = [[u8::try_from(side).unwrap_or(0)].as_slice(), &count.to_be_bytes()].concat();
                sent.insert(body.clone());
                let lane = if step & 0x40 != 0 { Lane::Stored } else { Lane::Live };
                let now = network.now;
                let endpoint = &mut network.machines[side].endpoint;
                if lane == Lane::Live || endpoint.may_deposit(now, ChannelId(0)) {
                    network.try_send_message(side, 1 - side, lane, count, &body);
                }
            }
            _ => network.cut(),
        }
        network.drain();
        // What a schedule can ask for in a minute is enough.
        if network.log.len() > 2000 {
            break;
        }
    }
    for machine in &network.machines {
        assert!(machine.received.iter().all(|body| sent.contains(body)), "something arrived that nobody has sent");
    }
    network.conditions = crate::network::Conditions::default();
    network.machines.iter_mut().for_each(|machine| machine.disk_works = true);
    network.open(0, 1);
    let healed = network.run_until(Duration::from_secs(300), |network| network.channel(0, 1).is_some());
    assert!(healed, "the network is left alone, and no channel opens");
}

/// Two machines of the constrained profile between which anything may happen to frames, and whose power may go at any write:
/// nothing is committed twice or was not sent, no nonce is used twice, and in the end they come together.
pub fn pairing(octets: &[u8]) {
    let mut schedule = Schedule::new(octets);
    let mut pair = Pair::new(7);
    while let Some(step) = schedule.next() {
        let side = usize::from(step >> 7);
        match step & 0x0f {
            0 | 1 => drop(pair.send(side)),
            2..=5 if !pair.on_the_way.is_empty() => {
                let (to, mut frame) = pair.on_the_way.remove(schedule.number() % pair.on_the_way.len());
                if step & 0x40 != 0 {
                    let bit = schedule.number() % (frame.len() * 8);
                    frame[bit / 8] ^= 1 << (bit % 8);
                }
                pair.deliver(to, frame);
            }
            6 => pair.deliver(side, schedule.octets().to_vec()),
            7 if !pair.log.is_empty() => {
                let (to, frame) = pair.log[schedule.number() % pair.log.len()].clone();
                pair.deliver(to, frame);
            }
            8 => drop(pair.call(schedule.octets())),
            9 | 10 => pair.repeat(),
            11 => pair.machines[side].next_write = if step & 0x40 != 0 { Fate::Lost } else { Fate::WrittenUnheard },
            12 => {
                let now = pair.now;
                pair.machines[side].restart(now);
            }
            13 => pair.now = pair.now.after(Duration::from_secs(schedule.number() as u64)),
            14 => pair.on_the_way.clear(),
            _ => {
                let until = pair.now.after(Duration::from_secs(60));
                pair.machines[SERVICE].pairing.open_recovery(until);
            }
        }
        // What a schedule can ask for in a minute is enough.
        if pair.log.len() > 1000 {
            break;
        }
    }
    pair.heals();
}

/// A relay whose clients say anything: it stays within its limits, and what it has in custody goes some time.
pub fn relay(octets: &[u8]) {
    let mut schedule = Schedule::new(octets);
    let mut limits = Limits::default();
    (limits.flows, limits.boxes) = (4, 3);
    (limits.box_octets, limits.share_octets, limits.depositor_octets) = (8000, 4000, 8000);
    let mut relay = Relay::new(limits);
    let mut disk = MemoryStore::default();
    let mut now = Timestamp::from_micros(1);
    while let Some(step) = schedule.next() {
        let session = SessionId(u64::from(step & 7));
        match step >> 3 {
            0 | 1 => relay.attach(session, IdentityId([step & 3; 32])),
            2 => relay.detach(session),
            3 => now = now.after(Duration::from_secs(schedule.number() as u64)),
            4 => {
                relay = Relay::new(limits);
                for table in [Table::Boxes, Table::Custody] {
                    disk.load(table, &mut |key, value| assert!(relay.load(table, key, value))).expect("memory");
                }
            }
            _ => {
                let frame = schedule.octets();
                match relay.handle(now, session, frame, |_, _| {}) {
                    Ok(RelayEvent::Registered { batch, .. } | RelayEvent::Settled { batch, .. }) => {
                        write(&mut disk, batch)
                    }
                    Ok(RelayEvent::Deposited { deposit, .. }) if step & 0x80 != 0 => {
                        relay.not_deposited(deposit, |_, _| {})
                    }
                    Ok(RelayEvent::Deposited { deposit, batch }) => {
                        write(&mut disk, batch);
                        relay.deposited(deposit, |_, _| {});
                    }
                    _ => {}
                }
            }
        }
        let (_, batch) = relay.handle_timeout(now);
        write(&mut disk, batch);
        while let Some(push) = relay.poll_push(now) {
            let row = disk.get(Table::Custody, &push.id.key()).expect("memory");
            let row: Result<_, ()> = Ok(row.as_deref());
            relay.push(now, push, row, |_, frame| {
                reencodes_hop(frame);
                step & 1 == 0
            });
            if step & 1 != 0 {
                break;
            }
        }
        let (frames, octets) = relay.custody();
        assert!(octets <= 4 * limits.depositor_octets && frames * 512 <= octets, "{frames} frames, {octets} octets");
    }
    let (_, batch) = relay.handle_timeout(now.after(limits.keep + Duration::from_secs(1)));
    write(&mut disk, batch);
    assert_eq!(relay.custody(), (0, 0));
    disk.load(Table::Custody, &mut |_, _| panic!("a row is left")).expect("memory");
}

fn reencodes_hop(frame: &HopFrame<'_>) {
    let mut out = vec![0; 4096];
    let len = frame.encode(&mut out).expect("frames of this target are short");
    assert_eq!(HopFrame::decode(&out[..len]).as_ref(), Ok(frame));
}

fn write(disk: &mut MemoryStore, batch: Batch) {
    disk.commit(&[batch]).expect("memory");
}

/// Outbox and inbox over a medium that does anything but forge: each message is handed over once, unless a crash came
/// between; what is committed was sent; and in the end everything that did not expire is.
pub fn delivery(octets: &[u8]) {
    let mut schedule = Schedule::new(octets);
    let (sender, recipient) = (IdentityId([1; 32]), IdentityId([2; 32]));
    let mut now = Timestamp::from_micros(1);
    let (mut outbox, mut inbox) = (Outbox::new(recipient, Instance([0; 4])), Inbox::new(sender));
    let (mut outbox_disk, mut inbox_disk) = (MemoryStore::default(), MemoryStore::default());
    type OnTheWay = (MessageId, (u32, u32), Option<Part>, Vec<u8>);
    let mut on_the_way: Vec<OnTheWay> = Vec::new();
    let mut committed: BTreeSet<MessageId> = BTreeSet::new();
    let mut sent: BTreeSet<MessageId> = BTreeSet::new();
    let mut runs = 0_u8;
    while let Some(step) = schedule.next() {
        match step & 0x0f {
            0..=3 => {
                let mut options = SendOptions::default();
                options.expires = (step & 0x10 != 0).then(|| now.after(Duration::from_secs(u64::from(step >> 5))));
                options.supersedes = (step & 0x20 != 0).then(|| vec![step >> 6]);
                let (id, effects) = outbox
                    .push(vec![step; if step & 0x80 != 0 { 40_000 } else { 3 }], options, true)
                    .expect("few messages");
                write(&mut outbox_disk, effects.batch);
                sent.insert(id);
                // A write that fails is known to whoever has sent.
                if step & 0x40 != 0 { outbox.withdraw(id) } else { outbox.written(id) }
            }
            4 | 5 => {
                let lane = if step & 0x10 != 0 { Lane::Stored } else { Lane::Live };
                while let Some(message) = outbox.poll_send(now, lane) {
                    let (id, part, body) = (message.id, message.part, message.body.to_vec());
                    on_the_way.push((id, (message.lowest, message.unwanted), part, body));
                    if lane == Lane::Stored && step & 0x20 != 0 {
                        write(&mut outbox_disk, outbox.in_custody(now, id, Duration::from_secs(1000)));
                    }
                }
            }
            6 | 7 if !on_the_way.is_empty() => {
                let at = schedule.number() % on_the_way.len();
                let (id, (lowest, unwanted), part, body) = on_the_way[at].clone();
                if step & 0x10 != 0 {
                    on_the_way.swap_remove(at);
                }
                inbox.handle_message(id, lowest, unwanted, part, &body);
            }
            8 | 9 => {
                if let Some(delivery) = inbox.poll_deliver() {
                    write(&mut inbox_disk, delivery.before);
                    assert!(sent.contains(&delivery.id), "a message that nobody has sent");
                    assert!(!committed.contains(&delivery.id), "a message that was done with");
                    if step & 0x10 != 0
                        && let Some((batch, marks)) = inbox.done(delivery.id)
                    {
                        write(&mut inbox_disk, batch);
                        inbox.written(delivery.id.instance, marks);
                        committed.insert(delivery.id);
                    }
                }
            }
            10 => acknowledge(now, &mut outbox, &mut outbox_disk, &mut inbox, runs),
            11 => {
                runs = runs.wrapping_add(1);
                outbox = Outbox::new(recipient, Instance([runs; 4]));
                let load = &mut |key: &[u8], value: &[u8]| assert!(outbox.load(key, value).is_some());
                outbox_disk.load(Table::Outbox, load).expect("memory");
            }
            12 => {
                inbox = Inbox::new(sender);
                inbox_disk.load(Table::Inbox, &mut |key, value| assert!(inbox.load(key, value))).expect("memory");
            }
            13 => drop(inbox.rewind()),
            14 => outbox.renew(),
            _ => {
                now = now.after(Duration::from_millis(schedule.number() as u64));
                write(&mut outbox_disk, outbox.expire(now).batch);
            }
        }
        if sent.len() > 200 {
            break;
        }
    }
    outbox.renew();
    inbox.rewind();
    for _ in 0..sent.len() + 2 * usize::from(runs) + 2 {
        while let Some(message) = outbox.poll_send(now, Lane::Live) {
            inbox.handle_message(message.id, message.lowest, message.unwanted, message.part, message.body);
        }
        while let Some(delivery) = inbox.poll_deliver() {
            assert!(!committed.contains(&delivery.id), "a message that was done with");
            if let Some((_, marks)) = inbox.done(delivery.id) {
                inbox.written(delivery.id.instance, marks);
                committed.insert(delivery.id);
            }
        }
        acknowledge(now, &mut outbox, &mut outbox_disk, &mut inbox, runs);
        now = now.after(Duration::from_secs(60));
        write(&mut outbox_disk, outbox.expire(now).batch);
    }
    assert!(outbox.is_empty(), "{} messages are left", outbox.len());
}

fn acknowledge(now: Timestamp, outbox: &mut Outbox, disk: &mut MemoryStore, inbox: &mut Inbox, runs: u8) {
    for run in 0..=runs {
        let instance = Instance([run; 4]);
        let committed: Option<Committed<'_>> = inbox.committed(instance);
        if let Some(committed) = committed {
            write(disk, outbox.committed(now, &committed).batch);
        }
    }
}

/// Frames in one buffer: what is pushed comes out, in order.
pub fn frame_buffer(octets: &[u8]) {
    let mut schedule = Schedule::new(octets);
    let mut frames = sealway_link::Frames::new();
    let mut pushed: Vec<Vec<u8>> = Vec::new();
    while schedule.next().is_some() {
        let frame = schedule.octets();
        frames.push(frame);
        pushed.push(frame.to_vec());
    }
    assert_eq!(frames.len(), pushed.len());
    for (at, frame) in pushed.iter().enumerate() {
        assert_eq!(frames.get_mut(at).map(|frame| frame.to_vec()).as_ref(), Some(frame));
    }
}

/// What media hand up: a line of octets, fragments, and packets that are acknowledged, by a machine that sends at the same time.
pub fn link(octets: &[u8]) {
    use sealway_link::{
        Frames,
        fragment::{Fragment, Reassembler},
        line::LineDecoder,
        recovery::Recovery,
    };
    const LONGEST: usize = 4096;
    let mut schedule = Schedule::new(octets);
    let mut now = Timestamp::from_micros(0);
    let mut machine = Recovery::new(now, 1200, &[508, 1452], u32::MAX);
    let mut decoder = LineDecoder::new(LONGEST);
    let mut reassembler = Reassembler::new(4, LONGEST);
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    while let Some(step) = schedule.next() {
        let mut frames = Frames::new();
        let octets = schedule.octets();
        match step % 8 {
            0 => machine.set_proved(),
            1 => drop(machine.take(octets)),
            2 => decoder.decode(octets, &mut frames),
            3 => {
                if let Some(whole) = Fragment::decode(octets).ok().and_then(|it| reassembler.handle(now, &it)) {
                    assert!(whole.len() <= LONGEST);
                }
            }
            // What it has sent comes back to it, altered: numbers that are near are the ones that matter.
            4 => {
                if let Some(mut datagram) = datagrams.pop() {
                    datagram.iter_mut().zip(octets).for_each(|(octet, change)| *octet ^= change);
                    let _ = machine.handle(now, &datagram, &mut frames);
                }
            }
            5 => drop(machine.handle(now, octets, &mut frames)),
            6 => machine.is_too_long(now, octets.len() * 16),
            _ => now = now.after(Duration::from_millis(u64::from(step) * 4)),
        }
        let mut datagram = Vec::new();
        while machine.poll_transmit(now, &mut datagram) {
            assert!(datagram.len() <= 1452);
            datagrams.push(std::mem::take(&mut datagram));
        }
        // A timer that is due has been served: otherwise its user would turn in a circle.
        assert!(machine.poll_timeout().is_none_or(|at| at > now));
    }
}
