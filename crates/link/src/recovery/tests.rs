//! Two machines and a bottleneck, on a virtual clock.
#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use alloc::collections::{BTreeMap, BTreeSet};

use super::*;

const BASE: usize = 1200;

/// What lies between: a queue that drops what finds it full, a rate, a delay, a longest datagram, and chance.
struct Path {
    octets_per_second: u64,
    delay: Duration,
    queue: usize,
    mtu: usize,
    lost_per_thousand: u64,
    jitter: Duration,
    chance: u64,
    free_at: Timestamp,
    arrivals: BTreeMap<(Timestamp, u64), (usize, Vec<u8>)>,
    count: u64,
}

impl Path {
    fn new(octets_per_second: u64, delay: Duration) -> Self {
        Self {
            octets_per_second,
            delay,
            queue: 64 * 1024,
            mtu: 1500,
            lost_per_thousand: 0,
            jitter: Duration::ZERO,
            chance: 7,
            free_at: Timestamp::from_micros(0),
            arrivals: BTreeMap::new(),
            count: 0,
        }
    }

    fn draw(&mut self) -> u64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.chance >> 33
    }

    fn send(&mut self, now: Timestamp, to: usize, datagram: Vec<u8>) {
        let waiting = self.free_at.since(now).as_micros() * u128::from(self.octets_per_second) / 1_000_000;
        let lost = self.draw() % 1000 < self.lost_per_thousand;
        if lost || datagram.len() > self.mtu || waiting > self.queue as u128 {
            return;
        }
        let micros = datagram.len() as u64 * 1_000_000 / self.octets_per_second;
        self.free_at = self.free_at.max(now).after(Duration::from_micros(micros));
        let jitter = self.jitter.as_micros() as u64;
        let jitter = Duration::from_micros(if jitter == 0 { 0 } else { self.draw() % jitter });
        self.count += 1;
        self.arrivals.insert((self.free_at.after(self.delay).after(jitter), self.count), (to, datagram));
    }
}

/// Pairs of machines over one path: sender and receiver by turns.
struct Network {
    now: Timestamp,
    path: Path,
    /// What goes back has the same delay, and no other limit.
    back: Path,
    ends: Vec<Recovery>,
    received: Vec<Frames>,
    longest: usize,
}

impl Network {
    fn new(path: Path, pairs: usize, lengths: &[usize]) -> Self {
        let now = Timestamp::from_micros(1_000_000);
        let back = Path { lost_per_thousand: path.lost_per_thousand, mtu: 9000, ..Path::new(1 << 30, path.delay) };
        let end = |index: usize| {
            let mut end = Recovery::new(now, BASE, lengths, u32::MAX - 5 * index as u32);
            end.set_proved();
            end
        };
        let ends: Vec<_> = (0..2 * pairs).map(end).collect();
        let received = (0..2 * pairs).map(|_| Frames::new()).collect();
        Self { now, path, back, ends, received, longest: 0 }
    }

    fn transmit(&mut self) {
        for index in 0..self.ends.len() {
            let mut datagram = Vec::new();
            while self.ends[index].poll_transmit(self.now, &mut datagram) {
                self.longest = self.longest.max(datagram.len());
                let datagram = core::mem::take(&mut datagram);
                let path = if index % 2 == 0 { &mut self.path } else { &mut self.back };
                path.send(self.now, index ^ 1, datagram);
            }
        }
    }

