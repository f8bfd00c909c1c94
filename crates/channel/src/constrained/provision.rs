//! A pairing as it is handed to a machine that is provisioned: octets for its flash, or for the other side's records.
//!
//! ```text
//! "SWPR" 4 | version 1 (1) | role 1 | own id 32 | peer's id 32 | peer's channel key 32 | psk 32 | recovery psk 32 |
//!     length 2 | own private keys | length 2 | own identity | check 4
//! ```
//!
//! role 0 calls, 1 answers. Private keys and identity are those of a device, as `SoftwareVault::save` and `Owner::save` write
//! them; the side that has a vault has neither here. check = SHA-256 of all before, cut: against damage, not against anybody.

use alloc::vec::Vec;

use sealway_vault::{CryptoProvider, DhHandle, PublicKey, Secret};
use sealway_wire::{DecodeError, IdentityId, Reader, Reason};
use zeroize::Zeroizing;

use super::PairingKeys;
use crate::Role;

const MAGIC: [u8; 4] = *b"SWPR";
const VERSION: u8 = 1;
const CHECK_LEN: usize = 4;
/// The longest private keys and identity, in octets.
const MAX_PART: usize = 2048;
const KEYS: &str = "provision private keys";
const IDENTITY: &str = "provision identity";

/// What one side of a pairing begins with. Its secrets wipe themselves on drop.
#[derive(Clone)]
pub struct Provision {
    /// Who calls.
    pub role: Role,
    /// The own identity.
    pub own: IdentityId,
    /// The peer's identity.
    pub peer: IdentityId,
    /// The peer's channel key.
    pub peer_key: PublicKey,
    /// The first psk.
    pub psk: Secret<32>,
    /// The psk that recovers the pairing.
    pub recovery: Secret<32>,
    /// Private keys, for a vault; empty where there is one.
    pub keys: Zeroizing<Vec<u8>>,
    /// The identity whose keys they are; empty where there is a vault.
    pub identity: Vec<u8>,
}

impl Provision {
    /// The octets that [`decode`](Self::decode) takes.
    ///
    /// # Errors
    /// If private keys or identity are longer than 2048 octets.
    ///
    /// # Security
    /// Whoever has them is the device.
    pub fn encode(&self, provider: &impl CryptoProvider) -> Result<Zeroizing<Vec<u8>>, DecodeError> {
        let len = MAGIC.len() + 2 + 5 * 32 + 2 + self.keys.len() + 2 + self.identity.len() + CHECK_LEN;
        // As much as is needed: a buffer that grew would leave secrets behind.
        let mut octets = Zeroizing::new(Vec::with_capacity(len));
        octets.extend_from_slice(&MAGIC);
        octets.push(VERSION);
        octets.push(u8::from(self.role == Role::Responder));
        let parts = [&self.own.0, &self.peer.0, &self.peer_key, self.psk.expose(), self.recovery.expose()];
        parts.iter().for_each(|part| octets.extend_from_slice(part.as_slice()));
        for (field, part) in [(KEYS, self.keys.as_slice()), (IDENTITY, &self.identity)] {
            let too_long = DecodeError::new(field, Reason::TooLong { limit: MAX_PART, got: part.len() });
            let length = u16::try_from(part.len()).ok().filter(|_| part.len() <= MAX_PART).ok_or(too_long)?;
            octets.extend_from_slice(&length.to_be_bytes());
            octets.extend_from_slice(part);
        }
        let check = provider.sha256(&[&octets]);
        octets.extend_from_slice(&check[..CHECK_LEN]);
        Ok(octets)
    }

