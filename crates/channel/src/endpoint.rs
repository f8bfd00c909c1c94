//! The machine: all channels of one identity.
//!
//! * [`handshake`]: the three flights, on either side.
//! * [`letter`]: what is sealed to a peer that is away, and the own prekeys.
//! * [`mailed`]: handshakes whose flights are letters.
//! * [`record`]: sealing, opening, and what typed records mean.
//! * [`state`]: what of a session survives a restart.
//! * [`output`]: deadlines, and what the endpoint has to say by itself.

mod handshake;
mod letter;
mod mailed;
mod output;
mod record;
mod state;

pub use letter::OpenedLetter;
pub use mailed::{Flight, SavedHandshake};

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet, VecDeque},
    vec::Vec,
};
use core::{net::SocketAddr, time::Duration};

use sealway_identity::{Card, Mailbox, Owner, PayloadParts, Peer, Policy};
use sealway_vault::{CryptoProvider, DhHandle, Secret, Vault, VaultError};
use sealway_wire::{
    Candidates, Cid, Frame, IdentityId, Instance, Lane, MAX_CANDIDATES, RecordHeader, Timestamp,
    content::{Ack, CloseReason, Committed, Content, Part, Reliable},
};

use crate::{
    Context, FrameError, HOP_ALLOWANCE, MAX_CONTENT, OpenError, PairingKeys, Role, SendError,
    channel::{Attempt, Channel, Report},
    expense::Expense,
    gate::GateKey,
    half_open::HalfOpenTable,
    lane::{Padding, Plaintext},
    mailed::Mailed,
    prekeys::{Prekeys, SavedPrekey},
};

/// A channel of an endpoint: to one peer, over any number of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u64);

/// A way on which frames leave: the shell numbers them as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u64);

/// Whom the limits of handshakes count against: an IPv4 address, an IPv6 /56, a label of a hop session. The shell maps them
/// to numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    pub(crate) number: u64,
    pub(crate) is_proven: bool,
    pub(crate) group: Option<u64>,
}

impl Source {
    /// A source that the medium vouches for, because what is sent there arrives: a TCP connection, a hop session.
    #[must_use]
    pub const fn proven(number: u64) -> Self {
        Self { number, is_proven: true, group: None }
    }

    /// A source that a frame merely names, as the address on a UDP datagram: anybody can put any there. Under load it has
    /// to send a cookie back before it costs anything.
    #[must_use]
    pub const fn claimed(number: u64) -> Self {
        Self { number, is_proven: false, group: None }
    }

    /// The same as one of many of which whoever is there can make as many as he likes: the flows of a hop session. They
    /// share what a responder spends on `group`, too.
    #[must_use]
    pub const fn within(self, group: u64) -> Self {
        Self { group: Some(group), ..self }
    }
}

/// What an endpoint is set up with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Who may open a channel to us. Nobody, unless named.
    pub accept: Policy,
    /// The instance under which we number our messages: random, drawn anew at each start.
    pub instance: Instance,
    /// Whether the shell writes what [`poll_saved`](Endpoint::poll_saved) gives: stored lanes then outlive their sessions
    /// and restarts, and START and ACK wait for the writes.
    pub keeps_state: bool,
    /// Whether what is written cannot go back and has no copies, as a microcontroller's flash, never a file: counters of the stored
    /// lane are then reserved in blocks of 4096, and a restart costs no octets on each record. Two machines that go on with
    /// the same state use nonces twice.
    pub reserves_counters: bool,
    /// The channel key before the present one, and until when it answers those who hold an older card.
    pub earlier_key: Option<(DhHandle, Timestamp)>,
}

impl Config {
    /// A configuration that admits nobody.
    #[must_use]
    pub const fn new(instance: Instance) -> Self {
        Self { accept: Policy::nobody(), instance, keeps_state: false, reserves_counters: false, earlier_key: None }
    }
}

