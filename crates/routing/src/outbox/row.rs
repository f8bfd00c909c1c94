//! A message of the outbox in the store.

use alloc::vec::Vec;

use sealway_wire::{Instance, MessageId, Reader, Timestamp, content::Part};

use super::{Entry, SendOptions};

/// `instance 4 | number 4 | index 1 | count 1, 0 if whole | expires 8, 0 if never | kept by a relay until 8, 0 if not |
/// key length 1 | key | body`.
pub(super) fn encode(entry: &Entry, kept_until: Option<Timestamp>) -> Vec<u8> {
    let Entry { id, part, options, body, .. } = entry;
    let key = options.supersedes.as_deref().unwrap_or_default();
    let [expires, kept_until] =
        [options.expires, kept_until].map(|at| at.map_or(0, Timestamp::as_micros).to_be_bytes());
    let octet = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    let part = part.map_or([0, 0], |part| [octet(part.index), octet(part.count)]);
    let length = u8::try_from(key.len()).unwrap_or(u8::MAX);
    let number = id.number.to_be_bytes();
    [&id.instance.0, number.as_slice(), &part, &expires, &kept_until, &[length], key, body].concat()
}

pub(super) fn decode(value: &[u8]) -> Option<(Entry, Option<Timestamp>)> {
    let mut reader = Reader::new(value);
    let instance = Instance(reader.array("outbox instance").ok()?);
    let number = reader.u32("outbox number").ok()?;
    let (index, count) = (reader.u8("outbox part").ok()?.into(), reader.u8("outbox part").ok()?.into());
    let part = (count > 0).then_some(Part { index, count });
    let mut time = || {
        let micros = u64::from_be_bytes(reader.array("outbox time").ok()?);
        Some((micros != 0).then(|| Timestamp::from_micros(micros)))
    };
    let (expires, kept_until) = (time()?, time()?);
    let length = reader.u8("outbox key length").ok()?;
    let key = reader.take("outbox key", length.into()).ok()?;
    let options = SendOptions { expires, supersedes: (!key.is_empty()).then(|| key.to_vec()), live_only: false };
    let id = MessageId { instance, number };
    let body = reader.rest().to_vec();
    Some((Entry { id, part, body, options, stored: true, ready: true, offered: true, sent: None }, kept_until))
}
