//! The driver: the one task that owns the state machines.
//!
//! * [`admission`]: who is admitted, when that changes.
//! * [`attachment`]: the relays that we are attached to.
//! * [`dial`]: connecting, and staying connected.
//! * [`link`]: links: listening, strangers, and what becomes of them.
//! * [`fragments`]: frames that come in several datagrams.
//! * [`datagrams`]: what is sent once.
//! * [`direct`]: the way to a peer without the relay.
//! * [`frames`]: frames in and out, and the hop protocol.
//! * [`paired`]: peers behind constrained links.
//! * [`peer`]: what it knows of one peer.
//! * [`peers`]: messages: outboxes, inboxes, and the application's handles.
//! * [`custody`]: frames that a relay keeps.
//! * [`mailed`]: handshakes by letter.
//! * [`probe`]: how far the way to somebody is open.
//! * [`letters`]: what is sealed to a peer with whom there is no session; prekeys.

mod admission;
mod attachment;
mod custody;
mod datagrams;
mod dial;
mod direct;
mod fragments;
mod frames;
mod letters;
mod link;
mod mailed;
mod paired;
mod peer;
mod peers;
mod probe;

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    sync::Arc,
    thread,
    time::Duration,
};

use sealway_channel::{ChannelId, Endpoint, Event, MAX_RECORD, PathId};
use sealway_link::{FrameLink, LinkError, Transport};
use sealway_routing::{Batch, Relay, SessionId, Table};
use sealway_vault::Vault;
use sealway_wire::{BoxName, IdentityId, PrekeyId, Timestamp, content::CloseReason};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::{dial::Dial, link::Link, paired::Paired, peer::Peer, peers::Stored, probe::Ping};
use crate::{
    RelayConfig,
    clock::Clock,
    danger::RelayTap,
    handle::{Command, Offered},
    links::{Buffers, EventSenders, LinkEvent, LinkId},
    shared::Common,
    statistics::Statistics,
    writer::{Completed, Writer},
};

/// What tasks of the driver report, beside the links.
pub(crate) enum Report {
    Connected {
        dial: usize,
        link: Box<dyn FrameLink>,
        place: String,
    },
    NotConnected {
        dial: usize,
        error: LinkError,
    },
    /// `beside`: at this socket, which is that of a link to a relay.
    Accepted {
        link: Box<dyn FrameLink>,
        beside: Option<u64>,
    },
}

/// Everything of a node.
pub(crate) struct Driver<V: Vault + Clone + 'static> {
    clock: Clock,
    endpoint: Endpoint<V>,
    common: Arc<Common>,
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
    /// Addresses of identities that stand on no card.
    reachable: HashMap<IdentityId, Vec<String>>,
    by_hop: HashMap<ChannelId, usize>,
    pings: Vec<Ping>,
    relay: Option<Relay>,
    tap: Option<Arc<dyn RelayTap>>,
    /// What is read of each connection that was accepted, in octets a second.
    client_rate: Option<NonZeroU32>,
    /// The link of each attached client, where we are a relay.
    served: HashMap<ChannelId, LinkId>,
    peers: HashMap<IdentityId, Peer>,
    by_channel: HashMap<ChannelId, IdentityId>,
    /// Peers with whom there is a pairing, and the pairings of earlier runs that nobody has asked for yet.
    paired: HashMap<IdentityId, Paired<V>>,
    unclaimed: HashMap<IdentityId, Vec<u8>>,
    /// Whose box a flow leads to.
    by_flow: HashMap<PathId, IdentityId>,
    statistics: Statistics,
    tasks: JoinSet<()>,
    scratch: Scratch,
    /// The prekey that relays were told of.
    published: Option<PrekeyId>,
    /// What relays keep for us stays there.
    is_observer: bool,
    /// No peer is told where we are.
    is_relayed_only: bool,
    /// Counters are reserved on disk.
    store_has_no_copies: bool,
    /// The node is about to end.
    is_leaving: bool,
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
    pub(crate) common: Common,
    pub(crate) contact_box: BoxName,
    pub(crate) transports: Vec<Arc<dyn Transport>>,
    pub(crate) relay: Option<RelayConfig>,
    pub(crate) is_observer: bool,
    pub(crate) is_relayed_only: bool,
    pub(crate) store_has_no_copies: bool,
}

