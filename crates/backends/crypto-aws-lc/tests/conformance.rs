//! The suite that every provider passes, and a channel between the two providers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use sealway_channel::{Config, Endpoint, Event, PathId, Received, Record, Source};
use sealway_crypto_aws_lc::AwsLc;
use sealway_crypto_rustcrypto::RustCrypto;
use sealway_identity::{Card, CardParts, Owner, PayloadParts, Policy};
use sealway_vault::{Algorithm, CryptoProvider, SoftwareVault, Vault};
use sealway_wire::{Instance, Timestamp};

#[test]
fn conforms() {
    sealway_testkit::provider::conforms(&AwsLc::new());
}

type Shared<P> = Arc<SoftwareVault<P>>;

fn machine<P: CryptoProvider>(provider: P, algorithm: Algorithm) -> (Endpoint<Shared<P>>, Card) {
    let mut vault = SoftwareVault::new(provider);
    let (owner, _) = Owner::incept(&mut vault, algorithm).unwrap();
    let vault = Arc::new(vault);
    let card = owner.card(&vault, &CardParts::default()).unwrap();
    (Endpoint::new(vault, owner, Config::new(Instance([1; 4]))), card)
}

/// Carries frames from one endpoint to the other, and returns the datagrams that have opened.
fn carry<A: Vault + Clone + 'static, B: Vault + Clone + 'static>(
    now: Timestamp,
    from: &mut Endpoint<A>,
    to: &mut Endpoint<B>,
) -> usize {
    let (mut frame, mut carried) = (vec![0; 4096], 0);
    while let Some(outgoing) = from.poll_transmit(now, &mut frame) {
        let mut arrived = frame[..outgoing.len].to_vec();
        to.handle_frame(now, PathId(0), Source::proven(0), &mut arrived).unwrap();
        carried += 1;
    }
    carried
}

fn talk<A: CryptoProvider, B: CryptoProvider>(initiator: A, responder: B, algorithm: Algorithm) {
    let now = Timestamp::from_micros(1);
    let (mut left, left_card) = machine(initiator, algorithm);
    let (mut right, right_card) = machine(responder, algorithm);
    right.admit(&Policy::only(&left_card));
    let path = PathId(0);
    let channel = left.open(now, &right_card, &Policy::only(&right_card), PayloadParts::default(), path).unwrap();
    while carry(now, &mut left, &mut right) + carry(now, &mut right, &mut left) > 0 {}
    assert!(matches!(left.poll_event(), Some(Event::Opened { .. })));
    assert!(matches!(right.poll_event(), Some(Event::Opened { .. })));
    let mut frame = vec![0; 64];
    let outgoing = left.seal_datagram(now, channel, b"across", &mut frame).unwrap();
    frame.truncate(outgoing.len);
    let received = right.handle_frame(now, path, Source::proven(0), &mut frame).unwrap();
    assert!(matches!(received, Received::Record { record: Record::Datagram(b"across"), .. }), "{received:?}");
    let (mut here, mut there) = ([0; 32], [0; 32]);
    left.export(channel, "test", b"", &mut here).unwrap();
    let channel = sealway_channel::ChannelId(0);
    right.export(channel, "test", b"", &mut there).unwrap();
    assert_eq!(here, there);
}

#[test]
fn both_providers_interoperate_in_either_role() {
    for algorithm in [Algorithm::Ed25519, Algorithm::P256] {
        talk(AwsLc::new(), RustCrypto::os(), algorithm);
        talk(RustCrypto::os(), AwsLc::new(), algorithm);
        talk(AwsLc::new(), AwsLc::new(), algorithm);
    }
}
