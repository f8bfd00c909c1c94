//! What the two profiles do differently with the same lanes.

use core::time::Duration;

use sealway_vault::{AeadKey, CcmKey, CryptoProvider, Rejected, SHORT_TAG_LEN, Secret, TAG_LEN};
use sealway_wire::{
    Cid, Counter, CounterWidth, EncodeError, Incarnation, Lane, RecordHeader, ShortCid, ShortIncarnation, Truncated,
    constrained,
};

use crate::{
    lane::{EPOCH_BITS, MAX_UNACKNOWLEDGED},
    replay::{LongRing, Ring, ShortRing},
    schedule::EpochSecrets,
};

/// The records of a profile.
pub(crate) trait Suite<P: CryptoProvider>: 'static {
    /// The domain of its labels.
    const DOMAIN: &'static str;
    /// Records of one epoch of the live lane, as a power of two.
    const EPOCH_BITS: u32;
    /// Length of a tag in octets.
    const TAG_LEN: usize;
    /// Counters of the live lane end before it.
    const MAX_LIVE: u64;
    /// Records that the live lane may have unacknowledged before it stops.
    const MAX_UNACKNOWLEDGED: u64;
    /// The width of a counter that nothing is known of.
    const NARROWEST: CounterWidth;
    /// How many jumps over more than one epoch are tried in which time.
    const JUMPS: (u32, Duration);

    /// What names the session to its receiver.
    type Cid: Copy;
    /// What names a restart of the sender.
    type Incarnation: Copy + Eq;
    /// The header of a record.
    type Header: Header;
    /// The bits of the replay window.
    type Ring: Ring;
    /// The keys of one epoch.
    type Key: EpochKey;

    /// The octets of a connection id, as they are associated.
    fn cid(cid: &Self::Cid) -> &[u8];

    /// The narrowest counter that its receiver cannot mistake.
    fn width(counter: Counter, acknowledged: u64) -> Option<CounterWidth>;

    /// The header of a record to the session `cid`.
    fn header(
        lane: Lane,
        typed: bool,
        cid: Self::Cid,
        counter: Counter,
        width: CounterWidth,
        incarnation: Option<Self::Incarnation>,
    ) -> Self::Header;
}

/// What a lane reads of a header.
pub(crate) trait Header {
    fn octet0(&self) -> u8;
    fn counter(&self) -> Truncated;
    fn incarnation(&self) -> Option<&[u8]>;
    fn len(&self) -> usize;
    fn encode(&self, out: &mut [u8]) -> Result<usize, EncodeError>;
}

/// Key and iv of one epoch.
pub(crate) trait EpochKey {
    fn new(secrets: &EpochSecrets) -> Self;

    /// Encrypts in place, and writes the tag, which has the length of the suite's.
    fn seal(&self, counter: Counter, associated: &[u8], data: &mut [u8], tag: &mut [u8]);

    /// Decrypts in place, if the tag verifies.
    fn open(&self, counter: Counter, associated: &[u8], data: &mut [u8], tag: &[u8]) -> Result<(), Rejected>;
}

/// iv XOR the counter in 8 octets, right-aligned.
#[inline]
fn nonce<const N: usize>(iv: &[u8; 13], counter: Counter) -> [u8; N] {
    let mut nonce = [0; N];
    nonce.copy_from_slice(&iv[..N]);
    for (octet, counter) in nonce[N - 8..].iter_mut().zip(counter.get().to_be_bytes()) {
        *octet ^= counter;
    }
    nonce
}

/// Profile S1: AES-256-GCM.
pub(crate) struct S1;

impl<P: CryptoProvider> Suite<P> for S1 {
    const DOMAIN: &'static str = "S1";
    const EPOCH_BITS: u32 = EPOCH_BITS;
    const TAG_LEN: usize = TAG_LEN;
    const MAX_LIVE: u64 = u64::MAX;
    const MAX_UNACKNOWLEDGED: u64 = MAX_UNACKNOWLEDGED;
    const NARROWEST: CounterWidth = CounterWidth::Two;
    const JUMPS: (u32, Duration) = (16, Duration::from_secs(1));

    type Cid = Cid;
    type Incarnation = Incarnation;
    type Header = RecordHeader;
    type Ring = LongRing;
    type Key = GcmEpoch<P::AeadKey>;

    #[inline]
    fn cid(cid: &Cid) -> &[u8] {
        &cid.0
    }

    #[inline]
    fn width(counter: Counter, acknowledged: u64) -> Option<CounterWidth> {
        CounterWidth::covering(counter, acknowledged)
    }

    #[inline]
    fn header(
        lane: Lane,
        typed: bool,
        cid: Cid,
        counter: Counter,
        width: CounterWidth,
        incarnation: Option<Incarnation>,
    ) -> RecordHeader {
        match incarnation {
            None => RecordHeader::new(lane, typed, cid, counter, width),
            Some(incarnation) => RecordHeader::restored(lane, cid, counter, incarnation),
        }
    }
}

