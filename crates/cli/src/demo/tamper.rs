//! A relay that does its worst: damage to the end-to-end frames that it carries.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use sealway::danger::RelayTap;

use super::{files::Appender, random::Random};

/// Kinds of damage, as they are counted.
pub(crate) const KINDS: [&str; 6] = ["flipped", "dropped", "duplicated", "reordered", "replayed", "injected"];

/// Writes down all that the relay decrypts, and damages every eighth frame in turn in one of six ways.
pub(crate) struct Tampering {
    seen: Appender,
    damage: Appender,
    state: Mutex<State>,
}

struct State {
    random: Random,
    frames: u64,
    /// The next reading is to be changed.
    strikes: bool,
    /// A frame that waits to be overtaken by the next one to the same client.
    held: HashMap<u64, Vec<u8>>,
    /// Frames to come again later.
    kept: HashMap<u64, Vec<Vec<u8>>>,
}

const EVERY: u64 = 8;
const KEPT: usize = 16;
/// Heart rate and interval, in octets, and where they begin: before them ends a reading, behind it come type and tag.
const BEAT: usize = 4;
const BEAT_FROM_END: usize = BEAT + 1 + 16;

impl Tampering {
    pub(crate) fn new(seen: Appender, damage: Appender, seed: u64) -> Self {
        let state =
            State { random: Random::new(seed), frames: 0, strikes: true, held: HashMap::new(), kept: HashMap::new() };
        Self { seen, damage, state: Mutex::new(state) }
    }
}

impl State {
    fn damage(&mut self, to: u64, frame: &[u8]) -> (Option<&'static str>, Vec<Vec<u8>>) {
        self.frames += 1;
        let kept = self.kept.entry(to).or_default();
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push(frame.to_vec());
        if let Some(held) = self.held.remove(&to) {
            return (None, vec![frame.to_vec(), held]);
        }
        if looks_like_a_reading(frame) && std::mem::take(&mut self.strikes) {
            let mut struck = frame.to_vec();
            let bit = (frame.len() - BEAT_FROM_END) * 8 + self.random.below(BEAT * 8);
            struck[bit / 8] ^= 1 << (bit % 8);
            return (Some("flipped"), vec![struck]);
        }
        if self.frames % EVERY != EVERY - 1 {
            return (None, vec![frame.to_vec()]);
        }
        let kind = usize::try_from(self.frames / EVERY).unwrap_or(0) % KINDS.len();
        let instead = match KINDS[kind] {
            "flipped" => {
                let mut flipped = frame.to_vec();
                let bit = self.random.below(frame.len() * 8);
                // Next time where the beat stands.
                self.strikes = true;
                flipped[bit / 8] ^= 1 << (bit % 8);
                vec![flipped]
            }
            "dropped" => vec![],
            "duplicated" => vec![frame.to_vec(), frame.to_vec()],
            "reordered" => {
                self.held.insert(to, frame.to_vec());
                vec![]
            }
            "replayed" => {
                let at = self.random.below(self.kept.get(&to).map_or(0, Vec::len));
                let old = self.kept.get(&to).and_then(|kept| kept.get(at)).cloned();
                std::iter::once(frame.to_vec()).chain(old).collect()
            }
            // A record of the same session with a later counter and a body of the relay's own.
            _ => {
                let mut forged = frame.to_vec();
                for octet in forged.iter_mut().skip(5) {
                    *octet = u8::try_from(self.random.below(256)).unwrap_or(0);
                }
                vec![frame.to_vec(), forged]
            }
        };
        (Some(KINDS[kind]), instead)
    }
}

/// By its length: a typed record of the live lane around as many octets as a reading has. A setting may look like one.
fn looks_like_a_reading(frame: &[u8]) -> bool {
    let is_typed = frame.first().is_some_and(|octet| octet & 0xe2 == 0x82);
    is_typed && (46..=56).contains(&frame.len())
}

impl RelayTap for Tampering {
    fn saw(&self, hop_frame: &[u8]) {
        self.seen.write(hop_frame);
    }

    fn passes_on(&self, to: u64, frame: &[u8]) -> Vec<Vec<u8>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, instead) = state.damage(to, frame);
        if let Some(kind) = kind {
            self.damage.write(format!("{kind}\n").as_bytes());
        }
        instead
    }
}
