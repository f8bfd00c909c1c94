//! The test vectors of `docs/vectors`: every message of the protocol, made with all randomness fixed and told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use sealway_channel::{
    ChannelId, Config, ConstrainedRecord, Deposit, Endpoint, Padding, Pairing, PairingKeys, PathId, PrekeyKind,
    Received, Record, Role, Source,
};
use sealway_crypto_rustcrypto::RustCrypto;
use sealway_identity::{Card, CardParts, Mailbox, Owner, PayloadParts, Policy, RelayEntry, UnverifiedPrekey};
use sealway_vault::{Algorithm, DhHandle, Entropy, EntropyError, KeyStore, Secret, SoftwareVault, Vault as _};
use sealway_wire::{
    BoxName, Candidates, Hop, HopFrame, IdentityId, Instance, Lane, MAX_CANDIDATES, RecordHeader, Route, Timestamp,
    VarInt,
    content::{Ack, CloseReason, Committed, Content, Part, Ranges, Reliable, Start},
    hop::{Custody, DiscardReason, Label, Registration, SenderList, Senders, Verdict},
    letter::MAX_LETTER,
    pairing::{Rotate, Seed},
};
use serde_json::{Value, json};

use crate::entropy::Seeded;

/// Seeded randomness that keeps what was drawn.
#[derive(Clone)]
struct Told {
    random: Seeded,
    drawn: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Told {
    fn new(seed: u64) -> Self {
        Self { random: Seeded::new(seed), drawn: Arc::default() }
    }

    /// What was drawn since the last call.
    fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.drawn.lock().expect("no panic"))
    }
}

impl Entropy for Told {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        self.random.fill(out)?;
        self.drawn.lock().expect("no panic").push(out.to_vec());
        Ok(())
    }
}

type Vault = Arc<SoftwareVault<RustCrypto<Told>>>;

fn hex(octets: impl AsRef<[u8]>) -> Value {
    data_encoding::HEXLOWER.encode(octets.as_ref()).into()
}

/// The draws of these lengths, in order; others, which choose what no message shows, are left out.
fn drawn<const N: usize>(told: &Told, lengths: [usize; N]) -> [Value; N] {
    let mut draws = told.take().into_iter();
    lengths.map(|length| hex(draws.find(|draw| draw.len() == length).expect("a draw of that length")))
}

/// All files, by name.
#[must_use]
pub fn generate() -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        ("identity.json", identities()),
        ("session.json", session()),
        ("constrained.json", constrained()),
        ("letter.json", letters()),
        ("contents.json", Value::Array(contents())),
        ("hop.json", Value::Array(hop_frames())),
    ])
}

struct Machine {
    told: Told,
    vault: Vault,
    owner: Owner,
    card: Card,
    keys: Value,
}

fn machine(seed: u64, algorithm: Algorithm, parts: &CardParts) -> Machine {
    let told = Told::new(seed);
    let mut vault = SoftwareVault::new(RustCrypto::new(told.clone()));
    let (owner, _) = Owner::incept(&mut vault, algorithm).expect("seeded randomness");
    let [signing, next, channel] = drawn(&told, [32, 32, 32]);
    let keys = json!({ "signing_key": signing, "next_key": next, "channel_key": channel });
    let vault = Arc::new(vault);
    let card = owner.card(&vault, parts).expect("short parts");
    Machine { told, vault, owner, card, keys }
}

