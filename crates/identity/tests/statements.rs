//! What the own identity says verifies; everything else is refused, with the reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use proptest::prelude::*;
use sealway_crypto_rustcrypto::RustCrypto;
use sealway_identity::{
    Card, CardParts, IdentityError, IdentityId, Mailbox, Owner, PayloadParts, Peer, Policy, RecoveryKey, RelayEntry,
    UnixTime, UnverifiedCard, UnverifiedPayload,
};
use sealway_testkit::entropy::{Seeded, seeded_provider};
use sealway_vault::{Algorithm, SoftwareVault, Vault};
use sealway_wire::BoxName;

type TestVault = SoftwareVault<RustCrypto<Seeded>>;

fn incept(seed: u64, algorithm: Algorithm) -> (TestVault, Owner, RecoveryKey) {
    let mut vault = SoftwareVault::new(seeded_provider(seed));
    let (owner, recovery) = Owner::incept(&mut vault, algorithm).unwrap();
    (vault, owner, recovery)
}

fn parts() -> CardParts {
    CardParts {
        sequence: 3,
        addresses: vec!["tcp://[2001:db8::1]:7001".to_string()],
        relays: vec![RelayEntry {
            id: IdentityId([7; 32]),
            channel_key: [8; 32],
            contact_box: BoxName([9; 16]),
            addresses: vec!["tcp://relay.example:7001".to_string()],
        }],
    }
}

fn verify_payload(
    vault: &TestVault,
    octets: &[u8],
    key: &[u8; 32],
    policy: &Policy,
    known: Option<(u32, u32)>,
) -> Result<Peer, IdentityError> {
    UnverifiedPayload::decode(octets)?.verify(vault.provider(), key, policy, |_| known, None)
}

#[test]
fn a_card_says_the_same_after_its_text_form() {
    for algorithm in [Algorithm::Ed25519, Algorithm::P256] {
        let (vault, owner, _) = incept(1, algorithm);
        let card = owner.card(&vault, &parts()).unwrap();
        let received = UnverifiedCard::from_uri(&format!(" {}\n", card.to_uri())).unwrap();
        let verified: Card = received.verify(vault.provider()).unwrap();
        assert_eq!(verified, card);
        assert_eq!(verified.id(), owner.id());
        assert_eq!(verified.attestation().channel_key, owner.channel_key().0);
        assert_eq!(verified.relays(), parts().relays);
    }
}

