//! Where a frame is to go.

use crate::{BoxName, DecodeError, EncodeError, IdentityId, Reader, Reason, Writer};

/// The most hops a route may have.
pub const MAX_HOPS: usize = 8;

const RELAY: u8 = 1;
const BOX: u8 = 2;

/// One stop on the way of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// Another relay, which the operator of this one has configured. Never an address to dial.
    Relay(IdentityId),
    /// A box at this relay: whoever owns it gets the frame.
    Box(BoxName),
}

/// A list of at most [`MAX_HOPS`] hops, none twice.
///
/// On the wire: `count 1 | (kind 1 | relay id 32 or box name 16)*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    hops: [Option<Hop>; MAX_HOPS],
}

impl Route {
    /// The route with no hop: the receiver itself is meant.
    pub const HERE: Self = Self { hops: [None; MAX_HOPS] };

    /// The route of one hop to a box at the next relay.
    #[must_use]
    pub const fn to_box(name: BoxName) -> Self {
        Self { hops: [Some(Hop::Box(name)), None, None, None, None, None, None, None] }
    }

    /// A route over `hops`.
    ///
    /// # Errors
    /// [`Reason::TooMany`] if there are more than [`MAX_HOPS`], [`Reason::NotCanonical`] if one occurs twice.
    pub fn new(hops: &[Hop]) -> Result<Self, DecodeError> {
        let mut route = Self::HERE;
        if hops.len() > MAX_HOPS {
            return Err(DecodeError::new("route", Reason::TooMany { limit: MAX_HOPS, got: hops.len() }));
        }
        for (slot, hop) in route.hops.iter_mut().zip(hops) {
            *slot = Some(*hop);
        }
        let twice = hops.iter().enumerate().any(|(at, hop)| hops.iter().skip(at + 1).any(|other| other == hop));
        if twice { Err(DecodeError::new("route hop", Reason::NotCanonical)) } else { Ok(route) }
    }

    /// The hops in order.
    pub fn hops(&self) -> impl Iterator<Item = Hop> + '_ {
        self.hops.iter().map_while(|hop| *hop)
    }

    /// The next hop, and the route that is left behind it. `None` if the route ends here.
    #[must_use]
    pub fn split_first(&self) -> Option<(Hop, Self)> {
        let first = self.hops().next()?;
        let mut rest = Self::HERE;
        for (slot, hop) in rest.hops.iter_mut().zip(self.hops().skip(1)) {
            *slot = Some(hop);
        }
        Some((first, rest))
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = usize::from(reader.u8("route hop count")?);
        if count > MAX_HOPS {
            return Err(DecodeError::new("route hop count", Reason::TooMany { limit: MAX_HOPS, got: count }));
        }
        let mut hops = [Hop::Box(BoxName([0; 16])); MAX_HOPS];
        for hop in hops.iter_mut().take(count) {
            *hop = match reader.u8("route hop kind")? {
                RELAY => Hop::Relay(IdentityId(reader.array("route relay id")?)),
                BOX => Hop::Box(BoxName(reader.array("route box name")?)),
                kind => return Err(DecodeError::new("route hop kind", Reason::Unknown { value: kind.into() })),
            };
        }
        Self::new(hops.get(..count).unwrap_or_default())
    }

    #[expect(clippy::cast_possible_truncation, reason = "at most 8 hops")]
    pub(crate) fn encode(&self, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
        writer.u8(self.hops().count() as u8)?;
        for hop in self.hops() {
            match hop {
                Hop::Relay(id) => writer.u8(RELAY)?.put(&id.0)?,
                Hop::Box(name) => writer.u8(BOX)?.put(&name.0)?,
            };
        }
        Ok(())
    }
}
