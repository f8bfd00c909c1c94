//! A link in memory that stands for a radio: datagrams of few octets, a queue of few frames, and two ends.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use sealway_link::{FrameLink, Frames, LinkCapabilities, LinkError, LinkErrorKind};

/// Frames on the way in one direction.
const QUEUE: usize = 8;

/// One end of the link.
pub struct Radio {
    mtu: usize,
    outgoing: Arc<Mutex<Way>>,
    incoming: Arc<Mutex<Way>>,
}

/// One direction.
#[derive(Default)]
struct Way {
    frames: VecDeque<Vec<u8>>,
    is_closed: bool,
    /// Who waits for frames, and who waits for room.
    receiver: Option<Waker>,
    sender: Option<Waker>,
}

impl Way {
    fn wake(&mut self) {
        self.receiver.take().into_iter().chain(self.sender.take()).for_each(Waker::wake);
    }
}

/// The two ends of a link that carries frames of at most `mtu` octets.
#[must_use]
pub fn radio(mtu: usize) -> [Box<dyn FrameLink>; 2] {
    let ways = [Arc::default(), Arc::default()];
    let end = |out: usize| -> Box<dyn FrameLink> {
        Box::new(Radio { mtu, outgoing: Arc::clone(&ways[out]), incoming: Arc::clone(&ways[1 - out]) })
    };
    [end(0), end(1)]
}

impl FrameLink for Radio {
    fn capabilities(&self) -> LinkCapabilities {
        LinkCapabilities::constrained(self.mtu)
    }

    fn source(&self) -> u64 {
        0
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, frames: &mut Frames, limit: usize) -> Poll<Result<bool, LinkError>> {
        let mut way = self.incoming.lock().unwrap();
        let before = frames.len();
        while frames.len() == before || frames.octets() < limit {
            let Some(frame) = way.frames.pop_front() else { break };
            frames.push(&frame);
        }
        if frames.len() > before {
            way.sender.take().into_iter().for_each(Waker::wake);
            return Poll::Ready(Ok(true));
        }
        if way.is_closed {
            return Poll::Ready(Ok(false));
        }
        way.receiver = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, frame: &[u8]) -> Poll<Result<(), LinkError>> {
        if frame.len() > self.mtu {
            return Poll::Ready(Err(LinkError::new(LinkErrorKind::Framing, "the radio")));
        }
        let mut way = self.outgoing.lock().unwrap();
        if way.is_closed {
            return Poll::Ready(Err(LinkError::new(LinkErrorKind::Lost, "the radio")));
        }
        if way.frames.len() >= QUEUE {
            way.sender = Some(cx.waker().clone());
            return Poll::Pending;
        }
        way.frames.push_back(frame.to_vec());
        way.receiver.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let mut way = self.outgoing.lock().unwrap();
        way.is_closed = true;
        way.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Radio {
    fn drop(&mut self) {
        for way in [&self.outgoing, &self.incoming] {
            let mut way = way.lock().unwrap();
            way.is_closed = true;
            way.wake();
        }
    }
}
