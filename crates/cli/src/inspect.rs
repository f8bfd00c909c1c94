//! `inspect`: what a frame is, as far as anybody can tell who has no key.

use sealway::wire::{
    Frame, HopFrame, Lane, Letter, RecordHeader, TAG_LEN, constrained,
    hop::{Custody, Senders},
};

use crate::{arguments::Inspect, failure::Failure, report::Report};

pub(crate) fn inspect(options: &Inspect) -> Result<(), Failure> {
    let text: String =
        options.frame.chars().filter(|character| !character.is_whitespace() && *character != ':').collect();
    let octets = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes());
    let octets = octets.map_err(|error| Failure::given(format!("not hexadecimal at digit {}", error.position + 1)))?;
    let lines = match octets.first() {
        None => return Err(Failure::given("a frame of no octets")),
        // Frames of a link begin with 0x11 or more, those of the hop protocol with less. Octet 0 of a record has a bit for the
        // profile.
        Some(0x30..=0x3f) => of_letter(&octets),
        Some(0x20..=0x2f | 0xa0..=0xbf | 0xe0..) => of_constrained(&octets),
        Some(0x10..) => of_link(&octets),
        Some(_) => of_hop(&octets),
    };
    let lines = lines.map_err(|error| Failure::given(format!("malformed: {error}")))?;
    let report = lines.into_iter().fold(Report::default(), |report, (name, value)| report.with(name, value));
    report.print(options.json)
}

type Lines = Vec<(&'static str, String)>;

fn octets(octets: &[u8]) -> String {
    format!("{} octets", octets.len())
}

fn hex(octets: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(octets)
}

fn of_link(frame: &[u8]) -> Result<Lines, sealway::DecodeError> {
    Ok(match Frame::decode(frame)? {
        Frame::Message1(message) => vec![
            ("kind", "S1.1, first message of a handshake".into()),
            ("gate", hex(message.gate)),
            ("cookie", message.cookie.map_or("none".into(), |cookie| hex(cookie))),
            ("ephemeral", hex(message.noise.get(..32).unwrap_or_default())),
            ("sealed", octets(message.noise.get(32..).unwrap_or_default())),
        ],
        Frame::Message2(message) => vec![
            ("kind", "S1.2, answer of the responder".into()),
            ("to CID", message.cid.to_string()),
            ("ephemeral", hex(message.noise.get(..32).unwrap_or_default())),
            ("sealed", octets(message.noise.get(32..).unwrap_or_default())),
        ],
        Frame::Message3(message) => vec![
            ("kind", "S1.3, last message of a handshake".into()),
            ("to CID", message.cid.to_string()),
            ("proof", hex(message.proof)),
            ("sealed", octets(message.noise)),
        ],
        Frame::Data(header, sealed) => of_record(&header, sealed),
        _ => vec![("kind", "S1.R, demand for a cookie".into())],
    })
}

fn of_constrained(frame: &[u8]) -> Result<Lines, sealway::DecodeError> {
    let of_handshake = |kind: &str, message: &constrained::Handshake<'_>| {
        let (ephemeral, sealed) = message.noise.split_at_checked(32).unwrap_or_default();
        vec![
            ("kind", kind.into()),
            ("hint", message.hint.to_string()),
            ("ephemeral", hex(ephemeral)),
            ("sealed", octets(sealed)),
        ]
    };
    Ok(match constrained::Frame::decode(frame)? {
        constrained::Frame::Message1(message) => of_handshake("C1.1, call of a constrained device", &message),
        constrained::Frame::Message2(message) => of_handshake("C1.2, answer to it", &message),
        constrained::Frame::Data(header, sealed) => {
            let lane = lane(header.lane);
            let mut lines = vec![
                ("kind", "record of the constrained profile".into()),
                ("lane", lane.into()),
                ("content", if header.typed { "typed" } else { "a datagram" }.into()),
                ("to CID", header.cid.map_or("named by the link".into(), |cid| cid.to_string())),
                ("counter", format!("{} octets of it", header.counter.width().octets())),
            ];
            lines.extend(header.incarnation.map(|incarnation| ("incarnation", incarnation.to_string())));
            let (sealed, tag) = sealed.split_at(sealed.len().saturating_sub(constrained::TAG_LEN));
            lines.extend([("sealed", octets(sealed)), ("tag", hex(tag))]);
            lines
        }
        _ => vec![("kind", "unknown".into())],
    })
}