/// The headers of both profiles have the same fields, of different lengths.
macro_rules! header {
    ($header:ty) => {
        impl Header for $header {
            #[inline]
            fn octet0(&self) -> u8 {
                self.octet0()
            }

            #[inline]
            fn counter(&self) -> Truncated {
                self.counter
            }

            #[inline]
            fn incarnation(&self) -> Option<&[u8]> {
                self.incarnation.as_ref().map(|incarnation| incarnation.0.as_slice())
            }

            #[inline]
            fn len(&self) -> usize {
                self.len()
            }

            #[inline]
            fn encode(&self, out: &mut [u8]) -> Result<usize, EncodeError> {
                self.encode(out)
            }
        }
    };
}

header!(RecordHeader);
header!(constrained::RecordHeader);

/// An epoch of S1, its key ready for use.
pub(crate) struct GcmEpoch<K> {
    key: K,
    /// The first 12 octets.
    iv: Secret<13>,
}

impl<K: AeadKey> EpochKey for GcmEpoch<K> {
    #[inline]
    fn new(secrets: &EpochSecrets) -> Self {
        Self { key: K::new(&secrets.key), iv: secrets.iv.clone() }
    }

    #[inline]
    fn seal(&self, counter: Counter, associated: &[u8], data: &mut [u8], tag: &mut [u8]) {
        tag.copy_from_slice(&self.key.seal(&nonce(self.iv.expose(), counter), associated, data));
    }

    #[inline]
    fn open(&self, counter: Counter, associated: &[u8], data: &mut [u8], tag: &[u8]) -> Result<(), Rejected> {
        let tag = tag.first_chunk().ok_or(Rejected)?;
        self.key.open(&nonce(self.iv.expose(), counter), associated, data, tag)
    }
}

/// Profile C1: AES-256-CCM with a tag of 8 octets.
pub(crate) struct C1;

/// Records that a session of C1 takes on either lane.
pub(crate) const MAX_CONSTRAINED: u64 = 1 << 16;

impl<P: CryptoProvider> Suite<P> for C1 {
    const DOMAIN: &'static str = "C1";
    const EPOCH_BITS: u32 = 10;
    const TAG_LEN: usize = SHORT_TAG_LEN;
    const MAX_LIVE: u64 = MAX_CONSTRAINED;
    const MAX_UNACKNOWLEDGED: u64 = MAX_CONSTRAINED;
    const NARROWEST: CounterWidth = CounterWidth::One;
    const JUMPS: (u32, Duration) = (1, Duration::from_secs(1));

    /// Whether it travels, and what it is.
    type Cid = (bool, ShortCid);
    type Incarnation = ShortIncarnation;
    type Header = constrained::RecordHeader;
    type Ring = ShortRing;
    type Key = CcmEpoch<P::CcmKey>;

    #[inline]
    fn cid(cid: &(bool, ShortCid)) -> &[u8] {
        &cid.1.0
    }

    #[inline]
    fn width(counter: Counter, acknowledged: u64) -> Option<CounterWidth> {
        CounterWidth::covering_narrowly(counter, acknowledged)
    }

    #[inline]
    fn header(
        lane: Lane,
        typed: bool,
        (travels, cid): (bool, ShortCid),
        counter: Counter,
        width: CounterWidth,
        incarnation: Option<ShortIncarnation>,
    ) -> constrained::RecordHeader {
        constrained::RecordHeader::new(lane, typed, travels.then_some(cid), counter, width, incarnation)
    }
}

/// An epoch of C1. Keyed on use: an expanded key is fifteen times the size, which a microcontroller does not have.
pub(crate) struct CcmEpoch<K> {
    key: Secret<32>,
    iv: Secret<13>,
    kind: core::marker::PhantomData<fn() -> K>,
}

impl<K: CcmKey> EpochKey for CcmEpoch<K> {
    #[inline]
    fn new(secrets: &EpochSecrets) -> Self {
        Self { key: secrets.key.clone(), iv: secrets.iv.clone(), kind: core::marker::PhantomData }
    }

    #[inline]
    fn seal(&self, counter: Counter, associated: &[u8], data: &mut [u8], tag: &mut [u8]) {
        tag.copy_from_slice(&K::new(&self.key).seal(&nonce(self.iv.expose(), counter), associated, data));
    }

    #[inline]
    fn open(&self, counter: Counter, associated: &[u8], data: &mut [u8], tag: &[u8]) -> Result<(), Rejected> {
        let tag = tag.first_chunk().ok_or(Rejected)?;
        K::new(&self.key).open(&nonce(self.iv.expose(), counter), associated, data, tag)
    }
}
