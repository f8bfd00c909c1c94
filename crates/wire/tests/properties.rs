//! No octets panic a decoder, and what a decoder accepts re-encodes to itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
use core::fmt::Debug;

use proptest::prelude::*;
use sealway_wire::{
    Address, BoxName, Cid, Counter, CounterWidth, DecodeError, EncodeError, Frame, Hop, HopFrame, IdentityId,
    Incarnation, Instance, Lane, Reader, RecordHeader, Route, Truncated, VarInt, constrained,
    content::{Ack, CloseReason, Committed, Content, Part, Ranges, Reliable, Start},
    hop::{Custody, DiscardReason, Label, Registration, SenderList, Senders, Verdict},
    pairing::{Rotate, Seed},
};

/// Octets that often get past the first octets of a decoder: a kind, then anything.
fn octets(kinds: &'static [u8], max: usize) -> impl Strategy<Value = Vec<u8>> {
    let any_octets = proptest::collection::vec(any::<u8>(), 0..max);
    let small = proptest::collection::vec(0_u8..4, 0..max);
    (proptest::option::of(proptest::sample::select(kinds)), prop_oneof![any_octets, small]).prop_map(|(kind, rest)| {
        let mut octets: Vec<u8> = kind.into_iter().collect();
        octets.extend(rest);
        octets
    })
}

fn reencodes<T: Debug>(
    octets: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    encode: impl Fn(&T, &mut [u8]) -> Result<usize, EncodeError>,
) -> bool {
    let Ok(value) = decode(octets) else { return false };
    let mut out = vec![0; octets.len()];
    let len = encode(&value, &mut out).expect("what was decoded fits where it came from");
    assert_eq!(&out[..len], octets, "{value:?}");
    for short in 0..octets.len() {
        assert!(encode(&value, &mut out[..short]).is_err(), "{short} octets are too few for {value:?}");
    }
    true
}

