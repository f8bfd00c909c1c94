//! Frames on lines of octets, and frames in fragments.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use proptest::prelude::*;
use sealway_link::{
    Frames,
    fragment::{Fragment, HEADER, LIFETIME, Reassembler},
    line::{LineDecoder, LineEncoder, SHORT},
};
use sealway_wire::Timestamp;

fn listed(frames: &Frames) -> Vec<Vec<u8>> {
    (0..frames.len()).map(|index| frames.get(index).unwrap().to_vec()).collect()
}

/// The octets of frames on a line, the first after a silence.
fn on_the_line(mtu: usize, frames: &[Vec<u8>]) -> Vec<u8> {
    let (mut encoder, mut line) = (LineEncoder::new(mtu), Vec::new());
    frames.iter().enumerate().for_each(|(index, frame)| assert!(encoder.encode(frame, index == 0, &mut line)));
    line
}

#[test]
fn a_line_is_as_specified() {
    // The CRCs are the check values of the catalogue of parametrised CRC algorithms for "123456789".
    let frame = b"123456789".to_vec();
    let line = on_the_line(SHORT, std::slice::from_ref(&frame));
    assert_eq!(line, [&[0, 12], &frame[..], &[0x90, 0x6e, 0]].concat());
    let line = on_the_line(SHORT + 1, std::slice::from_ref(&frame));
    assert_eq!(line, [&[0, 14], &frame[..], &[0xcb, 0xf4, 0x39, 0x26, 0]].concat());
}

#[test]
fn every_size_crosses_a_line_whatever_it_is_read_in() {
    for mtu in [1, SHORT, SHORT + 1, 2048] {
        let sizes: Vec<usize> = (1..=mtu.min(600)).chain([mtu]).collect();
        for fill in [0, 1, 0xff] {
            let frames: Vec<Vec<u8>> = sizes.iter().map(|size| vec![fill; *size]).collect();
            let line = on_the_line(mtu, &frames);
            for chunk in [1, 7, line.len()] {
                let (mut decoder, mut received) = (LineDecoder::new(mtu), Frames::new());
                line.chunks(chunk).for_each(|chunk| decoder.decode(chunk, &mut received));
                assert_eq!((listed(&received), decoder.dropped()), (frames.clone(), 0));
            }
        }
        let (mut encoder, mut line) = (LineEncoder::new(mtu), Vec::new());
        assert!(!encoder.encode(&vec![1; mtu + 1], true, &mut line) && !encoder.encode(&[], true, &mut line));
        assert!(line.is_empty());
    }
}

#[test]
fn a_line_without_end_is_not_kept() {
    let (mut decoder, mut received) = (LineDecoder::new(300), Frames::new());
    (0..1000).for_each(|_| decoder.decode(&[5; 1000], &mut received));
    assert!(format!("{decoder:?}").len() < 2000, "it keeps a frame at most");
    decoder.decode(&[0], &mut received);
    assert_eq!((received.len(), decoder.dropped()), (0, 1));
    decoder.decode(&on_the_line(300, &[vec![7; 9]]), &mut received);
    assert_eq!(listed(&received), [vec![7; 9]]);
}

