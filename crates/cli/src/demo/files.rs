//! The files of a demonstration.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use sealway::{Identity, Secret, Unlock};

use crate::failure::Failure;

/// One folder for everything.
#[derive(Clone, Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Vaults of the demonstration open with a key that everybody may know: they hold nothing.
    pub(crate) fn unlock() -> Unlock {
        Unlock::KeyFile(Secret::new([0x5e; 32]))
    }

    pub(crate) fn identity(&self, name: &str) -> Result<Identity, Failure> {
        Ok(Identity::open(&self.path(&format!("{name}.vault")), Self::unlock())?)
    }

    /// The card of another machine.
    pub(crate) fn card(&self, name: &str) -> Result<sealway::Card, Failure> {
        crate::identity::card(&self.path(&format!("{name}.card")).to_string_lossy())
    }

    /// Whose cards there are, beside the relay's.
    pub(crate) fn clients(&self) -> Result<Vec<sealway::IdentityId>, Failure> {
        let mut clients = Vec::new();
        for entry in std::fs::read_dir(&self.0).map_err(Failure::failed)? {
            let name = entry.map_err(Failure::failed)?.file_name();
            if let Some(name) =
                name.to_str().and_then(|name| name.strip_suffix(".card")).filter(|name| *name != "relay")
            {
                clients.push(self.card(name)?.id());
            }
        }
        Ok(clients)
    }

    /// A file that is written at its end only. What was written stays although the process is killed.
    pub(crate) fn append(&self, name: &str) -> Result<Appender, Failure> {
        let path = self.path(name);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.map(Appender).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
    }
}

#[derive(Debug)]
pub(crate) struct Appender(File);

impl Appender {
    /// Appends everything, or ends the process: a demonstration that cannot write counts nothing.
    pub(crate) fn write(&self, octets: &[u8]) {
        if let Err(error) = (&self.0).write_all(octets) {
            eprintln!("sealway: the demonstration's file cannot be written: {error}");
            std::process::exit(1);
        }
    }
}

/// The lines of a file that may not be there.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_string).collect()
}
