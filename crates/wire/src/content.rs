//! What a typed record carries: `content | type 1 | zeros`. Protocol section 5.

use crate::{
    Candidates, DecodeError, EncodeError, Instance, Lane, Reader, Reason, VarInt, Writer, counter,
    pairing::{Rotate, Seed},
};

/// Numbers that a receiver may have committed above the lowest one that it has not: the bitmap of an ACK.
pub const COMMIT_WINDOW: u32 = 1024;
/// The most parts of one message.
pub const MAX_PARTS: u32 = 128;
/// The most ranges in one ACK.
pub const MAX_RANGES: usize = 16;
/// The most credentials in one START.
pub const MAX_CREDENTIALS: usize = 8;
/// The longest credential, in octets.
pub const MAX_CREDENTIAL_LEN: usize = 1024;

const START: u8 = 1;
const DATA: u8 = 2;
const RELIABLE: u8 = 3;
const RELIABLE_OTHER: u8 = 4;
const ACK: u8 = 5;
const PING: u8 = 6;
const CLOSE: u8 = 7;
const RELIABLE_AFTER_GAP: u8 = 8;
const PATH: u8 = 9;
const PATH_REPLY: u8 = 10;
const FRAGMENT: u8 = 11;
const ROTATE: u8 = 13;
const SEED: u8 = 14;
const CANDIDATES: u8 = 15;
const FLIGHT: u8 = 16;

/// The decoded content of a typed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// Type 1: the first record of each side on a new session.
    Start(Start<'a>),
    /// Type 2: one datagram of the application, as an untyped record carries it, but padded or on the stored lane.
    Data(&'a [u8]),
    /// Types 3, 4, 8 and 11: a message, or a part of one, that the sender repeats until it is committed.
    Reliable(Reliable<'a>),
    /// Type 5: what has been opened, and what has been committed.
    Ack(Ack<'a>),
    /// Type 6: asks for any record in return.
    Ping,
    /// Type 7: the sender ends the live lane.
    Close(CloseReason),
    /// Type 9: eight random octets, to be sent back on the path on which they came.
    Path([u8; 8]),
    /// Type 10: the octets of a PATH.
    PathReply([u8; 8]),
    /// Type 13, in the constrained profile alone: another channel key of the sender, in parts.
    Rotate(Rotate<'a>),
    /// Type 14, in the constrained profile alone: what goes into the next psk.
    Seed(Seed<'a>),
    /// Type 15: where the sender may be reached without a relay.
    Candidates(Candidates<'a>),
    /// Type 16, in letters alone: a frame of S1, S1.1 without cookie, S1.2 or S1.3.
    Flight(&'a [u8]),
}

/// START: `instance 4 | stored records of the session before, varint | (length 2 | credential)*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start<'a> {
    /// The instance under which the sender numbers its messages.
    pub instance: Instance,
    /// How many records the sender sealed on the stored lane of the session before this one.
    pub stored_before: VarInt,
    /// The credentials, each behind its length: at most [`MAX_CREDENTIALS`].
    pub credentials: &'a [u8],
}

/// RELIABLE: `number | number - lowest number still wanted` as varints, then the body; type 4 has the instance before
/// them, where it is not the one of START; type 8 has the instance, and behind the two numbers how many directly below are
/// not wanted; type 11, FRAGMENT, has these, and behind them which part of how many it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reliable<'a> {
    /// The instance that numbered the message, where it is not the one of START.
    pub instance: Option<Instance>,
    /// The number of the message.
    pub number: u32,
    /// The lowest number of that instance that the sender still wants committed: at most `number`.
    pub lowest: u32,
    /// How many numbers directly below this one the sender does not want committed any more, although it does want some
    /// below them. At most `number - lowest`. With it goes the instance.
    pub unwanted: u32,
    /// Which part of a message it is: the parts have consecutive numbers. With it goes the instance.
    pub part: Option<Part>,
    /// The message, or the part.
    pub body: &'a [u8],
}

/// A part of a message that is too long for one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which it is, from 0.
    pub index: u32,
    /// How many there are: 2 to [`MAX_PARTS`].
    pub count: u32,
}

/// ACK: `flags 1 [| largest | range count | first length | (gap | length)*] [| instance 4 | mark | bitmap length 1 | bitmap
/// [| held length 1 | held]]`.
///
/// Ranges are written as in RFC 9000 section 19.3.1. Flags: bit 0 the stored lane, bit 1 the part about messages is there,
/// bit 2 the part about records is left out, bit 3 behind the bitmap there is a second one. One of the two parts is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The records that were opened, and their lane.
    pub opened: Option<(Lane, Ranges)>,
    /// The messages that were committed.
    pub committed: Option<Committed<'a>>,
}

/// The messages of one instance that the receiver has committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed<'a> {
    /// The instance.
    pub instance: Instance,
    /// Every number below is committed, or not wanted any more.
    pub mark: u32,
    /// Bit i, lowest bit of the first octet first, stands for number `mark + 1 + i`. At most 128 octets, the last not 0.
    pub bitmap: &'a [u8],
    /// Bit i stands for number `mark + i`, which is not committed but has arrived: it need not be sent again under this
    /// session. At most 128 octets, the last not 0.
    pub held: &'a [u8],
}

impl Ack<'_> {
    /// Leaves something out, so that it becomes shorter: what costs least to be without goes first, and what is said stays true.
    /// `false`: nothing is left that it could do without.
    pub fn shorten(&mut self) -> bool {
        let half = |octets: &mut &[u8]| {
            let kept = octets.get(..octets.len() / 2).unwrap_or_default();
            let end = kept.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
            *octets = kept.get(..end).unwrap_or_default();
        };
        match (&mut self.opened, &mut self.committed) {
            (Some((_, ranges)), _) if ranges.count > 1 => ranges.keep(ranges.count / 2),
            (_, Some(committed)) if !committed.bitmap.is_empty() => half(&mut committed.bitmap),
            (opened @ Some(_), Some(_)) => *opened = None,
            (_, Some(committed)) if !committed.held.is_empty() => half(&mut committed.held),
            _ => return false,
        }
        true
    }
}

impl Committed<'_> {
    /// Whether `number` is committed or not wanted any more.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        let Some(above) = number.checked_sub(self.mark) else { return true };
        let Some(bit) = above.checked_sub(1) else { return false };
        let octet = usize::try_from(bit / 8).ok().and_then(|at| self.bitmap.get(at));
        octet.is_some_and(|octet| octet >> (bit % 8) & 1 == 1)
    }

    /// Whether `number` waits at the receiver.
    #[must_use]
    pub fn holds(&self, number: u32) -> bool {
        let Some(bit) = number.checked_sub(self.mark) else { return false };
        let octet = usize::try_from(bit / 8).ok().and_then(|at| self.held.get(at));
        octet.is_some_and(|octet| octet >> (bit % 8) & 1 == 1)
    }
}

