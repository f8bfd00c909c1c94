//! What a link can do.

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
        Self { mtu, ordering: Ordering::Datagram, allows_s1: false, forgeable_source: true }
    }

    /// A network of datagrams, in which a source can be forged; frames of at most `mtu` octets go in fragments where they must.
    #[must_use]
    pub const fn datagrams(mtu: usize) -> Self {
        Self { mtu, ordering: Ordering::Datagram, allows_s1: true, forgeable_source: true }
    }

    /// A line of octets between two machines, on which some may be lost.
    #[must_use]
    pub const fn line(mtu: usize) -> Self {
        Self { mtu, ordering: Ordering::Datagram, allows_s1: true, forgeable_source: false }
    }

    /// A reliable stream of frames of at most `mtu` octets, whose other end has completed a connection.
    #[must_use]
    pub const fn reliable(mtu: usize) -> Self {
        Self { mtu, ordering: Ordering::Reliable, allows_s1: true, forgeable_source: false }
    }
}
