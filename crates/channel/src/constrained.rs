//! The constrained profile, C1: two messages of 51 octets make a session, a record costs 10 to 13. For links that carry some
//! dozens of octets, and machines that have some kilobytes.
//!
//! [`Pairing`] is the machine, one for each pair of peers that share a psk. The psk ratchets with each handshake: what is
//! stolen today opens nothing of before.
//!
//! ```text
//!             call, repeat, seal                       handle_frame
//! application ─────────────────► ┌─────────────────┐ ◄──────────────── link
//!             ◄───────────────── │ Pairing         │ ────────────────►
//!             poll_event         └─────────────────┘   poll_transmit
//!                                poll_state │ ▲ written
//!                                           ▼ │
//!                                          store
//! ```
//!
//! What is made in a handshake is written before it leaves: [`poll_transmit`](Pairing::poll_transmit) and
//! [`poll_event`](Pairing::poll_event) hold back what depends on a state that has not been
//! [`written`](Pairing::written) yet. The machine has no timers of its own: whoever knows when the link may be used calls
//! [`repeat`](Pairing::repeat).
//!
//! Protocol section 11.

mod answerer;
mod caller;
mod hints;
mod incoming;
mod keys;
mod provision;
mod ratchet;
mod renewal;
mod seldom;
mod session;
mod tries;

use alloc::{boxed::Box, vec::Vec};
use core::{num::NonZeroU64, time::Duration};

use sealway_vault::{AeadKey, CryptoProvider, DhHandle, PublicKey, Secret, Vault, VaultError};
use sealway_wire::{
    Hint, IdentityId, Instance, Lane, Reader, Timestamp, VarInt,
    constrained::MAX_PLAINTEXT,
    content::{Content, Ranges, Start},
    danger::{self, Protection},
};

pub use hints::HintTable;
pub use provision::Provision;

use self::{
    answerer::Answerer,
    caller::Caller,
    keys::Keys,
    ratchet::{Chain, Parties, Psk},
    renewal::Telling,
    seldom::Seldom,
    session::{DOMAIN, Session},
    tries::Tries,
};
use crate::{
    CallError, Context, Padding, PostQuantum, Profile, Role, SendError, StateError, at_rest,
    lane::{Plaintext, Sealed, Shape},
    schedule,
    suite::MAX_CONSTRAINED,
};

/// A session is made anew after so long.
const SESSION_TIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Where nothing comes back: after so many records, or so long.
const ONE_WAY_RECORDS: u32 = 96;
/// Each so many of them are written down.
const COUNTED_RECORDS: u32 = 16;
const ONE_WAY_TIME: Duration = Duration::from_secs(24 * 60 * 60);
/// Forged records of one session after which another is wanted.
const MAX_FORGERIES: u32 = 1 << 20;
/// How long the session before is kept, once the peer is known to send on the new one.
const OVERLAP: Duration = Duration::from_secs(3 * 60);
/// Events that wait for the application; with as many no handshake is taken on.
const MAX_EVENTS: usize = 16;
/// How often it is reported that a discarded psk was used.
const REPORT_EACH: Duration = Duration::from_secs(60);

/// What two machines have in common before their first handshake.
#[derive(Clone, Debug)]
pub struct PairingKeys {
    /// Who calls: fixed for the life of the pairing. It is the constrained side.
    pub role: Role,
    /// Our identity.
    pub own: IdentityId,
    /// Our channel key.
    pub channel_key: DhHandle,
    /// The one before, if the peer may not know of the other yet: when the identity has rotated after the pairing was made. As long
    /// as [`Pairing::earlier_key`] gives it, it is needed, and the identity does not rotate once more.
    pub earlier_key: Option<DhHandle>,
    /// The peer's identity.
    pub peer: IdentityId,
    /// The peer's channel key. Whoever makes a pairing has verified that it is the peer's.
    pub peer_key: PublicKey,
    /// The first psk. Wiped by its owner once a state has been written: it opens what was sent before the first handshake.
    pub psk: Secret<32>,
    /// The psk that recovers the pairing when a side has lost its state.
    pub recovery: Secret<32>,
}

