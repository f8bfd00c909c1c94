//! Who is admitted, when that changes while a node runs.

use sealway_channel::{ChannelId, MAX_RECORD};
use sealway_identity::Policy;
use sealway_vault::Vault;
use sealway_wire::{Timestamp, content::CloseReason};

use super::Driver;
use crate::links::LinkId;

impl<V: Vault + Clone + 'static> Driver<V> {
    /// Admits these, and those to whom we have opened a channel; the others are cut off.
    pub(super) fn accept_only(&mut self, now: Timestamp, mut policy: Policy) {
        let opened = self.peers.values().filter(|peer| peer.card.is_some()).map(|peer| peer.id);
        opened.chain(self.dials.iter().map(|dial| dial.card.id())).for_each(|id| policy.admit(id));
        let known = self.served.keys().chain(self.by_channel.keys());
        let is_out = |channel: &&ChannelId| {
            let peer = self.endpoint.peer(**channel);
            peer.is_some_and(|peer| !policy.decide(&peer).is_allow())
        };
        let out: Vec<ChannelId> = known.filter(is_out).copied().collect();
        self.endpoint.set_accepted(policy);
        out.into_iter().for_each(|channel| self.cut_off(now, channel));
        self.admit_at_relays(now);
    }

    /// Ends everything with a peer that is not admitted any more.
    pub(super) fn cut_off(&mut self, now: Timestamp, channel: ChannelId) {
        let peer = self.endpoint.peer(channel);
        tracing::info!(peer = peer.map(|id| id.short().to_string()), "not admitted any more");
        let path = self.endpoint.path(channel).map(|path| LinkId(path.0)).filter(|link| self.links.contains_key(link));
        let link = self.served.get(&channel).copied().or(path);
        self.endpoint.close(channel, CloseReason::Policy);
        // CLOSE leaves before what ends the link.
        let mut frame = vec![0; MAX_RECORD + 64];
        while let Some(outgoing) = self.endpoint.poll_transmit(now, &mut frame) {
            self.transmit(now, outgoing.path, &frame[..outgoing.len]);
        }
        self.endpoint.forget(channel);
        self.peer_closed(channel);
        link.into_iter().for_each(|link| self.drop_link(now, link));
        peer.into_iter().for_each(|peer| self.end_direct(now, peer));
    }
}