    /// Goes on to what comes next. `false`: nothing does, before `until`.
    fn step(&mut self, until: Timestamp) -> bool {
        self.transmit();
        let arrival = |path: &Path| path.arrivals.first_key_value().map(|((at, _), _)| *at);
        let timeouts = self.ends.iter().filter_map(Recovery::poll_timeout);
        let next = timeouts.chain(arrival(&self.path)).chain(arrival(&self.back)).min();
        let Some(next) = next.filter(|next| *next <= until) else { return false };
        self.now = self.now.max(next);
        for path in [&mut self.path, &mut self.back] {
            while let Some(entry) = path.arrivals.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (to, datagram) = entry.remove();
                self.ends[to].handle(self.now, &datagram, &mut self.received[to]);
            }
        }
        true
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.now.after(time);
        while self.step(until) {}
        self.now = until;
    }

    /// Has each sender take frames of `size` octets as fast as it can, for so long; returns the octets that have arrived.
    fn saturate(&mut self, size: usize, time: Duration) -> Vec<usize> {
        let until = self.now.after(time);
        loop {
            for end in self.ends.iter_mut().step_by(2) {
                while end.take(&alloc::vec![7; size.min(end.longest())]) {}
            }
            if !self.step(until) {
                break;
            }
        }
        self.received.iter_mut().skip(1).step_by(2).map(|frames| core::mem::take(frames).octets()).collect()
    }
}

fn numbered(number: u32, size: usize) -> Vec<u8> {
    number.to_be_bytes().into_iter().chain((4..size).map(|at| at as u8)).collect()
}

#[test]
fn what_is_lost_is_sent_again() {
    for lost_per_thousand in [0, 50, 200, 400] {
        let mut path = Path::new(1_000_000, Duration::from_millis(20));
        (path.lost_per_thousand, path.jitter) = (lost_per_thousand, Duration::from_millis(5));
        let mut network = Network::new(path, 1, &[]);
        let sizes = |number: u32| 4 + (number as usize * 37) % (network_longest() - 3);
        let mut sent = 0;
        while sent < 2000 {
            let frame = numbered(sent, sizes(sent));
            if network.ends[0].take(&frame) {
                sent += 1;
            } else {
                let until = network.now.after(Duration::from_secs(60));
                assert!(network.step(until), "stuck");
            }
        }
        network.run_for(Duration::from_secs(120));
        let came: BTreeSet<Vec<u8>> = (0..network.received[1].len())
            .filter_map(|index| network.received[1].get(index))
            .map(<[u8]>::to_vec)
            .collect();
        let expected =
            (0..sent).map(|number| numbered(number, sizes(number))).filter(|frame| !came.contains(frame)).count();
        let given_up = network.ends[0].counts().given_up;
        // A packet that was given up has some frames in it.
        assert!(expected == 0 || given_up > 0, "{lost_per_thousand}: {expected} missing, nothing given up");
        assert!(expected * 100 < 2000 || lost_per_thousand > 200, "{lost_per_thousand}: {expected} missing");
        assert!(network.ends[0].is_settled() && network.ends[0].poll_timeout().is_none());
    }
}

const fn network_longest() -> usize {
    BASE - OVERHEAD
}

#[test]
fn a_path_is_filled_and_not_flooded() {
    // 2 MB/s and 20 ms each way: 80 KB under way, a queue of 64 KiB behind.
    let mut network = Network::new(Path::new(2_000_000, Duration::from_millis(20)), 1, &[]);
    network.saturate(1000, Duration::from_secs(5));
    let octets = network.saturate(1000, Duration::from_secs(10))[0];
    assert!(octets > 16_000_000, "a path that carries 20 MB carried {octets}");
    let lost = network.ends[0].counts().lost;
    assert!(lost * 1000 < 30_000_000 / 20, "{lost} of some 30,000 packets were lost to the queue");
}

#[test]
fn two_flows_share_a_path() {
    let mut network = Network::new(Path::new(2_000_000, Duration::from_millis(20)), 2, &[]);
    // One is there first.
    let second = network.ends[2].congestion.window();
    network.saturate(1000, Duration::from_secs(10));
    let octets = network.saturate(1000, Duration::from_secs(30));
    let (less, more) = (octets[0].min(octets[1]), octets[0].max(octets[1]));
    assert!(less * 2 > more && less + more > 45_000_000, "{octets:?}, beginning with {second}");
}