/// What has happened to a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The peer has moved: a sealed exchange has confirmed the path on which its records come now, and ours leave on it.
    Moved {
        /// The channel.
        channel: ChannelId,
        /// The path.
        path: PathId,
    },
    /// A path that we [tried](Endpoint::try_path) leads to the peer and back.
    PathAnswered {
        /// The channel.
        channel: ChannelId,
        /// The path.
        path: PathId,
    },
    /// The peer tries whether a path leads to us on which our records do not leave. Only told of a channel whose path is the
    /// shell's choice: otherwise the peer is followed.
    Challenged {
        /// The channel.
        channel: ChannelId,
        /// The path.
        path: PathId,
    },
    /// The peer says where it may be reached without a relay.
    Candidates {
        /// The channel.
        channel: ChannelId,
        /// The addresses: at most [`MAX_CANDIDATES`](sealway_wire::MAX_CANDIDATES). They are the peer's word, not more.
        addresses: Vec<SocketAddr>,
        /// The peer wants to be told of ours.
        answer_wanted: bool,
    },
    /// The channel has its first session that the peer has confirmed.
    Opened {
        /// The channel.
        channel: ChannelId,
        /// The peer.
        peer: Peer,
        /// How the channel came to be.
        context: Context,
    },
    /// Sending has moved to a new session: what the peer has not committed is to be sent again.
    Renewed {
        /// The channel.
        channel: ChannelId,
        /// The peer, as it introduced itself for this session.
        peer: Peer,
    },
    /// Our handshake went unanswered. Another one begins by itself, unless the channel is closed.
    AttemptFailed {
        /// The channel.
        channel: ChannelId,
    },
    /// The peer has replaced the channel key on the card that we have: without a newer card we cannot initiate.
    CardSuperseded {
        /// The channel.
        channel: ChannelId,
    },
    /// The peer is silent, and we cannot initiate a handshake to it, or it is the other end of a hop channel: a session of its
    /// successor would know nothing of what this one was told.
    Unresponsive {
        /// The channel.
        channel: ChannelId,
    },
    /// A PING that was [asked for](Endpoint::ping) was answered: the newest of those that were.
    Answered {
        /// The channel.
        channel: ChannelId,
        /// From when it was sealed until the peer's word that it has opened it.
        after: Duration,
    },
    /// A session's state cannot be sealed for keeping: its stored lane ends with this run. The vault is at fault.
    NotKept {
        /// The channel.
        channel: ChannelId,
        /// The failure.
        error: VaultError,
    },
    /// The live lane has ended, by the peer or because it broke the protocol.
    Closed {
        /// The channel.
        channel: ChannelId,
        /// Why.
        reason: CloseReason,
    },
}

impl Event {
    pub(crate) const fn channel(&self) -> ChannelId {
        match self {
            Self::Opened { channel, .. }
            | Self::Renewed { channel, .. }
            | Self::Moved { channel, .. }
            | Self::PathAnswered { channel, .. }
            | Self::Challenged { channel, .. }
            | Self::Candidates { channel, .. }
            | Self::AttemptFailed { channel }
            | Self::CardSuperseded { channel }
            | Self::Unresponsive { channel }
            | Self::Answered { channel, .. }
            | Self::NotKept { channel, .. }
            | Self::Closed { channel, .. } => *channel,
        }
    }
}

/// What a frame has brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'f> {
    /// Nothing for the application: a part of the handshake, an acknowledgement of records, a PING.
    Nothing,
    /// The content of a record, decrypted where the frame lies.
    Record {
        /// The channel.
        channel: ChannelId,
        /// The lane.
        lane: Lane,
        /// The content.
        record: Record<'f>,
    },
}