/// What the driver waits for.
pub(crate) struct Queues {
    commands: mpsc::Receiver<Command>,
    completed: mpsc::UnboundedReceiver<Completed<Stored>>,
    links: mpsc::Receiver<LinkEvent>,
    strangers: mpsc::Receiver<LinkEvent>,
    reports: mpsc::Receiver<Report>,
}

impl Queues {
    /// What has come already, from links first or last.
    fn try_next(&mut self, links_first: bool) -> Option<Input> {
        let Self { commands, completed, links, .. } = self;
        let mut link = || links.try_recv().map(Input::Link).ok();
        let first = if links_first { link() } else { None };
        let completed = || completed.try_recv().map(Input::Completed).ok();
        let command = || commands.try_recv().map(Input::Command).ok();
        first.or_else(completed).or_else(command).or_else(link)
    }
}

/// What the driver acts upon.
enum Input {
    Link(LinkEvent),
    Stranger(LinkEvent),
    Report(Report),
    Completed(Completed<Stored>),
    Command(Command),
    /// All peers are to be looked after.
    Wake,
    Timeout,
}

/// The other ends of its queues, for tasks that the driver makes and for those who accept.
pub(crate) struct Senders {
    accepted: mpsc::Sender<Offered>,
    events: EventSenders,
    reports: mpsc::Sender<Report>,
}

/// The queues of a driver that takes `commands`, and offers channels on `accepted`.
pub(crate) fn queues(
    commands: mpsc::Receiver<Command>,
    accepted: mpsc::Sender<Offered>,
    completed: mpsc::UnboundedReceiver<Completed<Stored>>,
) -> (Senders, Queues) {
    let (link_sender, links) = mpsc::channel(256);
    let (stranger_sender, strangers) = mpsc::channel(256);
    let (report_sender, reports) = mpsc::channel(256);
    let buffers = Buffers::default();
    let events = EventSenders { links: link_sender, strangers: stranger_sender, buffers };
    (Senders { accepted, events, reports: report_sender }, Queues { commands, completed, links, strangers, reports })
}

/// Inputs that one turn serves at most, so that deadlines are kept.
const INPUTS: usize = 64;
/// How long a shutdown waits for links that do not take what is queued.
const FLUSH_TIME: Duration = Duration::from_secs(5);

