//! What strangers may cost a responder before it knows them. Protocol section 3.
//!
//! Who holds the card can begin handshakes without end, and each costs a Diffie-Hellman and an encapsulation. Three things
//! bound that: an address that can be forged has to answer (cookies), a message that was seen is worked on once, and each
//! source has a budget.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use core::time::Duration;

use sealway_vault::{CryptoProvider, EntropyError, Secret};
use sealway_wire::{
    Timestamp,
    danger::{self, Protection},
    handshake::{COOKIE_LEN, Message1},
};
use subtle::ConstantTimeEq;

use crate::endpoint::Source;

/// From so many half-open handshakes on, in all or of the source, a source that can be forged needs a cookie.
pub(crate) const COOKIES_FROM: usize = 64;
pub(crate) const COOKIES_FROM_OF_SOURCE: usize = 2;
/// How long cookies are made under one secret; they are taken as long again.
const COOKIE_TIME: Duration = Duration::from_secs(120);
/// Ephemeral keys that are remembered.
const RECENT: usize = 2048;
/// First messages that a source may have worked on at once, and how soon one more.
const BURST: u32 = 64;
const EACH: Duration = Duration::from_micros(31_250);
/// Letters that a relay may have opened at once, and how soon one more.
const LETTERS: u32 = 512;
const EACH_LETTER: Duration = Duration::from_micros(2000);
/// A hop session may have so many times as much worked on as one of its flows.
const FLOWS: u32 = 4;
/// Sources whose budgets are remembered.
const SOURCES: usize = 1024;

/// All three.
pub(crate) struct Expense {
    pub(crate) cookies: Cookies,
    pub(crate) recent: Recent,
    pub(crate) budget: Budget,
}

impl Expense {
    pub(crate) const fn new() -> Self {
        Self {
            cookies: Cookies { secrets: None, since: Timestamp::from_micros(0) },
            recent: Recent { seen: BTreeSet::new(), order: VecDeque::new() },
            budget: Budget { spent: BTreeMap::new(), unproven: Timestamp::from_micros(0) },
        }
    }
}

/// Proofs that a source is where it says, without memory for any.
pub(crate) struct Cookies {
    /// The one in use and the one before.
    secrets: Option<[Secret<32>; 2]>,
    since: Timestamp,
}

impl Cookies {
    /// The cookie for `source` and e: HMAC(secret, source || e), cut to 16 octets.
    pub(crate) fn of<P: CryptoProvider>(
        &mut self,
        provider: &P,
        now: Timestamp,
        source: Source,
        ephemeral: &[u8; 32],
    ) -> Result<[u8; COOKIE_LEN], EntropyError> {
        let age = now.since(self.since);
        let secrets = match self.secrets.take() {
            Some(secrets) if age < COOKIE_TIME => secrets,
            before => {
                self.since = now;
                let newest = provider.random_secret()?;
                let previous = match before {
                    Some([previous, _]) if age < COOKIE_TIME * 2 => previous,
                    _ => provider.random_secret()?,
                };
                [newest, previous]
            }
        };
        let cookie = cookie(provider, &secrets[0], source, ephemeral);
        self.secrets = Some(secrets);
        Ok(cookie)
    }

    /// Whether we have given `shown` to this source for this message, at most four minutes ago.
    pub(crate) fn is_ours<P: CryptoProvider>(
        &self,
        provider: &P,
        now: Timestamp,
        shown: &[u8; COOKIE_LEN],
        source: Source,
        message: &Message1<'_>,
    ) -> bool {
        let fits = |secret| cookie(provider, secret, source, message.ephemeral()).ct_eq(shown).into();
        let age = now.since(self.since);
        let serves = [age < COOKIE_TIME * 2, age < COOKIE_TIME];
        self.secrets.iter().flatten().zip(serves).any(|(secret, serves)| serves && fits(secret))
    }
}

fn cookie<P: CryptoProvider>(
    provider: &P,
    secret: &Secret<32>,
    source: Source,
    ephemeral: &[u8; 32],
) -> [u8; COOKIE_LEN] {
    let mac = provider.hmac(secret.expose(), &[&source.number.to_be_bytes(), ephemeral]);
    let mut cookie = [0; COOKIE_LEN];
    cookie.copy_from_slice(&mac[..COOKIE_LEN]);
    cookie
}

/// The ephemeral keys of the first messages that were answered last.
pub(crate) struct Recent {
    seen: BTreeSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

impl Recent {
    pub(crate) fn contains(&self, ephemeral: &[u8; 32]) -> bool {
        self.seen.contains(ephemeral) && !danger::is_off(Protection::Recent)
    }

    pub(crate) fn insert(&mut self, ephemeral: [u8; 32]) {
        if self.seen.insert(ephemeral) {
            self.order.push_back(ephemeral);
        }
        if self.order.len() > RECENT {
            self.order.pop_front().map(|oldest| self.seen.remove(&oldest));
        }
    }

