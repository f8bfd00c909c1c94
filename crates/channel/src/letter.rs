//! The sealed message, M1: what one end seals to a prekey of the other while that is away. Protocol section 12.
//!
//! ```text
//! prekey of the recipient ──┐
//! channel key of the sender ┼─ Noise Xpsk1 ──► 0x32 | prekey id | ct | e | AEAD(s) | AEAD(length | identity payload | content)
//! ML-KEM to the prekey ─psk─┘
//! ```
//!
//! One flight, so the recipient adds nothing fresh: whoever repeats a letter repeats its effect, which is why only contents
//! that are harmless when repeated have a place in it, and whoever steals a prekey can forge to its owner until it ends.

use alloc::{vec, vec::Vec};

use sealway_identity::{Owner, PayloadParts, Peer, Prekey, UnverifiedPayload, label};
use sealway_vault::{CryptoProvider, DhHandle, KemError, KemKey, Secret, Vault};
use sealway_wire::{
    DecodeError, IdentityId, PrekeyId, Reader, Reason,
    content::Content,
    danger::{self, Protection},
    letter::{Letter, MAX_CONTENT, NOISE_OVERHEAD},
};
use zeroize::Zeroizing;

use crate::{FrameError, HandshakeError, Role, SendError, noise, responder::Admission};

/// Domain of the labels of M1.
pub(crate) const DOMAIN: &str = "M1";

/// The private part of a prekey.
pub(crate) struct PrekeySecrets<'a> {
    pub(crate) dh: &'a Secret<32>,
    pub(crate) kem: Option<&'a Secret<64>>,
}

/// Seals `content` to a prekey and returns the length of the letter.
pub(crate) fn seal<V: Vault + Clone + 'static>(
    vault: &V,
    owner: &Owner,
    payload: &PayloadParts,
    recipient: &Prekey,
    content: &Content<'_>,
    out: &mut [u8],
) -> Result<usize, SendError> {
    let own = owner.payload(payload).map_err(|error| SendError::Letter(HandshakeError::Identity(error)))?;
    write(vault, &owner.channel_key(), &own, recipient, content, out)
}

fn write<V: Vault + Clone + 'static>(
    vault: &V,
    channel_key: &DhHandle,
    own: &[u8],
    recipient: &Prekey,
    content: &Content<'_>,
    out: &mut [u8],
) -> Result<usize, SendError> {
    let provider = vault.provider();
    let mut plaintext = Zeroizing::new(vec![0; 2 + own.len() + MAX_CONTENT]);
    let length = u16::try_from(own.len()).map_err(|_| SendError::Letter(HandshakeError::Noise))?;
    plaintext[..2].copy_from_slice(&length.to_be_bytes());
    plaintext[2..2 + own.len()].copy_from_slice(own);
    let len = content.encode(&mut plaintext[2 + own.len()..]);
    let too_long = |got| SendError::TooLong { limit: MAX_CONTENT, got };
    let len = 2 + own.len() + len.map_err(|error| too_long(error.needed))?;
    let parts = recipient.parts();
    let mut ciphertext = parts.kem.as_ref().map(|_| [0; 1088]);
    let shared = parts.kem.as_ref().zip(ciphertext.as_mut());
    let shared = shared.map(|(key, ciphertext)| provider.encapsulate(key, ciphertext)).transpose();
    let shared = shared.map_err(|error| match error {
        KemError::Entropy => SendError::Entropy,
        _ => SendError::Letter(HandshakeError::Kem),
    })?;
    let prologue = prologue(provider, &recipient.owner(), parts.id, ciphertext.as_ref());
    let psk = psk(provider, shared.as_ref(), &prologue).map_err(SendError::Letter)?;
    let ephemeral = provider.random_secret().map_err(|_| SendError::Entropy)?;
    let setup = noise::Setup {
        pattern: noise::M1,
        role: Role::Initiator,
        prologue: &prologue,
        local: noise::Local::Vault(channel_key),
        remote: Some(&parts.key),
        psk: Some((1, &psk)),
        ephemeral,
        known: None,
    };
    let mut noise = noise::build(vault, setup).map_err(SendError::Letter)?;
    let mut message = vec![0; NOISE_OVERHEAD + len];
    let written = noise.write_message(&plaintext[..len], &mut message);
    let written = written.map_err(|error| SendError::Letter(error.into()))?;
    let letter = Letter { prekey: parts.id, ciphertext: ciphertext.as_ref(), noise: &message[..written] };
    letter.encode(out).map_err(SendError::Buffer)
}

