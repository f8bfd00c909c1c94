//! The own prekeys: made, published when they are on disk, replaced, and in the end forgotten. Protocol section 12.
//!
//! ```text
//!  made ──written──► published ──7 days──► replaced ──7 days──► forgotten
//! ```
//!
//! A relay keeps a letter for 7 days at most, so that what was sealed to a prekey before it was replaced still opens.
//!
//! Ages are counted, not read off a clock: the time that the program runs always counts, the time between two runs only if the
//! clock stood higher at the later one. A device without a clock, which begins at nought each time, thus keeps a prekey longer
//! than 7 days, and does not forget one too early.

use alloc::{boxed::Box, vec::Vec};
use core::time::Duration;

use sealway_identity::PrekeyParts;
use sealway_vault::{CryptoProvider, DhKey, EntropyError, KemKey, Secret};
use sealway_wire::{PrekeyId, Reader, Timestamp};

use crate::{StateError, at_rest, letter::DOMAIN};

/// How long letters are sealed to a prekey; and how long they still open after it was replaced, which is how long a relay is
/// asked to keep one.
pub const PREKEY_TIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How often the age of a prekey is written.
const COUNTED: Duration = Duration::from_secs(60 * 60);
/// After what time another is made when one could not be.
const RETRY: Duration = Duration::from_secs(60);
const REPLACED: u8 = 1;
const HYBRID: u8 = 1 << 1;

/// What prekeys consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrekeyKind {
    /// X25519 alone: for what has no room for 1088 octets more. What is recorded today is open to a quantum computer.
    Classical,
    /// X25519 and ML-KEM-768.
    Hybrid,
}

/// What is kept of a prekey, and under which id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedPrekey {
    /// The prekey.
    pub id: PrekeyId,
    /// The state, sealed under a key of the vault; none: what was kept is to be deleted.
    pub state: Option<Vec<u8>>,
}

/// One prekey.
pub(crate) struct Held {
    pub(crate) id: PrekeyId,
    pub(crate) sequence: u64,
    pub(crate) dh: Secret<32>,
    pub(crate) kem: Option<Secret<64>>,
    replaced: bool,
    /// How long it has been published, or replaced; and when that was counted.
    age: Duration,
    counted: Timestamp,
    /// It was written, and may be published.
    pub(crate) written: bool,
    /// Its age was written last when it was so old.
    noted: Duration,
}

impl Held {
    fn count(&mut self, now: Timestamp) {
        // A clock that has gone back counts from there.
        self.age += now.since(self.counted);
        self.counted = now;
    }

    /// The public part.
    pub(crate) fn parts(&self, provider: &impl CryptoProvider) -> PrekeyParts {
        let kem = self.kem.as_ref().map(|seed| {
            let mut key = Box::new([0; 1184]);
            provider.load_kem(seed).encapsulation_key(&mut key);
            key
        });
        PrekeyParts { sequence: self.sequence, id: self.id, key: provider.load_dh(&self.dh).public(), kem }
    }

    /// `flags 1 | id 4 | sequence 8 | age 8 | counted 8 | X25519 key 32 [| seed of the ML-KEM key 64]`.
    pub(crate) fn seal<P: CryptoProvider>(
        &self,
        provider: &P,
        key: &P::AeadKey,
        own: &[u8; 32],
    ) -> Result<Vec<u8>, EntropyError> {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let flags = flag(self.replaced, REPLACED) | flag(self.kem.is_some(), HYBRID);
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let len = HEADER + 32 + self.kem.as_ref().map_or(0, |_| 64);
        at_rest::seal(provider, key, (DOMAIN, &[own]), len, |state| {
            state.push(flags);
            state.extend_from_slice(&self.id.0);
            for number in [self.sequence, micros(self.age), self.counted.as_micros()] {
                state.extend_from_slice(&number.to_be_bytes());
            }
            state.extend_from_slice(self.dh.expose());
            self.kem.iter().for_each(|seed| state.extend_from_slice(seed.expose()));
        })
    }

    fn open<P: CryptoProvider>(key: &P::AeadKey, own: &[u8; 32], state: &[u8]) -> Result<Self, StateError> {
        let plaintext = at_rest::open(key, (DOMAIN, &[own]), state)?;
        let mut reader = Reader::new(&plaintext);
        let flags = reader.u8("prekey flags")?;
        let id = PrekeyId(reader.array("prekey id")?);
        let mut number = |field| reader.array(field).map(u64::from_be_bytes);
        let sequence = number("prekey sequence")?;
        let age = Duration::from_micros(number("prekey age")?);
        let counted = Timestamp::from_micros(number("prekey time")?);
        let dh = Secret::new(reader.array("prekey X25519 key")?);
        let kem = if flags & HYBRID != 0 { Some(Secret::new(reader.array("prekey ML-KEM seed")?)) } else { None };
        reader.finish("prekey state")?;
        Ok(Self { id, sequence, dh, kem, replaced: flags & REPLACED != 0, age, counted, written: true, noted: age })
    }
}