proptest! {
    /// What noise does to one place costs the frames that it touches, and no other.
    #[test]
    fn a_line_is_in_step_again_at_the_next_frame(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 3..12),
        at in 0_usize..3000, kind in 0..3, noise in prop::collection::vec(any::<u8>(), 1..20),
    ) {
        let line = on_the_line(300, &frames);
        let at = at % line.len();
        let end = (at + noise.len()).min(line.len());
        let (kept, instead) = match kind {
            0 => (end, &noise[..]),   // altered
            1 => (end, &[][..]),      // lost
            _ => (at, &noise[..]),    // added
        };
        let damaged = [&line[..at], instead, &line[kept..]].concat();
        let (mut decoder, mut received) = (LineDecoder::new(300), Frames::new());
        decoder.decode(&damaged, &mut received);
        let received = listed(&received);
        // Which frames the noise has touched, by where they lie, with the zero before them.
        let mut start = 0;
        let mut untouched = Vec::new();
        for frame in &frames {
            let len = on_the_line(300, std::slice::from_ref(frame)).len() - 1;
            let (first, last) = (start, start + len);
            if last < at || first > end {
                untouched.push(frame.clone());
            }
            start = last;
        }
        let mut rest = received.iter();
        for frame in &untouched {
            prop_assert!(rest.any(|found| found == frame));
        }
        // Nothing comes that was not sent: 16 and 32 bits of CRC stand against it, and no seed of ours beats them.
        prop_assert!(received.iter().all(|found| frames.contains(found)));
    }

    #[test]
    fn any_line_is_taken(octets in prop::collection::vec(any::<u8>(), 0..600)) {
        LineDecoder::new(64).decode(&octets, &mut Frames::new());
    }

    #[test]
    fn fragments_make_the_frame_in_any_order(
        frame in prop::collection::vec(any::<u8>(), 1..5000), mtu in HEADER + 50..1300,
        order in any::<prop::sample::Index>(), again in 0_usize..3,
    ) {
        let now = Timestamp::from_micros(5);
        let mut fragments: Vec<Vec<u8>> = Vec::new();
        for fragment in Fragment::cut(7, &frame, mtu).unwrap() {
            let mut datagram = Vec::new();
            fragment.encode(&mut datagram);
            prop_assert!(datagram.len() <= mtu);
            // Some are cut once more, and some come twice.
            if fragments.len() % 3 == again {
                for smaller in fragment.split(HEADER + 7) {
                    smaller.encode(&mut datagram);
                    fragments.push(datagram.clone());
                }
            } else {
                fragments.push(datagram);
            }
        }
        let count = fragments.len();
        fragments.rotate_left(order.index(count));
        let doubled = fragments[0].clone();
        if count > 1 {
            fragments.insert(1, doubled);
        }
        let mut reassembler = Reassembler::new(2, 5000);
        let mut whole = Vec::new();
        for fragment in &fragments {
            whole.extend(reassembler.handle(now, &Fragment::decode(fragment).unwrap()));
        }
        prop_assert_eq!(whole, vec![frame]);
    }

    #[test]
    fn any_octets_are_a_fragment_or_an_error(mut octets in prop::collection::vec(any::<u8>(), 0..40), offset in 0_u8..40) {
        octets.first_mut().into_iter().for_each(|kind| *kind = 1);
        octets.get_mut(5..9).into_iter().for_each(|place| place.copy_from_slice(&[0, 40, 0, offset]));
        if let Ok(fragment) = Fragment::decode(&octets) {
            let mut again = Vec::new();
            fragment.encode(&mut again);
            prop_assert_eq!(&again, &octets);
            let _ = Reassembler::new(1, 64).handle(Timestamp::from_micros(0), &fragment);
        }
    }
}

#[test]
fn what_is_kept_of_frames_is_bounded_in_number_length_and_time() {
    let at = |seconds: u64| Timestamp::from_micros(seconds * 1_000_000);
    let first = |id, total| Fragment { id, total, offset: 0, octets: &[1] };
    let rest = |id| Fragment { id, total: 2, offset: 1, octets: &[2] };
    let mut reassembler = Reassembler::new(2, 100);
    assert_eq!(reassembler.handle(at(0), &first(1, 101)), None);
    assert!(!reassembler.has_begun(at(0), &first(1, 101)), "longer than is allowed");
    for id in 1..=3 {
        assert_eq!(reassembler.handle(at(0), &first(id, 2)), None);
    }
    assert!(
        !reassembler.has_begun(at(0), &rest(1)) && reassembler.has_begun(at(0), &rest(2)),
        "the newest drives out the oldest"
    );
    assert_eq!(reassembler.handle(at(1), &rest(3)), Some(vec![1, 2]));
    assert!(!reassembler.has_begun(at(0).after(LIFETIME), &rest(2)));
    // Too late, it begins a frame that never ends.
    assert_eq!(reassembler.handle(at(1).after(LIFETIME), &rest(2)), None);
    // A number that is used for another frame begins anew.
    assert_eq!(reassembler.handle(at(12), &first(2, 50)), None);
    assert_eq!(reassembler.handle(at(12), &rest(2)), None);
    assert_eq!(reassembler.handle(at(12), &first(2, 2)), Some(vec![1, 2]));
    assert_eq!(reassembler.dropped(), 5);
}
