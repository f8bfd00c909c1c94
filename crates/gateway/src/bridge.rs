//! One device's link, and the link to the relay that belongs to it.

use std::{
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use sealway_link::{
    FrameLink, Frames, LinkCapabilities, LinkError, Ordering,
    fragment::{Fragment, Reassembler},
};
use sealway_wire::Timestamp;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    counts::{Carried, Counters},
    up::Up,
};

/// Octets that are read from a link before they are sent on.
const CHUNK: usize = 16 * 1024;
/// Octets of a device that wait for the link up.
const WAITING: usize = 64 * 1024;
/// For a slow link no more waits than what it carries in so many seconds.
const SECONDS: usize = 4;
/// Frames that may be in fragments at once, of either side.
const FRAGMENTED: usize = 16;
/// Rounds of one wake-up, so that a busy link leaves room for others.
const ROUNDS: usize = 16;
/// A connection that has said nothing for so long is given up.
const GREETING: Duration = Duration::from_secs(10);
/// A link up on which the relay has said nothing for so long is given up: longer than a relay waits for strangers.
const FIRST_WORD: Duration = Duration::from_secs(12);
/// How long a link may take what is left when it is closed.
const FAREWELL: Duration = Duration::from_secs(5);
/// The pause after a link up that could not be made, doubled each time up to the second.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(30);

/// Why nothing is carried any more.
enum End {
    /// The link of the device has ended.
    Down(Option<LinkError>),
    /// The link to the relay has ended.
    Up(Option<LinkError>),
    /// Too many wait for the relay's first word.
    Refused,
    Stopped,
}

/// Frames on their way from one link to the other.
struct Way {
    frames: Frames,
    next: usize,
    /// Where frames come in pieces. On others, what looks like a piece is carried as it is.
    reassembler: Option<Reassembler>,
    /// Put together, and not sent yet.
    whole: Option<Vec<u8>>,
    /// Something has come this way.
    is_used: bool,
}

impl Way {
    fn new(from: &dyn FrameLink) -> Self {
        let LinkCapabilities { mtu, ordering, .. } = from.capabilities();
        let reassembler = (ordering == Ordering::Datagram).then(|| Reassembler::new(FRAGMENTED, mtu));
        Self { frames: Frames::new(), next: 0, reassembler, whole: None, is_used: false }
    }

    /// Hands everything to a link. Pending: it takes no more just now.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut dyn FrameLink,
        (carried, counters, clock): (&Carried, &Counters, &Clock),
    ) -> Poll<Result<(), LinkError>> {
        let longest = to.capabilities().mtu;
        loop {
            let is_whole = self.whole.is_some();
            let Some(frame) = self.whole.as_deref().or_else(|| self.frames.get(self.next)) else { break };
            if let Some(reassembler) = self.reassembler.as_mut().filter(|_| !is_whole && Fragment::is_one(frame)) {
                // The medium of the other side has pieces of its own.
                let fragment = Fragment::decode(frame).ok();
                count_dropped(counters, usize::from(fragment.is_none()));
                self.whole = fragment.and_then(|fragment| reassembler.handle(clock.now(), &fragment));
                self.next += 1;
                continue;
            }
            if frame.len() > longest {
                counters.dropped_frames.fetch_add(1, Relaxed);
                tracing::warn!(octets = frame.len(), longest, "a frame is longer than the other side carries");
            } else {
                ready!(to.poll_send(cx, frame))?;
                carried.add(frame.len());
            }
            if self.whole.take().is_none() {
                self.next += 1;
            }
        }
        self.frames.clear();
        self.next = 0;
        Poll::Ready(Ok(()))
    }

    /// Gives back what was sent.
    fn compact(&mut self) {
        if self.next > 0 {
            let mut rest = Frames::new();
            (self.next..self.frames.len())
                .filter_map(|index| self.frames.get(index))
                .for_each(|frame| rest.push(frame));
            self.frames = rest;
            self.next = 0;
        }
    }

    /// Forgets what was not sent, and returns how many frames that were.
    fn drop_all(&mut self) -> usize {
        let dropped = self.frames.len() - self.next + usize::from(self.whole.take().is_some());
        self.frames.clear();
        self.next = 0;
        self.reassembler.iter_mut().for_each(Reassembler::clear);
        dropped
    }
}

/// Counts for fragments: no other time matters here.
struct Clock(Instant);

