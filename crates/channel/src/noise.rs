//! snow over a vault and its provider: the static key stays in the vault, the rest is the provider's.
//!
//! snow takes a resolver whose objects are `'static + Send + Sync`; the vault is cloned into them. What snow is given as
//! the "private key" is the handle. Randomness is drawn before a handshake begins and handed over once, as the seed of its
//! only ephemeral key.

use alloc::boxed::Box;
use core::ops::{Deref, DerefMut};

use sealway_vault::{AeadKey, CryptoProvider, DhHandle, DhKey, PublicKey, Secret, Sha256, Vault};
use snow::{
    Builder, Error, HandshakeState,
    error::InitStage,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::CryptoResolver,
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::{Zeroize, Zeroizing};

use crate::{HandshakeError, Role};

/// The pattern of S1. The PSK of position 3 is set before message 3.
pub(crate) const S1: &str = "Noise_XKpsk3_25519_AESGCM_SHA256";
/// The pattern of C1.
pub(crate) const C1: &str = "Noise_KKpsk0_25519_AESGCM_SHA256";
/// The pattern of M1.
pub(crate) const M1: &str = "Noise_Xpsk1_25519_AESGCM_SHA256";
/// A pattern without keys, to overwrite a finished handshake with.
const BLANK: &str = "Noise_NN_25519_AESGCM_SHA256";

/// A handshake that overwrites itself where it lies before its memory is freed: snow wipes nothing itself.
pub(crate) struct Handshake<V: Vault + Clone + 'static> {
    state: Box<HandshakeState>,
    vault: V,
}

impl<V: Vault + Clone + 'static> Deref for Handshake<V> {
    type Target = HandshakeState;

    fn deref(&self) -> &HandshakeState {
        &self.state
    }
}

impl<V: Vault + Clone + 'static> DerefMut for Handshake<V> {
    fn deref_mut(&mut self) -> &mut HandshakeState {
        &mut self.state
    }
}

impl<V: Vault + Clone + 'static> Drop for Handshake<V> {
    fn drop(&mut self) {
        let resolver = Resolver { vault: self.vault.clone(), ephemeral: Secret::zero(), known: None, held: None };
        let blank = BLANK.parse().map_err(HandshakeError::from);
        let blank = blank.and_then(|name| Ok(Builder::with_resolver(name, Box::new(resolver)).build_responder()?));
        if let Ok(blank) = blank {
            *self.state = blank;
        }
    }
}

/// Where the own static key is.
pub(crate) enum Local<'a> {
    /// In the vault.
    Vault(&'a DhHandle),
    /// Here: a prekey, which outlives no vault.
    Held(&'a Secret<32>),
}

/// What a handshake begins with.
pub(crate) struct Setup<'a> {
    pub(crate) pattern: &'static str,
    pub(crate) role: Role,
    pub(crate) prologue: &'a [u8],
    pub(crate) local: Local<'a>,
    /// The peer's static key, where the pattern has it known beforehand.
    pub(crate) remote: Option<&'a PublicKey>,
    /// The psk of an early position, in patterns that have one.
    pub(crate) psk: Option<(u8, &'a Secret<32>)>,
    /// Seed of the only ephemeral key.
    pub(crate) ephemeral: Secret<32>,
    /// What has been computed before, where the peer's static key is known.
    pub(crate) known: Option<Known>,
}

/// What has been computed of a handshake before it begins.
#[derive(Clone)]
pub(crate) struct Known {
    /// The public key of the ephemeral key.
    pub(crate) ephemeral: Option<PublicKey>,
    /// What Diffie-Hellman of the two static keys gives.
    pub(crate) statics: Option<Secret<32>>,
    /// What it gives of the ephemeral key and the peer's static one.
    pub(crate) ephemeral_static: Option<Secret<32>>,
}

impl Known {
    fn with(&self, is_ephemeral: bool) -> Option<Secret<32>> {
        if is_ephemeral { self.ephemeral_static.clone() } else { self.statics.clone() }
    }
}

/// Begins a handshake.
///
/// # Errors
/// [`HandshakeError::Noise`] if the vault does not have the static key: snow would notice only later.
pub(crate) fn build<V: Vault + Clone + 'static>(vault: &V, setup: Setup<'_>) -> Result<Handshake<V>, HandshakeError> {
    let (handle, held) = match setup.local {
        Local::Vault(handle) => {
            vault.dh_public(handle).map_err(|_| HandshakeError::Noise)?;
            (*handle, None)
        }
        // The handle is of no vault: the resolver has the key itself.
        Local::Held(key) => (DhHandle([0; 32]), Some(key.clone())),
    };
    let known = setup.remote.zip(setup.known).map(|(remote, known)| Box::new((*remote, known)));
    let resolver = Resolver { vault: vault.clone(), ephemeral: setup.ephemeral, known, held };
    let mut builder = Builder::with_resolver(setup.pattern.parse()?, Box::new(resolver))
        .local_private_key(&handle.0)?
        .prologue(setup.prologue)?;
    if let Some((position, psk)) = setup.psk {
        builder = builder.psk(position, psk.expose())?;
    }
    if let Some(remote) = setup.remote {
        builder = builder.remote_public_key(remote)?;
    }
    let state = match setup.role {
        Role::Initiator => builder.build_initiator()?,
        Role::Responder => builder.build_responder()?,
    };
    Ok(Handshake { state: Box::new(state), vault: vault.clone() })
}

