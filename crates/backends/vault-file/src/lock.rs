//! One process at a time.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
};

use crate::FileVaultError;

/// An advisory lock on a file beside the vault: the vault itself is replaced at each writing. The system releases it when
/// the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    pub(crate) fn take(vault: &Path) -> Result<Self, FileVaultError> {
        let path = crate::beside(vault, ".lock");
        let failed = |source| FileVaultError::Io { path: path.clone(), source };
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(FileVaultError::Locked { path: vault.into() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}
