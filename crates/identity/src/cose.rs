//! COSE_Sign1 (RFC 9052 section 4.2), untagged: `[protected, {}, payload, signature]`.
//!
//! The protected header holds the algorithm alone. The label of the kind of statement is the external associated data, so
//! that no statement verifies as another kind.

use alloc::vec::Vec;

use sealway_vault::{Algorithm, CryptoProvider, Signature, SigningHandle, Vault, VerifyingKey};
use sealway_wire::DecodeError;

use crate::{
    IdentityError,
    cbor::{self, Items},
    label::{DOMAIN, label},
};

/// A kind of statement: its name in the label and in errors, and the most octets it may have.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) limit: usize,
}

/// A signed statement whose signature nobody has verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unverified<'a> {
    pub(crate) algorithm: Algorithm,
    pub(crate) payload: &'a [u8],
    signature: Signature,
}

impl<'a> Unverified<'a> {
    pub(crate) fn decode(kind: Kind, octets: &'a [u8]) -> Result<Self, DecodeError> {
        let limit = kind.limit;
        if octets.len() > limit {
            return Err(DecodeError::new(kind.name, sealway_wire::Reason::TooLong { limit, got: octets.len() }));
        }
        let mut items = Items::new(octets);
        if items.array("COSE_Sign1", 4)? != 4 {
            return Err(cbor::malformed("COSE_Sign1"));
        }
        let protected = items.bytes("COSE protected header")?;
        let algorithm = if protected == protected_header(Algorithm::Ed25519) {
            Algorithm::Ed25519
        } else if protected == protected_header(Algorithm::P256) {
            Algorithm::P256
        } else {
            return Err(cbor::malformed("COSE protected header"));
        };
        items.map("COSE unprotected header", 0)?;
        let payload = items.bytes("COSE payload")?;
        let signature = items.bytes_of("COSE signature")?;
        items.finish("COSE_Sign1")?;
        let unverified = Self { algorithm, payload, signature };
        cbor::only_form("COSE_Sign1", octets, &unverified.encode())?;
        Ok(unverified)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        cbor::to_vec(|encoder| {
            encoder
                .array(4)?
                .bytes(&protected_header(self.algorithm))?
                .map(0)?
                .bytes(self.payload)?
                .bytes(&self.signature)
        })
    }

    pub(crate) fn verify(
        &self,
        kind: Kind,
        key: &VerifyingKey,
        provider: &impl CryptoProvider,
    ) -> Result<(), IdentityError> {
        let refused = IdentityError::Signature { statement: kind.name };
        if key.algorithm() != self.algorithm {
            return Err(refused);
        }
        let signed = signature_structure(kind, self.algorithm, self.payload);
        provider.verify(key, &signed, &self.signature).map_err(|_| refused)
    }
}

/// Signs `payload` as a statement of `kind` and returns the encoded COSE_Sign1.
pub(crate) fn sign(
    kind: Kind,
    vault: &impl Vault,
    handle: &SigningHandle,
    payload: &[u8],
) -> Result<Vec<u8>, IdentityError> {
    let algorithm = vault.verifying_key(handle)?.algorithm();
    let signature = vault.sign(handle, &signature_structure(kind, algorithm, payload))?;
    let encoded = Unverified { algorithm, payload, signature }.encode();
    let (limit, got) = (kind.limit, encoded.len());
    if got > limit { Err(IdentityError::TooLong { statement: kind.name, limit, got }) } else { Ok(encoded) }
}

/// `{1: algorithm}` with the registered numbers of RFC 9053: EdDSA -8, ES256 -7.
const fn protected_header(algorithm: Algorithm) -> [u8; 3] {
    match algorithm {
        Algorithm::Ed25519 => [0xa1, 0x01, 0x27],
        Algorithm::P256 => [0xa1, 0x01, 0x26],
    }
}

/// RFC 9052 section 4.4.
fn signature_structure(kind: Kind, algorithm: Algorithm, payload: &[u8]) -> Vec<u8> {
    let external = label(DOMAIN, kind.name);
    cbor::to_vec(|encoder| {
        encoder.array(4)?.str("Signature1")?.bytes(&protected_header(algorithm))?.bytes(&external)?.bytes(payload)
    })
}

/// RFC 9052 appendix C.2.1 signs with ES256 and without external data; its structure is checked here octet by octet.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signed_structure_has_the_form_of_rfc_9052() {
        let kind = Kind { name: "card", limit: 100 };
        let signed = signature_structure(kind, Algorithm::P256, b"This is the content.");
        let mut expected = b"\x84\x6aSignature1\x43\xa1\x01\x26\x50sealway/id\0card\0\x54".to_vec();
        expected.extend_from_slice(b"This is the content.");
        assert_eq!(signed, expected);
    }
}
