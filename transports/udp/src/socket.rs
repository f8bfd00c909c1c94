//! A socket, what it reads for whom, and the task that reads it.

use std::{
    collections::{HashMap, hash_map::Entry},
    io::{self, ErrorKind, IoSliceMut},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use sealway_link::{Frames, fragment::FRAGMENT, recovery::PACKET};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::{io::Interest, net::UdpSocket, sync::mpsc, task::AbortHandle};

/// Octets of datagrams that wait for a link to read them, of a stranger and of others; what is beyond is lost, as it would be in
/// the system's buffer.
const STRANGE: usize = 8 * 1024;
const INBOX: usize = 512 * 1024;
/// What a datagram costs beside its octets.
const EACH: usize = 16;
/// What the system is asked to keep for us.
const SYSTEM_BUFFER: usize = 2 * 1024 * 1024;
/// Reads at once, each of a buffer in which the system may put many datagrams.
const READS: usize = 8;
const BUFFER: usize = 64 * 1024;
/// After a failure of the system's.
const PAUSE: Duration = Duration::from_millis(100);
/// New sources whose links nobody has taken yet.
const ARRIVING: usize = 64;

/// Datagrams of one peer.
pub(crate) struct Inbox {
    /// The address of ours that they came to: answers leave from there.
    pub(crate) local: Option<IpAddr>,
    waiting: Mutex<Waiting>,
}

struct Waiting {
    datagrams: Frames,
    reader: Option<Waker>,
    limit: usize,
}

impl Inbox {
    fn new(local: Option<IpAddr>) -> Arc<Self> {
        let waiting = Waiting { datagrams: Frames::new(), reader: None, limit: STRANGE };
        Arc::new(Self { local, waiting: Mutex::new(waiting) })
    }

    fn is_proved(&self) -> bool {
        self.lock().limit == INBOX
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// More of it may wait.
    pub(crate) fn set_proved(&self) {
        self.lock().limit = INBOX;
    }

    fn push(&self, datagrams: impl Iterator<Item = impl AsRef<[u8]>>) {
        let mut waiting = self.lock();
        for datagram in datagrams {
            let kept = waiting.datagrams.octets() + waiting.datagrams.len() * EACH;
            if kept + datagram.as_ref().len() <= waiting.limit {
                waiting.datagrams.push(datagram.as_ref());
            }
        }
        let reader = waiting.reader.take();
        drop(waiting);
        reader.into_iter().for_each(Waker::wake);
    }

    /// Appends what has come to `into`. The task is woken when something does.
    pub(crate) fn take(&self, into: &mut Frames, cx: &Context<'_>) {
        let mut waiting = self.lock();
        waiting.reader = Some(cx.waker().clone());
        if waiting.datagrams.is_empty() {
            return;
        }
        if into.is_empty() {
            std::mem::swap(&mut waiting.datagrams, into);
        } else if into.octets() < INBOX {
            (0..waiting.datagrams.len())
                .filter_map(|index| waiting.datagrams.get(index))
                .for_each(|datagram| into.push(datagram));
            waiting.datagrams.clear();
        }
    }
}

/// Where a datagram of a source that is not known yet goes.
pub(crate) type Arrivals = mpsc::Receiver<(SocketAddr, Arc<Inbox>)>;

pub(crate) struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    peers: Mutex<HashMap<SocketAddr, Arc<Inbox>>>,
    /// Somebody takes what comes from others than the peers.
    has_listener: AtomicBool,
    is_ipv6: bool,
}

/// A socket that is read, as long as somebody has this.
pub(crate) struct Open {
    pub(crate) socket: Arc<Socket>,
    reader: AbortHandle,
    arrivals: Mutex<Option<Arrivals>>,
}

impl Open {
    /// What comes from others than the peers of the socket, from now on: for the first who asks.
    pub(crate) fn listen(&self) -> Option<Arrivals> {
        let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        self.socket.has_listener.store(true, Ordering::Release);
        Some(arrivals)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Opens a socket at `local` and begins to read it. What comes from others than its peers is dropped until [somebody
/// listens](Open::listen).
///
/// `is_listener`: handshakes of strangers are among it, not only records of those who know us by a session.
pub(crate) fn open(local: SocketAddr, is_listener: bool) -> io::Result<Arc<Open>> {
    let socket = RawSocket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    if local.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&local.into())?;
    let state = UdpSocketState::new((&socket).into())?;
    // As much as it grants.
    let _ = state.set_recv_buffer_size((&socket).into(), SYSTEM_BUFFER);
    let _ = state.set_send_buffer_size((&socket).into(), SYSTEM_BUFFER);
    let io = UdpSocket::from_std(socket.into())?;
    let (peers, has_listener) = (Mutex::default(), AtomicBool::new(false));
    let socket = Arc::new(Socket { io, state, peers, has_listener, is_ipv6: local.is_ipv6() });
    let (sender, arrivals) = mpsc::channel(ARRIVING);
    let reader = tokio::spawn(read(socket.clone(), sender, is_listener)).abort_handle();
    Ok(Arc::new(Open { socket, reader, arrivals: Mutex::new(Some(arrivals)) }))
}

impl Socket {
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    pub(crate) const fn is_ipv6(&self) -> bool {
        self.is_ipv6
    }

    /// The address as the socket writes it: one that carries IPv6 has IPv4 mapped into it. None: it does not reach it.
    pub(crate) fn reaches(&self, address: SocketAddr) -> Option<SocketAddr> {
        match address {
            SocketAddr::V4(address) if self.is_ipv6 => {
                Some(SocketAddr::new(address.ip().to_ipv6_mapped().into(), address.port()))
            }
            SocketAddr::V6(_) if !self.is_ipv6 => None,
            _ => Some(address),
        }
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Inbox>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What comes from `peer` is kept for it from now on. None: there is somebody already for whom it is kept.
    pub(crate) fn add(&self, peer: SocketAddr, local: Option<IpAddr>) -> Option<Arc<Inbox>> {
        match self.peers().entry(peer) {
            Entry::Occupied(_) => None,
            Entry::Vacant(entry) => Some(entry.insert(Inbox::new(local)).clone()),
        }
    }

    /// The same for somebody whom we have chosen: who is there already has to be known, or he makes room. A source is forged
    /// easily, and nobody is kept from where we want to go by that.
    pub(crate) fn claim(&self, peer: SocketAddr) -> Option<Arc<Inbox>> {
        let mut peers = self.peers();
        if peers.get(&peer).is_some_and(|inbox| inbox.is_proved()) {
            return None;
        }
        let inbox = Inbox::new(None);
        peers.insert(peer, inbox.clone());
        Some(inbox)
    }

    pub(crate) fn remove(&self, peer: SocketAddr, inbox: &Arc<Inbox>) {
        if let Entry::Occupied(entry) = self.peers().entry(peer)
            && Arc::ptr_eq(entry.get(), inbox)
        {
            entry.remove();
        }
    }

    /// How many datagrams of one length the system takes at once.
    pub(crate) fn most_at_once(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends datagrams of `length` octets, the last one perhaps shorter.
    pub(crate) fn try_send(
        &self,
        to: SocketAddr,
        from: Option<IpAddr>,
        octets: &[u8],
        length: usize,
    ) -> io::Result<()> {
        let segment_size = (octets.len() > length).then_some(length);
        let transmit = Transmit { destination: to, ecn: None, contents: octets, segment_size, src_ip: from };
        self.io.try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), &transmit))
    }

    /// Waits until [`try_send`](Self::try_send) may do something. Unlike the socket's poll, it serves many at once.
    pub(crate) async fn writable(self: Arc<Self>) -> io::Result<()> {
        self.io.writable().await
    }
}

/// Whether a link is made for a datagram of an unknown source: it may be the first of a handshake, or its peer has moved.
fn may_begin(datagram: &[u8], is_listener: bool) -> bool {
    let is_greeting = |first| is_listener && ((0x11..0x40).contains(&first) || first == FRAGMENT);
    datagram.first().is_some_and(|&first| first >= 0x80 || first == PACKET || is_greeting(first))
}

async fn read(socket: Arc<Socket>, arrivals: mpsc::Sender<(SocketAddr, Arc<Inbox>)>, is_listener: bool) {
    let mut buffer = vec![0; READS * BUFFER];
    loop {
        let read = async {
            socket.io.readable().await?;
            let mut parts = buffer.chunks_mut(BUFFER).map(IoSliceMut::new);
            let mut buffers: [IoSliceMut<'_>; READS] =
                std::array::from_fn(|_| parts.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
            let mut found = [RecvMeta::default(); READS];
            let state = &socket.state;
            let io = &socket.io;
            let count = io.try_io(Interest::READABLE, || state.recv(io.into(), &mut buffers, &mut found))?;
            Ok::<_, io::Error>((count, found))
        };
        match read.await {
            Ok((count, found)) => {
                for (meta, buffer) in found.iter().take(count).zip(buffer.chunks(BUFFER)) {
                    let octets = buffer.get(..meta.len).unwrap_or_default();
                    distribute(&socket, &arrivals, is_listener, meta, octets);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // What the network says of datagrams that were sent: no failure of the socket.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused
                        | ErrorKind::ConnectionReset
                        | ErrorKind::HostUnreachable
                        | ErrorKind::NetworkUnreachable
                        | ErrorKind::Interrupted
                ) => {}
            // The machine is short of something: it will not be for ever.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
        // Others have their turn although there is always more.
        tokio::task::yield_now().await;
    }
}

/// Puts the datagrams of one read into the inbox of their source.
fn distribute(
    socket: &Socket,
    arrivals: &mpsc::Sender<(SocketAddr, Arc<Inbox>)>,
    is_listener: bool,
    meta: &RecvMeta,
    octets: &[u8],
) {
    let datagrams = || octets.chunks(meta.stride.max(1));
    let known = socket.peers().get(&meta.addr).cloned();
    if let Some(inbox) = known {
        return inbox.push(datagrams());
    }
    let has_listener = socket.has_listener.load(Ordering::Acquire);
    if !has_listener || !datagrams().next().is_some_and(|datagram| may_begin(datagram, is_listener)) {
        return;
    }
    // Nobody listens, or more have come than are looked at: it comes again.
    let Ok(place) = arrivals.try_reserve() else { return };
    let Some(inbox) = socket.add(meta.addr, meta.dst_ip) else { return };
    inbox.push(datagrams());
    place.send((meta.addr, inbox));
}
