//! Connecting, and staying connected.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use sealway_channel::{ChannelId, PathId};
use sealway_identity::{Card, PayloadParts, Policy};
use sealway_link::{Branch, FrameLink, LinkError, LinkErrorKind};
use sealway_vault::{CryptoProvider, Vault};
use sealway_wire::{Address, IdentityId, Timestamp};
use tokio::sync::oneshot;

use super::{Driver, Report, attachment::Attachment};
use crate::{NodeError, links::LinkId};

/// First delay before a connection is made again, doubled each time up to the second; a quarter of it at random.
pub(super) const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(30);
/// How often an idle relay is asked for a sign of life: NATs forget a silent connection after minutes.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(20);

/// Addresses of an identity that are kept beside those of its card: the newest.
const MAX_ADDRESSES: usize = 4;

pub(super) type Reply<T> = oneshot::Sender<Result<T, NodeError>>;

/// A connection that is to be there always.
pub(super) struct Dial {
    pub(super) card: Card,
    pub(super) purpose: Purpose,
    pub(super) link: Option<LinkId>,
    /// Where the last link led, and why there was none.
    pub(super) place: Option<String>,
    pub(super) error: Option<String>,
    pub(super) channel: Option<ChannelId>,
    pub(super) connecting: bool,
    pub(super) retry_at: Option<Timestamp>,
    pub(super) failures: u32,
    pub(super) keepalive_at: Option<Timestamp>,
}

pub(super) enum Purpose {
    /// To a relay.
    Relay(Attachment),
    /// Straight to a peer.
    Peer(IdentityId),
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

    /// Whether it leads to a relay at which we are attached.
    pub(super) const fn is_attached(&self) -> bool {
        matches!(&self.purpose, Purpose::Relay(attachment) if attachment.attached)
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
        let socket = branch.socket();
        attachment.branch = Some(branch);
        // The socket of an earlier link has its listener still.
        let Some(mut listener) = listener else { return };
        let reports = self.senders.reports.clone();
        self.tasks.spawn(async move {
            // The listener ends with the socket.
            while let Ok(link) = listener.accept().await {
                if reports.send(Report::Accepted { link, beside: Some(socket) }).await.is_err() {
                    return;
                }
            }
        });
    }

    pub(super) fn retry_later(&mut self, now: Timestamp, index: usize) {
        let dial = &mut self.dials[index];
        let delay = (FIRST_DELAY * (1 << dial.failures.min(16))).min(MAX_DELAY);
        dial.failures += 1;
        // Clients that a relay's restart has cut off at once shall not come back at once.
        let random = self.endpoint.provider().random().map_or(0, u16::from_be_bytes);
        dial.retry_at = Some(now.after(delay + delay / 4 * u32::from(random) / u32::from(u16::MAX)));
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
}
