//! Datagrams, as the application sends and takes them.

use std::{
    fmt,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sealway_link::Frames;
use sealway_wire::IdentityId;
use tokio::sync::Notify;

use crate::{NodeError, shared::Shared};

/// Octets that wait at most, each datagram with the room that its bounds take.
const LIMIT: usize = 256 * 1024;
const BOUNDS: usize = size_of::<usize>();

/// Datagrams in one direction, between the driver and the application.
pub(crate) struct DatagramQueue {
    waiting: Mutex<Waiting>,
    /// Some were added, or taken.
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    datagrams: Frames,
    is_ended: bool,
}

impl Waiting {
    /// An empty queue takes any: they are all shorter than what it holds.
    fn has_room(&self, octets: usize) -> bool {
        let taken = self.datagrams.octets() + self.datagrams.len() * BOUNDS;
        taken + octets + BOUNDS <= LIMIT
    }
}

impl DatagramQueue {
    pub(crate) fn new() -> Self {
        Self { waiting: Mutex::default(), changed: Notify::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a datagram. Returns how many wait then; none: there is no room.
    ///
    /// # Errors
    /// [`NodeError::Closed`].
    fn push(&self, datagram: &[u8]) -> Result<Option<usize>, NodeError> {
        let mut waiting = self.waiting();
        if waiting.is_ended {
            return Err(NodeError::Closed);
        }
        if !waiting.has_room(datagram.len()) {
            return Ok(None);
        }
        waiting.datagrams.push(datagram);
        Ok(Some(waiting.datagrams.len()))
    }

    /// Adds a datagram of the peer. Returns whether there was room.
    pub(crate) fn came(&self, datagram: &[u8]) -> bool {
        let Ok(Some(waiting)) = self.push(datagram) else { return false };
        // Who takes the first takes the others along.
        if waiting == 1 {
            self.changed.notify_waiters();
        }
        true
    }

    /// Puts everything that waits in the place of `datagrams`, which are empty. Returns whether that is anything.
    pub(crate) fn take(&self, datagrams: &mut Frames) -> bool {
        datagrams.clear();
        let mut waiting = self.waiting();
        if waiting.datagrams.is_empty() {
            return false;
        }
        std::mem::swap(&mut waiting.datagrams, datagrams);
        drop(waiting);
        self.changed.notify_waiters();
        true
    }

    fn is_ended(&self) -> bool {
        self.waiting().is_ended
    }

    /// Nothing is added any more, and nobody waits.
    pub(crate) fn end(&self) {
        self.waiting().is_ended = true;
        self.changed.notify_waiters();
    }

    /// Waits until `look` finds what it looks for, which it is asked whenever something has changed.
    async fn wait_for<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Before it is looked: a change in between is not missed.
            changed.as_mut().enable();
            if let Some(found) = look() {
                return found;
            }
            changed.await;
        }
    }
}

/// The datagrams of a channel: each is sent once, arrives once at most, in any order or not at all.
///
/// They are sealed and authenticated as messages are, and nothing else is done for them: no receipt, no store, no custody at a
/// relay, no order. That is for what is of no use when it is late, as samples of a sensor that sends the next one anyway, or for a
/// protocol that repeats by itself. A link that repeats what it has lost, as UDP does for some seconds, repeats them too.
///
/// What is sent is lost without a word if the link has ended meanwhile, or if its recipient does not take what has come: 256 KiB
/// wait there. [`Statistics::dropped_datagrams`](crate::Statistics::dropped_datagrams) counts either at its node. A datagram
/// longer than what the link carries at once goes in fragments, and is lost with any of them.
pub struct Datagrams {
    shared: Arc<Shared>,
    taken: Taken,
}

/// What a handle has fetched from a queue and not handed over.
pub(crate) struct Taken {
    frames: Frames,
    /// The next of them to be handed over.
    next: usize,
}

impl Taken {
    pub(crate) const fn new() -> Self {
        Self { frames: Frames::new(), next: 0 }
    }

    /// The next one, also of what comes later. `None`: the queue has ended.
    pub(crate) async fn next(&mut self, queue: &DatagramQueue) -> Option<&[u8]> {
        let Self { frames, next } = self;
        if *next == frames.len() {
            frames.clear();
            *next = 0;
            let is_ended = queue.wait_for(|| match queue.take(frames) {
                true => Some(false),
                false => queue.is_ended().then_some(true),
            });
            if is_ended.await {
                return None;
            }
        } else {
            // Who takes many does not keep the others of its thread from their turn.
            tokio::task::consume_budget().await;
        }
        let datagram = frames.get(*next);
        *next += 1;
        datagram
    }
}

impl Datagrams {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, taken: Taken::new() }
    }

    /// The peer's identity.
    #[must_use]
    pub fn peer(&self) -> IdentityId {
        self.shared.peer
    }

    /// The longest datagram that can be sent, in octets: 16,383, or what a frame of a paired peer's link takes.
    #[must_use]
    pub fn max_len(&self) -> usize {
        self.shared.longest_datagram()
    }

    /// Sends a datagram of any length down to none, after others if 256 KiB of them wait for the link.
    ///
    /// Cancel-safe: a call that is dropped has not sent it.
    ///
    /// # Errors
    /// [`NodeError::NotOpen`] while there is no session with the peer or no link that leads there: nothing is kept until there is.
    /// [`NodeError::TooLong`], [`NodeError::Closed`].
    pub async fn send(&self, datagram: &[u8]) -> Result<(), NodeError> {
        // Waiting costs more than most of what is done here.
        match self.offer(datagram).transpose() {
            Some(done) => done,
            None => self.shared.datagrams_out.wait_for(|| self.offer(datagram).transpose()).await,
        }
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// [`NodeError::Full`] where [`send`](Self::send) would wait, and those of it.
    pub fn try_send(&self, datagram: &[u8]) -> Result<(), NodeError> {
        self.offer(datagram)?.ok_or(NodeError::Full)
    }

    /// `None`: there is no room.
    fn offer(&self, datagram: &[u8]) -> Result<Option<()>, NodeError> {
        let (limit, got) = (self.max_len(), datagram.len());
        if got > limit {
            return Err(NodeError::TooLong { limit, got });
        }
        let queue = &self.shared.datagrams_out;
        if !self.shared.takes_datagrams() {
            return Err(if queue.is_ended() { NodeError::Closed } else { NodeError::NotOpen });
        }
        Ok(queue.push(datagram)?.map(|waiting| {
            if waiting == 1 {
                self.shared.tell();
            }
        }))
    }

    /// The next datagram of the peer. `None`: the node has shut down.
    ///
    /// Several of these handles share what comes: each datagram goes to one of them.
    ///
    /// Cancel-safe. What a handle has fetched and not handed over is lost when it is dropped.
    pub async fn recv(&mut self) -> Option<&[u8]> {
        self.taken.next(&self.shared.datagrams_in).await
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").field("peer", &self.shared.peer).finish_non_exhaustive()
    }
}
