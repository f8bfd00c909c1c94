//! Sealing and opening records: one lane, one direction. Protocol section 4.
//!
//! The counter runs upward for the life of a chain; its upper bits are the epoch, and each epoch has its own key and iv. A
//! receiver derives ahead in scratch state and commits only after the tag has verified.

use core::{ops::Range, time::Duration};

use sealway_vault::{AeadKey, CryptoProvider, Secret, TAG_LEN};
use sealway_wire::{
    Cid, Counter, CounterWidth, Incarnation, Lane, MAX_HEADER_LEN, RecordHeader, Timestamp,
    content::{Content, Ranges},
    danger::{self, Protection},
};

use crate::{
    FrameError, SendError,
    replay::ReplayWindow,
    schedule::{self, EpochSecrets},
};

/// Records of one epoch: the counter without its low 20 bits is the epoch.
pub const EPOCH_BITS: u32 = 20;
/// How many epochs a receiver follows at once.
pub const MAX_EPOCH_JUMP: u64 = 64;
/// Records that one chain of the stored lane takes: all in epoch 0.
pub const MAX_STORED: u64 = 1 << 16;
/// Records that a lane may have unacknowledged before it stops.
pub const MAX_UNACKNOWLEDGED: u64 = 1 << 26;
/// Jumps over more than one epoch that a session tries in one second.
const JUMPS_PER_SECOND: u32 = 16;

/// The longest content of a record end to end, in octets.
pub const MAX_CONTENT: usize = 16 * 1024;
/// What a hop channel takes on top, for the frames that it carries.
pub const HOP_ALLOWANCE: usize = 512;
/// The longest record.
pub const MAX_RECORD: usize = MAX_HEADER_LEN + MAX_CONTENT + HOP_ALLOWANCE + TAG_LEN;

const fn epoch_of(counter: Counter) -> u64 {
    counter.get() >> EPOCH_BITS
}

/// How large a record may be, and is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// The most octets of content, with its type and padding.
    pub(crate) limit: usize,
    pub(crate) padding: Padding,
}

/// What the length of a record tells of its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Padding {
    /// The length of the content.
    #[default]
    None,
    /// Its magnitude: content and type are filled up with zeros to 64, 128, 256.. octets, the next power of two.
    Buckets,
}

impl Padding {
    const SMALLEST: usize = 64;

    /// The length to which a plaintext of `len` octets is filled up.
    fn padded(self, len: usize, limit: usize) -> usize {
        match self {
            Self::Buckets if !danger::is_off(Protection::Padding) => {
                len.max(Self::SMALLEST).next_power_of_two().min(limit.max(len))
            }
            _ => len,
        }
    }
}

/// The keys of one epoch, ready for use.
struct EpochKeys<P: CryptoProvider> {
    epoch: u64,
    key: P::AeadKey,
    iv: Secret<12>,
}

impl<P: CryptoProvider> EpochKeys<P> {
    fn new(epoch: u64, secrets: &EpochSecrets) -> Self {
        Self { epoch, key: P::AeadKey::new(&secrets.key), iv: secrets.iv.clone() }
    }

    /// Decrypts in place, if the tag verifies.
    fn open(
        &self,
        counter: Counter,
        associated: &Associated,
        data: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), FrameError> {
        let nonce = self.nonce(counter);
        self.key.open(&nonce, associated.as_slice(), data, tag).map_err(|_| FrameError::Rejected)
    }

    /// iv XOR the counter in 8 octets, right-aligned.
    fn nonce(&self, counter: Counter) -> [u8; 12] {
        let mut nonce = *self.iv.expose();
        for (octet, counter) in nonce[4..].iter_mut().zip(counter.get().to_be_bytes()) {
            *octet ^= counter;
        }
        nonce
    }
}

/// octet 0 || receiver's CID, also when it does not travel || counter in 8 octets || incarnation, if any.
struct Associated {
    octets: [u8; 1 + Cid::LEN + 8 + 8],
    len: usize,
}