impl<V: Vault + Clone + 'static> Driver<V> {
    pub(crate) fn new(clock: Clock, endpoint: Endpoint<V>, setup: Setup, senders: Senders) -> Self {
        let Setup { common, contact_box, transports, relay, is_observer, is_relayed_only, store_has_no_copies } = setup;
        // A relay has clients, not peers.
        let is_relayed_only = is_relayed_only || relay.is_some();
        Self {
            clock,
            endpoint,
            common: Arc::new(common),
            contact_box,
            transports,
            writer: None,
            store_thread: None,
            next_link: 0,
            links: HashMap::new(),
            unproved: BTreeMap::new(),
            dials: Vec::new(),
            reachable: HashMap::new(),
            by_hop: HashMap::new(),
            pings: Vec::new(),
            tap: relay.as_ref().and_then(|config| config.tap.clone()),
            client_rate: relay.as_ref().and_then(|config| config.client_rate),
            relay: relay.map(|config| Relay::new(config.limits)),
            served: HashMap::new(),
            peers: HashMap::new(),
            by_channel: HashMap::new(),
            paired: HashMap::new(),
            unclaimed: HashMap::new(),
            by_flow: HashMap::new(),
            statistics: Statistics::default(),
            senders,
            tasks: JoinSet::new(),
            scratch: Scratch::new(),
            published: None,
            is_observer,
            is_relayed_only,
            store_has_no_copies,
            is_leaving: false,
        }
    }

    /// Has what changes written from now on, `first` before all.
    pub(crate) fn write_with(&mut self, writer: Writer<Stored>, thread: thread::JoinHandle<()>, first: Batch) {
        self.writer = Some(writer);
        self.store_thread = Some(thread);
        self.write(first, Stored::Removed);
    }

    /// Runs until the node is shut down.
    pub(crate) async fn run(mut self, mut queues: Queues) {
        self.tell_prekeys();
        let wake = self.common.wake.clone();
        let mut links_first = false;
        let sleep = sleep_until(Instant::now());
        tokio::pin!(sleep);
        // Who waits for the end, and until when it is put off.
        let mut leaving: Option<(Vec<oneshot::Sender<()>>, Timestamp)> = None;
        let ended = loop {
            let now = self.turn();
            let until = leaving.as_ref().map(|(_, until)| *until);
            let is_done = |until| {
                let is_busy = self.asks_for_prekeys(now) || self.leaves_flights();
                !is_busy || self.clock.now() >= until
            };
            if until.is_some_and(is_done) {
                break leaving.map(|(replies, _)| replies).unwrap_or_default();
            }
            let deadline = self.next_timeout(now).into_iter().chain(until).min().map(|at| self.clock.instant(at));
            if let Some(at) = deadline.filter(|at| *at != sleep.deadline()) {
                sleep.as_mut().reset(at);
            }
            // Each arm is cancel-safe; what is done with it is short and does not wait.
            let input = tokio::select! {
                Some(event) = queues.links.recv() => Input::Link(event),
                Some(event) = queues.strangers.recv() => Input::Stranger(event),
                Some(report) = queues.reports.recv() => Input::Report(report),
                Some(completed) = queues.completed.recv() => Input::Completed(completed),
                command = queues.commands.recv() => match command {
                    Some(command) => Input::Command(command),
                    None => break Vec::new(),
                },
                () = wake.notified() => Input::Wake,
                () = &mut sleep, if deadline.is_some() => Input::Timeout,
            };
            // What else is there is taken along: one turn serves it all.
            let mut next = Some(input);
            let mut inputs = 0;
            while let Some(input) = next.take() {
                // A link's input is many frames.
                inputs += if matches!(input, Input::Link(_)) { INPUTS / 4 } else { 1 };
                match input {
                    Input::Command(Command::Shutdown { reply }) => {
                        let now = self.clock.now();
                        let (replies, _) = leaving.get_or_insert_with(|| (Vec::new(), now.after(FLUSH_TIME)));
                        replies.push(reply);
                        self.is_leaving = true;
                        self.report_at_once(now);
                        self.endpoint.note_prekeys(now);
                        self.write_prekeys();
                        // What came before it is done; what comes after it is not asked for in vain either.
                        break;
                    }
                    input => self.handle_input(input),
                }
                if inputs < INPUTS {
                    links_first = !links_first;
                    next = queues.try_next(links_first);
                }
            }
        };
        self.shut_down(queues, ended).await;
    }

    fn handle_input(&mut self, input: Input) {
        match input {
            Input::Link(event) => self.handle_link_event(event),
            Input::Stranger(event) => self.handle_stranger(event),
            Input::Report(report) => self.handle_report(report),
            Input::Completed(completed) => self.handle_completed(completed),
            Input::Command(command) => self.handle_command(command),
            Input::Wake => {
                self.peers.values_mut().for_each(|peer| {
                    peer.shared.is_looked_after();
                    peer.wake();
                });
                self.paired.values_mut().for_each(Paired::wake);
            }
            Input::Timeout => {}
        }
    }

    /// What is due after each input: deadlines, frames of the machines, events, messages. Returns the time at which it was.
    fn turn(&mut self) -> Timestamp {
        let now = self.clock.now();
        self.endpoint.handle_timeout(now);
        self.handle_deadlines(now);
        self.drain_endpoint(now);
        self.pump_paired(now);
        self.pump_peers(now);
        // What is to be told at once does not wait for a timer.
        self.drain_endpoint(now);
        self.pump_relay(now);
        now
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
        self.write_states(None);
        self.write_prekeys();
    }

    fn handle_event(&mut self, now: Timestamp, event: Event) {
        tracing::debug!(?event, "channel");
        self.statistics.sessions += u64::from(matches!(event, Event::Opened { .. } | Event::Renewed { .. }));
        if let Event::Opened { channel, peer, .. } | Event::Renewed { channel, peer } = &event {
            self.peers.get_mut(&peer.id()).into_iter().for_each(|peer| peer.is_absent = false);
            self.ping_opened(now, *channel);
        }
        // The handshake may have begun before its peer was taken off the list, and its first record been kept back.
        if let Event::Opened { channel, .. } | Event::Renewed { channel, .. } | Event::Moved { channel, .. } = &event
            && self.endpoint.peer(*channel).is_none_or(|peer| !self.endpoint.admits(&peer))
        {
            // Or it is gone already, and the event was held back.
            return self.cut_off(now, *channel);
        }
        match event {
            Event::Answered { channel, after } => self.ping_answered(channel, after),
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
                    self.peer_opened(now, channel, &peer, context);
                    self.prove_direct(now, peer.id());
                }
            }
            Event::Renewed { channel, peer } => {
                if self.by_hop.contains_key(&channel) {
                    self.hop_renewed(now, channel);
                } else if self.relay.is_some() {
                    self.client_renewed(now, channel, peer.id());
                } else {
                    self.prove_link(channel);
                    self.peer_renewed(now, channel, &peer);
                    self.prove_direct(now, peer.id());
                }
            }
            Event::Moved { channel, path } => {
                // It has answered from there.
                self.links.get_mut(&LinkId(path.0)).into_iter().for_each(|link| link.has_greeted = true);
                let client = self.endpoint.peer(channel).filter(|_| self.relay.is_some());
                if let Some(client) = client.filter(|_| !self.by_hop.contains_key(&channel)) {
                    // Also one whose link had ended before its first record came.
                    self.client_renewed(now, channel, client);
                } else {
                    self.prove_link(channel);
                    self.follow_flow(channel, path);
                }
            }
            Event::Candidates { channel, addresses, answer_wanted } => {
                self.candidates_came(now, channel, &addresses, answer_wanted);
            }
            Event::Challenged { channel, path } => self.path_tried(now, channel, path),
            Event::PathAnswered { channel, path } => self.path_answered(now, channel, path),
            Event::AttemptFailed { channel } => {
                self.hop_failed(now, channel);
                self.peer_unanswered(now, channel);
                self.dial_unanswered(now, channel);
            }
            Event::NotKept { channel, error } => {
                tracing::warn!(?channel, %error, "what is left at a relay for this session will not survive a restart");
            }
            Event::Unresponsive { channel } => {
                self.hop_failed(now, channel);
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
            Command::Reach { id, address, reply } => {
                let _ = reply.send(self.reach(id, address));
            }
            Command::Accept { policy, reply } => {
                self.accept_only(now, policy);
                let _ = reply.send(Ok(()));
            }
            Command::Ping { id, reply } => self.ping(now, id, reply),
            Command::Route { peer, reply } => {
                let _ = reply.send(Ok(self.route(peer)));
            }
            Command::Attach { relay, wait, reply } => self.attach(now, *relay, wait, reply),
            Command::Open { card, policy, reply } => {
                let _ = reply.send(self.open(now, &card, &policy));
            }
            Command::Pair { peer, reply } => {
                let _ = reply.send(self.pair(now, *peer));
            }
            Command::Relink { peer, link, reply } => {
                let _ = reply.send(self.relink(now, peer, link));
            }
            Command::OpenRecovery { peer, time, reply } => {
                let _ = reply.send(self.open_recovery(now.after(time), peer));
            }
            Command::Reseed { peer, reply } => {
                let _ = reply.send(self.reseed(now, peer));
            }
            Command::SetPayload { peer, octets, reply } => {
                let _ = reply.send(self.set_payload(peer, octets));
            }
            Command::EarlierKey { peer, reply } => {
                let _ = reply.send(self.earlier_key(peer));
            }
            Command::RenewRecovery { peer, reply } => {
                let _ = reply.send(self.renew_recovery(now, peer));
            }
            Command::Send { peer, body, options, room, reply } => {
                self.send(peer, peers::Submission { body, options, room, reply });
            }
            Command::Done { peer, id, octets, reply } => self.done(now, peer, id, octets, reply),
            Command::Awake { peer } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.shared.is_looked_after();
                    // Whether there is a way to it has not changed.
                    peer.awake = true;
                }
            }
            Command::Released { peer } => {
                self.released(now, peer);
            }
            Command::Statistics { reply } => {
                let (frames, octets) = self.relay.as_ref().map_or((0, 0), Relay::custody);
                let direct = self.peers.values().filter(|peer| peer.direct.way().is_some()).count();
                let counts = [self.links.len(), direct, self.endpoint.half_open(), self.served.len(), frames, octets];
                let [links, direct_peers, half_open_handshakes, attached_clients, frames_in_custody, octets_in_custody] =
                    counts.map(|count| u64::try_from(count).unwrap_or(u64::MAX));
                let _ = reply.send(Statistics {
                    links,
                    direct_peers,
                    half_open_handshakes,
                    attached_clients,
                    frames_in_custody,
                    octets_in_custody,
                    ..self.statistics
                });
            }
            Command::Shutdown { .. } => {}
        }
    }

    fn next_timeout(&self, now: Timestamp) -> Option<Timestamp> {
        let peers = self.peers.values().filter_map(Peer::next_timeout);
        let dials = self.dials.iter().filter_map(Dial::next_timeout);
        let unproved = self.unproved.keys().next().map(|(at, _)| *at);
        let pings = self.pings.iter().map(Ping::next_timeout);
        let relay = self.relay.as_ref().and_then(Relay::poll_timeout);
        let paired = self.paired.values().filter_map(|paired| paired.next_timeout(now));
        self.endpoint
            .poll_timeout()
            .into_iter()
            .chain(peers)
            .chain(paired)
            .chain(dials)
            .chain(unproved)
            .chain(pings)
            .chain(relay)
            .min()
    }

    /// Takes back a row of the store, table by table in the order of [`Table::ALL`]. Returns whether it is of use.
    pub(crate) fn load(&mut self, table: Table, key: &[u8], value: &[u8]) -> bool {
        let now = self.clock.now();
        let is_loaded = match table {
            Table::Peers => self.restore_mailbox(key, value),
            Table::Prekeys => self.restore_prekey(now, value),
            Table::Handshakes => self.restore_handshake(now, key, value),
            Table::Pairings => self.keep_unclaimed(key, value),
            // A relay reads it when somebody asks.
            Table::Published => true,
            Table::Boxes | Table::Custody => self.relay.as_mut().is_none_or(|relay| relay.load(table, key, value)),
            Table::Sessions => self.restore(now, value),
            Table::Outbox | Table::Inbox => match key.first_chunk::<32>().map(|id| IdentityId(*id)) {
                Some(id) => {
                    let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id, &self.common));
                    peer.shared.load(table, key, value)
                }
                None => false,
            },
        };
        if !is_loaded && !table.is_sealed() {
            tracing::warn!(table = table.name(), "a row of the store cannot be read; it is left alone");
        }
        is_loaded
    }

    async fn shut_down(mut self, mut queues: Queues, replies: Vec<oneshot::Sender<()>>) {
        queues.commands.close();
        self.peers.values().for_each(|peer| peer.shared.close());
        // What was asked for before the shutdown is still done.
        while let Ok(command) = queues.commands.try_recv() {
            self.handle_command(command);
        }
        // The store's thread ends when it has written everything.
        self.writer = None;
        while let Some(completed) = queues.completed.recv().await {
            self.handle_completed(completed);
        }
        if let Some(thread) = self.store_thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        let now = self.clock.now();
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.report_done(now, id);
        }
        // ACKs may wait for more to tell: now they have to go.
        let soon = now.after(Duration::from_millis(100));
        self.paired.values_mut().for_each(|paired| paired.tell_at_once(soon));
        self.pump_paired(soon);
        self.report_at_once(soon);
        self.drain_endpoint(soon);
        self.peers.values_mut().for_each(Peer::wake);
        // Each round takes what a turn takes of every peer, until nothing is left or nothing goes any more.
        while self.peers.values().any(|peer| peer.awake && !peer.blocked) {
            self.pump_peers(soon);
            self.drain_endpoint(soon);
        }
        // Not every medium tells the other end of a hop that we are gone: a relay is to keep what comes for us now, and clients of
        // ours are to look for us, or for another relay.
        for hop in self.by_hop.keys().chain(self.served.keys()).copied().collect::<Vec<_>>() {
            self.endpoint.close(hop, CloseReason::Finished);
        }
        self.drain_endpoint(soon);
        // Of strangers nobody takes leave.
        self.links.retain(|_, link| link.unproved.is_none());
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
        for reply in replies {
            let _ = reply.send(());
        }
    }

    fn session_of(channel: ChannelId) -> SessionId {
        SessionId(channel.0)
    }
}
