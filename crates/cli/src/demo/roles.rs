//! The processes of a demonstration: relay, monitor, phone. They are told what to do on standard input, and say what has
//! happened on standard output.

use std::net::IpAddr;

use sealway::{Channel, Node, Policy, Progress, Receipt, RedbStore, RelayConfig, Tcp};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{
    files::{Folder, lines},
    reading::Reading,
    tamper::Tampering,
};
use crate::failure::Failure;

/// The relay: lets those attach whose cards are in the folder, and tampers with what they send each other.
pub(crate) async fn relay(folder: &Folder, address: &str, seed: u64) -> Result<(), Failure> {
    let policy = Policy::ids(folder.clients()?);
    let tampering = Tampering::new(folder.append("relay.seen")?, folder.append("relay.damage")?, seed);
    let node = Node::builder(folder.identity("relay")?)
        .transport(Tcp::default())
        .store(RedbStore::open(&folder.path("relay.data"))?)
        .accept(policy)
        .relay(RelayConfig::default().with_tap(tampering))
        .start()
        .await?;
    let interrupted = crate::talk::interrupted();
    println!("listening on {}", node.listen(&format!("tcp://{address}")).await?);
    interrupted.await
}

/// Says when a relay has a message on its disk.
async fn say_when_kept(mut receipt: Receipt, what: String) {
    while let Ok(progress) = receipt.changed().await {
        if progress == Progress::InCustody {
            println!("kept {what}");
        }
    }
}

/// Attaches to the relay from a local address and opens the channel to the other end.
async fn channel(folder: &Folder, name: &str, peer: &str, local: &str) -> Result<(Node, Channel), Failure> {
    let local: IpAddr = local.parse().map_err(Failure::given)?;
    let (relay, peer) = (folder.card("relay")?, folder.card(peer)?);
    let node = Node::builder(folder.identity(name)?)
        .transport(Tcp::default().from_local_address(local))
        .store(RedbStore::open(&folder.path(&format!("{name}.data")))?)
        .start()
        .await?;
    node.stay_attached(&relay).await?;
    let channel = node.open(&peer, Policy::only(&peer)).await?;
    Ok((node, channel))
}

/// The monitor: `send FROM TO` sends readings; settings of the phone are written down and said.
pub(crate) async fn monitor(folder: &Folder, local: &str) -> Result<(), Failure> {
    let (_node, mut channel) = channel(folder, "monitor", "phone", local).await?;
    let readings = Reading::recorded();
    let settings = folder.append("monitor.settings")?;
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    println!("ready");
    loop {
        tokio::select! {
            order = orders.next_line() => {
                let Some(order) = order.map_err(Failure::failed)? else { return Ok(()) };
                let bounds: Vec<usize> = order.split(' ').skip(1).filter_map(|word| word.parse().ok()).collect();
                let [from, to] = bounds[..] else { continue };
                for reading in readings.get(from..to).unwrap_or_default() {
                    let receipt = channel.send(reading.encode()).await?;
                    println!("sent {}", reading.sequence);
                    tokio::spawn(say_when_kept(receipt, reading.sequence.to_string()));
                }
            }
            message = channel.recv() => {
                let Some(message) = message? else { return Ok(()) };
                let text = String::from_utf8_lossy(message.body()).into_owned();
                let known = message.redelivered() && lines(&folder.path("monitor.settings")).last() == Some(&text);
                if !known {
                    settings.write(format!("{text}\n").as_bytes());
                }
                message.done().await?;
                println!("setting {text}");
            }
        }
    }
}

/// The phone: `set TEXT` sends a setting; readings are written to its file, and said.
pub(crate) async fn phone(folder: &Folder, local: &str) -> Result<(), Failure> {
    let (_node, mut channel) = channel(folder, "phone", "monitor", local).await?;
    let file = folder.append("phone.csv")?;
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    println!("ready");
    loop {
        tokio::select! {
            order = orders.next_line() => {
                let Some(order) = order.map_err(Failure::failed)? else { return Ok(()) };
                let text = order.trim_start_matches("set ").to_string();
                let receipt = channel.send(text.clone()).await?;
                println!("set {text}");
                tokio::spawn(say_when_kept(receipt, text));
            }
            message = channel.recv() => {
                let Some(message) = message? else { return Ok(()) };
                // What is no reading is written down all the same: the count of forgeries shall see it.
                let line = Reading::decode(message.body()).map_or_else(|| "not a reading".into(), |reading| reading.line());
                // The process may have ended between this line and `done`.
                let known = message.redelivered() && lines(&folder.path("phone.csv")).last() == Some(&line);
                if !known {
                    file.write(format!("{line}\n").as_bytes());
                }
                message.done().await?;
                println!("reading {line}");
            }
        }
    }
}

/// One of two that never meet: `send TEXT` sends; what the other sends is written down and said; `flush` waits until the other
/// has read everything. It ends when it is told nothing more.
pub(crate) async fn writer(folder: &Folder, (name, peer): (&str, &str), local: &str) -> Result<(), Failure> {
    let (node, mut channel) = channel(folder, name, peer, local).await?;
    let path = folder.path(&format!("{name}.got"));
    let file = folder.append(&format!("{name}.got"))?;
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    // Not before the relay has a prekey of ours to give away.
    node.attach(&folder.card("relay")?).await?;
    println!("ready");
    loop {
        tokio::select! {
            order = orders.next_line() => {
                let Some(order) = order.map_err(Failure::failed)? else { break };
                match order.strip_prefix("send ") {
                    Some(text) => {
                        let receipt = channel.send(text).await?;
                        println!("sent {text}");
                        tokio::spawn(say_when_kept(receipt, text.into()));
                    }
                    None => {
                        let flushed = channel.flushed();
                        tokio::spawn(async move {
                            if flushed.await.is_ok() {
                                println!("flushed");
                            }
                        });
                    }
                }
            }
            message = channel.recv() => {
                let Some(message) = message? else { break };
                let text = String::from_utf8_lossy(message.body()).into_owned();
                let line = format!("{} {text}", if message.is_early() { "letter" } else { "record" });
                // The process may have ended between this line and `done`; the first time it may have been a letter.
                let has_text = |line: &String| line.split_once(' ').is_some_and(|(_, known)| known == text);
                if !(message.redelivered() && lines(&path).iter().any(has_text)) {
                    file.write(format!("{line}\n").as_bytes());
                }
                message.done().await?;
                println!("got {text}");
            }
        }
    }
    node.shutdown().await;
    Ok(())
}
