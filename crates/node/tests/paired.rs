//! Peers of the constrained profile: nodes that speak over frames of 51 octets, some of which are lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod machines;

use std::time::Duration;

use sealway_channel::{PairingKeys, PostQuantum, Profile, Role};
use sealway_link::{Faults, Faulty, FrameLink};
use sealway_node::{Channel, Node, NodeError, PairedPeer, Receipt, Rhythm};
use sealway_testkit::radio::radio;
use sealway_vault::{CryptoProvider, Secret, Vault};

use machines::{Machine, numbers, receive, switch::Switch};

/// The longest frame of LoRaWAN at its slowest rate.
const MTU: usize = 51;

/// Two machines with what they have in common, and a radio between them.
struct Scene {
    machines: [Machine; 2],
    psk: Secret<32>,
    recovery: Secret<32>,
    faults: Faults,
    seed: u64,
    rhythm: Option<Rhythm>,
}

impl Scene {
    fn new(faults: Faults, seed: u64) -> Self {
        Self::of([Machine::new(), Machine::new()], faults, seed)
    }

    fn of(machines: [Machine; 2], faults: Faults, seed: u64) -> Self {
        let provider = machines[0].vault.provider();
        let (psk, recovery) = (provider.random_secret().unwrap(), provider.random_secret().unwrap());
        Self { machines, psk, recovery, faults, seed, rhythm: None }
    }

    fn keys(&self, side: usize) -> PairingKeys {
        let role = [Role::Initiator, Role::Responder][side];
        self.machines[side].pairing(&self.machines[1 - side], role, [&self.psk, &self.recovery])
    }

    fn links(&mut self) -> [Box<dyn FrameLink>; 2] {
        self.seed += 2;
        let mut seed = self.seed;
        radio(MTU).map(|link| -> Box<dyn FrameLink> {
            seed += 1;
            Box::new(Faulty::new(link, self.faults, seed))
        })
    }

    fn peer(&self, side: usize, link: Box<dyn FrameLink>) -> PairedPeer {
        let peer = PairedPeer::new(self.keys(side), link);
        match self.rhythm {
            Some(rhythm) => peer.with_rhythm(rhythm),
            None => peer,
        }
    }

    async fn node(&self, side: usize) -> Node {
        self.machines[side].builder().start().await.unwrap()
    }

    async fn start(&mut self) -> ([Node; 2], [Channel; 2]) {
        let nodes = [self.node(0).await, self.node(1).await];
        let [left, right] = self.links();
        let channels =
            [nodes[0].pair(self.peer(0, left)).await.unwrap(), nodes[1].pair(self.peer(1, right)).await.unwrap()];
        (nodes, channels)
    }
}

async fn send_all(channel: &Channel, bodies: &[Vec<u8>]) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for body in bodies {
        receipts.push(channel.send(body.clone()).await.unwrap());
    }
    receipts
}

