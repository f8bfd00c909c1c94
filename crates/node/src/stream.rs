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
    time::{Instant, sleep_until},
};

use crate::{
    Message, NodeError, Receipt,
    handle::{Channel, Sender},
};

/// Octets that wait at this end, in each direction.
const BUFFER: usize = 64 * 1024;
/// Octets that may be under way.
const WINDOW: usize = 256 * 1024;
/// How long the news that a stream is broken off may wait for room.
const FAREWELL: Duration = Duration::from_secs(5);
/// Octets of one message, at most: one record takes it.
const CHUNK: usize = 16_000;
/// What DATA and END begin with: the kind, and whose they are.
const HEADER: usize = 9;

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

    /// Ends our direction, and waits until all of it is in the buffer that the peer's application reads from. Two ends that
    /// both wait so and read nothing meanwhile may wait for each other: read concurrently, or before.
    ///
    /// # Errors
    /// Why the stream ended before that, as reading from it says.
    pub async fn delivered(&mut self) -> io::Result<()> {
        self.shutdown().await?;
        let settled = |state: &State| state.all_delivered || state.failed.is_some();
        let is_delivered = self.state.wait_for(settled).await.is_ok_and(|state| state.all_delivered);
        if is_delivered { Ok(()) } else { Err(self.failure().unwrap_or_else(ended)) }
    }

    /// The same, and the end of the stream. What the peer still sends is not taken any more: read to the end before, if it is
    /// wanted.
    ///
    /// # Errors
    /// As [`delivered`](Self::delivered).
    pub async fn finish(mut self) -> io::Result<()> {
        let outcome = self.delivered().await;
        self.abort().await;
        outcome
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
        opening = sender.send_now(vec![OPENING]) => opening.ok(),
        _ = &mut dropped => None,
    };
    let Some(opening) = opening else {
        state.send_modify(|state| state.failed = Some(CLOSED));
        return;
    };
    let own = token(opening.id());
    let (first, bound) = oneshot::channel();
    let mut under_way = UnderWay { messages: VecDeque::new(), octets: 0, first: Some(first) };
    let (mut ends, mut delivers) = (state.subscribe(), state.subscribe());
    let ended = {
        let finishes = async {
            send(&mut from, &sender, &mut under_way, &shared, &state).await?;
            ends.wait_for(|state| state.read_to_the_end).await.map(drop).map_err(|_| Ended(CLOSED))
        };
        // It goes on after the peer's end: that may be followed by the news that the peer takes nothing any more.
        let receives = receive(&mut channel, own, &mut to, bound, &shared, &state);
        tokio::pin!(finishes, receives);
        tokio::select! {
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
        }
    };
    if let Err(Ended(failure)) = ended {
        tracing::debug!(reason = failure.1, "a stream has ended before its end");
        // What the peer has not taken neither holds the news back nor a later stream.
        let left = under_way.messages.iter().rev().map(|(_, receipt)| receipt.id());
        sender.withdraw(left.chain([opening.id()]));
        // Said after the peer has broken off, too: it carries what was given up.
        let broken = sender.send_now([&[BROKEN], own.as_slice()].concat());
        let _ = tokio::time::timeout(FAREWELL, broken).await;
        state.send_modify(|state| state.failed = Some(failure));
    }
}

/// What was sent and is not known to be committed.
struct UnderWay {
    messages: VecDeque<(usize, Receipt)>,
    octets: usize,
    /// Gets the first: once that is committed, the peer's stream is known to be bound to ours.
    first: Option<oneshot::Sender<Receipt>>,
}

impl UnderWay {
    fn push(&mut self, octets: usize, receipt: Receipt) {
        if let Some(first) = self.first.take() {
            let _ = first.send(receipt.clone());
        }
        self.octets += octets;
        self.messages.push_back((octets, receipt));
    }

    fn pop(&mut self) {
        self.octets -= self.messages.pop_front().map_or(0, |(octets, _)| octets);
    }

    /// Waits for the first, which stays here until it is delivered: whoever gives up meanwhile finds it.
    async fn settle_first(&mut self) -> Result<(), NodeError> {
        if let Some((_, receipt)) = self.messages.front() {
            receipt.clone().delivered().await?;
        }
        self.pop();
        Ok(())
    }
}

