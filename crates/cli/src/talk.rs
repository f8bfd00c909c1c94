//! `listen` and `open`: lines in, lines out.

use std::{future::Future, io::Write, path::Path, time::Duration};

use sealway::{Builder, Channel, Identity, Keys, Node, NodeError, Policy, Progress, Receipt, RedbStore};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Split, Stdin},
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    arguments::{Listen, Open, Vault, Ways, Web},
    failure::Failure,
    identity::{self, Named},
    media::Media,
};

/// The data file of a vault.
pub(crate) fn store(vault: &Vault, data: Option<&Path>) -> Result<RedbStore, Failure> {
    let default = identity::beside(&vault.vault, ".data");
    let path = data.unwrap_or(&default);
    RedbStore::open(path).map_err(|error| Failure::from(error).about(path))
}

pub(crate) async fn listen(options: &Listen) -> Result<(), Failure> {
    let identity = identity::open(&options.vault)?;
    let from = options.from.iter().map(|text| Named::parse(text)).collect::<Result<Vec<_>, _>>()?;
    if from.is_empty() {
        eprintln!("nobody may talk to us: name peers with --from ID|CARD");
    }
    if options.stream && from.len() != 1 {
        return Err(Failure::given("--stream is for one peer: give one --from ID|CARD"));
    }
    let relays = identity.relays().to_vec();
    if relays.is_empty() && options.listen.is_empty() {
        return Err(Failure::given("the identity has no relay: give --listen ADDRESS, or make it with --relay CARD"));
    }
    let media = Media::new(&options.web, options.record.as_deref())?.by(options.ways);
    let node = by(options.ways, builder(identity, &media))
        .store(store(&options.vault, options.data.as_deref())?)
        .accept(identity::policy(&from))
        .start()
        .await?;
    let interrupted = interrupted();
    tokio::pin!(interrupted);
    for address in &options.listen {
        identity::check_address(address)?;
        eprintln!("listening on {}", node.listen(address).await?);
    }
    reach(&node, options.via.as_deref(), relays.first().map(sealway::Card::id)).await?;
    attach(&node, &relays).await?;
    let mut channels = JoinSet::new();
    let (stop, stopped) = watch::channel(false);
    if options.stream {
        let outcome = tokio::select! {
            channel = one_of(&node, &from) => pipe(channel?).await,
            ended = &mut interrupted => ended,
        };
        node.shutdown().await;
        return outcome;
    }
    for named in &from {
        let Named::Card(card) = named else { continue };
        if let Some(channel) = opened(&node, card).await? {
            drop(channels.spawn(print(channel, stopped.clone())));
        }
    }
    let outcome = loop {
        tokio::select! {
            accepted = node.accept() => match accepted {
                Some(channel) => drop(channels.spawn(print(channel, stopped.clone()))),
                None => break Ok(()),
            },
            Some(ended) = channels.join_next() => {
                if let Ok(Err(failure)) = ended {
                    break Err(failure);
                }
            }
            ended = &mut interrupted => break ended,
        }
    };
    // What was printed is committed before the end, or it would be printed again.
    let _ = stop.send(true);
    while channels.join_next().await.is_some() {}
    node.shutdown().await;
    outcome
}

pub(crate) async fn open(options: &Open) -> Result<(), Failure> {
    let identity = identity::open(&options.vault)?;
    let card = identity::card(&options.peer)?;
    let relays = identity.relays().to_vec();
    let media = Media::new(&Web { authority: options.authority.clone(), ..Web::default() }, options.record.as_deref())?;
    let media = media.by(options.ways);
    let store = store(&options.vault, options.data.as_deref())?;
    let node = by(options.ways, builder(identity, &media)).store(store).start().await?;
    reach(&node, options.via.as_deref(), relays.first().or(Some(&card)).map(sealway::Card::id)).await?;
    attach(&node, &relays).await?;
    let mut channel = node.open(&card, Policy::only(&card)).await?;
    let outcome = if options.stream { pipe(channel).await } else { talk(&mut channel).await };
    node.shutdown().await;
    outcome
}