const HEADER: usize = 1 + PrekeyId::LEN + 3 * 8;

/// All prekeys of an endpoint, the newest last.
pub(crate) struct Prekeys {
    /// Of what kind new ones are; none are made without.
    kind: Option<PrekeyKind>,
    held: Vec<Held>,
    /// When they are looked after next.
    next: Timestamp,
}

impl Prekeys {
    pub(crate) const fn new() -> Self {
        Self { kind: None, held: Vec::new(), next: Timestamp::from_micros(0) }
    }

    pub(crate) fn find(&self, id: PrekeyId) -> Option<&Held> {
        self.held.iter().find(|held| held.id == id)
    }

    /// The one to be published: the newest that is on disk.
    pub(crate) fn published(&self) -> Option<&Held> {
        self.held.iter().rev().find(|held| held.written)
    }

    /// The sequence numbers of the oldest, under which letters still open, and of the newest.
    pub(crate) fn span(&self) -> Option<(u64, u64)> {
        self.held.first().zip(self.held.last()).map(|(oldest, newest)| (oldest.sequence, newest.sequence))
    }

    /// From now on there is always one of this kind.
    pub(crate) const fn make_always(&mut self, kind: PrekeyKind) {
        self.kind = Some(kind);
        self.next = Timestamp::from_micros(0);
    }

    /// Takes one back that an earlier run has written.
    pub(crate) fn restore<P: CryptoProvider>(
        &mut self,
        now: Timestamp,
        key: &P::AeadKey,
        own: &[u8; 32],
        state: &[u8],
    ) -> Result<PrekeyId, StateError> {
        let mut held = Held::open::<P>(key, own, state)?;
        held.count(now);
        let id = held.id;
        self.held.push(held);
        self.held.sort_unstable_by_key(|held| held.sequence);
        self.next = Timestamp::from_micros(0);
        Ok(id)
    }

    /// Counts ages, and makes, replaces and forgets. Returns the ids of those that are to be written, or deleted.
    pub(crate) fn handle_timeout<P: CryptoProvider>(&mut self, now: Timestamp, provider: &P) -> Vec<PrekeyId> {
        if self.kind.is_none() || now < self.next {
            return Vec::new();
        }
        self.held.iter_mut().for_each(|held| held.count(now));
        // Also what an earlier run has not come to.
        let mut changed = self.replace(now);
        let is_over = |held: &Held| held.replaced && held.age >= PREKEY_TIME;
        changed.extend(self.held.extract_if(.., |held| is_over(held)).map(|held| held.id));
        if self.held.last().is_none_or(|newest| newest.written && newest.age >= PREKEY_TIME) {
            // Without randomness it is tried again.
            changed.extend(self.make(now, provider).ok());
        }
        for held in &mut self.held {
            if held.written && held.age.saturating_sub(held.noted) >= COUNTED {
                held.noted = held.age;
                changed.push(held.id);
            }
        }
        let left = |held: &Held| PREKEY_TIME.saturating_sub(held.age).max(RETRY);
        let soonest = self.held.iter().map(left).min().unwrap_or(RETRY);
        self.next = now.after(soonest.min(COUNTED));
        changed
    }

    /// Returns all ids, for their ages to be written: there is no later in this run.
    pub(crate) fn count(&mut self, now: Timestamp) -> Vec<PrekeyId> {
        self.held.iter_mut().for_each(|held| held.count(now));
        self.held.iter().filter(|held| held.written).map(|held| held.id).collect()
    }

    fn make<P: CryptoProvider>(&mut self, now: Timestamp, provider: &P) -> Result<PrekeyId, EntropyError> {
        let Some(kind) = self.kind else { return Err(EntropyError) };
        let mut id = PrekeyId(provider.random()?);
        while self.find(id).is_some() {
            id = PrekeyId(provider.random()?);
        }
        let dh = provider.random_secret()?;
        let kem = if kind == PrekeyKind::Hybrid { Some(provider.random_secret()?) } else { None };
        // It has to be above all that were ever published: with a clock also after the loss of what was written.
        let after = self.held.last().map_or(0, |newest| newest.sequence.saturating_add(1));
        let sequence = after.max(now.as_micros() / 1_000_000);
        let (age, noted) = (Duration::ZERO, Duration::ZERO);
        self.held.push(Held { id, sequence, dh, kem, replaced: false, age, counted: now, written: false, noted });
        Ok(id)
    }

