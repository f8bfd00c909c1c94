//! Letters: sealed to a prekey of a peer that is away, opened by it alone, and known to be from their sender.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use proptest::prelude::*;
use sealway_channel::{
    Config, Deposit, Endpoint, FrameError, HandshakeError, PREKEY_TIME, PathId, PrekeyKind, Record, SendError, Source,
    StateError,
};
use sealway_crypto_rustcrypto::RustCrypto;
use sealway_identity::{CardParts, IdentityError, Owner, PayloadParts, Policy, Prekey, PrekeyParts, UnverifiedPrekey};
use sealway_testkit::entropy::{Seeded, seeded_provider};
use sealway_vault::{Algorithm, SoftwareVault, Vault};
use sealway_wire::{
    Instance, Letter, PrekeyId, Timestamp,
    content::{Committed, Reliable},
    letter::{HYBRID_LETTER, LETTER, MAX_CONTENT, MAX_LETTER},
};

type TestVault = Arc<SoftwareVault<RustCrypto<Seeded>>>;

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
const RELAY: Source = Source::proven(9);

struct Machine {
    vault: TestVault,
    owner: Owner,
    endpoint: Endpoint<TestVault>,
    disk: Vec<(PrekeyId, Vec<u8>)>,
}

impl Machine {
    fn new(seed: u64) -> Self {
        sealway_testkit::audit::begin();
        let mut vault = SoftwareVault::new(seeded_provider(seed));
        let (owner, _) = Owner::incept(&mut vault, Algorithm::Ed25519).unwrap();
        let vault = Arc::new(vault);
        let endpoint = Self::endpoint(&vault, &owner);
        Self { vault, owner, endpoint, disk: Vec::new() }
    }

    fn endpoint(vault: &TestVault, owner: &Owner) -> Endpoint<TestVault> {
        Endpoint::new(vault.clone(), owner.clone(), Config::new(Instance([1; 4])))
    }

    /// Does what is due of prekeys, and writes it.
    fn look_after(&mut self, now: Timestamp) {
        self.endpoint.handle_timeout(now);
        while let Some(saved) = self.endpoint.poll_prekey() {
            self.disk.retain(|(id, _)| *id != saved.id);
            if let Some(state) = saved.state {
                self.disk.push((saved.id, state));
                self.endpoint.prekey_written(now, saved.id);
            }
        }
    }

    fn publish(&mut self, kind: PrekeyKind) -> Prekey {
        self.endpoint.make_prekeys(kind);
        self.look_after(NOW);
        self.published()
    }

    fn published(&self) -> Prekey {
        let (_, statement) = self.endpoint.published_prekey().unwrap().expect("it is on disk");
        let unverified = UnverifiedPrekey::decode(&statement).unwrap();
        unverified.verify(self.vault.provider(), &self.owner.id()).unwrap()
    }

    fn restart(&mut self, now: Timestamp) {
        self.endpoint = Self::endpoint(&self.vault, &self.owner);
        for (_, state) in &self.disk {
            self.endpoint.restore_prekey(now, state).unwrap();
        }
    }

    fn admit(&mut self, other: &Self) {
        self.endpoint.admit(&Policy::ids([other.owner.id()]));
    }

    fn seal(&mut self, prekey: &Prekey, body: &[u8]) -> Vec<u8> {
        let mut out = vec![0; MAX_LETTER];
        let len = self.endpoint.seal_letter(prekey, &PayloadParts::default(), message(body), &mut out).unwrap();
        out.truncate(len);
        out
    }

    /// The body of a letter, if it opens.
    fn open(&mut self, letter: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut frame = letter.to_vec();
        match self.endpoint.open_letter(NOW, RELAY, &mut frame)?.record.unwrap() {
            Record::Message { body, .. } => Ok(body.to_vec()),
            other => panic!("{other:?}"),
        }
    }
}

const fn message(body: &[u8]) -> Deposit<'_> {
    Deposit::Message(Reliable { instance: None, number: 3, lowest: 2, unwanted: 0, part: None, body })
}

/// A sender and a recipient that know of each other and have never met.
fn strangers_by_card(seed: u64) -> (Machine, Machine) {
    let (mut sender, mut recipient) = (Machine::new(seed), Machine::new(seed + 1000));
    sender.admit(&recipient);
    recipient.admit(&sender);
    (sender, recipient)
}

