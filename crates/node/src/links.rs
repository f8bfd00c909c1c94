//! One task a link: frames from it to the driver, and from the driver's queue to it.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use sealway_link::{FrameLink, Frames, LinkError};
use tokio::{
    sync::{Notify, mpsc},
    time::{Sleep, sleep},
};

use crate::{clock::Clock, rate::Rate};

/// A link, as the driver numbers it. It is also the number of the path that leads over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkId(pub(crate) u64);

/// What a link task tells the driver.
pub(crate) enum LinkEvent {
    /// Before which the link was not read for a while, if it is `held_back`.
    Frames {
        link: LinkId,
        frames: Frames,
        held_back: bool,
    },
    Ended {
        link: LinkId,
        error: Option<LinkError>,
    },
}

/// Frames that the driver wants sent, at most `limit` octets, and how the link stands with it.
pub(crate) struct SendQueue {
    limit: usize,
    frames: Mutex<Frames>,
    filled: Notify,
    closing: AtomicBool,
    /// What is queued is not wanted any more.
    aborted: Notify,
    /// The driver found it full, and waits.
    wanted: AtomicBool,
    /// Wakes the driver when a queue that it wanted has room.
    room: Arc<Notify>,
    /// Somebody whom we know has been heard, and is at the other end.
    heard: AtomicBool,
    proved: AtomicBool,
    /// The longest frame that goes in one piece, as the link found it last.
    unit: AtomicUsize,
    /// The driver has worked on what came last from a stranger.
    served: Notify,
}

/// Where a link's events go.
#[derive(Clone)]
pub(crate) struct EventSenders {
    /// Those of a link at whose other end is somebody whom we know.
    pub(crate) links: mpsc::Sender<LinkEvent>,
    /// All others: of these the driver serves one a turn, so that sessions do not wait for what strangers have it compute.
    pub(crate) strangers: mpsc::Sender<LinkEvent>,
    pub(crate) buffers: Buffers,
}

/// Buffers for what links receive. A link has one only while it has received something, for most of many are silent.
#[derive(Clone, Default)]
pub(crate) struct Buffers(Arc<Mutex<Vec<Frames>>>);

/// How many wait for use at most.
const BUFFERS: usize = 16;

impl Buffers {
    fn take(&self) -> Frames {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Gives a buffer back. What is in it is forgotten.
    pub(crate) fn put(&self, mut frames: Frames) {
        frames.clear();
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < BUFFERS {
            spare.push(frames);
        }
    }
}

/// Octets in the queue of a link that is fast.
pub(crate) const QUEUE_LIMIT: usize = 512 * 1024;
/// What one turn takes from a link at most, so that one busy link does not starve the driver.
const RECEIVE_LIMIT: usize = 64 * 1024;

impl SendQueue {
    pub(crate) fn new(room: Arc<Notify>, limit: usize, unit: usize) -> Self {
        Self {
            limit,
            frames: Mutex::new(Frames::new()),
            filled: Notify::new(),
            closing: AtomicBool::new(false),
            aborted: Notify::new(),
            wanted: AtomicBool::new(false),
            room,
            heard: AtomicBool::new(false),
            proved: AtomicBool::new(false),
            unit: AtomicUsize::new(unit),
            served: Notify::new(),
        }
    }

    /// Somebody has authenticated over the link, or we have chosen whom it leads to.
    pub(crate) fn set_proved(&self) {
        self.proved.store(true, Ordering::Release);
    }

    /// Something authentic has come over the link.
    pub(crate) fn set_heard(&self) {
        self.heard.store(true, Ordering::Release);
    }

    /// The longest frame in octets that the link carries at once.
    pub(crate) fn unit(&self) -> usize {
        self.unit.load(Ordering::Relaxed)
    }

    fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Acquire)
    }

    fn is_proved(&self) -> bool {
        self.proved.load(Ordering::Acquire)
    }

    /// A stranger's frame was worked on: the next one may be read.
    pub(crate) fn set_served(&self) {
        self.served.notify_one();
    }

    /// Queues a frame. `false`: there is no room; it was not taken.
    pub(crate) fn push(&self, frame: &[u8]) -> bool {
        self.add(frame.len(), |frames| frames.push(frame)).is_some()
    }

    /// Queues a frame of at most `space` octets that `write` writes, as [`Frames::push_with`] has it. None: there is no room; it
    /// was not asked.
    pub(crate) fn push_with<E>(
        &self,
        space: usize,
        write: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Option<Result<(), E>> {
        self.add(space, |frames| frames.push_with(space, write))
    }

    fn add<T>(&self, octets: usize, add: impl FnOnce(&mut Frames) -> T) -> Option<T> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if frames.octets() + octets > self.limit {
            return None;
        }
        let was_empty = frames.is_empty();
        let added = add(&mut frames);
        let is_first = was_empty && !frames.is_empty();
        drop(frames);
        // Who has been woken for the first takes the others along.
        if is_first {
            self.filled.notify_one();
        }
        Some(added)
    }

    /// Whether a peer's outbox may add to the queue: half of it stays free for what cannot wait. If not, the driver is
    /// woken when it may.
    pub(crate) fn has_room(&self) -> bool {
        let has_room = || self.frames.lock().unwrap_or_else(PoisonError::into_inner).octets() < self.limit / 2;
        if has_room() {
            return true;
        }
        self.wanted.store(true, Ordering::Release);
        has_room()
    }

    /// Everything queued is sent, then the link is closed.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.filled.notify_one();
    }

    /// The link ends at once.
    pub(crate) fn abort(&self) {
        self.aborted.notify_one();
    }

    fn take(&self, into: &mut Frames) {
        std::mem::swap(&mut *self.frames.lock().unwrap_or_else(PoisonError::into_inner), into);
        if self.wanted.swap(false, Ordering::AcqRel) {
            self.room.notify_one();
        }
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}

