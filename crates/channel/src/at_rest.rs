//! What is kept of sessions and pairings: `version 1 | nonce 12 | AES-256-GCM( content )`. Protocol sections 10 and 11.

use alloc::vec::Vec;

use sealway_identity::label;
use sealway_vault::{AeadKey, CryptoProvider, EntropyError, TAG_LEN};
use sealway_wire::Reader;
use zeroize::Zeroizing;

use crate::StateError;

const VERSION: u8 = 1;
const SEALED_FROM: usize = 1 + 12;

/// Seals what `write` appends, `len` octets, under `key`, bound to `ids`.
pub(crate) fn seal<P: CryptoProvider>(
    provider: &P,
    key: &P::AeadKey,
    (domain, ids): (&str, &[&[u8; 32]]),
    len: usize,
    write: impl FnOnce(&mut Vec<u8>),
) -> Result<Vec<u8>, EntropyError> {
    let nonce: [u8; 12] = provider.random()?;
    // As much as is needed: a buffer that grew would leave secrets behind.
    let mut state = Vec::with_capacity(SEALED_FROM + len + TAG_LEN);
    state.push(VERSION);
    state.extend_from_slice(&nonce);
    write(&mut state);
    debug_assert_eq!(state.len(), SEALED_FROM + len);
    // In place: the secrets are gone from the buffer when it is returned.
    let tag = key.seal(&nonce, &associated(domain, ids), state.get_mut(SEALED_FROM..).unwrap_or_default());
    state.extend_from_slice(&tag);
    Ok(state)
}

/// Opens what [`seal`] made.
pub(crate) fn open<K: AeadKey>(
    key: &K,
    (domain, ids): (&str, &[&[u8; 32]]),
    state: &[u8],
) -> Result<Zeroizing<Vec<u8>>, StateError> {
    let mut reader = Reader::new(state);
    match reader.u8("state version")? {
        VERSION => {}
        version => return Err(StateError::Version(version)),
    }
    let nonce = reader.array("state nonce")?;
    let (sealed, tag) = reader.rest().split_last_chunk().ok_or(StateError::Rejected)?;
    let mut plaintext = Zeroizing::new(sealed.to_vec());
    key.open(&nonce, &associated(domain, ids), &mut plaintext, tag).map_err(|_| StateError::Rejected)?;
    Ok(plaintext)
}

fn associated(domain: &str, ids: &[&[u8; 32]]) -> Vec<u8> {
    let mut associated = label(domain, "state");
    associated.push(VERSION);
    ids.iter().for_each(|id| associated.extend_from_slice(*id));
    associated
}