    /// Those before the newest that is on disk are replaced from now on. Returns those that were not before.
    fn replace(&mut self, now: Timestamp) -> Vec<PrekeyId> {
        let Some(newest) = self.held.iter().rposition(|held| held.written) else { return Vec::new() };
        let replaced = self.held.iter_mut().take(newest).filter(|held| !held.replaced);
        let replace = |held: &mut Held| {
            (held.replaced, held.age, held.counted, held.noted) = (true, Duration::ZERO, now, Duration::ZERO);
            held.id
        };
        replaced.map(replace).collect()
    }

    /// One is on disk. Returns those that it has replaced, which are to be written.
    pub(crate) fn written(&mut self, now: Timestamp, id: PrekeyId) -> Vec<PrekeyId> {
        let written = self.held.iter_mut().find(|held| held.id == id && !held.written);
        let Some(held) = written else { return Vec::new() };
        held.written = true;
        self.replace(now)
    }

    /// One could not be sealed or written: if nobody knows of it yet it is given up, and another one made later.
    pub(crate) fn not_written(&mut self, now: Timestamp, id: PrekeyId) {
        self.held.retain(|held| held.id != id || held.written);
        self.next = self.next.min(now.after(RETRY));
    }

    pub(crate) fn next_timeout(&self) -> Option<Timestamp> {
        self.kind.map(|_| self.next)
    }
}

#[cfg(test)]
mod tests {
    use sealway_crypto_rustcrypto::RustCrypto;
    use sealway_testkit::entropy::{Seeded, seeded_provider};
    use sealway_vault::AeadKey;

    use super::*;

    type Provider = RustCrypto<Seeded>;
    const OWN: [u8; 32] = [7; 32];

    fn key() -> <Provider as CryptoProvider>::AeadKey {
        AeadKey::new(&Secret::new([1; 32]))
    }

    fn made(kind: PrekeyKind) -> Prekeys {
        let mut prekeys = Prekeys::new();
        prekeys.make_always(kind);
        prekeys
    }

    fn at(hours: u64) -> Timestamp {
        Timestamp::from_micros(hours * 3_600_000_000)
    }

    /// One run of a program, with what it has written.
    struct Run {
        provider: Provider,
        prekeys: Prekeys,
        disk: alloc::collections::BTreeMap<PrekeyId, Vec<u8>>,
    }

    impl Run {
        fn new() -> Self {
            let provider = seeded_provider(1);
            Self { provider, prekeys: made(PrekeyKind::Classical), disk: alloc::collections::BTreeMap::new() }
        }

        /// Does what is due, hour by hour, and writes all.
        fn go_on(&mut self, from: u64, to: u64) {
            for hour in from..=to {
                let mut changed = self.prekeys.handle_timeout(at(hour), &self.provider);
                while let Some(id) = changed.pop() {
                    match self.prekeys.find(id) {
                        Some(held) => {
                            let state = held.seal(&self.provider, &key(), &OWN).unwrap();
                            self.disk.insert(id, state);
                            changed.extend(self.prekeys.written(at(hour), id));
                        }
                        None => drop(self.disk.remove(&id)),
                    }
                }
            }
        }

        fn restart(&mut self, hour: u64) {
            self.prekeys = made(PrekeyKind::Classical);
            for state in self.disk.values() {
                self.prekeys.restore::<Provider>(at(hour), &key(), &OWN, state).unwrap();
            }
        }

        fn published(&self) -> (PrekeyId, u64) {
            self.prekeys.published().map(|held| (held.id, held.sequence)).unwrap()
        }
    }

    #[test]
    fn a_prekey_is_replaced_after_a_week_and_forgotten_a_week_later() {
        let mut run = Run::new();
        run.go_on(1_000_000, 1_000_000);
        let (first, sequence) = run.published();
        run.go_on(1_000_000, 1_000_167);
        assert_eq!(run.published(), (first, sequence));
        run.go_on(1_000_168, 1_000_168);
        let (second, later) = run.published();
        assert!(second != first && later > sequence);
        run.go_on(1_000_168, 1_000_335);
        assert!(run.prekeys.find(first).is_some(), "what was sealed to it may still be at a relay");
        run.go_on(1_000_336, 1_000_337);
        assert!(run.prekeys.find(first).is_none() && !run.disk.contains_key(&first));
        assert!(run.prekeys.find(second).is_some());
    }

