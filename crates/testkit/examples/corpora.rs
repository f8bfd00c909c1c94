//! Writes what fuzzers begin with to `fuzz/corpus`: genuine octets of every kind, and schedules from seeds.
//!
//! `cargo run -p sealway-testkit --example corpora`, from the root of the workspace.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "it is run by hand")]

use std::{fs, path::Path, time::Duration};

use sealway_identity::{Mailbox, PayloadParts};
use sealway_testkit::{entropy::Seeded, network::Network, targets::ALL};
use sealway_vault::Entropy;
use sealway_wire::{
    BoxName, Hop, HopFrame, IdentityId, Instance, Lane, Route, VarInt,
    content::{Ack, CloseReason, Committed, Content, Ranges, Reliable, Start},
    hop::{Custody, Label, Registration, SenderList, Senders, Verdict},
};

fn main() {
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut network = Network::pair(1);
    network.open(0, 1);
    network.run(Duration::from_secs(2));
    network.send(0, 1, b"datagram");
    network.send_message(0, 1, Lane::Stored, 0, b"stored");
    network.restart(0);
    let restored = network.deposit(0, 1, 1, b"after a restart");
    let frames = network.log.iter().map(|(.., frame)| frame.clone()).chain([restored]);
    files.extend(frames.map(|frame| ("frame", frame)));
    files.extend(hop_frames().map(|frame| ("hop_frame", frame)));
    files.extend(contents().map(|content| ("content", content)));
    for text in ["tcp://127.0.0.1:1", "tcp://[2001:db8::1]:65535", "tcp://relay.example:7001"] {
        files.push(("address", text.into()));
    }
    let card = &network.machines[0].card;
    files.push(("card", card.as_bytes().to_vec()));
    files.push(("card", card.to_uri().into_bytes()));
    let mailbox = Mailbox { relay: IdentityId([1; 32]), name: BoxName([2; 16]) };
    for parts in [PayloadParts::default(), PayloadParts::with_mailbox(mailbox)] {
        files.push(("payload", network.machines[0].owner().payload(&parts).unwrap()));
    }
    // Another machine's: genuine in form.
    let other = Network::pair(2).machines.remove(0);
    assert!(other.disk.is_empty());
    files.extend(network.machines[1].disk.values().map(|state| ("saved_state", flipped(state))));
    for (name, _) in ALL {
        let octets = ["endpoint", "relay", "delivery", "frame_buffer"].contains(&name);
        for seed in 0..4 {
            let random = Seeded::new(seed);
            let mut schedule = vec![0; 200 + usize::try_from(random.below(400)).unwrap()];
            random.fill(&mut schedule).unwrap();
            files.extend(octets.then_some((name, schedule)));
        }
    }
    for (number, (name, octets)) in files.into_iter().enumerate() {
        let folder = Path::new("fuzz/corpus").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("genuine-{number:03}")), octets).unwrap();
    }
}

fn flipped(state: &[u8]) -> Vec<u8> {
    let mut state = state.to_vec();
    *state.last_mut().unwrap() ^= 1;
    state
}

fn hop_frames() -> impl Iterator<Item = Vec<u8>> {
    let ids = [[7; 32], [8; 32]];
    let (label, name) = (Label::new(70).unwrap(), BoxName([3; 16]));
    let route = Route::new(&[Hop::Relay(IdentityId([1; 32])), Hop::Box(name)]).unwrap();
    let number = VarInt::from_u32(70);
    let frames = [
        HopFrame::Forward { label, frame: b"frame" },
        HopFrame::Routed { back: label, route, frame: b"frame" },
        HopFrame::Assign { back: label, label },
        HopFrame::Unknown { label },
        HopFrame::Absent { back: label },
        HopFrame::Register { name, senders: Senders::Attached },
        HopFrame::Register { name, senders: Senders::Only(SenderList::new(&ids).unwrap()) },
        HopFrame::Registered { name, outcome: Registration::Open },
        HopFrame::Deposit { number, seconds: number, route: Route::to_box(name), frame: b"frame" },
        HopFrame::Custody { number, outcome: Custody::Kept { seconds: number } },
        HopFrame::Push { number, frame: b"frame" },
        HopFrame::Verdict { number, verdict: Verdict::Done },
    ];
    let encoded = frames.map(|frame| {
        let mut out = vec![0; 256];
        let len = frame.encode(&mut out).unwrap();
        out.truncate(len);
        out
    });
    encoded.into_iter()
}

fn contents() -> impl Iterator<Item = Vec<u8>> {
    let instance = Instance([1; 4]);
    let mut opened = Ranges::new(90, 100).unwrap();
    assert!(opened.push(10, 20));
    let committed = Committed { instance, mark: 70_000, bitmap: &[0, 1], held: &[] };
    let message = Reliable { instance: None, number: 5, lowest: 3, unwanted: 0, part: None, body: b"body" };
    let contents = [
        Content::Start(Start { instance, stored_before: VarInt::MAX, credentials: &[0, 2, 9, 9] }),
        Content::Data(b"datagram"),
        Content::Reliable(message),
        Content::Reliable(Reliable { instance: Some(instance), ..message }),
        Content::Reliable(Reliable { instance: Some(instance), unwanted: 1, part: None, ..message }),
        Content::Ack(Ack { opened: Some((Lane::Live, opened)), committed: Some(committed) }),
        Content::Ack(Ack { opened: None, committed: Some(committed) }),
        Content::Ping,
        Content::Close(CloseReason::Policy),
    ];
    let encoded = contents.map(|content| {
        let mut out = vec![0; 256];
        let len = content.encode(&mut out).unwrap();
        out.truncate(len);
        out
    });
    encoded.into_iter()
}