/// Ranges of counters, highest first, apart by at least one: at most [`MAX_RANGES`], never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Lowest and highest counter of each range, both inclusive.
    ranges: [(u64, u64); MAX_RANGES],
    count: usize,
}

impl Ranges {
    /// The range of the counters from `low` to `high`, both inclusive. `None` if `low` is above `high`.
    #[must_use]
    pub const fn new(low: u64, high: u64) -> Option<Self> {
        if low > high {
            return None;
        }
        let mut ranges = [(0, 0); MAX_RANGES];
        ranges[0] = (low, high);
        Some(Self { ranges, count: 1 })
    }

    /// Adds a range below the others. Returns `false`, without adding it, if it is not below them with a gap between, or
    /// if there is no place left.
    pub fn push(&mut self, low: u64, high: u64) -> bool {
        let above = self.lowest();
        let fits = low <= high && high.checked_add(1).is_some_and(|next| next < above);
        match self.ranges.get_mut(self.count) {
            Some(slot) if fits => {
                *slot = (low, high);
                self.count += 1;
                true
            }
            _ => false,
        }
    }

    /// Keeps the highest ones.
    fn keep(&mut self, count: usize) {
        self.count = count;
        self.ranges.iter_mut().skip(count).for_each(|range| *range = (0, 0));
    }

    /// The ranges, highest first: lowest and highest counter, both inclusive.
    #[must_use]
    pub fn as_slice(&self) -> &[(u64, u64)] {
        self.ranges.get(..self.count).unwrap_or_default()
    }

    /// The largest counter.
    #[must_use]
    pub fn largest(&self) -> u64 {
        self.as_slice().first().map_or(0, |(_, high)| *high)
    }

