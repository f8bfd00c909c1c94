//! `ping` and `trace`: how far the way to a peer is open, and how long it takes.

use std::time::{Duration, Instant};

use sealway::{Card, Hop, HopState, IdentityId, Node, Policy};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    arguments::{Look, Ping, Trace, Web, Whom},
    failure::Failure,
    identity,
    media::Media,
    report, talk,
};

/// A node of the identity, for as long as it takes to look around. What waits at relays is left there.
pub(crate) struct Scout {
    pub(crate) node: Node,
    pub(crate) relays: Vec<Card>,
}

impl Scout {
    pub(crate) async fn start(look: &Look, peer: Option<&Card>) -> Result<Self, Failure> {
        let vault = &look.vault;
        let identity = identity::open(vault)?;
        let data = identity::beside(&vault.vault, ".data");
        let relays = identity.relays().to_vec();
        let media = Media::new(&Web { authority: look.authority.clone(), ..Web::default() }, None)?;
        let mut builder = talk::builder(identity, &media).observer();
        // The session with the peer is kept for whoever goes on with it. And nobody else is to use the identity meanwhile: a relay
        // serves the last one that comes.
        if data.exists() {
            builder = builder.store(talk::store(vault, None)?);
        }
        let node = builder.start().await?;
        talk::reach(&node, look.via.as_deref(), relays.first().or(peer).map(Card::id)).await?;
        Ok(Self { node, relays })
    }

    /// The relay of ours through which the peer is reached: the first on its card.
    fn on_the_way(&self, peer: &Card) -> Option<&Card> {
        let ours = |id| self.relays.iter().find(|relay| relay.id() == id);
        peer.relays().iter().find_map(|entry| ours(entry.id))
    }

    /// Begins to make the way, and keeps it open.
    async fn set_out(&self, peer: &Card) -> Result<sealway::Channel, Failure> {
        if let Some(relay) = self.on_the_way(peer) {
            self.node.stay_attached(relay).await?;
        }
        Ok(self.node.open(peer, Policy::only(peer)).await?)
    }

    /// Waits for a sign of life; none in time: how far the way goes, to a peer or to a relay by itself.
    pub(crate) async fn ask(&self, id: IdentityId, limit: Duration) -> Result<Answer, Option<Hop>> {
        let began = Instant::now();
        match timeout(limit, self.node.ping(id)).await {
            Ok(Ok(round_trip)) => Ok(Answer { after: began.elapsed(), round_trip }),
            _ => Err(self.node.route(id).await.ok().and_then(|mut route| route.pop())),
        }
    }
}

/// A sign of life.
pub(crate) struct Answer {
    /// Since it was asked for: with all that had to be connected and agreed upon before.
    pub(crate) after: Duration,
    pub(crate) round_trip: Duration,
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Why there is no sign of life from a hop, and what to do.
pub(crate) fn explain(hop: Option<&Hop>, name: &str) -> String {
    let Some(hop) = hop else { return format!("{name} is not known") };
    let place = hop.place.as_deref().unwrap_or("the relay");
    match (hop.state, &hop.error) {
        (HopState::Unreached, Some(error)) => format!("{name} is not reached: {error}"),
        (HopState::Unreached, None) => format!("{name} is not reached: no connection is there yet"),
        (HopState::Away, _) => format!("{name} is not attached to its relay, or does not let us write to it"),
        (HopState::Unanswered, _) if place.starts_with("udp") || place.starts_with("serial") => {
            format!("{name} does not answer at {place}: is it there, and does it let this identity in?")
        }
        (HopState::Unanswered, _) if hop.place.is_some() => {
            format!("{place} is reached, and {name} does not answer there: does it let this identity in?")
        }
        (HopState::Unanswered, _) => format!("{name} does not answer behind {place}: does it let this identity in?"),
        _ => format!("{name} was there, and does not answer any more"),
    }
}

/// Each hop on the way, by what it is called.
fn stops<'a>(scout: &'a Scout, peer: &'a Card) -> Vec<(&'static str, &'a Card)> {
    let relays = scout.on_the_way(peer).into_iter().map(|relay| ("relay", relay));
    relays.chain([("peer", peer)]).collect()
}

fn say(json: bool, object: &Value, text: &str) -> Result<(), Failure> {
    let line = if json { object.to_string() } else { text.to_string() };
    report::print(format!("{line}\n").as_bytes())
}

async fn scout(whom: &Whom) -> Result<(Scout, Card), Failure> {
    let peer = identity::card(&whom.peer)?;
    let scout = Scout::start(&whom.look, Some(&peer)).await?;
    Ok((scout, peer))
}

