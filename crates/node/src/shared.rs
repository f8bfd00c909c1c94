//! What the driver and the application's handle share of a peer. What needs no store is handed in and committed under a lock
//! of a few instructions, without a question to the driver and its answer: it is only woken, and only if it is not awake.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use sealway_channel::MAX_CONTENT;
use sealway_routing::{Batch, Delivered, Inbox, MAX_MESSAGE, Outbox, SendOptions, Table};
use sealway_wire::{IdentityId, Instance, MessageId};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{NodeError, Progress, Receipt, datagrams::DatagramQueue, handle::Command, receipt::Teller};

/// What a peer's outbox takes before senders wait: units of 256 octets, so many.
const OUTBOX_UNITS: u32 = 64 * 1024 * 4;
const UNIT: usize = 256;

/// The longest datagram: where lengths are hidden it needs a type of one octet.
const MAX_DATAGRAM: usize = MAX_CONTENT - 1;

/// What a message of so many octets takes of its peer's outbox.
fn units(octets: usize) -> u32 {
    u32::try_from(1 + octets / UNIT).unwrap_or(u32::MAX)
}

/// What all peers of a node have in common.
pub(crate) struct Common {
    pub(crate) instance: Instance,
    pub(crate) commands: mpsc::Sender<Command>,
    /// Has the driver look after all peers.
    pub(crate) wake: Arc<Notify>,
    /// What is committed is written first.
    pub(crate) has_store: bool,
}

/// One peer, as both see it. No two of its locks are ever held together.
pub(crate) struct Shared {
    pub(crate) peer: IdentityId,
    pub(crate) common: Arc<Common>,
    outgoing: Mutex<Outgoing>,
    incoming: Mutex<Incoming>,
    pub(crate) datagrams_out: DatagramQueue,
    pub(crate) datagrams_in: DatagramQueue,
    /// What has come with handshakes.
    pub(crate) payloads_in: DatagramQueue,
    /// Room in the outbox: each message holds its part until it is committed.
    room: Arc<Semaphore>,
    /// The driver was told to look after the peer, and has not begun.
    is_told: AtomicBool,
    /// There is a session with the peer, or what is left of one.
    has_met: AtomicBool,
    /// Something was committed since the last handle was made.
    was_used: AtomicBool,
    /// The longest message that the outbox takes.
    longest: AtomicUsize,
    longest_datagram: AtomicUsize,
    /// Datagrams can be sent now.
    takes_datagrams: AtomicBool,
}

/// What of the queue to a handle both its ends know. One end writes that it waits and reads how full it is, the other the
/// other way round: only in one order of all four does one of them see the other.
#[derive(Default)]
pub(crate) struct Queue {
    messages: AtomicUsize,
    octets: AtomicUsize,
    /// The driver waits for the application to take some.
    is_wanted: AtomicBool,
}

/// Messages that wait for the application in its handle, and their octets, before the last of them.
pub(crate) const QUEUE_MESSAGES: usize = 512;
const QUEUE_OCTETS: usize = 512 * 1024;

impl Queue {
    fn has_room(&self) -> bool {
        self.messages.load(Ordering::SeqCst) < QUEUE_MESSAGES && self.octets.load(Ordering::SeqCst) < QUEUE_OCTETS
    }

    /// Whether another message may be added. If not, the driver is told when some were taken.
    pub(crate) fn takes(&self) -> bool {
        if self.has_room() {
            return true;
        }
        self.is_wanted.store(true, Ordering::SeqCst);
        self.has_room()
    }

    pub(crate) fn add(&self, octets: usize) {
        self.messages.fetch_add(1, Ordering::SeqCst);
        self.octets.fetch_add(octets, Ordering::SeqCst);
    }
}

/// Messages to the peer.
pub(crate) struct Outgoing {
    pub(crate) outbox: Outbox,
    pending: HashMap<MessageId, Pending>,
    is_closed: bool,
}

/// Messages of the peer.
pub(crate) struct Incoming {
    pub(crate) inbox: Inbox,
    /// What was committed without a store, and how much: the driver tells the peer.
    committed: Vec<(Instance, Told)>,
    is_closed: bool,
}

/// How much there is to tell.
#[derive(Clone, Copy, Default)]
pub(crate) struct Told {
    pub(crate) messages: usize,
    pub(crate) octets: usize,
}

/// A message that was taken and is not committed.
struct Pending {
    progress: Teller,
    room: OwnedSemaphorePermit,
}

