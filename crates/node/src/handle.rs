//! What an application holds: the node, its channels, messages and receipts.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use sealway_channel::Context;
use sealway_identity::{Card, Policy};
use sealway_link::FrameLink;
use sealway_routing::{Delivery, SendOptions};
use sealway_vault::DhHandle;
use sealway_wire::{BoxName, IdentityId, MessageId};
use tokio::sync::{Mutex, OwnedSemaphorePermit, mpsc, oneshot, watch};

use crate::{
    Builder, Datagrams, HandshakePayloads, Hop, Keys, NodeError, PairedPeer, Receipt, Statistics, Stream,
    shared::{Queue, Shared},
};

/// Channels that others have opened and nobody has accepted yet.
pub(crate) const ACCEPT_QUEUE: usize = 64;
type Reply<T> = oneshot::Sender<Result<T, NodeError>>;

/// What the application asks of the driver.
pub(crate) enum Command {
    Listen {
        address: String,
        reply: Reply<String>,
    },
    Reach {
        id: IdentityId,
        address: String,
        reply: Reply<()>,
    },
    Attach {
        relay: Box<Card>,
        wait: bool,
        reply: Reply<()>,
    },
    Open {
        card: Box<Card>,
        policy: Policy,
        reply: Reply<Channel>,
    },
    Ping {
        id: IdentityId,
        reply: Reply<Duration>,
    },
    Route {
        peer: IdentityId,
        reply: Reply<Vec<Hop>>,
    },
    Accept {
        policy: Policy,
        reply: Reply<()>,
    },
    Pair {
        peer: Box<PairedPeer>,
        reply: Reply<Channel>,
    },
    Relink {
        peer: IdentityId,
        link: Box<dyn FrameLink>,
        reply: Reply<()>,
    },
    OpenRecovery {
        peer: IdentityId,
        time: Duration,
        reply: Reply<()>,
    },
    Reseed {
        peer: IdentityId,
        reply: Reply<bool>,
    },
    SetPayload {
        peer: IdentityId,
        octets: Vec<u8>,
        reply: Reply<()>,
    },
    EarlierKey {
        peer: IdentityId,
        reply: Reply<Option<DhHandle>>,
    },
    RenewRecovery {
        peer: IdentityId,
        reply: Reply<()>,
    },
    Send {
        peer: IdentityId,
        body: Vec<u8>,
        options: SendOptions,
        room: OwnedSemaphorePermit,
        reply: Reply<Receipt>,
    },
    Done {
        peer: IdentityId,
        id: MessageId,
        octets: usize,
        reply: Reply<()>,
    },
    /// There is something to send, to hand over or to tell.
    Awake {
        peer: IdentityId,
    },
    Released {
        peer: IdentityId,
    },
    Statistics {
        reply: oneshot::Sender<Statistics>,
    },
    Shutdown {
        reply: oneshot::Sender<()>,
    },
}

/// A handle that nobody has accepted yet: whoever comes first has it, who accepts or who opens the channel.
#[derive(Clone)]
pub(crate) struct Offered(Arc<std::sync::Mutex<Option<Channel>>>);

impl Offered {
    pub(crate) fn new(channel: Channel) -> Self {
        Self(Arc::new(std::sync::Mutex::new(Some(channel))))
    }

    pub(crate) fn take(&self) -> Option<Channel> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

/// A running node. Clones are the same node. When the last one is dropped, the node goes on until it is shut down, or its
/// runtime ends.
#[derive(Clone)]
pub struct Node {
    commands: mpsc::Sender<Command>,
    accepted: Arc<Mutex<mpsc::Receiver<Offered>>>,
    id: IdentityId,
    contact_box: BoxName,
}

impl Node {
    pub(crate) fn new(
        commands: mpsc::Sender<Command>,
        accepted: mpsc::Receiver<Offered>,
        id: IdentityId,
        contact_box: BoxName,
    ) -> Self {
        Self { commands, accepted: Arc::new(Mutex::new(accepted)), id, contact_box }
    }

    /// Sets a node up with the keys of a machine.
    #[must_use]
    pub fn builder<K: Keys>(keys: K) -> Builder<K::Vault> {
        let earlier_key = keys.earlier_key();
        let (vault, owner, contact_box) = keys.into_parts();
        Builder::new(vault, owner, contact_box, earlier_key)
    }

