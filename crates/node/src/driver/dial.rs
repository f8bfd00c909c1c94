//! Links: connecting and staying connected, listening, and what becomes of a link that ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use sealway_channel::{ChannelId, PathId, Source};
use sealway_identity::{Card, PayloadParts, Policy};
use sealway_link::{Branch, FrameLink, LinkCapabilities, LinkError, LinkErrorKind, Ordering, fragment::Reassembler};
use sealway_routing::Client;
use sealway_vault::{CryptoProvider, Vault};
use sealway_wire::{
    Address, BoxName, IdentityId, Instance, Timestamp,
    hop::{HopFrame, MAX_SENDERS, Registration, SenderList, Senders},
};
use tokio::sync::oneshot;

use super::{Driver, Report, custody::Outstanding};
use crate::{
    NodeError,
    links::{self, LinkEvent, LinkId, QUEUE_LIMIT, SendQueue},
    rate::Rate,
};

/// Flows that a relay may begin towards us at a time.
const INCOMING_FLOWS: usize = 1024;
/// First delay before a connection is made again, doubled each time up to the second; a quarter of it at random.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(30);
/// How often an idle relay is asked for a sign of life: NATs forget a silent connection after minutes.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long an accepted link may take to authenticate, and how many may be doing so.
const PROOF_TIME: Duration = Duration::from_secs(10);
const MAX_UNPROVED: usize = 1024;
/// The same, from one source.
const MAX_UNPROVED_OF_SOURCE: usize = 64;

/// The longest frames that wait for the link of a pairing: half of them messages.
const PAIRED_QUEUE: usize = 8;

/// Addresses of an identity that are kept beside those of its card: the newest.
const MAX_ADDRESSES: usize = 4;
/// Frames of a link that may be in fragments at once, and those that anybody may have begun.
const FRAGMENTED: usize = 64;
const GREETINGS: usize = 8;
/// Tasks of links that have ended, and do not know it yet.
const ENDING: usize = 1024;

type Reply<T> = oneshot::Sender<Result<T, NodeError>>;

/// A link that is up.
pub(super) struct Link {
    pub(super) queue: Arc<SendQueue>,
    pub(super) source: Source,
    /// The dial that made it; none if it was accepted.
    dial: Option<usize>,
    /// The peer of the pairing that has it for itself.
    pub(super) paired: Option<IdentityId>,
    /// By when somebody has to authenticate on it.
    pub(super) unproved: Option<Timestamp>,
    /// From where frames come, where others can send there, too.
    pub(super) observed: Option<SocketAddr>,
    /// It leaves from the socket of the link of that dial, and carries records alone.
    pub(super) beside: Option<usize>,
    /// The peer to whom it leads, or may.
    pub(super) leads_to: Option<IdentityId>,
    /// Nothing is lost or altered on it.
    is_reliable: bool,
    /// Somebody who is not on the path can send in another's name.
    is_forgeable: bool,
    /// A first message that came over it has passed the gate.
    pub(super) has_greeted: bool,
    /// Frames of which not everything has come: long ones of somebody whom we know, and those that anybody may have begun.
    pub(super) fragments: Reassembler,
    pub(super) greetings: Reassembler,
}

/// A connection that is to be there always.
pub(super) struct Dial {
    pub(super) card: Card,
    pub(super) purpose: Purpose,
    pub(super) link: Option<LinkId>,
    /// Where the last link led, and why there was none.
    pub(super) place: Option<String>,
    pub(super) error: Option<String>,
    pub(super) channel: Option<ChannelId>,
    connecting: bool,
    retry_at: Option<Timestamp>,
    failures: u32,
    keepalive_at: Option<Timestamp>,
}

pub(super) enum Purpose {
    /// To a relay.
    Relay(Attachment),
    /// Straight to a peer.
    Peer(IdentityId),
}

/// What we are at a relay.
pub(super) struct Attachment {
    pub(super) client: Client,
    /// The relay has opened our box in this hop session.
    pub(super) attached: bool,
    /// The socket of the link to the relay, for ways to peers beside it.
    branch: Option<Arc<dyn Branch>>,
    /// Where the relay sees that socket.
    seen: Option<SocketAddr>,
    /// Which run of the relay we are attached to.
    instance: Option<Instance>,
    /// The relay has refused our box, and why.
    refused: Option<Registration>,
    /// What was left for others in this hop session and waits for the relay's answer, by number.
    pub(super) deposits: BTreeMap<u64, Outstanding>,
    pub(super) next_deposit: u64,
    /// Whose prekeys the relay was asked for in this hop session, and when, by the number of the question.
    pub(super) questions: BTreeMap<u64, (IdentityId, Timestamp)>,
    pub(super) next_question: u64,
    waiting: Vec<Reply<()>>,
}

