//! The initiator's end of the ratchet: the constrained side, which calls.

use alloc::{boxed::Box, vec::Vec};

use sealway_vault::{CryptoProvider, PublicKey, Secret, Vault};
use sealway_wire::{Hint, Reader, Timestamp, constrained};

use super::{
    keys::{Keys, Which},
    ratchet::{Call, Chain, Parties, Psk},
    session::Session,
};
use crate::{CallError, FrameError, HandshakeError, StateError};

/// After so many unanswered calls every other one is made under the recovery psk.
const RECOVERY_FROM: u8 = 8;

/// What the initiator keeps.
pub(super) struct Caller {
    psk: Psk,
    /// A seed of the responder has gone into it.
    is_seeded: bool,
    /// Under the ordinary psk.
    call: Option<Box<Call>>,
    /// What the psks of calls for recovery are made of.
    recovery: Secret<32>,
    /// Under the psk of the attempt of this number.
    rescue: Option<Box<(Psk, Call)>>,
    attempt: u32,
    /// How often the call has been sent again.
    unanswered: u8,
}

/// What an answer has brought.
pub(super) struct Answer<P: CryptoProvider> {
    pub(super) session: Box<Session<P>>,
    pub(super) reply: Vec<u8>,
    pub(super) keys: Which,
}

impl Caller {
    pub(super) const fn new(psk: Psk, recovery: Secret<32>) -> Self {
        Self { psk, is_seeded: false, call: None, recovery, rescue: None, attempt: 0, unanswered: 0 }
    }

    pub(super) const fn is_calling(&self) -> bool {
        self.call.is_some()
    }

    /// The length of the call that is unanswered.
    pub(super) fn call_len(&self) -> Option<usize> {
        self.call.as_ref().map(|call| call.frame_len())
    }

    /// The peer's key with which the call was made that is unanswered.
    pub(super) fn calls_with(&self, keys: &Keys) -> Option<PublicKey> {
        let with = self.call.as_ref().and_then(|call| keys.get(call.keys));
        with.map(|statics| statics.peer)
    }

    /// Whether a seed waits for the next call.
    pub(super) const fn is_seeded(&self) -> bool {
        self.is_seeded
    }

    /// The hints under which answers may come.
    pub(super) fn hints(&self) -> impl Iterator<Item = Hint> {
        let ordinary = self.call.as_ref().map(|_| self.psk.hint);
        ordinary.into_iter().chain(self.active_rescue().map(|(psk, _)| psk.hint))
    }