    /// The own identity.
    #[must_use]
    pub const fn id(&self) -> IdentityId {
        self.id
    }

    /// The box at each relay for those who have our card.
    #[must_use]
    pub const fn contact_box(&self) -> BoxName {
        self.contact_box
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, NodeError> {
        ask(&self.commands, command).await
    }

    /// Listens on an address, and returns it with the port that the system chose where it was 0.
    ///
    /// # Errors
    /// If the address is malformed, of no transport of this node, or cannot be had.
    pub async fn listen(&self, address: &str) -> Result<String, NodeError> {
        let address = address.to_string();
        self.ask(|reply| Command::Listen { address, reply }).await
    }

    /// Takes note of an address at which an identity can be reached from this machine, beside those of its card: a serial line, say.
    /// It is used before those, from the next connection on. Four are kept, the newest first.
    ///
    /// # Errors
    /// If the address is malformed.
    pub async fn reach(&self, id: IdentityId, address: &str) -> Result<(), NodeError> {
        let address = address.to_string();
        self.ask(|reply| Command::Reach { id, address, reply }).await
    }

    /// Lets these identities open channels to us, instead of those that the builder or the last call named, and those to whom we have
    /// opened a channel. Who is not among them any more is cut off: the sessions of channels, and clients of a relay with their
    /// links. What is in their boxes stays as long as it would have.
    ///
    /// # Errors
    /// [`NodeError::Closed`].
    pub async fn accept_only(&self, policy: Policy) -> Result<(), NodeError> {
        self.ask(|reply| Command::Accept { policy, reply }).await
    }

    /// Connects to a relay, and stays connected: a lost connection is made again, with growing delays. Returns when the
    /// relay has given us our box for the first time.
    ///
    /// Cancel-safe: the attachment goes on without the caller.
    ///
    /// # Errors
    /// If the card has no address, or the relay refuses our box. A relay that does not answer is waited for.
    pub async fn attach(&self, relay: &Card) -> Result<(), NodeError> {
        let relay = Box::new(relay.clone());
        self.ask(|reply| Command::Attach { relay, wait: true, reply }).await
    }

    /// The same without waiting: returns at once, while the first connection is being made. Channels over the relay can be
    /// opened, and what is sent on them waits.
    ///
    /// # Errors
    /// If the card has no address.
    pub async fn stay_attached(&self, relay: &Card) -> Result<(), NodeError> {
        let relay = Box::new(relay.clone());
        self.ask(|reply| Command::Attach { relay, wait: false, reply }).await
    }

    /// Opens a channel to the identity on `card`, which `policy` has to admit: through a relay of the card that this node
    /// is attached to, or else directly. Returns at once; the peer may be away. The peer is admitted to open from its side
    /// too. Where the peer was quicker, this is the handle that waited for [`Self::accept`].
    ///
    /// # Errors
    /// If the policy does not admit the card, no way leads there, or a handle exists already.
    pub async fn open(&self, card: &Card, policy: Policy) -> Result<Channel, NodeError> {
        let card = Box::new(card.clone());
        self.ask(|reply| Command::Open { card, policy, reply }).await
    }

    /// Opens the channel to a peer with whom there is a pairing of the constrained profile, over a link of its own. What the
    /// store has of the pairing goes on; its psk counts only where there is nothing yet. Returns at once; the peer may sleep.
    ///
    /// # Errors
    /// [`NodeError::NoStore`]: the psk moves on with each handshake, and has to be on disk before; if the pairing is of another
    /// identity than ours, the link's frames are too short, what is on disk cannot be read, or a handle exists already.
    pub async fn pair(&self, peer: PairedPeer) -> Result<Channel, NodeError> {
        let peer = Box::new(peer);
        self.ask(|reply| Command::Pair { peer, reply }).await
    }

    /// Gives a paired peer another link: the one before has ended, or ends now.
    ///
    /// # Errors
    /// [`NodeError::NotPaired`]; [`NodeError::Mtu`] if the link's frames are too short, also for what waits and was cut for
    /// longer ones.
    pub async fn relink(&self, peer: IdentityId, link: Box<dyn FrameLink>) -> Result<(), NodeError> {
        self.ask(|reply| Command::Relink { peer, link, reply }).await
    }

    /// Lets a paired device in, for so long, that has lost its state and calls under the recovery psk: for an operator who knows
    /// that it has.
    ///
    /// # Errors
    /// [`NodeError::NotPaired`], [`NodeError::WrongSide`].
    pub async fn open_recovery(&self, peer: IdentityId, time: Duration) -> Result<(), NodeError> {
        self.ask(|reply| Command::OpenRecovery { peer, time, reply }).await
    }

    /// Has the next call for recovery made anew: for somebody at the device, where an earlier one can no longer be answered.
    ///
    /// # Errors
    /// [`NodeError::NotPaired`], [`NodeError::WrongSide`].
    pub async fn renew_recovery(&self, peer: IdentityId) -> Result<(), NodeError> {
        self.ask(|reply| Command::RenewRecovery { peer, reply }).await
    }

    /// Has fresh octets go into the psk of a pairing, with the next handshake: what was stolen of it before is then of no use. For
    /// the side that answers; it is told until the device has it, across restarts. `false`: one is under way already.
    ///
    /// # Errors
    /// [`NodeError::NotPaired`], [`NodeError::WrongSide`], [`NodeError::Entropy`].
    pub async fn reseed(&self, peer: IdentityId) -> Result<bool, NodeError> {
        self.ask(|reply| Command::Reseed { peer, reply }).await
    }

    /// The channel key that this identity had before its last rotation, as long as a paired peer goes by it: the peer is told of
    /// the newest, and until it has made a handshake with that the identity is not to rotate again.
    ///
    /// # Errors
    /// [`NodeError::NotPaired`].
    pub async fn earlier_key(&self, peer: IdentityId) -> Result<Option<DhHandle>, NodeError> {
        self.ask(|reply| Command::EarlierKey { peer, reply }).await
    }

    /// Asks a relay that this node is attached to, or a peer with whom there is a channel, for a sign of life, again every second until
    /// there is one. Returns how long the one took that was answered: there and back, and what the two machines did meanwhile.
    ///
    /// It waits for a session, for as long as that takes: give it a time limit. Cancel-safe.
    ///
    /// # Errors
    /// [`NodeError::Closed`].
    pub async fn ping(&self, id: IdentityId) -> Result<Duration, NodeError> {
        self.ask(|reply| Command::Ping { id, reply }).await
    }

    /// The way to a peer that was opened a channel to, as it is now: the relays of its card that this node is attached to, and the
    /// peer last.
    ///
    /// # Errors
    /// [`NodeError::Closed`].
    pub async fn route(&self, peer: IdentityId) -> Result<Vec<Hop>, NodeError> {
        self.ask(|reply| Command::Route { peer, reply }).await
    }

    /// The next channel that an admitted peer has opened and that has no handle here. `None`: the node has shut down.
    ///
    /// Cancel-safe.
    pub async fn accept(&self) -> Option<Channel> {
        let mut accepted = self.accepted.lock().await;
        loop {
            let offered = accepted.recv().await?;
            // Somebody may have opened it since.
            if let Some(channel) = offered.take() {
                return Some(channel);
            }
        }
    }

    /// What the node has counted.
    ///
    /// # Errors
    /// [`NodeError::Closed`].
    pub async fn statistics(&self) -> Result<Statistics, NodeError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Statistics { reply }).await.map_err(|_| NodeError::Closed)?;
        answer.await.map_err(|_| NodeError::Closed)
    }

