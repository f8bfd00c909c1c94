//! Deadlines, and what the endpoint has to say by itself.

use alloc::vec::Vec;

use sealway_vault::{CryptoProvider, Vault};
use sealway_wire::{
    Cid, Lane, Timestamp, VarInt,
    content::{Ack, CloseReason, Content, Ranges, Start},
};

use super::{ChannelId, Endpoint, Event, Outgoing};
use crate::{
    channel::{Asked, Due, Report},
    established::Established,
    lane::{Padding, Plaintext, Shape},
};

/// PINGs that wait for an answer, at most: on a slow way several are under way.
const PINGS: usize = 16;

impl<V: Vault + Clone + 'static> Endpoint<V> {
    /// Acts on every deadline at or before `now`.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.half_open.expire(now);
        self.handle_prekeys(now);
        let due: Vec<ChannelId> =
            self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, channel)| *channel).collect();
        for channel in due {
            self.handle_channel(now, channel);
        }
    }

    pub(super) fn handle_channel(&mut self, now: Timestamp, id: ChannelId) {
        let jitter = self.vault.provider().random().map_or(0, u64::from_be_bytes);
        let keeps = self.keeps(id);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let (peer, gone) = (channel.peer, channel.retire(now, keeps));
        self.gone(peer, keeps, gone);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let stale = channel.attempt.cid();
        match channel.handle_timeout(now, jitter) {
            Due::Nothing => {}
            Due::Begin => self.begin(now, id, jitter),
            Due::GaveUp => {
                stale.map(|cid| self.by_cid.remove(&cid));
                self.events.push_back(Event::AttemptFailed { channel: id });
            }
            Due::Unresponsive => self.events.push_back(Event::Unresponsive { channel: id }),
        }
        self.reschedule(id);
    }

    /// Writes the next frame of the handshake, START, ACK, PING or CLOSE into `out`, which has to hold 2048 octets.
    pub fn poll_transmit(&mut self, now: Timestamp, out: &mut [u8]) -> Option<Outgoing> {
        while let Some((path, frame)) = self.answers.pop_front() {
            if let Some(len) = copy(&frame, out) {
                return Some(Outgoing { path, len });
            }
        }
        while let Some((at, id)) = self.deadlines.first().copied() {
            if at > now {
                break;
            }
            if let Some(outgoing) = self.transmit_for(now, id, out) {
                self.reschedule(id);
                return Some(outgoing);
            }
            // Nothing to send: the deadline is of another kind.
            self.handle_channel(now, id);
            if self.deadlines.first() == Some(&(at, id)) {
                break;
            }
        }
        None
    }

    fn transmit_for(&mut self, now: Timestamp, id: ChannelId, out: &mut [u8]) -> Option<Outgoing> {
        let channel = self.channels.get_mut(&id)?;
        if let Some((path, frame)) = channel.attempt.due_frame(now) {
            return copy(frame, out).map(|len| Outgoing { path, len });
        }
        let provider = self.vault.provider();
        let shape = channel.shape;
        let sealed_before: Vec<VarInt> = match channel.sessions.iter().any(Established::wants_start) {
            true => {
                let cids: Vec<_> = channel.sessions.iter().map(|established| established.session.local()).collect();
                cids.into_iter().map(|cid| channel.sealed_before(cid)).collect()
            }
            false => Vec::new(),
        };
        for (index, established) in channel.sessions.iter_mut().enumerate().rev() {
            if established.start_is_due(now) {
                let stored_before = sealed_before.get(index).copied().unwrap_or(VarInt::MAX);
                let start = Start { instance: self.config.instance, stored_before, credentials: &[] };
                let plaintext = Content::Start(start);
                let sealed = established.session.seal(provider, Plaintext::Typed(&plaintext), shape, out);
                if let Ok(sealed) = sealed {
                    established.start_sent(sealed.counter);
                    let outgoing = Outgoing { path: established.take_start_path(), len: sealed.len };
                    if channel.sending == Some(established.session.local()) {
                        channel.spoke(now);
                    }
                    return Some(outgoing);
                }
            }
            // Before START has left nothing else does.
            if established.has_path_to_say() && established.unsaved == 0 && established.start_was_sent() {
                let reply = established.take_path_reply().map(|(path, octets)| (path, Content::PathReply(octets)));
                let probe = || established.take_due_probe(now).map(|(path, octets)| (path, Content::Path(octets)));
                let due = reply.or_else(probe);
                let trial = || established.take_due_trial().map(|(path, octets)| (path, Content::Path(octets)));
                if let Some((path, content)) = due.or_else(trial) {
                    // Not padded: a new path is not to get much more than has come from it.
                    let shape = Shape { padding: Padding::None, ..shape };
                    let sealed = established.session.seal(provider, Plaintext::Typed(&content), shape, out);
                    if let Ok(sealed) = sealed {
                        return Some(Outgoing { path, len: sealed.len });
                    }
                }
            }
            if established.take_due_ack(now) {
                let opened = established.session.opened().map(|opened| (Lane::Live, opened));
                // One run of the peer at a time: what is news first, else what was said last.
                let news = channel.reports.iter().position(|report| report.is_news);
                let told = news.or(channel.reports.len().checked_sub(1));
                let more = channel.reports.iter().filter(|report| report.is_news).count() > 1;
                let committed = told.and_then(|at| channel.reports.get(at)).map(Report::committed);
                if opened.is_none() && committed.is_none() {
                    continue;
                }
                let content = Content::Ack(Ack { opened, committed });
                let sealed = established.session.seal(provider, Plaintext::Typed(&content), shape, out);
                if let Ok(sealed) = sealed {
                    if let Some(report) = told.and_then(|at| channel.reports.get_mut(at)) {
                        report.is_news = false;
                    }
                    if more {
                        established.wants_ack(now, true);
                    }
                    return Some(Outgoing { path: established.path, len: sealed.len });
                }
            }
        }
        if let Some(reason) = channel.closing {
            let content = Content::Close(reason);
            let sealed = self.seal(now, id, Plaintext::Typed(&content), false, out).ok();
            self.close_now(now, id, reason);
            return sealed;
        }
        let is_asked_for = channel.ping_wanted;
        if channel.take_due_ping(now) {
            // Its counter is the next one.
            let counter = channel.current().map(|current| (current.session.local(), current.session.next_counter()));
            let outgoing = self.seal(now, id, Plaintext::Typed(&Content::Ping), true, out).ok()?;
            if let Some(channel) = self.channels.get_mut(&id).filter(|_| is_asked_for) {
                if channel.asked.len() >= PINGS {
                    channel.asked.remove(0);
                }
                channel.asked.extend(counter.map(|(cid, counter)| Asked { cid, counter, at: now }));
            }
            return Some(outgoing);
        }
        None
    }

    /// The peer has opened these records of the session `cid`. If a PING is among them, the shell is told how long the newest took.
    pub(super) fn ping_answered(&mut self, now: Timestamp, id: ChannelId, cid: Cid, opened: &Ranges) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let is_it = |asked: &Asked| {
            asked.cid == cid && opened.as_slice().iter().any(|(low, high)| (low..=high).contains(&&asked.counter))
        };
        if let Some(asked) = channel.asked.iter().rev().find(|asked| is_it(asked)) {
            self.events.push_back(Event::Answered { channel: id, after: now.since(asked.at) });
            channel.asked.clear();
        }
    }

    /// The next event. That a session is there is told only after START has left on it, which is each side's first record:
    /// drain [`poll_transmit`](Self::poll_transmit) first.
    pub fn poll_event(&mut self) -> Option<Event> {
        let mut held = Vec::new();
        let channels = &mut self.channels;
        // What waits for START, which may wait for a disk, holds back what follows of its own channel alone.
        let ready = self.events.iter().position(|event| {
            let channel = event.channel();
            let waits = matches!(event, Event::Opened { .. } | Event::Renewed { .. });
            let current = channels.get_mut(&channel).and_then(|channel| channel.current());
            if held.contains(&channel) || (waits && current.is_some_and(|current| !current.start_was_sent())) {
                held.push(channel);
                return false;
            }
            true
        });
        ready.and_then(|at| self.events.remove(at))
    }

    /// CLOSE has left: the live lanes end.
    fn close_now(&mut self, now: Timestamp, id: ChannelId, reason: CloseReason) {
        let keeps = self.keeps(id);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let last = channel.sessions.last().map(|established| established.session.local());
        let (peer, tells) = (channel.peer, channel.tells_closed);
        channel.tells_closed = false;
        let gone = last.map(|cid| channel.end_up_to(now, cid, keeps).0).unwrap_or_default();
        self.gone(peer, keeps, gone);
        self.live_lanes_ended(id);
        if tells {
            self.events.push_back(Event::Closed { channel: id, reason });
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) and [`poll_transmit`](Self::poll_transmit) want to be called next. A
    /// moment in the past means now. Read it after draining both.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let answers = (!self.answers.is_empty()).then_some(Timestamp::from_micros(0));
        let channels = self.deadlines.first().map(|(at, _)| *at);
        answers.into_iter().chain(channels).chain(self.half_open.deadline()).chain(self.prekeys.next_timeout()).min()
    }
}

fn copy(frame: &[u8], out: &mut [u8]) -> Option<usize> {
    out.get_mut(..frame.len())?.copy_from_slice(frame);
    Some(frame.len())
}