impl Associated {
    fn new(header: &RecordHeader, cid: Cid, counter: Counter) -> Self {
        let mut octets = [0; 21];
        octets[0] = header.octet0();
        octets[1..5].copy_from_slice(&cid.0);
        octets[5..13].copy_from_slice(&counter.get().to_be_bytes());
        let mut len = 13;
        if let Some(incarnation) = header.incarnation {
            octets[13..].copy_from_slice(&incarnation.0);
            len = 21;
        }
        Self { octets, len }
    }

    fn as_slice(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}

/// The sending end of a lane.
pub(crate) struct SendLane<P: CryptoProvider> {
    lane: Lane,
    /// Chain of the epoch after the current keys.
    chain: Secret<32>,
    keys: Option<EpochKeys<P>>,
    next: Counter,
    /// The first counter that the peer is not known to have passed.
    acknowledged: u64,
    /// On a stored lane that was restored after a restart.
    incarnation: Option<Incarnation>,
}

/// What [`SendLane::seal`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) len: usize,
    pub(crate) counter: u64,
}

impl<P: CryptoProvider> SendLane<P> {
    pub(crate) const fn new(lane: Lane, chain: Secret<32>) -> Self {
        Self { lane, chain, keys: None, next: Counter::ZERO, acknowledged: 0, incarnation: None }
    }

    /// A stored lane after a restart, under a chain that nobody has used.
    pub(crate) fn restored(chain: Secret<32>, incarnation: Incarnation) -> Self {
        Self { incarnation: Some(incarnation), ..Self::new(Lane::Stored, chain) }
    }

    /// How many records have been sealed.
    pub(crate) const fn sealed(&self) -> u64 {
        self.next.get()
    }

    /// Takes note that the peer has opened records up to `largest`. A counter that was never sealed is ignored: it can
    /// only come from a peer that is broken, and would make counters ambiguous.
    pub(crate) fn acknowledge(&mut self, opened: &Ranges) {
        let passed = opened.largest() + 1;
        if passed <= self.next.get() {
            self.acknowledged = self.acknowledged.max(passed);
        }
    }

    /// Seals one record into `out`, which has to be large enough for header, content, type and tag.
    ///
    /// No allocation; the content is encoded where it is then encrypted.
    pub(crate) fn seal(
        &mut self,
        provider: &P,
        cid: Cid,
        plaintext: Plaintext<'_>,
        shape: Shape,
        out: &mut [u8],
    ) -> Result<Sealed, SendError> {
        let counter = self.next;
        let next = counter.next().ok_or(SendError::LaneStopped)?;
        let typed = matches!(plaintext, Plaintext::Typed(_));
        let header = match (self.lane, self.incarnation) {
            (Lane::Live, _) => {
                if counter.get().saturating_sub(self.acknowledged) >= MAX_UNACKNOWLEDGED {
                    return Err(SendError::LaneStopped);
                }
                let width = match danger::is_off(Protection::Width) {
                    false => CounterWidth::covering(counter, self.acknowledged).ok_or(SendError::LaneStopped)?,
                    true => CounterWidth::Two,
                };
                RecordHeader::new(Lane::Live, typed, cid, counter, width)
            }
            // Whole, for what a relay has held back for a week has nothing near it to be counted from.
            (Lane::Stored, _) if counter.get() >= MAX_STORED => return Err(SendError::LaneStopped),
            (Lane::Stored, None) => RecordHeader::new(Lane::Stored, typed, cid, counter, CounterWidth::Four),
            (Lane::Stored, Some(incarnation)) => RecordHeader::restored(Lane::Stored, cid, counter, incarnation),
        };
        let start = header.encode(out)?;
        let content = plaintext.write(&mut out[start..])?;
        if content > shape.limit {
            return Err(SendError::TooLong { limit: shape.limit, got: content });
        }
        let got = out.len();
        let end = start + if typed { shape.padding.padded(content, shape.limit) } else { content };
        let zeros =
            out.get_mut(start + content..end).ok_or(sealway_wire::EncodeError { needed: end + TAG_LEN, got })?;
        zeros.fill(0);
        let (sealed, rest) = out.split_at_mut(end);
        let got = end + rest.len();
        let space =
            rest.first_chunk_mut::<TAG_LEN>().ok_or(sealway_wire::EncodeError { needed: end + TAG_LEN, got })?;
        let keys = self.keys_of(provider, epoch_of(counter));
        let associated = Associated::new(&header, cid, counter);
        *space = keys.key.seal(&keys.nonce(counter), associated.as_slice(), &mut sealed[start..]);
        self.next = next;
        Ok(Sealed { len: end + TAG_LEN, counter: counter.get() })
    }

