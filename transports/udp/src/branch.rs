//! Links to other places from the socket of one that was connected.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};

use sealway_link::{BoxFuture, Branch, Branched, FrameLink, LinkError, LinkErrorKind, Listener};

use crate::{
    link::UdpLink,
    socket::{Arrivals, Open},
};

/// What may be sent to a place of which nothing has come yet, in octets: a few short records.
const UNASKED: usize = 512;

/// A socket. It is open as long as one of its links is.
struct UdpBranch {
    open: Weak<Open>,
    /// Where the link leads from which it was taken.
    peer: SocketAddr,
    idle_timeout: Duration,
}

/// The branch of a link, and what comes to its socket from others, if nobody else listens there.
pub(crate) fn of(open: &Arc<Open>, peer: SocketAddr, idle_timeout: Duration) -> Branched {
    let arrivals = open.listen();
    let open = Arc::downgrade(open);
    let branch = UdpBranch { open: open.clone(), peer, idle_timeout };
    let listener = arrivals.map(|arrivals| Box::new(Beside { open, arrivals, idle_timeout }) as _);
    (Arc::new(branch), listener)
}

fn is_gone() -> LinkError {
    LinkError::new(LinkErrorKind::Lost, "a socket")
}

impl Branch for UdpBranch {
    fn address(&self) -> Option<SocketAddr> {
        let bound = self.open.upgrade()?.socket.local_address().ok()?;
        if !bound.ip().is_unspecified() {
            return Some(bound);
        }
        // The system tells which one it would send from; nothing is sent.
        let any: IpAddr = if self.peer.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let asked = std::net::UdpSocket::bind((any, 0)).ok()?;
        asked.connect(self.peer).ok()?;
        let local = asked.local_addr().ok()?.ip().to_canonical();
        // One that is not bound to this machine alone is not for what listens on it alone.
        (!local.is_loopback()).then(|| SocketAddr::new(local, bound.port()))
    }

    fn socket(&self) -> u64 {
        self.open.as_ptr().addr() as u64
    }

    fn connect(&self, to: SocketAddr) -> Result<Box<dyn FrameLink>, LinkError> {
        let open = self.open.upgrade().ok_or_else(is_gone)?;
        let to = open.socket.reaches(to).ok_or_else(|| LinkError::new(LinkErrorKind::Unsupported, to))?;
        let inbox = open.socket.add(to, None).ok_or_else(|| LinkError::new(LinkErrorKind::Other, to))?;
        let mut link = UdpLink::new(open, inbox, to, self.idle_timeout)?;
        link.allow(UNASKED);
        Ok(Box::new(link))
    }
}

/// Waits for others who send to the socket.
struct Beside {
    open: Weak<Open>,
    arrivals: Arrivals,
    idle_timeout: Duration,
}

impl Listener for Beside {
    fn address(&self) -> String {
        let address = self.open.upgrade().and_then(|open| open.socket.local_address().ok());
        address.map_or_else(|| "udp://?".to_string(), |address| format!("udp://{address}"))
    }

    fn accept(&mut self) -> BoxFuture<'_, Result<Box<dyn FrameLink>, LinkError>> {
        Box::pin(async move {
            let (peer, inbox) = self.arrivals.recv().await.ok_or_else(is_gone)?;
            let open = self.open.upgrade().ok_or_else(is_gone)?;
            Ok(Box::new(UdpLink::new(open, inbox, peer, self.idle_timeout)?) as _)
        })
    }
}