/// The hash of the transcript so far: `h` of the Noise specification.
pub(crate) fn transcript_hash(state: &HandshakeState) -> Result<[u8; 32], HandshakeError> {
    state.get_handshake_hash().try_into().map_err(|_| HandshakeError::Noise)
}

/// The two keys of a finished handshake, initiator's first.
///
/// # Errors
/// [`HandshakeError::Noise`] if it has not finished: snow itself does not check.
pub(crate) fn raw_split(state: &mut HandshakeState) -> Result<Zeroizing<[u8; 64]>, HandshakeError> {
    if !state.is_handshake_finished() {
        return Err(HandshakeError::Noise);
    }
    let (mut first, mut second) = state.dangerously_get_raw_split();
    let mut keys = Zeroizing::new([0; 64]);
    keys[..32].copy_from_slice(&first);
    keys[32..].copy_from_slice(&second);
    first.zeroize();
    second.zeroize();
    Ok(keys)
}

struct Resolver<V> {
    vault: V,
    ephemeral: Secret<32>,
    /// With the peer's static key.
    known: Option<Box<(PublicKey, Known)>>,
    /// The own static key, where it is not in the vault.
    held: Option<Secret<32>>,
}

impl<V: Vault + Clone + 'static> CryptoResolver for Resolver<V> {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(OneSeed(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let (known, held) = (self.known.clone(), self.held.clone());
        let dh = NoiseDh { vault: self.vault.clone(), key: Key::<V>::None, public: [0; 32], known, held };
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(dh) as _)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        let hash = NoiseHash(<V::Provider as CryptoProvider>::Sha256::default());
        matches!(choice, HashChoice::SHA256).then(|| Box::new(hash) as _)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        let cipher = NoiseCipher::<V::Provider> { key: Secret::zero(), provider: core::marker::PhantomData };
        matches!(choice, CipherChoice::AESGCM).then(|| Box::new(cipher) as _)
    }
}

/// Gives the seed of the one ephemeral key, then nothing.
struct OneSeed(Option<Secret<32>>);

impl Random for OneSeed {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        let seed = self.0.take().ok_or(Error::Rng)?;
        let dest = dest.first_chunk_mut::<32>().ok_or(Error::Rng)?;
        *dest = *seed.expose();
        Ok(())
    }
}

struct NoiseDh<V: Vault> {
    vault: V,
    key: Key<V>,
    public: PublicKey,
    known: Option<Box<(PublicKey, Known)>>,
    held: Option<Secret<32>>,
}

enum Key<V: Vault> {
    None,
    Static(DhHandle),
    /// An ephemeral key, or a prekey.
    Loaded(<V::Provider as CryptoProvider>::DhKey),
}

