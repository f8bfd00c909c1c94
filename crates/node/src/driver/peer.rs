//! What the driver knows of one peer.

use std::sync::Arc;

use sealway_channel::{ChannelId, Context, PathId};
use sealway_identity::Card;
use sealway_link::Frames;
use sealway_routing::Delivery;
use sealway_wire::{IdentityId, Instance, Lane, Timestamp};
use tokio::sync::{mpsc, watch};

use super::{custody::Away, direct::Direct};
use crate::{
    handle::{Channel, Offered},
    shared::{Common, QUEUE_MESSAGES, Queue, Shared, Told},
};

/// So many committed messages, or octets that were committed or have arrived, are told at once: the peer's window is a few
/// times as much. Fewer wait for more.
const TELL_MESSAGES: usize = 64;
const TELL_OCTETS: usize = 64 * 1024;

/// One peer.
pub(super) struct Peer {
    pub(super) id: IdentityId,
    /// Outbox and inbox.
    pub(super) shared: Arc<Shared>,
    pub(super) away: Away,
    /// The prekeys of ours that the inbox knows of.
    pub(super) told_prekeys: Option<(u64, u64)>,
    pub(super) channel: Option<ChannelId>,
    /// A relay has said last that nobody is attached at its box.
    pub(super) is_absent: bool,
    pub(super) card: Option<Card>,
    /// The flow to its box.
    pub(super) route: Option<PathId>,
    /// The flow on which it has come back, if it has named no box.
    pub(super) followed: Option<PathId>,
    pub(super) direct: Direct,
    pub(super) application: Option<Application>,
    /// The handle that waits to be accepted.
    pub(super) offered: Option<Offered>,
    /// A message is being written as handed over: the next one waits, for the order.
    pub(super) handing_over: bool,
    pub(super) context: watch::Sender<Option<Context>>,
    /// Datagrams to it that are being sent, and how many of them were.
    pub(super) datagrams: Frames,
    pub(super) datagrams_sent: usize,
    /// Whether they went before messages in the last turn.
    pub(super) datagrams_first: bool,
    /// On which lane it is sent to at present.
    pub(super) lane: Lane,
    /// When to tell the peer what has arrived of a run of it and waits here, and how much of that it does not know.
    pub(super) holding: Option<(Timestamp, Instance)>,
    pub(super) arrived: usize,
    /// What was committed since the peer was told at once.
    committed: Told,
    /// There may be something to send or to hand over.
    pub(super) awake: bool,
    /// The way to the peer takes nothing just now: deadlines of the outbox have to wait for it.
    pub(super) blocked: bool,
}

/// The end of the queue to a handle.
pub(super) struct Application {
    sender: mpsc::Sender<Delivery>,
    queue: Arc<Queue>,
}

impl Application {
    pub(super) fn is_gone(&self) -> bool {
        self.sender.is_closed()
    }

    /// Hands a message over. Returns whether there is somebody to take it.
    pub(super) fn hand_over(&self, delivery: Delivery) -> bool {
        // Counted first: it may be taken at once.
        self.queue.add(delivery.body.len());
        self.sender.try_send(delivery).is_ok()
    }
}

impl Peer {
    pub(super) fn new(id: IdentityId, common: &Arc<Common>) -> Self {
        Self {
            id,
            shared: Arc::new(Shared::new(id, common.clone())),
            away: Away::default(),
            told_prekeys: None,
            channel: None,
            is_absent: false,
            card: None,
            route: None,
            followed: None,
            direct: Direct::default(),
            application: None,
            offered: None,
            handing_over: false,
            context: watch::channel(None).0,
            datagrams: Frames::new(),
            datagrams_sent: 0,
            datagrams_first: false,
            lane: Lane::Live,
            holding: None,
            arrived: 0,
            committed: Told::default(),
            awake: true,
            blocked: false,
        }
    }

    /// Tells the inbox which prekeys of ours there are, if it does not know.
    pub(super) fn tell_prekeys(&mut self, prekeys: Option<(u64, u64)>) {
        if let Some((oldest, newest)) = prekeys.filter(|_| self.told_prekeys != prekeys) {
            self.shared.incoming().inbox.set_prekeys(oldest, newest);
            self.told_prekeys = prekeys;
        }
    }

    /// A message was exchanged: a way without the relay may be of use.
    pub(super) fn was_used(&mut self, now: Timestamp) {
        if self.route.is_some() {
            self.direct.used(now);
        }
    }

    pub(super) const fn wake(&mut self) {
        self.awake = true;
        self.blocked = false;
    }

    /// The application is gone, if it is.
    pub(super) fn release(&mut self) {
        self.application.take_if(|application| application.is_gone());
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        let outgoing = self.shared.outgoing();
        let holding = self.holding.map(|(at, _)| at).into_iter().chain(self.direct.next_timeout());
        if self.blocked {
            return outgoing.outbox.next_expiry().into_iter().chain(holding).min();
        }
        let outbox = match self.away.paused {
            Some(until) => [Some(until), outgoing.outbox.next_expiry()].into_iter().flatten().min(),
            None => outgoing.outbox.poll_timeout(self.lane),
        };
        outbox.into_iter().chain(self.away.report_at).chain(self.away.mail.next).chain(holding).min()
    }

    /// A handle for an application that begins with this peer, and the runs of the peer of which it is to send again what an
    /// earlier handle was given and has not done with.
    pub(super) fn handle(&mut self) -> (Channel, Vec<Instance>) {
        let (sender, messages) = mpsc::channel(QUEUE_MESSAGES);
        let queue = Arc::new(Queue::default());
        self.application = Some(Application { sender, queue: queue.clone() });
        let rewound = self.shared.incoming().inbox.rewind();
        self.awake = true;
        (Channel::new(self.shared.clone(), messages, queue, self.context.subscribe()), rewound)
    }

    /// Whether the application takes another message now. If not, it says when it does.
    pub(super) fn can_hand_over(&self) -> bool {
        let takes = |application: &Application| !application.is_gone() && application.queue.takes();
        !self.handing_over && self.application.as_ref().is_some_and(takes)
    }

    /// Takes note of what was committed. Returns whether the peer's window waits for it, so that it is told at once.
    pub(super) const fn is_awaited(&mut self, committed: Told) -> bool {
        self.committed.messages += committed.messages;
        self.committed.octets += committed.octets;
        let is_awaited = self.committed.messages >= TELL_MESSAGES || self.committed.octets >= TELL_OCTETS;
        if is_awaited {
            self.committed = Told { messages: 0, octets: 0 };
        }
        is_awaited
    }

    /// Takes note of so many octets that have arrived and wait, and that the peer is told of by `at`. Of much it is told at
    /// once: parts of a message that have arrived make room for more of them.
    pub(super) fn has_arrived(&mut self, now: Timestamp, at: Timestamp, instance: Instance, octets: usize) {
        self.arrived += octets;
        let at = if self.arrived >= TELL_OCTETS { now } else { at };
        self.holding = Some(self.holding.filter(|(earlier, _)| *earlier <= at).unwrap_or((at, instance)));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shared.end();
    }
}