/// Whom frames of a link are counted for.
fn source_of(link: &dyn FrameLink) -> Source {
    let source = link.source();
    if link.capabilities().forgeable_source { Source::claimed(source) } else { Source::proven(source) }
}

impl Dial {
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        self.retry_at.into_iter().chain(self.keepalive_at).min()
    }

    pub(super) const fn attachment(&mut self) -> Option<&mut Attachment> {
        match &mut self.purpose {
            Purpose::Relay(attachment) => Some(attachment),
            Purpose::Peer(_) => None,
        }
    }

    /// The socket of the link to a relay, and where the relay sees it.
    pub(super) fn beside(&self) -> Option<(&Arc<dyn Branch>, SocketAddr)> {
        match &self.purpose {
            Purpose::Relay(Attachment { branch: Some(branch), seen: Some(seen), .. }) => Some((branch, *seen)),
            _ => None,
        }
    }

    /// Takes note of where the relay sees us, and returns where that was before. None: it is of no use.
    pub(super) fn seen(&mut self, address: SocketAddr) -> Option<Option<SocketAddr>> {
        let attachment = self.attachment().filter(|attachment| attachment.branch.is_some())?;
        Some(attachment.seen.replace(address))
    }
}

impl<V: Vault + Clone + 'static> Driver<V> {
    // ---- commands ----

    pub(super) fn listen(&mut self, address: String, reply: Reply<String>) {
        let transports = self.transports.clone();
        let reports = self.senders.reports.clone();
        self.tasks.spawn(async move {
            let listener = async {
                let parsed = Address::parse(&address)?;
                let transport = transports.iter().find(|transport| transport.supports(&parsed));
                let unsupported = || LinkError::new(LinkErrorKind::Unsupported, parsed);
                Ok::<_, NodeError>(transport.ok_or_else(unsupported)?.listen(&parsed).await?)
            };
            let mut listener = match listener.await {
                Ok(listener) => listener,
                Err(error) => {
                    let _ = reply.send(Err(error));
                    return;
                }
            };
            let _ = reply.send(Ok(listener.address()));
            loop {
                match listener.accept().await {
                    Ok(link) => {
                        if reports.send(Report::Accepted { link, beside: None }).await.is_err() {
                            return;
                        }
                    }
                    // One connection failed, or the process has no more file descriptors: pause, and go on.
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(FIRST_DELAY).await;
                    }
                }
            }
        });
    }

    /// Takes note of where an identity can be reached, beside what its card says.
    pub(super) fn reach(&mut self, id: IdentityId, address: String) -> Result<(), NodeError> {
        Address::parse(&address)?;
        let known = self.reachable.entry(id).or_default();
        if !known.contains(&address) {
            known.insert(0, address);
            known.truncate(MAX_ADDRESSES);
        }
        Ok(())
    }

    pub(super) fn attach(&mut self, now: Timestamp, relay: Card, wait: bool, reply: Reply<()>) {
        if relay.addresses().is_empty() && !self.reachable.contains_key(&relay.id()) {
            let _ = reply.send(Err(NodeError::NoAddress));
            return;
        }
        let mut waiting = Vec::new();
        if wait {
            waiting.push(reply);
        } else {
            let _ = reply.send(Ok(()));
        }
        let known = self.dials.iter_mut().find(|dial| dial.card.id() == relay.id());
        if let Some(attachment) = known.and_then(Dial::attachment) {
            if let Some(outcome) = attachment.refused {
                waiting.into_iter().for_each(|reply| drop(reply.send(Err(NodeError::Box(outcome)))));
            } else if attachment.attached {
                waiting.into_iter().for_each(|reply| drop(reply.send(Ok(()))));
            } else {
                attachment.waiting.extend(waiting);
            }
            return;
        }
        self.make_prekeys();
        let attachment = Attachment {
            client: Client::new(INCOMING_FLOWS),
            attached: false,
            branch: None,
            seen: None,
            instance: None,
            refused: None,
            deposits: BTreeMap::new(),
            next_deposit: 0,
            questions: BTreeMap::new(),
            next_question: 0,
            waiting,
        };
        self.dial(now, relay, Purpose::Relay(attachment));
    }

    /// Keeps a connection to the identity on `card`.
    pub(super) fn dial(&mut self, now: Timestamp, card: Card, purpose: Purpose) {
        self.dials.push(Dial {
            card,
            purpose,
            link: None,
            place: None,
            error: None,
            channel: None,
            connecting: false,
            retry_at: Some(now),
            failures: 0,
            keepalive_at: None,
        });
        self.handle_deadlines(now);
    }

    // ---- deadlines ----

    pub(super) fn handle_deadlines(&mut self, now: Timestamp) {
        for index in 0..self.dials.len() {
            let dial = &mut self.dials[index];
            if dial.retry_at.is_some_and(|at| at <= now) && !dial.connecting && dial.link.is_none() {
                dial.retry_at = None;
                dial.connecting = true;
                self.connect(index);
            } else if let (Some(at), Some(channel)) = (dial.keepalive_at, dial.channel)
                && at <= now
            {
                dial.keepalive_at = Some(now.after(KEEPALIVE));
                let asks_again = dial.attachment().is_some_and(|attachment| !attachment.attached);
                self.endpoint.ping(now, channel);
                if asks_again {
                    self.register(now, channel);
                }
            }
        }
        if !self.pings.is_empty() {
            self.ping_again(now);
        }
        while let Some((at, link)) = self.unproved.keys().next().copied() {
            if at > now {
                break;
            }
            tracing::debug!(?link, "nobody has authenticated in time");
            self.drop_link(now, link);
        }
    }

    fn connect(&mut self, dial: usize) {
        self.reap();
        let card = &self.dials[dial].card;
        let nearer = self.reachable.get(&card.id()).into_iter().flatten();
        let mut addresses: Vec<String> = nearer.chain(card.addresses()).cloned().collect();
        // Each time another one comes first: of some, only silence tells that nobody is there.
        let first = usize::try_from(self.dials[dial].failures).unwrap_or(0) % addresses.len().max(1);
        addresses.rotate_left(first);
        let transports = self.transports.clone();
        let reports = self.senders.reports.clone();
        self.tasks.spawn(async move {
            let mut error = LinkError::new(LinkErrorKind::Unreachable, "a card without addresses");
            for place in addresses {
                // Addresses were parsed when the card was.
                let Ok(address) = Address::parse(&place) else { continue };
                let Some(transport) = transports.iter().find(|transport| transport.supports(&address)) else {
                    error = LinkError::new(LinkErrorKind::Unsupported, address);
                    continue;
                };
                match transport.connect(&address).await {
                    Ok(link) => {
                        let _ = reports.send(Report::Connected { dial, link, place }).await;
                        return;
                    }
                    Err(failed) => error = failed,
                }
            }
            let _ = reports.send(Report::NotConnected { dial, error }).await;
        });
    }

    // ---- what tasks report ----

    pub(super) fn handle_report(&mut self, report: Report) {
        let now = self.clock.now();
        match report {
            Report::Connected { dial, link, place } => {
                (self.dials[dial].place, self.dials[dial].error) = (Some(place), None);
                self.connected(now, dial, link);
            }
            Report::NotConnected { dial, error } => {
                // Once for each time that it begins, not for each try.
                if self.dials[dial].failures == 0 {
                    tracing::warn!(%error, "not connected; what is sent waits, and other tries follow");
                }
                self.dials[dial].connecting = false;
                self.dials[dial].error = Some(error.to_string());
                self.retry_later(now, dial);
            }
            Report::Accepted { link, beside } => {
                if !link.capabilities().allows_s1 {
                    self.statistics.refused_links += 1;
                    tracing::error!("a constrained link carries no S1 handshake: its peer has to be paired (C1)");
                    return;
                }
                if !self.make_room(now, &*link) {
                    self.statistics.refused_links += 1;
                    tracing::warn!("too many connections are waiting to authenticate; one is turned away");
                    return;
                }
                let link = self.add_link(link, None);
                self.expect_proof(now, link);
                self.links.get_mut(&link).into_iter().for_each(|link| link.beside = beside);
            }
        }
    }

    /// Whether one more link may wait to authenticate. Where sources can be forged, the newest takes the place of the oldest from
    /// which no first message of somebody with our card has come: to fill the places costs nobody anything there.
    fn make_room(&mut self, now: Timestamp, link: &dyn FrameLink) -> bool {
        self.reap();
        if link.capabilities().forgeable_source && self.tasks.len() > self.links.len() + ENDING {
            return false;
        }
        let source = source_of(link);
        let waiting = || self.unproved.keys().filter_map(|(_, id)| Some((id, self.links.get(id)?)));
        let is_full = self.unproved.len() >= MAX_UNPROVED;
        let has_share = waiting().filter(|(_, link)| link.source == source).count() >= MAX_UNPROVED_OF_SOURCE;
        if !is_full && !has_share {
            return true;
        }
        if !link.capabilities().forgeable_source {
            return false;
        }
        let is_worthless = |link: &Link| {
            let is_tried = link.leads_to.is_some();
            link.is_forgeable && !link.has_greeted && !is_tried && (!has_share || link.source == source)
        };
        let oldest = waiting().find(|(_, link)| is_worthless(link)).map(|(id, _)| *id);
        oldest.into_iter().for_each(|oldest| self.drop_link(now, oldest));
        oldest.is_some()
    }

    fn connected(&mut self, now: Timestamp, index: usize, mut link: Box<dyn FrameLink>) {
        if !link.capabilities().allows_s1 {
            let place = self.dials[index].card.addresses().join(", ");
            tracing::error!(
                place,
                "the link is constrained and carries no S1 handshake: its peer has to be paired (C1)"
            );
            self.dials[index].connecting = false;
            return self.retry_later(now, index);
        }
        self.branch_off(index, &mut *link);
        let link = self.add_link(link, Some(index));
        let dial = &mut self.dials[index];
        dial.connecting = false;
        dial.link = Some(link);
        let policy = Policy::only(&dial.card);
        let opened = self.endpoint.open(now, &dial.card, &policy, PayloadParts::default(), PathId(link.0));
        match opened {
            Ok(channel) => {
                self.dials[index].channel = Some(channel);
                match self.dials[index].purpose {
                    Purpose::Relay(_) => {
                        self.by_hop.insert(channel, index);
                        self.endpoint.set_hop_channel(channel);
                    }
                    Purpose::Peer(peer) => {
                        self.by_channel.insert(channel, peer);
                        if let Some(peer) = self.peers.get_mut(&peer) {
                            peer.channel = Some(channel);
                        }
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "the card cannot be used");
                self.drop_link(now, link);
            }
        }
    }

    /// Keeps the socket of a link to a relay for ways to peers, and listens to those who try one.
    fn branch_off(&mut self, index: usize, link: &mut dyn FrameLink) {
        if self.is_relayed_only || self.is_observer {
            return;
        }
        let Some(attachment) = self.dials[index].attachment() else { return };
        let Some((branch, listener)) = link.branch() else { return };
        attachment.branch = Some(branch);
        // The socket of an earlier link has its listener still.
        let Some(mut listener) = listener else { return };
        let reports = self.senders.reports.clone();
        self.tasks.spawn(async move {
            // The listener ends with the socket.
            while let Ok(link) = listener.accept().await {
                if reports.send(Report::Accepted { link, beside: Some(index) }).await.is_err() {
                    return;
                }
            }
        });
    }

    /// A link to where a peer may be, from the socket of the link of a dial.
    pub(super) fn add_tried_link(
        &mut self,
        now: Timestamp,
        link: Box<dyn FrameLink>,
        beside: usize,
        peer: IdentityId,
    ) -> LinkId {
        let id = self.add_link(link, None);
        self.expect_proof(now, id);
        if let Some(link) = self.links.get_mut(&id) {
            (link.beside, link.leads_to) = (Some(beside), Some(peer));
        }
        id
    }

    /// Somebody has to authenticate on the link in time.
    fn expect_proof(&mut self, now: Timestamp, link: LinkId) {
        let deadline = now.after(PROOF_TIME);
        self.unproved.insert((deadline, link), ());
        if let Some(link) = self.links.get_mut(&link) {
            link.unproved = Some(deadline);
        }
    }

    fn add_link(&mut self, link: Box<dyn FrameLink>, dial: Option<usize>) -> LinkId {
        let source = source_of(&*link);
        let rate = self.client_rate.filter(|_| dial.is_none());
        let LinkCapabilities { mtu, rate: carried, .. } = link.capabilities();
        // Half a second of what a slow medium carries, but room for a frame while another one leaves.
        let half = carried.map(|carried| usize::try_from(carried.get() / 2).unwrap_or(QUEUE_LIMIT));
        let limit = half.map_or(QUEUE_LIMIT, |half| half.clamp(2 * mtu, QUEUE_LIMIT));
        let id = self.run_link(link, (source, dial, None), limit, rate);
        if let Some(link) = self.links.get(&id).filter(|_| dial.is_some()) {
            link.queue.set_proved();
        }
        id
    }

    /// A link that leads to the one peer of a pairing. What is queued on it is short: it is slow.
    pub(super) fn add_paired_link(&mut self, link: Box<dyn FrameLink>, peer: IdentityId) -> LinkId {
        let source = source_of(&*link);
        let limit = PAIRED_QUEUE * link.capabilities().unit;
        let id = self.run_link(link, (source, None, Some(peer)), limit, None);
        if let Some(link) = self.links.get(&id) {
            link.queue.set_proved();
        }
        id
    }

    fn run_link(
        &mut self,
        link: Box<dyn FrameLink>,
        (source, dial, paired): (Source, Option<usize>, Option<IdentityId>),
        queue_limit: usize,
        rate: Option<NonZeroU32>,
    ) -> LinkId {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        let capabilities = link.capabilities();
        let queue = Arc::new(SendQueue::new(self.common.wake.clone(), queue_limit, capabilities.unit));
        let link_state = Link {
            queue: queue.clone(),
            source,
            dial,
            paired,
            unproved: None,
            observed: link.observed(),
            beside: None,
            leads_to: None,
            is_reliable: capabilities.ordering == Ordering::Reliable,
            is_forgeable: capabilities.forgeable_source,
            has_greeted: false,
            fragments: Reassembler::new(FRAGMENTED, capabilities.mtu),
            greetings: Reassembler::new(GREETINGS, capabilities.mtu),
        };
        self.links.insert(id, link_state);
        let limit = rate.map(|rate| (self.clock, Rate::new(self.clock.now(), rate)));
        self.tasks.spawn(links::run(id, link, queue, self.senders.events.clone(), limit));
        self.reap();
        id
    }

    /// Finished tasks are taken out of the set, or it would grow for ever.
    fn reap(&mut self) {
        while self.tasks.try_join_next().is_some() {}
    }

    /// What comes over a link whose other end nobody knows yet.
    pub(super) fn handle_stranger(&mut self, event: LinkEvent) {
        let (LinkEvent::Frames { link, .. } | LinkEvent::Ended { link, .. }) = event;
        self.handle_link_event(event);
        if let Some(link) = self.links.get(&link) {
            link.queue.set_served();
        }
    }

    pub(super) fn handle_link_event(&mut self, event: LinkEvent) {
        let now = self.clock.now();
        match event {
            LinkEvent::Frames { link, frames, held_back } => {
                self.statistics.held_back_links += u64::from(held_back);
                self.handle_frames(now, link, frames);
            }
            LinkEvent::Ended { link, error } => {
                match error {
                    Some(error) => tracing::info!(?link, %error, "a link has ended"),
                    None => tracing::debug!(?link, "a link was closed"),
                }
                self.link_ended(now, link);
            }
        }
    }

    /// A frame was refused. On a link that loses and forges nothing by itself that means that somebody tampers with it, or
    /// that the two ends no longer agree where frames begin: a new connection is the cure. Strangers are left to their
    /// deadline, for an end that comes at once would tell them something.
    pub(super) fn link_is_damaged(&mut self, now: Timestamp, id: LinkId) {
        if self.links.get(&id).is_none_or(|link| !link.is_reliable) {
            return;
        }
        let is_served = self.served.values().any(|served| *served == id);
        let is_attached = self
            .dials
            .iter_mut()
            .any(|dial| dial.link == Some(id) && dial.attachment().is_some_and(|attachment| attachment.attached));
        if is_served || is_attached {
            tracing::info!(link = ?id, "a frame on an authenticated link was refused; the link is made anew");
            self.drop_link(now, id);
        }
    }

    /// Closes a link after what is queued on it has left.
    pub(super) fn drop_link(&mut self, now: Timestamp, link: LinkId) {
        if let Some(link) = self.links.get(&link) {
            link.queue.close();
        }
        self.link_ended(now, link);
    }

    /// Ends a link at once: what is queued on it is lost.
    pub(super) fn abort_link(&mut self, now: Timestamp, link: LinkId) {
        if let Some(link) = self.links.get(&link) {
            link.queue.abort();
        }
        self.link_ended(now, link);
    }

    fn link_ended(&mut self, now: Timestamp, id: LinkId) {
        let Some(link) = self.links.remove(&id) else { return };
        if let Some(deadline) = link.unproved {
            self.unproved.remove(&(deadline, id));
        }
        let clients: Vec<ChannelId> =
            self.served.iter().filter(|(_, served)| **served == id).map(|(channel, _)| *channel).collect();
        for channel in clients {
            self.client_detached(channel);
        }
        if let Some(peer) = link.paired {
            self.paired_link_ended(peer, id);
        }
        if link.beside.is_some() {
            self.direct_link_ended(now, id);
        }
        let Some(index) = link.dial else { return };
        let dial = &mut self.dials[index];
        if dial.link != Some(id) {
            return;
        }
        dial.link = None;
        dial.keepalive_at = None;
        let channel = dial.channel;
        if let Some(attachment) = dial.attachment() {
            attachment.attached = false;
            (attachment.branch, attachment.seen) = (None, None);
            // A hop session lives as long as its link.
            if let Some(channel) = channel {
                self.endpoint.forget(channel);
                self.by_hop.remove(&channel);
                self.hop_lost(now, index, channel);
            }
            self.dials[index].channel = None;
        }
        self.retry_later(now, index);
    }

    fn retry_later(&mut self, now: Timestamp, index: usize) {
        let dial = &mut self.dials[index];
        let delay = (FIRST_DELAY * (1 << dial.failures.min(16))).min(MAX_DELAY);
        dial.failures += 1;
        // Clients that a relay's restart has cut off at once shall not come back at once.
        let random = self.endpoint.provider().random().map_or(0, u16::from_be_bytes);
        dial.retry_at = Some(now.after(delay + delay / 4 * u32::from(random) / u32::from(u16::MAX)));
    }

    /// Somebody has authenticated on the link that a channel uses.
    pub(super) fn prove_link(&mut self, channel: ChannelId) -> Option<LinkId> {
        let id = self.endpoint.path(channel).map(|path| LinkId(path.0))?;
        let link = self.links.get_mut(&id)?;
        // Where sources are forged, a handshake that began elsewhere does not prove that its sender is here. If it is, it begins
        // another one when this link is given up.
        if let Some(deadline) = link.unproved.take_if(|_| !link.is_forgeable || link.has_greeted) {
            self.unproved.remove(&(deadline, id));
            link.queue.set_proved();
        }
        if let Some(index) = link.dial {
            let now = self.clock.now();
            let dial = &mut self.dials[index];
            dial.failures = 0;
            dial.keepalive_at = Some(now.after(KEEPALIVE));
        }
        Some(id)
    }

    // ---- a relay that we are attached to ----

    pub(super) fn hop_opened(&mut self, now: Timestamp, channel: ChannelId) {
        let Some(index) = self.by_hop.get(&channel).copied() else { return };
        self.dials[index].keepalive_at = Some(now.after(KEEPALIVE));
        let instance = self.endpoint.peer_instance(channel);
        if let Some(attachment) = self.dials[index].attachment() {
            attachment.client.reset();
            attachment.instance = instance;
        }
        self.register(now, channel);
    }

    /// New keys with a relay. If it has started anew meanwhile, it knows nothing of what the link's end would have told us of:
    /// labels, our box, what we left there.
    pub(super) fn hop_renewed(&mut self, now: Timestamp, channel: ChannelId) {
        let instance = self.endpoint.peer_instance(channel);
        let dial = self.by_hop.get(&channel).and_then(|index| self.dials.get_mut(*index));
        let Some(dial) = dial else { return };
        let link = dial.link;
        if dial.attachment().is_some_and(|attachment| attachment.instance != instance) {
            tracing::info!(relay = %dial.card.id().short(), "the relay has started anew");
            link.into_iter().for_each(|link| self.drop_link(now, link));
        }
    }

    /// Has the relay let those reach our box whom we admit, and nobody else: what it refuses we need not.
    fn register(&mut self, now: Timestamp, channel: ChannelId) {
        // And those with whom there is a session of an earlier run: the application may not have named them yet.
        let known = self.peers.values().filter(|peer| peer.channel.is_some()).map(|peer| &peer.id);
        let named = self.endpoint.admitted().filter(|id| !self.is_relay_of_ours(**id)).map(|id| id.0);
        let named: BTreeSet<_> = named.collect();
        let all: BTreeSet<_> = named.iter().copied().chain(known.map(|id| id.0)).collect();
        let admitted: Vec<_> = if all.len() <= MAX_SENDERS { all } else { named }.into_iter().collect();
        // An empty list would read as everybody.
        let own = [self.endpoint.owner().id().0];
        let list = SenderList::new(if admitted.is_empty() { &own } else { &admitted });
        if list.is_none() {
            tracing::info!(
                limit = MAX_SENDERS,
                "more are admitted than a relay's list holds: every client reaches our box"
            );
        }
        let senders = list.map_or(Senders::Attached, Senders::Only);
        self.send_hop_frame(now, channel, &HopFrame::Register { name: self.contact_box, senders });
    }

    /// More are admitted than our relays know of.
    pub(super) fn admit_at_relays(&mut self, now: Timestamp) {
        // Also where the answer to the first is still on its way: the last one counts.
        let hops: Vec<ChannelId> = self.by_hop.keys().copied().filter(|hop| self.endpoint.is_open(*hop)).collect();
        hops.into_iter().for_each(|channel| self.register(now, channel));
    }

    pub(super) fn is_relay_of_ours(&self, id: IdentityId) -> bool {
        self.dials.iter().any(|dial| dial.card.id() == id && matches!(dial.purpose, Purpose::Relay(_)))
    }

    /// The handshake with a relay went unanswered, the relay is silent, or has closed: the link is no good.
    pub(super) fn hop_failed(&mut self, now: Timestamp, channel: ChannelId) {
        let dial = self.by_hop.get(&channel).map(|index| &self.dials[*index]);
        if let Some(dial) = dial {
            let relay = dial.card.id();
            let was_attached = matches!(&dial.purpose, Purpose::Relay(attachment) if attachment.attached);
            if was_attached {
                tracing::warn!(relay = %relay.short(), "the relay is gone: the link to it is made anew");
            } else {
                tracing::warn!(relay = %relay.short(), "the relay does not answer us: does it let this identity attach?");
            }
        }
        let link = dial.and_then(|dial| dial.link);
        if let Some(link) = link {
            self.drop_link(now, link);
        }
    }

    /// The handshake with a peer went unanswered, on a medium that does not tell whether anybody is there: another address of its
    /// card may do better.
    pub(super) fn dial_unanswered(&mut self, now: Timestamp, channel: ChannelId) {
        let is_it = |dial: &&Dial| dial.channel == Some(channel) && matches!(dial.purpose, Purpose::Peer(_));
        let link = self.dials.iter().find(is_it).and_then(|dial| dial.link);
        if let Some(link) = link.filter(|link| self.links.get(link).is_some_and(|link| !link.is_reliable)) {
            self.drop_link(now, link);
        }
    }

    pub(super) fn registered(&mut self, now: Timestamp, channel: ChannelId, name: BoxName, outcome: Registration) {
        let Some(index) = self.by_hop.get(&channel).copied() else { return };
        let own_box = self.contact_box;
        let Some(attachment) = self.dials[index].attachment().filter(|_| name == own_box) else { return };
        let is_open = outcome == Registration::Open;
        let is_news = is_open && !attachment.attached;
        attachment.attached = is_open;
        attachment.refused = (!is_open).then_some(outcome);
        for reply in attachment.waiting.drain(..) {
            let _ = reply.send(if is_open { Ok(()) } else { Err(NodeError::Box(outcome)) });
        }
        if is_news {
            tracing::info!(relay = %self.dials[index].card.id().short(), "attached");
            self.dials[index].failures = 0;
            self.relay_is_back(now, index);
            if !self.is_observer {
                self.publish_prekey_at(now, channel);
            }
        } else if !is_open {
            tracing::error!(?outcome, "the relay does not give us our box");
        }
    }
}