    #[test]
    fn whoever_was_away_for_a_month_still_opens_what_has_waited() {
        let mut run = Run::new();
        run.go_on(1_000_000, 1_000_001);
        let (first, _) = run.published();
        run.restart(1_000_720);
        assert!(run.prekeys.find(first).is_some());
        run.go_on(1_000_720, 1_000_720 + 167);
        assert_ne!(run.published().0, first, "it is replaced at once");
        assert!(run.prekeys.find(first).is_some());
        run.go_on(1_000_720 + 168, 1_000_720 + 169);
        assert!(run.prekeys.find(first).is_none());
    }

    #[test]
    fn without_a_clock_only_the_time_that_it_runs_counts() {
        let mut run = Run::new();
        run.go_on(0, 10);
        let (first, sequence) = run.published();
        // Each start begins at nought and lasts ten hours: the seventeenth is the one in which the week is over.
        for _ in 0..15 {
            run.restart(0);
            run.go_on(0, 10);
            assert_eq!(run.published().0, first);
        }
        run.restart(0);
        run.go_on(0, 10);
        assert_ne!(run.published().0, first);
        assert!(run.published().1 > sequence, "later ones are known to be later");
        assert!(run.prekeys.find(first).is_some());
    }

    #[test]
    fn nothing_is_published_that_is_not_on_disk() {
        let mut prekeys = made(PrekeyKind::Hybrid);
        let provider = seeded_provider(2);
        let made = prekeys.handle_timeout(at(5), &provider);
        let [id] = made.as_slice() else { panic!("one is made") };
        assert!(prekeys.published().is_none());
        prekeys.not_written(at(5), *id);
        assert!(prekeys.find(*id).is_none());
        assert_eq!(prekeys.next_timeout(), Some(at(5).after(RETRY)));
        assert!(prekeys.handle_timeout(at(5), &provider).is_empty());
        let made = prekeys.handle_timeout(at(6), &provider);
        assert!(prekeys.written(at(6), made[0]).is_empty());
        assert_eq!(prekeys.published().map(|held| held.id), Some(made[0]));
    }

    #[test]
    fn a_cut_between_a_new_prekey_and_the_note_that_it_replaces_another_does_no_harm() {
        let mut run = Run::new();
        run.go_on(0, 0);
        let (first, _) = run.published();
        // The new one is on disk; that the first is replaced is not.
        let made = run.prekeys.handle_timeout(at(168), &run.provider);
        let held = run.prekeys.find(made[0]).unwrap();
        let state = held.seal(&run.provider, &key(), &OWN).unwrap();
        run.disk.insert(made[0], state);
        run.restart(170);
        run.go_on(170, 170);
        assert_eq!(run.published().0, made[0]);
        assert!(run.prekeys.next_timeout().is_some_and(|next| next > at(170)), "there is nothing to do at once");
        run.go_on(171, 170 + 167);
        assert!(run.prekeys.find(first).is_some());
        run.go_on(170 + 168, 170 + 169);
        assert!(run.prekeys.find(first).is_none());
    }

    #[test]
    fn runs_that_are_shorter_than_the_notes_are_apart_count_all_the_same() {
        let mut run = Run::new();
        run.go_on(0, 0);
        let (first, _) = run.published();
        // Each start begins at nought and lasts five minutes.
        let five_minutes = Timestamp::from_micros(300_000_000);
        for _ in 0..2016 {
            run.restart(0);
            run.go_on(0, 0);
            for id in run.prekeys.count(five_minutes) {
                let held = run.prekeys.find(id).unwrap();
                run.disk.insert(id, held.seal(&run.provider, &key(), &OWN).unwrap());
            }
        }
        run.restart(0);
        run.go_on(0, 0);
        assert_ne!(run.published().0, first);
    }

    #[test]
    fn state_that_was_tampered_with_is_refused() {
        let mut run = Run::new();
        run.go_on(0, 0);
        let state = run.disk.values().next().unwrap().clone();
        for bit in 0..state.len() * 8 {
            let mut flipped = state.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(run.prekeys.restore::<Provider>(at(0), &key(), &OWN, &flipped).is_err());
        }
        assert!(run.prekeys.restore::<Provider>(at(0), &key(), &[8; 32], &state).is_err());
    }
}
