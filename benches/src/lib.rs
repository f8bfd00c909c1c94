//! Two endpoints in memory, and [machines](machine) over real sockets, for benches.
#![forbid(unsafe_code)]

pub mod constrained;
pub mod floor;
pub mod machine;
pub mod message;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use sealway_channel::{ChannelId, Config, Endpoint, Event, PathId, Source};
use sealway_identity::{Card, CardParts, Owner, PayloadParts, Policy};
use sealway_vault::{Algorithm, CryptoProvider, SoftwareVault};
use sealway_wire::{Instance, Timestamp};

/// The vault of a machine.
pub type Machine<P> = Endpoint<Arc<SoftwareVault<P>>>;

const PATH: PathId = PathId(0);
static SOURCES: AtomicU64 = AtomicU64::new(0);

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

impl<P: CryptoProvider> Pair<P> {
    /// The same between `left`, the first machine of `of`, and `right`, the second of this pair.
    ///
    /// # Panics
    /// If it fails.
    pub fn shake_with(&self, left: &mut Machine<P>, of: &Self, right: &mut Machine<P>) {
        let [_, (_, _, right_card)] = &self.sides;
        let [(_, _, left_card), _] = &of.sides;
        right.admit(&Policy::only(left_card));
        let opened = left.open(NOW, right_card, &Policy::only(right_card), PayloadParts::default(), PATH);
        assert!(opened.is_ok(), "admitted");
        while carry(left, right) + carry(right, left) > 0 {}
        let opened = |event: Option<Event>| matches!(event, Some(Event::Opened { .. }));
        assert!(opened(left.poll_event()) && opened(right.poll_event()), "the handshake has failed");
    }

    /// S1.1 to the second machine, of a handshake of its own.
    ///
    /// # Panics
    /// If there is no randomness.
    #[must_use]
    pub fn first_message(&self) -> Vec<u8> {
        let (mut left, _) = self.endpoints();
        let [_, (_, _, right_card)] = &self.sides;
        let opened = left.open(NOW, right_card, &Policy::only(right_card), PayloadParts::default(), PATH);
        let mut frame = [0; 2048];
        let sent = opened.ok().and_then(|_| left.poll_transmit(NOW, &mut frame));
        assert!(sent.is_some(), "S1.1");
        frame[..sent.map_or(0, |sent| sent.len)].to_vec()
    }

    /// Hands a frame to an endpoint, and takes what it answers off it.
    ///
    /// # Panics
    /// If it is refused.
    pub fn receive(&self, endpoint: &mut Machine<P>, source: Source, frame: &mut [u8]) {
        assert!(endpoint.handle_frame(NOW, PATH, source, frame).is_ok());
        let mut answer = [0; 2048];
        while endpoint.poll_transmit(NOW, &mut answer).is_some() {}
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
    // Each handshake from an address of its own: there are more in a bench than one may begin.
    let source = Source::proven(SOURCES.fetch_add(1, Ordering::Relaxed));
    while let Some(outgoing) = from.poll_transmit(NOW, &mut frame) {
        carried += 1;
        let _ = to.handle_frame(NOW, PATH, source, &mut frame[..outgoing.len]);
    }
    carried
}
