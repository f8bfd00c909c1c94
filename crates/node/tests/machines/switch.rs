//! UDP whose links beside those to relays can be cut, for all frames or for long ones.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use sealway_link::{BoxFuture, Branch, Branched, FrameLink, Frames, LinkCapabilities, LinkError, Listener, Transport};
use sealway_udp::Udp;
use sealway_wire::Address;

/// The longest frame that passes on a way without a relay.
#[derive(Clone)]
pub(crate) struct Switch(Arc<AtomicUsize>);

impl Default for Switch {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(usize::MAX)))
    }
}

impl Switch {
    pub(crate) fn cut(&self, is_cut: bool) {
        self.pass_up_to(if is_cut { 0 } else { usize::MAX });
    }

    /// Frames of more octets are lost.
    pub(crate) fn pass_up_to(&self, octets: usize) {
        self.0.store(octets, Ordering::SeqCst);
    }

    /// A link of which frames are lost on the way out.
    pub(crate) fn over(&self, link: Box<dyn FrameLink>) -> Box<dyn FrameLink> {
        Box::new(Cut { link, switch: self.clone(), is_beside: true })
    }

    fn passes(&self, frame: &[u8]) -> bool {
        frame.len() <= self.0.load(Ordering::SeqCst)
    }

    fn is_cut(&self) -> bool {
        !self.passes(&[0])
    }
}

pub(crate) struct Switched(pub(crate) Udp, pub(crate) Switch);

impl Transport for Switched {
    fn supports(&self, address: &Address<'_>) -> bool {
        self.0.supports(address)
    }

    fn connect<'a>(&'a self, address: &'a Address<'a>) -> BoxFuture<'a, Result<Box<dyn FrameLink>, LinkError>> {
        Box::pin(async move {
            let link = self.0.connect(address).await?;
            Ok(Box::new(Cut { link, switch: self.1.clone(), is_beside: false }) as _)
        })
    }

    fn listen<'a>(&'a self, address: &'a Address<'a>) -> BoxFuture<'a, Result<Box<dyn Listener>, LinkError>> {
        self.0.listen(address)
    }
}

struct Beside<T> {
    inner: T,
    switch: Switch,
}

impl Branch for Beside<Arc<dyn Branch>> {
    fn address(&self) -> Option<SocketAddr> {
        self.inner.address()
    }

    fn socket(&self) -> u64 {
        self.inner.socket()
    }

    fn connect(&self, to: SocketAddr) -> Result<Box<dyn FrameLink>, LinkError> {
        let link = self.inner.connect(to)?;
        Ok(Box::new(Cut { link, switch: self.switch.clone(), is_beside: true }))
    }
}

impl Listener for Beside<Box<dyn Listener>> {
    fn address(&self) -> String {
        self.inner.address()
    }

    fn accept(&mut self) -> BoxFuture<'_, Result<Box<dyn FrameLink>, LinkError>> {
        Box::pin(async move {
            let link = self.inner.accept().await?;
            Ok(Box::new(Cut { link, switch: self.switch.clone(), is_beside: true }) as _)
        })
    }
}

struct Cut {
    link: Box<dyn FrameLink>,
    switch: Switch,
    is_beside: bool,
}

impl FrameLink for Cut {
    fn capabilities(&self) -> LinkCapabilities {
        self.link.capabilities()
    }

    fn source(&self) -> u64 {
        self.link.source()
    }

    fn observed(&self) -> Option<SocketAddr> {
        self.link.observed()
    }

    fn branch(&mut self) -> Option<Branched> {
        let (branch, listener) = self.link.branch()?;
        let switch = self.switch.clone();
        let beside = |listener| Box::new(Beside { inner: listener, switch: switch.clone() }) as _;
        let listener = listener.map(beside);
        Some((Arc::new(Beside { inner: branch, switch }), listener))
    }

    fn set_heard(&mut self) {
        self.link.set_heard();
    }

    fn set_proved(&mut self) {
        self.link.set_proved();
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, frames: &mut Frames, limit: usize) -> Poll<Result<bool, LinkError>> {
        loop {
            let before = frames.len();
            let received = self.link.poll_recv(cx, frames, limit);
            if !matches!(received, Poll::Ready(Ok(true))) || !self.is_beside || !self.switch.is_cut() {
                return received;
            }
            frames.truncate(before);
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, frame: &[u8]) -> Poll<Result<(), LinkError>> {
        if self.is_beside && !self.switch.passes(frame) {
            return Poll::Ready(Ok(()));
        }
        self.link.poll_send(cx, frame)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.link.poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.link.poll_close(cx)
    }
}
