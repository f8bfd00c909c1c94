//! A peer of the constrained profile, as an application names it.

use std::fmt;

use sealway_channel::PairingKeys;
use sealway_link::FrameLink;

use crate::Rhythm;

/// A peer with whom there is a pairing of the constrained profile: its keys, the link that leads to it and to nobody else, and
/// when it can be spoken to.
///
/// The keys come from provisioning, or from an S1 channel between the two (`Endpoint::pairing`). Both sides have to agree on
/// the rhythm.
pub struct PairedPeer {
    pub(crate) keys: PairingKeys,
    pub(crate) link: Box<dyn FrameLink>,
    pub(crate) rhythm: Option<Rhythm>,
    pub(crate) payload: Vec<u8>,
}

impl PairedPeer {
    /// A peer that can be spoken to at any time. The link's frames have to take 51 octets.
    #[must_use]
    pub const fn new(keys: PairingKeys, link: Box<dyn FrameLink>) -> Self {
        Self { keys, link, rhythm: None, payload: Vec::new() }
    }

    /// The side that calls sleeps, but for its rhythm.
    #[must_use]
    pub const fn with_rhythm(mut self, rhythm: Rhythm) -> Self {
        self.rhythm = Some(rhythm);
        self
    }

    /// Has these octets go with the next call, on the side that calls, or with the next answer
    /// ([`HandshakePayloads`](crate::HandshakePayloads)): at most 192, and what the link's frames leave beside 51.
    #[must_use]
    pub fn with_payload(mut self, octets: Vec<u8>) -> Self {
        self.payload = octets;
        self
    }
}

impl fmt::Debug for PairedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairedPeer").field("keys", &self.keys).field("rhythm", &self.rhythm).finish_non_exhaustive()
    }
}