impl Outgoing {
    /// Takes a message in. Returns what is to be written if it is `stored`, and what becomes of it.
    pub(crate) fn push(
        &mut self,
        body: Vec<u8>,
        options: SendOptions,
        stored: bool,
        (first, room): (Progress, OwnedSemaphorePermit),
    ) -> Result<(Receipt, Batch), NodeError> {
        if self.is_closed {
            return Err(NodeError::Closed);
        }
        let (id, superseded) = self.outbox.push(body, options, stored).map_err(NodeError::Push)?;
        let batch = self.settle(superseded, Progress::Dropped);
        let progress = Teller::new(first);
        let receipt = progress.receipt(id);
        self.pending.insert(id, Pending { progress, room });
        Ok((receipt, batch))
    }

    /// The message could not be written.
    pub(crate) fn withdraw(&mut self, id: MessageId) {
        self.outbox.withdraw(id);
        self.pending.remove(&id);
    }

    /// Tells who waits for a message how far it has come.
    pub(crate) fn report(&self, id: MessageId, progress: Progress) {
        if let Some(pending) = self.pending.get(&id) {
            pending.progress.tell(progress);
        }
    }

    /// There is a session for what waited for the first one.
    pub(crate) fn met(&self) {
        for pending in self.pending.values() {
            if pending.progress.progress() == Progress::NeverMet {
                pending.progress.tell(Progress::UnderWay);
            }
        }
    }

    pub(crate) fn settle(&mut self, delivered: Delivered, outcome: Progress) -> Batch {
        for id in delivered.ids {
            if let Some(pending) = self.pending.remove(&id) {
                pending.progress.tell(outcome);
            }
        }
        delivered.batch
    }
}

impl Shared {
    pub(crate) fn new(peer: IdentityId, common: Arc<Common>) -> Self {
        let outbox = Outbox::new(peer, common.instance);
        Self {
            peer,
            common,
            outgoing: Mutex::new(Outgoing { outbox, pending: HashMap::new(), is_closed: false }),
            incoming: Mutex::new(Incoming { inbox: Inbox::new(peer), committed: Vec::new(), is_closed: false }),
            datagrams_out: DatagramQueue::new(),
            datagrams_in: DatagramQueue::new(),
            payloads_in: DatagramQueue::new(),
            room: Arc::new(Semaphore::new(OUTBOX_UNITS as usize)),
            is_told: AtomicBool::new(false),
            has_met: AtomicBool::new(false),
            was_used: AtomicBool::new(false),
            longest: AtomicUsize::new(MAX_MESSAGE),
            longest_datagram: AtomicUsize::new(MAX_DATAGRAM),
            takes_datagrams: AtomicBool::new(false),
        }
    }

    pub(crate) fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn incoming(&self) -> MutexGuard<'_, Incoming> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- the application ----

    /// The longest message that can be sent to the peer, in octets.
    pub(crate) fn longest(&self) -> usize {
        self.longest.load(Ordering::Relaxed)
    }

    /// Waits for room for a message of so many octets.
    pub(crate) async fn room_for(&self, octets: usize) -> Result<OwnedSemaphorePermit, NodeError> {
        let limit = self.longest();
        if octets > limit {
            return Err(NodeError::TooLong { limit, got: octets });
        }
        self.room.clone().acquire_many_owned(units(octets)).await.map_err(|_| NodeError::Closed)
    }

    /// Waits until the outbox is empty.
    pub(crate) async fn flushed(&self) -> Result<(), NodeError> {
        self.room.acquire_many(OUTBOX_UNITS).await.map(drop).map_err(|_| NodeError::Closed)
    }

    /// Takes a message in that lives in memory.
    pub(crate) fn send_live(
        &self,
        body: Vec<u8>,
        options: SendOptions,
        room: OwnedSemaphorePermit,
    ) -> Result<Receipt, NodeError> {
        let (receipt, _) = self.outgoing().push(body, options, false, (self.first_progress(), room))?;
        self.tell();
        Ok(receipt)
    }

    /// Commits a message where nothing is written for it.
    pub(crate) fn done(&self, message: MessageId, octets: usize) -> Result<(), NodeError> {
        let mut incoming = self.incoming();
        if incoming.is_closed {
            return Err(NodeError::Closed);
        }
        let (_, marks) = incoming.inbox.done(message).ok_or(NodeError::InUse)?;
        incoming.inbox.written(message.instance, marks);
        incoming.note(message.instance, octets);
        drop(incoming);
        self.was_used();
        self.tell();
        Ok(())
    }

