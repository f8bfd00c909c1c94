//! Sealing and opening records: one lane, one direction. Protocol section 4.
//!
//! The counter runs upward for the life of a chain; its upper bits are the epoch, and each epoch has its own key and iv. A
//! receiver derives ahead in scratch state and commits only after the tag has verified.

use alloc::boxed::Box;
use core::{num::NonZeroU64, ops::Range, time::Duration};

use sealway_vault::{CryptoProvider, Secret, TAG_LEN};
use sealway_wire::{
    Counter, CounterWidth, Lane, MAX_HEADER_LEN, Timestamp,
    content::{Content, Ranges},
    danger::{self, Protection},
};

use crate::{
    FrameError, SendError,
    replay::{ReplayWindow, Ring},
    schedule::{self, EpochSecrets},
    suite::{C1, EpochKey, Header, S1, Suite},
};

/// Records of one epoch: the counter without its low 20 bits is the epoch.
pub const EPOCH_BITS: u32 = 20;
/// How many epochs a receiver follows at once.
pub const MAX_EPOCH_JUMP: u64 = 64;
/// Records that one chain of the stored lane takes: all in epoch 0.
pub const MAX_STORED: u64 = 1 << 16;
/// Records that a lane may have unacknowledged before it stops.
pub const MAX_UNACKNOWLEDGED: u64 = 1 << 26;

/// The longest content of a record end to end, in octets.
pub const MAX_CONTENT: usize = 16 * 1024;
/// What a hop channel takes on top, for the frames that it carries: the longest letter is the longest of them.
pub const HOP_ALLOWANCE: usize = 3328;
/// The longest record.
pub const MAX_RECORD: usize = MAX_HEADER_LEN + MAX_CONTENT + HOP_ALLOWANCE + TAG_LEN;

/// A route of one box, two numbers and the kind, around a frame.
const DEPOSIT_HEADER: usize = 1 + 8 + 8 + 1 + 1 + 16;
const _: () = assert!(sealway_wire::letter::MAX_LETTER + DEPOSIT_HEADER <= MAX_CONTENT + HOP_ALLOWANCE);

