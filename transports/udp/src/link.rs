//! One peer of a socket.

use std::{
    collections::VecDeque,
    future::Future,
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use sealway_link::{
    BoxFuture, Branched, FrameLink, Frames, LinkCapabilities, LinkError, LinkErrorKind,
    fragment::{FRAGMENT, Fragment, Reassembler},
    recovery::{ACKNOWLEDGEMENT, OVERHEAD, PACKET, Recovery},
};
use sealway_wire::Timestamp;
use tokio::time::{Instant, Sleep, sleep};

use crate::{
    branch,
    socket::{Inbox, Open},
};

/// The longest frame: the longest record, 16.5 KiB and its header, with room to spare. Those above a datagram go in fragments.
pub const MTU: usize = 20 * 1024;

/// Octets of a datagram that any path is expected to carry, and of one that every path carries: RFC 9000 section 14, and RFC 791
/// with the headers taken off.
const BASE: usize = 1200;
const FLOOR: usize = 508;
/// Longer ones that are tried: Ethernet with a tunnel, with IPv6, with IPv4; jumbo frames.
const LENGTHS: [usize; 6] = [FLOOR, BASE, 1372, 1452, 1472, 8952];

/// Datagrams of handshakes that wait, and after how many frames without an answer shorter ones are tried.
const BARE: usize = 32;
const PATIENCE: u32 = 2;
/// Frames that may be in fragments at once.
const FRAGMENTED: usize = 64;
/// Frames of one packet of somebody whom nobody knows that are looked at.
const FEW: usize = 8;
/// Fragments of one packet whose number is far from those before that are looked at, and frames that are waited for of those.
const FEW_FRAGMENTS: usize = 4;
/// A link on which what was sent goes unanswered for so long is given up: the next one begins with a handshake.
const SILENCE: Duration = Duration::from_secs(10);
/// The longest handshake frame: longer ones only travel in packets.
const LONGEST_BARE: u16 = 2048;
/// Octets that are handed to the system at once.
const BATCH: usize = 60 * 1024;
/// How much more than it has sent a peer gets that nobody knows: RFC 9000 section 8.1.
const AMPLIFICATION: usize = 3;
/// How long a link that is closed waits for what it has sent to arrive.
const LINGER: Duration = Duration::from_secs(1);

/// Frames from and to one address.
///
/// Handshakes go bare, each in datagrams of its own. All other frames share packets, which are acknowledged, sent again if they
/// are lost, and are no more at once than the path takes.
pub struct UdpLink {
    open: Arc<Open>,
    inbox: Arc<Inbox>,
    peer: SocketAddr,
    idle_timeout: Duration,
    /// The zero of its time.
    origin: Instant,
    recovery: Recovery,
    reassembler: Reassembler,
    /// Of packets that a stranger may have made up.
    strays: Reassembler,
    heard: bool,
    proved: bool,
    /// Of a peer whom nobody knows: octets that may still be sent to it.
    allowed: usize,

    incoming: Frames,
    /// The next of them to be looked at.
    next: usize,
    bare: VecDeque<Vec<u8>>,
    bare_length: usize,
    /// The longest datagram that has come.
    longest_came: usize,
    unanswered: u32,
    /// Datagrams of one length on their way to the system, and one that is longer than those.
    batch: Vec<u8>,
    length: usize,
    carried: Vec<u8>,
    writable: Option<BoxFuture<'static, io::Result<()>>>,
    timer: Pin<Box<Sleep>>,
    idle: Pin<Box<Sleep>>,
    linger: Option<Pin<Box<Sleep>>>,
    /// It was connected, and nothing was done with it since: others may leave from its socket.
    may_branch: bool,
}

impl UdpLink {
    pub(crate) fn new(
        open: Arc<Open>,
        inbox: Arc<Inbox>,
        peer: SocketAddr,
        idle_timeout: Duration,
    ) -> Result<Self, LinkError> {
        let mut number = [0; 4];
        getrandom::fill(&mut number).map_err(|error| LinkError::new(LinkErrorKind::Other, peer).caused_by(error))?;
        let now = Timestamp::from_micros(0);
        Ok(Self {
            open,
            inbox,
            peer,
            idle_timeout,
            origin: Instant::now(),
            recovery: Recovery::new(now, BASE, &LENGTHS, u32::from_be_bytes(number)),
            reassembler: Reassembler::new(FRAGMENTED, MTU),
            strays: Reassembler::new(FEW_FRAGMENTS, MTU),
            heard: false,
            proved: false,
            allowed: 0,
            incoming: Frames::new(),
            next: 0,
            bare: VecDeque::new(),
            bare_length: BASE,
            longest_came: 0,
            unanswered: 0,
            batch: Vec::new(),
            length: 0,
            carried: Vec::new(),
            writable: None,
            timer: Box::pin(sleep(Duration::ZERO)),
            idle: Box::pin(sleep(idle_timeout)),
            linger: None,
            may_branch: false,
        })
    }

    pub(crate) const fn set_connected(&mut self) {
        self.may_branch = true;
    }

    /// Lets so many octets more leave to a peer whom nobody knows.
    pub(crate) const fn allow(&mut self, octets: usize) {
        self.allowed += octets;
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Queues a frame in datagrams of its own. They are few, and their sender repeats them.
    fn send_bare(&mut self, frame: &[u8]) {
        self.unanswered = self.unanswered.saturating_add(1);
        if self.unanswered > PATIENCE {
            // Nobody has answered: perhaps the path carries less.
            self.bare_length = FLOOR;
        } else if !self.proved {
            // What comes from there in one piece goes there in one piece.
            self.bare_length = self.longest_came.clamp(FLOOR, BASE);
        }
        let fragments = Fragment::cut(Fragment::id_of(frame), frame, self.bare_length);
        let datagrams: Vec<Vec<u8>> = match fragments.filter(|_| frame.len() > self.bare_length) {
            None => vec![frame.to_vec()],
            Some(fragments) => {
                let encode = |fragment: Fragment<'_>| {
                    let mut datagram = Vec::new();
                    fragment.encode(&mut datagram);
                    datagram
                };
                fragments.map(encode).collect()
            }
        };
        let octets = datagrams.iter().map(Vec::len).sum();
        let is_allowed = self.proved || self.allowed >= octets;
        if !is_allowed || self.bare.len() + datagrams.len() > BARE {
            return;
        }
        self.allowed = self.allowed.saturating_sub(octets);
        self.bare.extend(datagrams);
    }

    /// Fills the batch. `false`: nothing is to be sent now.
    fn fill(&mut self) -> bool {
        if let Some(datagram) = self.bare.pop_front() {
            self.length = datagram.len();
            self.batch = datagram;
            return true;
        }
        let now = self.now();
        if !self.carried.is_empty() {
            self.length = self.carried.len();
            std::mem::swap(&mut self.batch, &mut self.carried);
        }
        let most = if self.length > self.recovery.longest() + OVERHEAD { 1 } else { self.open.socket.most_at_once() };
        let mut count = usize::from(!self.batch.is_empty());
        while count < most && self.batch.len() + self.length.max(BASE) <= BATCH {
            let start = self.batch.len();
            if !self.recovery.poll_transmit(now, &mut self.batch) {
                break;
            }
            let length = self.batch.len() - start;
            if !self.proved && self.allowed < length {
                self.batch.truncate(start);
                break;
            }
            self.allowed = self.allowed.saturating_sub(length);
            count += 1;
            let is_probe = length > self.recovery.longest() + OVERHEAD;
            if start == 0 {
                self.length = length;
            } else if length > self.length {
                self.carried.extend_from_slice(self.batch.get(start..).unwrap_or_default());
                self.batch.truncate(start);
                break;
            } else if length < self.length {
                break;
            }
            // What may be too long goes by itself: the others would be lost with it.
            if is_probe {
                break;
            }
        }
        !self.batch.is_empty()
    }

    /// Sends what may leave, and waits for the time of what may not.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.may_branch = false;
        loop {
            if let Some(writable) = &mut self.writable {
                ready!(writable.as_mut().poll(cx)).map_err(|error| sealway_ip::failure(error, self.peer))?;
                self.writable = None;
            }
            if self.batch.is_empty() && !self.fill() {
                let now = self.now();
                if self.recovery.silent_since().is_some_and(|since| now.since(since) >= SILENCE) {
                    return Poll::Ready(Err(LinkError::new(LinkErrorKind::TimedOut, self.peer)));
                }
                let Some(at) = self.recovery.poll_timeout() else { break };
                self.timer.as_mut().reset(self.origin + at.since(Timestamp::from_micros(0)));
                if self.timer.as_mut().poll(cx).is_pending() {
                    break;
                }
                if at > now {
                    continue;
                }
                // What was due and did not happen is left to the next turn.
                cx.waker().wake_by_ref();
                break;
            }
            match self.open.socket.try_send(self.peer, self.inbox.local, &self.batch, self.length) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.writable = Some(Box::pin(self.open.socket.clone().writable()));
                    continue;
                }
                Err(error) if is_too_long(&error) => {
                    let now = self.now();
                    self.recovery.is_too_long(now, self.length);
                    self.bare_length = FLOOR;
                }
                // A network that is away is one that loses datagrams: it may come back.
                Ok(()) | Err(_) => {}
            }
            self.batch.clear();
        }
        if self.recovery.is_flushed() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Looks at the acknowledgements among what has come meanwhile, and leaves it where it is. Returns whether anything has.
    fn take_acknowledgements(&mut self, cx: &Context<'_>) -> bool {
        let before = self.incoming.len();
        self.inbox.take(&mut self.incoming, cx);
        let now = self.now();
        let came = (before..self.incoming.len()).filter_map(|index| self.incoming.get(index));
        let acknowledgements = came.filter(|datagram| datagram.first() == Some(&ACKNOWLEDGEMENT));
        // Each is looked at once more when it is received, which changes nothing.
        for datagram in acknowledgements {
            self.recovery.handle(now, datagram, &mut Frames::new());
        }
        self.incoming.len() > before
    }

    /// Looks at what has come. Returns whether there was anything.
    fn handle_incoming(&mut self, frames: &mut Frames, limit: usize) -> bool {
        let now = self.now();
        let (first, empty) = (self.next, frames.len());
        let wants = |frames: &Frames| frames.octets() < limit || frames.len() == empty;
        while let Some(datagram) = self.incoming.get(self.next).filter(|_| wants(frames)) {
            self.next += 1;
            if !self.proved {
                self.allowed = self.allowed.saturating_add(AMPLIFICATION * datagram.len());
            }
            self.longest_came = self.longest_came.max(datagram.len());
            match datagram.first() {
                Some(&(PACKET | ACKNOWLEDGEMENT)) if self.heard => {
                    let before = frames.len();
                    // Records tell by their tags whether they are genuine; fragments do not, and a stranger's drive none out.
                    let (reassembler, most) = match self.recovery.handle(now, datagram, frames) {
                        true => (&mut self.reassembler, usize::MAX),
                        false => (&mut self.strays, FEW_FRAGMENTS),
                    };
                    reassembler.join(now, frames, before, most);
                }
                Some(&PACKET) => {
                    let mut strange = Frames::new();
                    self.recovery.handle(now, datagram, &mut strange);
                    let few = (0..strange.len().min(FEW)).filter_map(|index| strange.get(index));
                    few.filter(|frame| !is_bare(frame)).for_each(|frame| frames.push(frame));
                }
                Some(&FRAGMENT) => {
                    // Records in fragments come in packets, whose numbers nobody guesses.
                    let is_bare = |fragment: Fragment<'_>| fragment.total <= LONGEST_BARE;
                    if Fragment::decode(datagram).is_ok_and(is_bare) {
                        frames.push(datagram);
                    }
                }
                Some(_) if datagram.len() <= MTU => frames.push(datagram),
                _ => {}
            }
        }
        self.next > first
    }
}