fn identities() -> Value {
    let relay = RelayEntry {
        id: IdentityId([1; 32]),
        channel_key: [2; 32],
        contact_box: BoxName([3; 16]),
        addresses: vec!["tcp://relay.example:7000".into()],
    };
    let parts = CardParts { sequence: 5, addresses: vec!["tcp://[2001:db8::1]:1".into()], relays: vec![relay] };
    let of = |(name, algorithm, seed)| {
        let Machine { told, vault, owner, card, keys } = machine(seed, algorithm, &parts);
        let mut unlocked =
            SoftwareVault::load(RustCrypto::new(told.clone()), &vault.save().expect("few keys")).expect("saved");
        let mailbox = PayloadParts::with_mailbox(Mailbox { relay: IdentityId([4; 32]), name: BoxName([5; 16]) });
        told.take();
        let recovery = recovery(&keys, algorithm);
        let (rotated, _) = owner.rotate(&mut unlocked, &recovery).expect("the announced key");
        let [next, channel] = drawn(&told, [32, 32]);
        json!({
            "algorithm": name,
            "keys": keys,
            "id": hex(owner.id().as_bytes()),
            "saved": hex(owner.save()),
            "card": hex(card.as_bytes()),
            "card_uri": card.to_uri(),
            "payload": hex(owner.payload(&PayloadParts::default()).expect("short")),
            "payload_with_box": hex(owner.payload(&mailbox).expect("short")),
            "after_rotation": {
                "next_key": next,
                "channel_key": channel,
                "card": hex(rotated.card(&unlocked, &parts).expect("short").as_bytes()),
            },
        })
    };
    [("Ed25519", Algorithm::Ed25519, 11), ("P-256", Algorithm::P256, 12)].map(of).to_vec().into()
}

fn recovery(keys: &Value, algorithm: Algorithm) -> sealway_identity::RecoveryKey {
    let seed = crate::hex(keys["next_key"].as_str().expect("hexadecimal text"));
    let mut octets = [if algorithm == Algorithm::Ed25519 { 1 } else { 2 }; 33];
    octets[1..].copy_from_slice(&seed);
    sealway_identity::RecoveryKey::from_secret(&Secret::new(octets)).expect("a known algorithm")
}

const NOW: Timestamp = Timestamp::from_micros(1_000_000);
const SOURCE: Source = Source::claimed(7);

/// One endpoint of the session, and what it has said.
struct Side {
    name: &'static str,
    endpoint: Endpoint<Vault>,
    instance: Instance,
}

impl Side {
    fn said(&mut self, now: Timestamp) -> Vec<Vec<u8>> {
        let mut out = vec![0; sealway_channel::MAX_RECORD];
        let mut said = Vec::new();
        loop {
            while let Some(saved) = self.endpoint.poll_saved() {
                self.endpoint.written(&saved.peer, saved.session);
            }
            let Some(outgoing) = self.endpoint.poll_transmit(now, &mut out) else { break };
            said.push(out[..outgoing.len].to_vec());
        }
        said
    }
}

fn side(name: &'static str, machine: &Machine, instance: u8, accept: &Card) -> Side {
    let instance = Instance([instance; 4]);
    let mut config = Config::new(instance);
    config.accept = Policy::only(accept);
    config.keeps_state = true;
    Side { name, endpoint: Endpoint::new(machine.vault.clone(), machine.owner.clone(), config), instance }
}

/// A record as it is told: its frame, and the plaintext that it opens to.
fn record(from: &Side, frame: &[u8], plaintext: &[u8]) -> Value {
    let header = RecordHeader::decode(frame).expect("a record").0;
    let lane = if header.lane == Lane::Live { "live" } else { "stored" };
    json!({ "from": from.name, "lane": lane, "typed": header.typed, "frame": hex(frame), "plaintext": hex(plaintext) })
}

fn encoded(content: &Content<'_>) -> Vec<u8> {
    let mut out = vec![0; 20_000];
    let len = content.encode(&mut out).expect("room");
    out.truncate(len);
    out
}