fn of_letter(frame: &[u8]) -> Result<Lines, sealway::DecodeError> {
    let letter = Letter::decode(frame)?;
    let (ephemeral, sealed) = letter.noise.split_at_checked(32).unwrap_or_default();
    Ok(vec![
        ("kind", "M1, a letter to a peer that is away".into()),
        ("to prekey", letter.prekey.to_string()),
        ("ML-KEM ciphertext", letter.ciphertext.map_or("none".into(), |ciphertext| octets(ciphertext))),
        ("ephemeral", hex(ephemeral)),
        ("sealed", octets(sealed)),
    ])
}

const fn lane(lane: Lane) -> &'static str {
    match lane {
        Lane::Live => "live",
        Lane::Stored => "stored: a relay may keep it",
    }
}

fn of_record(header: &RecordHeader, sealed: &[u8]) -> Lines {
    let mut lines = vec![
        ("kind", "record".into()),
        ("lane", lane(header.lane).into()),
        ("content", if header.typed { "typed" } else { "a datagram" }.into()),
        ("to CID", header.cid.map_or("named by the link".into(), |cid| cid.to_string())),
        ("counter", format!("{} octets of it", header.counter.width().octets())),
    ];
    lines.extend(header.incarnation.map(|incarnation| ("incarnation", incarnation.to_string())));
    let (sealed, tag) = sealed.split_at(sealed.len().saturating_sub(TAG_LEN));
    lines.extend([("sealed", octets(sealed)), ("tag", hex(tag))]);
    lines
}

fn of_hop(frame: &[u8]) -> Result<Lines, sealway::DecodeError> {
    let number = |number: sealway::wire::VarInt| number.get().to_string();
    Ok(match HopFrame::decode(frame)? {
        HopFrame::Forward { label, frame } => {
            vec![("kind", "FORWARD".into()), ("label", label.get().to_string()), ("frame", octets(frame))]
        }
        HopFrame::Routed { back, route, frame } => vec![
            ("kind", "ROUTED".into()),
            ("return label", back.get().to_string()),
            ("hops", route.hops().count().to_string()),
            ("frame", octets(frame)),
        ],
        HopFrame::Assign { back, label } => vec![
            ("kind", "ASSIGN".into()),
            ("return label", back.get().to_string()),
            ("label", label.get().to_string()),
        ],
        HopFrame::Unknown { label } => vec![("kind", "UNKNOWN".into()), ("label", label.get().to_string())],
        HopFrame::Absent { back } => vec![("kind", "ABSENT".into()), ("return label", back.get().to_string())],
        HopFrame::Register { name, senders } => {
            let senders = match senders {
                Senders::Attached => "every attached client".into(),
                Senders::Only(list) => format!("{} identities", list.ids().count()),
            };
            vec![("kind", "REGISTER".into()), ("box", name.to_string()), ("senders", senders)]
        }
        HopFrame::Registered { name, outcome } => {
            vec![("kind", "REGISTERED".into()), ("box", name.to_string()), ("outcome", format!("{outcome:?}"))]
        }
        HopFrame::Deposit { number: of, seconds, route, frame } => vec![
            ("kind", "DEPOSIT".into()),
            ("number", number(of)),
            ("seconds", number(seconds)),
            ("hops", route.hops().count().to_string()),
            ("frame", octets(frame)),
        ],
        HopFrame::Custody { number: of, outcome } => {
            let outcome = match outcome {
                Custody::Kept { seconds } => format!("kept for {} s", number(seconds)),
                other => format!("{other:?}"),
            };
            vec![("kind", "CUSTODY".into()), ("number", number(of)), ("outcome", outcome)]
        }
        HopFrame::Push { number: of, frame } => {
            vec![("kind", "PUSH".into()), ("number", number(of)), ("frame", octets(frame))]
        }
        HopFrame::Verdict { number: of, verdict } => {
            vec![("kind", "VERDICT".into()), ("number", number(of)), ("verdict", format!("{verdict:?}"))]
        }
        HopFrame::Publish { name, statement } => {
            vec![("kind", "PUBLISH".into()), ("box", name.to_string()), ("statement", octets(statement))]
        }
        HopFrame::Fetch { number: of, name } => {
            vec![("kind", "FETCH".into()), ("number", number(of)), ("box", name.to_string())]
        }
        HopFrame::Fetched { number: of, statement } => {
            vec![("kind", "FETCHED".into()), ("number", number(of)), ("statement", octets(statement))]
        }
        HopFrame::Seen { address } => vec![("kind", "SEEN".into()), ("address", address.to_string())],
    })
}
