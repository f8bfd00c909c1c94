//! The relays that we are attached to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use sealway_channel::{ChannelId, PathId};
use sealway_identity::Card;
use sealway_link::Branch;
use sealway_routing::Client;
use sealway_vault::Vault;
use sealway_wire::{
    BoxName, IdentityId, Instance, Timestamp,
    hop::{HopFrame, MAX_SENDERS, Registration, SenderList, Senders},
};

use super::{
    Driver,
    custody::Outstanding,
    dial::{Dial, KEEPALIVE, Purpose, Reply},
};
use crate::NodeError;

/// Flows that a relay may begin towards us at a time.
const INCOMING_FLOWS: usize = 1024;

/// What we are at a relay.
pub(super) struct Attachment {
    pub(super) client: Client,
    /// The relay has opened our box in this hop session.
    pub(super) attached: bool,
    /// The socket of the link to the relay, for ways to peers beside it.
    pub(super) branch: Option<Arc<dyn Branch>>,
    /// Where the relay sees that socket.
    pub(super) seen: Option<SocketAddr>,
    /// Which run of the relay we are attached to.
    pub(super) instance: Option<Instance>,
    /// The relay has refused our box, and why.
    pub(super) refused: Option<Registration>,
    /// What was left for others in this hop session and waits for the relay's answer, by number.
    pub(super) deposits: BTreeMap<u64, Outstanding>,
    pub(super) next_deposit: u64,
    /// Whose prekeys the relay was asked for in this hop session, and when, by the number of the question.
    pub(super) questions: BTreeMap<u64, (IdentityId, Timestamp)>,
    pub(super) next_question: u64,
    pub(super) waiting: Vec<Reply<()>>,
}

impl<V: Vault + Clone + 'static> Driver<V> {
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

    pub(super) fn hop_opened(&mut self, now: Timestamp, channel: ChannelId) {
        let Some(index) = self.by_hop.get(&channel).copied() else { return };
        self.dials[index].keepalive_at = Some(now.after(KEEPALIVE));
        self.stay_on_link(channel, index);
        let instance = self.endpoint.peer_instance(channel);
        if let Some(attachment) = self.dials[index].attachment() {
            attachment.client.reset();
            attachment.instance = instance;
        }
        self.register(now, channel);
    }

    /// A relay is where we have dialled: others who pass its records on from elsewhere are not followed there.
    fn stay_on_link(&mut self, channel: ChannelId, index: usize) {
        if let Some(link) = self.dials[index].link {
            self.endpoint.pin_path(channel, PathId(link.0));
        }
    }

    /// New keys with a relay. If it has started anew meanwhile, it knows nothing of what the link's end would have told us of:
    /// labels, our box, what we left there.
    pub(super) fn hop_renewed(&mut self, now: Timestamp, channel: ChannelId) {
        let instance = self.endpoint.peer_instance(channel);
        if let Some(index) = self.by_hop.get(&channel).copied() {
            self.stay_on_link(channel, index);
        }
        let dial = self.by_hop.get(&channel).and_then(|index| self.dials.get_mut(*index));
        let Some(dial) = dial else { return };
        let link = dial.link;
        if dial.attachment().is_some_and(|attachment| attachment.instance != instance) {
            tracing::info!(relay = %dial.card.id().short(), "the relay has started anew");
            link.into_iter().for_each(|link| self.drop_link(now, link));
        }
    }

    /// Has the relay let those reach our box whom we admit, and nobody else: what it refuses we need not.
    pub(super) fn register(&mut self, now: Timestamp, channel: ChannelId) {
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
