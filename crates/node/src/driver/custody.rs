//! Frames that a relay keeps: leaving them for a peer that is away, taking those that were left for us, and keeping them
//! where we are the relay.

use std::time::Duration;

use sealway_channel::{BOX_TIME, ChannelId, Deposit, FrameError, PathId, Received, Record, Source};
use sealway_identity::Mailbox;
use sealway_routing::{Deposited, Holding, Push, SessionId, StoreError, Table};
use sealway_vault::Vault;
use sealway_wire::{
    BoxName, IdentityId, Instance, Lane, Letter, MessageId, RecordHeader, Route, Timestamp, VarInt,
    content::Reliable,
    hop::{Custody, DiscardReason, HopFrame, Verdict},
};

use super::{
    Driver,
    frames::seal_hop_frame,
    letters::{Letters, letter_seconds},
    mailed::Mail,
    peers::Stored,
};
use crate::{Progress, links::LinkId, shared::Told};

/// Deposits that one turn seals for a peer.
const TURN: usize = 64;
/// What the application has committed waits so long for more before it is left for a peer that is away.
const REPORT_DELAY: Duration = Duration::from_millis(250);
/// So many frames that wait for nothing else but that report make it leave at once: a relay pushes only so many ahead.
const REPORT_AT_ONCE: usize = 16;
/// After how long a deposit is tried again that the relay has not taken, or not answered.
pub(super) const REFUSED: Duration = Duration::from_secs(30);
/// Frames that a relay has pushed and that wait for the application, of one peer: more are left to the relay. It is more than a
/// relay pushes of one depositor.
const MAX_PUSHES: usize = 256;
/// So many frames without a verdict, of one peer, make those give way that wait for a message which is not here. It is less
/// than a relay pushes of one depositor.
const CROWDED: usize = 8;
/// Deposits that wait for an answer of one relay: the oldest is given up.
const MAX_DEPOSITS: usize = 4096;
/// A relay's word on how long it keeps something is believed within these bounds.
const KEEP: (Duration, Duration) = (Duration::from_secs(60), BOX_TIME);

/// What was deposited and waits for the relay's answer.
#[derive(Debug)]
pub(super) enum Outstanding {
    Message { peer: IdentityId, id: MessageId },
    Report { peer: IdentityId, instance: Instance },
    Flight { peer: IdentityId, number: u64 },
}

/// A frame that a relay has pushed, for its verdict.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pushed {
    pub(super) hop: ChannelId,
    pub(super) number: VarInt,
}

/// Where a peer's box is, and what we have for it.
#[derive(Default)]
pub(super) struct Away {
    pub(super) mailbox: Option<Mailbox>,
    /// Since when the peer is taken to be away.
    pub(super) since: Option<Timestamp>,
    /// When the next datagram may go to see whether it is back.
    pub(super) datagram_at: Option<Timestamp>,
    /// Until when the relay takes nothing.
    pub(super) paused: Option<Timestamp>,
    /// Instances of the peer of which we have committed messages that it does not know of, and when it is to be told.
    unreported: Vec<Unreported>,
    pub(super) report_at: Option<Timestamp>,
    /// The same, on their way to the relay.
    reporting: Vec<Reporting>,
    /// The same, told on a live lane from which nothing has come back since.
    told: Vec<(Instance, Timestamp)>,
    /// Frames that were pushed, by the message that is in them.
    pushes: Vec<(MessageId, Pushed)>,
    /// To what letters to the peer are sealed.
    pub(super) letters: Letters,
    /// What of a handshake by letter is left for it.
    pub(super) mail: Mail,
}

/// An instance of which a peer is to be told.
struct Unreported {
    instance: Instance,
    /// It could not be left at a relay: frames that wait for it are not held up any longer. The peer's repetition will be
    /// answered.
    failed: bool,
}

/// A report that was deposited.
struct Reporting {
    instance: Instance,
    since: Timestamp,
    /// The number of the deposit.
    number: u64,
}

impl Away {
    /// Whether the peer is to be told of what was committed.
    pub(super) fn has_unreported(&self) -> bool {
        !self.unreported.is_empty()
    }

    fn is_reported(&self, instance: Instance) -> bool {
        let waits = self.unreported.iter().any(|unreported| unreported.instance == instance && !unreported.failed);
        !waits && !self.reporting.iter().any(|reporting| reporting.instance == instance)
    }