    /// Makes the only first message under the psk.
    pub(super) fn begin<V: Vault + Clone + 'static>(
        &mut self,
        vault: &V,
        parties: &Parties,
        early: &[u8],
    ) -> Result<(), CallError> {
        if self.call.is_some() {
            return Err(CallError::UnderWay);
        }
        if early.len() > constrained::MAX_PAYLOAD {
            return Err(CallError::TooLong { limit: constrained::MAX_PAYLOAD, got: early.len() });
        }
        let call = Call::new(vault, parties, &self.psk, early.to_vec()).map_err(CallError::Frame)?;
        self.call = Some(Box::new(call));
        self.unanswered = 0;
        Ok(())
    }

    /// Counts one more time that the call is sent. The count survives a restart: a device that sleeps between two calls comes
    /// to a recovery too.
    pub(super) fn repeat<V: Vault + Clone + 'static>(&mut self, vault: &V, parties: &Parties) -> Result<(), CallError> {
        // It goes on alternating. An attempt that was made so often for nothing may be one that can no longer be answered.
        let next = self.unanswered.checked_add(1);
        if next.is_none() {
            self.rescue = None;
        }
        self.unanswered = next.unwrap_or(RECOVERY_FROM);
        if self.rescue.is_some() || self.unanswered < RECOVERY_FROM {
            return Ok(());
        }
        let attempt = self.attempt.checked_add(1).ok_or(CallError::Exhausted)?;
        let psk = Psk::of_attempt(vault.provider(), parties, &self.recovery, attempt);
        let call = Call::new(vault, parties, &psk, Vec::new()).map_err(CallError::Frame)?;
        self.rescue = Some(Box::new((psk, call)));
        self.attempt = attempt;
        Ok(())
    }

    /// The responder has sent a seed, which it has on its disk: the next call is made under another psk. Not if one is under way,
    /// for that has its psk; nor twice, for the seed is repeated until it is known to have come. `true`: that changes something.
    pub(super) fn seed(&mut self, provider: &impl CryptoProvider, parties: &Parties, seed: &[u8; 32]) -> bool {
        if self.call.is_some() || self.is_seeded {
            return false;
        }
        self.psk = self.psk.seeded(provider, parties, seed);
        self.is_seeded = true;
        true
    }

    /// Somebody at the device wants a new attempt; or other channel keys serve, and who has those of the old one may be gone.
    pub(super) fn renew_recovery(&mut self) {
        self.rescue = None;
    }

    /// The call for recovery, if it is made now. One that was not needed waits for the next time: what comes of it meanwhile is
    /// not looked at.
    fn active_rescue(&self) -> Option<&(Psk, Call)> {
        self.rescue.as_deref().filter(|_| self.call.is_some() && self.unanswered >= RECOVERY_FROM)
    }

    /// The first message to be sent this time.
    pub(super) fn frame<V: Vault + Clone + 'static>(
        &self,
        vault: &V,
        parties: &Parties,
    ) -> Option<Result<Vec<u8>, HandshakeError>> {
        let (psk, call) = match self.active_rescue() {
            Some((psk, rescue)) if self.unanswered.is_multiple_of(2) => (psk, rescue),
            _ => (&self.psk, self.call.as_deref()?),
        };
        Some(call.frame(vault, parties, psk))
    }

    /// Reads an answer. The first that opens wins, and the other call is forgotten.
    pub(super) fn handle_answer<V: Vault + Clone + 'static>(
        &mut self,
        vault: &V,
        parties: &Parties,
        now: Timestamp,
        message: &constrained::Handshake<'_>,
    ) -> Result<Answer<V::Provider>, FrameError> {
        let ordinary = self.call.as_deref().map(|call| (false, &self.psk, call));
        let rescue = self.active_rescue().map(|(psk, call)| (true, psk, call));
        let (mut outcome, mut is_rescue) = (Err(FrameError::UnknownConnection), false);
        for (rescues, psk, call) in
            [ordinary, rescue].into_iter().flatten().filter(|(_, psk, _)| psk.hint == message.hint)
        {
            is_rescue = rescues;
            let finished = call.finish(vault, parties, now, psk, message.noise);
            outcome = finished.map(|made| (made, call.keys)).map_err(FrameError::from);
            if outcome.is_ok() {
                break;
            }
        }
        let (made, keys) = outcome?;
        // A call for recovery that was not needed serves the next time: its number is used up only by an answer.
        if is_rescue {
            self.rescue = None;
        }
        (self.psk, self.is_seeded) = (made.next, false);
        (self.call, self.unanswered) = (None, 0);
        Ok(Answer { session: made.session, reply: made.payload, keys })
    }

    /// How long [`save`](Self::save) makes it.
    pub(super) fn saved_len(&self) -> usize {
        1 + 1 + 32 + 4 + self.calls().map(Call::saved_len).sum::<usize>()
    }

    /// The calls that there are: the ordinary one, and the one for recovery.
    fn calls(&self) -> impl Iterator<Item = &Call> {
        self.call.as_deref().into_iter().chain(self.rescue.as_deref().map(|(_, call)| call))
    }

    /// `flags 1 | unanswered 1 | psk 32 | attempt 4 | the calls that there are`.
    pub(super) fn save(&self, out: &mut Vec<u8>) {
        let flags = [self.call.is_some(), self.rescue.is_some(), self.is_seeded];
        out.push(flags.iter().rev().fold(0, |octet, flag| octet << 1 | u8::from(*flag)));
        out.push(self.unanswered);
        out.extend_from_slice(self.psk.secret.expose());
        out.extend_from_slice(&self.attempt.to_be_bytes());
        self.calls().for_each(|call| call.save(out));
    }

    pub(super) fn restore<V: Vault + Clone + 'static>(
        vault: &V,
        parties: &Parties,
        recovery: Secret<32>,
        reader: &mut Reader<'_>,
    ) -> Result<Self, StateError> {
        let flags = reader.u8("caller flags")?;
        let unanswered = reader.u8("unanswered calls")?;
        let psk = Psk::new(vault.provider(), parties, Chain::Ordinary, Secret::new(reader.array("psk")?));
        let attempt = u32::from_be_bytes(reader.array("recovery attempt")?);
        let call = (flags & 1 != 0).then(|| Call::restore(vault, parties, &psk, reader).map(Box::new)).transpose()?;
        let rescue = if flags & 2 == 0 {
            None
        } else {
            let psk = Psk::of_attempt(vault.provider(), parties, &recovery, attempt);
            // Under another recovery psk than before it is of no use.
            match Call::restore(vault, parties, &psk, reader) {
                Ok(call) => Some(Box::new((psk, call))),
                Err(StateError::Rejected) => None,
                Err(error) => return Err(error),
            }
        };
        Ok(Self { psk, is_seeded: flags & 4 != 0, call, recovery, rescue, attempt, unanswered })
    }
}