    /// Takes back what [`encode`](Self::encode) gave. More octets may follow, as flash is erased in pages.
    ///
    /// # Errors
    /// Names the field that is not as it must be: another version, a part that is too long, or damage.
    pub fn decode(provider: &impl CryptoProvider, octets: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(octets);
        if reader.array::<4>("provision magic")? != MAGIC {
            return Err(DecodeError::new("provision magic", Reason::Malformed));
        }
        let version = reader.u8("provision version")?;
        if version != VERSION {
            return Err(DecodeError::new("provision version", Reason::Unknown { value: version.into() }));
        }
        let role = match reader.u8("provision role")? {
            0 => Role::Initiator,
            1 => Role::Responder,
            value => return Err(DecodeError::new("provision role", Reason::Unknown { value: value.into() })),
        };
        let own = IdentityId(reader.array("provision own id")?);
        let peer = IdentityId(reader.array("provision peer id")?);
        let peer_key = reader.array("provision peer key")?;
        let psk = Secret::new(reader.array("provision psk")?);
        let recovery = Secret::new(reader.array("provision recovery psk")?);
        let mut part = |field| {
            let length = usize::from(u16::from_be_bytes(reader.array(field)?));
            if length > MAX_PART {
                return Err(DecodeError::new(field, Reason::TooLong { limit: MAX_PART, got: length }));
            }
            reader.take(field, length).map(<[u8]>::to_vec)
        };
        let keys = Zeroizing::new(part(KEYS)?);
        let identity = part(IDENTITY)?;
        let checked = octets.len() - reader.remaining();
        let check: [u8; CHECK_LEN] = reader.array("provision check")?;
        let known = provider.sha256(&[octets.get(..checked).unwrap_or_default()]);
        if check != known[..CHECK_LEN] {
            return Err(DecodeError::new("provision check", Reason::Malformed));
        }
        Ok(Self { role, own, peer, peer_key, psk, recovery, keys, identity })
    }

    /// What [`Pairing::new`](super::Pairing::new) takes, for the channel key that is in the vault under this handle.
    #[must_use]
    pub fn into_keys(self, channel_key: DhHandle) -> PairingKeys {
        let Self { role, own, peer, peer_key, psk, recovery, .. } = self;
        PairingKeys { role, own, channel_key, earlier_key: None, peer, peer_key, psk, recovery }
    }
}

impl core::fmt::Debug for Provision {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Provision").field("role", &self.role).field("own", &self.own).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;
    use sealway_testkit::entropy::seeded_provider;

    use super::*;

    fn provision() -> Provision {
        Provision {
            role: Role::Initiator,
            own: IdentityId([1; 32]),
            peer: IdentityId([2; 32]),
            peer_key: [3; 32],
            psk: Secret::new([4; 32]),
            recovery: Secret::new([5; 32]),
            keys: Zeroizing::new(vec![6; 68]),
            identity: vec![7; 300],
        }
    }

    #[test]
    fn what_is_written_is_taken_back_and_damage_is_noticed() {
        let provider = seeded_provider(1);
        let mut octets = provision().encode(&provider).unwrap().to_vec();
        let same = |decoded: &Provision| decoded.encode(&provider).unwrap() == provision().encode(&provider).unwrap();
        assert!(same(&Provision::decode(&provider, &octets).unwrap()));
        for bit in 0..octets.len() * 8 {
            octets[bit / 8] ^= 1 << (bit % 8);
            assert!(Provision::decode(&provider, &octets).is_err(), "bit {bit}");
            octets[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..octets.len() {
            assert!(Provision::decode(&provider, &octets[..len]).is_err());
        }
        // Erased flash behind it.
        octets.extend_from_slice(&[0xff; 64]);
        assert!(same(&Provision::decode(&provider, &octets).unwrap()));
        assert!(!alloc::format!("{:?}", provision()).contains("4, 4"));
        let long = Provision { identity: vec![7; 2049], ..provision() };
        assert_eq!(long.encode(&provider).unwrap_err().field, "provision identity");
    }

    proptest! {
        #[test]
        fn any_octets_are_an_error(octets in prop::collection::vec(any::<u8>(), 0..600)) {
            let provider = seeded_provider(1);
            prop_assert!(Provision::decode(&provider, &octets).is_err());
            let framed = [b"SWPR\x01\x00".as_slice(), &octets].concat();
            prop_assert!(Provision::decode(&provider, &framed).is_err());
        }
    }
}