/// Letters to a prekey with an ML-KEM part, and to one without.
fn letters() -> Value {
    let of = |kind| {
        let (left, right) = (
            machine(41, Algorithm::Ed25519, &CardParts::default()),
            machine(42, Algorithm::Ed25519, &CardParts::default()),
        );
        let mut sender = side("sender", &left, 0xa1, &right.card);
        let mut recipient = side("recipient", &right, 0xb2, &left.card);
        right.told.take();
        recipient.endpoint.make_prekeys(kind);
        recipient.endpoint.handle_timeout(NOW);
        let id = recipient.endpoint.poll_prekey().expect("one is made").id;
        recipient.endpoint.prekey_written(NOW, id);
        let is_hybrid = kind == PrekeyKind::Hybrid;
        let mut private = right.told.take().into_iter().skip(1);
        let mut next = || private.next().map(hex);
        let (dh, kem) = (next(), if is_hybrid { next() } else { None });
        let (_, statement) = recipient.endpoint.published_prekey().expect("signed").expect("written");
        let provider = left.vault.provider();
        let prekey = UnverifiedPrekey::decode(&statement).expect("canonical");
        let prekey = prekey.verify(provider, &right.owner.id()).expect("genuine");
        let payload = PayloadParts::with_mailbox(Mailbox { relay: IdentityId([4; 32]), name: BoxName([5; 16]) });
        let instance = Some(Instance([0xa1; 4]));
        let reliable = |unwanted, part, body| Reliable { instance, number: 9, lowest: 7, unwanted, part, body };
        let committed = Committed { instance: Instance([0xb2; 4]), mark: 3, bitmap: &[5], held: &[] };
        let deposits = [
            Deposit::Message(reliable(0, None, b"a message")),
            Deposit::Message(reliable(2, None, b"after a gap")),
            Deposit::Message(reliable(0, Some(Part { index: 1, count: 3 }), b"a part")),
            Deposit::Committed(committed),
        ];
        let letters = deposits.map(|deposit| {
            left.told.take();
            let mut out = vec![0; MAX_LETTER];
            let len = sender.endpoint.seal_letter(&prekey, &payload, deposit, &mut out).expect("short");
            let mut draws = left.told.take().into_iter().filter(|draw| draw.len() == 32).map(hex);
            let kem = if is_hybrid { draws.next() } else { None };
            let (ephemeral, frame) = (draws.next(), out[..len].to_vec());
            let opened = recipient.endpoint.open_letter(NOW, SOURCE, &mut out[..len]).expect("genuine");
            assert_eq!(opened.sender.id(), left.owner.id());
            let content = match deposit {
                Deposit::Message(message) => encoded(&Content::Reliable(message)),
                Deposit::Committed(committed) => {
                    encoded(&Content::Ack(Ack { opened: None, committed: Some(committed) }))
                }
            };
            json!({ "ephemeral_key": ephemeral, "ml_kem_m": kem, "letter": hex(frame), "content": hex(content) })
        });
        json!({
            "recipient": { "id": hex(right.owner.id().as_bytes()), "keys": right.keys },
            "prekey": { "id": hex(id.0), "x25519_key": dh, "ml_kem_seed": kem, "published": hex(statement) },
            "sender": {
                "keys": left.keys,
                "payload_with_box": hex(left.owner.payload(&payload).expect("short")),
            },
            "letters": letters,
        })
    };
    [PrekeyKind::Hybrid, PrekeyKind::Classical].map(of).to_vec().into()
}

