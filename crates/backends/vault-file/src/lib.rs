//! A vault in a file: private keys, and the public documents that belong to them, under a passphrase or a key file.
//!
//! File format, version 1: `"sealway vault\n" 14 | version 1 | unlock 1 | salt 16 | memory KiB 4 | passes 4 | nonce 12 |
//! AES-256-GCM(keys length 4 | keys | (name length 1 | name | length 4 | document)*) | tag 16`. Everything before the
//! ciphertext is its associated data. The key is Argon2id (RFC 9106) of the passphrase, or HKDF-SHA256 of the key file's 32
//! octets; both with the salt, which is new at each writing, as is the nonce.
//!
//! Writing goes to a new file beside the old one, which is synced, renamed over it, and the folder synced: at each moment
//! there is one whole vault. A lock beside the vault keeps a second process out.
#![forbid(unsafe_code)]

mod contents;
mod error;
mod format;
mod lock;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use sealway_vault::{
    Algorithm, CryptoProvider, DhHandle, KeyStore, PublicKey, Secret, Signature, SigningHandle, SoftwareVault, Vault,
    VaultError, VerifyingKey,
};

pub use error::FileVaultError;
pub use format::Unlock;

/// Private keys in memory that came from a file, and go back to it with [`save`](Self::save).
#[derive(Debug)]
pub struct FileVault<P: CryptoProvider> {
    path: PathBuf,
    unlock: Unlock,
    vault: SoftwareVault<P>,
    documents: BTreeMap<String, Vec<u8>>,
    _lock: lock::Lock,
}

impl<P: CryptoProvider> FileVault<P> {
    /// Makes an empty vault. Nothing is written before [`save`](Self::save).
    ///
    /// # Errors
    /// [`FileVaultError::Exists`] if there is a file already, [`FileVaultError::Locked`].
    pub fn create(path: &Path, unlock: Unlock, provider: P) -> Result<Self, FileVaultError> {
        let lock = lock::Lock::take(path)?;
        if path.exists() {
            return Err(FileVaultError::Exists { path: path.into() });
        }
        let (vault, documents) = (SoftwareVault::new(provider), BTreeMap::new());
        Ok(Self { path: path.into(), unlock, vault, documents, _lock: lock })
    }

    /// Opens a vault and locks it for this process.
    ///
    /// # Errors
    /// [`FileVaultError::Unlock`] if passphrase or key file are wrong, or the file was altered;
    /// [`FileVaultError::Malformed`] if it is no vault, or cut off; [`FileVaultError::Locked`]; [`FileVaultError::Io`].
    pub fn open(path: &Path, unlock: Unlock, provider: P) -> Result<Self, FileVaultError> {
        // Not read before it is locked: another process may be writing it. Not locked before it is known to be there: the
        // lock is a file too.
        fs::metadata(path).map_err(|source| FileVaultError::Io { path: path.into(), source })?;
        let lock = lock::Lock::take(path)?;
        let octets = read(path)?;
        let plaintext = format::open(path, &octets, &unlock, &provider)?;
        let (vault, documents) = contents::decode(path, &plaintext, provider)?;
        Ok(Self { path: path.into(), unlock, vault, documents, _lock: lock })
    }

    /// Writes the vault, whole or not at all.
    ///
    /// # Errors
    /// [`FileVaultError::Io`], for example if the disk is full: the file is then as it was.
    pub fn save(&self) -> Result<(), FileVaultError> {
        let plaintext = contents::encode(&self.vault, &self.documents)?;
        let octets = format::seal(&plaintext, &self.unlock, self.vault.provider())?;
        let temporary = beside(&self.path, ".new");
        let written = write_private(&temporary, &octets).and_then(|()| fs::rename(&temporary, &self.path));
        written.and_then(|()| sync_folder(&self.path)).map_err(|source| {
            let _ = fs::remove_file(&temporary);
            FileVaultError::Io { path: self.path.clone(), source }
        })
    }

    /// A public document that was kept with the keys.
    #[must_use]
    pub fn document(&self, name: &str) -> Option<&[u8]> {
        self.documents.get(name).map(Vec::as_slice)
    }

    /// Keeps a document with the keys: at most 65,535 octets, under a name of at most 255.
    ///
    /// # Errors
    /// [`FileVaultError::DocumentTooLong`].
    pub fn set_document(&mut self, name: &str, document: Vec<u8>) -> Result<(), FileVaultError> {
        if name.len() > contents::MAX_NAME || document.len() > contents::MAX_DOCUMENT {
            return Err(FileVaultError::DocumentTooLong { got: document.len(), limit: contents::MAX_DOCUMENT });
        }
        self.documents.insert(name.into(), document);
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileVaultError> {
    let failed = |source| FileVaultError::Io { path: path.into(), source };
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > format::MAX_FILE {
        return Err(FileVaultError::TooLong { path: path.into(), limit: format::MAX_FILE, got: length });
    }
    fs::read(path).map_err(failed)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Writes a file that only its owner may read, and syncs it and its folder. A file or link of that name is removed first: its permissions
/// would stay.
///
/// # Errors
/// As the system says.
pub fn write_private(path: &Path, octets: &[u8]) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(octets)?;
    file.sync_all()?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Elsewhere a folder cannot be opened, and a rename is durable when it returns.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

impl<P: CryptoProvider> Vault for FileVault<P> {
    type Provider = P;

    fn provider(&self) -> &P {
        self.vault.provider()
    }

    fn dh_public(&self, handle: &DhHandle) -> Result<PublicKey, VaultError> {
        self.vault.dh_public(handle)
    }

    fn dh(&self, handle: &DhHandle, peer: &PublicKey) -> Result<Secret<32>, VaultError> {
        self.vault.dh(handle, peer)
    }

    fn verifying_key(&self, handle: &SigningHandle) -> Result<VerifyingKey, VaultError> {
        self.vault.verifying_key(handle)
    }

    fn sign(&self, handle: &SigningHandle, message: &[u8]) -> Result<Signature, VaultError> {
        self.vault.sign(handle, message)
    }
}

impl<P: CryptoProvider> KeyStore for FileVault<P> {
    fn generate_dh(&mut self) -> Result<DhHandle, VaultError> {
        self.vault.generate_dh()
    }

    fn generate_signing(&mut self, algorithm: Algorithm) -> Result<SigningHandle, VaultError> {
        self.vault.generate_signing(algorithm)
    }

    fn import_signing(&mut self, algorithm: Algorithm, seed: &Secret<32>) -> Result<SigningHandle, VaultError> {
        self.vault.import_signing(algorithm, seed)
    }

    fn remove_dh(&mut self, handle: &DhHandle) -> bool {
        self.vault.remove_dh(handle)
    }

    fn remove_signing(&mut self, handle: &SigningHandle) -> bool {
        self.vault.remove_signing(handle)
    }
}