    fn lowest(&self) -> u64 {
        self.as_slice().last().map_or(0, |(low, _)| *low)
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        const FIELD: &str = "ACK range";
        let invalid = DecodeError::new(FIELD, Reason::NotCanonical);
        let largest = counter::decode_whole(reader, "ACK largest")?.get();
        let more = reader.varint("ACK range count")?.at_most("ACK range count", MAX_RANGES as u64 - 1)?;
        let first = reader.varint(FIELD)?.get();
        let low = largest.checked_sub(first).ok_or(invalid)?;
        let mut ranges = Self::new(low, largest).ok_or(invalid)?;
        for _ in 0..more {
            // RFC 9000 19.3.1: a gap of 0 leaves one counter out.
            let gap = reader.varint(FIELD)?.get();
            let length = reader.varint(FIELD)?.get();
            let high = ranges.lowest().checked_sub(gap + 2).ok_or(invalid)?;
            let low = high.checked_sub(length).ok_or(invalid)?;
            if !ranges.push(low, high) {
                return Err(invalid);
            }
        }
        Ok(ranges)
    }

    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
        let varint = |number: u64| VarInt::new(number).unwrap_or(VarInt::MAX);
        let mut rest = self.as_slice().iter();
        let (mut lowest, high) = rest.next().copied().unwrap_or_default();
        writer.varint(varint(high))?.varint(varint(rest.len() as u64))?.varint(varint(high - lowest))?;
        for (low, high) in rest {
            writer.varint(varint(lowest - high - 2))?.varint(varint(high - low))?;
            lowest = *low;
        }
        Ok(())
    }
}

/// Why the live lane ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// 0: the application has finished.
    Finished,
    /// 1: the peer sent a record that is not of this protocol.
    Protocol,
    /// 2: policy does not, or no longer, allow the channel.
    Policy,
    /// Another number: a reason that this version has no name for.
    Other(u8),
}

impl CloseReason {
    const fn from_wire(code: u8) -> Self {
        match code {
            0 => Self::Finished,
            1 => Self::Protocol,
            2 => Self::Policy,
            other => Self::Other(other),
        }
    }

    const fn to_wire(self) -> u8 {
        match self {
            Self::Finished => 0,
            Self::Protocol => 1,
            Self::Policy => 2,
            Self::Other(other) => other,
        }
    }
}

impl<'a> Content<'a> {
    /// Decodes the plaintext of a typed record: strips the padding, then reads the type and the content before it.
    ///
    /// # Errors
    /// On a plaintext of zeros only, an unknown type (the channel closes), or a field that is cut off or out of bounds.
    pub fn decode(plaintext: &'a [u8]) -> Result<Self, DecodeError> {
        let end = plaintext.iter().rposition(|octet| *octet != 0);
        let missing = DecodeError::new("content type", Reason::Truncated { needed: 1, got: 0 });
        let end = end.ok_or(missing)?;
        let (content, kind) = plaintext.split_at_checked(end).ok_or(missing)?;
        let mut reader = Reader::new(content);
        let content = match kind.first().copied().unwrap_or_default() {
            START => Self::Start(decode_start(&mut reader)?),
            DATA => Self::Data(reader.rest()),
            RELIABLE => Self::Reliable(decode_reliable(&mut reader, None)?),
            RELIABLE_OTHER => {
                let instance = Instance(reader.array("RELIABLE instance")?);
                Self::Reliable(decode_reliable(&mut reader, Some(instance))?)
            }
            RELIABLE_AFTER_GAP => Self::Reliable(decode_after_gap(&mut reader)?),
            FRAGMENT => Self::Reliable(decode_fragment(&mut reader)?),
            ACK => Self::Ack(decode_ack(&mut reader)?),
            PING => Self::Ping,
            CLOSE => Self::Close(CloseReason::from_wire(reader.u8("CLOSE reason")?)),
            PATH => Self::Path(reader.array("PATH challenge")?),
            PATH_REPLY => Self::PathReply(reader.array("PATH-REPLY challenge")?),
            ROTATE => Self::Rotate(Rotate::decode(&mut reader)?),
            SEED => Self::Seed(Seed::decode(&mut reader)?),
            CANDIDATES => Self::Candidates(Candidates::decode(&mut reader)?),
            FLIGHT => Self::Flight(reader.rest()),
            kind => return Err(DecodeError::new("content type", Reason::Unknown { value: kind.into() })),
        };
        reader.finish("content")?;
        Ok(content)
    }

