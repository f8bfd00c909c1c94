//! A handshake of S1 whose flights are letters, for two that are never there at once. Protocol section 12.
//!
//! ```text
//!  initiator   AwaitingMessage2 ──S1.2──► AwaitingStart ──START──► Starting ──left──► over
//!  responder   AwaitingMessage3 ──S1.3──► Starting ──a record──► over
//! ```
//!
//! It may take weeks, and restarts of both. Kept is what Noise's state is made from, never that itself: for each letter it is
//! made anew, in the same octets. What is random, encapsulation too, is drawn once.

use alloc::{boxed::Box, vec::Vec};
use core::time::Duration;

use sealway_identity::Peer;
use sealway_vault::{CryptoProvider, EntropyError, Secret};
use sealway_wire::{Cid, Reader, Reason, Timestamp, handshake::MESSAGE_1_LEN};

use crate::{StateError, at_rest, letter::DOMAIN, prekeys::PREKEY_TIME, responder::Encapsulated, stored::BOX_TIME};

/// How long a flight is answered, or waited for: as long as a letter may be on the way there, and one back.
const STAGE_TIME: Duration = BOX_TIME;
const _: () = assert!(STAGE_TIME.as_secs() >= 2 * PREKEY_TIME.as_secs(), "a letter may wait so long each way");
/// A flight that a relay has taken and that was not answered is left once more after so long, and in each run.
const REPEAT: Duration = Duration::from_secs(24 * 60 * 60);
/// Letters with first messages of one peer that are remembered. Who can repeat more of them can hold up all handshakes as well.
const MAX_SEEN: usize = 32;
/// Who goes first gives the other the way all the same when that still begins after so long, or when its own leads to nothing: the
/// other has lost what it had.
const PATIENCE: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// What was done last, and is waited for.
pub(crate) enum Stage {
    /// Our S1.1 is to be answered.
    AwaitingMessage2 {
        cid: Cid,
        /// The seed of our e.
        ephemeral: Secret<32>,
        /// The seed of our ML-KEM key.
        kem: Secret<64>,
        /// From the card.
        peer: Peer,
    },
    /// Our S1.2 is to be answered.
    AwaitingMessage3 {
        cid: Cid,
        /// The seed of our e.
        ephemeral: Secret<32>,
        encapsulated: Encapsulated,
        /// S1.1, the whole frame.
        message1: Vec<u8>,
    },
    /// The session is there, and its stored lane kept; the peer may not have S1.3.
    AwaitingStart { cid: Cid, message3: Vec<u8> },
    /// The session is there; START is to be left.
    Starting {
        cid: Cid,
        /// SHA-256 of the S1.3 that has made it, where we answered: then the peer may not have START.
        message3: Option<[u8; 32]>,
    },
}

impl Stage {
    /// Our connection id.
    pub(crate) const fn cid(&self) -> Cid {
        match self {
            Self::AwaitingMessage2 { cid, .. }
            | Self::AwaitingMessage3 { cid, .. }
            | Self::AwaitingStart { cid, .. }
            | Self::Starting { cid, .. } => *cid,
        }
    }

    /// Whether the session is there.
    pub(crate) const fn has_session(&self) -> bool {
        matches!(self, Self::AwaitingStart { .. } | Self::Starting { .. })
    }

    fn encode(&self, state: &mut Vec<u8>) {
        match self {
            Self::AwaitingMessage2 { cid, ephemeral, kem, peer } => {
                state.push(1);
                state.extend_from_slice(&cid.0);
                state.extend_from_slice(ephemeral.expose());
                state.extend_from_slice(kem.expose());
                state.extend_from_slice(&peer.to_saved());
            }
            Self::AwaitingMessage3 { cid, ephemeral, encapsulated, message1 } => {
                state.push(2);
                state.extend_from_slice(&cid.0);
                state.extend_from_slice(ephemeral.expose());
                state.extend_from_slice(encapsulated.shared.expose());
                state.extend_from_slice(&encapsulated.ciphertext);
                state.extend_from_slice(message1);
            }
            Self::AwaitingStart { cid, message3 } => {
                state.push(3);
                state.extend_from_slice(&cid.0);
                state.extend_from_slice(message3);
            }
            Self::Starting { cid, message3: None } => {
                state.push(4);
                state.extend_from_slice(&cid.0);
            }
            Self::Starting { cid, message3: Some(message3) } => {
                state.push(5);
                state.extend_from_slice(&cid.0);
                state.extend_from_slice(message3);
            }
        }
    }