proptest! {

    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn an_ack_that_is_shortened_gets_shorter_and_says_nothing_new(
        largest in 10_000..20_000_u64,
        gaps in prop::collection::vec((1..20_u64, 1..20_u64), 0..12),
        bitmap in prop::collection::vec(any::<u8>(), 0..100),
        held in prop::collection::vec(any::<u8>(), 0..100),
        mark in 0..1000_u32,
        has_opened in any::<bool>(),
    ) {
        let mut ranges = Ranges::new(largest, largest).unwrap();
        let mut low = largest;
        for (gap, len) in gaps {
            let high = low - gap - 1;
            low = high - len + 1;
            prop_assert!(ranges.push(low, high));
        }
        let trim = |octets: &[u8]| octets.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
        let (bitmap, held) = (&bitmap[..trim(&bitmap)], &held[..trim(&held)]);
        let committed = Committed { instance: Instance([7; 4]), mark, bitmap, held };
        let whole = Ack { opened: has_opened.then_some((Lane::Live, ranges)), committed: Some(committed) };
        let (mut ack, mut out, mut before) = (whole, [0; 600], usize::MAX);
        loop {
            let len = Content::Ack(ack).encode(&mut out).unwrap();
            prop_assert!(len < before);
            before = len;
            prop_assert_eq!(Content::decode(&out[..len]).unwrap(), Content::Ack(ack));
            let told = ack.committed.unwrap();
            for number in 0..mark + 900 {
                prop_assert!(!told.contains(number) || committed.contains(number));
                prop_assert!(!told.holds(number) || committed.holds(number));
            }
            if let Some((_, told)) = ack.opened {
                prop_assert!(told.as_slice().iter().all(|range| ranges.as_slice().contains(range)));
            }
            if !ack.shorten() {
                break;
            }
        }
        prop_assert_eq!(before, Content::Ack(ack).encode(&mut out).unwrap());
        prop_assert!(before <= 1 + 4 + 2 + 1 + 1);
    }

    #[test]
    fn short_frames(octets in octets(&[0x21, 0x22, 0xa0, 0xb2, 0xb4, 0xf8, 0xfe], 300)) {
        let Ok(frame) = constrained::Frame::decode(&octets) else { return Ok(()) };
        let mut out = vec![0; octets.len()];
        let len = frame.encode(&mut out).unwrap();
        prop_assert_eq!(&out[..len], &octets);
        for short in 0..octets.len() {
            prop_assert!(frame.encode(&mut out[..short]).is_err());
        }
    }

    #[test]
    fn hop_frames(octets in octets(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], 200)) {
        let Ok(frame) = HopFrame::decode(&octets) else { return Ok(()) };
        let mut out = vec![0; octets.len()];
        let len = frame.encode(&mut out).unwrap();
        prop_assert_eq!(&out[..len], &octets);
    }

    #[test]
    fn contents(octets in octets(&[0, 1, 2, 3], 64), kind in 0_u8..17) {
        let plaintext = [octets.as_slice(), &[kind]].concat();
        let Ok(content) = Content::decode(&plaintext) else { return Ok(()) };
        let mut out = vec![0; plaintext.len()];
        let len = content.encode(&mut out).unwrap();
        let unpadded = plaintext.len() - plaintext.iter().rev().take_while(|octet| **octet == 0).count();
        prop_assert_eq!(&out[..len], &plaintext[..unpadded]);
    }

    #[test]
    fn frames(octets in octets(&[0x11, 0x12, 0x13, 0x14, 0x94, 0x9c, 0xde], 2200)) {
        let Ok(frame) = Frame::decode(&octets) else { return Ok(()) };
        let mut out = vec![0; octets.len()];
        let len = frame.encode(&mut out).unwrap();
        prop_assert_eq!(&out[..len], &octets);
    }

    #[test]
    fn handshake_frames_have_exactly_their_lengths(kind in 0x11_u8..0x15, len in 0_usize..2100, fill: u8) {
        let mut octets = vec![fill; len.max(1)];
        octets[0] = kind;
        let accepted = Frame::decode(&octets).is_ok();
        let expected = match kind {
            0x11 => [1246, 1262].contains(&octets.len()),
            0x12 => octets.len() == 1145,
            0x13 => (77..=2048).contains(&octets.len()),
            _ => octets.len() == 25,
        };
        prop_assert_eq!(accepted, expected);
    }

    #[test]
    fn record_headers(octets in octets(&[0x84, 0x94, 0x98, 0x9c, 0xde, 0x80, 0xb4, 0x85], 24)) {
        reencodes(
            &octets,
            |octets| RecordHeader::decode(octets).map(|(header, rest)| (header, rest.to_vec())),
            |(header, rest), out| Frame::Data(*header, rest).encode(out),
        );
    }

    #[test]
    fn varints(number in 0..=VarInt::MAX.get()) {
        let number = VarInt::new(number).unwrap();
        let (octets, len) = number.encode();
        let mut reader = Reader::new(&octets[..len]);
        prop_assert_eq!(reader.varint("number").unwrap(), number);
        prop_assert_eq!(reader.remaining(), 0);
    }

    #[test]
    fn varints_have_one_form(octets in proptest::collection::vec(any::<u8>(), 0..9)) {
        // Specification: [M1].
        let mut reader = Reader::new(&octets);
        if let Ok(number) = reader.varint("number") {
            let (encoded, len) = number.encode();
            prop_assert_eq!(&encoded[..len], &octets[..octets.len() - reader.remaining()]);
        }
    }

    /// For every gap that the chosen width must cover, the receiver finds the counter that the sender meant.
    #[test]
    fn counters_survive_every_gap_that_their_width_covers(
        acknowledged in 0_u64..1 << 50,
        sent_since in 0_u64..1 << 26,
        receiver_at in 0_u64..1 << 26,
    ) {
        let counter = Counter::new(acknowledged + sent_since).unwrap();
        let width = CounterWidth::covering(counter, acknowledged).unwrap();
        // The receiver has opened something between what was acknowledged and the counter before this one.
        let expected = Counter::new(acknowledged + receiver_at.min(sent_since)).unwrap();
        prop_assert_eq!(Truncated::new(counter, width).expand(expected), Some(counter));
    }

    /// The same of the constrained profile, whose lanes end at 2^16.
    #[test]
    fn short_counters_survive_every_gap(acknowledged in 0_u64..1 << 16, sent_since in 0_u64..1 << 16, receiver_at in 0_u64..1 << 16) {
        let counter = Counter::new((acknowledged + sent_since).min(0xffff)).unwrap();
        let width = CounterWidth::covering_narrowly(counter, acknowledged).unwrap();
        let expected = Counter::new(acknowledged + receiver_at.min(counter.get() - acknowledged)).unwrap();
        prop_assert_eq!(Truncated::new(counter, width).expand(expected), Some(counter));
    }

    #[test]
    fn addresses(text in "((tcp|udp|ws|wss)://)?(\\[[0-9a-f:]{0,12}\\]|[a-z0-9.-]{0,20}|[0-9.]{7,15})(:[0-9]{0,6})?(/[a-z0-9/]{0,9})?") {
        if let Ok(address) = Address::parse(&text) {
            prop_assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn serial_addresses(text in "serial:[a-zA-Z0-9/]{0,9}(\\?baud=[0-9]{1,7}(&flow=(hardware|none))?(&mtu=[0-9]{1,6})?(&repeat=(on|off))?)?") {
        if let Ok(address) = Address::parse(&text) {
            prop_assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn any_text_is_an_address_or_an_error(text in ".{0,300}") {
        if let Ok(address) = Address::parse(&text) {
            prop_assert_eq!(address.to_string(), text);
        }
    }
}

#[test]
fn addresses_of_candidates_have_one_form_and_a_bound() {
    let record = |address: &[u8], count: usize| [&[1][..], &address.repeat(count), &[15]].concat();
    let four = [4, 192, 0, 2, 1, 0x1b, 0x59];
    let mut mapped = vec![6; 1];
    mapped.extend([0; 10]);
    mapped.extend([0xff, 0xff, 192, 0, 2, 1, 0x1b, 0x59]);
    assert!(Content::decode(&record(&four, 8)).is_ok());
    let refused = [
        record(&four, 9),
        record(&four[..6], 1),
        record(&[5, 192, 0, 2, 1, 0x1b, 0x59], 1),
        record(&[4, 192, 0, 2, 1, 0, 0], 1),
        record(&mapped, 1),
        [&[2][..], &four, &[15]].concat(),
    ];
    for plaintext in refused {
        assert!(Content::decode(&plaintext).is_err(), "{plaintext:?}");
    }
    let seen = |address: &[u8]| [&[0x0f][..], address].concat();
    assert!(HopFrame::decode(&seen(&four)).is_ok());
    assert!(HopFrame::decode(&seen(&mapped)).is_err());
    assert!(HopFrame::decode(&seen(&four.repeat(2))).is_err());
}

/// One of each, so that the properties above are known to reach the accepting paths.
#[test]
fn every_kind_round_trips() {
    let ids = [[7; 32], [8; 32]];
    let label = Label::new(70).unwrap();
    let route = Route::new(&[Hop::Relay(IdentityId([1; 32])), Hop::Box(BoxName([2; 16]))]).unwrap();
    let frames = [
        HopFrame::Forward { label, frame: b"frame" },
        HopFrame::Routed { back: label, route, frame: b"" },
        HopFrame::Assign { back: label, label: Label::MAX },
        HopFrame::Unknown { label },
        HopFrame::Absent { back: label },
        HopFrame::Register { name: BoxName([3; 16]), senders: Senders::Attached },
        HopFrame::Register { name: BoxName([3; 16]), senders: Senders::Only(SenderList::new(&ids).unwrap()) },
        HopFrame::Registered { name: BoxName([3; 16]), outcome: Registration::Taken },
        HopFrame::Deposit { number: VarInt::from_u32(70), seconds: VarInt::from_u32(0), route, frame: b"frame" },
        HopFrame::Custody { number: VarInt::MAX, outcome: Custody::Kept { seconds: VarInt::from_u32(1_209_600) } },
        HopFrame::Custody { number: VarInt::from_u32(0), outcome: Custody::Refused },
        HopFrame::Custody { number: VarInt::from_u32(0), outcome: Custody::Full },
        HopFrame::Push { number: VarInt::from_u32(1), frame: b"frame" },
        HopFrame::Verdict { number: VarInt::from_u32(1), verdict: Verdict::Done },
        HopFrame::Verdict { number: VarInt::from_u32(1), verdict: Verdict::Later },
        HopFrame::Verdict { number: VarInt::from_u32(1), verdict: Verdict::Unopened },
        HopFrame::Verdict { number: VarInt::from_u32(1), verdict: Verdict::Discard(DiscardReason::Misplaced) },
        HopFrame::Verdict { number: VarInt::from_u32(1), verdict: Verdict::Discard(DiscardReason::Other(7)) },
        HopFrame::Seen { address: "203.0.113.7:41000".parse().unwrap() },
        HopFrame::Seen { address: "[2001:db8::7]:41000".parse().unwrap() },
    ];
    for frame in frames {
        let mut out = [0; 256];
        let len = frame.encode(&mut out).unwrap();
        assert_eq!(HopFrame::decode(&out[..len]), Ok(frame));
    }
    let mut opened = Ranges::new(90, 100).unwrap();
    assert!(opened.push(80, 88) && opened.push(0, 0) && !opened.push(0, 0));
    let committed = Committed { instance: Instance([1; 4]), mark: 70_000, bitmap: &[0, 1], held: &[] };
    let contents = [
        Content::Start(Start {
            instance: Instance([1; 4]),
            stored_before: VarInt::from_u32(300),
            credentials: &[0, 2, 9, 9, 0, 0],
        }),
        Content::Data(b"beat"),
        Content::Reliable(Reliable { instance: None, number: 5, lowest: 3, unwanted: 0, part: None, body: b"\0\0" }),
        Content::Reliable(Reliable {
            instance: Some(Instance([4; 4])),
            number: 5,
            lowest: 3,
            unwanted: 2,
            part: None,
            body: b"x",
        }),
        Content::Reliable(Reliable {
            instance: Some(Instance([4; 4])),
            number: u32::MAX,
            lowest: 0,
            unwanted: 0,
            part: None,
            body: b"",
        }),
        Content::Reliable(Reliable {
            instance: Some(Instance([4; 4])),
            number: 9,
            lowest: 3,
            unwanted: 1,
            part: Some(Part { index: 2, count: 66 }),
            body: b"part",
        }),
        Content::Path([7; 8]),
        Content::PathReply([8; 8]),
        Content::Ack(Ack {
            opened: None,
            committed: Some(Committed { instance: Instance([1; 4]), mark: 3, bitmap: &[1], held: &[0, 255] }),
        }),
        Content::Ack(Ack { opened: Some((Lane::Live, opened)), committed: None }),
        Content::Ack(Ack { opened: Some((Lane::Stored, opened)), committed: Some(committed) }),
        Content::Ack(Ack { opened: None, committed: Some(committed) }),
        Content::Rotate(Rotate::part_of(&[9; 60], 1).unwrap()),
        Content::Rotate(Rotate::kept(&[6; 32])),
        Content::Seed(Seed(&[5; 32])),
        Content::Flight(&[0x12, 7, 0]),
        Content::Ping,
        Content::Close(CloseReason::Policy),
        Content::Close(CloseReason::Other(9)),
    ];
    for content in contents {
        let mut out = [0; 256];
        let len = content.encode(&mut out).unwrap();
        assert_eq!(Content::decode(&out[..len]), Ok(content));
        assert_eq!(Content::decode(&out[..len + 40]), Ok(content), "padding is stripped");
    }
    let headers = [
        RecordHeader::new(Lane::Live, false, Cid([1; 4]), Counter::MAX, CounterWidth::Two),
        RecordHeader::restored(Lane::Stored, Cid([1; 4]), Counter::default(), Incarnation([5; 8])),
    ];
    for header in headers {
        let mut out = [0; 32];
        let len = header.encode(&mut out).unwrap();
        assert_eq!(len, header.len());
        assert!(reencodes(
            &out[..len],
            |octets| RecordHeader::decode(octets).map(|(header, _)| header),
            |h, out| h.encode(out)
        ));
    }
}

#[test]
fn a_seed_is_not_printed() {
    assert_eq!(format!("{:?}", Content::Seed(Seed(&[7; 32]))), "Seed(Seed(..))");
}

#[test]
fn committed_numbers() {
    let committed = Committed { instance: Instance([0; 4]), mark: 10, bitmap: &[0b101], held: &[] };
    let numbers: Vec<u32> = (0..20).filter(|number| committed.contains(*number)).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13]);
}

#[test]
fn a_route_has_at_most_eight_hops_and_none_twice() {
    let hops: Vec<Hop> = (0..9).map(|number| Hop::Box(BoxName([number; 16]))).collect();
    assert!(Route::new(&hops[..8]).is_ok());
    assert!(Route::new(&hops).is_err());
    assert!(Route::new(&[hops[0], hops[1], hops[0]]).is_err());
}

/// The parts of an ACK that contradict each other, and types that there are not.
#[test]
fn contents_that_are_none() {
    // Specification: [M20], [M21], [M28].
    for flags in 0_u8..=255 {
        let refused = Content::decode(&[&[flags], [0; 9].as_slice(), &[1, 1, 5]].concat()).is_err();
        let is_known = flags & !0b1111 == 0;
        let held_alone = flags & 0b1010 == 0b1000;
        let nothing_at_all = flags & 0b110 == 0b100;
        let stored_without_records = flags & 0b101 == 0b101;
        assert!(refused || (is_known && !held_alone && !nothing_at_all && !stored_without_records), "{flags:#b}");
    }
    // Of type 13 this is the last part of two; what type 16 carries is for the next layer to say.
    for kind in (12..=255).chain([0]).filter(|kind| ![13, 16].contains(kind)) {
        assert!(Content::decode(&[1, 2, 3, kind]).is_err(), "type {kind}");
    }
}

#[test]
fn an_address_is_written_as_it_was_read() {
    for text in [
        "tcp://192.0.2.1:7001",
        "udp://[2001:db8::1]:7001",
        "ws://relay.example:80",
        "wss://relay.example:443/sealway/v1",
        "serial:COM3?baud=9600",
        "serial:/dev/serial/by-id/usb-1234?baud=921600&flow=hardware&mtu=250",
        "serial:/dev/ttyS0?baud=9600&mtu=250&repeat=on",
    ] {
        let address = Address::parse(text).unwrap();
        assert_eq!(address.to_string(), text);
        assert_eq!(address.is_public(), !text.starts_with("serial"));
    }
}
