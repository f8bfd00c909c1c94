//! One line.

use std::{
    future::Future,
    io::ErrorKind,
    num::NonZeroU32,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use sealway_link::{
    FrameLink, Frames, LinkCapabilities, LinkError, LinkErrorKind,
    fragment::Fragment,
    line::{LineDecoder, LineEncoder},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep},
};
use tokio_serial::SerialStream;

/// The longest frame: the longest record, 16.5 KiB and its header, with room to spare. What the line does not carry at once goes
/// in fragments.
pub const MTU: usize = 20 * 1024;
/// Of an accepted line, only so much is waited for without a sign of its other end.
const READ: usize = 4096;
/// A line that takes nothing for so long is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Frames over one serial line.
#[derive(Debug)]
pub struct SerialLink {
    stream: SerialStream,
    device: String,
    unit: usize,
    rate: NonZeroU32,
    encoder: LineEncoder,
    decoder: LineDecoder,
    /// Frames that have come and are not handed up yet: from `next` on.
    arrived: Frames,
    next: usize,
    /// Octets that are to be written: from `written` on.
    outgoing: Vec<u8>,
    written: usize,
    stalled: Option<Pin<Box<Sleep>>>,
    idle_timeout: Option<Duration>,
    idle: Pin<Box<Sleep>>,
    /// The listener opens the line anew when this goes.
    _turn: Option<OwnedSemaphorePermit>,
}

/// What a line is used with.
#[derive(Debug)]
pub(crate) struct Use {
    pub(crate) device: String,
    /// The longest frame that goes in one piece.
    pub(crate) unit: usize,
    /// Octets a second.
    pub(crate) rate: NonZeroU32,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) turn: Option<OwnedSemaphorePermit>,
}

impl SerialLink {
    pub(crate) fn new(stream: SerialStream, with: Use) -> Self {
        let Use { device, unit, rate, idle_timeout, turn } = with;
        Self {
            stream,
            device,
            unit,
            rate,
            encoder: LineEncoder::new(unit),
            decoder: LineDecoder::new(unit),
            arrived: Frames::new(),
            next: 0,
            outgoing: Vec::new(),
            written: 0,
            stalled: None,
            idle_timeout,
            idle: Box::pin(sleep(idle_timeout.unwrap_or_default())),
            _turn: turn,
        }
    }

    /// What was on the line and was no frame, or not as it had been sent.
    #[must_use]
    pub const fn damaged(&self) -> u64 {
        self.decoder.dropped()
    }

    fn error(&self, kind: LinkErrorKind) -> LinkError {
        LinkError::new(kind, &self.device)
    }

    /// Hands up frames that have come. Returns whether there were any.
    fn take_arrived(&mut self, frames: &mut Frames, limit: usize) -> bool {
        let first = self.next;
        while let Some(frame) = self.arrived.get(self.next).filter(|_| frames.octets() < limit || self.next == first) {
            frames.push(frame);
            self.next += 1;
        }
        if self.next == self.arrived.len() {
            self.arrived.clear();
        }
        let any = self.next > first;
        if self.arrived.is_empty() {
            self.next = 0;
        }
        any
    }
}

impl FrameLink for SerialLink {
    fn capabilities(&self) -> LinkCapabilities {
        LinkCapabilities::line(MTU, self.unit, self.rate)
    }

    /// Whoever is at the other end: there is one.
    fn source(&self) -> u64 {
        self.device.bytes().fold(0, |number, octet| number.rotate_left(7) ^ u64::from(octet))
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, frames: &mut Frames, limit: usize) -> Poll<Result<bool, LinkError>> {
        let mut buffer = [0; READ];
        loop {
            if self.take_arrived(frames, limit) {
                return Poll::Ready(Ok(true));
            }
            let mut read = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.stream).poll_read(cx, &mut read) {
                // A device that was unplugged reads as an end (Linux), or as an error (the other end of a pseudo terminal).
                Poll::Ready(Ok(())) if read.filled().is_empty() => {
                    return Poll::Ready(Err(self.error(LinkErrorKind::Lost)));
                }
                Poll::Ready(Ok(())) => {
                    let timeout = self.idle_timeout.unwrap_or_default();
                    self.idle.as_mut().reset(Instant::now() + timeout);
                    self.decoder.decode(read.filled(), &mut self.arrived);
                }
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(self.error(LinkErrorKind::Lost).caused_by(error)));
                }
                Poll::Pending if self.idle_timeout.is_none() => return Poll::Pending,
                Poll::Pending => {
                    ready!(self.idle.as_mut().poll(cx));
                    return Poll::Ready(Err(self.error(LinkErrorKind::TimedOut)));
                }
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, frame: &[u8]) -> Poll<Result<(), LinkError>> {
        if frame.is_empty() || frame.len() > MTU {
            return Poll::Ready(Err(self.error(LinkErrorKind::Framing)));
        }
        // One piece waits behind the one that is being written: what else there is waits where its order can still change.
        if self.outgoing.len() - self.written > self.unit {
            ready!(self.poll_flush(cx))?;
        }
        // What has left does not stay: the line may never be idle.
        self.outgoing.drain(..self.written);
        self.written = 0;
        let after_silence = self.outgoing.is_empty();
        if frame.len() <= self.unit {
            self.encoder.encode(frame, after_silence, &mut self.outgoing);
            return Poll::Ready(Ok(()));
        }
        let Some(fragments) = Fragment::cut(Fragment::id_of(frame), frame, self.unit) else {
            return Poll::Ready(Err(self.error(LinkErrorKind::Framing)));
        };
        let mut piece = Vec::new();
        for fragment in fragments {
            fragment.encode(&mut piece);
            self.encoder.encode(&piece, self.outgoing.is_empty(), &mut self.outgoing);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        while let Some(rest) = self.outgoing.get(self.written..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.error(LinkErrorKind::Lost))),
                Poll::Ready(Ok(count)) => {
                    self.written += count;
                    self.stalled = None;
                }
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.error(LinkErrorKind::Lost).caused_by(error))),
                Poll::Pending => {
                    let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
                    ready!(stalled.as_mut().poll(cx));
                    return Poll::Ready(Err(self.error(LinkErrorKind::TimedOut)));
                }
            }
        }
        self.outgoing.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Writes what was taken. The line itself has no end of a direction.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.poll_flush(cx)
    }
}