/// A whole session: the handshake with and without a cookie, and records of every kind.
#[allow(clippy::too_many_lines, reason = "one story, in its order")]
fn session() -> Value {
    let (left, right) = (
        machine(21, Algorithm::Ed25519, &CardParts::default()),
        machine(22, Algorithm::Ed25519, &CardParts::default()),
    );
    let mut initiator = side("initiator", &left, 0xa1, &right.card);
    let mut responder = side("responder", &right, 0xb2, &left.card);
    let mut now = NOW;
    let channel =
        initiator.endpoint.open(now, &right.card, &Policy::only(&right.card), PayloadParts::default(), PathId(1));
    let channel = channel.expect("admitted");
    let message1 = initiator.said(now).remove(0);
    // Twice in the name of the same source, so that the responder wants a cookie of it.
    for instance in 1..=2 {
        let mut other = side("another", &left, instance, &right.card);
        other
            .endpoint
            .open(now, &right.card, &Policy::only(&right.card), PayloadParts::default(), PathId(1))
            .expect("admitted");
        let mut frame = other.said(now).remove(0);
        responder.endpoint.handle_frame(now, PathId(0), SOURCE, &mut frame).expect("not under load");
    }
    responder.said(now);
    let draws = left.told.take();
    let of_length = |length: usize| draws.iter().find(|draw| draw.len() == length).expect("drawn");
    // The last octets that `open` drew before S1.1: connection id, ephemeral key, d and z of ML-KEM.
    let kem = draws.iter().find(|draw| draw.len() == 64).expect("the seed of the ML-KEM key");
    let initiator_keys = json!({
        "cid": hex(of_length(4)), "ephemeral_key": hex(of_length(32)), "ml_kem_seed": hex(kem),
    });
    right.told.take();
    responder.endpoint.handle_frame(now, PathId(0), SOURCE, &mut message1.clone()).expect_err("a cookie is wanted");
    let [cookie_secret] = drawn(&right.told, [32]);
    let retry = responder.said(now).remove(0);
    initiator.endpoint.handle_frame(now, PathId(1), SOURCE, &mut retry.clone()).expect("the proof fits");
    let with_cookie = initiator.said(now).remove(0);
    right.told.take();
    responder.endpoint.handle_frame(now, PathId(0), SOURCE, &mut with_cookie.clone()).expect("with a cookie");
    let [cid, ephemeral, encapsulation] = drawn(&right.told, [4, 32, 32]);
    let responder_keys = json!({ "cid": cid, "ephemeral_key": ephemeral, "ml_kem_m": encapsulation });
    let message2 = responder.said(now).remove(0);
    initiator.endpoint.handle_frame(now, PathId(1), SOURCE, &mut message2.clone()).expect("genuine");
    let message3 = initiator.said(now).remove(0);
    responder.endpoint.handle_frame(now, PathId(0), SOURCE, &mut message3.clone()).expect("genuine");

    let mut records = Vec::new();
    let start = |side: &Side| {
        Content::Start(Start { instance: side.instance, stored_before: VarInt::from_u32(0), credentials: &[] })
    };
    let from_responder = responder.said(now).remove(0);
    records.push(record(&responder, &from_responder, &encoded(&start(&responder))));
    initiator.endpoint.handle_frame(now, PathId(1), SOURCE, &mut from_responder.clone()).expect("START");
    let said = initiator.said(now);
    records.push(record(&initiator, &said[0], &encoded(&start(&initiator))));
    let opened = |high| Some((Lane::Live, Ranges::new(0, high).expect("in order")));
    let mut said = said.into_iter();
    for mut frame in said.by_ref() {
        responder.endpoint.handle_frame(now, PathId(0), SOURCE, &mut frame).expect("genuine");
    }
    let peer = |side: &Side| (0..4).map(ChannelId).find(|id| side.endpoint.is_open(*id)).expect("open");
    let back = peer(&responder);
    for mut frame in responder.said(now) {
        initiator.endpoint.handle_frame(now, PathId(1), SOURCE, &mut frame).expect("genuine");
    }
    let mut out = vec![0; 40_000];
    let seal = |side: &mut Side, to: &mut Side, channel, body: &[u8], out: &mut Vec<u8>| {
        let sealed = side.endpoint.seal_datagram(now, channel, body, out).expect("open");
        let frame = out[..sealed.len].to_vec();
        let received = to
            .endpoint
            .handle_frame(now, PathId(0), SOURCE, &mut frame.clone())
            .map(|received| matches!(received, Received::Record { record: Record::Datagram(got), .. } if got == body));
        assert_eq!(received, Ok(true));
        frame
    };
    let frame = seal(&mut initiator, &mut responder, channel, b"a datagram", &mut out);
    records.push(record(&initiator, &frame, b"a datagram"));
    let frame = seal(&mut responder, &mut initiator, back, b"", &mut out);
    records.push(record(&responder, &frame, b""));
    initiator.endpoint.set_padding(channel, Padding::Buckets);
    let frame = seal(&mut initiator, &mut responder, channel, b"padded", &mut out);
    let mut padded = encoded(&Content::Data(b"padded"));
    padded.resize(64, 0);
    records.push(record(&initiator, &frame, &padded));
    initiator.endpoint.set_padding(channel, Padding::None);
    // Messages: whole, after a gap, a part; and of an earlier run.
    let messages = [
        Reliable { instance: None, number: 5, lowest: 3, unwanted: 0, part: None, body: b"message" },
        Reliable {
            instance: Some(Instance([9; 4])),
            number: 70_000,
            lowest: 69_000,
            unwanted: 0,
            part: None,
            body: b"",
        },
        Reliable { instance: None, number: 9, lowest: 3, unwanted: 2, part: None, body: b"after a gap" },
        Reliable {
            instance: None,
            number: 10,
            lowest: 3,
            unwanted: 0,
            part: Some(Part { index: 0, count: 2 }),
            body: b"part",
        },
    ];
    for message in messages {
        let sealed = initiator.endpoint.seal_message(now, channel, message, &mut out).expect("open");
        let frame = out[..sealed.len].to_vec();
        let says_more = message.unwanted > 0 || message.part.is_some();
        let instance = message.instance.or(says_more.then_some(initiator.instance));
        records.push(record(&initiator, &frame, &encoded(&Content::Reliable(Reliable { instance, ..message }))));
        responder.endpoint.handle_frame(now, PathId(0), SOURCE, &mut frame.clone()).expect("genuine");
    }
    // What the responder acknowledges, with what its application has committed.
    let committed = Committed { instance: initiator.instance, mark: 6, bitmap: &[1], held: &[0b1_0000] };
    responder.endpoint.report_committed(now, back, &committed, false);
    now = now.after(Duration::from_millis(20));
    let ack = responder.said(now).remove(0);
    // START, an ACK, two datagrams and the messages: counters from 0.
    let highest = 3 + u64::try_from(messages.len()).expect("few");
    let plaintext = encoded(&Content::Ack(Ack { opened: opened(highest), committed: Some(committed) }));
    records.push(record(&responder, &ack, &plaintext));
    initiator.endpoint.handle_frame(now, PathId(1), SOURCE, &mut ack.clone()).expect("genuine");
    // The stored lane, before and after a restart.
    let deposit = Reliable { instance: None, number: 11, lowest: 11, unwanted: 0, part: None, body: b"kept" };
    let len = initiator.endpoint.seal_deposit(now, channel, Deposit::Message(deposit), &mut out).expect("confirmed");
    records.push(record(&initiator, &out[..len], &encoded(&Content::Reliable(deposit))));
    // A wider counter: more than 2^15 records that nobody has acknowledged, and the second epoch.
    let mut wide = Vec::new();
    for counter in 0..(1_u32 << 20) {
        let body = counter.to_be_bytes();
        let sealed = initiator.endpoint.seal_datagram(now, channel, &body, &mut out).expect("open");
        if [40_000, (1 << 20) - 1].contains(&counter) {
            wide.push(record(&initiator, &out[..sealed.len], &body));
        }
    }
    records.extend(wide);
    initiator.endpoint.close(channel, CloseReason::Finished);
    let close = initiator.said(now).pop().expect("CLOSE");
    records.push(record(&initiator, &close, &encoded(&Content::Close(CloseReason::Finished))));
    let mut export = [0; 32];
    responder.endpoint.export(back, "a label", b"a context", &mut export).expect("open");
    json!({
        "initiator": { "id": hex(left.owner.id().as_bytes()), "keys": left.keys, "card": hex(left.card.as_bytes()), "handshake": initiator_keys },
        "responder": { "id": hex(right.owner.id().as_bytes()), "keys": right.keys, "card": hex(right.card.as_bytes()), "handshake": responder_keys },
        "S1.1": hex(&message1),
        "cookie": { "secret": cookie_secret, "source": hex(7_u64.to_be_bytes()) },
        "S1.R": hex(&retry),
        "S1.1 with cookie": hex(&with_cookie),
        "S1.2": hex(&message2),
        "S1.3": hex(&message3),
        "identity_payload": hex(left.owner.payload(&PayloadParts::default()).expect("short")),
        "exported": { "label": "a label", "context": hex(b"a context"), "octets": hex(export) },
        "records": records,
    })
}

