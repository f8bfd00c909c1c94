//! Links whose frames are recorded.

use std::{
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use sealway_link::{BoxFuture, Branch, Branched, FrameLink, Frames, LinkCapabilities, LinkError, Listener, Transport};
use sealway_wire::Address;

use crate::{Recorder, file::Direction};

impl Recorder {
    /// Records what passes over a link, under this name.
    #[must_use]
    pub fn link(&self, link: Box<dyn FrameLink>, name: &str) -> RecordedLink {
        RecordedLink { link, recorder: self.clone(), interface: self.interface(name) }
    }

    /// Records what passes over every link of a transport.
    #[must_use]
    pub fn transport<T: Transport>(&self, transport: T) -> RecordedTransport<T> {
        RecordedTransport { transport, recorder: self.clone() }
    }
}

/// A link whose frames are recorded.
pub struct RecordedLink {
    link: Box<dyn FrameLink>,
    recorder: Recorder,
    interface: u32,
}

impl FrameLink for RecordedLink {
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
        let recorder = self.recorder.clone();
        let recorded = RecordedBranch { branch, recorder: recorder.clone() };
        let listener = listener.map(|listener| Box::new(RecordedListener { listener, recorder }) as _);
        Some((Arc::new(recorded), listener))
    }

    fn set_heard(&mut self) {
        self.link.set_heard();
    }

    fn set_proved(&mut self) {
        self.link.set_proved();
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, frames: &mut Frames, limit: usize) -> Poll<Result<bool, LinkError>> {
        let before = frames.len();
        let received = self.link.poll_recv(cx, frames, limit);
        for frame in (before..frames.len()).filter_map(|index| frames.get(index)) {
            self.recorder.frame(self.interface, Direction::Received, frame);
        }
        self.recorder.flush();
        received
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, frame: &[u8]) -> Poll<Result<(), LinkError>> {
        let sent = self.link.poll_send(cx, frame);
        if let Poll::Ready(Ok(())) = sent {
            self.recorder.frame(self.interface, Direction::Sent, frame);
        }
        sent
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.recorder.flush();
        self.link.poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.recorder.flush();
        self.link.poll_close(cx)
    }
}

/// A transport whose links are recorded.
pub struct RecordedTransport<T> {
    transport: T,
    recorder: Recorder,
}

impl<T: Transport> Transport for RecordedTransport<T> {
    fn supports(&self, address: &Address<'_>) -> bool {
        self.transport.supports(address)
    }

    fn connect<'a>(&'a self, address: &'a Address<'a>) -> BoxFuture<'a, Result<Box<dyn FrameLink>, LinkError>> {
        Box::pin(async move {
            let link = self.transport.connect(address).await?;
            Ok(Box::new(self.recorder.link(link, &format!("to {address}"))) as _)
        })
    }

    fn listen<'a>(&'a self, address: &'a Address<'a>) -> BoxFuture<'a, Result<Box<dyn Listener>, LinkError>> {
        Box::pin(async move {
            let listener = self.transport.listen(address).await?;
            Ok(Box::new(RecordedListener { listener, recorder: self.recorder.clone() }) as _)
        })
    }
}

/// A socket whose links are recorded.
struct RecordedBranch {
    branch: Arc<dyn Branch>,
    recorder: Recorder,
}

impl Branch for RecordedBranch {
    fn address(&self) -> Option<SocketAddr> {
        self.branch.address()
    }

    fn socket(&self) -> u64 {
        self.branch.socket()
    }

    fn connect(&self, to: SocketAddr) -> Result<Box<dyn FrameLink>, LinkError> {
        let link = self.branch.connect(to)?;
        Ok(Box::new(self.recorder.link(link, &format!("straight to {to}"))))
    }
}

/// A listener whose links are recorded.
pub struct RecordedListener {
    listener: Box<dyn Listener>,
    recorder: Recorder,
}

impl Listener for RecordedListener {
    fn address(&self) -> String {
        self.listener.address()
    }

    fn accept(&mut self) -> BoxFuture<'_, Result<Box<dyn FrameLink>, LinkError>> {
        Box::pin(async move {
            let link = self.listener.accept().await?;
            Ok(Box::new(self.recorder.link(link, &format!("at {}", self.listener.address()))) as _)
        })
    }
}