#[test]
fn a_letter_opens_for_its_recipient_and_names_its_sender() {
    for (kind, octet0, overhead) in [(PrekeyKind::Classical, LETTER, 103), (PrekeyKind::Hybrid, HYBRID_LETTER, 1191)] {
        let (mut sender, mut recipient) = strangers_by_card(1);
        let prekey = recipient.publish(kind);
        let letter = sender.seal(&prekey, b"hello");
        let payload = sender.owner.payload(&PayloadParts::default()).unwrap();
        assert_eq!(letter[0], octet0);
        // What is around it: instance, number, difference, type.
        assert_eq!(letter.len(), overhead + payload.len() + 4 + 1 + 1 + 5 + 1);
        let mut frame = letter.clone();
        let opened = recipient.endpoint.open_letter(NOW, RELAY, &mut frame).unwrap();
        assert_eq!(opened.sender.id(), sender.owner.id());
        assert_eq!(opened.prekey, prekey.rank().1);
        let Record::Message { instance, number, lowest, body, .. } = opened.record.unwrap() else {
            panic!("a message")
        };
        assert_eq!((instance, number, lowest, body), (Instance([1; 4]), 3, 2, b"hello".as_slice()));
        // It opens again: what it brings is remembered elsewhere.
        assert_eq!(recipient.open(&letter).unwrap(), b"hello");
        // And after a restart.
        let id = sender.owner.id();
        recipient.restart(NOW);
        recipient.endpoint.admit(&Policy::ids([id]));
        assert_eq!(recipient.open(&letter).unwrap(), b"hello");
    }
}

#[test]
fn the_longest_letter_is_as_long_as_said_and_one_octet_more_is_refused() {
    let (mut sender, mut recipient) = strangers_by_card(2);
    let prekey = recipient.publish(PrekeyKind::Hybrid);
    let room = MAX_CONTENT - 7;
    let body = vec![7; room];
    let letter = sender.seal(&prekey, &body);
    assert!(letter.len() <= MAX_LETTER);
    assert_eq!(recipient.open(&letter).unwrap(), body);
    let mut out = vec![0; MAX_LETTER];
    let refused = sender.endpoint.seal_letter(&prekey, &PayloadParts::default(), message(&vec![7; room + 1]), &mut out);
    assert!(matches!(refused, Err(SendError::TooLong { limit: MAX_CONTENT, .. })), "{refused:?}");
}

#[test]
fn what_was_committed_travels_in_a_letter_too() {
    let (mut sender, mut recipient) = strangers_by_card(3);
    let prekey = recipient.publish(PrekeyKind::Classical);
    let committed = Committed { instance: Instance([8; 4]), mark: 77, bitmap: &[1], held: &[] };
    let mut out = vec![0; MAX_LETTER];
    let deposit = Deposit::Committed(committed);
    let len = sender.endpoint.seal_letter(&prekey, &PayloadParts::default(), deposit, &mut out).unwrap();
    let opened = recipient.endpoint.open_letter(NOW, RELAY, &mut out[..len]).unwrap();
    assert_eq!(opened.record, Some(Record::Committed(committed)));
}

#[test]
fn a_stranger_writes_no_letter_and_gets_none() {
    let (mut sender, mut recipient) = (Machine::new(4), Machine::new(5));
    let prekey = recipient.publish(PrekeyKind::Classical);
    let mut out = vec![0; MAX_LETTER];
    let refused = sender.endpoint.seal_letter(&prekey, &PayloadParts::default(), message(b"?"), &mut out);
    assert_eq!(refused, Err(SendError::NotOpen));
    sender.admit(&recipient);
    let letter = sender.seal(&prekey, b"let me in");
    let refused = HandshakeError::Identity(IdentityError::NotAdmitted);
    assert_eq!(recipient.open(&letter), Err(FrameError::Handshake(refused)));
    recipient.admit(&sender);
    assert_eq!(recipient.open(&letter).unwrap(), b"let me in");
}

#[test]
fn a_hybrid_prekey_takes_no_letter_without_its_ml_kem_part() {
    // Specification: [M44].
    let (mut sender, mut recipient) = strangers_by_card(6);
    let hybrid = recipient.publish(PrekeyKind::Hybrid);
    // What somebody in between can make of the statement only with the owner's signature.
    let parts = PrekeyParts { kem: None, ..hybrid.parts().clone() };
    let statement = recipient.owner.prekey(&recipient.vault, &parts).unwrap();
    let classical = UnverifiedPrekey::decode(&statement).unwrap();
    let classical = classical.verify(recipient.vault.provider(), &recipient.owner.id()).unwrap();
    let letter = sender.seal(&classical, b"for a recording");
    assert_eq!(recipient.open(&letter), Err(FrameError::Handshake(HandshakeError::Kem)));
    let letter = sender.seal(&hybrid, b"for nobody else");
    // Without the ciphertext it is none for this prekey either; nor with another.
    let stripped = [&[LETTER], &letter[1..5], &letter[5 + 1088..]].concat();
    assert_eq!(recipient.open(&stripped), Err(FrameError::Handshake(HandshakeError::Kem)));
    assert_eq!(recipient.open(&letter).unwrap(), b"for nobody else");
}