    fn keys_of(&mut self, provider: &P, epoch: u64) -> &EpochKeys<P> {
        let mut keys = match self.keys.take() {
            Some(keys) => keys,
            None => self.step(provider, 0),
        };
        while keys.epoch < epoch {
            keys = self.step(provider, keys.epoch + 1);
        }
        self.keys.insert(keys)
    }

    fn step(&mut self, provider: &P, epoch: u64) -> EpochKeys<P> {
        let secrets = schedule::epoch(provider, &self.chain);
        let keys = EpochKeys::new(epoch, &secrets);
        self.chain = secrets.next;
        keys
    }
}

/// What goes into a record.
#[derive(Clone, Copy)]
pub(crate) enum Plaintext<'a> {
    /// One datagram of the application, without a type.
    Datagram(&'a [u8]),
    /// Content and type.
    Typed(&'a Content<'a>),
}

impl Plaintext<'_> {
    fn write(&self, out: &mut [u8]) -> Result<usize, SendError> {
        match self {
            Self::Datagram(body) => {
                let got = out.len();
                let space = out.get_mut(..body.len());
                space.ok_or(sealway_wire::EncodeError { needed: body.len(), got })?.copy_from_slice(body);
                Ok(body.len())
            }
            Self::Typed(content) => Ok(content.encode(out)?),
        }
    }
}

/// A record that was opened.
pub(crate) struct Opened {
    /// Where in the frame its plaintext lies.
    pub(crate) plaintext: Range<usize>,
    /// Its whole counter.
    pub(crate) counter: u64,
    /// None with a larger counter has opened before.
    pub(crate) is_newest: bool,
}

/// The receiving end of a lane.
pub(crate) struct ReceiveLane<P: CryptoProvider> {
    /// Chain of the epoch after the current keys.
    chain: Secret<32>,
    current: Option<EpochKeys<P>>,
    previous: Option<EpochKeys<P>>,
    /// One more than the largest counter opened.
    next: u64,
    /// The live lane's window. The stored lane has none: what it carries is harmless when repeated.
    window: Option<ReplayWindow>,
    jumps: JumpLimit,
}

impl<P: CryptoProvider> ReceiveLane<P> {
    pub(crate) const fn new(lane: Lane, chain: Secret<32>) -> Self {
        let window = match lane {
            Lane::Live => Some(ReplayWindow::new()),
            Lane::Stored => None,
        };
        Self { chain, current: None, previous: None, next: 0, window, jumps: JumpLimit::new() }
    }

    /// The records of a lane with a window that were opened, highest first; `None` before the first.
    pub(crate) fn opened(&self) -> Option<Ranges> {
        self.window.as_ref().and_then(ReplayWindow::opened)
    }

