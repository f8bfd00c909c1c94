//! The driver: the one task that owns the state machines.
//!
//! * [`dial`]: links: connecting, listening, and what becomes of them.
//! * [`frames`]: frames in and out, and the hop protocol.
//! * [`peers`]: messages: outboxes, inboxes, and the application's handles.

mod dial;
mod frames;
mod peers;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    thread,
    time::Duration,
};

use sealway_channel::{ChannelId, Endpoint, Event, MAX_RECORD};
use sealway_link::{FrameLink, LinkError, Transport};
use sealway_routing::{Relay, SessionId, Table};
use sealway_vault::Vault;
use sealway_wire::{BoxName, IdentityId, Instance, Timestamp, content::CloseReason};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinSet,
    time::sleep_until,
};

use self::{dial::Dial, dial::Link, peers::Peer, peers::Stored};
use crate::{
    RelayConfig,
    clock::Clock,
    danger::RelayTap,
    handle::{Channel, Command, Statistics},
    links::{LinkEvent, LinkId},
    writer::{Writer, Written},
};

/// What tasks of the driver report, beside the links.
pub(crate) enum Report {
    Connected { dial: usize, link: Box<dyn FrameLink> },
    NotConnected { dial: usize, error: LinkError },
    Accepted { link: Box<dyn FrameLink> },
}

type Rows = [(Table, Vec<u8>, Vec<u8>)];

/// Everything of a node.
pub(crate) struct Driver<V: Vault + Clone + 'static> {
    clock: Clock,
    endpoint: Endpoint<V>,
    instance: Instance,
    contact_box: BoxName,
    transports: Vec<Arc<dyn Transport>>,
    senders: Senders,
    writer: Option<Writer<Stored>>,
    store_thread: Option<thread::JoinHandle<()>>,

    next_link: u64,
    links: HashMap<LinkId, Link>,
    /// Accepted links on which nobody has authenticated yet, by when that has to be.
    unproved: BTreeMap<(Timestamp, LinkId), ()>,
    dials: Vec<Dial>,
    by_hop: HashMap<ChannelId, usize>,
    relay: Option<Relay>,
    tap: Option<Arc<dyn RelayTap>>,
    /// The link of each attached client, where we are a relay.
    served: HashMap<ChannelId, LinkId>,
    peers: HashMap<IdentityId, Peer>,
    by_channel: HashMap<ChannelId, IdentityId>,
    statistics: Statistics,
    room: Arc<Notify>,
    tasks: JoinSet<()>,
    scratch: Scratch,
}

/// Buffers that are reused for every frame.
struct Scratch {
    inner: Vec<u8>,
    hop: Vec<u8>,
    outer: Vec<u8>,
}

impl Scratch {
    fn new() -> Self {
        let buffer = || vec![0; MAX_RECORD + 64];
        Self { inner: buffer(), hop: buffer(), outer: buffer() }
    }
}

/// What a driver is set up with.
pub(crate) struct Setup {
    pub(crate) instance: Instance,
    pub(crate) contact_box: BoxName,
    pub(crate) transports: Vec<Arc<dyn Transport>>,
    pub(crate) relay: Option<RelayConfig>,
}

/// What the driver waits for.
pub(crate) struct Queues {
    commands: mpsc::Receiver<Command>,
    written: mpsc::UnboundedReceiver<Written<Stored>>,
    links: mpsc::Receiver<LinkEvent>,
    reports: mpsc::Receiver<Report>,
}

/// The other ends of its queues, for tasks and handles that the driver makes.
pub(crate) struct Senders {
    commands: mpsc::Sender<Command>,
    accepted: mpsc::Sender<Channel>,
    links: mpsc::Sender<LinkEvent>,
    reports: mpsc::Sender<Report>,
    /// Has the driver look after all peers.
    wake: Arc<Notify>,
}

/// The queues of a driver whose handles send on `commands` and `accepted`.
pub(crate) fn queues(
    commands: (mpsc::Sender<Command>, mpsc::Receiver<Command>),
    accepted: mpsc::Sender<Channel>,
    written: mpsc::UnboundedReceiver<Written<Stored>>,
) -> (Senders, Queues) {
    let (link_sender, links) = mpsc::channel(256);
    let (report_sender, reports) = mpsc::channel(256);
    let senders =
        Senders { commands: commands.0, accepted, links: link_sender, reports: report_sender, wake: Arc::default() };
    (senders, Queues { commands: commands.1, written, links, reports })
}

