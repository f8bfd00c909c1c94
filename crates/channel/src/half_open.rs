//! Half-open handshakes: bounded in number, per source and in time. Protocol section 3.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::time::Duration;

use sealway_vault::Vault;
use sealway_wire::{
    Cid, Timestamp,
    danger::{self, Protection},
};

use crate::{
    endpoint::Source,
    responder::{Accepted, HalfOpen},
};

/// How long a half-open handshake waits for S1.3.
const LIFETIME: Duration = Duration::from_secs(10);
/// The most half-open handshakes of one source; the newest replaces the oldest.
pub(crate) const PER_SOURCE: usize = 8;
/// The most half-open handshakes in all; a full table drops one at random.
pub(crate) const TOTAL: usize = 1024;

fn lifetime() -> Duration {
    if danger::is_off(Protection::Lifetime) { Duration::MAX / 4 } else { LIFETIME }
}

pub(crate) enum State<V: Vault + Clone + 'static> {
    /// S1.2 was sent.
    AwaitingMessage3(HalfOpen<V>),
    /// S1.3 was verified, but our own handshake with the same peer goes first while it runs. S1.2 is done with.
    Withheld(Accepted<V::Provider>),
}

pub(crate) struct Entry<V: Vault + Clone + 'static> {
    /// SHA-256 of the Noise message of S1.1.
    message1: [u8; 32],
    /// e of it.
    pub(crate) ephemeral: [u8; 32],
    source: Source,
    since: Timestamp,
    pub(crate) state: State<V>,
}

/// The table.
pub(crate) struct HalfOpenTable<V: Vault + Clone + 'static> {
    /// Boxed, for the map keeps room for several in each of its nodes.
    entries: BTreeMap<Cid, Box<Entry<V>>>,
    by_message1: BTreeMap<[u8; 32], Cid>,
    by_age: BTreeSet<(Timestamp, Cid)>,
}

impl<V: Vault + Clone + 'static> HalfOpenTable<V> {
    pub(crate) const fn new() -> Self {
        Self { entries: BTreeMap::new(), by_message1: BTreeMap::new(), by_age: BTreeSet::new() }
    }

    pub(crate) fn contains(&self, cid: Cid) -> bool {
        self.entries.contains_key(&cid)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What is to be sent for an S1.1 that was answered before: S1.2 again, or nothing more once S1.3 has come.
    pub(crate) fn repeated(&self, message1: &[u8; 32]) -> Option<Option<&[u8]>> {
        let cid = self.by_message1.get(message1)?;
        Some(match &self.entries.get(cid)?.state {
            State::AwaitingMessage3(half_open) => Some(&half_open.frame),
            State::Withheld(_) => None,
        })
    }

    /// How many handshakes a source has.
    pub(crate) fn of(&self, source: Source) -> usize {
        self.entries.values().filter(|entry| entry.source == source).count()
    }

    /// Adds a handshake, and returns another that had to go. `random` chooses which of a full table.
    pub(crate) fn insert(
        &mut self,
        now: Timestamp,
        cid: Cid,
        (message1, ephemeral): ([u8; 32], [u8; 32]),
        source: Source,
        half_open: HalfOpen<V>,
        random: u64,
    ) -> Option<Entry<V>> {
        let same_source: Vec<(Timestamp, Cid)> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.source == source)
            .map(|(cid, entry)| (entry.since, *cid))
            .collect();
        let victim = if same_source.len() >= PER_SOURCE && !danger::is_off(Protection::Share) {
            same_source.into_iter().min().map(|(_, cid)| cid)
        } else if self.entries.len() >= TOTAL {
            let index = usize::try_from(random % TOTAL as u64).unwrap_or(0);
            self.entries.keys().nth(index).copied()
        } else {
            None
        };
        let victim = victim.and_then(|cid| self.remove(cid));
        self.by_message1.insert(message1, cid);
        self.by_age.insert((now, cid));
        let state = State::AwaitingMessage3(half_open);
        self.entries.insert(cid, Box::new(Entry { message1, ephemeral, source, since: now, state }));
        victim
    }

    pub(crate) fn get_mut(&mut self, cid: Cid) -> Option<&mut Entry<V>> {
        self.entries.get_mut(&cid).map(Box::as_mut)
    }

    pub(crate) fn remove(&mut self, cid: Cid) -> Option<Entry<V>> {
        let entry = self.entries.remove(&cid)?;
        self.by_message1.remove(&entry.message1);
        self.by_age.remove(&(entry.since, cid));
        Some(*entry)
    }

    /// Removes the handshakes whose time is over.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        while let Some((since, cid)) = self.by_age.first().copied().filter(|(since, _)| now.since(*since) >= lifetime())
        {
            let _ = (since, self.remove(cid));
        }
    }

    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        self.by_age.first().map(|(since, _)| since.after(lifetime()))
    }

    /// The connection ids of the handshakes that are withheld and satisfy `is_peer`.
    pub(crate) fn withheld(&self, is_peer: impl Fn(&Accepted<V::Provider>) -> bool) -> Vec<Cid> {
        let matching = |entry: &Entry<V>| matches!(&entry.state, State::Withheld(accepted) if is_peer(accepted));
        self.entries.iter().filter(|(_, entry)| matching(entry)).map(|(cid, _)| *cid).collect()
    }
}
