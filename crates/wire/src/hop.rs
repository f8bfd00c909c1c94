//! What a client and its relay say to each other inside their hop channel. Protocol section 6.
//!
//! A *flow* is a two-way path over one hop session. Each side names it by a label of its own choice, which the other side
//! puts on the frames that it sends: labels are assigned by the receiver of the frames. The first frame of a flow carries
//! the route; the answer assigns the label for the frames after it.

use core::net::SocketAddr;

use crate::{
    BoxName, DecodeError, EncodeError, IdentityId, Reader, Reason, Route, VarInt, Writer,
    candidates::{decode_address, encode_address},
};

const FORWARD: u8 = 0x01;
const ROUTED: u8 = 0x02;
const ASSIGN: u8 = 0x03;
const UNKNOWN: u8 = 0x04;
const ABSENT: u8 = 0x05;
const REGISTER: u8 = 0x06;
const REGISTERED: u8 = 0x07;
const DEPOSIT: u8 = 0x08;
const CUSTODY: u8 = 0x09;
const PUSH: u8 = 0x0a;
const VERDICT: u8 = 0x0b;
const PUBLISH: u8 = 0x0c;
const FETCH: u8 = 0x0d;
const FETCHED: u8 = 0x0e;
const SEEN: u8 = 0x0f;

/// The most hop identities that the owner of a box may list as its senders.
pub const MAX_SENDERS: usize = 32;
/// The longest statement of prekeys that a relay keeps with a box, in octets.
pub const MAX_PUBLISHED: usize = 4096;

/// A flow's name on one hop session, assigned by the receiver of the frames: 1, 2 or 4 octets on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(u32);

impl Label {
    /// The largest label: 2^30 - 1.
    pub const MAX: Self = Self((1 << 30) - 1);

    /// `label`, unless it is larger than [`MAX`](Self::MAX).
    #[must_use]
    pub const fn new(label: u32) -> Option<Self> {
        if label <= Self::MAX.0 { Some(Self(label)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    const fn varint(self) -> VarInt {
        VarInt::from_u32(self.0)
    }

    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        let number = reader.varint(field)?;
        number.at_most(field, Self::MAX.0.into())?;
        number.to_u32(field).map(Self)
    }
}

/// Who may send to a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Senders<'a> {
    /// Every client that the relay lets attach, within its quotas.
    Attached,
    /// These hop identities alone.
    Only(SenderList<'a>),
}

/// Hop identities, in 32 octets each: at least one, at most [`MAX_SENDERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderList<'a>(&'a [[u8; IdentityId::LEN]]);

impl<'a> SenderList<'a> {
    /// The list of these. `None` if there is none, for that would read as everybody, or more than [`MAX_SENDERS`].
    #[must_use]
    pub const fn new(ids: &'a [[u8; IdentityId::LEN]]) -> Option<Self> {
        if ids.is_empty() || ids.len() > MAX_SENDERS { None } else { Some(Self(ids)) }
    }

    /// The identities.
    pub fn ids(&self) -> impl Iterator<Item = IdentityId> + use<'a> {
        self.0.iter().map(|id| IdentityId(*id))
    }
}

/// What became of a request to register a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// The box is open.
    Open,
    /// Another client owns a box of that name.
    Taken,
    /// The client has as many boxes as the relay allows.
    Quota,
}

/// What became of a frame that was deposited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Custody {
    /// It is on the relay's disk, and kept there for so many seconds at most.
    Kept {
        /// The time to live in seconds.
        seconds: VarInt,
    },
    /// There is no such box, or its owner does not let the sender in, or the relay keeps nothing.
    Refused,
    /// The box, or the sender's share of the relay, is full. Retry later.
    Full,
}

/// What the recipient says of a frame that the relay has pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is durable at the recipient, or not wanted any more: the relay deletes it.
    Done,
    /// It cannot be taken now: the relay keeps it.
    Later,
    /// It did not open: the third time the relay deletes it.
    Unopened,
    /// It will never be taken: the relay deletes it.
    Discard(DiscardReason),
}

