//! How far the way to somebody is open, and how long it takes.

use std::time::Duration;

use sealway_channel::ChannelId;
use sealway_vault::Vault;
use sealway_wire::{IdentityId, Timestamp};
use tokio::sync::oneshot;

use super::{Driver, dial::Dial};
use crate::{Hop, HopState, NodeError};

/// A PING that was not answered for so long is sent again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Somebody waits for a sign of life.
pub(super) struct Ping {
    id: IdentityId,
    again_at: Timestamp,
    reply: oneshot::Sender<Result<Duration, NodeError>>,
}

impl Ping {
    pub(super) const fn next_timeout(&self) -> Timestamp {
        self.again_at
    }
}

impl<V: Vault + Clone + 'static> Driver<V> {
    pub(super) fn ping(&mut self, now: Timestamp, id: IdentityId, reply: oneshot::Sender<Result<Duration, NodeError>>) {
        self.pings.push(Ping { id, again_at: now.after(PATIENCE), reply });
        self.ask(now, id);
    }

    fn ask(&mut self, now: Timestamp, id: IdentityId) {
        if let Some(channel) = self.channel_to(id) {
            self.endpoint.ping(now, channel);
        }
    }

    /// The channel to a relay or a peer.
    fn channel_to(&self, id: IdentityId) -> Option<ChannelId> {
        let dial = self.dials.iter().find(|dial| dial.card.id() == id).and_then(|dial| dial.channel);
        dial.or_else(|| self.peers.get(&id)?.channel)
    }

    pub(super) fn ping_again(&mut self, now: Timestamp) {
        self.pings.retain(|ping| !ping.reply.is_closed());
        let mut due = Vec::new();
        for ping in self.pings.iter_mut().filter(|ping| ping.again_at <= now) {
            ping.again_at = now.after(PATIENCE);
            due.push(ping.id);
        }
        due.into_iter().for_each(|id| self.ask(now, id));
    }

    /// There is a session: who waited for one is asked.
    pub(super) fn ping_opened(&mut self, now: Timestamp, channel: ChannelId) {
        let waits = |ping: &&Ping| self.channel_to(ping.id) == Some(channel);
        if let Some(id) = self.pings.iter().find(waits).map(|ping| ping.id) {
            self.ask(now, id);
        }
    }

    pub(super) fn ping_answered(&mut self, channel: ChannelId, after: Duration) {
        let peer = self.endpoint.peer(channel).and_then(|peer| self.peers.get_mut(&peer));
        peer.into_iter().for_each(|peer| peer.is_absent = false);
        let mut index = 0;
        while let Some(ping) = self.pings.get(index) {
            if self.channel_to(ping.id) == Some(channel) {
                let _ = self.pings.swap_remove(index).reply.send(Ok(after));
            } else {
                index += 1;
            }
        }
    }

    /// The way to `peer`: its relays that we know, and itself.
    pub(super) fn route(&self, peer: IdentityId) -> Vec<Hop> {
        let known = self.peers.get(&peer);
        let card = known.and_then(|known| known.card.as_ref());
        let relays = card.map(|card| card.relays()).unwrap_or_default();
        let relays = self.dials.iter().filter(|dial| relays.iter().any(|entry| entry.id == dial.card.id()));
        let mut hops: Vec<Hop> = relays.map(|dial| self.dialled(dial, true)).collect();
        let own = self.dials.iter().find(|dial| dial.card.id() == peer);
        let mut last = match own {
            Some(dial) => self.dialled(dial, false),
            None => {
                let reached = hops.iter().any(|hop| hop.state == HopState::Open);
                let state = if reached { HopState::Unanswered } else { HopState::Unreached };
                Hop { id: peer, is_relay: false, place: None, unit: None, state, error: None }
            }
        };
        if let Some(link) = known.and_then(|known| known.direct.way()).and_then(|link| self.links.get(&link)) {
            last.place = link.observed.map(|place| format!("udp://{place}"));
            last.unit = Some(link.queue.unit());
        }
        if known.and_then(|known| known.channel).is_some_and(|channel| self.endpoint.is_open(channel)) {
            last.state = HopState::Open;
        }
        if known.is_some_and(|known| known.is_absent) {
            last.state = HopState::Away;
        }
        hops.push(last);
        hops
    }

    fn dialled(&self, dial: &Dial, is_relay: bool) -> Hop {
        let link = dial.link.and_then(|link| self.links.get(&link));
        let state = match dial.channel {
            Some(channel) if self.endpoint.is_open(channel) => HopState::Open,
            _ if link.is_some() => HopState::Unanswered,
            _ => HopState::Unreached,
        };
        Hop {
            id: dial.card.id(),
            is_relay,
            place: dial.place.clone(),
            unit: link.map(|link| link.queue.unit()),
            state,
            error: dial.error.clone(),
        }
    }
}