#[test]
fn the_longest_packet_is_found_and_given_up_again() {
    let lengths = [1372, 1452, 8952];
    let mut network = Network::new(Path::new(2_000_000, Duration::from_millis(5)), 1, &lengths);
    network.saturate(300, Duration::from_secs(2));
    assert_eq!(network.ends[0].longest() + OVERHEAD, 1452);
    assert_eq!(network.longest, 8952, "a longer one was tried");
    // The path changes to one that carries less: what is under way is cut anew, and everything arrives.
    network.path.mtu = 1280;
    let mut sent = 0;
    while sent < 1000 {
        let frame = numbered(sent, 700);
        if network.ends[0].take(&frame) {
            sent += 1;
        } else {
            let until = network.now.after(Duration::from_secs(60));
            assert!(network.step(until), "stuck");
        }
    }
    network.run_for(Duration::from_secs(60));
    assert_eq!(network.ends[0].longest() + OVERHEAD, BASE);
    let came: BTreeSet<u32> = (0..network.received[1].len())
        .filter_map(|index| network.received[1].get(index)?.first_chunk().copied())
        .map(u32::from_be_bytes)
        .collect();
    assert_eq!((0..sent).filter(|number| !came.contains(number)).count(), 0);
    // After a while it is tried again.
    network.path.mtu = 1500;
    network.run_for(RAISE);
    network.saturate(300, Duration::from_secs(3));
    assert_eq!(network.ends[0].longest() + OVERHEAD, 1452);
}

/// A path that takes long packets no more, and says nothing: short ones go on getting through, so that nothing is silent.
#[test]
fn long_packets_that_vanish_among_short_ones_are_given_up() {
    let mut network = Network::new(Path::new(2_000_000, Duration::from_millis(5)), 1, &[1372, 1452]);
    network.saturate(300, Duration::from_secs(2));
    assert_eq!(network.ends[0].longest() + OVERHEAD, 1452);
    network.run_for(Duration::from_secs(2));
    network.path.mtu = 1300;
    network.received[1] = Frames::new();
    for number in 0..100 {
        // Each in a packet of its own.
        assert!(network.ends[0].take(&numbered(number, 50)));
        network.run_for(Duration::from_millis(50));
        if number % 5 == 0 {
            let longest = network.ends[0].longest();
            assert!(network.ends[0].take(&numbered(1000 + number, longest)));
        }
        network.run_for(Duration::from_millis(50));
    }
    assert_eq!(network.ends[0].longest() + OVERHEAD, BASE);
    network.run_for(Duration::from_secs(20));
    let came = (0..network.received[1].len()).filter_map(|index| network.received[1].get(index));
    let (mut short, mut long) = (0, 0);
    for frame in came {
        match frame.len() {
            50 => short += 1,
            _ => long += 1,
        }
    }
    assert!(short == 100 && long >= 18, "{short} short ones and {long} long ones or their fragments");
}

#[test]
fn a_stranger_gets_no_answer_and_a_spoofer_disturbs_nothing() {
    let now = Timestamp::from_micros(0);
    let mut quiet = Recovery::new(now, BASE, &[1452], 5);
    let mut frames = Frames::new();
    for number in 0..100_u32 {
        let packet = [&[PACKET][..], &number.to_be_bytes(), &[0, 1, 9]].concat();
        quiet.handle(now, &packet, &mut frames);
    }
    assert_eq!((frames.len(), quiet.poll_timeout()), (100, None));
    assert!(!quiet.poll_transmit(now.after(Duration::from_secs(9)), &mut Vec::new()));

    // Packets and acknowledgements with numbers that are guessed, one for each of the sender's.
    let mut network = Network::new(Path::new(1_000_000, Duration::from_millis(10)), 1, &[]);
    network.saturate(1000, Duration::from_secs(1));
    let mut octets = 0;
    for guess in 0..2000_u32 {
        let number = guess.wrapping_mul(2_654_435_761).to_be_bytes();
        let is_near = |own: u64| u64::from(u32::from_be_bytes(number)).abs_diff(own & 0xffff_ffff) < NEAR;
        if is_near(network.ends[0].next_number) || is_near(network.ends[1].next_number) {
            continue;
        }
        for end in 0..2 {
            let packet = [&[PACKET][..], &number, &[0, 0]].concat();
            let acknowledgement = [&[ACKNOWLEDGEMENT][..], &number, &[0, 0, 0xff, 0xff]].concat();
            let now = network.now;
            network.ends[end].handle(now, &packet, &mut Frames::new());
            network.ends[end].handle(now, &acknowledgement, &mut Frames::new());
        }
        octets += network.saturate(1000, Duration::from_millis(5))[0];
    }
    assert!(octets > 7_000_000, "10 s carried {octets}");
}

