//! What the allocator gives out for a channel that is open and idle, for a half-open handshake at its responder, and at a
//! relay for a client that is attached and idle, beside the budgets. Counted, not timed: the same in every run.

use std::{
    alloc::System,
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
    str::FromStr,
};

use sealway_benches::{
    Pair,
    constrained::{self, Ends, settle, shake},
    machine::{Failure, Machine},
};
use sealway_channel::Source;
use sealway_crypto_aws_lc::AwsLc;
use sealway_crypto_rustcrypto::RustCrypto;
use sealway_identity::{Policy, UnverifiedCard};
use sealway_node::RelayConfig;
use sealway_vault::CryptoProvider;
use sealway_wire::{IdentityId, Timestamp};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn held(region: &Region<'_, System>) -> isize {
    let change = region.change();
    change.bytes_allocated.cast_signed() - change.bytes_deallocated.cast_signed()
}

/// The same of the constrained profile: a device that calls while it has a session.
fn measure_constrained<P: CryptoProvider>(name: &str, provider: &P) -> Option<()> {
    let ends = Ends::new(provider)?;
    let mut pair = ends.machines()?;
    shake(&mut Timestamp::from_micros(0), &mut pair);
    let [mut device, _service] = pair;
    device.call(&[]).ok()?;
    let stored = settle(&mut device);
    let region = Region::new(ALLOCATOR);
    drop(device);
    let live = size_of::<constrained::Machine<P>>().cast_signed() - held(&region);
    println!(
        "memory/{name}: a constrained device that calls beside a session {live} octets live, {stored} stored (budgets 1024, 256)"
    );
    Some(())
}

fn measure<P: CryptoProvider>(name: &str, provider: &P) {
    const COUNT: isize = 200;
    // Each of many peers has a channel to one endpoint.
    let pairs: Vec<Pair<P>> = (0..COUNT).map(|_| Pair::new(provider)).collect();
    let (_, mut right) = pairs[0].endpoints();
    let mut lefts: Vec<_> = pairs.iter().map(|pair| pair.endpoints().0).collect();
    let hub = &pairs[0];
    let region = Region::new(ALLOCATOR);
    let mut of_lefts = 0;
    for (left, pair) in lefts.iter_mut().zip(&pairs) {
        let before = held(&region);
        hub.shake_with(left, pair, &mut right);
        of_lefts += held(&region) - before;
    }
    // Both sides of each channel are in it.
    println!(
        "memory/{name}: an open channel {} octets a side (budget 1024 of state; a node's 4096)",
        of_lefts / COUNT / 2
    );
    let (_, mut right) = hub.endpoints();
    let messages: Vec<_> = (0..COUNT).map(|_| hub.first_message()).collect();
    let region = Region::new(ALLOCATOR);
    for (source, message) in messages.iter().enumerate() {
        let mut frame = message.clone();
        hub.receive(&mut right, Source::proven(source as u64), &mut frame);
    }
    println!("memory/{name}: a half-open handshake {} octets (budget 4096)", held(&region) / COUNT);
}

/// A relay in a process of its own, and what it holds for each of many clients that are attached and idle.
const CLIENTS: usize = 200;

/// The relay's process: takes the ids of those who may attach, tells its card, and at each further line what it holds.
fn relay() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut input = BufReader::new(std::io::stdin());
    let ids = input.by_ref().lines().take(CLIENTS).map(|line| Ok(IdentityId::from_str(&line?)?));
    let ids = ids.collect::<Result<Vec<_>, Failure>>()?;
    runtime.block_on(async {
        let machine = Machine::new()?;
        let node = machine.builder().accept(Policy::ids(ids)).relay(RelayConfig::default()).start().await?;
        let address = node.listen("tcp://127.0.0.1:0").await?;
        println!("{}", machine.card(Some(address), None)?.to_uri());
        let region = Region::new(ALLOCATOR);
        // The runtime goes on while somebody else waits for the next line.
        let (asks, mut asked) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || input.lines().map_while(Result::ok).try_for_each(|line| asks.send(line)));
        while asked.recv().await.is_some() {
            println!("{} {}", node.statistics().await?.attached_clients, held(&region));
        }
        Ok(())
    })
}

fn attached() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let machines = (0..CLIENTS).map(|_| Machine::new()).collect::<Result<Vec<_>, _>>()?;
    let mut process = Command::new(std::env::current_exe()?);
    let mut process = process.arg("relay").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut asks = process.stdin.take().ok_or("no input")?;
    let mut answers = BufReader::new(process.stdout.take().ok_or("no output")?).lines();
    for machine in &machines {
        writeln!(asks, "{}", machine.owner.id())?;
    }
    let card = UnverifiedCard::from_uri(&answers.next().ok_or("no card")??)?.verify(&AwsLc::new())?;
    let held = runtime.block_on(async {
        let mut nodes = Vec::new();
        for machine in &machines {
            let node = machine.builder().start().await?;
            node.attach(&card).await?;
            nodes.push(node);
        }
        writeln!(asks, "how much?")?;
        let answer = answers.next().ok_or("no answer")??;
        let (clients, held) = answer.split_once(' ').ok_or("another answer")?;
        assert_eq!(clients.parse(), Ok(CLIENTS), "all of them are attached");
        Ok::<_, Failure>(held.parse::<usize>()?)
    })?;
    drop(asks);
    process.wait()?;
    println!("memory: an attached idle client of a relay {} octets (budget 16384)", held / CLIENTS);
    Ok(())
}

fn main() -> Result<(), Failure> {
    if std::env::args().nth(1).is_some_and(|argument| argument == "relay") {
        return relay();
    }
    attached()?;
    measure("aws-lc", &AwsLc::new());
    measure("rustcrypto", &RustCrypto::os());
    measure_constrained("aws-lc", &AwsLc::new()).ok_or("no randomness")?;
    measure_constrained("rustcrypto", &RustCrypto::os()).ok_or("no randomness")?;
    Ok(())
}
