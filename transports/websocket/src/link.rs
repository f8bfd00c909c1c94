//! One connection.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use futures_util::{Sink, Stream};
use sealway_link::{FrameLink, Frames, LinkCapabilities, LinkError, LinkErrorKind};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Bytes, Message},
};

use crate::{Times, failure};

/// The longest frame: the longest record, 16.5 KiB and its header, with room to spare.
pub const MTU: usize = 20 * 1024;

/// What a WebSocket is spoken over: TCP, or TLS over it.
pub(crate) trait Medium: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Medium for T {}

/// A connection, and how many octets the system has taken for it: that tells a peer which is slow from one which is dead.
pub(crate) struct Counted {
    stream: TcpStream,
    taken: Arc<AtomicU64>,
}

impl Counted {
    pub(crate) fn new(stream: TcpStream) -> (Self, Arc<AtomicU64>) {
        let taken = Arc::<AtomicU64>::default();
        (Self { stream, taken: taken.clone() }, taken)
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.taken.fetch_add(u64::try_from(written).unwrap_or(u64::MAX), Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Who is at the other end.
pub(crate) struct Peer {
    /// In words, for errors.
    pub(crate) place: Box<str>,
    /// For limits.
    pub(crate) source: u64,
    /// Octets that have left to it.
    pub(crate) taken: Arc<AtomicU64>,
}

/// Frames over one WebSocket.
pub struct WebSocketLink {
    socket: WebSocketStream<Box<dyn Medium>>,
    peer: Peer,
    times: Times,
    idle: Pin<Box<Sleep>>,
    /// The peer takes nothing: `stalled` counts since it had taken so many octets.
    waiting: Option<u64>,
    stalled: Pin<Box<Sleep>>,
    /// When a ping is due, unless something was sent since.
    ping: Pin<Box<Sleep>>,
    sent_at: Instant,
    has_sent: bool,
    /// Something of ours waits in the socket's buffer, that nobody will flush for us: an answer, or a ping.
    owes_flush: bool,
    /// The peer has ended the connection, or it has failed behind the last frame.
    ended: Option<Result<(), LinkError>>,
}

impl std::fmt::Debug for WebSocketLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSocketLink").field("peer", &self.peer.place).finish_non_exhaustive()
    }
}

impl WebSocketLink {
    pub(crate) fn new(socket: WebSocketStream<Box<dyn Medium>>, peer: Peer, times: Times) -> Self {
        Self {
            socket,
            peer,
            times,
            idle: Box::pin(sleep(times.idle)),
            waiting: None,
            stalled: Box::pin(sleep(times.write)),
            ping: Box::pin(sleep(times.ping)),
            sent_at: Instant::now(),
            has_sent: false,
            owes_flush: false,
            ended: None,
        }
    }

    fn failed(&self, error: tokio_tungstenite::tungstenite::Error) -> LinkError {
        failure(error, &self.peer.place)
    }