    /// Sends what is queued, acknowledges what was committed, writes what is to be written, and ends the node. What no
    /// peer has committed stays in the durable outbox.
    pub async fn shutdown(&self) {
        let (reply, ended) = oneshot::channel();
        if self.commands.send(Command::Shutdown { reply }).await.is_ok() {
            let _ = ended.await;
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("id", &self.id).finish_non_exhaustive()
    }
}

pub(crate) async fn ask<T>(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(Reply<T>) -> Command,
) -> Result<T, NodeError> {
    let (reply, answer) = oneshot::channel();
    commands.send(command(reply)).await.map_err(|_| NodeError::Closed)?;
    answer.await.map_err(|_| NodeError::Closed)?
}

/// The sending half of a channel.
#[derive(Clone)]
pub(crate) struct Sender {
    shared: Arc<Shared>,
}

impl Sender {
    pub(crate) async fn send_live(&self, body: Vec<u8>) -> Result<Receipt, NodeError> {
        let room = self.room_for(&body).await?;
        self.shared.send_live(body, SendOptions::default(), room)
    }

    /// The same for what is of no use to a later run of either end: no relay keeps it.
    pub(crate) async fn send_now(&self, body: Vec<u8>) -> Result<Receipt, NodeError> {
        let room = self.room_for(&body).await?;
        let mut options = SendOptions::default();
        options.live_only = true;
        self.shared.send_live(body, options, room)
    }

