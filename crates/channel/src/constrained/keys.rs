//! The channel keys of both ends. Each end may have told of another one: until the other has made a handshake with it, either
//! serves.

use alloc::{boxed::Box, vec::Vec};

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

/// Which of the keys of the two ends: it means the same as long as a call with them is unanswered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Which {
    /// Our key before the newest.
    earlier: bool,
    /// The one that the peer has told of, and made no handshake with.
    next: bool,
}

/// What the two ends go by.
pub(super) struct Keys {
    /// Our newest key, and that with which the peer has made its last handshake.
    statics: Statics,
    /// The peer has the newest on its disk.
    is_told: bool,
    /// Of the attestation that the peer has told of last.
    rank: Option<Rank>,
    /// What serves beside them: mostly nothing.
    others: Option<Box<Others>>,
}

/// Keys that serve until a handshake was made with another.
#[derive(Default)]
struct Others {
    /// Our key before the newest: the peer has made no handshake with that.
    earlier: Option<DhHandle>,
    /// What the peer has told of since its last handshake.
    next: Option<PublicKey>,
    /// All that the keys have in common, but of the newest ones.
    statics: Vec<(Which, Statics)>,
}

impl Keys {
    pub(super) fn new<V: Vault>(
        vault: &V,
        (newest, earlier): (DhHandle, Option<DhHandle>),
        peer: PublicKey,
    ) -> Result<Self, VaultError> {
        let statics = Statics { own: newest, peer, shared: vault.dh(&newest, &peer)? };
        let mut keys = Self { statics, is_told: false, rank: None, others: None };
        keys.go_by(vault, earlier.filter(|earlier| *earlier != newest), None)?;
        Ok(keys)
    }

    /// Has these serve beside the newest ones. Computes what is not known of what they have in common, and forgets what does not
    /// serve any more.
    fn go_by<V: Vault>(
        &mut self,
        vault: &V,
        earlier: Option<DhHandle>,
        next: Option<PublicKey>,
    ) -> Result<(), VaultError> {
        let (newest, peer) = (self.statics.own, self.statics.peer);
        let mut statics = Vec::new();
        for (own, is_earlier) in [(Some(newest), false), (earlier, true)] {
            for (peer, is_next) in [(Some(peer), false), (next, true)] {
                let (Some(own), Some(peer), true) = (own, peer, is_earlier || is_next) else { continue };
                let known = self.all().find(|(_, known)| known.own == own && known.peer == peer);
                let agreed = match known {
                    Some((_, known)) => known.clone(),
                    None => Statics { own, peer, shared: vault.dh(&own, &peer)? },
                };
                statics.push((Which { earlier: is_earlier, next: is_next }, agreed));
            }
        }
        statics.shrink_to_fit();
        let is_any = !statics.is_empty();
        self.others = is_any.then(|| Box::new(Others { earlier, next, statics }));
        Ok(())
    }

    /// Our newest.
    pub(super) const fn newest(&self) -> DhHandle {
        self.statics.own
    }

    /// The one before, as long as it serves.
    pub(super) fn earlier(&self) -> Option<DhHandle> {
        self.others.as_ref().and_then(|others| others.earlier)
    }

    /// What the peer has told of since its last handshake.
    pub(super) fn next(&self) -> Option<PublicKey> {
        self.others.as_ref().and_then(|others| others.next)
    }

    /// Whether the peer is to be told of our newest.
    pub(super) fn is_to_be_told(&self) -> bool {
        self.earlier().is_some() && !self.is_told
    }

    /// With which a call is made: of ours what the peer is known to have, of the peer's the newest.
    pub(super) fn for_calls(&self) -> Which {
        Which { earlier: self.is_to_be_told(), next: self.next().is_some() }
    }

    /// Whether another handshake would be made with a key that both ends have, and have used in none.
    pub(super) fn wait_for_call(&self) -> bool {
        self.next().is_some() || self.earlier().is_some() && self.is_told
    }

    /// With which a call may have been made.
    pub(super) fn all(&self) -> impl Iterator<Item = (Which, &Statics)> {
        let others = self.others.iter().flat_map(|others| &others.statics);
        core::iter::once((Which::default(), &self.statics)).chain(others.map(|(which, statics)| (*which, statics)))
    }

    /// These, as long as they serve.
    pub(super) fn get(&self, which: Which) -> Option<&Statics> {
        self.all().find(|(known, _)| *known == which).map(|(_, statics)| statics)
    }

