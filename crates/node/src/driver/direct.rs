//! The way to a peer without the relay: from socket to socket, through whatever NATs stand between.
//!
//! Both are attached to a relay over a medium on which one socket sends anywhere. The relay tells each of them where it is seen;
//! each tells the other, sealed. Then both send to each other at once, which opens their NATs, and go where an answer comes
//! from. The flow over the relay stays: what is not acknowledged goes there again as soon as the direct way does not answer.
//!
//! It is looked for while messages are exchanged, and given up when none have been for a while: a NAT is kept open by sending.

use std::{net::SocketAddr, time::Duration};

use sealway_channel::{ChannelId, PathId};
use sealway_vault::Vault;
use sealway_wire::{IdentityId, Timestamp};

use super::{Driver, dial::Dial, frames::as_flow, link::Link};
use crate::links::LinkId;

/// Who exchanges messages only for so long is not worth a direct way.
const WORTHWHILE: Duration = Duration::from_millis(500);
/// Without a message for so long the direct way is given up.
const IDLE: Duration = Duration::from_secs(120);
/// How long after a vain attempt the next one follows.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(10), Duration::from_secs(30), Duration::from_secs(60), Duration::from_secs(300)];
/// The same, after a direct way has ceased to answer, for the ways in a row that did not last.
const PAUSES_AFTER_LOSS: [Duration; 5] = [
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(300),
];
const LASTING: Duration = Duration::from_secs(60);
/// A way that answers may still lose what is longer than a question: a message that was sent on it so often, for so long, has the way
/// left, unless the peer has told of others meanwhile.
const SENDS: u32 = 3;
const STALLED: Duration = Duration::from_secs(8);
/// A peer, and a relay by what it says of us, has attempts made no more often.
const TRIAL_PAUSE: Duration = Duration::from_secs(3);
/// How often each address is asked, and how soon after the first time: the delay doubles.
const TRIES: u32 = 7;
const FIRST_TRY: Duration = Duration::from_millis(100);
/// Links to one peer beside its relay's at once, and those of which no answer has come yet, of all peers.
const MAX_LINKS: usize = 12;
const MAX_UNANSWERED: usize = 256;
/// Of those links so many are kept that have answered.
const MAX_ANSWERED: usize = 4;
/// A direct way is asked for a sign of life so long after the last one if a message was exchanged meanwhile, and otherwise. RFC 4787
/// lets a NAT forget after two minutes; many do after 30 seconds.
const CHECK: Duration = Duration::from_secs(2);
const CHECK_IDLE: Duration = Duration::from_secs(15);
/// A question that was not answered is asked again after so long, and after so many the way is given up.
const PATIENCE: Duration = Duration::from_secs(1);
const UNANSWERED: u32 = 3;
/// A peer that tries a way is asked back on it no more often.
const ASK_BACK: Duration = Duration::from_millis(250);

/// What is known of the direct way to one peer.
#[derive(Default)]
pub(super) struct Direct {
    /// When a message was last exchanged.
    used_at: Option<Timestamp>,
    /// When the peer is to be asked where it can be reached, and how often it was asked in vain.
    ask_at: Option<Timestamp>,
    asked: usize,
    /// When it has last had us try ways, by naming them and by trying one, and those that are being tried now.
    named_at: Option<Timestamp>,
    /// When we were seen elsewhere.
    moved_at: Option<Timestamp>,
    tried_at: Option<Timestamp>,
    trial: Option<Trial>,
    /// Links on which the peer was asked back lately.
    asked_back: Vec<(LinkId, Timestamp)>,
    /// The link on which we send.
    way: Option<Way>,
    /// Ways in a row that did not last, and when the next may be taken.
    losses: usize,
    not_before: Option<Timestamp>,
}

struct Trial {
    links: Vec<LinkId>,
    next: Timestamp,
    tries: u32,
}