/// What is to be told to the application.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PairingEvent {
    /// The peer has a session with us.
    Opened {
        /// It was made under the recovery psk.
        recovered: bool,
    },
    /// What came with the peer's call. Whoever has stolen our channel key and the psk can forge it: enough to report upon, not
    /// to act upon. It comes once at most, and may be lost with a crash.
    Early(Vec<u8>),
    /// What came with the answer to our call.
    Reply(Vec<u8>),
    /// The caller has made a handshake under the psk with the seed in it ([`Pairing::reseed`]).
    Reseeded,
    /// The peer has another channel key: an identity payload that nobody has verified. When it was, it is for
    /// [`Pairing::accept_key`].
    Rotation(Vec<u8>),
    /// Somebody with the peer's key and psk has called while another call under this psk was answered: two devices share one
    /// key, or one has gone back to an older state.
    CloneSuspected,
    /// Somebody has used a psk that has served. Anybody can cause this who has heard the peer; it changes nothing.
    PskUsedAgain,
}

/// What a frame has brought.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConstrainedRecord<'a> {
    /// Nothing for the application.
    Nothing,
    /// Nothing for the application, but the peer repeats it until it is acknowledged.
    ToAcknowledge,
    /// One datagram of the application.
    Datagram(&'a [u8]),
    /// What a typed record carries.
    Typed(Lane, Content<'a>),
}

/// A state to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairingState {
    /// Upward from 1.
    pub version: u64,
    /// The whole state, sealed under a key that only the holder of the channel key can compute.
    pub octets: Vec<u8>,
}

/// The constrained channel of two machines.
pub struct Pairing<V: Vault + Clone + 'static> {
    vault: V,
    parties: Parties,
    state_key: Secret<32>,
    instance: Instance,
    /// Whether connection ids travel: they need not where the link names the peer.
    with_cid: bool,
    padding: Padding,
    side: Side<V::Provider>,
    /// What is sealed goes here.
    current: Option<Current<V::Provider>>,
    /// The session before; what the peer has sent on it still opens.
    previous: Option<Box<Previous<V::Provider>>>,
    version: u64,
    offered: u64,
    written: u64,
    /// Our call is to be sent, once this version has been written.
    call_due: Option<NonZeroU64>,
    start_due: bool,
    /// The counter of the START that was sent last under the present session, and whether the peer has opened one.
    start_sent: Option<u32>,
    start_is_known: bool,
    /// Mostly there is nothing to be told.
    telling: Option<Box<Telling>>,
    events: Seldom<(u64, PairingEvent)>,
    /// Under which psk a message without a hint is tried first.
    bare_turn: u16,
    tries: Tries,
}

/// The session that is sealed under.
struct Current<P: CryptoProvider> {
    session: Box<Session<P>>,
    /// The version of the state that has it.
    since: u64,
}

/// The session before.
struct Previous<P: CryptoProvider> {
    session: Box<Session<P>>,
    /// `None`: the peer is not known to send on the new one.
    until: Option<Timestamp>,
}

enum Side<P: CryptoProvider> {
    Initiator(Box<Caller>),
    Responder(Box<Answerer<P>>),
}