/// Content for the application.
#[derive(Debug, PartialEq, Eq)]
pub enum Record<'f> {
    /// A datagram, which may be lost.
    Datagram(&'f [u8]),
    /// A message that the sender repeats until it is committed: it may come more than once.
    Message {
        /// The run of the sender that numbered it.
        instance: Instance,
        /// Its number.
        number: u32,
        /// The lowest number of that instance that the sender still wants committed.
        lowest: u32,
        /// How many numbers directly below this one the sender does not want either.
        unwanted: u32,
        /// Which part of a longer message it is.
        part: Option<Part>,
        /// The message, or the part.
        body: &'f [u8],
    },
    /// What the peer's application has committed.
    Committed(Committed<'f>),
}

/// What of a session has to survive a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The peer.
    pub peer: IdentityId,
    /// Our connection id of the session: with the peer, the name under which its state is kept.
    pub session: Cid,
    /// The state, sealed under a key of the vault; none: what was kept is to be deleted.
    pub state: Option<Vec<u8>>,
}

/// A stored lane that was taken back after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Its channel.
    pub channel: ChannelId,
    /// The peer.
    pub peer: IdentityId,
    /// Where frames for the peer can be left, if it has said so.
    pub mailbox: Option<Mailbox>,
}

/// What may be left for a peer that is away: harmless when repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deposit<'a> {
    /// A message.
    Message(Reliable<'a>),
    /// What the application has committed of the peer's messages.
    Committed(Committed<'a>),
}

/// A frame that was written into the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where it is to go.
    pub path: PathId,
    /// Its length in octets.
    pub len: usize,
}

/// All channels of one identity. See the crate's documentation for the order in which to call.
pub struct Endpoint<V: Vault + Clone + 'static> {
    vault: V,
    owner: Owner,
    /// Of the present channel key, and of the one before if there is one.
    gates: Vec<Gate>,
    config: Config,
    /// Boxed, for the map keeps room for several in each of its nodes.
    channels: BTreeMap<ChannelId, Box<Channel<V>>>,
    by_peer: BTreeMap<IdentityId, ChannelId>,
    by_cid: BTreeMap<Cid, ChannelId>,
    /// The highest rank of an attestation seen of each admitted identity.
    known: BTreeMap<IdentityId, (u32, u32)>,
    half_open: HalfOpenTable<V>,
    expense: Expense,
    /// Channels that wait for S1.2, by their path: S1.R does not name the one that it is for.
    first_flights: BTreeSet<(PathId, ChannelId)>,
    /// S1.2 to be sent. At most `MAX_ANSWERS`: an initiator whose answer is dropped asks again.
    answers: VecDeque<(PathId, Vec<u8>)>,
    events: VecDeque<Event>,
    deadlines: BTreeSet<(Timestamp, ChannelId)>,
    next_channel: u64,
    /// Under which state is sealed, once it was needed.
    state_key: Option<<V::Provider as CryptoProvider>::AeadKey>,
    saved: VecDeque<Saved>,
    prekeys: Prekeys,
    /// Under which prekeys are sealed for the disk, once it was needed.
    prekey_key: Option<<V::Provider as CryptoProvider>::AeadKey>,
    saved_prekeys: VecDeque<SavedPrekey>,
    /// Handshakes by letter, and the number of the next version of one.
    mailed: BTreeMap<IdentityId, Mailed>,
    saved_handshakes: VecDeque<SavedHandshake>,
    next_handshake: u64,
}

/// What S1.1 is held against for one of our channel keys.
struct Gate {
    key: DhHandle,
    gate: GateKey,
    /// When the key ceases to answer.
    until: Option<Timestamp>,
}

