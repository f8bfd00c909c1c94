//! The responder's end of the ratchet: it answers calls, and keeps what it has answered until the caller is known to have
//! the answer.

use alloc::{boxed::Box, collections::VecDeque, vec::Vec};

use sealway_vault::{CryptoProvider, Secret, Vault};
use sealway_wire::{
    Hint, Reader, Timestamp, constrained,
    danger::{self, Protection},
};

use super::{
    keys::Which,
    ratchet::{Chain, Heard, Parties, Psk, check, put_short, take_short},
    session::Session,
};
use crate::{FrameError, Role, StateError};

/// Discarded psks that are remembered, to recognise a device that uses one once more.
const DISCARDED: u8 = 8;

/// Psks tried for one frame.
const TRIES: usize = 2;
/// Attempts at a recovery that may follow the last one which was answered: somebody at the device asks for each.
const ATTEMPTS: u32 = 256;

/// What the responder keeps.
pub(super) struct Answerer<P: CryptoProvider> {
    /// What goes with the next answer.
    pub(super) reply: Box<[u8]>,
    /// An answer to the peer's call, and the version of the state with it.
    pub(super) due: Option<(u64, Vec<u8>)>,
    /// When a clone was reported last, and when the use of a psk that has served.
    pub(super) reported: [Option<Timestamp>; 2],
    ordinary: Slot<P>,
    /// What is to go into the psk, and the psk with it: the caller uses that one if it has the seed.
    seed: Option<(Secret<32>, Psk)>,
    /// The highest attempt at a recovery that was answered, its psk, and what the psks of all attempts are made of.
    recovery: Slot<P>,
    attempt: u32,
    recovery_secret: Secret<32>,
    /// Until when a new call for recovery is answered, and the hints of those attempts that may come, the next one first.
    window: Option<Timestamp>,
    upcoming: Vec<Hint>,
    /// Hints of psks that have served, and by what their calls are recognised.
    discarded: VecDeque<(Hint, [u8; 8])>,
    /// Where the search for the psk of a frame begins, so that repeats reach all.
    turn: usize,
    /// The same for attempts at a recovery, which come by turns with others.
    attempt_turn: usize,
}

/// A psk, and the one call under it that was answered.
struct Slot<P: CryptoProvider> {
    psk: Psk,
    answered: Option<Answered<P>>,
}

/// A call that was answered, by a caller who may not have the answer yet.
struct Answered<P: CryptoProvider> {
    call: [u8; 8],
    /// C1.2: a repeated call gets the same octets.
    frame: Vec<u8>,
    /// The psk after it.
    next: Psk,
    session: Box<Session<P>>,
    /// The ordinary chain has gone on since.
    is_outlived: bool,
}

/// What a first message has led to.
pub(super) enum Called<P: CryptoProvider> {
    /// It is answered once that has been written.
    Answered {
        frame: Vec<u8>,
        early: Vec<u8>,
        /// The session whose psk it was made with: the caller has it.
        confirmed: Option<Box<Session<P>>>,
        /// The seed that was sent is in it.
        seeded: bool,
        /// With which keys of the two ends it was made.
        keys: Which,
    },
    /// It is authentic, and another one was answered under its psk.
    Cloned,
    /// Its psk was discarded, and it is not the call that was answered then.
    Suspicious,
}

/// Under which psk a first message may have been made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Candidate {
    /// The ordinary one.
    Ordinary,
    /// The ordinary one with the seed in it.
    Seeded,
    /// That of an attempt at a recovery.
    Attempt(u32),
    /// The one after an answer.
    After(Chain),
}