#[test]
fn ones_own_letter_that_a_relay_turns_around_is_refused() {
    // Specification: [M42].
    let (_, mut recipient) = strangers_by_card(7);
    let prekey = recipient.publish(PrekeyKind::Classical);
    recipient.endpoint.admit(&Policy::ids([recipient.owner.id()]));
    let reflected = recipient.seal(&prekey, b"me");
    assert_eq!(recipient.open(&reflected), Err(FrameError::Handshake(HandshakeError::Reflected)));
}

#[test]
fn a_letter_is_none_where_no_relay_has_kept_it() {
    // Specification: [M47].
    let (mut sender, mut recipient) = strangers_by_card(8);
    let prekey = recipient.publish(PrekeyKind::Classical);
    let mut letter = sender.seal(&prekey, b"straight");
    let received = recipient.endpoint.handle_frame(NOW, PathId(1), RELAY, &mut letter);
    assert!(matches!(received, Err(FrameError::Decode(error)) if error.field == "octet 0"), "{received:?}");
}

#[test]
fn a_letter_opens_until_its_prekey_is_forgotten_and_nothing_is_computed_after() {
    // Specification: [M43].
    let (mut sender, mut recipient) = strangers_by_card(10);
    let first = recipient.publish(PrekeyKind::Classical);
    let letter = sender.seal(&first, b"in time");
    recipient.look_after(NOW.after(PREKEY_TIME));
    let second = recipient.published();
    assert!(second.rank() > first.rank() && second.parts().id != first.parts().id);
    assert_eq!(recipient.open(&letter).unwrap(), b"in time");
    recipient.look_after(NOW.after(PREKEY_TIME * 2));
    assert_eq!(recipient.open(&letter), Err(FrameError::UnknownPrekey));
    // Of any number of such letters none is paid for.
    for _ in 0..1000 {
        assert_eq!(recipient.open(&letter), Err(FrameError::UnknownPrekey));
    }
    let letter = sender.seal(&second, b"to the new one");
    assert_eq!(recipient.open(&letter).unwrap(), b"to the new one");
}

#[test]
fn what_a_relay_has_us_compute_is_limited() {
    let (mut sender, mut recipient) = strangers_by_card(11);
    let prekey = recipient.publish(PrekeyKind::Classical);
    let mut forged = sender.seal(&prekey, b"?");
    *forged.last_mut().unwrap() ^= 1;
    let computed = (0..1000).filter(|_| recipient.open(&forged) != Err(FrameError::Throttled)).count();
    assert_eq!(computed, 512);
}

#[test]
fn statements_are_of_one_identity_and_one_history() {
    // Specification: [M46].
    let (_, mut recipient) = strangers_by_card(12);
    let prekey = recipient.publish(PrekeyKind::Hybrid);
    let (_, statement) = recipient.endpoint.published_prekey().unwrap().unwrap();
    let provider = recipient.vault.provider();
    let unverified = UnverifiedPrekey::decode(&statement).unwrap();
    assert_eq!(unverified.encode(), statement);
    let foreign = IdentityError::Subject { statement: "prekey" };
    assert_eq!(unverified.verify(provider, &Machine::new(13).owner.id()), Err(foreign));
    // A statement of another under this history.
    let other = Machine::new(14);
    let theirs = other.owner.prekey(&other.vault, prekey.parts()).unwrap();
    let at = |octets: &[u8]| octets.windows(5).position(|window| window == b"\x84\x43\xa1\x01\x27").unwrap();
    // The length of the statement, in two octets, stands before it.
    let (ours_at, theirs_at) = (at(&statement) - 3, at(&theirs) - 3);
    let mixed = [&statement[..ours_at], &theirs[theirs_at..]].concat();
    assert_eq!(UnverifiedPrekey::decode(&mixed).unwrap().verify(provider, &recipient.owner.id()), Err(foreign));
    // An identity that has rotated takes its earlier prekeys back: who knows the rotation does not use them.
    let mut vault = SoftwareVault::new(seeded_provider(15));
    let (owner, recovery) = Owner::incept(&mut vault, Algorithm::Ed25519).unwrap();
    let old = owner.prekey(&vault, prekey.parts()).unwrap();
    let (rotated, _) = owner.rotate(&mut vault, &recovery).unwrap();
    let card = rotated.card(&vault, &CardParts::default()).unwrap();
    let mut sender = Machine::new(16);
    sender.endpoint.admit(&Policy::only(&card));
    let verified = |statement: &[u8]| {
        let unverified = UnverifiedPrekey::decode(statement).unwrap();
        unverified.verify(vault.provider(), &owner.id()).unwrap()
    };
    sender.endpoint.open(NOW, &card, &Policy::only(&card), PayloadParts::default(), PathId(1)).unwrap();
    assert!(!sender.endpoint.is_current(&verified(&old)));
    assert!(sender.endpoint.is_current(&verified(&rotated.prekey(&vault, prekey.parts()).unwrap())));
}

