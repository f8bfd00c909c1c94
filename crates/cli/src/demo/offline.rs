//! `sealway demo offline`: two machines that are never there at the same time, from their very first words on.
//!
//! Each has been attached to the relay once, alone, so that the relay has a prekey of it. The first of what is between them goes
//! in letters, sealed to those prekeys, and so does a handshake; what follows goes under the session that comes of that. In the
//! end the messages are counted from files alone, as in the heart-rate demonstration.

use std::process::ExitCode;

use super::{
    STEP, Said,
    children::{Actor, Stage},
    compare,
    files::{Folder, lines},
    free_address, make_identities, scan, start_relay,
};
use crate::{arguments::Offline, failure::Failure};

/// The two, and from where each connects.
pub(super) const ENDS: [(&str, &str); 2] = [("sensor", "127.0.0.2"), ("office", "127.0.0.3")];
/// How often each is there after the first words, and what it sends each time.
const ROUNDS: usize = 10;
const EACH: usize = 10;

/// What was sent, by sender.
type Sent = [Vec<String>; 2];

pub(crate) async fn run(options: &Offline) -> Result<ExitCode, Failure> {
    let (keep, folder) = super::folder(options.keep)?;
    let mut stage = Stage::new(folder.clone(), STEP);
    let outcome = play(&folder, &mut stage).await;
    keep.announce();
    outcome
}

async fn play(folder: &Folder, stage: &mut Stage) -> Result<ExitCode, Failure> {
    println!("sensor ──► relay ──► office, and back: they have each other's card, and never meet.\n");
    let address = free_address()?;
    make_identities(folder, address, &ENDS.map(|(name, _)| name))?;
    let mut sent = Sent::default();
    let mut kills = 0;
    if let Err(failure) = perform(folder, stage, &address.to_string(), &mut sent, &mut kills).await {
        let _ = failure.report();
    }
    conclude(folder, &sent, kills)
}

async fn perform(
    folder: &Folder,
    stage: &mut Stage,
    address: &str,
    sent: &mut Sent,
    kills: &mut u32,
) -> Result<(), Failure> {
    let (mut relay, _) = start_relay(stage, address, 1).await?;
    println!("1. Each has been at the relay once, alone.");
    for end in [0, 1] {
        let actor = enter(stage, end).await?;
        actor.end().await?;
    }
    println!("2. The sensor writes to the office, which it has never met, and ends.");
    turn(folder, stage, 0, 1, sent, false).await?;
    println!("3. The office starts, reads, answers, and ends.");
    turn(folder, stage, 1, 1, sent, false).await?;
    println!("4. The sensor starts, and reads the answer.");
    turn(folder, stage, 0, 0, sent, false).await?;
    println!(
        "5. {} messages each way, both mostly absent; they are killed as well as ended, and so is the relay.",
        ROUNDS * EACH
    );
    for round in 0..ROUNDS {
        for end in [0, 1] {
            // Who is killed does not say what it has read; in the last rounds everything is made up for.
            turn(folder, stage, end, EACH, sent, round % 2 == 1 && round + 2 < ROUNDS).await?;
        }
        if round % 3 == 1 {
            relay.kill().await?;
            (relay, _) = start_relay(stage, address, 1).await?;
            *kills += 1;
        }
    }
    turn(folder, stage, 0, 0, sent, false).await?;
    println!("6. Each has heard that all of it was read.");
    for end in [0, 1] {
        let mut actor = enter(stage, end).await?;
        actor.order("flush").await?;
        stage.wait("everything to be read", |said| said.who == ENDS[end].0 && said.line == "flushed").await?;
        actor.end().await?;
    }
    relay.kill().await
}

async fn enter(stage: &mut Stage, end: usize) -> Result<Actor, Failure> {
    let (name, local) = ENDS[end];
    let actor = stage.enter(name, local, 0)?;
    stage.wait(name, |said| said.who == name && said.line == "ready").await?;
    Ok(actor)
}

/// One of the two is there: it sends `count` messages, reads all that the other has sent, and ends, or is killed.
async fn turn(
    folder: &Folder,
    stage: &mut Stage,
    end: usize,
    count: usize,
    sent: &mut Sent,
    is_killed: bool,
) -> Result<(), Failure> {
    let (name, _) = ENDS[end];
    let mut actor = enter(stage, end).await?;
    let mut waiting = Vec::new();
    for _ in 0..count {
        let text = format!("{name} {}: the water stands at {} cm", sent[end].len(), 200 + sent[end].len() * 7 % 90);
        actor.order(&format!("send {text}")).await?;
        waiting.push(format!("kept {text}"));
        sent[end].push(text);
    }
    let file = folder.path(&format!("{name}.got"));
    let wanted = sent[1 - end].len();
    let has_all = |file: &std::path::Path| lines(file).len() >= wanted;
    if !waiting.is_empty() || !has_all(&file) {
        let done = |said: &Said| {
            if said.who == name {
                waiting.retain(|line| *line != said.line);
            }
            waiting.is_empty() && has_all(&file)
        };
        stage.wait(&format!("the {name} to send and to read"), done).await?;
    }
    if is_killed { actor.kill().await } else { actor.end().await }
}

fn conclude(folder: &Folder, sent: &Sent, relay_kills: u32) -> Result<ExitCode, Failure> {
    let [mut delivered, mut duplicated, mut forged, mut letters] = [0; 4];
    let (mut in_order, mut came_to_a_session) = (true, true);
    for (end, (name, _)) in ENDS.iter().enumerate() {
        let got = lines(&folder.path(&format!("{name}.got")));
        letters += got.iter().filter(|line| line.starts_with("letter ")).count();
        let ways = [got.first(), got.last()].map(|line| line.and_then(|line| line.split(' ').next()));
        came_to_a_session &= ways == [Some("letter"), Some("record")];
        let texts: Vec<String> =
            got.iter().filter_map(|line| line.split_once(' ')).map(|(_, text)| text.into()).collect();
        let expected: Vec<&str> = sent[1 - end].iter().map(String::as_str).collect();
        let (found, again, unknown) = compare(&texts, &expected);
        (delivered, duplicated, forged) = (delivered + found, duplicated + again, forged + unknown);
        in_order &= texts.iter().map(String::as_str).eq(expected);
    }
    let bodies: Vec<Vec<u8>> = sent.iter().flatten().map(|text| text.clone().into_bytes()).collect();
    let plaintext = scan::count(&bodies, &["relay.seen", "relay.log", "relay.data"].map(|name| folder.path(name)))?;
    let count = sent.iter().map(Vec::len).sum::<usize>();
    println!("\nEach has read what the other has sent, in its order: {}.", if in_order { "yes" } else { "NO" });
    println!(
        "They began with letters, and came to a session without ever meeting: {}.",
        if came_to_a_session { "yes" } else { "NO" }
    );
    println!(
        "sent={count} delivered={delivered} lost={} duplicated={duplicated} forged_accepted={forged} in_letters={letters} plaintext_seen_by_relay={plaintext} relay_kills={relay_kills}",
        count - delivered
    );
    let all = count == 2 + 2 * ROUNDS * EACH && delivered == count && came_to_a_session && relay_kills > 0;
    Ok(if all && in_order && duplicated + forged + plaintext == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
