//! Sealway frames over TCP.
//!
//! * Addresses: `tcp://192.0.2.1:7001`, `tcp://[2001:db8::1]:7001`, `tcp://relay.example:7001`. A name is resolved at each
//!   connection and its addresses are tried in turn.
//! * Framing: each frame behind its length in 2 octets, big-endian. Length 0 is not allowed.
//! * MTU 20480 octets; reliable, in order. Small frames are collected and leave in one write; `TCP_NODELAY` is set.
//! * Time limits: connecting (10 s), and writing: a peer that takes nothing for 60 s is given up. A link on which nothing
//!   has arrived for 90 s is given up too: its users say something more often.
//! * Half-close: after the peer has ended its direction, ours still works until it is closed.
#![forbid(unsafe_code)]

mod link;
mod listener;

use std::{net::IpAddr, time::Duration};

use sealway_link::{BoxFuture, FrameLink, LinkError, LinkErrorKind, Listener, Transport};
use sealway_wire::{Address, NetAddress};

pub use link::{MTU, TcpLink};
pub use listener::TcpFrameListener;

/// The medium, with its limits.
#[derive(Clone, Debug)]
pub struct Tcp {
    connect_timeout: Duration,
    timeouts: Timeouts,
    local: Option<IpAddr>,
}

/// After how long an established link is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// Nothing has arrived.
    pub(crate) idle: Duration,
    /// Something is to be written, and the peer takes nothing.
    pub(crate) write: Duration,
}

impl Default for Tcp {
    fn default() -> Self {
        let timeouts = Timeouts { idle: Duration::from_secs(90), write: Duration::from_secs(60) };
        Self { connect_timeout: Duration::from_secs(10), timeouts, local: None }
    }
}

impl Tcp {
    /// Connects from `address`, for machines with several.
    #[must_use]
    pub const fn from_local_address(self, address: IpAddr) -> Self {
        Self { local: Some(address), ..self }
    }

    /// Gives a connection up that is not there within `limit`.
    #[must_use]
    pub const fn with_connect_timeout(self, limit: Duration) -> Self {
        Self { connect_timeout: limit, ..self }
    }

    /// Gives a link up on which nothing has arrived for `limit`.
    #[must_use]
    pub const fn with_idle_timeout(self, limit: Duration) -> Self {
        Self { timeouts: Timeouts { idle: limit, ..self.timeouts }, ..self }
    }
}

/// The address, or that it is none of this medium.
fn place<'a>(address: &'a Address<'a>) -> Result<&'a NetAddress<'a>, LinkError> {
    let place = sealway_ip::place(address, sealway_wire::Transport::Tcp);
    place.ok_or_else(|| LinkError::new(LinkErrorKind::Unsupported, address))
}

impl Transport for Tcp {
    fn supports(&self, address: &Address<'_>) -> bool {
        sealway_ip::place(address, sealway_wire::Transport::Tcp).is_some()
    }

    fn connect<'a>(&'a self, address: &'a Address<'a>) -> BoxFuture<'a, Result<Box<dyn FrameLink>, LinkError>> {
        Box::pin(async move {
            let address = place(address)?;
            let connected = sealway_ip::stream::connect(address, self.local);
            match tokio::time::timeout(self.connect_timeout, connected).await {
                Ok(link) => link.map(|(stream, peer)| Box::new(TcpLink::new(stream, peer, self.timeouts)) as _),
                Err(_) => Err(LinkError::new(LinkErrorKind::TimedOut, address)),
            }
        })
    }

    fn listen<'a>(&'a self, address: &'a Address<'a>) -> BoxFuture<'a, Result<Box<dyn Listener>, LinkError>> {
        Box::pin(async move {
            let address = place(address)?;
            let listener = TcpFrameListener::bind(address, self.timeouts).await?;
            Ok(Box::new(listener) as _)
        })
    }
}