impl<P: CryptoProvider> Answerer<P> {
    pub(super) fn new(provider: &P, parties: &Parties, psk: Psk, recovery: Secret<32>, attempt: u32) -> Self {
        let of_attempt = Psk::of_attempt(provider, parties, &recovery, attempt);
        Self {
            reply: Box::default(),
            due: None,
            reported: [None; 2],
            ordinary: Slot { psk, answered: None },
            seed: None,
            recovery: Slot { psk: of_attempt, answered: None },
            attempt,
            recovery_secret: recovery,
            window: None,
            upcoming: Vec::new(),
            discarded: VecDeque::new(),
            turn: 0,
            attempt_turn: 0,
        }
    }

    /// Has a seed go into the psk: one at a time, for the caller may have it. `true`: that changes something.
    pub(super) fn reseed(&mut self, provider: &P, parties: &Parties, seed: Secret<32>) -> bool {
        let is_new = self.seed.is_none();
        if is_new {
            let psk = self.ordinary.psk.seeded(provider, parties, seed.expose());
            self.seed = Some((seed, psk));
        }
        is_new
    }

    /// The seed that the caller is to be told of: it goes into the psk after the present session.
    pub(super) fn seed(&self) -> Option<&Secret<32>> {
        self.seed.as_ref().filter(|_| self.ordinary.answered.is_none()).map(|(seed, _)| seed)
    }

    pub(super) fn open_recovery(&mut self, provider: &P, parties: &Parties, until: Timestamp) {
        self.window = Some(until);
        self.expect_attempts(provider, parties);
    }

    fn expect_attempts(&mut self, provider: &P, parties: &Parties) {
        let attempts = (1..=ATTEMPTS).filter_map(|ahead| self.attempt.checked_add(ahead));
        let hint = |attempt| Psk::of_attempt(provider, parties, &self.recovery_secret, attempt).hint;
        self.upcoming = attempts.map(hint).collect();
    }

    /// The answer to a call that comes again: the same octets.
    pub(super) fn repeated(&self, provider: &P, message: &constrained::Handshake<'_>) -> Option<&[u8]> {
        let call = check_of(provider, message);
        let answered = [&self.ordinary, &self.recovery].into_iter().filter_map(|slot| slot.answered.as_ref());
        let mut kept = answered.filter(|_| !danger::is_off(Protection::KeptAnswer));
        kept.find(|answered| answered.call == call).map(|answered| answered.frame.as_slice())
    }

    /// The hints under which a first message of this pairing may come, those that have served among them.
    pub(super) fn hints(&self) -> impl Iterator<Item = Hint> {
        let current = [&self.ordinary, &self.recovery].into_iter().flat_map(|slot| {
            let next = slot.answered.as_ref().map(|answered| answered.next.hint);
            core::iter::once(slot.psk.hint).chain(next)
        });
        let current = current.chain(self.seeded().map(|psk| psk.hint));
        current.chain(self.discarded.iter().map(|(hint, _)| *hint)).chain(self.upcoming.iter().copied())
    }

    /// The hints of the calls that were answered last.
    pub(super) fn answered_hints(&self) -> impl Iterator<Item = Hint> {
        [&self.ordinary, &self.recovery].into_iter().filter(|slot| slot.answered.is_some()).map(|slot| slot.psk.hint)
    }

    /// The hints under which a call may come that is to be answered.
    pub(super) fn callable_hints(&self) -> impl Iterator<Item = Hint> {
        let after = [Chain::Ordinary, Chain::Recovery].into_iter().filter_map(|chain| self.after(chain));
        let ordinary = core::iter::once(&self.ordinary.psk).chain(self.seeded());
        after.chain(ordinary).map(|psk| psk.hint).chain(self.upcoming.iter().copied())
    }

    /// The sessions that their callers have not confirmed.
    pub(super) fn sessions(&mut self) -> [Option<&mut Session<P>>; 2] {
        [&mut self.ordinary, &mut self.recovery]
            .map(|slot| slot.answered.as_mut().map(|answered| &mut *answered.session))
    }

    const fn slot(&mut self, chain: Chain) -> &mut Slot<P> {
        match chain {
            Chain::Ordinary => &mut self.ordinary,
            Chain::Recovery => &mut self.recovery,
        }
    }

