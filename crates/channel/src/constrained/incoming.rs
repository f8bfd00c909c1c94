//! What comes from the peer: calls, answers, records.

use alloc::{boxed::Box, vec::Vec};

use sealway_vault::Vault;
use sealway_wire::{
    Hint, Lane, Timestamp,
    constrained::{Frame, Handshake, RecordHeader},
    content::Content,
};
use zeroize::Zeroize;

use super::{
    ConstrainedRecord, Current, MAX_EVENTS, OVERLAP, Pairing, PairingEvent, Previous, REPORT_EACH, Side,
    answerer::Called, caller::Answer, ratchet::Chain, session::Session, tries::Kind,
};
use crate::{FrameError, Role, Source, lane::Opened};

/// Psks under which a message without a hint is likely to come: the next ones of both chains, with a seed too, and of a recovery.
const LIKELY: usize = 5;

/// In which session a record has opened.
#[derive(Clone, Copy)]
enum Of {
    Answered(Chain),
    Current,
    Previous,
}

impl<V: Vault + Clone + 'static> Pairing<V> {
    /// Takes a frame of the peer's. A record is opened in place.
    ///
    /// # Errors
    /// If it is none of this pairing, or refused. The state is what it was, but for what limits forgeries; and for the window if
    /// the record is authentic and its content is none: so look for a state to be written after an error too.
    pub fn handle_frame<'f>(
        &mut self,
        now: Timestamp,
        source: Source,
        frame: &'f mut [u8],
    ) -> Result<ConstrainedRecord<'f>, FrameError> {
        self.forget_previous(now);
        let header = match Frame::decode(frame)? {
            Frame::Message1(message) => {
                self.handle_call(now, source, &message, frame.len())?;
                return Ok(ConstrainedRecord::Nothing);
            }
            Frame::Message2(message) => {
                self.handle_answer(now, source, &message)?;
                return Ok(ConstrainedRecord::Nothing);
            }
            Frame::Data(header, _) => header,
            _ => return Err(FrameError::UnknownConnection),
        };
        let (of, opened) = self.open(now, source, &header, frame)?;
        let (plaintext, at) = (opened.plaintext, (header.incarnation, opened.counter));
        // A relay decides when a record of the stored lane comes: it tells nothing of the peer, and moves nothing.
        if header.lane == Lane::Live {
            self.took(now, of);
            self.peer_hears();
        }
        if header.typed {
            let octets = frame.get_mut(plaintext.clone()).unwrap_or_default();
            match self.takes_of_keys((header.lane, of), octets)? {
                Some(true) => return Ok(ConstrainedRecord::ToAcknowledge),
                Some(false) => return Ok(ConstrainedRecord::Nothing),
                None => {}
            }
        }
        let octets = frame.get(plaintext).ok_or(FrameError::Rejected)?;
        if !header.typed {
            return Ok(ConstrainedRecord::Datagram(octets));
        }
        let content = Content::decode(octets)?;
        // What the session before said of its run is over.
        let current = self.current.as_mut().filter(|_| !matches!(of, Of::Previous) && header.lane == Lane::Live);
        let is_of_its_run = match &content {
            Content::Start(_) => current.is_some_and(|current| current.session.takes_start(at)),
            Content::Reliable(message) if message.instance.is_none() && header.lane == Lane::Live => {
                current.is_some_and(|current| current.session.is_of_last_start(at))
            }
            _ => true,
        };
        if !is_of_its_run {
            return Ok(ConstrainedRecord::Nothing);
        }
        // The initiator repeats its START until a record opens: ours is one.
        if matches!(content, Content::Start(_)) && self.parties.role == Role::Responder {
            self.start_due = true;
        }
        if let (Content::Ack(ack), Of::Current, Some(current)) = (&content, of, &mut self.current)
            && let Some((Lane::Live, opened)) = &ack.opened
        {
            current.session.acknowledge(opened);
            self.telling.iter_mut().for_each(|telling| telling.acknowledged(opened));
            let ranges = opened.as_slice();
            let has = |counter: u32| ranges.iter().any(|(low, high)| (*low..=*high).contains(&counter.into()));
            self.start_is_known |= self.start_sent.is_some_and(has);
        }
        Ok(ConstrainedRecord::Typed(header.lane, content))
    }

    /// Takes what is told of keys: whether it is to be acknowledged, if it is that. What the session before says of its psk and keys
    /// is over.
    fn takes_of_keys(&mut self, (lane, of): (Lane, Of), octets: &mut [u8]) -> Result<Option<bool>, FrameError> {
        let holds = lane == Lane::Live && matches!(of, Of::Current | Of::Answered(_));
        let is_taken = match Content::decode(octets)? {
            Content::Seed(seed) => holds && self.seed_came(&seed),
            Content::Rotate(rotate) => return Ok(Some(holds && self.rotate_came(&rotate))),
            _ => return Ok(None),
        };
        octets.zeroize();
        Ok(Some(is_taken))
    }

    /// Takes a handshake message that came without octet 0 and hint, as LoRaWAN carries it where DevAddr and FPort name peer and
    /// kind: 48 octets and its payload, what [`bare`](sealway_wire::constrained::bare) leaves of a frame. At most two psks are
    /// tried a frame, beginning after the last one tried: a repetition reaches the others.
    ///
    /// # Errors
    /// As [`handle_frame`](Self::handle_frame).
    pub fn handle_bare(&mut self, now: Timestamp, source: Source, noise: &[u8]) -> Result<(), FrameError> {
        self.forget_previous(now);
        let provider = self.vault.provider();
        let hints: Vec<Hint> = match &self.side {
            Side::Initiator(caller) => caller.hints().collect(),
            Side::Responder(answerer) => {
                let answered = answerer.answered_hints().map(|hint| Handshake::of_bare(hint, noise));
                let again = answered.flatten().find(|message| answerer.repeated(provider, message).is_some());
                again.map_or_else(|| answerer.callable_hints().collect(), |message| alloc::vec![message.hint])
            }
        };
        // As long as the frame would be with octet 0 and hint.
        let len = 1 + Hint::LEN + noise.len();
        // The likeliest first: of those after them, that are attempts at a recovery, one with every second frame.
        let (likely, rest) = hints.split_at(hints.len().min(LIKELY));
        let turn = usize::from(self.bare_turn);
        let second = if turn.is_multiple_of(2) || rest.is_empty() { (likely, turn + 1) } else { (rest, turn / 2) };
        let mut tries = [(likely, turn), second];
        // Where a psk has to be tried with several pairs of keys, two a frame, it is one psk for as many frames as that takes.
        let pairs = self.parties.keys.all().count();
        let several = pairs > 1 && self.parties.role == Role::Responder;
        if several {
            let turn = turn / pairs.div_ceil(2);
            let is_rest = !turn.is_multiple_of(2) && !rest.is_empty();
            let place = if rest.is_empty() { turn } else { turn / 2 };
            tries[0] = (if is_rest { rest } else { likely }, place);
        }
        let most = hints.len().min(if several { 1 } else { 2 });
        let mut refused = FrameError::UnknownConnection;
        for (hints, turn) in tries.into_iter().take(most) {
            let Some(hint) = hints.get(turn % hints.len().max(1)).copied() else { break };
            let message = Handshake::of_bare(hint, noise)?;
            let handled = match self.parties.role {
                Role::Initiator => self.handle_answer(now, source, &message),
                Role::Responder => self.handle_call(now, source, &message, len),
            };
            match handled {
                // Also where a psk that has served has the same hint.
                Err(
                    error @ (FrameError::Handshake(_)
                    | FrameError::UnknownConnection
                    | FrameError::Rejected
                    | FrameError::Replayed),
                ) => refused = error,
                handled => return handled,
            }
        }
        self.bare_turn = self.bare_turn.wrapping_add(1);
        Err(refused)
    }

    pub(super) fn forget_previous(&mut self, now: Timestamp) {
        if self.previous.as_ref().and_then(|previous| previous.until).is_some_and(|until| until <= now) {
            self.previous = None;
        }
    }

    fn handle_call(
        &mut self,
        now: Timestamp,
        source: Source,
        message: &Handshake<'_>,
        len: usize,
    ) -> Result<(), FrameError> {
        let Side::Responder(answerer) = &mut self.side else { return Err(FrameError::UnknownConnection) };
        // One at a time, from the call to the end of its write.
        if answerer.due.as_ref().is_some_and(|due| due.0 > self.written) {
            return Err(FrameError::Throttled);
        }
        if !answerer.hints().any(|hint| hint == message.hint) {
            return Err(FrameError::UnknownConnection);
        }
        // The same call gets the same answer, whatever calls that were none its source has tried; but never more octets than
        // came where it may be somebody else who asks.
        if let Some(frame) = answerer.repeated(self.vault.provider(), message) {
            if !source.is_proven && frame.len() > len || !self.tries.may(now, Kind::Repeats, source) {
                return Err(FrameError::Throttled);
            }
            self.tries.count(now, Kind::Repeats, source);
            answerer.due = Some((0, frame.to_vec()));
            return Ok(());
        }
        if self.events.len() >= MAX_EVENTS || !self.tries.may(now, Kind::Calls, source) {
            return Err(FrameError::Throttled);
        }
        self.tries.count(now, Kind::Calls, source);
        let longest = sealway_wire::constrained::HANDSHAKE_OVERHEAD + answerer.reply.len();
        let fits = source.is_proven || longest <= len;
        match answerer.handle_call(&self.vault, &self.parties, now, message, fits)? {
            Called::Answered { frame, early, confirmed, seeded, keys } => {
                self.version += 1;
                let version = self.version;
                answerer.due = Some((version, frame));
                if let Some(session) = confirmed {
                    self.move_to(now, version, session);
                }
                if !early.is_empty() {
                    self.events.push((version, PairingEvent::Early(early)));
                }
                if seeded {
                    self.events.push((version, PairingEvent::Reseeded));
                }
                self.served(keys);
            }
            Called::Cloned => {
                self.report(now, 0, PairingEvent::CloneSuspected);
                return Err(FrameError::Cloned);
            }
            Called::Suspicious => {
                self.report(now, 1, PairingEvent::PskUsedAgain);
                return Err(FrameError::Replayed);
            }
        }
        Ok(())
    }

    /// Reports at most once a minute; what anybody can cause does not keep the other from being told.
    fn report(&mut self, now: Timestamp, kind: usize, event: PairingEvent) {
        if let Side::Responder(answerer) = &mut self.side
            && let Some(reported) = answerer.reported.get_mut(kind)
            && reported.is_none_or(|at| now.since(at) >= REPORT_EACH)
        {
            *reported = Some(now);
            self.events.push((0, event));
        }
    }

    fn handle_answer(&mut self, now: Timestamp, source: Source, message: &Handshake<'_>) -> Result<(), FrameError> {
        let Side::Initiator(caller) = &mut self.side else { return Err(FrameError::UnknownConnection) };
        if self.events.len() >= MAX_EVENTS || !self.tries.may(now, Kind::Calls, source) {
            return Err(FrameError::Throttled);
        }
        if !caller.hints().any(|hint| hint == message.hint) {
            return Err(FrameError::UnknownConnection);
        }
        self.tries.count(now, Kind::Calls, source);
        let Answer { session, reply, keys } = caller.handle_answer(&self.vault, &self.parties, now, message)?;
        self.call_due = None;
        let version = self.changed();
        let old = self.current.replace(Current { session, since: version });
        (self.start_sent, self.start_is_known) = (None, false);
        // It goes when the peer is known to send on the new one, and some time after.
        let old = old.map(|old| Box::new(Previous { session: old.session, until: None }));
        self.previous = old.or(self.previous.take());
        self.start_due = true;
        self.telling.iter_mut().for_each(|telling| telling.begins_anew());
        self.served(keys);
        if !reply.is_empty() {
            self.events.push((version, PairingEvent::Reply(reply)));
        }
        Ok(())
    }

    /// Opens a record in the session that it is for, of those that it may be for.
    fn open(
        &mut self,
        now: Timestamp,
        source: Source,
        header: &RecordHeader,
        frame: &mut [u8],
    ) -> Result<(Of, Opened), FrameError> {
        if !self.tries.may(now, Kind::Forgeries, source) {
            return Err(FrameError::Throttled);
        }
        let provider = self.vault.provider();
        let [ordinary, recovery] = match &mut self.side {
            Side::Initiator(_) => [None, None],
            Side::Responder(answerer) => answerer.sessions(),
        };
        let sessions = [
            (Of::Answered(Chain::Ordinary), ordinary),
            (Of::Answered(Chain::Recovery), recovery),
            (Of::Current, self.current.as_mut().map(|current| &mut *current.session)),
            (Of::Previous, self.previous.as_mut().map(|previous| &mut *previous.session)),
        ];
        let candidates = sessions.map(|(of, session)| (of, session.filter(|session| session.may_be_for(header))));
        // A session that cannot open a record leaves it unreadable for the next: while there are several, it is kept.
        let are_several = candidates.iter().filter(|(_, session)| session.is_some()).count() > 1;
        let original = if are_several { frame.to_vec() } else { Vec::new() };
        let mut refused = FrameError::UnknownConnection;
        let mut is_forged = false;
        for (of, session) in candidates {
            let Some(session) = session else { continue };
            if are_several {
                frame.copy_from_slice(&original);
            }
            match session.open(provider, now, header, frame) {
                Ok(opened) => {
                    // What may be repeated without end pays for nothing.
                    if header.lane == Lane::Live {
                        self.tries.is_genuine(source);
                    }
                    return Ok((of, opened));
                }
                Err(error @ (FrameError::Replayed | FrameError::TooFarAhead)) => refused = error,
                Err(error) => {
                    session.forgeries = session.forgeries.saturating_add(1);
                    is_forged = true;
                    refused = error;
                }
            }
        }
        if is_forged {
            self.tries.count(now, Kind::Forgeries, source);
        }
        Err(refused)
    }

    /// A record of the peer has opened: it has that session.
    fn took(&mut self, now: Timestamp, of: Of) {
        let version = self.changed();
        match of {
            Of::Answered(chain) => {
                let Side::Responder(answerer) = &mut self.side else { return };
                if let Some(session) = answerer.confirm(self.vault.provider(), &self.parties, chain) {
                    self.move_to(now, version, session);
                }
            }
            Of::Current => {
                if let Some(current) = &mut self.current
                    && !current.session.confirmed
                {
                    current.session.confirmed = true;
                    let recovered = current.session.recovered;
                    if let Some(previous) = &mut self.previous {
                        previous.until = Some(now.after(OVERLAP));
                    }
                    self.events.push((version, PairingEvent::Opened { recovered }));
                }
            }
            Of::Previous => {}
        }
    }

    /// The responder's: the caller has the session of our answer. Nothing is sealed under it before that is written: the caller
    /// would rely on it.
    fn move_to(&mut self, now: Timestamp, version: u64, mut session: Box<Session<V::Provider>>) {
        session.confirmed = true;
        let recovered = session.recovered;
        let old = self.current.replace(Current { session, since: version });
        self.previous = old.map(|old| Box::new(Previous { session: old.session, until: Some(now.after(OVERLAP)) }));
        (self.start_sent, self.start_is_known) = (None, false);
        self.telling.iter_mut().for_each(|telling| telling.begins_anew());
        // A seed goes into whatever psk is next: the caller is told under each session until it has used it.
        self.tell_seed();
        self.events.push((version, PairingEvent::Opened { recovered }));
    }
}