/// Why a frame is discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscardReason {
    /// 0: it is none that may be deposited.
    Misplaced,
    /// 1: its content is not of this protocol.
    Protocol,
    /// Another number: a reason that this version has no name for.
    Other(u8),
}

impl DiscardReason {
    const fn from_wire(code: u8) -> Self {
        match code {
            0 => Self::Misplaced,
            1 => Self::Protocol,
            other => Self::Other(other),
        }
    }

    const fn to_wire(self) -> u8 {
        match self {
            Self::Misplaced => 0,
            Self::Protocol => 1,
            Self::Other(other) => other,
        }
    }
}

/// A frame of the hop protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopFrame<'a> {
    /// `0x01 | label | frame`: an end-to-end frame of a flow whose label is known.
    Forward {
        /// The label that the receiver assigned.
        label: Label,
        /// The end-to-end frame.
        frame: &'a [u8],
    },
    /// `0x02 | return label | route | frame`: the first frame of a flow.
    Routed {
        /// The sender's label for frames that come back on this flow.
        back: Label,
        /// Where the frame is to go, seen from the receiver.
        route: Route,
        /// The end-to-end frame.
        frame: &'a [u8],
    },
    /// `0x03 | return label | label`: from now on `label` names the flow in the other direction.
    Assign {
        /// The flow, by the label that the receiver of this frame gave it.
        back: Label,
        /// The label to use from now on.
        label: Label,
    },
    /// `0x04 | label`: the sender of this frame does not know that label (any more); send the route again.
    Unknown {
        /// The label.
        label: Label,
    },
    /// `0x05 | return label`: nobody is attached at the end of this flow just now. A hint.
    Absent {
        /// The flow, by the label that the receiver of this frame gave it.
        back: Label,
    },
    /// `0x06 | box 16 | count 1 | ids 32*`: opens a box for the sender of this frame. Count 0: every attached client.
    Register {
        /// The name of the box.
        name: BoxName,
        /// Who may send to it.
        senders: Senders<'a>,
    },
    /// `0x07 | box 16 | outcome 1`: the answer.
    Registered {
        /// The name of the box.
        name: BoxName,
        /// The outcome.
        outcome: Registration,
    },
    /// `0x08 | number | seconds | route | frame`: asks the relay to keep an end-to-end frame until its recipient takes it.
    Deposit {
        /// The sender's number for it, for the answer: never twice in a hop session.
        number: VarInt,
        /// How long it is worth keeping; 0: as long as the relay does.
        seconds: VarInt,
        /// Where the frame is to go, seen from the receiver.
        route: Route,
        /// The end-to-end frame.
        frame: &'a [u8],
    },
    /// `0x09 | number | outcome 1 [| seconds]`: the answer, after the frame is on disk.
    Custody {
        /// The number of the deposit.
        number: VarInt,
        /// The outcome.
        outcome: Custody,
    },
    /// `0x0a | number | frame`: a frame that was deposited, for the owner of the box.
    Push {
        /// The relay's number for it, for the verdict: never twice in a hop session.
        number: VarInt,
        /// The end-to-end frame.
        frame: &'a [u8],
    },
    /// `0x0b | number | verdict 1 [| reason 1]`: what becomes of it.
    Verdict {
        /// The number of the push.
        number: VarInt,
        /// The verdict.
        verdict: Verdict,
    },
    /// `0x0c | box 16 | statement`: the owner's prekeys, at most [`MAX_PUBLISHED`] octets, for those who may send to the box.
    Publish {
        /// The box.
        name: BoxName,
        /// The statement; empty: there is none any more.
        statement: &'a [u8],
    },
    /// `0x0d | number | box 16`: asks for them.
    Fetch {
        /// The asker's number for it, for the answer.
        number: VarInt,
        /// The box.
        name: BoxName,
    },
    /// `0x0e | number | statement`: the answer.
    Fetched {
        /// The number of the question.
        number: VarInt,
        /// The statement. Empty: there is none, or no such box, or its owner does not let the asker in.
        statement: &'a [u8],
    },
    /// `0x0f | address`: from where frames of the receiver come, as the relay's socket sees it.
    Seen {
        /// The address.
        address: SocketAddr,
    },
}