/// Opens the channel to the identity on `card` for somebody who accepts, too. `None`: only the peer can open it,
/// or it is open.
async fn opened(node: &Node, card: &sealway::Card) -> Result<Option<Channel>, Failure> {
    match node.open(card, Policy::only(card)).await {
        Ok(channel) => Ok(Some(channel)),
        Err(NodeError::NoRoute | NodeError::InUse) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The channel to the one peer: ours if we have its card, or the one that it opens.
async fn one_of(node: &Node, from: &[Named]) -> Result<Channel, Failure> {
    if let [Named::Card(card)] = from
        && let Some(channel) = opened(node, card).await?
    {
        return Ok(channel);
    }
    node.accept().await.ok_or_else(|| NodeError::Closed.into())
}

/// Joins standard input and output with a stream, until both directions have ended, or Ctrl-C.
async fn pipe(channel: Channel) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("the stream: {error}"));
    let (mut from, mut to) = tokio::io::split(channel.into_stream());
    let sends = async {
        tokio::io::copy(&mut tokio::io::stdin(), &mut to).await?;
        to.shutdown().await
    };
    let receives = async {
        let mut out = tokio::io::stdout();
        tokio::io::copy(&mut from, &mut out).await?;
        out.flush().await
    };
    let outcome = tokio::select! {
        joined = async { tokio::try_join!(sends, receives) } => joined.map(drop).map_err(failed),
        ended = interrupted() => ended.and(Err(Failure::failed("the stream was broken off"))),
    };
    let stream = from.unsplit(to);
    if outcome.is_ok() {
        stream.finish().await.map_err(failed)?;
    } else {
        // The peer is told before the node ends.
        stream.abort().await;
    }
    outcome
}

/// Sets a node up that speaks over every medium of the program.
pub(crate) fn builder(identity: Identity, media: &Media) -> Builder<<Identity as Keys>::Vault> {
    media.transports().into_iter().fold(Node::builder(identity), Builder::transport)
}

/// Has a node reach its peers as the options say.
fn by(ways: Ways, builder: Builder<<Identity as Keys>::Vault>) -> Builder<<Identity as Keys>::Vault> {
    if ways.relayed { builder.relayed_only() } else { builder }
}

/// Takes note of where somebody is reached from this machine.
pub(crate) async fn reach(node: &Node, via: Option<&str>, whom: Option<sealway::IdentityId>) -> Result<(), Failure> {
    let Some(via) = via else { return Ok(()) };
    identity::check_address(via)?;
    let whom = whom.ok_or_else(|| Failure::given("--via says where the relay of our card is, and that names none"))?;
    Ok(node.reach(whom, via).await?)
}

/// Connects to all relays. None of them is waited for: what is sent meanwhile waits in the outbox.
async fn attach(node: &Node, relays: &[sealway::Card]) -> Result<(), Failure> {
    for relay in relays {
        node.stay_attached(relay).await?;
    }
    Ok(())
}

/// Sends lines and prints messages, until the input has ended and everything sent is committed, or Ctrl-C.
async fn talk(channel: &mut Channel) -> Result<(), Failure> {
    let mut lines = BufReader::new(tokio::io::stdin()).split(b'\n');
    let mut number = 0_u64;
    let (sent, receipts) = mpsc::channel(OUTSTANDING);
    let mut sent = Some(sent);
    let settled = tokio::spawn(settle(receipts, channel.flushed()));
    let interrupted = interrupted();
    tokio::pin!(settled, interrupted);
    loop {
        tokio::select! {
            // The queue of receipts bounds what is sent and not committed: reading waits when it is full.
            line = next_line(&mut lines, sent.clone()), if sent.is_some() => match line? {
                Some((line, place)) => {
                    number += 1;
                    match channel.send(line).await {
                        Ok(receipt) => drop(place.send(receipt)),
                        Err(error @ NodeError::TooLong { .. }) => eprintln!("line {number} was not sent: {error}"),
                        Err(error) => return Err(error.into()),
                    }
                }
                None => sent = None,
            },
            message = channel.recv() => match message? {
                Some(message) => print_line(message).await?,
                None => return Ok(()),
            },
            ended = &mut settled => return ended.unwrap_or_else(|error| Err(Failure::failed(error))),
            ended = &mut interrupted => return ended,
        }
    }
}

/// Messages that are sent and not committed, at most, before the next line is read.
const OUTSTANDING: usize = 4096;

