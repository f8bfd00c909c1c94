//! What every link does, whatever its medium: the suite that each transport passes.

use std::{
    future::poll_fn,
    task::{Context, Poll, Waker},
};

use sealway_link::{
    FrameLink, Frames, LinkErrorKind, Ordering,
    fragment::{Fragment, Reassembler},
};
use sealway_wire::Timestamp;

/// One end of a link, as its user has it: frames, whether or not they came in fragments.
pub struct End {
    link: Box<dyn FrameLink>,
    frames: Frames,
    next: usize,
    reassembler: Reassembler,
}

impl End {
    /// The end of a link to somebody whom we know.
    #[must_use]
    pub fn new(mut link: Box<dyn FrameLink>) -> Self {
        link.set_proved();
        let reassembler = Reassembler::new(64, link.capabilities().mtu);
        Self { link, frames: Frames::new(), next: 0, reassembler }
    }

    /// The link, as it is after what was sent and received here.
    #[must_use]
    pub fn into_link(self) -> Box<dyn FrameLink> {
        self.link
    }

    /// The link.
    pub fn link(&mut self) -> &mut dyn FrameLink {
        &mut *self.link
    }

    /// Sends a frame and flushes it.
    ///
    /// # Errors
    /// Those of the link.
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), LinkErrorKind> {
        poll_fn(|cx| self.link.poll_send(cx, frame)).await.map_err(|error| error.kind)?;
        poll_fn(|cx| self.link.poll_flush(cx)).await.map_err(|error| error.kind)
    }

    /// The next frame. None: the peer has ended its direction.
    ///
    /// # Errors
    /// Those of the link.
    pub async fn recv(&mut self) -> Result<Option<Vec<u8>>, LinkErrorKind> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Vec<u8>>, LinkErrorKind>> {
        loop {
            while let Some(frame) = self.frames.get(self.next) {
                self.next += 1;
                match Fragment::decode(frame) {
                    Err(_) => return Poll::Ready(Ok(Some(frame.to_vec()))),
                    Ok(fragment) => {
                        if let Some(frame) = self.reassembler.handle(Timestamp::from_micros(0), &fragment) {
                            return Poll::Ready(Ok(Some(frame)));
                        }
                    }
                }
            }
            self.frames.clear();
            self.next = 0;
            match self.link.poll_recv(cx, &mut self.frames, 4096) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.kind)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// A frame of `size` octets that tells its number, as records look: their first octet is above 0x7f.
#[must_use]
pub fn numbered(number: u32, size: usize) -> Vec<u8> {
    let [a, b, c, d] = number.to_be_bytes();
    let head = [0x80, a, b, c, d];
    (0..size).map(|at| head.get(at).copied().unwrap_or_else(|| u8::try_from(at % 251).unwrap_or(0))).collect()
}

/// Everything that the ends of a link do, over links that `pair` makes.
pub async fn conform(mut pair: impl AsyncFnMut() -> [Box<dyn FrameLink>; 2]) {
    every_size_arrives(pair().await.map(End::new)).await;
    what_is_asked_for_is_handed_up(pair().await.map(End::new)).await;
    both_directions_work_at_once(pair().await.map(End::new)).await;
    nothing_is_lost_by_giving_up_to_wait(pair().await.map(End::new)).await;
    who_takes_nothing_holds_the_sender_back(pair().await.map(End::new)).await;
    an_end_is_noticed(pair().await.map(End::new)).await;
}

async fn every_size_arrives([mut left, mut right]: [End; 2]) {
    let mtu = left.link().capabilities().mtu;
    let edges =
        [127, 128, 253, 254, 255, 256, 257, 508, 1192, 1193, 1194, 1200, 1452, 2048, 4096, 16_384, mtu - 1, mtu];
    for size in (1..70).chain(edges).filter(|size| *size <= mtu) {
        let frame = numbered(u32::try_from(size).unwrap_or(0), size);
        let (sent, received) = both(left.send(&frame), right.recv()).await;
        assert_eq!((sent, received), (Ok(()), Ok(Some(frame))), "{size} octets");
    }
    // What is no frame is refused, and harms nothing.
    for wrong in [0, mtu + 1] {
        assert_eq!(left.send(&vec![0x80; wrong]).await, Err(LinkErrorKind::Framing), "{wrong} octets");
    }
    let (sent, received) = both(left.send(&[0x90]), right.recv()).await;
    assert_eq!((sent, received), (Ok(()), Ok(Some(vec![0x90]))));
}

/// One frame is handed up even where more than was asked for is there already, and what is not stays where it is.
async fn what_is_asked_for_is_handed_up([mut left, mut right]: [End; 2]) {
    // What goes in one piece.
    let size = left.link().capabilities().unit.min(200);
    for round in 0..20 {
        let sent: Vec<_> = (0..10).map(|number| numbered(10 * round + number, size)).collect();
        let mut frames = Frames::new();
        frames.push(&[0x80; 100]);
        for frame in &sent {
            left.send(frame).await.unwrap();
        }
        let mut received = Vec::new();
        while received.len() < sent.len() {
            let before = frames.len();
            let more = poll_fn(|cx| {
                let _ = left.link().poll_flush(cx);
                let _ = left.poll_recv(cx);
                right.link().poll_recv(cx, &mut frames, 1)
            });
            assert_eq!(more.await.map_err(|error| error.kind), Ok(true));
            assert_eq!(frames.len(), before + 1, "one, for there is more than was asked for");
            received.extend(frames.get(before).map(<[u8]>::to_vec));
        }
        if right.link().capabilities().ordering == Ordering::Datagram {
            received.sort();
        }
        assert!(received == sent, "what arrives is what was sent");
    }
}

async fn both_directions_work_at_once([mut left, mut right]: [End; 2]) {
    for number in 0..200 {
        let (one, other) = (numbered(number, 40), numbered(number, 900));
        let (sent, _) = both(left.send(&one), right.send(&other)).await;
        sent.unwrap();
        let (here, there) = both(left.recv(), right.recv()).await;
        assert_eq!((here, there), (Ok(Some(other)), Ok(Some(one))));
    }
}

/// Polled once and dropped again and again, with a waker that does nothing: what has come stays.
async fn nothing_is_lost_by_giving_up_to_wait([mut left, mut right]: [End; 2]) {
    for number in 0..100 {
        let frame = numbered(number, 300);
        let mut given_up = Context::from_waker(Waker::noop());
        if let Poll::Ready(early) = right.poll_recv(&mut given_up) {
            panic!("{early:?} before anything was sent");
        }
        let mut received = None;
        // Sending is polled in the same way, and then waited for.
        let _ = left.link().poll_flush(&mut given_up);
        left.send(&frame).await.unwrap();
        for _ in 0..3 {
            if let Poll::Ready(found) = right.poll_recv(&mut given_up) {
                received = Some(found);
                break;
            }
        }
        let received = match received {
            Some(found) => found,
            None => both(poll_fn(|cx| left.link().poll_flush(cx)), right.recv()).await.1,
        };
        assert_eq!(received, Ok(Some(frame)));
    }
}

/// A bounded amount is taken while the other end does not read; then everything arrives.
async fn who_takes_nothing_holds_the_sender_back([mut left, mut right]: [End; 2]) {
    let size = left.link().capabilities().mtu.min(1000);
    let mut sent = 0_u32;
    let is_full = |poll: Poll<_>| match poll {
        Poll::Ready(Ok(())) => false,
        Poll::Ready(Err(error)) => panic!("{error}"),
        Poll::Pending => true,
    };
    while !poll_fn(|cx| Poll::Ready(is_full(left.link().poll_send(cx, &numbered(sent, size))))).await {
        sent += 1;
        assert!(sent < 100_000, "a sender that nobody reads is held back");
    }
    let reader = async {
        let mut received = Vec::new();
        for _ in 0..sent {
            received.push(right.recv().await.unwrap().unwrap());
        }
        received
    };
    let mut reader = std::pin::pin!(reader);
    // The sender's end has to go on: acknowledgements come there.
    let mut received = poll_fn(|cx| {
        let _ = left.link().poll_flush(cx);
        let _ = left.poll_recv(cx);
        reader.as_mut().poll(cx)
    })
    .await;
    if left.link().capabilities().ordering == Ordering::Datagram {
        received.sort();
    }
    let expected: Vec<_> = (0..sent).map(|number| numbered(number, size)).collect();
    assert!(received == expected, "what arrives is what was sent");
}

/// What was sent before an end arrives, and then the end is told, where the medium has one.
async fn an_end_is_noticed([mut left, mut right]: [End; 2]) {
    let frame = numbered(1, 100);
    poll_fn(|cx| left.link().poll_send(cx, &frame)).await.unwrap();
    let (closed, received) = both(poll_fn(|cx| left.link().poll_close(cx)), right.recv()).await;
    assert!(closed.is_ok());
    assert_eq!(received, Ok(Some(frame)));
    if left.link().capabilities().ordering == Ordering::Reliable {
        drop(left);
        assert_eq!(right.recv().await, Ok(None));
    }
}

/// Waits for two things at once.
async fn both<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    let (mut one, mut other) = (std::pin::pin!(one), std::pin::pin!(other));
    let (mut first, mut second) = (None, None);
    poll_fn(|cx| {
        if first.is_none()
            && let Poll::Ready(done) = one.as_mut().poll(cx)
        {
            first = Some(done);
        }
        if second.is_none()
            && let Poll::Ready(done) = other.as_mut().poll(cx)
        {
            second = Some(done);
        }
        if first.is_some() && second.is_some() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    match (first, second) {
        (Some(first), Some(second)) => (first, second),
        _ => unreachable!("both are there"),
    }
}
