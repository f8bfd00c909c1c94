//! Links that lose, double, overtake and damage, and what repeats over them. Time is virtual.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    future::poll_fn,
    task::{Context, Poll},
};

use sealway_link::{Faults, Faulty, FrameLink, Frames, LinkCapabilities, LinkError, fragment::Fragment};
use sealway_repeat::Repeated;
use sealway_testkit::{
    links::{End, numbered},
    radio::radio,
};

const UNIT: usize = 250;

fn repeated(link: Box<dyn FrameLink>) -> Box<dyn FrameLink> {
    Box::new(Repeated::new(link).unwrap())
}

/// Sends `count` frames one way, and returns those that have come, each time counted.
async fn carried([mut left, mut right]: [End; 2], count: u32) -> Vec<Vec<u8>> {
    let mut sent = 0;
    let mut received = Vec::new();
    let mut wanted: BTreeSet<Vec<u8>> = (0..count).map(|number| numbered(number, 100)).collect();
    poll_fn(|cx| {
        while sent < count && left.link().poll_send(cx, &numbered(sent, 100)).is_ready() {
            sent += 1;
        }
        let _ = left.link().poll_flush(cx);
        loop {
            let coming = std::pin::pin!(right.recv());
            let Poll::Ready(frame) = coming.poll(cx) else { break };
            let frame = frame.unwrap().unwrap();
            wanted.remove(&frame);
            received.push(frame);
        }
        if wanted.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    received
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_comes_again() {
    // What is damaged is found by a checksum below, or by the record's tag above.
    let mut others = Faults::all(150);
    others.damaged = 0;
    for (seed, faults) in [(1, Faults::loss(200)), (2, Faults::loss(400)), (3, others)] {
        let seeds = [seed, seed + 100];
        let ends = radio(UNIT).into_iter().zip(seeds);
        let ends: Vec<End> =
            ends.map(|(end, seed)| End::new(repeated(Box::new(Faulty::new(end, faults, seed))))).collect();
        let received = carried(ends.try_into().ok().unwrap(), 300).await;
        println!("seed {seed}: {} frames for 300", received.len());
        assert!(received.len() >= 300);
    }
}

#[tokio::test(start_paused = true)]
async fn without_it_they_are_lost() {
    let [left, right] = radio(UNIT);
    let mut left: Box<dyn FrameLink> = Box::new(Faulty::new(left, Faults::loss(200), 1));
    let mut right = End::new(right);
    let mut received = 0;
    for number in 0..100 {
        poll_fn(|cx| left.poll_send(cx, &numbered(number, 100))).await.unwrap();
        poll_fn(|cx| left.poll_flush(cx)).await.unwrap();
        let next = std::time::Duration::from_millis(1);
        received += u32::from(tokio::time::timeout(next, right.recv()).await.is_ok());
    }
    assert!((60..95).contains(&received), "{received}");
}

#[tokio::test(start_paused = true)]
async fn somebody_whom_nobody_knows_is_not_answered() {
    let [left, right] = radio(UNIT);
    let mut known = End::new(repeated(left));
    let mut strange = Repeated::new(right).unwrap();
    known.send(&numbered(1, 50)).await.unwrap();
    let mut frames = Frames::new();
    poll_fn(|cx| strange.poll_recv(cx, &mut frames, 1)).await.unwrap();
    assert_eq!(frames.get(0), Some(numbered(1, 50).as_slice()));
    // Nothing was acknowledged: it comes again.
    poll_fn(|cx| {
        let _ = known.link().poll_flush(cx);
        strange.poll_recv(cx, &mut frames, 1000)
    })
    .await
    .unwrap();
    assert_eq!(frames.get(1), frames.get(0));
}

/// A medium that carries frames of 2048 octets, in units of 250.
struct Units(Box<dyn FrameLink>);

impl FrameLink for Units {
    fn capabilities(&self) -> LinkCapabilities {
        let mut capabilities = self.0.capabilities();
        capabilities.mtu = 2048;
        capabilities
    }

    fn source(&self) -> u64 {
        self.0.source()
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, frames: &mut Frames, limit: usize) -> Poll<Result<bool, LinkError>> {
        self.0.poll_recv(cx, frames, limit)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, frame: &[u8]) -> Poll<Result<(), LinkError>> {
        self.0.poll_send(cx, frame)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.0.poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.0.poll_close(cx)
    }
}

/// Fragments are put together here: whoever is above may have seen the acknowledgement of one, and not the beginning of its frame.
#[tokio::test(start_paused = true)]
async fn long_frames_come_whole_whichever_of_their_packets_is_lost() {
    let mut seed = 10;
    let [mut left, mut right] = radio(UNIT).map(|end| {
        seed += 1;
        let mut link = repeated(Box::new(Units(Box::new(Faulty::new(end, Faults::loss(200), seed)))));
        link.set_proved();
        link
    });
    let frame = |number: u32| numbered(number, [251, 700, 1800, 2048][number as usize % 4]);
    let mut wanted: BTreeSet<Vec<u8>> = (0..100).map(frame).collect();
    let mut sent = 0;
    poll_fn(|cx| {
        while sent < 100 && left.poll_send(cx, &frame(sent)).is_ready() {
            sent += 1;
        }
        let _ = left.poll_flush(cx);
        let mut frames = Frames::new();
        while right.poll_recv(cx, &mut frames, usize::MAX).is_ready() {}
        for frame in (0..frames.len()).filter_map(|index| frames.get(index)) {
            assert!(!Fragment::is_one(frame), "a fragment was handed up");
            wanted.remove(frame);
        }
        let _ = right.poll_flush(cx);
        if wanted.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
