//! An embedded store over [redb](https://docs.rs/redb): one file, one process, transactions that are on disk when they
//! return.
#![forbid(unsafe_code)]

use std::{io::ErrorKind, path::Path};

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
    database: Database,
}

impl RedbStore {
    /// Opens the file, or makes it. It is readable and writable by its owner alone where the system knows owners.
    ///
    /// # Errors
    /// [`StoreErrorKind::Locked`] if another process has it open, [`StoreErrorKind::Denied`], [`StoreErrorKind::Full`],
    /// [`StoreErrorKind::Corrupt`] if it is something else.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).map_err(|error| failure(StorageError::Io(error)))?;
        let database = redb::Builder::new().set_cache_size(CACHE).create_file(file).map_err(open_failure)?;
        Ok(Self { database })
    }
}

/// Messages are written once and read back rarely.
const CACHE: usize = 4 * 1024 * 1024;

impl Store for RedbStore {
    fn load(&mut self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        let read = self.database.begin_read().map_err(failure)?;
        let table = match read.open_table(definition(table)) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(error) => return Err(StoreError::new(StoreErrorKind::Corrupt, error)),
        };
        for row in table.iter().map_err(failure)? {
            let (key, value) = row.map_err(failure)?;
            visit(key.value(), value.value());
        }
        Ok(())
    }

    fn commit(&mut self, batches: &[Batch]) -> Result<(), StoreError> {
        let mut write = self.database.begin_write().map_err(failure)?;
        write.set_durability(Durability::Immediate).map_err(|error| StoreError::new(StoreErrorKind::Other, error))?;
        for wanted in Table::ALL {
            let operations = batches.iter().flat_map(|batch| &batch.operations);
            let mut operations = operations.filter(|operation| table_of(operation) == wanted).peekable();
            if operations.peek().is_none() {
                continue;
            }
            let corrupt = |error| StoreError::new(StoreErrorKind::Corrupt, error);
            let mut table = write.open_table(definition(wanted)).map_err(corrupt)?;
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
        redb::Error::Corrupted(_) => StoreErrorKind::Corrupt,
        _ => StoreErrorKind::Other,
    };
    StoreError::new(kind, error)
}
