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
    /// What anybody could have sent is waited for after its beginning has shown that it is worth it: protocol section 8. Long
    /// frames on an authenticated link are no handshakes, and come in packets whose numbers nobody guesses.
    pub(super) fn reassemble(&mut self, now: Timestamp, id: LinkId, datagram: &[u8]) -> Option<Vec<u8>> {
        let Ok(fragment) = Fragment::decode(datagram) else {
            self.statistics.refused_frames += 1;
            return None;
        };
        let link = self.links.get_mut(&id)?;
        let total = usize::from(fragment.total);
        let is_strange = link.unproved.is_some();
        if !is_strange && total > MESSAGE_3_MAX {
            return link.fragments.handle(now, &fragment);
        }
        if !link.greetings.has_begun(now, &fragment) {
            if fragment.offset != 0 || !self.endpoint.is_worth_waiting_for(now, fragment.octets, total) {
                self.statistics.refused_frames += 1;
                return None;
            }
            if is_strange {
                self.make_room_for_fragments(id);
            }
        }
        self.links.get_mut(&id)?.greetings.handle(now, &fragment)
    }

    /// The newest frame of a stranger takes the place of the oldest, and of what came before it on its link.
    fn make_room_for_fragments(&mut self, id: LinkId) {
        self.links.get_mut(&id).into_iter().for_each(|link| link.greetings.clear());
        let waiting = self.unproved.keys().filter_map(|(_, id)| {
            let since = self.links.get(id)?.greetings.waiting_since()?;
            Some((since, *id))
        });
        let waiting: Vec<_> = waiting.collect();
        if waiting.len() >= STRANGERS
            && let Some((_, oldest)) = waiting.into_iter().min()
            && let Some(link) = self.links.get_mut(&oldest)
        {
            link.greetings.clear();
        }
    }
}
