//! What a link can do.

use core::num::NonZeroU32;

/// In which order frames arrive, and whether all do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// All frames, in order, or the link ends: TCP.
    Reliable,
    /// Any frame may be lost, doubled or overtaken: UDP.
    Datagram,
}

/// What a link can do, as far as its user has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkCapabilities {
    /// The longest frame in octets: the payload alone, without the link's own framing.
    pub mtu: usize,
    /// The longest frame that the medium carries at once. Longer ones go in fragments, and are lost with any of these.
    pub unit: usize,
    /// Octets a second, where they are few: then little is to wait in a queue.
    pub rate: Option<NonZeroU32>,
    /// Order and loss.
    pub ordering: Ordering,
    /// Whether the S1 handshake is allowed: not on links that declare themselves constrained.
    pub allows_s1: bool,
    /// Whether the source of a frame can be forged by somebody who is not on the path.
    pub forgeable_source: bool,
}

impl LinkCapabilities {
    /// A link of datagrams of at most `mtu` octets that declares itself constrained, as LoRa does: whoever is in reach can send
    /// in another's name, and S1 is not allowed.
    #[must_use]
    pub const fn constrained(mtu: usize) -> Self {
        Self { mtu, unit: mtu, rate: None, ordering: Ordering::Datagram, allows_s1: false, forgeable_source: true }
    }

    /// A network of datagrams, in which a source can be forged; frames above `unit` octets go in fragments, those above
    /// `mtu` not at all.
    #[must_use]
    pub const fn datagrams(mtu: usize, unit: usize) -> Self {
        Self { unit, ordering: Ordering::Datagram, forgeable_source: true, ..Self::reliable(mtu) }
    }

    /// A line of so many octets a second between two machines, on which some may be lost.
    #[must_use]
    pub const fn line(mtu: usize, unit: usize, rate: NonZeroU32) -> Self {
        Self { unit, rate: Some(rate), ordering: Ordering::Datagram, ..Self::reliable(mtu) }
    }

    /// A reliable stream of frames of at most `mtu` octets, whose other end has completed a connection.
    #[must_use]
    pub const fn reliable(mtu: usize) -> Self {
        Self { mtu, unit: mtu, rate: None, ordering: Ordering::Reliable, allows_s1: true, forgeable_source: false }
    }
}
