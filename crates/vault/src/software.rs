//! A vault in memory, over any provider.

use alloc::{collections::BTreeMap, vec::Vec};
use core::fmt;

use zeroize::Zeroizing;

use crate::{
    Algorithm, CryptoProvider, DhHandle, DhKey, KeyStore, PublicKey, Secret, Signature, SigningHandle, SigningKey,
    Vault, VaultError, VerifyingKey,
};

/// Private keys in memory, loaded and ready, wiped on drop.
pub struct SoftwareVault<P: CryptoProvider> {
    provider: P,
    dh: BTreeMap<DhHandle, Entry<P::DhKey>>,
    signing: BTreeMap<SigningHandle, Entry<P::SigningKey>>,
}

struct Entry<K> {
    /// What [`SoftwareVault::save`] writes: providers need not be able to give a loaded key back.
    seed: Secret<32>,
    key: K,
}

impl<P: CryptoProvider> SoftwareVault<P> {
    /// An empty vault.
    #[must_use]
    pub const fn new(provider: P) -> Self {
        Self { provider, dh: BTreeMap::new(), signing: BTreeMap::new() }
    }

    /// All keys, for a backend that encrypts them: `count 2 | (kind 1 | private key 32)*`, kinds 1 X25519, 2 Ed25519,
    /// 3 P-256.
    ///
    /// # Errors
    /// [`VaultError::Malformed`] if there are more than 65535 keys.
    ///
    /// # Security
    /// These are the private keys. The buffer wipes itself on drop.
    pub fn save(&self) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let count = u16::try_from(self.dh.len() + self.signing.len()).map_err(|_| VaultError::Malformed)?;
        let mut octets = Zeroizing::new(Vec::with_capacity(2 + usize::from(count) * ENTRY_LEN));
        octets.extend_from_slice(&count.to_be_bytes());
        for entry in self.dh.values() {
            octets.push(KIND_X25519);
            octets.extend_from_slice(entry.seed.expose());
        }
        for entry in self.signing.values() {
            octets.push(match entry.key.verifying_key().algorithm() {
                Algorithm::Ed25519 => KIND_ED25519,
                Algorithm::P256 => KIND_P256,
            });
            octets.extend_from_slice(entry.seed.expose());
        }
        Ok(octets)
    }

    /// The vault that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`VaultError::Malformed`] on any other octets.
    pub fn load(provider: P, octets: &[u8]) -> Result<Self, VaultError> {
        let (count, entries) = octets.split_first_chunk().ok_or(VaultError::Malformed)?;
        let (entries, rest) = entries.as_chunks::<ENTRY_LEN>();
        if entries.len() != usize::from(u16::from_be_bytes(*count)) || !rest.is_empty() {
            return Err(VaultError::Malformed);
        }
        let mut vault = Self::new(provider);
        for [kind, seed @ ..] in entries {
            let seed = Secret::new(*seed);
            match *kind {
                KIND_X25519 => drop(vault.insert_dh(seed)),
                KIND_ED25519 => drop(vault.import_signing(Algorithm::Ed25519, &seed)?),
                KIND_P256 => drop(vault.import_signing(Algorithm::P256, &seed)?),
                _ => return Err(VaultError::Malformed),
            }
        }
        Ok(vault)
    }

    fn insert_dh(&mut self, seed: Secret<32>) -> DhHandle {
        let key = self.provider.load_dh(&seed);
        let handle = DhHandle(key.public());
        self.dh.insert(handle, Entry { seed, key });
        handle
    }

    fn dh_entry(&self, handle: &DhHandle) -> Result<&Entry<P::DhKey>, VaultError> {
        self.dh.get(handle).ok_or(VaultError::UnknownKey)
    }

    fn signing_entry(&self, handle: &SigningHandle) -> Result<&Entry<P::SigningKey>, VaultError> {
        self.signing.get(handle).ok_or(VaultError::UnknownKey)
    }
}

const ENTRY_LEN: usize = 33;
const KIND_X25519: u8 = 1;
const KIND_ED25519: u8 = 2;
const KIND_P256: u8 = 3;

impl<P: CryptoProvider> Vault for SoftwareVault<P> {
    type Provider = P;

    fn provider(&self) -> &P {
        &self.provider
    }

    fn dh_public(&self, handle: &DhHandle) -> Result<PublicKey, VaultError> {
        // The handle is the public key: it was computed once, when the key was loaded.
        self.dh_entry(handle).map(|_| handle.0)
    }

    fn dh(&self, handle: &DhHandle, peer: &PublicKey) -> Result<Secret<32>, VaultError> {
        Ok(self.dh_entry(handle)?.key.agree(peer)?)
    }

    fn verifying_key(&self, handle: &SigningHandle) -> Result<VerifyingKey, VaultError> {
        Ok(self.signing_entry(handle)?.key.verifying_key())
    }

    fn sign(&self, handle: &SigningHandle, message: &[u8]) -> Result<Signature, VaultError> {
        Ok(self.signing_entry(handle)?.key.sign(message))
    }
}

impl<P: CryptoProvider> KeyStore for SoftwareVault<P> {
    fn generate_dh(&mut self) -> Result<DhHandle, VaultError> {
        let seed = self.provider.random_secret()?;
        Ok(self.insert_dh(seed))
    }

    fn generate_signing(&mut self, algorithm: Algorithm) -> Result<SigningHandle, VaultError> {
        loop {
            let seed = self.provider.random_secret()?;
            // One P-256 seed in 2^32 is no key; the next one is.
            if let Ok(handle) = self.import_signing(algorithm, &seed) {
                return Ok(handle);
            }
        }
    }

    fn import_signing(&mut self, algorithm: Algorithm, seed: &Secret<32>) -> Result<SigningHandle, VaultError> {
        let key = self.provider.load_signing(algorithm, seed).map_err(|_| VaultError::Malformed)?;
        let handle = SigningHandle(self.provider.sha256(&[key.verifying_key().as_bytes()]));
        self.signing.insert(handle, Entry { seed: seed.clone(), key });
        Ok(handle)
    }

    fn remove_dh(&mut self, handle: &DhHandle) -> bool {
        self.dh.remove(handle).is_some()
    }

    fn remove_signing(&mut self, handle: &SigningHandle) -> bool {
        self.signing.remove(handle).is_some()
    }
}

impl<P: CryptoProvider> fmt::Debug for SoftwareVault<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftwareVault({} X25519 keys, {} signing keys)", self.dh.len(), self.signing.len())
    }
}
