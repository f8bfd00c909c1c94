//! Messages of one peer: handed over in order, committed once.

mod marks;
mod progress;

use alloc::{collections::BTreeMap, vec::Vec};

use sealway_wire::{
    IdentityId, Instance, MessageId,
    content::{COMMIT_WINDOW, Committed, Part},
    danger::{self, Protection},
};

pub use self::marks::Marks;
use self::{
    marks::{OCTETS, trimmed},
    progress::{Progress, Settled, Waiting},
};
use crate::{Batch, Table};

/// Messages that wait for an earlier one, or for the application, at most.
const MAX_WAITING: usize = 512;
/// Octets that wait, at most.
const MAX_WAITING_OCTETS: usize = 2 * 1024 * 1024;
/// Runs of the peer of which everything is remembered; of the one that was heard of least recently only its mark is, as long as
/// something of it can be repeated.
const MAX_INSTANCES: usize = 64;
/// Runs of which the mark is remembered.
const MAX_SETTLED: usize = 8192;
/// A message may have been handed over before a crash if its number is below a bound that is written so far ahead.
const RESERVED: u32 = 64;

/// What a message is to its inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// It waits to be handed over.
    Accepted,
    /// It waits, or was handed over, already.
    Pending,
    /// The application has committed it: tell the sender again.
    Committed,
    /// There is no room, or it is too far ahead: the sender will send it again.
    Later,
}

/// What an inbox has of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// The disk says that it is committed, or the sender does not want it committed any more.
    Committed,
    /// It waits to be handed over, or was handed over and is not done with.
    Waiting,
    /// Nothing: it has to come again.
    Nothing,
}

/// A message for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its id: the same each time.
    pub id: MessageId,
    /// The message.
    pub body: Vec<u8>,
    /// It may have been handed over before a crash or restart.
    pub redelivered: bool,
    /// It has come in a letter, not under a session: whoever steals our prekey can forge such a one.
    pub early: bool,
    /// To be written before the message is handed over, so that the flag is right after a crash.
    pub before: Batch,
}

/// Messages of one peer.
pub struct Inbox {
    peer: IdentityId,
    progress: BTreeMap<Instance, Progress>,
    octets: usize,
    clock: u64,
    /// The oldest of our prekeys that is there, and the newest: what was sealed to one of them can come again.
    prekeys: Option<(u64, u64)>,
    /// Runs of which everything was committed up to a mark, and nothing above it.
    settled: BTreeMap<Instance, Settled>,
    /// Rows that are to be written, or deleted, with the next write.
    changed: BTreeMap<Instance, Option<Settled>>,
    /// What was handed over before, and nothing keeps from being handed over again.
    #[cfg(sealway_break)]
    again: alloc::collections::VecDeque<(MessageId, Vec<u8>)>,
}

impl Inbox {
    /// An inbox that knows of nothing.
    #[must_use]
    pub const fn new(peer: IdentityId) -> Self {
        Self {
            peer,
            progress: BTreeMap::new(),
            octets: 0,
            clock: 0,
            prekeys: None,
            settled: BTreeMap::new(),
            changed: BTreeMap::new(),
            #[cfg(sealway_break)]
            again: alloc::collections::VecDeque::new(),
        }
    }