/// Runs a link until it ends on either side.
pub(crate) async fn run(
    id: LinkId,
    mut link: Box<dyn FrameLink>,
    queue: Arc<SendQueue>,
    events: EventSenders,
    limit: Option<(Clock, Rate)>,
) {
    let error = tokio::select! {
        served = serve(id, &mut link, &queue, &events, limit) => served.err(),
        () = queue.aborted.notified() => None,
    };
    // Behind its last frames. The driver may be gone: then nobody wants to know.
    let events = if queue.is_proved() { events.links } else { events.strangers };
    let _ = events.send(LinkEvent::Ended { link: id, error }).await;
}

async fn serve(
    id: LinkId,
    link: &mut Box<dyn FrameLink>,
    queue: &SendQueue,
    events: &EventSenders,
    mut limit: Option<(Clock, Rate)>,
) -> Result<(), LinkError> {
    let mut outgoing = Frames::new();
    let mut sent = 0;
    let mut incoming = Frames::new();
    let mut receiving = true;
    // Until then nothing is read: what is beyond the rate waits at its sender.
    let mut pause: Option<Pin<Box<Sleep>>> = None;
    let mut held_back = false;
    // A stranger's frame waits for its turn; the next one waits where it is.
    let mut in_line = false;
    loop {
        if sent == outgoing.len() {
            outgoing.clear();
            sent = 0;
            queue.take(&mut outgoing);
        }
        let filled = queue.filled.notified();
        let served = queue.served.notified();
        tokio::pin!(filled, served);
        let is_idle = outgoing.is_empty();
        if is_idle && queue.is_closing() {
            // What was put there just before it was closed.
            queue.take(&mut outgoing);
            if !outgoing.is_empty() {
                continue;
            }
            return poll_fn(|cx| link.poll_close(cx)).await;
        }
        // Receives and sends at once; both keep their place when the other is ready first.
        let step = poll_fn(|cx| {
            // Before anything that was queued since leaves, and before what comes next is looked at.
            if queue.is_proved() {
                link.set_proved();
            } else if queue.is_heard() {
                link.set_heard();
            }
            while let Some(frame) = outgoing.get(sent) {
                match link.poll_send(cx, frame) {
                    Poll::Ready(Ok(())) => sent += 1,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            if let Poll::Ready(Err(error)) = link.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
            if let Some(over) = &mut pause
                && over.as_mut().poll(cx).is_ready()
            {
                pause = None;
            }
            in_line = in_line && served.as_mut().poll(cx).is_pending();
            // One frame of a stranger may cost as much as hundreds of a session.
            let octets = if queue.is_proved() { RECEIVE_LIMIT } else { 1 };
            if receiving && pause.is_none() && !in_line {
                if incoming.is_empty() {
                    incoming = events.buffers.take();
                }
                match link.poll_recv(cx, &mut incoming, octets) {
                    Poll::Ready(received) => {
                        receiving = received?;
                        return Poll::Ready(Ok(()));
                    }
                    // A link that is not ready has appended nothing; one that has all the same loses nothing by it.
                    Poll::Pending if incoming.is_empty() => events.buffers.put(std::mem::take(&mut incoming)),
                    Poll::Pending => {}
                }
            }
            if sent == outgoing.len() && !is_idle {
                return Poll::Ready(Ok(()));
            }
            if sent == outgoing.len() {
                return filled.as_mut().poll(cx).map(Ok);
            }
            Poll::Pending
        });
        step.await?;
        if !incoming.is_empty() {
            queue.unit.store(link.capabilities().unit, Ordering::Relaxed);
            // The bounded queue to the driver holds the link back when the driver is behind.
            let frames = std::mem::take(&mut incoming);
            let octets = frames.octets();
            let event = LinkEvent::Frames { link: id, frames, held_back: std::mem::take(&mut held_back) };
            // Nothing of an earlier frame is under way when a link changes from one queue to the other: order is kept.
            in_line = !queue.is_proved();
            let events = if in_line { &events.strangers } else { &events.links };
            if events.send(event).await.is_err() {
                return Ok(());
            }
            let wait = limit.as_mut().map_or(Duration::ZERO, |(clock, rate)| rate.pass(clock.now(), octets));
            if !wait.is_zero() {
                pause = Some(Box::pin(sleep(wait)));
                held_back = true;
            }
        }
        if !receiving {
            return poll_fn(|cx| link.poll_close(cx)).await;
        }
    }
}
