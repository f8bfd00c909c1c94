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
}

impl PairedPeer {
    /// A peer that can be spoken to at any time. The link's frames have to take 51 octets.
    #[must_use]
    pub const fn new(keys: PairingKeys, link: Box<dyn FrameLink>) -> Self {
        Self { keys, link, rhythm: None }
    }

    /// The side that calls sleeps, but for its rhythm.
    #[must_use]
    pub const fn with_rhythm(mut self, rhythm: Rhythm) -> Self {
        self.rhythm = Some(rhythm);
        self
    }
}

impl fmt::Debug for PairedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairedPeer").field("keys", &self.keys).field("rhythm", &self.rhythm).finish_non_exhaustive()
    }
}