    /// The application has taken a message of so many octets from its queue.
    pub(crate) fn taken(&self, queue: &Queue, octets: usize) {
        let messages = queue.messages.fetch_sub(1, Ordering::SeqCst) - 1;
        let octets = queue.octets.fetch_sub(octets, Ordering::SeqCst) - octets;
        // Not for each: the driver then finds room for many.
        let is_low = messages <= QUEUE_MESSAGES / 2 && octets <= QUEUE_OCTETS / 2;
        if is_low && queue.is_wanted.swap(false, Ordering::SeqCst) {
            self.tell();
        }
    }

    /// The longest datagram that can be sent to the peer, in octets.
    pub(crate) fn longest_datagram(&self) -> usize {
        self.longest_datagram.load(Ordering::Relaxed)
    }

    /// Whether there is a session with the peer, and a link that leads there.
    pub(crate) fn takes_datagrams(&self) -> bool {
        self.takes_datagrams.load(Ordering::Acquire)
    }

    /// Has the driver look after the peer.
    pub(crate) fn tell(&self) {
        if !self.is_told.swap(true, Ordering::AcqRel) {
            let command = Command::Awake { peer: self.peer };
            if self.common.commands.try_send(command).is_err() {
                self.common.wake.notify_one();
            }
        }
    }

    /// What a message is before anything has become of it.
    pub(crate) fn first_progress(&self) -> Progress {
        if self.has_met.load(Ordering::Relaxed) { Progress::UnderWay } else { Progress::NeverMet }
    }

    // ---- the driver ----

    /// The driver looks after the peer now: what comes later it is told anew.
    pub(crate) fn is_looked_after(&self) {
        self.is_told.store(false, Ordering::Release);
    }

    pub(crate) fn was_used(&self) {
        self.was_used.store(true, Ordering::Relaxed);
    }

    /// Whether something was committed since it was asked last.
    pub(crate) fn take_was_used(&self) -> bool {
        self.was_used.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn set_takes_datagrams(&self, takes: bool) {
        self.takes_datagrams.store(takes, Ordering::Release);
    }

    /// Messages and datagrams go in records that carry so many octets.
    ///
    /// # Errors
    /// How many they would have to carry: more, for any, or for what waits.
    pub(crate) fn set_content(&self, content: usize) -> Result<(), usize> {
        let longest = self.outgoing().outbox.set_content(content)?;
        self.longest.store(longest, Ordering::Relaxed);
        self.longest_datagram.store(content.min(MAX_DATAGRAM), Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn set_met(&self, has_met: bool) {
        self.has_met.store(has_met, Ordering::Relaxed);
    }

    /// What was committed without a store since it was asked last.
    pub(crate) fn take_committed(&self) -> Vec<(Instance, Told)> {
        std::mem::take(&mut self.incoming().committed)
    }

    /// Takes a row of the store back.
    pub(crate) fn load(&self, table: Table, key: &[u8], value: &[u8]) -> bool {
        match table {
            Table::Outbox => {
                let mut outgoing = self.outgoing();
                let Some(id) = outgoing.outbox.load(key, value) else { return false };
                // It takes its room as if it had just been sent; who waited for its receipt is gone.
                let free = u32::try_from(self.room.available_permits()).unwrap_or(u32::MAX);
                if let Ok(room) = self.room.clone().try_acquire_many_owned(units(value.len()).min(free)) {
                    match outgoing.pending.get_mut(&id) {
                        // Another part of the same message.
                        Some(pending) => pending.room.merge(room),
                        None => {
                            let progress = Teller::new(Progress::UnderWay);
                            outgoing.pending.insert(id, Pending { progress, room });
                        }
                    }
                }
                true
            }
            Table::Inbox => self.incoming().inbox.load(key, value),
            Table::Boxes
            | Table::Custody
            | Table::Sessions
            | Table::Peers
            | Table::Prekeys
            | Table::Handshakes
            | Table::Published
            | Table::Pairings => false,
        }
    }

    /// The driver is about to end: nothing is taken any more.
    pub(crate) fn close(&self) {
        self.outgoing().is_closed = true;
        self.incoming().is_closed = true;
    }

    /// The driver has ended: who waits learns it.
    pub(crate) fn end(&self) {
        self.close();
        self.datagrams_out.end();
        self.datagrams_in.end();
        self.payloads_in.end();
        // In this order: what is given up must not look like what was committed.
        self.room.close();
        self.outgoing().pending.clear();
    }
}

impl Incoming {
    fn note(&mut self, instance: Instance, octets: usize) {
        match self.committed.iter_mut().find(|(known, _)| *known == instance) {
            Some((_, told)) => *told = Told { messages: told.messages + 1, octets: told.octets + octets },
            None => self.committed.push((instance, Told { messages: 1, octets })),
        }
    }
}