/// The next line, once there is a place for its receipt. `None`: the input has ended.
async fn next_line(
    lines: &mut Split<BufReader<Stdin>>,
    sent: Option<mpsc::Sender<Receipt>>,
) -> Result<Option<(Vec<u8>, mpsc::OwnedPermit<Receipt>)>, Failure> {
    let Some(sent) = sent else { return std::future::pending().await };
    // If the other end is gone, its outcome says why.
    let Ok(place) = sent.reserve_owned().await else { return std::future::pending().await };
    let line = lines.next_segment().await.map_err(|error| Failure::failed(format!("standard input: {error}")))?;
    Ok(line.map(|line| (line, place)))
}

/// What lasts no longer than this needs no word.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waits until everything that was sent is committed, and what an earlier run has left.
async fn settle(
    mut receipts: mpsc::Receiver<Receipt>,
    flushed: impl Future<Output = Result<(), NodeError>>,
) -> Result<(), Failure> {
    let mut said = None;
    while let Some(mut receipt) = receipts.recv().await {
        // Once for each time that it is so, not for each line.
        while !matches!(receipt.progress(), Progress::Delivered | Progress::Dropped) {
            let progress = receipt.progress();
            let soon = receipt.changed();
            if said == Some(progress) {
                soon.await?;
                continue;
            }
            match tokio::time::timeout(PATIENCE, soon).await {
                Ok(changed) => drop(changed?),
                Err(_) => {
                    explain(progress);
                    said = Some(progress);
                }
            }
        }
        receipt.delivered().await?;
    }
    Ok(flushed.await?)
}

/// Says why a line does not arrive yet.
fn explain(progress: Progress) {
    match progress {
        Progress::InCustody => {
            eprintln!("the relay keeps the lines until the peer attaches; this program may end, with Ctrl-C");
        }
        Progress::NeverMet => {
            eprintln!(
                "the peer has never been at its relay, or does not let us write to it: the lines wait here until it does"
            );
        }
        _ => {}
    }
}

async fn print(mut channel: Channel, mut stopped: watch::Receiver<bool>) -> Result<(), Failure> {
    loop {
        tokio::select! {
            message = channel.recv() => match message? {
                Some(message) => print_line(message).await?,
                None => return Ok(()),
            },
            _ = stopped.changed() => return Ok(()),
        }
    }
}

/// Prints, and only then commits: what could not be printed is handed over again.
async fn print_line(message: sealway::Message) -> Result<(), Failure> {
    let failed = |error| Failure::failed(format!("standard output: {error}; the message stays for the next start"));
    write_line(message.body()).map_err(failed)?;
    Ok(message.done().await?)
}

/// A line a message: control characters, with which a peer could draw on the terminal, are written as escapes.
fn write_line(body: &[u8]) -> std::io::Result<()> {
    let text = String::from_utf8_lossy(body);
    let escaped =
        |character: char| if character == '\t' { "\t".into() } else { character.escape_default().to_string() };
    let line: String =
        text.chars().map(|c| if c.is_control() { escaped(c) } else { c.to_string() }).chain(["\n".into()]).collect();
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

/// Waits for Ctrl-C, or the signal by which service managers end a process. From this call on, not from when it is awaited:
/// who is told that we listen may end us at once.
pub(crate) fn interrupted() -> impl Future<Output = Result<(), Failure>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
        async move {
            let (mut interrupt, mut terminate) =
                (signals.0.map_err(Failure::failed)?, signals.1.map_err(Failure::failed)?);
            tokio::select! {
                _ = interrupt.recv() => Ok(()),
                _ = terminate.recv() => Ok(()),
            }
        }
    }
    #[cfg(not(unix))]
    async {
        tokio::signal::ctrl_c().await.map_err(Failure::failed)
    }
}

/// SIGHUP, by which service managers have a configuration read again. Elsewhere than on Unix it never comes.
pub(crate) struct Hangups {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

pub(crate) fn hangups() -> Result<Hangups, Failure> {
    Ok(Hangups {
        #[cfg(unix)]
        signal: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).map_err(Failure::failed)?,
    })
}

impl Hangups {
    /// The next one.
    pub(crate) async fn next(&mut self) {
        #[cfg(unix)]
        if self.signal.recv().await.is_some() {
            return;
        }
        std::future::pending().await
    }
}