impl<'a> HopFrame<'a> {
    /// Decodes one hop frame.
    ///
    /// # Errors
    /// On an unknown kind, a field that is cut off or out of bounds, or octets that are left over.
    pub fn decode(octets: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(octets);
        let frame = match reader.u8("hop kind")? {
            FORWARD => {
                let label = Label::decode(&mut reader, "FORWARD label")?;
                Self::Forward { label, frame: reader.rest() }
            }
            ROUTED => {
                let back = Label::decode(&mut reader, "ROUTED return label")?;
                let route = Route::decode(&mut reader)?;
                Self::Routed { back, route, frame: reader.rest() }
            }
            ASSIGN => {
                let back = Label::decode(&mut reader, "ASSIGN return label")?;
                Self::Assign { back, label: Label::decode(&mut reader, "ASSIGN label")? }
            }
            UNKNOWN => Self::Unknown { label: Label::decode(&mut reader, "UNKNOWN label")? },
            ABSENT => Self::Absent { back: Label::decode(&mut reader, "ABSENT return label")? },
            REGISTER => {
                Self::Register { name: BoxName(reader.array("REGISTER box")?), senders: decode_senders(&mut reader)? }
            }
            REGISTERED => Self::Registered {
                name: BoxName(reader.array("REGISTERED box")?),
                outcome: decode_outcome(&mut reader)?,
            },
            DEPOSIT => {
                let number = reader.varint("DEPOSIT number")?;
                let seconds = reader.varint("DEPOSIT seconds")?;
                let route = Route::decode(&mut reader)?;
                Self::Deposit { number, seconds, route, frame: reader.rest() }
            }
            CUSTODY => {
                let number = reader.varint("CUSTODY number")?;
                Self::Custody { number, outcome: decode_custody(&mut reader)? }
            }
            PUSH => {
                let number = reader.varint("PUSH number")?;
                Self::Push { number, frame: reader.rest() }
            }
            VERDICT => {
                let number = reader.varint("VERDICT number")?;
                Self::Verdict { number, verdict: decode_verdict(&mut reader)? }
            }
            PUBLISH => {
                let name = BoxName(reader.array("PUBLISH box")?);
                Self::Publish { name, statement: decode_statement(&mut reader, "PUBLISH statement")? }
            }
            FETCH => {
                let number = reader.varint("FETCH number")?;
                Self::Fetch { number, name: BoxName(reader.array("FETCH box")?) }
            }
            FETCHED => {
                let number = reader.varint("FETCHED number")?;
                Self::Fetched { number, statement: decode_statement(&mut reader, "FETCHED statement")? }
            }
            SEEN => Self::Seen { address: decode_address(&mut reader, "SEEN address")? },
            kind => return Err(DecodeError::new("hop kind", Reason::Unknown { value: kind.into() })),
        };
        reader.finish("hop frame")?;
        Ok(frame)
    }

