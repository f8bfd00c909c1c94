//! Repeats what a lossy link between two machines has lost: a line with noise, a radio.
//!
//! Without it what is lost comes again too, from the channel's other end: over all links of the route, and after the time that
//! the route takes. Over a link that loses much, [`Repeated`] is cheaper. It wraps any link; both ends have to.
//!
//! * Handshakes go as they are. All other frames go in packets that are numbered, acknowledged and sent again, as over UDP
//!   (`sealway_link::recovery`): 7 octets for the first frame of a packet, 2 for each further one.
//! * A loss is taken for noise: what may be under way does not become less for it.
//! * A packet is sent 8 times, for 10 s at most; then its frames are lost, as they would be without this.
#![forbid(unsafe_code)]

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use sealway_link::{
    FrameLink, Frames, LinkCapabilities, LinkError, LinkErrorKind, Ordering,
    fragment::{FRAGMENT, Reassembler},
    recovery::{ACKNOWLEDGEMENT, MAX_UNIT, PACKET, Recovery, RecoveryCounts},
};
use sealway_wire::Timestamp;
use tokio::time::{Instant, Sleep, sleep};

/// What may be under way of a link whose rate nobody knows, in packets.
const WINDOW: usize = 16;
/// The same of a link whose rate is known: what it carries in this part of a second, and so many packets at least.
const AHEAD: u32 = 2;
const LEAST: usize = 4;
/// Octets that have come and are not handed up yet; beyond that the link is not read.
const WAITING: usize = 64 * 1024;
/// Frames of one packet of somebody whom nobody knows that are looked at.
const FEW: usize = 8;
/// Frames of which fragments are waited for at once.
const FRAGMENTED: usize = 64;
/// How long a link that is closed waits for what it has sent to arrive.
const LINGER: Duration = Duration::from_secs(1);

/// A link on which what is lost is sent again.
pub struct Repeated {
    link: Box<dyn FrameLink>,
    /// The zero of its time.
    origin: Instant,
    recovery: Recovery,
    heard: bool,
    proved: bool,
    /// Frames of the link, from `next` on not looked at.
    arrived: Frames,
    next: usize,
    reassembler: Reassembler,
    /// A packet or an acknowledgement that the link has not taken.
    leaving: Vec<u8>,
    timer: Pin<Box<Sleep>>,
    linger: Option<Pin<Box<Sleep>>>,
}

