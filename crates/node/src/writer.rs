//! The store's thread: everything that waits to be written is written with one commit.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use sealway_routing::{Batch, Store, StoreError, Table};
use tokio::sync::mpsc as tokio_mpsc;

/// The most batches of one commit.
const GROUP: usize = 1024;

/// What the thread is asked to do; `T` says what for.
enum Job<T> {
    Write(Batch, T),
    Read(Table, Vec<u8>, T),
}

/// Hands batches to the store's thread.
pub(crate) struct Writer<T> {
    requests: mpsc::Sender<Job<T>>,
}

/// What the thread has done: writes in their order, and each question after what was queued before it.
pub(crate) enum Completed<T> {
    /// These were written, or not.
    Written { what: Vec<T>, result: Result<(), Arc<StoreError>> },
    /// A value was read. None: it is not there.
    Read { what: T, value: Result<Option<Vec<u8>>, StoreError> },
}

impl<T: Send + 'static> Writer<T> {
    /// Starts the thread. It ends when the writer is dropped and everything is written.
    pub(crate) fn start(
        mut store: Box<dyn Store>,
        done: tokio_mpsc::UnboundedSender<Completed<T>>,
    ) -> std::io::Result<(Self, thread::JoinHandle<()>)> {
        let (requests, queue) = mpsc::channel::<Job<T>>();
        let thread = thread::Builder::new().name("sealway-store".into()).spawn(move || {
            while let Ok(job) = queue.recv() {
                // Questions wait for what is written together: it was queued before them, or does them no harm.
                let (mut batches, mut what, mut questions) = (Vec::new(), Vec::new(), Vec::new());
                let mut next = Some(job);
                while let Some(job) = next.take() {
                    match job {
                        Job::Write(batch, reason) => {
                            batches.push(batch);
                            what.push(reason);
                        }
                        Job::Read(table, key, reason) => questions.push((table, key, reason)),
                    }
                    if batches.len() + questions.len() < GROUP {
                        next = queue.try_recv().ok();
                    }
                }
                if !batches.is_empty() {
                    let result = store.commit(&batches).map_err(Arc::new);
                    if done.send(Completed::Written { what, result }).is_err() {
                        return;
                    }
                }
                for (table, key, what) in questions {
                    if done.send(Completed::Read { what, value: store.get(table, &key) }).is_err() {
                        return;
                    }
                }
            }
        })?;
        Ok((Self { requests }, thread))
    }

    /// Queues a batch. The number of batches under way is bounded by those who wait for them.
    pub(crate) fn write(&self, batch: Batch, what: T) {
        // The thread ends only when this sender is dropped.
        let _ = self.requests.send(Job::Write(batch, what));
    }

    /// Queues a question. It is answered after what was queued before it.
    pub(crate) fn read(&self, table: Table, key: Vec<u8>, what: T) {
        let _ = self.requests.send(Job::Read(table, key, what));
    }
}
