//! The store's thread: everything that waits is written with one commit.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use sealway_routing::{Batch, Store, StoreError};
use tokio::sync::mpsc as tokio_mpsc;

/// The most batches of one commit.
const GROUP: usize = 1024;

/// Hands batches to the store's thread; `T` says what each was for.
pub(crate) struct Writer<T> {
    requests: mpsc::Sender<(Batch, T)>,
}

/// What was written, or not, in the order of the requests.
pub(crate) struct Written<T> {
    pub(crate) what: Vec<T>,
    pub(crate) result: Result<(), Arc<StoreError>>,
}

impl<T: Send + 'static> Writer<T> {
    /// Starts the thread. It ends when the writer is dropped and everything is written.
    pub(crate) fn start(
        mut store: Box<dyn Store>,
        done: tokio_mpsc::UnboundedSender<Written<T>>,
    ) -> std::io::Result<(Self, thread::JoinHandle<()>)> {
        let (requests, queue) = mpsc::channel::<(Batch, T)>();
        let thread = thread::Builder::new().name("sealway-store".into()).spawn(move || {
            while let Ok(first) = queue.recv() {
                let group = std::iter::once(first).chain(queue.try_iter().take(GROUP - 1));
                let (batches, what): (Vec<Batch>, Vec<T>) = group.unzip();
                let result = store.commit(&batches).map_err(Arc::new);
                if done.send(Written { what, result }).is_err() {
                    break;
                }
            }
        })?;
        Ok((Self { requests }, thread))
    }

    /// Queues a batch. The number of batches under way is bounded by those who wait for them.
    pub(crate) fn write(&self, batch: Batch, what: T) {
        // The thread ends only when this sender is dropped.
        let _ = self.requests.send((batch, what));
    }
}
