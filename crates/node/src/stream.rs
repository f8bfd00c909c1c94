//! Ordered, reliable octets over a channel.
//!
//! ```text
//!  write ──► duplex ──► pump: chunk ──► message ~~~~► message ──► pump ──► duplex ──► read
//!                         ▲ at most WINDOW octets                   │ done() once they are in the reader's buffer
//!                         └────────────── receipts ◄~~~~~~~~~~~~~~~~┘
//! ```
//!
//! Flow control is end to end: what the other application has not taken into its buffer is not acknowledged, and a sender
//! has no more than a window of that under way. Each end sends an opening first, and everything after it names the other's
//! opening: what an earlier stream has left behind, or one of an earlier run, is never taken for this one. Specification
//! section 7.

use std::{
    collections::VecDeque,
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use sealway_wire::MessageId;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf},
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::{
    NodeError, Receipt,
    handle::{Channel, Sender},
};

/// Octets that wait at this end, in each direction.
const BUFFER: usize = 64 * 1024;
/// Octets that may be under way.
const WINDOW: usize = 256 * 1024;
/// How long the news that a stream is broken off may wait for room.
const FAREWELL: Duration = Duration::from_secs(5);
/// Octets of one message: one record takes it.
const CHUNK: usize = 16_000;

const DATA: u8 = 0;
const END: u8 = 1;
const BROKEN: u8 = 2;
const OPENING: u8 = 3;

/// The message id of an opening.
type Token = [u8; 8];

fn token(id: MessageId) -> Token {
    let mut token = [0; 8];
    token[..4].copy_from_slice(&id.instance.0);
    token[4..].copy_from_slice(&id.number.to_be_bytes());
    token
}

/// What the stream tells its task.
#[derive(Default)]
struct Shared {
    is_shut_down: AtomicBool,
    is_aborted: AtomicBool,
    /// Something was sent that names the peer's opening.
    is_paired: AtomicBool,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// The peer's opening.
    opened: Option<Token>,
    /// The peer has ended its direction, and all of it is in our buffer.
    read_to_the_end: bool,
    /// The peer has all that we have sent.
    all_delivered: bool,
    failed: Option<(io::ErrorKind, &'static str)>,
}

/// Octets in both directions over a channel, in order and each once, as long as both processes live. Made by
/// [`Channel::into_stream`]; the other end has to do the same.
///
/// [`shutdown`](AsyncWriteExt::shutdown) ends our direction: the peer reads to the end, also if the stream is dropped then. A
/// stream that is dropped before that is broken off, which the peer reads as an error: an end that was not meant is never
/// taken for one. A stream that was broken off before anything had come of it leaves the peer's waiting for the next one.
pub struct Stream {
    io: DuplexStream,
    shared: Arc<Shared>,
    state: watch::Receiver<State>,
    task: Option<JoinHandle<()>>,
    /// Dropped with the stream: the task sees it.
    _alive: oneshot::Sender<()>,
}

impl Stream {
    pub(crate) fn start(channel: Channel) -> Self {
        let (io, pump) = tokio::io::duplex(BUFFER);
        let (sender, state) = watch::channel(State::default());
        let shared = Arc::new(Shared::default());
        let (alive, dropped) = oneshot::channel();
        let task = Some(tokio::spawn(run(channel, pump, shared.clone(), sender, dropped)));
        Self { io, shared, state, task, _alive: alive }
    }

    /// Ends our direction, and waits until the peer's application has taken all of it. What the peer still sends is not
    /// taken any more: read to the end before, if it is wanted.
    ///
    /// # Errors
    /// Why the stream ended before that, as reading from it says.
    pub async fn finish(mut self) -> io::Result<()> {
        self.shutdown().await?;
        let settled = |state: &State| state.all_delivered || state.failed.is_some();
        let is_delivered = self.state.wait_for(settled).await.is_ok_and(|state| state.all_delivered);
        let failure = self.failure();
        self.abort().await;
        if is_delivered { Ok(()) } else { Err(failure.unwrap_or_else(ended)) }
    }