fn contents() -> Vec<Value> {
    let instance = Instance([1; 4]);
    let mut opened = Ranges::new(90, 100).expect("in order");
    assert!(opened.push(10, 20));
    let committed = Committed { instance, mark: 70_000, bitmap: &[0, 1], held: &[] };
    let held = Committed { instance, mark: 3, bitmap: &[1], held: &[0, 0x80] };
    let message = Reliable { instance: None, number: 5, lowest: 3, unwanted: 0, part: None, body: b"body" };
    let part = Some(Part { index: 2, count: 66 });
    let addresses = ["203.0.113.7:41000", "[2001:db8::7]:41000"].map(|text| text.parse().expect("an address"));
    let mut room = [[0; 19 * MAX_CANDIDATES]; 2];
    let [first, second] = &mut room;
    let contents = [
        ("START", Content::Start(Start { instance, stored_before: VarInt::MAX, credentials: &[0, 2, 9, 9] })),
        ("DATA", Content::Data(b"datagram")),
        ("RELIABLE", Content::Reliable(message)),
        ("RELIABLE of another instance", Content::Reliable(Reliable { instance: Some(instance), ..message })),
        ("RELIABLE after a gap", Content::Reliable(Reliable { instance: Some(instance), unwanted: 1, ..message })),
        ("FRAGMENT", Content::Reliable(Reliable { instance: Some(instance), part, ..message })),
        (
            "ACK of records 10 to 20 and 90 to 100",
            Content::Ack(Ack { opened: Some((Lane::Live, opened)), committed: None }),
        ),
        (
            "the same, and messages",
            Content::Ack(Ack { opened: Some((Lane::Live, opened)), committed: Some(committed) }),
        ),
        ("ACK of messages", Content::Ack(Ack { opened: None, committed: Some(committed) })),
        ("the same, and held ones", Content::Ack(Ack { opened: None, committed: Some(held) })),
        ("PING", Content::Ping),
        ("CLOSE", Content::Close(CloseReason::Policy)),
        ("PATH", Content::Path([7; 8])),
        ("PATH-REPLY", Content::PathReply([7; 8])),
        ("ROTATE", Content::Rotate(Rotate::part_of(&[9; 60], 2).expect("a third part"))),
        ("ROTATE, kept", Content::Rotate(Rotate::kept(&[6; 32]))),
        ("SEED", Content::Seed(Seed(&[5; 32]))),
        ("CANDIDATES", Content::Candidates(Candidates::write(&addresses, true, first))),
        ("CANDIDATES in answer", Content::Candidates(Candidates::write(&addresses[..1], false, second))),
        ("FLIGHT", Content::Flight(&[0x12, 0xa1, 0xa2])),
    ];
    contents.iter().map(|(name, content)| json!({ "name": name, "fields": format!("{content:?}"), "octets": hex(encoded(content)) })).collect()
}