struct Way {
    link: LinkId,
    /// Since when we send there, and when the peer has last told of messages of ours.
    since: Timestamp,
    progress_at: Timestamp,
    /// When something has last come of the peer on it.
    heard_at: Timestamp,
    check_at: Timestamp,
    unanswered: u32,
}

impl Direct {
    /// A message was sent to the peer, or has come from it.
    pub(super) fn used(&mut self, now: Timestamp) {
        self.used_at = Some(now);
        match &mut self.way {
            // What was sent may have been lost: that is found out soon.
            Some(way) if way.unanswered == 0 => way.check_at = way.check_at.min(way.heard_at.after(CHECK)),
            Some(_) => {}
            None => self.ask_at = self.ask_at.or(Some(now.after(WORTHWHILE))),
        }
    }

    fn is_used(&self, now: Timestamp) -> bool {
        self.used_at.is_some_and(|at| now.since(at) < IDLE)
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        let trial = self.trial.as_ref().map(|trial| trial.next);
        let way = self.way.as_ref().map(|way| way.check_at);
        self.ask_at.into_iter().chain(trial).chain(way).min()
    }

    /// The link on which we send, if it is one without a relay.
    pub(super) fn way(&self) -> Option<LinkId> {
        self.way.as_ref().map(|way| way.link)
    }

    /// Something of the peer has come on a link. What it says may wait behind much else, and so may what it is asked.
    pub(super) fn heard(&mut self, now: Timestamp, link: LinkId) {
        if let Some(way) = self.way.as_mut().filter(|way| way.link == link) {
            (way.heard_at, way.check_at, way.unanswered) = (now, now.after(CHECK_IDLE), 0);
        }
    }

    /// The peer tells of messages of ours that have come.
    pub(super) fn progressed(&mut self, now: Timestamp) {
        self.way.iter_mut().for_each(|way| way.progress_at = now);
    }

    /// Whether messages do not arrive on the way, although it answers: the oldest that was sent again and again is that old.
    fn is_stalled(&self, now: Timestamp, unanswered_since: Option<Timestamp>) -> bool {
        let since = self.way.as_ref().zip(unanswered_since).map(|(way, at)| at.max(way.progress_at));
        since.is_some_and(|since| now.since(since) >= STALLED)
    }

    /// The way is left because it does not answer, or has `stalled`. Returns it.
    fn lose(&mut self, now: Timestamp, stalled: bool) -> Option<Way> {
        let way = self.way.take();
        let has_lasted = way.as_ref().is_some_and(|way| now.since(way.since) >= LASTING);
        self.losses = if has_lasted { 0 } else { self.losses };
        let pause = PAUSES_AFTER_LOSS.get(self.losses).or(PAUSES_AFTER_LOSS.last()).copied().unwrap_or(IDLE);
        let at = now.after(pause);
        // It may come back at once where the network has changed. Where it came and went it is left alone for a while, whoever asks.
        self.not_before = (stalled || self.losses > 0).then_some(at);
        (self.ask_at, self.losses) = (Some(at), self.losses + 1);
        way
    }

    fn may_take_a_way(&self, now: Timestamp) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// There is no other way for the time being: this one is asked on.
    fn hold_on(&mut self, now: Timestamp) {
        self.way.iter_mut().for_each(|way| (way.unanswered, way.check_at) = (1, now.after(CHECK)));
    }

    /// The next question is due; the one after it is later.
    fn take_due_question(&mut self, now: Timestamp) -> bool {
        if self.ask_at.is_none_or(|at| at > now) {
            return false;
        }
        self.ask_at = None;
        // With the next message there is another reason to ask.
        let is_due = self.way.is_none() && self.is_used(now);
        if is_due {
            let pause = PAUSES.get(self.asked).or(PAUSES.last()).copied().unwrap_or(IDLE);
            (self.ask_at, self.asked) = (Some(now.after(pause)), self.asked + 1);
        }
        is_due
    }

