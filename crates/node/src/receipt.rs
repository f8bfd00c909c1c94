//! What becomes of a message that was sent. There is one for each, so it is small: an octet, and whoever waits for it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use sealway_wire::MessageId;
use tokio::sync::Notify;

use crate::NodeError;

/// How far a message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// It waits here: there is no session with the peer, or the last one is older than two weeks, and no relay has given us a
    /// prekey of it, to which a letter could be sealed. The peer has to attach to its relay once, and to let us in there.
    NeverMet,
    /// It waits here, or is on its way.
    UnderWay,
    /// A relay has it on its disk and hands it over when the peer attaches. It stays in the outbox until the peer has
    /// committed it: a relay's word is no proof.
    InCustody,
    /// The peer's application has committed it.
    Delivered,
    /// It expired, or was superseded, before it was known to be committed.
    Dropped,
}

impl Progress {
    const ALL: [Self; 5] = [Self::NeverMet, Self::UnderWay, Self::InCustody, Self::Delivered, Self::Dropped];

    const fn is_final(self) -> bool {
        matches!(self, Self::Delivered | Self::Dropped)
    }
}

/// Beside the progress: nobody will tell of any more.
const ENDED: u8 = 0x80;

#[derive(Debug)]
struct State {
    /// A [`Progress`] by its place, and [`ENDED`].
    progress: AtomicU8,
    changed: Notify,
}

impl State {
    fn load(&self) -> (Progress, bool) {
        let octet = self.progress.load(Ordering::Acquire);
        let progress = Progress::ALL.get(usize::from(octet & !ENDED)).copied().unwrap_or(Progress::Dropped);
        (progress, octet & ENDED != 0)
    }
}

/// The other end of a [`Receipt`]. When it is dropped, nothing more will become of the message here.
#[derive(Debug)]
pub(crate) struct Teller(Arc<State>);

impl Teller {
    pub(crate) fn new(first: Progress) -> Self {
        Self(Arc::new(State { progress: AtomicU8::new(first as u8), changed: Notify::new() }))
    }

    pub(crate) fn tell(&self, progress: Progress) {
        self.0.progress.store(progress as u8, Ordering::Release);
        self.0.changed.notify_waiters();
    }

    pub(crate) fn progress(&self) -> Progress {
        self.0.load().0
    }

    pub(crate) fn receipt(&self, id: MessageId) -> Receipt {
        Receipt { id, seen: self.progress(), state: self.0.clone() }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.0.progress.fetch_or(ENDED, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }
}

/// What becomes of a message that was sent.
#[derive(Clone)]
pub struct Receipt {
    id: MessageId,
    /// What [`changed`](Self::changed) has told.
    seen: Progress,
    state: Arc<State>,
}

impl Receipt {
    /// How far the message has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.state.load().0
    }

    /// Whether nothing more will become of it.
    pub(crate) fn is_settled(&self) -> bool {
        self.progress().is_final()
    }

    /// Waits until it has come further, and tells how far.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`NodeError::Closed`] if the node ends, or nothing further will come.
    pub async fn changed(&mut self) -> Result<Progress, NodeError> {
        let seen = self.seen;
        self.seen = self.wait_for(|progress| progress != seen).await?;
        Ok(self.seen)
    }

    /// The id of the message.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        self.id
    }

    /// Waits until the peer's application has committed the message.
    ///
    /// # Errors
    /// [`NodeError::Dropped`] if it expired or was superseded; [`NodeError::Closed`] if the node ends first: a durable
    /// message then stays in the outbox.
    pub async fn delivered(self) -> Result<(), NodeError> {
        match self.wait_for(Progress::is_final).await? {
            Progress::Delivered => Ok(()),
            _ => Err(NodeError::Dropped),
        }
    }

    async fn wait_for(&self, wanted: impl Fn(Progress) -> bool) -> Result<Progress, NodeError> {
        loop {
            let changed = self.state.changed.notified();
            tokio::pin!(changed);
            // From here on nothing is missed, so what is looked at next is either enough or about to change.
            changed.as_mut().enable();
            let (progress, is_ended) = self.state.load();
            if wanted(progress) {
                return Ok(progress);
            }
            if is_ended {
                return Err(NodeError::Closed);
            }
            changed.await;
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").field("id", &self.id).field("progress", &self.progress()).finish_non_exhaustive()
    }
}
