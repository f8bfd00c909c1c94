//! Datagrams of the application: sealed when the way has room, and handed over as they come. Nothing is repeated.

use std::time::Duration;

use sealway_channel::ChannelId;
use sealway_vault::Vault;
use sealway_wire::{IdentityId, MAX_HEADER_LEN, TAG_LEN, Timestamp, constrained::MAX_RECORD};

use super::{Driver, frames::as_flow};
use crate::links::LinkId;

/// What one turn sends of a peer's datagrams at most, so that its messages and the other peers get their part of the link.
const TURN: usize = 512;
const TURN_OCTETS: usize = 64 * 1024;
/// After so many octets it is looked whether the way has room: half of its queue is kept free.
const LOOK_OCTETS: usize = 16 * 1024;
/// To a peer that is away one goes each time that so much has passed.
const AWAY_PAUSE: Duration = Duration::from_millis(500);
/// What a record has beside a datagram, at most: header and tag.
const OVERHEAD: usize = MAX_HEADER_LEN + TAG_LEN;

impl<V: Vault + Clone + 'static> Driver<V> {
    /// A datagram of a peer has come.
    pub(super) fn datagram_came(&mut self, now: Timestamp, channel: ChannelId, datagram: &[u8]) {
        match self.by_channel.get(&channel).copied() {
            Some(id) => self.take_datagram(now, id, datagram),
            None => self.statistics.refused_frames += 1,
        }
    }

    /// Keeps a datagram for the application.
    pub(super) fn take_datagram(&mut self, now: Timestamp, id: IdentityId, datagram: &[u8]) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !self.is_relayed_only {
            peer.was_used(now);
        }
        peer.is_absent = false;
        match peer.shared.datagrams_in.came(datagram) {
            true => self.statistics.delivered_datagrams += 1,
            false => self.statistics.dropped_datagrams += 1,
        }
    }

    /// Whether there is a session with a peer, and a link that leads there.
    fn is_within_reach(&mut self, channel: ChannelId) -> bool {
        // A relay has clients, not peers.
        let path = if self.relay.is_none() { self.endpoint.path(channel) } else { None };
        self.endpoint.is_open(channel) && path.is_some_and(|path| self.link_of(path).is_some())
    }

    /// To a peer of which its relay says that it is away a datagram goes now and then: nothing else may, that would tell when it is
    /// back. The others are lost, as they would be on the way.
    pub(super) fn send_datagrams_away(&mut self, now: Timestamp, id: IdentityId, channel: Option<ChannelId>) {
        let Some(channel) = channel.filter(|channel| self.is_within_reach(*channel)) else {
            return self.drop_datagrams(id);
        };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.shared.set_takes_datagrams(true);
        if peer.datagrams_sent == peer.datagrams.len() {
            peer.datagrams_sent = 0;
            peer.shared.datagrams_out.take(&mut peer.datagrams);
        }
        let may = peer.away.datagram_at.is_none_or(|at| at <= now);
        if may && let Some(datagram) = peer.datagrams.get(peer.datagrams_sent) {
            peer.away.datagram_at = Some(now.after(AWAY_PAUSE));
            peer.datagrams_sent += 1;
            let mut frame = std::mem::take(&mut self.scratch.inner);
            match self.endpoint.seal_datagram(now, channel, datagram, &mut frame) {
                Ok(outgoing) => self.transmit(now, outgoing.path, &frame[..outgoing.len]),
                Err(_) => self.statistics.dropped_datagrams += 1,
            }
            self.scratch.inner = frame;
        }
        self.discard_datagrams(id);
    }

    /// Sends datagrams to a peer that is not away, as long as the way has room. `true`: there are more, for the next turn.
    pub(super) fn send_datagrams(&mut self, now: Timestamp, id: IdentityId, channel: ChannelId) -> bool {
        if !self.is_within_reach(channel) {
            self.drop_datagrams(id);
            return false;
        }
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        peer.shared.set_takes_datagrams(true);
        let shared = peer.shared.clone();
        let (mut datagrams, mut sent) = (std::mem::take(&mut peer.datagrams), peer.datagrams_sent);
        let mut frame = std::mem::take(&mut self.scratch.inner);
        let (mut count, mut octets, mut looked, mut queue) = (0, 0, None, None);
        let mut are_more = false;
        loop {
            if sent == datagrams.len() {
                sent = 0;
                if !shared.datagrams_out.take(&mut datagrams) {
                    break;
                }
            }
            if count == TURN || octets >= TURN_OCTETS {
                // The rest in the next turn, which follows at once.
                self.common.wake.notify_one();
                are_more = true;
                break;
            }
            if looked.is_none_or(|looked| octets - looked >= LOOK_OCTETS) {
                looked = Some(octets);
                let path = self.endpoint.path(channel);
                if !path.is_some_and(|path| self.has_room(path)) {
                    self.peers.get_mut(&id).into_iter().for_each(|peer| peer.blocked = true);
                    break;
                }
                // Of a link of its own. Nothing moves the channel to another path meanwhile.
                let link =
                    path.filter(|path| as_flow(*path).is_none()).and_then(|path| self.links.get(&LinkId(path.0)));
                queue = link.map(|link| link.queue.clone());
            }
            let Some(datagram) = datagrams.get(sent) else { break };
            let endpoint = &mut self.endpoint;
            let is_sent = match &queue {
                Some(queue) => {
                    let seal =
                        |out: &mut [u8]| endpoint.seal_datagram(now, channel, datagram, out).map(|sealed| sealed.len);
                    match queue.push_with(datagram.len() + OVERHEAD, seal) {
                        // A short queue is full before it is looked again: this one waits until there is room.
                        None if looked != Some(octets) => {
                            looked = None;
                            continue;
                        }
                        pushed => matches!(pushed, Some(Ok(()))),
                    }
                }
                None => match endpoint.seal_datagram(now, channel, datagram, &mut frame) {
                    Ok(outgoing) => {
                        self.transmit(now, outgoing.path, &frame[..outgoing.len]);
                        true
                    }
                    Err(_) => false,
                },
            };
            (sent, count, octets) = (sent + 1, count + 1, octets + datagram.len() + OVERHEAD);
            self.statistics.dropped_datagrams += u64::from(!is_sent);
        }
        self.scratch.inner = frame;
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        (peer.datagrams, peer.datagrams_sent) = (datagrams, sent);
        if count > 0 && !self.is_relayed_only {
            peer.was_used(now);
        }
        are_more
    }

    /// There is nobody to send datagrams to: those that wait are lost, and no more are taken.
    pub(super) fn drop_datagrams(&mut self, id: IdentityId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        // In this order: what is added after that was added before somebody looked.
        peer.shared.set_takes_datagrams(false);
        self.discard_datagrams(id);
    }

    fn discard_datagrams(&mut self, id: IdentityId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let mut dropped = peer.datagrams.len() - peer.datagrams_sent;
        if peer.shared.datagrams_out.take(&mut peer.datagrams) {
            dropped += peer.datagrams.len();
        }
        peer.datagrams.clear();
        peer.datagrams_sent = 0;
        self.statistics.dropped_datagrams += dropped as u64;
    }

    /// Sends datagrams to a paired peer.
    pub(super) fn send_paired_datagrams(&mut self, now: Timestamp, id: IdentityId) {
        let (Some(paired), Some(peer)) = (self.paired.get_mut(&id), self.peers.get_mut(&id)) else { return };
        let Some(queue) = paired.datagram_link(now).and_then(|link| self.links.get(&link)).map(|link| &link.queue)
        else {
            // Nothing else may be sent that would be answered.
            paired.ask_if_silent(now);
            return self.drop_datagrams(id);
        };
        peer.shared.set_takes_datagrams(true);
        let mut frame = std::mem::take(&mut self.scratch.inner);
        for count in 0.. {
            if count == TURN {
                // The rest in the next turn, which follows at once.
                self.common.wake.notify_one();
                break;
            }
            if peer.datagrams_sent == peer.datagrams.len() {
                peer.datagrams_sent = 0;
                if !peer.shared.datagrams_out.take(&mut peer.datagrams) {
                    break;
                }
            }
            if !paired.may_send(now) || !queue.has_room() {
                peer.blocked = true;
                break;
            }
            let Some(datagram) = peer.datagrams.get(peer.datagrams_sent) else { break };
            peer.datagrams_sent += 1;
            // It may have waited for a link that took more.
            let longest = paired.mtu().min(MAX_RECORD);
            let sealed = paired.seal_datagram(datagram, &mut frame[..longest]);
            let is_sent = sealed.is_ok_and(|len| queue.push(&frame[..len]));
            self.statistics.dropped_datagrams += u64::from(!is_sent);
        }
        self.scratch.inner = frame;
    }
}