    /// The links of the trial that are to be asked now.
    fn take_due_trial(&mut self, now: Timestamp) -> Vec<LinkId> {
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.next <= now) else { return Vec::new() };
        if trial.tries == TRIES {
            self.trial = None;
            return Vec::new();
        }
        trial.next = now.after(FIRST_TRY * (1 << trial.tries));
        trial.tries += 1;
        trial.links.clone()
    }

    /// Takes note that the peer has ways tried. Returns whether that is too soon after the last time.
    fn is_named_again(&mut self, now: Timestamp) -> bool {
        let is_early = self.named_at.is_some_and(|at| now.since(at) < TRIAL_PAUSE);
        if !is_early {
            self.named_at = Some(now);
        }
        is_early
    }

    /// Has ways tried, beside those that are.
    fn try_links(&mut self, now: Timestamp, links: Vec<LinkId>) {
        let before = self.trial.take().map_or_else(Vec::new, |trial| trial.links);
        let mut all = links;
        all.extend(before.into_iter().filter(|link| !all.contains(link)).collect::<Vec<_>>());
        all.truncate(MAX_LINKS);
        self.trial = (!all.is_empty()).then_some(Trial { links: all, next: now, tries: 0 });
    }

    /// The peer tries a link. Returns whether it is asked back on it now. As long as there is no way it is asked again: the answer may
    /// be lost, and the peer has no reason to try once more when it has its own.
    fn is_tried(&mut self, now: Timestamp, link: LinkId) -> bool {
        let is_early = |at: Option<Timestamp>, pause| at.is_some_and(|at| now.since(at) < pause);
        let is_known = self.trial.as_ref().is_some_and(|trial| trial.links.contains(&link));
        let may_try = self.way.is_none() && self.is_used(now) && self.may_take_a_way(now);
        if may_try && !is_known && !is_early(self.tried_at, TRIAL_PAUSE) {
            self.tried_at = Some(now);
            self.try_links(now, vec![link]);
        }
        self.asked_back.retain(|(_, at)| now.since(*at) < ASK_BACK);
        let asks_back = self.asked_back.len() < MAX_LINKS && self.asked_back.iter().all(|(asked, _)| *asked != link);
        if asks_back {
            self.asked_back.push((link, now));
        }
        asks_back
    }

    /// A new session knows nothing of the way: it has to answer anew.
    fn prove_again(&mut self, now: Timestamp) {
        if let Some(way) = self.way.take() {
            self.try_links(now, vec![way.link]);
        }
    }

    /// We are seen elsewhere.
    fn moved(&mut self, now: Timestamp) {
        self.doubt(now);
        self.asked = 0;
        let is_recent = |at: Option<Timestamp>| at.is_some_and(|at| now.since(at) < TRIAL_PAUSE);
        let pause = if is_recent(self.named_at) || is_recent(self.moved_at) { TRIAL_PAUSE } else { WORTHWHILE };
        self.moved_at = Some(now);
        self.ask_at = self.ask_at.map(|at| at.min(now.after(pause)));
    }

    /// The way may have ended.
    fn doubt(&mut self, now: Timestamp) {
        self.way.iter_mut().filter(|way| way.unanswered == 0).for_each(|way| way.check_at = now);
    }

    /// Whether something is done about the way now.
    fn take_due_check(&mut self, now: Timestamp) -> Check {
        let is_used = self.is_used(now);
        let Some(way) = self.way.as_mut().filter(|way| way.check_at <= now) else { return Check::Nothing };
        if way.unanswered >= UNANSWERED {
            return Check::Lost;
        }
        if !is_used && way.unanswered == 0 {
            return Check::Unused;
        }
        way.unanswered += 1;
        way.check_at = now.after(PATIENCE);
        Check::Ask(way.link)
    }

    /// The peer has answered on a link. Returns whether that is the one on which we send from now on.
    fn answered(&mut self, now: Timestamp, link: LinkId) -> bool {
        let may_take = self.may_take_a_way(now);
        match &mut self.way {
            Some(way) if way.link == link => {
                self.heard(now, link);
                false
            }
            // One that answers is not left.
            Some(way) if way.unanswered < UNANSWERED => false,
            None if !may_take => false,
            _ => {
                let (since, progress_at, heard_at) = (now, now, now);
                self.way =
                    Some(Way { link, since, progress_at, heard_at, check_at: now.after(CHECK_IDLE), unanswered: 0 });
                (self.trial, self.ask_at, self.asked) = (None, None, 0);
                true
            }
        }
    }
}

