//! What goes with handshakes of the constrained profile: in its two frames there may be room for a few octets.

use std::{fmt, sync::Arc};

use sealway_wire::IdentityId;

use crate::{
    NodeError,
    datagrams::Taken,
    handle::{Command, ask},
    shared::Shared,
};

/// What goes with the handshakes of a paired peer: a reading with the call of a device, and a setting with the answer, before there is a
/// session.
///
/// Each goes with one handshake, and arrives once at most: what its taker has not fetched when its process ends is lost. What
/// has to arrive is sent as a message.
pub struct HandshakePayloads {
    shared: Arc<Shared>,
    taken: Taken,
}

/// What has come with a handshake of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakePayload {
    octets: Vec<u8>,
    is_early: bool,
}

impl HandshakePayload {
    /// The octets, at most 192.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// Whether it has come with a call, which whoever has stolen our channel key and the psk can forge: enough to report upon, and
    /// not to act upon. What comes with an answer is not early.
    #[must_use]
    pub const fn is_early(&self) -> bool {
        self.is_early
    }

    /// As it waits in a queue: whether it is early, then the octets.
    pub(crate) fn encode(octets: &[u8], is_early: bool) -> Vec<u8> {
        [&[u8::from(is_early)], octets].concat()
    }
}

impl HandshakePayloads {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, taken: Taken::new() }
    }

    /// The peer's identity.
    #[must_use]
    pub fn peer(&self) -> IdentityId {
        self.shared.peer
    }

    /// Has these octets go with the next call, on the side that calls, or with the next answer: in the place of what was set before.
    /// Over a link whose sources can be forged an answer is not longer than its call: what is longer waits for a longer call.
    /// What goes with the first call of a pairing is named before, with [`PairedPeer::with_payload`](crate::PairedPeer::with_payload).
    ///
    /// # Errors
    /// [`NodeError::TooLong`] above 192 octets, or what the link's frames leave beside 51; [`NodeError::NotPaired`] if it is no
    /// peer of the constrained profile; [`NodeError::Closed`].
    pub async fn set(&self, octets: &[u8]) -> Result<(), NodeError> {
        let (peer, octets) = (self.shared.peer, octets.to_vec());
        ask(&self.shared.common.commands, |reply| Command::SetPayload { peer, octets, reply }).await
    }

    /// What has come with the next handshake that the peer has put something into. `None`: the node has shut down.
    ///
    /// Several of these handles share what comes: each goes to one of them. What a handle has fetched and not handed over is lost when
    /// it is dropped: keep one.
    ///
    /// Cancel-safe.
    pub async fn recv(&mut self) -> Option<HandshakePayload> {
        let (is_early, octets) = self.taken.next(&self.shared.payloads_in).await?.split_first()?;
        Some(HandshakePayload { octets: octets.to_vec(), is_early: *is_early != 0 })
    }
}

impl fmt::Debug for HandshakePayloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakePayloads").field("peer", &self.shared.peer).finish_non_exhaustive()
    }
}
