//! The traits.

use alloc::{boxed::Box, string::String, sync::Arc};
use core::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use sealway_wire::Address;

use crate::{Frames, LinkCapabilities, LinkError};

/// A future on the heap: for connecting and accepting, which are rare.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A socket of which several links leave, and who waits for those of others there.
pub type Branched = (Arc<dyn Branch>, Option<Box<dyn Listener>>);

/// Carries whole frames both ways.
///
/// Notes for implementers: every `poll_*` may be dropped and called again without losing or doubling a frame, and none
/// allocates per frame once its buffers have grown.
pub trait FrameLink: Send {
    /// What the link can do.
    fn capabilities(&self) -> LinkCapabilities;

    /// Who is at the other end, as far as limits of unauthenticated frames go: the same number for the same IPv4 address
    /// or IPv6 /56.
    fn source(&self) -> u64;

    /// From which address frames of the other end come, where others can send to the same address over the same medium, or could
    /// if what stands before it let them: a NAT lets those in to whom it has let something out. None where that is not so, as for
    /// a connection.
    fn observed(&self) -> Option<SocketAddr> {
        None
    }

    /// The socket beneath a link that was connected, for links to other places from the same address, and a listener for those
    /// that others begin there: none where an earlier link of the same socket has given it away. Only before anything else is
    /// done with the link.
    fn branch(&mut self) -> Option<Branched> {
        None
    }

    /// Something authentic has come over the link, perhaps from an address that is not the sender's: from now on it may
    /// acknowledge what comes, within what was received.
    fn set_heard(&mut self) {}

    /// Somebody whom we know is at the other end, or we have chosen whom the link leads to: from now on it may spend memory
    /// and answers on it.
    fn set_proved(&mut self) {}

    /// Appends at least one frame to `frames`, and what else is at hand until there are `limit` octets in it. `false`: the peer
    /// has ended its direction, no more frames come. Not ready: nothing was appended.
    ///
    /// A link whose medium carries less than its MTU at once hands up [fragments](crate::fragment) of frames as they come: who
    /// uses it knows which of them are worth keeping.
    ///
    /// # Errors
    /// The link has ended; nothing more can be received.
    fn poll_recv(&mut self, cx: &mut Context<'_>, frames: &mut Frames, limit: usize) -> Poll<Result<bool, LinkError>>;

    /// Takes a frame for sending, at most as long as the MTU. It leaves with the next [`poll_flush`](Self::poll_flush), or
    /// earlier. Not ready: the buffer is full; nothing was taken.
    ///
    /// # Errors
    /// The link has ended, or the frame is longer than the MTU.
    fn poll_send(&mut self, cx: &mut Context<'_>, frame: &[u8]) -> Poll<Result<(), LinkError>>;

    /// Hands everything that was taken to the medium.
    ///
    /// # Errors
    /// The link has ended.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>>;

    /// Flushes, then ends this direction. Frames of the peer can still be received.
    ///
    /// # Errors
    /// The link has ended.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>>;
}

/// A socket that carries several links.
pub trait Branch: Send + Sync {
    /// The address of ours from which frames leave, as far as this machine knows: what stands between may show others another one.
    fn address(&self) -> Option<SocketAddr>;

    /// Which socket it is, as long as that is open: those that leave from one have the same number.
    fn socket(&self) -> u64;

    /// A link to another place. Nothing leaves by itself; until [`FrameLink::set_proved`] no more leaves than 512 octets and three
    /// times what has come from there.
    ///
    /// # Errors
    /// If the socket does not reach such an address, there is a link to it already, or the socket is gone.
    fn connect(&self, to: SocketAddr) -> Result<Box<dyn FrameLink>, LinkError>;
}

/// Waits for links from others.
pub trait Listener: Send {
    /// Where it listens, with the port that the system chose where 0 was asked for.
    fn address(&self) -> String;

    /// The next link. Cancel-safe.
    fn accept(&mut self) -> BoxFuture<'_, Result<Box<dyn FrameLink>, LinkError>>;
}

/// A medium.
pub trait Transport: Send + Sync {
    /// Whether it speaks the address's scheme.
    fn supports(&self, address: &Address<'_>) -> bool;

    /// Connects, within the transport's own time limit.
    fn connect<'a>(&'a self, address: &'a Address<'a>) -> BoxFuture<'a, Result<Box<dyn FrameLink>, LinkError>>;

    /// Listens.
    fn listen<'a>(&'a self, address: &'a Address<'a>) -> BoxFuture<'a, Result<Box<dyn Listener>, LinkError>>;
}

impl<T: Transport + ?Sized> Transport for Box<T> {
    fn supports(&self, address: &Address<'_>) -> bool {
        (**self).supports(address)
    }

    fn connect<'a>(&'a self, address: &'a Address<'a>) -> BoxFuture<'a, Result<Box<dyn FrameLink>, LinkError>> {
        (**self).connect(address)
    }

    fn listen<'a>(&'a self, address: &'a Address<'a>) -> BoxFuture<'a, Result<Box<dyn Listener>, LinkError>> {
        (**self).listen(address)
    }
}