    /// Writes content and type, without padding, and returns their length in octets.
    ///
    /// # Errors
    /// If `out` is too short.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, EncodeError> {
        let mut writer = Writer::new(out);
        let writer = &mut writer;
        let kind = match self {
            Self::Start(start) => {
                writer.put(&start.instance.0)?.varint(start.stored_before)?.put(start.credentials)?;
                START
            }
            Self::Data(body) => {
                writer.put(body)?;
                DATA
            }
            Self::Reliable(reliable) => {
                reliable.encode_header(writer)?;
                writer.put(reliable.body)?;
                reliable.kind()
            }
            Self::Ack(ack) => {
                encode_ack(ack, writer)?;
                ACK
            }
            Self::Ping => PING,
            Self::Close(reason) => {
                writer.u8(reason.to_wire())?;
                CLOSE
            }
            Self::Path(challenge) => {
                writer.put(challenge)?;
                PATH
            }
            Self::PathReply(challenge) => {
                writer.put(challenge)?;
                PATH_REPLY
            }
            Self::Rotate(rotate) => {
                rotate.encode(writer)?;
                ROTATE
            }
            Self::Seed(seed) => {
                writer.put(seed.0)?;
                SEED
            }
            Self::Candidates(candidates) => {
                candidates.encode(writer)?;
                CANDIDATES
            }
            Self::Flight(frame) => {
                writer.put(frame)?;
                FLIGHT
            }
        };
        writer.u8(kind)?;
        Ok(writer.len())
    }
}

impl<'a> Start<'a> {
    /// The credentials, one by one.
    pub fn credentials(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut reader = Reader::new(self.credentials);
        core::iter::from_fn(move || {
            let len = reader.u16("START credential length").ok()?;
            reader.take("START credential", len.into()).ok()
        })
    }
}

impl Reliable<'_> {
    const fn kind(&self) -> u8 {
        match self.instance {
            Some(_) if self.part.is_some() => FRAGMENT,
            Some(_) if self.unwanted > 0 => RELIABLE_AFTER_GAP,
            Some(_) => RELIABLE_OTHER,
            None => RELIABLE,
        }
    }

    fn encode_header(&self, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
        if let Some(instance) = &self.instance {
            writer.put(&instance.0)?;
        }
        let behind = self.number.saturating_sub(self.lowest);
        writer.varint(VarInt::from_u32(self.number))?.varint(VarInt::from_u32(behind))?;
        if [RELIABLE_AFTER_GAP, FRAGMENT].contains(&self.kind()) {
            writer.varint(VarInt::from_u32(self.unwanted))?;
        }
        if let (Some(part), FRAGMENT) = (self.part, self.kind()) {
            writer.varint(VarInt::from_u32(part.index))?.varint(VarInt::from_u32(part.count))?;
        }
        Ok(())
    }
}

fn decode_start<'a>(reader: &mut Reader<'a>) -> Result<Start<'a>, DecodeError> {
    let instance = Instance(reader.array("START instance")?);
    let stored_before = reader.varint("START stored records")?;
    let credentials = reader.rest();
    let mut list = Reader::new(credentials);
    let mut count = 0;
    while list.remaining() > 0 {
        let len = list.u16("START credential length")?;
        if usize::from(len) > MAX_CREDENTIAL_LEN {
            let reason = Reason::TooLong { limit: MAX_CREDENTIAL_LEN, got: len.into() };
            return Err(DecodeError::new("START credential length", reason));
        }
        list.take("START credential", len.into())?;
        count += 1;
        if count > MAX_CREDENTIALS {
            return Err(DecodeError::new("START credentials", Reason::TooMany { limit: MAX_CREDENTIALS, got: count }));
        }
    }
    Ok(Start { instance, stored_before, credentials })
}

fn decode_reliable<'a>(reader: &mut Reader<'a>, instance: Option<Instance>) -> Result<Reliable<'a>, DecodeError> {
    let number = reader.varint("RELIABLE number")?.to_u32("RELIABLE number")?;
    let behind = reader.varint("RELIABLE distance")?.at_most("RELIABLE distance", number.into())?;
    let behind = VarInt::new(behind).unwrap_or_default().to_u32("RELIABLE distance")?;
    Ok(Reliable { instance, number, lowest: number - behind, unwanted: 0, part: None, body: reader.rest() })
}

fn decode_fragment<'a>(reader: &mut Reader<'a>) -> Result<Reliable<'a>, DecodeError> {
    let instance = Instance(reader.array("FRAGMENT instance")?);
    let reliable = decode_reliable(reader, Some(instance))?;
    let mut reader = Reader::new(reliable.body);
    let distance = reliable.number - reliable.lowest;
    let unwanted = reader.varint("FRAGMENT unwanted")?;
    unwanted.at_most("FRAGMENT unwanted", distance.into())?;
    let unwanted = unwanted.to_u32("FRAGMENT unwanted")?;
    let index = reader.varint("FRAGMENT index")?;
    // The first part has a number too.
    index.at_most("FRAGMENT index", reliable.number.into())?;
    let count = reader.varint("FRAGMENT count")?;
    count.at_most("FRAGMENT count", MAX_PARTS.into())?;
    let part = Part { index: index.to_u32("FRAGMENT index")?, count: count.to_u32("FRAGMENT count")? };
    if part.count < 2 || part.index >= part.count {
        return Err(DecodeError::new("FRAGMENT count", Reason::NotCanonical));
    }
    Ok(Reliable { unwanted, part: Some(part), body: reader.rest(), ..reliable })
}

