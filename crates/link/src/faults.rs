//! A link on which frames are lost, doubled, delayed and damaged, by a seed: wraps any other.

use alloc::{boxed::Box, collections::VecDeque, vec::Vec};
use core::{
    net::SocketAddr,
    task::{Context, Poll},
};

use crate::{FrameLink, Frames, LinkCapabilities, LinkError, Ordering};

/// Frames of a thousand to which something happens, each by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// They never arrive.
    pub lost: u16,
    /// They arrive twice.
    pub doubled: u16,
    /// The one after them arrives first.
    pub overtaken: u16,
    /// One bit of them is another one.
    pub damaged: u16,
}

impl Faults {
    /// So many of a thousand are lost, and nothing else happens.
    #[must_use]
    pub const fn loss(per_thousand: u16) -> Self {
        Self { lost: per_thousand, doubled: 0, overtaken: 0, damaged: 0 }
    }

    /// As much of everything.
    #[must_use]
    pub const fn all(per_thousand: u16) -> Self {
        Self { lost: per_thousand, doubled: per_thousand, overtaken: per_thousand, damaged: per_thousand }
    }
}

/// A link whose outgoing frames suffer [`Faults`]. The same seed and the same frames suffer the same.
///
/// Nobody is told of what is lost; it takes no time of the link. It gives no [`branch`](FrameLink::branch): links beside it would
/// suffer nothing.
pub struct Faulty {
    link: Box<dyn FrameLink>,
    faults: Faults,
    chance: u64,
    /// What is to leave before anything else is taken.
    leaving: VecDeque<Vec<u8>>,
    /// Overtaken by the next one.
    held: Option<Vec<u8>>,
}

impl Faulty {
    /// Wraps a link.
    #[must_use]
    pub fn new(link: Box<dyn FrameLink>, faults: Faults, seed: u64) -> Self {
        Self { link, faults, chance: seed, leaving: VecDeque::new(), held: None }
    }

    /// The next number of the generator `SplitMix64`: Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
    /// OOPSLA 2014, figure 17.
    const fn draw(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.chance ^ (self.chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn happens(&mut self, per_thousand: u16) -> bool {
        self.draw() % 1000 < per_thousand.into()
    }

    /// Hands over what is to leave.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        while let Some(frame) = self.leaving.front() {
            match self.link.poll_send(cx, frame) {
                Poll::Ready(Ok(())) => drop(self.leaving.pop_front()),
                other => return other,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl FrameLink for Faulty {
    fn capabilities(&self) -> LinkCapabilities {
        LinkCapabilities { ordering: Ordering::Datagram, ..self.link.capabilities() }
    }

    fn source(&self) -> u64 {
        self.link.source()
    }

    fn observed(&self) -> Option<SocketAddr> {
        self.link.observed()
    }

    fn set_heard(&mut self) {
        self.link.set_heard();
    }

    fn set_proved(&mut self) {
        self.link.set_proved();
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, frames: &mut Frames, limit: usize) -> Poll<Result<bool, LinkError>> {
        self.link.poll_recv(cx, frames, limit)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, frame: &[u8]) -> Poll<Result<(), LinkError>> {
        match self.poll_leave(cx) {
            Poll::Ready(Ok(())) => {}
            other => return other,
        }
        if self.happens(self.faults.lost) {
            return Poll::Ready(Ok(()));
        }
        let mut frame = frame.to_vec();
        if self.happens(self.faults.damaged) && !frame.is_empty() {
            let bits = u64::try_from(frame.len()).unwrap_or(u64::MAX).saturating_mul(8);
            let bit = self.draw() % bits;
            let at = usize::try_from(bit / 8).unwrap_or(0);
            frame.get_mut(at).into_iter().for_each(|octet| *octet ^= 1 << (bit % 8));
        }
        if self.held.is_none() && self.happens(self.faults.overtaken) {
            self.held = Some(frame);
            return Poll::Ready(Ok(()));
        }
        if self.happens(self.faults.doubled) {
            self.leaving.push_back(frame.clone());
        }
        self.leaving.push_back(frame);
        self.leaving.extend(self.held.take());
        match self.poll_leave(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        match self.poll_leave(cx) {
            Poll::Ready(Ok(())) => self.link.poll_flush(cx),
            other => other,
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.leaving.extend(self.held.take());
        match self.poll_leave(cx) {
            Poll::Ready(Ok(())) => self.link.poll_close(cx),
            other => other,
        }
    }
}
