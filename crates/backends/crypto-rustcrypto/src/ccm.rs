//! AES-256-CCM.

use core::fmt;

use aes::Aes256;
use ccm::{
    Ccm, KeyInit,
    aead::AeadInOut,
    consts::{U8, U13},
};
use sealway_vault::{CcmKey, Rejected, SHORT_TAG_LEN, Secret};

/// An expanded AES-256-CCM key, for nonces of 13 octets and tags of 8.
pub struct Aes256CcmKey(Ccm<Aes256, U8, U13>);

impl CcmKey for Aes256CcmKey {
    fn new(key: &Secret<32>) -> Self {
        Self(Ccm::new(key.expose().into()))
    }

    fn seal(&self, nonce: &[u8; 13], associated: &[u8], data: &mut [u8]) -> [u8; SHORT_TAG_LEN] {
        match self.0.encrypt_inout_detached(nonce.into(), associated, data.into()) {
            Ok(tag) => tag.into(),
            // Only beyond 65,535 octets of data, which no record has. The plaintext must not leave all the same.
            Err(_) => {
                data.fill(0);
                [0; SHORT_TAG_LEN]
            }
        }
    }

    fn open(
        &self,
        nonce: &[u8; 13],
        associated: &[u8],
        data: &mut [u8],
        tag: &[u8; SHORT_TAG_LEN],
    ) -> Result<(), Rejected> {
        self.0.decrypt_inout_detached(nonce.into(), associated, data.into(), tag.into()).map_err(|_| Rejected)
    }
}

impl fmt::Debug for Aes256CcmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Aes256CcmKey(..)")
    }
}

/// The mode itself, on the published vectors of RFC 3610 section 8: they are of AES-128, and CCM does not know which AES it
/// stands on. The provider's own AES-256 is held against COSE's vector, in the suite of all providers.
#[cfg(test)]
mod tests {
    use aes::Aes128;
    use sealway_testkit::hex;

    use super::*;

    /// Number of the packet vector, nonce, how much of the packet goes in clear, packet, ciphertext and tag.
    const VECTORS: [(u8, &str, usize, &str, &str); 4] = [
        (
            1,
            "00000003020100a0a1a2a3a4a5",
            8,
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e",
            "588c979a61c663d2f066d0c2c0f989806d5f6b61dac38417e8d12cfdf926e0",
        ),
        (
            2,
            "00000004030201a0a1a2a3a4a5",
            8,
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "72c91a36e135f8cf291ca894085c87e3cc15c439c9e43a3ba091d56e10400916",
        ),
        (
            3,
            "00000005040302a0a1a2a3a4a5",
            8,
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20",
            "51b1e5f44a197d1da46b0f8e2d282ae871e838bb64da8596574adaa76fbd9fb0c5",
        ),
        (
            6,
            "00000008070605a0a1a2a3a4a5",
            12,
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20",
            "6fc1b011f006568b5171a42d953d469b2570a4bd87405a0443ac91cb94",
        ),
    ];

    #[test]
    fn rfc_3610_section_8() {
        let key: [u8; 16] = hex("c0c1c2c3c4c5c6c7c8c9cacbcccdcecf").try_into().unwrap();
        let ccm = Ccm::<Aes128, U8, U13>::new((&key).into());
        for (number, nonce, clear, packet, sealed) in VECTORS {
            let nonce: [u8; 13] = hex(nonce).try_into().unwrap();
            let packet = hex(packet);
            let (associated, plaintext) = packet.split_at(clear);
            let mut data = plaintext.to_vec();
            let tag = ccm.encrypt_inout_detached((&nonce).into(), associated, data.as_mut_slice().into()).unwrap();
            assert_eq!([data.as_slice(), tag.as_slice()].concat(), hex(sealed), "packet vector {number}");
            ccm.decrypt_inout_detached((&nonce).into(), associated, data.as_mut_slice().into(), &tag).unwrap();
            assert_eq!(data, plaintext);
        }
    }
}