impl<V: Vault + Clone + 'static> Pairing<V> {
    /// A pairing of which nothing has been written yet.
    ///
    /// # Errors
    /// If the vault fails: it does not have the channel key, or the peer's key is none.
    pub fn new(vault: V, keys: PairingKeys) -> Result<Self, VaultError> {
        let provider = vault.provider().clone();
        let parties = parties(&vault, &keys)?;
        let psk = Psk::new(&provider, &parties, Chain::Ordinary, keys.psk);
        let side = match keys.role {
            Role::Initiator => Side::Initiator(Box::new(Caller::new(psk, keys.recovery))),
            Role::Responder => Side::Responder(Box::new(Answerer::new(&provider, &parties, psk, keys.recovery, 0))),
        };
        let state_key = schedule::state_key(&vault, DOMAIN, &parties.keys.newest())?;
        Self::with(vault, parties, state_key, side, None)
    }

    /// A pairing as it was last written. The psk of `keys` is not used.
    ///
    /// # Errors
    /// If the state is not of this pairing, damaged, or of another version; or the vault fails.
    pub fn restore(vault: V, keys: PairingKeys, now: Timestamp, state: &[u8]) -> Result<Self, StateError> {
        let provider = vault.provider().clone();
        let mut parties = parties(&vault, &keys)?;
        let state_key = schedule::state_key(&vault, DOMAIN, &parties.keys.newest())?;
        let open = |state_key: &Secret<32>| {
            let key = <V::Provider as CryptoProvider>::AeadKey::new(state_key);
            at_rest::open(&key, (DOMAIN, &[&parties.own.0, &parties.peer.0]), state)
        };
        // Whose channel key has changed since has written it under the one before.
        let (plaintext, has_rotated) = match (open(&state_key), parties.keys.earlier()) {
            (Err(StateError::Rejected), Some(earlier)) => {
                (open(&schedule::state_key(&vault, DOMAIN, &earlier)?)?, true)
            }
            (plaintext, _) => (plaintext?, false),
        };
        let mut reader = Reader::new(&plaintext);
        let mut previous = None;
        let flags = reader.u8("session flags")?;
        if flags & 8 != 0 {
            parties.keys.restore(&vault, has_rotated, &mut reader)?;
        } else if !has_rotated {
            parties.keys.settle(&vault)?;
        }
        let current = match flags & 1 {
            0 => None,
            _ => {
                let mut session = Box::new(Session::restore(&provider, keys.role, now, &mut reader)?);
                session.confirmed = flags & 2 != 0;
                if flags & 4 != 0 {
                    let session = Box::new(Session::restore(&provider, keys.role, now, &mut reader)?);
                    previous = Some(Box::new(Previous { session, until: None }));
                }
                Some(Current { session, since: 0 })
            }
        };
        let recovery = keys.recovery;
        let side = match keys.role {
            Role::Initiator => Side::Initiator(Box::new(Caller::restore(&vault, &parties, recovery, &mut reader)?)),
            Role::Responder => {
                Side::Responder(Box::new(Answerer::restore(&provider, &parties, recovery, now, &mut reader)?))
            }
        };
        reader.finish("state")?;
        let mut restored = Self::with(vault, parties, state_key, side, current)?;
        restored.previous = previous;
        // A restart counts once it has been written, and nothing is sealed before: the peer follows so many of them.
        if restored.current.is_some() || has_rotated {
            let version = restored.changed();
            restored.current.iter_mut().for_each(|current| current.since = version);
        }
        Ok(restored)
    }

    fn with(
        vault: V,
        parties: Parties,
        state_key: Secret<32>,
        side: Side<V::Provider>,
        current: Option<Current<V::Provider>>,
    ) -> Result<Self, VaultError> {
        let instance = Instance(vault.provider().random()?);
        Ok(Self {
            vault,
            parties,
            state_key,
            instance,
            with_cid: true,
            padding: Padding::None,
            side,
            current,
            previous: None,
            version: 0,
            offered: 0,
            written: 0,
            call_due: None,
            start_due: false,
            start_sent: None,
            start_is_known: false,
            telling: None,
            events: Seldom::new(),
            bare_turn: 0,
            tries: Tries::new(),
        })
    }

    /// Leaves connection ids out of what is sealed: for a link that names the peer by itself.
    pub const fn leave_out_cids(&mut self) {
        self.with_cid = false;
    }

    /// Reserves counters in blocks of 64, for a store that cannot go back and of which there are no copies: a microcontroller's
    /// flash, never a file. A restart then skips what is left of a block, and costs neither octets on each record nor, after
    /// some, a handshake. On the stored lane nothing is sealed after a restart. To be called at each start, before anything
    /// else; it takes effect with the next session.
    ///
    /// # Security
    /// Two machines that go on with the same state use nonces twice, and are both open then.
    pub const fn reserve_counters(&mut self) {
        self.parties.reserves_counters = true;
    }

    /// Has typed records padded.
    pub const fn set_padding(&mut self, padding: Padding) {
        self.padding = padding;
    }

    /// The peer.
    #[must_use]
    pub const fn peer(&self) -> IdentityId {
        self.parties.peer
    }

    /// The instance under which messages are numbered in this run. START tells the peer of it; on a session that was restored
    /// there is none, and each message names it.
    #[must_use]
    pub const fn instance(&self) -> Instance {
        self.instance
    }

    /// Numbers messages under an instance that the caller has drawn for this run: before anything is sent.
    pub const fn set_instance(&mut self, instance: Instance) {
        self.instance = instance;
    }

    /// Whether the peer is known to know [`instance`](Self::instance) from our START: then messages need not name it.
    #[must_use]
    pub const fn instance_is_known(&self) -> bool {
        self.start_is_known
    }

    /// Whether records can be sealed: there is a session, and the state with it is on disk.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.may_seal()
    }

    /// How the present session came to be, once the peer is known to have it.
    #[must_use]
    pub fn context(&self) -> Option<Context> {
        let current = self.current.as_ref().filter(|current| current.session.confirmed)?;
        let recovered = current.session.recovered;
        Some(Context { profile: Profile::C1, post_quantum: PostQuantum::PskChain, unclocked: false, recovered })
    }

    /// Whether a call of ours is unanswered.
    #[must_use]
    pub const fn is_calling(&self) -> bool {
        matches!(&self.side, Side::Initiator(caller) if caller.is_calling())
    }

    /// How long frames a link has to carry for handshakes, at least 51: our unanswered call is sent in the same octets, or not at
    /// all, and so is what goes with the next answer.
    #[must_use]
    pub fn handshake_len(&self) -> usize {
        let overhead = sealway_wire::constrained::HANDSHAKE_OVERHEAD;
        match &self.side {
            Side::Initiator(caller) => caller.call_len().unwrap_or(overhead),
            Side::Responder(answerer) => answerer.answer_len().max(overhead + answerer.reply.len()),
        }
    }

    /// Records sealed under the present session since the last one of the peer that opened, as far as is known.
    #[must_use]
    pub fn unanswered(&self) -> u32 {
        self.current.as_ref().map_or(0, |current| current.session.unanswered)
    }

    /// Whether [`repeat`](Self::repeat) has something to have sent once more.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        let is_unconfirmed = self.current.as_ref().is_some_and(|current| !current.session.confirmed);
        self.is_calling() || self.parties.role == Role::Initiator && is_unconfirmed || self.has_to_tell()
    }

    /// The hints under which frames of the peer may come that begin a session, or answer: by them a receiver of many peers
    /// finds the pairing before anything is computed.
    pub fn hints(&self) -> Vec<Hint> {
        match &self.side {
            Side::Initiator(caller) => caller.hints().collect(),
            Side::Responder(answerer) => answerer.hints().collect(),
        }
    }

    // ---- handshakes ----

    /// Begins a handshake; `early` goes with it, at most [`MAX_PAYLOAD`](sealway_wire::constrained::MAX_PAYLOAD) octets.
    /// It is sent once the state that [`poll_state`](Self::poll_state) gives has been written.
    ///
    /// # Errors
    /// [`CallError::NotInitiator`]; [`CallError::UnderWay`] while a call is unanswered, for there is one for each psk: it is
    /// [`repeat`](Self::repeat)ed instead.
    pub fn call(&mut self, early: &[u8]) -> Result<(), CallError> {
        let Side::Initiator(caller) = &mut self.side else { return Err(CallError::NotInitiator) };
        caller.begin(&self.vault, &self.parties, early)?;
        self.call_due = NonZeroU64::new(self.changed());
        Ok(())
    }

    /// Has what is unanswered sent once more: our call, the START of a session that the peer has not confirmed, or what it is to be
    /// told of keys. For each
    /// time that the link may be used. After eight calls every other one is a call for recovery. How often is part of the state.
    ///
    /// # Errors
    /// If the vault fails, or there are no numbers left for calls for recovery.
    pub fn repeat(&mut self, now: Timestamp) -> Result<(), CallError> {
        self.forget_previous(now);
        if let Side::Initiator(caller) = &mut self.side {
            if caller.is_calling() {
                caller.repeat(&self.vault, &self.parties)?;
                self.call_due = NonZeroU64::new(self.changed());
            }
            self.start_due |= self.current.as_ref().is_some_and(|current| !current.session.confirmed);
        }
        self.tell_again();
        Ok(())
    }

    /// Takes what goes with the next answer to a call: at most
    /// [`MAX_PAYLOAD`](sealway_wire::constrained::MAX_PAYLOAD) octets. It replaces what was there. Where the caller's address
    /// can be forged and the call is shorter, it waits for the next.
    ///
    /// # Errors
    /// [`CallError::NotResponder`]; [`CallError::TooLong`].
    pub fn set_reply(&mut self, reply: &[u8]) -> Result<(), CallError> {
        let Side::Responder(answerer) = &mut self.side else { return Err(CallError::NotResponder) };
        let limit = sealway_wire::constrained::MAX_PAYLOAD;
        if reply.len() > limit {
            return Err(CallError::TooLong { limit, got: reply.len() });
        }
        answerer.reply = reply.into();
        Ok(())
    }

    /// Has calls for recovery answered until then: for an operator who knows that the device has lost its state.
    ///
    /// [`hints`](Self::hints) are more until then.
    pub fn open_recovery(&mut self, until: Timestamp) {
        if let Side::Responder(answerer) = &mut self.side {
            answerer.open_recovery(self.vault.provider(), &self.parties, until);
        }
    }

    /// Has the next call for recovery made anew: for somebody at the device, where an earlier one can no longer be answered.
    pub fn renew_recovery(&mut self) {
        if let Side::Initiator(caller) = &mut self.side {
            caller.renew_recovery();
            self.changed();
        }
    }

    /// Whether there should be another session: the initiator then [`call`](Self::call)s. 7 days, some 2^16 records, many
    /// restarts or forgeries; where nothing comes back, 96 records or a day; and at once where a seed or another channel key waits for it.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        let Some(Current { session, .. }) = &self.current else { return true };
        session.fullest() + session.reserve() >= MAX_CONSTRAINED
            || session.is_crowded()
            || session.forgeries >= MAX_FORGERIES
            || session.unanswered >= ONE_WAY_RECORDS
            || now.since(session.since) >= SESSION_TIME
            || session.unanswered > 0 && now.since(session.heard) >= ONE_WAY_TIME
            || matches!(&self.side, Side::Initiator(caller) if caller.is_seeded() || self.parties.keys.wait_for_call())
    }

    // ---- frames ----

    /// The next frame to be sent, written to `out`, and its length. `None`: nothing is to be sent, or nothing before a state
    /// has been written.
    ///
    /// # Errors
    /// If `out` is too short for it, the source of randomness fails, or the vault has lost its key.
    pub fn poll_transmit(&mut self, out: &mut [u8]) -> Result<Option<usize>, SendError> {
        if let Some(version) = self.call_due
            && self.is_on_disk(version.get())
            && let Side::Initiator(caller) = &self.side
            && let Some(frame) = caller.frame(&self.vault, &self.parties)
        {
            let len = copy(&frame.map_err(SendError::Call)?, out)?;
            self.call_due = None;
            return Ok(Some(len));
        }
        if let Side::Responder(answerer) = &self.side
            && let Some((version, frame)) = &answerer.due
            && self.is_on_disk(*version)
        {
            let copied = copy(frame, out);
            // What does not go now is asked for again.
            if let Side::Responder(answerer) = &mut self.side {
                answerer.due = None;
            }
            return copied.map(Some);
        }
        if self.start_due && self.may_seal() {
            let start = Start { instance: self.instance, stored_before: VarInt::from_u32(0), credentials: &[] };
            let sealed = self.seal_plaintext(Lane::Live, Plaintext::Typed(&Content::Start(start)), out);
            self.start_due = matches!(sealed, Err(SendError::Buffer(_) | SendError::NotOpen));
            return match sealed {
                Ok(sealed) => {
                    // Of a START after it the ACK may tell too: then it is known a little later.
                    // The counters of an incarnation were others before: an ACK of those tells nothing.
                    let is_own = self.current.as_ref().is_some_and(|current| !current.session.is_incarnation());
                    self.start_sent = u32::try_from(sealed.counter).ok().filter(|_| is_own);
                    Ok(Some(sealed.len))
                }
                // The lane is full: it is another session that is wanted.
                // Or waits for counters to be reserved.
                Err(SendError::LaneStopped | SendError::NotOpen) => Ok(None),
                Err(error) => Err(error),
            };
        }
        self.poll_telling(out)
    }

    fn may_seal(&self) -> bool {
        self.current.as_ref().is_some_and(|current| self.is_on_disk(current.since))
    }

    /// Seals a datagram of the application for the live lane. `out` has to be longer by
    /// [`MAX_HEADER_LEN`](sealway_wire::constrained::MAX_HEADER_LEN) and 8; with padding, where it travels typed, as for
    /// [`seal`](Self::seal). Returns the record's length.
    ///
    /// # Errors
    /// [`SendError::NotOpen`] without a session, or before the state with it has been written; [`SendError::LaneStopped`]
    /// after 2^16 records; if it or `out` has the wrong length.
    pub fn seal_datagram(&mut self, body: &[u8], out: &mut [u8]) -> Result<usize, SendError> {
        if self.padding != Padding::None {
            return self.seal(Lane::Live, &Content::Data(body), out);
        }
        self.seal_plaintext(Lane::Live, Plaintext::Datagram(body), out).map(|sealed| sealed.len)
    }

    /// Seals what a typed record carries; otherwise as [`seal_datagram`](Self::seal_datagram).
    ///
    /// # Errors
    /// As [`seal_datagram`](Self::seal_datagram).
    pub fn seal(&mut self, lane: Lane, content: &Content<'_>, out: &mut [u8]) -> Result<usize, SendError> {
        self.seal_plaintext(lane, Plaintext::Typed(content), out).map(|sealed| sealed.len)
    }

    fn seal_plaintext(&mut self, lane: Lane, plaintext: Plaintext<'_>, out: &mut [u8]) -> Result<Sealed, SendError> {
        let may_seal = self.may_seal();
        let (on_disk, next) = (self.on_disk(), self.version + 1);
        let Some(current) = self.current.as_mut().filter(|_| may_seal) else { return Err(SendError::NotOpen) };
        if !self.parties.reserves_counters {
            current.session.has_copies();
        }
        current.session.grant(on_disk);
        let shape = Shape { limit: MAX_PLAINTEXT, padding: self.padding };
        let provider = self.vault.provider();
        let sealed = current.session.seal(provider, lane, self.with_cid, plaintext, shape, out)?;
        if current.session.ask(next) {
            self.changed();
            return Ok(sealed);
        }
        // How many there were survives a restart, roughly: a device that sleeps is to notice too that nothing comes back.
        if current.session.unanswered.is_multiple_of(COUNTED_RECORDS) {
            self.changed();
        }
        Ok(sealed)
    }

    /// The records of the live lane of the present session that were opened: for an ACK. `None` also while the state has not
    /// been written: after a restart we would know of less, and the peer's counters would be too short for us.
    #[must_use]
    pub fn opened(&self) -> Option<Ranges> {
        let current = self.current.as_ref().filter(|_| self.is_on_disk(self.version));
        current.and_then(|current| current.session.opened())
    }

    /// Octets that only the two ends of the present session know, expanded for `label` and `context` (RFC 8446 section 7.5
    /// has the idea). `false`: there is no session, or more than 8160 octets are asked for.
    pub fn export(&self, label: &str, context: &[u8], out: &mut [u8]) -> bool {
        let session = self.current.as_ref().map(|current| &current.session);
        session.is_some_and(|session| session.export(self.vault.provider(), label, context, out))
    }

    /// The next event, unless it depends on a state that has not been written.
    pub fn poll_event(&mut self) -> Option<PairingEvent> {
        let (version, _) = self.events.first()?;
        if !self.is_on_disk(*version) {
            return None;
        }
        self.events.take_if(|_| true).map(|(_, event)| event)
    }

    // ---- state ----

    /// Whether what depends on that version of the state may leave.
    fn is_on_disk(&self, version: u64) -> bool {
        version <= self.on_disk()
    }

    /// The last version of the state that is on disk.
    fn on_disk(&self) -> u64 {
        if danger::is_off(Protection::WriteFirst) { u64::MAX } else { self.written }
    }

    fn changed(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// The state, if it has changed since the last call: to be written durably, in one step with what the application makes
    /// of the record that has changed it. Then [`written`](Self::written), or [`not_written`](Self::not_written).
    ///
    /// # Errors
    /// If the source of randomness fails.
    pub fn poll_state(&mut self) -> Result<Option<PairingState>, VaultError> {
        if self.version == self.offered {
            return Ok(None);
        }
        let provider = self.vault.provider();
        // The peer may still send on it.
        let previous = self.previous.as_ref().filter(|previous| previous.until.is_none());
        let sessions =
            [self.current.as_ref().map(|current| &current.session), previous.map(|previous| &previous.session)];
        let session_len: usize = sessions.iter().flatten().map(|session| session.saved_len()).sum();
        let side_len = match &self.side {
            Side::Initiator(caller) => caller.saved_len(),
            Side::Responder(answerer) => answerer.saved_len(),
        };
        let keys = Some(&self.parties.keys).filter(|keys| keys.is_kept());
        let keys_len = keys.map_or(0, Keys::saved_len);
        let key = <V::Provider as CryptoProvider>::AeadKey::new(&self.state_key);
        let bound = (DOMAIN, &[&self.parties.own.0, &self.parties.peer.0][..]);
        let octets = at_rest::seal(provider, &key, bound, 1 + keys_len + session_len + side_len, |octets| {
            let confirmed = self.current.as_ref().is_some_and(|current| current.session.confirmed);
            let flags = [self.current.is_some(), confirmed, previous.is_some(), keys.is_some()];
            octets.push(flags.iter().rev().fold(0, |octet, flag| octet << 1 | u8::from(*flag)));
            if let Some(keys) = keys {
                keys.save(provider, octets);
            }
            sessions.iter().flatten().for_each(|session| session.save(octets));
            match &self.side {
                Side::Initiator(caller) => caller.save(octets),
                Side::Responder(answerer) => answerer.save(octets),
            }
        })?;
        self.offered = self.version;
        Ok(Some(PairingState { version: self.version, octets }))
    }

    /// The last state could not be written: it is given once more. Nothing that depends on it has left.
    pub const fn not_written(&mut self) {
        self.offered = self.written;
    }

    /// The state of that version, or a later one, is on disk.
    pub fn written(&mut self, version: u64) {
        self.written = self.written.max(version.min(self.offered));
    }
}

fn parties<V: Vault>(vault: &V, keys: &PairingKeys) -> Result<Parties, VaultError> {
    let channel_keys = Keys::new(vault, (keys.channel_key, keys.earlier_key), keys.peer_key)?;
    Ok(Parties::new(keys.role, keys.own, keys.peer, channel_keys))
}

fn copy(frame: &[u8], out: &mut [u8]) -> Result<usize, SendError> {
    let (needed, got) = (frame.len(), out.len());
    out.get_mut(..needed).ok_or(sealway_wire::EncodeError { needed, got })?.copy_from_slice(frame);
    Ok(needed)
}