    fn unreported(&mut self, instance: Instance, failed: bool, at: Timestamp) {
        match self.unreported.iter_mut().find(|unreported| unreported.instance == instance) {
            Some(unreported) => unreported.failed |= failed,
            None => self.unreported.push(Unreported { instance, failed }),
        }
        self.report_at = Some(self.report_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Takes note of what was told live. Who has been heard of since has probably heard of it.
    pub(super) fn told(&mut self, now: Timestamp, instance: Instance, heard: Option<Timestamp>) {
        self.told.retain(|(told, at)| *told != instance && heard.is_none_or(|heard| heard <= *at));
        self.told.push((instance, now));
    }

    /// What was told to a peer that had gone is told again.
    fn untold(&mut self, now: Timestamp, heard: Option<Timestamp>) {
        for (instance, at) in std::mem::take(&mut self.told) {
            if heard.is_none_or(|heard| heard <= at) {
                self.unreported(instance, false, now);
            }
        }
        // What has waited to know where the peer is waits no longer.
        if !self.unreported.is_empty() {
            self.report_at = Some(now);
        }
    }
}

impl<V: Vault + Clone + 'static> Driver<V> {
    // ---- as a sender ----

    /// The way over a relay brought nothing back: what is under way is left in the peer's box.
    pub(super) fn mark_away(&mut self, now: Timestamp, id: IdentityId) {
        if self.paired.contains_key(&id) {
            return;
        }
        self.notice_return(now, id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        // What a relay says, or does not, tells nothing of who is reached without it.
        if peer.direct.way().is_some() {
            return;
        }
        if peer.away.mailbox.is_some() && peer.away.since.is_none() {
            tracing::debug!(peer = %id.short(), "away: what is for it is left at the relay");
            peer.away.since = Some(now);
            let heard = peer.channel.and_then(|channel| self.endpoint.heard_at(channel));
            peer.away.untold(now, heard);
            peer.shared.outgoing().outbox.redirect();
            peer.wake();
        }
    }

    /// Takes note of a live record that has come since the peer was taken to be away.
    pub(super) fn notice_return(&mut self, now: Timestamp, id: IdentityId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let heard = peer.channel.and_then(|channel| self.endpoint.heard_at(channel));
        if let (Some(since), Some(heard)) = (peer.away.since, heard)
            && heard > since
        {
            peer.shared.outgoing().outbox.peer_is_back(now);
            self.peer_is_here(now, id);
        }
    }

    /// The peer has a live session with us: nothing is left at the relay any more.
    pub(super) fn peer_is_here(&mut self, now: Timestamp, id: IdentityId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.away.since = None;
        peer.away.letters.met();
        peer.away.paused = None;
        peer.away.report_at = None;
        peer.wake();
        let unreported = std::mem::take(&mut peer.away.unreported).into_iter().map(|unreported| unreported.instance);
        let reporting = std::mem::take(&mut peer.away.reporting).into_iter().map(|reporting| reporting.instance);
        for instance in unreported.chain(reporting) {
            self.report_committed(now, id, instance, Told::default());
        }
        self.settle_pushes(now, id);
    }

    /// Whether what is for the peer has to be left in its box.
    pub(super) fn is_away(&mut self, id: IdentityId) -> bool {
        let Some(peer) = self.peers.get(&id) else { return false };
        let is_open = peer.channel.is_some_and(|channel| self.endpoint.is_open(channel));
        // One that we cannot call and have no live session with has to be waited for.
        let cannot_call = peer.card.is_none() && !is_open;
        let is_away = peer.away.mailbox.is_some() && (peer.away.since.is_some() || cannot_call);
        // What no relay keeps is tried live until the peer is there.
        is_away && !(is_open && peer.shared.outgoing().outbox.is_live_only())
    }

    /// The hop channel to the relay that has a box, and its dial, if we are attached there.
    fn way_to(&mut self, mailbox: Mailbox) -> Option<(usize, ChannelId)> {
        let index = self.dials.iter().position(|dial| dial.card.id() == mailbox.relay)?;
        let is_attached = self.dials[index].attachment().is_some_and(|attachment| attachment.attached);
        self.dials[index].channel.filter(|_| is_attached).map(|hop| (index, hop))
    }

    /// Leaves what is due in the box of a peer that is away.
    pub(super) fn deposit_due(&mut self, now: Timestamp, id: IdentityId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (channel, mailbox) = (peer.channel, peer.away.mailbox);
        let way = mailbox.and_then(|mailbox| self.way_to(mailbox).map(|(index, hop)| (index, hop, mailbox.name)));
        let Some((index, hop, name)) = way else { return self.block(id) };
        let session = channel.filter(|channel| self.endpoint.may_deposit(now, *channel));
        // A record needs no prekey.
        if self.due_flight(now, id).is_some_and(|flight| !flight.is_letter) {
            self.deposit_flight(now, id, (index, hop, name));
        }
        if session.is_none() && !self.may_write_letters(now, id, (index, hop, name)) {
            return;
        }
        if session.is_none() {
            self.begin_by_letter(now, id);
        }
        self.deposit_flight(now, id, (index, hop, name));
        self.deposit_reports(now, id, session, (index, hop, name));
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.away.paused.is_some_and(|until| until > now) {
            (peer.awake, peer.blocked) = (false, false);
            return;
        }
        peer.away.paused = None;
        let mut frame = std::mem::take(&mut self.scratch.inner);
        for sent in 0.. {
            let has_room = self.hop_has_room(hop);
            let Some(peer) = self.peers.get_mut(&id) else { break };
            if !has_room {
                self.block(id);
                break;
            }
            peer.blocked = false;
            if sent == TURN {
                self.common.wake.notify_one();
                break;
            }
            let shared = peer.shared.clone();
            let mut outgoing = shared.outgoing();
            let Some(message) = outgoing.outbox.poll_send(now, Lane::Stored) else {
                peer.awake = false;
                break;
            };
            let message_id = message.id;
            let deposit = Deposit::Message(Reliable {
                instance: Some(message.id.instance),
                number: message.id.number,
                lowest: message.lowest,
                unwanted: message.unwanted,
                part: message.part,
                body: message.body,
            });
            let sealed = self.seal_for_box(now, id, session, deposit, &mut frame);
            // Rounded up: 0 would mean for ever.
            let seconds = outgoing.outbox.remaining(now, message_id).map_or(0, |left| left.as_secs() + 1);
            drop(outgoing);
            let len = match sealed {
                Ok(len) => len,
                Err(error) => {
                    tracing::debug!(%error, "a message was not sealed for the relay; it waits");
                    self.block(id);
                    break;
                }
            };
            let outstanding = Outstanding::Message { peer: id, id: message_id };
            let seconds = if session.is_some() { seconds } else { letter_seconds(seconds) };
            self.deposit(now, (index, hop, name), seconds, &frame[..len], outstanding);
        }
        self.scratch.inner = frame;
    }

    fn deposit_reports(
        &mut self,
        now: Timestamp,
        id: IdentityId,
        session: Option<ChannelId>,
        way: (usize, ChannelId, BoxName),
    ) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.away.report_at.is_none_or(|at| at > now) {
            return;
        }
        peer.away.report_at = None;
        // A relay that has not answered by now has lost the question, or the answer.
        for reporting in std::mem::take(&mut peer.away.reporting) {
            if now.since(reporting.since) >= REFUSED {
                peer.away.unreported(reporting.instance, true, now);
            } else {
                peer.away.reporting.push(reporting);
            }
        }
        let mut frame = std::mem::take(&mut self.scratch.inner);
        for Unreported { instance, .. } in std::mem::take(&mut peer.away.unreported) {
            let Some(peer) = self.peers.get(&id) else { break };
            let shared = peer.shared.clone();
            let mut incoming = shared.incoming();
            let Some(committed) = incoming.inbox.committed(instance) else { continue };
            let sealed = self.seal_for_box(now, id, session, Deposit::Committed(committed), &mut frame);
            drop(incoming);
            match sealed {
                Ok(len) => {
                    let outstanding = Outstanding::Report { peer: id, instance };
                    let seconds = if session.is_some() { 0 } else { letter_seconds(0) };
                    let number = self.deposit(now, way, seconds, &frame[..len], outstanding);
                    if let (Some(number), Some(peer)) = (number, self.peers.get_mut(&id)) {
                        peer.away.reporting.push(Reporting { instance, since: now, number });
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "what was committed was not sealed for the relay; it waits");
                    if let Some(peer) = self.peers.get_mut(&id) {
                        peer.away.unreported(instance, true, now.after(REFUSED));
                    }
                }
            }
        }
        self.scratch.inner = frame;
        if let Some(peer) = self.peers.get_mut(&id) {
            let unanswered = peer.away.reporting.iter().map(|reporting| reporting.since.after(REFUSED)).min();
            peer.away.report_at = peer.away.report_at.into_iter().chain(unanswered).min();
        }
        self.settle_pushes(now, id);
    }

    /// The state of a session is written: what had to wait for that waits no longer.
    pub(super) fn may_deposit_again(&mut self, now: Timestamp, id: IdentityId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.away.paused = None;
        peer.wake();
        if !peer.away.unreported.is_empty() {
            peer.away.report_at = Some(now);
        }
    }

    /// What was committed cannot be told: frames that wait for that are done with all the same.
    pub(super) fn reports_failed(&mut self, now: Timestamp, id: IdentityId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.away.report_at = None;
        peer.away.unreported.iter_mut().for_each(|unreported| unreported.failed = true);
        self.settle_pushes(now, id);
    }

    pub(super) fn deposit(
        &mut self,
        now: Timestamp,
        (index, hop, name): (usize, ChannelId, BoxName),
        seconds: u64,
        frame: &[u8],
        outstanding: Outstanding,
    ) -> Option<u64> {
        let attachment = self.dials[index].attachment()?;
        tracing::trace!(?outstanding, octets = frame.len(), "deposit");
        let number = attachment.next_deposit;
        attachment.next_deposit += 1;
        attachment.deposits.insert(number, outstanding);
        if attachment.deposits.len() > MAX_DEPOSITS {
            attachment.deposits.pop_first();
        }
        let varint = |number| VarInt::new(number).unwrap_or(VarInt::MAX);
        let (wire_number, seconds) = (varint(number), varint(seconds));
        let route = Route::to_box(name);
        self.send_hop_frame(now, hop, &HopFrame::Deposit { number: wire_number, seconds, route, frame });
        Some(number)
    }

    /// The relay has answered a deposit.
    pub(super) fn deposit_answered(&mut self, now: Timestamp, index: usize, number: VarInt, outcome: Custody) {
        let attachment = self.dials[index].attachment();
        let Some(outstanding) = attachment.and_then(|attachment| attachment.deposits.remove(&number.get())) else {
            return;
        };
        if !matches!(outcome, Custody::Kept { .. }) {
            tracing::warn!(?outcome, "the relay has not taken what was left for a peer; it is tried again later");
        }
        match outstanding {
            Outstanding::Message { peer: id, id: message } => {
                let Some(peer) = self.peers.get_mut(&id) else { return };
                peer.awake = true;
                if let Custody::Kept { seconds } = outcome {
                    let keep = Duration::from_secs(seconds.get()).clamp(KEEP.0, KEEP.1);
                    let mut outgoing = peer.shared.outgoing();
                    let batch = outgoing.outbox.in_custody(now, message, keep);
                    if let Some(message) = outgoing.outbox.is_in_custody(message) {
                        outgoing.report(message, Progress::InCustody);
                    }
                    drop(outgoing);
                    self.write(batch, Stored::Removed);
                } else {
                    peer.shared.outgoing().outbox.not_kept(now, message, REFUSED);
                    peer.away.paused = peer.away.since.map(|_| now.after(REFUSED));
                }
            }
            Outstanding::Report { peer: id, instance } => {
                let Some(peer) = self.peers.get_mut(&id) else { return };
                let before = peer.away.reporting.len();
                peer.away.reporting.retain(|reporting| reporting.number != number.get());
                if peer.away.reporting.len() < before && !matches!(outcome, Custody::Kept { .. }) {
                    peer.away.unreported(instance, true, now.after(REFUSED));
                }
                self.settle_pushes(now, id);
            }
            Outstanding::Flight { peer, number: flight } => {
                self.flight_answered(now, peer, (number.get(), flight), outcome);
            }
        }
    }

    /// A hop session has ended: what it left unanswered is deposited again, and what it pushed comes again.
    pub(super) fn hop_lost(&mut self, now: Timestamp, index: usize, hop: ChannelId) {
        let relay = self.dials[index].card.id();
        let Some(attachment) = self.dials[index].attachment() else { return };
        attachment.next_deposit = 0;
        let questions = std::mem::take(&mut attachment.questions);
        for outstanding in std::mem::take(&mut attachment.deposits).into_values() {
            let Outstanding::Report { peer: id, instance } = outstanding else { continue };
            if let Some(peer) = self.peers.get_mut(&id) {
                // What was told live meanwhile is told.
                let before = peer.away.reporting.len();
                peer.away.reporting.retain(|reporting| reporting.instance != instance);
                if peer.away.reporting.len() < before {
                    peer.away.unreported(instance, false, now);
                }
            }
        }
        // Nobody answers any more what was asked.
        for (id, _) in questions.into_values() {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.away.letters.unanswered();
                peer.away.paused = None;
            }
        }
        for peer in self.peers.values_mut() {
            peer.away.pushes.retain(|(_, pushed)| pushed.hop != hop);
            if peer.away.mailbox.is_some_and(|mailbox| mailbox.relay == relay) {
                peer.away.mail.unanswered();
            }
        }
    }