fn hop_frames() -> Vec<Value> {
    let ids = [[7; 32], [8; 32]];
    let (label, name) = (Label::new(70).expect("small"), BoxName([3; 16]));
    let route = Route::new(&[Hop::Relay(IdentityId([1; 32])), Hop::Box(name)]).expect("two");
    let number = VarInt::from_u32(16_384);
    let frames = [
        ("FORWARD", HopFrame::Forward { label, frame: b"frame" }),
        ("ROUTED", HopFrame::Routed { back: label, route, frame: b"frame" }),
        ("ASSIGN", HopFrame::Assign { back: label, label }),
        ("UNKNOWN", HopFrame::Unknown { label }),
        ("ABSENT", HopFrame::Absent { back: label }),
        ("REGISTER", HopFrame::Register { name, senders: Senders::Attached }),
        ("REGISTER for two", HopFrame::Register { name, senders: Senders::Only(SenderList::new(&ids).expect("two")) }),
        ("REGISTERED", HopFrame::Registered { name, outcome: Registration::Open }),
        ("DEPOSIT", HopFrame::Deposit { number, seconds: number, route: Route::to_box(name), frame: b"frame" }),
        ("CUSTODY", HopFrame::Custody { number, outcome: Custody::Kept { seconds: number } }),
        ("PUSH", HopFrame::Push { number, frame: b"frame" }),
        ("VERDICT done", HopFrame::Verdict { number, verdict: Verdict::Done }),
        ("VERDICT discard", HopFrame::Verdict { number, verdict: Verdict::Discard(DiscardReason::Protocol) }),
        ("PUBLISH", HopFrame::Publish { name, statement: b"statement" }),
        ("FETCH", HopFrame::Fetch { number, name }),
        ("FETCHED", HopFrame::Fetched { number, statement: b"statement" }),
        ("FETCHED nothing", HopFrame::Fetched { number, statement: b"" }),
        ("SEEN over IPv4", HopFrame::Seen { address: "203.0.113.7:41000".parse().expect("an address") }),
        ("SEEN over IPv6", HopFrame::Seen { address: "[2001:db8::7]:41000".parse().expect("an address") }),
    ];
    let told = |(name, frame): &(&str, HopFrame<'_>)| {
        let mut out = vec![0; 256];
        let len = frame.encode(&mut out).expect("room");
        json!({ "name": name, "fields": format!("{frame:?}"), "octets": hex(&out[..len]) })
    };
    frames.iter().map(told).collect()
}

