//! The conformance suite of crypto providers: published vectors, and the refusals that the protocol relies on.

use sealway_vault::{
    AeadKey, Algorithm, CcmKey, CryptoProvider, DhKey, KemError, KemKey, Secret, Sha256, SigningKey, VerifyingKey,
};

use serde_json::Value;

use crate::hex;

fn secret<const N: usize>(text: &str) -> Secret<N> {
    Secret::new(hex(text).try_into().expect("the length of the secret"))
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    hex(text).try_into().expect("the length of the array")
}

/// Runs the whole suite.
///
/// # Panics
/// At the first primitive that does not conform.
pub fn conforms(provider: &impl CryptoProvider) {
    hashes(provider);
    aead(provider);
    ccm(provider);
    agreement(provider);
    kem(provider);
    kem_keys(provider);
    ed25519(provider);
    p256(provider);
}

/// FIPS 180-4 sample; RFC 4231 case 4; RFC 5869 case 1 (with its salt padded to 32 octets, which HMAC does anyway).
fn hashes<P: CryptoProvider>(provider: &P) {
    let abc = hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(provider.sha256(&[b"a", b"bc"]).as_slice(), abc);
    let mut running = P::Sha256::default();
    for _ in 0..2 {
        running.update(b"abc");
        assert_eq!(running.finish().as_slice(), abc, "finish starts anew");
    }
    let mut key = [0; 32];
    key[..25].copy_from_slice(&hex("0102030405060708090a0b0c0d0e0f10111213141516171819"));
    let mac = provider.hmac(&key, &[&[0xcd; 20], &[0xcd; 30]]);
    assert_eq!(mac.as_slice(), hex("82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"));
    let mut salt = [0; 32];
    salt[..13].copy_from_slice(&hex("000102030405060708090a0b0c"));
    let prk = provider.hkdf_extract(&salt, &[&[0x0b; 20], &[0x0b; 2]]);
    assert_eq!(prk, secret("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"));
    let mut okm = [0; 42];
    provider.hkdf_expand(&prk, &[&hex("f0f1f2f3f4"), &hex("f5f6f7f8f9")], &mut okm).unwrap();
    let expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
    assert_eq!(okm.as_slice(), hex(expected));
    assert!(provider.hkdf_expand(&prk, &[], &mut [0; 255 * 32 + 1]).is_err());
}

/// AES-CCM-ENC-05 of the examples of COSE's working group (github.com/cose-wg/Examples): algorithm 11.
fn ccm<P: CryptoProvider>(_: &P) {
    let key = P::CcmKey::new(&secret("0f1e2d3c4b5a69788796a5b4c3d2e1f01f2e3d4c5b6a798897a6b5c4d3e2f100"));
    let nonce = array("89f52f65a1c580933b5261a72f");
    let associated = hex("8368456e63727970743143a1010b40");
    let plaintext = b"This is the content.";
    let mut data = plaintext.to_vec();
    let tag = key.seal(&nonce, &associated, &mut data);
    assert_eq!(data, hex("28b3bddff844a736c5f0ee0f8c691fd0b7adf917"));
    assert_eq!(tag.as_slice(), hex("7f13d284e84ffb70"));
    let ciphertext = data.clone();
    key.open(&nonce, &associated, &mut data, &tag).unwrap();
    assert_eq!(data, plaintext);
    for bit in 0..64 {
        let mut tag = tag;
        tag[bit / 8] ^= 1 << (bit % 8);
        assert!(key.open(&nonce, &associated, &mut ciphertext.clone(), &tag).is_err());
    }
    assert!(key.open(&nonce, b"other", &mut ciphertext.clone(), &tag).is_err());
    let mut empty = [];
    let tag = key.seal(&nonce, &associated, &mut empty);
    key.open(&nonce, &associated, &mut empty, &tag).unwrap();
}

/// Test case 16 of McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B.
fn aead<P: CryptoProvider>(_: &P) {
    let key = P::AeadKey::new(&secret("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"));
    let nonce = array("cafebabefacedbaddecaf888");
    let associated = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let plaintext = hex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    );
    let mut data = plaintext.clone();
    let tag = key.seal(&nonce, &associated, &mut data);
    let ciphertext = hex(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
    );
    assert_eq!(data, ciphertext);
    assert_eq!(tag.as_slice(), hex("76fc6ece0f4e1768cddf8853bb2d551b"));
    key.open(&nonce, &associated, &mut data, &tag).unwrap();
    assert_eq!(data, plaintext);
    for bit in 0..128 {
        let mut data = ciphertext.clone();
        let mut tag = tag;
        tag[bit / 8] ^= 1 << (bit % 8);
        assert!(key.open(&nonce, &associated, &mut data, &tag).is_err());
    }
    assert!(key.open(&nonce, b"other", &mut ciphertext.clone(), &tag).is_err());
    let mut empty = [];
    let tag = key.seal(&nonce, &associated, &mut empty);
    key.open(&nonce, &associated, &mut empty, &tag).unwrap();
}

