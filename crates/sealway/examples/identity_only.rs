//! Uses `sealway-identity` alone: makes an identity, prints its card, reads the card as somebody else would, and decides.
//!
//! Run it with `cargo run -p sealway --example identity_only`.

use std::error::Error;

use sealway_crypto_rustcrypto::RustCrypto;
use sealway_identity::{CardParts, Owner, Policy, UnverifiedCard};
use sealway_vault::{Algorithm, SoftwareVault, Vault};

fn main() -> Result<(), Box<dyn Error>> {
    let mut vault = SoftwareVault::new(RustCrypto::os());
    let (owner, recovery) = Owner::incept(&mut vault, Algorithm::Ed25519)?;
    let parts = CardParts { addresses: vec!["tcp://192.0.2.1:7001".into()], ..CardParts::default() };
    let text = owner.card(&vault, &parts)?.to_uri();
    println!("{text}");

    // What somebody else does with that text: decode, verify, and only then decide.
    let card = UnverifiedCard::from_uri(&text)?.verify(vault.provider())?;
    println!("a card of {}, found at {:?}", card.id(), card.addresses());
    println!("admitted by a policy that names it: {:?}", Policy::only(&card).decide(&card.id()));
    println!("admitted by a policy that names nobody: {:?}", Policy::nobody().decide(&card.id()));

    // The recovery key, and nothing else, moves the identity to new keys. The id stays.
    let (rotated, _next_recovery) = owner.rotate(&mut vault, &recovery)?;
    assert_eq!(rotated.id(), owner.id());
    println!("after a rotation still {}, now at event {}", rotated.id().short(), rotated.history().event_number());
    Ok(())
}