/// Opens a letter: the sender, whom policy admits, and the content.
pub(crate) fn open<V: Vault + Clone + 'static>(
    vault: &V,
    secrets: &PrekeySecrets<'_>,
    letter: &Letter<'_>,
    admit: Admission<'_>,
) -> Result<(Peer, Zeroizing<Vec<u8>>), FrameError> {
    let provider = vault.provider();
    // A hybrid prekey takes no letter without its ML-KEM part: there is nothing to choose for whoever is in between.
    let shared = match (secrets.kem, letter.ciphertext) {
        (Some(seed), Some(ciphertext)) => Some(provider.load_kem(seed).decapsulate(ciphertext)),
        (None, None) => None,
        (Some(_), None) if danger::is_off(Protection::Hybrid) => None,
        _ => return Err(HandshakeError::Kem.into()),
    };
    let prologue = prologue(provider, &admit.own, letter.prekey, letter.ciphertext);
    let psk = psk(provider, shared.as_ref(), &prologue)?;
    let setup = noise::Setup {
        pattern: noise::M1,
        role: Role::Responder,
        prologue: &prologue,
        local: noise::Local::Held(secrets.dh),
        remote: None,
        psk: Some((1, &psk)),
        // A recipient has no ephemeral key in this pattern.
        ephemeral: Secret::zero(),
        known: None,
    };
    let mut noise = noise::build(vault, setup)?;
    let mut plaintext = Zeroizing::new(vec![0; letter.noise.len()]);
    let len = noise.read_message(letter.noise, &mut plaintext).map_err(HandshakeError::from)?;
    let channel_key = noise.get_remote_static().and_then(|key| key.try_into().ok());
    let channel_key = channel_key.ok_or(HandshakeError::Noise)?;
    let mut reader = Reader::new(&plaintext[..len]);
    let length = usize::from(u16::from_be_bytes(reader.array("letter payload length")?));
    let payload = UnverifiedPayload::decode(reader.take("letter payload", length)?).map_err(HandshakeError::Payload)?;
    let peer =
        payload.verify(provider, &channel_key, admit.policy, admit.known, None).map_err(HandshakeError::Identity)?;
    if peer.id() == admit.own {
        return Err(HandshakeError::Reflected.into());
    }
    let got = reader.remaining();
    if got > MAX_CONTENT {
        return Err(DecodeError::new("letter content", Reason::TooLong { limit: MAX_CONTENT, got }).into());
    }
    let start = len - got;
    plaintext.truncate(len);
    plaintext.drain(..start);
    Ok((peer, plaintext))
}

/// label(M1, prologue) | recipient id | prekey id | SHA-256(ct or nothing).
fn prologue<P: CryptoProvider>(
    provider: &P,
    recipient: &IdentityId,
    prekey: PrekeyId,
    ciphertext: Option<&[u8; 1088]>,
) -> Vec<u8> {
    let hash = provider.sha256(&[ciphertext.map_or(&[], <[u8; 1088]>::as_slice)]);
    [label(DOMAIN, "prologue").as_slice(), recipient.as_bytes(), prekey.as_bytes(), &hash].concat()
}

/// Expand(Extract(32 zeros, shared secret or nothing), label(M1, psk) | prologue, 32).
fn psk<P: CryptoProvider>(
    provider: &P,
    shared: Option<&Secret<32>>,
    prologue: &[u8],
) -> Result<Secret<32>, HandshakeError> {
    let prk = provider.hkdf_extract(&[0; 32], &[shared.map_or(&[], |shared| shared.expose())]);
    let mut psk = Secret::zero();
    let expanded = provider.hkdf_expand(&prk, &[&label(DOMAIN, "psk"), prologue], psk.expose_mut());
    expanded.map(|()| psk).map_err(|_| HandshakeError::Noise)
}

/// What only who builds a letter by hand can send.
#[cfg(test)]
mod tests {
    use alloc::sync::Arc;

    use sealway_crypto_rustcrypto::RustCrypto;
    use sealway_identity::{IdentityError, Policy, PrekeyParts, UnverifiedPrekey};
    use sealway_testkit::entropy::{Seeded, seeded_provider};
    use sealway_vault::{Algorithm, DhKey, SoftwareVault};
    use sealway_wire::{Instance, content::Reliable};

    use super::*;

    type TestVault = Arc<SoftwareVault<RustCrypto<Seeded>>>;

    fn machine(seed: u64) -> (TestVault, Owner) {
        let mut vault = SoftwareVault::new(seeded_provider(seed));
        let (owner, _) = Owner::incept(&mut vault, Algorithm::Ed25519).unwrap();
        (Arc::new(vault), owner)
    }

    #[test]
    fn the_statements_of_another_under_a_key_of_ones_own_are_refused() {
        // Specification: [M42].
        let ((vault, owner), (_, sender), (thief, own)) = (machine(1), machine(2), machine(3));
        let dh = Secret::new([7; 32]);
        let key = vault.provider().load_dh(&dh).public();
        let parts = PrekeyParts { sequence: 1, id: PrekeyId([1; 4]), key, kem: None };
        let statement = UnverifiedPrekey::decode(&owner.prekey(&vault, &parts).unwrap()).unwrap();
        let prekey = statement.verify(vault.provider(), &owner.id()).unwrap();
        let message =
            Reliable { instance: Some(Instance([1; 4])), number: 0, lowest: 0, unwanted: 0, part: None, body: b"" };
        let policy = Policy::ids([sender.id(), own.id()]);
        let opened = |payload: &Owner| {
            let mut out = vec![0; 2048];
            let payload = payload.payload(&PayloadParts::default()).unwrap();
            let content = Content::Reliable(message);
            let len = write(&thief, &own.channel_key(), &payload, &prekey, &content, &mut out).unwrap();
            let secrets = PrekeySecrets { dh: &dh, kem: None };
            let admit = Admission { own: owner.id(), policy: &policy, known: &|_| None };
            open(&vault, &secrets, &Letter::decode(&out[..len]).unwrap(), admit).map(|(peer, _)| peer.id())
        };
        assert_eq!(opened(&own), Ok(own.id()));
        assert_eq!(opened(&sender), Err(HandshakeError::Identity(IdentityError::ChannelKey).into()));
    }
}
