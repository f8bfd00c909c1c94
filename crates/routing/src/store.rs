//! What the machines need of a disk.

use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};
use core::{error::Error, fmt};

/// A table of octet strings by octet strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Messages that their recipients have not committed: by recipient and order.
    Outbox,
    /// Marks of what was committed: by sender and instance.
    Inbox,
    /// Boxes of a relay: by name, with their owners and who may send to them.
    Boxes,
    /// Frames that a relay keeps: by box and order.
    Custody,
    /// Stored lanes of sessions, sealed: by peer and connection id.
    Sessions,
    /// Where those can be answered who are known by letters alone: by identity.
    Peers,
    /// The own prekeys, sealed: by id.
    Prekeys,
    /// Handshakes by letter, sealed: by peer.
    Handshakes,
    /// What clients of a relay have published of their prekeys: by box.
    Published,
    /// Pairings of the constrained profile, sealed: by peer.
    Pairings,
}

impl Table {
    /// Every table, in the order in which they are to be loaded.
    pub const ALL: [Self; 10] = [
        Self::Sessions,
        Self::Peers,
        Self::Prekeys,
        Self::Handshakes,
        Self::Outbox,
        Self::Inbox,
        Self::Boxes,
        Self::Custody,
        Self::Published,
        Self::Pairings,
    ];

    /// Whether its rows are sealed under a key of the vault: those that do not open now never will.
    #[must_use]
    pub const fn is_sealed(self) -> bool {
        matches!(self, Self::Sessions | Self::Prekeys | Self::Handshakes)
    }

    /// Its name on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::Inbox => "inbox",
            Self::Boxes => "boxes",
            Self::Custody => "custody",
            Self::Sessions => "sessions",
            Self::Peers => "peers",
            Self::Prekeys => "prekeys",
            Self::Handshakes => "handshakes",
            Self::Published => "published",
            Self::Pairings => "pairings",
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Writes a value.
    Put {
        /// Where.
        table: Table,
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// Removes a value, if it is there.
    Delete {
        /// Where.
        table: Table,
        /// The key.
        key: Vec<u8>,
    },
}

/// Changes that happen together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In order.
    pub operations: Vec<Operation>,
}

impl Batch {
    /// Adds a write.
    pub fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.operations.push(Operation::Put { table, key, value });
    }

    /// Adds a removal.
    pub fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.operations.push(Operation::Delete { table, key });
    }

    /// Whether nothing is to be changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

/// Keeps tables through crashes and power cuts. Calls block.
pub trait Store: Send {
    /// Calls `visit` with every key and value of a table, in the order of the keys.
    ///
    /// # Errors
    /// If the table cannot be read.
    fn load(&mut self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError>;

    /// The value of one key, if it is there.
    ///
    /// # Errors
    /// If the table cannot be read.
    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Carries out all batches, in order. When it returns, they are on disk.
    ///
    /// # Errors
    /// If they are not; none of them has happened then.
    fn commit(&mut self, batches: &[Batch]) -> Result<(), StoreError>;
}

/// What has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The disk is full. Retry when there is room.
    Full,
    /// This user may not read or write it.
    Denied,
    /// Another process has it open.
    Locked,
    /// What is there is no store, or is damaged.
    Corrupt,
    /// Anything else.
    Other,
}

/// A store does not work.
#[derive(Debug)]
pub struct StoreError {
    /// What has failed.
    pub kind: StoreErrorKind,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl StoreError {
    /// A failure and its cause.
    #[must_use]
    pub fn new(kind: StoreErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind, source: Some(source.into()) }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            StoreErrorKind::Full => "the disk is full",
            StoreErrorKind::Denied => "the store may not be read or written by this user",
            StoreErrorKind::Locked => "another process has the store open",
            StoreErrorKind::Corrupt => "the store is damaged, or is none",
            StoreErrorKind::Other => "the store failed",
        })?;
        match &self.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

/// Tables in memory: for tests. A clone is what a copy of the disk would be.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    tables: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

impl Store for MemoryStore {
    fn load(&mut self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        let rows = self.tables.range((table, Vec::new())..).take_while(|((found, _), _)| *found == table);
        rows.for_each(|((_, key), value)| visit(key, value));
        Ok(())
    }

    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tables.get(&(table, key.to_vec())).cloned())
    }

    fn commit(&mut self, batches: &[Batch]) -> Result<(), StoreError> {
        for operation in batches.iter().flat_map(|batch| &batch.operations) {
            match operation {
                Operation::Put { table, key, value } => {
                    self.tables.insert((*table, key.clone()), value.clone());
                }
                Operation::Delete { table, key } => {
                    self.tables.remove(&(*table, key.clone()));
                }
            }
        }
        Ok(())
    }
}