/// Round trips to the peer, one after the other; with `--route`, to each hop on the way.
pub(crate) async fn ping(options: &Ping) -> Result<(), Failure> {
    let (scout, peer) = scout(&options.whom).await?;
    let limit = Duration::from_secs(options.whom.look.limit.into());
    let _channel = scout.set_out(&peer).await?;
    let stops = if options.route { stops(&scout, &peer) } else { vec![("peer", &peer)] };
    let mut all: Vec<Duration> = Vec::new();
    let mut lost = None;
    for number in 1..=options.count {
        for (what, card) in &stops {
            let id = card.id();
            let short = id.short().to_string();
            match scout.ask(id, limit).await {
                Ok(Answer { round_trip, .. }) => {
                    let time = milliseconds(round_trip);
                    let object = json!({"number": number, "hop": what, "id": id.to_string(), "milliseconds": time});
                    say(options.whom.look.json, &object, &format!("{number}  {what:<5} {short}  {time} ms"))?;
                    if *what == "peer" {
                        all.push(round_trip);
                    }
                }
                Err(hop) => {
                    let why = explain(hop.as_ref(), &format!("the {what} {short}"));
                    let object = json!({"number": number, "hop": what, "id": id.to_string(), "lost": &why});
                    say(options.whom.look.json, &object, &format!("{number}  {what:<5} {short}  no answer"))?;
                    lost = Some(why);
                    // Nothing gets past it.
                    break;
                }
            }
        }
        if number < options.count {
            sleep(Duration::from_millis(options.interval.into())).await;
        }
    }
    scout.node.shutdown().await;
    let answered = u32::try_from(all.len()).unwrap_or(u32::MAX);
    if let (Some(least), Some(most)) = (all.iter().min(), all.iter().max()) {
        let mean = all.iter().sum::<Duration>() / answered;
        let [least, mean, most] = [*least, mean, *most].map(milliseconds);
        let sent = options.count;
        let object = json!({"sent": sent, "answered": answered, "least": least, "mean": mean, "most": most});
        let text = format!("{sent} sent, {answered} answered, least {least} ms, mean {mean} ms, most {most} ms");
        say(options.whom.look.json, &object, &text)?;
    }
    match lost {
        Some(why) if answered < options.count => Err(Failure::failed(why)),
        _ => Ok(()),
    }
}

/// What each hop adds, and where it is lost.
pub(crate) async fn trace(options: &Trace) -> Result<(), Failure> {
    let (scout, peer) = scout(&options.whom).await?;
    let limit = Duration::from_secs(options.whom.look.limit.into());
    let mut before = Duration::ZERO;
    let mut lost = None;
    let mut channel = None;
    for (number, (what, card)) in stops(&scout, &peer).into_iter().enumerate() {
        let id = card.id();
        let short = id.short().to_string();
        if what == "relay" {
            scout.node.stay_attached(card).await?;
        } else {
            channel = Some(match scout.set_out(&peer).await {
                Ok(channel) => channel,
                Err(failure) => {
                    scout.node.shutdown().await;
                    return Err(failure);
                }
            });
        }
        let asked = scout.ask(id, limit).await;
        // A relay is on nobody's card but ours: the way to it is one of its own.
        let route = scout.node.route(if what == "relay" { id } else { peer.id() }).await?;
        let hop = route.iter().find(|hop| hop.id == id);
        let place = hop.and_then(|hop| hop.place.clone());
        let shown = place.clone().unwrap_or_else(|| "over the relay".into());
        match asked {
            Ok(Answer { after, round_trip }) => {
                // The second time: the first one shares its way with what the session began with.
                let round_trip = scout.ask(id, limit).await.map_or(round_trip, |again| again.round_trip);
                let [ready, total, own] = [after, round_trip, round_trip.saturating_sub(before)].map(milliseconds);
                let object = json!({
                    "hop": number + 1, "kind": what, "id": id.to_string(), "place": place, "ready_milliseconds": ready,
                    "milliseconds": total, "own_milliseconds": own, "unit": hop.and_then(|hop| hop.unit),
                });
                let behind =
                    if number == 0 { String::new() } else { format!(", {own} ms of it behind the hop before") };
                let number = number + 1;
                let text = format!(
                    "{number}  {what:<5} {short}  {shown}  ready after {ready} ms, there and back {total} ms{behind}"
                );
                say(options.whom.look.json, &object, &text)?;
                before = round_trip;
            }
            Err(hop) => {
                let why = explain(hop.as_ref(), &format!("the {what} {short}"));
                let object =
                    json!({"hop": number + 1, "kind": what, "id": id.to_string(), "place": place, "lost": &why});
                say(
                    options.whom.look.json,
                    &object,
                    &format!("{}  {what:<5} {short}  {shown}  lost here", number + 1),
                )?;
                lost = Some(why);
                break;
            }
        }
    }
    drop(channel);
    scout.node.shutdown().await;
    lost.map_or(Ok(()), |why| Err(Failure::failed(why)))
}