impl<V: Vault> Dh for NoiseDh<V> {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, handle: &[u8]) {
        if let Some(held) = &self.held {
            let key = self.vault.provider().load_dh(held);
            self.public = key.public();
            self.key = Key::Loaded(key);
            return;
        }
        let handle = handle.first_chunk().map(|octets| DhHandle(*octets));
        if let Some((handle, public)) = handle.and_then(|handle| Some((handle, self.vault.dh_public(&handle).ok()?))) {
            self.key = Key::Static(handle);
            self.public = public;
        }
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut seed = Secret::zero();
        rng.try_fill_bytes(seed.expose_mut())?;
        let key = self.vault.provider().load_dh(&seed);
        let known = self.known.as_ref().and_then(|known| known.1.ephemeral);
        self.public = known.unwrap_or_else(|| key.public());
        self.key = Key::Loaded(key);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &[]
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let (Some(peer), Some(out)) = (pubkey.first_chunk(), out.first_chunk_mut::<32>()) else {
            return Err(Error::Dh);
        };
        let known = self.known.as_ref().filter(|known| known.0 == *peer);
        let known = |is_ephemeral| known.and_then(|known| known.1.with(is_ephemeral));
        let shared = match &self.key {
            Key::None => return Err(Error::Dh),
            Key::Static(handle) => match known(false) {
                Some(shared) => shared,
                None => self.vault.dh(handle, peer).map_err(|_| Error::Dh)?,
            },
            Key::Loaded(key) => match known(self.held.is_none()) {
                Some(shared) => shared,
                None => key.agree(peer).map_err(|_| Error::Dh)?,
            },
        };
        *out = *shared.expose();
        Ok(())
    }
}

/// Keyed on use: an expanded key is four times the size, and a half-open handshake keeps three of these.
struct NoiseCipher<P> {
    key: Secret<32>,
    provider: core::marker::PhantomData<fn() -> P>,
}

impl<P: CryptoProvider> NoiseCipher<P> {
    fn keyed(&self) -> P::AeadKey {
        P::AeadKey::new(&self.key)
    }
}

/// Noise specification, section 12.4: 4 zero octets, then the counter, big-endian.
fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

impl<P: CryptoProvider> Cipher for NoiseCipher<P> {
    fn name(&self) -> &'static str {
        "AESGCM"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.key = Secret::new(*key);
    }

    fn encrypt(&self, counter: u64, associated: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (data, tag) = out.split_at_mut(plaintext.len());
        data.copy_from_slice(plaintext);
        let sealed = self.keyed().seal(&nonce(counter), associated, data);
        tag[..sealed.len()].copy_from_slice(&sealed);
        plaintext.len() + sealed.len()
    }

    fn decrypt(&self, counter: u64, associated: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let (data, tag) = sealed.split_last_chunk().ok_or(Error::Decrypt)?;
        let out = out.get_mut(..data.len()).ok_or(Error::Decrypt)?;
        out.copy_from_slice(data);
        self.keyed().open(&nonce(counter), associated, out, tag).map_err(|_| Error::Decrypt)?;
        Ok(data.len())
    }
}

struct NoiseHash<H>(H);

impl<H: Sha256> Hash for NoiseHash<H> {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = H::default();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(&self.0.finish());
    }
}

impl From<InitStage> for HandshakeError {
    fn from(_: InitStage) -> Self {
        Self::Noise
    }
}

