//! The channel keys of both ends. Each end may have told of another one: until the other has made a handshake with it, either
//! serves.

use alloc::vec::Vec;

use sealway_vault::{CryptoProvider, DhHandle, PublicKey, Secret, Vault, VaultError};
use sealway_wire::{DecodeError, Reader, Reason};

use super::ratchet::check;
use crate::StateError;

/// One channel key of each end, and what they have in common: the dearest operation that is the same in each handshake.
#[derive(Clone)]
pub(super) struct Statics {
    pub(super) own: DhHandle,
    pub(super) peer: PublicKey,
    pub(super) shared: Secret<32>,
}

/// The place of an attestation in the order of those of its identity: event number, generation.
pub(super) type Rank = (u32, u32);

/// What the two ends go by.
pub(super) struct Keys {
    /// Our channel key.
    newest: DhHandle,
    /// The one before: the peer has made no handshake with the newest.
    earlier: Option<DhHandle>,
    /// The peer has the newest on its disk.
    is_told: bool,
    /// With what the peer has made its last handshake.
    peer: PublicKey,
    /// What it has told of since.
    next: Option<PublicKey>,
    /// Of the attestation that the peer has told of last.
    rank: Option<Rank>,
    /// Each of ours with each of the peer's.
    statics: Vec<Statics>,
}

impl Keys {
    pub(super) fn new<V: Vault>(
        vault: &V,
        (newest, earlier): (DhHandle, Option<DhHandle>),
        peer: PublicKey,
    ) -> Result<Self, VaultError> {
        let earlier = earlier.filter(|earlier| *earlier != newest);
        let mut keys = Self { newest, earlier, is_told: false, peer, next: None, rank: None, statics: Vec::new() };
        keys.agree(vault)?;
        Ok(keys)
    }

    /// Computes what is not known of what the keys have in common, and forgets what does not serve any more.
    fn agree<V: Vault>(&mut self, vault: &V) -> Result<(), VaultError> {
        // As many as there are: mostly one.
        let count = (1 + usize::from(self.earlier.is_some())) * (1 + usize::from(self.next.is_some()));
        let mut statics = Vec::with_capacity(count);
        for own in [Some(self.newest), self.earlier].into_iter().flatten() {
            for peer in [Some(self.peer), self.next].into_iter().flatten() {
                let known = self.statics.iter().find(|known| known.own == own && known.peer == peer);
                statics.push(match known {
                    Some(known) => known.clone(),
                    None => Statics { own, peer, shared: vault.dh(&own, &peer)? },
                });
            }
        }
        self.statics = statics;
        Ok(())
    }

    /// Our newest.
    pub(super) const fn newest(&self) -> DhHandle {
        self.newest
    }

    /// The one before, as long as it serves.
    pub(super) const fn earlier(&self) -> Option<DhHandle> {
        self.earlier
    }

    /// Whether the peer is to be told of our newest.
    pub(super) const fn is_to_be_told(&self) -> bool {
        self.earlier.is_some() && !self.is_told
    }

    /// With which a call is made: of ours what the peer is known to have, of the peer's the newest.
    pub(super) fn for_calls(&self) -> Option<&Statics> {
        let own = self.earlier.filter(|_| !self.is_told).unwrap_or(self.newest);
        let peer = self.next.unwrap_or(self.peer);
        self.statics.iter().find(|statics| statics.own == own && statics.peer == peer)
    }

    /// Whether another handshake would be made with a key that both ends have, and have used in none.
    pub(super) const fn wait_for_call(&self) -> bool {
        self.next.is_some() || self.earlier.is_some() && self.is_told
    }

    /// With which a call may have been made.
    pub(super) fn all(&self) -> &[Statics] {
        &self.statics
    }

    /// A handshake was made with these: what came before them has served. `true`: that changes something.
    pub(super) fn served(&mut self, own: DhHandle, peer: PublicKey) -> bool {
        let (before, had) = (self.earlier, self.next);
        if own == self.newest {
            (self.earlier, self.is_told) = (None, false);
        }
        if self.next == Some(peer) {
            (self.peer, self.next) = (peer, None);
        }
        let (newest, earlier, peer, next) = (self.newest, self.earlier, self.peer, self.next);
        self.statics.retain(|statics| {
            [Some(newest), earlier].contains(&Some(statics.own)) && [Some(peer), next].contains(&Some(statics.peer))
        });
        self.statics.shrink_to_fit();
        (self.earlier, self.next) != (before, had)
    }