/// How long a shutdown waits for links that do not take what is queued.
const FLUSH_TIME: Duration = Duration::from_secs(5);

impl<V: Vault + Clone + 'static> Driver<V> {
    pub(crate) fn new(
        clock: Clock,
        endpoint: Endpoint<V>,
        setup: Setup,
        senders: Senders,
        writer: Option<(Writer<Stored>, thread::JoinHandle<()>)>,
    ) -> Self {
        let Setup { instance, contact_box, transports, relay } = setup;
        let (writer, store_thread) = writer.unzip();
        Self {
            clock,
            endpoint,
            instance,
            contact_box,
            transports,
            writer,
            store_thread,
            next_link: 0,
            links: HashMap::new(),
            unproved: BTreeMap::new(),
            dials: Vec::new(),
            by_hop: HashMap::new(),
            tap: relay.as_ref().and_then(|config| config.tap.clone()),
            relay: relay.map(|config| Relay::new(config.limits)),
            served: HashMap::new(),
            peers: HashMap::new(),
            by_channel: HashMap::new(),
            statistics: Statistics::default(),
            room: senders.wake.clone(),
            senders,
            tasks: JoinSet::new(),
            scratch: Scratch::new(),
        }
    }

    /// Runs until the node is shut down.
    pub(crate) async fn run(mut self, mut queues: Queues) {
        let room = self.room.clone();
        let ended = loop {
            self.turn();
            let deadline = self.next_timeout();
            let sleep = async {
                match deadline {
                    Some(at) => sleep_until(self.clock.instant(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Each arm is cancel-safe; what they do is short and does not wait.
                Some(event) = queues.links.recv() => self.handle_link_event(event),
                Some(report) = queues.reports.recv() => self.handle_report(report),
                Some(written) = queues.written.recv() => self.handle_written(written),
                command = queues.commands.recv() => match command {
                    Some(Command::Shutdown { reply }) => break Some(reply),
                    Some(command) => self.handle_command(command),
                    None => break None,
                },
                () = room.notified() => self.peers.values_mut().for_each(Peer::wake),
                () = sleep => {}
            }
        };
        self.shut_down(queues, ended).await;
    }

    /// What is due after each input: deadlines, frames of the machines, events, messages.
    fn turn(&mut self) {
        let now = self.clock.now();
        self.endpoint.handle_timeout(now);
        self.handle_deadlines(now);
        self.drain_endpoint(now);
        self.pump_peers(now);
    }

    /// Events come before what the same frame brings: it may be the first of a session.
    fn handle_events(&mut self, now: Timestamp) {
        while let Some(event) = self.endpoint.poll_event() {
            self.handle_event(now, event);
        }
    }

    fn drain_endpoint(&mut self, now: Timestamp) {
        let mut frame = std::mem::take(&mut self.scratch.inner);
        loop {
            while let Some(outgoing) = self.endpoint.poll_transmit(now, &mut frame) {
                self.transmit(now, outgoing.path, &frame[..outgoing.len]);
            }
            let Some(event) = self.endpoint.poll_event() else { break };
            self.handle_event(now, event);
        }
        self.scratch.inner = frame;
    }

    fn handle_event(&mut self, now: Timestamp, event: Event) {
        tracing::debug!(?event, "channel");
        match event {
            Event::Opened { channel, peer, context } => {
                if self.by_hop.contains_key(&channel) {
                    self.hop_opened(now, channel);
                } else if self.is_relay_of_ours(peer.id()) {
                    // We admit relays to answer us, not to call us as if they were peers.
                    self.endpoint.close(channel, CloseReason::Policy);
                } else if self.relay.is_some() {
                    self.client_attached(channel, peer.id());
                } else {
                    self.prove_link(channel);
                    self.peer_opened(channel, &peer, context);
                }
            }
            Event::Renewed { channel, peer } => {
                if self.relay.is_some() && !self.by_hop.contains_key(&channel) {
                    self.client_renewed(channel, peer.id());
                } else if !self.by_hop.contains_key(&channel) {
                    self.prove_link(channel);
                    self.peer_renewed(channel, &peer);
                }
            }
            Event::AttemptFailed { channel } => self.hop_failed(now, channel),
            Event::Unresponsive { channel } => {
                if let Some(link) = self.served.get(&channel).copied() {
                    self.drop_link(now, link);
                }
            }
            Event::Closed { channel, reason } => {
                tracing::info!(?channel, ?reason, "the peer has closed the channel");
                self.hop_failed(now, channel);
                self.peer_closed(channel);
                if let Some(link) = self.served.get(&channel).copied() {
                    self.drop_link(now, link);
                }
            }
            Event::CardSuperseded { channel } => {
                tracing::warn!(?channel, "the card is older than the peer's channel key; a newer card is needed");
            }
            other => tracing::debug!(?other, "an event that this version of the node does not know"),
        }
    }

    fn handle_command(&mut self, command: Command) {
        let now = self.clock.now();
        match command {
            Command::Listen { address, reply } => self.listen(address, reply),
            Command::Attach { relay, wait, reply } => self.attach(now, *relay, wait, reply),
            Command::Open { card, policy, reply } => {
                let _ = reply.send(self.open(now, &card, &policy));
            }
            Command::Send { peer, body, options, durable, room, reply } => {
                self.send(peer, peers::Submission { body, options, durable, room, reply });
            }
            Command::Done { peer, id, reply } => self.done(now, peer, id, reply),
            Command::Taken { peer } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.wake();
                }
            }
            Command::Released { peer } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.release();
                }
            }
            Command::Statistics { reply } => {
                let links = u64::try_from(self.links.len()).unwrap_or(u64::MAX);
                let _ = reply.send(Statistics { links, ..self.statistics });
            }
            Command::Shutdown { .. } => {}
        }
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        let peers = self.peers.values().filter_map(Peer::next_timeout);
        let dials = self.dials.iter().filter_map(Dial::next_timeout);
        let unproved = self.unproved.keys().next().map(|(at, _)| *at);
        self.endpoint.poll_timeout().into_iter().chain(peers).chain(dials).chain(unproved).min()
    }

    /// Takes back what the store has.
    pub(crate) fn load(&mut self, rows: &Rows) {
        for (table, key, value) in rows {
            if *table == Table::Boxes {
                let is_loaded = self.relay.as_mut().is_none_or(|relay| relay.load(key, value));
                if !is_loaded {
                    tracing::warn!("a box in the store cannot be read; it is left alone");
                }
                continue;
            }
            let Some(id) = key.first_chunk::<32>().map(|id| IdentityId(*id)) else { continue };
            let instance = self.instance;
            let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id, instance));
            if !peer.load(*table, key, value) {
                tracing::warn!(table = table.name(), "a row of the store cannot be read; it is left alone");
            }
        }
    }

    async fn shut_down(mut self, mut queues: Queues, reply: Option<oneshot::Sender<()>>) {
        queues.commands.close();
        // What was asked for before the shutdown is still done.
        while let Ok(command) = queues.commands.try_recv() {
            self.handle_command(command);
        }
        // The store's thread ends when it has written everything.
        self.writer = None;
        while let Some(written) = queues.written.recv().await {
            self.handle_written(written);
        }
        if let Some(thread) = self.store_thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        // ACKs may wait for more to tell: now they have to go.
        let soon = self.clock.now().after(Duration::from_millis(100));
        self.drain_endpoint(soon);
        self.pump_peers(soon);
        self.links.values().for_each(|link| link.queue.close());
        let _ = tokio::time::timeout(FLUSH_TIME, async {
            while !self.links.is_empty() {
                if let Some(LinkEvent::Ended { link, .. }) = queues.links.recv().await {
                    self.links.remove(&link);
                }
            }
        })
        .await;
        drop(self);
        if let Some(reply) = reply {
            let _ = reply.send(());
        }
    }

    fn session_of(channel: ChannelId) -> SessionId {
        SessionId(channel.0)
    }
}
