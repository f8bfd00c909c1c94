//! One session: the keys that one handshake made, and what is known of the peer under them.

use sealway_identity::Peer;
use sealway_vault::{CryptoProvider, Secret};
use sealway_wire::{Cid, Lane, RecordHeader, Timestamp, content::Ranges};

use crate::{
    FrameError, Role, SendError,
    lane::{Opened, Plaintext, ReceiveLane, Sealed, SendLane, Shape},
    schedule::{self, SessionKey},
    stored::StoredLane,
};

/// Keys and counters of one session.
pub(crate) struct Session<P: CryptoProvider> {
    send: SendLane<P>,
    receive: ReceiveLane<P>,
    /// What of it outlives the live lane.
    pub(crate) stored: StoredLane<P>,
    exporter: Secret<32>,
}

impl<P: CryptoProvider> Session<P> {
    pub(crate) fn new(key: &SessionKey<'_, P>, role: Role, local: Cid, remote: Cid, peer: Peer) -> Self {
        Self {
            send: SendLane::new(Lane::Live, key.chain(Lane::Live, role)),
            receive: ReceiveLane::new(Lane::Live, key.chain(Lane::Live, role.other())),
            stored: StoredLane::new(key, role, (local, remote), peer),
            exporter: key.exporter(),
        }
    }

    pub(crate) const fn role(&self) -> Role {
        self.stored.role
    }

    /// Our connection id: the peer puts it on its records.
    pub(crate) const fn local(&self) -> Cid {
        self.stored.local
    }

    pub(crate) const fn peer(&self) -> &Peer {
        &self.stored.peer
    }

    /// Seals a record of the live lane.
    pub(crate) fn seal(
        &mut self,
        provider: &P,
        plaintext: Plaintext<'_>,
        shape: Shape,
        out: &mut [u8],
    ) -> Result<Sealed, SendError> {
        self.send.seal(provider, self.stored.remote, plaintext, shape, out)
    }

    /// The counter of the record of the live lane that is sealed next.
    pub(crate) const fn next_counter(&self) -> u64 {
        self.send.sealed()
    }

    pub(crate) fn open(
        &mut self,
        provider: &P,
        now: Timestamp,
        header: &RecordHeader,
        frame: &mut [u8],
    ) -> Result<Opened, FrameError> {
        match header.lane {
            Lane::Stored => self.stored.open(provider, now, header, frame),
            // No live lane is ever restored.
            Lane::Live if header.incarnation.is_some() => Err(FrameError::Rejected),
            Lane::Live => self.receive.open(provider, now, &self.stored.local, header, frame),
        }
    }

    /// The records of the live lane that were opened.
    pub(crate) fn opened(&self) -> Option<Ranges> {
        self.receive.opened()
    }

    /// Takes note that the peer has opened records of the live lane. The stored lane's counters travel whole.
    pub(crate) fn acknowledge(&mut self, opened: &Ranges) {
        self.send.acknowledge(opened);
    }

    /// Octets that only the two ends of this session know.
    pub(crate) fn export(&self, provider: &P, name: &str, context: &[u8], out: &mut [u8]) -> bool {
        schedule::export(provider, schedule::DOMAIN, &self.exporter, name, context, out)
    }
}