fn decode_after_gap<'a>(reader: &mut Reader<'a>) -> Result<Reliable<'a>, DecodeError> {
    const FIELD: &str = "RELIABLE unwanted";
    let instance = Instance(reader.array("RELIABLE instance")?);
    let reliable = decode_reliable(reader, Some(instance))?;
    let mut reader = Reader::new(reliable.body);
    let distance = reliable.number - reliable.lowest;
    let unwanted = reader.varint(FIELD)?;
    unwanted.at_most(FIELD, distance.into())?;
    match unwanted.to_u32(FIELD)? {
        // Type 4 says the same in fewer octets.
        0 => Err(DecodeError::new(FIELD, Reason::NotCanonical)),
        unwanted => Ok(Reliable { unwanted, body: reader.rest(), ..reliable }),
    }
}

const ACK_STORED: u8 = 1;
const ACK_COMMITTED: u8 = 2;
const ACK_NO_RECORDS: u8 = 4;
const ACK_HELD: u8 = 8;

fn decode_ack<'a>(reader: &mut Reader<'a>) -> Result<Ack<'a>, DecodeError> {
    let flags = reader.u8("ACK flags")?;
    let known = ACK_STORED | ACK_COMMITTED | ACK_NO_RECORDS | ACK_HELD;
    // Without records there is no lane, and the other part has to be there.
    let contradicts = flags & ACK_NO_RECORDS != 0 && flags & (ACK_STORED | ACK_COMMITTED) != ACK_COMMITTED;
    let contradicts = contradicts || flags & (ACK_COMMITTED | ACK_HELD) == ACK_HELD;
    if flags & !known != 0 || contradicts {
        return Err(DecodeError::new("ACK flags", Reason::Unknown { value: flags.into() }));
    }
    let lane = if flags & ACK_STORED != 0 { Lane::Stored } else { Lane::Live };
    let opened = if flags & ACK_NO_RECORDS != 0 { None } else { Some((lane, Ranges::decode(reader)?)) };
    let committed =
        if flags & ACK_COMMITTED != 0 { Some(decode_committed(reader, flags & ACK_HELD != 0)?) } else { None };
    Ok(Ack { opened, committed })
}

fn decode_committed<'a>(reader: &mut Reader<'a>, with_held: bool) -> Result<Committed<'a>, DecodeError> {
    let instance = Instance(reader.array("ACK instance")?);
    let mark = reader.varint("ACK mark")?.to_u32("ACK mark")?;
    let bitmap = decode_bitmap(reader, "ACK bitmap")?;
    let held = if with_held { decode_bitmap(reader, "ACK held")? } else { &[] };
    if with_held && held.is_empty() {
        return Err(DecodeError::new("ACK held", Reason::NotCanonical));
    }
    Ok(Committed { instance, mark, bitmap, held })
}

fn decode_bitmap<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a [u8], DecodeError> {
    const LIMIT: usize = COMMIT_WINDOW as usize / 8;
    let len = usize::from(reader.u8(field)?);
    if len > LIMIT {
        return Err(DecodeError::new(field, Reason::TooLong { limit: LIMIT, got: len }));
    }
    let bitmap = reader.take(field, len)?;
    if bitmap.last() == Some(&0) {
        return Err(DecodeError::new(field, Reason::NotCanonical));
    }
    Ok(bitmap)
}

fn encode_ack(ack: &Ack<'_>, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
    let records = match &ack.opened {
        Some((Lane::Live, _)) => 0,
        Some((Lane::Stored, _)) => ACK_STORED,
        None => ACK_NO_RECORDS,
    };
    let messages = match &ack.committed {
        Some(committed) if !committed.held.is_empty() => ACK_COMMITTED | ACK_HELD,
        Some(_) => ACK_COMMITTED,
        None => 0,
    };
    writer.u8(records | messages)?;
    if let Some((_, opened)) = &ack.opened {
        opened.encode(writer)?;
    }
    if let Some(committed) = &ack.committed {
        let len = u8::try_from(committed.bitmap.len()).unwrap_or(u8::MAX);
        writer.put(&committed.instance.0)?.varint(VarInt::from_u32(committed.mark))?;
        writer.u8(len)?.put(committed.bitmap)?;
        if !committed.held.is_empty() {
            writer.u8(u8::try_from(committed.held.len()).unwrap_or(u8::MAX))?.put(committed.held)?;
        }
    }
    Ok(())
}
