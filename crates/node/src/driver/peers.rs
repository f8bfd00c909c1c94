//! Messages: the outbox and inbox of each peer, and the application's handle.

use std::{sync::Arc, time::Duration};

use sealway_channel::{ChannelId, Context, PathId, Record, StateError};
use sealway_identity::{Card, Mailbox, PayloadParts, Policy};
use sealway_routing::{Batch, Delivery, Deposited, Intake, Marks, Push, Question, SendOptions, SessionId, StoreError};
use sealway_vault::Vault;
use sealway_wire::{
    BoxName, Cid, IdentityId, Instance, Lane, MessageId, PrekeyId, Timestamp,
    content::{Committed, Reliable},
    hop::Verdict,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    Driver,
    custody::Pushed,
    dial::Purpose,
    direct::Direct,
    frames::{flow_path, is_flow_over},
    peer::Peer,
};
use crate::{
    NodeError, Progress, Receipt,
    handle::{Channel, Offered},
    shared::{Shared, Told},
    writer::Completed,
};

/// When nothing at all was heard of the peer for so long although messages are under way, a new session is made.
const DEADLINE: Duration = Duration::from_secs(10);
/// What has arrived and was not committed so soon is told to its sender, so that it does not come again.
const HOLD_DELAY: Duration = Duration::from_millis(150);
/// The same where an earlier message is missing: its sender waits for that to send it again.
const GAP_DELAY: Duration = Duration::from_millis(5);
/// Messages that one turn seals for a peer, so that one busy peer does not starve the others.
pub(super) const TURN: usize = 128;
/// After so many it is looked whether the way there has room: that is kept for more than so many of the longest.
const LOOK: usize = 8;

/// What a batch was written for.
pub(crate) enum Stored {
    /// A message of the outbox: now it may be sent.
    Sent { peer: IdentityId, receipt: Receipt, reply: oneshot::Sender<Result<Receipt, NodeError>> },
    /// A message of the inbox that is about to be handed over.
    HandedOver { peer: IdentityId, delivery: Delivery },
    /// The application has done with a message.
    Done {
        peer: IdentityId,
        instance: Instance,
        marks: Marks,
        octets: usize,
        reply: oneshot::Sender<Result<(), NodeError>>,
    },
    /// A box of a client, where we are a relay.
    Registered { channel: ChannelId, name: BoxName },
    /// What of a session survives a restart.
    Session { peer: IdentityId, session: Cid },
    /// A handshake by letter, in this version.
    Handshake { peer: IdentityId, number: u64 },
    /// All of these.
    Several(Vec<Stored>),
    /// A pairing, in this version.
    Pairing { peer: IdentityId, version: u64 },
    /// A frame in custody, where we are a relay.
    Deposited(Deposited),
    /// A frame in custody that is to be pushed.
    Fetched(Push),
    /// What a frame that a relay had kept has brought.
    Taken(Pushed),
    /// A prekey of ours.
    Prekey(PrekeyId),
    /// What a client of ours is asked for by another, where we are a relay.
    Asked(Question),
    /// What a client has published, where we are a relay.
    Published(SessionId),
    /// What need not be kept any longer, or is only of use to a later run.
    Removed,
}

/// A message that the application hands in for the disk.
pub(super) struct Submission {
    pub(super) body: Vec<u8>,
    pub(super) options: SendOptions,
    pub(super) room: OwnedSemaphorePermit,
    pub(super) reply: oneshot::Sender<Result<Receipt, NodeError>>,
}