impl<V: Vault + Clone + 'static> Endpoint<V> {
    /// Where the private keys are.
    pub const fn vault(&self) -> &V {
        &self.vault
    }

    /// An endpoint of the identity `owner`, whose keys are in `vault`.
    #[must_use]
    pub fn new(vault: V, owner: Owner, config: Config) -> Self {
        let keys = core::iter::once((owner.channel_key(), None));
        let keys = keys.chain(config.earlier_key.map(|(key, until)| (key, Some(until))));
        let gate = |(key, until): (DhHandle, _)| Gate { gate: GateKey::new(vault.provider(), &key.0), key, until };
        let gates = keys.map(gate).collect();
        Self {
            vault,
            owner,
            gates,
            config,
            channels: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            by_cid: BTreeMap::new(),
            known: BTreeMap::new(),
            half_open: HalfOpenTable::new(),
            expense: Expense::new(),
            first_flights: BTreeSet::new(),
            answers: VecDeque::new(),
            events: VecDeque::new(),
            deadlines: BTreeSet::new(),
            next_channel: 0,
            state_key: None,
            saved: VecDeque::new(),
            prekeys: Prekeys::new(),
            prekey_key: None,
            saved_prekeys: VecDeque::new(),
            mailed: BTreeMap::new(),
            saved_handshakes: VecDeque::new(),
            next_handshake: 0,
        }
    }

    /// The own identity.
    #[must_use]
    pub const fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The primitives and the randomness.
    #[must_use]
    pub fn provider(&self) -> &V::Provider {
        self.vault.provider()
    }

    /// Half-open handshakes that others have begun.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// Admits more identities to open channels to us.
    pub fn admit(&mut self, policy: &Policy) {
        policy.admitted().for_each(|id| self.config.accept.admit(*id));
    }

    /// Has these, and nobody else, open channels to us from now on. Sessions that are there go on: who is to be cut off has to be
    /// [closed](Self::close).
    pub fn set_accepted(&mut self, policy: Policy) {
        self.config.accept = policy;
    }

    /// Whether an identity may open channels to us.
    #[must_use]
    pub fn admits(&self, id: &IdentityId) -> bool {
        self.config.accept.decide(id).is_allow()
    }

    /// The identities that may open channels to us.
    pub fn admitted(&self) -> impl Iterator<Item = &IdentityId> {
        self.config.accept.admitted()
    }

    // ---- commands ----

    /// Opens a channel to the identity on `card`, which `policy` has to admit, on `path`. `payload` is what the peer shall
    /// know of us. The handshake begins at the next [`poll_transmit`](Self::poll_transmit) and is repeated, with growing
    /// delays, until the channel opens or is forgotten.
    ///
    /// A channel to that identity that exists already is taken, with a new handshake on the new path.
    ///
    /// # Errors
    /// [`OpenError`]; nothing has changed then.
    pub fn open(
        &mut self,
        now: Timestamp,
        card: &Card,
        policy: &Policy,
        payload: PayloadParts,
        path: PathId,
    ) -> Result<ChannelId, OpenError> {
        let peer = card.id();
        if peer == self.owner.id() {
            return Err(OpenError::OwnCard);
        }
        if !policy.decide(&peer).is_allow() {
            return Err(OpenError::NotAdmitted);
        }
        let rank = card.attestation().rank();
        if self.known.get(&peer).is_some_and(|known| rank < *known) {
            return Err(OpenError::Superseded);
        }
        self.known.insert(peer, rank);
        self.config.accept.admit(peer);
        let id = self.channel_of(peer);
        if let Some(channel) = self.channels.get_mut(&id) {
            let stale = channel.attempt.cid();
            stale.map(|cid| self.by_cid.remove(&cid));
            channel.card = Some(card.clone());
            channel.payload = payload;
            channel.path = Some(path);
            // A session that goes where the shell has chosen is not disturbed.
            channel.is_pinned &= channel.sending.is_some();
            channel.attempt = Attempt::Idle;
            channel.closing = None;
            channel.wanted = true;
        }
        self.handle_channel(now, id);
        Ok(id)
    }

    /// Lets records of the channel carry 512 octets more: it carries other frames.
    pub fn set_hop_channel(&mut self, channel: ChannelId) {
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.shape.limit = MAX_CONTENT + HOP_ALLOWANCE;
            channel.is_hop = true;
        }
    }

    /// Chooses what the lengths of our records on this channel tell. What is padded is typed: a datagram costs one octet
    /// more, and is padded too.
    pub fn set_padding(&mut self, channel: ChannelId, padding: Padding) {
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.shape.padding = padding;
        }
    }

    /// Sends what follows on another path, because we have moved. If the peer moves, it is followed.
    pub fn set_path(&mut self, channel: ChannelId, path: PathId) {
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.path = Some(path);
            channel.is_pinned = false;
            channel.sessions.iter_mut().for_each(|established| established.take_path(path));
        }
    }

    /// Sends what follows on a path that the peer has named, its box for example: whatever path its records come on, until
    /// it makes another session.
    pub fn pin_path(&mut self, channel: ChannelId, path: PathId) {
        self.set_path(channel, path);
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.is_pinned = true;
        }
    }

    /// Sends what follows of this session on a path that was [tried](Self::try_path), whatever path the peer's records come on.
    /// Handshakes and other sessions go on where they went.
    pub fn reroute(&mut self, channel: ChannelId, path: PathId) {
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.is_pinned = true;
            channel.current().into_iter().for_each(|established| established.take_path(path));
        }
    }

    /// Has the peer asked on `path` whether it is there: one sealed record of at most 34 octets leaves. [`Event::PathAnswered`] tells
    /// that it has answered on the same path. Nothing happens before the channel is open, and nothing is repeated.
    pub fn try_path(&mut self, channel: ChannelId, path: PathId) {
        let provider = self.vault.provider();
        if let Some(current) = self.channels.get_mut(&channel).and_then(|channel| channel.current()) {
            current.try_path(path, || provider.random().ok());
            self.reschedule(channel);
        }
    }

    /// Seals into `out` where we may be reached without a relay: the first [`MAX_CANDIDATES`](sealway_wire::MAX_CANDIDATES) of
    /// `addresses`. `answer_wanted`: the peer is to tell us, too. It is sent once, and may be lost.
    ///
    /// # Errors
    /// If the channel is not open, or `out` has less than 256 octets.
    pub fn seal_candidates(
        &mut self,
        now: Timestamp,
        channel: ChannelId,
        addresses: &[SocketAddr],
        answer_wanted: bool,
        out: &mut [u8],
    ) -> Result<Outgoing, SendError> {
        let mut octets = [0; 19 * MAX_CANDIDATES];
        let content = Content::Candidates(Candidates::write(addresses, answer_wanted, &mut octets));
        self.seal(now, channel, Plaintext::Typed(&content), true, out)
    }

    /// Takes note that what was sent has gone unanswered for too long: a new session is made, if we can initiate one. More
    /// calls while a handshake runs or waits change nothing.
    pub fn missed_deadline(&mut self, now: Timestamp, channel: ChannelId) {
        if let Some(found) = self.channels.get_mut(&channel) {
            found.wanted |= found.can_initiate();
        }
        self.handle_channel(now, channel);
    }

    /// Under which instance the peer numbers its messages, as it has said in the newest session: another one means that it has
    /// started anew.
    #[must_use]
    pub fn peer_instance(&self, channel: ChannelId) -> Option<Instance> {
        self.channels.get(&channel)?.sessions.last()?.session.stored.peer_instance
    }

    /// Since when something was sent on the channel and nothing of the peer has opened.
    #[must_use]
    pub fn silent_since(&self, channel: ChannelId) -> Option<Timestamp> {
        self.channels.get(&channel).and_then(|channel| channel.silent_since())
    }

    /// Asks the peer for a sign of life: [`Event::Answered`] tells of it. Nothing is asked where there is no session.
    pub fn ping(&mut self, now: Timestamp, channel: ChannelId) {
        if let Some(found) = self.channels.get_mut(&channel) {
            found.ping_wanted = found.sending.is_some();
            if found.ping_wanted {
                found.spoke(now);
            }
        }
        self.reschedule(channel);
    }

    /// Ends the channel: CLOSE leaves at the next [`poll_transmit`](Self::poll_transmit), then it is forgotten.
    pub fn close(&mut self, channel: ChannelId, reason: CloseReason) {
        if let Some(found) = self.channels.get_mut(&channel) {
            found.closing = Some(reason);
        }
        self.reschedule(channel);
    }

    /// Wipes everything about a channel without a word to the peer.
    pub fn forget(&mut self, channel: ChannelId) {
        let Some(found) = self.channels.remove(&channel) else { return };
        self.by_peer.remove(&found.peer);
        found.scheduled.map(|at| self.deadlines.remove(&(at, channel)));
        found.first_flight.map(|path| self.first_flights.remove(&(path, channel)));
        found.attempt.cid().map(|cid| self.by_cid.remove(&cid));
        let keeps = self.config.keeps_state && !found.is_hop;
        let kept = found.kept.iter().map(|kept| kept.stored.local);
        let gone = found.sessions.iter().map(|established| established.session.local()).chain(kept);
        self.gone(found.peer, keeps, gone.collect());
    }

    /// Seals a datagram of the application, or a frame of a hop, into `out`.
    ///
    /// `out` has to hold the body and 23 octets more, 25 where more than 2^15 records are unacknowledged; on a padded channel
    /// twice as much, and 128 octets at least. Works in place, without allocating.
    ///
    /// # Errors
    /// [`SendError`]; nothing has changed then.
    pub fn seal_datagram(
        &mut self,
        now: Timestamp,
        channel: ChannelId,
        body: &[u8],
        out: &mut [u8],
    ) -> Result<Outgoing, SendError> {
        if self.channels.get(&channel).is_some_and(|found| found.shape.padding != Padding::None) {
            return self.seal(now, channel, Plaintext::Typed(&Content::Data(body)), true, out);
        }
        self.seal(now, channel, Plaintext::Datagram(body), true, out)
    }

    /// Seals a message that is repeated until the peer commits it, for the live lane.
    ///
    /// `out` has to hold the body and at most 50 octets more; on a padded channel as for a datagram. Works in place, without allocating.
    ///
    /// # Errors
    /// [`SendError`]; nothing has changed then.
    pub fn seal_message(
        &mut self,
        now: Timestamp,
        channel: ChannelId,
        message: Reliable<'_>,
        out: &mut [u8],
    ) -> Result<Outgoing, SendError> {
        let known = self
            .channels
            .get_mut(&channel)
            .and_then(|channel| channel.current())
            .is_some_and(|now| now.start_is_known());
        let content = Content::Reliable(self.with_instance(message, known));
        self.seal(now, channel, Plaintext::Typed(&content), true, out)
    }

    /// The instance travels only where the peer does not know it from START, or where something is said of other numbers.
    fn with_instance<'m>(&self, message: Reliable<'m>, start_is_known: bool) -> Reliable<'m> {
        let own = self.config.instance;
        let says_more = message.unwanted > 0 || message.part.is_some();
        let travels = |instance: &Instance| !start_is_known || *instance != own || says_more;
        let instance = Some(message.instance.unwrap_or(own)).filter(travels);
        Reliable { instance, ..message }
    }

    /// Seals a record on the stored lane, for a box at a relay, and returns its length. Works in place, without allocating.
    ///
    /// `out` has to hold the body of a message and at most 64 octets more; 314 for what was committed; on a padded channel as
    /// for a datagram.
    ///
    /// # Errors
    /// [`SendError::NotOpen`] if policy does not admit the peer, it is not known to have a session, or the last one is older than
    /// [`SEALING_TIME`](crate::SEALING_TIME); [`SendError::LaneStopped`] after [`MAX_STORED`](crate::MAX_STORED) records.
    pub fn seal_deposit(
        &mut self,
        now: Timestamp,
        channel: ChannelId,
        deposit: Deposit<'_>,
        out: &mut [u8],
    ) -> Result<usize, SendError> {
        self.save_failed(channel);
        let found = self.channels.get_mut(&channel).ok_or(SendError::UnknownChannel)?;
        // A session of an earlier run was admitted by that run's policy.
        if !self.config.accept.decide(&found.peer).is_allow() {
            return Err(SendError::NotOpen);
        }
        let shape = found.shape;
        let session = found.depositing(now).ok_or(SendError::NotOpen)?.local;
        let known = found.by_cid(session).is_some_and(|established| established.start_is_known());
        let content = match deposit {
            Deposit::Message(message) => Content::Reliable(self.with_instance(message, known)),
            Deposit::Committed(committed) => Content::Ack(Ack { opened: None, committed: Some(committed) }),
        };
        let found = self.channels.get_mut(&channel).ok_or(SendError::UnknownChannel)?;
        let stored = found.depositing(now).ok_or(SendError::NotOpen)?;
        let sealed = stored.seal(self.vault.provider(), now, &content, shape, out);
        if stored.wants_saving() {
            self.reserve(channel, session);
        }
        let found = self.channels.get_mut(&channel).ok_or(SendError::UnknownChannel)?;
        if sealed == Err(SendError::LaneStopped) {
            found.wanted |= found.can_initiate();
            self.reschedule(channel);
        }
        sealed
    }

    /// Whether [`seal_deposit`](Self::seal_deposit) has a session to seal under.
    #[must_use]
    pub fn may_deposit(&mut self, now: Timestamp, channel: ChannelId) -> bool {
        self.save_failed(channel);
        let Some(found) = self.channels.get_mut(&channel) else { return false };
        let is_admitted = self.config.accept.decide(&found.peer).is_allow();
        let is_full = found.depositing(now).map(|stored| stored.is_full());
        if is_full == Some(true) {
            // Another session is wanted, and what is sealed until then goes without.
            found.wanted |= found.can_initiate();
            self.reschedule(channel);
        }
        is_admitted && is_full == Some(false)
    }

    /// When a record of the live lane of the peer has opened last.
    #[must_use]
    pub fn heard_at(&self, channel: ChannelId) -> Option<Timestamp> {
        self.channels.get(&channel).and_then(|channel| channel.heard_at)
    }

    /// Has the following ACKs tell what the application has committed of the peer's messages, and what waits for it: the
    /// first of them soon, or at once if the peer's window waits for so much.
    pub fn report_committed(
        &mut self,
        now: Timestamp,
        channel: ChannelId,
        committed: &Committed<'_>,
        is_awaited: bool,
    ) {
        if let Some(found) = self.channels.get_mut(&channel) {
            found.report(now, Report::new(committed), is_awaited);
        }
        self.reschedule(channel);
    }

    /// Writes `out.len()` octets that only the two ends of the channel's session know, for `label` and `context`.
    ///
    /// # Errors
    /// [`SendError::NotOpen`], or [`SendError::TooLong`] above 8160 octets.
    pub fn export(&mut self, channel: ChannelId, label: &str, context: &[u8], out: &mut [u8]) -> Result<(), SendError> {
        let channel = self.channels.get_mut(&channel).ok_or(SendError::UnknownChannel)?;
        let current = channel.current().ok_or(SendError::NotOpen)?;
        let got = out.len();
        let written = current.session.export(self.vault.provider(), label, context, out);
        if written { Ok(()) } else { Err(SendError::TooLong { limit: 8160, got }) }
    }

    /// What a constrained pairing with the peer of the channel begins with: psk and recovery psk come from the exporter of its
    /// session, and so withstand a quantum computer that has recorded everything; the keys are those that its handshake has
    /// proved. `role` says who calls in the pairing: the constrained side.
    ///
    /// Both ends have to ask under the same session, as long as it is the newest of both: soon after it has opened. If they
    /// did not, the first call does not open.
    ///
    /// # Errors
    /// [`SendError::NotOpen`].
    pub fn pairing(&mut self, channel: ChannelId, role: Role) -> Result<PairingKeys, SendError> {
        let (own, channel_key) = (self.owner.id(), self.owner.channel_key());
        let found = self.channels.get_mut(&channel).ok_or(SendError::UnknownChannel)?;
        let attestation = *found.current().ok_or(SendError::NotOpen)?.session.peer().attestation();
        let peer = attestation.subject;
        let (caller, answerer) = if role == Role::Initiator { (own, peer) } else { (peer, own) };
        let context = [caller.0, answerer.0].concat();
        let (mut psk, mut recovery) = (Secret::zero(), Secret::zero());
        self.export(channel, "pairing psk", &context, psk.expose_mut())?;
        self.export(channel, "pairing recovery", &context, recovery.expose_mut())?;
        let peer_key = attestation.channel_key;
        Ok(PairingKeys { role, own, channel_key, earlier_key: None, peer, peer_key, psk, recovery })
    }

    /// Whether the channel has a session that the peer has confirmed.
    #[must_use]
    pub fn is_open(&self, channel: ChannelId) -> bool {
        self.channels.get(&channel).is_some_and(|channel| channel.sending.is_some())
    }

    /// The channel that a record says to be of, if there is one. Nothing of it has been verified.
    #[must_use]
    pub fn claimed_channel(&self, frame: &[u8]) -> Option<ChannelId> {
        let (header, _) = RecordHeader::decode(frame).ok()?;
        self.by_cid.get(&header.cid?).copied()
    }

    /// The path on which records of the channel leave.
    #[must_use]
    pub fn path(&mut self, channel: ChannelId) -> Option<PathId> {
        self.channels.get_mut(&channel).and_then(|channel| channel.current()).map(|established| established.path)
    }

    /// The identity at the other end.
    #[must_use]
    pub fn peer(&self, channel: ChannelId) -> Option<IdentityId> {
        self.channels.get(&channel).map(|channel| channel.peer)
    }

    // ---- input ----

    /// Handles a frame that arrived on `path`, and decrypts it in place. `path` is also where an answer to a handshake
    /// goes.
    ///
    /// # Errors
    /// [`FrameError`]: the frame has changed nothing; drop it.
    pub fn handle_frame<'f>(
        &mut self,
        now: Timestamp,
        path: PathId,
        source: Source,
        frame: &'f mut [u8],
    ) -> Result<Received<'f>, FrameError> {
        match Frame::decode(frame)? {
            Frame::Data(header, _) => self.handle_record(now, path, header, frame),
            Frame::Message1(message) => self.handle_message1(now, path, source, &message).map(|()| Received::Nothing),
            Frame::Message2(message) => self.handle_message2(now, &message).map(|()| Received::Nothing),
            Frame::Message3(message) => self.handle_message3(now, path, &message).map(|()| Received::Nothing),
            Frame::Retry(message) => self.handle_retry(now, path, &message).map(|()| Received::Nothing),
            _ => Err(FrameError::UnknownConnection),
        }
    }

    fn channel_of(&mut self, peer: IdentityId) -> ChannelId {
        if let Some(id) = self.by_peer.get(&peer) {
            return *id;
        }
        let id = ChannelId(self.next_channel);
        self.next_channel += 1;
        self.channels.insert(id, Box::new(Channel::new(peer)));
        self.by_peer.insert(peer, id);
        id
    }

    fn reschedule(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let deadline = channel.deadline();
        if deadline != channel.scheduled {
            channel.scheduled.map(|at| self.deadlines.remove(&(at, id)));
            channel.scheduled = deadline;
            self.deadlines.extend(deadline.map(|at| (at, id)));
        }
        let first_flight = channel.attempt.first_flight();
        if first_flight != channel.first_flight {
            channel.first_flight.map(|path| self.first_flights.remove(&(path, id)));
            channel.first_flight = first_flight;
            self.first_flights.extend(first_flight.map(|path| (path, id)));
        }
    }
}

impl<V: Vault + Clone + 'static> core::fmt::Debug for Endpoint<V> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Endpoint")
            .field("owner", &self.owner.id())
            .field("channels", &self.channels.len())
            .finish_non_exhaustive()
    }
}