    /// A handshake was made with these: what came before them has served. `true`: that changes something.
    pub(super) fn served(&mut self, which: Which) -> bool {
        let earlier = self.earlier().filter(|_| which.earlier);
        let next = self.next().filter(|_| !which.next);
        let changes = (self.earlier(), self.next()) != (earlier, next);
        if !changes {
            return false;
        }
        self.is_told &= which.earlier;
        let newest = Which { earlier: false, next: which.next };
        let statics = self.get(newest).cloned();
        let mut others = self.others.take();
        if let Some(others) = &mut others {
            // What is left has the same places as before, but that the peer's next is now its own.
            others.statics.retain(|(known, _)| {
                (known.earlier, known.next) != (false, which.next) && (earlier.is_some() || !known.earlier)
            });
            others.statics.retain(|(known, _)| known.next == which.next || next.is_some());
            others.statics.iter_mut().for_each(|(known, _)| known.next &= !which.next);
            others.statics.shrink_to_fit();
            (others.earlier, others.next) = (earlier, next);
        }
        self.others = others.filter(|others| !others.statics.is_empty());
        self.statics = statics.unwrap_or_else(|| self.statics.clone());
        true
    }

    /// The peer has our newest on its disk. `true`: that changes something.
    pub(super) fn told(&mut self) -> bool {
        let is_new = self.is_to_be_told();
        self.is_told |= is_new;
        is_new
    }

    /// The peer will make handshakes with `key`, or with the one that it has used until then.
    pub(super) fn expect<V: Vault>(&mut self, vault: &V, key: PublicKey, rank: Rank) -> Result<(), VaultError> {
        // A key with which nothing can be agreed is none.
        self.go_by(vault, self.earlier(), (key != self.statics.peer).then_some(key))?;
        self.rank = Some(rank);
        Ok(())
    }

    /// With what the peer has made its last handshake.
    pub(super) const fn peer(&self) -> PublicKey {
        self.statics.peer
    }

    pub(super) const fn rank(&self) -> Option<Rank> {
        self.rank
    }

    /// Whether there is anything to be kept beside what a pairing is made of.
    pub(super) fn is_kept(&self) -> bool {
        self.earlier().is_some() || self.rank.is_some()
    }

    /// How long [`save`](Self::save) makes it.
    pub(super) fn saved_len(&self) -> usize {
        let rank = if self.rank.is_some() { 8 + 32 } else { 0 };
        1 + rank + if self.next().is_some() { 32 } else { 0 } + if self.earlier().is_some() { 4 } else { 0 }
    }

    /// `flags 1 | [ check of our earlier key 4 ] [ event 4 | generation 4 | peer's key 32 ] [ peer's next key 32 ]`.
    pub(super) fn save(&self, provider: &impl CryptoProvider, out: &mut Vec<u8>) {
        let flags = [self.earlier().is_some(), self.is_told, self.rank.is_some(), self.next().is_some()];
        out.push(flags.iter().rev().fold(0, |octet, flag| octet << 1 | u8::from(*flag)));
        if let Some(earlier) = self.earlier() {
            out.extend_from_slice(&check::<_, 4>(provider, &[&earlier.0]));
        }
        if let Some((event, generation)) = self.rank {
            out.extend_from_slice(&event.to_be_bytes());
            out.extend_from_slice(&generation.to_be_bytes());
            out.extend_from_slice(&self.statics.peer);
        }
        if let Some(next) = self.next() {
            out.extend_from_slice(&next);
        }
    }

    /// We have had no other key than the newest since this pairing was made, or the peer has made a handshake with it.
    pub(super) fn settle<V: Vault>(&mut self, vault: &V) -> Result<(), VaultError> {
        self.go_by(vault, None, self.next())
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
        let mut earlier = self.earlier();
        if flags & 1 == 0 {
            earlier = earlier.filter(|_| has_rotated);
        } else {
            let known: [u8; 4] = reader.array("earlier key")?;
            earlier = earlier.filter(|earlier| check(vault.provider(), &[&earlier.0]) == known);
            earlier.ok_or(StateError::EarlierKey)?;
        }
        self.is_told = flags & 2 != 0;
        if flags & 4 != 0 {
            let number = |octets| u32::from_be_bytes(octets);
            self.rank = Some((number(reader.array("peer's event")?), number(reader.array("peer's generation")?)));
            let peer = reader.array("peer's key")?;
            if peer != self.statics.peer {
                let own = self.statics.own;
                (self.statics, self.others) = (Statics { own, peer, shared: vault.dh(&own, &peer)? }, None);
            }
        }
        let next = if flags & 8 != 0 { Some(reader.array("peer's next key")?) } else { None };
        Ok(self.go_by(vault, earlier, next)?)
    }
}