    /// Gives up what is not known to be committed: the peer does not wait for it. At once, so that nothing leaves in between.
    pub(crate) fn withdraw(&self, ids: impl Iterator<Item = MessageId>) {
        let mut outgoing = self.shared.outgoing();
        ids.for_each(|id| outgoing.withdraw(id));
    }

    async fn send_durably(&self, body: Vec<u8>, options: SendOptions) -> Result<Receipt, NodeError> {
        let room = self.room_for(&body).await?;
        let peer = self.shared.peer;
        ask(&self.shared.common.commands, |reply| Command::Send { peer, body, options, room, reply }).await
    }

    async fn room_for(&self, body: &[u8]) -> Result<OwnedSemaphorePermit, NodeError> {
        self.shared.room_for(body.len()).await
    }

    pub(crate) fn max_message(&self) -> usize {
        self.shared.longest()
    }
}

/// A channel to one peer. Messages are handed over in the order in which the peer has sent them.
pub struct Channel {
    shared: Arc<Shared>,
    messages: mpsc::Receiver<Delivery>,
    queue: Arc<Queue>,
    context: watch::Receiver<Option<Context>>,
}

impl Channel {
    pub(crate) const fn new(
        shared: Arc<Shared>,
        messages: mpsc::Receiver<Delivery>,
        queue: Arc<Queue>,
        context: watch::Receiver<Option<Context>>,
    ) -> Self {
        Self { shared, messages, queue, context }
    }

    pub(crate) fn sender(&self) -> Sender {
        Sender { shared: self.shared.clone() }
    }

    /// Makes octets in order of it, for both directions: what [`AsyncRead`](tokio::io::AsyncRead) and
    /// [`AsyncWrite`](tokio::io::AsyncWrite) are implemented for. The other end has to do the same. Nothing of it survives
    /// either process: an end that begins anew breaks the stream off. Messages that were sent on the channel before have to
    /// be received before.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn into_stream(self) -> Stream {
        Stream::start(self)
    }

    /// A handle for datagrams, beside the messages: what is sent once, and may be lost.
    #[must_use]
    pub fn datagrams(&self) -> Datagrams {
        Datagrams::new(self.shared.clone())
    }

    /// A handle for what goes with handshakes, where the peer is one of the constrained profile.
    #[must_use]
    pub fn handshake_payloads(&self) -> HandshakePayloads {
        HandshakePayloads::new(self.shared.clone())
    }

    /// The peer's identity.
    #[must_use]
    pub fn peer(&self) -> IdentityId {
        self.shared.peer
    }

    /// The longest message that it takes, in octets: [`MAX_MESSAGE`](crate::MAX_MESSAGE), or what the frames of a paired peer's
    /// link leave of it.
    #[must_use]
    pub fn max_message(&self) -> usize {
        self.shared.longest()
    }

    /// Waits until the channel has been open for the first time, and tells how it came to be.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`NodeError::Closed`].
    pub async fn opened(&mut self) -> Result<Context, NodeError> {
        let context = self.context.wait_for(Option::is_some).await.map_err(|_| NodeError::Closed)?;
        (*context).ok_or(NodeError::Closed)
    }