    // ---- as a recipient ----

    /// The relay hands over a frame that it has kept.
    pub(super) fn pushed(&mut self, now: Timestamp, index: usize, pushed: Pushed, frame: &[u8]) {
        if self.is_observer {
            return self.give_verdict(now, pushed, Verdict::Later);
        }
        if Letter::is_letter(frame) {
            return self.pushed_letter(now, index, pushed, frame);
        }
        let may_be_kept = |header: RecordHeader| header.lane == Lane::Stored && header.typed;
        if !RecordHeader::decode(frame).is_ok_and(|(header, _)| may_be_kept(header)) {
            return self.give_verdict(now, pushed, Verdict::Discard(DiscardReason::Misplaced));
        }
        let claimed = self.endpoint.claimed_channel(frame).filter(|channel| !self.by_hop.contains_key(channel));
        let claimed = claimed.and_then(|channel| self.endpoint.peer(channel));
        let mut frame = frame.to_vec();
        // It came out of a box: there is no path to answer on, and records of the stored lane are not answered.
        let path = PathId(u64::MAX - index as u64);
        match self.endpoint.handle_frame(now, path, Source::proven(path.0).within(path.0 >> 48), &mut frame) {
            Ok(Received::Record { channel, record, .. }) if !self.by_hop.contains_key(&channel) => {
                let peer = self.by_channel.get(&channel).copied().or_else(|| self.endpoint.peer(channel));
                if let Some(id) = peer {
                    self.take_pushed(now, id, pushed, record, None);
                }
            }
            // START, of a session that was made by letters.
            Ok(Received::Nothing) if claimed.is_some() => {
                claimed.into_iter().for_each(|id| self.flight_came(now, id, pushed));
            }
            Ok(_) | Err(FrameError::Decode(_)) => {
                self.give_verdict(now, pushed, Verdict::Discard(DiscardReason::Protocol));
            }
            Err(FrameError::NotAdmitted) => self.give_verdict(now, pushed, Verdict::Later),
            Err(error) => {
                self.statistics.refused(&error);
                tracing::debug!(%error, "a frame that the relay has kept does not open");
                self.give_verdict(now, pushed, Verdict::Unopened);
            }
        }
    }

