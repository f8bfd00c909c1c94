//! `sealway demo kills`: two machines and their relay, of which one is killed again and again, as `kill -9` does, at moments that
//! a seed chooses. What was taken by one side arrives at the other, once.

use std::{collections::BTreeSet, process::ExitCode};

use super::{
    STEP, Said,
    children::{Actor, Stage},
    files::{Folder, lines},
    free_address, make_identities,
    offline::ENDS,
    random::Random,
    start_relay,
};
use crate::{arguments::Kills, failure::Failure};

pub(crate) async fn run(options: &Kills) -> Result<ExitCode, Failure> {
    let (keep, folder) = super::folder(options.keep)?;
    let mut stage = Stage::new(folder.clone(), STEP);
    let outcome = play(&folder, &mut stage, options).await;
    keep.announce();
    outcome
}

/// What was handed in, and what of that the program has taken: it said so.
#[derive(Default)]
struct Messages {
    ordered: [Vec<String>; 2],
    taken: [BTreeSet<String>; 2],
}

impl Messages {
    fn note(&mut self, said: &Said) {
        let end = ENDS.iter().position(|(name, _)| *name == said.who);
        if let (Some(end), Some(text)) = (end, said.line.strip_prefix("sent ")) {
            self.taken[end].insert(text.into());
        }
    }
}

async fn play(folder: &Folder, stage: &mut Stage, options: &Kills) -> Result<ExitCode, Failure> {
    println!("sensor ◄──► relay ◄──► office: {} times one of them is killed, seed {}.\n", options.count, options.seed);
    let address = free_address()?;
    make_identities(folder, address, &ENDS.map(|(name, _)| name))?;
    let mut messages = Messages::default();
    let mut kills = [0; 3];
    let performed = perform(folder, stage, &address.to_string(), options, &mut messages, &mut kills).await;
    let is_whole = performed.is_ok() && kills.iter().sum::<u32>() == options.count;
    if let Err(failure) = performed {
        let _ = failure.report();
    }
    Ok(conclude(folder, &messages, kills, is_whole))
}

async fn perform(
    folder: &Folder,
    stage: &mut Stage,
    address: &str,
    options: &Kills,
    messages: &mut Messages,
    kills: &mut [u32; 3],
) -> Result<(), Failure> {
    let mut moments = Random::new(options.seed);
    let mut relay = Some(start_relay(stage, address, 1).await?.0);
    let mut ends = [None, None];
    for _ in 0..options.count {
        for end in [0, 1] {
            if ends[end].is_none() {
                ends[end] = Some(enter(stage, messages, end).await?);
            }
        }
        let mut ordered = 0;
        for (end, actor) in ends.iter_mut().enumerate() {
            for _ in 0..moments.below(5) {
                let text = format!("{} {}", ENDS[end].0, messages.ordered[end].len());
                if let Some(actor) = actor {
                    actor.order(&format!("send {text}")).await?;
                    messages.ordered[end].push(text);
                    ordered += 1;
                }
            }
        }
        // Each order is answered by one line at least, and each line is a moment.
        let mut left = moments.below(ordered + 1);
        if left > 0 {
            let note = |said: &Said| {
                messages.note(said);
                left -= 1;
                left == 0
            };
            stage.wait("what was ordered", note).await?;
        }
        let victim = moments.below(3);
        kills[victim] += 1;
        match victim {
            2 => {
                if let Some(relay) = relay.take() {
                    relay.kill().await?;
                }
                relay = Some(start_noting(stage, messages, address).await?);
            }
            end => {
                if let Some(actor) = ends[end].take() {
                    actor.kill().await?;
                }
            }
        }
    }
    for end in [0, 1] {
        if ends[end].is_none() {
            ends[end] = Some(enter(stage, messages, end).await?);
        }
    }
    // Everything that was taken arrives; what was not may have.
    let arrived = |messages: &Messages| {
        let got = |end: usize| -> BTreeSet<String> { texts(folder, end).into_iter().collect() };
        messages.taken[0].is_subset(&got(1)) && messages.taken[1].is_subset(&got(0))
    };
    if !arrived(messages) {
        let done = |said: &Said| {
            messages.note(said);
            said.line.starts_with("got ") && arrived(messages)
        };
        stage.wait("everything that was taken to arrive", done).await?;
    }
    for actor in ends.into_iter().flatten() {
        actor.end().await?;
    }
    match relay {
        Some(relay) => relay.kill().await,
        None => Ok(()),
    }
}

async fn start_noting(stage: &mut Stage, messages: &mut Messages, address: &str) -> Result<Actor, Failure> {
    let relay = stage.enter("relay", address, 1)?;
    let listens = |said: &Said| {
        messages.note(said);
        said.line.starts_with("listening on ")
    };
    stage.wait("the relay to listen", listens).await?;
    Ok(relay)
}

async fn enter(stage: &mut Stage, messages: &mut Messages, end: usize) -> Result<Actor, Failure> {
    let (name, local) = ENDS[end];
    let actor = stage.enter(name, local, 0)?;
    let is_ready = |said: &Said| {
        messages.note(said);
        said.who == name && said.line == "ready"
    };
    stage.wait(name, is_ready).await?;
    Ok(actor)
}

/// What an end has committed, in order.
fn texts(folder: &Folder, end: usize) -> Vec<String> {
    let got = lines(&folder.path(&format!("{}.got", ENDS[end].0)));
    got.iter().filter_map(|line| line.split_once(' ')).map(|(_, text)| text.into()).collect()
}

fn conclude(folder: &Folder, messages: &Messages, [sensor, office, relay]: [u32; 3], is_whole: bool) -> ExitCode {
    let [mut taken, mut delivered, mut lost, mut duplicated, mut forged] = [0; 5];
    for end in [0, 1] {
        let got = texts(folder, 1 - end);
        let once: BTreeSet<&String> = got.iter().collect();
        taken += messages.taken[end].len();
        delivered += messages.taken[end].iter().filter(|text| once.contains(text)).count();
        lost += messages.taken[end].iter().filter(|text| !once.contains(text)).count();
        duplicated += got.len() - once.len();
        let ordered: BTreeSet<&String> = messages.ordered[end].iter().collect();
        forged += once.difference(&ordered).count();
    }
    println!(
        "taken={taken} delivered={delivered} lost={lost} duplicated={duplicated} never_sent={forged} sensor_kills={sensor} office_kills={office} relay_kills={relay}"
    );
    if is_whole && taken > 0 && lost + duplicated + forged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
