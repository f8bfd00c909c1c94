//! What is sealed: keys, then documents by name.

use std::{collections::BTreeMap, path::Path};

use sealway_vault::{CryptoProvider, SoftwareVault};
use zeroize::Zeroizing;

use crate::FileVaultError;

pub(crate) type Documents = BTreeMap<String, Vec<u8>>;

pub(crate) const MAX_NAME: usize = 255;
pub(crate) const MAX_DOCUMENT: usize = 65_535;

pub(crate) fn encode<P: CryptoProvider>(
    vault: &SoftwareVault<P>,
    documents: &Documents,
) -> Result<Zeroizing<Vec<u8>>, FileVaultError> {
    let keys = vault.save()?;
    let total =
        4 + keys.len() + documents.iter().map(|(name, document)| 5 + name.len() + document.len()).sum::<usize>();
    // Of the right size at once: a buffer that grows leaves copies of the keys behind.
    let mut octets = Zeroizing::new(Vec::with_capacity(total));
    octets.extend_from_slice(&length(keys.len()));
    octets.extend_from_slice(&keys);
    for (name, document) in documents {
        octets.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        octets.extend_from_slice(name.as_bytes());
        octets.extend_from_slice(&length(document.len()));
        octets.extend_from_slice(document);
    }
    Ok(octets)
}

fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

pub(crate) fn decode<P: CryptoProvider>(
    path: &Path,
    octets: &[u8],
    provider: P,
) -> Result<(SoftwareVault<P>, Documents), FileVaultError> {
    let malformed = |field| FileVaultError::Malformed { path: path.into(), field };
    let (keys, mut rest) = split(octets).ok_or(malformed("keys"))?;
    let vault = SoftwareVault::load(provider, keys).map_err(|_| malformed("keys"))?;
    let mut documents = BTreeMap::new();
    while let Some((len, after)) = rest.split_first() {
        let (name, after) = after.split_at_checked((*len).into()).ok_or(malformed("document name"))?;
        let name = std::str::from_utf8(name).map_err(|_| malformed("document name"))?;
        let (document, after) = split(after).ok_or(malformed("document"))?;
        documents.insert(name.to_string(), document.to_vec());
        rest = after;
    }
    Ok((vault, documents))
}

/// Octets behind their length in 4.
fn split(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = octets.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)
}