impl Clock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// Carries frames between a device and the relay until the device's link ends.
pub(crate) async fn run(
    mut down: Box<dyn FrameLink>,
    relay: &Arc<Up>,
    counters: &Counters,
    mut stopped: watch::Receiver<bool>,
) {
    let clock = Clock(Instant::now());
    // What can be lost is not missed: a line stays while there is no relay.
    let is_line = down.capabilities().ordering == Ordering::Datagram;
    let mut ways = [Way::new(&*down), Way::new(&*down)];
    let mut failures = 0_u32;
    let mut not_before = Instant::now();
    let end = loop {
        let greeting = async {
            match is_line {
                true => std::future::pending().await,
                false => tokio::time::sleep(GREETING).await,
            }
        };
        let first = tokio::select! {
            first = poll_fn(|cx| poll_first(cx, &mut *down, &mut ways[0])) => first,
            () = greeting => Err(End::Down(None)),
            _ = stopped.changed() => Err(End::Stopped),
        };
        if let Err(end) = first {
            break end;
        }
        if Instant::now() < not_before {
            // The last try has just failed. What a line brings meanwhile is repeated by who sent it.
            count_dropped(counters, ways[0].drop_all());
            continue;
        }
        // Whoever is on a line was plugged in by somebody.
        let mut place = None;
        if !is_line {
            place = relay.wait(down.source());
            if place.is_none() {
                counters.refused_links.fetch_add(1, Relaxed);
                break End::Refused;
            }
        }
        let connected = tokio::select! {
            connected = while_reading(relay.connect(), &mut *down, &mut ways[0], counters) => connected,
            _ = stopped.changed() => Err(End::Stopped),
        };
        let end = match connected {
            Ok(Ok((mut up, index))) => {
                failures = 0;
                ways[1] = Way::new(&*up);
                counters.is_cut_off.store(false, Relaxed);
                counters.uplinks.fetch_add(1, Relaxed);
                let heard = AtomicBool::new(false);
                let carry = poll_fn(|cx| {
                    let end = poll_carry(cx, &mut *down, &mut *up, &mut ways, (counters, &clock));
                    if ways[1].is_used && !heard.swap(true, Relaxed) {
                        relay.answered(index);
                        place = None;
                    }
                    end
                });
                let end = tokio::select! {
                    end = carry => end,
                    // A place among those who wait is for some seconds.
                    () = first_word(&heard, is_line) => End::Up(None),
                    _ = stopped.changed() => End::Stopped,
                };
                if !ways[1].is_used {
                    counters.unanswered_uplinks.fetch_add(1, Relaxed);
                    relay.unanswered(index);
                }
                if !matches!(end, End::Up(_)) {
                    let [way, _] = &mut ways;
                    farewell(&mut *up, way, (&counters.up, counters, &clock)).await;
                }
                counters.uplinks.fetch_sub(1, Relaxed);
                end
            }
            Ok(Err(error)) => {
                counters.failed_uplinks.fetch_add(1, Relaxed);
                counters.is_cut_off.store(true, Relaxed);
                not_before = Instant::now() + (FIRST_DELAY * (1 << failures.min(16))).min(MAX_DELAY);
                if failures == 0 {
                    tracing::warn!(%error, "the relay is not reached; other tries follow");
                }
                failures += 1;
                End::Up(Some(error))
            }
            Err(end) => end,
        };
        match end {
            End::Up(error) if is_line => {
                tracing::info!(?error, "the link to the relay has ended; the line stays");
                count_dropped(counters, ways.iter_mut().map(Way::drop_all).sum());
            }
            end => break end,
        }
    };
    match &end {
        End::Down(error) => tracing::info!(?error, "the link of a device has ended"),
        End::Up(error) => tracing::info!(?error, "the link to the relay has ended, and the device's with it"),
        End::Refused => tracing::info!("too many links wait for the relay's first word; one is turned away"),
        End::Stopped => {}
    }
    if !matches!(end, End::Down(Some(_))) {
        let [_, way] = &mut ways;
        farewell(&mut *down, way, (&counters.down, counters, &clock)).await;
    }
    count_dropped(counters, ways.iter_mut().map(Way::drop_all).sum());
}

/// Ends when the relay has not said anything in time. A line waits for it as long as it takes.
async fn first_word(heard: &AtomicBool, is_line: bool) {
    tokio::time::sleep(FIRST_WORD).await;
    if is_line || heard.load(Relaxed) {
        std::future::pending().await
    }
}

fn count_dropped(counters: &Counters, frames: usize) {
    counters.dropped_frames.fetch_add(u64::try_from(frames).unwrap_or(0), Relaxed);
}

/// The first frame of a device, since there is no link up.
fn poll_first(cx: &mut Context<'_>, down: &mut dyn FrameLink, way: &mut Way) -> Poll<Result<(), End>> {
    let limit = way.frames.octets() + CHUNK;
    match ready!(down.poll_recv(cx, &mut way.frames, limit)) {
        Ok(true) => Poll::Ready(Ok(())),
        Ok(false) => Poll::Ready(Err(End::Down(None))),
        Err(error) => Poll::Ready(Err(End::Down(Some(error)))),
    }
}

