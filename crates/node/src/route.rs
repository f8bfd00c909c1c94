//! The way to a peer, as far as it can be seen from here.

use sealway_wire::IdentityId;

/// A stop on the way to a peer: a relay that we are attached to, or the peer. Gateways are not seen: they have no identity.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hop {
    /// Who it is.
    pub id: IdentityId,
    /// Whether it is a relay.
    pub is_relay: bool,
    /// Where we have a link to it, or had the last one. None: it is reached over the hop before, or was never.
    pub place: Option<String>,
    /// The longest frame in octets that its link carries at once, as far as that is known by now.
    pub unit: Option<usize>,
    /// How far it goes.
    pub state: HopState,
    /// Why there was no link the last time.
    pub error: Option<String>,
}

/// How far the way to a hop is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HopState {
    /// There is no link.
    Unreached,
    /// There is a link, or an open hop before it, and no session yet: it does not answer, or does not admit us.
    Unanswered,
    /// The relay before it says that nobody is attached there.
    Away,
    /// There is a session.
    Open,
}