    /// Takes in what a frame has brought that a relay had kept. A letter was sealed to our prekey of the number `letter`.
    pub(super) fn take_pushed(
        &mut self,
        now: Timestamp,
        id: IdentityId,
        pushed: Pushed,
        record: Record<'_>,
        letter: Option<u64>,
    ) {
        match record {
            Record::Message { instance, number, .. } => {
                let message = MessageId { instance, number };
                let full = self.peers.get(&id).is_some_and(|peer| peer.away.pushes.len() >= MAX_PUSHES);
                if full {
                    return self.give_verdict(now, pushed, Verdict::Later);
                }
                self.offer(now, id);
                self.take_record(now, id, record, letter);
                if let Some(peer) = self.peers.get_mut(&id) {
                    // Another frame with the same message, or the same one under a new number: of two we keep track.
                    let mut known = peer.away.pushes.iter().filter(|(known, _)| *known == message);
                    let oldest = known.next().copied().filter(|_| known.next().is_some());
                    peer.away.pushes.retain(|pushed| Some(*pushed) != oldest);
                    peer.away.pushes.push((message, pushed));
                    if let Some((_, oldest)) = oldest {
                        self.give_verdict(now, oldest, Verdict::Later);
                    }
                }
                self.settle_pushes(now, id);
            }
            Record::Committed(committed) => {
                let Some(batch) = self.peer_committed(now, id, &committed) else { return };
                // Not before it is on disk that these messages need not be sent again.
                match &self.writer {
                    Some(writer) if !batch.is_empty() => writer.write(batch, Stored::Taken(pushed)),
                    _ => self.give_verdict(now, pushed, Verdict::Done),
                }
            }
            Record::Datagram(_) => self.give_verdict(now, pushed, Verdict::Discard(DiscardReason::Protocol)),
        }
    }

