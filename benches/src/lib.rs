//! Two endpoints in memory, for benches.
#![forbid(unsafe_code)]

use std::sync::Arc;

use sealway_channel::{ChannelId, Config, Endpoint, Event, PathId, Source};
use sealway_identity::{Card, CardParts, Owner, PayloadParts, Policy};
use sealway_vault::{Algorithm, CryptoProvider, SoftwareVault};
use sealway_wire::{Instance, Timestamp};

/// The vault of a machine.
pub type Machine<P> = Endpoint<Arc<SoftwareVault<P>>>;

const PATH: PathId = PathId(0);
const NOW: Timestamp = Timestamp::from_micros(1);

/// What two machines are made of: keys are made once, endpoints for every handshake.
#[derive(Debug)]
pub struct Pair<P: CryptoProvider> {
    sides: [(Arc<SoftwareVault<P>>, Owner, Card); 2],
}

impl<P: CryptoProvider> Pair<P> {
    /// Two machines with identities of their own.
    ///
    /// # Panics
    /// If there is no randomness.
    #[must_use]
    pub fn new(provider: &P) -> Self {
        Self { sides: [side(provider), side(provider)] }
    }

    /// Two endpoints that know nothing of each other yet.
    #[must_use]
    pub fn endpoints(&self) -> (Machine<P>, Machine<P>) {
        let [left, right] = &self.sides;
        let endpoint = |(vault, owner, _): &(Arc<SoftwareVault<P>>, Owner, Card)| {
            Endpoint::new(vault.clone(), owner.clone(), Config::new(Instance([1; 4])))
        };
        (endpoint(left), endpoint(right))
    }

    /// Carries one whole handshake out, START and its acknowledgement included, and returns the initiator's channel.
    ///
    /// # Panics
    /// If it fails.
    pub fn shake(&self, left: &mut Machine<P>, right: &mut Machine<P>) -> ChannelId {
        let [(_, _, left_card), (_, _, right_card)] = &self.sides;
        right.admit(&Policy::only(left_card));
        let opened = left.open(NOW, right_card, &Policy::only(right_card), PayloadParts::default(), PATH);
        let Ok(channel) = opened else { return ChannelId(u64::MAX) };
        while carry(left, right) + carry(right, left) > 0 {}
        let opened = |event: Option<Event>| matches!(event, Some(Event::Opened { .. }));
        assert!(opened(left.poll_event()) && opened(right.poll_event()), "the handshake has failed");
        channel
    }
}

fn side<P: CryptoProvider>(provider: &P) -> (Arc<SoftwareVault<P>>, Owner, Card) {
    let mut vault = SoftwareVault::new(provider.clone());
    let made = Owner::incept(&mut vault, Algorithm::Ed25519).and_then(|(owner, _)| {
        let card = owner.card(&vault, &CardParts::default())?;
        Ok((owner, card))
    });
    match made {
        Ok((owner, card)) => (Arc::new(vault), owner, card),
        Err(error) => unreachable!("no identity: {error}"),
    }
}

/// Carries all frames of one endpoint to the other. Returns how many there were.
fn carry<P: CryptoProvider>(from: &mut Machine<P>, to: &mut Machine<P>) -> usize {
    let (mut frame, mut carried) = ([0; 2048], 0);
    while let Some(outgoing) = from.poll_transmit(NOW, &mut frame) {
        carried += 1;
        let _ = to.handle_frame(NOW, PATH, Source::proven(0), &mut frame[..outgoing.len]);
    }
    carried
}