/// The published vectors of the three patterns of the protocol, through this resolver and a vault of handles.
#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

    use sealway_testkit::{entropy::seeded_provider, hex};
    use sealway_vault::{KeyStore, SoftwareVault};
    use serde_json::Value;

    use super::*;

    fn field<const N: usize>(vector: &Value, name: &str) -> Option<[u8; N]> {
        vector[name].as_str().map(|text| hex(text).try_into().unwrap())
    }

    /// A vault with one given X25519 key, by way of its saved form.
    fn vault_of(private: [u8; 32]) -> (alloc::sync::Arc<impl Vault + use<>>, DhHandle) {
        let saved = [&[0, 1, 1], private.as_slice()].concat();
        let vault = SoftwareVault::load(seeded_provider(0), &saved).unwrap();
        let public = vault.provider().load_dh(&Secret::new(private)).public();
        (alloc::sync::Arc::new(vault), DhHandle(public))
    }

    fn side(vector: &Value, role: &str, peer: Option<[u8; 32]>) -> Box<HandshakeState> {
        let name = |field: &str| alloc::format!("{role}_{field}");
        let (vault, handle) = vault_of(field(vector, &name("static")).unwrap());
        let pattern = vector["protocol_name"].as_str().unwrap();
        let resolver = Resolver {
            vault,
            ephemeral: field(vector, &name("ephemeral")).map_or(Secret::zero(), Secret::new),
            known: None,
            held: None,
        };
        let psk = hex(vector[name("psks")][0].as_str().unwrap());
        let position = pattern.split("psk").nth(1).unwrap()[..1].parse().unwrap();
        let prologue = hex(vector[name("prologue")].as_str().unwrap());
        let mut builder = Builder::with_resolver(pattern.parse().unwrap(), Box::new(resolver))
            .local_private_key(&handle.0)
            .unwrap()
            .prologue(&prologue)
            .unwrap();
        if let Some(peer) = &peer {
            builder = builder.remote_public_key(peer).unwrap();
        }
        let state = if role == "init" { builder.build_initiator() } else { builder.build_responder() };
        let mut state = state.unwrap();
        state.set_psk(position, &psk).unwrap();
        Box::new(state)
    }

    #[test]
    fn published_noise_vectors() {
        let file: Value = serde_json::from_str(include_str!("../testdata/noise.json")).unwrap();
        let vectors = file["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 3);
        for vector in vectors {
            let mut initiator = side(vector, "init", field(vector, "init_remote_static"));
            let mut responder = side(vector, "resp", field(vector, "resp_remote_static"));
            let messages = vector["messages"].as_array().unwrap();
            let mut transport = Vec::new();
            for message in messages {
                let payload = hex(message["payload"].as_str().unwrap());
                let ciphertext = hex(message["ciphertext"].as_str().unwrap());
                let (writer, reader) = if initiator.is_my_turn() {
                    (&mut initiator, &mut responder)
                } else {
                    (&mut responder, &mut initiator)
                };
                if writer.is_handshake_finished() {
                    transport.push((payload, ciphertext));
                    continue;
                }
                let mut out = vec![0; 1024];
                let len = writer.write_message(&payload, &mut out).unwrap();
                assert_eq!(out[..len], ciphertext, "{}", vector["protocol_name"]);
                let mut read = vec![0; 1024];
                let len = reader.read_message(&ciphertext, &mut read).unwrap();
                assert_eq!(read[..len], payload);
            }
            let hash = transcript_hash(&initiator).unwrap();
            assert_eq!(hash.as_slice(), hex(vector["handshake_hash"].as_str().unwrap()));
            let keys = raw_split(&mut initiator).unwrap();
            assert_eq!(*keys, *raw_split(&mut responder).unwrap());
            // The first transport message proves the split: in these files the responder's turn comes first after three
            // messages, the initiator's after one or two.
            let (payload, ciphertext) = &transport[0];
            let opened = [&keys[..32], &keys[32..]].into_iter().filter_map(|key| {
                let key = Secret::new(key.try_into().unwrap());
                type Aead = <sealway_crypto_rustcrypto::RustCrypto<sealway_crypto_rustcrypto::OsEntropy> as CryptoProvider>::AeadKey;
                let (data, tag) = ciphertext.split_last_chunk().unwrap();
                let mut data = data.to_vec();
                Aead::new(&key).open(&nonce(0), &[], &mut data, tag).ok().map(|()| data)
            });
            assert_eq!(opened.collect::<Vec<_>>(), core::slice::from_ref(payload), "{}", vector["protocol_name"]);
        }
    }

    #[test]
    fn an_unfinished_handshake_gives_no_keys() {
        let mut vault = SoftwareVault::new(seeded_provider(1));
        let handle = vault.generate_dh().unwrap();
        let vault = alloc::sync::Arc::new(vault);
        let setup = |local| Setup {
            pattern: S1,
            role: Role::Initiator,
            prologue: b"",
            local,
            remote: Some(&[7; 32]),
            psk: None,
            ephemeral: Secret::new([1; 32]),
            known: None,
        };
        let mut state = build(&vault, setup(Local::Vault(&handle))).unwrap();
        assert_eq!(raw_split(&mut state).unwrap_err(), HandshakeError::Noise);
        let missing = build(&vault, setup(Local::Vault(&DhHandle([9; 32]))));
        assert!(missing.is_err(), "snow would not notice an unknown handle in message 1");
    }
}