/// A chain of the stored lane is one epoch.
fn epoch_of<P: CryptoProvider, S: Suite<P>>(lane: Lane, counter: Counter) -> u64 {
    match lane {
        Lane::Live => counter.get() >> S::EPOCH_BITS,
        Lane::Stored => 0,
    }
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

/// The keys of one epoch.
pub(crate) struct EpochKeys<K> {
    /// One more than the epoch: so that there being none takes no room of its own.
    end: NonZeroU64,
    key: K,
}

impl<K: EpochKey> EpochKeys<K> {
    fn new(epoch: u64, secrets: &EpochSecrets) -> Self {
        Self { end: NonZeroU64::MIN.saturating_add(epoch), key: K::new(secrets) }
    }

    const fn epoch(&self) -> u64 {
        self.end.get() - 1
    }

    /// Decrypts in place, if the tag verifies.
    fn open(&self, counter: Counter, associated: &Associated, data: &mut [u8], tag: &[u8]) -> Result<(), FrameError> {
        self.key.open(counter, associated.as_slice(), data, tag).map_err(|_| FrameError::Rejected)
    }
}

/// octet 0 || receiver's CID, also when it does not travel || counter in 8 octets || incarnation, if any.
struct Associated {
    octets: [u8; 1 + 4 + 8 + 8],
    len: usize,
}

impl Associated {
    #[inline]
    fn new(header: &impl Header, cid: &[u8], counter: Counter) -> Self {
        let mut associated = Self { octets: [0; 21], len: 0 };
        associated.append(&[header.octet0()]);
        associated.append(cid);
        associated.append(&counter.get().to_be_bytes());
        associated.append(header.incarnation().unwrap_or_default());
        associated
    }

    /// Connection ids have at most four octets, incarnations eight.
    #[inline]
    fn append(&mut self, part: &[u8]) {
        self.octets[self.len..self.len + part.len()].copy_from_slice(part);
        self.len += part.len();
    }

    fn as_slice(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}

/// The sending end of a lane.
pub(crate) struct SendLane<P: CryptoProvider, S: Suite<P> = S1> {
    lane: Lane,
    /// Chain of the epoch after the current keys; or, where it is to survive a restart, of their own epoch.
    chain: Secret<32>,
    keeps_chain: bool,
    keys: Option<EpochKeys<S::Key>>,
    next: Counter,
    /// The first counter that the peer is not known to have passed.
    acknowledged: u64,
    /// On a lane that was restored after a restart.
    incarnation: Option<S::Incarnation>,
}

/// What [`SendLane::seal`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) len: usize,
    pub(crate) counter: u64,
}

impl<P: CryptoProvider, S: Suite<P>> SendLane<P, S> {
    pub(crate) const fn new(lane: Lane, chain: Secret<32>) -> Self {
        Self { lane, chain, keeps_chain: false, keys: None, next: Counter::ZERO, acknowledged: 0, incarnation: None }
    }

    /// A lane that goes on after a restart, at counters that were reserved before: its chain is kept while its epoch lasts.
    pub(crate) const fn kept(lane: Lane, chain: Secret<32>) -> Self {
        Self { lane, chain, keeps_chain: true, keys: None, next: Counter::ZERO, acknowledged: 0, incarnation: None }
    }

    /// Has the chain kept from now on. `false`: something was sealed already.
    pub(crate) const fn keep(&mut self) -> bool {
        self.keeps_chain = self.keys.is_none();
        self.keeps_chain
    }

    /// The chain of the current epoch, and the epoch, of a lane that goes on after a restart.
    pub(crate) fn save(&self) -> Option<(&Secret<32>, u8)> {
        let epoch = self.keys.as_ref().map_or(0, EpochKeys::epoch);
        self.keeps_chain.then_some((&self.chain, u8::try_from(epoch).unwrap_or(u8::MAX)))
    }

    /// The lane that [`save`](Self::save) told of, from the counter `next` on: none below it is used again.
    pub(crate) fn resume(provider: &P, lane: Lane, (chain, epoch): (Secret<32>, u8), next: u32) -> Self {
        let secrets = schedule::epoch(provider, S::DOMAIN, &chain);
        let mut resumed = Self::kept(lane, chain);
        resumed.keys = Some(EpochKeys::new(epoch.into(), &secrets));
        resumed.next = Counter::new(next.into()).unwrap_or(Counter::MAX);
        resumed
    }

    /// A lane after a restart, under a chain that nobody has used.
    pub(crate) fn restored(lane: Lane, chain: Secret<32>, incarnation: S::Incarnation) -> Self {
        Self { incarnation: Some(incarnation), ..Self::new(lane, chain) }
    }

    pub(crate) const fn is_incarnation(&self) -> bool {
        self.incarnation.is_some()
    }

    /// The incarnation whose lane it is, if it is one's.
    pub(crate) const fn incarnation(&self) -> Option<S::Incarnation> {
        self.incarnation
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
        cid: S::Cid,
        plaintext: Plaintext<'_>,
        shape: Shape,
        out: &mut [u8],
    ) -> Result<Sealed, SendError> {
        let counter = self.next;
        let next = counter.next().ok_or(SendError::LaneStopped)?;
        let typed = matches!(plaintext, Plaintext::Typed(_));
        let header = S::header(self.lane, typed, cid, counter, self.width(counter)?, self.incarnation);
        let start = header.encode(out)?;
        let content = plaintext.write(&mut out[start..])?;
        if content > shape.limit {
            return Err(SendError::TooLong { limit: shape.limit, got: content });
        }
        let got = out.len();
        let end = start + if typed { shape.padding.padded(content, shape.limit) } else { content };
        let needed = end + S::TAG_LEN;
        let zeros = out.get_mut(start + content..end).ok_or(sealway_wire::EncodeError { needed, got })?;
        zeros.fill(0);
        let (sealed, rest) = out.split_at_mut(end);
        let tag = rest.get_mut(..S::TAG_LEN).ok_or(sealway_wire::EncodeError { needed, got })?;
        let associated = Associated::new(&header, S::cid(&cid), counter);
        let keys = self.keys_of(provider, epoch_of::<P, S>(self.lane, counter));
        keys.key.seal(counter, associated.as_slice(), &mut sealed[start..], tag);
        self.next = next;
        Ok(Sealed { len: needed, counter: counter.get() })
    }

    /// How much of a counter travels, if the lane takes one more record.
    fn width(&self, counter: Counter) -> Result<CounterWidth, SendError> {
        match self.lane {
            // Whole, for what a relay has held back for a week has nothing near it to be counted from.
            Lane::Stored if counter.get() < MAX_STORED => Ok(CounterWidth::Four),
            Lane::Stored => Err(SendError::LaneStopped),
            Lane::Live => {
                let unacknowledged = counter.get().saturating_sub(self.acknowledged);
                if counter.get() >= S::MAX_LIVE || unacknowledged >= S::MAX_UNACKNOWLEDGED {
                    return Err(SendError::LaneStopped);
                }
                match danger::is_off(Protection::Width) {
                    false => S::width(counter, self.acknowledged).ok_or(SendError::LaneStopped),
                    true => Ok(S::NARROWEST),
                }
            }
        }
    }

    fn keys_of(&mut self, provider: &P, epoch: u64) -> &EpochKeys<S::Key> {
        let mut keys = match self.keys.take() {
            Some(keys) => keys,
            None => self.step(provider, 0),
        };
        while keys.epoch() < epoch {
            keys = self.step(provider, keys.epoch() + 1);
        }
        self.keys.insert(keys)
    }

    fn step(&mut self, provider: &P, epoch: u64) -> EpochKeys<S::Key> {
        if self.keeps_chain && epoch > 0 {
            self.chain = schedule::epoch(provider, S::DOMAIN, &self.chain).next;
        }
        let secrets = schedule::epoch(provider, S::DOMAIN, &self.chain);
        let keys = EpochKeys::new(epoch, &secrets);
        if !self.keeps_chain && !danger::is_off(Protection::Epochs) {
            self.chain = secrets.next;
        }
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
pub(crate) struct ReceiveLane<P: CryptoProvider, S: Suite<P> = S1> {
    lane: Lane,
    /// Chain of the epoch of the current keys; of epoch 0 before the first record.
    chain: Secret<32>,
    current: Option<EpochKeys<S::Key>>,
    /// Of the epoch before, which there seldom is.
    previous: Option<Box<EpochKeys<S::Key>>>,
    seen: Seen<S::Ring>,
    jumps: JumpLimit,
}

/// Which counters have been opened.
enum Seen<R> {
    /// Of the live lane.
    Window(ReplayWindow<R>),
    /// Of the stored lane one more than the largest: what it carries is harmless when repeated.
    Next(u64),
}

impl<R: Ring> Seen<R> {
    /// One more than the largest counter opened.
    const fn next(&self) -> u64 {
        match self {
            Self::Window(window) => window.next(),
            Self::Next(next) => *next,
        }
    }

    fn commit(&mut self, counter: u64) {
        match self {
            Self::Window(window) => window.commit(counter),
            Self::Next(next) => *next = (*next).max(counter + 1),
        }
    }
}

impl<P: CryptoProvider, S: Suite<P>> ReceiveLane<P, S> {
    pub(crate) const fn new(lane: Lane, chain: Secret<32>) -> Self {
        let seen = match lane {
            Lane::Live => Seen::Window(ReplayWindow::new()),
            Lane::Stored => Seen::Next(0),
        };
        Self { lane, chain, current: None, previous: None, seen, jumps: JumpLimit::new() }
    }

    /// One more than the largest counter opened.
    pub(crate) const fn next(&self) -> u64 {
        self.seen.next()
    }

    /// The records of a lane with a window that were opened, highest first; `None` before the first.
    pub(crate) fn opened(&self) -> Option<Ranges> {
        match &self.seen {
            Seen::Window(window) => window.opened(),
            Seen::Next(_) => None,
        }
    }

    /// Opens one record in place.
    ///
    /// Parse, window, tag, and only then commit: on an error nothing has changed, but for the limit of jumps.
    pub(crate) fn open(
        &mut self,
        provider: &P,
        now: Timestamp,
        cid: &S::Cid,
        header: &S::Header,
        frame: &mut [u8],
    ) -> Result<Opened, FrameError> {
        let expected = Counter::new(self.next()).unwrap_or(Counter::MAX);
        let counter = header.counter().expand(expected).ok_or(FrameError::TooFarAhead)?;
        if !self.admits(counter) {
            return Err(FrameError::Replayed);
        }
        let start = header.len();
        let end = frame.len().checked_sub(S::TAG_LEN).filter(|end| *end >= start).ok_or(FrameError::Rejected)?;
        let (head, tag) = frame.split_at_mut(end);
        let associated = Associated::new(header, S::cid(cid), counter);
        let data = &mut head[start..];
        let epoch = epoch_of::<P, S>(self.lane, counter);
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
                    keys.key.seal(counter, associated.as_slice(), data, tag);
                    return Ok(Opened { plaintext: start..end, counter: counter.get(), is_newest: false });
                }
                opened => opened?,
            }
        } else {
            let ahead = self.derive(provider, now, epoch)?;
            ahead.current.open(counter, &associated, data, tag)?;
            self.previous =
                ahead.previous.or(self.current.take()).map(Box::new).filter(|_| !danger::is_off(Protection::Previous));
            self.current = Some(ahead.current);
            self.chain = ahead.chain;
        }
        let is_newest = counter.get() >= self.next();
        self.seen.commit(counter.get());
        Ok(Opened { plaintext: start..end, counter: counter.get(), is_newest })
    }

    fn admits(&self, counter: Counter) -> bool {
        match &self.seen {
            #[cfg(sealway_break)]
            Seen::Window(_) if danger::is_off(Protection::Window) => true,
            Seen::Window(window) => counter.get() < S::MAX_LIVE && window.admits(counter.get()),
            Seen::Next(_) => counter.get() < MAX_STORED,
        }
    }

    fn known(&self, epoch: u64) -> Option<&EpochKeys<S::Key>> {
        match &self.current {
            Some(keys) if keys.epoch() == epoch => Some(keys),
            _ => self.previous.as_deref().filter(|keys| keys.epoch() == epoch),
        }
    }

    /// Derives the keys of a later epoch without changing anything but the count of jumps.
    fn derive(&mut self, provider: &P, now: Timestamp, epoch: u64) -> Result<Ahead<S::Key>, FrameError> {
        let first = self.current.as_ref().map_or(0, |keys| keys.end.get());
        let steps = epoch.checked_sub(first).ok_or(FrameError::Replayed)?; // older than the previous epoch
        let may_jump = steps == 0 || danger::is_off(Protection::Jumps) || self.jumps.admits(now, S::JUMPS);
        if steps >= MAX_EPOCH_JUMP || !may_jump {
            return Err(FrameError::TooFarAhead);
        }
        let mut chain = match &self.current {
            None => self.chain.clone(),
            Some(_) => schedule::epoch(provider, S::DOMAIN, &self.chain).next,
        };
        let mut secrets = schedule::epoch(provider, S::DOMAIN, &chain);
        let mut previous = None;
        for step in 1..=steps {
            if step == steps {
                previous = Some(EpochKeys::new(epoch - 1, &secrets));
            }
            chain = secrets.next;
            secrets = schedule::epoch(provider, S::DOMAIN, &chain);
        }
        Ok(Ahead { current: EpochKeys::new(epoch, &secrets), previous, chain })
    }
}