    /// A record has opened under the session that the answer in the slot of `chain` has made: its caller has it.
    pub(super) fn confirm(&mut self, provider: &P, parties: &Parties, chain: Chain) -> Option<Box<Session<P>>> {
        let Answered { call, next, session, .. } = self.slot(chain).answered.take()?;
        // The recovery psk never ratchets: what it has made becomes the ordinary chain. An ordinary record does not touch the
        // recovery chain.
        let served = self.ordinary.psk.hint;
        if !danger::is_off(Protection::OldPsk) {
            self.ordinary.psk = next;
        }
        // It goes into the psk that the caller will use next, whichever that is.
        if let Some((seed, psk)) = &mut self.seed {
            *psk = self.ordinary.psk.seeded(provider, parties, seed.expose());
        }
        if chain == Chain::Recovery {
            if let Some(lost) = self.ordinary.answered.take() {
                self.discard(served, lost.call);
            }
        } else {
            self.discard(served, call);
            // Its caller has gone on with the ordinary chain, and once more: it does not need the recovery.
            self.recovery.answered.take_if(|answered| core::mem::replace(&mut answered.is_outlived, true));
        }
        Some(session)
    }

    fn discard(&mut self, hint: Hint, call: [u8; 8]) {
        if self.discarded.len() >= DISCARDED.into() {
            self.discarded.pop_front();
        }
        self.discarded.push_back((hint, call));
    }

    /// How long the longest answer is that may be asked for again.
    pub(super) fn answer_len(&self) -> usize {
        let kept = [&self.ordinary, &self.recovery].into_iter().filter_map(|slot| slot.answered.as_ref());
        kept.map(|answered| answered.frame.len()).max().unwrap_or(0)
    }

