//! How the relay is reached.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use sealway_link::{FrameLink, LinkError, LinkErrorKind, Places, Transport};

use crate::gateway::speaker;

/// Links up on which the relay has not said anything yet, for links that anybody can make: fewer than a relay lets one address have.
const MAX_WAITING: usize = 48;
/// The same, for one source.
const MAX_WAITING_OF_SOURCE: usize = 16;

/// An address at which the relay has answered so lately is its address.
const TRUST: Duration = Duration::from_secs(60);

/// The relay's addresses, and who waits for its first word.
pub(crate) struct Up {
    transports: Vec<Arc<dyn Transport>>,
    addresses: Vec<String>,
    /// Which address is tried first: the last one at which somebody answered.
    first: AtomicUsize,
    waiting: Mutex<Waiting>,
}

struct Waiting {
    places: Places,
    /// When the relay has answered last, by the number of the address.
    answered: HashMap<usize, Instant>,
}

/// A place among those who wait.
pub(crate) struct Place {
    up: Arc<Up>,
    source: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.up.waiting.lock().unwrap_or_else(PoisonError::into_inner).places.give_back(Some(self.source));
    }
}

impl Up {
    pub(crate) fn new(transports: Vec<Arc<dyn Transport>>, addresses: Vec<String>) -> Self {
        let places = Places::new(MAX_WAITING, MAX_WAITING_OF_SOURCE);
        let waiting = Mutex::new(Waiting { places, answered: HashMap::new() });
        Self { transports, addresses, first: AtomicUsize::new(0), waiting }
    }

    /// A place for a link of this source, if there is one.
    pub(crate) fn wait(self: &Arc<Self>, source: u64) -> Option<Place> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.places.take(Some(source)).then(|| Place { up: self.clone(), source })
    }

    /// A link to the relay, over the first of its addresses that gives one, and the number of that.
    pub(crate) async fn connect(&self) -> Result<(Box<dyn FrameLink>, usize), LinkError> {
        let mut last = LinkError::new(LinkErrorKind::Unsupported, "a relay without addresses");
        let (first, count) = (self.first.load(Relaxed), self.addresses.len());
        for index in (first..first + count).map(|index| index % count) {
            let Some(Ok((transport, address))) = self.addresses.get(index).map(|text| speaker(&self.transports, text))
            else {
                continue;
            };
            match transport.connect(&address).await {
                Ok(mut link) => {
                    link.set_proved();
                    return Ok((link, index));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Somebody has answered at an address.
    pub(crate) fn answered(&self, index: usize) {
        self.first.store(index, Relaxed);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.answered.insert(index, Instant::now());
    }

    /// Nobody has. Of some media only silence tells that nobody is there: the next link is tried at another address first, unless
    /// others were answered at this one lately. To strangers a relay says nothing.
    pub(crate) fn unanswered(&self, index: usize) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.answered.get(&index).is_some_and(|at| at.elapsed() < TRUST) {
            return;
        }
        drop(waiting);
        let next = (index + 1) % self.addresses.len().max(1);
        let _ = self.first.compare_exchange(index, next, Relaxed, Relaxed);
    }
}
