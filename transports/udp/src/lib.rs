//! Sealway frames over UDP.
//!
//! * Addresses: `udp://192.0.2.1:7001`, `udp://[2001:db8::1]:7001`, `udp://relay.example:7001`. A name is resolved at each
//!   connection; its addresses are tried in turn, one a connection.
//! * One socket for all peers that come to a listener, and one for each connection. The system sends and receives many datagrams
//!   at once where it can (GSO, GRO).
//! * Handshakes go bare, in fragments where they are longer than a datagram. Everything else goes in packets that are
//!   acknowledged, sent again, and no more at once than the path takes: `sealway_link::recovery`. Small frames share packets.
//! * Datagrams have 1200 octets until longer ones are known to arrive, 508 if those do not; they are never fragmented by IP.
//! * MTU 20480 octets. Frames are lost when the network loses them again and again; their order is not kept.
//! * Who has not authenticated gets at most three times what it has sent, no acknowledgement and no probe.
//! * Links to several places may leave from one socket: what lets a peer behind a NAT be reached there, once a relay has told both
//!   where they are seen.
//! * A link on which nothing has arrived for 90 s is given up: its users say something more often. A peer that moves to another
//!   address appears as a new link there; the channel above knows it again.
#![forbid(unsafe_code)]

mod branch;
mod link;
mod socket;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sealway_link::{BoxFuture, FrameLink, LinkError, LinkErrorKind, Listener, Transport};
use sealway_wire::{Address, NetAddress};

pub use link::{MTU, UdpLink};
use socket::{Arrivals, Open};

/// The medium, with its limits.
#[derive(Clone, Debug)]
pub struct Udp {
    idle_timeout: Duration,
    local: Option<IpAddr>,
    port: u16,
    /// The socket of that port.
    shared: Arc<Mutex<Weak<Open>>>,
    /// Connections made so far: each begins with another address of a name.
    turn: Arc<AtomicUsize>,
}

impl Default for Udp {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(90),
            local: None,
            port: 0,
            shared: Arc::default(),
            turn: Arc::default(),
        }
    }
}

impl Udp {
    /// Connects from `address`, for machines with several.
    #[must_use]
    pub fn from_local_address(self, address: IpAddr) -> Self {
        Self { local: Some(address), ..self }
    }

    /// Connects from this port, all connections from one socket; from any other port if somebody else has it. For machines to
    /// which a router forwards it.
    #[must_use]
    pub fn from_local_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Gives a link up on which nothing has arrived for `limit`.
    #[must_use]
    pub fn with_idle_timeout(self, limit: Duration) -> Self {
        Self { idle_timeout: limit, ..self }
    }

    /// A socket for a connection: that of the given port, if there is one, and it is free or ours already.
    fn open_at(&self, local: IpAddr) -> std::io::Result<Arc<Open>> {
        let open = |port| socket::open(SocketAddr::new(local, port), false);
        if self.port == 0 {
            return open(0);
        }
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |open: &Arc<Open>| open.socket.is_ipv6() == local.is_ipv6();
        if let Some(open) = shared.upgrade().filter(fits) {
            return Ok(open);
        }
        match open(self.port) {
            Ok(open) => {
                *shared = Arc::downgrade(&open);
                Ok(open)
            }
            Err(_) => open(0),
        }
    }

    async fn connect_to(&self, address: &NetAddress<'_>) -> Result<UdpLink, LinkError> {
        let targets = sealway_ip::resolve(address).await?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let unreachable = || LinkError::new(LinkErrorKind::Unreachable, address);
        let target = *targets.get(turn % targets.len().max(1)).ok_or_else(unreachable)?;
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let local = self.local.filter(|local| local.is_ipv4() == target.is_ipv4()).unwrap_or(any);
        let open = self.open_at(local).map_err(|error| sealway_ip::failure(error, address))?;
        // The last link to there may still be ending.
        let inbox = open.socket.claim(target).ok_or_else(unreachable)?;
        let mut link = UdpLink::new(open, inbox, target, self.idle_timeout)?;
        link.set_connected();
        Ok(link)
    }
}

/// The address, or that it is none of this medium.
fn place<'a>(address: &'a Address<'a>) -> Result<&'a NetAddress<'a>, LinkError> {
    let place = sealway_ip::place(address, sealway_wire::Transport::Udp);
    place.ok_or_else(|| LinkError::new(LinkErrorKind::Unsupported, address))
}

impl Transport for Udp {
    fn supports(&self, address: &Address<'_>) -> bool {
        sealway_ip::place(address, sealway_wire::Transport::Udp).is_some()
    }

    fn connect<'a>(&'a self, address: &'a Address<'a>) -> BoxFuture<'a, Result<Box<dyn FrameLink>, LinkError>> {
        Box::pin(async move {
            let address = place(address)?;
            Ok(Box::new(self.connect_to(address).await?) as _)
        })
    }

    fn listen<'a>(&'a self, address: &'a Address<'a>) -> BoxFuture<'a, Result<Box<dyn Listener>, LinkError>> {
        Box::pin(async move {
            let address = place(address)?;
            let targets = sealway_ip::resolve(address).await?;
            let target = *targets.first().ok_or_else(|| LinkError::new(LinkErrorKind::Unreachable, address))?;
            let open = socket::open(target, true).map_err(|error| sealway_ip::failure(error, address))?;
            let arrivals = open.listen().ok_or_else(|| LinkError::new(LinkErrorKind::Other, address))?;
            Ok(Box::new(UdpListener { open, arrivals, idle_timeout: self.idle_timeout }) as _)
        })
    }
}

/// A socket to which anybody may send.
pub struct UdpListener {
    open: Arc<Open>,
    arrivals: Arrivals,
    idle_timeout: Duration,
}

impl Listener for UdpListener {
    fn address(&self) -> String {
        self.open.socket.local_address().map_or_else(|_| "udp://?".to_string(), |address| format!("udp://{address}"))
    }

    fn accept(&mut self) -> BoxFuture<'_, Result<Box<dyn FrameLink>, LinkError>> {
        Box::pin(async move {
            let ended = || LinkError::new(LinkErrorKind::Lost, "a socket");
            let (peer, inbox) = self.arrivals.recv().await.ok_or_else(ended)?;
            Ok(Box::new(UdpLink::new(self.open.clone(), inbox, peer, self.idle_timeout)?) as _)
        })
    }
}