    pub(super) fn handle_call<V: Vault<Provider = P> + Clone + 'static>(
        &mut self,
        vault: &V,
        parties: &Parties,
        now: Timestamp,
        message: &constrained::Handshake<'_>,
        may_reply: bool,
    ) -> Result<Called<P>, FrameError> {
        let call = check_of(vault.provider(), message);
        if self.window.is_some_and(|until| now >= until) {
            (self.window, self.upcoming) = (None, Vec::new());
        }
        if danger::is_off(Protection::Recovery) && self.upcoming.is_empty() {
            self.expect_attempts(vault.provider(), parties);
        }
        let candidates = self.candidates(message.hint);
        let keys: Vec<Which> = parties.keys.all().map(|(which, _)| which).collect();
        let count = candidates.len() * keys.len();
        let turn = match candidates.first() {
            Some(Candidate::Attempt(_)) => &mut self.attempt_turn,
            _ => &mut self.turn,
        };
        let first = *turn;
        *turn = turn.wrapping_add(count.min(TRIES));
        let mut refused = None;
        for try_ in 0..count.min(TRIES) {
            let turn = first.wrapping_add(try_) % count;
            let candidate = candidates.get(turn % candidates.len()).copied();
            let (Some(candidate), Some(which)) = (candidate, keys.get(turn / candidates.len())) else { break };
            let of_attempt = match candidate {
                Candidate::Attempt(attempt) => {
                    Some(Psk::of_attempt(vault.provider(), parties, &self.recovery_secret, attempt))
                }
                Candidate::Ordinary | Candidate::Seeded | Candidate::After(_) => None,
            };
            let Some(psk) = of_attempt.as_ref().or_else(|| self.kept(candidate)) else { continue };
            match Heard::read(vault, parties, *which, psk, message.noise) {
                Ok(heard) => return self.answer(vault, parties, now, (candidate, of_attempt), call, heard, may_reply),
                Err(FrameError::Vault(error)) => return Err(FrameError::Vault(error)),
                Err(error) => refused = Some(error),
            }
        }
        match self.discarded.iter().find(|(hint, _)| *hint == message.hint) {
            Some((_, known)) if *known == call => Err(FrameError::Replayed),
            Some(_) => Ok(Called::Suspicious),
            None => Err(refused.unwrap_or(FrameError::UnknownConnection)),
        }
    }

    fn candidates(&self, hint: Hint) -> Vec<Candidate> {
        let is_after = |chain: &Chain| self.after(*chain).is_some_and(|psk| psk.hint == hint);
        let after = [Chain::Ordinary, Chain::Recovery].into_iter().filter(is_after).map(Candidate::After);
        let ordinary = (self.ordinary.psk.hint == hint).then_some(Candidate::Ordinary);
        let attempts = self.upcoming.iter().zip(self.attempt.saturating_add(1)..);
        let attempts = attempts.filter(|(known, _)| **known == hint).map(|(_, attempt)| Candidate::Attempt(attempt));
        let seeded = self.seeded().filter(|psk| psk.hint == hint).map(|_| Candidate::Seeded);
        after.chain(seeded).chain(ordinary).chain(attempts).collect()
    }

    /// The ordinary psk with the seed in it, as long as no call was answered without.
    fn seeded(&self) -> Option<&Psk> {
        self.seed.as_ref().filter(|_| self.ordinary.answered.is_none()).map(|(_, psk)| psk)
    }

    /// The psk of a candidate, but of an attempt: that is made of the recovery psk.
    fn kept(&self, candidate: Candidate) -> Option<&Psk> {
        match candidate {
            Candidate::Ordinary => Some(&self.ordinary.psk),
            Candidate::Seeded => self.seeded(),
            Candidate::After(chain) => self.after(chain),
            Candidate::Attempt(_) => None,
        }
    }

    /// The psk after the answer to a call of that chain.
    fn after(&self, chain: Chain) -> Option<&Psk> {
        let slot = match chain {
            Chain::Ordinary => &self.ordinary,
            Chain::Recovery => &self.recovery,
        };
        slot.answered.as_ref().map(|answered| &answered.next)
    }

    #[expect(clippy::too_many_arguments, reason = "what the handshake has, and what the frame was")]
    fn answer<V: Vault<Provider = P> + Clone + 'static>(
        &mut self,
        vault: &V,
        parties: &Parties,
        now: Timestamp,
        (candidate, of_attempt): (Candidate, Option<Psk>),
        call: [u8; 8],
        heard: Heard<V>,
        may_reply: bool,
    ) -> Result<Called<P>, FrameError> {
        let provider = vault.provider();
        if candidate == Candidate::Ordinary
            && self.ordinary.answered.is_some()
            && !danger::is_off(Protection::OneAnswer)
        {
            return Ok(Called::Cloned);
        }
        // Everything is made before anything is changed.
        let replies = may_reply && of_attempt.is_none();
        let reply = if replies { &*self.reply } else { &[] };
        let psk = of_attempt.as_ref().or_else(|| self.kept(candidate)).ok_or(FrameError::UnknownConnection)?;
        let keys = heard.keys;
        let (frame, made) = heard.answer(vault, parties, now, psk, reply)?;
        if replies {
            self.reply = Box::default();
        }
        let confirmed = match candidate {
            // A first message under the psk after an answer counts as a record of its session.
            Candidate::After(chain) => self.confirm(provider, parties, chain),
            Candidate::Ordinary | Candidate::Seeded | Candidate::Attempt(_) => None,
        };
        let seed = self.seed.take_if(|_| candidate == Candidate::Seeded);
        let seeded = seed.is_some();
        if let Some((_, psk)) = seed {
            // Who calls without the seed now has gone back to before he had it.
            let without = core::mem::replace(&mut self.ordinary.psk, psk);
            self.discard(without.hint, call);
        }
        let chain = match (candidate, of_attempt) {
            (Candidate::Attempt(attempt), Some(psk)) => {
                (self.attempt, self.recovery.psk) = (attempt, psk);
                self.expect_attempts(provider, parties);
                Chain::Recovery
            }
            _ => Chain::Ordinary,
        };
        let answered =
            Answered { call, frame: frame.clone(), next: made.next, session: made.session, is_outlived: false };
        self.slot(chain).answered = Some(answered);
        let early = if chain == Chain::Recovery { Vec::new() } else { made.payload };
        Ok(Called::Answered { frame, early, confirmed, seeded, keys })
    }

    /// How long [`save`](Self::save) makes it.
    pub(super) fn saved_len(&self) -> usize {
        let answered = [&self.ordinary.answered, &self.recovery.answered].into_iter().flatten();
        let answered = answered.map(|answered| 8 + 1 + answered.frame.len() + 32 + answered.session.saved_len());
        let seed = if self.seed.is_some() { 32 } else { 0 };
        1 + 32 + 4 + seed + answered.sum::<usize>() + 1 + 10 * self.discarded.len()
    }

    /// `flags 1 | psk 32 | attempt 4 | [ seed 32 ] | the answers that there are | count 1 | (hint 2 | check 8)*`.
    pub(super) fn save(&self, out: &mut Vec<u8>) {
        let answered = [&self.ordinary.answered, &self.recovery.answered];
        let flags = [answered[0].is_some(), answered[1].is_some(), self.seed.is_some()];
        out.push(flags.iter().rev().fold(0, |octet, flag| octet << 1 | u8::from(*flag)));
        out.extend_from_slice(self.ordinary.psk.secret.expose());
        out.extend_from_slice(&self.attempt.to_be_bytes());
        if let Some((seed, _)) = &self.seed {
            out.extend_from_slice(seed.expose());
        }
        for answered in answered.into_iter().flatten() {
            out.extend_from_slice(&answered.call);
            put_short(out, &answered.frame);
            out.extend_from_slice(answered.next.secret.expose());
            answered.session.save(out);
        }
        out.push(u8::try_from(self.discarded.len()).unwrap_or(u8::MAX));
        for (hint, call) in &self.discarded {
            out.extend_from_slice(&hint.0);
            out.extend_from_slice(call);
        }
    }

    pub(super) fn restore(
        provider: &P,
        parties: &Parties,
        recovery: Secret<32>,
        now: Timestamp,
        reader: &mut Reader<'_>,
    ) -> Result<Self, StateError> {
        let flags = reader.u8("answerer flags")?;
        let psk = Psk::new(provider, parties, Chain::Ordinary, Secret::new(reader.array("psk")?));
        let attempt = u32::from_be_bytes(reader.array("recovery attempt")?);
        let mut answerer = Self::new(provider, parties, psk, recovery, attempt);
        if flags & 4 != 0 {
            answerer.reseed(provider, parties, Secret::new(reader.array("seed")?));
        }
        for (bit, chain) in [(1, Chain::Ordinary), (2, Chain::Recovery)] {
            if flags & bit == 0 {
                continue;
            }
            let call = reader.array("answered call")?;
            let frame = take_short(reader, "answer")?.to_vec();
            let next = Psk::new(provider, parties, Chain::Ordinary, Secret::new(reader.array("next psk")?));
            let session = Box::new(Session::restore(provider, Role::Responder, now, reader)?);
            answerer.slot(chain).answered = Some(Answered { call, frame, next, session, is_outlived: false });
        }
        for _ in 0..reader.u8("discarded psks")?.min(DISCARDED) {
            let hint = Hint(reader.array("discarded hint")?);
            answerer.discarded.push_back((hint, reader.array("discarded call")?));
        }
        Ok(answerer)
    }
}

/// By what a call is recognised: hint and Noise message.
fn check_of<P: CryptoProvider>(provider: &P, message: &constrained::Handshake<'_>) -> [u8; 8] {
    check(provider, &[&message.hint.0, message.noise])
}