    /// Writes the frame and returns its length in octets.
    ///
    /// # Errors
    /// If `out` is too short.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, EncodeError> {
        let mut writer = Writer::new(out);
        match self {
            Self::Forward { label, frame } => writer.u8(FORWARD)?.varint(label.varint())?.put(frame)?,
            Self::Routed { back, route, frame } => {
                writer.u8(ROUTED)?.varint(back.varint())?;
                route.encode(&mut writer)?;
                writer.put(frame)?
            }
            Self::Assign { back, label } => writer.u8(ASSIGN)?.varint(back.varint())?.varint(label.varint())?,
            Self::Unknown { label } => writer.u8(UNKNOWN)?.varint(label.varint())?,
            Self::Absent { back } => writer.u8(ABSENT)?.varint(back.varint())?,
            Self::Register { name, senders } => {
                writer.u8(REGISTER)?.put(&name.0)?;
                encode_senders(senders, &mut writer)?;
                &mut writer
            }
            Self::Registered { name, outcome } => {
                let outcome = match outcome {
                    Registration::Open => 0,
                    Registration::Taken => 1,
                    Registration::Quota => 2,
                };
                writer.u8(REGISTERED)?.put(&name.0)?.u8(outcome)?
            }
            Self::Deposit { number, seconds, route, frame } => {
                writer.u8(DEPOSIT)?.varint(*number)?.varint(*seconds)?;
                route.encode(&mut writer)?;
                writer.put(frame)?
            }
            Self::Custody { number, outcome } => {
                let writer = writer.u8(CUSTODY)?.varint(*number)?;
                match outcome {
                    Custody::Kept { seconds } => writer.u8(0)?.varint(*seconds)?,
                    Custody::Refused => writer.u8(1)?,
                    Custody::Full => writer.u8(2)?,
                }
            }
            Self::Push { number, frame } => writer.u8(PUSH)?.varint(*number)?.put(frame)?,
            Self::Verdict { number, verdict } => {
                let writer = writer.u8(VERDICT)?.varint(*number)?;
                match verdict {
                    Verdict::Done => writer.u8(0)?,
                    Verdict::Later => writer.u8(1)?,
                    Verdict::Unopened => writer.u8(2)?,
                    Verdict::Discard(reason) => writer.u8(3)?.u8(reason.to_wire())?,
                }
            }
            Self::Publish { name, statement } => writer.u8(PUBLISH)?.put(&name.0)?.put(statement)?,
            Self::Fetch { number, name } => writer.u8(FETCH)?.varint(*number)?.put(&name.0)?,
            Self::Fetched { number, statement } => writer.u8(FETCHED)?.varint(*number)?.put(statement)?,
            Self::Seen { address } => {
                encode_address(*address, writer.u8(SEEN)?)?;
                &mut writer
            }
        };
        Ok(writer.len())
    }
}

fn decode_senders<'a>(reader: &mut Reader<'a>) -> Result<Senders<'a>, DecodeError> {
    let count = usize::from(reader.u8("REGISTER sender count")?);
    if count > MAX_SENDERS {
        return Err(DecodeError::new("REGISTER sender count", Reason::TooMany { limit: MAX_SENDERS, got: count }));
    }
    let (ids, _) = reader.take("REGISTER sender ids", count * IdentityId::LEN)?.as_chunks();
    Ok(SenderList::new(ids).map_or(Senders::Attached, Senders::Only))
}

fn encode_senders(senders: &Senders<'_>, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
    let ids = match senders {
        Senders::Attached => &[],
        Senders::Only(list) => list.0,
    };
    writer.u8(u8::try_from(ids.len()).unwrap_or(u8::MAX))?.put(ids.as_flattened())?;
    Ok(())
}

fn decode_statement<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a [u8], DecodeError> {
    let (limit, got) = (MAX_PUBLISHED, reader.remaining());
    if got > limit { Err(DecodeError::new(field, Reason::TooLong { limit, got })) } else { Ok(reader.rest()) }
}

fn decode_outcome(reader: &mut Reader<'_>) -> Result<Registration, DecodeError> {
    match reader.u8("REGISTERED outcome")? {
        0 => Ok(Registration::Open),
        1 => Ok(Registration::Taken),
        2 => Ok(Registration::Quota),
        value => Err(DecodeError::new("REGISTERED outcome", Reason::Unknown { value: value.into() })),
    }
}

fn decode_custody(reader: &mut Reader<'_>) -> Result<Custody, DecodeError> {
    match reader.u8("CUSTODY outcome")? {
        0 => Ok(Custody::Kept { seconds: reader.varint("CUSTODY seconds")? }),
        1 => Ok(Custody::Refused),
        2 => Ok(Custody::Full),
        value => Err(DecodeError::new("CUSTODY outcome", Reason::Unknown { value: value.into() })),
    }
}

fn decode_verdict(reader: &mut Reader<'_>) -> Result<Verdict, DecodeError> {
    match reader.u8("VERDICT verdict")? {
        0 => Ok(Verdict::Done),
        1 => Ok(Verdict::Later),
        2 => Ok(Verdict::Unopened),
        3 => Ok(Verdict::Discard(DiscardReason::from_wire(reader.u8("VERDICT reason")?))),
        value => Err(DecodeError::new("VERDICT verdict", Reason::Unknown { value: value.into() })),
    }
}