#[test]
fn letters_open_after_a_rotation_as_long_as_the_old_card_serves() {
    let mut vault = SoftwareVault::new(seeded_provider(20));
    let (owner, recovery) = Owner::incept(&mut vault, Algorithm::Ed25519).unwrap();
    let before = Arc::new(SoftwareVault::load(seeded_provider(22), &vault.save().unwrap()).unwrap());
    let endpoint = Machine::endpoint(&before, &owner);
    let mut recipient = Machine { vault: before, owner, endpoint, disk: vec![] };
    let mut sender = Machine::new(21);
    sender.admit(&recipient);
    let prekey = recipient.publish(PrekeyKind::Classical);
    let letter = sender.seal(&prekey, b"before");
    let (rotated, _) = recipient.owner.rotate(&mut vault, &recovery).unwrap();
    recipient.vault = Arc::new(vault);
    let start = |recipient: &Machine, earlier| {
        let mut config = Config::new(Instance([1; 4]));
        config.earlier_key = earlier;
        config.accept = Policy::ids([sender.owner.id()]);
        Endpoint::new(recipient.vault.clone(), rotated.clone(), config)
    };
    let state = recipient.disk[0].1.clone();
    recipient.endpoint = start(&recipient, None);
    assert_eq!(recipient.endpoint.restore_prekey(NOW, &state), Err(StateError::Rejected));
    recipient.endpoint = start(&recipient, Some((recipient.owner.channel_key(), NOW.after(PREKEY_TIME))));
    recipient.endpoint.restore_prekey(NOW, &state).unwrap();
    assert_eq!(recipient.open(&letter).unwrap(), b"before");
    // It is kept under the new key from now on.
    let saved = recipient.endpoint.poll_prekey().unwrap().state.unwrap();
    recipient.endpoint = start(&recipient, None);
    recipient.endpoint.restore_prekey(NOW, &saved).unwrap();
    assert_eq!(recipient.open(&letter).unwrap(), b"before");
}

#[test]
fn a_prekey_that_is_not_on_disk_is_not_published() {
    // Specification: [M43].
    let (_, mut recipient) = strangers_by_card(17);
    recipient.endpoint.make_prekeys(PrekeyKind::Classical);
    recipient.endpoint.handle_timeout(NOW);
    let made = recipient.endpoint.poll_prekey().unwrap();
    assert_eq!(recipient.endpoint.published_prekey().unwrap(), None);
    recipient.endpoint.prekey_not_written(NOW, made.id);
    assert_eq!(recipient.endpoint.published_prekey().unwrap(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bit_of_a_letter_can_be_flipped(bit in 0_usize..20_000, is_hybrid: bool) {
        let (mut sender, mut recipient) = strangers_by_card(18);
        let kind = if is_hybrid { PrekeyKind::Hybrid } else { PrekeyKind::Classical };
        let prekey = recipient.publish(kind);
        let mut letter = sender.seal(&prekey, b"whole");
        let bit = bit % (letter.len() * 8);
        letter[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(recipient.open(&letter).is_err());
    }

    #[test]
    fn any_octets_are_a_letter_or_an_error(octets in prop::collection::vec(any::<u8>(), 0..1400)) {
        let (_, mut recipient) = strangers_by_card(19);
        let prekey = recipient.publish(PrekeyKind::Hybrid);
        let framed = [&[HYBRID_LETTER], prekey.parts().id.0.as_slice(), &octets].concat();
        prop_assert!(recipient.open(&framed).is_err());
        if let Ok(letter) = Letter::decode(&octets) {
            prop_assert!(letter.noise.len() >= 96);
        }
    }
}
