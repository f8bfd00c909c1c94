//! What was committed is there after the next opening, and only that.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use sealway_routing::{Batch, Store, StoreErrorKind, Table};
use sealway_store_redb::RedbStore;

fn rows(store: &mut RedbStore, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    store.load(table, &mut |key, value| rows.push((key.to_vec(), value.to_vec()))).unwrap();
    rows
}

#[test]
fn rows_survive_reopening_in_the_order_of_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut store = RedbStore::open(&path).unwrap();
    assert!(rows(&mut store, Table::Outbox).is_empty());
    let mut batch = Batch::default();
    batch.put(Table::Outbox, vec![2], b"two".to_vec());
    batch.put(Table::Outbox, vec![1], b"one".to_vec());
    batch.put(Table::Inbox, vec![3], b"three".to_vec());
    let mut second = Batch::default();
    second.delete(Table::Outbox, vec![2]);
    second.put(Table::Outbox, vec![4], Vec::new());
    store.commit(&[batch, second]).unwrap();
    assert_eq!(RedbStore::open(&path).unwrap_err().kind, StoreErrorKind::Locked);
    drop(store);
    let mut store = RedbStore::open(&path).unwrap();
    assert_eq!(rows(&mut store, Table::Outbox), [(vec![1], b"one".to_vec()), (vec![4], Vec::new())]);
    assert_eq!(rows(&mut store, Table::Inbox), [(vec![3], b"three".to_vec())]);
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes");
    std::fs::write(&path, b"my notes, which are no database").unwrap();
    assert_eq!(RedbStore::open(&path).unwrap_err().kind, StoreErrorKind::Corrupt);
    assert_eq!(std::fs::read(&path).unwrap(), b"my notes, which are no database");
    let error = RedbStore::open(&folder.path().join("no/such/folder")).unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
}
