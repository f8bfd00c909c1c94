//! What of a session survives a restart.

use alloc::vec::Vec;

use sealway_vault::{AeadKey, CryptoProvider, Vault, VaultError};
use sealway_wire::{Cid, IdentityId, Timestamp};

use super::{ChannelId, Endpoint, Event, Restored, Saved};
use crate::{
    StateError,
    schedule::{self, DOMAIN},
    stored::StoredLane,
};

impl<V: Vault + Clone + 'static> Endpoint<V> {
    /// What is to be written, in this order. After each state was written, call
    /// [`written`](Self::written); if it could not be, [`not_written`](Self::not_written).
    pub fn poll_saved(&mut self) -> Option<Saved> {
        self.saved.pop_front()
    }

    /// The state of a session is on disk: START and ACK may leave.
    pub fn written(&mut self, peer: &IdentityId, session: Cid) {
        let Some(id) = self.by_peer.get(peer).copied() else { return };
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let reserves_only = channel.stored_by_cid(session).is_some_and(StoredLane::written);
        if let Some(established) = channel.by_cid(session).filter(|_| !reserves_only) {
            established.unsaved = established.unsaved.saturating_sub(1);
        }
        if let Some(kept) = channel.kept_by_cid(session).filter(|_| !reserves_only) {
            kept.unsaved = kept.unsaved.saturating_sub(1);
        }
        self.reschedule(id);
    }

    /// The state of a session could not be written: the session is dropped, for the peer must not rely on it. Another is
    /// made after a delay, if we can initiate one.
    pub fn not_written(&mut self, now: Timestamp, peer: &IdentityId, session: Cid) {
        let Some(id) = self.by_peer.get(peer).copied() else { return };
        let jitter = self.vault.provider().random().map_or(0, u64::from_be_bytes);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.stored_by_cid(session).into_iter().for_each(StoredLane::not_written);
        // What is kept seals nothing before it is written: it is tried again when something is to be left.
        channel.kept_by_cid(session).into_iter().for_each(|kept| {
            (kept.unsaved, kept.failed) = (kept.unsaved.saturating_sub(1), true);
        });
        let gone = channel.abandon(session);
        if gone && channel.can_initiate() && !channel.attempt.is_running() {
            channel.wanted = true;
            channel.fail(now, jitter);
        }
        if gone {
            self.by_cid.remove(&session);
            self.events.retain(
                |event| !matches!(event, Event::Opened { channel, .. } | Event::Renewed { channel, .. } if *channel == id),
            );
        }
        self.reschedule(id);
    }

    /// Takes back a session's state that an earlier run has written. Times have to go on from that run's.
    ///
    /// # Errors
    /// [`StateError`]: delete it.
    pub fn restore(&mut self, now: Timestamp, state: &[u8]) -> Result<Restored, StateError> {
        let owner = self.owner.id();
        let (provider, reserves) = (self.vault.provider().clone(), self.config.reserves_counters);
        let bound = (owner.as_bytes(), reserves);
        let restored = StoredLane::restore(&provider, self.state_key()?, bound, state);
        let (mut stored, is_earlier) = match (restored, self.config.earlier_key) {
            // What was written before the last rotation opens as long as the key before it answers.
            (Err(StateError::Rejected), Some((earlier, _))) => {
                let key = AeadKey::new(&schedule::state_key(&self.vault, DOMAIN, &earlier)?);
                (StoredLane::restore(&provider, &key, bound, state)?, true)
            }
            (restored, _) => (restored?, false),
        };
        // A clock that has gone back counts from there.
        stored.since = stored.since.min(now);
        let (peer, session) = (stored.peer.clone(), stored.local);
        let rank = peer.attestation().rank();
        let known = self.known.entry(peer.id()).or_insert(rank);
        *known = rank.max(*known);
        let channel = self.channel_of(peer.id());
        let gone = self.channels.get_mut(&channel).and_then(|channel| channel.restore(stored));
        self.by_cid.insert(session, channel);
        self.gone(peer.id(), true, gone.into_iter().collect());
        if is_earlier || reserves {
            // It is to open when that key is gone, too; and what is sealed next is reserved.
            self.save(channel, session);
        }
        self.handle_channel(now, channel);
        Ok(Restored { channel, peer: peer.id(), mailbox: peer.mailbox() })
    }

    fn state_key(&mut self) -> Result<&<V::Provider as CryptoProvider>::AeadKey, VaultError> {
        let key = match self.state_key.take() {
            Some(key) => key,
            None => AeadKey::new(&schedule::state_key(&self.vault, DOMAIN, &self.owner.channel_key())?),
        };
        Ok(self.state_key.insert(key))
    }

    /// Whether the stored lanes of a channel outlive their sessions.
    pub(super) fn keeps(&self, id: ChannelId) -> bool {
        self.config.keeps_state && self.channels.get(&id).is_some_and(|channel| !channel.is_hop)
    }

    /// Has the state of a session written anew.
    pub(super) fn save(&mut self, id: ChannelId, session: Cid) {
        self.save_for(id, session, false);
    }

    /// Has what could not be written of lanes that are kept written once more.
    pub(super) fn save_failed(&mut self, id: ChannelId) {
        let failed = self.channels.get(&id).into_iter().flat_map(|channel| &channel.kept).filter(|kept| kept.failed);
        let failed: Vec<Cid> = failed.map(|kept| kept.stored.local).collect();
        for session in failed {
            // With the counters that it was to reserve.
            let stored = self.channels.get_mut(&id).and_then(|channel| channel.stored_by_cid(session));
            stored.into_iter().for_each(|stored| _ = stored.wants_saving());
            self.save(id, session);
        }
    }

    /// Has more counters of its stored lane reserved: nothing but those waits for it.
    pub(super) fn reserve(&mut self, id: ChannelId, session: Cid) {
        self.save_for(id, session, true);
    }

    fn save_for(&mut self, id: ChannelId, session: Cid, reserves_only: bool) {
        if !self.keeps(id) {
            return;
        }
        let owner = self.owner.id();
        let ready = self.state_key().map(drop);
        let reserves = self.config.reserves_counters;
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let (peer, provider) = (channel.peer, self.vault.provider());
        if let Some(stored) = channel.stored_by_cid(session).filter(|_| reserves) {
            stored.reserve();
        }
        let sealed = ready.and_then(|()| {
            let found = channel.stored_by_cid(session).zip(self.state_key.as_ref());
            found
                .map(|(stored, key)| stored.save(provider, key, owner.as_bytes()))
                .transpose()
                .map_err(VaultError::from)
        });
        let state = match sealed {
            Ok(Some(state)) => state,
            Ok(None) => return,
            Err(error) => {
                // Without state the session works all the same, until the next restart.
                channel.stored_by_cid(session).into_iter().for_each(StoredLane::not_made);
                self.events.push_back(Event::NotKept { channel: id, error });
                return;
            }
        };
        if let Some(stored) = channel.stored_by_cid(session) {
            stored.is_being_written(reserves_only);
        }
        if let Some(established) = channel.by_cid(session).filter(|_| !reserves_only) {
            established.unsaved += 1;
        }
        if let Some(kept) = channel.kept_by_cid(session).filter(|_| !reserves_only) {
            (kept.unsaved, kept.failed) = (kept.unsaved + 1, false);
        }
        self.saved.push_back(Saved { peer, session, state: Some(state) });
    }

    /// Takes note that nothing opens any more under these connection ids.
    pub(super) fn gone(&mut self, peer: IdentityId, keeps: bool, cids: Vec<Cid>) {
        for session in cids {
            self.by_cid.remove(&session);
            if keeps && self.config.keeps_state {
                self.saved.push_back(Saved { peer, session, state: None });
            }
        }
    }
}
