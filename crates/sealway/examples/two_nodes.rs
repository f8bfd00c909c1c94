//! A listener and a caller in one process: identities, cards, a durable message, its receipt.
//!
//! Run it with `cargo run -p sealway --example two_nodes`.

use std::error::Error;

use sealway::{Identity, Node, Policy, RedbStore, Secret, Tcp, Unlock, UnverifiedCard};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    // A key file's octets; a program for people would ask for a passphrase.
    let unlock = || Unlock::KeyFile(Secret::new([7; 32]));
    let address = "tcp://127.0.0.1:47110";
    let (listener, _recovery) = Identity::create(&path("listener"), unlock(), vec![address.into()], vec![])?;
    let (caller, _recovery) = Identity::create(&path("caller"), unlock(), vec![], vec![])?;

    // The caller has the listener's card, as text; the listener knows whom it lets in.
    let card = caller.verify(&UnverifiedCard::from_uri(&listener.card().to_uri())?)?;
    let policy = Policy::ids([caller.id()]);
    let store = RedbStore::open(&path("listener.data"))?;
    let listener = Node::builder(listener).transport(Tcp::default()).store(store).accept(policy).start().await?;
    listener.listen(address).await?;
    let store = RedbStore::open(&path("caller.data"))?;
    let caller = Node::builder(caller).transport(Tcp::default()).store(store).start().await?;

    let channel = caller.open(&card, Policy::only(&card)).await?;
    let receipt = channel.send(*b"hello").await?;
    let mut accepted = listener.accept().await.ok_or("the listener has ended")?;
    if let Some(message) = accepted.recv().await? {
        println!("{} says {:?}", message.peer().short(), String::from_utf8_lossy(message.body()));
        message.done().await?;
    }
    receipt.delivered().await?;
    println!("the caller knows that it was committed");
    caller.shutdown().await;
    listener.shutdown().await;
    Ok(())
}