/// Where we can be reached, as far as we know.
#[derive(Clone, Copy)]
struct Own {
    local: Option<SocketAddr>,
    seen: SocketAddr,
}

/// What is due for a direct way.
enum Check {
    Nothing,
    Ask(LinkId),
    /// Nothing is exchanged any more.
    Unused,
    /// It does not answer.
    Lost,
}

/// Whether an address that a peer has named may be sent to: one of a kind that we have, too, and not our own.
///
/// `local` is what the machine itself says, the other what a relay says of us.
fn may_be_tried(address: SocketAddr, own: Own) -> bool {
    let ip = address.ip();
    let (is_local, is_everybody) = match ip {
        std::net::IpAddr::V4(ip) => (ip.is_link_local(), ip.is_broadcast() || ip.octets()[0] == 0),
        std::net::IpAddr::V6(ip) => (ip.is_unicast_link_local(), false),
    };
    let is_place = !ip.is_unspecified() && !ip.is_multicast() && !is_local && !is_everybody;
    // Nobody has us talk to what listens on this machine alone.
    let is_ours = !ip.is_loopback() || own.local.is_some_and(|local| local.ip().is_loopback());
    is_place && is_ours && own.local != Some(address) && own.seen != address
}

impl<V: Vault + Clone + 'static> Driver<V> {
    /// What is due for a peer.
    pub(super) fn handle_direct(&mut self, now: Timestamp, id: IdentityId) {
        let has_other = self.dial_of(id).is_some_and(|index| self.dials.get(index).is_some_and(Dial::is_attached));
        let Some(peer) = self.peers.get_mut(&id) else { return };
        // Also while the peer talks, and nothing is due: each time that a message goes again comes by here.
        if peer.direct.way().is_some() && has_other {
            let unanswered_since = peer.shared.outgoing().outbox.unanswered_since(SENDS);
            if peer.direct.is_stalled(now, unanswered_since) {
                tracing::info!(peer = %id.short(), "what is sent without the relay does not arrive");
                self.lose_direct(now, id, true);
            }
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.direct.next_timeout().is_none_or(|at| at > now) {
            return;
        }
        let Some(channel) = peer.channel.filter(|channel| self.endpoint.is_open(*channel)) else {
            return peer.direct = Direct::default();
        };
        for link in peer.direct.take_due_trial(now) {
            if self.links.contains_key(&link) {
                self.endpoint.try_path(channel, PathId(link.0));
            }
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match peer.direct.take_due_check(now) {
            Check::Nothing => {}
            Check::Ask(link) => self.endpoint.try_path(channel, PathId(link.0)),
            Check::Unused => {
                let way = peer.direct.way.take();
                self.leave_direct(now, id, way.map(|way| way.link));
            }
            Check::Lost if has_other => self.lose_direct(now, id, false),
            Check::Lost => peer.direct.hold_on(now),
        }
        if self.peers.get_mut(&id).is_some_and(|peer| peer.direct.take_due_question(now)) {
            self.tell_candidates(now, id, channel, true);
        }
    }

    /// The dial of the relay over which the flow to a peer leads.
    fn dial_of(&self, id: IdentityId) -> Option<usize> {
        self.peers.get(&id).and_then(|peer| peer.route).and_then(as_flow).map(|(index, _)| index)
    }

    fn own_candidates(&self, id: IdentityId) -> Option<Own> {
        let (branch, seen) = self.dials.get(self.dial_of(id)?)?.beside()?;
        Some(Own { local: branch.address(), seen })
    }

    /// Says over the flow, which always leads there, where we can be reached.
    fn tell_candidates(&mut self, now: Timestamp, id: IdentityId, channel: ChannelId, answer_wanted: bool) {
        let Some(Own { local, seen }) = self.own_candidates(id) else { return };
        let Some(route) = self.peers.get(&id).and_then(|peer| peer.route) else { return };
        let own: Vec<SocketAddr> = local.into_iter().filter(|local| *local != seen).chain([seen]).collect();
        // The buffers of the driver may be in use: this is said in answer to what a frame has brought.
        let mut frame = [0; 256];
        match self.endpoint.seal_candidates(now, channel, &own, answer_wanted, &mut frame) {
            Ok(outgoing) => self.transmit(now, route, &frame[..outgoing.len]),
            Err(error) => tracing::debug!(%error, "a peer is not told where it can reach us"),
        }
    }

    /// The peer says where it may be reached.
    pub(super) fn candidates_came(
        &mut self,
        now: Timestamp,
        channel: ChannelId,
        addresses: &[SocketAddr],
        wanted: bool,
    ) {
        if self.is_relayed_only {
            return;
        }
        let Some(id) = self.by_channel.get(&channel).copied() else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        // With whom nothing is exchanged, it is not told where we are, and nothing is done for it.
        if !peer.direct.is_used(now) || peer.direct.is_named_again(now) {
            return;
        }
        if wanted {
            // Who asks has no way, and may have had one.
            peer.direct.doubt(now);
            self.tell_candidates(now, id, channel, false);
        } else if peer.direct.way.is_some() {
            return;
        }
        let Some(own) = self.own_candidates(id) else { return };
        let mut links = Vec::new();
        for address in addresses.iter().filter(|address| may_be_tried(**address, own)) {
            links.extend(self.link_to(now, id, *address));
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.direct.try_links(now, links);
        }
        self.handle_direct(now, id);
    }

    /// A link to an address that a peer has named, from the socket that leads to the relay of its flow.
    fn link_to(&mut self, now: Timestamp, id: IdentityId, address: SocketAddr) -> Option<LinkId> {
        let (branch, _) = self.dials.get(self.dial_of(id)?)?.beside()?;
        let socket = branch.socket();
        let there = self.links.iter().find(|(_, link)| {
            let is_there = link.observed == Some(address) && link.leads_to.is_none_or(|to| to == id);
            is_there && link.beside == Some(socket)
        });
        if let Some((there, _)) = there {
            return Some(*there);
        }
        let is_tried = |link: &&Link| link.leads_to.is_some() && link.unproved.is_some();
        let of_peer = self.links.values().filter(|link| link.leads_to == Some(id)).count();
        if of_peer >= MAX_LINKS || self.links.values().filter(is_tried).count() >= MAX_UNANSWERED {
            return None;
        }
        let link = branch.connect(address).inspect_err(|error| tracing::debug!(%error, "no way to a peer")).ok()?;
        Some(self.add_tried_link(now, link, socket, id))
    }

    /// Whether a link may be a way to a peer: it leaves from the socket that leads to the relay of its flow, and leads to nobody else.
    fn may_lead_to(&self, link: LinkId, id: IdentityId) -> bool {
        let (Some(found), Some(index)) = (self.links.get(&link), self.dial_of(id)) else { return false };
        // Links to several relays leave from one socket where a port was asked for.
        let socket = self.dials.get(index).and_then(Dial::beside).map(|(branch, _)| branch.socket());
        let leaves_there = socket.is_some() && found.beside == socket;
        leaves_there && found.leads_to.is_none_or(|to| to == id)
    }

    /// The peer tries a way that may lead here: whether it leads there is asked on the same.
    pub(super) fn path_tried(&mut self, now: Timestamp, channel: ChannelId, path: PathId) {
        let id = self.by_channel.get(&channel).copied();
        let Some(id) = id.filter(|id| !self.is_relayed_only && self.may_lead_to(LinkId(path.0), *id)) else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.direct.is_tried(now, LinkId(path.0)) {
            self.endpoint.try_path(channel, path);
        }
    }

    /// A way leads to the peer and back.
    pub(super) fn path_answered(&mut self, now: Timestamp, channel: ChannelId, path: PathId) {
        let link = LinkId(path.0);
        let id = self.by_channel.get(&channel).copied();
        let Some(id) = id.filter(|id| self.may_lead_to(link, *id)) else { return };
        let (Some(peer), Some(found)) = (self.peers.get_mut(&id), self.links.get_mut(&link)) else { return };
        // Whoever named the address: somebody with the keys of the session is there.
        (found.has_greeted, found.leads_to) = (true, Some(id));
        if let Some(deadline) = found.unproved.take() {
            self.unproved.remove(&(deadline, link));
        }
        found.queue.set_proved();
        let before = peer.direct.way();
        let is_taken = peer.direct.answered(now, link);
        if is_taken {
            tracing::info!(peer = %id.short(), place = found.observed.map(tracing::field::display), "reached without the relay");
            self.statistics.direct_ways += 1;
            peer.wake();
            if before.is_some() {
                peer.shared.outgoing().outbox.redirect();
            }
            self.endpoint.reroute(channel, path);
        }
        let way = peer.direct.way();
        let is_kept = |(link, found): &(&LinkId, &Link)| {
            found.leads_to == Some(id) && found.unproved.is_none() && Some(**link) != way
        };
        let mut answered: Vec<LinkId> = self.links.iter().filter(is_kept).map(|(link, _)| *link).collect();
        answered.sort_unstable_by(|left, right| right.cmp(left));
        answered.into_iter().skip(MAX_ANSWERED - 1).for_each(|oldest| self.drop_link(now, oldest));
        // What waits on a way that does not answer goes on the new one.
        before.filter(|_| is_taken).into_iter().for_each(|before| self.abort_link(now, before));
    }

    /// The way does not answer, or has `stalled`: what went there and was not acknowledged goes over the relay, too.
    fn lose_direct(&mut self, now: Timestamp, id: IdentityId, stalled: bool) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        tracing::info!(peer = %id.short(), "not reached without the relay any more");
        peer.shared.outgoing().outbox.redirect();
        let way = peer.direct.lose(now, stalled);
        self.leave_direct(now, id, way.map(|way| way.link));
    }

    /// Sends over the relay again, and ends the link of the way.
    fn leave_direct(&mut self, now: Timestamp, id: IdentityId, way: Option<LinkId>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let (Some(channel), Some(route)) = (peer.channel, peer.route) {
            self.endpoint.pin_path(channel, route);
        }
        peer.wake();
        // What waits there goes over the relay now, and the address is to be free for another try.
        way.into_iter().for_each(|way| self.abort_link(now, way));
    }

    /// A link is gone: those whom it led to are sent to over the relay.
    pub(super) fn direct_link_ended(&mut self, now: Timestamp, link: LinkId) {
        let channels: Vec<_> =
            self.peers.values().filter_map(|peer| peer.route.and(Some((peer.id, peer.channel?)))).collect();
        for (id, channel) in channels {
            let is_way = self.peers.get(&id).is_some_and(|peer| peer.direct.way() == Some(link));
            if is_way || self.endpoint.path(channel) == Some(PathId(link.0)) {
                self.lose_direct(now, id, false);
            }
        }
    }

    /// Ends all links to a peer beside those of relays.
    pub(super) fn end_direct(&mut self, now: Timestamp, id: IdentityId) {
        let leads_there = self.links.iter().filter(|(_, link)| link.leads_to == Some(id)).map(|(link, _)| *link);
        let links: Vec<LinkId> = leads_there.collect();
        links.into_iter().for_each(|link| self.drop_link(now, link));
    }

    /// A new session with a peer begins on the flow, until the way has answered under it.
    pub(super) fn prove_direct(&mut self, now: Timestamp, id: IdentityId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.direct.prove_again(now);
        }
    }

    /// The relay has said where it sees us.
    pub(super) fn seen_at(&mut self, now: Timestamp, index: usize, address: SocketAddr) {
        let Some(dial) = self.dials.get_mut(index) else { return };
        let Some(before) = dial.seen(address).filter(|before| *before != Some(address)) else { return };
        tracing::debug!(%address, ?before, "where the relay sees us");
        // What was tried in vain may succeed from there, and a way from where we were may have ended.
        for peer in self.peers.values_mut() {
            let is_over = peer.route.and_then(as_flow).is_some_and(|(over, _)| over == index);
            if is_over && peer.direct.is_used(now) {
                peer.direct.moved(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn only_places_are_tried_that_may_be_the_peers() {
        // Specification: [M54].
        let [local, seen] = ["192.168.1.2:7000", "203.0.113.1:7000"].map(|text| text.parse().unwrap());
        let own = Own { local: Some(local), seen };
        let refused = [
            "0.0.0.0:1",
            "0.1.2.3:1",
            "255.255.255.255:1",
            "224.0.0.251:5353",
            "169.254.1.1:1",
            "127.0.0.1:80",
            "192.168.1.2:7000",
            "[::]:1",
            "[::1]:80",
            "[fe80::1]:1",
            "[ff02::1]:1",
        ];
        for address in addresses(&refused) {
            assert!(!may_be_tried(address, own), "{address}");
        }
        for address in addresses(&["192.168.1.2:7001", "192.168.1.3:7000", "203.0.113.1:7001", "[2001:db8::1]:1"]) {
            assert!(may_be_tried(address, own), "{address}");
        }
        // Where all is on one machine, that machine is where peers are.
        let here = "127.0.0.1:81".parse().unwrap();
        assert!(may_be_tried("127.0.0.1:80".parse().unwrap(), Own { local: Some(here), seen: here }));
        // A relay's word is not enough for that.
        assert!(!may_be_tried("127.0.0.1:80".parse().unwrap(), Own { seen: here, ..own }));
    }

    fn seconds(number: u64) -> Timestamp {
        Timestamp::from_micros(number * 1_000_000)
    }

    #[test]
    fn a_way_is_looked_for_less_and_less_while_it_is_used() {
        let mut direct = Direct::default();
        let mut asked = Vec::new();
        for second in 0..1100 {
            if second < 700 {
                direct.used(seconds(second));
            }
            if direct.take_due_question(seconds(second)) {
                asked.push(second);
            }
        }
        assert_eq!(asked, [1, 11, 41, 101, 401, 701]);
        assert_eq!(direct.next_timeout(), None, "nobody is woken for who says nothing");
    }

    #[test]
    fn a_way_on_which_anything_comes_is_not_given_up() {
        let mut direct = Direct::default();
        direct.used(seconds(0));
        direct.answered(seconds(0), LinkId(1));
        for second in 0..100 {
            direct.used(seconds(second));
            direct.heard(seconds(second), LinkId(1));
            assert!(!matches!(direct.take_due_check(seconds(second)), Check::Lost));
        }
        direct.heard(seconds(101), LinkId(2));
        let lost = (100..110).find(|second| {
            direct.used(seconds(*second));
            matches!(direct.take_due_check(seconds(*second)), Check::Lost)
        });
        assert_eq!(lost, Some(104), "another link is another link");
    }

    #[test]
    fn ways_that_come_and_go_are_taken_less_and_less() {
        let mut direct = Direct::default();
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..7 {
            let from = now;
            while !direct.answered(seconds(now), LinkId(1)) {
                now += 1;
            }
            pauses.push(now - from);
            now += 59;
            assert!(direct.lose(seconds(now), true).is_some());
        }
        assert_eq!(pauses, [0, 5, 10, 30, 60, 300, 300]);
        // One that has lasted is forgiven its end: at once if it has ended, soon if messages did not arrive.
        now += 300;
        assert!(direct.answered(seconds(now), LinkId(1)));
        now += 60;
        direct.lose(seconds(now), false);
        assert!(direct.answered(seconds(now), LinkId(1)));
    }

    #[test]
    fn the_only_way_is_asked_on() {
        let mut direct = Direct::default();
        direct.used(seconds(0));
        direct.answered(seconds(0), LinkId(1));
        direct.used(seconds(1));
        let mut asked = Vec::new();
        for second in 0..20 {
            match direct.take_due_check(seconds(second)) {
                Check::Ask(_) => asked.push(second),
                Check::Lost => direct.hold_on(seconds(second)),
                Check::Nothing | Check::Unused => {}
            }
        }
        assert_eq!(asked, [2, 3, 4, 7, 8, 11, 12, 15, 16, 19]);
        direct.heard(seconds(20), LinkId(1));
        direct.used(seconds(20));
        assert!(matches!(direct.take_due_check(seconds(22)), Check::Ask(LinkId(1))));
    }

    #[test]
    fn a_way_on_which_messages_do_not_arrive_has_stalled() {
        let mut direct = Direct::default();
        assert!(!direct.is_stalled(seconds(100), Some(seconds(0))), "there is none");
        direct.answered(seconds(10), LinkId(1));
        for second in 10..100 {
            direct.heard(seconds(second), LinkId(1));
            assert!(!direct.is_stalled(seconds(second), None));
        }
        // Sent before it was taken, or on it.
        assert!(!direct.is_stalled(seconds(17), Some(seconds(0))));
        assert!(direct.is_stalled(seconds(18), Some(seconds(0))));
        assert!(!direct.is_stalled(seconds(27), Some(seconds(20))));
        direct.progressed(seconds(25));
        assert!(!direct.is_stalled(seconds(32), Some(seconds(20))), "others arrive");
        assert!(direct.is_stalled(seconds(33), Some(seconds(20))));
    }

    #[test]
    fn a_peer_that_names_addresses_again_and_again_is_not_followed() {
        let mut direct = Direct::default();
        let named = (0..100_u64).filter(|tenth| !direct.is_named_again(Timestamp::from_micros(tenth * 100_000)));
        assert_eq!(named.count(), 4, "in ten seconds");
        direct.try_links(seconds(0), (0..100).map(LinkId).collect());
        assert_eq!(direct.take_due_trial(seconds(0)).len(), MAX_LINKS);
    }

    #[test]
    fn a_way_that_does_not_answer_is_given_up_and_one_that_is_not_used_too() {
        let mut direct = Direct::default();
        direct.used(seconds(0));
        assert!(direct.answered(seconds(0), LinkId(1)));
        assert!(!direct.answered(seconds(0), LinkId(2)), "one that answers is not left");
        direct.used(seconds(1));
        let mut lost = None;
        for second in 0..20 {
            if matches!(direct.take_due_check(seconds(second)), Check::Lost) {
                lost = lost.or(Some(second));
            }
        }
        assert_eq!(lost, Some(5), "2 s of nothing, and three questions");
        // The second way takes the place of one that was asked twice in vain.
        assert!(direct.answered(seconds(20), LinkId(2)));
        let mut left = None;
        for second in 20..400 {
            match direct.take_due_check(seconds(second)) {
                Check::Ask(link) => assert!(!direct.answered(seconds(second), link)),
                Check::Unused => left = left.or(Some(second)),
                Check::Nothing | Check::Lost => {}
            }
        }
        assert!(left.is_some_and(|left| (120..=140).contains(&left)), "{left:?}");
    }
}