    fn encoded_len(&self) -> usize {
        1 + Cid::LEN
            + match self {
                Self::AwaitingMessage2 { peer, .. } => 32 + 64 + peer.to_saved().len(),
                Self::AwaitingMessage3 { encapsulated, message1, .. } => {
                    32 + 32 + encapsulated.ciphertext.len() + message1.len()
                }
                Self::AwaitingStart { message3, .. } => message3.len(),
                Self::Starting { message3, .. } => message3.map_or(0, |message3| message3.len()),
            }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        let kind = reader.u8("handshake stage")?;
        let cid = Cid(reader.array("handshake CID")?);
        Ok(match kind {
            1 => {
                let ephemeral = Secret::new(reader.array("handshake ephemeral key")?);
                let kem = Secret::new(reader.array("handshake ML-KEM seed")?);
                Self::AwaitingMessage2 { cid, ephemeral, kem, peer: Peer::from_saved(reader.rest())? }
            }
            2 => {
                let ephemeral = Secret::new(reader.array("handshake ephemeral key")?);
                let shared = Secret::new(reader.array("handshake shared secret")?);
                let ciphertext = reader.array("handshake ciphertext")?;
                let message1 = reader.take("handshake S1.1", MESSAGE_1_LEN)?.to_vec();
                Self::AwaitingMessage3 { cid, ephemeral, encapsulated: Encapsulated { ciphertext, shared }, message1 }
            }
            3 => Self::AwaitingStart { cid, message3: reader.rest().to_vec() },
            4 => Self::Starting { cid, message3: None },
            5 => Self::Starting { cid, message3: Some(reader.array("handshake S1.3")?) },
            value => {
                let reason = Reason::Unknown { value: value.into() };
                return Err(sealway_wire::DecodeError::new("handshake stage", reason).into());
            }
        })
    }
}

/// A letter that has brought a first message: it can come again as long as its prekey is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The place of the prekey among ours.
    pub(crate) prekey: u64,
    /// The first half of the SHA-256 of the letter's Noise message.
    pub(crate) letter: [u8; 16],
}

impl Seen {
    const LEN: usize = 8 + 16;
}

/// By what a letter or a first message is recognised when it comes again.
pub(crate) fn half(hash: &[u8; 32]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    half
}

/// What there is of handshakes by letter with one peer: one at a time.
#[derive(Default)]
pub(crate) struct Mailed {
    stage: Option<Box<Stage>>,
    since: Timestamp,
    /// The newest last.
    seen: Vec<Seen>,
    /// The first message that was answered last.
    answered: [u8; 16],
    /// Of the stage: another one of the endpoint's for each.
    pub(crate) number: u64,
    /// When a relay has taken its flight, in this run.
    left: Option<Timestamp>,
    /// START is to be left once more on this lane, as the flight of this number.
    pub(crate) start_again: Option<(Cid, u64)>,
    /// It is being written, under this number.
    writing: Option<u64>,
    /// It could not be.
    failed: bool,
}

impl Mailed {
    /// The stage, if its time is not over.
    pub(crate) fn stage(&self, now: Timestamp) -> Option<&Stage> {
        self.stage.as_deref().filter(|_| now.since(self.since) < STAGE_TIME)
    }

    pub(crate) fn has_cid(&self, cid: Cid) -> bool {
        self.stage.as_ref().is_some_and(|stage| stage.cid() == cid)
    }

    pub(crate) fn enter(&mut self, now: Timestamp, number: u64, stage: Stage) {
        (self.stage, self.since, self.left) = (Some(Box::new(stage)), now, None);
        self.number = number;
    }

    /// When the stage was entered.
    pub(crate) const fn since(&self) -> Timestamp {
        self.since
    }

    /// Whether what is under way is given up for a handshake of ours with the key of `rank`.
    pub(crate) fn gives_way_to_ours(&self, now: Timestamp, rank: (u32, u32)) -> bool {
        match self.stage(now) {
            None => true,
            Some(Stage::AwaitingMessage2 { peer, .. }) => rank > peer.attestation().rank(),
            Some(Stage::AwaitingMessage3 { .. }) => now.since(self.since) >= PATIENCE,
            Some(Stage::AwaitingStart { .. } | Stage::Starting { .. }) => false,
        }
    }

    /// Whether our own handshake goes on although the peer, whose id is the higher, has begun one.
    pub(crate) fn goes_first(&self, now: Timestamp) -> bool {
        match self.stage(now) {
            Some(Stage::AwaitingMessage2 { .. }) => true,
            Some(Stage::AwaitingStart { .. }) => now.since(self.since) < PATIENCE,
            _ => false,
        }
    }

    /// Ends the stage. Returns whether there was one.
    pub(crate) fn end(&mut self) -> bool {
        self.left = None;
        self.stage.take().is_some()
    }

    /// Has the flight of the stage left once more.
    pub(crate) const fn again(&mut self) {
        self.left = None;
    }

    /// A relay has taken the flight of the stage of that number.
    pub(crate) fn left(&mut self, now: Timestamp, number: u64) {
        if self.number == number {
            self.left = Some(now);
        }
    }

