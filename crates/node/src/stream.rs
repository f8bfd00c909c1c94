//! Ordered, reliable octets over a channel.
//!
//! ```text
//!  write ──► duplex ──► pump: chunk ──► message ~~~~► message ──► pump ──► duplex ──► read
//!                         ▲ at most WINDOW octets                   │ done() once they are in the reader's buffer
//!                         └────────────── receipts ◄~~~~~~~~~~~~~~~~┘
//! ```
//!
//! Flow control is end to end: what the other application has not taken into its buffer is not acknowledged, and a sender
//! has no more than a window of that under way. Each message is `kind 1 | octets`, kind 0 data, 1 the end, 2 broken off.

use std::{
    collections::VecDeque,
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf},
    sync::watch,
};

use crate::{
    NodeError, Receipt,
    handle::{Channel, Sender},
};

/// Octets that wait at this end, in each direction.
const BUFFER: usize = 64 * 1024;
/// Octets that may be under way.
const WINDOW: usize = 512 * 1024;
/// Octets of one message: one record takes it.
const CHUNK: usize = 16_000;

const DATA: u8 = 0;
const END: u8 = 1;
const BROKEN: u8 = 2;

#[derive(Clone, Debug, Default)]
struct State {
    /// The peer has ended its direction, and all of it is in our buffer.
    read_to_the_end: bool,
    /// The peer has all that we have sent.
    all_delivered: bool,
    failed: Option<(io::ErrorKind, &'static str)>,
}

/// Octets in both directions over a channel, in order and each once, as long as both processes live. Made by
/// [`Channel::into_stream`]; the other end has to do the same.
///
/// [`shutdown`](AsyncWriteExt::shutdown) ends our direction: the peer reads to the end. A stream that is dropped before that
/// is broken off, which the peer reads as an error: an end that was not meant is never taken for one.
pub struct Stream {
    io: DuplexStream,
    is_shut_down: Arc<AtomicBool>,
    state: watch::Receiver<State>,
}

impl Stream {
    pub(crate) fn start(channel: Channel) -> Self {
        let (io, pump) = tokio::io::duplex(BUFFER);
        let (sender, state) = watch::channel(State::default());
        let is_shut_down = Arc::new(AtomicBool::new(false));
        tokio::spawn(run(channel, pump, is_shut_down.clone(), sender));
        Self { io, is_shut_down, state }
    }

    /// Ends our direction, and waits until the peer's application has taken all of it.
    ///
    /// # Errors
    /// [`NodeError::Closed`] if the channel or the node ends first.
    pub async fn finish(mut self) -> Result<(), NodeError> {
        self.shutdown().await.map_err(|_| NodeError::Closed)?;
        let settled = |state: &State| state.all_delivered || state.failed.is_some();
        let state = self.state.wait_for(settled).await.map_err(|_| NodeError::Closed)?;
        if state.all_delivered { Ok(()) } else { Err(NodeError::Closed) }
    }

    fn failure(&self) -> Option<io::Error> {
        self.state.borrow().failed.map(|(kind, text)| io::Error::new(kind, text))
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(task, out);
        let is_end = matches!(polled, Poll::Ready(Ok(()))) && out.filled().len() == before && out.remaining() > 0;
        if is_end && !self.state.borrow().read_to_the_end {
            let broken = || io::Error::new(io::ErrorKind::ConnectionAborted, "the node has ended");
            return Poll::Ready(Err(self.failure().unwrap_or_else(broken)));
        }
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(task, octets);
        polled.map_err(|error| self.failure().unwrap_or(error))
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut_down.store(true, Ordering::Release);
        Pin::new(&mut self.io).poll_shutdown(task)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

type Failure = (io::ErrorKind, &'static str);

const CLOSED: Failure = (io::ErrorKind::ConnectionAborted, "the channel or the node has ended");

impl From<NodeError> for Ended {
    fn from(_: NodeError) -> Self {
        Self(CLOSED)
    }
}

/// Why a direction ended before its end.
struct Ended(Failure);

async fn run(channel: Channel, pump: DuplexStream, is_shut_down: Arc<AtomicBool>, state: watch::Sender<State>) {
    // They outlive what is said of a failure: who reads the end of the duplex then finds the reason.
    let (mut from, mut to) = tokio::io::split(pump);
    let sender = channel.sender();
    // Each direction ends by itself; if one fails, so does the other.
    let ended = tokio::try_join!(send(&mut from, sender, &is_shut_down, &state), receive(channel, &mut to, &state));
    if let Err(Ended(failure)) = ended {
        state.send_modify(|state| state.failed = Some(failure));
    }
}

async fn send(
    from: &mut ReadHalf<DuplexStream>,
    sender: Sender,
    is_shut_down: &AtomicBool,
    state: &watch::Sender<State>,
) -> Result<(), Ended> {
    let mut under_way: VecDeque<(usize, Receipt)> = VecDeque::new();
    let mut octets = 0;
    let mut chunk = vec![0; CHUNK];
    loop {
        while octets >= WINDOW {
            let Some((len, receipt)) = under_way.pop_front() else { break };
            receipt.delivered().await?;
            octets -= len;
        }
        // What was delivered meanwhile is forgotten: small chunks must not pile up.
        while under_way.front().is_some_and(|(_, receipt)| receipt.is_settled()) {
            octets -= under_way.pop_front().map_or(0, |(len, _)| len);
        }
        let read = from.read(&mut chunk).await.map_err(|_| Ended(CLOSED))?;
        if read == 0 {
            break;
        }
        let body = [&[DATA], &chunk[..read]].concat();
        under_way.push_back((read + 1, sender.send_live(body).await?));
        octets += read + 1;
    }
    let is_end = is_shut_down.load(Ordering::Acquire);
    under_way.push_back((1, sender.send_live(vec![if is_end { END } else { BROKEN }]).await?));
    for (_, receipt) in under_way {
        receipt.delivered().await?;
    }
    state.send_modify(|state| state.all_delivered = true);
    // A stream that was dropped wants nothing of the peer any more.
    if is_end { Ok(()) } else { Err(Ended(CLOSED)) }
}

async fn receive(
    mut channel: Channel,
    to: &mut WriteHalf<DuplexStream>,
    state: &watch::Sender<State>,
) -> Result<(), Ended> {
    loop {
        let Some(message) = channel.recv().await? else { return Err(Ended(CLOSED)) };
        match message.body().split_first() {
            Some((&DATA, octets)) => {
                // If our application has dropped the stream, the other direction says so to the peer.
                if to.write_all(octets).await.is_ok() {
                    message.done().await?;
                }
            }
            Some((&END, [])) => {
                message.done().await?;
                state.send_modify(|state| state.read_to_the_end = true);
                let _ = to.shutdown().await;
                return Ok(());
            }
            Some((&BROKEN, [])) => {
                message.done().await?;
                return Err(Ended((io::ErrorKind::ConnectionReset, "the peer has broken the stream off")));
            }
            _ => return Err(Ended((io::ErrorKind::InvalidData, "the peer sends messages, not a stream"))),
        }
    }
}