    /// What has come up to `limit` octets. Pending: nothing more is there.
    fn poll_messages(&mut self, cx: &mut Context<'_>, frames: &mut Frames, limit: usize) -> Poll<()> {
        let before = frames.len();
        while self.ended.is_none() && (frames.octets() < limit || frames.len() == before) {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(frame))) if !frame.is_empty() => frames.push(&frame),
                // The answer is in the buffer.
                Some(Ok(Message::Ping(_))) => self.owes_flush = true,
                Some(Ok(Message::Close(_))) => {
                    // Whether the answer still gets there does not matter.
                    let _ = Pin::new(&mut self.socket).poll_flush(cx);
                    self.ended = Some(Ok(()));
                }
                Some(Ok(Message::Pong(_))) => {}
                Some(Ok(_)) => self.ended = Some(Err(LinkError::new(LinkErrorKind::Framing, &self.peer.place))),
                Some(Err(error)) => self.ended = Some(Err(self.failed(error))),
                None => self.ended = Some(Ok(())),
            }
            self.idle.as_mut().reset(Instant::now() + self.times.idle);
        }
        Poll::Ready(())
    }

    /// What is to be sent without anybody's asking. It does not wait: the next frame of either side goes on with it.
    fn maintain(&mut self, cx: &mut Context<'_>) {
        if self.ended.is_some() {
            return;
        }
        if self.ping.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if now >= self.sent_at + self.times.ping {
                if let Poll::Ready(Ok(())) = Pin::new(&mut self.socket).poll_ready(cx) {
                    self.owes_flush |= Pin::new(&mut self.socket).start_send(Message::Ping(Bytes::new())).is_ok();
                }
                self.sent_at = now;
            }
            self.ping.as_mut().reset(self.sent_at + self.times.ping);
            // Registers it: it is at least a while ahead.
            let _ = self.ping.as_mut().poll(cx);
        }
        if self.owes_flush && Pin::new(&mut self.socket).poll_flush(cx).is_ready() {
            // A failure shows again when something is read or sent.
            self.owes_flush = false;
        }
    }

    /// Pending, until the peer has taken nothing for too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<LinkError> {
        let taken = self.peer.taken.load(Relaxed);
        if self.waiting.replace(taken) != Some(taken) {
            self.stalled.as_mut().reset(Instant::now() + self.times.write);
        }
        ready!(self.stalled.as_mut().poll(cx));
        Poll::Ready(LinkError::new(LinkErrorKind::TimedOut, &self.peer.place))
    }
}

impl FrameLink for WebSocketLink {
    fn capabilities(&self) -> LinkCapabilities {
        LinkCapabilities::reliable(MTU)
    }

    fn source(&self) -> u64 {
        self.peer.source
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, frames: &mut Frames, limit: usize) -> Poll<Result<bool, LinkError>> {
        let before = frames.len();
        let _ = self.poll_messages(cx, frames, limit);
        self.maintain(cx);
        if frames.len() > before {
            return Poll::Ready(Ok(true));
        }
        match self.ended.take() {
            Some(Ok(())) => {
                self.ended = Some(Ok(()));
                Poll::Ready(Ok(false))
            }
            Some(Err(error)) => {
                self.ended = Some(Err(LinkError::new(error.kind, &self.peer.place)));
                Poll::Ready(Err(error))
            }
            None => {
                ready!(self.idle.as_mut().poll(cx));
                Poll::Ready(Err(LinkError::new(LinkErrorKind::TimedOut, &self.peer.place)))
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, frame: &[u8]) -> Poll<Result<(), LinkError>> {
        if frame.is_empty() || frame.len() > MTU {
            return Poll::Ready(Err(LinkError::new(LinkErrorKind::Framing, &self.peer.place)));
        }
        match Pin::new(&mut self.socket).poll_ready(cx) {
            Poll::Ready(ready) => ready.map_err(|error| self.failed(error))?,
            Poll::Pending => return self.poll_stalled(cx).map(Err),
        }
        self.waiting = None;
        self.has_sent = true;
        let message = Message::Binary(Bytes::copy_from_slice(frame));
        Poll::Ready(Pin::new(&mut self.socket).start_send(message).map_err(|error| self.failed(error)))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        // Also for who only sends for a while: proxies count the time.
        if std::mem::take(&mut self.has_sent) {
            self.sent_at = Instant::now();
        }
        self.maintain(cx);
        match Pin::new(&mut self.socket).poll_flush(cx) {
            Poll::Ready(flushed) => {
                self.waiting = None;
                self.owes_flush = false;
                Poll::Ready(flushed.map_err(|error| self.failed(error)))
            }
            Poll::Pending => self.poll_stalled(cx).map(Err),
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        match Pin::new(&mut self.socket).poll_close(cx) {
            Poll::Ready(closed) => Poll::Ready(closed.map_err(|error| self.failed(error))),
            Poll::Pending => self.poll_stalled(cx).map(Err),
        }
    }
}
