//! One connection.

use std::{
    future::Future,
    io::ErrorKind,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use sealway_link::{FrameLink, Frames, LinkCapabilities, LinkError, LinkErrorKind};
use tokio::{
    io::AsyncWrite,
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

use crate::Timeouts;

/// The longest frame: the longest record, 16.5 KiB and its header, with room to spare.
pub const MTU: usize = 20 * 1024;

const PREFIX: usize = 2;
/// Small frames are collected up to this many octets before they are written.
const WRITE_BUFFER: usize = 64 * 1024;
/// One read takes at most so much.
const READ_CHUNK: usize = 32 * 1024;
/// Buffers larger than this are given back when they are empty: most links are idle most of the time.
const IDLE_BUFFER: usize = 4 * 1024;

/// Frames over one TCP connection.
#[derive(Debug)]
pub struct TcpLink {
    stream: TcpStream,
    peer: SocketAddr,
    timeouts: Timeouts,
    /// Octets that have arrived and are not handed up yet: from `read_from` on.
    incoming: Vec<u8>,
    read_from: usize,
    idle: Pin<Box<Sleep>>,
    /// Octets that are to be written: from `written` on.
    outgoing: Vec<u8>,
    written: usize,
    /// The peer takes nothing: `stalled` counts from then.
    waiting: bool,
    stalled: Pin<Box<Sleep>>,
    closed: bool,
}

impl TcpLink {
    pub(crate) fn new(stream: TcpStream, peer: SocketAddr, timeouts: Timeouts) -> Self {
        Self {
            stream,
            peer,
            timeouts,
            incoming: Vec::new(),
            read_from: 0,
            idle: Box::pin(sleep(timeouts.idle)),
            outgoing: Vec::new(),
            written: 0,
            waiting: false,
            stalled: Box::pin(sleep(timeouts.write)),
            closed: false,
        }
    }

    /// Moves whole frames from the buffer to `frames`.
    fn take_frames(&mut self, frames: &mut Frames, limit: usize) -> Result<(), LinkError> {
        let before = frames.len();
        while frames.octets() < limit || frames.len() == before {
            let rest = &self.incoming[self.read_from..];
            let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX>() else { break };
            let len = usize::from(u16::from_be_bytes(*prefix));
            if len == 0 || len > MTU {
                return Err(LinkError::new(LinkErrorKind::Framing, self.peer));
            }
            let Some(frame) = rest.get(..len) else { break };
            frames.push(frame);
            self.read_from += PREFIX + len;
        }
        if self.read_from == self.incoming.len() {
            empty(&mut self.incoming);
            self.read_from = 0;
        }
        Ok(())
    }

    /// Reads what the system has. `false`: the peer has ended its direction.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, LinkError>> {
        loop {
            let ready = self.stream.poll_read_ready(cx).map_err(|error| sealway_ip::failure(error, self.peer))?;
            if ready.is_pending() {
                // The last read may have found nothing for what it had made room for.
                if self.incoming.is_empty() {
                    empty(&mut self.incoming);
                }
                ready!(self.idle.as_mut().poll(cx));
                return Poll::Ready(Err(LinkError::new(LinkErrorKind::TimedOut, self.peer)));
            }
            if self.read_from > 0 {
                self.incoming.drain(..self.read_from);
                self.read_from = 0;
            }
            let start = self.incoming.len();
            self.incoming.resize(start + READ_CHUNK, 0);
            let read = self.stream.try_read(&mut self.incoming[start..]);
            self.incoming.truncate(start + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) if self.incoming.is_empty() => return Poll::Ready(Ok(false)),
                Ok(0) => return Poll::Ready(Err(LinkError::new(LinkErrorKind::Lost, self.peer))), // in mid-frame
                Ok(_) => {
                    self.idle.as_mut().reset(Instant::now() + self.timeouts.idle);
                    return Poll::Ready(Ok(true));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(sealway_ip::failure(error, self.peer))),
            }
        }
    }
}

/// Empties a buffer, and gives it back if it is large.
fn empty(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > IDLE_BUFFER {
        *buffer = Vec::new();
    }
}

impl FrameLink for TcpLink {
    fn capabilities(&self) -> LinkCapabilities {
        LinkCapabilities::reliable(MTU)
    }

    fn source(&self) -> u64 {
        sealway_ip::source(self.peer.ip())
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, frames: &mut Frames, limit: usize) -> Poll<Result<bool, LinkError>> {
        let before = frames.len();
        loop {
            self.take_frames(frames, limit)?;
            if frames.len() > before {
                return Poll::Ready(Ok(true));
            }
            if !ready!(self.poll_fill(cx))? {
                return Poll::Ready(Ok(false));
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, frame: &[u8]) -> Poll<Result<(), LinkError>> {
        let Some(len) = u16::try_from(frame.len()).ok().filter(|len| *len > 0 && frame.len() <= MTU) else {
            return Poll::Ready(Err(LinkError::new(LinkErrorKind::Framing, self.peer)));
        };
        if self.outgoing.len() - self.written + PREFIX + frame.len() > WRITE_BUFFER {
            ready!(self.poll_flush(cx))?;
        }
        // A link that is never idle does not keep what has left.
        if self.written > WRITE_BUFFER {
            self.outgoing.drain(..self.written);
            self.written = 0;
        }
        self.outgoing.extend_from_slice(&len.to_be_bytes());
        self.outgoing.extend_from_slice(frame);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        while self.written < self.outgoing.len() {
            let ready = self.stream.poll_write_ready(cx).map_err(|error| sealway_ip::failure(error, self.peer))?;
            if ready.is_pending() {
                if !std::mem::replace(&mut self.waiting, true) {
                    self.stalled.as_mut().reset(Instant::now() + self.timeouts.write);
                }
                ready!(self.stalled.as_mut().poll(cx));
                return Poll::Ready(Err(LinkError::new(LinkErrorKind::TimedOut, self.peer)));
            }
            match self.stream.try_write(&self.outgoing[self.written..]) {
                Ok(written) => {
                    self.written += written;
                    self.waiting = false;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(sealway_ip::failure(error, self.peer))),
            }
        }
        empty(&mut self.outgoing);
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        ready!(self.poll_flush(cx))?;
        if !self.closed {
            self.closed = true;
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))
                .map_err(|error| sealway_ip::failure(error, self.peer))?;
        }
        Poll::Ready(Ok(()))
    }
}