/// What has to survive a restart of a lane of C1: the chain of the current epoch, from which its keys come anew.
pub(crate) struct SavedLane {
    pub(crate) chain: Secret<32>,
    pub(crate) epoch: u8,
    /// One more than the largest counter opened: at most 2^16.
    pub(crate) next: u32,
    /// Which of the 64 below have been opened.
    pub(crate) bits: u64,
}

impl<P: CryptoProvider> ReceiveLane<P, C1> {
    pub(crate) fn save(&self) -> SavedLane {
        let (next, bits) = match &self.seen {
            Seen::Window(window) => window.newest(),
            Seen::Next(next) => (*next, 0),
        };
        let epoch = self.current.as_ref().map_or(0, EpochKeys::epoch);
        // Neither can be larger: the lane ends at counter 2^16, in epoch 63.
        let (epoch, next) = (u8::try_from(epoch).unwrap_or(u8::MAX), u32::try_from(next).unwrap_or(u32::MAX));
        SavedLane { chain: self.chain.clone(), epoch, next, bits }
    }

    pub(crate) fn restore(provider: &P, lane: Lane, saved: SavedLane) -> Self {
        let SavedLane { chain, epoch, next, bits } = saved;
        let mut restored = Self::new(lane, chain);
        if next > 0 {
            let secrets = schedule::epoch(provider, <C1 as Suite<P>>::DOMAIN, &restored.chain);
            restored.current = Some(EpochKeys::new(epoch.into(), &secrets));
            // Of the stored lane nothing is kept.
            let bits = if danger::is_off(Protection::KeptWindow) { 0 } else { bits };
            restored.seen = match lane {
                Lane::Live => Seen::Window(ReplayWindow::from_newest(next.into(), bits)),
                Lane::Stored => Seen::Next(next.into()),
            };
        }
        restored
    }

    /// As [`restore`](Self::restore), where the chain is that of epoch 0.
    pub(crate) fn replay(provider: &P, lane: Lane, saved: SavedLane) -> Self {
        let mut chain = saved.chain;
        for _ in 0..saved.epoch {
            chain = schedule::epoch(provider, <C1 as Suite<P>>::DOMAIN, &chain).next;
        }
        Self::restore(provider, lane, SavedLane { chain, ..saved })
    }
}

/// Keys that become current once a tag has verified under them.
struct Ahead<K> {
    current: EpochKeys<K>,
    previous: Option<EpochKeys<K>>,
    chain: Secret<32>,
}

/// How many jumps over more than one epoch were tried lately.
struct JumpLimit {
    since: Timestamp,
    tried: u32,
}

impl JumpLimit {
    const fn new() -> Self {
        Self { since: Timestamp::from_micros(0), tried: 0 }
    }

    /// Whether one more may be tried; it counts then.
    fn admits(&mut self, now: Timestamp, (limit, time): (u32, Duration)) -> bool {
        if now.since(self.since) >= time {
            *self = Self { since: now, tried: 0 };
        }
        self.tried += 1;
        self.tried <= limit
    }
}
