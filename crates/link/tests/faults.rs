//! What a faulty link does to frames, and what it does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::task::{Context, Poll, Waker};

use sealway_link::{Faults, Faulty, FrameLink, Frames, Ordering};
use sealway_testkit::radio::radio;

/// What of so many numbered frames arrives, and how.
fn arrive(faults: Faults, seed: u64, count: u32) -> Vec<Vec<u8>> {
    let [left, mut right] = radio(64);
    let mut left = Faulty::new(left, faults, seed);
    let mut cx = Context::from_waker(Waker::noop());
    let (mut frames, mut arrived) = (Frames::new(), Vec::new());
    let mut take = |right: &mut Box<dyn FrameLink>, cx: &mut Context<'_>| {
        while let Poll::Ready(Ok(true)) = right.poll_recv(cx, &mut frames, 1000) {
            arrived.extend((0..frames.len()).map(|index| frames.get(index).unwrap().to_vec()));
            frames.clear();
        }
    };
    for number in 0..count {
        while left.poll_send(&mut cx, &number.to_be_bytes()).is_pending() {
            take(&mut right, &mut cx);
        }
    }
    while left.poll_close(&mut cx).is_pending() {
        take(&mut right, &mut cx);
    }
    take(&mut right, &mut cx);
    arrived
}

fn numbers(count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|number| number.to_be_bytes().to_vec()).collect()
}

#[test]
fn without_faults_everything_arrives_as_it_was() {
    assert_eq!(arrive(Faults::default(), 1, 1000), numbers(1000));
    assert_eq!(arrive(Faults::loss(1000), 1, 1000), Vec::<Vec<u8>>::new());
    let [link, _] = radio(64);
    let link = Faulty::new(link, Faults::default(), 1);
    assert_eq!((link.capabilities().mtu, link.capabilities().ordering), (64, Ordering::Datagram));
}

#[test]
fn each_fault_is_as_frequent_as_it_is_asked_for_and_a_seed_repeats() {
    let (count, sent) = (10_000, numbers(10_000));
    let about_a_tenth = |number: usize| (800..1200).contains(&number);
    let lost = arrive(Faults::loss(100), 2, count);
    assert!(about_a_tenth(sent.len() - lost.len()) && lost.is_sorted());
    assert_eq!(lost, arrive(Faults::loss(100), 2, count));
    assert_ne!(lost, arrive(Faults::loss(100), 3, count));

    let mut doubled = Faults::default();
    doubled.doubled = 100;
    let mut doubled = arrive(doubled, 4, count);
    assert!(about_a_tenth(doubled.len() - sent.len()));
    doubled.dedup();
    assert_eq!(doubled, sent);

    let mut overtaken = Faults::default();
    overtaken.overtaken = 100;
    let mut overtaken = arrive(overtaken, 5, count);
    assert!(about_a_tenth(overtaken.windows(2).filter(|pair| pair[0] > pair[1]).count()));
    overtaken.sort();
    assert_eq!(overtaken, sent);

    let mut damaged = Faults::default();
    damaged.damaged = 100;
    let damaged = arrive(damaged, 6, count);
    let bits = |(left, right): (&Vec<u8>, &Vec<u8>)| {
        left.iter().zip(right).map(|(left, right)| (left ^ right).count_ones()).sum::<u32>()
    };
    let changed: Vec<u32> = damaged.iter().zip(&sent).map(bits).filter(|bits| *bits > 0).collect();
    assert!(about_a_tenth(changed.len()) && changed.iter().all(|bits| *bits == 1) && damaged.len() == sent.len());
}