    /// Sends a message durably: when this returns, it is on disk, and it will reach the peer although either side
    /// crashes. Waits while the outbox is full.
    ///
    /// Up to 16,355 octets go in one record. A longer message goes in parts, of which lost ones are repeated, and is handed
    /// over as a whole; above 192,000 octets it waits for the peer to be there, for no relay keeps it.
    ///
    /// Cancel-safe in this sense: a call that is dropped may or may not have sent the message.
    ///
    /// # Errors
    /// [`NodeError::NoStore`], [`NodeError::Store`], [`NodeError::TooLong`] above [`max_message`](Self::max_message).
    pub async fn send(&self, body: impl Into<Vec<u8>>) -> Result<Receipt, NodeError> {
        self.send_with(body, SendOptions::default()).await
    }

    /// The same, with an end of its use, or a key under which a newer message takes its place.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_with(&self, body: impl Into<Vec<u8>>, options: SendOptions) -> Result<Receipt, NodeError> {
        self.sender().send_durably(body.into(), options).await
    }

    /// Sends a message that lives in memory alone until the peer has committed it: it is lost if this process dies.
    ///
    /// # Errors
    /// [`NodeError::TooLong`], [`NodeError::Closed`].
    pub async fn send_live(&self, body: impl Into<Vec<u8>>) -> Result<Receipt, NodeError> {
        self.sender().send_live(body.into()).await
    }

    /// Waits until the peer has committed everything that was sent to it, by this run or an earlier one. What is sent
    /// meanwhile waits too.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`NodeError::Closed`].
    pub fn flushed(&self) -> impl Future<Output = Result<(), NodeError>> + Send + use<> {
        let shared = self.shared.clone();
        async move { shared.flushed().await }
    }

    /// The next message. `None`: the channel or the node was closed.
    ///
    /// A message that is dropped without [`done`](Message::done) is handed over again after the next start.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`NodeError::Closed`].
    pub async fn recv(&mut self) -> Result<Option<Message>, NodeError> {
        let Some(delivery) = self.messages.recv().await else { return Ok(None) };
        // Nothing is awaited here, or a caller that gives up in between would lose the message.
        self.shared.taken(&self.queue, delivery.body.len());
        let context = *self.context.borrow();
        Ok(Some(Message { delivery, context, shared: self.shared.clone() }))
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // If the queue of commands is full, the driver finds the handle gone when it hands the next message over.
        let _ = self.shared.common.commands.try_send(Command::Released { peer: self.shared.peer });
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("peer", &self.shared.peer).finish_non_exhaustive()
    }
}

/// A message of the peer.
#[must_use = "a message that is not done with is handed over again"]
pub struct Message {
    delivery: Delivery,
    context: Option<Context>,
    shared: Arc<Shared>,
}

impl Message {
    /// The message itself.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.delivery.body
    }

    /// Its sender.
    #[must_use]
    pub fn peer(&self) -> IdentityId {
        self.shared.peer
    }

    /// Its id: the same however often it is handed over.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        self.delivery.id
    }

    /// Whether it may have been handed over before, by a run that ended before [`done`](Self::done).
    #[must_use]
    pub const fn redelivered(&self) -> bool {
        self.delivery.redelivered
    }

    /// Whether it has come in a letter, sealed while there was no session: whoever has stolen the private part of our prekey,
    /// which lives for two weeks, could have made it in the peer's name. Enough to report upon, not to act upon.
    #[must_use]
    pub const fn is_early(&self) -> bool {
        self.delivery.early
    }

    /// How the channel came to be.
    #[must_use]
    pub const fn context(&self) -> Option<Context> {
        self.context
    }

    /// Commits the message: when this returns, that is on disk, it will not be handed over again, and the sender is told.
    ///
    /// # Errors
    /// [`NodeError::Store`] or [`NodeError::Closed`]: it may come again after the next start.
    pub async fn done(self) -> Result<(), NodeError> {
        let (id, octets) = (self.delivery.id, self.delivery.body.len());
        if !self.shared.common.has_store {
            return self.shared.done(id, octets);
        }
        let peer = self.shared.peer;
        ask(&self.shared.common.commands, |reply| Command::Done { peer, id, octets, reply }).await
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let octets = self.delivery.body.len();
        f.debug_struct("Message").field("id", &self.delivery.id).field("octets", &octets).finish_non_exhaustive()
    }
}