/// RFC 7748 section 6.1, and the refusal of the all-zero result.
fn agreement(provider: &impl CryptoProvider) {
    // Specification: [M24].
    let bob = provider.load_dh(&secret("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
    assert_eq!(bob.public().as_slice(), hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
    let alice_public = array("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    let shared = secret("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    assert_eq!(bob.agree(&alice_public).unwrap(), shared);
    // Points of order 1, 2 (both encodings of small order from RFC 7748 section 6.1 and 7), 4 and 8.
    for small in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        assert!(bob.agree(&array(small)).is_err(), "{small}");
    }
}

/// Round trips, implicit rejection, and the check of FIPS 203 section 7.2.
fn kem(provider: &impl CryptoProvider) {
    // Specification: [M9].
    let key = provider.generate_kem().unwrap();
    let (mut public, mut ciphertext) = ([0; 1184], [0; 1088]);
    key.encapsulation_key(&mut public);
    let shared = provider.encapsulate(&public, &mut ciphertext).unwrap();
    assert_eq!(key.decapsulate(&ciphertext), shared);
    let mut again = [0; 1088];
    assert_ne!(provider.encapsulate(&public, &mut again).unwrap(), shared, "each encapsulation is fresh");
    ciphertext[7] ^= 1;
    assert_ne!(key.decapsulate(&ciphertext), shared);
    let mut unreduced = public;
    unreduced[..3].fill(0xff); // two coefficients of 4095, above the modulus 3329
    assert_eq!(provider.encapsulate(&unreduced, &mut again), Err(KemError::InvalidKey));
    let seed = provider.random_secret().unwrap();
    let (key, same) = (provider.load_kem(&seed), provider.load_kem(&seed));
    key.encapsulation_key(&mut public);
    let shared = provider.encapsulate(&public, &mut ciphertext).unwrap();
    assert_eq!(same.decapsulate(&ciphertext), shared, "one seed, one key pair");
}

/// NIST's vectors of key generation (ACVP, FIPS 203), as the package `fips203` ships them.
fn kem_keys(provider: &impl CryptoProvider) {
    let file: Value = serde_json::from_str(include_str!("../testdata/ml-kem-768.json")).expect("JSON");
    let tests = file["tests"].as_array().expect("an array");
    assert_eq!(tests.len(), 25);
    for test in tests {
        let field = |name: &str| test[name].as_str().expect("hexadecimal text");
        let key = provider.load_kem(&secret(&[field("d"), field("z")].concat()));
        let mut public = [0; 1184];
        key.encapsulation_key(&mut public);
        assert_eq!(provider.sha256(&[&public]), array(field("sha256_ek")));
    }
}

/// RFC 8032 section 7.1 test 2, and what only strict verification refuses.
fn ed25519(provider: &impl CryptoProvider) {
    let seed = secret("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
    let key = provider.load_signing(Algorithm::Ed25519, &seed).unwrap();
    let public = VerifyingKey::Ed25519(array("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"));
    assert_eq!(key.verifying_key(), public);
    let signature = array(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    );
    assert_eq!(key.sign(&[0x72]), signature);
    provider.verify(&public, &[0x72], &signature).unwrap();
    assert!(provider.verify(&public, &[0x73], &signature).is_err());
    // The key of order 1 with R the identity and S zero: one signature for every message, unless verified strictly.
    let mut small = [0; 32];
    small[0] = 1;
    let mut forged = [0; 64];
    forged[0] = 1;
    assert!(provider.verify(&VerifyingKey::Ed25519(small), b"anything", &forged).is_err());
}

/// RFC 6979 appendix A.2.5 (P-256, SHA-256, "sample"), with s brought into the lower half; the upper twin is refused.
fn p256(provider: &impl CryptoProvider) {
    // Specification: [M3].
    let seed = secret("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721");
    let key = provider.load_signing(Algorithm::P256, &seed).unwrap();
    let public = key.verifying_key();
    let x = hex("60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6");
    assert_eq!(public.as_bytes(), [&[3], x.as_slice()].concat());
    let signature = key.sign(b"sample");
    assert_eq!(signature[..32], hex("efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716"));
    let high = hex("f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8");
    assert_ne!(signature[32..], high, "the published s lies in the upper half");
    provider.verify(&public, b"sample", &signature).unwrap();
    assert!(provider.verify(&public, b"sampler", &signature).is_err());
    let mut twin = signature;
    twin[32..].copy_from_slice(&high);
    assert!(provider.verify(&public, b"sample", &twin).is_err());
    assert!(provider.load_signing(Algorithm::P256, &Secret::zero()).is_err());
}
