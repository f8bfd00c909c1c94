//! An embedded store over [redb](https://docs.rs/redb): one file, one process, transactions that are on disk when they
//! return.
#![forbid(unsafe_code)]

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError,
};
use sealway_routing::{Batch, Operation, Store, StoreError, StoreErrorKind, Table};

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

const fn definition(table: Table) -> Definition {
    TableDefinition::new(table.name())
}

/// A store in one file.
#[derive(Debug)]
pub struct RedbStore {
    path: PathBuf,
    /// None after a failure: redb refuses everything from then on, so it is opened anew.
    database: Option<Database>,
}

impl RedbStore {
    /// Opens the file, or makes it. It is readable and writable by its owner alone where the system knows owners.
    ///
    /// # Errors
    /// [`StoreErrorKind::Locked`] if another process has it open, [`StoreErrorKind::Denied`], [`StoreErrorKind::Full`],
    /// [`StoreErrorKind::Corrupt`] if it is something else.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Some(open(path)?);
        if let Some(folder) = path.parent().filter(|folder| cfg!(unix) && !folder.as_os_str().is_empty()) {
            // The file itself has to survive a power cut too.
            let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|error| failure(StorageError::Io(error)))?;
        }
        Ok(Self { path: path.into(), database })
    }

    fn database(&mut self) -> Result<&Database, StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path)?,
        };
        Ok(self.database.insert(database))
    }

    fn try_commit(&mut self, batches: &[Batch]) -> Result<(), StoreError> {
        let mut write = self.database()?.begin_write().map_err(failure)?;
        write.set_durability(Durability::Immediate).map_err(|error| StoreError::new(StoreErrorKind::Other, error))?;
        for wanted in Table::ALL {
            let operations = batches.iter().flat_map(|batch| &batch.operations);
            let mut operations = operations.filter(|operation| table_of(operation) == wanted).peekable();
            if operations.peek().is_none() {
                continue;
            }
            let mut table = write.open_table(definition(wanted)).map_err(failure)?;
            for operation in operations {
                match operation {
                    Operation::Put { key, value, .. } => {
                        table.insert(key.as_slice(), value.as_slice()).map_err(failure)?;
                    }
                    Operation::Delete { key, .. } => {
                        table.remove(key.as_slice()).map_err(failure)?;
                    }
                }
            }
        }
        write.commit().map_err(failure)
    }
}

fn open(path: &Path) -> Result<Database, StoreError> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path).map_err(|error| failure(StorageError::Io(error)))?;
    redb::Builder::new().set_cache_size(CACHE).create_file(file).map_err(open_failure)
}

/// Messages are written once and read back rarely.
const CACHE: usize = 4 * 1024 * 1024;

impl Store for RedbStore {
    fn load(&mut self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        let read = self.database()?.begin_read().map_err(failure)?;
        let table = match read.open_table(definition(table)) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(error) => return Err(failure(error)),
        };
        for row in table.iter().map_err(failure)? {
            let (key, value) = row.map_err(failure)?;
            visit(key.value(), value.value());
        }
        Ok(())
    }

    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let read = self.database()?.begin_read().map_err(failure)?;
        let table = match read.open_table(definition(table)) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(failure(error)),
        };
        let value = table.get(key).map_err(failure)?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn commit(&mut self, batches: &[Batch]) -> Result<(), StoreError> {
        let outcome = self.try_commit(batches);
        if outcome.is_err() {
            self.database = None;
        }
        outcome
    }
}

const fn table_of(operation: &Operation) -> Table {
    match operation {
        Operation::Put { table, .. } | Operation::Delete { table, .. } => *table,
    }
}

fn open_failure(error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::new(StoreErrorKind::Locked, error),
        DatabaseError::Storage(error) => failure(error),
        _ => StoreError::new(StoreErrorKind::Corrupt, error),
    }
}

fn failure(error: impl Into<redb::Error>) -> StoreError {
    let error = error.into();
    let kind = match &error {
        redb::Error::Io(error) => match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => StoreErrorKind::Full,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreErrorKind::Denied,
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => StoreErrorKind::Corrupt,
            _ => StoreErrorKind::Other,
        },
        redb::Error::Corrupted(_) | redb::Error::TableTypeMismatch { .. } => StoreErrorKind::Corrupt,
        _ => StoreErrorKind::Other,
    };
    StoreError::new(kind, error)
}