/// An end of the constrained pairing.
struct End {
    told: Told,
    vault: Vault,
    handle: DhHandle,
    private: Value,
}

fn end(seed: u64) -> End {
    let told = Told::new(seed);
    let mut vault = SoftwareVault::new(RustCrypto::new(told.clone()));
    let handle = vault.generate_dh().expect("seeded randomness");
    let [private] = drawn(&told, [32]);
    End { told, vault: Arc::new(vault), handle, private }
}

/// Writes nothing: says that everything has been.
fn is_written(pairing: &mut Pairing<Vault>) -> Option<Vec<u8>> {
    let state = pairing.poll_state().expect("seeded randomness")?;
    pairing.written(state.version);
    Some(state.octets)
}

fn transmitted(pairing: &mut Pairing<Vault>) -> Vec<u8> {
    let mut out = vec![0; sealway_wire::constrained::MAX_RECORD];
    let len = pairing.poll_transmit(&mut out).expect("room").expect("a frame");
    out.truncate(len);
    out
}

/// Three handshakes of the constrained profile, the last with a seed in its psk, one for recovery, and records of each kind.
#[allow(clippy::too_many_lines, reason = "one story, in its order")]
fn constrained() -> Value {
    let (device, service) = (end(41), end(42));
    let (device_id, service_id) = (IdentityId([0x51; 32]), IdentityId([0x52; 32]));
    let (psk, recovery) = ([0x61; 32], [0x62; 32]);
    let keys = |role, own, end: &End, peer, peer_end: &End| PairingKeys {
        role,
        own,
        channel_key: end.handle,
        earlier_key: None,
        peer,
        peer_key: peer_end.vault.dh_public(&peer_end.handle).expect("its own key"),
        psk: Secret::new(psk),
        recovery: Secret::new(recovery),
    };
    let device_keys = keys(Role::Initiator, device_id, &device, service_id, &service);
    let service_keys = keys(Role::Responder, service_id, &service, device_id, &device);
    let mut caller = Pairing::new(device.vault.clone(), device_keys.clone()).expect("its own key");
    let mut answerer = Pairing::new(service.vault.clone(), service_keys).expect("its own key");
    let instances = json!({
        "device": hex(caller.instance().0),
        "service": hex(answerer.instance().0),
    });
    let source = Source::proven(1);
    let mut handshakes = Vec::new();
    let mut records = Vec::new();
    let handshakes_of = [
        (&b""[..], &b""[..], None),
        (b"river at 3.2 m", b"sleep for an hour", None),
        (b"", b"", Some(Secret::new([0x63; 32]))),
    ];
    for (early, reply, seed) in handshakes_of {
        if let Some(seed) = &seed {
            answerer.reseed(seed.clone()).expect("the answering side");
            is_written(&mut answerer);
            let frame = transmitted(&mut answerer);
            caller.handle_frame(NOW, source, &mut frame.clone()).expect("genuine");
            is_written(&mut caller);
            let plaintext = encoded(&Content::Seed(Seed(seed.expose())));
            records.push(json!({
                "session": handshakes.len() - 1,
                "from": "service",
                "lane": "live",
                "typed": true,
                "frame": hex(&frame),
                "plaintext": hex(plaintext),
            }));
        }
        device.told.take();
        service.told.take();
        answerer.set_reply(reply).expect("short");
        caller.call(early).expect("idle");
        is_written(&mut caller);
        let message1 = transmitted(&mut caller);
        answerer.handle_frame(NOW, source, &mut message1.clone()).expect("genuine");
        is_written(&mut answerer);
        let message2 = transmitted(&mut answerer);
        caller.handle_frame(NOW, source, &mut message2.clone()).expect("genuine");
        is_written(&mut caller);
        let [device_ephemeral] = drawn(&device.told, [32]);
        let [service_ephemeral] = drawn(&service.told, [32]);
        handshakes.push(json!({
            "device_ephemeral": device_ephemeral,
            "service_ephemeral": service_ephemeral,
            "early": hex(early),
            "reply": hex(reply),
            "seed": seed.map(|seed| hex(seed.expose())),
            "C1.1": hex(&message1),
            "C1.2": hex(&message2),
        }));
        let session = handshakes.len() - 1;
        let start = transmitted(&mut caller);
        records.push(short_record(session, "device", &start, &mut answerer));
        let start = transmitted(&mut answerer);
        records.push(short_record(session, "service", &start, &mut caller));
        let mut out = vec![0; sealway_wire::constrained::MAX_RECORD];
        let datagram = caller.seal_datagram(b"sixteen octets..", &mut out).expect("a session");
        records.push(short_record(session, "device", &out[..datagram], &mut answerer));
        let stored = answerer.seal(Lane::Stored, &Content::Data(b"for when you wake"), &mut out).expect("a session");
        records.push(short_record(session, "service", &out[..stored], &mut caller));
    }
    // After a restart: the next record is sealed under an incarnation.
    let state = {
        caller.call(b"").expect("idle");
        is_written(&mut caller).expect("a call is a change")
    };
    let mut restarted =
        Pairing::restore(device.vault.clone(), device_keys.clone(), NOW, &state).expect("what was written");
    is_written(&mut restarted).expect("a restart counts");
    let mut out = vec![0; sealway_wire::constrained::MAX_RECORD];
    let len = restarted.seal_datagram(b"after a restart", &mut out).expect("a restored session");
    records.push(short_record(2, "device", &out[..len], &mut answerer));
    device.told.take();
    // A device that has lost everything, and a service whose operator lets it back in.
    let mut lost = Pairing::new(device.vault.clone(), device_keys).expect("its own key");
    lost.call(b"").expect("idle");
    (0..8).for_each(|_| lost.repeat(NOW).expect("seeded randomness"));
    let [_instance, _call, rescue] = drawn(&device.told, [4, 32, 32]);
    is_written(&mut lost);
    let message1 = transmitted(&mut lost);
    answerer.open_recovery(NOW.after(Duration::from_secs(1)));
    service.told.take();
    answerer.handle_frame(NOW, source, &mut message1.clone()).expect("genuine");
    is_written(&mut answerer);
    let message2 = transmitted(&mut answerer);
    let [answer] = drawn(&service.told, [32]);
    let public = |end: &End| hex(end.vault.dh_public(&end.handle).expect("its own key"));
    json!({
        "device": { "id": hex(device_id.0), "channel_key": device.private, "public": public(&device) },
        "service": { "id": hex(service_id.0), "channel_key": service.private, "public": public(&service) },
        "psk": hex(psk),
        "recovery_psk": hex(recovery),
        "instances": instances,
        "handshakes": handshakes,
        "records": records,
        "recovery": {
            "device_ephemeral": rescue,
            "service_ephemeral": answer,
            "attempt": 1,
            "C1.1": hex(message1),
            "C1.2": hex(message2),
        },
    })
}

/// A record of session `session`, as its recipient opens it.
fn short_record(session: usize, from: &str, frame: &[u8], to: &mut Pairing<Vault>) -> Value {
    let header = sealway_wire::constrained::RecordHeader::decode(frame).expect("a record").0;
    let mut octets = frame.to_vec();
    let plaintext = match to.handle_frame(NOW, Source::proven(1), &mut octets).expect("genuine") {
        ConstrainedRecord::Datagram(body) => body.to_vec(),
        ConstrainedRecord::Typed(_, content) => encoded(&content),
        _ => Vec::new(),
    };
    is_written(to);
    let lane = if header.lane == Lane::Live { "live" } else { "stored" };
    json!({
        "session": session,
        "from": from,
        "lane": lane,
        "typed": header.typed,
        "frame": hex(frame),
        "plaintext": hex(plaintext),
    })
}