    /// Takes back from the store what was committed. Returns whether the row was one of this peer.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> bool {
        let Some((peer, instance)) = key.split_first_chunk::<32>() else { return false };
        let Ok(instance) = instance.try_into().map(Instance) else { return false };
        if *peer != self.peer.0 {
            return false;
        }
        if let Some(settled) = Settled::decode(value) {
            self.settled.insert(instance, settled);
            return true;
        }
        let Some(progress) = Progress::decode(value) else { return false };
        self.progress.insert(instance, progress);
        true
    }

    /// Takes a message in, or a part of one. The sender wants nothing below `lowest`, nor the `unwanted` numbers directly
    /// below this one.
    pub fn handle_message(
        &mut self,
        id: MessageId,
        lowest: u32,
        unwanted: u32,
        part: Option<Part>,
        body: &[u8],
    ) -> Intake {
        self.take_in(id, (lowest, unwanted), part, body, None)
    }

    /// The same for a message that has come in a letter, sealed to the prekey of this sequence number.
    pub fn handle_letter(
        &mut self,
        prekey: u64,
        id: MessageId,
        lowest: u32,
        unwanted: u32,
        part: Option<Part>,
        body: &[u8],
    ) -> Intake {
        self.take_in(id, (lowest, unwanted), part, body, Some(prekey))
    }

    /// Letters sealed to prekeys before `oldest` do not open any more; `newest` is the last that has been made.
    pub fn set_prekeys(&mut self, oldest: u64, newest: u64) {
        self.prekeys = Some((oldest, newest));
        for progress in self.progress.values_mut() {
            progress.letters = progress.letters.filter(|prekey| *prekey >= oldest);
        }
        let changed = &mut self.changed;
        self.settled.retain(|instance, settled| {
            let is_kept = settled.prekey >= oldest;
            if !is_kept {
                changed.insert(*instance, None);
            }
            is_kept
        });
    }

    fn take_in(
        &mut self,
        id: MessageId,
        (lowest, unwanted): (u32, u32),
        part: Option<Part>,
        body: &[u8],
        letter: Option<u64>,
    ) -> Intake {
        // No sender numbers so high: there is no number after it.
        if id.number == u32::MAX {
            return Intake::Later;
        }
        self.clock += 1;
        let heard = self.clock;
        // Letters leave room for the runs that come under sessions.
        let is_new = !self.progress.contains_key(&id.instance) && !self.settled.contains_key(&id.instance);
        let is_full = self.settled.len() + MAX_INSTANCES >= MAX_SETTLED;
        if (letter.is_some() && is_new && is_full) || !self.has_place(id.instance) {
            return Intake::Later;
        }
        let progress = self.progress.entry(id.instance).or_insert_with(Progress::new);
        progress.heard = heard;
        progress.letters = progress.letters.max(letter);
        progress.first_heard.get_or_insert(heard);
        progress.lowest = progress.lowest.max(lowest);
        progress.marks.raise(lowest);
        // Without a need to write the row for the floor alone: the sender says it again with every message.
        progress.durable.raise(lowest);
        progress.next = progress.next.max(progress.lowest);
        let dropped: Vec<u32> = progress.waiting.range(..lowest).map(|(number, _)| *number).collect();
        for number in dropped {
            self.octets -= progress.waiting.remove(&number).map_or(0, |waiting| waiting.body.len());
        }
        if id.number > progress.marks.mark.saturating_add(COMMIT_WINDOW) {
            return Intake::Later;
        }
        // Downwards, so that the mark moves once.
        for number in (id.number.saturating_sub(unwanted).max(progress.marks.mark)..id.number).rev() {
            progress.marks.insert(number);
            progress.durable.insert(number);
            self.octets -= progress.waiting.remove(&number).map_or(0, |waiting| waiting.body.len());
        }
        #[cfg(sealway_break)]
        if danger::is_off(Protection::Window) && id.number < progress.next {
            self.again.push_back((id, body.to_vec()));
            return Intake::Accepted;
        }
        if progress.marks.contains(id.number) {
            return Intake::Committed;
        }
        if id.number < progress.next {
            return Intake::Pending;
        }
        if let Some(waiting) = progress.waiting.get_mut(&id.number) {
            // What comes under a session is certain to be the peer's.
            if waiting.early && letter.is_none() {
                self.octets = self.octets - waiting.body.len() + body.len();
                *waiting = Waiting { part, body: body.to_vec(), early: false };
            }
            return Intake::Pending;
        }
        // One run alone may go beyond the bounds: the one that is handed over next.
        let first_heard = progress.first_heard;
        let earlier = |other: &Progress| other.first_heard < first_heard && other.can_go_on();
        let is_next = !self.progress.values().any(earlier);
        // An earlier message takes the place of later ones, which the sender repeats: the one that the application waits
        // for always finds a place. What waits for a message of an earlier run that may never come makes room first.
        loop {
            let Some(progress) = self.progress.get_mut(&id.instance) else { return Intake::Later };
            if progress.waiting.len() < MAX_WAITING && self.octets + body.len() <= MAX_WAITING_OCTETS {
                break;
            }
            let begins = part.map_or(id.number, |part| id.number - part.index);
            // So do the parts of that one.
            let is_waited_for = is_next && begins <= progress.next;
            let later = progress.waiting.last_entry().filter(|latest| *latest.key() > id.number);
            match later.map(|latest| latest.remove().body.len()) {
                Some(len) => self.octets -= len,
                None if is_waited_for => break,
                None if self.evict_blocked(id.instance) => {}
                None => return Intake::Later,
            }
        }
        let Some(progress) = self.progress.get_mut(&id.instance) else { return Intake::Later };
        self.octets += body.len();
        progress.waiting.insert(id.number, Waiting { part, body: body.to_vec(), early: letter.is_some() });
        Intake::Accepted
    }

    /// What is here of a message that was taken in before.
    #[must_use]
    pub fn holding(&self, id: MessageId) -> Holding {
        let Some(progress) = self.progress.get(&id.instance) else { return Holding::Nothing };
        if progress.durable.contains(id.number) {
            return Holding::Committed;
        }
        let is_here = id.number < progress.next || progress.waiting.contains_key(&id.number);
        if is_here || progress.marks.contains(id.number) { Holding::Waiting } else { Holding::Nothing }
    }

    /// Whether a message that is here waits for an earlier one that is not.
    #[must_use]
    pub fn is_blocked(&self, id: MessageId) -> bool {
        let Some(progress) = self.progress.get(&id.instance) else { return false };
        let mut next = progress.next;
        while next < id.number && progress.marks.contains(next) {
            next += 1;
        }
        match progress.waiting.get(&next) {
            None => id.number > next,
            // A message of which a part is missing holds up its own parts, and all that comes after it.
            Some(first) => first.part.is_some() && id.number >= next && progress.whole(next).is_none(),
        }
    }

    /// The next message in order, if it is here. It counts as handed over.
    pub fn poll_deliver(&mut self) -> Option<Delivery> {
        let peer = self.peer;
        #[cfg(sealway_break)]
        if let Some((id, body)) = self.again.pop_front() {
            return Some(Delivery { id, body, redelivered: false, early: false, before: Batch::default() });
        }
        let runs = self.progress.iter_mut().filter(|(_, progress)| progress.first_heard.is_some());
        let goes_on = runs.filter_map(|(instance, progress)| Some((instance, progress.deliverable()?, progress)));
        let (instance, (number, count), progress) = goes_on.min_by_key(|(.., progress)| progress.first_heard)?;
        let taken = (number..number.saturating_add(count)).filter_map(|number| progress.waiting.remove(&number));
        let mut early = false;
        let mut taken = taken.inspect(|waiting| early |= waiting.early).map(|waiting| waiting.body);
        let mut body = taken.next().unwrap_or_default();
        taken.for_each(|part| body.extend_from_slice(&part));
        self.octets -= body.len();
        progress.next = number.saturating_add(count);
        if count > 1 {
            progress.parts.insert(number, count);
        }
        let mut before = Batch::default();
        if progress.next > progress.reserved {
            progress.reserved = progress.next.saturating_add(RESERVED - 1);
            progress.on_disk = true;
            before.put(Table::Inbox, key(&peer, *instance), progress.encode());
        }
        let id = MessageId { instance: *instance, number };
        Some(Delivery { id, body, redelivered: number < progress.before_start, early, before })
    }

    /// The application has done with a message: what is to be written, and what the disk has then.
    pub fn done(&mut self, id: MessageId) -> Option<(Batch, Marks)> {
        let peer = self.peer;
        let progress = self.progress.get_mut(&id.instance)?;
        let count = progress.parts.remove(&id.number).unwrap_or(1);
        // Downwards, so that the mark moves once.
        (id.number..id.number.saturating_add(count)).rev().for_each(|number| progress.marks.insert(number));
        let mut batch = Batch::default();
        progress.on_disk = true;
        batch.put(Table::Inbox, key(&peer, id.instance), progress.encode());
        let marks = progress.marks.clone();
        for (instance, settled) in core::mem::take(&mut self.changed) {
            match settled {
                Some(settled) => batch.put(Table::Inbox, key(&peer, instance), settled.encode()),
                None => batch.delete(Table::Inbox, key(&peer, instance)),
            }
        }
        Some((batch, marks))
    }

    /// What [`done`](Self::done) gave is on disk: from now on the sender is told so.
    pub fn written(&mut self, instance: Instance, marks: Marks) {
        // Writes complete in their order: this one knows all that the one before it knew.
        if let Some(progress) = self.progress.get_mut(&instance) {
            progress.durable.merge(&marks);
            // A write before it may have failed, and taken its own along.
            progress.marks.merge(&marks);
        }
    }

    /// What [`done`](Self::done) gave could not be written: what is not on disk counts as not done.
    pub fn not_written(&mut self, instance: Instance) {
        if let Some(progress) = self.progress.get_mut(&instance) {
            progress.marks = progress.durable.clone();
        }
    }

    /// Hands everything over again that was handed over and is not done with: the one it was given to is gone. Bodies come
    /// from the sender, who repeats what is not committed: the runs of which it has to be told that.
    pub fn rewind(&mut self) -> Vec<Instance> {
        let mut rewound = Vec::new();
        for (instance, progress) in &mut self.progress {
            progress.before_start = progress.before_start.max(progress.next);
            // What `done` is to commit of a message in parts stays known: it may still be called by who was given it.
            if core::mem::replace(&mut progress.next, progress.marks.mark) > progress.marks.mark {
                rewound.push(*instance);
            }
        }
        rewound
    }

    /// Whether something waits to be handed over, or was handed over and is not done with.
    #[must_use]
    pub fn has_undone(&self) -> bool {
        self.progress.values().any(|progress| !progress.waiting.is_empty() || progress.next > progress.marks.mark)
    }

    /// What the sender is told of an instance: what is committed, and what need not be sent again although it is not.
    #[must_use]
    pub fn committed(&mut self, instance: Instance) -> Option<Committed<'_>> {
        let progress = self.progress.get_mut(&instance)?;
        progress.held = [0; COMMIT_WINDOW as usize / 8];
        let mark = progress.durable.mark;
        let handed_over = (mark..progress.next).take(COMMIT_WINDOW as usize);
        for number in handed_over.chain(progress.waiting.keys().copied()).filter(|n| !progress.durable.contains(*n)) {
            let bit = number - mark;
            if let Some(octet) = usize::try_from(bit / 8).ok().and_then(|at| progress.held.get_mut(at)) {
                *octet |= 1 << (bit % 8);
            }
        }
        Some(Committed { held: trimmed(&progress.held), ..progress.durable.committed(instance) })
    }

    /// Whether something of a run of the peer has arrived and is not committed.
    #[must_use]
    pub fn holds_any(&self, instance: Instance) -> bool {
        self.progress.get(&instance).is_some_and(|progress| {
            !progress.waiting.is_empty()
                || (progress.durable.mark..progress.next).any(|n| !progress.durable.contains(n))
        })
    }

    /// Drops the last of what waits in another run for a message that is not here. Returns whether there was any.
    fn evict_blocked(&mut self, except: Instance) -> bool {
        let blocked = |(instance, progress): &(&Instance, &mut Progress)| {
            **instance != except && !progress.waiting.is_empty() && !progress.can_go_on()
        };
        let run = self.progress.iter_mut().filter(|run| blocked(run)).min_by_key(|(_, progress)| progress.heard);
        let dropped = run.and_then(|(_, progress)| progress.waiting.pop_last());
        self.octets -= dropped.as_ref().map_or(0, |(_, waiting)| waiting.body.len());
        dropped.is_some()
    }

    /// Whether a run of the peer has a place, or another that has nothing under way makes room for it.
    fn has_place(&mut self, newcomer: Instance) -> bool {
        if self.progress.contains_key(&newcomer) {
            return true;
        }
        while self.progress.len() >= MAX_INSTANCES {
            if !self.forget_one() {
                return false;
            }
        }
        // Its row is about to be written anew.
        self.changed.remove(&newcomer);
        if let Some(settled) = self.settled.remove(&newcomer) {
            self.progress.insert(newcomer, settled.into_progress());
        }
        true
    }

    /// Makes room by the run that is of the least use. Returns whether there was any.
    fn forget_one(&mut self) -> bool {
        let is_full = self.settled.len() >= MAX_SETTLED;
        let newest = self.prekeys.map(|(_, newest)| newest).filter(|_| !danger::is_off(Protection::Letters));
        let idle = |progress: &Progress| {
            let is_written = progress.marks == progress.durable;
            let is_idle = is_written && progress.is_idle() && (progress.waiting.is_empty() || !progress.can_go_on());
            // As long as letters of it can come again, its mark has to say all that was committed.
            let says_all = !is_full && progress.durable.bitmap == [0; OCTETS];
            is_idle && (progress.letters.is_none() || newest.is_none() || says_all)
        };
        let idle = self.progress.iter().filter(|(_, progress)| idle(progress));
        // Those in which something waits for what may never come go last.
        let has_gaps = |progress: &Progress| progress.durable.bitmap != [0; OCTETS];
        let oldest =
            idle.min_by_key(|(_, progress)| (!progress.waiting.is_empty(), has_gaps(progress), progress.heard));
        let Some(instance) = oldest.map(|(instance, _)| *instance) else { return false };
        if let Some(progress) = self.progress.remove(&instance) {
            self.octets -= progress.waiting.values().map(|waiting| waiting.body.len()).sum::<usize>();
            let mark = progress.durable.mark;
            let handed = progress.before_start.max(progress.next).max(progress.reserved);
            // A letter with what has come under a session may still be at a relay, too.
            let settled = newest.filter(|_| !is_full && handed > 0);
            let settled = settled.map(|prekey| Settled { mark, handed, prekey });
            self.settled.extend(settled.map(|settled| (instance, settled)));
            if progress.on_disk {
                self.changed.insert(instance, settled);
            }
        }
        true
    }
}

fn key(peer: &IdentityId, instance: Instance) -> Vec<u8> {
    [peer.0.as_slice(), &instance.0].concat()
}
