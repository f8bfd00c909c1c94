//! Why a vault cannot be opened or written: each says what to do.

use std::{error::Error, fmt, io, path::PathBuf};

use sealway_vault::VaultError;

/// A failure of a file vault.
#[derive(Debug)]
#[non_exhaustive]
pub enum FileVaultError {
    /// The system could not read or write it.
    Io {
        /// The vault.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// There is a file already.
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Another process uses it.
    Locked {
        /// The vault.
        path: PathBuf,
    },
    /// Passphrase or key file are not the ones of this vault, or it was altered.
    Unlock {
        /// The vault.
        path: PathBuf,
    },
    /// It needs the other way of unlocking.
    OtherUnlock {
        /// The vault.
        path: PathBuf,
        /// What it needs.
        needed: &'static str,
    },
    /// It is no vault, of a later version, or cut off.
    Malformed {
        /// The file.
        path: PathBuf,
        /// The field that is wrong.
        field: &'static str,
    },
    /// It is longer than a vault can be.
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit in octets.
        limit: u64,
        /// Its length in octets.
        got: u64,
    },
    /// The document is longer than a vault keeps.
    DocumentTooLong {
        /// The limit in octets.
        limit: usize,
        /// Its length in octets.
        got: usize,
    },
    /// The keys themselves are at fault, or the source of randomness.
    Vault(VaultError),
}

impl fmt::Display for FileVaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "the vault {} cannot be read or written: {source}", path.display()),
            Self::Exists { path } => write!(f, "{} exists already; choose another name, or remove it", path.display()),
            Self::Locked { path } => {
                write!(f, "another process uses the vault {}; stop it first, or use another vault", path.display())
            }
            Self::Unlock { path } => write!(
                f,
                "the vault {} does not open: the passphrase or key file is not its own, or the file was altered",
                path.display()
            ),
            Self::OtherUnlock { path, needed } => write!(f, "the vault {} needs a {needed} to open", path.display()),
            Self::Malformed { path, field } => {
                write!(f, "{} is no vault of this version, or was cut off ({field})", path.display())
            }
            Self::TooLong { path, limit, got } => {
                write!(f, "{} has {got} octets, a vault has at most {limit}", path.display())
            }
            Self::DocumentTooLong { limit, got } => write!(f, "a document of {got} octets, the limit is {limit}"),
            Self::Vault(error) => error.fmt(f),
        }
    }
}

impl Error for FileVaultError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Vault(error) => Some(error),
            _ => None,
        }
    }
}

impl From<VaultError> for FileVaultError {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}
