//! A vault comes back from its file, for those who can unlock it, and for one process at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use proptest::prelude::*;
use sealway_crypto_rustcrypto::{OsEntropy, RustCrypto};
use sealway_vault::{Algorithm, DhHandle, KeyStore, Secret, SigningHandle, Vault};
use sealway_vault_file::{FileVault, FileVaultError, Unlock};

type TestVault = FileVault<RustCrypto<OsEntropy>>;

fn key_file(octet: u8) -> Unlock {
    Unlock::KeyFile(Secret::new([octet; 32]))
}

fn passphrase(text: &str) -> Unlock {
    Unlock::Passphrase(text.to_string().into())
}

fn create(path: &Path, unlock: Unlock) -> TestVault {
    let mut vault = FileVault::create(path, unlock, RustCrypto::os()).unwrap();
    vault.set_document("identity", b"public".to_vec()).unwrap();
    vault
}

fn open(path: &Path, unlock: Unlock) -> Result<TestVault, FileVaultError> {
    FileVault::open(path, unlock, RustCrypto::os())
}

#[test]
fn keys_and_documents_come_back() {
    let folder = tempfile::tempdir().unwrap();
    for (name, unlock) in [("key-file", key_file(1)), ("passphrase", passphrase("correct horse"))] {
        let path = folder.path().join(name);
        let mut vault = create(&path, unlock.clone());
        let dh = vault.generate_dh().unwrap();
        let signing = vault.generate_signing(Algorithm::P256).unwrap();
        let signature = vault.sign(&signing, b"message").unwrap();
        vault.save().unwrap();
        drop(vault);
        let vault = open(&path, unlock).unwrap();
        assert_eq!(vault.dh_public(&dh).unwrap(), dh.0);
        assert_eq!(vault.sign(&signing, b"message").unwrap(), signature);
        assert_eq!(vault.document("identity"), Some(b"public".as_slice()));
        let octets = std::fs::read(&path).unwrap();
        assert!(!octets.windows(6).any(|window| window == b"public"), "nothing of it is readable in the file");
    }
}

#[test]
fn only_the_right_key_opens_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault");
    create(&path, passphrase("right")).save().unwrap();
    let wrong = open(&path, passphrase("wrong")).unwrap_err();
    assert!(matches!(wrong, FileVaultError::Unlock { .. }), "{wrong}");
    let other = open(&path, key_file(1)).unwrap_err().to_string();
    assert!(other.ends_with("needs a passphrase to open"), "{other}");
}

#[test]
fn one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault");
    let vault = create(&path, key_file(1));
    vault.save().unwrap();
    assert!(matches!(open(&path, key_file(1)), Err(FileVaultError::Locked { .. })));
    drop(vault);
    assert!(open(&path, key_file(1)).is_ok());
    assert!(matches!(FileVault::create(&path, key_file(1), RustCrypto::os()), Err(FileVaultError::Exists { .. })));
}

/// Vaults as each version has written them, kept for ever: what was written once can be read.
#[test]
fn vaults_of_every_version_open() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = [
        ("v1-key-file.vault", include_bytes!("../testdata/v1-key-file.vault").as_slice(), key_file(7)),
        ("v1-passphrase.vault", include_bytes!("../testdata/v1-passphrase.vault"), passphrase("correct horse")),
    ];
    for (name, octets, unlock) in fixtures {
        let path = folder.path().join(name);
        std::fs::write(&path, octets).unwrap();
        let vault = open(&path, unlock).unwrap();
        assert_eq!(vault.document("identity"), Some(b"public".as_slice()), "{name}");
        // The keys are named by what is kept of their public halves.
        let dh = DhHandle(vault.document("x25519").unwrap().try_into().unwrap());
        assert_eq!(vault.dh_public(&dh).unwrap(), dh.0);
        for algorithm in ["ed25519", "p256"] {
            let handle = SigningHandle(vault.document(algorithm).unwrap().try_into().unwrap());
            let signature = vault.document(&format!("{algorithm} signature")).unwrap();
            assert_eq!(vault.sign(&handle, b"message").unwrap().as_slice(), signature, "{name} {algorithm}");
        }
    }
}

#[cfg(unix)]
#[test]
fn only_its_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault");
    create(&path, key_file(1)).save().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_disk_that_takes_nothing_leaves_the_old_vault_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault");
    let mut vault = create(&path, key_file(1));
    vault.save().unwrap();
    let before = std::fs::read(&path).unwrap();
    // A folder in the place of the temporary file: it cannot be written, as on a full disk.
    std::fs::create_dir(folder.path().join("vault.new")).unwrap();
    vault.set_document("identity", b"changed".to_vec()).unwrap();
    assert!(matches!(vault.save(), Err(FileVaultError::Io { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn every_truncation_and_every_flipped_bit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault");
    create(&path, key_file(1)).save().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let refused = |octets: &[u8]| {
        let other = folder.path().join("other");
        std::fs::write(&other, octets).unwrap();
        open(&other, key_file(1)).is_err()
    };
    assert!(!refused(&whole));
    assert!((0..whole.len()).all(|len| refused(&whole[..len])));
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(refused(&flipped), "bit {bit}");
    }
}

proptest! {
    #[test]
    fn no_octets_do_harm(octets in proptest::collection::vec(any::<u8>(), 0..200), with_magic: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault");
        let magic: &[u8] = if with_magic { b"sealway vault\n\x01\x02" } else { b"" };
        std::fs::write(&path, [magic, &octets].concat()).unwrap();
        prop_assert!(open(&path, key_file(1)).is_err());
    }
}