/// Who is first after a silence, and goes on from there, has the genuine packets look far away: they are acknowledged all the same.
#[test]
fn a_count_that_was_guessed_first_does_not_stop_the_genuine_one() {
    let mut network = Network::new(Path::new(1_000_000, Duration::from_millis(10)), 1, &[]);
    network.saturate(1000, Duration::from_secs(1));
    network.run_for(Duration::from_secs(20));
    let spoofed = received::truncate(network.ends[0].next_number).wrapping_add(1 << 30);
    let mut octets = 0;
    for guess in 0..100 {
        let packet = [&[PACKET][..], &spoofed.wrapping_add(guess).to_be_bytes(), &[0, 0]].concat();
        let now = network.now;
        network.ends[1].handle(now, &packet, &mut Frames::new());
        octets += network.saturate(1000, Duration::from_millis(100))[0];
    }
    assert!(octets > 7_000_000, "10 s carried {octets}");
}

/// A short outage ends with an acknowledgement; a long one is told, although nothing else is asked meanwhile.
#[test]
fn an_outage_is_told_by_its_length() {
    let mut network = Network::new(Path::new(1_000_000, Duration::from_millis(1)), 1, &[]);
    network.saturate(1000, Duration::from_secs(1));
    network.run_for(Duration::from_secs(5));
    assert!(network.ends[0].is_settled());
    let mtu = core::mem::replace(&mut network.path.mtu, 0);
    let now = network.now;
    assert!(network.ends[0].take(&[1; 100]));
    network.run_for(Duration::from_secs(5));
    assert!(network.ends[0].silent_since().is_some_and(|since| since > now));
    network.path.mtu = mtu;
    network.run_for(Duration::from_secs(10));
    assert!(network.ends[0].is_settled());
    assert_eq!((network.ends[0].counts().given_up, network.ends[0].silent_since()), (0, None));
    network.path.mtu = 0;
    assert!(network.ends[0].take(&[2; 100]));
    network.run_for(Duration::from_secs(15));
    let silence = network.ends[0].silent_since().map(|since| network.now.since(since));
    assert!(silence.is_some_and(|silence| silence > Duration::from_secs(10)), "{silence:?}");
}

#[test]
fn a_peer_that_has_begun_anew_is_acknowledged_after_a_silence() {
    let mut network = Network::new(Path::new(1_000_000, Duration::from_millis(10)), 1, &[]);
    network.saturate(1000, Duration::from_secs(1));
    let now = network.now;
    network.ends[0] = Recovery::new(now, BASE, &[], 1 << 20);
    network.ends[0].set_proved();
    network.saturate(1000, SILENCE * 24);
    let octets = network.saturate(1000, Duration::from_secs(5))[0];
    assert!(octets > 3_000_000, "{octets}");
}

#[test]
fn any_octets_are_taken_or_dropped() {
    let now = Timestamp::from_micros(0);
    let mut chance = Path::new(1, Duration::ZERO);
    let mut end = Recovery::new(now, BASE, &[1452], u32::MAX);
    end.set_proved();
    for round in 0..20_000_u64 {
        let now = now.after(Duration::from_millis(round));
        let mut datagram: Vec<u8> = (0..chance.draw() % 40).map(|_| chance.draw() as u8).collect();
        datagram.first_mut().into_iter().for_each(|kind| *kind = 2 + *kind % 2);
        // Near what is under way, so that it is not only refused.
        let near = received::truncate(end.next_number.wrapping_sub(chance.draw() % 20)).to_be_bytes();
        datagram.get_mut(1..5).into_iter().for_each(|place| place.copy_from_slice(&near));
        end.take(&datagram);
        end.handle(now, &datagram, &mut Frames::new());
        end.poll_transmit(now, &mut Vec::new());
    }
}