/// Whether a frame goes in datagrams of its own.
fn is_bare(frame: &[u8]) -> bool {
    frame.first().is_none_or(|first| *first < 0x80 && *first != FRAGMENT)
}

/// Whether the system does not send datagrams of that length.
fn is_too_long(error: &io::Error) -> bool {
    #[cfg(unix)]
    let code = libc::EMSGSIZE;
    #[cfg(not(unix))]
    let code = 10040; // WSAEMSGSIZE
    error.raw_os_error() == Some(code)
}

impl FrameLink for UdpLink {
    fn capabilities(&self) -> LinkCapabilities {
        LinkCapabilities::datagrams(MTU, self.recovery.longest())
    }

    fn source(&self) -> u64 {
        sealway_ip::source(self.peer.ip())
    }

    fn observed(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.peer.ip().to_canonical(), self.peer.port()))
    }

    fn branch(&mut self) -> Option<Branched> {
        std::mem::take(&mut self.may_branch).then(|| branch::of(&self.open, self.peer, self.idle_timeout))
    }

    fn set_heard(&mut self) {
        if !std::mem::replace(&mut self.heard, true) {
            self.recovery.set_proved();
        }
    }

    fn set_proved(&mut self) {
        self.set_heard();
        if !std::mem::replace(&mut self.proved, true) {
            self.inbox.set_proved();
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, frames: &mut Frames, limit: usize) -> Poll<Result<bool, LinkError>> {
        let before = frames.len();
        loop {
            if self.handle_incoming(frames, limit) {
                self.unanswered = 0;
                self.idle.as_mut().reset(Instant::now() + self.idle_timeout);
            }
            if frames.len() > before {
                // What they are acknowledged with.
                if let Poll::Ready(Err(error)) = self.drive(cx) {
                    return Poll::Ready(Err(error));
                }
                return Poll::Ready(Ok(true));
            }
            self.incoming.clear();
            self.next = 0;
            self.inbox.take(&mut self.incoming, cx);
            if self.incoming.is_empty() {
                if let Poll::Ready(Err(error)) = self.drive(cx) {
                    return Poll::Ready(Err(error));
                }
                ready!(self.idle.as_mut().poll(cx));
                return Poll::Ready(Err(LinkError::new(LinkErrorKind::TimedOut, self.peer)));
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, frame: &[u8]) -> Poll<Result<(), LinkError>> {
        if frame.is_empty() || frame.len() > MTU {
            return Poll::Ready(Err(LinkError::new(LinkErrorKind::Framing, self.peer)));
        }
        if is_bare(frame) || !self.proved {
            self.send_bare(frame);
            return Poll::Ready(Ok(()));
        }
        if !self.recovery.has_room() {
            if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
            if !self.recovery.has_room() {
                return Poll::Pending;
            }
        }
        self.recovery.take(frame);
        Poll::Ready(Ok(()))
    }

    /// Goes on although nobody receives meanwhile: acknowledgements are looked at, and what else comes waits.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        loop {
            let flushed = self.drive(cx)?;
            if self.recovery.is_settled() || !self.take_acknowledgements(cx) {
                return flushed.map(Ok);
            }
        }
    }

    /// Waits a moment for what was sent to arrive. There is no end of a direction: the channel above says what it has to.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if linger.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        loop {
            if let Poll::Ready(Err(error)) = self.drive(cx) {
                return Poll::Ready(Err(error));
            }
            if self.recovery.is_settled() && self.batch.is_empty() && self.bare.is_empty() {
                return Poll::Ready(Ok(()));
            }
            // They alone are of interest now: what else comes is not acknowledged, for nobody reads it.
            self.incoming.clear();
            self.next = 0;
            if !self.take_acknowledgements(cx) {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for UdpLink {
    fn drop(&mut self) {
        self.open.socket.remove(self.peer, &self.inbox);
    }
}