/// Every bit matters: whichever is flipped, the card does not decode or does not verify.
#[test]
fn no_bit_of_a_card_can_be_flipped() {
    let (vault, owner, _) = incept(2, Algorithm::Ed25519);
    let card = owner.card(&vault, &CardParts::default()).unwrap();
    for bit in 0..card.as_bytes().len() * 8 {
        let mut octets = card.as_bytes().to_vec();
        octets[bit / 8] ^= 1 << (bit % 8);
        if let Ok(decoded) = UnverifiedCard::decode(&octets) {
            assert!(decoded.verify(vault.provider()).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn a_card_signed_by_another_identity_is_refused() {
    // Specification: [M5].
    let (vault, owner, _) = incept(3, Algorithm::Ed25519);
    let (other_vault, other, _) = incept(4, Algorithm::Ed25519);
    let genuine = owner.card(&vault, &CardParts::default()).unwrap();
    let forged = other.card(&other_vault, &CardParts::default()).unwrap();
    // The other's signature over the owner's parts.
    let mut octets = genuine.as_bytes().to_vec();
    let signature = octets.len() - 64;
    octets[signature..].copy_from_slice(&forged.as_bytes()[forged.as_bytes().len() - 64..]);
    let error = UnverifiedCard::decode(&octets).unwrap().verify(vault.provider()).unwrap_err();
    assert_eq!(error, IdentityError::Signature { statement: "card" });
}

#[test]
fn a_payload_proves_the_channel_key_to_those_who_admit_it() {
    let (vault, owner, _) = incept(5, Algorithm::P256);
    let mailbox = Mailbox { relay: IdentityId([1; 32]), name: BoxName([2; 16]) };
    let payload = owner.payload(&PayloadParts::with_mailbox(mailbox)).unwrap();
    assert_eq!(UnverifiedPayload::decode(&payload).unwrap().encode(), payload);
    let admit = Policy::ids([owner.id()]);
    let key = owner.channel_key().0;
    let peer = verify_payload(&vault, &payload, &key, &admit, None).unwrap();
    assert_eq!((peer.id(), peer.mailbox(), peer.is_unclocked()), (owner.id(), Some(mailbox), true));

    let stranger = verify_payload(&vault, &payload, &key, &Policy::nobody(), None);
    assert_eq!(stranger, Err(IdentityError::NotAdmitted));
    let other_key = verify_payload(&vault, &payload, &[1; 32], &admit, None);
    assert_eq!(other_key, Err(IdentityError::ChannelKey));
    // Specification: [M6].
    let replaced = verify_payload(&vault, &payload, &key, &admit, Some((0, 1)));
    assert_eq!(replaced, Err(IdentityError::Superseded));
}

#[test]
fn an_identity_keeps_its_id_through_four_rotations() {
    // Specification: [M4].
    let (mut vault, mut owner, mut recovery) = incept(6, Algorithm::Ed25519);
    let (id, first_key) = (owner.id(), owner.channel_key().0);
    for event in 1..=4 {
        let wrong = owner.rotate(&mut vault, &incept(60 + event, Algorithm::Ed25519).2);
        assert_eq!(wrong.unwrap_err(), IdentityError::History { event: usize::try_from(event).unwrap() });
        let saved = RecoveryKey::from_secret(&recovery.expose()).unwrap();
        (owner, recovery) = owner.rotate(&mut vault, &saved).unwrap();
        assert_eq!(owner.id(), id);
        let card = UnverifiedCard::decode(owner.card(&vault, &parts()).unwrap().as_bytes()).unwrap();
        assert_eq!(card.verify(vault.provider()).unwrap().rank(), (u32::try_from(event).unwrap(), 3));
    }
    assert_ne!(owner.channel_key().0, first_key);
    assert_eq!(owner.rotate(&mut vault, &recovery).unwrap_err(), IdentityError::History { event: 5 });
    let payload = owner.payload(&PayloadParts::default()).unwrap();
    assert!(verify_payload(&vault, &payload, &owner.channel_key().0, &Policy::ids([id]), Some((4, 0))).is_ok());
    assert_eq!(Owner::load(&vault, &owner.save()).unwrap(), owner);
}

#[test]
fn a_saved_identity_needs_its_keys() {
    let (vault, owner, _) = incept(7, Algorithm::Ed25519);
    let reloaded = SoftwareVault::load(seeded_provider(0), &vault.save().unwrap()).unwrap();
    assert_eq!(Owner::load(&reloaded, &owner.save()).unwrap(), owner);
    let (other, ..) = incept(8, Algorithm::Ed25519);
    assert!(matches!(Owner::load(&other, &owner.save()), Err(IdentityError::Vault(_))));
}

#[test]
fn statements_of_one_kind_do_not_verify_as_another() {
    let (vault, owner, _) = incept(9, Algorithm::Ed25519);
    let card = owner.card(&vault, &CardParts::default()).unwrap();
    assert!(UnverifiedPayload::decode(card.as_bytes()).is_err());
    let payload = owner.payload(&PayloadParts::default()).unwrap();
    assert!(UnverifiedCard::decode(&payload).is_err());
}

#[test]
fn the_end_of_an_attestation_is_judged_only_by_a_clock() {
    let (_, owner, _) = incept(10, Algorithm::Ed25519);
    let mut attestation = *owner.attestation();
    attestation.not_after = Some(UnixTime(100));
    assert_eq!(attestation.holds_at(None), Ok(()));
    assert_eq!(attestation.holds_at(Some(UnixTime(100))), Ok(()));
    assert_eq!(attestation.holds_at(Some(UnixTime(101))), Err(IdentityError::Expired));
}

#[test]
fn errors_name_field_and_limit() {
    let (vault, owner, _) = incept(11, Algorithm::Ed25519);
    let error = |parts: &CardParts| owner.card(&vault, parts).unwrap_err().to_string();
    let five = vec!["tcp://192.0.2.1:1".to_string(); 5];
    assert_eq!(error(&CardParts { addresses: five, ..parts() }), "card addresses: 5 entries, the limit is 4");
    let bad = vec!["tcp://192.0.2.1".to_string()];
    assert_eq!(error(&CardParts { addresses: bad, ..parts() }), "address port: malformed");
    let text = |uri: &str| UnverifiedCard::from_uri(uri).unwrap_err().to_string();
    assert_eq!(text("https://example.org"), "card URI: malformed");
    assert_eq!(text("sealway:?"), "card URI: malformed");
    assert_eq!(text(&format!("sealway:{}", "A".repeat(9000))), "card URI: 9000 octets, the limit is 5465");
    assert_eq!(text("sealway:hEOhASegQA"), "COSE signature: malformed");
}

fn mutated(octets: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let len = octets.len();
    proptest::collection::vec((0..len, any::<u8>()), 0..4).prop_flat_map(move |changes| {
        let mut octets = octets.clone();
        changes.iter().for_each(|(at, value)| octets[*at] = *value);
        (0..=len).prop_map(move |cut| octets[..octets.len() - cut / 4].to_vec())
    })
}

fn samples() -> (TestVault, Vec<u8>, Vec<u8>, Vec<u8>) {
    let (vault, owner, _) = incept(12, Algorithm::Ed25519);
    let card = owner.card(&vault, &parts()).unwrap().as_bytes().to_vec();
    let payload = owner.payload(&PayloadParts { credentials: vec![vec![1, 2]], mailbox: None }).unwrap();
    (vault, card, payload, owner.save())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn cards_decode_to_themselves_or_not_at_all(octets in prop_oneof![
        mutated(samples().1), proptest::collection::vec(any::<u8>(), 0..300)
    ]) {
        // Specification: [M2].
        if let Ok(card) = UnverifiedCard::decode(&octets) {
            prop_assert_eq!(card.as_bytes(), octets.as_slice());
        }
    }

    #[test]
    fn payloads_decode_to_themselves_or_not_at_all(octets in prop_oneof![
        mutated(samples().2), proptest::collection::vec(any::<u8>(), 0..300)
    ]) {
        if let Ok(payload) = UnverifiedPayload::decode(&octets) {
            prop_assert_eq!(payload.encode(), octets);
        }
    }

    #[test]
    fn saved_identities_load_or_not_and_never_panic(octets in mutated(samples().3)) {
        let (vault, _, _, saved) = samples();
        if let Ok(owner) = Owner::load(&vault, &octets) {
            prop_assert_eq!(owner.save(), octets);
        } else {
            prop_assert_ne!(octets, saved);
        }
    }

    #[test]
    fn saved_vaults_load_or_not_and_never_panic(octets in proptest::collection::vec(0_u8..4, 0..70)) {
        if let Ok(vault) = SoftwareVault::load(seeded_provider(0), &octets) {
            prop_assert_eq!(vault.save().unwrap().len(), octets.len());
        }
    }

    #[test]
    fn any_text_is_a_card_or_an_error(text in "(sealway:)?.{0,200}") {
        prop_assert!(UnverifiedCard::from_uri(&text).is_err());
    }
}
