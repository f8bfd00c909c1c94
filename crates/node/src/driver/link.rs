//! Links: listening, those of whom nobody has authenticated on yet, and what becomes of a link that ends.

use std::{net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use sealway_channel::{ChannelId, Source};
use sealway_link::{FrameLink, LinkCapabilities, LinkError, LinkErrorKind, Ordering, fragment::Reassembler};
use sealway_vault::Vault;
use sealway_wire::{Address, IdentityId, Timestamp};

use super::{
    Driver, Report,
    dial::{FIRST_DELAY, KEEPALIVE, Reply},
};
use crate::{
    NodeError,
    links::{self, LinkEvent, LinkId, QUEUE_LIMIT, SendQueue},
    rate::Rate,
};

/// How long an accepted link may take to authenticate, and how many may be doing so.
const PROOF_TIME: Duration = Duration::from_secs(10);
const MAX_UNPROVED: usize = 1024;
/// The same, from one source.
const MAX_UNPROVED_OF_SOURCE: usize = 64;
/// The longest frames that wait for the link of a pairing: half of them messages.
const PAIRED_QUEUE: usize = 8;
/// Frames of a link that may be in fragments at once, and those that anybody may have begun.
const FRAGMENTED: usize = 64;
const GREETINGS: usize = 8;
/// Tasks of links that have ended, and do not know it yet.
const ENDING: usize = 1024;

/// A link that is up.
pub(super) struct Link {
    pub(super) queue: Arc<SendQueue>,
    pub(super) source: Source,
    /// The dial that made it; none if it was accepted.
    pub(super) dial: Option<usize>,
    /// The peer of the pairing that has it for itself.
    pub(super) paired: Option<IdentityId>,
    /// By when somebody has to authenticate on it.
    pub(super) unproved: Option<Timestamp>,
    /// From where frames come, where others can send there, too.
    pub(super) observed: Option<SocketAddr>,
    /// It leaves from this socket, which is that of a link to a relay, and carries records alone.
    pub(super) beside: Option<u64>,
    /// The peer to whom it leads, or may.
    pub(super) leads_to: Option<IdentityId>,
    /// Nothing is lost or altered on it.
    pub(super) is_reliable: bool,
    /// Somebody who is not on the path can send in another's name.
    pub(super) is_forgeable: bool,
    /// A first message that came over it has passed the gate.
    pub(super) has_greeted: bool,
    /// Frames of which not everything has come: long ones of somebody whom we know, and those that anybody may have begun.
    pub(super) fragments: Reassembler,
    pub(super) greetings: Reassembler,
}

/// Whom frames of a link are counted for.
fn source_of(link: &dyn FrameLink) -> Source {
    let source = link.source();
    if link.capabilities().forgeable_source { Source::claimed(source) } else { Source::proven(source) }
}

impl<V: Vault + Clone + 'static> Driver<V> {
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

    /// Whether one more link may wait to authenticate. Where sources can be forged, the newest takes the place of the oldest from
    /// which no first message of somebody with our card has come: to fill the places costs nobody anything there.
    pub(super) fn make_room(&mut self, now: Timestamp, link: &dyn FrameLink) -> bool {
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

    /// A link to where a peer may be, from the socket of a link to a relay.
    pub(super) fn add_tried_link(
        &mut self,
        now: Timestamp,
        link: Box<dyn FrameLink>,
        beside: u64,
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
    pub(super) fn expect_proof(&mut self, now: Timestamp, link: LinkId) {
        let deadline = now.after(PROOF_TIME);
        self.unproved.insert((deadline, link), ());
        if let Some(link) = self.links.get_mut(&link) {
            link.unproved = Some(deadline);
        }
    }

    pub(super) fn add_link(&mut self, link: Box<dyn FrameLink>, dial: Option<usize>) -> LinkId {
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
    pub(super) fn reap(&mut self) {
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

    pub(super) fn link_ended(&mut self, now: Timestamp, id: LinkId) {
        let Some(link) = self.links.remove(&id) else { return };
        match link.unproved {
            Some(deadline) => drop(self.unproved.remove(&(deadline, id))),
            // What waits for it waits in vain.
            None => self.common.wake.notify_one(),
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
}