impl<V: Vault + Clone + 'static> Driver<V> {
    // ---- commands ----

    pub(super) fn open(&mut self, now: Timestamp, card: &Card, policy: &Policy) -> Result<Channel, NodeError> {
        let id = card.id();
        if !policy.decide(&id).is_allow() {
            return Err(NodeError::Open(sealway_channel::OpenError::NotAdmitted));
        }
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id, &self.common));
        // One that waits to be accepted is not in use: the peer was quicker.
        let waiting = peer.offered.take().and_then(|offered| offered.take());
        let is_used = peer.application.as_ref().is_some_and(|application| !application.is_gone());
        if waiting.is_none() && is_used {
            return Err(NodeError::InUse);
        }
        if let Err(error) = self.reach_peer(now, card) {
            waiting.into_iter().for_each(|waiting| self.offer_handle(id, waiting));
            return Err(error);
        }
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id, &self.common));
        peer.card = Some(card.clone());
        if let Some(handle) = waiting {
            peer.wake();
            return Ok(handle);
        }
        let (handle, rewound) = peer.handle();
        for instance in rewound {
            self.report_committed(now, id, instance, Told::default());
        }
        Ok(handle)
    }

    /// Sets out on the way to the identity on a card, which is admitted from now on.
    fn reach_peer(&mut self, now: Timestamp, card: &Card) -> Result<(), NodeError> {
        let id = card.id();
        let is_new = !self.endpoint.admitted().any(|admitted| *admitted == id);
        if !self.open_over_relay(now, card)? {
            if card.addresses().is_empty() && !self.reachable.contains_key(&id) {
                return Err(NodeError::NoRoute);
            }
            match self.dials.iter_mut().find(|dial| dial.card.id() == id) {
                Some(dial) => dial.card = card.clone(),
                None => self.dial(now, card.clone(), Purpose::Peer(id)),
            }
        }
        self.endpoint.admit(&Policy::only(card));
        if is_new {
            self.admit_at_relays(now);
        }
        Ok(())
    }

    /// Opens the channel to a peer over the first relay of its card that we know. `false`: there is none.
    fn open_over_relay(&mut self, now: Timestamp, card: &Card) -> Result<bool, NodeError> {
        let id = card.id();
        for relay in card.relays() {
            let Some(index) = self.dials.iter().position(|dial| dial.card.id() == relay.id) else { continue };
            let own_box = self.contact_box;
            let Some(attachment) = self.dials[index].attachment() else { continue };
            let path = flow_path(index, attachment.client.flow_to(relay.contact_box));
            let payload = PayloadParts::with_mailbox(Mailbox { relay: relay.id, name: own_box });
            let channel = self.endpoint.open(now, card, &Policy::only(card), payload, path)?;
            self.by_channel.insert(channel, id);
            self.by_flow.insert(path, id);
            // A session that goes over a box which the peer has named itself is not disturbed.
            if !self.endpoint.is_open(channel) {
                self.endpoint.pin_path(channel, path);
                self.leads_to(path, id);
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.away.mailbox = Some(Mailbox { relay: relay.id, name: relay.contact_box });
                }
            }
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.channel = Some(channel);
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// We are attached again: what went to the relay meanwhile is lost.
    pub(super) fn relay_is_back(&mut self, now: Timestamp, index: usize) {
        let relay = self.dials[index].card.id();
        let ids: Vec<IdentityId> = self.peers.keys().copied().collect();
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let path = peer.channel.and_then(|channel| self.endpoint.path(channel));
            // What is left in its box goes over this relay too.
            peer.wake();
            if path.is_some_and(|path| is_flow_over(path, index)) {
                peer.shared.outgoing().outbox.redirect();
            } else if path.is_none()
                && let Some(card) = peer.card.clone()
                && card.relays().iter().any(|entry| entry.id == relay)
                && let Err(error) = self.open_over_relay(now, &card)
            {
                tracing::warn!(%error, "a channel cannot be opened again");
            }
        }
    }

    /// Takes a message in that is written before it is sent.
    pub(super) fn send(&mut self, peer: IdentityId, submission: Submission) {
        let Submission { body, options, room, reply } = submission;
        let Some(peer) = self.peers.get_mut(&peer) else {
            let _ = reply.send(Err(NodeError::Closed));
            return;
        };
        let Some(writer) = &self.writer else {
            let _ = reply.send(Err(NodeError::NoStore));
            return;
        };
        let first = (peer.shared.first_progress(), room);
        let pushed = peer.shared.outgoing().push(body, options, true, first);
        match pushed {
            Ok((receipt, batch)) => writer.write(batch, Stored::Sent { peer: peer.id, receipt, reply }),
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    /// A handle was dropped. What its peer goes on to send is offered to those who accept.
    pub(super) fn released(&mut self, now: Timestamp, id: IdentityId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.release();
        let is_open = peer.channel.is_some_and(|channel| self.endpoint.is_open(channel));
        let is_free = peer.application.is_none() && peer.card.is_none();
        // Who has committed nothing would not take it the next time either.
        if is_free && is_open && peer.shared.take_was_used() && peer.shared.incoming().inbox.has_undone() {
            self.offer(now, id);
        }
    }

    /// Has a batch written, unless it is empty or there is no store.
    pub(super) fn write(&self, batch: Batch, what: Stored) {
        if let (Some(writer), false) = (&self.writer, batch.is_empty()) {
            writer.write(batch, what);
        }
    }

    pub(super) fn done(
        &mut self,
        now: Timestamp,
        id: IdentityId,
        message: MessageId,
        octets: usize,
        reply: oneshot::Sender<Result<(), NodeError>>,
    ) {
        let done = self.peers.get_mut(&id).and_then(|peer| peer.shared.incoming().inbox.done(message));
        let Some((batch, marks)) = done else {
            let _ = reply.send(Err(NodeError::InUse));
            return;
        };
        let stored = Stored::Done { peer: id, instance: message.instance, marks, octets, reply };
        match &self.writer {
            Some(writer) => writer.write(batch, stored),
            None => self.stored(now, stored),
        }
    }

    // ---- the store ----

    pub(super) fn handle_completed(&mut self, completed: Completed<Stored>) {
        let now = self.clock.now();
        match completed {
            Completed::Written { what, result: Ok(()) } => {
                self.statistics.store_is_down = 0;
                what.into_iter().for_each(|what| self.stored(now, what));
            }
            Completed::Written { what, result: Err(error) } => {
                self.statistics.failed_writes += 1;
                self.statistics.store_is_down = 1;
                tracing::error!(%error, "the store failed");
                what.into_iter().for_each(|what| self.not_stored(now, what, &error));
            }
            Completed::Read { what: Stored::Fetched(push), value } => match value {
                Ok(row) => self.fetched(now, push, Ok(row.as_deref())),
                Err(error) => {
                    tracing::error!(%error, "the store failed");
                    self.fetched(now, push, Err(error));
                }
            },
            Completed::Read { what: Stored::Asked(question), value } => {
                if let Err(error) = &value {
                    tracing::error!(%error, "the store failed");
                }
                self.answer_question(now, question, value.ok().flatten().as_deref());
            }
            Completed::Read { .. } => {}
        }
    }

    fn stored(&mut self, now: Timestamp, what: Stored) {
        match what {
            Stored::Sent { peer, receipt, reply } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.shared.outgoing().outbox.written(receipt.id());
                    peer.awake = true;
                }
                let _ = reply.send(Ok(receipt));
            }
            Stored::HandedOver { peer, delivery } => self.hand_over(peer, delivery),
            Stored::Done { peer, instance, marks, octets, reply } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.shared.incoming().inbox.written(instance, marks);
                    peer.shared.was_used();
                    peer.awake = true;
                }
                self.report_committed(now, peer, instance, Told { messages: 1, octets });
                self.settle_pushes(now, peer);
                let _ = reply.send(Ok(()));
            }
            Stored::Registered { channel, name } => self.box_is_open(now, channel, name),
            Stored::Session { peer, session } => {
                self.endpoint.written(&peer, session);
                self.may_deposit_again(now, peer);
            }
            Stored::Pairing { peer, version } => self.pairing_written(now, peer, Some(version)),
            Stored::Handshake { peer, number } => self.handshake_written(now, peer, number),
            Stored::Several(all) => all.into_iter().for_each(|what| self.stored(now, what)),
            Stored::Deposited(deposit) => self.deposit_written(now, deposit, true),
            Stored::Taken(pushed) => self.give_verdict(now, pushed, Verdict::Done),
            Stored::Prekey(id) => {
                self.endpoint.prekey_written(now, id);
                self.publish_prekey(now);
            }
            Stored::Published(session) => self.published(session),
            Stored::Fetched(_) | Stored::Asked(_) | Stored::Removed => {}
        }
    }

    fn not_stored(&mut self, now: Timestamp, what: Stored, error: &Arc<StoreError>) {
        match what {
            Stored::Sent { peer, receipt, reply } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.shared.outgoing().withdraw(receipt.id());
                }
                let _ = reply.send(Err(NodeError::Store(error.clone())));
            }
            // It is handed over all the same: only the flag of a second time may be missing after a crash.
            Stored::HandedOver { peer, delivery } => self.hand_over(peer, delivery),
            Stored::Done { peer, instance, reply, .. } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.shared.incoming().inbox.not_written(instance);
                }
                let _ = reply.send(Err(NodeError::Store(error.clone())));
            }
            Stored::Session { peer, session } => self.endpoint.not_written(now, &peer, session),
            Stored::Pairing { peer, .. } => self.pairing_written(now, peer, None),
            Stored::Handshake { peer, number } => self.handshake_not_written(now, peer, number),
            Stored::Several(all) => all.into_iter().for_each(|what| self.not_stored(now, what, error)),
            Stored::Deposited(deposit) => self.deposit_written(now, deposit, false),
            Stored::Taken(pushed) => self.give_verdict(now, pushed, Verdict::Later),
            // The client is not told: it asks again when it attaches again.
            Stored::Registered { .. } => {}
            Stored::Prekey(id) => self.endpoint.prekey_not_written(now, id),
            Stored::Published(session) => self.published(session),
            // They are removed after the next start, when they are offered and found committed.
            Stored::Fetched(_) | Stored::Asked(_) | Stored::Removed => {}
        }
    }

    /// What was committed since is told to the peer, on the way on which it is heard.
    pub(super) fn report_committed(&mut self, now: Timestamp, id: IdentityId, instance: Instance, told: Told) {
        if let Some(paired) = self.paired.get_mut(&id) {
            paired.committed(told.octets);
            return paired.tell(now, instance);
        }
        let Some(peer) = self.peers.get(&id) else { return };
        let is_open = peer.channel.is_some_and(|channel| self.endpoint.is_open(channel));
        // Without a live session it is told once there is one, or the peer is known to be away.
        if peer.away.mailbox.is_some() && (!is_open || self.is_away(id)) {
            return self.report_to_box(now, id, instance);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let is_awaited = peer.is_awaited(told);
        if let (Some(channel), Some(committed)) = (peer.channel, peer.shared.incoming().inbox.committed(instance)) {
            self.endpoint.report_committed(now, channel, &committed, is_awaited);
            let heard = self.endpoint.heard_at(channel);
            peer.away.told(now, instance, heard);
        }
    }

    /// Tells the peer what has arrived and waits for the application, or for its other parts: it need not come again.
    fn report_held(&mut self, now: Timestamp, id: IdentityId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some((_, instance)) = peer.holding.filter(|(at, _)| *at <= now) else { return };
        peer.holding = None;
        peer.arrived = 0;
        if let Some(paired) = self.paired.get_mut(&id) {
            return paired.tell(now, instance);
        }
        let inbox = &mut peer.shared.incoming().inbox;
        if inbox.holds_any(instance)
            && let (Some(channel), Some(committed)) = (peer.channel, inbox.committed(instance))
        {
            self.endpoint.report_committed(now, channel, &committed, true);
        }
    }

    // ---- channels ----

    pub(super) fn peer_opened(
        &mut self,
        now: Timestamp,
        channel: ChannelId,
        peer: &sealway_identity::Peer,
        context: Context,
    ) {
        let id = peer.id();
        self.by_channel.insert(channel, id);
        let entry = self.peers.entry(id).or_insert_with(|| Peer::new(id, &self.common));
        entry.channel = Some(channel);
        entry.context.send_replace(Some(context));
        entry.shared.set_met(true);
        let mut outgoing = entry.shared.outgoing();
        outgoing.outbox.renew();
        outgoing.met();
        drop(outgoing);
        self.offer(now, id);
        self.follow_mailbox(channel, peer);
        self.peer_is_here(now, id);
    }

    /// Offers a peer that nobody here has opened a channel to, and that has no handle, to those who accept.
    pub(super) fn offer(&mut self, now: Timestamp, id: IdentityId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.release();
        if peer.application.is_none() && peer.card.is_none() {
            // Nobody accepts: the peer's messages wait at the peer, until its next session.
            if self.senders.accepted.capacity() == 0 {
                return;
            }
            let (handle, rewound) = peer.handle();
            self.offer_handle(id, handle);
            for instance in rewound {
                self.report_committed(now, id, instance, Told::default());
            }
        }
    }

    /// Has a handle wait for whoever accepts or opens the channel first.
    fn offer_handle(&mut self, id: IdentityId, handle: Channel) {
        let offered = Offered::new(handle);
        if let (Ok(()), Some(peer)) = (self.senders.accepted.try_send(offered.clone()), self.peers.get_mut(&id)) {
            peer.offered = Some(offered);
        }
    }

    pub(super) fn peer_renewed(&mut self, now: Timestamp, channel: ChannelId, peer: &sealway_identity::Peer) {
        self.offer(now, peer.id());
        if let Some(entry) = self.peers.get_mut(&peer.id()) {
            entry.shared.outgoing().outbox.renew();
        }
        self.follow_mailbox(channel, peer);
        self.peer_is_here(now, peer.id());
    }

    /// A handshake with a peer went unanswered: it may be away.
    pub(super) fn peer_unanswered(&mut self, now: Timestamp, channel: ChannelId) {
        if let Some(id) = self.by_channel.get(&channel).copied() {
            self.mark_away(now, id);
        }
    }

    /// Takes back the stored lane of an earlier run's session. Returns whether it is of use.
    pub(super) fn restore(&mut self, now: Timestamp, state: &[u8]) -> bool {
        let restored = match self.endpoint.restore(now, state) {
            Ok(restored) => restored,
            Err(error) => {
                tracing::warn!(%error, "a session of an earlier run cannot be taken back");
                // What the vault does not open now it may open at another start.
                return matches!(error, StateError::Vault(_));
            }
        };
        self.by_channel.insert(restored.channel, restored.peer);
        let peer = self.peers.entry(restored.peer).or_insert_with(|| Peer::new(restored.peer, &self.common));
        peer.channel = Some(restored.channel);
        peer.away.mailbox = restored.mailbox.or(peer.away.mailbox);
        true
    }

    /// Frames for a peer that has named its box go there, whatever flow it came on: flows end with hop sessions.
    fn follow_mailbox(&mut self, channel: ChannelId, peer: &sealway_identity::Peer) {
        let Some(mailbox) = peer.mailbox() else { return };
        let Some(index) = self.dials.iter().position(|dial| dial.card.id() == mailbox.relay) else { return };
        if let Some(attachment) = self.dials[index].attachment() {
            let path = flow_path(index, attachment.client.flow_to(mailbox.name));
            self.endpoint.pin_path(channel, path);
            if let Some(entry) = self.peers.get_mut(&peer.id()) {
                entry.away.mailbox = Some(mailbox);
            }
            self.leads_to(path, peer.id());
        }
    }

    /// A peer that has named no box has come back on another flow.
    pub(super) fn follow_flow(&mut self, channel: ChannelId, path: PathId) {
        let Some(peer) = self.by_channel.get(&channel).and_then(|id| self.peers.get_mut(id)) else { return };
        peer.wake();
        // One at a time: it may come back on another one without end.
        let before = peer.followed.replace(path);
        self.by_flow.insert(path, peer.id);
        if let Some(before) = before.filter(|before| *before != path && peer.route != Some(*before)) {
            self.by_flow.remove(&before);
        }
    }

    /// Takes note of the one flow that leads to a peer's box. A flow to another box that it has named is given up.
    fn leads_to(&mut self, path: PathId, id: IdentityId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let before = peer.route.replace(path).filter(|before| *before != path);
        if let Some(before) = before.filter(|before| self.by_flow.get(before) == Some(&id)) {
            self.by_flow.remove(&before);
            self.end_flow(before);
        }
        self.by_flow.insert(path, id);
    }

    pub(super) fn peer_closed(&mut self, channel: ChannelId) {
        // What was left in boxes comes on the same channel, as long as the endpoint has its stored lane.
        if self.endpoint.peer(channel).is_some() {
            return;
        }
        let Some(id) = self.by_channel.remove(&channel) else { return };
        if let Some(peer) = self.peers.get_mut(&id) {
            (peer.channel, peer.direct) = (None, Direct::default());
        }
        self.drop_datagrams(id);
    }

    // ---- records ----

    pub(super) fn handle_record(&mut self, now: Timestamp, channel: ChannelId, record: Record<'_>) {
        let Some(id) = self.by_channel.get(&channel).copied().or_else(|| self.endpoint.peer(channel)) else { return };
        self.peers.get_mut(&id).into_iter().for_each(|peer| peer.is_absent = false);
        self.take_record(now, id, record, None);
    }

    /// Takes in what a peer has sent: under a session, or in a letter to our prekey of the number `letter`.
    pub(super) fn take_record(&mut self, now: Timestamp, id: IdentityId, record: Record<'_>, letter: Option<u64>) {
        let prekeys = self.endpoint.prekeys();
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id, &self.common));
        peer.tell_prekeys(prekeys);
        match record {
            Record::Message { instance, number, lowest, unwanted, part, body } => {
                if letter.is_none() && !self.is_relayed_only {
                    peer.was_used(now);
                }
                let message = MessageId { instance, number };
                let mut incoming = peer.shared.incoming();
                let intake = match letter {
                    Some(prekey) => incoming.inbox.handle_letter(prekey, message, lowest, unwanted, part, body),
                    None => incoming.inbox.handle_message(message, lowest, unwanted, part, body),
                };
                let is_here = matches!(intake, Intake::Accepted | Intake::Pending);
                let is_blocked = is_here && incoming.inbox.is_blocked(message);
                drop(incoming);
                if is_here {
                    let at = now.after(if is_blocked { GAP_DELAY } else { HOLD_DELAY });
                    peer.has_arrived(now, at, instance, part.map_or(0, |_| body.len()));
                }
                match intake {
                    Intake::Accepted => peer.awake = true,
                    Intake::Committed => {
                        self.statistics.repeated_messages += 1;
                        self.report_committed(now, id, instance, Told::default());
                    }
                    Intake::Pending | Intake::Later => {}
                }
            }
            Record::Committed(committed) => {
                // What a relay has kept tells only what was committed: it may be old.
                if let Some(peer) = self.peers.get(&id) {
                    // In small frames not all of it may have had room.
                    let is_whole = !self.paired.contains_key(&id);
                    peer.shared.outgoing().outbox.recall(now, &committed, is_whole);
                }
                let batch = self.peer_committed(now, id, &committed).unwrap_or_default();
                self.write(batch, Stored::Removed);
            }
            // None is kept by a relay, or goes in a letter.
            Record::Datagram(_) => {}
        }
    }

    /// The peer has committed messages of ours. Returns what is to be written.
    pub(super) fn peer_committed(
        &mut self,
        now: Timestamp,
        id: IdentityId,
        committed: &Committed<'_>,
    ) -> Option<Batch> {
        let peer = self.peers.get_mut(&id)?;
        peer.awake = true;
        peer.direct.progressed(now);
        let mut outgoing = peer.shared.outgoing();
        let delivered = outgoing.outbox.committed(now, committed);
        Some(outgoing.settle(delivered, Progress::Delivered))
    }

    // ---- what is due ----

    pub(super) fn pump_peers(&mut self, now: Timestamp) {
        let due = |peer: &&Peer| peer.awake || peer.next_timeout().is_some_and(|at| at <= now);
        let ids: Vec<IdentityId> = self.peers.values().filter(due).map(|peer| peer.id).collect();
        for id in ids {
            self.expire(now, id);
            self.deliver(id);
            self.report_done(now, id);
            self.report_held(now, id);
            self.send_due(now, id);
            self.handle_direct(now, id);
        }
    }

    /// Tells the peer what was committed where nothing had to be written for it.
    pub(super) fn report_done(&mut self, now: Timestamp, id: IdentityId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let committed = peer.shared.take_committed();
        let is_news = !committed.is_empty();
        for (instance, told) in committed {
            self.report_committed(now, id, instance, told);
        }
        if is_news {
            self.settle_pushes(now, id);
        }
    }

    fn expire(&mut self, now: Timestamp, id: IdentityId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let mut outgoing = peer.shared.outgoing();
        let expired = outgoing.outbox.expire(now);
        let batch = outgoing.settle(expired, Progress::Dropped);
        let is_empty = outgoing.outbox.is_empty();
        drop(outgoing);
        self.write(batch, Stored::Removed);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        // A message is repeated as long as it is not committed, so this is asked often enough.
        let is_paired = self.paired.contains_key(&id);
        if let Some(channel) = peer.channel.filter(|_| !peer.blocked && !is_empty && !is_paired)
            && self.endpoint.silent_since(channel).is_some_and(|since| now.since(since) >= DEADLINE)
        {
            self.endpoint.missed_deadline(now, channel);
            self.mark_away(now, id);
        }
        self.notice_return(now, id);
    }

    fn deliver(&mut self, id: IdentityId) {
        // At the end of a run nothing is written any more: what comes now comes again.
        if self.common.has_store && self.writer.is_none() {
            return;
        }
        while let Some(peer) = self.peers.get_mut(&id) {
            if !peer.can_hand_over() {
                return;
            }
            let delivery = peer.shared.incoming().inbox.poll_deliver();
            let Some(mut delivery) = delivery else { return };
            let before = std::mem::take(&mut delivery.before);
            match &self.writer {
                Some(writer) if !before.is_empty() => {
                    peer.handing_over = true;
                    writer.write(before, Stored::HandedOver { peer: id, delivery });
                }
                _ => self.hand_over(id, delivery),
            }
        }
    }

    fn hand_over(&mut self, id: IdentityId, delivery: Delivery) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.handing_over = false;
        peer.awake = true;
        self.statistics.delivered_messages += 1;
        // Without a handle it stays uncommitted: it is handed over again after the next start.
        if !peer.application.as_ref().is_some_and(|application| application.hand_over(delivery)) {
            tracing::warn!(peer = %id.short(), "nobody takes the messages of this peer any more");
            peer.application = None;
        }
    }

    fn send_due(&mut self, now: Timestamp, id: IdentityId) {
        if self.paired.contains_key(&id) {
            return self.send_paired(now, id);
        }
        let is_away = self.is_away(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.lane = if is_away { Lane::Stored } else { Lane::Live };
        let channel = peer.channel;
        let has_session =
            channel.is_some_and(|channel| self.endpoint.is_open(channel) || self.endpoint.may_deposit(now, channel));
        let has_met = has_session || peer.away.letters.can_be_written();
        peer.shared.set_met(has_met);
        let shared = peer.shared.clone();
        if is_away {
            self.send_datagrams_away(now, id, channel);
            return self.deposit_due(now, id);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            // It is told as soon as there is a session, or the peer is known to be away.
            peer.away.report_at = None;
            peer.away.paused = None;
            peer.away.mail.unanswered();
        }
        let Some(channel) = channel else {
            self.drop_datagrams(id);
            return self.block(id);
        };
        // By turns: on a short queue there may be room for one of the two.
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.datagrams_first = !peer.datagrams_first;
        let are_more = if peer.datagrams_first {
            let are_more = self.send_datagrams(now, id, channel);
            self.send_messages(now, id, channel, &shared);
            are_more
        } else {
            self.send_messages(now, id, channel, &shared);
            self.send_datagrams(now, id, channel)
        };
        if are_more && let Some(peer) = self.peers.get_mut(&id) {
            peer.awake = true;
        }
    }

    fn send_messages(&mut self, now: Timestamp, id: IdentityId, channel: ChannelId, shared: &Shared) {
        let mut frame = std::mem::take(&mut self.scratch.inner);
        let mut is_used = false;
        for sent in 0.. {
            if sent == TURN {
                // The rest in the next turn, which follows at once.
                self.common.wake.notify_one();
                break;
            }
            if sent % LOOK == 0 {
                let path = self.endpoint.path(channel);
                let has_room = path.is_some_and(|path| self.has_room(path));
                let Some(peer) = self.peers.get_mut(&id) else { break };
                peer.blocked = !has_room;
                if !has_room {
                    peer.awake = false;
                    break;
                }
            }
            let mut outgoing = shared.outgoing();
            let Some(message) = outgoing.outbox.poll_send(now, Lane::Live) else {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.awake = false;
                }
                break;
            };
            let reliable = Reliable {
                instance: Some(message.id.instance),
                number: message.id.number,
                lowest: message.lowest,
                unwanted: message.unwanted,
                part: message.part,
                body: message.body,
            };
            let sealed = self.endpoint.seal_message(now, channel, reliable, &mut frame);
            drop(outgoing);
            match sealed {
                Ok(outgoing) => {
                    is_used = true;
                    self.transmit(now, outgoing.path, &frame[..outgoing.len]);
                }
                Err(error) => {
                    tracing::debug!(%error, "a message was not sealed; it waits");
                    self.block(id);
                    break;
                }
            }
        }
        self.scratch.inner = frame;
        if is_used && !self.is_relayed_only {
            self.peers.get_mut(&id).into_iter().for_each(|peer| peer.was_used(now));
        }
    }

    /// Nothing goes to the peer until something about the way there changes, which wakes it.
    pub(super) fn block(&mut self, id: IdentityId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.awake = false;
            peer.blocked = true;
        }
    }
}