    /// Tells relays what has become of the frames that they have pushed.
    pub(super) fn settle_pushes(&mut self, now: Timestamp, id: IdentityId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let mut verdicts = Vec::new();
        let (incoming, away) = (peer.shared.incoming(), &mut peer.away);
        let inbox = &incoming.inbox;
        let pushes = std::mem::take(&mut away.pushes);
        let mut unreported = 0;
        // What they wait for may be behind them, where the relay's window ends: then they have to make room.
        let crowded = pushes.len() >= CROWDED;
        for (message, pushed) in pushes {
            match inbox.holding(message) {
                // The sender is to know it first: the relay's copy would bring it up again if we crashed in between.
                Holding::Committed if away.is_reported(message.instance) => verdicts.push((pushed, Verdict::Done)),
                Holding::Committed => {
                    unreported += 1;
                    away.pushes.push((message, pushed));
                }
                Holding::Waiting if crowded && inbox.is_blocked(message) => verdicts.push((pushed, Verdict::Later)),
                Holding::Waiting => away.pushes.push((message, pushed)),
                Holding::Nothing => verdicts.push((pushed, Verdict::Later)),
            }
        }
        drop(incoming);
        if unreported >= REPORT_AT_ONCE && away.report_at.is_some() {
            away.report_at = Some(now);
        }
        for (pushed, verdict) in verdicts {
            self.give_verdict(now, pushed, verdict);
        }
    }

