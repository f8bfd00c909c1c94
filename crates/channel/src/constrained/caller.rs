//! The initiator's end of the ratchet: the constrained side, which calls.

use alloc::{boxed::Box, vec::Vec};

use sealway_vault::{CryptoProvider, Secret, Vault};
use sealway_wire::{Hint, Reader, Timestamp, constrained};

use super::{
    ratchet::{Call, Chain, Parties, Psk},
    session::Session,
};
use crate::{CallError, FrameError, StateError};

/// After so many unanswered calls every other one is made under the recovery psk.
const RECOVERY_FROM: u8 = 8;

/// What the initiator keeps.
pub(super) struct Caller {
    psk: Psk,
    /// Under the ordinary psk.
    call: Option<Call>,
    /// What the psks of calls for recovery are made of.
    recovery: Secret<32>,
    /// Under the psk of the attempt of this number.
    rescue: Option<(Psk, Call)>,
    attempt: u32,
    /// How often the call has been sent again.
    unanswered: u8,
}

/// What an answer has brought.
pub(super) struct Answer<P: CryptoProvider> {
    pub(super) session: Box<Session<P>>,
    pub(super) reply: Vec<u8>,
}

impl Caller {
    pub(super) const fn new(psk: Psk, recovery: Secret<32>) -> Self {
        Self { psk, call: None, recovery, rescue: None, attempt: 0, unanswered: 0 }
    }

    pub(super) const fn is_calling(&self) -> bool {
        self.call.is_some()
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
        self.call = Some(Call::new(vault, parties, &self.psk, early.to_vec()).map_err(CallError::Frame)?);
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
        self.rescue = Some((psk, call));
        self.attempt = attempt;
        Ok(())
    }

    /// Somebody at the device wants a new attempt.
    pub(super) fn renew_recovery(&mut self) {
        self.rescue = None;
    }

    /// The call for recovery, if it is made now. One that was not needed waits for the next time: what comes of it meanwhile is
    /// not looked at.
    fn active_rescue(&self) -> Option<&(Psk, Call)> {
        self.rescue.as_ref().filter(|_| self.call.is_some() && self.unanswered >= RECOVERY_FROM)
    }

    /// The first message to be sent this time.
    pub(super) fn frame(&self) -> Option<&[u8]> {
        let call = match self.active_rescue() {
            Some((_, rescue)) if self.unanswered.is_multiple_of(2) => Some(rescue),
            _ => self.call.as_ref(),
        };
        call.map(|call| call.frame.as_slice())
    }

    /// Reads an answer. The first that opens wins, and the other call is forgotten.
    pub(super) fn handle_answer<V: Vault + Clone + 'static>(
        &mut self,
        vault: &V,
        parties: &Parties,
        now: Timestamp,
        message: &constrained::Handshake<'_>,
    ) -> Result<Answer<V::Provider>, FrameError> {
        let ordinary = self.call.as_ref().map(|call| (false, &self.psk, call));
        let rescue = self.active_rescue().map(|(psk, call)| (true, psk, call));
        let (mut outcome, mut is_rescue) = (Err(FrameError::UnknownConnection), false);
        for (rescues, psk, call) in
            [ordinary, rescue].into_iter().flatten().filter(|(_, psk, _)| psk.hint == message.hint)
        {
            is_rescue = rescues;
            outcome = call.finish(vault, parties, now, psk, message.noise).map_err(FrameError::from);
            if outcome.is_ok() {
                break;
            }
        }
        let made = outcome?;
        // A call for recovery that was not needed serves the next time: its number is used up only by an answer.
        if is_rescue {
            self.rescue = None;
        }
        self.psk = made.next;
        (self.call, self.unanswered) = (None, 0);
        Ok(Answer { session: made.session, reply: made.payload })
    }

    /// How long [`save`](Self::save) makes it.
    pub(super) fn saved_len(&self) -> usize {
        1 + 1 + 32 + 4 + self.calls().map(Call::saved_len).sum::<usize>()
    }

    /// The calls that there are: the ordinary one, and the one for recovery.
    fn calls(&self) -> impl Iterator<Item = &Call> {
        self.call.iter().chain(self.rescue.as_ref().map(|(_, call)| call))
    }

    /// `flags 1 | unanswered 1 | psk 32 | attempt 4 | the calls that there are`.
    pub(super) fn save(&self, provider: &impl CryptoProvider, out: &mut Vec<u8>) {
        out.push(u8::from(self.call.is_some()) | u8::from(self.rescue.is_some()) << 1);
        out.push(self.unanswered);
        out.extend_from_slice(self.psk.secret.expose());
        out.extend_from_slice(&self.attempt.to_be_bytes());
        self.calls().for_each(|call| call.save(provider, out));
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
        let call = (flags & 1 != 0).then(|| Call::restore(vault, parties, &psk, reader)).transpose()?;
        let rescue = if flags & 2 == 0 {
            None
        } else {
            let psk = Psk::of_attempt(vault.provider(), parties, &recovery, attempt);
            // Under another recovery psk than before it is of no use.
            match Call::restore(vault, parties, &psk, reader) {
                Ok(call) => Some((psk, call)),
                Err(StateError::Rejected) => None,
                Err(error) => return Err(error),
            }
        };
        Ok(Self { psk, call, recovery, rescue, attempt, unanswered })
    }
}