    /// Whether the flight of the stage is to be left: it is written, and no relay has taken it a short time ago.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        let has_left = self.left.is_some_and(|left| now.since(left) < REPEAT);
        self.writing.is_none() && !self.failed && !has_left && self.stage(now).is_some()
    }

    /// When it is next to be left, if nothing happens.
    pub(crate) fn repeats_at(&self) -> Option<Timestamp> {
        self.left.filter(|_| self.stage.is_some()).map(|left| left.after(REPEAT))
    }

    /// Whether a letter with a first message has come before: a relay that repeats it holds nothing up.
    pub(crate) fn has_seen(&self, seen: &Seen) -> bool {
        self.seen.contains(seen)
    }

    /// Takes note of a letter with a first message.
    pub(crate) fn sees(&mut self, seen: Seen) {
        if self.seen.len() >= MAX_SEEN {
            self.seen.remove(0);
        }
        self.seen.push(seen);
    }

    /// Takes note of the first message that is answered.
    pub(crate) const fn answers(&mut self, message1: [u8; 16]) {
        self.answered = message1;
    }

    /// Whether this first message is the one that was answered last.
    pub(crate) fn has_answered(&self, message1: [u8; 16]) -> bool {
        self.answered == message1
    }

    /// No letter to a prekey before `oldest` opens any more; and what is over is over. Returns whether that has changed anything.
    pub(crate) fn prune(&mut self, now: Timestamp, oldest: u64) -> bool {
        let before = (self.seen.len(), self.stage.is_some());
        self.seen.retain(|seen| seen.prekey >= oldest);
        if self.stage(now).is_none() {
            self.end();
        }
        before != (self.seen.len(), self.stage.is_some())
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.stage.is_none() && self.seen.is_empty()
    }

    pub(crate) const fn is_on_disk(&self) -> bool {
        self.writing.is_none() && !self.failed
    }

    /// Whether a flight waits to be written.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.writing.is_some() && self.stage.is_some()
    }

    pub(crate) const fn is_being_written(&mut self, number: u64) {
        (self.writing, self.failed) = (Some(number), false);
    }

    pub(crate) fn written(&mut self, number: u64) {
        self.writing.take_if(|writing| *writing == number);
    }

    pub(crate) fn not_written(&mut self, number: u64) {
        self.failed |= self.writing.take_if(|writing| *writing == number).is_some();
    }

    /// It could not even be sealed.
    pub(crate) const fn not_sealed(&mut self) {
        (self.writing, self.failed) = (None, true);
    }

    pub(crate) const fn has_failed(&self) -> bool {
        self.failed
    }

    /// `seen count 1 | (prekey 8 | letter 16)* | answered S1.1 16 | has stage 1 | [since 8 | stage]`.
    pub(crate) fn seal<P: CryptoProvider>(
        &self,
        provider: &P,
        key: &P::AeadKey,
        ids: [&[u8; 32]; 2],
    ) -> Result<Vec<u8>, EntropyError> {
        let stage_len = self.stage.as_ref().map_or(0, |stage| 8 + stage.encoded_len());
        let len = 1 + self.seen.len() * Seen::LEN + 16 + 1 + stage_len;
        at_rest::seal(provider, key, (DOMAIN, &ids), len, |state| {
            state.push(u8::try_from(self.seen.len()).unwrap_or(u8::MAX));
            for seen in &self.seen {
                state.extend_from_slice(&seen.prekey.to_be_bytes());
                state.extend_from_slice(&seen.letter);
            }
            state.extend_from_slice(&self.answered);
            state.push(u8::from(self.stage.is_some()));
            if let Some(stage) = &self.stage {
                state.extend_from_slice(&self.since.as_micros().to_be_bytes());
                stage.encode(state);
            }
        })
    }

    /// Takes back what [`seal`](Self::seal) made.
    pub(crate) fn open<P: CryptoProvider>(
        now: Timestamp,
        key: &P::AeadKey,
        ids: [&[u8; 32]; 2],
        state: &[u8],
    ) -> Result<Self, StateError> {
        let plaintext = at_rest::open(key, (DOMAIN, &ids), state)?;
        let mut reader = Reader::new(&plaintext);
        let mut mailed = Self::default();
        for _ in 0..reader.u8("handshakes seen")? {
            let prekey = u64::from_be_bytes(reader.array("handshake prekey")?);
            mailed.seen.push(Seen { prekey, letter: reader.array("handshake letter")? });
        }
        mailed.answered = reader.array("handshake S1.1")?;
        if reader.u8("handshake flag")? != 0 {
            let since = Timestamp::from_micros(u64::from_be_bytes(reader.array("handshake time")?));
            // A clock that has gone back counts from there.
            mailed.since = since.min(now);
            mailed.stage = Some(Box::new(Stage::decode(&mut reader)?));
        }
        reader.finish("handshake state")?;
        Ok(mailed)
    }
}