    /// The peer has our newest on its disk. `true`: that changes something.
    pub(super) fn told(&mut self) -> bool {
        let is_new = self.is_to_be_told();
        self.is_told |= is_new;
        is_new
    }

    /// The peer will make handshakes with `key`, or with the one that it has used until then.
    pub(super) fn expect<V: Vault>(&mut self, vault: &V, key: PublicKey, rank: Rank) -> Result<(), VaultError> {
        let (had, rank_before) = (self.next, self.rank);
        self.next = (key != self.peer).then_some(key);
        self.rank = Some(rank);
        // A key with which nothing can be agreed is none.
        self.agree(vault).inspect_err(|_| (self.next, self.rank) = (had, rank_before))
    }

    /// With what the peer has made its last handshake.
    pub(super) const fn peer(&self) -> PublicKey {
        self.peer
    }

    pub(super) const fn rank(&self) -> Option<Rank> {
        self.rank
    }

    /// Whether there is anything to be kept beside what a pairing is made of.
    pub(super) const fn is_kept(&self) -> bool {
        self.earlier.is_some() || self.rank.is_some()
    }

    /// How long [`save`](Self::save) makes it.
    pub(super) fn saved_len(&self) -> usize {
        let rank = if self.rank.is_some() { 8 + 32 } else { 0 };
        1 + rank + if self.next.is_some() { 32 } else { 0 } + if self.earlier.is_some() { 4 } else { 0 }
    }

    /// `flags 1 | [ check of our earlier key 4 ] [ event 4 | generation 4 | peer's key 32 ] [ peer's next key 32 ]`.
    pub(super) fn save(&self, provider: &impl CryptoProvider, out: &mut Vec<u8>) {
        let flags = [self.earlier.is_some(), self.is_told, self.rank.is_some(), self.next.is_some()];
        out.push(flags.iter().rev().fold(0, |octet, flag| octet << 1 | u8::from(*flag)));
        if let Some(earlier) = &self.earlier {
            out.extend_from_slice(&check::<_, 4>(provider, &[&earlier.0]));
        }
        if let Some((event, generation)) = self.rank {
            out.extend_from_slice(&event.to_be_bytes());
            out.extend_from_slice(&generation.to_be_bytes());
            out.extend_from_slice(&self.peer);
        }
        if let Some(next) = &self.next {
            out.extend_from_slice(next);
        }
    }

    /// We have had no other key than the newest since this pairing was made, or the peer has made a handshake with it.
    pub(super) fn settle<V: Vault>(&mut self, vault: &V) -> Result<(), VaultError> {
        self.earlier = None;
        self.agree(vault)
    }

    /// Takes back what [`save`](Self::save) wrote, under our newest key or, if `has_rotated` since, under the one before.
    pub(super) fn restore<V: Vault>(
        &mut self,
        vault: &V,
        has_rotated: bool,
        reader: &mut Reader<'_>,
    ) -> Result<(), StateError> {
        let flags = reader.u8("key flags")?;
        if flags > 0xf {
            return Err(DecodeError::new("key flags", Reason::Unknown { value: flags.into() }).into());
        }
        if flags & 1 == 0 {
            self.earlier = self.earlier.filter(|_| has_rotated);
        } else {
            let known: [u8; 4] = reader.array("earlier key")?;
            let earlier = self.earlier.filter(|earlier| check(vault.provider(), &[&earlier.0]) == known);
            self.earlier = Some(earlier.ok_or(StateError::EarlierKey)?);
        }
        self.is_told = flags & 2 != 0;
        if flags & 4 != 0 {
            let number = |octets| u32::from_be_bytes(octets);
            self.rank = Some((number(reader.array("peer's event")?), number(reader.array("peer's generation")?)));
            self.peer = reader.array("peer's key")?;
        }
        if flags & 8 != 0 {
            self.next = Some(reader.array("peer's next key")?);
        }
        Ok(self.agree(vault)?)
    }
}