    /// The handshake of this key had to make room: its repetition is worked on anew, or whoever drives others out of the
    /// table could have one refused for good.
    pub(crate) fn forget(&mut self, ephemeral: &[u8; 32]) {
        if self.seen.remove(ephemeral) {
            self.order.retain(|kept| kept != ephemeral);
        }
    }
}

/// How much each source may have us compute.
pub(crate) struct Budget {
    /// Until when what a payer has spent is paid off.
    spent: BTreeMap<Payer, Timestamp>,
    /// The same, of all who have shown nothing.
    unproven: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Payer {
    Source(Source),
    /// A hop session, for all of its flows: whoever is at its other end may open as many as he likes.
    Group(u64),
    Letters(Source),
}

/// Whether one more fits into what is spent `until`; it counts then.
fn spend(now: Timestamp, until: &mut Timestamp, each: Duration, burst: u32) -> bool {
    let after = (*until).max(now).after(each);
    let fits = after.since(now) <= each * burst || danger::is_off(Protection::Budget);
    if fits {
        *until = after;
    }
    fits
}

impl Budget {
    /// Whether a message that may come from anywhere may be worked on without a cookie: all of them share one budget, or
    /// forged addresses would have as many as they like. It counts then.
    pub(crate) fn takes_unproven(&mut self, now: Timestamp) -> bool {
        spend(now, &mut self.unproven, EACH / 2, BURST)
    }

    /// Whether `source` may have one more message worked on; it counts then.
    pub(crate) fn takes(&mut self, now: Timestamp, source: Source) -> bool {
        let group = source.group.is_none_or(|group| self.pays(now, Payer::Group(group), (EACH / FLOWS, BURST)));
        group && self.pays(now, Payer::Source(source), (EACH, BURST))
    }

    /// The same for a letter, of which a relay that we have chosen hands over many at once.
    pub(crate) fn takes_letter(&mut self, now: Timestamp, source: Source) -> bool {
        self.pays(now, Payer::Letters(source), (EACH_LETTER, LETTERS))
    }

    fn pays(&mut self, now: Timestamp, payer: Payer, (each, burst): (Duration, u32)) -> bool {
        if self.spent.len() >= SOURCES && !self.spent.contains_key(&payer) {
            self.spent.retain(|_, until| *until > now);
            // All of them are busy: the one that has spent least makes room.
            if self.spent.len() >= SOURCES {
                let least = self.spent.iter().min_by_key(|(_, until)| **until).map(|(payer, _)| *payer);
                least.map(|payer| self.spent.remove(&payer));
            }
        }
        spend(now, self.spent.entry(payer).or_insert(now), each, burst)
    }
}

#[cfg(test)]
mod tests {
    use sealway_testkit::entropy::seeded_provider;

    use super::*;

    #[test]
    fn cookies_belong_to_a_source_and_a_message_and_end() {
        let provider = seeded_provider(1);
        let mut cookies = Expense::new().cookies;
        let at = |seconds: u64| Timestamp::from_micros(seconds * 1_000_000);
        let noise = |first: u8| [first; sealway_wire::handshake::NOISE_1_LEN];
        let (one, two) = (noise(1), noise(2));
        let message = |noise| Message1 { gate: &[0; 8], cookie: None, noise };
        let source = Source::claimed(7);
        let cookie = cookies.of(&provider, at(1000), source, message(&one).ephemeral()).unwrap();
        assert!(cookies.is_ours(&provider, at(1000), &cookie, source, &message(&one)));
        assert!(!cookies.is_ours(&provider, at(1000), &cookie, source, &message(&two)));
        assert!(!cookies.is_ours(&provider, at(1000), &cookie, Source::claimed(8), &message(&one)));
        // Of the secret before it is still taken, of the one before that not.
        cookies.of(&provider, at(1130), source, message(&two).ephemeral()).unwrap();
        assert!(cookies.is_ours(&provider, at(1130), &cookie, source, &message(&one)));
        cookies.of(&provider, at(1260), source, message(&two).ephemeral()).unwrap();
        assert!(!cookies.is_ours(&provider, at(1260), &cookie, source, &message(&one)));
        // Nor after a long pause.
        let cookie = cookies.of(&provider, at(1300), source, message(&one).ephemeral()).unwrap();
        cookies.of(&provider, at(1600), source, message(&two).ephemeral()).unwrap();
        assert!(!cookies.is_ours(&provider, at(1600), &cookie, source, &message(&one)));
    }

    #[test]
    fn a_budget_is_spent_and_grows_again() {
        let mut budget = Expense::new().budget;
        let now = Timestamp::from_micros(5_000_000);
        let taken =
            |budget: &mut Budget, now, number| (0..1000).filter(|_| budget.takes(now, Source::proven(number))).count();
        assert_eq!(taken(&mut budget, now, 1), 64);
        assert_eq!(taken(&mut budget, now, 2), 64, "another source has its own");
        assert_eq!(taken(&mut budget, now.after(Duration::from_millis(500)), 1), 16);
        // A hop session has its own, over all of its flows.
        let flows = (0..1000).filter(|number| budget.takes(now, Source::proven(9000 + number).within(5))).count();
        assert_eq!(flows, 64);
        // However many sources there are, memory is bounded, and each gets something.
        for number in 10..5000 {
            assert!(budget.takes(now, Source::proven(number)));
        }
        assert!(budget.spent.len() <= SOURCES);
    }
}