    /// Breaks the stream off, and waits until that is on its way to the peer: what the peer has not taken yet may be lost.
    /// Where both directions have ended it does nothing.
    pub async fn abort(mut self) {
        self.shared.is_aborted.store(true, Ordering::Release);
        let task = self.task.take();
        drop(self);
        if let Some(task) = task {
            let _ = task.await;
        }
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
            return Poll::Ready(Err(self.failure().unwrap_or_else(ended)));
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
        self.shared.is_shut_down.store(true, Ordering::Release);
        Pin::new(&mut self.io).poll_shutdown(task)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

fn ended() -> io::Error {
    io::Error::new(CLOSED.0, CLOSED.1)
}

type Failure = (io::ErrorKind, &'static str);

const CLOSED: Failure = (io::ErrorKind::ConnectionAborted, "the channel or the node has ended");
const BROKEN_OFF: Failure = (io::ErrorKind::ConnectionReset, "the peer has broken the stream off");
const BEGUN_ANEW: Failure = (io::ErrorKind::ConnectionReset, "the peer has begun another stream");
const NO_STREAM: Failure = (io::ErrorKind::InvalidData, "the peer sends messages, not a stream");

/// Why a stream ended before its end.
struct Ended(Failure);

impl From<NodeError> for Ended {
    fn from(_: NodeError) -> Self {
        Self(CLOSED)
    }
}

async fn run(
    mut channel: Channel,
    pump: DuplexStream,
    shared: Arc<Shared>,
    state: watch::Sender<State>,
    dropped: oneshot::Receiver<()>,
) {
    // They outlive what is said of a failure: who reads the end of the duplex then finds the reason.
    let (mut from, mut to) = tokio::io::split(pump);
    let sender = channel.sender();
    let mut dropped = dropped;
    let opening = tokio::select! {
        opening = sender.send_live(vec![OPENING]) => opening.ok(),
        _ = &mut dropped => None,
    };
    let Some(own) = opening.map(|opening| token(opening.id())) else {
        state.send_modify(|state| state.failed = Some(CLOSED));
        return;
    };
    let (mut ends, mut delivers) = (state.subscribe(), state.subscribe());
    let finishes = async {
        send(&mut from, &sender, &shared, &state).await?;
        ends.wait_for(|state| state.read_to_the_end).await.map(drop).map_err(|_| Ended(CLOSED))
    };
    // It goes on after the peer's end: that may be followed by the news that the peer takes nothing any more.
    let receives = receive(&mut channel, own, &mut to, &shared, &state);
    tokio::pin!(finishes, receives);
    let ended = tokio::select! {
        finished = &mut finishes => finished,
        Err(ended) = &mut receives => Err(ended),
        _ = &mut dropped => {
            // What was written before the end of our direction is still delivered, unless something comes that nobody takes.
            let lingers = shared.is_shut_down.load(Ordering::Acquire) && !shared.is_aborted.load(Ordering::Acquire);
            let outcome = if lingers {
                tokio::select! {
                    finished = &mut finishes => finished,
                    Err(ended) = &mut receives => Err(ended),
                    _ = delivers.wait_for(|state| state.all_delivered) => Ok(()),
                }
            } else {
                Ok(())
            };
            let said = state.borrow().clone();
            // A stream that is dropped when all is said is not broken off.
            outcome.and(if said.all_delivered && said.read_to_the_end { Ok(()) } else { Err(Ended(CLOSED)) })
        }
    };
    if let Err(Ended(failure)) = ended {
        tracing::debug!(reason = failure.1, "a stream has ended before its end");
        if failure != BROKEN_OFF {
            // Where the outbox has no room it is not waited for: the peer learns of it by the next opening.
            let broken = sender.send_live([&[BROKEN], own.as_slice()].concat());
            let _ = tokio::time::timeout(FAREWELL, broken).await;
        }
        state.send_modify(|state| state.failed = Some(failure));
    }
}

async fn send(
    from: &mut ReadHalf<DuplexStream>,
    sender: &Sender,
    shared: &Shared,
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
        let peer = opening_of_peer(shared, state).await?;
        let body = [&[DATA], peer.as_slice(), &chunk[..read]].concat();
        let len = body.len();
        under_way.push_back((len, sender.send_live(body).await?));
        octets += len;
    }
    if !shared.is_shut_down.load(Ordering::Acquire) {
        return Err(Ended(CLOSED));
    }
    let peer = opening_of_peer(shared, state).await?;
    under_way.push_back((1, sender.send_live([&[END], peer.as_slice()].concat()).await?));
    for (_, receipt) in under_way {
        receipt.delivered().await?;
    }
    state.send_modify(|state| state.all_delivered = true);
    Ok(())
}

/// The peer's opening, once it has come. From now on no other is taken.
async fn opening_of_peer(shared: &Shared, state: &watch::Sender<State>) -> Result<Token, Ended> {
    let mut opened = state.subscribe();
    let opened = opened.wait_for(|state| state.opened.is_some()).await.ok().and_then(|state| state.opened);
    shared.is_paired.store(true, Ordering::Release);
    opened.ok_or(Ended(CLOSED))
}

/// Ends only with a failure.
async fn receive(
    channel: &mut Channel,
    own: Token,
    to: &mut WriteHalf<DuplexStream>,
    shared: &Shared,
    state: &watch::Sender<State>,
) -> Result<(), Ended> {
    let mut opened = None;
    loop {
        let Some(message) = channel.recv().await? else { return Err(Ended(CLOSED)) };
        let id = token(message.id());
        let Some((kind, rest)) = message.body().split_first() else { return Err(Ended(NO_STREAM)) };
        match (*kind, rest.split_first_chunk::<8>()) {
            (OPENING, None) if rest.is_empty() => {
                message.done().await?;
                // What an earlier stream of the peer has left behind comes first: as long as nothing was said, the next one counts.
                if opened.is_some() && shared.is_paired.load(Ordering::Acquire) {
                    return Err(Ended(BEGUN_ANEW));
                }
                opened = Some(id);
                state.send_modify(|state| state.opened = opened);
            }
            (DATA, Some((to_whom, octets))) => {
                // What is for an earlier stream is nobody's any more. What is for this one, and is not taken, breaks it off.
                if *to_whom == own {
                    shared.is_paired.store(true, Ordering::Release);
                    to.write_all(octets).await.map_err(|_| Ended(CLOSED))?;
                }
                message.done().await?;
            }
            (END, Some((to_whom, []))) => {
                let is_ours = *to_whom == own;
                message.done().await?;
                if is_ours {
                    shared.is_paired.store(true, Ordering::Release);
                    state.send_modify(|state| state.read_to_the_end = true);
                    let _ = to.shutdown().await;
                }
            }
            (BROKEN, Some((whose, []))) => {
                let is_of_this = opened == Some(*whose);
                message.done().await?;
                if is_of_this && shared.is_paired.load(Ordering::Acquire) {
                    return Err(Ended(BROKEN_OFF));
                } else if is_of_this {
                    opened = None;
                    state.send_modify(|state| state.opened = None);
                }
            }
            _ => return Err(Ended(NO_STREAM)),
        }
    }
}
