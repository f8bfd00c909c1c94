//! Frames that come in fragments, because a medium carries less at once.

use sealway_link::fragment::Fragment;
use sealway_vault::Vault;
use sealway_wire::{Timestamp, handshake::MESSAGE_3_MAX};

use super::Driver;
use crate::links::LinkId;

/// Links on which nobody has authenticated that may have begun a frame at once.
const STRANGERS: usize = 64;

impl<V: Vault + Clone + 'static> Driver<V> {
    /// Takes a fragment in, and returns the frame that it completes.
    ///
    /// Of a stranger, one frame at a time is waited for, after its beginning has shown that it is worth it: protocol section 9.
    pub(super) fn reassemble(&mut self, now: Timestamp, id: LinkId, datagram: &[u8]) -> Option<Vec<u8>> {
        let frame = Fragment::decode(datagram).ok().filter(|fragment| self.is_wanted(now, id, fragment));
        let Some(fragment) = frame else {
            self.statistics.refused_frames += 1;
            return None;
        };
        self.links.get_mut(&id)?.fragments.handle(now, &fragment)
    }

    fn is_wanted(&self, now: Timestamp, id: LinkId, fragment: &Fragment<'_>) -> bool {
        let Some(link) = self.links.get(&id) else { return false };
        if link.unproved.is_none() || link.fragments.has_begun(fragment.id) {
            return true;
        }
        let total = usize::from(fragment.total);
        let may_begin = fragment.offset == 0 && total <= MESSAGE_3_MAX && link.fragments.is_empty();
        if !may_begin || !self.endpoint.is_worth_waiting_for(now, fragment.octets, total) {
            return false;
        }
        let strangers = self.unproved.keys().filter_map(|(_, id)| self.links.get(id));
        strangers.filter(|link| !link.fragments.is_empty()).count() < STRANGERS
    }
}