async fn send(
    from: &mut ReadHalf<DuplexStream>,
    sender: &Sender,
    under_way: &mut UnderWay,
    shared: &Shared,
    state: &watch::Sender<State>,
) -> Result<(), Ended> {
    let mut chunk = vec![0; CHUNK.min(sender.max_message().saturating_sub(HEADER)).max(1)];
    loop {
        while under_way.octets >= WINDOW {
            under_way.settle_first().await?;
        }
        // What was delivered meanwhile is forgotten: small chunks must not pile up.
        while under_way.messages.front().is_some_and(|(_, receipt)| receipt.is_settled()) {
            under_way.pop();
        }
        let read = from.read(&mut chunk).await.map_err(|_| Ended(CLOSED))?;
        if read == 0 {
            break;
        }
        let peer = opening_of_peer(shared, state).await?;
        let body = [&[DATA], peer.as_slice(), &chunk[..read]].concat();
        let len = body.len();
        under_way.push(len, sender.send_now(body).await?);
    }
    if !shared.is_shut_down.load(Ordering::Acquire) {
        return Err(Ended(CLOSED));
    }
    let peer = opening_of_peer(shared, state).await?;
    under_way.push(HEADER, sender.send_now([&[END], peer.as_slice()].concat()).await?);
    while !under_way.messages.is_empty() {
        under_way.settle_first().await?;
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

/// Kind, the opening that is named, and whether nothing follows.
fn parse(body: &[u8]) -> Option<(u8, Option<Token>, bool)> {
    let (kind, rest) = body.split_first()?;
    Some(match rest.split_first_chunk() {
        Some((name, rest)) => (*kind, Some(*name), rest.is_empty()),
        None => (*kind, None, rest.is_empty()),
    })
}

/// What has come for the reader and is not in its buffer yet: no more than the sender's window, and not done with.
#[derive(Default)]
struct Unread {
    messages: VecDeque<Message>,
    octets: usize,
    /// Octets of the first that are in the buffer.
    written: usize,
    has_ended: bool,
}

impl Unread {
    fn takes(&self, kind: u8, is_bare: bool) -> bool {
        !self.has_ended && if kind == END { is_bare } else { self.octets < WINDOW }
    }

    fn push(&mut self, message: Message, kind: u8) {
        self.has_ended = kind == END;
        self.octets += message.body().len();
        self.messages.push_back(message);
    }

    /// What of the first goes into the buffer next.
    fn next(&self) -> &[u8] {
        self.messages.front().and_then(|first| first.body().get(HEADER + self.written..)).unwrap_or_default()
    }

    /// The first, if all of it is in the buffer. END is no longer than its header.
    fn pop_written(&mut self) -> Option<Message> {
        self.messages.front().filter(|first| first.body().len() == HEADER + self.written)?;
        let taken = self.messages.pop_front()?;
        (self.octets, self.written) = (self.octets - taken.body().len(), 0);
        Some(taken)
    }
}

/// Ends only with a failure. It never waits for the reader alone: the news of an end must not wait behind unread octets.
async fn receive(
    channel: &mut Channel,
    own: Token,
    to: &mut WriteHalf<DuplexStream>,
    bound: oneshot::Receiver<Receipt>,
    shared: &Shared,
    state: &watch::Sender<State>,
) -> Result<(), Ended> {
    // The peer's, not done with until its stream is known to be bound to ours: until then a later one of ours may need it.
    let mut opening: Option<Message> = None;
    let mut unread = Unread::default();
    // The reader is gone, and something has come for it: what we have sent gets this long before the stream is broken off.
    let mut patience: Option<Instant> = None;
    let is_bound = async {
        match bound.await {
            Ok(first) => first.delivered().await.is_ok(),
            Err(_) => false,
        }
    };
    tokio::pin!(is_bound);
    let mut is_asked = true;
    loop {
        while let Some(taken) = unread.pop_written() {
            let is_end = taken.body().first() == Some(&END);
            taken.done().await?;
            if is_end {
                state.send_modify(|state| state.read_to_the_end = true);
                let _ = to.shutdown().await;
            }
        }
        let next = unread.next();
        // Each arm is cancel-safe, and what is done with it is awaited behind.
        let message = tokio::select! {
            message = channel.recv() => message?.ok_or(Ended(CLOSED))?,
            written = to.write(next), if !next.is_empty() && patience.is_none() => {
                match written {
                    Ok(len) => unread.written += len,
                    Err(_) => patience = Some(Instant::now() + FAREWELL),
                }
                continue;
            }
            is_bound = &mut is_bound, if is_asked => {
                is_asked = false;
                if is_bound && let Some(opening) = opening.take() {
                    opening.done().await?;
                }
                continue;
            }
            () = sleep_until(patience.unwrap_or_else(Instant::now)), if patience.is_some() => return Err(Ended(CLOSED)),
        };
        let (kind, name, is_bare) = parse(message.body()).ok_or(Ended(NO_STREAM))?;
        let is_paired = shared.is_paired.load(Ordering::Acquire);
        let opened = state.borrow().opened;
        match (kind, name) {
            (OPENING, None) if is_bare => {
                if is_paired {
                    // Not done with: the next stream of ours needs it.
                    return Err(Ended(BEGUN_ANEW));
                }
                let id = token(message.id());
                // Before anything is awaited: `send` must not pair with the earlier one meanwhile.
                state.send_modify(|state| state.opened = Some(id));
                if let Some(earlier) = opening.replace(message) {
                    earlier.done().await?;
                }
            }
            // For another stream. It is never committed here, or its sender would take it for delivered: it gives it up.
            (DATA | END, Some(to_whom)) if to_whom != own && (kind == DATA || is_bare) => {
                // It comes from the stream whose opening we have, which is bound to another than us.
                if opened.is_some_and(|opened| opened[..4] == message.id().instance.0) {
                    if is_paired {
                        return Err(Ended(BEGUN_ANEW));
                    }
                    state.send_modify(|state| state.opened = None);
                    if let Some(opening) = opening.take() {
                        opening.done().await?;
                    }
                }
            }
            // Another run of the peer may have had our opening too: what it has said is not of this stream.
            (DATA | END, Some(_)) if opened.is_none_or(|opened| opened[..4] != message.id().instance.0) => {}
            (DATA | END, Some(_)) if unread.takes(kind, is_bare) => {
                shared.is_paired.store(true, Ordering::Release);
                unread.push(message, kind);
                if let Some(opening) = opening.take() {
                    opening.done().await?;
                }
            }
            (BROKEN, Some(whose)) if is_bare => {
                let is_of_this = opened == Some(whose);
                if is_of_this && !is_paired {
                    state.send_modify(|state| state.opened = None);
                }
                if is_of_this && let Some(opening) = opening.take() {
                    opening.done().await?;
                }
                message.done().await?;
                if is_of_this && is_paired {
                    return Err(Ended(BROKEN_OFF));
                }
            }
            _ => return Err(Ended(NO_STREAM)),
        }
    }
}