    /// Opens one record in place.
    ///
    /// Parse, window, tag, and only then commit: on an error nothing has changed, but for the limit of jumps.
    pub(crate) fn open(
        &mut self,
        provider: &P,
        now: Timestamp,
        cid: Cid,
        header: &RecordHeader,
        frame: &mut [u8],
    ) -> Result<Opened, FrameError> {
        let expected = Counter::new(self.next).unwrap_or(Counter::MAX);
        let counter = header.counter.expand(expected).ok_or(FrameError::TooFarAhead)?;
        if !self.admits(counter) {
            return Err(FrameError::Replayed);
        }
        let start = header.len();
        let end = frame.len().checked_sub(TAG_LEN).filter(|end| *end >= start).ok_or(FrameError::Rejected)?;
        let (head, tag) = frame.split_at_mut(end);
        let tag = tag.first_chunk().ok_or(FrameError::Rejected)?;
        let associated = Associated::new(header, cid, counter);
        let data = &mut head[start..];
        let epoch = epoch_of(counter);
        if let Some(keys) = self.known(epoch) {
            #[cfg(sealway_break)]
            let ciphertext = data.to_vec();
            match keys.open(counter, &associated, data, tag) {
                // The mode is a stream cipher: encrypting once more decrypts, whatever the tag says. Nothing is committed, or
                // the first forgery would be the last: the test wants to see it read.
                #[cfg(sealway_break)]
                Err(_) if danger::is_off(Protection::Tag) => {
                    // A provider may have overwritten it.
                    data.copy_from_slice(&ciphertext);
                    keys.key.seal(&keys.nonce(counter), associated.as_slice(), data);
                    return Ok(Opened { plaintext: start..end, counter: counter.get(), is_newest: false });
                }
                opened => opened?,
            }
        } else {
            let ahead = self.derive(provider, now, epoch)?;
            ahead.current.open(counter, &associated, data, tag)?;
            self.previous = ahead.previous.or(self.current.take()).filter(|_| !danger::is_off(Protection::Previous));
            self.current = Some(ahead.current);
            self.chain = ahead.chain;
        }
        let is_newest = counter.get() >= self.next;
        self.next = self.next.max(counter.get() + 1);
        if let Some(window) = &mut self.window {
            window.commit(counter.get());
        }
        Ok(Opened { plaintext: start..end, counter: counter.get(), is_newest })
    }

    fn admits(&self, counter: Counter) -> bool {
        match &self.window {
            #[cfg(sealway_break)]
            Some(_) if danger::is_off(Protection::Window) => true,
            Some(window) => window.admits(counter.get()),
            None => counter.get() < MAX_STORED,
        }
    }

    fn known(&self, epoch: u64) -> Option<&EpochKeys<P>> {
        [&self.current, &self.previous].into_iter().flatten().find(|keys| keys.epoch == epoch)
    }

    /// Derives the keys of a later epoch without changing anything but the count of jumps.
    fn derive(&mut self, provider: &P, now: Timestamp, epoch: u64) -> Result<Ahead<P>, FrameError> {
        let first = self.current.as_ref().map_or(0, |keys| keys.epoch + 1);
        let steps = epoch.checked_sub(first).ok_or(FrameError::Replayed)?; // older than the previous epoch
        let may_jump = steps == 0 || danger::is_off(Protection::Jumps) || self.jumps.admits(now);
        if steps >= MAX_EPOCH_JUMP || !may_jump {
            return Err(FrameError::TooFarAhead);
        }
        let mut secrets = schedule::epoch(provider, &self.chain);
        let mut previous = None;
        for step in 1..=steps {
            if step == steps {
                previous = Some(EpochKeys::new(epoch - 1, &secrets));
            }
            secrets = schedule::epoch(provider, &secrets.next);
        }
        Ok(Ahead { current: EpochKeys::new(epoch, &secrets), previous, chain: secrets.next })
    }
}

/// Keys that become current once a tag has verified under them.
struct Ahead<P: CryptoProvider> {
    current: EpochKeys<P>,
    previous: Option<EpochKeys<P>>,
    chain: Secret<32>,
}

/// How many jumps over more than one epoch were tried in the running second.
struct JumpLimit {
    since: Timestamp,
    tried: u32,
}

impl JumpLimit {
    const fn new() -> Self {
        Self { since: Timestamp::from_micros(0), tried: 0 }
    }

    fn admits(&mut self, now: Timestamp) -> bool {
        if now.since(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, tried: 0 };
        }
        self.tried += 1;
        self.tried <= JUMPS_PER_SECOND
    }
}