    pub(super) fn give_verdict(&mut self, now: Timestamp, pushed: Pushed, verdict: Verdict) {
        tracing::trace!(?verdict, number = pushed.number.get(), "verdict");
        // If the hop session has ended, the relay pushes again in the next one.
        self.send_hop_frame(now, pushed.hop, &HopFrame::Verdict { number: pushed.number, verdict });
    }

    /// What the application has committed is to be told to the peer, over its box if it is away.
    pub(super) fn report_to_box(&mut self, now: Timestamp, id: IdentityId, instance: Instance) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.away.unreported(instance, false, now.after(REPORT_DELAY));
        }
    }

    /// What is to be told some time is told now, for there is no later.
    pub(super) fn report_at_once(&mut self, now: Timestamp) {
        for peer in self.peers.values_mut().filter(|peer| !peer.away.unreported.is_empty()) {
            peer.away.since.get_or_insert(now);
            peer.away.report_at = Some(now);
            peer.wake();
        }
    }

    // ---- as a relay ----

    pub(super) fn deposit_written(&mut self, now: Timestamp, deposit: Deposited, is_written: bool) {
        let Self { relay, endpoint, links, scratch, statistics, .. } = self;
        let Some(relay) = relay else { return };
        let mut answer = |session: SessionId, frame: &HopFrame<'_>| {
            let channel = ChannelId(session.0);
            let pushed = seal_hop_frame(now, endpoint, links, scratch, channel, frame);
            statistics.dropped_frames += u64::from(!pushed);
        };
        if is_written {
            relay.deposited(deposit, &mut answer);
        } else {
            relay.not_deposited(deposit, &mut answer);
        }
        statistics.kept_frames += u64::from(is_written);
        statistics.refused_deposits += u64::from(!is_written);
    }

    /// Deletes what has outlived its time, and reads what is to be pushed.
    pub(super) fn pump_relay(&mut self, now: Timestamp) {
        let Some(relay) = &mut self.relay else { return };
        let (expired, batch) = relay.handle_timeout(now);
        let Some(writer) = &self.writer else { return };
        self.statistics.expired_frames += u64::try_from(expired).unwrap_or(u64::MAX);
        while let Some(push) = relay.poll_push(now) {
            writer.read(Table::Custody, push.id.key(), Stored::Fetched(push));
        }
        if expired > 0 {
            tracing::info!(expired, "frames in custody have outlived their time");
            self.write(batch, Stored::Removed);
        }
    }

    pub(super) fn fetched(&mut self, now: Timestamp, push: Push, row: Result<Option<&[u8]>, StoreError>) {
        let Self { relay, endpoint, links, scratch, statistics, .. } = self;
        let Some(relay) = relay else { return };
        relay.push(now, push, row, |session, frame| {
            let pushed = seal_hop_frame(now, endpoint, links, scratch, ChannelId(session.0), frame);
            statistics.pushed_frames += u64::from(pushed);
            pushed
        });
    }

    fn hop_has_room(&mut self, hop: ChannelId) -> bool {
        let link = self.endpoint.path(hop).map(|path| LinkId(path.0));
        link.and_then(|link| self.links.get(&link)).is_some_and(|link| link.queue.has_room())
    }
}