/// Waits for a link up, and takes in what the device says meanwhile: what is beyond waits at its sender, or is lost on a line.
async fn while_reading<T>(
    connecting: impl Future<Output = T>,
    down: &mut dyn FrameLink,
    way: &mut Way,
    counters: &Counters,
) -> Result<T, End> {
    let is_line = down.capabilities().ordering == Ordering::Datagram;
    let mut connecting = std::pin::pin!(connecting);
    poll_fn(|cx| {
        if let Poll::Ready(connected) = connecting.as_mut().poll(cx) {
            return Poll::Ready(Ok(connected));
        }
        loop {
            if way.frames.octets() >= WAITING {
                if !is_line {
                    return Poll::Pending;
                }
                count_dropped(counters, way.drop_all());
            }
            // At least one frame more than there was: the bound is reached.
            ready!(poll_first(cx, down, way))?;
        }
    })
    .await
}

/// Carries frames both ways until a link ends.
fn poll_carry(
    cx: &mut Context<'_>,
    down: &mut dyn FrameLink,
    up: &mut dyn FrameLink,
    [to_relay, to_device]: &mut [Way; 2],
    (counters, clock): (&Counters, &Clock),
) -> Poll<End> {
    for _ in 0..ROUNDS {
        let one = poll_one_way(cx, down, up, to_relay, (&counters.up, counters, clock));
        if let Poll::Ready(Err(failed)) = one {
            return Poll::Ready(failed.of(End::Down, End::Up));
        }
        let other = poll_one_way(cx, up, down, to_device, (&counters.down, counters, clock));
        if let Poll::Ready(Err(failed)) = other {
            return Poll::Ready(failed.of(End::Up, End::Down));
        }
        if one.is_pending() && other.is_pending() {
            return Poll::Pending;
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Which of two links has ended.
enum Failed {
    From(Option<LinkError>),
    To(LinkError),
}

impl Failed {
    fn of(self, from: fn(Option<LinkError>) -> End, to: fn(Option<LinkError>) -> End) -> End {
        match self {
            Self::From(error) => from(error),
            Self::To(error) => to(Some(error)),
        }
    }
}

/// Sends what is there, then reads more. Pending: it waits for either link.
fn poll_one_way(
    cx: &mut Context<'_>,
    from: &mut dyn FrameLink,
    to: &mut dyn FrameLink,
    way: &mut Way,
    counts: (&Carried, &Counters, &Clock),
) -> Poll<Result<(), Failed>> {
    let sent = way.poll_send(cx, to, counts).map_err(Failed::To)?;
    // Also when nothing was sent: that is how a link keeps time.
    if let Poll::Ready(Err(error)) = to.poll_flush(cx) {
        return Poll::Ready(Err(Failed::To(error)));
    }
    if sent.is_pending() && from.capabilities().ordering != Ordering::Datagram {
        // It waits in the connection, and at its sender.
        return Poll::Pending;
    }
    // A link of datagrams that nobody reads is taken for dead by its sender: what finds no room is dropped, as a router would.
    way.compact();
    let before = way.frames.len();
    let limit = way.frames.octets() + CHUNK;
    let received = match ready!(from.poll_recv(cx, &mut way.frames, limit)) {
        Ok(true) => {
            way.is_used = true;
            Poll::Ready(Ok(()))
        }
        Ok(false) => Poll::Ready(Err(Failed::From(None))),
        Err(error) => Poll::Ready(Err(Failed::From(Some(error)))),
    };
    if sent.is_pending() && way.frames.octets() > room(&to.capabilities()) {
        count_dropped(counts.1, way.frames.len() - before);
        way.frames.truncate(before);
    }
    received
}

/// Octets that may wait for a link: of a slow one, what it carries in some seconds, so that a sign of life is not among the last.
fn room(to: &LinkCapabilities) -> usize {
    let carried = to.rate.map(|rate| usize::try_from(rate.get()).unwrap_or(WAITING).saturating_mul(SECONDS));
    carried.map_or(WAITING, |carried| carried.clamp(to.unit, WAITING))
}

/// Sends what was taken for a link, and closes it.
async fn farewell(link: &mut dyn FrameLink, way: &mut Way, counts: (&Carried, &Counters, &Clock)) {
    let closing = poll_fn(|cx| {
        ready!(way.poll_send(cx, link, counts))?;
        link.poll_close(cx)
    });
    if let Ok(Err(error)) = timeout(FAREWELL, closing).await {
        tracing::debug!(%error, "a link was not closed in time");
    }
}
