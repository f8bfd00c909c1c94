//! One session: the keys that one handshake made, and what is known of the peer under them.

use sealway_identity::Peer;
use sealway_vault::{CryptoProvider, Secret};
use sealway_wire::{Cid, Instance, Lane, RecordHeader, Timestamp, content::Ranges};

use crate::{
    FrameError, HandshakeError, Role, SendError,
    lane::{Opened, Plaintext, ReceiveLane, Sealed, SendLane},
    schedule::{self, SessionKey},
};

/// Keys and counters of one session.
pub(crate) struct Session<P: CryptoProvider> {
    pub(crate) role: Role,
    /// Our connection id: the peer puts it on its records.
    pub(crate) local: Cid,
    /// The peer's connection id.
    remote: Cid,
    pub(crate) peer: Peer,
    live: Lanes<P>,
    stored: Lanes<P>,
    exporter: Secret<32>,
    /// The instance of the peer's START, once it has opened.
    pub(crate) peer_instance: Option<Instance>,
}

struct Lanes<P: CryptoProvider> {
    send: SendLane<P>,
    receive: ReceiveLane<P>,
}

impl<P: CryptoProvider> Session<P> {
    pub(crate) fn new(
        key: &SessionKey<'_, P>,
        role: Role,
        local: Cid,
        remote: Cid,
        peer: Peer,
    ) -> Result<Self, HandshakeError> {
        let lanes = |lane| -> Result<Lanes<P>, HandshakeError> {
            Ok(Lanes {
                send: SendLane::new(lane, key.chain(lane, role)?),
                receive: ReceiveLane::new(lane, key.chain(lane, role.other())?),
            })
        };
        let (live, stored) = (lanes(Lane::Live)?, lanes(Lane::Stored)?);
        let exporter = key.exporter()?;
        Ok(Self { role, local, remote, peer, live, stored, exporter, peer_instance: None })
    }

    const fn lanes(&mut self, lane: Lane) -> &mut Lanes<P> {
        match lane {
            Lane::Live => &mut self.live,
            Lane::Stored => &mut self.stored,
        }
    }

    pub(crate) fn seal(
        &mut self,
        provider: &P,
        lane: Lane,
        plaintext: Plaintext<'_>,
        limit: usize,
        out: &mut [u8],
    ) -> Result<Sealed, SendError> {
        let remote = self.remote;
        self.lanes(lane).send.seal(provider, remote, plaintext, limit, out)
    }

    pub(crate) fn open(
        &mut self,
        provider: &P,
        now: Timestamp,
        header: &RecordHeader,
        frame: &mut [u8],
    ) -> Result<Opened, FrameError> {
        // An incarnation belongs to a lane that was restored after a restart, which this version does not do.
        if header.incarnation.is_some() || (header.lane == Lane::Stored && !header.typed) {
            return Err(FrameError::Rejected);
        }
        let local = self.local;
        self.lanes(header.lane).receive.open(provider, now, local, header, frame)
    }

    pub(crate) fn opened(&self, lane: Lane) -> Option<Ranges> {
        match lane {
            Lane::Live => self.live.receive.opened(),
            Lane::Stored => self.stored.receive.opened(),
        }
    }

    pub(crate) fn acknowledge(&mut self, lane: Lane, opened: &Ranges) {
        self.lanes(lane).send.acknowledge(opened);
    }

    /// Records that we have sealed on the stored lane.
    pub(crate) const fn stored_records(&self) -> u64 {
        self.stored.send.sealed()
    }

    /// Octets that only the two ends of this session know.
    pub(crate) fn export(&self, provider: &P, name: &str, context: &[u8], out: &mut [u8]) -> bool {
        schedule::export(provider, &self.exporter, name, context, out)
    }
}
