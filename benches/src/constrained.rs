//! Two machines of the constrained profile, in memory.

use std::{sync::Arc, time::Duration};

use sealway_channel::{Pairing, PairingKeys, Role, Source};
use sealway_vault::{CryptoProvider, KeyStore, Secret, SoftwareVault, Vault};
use sealway_wire::{IdentityId, Timestamp, constrained::MAX_RECORD};

/// One end.
pub type Machine<P> = Pairing<Arc<SoftwareVault<P>>>;

/// Vaults and keys of two ends, without which nothing is measured.
pub struct Ends<P: CryptoProvider>([(Arc<SoftwareVault<P>>, PairingKeys); 2]);

impl<P: CryptoProvider> Ends<P> {
    /// New keys. `None`: there is no randomness.
    pub fn new(provider: &P) -> Option<Self> {
        let (mut device, mut service) = (SoftwareVault::new(provider.clone()), SoftwareVault::new(provider.clone()));
        let (device_key, service_key) = (device.generate_dh().ok()?, service.generate_dh().ok()?);
        let (device_public, service_public) =
            (device.dh_public(&device_key).ok()?, service.dh_public(&service_key).ok()?);
        let keys = |role, own, channel_key, peer, peer_key| PairingKeys {
            role,
            own: IdentityId([own; 32]),
            channel_key,
            earlier_key: None,
            peer: IdentityId([peer; 32]),
            peer_key,
            psk: Secret::new([1; 32]),
            recovery: Secret::new([2; 32]),
        };
        let device = (Arc::new(device), keys(Role::Initiator, 1, device_key, 2, service_public));
        let service = (Arc::new(service), keys(Role::Responder, 2, service_key, 1, device_public));
        Some(Self([device, service]))
    }

    /// The device and the service, of which nothing has been written yet.
    pub fn machines(&self) -> Option<[Machine<P>; 2]> {
        let [device, service] = self.0.each_ref().map(|(vault, keys)| Pairing::new(vault.clone(), keys.clone()));
        Some([device.ok()?, service.ok()?])
    }
}

/// Has the state written and takes what happened: what a shell does after each step, without a disk. Returns how long the
/// state is.
pub fn settle<P: CryptoProvider>(machine: &mut Machine<P>) -> usize {
    let state = machine.poll_state().ok().flatten();
    state.iter().for_each(|state| machine.written(state.version));
    while machine.poll_event().is_some() {}
    state.map_or(0, |state| state.octets.len())
}

/// What `from` has to say arrives.
fn tell<P: CryptoProvider>(now: Timestamp, from: &mut Machine<P>, to: &mut Machine<P>) {
    let mut frame = [0; MAX_RECORD];
    settle(from);
    while let Ok(Some(len)) = from.poll_transmit(&mut frame) {
        let _ = to.handle_frame(now, Source::proven(0), &mut frame[..len]);
        settle(to);
    }
}

/// A handshake, and START both ways; a minute later than what was before, for there are only so many in a minute.
///
/// # Panics
/// If it does not make a session.
pub fn shake<P: CryptoProvider>(now: &mut Timestamp, [device, service]: &mut [Machine<P>; 2]) {
    *now = now.after(Duration::from_secs(60));
    assert!(device.call(&[]).is_ok(), "the device is idle");
    for _ in 0..2 {
        tell(*now, device, service);
        tell(*now, service, device);
    }
    assert!(device.opened().is_some() && service.opened().is_some(), "both have a session");
}