impl Repeated {
    /// Wraps a link. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn new(link: Box<dyn FrameLink>) -> Result<Self, LinkError> {
        let mut number = [0; 4];
        let no_number = |error| LinkError::new(LinkErrorKind::Other, "a link").caused_by(error);
        getrandom::fill(&mut number).map_err(no_number)?;
        let LinkCapabilities { mtu, unit, rate, .. } = link.capabilities();
        let unit = unit.min(MAX_UNIT);
        let ahead = rate.map(|rate| usize::try_from(rate.get() / AHEAD).unwrap_or(MAX_UNIT));
        let window = ahead.map_or(WINDOW * unit, |octets| octets.max(LEAST * unit));
        // A packet and its acknowledgement, and what may stand before them.
        let round_trip = rate.map(|rate| Duration::from_secs_f64(window as f64 / f64::from(rate.get())));
        let now = Timestamp::from_micros(0);
        Ok(Self {
            link,
            origin: Instant::now(),
            recovery: Recovery::between_two(now, unit, window, round_trip, u32::from_be_bytes(number)),
            heard: false,
            proved: false,
            arrived: Frames::new(),
            next: 0,
            reassembler: Reassembler::new(FRAGMENTED, mtu),
            leaving: Vec::new(),
            timer: Box::pin(sleep(Duration::ZERO)),
            linger: None,
        })
    }

    /// What has been counted.
    #[must_use]
    pub const fn counts(&self) -> RecoveryCounts {
        self.recovery.counts()
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn error(&self, kind: LinkErrorKind) -> LinkError {
        LinkError::new(kind, "a link that repeats")
    }

    /// Has leave what may, and waits for the time of what may not. Ready: nothing waits any more.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        loop {
            let now = self.now();
            if self.leaving.is_empty() && !self.recovery.poll_transmit(now, &mut self.leaving) {
                break;
            }
            match self.link.poll_send(cx, &self.leaving) {
                Poll::Ready(Ok(())) => self.leaving.clear(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if let Some(at) = self.recovery.poll_timeout() {
            self.timer.as_mut().reset(self.origin + at.since(Timestamp::from_micros(0)));
            if self.timer.as_mut().poll(cx).is_ready() {
                // What is due now is left to the next turn.
                cx.waker().wake_by_ref();
            }
        }
        ready!(self.link.poll_flush(cx))?;
        if self.recovery.is_flushed() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Reads what there is, as far as there is room, and looks at the acknowledgements in it. Returns whether anything has come.
    fn read_ahead(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkError> {
        if self.arrived.octets() >= WAITING {
            return Ok(false);
        }
        let before = self.arrived.len();
        // The end of the peer's direction is told when it is asked for.
        if let Poll::Ready(read) = self.link.poll_recv(cx, &mut self.arrived, WAITING) {
            read?;
        }
        let now = self.now();
        for frame in (before..self.arrived.len()).filter_map(|index| self.arrived.get(index)) {
            if frame.first() == Some(&ACKNOWLEDGEMENT) {
                // It is looked at once more when it is received, which changes nothing.
                self.recovery.handle(now, frame, &mut Frames::new());
            }
        }
        Ok(self.arrived.len() > before)
    }

    /// Hands up what has come.
    fn take_arrived(&mut self, frames: &mut Frames, limit: usize) {
        let (now, empty) = (self.now(), frames.len());
        while let Some(frame) = self.arrived.get(self.next).filter(|_| frames.octets() < limit || frames.len() == empty)
        {
            self.next += 1;
            match frame.first() {
                Some(&(PACKET | ACKNOWLEDGEMENT)) if self.heard => {
                    let before = frames.len();
                    self.recovery.handle(now, frame, frames);
                    // What was acknowledged does not come again: what has come of a frame is kept.
                    self.reassembler.join(now, frames, before, usize::MAX);
                }
                Some(&PACKET) => {
                    let mut strange = Frames::new();
                    self.recovery.handle(now, frame, &mut strange);
                    let few = (0..strange.len().min(FEW)).filter_map(|index| strange.get(index));
                    few.filter(|frame| !is_bare(frame)).for_each(|frame| frames.push(frame));
                }
                Some(&ACKNOWLEDGEMENT) => {}
                _ => frames.push(frame),
            }
        }
        if self.next == self.arrived.len() {
            self.arrived.clear();
            self.next = 0;
        }
    }
}

/// Whether a frame goes as it is: who sends it repeats it.
fn is_bare(frame: &[u8]) -> bool {
    frame.first().is_none_or(|first| *first < 0x80 && *first != FRAGMENT)
}

impl FrameLink for Repeated {
    fn capabilities(&self) -> LinkCapabilities {
        let mut capabilities = self.link.capabilities();
        (capabilities.unit, capabilities.ordering) = (self.recovery.longest(), Ordering::Datagram);
        capabilities
    }

    fn source(&self) -> u64 {
        self.link.source()
    }

    fn set_heard(&mut self) {
        self.link.set_heard();
        if !std::mem::replace(&mut self.heard, true) {
            self.recovery.set_proved();
        }
    }

    fn set_proved(&mut self) {
        self.set_heard();
        self.proved = true;
        self.link.set_proved();
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, frames: &mut Frames, limit: usize) -> Poll<Result<bool, LinkError>> {
        let before = frames.len();
        loop {
            self.take_arrived(frames, limit);
            if frames.len() > before {
                // What they are acknowledged with.
                if let Poll::Ready(Err(error)) = self.drive(cx) {
                    return Poll::Ready(Err(error));
                }
                return Poll::Ready(Ok(true));
            }
            match self.link.poll_recv(cx, &mut self.arrived, limit) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(ended) => return Poll::Ready(ended),
                Poll::Pending => {
                    if let Poll::Ready(Err(error)) = self.drive(cx) {
                        return Poll::Ready(Err(error));
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, frame: &[u8]) -> Poll<Result<(), LinkError>> {
        if frame.is_empty() || frame.len() > self.link.capabilities().mtu {
            return Poll::Ready(Err(self.error(LinkErrorKind::Framing)));
        }
        if is_bare(frame) || !self.proved {
            return self.link.poll_send(cx, frame);
        }
        if !self.recovery.has_room() {
            if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
            if !self.recovery.has_room() {
                return Poll::Pending;
            }
        }
        if self.recovery.take(frame) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Ready(Err(self.error(LinkErrorKind::Framing)))
        }
    }

    /// Goes on although nobody receives meanwhile: acknowledgements are looked at, and what else comes waits.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        loop {
            let flushed = self.drive(cx)?;
            if self.recovery.is_settled() || !self.read_ahead(cx)? {
                return flushed.map(Ok);
            }
        }
    }

    /// Waits a moment for what was sent to arrive.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let is_over = linger.as_mut().poll(cx).is_ready();
        while !(is_over || self.recovery.is_settled() && self.leaving.is_empty()) {
            if let Poll::Ready(Err(error)) = self.drive(cx) {
                return Poll::Ready(Err(error));
            }
            // What else comes is not wanted any more.
            self.arrived.clear();
            self.next = 0;
            if !self.read_ahead(cx)? {
                return Poll::Pending;
            }
        }
        self.link.poll_close(cx)
    }
}