/// `count` messages each way, in order and once.
async fn exchange(channels: &mut [Channel; 2], count: u32) {
    let bodies = numbers(count);
    for channel in &*channels {
        send_all(channel, &bodies).await;
    }
    for channel in &mut *channels {
        assert_eq!(receive(channel, bodies.len()).await, bodies);
    }
    let [left, right] = channels;
    left.flushed().await.unwrap();
    right.flushed().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_cross_frames_of_51_octets_both_ways() {
    let (nodes, mut channels) = Scene::new(Faults::default(), 1).start().await;
    exchange(&mut channels, 100).await;
    let context = channels[1].opened().await.unwrap();
    assert_eq!((context.profile, context.post_quantum), (Profile::C1, PostQuantum::PskChain));
    assert!(!context.recovered && !context.unclocked);
    // Parts of 20 octets, at most 63.
    let limit = channels[0].max_message();
    let longest: Vec<u8> = (0..limit).map(|at| u8::try_from(at % 251).unwrap()).collect();
    send_all(&channels[0], &[longest.clone(), Vec::new()]).await;
    assert_eq!(receive(&mut channels[1], 2).await, [longest, Vec::new()]);
    let got = limit + 1;
    let refused = channels[0].send(vec![0; got]).await;
    assert!(
        matches!(refused, Err(NodeError::TooLong { limit: told, got: told_got }) if told == limit && told_got == got)
    );
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_doubled_overtaken_and_damaged_is_made_good() {
    let (nodes, mut channels) = Scene::new(Faults::all(50), 2).start().await;
    exchange(&mut channels, 300).await;
    for node in nodes {
        assert!(node.statistics().await.unwrap().forged_frames > 0);
        node.shutdown().await;
    }
}

/// What the sensor of the longest test sends.
struct Upload {
    file: Vec<u8>,
    next: usize,
    readings: u32,
}

impl Upload {
    const PIECE: usize = 1152;

    /// The next pieces of the file, a reading behind every second of them, and their receipts.
    async fn send(&mut self, channel: &Channel, pieces: usize) -> Vec<Receipt> {
        let mut receipts = Vec::new();
        for _ in 0..pieces {
            let Some(rest) = self.file.get(self.next..).filter(|rest| !rest.is_empty()) else { break };
            let piece = &rest[..rest.len().min(Self::PIECE)];
            let offset = u32::try_from(self.next).unwrap().to_be_bytes();
            receipts.push(channel.send([b"F", offset.as_slice(), piece].concat()).await.unwrap());
            self.next += piece.len();
            if (self.next / Self::PIECE).is_multiple_of(2) {
                self.readings += 1;
                receipts.push(channel.send([b"T", self.readings.to_be_bytes().as_slice()].concat()).await.unwrap());
            }
        }
        receipts
    }
}

/// What its peer has received.
#[derive(Default)]
struct Received {
    file: Vec<u8>,
    readings: u32,
}

impl Received {
    async fn take(&mut self, channel: &mut Channel, count: usize) {
        for body in receive(channel, count).await {
            let (number, rest) = body[1..].split_first_chunk().unwrap();
            let number = u32::from_be_bytes(*number);
            if body[0] == b'F' {
                assert_eq!(usize::try_from(number).unwrap(), self.file.len(), "in order and once");
                self.file.extend_from_slice(rest);
            } else {
                self.readings += 1;
                assert_eq!(number, self.readings, "in order and once");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mebibyte_crosses_and_goes_on_after_reboots_while_telemetry_passes() {
    const UNDER_WAY: usize = 32;
    let octet = |at: u32| at.wrapping_mul(2_654_435_761).to_be_bytes()[0];
    let mut upload = Upload { file: (0..1024 * 1024).map(octet).collect(), next: 0, readings: 0 };
    let mut received = Received::default();
    let mut scene = Scene::new(Faults::loss(100), 3);
    let (mut nodes, mut channels) = scene.start().await;
    for round in 0.. {
        let receipts = upload.send(&channels[0], UNDER_WAY).await;
        if receipts.is_empty() {
            break;
        }
        // Twice in the midst of it both sides reboot, with frames under way.
        if matches!(round, 8 | 16) {
            received.take(&mut channels[1], 3).await;
            for node in nodes {
                node.shutdown().await;
            }
            (nodes, channels) = scene.start().await;
            received.take(&mut channels[1], receipts.len() - 3).await;
            channels[0].flushed().await.unwrap();
            continue;
        }
        received.take(&mut channels[1], receipts.len()).await;
        // A reading waits for no more than what was sent shortly before it.
        for receipt in receipts {
            receipt.delivered().await.unwrap();
        }
    }
    assert_eq!((received.file == upload.file, received.readings), (true, upload.readings));
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reboot_of_either_side_costs_no_message_and_at_most_a_handshake() {
    let mut scene = Scene::new(Faults::loss(100), 4);
    let (nodes, mut channels) = scene.start().await;
    exchange(&mut channels, 10).await;
    let [device, server] = nodes;
    // Each side alone, with messages under way to it.
    let under_way = send_all(&channels[1], &numbers(5)).await;
    device.shutdown().await;
    let device = scene.node(0).await;
    let [left, right] = scene.links();
    server.relink(scene.machines[0].owner.id(), right).await.unwrap();
    let mut to_server = device.pair(scene.peer(0, left)).await.unwrap();
    let received = receive(&mut to_server, 5).await;
    assert_eq!(received, numbers(5));
    for receipt in under_way {
        receipt.delivered().await.unwrap();
    }
    send_all(&to_server, &numbers(5)).await;
    server.shutdown().await;
    let server = scene.node(1).await;
    let [left, right] = scene.links();
    device.relink(scene.machines[1].owner.id(), left).await.unwrap();
    let mut to_device = server.pair(scene.peer(1, right)).await.unwrap();
    // What the first node was told before its end may have been committed by the server; the rest comes now.
    let first = receive(&mut to_device, 1).await.remove(0);
    let first = u32::from_be_bytes(first.try_into().unwrap());
    receive(&mut to_device, 4 - usize::try_from(first).unwrap()).await;
    exchange(&mut [to_server, to_device], 10).await;
    assert!(device.statistics().await.unwrap().sessions <= 1 && server.statistics().await.unwrap().sessions <= 1);
    device.shutdown().await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_sleeps_gets_what_was_held_for_it() {
    let mut scene = Scene::new(Faults::loss(50), 5);
    scene.rhythm = Some(Rhythm { awake: Duration::from_millis(300), every: Duration::from_millis(900) });
    let (nodes, mut channels) = scene.start().await;
    exchange(&mut channels, 20).await;
    // The device has nothing to say, and asks by waking.
    send_all(&channels[1], &numbers(3)).await;
    assert_eq!(receive(&mut channels[0], 3).await, numbers(3));
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_has_lost_its_state_is_let_in_by_the_operator_alone() {
    let mut scene = Scene::new(Faults::default(), 6);
    // It tries once each time that it wakes; after eight times it calls for recovery too.
    scene.rhythm = Some(Rhythm { awake: Duration::from_millis(200), every: Duration::from_millis(250) });
    let (nodes, mut channels) = scene.start().await;
    exchange(&mut channels, 3).await;
    let [device, server] = nodes;
    device.shutdown().await;
    scene.machines[0].disk = machines::Disk::default();
    let device = scene.node(0).await;
    let [left, right] = scene.links();
    let id = scene.machines[0].owner.id();
    server.relink(id, right).await.unwrap();
    let mut to_server = device.pair(scene.peer(0, left)).await.unwrap();
    server.open_recovery(id, Duration::from_secs(3600)).await.unwrap();
    assert!(to_server.opened().await.unwrap().recovered);
    let [_, to_device] = channels;
    let mut channels = [to_server, to_device];
    exchange(&mut channels, 3).await;
    assert!(channels[1].opened().await.unwrap().recovered);
    device.shutdown().await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_crosses_small_frames() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (nodes, channels) = Scene::new(Faults::loss(20), 7).start().await;
    let [mut writer, mut reader] = channels.map(Channel::into_stream);
    let octets: Vec<u8> = (0..20_000_u32).map(|at| at.to_be_bytes()[3]).collect();
    let write = async {
        writer.write_all(&octets).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut read = Vec::new();
    let (_, all) = tokio::join!(write, reader.read_to_end(&mut read));
    assert_eq!((all.unwrap(), read), (octets.len(), octets.clone()));
    drop((writer, reader));
    for node in nodes {
        node.shutdown().await;
    }
}

/// When as many are unanswered as may be, the peer is asked for a sign of life, by either side, until it gives one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_go_on_after_a_time_in_which_none_arrived() {
    for side in [0, 1] {
        let mut scene = Scene::new(Faults::default(), 80);
        let nodes = [scene.node(0).await, scene.node(1).await];
        let switch = Switch::default();
        let [left, right] = scene.links().map(|link| switch.over(link));
        let mut channels =
            [nodes[0].pair(scene.peer(0, left)).await.unwrap(), nodes[1].pair(scene.peer(1, right)).await.unwrap()];
        exchange(&mut channels, 1).await;
        let (from, mut to) = (channels[side].datagrams(), channels[1 - side].datagrams());
        switch.cut(true);
        while !matches!(from.send(b"lost").await, Err(NodeError::NotOpen)) {
            tokio::task::yield_now().await;
        }
        switch.cut(false);
        let arrives = async { while to.recv().await != Some(b"back".as_slice()) {} };
        let mut turns = tokio::time::interval(Duration::from_millis(20));
        tokio::pin!(arrives);
        loop {
            tokio::select! {
                () = &mut arrives => break,
                _ = turns.tick() => {
                    let _ = from.try_send(b"back");
                }
            }
        }
    }
}

/// Many more than may be unanswered, so that they are acknowledged; each is one frame.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_cross_small_frames_both_ways() {
    let (nodes, mut channels) = Scene::new(Faults::default(), 60).start().await;
    exchange(&mut channels, 1).await;
    let [device, server] = &channels;
    let (from, mut to) = (device.datagrams(), server.datagrams());
    // A frame less header, type and tag.
    assert_eq!(from.max_len(), MTU - 18);
    let got = from.send(&[0; MTU - 17]).await;
    assert!(matches!(got, Err(NodeError::TooLong { limit: 33, got: 34 })), "{got:?}");
    for number in 0..300_u32 {
        let datagram = [&number.to_be_bytes(), [7; MTU - 22].as_slice()].concat();
        from.send(&datagram).await.unwrap();
        assert_eq!(to.recv().await, Some(datagram.as_slice()));
    }
    to.send(b"enough").await.unwrap();
    let mut from = from;
    assert_eq!(from.recv().await, Some(b"enough".as_slice()));
    assert_eq!(nodes[0].statistics().await.unwrap().dropped_datagrams, 0);
    exchange(&mut channels, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_paired_is_an_error_that_says_why() {
    let mut scene = Scene::new(Faults::default(), 8);
    let [left, right] = scene.links();
    let without = scene.machines[0].builder_without_a_store().start().await.unwrap();
    assert!(matches!(without.pair(scene.peer(0, left)).await, Err(NodeError::NoStore)));
    let device = scene.node(0).await;
    assert!(matches!(device.pair(scene.peer(1, right)).await, Err(NodeError::OtherIdentity)));
    let [short, _] = radio(50);
    let refused = device.pair(scene.peer(0, short)).await;
    assert!(matches!(refused, Err(NodeError::Mtu { needed: 51, got: 50 })), "{refused:?}");
    let peer = scene.machines[1].owner.id();
    let [link, _] = radio(MTU);
    assert!(matches!(device.relink(peer, link).await, Err(NodeError::NotPaired)));
    assert!(matches!(device.open_recovery(peer, Duration::ZERO).await, Err(NodeError::NotPaired)));
    let [left, right] = scene.links();
    let channel = device.pair(scene.peer(0, left)).await.unwrap();
    assert!(matches!(device.pair(scene.peer(0, right)).await, Err(NodeError::InUse)));
    drop(channel);
    // The handle is gone: another may be had, over another link.
    let [left, _] = scene.links();
    let channel = device.pair(scene.peer(0, left)).await.unwrap();
    assert!(matches!(device.open_recovery(peer, Duration::ZERO).await, Err(NodeError::WrongSide)));
    // What waits was cut for longer frames.
    let [long, _other_end] = radio(222);
    device.relink(peer, long).await.unwrap();
    channel.send(vec![1; 120]).await.unwrap();
    let [left, _] = scene.links();
    let refused = device.relink(peer, left).await;
    assert!(matches!(refused, Err(NodeError::Mtu { needed: 150, got: MTU })), "{refused:?}");
    device.shutdown().await;
    without.shutdown().await;
}

#[tokio::test]
async fn both_sides_get_other_channel_keys_and_the_psk_fresh_octets() {
    let (left, left_next) = Machine::that_will_rotate();
    let (right, right_next) = Machine::that_will_rotate();
    let mut scene = Scene::of([left, right], Faults::all(50), 70);
    let (nodes, mut channels) = scene.start().await;
    exchange(&mut channels, 3).await;
    let ids = [0, 1].map(|side: usize| scene.machines[side].owner.id());
    assert_eq!(nodes[0].earlier_key(ids[1]).await.unwrap(), None);
    assert!(matches!(nodes[0].reseed(ids[1]).await, Err(NodeError::WrongSide)));
    assert!(nodes[1].reseed(ids[0]).await.unwrap());
    for node in nodes {
        node.shutdown().await;
    }
    // Both identities rotate while the machines are off.
    let before = [0, 1].map(|side: usize| scene.machines[side].owner.channel_key());
    let keys = [0, 1].map(|side| scene.keys(side));
    (scene.machines[0].owner, scene.machines[1].owner) = (left_next, right_next);
    let keys_now = [0, 1].map(|side: usize| PairingKeys {
        channel_key: scene.machines[side].owner.channel_key(),
        earlier_key: Some(before[side]),
        ..keys[side].clone()
    });
    let nodes = [scene.node(0).await, scene.node(1).await];
    let links = scene.links();
    let mut channels = Vec::new();
    for ((node, keys), link) in nodes.iter().zip(keys_now.clone()).zip(links) {
        channels.push(node.pair(PairedPeer::new(keys, link)).await.unwrap());
        if channels.len() == 1 {
            assert!(node.earlier_key(ids[1]).await.unwrap().is_some(), "there is nobody to make a handshake with yet");
        }
    }
    let mut channels: [Channel; 2] = channels.try_into().unwrap_or_else(|_| panic!("two"));
    // Each is told of the other's, and the handshake with it follows by itself, while they talk.
    while nodes[0].earlier_key(ids[1]).await.unwrap().is_some() || nodes[1].earlier_key(ids[0]).await.unwrap().is_some()
    {
        exchange(&mut channels, 1).await;
    }
    assert_eq!(nodes[1].statistics().await.unwrap().suspected_clones, 0);
    drop(channels);
    for node in nodes {
        node.shutdown().await;
    }
}

/// Counters are reserved there; a restart waits for the write that reserves more, and begins nothing anew.
#[tokio::test]
async fn nodes_go_on_under_their_session_where_the_store_has_no_copies() {
    let mut scene = Scene::new(Faults::default(), 90);
    let (mut handshakes, mut sent) = (0, 0);
    for _ in 0..4 {
        let mut nodes = Vec::new();
        for machine in &scene.machines {
            nodes.push(machine.builder().store_has_no_copies().start().await.unwrap());
        }
        let [left, right] = scene.links();
        let mut channels =
            [nodes[0].pair(scene.peer(0, left)).await.unwrap(), nodes[1].pair(scene.peer(1, right)).await.unwrap()];
        exchange(&mut channels, 2).await;
        sent += 2;
        handshakes += nodes[1].statistics().await.unwrap().sessions;
        drop(channels);
        for node in nodes {
            node.shutdown().await;
        }
    }
    assert_eq!((handshakes, sent), (1, 8));
}

/// A reading goes with the call of a device, and a setting with the answer: each once, and each says how far it can be trusted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn something_goes_with_a_handshake_and_its_answer() {
    let scene = Scene::new(Faults::default(), 70);
    let nodes = [scene.node(0).await, scene.node(1).await];
    let [left, right] = radio(222);
    let service = nodes[1].pair(scene.peer(1, right).with_payload(b"each 10 min".to_vec())).await.unwrap();
    let device = nodes[0].pair(scene.peer(0, left).with_payload(b"12.5 degrees".to_vec())).await.unwrap();
    let (mut calls, mut answers) = (service.handshake_payloads(), device.handshake_payloads());
    let reading = calls.recv().await.unwrap();
    assert_eq!((reading.octets(), reading.is_early()), (b"12.5 degrees".as_slice(), true));
    let setting = answers.recv().await.unwrap();
    assert_eq!((setting.octets(), setting.is_early()), (b"each 10 min".as_slice(), false));
    let mut channels = [device, service];
    exchange(&mut channels, 5).await;
    // What frames of 222 octets leave beside 51.
    let refused = calls.set(&[0; 172]).await;
    assert!(matches!(refused, Err(NodeError::TooLong { limit: 171, got: 172 })), "{refused:?}");
    calls.set(&[0; 171]).await.unwrap();
    // A link whose frames do not take it is refused, and the other goes on.
    let [_, short] = radio(MTU);
    let refused = nodes[1].relink(scene.machines[0].owner.id(), short).await;
    assert!(matches!(refused, Err(NodeError::Mtu { needed: 222, got: 51 })), "{refused:?}");
    exchange(&mut channels, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_under_way_is_not_left_behind_by_a_link_with_shorter_frames() {
    let scene = Scene::new(Faults::default(), 80);
    let node = scene.node(0).await;
    let [long, _silence] = radio(222);
    let [short, _] = radio(MTU);
    let refused = node.pair(scene.peer(0, short).with_payload(vec![7])).await;
    assert!(matches!(refused, Err(NodeError::TooLong { limit: 0, got: 1 })), "{refused:?}");
    let device = node.pair(scene.peer(0, long).with_payload(b"12.5".to_vec())).await.unwrap();
    // The call is written down with what goes with it.
    let peer = scene.machines[1].owner.id();
    let [short, _] = radio(MTU);
    let refused = node.relink(peer, short).await;
    assert!(matches!(refused, Err(NodeError::Mtu { needed: 55, got: MTU })), "{refused:?}");
    drop(device);
    node.shutdown().await;
    let node = scene.node(0).await;
    let [short, _] = radio(MTU);
    let refused = node.pair(scene.peer(0, short)).await;
    assert!(matches!(refused, Err(NodeError::Mtu { needed: 55, got: MTU })), "{refused:?}");
}

#[tokio::test]
async fn payloads_are_for_paired_peers() {
    let (server, client) = (Machine::new(), Machine::new());
    let node = client.builder().start().await.unwrap();
    let card = server.card_at("tcp://127.0.0.1:1");
    let channel = node.open(&card, sealway_identity::Policy::only(&card)).await.unwrap();
    let mut payloads = channel.handshake_payloads();
    assert!(matches!(payloads.set(b"x").await, Err(NodeError::NotPaired)));
    node.shutdown().await;
    assert!(matches!(payloads.set(b"x").await, Err(NodeError::Closed)));
    assert_eq!(payloads.recv().await, None);
}
